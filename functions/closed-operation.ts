/** How the end of an operation is recorded: its card or its success, stored, announced, and the cluster marked. Used by the workflow itself and by whoever finds it dead. */
import { writeFailureCard } from "../core/failure-card.js";
import { nodeName, stateKeys } from "../core/layout.js";
import { type NodeFailure, nodeFailureSchema } from "../core/node-commands.js";
import type { ClusterRecord, FailureCard, OperationRecord } from "../core/records.js";
import type { Announcer } from "./aws/events.js";
import type { Inventory } from "./aws/inventory.js";
import type { StateStore } from "./aws/state.js";
import { milestone, updateRecord } from "./cluster.js";
import type { Moment } from "./lambda.js";

export interface FailureClients {
  readonly state: StateStore;
  readonly inventory: Inventory;
  readonly announcer: Announcer;
}

/** Law 12. A card that exists is kept: the first account of a failure is the one nearest to it. */
export async function recordFailure(
  facts: {
    readonly operation: OperationRecord;
    readonly failure: { readonly error: string; readonly cause: string; readonly state: string };
    /** Whether the failed execution still holds the cluster's lease: only then is the cluster's record its to mark. */
    readonly isHeld: boolean;
    readonly now: string;
  },
  { state, inventory, announcer }: FailureClients,
): Promise<void> {
  const { operation, failure, isHeld, now } = facts;
  const node = nodeOf(failure.cause);
  const card: FailureCard = writeFailureCard({
    ...failure,
    cluster: operation.cluster,
    operation: operation.id,
    kind: operation.kind,
    left: await leftBy(operation, inventory),
    ...(node === undefined ? {} : { nodeFailure: node }),
    now,
  });
  const written = await state.update<OperationRecord>(stateKeys.operation(operation.cluster, operation.id), (current) =>
    current === undefined || current.card !== undefined ? undefined : { ...current, status: "failed", endedAt: now, card },
  );
  if (isHeld) {
    await state.update<ClusterRecord>(stateKeys.record(operation.cluster), (record) =>
      record === undefined || record.uid !== operation.uid ? undefined : failedRecord(record, operation.kind),
    );
  }
  await announcer.announce("Operation Failed", {
    operation: operation.id,
    cluster: operation.cluster,
    kind: operation.kind,
    failure: (written?.card ?? card).failure,
    state: (written?.card ?? card).state,
    what: (written?.card ?? card).what,
    runbook: (written?.card ?? card).runbook,
    at: now,
  });
}

/** A cluster that runs on is nothing that was left behind. */
async function leftBy({ kind, cluster, uid }: OperationRecord, inventory: Inventory): Promise<FailureCard["left"]["resources"]> {
  if (kind === "backup") return [];
  return kind === "drill" ? inventory.ofDrills(uid) : inventory.ofCluster(cluster, uid);
}

/** A backup or a drill that failed has changed nothing: the cluster is what it was. */
function failedRecord(record: ClusterRecord, kind: OperationRecord["kind"]): ClusterRecord {
  return kind === "backup" || kind === "drill" ? idleRecord(record) : { ...record, phase: "failed" };
}

function idleRecord(record: ClusterRecord): ClusterRecord {
  const { operation: _, ...rest } = record;
  return rest;
}

/** A backup that has come to its end. Its snapshot was announced when it was proven. */
export async function recordBackup(operation: OperationRecord, { state }: Pick<FailureClients, "state">, moment: Moment): Promise<void> {
  await finish(operation, state, moment.now);
  await state.update<ClusterRecord>(stateKeys.record(operation.cluster), (record) =>
    record === undefined || record.operation !== operation.id ? undefined : idleRecord(record),
  );
}

/**
 * A create that has come to its end: the cluster is ready, the operation has succeeded, everybody is told. In this order, so that whoever finds the execution
 * dead in the middle of it sees that it had come so far.
 */
export async function recordSuccess(
  operation: OperationRecord,
  { state, announcer }: Pick<FailureClients, "state" | "announcer">,
  moment: Moment,
): Promise<void> {
  const { cluster, uid, id } = operation;
  const record = await updateRecord(state, cluster, (current) => readyRecord(current, moment.now));
  const endpoint = record.endpoint?.dnsName ?? "";
  await milestone(state, { cluster, operation: id }, "ready", `${endpoint} answers`, moment.now);
  await finish(operation, state, moment.now);
  const { servers, agentPools } = record.wanted.spec;
  await announcer.announce("Cluster Ready", {
    operation: id,
    cluster,
    uid,
    version: record.resolved.version,
    endpoint,
    servers: servers.count,
    agents: agentPools.reduce((sum, pool) => sum + pool.count, 0),
    at: moment.now,
  });
}

/** A restore that has come to its end: the cluster is ready, and no restore is under way any more. */
export async function recordRestore(
  operation: OperationRecord,
  { state, announcer }: Pick<FailureClients, "state" | "announcer">,
  moment: Moment,
): Promise<void> {
  const { cluster, uid, id } = operation;
  const before = (await state.read<ClusterRecord>(stateKeys.record(cluster)))?.value;
  const source = before?.restore?.source;
  const record = await updateRecord(state, cluster, ({ restore: _, ...current }) => readyRecord(current, moment.now));
  const endpoint = record.endpoint?.dnsName ?? "";
  await milestone(state, { cluster, operation: id }, "ready", `${endpoint} answers`, moment.now);
  await finish(operation, state, moment.now);
  const lostSince = source?.kind === "snapshot" && source.uid === uid ? source.takenAt : "";
  const snapshot = operation.request?.snapshot ?? "";
  await announcer.announce("Cluster Restored", {
    operation: id,
    cluster,
    uid,
    snapshot,
    version: record.resolved.version,
    endpoint,
    lostSince,
    at: moment.now,
  });
}

function readyRecord(record: ClusterRecord, now: string): ClusterRecord {
  const condition = (type: ClusterRecord["conditions"][number]["type"], message: string) =>
    ({ type, status: "True", reason: "Verified", message, at: now }) as const;
  const { servers, agentPools } = record.wanted.spec;
  const agents = agentPools.reduce((sum, pool) => sum + pool.count, 0);
  return {
    ...idleRecord(record),
    phase: "ready",
    readyAt: record.readyAt ?? now,
    conditions: [
      condition("ControlPlane", `${servers.count} of ${servers.count} servers vote`),
      condition("Agents", `${agents} of ${agents} agents are Ready`),
      condition("Endpoint", `${record.endpoint?.dnsName ?? ""} answers`),
    ],
  };
}

export async function finish(operation: OperationRecord, state: StateStore, now: string): Promise<void> {
  await state.update<OperationRecord>(stateKeys.operation(operation.cluster, operation.id), (current) =>
    current === undefined || current.status === "succeeded" ? undefined : { ...current, status: "succeeded", endedAt: now },
  );
}

interface NamedNode {
  readonly name: string;
  readonly instanceId: string;
  readonly failure: NodeFailure;
}

/** The node that a failed command names in its cause, if it does and if the cause was not cut. A child execution's failure is wrapped in its parent's. */
function nodeOf(cause: string): NamedNode | undefined {
  try {
    const { node, Cause } = JSON.parse(cause) as { node?: { instanceId?: string; pool?: string; failure?: unknown }; Cause?: unknown };
    if (node === undefined && typeof Cause === "string") return nodeOf(Cause);
    const failure = nodeFailureSchema.safeParse(node?.failure);
    if (node?.instanceId === undefined || !failure.success) return undefined;
    return { name: nodeName(node.pool ?? "node", node.instanceId), instanceId: node.instanceId, failure: failure.data };
  } catch {
    return undefined;
  }
}
