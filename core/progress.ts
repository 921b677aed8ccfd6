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
  "endpoint healthy",
  "ready",
] as const;
export const deleteSteps = ["lease", "nodes", "endpoint", "sweep"] as const;

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

/**
 * Expected course of an operation; each step's name is one of `createSteps` or `deleteSteps`. An expectation, not a promise: the display says so once a
 * step takes longer. A record may hold further names, of steps that only a run with trouble has.
 */
export function expectedSteps(kind: OperationKind, size: { readonly servers: number; readonly agents: number }): ExpectedStep[] {
  return kind === "create" ? expectedCreate(size) : expectedDelete();
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
  const ready = endpointHealthy + handlerSeconds;

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
    "endpoint healthy": [endpointHealthy - planned, endpointHealthy],
    ready: [handlerSeconds, ready],
  };
  return createSteps.map((name) => tenths(name, course[name]));
}

function expectedDelete(): ExpectedStep[] {
  const leased = model.steps.requestAccepted.p50 + handlerSeconds;
  const nodes = leased + handlerSeconds + terminateSeconds;
  const endpoint = nodes + handlerSeconds + releaseInterfacesSeconds;
  const swept = endpoint + handlerSeconds;
  const course: Readonly<Record<(typeof deleteSteps)[number], readonly [number, number]>> = {
    lease: [handlerSeconds, leased],
    nodes: [nodes - leased, nodes],
    endpoint: [endpoint - nodes, endpoint],
    sweep: [handlerSeconds, swept],
  };
  return deleteSteps.map((name) => tenths(name, course[name]));
}

function tenths(name: string, [seconds, doneAfterSeconds]: readonly [number, number]): ExpectedStep {
  return { name, seconds: Math.round(seconds * 10) / 10, doneAfterSeconds: Math.round(doneAfterSeconds * 10) / 10 };
}
