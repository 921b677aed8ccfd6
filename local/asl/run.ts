/**
 * Runs one execution of a state machine over the virtual clock, as Step Functions Standard does.
 *
 * Every state is a chain of awaits on a strand. Whoever ends a strand (a sibling's failure, a stop, a timeout) cuts it: its timers are cancelled and
 * whatever it awaited never comes back, so that no code after the cut runs. History events are written as AWS writes them, in AWS's order.
 *
 * Sources: Amazon States Language specification; Step Functions developer guide (error handling, JSONata, variables, service integrations, quotas);
 * order of events and wording as recorded from the service.
 */
import type { Clock, Random, Timer } from "../kernel/contract.js";
import { Unmodelled } from "../kernel/contract.js";
import {
  argumentsOf,
  type Catcher,
  type Exit,
  type Flow,
  isTimestamp,
  isWhole,
  type Machine,
  type MapState,
  type ParallelState,
  type Retrier,
  type State,
  type TaskState,
  type Template,
} from "./definition.js";
import { unsupported } from "./jsonata.js";

export const historyLimit = 25_000;
export const payloadLimitBytes = 262_144;
/** Step Functions runs about so many iterations of an Inline Map at once, whatever MaxConcurrency says. */
const inlineMapConcurrency = 40;
const variablesLimitBytes = 10 * 1024 * 1024;

export type ExecutionStatus = "RUNNING" | "SUCCEEDED" | "FAILED" | "TIMED_OUT" | "ABORTED";

/** An event as GetExecutionHistory gives it; data in `details` is still data, not yet text. */
export interface HistoryEvent {
  readonly id: number;
  readonly previousEventId: number;
  readonly atMs: number;
  readonly type: string;
  /** Name of the details member, such as `taskFailedEventDetails`, and what is in it. */
  readonly details?: readonly [string, Readonly<Record<string, unknown>>];
}

/** What anybody may know of an execution, running or ended. */
export interface ExecutionView {
  readonly arn: string;
  readonly name: string;
  readonly status: ExecutionStatus;
  readonly input: unknown;
  readonly output: unknown;
  readonly error: string | undefined;
  readonly cause: string | undefined;
  readonly startMs: number;
  readonly stopMs: number | undefined;
  readonly history: readonly HistoryEvent[];
  /** Billed: every state entered and every retry. */
  readonly transitions: number;
}

type Outcome =
  | { readonly ok: true; readonly result: unknown }
  | { readonly ok: false; readonly error: string | undefined; readonly cause: string | undefined };

export interface FunctionCall {
  readonly functionName: string;
  readonly payload: unknown;
  /** Name of the state that calls. */
  readonly state: string;
  readonly execution: string;
}
export type FunctionAnswer =
  | { readonly payload: unknown; readonly requestId?: string }
  | { readonly error: string; readonly cause: string; readonly requestId?: string };

export interface ChildCall {
  readonly stateMachineArn: string;
  readonly name: string | undefined;
  /** Data, or the text of it; `{}` when undefined. */
  readonly input: unknown;
  readonly state: string;
}
export type ChildAnswer =
  | {
      readonly execution: ExecutionView;
      readonly machineArn: string;
      /** Stops the child, as far as the parent may. */
      stop(): void;
      ended(then: () => void): void;
    }
  | { readonly error: string; readonly cause: string };

/** A task that waits for its token. The service finds it by the token and tells it what came. */
export interface WaitingTask {
  succeed(output: unknown): void;
  fail(error: string | undefined, cause: string | undefined): void;
  heartbeat(): void;
}

/** What an execution needs of the world. */
export interface Host {
  readonly clock: Clock;
  readonly random: Random;
  readonly region: string;
  /** Milliseconds between two states. */
  transitionMs(): number;
  invokeFunction(call: FunctionCall): Promise<FunctionAnswer>;
  startChild(call: ChildCall): ChildAnswer;
  openToken(task: WaitingTask): string;
  closeToken(token: string): void;
  /** The runner met something it does not model, or a fault of its own: the world must stop. */
  crash(error: unknown): void;
}

export interface Start {
  readonly machine: Machine;
  readonly machineArn: string;
  readonly machineName: string;
  readonly roleArn: string;
  readonly arn: string;
  readonly name: string;
  readonly input: unknown;
}

/** A state's failure, by the name that Retry and Catch know it by. */
class StateFailure extends Error {
  constructor(
    readonly error: string | undefined,
    readonly reason: string | undefined,
  ) {
    super(`${error}: ${reason}`);
  }
}

/** Variables of one scope. Inner scopes read the outer ones and assign only their own. */
class Frame {
  private readonly values = new Map<string, unknown>();
  constructor(private readonly outer?: Frame) {}

  get(name: string): unknown {
    return this.values.has(name) ? this.values.get(name) : this.outer?.get(name);
  }
  set(name: string, value: unknown): void {
    this.values.set(name, value);
  }
  bytes(): number {
    return [...this.values.values()].reduce<number>((sum, value) => sum + jsonBytes(value), this.outer?.bytes() ?? 0);
  }
}

/** One line of control: the execution itself, a branch, an iteration. */
class Strand {
  alive = true;
  /** Id of the event before the next one. */
  previous = 0;
  state: State | undefined;
  readonly inner = new Set<Strand>();
  private readonly onCut = new Set<() => void>();

  /** Map iteration this strand runs, for its events. */
  constructor(readonly iteration?: { readonly index: number; readonly name: string }) {}

  /** Runs when the strand is cut; answers how to call that off. */
  whenCut(act: () => void): () => void {
    this.onCut.add(act);
    return () => this.onCut.delete(act);
  }
  cut(): void {
    if (!this.alive) return;
    this.alive = false;
    for (const strand of this.inner) strand.cut();
    for (const act of this.onCut) act();
    this.onCut.clear();
  }
}

interface Step {
  readonly strand: Strand;
  readonly frame: Frame;
  readonly state: State;
  readonly input: unknown;
  readonly enteredId: number;
  readonly context: Record<string, unknown>;
}

export class Execution implements ExecutionView {
  status: ExecutionStatus = "RUNNING";
  output: unknown;
  error: string | undefined;
  cause: string | undefined;
  stopMs: number | undefined;
  transitions = 0;
  readonly history: HistoryEvent[] = [];
  /** Names of the states entered, in order, over all strands. */
  readonly visited: string[] = [];
  readonly startMs: number;
  readonly arn: string;
  readonly name: string;
  readonly input: unknown;
  private readonly root = new Strand();
  private readonly listeners: (() => void)[] = [];
  private readonly execution: Readonly<Record<string, unknown>>;
  private readonly stateMachine: Readonly<Record<string, unknown>>;
  private deadline: Timer | undefined;

  constructor(
    private readonly start: Start,
    private readonly host: Host,
  ) {
    this.arn = start.arn;
    this.name = start.name;
    this.input = start.input;
    this.startMs = host.clock.now();
    this.execution = {
      Id: start.arn,
      Input: start.input,
      StartTime: new Date(this.startMs).toISOString(),
      Name: start.name,
      RoleArn: start.roleArn,
      RedriveCount: 0,
    };
    this.stateMachine = { Id: start.machineArn, Name: start.machineName };
  }

  /** Begins. The first state is entered a transition later. */
  begin(): void {
    const { machine, input, roleArn } = this.start;
    this.write(this.root, "ExecutionStarted", ["executionStartedEventDetails", { input, inputDetails: whole, roleArn }]);
    this.root.previous = 0;
    if (machine.timeoutSeconds !== undefined) {
      this.deadline = this.host.clock.after(machine.timeoutSeconds * 1000, () =>
        this.end("TIMED_OUT", { error: "States.Timeout", cause: undefined }),
      );
    }
    this.flow(machine, this.root, new Frame(), input, {}).then(
      (output) => this.end("SUCCEEDED", { output }),
      (failure: unknown) => {
        if (failure instanceof StateFailure) this.end("FAILED", { error: failure.error, cause: failure.reason });
        else this.host.crash(failure);
      },
    );
  }

  /** StopExecution. */
  stop(error?: string, cause?: string): void {
    this.end("ABORTED", { error, cause });
  }

  /** Calls back once the execution has ended. */
  ended(then: () => void): void {
    if (this.status === "RUNNING") this.listeners.push(then);
    else then();
  }

  private end(
    status: Exclude<ExecutionStatus, "RUNNING">,
    result: { readonly output?: unknown; readonly error?: string | undefined; readonly cause?: string | undefined },
  ): void {
    if (this.status !== "RUNNING") return;
    const { output, error, cause } = result;
    const [type, details] = {
      SUCCEEDED: ["ExecutionSucceeded", { output, outputDetails: whole }] as const,
      FAILED: ["ExecutionFailed", present({ error, cause })] as const,
      TIMED_OUT: ["ExecutionTimedOut", present({ error, cause })] as const,
      ABORTED: ["ExecutionAborted", present({ error, cause })] as const,
    }[status];
    this.root.cut();
    this.deadline?.cancel();
    this.append(this.root, type, [`${type[0]?.toLowerCase()}${type.slice(1)}EventDetails`, details]);
    this.status = status;
    this.output = output;
    this.error = error;
    this.cause = cause;
    this.stopMs = this.host.clock.now();
    for (const then of this.listeners) then();
  }

  // --- flows and states --------------------------------------------------------------------------------------------------------------------------

  private async flow(flow: Flow, strand: Strand, frame: Frame, input: unknown, item: Readonly<Record<string, unknown>>): Promise<unknown> {
    let data = input;
    for (let name: string | undefined = flow.startAt; name !== undefined; ) {
      const state = flow.states.get(name);
      if (!state) throw new Error(`no state ${name}`);
      this.transitions++;
      await this.sleep(strand, this.host.transitionMs());
      this.visited.push(name);
      strand.state = state;
      const enteredId = this.write(strand, `${state.type}StateEntered`, ["stateEnteredEventDetails", { name, input: data, inputDetails: whole }]);
      const context = {
        Execution: this.execution,
        StateMachine: this.stateMachine,
        State: { Name: name, EnteredTime: new Date(this.host.clock.now()).toISOString() } as Record<string, unknown>,
        ...item,
      };
      const step: Step = { strand, frame, state, input: data, enteredId, context };
      const left: { readonly next: string | undefined; readonly output: unknown } = await this.state(step);
      strand.state = undefined;
      [name, data] = [left.next, left.output];
    }
    return data;
  }

  private async state(step: Step): Promise<{ readonly next: string | undefined; readonly output: unknown }> {
    const { state } = step;
    switch (state.type) {
      case "Pass":
      case "Succeed":
        return await this.leave(step, state, {}, step.input);
      case "Choice":
        for (const choice of state.choices) {
          const chosen = await this.value(step, choice.condition);
          if (typeof chosen !== "boolean") throw this.wrongType(step, choice.condition, "boolean", chosen);
          if (chosen) return await this.leave(step, choice, {}, step.input);
        }
        if (state.hasDefault) return await this.leave(step, state, {}, step.input);
        throw new StateFailure("States.NoChoiceMatched", `No rule of the Choice '${state.name}' matched, and it has no Default.`);
      case "Wait":
        await this.sleep(step.strand, await this.waitMs(step, state), { idle: true });
        return await this.leave(step, state, {}, step.input);
      case "Fail": {
        const error = await this.text(step, state.error);
        const cause = await this.text(step, state.cause);
        throw new StateFailure(error, cause);
      }
      case "Task":
        return await this.persist(step, state, () => this.task(step, state));
      case "Parallel":
        return await this.persist(step, state, () => this.parallel(step, state));
      case "Map":
        return await this.persist(step, state, () => this.map(step, state));
    }
  }

  /** Leaves a state: Assign and Output see the same values, those at entry. */
  private async leave(step: Step, exit: Exit, also: Readonly<Record<string, unknown>>, otherwise: unknown) {
    const { strand, frame, state } = step;
    const assigned = exit.assign ? ((await this.value(step, exit.assign, also)) as Record<string, unknown>) : undefined;
    const output = exit.output ? await this.value(step, exit.output, also) : otherwise;
    if (assigned) this.checkVariables(step, assigned);
    this.checkSize(output, state.name);
    for (const [name, value] of Object.entries(assigned ?? {})) frame.set(name, value);
    const variables = assigned ? { assignedVariables: assigned, assignedVariablesDetails: whole } : {};
    this.write(strand, `${state.type}StateExited`, ["stateExitedEventDetails", { name: state.name, output, outputDetails: whole, ...variables }]);
    return { next: exit.next, output };
  }

  /** Runs an attempt until it succeeds, its retriers give up, and then a catcher or nobody takes the failure. */
  private async persist(step: Step, state: TaskState | ParallelState | MapState, attempt: () => Promise<unknown>) {
    const tries = new Map<Retrier, number>();
    const stateContext = step.context.State as Record<string, unknown>;
    stateContext.RetryCount = 0;
    for (;;) {
      let failure: StateFailure;
      try {
        const result = await attempt();
        return await this.leave(step, state, { result }, result);
      } catch (error) {
        if (!(error instanceof StateFailure)) throw error;
        failure = error;
      }
      const retrier = state.retry.find((each) => matches(each.errorEquals, failure.error));
      const tried = retrier ? (tries.get(retrier) ?? 0) : 0;
      if (retrier && tried < retrier.maxAttempts && failure.error !== "States.Runtime") {
        tries.set(retrier, tried + 1);
        stateContext.RetryCount = (stateContext.RetryCount as number) + 1;
        this.transitions++;
        await this.sleep(step.strand, this.delayMs(retrier, tried));
        continue;
      }
      if (state.type !== "Task") this.write(step.strand, `${state.type}StateFailed`);
      const catcher = state.catch.find((each) => matches(each.errorEquals, failure.error));
      if (!catcher) throw failure;
      return await this.caught(step, catcher, failure);
    }
  }

  private async caught(step: Step, catcher: Catcher, failure: StateFailure) {
    const errorOutput = { Error: failure.error ?? null, Cause: failure.reason ?? "" };
    return await this.leave(step, catcher, { errorOutput }, errorOutput);
  }

  private delayMs(retrier: Retrier, tried: number): number {
    const grown = retrier.intervalSeconds * retrier.backoffRate ** tried;
    const seconds = Math.min(grown, retrier.maxDelaySeconds ?? Number.POSITIVE_INFINITY, 99_999_999);
    return 1000 * (retrier.jitter === "FULL" ? this.host.random.next() * seconds : seconds);
  }

  private async waitMs(step: Step, state: { readonly seconds: Template | undefined; readonly timestamp: Template | undefined }): Promise<number> {
    if (state.timestamp) {
      const time = await this.value(step, state.timestamp);
      if (typeof time !== "string" || !isTimestamp(time)) throw this.wrongType(step, state.timestamp, "timestamp", time);
      return Math.max(0, Date.parse(time) - this.host.clock.now());
    }
    return 1000 * ((await this.whole(step, state.seconds, 0)) ?? 0);
  }

  // --- tasks -------------------------------------------------------------------------------------------------------------------------------------

  private async task(step: Step, state: TaskState): Promise<unknown> {
    const { strand } = step;
    const [resourceType = "", resource = ""] = state.resource.split(":", 1).concat(state.resource.slice(state.resource.indexOf(":") + 1));
    const about = { resource, resourceType };
    let arrive: (outcome: Outcome | "timedOut") => void = () => {};
    const finished = new Promise<Outcome | "timedOut">((resolve) => {
      arrive = resolve;
    });
    let beat: () => void = () => {};
    let open = true;
    const undo: (() => void)[] = [];
    /** From here on a callback comes too late. */
    const close = () => {
      if (!open) return;
      open = false;
      if (token !== undefined) this.host.closeToken(token);
      for (const act of undo) act();
    };
    const settle = (outcome: Outcome | "timedOut") => {
      if (!open) return;
      close();
      arrive(outcome);
    };
    const succeed = (result: unknown) => settle({ ok: true, result });
    const fail = (error: string | undefined, cause: string | undefined) => settle({ ok: false, error, cause });
    const waits = resource.endsWith(".waitForTaskToken");
    const token = waits ? this.host.openToken({ succeed, fail, heartbeat: () => beat() }) : undefined;
    const notCut = strand.whenCut(close);
    try {
      if (token !== undefined) step.context.Task = { Token: token };
      const parameters = state.arguments ? await this.value(step, state.arguments) : step.input;
      this.checkSize(parameters, state.name);
      const timeoutInSeconds = await this.whole(step, state.timeoutSeconds, 1);
      const heartbeatInSeconds = await this.whole(step, state.heartbeatSeconds, 1);
      const scheduled = { parameters, region: this.host.region, ...about, ...present({ timeoutInSeconds, heartbeatInSeconds }) };
      this.write(strand, "TaskScheduled", ["taskScheduledEventDetails", scheduled]);
      this.write(strand, "TaskStarted", ["taskStartedEventDetails", about]);
      const limit = this.alarm(timeoutInSeconds, () => settle("timedOut"));
      undo.push(() => limit.cancel());
      if (heartbeatInSeconds !== undefined) {
        let watch = this.alarm(heartbeatInSeconds, () => settle("timedOut"));
        undo.push(() => watch.cancel());
        beat = () => {
          watch.cancel();
          if (open) watch = this.alarm(heartbeatInSeconds, () => settle("timedOut"));
        };
      }
      const submitted = (output: unknown) => {
        if (open) this.write(strand, "TaskSubmitted", ["taskSubmittedEventDetails", { ...about, output, outputDetails: whole }]);
      };
      if (resourceType === "lambda") this.invoke(step, parameters, waits, settle, submitted);
      else this.startChild(step, parameters, resource.endsWith(".sync:2"), settle, submitted, undo);

      const outcome = await this.live(strand, finished);
      if (outcome === "timedOut") {
        this.write(strand, "TaskTimedOut", ["taskTimedOutEventDetails", { ...about, error: "States.Timeout" }]);
        throw new StateFailure("States.Timeout", undefined);
      }
      if (outcome.ok && jsonBytes(outcome.result) <= payloadLimitBytes) {
        this.write(strand, "TaskSucceeded", ["taskSucceededEventDetails", { ...about, output: outcome.result, outputDetails: whole }]);
        return outcome.result;
      }
      const { error, cause } = outcome.ok ? tooLarge(resourceType) : outcome;
      this.write(strand, "TaskFailed", ["taskFailedEventDetails", { ...about, ...present({ error, cause }) }]);
      throw new StateFailure(error, cause);
    } finally {
      notCut();
      close();
      delete step.context.Task;
    }
  }

  private invoke(step: Step, parameters: unknown, waits: boolean, settle: (outcome: Outcome) => void, submitted: (output: unknown) => void): void {
    const given = this.members(step, parameters, argumentsOf.lambda);
    const functionName = given.FunctionName;
    if (typeof functionName !== "string") {
      settle({ ok: false, error: "States.Runtime", cause: `The task's FunctionName is not a string: ${JSON.stringify(functionName)}` });
      return;
    }
    const call = { functionName, payload: given.Payload ?? {}, state: step.state.name, execution: this.arn };
    this.host.invokeFunction(call).then(
      (answer) => {
        if ("error" in answer) {
          settle({ ok: false, error: answer.error, cause: answer.cause });
          return;
        }
        const requestId = answer.requestId ?? "00000000-0000-0000-0000-000000000000";
        const result = {
          ExecutedVersion: "$LATEST",
          Payload: answer.payload ?? null,
          SdkHttpMetadata: { HttpStatusCode: 200 },
          SdkResponseMetadata: { RequestId: requestId },
          StatusCode: 200,
        };
        if (waits) submitted(result);
        else settle({ ok: true, result });
      },
      (error: unknown) => this.host.crash(error),
    );
  }

  private startChild(
    step: Step,
    parameters: unknown,
    waits: boolean,
    settle: (outcome: Outcome) => void,
    submitted: (output: unknown) => void,
    undo: (() => void)[],
  ): void {
    const given = this.members(step, parameters, argumentsOf.startExecution);
    const name = typeof given.Name === "string" ? given.Name : undefined;
    const answer = this.host.startChild({ stateMachineArn: String(given.StateMachineArn), name, input: given.Input, state: step.state.name });
    if ("error" in answer) {
      settle({ ok: false, ...answer });
      return;
    }
    const { execution, machineArn, stop, ended } = answer;
    const started = { ExecutionArn: execution.arn, SdkHttpMetadata: { HttpStatusCode: 200 }, StartDate: new Date(execution.startMs).toISOString() };
    if (!waits) {
      settle({ ok: true, result: started });
      return;
    }
    submitted(started);
    undo.push(stop);
    ended(() => {
      const about = {
        ExecutionArn: execution.arn,
        Input: execution.input,
        InputDetails: { Included: true },
        Name: execution.name,
        StartDate: execution.startMs,
        StateMachineArn: machineArn,
        Status: execution.status,
        StopDate: execution.stopMs,
      };
      if (execution.status === "SUCCEEDED") {
        settle({ ok: true, result: { ...about, Output: execution.output, OutputDetails: { Included: true } } });
      } else {
        const cause = JSON.stringify({
          ...present({ Cause: execution.cause, Error: execution.error }),
          ...about,
          Input: JSON.stringify(execution.input),
        });
        settle({ ok: false, error: "States.TaskFailed", cause });
      }
    });
  }

  private members(step: Step, parameters: unknown, modelled: readonly string[]): Readonly<Record<string, unknown>> {
    const given = typeof parameters === "object" && parameters !== null ? (parameters as Record<string, unknown>) : {};
    for (const name of Object.keys(given)) {
      if (!modelled.includes(name))
        throw new Unmodelled(`State ${step.state.name}: the argument ${name} is not modelled, ${modelled.join(", ")} are`);
    }
    return given;
  }

  private alarm(seconds: number | undefined, act: () => void): Timer {
    return seconds === undefined ? { cancel: () => {} } : this.host.clock.after(seconds * 1000, act);
  }

  // --- Parallel and Map --------------------------------------------------------------------------------------------------------------------------

  private async parallel(step: Step, state: ParallelState): Promise<unknown> {
    const input = state.arguments ? await this.value(step, state.arguments) : step.input;
    this.checkSize(input, state.name);
    const startedId = this.write(step.strand, "ParallelStateStarted");
    const item = step.context.Map === undefined ? {} : { Map: step.context.Map };
    return await this.together(step, state.branches.length, state.branches.length, async (index, adopt) => {
      const strand = adopt(undefined, startedId);
      const branch = state.branches[index] as Flow;
      return { strand, output: await this.flow(branch, strand, new Frame(step.frame), input, item) };
    });
  }

  private async map(step: Step, state: MapState): Promise<unknown> {
    const items = state.items ? await this.value(step, state.items) : step.input;
    if (!Array.isArray(items)) throw this.wrongType(step, state.items ?? inputTemplate, "array", items);
    const wanted = (await this.whole(step, state.maxConcurrency, 0)) ?? 0;
    const startedId = this.write(step.strand, "MapStateStarted", ["mapStateStartedEventDetails", { length: items.length }]);
    const atOnce = Math.min(wanted === 0 ? inlineMapConcurrency : wanted, inlineMapConcurrency);
    return await this.together(step, items.length, atOnce, async (index, adopt) => {
      const iteration = { index, name: state.name };
      const strand = adopt(iteration, startedId);
      const item = { Map: { Item: { Index: index, Value: items[index] as unknown, Source: "STATE_DATA" } } };
      this.write(strand, "MapIterationStarted", ["mapIterationStartedEventDetails", iteration]);
      const selecting = { ...step, strand, context: { ...step.context, ...item } };
      const input = state.itemSelector ? await this.value(selecting, state.itemSelector) : items[index];
      this.checkSize(input, state.name);
      const output = await this.flow(state.processor, strand, new Frame(step.frame), input, item);
      this.write(strand, "MapIterationSucceeded", ["mapIterationSucceededEventDetails", iteration]);
      return { strand, output };
    });
  }

  /** Runs inner strands, some at once, in order. The first failure ends the others. */
  private async together(
    step: Step,
    count: number,
    atOnce: number,
    run: (
      index: number,
      adopt: (iteration: Strand["iteration"], previous: number) => Strand,
    ) => Promise<{ readonly strand: Strand; readonly output: unknown }>,
  ): Promise<unknown> {
    const outputs: unknown[] = new Array(count).fill(null);
    const { strand: outer, state } = step;
    await this.live(
      outer,
      new Promise<void>((resolve, reject) => {
        let [next, left, failed] = [0, count, false];
        const launch = () => {
          const index = next++;
          let own: Strand | undefined;
          const adopt = (iteration: Strand["iteration"], previous: number) => {
            own = new Strand(iteration);
            own.previous = previous;
            outer.inner.add(own);
            return own;
          };
          run(index, adopt).then(
            ({ strand, output }) => {
              if (failed || !strand.alive) return;
              outputs[index] = output;
              outer.inner.delete(strand);
              outer.previous = strand.previous;
              left--;
              if (left === 0) resolve();
              else if (next < count) launch();
            },
            (error: unknown) => {
              if (failed || !outer.alive) return;
              failed = true;
              if (own && error instanceof StateFailure) this.abandon(outer, own);
              reject(error);
            },
          );
        };
        if (count === 0) resolve();
        while (next < Math.min(count, atOnce) && !failed) launch();
      }),
    );
    this.checkSize(outputs, state.name);
    this.write(outer, `${state.type}StateSucceeded`);
    return outputs;
  }

  /** Writes what AWS writes when one inner strand failed, and cuts them all. */
  private abandon(outer: Strand, failed: Strand): void {
    outer.previous = failed.previous;
    if (failed.iteration) {
      this.write(outer, "MapIterationFailed", ["mapIterationFailedEventDetails", failed.iteration]);
      outer.previous = failed.previous;
    }
    for (const strand of outer.inner) this.abort(outer, strand, strand === failed);
    for (const strand of outer.inner) strand.cut();
    outer.inner.clear();
  }

  private abort(outer: Strand, strand: Strand, failed: boolean): void {
    const { previous } = outer;
    const write = (type: string, details?: HistoryEvent["details"]) => {
      this.write(outer, type, details);
      outer.previous = previous;
    };
    for (const inner of strand.inner) this.abort(outer, inner, false);
    const type = strand.state?.type;
    const isOpen = type === "Task" || type === "Wait" || (!failed && (type === "Parallel" || type === "Map"));
    if (isOpen) write(`${type}StateAborted`);
    if (strand.iteration && !failed) write("MapIterationAborted", ["mapIterationAbortedEventDetails", strand.iteration]);
  }

  // --- values ------------------------------------------------------------------------------------------------------------------------------------

  private async value(step: Step, template: Template, also: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    switch (template.kind) {
      case "constant":
        return template.value;
      case "expression":
        return await this.evaluate(step, template, also);
      case "object": {
        const value: Record<string, unknown> = {};
        for (const [name, member] of template.members) {
          value[name] = member.kind === "constant" ? member.value : await this.value(step, member, also);
        }
        return value;
      }
      case "array": {
        const values: unknown[] = [];
        for (const item of template.items) values.push(item.kind === "constant" ? item.value : await this.value(step, item, also));
        return values;
      }
    }
  }

  private async evaluate(
    step: Step,
    { expression, field }: Extract<Template, { kind: "expression" }>,
    also: Readonly<Record<string, unknown>>,
  ): Promise<unknown> {
    const about = `The JSONata expression '${expression.source}' specified for the field '${field}'`;
    const scope = {
      variable: (name: string) => step.frame.get(name),
      states: { input: step.input, context: step.context, ...also },
      nowMs: this.host.clock.now(),
      random: this.host.random,
    };
    let value: unknown;
    try {
      value = await this.live(step.strand, expression.evaluate(scope));
    } catch (thrown) {
      const { code, message } = thrown as { readonly code?: string; readonly message?: string };
      throw this.evaluationFailed(step, field, `${about} threw an error during evaluation. ${code === undefined ? "" : `${code}: `}${message}`);
    }
    if (value === undefined) throw this.evaluationFailed(step, field, `${about} returned nothing (undefined).`);
    if (value === unsupported) throw this.evaluationFailed(step, field, `${about} returned an unsupported result type.`);
    return value;
  }

  private evaluationFailed(step: Step, field: string, reason: string): StateFailure {
    const { name } = step.state;
    const cause = `An error occurred while executing the state '${name}' (entered at the event id #${step.enteredId}). ${reason}`;
    const error = "States.QueryEvaluationError";
    this.write(step.strand, "EvaluationFailed", ["evaluationFailedEventDetails", { cause, error, location: field, state: name }]);
    return new StateFailure(error, cause);
  }

  private wrongType(step: Step, template: Template, expected: string, value: unknown): StateFailure {
    const [source, field] = template.kind === "expression" ? [template.expression.source, template.field] : ["$states.input", "Items"];
    const found = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
    const text = `returned an unexpected result type. Expected '${expected}', but was '${found}' for value: ${JSON.stringify(value)}`;
    return this.evaluationFailed(step, field, `The JSONata expression '${source}' specified for the field '${field}' ${text}`);
  }

  private async whole(step: Step, template: Template | undefined, least: number): Promise<number | undefined> {
    if (template === undefined) return undefined;
    const value = await this.value(step, template);
    if (!isWhole(value, least)) throw this.wrongType(step, template, least === 0 ? "non-negative integer" : "positive integer", value);
    return value as number;
  }

  private async text(step: Step, template: Template | undefined): Promise<string | undefined> {
    if (template === undefined) return undefined;
    const value = await this.value(step, template);
    if (typeof value !== "string") throw this.wrongType(step, template, "string", value);
    return value;
  }

  private checkSize(value: unknown, what: string): void {
    if (jsonBytes(value) <= payloadLimitBytes) return;
    const { error, cause } = tooLarge(what);
    throw new StateFailure(error, cause);
  }

  private checkVariables(step: Step, assigned: Readonly<Record<string, unknown>>): void {
    const bytes = jsonBytes(assigned);
    this.checkSize(assigned, step.state.name);
    if (bytes > 0 && bytes + step.frame.bytes() > variablesLimitBytes) {
      throw new StateFailure("States.DataLimitExceeded", `The state '${step.state.name}' makes the variables of the execution larger than 10 MiB.`);
    }
  }

  // --- time and history --------------------------------------------------------------------------------------------------------------------------

  private sleep(strand: Strand, milliseconds: number, options: { readonly idle?: boolean } = {}): Promise<void> {
    return new Promise((resolve) => {
      if (!strand.alive) return;
      const timer = this.host.clock.after(
        milliseconds,
        () => {
          notCut();
          resolve();
        },
        options,
      );
      const notCut = strand.whenCut(() => timer.cancel());
    });
  }

  /** The promise's outcome while the strand lives; nothing, for ever, once it is cut. */
  private async live<T>(strand: Strand, promise: Promise<T>): Promise<T> {
    try {
      const value = await promise;
      return strand.alive ? value : await never;
    } catch (error) {
      if (!strand.alive) return await never;
      throw error;
    }
  }

  /** Appends an event to a strand, unless that would be more than a history can hold. */
  private write(strand: Strand, type: string, details?: HistoryEvent["details"]): number {
    if (this.status !== "RUNNING" || !strand.alive) return 0;
    if (this.history.length >= historyLimit - 1) {
      this.end("FAILED", { error: "States.Runtime", cause: `The execution reached the maximum number of history events (${historyLimit}).` });
      return 0;
    }
    return this.append(strand, type, details);
  }

  private append(strand: Strand, type: string, details?: HistoryEvent["details"]): number {
    const id = this.history.length + 1;
    const event = { id, previousEventId: strand.previous, atMs: this.host.clock.now(), type };
    this.history.push(details ? { ...event, details } : event);
    strand.previous = id;
    return id;
  }
}

const never = new Promise<never>(() => {});
/** AWS says of each payload whether it was cut short. */
const whole = { truncated: false } as const;
const inputTemplate: Template = { kind: "constant", value: undefined };

/**
 * Whether a name stands for this error. `States.ALL` leaves out States.DataLimitExceeded and States.Runtime; `States.TaskFailed` those and States.Timeout.
 */
function matches(names: readonly string[], error: string | undefined): boolean {
  if (error === "States.Runtime") return false;
  const isTerminal = error === "States.DataLimitExceeded";
  return names.some((name) => {
    if (name === "States.ALL") return !isTerminal;
    if (name === "States.TaskFailed") return error !== "States.Timeout" && !isTerminal;
    return name === error;
  });
}

function tooLarge(what: string) {
  return {
    error: "States.DataLimitExceeded",
    cause: `The state/task '${what}' returned a result with a size exceeding the maximum number of bytes service limit.`,
  };
}

const sizes = new WeakMap<object, number>();
/** Bytes of a value as UTF-8 JSON. Data is never changed in place, so an object is measured once. */
function jsonBytes(value: unknown): number {
  if (typeof value !== "object" || value === null) return Buffer.byteLength(JSON.stringify(value) ?? "");
  const known = sizes.get(value);
  if (known !== undefined) return known;
  const bytes = Buffer.byteLength(JSON.stringify(value));
  sizes.set(value, bytes);
  return bytes;
}

/** The members that have a value. */
function present<T extends Readonly<Record<string, unknown>>>(members: T): Partial<T> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as Partial<T>;
}
