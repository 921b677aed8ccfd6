/**
 * Which instances to launch, where, and under which client token.
 *
 * The law: a retry never makes a second instance. RunInstances is idempotent for a token within one zone only, so the same token sent to another
 * zone launches again (EC2 API reference, "Ensuring idempotency"). Hence every token stands for one call, all of whose parameters are hashed into
 * it; a batch moves on to its next option only after a definite answer (instances, or a refusal) has been remembered; and a call whose outcome is unknown
 * is repeated as it was. What a batch does next depends on its own history alone, never on that of a batch that runs beside it.
 */
import { createHash } from "node:crypto";
import { classifyAwsError } from "./aws-errors.js";
import type { ClusterFile } from "./cluster-file.js";
import { serverPool } from "./layout.js";
import { byPlace, isGone, type ObservedInstance, type Role, visibleWithinSeconds } from "./nodes.js";

/** Nodes of one kind: the servers, or one agent pool. */
export interface Shape {
  readonly pool: string;
  readonly role: Role;
  readonly count: number;
  /** In order of preference. */
  readonly instanceTypes: readonly string[];
  readonly market: "on-demand" | "spot";
  readonly rootVolumeGib: number;
}

export interface Subnet {
  readonly id: string;
  readonly zone: string;
}

/** One place to launch in. */
export interface LaunchOption {
  readonly zone: string;
  readonly subnetId: string;
  readonly instanceType: string;
}

/** A run of contiguous slots that is launched together, option after option, until it is full or the ladder of options ends. */
export interface Batch {
  readonly id: string;
  readonly uid: string;
  readonly operation: string;
  readonly pool: string;
  readonly role: Role;
  readonly firstSlot: number;
  readonly count: number;
  /** Rises each time the operation plans anew; a new pass never meets a token of an old one. */
  readonly pass: number;
  /** The ladder: likeliest first. */
  readonly options: readonly LaunchOption[];
}

/** One RunInstances call that made instances. */
export interface Launch {
  readonly batch: string;
  readonly pool: string;
  readonly firstSlot: number;
  /** Instances it made. */
  readonly count: number;
  /** Instances it asked for. */
  readonly wanted: number;
  /** Index into the batch's options. */
  readonly option: number;
  readonly clientToken: string;
  /** By launch index: the instance at position i has slot `firstSlot + i`. */
  readonly instanceIds: readonly string[];
  readonly at: string;
  readonly operation: string;
}

/** One RunInstances call that AWS definitely refused for want of room. */
export interface Refusal {
  readonly batch: string;
  readonly zone: string;
  readonly subnetId: string;
  readonly instanceType: string;
  readonly code: string;
  readonly at: string;
}

/** Everything launched for a cluster, and where AWS had no room. */
export interface LaunchLog {
  readonly schema: 1;
  readonly launches: readonly Launch[];
  readonly refusals: readonly Refusal[];
  readonly batches: readonly Batch[];
}

export const emptyLaunchLog: LaunchLog = { schema: 1, launches: [], refusals: [], batches: [] };

/** Instances in one RunInstances call: few calls at 1,000 agents, and a partial answer still leaves most of the call's work done. */
export const batchLimit = 250;

/** Servers first, then the pools in the order of the file. */
export function shapesOf(file: ClusterFile): Shape[] {
  const { servers, agentPools } = file.spec;
  return [
    {
      pool: serverPool,
      role: "server",
      count: servers.count,
      instanceTypes: servers.instanceTypes,
      market: "on-demand",
      rootVolumeGib: servers.rootVolumeGib,
    },
    ...agentPools.map((pool): Shape => {
      const { name, count, instanceTypes, market, rootVolumeGib } = pool;
      return { pool: name, role: "agent", count, instanceTypes, market, rootVolumeGib };
    }),
  ];
}

/**
 * Slots of the shape that no instance holds, ascending. A stopped instance keeps its slot: a server's disk holds an etcd member, and a second
 * instance in its slot could not take that over.
 */
export function missingSlots(shape: Pick<Shape, "pool" | "count">, observed: readonly ObservedInstance[]): number[] {
  const held = new Set(observed.filter((instance) => instance.pool === shape.pool && !isGone(instance.state)).map((instance) => instance.slot));
  return Array.from({ length: shape.count }, (_, index) => index + 1).filter((slot) => !held.has(slot));
}

/**
 * Plans the launches that fill every missing slot. Equal facts give equal batches, in every detail.
 *
 * Servers go one to a batch, spread over zones by slot; a server stays in its zone for any type on its list before it moves to another zone, because
 * the spread is what keeps the etcd majority when a zone fails. Agents go in runs of contiguous slots, levelled over zones; they prefer
 * the first type in any zone to the second type. An option refused in an earlier pass goes to the end of the ladder.
 *
 * Plan a pass only when every batch of the pass before is done or exhausted (`openBatches`), and with unseen instances among `observed`.
 */
export function planBatches(input: {
  readonly uid: string;
  readonly operation: string;
  readonly pass: number;
  readonly shapes: readonly Shape[];
  /** In the order of the cluster file. */
  readonly subnets: readonly Subnet[];
  readonly observed: readonly ObservedInstance[];
  readonly refusals?: readonly Refusal[];
}): Batch[] {
  // Without any subnet each batch has an empty ladder, and is exhausted at once rather than left out.
  const zones = input.subnets.length === 0 ? [""] : [...new Set(input.subnets.map((subnet) => subnet.zone))];
  return input.shapes.flatMap((shape) => {
    const missing = missingSlots(shape, input.observed);
    const runs = shape.role === "server" ? serverRuns(missing, zones) : agentRuns(shape.pool, missing, zones, input.observed);
    return runs.map(
      ({ firstSlot, count, zone }): Batch => ({
        id: `${input.operation}-p${input.pass}-${shape.pool}-${firstSlot}`,
        uid: input.uid,
        operation: input.operation,
        pool: shape.pool,
        role: shape.role,
        firstSlot,
        count,
        pass: input.pass,
        options: ladder(shape, zone, zones, input.subnets, input.refusals ?? []),
      }),
    );
  });
}

export type NextLaunch =
  | {
      readonly kind: "launch";
      readonly firstSlot: number;
      readonly count: number;
      readonly option: LaunchOption;
      readonly optionIndex: number;
      readonly clientToken: string;
    }
  | { readonly kind: "done" }
  | { readonly kind: "exhausted"; readonly missing: number; readonly refusals: readonly Refusal[] };

/**
 * What this batch does next. The same log gives the same call with the same token, which is how a call of unknown outcome is repeated.
 * After a partial answer the rest of the slots goes on with the next option. A batch whose slots were planned anew since, by another pass or another
 * operation, launches nothing more.
 */
export function nextLaunch(log: LaunchLog, batch: Batch): NextLaunch {
  const launches = log.launches.filter((launch) => launch.batch === batch.id);
  const refusals = log.refusals.filter((refusal) => refusal.batch === batch.id);
  const launched = launches.reduce((sum, launch) => sum + launch.count, 0);
  if (launched >= batch.count) return { kind: "done" };
  if (isSuperseded(log, batch, batch.firstSlot + launched, batch.count - launched)) {
    return { kind: "exhausted", missing: batch.count - launched, refusals };
  }

  const tried = new Set(launches.map((launch) => launch.option));
  const optionIndex = batch.options.findIndex((option, index) => !tried.has(index) && !refusals.some((refusal) => refuses(refusal, option)));
  const option = batch.options[optionIndex];
  if (option === undefined) return { kind: "exhausted", missing: batch.count - launched, refusals };

  const firstSlot = batch.firstSlot + launched;
  const count = batch.count - launched;
  return { kind: "launch", firstSlot, count, option, optionIndex, clientToken: clientToken(batch, firstSlot, count, option) };
}

/** Batches that still have a call to make or to repeat. */
export function openBatches(log: LaunchLog): Batch[] {
  return log.batches.filter((batch) => nextLaunch(log, batch).kind === "launch");
}

/**
 * The log with a call's instances added, and the instances that must be terminated at once because their slots were filled meanwhile by another run
 * of the same step. Adding the same call again changes nothing.
 *
 * @param instanceIds by launch index
 * @param at          when the call was made, ISO 8601
 */
export function rememberLaunch(
  log: LaunchLog,
  batch: Batch,
  call: Extract<NextLaunch, { kind: "launch" }>,
  instanceIds: readonly string[],
  at: string,
): { readonly log: LaunchLog; readonly surplus: readonly string[] } {
  const known = log.launches.find((launch) => launch.clientToken === call.clientToken);
  if (known !== undefined) return { log, surplus: instanceIds.filter((id) => !known.instanceIds.includes(id)) };

  const launched = log.launches.filter((launch) => launch.batch === batch.id).reduce((sum, launch) => sum + launch.count, 0);
  if (call.firstSlot !== batch.firstSlot + launched || isSuperseded(log, batch, call.firstSlot, instanceIds.length)) {
    return { log, surplus: instanceIds };
  }
  if (instanceIds.length === 0) return { log, surplus: [] };
  const launch: Launch = {
    batch: batch.id,
    pool: batch.pool,
    firstSlot: call.firstSlot,
    count: instanceIds.length,
    wanted: call.count,
    option: call.optionIndex,
    clientToken: call.clientToken,
    instanceIds,
    at,
    operation: batch.operation,
  };
  return { log: { ...log, launches: [...log.launches, launch] }, surplus: [] };
}

/**
 * The log with a refusal added. Only for a definite answer (`isRefusal`): an unknown outcome is repeated instead.
 */
export function rememberRefusal(log: LaunchLog, batch: Batch, option: LaunchOption, code: string, at: string): LaunchLog {
  const { zone, subnetId, instanceType } = option;
  const known = log.refusals.some((refusal) => refusal.batch === batch.id && refusal.subnetId === subnetId && refusal.instanceType === instanceType);
  if (known) return log;
  return { ...log, refusals: [...log.refusals, { batch: batch.id, zone, subnetId, instanceType, code, at }] };
}

/** The log with a pass's batches added. A pass is planned once: planned again, from other facts, it stays as it was first. */
export function rememberBatches(log: LaunchLog, batches: readonly Batch[]): LaunchLog {
  const isPlanned = (batch: Batch) => log.batches.some((known) => known.operation === batch.operation && known.pass === batch.pass);
  return { ...log, batches: [...log.batches, ...batches.filter((batch) => !isPlanned(batch))] };
}

/**
 * Instances that a launch answered with under 10 minutes ago and that Describe does not show yet. They count as there: "described, found nothing,
 * launched again" is how clusters get two nodes in one slot.
 *
 * @param observed everything Describe shows, terminated instances included
 * @param now      ISO 8601
 */
export function unseenInstances(log: LaunchLog, observed: readonly ObservedInstance[], now: string): ObservedInstance[] {
  const seen = new Set(observed.map((instance) => instance.instanceId));
  const since = Date.parse(now) - visibleWithinSeconds * 1000;
  return log.launches
    .filter((launch) => Date.parse(launch.at) > since)
    .flatMap((launch) => {
      const batch = log.batches.find((candidate) => candidate.id === launch.batch);
      const option = batch?.options[launch.option];
      return launch.instanceIds.map(
        (instanceId, index): ObservedInstance => ({
          instanceId,
          role: batch?.role ?? (launch.pool === serverPool ? "server" : "agent"),
          pool: launch.pool,
          slot: launch.firstSlot + index,
          operation: launch.operation,
          zone: option?.zone ?? "",
          subnetId: option?.subnetId ?? "",
          instanceType: option?.instanceType ?? "",
          address: "",
          state: "unseen",
          launchedAt: launch.at,
        }),
      );
    })
    .filter((instance) => !seen.has(instance.instanceId));
}

/**
 * Instances to terminate because another holds their slot: the safety net below the tokens. Of two in a slot the one in `keep` stays (an etcd member, the
 * server chosen to bootstrap), else the one the log knows, else the older one.
 */
export function surplusInstances(observed: readonly ObservedInstance[], log: LaunchLog, keep: ReadonlySet<string>): ObservedInstance[] {
  const logged = new Set(log.launches.flatMap((launch) => launch.instanceIds));
  const rank = (instance: ObservedInstance) => (keep.has(instance.instanceId) ? 0 : logged.has(instance.instanceId) ? 1 : 2);
  const bySlot = new Map<string, ObservedInstance[]>();
  for (const instance of observed.filter((candidate) => !isGone(candidate.state))) {
    const place = `${instance.pool}-${instance.slot}`;
    bySlot.set(place, [...(bySlot.get(place) ?? []), instance]);
  }
  return [...bySlot.values()]
    .flatMap((holders) =>
      holders
        .sort((a, b) => rank(a) - rank(b) || Date.parse(a.launchedAt) - Date.parse(b.launchedAt) || byPlace(a, b))
        .slice(1)
        .filter((instance) => !keep.has(instance.instanceId)),
    )
    .sort(byPlace);
}

interface Run {
  readonly firstSlot: number;
  readonly count: number;
  readonly zone: string;
}

function serverRuns(missing: readonly number[], zones: readonly string[]): Run[] {
  return missing.map((slot) => ({ firstSlot: slot, count: 1, zone: zones[(slot - 1) % zones.length] ?? "" }));
}

/** Contiguous runs, cut so that the zones end up with as many agents of the pool each as the missing slots allow. */
function agentRuns(pool: string, missing: readonly number[], zones: readonly string[], observed: readonly ObservedInstance[]): Run[] {
  const shares = zoneShares(pool, missing.length, zones, observed);
  const runs: { firstSlot: number; count: number; zone: string }[] = [];
  let next = 0;
  for (const [zone, share] of shares) {
    let open: { firstSlot: number; count: number; zone: string } | undefined;
    for (const slot of missing.slice(next, next + share)) {
      if (open === undefined || open.firstSlot + open.count !== slot || open.count === batchLimit) {
        open = { firstSlot: slot, count: 0, zone };
        runs.push(open);
      }
      open.count += 1;
    }
    next += share;
  }
  return runs;
}

/** How many of the missing agents each zone gets: one by one to the zone with the fewest, the earlier subnet's zone first. */
function zoneShares(pool: string, missing: number, zones: readonly string[], observed: readonly ObservedInstance[]): Map<string, number> {
  const held = zones.map((zone) => observed.filter((instance) => instance.pool === pool && instance.zone === zone && !isGone(instance.state)).length);
  const shares = zones.map(() => 0);
  for (let given = 0; given < missing; given += 1) {
    let least = 0;
    for (let index = 1; index < zones.length; index += 1) {
      if ((held[index] ?? 0) + (shares[index] ?? 0) < (held[least] ?? 0) + (shares[least] ?? 0)) least = index;
    }
    shares[least] = (shares[least] ?? 0) + 1;
  }
  return new Map(zones.map((zone, index) => [zone, shares[index] ?? 0]));
}

function ladder(shape: Shape, zone: string, zones: readonly string[], subnets: readonly Subnet[], refusals: readonly Refusal[]): LaunchOption[] {
  const start = Math.max(0, zones.indexOf(zone));
  const rotated = [...zones.slice(start), ...zones.slice(0, start)];
  const places = rotated.flatMap((each) => subnets.filter((subnet) => subnet.zone === each));
  const options =
    shape.role === "server"
      ? places.flatMap((subnet) => shape.instanceTypes.map((instanceType) => ({ zone: subnet.zone, subnetId: subnet.id, instanceType })))
      : shape.instanceTypes.flatMap((instanceType) => places.map((subnet) => ({ zone: subnet.zone, subnetId: subnet.id, instanceType })));
  const refused = (option: LaunchOption) => refusals.some((refusal) => refusal.code !== tokenSpent && refuses(refusal, option));
  return [...options.filter((option) => !refused(option)), ...options.filter(refused)];
}

/**
 * Whether an error of RunInstances is a definite answer that this call makes no instance, so that the batch may go on elsewhere: no room, or the
 * call of this token made instances before and they are terminated, which ends the batch (the next pass plans from what is there).
 */
export function isRefusal(code: string): boolean {
  return code === tokenSpent || classifyAwsError("ec2", code) === "capacity";
}

const tokenSpent = "IdempotentInstanceTerminated";

/** Want of addresses holds for the subnet and every type; want of machines holds for the type and every subnet of the zone. */
function refuses(refusal: Refusal, option: LaunchOption): boolean {
  if (refusal.code === tokenSpent) return true;
  if (refusal.code === "InsufficientFreeAddressesInSubnet") return refusal.subnetId === option.subnetId;
  return refusal.zone === option.zone && refusal.instanceType === option.instanceType;
}

/** A batch planned later holds one of these slots. */
function isSuperseded(log: LaunchLog, batch: Batch, firstSlot: number, count: number): boolean {
  const at = log.batches.findIndex((candidate) => candidate.id === batch.id);
  return log.batches
    .slice(at + 1)
    .some((later) => at >= 0 && later.pool === batch.pool && later.firstSlot < firstSlot + count && firstSlot < later.firstSlot + later.count);
}

/** At most 64 ASCII characters (EC2 API reference, RunInstances). Everything in the call that can differ between two calls is in it. */
function clientToken(batch: Batch, firstSlot: number, count: number, option: LaunchOption): string {
  const parts = [batch.uid, batch.operation, batch.pass, batch.role, batch.pool, firstSlot, count, option.zone, option.subnetId, option.instanceType];
  return `drover-${createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 48)}`;
}
