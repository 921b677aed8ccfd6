/**
 * Which snapshots of a cluster are kept, and which go. Counted per cluster: which server took a snapshot makes no difference.
 *
 * A snapshot goes only when nothing asks for it. Beside the tiers of the cluster file these always do: the newest proven one, Object Lock, an operation
 * that reads it. One that was never proven counts for no tier, and is no history either.
 */
import type { ClusterFile } from "./cluster-file.js";
import { localAt, offsetAt } from "./time-zones.js";

export type Keep = ClusterFile["spec"]["backup"]["keep"];

export interface SnapshotFacts {
  readonly id: string;
  /** ISO 8601; of one that was not proven, the time in its id. */
  readonly takenAt: string;
  readonly proven: boolean;
  /** Until when Object Lock holds it, ISO 8601; undefined when nothing does. */
  readonly lockedUntil?: string | undefined;
}

export interface RetentionDecision {
  /** Newest first, each with everything that asks for it. */
  readonly keep: readonly { readonly id: string; readonly reasons: readonly string[] }[];
  /** Newest first. */
  readonly remove: readonly { readonly id: string; readonly reason: string }[];
}

/** Hours in which a snapshot without a manifest may still be on its way: the longest an operation that takes one may run, and a day's margin. */
export const unprovenHours = 36;

const tiers = ["hourly", "daily", "weekly", "monthly"] as const;
type Tier = (typeof tiers)[number];

/**
 * Decides what is kept. The order of the snapshots makes no difference, and what is left decides the same again.
 *
 * A tier keeps the newest snapshot of each of its last periods that have one: a cluster that took none for a month loses no history by that. Periods are
 * those of the cluster's time zone; weeks begin on Monday (ISO 8601).
 *
 * @param inUse ids that a restore or a drill which has not ended reads
 * @param now   ISO 8601
 */
export function decideRetention(input: {
  readonly snapshots: readonly SnapshotFacts[];
  readonly keep: Keep;
  readonly timeZone: string;
  readonly inUse: readonly string[];
  readonly now: string;
}): RetentionDecision {
  const { keep, timeZone, inUse } = input;
  const nowMs = Date.parse(input.now);
  const newestFirst = [...input.snapshots].sort((a, b) => Date.parse(b.takenAt) - Date.parse(a.takenAt) || (a.id < b.id ? 1 : -1));
  const proven = newestFirst.filter((snapshot) => snapshot.proven);
  const reasons = new Map<string, string[]>(newestFirst.map(({ id }) => [id, []]));
  const ask = (id: string, reason: string) => reasons.get(id)?.push(reason);

  const [newest] = proven;
  if (newest !== undefined) ask(newest.id, "the newest proven snapshot");
  else if (newestFirst[0] !== undefined) ask(newestFirst[0].id, "none is proven, and this is the newest");
  proven.slice(0, keep.last).forEach(({ id }, index) => {
    ask(id, `last ${index + 1} of ${keep.last}`);
  });
  for (const tier of tiers) {
    newestOfPeriods(proven, tier, timeZone)
      .slice(0, keep[tier])
      .forEach(({ id, period }, index) => {
        ask(id, `${tier} ${index + 1} of ${keep[tier]} (${period})`);
      });
  }
  for (const { id, takenAt, proven: isProven, lockedUntil } of newestFirst) {
    if (lockedUntil !== undefined && Date.parse(lockedUntil) > nowMs) ask(id, `Object Lock until ${lockedUntil}`);
    if (inUse.includes(id)) ask(id, "a restore or a drill reads it");
    if (!isProven && nowMs - Date.parse(takenAt) < unprovenHours * hourMs) ask(id, `not proven, and younger than ${unprovenHours} hours`);
  }

  const isKept = ({ id }: SnapshotFacts) => (reasons.get(id)?.length ?? 0) > 0;
  return {
    keep: newestFirst.filter(isKept).map(({ id }) => ({ id, reasons: reasons.get(id) as readonly string[] })),
    remove: newestFirst
      .filter((snapshot) => !isKept(snapshot))
      .map(({ id, proven: isProven }) => ({ id, reason: isProven ? "no tier asks for it" : `not proven within ${unprovenHours} hours` })),
  };
}

/** The newest snapshot of each period that has one, the latest period first. */
function newestOfPeriods(newestFirst: readonly SnapshotFacts[], tier: Tier, timeZone: string): { readonly id: string; readonly period: string }[] {
  const found = new Map<string, string>();
  for (const { id, takenAt } of newestFirst) {
    const period = periodOf(Date.parse(takenAt), tier, timeZone);
    if (!found.has(period)) found.set(period, id);
  }
  return [...found].map(([period, id]) => ({ id, period }));
}

const dayMs = 86_400_000;
const hourMs = 3_600_000;

/** Name of the period an instant lies in, by the clocks of a time zone. An hour that comes twice, when clocks are set back, is two hours. */
function periodOf(atMs: number, tier: Tier, timeZone: string): string {
  const local = new Date(localAt(atMs, timeZone));
  switch (tier) {
    case "hourly":
      return `${local.toISOString().slice(0, 13)}h, ${offsetText(offsetAt(atMs, timeZone))}`;
    case "daily":
      return local.toISOString().slice(0, 10);
    case "weekly":
      return isoWeek(local);
    case "monthly":
      return local.toISOString().slice(0, 7);
  }
}

/** `UTC+2`, `UTC-3.5`. */
function offsetText(offsetMs: number): string {
  return `UTC${offsetMs < 0 ? "-" : "+"}${Math.abs(offsetMs) / hourMs}`;
}

/** `2026-W53`: a week belongs to the year that its Thursday lies in (ISO 8601). */
function isoWeek(local: Date): string {
  const midnight = Date.UTC(local.getUTCFullYear(), local.getUTCMonth(), local.getUTCDate());
  const thursday = new Date(midnight + (4 - (local.getUTCDay() || 7)) * dayMs);
  const week = 1 + Math.floor((thursday.getTime() - Date.UTC(thursday.getUTCFullYear(), 0, 1)) / (7 * dayMs));
  return `${thursday.getUTCFullYear()}-W${String(week).padStart(2, "0")}`;
}
