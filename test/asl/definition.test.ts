import { describe, expect, it } from "vitest";
import { InvalidDefinition, readDefinition } from "../../local/asl/definition.js";
import { Unmodelled } from "../../local/kernel/contract.js";
import { lambdaTask, machine, tokenTask } from "./harness.js";

/** What is wrong with a definition: its message, or "" when nothing is. */
function faults(definition: object | string): string {
  try {
    readDefinition(typeof definition === "string" ? definition : JSON.stringify(definition));
    return "";
  } catch (error) {
    expect([InvalidDefinition, Unmodelled].some((kind) => error instanceof kind)).toBe(true);
    return `${(error as Error).name}: ${(error as Error).message}`;
  }
}
const end = { Type: "Succeed" };
const pass = (more: object = {}) => ({ Type: "Pass", End: true, ...more });

describe("reading a state machine", () => {
  it("takes one that uses every state and field modelled", () => {
    const inner = (name: string) => ({ StartAt: name, States: { [name]: pass() } });
    const everything = machine(
      {
        A: tokenTask({
          HeartbeatSeconds: 30,
          Retry: [{ ErrorEquals: ["NotYet"], IntervalSeconds: 2, MaxDelaySeconds: 9, BackoffRate: 1.5, MaxAttempts: 0, JitterStrategy: "FULL" }],
          Catch: [{ ErrorEquals: ["States.ALL"], Assign: { failure: "{% $states.errorOutput %}" }, Output: {}, Next: "F" }],
          Assign: { x: "{% $states.result %}" },
          Output: "{% $states.input %}",
          Next: "C",
        }),
        C: { Type: "Choice", Choices: [{ Condition: "{% $x = 1 %}", Assign: { y: 1 }, Output: {}, Next: "P" }], Default: "M" },
        P: { Type: "Parallel", Arguments: {}, Branches: [inner("P1"), inner("P2")], Next: "W" },
        M: {
          Type: "Map",
          Items: "{% [1] %}",
          ItemSelector: { i: "{% $states.context.Map.Item.Value %}" },
          MaxConcurrency: "{% 2 %}",
          ItemProcessor: { ProcessorConfig: { Mode: "INLINE" }, ...inner("M1") },
          Next: "W",
        },
        W: { Type: "Wait", Seconds: "{% 5 %}", Next: "T" },
        T: { Type: "Wait", Timestamp: "2026-01-01T00:00:00Z", Next: "S" },
        S: end,
        F: { Type: "Fail", Error: "E", Cause: "{% $failure.Cause %}" },
      },
      { TimeoutSeconds: 60, Comment: "all", Version: "1.0" },
    );
    expect(faults(everything)).toBe("");
  });

  it.each([
    ["JSONPath", { StartAt: "A", States: { A: end } }, 'QueryLanguage: must be "JSONata", found "nothing, which means JSONPath"'],
    ["a state in another language", machine({ A: pass({ QueryLanguage: "JSONPath" }) }), "a JSONata machine has only JSONata states"],
    ["a missing start", machine({ A: end }, { StartAt: "B" }), 'StartAt: must name a state of this scope, found "B"'],
    ["a target that is no state", machine({ A: { Type: "Pass", Next: "B" } }), 'States/A: goes to "B", which is no state of this scope'],
    [
      "a catcher's target that is no state",
      machine({ A: lambdaTask({ Catch: [{ ErrorEquals: ["States.ALL"], Next: "B" }] }) }),
      'States/A: goes to "B"',
    ],
    ["a state nobody reaches", machine({ A: end, B: end }), "States/B: is never reached"],
    ["a loop without an end", machine({ A: { Type: "Pass", Next: "A" } }), "has no state that ends"],
    ["both Next and End", machine({ A: { Type: "Pass", Next: "A", End: true } }), "States/A: needs either Next or End"],
    ["neither Next nor End", machine({ A: { Type: "Pass" } }), "States/A: needs either Next or End"],
    [
      "an unknown type",
      machine({ A: { Type: "Loop" } }),
      'States/A/Type: must be one of Task, Choice, Pass, Wait, Succeed, Fail, Parallel, Map, found "Loop"',
    ],
    ["a misspelt field", machine({ A: pass({ Ouput: {} }) }), "States/A/Ouput: is not a field that may stand here"],
    ["a field of JSONPath", machine({ A: pass({ ResultPath: "$.a" }) }), "States/A/ResultPath: belongs to JSONPath"],
    ["a field of another type", machine({ A: pass({ Seconds: 1 }) }), "States/A/Seconds: is not a field that may stand here"],
    ["a long name", machine({ [`A${"a".repeat(80)}`]: end }), "a state's name has 1 to 80 characters, this one has 81"],
    [
      "a name used in two scopes",
      machine({ A: { Type: "Parallel", Branches: [{ StartAt: "A", States: { A: pass() } }], End: true } }),
      "States/A/Branches[0]/States/A: the name is taken by States/A: names are unique in the whole machine",
    ],
    [
      "a variable of the outer scope assigned within",
      machine({ A: { Type: "Parallel", Assign: { x: 1 }, Branches: [{ StartAt: "B", States: { B: pass({ Assign: { x: 2 } }) } }], End: true } }),
      "assigns $x, which belongs to the scope around it: use another name",
    ],
    ["a variable called states", machine({ A: pass({ Assign: { states: 1 } }) }), '"states" cannot be a variable\'s name'],
    ["a half expression", machine({ A: pass({ Output: "{% 1" }) }), "must begin with {% and end with %}"],
    ["an expression that does not parse", machine({ A: pass({ Output: "{% $a ?? 1 %}" }) }), "is not JSONata 2.0.6: S0211"],
    [
      "a result where there is none",
      machine({ A: pass({ Output: "{% $states.result %}" }) }),
      "reads $states.result, which is not there in this field",
    ],
    [
      "an error output outside Catch",
      machine({ A: lambdaTask({ Output: "{% $states.errorOutput %}" }) }),
      "reads $states.errorOutput, which is not there in this field",
    ],
    [
      "States.ALL beside another",
      machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["States.ALL", "X"] }] }) }),
      "States.ALL stands alone, in the last entry",
    ],
    [
      "States.ALL before the last",
      machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["States.ALL"] }, { ErrorEquals: ["X"] }] }) }),
      "States.ALL stands alone",
    ],
    [
      "a reserved name that does not exist",
      machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["States.Oops"] }] }) }),
      "States.Oops is no error of the States Language",
    ],
    ["a retrier without names", machine({ A: lambdaTask({ Retry: [{ ErrorEquals: [] }] }) }), "must be an array of at least one error name"],
    [
      "a shrinking backoff",
      machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["X"], BackoffRate: 0.5 }] }) }),
      "BackoffRate: must be a number of at least 1, found 0.5",
    ],
    [
      "an interval of zero",
      machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["X"], IntervalSeconds: 0 }] }) }),
      "IntervalSeconds: must be a whole number of at least 1",
    ],
    [
      "a cap under the interval",
      machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["X"], IntervalSeconds: 5, MaxDelaySeconds: 5 }] }) }),
      "MaxDelaySeconds: must be greater than IntervalSeconds, 5",
    ],
    [
      "a heartbeat as long as the timeout",
      machine({ A: tokenTask({ TimeoutSeconds: 60, HeartbeatSeconds: 60 }) }),
      "must be less than TimeoutSeconds, found 60 and 60",
    ],
    ["a timeout of zero", machine({ A: lambdaTask({ TimeoutSeconds: 0 }) }), "must be a whole number of 1 to 99999999, or an expression, found 0"],
    ["a token nobody gets", machine({ A: tokenTask({ Arguments: { FunctionName: "f" } }) }), "hands on no $states.context.Task.Token"],
    ["a task without a function", machine({ A: lambdaTask({ Arguments: {} }) }), "States/A/Arguments: needs FunctionName"],
    [
      "a Wait with two times",
      machine({ A: { Type: "Wait", Seconds: 1, Timestamp: "2026-01-01T00:00:00Z", End: true } }),
      "a Wait has either Seconds or Timestamp",
    ],
    ["a Wait for no time", machine({ A: { Type: "Wait", Timestamp: "tomorrow", End: true } }), "must be an ISO 8601 time"],
    ["a rule without a condition", machine({ A: { Type: "Choice", Choices: [{ Next: "B" }] }, B: end }), "must be an expression or a boolean"],
    ["a Parallel without branches", machine({ A: { Type: "Parallel", Branches: [], End: true } }), "must hold at least one branch"],
    ["text that is not JSON", "{", "The definition is not JSON"],
  ])("refuses %s", (_, definition, fault) => {
    expect(faults(definition)).toContain(`InvalidDefinition: `);
    expect(faults(definition)).toContain(fault);
  });

  const processor = { StartAt: "B", States: { B: pass() } };
  it.each([
    [
      "another service",
      machine({ A: lambdaTask({ Resource: "arn:aws:states:::aws-sdk:ec2:runInstances" }) }),
      "arn:aws:states:::aws-sdk:ec2:runInstances is not modelled",
    ],
    ["a function named directly", machine({ A: lambdaTask({ Resource: "arn:aws:lambda:us-east-1:111122223333:function:f" }) }), "is not modelled"],
    ["an activity", machine({ A: lambdaTask({ Resource: "arn:aws:states:us-east-1:111122223333:activity:a" }) }), "is not modelled"],
    [
      "a Distributed Map",
      machine({ A: { Type: "Map", ItemProcessor: { ProcessorConfig: { Mode: "DISTRIBUTED" }, ...processor }, End: true } }),
      "a Distributed Map is not modelled: use INLINE",
    ],
    ["an item reader", machine({ A: { Type: "Map", ItemReader: {}, ItemProcessor: processor, End: true } }), "States/A/ItemReader: is not modelled"],
    ["tolerated failures", machine({ A: { Type: "Map", ToleratedFailureCount: 1, ItemProcessor: processor, End: true } }), "is not modelled"],
    ["credentials", machine({ A: lambdaTask({ Credentials: {} }) }), "States/A/Credentials: is not modelled"],
    [
      "an asynchronous invocation",
      machine({ A: lambdaTask({ Arguments: { FunctionName: "f", InvocationType: "Event" } }) }),
      "States/A/Arguments/InvocationType: is not modelled",
    ],
    [
      "heartbeats of a task without a token",
      machine({ A: lambdaTask({ HeartbeatSeconds: 5 }) }),
      "only a task that waits for its token can send heartbeats",
    ],
  ])("says that %s is not modelled", (_, definition, fault) => {
    expect(faults(definition)).toContain("Unmodelled: ");
    expect(faults(definition)).toContain(fault);
  });

  it("reports every fault at once", () => {
    const found = faults(machine({ A: { Type: "Pass", Ouput: 1 }, B: end }, { StartAt: "C" }));
    expect(found.split("\n").length).toBeGreaterThan(3);
  });
  it("reads the same text once", () => {
    const text = JSON.stringify(machine({ A: end }));
    expect(readDefinition(text)).toBe(readDefinition(text));
  });
});
