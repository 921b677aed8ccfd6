/**
 * Reads a state machine: Amazon States Language, JSONata only.
 *
 * Everything wrong is reported at once. What AWS would take and this runner does not model is `Unmodelled`; what AWS would refuse too is
 * `InvalidDefinition`. A definition's text is read once per process.
 */
import { Unmodelled } from "../kernel/contract.js";
import { compileExpression, type Expression, expressionOf } from "./jsonata.js";

export class InvalidDefinition extends Error {
  override readonly name = "InvalidDefinition";
}

/** A JSON value in which each `{% %}` string is an expression. */
export type Template =
  | { readonly kind: "constant"; readonly value: unknown }
  | { readonly kind: "expression"; readonly expression: Expression; readonly field: string }
  | { readonly kind: "object"; readonly members: readonly (readonly [string, Template])[] }
  | { readonly kind: "array"; readonly items: readonly Template[] };

export interface Retrier {
  readonly errorEquals: readonly string[];
  readonly intervalSeconds: number;
  readonly maxAttempts: number;
  readonly backoffRate: number;
  readonly maxDelaySeconds: number | undefined;
  readonly jitter: "FULL" | "NONE";
}
/** Where a state goes and what it leaves behind. */
export interface Exit {
  /** Undefined where the state ends its branch. */
  readonly next: string | undefined;
  readonly assign: Template | undefined;
  readonly output: Template | undefined;
}
export interface Catcher extends Exit {
  readonly errorEquals: readonly string[];
}
interface Named extends Exit {
  readonly name: string;
  readonly comment: string | undefined;
}
interface Catching extends Named {
  readonly retry: readonly Retrier[];
  readonly catch: readonly Catcher[];
}

type TaskResource = "lambda:invoke" | "lambda:invoke.waitForTaskToken" | "states:startExecution" | "states:startExecution.sync:2";

export interface TaskState extends Catching {
  readonly type: "Task";
  readonly resource: TaskResource;
  readonly arguments: Template | undefined;
  readonly timeoutSeconds: Template | undefined;
  readonly heartbeatSeconds: Template | undefined;
}
interface ChoiceState extends Named {
  readonly type: "Choice";
  readonly choices: readonly (Exit & { readonly condition: Template })[];
  /** `next` of the state itself is its Default. */
  readonly hasDefault: boolean;
}
interface PassState extends Named {
  readonly type: "Pass";
}
interface WaitState extends Named {
  readonly type: "Wait";
  readonly seconds: Template | undefined;
  readonly timestamp: Template | undefined;
}
interface SucceedState extends Named {
  readonly type: "Succeed";
}
interface FailState extends Named {
  readonly type: "Fail";
  readonly error: Template | undefined;
  readonly cause: Template | undefined;
}
export interface ParallelState extends Catching {
  readonly type: "Parallel";
  readonly arguments: Template | undefined;
  readonly branches: readonly Flow[];
}
export interface MapState extends Catching {
  readonly type: "Map";
  readonly items: Template | undefined;
  readonly itemSelector: Template | undefined;
  readonly maxConcurrency: Template | undefined;
  readonly processor: Flow;
}
export type State = TaskState | ChoiceState | PassState | WaitState | SucceedState | FailState | ParallelState | MapState;

/** States with one entry: a machine, a branch of a Parallel, the processor of a Map. */
export interface Flow {
  readonly startAt: string;
  readonly states: ReadonlyMap<string, State>;
}
export interface Machine extends Flow {
  readonly comment: string | undefined;
  readonly timeoutSeconds: number | undefined;
}

type Json = Readonly<Record<string, unknown>>;

const longestSeconds = 99_999_999;
const resourcePrefix = "arn:aws:states:::";
const resources: readonly TaskResource[] = [
  "lambda:invoke",
  "lambda:invoke.waitForTaskToken",
  "states:startExecution",
  "states:startExecution.sync:2",
];

const own = {
  Task: ["Resource", "Arguments", "TimeoutSeconds", "HeartbeatSeconds", "Retry", "Catch", "Next", "End", "Assign", "Output"],
  Choice: ["Choices", "Default", "Assign", "Output"],
  Pass: ["Next", "End", "Assign", "Output"],
  Wait: ["Seconds", "Timestamp", "Next", "End", "Assign", "Output"],
  Succeed: ["Output"],
  Fail: ["Error", "Cause"],
  Parallel: ["Branches", "Arguments", "Retry", "Catch", "Next", "End", "Assign", "Output"],
  Map: ["Items", "ItemSelector", "ItemProcessor", "MaxConcurrency", "Retry", "Catch", "Next", "End", "Assign", "Output"],
} as const;
const anyState = ["Type", "Comment", "QueryLanguage"];
/** Fields of the language that this runner does not run. */
const notModelled: Readonly<Record<string, readonly string[]>> = {
  Task: ["Credentials"],
  Map: ["ItemReader", "ItemBatcher", "ResultWriter", "Label", "ToleratedFailureCount", "ToleratedFailurePercentage"],
};
const ofJsonPath = new Set([
  ...["InputPath", "OutputPath", "ResultPath", "Parameters", "ResultSelector", "Result", "ItemsPath", "SecondsPath", "TimestampPath", "ErrorPath"],
  ...["CausePath", "TimeoutSecondsPath", "HeartbeatSecondsPath", "MaxConcurrencyPath", "Iterator", "Variable"],
]);

const known = new Map<string, Machine>();

/**
 * @param definition the ASL text with its placeholders already replaced
 * @throws InvalidDefinition | Unmodelled with every fault, one per line
 */
export function readDefinition(definition: string): Machine {
  const before = known.get(definition);
  if (before) return before;
  let json: unknown;
  try {
    json = JSON.parse(definition);
  } catch (error) {
    throw new InvalidDefinition(`The definition is not JSON: ${(error as Error).message}`);
  }
  const reader = new Reader();
  const machine = reader.machine(json);
  reader.report();
  known.set(definition, machine);
  return machine;
}

class Reader {
  private readonly faults: { readonly path: string; readonly message: string; readonly unmodelled: boolean }[] = [];
  private readonly names = new Map<string, string>();

  report(): void {
    if (this.faults.length === 0) return;
    const lines = this.faults.map(({ path, message }) => `${path === "" ? "definition" : path}: ${message}`).join("\n");
    if (this.faults.every((fault) => fault.unmodelled)) throw new Unmodelled(`The state machine uses what the local cloud does not model.\n${lines}`);
    throw new InvalidDefinition(`The state machine is not valid.\n${lines}`);
  }

  private fault(path: string, message: string, unmodelled = false): void {
    this.faults.push({ path, message, unmodelled });
  }

  machine(json: unknown): Machine {
    if (!isObject(json)) {
      this.fault("", "expected an object");
      return { startAt: "", states: new Map(), comment: undefined, timeoutSeconds: undefined };
    }
    this.fields("", json, ["Comment", "QueryLanguage", "Version", "TimeoutSeconds", "StartAt", "States"], []);
    if (json.QueryLanguage !== "JSONata")
      this.fault("QueryLanguage", `must be "JSONata", found ${show(json.QueryLanguage ?? "nothing, which means JSONPath")}`);
    if (json.Version !== undefined && json.Version !== "1.0") this.fault("Version", `must be "1.0", found ${show(json.Version)}`);
    const timeout = json.TimeoutSeconds;
    if (timeout !== undefined && !isWhole(timeout, 1))
      this.fault("TimeoutSeconds", `must be a whole number of 1 to ${longestSeconds}, found ${show(timeout)}`);
    return {
      ...this.flow("", json, new Set()),
      comment: this.comment("", json),
      timeoutSeconds: timeout as number | undefined,
    };
  }

  /** @param outer variables that the scopes around this one assign: readable here, never assignable. */
  private flow(path: string, json: Json, outer: ReadonlySet<string>): Flow {
    const at = (field: string) => join(path, field);
    const states = new Map<string, State>();
    if (!isObject(json.States) || Object.keys(json.States).length === 0) {
      this.fault(at("States"), "must hold at least one state");
      return { startAt: "", states };
    }
    const assignedHere = new Set<string>();
    for (const state of Object.values(json.States)) for (const name of assignedNames(state)) assignedHere.add(name);
    const visible = new Set([...outer, ...assignedHere]);

    for (const [name, state] of Object.entries(json.States)) {
      const where = join(at("States"), name);
      if (name.length === 0 || name.length > 80) this.fault(where, `a state's name has 1 to 80 characters, this one has ${name.length}`);
      const elsewhere = this.names.get(name);
      if (elsewhere !== undefined) this.fault(where, `the name is taken by ${elsewhere}: names are unique in the whole machine`);
      this.names.set(name, where);
      for (const variable of assignedNames(state)) {
        if (outer.has(variable)) this.fault(where, `assigns $${variable}, which belongs to the scope around it: use another name`);
      }
      const read = this.state(where, name, state, visible);
      if (read) states.set(name, read);
    }

    const startAt = typeof json.StartAt === "string" ? json.StartAt : "";
    if (!(startAt in json.States)) this.fault(at("StartAt"), `must name a state of this scope, found ${show(json.StartAt)}`);
    this.transitions(path, startAt, states, new Set(Object.keys(json.States)));
    return { startAt, states };
  }

  /** Every target exists, every state is reached, and some state ends the flow. */
  private transitions(path: string, startAt: string, states: ReadonlyMap<string, State>, names: ReadonlySet<string>): void {
    const reached = new Set<string>();
    const visit = [startAt];
    for (let name = visit.pop(); name !== undefined; name = visit.pop()) {
      if (reached.has(name)) continue;
      reached.add(name);
      const state = states.get(name);
      if (!state) continue;
      for (const target of targets(state)) {
        if (names.has(target)) visit.push(target);
        else this.fault(join(path, "States", name), `goes to ${show(target)}, which is no state of this scope`);
      }
    }
    for (const name of states.keys()) if (!reached.has(name)) this.fault(join(path, "States", name), "is never reached");
    const ends = [...states.values()].some(
      (state) => state.type === "Succeed" || state.type === "Fail" || (state.type !== "Choice" && state.next === undefined),
    );
    if (states.size > 0 && states.size === names.size && !ends)
      this.fault(join(path, "States"), "has no state that ends: one needs End, or be a Succeed or Fail");
  }

  private state(path: string, name: string, json: unknown, visible: ReadonlySet<string>): State | undefined {
    if (!isObject(json)) {
      this.fault(path, "must be an object");
      return undefined;
    }
    const type = json.Type as keyof typeof own;
    if (typeof json.Type !== "string" || !Object.hasOwn(own, json.Type)) {
      this.fault(join(path, "Type"), `must be one of ${Object.keys(own).join(", ")}, found ${show(json.Type)}`);
      return undefined;
    }
    this.fields(path, json, [...anyState, ...own[type]], notModelled[type] ?? []);
    if (json.QueryLanguage !== undefined && json.QueryLanguage !== "JSONata")
      this.fault(join(path, "QueryLanguage"), "a JSONata machine has only JSONata states");

    const withResult = type === "Task" || type === "Parallel" || type === "Map" ? ["result"] : [];
    const named = { name, comment: this.comment(path, json), ...this.exit(path, json, withResult) };
    const template = (field: string, more: readonly string[] = []) =>
      this.template(join(path, field), json[field], field, ["input", "context", ...more]);
    const text = (field: string) => this.constrained(path, json, field, "a string", (value) => typeof value === "string");
    const whole = (field: string, least: number) =>
      this.constrained(path, json, field, `a whole number of ${least} to ${longestSeconds}`, (value) => isWhole(value, least));

    switch (type) {
      case "Task":
        return {
          ...named,
          ...this.catching(path, json),
          ...this.end(path, json),
          type,
          ...this.task(path, json, whole),
          arguments: template("Arguments"),
        };
      case "Choice":
        return { ...named, type, ...this.choices(path, json) };
      case "Pass":
        return { ...named, ...this.end(path, json), type };
      case "Wait": {
        if ((json.Seconds === undefined) === (json.Timestamp === undefined)) this.fault(path, "a Wait has either Seconds or Timestamp");
        const isTime = (value: unknown) => typeof value === "string" && isTimestamp(value);
        const timestamp = this.constrained(path, json, "Timestamp", "an ISO 8601 time such as 2026-11-22T20:00:00Z", isTime);
        return { ...named, ...this.end(path, json), type, seconds: whole("Seconds", 0), timestamp };
      }
      case "Succeed":
        return { ...named, type };
      case "Fail":
        return { ...named, type, error: text("Error"), cause: text("Cause") };
      case "Parallel": {
        const branches = Array.isArray(json.Branches) ? json.Branches : [];
        if (branches.length === 0) this.fault(join(path, "Branches"), "must hold at least one branch");
        const flows = branches.map((branch, index) =>
          this.inner(`${join(path, "Branches")}[${index}]`, branch, ["Comment", "StartAt", "States"], visible),
        );
        return { ...named, ...this.catching(path, json), ...this.end(path, json), type, arguments: template("Arguments"), branches: flows };
      }
      case "Map": {
        const where = join(path, "ItemProcessor");
        const config = isObject(json.ItemProcessor) ? json.ItemProcessor.ProcessorConfig : undefined;
        if (isObject(config)) {
          this.fields(join(where, "ProcessorConfig"), config, ["Mode", "ExecutionType"], []);
          if (config.Mode === "DISTRIBUTED") this.fault(join(where, "ProcessorConfig"), "a Distributed Map is not modelled: use INLINE", true);
          else if (config.Mode !== undefined && config.Mode !== "INLINE")
            this.fault(join(where, "ProcessorConfig", "Mode"), `must be INLINE, found ${show(config.Mode)}`);
        }
        const items = this.constrained(path, json, "Items", "an array", Array.isArray);
        const processor = this.inner(where, json.ItemProcessor, ["Comment", "ProcessorConfig", "StartAt", "States"], visible);
        const map = { items, itemSelector: template("ItemSelector"), maxConcurrency: whole("MaxConcurrency", 0), processor };
        return { ...named, ...this.catching(path, json), ...this.end(path, json), type, ...map };
      }
    }
  }

  private inner(path: string, json: unknown, allowed: readonly string[], visible: ReadonlySet<string>): Flow {
    if (!isObject(json)) {
      this.fault(path, "must be an object with StartAt and States");
      return { startAt: "", states: new Map() };
    }
    this.fields(path, json, allowed, []);
    return this.flow(path, json, visible);
  }

  private task(path: string, json: Json, whole: (field: string, least: number) => Template | undefined) {
    const where = join(path, "Resource");
    const short =
      typeof json.Resource === "string" && json.Resource.startsWith(resourcePrefix) ? json.Resource.slice(resourcePrefix.length) : undefined;
    const resource = resources.find((each) => each === short);
    if (typeof json.Resource !== "string") this.fault(where, `must be a string, found ${show(json.Resource)}`);
    else if (resource === undefined)
      this.fault(where, `${json.Resource} is not modelled: ${resources.map((each) => resourcePrefix + each).join(", ")} are`, true);
    const [timeoutSeconds, heartbeatSeconds] = [whole("TimeoutSeconds", 1), whole("HeartbeatSeconds", 1)];
    if (heartbeatSeconds && resource !== undefined && !resource.endsWith(".waitForTaskToken")) {
      this.fault(join(path, "HeartbeatSeconds"), `only a task that waits for its token can send heartbeats, this one is ${resource}`, true);
    }
    const [timeout, heartbeat] = [json.TimeoutSeconds, json.HeartbeatSeconds];
    if (typeof timeout === "number" && typeof heartbeat === "number" && heartbeat >= timeout) {
      this.fault(join(path, "HeartbeatSeconds"), `must be less than TimeoutSeconds, found ${heartbeat} and ${timeout}`);
    }
    this.taskArguments(path, json.Arguments, resource);
    return { resource: resource ?? "lambda:invoke", timeoutSeconds, heartbeatSeconds };
  }

  private taskArguments(path: string, json: unknown, resource: TaskResource | undefined): void {
    if (resource === undefined || (typeof json === "string" && expressionOf(json) !== undefined)) return;
    const where = join(path, "Arguments");
    const isLambda = resource.startsWith("lambda:");
    const [needed, modelled] = isLambda ? ["FunctionName", argumentsOf.lambda] : ["StateMachineArn", argumentsOf.startExecution];
    if (!isObject(json)) {
      this.fault(where, `must be an object with ${needed}`);
      return;
    }
    if (json[needed] === undefined) this.fault(where, `needs ${needed}`);
    const other = isLambda ? ["ClientContext", "InvocationType", "LogType", "Qualifier"] : ["TraceHeader"];
    this.fields(where, json, modelled, other);
    if (resource.endsWith(".waitForTaskToken") && !JSON.stringify(json).includes("$states.context.Task.Token")) {
      this.fault(where, "hands on no $states.context.Task.Token, so nothing could ever complete the task");
    }
  }

  private choices(path: string, json: Json) {
    const choices = Array.isArray(json.Choices) ? json.Choices : [];
    if (choices.length === 0) this.fault(join(path, "Choices"), "must hold at least one rule");
    const rules = choices.map((rule: unknown, index: number) => {
      const where = `${join(path, "Choices")}[${index}]`;
      const field = `Choices[${index}]`;
      if (!isObject(rule)) {
        this.fault(where, "must be an object");
        return { condition: { kind: "constant", value: false } as const, next: "", assign: undefined, output: undefined };
      }
      this.fields(where, rule, ["Condition", "Next", "Assign", "Output", "Comment"], []);
      if (typeof rule.Next !== "string") this.fault(join(where, "Next"), "a rule needs Next");
      const literal = typeof rule.Condition === "boolean";
      const isExpression = typeof rule.Condition === "string" && expressionOf(rule.Condition) !== undefined;
      if (!literal && !isExpression) this.fault(join(where, "Condition"), `must be an expression or a boolean, found ${show(rule.Condition)}`);
      const condition = this.template(join(where, "Condition"), rule.Condition ?? false, `${field}/Condition`, ["input", "context"]);
      return {
        condition: condition ?? ({ kind: "constant", value: false } as const),
        next: String(rule.Next),
        ...this.leaving(where, rule, [], `${field}/`),
      };
    });
    if (json.Default !== undefined && typeof json.Default !== "string") this.fault(join(path, "Default"), "must name a state");
    return { choices: rules, hasDefault: typeof json.Default === "string", next: json.Default as string | undefined };
  }

  private catching(path: string, json: Json): { retry: readonly Retrier[]; catch: readonly Catcher[] } {
    const list = (field: "Retry" | "Catch") => {
      if (json[field] === undefined) return [];
      if (!Array.isArray(json[field])) this.fault(join(path, field), "must be an array");
      return Array.isArray(json[field]) ? (json[field] as unknown[]) : [];
    };
    const [retriers, catchers] = [list("Retry"), list("Catch")];
    const retry = retriers.map((json, index) => {
      const where = `${join(path, "Retry")}[${index}]`;
      const from = isObject(json) ? json : {};
      const fields = ["ErrorEquals", "IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds", "JitterStrategy", "Comment"];
      this.fields(where, from, fields, []);
      const number = (field: string, otherwise: number | undefined, rule: (value: number) => boolean, wanted: string) => {
        const value = from[field];
        if (value === undefined) return otherwise;
        if (typeof value === "number" && rule(value)) return value;
        this.fault(join(where, field), `must be ${wanted}, found ${show(value)}`);
        return otherwise;
      };
      const jitter = from.JitterStrategy ?? "NONE";
      if (jitter !== "FULL" && jitter !== "NONE") this.fault(join(where, "JitterStrategy"), `must be FULL or NONE, found ${show(jitter)}`);
      const interval = number("IntervalSeconds", 1, (value) => isWhole(value, 1), "a whole number of at least 1") ?? 1;
      const maxDelaySeconds = number(
        "MaxDelaySeconds",
        undefined,
        (value) => isWhole(value, 1) && value < 31_622_400,
        "a whole number of 1 to 31622399",
      );
      if (maxDelaySeconds !== undefined && maxDelaySeconds <= interval)
        this.fault(join(where, "MaxDelaySeconds"), `must be greater than IntervalSeconds, ${interval}`);
      return {
        errorEquals: this.errorEquals(where, from, index === retriers.length - 1),
        intervalSeconds: interval,
        maxAttempts: number("MaxAttempts", 3, (value) => isWhole(value, 0), `a whole number of 0 to ${longestSeconds}`) ?? 3,
        backoffRate: number("BackoffRate", 2, (value) => value >= 1, "a number of at least 1") ?? 2,
        maxDelaySeconds,
        jitter: jitter === "FULL" ? ("FULL" as const) : ("NONE" as const),
      };
    });
    const caught = catchers.map((json, index) => {
      const where = `${join(path, "Catch")}[${index}]`;
      const from = isObject(json) ? json : {};
      this.fields(where, from, ["ErrorEquals", "Next", "Assign", "Output", "Comment"], []);
      if (typeof from.Next !== "string") this.fault(join(where, "Next"), "a catcher needs Next");
      const left = this.leaving(where, from, ["errorOutput"], `Catch[${index}]/`);
      return { errorEquals: this.errorEquals(where, from, index === catchers.length - 1), next: String(from.Next), ...left };
    });
    return { retry, catch: caught };
  }

  private errorEquals(path: string, json: Json, last: boolean): readonly string[] {
    const where = join(path, "ErrorEquals");
    const names = Array.isArray(json.ErrorEquals) ? (json.ErrorEquals as unknown[]) : [];
    if (names.length === 0 || !names.every((name) => typeof name === "string")) {
      this.fault(where, "must be an array of at least one error name");
      return [];
    }
    if (names.includes("States.ALL") && (names.length > 1 || !last)) this.fault(where, "States.ALL stands alone, in the last entry");
    for (const name of names as string[]) {
      if (name.startsWith("States.") && !reservedErrors.has(name)) this.fault(where, `${name} is no error of the States Language`);
    }
    return names as string[];
  }

  /** Assign and Output. */
  private leaving(path: string, json: Json, also: readonly string[], field = "") {
    const sees = ["input", "context", ...also];
    if (json.Assign !== undefined && !isObject(json.Assign)) this.fault(join(path, "Assign"), "must be an object: names and their values");
    for (const name of assignedNamesOf(json)) {
      if (name === "states" || !/^[\p{ID_Start}_][\p{ID_Continue}]{0,79}$/u.test(name))
        this.fault(join(path, "Assign"), `${show(name)} cannot be a variable's name`);
    }
    return {
      assign: isObject(json.Assign) ? this.template(join(path, "Assign"), json.Assign, `${field}Assign`, sees) : undefined,
      output: this.template(join(path, "Output"), json.Output, `${field}Output`, sees),
    };
  }

  private exit(path: string, json: Json, also: readonly string[]): Exit {
    return { next: undefined, ...this.leaving(path, json, also) };
  }

  private end(path: string, json: Json): { next: string | undefined } {
    if (json.End !== undefined && typeof json.End !== "boolean") this.fault(join(path, "End"), "must be true or false");
    if (json.Next !== undefined && typeof json.Next !== "string") this.fault(join(path, "Next"), "must name a state");
    if ((json.End === true) === (json.Next !== undefined)) this.fault(path, "needs either Next or End");
    return { next: json.Next as string | undefined };
  }

  private comment(path: string, json: Json): string | undefined {
    if (json.Comment !== undefined && typeof json.Comment !== "string") this.fault(join(path, "Comment"), "must be a string");
    return json.Comment as string | undefined;
  }

  /** A field that is a literal of one kind, or an expression that will be checked when it runs. */
  private constrained(path: string, json: Json, field: string, wanted: string, rule: (value: unknown) => boolean): Template | undefined {
    const value = json[field];
    if (value === undefined) return undefined;
    if (!(typeof value === "string" && expressionOf(value) !== undefined) && !rule(value)) {
      this.fault(join(path, field), `must be ${wanted}, or an expression, found ${show(value)}`);
    }
    return this.template(join(path, field), value, field, ["input", "context"]);
  }

  private template(path: string, value: unknown, field: string, sees: readonly string[]): Template | undefined {
    if (value === undefined) return undefined;
    if (typeof value === "string") {
      const source = expressionOf(value);
      if (source === undefined) {
        if (value.startsWith("{%") || value.endsWith("%}")) this.fault(path, `${show(value)} must begin with {% and end with %}`);
        return { kind: "constant", value };
      }
      const expression = compileExpression(source);
      for (const fault of expression.faults) this.fault(path, fault.message, fault.unmodelled);
      for (const member of expression.states) {
        if (member !== "*" && !sees.includes(member)) this.fault(path, `'${source}' reads $states.${member}, which is not there in this field`);
      }
      return { kind: "expression", expression, field };
    }
    if (Array.isArray(value)) {
      const items = value.map((item, index) => this.template(`${path}[${index}]`, item, `${field}[${index}]`, sees) as Template);
      return items.every((item) => item.kind === "constant") ? { kind: "constant", value } : { kind: "array", items };
    }
    if (isObject(value)) {
      const members = Object.entries(value).map(
        ([name, member]) => [name, this.template(join(path, name), member, `${field}/${name}`, sees) as Template] as const,
      );
      return members.every(([, member]) => member.kind === "constant") && !field.endsWith("Assign")
        ? { kind: "constant", value }
        : { kind: "object", members };
    }
    return { kind: "constant", value };
  }

  private fields(path: string, json: Json, allowed: readonly string[], unmodelled: readonly string[]): void {
    for (const field of Object.keys(json)) {
      if (allowed.includes(field)) continue;
      if (unmodelled.includes(field)) this.fault(join(path, field), "is not modelled", true);
      else if (ofJsonPath.has(field))
        this.fault(join(path, field), "belongs to JSONPath: a JSONata machine has Arguments, Output and Assign instead");
      else this.fault(join(path, field), "is not a field that may stand here");
    }
  }
}

/** Members of a task's Arguments that the runner understands. */
export const argumentsOf = { lambda: ["FunctionName", "Payload"], startExecution: ["StateMachineArn", "Name", "Input"] } as const;

/** Amazon States Language, appendix of predefined error codes, with those Step Functions adds. */
const reservedErrors = new Set([
  ...["States.ALL", "States.DataLimitExceeded", "States.ExceedToleratedFailureThreshold", "States.HeartbeatTimeout", "States.Http.Socket"],
  ...["States.IntrinsicFailure", "States.ItemReaderFailed", "States.NoChoiceMatched", "States.ParameterPathFailure", "States.Permissions"],
  ...["States.QueryEvaluationError", "States.ResultPathMatchFailure", "States.ResultWriterFailed", "States.Runtime", "States.TaskFailed"],
  ...["States.Timeout", "States.BranchFailed"],
]);

/** Where a state may go next, in the order the definition gives. */
function targets(state: State): readonly string[] {
  const caught = state.type === "Task" || state.type === "Parallel" || state.type === "Map" ? state.catch : [];
  const chosen = state.type === "Choice" ? state.choices : [];
  return [...[...chosen, ...caught, state].map((exit) => exit.next)].filter((next) => next !== undefined);
}

/** The flows inside a state: branches of a Parallel, processor of a Map. */
export function innerFlows(state: State): readonly Flow[] {
  return state.type === "Parallel" ? state.branches : state.type === "Map" ? [state.processor] : [];
}

/** RFC 3339 as the States Language asks for it: date, `T`, time, zone. */
export function isTimestamp(text: string): boolean {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(text) && !Number.isNaN(Date.parse(text));
}
export function isWhole(value: unknown, least: number): boolean {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= longestSeconds;
}

/** Variables a state assigns in its own scope: by itself, by a rule, or by a catcher. */
function assignedNames(state: unknown): readonly string[] {
  if (!isObject(state)) return [];
  const lists = [state.Choices, state.Catch].flatMap((list) => (Array.isArray(list) ? list.filter(isObject) : []));
  return [state, ...lists].flatMap(assignedNamesOf);
}
function assignedNamesOf(json: Json): readonly string[] {
  return isObject(json.Assign) ? Object.keys(json.Assign) : [];
}
function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
function join(...parts: readonly string[]): string {
  return parts.filter((part) => part !== "").join("/");
}
function show(value: unknown): string {
  return typeof value === "string" ? `"${value}"` : JSON.stringify(value);
}
