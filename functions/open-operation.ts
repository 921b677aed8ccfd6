/** State "Open operation" of every workflow: takes the cluster's lease for this execution, then marks the operation as running. */
import { z } from "zod";
import { Busy } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { decideLease } from "../core/lease.js";
import type { ClusterPhase, Lease, OperationKind, OperationRecord } from "../core/records.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { type Workflows, workflows } from "./aws/workflows.js";
import { changeRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ kind: z.enum(["create", "delete", "backup", "restore", "drill"]) });
/** What the cluster is while an operation is at it; undefined where it stays what it is. */
const phases: Readonly<Record<OperationKind, ClusterPhase | undefined>> = {
  create: "creating",
  delete: "deleting",
  backup: undefined,
  restore: "restoring",
  drill: undefined,
};

interface Opened {
  /** An earlier operation has launched nodes for this cluster. */
  readonly begun: boolean;
  /** The request wants a snapshot before anything is changed. */
  readonly lastSnapshot: boolean;
}

interface Clients {
  readonly state: StateStore;
  readonly workflows: Workflows;
}

export const openOperation: Task<z.output<typeof input>, Clients, Opened> = async (step, { state, workflows }, moment) => {
  const key = stateKeys.lease(step.cluster);
  const found = await state.read<Lease>(key);
  const holder = found === undefined || found.value.holder === step.execution ? undefined : await workflows.describe(found.value.holder);
  const decision = decideLease({
    ...(found === undefined ? {} : { lease: found.value }),
    ...(holder === undefined ? {} : { holderStatus: holder.status, holderEndedAt: holder.endedAt }),
    holder: step.execution,
    operation: step.operation,
    cluster: step.cluster,
    now: moment.now,
  });
  if (decision.kind === "busy") throw new Busy(decision.reason, `Wait for it: drover watch ${step.cluster}`);
  const taken =
    decision.kind === "held" ||
    (found === undefined
      ? await state.create(key, (decision as { lease: Lease }).lease)
      : await state.replace(key, (decision as { lease: Lease }).lease, found.etag));
  if (!taken) throw new Busy(`Another operation took the lease of ${step.cluster} at the same moment`, `Wait for it: drover watch ${step.cluster}`);

  const operation = await state.update<OperationRecord>(stateKeys.operation(step.cluster, step.operation), (current) =>
    current === undefined || current.status !== "accepted" ? undefined : begin(current, moment.now),
  );
  const phase = phases[step.kind];
  // Nothing is written that is so already: a backup runs every night on every cluster, and a write is much of what it costs.
  await changeRecord(state, step.cluster, (record) =>
    record.operation === step.operation && (phase === undefined || record.phase === phase)
      ? undefined
      : { ...record, ...(phase === undefined ? {} : { phase }), operation: step.operation },
  );
  const begun = (await state.read(stateKeys.launches(step.cluster))) !== undefined;
  return { begun, lastSnapshot: operation?.lastSnapshot === true };
};

function begin(operation: OperationRecord, now: string): OperationRecord {
  const steps = [...operation.steps, { name: "lease", at: now, detail: "The cluster is this operation's to change" }];
  return { ...operation, status: "running", startedAt: now, steps };
}

export const handler = lambda(input, (environment) => ({ state: stateStore(environment("STATE_BUCKET")), workflows: workflows() }), openOperation);
