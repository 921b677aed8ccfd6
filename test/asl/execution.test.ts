import { describe, expect, it } from "vitest";
import { type HistoryEvent, historyLimit, payloadLimitBytes } from "../../local/asl/run.js";
import { answers, completes, fails, failsLater, lambdaTask, machine, runAsl, silent, tokenTask } from "./harness.js";

const started = "ExecutionStarted";
const succeeded = "ExecutionSucceeded";
const failed = "ExecutionFailed";
const pass = (more: object = { End: true }) => ({ Type: "Pass", ...more });
const flow = (name: string, state: object) => ({ StartAt: name, States: { [name]: state } });
const caughtBy = (name: string, more: object = {}) => [{ ErrorEquals: ["States.ALL"], Next: name, ...more }];
const detail = (events: readonly HistoryEvent[], type: string) => events.filter((event) => event.type === type).map((event) => event.details?.[1]);

describe("the history of an execution, event by event", () => {
  it.each([
    ["Pass", pass(), ["PassStateEntered", "PassStateExited"]],
    ["Wait", { Type: "Wait", Seconds: 5, End: true }, ["WaitStateEntered", "WaitStateExited"]],
    ["Succeed", { Type: "Succeed" }, ["SucceedStateEntered", "SucceedStateExited"]],
    ["Task that answers", lambdaTask(), ["TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSucceeded", "TaskStateExited"]],
    [
      "Map of two",
      { Type: "Map", Items: [1, 2], MaxConcurrency: 1, ItemProcessor: flow("B", pass()), End: true },
      [
        ...["MapStateEntered", "MapStateStarted", "MapIterationStarted", "PassStateEntered", "PassStateExited", "MapIterationSucceeded"],
        ...["MapIterationStarted", "PassStateEntered", "PassStateExited", "MapIterationSucceeded", "MapStateSucceeded", "MapStateExited"],
      ],
    ],
    [
      "Map of none",
      { Type: "Map", Items: [], ItemProcessor: flow("B", pass()), End: true },
      ["MapStateEntered", "MapStateStarted", "MapStateSucceeded", "MapStateExited"],
    ],
    [
      "Parallel of two",
      { Type: "Parallel", Branches: [flow("B", pass()), flow("C", pass())], End: true },
      [
        "ParallelStateEntered",
        "ParallelStateStarted",
        "PassStateEntered",
        "PassStateExited",
        "PassStateEntered",
        "PassStateExited",
        "ParallelStateSucceeded",
        "ParallelStateExited",
      ],
    ],
  ])("%s", async (_, state, events) => {
    const run = await runAsl(machine({ A: state }), { answers: { A: answers(1) } });
    expect(run.events).toEqual([started, ...events, succeeded]);
  });
  it("Choice", async () => {
    const run = await runAsl(machine({ A: { Type: "Choice", Choices: [{ Condition: "{% true %}", Next: "B" }] }, B: { Type: "Succeed" } }));
    expect(run.events).toEqual([started, "ChoiceStateEntered", "ChoiceStateExited", "SucceedStateEntered", "SucceedStateExited", succeeded]);
  });
  it("Fail", async () => {
    const run = await runAsl(machine({ A: { Type: "Fail", Error: "E", Cause: "{% 'because ' & $states.input.x %}" } }), { input: { x: "y" } });
    expect(run).toMatchObject({ events: [started, "FailStateEntered", failed], status: "FAILED", error: "E", cause: "because y" });
  });
  it("Task that waits for its token", async () => {
    const run = await runAsl(machine({ A: tokenTask() }), { answers: { A: completes(1) } });
    expect(run.events).toEqual([
      started,
      "TaskStateEntered",
      "TaskScheduled",
      "TaskStarted",
      "TaskSubmitted",
      "TaskSucceeded",
      "TaskStateExited",
      succeeded,
    ]);
  });
  it("each retry adds three, and a caught failure leaves the state", async () => {
    const state = lambdaTask({ Retry: [{ ErrorEquals: ["NotYet"], MaxAttempts: 2 }], Catch: caughtBy("B"), Next: "B" });
    const run = await runAsl(machine({ A: state, B: pass() }), { answers: { A: fails("NotYet") } });
    const attempt = ["TaskScheduled", "TaskStarted", "TaskFailed"];
    const rest = ["TaskStateExited", "PassStateEntered", "PassStateExited", succeeded];
    expect(run.events).toEqual([started, "TaskStateEntered", ...attempt, ...attempt, ...attempt, ...rest]);
  });
  it("an uncaught failure ends the execution without leaving the state", async () => {
    const run = await runAsl(machine({ A: lambdaTask() }), { answers: { A: fails("Broken", "no") } });
    expect(run.events).toEqual([started, "TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskFailed", failed]);
    expect(run.error).toBe("Broken");
    expect(JSON.parse(run.cause ?? "")).toEqual({ errorType: "Broken", errorMessage: "no", trace: ["Broken: no"] });
  });
  it("a failed expression adds EvaluationFailed, with the place", async () => {
    const run = await runAsl(
      machine({ A: lambdaTask({ Arguments: { FunctionName: "f", Payload: { a: "{% $nope %}" } }, Catch: caughtBy("B"), Next: "B" }), B: pass() }),
    );
    expect(run.events).toEqual([
      started,
      "TaskStateEntered",
      "EvaluationFailed",
      "TaskStateExited",
      "PassStateEntered",
      "PassStateExited",
      succeeded,
    ]);
    expect(detail(run.history, "EvaluationFailed")).toMatchObject([
      { error: "States.QueryEvaluationError", location: "Arguments/Payload/a", state: "A" },
    ]);
  });
  it("a Map that is tried again starts again, and says that it failed only when it gives up", async () => {
    const map = {
      Type: "Map",
      Items: [1],
      ItemProcessor: flow("B", { Type: "Fail", Error: "E" }),
      Retry: [{ ErrorEquals: ["E"], MaxAttempts: 1 }],
      End: true,
    };
    const once = ["MapStateStarted", "MapIterationStarted", "FailStateEntered", "MapIterationFailed"];
    expect((await runAsl(machine({ A: map }))).events).toEqual([started, "MapStateEntered", ...once, ...once, "MapStateFailed", failed]);
  });
  it("a failing iteration aborts the others", async () => {
    const map = { Type: "Map", Items: [1, 2], ItemProcessor: flow("B", lambdaTask()), End: true };
    const run = await runAsl(machine({ A: map }), { answers: { B: [fails("E", "", 1), answers(1, 9)] } });
    const tail = ["TaskFailed", "MapIterationFailed", "TaskStateAborted", "TaskStateAborted", "MapIterationAborted", "MapStateFailed", failed];
    expect(run.events.slice(-tail.length)).toEqual(tail);
    expect(run).toMatchObject({ error: "E", seconds: 1 });
  });
  it("a failing branch aborts the others, whatever they were at, and nothing of them happens afterwards", async () => {
    const waits = { StartAt: "W", States: { W: { Type: "Wait", Seconds: 50, Next: "Z" }, Z: lambdaTask() } };
    const state = { Type: "Parallel", Branches: [waits, flow("B", lambdaTask())], Catch: caughtBy("C"), Next: "C" };
    const run = await runAsl(machine({ A: state, C: { Type: "Wait", Seconds: 100, End: true } }), { answers: { B: fails("E", "", 1) } });
    const tail = [
      "TaskFailed",
      "WaitStateAborted",
      "TaskStateAborted",
      "ParallelStateFailed",
      "ParallelStateExited",
      "WaitStateEntered",
      "WaitStateExited",
      succeeded,
    ];
    expect(run.events.slice(-tail.length)).toEqual(tail);
    expect(run.visited).not.toContain("Z");
  });
  it("chains each event to the one before it on its own path", async () => {
    const run = await runAsl(machine({ A: { Type: "Parallel", Branches: [flow("B", pass()), flow("C", pass())], Next: "D" }, D: pass() }));
    const chain = run.history.map(({ id, previousEventId, type }) => `${id}<${previousEventId} ${type}`);
    expect(chain).toEqual([
      ...["1<0 ExecutionStarted", "2<0 ParallelStateEntered", "3<2 ParallelStateStarted", "4<3 PassStateEntered", "5<4 PassStateExited"],
      ...["6<3 PassStateEntered", "7<6 PassStateExited", "8<7 ParallelStateSucceeded", "9<8 ParallelStateExited", "10<9 PassStateEntered"],
      ...["11<10 PassStateExited", "12<11 ExecutionSucceeded"],
    ]);
  });
  it("ends the execution at 25,000 events, which nothing catches", async () => {
    const state = lambdaTask({ Retry: [{ ErrorEquals: ["NotYet"], BackoffRate: 1, MaxAttempts: 99999 }], Catch: caughtBy("B"), Next: "B" });
    const run = await runAsl(machine({ A: state, B: pass() }), { answers: { A: fails("NotYet") } });
    expect(run).toMatchObject({ status: "FAILED", cause: "The execution reached the maximum number of history events (25000)." });
    expect(run.history.length).toBe(historyLimit);
    expect(run.visited).toEqual(["A"]);
  });
  it("bills every state entered and every retry", async () => {
    const state = lambdaTask({ Retry: [{ ErrorEquals: ["NotYet"] }], Next: "B" });
    const run = await runAsl(machine({ A: state, B: pass({ Next: "C" }), C: { Type: "Succeed" } }), {
      answers: { A: [fails("NotYet"), fails("NotYet"), answers(1)] },
    });
    expect(run.transitions).toBe(5);
  });
});

describe("retrying", () => {
  const retried = (retry: object[], more: object = {}) => machine({ A: lambdaTask({ Retry: retry, ...more }) });
  const at = (run: Awaited<ReturnType<typeof runAsl>>) => run.calls.map(({ atSeconds }) => atSeconds);

  it("waits one second, twice as long each time, three times, unless told otherwise", async () => {
    const run = await runAsl(retried([{ ErrorEquals: ["E"] }]), { answers: { A: fails("E") } });
    expect(at(run)).toEqual([0, 1, 3, 7]);
    expect(run).toMatchObject({ status: "FAILED", error: "E" });
  });
  it("caps the wait", async () => {
    const run = await runAsl(retried([{ ErrorEquals: ["E"], IntervalSeconds: 2, BackoffRate: 3, MaxDelaySeconds: 10, MaxAttempts: 4 }]), {
      answers: { A: fails("E") },
    });
    expect(at(run)).toEqual([0, 2, 8, 18, 28]);
  });
  it("spreads the wait from nothing to all of it, by the seed", async () => {
    const jittered = retried([{ ErrorEquals: ["E"], IntervalSeconds: 10, BackoffRate: 1, MaxAttempts: 50, JitterStrategy: "FULL" }]);
    const run = await runAsl(jittered, { answers: { A: fails("E") }, seed: 5 });
    const gaps = at(run)
      .slice(1)
      .map((time, index) => time - (at(run)[index] ?? 0));
    expect(Math.min(...gaps)).toBeLessThan(1);
    expect(Math.max(...gaps)).toBeGreaterThan(9);
    expect(Math.max(...gaps)).toBeLessThanOrEqual(10);
    expect(at(await runAsl(jittered, { answers: { A: fails("E") }, seed: 5 }))).toEqual(at(run));
    expect(at(await runAsl(jittered, { answers: { A: fails("E") }, seed: 6 }))).not.toEqual(at(run));
  });
  it("counts for each retrier by itself", async () => {
    const script = [fails("A"), fails("B"), fails("A"), fails("B"), fails("A")];
    const run = await runAsl(
      retried([
        { ErrorEquals: ["A"], MaxAttempts: 2, BackoffRate: 1 },
        { ErrorEquals: ["B"], MaxAttempts: 2, BackoffRate: 1 },
      ]),
      { answers: { A: script } },
    );
    expect(run).toMatchObject({ status: "FAILED", error: "A" });
    expect(run.calls.length).toBe(5);
  });
  it("does not go on to a second retrier when the first that matches is used up", async () => {
    const run = await runAsl(
      retried([
        { ErrorEquals: ["A"], MaxAttempts: 1 },
        { ErrorEquals: ["States.ALL"], MaxAttempts: 9 },
      ]),
      { answers: { A: fails("A") } },
    );
    expect(run.calls.length).toBe(2);
  });
  it("begins to count anew when the state is entered again", async () => {
    const again = { Type: "Choice", Choices: [{ Condition: "{% $turns < 2 %}", Assign: { turns: "{% $turns + 1 %}" }, Next: "A" }], Default: "D" };
    const run = await runAsl(
      machine({
        S: pass({ Assign: { turns: 1 }, Next: "A" }),
        A: lambdaTask({ Retry: [{ ErrorEquals: ["E"], MaxAttempts: 1 }], Catch: caughtBy("C"), Next: "C" }),
        C: again,
        D: { Type: "Succeed" },
      }),
      { answers: { A: fails("E") } },
    );
    expect(run.calls.length).toBe(4);
  });
  it("never with MaxAttempts 0", async () => {
    expect((await runAsl(retried([{ ErrorEquals: ["E"], MaxAttempts: 0 }]), { answers: { A: fails("E") } })).calls.length).toBe(1);
  });
  it("tells the state how often it was retried", async () => {
    const counted = lambdaTask({
      Arguments: { FunctionName: "f", Payload: "{% $states.context.State.RetryCount %}" },
      Retry: [{ ErrorEquals: ["E"] }],
    });
    const run = await runAsl(machine({ A: counted }), { answers: { A: [fails("E"), fails("E"), answers(1)] } });
    expect(run.calls.map(({ payload }) => payload)).toEqual([0, 1, 2]);
  });
  it.each([
    ["States.ALL", "Anything", true],
    ["States.ALL", "States.Timeout", true],
    ["States.ALL", "States.DataLimitExceeded", false],
    ["States.ALL", "States.Runtime", false],
    ["States.Runtime", "States.Runtime", false],
    ["States.TaskFailed", "Anything", true],
    ["States.TaskFailed", "States.Timeout", false],
    ["States.TaskFailed", "States.DataLimitExceeded", false],
    ["States.DataLimitExceeded", "States.DataLimitExceeded", true],
    ["NotYet", "NotYetReady", false],
  ])("%s against %s: %s", async (name, error, taken) => {
    const states = { A: lambdaTask({ Catch: [{ ErrorEquals: [name], Next: "B" }], Next: "B" }), B: pass() };
    const run = await runAsl(machine(states), { answers: { A: fails(error) } });
    expect(run.status).toBe(taken ? "SUCCEEDED" : "FAILED");
  });
});

describe("catching", () => {
  it("hands on the raw error, and loses the input, unless told otherwise", async () => {
    const run = await runAsl(machine({ A: lambdaTask({ Catch: caughtBy("B"), Next: "B" }), B: pass() }), {
      answers: { A: { error: "E", cause: "why" } },
      input: { x: 1 },
    });
    expect(run.output).toEqual({ Error: "E", Cause: "why" });
  });
  it("assigns and puts out what the catcher says, not what the state says", async () => {
    const catcher = caughtBy("B", { Assign: { what: "{% $states.errorOutput.Error %}" }, Output: "{% $states.input %}" });
    const state = lambdaTask({ Catch: catcher, Assign: { what: "state" }, Output: "state", Next: "B" });
    const run = await runAsl(machine({ A: state, B: pass({ Output: "{% [$what, $states.input.x] %}", End: true }) }), {
      answers: { A: fails("E") },
      input: { x: 1 },
    });
    expect(run.output).toEqual(["E", 1]);
  });
  it("takes the first catcher that matches", async () => {
    const catchers = [
      { ErrorEquals: ["X", "E"], Next: "B" },
      { ErrorEquals: ["States.ALL"], Next: "C" },
    ];
    const run = await runAsl(machine({ A: lambdaTask({ Catch: catchers, Next: "C" }), B: pass(), C: pass() }), { answers: { A: fails("E") } });
    expect(run.visited).toEqual(["A", "B"]);
  });
  it("catches what the state's own Output cannot find", async () => {
    const state = lambdaTask({
      Catch: caughtBy("B", { Output: "{% $states.errorOutput.Error %}" }),
      Output: "{% $states.result.Payload.nope %}",
      Next: "B",
    });
    expect((await runAsl(machine({ A: state, B: pass() }), { answers: { A: answers({}) } })).output).toBe("States.QueryEvaluationError");
  });
  it("does not catch what a catcher's own expressions do", async () => {
    const state = lambdaTask({ Catch: caughtBy("B", { Output: "{% $nope %}" }), Next: "B" });
    const run = await runAsl(machine({ A: state, B: pass() }), { answers: { A: fails("E") } });
    expect(run).toMatchObject({ status: "FAILED", error: "States.QueryEvaluationError" });
    expect(run.cause).toContain("'Catch[0]/Output'");
  });
  it("gives a timeout an empty cause", async () => {
    const run = await runAsl(machine({ A: lambdaTask({ TimeoutSeconds: 5, Catch: caughtBy("B"), Next: "B" }), B: pass() }), {
      answers: { A: answers(1, 9) },
    });
    expect(run.output).toEqual({ Error: "States.Timeout", Cause: "" });
  });
});

describe("choosing, waiting and leaving", () => {
  it("takes the first rule that is true, with its own Assign and Output", async () => {
    const choices = [
      { Condition: "{% $states.input.n > 9 %}", Next: "B" },
      { Condition: "{% $states.input.n > 4 %}", Assign: { size: "middle" }, Output: "{% $states.input.n * 2 %}", Next: "B" },
      { Condition: "{% $nope %}", Next: "B" },
    ];
    const states = {
      A: { Type: "Choice", Choices: choices, Default: "B", Assign: { size: "small" }, Output: 0 },
      B: pass({ Output: "{% [$size, $states.input] %}", End: true }),
    };
    expect((await runAsl(machine(states), { input: { n: 5 } })).output).toEqual(["middle", 10]);
    const last = await runAsl(machine(states), { input: { n: 1 } });
    expect(last.cause).toContain("'Choices[2]/Condition' returned nothing");
  });
  it("uses the state's own Assign and Output for Default", async () => {
    const choice = { Type: "Choice", Choices: [{ Condition: "{% false %}", Next: "B" }], Default: "B", Assign: { size: "small" }, Output: 0 };
    expect((await runAsl(machine({ A: choice, B: pass({ Output: "{% [$size, $states.input] %}", End: true }) }))).output).toEqual(["small", 0]);
  });
  it.each([
    ["{% 'true' %}", "States.QueryEvaluationError", "Expected 'boolean', but was 'string' for value: \"true\""],
    ["{% 1 %}", "States.QueryEvaluationError", "Expected 'boolean', but was 'number' for value: 1"],
    ["{% false %}", "States.NoChoiceMatched", "no Default"],
  ])("fails on the condition %s", async (condition, error, cause) => {
    const run = await runAsl(machine({ A: { Type: "Choice", Choices: [{ Condition: condition, Next: "B" }] }, B: { Type: "Succeed" } }));
    expect(run.error).toBe(error);
    expect(run.cause).toContain(cause);
  });
  it.each([
    [{ Seconds: 90 }, 90],
    [{ Seconds: "{% $states.input.wait %}" }, 7],
    [{ Seconds: 0 }, 0],
    [{ Timestamp: "2026-01-01T00:01:00Z" }, 60],
    [{ Timestamp: "{% $fromMillis($millis() + 1500) %}" }, 1.5],
    [{ Timestamp: "2020-01-01T00:00:00Z" }, 0],
  ])("waits %j for %d s", async (until, seconds) => {
    expect(await runAsl(machine({ A: { Type: "Wait", ...until, End: true } }), { input: { wait: 7 } })).toMatchObject({
      status: "SUCCEEDED",
      seconds,
    });
  });
  it.each([{ Seconds: "{% -1 %}" }, { Seconds: "{% 1.5 %}" }, { Seconds: "{% '5' %}" }, { Timestamp: "{% 'tomorrow' %}" }])(
    "cannot wait %j",
    async (until) => {
      expect((await runAsl(machine({ A: { Type: "Wait", ...until, End: true } }))).error).toBe("States.QueryEvaluationError");
    },
  );
  it("evaluates Assign and Output against the same values", async () => {
    const swap = pass({ Assign: { a: "{% $b %}", b: "{% $a %}" }, Output: "{% [$a, $b] %}", Next: "C" });
    const run = await runAsl(
      machine({ A: pass({ Assign: { a: 1, b: 2 }, Next: "B" }), B: swap, C: pass({ Output: "{% $append($states.input, [$a, $b]) %}", End: true }) }),
    );
    expect(run.output).toEqual([1, 2, 2, 1]);
  });
  it("takes time between two states when told to", async () => {
    expect((await runAsl(machine({ A: pass({ Next: "B" }), B: pass() }), { transitionSeconds: 0.5 })).seconds).toBe(1);
  });
});

describe("limits of data", () => {
  const kib = (count: number) => `{% $pad('', ${count * 1024}, 'x') %}`;
  it.each([
    ["an Output", pass({ Output: kib(257), End: true })],
    ["an Assign", pass({ Assign: { a: kib(200), b: kib(100) }, End: true })],
    ["Arguments", lambdaTask({ Arguments: { FunctionName: "f", Payload: kib(257) }, Catch: caughtBy("B"), Next: "B" })],
  ])("fail %s of more than 256 KiB", async (_, state) => {
    const more: Record<string, object> = "Catch" in state ? { B: pass() } : {};
    const run = await runAsl(machine({ A: state, ...more }));
    expect(run).toMatchObject({ status: "FAILED", error: "States.DataLimitExceeded" });
    expect(run.cause).toBe("The state/task 'A' returned a result with a size exceeding the maximum number of bytes service limit.");
  });
  it("fail a function's answer of more than 256 KiB past every States.ALL", async () => {
    const state = lambdaTask({ Catch: caughtBy("B"), Next: "B" });
    const run = await runAsl(machine({ A: state, B: pass() }), { answers: { A: answers("é".repeat(payloadLimitBytes / 2)) } });
    expect(run.events.at(-2)).toBe("TaskFailed");
    expect(run).toMatchObject({ status: "FAILED", error: "States.DataLimitExceeded" });
    expect(run.cause).toContain("The state/task 'lambda' returned a result");
  });
  it("take exactly 256 KiB", async () => {
    const run = await runAsl(machine({ A: pass({ Output: `{% $pad('', ${payloadLimitBytes - 2}, 'x') %}`, End: true }) }));
    expect(run.status).toBe("SUCCEEDED");
  });
  it("fail more than 10 MiB of variables", async () => {
    const states: Record<string, object> = {};
    for (let index = 0; index < 42; index++)
      states[`S${index}`] = pass({ Assign: { [`v${index}`]: kib(255) }, Output: {}, ...(index === 41 ? { End: true } : { Next: `S${index + 1}` }) });
    expect(await runAsl(machine(states))).toMatchObject({ status: "FAILED", error: "States.DataLimitExceeded" });
  });
});

describe("Parallel and Map", () => {
  it("give each branch the Arguments, and put out the results in the order of the branches", async () => {
    const branches = [
      flow("B", lambdaTask({ Output: "{% $states.result.Payload %}" })),
      flow("C", pass({ Output: "{% $states.input.x %}", End: true })),
    ];
    const run = await runAsl(machine({ A: { Type: "Parallel", Arguments: { x: 5 }, Branches: branches, End: true } }), {
      answers: { B: answers("slow", 9) },
    });
    expect(run).toMatchObject({ output: ["slow", 5], seconds: 9 });
  });
  it("let inner states read outer variables, and forget the inner ones", async () => {
    const inner = flow("B", pass({ Assign: { y: "{% $x + 1 %}" }, Next: "C" }));
    const branch = { ...inner, States: { ...inner.States, C: pass({ Output: "{% $x + $y %}", End: true }) } };
    const run = await runAsl(
      machine({
        S: pass({ Assign: { x: 1 }, Next: "A" }),
        A: { Type: "Parallel", Branches: [branch], Next: "D" },
        D: pass({ Output: "{% $y %}", End: true }),
      }),
    );
    expect(run.cause).toContain("'$y' specified for the field 'Output' returned nothing");
    expect(detail(run.history, "ParallelStateExited")).toMatchObject([{ output: [3] }]);
  });
  it("let their own catcher assign variables of the scope they stand in", async () => {
    const state = {
      Type: "Parallel",
      Branches: [flow("B", { Type: "Fail", Error: "E" })],
      Catch: caughtBy("C", { Assign: { x: "{% $states.errorOutput.Error %}" } }),
      Next: "C",
    };
    expect((await runAsl(machine({ A: state, C: pass({ Output: "{% $x %}", End: true }) }))).output).toBe("E");
  });
  it("run so many iterations at once, and no more", async () => {
    const map = { Type: "Map", Items: [1, 2, 3, 4, 5], MaxConcurrency: "{% $states.input.n %}", ItemProcessor: flow("B", lambdaTask()), End: true };
    const run = await runAsl(machine({ A: map }), { answers: { B: answers(1, 10) }, input: { n: 2 } });
    expect(run.calls.map(({ atSeconds }) => atSeconds)).toEqual([0, 0, 10, 10, 20]);
  });
  it("run about 40 iterations at once when nothing is said", async () => {
    const map = { Type: "Map", Items: "{% $range(1, 45, 1) %}", ItemProcessor: flow("B", lambdaTask()), End: true };
    const run = await runAsl(machine({ A: map }), { answers: { B: answers(1, 10) } });
    expect(run.calls.filter(({ atSeconds }) => atSeconds === 0).length).toBe(40);
  });
  it("give an iteration its item, or what ItemSelector makes of it, and the context", async () => {
    const states = { B: pass({ Output: "{% [$states.input, $states.context.Map.Item.Index] %}", End: true }) };
    const map = { Type: "Map", Items: ["a", "b"], ItemProcessor: { StartAt: "B", States: states }, End: true };
    expect((await runAsl(machine({ A: map }))).output).toEqual([
      ["a", 0],
      ["b", 1],
    ]);
    const selector = { v: "{% $states.context.Map.Item.Value & $states.input.z %}" };
    expect((await runAsl(machine({ A: { ...map, ItemSelector: selector } }), { input: { z: "!" } })).output).toEqual([
      [{ v: "a!" }, 0],
      [{ v: "b!" }, 1],
    ]);
  });
  it.each([
    ["'text'", "string", '"text"'],
    ["1", "number", "1"],
    ["null", "null", "null"],
    ["{ 'a': 1 }", "object", '{"a":1}'],
  ])("refuse Items that are %s", async (expression, kind, shown) => {
    const run = await runAsl(machine({ A: { Type: "Map", Items: `{% ${expression} %}`, ItemProcessor: flow("B", pass()), End: true } }));
    expect(run.cause).toContain(
      `specified for the field 'Items' returned an unexpected result type. Expected 'array', but was '${kind}' for value: ${shown}`,
    );
  });
  it("take a lone item as no array: an expression of one must be wrapped", async () => {
    const map = (items: string) => machine({ A: { Type: "Map", Items: items, ItemProcessor: flow("B", pass()), End: true } });
    expect((await runAsl(map("{% $filter([1, 2], function($x) { $x = 2 }) %}"))).error).toBe("States.QueryEvaluationError");
    expect((await runAsl(map("{% [$filter([1, 2], function($x) { $x = 2 })] %}"))).output).toEqual([2]);
  });
});

describe("time limits", () => {
  it("fail a task as States.Timeout, though its function runs on", async () => {
    const run = await runAsl(machine({ A: lambdaTask({ TimeoutSeconds: 5 }) }), { answers: { A: answers(1, 30) } });
    expect(run).toMatchObject({ status: "FAILED", error: "States.Timeout", cause: undefined, seconds: 5 });
    expect(run.events.slice(-2)).toEqual(["TaskTimedOut", failed]);
  });
  it("hold for each attempt anew", async () => {
    const run = await runAsl(machine({ A: lambdaTask({ TimeoutSeconds: 5, Retry: [{ ErrorEquals: ["States.Timeout"], MaxAttempts: 1 }] }) }), {
      answers: { A: [answers(1, 30), answers(1, 4)] },
    });
    expect(run).toMatchObject({ status: "SUCCEEDED", seconds: 10 });
  });
  it("may be expressions, of positive whole numbers", async () => {
    const timed = machine({ A: lambdaTask({ TimeoutSeconds: "{% $states.input.limit %}" }) });
    expect((await runAsl(timed, { input: { limit: 3 }, answers: { A: answers(1, 30) } })).seconds).toBe(3);
    expect((await runAsl(timed, { input: { limit: 0 }, answers: { A: answers(1) } })).cause).toContain(
      "'TimeoutSeconds' returned an unexpected result type",
    );
  });
  it("end the whole execution as TIMED_OUT, which no Catch sees", async () => {
    const state = lambdaTask({ Catch: caughtBy("B"), Next: "B" });
    const run = await runAsl(machine({ A: state, B: pass() }, { TimeoutSeconds: 10 }), { answers: { A: answers(1, 30) } });
    expect(run).toMatchObject({ status: "TIMED_OUT", error: "States.Timeout", seconds: 10, visited: ["A"] });
    expect(run.events.at(-1)).toBe("ExecutionTimedOut");
  });
});

describe("stopping an execution", () => {
  it("ends it as ABORTED at once, and nothing happens afterwards", async () => {
    const states = { A: lambdaTask({ Catch: caughtBy("B"), Next: "B" }), B: lambdaTask() };
    const run = await runAsl(machine(states), {
      answers: { A: answers(1, 30) },
      meanwhile: [{ atSeconds: 4, act: (run) => run.stop("Stopped", "by hand") }],
    });
    expect(run).toMatchObject({ status: "ABORTED", error: "Stopped", cause: "by hand", seconds: 4, visited: ["A"] });
    expect(run.events).toEqual([started, "TaskStateEntered", "TaskScheduled", "TaskStarted", "ExecutionAborted"]);
  });
  it("does nothing to one that has ended", async () => {
    const run = await runAsl(machine({ A: pass() }), { meanwhile: [{ atSeconds: 4, act: (run) => run.stop() }] });
    expect(run.status).toBe("SUCCEEDED");
  });
});

describe("a task that waits for its token", () => {
  const beating = (more: object = {}) =>
    machine({ A: tokenTask({ TimeoutSeconds: 100, HeartbeatSeconds: 10, Catch: caughtBy("B"), Next: "B", ...more }), B: pass() });

  it("puts out what comes with the token, and nothing of what the function returned", async () => {
    const run = await runAsl(machine({ A: tokenTask() }), {
      answers: { A: { payload: "ignored", callbacks: [{ afterSeconds: 20, output: { done: 1 } }] } },
    });
    expect(run).toMatchObject({ output: { done: 1 }, seconds: 20 });
  });
  it("fails at once when its function fails", async () => {
    const run = await runAsl(beating(), { answers: { A: fails("Invalid") } });
    expect(run).toMatchObject({ output: { Error: "Invalid" }, seconds: 0 });
    expect(run.events).not.toContain("TaskSubmitted");
  });
  it("fails as the callback says", async () => {
    expect((await runAsl(beating(), { answers: { A: failsLater("NodeLost", "i-1 is gone", 3) } })).output).toEqual({
      Error: "NodeLost",
      Cause: "i-1 is gone",
    });
  });
  it("times out as States.Timeout when no heartbeat comes, and tells a late callback so", async () => {
    const run = await runAsl(beating(), { answers: { A: completes(1, 11) } });
    expect(run).toMatchObject({ output: { Error: "States.Timeout" }, seconds: 10, callbacks: ["11 A: refused"] });
  });
  it("goes on as long as heartbeats come, until its timeout", async () => {
    const beats = Array.from({ length: 20 }, (_, index) => ({ afterSeconds: 9 * (index + 1), heartbeat: true as const }));
    expect(await runAsl(beating(), { answers: { A: { callbacks: beats } } })).toMatchObject({ output: { Error: "States.Timeout" }, seconds: 100 });
    const done = { callbacks: [...beats.slice(0, 3), { afterSeconds: 36, output: "done" }] };
    expect(await runAsl(beating(), { answers: { A: done } })).toMatchObject({ output: "done", seconds: 36 });
  });
  it("gets a new token for each attempt, and the old one is dead", async () => {
    const retry = { Retry: [{ ErrorEquals: ["States.Timeout"], IntervalSeconds: 1, MaxAttempts: 1 }] };
    const run = await runAsl(beating(retry), { answers: { A: [completes("late", 15), completes("second", 8)] } });
    expect(run).toMatchObject({ output: "second", callbacks: ["15 A: refused", "19 A: accepted"] });
    const tokens = run.calls.map(({ payload }) => (payload as { token: string }).token);
    expect(new Set(tokens).size).toBe(2);
  });
  it("ends by the first callback, and refuses the second", async () => {
    const both = {
      callbacks: [
        { afterSeconds: 2, output: "first" },
        { afterSeconds: 2, error: "Second" },
      ],
    };
    expect(await runAsl(beating(), { answers: { A: both } })).toMatchObject({ output: "first", callbacks: ["2 A: accepted", "2 A: refused"] });
  });
  it("takes a callback that overtakes the function's own return", async () => {
    const run = await runAsl(beating(), { answers: { A: { seconds: 5, callbacks: [{ afterSeconds: 2, output: "early" }] } } });
    expect(run).toMatchObject({ output: "early", seconds: 2 });
  });
  it("refuses a callback to an execution that was stopped", async () => {
    const run = await runAsl(beating(), { answers: { A: completes(1, 5) }, meanwhile: [{ atSeconds: 1, act: (run) => run.stop() }] });
    expect(run).toMatchObject({ status: "ABORTED", callbacks: ["5 A: refused"] });
  });
  it("refuses a callback to a branch that a sibling ended", async () => {
    const branches = [flow("B", tokenTask()), flow("C", lambdaTask())];
    const run = await runAsl(machine({ A: { Type: "Parallel", Branches: branches, Catch: caughtBy("D"), Next: "D" }, D: pass() }), {
      answers: { B: completes(1, 5), C: fails("E", "", 1) },
    });
    expect(run).toMatchObject({ status: "SUCCEEDED", seconds: 1, callbacks: ["5 B: refused"] });
  });
  it("waits for ever without a limit", async () => {
    const run = await runAsl(machine({ A: tokenTask({ TimeoutSeconds: undefined }) }), { answers: { A: silent } });
    expect(run.status).toBe("RUNNING");
  });
});

describe("starting another state machine", () => {
  const child = "arn:aws:states:us-east-1:111122223333:stateMachine:child";
  const starts = (resource: string, more: object = {}) =>
    machine({
      A: {
        Type: "Task",
        Resource: `arn:aws:states:::states:${resource}`,
        Arguments: { StateMachineArn: child, Name: "c1", Input: { x: 1 } },
        TimeoutSeconds: 60,
        End: true,
        ...more,
      },
    });

  it("goes on at once without .sync:2", async () => {
    const run = await runAsl(starts("startExecution"), { children: { [child]: { status: "FAILED", seconds: 9 } } });
    expect(run).toMatchObject({
      status: "SUCCEEDED",
      seconds: 0,
      output: { ExecutionArn: "arn:aws:states:us-east-1:111122223333:execution:child:c1" },
    });
    expect(run.events.length).toBe(7);
  });
  it("waits with .sync:2 and gets the output as data", async () => {
    const run = await runAsl(starts("startExecution.sync:2", { Output: "{% $states.result.Output.y %}" }), {
      children: { [child]: { status: "SUCCEEDED", output: { y: 2 }, seconds: 9 } },
    });
    expect(run).toMatchObject({ output: 2, seconds: 9 });
    expect(run.events.length).toBe(8);
  });
  it.each(["FAILED", "TIMED_OUT", "ABORTED"] as const)(
    "reports a child that ended %s as States.TaskFailed, its error inside the cause",
    async (status) => {
      const run = await runAsl(starts("startExecution.sync:2"), { children: { [child]: { status, error: "Inner", cause: "why" } } });
      expect(run.error).toBe("States.TaskFailed");
      expect(JSON.parse(run.cause ?? "")).toMatchObject({ Status: status, Error: "Inner", Cause: "why", Input: '{"x":1}' });
    },
  );
  it("stops the child when it is stopped or times out itself", async () => {
    const options = { children: { [child]: { status: "SUCCEEDED" as const, seconds: 90 } } };
    expect((await runAsl(starts("startExecution.sync:2"), options)).children).toMatchObject([{ stopped: true }]);
    const stopped = await runAsl(starts("startExecution.sync:2"), { ...options, meanwhile: [{ atSeconds: 5, act: (run) => run.stop() }] });
    expect(stopped.children).toMatchObject([{ stopped: true }]);
  });
  it("fails by name when there is no such machine", async () => {
    expect((await runAsl(starts("startExecution"))).error).toBe("StepFunctions.StateMachineDoesNotExistException");
  });
});

describe("running the same twice", () => {
  it("gives the same history for the same seed", async () => {
    const map = {
      Type: "Map",
      Items: "{% $range(1, 9, 1) %}",
      MaxConcurrency: 3,
      ItemProcessor: flow("B", lambdaTask({ Retry: [{ ErrorEquals: ["E"], JitterStrategy: "FULL" }] })),
      End: true,
    };
    const script = ({ number }: { number: number }) => (number % 3 === 1 ? fails("E", "", 2) : answers("{% $uuid() %}", number % 4));
    const [first, second] = [
      await runAsl(machine({ A: map }), { answers: { B: script } }),
      await runAsl(machine({ A: map }), { answers: { B: script } }),
    ];
    expect(second.history).toEqual(first.history);
  });
});
