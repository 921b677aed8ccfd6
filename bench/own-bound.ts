/**
 * The lower bound of one run: the formulas of core/latency-bound.ts over what that very run drew, so that bad luck with a machine is not taken for
 * slowness of ours, and good luck not for speed.
 *
 * A median says nothing of the slowest of a thousand machines; this does. What nobody could have done is not in it: agents are admitted in the order in
 * which they could have come, because who will be slow afterwards is known to nobody then.
 */
import type { LowerBound } from "../core/latency-bound.js";
import model from "../core/latency-model.json" with { type: "json" };

/** What a run drew, in seconds. Of machines and of RKE2, never of our own handlers. */
export interface Draws {
  readonly servers: readonly ServerDraws[];
  readonly agents: readonly AgentDraws[];
  /** From the last server's Ready until no pod waits. */
  readonly podsReady: number;
  readonly loadBalancer: LoadBalancerDraws;
  /** From the end of a node command to the event that tells of it: of the last verification, and of each agent's start. */
  readonly verifiedToEvent: number;
}

export interface ServerDraws {
  readonly instanceId: string;
  /** From launch to SSM online. */
  readonly boot: number;
  /** prepare-node, from SendCommand to its end. */
  readonly prepare: number;
  /** start-server, from its start on the node to its end: the bound counts one command a node, so the second one's way to it is ours. */
  readonly start: number;
  readonly isFirst: boolean;
}

export interface AgentDraws {
  /** Place in the order of launches, all nodes counted, from 1. */
  readonly place: number;
  readonly boot: number;
  readonly prepare: number;
  /** From admission to Ready. */
  readonly start: number;
  readonly endToEvent: number;
}

export interface LoadBalancerDraws {
  readonly create: number;
  /** From active to the first checks of every target that was there by then. */
  readonly registerToChecks: number;
  /** By target group. */
  readonly targets: readonly (readonly TargetDraws[])[];
}

export interface TargetDraws {
  readonly instanceId: string;
  /** How long it must answer until it is healthy. */
  readonly threshold: number;
  /** From registration to its first checks, where it came when the load balancer was active already. */
  readonly ownChecks?: number;
}

const { steps, rates } = model;
const agentsPerSecondPerServer = rates.agentsAdmittedPerSecondPerServer.value;
/** The world does not remember how long these two took for the first node: their medians. */
const accepted = steps.requestAccepted.p50;
const asked = accepted + steps.runInstancesCall.p50;

/** Seconds since the request, as `lowerBound` gives them. */
export function ownBound(draws: Draws): LowerBound {
  const ready = serversReady(draws.servers);
  const F = Math.min(...ready.values());
  const K = Math.max(...ready.values()) + draws.podsReady + draws.verifiedToEvent;
  const A = agentsReady(draws.agents, [...ready.values()]);
  const E = endpointServes(draws.loadBalancer, ready);
  return { F, K, A, E, LB: Math.max(K, A, E) };
}

/**
 * When each server could be Ready, by instance. The first to be prepared could be the first of the cluster, whichever it was; the others join one at a
 * time, in the order in which they could be prepared, which no other order beats.
 */
function serversReady(servers: readonly ServerDraws[]): ReadonlyMap<string, number> {
  const first = servers.find(({ isFirst }) => isFirst);
  if (first === undefined) throw new Error("no server of the run was the first");
  const inTurn = servers.map((server) => ({ ...server, prepared: asked + server.boot + server.prepare })).sort((a, b) => a.prepared - b.prepared);
  const joins = servers.filter((server) => server !== first).map(({ start }) => start);
  let free = 0;
  return new Map(
    inTurn.map(({ instanceId, prepared }, index) => {
      free = Math.max(free, prepared) + (index === 0 ? first.start : (joins[index - 1] as number));
      return [instanceId, free];
    }),
  );
}

/** First come, first admitted; each server admits one after another from when it is Ready. 0 without agents. */
function agentsReady(agents: readonly AgentDraws[], serversFrom: readonly number[]): number {
  const free = [...serversFrom];
  const coming = agents.map((agent) => ({ agent, at: asked + launchWait(agent.place) + agent.boot + agent.prepare })).sort((a, b) => a.at - b.at);
  let last = 0;
  for (const { agent, at } of coming) {
    const server = free.indexOf(Math.min(...free));
    const admitted = Math.max(at, free[server] as number) + 1 / agentsPerSecondPerServer;
    free[server] = admitted;
    last = Math.max(last, admitted + agent.start + agent.endToEvent);
  }
  return last;
}

/** RunInstances takes from a bucket of instances that refills slowly. */
function launchWait(place: number): number {
  return Math.max(0, (place - rates.runInstancesBurst.value) / rates.runInstancesRefillPerSecond.value);
}

/**
 * One healthy target in each group is enough. Checks begin for all that are registered early at once; one that came late drew a delay of its own, which
 * may be over sooner.
 */
function endpointServes({ create, registerToChecks, targets }: LoadBalancerDraws, ready: ReadonlyMap<string, number>): number {
  const active = accepted + create;
  const healthy = ({ instanceId, threshold, ownChecks = Number.POSITIVE_INFINITY }: TargetDraws) => {
    const answers = ready.get(instanceId) ?? Number.POSITIVE_INFINITY;
    return Math.min(Math.max(active + registerToChecks, answers), Math.max(active, answers) + ownChecks) + threshold;
  };
  return Math.max(...targets.map((group) => Math.min(...group.map(healthy))));
}
