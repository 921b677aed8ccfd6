/**
 * States "Close operation" and "Record failure" of every workflow: the outcome is recorded and announced, and the lease given back. Always runs.
 *
 * The record and the lease are touched only while the lease is this execution's: a run that was taken over says how it ended, and no more.
 */
import { z } from "zod";
import { stateKeys } from "../core/layout.js";
import { stillHolds } from "../core/lease.js";
import type { ClusterRecord, Lease, OperationRecord } from "../core/records.js";
import { type Announcer, announcer } from "./aws/events.js";
import { type Inventory, inventory } from "./aws/inventory.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { milestone, stepInput, updateRecord } from "./cluster.js";
import { recordFailure } from "./failed-operation.js";
import { lambda, type Moment, type Task } from "./lambda.js";

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
    } else if (isHeld) await recordSuccess(step, operation, clients, moment);
  }
  if (lease !== undefined && isHeld) await clients.state.removeVersion(leaseKey, lease.etag);
  return { closed: true };
};

async function recordSuccess(step: Input, operation: OperationRecord, clients: Clients, moment: Moment): Promise<void> {
  const { cluster, uid, id } = operation;
  if (operation.kind === "create") {
    const record = await updateRecord(clients.state, cluster, (current) => readyRecord(current, moment.now));
    await milestone(clients.state, step, "ready", `${record.endpoint?.dnsName ?? ""} answers`, moment.now);
    await finish(operation, clients.state, moment.now);
    const { servers, agentPools } = record.wanted.spec;
    await clients.announcer.announce("Cluster Ready", {
      operation: id,
      cluster,
      uid,
      version: record.resolved.version,
      endpoint: record.endpoint?.dnsName ?? "",
      servers: servers.count,
      agents: agentPools.reduce((sum, pool) => sum + pool.count, 0),
      at: moment.now,
    });
    return;
  }
  const outcome = operation.outcome as { readonly left?: readonly { kind: string; id: string }[]; readonly dollarsPerMonth?: number } | undefined;
  await finish(operation, clients.state, moment.now);
  await clients.announcer.announce("Cluster Deleted", {
    operation: id,
    cluster,
    uid,
    left: (outcome?.left ?? []).map((resource) => `${resource.kind} ${resource.id}`),
    dollarsPerMonth: outcome?.dollarsPerMonth ?? 0,
    at: moment.now,
  });
  await forget(cluster, uid, clients);
}

function readyRecord(record: ClusterRecord, now: string): ClusterRecord {
  const condition = (type: ClusterRecord["conditions"][number]["type"], message: string) =>
    ({ type, status: "True", reason: "Verified", message, at: now }) as const;
  const { servers, agentPools } = record.wanted.spec;
  const agents = agentPools.reduce((sum, pool) => sum + pool.count, 0);
  const { operation: _, ...rest } = record;
  return {
    ...rest,
    phase: "ready",
    readyAt: record.readyAt ?? now,
    conditions: [
      condition("ControlPlane", `${servers.count} of ${servers.count} servers vote`),
      condition("Agents", `${agents} of ${agents} agents are Ready`),
      condition("Endpoint", `${record.endpoint?.dnsName ?? ""} answers`),
    ],
  };
}

async function finish(operation: OperationRecord, state: StateStore, now: string): Promise<void> {
  await state.update<OperationRecord>(stateKeys.operation(operation.cluster, operation.id), (current) =>
    current === undefined || current.status === "succeeded" ? undefined : { ...current, status: "succeeded", endedAt: now },
  );
}

/**
 * Makes the name free again. Operations stay as the history of what was done; the record and the work files go, the record last, so that a run that dies
 * here is finished by the next. Secrets stay while a snapshot exists: without its token a snapshot opens nothing.
 */
async function forget(cluster: string, uid: string, clients: Clients): Promise<void> {
  const { state } = clients;
  const hasSnapshots = (await clients.snapshots.list(`${uid}/`, 1)).length > 0;
  const stale = [
    ...(hasSnapshots ? [] : await state.list(stateKeys.secrets(uid))),
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
