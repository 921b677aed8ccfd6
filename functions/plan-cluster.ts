/** State "Plan nodes" of create-cluster: which slots have no instance, and where theirs may be launched. Launches nothing. */
import { z } from "zod";
import { NotYet } from "../core/failures.js";
import { emptyLaunchLog, type LaunchLog, openBatches, planBatches, rememberBatches, shapesOf } from "../core/launch.js";
import { stateKeys } from "../core/layout.js";
import { type Instances, instances } from "./aws/instances.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, observe, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ pass: z.number().int().min(1) });

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
}

interface Plan {
  readonly servers: number;
  readonly agents: number;
  readonly toLaunch: number;
}

export const planCluster: Task<z.output<typeof input>, Clients, Plan> = async (step, { state, instances }, moment) => {
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const { log, instances: observed } = await observe(state, instances, record, moment.now);
  // A batch of this pass that is half launched is finished as it was planned; planning anew would meet its own instances.
  const planned = log.batches.some((batch) => batch.operation === step.operation && batch.pass === step.pass);
  const batches = planned
    ? []
    : planBatches({
        uid: record.uid,
        operation: step.operation,
        pass: step.pass,
        shapes: shapesOf(record.wanted),
        subnets: record.resolved.subnets,
        observed,
        refusals: log.refusals,
      });
  const written = await state.update<LaunchLog>(stateKeys.launches(step.cluster), (current) => rememberBatches(current ?? emptyLaunchLog, batches));
  if (written === undefined) throw new NotYet(`The launch log of ${step.cluster} was not written`, "Asking again shortly");
  const { servers, agentPools } = record.wanted.spec;
  const agents = agentPools.reduce((sum, pool) => sum + pool.count, 0);
  const toLaunch = openBatches(written).reduce((sum, batch) => sum + batch.count, 0);
  await milestone(state, step, "plan", `${toLaunch} of ${servers.count + agents} nodes are to be launched`, moment.now);
  return { servers: servers.count, agents, toLaunch };
};

export const handler = lambda(input, (environment) => ({ state: stateStore(environment("STATE_BUCKET")), instances: instances() }), planCluster);
