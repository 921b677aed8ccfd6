/**
 * State "Create endpoint" of create-cluster: security groups, load balancer, target groups, listeners.
 *
 * Everything is found by name before it is made, so a second run completes what the first began. It waits for nothing: the load balancer comes
 * up while nodes boot.
 */
import type { z } from "zod";
import { endpointNames, ports, tags } from "../core/layout.js";
import type { EndpointRecord } from "../core/records.js";
import { endpointRules, nodeRules } from "../core/security-rules.js";
import { type LoadBalancers, loadBalancers, type SecurityGroups, securityGroups } from "./aws/load-balancer.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, readRecord, stepInput, updateRecord } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

interface Clients {
  readonly state: StateStore;
  readonly groups: SecurityGroups;
  readonly balancers: LoadBalancers;
}

export const createEndpoint: Task<z.output<typeof stepInput>, Clients, { readonly createdAt: string }> = async (
  step,
  { state, groups, balancers },
  moment,
) => {
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  if (record.endpoint !== undefined) return { createdAt: record.endpoint.createdAt };

  const { network } = record.wanted.spec;
  const names = endpointNames(record.name, record.uid);
  const marks = [
    { Key: "Name", Value: `${record.name}-endpoint` },
    { Key: tags.cluster, Value: record.name },
    { Key: tags.uid, Value: record.uid },
    { Key: tags.operation, Value: step.operation },
  ];
  const ensure = (name: string, description: string) => groups.ensure({ name, description, vpcId: network.vpcId, marks });
  const [endpointGroup, nodeGroup] = await Promise.all([
    ensure(names.loadBalancerSecurityGroup, `Drover: endpoint of RKE2 cluster ${record.name}`),
    ensure(names.nodeSecurityGroup, `Drover: nodes of RKE2 cluster ${record.name}`),
  ]);
  const targetGroup = (name: string, port: number, healthPath: string, healthCodes: string) =>
    balancers.createTargetGroup({ name, port, healthPath, healthCodes, vpcId: network.vpcId, marks });
  const [balancer, supervisorTargetGroupArn, apiTargetGroupArn] = await Promise.all([
    balancers.createLoadBalancer({
      name: names.loadBalancer,
      subnetIds: network.subnetIds,
      scheme: network.endpoint.scheme,
      securityGroupId: endpointGroup,
      marks,
    }),
    // The supervisor answers /ping without credentials; the API server answers 401 to everybody it does not know, which shows that it serves.
    targetGroup(names.supervisorTargetGroup, ports.supervisor, "/ping", "200"),
    targetGroup(names.apiTargetGroup, ports.api, "/readyz", "200-401"),
  ]);
  await Promise.all([
    balancers.createListener(balancer.arn, supervisorTargetGroupArn, ports.supervisor, marks),
    balancers.createListener(balancer.arn, apiTargetGroupArn, ports.api, marks),
    groups.allow(nodeGroup, nodeRules(record.wanted, nodeGroup, endpointGroup)),
    groups.allow(endpointGroup, endpointRules(record.wanted, nodeGroup)),
  ]);
  const endpoint: EndpointRecord = {
    loadBalancerArn: balancer.arn,
    dnsName: balancer.dnsName,
    supervisorTargetGroupArn,
    apiTargetGroupArn,
    endpointSecurityGroupId: endpointGroup,
    nodeSecurityGroupId: nodeGroup,
    createdAt: moment.now,
  };
  await updateRecord(state, step.cluster, (current) => ({ ...current, endpoint }));
  await milestone(state, step, "endpoint", `${endpoint.dnsName} is being made`, moment.now);
  return { createdAt: endpoint.createdAt };
};

export const handler = lambda(
  stepInput,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    groups: securityGroups(),
    balancers: loadBalancers(),
  }),
  createEndpoint,
);
