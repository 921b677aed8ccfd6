/**
 * What every step knows and does first: which cluster, under which operation, and whether this execution may still act.
 */
import { z } from "zod";
import { LeaseLost, Unsafe } from "../core/failures.js";
import { emptyLaunchLog, type LaunchLog, unseenInstances } from "../core/launch.js";
import { stateKeys } from "../core/layout.js";
import { stillHolds } from "../core/lease.js";
import type { ObservedInstance } from "../core/nodes.js";
import type { ClusterRecord, EndpointRecord, Lease, OperationRecord } from "../core/records.js";
import type { Instances } from "./aws/instances.js";
import type { StateStore } from "./aws/state.js";

/** What each state hands to its handler; everything else is read where it is kept. */
export const stepInput = z.object({
  cluster: z.string().min(1),
  operation: z.string().min(1),
  /** ARN of the execution, which holds the lease. */
  execution: z.string().min(1),
  /** Name of the state. */
  step: z.string().min(1),
});
export type StepInput = z.output<typeof stepInput>;

/**
 * Law 2: a step that changes anything first makes sure that its execution still holds the cluster's lease.
 * @throws LeaseLost when it does not: a stale run must not act on what it believes.
 */
export async function holdLease(state: StateStore, input: StepInput): Promise<void> {
  const lease = await state.read<Lease>(stateKeys.lease(input.cluster));
  const reason = stillHolds(lease?.value, input.execution);
  if (reason !== undefined) {
    throw new LeaseLost(`${input.operation} may no longer change ${input.cluster}: ${reason}`, "See who holds it: drover operations");
  }
}

export async function readRecord(state: StateStore, cluster: string): Promise<ClusterRecord> {
  const found = await state.read<ClusterRecord>(stateKeys.record(cluster));
  if (found === undefined) {
    throw new Unsafe(`The record of ${cluster} is gone from the state bucket`, "Restore the object's last version, then start again");
  }
  return found.value;
}

export async function readOperation(state: StateStore, step: Pick<StepInput, "cluster" | "operation">): Promise<OperationRecord> {
  const found = await state.read<OperationRecord>(stateKeys.operation(step.cluster, step.operation));
  if (found === undefined) {
    throw new Unsafe(`The record of operation ${step.operation} is gone from the state bucket`, "Start the operation again");
  }
  return found.value;
}

/** Changes the record under If-Match; it must exist. */
export async function updateRecord(state: StateStore, cluster: string, change: (record: ClusterRecord) => ClusterRecord): Promise<ClusterRecord> {
  return changeRecord(state, cluster, change);
}

/** The same, but leaves it as it is where there is nothing to change. */
export async function changeRecord(
  state: StateStore,
  cluster: string,
  change: (record: ClusterRecord) => ClusterRecord | undefined,
): Promise<ClusterRecord> {
  const changed = await state.update<ClusterRecord>(stateKeys.record(cluster), (record) => (record === undefined ? undefined : change(record)));
  if (changed === undefined)
    throw new Unsafe(`The record of ${cluster} is gone from the state bucket`, "Restore the object's last version, then start again");
  return changed;
}

/** @throws Unsafe when the endpoint has not been made: the workflow's order makes it first. */
export function endpointOf(record: ClusterRecord): EndpointRecord {
  if (record.endpoint === undefined) throw new Unsafe(`${record.name} has no endpoint yet`, "Start the operation again");
  return record.endpoint;
}

/** Notes a milestone for progress displays. A milestone said twice stays once. */
export async function milestone(
  state: StateStore,
  input: Pick<StepInput, "cluster" | "operation">,
  name: string,
  detail: string,
  now: string,
): Promise<void> {
  await state.update<OperationRecord>(stateKeys.operation(input.cluster, input.operation), (operation) => {
    if (operation === undefined || operation.steps.some((step) => step.name === name && step.detail === detail)) return undefined;
    return { ...operation, steps: [...operation.steps, { name, at: now, detail }] };
  });
}

export interface Observation {
  readonly log: LaunchLog;
  /** What EC2 shows, and what was launched too recently to be shown. */
  readonly instances: readonly ObservedInstance[];
}

/** Every instance of the cluster: what Describe shows, and launches that it does not show yet. */
export async function observe(state: StateStore, instances: Instances, record: ClusterRecord, now: string): Promise<Observation> {
  const [found, shown] = await Promise.all([state.read<LaunchLog>(stateKeys.launches(record.name)), instances.ofCluster(record.uid)]);
  const log = found?.value ?? emptyLaunchLog;
  return { log, instances: [...shown, ...unseenInstances(log, shown, now)] };
}
