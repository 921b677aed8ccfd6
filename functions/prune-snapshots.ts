/** State "Prune snapshots" of backup-cluster: removes what retention does not keep, having said so first. */
import type { z } from "zod";
import { stateKeys } from "../core/layout.js";
import type { OperationRecord } from "../core/records.js";
import { type SnapshotStore, snapshotStore } from "./aws/snapshots.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";
import { retentionOf } from "./retention.js";

interface Clients {
  readonly state: StateStore;
  readonly snapshots: SnapshotStore;
}

/** Removed in one run at most, so that a cluster whose tiers were cut down does not outlast the function: the next backup goes on. */
const mostAtOnce = 50;

export const pruneSnapshots: Task<z.output<typeof stepInput>, Clients, { readonly removed: number }> = async (step, clients, moment) => {
  const { state, snapshots } = clients;
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const { remove } = await retentionOf(record, snapshots, state, moment.now);
  // The oldest first, so that what is left when this stops half-way is what is wanted most.
  const going = [...remove].reverse().slice(0, mostAtOnce);
  if (going.length === 0) return { removed: 0 };
  await milestone(state, step, "prune", going.map(({ id, reason }) => `${id}: ${reason}`).join("; "), moment.now);
  const gone: string[] = [];
  for (const { id } of going) if (await snapshots.remove(record.uid, id)) gone.push(id);
  await state.update<OperationRecord>(stateKeys.operation(step.cluster, step.operation), (current) =>
    current === undefined ? undefined : { ...current, outcome: { ...current.outcome, removed: gone } },
  );
  return { removed: gone.length };
};

export const handler = lambda(
  stepInput,
  (environment) => ({ state: stateStore(environment("STATE_BUCKET")), snapshots: snapshotStore(environment("SNAPSHOT_BUCKET")) }),
  pruneSnapshots,
);
