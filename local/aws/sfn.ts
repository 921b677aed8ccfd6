/**
 * Step Functions (Standard): executions of the template's state machines, their history, and the tokens of waiting tasks.
 *
 * Sources: Step Functions API reference (errors, limits, idempotency of StartExecution), developer guide (status change events, quotas), wording of
 * errors as recorded from the service. A throttle, a permission and the latency of a call are the kernel's work.
 */
import type {
  HistoryEvent as AwsHistoryEvent,
  DescribeExecutionInput,
  DescribeExecutionOutput,
  DescribeStateMachineInput,
  DescribeStateMachineOutput,
  ExecutionListItem,
  GetExecutionHistoryInput,
  GetExecutionHistoryOutput,
  ListExecutionsInput,
  ListExecutionsOutput,
  ListStateMachinesInput,
  ListStateMachinesOutput,
  RedriveExecutionInput,
  RedriveExecutionOutput,
  SendTaskFailureInput,
  SendTaskHeartbeatInput,
  SendTaskSuccessInput,
  StartExecutionInput,
  StartExecutionOutput,
  StopExecutionInput,
  StopExecutionOutput,
} from "@aws-sdk/client-sfn";
import { type Machine, readDefinition } from "../asl/definition.js";
import { uuid } from "../asl/jsonata.js";
import {
  type ChildAnswer,
  Execution,
  type ExecutionView,
  type FunctionCall,
  type HistoryEvent,
  type Host,
  payloadLimitBytes,
  type WaitingTask,
} from "../asl/run.js";
import type { Cloud } from "../kernel/cloud.js";
import { AwsError, type Operation, type Permission, type Random, type Service, Unmodelled } from "../kernel/contract.js";

interface StateMachineConfig {
  readonly arn: string;
  readonly name: string;
  /** ASL text, placeholders replaced. */
  readonly definition: string;
  readonly roleArn: string;
}

export interface Sfn extends Service {
  /** Reads the definition, and throws what is wrong with it. */
  registerStateMachine(config: StateMachineConfig): void;
  /** Every execution that is remembered, in the order they were started. */
  executions(): readonly ExecutionView[];
  execution(arn: string): ExecutionView | undefined;
  /** Executions that have not ended. */
  running(): readonly ExecutionView[];
}

/** What the service needs of the cloud it runs in. */
export type SfnCloud = Pick<Cloud, "clock" | "random" | "account" | "region" | "publish" | "note" | "invoke" | "allows" | "fail">;

interface Registered extends StateMachineConfig {
  readonly machine: Machine;
  readonly createdMs: number;
}
type Remembered = ExecutionView & { readonly machineArn: string };
interface Token {
  readonly machineArn: string;
  task: WaitingTask | undefined;
}

/** A closed execution, its name and its history are kept so long (Step Functions quotas). */
const keptMs = 90 * 24 * 3600 * 1000;
/** An input or output is left out of a status event when its escaped text is larger (Step Functions developer guide, EventBridge). */
const eventLimitBytes = 248 * 1024;
const tokenPrefix = "AQCkAAAAKgAAAAMAAAAAAAAAAS";
const names = { limit: 80, forbidden: /[\s<>{}[\]?*"#%\\^|~`$&,;:/\p{Cc}\ufffe\uffff]/u };

/** ARN of the execution that a state machine and a name make. */
export function executionArn(stateMachineArn: string, name: string): string {
  return `${stateMachineArn.replace(":stateMachine:", ":execution:")}:${name}`;
}

export function createSfn(cloud: SfnCloud): Sfn {
  const random = cloud.random.fork("sfn");
  const machines = new Map<string, Registered>();
  const executions = new Map<string, Remembered>();
  const tokens = new Map<string, Token>();
  let unfinished = new Set<Remembered>();

  // --- executions --------------------------------------------------------------------------------------------------------------------------------

  function machineOf(arn: string): Registered {
    if (!/^arn:aws:states:[a-z0-9-]+:\d{12}:stateMachine:[^:]+$/.test(arn)) {
      if (/^arn:aws:states:[a-z0-9-]+:\d{12}:stateMachine:[^:]+:[^:]+$/.test(arn))
        throw new Unmodelled(`versions and aliases of state machines: ${arn}`);
      throw new AwsError("InvalidArn", `Invalid Arn: '${arn}'`);
    }
    const machine = machines.get(arn);
    if (!machine) throw new AwsError("StateMachineDoesNotExist", `State Machine Does Not Exist: '${arn}'`);
    return machine;
  }

  function executionOf(arn: string): Remembered {
    const execution = remembered(arn);
    if (!execution) throw new AwsError("ExecutionDoesNotExist", `Execution Does Not Exist: '${arn}'`);
    return execution;
  }

  function remembered(arn: string): Remembered | undefined {
    const execution = executions.get(arn);
    if (execution?.stopMs === undefined || execution.stopMs + keptMs > cloud.clock.now()) return execution;
    executions.delete(arn);
    return undefined;
  }

  function start(machine: Registered, name: string, input: unknown): Remembered {
    const arn = executionArn(machine.arn, name);
    const before = remembered(arn);
    if (before) {
      if (before.status === "RUNNING" && JSON.stringify(before.input) === JSON.stringify(input)) return before;
      throw new AwsError("ExecutionAlreadyExists", `Execution Already Exists: '${arn}'`);
    }
    const own = random.fork(arn);
    const about = { machine: machine.machine, machineArn: machine.arn, machineName: machine.name, roleArn: machine.roleArn, arn, name, input };
    const execution = Object.assign(new Execution(about, hostOf(machine, own)), { machineArn: machine.arn });
    executions.set(arn, execution);
    unfinished.add(execution);
    cloud.note("execution started", { execution: arn });
    announce(execution);
    execution.ended(() => {
      unfinished.delete(execution);
      cloud.note("execution ended", { execution: arn, status: execution.status, error: execution.error, transitions: execution.transitions });
      announce(execution);
    });
    execution.begin();
    return execution;
  }

  function hostOf(machine: Registered, own: Random): Host {
    const pace = own.fork("transitions");
    return {
      clock: cloud.clock,
      random: own.fork("chance"),
      region: cloud.region,
      transitionMs: () => 1000 * pace.latency("stateTransition"),
      invokeFunction: (call) => invoke(machine, call),
      startChild: ({ stateMachineArn, name, input }) => startChild(machine, stateMachineArn, name, input),
      openToken: (task) => {
        const token = tokenPrefix + own.hex(96);
        tokens.set(token, { machineArn: machine.arn, task });
        return token;
      },
      closeToken: (token) => {
        const open = tokens.get(token);
        if (open) open.task = undefined;
      },
      crash: (error) => cloud.fail(error instanceof Error ? error : new Error(String(error))),
    };
  }

  async function invoke(machine: Registered, { functionName, payload }: FunctionCall) {
    const outcome = await cloud.invoke({ function: functionName, payload, kind: "sync", by: { role: machine.roleArn } });
    const { requestId } = outcome;
    return outcome.ok ? { payload: outcome.payload, requestId } : { error: outcome.error, cause: outcome.cause, requestId };
  }

  function startChild(parent: Registered, stateMachineArn: string, name: string | undefined, input: unknown): ChildAnswer {
    if (!cloud.allows(parent.roleArn, { action: "states:StartExecution", resource: stateMachineArn })) {
      const cause = `User: ${parent.roleArn} is not authorized to perform: states:StartExecution on resource: ${stateMachineArn}`;
      return { error: "StepFunctions.AccessDeniedException", cause };
    }
    try {
      const text = typeof input === "string" ? input : JSON.stringify(input ?? {});
      const execution = begin({ stateMachineArn, name, input: text });
      const mayStop = { action: "states:StopExecution", resource: execution.arn };
      const stop = () => {
        // Without the permission a child outlives its parent (Step Functions developer guide, nested workflows).
        if (execution instanceof Execution && cloud.allows(parent.roleArn, mayStop)) execution.stop();
      };
      const ended = (then: () => void) => (execution instanceof Execution ? execution.ended(then) : then());
      return { execution, machineArn: stateMachineArn, stop, ended };
    } catch (error) {
      if (!(error instanceof AwsError)) throw error;
      return {
        error: `StepFunctions.${error.code}Exception`,
        cause: `${error.message} (Service: AWSStepFunctions; Status Code: 400; Error Code: ${error.code})`,
      };
    }
  }

  function begin({
    stateMachineArn,
    name,
    input: text,
  }: {
    readonly stateMachineArn: string;
    readonly name: string | undefined;
    readonly input: string;
  }) {
    const machine = machineOf(stateMachineArn);
    if (name !== undefined && (name.length === 0 || name.length > names.limit || names.forbidden.test(name))) {
      throw new AwsError("InvalidName", `Invalid Name: '${name}'`);
    }
    const input = parseJson(text, "InvalidExecutionInput", "Invalid State Machine Execution Input");
    return start(machine, name ?? uuid(random), input);
  }

  /** A status event, best effort, as EventBridge delivers it. */
  function announce(execution: Remembered): void {
    const text = (value: unknown) => {
      const json = value === undefined ? undefined : JSON.stringify(value);
      const fits = json !== undefined && Buffer.byteLength(JSON.stringify(json)) <= eventLimitBytes;
      return { text: fits ? json : null, details: json === undefined ? null : { included: fits } };
    };
    const [input, output] = [text(execution.input), text(execution.output)];
    cloud.publish({
      source: "aws.states",
      detailType: "Step Functions Execution Status Change",
      resources: [execution.arn],
      detail: {
        executionArn: execution.arn,
        stateMachineArn: execution.machineArn,
        name: execution.name,
        status: execution.status,
        startDate: execution.startMs,
        stopDate: execution.stopMs ?? null,
        input: input.text,
        output: output.text,
        inputDetails: input.details,
        outputDetails: output.details,
        error: execution.error ?? null,
        cause: execution.cause ?? null,
        redriveCount: 0,
        redriveDate: null,
        redriveStatus: "NOT_REDRIVABLE",
        redriveStatusReason: null,
        stateMachineVersionArn: null,
        stateMachineAliasArn: null,
      },
    });
  }

  // --- operations --------------------------------------------------------------------------------------------------------------------------------

  const on = (action: string, resource: string): readonly Permission[] => [{ action: `states:${action}`, resource }];
  const call = <Input, Output>(
    action: string,
    fields: readonly string[],
    resource: (input: Input) => string,
    mutates: boolean,
    act: (input: Input) => Output,
  ): Operation<Input, Output> => ({
    fields,
    permissions: (input) => on(action, resource(input)),
    latency: { milliseconds: 25 },
    mutates,
    call: (input) => act(input),
  });

  function waiting(taskToken: string | undefined): WaitingTask {
    if (!taskToken?.startsWith(tokenPrefix) || !/^[0-9a-f]{96}$/.test(taskToken.slice(tokenPrefix.length))) {
      throw new AwsError("InvalidToken", "Invalid Token: 'Invalid token'");
    }
    const token = tokens.get(taskToken);
    if (!token) throw new AwsError("TaskDoesNotExist", "Task Does Not Exist: 'Task does not exist'");
    if (!token.task) throw new AwsError("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'");
    return token.task;
  }
  /** A token belongs to a state machine, and that is what a role is allowed to answer for. */
  const machineOfToken = ({ taskToken }: { readonly taskToken: string | undefined }) => tokens.get(taskToken ?? "")?.machineArn ?? "*";

  const operations = {
    StartExecution: call<StartExecutionInput, StartExecutionOutput>(
      "StartExecution",
      ["stateMachineArn", "name", "input"],
      (input) => input.stateMachineArn ?? "*",
      true,
      ({ stateMachineArn = "", name, input = "{}" }) => {
        const execution = begin({ stateMachineArn, name, input });
        return { executionArn: execution.arn, startDate: new Date(execution.startMs) };
      },
    ),
    DescribeExecution: call<DescribeExecutionInput, DescribeExecutionOutput>(
      "DescribeExecution",
      ["executionArn", "includedData"],
      (input) => input.executionArn ?? "*",
      false,
      ({ executionArn = "", includedData = "ALL_DATA" }) => describe(executionOf(executionArn), includedData === "ALL_DATA"),
    ),
    StopExecution: call<StopExecutionInput, StopExecutionOutput>(
      "StopExecution",
      ["executionArn", "error", "cause"],
      (input) => input.executionArn ?? "*",
      true,
      ({ executionArn = "", error, cause }) => {
        const execution = executionOf(executionArn);
        checkLength("error", error, 256);
        checkLength("cause", cause, 32_768);
        if (execution instanceof Execution) execution.stop(error, cause);
        return { stopDate: new Date(execution.stopMs ?? cloud.clock.now()) };
      },
    ),
    RedriveExecution: call<RedriveExecutionInput, RedriveExecutionOutput>(
      "RedriveExecution",
      ["executionArn", "clientToken"],
      (input) => input.executionArn ?? "*",
      true,
      ({ executionArn }) => {
        throw new Unmodelled(`RedriveExecution of ${executionArn}: start the operation again instead`);
      },
    ),
    ListExecutions: call<ListExecutionsInput, ListExecutionsOutput>(
      "ListExecutions",
      ["stateMachineArn", "statusFilter", "maxResults", "nextToken"],
      (input) => input.stateMachineArn ?? "*",
      false,
      ({ stateMachineArn = "", statusFilter, maxResults, nextToken }) => {
        machineOf(stateMachineArn);
        const ofMachine = [...executions.keys()].map(remembered).filter((each) => each?.machineArn === stateMachineArn) as Remembered[];
        const wanted = ofMachine.filter((each) => statusFilter === undefined || each.status === statusFilter).reverse();
        const page = pageOf(wanted, maxResults, nextToken);
        return { executions: page.items.map(listed), ...page.next };
      },
    ),
    GetExecutionHistory: call<GetExecutionHistoryInput, GetExecutionHistoryOutput>(
      "GetExecutionHistory",
      ["executionArn", "maxResults", "reverseOrder", "nextToken", "includeExecutionData"],
      (input) => input.executionArn ?? "*",
      false,
      ({ executionArn = "", maxResults, reverseOrder, nextToken, includeExecutionData }) => {
        const { history } = executionOf(executionArn);
        const page = pageOf(reverseOrder ? [...history].reverse() : history, maxResults, nextToken);
        return { events: page.items.map((event) => asAws(event, includeExecutionData !== false)), ...page.next };
      },
    ),
    SendTaskSuccess: call<SendTaskSuccessInput, Record<string, never>>(
      "SendTaskSuccess",
      ["taskToken", "output"],
      machineOfToken,
      true,
      ({ taskToken, output }) => {
        const task = waiting(taskToken);
        task.succeed(parseJson(output ?? "", "InvalidOutput", "Invalid Output"));
        return {};
      },
    ),
    SendTaskFailure: call<SendTaskFailureInput, Record<string, never>>(
      "SendTaskFailure",
      ["taskToken", "error", "cause"],
      machineOfToken,
      true,
      ({ taskToken, error, cause }) => {
        checkLength("error", error, 256);
        checkLength("cause", cause, 32_768);
        waiting(taskToken).fail(error, cause);
        return {};
      },
    ),
    SendTaskHeartbeat: call<SendTaskHeartbeatInput, Record<string, never>>(
      "SendTaskHeartbeat",
      ["taskToken"],
      machineOfToken,
      true,
      ({ taskToken }) => {
        waiting(taskToken).heartbeat();
        return {};
      },
    ),
    DescribeStateMachine: call<DescribeStateMachineInput, DescribeStateMachineOutput>(
      "DescribeStateMachine",
      ["stateMachineArn"],
      (input) => input.stateMachineArn ?? "*",
      false,
      ({ stateMachineArn = "" }) => {
        const { arn, name, definition, roleArn, createdMs } = machineOf(stateMachineArn);
        return { stateMachineArn: arn, name, definition, roleArn, status: "ACTIVE", type: "STANDARD", creationDate: new Date(createdMs) };
      },
    ),
    ListStateMachines: call<ListStateMachinesInput, ListStateMachinesOutput>(
      "ListStateMachines",
      ["maxResults", "nextToken"],
      () => "*",
      false,
      ({ maxResults, nextToken }) => {
        const sorted = [...machines.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
        const page = pageOf(sorted, maxResults, nextToken);
        const stateMachines = page.items.map(({ arn, name, createdMs }) => ({
          stateMachineArn: arn,
          name,
          type: "STANDARD" as const,
          creationDate: new Date(createdMs),
        }));
        return { stateMachines, ...page.next };
      },
    ),
  };

  return {
    name: "sfn",
    operations,
    throttle: { code: "ThrottlingException", httpStatus: 400 },
    registerStateMachine(config) {
      machines.set(config.arn, { ...config, machine: readDefinition(config.definition), createdMs: cloud.clock.now() });
    },
    executions: () => [...executions.values()],
    execution: (arn) => remembered(arn),
    running: () => [...unfinished],
    save() {
      const open = [...unfinished];
      if (open.length > 0) throw new Error(`cannot be saved while executions run: ${open.map(({ arn }) => arn).join(", ")}`);
      return { executions: [...executions.values()].map(plainly), tokens: [...tokens].map(([token, { machineArn }]) => [token, machineArn]) };
    },
    load(state) {
      const saved = state as { readonly executions: readonly Remembered[]; readonly tokens: readonly (readonly [string, string])[] };
      executions.clear();
      tokens.clear();
      unfinished = new Set();
      for (const execution of saved.executions) executions.set(execution.arn, execution);
      for (const [token, machineArn] of saved.tokens) tokens.set(token, { machineArn, task: undefined });
    },
  };
}

function describe(execution: Remembered, withData: boolean): DescribeExecutionOutput {
  const { input, output, error, cause, stopMs } = execution;
  const ended = stopMs === undefined ? {} : { stopDate: new Date(stopMs) };
  const inputs = withData ? { input: JSON.stringify(input), inputDetails: { included: true } } : { inputDetails: { included: false } };
  const outputs =
    output === undefined
      ? {}
      : withData
        ? { output: JSON.stringify(output), outputDetails: { included: true } }
        : { outputDetails: { included: false } };
  return {
    executionArn: execution.arn,
    stateMachineArn: execution.machineArn,
    name: execution.name,
    status: execution.status,
    startDate: new Date(execution.startMs),
    redriveCount: 0,
    redriveStatus: "NOT_REDRIVABLE",
    ...inputs,
    ...outputs,
    ...ended,
    ...(error === undefined ? {} : { error }),
    ...(cause === undefined ? {} : { cause }),
  };
}

function listed(execution: Remembered): ExecutionListItem {
  const { stopMs } = execution;
  return {
    executionArn: execution.arn,
    stateMachineArn: execution.machineArn,
    name: execution.name,
    status: execution.status,
    startDate: new Date(execution.startMs),
    redriveCount: 0,
    ...(stopMs === undefined ? {} : { stopDate: new Date(stopMs) }),
  };
}

/** Members that AWS sends as JSON text. */
const dataMembers = new Set(["input", "output", "parameters"]);
const truncation = new Set(["inputDetails", "outputDetails", "assignedVariablesDetails"]);

function asAws({ id, previousEventId, atMs, type, details }: HistoryEvent, withData: boolean): AwsHistoryEvent {
  const event = { id, previousEventId, timestamp: new Date(atMs), type: type as AwsHistoryEvent["type"] };
  if (!details) return event;
  const [name, members] = details;
  const shown: Record<string, unknown> = {};
  for (const [member, value] of Object.entries(members)) {
    if (!withData && (dataMembers.has(member) || truncation.has(member) || member === "assignedVariables")) continue;
    if (dataMembers.has(member)) shown[member] = value === undefined ? undefined : JSON.stringify(value);
    else if (member === "assignedVariables")
      shown[member] = Object.fromEntries(Object.entries(value as object).map(([key, each]) => [key, JSON.stringify(each)]));
    else shown[member] = value;
  }
  return { ...event, [name]: shown };
}

/** Up to 1,000 items a page, 100 when nothing is asked (API reference). */
function pageOf<T>(
  items: readonly T[],
  maxResults: number | undefined,
  nextToken: string | undefined,
): { items: readonly T[]; next: { nextToken?: string } } {
  if (maxResults !== undefined && (maxResults < 0 || maxResults > 1000)) {
    const text = `1 validation error detected: Value '${maxResults}' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 1000`;
    throw new AwsError("ValidationException", text);
  }
  const from = nextToken === undefined ? 0 : Number(/^from-(\d+)$/.exec(Buffer.from(nextToken, "base64url").toString())?.[1] ?? Number.NaN);
  if (Number.isNaN(from)) throw new AwsError("InvalidToken", `Invalid Token: '${nextToken}'`);
  const to = from + (maxResults || 100);
  return { items: items.slice(from, to), next: to < items.length ? { nextToken: Buffer.from(`from-${to}`).toString("base64url") } : {} };
}

function parseJson(text: string, code: string, what: string): unknown {
  if (Buffer.byteLength(text) > payloadLimitBytes) throw new AwsError(code, `${what}: 'more than ${payloadLimitBytes} bytes'`);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new AwsError(code, `${what}: '${(error as Error).message}'`);
  }
}

function checkLength(member: string, text: string | undefined, limit: number): void {
  if (text === undefined || text.length <= limit) return;
  const rule = `Member must have length less than or equal to ${limit}`;
  throw new AwsError("ValidationException", `1 validation error detected: Value at '${member}' failed to satisfy constraint: ${rule}`);
}

/** The execution as data, for keeping. */
function plainly(execution: Remembered): Remembered {
  const { arn, name, machineArn, status, input, output, error, cause, startMs, stopMs, history, transitions } = execution;
  return { arn, name, machineArn, status, input, output, error, cause, startMs, stopMs, history: [...history], transitions };
}
