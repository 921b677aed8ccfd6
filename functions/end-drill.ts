/**
 * State "End drill server" of drill-restore: terminates every throw-away server of the cluster, of this drill and of any that was cut short, and then their
 * security group. Always runs, however the drill went.
 */
import { NotYet } from "../core/failures.js";
import { endpointNames, tags } from "../core/layout.js";
import { isGone } from "../core/nodes.js";
import { type Instances, instances } from "./aws/instances.js";
import { type SecurityGroups, securityGroups } from "./aws/load-balancer.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, readRecord, type StepInput, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
  readonly groups: SecurityGroups;
}

export const endDrill: Task<StepInput, Clients, { readonly terminated: number }> = async (step, { state, instances, groups }, moment) => {
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const servers = await instances.drillsOf(record.uid);
  const remaining = servers.filter((server) => server.state !== "terminated");
  const running = remaining.filter((server) => !isGone(server.state));
  if (running.length > 0) await instances.terminate(running.map((server) => server.instanceId));
  if (remaining.length > 0) throw new NotYet(`${remaining.length} drill server(s) of ${step.cluster} are not terminated yet`, "Asking again shortly");
  const name = endpointNames(record.name, record.uid).drillSecurityGroup;
  for (const group of (await groups.find(tags.uid, record.uid)).filter((each) => each.name === name)) {
    if (!(await groups.remove(group.id))) throw new NotYet(`Security group ${name} is still used`, "Asking again shortly");
  }
  await milestone(state, step, "drill server gone", `${servers.length} machine(s) terminated`, moment.now);
  return { terminated: servers.length };
};

export const handler = lambda(
  stepInput,
  (environment) => ({ state: stateStore(environment("STATE_BUCKET")), instances: instances(), groups: securityGroups() }),
  endDrill,
);
