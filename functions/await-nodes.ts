/**
 * States "Await first server", "Await other servers", "Choose server to join" and "Gather agents" of create-cluster: which nodes can go on, in groups that
 * go through their commands together. Groups are files; the workflow carries their names.
 */
import { z } from "zod";
import { chooseFirstServer } from "../core/bootstrap.js";
import { NodeLost, NotYet } from "../core/failures.js";
import { decideGather, decideLost, type NodeGroup } from "../core/groups.js";
import { slotName, stateKeys } from "../core/layout.js";
import { isAlive, type ObservedInstance } from "../core/nodes.js";
import type { ClusterRecord } from "../core/records.js";
import { type Commands, commands } from "./aws/commands.js";
import { type Instances, instances } from "./aws/instances.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, observe, readRecord, type StepInput, stepInput } from "./cluster.js";
import { type CommandFile, commandKey, succeededSoFar } from "./command-file.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({
  want: z.enum(["first-server", "other-servers", "joining-server", "agents"]),
  pass: z.number().int().min(1),
  /** Of a joining server: how many there were before it in this pass, plus one. */
  turn: z.number().int().min(1).optional(),
});
type Input = z.output<typeof input>;

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
  readonly commands: Commands;
}

export const awaitNodes: Task<Input, Clients, { readonly groups: readonly string[] }> = async (step, clients, moment) => {
  await holdLease(clients.state, step);
  const record = await readRecord(clients.state, step.cluster);
  const { instances: observed } = await observe(clients.state, clients.instances, record, moment.now);
  const role = step.want === "agents" ? "agent" : "server";
  const alive = observed.filter((instance) => instance.role === role && isAlive(instance.state));
  switch (step.want) {
    case "first-server":
      return awaitFirstServer(step, clients, record, alive, moment);
    case "other-servers":
      return awaitOtherServers(step, clients, record, alive, moment);
    case "joining-server":
      return chooseJoiningServer(step, clients, alive);
    case "agents":
      return gatherAgents(step, clients, alive, moment);
  }
};

type Now = { readonly nowMs: number; readonly now: string };

async function awaitFirstServer(step: Input, clients: Clients, record: ClusterRecord, alive: readonly ObservedInstance[], moment: Now) {
  const online = new Set(await clients.commands.online(alive.map((server) => server.instanceId)));
  const first = chooseFirstServer(
    alive.filter((server) => online.has(server.instanceId)),
    record,
  );
  if (first === undefined) {
    failWhenLost(step, alive, online, moment.nowMs);
    throw new NotYet(`No server of ${step.cluster} is online yet`, "Asking again shortly");
  }
  await writeGroup(clients.state, step, { schema: 1, id: "first-server", role: "server", pool: first.pool, instanceIds: [first.instanceId] });
  await milestone(clients.state, step, "first server online", `${slotName(first.pool, first.slot)} is ${first.instanceId}`, moment.now);
  return { groups: ["first-server"] };
}

async function awaitOtherServers(step: Input, clients: Clients, record: ClusterRecord, alive: readonly ObservedInstance[], moment: Now) {
  const first = await clients.state.read<NodeGroup>(stateKeys.group(step.cluster, step.operation, "first-server"));
  const others = alive.filter((server) => server.instanceId !== first?.value.instanceIds[0]).sort((a, b) => a.slot - b.slot);
  const wanted = record.wanted.spec.servers.count - 1;
  if (wanted === 0) return { groups: [] };
  const online = new Set(await clients.commands.online(others.map((server) => server.instanceId)));
  if (others.length < wanted) throw new NodeLost(`${wanted - others.length} server(s) of ${step.cluster} are gone`, "Replacing them in another pass");
  if (online.size < others.length) {
    failWhenLost(step, others, online, moment.nowMs);
    throw new NotYet(`${others.length - online.size} server(s) of ${step.cluster} are not online yet`, "Asking again shortly");
  }
  const instanceIds = others.map((server) => server.instanceId);
  await writeGroup(clients.state, step, { schema: 1, id: otherServers, role: "server", pool: others[0]?.pool ?? "", instanceIds });
  return { groups: [otherServers] };
}

/** Whoever is prepared first joins first: nobody waits for a slower one. Each turn's choice is stored, so a step that runs twice chooses the same. */
async function chooseJoiningServer(step: Input, { state, commands }: Clients, alive: readonly ObservedInstance[]) {
  const { turn = 1 } = step;
  const turns = await Promise.all(
    Array.from({ length: turn }, (_, index) => state.read<NodeGroup>(stateKeys.group(step.cluster, step.operation, turnName(step, index + 1)))),
  );
  const chosen = turns[turn - 1]?.value.instanceIds[0];
  const before = new Set(turns.slice(0, -1).flatMap((each) => each?.value.instanceIds ?? []));
  const file = await state.read<CommandFile>(commandKey(step, "prepare-node", otherServers, step.pass));
  const prepared = new Set(file === undefined ? [] : await succeededSoFar(file.value, commands));
  const next = alive
    .filter(({ instanceId }) => (chosen === undefined ? prepared.has(instanceId) && !before.has(instanceId) : instanceId === chosen))
    .sort((a, b) => a.slot - b.slot)[0];
  if (next === undefined && chosen !== undefined) throw new NodeLost(`${chosen} of ${step.cluster} is gone`, "Replacing it in another pass");
  if (next === undefined) throw new NotYet(`No other server of ${step.cluster} is prepared yet`, "Asking again shortly");
  const group: NodeGroup = { schema: 1, id: slotName(next.pool, next.slot), role: "server", pool: next.pool, instanceIds: [next.instanceId] };
  await writeGroup(state, step, group);
  await writeGroup(state, step, { ...group, id: turnName(step, turn) });
  return { groups: [group.id] };
}

const otherServers = "other-servers";
const turnName = ({ pass }: Input, turn: number) => `joiner-${turn}-p${pass}`;

async function gatherAgents(step: Input, clients: Clients, alive: readonly ObservedInstance[], moment: Now) {
  const started = step.pass === 1 ? new Set<string>() : await startedAgents(clients.state, step);
  const wanted = alive.filter((agent) => !started.has(agent.instanceId));
  if (wanted.length === 0) return { groups: [] };
  const online = new Set(await clients.commands.online(wanted.map((agent) => agent.instanceId)));
  const decision = decideGather({ wanted, online, sinceLaunchSeconds: sinceLaunch(wanted, moment.nowMs), pass: step.pass });
  if (decision.kind === "wait") throw new NotYet(`${step.cluster}: ${decision.reason}`, "Asking again shortly");
  const { groups } = decision;
  await Promise.all(groups.map((group) => writeGroup(clients.state, step, group)));
  await milestone(clients.state, step, "agents online", `${online.size} of ${wanted.length} agents go on in ${groups.length} group(s)`, moment.now);
  return { groups: groups.map((group) => group.id) };
}

/** Agents that an earlier pass of this operation has brought to Ready. */
async function startedAgents(state: StateStore, step: StepInput): Promise<Set<string>> {
  const keys = await state.list(stateKeys.command(step.cluster, step.operation, "start-agent-").replace(/\.json$/, ""));
  const files = await Promise.all(keys.map((key) => state.read<CommandFile>(key)));
  return new Set(files.flatMap((file) => file?.value.outcome?.succeeded ?? []));
}

/** A node that did not come online in ten minutes will not come: NodeLost lets another pass replace it. */
function failWhenLost(step: Input, wanted: readonly ObservedInstance[], online: ReadonlySet<string>, nowMs: number): void {
  if (wanted.length === 0) throw new NodeLost(`No server of ${step.cluster} is alive`, "Launching anew in another pass");
  const group = { schema: 1, id: "", role: "server", pool: "", instanceIds: wanted.map((node) => node.instanceId) } as const;
  const { late } = decideLost({ group, observed: wanted, online, sinceLaunchSeconds: sinceLaunch(wanted, nowMs) });
  if (late.length > 0)
    throw new NodeLost(`${late.join(", ")} of ${step.cluster} did not come online in ten minutes`, "Replacing them in another pass");
}

/** Seconds since the latest of these was launched. */
function sinceLaunch(nodes: readonly ObservedInstance[], nowMs: number): number {
  return Math.max(0, (nowMs - Math.max(...nodes.map((node) => Date.parse(node.launchedAt)))) / 1000);
}

async function writeGroup(state: StateStore, step: StepInput, group: NodeGroup): Promise<void> {
  await state.write(stateKeys.group(step.cluster, step.operation, group.id), group);
}

export const handler = lambda(
  input,
  (environment) => ({ state: stateStore(environment("STATE_BUCKET")), instances: instances(), commands: commands() }),
  awaitNodes,
);
