/**
 * Closes operations whose execution ended without doing so: an abort or a time-out passes no Catch, so nobody else writes its card or gives its lease back.
 *
 * Follows Step Functions' status event, and because that one is best effort (law 9), looks at every open operation every few minutes as well. Both wait until
 * what the execution's last step began can act no more: only then does the card tell of everything that is left, and only then is the cluster free.
 */
import { z } from "zod";
import { NotYet } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { mayStillAct, stillHolds } from "../core/lease.js";
import type { ClusterRecord, Lease, OperationRecord } from "../core/records.js";
import { announcer } from "./aws/events.js";
import { inventory } from "./aws/inventory.js";
import { stateStore } from "./aws/state.js";
import { type Workflows, workflows } from "./aws/workflows.js";
import { type FailureClients, recordFailure, recordSuccess } from "./closed-operation.js";
import { lambda, type Moment, type Task } from "./lambda.js";

const input = z.union([
  z.object({ "detail-type": z.literal("Scheduled Event") }),
  z.object({ detail: z.object({ executionArn: z.string().min(1) }) }),
]);

interface Clients extends FailureClients {
  readonly workflows: Workflows;
}

export const observeExecution: Task<z.output<typeof input>, Clients, { readonly closed: number }> = async (event, clients, moment) => {
  if (!("detail" in event)) return { closed: await closeAll(clients, moment) };
  const end = await close(event.detail.executionArn, clients, moment);
  if (end === "too early") throw new NotYet(`What ${event.detail.executionArn} began may still be under way`, "Lambda asks again");
  return { closed: end === "closed" ? 1 : 0 };
};

/** Every operation that its cluster's record says is under way. One that cannot be closed does not keep the others open. */
async function closeAll(clients: Clients, moment: Moment): Promise<number> {
  const { state } = clients;
  const keys = new Set(await state.list(stateKeys.allClusters));
  let closed = 0;
  let failure: { readonly error: unknown } | undefined;
  for (const key of [...keys].filter((each) => each.endsWith("/record.json"))) {
    try {
      const record = (await state.read<ClusterRecord>(key))?.value;
      if (record === undefined) continue;
      const lease = keys.has(stateKeys.lease(record.name)) ? (await state.read<Lease>(stateKeys.lease(record.name)))?.value : undefined;
      // A record that says ready names no operation any more, though the one that wrote it may have died before it gave its lease back.
      const id = record.operation ?? lease?.operation;
      if (id === undefined) continue;
      const operation = (await state.read<OperationRecord>(stateKeys.operation(record.name, id)))?.value;
      const isLeased = lease !== undefined && lease.holder === operation?.execution;
      if (operation === undefined || !(isOpen(operation) || isLeased)) continue;
      if ((await close(operation.execution, clients, moment)) === "closed") closed++;
    } catch (error) {
      failure ??= { error };
    }
  }
  if (failure !== undefined) throw failure.error;
  return closed;
}

function isOpen(operation: OperationRecord): boolean {
  return operation.card === undefined && operation.status !== "succeeded";
}

async function close(executionArn: string, clients: Clients, moment: Moment): Promise<"closed" | "nothing to do" | "too early"> {
  // An event may be late or repeated: what the execution says now is what counts.
  const { status, input: started, error, cause, endedAt } = await clients.workflows.describe(executionArn);
  if (status !== "FAILED" && status !== "TIMED_OUT" && status !== "ABORTED") return "nothing to do";
  const request = z.object({ cluster: z.string(), operation: z.string() }).safeParse(started);
  if (!request.success) return "nothing to do";
  const { cluster, operation: id } = request.data;
  const operation = await clients.state.read<OperationRecord>(stateKeys.operation(cluster, id));
  const key = stateKeys.lease(cluster);
  const lease = await clients.state.read<Lease>(key);
  const isHeld = stillHolds(lease?.value, executionArn) === undefined;
  const isToRecord = operation !== undefined && isOpen(operation.value);
  if (!isToRecord && !isHeld) return "nothing to do";
  if (mayStillAct(endedAt, moment.now)) return "too early";
  if (isToRecord && isHeld && (await wasReady(operation.value, clients))) {
    await recordSuccess(operation.value, clients, moment);
  } else if (isToRecord) {
    const failure = { error: error ?? status, cause: cause ?? `the execution ended as ${status}`, state: "" };
    await recordFailure({ operation: operation.value, failure, isHeld, now: moment.now }, clients);
  }
  if (lease !== undefined && isHeld) await clients.state.removeVersion(key, lease.etag);
  return "closed";
}

/** Whether the execution was on its last step and had said so: what it was asked for is done, and an end that came later does not undo it. */
async function wasReady({ kind, cluster, uid }: OperationRecord, { state }: Clients): Promise<boolean> {
  const record = (await state.read<ClusterRecord>(stateKeys.record(cluster)))?.value;
  return kind === "create" && record?.uid === uid && record.phase === "ready";
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    inventory: inventory(),
    announcer: announcer(environment("EVENT_BUS")),
    workflows: workflows(),
  }),
  observeExecution,
);
