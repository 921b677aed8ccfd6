/**
 * When a cluster, and the endpoint before it, may be called ready.
 */
import type { NodeCommandResult } from "./node-commands.js";
import type { ClusterRecord } from "./records.js";

export type ReadyAnswer =
  | { readonly kind: "ready" }
  | { readonly kind: "notYet"; readonly reason: string }
  /** Waiting cannot mend it. */
  | { readonly kind: "stop"; readonly reason: string };

export type ClusterCheck = NodeCommandResult<"check-cluster">;

/**
 * Decides whether the cluster is what its record wants: as many members as servers, all voting and ready, every agent ready, nothing unknown, nothing
 * pending, and one identity seen from everywhere. Two cluster ids or CA hashes are a split brain.
 *
 * @param check  what one server reports
 * @param others what other servers report, where they were asked too
 */
export function decideReady(input: {
  readonly record: ClusterRecord;
  readonly check: ClusterCheck;
  readonly others?: readonly ClusterCheck[];
}): ReadyAnswer {
  const { record, check } = input;
  const servers = record.wanted.spec.servers.count;
  const agents = record.wanted.spec.agentPools.reduce((sum, pool) => sum + pool.count, 0);

  const caHash = record.bootstrap?.done?.caHash;
  for (const each of [check, ...(input.others ?? [])]) {
    if (caHash !== undefined && each.caHash !== caHash) {
      return stop(`${each.node} has cluster CA ${short(each.caHash)}, the first server made ${short(caHash)}: it belongs to another cluster`);
    }
    if (each.clusterId !== check.clusterId || each.caHash !== check.caHash) {
      return stop(`${each.node} and ${check.node} are servers of different clusters (${each.clusterId} and ${check.clusterId})`);
    }
  }

  if (!check.apiReady) return notYet(`the API server on ${check.node} is not ready`);
  if (check.members !== servers) return notYet(`etcd has ${check.members} of ${servers} members`);
  if (check.voters !== servers) return notYet(`${check.voters} of ${servers} etcd members vote`);
  if (check.serversReady !== servers) return notYet(`${check.serversReady} of ${servers} servers are ready${named(check.notReady)}`);
  if (check.agentsReady !== agents) return notYet(`${check.agentsReady} of ${agents} agents are ready${named(check.notReady)}`);
  if (check.nodes !== servers + agents)
    return notYet(`the cluster knows ${check.nodes} nodes, ${servers + agents} are wanted${named(check.notReady)}`);
  if (check.podsPending > 0) return notYet(`${check.podsPending} system pods are pending`);
  return { kind: "ready" };
}

/** A target as DescribeTargetHealth shows it (Elastic Load Balancing API reference, TargetHealth). */
export interface TargetState {
  readonly instanceId: string;
  readonly state: "initial" | "healthy" | "unhealthy" | "unhealthy.draining" | "unused" | "draining" | "unavailable";
  readonly reason?: string;
}

/**
 * Decides whether the endpoint serves: every server registered in both groups, one healthy in each, none unhealthy. A target still `initial` is no
 * obstacle, it gets no traffic yet; one healthy target serves all zones, as cross-zone balancing is on.
 *
 * Reads the states and never a connection: with all targets unhealthy the load balancer sends traffic to all of them (Elastic Load Balancing guide,
 * "fail open"), so that an answer proves nothing.
 */
export function decideEndpoint(input: {
  readonly wantedServers: number;
  readonly targets: { readonly supervisor: readonly TargetState[]; readonly api: readonly TargetState[] };
}): Exclude<ReadyAnswer, { kind: "stop" }> {
  for (const group of ["supervisor", "api"] as const) {
    const registered = input.targets[group].filter((target) => target.state !== "draining" && target.state !== "unhealthy.draining");
    if (registered.length < input.wantedServers) {
      return notYet(`${registered.length} of ${input.wantedServers} servers are registered in the ${group} target group`);
    }
    const obstacle = registered.find((target) => target.state !== "healthy" && target.state !== "initial");
    if (obstacle !== undefined) {
      const reason = obstacle.reason === undefined ? "" : ` (${obstacle.reason})`;
      return notYet(`${obstacle.instanceId} is ${obstacle.state}${reason} in the ${group} target group`);
    }
    if (!registered.some((target) => target.state === "healthy")) return notYet(`no server is healthy yet in the ${group} target group`);
  }
  return { kind: "ready" };
}

function notYet(reason: string): { kind: "notYet"; reason: string } {
  return { kind: "notYet", reason };
}

function stop(reason: string): ReadyAnswer {
  return { kind: "stop", reason };
}

function named(nodes: readonly string[]): string {
  return nodes.length === 0 ? "" : `; not ready: ${nodes.slice(0, 5).join(", ")}${nodes.length > 5 ? `, and ${nodes.length - 5} more` : ""}`;
}

function short(hash: string): string {
  return hash.slice(0, 12);
}
