/**
 * When a cluster, and the endpoint before it, may be called ready.
 */
import type { NodeCommandResult } from "./node-commands.js";
import { isAlive, type ObservedInstance } from "./nodes.js";
import type { ClusterRecord } from "./records.js";
import { durationText } from "./restore.js";

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

/** How etcd stands by what is known without asking it: which members' machines run. */
export interface QuorumAssessment {
  readonly kind: "whole" | "member lost" | "quorum lost" | "cluster lost";
  readonly members: number;
  readonly running: number;
  readonly majority: number;
  /** Node ids whose machine does not run. */
  readonly lost: readonly string[];
  readonly reason: string;
  /** What a person may do without making it worse, one line each; empty when nothing is lost. */
  readonly safe: readonly string[];
  /** What the command loses. */
  readonly loss: string;
  /** The one command; missing when nothing is to be done. */
  readonly command?: string;
}

/**
 * Tells one lost member, lost quorum and a lost cluster apart, each with what is safe, what would be lost, and the one command.
 *
 * A stopped machine still has its disk: starting it loses nothing, so that comes before any restore. Undefined while the cluster never had a member.
 *
 * @param now ISO 8601
 */
export function assessQuorum(input: {
  readonly record: Pick<ClusterRecord, "name" | "members" | "newestProven">;
  readonly observed: readonly ObservedInstance[];
  readonly now: string;
}): QuorumAssessment | undefined {
  const { record, observed } = input;
  const { name, members, newestProven } = record;
  if (members.length === 0) return undefined;
  const stateOf = (id: string) => observed.find((instance) => instance.instanceId === id)?.state;
  const ids = members.map((member) => member.instanceId);
  const running = ids.filter((id) => isAlive(stateOf(id) ?? "terminated"));
  const stopped = ids.filter((id) => stateOf(id) === "stopped" || stateOf(id) === "stopping");
  const lost = ids.filter((id) => !running.includes(id));
  const majority = Math.floor(members.length / 2) + 1;
  const facts = { members: members.length, running: running.length, majority, lost };
  const of = `${running.length} of ${members.length} etcd members' machines run, majority is ${majority}`;
  if (lost.length === 0) return { kind: "whole", ...facts, reason: of, safe: [], loss: "nothing" };

  const kind = running.length >= majority ? "member lost" : running.length > 0 ? "quorum lost" : "cluster lost";
  const reason = `${of}: ${lost.join(", ")} ${lost.length === 1 ? "does" : "do"} not`;
  const mayFail = running.length - majority;
  const start = `aws ec2 start-instances --instance-ids ${stopped.join(" ")}`;
  const startLine = `Start the stopped ${stopped.length === 1 ? "machine" : "machines"}: their disks hold their data, and nothing is lost`;
  if (kind === "member lost") {
    const rest = mayFail === 0 ? "no other may fail" : `${mayFail} more may fail`;
    return {
      kind,
      ...facts,
      reason,
      safe: [
        `The cluster works on and keeps its data; ${rest}`,
        "Do not stop, restart or replace another server now",
        ...(stopped.length > 0 ? [startLine] : ["Take a snapshot while there is a majority"]),
      ],
      loss: "nothing",
      command: stopped.length > 0 ? start : `drover snapshot create ${name}`,
    };
  }
  const since =
    newestProven === undefined
      ? undefined
      : `everything since ${newestProven.at} (${durationText(Math.max(0, (Date.parse(input.now) - Date.parse(newestProven.at)) / 1000))}), snapshot ${newestProven.id}`;
  if (running.length + stopped.length >= majority) {
    return { kind, ...facts, reason, safe: [startLine, "Do not terminate them"], loss: "nothing", command: start };
  }
  if (kind === "quorum lost") {
    return {
      kind,
      ...facts,
      reason,
      safe: [
        "Nothing can be written; workloads run on as they are",
        `Do not terminate ${running.join(", ")}: its disk may be the newest copy of the data there is`,
        ...(since === undefined ? [] : [`Or restore a snapshot: drover restore ${name} --snapshot latest loses ${since}`]),
      ],
      loss: "what only the lost members had: as a rule nothing, or the last seconds",
      command: `drover restore ${name} --snapshot survivor`,
    };
  }
  return {
    kind,
    ...facts,
    reason,
    safe: [
      "Agents and their workloads run on as they are, without control",
      since === undefined
        ? "There is no proven snapshot: nothing can be restored"
        : "Snapshots lie apart from the cluster, and restoring needs none of its servers",
    ],
    loss: since ?? "everything",
    command: since === undefined ? `drover delete ${name}` : `drover restore ${name} --snapshot latest`,
  };
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
