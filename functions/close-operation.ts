/**
 * States "Close operation" and "Record failure" of every workflow: the outcome is recorded and announced, and the lease given back. Always runs.
 *
 * The record and the lease are touched only while the lease is this execution's: a run that was taken over says how it ended, and no more.
 */
import { z } from "zod";
import { stateKeys } from "../core/layout.js";
import { stillHolds } from "../core/lease.js";
import type { Lease, OperationRecord, SnapshotOutcome } from "../core/records.js";
import { type Announcer, announcer } from "./aws/events.js";
import { type Inventory, inventory } from "./aws/inventory.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { finish, recordBackup, recordFailure, recordRestore, recordSuccess } from "./closed-operation.js";
import { stepInput } from "./cluster.js";
import { lambda, type Moment, type Task } from "./lambda.js";
import { releaseSnapshot } from "./restore-facts.js";

const failure = z.object({ error: z.string(), cause: z.string().default(""), state: z.string().default("") });
const input = z.discriminatedUnion("outcome", [
  stepInput.extend({ outcome: z.literal("succeeded") }),
  stepInput.extend({ outcome: z.literal("failed"), failure }),
]);
type Input = z.output<typeof input>;

interface Clients {
  readonly state: StateStore;
  readonly inventory: Inventory;
  readonly announcer: Announcer;
  /** Lists the snapshot bucket. */
  readonly snapshots: StateStore;
}

export const closeOperation: Task<Input, Clients, { readonly closed: true }> = async (step, clients, moment) => {
  const leaseKey = stateKeys.lease(step.cluster);
  const lease = await clients.state.read<Lease>(leaseKey);
  const isHeld = stillHolds(lease?.value, step.execution) === undefined;
  const operation = (await clients.state.read<OperationRecord>(stateKeys.operation(step.cluster, step.operation)))?.value;
  if (operation !== undefined) {
    if (step.outcome === "failed") {
      await recordFailure({ operation, failure: step.failure, isHeld, now: moment.now }, clients);
    } else if (isHeld) await recordOutcome(operation, clients, moment);
  }
  if (lease !== undefined && isHeld) await clients.state.removeVersion(leaseKey, lease.etag);
  return { closed: true };
};

/** What the steps of a delete have written. */
interface DeleteOutcome extends SnapshotOutcome {
  readonly left?: readonly { readonly kind: string; readonly id: string }[];
  readonly dollarsPerMonth?: number;
}

async function recordOutcome(operation: OperationRecord, clients: Clients, moment: Moment): Promise<void> {
  if (operation.kind === "create") return recordSuccess(operation, clients, moment);
  if (operation.kind === "backup" || operation.kind === "drill") {
    await recordBackup(operation, clients, moment);
    return releaseSnapshot(operation.request, operation.id, clients.state);
  }
  if (operation.kind === "restore") {
    await recordRestore(operation, clients, moment);
    return releaseSnapshot(operation.request, operation.id, clients.state);
  }
  const { cluster, uid, id } = operation;
  const outcome = operation.outcome as DeleteOutcome | undefined;
  await finish(operation, clients.state, moment.now);
  await clients.announcer.announce("Cluster Deleted", {
    operation: id,
    cluster,
    uid,
    left: (outcome?.left ?? []).map((resource) => `${resource.kind} ${resource.id}`),
    dollarsPerMonth: outcome?.dollarsPerMonth ?? 0,
    ...(outcome?.snapshot === undefined ? {} : { lastSnapshot: outcome.snapshot }),
    ...(outcome?.snapshotFailure === undefined ? {} : { snapshotFailure: outcome.snapshotFailure }),
    at: moment.now,
  });
  await forget(cluster, uid, clients);
}

/**
 * Makes the name free again. Operations stay as the history of what was done; the record and the work files go, the record last, so that a run that dies
 * here is finished by the next. Secrets stay while a snapshot exists: without its token a snapshot opens nothing.
 */
async function forget(cluster: string, uid: string, clients: Clients): Promise<void> {
  const { state } = clients;
  const hasSnapshots = (await clients.snapshots.list(`${uid}/`, 1)).length > 0;
  const launches = await state.read(stateKeys.launches(cluster));
  // A cluster that is made of one of them remembers these nodes, and has to be told that they are gone.
  if (hasSnapshots && launches !== undefined) await state.write(stateKeys.launchesKept(uid), launches.value);
  const stale = [
    // Tokens open snapshots; a kubeconfig opens nothing but the cluster that is gone, or, worse, one that is made of its snapshot.
    ...(await state.list(hasSnapshots ? stateKeys.secretsOf(uid, "kubeconfig") : stateKeys.secrets(uid))),
    ...(await state.list(stateKeys.deliveries(uid))),
    ...(await state.list(stateKeys.uploads(uid))),
    ...(await state.list(stateKeys.work(cluster))),
    stateKeys.launches(cluster),
    stateKeys.admission(cluster),
  ];
  await Promise.all(stale.map((key) => state.remove(key)));
  await state.remove(stateKeys.record(cluster));
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    inventory: inventory(),
    announcer: announcer(environment("EVENT_BUS")),
    snapshots: stateStore(environment("SNAPSHOT_BUCKET")),
  }),
  closeOperation,
);
