/** State "Sweep leftovers" of delete-cluster: what still carries the cluster's tags. Deletes what it may, and says what stays and what that costs. */
import type { z } from "zod";
import { priceLeft } from "../core/costs.js";
import { NotYet } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import type { OperationRecord } from "../core/records.js";
import { type Inventory, inventory } from "./aws/inventory.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

interface Clients {
  readonly state: StateStore;
  readonly inventory: Inventory;
}

/** What goes away by itself is waited for this long, seconds; what is there after that is reported, not waited for. */
const patienceSeconds = 240;

export const sweepLeftovers: Task<z.output<typeof stepInput>, Clients, { readonly left: number }> = async (step, { state, inventory }, moment) => {
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const operation = await state.read<OperationRecord>(stateKeys.operation(step.cluster, step.operation));
  const found = await inventory.ofCluster(record.name, record.uid);
  await inventory.deleteVolumes(found.filter((resource) => resource.kind === "volume").map((resource) => resource.id));
  const endpointGone = operation?.value.steps.find((each) => each.name === "endpoint")?.at ?? moment.now;
  const waited = (moment.nowMs - Date.parse(endpointGone)) / 1000;
  if (found.length > 0 && waited < patienceSeconds) {
    throw new NotYet(`${found.length} resource(s) of ${step.cluster} are still there`, "Asking again shortly");
  }
  const { dollarsPerMonth, resources } = priceLeft(found);
  await state.update<OperationRecord>(stateKeys.operation(step.cluster, step.operation), (current) =>
    current === undefined ? undefined : { ...current, outcome: { ...current.outcome, left: resources, dollarsPerMonth } },
  );
  const detail = found.length === 0 ? "nothing is left" : `${found.length} resource(s) are left, about $${dollarsPerMonth.toFixed(2)} a month`;
  await milestone(state, step, "sweep", detail, moment.now);
  return { left: found.length };
};

export const handler = lambda(
  stepInput,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    inventory: inventory(),
  }),
  sweepLeftovers,
);
