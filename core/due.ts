/**
 * The fleet's clock: which cluster is due for what at an instant, from its record, its earlier tries and the time. Nothing is kept between two looks.
 *
 * A time of a schedule is served once: it is due until a snapshot was proven, or a drill made, at or after it. So what was missed, by however much, is caught up
 * once, and two sweeps of the same instant ask for the same operation under the same id.
 */
import { latestTime, nextTime, readSchedule, type Schedule } from "./cron.js";
import { shortHash } from "./layout.js";
import type { ClusterRecord, OperationRecord } from "./records.js";

export type DueKind = "backup" | "drill";

/** Seconds between two looks at the fleet. */
export const sweepSeconds = 300;

/**
 * What an account bears. How often SendCommand may be called is not published; half of 20 a second leaves the other half to operations that people wait for.
 * A backup sends two commands: save, and send. Every drill is a machine.
 */
export const fleetLimits = { commandsPerSecond: 20, share: 0.5, commandsPerBackup: 2, drillsAtOnce: 50 } as const;

/** Backups that may start a second, all over the fleet, and between two looks. */
export const backupsPerSecond = (fleetLimits.commandsPerSecond * fleetLimits.share) / fleetLimits.commandsPerBackup;
export const backupsPerSweep = Math.floor(backupsPerSecond * sweepSeconds);

/** A fleet's starts are spread over no more than this, in seconds, and over no more than a quarter of the time to the next. */
const longestSpreadSeconds = 1800;

/** A scheduled operation that failed is tried again: how often in all, and how many seconds after its end. */
const mostTries = 3;
const secondsBetweenTries = 1800;

/** Seconds that a scheduled time may go unserved before a person has to look: room for every try, and for the waves of a large fleet. */
export const graceSeconds: Readonly<Record<DueKind, number>> = { backup: 2 * 3600, drill: 6 * 3600 };

export interface Due {
  readonly kind: DueKind;
  readonly cluster: string;
  readonly uid: string;
  /** Time of the schedule that is to be served, milliseconds since the epoch. */
  readonly dueAtMs: number;
  /** When this cluster's turn comes: the time of the schedule and its place in the spread. */
  readonly startsAtMs: number;
}

/** In the order of their turns: where the first cannot be served, such as a backup that keeps failing, the next is. */
export type DueDecision = { readonly kind: "due"; readonly due: readonly Due[] } | { readonly kind: "rests"; readonly reason: string };

/** What decisions about time read of a record. */
export type Dated = Pick<ClusterRecord, "name" | "uid" | "phase" | "readyAt" | "newestProven" | "lastDrill"> & {
  readonly wanted: { readonly spec: { readonly backup: ClusterRecord["wanted"]["spec"]["backup"] } };
};

/**
 * What a cluster is due for.
 *
 * @param isBusy   whether an operation is under way on it
 * @param clusters how many clusters there are: the spread grows with the fleet, so that one cluster keeps to its minute
 */
export function decideDue(record: Dated, isBusy: boolean, clusters: number, nowMs: number): DueDecision {
  const rests = (reason: string): DueDecision => ({ kind: "rests", reason: `${record.name} ${reason}` });
  if (record.phase !== "ready") return rests(`is ${record.phase}`);
  if (isBusy) return rests("is being changed by an operation");
  const due = (["backup", "drill"] as const)
    .map((kind) => dueFor(kind, record, clusters, nowMs))
    .filter((each) => each !== undefined)
    .filter((each) => each.startsAtMs <= nowMs)
    .sort((a, b) => turn(a) - turn(b));
  return due.length > 0 ? { kind: "due", due } : rests("has had what its schedules asked for");
}

/** A backup goes before a drill, which takes longer and restores what the backup made; but a drill that has waited for hours is not put off for ever. */
function turn({ kind, startsAtMs }: Due): number {
  return startsAtMs + (kind === "drill" ? graceSeconds.drill * 1000 : 0);
}

function dueFor(kind: DueKind, record: Dated, clusters: number, nowMs: number): Due | undefined {
  const schedule = scheduleOf(kind, record);
  // There is nothing to restore yet.
  if (schedule === undefined || (kind === "drill" && record.newestProven === undefined)) return undefined;
  const dueAtMs = latestTime(schedule, nowMs);
  if (dueAtMs === undefined) return undefined;
  const servedAt = kind === "backup" ? record.newestProven?.at : (record.lastDrill?.at ?? record.readyAt);
  if (servedAt !== undefined && Date.parse(servedAt) >= dueAtMs) return undefined;
  const { name: cluster, uid } = record;
  return { kind, cluster, uid, dueAtMs, startsAtMs: dueAtMs + spreadMs(kind, schedule, uid, clusters, dueAtMs) };
}

/**
 * At which look after the scheduled time its turn is, of as many as the fleet needs: the same for every look, and even over the fleet, because uids are random.
 * Nothing is gained by spreading within a look, which starts one after another anyway.
 */
function spreadMs(kind: DueKind, schedule: Schedule, uid: string, clusters: number, dueAtMs: number): number {
  const next = nextTime(schedule, dueAtMs) ?? Number.POSITIVE_INFINITY;
  const roomSeconds = Math.min(longestSpreadSeconds, (next - dueAtMs) / 4000);
  const looks = Math.min(Math.ceil(clusters / backupsPerSweep), Math.floor(roomSeconds / sweepSeconds));
  return Math.floor(share(`${kind} ${uid}`) * looks) * sweepSeconds * 1000;
}

/** From 0 up to 1, always the same for a text. */
function share(text: string): number {
  return Number.parseInt(shortHash(text), 16) / 2 ** 32;
}

/** Backups as the file says; drills at 03:00 local time, every day or on a day of the week that the uid chooses, so that a fleet's lie apart. */
function scheduleOf(kind: DueKind, { uid, wanted }: Dated): Schedule | undefined {
  const { schedule, timeZone, drill } = wanted.spec.backup;
  if (kind === "backup") return readSchedule(schedule, timeZone);
  switch (drill) {
    case "never":
      return undefined;
    case "nightly":
      return readSchedule("0 3 * * *", timeZone);
    case "weekly":
      return readSchedule(`0 3 * * ${Math.floor(share(`day ${uid}`) * 7)}`, timeZone);
  }
}

/** The id under which a try is asked for: of cluster, kind, time and number, so that whoever asks twice is answered with the same operation. */
export function requestIdOf({ kind, uid, dueAtMs }: Due, number: number): string {
  const time = new Date(dueAtMs).toISOString().replace(/[-:]/g, "").slice(0, 13);
  return `${kind}-${time}Z-${shortHash(uid)}-${number}`;
}

export type TryDecision =
  /** `number`: of the try, from 1. */
  | { readonly kind: "start"; readonly number: number }
  | { readonly kind: "look"; readonly number: number }
  | { readonly kind: "rests"; readonly failed: number; readonly reason: string };

/**
 * Whether what is due of a cluster that is not busy is tried, now that these tries have been made; `look` asks for the try of that number first.
 *
 * @param tries in their order; undefined for one that was looked for and has not been made
 */
export function decideTry(due: Due, tries: readonly (Pick<OperationRecord, "status" | "endedAt"> | undefined)[], nowMs: number): TryDecision {
  for (let number = 1; number <= mostTries; number++) {
    if (number > tries.length) return { kind: "look", number };
    const made = tries[number - 1];
    if (made === undefined) return { kind: "start", number };
    const rests = (failed: number, reason: string): TryDecision => ({ kind: "rests", failed, reason: `try ${number} of ${due.cluster} ${reason}` });
    if (made.status === "succeeded") return rests(number - 1, "has succeeded");
    // Accepted, and nobody works on it: whoever accepted it died before it was started, and asking again starts it.
    if (made.status !== "failed") return { kind: "start", number };
    const againMs = Date.parse(made.endedAt ?? "") + secondsBetweenTries * 1000;
    if (number < mostTries && againMs > nowMs) return rests(number, "failed a moment ago");
  }
  return { kind: "rests", failed: mostTries, reason: `every try of ${due.cluster} has failed: a person has to look` };
}

/**
 * Who starts now: those that waited longest first, backups before drills, no more than the account bears. The others wait for the next look, in the same order.
 *
 * @param drillsUnderWay how many run already
 */
export function decideWave(due: readonly Due[], drillsUnderWay: number): Due[] {
  const inOrder = [...due].sort((a, b) => a.startsAtMs - b.startsAtMs || (a.uid < b.uid ? -1 : 1));
  const backups = inOrder.filter(({ kind }) => kind === "backup").slice(0, backupsPerSweep);
  const drills = inOrder.filter(({ kind }) => kind === "drill").slice(0, Math.max(0, fleetLimits.drillsAtOnce - drillsUnderWay));
  return [...backups, ...drills];
}

/** How old what protects a cluster is, in seconds, and whether it is older than its schedule allows. */
export interface Freshness {
  /** Undefined when there has never been one. */
  readonly ageSeconds: number | undefined;
  /** Seconds since a person should have looked; 0 when all is well. */
  readonly lateSeconds: number;
}

/** Undefined where nothing is asked for: a cluster that was never ready, one that is being deleted, one whose file wants no drills. */
export function freshness(kind: DueKind, record: Dated, nowMs: number): Freshness | undefined {
  const schedule = scheduleOf(kind, record);
  if (schedule === undefined || record.readyAt === undefined || record.phase === "deleting") return undefined;
  const { newestProven, lastDrill, readyAt } = record;
  const at = kind === "backup" ? newestProven?.at : lastDrill?.at;
  const ageSeconds = at === undefined ? undefined : Math.max(0, Math.floor((nowMs - Date.parse(at)) / 1000));
  const neededAtMs = nextTime(schedule, Date.parse(at ?? readyAt));
  const deadlineMs = (neededAtMs ?? Number.POSITIVE_INFINITY) + graceSeconds[kind] * 1000;
  // A drill that ran and did not find what the manifest says proves the opposite.
  const isDisproved = kind === "drill" && lastDrill?.proven === false;
  const sinceMs = isDisproved ? Date.parse(lastDrill.at) : deadlineMs;
  return { ageSeconds, lateSeconds: nowMs > sinceMs ? Math.max(1, Math.floor((nowMs - sinceMs) / 1000)) : 0 };
}
