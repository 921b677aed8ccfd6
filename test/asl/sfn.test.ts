import { beforeEach, describe, expect, it } from "vitest";
import { createSfn, executionArn, type Sfn, type SfnCloud } from "../../local/aws/sfn.js";
import { VirtualClock } from "../../local/kernel/clock.js";
import type { Invocation, InvocationOutcome } from "../../local/kernel/cloud.js";
import { AwsError, type Caller, type CloudEvent, type Permission, Unmodelled, type World } from "../../local/kernel/contract.js";
import { SeededRandom } from "../../local/kernel/random.js";
import { epochMs, lambdaTask, machine, tokenTask } from "./harness.js";

const arnOf = (name: string) => `arn:aws:states:us-east-1:111122223333:stateMachine:${name}`;
const role = "arn:aws:iam::111122223333:role/workflows";
const wait = (seconds: number) => ({ Type: "Wait", Seconds: seconds, End: true });

/** A cloud of Step Functions alone: functions answer as told, events are kept. */
class Alone {
  readonly clock = new VirtualClock(epochMs);
  readonly events: CloudEvent[] = [];
  readonly invocations: Invocation[] = [];
  readonly failures: Error[] = [];
  denied: string[] = [];
  answer: (invocation: Invocation) => InvocationOutcome = () => ({ ok: true, payload: "done", requestId: "r-1" });
  readonly sfn: Sfn;

  constructor(seed = 1) {
    const cloud: SfnCloud = {
      clock: this.clock,
      random: new SeededRandom(seed),
      account: "111122223333",
      region: "us-east-1",
      publish: (event) => void this.events.push(event),
      note: () => {},
      allows: (principal, { action }) => principal === role && !this.denied.includes(action),
      fail: (error) => {
        this.failures.push(error);
      },
      invoke: async (invocation) => {
        this.invocations.push(invocation);
        return this.answer(invocation);
      },
    };
    this.sfn = createSfn(cloud);
    const machines = {
      waits: machine({ W: wait(60) }),
      asks: machine({ A: lambdaTask() }),
      token: machine({ T: tokenTask({ HeartbeatSeconds: 30 }) }),
      ends: machine({ E: { Type: "Succeed" } }),
    };
    for (const [name, definition] of Object.entries(machines)) this.register(name, definition);
  }

  register(name: string, definition: object): void {
    this.sfn.registerStateMachine({ arn: arnOf(name), name, definition: JSON.stringify(definition), roleArn: role });
  }
  call(operation: string, input: object): any {
    return this.sfn.operations[operation]?.call(input, {} as Caller, {} as World);
  }
  permissions(operation: string, input: object): readonly Permission[] {
    return this.sfn.operations[operation]?.permissions(input, {} as World) ?? [];
  }
  start(name: string, execution?: string, input: unknown = {}): string {
    return this.call("StartExecution", { stateMachineArn: arnOf(name), name: execution, input: JSON.stringify(input) }).executionArn;
  }
  /** The token that the function was handed. */
  get token(): string {
    return (this.invocations.at(-1)?.payload as { token: string }).token;
  }
}

/** The error's code and message. */
function refusal(act: () => unknown): string {
  try {
    act();
    return "accepted";
  } catch (error) {
    expect(error).toBeInstanceOf(AwsError);
    return `${(error as AwsError).code}: ${(error as AwsError).message}`;
  }
}

let alone: Alone;
beforeEach(() => {
  alone = new Alone();
});

describe("StartExecution", () => {
  it("runs the machine under its name, and DescribeExecution tells how it stands", async () => {
    const executionArn = alone.start("waits", "e1", { x: 1 });
    expect(executionArn).toBe("arn:aws:states:us-east-1:111122223333:execution:waits:e1");
    expect(alone.call("DescribeExecution", { executionArn })).toMatchObject({
      status: "RUNNING",
      input: '{"x":1}',
      startDate: new Date(epochMs),
      name: "e1",
      stateMachineArn: arnOf("waits"),
    });
    await alone.clock.runUntilIdle();
    const ended = alone.call("DescribeExecution", { executionArn });
    expect(ended).toMatchObject({ status: "SUCCEEDED", output: '{"x":1}' });
    expect(ended.stopDate.getTime()).toBeGreaterThanOrEqual(epochMs + 60_000);
  });
  it("answers the same name and input with the same execution while that runs", () => {
    const first = alone.start("waits", "e1", { x: 1 });
    expect(alone.start("waits", "e1", { x: 1 })).toBe(first);
    expect(alone.sfn.executions()).toHaveLength(1);
  });
  it("refuses the same name with another input", () => {
    alone.start("waits", "e1", { x: 1 });
    expect(refusal(() => alone.start("waits", "e1", { x: 2 }))).toBe(
      `ExecutionAlreadyExists: Execution Already Exists: '${executionArn(arnOf("waits"), "e1")}'`,
    );
  });
  it("keeps a name for 90 days after the execution has ended", async () => {
    alone.start("ends", "e1");
    await alone.clock.runUntilIdle();
    expect(refusal(() => alone.start("ends", "e1"))).toContain("ExecutionAlreadyExists");
    await alone.clock.runUntil(epochMs + 89 * 86_400_000);
    expect(refusal(() => alone.start("ends", "e1"))).toContain("ExecutionAlreadyExists");
    await alone.clock.runUntil(epochMs + 91 * 86_400_000);
    expect(refusal(() => alone.start("ends", "e1"))).toBe("accepted");
  });
  it("lets two machines use one name", () => {
    expect(alone.start("waits", "e1")).not.toBe(alone.start("ends", "e1"));
  });
  it("makes up a name that is a UUID", () => {
    expect(alone.start("ends")).toMatch(/:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });
  it.each(["a b", "a:b", "a/b", "a*b", "a<b", "a$b", "a\u0000b", "a\u009fb", "a`b", "", "x".repeat(81)])("refuses the name %j", (name) => {
    expect(refusal(() => alone.start("ends", name))).toBe(`InvalidName: Invalid Name: '${name}'`);
  });
  it.each(["a.b", "a-b_c", "x".repeat(80), "ä"])("takes the name %j", (name) => {
    expect(refusal(() => alone.start("ends", name))).toBe("accepted");
  });
  it("refuses an input that is not JSON, or too large, or a machine that is not there", () => {
    const start = (more: object) => refusal(() => alone.call("StartExecution", { stateMachineArn: arnOf("ends"), ...more }));
    expect(start({ input: "not json" })).toContain("InvalidExecutionInput: Invalid State Machine Execution Input: '");
    expect(start({ input: JSON.stringify("é".repeat(131_072)) })).toContain("InvalidExecutionInput");
    expect(start({ stateMachineArn: arnOf("nope") })).toBe(`StateMachineDoesNotExist: State Machine Does Not Exist: '${arnOf("nope")}'`);
    expect(start({ stateMachineArn: "nope" })).toBe("InvalidArn: Invalid Arn: 'nope'");
    expect(() => alone.call("StartExecution", { stateMachineArn: `${arnOf("ends")}:1` })).toThrow(Unmodelled);
  });
});

describe("StopExecution", () => {
  it("ends an execution as ABORTED, and leaves an ended one alone", async () => {
    const executionArn = alone.start("waits", "e1");
    await alone.clock.runUntil(epochMs + 5000);
    expect(alone.call("StopExecution", { executionArn, error: "Stopped", cause: "by hand" })).toEqual({ stopDate: new Date(epochMs + 5000) });
    expect(alone.call("DescribeExecution", { executionArn })).toMatchObject({ status: "ABORTED", error: "Stopped", cause: "by hand" });
    await alone.clock.runUntil(epochMs + 9000);
    expect(alone.call("StopExecution", { executionArn })).toEqual({ stopDate: new Date(epochMs + 5000) });
    expect(alone.sfn.running()).toEqual([]);
  });
  it("refuses one that does not exist, and a cause that is too long", () => {
    expect(refusal(() => alone.call("StopExecution", { executionArn: "x" }))).toBe("ExecutionDoesNotExist: Execution Does Not Exist: 'x'");
    const executionArn = alone.start("waits");
    expect(refusal(() => alone.call("StopExecution", { executionArn, cause: "x".repeat(32_769) }))).toContain("ValidationException");
  });
});

describe("ListExecutions and ListStateMachines", () => {
  it("list the newest first, by status, page by page", async () => {
    for (const name of ["a", "b", "c"]) {
      alone.start("waits", name);
      await alone.clock.runUntil(alone.clock.now() + 1000);
    }
    alone.call("StopExecution", { executionArn: executionArn(arnOf("waits"), "b") });
    const list = (more: object) => alone.call("ListExecutions", { stateMachineArn: arnOf("waits"), ...more });
    const namesOf = (page: { executions: { name: string }[] }) => page.executions.map(({ name }) => name);
    expect(namesOf(list({}))).toEqual(["c", "b", "a"]);
    expect(namesOf(list({ statusFilter: "RUNNING" }))).toEqual(["c", "a"]);
    const first = list({ maxResults: 2 });
    expect(namesOf(first)).toEqual(["c", "b"]);
    const second = list({ maxResults: 2, nextToken: first.nextToken });
    expect(namesOf(second)).toEqual(["a"]);
    expect(second.nextToken).toBeUndefined();
    expect(refusal(() => list({ nextToken: "zzz" }))).toContain("InvalidToken");
    expect(refusal(() => list({ maxResults: 1001 }))).toContain("ValidationException");
  });
  it("list and describe the machines", () => {
    expect(alone.call("ListStateMachines", {}).stateMachines.map(({ name }: { name: string }) => name)).toEqual(["asks", "ends", "token", "waits"]);
    const described = alone.call("DescribeStateMachine", { stateMachineArn: arnOf("ends") });
    expect(described).toMatchObject({ name: "ends", roleArn: role, status: "ACTIVE", type: "STANDARD", creationDate: new Date(epochMs) });
    expect(JSON.parse(described.definition)).toMatchObject({ StartAt: "E" });
  });
});

describe("GetExecutionHistory", () => {
  it("gives events as AWS does, data as JSON text", async () => {
    const executionArn = alone.start("asks", "e1", { x: 1 });
    await alone.clock.runUntilIdle();
    const { events } = alone.call("GetExecutionHistory", { executionArn });
    expect(events.map(({ type }: { type: string }) => type)).toEqual([
      ...["ExecutionStarted", "TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSucceeded", "TaskStateExited", "ExecutionSucceeded"],
    ]);
    expect(events[0]).toEqual({
      id: 1,
      previousEventId: 0,
      timestamp: new Date(epochMs),
      type: "ExecutionStarted",
      executionStartedEventDetails: { input: '{"x":1}', inputDetails: { truncated: false }, roleArn: role },
    });
    expect(events[2].taskScheduledEventDetails).toEqual({
      ...{ resourceType: "lambda", resource: "invoke", region: "us-east-1", timeoutInSeconds: 60 },
      parameters: '{"FunctionName":"f","Payload":{"x":1}}',
    });
    expect(JSON.parse(events[4].taskSucceededEventDetails.output)).toMatchObject({ Payload: "done", StatusCode: 200 });
  });
  it("goes backwards, in pages, and without data when asked", async () => {
    const executionArn = alone.start("asks", "e1");
    await alone.clock.runUntilIdle();
    const page = alone.call("GetExecutionHistory", { executionArn, reverseOrder: true, maxResults: 3, includeExecutionData: false });
    expect(page.events.map(({ id }: { id: number }) => id)).toEqual([7, 6, 5]);
    expect(page.events[2].taskSucceededEventDetails).toEqual({ resource: "invoke", resourceType: "lambda" });
    const next = alone.call("GetExecutionHistory", { executionArn, reverseOrder: true, maxResults: 100, nextToken: page.nextToken });
    expect(next.events.map(({ id }: { id: number }) => id)).toEqual([4, 3, 2, 1]);
  });
  it("shows assigned variables as JSON text", async () => {
    alone.register("assigns", machine({ P: { Type: "Pass", Assign: { a: { b: 1 } }, End: true } }));
    const executionArn = alone.start("assigns");
    await alone.clock.runUntilIdle();
    const { events } = alone.call("GetExecutionHistory", { executionArn });
    expect(events[2].stateExitedEventDetails.assignedVariables).toEqual({ a: '{"b":1}' });
  });
});

describe("task tokens", () => {
  async function waiting(): Promise<string> {
    alone.start("token", "e1");
    await alone.clock.runUntil(epochMs + 10_000);
    return alone.token;
  }
  const describeIt = () => alone.call("DescribeExecution", { executionArn: executionArn(arnOf("token"), "e1") });

  it("complete a task with what is sent", async () => {
    const taskToken = await waiting();
    expect(alone.call("SendTaskSuccess", { taskToken, output: '{"a":1}' })).toEqual({});
    await alone.clock.runUntilIdle();
    expect(describeIt()).toMatchObject({ status: "SUCCEEDED", output: '{"a":1}' });
  });
  it("fail it as is said", async () => {
    alone.call("SendTaskFailure", { taskToken: await waiting(), error: "NodeLost", cause: "gone" });
    await alone.clock.runUntilIdle();
    expect(describeIt()).toMatchObject({ status: "FAILED", error: "NodeLost", cause: "gone" });
  });
  it("keep it alive", async () => {
    const taskToken = await waiting();
    alone.call("SendTaskHeartbeat", { taskToken });
    await alone.clock.runUntil(epochMs + 35_000);
    expect(describeIt().status).toBe("RUNNING");
    await alone.clock.runUntilIdle();
    expect(describeIt()).toMatchObject({ status: "FAILED", error: "States.Timeout" });
  });
  it("are dead once the task has ended, whichever way", async () => {
    const taskToken = await waiting();
    alone.call("SendTaskSuccess", { taskToken, output: "1" });
    const late = "TaskTimedOut: Task Timed Out: 'Provided task does not exist anymore'";
    expect(refusal(() => alone.call("SendTaskSuccess", { taskToken, output: "1" }))).toBe(late);
    expect(refusal(() => alone.call("SendTaskFailure", { taskToken }))).toBe(late);
    expect(refusal(() => alone.call("SendTaskHeartbeat", { taskToken }))).toBe(late);
  });
  it("are dead once the execution was stopped", async () => {
    const taskToken = await waiting();
    alone.call("StopExecution", { executionArn: executionArn(arnOf("token"), "e1") });
    expect(refusal(() => alone.call("SendTaskSuccess", { taskToken, output: "1" }))).toContain("TaskTimedOut");
  });
  it("tell nonsense from an unknown task", async () => {
    const taskToken = await waiting();
    expect(refusal(() => alone.call("SendTaskSuccess", { taskToken: "nonsense", output: "1" }))).toBe("InvalidToken: Invalid Token: 'Invalid token'");
    const other = taskToken.slice(0, -2) + (taskToken.endsWith("00") ? "11" : "00");
    expect(refusal(() => alone.call("SendTaskSuccess", { taskToken: other, output: "1" }))).toContain("TaskDoesNotExist");
  });
  it("take only JSON of at most 256 KiB, and the task goes on waiting", async () => {
    const taskToken = await waiting();
    expect(refusal(() => alone.call("SendTaskSuccess", { taskToken, output: "{" }))).toContain("InvalidOutput");
    expect(refusal(() => alone.call("SendTaskSuccess", { taskToken, output: JSON.stringify("x".repeat(262_143)) }))).toContain("InvalidOutput");
    expect(refusal(() => alone.call("SendTaskFailure", { taskToken, error: "x".repeat(257) }))).toContain("ValidationException");
    expect(refusal(() => alone.call("SendTaskSuccess", { taskToken, output: "1" }))).toBe("accepted");
  });
});

describe("functions and child executions", () => {
  it("are called with the machine's role, and their failures keep their names", async () => {
    alone.answer = () => ({ ok: false, kind: "handler", error: "NotYet", cause: '{"errorType":"NotYet"}', requestId: "r-1" });
    const executionArn = alone.start("asks");
    await alone.clock.runUntilIdle();
    expect(alone.invocations).toMatchObject([{ function: "f", kind: "sync", by: { role } }]);
    expect(alone.call("DescribeExecution", { executionArn })).toMatchObject({ status: "FAILED", error: "NotYet", cause: '{"errorType":"NotYet"}' });
  });
  const starts = (more: object = {}) =>
    machine({
      A: {
        Type: "Task",
        Resource: "arn:aws:states:::states:startExecution.sync:2",
        Arguments: { StateMachineArn: arnOf("waits"), Name: "child", Input: { x: 1 }, ...more },
        TimeoutSeconds: 600,
        End: true,
      },
    });
  it("run a child to its end", async () => {
    alone.register("starts", starts());
    const parent = alone.start("starts");
    await alone.clock.runUntilIdle();
    expect(JSON.parse(alone.call("DescribeExecution", { executionArn: parent }).output)).toMatchObject({
      Status: "SUCCEEDED",
      Output: { x: 1 },
      Name: "child",
    });
  });
  it("stop a child with its parent, if the role may", async () => {
    const child = executionArn(arnOf("waits"), "child");
    for (const [denied, status] of [
      [[], "ABORTED"],
      [["states:StopExecution"], "RUNNING"],
    ] as const) {
      alone = new Alone();
      alone.denied = [...denied];
      alone.register("starts", starts());
      const parent = alone.start("starts");
      await alone.clock.runUntil(epochMs + 5000);
      alone.call("StopExecution", { executionArn: parent });
      expect(alone.call("DescribeExecution", { executionArn: child }).status).toBe(status);
    }
  });
  it.each([
    [{}, ["states:StartExecution"], "StepFunctions.AccessDeniedException"],
    [{ StateMachineArn: arnOf("nope") }, [], "StepFunctions.StateMachineDoesNotExistException"],
    [{ Name: "a b" }, [], "StepFunctions.InvalidNameException"],
    [{ Input: "{% '{' %}" }, [], "StepFunctions.InvalidExecutionInputException"],
  ])("fail by name: %j", async (more, denied, error) => {
    alone.denied = denied;
    alone.register("starts", starts(more));
    const parent = alone.start("starts");
    await alone.clock.runUntilIdle();
    expect(alone.call("DescribeExecution", { executionArn: parent })).toMatchObject({ status: "FAILED", error });
  });
  it("stop the world when a function's runtime breaks, rather than the execution", async () => {
    alone.answer = () => {
      throw new Unmodelled("no such thing");
    };
    alone.start("asks");
    await alone.clock.runUntilIdle();
    expect(alone.failures.map(({ name }) => name)).toEqual(["Unmodelled"]);
  });
});

describe("status events", () => {
  it("say when an execution begins and how it ends, with its input and output as text", async () => {
    alone.start("ends", "e1", { x: 1 });
    await alone.clock.runUntilIdle();
    expect(alone.events).toMatchObject([
      { detail: { status: "RUNNING", stopDate: null, output: null } },
      { detail: { status: "SUCCEEDED", output: '{"x":1}', outputDetails: { included: true } } },
    ]);
    expect(alone.events[0]).toMatchObject({
      source: "aws.states",
      detailType: "Step Functions Execution Status Change",
      resources: [executionArn(arnOf("ends"), "e1")],
      detail: {
        executionArn: executionArn(arnOf("ends"), "e1"),
        stateMachineArn: arnOf("ends"),
        name: "e1",
        startDate: epochMs,
        input: '{"x":1}',
        error: null,
        cause: null,
      },
    });
    expect(alone.events[0]?.bus).toBeUndefined();
  });
  it("leave out an input that is too large for an event", () => {
    alone.start("ends", "e1", "x".repeat(250 * 1024));
    expect(alone.events[0]).toMatchObject({ detail: { input: null, inputDetails: { included: false } } });
  });
});

describe("the rest of the service", () => {
  it("asks for the permissions IAM knows", async () => {
    alone.start("token", "e1");
    await alone.clock.runUntil(epochMs + 10_000);
    const execution = executionArn(arnOf("token"), "e1");
    expect(alone.permissions("StartExecution", { stateMachineArn: arnOf("token") })).toEqual([
      { action: "states:StartExecution", resource: arnOf("token") },
    ]);
    expect(alone.permissions("DescribeExecution", { executionArn: execution })).toEqual([
      { action: "states:DescribeExecution", resource: execution },
    ]);
    expect(alone.permissions("SendTaskSuccess", { taskToken: alone.token })).toEqual([
      { action: "states:SendTaskSuccess", resource: arnOf("token") },
    ]);
    expect(alone.permissions("SendTaskSuccess", { taskToken: "nonsense" })).toEqual([{ action: "states:SendTaskSuccess", resource: "*" }]);
  });
  it("does not redrive", () => {
    expect(() => alone.call("RedriveExecution", { executionArn: "x" })).toThrow(Unmodelled);
  });
  it("counts transitions and events of each execution", async () => {
    const arn = alone.start("asks");
    await alone.clock.runUntilIdle();
    expect(alone.sfn.execution(arn)).toMatchObject({ transitions: 1, status: "SUCCEEDED" });
    expect(alone.sfn.execution(arn)?.history).toHaveLength(7);
  });
  it("is kept between starts once nothing runs, histories, names and dead tokens included", async () => {
    alone.start("token", "e1");
    await alone.clock.runUntil(epochMs + 10_000);
    expect(() => alone.sfn.save()).toThrow(`cannot be saved while executions run: ${executionArn(arnOf("token"), "e1")}`);
    const taskToken = alone.token;
    alone.call("SendTaskSuccess", { taskToken, output: "1" });
    await alone.clock.runUntilIdle();
    const later = new Alone();
    later.sfn.load(structuredClone(alone.sfn.save()));
    const about = { executionArn: executionArn(arnOf("token"), "e1") };
    expect(later.call("DescribeExecution", about)).toEqual(alone.call("DescribeExecution", about));
    expect(later.call("GetExecutionHistory", about)).toEqual(alone.call("GetExecutionHistory", about));
    expect(refusal(() => later.start("token", "e1"))).toContain("ExecutionAlreadyExists");
    expect(refusal(() => later.call("SendTaskSuccess", { taskToken, output: "1" }))).toContain("TaskTimedOut");
  });
  it("does the same for the same seed", async () => {
    const run = async (seed: number) => {
      const world = new Alone(seed);
      const arn = world.start("asks", "e1");
      await world.clock.runUntilIdle();
      return world.sfn.execution(arn)?.history;
    };
    expect(await run(4)).toEqual(await run(4));
    expect(await run(4)).not.toEqual(await run(5));
  });
});
