import { readdirSync, readFileSync } from "node:fs";
import validate from "asl-validator";
import { describe, expect, it } from "vitest";
import { decideGather } from "../../core/groups.js";
import model from "../../core/latency-model.json" with { type: "json" };
import { type NodeCommandName, nodeCommands } from "../../core/node-commands.js";
import { readDefinition } from "../../local/asl/definition.js";
import { historyLimit } from "../../local/asl/run.js";
import {
  boundlessRetries,
  budgetFaults,
  childrenIn,
  definitionFaults,
  failStates,
  familyFaults,
  historyBound,
  lambdaServiceErrors,
  lostInputs,
  missingServiceRetries,
  missingTimeouts,
  retrySeconds,
  stepFunctionsServiceErrors,
  stepFunctionsThrottles,
  strangePlaceholders,
  unassignedVariables,
  uncaughtTasks,
  unsafeStarts,
} from "../../local/asl/static.js";
import { answers, completes, fails, lambdaTask, machine, runAsl, substitute, tokenTask } from "../asl/harness.js";
import { agent } from "../core/facts.js";

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
const files = readdirSync(new URL("../../statemachines", import.meta.url)).filter((file) => file.endsWith(".asl.json"));
const definitionOf = (file: string) => read(`statemachines/${file}`);
const load = (definition: object) => readDefinition(JSON.stringify(definition));
const pass = (more: object = { End: true }) => ({ Type: "Pass", ...more });

/** `start-agent-group.asl.json` is what `${StartAgentGroupStateMachine}` stands for. */
const placeholderOf = (file: string) =>
  `${file.replace(".asl.json", "").replace(/(?:^|-)([a-z])/g, (_, letter: string) => letter.toUpperCase())}StateMachine`;
const family = Object.fromEntries(files.map((file) => [placeholderOf(file), definitionOf(file)]));
const children = childrenIn(family);

describe.each(files)("%s", (file) => {
  const definition = definitionOf(file);

  it("is refused by nothing that must hold before it runs", () => {
    expect(definitionFaults(definition, { isChild: children.has(placeholderOf(file)) })).toEqual([]);
  });
  it("asks for a node command for longer than the node may take", () => {
    const tooShort = waitingCommands(JSON.parse(definition)).filter(({ command, seconds }) => !(seconds > nodeCommands[command].deadlineSeconds));
    expect(tooShort).toEqual([]);
  });
  it("is valid for asl-validator, which knows JSONata machines", () => {
    const { isValid, errors } = validate(JSON.parse(substitute(definition)));
    expect({ isValid, errors }).toEqual({ isValid: true, errors: [] });
  });
  it("has a heading in the runbook for each way it can fail", () => {
    const headings = new Set([...read("docs/runbook.md").matchAll(/^#+ +(.+?) *$/gm)].map(([, heading]) => heading));
    expect(failStates(readDefinition(definition)).filter((name) => !headings.has(name))).toEqual([]);
  });
});

describe("the state machines together", () => {
  it("are refused by nothing that must hold between one and those it starts", () => {
    expect(familyFaults(family)).toEqual([]);
  });
  it("are operations, but for those that start a group of agents or take a snapshot", () => {
    expect([...children].sort()).toEqual(["StartAgentGroupStateMachine", "TakeSnapshotStateMachine"]);
  });
});

interface Waiting {
  readonly state: string;
  readonly command: NodeCommandName;
  /** From the first attempt to the end of the last. */
  readonly seconds: number;
}
/** Every state that waits for a node command, however deep. */
function waitingCommands(node: unknown, name = ""): Waiting[] {
  if (typeof node !== "object" || node === null) return [];
  const task = node as { Resource?: string; Arguments?: { Payload: { command: NodeCommandName } }; HeartbeatSeconds?: number; Retry?: AslRetry[] };
  if (task.Resource?.endsWith(".waitForTaskToken")) {
    const retries = task.Retry?.find(({ ErrorEquals }) => ErrorEquals.includes("States.Timeout"))?.MaxAttempts ?? 0;
    return [
      { state: name, command: task.Arguments?.Payload.command as NodeCommandName, seconds: (1 + retries) * (task.HeartbeatSeconds ?? Number.NaN) },
    ];
  }
  return Object.entries(node).flatMap(([key, value]) => waitingCommands(value, key));
}
interface AslRetry {
  readonly ErrorEquals: readonly string[];
  readonly MaxAttempts: number;
}

/** Groups of 1,000 agents of one pool, three tenths of them late: the first three are small. */
function groupsOfAThousand(): number {
  const wanted = Array.from({ length: 1000 }, (_, slot) => agent(`i-${slot}`, slot, { pool: "workers" }));
  const online = new Set(wanted.slice(0, 700).map(({ instanceId }) => instanceId));
  const answer = decideGather({ wanted, online, sinceLaunchSeconds: 60 });
  return answer.kind === "go" ? answer.groups.length : Number.NaN;
}
/** Seven servers leave six to join. The groups of other pools would come on top, hence two more. */
const mapItems = {
  "Join servers": 6,
  "Rejoin servers": 6,
  "Start agent groups": groupsOfAThousand() + 2,
  // As many as find-stale-nodes ever makes: every node of such a cluster, and a hundred more.
  "Remove stale nodes": 22,
};
const p95 = (...steps: (keyof typeof model.steps)[]) => steps.reduce((sum, step) => sum + model.steps[step].p95, 0);
/** How long each step asks when nothing fails and everything takes its 95th percentile. */
const waitSeconds = {
  "Launch nodes": p95("runInstancesCall") + (1003 - model.rates.runInstancesBurst.value) / model.rates.runInstancesRefillPerSecond.value,
  "Await first server": p95("pendingToRunning", "runningToSsmOnline"),
  "Await other servers": p95("pendingToRunning", "runningToSsmOnline"),
  "Gather agents": p95("pendingToRunning", "runningToSsmOnline"),
  "Admit agents": p95("firstServerStart", "commandEndToEvent"),
  "Register first server": p95("targetHealthThreshold"),
  "Verify cluster": p95("lastServerPodsReady", "agentStartToReady"),
  "Await endpoint": p95("loadBalancerCreate", "targetRegisterToChecks", "targetHealthThreshold") - 228,
};
/** Those of one machine; delete-cluster has a state or two of the same name, but waits for nothing of this. */
const waitsIn = (file: string) =>
  Object.fromEntries(Object.entries(waitSeconds).filter(([state]) => !file.startsWith("delete") && definitionOf(file).includes(`"${state}": {`)));

describe("the history of creating and deleting a cluster of 1,000 agents", () => {
  const bounds = Object.fromEntries(files.map((file) => [file, historyBound(definitionOf(file), { mapItems, waitSeconds: waitsIn(file) })]));

  it("is reckoned with the groups that are really made of them", () => {
    expect(groupsOfAThousand()).toBe(23);
  });
  it("reckons each wait with a state that there is", () => {
    const waiting = files.flatMap((file) => Object.keys(waitsIn(file)));
    expect(Object.keys(waitSeconds).filter((state) => !waiting.includes(state))).toEqual([]);
  });
  it.each(files)("of %s takes less than a tenth of 25,000 events when nothing fails (law 8)", (file) => {
    expect(bounds[file]?.normal).toBeLessThan(historyLimit / 10);
  });
  it.each(files)("of %s cannot reach 25,000 events, whatever fails and however often it is asked", (file) => {
    expect(bounds[file]?.worst).toBeLessThan(historyLimit);
  });
  it("grows by no more than a start and an end with each group of agents", () => {
    const at = (groups: number) =>
      historyBound(definitionOf("create-cluster.asl.json"), { mapItems: { ...mapItems, "Start agent groups": groups } }).normal;
    expect(at(24) - at(23)).toBe(8);
  });
});

describe("the rules for state machines", () => {
  const serviceRetries = [
    { ErrorEquals: [...lambdaServiceErrors], IntervalSeconds: 2, MaxAttempts: 6 },
    { ErrorEquals: ["Lambda.TooManyRequestsException"], JitterStrategy: "FULL" },
  ];
  const caught = { Catch: [{ ErrorEquals: ["States.ALL"], Next: "F" }], Next: "F" };
  const started = {
    StateMachineArn: "${RollPoolStateMachine}",
    Name: "{% $hash($states.input.group & ' ' & $string($states.context.Execution.RedriveCount), 'SHA-256') %}",
    Input: { x: 1 },
  };
  const starting = (more: object = {}) => ({
    Type: "Task",
    Comment: "c",
    Resource: "arn:aws:states:::states:startExecution.sync:2",
    Arguments: started,
    TimeoutSeconds: 60,
    Retry: [{ ErrorEquals: [...stepFunctionsServiceErrors] }, { ErrorEquals: [...stepFunctionsThrottles], JitterStrategy: "FULL" }],
    ...caught,
    ...more,
  });
  const good = (more: object = {}) => lambdaTask({ Comment: "c", Retry: serviceRetries, ...caught, ...more });
  const around = (task: unknown, more: object = { TimeoutSeconds: 60 }) => machine({ A: task, F: { Type: "Fail", Comment: "c", Error: "E" } }, more);

  it("find nothing in a machine that keeps them", () => {
    expect(definitionFaults(JSON.stringify(around(good())))).toEqual([]);
  });
  it("want a TimeoutSeconds on every task and on the machine", () => {
    expect(missingTimeouts(load(around(good({ TimeoutSeconds: undefined }), {})))).toEqual([
      "the machine has no TimeoutSeconds",
      "A: has no TimeoutSeconds",
    ]);
  });
  it("want the retries AWS recommends on every lambda:invoke", () => {
    const noThrottle = load(around(good({ Retry: serviceRetries.slice(0, 1) })));
    expect(missingServiceRetries(noThrottle)).toEqual(["A: does not retry Lambda.TooManyRequestsException"]);
    const together = load(around(good({ Retry: [{ ErrorEquals: [...lambdaServiceErrors, "Lambda.TooManyRequestsException"] }] })));
    expect(missingServiceRetries(together)).toEqual(["A: retries Lambda.TooManyRequestsException without JitterStrategy FULL"]);
    expect(missingServiceRetries(load(around(good({ Retry: [] }))))).toHaveLength(5);
    const never = serviceRetries.map((retry) => ({ ...retry, MaxAttempts: 0 }));
    expect(missingServiceRetries(load(around(good({ Retry: never }))))).toHaveLength(5);
  });
  it("want no retry of everything", () => {
    expect(boundlessRetries(load(around(good({ Retry: [{ ErrorEquals: ["States.ALL"] }] }))))).toEqual([
      "A: retries States.ALL; name what may change by itself",
    ]);
    expect(boundlessRetries(load(around(good({ Retry: [{ ErrorEquals: ["X", "States.TaskFailed"] }] }))))).toHaveLength(1);
  });
  it("want every task's failure caught, by itself or around it", () => {
    const only = [{ ErrorEquals: ["NotYet"], Next: "F" }];
    expect(uncaughtTasks(load(around(good({ Catch: only }))))).toEqual(["A: no Catch of States.ALL, neither its own nor around it"]);
    const parallel = (more: object) => ({ Type: "Parallel", Branches: [{ StartAt: "B", States: { B: lambdaTask() } }], Next: "F", ...more });
    expect(uncaughtTasks(load(around(parallel({}))))).toHaveLength(1);
    expect(uncaughtTasks(load(around(parallel(caught))))).toEqual([]);
  });
  it("want a catcher's target not to read the input that the error replaced", () => {
    const target = { Type: "Pass", Output: "{% $states.input.x %}", End: true };
    const task = (more: object) => machine({ A: lambdaTask({ Catch: [{ ErrorEquals: ["States.ALL"], Next: "B", ...more }], Next: "B" }), B: target });
    expect(lostInputs(load(task({})))).toEqual(["A: its catcher has no Output, but B reads '$states.input.x'"]);
    expect(lostInputs(load(task({ Output: "{% $states.input %}" })))).toEqual([]);
  });
  it("want a failure to be caught by whoever started the machine, where another one did", () => {
    const uncaught = JSON.stringify(machine({ A: lambdaTask({ Comment: "c", Retry: serviceRetries }) }, { TimeoutSeconds: 60 }));
    expect(definitionFaults(uncaught)).toEqual(["A: no Catch of States.ALL, neither its own nor around it"]);
    expect(definitionFaults(uncaught, { isChild: true })).toEqual([]);
    expect(definitionFaults(JSON.stringify(around(starting({ Catch: [] }))))).toEqual(["A: no Catch of States.ALL, neither its own nor around it"]);
  });
  it("want placeholders that name functions or state machines", () => {
    expect(strangePlaceholders('"${DecideRollFunction}" "${RollPoolStateMachine}" "${Account}" "${decideFunction}"')).toEqual([
      "the placeholder ${Account} names neither a function nor a state machine",
      "the placeholder ${decideFunction} names neither a function nor a state machine",
    ]);
  });

  describe("for machines that start others", () => {
    const faultsOf = (Name: unknown, more: object = {}) => unsafeStarts(load(around(starting({ ...more, Arguments: { ...started, Name } }))));
    const redrive = "$string($states.context.Execution.RedriveCount)";

    it("find nothing where the execution is named by what it is for, and awaited", () => {
      expect(definitionFaults(JSON.stringify(around(starting())))).toEqual([]);
    });
    it("want the same retries for Step Functions as for Lambda, by the names it gives its errors", () => {
      const faults = missingServiceRetries(
        load(around(starting({ Retry: [{ ErrorEquals: [...stepFunctionsServiceErrors, ...stepFunctionsThrottles] }] }))),
      );
      expect(faults).toEqual(stepFunctionsThrottles.map((error) => `A: retries ${error} without JitterStrategy FULL`));
      const missing = missingServiceRetries(load(around(starting({ Retry: serviceRetries }))));
      expect(missing).toEqual([...stepFunctionsServiceErrors, ...stepFunctionsThrottles].map((error) => `A: does not retry ${error}`));
    });
    it.each([
      ["not awaited", `{% $hash(${redrive}, 'SHA-256') %}`, { Resource: "arn:aws:states:::states:startExecution" }, /^A: .* without waiting for it/],
      ["not named", undefined, {}, /^A: .* by no expression/],
      ["always named alike", "agents", {}, /^A: .* by no expression/],
      [
        "named by the attempt",
        `{% $hash($string($states.context.State.RetryCount) & ${redrive}, 'SHA-256') %}`,
        {},
        /^A: .* evaluates to another name/,
      ],
      ["named by chance", `{% 'a' & $hash($uuid() & ${redrive}, 'SHA-256') %}`, {}, /^A: .* evaluates to another name/],
      ["named alike by a redrive", "{% $hash($states.input.group, 'SHA-256') %}", {}, /^A: .* without Execution.RedriveCount/],
      ["named at any length", `{% $states.input.group & ${redrive} %}`, {}, /^A: .* length has no bound/],
      [
        "named at too great a length",
        `{% $substring($states.input.group, 0, 16) & '-' & $hash(${redrive}, 'SHA-256') %}`,
        {},
        /with up to 81 characters, 80/,
      ],
    ])("refuse an execution that is %s", (_, name, more, fault) => {
      const faults = faultsOf(name, more);
      expect(faults).toHaveLength(1);
      expect(faults[0]).toMatch(fault);
    });
    it("take a name of exactly 80 characters", () => {
      expect(faultsOf(`{% $substring($states.input.group, 0, 15) & '-' & $hash(${redrive}, 'SHA-256') %}`)).toEqual([]);
    });
    it("want a child that exists, ends before it is given up, and gets what it reads", () => {
      const child = (TimeoutSeconds?: number) =>
        JSON.stringify(
          machine(
            { B: lambdaTask({ Arguments: { FunctionName: "f", Payload: { x: "{% $states.input.x %}", y: "{% $states.input.y %}" } } }) },
            { TimeoutSeconds },
          ),
        );
      const parent = JSON.stringify(around(starting()));
      const faults = (childText: string) => familyFaults({ P: parent, RollPoolStateMachine: childText });
      expect(familyFaults({ P: parent })).toEqual(["A: starts RollPoolStateMachine, which is no machine here"]);
      expect(faults(child(59))).toEqual(["A: starts RollPoolStateMachine without 'y', which its first state reads"]);
      expect(faults(child(60))[0]).toBe("A: waits 60 s for RollPoolStateMachine, which may take 60 s");
      expect(faults(child())[0]).toBe("A: waits 60 s for RollPoolStateMachine, which may take any number of s");
      expect([...childrenIn({ P: parent })]).toEqual(["RollPoolStateMachine"]);
    });
  });
  it("want a Comment on every state", () => {
    expect(definitionFaults(JSON.stringify(around(good({ Comment: undefined }))))).toEqual(["A: has no Comment"]);
  });
  it("have asl-validator, which refuses what is wrong", () => {
    expect(validate(machine({ A: { Type: "Pass", Next: "Nowhere" } })).isValid).toBe(false);
  });

  describe("for budgets in Comments", () => {
    const budget = (Comment: string, retry: object, more: object = {}) => {
      const task = "HeartbeatSeconds" in more ? tokenTask : lambdaTask;
      return budgetFaults(load(machine({ A: task({ Comment, Retry: [{ ErrorEquals: ["NotYet"], ...retry }], ...more }) })));
    };
    const steady = { IntervalSeconds: 20, BackoffRate: 1, MaxAttempts: 60 };
    const growing = { IntervalSeconds: 5, BackoffRate: 2, MaxAttempts: 6, MaxDelaySeconds: 30 };
    const beats = { ErrorEquals: ["States.Timeout", "States.HeartbeatTimeout"], IntervalSeconds: 1, BackoffRate: 1, MaxAttempts: 5 };

    it.each([
      ["a steady retry", "Words. NotYet: 60 asks, 20 s apart = 20 min. More.", steady, {}],
      ["seconds", "NotYet: 60 asks, 20 s apart = 1200 s", steady, {}],
      ["a growing retry: 5 + 10 + 20 + 30 + 30 + 30 s", "NotYet: 6 asks, 5 s growing by 2 to 30 s = 125 s.", growing, {}],
      ["a growing retry, rounded", "NotYet: 6 asks, 5 s growing by 2 to 30 s = 2 min.", growing, {}],
      ["heartbeats", "Heartbeat: 6 of 120 s = 12 min.", beats, { HeartbeatSeconds: 120 }],
      ["service retries, which need none", "c", { ErrorEquals: ["Lambda.ServiceException", "Sandbox.Timedout"] }, {}],
    ])("take %s", (_, comment, retry, more) => {
      expect(budget(comment, retry, more)).toEqual([]);
    });
    it.each([
      ["a wrong number", "NotYet: 61 asks, 20 s apart = 20 min", steady, {}, "A: the Comment says NotYet: asks 61, the definition says 60"],
      [
        "a wrong interval",
        "NotYet: 60 asks, 10 s apart = 20 min",
        steady,
        {},
        "A: the Comment says NotYet: seconds apart 10, the definition says 20",
      ],
      ["a wrong sum", "NotYet: 60 asks, 20 s apart = 21 min", steady, {}, "A: the Comment says NotYet: in all (min) 21, the definition says 20"],
      [
        "a rate that is not said",
        "NotYet: 60 asks, 20 s apart = 20 min",
        { ...steady, BackoffRate: 2 },
        {},
        "A: the Comment says NotYet: growing by 1, the definition says 2",
      ],
      [
        "a cap that is wrong",
        "NotYet: 6 asks, 5 s growing by 2 to 31 s = 125 s.",
        growing,
        {},
        "A: the Comment says NotYet: at most 31, the definition says 30",
      ],
      ["a budget nobody has", "Busy: 60 asks, 20 s apart = 20 min", steady, {}, "A: the Comment has a budget for Busy, which nothing retries"],
      ["a retry without a budget", "c", steady, {}, "A: retries NotYet, but the Comment states no budget for it"],
      [
        "a timeout retried without a budget",
        "c",
        beats,
        { HeartbeatSeconds: 120 },
        "A: retries States.Timeout, but the Comment states no budget for it",
      ],
      [
        "wrong heartbeats",
        "Heartbeat: 5 of 120 s = 12 min.",
        beats,
        { HeartbeatSeconds: 120 },
        "A: the Comment says Heartbeat: attempts 5, the definition says 6",
      ],
    ])("refuse %s", (_, comment, retry, more, fault) => {
      expect(budget(comment, retry, more)).toContain(fault);
    });
    it("add up what the runner then really waits", async () => {
      const run = await runAsl(machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["NotYet"], ...growing }] }) }), { answers: { A: fails("NotYet") } });
      const state = load(machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["NotYet"], ...growing }] }) })).states.get("A");
      const retrier = state?.type === "Task" ? state.retry[0] : undefined;
      expect(retrier && retrySeconds(retrier)).toBe(run.seconds);
    });
  });

  describe("for variables", () => {
    const choice = (next: string, other: string) => ({ Type: "Choice", Choices: [{ Condition: "{% true %}", Next: next }], Default: other });
    it.each([
      ["one that nobody assigns", { A: pass({ Output: "{% $x %}", End: true }) }, ["A: '$x' reads $x, which not every path has assigned"]],
      [
        "one that only one path assigns",
        { A: choice("B", "C"), B: pass({ Assign: { x: 1 }, Next: "C" }), C: pass({ Output: "{% $x %}", End: true }) },
        ["C: '$x' reads $x, which not every path has assigned"],
      ],
      [
        "one that the state itself assigns",
        { A: pass({ Assign: { x: 1 }, Output: "{% $x %}", End: true }) },
        ["A: '$x' reads $x, which not every path has assigned"],
      ],
      [
        "one that the catcher's way lacks",
        {
          A: lambdaTask({ Assign: { x: 1 }, Catch: [{ ErrorEquals: ["States.ALL"], Next: "B" }], Next: "B" }),
          B: pass({ Output: "{% $x %}", End: true }),
        },
        ["B: '$x' reads $x, which not every path has assigned"],
      ],
      [
        "nothing where all paths assign",
        {
          A: choice("B", "C"),
          B: pass({ Assign: { x: 1 }, Next: "D" }),
          C: pass({ Assign: { x: 2 }, Next: "D" }),
          D: pass({ Output: "{% $x %}", End: true }),
        },
        [],
      ],
      ["nothing where $exists asks", { A: pass({ Output: "{% $exists($x) ? $x : 0 %}", End: true }) }, []],
      [
        "nothing where an outer scope assigns",
        {
          A: pass({ Assign: { x: 1 }, Next: "B" }),
          B: { Type: "Map", Items: [1], ItemProcessor: { StartAt: "C", States: { C: pass({ Output: "{% $x %}", End: true }) } }, End: true },
        },
        [],
      ],
      [
        "what only an inner scope assigned",
        {
          B: { Type: "Parallel", Branches: [{ StartAt: "C", States: { C: pass({ Assign: { x: 1 }, End: true }) } }], Next: "D" },
          D: pass({ Output: "{% $x %}", End: true }),
        },
        ["D: '$x' reads $x, which not every path has assigned"],
      ],
    ])("find %s", (_, states, faults) => {
      expect(unassignedVariables(load(machine(states)))).toEqual(faults);
    });
  });

  describe("for loops", () => {
    const again = (more: object = {}) => ({
      Type: "Choice",
      Comment: "c",
      Choices: [{ Condition: "{% $pass < 3 %}", Assign: { pass: "{% $pass + 1 %}" }, Next: "B", ...more }],
      Default: "D",
    });
    const looping = (rule: object) =>
      machine(
        {
          A: pass({ Comment: "c", Assign: { pass: 1 }, Next: "B" }),
          B: pass({ Comment: "c", Next: "C" }),
          C: rule,
          D: { Type: "Succeed", Comment: "c" },
        },
        { TimeoutSeconds: 60 },
      );
    it("take one that counts", () => {
      expect(definitionFaults(JSON.stringify(looping(again())))).toEqual([]);
    });
    it.each([{ Condition: "{% true %}" }, { Assign: {} }, { Assign: { pass: "{% $pass %}" } }])("refuse one that does not: %j", (more) => {
      expect(definitionFaults(JSON.stringify(looping(again(more))))).toEqual(["B -> C -> B: a loop that nothing counts"]);
      expect(() => historyBound(JSON.stringify(looping(again(more))), { mapItems: {} })).toThrow("the history has no bound: B -> C -> B");
    });
    it("count each turn in the bound of the history, as the runner does", async () => {
      const definition = JSON.stringify(looping(again()));
      const run = await runAsl(definition);
      expect(run.visited.filter((name) => name === "B")).toHaveLength(3);
      const faults = run.visited.length; // worst reckons one failed expression a state
      expect(historyBound(definition, { mapItems: {} }).worst).toBe(run.history.length + faults);
    });
  });

  describe("for the bound of the history", () => {
    const inner = (name: string, state: object) => ({ StartAt: name, States: { [name]: state } });
    const states = {
      A: lambdaTask({ Next: "B" }),
      B: tokenTask({ Next: "C" }),
      C: { Type: "Choice", Choices: [{ Condition: "{% true %}", Next: "D" }], Default: "E" },
      D: { Type: "Parallel", Branches: [inner("P", pass()), inner("Q", lambdaTask())], Next: "E" },
      E: { Type: "Map", Items: [1, 2, 3], ItemProcessor: inner("M", tokenTask()), Next: "F" },
      F: { Type: "Wait", Seconds: 1, Next: "G" },
      G: { Type: "Succeed" },
    };
    it("gives exactly what the runner records when nothing fails", async () => {
      const definition = JSON.stringify(machine(states));
      const run = await runAsl(definition, { answers: { A: answers(1), B: completes(1), Q: answers(1), M: completes(1) } });
      expect(historyBound(definition, { mapItems: { E: 3 } }).normal).toBe(run.history.length);
    });
    it("gives at least what the runner records when everything fails as often as it may", async () => {
      const retry = {
        Retry: [
          { ErrorEquals: ["X"], MaxAttempts: 2 },
          { ErrorEquals: ["Y"], MaxAttempts: 3 },
        ],
      };
      const definition = JSON.stringify(
        machine({
          E: {
            Type: "Map",
            Items: [1, 2, 3],
            ItemProcessor: inner("M", lambdaTask(retry)),
            Retry: [{ ErrorEquals: ["X"], MaxAttempts: 1 }],
            End: true,
          },
        }),
      );
      const run = await runAsl(definition, { answers: { M: ({ number }) => fails(number % 2 === 0 ? "X" : "Y") } });
      const { normal, worst } = historyBound(definition, { mapItems: { E: 3 } });
      expect(run.history.length).toBeGreaterThan(normal);
      expect(run.history.length).toBeLessThanOrEqual(worst);
    });
    it("reckons as many asks as the world's normal time needs", () => {
      const definition = JSON.stringify(
        machine({ A: lambdaTask({ Retry: [{ ErrorEquals: ["NotYet"], IntervalSeconds: 10, BackoffRate: 1, MaxAttempts: 9 }] }) }),
      );
      const at = (seconds: number) => historyBound(definition, { mapItems: {}, waitSeconds: { A: seconds } }).normal;
      expect([at(0), at(1), at(10), at(11), at(1000)]).toEqual([7, 10, 10, 13, 34]);
    });
    it("needs to know how many items a Map has", () => {
      expect(() => historyBound(JSON.stringify(machine(states)), { mapItems: {} })).toThrow("say how many items the Map 'E' has at the most");
    });
  });
});
