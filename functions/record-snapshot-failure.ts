/**
 * State "Record why" of take-snapshot: says that an operation could not take its snapshot. Whether the operation goes on without one is its own business, and
 * its execution's end tells how it went; here only what happened is kept and announced.
 */
import { z } from "zod";
import { writeFailureCard } from "../core/failure-card.js";
import { stateKeys } from "../core/layout.js";
import type { ClusterRecord, OperationRecord } from "../core/records.js";
import { type Announcer, announcer } from "./aws/events.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { readOperation, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ failure: z.object({ error: z.string(), cause: z.string().default(""), state: z.string().default("") }) });

interface Clients {
  readonly state: StateStore;
  readonly announcer: Announcer;
}

export const recordSnapshotFailure: Task<z.output<typeof input>, Clients, { readonly recorded: true }> = async (step, clients, moment) => {
  const { state } = clients;
  const operation = await readOperation(state, step);
  const { cluster, uid, id, kind } = operation;
  const { failure, what } = writeFailureCard({ ...step.failure, cluster, operation: id, kind, left: [], now: moment.now });
  await state.update<OperationRecord>(stateKeys.operation(cluster, id), (current) =>
    current === undefined || current.outcome?.snapshotFailure === what
      ? undefined
      : {
          ...current,
          outcome: { ...current.outcome, snapshotFailure: what },
          steps: [...current.steps, { name: "snapshot failed", at: moment.now, detail: `${failure}: ${what}` }],
        },
  );
  const newest = (await state.read<ClusterRecord>(stateKeys.record(cluster)))?.value.newestProven;
  await clients.announcer.announce("Snapshot Failed", {
    operation: id,
    cluster,
    uid,
    failure,
    what,
    ...(newest === undefined ? {} : { newestProven: newest.id }),
    at: moment.now,
  });
  return { recorded: true };
};

export const handler = lambda(
  input,
  (environment) => ({ state: stateStore(environment("STATE_BUCKET")), announcer: announcer(environment("EVENT_BUS")) }),
  recordSnapshotFailure,
);
