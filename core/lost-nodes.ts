/**
 * Which nodes a half-made cluster has lost, what the rest must forget, and what has to be terminated before others take the places.
 */
import { type LaunchLog, surplusInstances } from "./launch.js";
import { serverPool } from "./layout.js";
import { isAlive, isGone, type ObservedInstance } from "./nodes.js";
import type { BootstrapDecision, ClusterRecord } from "./records.js";

export type LostNodesAnswer =
  | {
      readonly kind: "clear";
      /** Servers to take out of the endpoint first. */
      readonly leave: readonly string[];
      /** Nodes that a living server must forget: Node object, etcd member, node password. Empty when no server lives that could. */
      readonly forget: readonly { readonly instanceId: string; readonly pool: string }[];
      /** Instances to terminate after that. */
      readonly terminate: readonly string[];
      /** Voters that stay. */
      readonly members: ClusterRecord["members"];
      /** Set when nothing of the cluster is worth keeping: its bootstrap moves to the history, and everything is launched anew. */
      readonly abandon?: BootstrapDecision;
    }
  /** Only a person can go on. */
  | { readonly kind: "stop"; readonly reason: string; readonly next: string };

/** One remove-node command takes this many names; and so many lost at once is no chance, but something a person should look at. */
export const mostLostAtOnce = 50;

/**
 * Decides about lost nodes.
 *
 * A cluster whose etcd has lost its majority takes no new member. If it was never ready and has no snapshot, nobody's data is in it, and a person who
 * asks for it again (`isAskedAgain`) gets it made anew: everything that was started is terminated first, so that law 1 holds. In the midst of an
 * operation the same find stops for that person.
 *
 * @param late         instances that run and were never online in SSM for ten minutes
 * @param snapshots    snapshots that exist of this cluster
 * @param isAskedAgain true at the beginning of an operation, false when it lost nodes itself
 * @param now          ISO 8601
 */
export function decideLostNodes(input: {
  readonly record: ClusterRecord;
  readonly observed: readonly ObservedInstance[];
  readonly log: LaunchLog;
  readonly late: ReadonlySet<string>;
  readonly snapshots: number;
  readonly isAskedAgain: boolean;
  readonly now: string;
}): LostNodesAnswer {
  const { record, observed, log, late } = input;
  const stale = launchedBefore(record.abandonedBootstraps);
  const doomed = observed.filter(
    (instance) => !isGone(instance.state) && (!isAlive(instance.state) || late.has(instance.instanceId) || Date.parse(instance.launchedAt) <= stale),
  );
  const doomedIds = new Set(doomed.map((instance) => instance.instanceId));
  const keep = new Set(record.members.map((member) => member.instanceId));
  const surplus = surplusInstances(observed, log, keep).filter((instance) => !doomedIds.has(instance.instanceId));
  const terminate = [...doomed, ...surplus].map((instance) => instance.instanceId);

  const lives = (id: string) => observed.some((instance) => instance.instanceId === id && isAlive(instance.state) && !terminate.includes(id));
  const members = record.members.filter((member) => lives(member.instanceId));
  const lostMembers = record.members.filter((member) => !lives(member.instanceId));
  const majority = Math.floor(record.members.length / 2) + 1;
  if (lostMembers.length > 0 && members.length < majority) {
    const what = `${lostMembers.length} of ${record.members.length} etcd members of ${record.name} are lost, majority is ${majority}`;
    if (record.readyAt !== undefined || input.snapshots > 0) {
      return { kind: "stop", reason: what, next: `Its data counts: look at the machines before anything else, drover status ${record.name}` };
    }
    if (!input.isAskedAgain) {
      return { kind: "stop", reason: `${what}; it was never ready and holds nobody's data`, next: "Create it again: it is then made anew" };
    }
    const all = observed.filter((instance) => !isGone(instance.state)).map((instance) => instance.instanceId);
    const leave = record.members.map((member) => member.instanceId);
    const abandon = record.bootstrap === undefined ? {} : { abandon: { ...record.bootstrap, abandonedAt: input.now } };
    return { kind: "clear", leave, forget: [], terminate: all, members: [], ...abandon };
  }

  const away = new Set([...terminate, ...observed.filter((instance) => isGone(instance.state)).map((instance) => instance.instanceId)]);
  const known = observed.filter((instance) => away.has(instance.instanceId)).map(({ instanceId, pool }) => ({ instanceId, pool }));
  const forgotten = lostMembers
    .filter((member) => !away.has(member.instanceId))
    .map((member) => ({ instanceId: member.instanceId, pool: serverPool }));
  const forget = members.length === 0 ? [] : [...known, ...forgotten];
  if (forget.length > mostLostAtOnce) {
    return {
      kind: "stop",
      reason: `${forget.length} nodes of ${record.name} are lost, more than ${mostLostAtOnce} at once`,
      next: `Look at the machines: drover status ${record.name}`,
    };
  }
  return { kind: "clear", leave: lostMembers.map((member) => member.instanceId), forget, terminate, members };
}

/** Nodes launched up to the last abandoned cluster that had answered may have been started against it. */
function launchedBefore(abandoned: readonly BootstrapDecision[]): number {
  return Math.max(
    Number.NEGATIVE_INFINITY,
    ...abandoned.flatMap((decision) => (decision.abandonedAt === undefined ? [] : [Date.parse(decision.abandonedAt)])),
  );
}
