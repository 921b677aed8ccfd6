/** How a failed operation is recorded: one card, stored, announced, and the cluster marked. Used by the workflow itself and by whoever finds it dead. */
import { writeFailureCard } from "../core/failure-card.js";
import { nodeName, stateKeys } from "../core/layout.js";
import { nodeFailureSchema } from "../core/node-commands.js";
import type { ClusterRecord, FailureCard, OperationRecord } from "../core/records.js";
import type { Announcer } from "./aws/events.js";
import type { Inventory } from "./aws/inventory.js";
import type { StateStore } from "./aws/state.js";

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
    left: await inventory.ofCluster(operation.cluster, operation.uid),
    ...(node === undefined ? {} : { nodeFailure: node }),
    now,
  });
  const written = await state.update<OperationRecord>(stateKeys.operation(operation.cluster, operation.id), (current) =>
    current === undefined || current.card !== undefined ? undefined : { ...current, status: "failed", endedAt: now, card },
  );
  if (isHeld) {
    await state.update<ClusterRecord>(stateKeys.record(operation.cluster), (record) =>
      record === undefined || record.uid !== operation.uid ? undefined : { ...record, phase: "failed" },
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

/** The node that a failed command names in its cause, if it does and if the cause was not cut. */
function nodeOf(cause: string) {
  try {
    const { node } = JSON.parse(cause) as { node?: { instanceId?: string; pool?: string; failure?: unknown } };
    const failure = nodeFailureSchema.safeParse(node?.failure);
    if (node?.instanceId === undefined || !failure.success) return undefined;
    return { name: nodeName(node.pool ?? "node", node.instanceId), instanceId: node.instanceId, failure: failure.data };
  } catch {
    return undefined;
  }
}
