/**
 * Every state that runs a node command: send it once, remember who waits, look once.
 *
 * From then on the SSM status event answers the step (complete-node-command.ts). If that event is lost, the heartbeat runs out, the state asks again, and
 * this handler finds the same command by its key and answers from its status. So the normal path polls nothing, and the worst path is one heartbeat late.
 */
import { z } from "zod";
import { assessQuorum } from "../core/cluster-health.js";
import { NodeLost, NotYet, Unsafe } from "../core/failures.js";
import { lateAfterSeconds, type NodeGroup } from "../core/groups.js";
import { nodeName, stateKeys } from "../core/layout.js";
import { deliveryTimeoutSeconds, type NodeCommandName, nodeCommands } from "../core/node-commands.js";
import { isAlive, type ObservedInstance } from "../core/nodes.js";
import type { ClusterRecord, ServerMember } from "../core/records.js";
import { chooseSnapshotServer } from "../core/snapshots.js";
import { type ArtifactReader, artifactReader } from "./aws/artifacts.js";
import { type Commands, commands } from "./aws/commands.js";
import { type Deliveries, deliveries } from "./aws/deliveries.js";
import { type Instances, instances } from "./aws/instances.js";
import { type SecretStore, secretStore } from "./aws/secrets.js";
import { type SnapshotStore, snapshotStore } from "./aws/snapshots.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { type Workflows, workflows } from "./aws/workflows.js";
import type { LostNodes } from "./clear-lost-nodes.js";
import { holdLease, observe, readRecord, stepInput } from "./cluster.js";
import { type Callback, type CommandFile, commandComment, commandKey, settle } from "./command-file.js";
import { commandParameters, kubeconfigUpload } from "./command-parameters.js";
import { drillGroup } from "./drill-server.js";
import { lambda, type Moment, type Task } from "./lambda.js";
import { snapshotServer } from "./saved-snapshot.js";

const input = stepInput.extend({
  pass: z.number().int().min(1),
  command: z.enum(Object.keys(nodeCommands) as [NodeCommandName, ...NodeCommandName[]]),
  /** Name of a group file, or `any-server` or `snapshot-server`, which are found now; `lost-nodes` (`lost-nodes-2`, ...) names those to be removed. */
  group: z.string().min(1),
  taskToken: z.string().min(1),
  mode: z.enum(["bootstrap", "join"]).optional(),
  joinAddress: z.string().optional(),
});
export type CommandInput = z.output<typeof input>;

export interface CommandClients {
  readonly state: StateStore;
  readonly instances: Instances;
  readonly commands: Commands;
  readonly workflows: Workflows;
  readonly deliveries: Deliveries;
  readonly secrets: SecretStore;
  readonly artifacts: ArtifactReader;
  readonly snapshots: SnapshotStore;
  /** Document name by node command. */
  readonly documents: Readonly<Record<NodeCommandName, string>>;
}

export const runNodeCommand: Task<CommandInput, CommandClients, { readonly commandId: string }> = async (step, clients, moment) => {
  await holdLease(clients.state, step);
  const key = commandKey(step, step.command, step.group, step.pass);
  const found = await clients.state.read<CommandFile>(key);
  const isAnew = found === undefined || found.value.stage === "reported";
  const file = isAnew ? await open(step, key, found?.value, clients, moment) : found.value;
  const sent = file.commandId === undefined ? await send(step, file, isAnew, clients, moment) : file;
  const callback: Callback = { schema: 1, taskToken: step.taskToken, key };
  await clients.state.write(stateKeys.callback(sent.commandId ?? ""), callback);
  // In case it ended before the callback was there to be found.
  await settle(sent, step.taskToken, clients, moment.now);
  return { commandId: sent.commandId ?? "" };
};

/** Decides whom the command goes to, and remembers that it is about to be sent. */
async function open(
  step: CommandInput,
  key: string,
  earlier: CommandFile | undefined,
  clients: CommandClients,
  moment: Moment,
): Promise<CommandFile> {
  const record = await readRecord(clients.state, step.cluster);
  const group = await groupOf(step, record, clients, moment);
  // Whoever is done may be busy with the next command already. What one node runs is asked to know more, not because it failed.
  const succeeded = nodeCommands[step.command].mode === "group" ? (earlier?.outcome?.succeeded ?? []) : [];
  const missing = group.instanceIds.filter((id) => !succeeded.includes(id));
  const first = await reachable(step, missing, clients, moment);
  // When nobody else is left, the command goes to them once more: it ends well, and says who was lost.
  const done = first.usable.length === 0 ? [] : succeeded;
  const { usable, lost } = first.usable.length === 0 && succeeded.length > 0 ? await reachable(step, group.instanceIds, clients, moment) : first;
  if (usable.length === 0) throw new NodeLost(`${step.command}: the machine of ${lost.join(", ")} is gone`, "Replacing it in another pass");
  const number = (earlier?.number ?? 0) + 1;
  const { execution, cluster, operation, step: state } = step;
  const draft: CommandFile = {
    schema: 1,
    key,
    command: step.command,
    step: { execution, cluster, operation, step: state },
    group: step.group,
    number,
    stage: "sending",
    document: clients.documents[step.command],
    comment: commandComment(key, number, execution),
    instanceIds: usable,
    ...(done.length === 0 ? {} : { done }),
    lost,
    at: moment.now,
  };
  const makesCluster = step.mode === "bootstrap" || (step.command === "restore-snapshot" && step.group !== drillGroup);
  const file = makesCluster ? { ...draft, upload: kubeconfigUpload(record, draft) } : draft;
  const written = await clients.state.update<CommandFile>(key, (current) => (current === undefined || current.number < number ? file : undefined));
  return written ?? file;
}

/** Sends it, unless an earlier run that got no further than this did: a command that carries the comment is that run's. */
async function send(step: CommandInput, file: CommandFile, isAnew: boolean, clients: CommandClients, moment: Moment): Promise<CommandFile> {
  const again = isAnew ? undefined : await clients.commands.findByComment(file.document, file.comment, file.at);
  const record = await readRecord(clients.state, step.cluster);
  const commandId =
    again ??
    (await clients.commands.send({
      document: file.document,
      parameters: await commandParameters(step, file, record, clients, moment.nowMs),
      instanceIds: file.instanceIds,
      comment: file.comment,
      deliveryTimeoutSeconds,
    }));
  const sent: CommandFile = { ...file, stage: "sent", commandId };
  await clients.state.write(file.key, sent);
  return sent;
}

async function groupOf(step: CommandInput, record: ClusterRecord, clients: CommandClients, moment: Moment): Promise<Pick<NodeGroup, "instanceIds">> {
  if (step.group === "any-server" || isLostGroup(step.group) || step.group === snapshotServer) {
    const { instances: observed } = await observe(clients.state, clients.instances, record, moment.now);
    const living = record.members.filter((member) =>
      observed.some((instance) => instance.instanceId === member.instanceId && instance.state === "running"),
    );
    const server =
      step.group === snapshotServer ? await serverForSnapshot(step, record, living, clients.state) : [...living].sort((a, b) => a.slot - b.slot)[0];
    if (server === undefined) {
      const quorum = assessQuorum({ record, observed, now: moment.now });
      const next = quorum?.command === undefined ? "Look at the instances, or delete the cluster" : `${quorum.safe[0]}: ${quorum.command}`;
      throw new Unsafe(`No server of ${step.cluster} that was a member is running`, next);
    }
    return { instanceIds: [server.instanceId] };
  }
  const group = await clients.state.read<NodeGroup>(stateKeys.group(step.cluster, step.operation, step.group));
  if (group === undefined)
    throw new Unsafe(`The group ${step.group} of ${step.operation} is gone from the state bucket`, "Start the operation again");
  return group.value;
}

/** Who saves the snapshot, and then uploads what it saved. Whoever was asked in an earlier pass has failed at it, or did not answer. */
async function serverForSnapshot(
  step: CommandInput,
  record: ClusterRecord,
  living: readonly ServerMember[],
  state: StateStore,
): Promise<ServerMember | undefined> {
  const askedIn = async (pass: number) => (await state.read<CommandFile>(commandKey(step, "save-snapshot", snapshotServer, pass)))?.value;
  if (step.command === "upload-snapshot") {
    const saved = await askedIn(step.pass);
    const server = living.find(({ instanceId }) => saved?.outcome?.succeeded.includes(instanceId));
    if (server !== undefined) return server;
    const gone = saved?.instanceIds.join(", ") ?? "nobody";
    throw new NodeLost(`upload-snapshot: the machine of ${gone}, which saved the snapshot, is gone`, "Taking another");
  }
  const earlier = await Promise.all(Array.from({ length: step.pass - 1 }, (_, index) => askedIn(index + 1)));
  return chooseSnapshotServer({ living, leader: record.newestProven?.leader, failed: earlier.flatMap((file) => file?.instanceIds ?? []) });
}

/** Who can take a command now: SSM refuses the whole command when one instance is not registered, so the gone are left out and the late waited for. */
async function reachable(
  step: CommandInput,
  ids: readonly string[],
  clients: CommandClients,
  moment: Moment,
): Promise<{ readonly usable: readonly string[]; readonly lost: readonly string[] }> {
  const [online, observed] = await Promise.all([clients.commands.online(ids), clients.instances.byId(ids)]);
  const byId = new Map<string, ObservedInstance>(observed.map((instance) => [instance.instanceId, instance]));
  const usable = ids.filter((id) => online.includes(id) && byId.get(id)?.state === "running");
  const missing = ids.filter((id) => !usable.includes(id));
  const lost = missing.filter((id) => {
    const instance = byId.get(id);
    const ageSeconds = instance === undefined ? 0 : (moment.nowMs - Date.parse(instance.launchedAt)) / 1000;
    return instance !== undefined && (!isAlive(instance.state) || ageSeconds > lateAfterSeconds);
  });
  if (lost.length < missing.length) {
    throw new NotYet(`${step.command}: ${missing.filter((id) => !lost.includes(id)).join(", ")} not online yet`, "Asking again shortly");
  }
  return { usable, lost };
}

/** Groups of nodes that a living server removes: at most 50 names go into one command. */
export function isLostGroup(group: string): boolean {
  return /^lost-nodes(-\d+)?$/.test(group);
}

/** Kubernetes names of the nodes that `remove-node` takes out. */
export async function namesOfLost(state: StateStore, step: CommandInput): Promise<readonly string[]> {
  const lost = await state.read<LostNodes>(stateKeys.group(step.cluster, step.operation, step.group));
  return (lost?.value.members ?? []).map((node) => nodeName(node.pool, node.instanceId));
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    instances: instances(),
    commands: commands(),
    workflows: workflows(),
    deliveries: deliveries(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
    secrets: secretStore(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
    artifacts: artifactReader(environment("ARTIFACT_BUCKET")),
    snapshots: snapshotStore(environment("SNAPSHOT_BUCKET")),
    documents: JSON.parse(environment("DOCUMENTS")) as Readonly<Record<NodeCommandName, string>>,
  }),
  runNodeCommand,
);
