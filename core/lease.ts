/**
 * Law 2: one operation per cluster. Who may change it.
 *
 * The lease is one object, made by create-if-absent and changed by If-Match, so of racing takers one wins. It names an execution and is over when that
 * execution is: there is no time to renew it by, so a slow step cannot lose it. A run that was taken over finds out before it acts (`stillHolds`).
 */
import type { Lease } from "./records.js";

/** What Step Functions says of the holder (API reference, DescribeExecution); UNKNOWN when it knows no such execution. */
export type HolderStatus = "RUNNING" | "SUCCEEDED" | "FAILED" | "TIMED_OUT" | "ABORTED" | "PENDING_REDRIVE" | "UNKNOWN";

export type LeaseAnswer =
  /** Write `lease` with If-None-Match: *. */
  | { readonly kind: "take"; readonly lease: Lease }
  /** It is the asker's already. */
  | { readonly kind: "held" }
  /** Write `lease` with If-Match on the object that `from` was read from. */
  | { readonly kind: "takeOver"; readonly lease: Lease; readonly from: Lease }
  | { readonly kind: "busy"; readonly operation: string; readonly reason: string };

/**
 * Step Functions forgets an execution 90 days after its end, 30 where an account shortens that. A lease this old, in days, whose holder is unknown
 * belonged to an execution that ended; a younger one is more likely a wrong answer or the wrong region.
 */
const forgottenAfterDays = 30;

/**
 * The end of an execution does not end the function that its last step began: an abort leaves it running, up to its own limit (50 s for a step, and the
 * start before). Until then, in seconds, nobody else may act on what that function may still change.
 */
export const lastStepSeconds = 55;

/**
 * Decides whether `holder` may have the cluster.
 *
 * @param lease        as read just now; undefined when there is none
 * @param holder       ARN of the execution that asks
 * @param holderStatus of the execution the lease names; needed when that is another one
 * @param holderEndedAt when that execution ended, ISO 8601; undefined while it runs, or when nobody knows
 * @param now          ISO 8601
 */
export function decideLease(input: {
  readonly lease?: Lease | undefined;
  readonly holder: string;
  readonly operation: string;
  readonly holderStatus?: HolderStatus | undefined;
  readonly holderEndedAt?: string | undefined;
  readonly now: string;
  readonly cluster: string;
}): LeaseAnswer {
  const { lease, holder, cluster } = input;
  const wanted: Lease = { cluster, holder, operation: input.operation, takenAt: input.now };
  if (lease === undefined) return { kind: "take", lease: wanted };
  if (lease.cluster !== cluster) return busy(lease, `the lease of ${cluster} names cluster ${lease.cluster}: it is damaged`);
  if (lease.holder === holder) return { kind: "held" };

  switch (input.holderStatus) {
    case "SUCCEEDED":
    case "FAILED":
    case "TIMED_OUT":
    case "ABORTED":
      if (mayStillAct(input.holderEndedAt, input.now)) {
        return busy(lease, `operation ${lease.operation} ended at ${input.holderEndedAt}, and its last step may still be under way`);
      }
      return { kind: "takeOver", lease: wanted, from: lease };
    case "RUNNING":
      return busy(lease, `operation ${lease.operation} has held ${cluster} since ${lease.takenAt} and runs`);
    case "PENDING_REDRIVE":
      return busy(lease, `operation ${lease.operation} has held ${cluster} since ${lease.takenAt} and is about to run again`);
    case "UNKNOWN":
      if (Date.parse(input.now) - Date.parse(lease.takenAt) > forgottenAfterDays * 86_400_000)
        return { kind: "takeOver", lease: wanted, from: lease };
      return busy(lease, `operation ${lease.operation} has held ${cluster} since ${lease.takenAt} and Step Functions does not know its execution`);
    case undefined:
      return busy(lease, `operation ${lease.operation} has held ${cluster} since ${lease.takenAt}, and whether it runs was not read`);
  }
}

/** Whether a function that an execution began may still be running, so soon after that execution's end. */
export function mayStillAct(endedAt: string | undefined, now: string): boolean {
  return endedAt !== undefined && Date.parse(now) - Date.parse(endedAt) < lastStepSeconds * 1000;
}

/**
 * Why `holder` no longer holds the lease, as the end of a sentence; undefined when it does. Every handler asks this before it changes anything,
 * and the one that releases the lease asks it too: a lease that another took over is not the old holder's to delete.
 */
export function stillHolds(lease: Lease | undefined, holder: string): string | undefined {
  if (lease === undefined) return "the lease is gone";
  if (lease.holder !== holder) return `operation ${lease.operation} took the lease over at ${lease.takenAt}`;
  return undefined;
}

function busy(lease: Lease, reason: string): LeaseAnswer {
  return { kind: "busy", operation: lease.operation, reason };
}
