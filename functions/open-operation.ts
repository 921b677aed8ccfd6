/** State "Open operation" of every workflow: takes the cluster's lease for this execution, then marks the operation as running. */
import { z } from "zod";
import { Busy } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { decideLease } from "../core/lease.js";
import type { ClusterPhase, Lease, OperationKind, OperationRecord } from "../core/records.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { type Workflows, workflows } from "./aws/workflows.js";
import { milestone, stepInput, updateRecord } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ kind: z.enum(["create", "delete"]) });
const phases: Readonly<Record<OperationKind, ClusterPhase>> = { create: "creating", delete: "deleting" };

interface Clients {
  readonly state: StateStore;
  readonly workflows: Workflows;
}

export const openOperation: Task<z.output<typeof input>, Clients, { readonly begun: boolean }> = async (step, { state, workflows }, moment) => {
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

  await state.update<OperationRecord>(stateKeys.operation(step.cluster, step.operation), (operation) =>
    operation === undefined || operation.status !== "accepted" ? undefined : { ...operation, status: "running", startedAt: moment.now },
  );
  await updateRecord(state, step.cluster, (record) => ({ ...record, phase: phases[step.kind], operation: step.operation }));
  await milestone(state, step, "lease", "The cluster is this operation's to change", moment.now);
  const begun = (await state.read(stateKeys.launches(step.cluster))) !== undefined;
  return { begun };
};

export const handler = lambda(input, (environment) => ({ state: stateStore(environment("STATE_BUCKET")), workflows: workflows() }), openOperation);
