/** State "Delete endpoint" of delete-cluster: load balancer, target groups, then security groups. Found by name, so half-made ones go as well. */
import type { z } from "zod";
import { NotYet } from "../core/failures.js";
import { endpointNames, tags } from "../core/layout.js";
import { type LoadBalancers, loadBalancers, type SecurityGroups, securityGroups } from "./aws/load-balancer.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

interface Clients {
  readonly state: StateStore;
  readonly groups: SecurityGroups;
  readonly balancers: LoadBalancers;
}

export const deleteEndpoint: Task<z.output<typeof stepInput>, Clients, Record<string, never>> = async (
  step,
  { state, groups, balancers },
  moment,
) => {
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const names = endpointNames(record.name, record.uid);
  const found = await balancers.find({ loadBalancer: names.loadBalancer, targetGroups: [names.supervisorTargetGroup, names.apiTargetGroup] });
  for (const balancer of found.loadBalancers) await balancers.deleteLoadBalancer(balancer.arn);
  for (const group of found.targetGroups) {
    try {
      await balancers.deleteTargetGroup(group.arn);
    } catch (error) {
      if (!(error instanceof Error && error.name.startsWith("ResourceInUse"))) throw error;
      throw new NotYet(`${group.name} is still used by its load balancer`, "Asking again shortly", { cause: error });
    }
  }
  const securityGroups = await groups.find(tags.uid, record.uid);
  for (const group of securityGroups) await groups.clear(group.id);
  for (const group of securityGroups) {
    if (!(await groups.remove(group.id))) {
      throw new NotYet(
        `Security group ${group.name} is still used by network interfaces`,
        "They vanish minutes after the load balancer; asking again",
      );
    }
  }
  await milestone(state, step, "endpoint", `${names.loadBalancer} and its groups are gone`, moment.now);
  return {};
};

export const handler = lambda(
  stepInput,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    groups: securityGroups(),
    balancers: loadBalancers(),
  }),
  deleteEndpoint,
);
