/**
 * State "Launch drill server" of drill-restore: a throw-away server, closed off, which is no node of the cluster. Until SSM reports it online.
 *
 * Nobody may reach it, and it may reach Systems Manager and S3 alone: what it restores is a copy of the cluster with all its credentials, whose
 * controllers must find nothing of the real one to act on.
 */
import { NoCapacity, NodeLost, NotYet, Unsafe } from "../core/failures.js";
import { lateAfterSeconds } from "../core/groups.js";
import { isRefusal } from "../core/launch.js";
import { drillRole, endpointNames, shortHash, stateKeys, tags } from "../core/layout.js";
import { isAlive } from "../core/nodes.js";
import type { ClusterRecord } from "../core/records.js";
import { drillRules } from "../core/security-rules.js";
import { type Commands, commands } from "./aws/commands.js";
import { type Instances, instances } from "./aws/instances.js";
import { type SecurityGroups, securityGroups } from "./aws/load-balancer.js";
import { secretStore } from "./aws/secrets.js";
import { snapshotStore } from "./aws/snapshots.js";
import { stateStore } from "./aws/state.js";
import { holdLease, milestone, readOperation, readRecord, type StepInput, stepInput } from "./cluster.js";
import { type DrillGroup, drillGroup } from "./drill-server.js";
import { lambda, type Task } from "./lambda.js";
import { checkedSource, type FactClients, useSnapshot } from "./restore-facts.js";

interface Clients extends FactClients {
  readonly instances: Instances;
  readonly commands: Commands;
  readonly groups: SecurityGroups;
  readonly instanceProfileArn: string;
}

export const launchDrill: Task<StepInput, Clients, { readonly instanceId: string }> = async (step, clients, moment) => {
  const { state } = clients;
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const known = (await state.read<DrillGroup>(stateKeys.group(step.cluster, step.operation, drillGroup)))?.value;
  const [instanceId] = known?.instanceIds ?? (await begin(step, record, clients, moment.now)).instanceIds;
  if (instanceId === undefined) throw new Unsafe(`The server of drill ${step.operation} is not known`, "Start the drill again");

  const own = (await clients.instances.drillsOf(record.uid)).find((server) => server.instanceId === instanceId);
  const isOnline = (await clients.commands.online([instanceId])).includes(instanceId);
  if (isOnline && own?.state === "running") {
    await milestone(state, step, "drill server online", `${instanceId}, ${own.instanceType} in ${own.zone}`, moment.now);
    return { instanceId };
  }
  if (own !== undefined && !isAlive(own.state)) throw new NodeLost(`${instanceId}, the drill's server, is ${own.state}`, "Start the drill again");
  if (own !== undefined && moment.nowMs - Date.parse(own.launchedAt) > lateAfterSeconds * 1000) {
    throw new NodeLost(`${instanceId}, the drill's server, did not come online in ten minutes`, "Start the drill again");
  }
  throw new NotYet(`${instanceId}, the drill's server, is not online yet`, "Asking again shortly");
};

/** What it restores is written down before the machine is known to run: a step that runs twice meets its own launch by the token. */
async function begin(step: StepInput, record: ClusterRecord, clients: Clients, now: string): Promise<DrillGroup> {
  const { request } = await readOperation(clients.state, step);
  if (request === undefined) throw new Unsafe(`${step.operation} does not say what is to be restored`, "Start the drill again");
  const source = await checkedSource(request, record, clients);
  await useSnapshot(step, source, clients.state, now);
  const [running] = (await clients.instances.drillsOf(record.uid)).filter((server) => server.operation === step.operation && isAlive(server.state));
  const instanceId = running?.instanceId ?? (await launch(step, record, clients));
  const group: DrillGroup = { schema: 1, id: drillGroup, role: "server", pool: drillRole, instanceIds: [instanceId], source };
  await clients.state.write(stateKeys.group(step.cluster, step.operation, drillGroup), group);
  await milestone(clients.state, step, "drill server launched", instanceId, now);
  return group;
}

/** The first of the servers' types and subnets that has room. */
async function launch(step: StepInput, record: ClusterRecord, clients: Clients): Promise<string> {
  const securityGroupId = await closedOff(step, record, clients.groups);
  const { servers } = record.wanted.spec;
  const refused: string[] = [];
  for (const subnet of record.resolved.subnets) {
    for (const instanceType of servers.instanceTypes) {
      try {
        const [id] = await clients.instances.launch({
          cluster: record.name,
          uid: record.uid,
          operation: step.operation,
          role: drillRole,
          pool: drillRole,
          firstSlot: 1,
          pass: 1,
          count: 1,
          clientToken: `drover-drill-${shortHash(`${record.uid} ${step.operation}`)}-${shortHash(`${subnet.id} ${instanceType}`)}`,
          instanceType,
          subnetId: subnet.id,
          imageId: record.resolved.imageId,
          rootDeviceName: record.resolved.rootDeviceName,
          rootVolumeGib: servers.rootVolumeGib,
          market: "on-demand",
          securityGroupId,
          instanceProfileArn: clients.instanceProfileArn,
        });
        if (id !== undefined) return id;
      } catch (error) {
        const code = error instanceof Error ? error.name : "";
        if (!isRefusal(code)) throw error;
        refused.push(`${instanceType} in ${subnet.zone} (${code})`);
      }
    }
  }
  throw new NoCapacity(`The drill of ${step.cluster} found no room: ${refused.slice(-6).join(", ")}`, "Start the drill again later");
}

async function closedOff(step: StepInput, record: ClusterRecord, groups: SecurityGroups): Promise<string> {
  const id = await groups.ensure({
    name: endpointNames(record.name, record.uid).drillSecurityGroup,
    description: `Drover: throw-away servers that try out snapshots of RKE2 cluster ${record.name}`,
    vpcId: record.wanted.spec.network.vpcId,
    marks: [
      { Key: "Name", Value: `${record.name}-drill` },
      { Key: tags.cluster, Value: record.name },
      { Key: tags.uid, Value: record.uid },
      { Key: tags.operation, Value: step.operation },
    ],
  });
  await groups.closeOff(id, drillRules());
  return id;
}

export const handler = lambda(
  stepInput,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    secrets: secretStore(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
    snapshots: snapshotStore(environment("SNAPSHOT_BUCKET")),
    instances: instances(),
    commands: commands(),
    groups: securityGroups(),
    instanceProfileArn: environment("NODE_INSTANCE_PROFILE_ARN"),
  }),
  launchDrill,
);
