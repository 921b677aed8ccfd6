/** State "Await endpoint" of create-cluster: until the load balancer serves. Reads target health, never a connection. */
import type { z } from "zod";
import { decideEndpoint, type TargetState } from "../core/cluster-health.js";
import { NotYet } from "../core/failures.js";
import { type LoadBalancers, loadBalancers } from "./aws/load-balancer.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { endpointOf, milestone, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

interface Clients {
  readonly state: StateStore;
  readonly balancers: LoadBalancers;
}

export const awaitEndpoint: Task<z.output<typeof stepInput>, Clients, Record<string, never>> = async (step, { state, balancers }, moment) => {
  const record = await readRecord(state, step.cluster);
  const { supervisorTargetGroupArn, apiTargetGroupArn, dnsName } = endpointOf(record);
  const [supervisor, api] = await Promise.all([balancers.targets(supervisorTargetGroupArn), balancers.targets(apiTargetGroupArn)]);
  const decision = decideEndpoint({
    wantedServers: record.wanted.spec.servers.count,
    targets: { supervisor: supervisor as readonly TargetState[], api: api as readonly TargetState[] },
  });
  if (decision.kind === "notYet") throw new NotYet(`Endpoint of ${step.cluster}: ${decision.reason}`, "Asking again shortly");
  await milestone(state, step, "endpoint healthy", `${dnsName} answers`, moment.now);
  return {};
};

export const handler = lambda(
  stepInput,
  (environment) => ({ state: stateStore(environment("STATE_BUCKET")), balancers: loadBalancers() }),
  awaitEndpoint,
);
