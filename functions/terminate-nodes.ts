/**
 * States "Terminate lost nodes" of create-cluster and "Terminate nodes" of delete-cluster: machines go, and only when EC2 says so are they gone.
 *
 * With `all`, servers first leave the endpoint and their deregistration is waited for (law 4); agents need not wait for that.
 */
import { z } from "zod";
import { NotYet } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { isGone, type ObservedInstance } from "../core/nodes.js";
import { type Instances, instances } from "./aws/instances.js";
import { type LoadBalancers, loadBalancers } from "./aws/load-balancer.js";
import { type StateStore, stateStore } from "./aws/state.js";
import type { LostNodes } from "./clear-lost-nodes.js";
import { holdLease, milestone, observe, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";
import { leaveEndpoint } from "./leave-endpoint.js";

const input = stepInput.extend({ which: z.enum(["lost", "all"]) });

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
  readonly balancers: LoadBalancers;
}

export const terminateNodes: Task<z.output<typeof input>, Clients, { readonly terminated: number }> = async (step, clients, moment) => {
  await holdLease(clients.state, step);
  const record = await readRecord(clients.state, step.cluster);
  const { instances: observed } = await observe(clients.state, clients.instances, record, moment.now);
  const going = step.which === "all" ? [...observed, ...(await clients.instances.drillsOf(record.uid))] : await lost(step, clients.state, observed);
  const remaining = going.filter((instance) => instance.state !== "terminated");
  const endpointLeft = step.which === "lost" || (await leaveEndpoint(record, serversOf(remaining), clients.balancers));
  const now = remaining.filter((instance) => !isGone(instance.state) && (endpointLeft || instance.role === "agent"));
  if (now.length > 0) await clients.instances.terminate(now.map((instance) => instance.instanceId));
  if (remaining.length > 0) {
    throw new NotYet(`${remaining.length} machine(s) of ${step.cluster} are not terminated yet`, "Asking again shortly");
  }
  await milestone(clients.state, step, "nodes", `${going.length} machine(s) are gone`, moment.now);
  return { terminated: going.length };
};

async function lost(
  step: { readonly cluster: string; readonly operation: string },
  state: StateStore,
  observed: readonly ObservedInstance[],
): Promise<readonly ObservedInstance[]> {
  const group = await state.read<LostNodes>(stateKeys.group(step.cluster, step.operation, "lost-nodes"));
  return observed.filter((instance) => group?.value.instances.includes(instance.instanceId));
}

function serversOf(nodes: readonly ObservedInstance[]): ReadonlySet<string> {
  return new Set(nodes.filter((node) => node.role === "server").map((node) => node.instanceId));
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    instances: instances(),
    balancers: loadBalancers(),
  }),
  terminateNodes,
);
