/** States "Decide bootstrap" of create-cluster and "Decide who restores" of restore-cluster: law 1. The decision is in the record before the command is sent. */
import { z } from "zod";
import { decideBootstrap } from "../core/bootstrap.js";
import { NodeLost, NotYet, Unsafe } from "../core/failures.js";
import type { NodeGroup } from "../core/groups.js";
import { stateKeys } from "../core/layout.js";
import type { ClusterRecord } from "../core/records.js";
import { type Instances, instances } from "./aws/instances.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, observe, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ group: z.string().min(1), restores: z.boolean().default(false) });

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
  /** Reads the snapshot bucket. */
  readonly snapshots: StateStore;
}

interface Start {
  readonly mode: "bootstrap" | "join" | "restore";
  readonly joinAddress: string;
}

export const decideBootstrapTask: Task<z.output<typeof input>, Clients, Start> = async (step, { state, instances, snapshots }, moment) => {
  await holdLease(state, step);
  const key = stateKeys.record(step.cluster);
  const [found, group] = await Promise.all([
    state.read<ClusterRecord>(key),
    state.read<NodeGroup>(stateKeys.group(step.cluster, step.operation, step.group)),
  ]);
  const candidate = group?.value.instanceIds[0];
  if (found === undefined || candidate === undefined) {
    throw new Unsafe(`The record of ${step.cluster} or the group ${step.group} is gone from the state bucket`, "Start the operation again");
  }
  const record = found.value;
  const { instances: observed } = await observe(state, instances, record, moment.now);
  const taken = await snapshots.list(`${record.uid}/`, 1);
  const decision = decideBootstrap({
    record,
    servers: observed.filter((instance) => instance.role === "server"),
    candidate,
    operation: step.operation,
    now: moment.now,
    snapshots: taken.length,
    restores: step.restores,
  });
  const write = async (change: Partial<ClusterRecord>) => {
    const { bootstrap: _, ...rest } = record;
    if (!(await state.replace(key, { ...rest, ...change }, found.etag))) {
      throw new NotYet(`The record of ${step.cluster} changed while the bootstrap was decided`, "Deciding again on what it says now");
    }
  };
  switch (decision.kind) {
    case "bootstrap":
      await write({ bootstrap: decision.decision, abandonedBootstraps: decision.abandoned });
      await milestone(state, step, "bootstrap decided", `${candidate} makes the cluster, and nobody else ever may`, moment.now);
      return { mode: "bootstrap", joinAddress: "" };
    case "restore":
      await write({ bootstrap: decision.decision, abandonedBootstraps: decision.abandoned, members: [] });
      await milestone(state, step, "restore decided", `${candidate} restores the cluster, and nobody else may`, moment.now);
      return { mode: "restore", joinAddress: "" };
    case "resume":
      return { mode: step.restores ? "restore" : "bootstrap", joinAddress: "" };
    case "join":
      if (step.restores) {
        throw new NodeLost(
          `${step.cluster} was restored on another server than ${candidate}, and that one is not online`,
          "Choosing again in another pass",
        );
      }
      return { mode: "join", joinAddress: decision.address };
    case "wait":
      throw new NotYet(`${step.cluster}: ${decision.reason}`, "Asking again shortly");
    case "replace":
      await write({ abandonedBootstraps: decision.abandoned, members: [] });
      throw new NodeLost(`${step.cluster}: ${decision.reason}`, "Replacing every node that was started against it, in another pass");
    case "beginAnew":
      throw new NodeLost(`${step.cluster}: ${decision.reason}`, "Beginning anew on another server, in another pass");
    case "stop":
      throw new Unsafe(`${step.cluster}: ${decision.reason}`, `Look at it: drover status ${step.cluster}`);
  }
};

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    instances: instances(),
    snapshots: stateStore(environment("SNAPSHOT_BUCKET")),
  }),
  decideBootstrapTask,
);
