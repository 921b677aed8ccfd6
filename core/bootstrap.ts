/**
 * Law 1: one bootstrap, ever. Who may start without `server:`.
 *
 * A server that starts with neither `server:` nor etcd data on its disk always makes a new cluster (rke2-docs, "High availability"); two of them are a
 * split brain that nothing heals. A server that restores a snapshot makes a cluster too. So the choice is a decision in the cluster's record, written by If-Match before the command is sent: of
 * racing writers one wins, and everybody else reads the winner's decision and acts on it.
 */
import { isAlive, isGone, type ObservedInstance, visibleWithinSeconds } from "./nodes.js";
import type { BootstrapDecision, ClusterRecord, ServerMember } from "./records.js";

export type BootstrapAnswer =
  /** Write `decision` and `abandoned` (the whole history) to the record by If-Match, then send the command to the candidate. */
  | { readonly kind: "bootstrap"; readonly decision: BootstrapDecision; readonly abandoned: readonly BootstrapDecision[] }
  /** The candidate was chosen before: send the same command again, or find the one that was sent. */
  | { readonly kind: "resume"; readonly decision: BootstrapDecision }
  /** The cluster exists and lives elsewhere. */
  | { readonly kind: "join"; readonly address: string }
  /** Another instance was chosen and has not answered yet, or what happened to it is not certain yet. */
  | { readonly kind: "wait"; readonly instanceId: string; readonly reason: string }
  /**
   * The first server answered, then was lost with all it held. Write `abandoned` to the record without a decision, by If-Match; then terminate every
   * server and agent launched up to `launchedUntil`, for any of them may have been started against the lost cluster; launch anew and ask again.
   */
  | {
      readonly kind: "replace";
      readonly abandoned: readonly BootstrapDecision[];
      readonly replaceStarted: true;
      readonly launchedUntil: string;
      readonly reason: string;
    }
  /** Write `decision` and `abandoned` to the record by If-Match, without members; then the candidate restores the cluster and nobody else may. */
  | { readonly kind: "restore"; readonly decision: BootstrapDecision; readonly abandoned: readonly BootstrapDecision[] }
  /** The server that was to restore the cluster is gone, and what it had made with it: the restore begins anew on another. */
  | { readonly kind: "beginAnew"; readonly reason: string }
  /** Only a person can go on. */
  | { readonly kind: "stop"; readonly reason: string };

/**
 * Decides what the candidate may do about the cluster's first start.
 *
 * A later decision exists only when the instance chosen before is terminated for certain, no other server ever became a member, no snapshot
 * exists, and the cluster was never ready. If that instance had not answered, nothing was ever started against it and the new decision follows at
 * once; if it had, everything launched until then is replaced first.
 *
 * @param servers   the cluster's servers in EC2 now, terminated ones included while EC2 shows them
 * @param candidate id of the instance that asks
 * @param now       ISO 8601
 * @param snapshots snapshots that exist of this cluster (its uid)
 * @param restores  whether a restore asks: it alone may make the cluster while one is under way, and once for each
 */
export function decideBootstrap(input: {
  readonly record: ClusterRecord;
  readonly servers: readonly ObservedInstance[];
  readonly candidate: string;
  readonly operation: string;
  readonly now: string;
  readonly snapshots: number;
  readonly restores?: boolean;
}): BootstrapAnswer {
  const { record, servers, candidate } = input;
  const { name } = record;
  if (record.phase === "deleting") return stop(`${name} is being deleted: nothing of it is started`);
  const asking = servers.find((server) => server.instanceId === candidate);
  if (asking === undefined || asking.state !== "running") {
    return wait(candidate, `${candidate} is ${asking?.state ?? "not shown by EC2"}, and a server is started only when its instance is running`);
  }

  if (input.restores === true) return decideRestoring(input);
  if (record.restore !== undefined) {
    return stop(`${name} is being restored by ${record.restore.operation}: finish that, nothing else may make the cluster`);
  }
  const decided = record.bootstrap;
  if (decided === undefined) return decideFirst(input, asking);

  const others = record.members.filter((member) => member.instanceId !== decided.instanceId);
  const chosen = servers.find((server) => server.instanceId === decided.instanceId);
  const leftAgain = decided.done !== undefined && others.length > 0 && !record.members.some((member) => member.instanceId === candidate);
  if (decided.instanceId === candidate && !leftAgain) return decideForChosen(input, decided, others);
  if (decided.done !== undefined && others.length > 0) return decideJoinAmong(input);

  const fate = fateOf(chosen, decided, input.now);
  switch (fate) {
    case "alive":
      if (decided.done !== undefined) return { kind: "join", address: decided.done.address };
      return wait(decided.instanceId, `${decided.instanceId} was chosen to bootstrap ${name} and has not answered yet`);
    case "uncertain":
      return wait(
        decided.instanceId,
        `${decided.instanceId} was chosen to bootstrap ${name} and is ${chosen?.state ?? "not shown by EC2"}: not certain to be gone yet`,
      );
    case "stopped":
      return stop(`${decided.instanceId} was chosen to bootstrap ${name} and is stopped, with its disk: start it, or terminate it`);
    case "terminated":
      return decideAgain(input, decided, others);
  }
}

/**
 * The server to ask about the first start: the decided one while it is online, else the lowest slot of those online that were launched since the last
 * cluster was abandoned. Undefined when there is none. Any choice is safe, because `decideBootstrap` answers it.
 *
 * A cluster that goes on from a survivor's data needs one that was a member, whatever its slot: the others hold nothing.
 */
export function chooseFirstServer(online: readonly ObservedInstance[], record: ClusterRecord): ObservedInstance | undefined {
  const { restore, bootstrap, members } = record;
  const needsData = restore?.source.kind === "survivor" && bootstrap?.restore !== restore.id;
  const able = online.filter(
    (server) =>
      server.role === "server" && isAlive(server.state) && (!needsData || members.some((member) => member.instanceId === server.instanceId)),
  );
  const decided = able.find((server) => server.instanceId === bootstrap?.instanceId);
  if (decided !== undefined) return decided;
  return able.filter((server) => isFresh(server, record)).sort((a, b) => a.slot - b.slot || (a.instanceId < b.instanceId ? -1 : 1))[0];
}

/**
 * Whether a node was launched after the last cluster that had answered was abandoned, so that it cannot have been started against it. A node that
 * was not is replaced, server or agent.
 */
export function isFresh(node: Pick<ObservedInstance, "launchedAt">, record: Pick<ClusterRecord, "abandonedBootstraps">): boolean {
  const lost = record.abandonedBootstraps.flatMap((decision) => (decision.abandonedAt === undefined ? [] : [Date.parse(decision.abandonedAt)]));
  return lost.every((instant) => Date.parse(node.launchedAt) > instant);
}

/**
 * Who restores the cluster. The permission is as single as that of a bootstrap: one instance for a restore's id, decided before it is told.
 *
 * The decision that was in force moves to the history as it is: its servers are stopped by then, and a restore keeps the cluster's CA, so that
 * agents which were started against them are not replaced.
 */
function decideRestoring(input: Parameters<typeof decideBootstrap>[0]): BootstrapAnswer {
  const { record, servers, candidate } = input;
  const { restore, bootstrap: decided } = record;
  if (restore === undefined) return stop(`no restore of ${record.name} is under way`);
  if (decided?.restore !== restore.id) {
    if (restore.source.kind === "survivor" && !record.members.some((member) => member.instanceId === candidate)) {
      return stop(`${candidate} was no member of ${record.name}: it holds nothing that the cluster could go on with`);
    }
    const abandoned = decided === undefined ? record.abandonedBootstraps : [...record.abandonedBootstraps, decided];
    const number = Math.max(0, ...abandoned.map((decision) => decision.number)) + 1;
    const decision: BootstrapDecision = { number, instanceId: candidate, operation: input.operation, at: input.now, restore: restore.id };
    return { kind: "restore", decision, abandoned };
  }
  if (decided.instanceId === candidate) return { kind: "resume", decision: decided };
  const chosen = servers.find((server) => server.instanceId === decided.instanceId);
  switch (fateOf(chosen, decided, input.now)) {
    case "alive":
      if (decided.done !== undefined) return { kind: "join", address: decided.done.address };
      return wait(decided.instanceId, `${decided.instanceId} was chosen to restore ${record.name} and has not answered yet`);
    case "uncertain":
      return wait(
        decided.instanceId,
        `${decided.instanceId} was chosen to restore ${record.name} and is ${chosen?.state ?? "not shown by EC2"}: not certain to be gone yet`,
      );
    case "stopped":
    case "terminated":
      return { kind: "beginAnew", reason: `${decided.instanceId}, which was chosen to restore ${record.name}, is ${chosen?.state ?? "gone"}` };
  }
}

function decideFirst(input: Parameters<typeof decideBootstrap>[0], asking: ObservedInstance): BootstrapAnswer {
  const { record, servers, snapshots } = input;
  if (record.members.length > 0) return stop(`the record of ${record.name} lists ${listed(record.members)} but no bootstrap: it is damaged`);
  if (snapshots > 0) return stop(`${record.name} has ${count(snapshots, "snapshot")}: it is restored, never bootstrapped again`);
  if (record.phase === "ready") return stop(`${record.name} was ready, but its record holds no bootstrap: it is damaged`);
  const last = record.abandonedBootstraps.findLast((decision) => decision.abandonedAt !== undefined);
  const old = servers.filter((server) => !isFresh(server, record) && server.state !== "terminated");
  const standing = old.find((server) => server.instanceId === asking.instanceId) ?? old.find((server) => !isGone(server.state));
  if (standing !== undefined) {
    return {
      kind: "replace",
      abandoned: record.abandonedBootstraps,
      replaceStarted: true,
      launchedUntil: last?.abandonedAt ?? input.now,
      reason: `${standing.instanceId} was launched before the cluster that ${last?.instanceId} bootstrapped was abandoned, and may belong to it`,
    };
  }
  const [leaving] = old;
  if (leaving !== undefined)
    return wait(leaving.instanceId, `${leaving.instanceId}, which may belong to the abandoned cluster, is not terminated yet`);
  return decide(input, record.abandonedBootstraps);
}

function decideForChosen(input: Parameters<typeof decideBootstrap>[0], decided: BootstrapDecision, others: readonly ServerMember[]): BootstrapAnswer {
  if (decided.done === undefined && others.length > 0) {
    return stop(`the record of ${input.record.name} lists ${listed(others)} although ${decided.instanceId} has not bootstrapped: it is damaged`);
  }
  return { kind: "resume", decision: decided };
}

/** The cluster has members beside the first server: join one that runs, as long as etcd can take a member at all. */
function decideJoinAmong(input: Parameters<typeof decideBootstrap>[0]): BootstrapAnswer {
  const { record, servers, candidate } = input;
  const running = record.members.filter((member) => servers.some((server) => server.instanceId === member.instanceId && server.state === "running"));
  const majority = Math.floor(record.members.length / 2) + 1;
  const alive = record.members.filter((member) => {
    const server = servers.find((each) => each.instanceId === member.instanceId);
    return server !== undefined && server.state !== "terminated";
  });
  const [first] = running.filter((member) => member.instanceId !== candidate).sort((a, b) => a.slot - b.slot);
  if (first !== undefined && running.length >= majority) return { kind: "join", address: first.address };
  const found = `${running.length} of ${count(record.members.length, "member")} of ${record.name} run, majority is ${majority}`;
  if (alive.length >= majority) return wait(alive[0]?.instanceId ?? "", `${found}: waiting for the others`);
  return stop(`${found}: etcd takes no new member, and the cluster is restored or deleted, never bootstrapped again`);
}

function decideAgain(input: Parameters<typeof decideBootstrap>[0], decided: BootstrapDecision, others: readonly ServerMember[]): BootstrapAnswer {
  const { record, snapshots, now } = input;
  const gone = `${decided.instanceId}, which was chosen to bootstrap ${record.name}, is terminated`;
  if (others.length > 0) return stop(`${gone}, but ${listed(others)} ${others.length === 1 ? "was a member" : "were members"} of it`);
  if (snapshots > 0) return stop(`${gone}, and ${count(snapshots, "snapshot")} of it exist: restore from the newest`);
  if (record.phase === "ready")
    return stop(`${gone} after ${record.name} was ready: its data is lost, and a new cluster must not take its name unasked`);
  if (decided.done === undefined) return decide(input, [...record.abandonedBootstraps, decided]);
  return {
    kind: "replace",
    abandoned: [...record.abandonedBootstraps, { ...decided, abandonedAt: now }],
    replaceStarted: true,
    launchedUntil: now,
    reason: `${gone} with all it held: nodes started against it are replaced before a new first server is chosen`,
  };
}

function decide(input: Parameters<typeof decideBootstrap>[0], abandoned: readonly BootstrapDecision[]): BootstrapAnswer {
  const number = Math.max(0, ...abandoned.map((decision) => decision.number)) + 1;
  return { kind: "bootstrap", decision: { number, instanceId: input.candidate, operation: input.operation, at: input.now }, abandoned };
}

/**
 * `terminated` only for certain: EC2 says so, or EC2 no longer knows an instance chosen so long ago that it cannot merely be unseen. An instance
 * that is shutting down still runs processes.
 */
function fateOf(chosen: ObservedInstance | undefined, decided: BootstrapDecision, now: string): "alive" | "uncertain" | "stopped" | "terminated" {
  if (chosen === undefined) return Date.parse(now) - Date.parse(decided.at) > visibleWithinSeconds * 1000 ? "terminated" : "uncertain";
  switch (chosen.state) {
    case "pending":
    case "running":
    case "unseen":
      return "alive";
    case "shutting-down":
    case "stopping":
      return "uncertain";
    case "stopped":
      return "stopped";
    case "terminated":
      return "terminated";
  }
}

function stop(reason: string): BootstrapAnswer {
  return { kind: "stop", reason };
}

function wait(instanceId: string, reason: string): BootstrapAnswer {
  return { kind: "wait", instanceId, reason };
}

function listed(members: readonly ServerMember[]): string {
  return members.map((member) => member.instanceId).join(", ");
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
