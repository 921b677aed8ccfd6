/**
 * Which nodes go through the node commands together: at most 50, SSM's limit for one command by instance id (SSM API reference, SendCommand).
 */
import { byPlace, isAlive, isGone, type ObservedInstance, type Role } from "./nodes.js";

/** Nodes of one pool that take each step together. Stored once; a step that runs twice uses the stored groups, never gathers anew. */
export interface NodeGroup {
  readonly schema: 1;
  readonly id: string;
  readonly role: Role;
  readonly pool: string;
  readonly instanceIds: readonly string[];
}

/** Instances in a SendCommand call. */
export const groupLimit = 50;
/**
 * Nodes that were not online with the rest wait in small groups, so that few wait for the slowest. Not so with many agents: there admission takes minutes
 * anyway, and each group costs transitions.
 */
export const lateGroupLimit = 10;
/** With more agents than this, admission is what takes long, and it starts as soon as a first small group is ready. */
const manyAgents = 200;
const firstGroupSizes: readonly number[] = [5, 10, 20];

/**
 * Most nodes are enough after this many seconds. Few agents wait until nearly all have come, since the endpoint takes longer anyway and each group of late
 * ones costs transitions. Many agents are held up by admission, which must find the first of them prepared when the first server answers; but not sooner
 * than this, for a group of late ones asks until it is complete, and half of a thousand would be a lot of asking ...
 */
const enough = { few: { afterSeconds: 60, share: 0.5 }, many: { afterSeconds: 30, share: 0.7 } } as const;
/** ... any after this many (0.5 % of nodes take longer, latency model) ... */
const anyAfterSeconds = 120;
/** ... and after this many a node that is not online never comes: SSM's agent registers within minutes of boot. */
export const lateAfterSeconds = 600;

export type GatherAnswer =
  | { readonly kind: "wait"; readonly reason: string }
  /** `lost` instances are gone, in no group, and their slots are to be launched again. */
  | { readonly kind: "go"; readonly groups: NodeGroup[]; readonly lost: readonly string[] };

/**
 * Decides whether enough nodes are online to start with, and divides them into groups. Every wanted node that is not gone is in exactly one group; the
 * groups of nodes that are not online yet come last, and wait by themselves.
 *
 * @param wanted             nodes of one role, or of one cluster; groups never mix pools
 * @param online             ids that SSM reports online
 * @param sinceLaunchSeconds since the last of them was launched
 * @param sizeLimit          largest group, at most 50
 * @param pass               rises when replacements are gathered, so that group ids stay unique within an operation
 */
export function decideGather(input: {
  readonly wanted: readonly ObservedInstance[];
  readonly online: ReadonlySet<string>;
  readonly sinceLaunchSeconds: number;
  readonly sizeLimit?: number;
  readonly pass?: number;
}): GatherAnswer {
  const { online, sinceLaunchSeconds } = input;
  const sizeLimit = Math.min(groupLimit, Math.max(1, input.sizeLimit ?? groupLimit));
  const lost = input.wanted.filter((node) => isLost(node)).map((node) => node.instanceId);
  const expected = input.wanted.filter((node) => !isLost(node)).sort(byPlace);
  const ready = expected.filter((node) => online.has(node.instanceId));

  const agents = expected.filter((node) => node.role === "agent").length;
  const most = agents > manyAgents ? enough.many : enough.few;
  const isEnough =
    ready.length === expected.length ||
    (sinceLaunchSeconds >= most.afterSeconds && ready.length >= expected.length * most.share) ||
    (sinceLaunchSeconds >= anyAfterSeconds && ready.length > 0) ||
    sinceLaunchSeconds >= lateAfterSeconds;
  if (!isEnough) {
    const missing = expected.find((node) => !online.has(node.instanceId));
    return { kind: "wait", reason: `${ready.length} of ${expected.length} nodes are online in SSM, ${missing?.instanceId} is not` };
  }

  const late = expected.filter((node) => !online.has(node.instanceId));
  const chunks = [
    ...chunksByPool(ready, agents > manyAgents ? firstGroupSizes : [], sizeLimit),
    ...chunksByPool(late, [], agents > manyAgents ? sizeLimit : Math.min(lateGroupLimit, sizeLimit)),
  ];
  return { kind: "go", groups: nameGroups(chunks, input.pass ?? 1), lost };
}

/**
 * Which nodes of a group cannot come: `lost` are gone or stopped in EC2, `late` run there but were not online in SSM after 10 minutes. Both are to
 * be replaced; the group goes on without them.
 *
 * @param observed everything EC2 shows, with unseen instances
 */
export function decideLost(input: {
  readonly group: NodeGroup;
  readonly observed: readonly ObservedInstance[];
  readonly online: ReadonlySet<string>;
  readonly sinceLaunchSeconds: number;
}): { lost: string[]; late: string[] } {
  const { group, observed, online, sinceLaunchSeconds } = input;
  const isOverdue = sinceLaunchSeconds >= lateAfterSeconds;
  const lost: string[] = [];
  const late: string[] = [];
  for (const instanceId of group.instanceIds) {
    const node = observed.find((candidate) => candidate.instanceId === instanceId);
    // Not shown at all: gone for an hour or more, or not shown yet. Time tells which.
    if (node === undefined ? isOverdue : isLost(node)) lost.push(instanceId);
    else if (isOverdue && !online.has(instanceId)) late.push(instanceId);
  }
  return { lost, late };
}

/** Gone, or stopped by somebody: either way its agent will not answer. SSM may still call it online, its pings are minutes apart. */
function isLost(node: ObservedInstance): boolean {
  return isGone(node.state) || !isAlive(node.state);
}

/** Cuts each pool's nodes into chunks, the largest pool first; the very first chunks take their sizes from `firstSizes`. */
function chunksByPool(nodes: readonly ObservedInstance[], firstSizes: readonly number[], limit: number): ObservedInstance[][] {
  const pools = new Map<string, ObservedInstance[]>();
  for (const node of nodes) pools.set(node.pool, [...(pools.get(node.pool) ?? []), node]);
  const sizes = [...firstSizes];
  return [...pools.values()]
    .sort((a, b) => b.length - a.length)
    .flatMap((pool) => {
      const chunks: ObservedInstance[][] = [];
      for (let at = 0; at < pool.length; ) {
        const size = Math.min(limit, sizes.shift() ?? limit);
        chunks.push(pool.slice(at, at + size));
        at += size;
      }
      return chunks;
    });
}

/** `workers-1-03`: pool, pass, position. */
function nameGroups(chunks: readonly (readonly ObservedInstance[])[], pass: number): NodeGroup[] {
  const counts = new Map<string, number>();
  return chunks.flatMap((chunk): NodeGroup[] => {
    const [first] = chunk;
    if (first === undefined) return [];
    const number = (counts.get(first.pool) ?? 0) + 1;
    counts.set(first.pool, number);
    return [
      {
        schema: 1,
        id: `${first.pool}-${pass}-${String(number).padStart(2, "0")}`,
        role: first.role,
        pool: first.pool,
        instanceIds: chunk.map((node) => node.instanceId),
      },
    ];
  });
}
