/**
 * How far an operation is: its steps with elapsed and expected time, as lines for a log or as a picture that is redrawn.
 *
 * Steps overlap, so each counts from the moment when the steps before it were done.
 */
import { type backupSteps, type createSteps, type deleteSteps, type drillSteps, expectedSteps, type restoreSteps } from "../core/progress.js";
import type { OperationKind, OperationRecord, StepRecord } from "../core/records.js";
import type { Screen } from "./surroundings.js";
import { clockTime, fit, paint, plain, secondsBetween, wrap } from "./text.js";

export interface ClusterSize {
  readonly servers: number;
  readonly agents: number;
}

type StepName =
  | (typeof createSteps)[number]
  | (typeof deleteSteps)[number]
  | (typeof backupSteps)[number]
  | (typeof restoreSteps)[number]
  | (typeof drillSteps)[number];

interface StepShape {
  /** Steps that must be done first. */
  readonly after: readonly StepName[];
  /** Steps of which the first milestone is enough. */
  readonly afterFirst?: readonly StepName[];
  /** Completes "waiting for". */
  readonly waitingFor: string;
  /** How many nodes go through it; one milestone ends it where this is not given. */
  readonly of?: (size: ClusterSize) => number;
}

const createShapes: Readonly<Record<(typeof createSteps)[number], StepShape>> = {
  lease: { after: [], waitingFor: "the cluster's lease" },
  endpoint: { after: ["lease"], waitingFor: "the load balancer to be accepted" },
  plan: { after: ["endpoint"], waitingFor: "the plan of nodes" },
  launch: { after: ["plan"], waitingFor: "machines to be launched" },
  credentials: { after: ["launch"], waitingFor: "tokens to be made and encrypted" },
  "first server online": { after: ["launch"], waitingFor: "the first server to be online in SSM" },
  prepare: {
    after: ["first server online"],
    waitingFor: "archives to be fetched, verified and imported",
    of: ({ servers, agents }) => servers + agents,
  },
  "bootstrap decided": { after: [], afterFirst: ["prepare"], waitingFor: "the one server that may start the cluster" },
  bootstrap: { after: ["bootstrap decided"], waitingFor: "the first server to answer and vote" },
  join: { after: ["bootstrap"], waitingFor: "the other servers to join and vote", of: ({ servers }) => servers - 1 },
  "agents online": { after: ["launch"], waitingFor: "agents to be online in SSM" },
  agents: { after: ["bootstrap", "agents online"], waitingFor: "agents to be Ready", of: ({ agents }) => agents },
  verify: { after: ["join", "agents", "prepare"], waitingFor: "every node to be verified" },
  kubeconfig: { after: ["verify"], waitingFor: "the kubeconfig to be stored" },
  snapshot: { after: ["kubeconfig"], waitingFor: "the first snapshot to be proven" },
  "endpoint healthy": { after: ["endpoint"], waitingFor: "the endpoint to answer" },
  ready: { after: ["snapshot", "endpoint healthy"], waitingFor: "the operation to be closed" },
};

const deleteShapes: Readonly<Record<(typeof deleteSteps)[number], StepShape>> = {
  lease: { after: [], waitingFor: "the cluster's lease" },
  snapshot: { after: ["lease"], waitingFor: "a last snapshot to be proven" },
  nodes: { after: ["snapshot"], waitingFor: "machines to be terminated" },
  endpoint: { after: ["nodes"], waitingFor: "the load balancer and its network interfaces to go" },
  sweep: { after: ["endpoint"], waitingFor: "nothing to carry the cluster's tags" },
};

const backupShapes: Readonly<Record<(typeof backupSteps)[number], StepShape>> = {
  lease: { after: [], waitingFor: "the cluster's lease" },
  snapshot: { after: ["lease"], waitingFor: "the snapshot to be saved, sent and proven" },
};

const restoreShapes: Readonly<Record<(typeof restoreSteps)[number], StepShape>> = {
  lease: { after: [], waitingFor: "the cluster's lease" },
  "restore begun": { after: ["lease"], waitingFor: "servers to leave the endpoint" },
  plan: { after: ["restore begun"], waitingFor: "servers to stop" },
  launch: { after: ["plan"], waitingFor: "machines to be launched" },
  "first server online": { after: ["launch"], waitingFor: "the first server to be online in SSM" },
  prepare: { after: ["first server online"], waitingFor: "archives to be fetched, verified and imported" },
  "restore decided": { after: [], afterFirst: ["prepare"], waitingFor: "the one server that may restore the cluster" },
  restore: { after: ["restore decided"], waitingFor: "the first server to restore, answer and vote" },
  join: { after: ["restore"], waitingFor: "the other servers to join and vote", of: ({ servers }) => servers - 1 },
  agents: { after: ["restore"], waitingFor: "agents to be Ready", of: ({ agents }) => agents },
  verify: { after: ["join", "agents", "prepare"], waitingFor: "every node to be verified" },
  kubeconfig: { after: ["verify"], waitingFor: "the kubeconfig to be stored" },
  "endpoint healthy": { after: ["kubeconfig"], waitingFor: "the endpoint to answer" },
  snapshot: { after: ["endpoint healthy"], waitingFor: "a fresh snapshot to be proven" },
  ready: { after: ["snapshot"], waitingFor: "the operation to be closed" },
};

const drillShapes: Readonly<Record<(typeof drillSteps)[number], StepShape>> = {
  lease: { after: [], waitingFor: "the cluster's lease" },
  "drill server launched": { after: ["lease"], waitingFor: "a throw-away server to be launched" },
  "drill server online": { after: ["drill server launched"], waitingFor: "it to be online in SSM" },
  prepare: { after: ["drill server online"], waitingFor: "archives to be fetched, verified and imported" },
  "restore proven": { after: ["prepare"], waitingFor: "the snapshot to be restored and compared" },
  "drill server gone": { after: ["restore proven"], waitingFor: "the throw-away server to be terminated" },
};

const shapesOf: Readonly<Record<OperationKind, Readonly<Record<string, StepShape>>>> = {
  create: createShapes,
  delete: deleteShapes,
  backup: backupShapes,
  restore: restoreShapes,
  drill: drillShapes,
};

export interface CourseStep {
  readonly name: string;
  readonly state: "done" | "running" | "later";
  readonly waitingFor: string;
  /** Nodes through it, and of how many. */
  readonly count?: { readonly done: number; readonly of: number };
  readonly elapsedSeconds?: number;
  readonly expectedSeconds: number;
}

export interface Course {
  readonly steps: readonly CourseStep[];
  readonly elapsedSeconds: number;
  readonly expectedSeconds: number;
}

/**
 * Where an operation stands.
 *
 * A step whose successor is done counts as done, also without a milestone of its own: an operation that goes on where another stopped skips steps.
 *
 * @param nowMilliseconds on the API's clock
 */
export function courseOf(operation: OperationRecord, size: ClusterSize, nowMilliseconds: number): Course {
  const shapes = shapesOf[operation.kind];
  const isLeftOut = (name: string) =>
    (name === "agents online" && size.agents === 0) || (operation.kind === "delete" && name === "snapshot" && operation.lastSnapshot !== true);
  const expected = expectedSteps(operation.kind, size).filter(({ name }) => shapes[name]?.of?.(size) !== 0 && !isLeftOut(name));
  const milestones = (name: string) => operation.steps.filter((step) => step.name === name);
  const isOver = operation.status === "succeeded" || operation.status === "failed";
  const now =
    Math.max(Date.parse(operation.endedAt ?? ""), ...operation.steps.map(({ at }) => Date.parse(at)), isOver ? 0 : nowMilliseconds) ||
    nowMilliseconds;

  const through = (name: string): { done: number; of: number } | undefined => {
    const of = shapes[name]?.of?.(size);
    if (of === undefined) return undefined;
    const done = milestones(name).reduce((sum, step) => sum + nodesIn(step), 0);
    return { done: Math.min(done, of), of };
  };
  const hasItself = (name: string) => {
    const count = through(name);
    return count === undefined ? milestones(name).length > 0 : count.done >= count.of;
  };
  const done = new Set<string>(
    operation.status === "succeeded" ? expected.map(({ name }) => name) : expected.map(({ name }) => name).filter(hasItself),
  );
  const markBefore = (name: string): void => {
    for (const before of shapes[name]?.after ?? []) {
      if (done.has(before)) continue;
      done.add(before);
      markBefore(before);
    }
  };
  for (const name of [...done]) markBefore(name);

  const endOf = (name: string): number => Math.max(Date.parse(operation.acceptedAt), ...milestones(name).map(({ at }) => Date.parse(at)));
  const firstOf = (name: string): number => Date.parse(milestones(name)[0]?.at ?? operation.acceptedAt);
  const startOf = (name: string): number =>
    Math.max(Date.parse(operation.acceptedAt), ...(shapes[name]?.after ?? []).map(endOf), ...(shapes[name]?.afterFirst ?? []).map(firstOf));
  const steps = expected.map(({ name, seconds }): CourseStep => {
    const { after = [], afterFirst = [], waitingFor = name } = shapes[name] ?? {};
    const present = after.filter((before) => expected.some((each) => each.name === before));
    const count = through(name);
    const common = { name, waitingFor, expectedSeconds: seconds, ...(count === undefined ? {} : { count }) };
    if (done.has(name)) {
      const own = milestones(name).length > 0;
      const whole = count === undefined ? {} : { count: { done: count.of, of: count.of } };
      return { ...common, ...whole, state: "done", ...(own ? { elapsedSeconds: Math.max(0, (endOf(name) - startOf(name)) / 1000) } : {}) };
    }
    const isNext = present.every((before) => done.has(before)) && afterFirst.every((before) => milestones(before).length > 0);
    if (isOver || !isNext) return { ...common, state: "later" };
    return { ...common, state: "running", elapsedSeconds: Math.max(0, (now - startOf(name)) / 1000) };
  });
  return {
    steps,
    elapsedSeconds: Math.max(0, (now - Date.parse(operation.acceptedAt)) / 1000),
    expectedSeconds: Math.max(...expected.map(({ doneAfterSeconds }) => doneAfterSeconds)),
  };
}

/** Milestones of node commands say how many nodes went through; every other stands for one. */
function nodesIn({ detail }: StepRecord): number {
  return Number(/: (\d+) node\(s\)/.exec(detail)?.[1] ?? 1);
}

export interface ProgressDisplay {
  show(operation: OperationRecord, size: ClusterSize, nowMilliseconds: number): void;
  /** A line of its own: trouble with the connection, for example. */
  note(line: string): void;
  /** Leaves the screen ready for what comes next. */
  end(): void;
}

/** Redrawn at a terminal, one line for each milestone elsewhere. */
export function progressDisplay(screen: Screen): ProgressDisplay {
  return screen.isTerminal ? drawnDisplay(screen) : lineDisplay(screen);
}

/** How long a log stays silent while nothing new happens: at first, and at most. */
const firstSilenceSeconds = 30;
const longestSilenceSeconds = 300;

function lineDisplay(screen: Screen): ProgressDisplay {
  let told = 0;
  let toldAtSeconds = 0;
  let silenceSeconds = firstSilenceSeconds;
  return {
    show(operation, size, now) {
      const course = courseOf(operation, size, now);
      for (const step of operation.steps.slice(told)) {
        const at = secondsBetween(operation.acceptedAt, step.at);
        screen.write(`${clockTime(at).padStart(7)}  ${step.name.padEnd(19)}  ${plain(step.detail)}${timing(course, operation, step)}\n`);
        toldAtSeconds = Math.max(toldAtSeconds, at);
        silenceSeconds = firstSilenceSeconds;
      }
      told = operation.steps.length;
      if (course.elapsedSeconds - toldAtSeconds < silenceSeconds) return;
      toldAtSeconds = course.elapsedSeconds;
      silenceSeconds = Math.min(2 * silenceSeconds, longestSilenceSeconds);
      for (const { state, waitingFor, count, elapsedSeconds = 0, expectedSeconds } of course.steps) {
        if (state !== "running") continue;
        const through = count === undefined ? "" : `, ${count.done} of ${count.of}`;
        const time = `${clockTime(elapsedSeconds)}, expected ${clockTime(expectedSeconds)}`;
        screen.write(`${clockTime(course.elapsedSeconds).padStart(7)}  waiting for ${waitingFor}${through} (${time})\n`);
      }
    },
    note: (line) => screen.write(`         ${line}\n`),
    end: () => {},
  };
}

/** Elapsed and expected, once the step as a whole is done. */
function timing(course: Course, operation: OperationRecord, milestone: StepRecord): string {
  const step = course.steps.find(({ name }) => name === milestone.name);
  const isLast = operation.steps.findLast(({ name }) => name === milestone.name) === milestone;
  if (step === undefined || step.state !== "done" || !isLast || step.elapsedSeconds === undefined) return "";
  return ` (${clockTime(step.elapsedSeconds)}, expected ${clockTime(step.expectedSeconds)})`;
}

function drawnDisplay(screen: Screen): ProgressDisplay {
  let drawn = 0;
  const erase = () => {
    if (drawn > 0) screen.write(`\u001b[${drawn}A\u001b[0J`);
    drawn = 0;
  };
  let last: readonly string[] = [];
  const draw = () => {
    for (const line of last) screen.write(`${line}\n`);
    drawn = last.length;
  };
  return {
    show(operation, size, now) {
      last = picture(courseOf(operation, size, now), operation, screen);
      erase();
      draw();
    },
    note(line) {
      erase();
      screen.write(`${line}\n`);
      draw();
    },
    end() {
      drawn = 0;
      last = [];
    },
  };
}

/** The picture of a course: every step on its line, or on a small screen those under way. */
export function picture(course: Course, operation: OperationRecord, screen: Screen): string[] {
  const isSmall = course.steps.length + 5 > screen.rows;
  const shown = isSmall ? course.steps.filter(({ state }) => state === "running") : course.steps;
  const width = Math.max(...course.steps.map(({ name }) => name.length));
  const lines = shown.map((step) => {
    const count = step.count === undefined ? "" : `${step.count.done} of ${step.count.of}`;
    const text = (words: string) => fit(words, screen.columns - 1);
    const head = `${step.name.padEnd(width)}  ${count.padStart(12)}`;
    switch (step.state) {
      case "done": {
        const time =
          step.elapsedSeconds === undefined
            ? "was so already"
            : `${clockTime(step.elapsedSeconds).padStart(6)}  expected ${clockTime(step.expectedSeconds)}`;
        return `${paint(screen, "green", "✓")} ${text(`${head}  ${time}`)}`;
      }
      case "running": {
        const elapsed = step.elapsedSeconds ?? 0;
        const isLate = elapsed > 1.5 * step.expectedSeconds + 5;
        const words = `${head}  ${clockTime(elapsed).padStart(6)}  expected ${clockTime(step.expectedSeconds)}${isLate ? ", slower than usual" : ""}`;
        return `${paint(screen, "yellow", "▸")} ${paint(screen, isLate ? "yellow" : "bold", text(words))}`;
      }
      case "later":
        return paint(screen, "dim", text(`· ${head}          expected ${clockTime(step.expectedSeconds)}`));
    }
  });
  const waits = course.steps.filter(({ state }) => state === "running").map(({ waitingFor }) => waitingFor);
  const summary = `${operation.cluster}: ${operation.kind}, ${clockTime(course.elapsedSeconds)} of about ${clockTime(course.expectedSeconds)}`;
  const tail = waits.length === 0 ? [] : wrap(`waiting for ${waits.join(", ")}`, screen.columns - 1).slice(0, isSmall ? 1 : 3);
  return [paint(screen, "bold", fit(summary, screen.columns - 1)), ...lines, ...tail];
}
