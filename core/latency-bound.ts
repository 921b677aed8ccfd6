/**
 * The least time in which AWS and RKE2 let a cluster become ready, whatever orchestrates it: the formulas of latency-model.json.
 */
import model from "./latency-model.json" with { type: "json" };

export type LatencyStepName = keyof typeof model.steps;

/** Seconds since the request. */
export interface LowerBound {
  /** The first server answers. */
  readonly F: number;
  /** The control plane is complete. */
  readonly K: number;
  /** The last agent is ready; 0 without agents. */
  readonly A: number;
  /** The endpoint serves. */
  readonly E: number;
  readonly LB: number;
}

/**
 * Lower bound of a create.
 *
 * The model writes it for three servers; here one server needs no join, and five need four. The joins come one after another, so that one server
 * admits agents until the last has joined, and all of them do from then on.
 *
 * @param steps seconds of a step: its p50 unless given, such as the draws of one simulated run
 */
export function lowerBound(input: {
  readonly servers: number;
  readonly agents: number;
  readonly steps?: (name: LatencyStepName) => number;
}): LowerBound {
  const { servers, agents } = input;
  const at = input.steps ?? ((name: LatencyStepName) => model.steps[name].p50);
  const sum = (...names: LatencyStepName[]) => names.reduce((total, name) => total + at(name), 0);

  const online = sum("requestAccepted", "runInstancesCall", "pendingToRunning", "runningToSsmOnline");
  const prepared = online + sum("sendCommandToStart", "fetchAndVerifyArchives", "importImages");
  const F = prepared + at("firstServerStart");
  const joins = (servers - 1) * at("learnerJoinAndPromote");
  const K = F + joins + sum("lastServerPodsReady", "commandEndToEvent");
  const A =
    agents === 0
      ? 0
      : Math.max(F + admissionSeconds(agents, servers, joins), launchWaitSeconds(agents, servers) + prepared) +
        sum("agentStartToReady", "commandEndToEvent");
  const E = Math.max(
    sum("requestAccepted", "loadBalancerCreate", "targetRegisterToChecks", "targetHealthThreshold"),
    F + at("targetHealthThreshold"),
  );
  return { F, K, A, E, LB: Math.max(K, A, E) };
}

/** Until the last agent is admitted, from the moment the first server answers. */
function admissionSeconds(agents: number, servers: number, joins: number): number {
  const rate = model.rates.agentsAdmittedPerSecondPerServer.value;
  const early = joins * rate;
  return agents <= early ? agents / rate : joins + (agents - early) / (servers * rate);
}

/** RunInstances takes from a bucket of instances that refills slowly (EC2 API reference, request throttling). */
function launchWaitSeconds(agents: number, servers: number): number {
  return Math.max(0, (agents + servers - model.rates.runInstancesBurst.value) / model.rates.runInstancesRefillPerSecond.value);
}
