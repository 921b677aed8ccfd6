/**
 * Runs a state machine against scripted answers, without functions or services: for tests of order, retries and failure paths.
 *
 *     const run = await runAsl(readMachine("create-cluster"), { input, answers: { "Create endpoint": [fails("NotYet"), answers({ dns: "x" })] } });
 *     expect(run.visited).toEqual(["Open operation", ...]);
 */
import { readFileSync } from "node:fs";
import { readDefinition } from "../../local/asl/definition.js";
import {
  type ChildAnswer,
  type ChildCall,
  Execution,
  type ExecutionStatus,
  type FunctionAnswer,
  type FunctionCall,
  type HistoryEvent,
  type Host,
  type WaitingTask,
} from "../../local/asl/run.js";
import { VirtualClock } from "../../local/kernel/clock.js";
import { SeededRandom } from "../../local/kernel/random.js";

export interface Answer {
  /** What the function returns; ignored by a state that waits for its token. */
  readonly payload?: unknown;
  /** Error name and cause of a function that throws. */
  readonly error?: string;
  readonly cause?: string;
  /** How long the function runs. */
  readonly seconds?: number;
  /** What comes back by the task token, in order, each so many seconds after the function was called. */
  readonly callbacks?: readonly Callback[];
}
type Callback = { readonly afterSeconds: number } & (
  | { readonly output: unknown }
  | { readonly error: string; readonly cause?: string }
  | { readonly heartbeat: true }
);

interface ScriptedCall extends FunctionCall {
  /** 1 for the first call of this state, counted over all its entries. */
  readonly number: number;
  readonly atSeconds: number;
}
/** One answer for every call, one for each call in turn, or a function of the call. */
type Script = Answer | readonly Answer[] | ((call: ScriptedCall) => Answer);

export const answers = (payload: unknown, seconds = 0): Answer => ({ payload, seconds });
export const fails = (error: string, message = "scripted", seconds = 0): Answer => ({
  error,
  cause: JSON.stringify({ errorType: error, errorMessage: message, trace: [`${error}: ${message}`] }),
  seconds,
});
/** The function returns and later the token brings the output. */
export const completes = (output: unknown, afterSeconds = 1): Answer => ({ callbacks: [{ afterSeconds, output }] });
export const failsLater = (error: string, cause = "scripted", afterSeconds = 1): Answer => ({ callbacks: [{ afterSeconds, error, cause }] });
/** The function returns and nothing ever comes back. */
export const silent: Answer = {};

export interface RunOptions {
  readonly input?: unknown;
  /** By state name. */
  readonly answers?: Readonly<Record<string, Script>>;
  /** For states that `answers` does not name; without it such a call fails the test. */
  readonly otherwise?: Script;
  readonly seed?: number;
  /** Time between two states; 0 keeps a test's arithmetic plain. */
  readonly transitionSeconds?: number;
  /** What happens from outside: seconds after the start, and an act. */
  readonly meanwhile?: readonly { readonly atSeconds: number; readonly act: (run: { stop(error?: string, cause?: string): void }) => void }[];
  /** Child executions, by state machine ARN: how they end, or the definition to run, whose tasks get the same answers and callbacks. */
  readonly children?: Readonly<Record<string, Child | ChildMachine>>;
}
interface ChildMachine {
  readonly definition: string;
  /** So many times, at first, the child starts and the answer that says so gets lost. */
  readonly lostAnswers?: number;
}
interface Child {
  readonly status: Exclude<ExecutionStatus, "RUNNING">;
  readonly output?: unknown;
  readonly error?: string;
  readonly cause?: string;
  readonly seconds?: number;
}

export interface Run {
  readonly status: ExecutionStatus;
  readonly output: unknown;
  readonly error: string | undefined;
  readonly cause: string | undefined;
  /** Names of the states entered, in order. */
  readonly visited: readonly string[];
  /** Types of the history's events. */
  readonly events: readonly string[];
  readonly history: readonly HistoryEvent[];
  readonly transitions: number;
  readonly seconds: number;
  readonly calls: readonly ScriptedCall[];
  /** `<seconds> <state>: accepted|refused` for each callback. */
  readonly callbacks: readonly string[];
  /** In the order they were started. What one of them calls is among `calls`, what it enters is its own. */
  readonly children: readonly StartedChild[];
}
interface StartedChild extends ChildCall {
  readonly stopped: boolean;
  /** Of a child that ran a definition. */
  readonly execution?: Execution;
}

export const epochMs = Date.parse("2026-01-01T00:00:00.000Z");
export const executionArn = "arn:aws:states:us-east-1:111122223333:execution:test:run";

/** Text of a machine in `statemachines/`. */
export function readMachine(name: string): string {
  return readFileSync(new URL(`../../statemachines/${name}.asl.json`, import.meta.url), "utf8");
}

/** `${NameFunction}` and `${NameStateMachine}` become ARNs that end in the name. */
export function substitute(definition: string): string {
  return definition
    .replace(/\$\{(\w+StateMachine)\}/g, (_, name: string) => machineArn(name))
    .replace(/\$\{(\w+)\}/g, "arn:aws:lambda:us-east-1:111122223333:function:$1");
}
export const machineArn = (name: string) => `arn:aws:states:us-east-1:111122223333:stateMachine:${name}`;

/** @param definition ASL as text or as an object; placeholders become ARNs */
export async function runAsl(definition: string | object, options: RunOptions = {}): Promise<Run> {
  const text = typeof definition === "string" ? definition : JSON.stringify(definition);
  const clock = new VirtualClock(epochMs);
  const random = new SeededRandom(options.seed ?? 1);
  const seconds = () => (clock.now() - epochMs) / 1000;
  const calls: ScriptedCall[] = [];
  const callbacks: string[] = [];
  const children: (ChildCall & { stopped: boolean; execution?: Execution })[] = [];
  const tokens = new Map<string, WaitingTask>();
  const counts = new Map<string, number>();
  let lost = 0;

  function callBack(call: FunctionCall, callback: Callback, token: string): void {
    const task = tokens.get(token);
    callbacks.push(`${seconds()} ${call.state}: ${task ? "accepted" : "refused"}`);
    if (!task) return;
    if ("output" in callback) task.succeed(callback.output);
    else if ("error" in callback) task.fail(callback.error, callback.cause);
    else task.heartbeat();
  }

  async function invokeFunction(call: FunctionCall): Promise<FunctionAnswer> {
    const script = options.answers?.[call.state] ?? options.otherwise;
    const number = (counts.get(call.state) ?? 0) + 1;
    counts.set(call.state, number);
    const scripted = { ...call, number, atSeconds: seconds() };
    calls.push(scripted);
    if (script === undefined) throw new Error(`state ${call.state} calls its function, but the test has no answer for it`);
    const answer = typeof script === "function" ? script(scripted) : isList(script) ? script[number - 1] : script;
    if (answer === undefined) throw new Error(`state ${call.state} calls its function a ${number}th time, but the test has answers for fewer`);
    const token = [...tokens.keys()].find((each) => JSON.stringify(call.payload).includes(each));
    for (const callback of answer.callbacks ?? []) {
      if (token === undefined) throw new Error(`state ${call.state} hands on no task token, but the test calls back`);
      clock.after(callback.afterSeconds * 1000, () => callBack(call, callback, token));
    }
    if (answer.seconds) await new Promise<void>((resolve) => clock.after((answer.seconds ?? 0) * 1000, resolve));
    return answer.error === undefined ? { payload: answer.payload ?? null } : { error: answer.error, cause: answer.cause ?? "" };
  }

  const host: Host = {
    clock,
    random,
    region: "us-east-1",
    transitionMs: () => 1000 * (options.transitionSeconds ?? 0),
    invokeFunction,
    startChild(call) {
      const child = options.children?.[call.stateMachineArn];
      if (!child)
        return { error: "StepFunctions.StateMachineDoesNotExistException", cause: `State Machine Does Not Exist: '${call.stateMachineArn}'` };
      if ("definition" in child) {
        const answer = startMachine(child.definition, call);
        return lost++ < (child.lostAnswers ?? 0) ? { error: "StepFunctions.SdkClientException", cause: "scripted: the answer was lost" } : answer;
      }
      const started = { ...call, stopped: false };
      children.push(started);
      const listeners: (() => void)[] = [];
      const name = call.name ?? "child";
      const about = {
        arn: `${call.stateMachineArn.replace(":stateMachine:", ":execution:")}:${name}`,
        name,
        input: call.input ?? {},
        history: [],
        transitions: 0,
      };
      const view = { ...about, status: "RUNNING" as ExecutionStatus, output: undefined as unknown, error: child.error, cause: child.cause };
      const execution = { ...view, startMs: clock.now(), stopMs: undefined as number | undefined };
      clock.after((child.seconds ?? 1) * 1000, () => {
        if (started.stopped) return;
        Object.assign(execution, { status: child.status, output: child.output, stopMs: clock.now() });
        for (const then of listeners) then();
      });
      const stop = () => {
        if (execution.status === "RUNNING") started.stopped = true;
      };
      return { execution, machineArn: call.stateMachineArn, stop, ended: (then) => listeners.push(then) };
    },
    openToken(task) {
      const token = `token-${random.hex(16)}`;
      tokens.set(token, task);
      return token;
    },
    closeToken: (token) => void tokens.delete(token),
    crash: (error) => clock.fail(error),
  };

  /** As StartExecution does: a second start with the name and input of a running execution is that execution, and any other with its name is refused. */
  function startMachine(definition: string, call: ChildCall): ChildAnswer {
    const name = call.name ?? "child";
    const input: unknown = JSON.parse(JSON.stringify(call.input ?? {}));
    const same = children.find((child) => child.stateMachineArn === call.stateMachineArn && child.execution?.name === name);
    const isSame = same?.execution?.status === "RUNNING" && JSON.stringify(same.execution.input) === JSON.stringify(input);
    if (same && !isSame) return { error: "StepFunctions.ExecutionAlreadyExistsException", cause: `Execution Already Exists: '${name}'` };
    const started = same ?? { ...call, stopped: false, execution: executionOf(definition, call.stateMachineArn, name, input) };
    const execution = started.execution as Execution;
    if (!same) {
      children.push(started);
      execution.begin();
    }
    const stop = () => {
      started.stopped ||= execution.status === "RUNNING";
      execution.stop();
    };
    return { execution, machineArn: call.stateMachineArn, stop, ended: (then) => execution.ended(then) };
  }
  function executionOf(definition: string, arn: string, name: string, input: unknown): Execution {
    const machineName = arn.slice(arn.lastIndexOf(":") + 1);
    const start = {
      machine: readDefinition(substitute(definition)),
      machineArn: arn,
      machineName,
      roleArn: "arn:aws:iam::111122223333:role/test",
      arn: `${arn.replace(":stateMachine:", ":execution:")}:${name}`,
      name,
      input,
    };
    return new Execution(start, host);
  }

  const execution = executionOf(text, machineArn("test"), "run", options.input ?? {});
  for (const { atSeconds, act } of options.meanwhile ?? []) clock.after(atSeconds * 1000, () => act(execution));
  execution.begin();
  await clock.runUntilIdle();
  const { status, output, error, cause, visited, history, transitions } = execution;
  const elapsed = ((execution.stopMs ?? clock.now()) - epochMs) / 1000;
  return {
    status,
    output,
    error,
    cause,
    visited,
    events: history.map(({ type }) => type),
    history,
    transitions,
    seconds: elapsed,
    calls,
    callbacks,
    children,
  };
}

function isList(script: Script): script is readonly Answer[] {
  return Array.isArray(script);
}

/** A whole machine around a few states, the first of them its start. */
export function machine(states: Readonly<Record<string, unknown>>, more: object = {}): object {
  return { QueryLanguage: "JSONata", StartAt: Object.keys(states)[0], States: states, ...more };
}
/** A task that calls a function of its state's name. */
export function lambdaTask(more: object = { End: true }): object {
  const ends = "Next" in more || "End" in more ? {} : { End: true };
  const payload = "{% $states.input %}";
  return {
    Type: "Task",
    Resource: "arn:aws:states:::lambda:invoke",
    Arguments: { FunctionName: "f", Payload: payload },
    TimeoutSeconds: 60,
    ...ends,
    ...more,
  };
}
/** A task that hands its token to a function. */
export function tokenTask(more: object = { End: true }): object {
  const ends = "Next" in more || "End" in more ? {} : { End: true };
  const handsOn = { FunctionName: "f", Payload: { token: "{% $states.context.Task.Token %}" } };
  return { Type: "Task", Resource: "arn:aws:states:::lambda:invoke.waitForTaskToken", Arguments: handsOn, TimeoutSeconds: 600, ...ends, ...more };
}
