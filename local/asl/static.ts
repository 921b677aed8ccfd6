/**
 * What must hold of a state machine before it ever runs: limits, retries, catches, budgets that its Comments state, variables, and the size of its
 * history. Each rule answers with one line per fault, so that a test can expect none.
 */
import {
  type Catcher,
  type Exit,
  type Flow,
  innerFlows,
  type Machine,
  type MapState,
  type ParallelState,
  type Retrier,
  readDefinition,
  type State,
  type TaskState,
  type Template,
} from "./definition.js";

/** A state with the states around it, the outermost first. */
interface Placed {
  readonly state: State;
  readonly around: readonly (ParallelState | MapState)[];
}

function* everyState(flow: Flow, around: Placed["around"] = []): Generator<Placed> {
  for (const state of flow.states.values()) {
    yield { state, around };
    if (state.type === "Parallel" || state.type === "Map") for (const inner of innerFlows(state)) yield* everyState(inner, [...around, state]);
  }
}
function tasksOf(machine: Machine): (Placed & { readonly state: TaskState })[] {
  return [...everyState(machine)].filter((placed): placed is Placed & { readonly state: TaskState } => placed.state.type === "Task");
}
const isCatching = (state: State) => state.type === "Task" || state.type === "Parallel" || state.type === "Map";

/**
 * Every rule below that needs nothing but the definition. Placeholders may still stand in it.
 *
 * @param isChild whether another machine starts this one and waits for it: then a failure here may end it under its own name, and the task that
 *                waits catches that
 */
export function definitionFaults(definition: string, { isChild = false }: { readonly isChild?: boolean } = {}): string[] {
  const machine = readDefinition(definition);
  return [
    ...missingTimeouts(machine),
    ...missingServiceRetries(machine),
    ...boundlessRetries(machine),
    ...(isChild ? [] : uncaughtTasks(machine)),
    ...unsafeStarts(machine),
    ...budgetFaults(machine),
    ...unassignedVariables(machine),
    ...lostInputs(machine),
    ...loops(machine).faults,
    ...missingComments(machine),
    ...strangePlaceholders(definition),
  ];
}

/** The default limits are 99,999,999 s for a task and a year for an execution: a lost callback would hold the lease as long. */
export function missingTimeouts(machine: Machine): string[] {
  const tasks = tasksOf(machine).filter(({ state }) => state.timeoutSeconds === undefined);
  return [
    ...(machine.timeoutSeconds === undefined ? ["the machine has no TimeoutSeconds"] : []),
    ...tasks.map(({ state }) => `${state.name}: has no TimeoutSeconds`),
  ];
}

/** Faults of the Lambda service that AWS says to retry (Step Functions developer guide, best practices), and its throttle, spread by jitter. */
export const lambdaServiceErrors = [
  "Lambda.ClientExecutionTimeoutException",
  "Lambda.ServiceException",
  "Lambda.AWSLambdaException",
  "Lambda.SdkClientException",
] as const;
const lambdaThrottles = ["Lambda.TooManyRequestsException"] as const;

/** The same of Step Functions, which as a called service names errors as the Java SDK does: what it has no name for is `AWSStepFunctionsException`. */
export const stepFunctionsServiceErrors = ["StepFunctions.AWSStepFunctionsException", "StepFunctions.SdkClientException"] as const;
/** Too many at once. The developer guide spells the limit without `Exception`, recorded histories spell errors of StartExecution with it. */
export const stepFunctionsThrottles = [
  "StepFunctions.ThrottlingException",
  "StepFunctions.ExecutionLimitExceeded",
  "StepFunctions.ExecutionLimitExceededException",
] as const;

export function missingServiceRetries(machine: Machine): string[] {
  return tasksOf(machine).flatMap(({ state }) => {
    const isLambda = state.resource.startsWith("lambda:");
    const [errors, throttles] = isLambda ? [lambdaServiceErrors, lambdaThrottles] : [stepFunctionsServiceErrors, stepFunctionsThrottles];
    const retrierOf = (error: string) => state.retry.find((retrier) => retrier.errorEquals.includes(error) && retrier.maxAttempts > 0);
    const missing = [...errors, ...throttles].filter((error) => retrierOf(error) === undefined);
    const unspread = throttles.filter((error) => (retrierOf(error)?.jitter ?? "FULL") !== "FULL");
    return [
      ...missing.map((error) => `${state.name}: does not retry ${error}`),
      ...unspread.map((error) => `${state.name}: retries ${error} without JitterStrategy FULL`),
    ];
  });
}

/** A retry of everything repeats what can never succeed. */
export function boundlessRetries(machine: Machine): string[] {
  return [...everyState(machine)].flatMap(({ state }) => {
    if (!isCatching(state)) return [];
    const names = state.retry.flatMap((retrier) => retrier.errorEquals).filter((name) => name === "States.ALL" || name === "States.TaskFailed");
    return names.map((name) => `${state.name}: retries ${name}; name what may change by itself`);
  });
}

/** Each failure of a task reaches a catcher of States.ALL alone: its own, or that of a Parallel or Map around it. */
export function uncaughtTasks(machine: Machine): string[] {
  const catchesAll = (state: TaskState | ParallelState | MapState) =>
    state.catch.some(({ errorEquals }) => errorEquals.length === 1 && errorEquals[0] === "States.ALL");
  return tasksOf(machine)
    .filter(({ state, around }) => ![state, ...around].some(catchesAll))
    .map(({ state }) => `${state.name}: no Catch of States.ALL, neither its own nor around it`);
}

// --- machines that start others ------------------------------------------------------------------------------------------------------------------

const executionNameLimit = 80;
/** What differs when a retry evaluates it again. */
const chance = /\$(?:now|millis|random|uuid)\(|RetryCount|EnteredTime|Task\.Token/;

function startsOf(machine: Machine) {
  return tasksOf(machine)
    .filter(({ state }) => state.resource.startsWith("states:startExecution"))
    .map(({ state }) => ({ state, given: (name: string) => memberOf(state.arguments, name) }));
}
function memberOf(template: Template | undefined, name: string): Template | undefined {
  if (template?.kind === "object") return template.members.find(([member]) => member === name)?.[1];
  // What holds no expression is one constant.
  const value = template?.kind === "constant" ? (template.value as Readonly<Record<string, unknown>> | null)?.[name] : undefined;
  return value === undefined ? undefined : { kind: "constant", value };
}

/**
 * Whoever starts an execution waits for it, and names it so that a retry whose first answer was lost meets the same one: StartExecution is
 * idempotent by name and input while that runs. A redrive starts another, because the name of an ended one stays taken for 90 days.
 */
export function unsafeStarts(machine: Machine): string[] {
  return startsOf(machine).flatMap(({ state, given }) => {
    const name = given("Name");
    const faults: string[] = [];
    if (!state.resource.endsWith(".sync:2")) faults.push("starts an execution without waiting for it, so nobody hears how it ends");
    if (name?.kind === "expression") faults.push(...nameFaults(name.expression.source));
    else faults.push("names the execution by no expression, so a retry starts a second one or meets a stranger");
    return faults.map((fault) => `${state.name}: ${fault}`);
  });
}

function nameFaults(source: string): string[] {
  const faults: string[] = [];
  if (chance.test(source)) faults.push(`names the execution by '${source}', which a retry evaluates to another name`);
  if (!source.includes("Execution.RedriveCount")) faults.push("names the execution without Execution.RedriveCount, so a redrive meets the ended one");
  const length = longestText(source);
  if (length === undefined) faults.push(`names the execution by '${source}', whose length has no bound`);
  else if (length > executionNameLimit) faults.push(`names the execution with up to ${length} characters, ${executionNameLimit} are allowed`);
  return faults;
}

/** Most characters of texts joined by `&`: literals, `$substring(..., 0, n)` and SHA-256 in hexadecimal. Undefined for anything else. */
function longestText(source: string): number | undefined {
  const parts = [""];
  let [depth, quoted] = [0, false];
  for (const letter of source) {
    if (letter === "'") quoted = !quoted;
    if (!quoted) depth += letter === "(" ? 1 : letter === ")" ? -1 : 0;
    if (letter === "&" && depth === 0 && !quoted) parts.push("");
    else parts[parts.length - 1] += letter;
  }
  const lengths = parts.map((part) => {
    const [, literal, cut, hash] = /^(?:'([^']*)'|\$substring\(.*, 0, (\d+)\)|(\$hash\(.*, 'SHA-256'\)))$/.exec(part.trim()) ?? [];
    return literal?.length ?? (cut !== undefined ? Number(cut) : hash !== undefined ? 64 : Number.NaN);
  });
  const total = lengths.reduce((sum, length) => sum + length, 0);
  return Number.isNaN(total) ? undefined : total;
}

/** Machines by the placeholder that stands for their ARN: `StartAgentGroupStateMachine`. */
export type Family = Readonly<Record<string, string>>;

const startedBy = (given: Template | undefined) => (given?.kind === "constant" ? /^\$\{(\w+)\}$/.exec(String(given.value))?.[1] : undefined);

/** Placeholders of the machines that another one starts. */
export function childrenIn(family: Family): ReadonlySet<string> {
  const started = Object.values(family).flatMap((definition) =>
    startsOf(readDefinition(definition)).map(({ given }) => startedBy(given("StateMachineArn"))),
  );
  return new Set(started.filter((name) => name !== undefined));
}

/**
 * What holds between a machine and those it starts: they exist, get what they read, and end by themselves before the task gives them up, since their
 * own time-out says more than the parent's.
 */
export function familyFaults(family: Family): string[] {
  return Object.values(family).flatMap((definition) =>
    startsOf(readDefinition(definition)).flatMap(({ state, given }) => {
      const name = startedBy(given("StateMachineArn"));
      const text = name === undefined ? undefined : family[name];
      if (text === undefined) return [`${state.name}: starts ${name ?? "something that no placeholder names"}, which is no machine here`];
      const child = readDefinition(text);
      const limit = state.timeoutSeconds?.kind === "constant" ? Number(state.timeoutSeconds.value) : Number.NaN;
      const first = child.states.get(child.startAt) as State;
      const read = templatesOf(first).flatMap((template) =>
        [...expressionsOf(template)].flatMap(({ source }) => [...source.matchAll(/\$states\.input\.(\w+)/g)]),
      );
      const missing = [...new Set(read.map(([, field = ""]) => field))].filter((field) => memberOf(given("Input"), field) === undefined);
      return [
        ...(limit > (child.timeoutSeconds ?? Number.POSITIVE_INFINITY)
          ? []
          : [`${state.name}: waits ${limit} s for ${name}, which may take ${child.timeoutSeconds ?? "any number of"} s`]),
        ...missing.map((field) => `${state.name}: starts ${name} without '${field}', which its first state reads`),
      ];
    }),
  );
}

// --- budgets -------------------------------------------------------------------------------------------------------------------------------------

const units = { s: 1, min: 60, h: 3600 } as const;
const steady = /\b([A-Z]\w+): (\d+) asks, (\d+) s apart = (\d+) (s|min|h)\b/g;
const growing = /\b([A-Z]\w+): (\d+) asks, (\d+) s growing by (\d+(?:\.\d+)?) to (\d+) s = (\d+) (s|min|h)\b/g;
const heartbeat = /\bHeartbeat: (\d+) of (\d+) s = (\d+) (s|min|h)\b/g;

/** Errors that are retried because AWS may fail, not because the world is still changing. */
const isServiceError = (name: string) => /^(Lambda|Sandbox|StepFunctions)\./.test(name);
const isTimeout = (name: string) => name === "States.Timeout" || name === "States.HeartbeatTimeout";

/** Seconds that a retrier waits in all, without jitter. */
export function retrySeconds(retrier: Retrier): number {
  let total = 0;
  for (let tried = 0; tried < retrier.maxAttempts; tried++) {
    total += Math.min(retrier.intervalSeconds * retrier.backoffRate ** tried, retrier.maxDelaySeconds ?? Number.POSITIVE_INFINITY);
  }
  return total;
}

/**
 * A Comment states the budget of each retry of ours, and the sum is right. Three forms:
 * `NotYet: 60 asks, 20 s apart = 20 min`, `NotYet: 45 asks, 5 s growing by 1.2 to 60 s = 32 min` (rounded to its unit), and for a task that is
 * asked again when its heartbeat stops `Heartbeat: 6 of 120 s = 12 min` (the first attempt and its retries).
 */
export function budgetFaults(machine: Machine): string[] {
  return [...everyState(machine)].flatMap(({ state }) => (isCatching(state) ? budgetFaultsOf(state) : []));
}

function budgetFaultsOf(state: TaskState | ParallelState | MapState): string[] {
  const comment = state.comment ?? "";
  const faults: string[] = [];
  const say = (message: string) => faults.push(`${state.name}: ${message}`);
  const told = new Set<string>();
  const retrierOf = (error: string) => state.retry.find(({ errorEquals }) => errorEquals.includes(error));
  const compare = (what: string, stated: number | string, found: number | string | undefined) => {
    if (String(stated) !== String(found)) say(`the Comment says ${what} ${stated}, the definition says ${found ?? "nothing"}`);
  };

  const budgets = [
    ...[...comment.matchAll(steady)].map(([, error, asks, interval, total, unit]) => ({
      error,
      asks,
      interval,
      rate: "1",
      cap: undefined,
      total,
      unit,
    })),
    ...[...comment.matchAll(growing)].map(([, error, asks, interval, rate, cap, total, unit]) => ({ error, asks, interval, rate, cap, total, unit })),
  ];
  for (const { error = "", asks = "", interval = "", rate = "", cap, total, unit } of budgets) {
    told.add(error);
    const retrier = retrierOf(error);
    if (!retrier) {
      say(`the Comment has a budget for ${error}, which nothing retries`);
      continue;
    }
    compare(`${error}: asks`, asks, retrier.maxAttempts);
    compare(`${error}: seconds apart`, interval, retrier.intervalSeconds);
    compare(`${error}: growing by`, Number(rate), retrier.backoffRate);
    if (cap !== undefined || retrier.maxDelaySeconds !== undefined) compare(`${error}: at most`, cap ?? "nothing", retrier.maxDelaySeconds);
    const size = units[unit as keyof typeof units];
    const sum = retrySeconds(retrier) / size;
    compare(`${error}: in all (${unit})`, Number(total), cap === undefined ? sum : Math.round(sum));
  }

  for (const [, attempts = "", seconds = "", total, unit] of comment.matchAll(heartbeat)) {
    told.add("Heartbeat");
    const retrier = retrierOf("States.Timeout");
    const limit = state.type === "Task" && state.heartbeatSeconds?.kind === "constant" ? (state.heartbeatSeconds.value as number) : undefined;
    compare("Heartbeat: attempts", attempts, 1 + (retrier?.maxAttempts ?? 0));
    compare("Heartbeat: seconds", seconds, limit);
    compare(`Heartbeat: in all (${unit})`, Number(total), ((1 + (retrier?.maxAttempts ?? 0)) * (limit ?? 0)) / units[unit as keyof typeof units]);
  }

  for (const { errorEquals } of state.retry) {
    for (const error of errorEquals.filter((name) => !isServiceError(name))) {
      const name = isTimeout(error) ? "Heartbeat" : error;
      if (!told.has(name)) say(`retries ${error}, but the Comment states no budget for it`);
    }
  }
  return faults;
}

// --- variables and inputs ------------------------------------------------------------------------------------------------------------------------

function* expressionsOf(template: Template | undefined): Generator<Extract<Template, { kind: "expression" }>["expression"]> {
  if (template === undefined || template.kind === "constant") return;
  if (template.kind === "expression") yield template.expression;
  else if (template.kind === "array") for (const item of template.items) yield* expressionsOf(item);
  else for (const [, member] of template.members) yield* expressionsOf(member);
}

const namesIn = (template: Template | undefined) => (template?.kind === "object" ? template.members.map(([name]) => name) : []);

/** What a state evaluates while variables are as at its entry. */
function templatesOf(state: State): readonly (Template | undefined)[] {
  const left = [state.assign, state.output];
  const caught = isCatching(state) ? state.catch.flatMap(({ assign, output }) => [assign, output]) : [];
  switch (state.type) {
    case "Task":
      return [...left, ...caught, state.arguments, state.timeoutSeconds, state.heartbeatSeconds];
    case "Choice":
      return [...left, ...state.choices.flatMap(({ condition, assign, output }) => [condition, assign, output])];
    case "Wait":
      return [...left, state.seconds, state.timestamp];
    case "Fail":
      return [state.error, state.cause];
    case "Parallel":
      return [...left, ...caught, state.arguments];
    case "Map":
      return [...left, ...caught, state.items, state.itemSelector, state.maxConcurrency];
    case "Pass":
    case "Succeed":
      return left;
  }
}

/** Every way out of a state, with what it assigns. */
function exitsOf(state: State): readonly Exit[] {
  const rules: readonly (Exit | Catcher)[] = state.type === "Choice" ? state.choices : isCatching(state) ? state.catch : [];
  const isOpen = state.type !== "Choice" || state.hasDefault;
  return [...rules, ...(isOpen ? [state] : [])];
}

/**
 * A variable is read only where every path to it has assigned it: otherwise the expression yields nothing, and in a Choice, Wait, Pass or catcher
 * nothing catches that. `$exists($x)` may ask for one that is not.
 */
export function unassignedVariables(machine: Machine): string[] {
  const faults: string[] = [];
  visit(machine, new Set());
  return faults;

  function visit(flow: Flow, atStart: ReadonlySet<string>): void {
    const before = new Map<string, ReadonlySet<string>>([[flow.startAt, atStart]]);
    const open = [flow.startAt];
    for (let name = open.pop(); name !== undefined; name = open.pop()) {
      const state = flow.states.get(name);
      const known = before.get(name);
      if (!state || !known) continue;
      for (const exit of exitsOf(state)) {
        if (exit.next === undefined) continue;
        const after = new Set([...known, ...namesIn(exit.assign)]);
        const earlier = before.get(exit.next);
        const merged = earlier ? new Set([...earlier].filter((variable) => after.has(variable))) : after;
        if (earlier && earlier.size === merged.size) continue;
        before.set(exit.next, merged);
        open.push(exit.next);
      }
    }
    for (const [name, known] of before) {
      const state = flow.states.get(name);
      if (!state) continue;
      for (const template of templatesOf(state)) {
        for (const { variables, source } of expressionsOf(template)) {
          for (const variable of variables) {
            const isAsked = source.includes(`$exists($${variable}`);
            if (!known.has(variable) && !isAsked) faults.push(`${name}: '${source}' reads $${variable}, which not every path has assigned`);
          }
        }
      }
      for (const inner of innerFlows(state)) visit(inner, known);
    }
  }
}

/** A catcher without Output hands on the error in place of the input: the state it goes to must not read the input. */
export function lostInputs(machine: Machine): string[] {
  return flowsOf(machine).flatMap((flow) =>
    [...flow.states.values()].flatMap((state) =>
      (isCatching(state) ? state.catch : [])
        .filter(({ output }) => output === undefined)
        .flatMap(({ next }) => {
          const target = flow.states.get(next ?? "");
          const reads = target && templatesOf(target).flatMap((template) => [...expressionsOf(template)]);
          const lost = reads?.find(({ states }) => states.includes("input") || states.includes("*"));
          return lost ? [`${state.name}: its catcher has no Output, but ${next} reads '${lost.source}'`] : [];
        }),
    ),
  );
}

function flowsOf(flow: Flow): Flow[] {
  return [flow, ...[...flow.states.values()].flatMap((state) => innerFlows(state).flatMap(flowsOf))];
}

/** Names are the operator's words, and each state says why it is there. */
function missingComments(machine: Machine): string[] {
  return [...everyState(machine)].filter(({ state }) => !state.comment).map(({ state }) => `${state.name}: has no Comment`);
}

/** A placeholder names a function or a state machine, so that its substitution can be found: `${DecideRollFunction}`, `${RollPoolStateMachine}`. */
export function strangePlaceholders(definition: string): string[] {
  const placeholders = [...new Set([...definition.matchAll(/\$\{([^}]*)\}/g)].map(([, name = ""]) => name))];
  return placeholders
    .filter((name) => !/^([A-Z][a-z0-9]*)+(Function|StateMachine)$/.test(name))
    .map((name) => `the placeholder \${${name}} names neither a function nor a state machine`);
}

/** Names of the Fail states: each has a heading in the runbook. */
export function failStates(machine: Machine): string[] {
  return [...everyState(machine)].filter(({ state }) => state.type === "Fail").map(({ state }) => state.name);
}

// --- loops and the size of the history -----------------------------------------------------------------------------------------------------------

interface Counter {
  readonly variable: string;
  readonly from: number;
  /** The rule is taken while the variable is less. */
  readonly below: number;
}

/**
 * A loop goes through a Choice whose rule counts: Condition `$pass < 3`, Assign `pass: $pass + 1`, with a constant assigned before. Nothing else may
 * lead back.
 */
function loops(machine: Machine): { readonly counters: ReadonlyMap<Exit, Counter>; readonly faults: readonly string[] } {
  const counters = new Map<Exit, Counter>();
  const faults: string[] = [];
  for (const flow of flowsOf(machine)) {
    for (const state of flow.states.values()) {
      for (const rule of state.type === "Choice" ? state.choices : []) {
        const counter = counterOf(flow, rule);
        if (counter) counters.set(rule, counter);
      }
    }
    const path: string[] = [];
    const seen = new Set<string>();
    const visit = (name: string) => {
      const state = flow.states.get(name);
      if (!state || seen.has(name)) return;
      path.push(name);
      for (const exit of exitsOf(state)) {
        if (exit.next === undefined || counters.has(exit)) continue;
        if (path.includes(exit.next)) faults.push(`${[...path.slice(path.indexOf(exit.next)), exit.next].join(" -> ")}: a loop that nothing counts`);
        else visit(exit.next);
      }
      path.pop();
      seen.add(name);
    };
    visit(flow.startAt);
    // What only a counted rule leads to must be looked at as well.
    for (const name of flow.states.keys()) visit(name);
  }
  return { counters, faults };
}

function counterOf(flow: Flow, rule: Exit & { readonly condition: Template }): Counter | undefined {
  if (rule.condition.kind !== "expression") return undefined;
  const [, variable, below] = /^\$(\w+) < (\d+)$/.exec(rule.condition.expression.source) ?? [];
  if (variable === undefined || rule.assign?.kind !== "object") return undefined;
  const next = rule.assign.members.find(([name]) => name === variable)?.[1];
  if (next?.kind !== "expression" || next.expression.source !== `$${variable} + 1`) return undefined;
  const assigned = [...flow.states.values()].flatMap(exitsOf).flatMap(({ assign }) => (assign?.kind === "object" ? assign.members : []));
  const starts = assigned
    .filter(([name, value]) => name === variable && value !== next)
    .map(([, value]) => (value.kind === "constant" ? value.value : undefined));
  if (starts.length === 0 || !starts.every((value) => typeof value === "number")) return undefined;
  return { variable, from: Math.min(...(starts as number[])), below: Number(below) };
}

export interface BoundOptions {
  /** Most items of each Map, by state name. */
  readonly mapItems: Readonly<Record<string, number>>;
  /**
   * How long the world normally keeps a state asking, in seconds, by state name: as many retries of ours as fit into it count for the normal path.
   * Zero where nothing is said.
   */
  readonly waitSeconds?: Readonly<Record<string, number>>;
}
export interface HistoryBound {
  /** Events when nothing fails: no catcher, no second pass, retries only while the world takes its normal time. */
  readonly normal: number;
  /** Events when every retrier is used up in every attempt of every pass, whichever way is longest. */
  readonly worst: number;
}

/** Events of one state beside its inner flows, when everything goes well (measured from recorded histories). */
const eventsOf: Readonly<Record<State["type"], number>> = { Pass: 2, Choice: 2, Wait: 2, Succeed: 2, Fail: 1, Task: 5, Parallel: 4, Map: 4 };
const perAttempt = 3;
const perIteration = 2;

/**
 * The most events an execution can have, from its definition.
 *
 * @throws Error when a Map has no number of items, or a loop no bound
 */
export function historyBound(definition: string, options: BoundOptions): HistoryBound {
  const machine = readDefinition(definition);
  const { counters, faults } = loops(machine);
  if (faults.length > 0) throw new Error(`the history has no bound: ${faults.join("; ")}`);
  const ends = 2; // ExecutionStarted, and how it ended
  return { normal: ends + longest(machine, false), worst: ends + longest(machine, true) };

  function longest(flow: Flow, worst: boolean): number {
    const known = new Map<string, number>();
    const from = (name: string, counts: Readonly<Record<string, number>>): number => {
      const key = `${name} ${JSON.stringify(counts)}`;
      const before = known.get(key);
      if (before !== undefined) return before;
      const state = flow.states.get(name) as State;
      const exits = exitsOf(state).filter((exit) => worst || !isCatching(state) || exit === state);
      const rest = exits.map((exit) => {
        const counter = counters.get(exit);
        const count = counter ? (counts[counter.variable] ?? counter.from) : 0;
        if (counter && (!worst || count >= counter.below)) return 0;
        return exit.next === undefined ? 0 : from(exit.next, counter ? { ...counts, [counter.variable]: count + 1 } : counts);
      });
      const total = costOf(state, worst) + Math.max(0, ...rest);
      known.set(key, total);
      return total;
    };
    return from(flow.startAt, {});
  }

  function costOf(state: State, worst: boolean): number {
    const own = eventsOf[state.type];
    // A failed expression or an aborted state adds one at the most, and replaces what would have come.
    const fault = worst ? 1 : 0;
    if (state.type === "Task") {
      const waits = state.resource.endsWith(".waitForTaskToken") || state.resource.endsWith(".sync:2") ? 1 : 0;
      return own + waits + retriesOf(state, worst) * (perAttempt + (worst ? waits : 0)) + fault;
    }
    if (state.type === "Parallel") {
      const attempts = 1 + retriesOf(state, worst);
      return own + attempts * state.branches.reduce((sum, branch) => sum + longest(branch, worst) + fault, 0) + (attempts - 1) + fault;
    }
    if (state.type === "Map") {
      const items = options.mapItems[state.name];
      if (items === undefined) throw new Error(`the history has no bound: say how many items the Map '${state.name}' has at the most`);
      const attempts = 1 + retriesOf(state, worst);
      return own + attempts * items * (perIteration + longest(state.processor, worst) + fault) + (attempts - 1) + fault;
    }
    return own + fault;
  }

  function retriesOf(state: TaskState | ParallelState | MapState, worst: boolean): number {
    if (worst) return state.retry.reduce((sum, { maxAttempts }) => sum + maxAttempts, 0);
    const seconds = options.waitSeconds?.[state.name] ?? 0;
    if (seconds === 0) return 0;
    const retrier = state.retry.find(({ errorEquals }) => errorEquals.some((name) => !isServiceError(name) && !isTimeout(name)));
    if (!retrier) throw new Error(`${state.name} is said to wait ${seconds} s, but it retries nothing of ours`);
    let [asks, waited] = [0, 0];
    for (; waited < seconds && asks < retrier.maxAttempts; asks++) {
      waited += Math.min(retrier.intervalSeconds * retrier.backoffRate ** asks, retrier.maxDelaySeconds ?? Number.POSITIVE_INFINITY);
    }
    return asks;
  }
}
