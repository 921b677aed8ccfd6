/**
 * What to expect of each step, for displays that show "elapsed / expected". Medians of the latency model along the workflow's path.
 */
import { lowerBound } from "./latency-bound.js";
import model from "./latency-model.json" with { type: "json" };
import type { OperationKind } from "./records.js";

/** Milestones in the order in which a run usually meets them. Names as they stand in operation records. */
export const createSteps = [
  "lease",
  "endpoint",
  "plan",
  "launch",
  "credentials",
  "first server online",
  "prepare",
  "bootstrap decided",
  "bootstrap",
  "join",
  "agents online",
  "agents",
  "verify",
  "kubeconfig",
  "snapshot",
  "endpoint healthy",
  "ready",
] as const;
/** A snapshot only where one was wanted and a server lives. */
export const deleteSteps = ["lease", "snapshot", "nodes", "endpoint", "sweep"] as const;
export const backupSteps = ["lease", "snapshot"] as const;
export const restoreSteps = [
  "lease",
  "restore begun",
  "plan",
  "launch",
  "first server online",
  "prepare",
  "restore decided",
  "restore",
  "join",
  "agents",
  "verify",
  "kubeconfig",
  "endpoint healthy",
  "snapshot",
  "ready",
] as const;
export const drillSteps = ["lease", "drill server launched", "drill server online", "prepare", "restore proven", "drill server gone"] as const;

export interface ExpectedStep {
  readonly name: string;
  /** How long the step itself takes, seconds. */
  readonly seconds: number;
  /** When it is done, seconds since the request. Steps run beside each other, so this is no sum. */
  readonly doneAfterSeconds: number;
}

/** A handler's work: it starts warm or cold, makes a few calls, and the workflow moves on. */
const handlerSeconds = model.steps.lambdaCold.p50 + model.steps.stateTransition.p50 + 0.5;
/** Until an instance that is told to terminate has, and until the interfaces of a deleted load balancer are gone (Elastic Load Balancing guide). */
const terminateSeconds = 60;
const releaseInterfacesSeconds = 120;
const commandSeconds = model.steps.sendCommandToStart.p50 + model.steps.commandEndToEvent.p50;
/** Two commands: save, and send. What the data add is seconds for a gigabyte. */
const snapshotSeconds = 2 * (commandSeconds + handlerSeconds) + model.steps.snapshotFixed.p50 + 2;
/** RKE2 runs once to put etcd's data in place, and once more to start (rke2-docs, "Backup and Restore"). */
const resetSeconds = 30;

/**
 * Expected course of an operation; each step's name is one of its kind's above. An expectation, not a promise: the display says so once a
 * step takes longer. A record may hold further names, of steps that only a run with trouble has.
 */
export function expectedSteps(kind: OperationKind, size: { readonly servers: number; readonly agents: number }): ExpectedStep[] {
  switch (kind) {
    case "create":
      return expectedCreate(size);
    case "delete":
      return expectedDelete();
    case "backup":
      return inTurn(backupSteps, { lease: model.steps.requestAccepted.p50 + handlerSeconds, snapshot: snapshotSeconds });
    case "restore":
      return expectedRestore(size);
    case "drill":
      return expectedDrill();
  }
}

/** Steps that follow one another. */
function inTurn<Name extends string>(names: readonly Name[], seconds: Readonly<Record<Name, number>>): ExpectedStep[] {
  let done = 0;
  return names.map((name) => {
    done += seconds[name];
    return tenths(name, [seconds[name], done]);
  });
}

/** In place, with every machine there already: one that is to be launched takes longer, and the display says so. */
function expectedRestore({ servers, agents }: { readonly servers: number; readonly agents: number }): ExpectedStep[] {
  const step = model.steps;
  return inTurn(restoreSteps, {
    lease: step.requestAccepted.p50 + handlerSeconds,
    "restore begun": handlerSeconds,
    plan: commandSeconds + step.drainNode.p50 + handlerSeconds,
    launch: handlerSeconds,
    "first server online": handlerSeconds,
    prepare: commandSeconds + handlerSeconds,
    "restore decided": handlerSeconds,
    restore: commandSeconds + resetSeconds + step.firstServerStart.p50,
    join: (servers - 1) * (commandSeconds + step.learnerJoinAndPromote.p50 + handlerSeconds),
    agents: agents === 0 ? 0 : commandSeconds + step.agentStartToReady.p50,
    verify: step.lastServerPodsReady.p50 + handlerSeconds,
    kubeconfig: handlerSeconds,
    "endpoint healthy": step.targetHealthThreshold.p50 + handlerSeconds,
    snapshot: snapshotSeconds,
    ready: handlerSeconds,
  });
}

function expectedDrill(): ExpectedStep[] {
  const step = model.steps;
  return inTurn(drillSteps, {
    lease: step.requestAccepted.p50 + handlerSeconds,
    "drill server launched": step.runInstancesCall.p50 + handlerSeconds,
    "drill server online": step.pendingToRunning.p50 + step.runningToSsmOnline.p50,
    prepare: commandSeconds + step.fetchAndVerifyArchives.p50 + step.importImages.p50,
    "restore proven": commandSeconds + resetSeconds + step.firstServerStart.p50 + handlerSeconds,
    "drill server gone": terminateSeconds,
  });
}

function expectedCreate({ servers, agents }: { readonly servers: number; readonly agents: number }): ExpectedStep[] {
  const step = model.steps;
  const bound = lowerBound({ servers, agents });
  const accepted = step.requestAccepted.p50;
  const leased = accepted + handlerSeconds;
  const planned = leased + handlerSeconds;
  const launched = planned + step.runInstancesCall.p50 + handlerSeconds;
  const online = launched + step.pendingToRunning.p50 + step.runningToSsmOnline.p50;
  const prepare = step.sendCommandToStart.p50 + step.fetchAndVerifyArchives.p50 + step.importImages.p50 + step.commandEndToEvent.p50;
  const bootstrap = step.sendCommandToStart.p50 + step.firstServerStart.p50 + step.commandEndToEvent.p50;
  const join = (servers - 1) * (step.sendCommandToStart.p50 + step.learnerJoinAndPromote.p50 + step.commandEndToEvent.p50);
  const bootstrapped = online + prepare + handlerSeconds + bootstrap;
  const joined = bootstrapped + join;
  // What the bound counts from the first server's answer on, laid behind the expected answer.
  const agentsDone = agents === 0 ? online : bootstrapped + Math.max(0, bound.A - bound.F) + step.sendCommandToStart.p50;
  const verified = Math.max(joined + step.lastServerPodsReady.p50, agentsDone) + handlerSeconds;
  const endpointHealthy = Math.max(bound.E, bootstrapped + step.targetHealthThreshold.p50, verified + handlerSeconds) + handlerSeconds;
  const snapshot = verified + handlerSeconds + snapshotSeconds;
  const ready = Math.max(endpointHealthy, snapshot) + handlerSeconds;

  const course: Readonly<Record<(typeof createSteps)[number], readonly [seconds: number, doneAfterSeconds: number]>> = {
    lease: [handlerSeconds, leased],
    endpoint: [handlerSeconds, planned],
    plan: [handlerSeconds, planned],
    launch: [launched - planned, launched],
    credentials: [handlerSeconds, launched + handlerSeconds],
    "first server online": [online - launched, online],
    prepare: [prepare, online + prepare],
    "bootstrap decided": [handlerSeconds, online + prepare + handlerSeconds],
    bootstrap: [bootstrap, bootstrapped],
    join: [join, joined],
    "agents online": [online - launched, online],
    agents: [Math.max(0, agentsDone - bootstrapped), agentsDone],
    verify: [step.lastServerPodsReady.p50 + handlerSeconds, verified],
    kubeconfig: [handlerSeconds, verified + handlerSeconds],
    snapshot: [snapshotSeconds, snapshot],
    "endpoint healthy": [endpointHealthy - planned, endpointHealthy],
    ready: [handlerSeconds, ready],
  };
  return createSteps.map((name) => tenths(name, course[name]));
}

function expectedDelete(): ExpectedStep[] {
  const leased = model.steps.requestAccepted.p50 + handlerSeconds;
  const snapshot = leased + snapshotSeconds;
  const nodes = snapshot + handlerSeconds + terminateSeconds;
  const endpoint = nodes + handlerSeconds + releaseInterfacesSeconds;
  const swept = endpoint + handlerSeconds;
  const course: Readonly<Record<(typeof deleteSteps)[number], readonly [number, number]>> = {
    lease: [handlerSeconds, leased],
    snapshot: [snapshotSeconds, snapshot],
    nodes: [nodes - snapshot, nodes],
    endpoint: [endpoint - nodes, endpoint],
    sweep: [handlerSeconds, swept],
  };
  return deleteSteps.map((name) => tenths(name, course[name]));
}

function tenths(name: string, [seconds, doneAfterSeconds]: readonly [number, number]): ExpectedStep {
  return { name, seconds: Math.round(seconds * 10) / 10, doneAfterSeconds: Math.round(doneAfterSeconds * 10) / 10 };
}
