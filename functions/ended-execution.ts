/**
 * Closes an operation whose execution ended without doing so: an abort or a time-out passes no Catch, so nobody else writes its card or gives its lease back.
 *
 * It waits until what the execution's last step began can act no more: only then does the card tell of everything that is left, and only then is the cluster
 * free. Used by the status event's handler and by the sweep.
 */
import { z } from "zod";
import { stateKeys } from "../core/layout.js";
import { type HolderStatus, mayStillAct, stillHolds } from "../core/lease.js";
import type { ClusterRecord, Lease, OperationRecord, SnapshotOutcome } from "../core/records.js";
import type { Workflows } from "./aws/workflows.js";
import { type FailureClients, recordBackup, recordFailure, recordRestore, recordSuccess } from "./closed-operation.js";
import type { Moment } from "./lambda.js";

export interface EndClients extends FailureClients {
  readonly workflows: Workflows;
}

/** `open`: nothing has ended, or nobody knows of it: Step Functions may not have begun it. */
export type End = "closed" | "closed before" | "too early" | "open";

export function isOpen(operation: OperationRecord): boolean {
  return operation.card === undefined && operation.status !== "succeeded";
}

export async function closeEnded(
  executionArn: string,
  clients: EndClients,
  moment: Moment,
): Promise<{ readonly end: End; readonly status: HolderStatus }> {
  // An event may be late or repeated: what the execution says now is what counts.
  const { status, input: started, error, cause, endedAt } = await clients.workflows.describe(executionArn);
  const answer = (end: End) => ({ end, status });
  if (status !== "FAILED" && status !== "TIMED_OUT" && status !== "ABORTED") return answer("open");
  const request = z.object({ cluster: z.string(), operation: z.string() }).safeParse(started);
  if (!request.success) return answer("open");
  const { cluster, operation: id } = request.data;
  const operation = await clients.state.read<OperationRecord>(stateKeys.operation(cluster, id));
  const key = stateKeys.lease(cluster);
  const lease = await clients.state.read<Lease>(key);
  const isHeld = stillHolds(lease?.value, executionArn) === undefined;
  const isToRecord = operation !== undefined && isOpen(operation.value);
  if (!isToRecord && !isHeld) return answer("closed before");
  if (mayStillAct(endedAt, moment.now)) return answer("too early");
  if (isToRecord && isHeld && (await wasReady(operation.value, clients))) {
    await (operation.value.kind === "restore" ? recordRestore : recordSuccess)(operation.value, clients, moment);
  } else if (isToRecord && isHeld && wasProven(operation.value)) {
    await recordBackup(operation.value, clients, moment);
  } else if (isToRecord) {
    const failure = { error: error ?? status, cause: cause ?? `the execution ended as ${status}`, state: "" };
    await recordFailure({ operation: operation.value, failure, isHeld, now: moment.now }, clients);
  }
  if (lease !== undefined && isHeld) await clients.state.removeVersion(key, lease.etag);
  return answer("closed");
}

/** Whether the execution was on its last step and had said so: what it was asked for is done, and an end that came later does not undo it. */
async function wasReady({ kind, cluster, uid }: OperationRecord, { state }: EndClients): Promise<boolean> {
  const record = (await state.read<ClusterRecord>(stateKeys.record(cluster)))?.value;
  return (kind === "create" || kind === "restore") && record?.uid === uid && record.phase === "ready";
}

/** Whether the snapshot that a backup was asked for counts: only the removal of older ones was cut short, and the next backup does that. */
function wasProven({ kind, outcome }: OperationRecord): boolean {
  return kind === "backup" && (outcome as SnapshotOutcome | undefined)?.snapshot !== undefined;
}
