/**
 * State "Begin restore" of restore-cluster: looks at the snapshot once more, writes down what the cluster is being made of, takes its servers out of the
 * endpoint, and says which of them have to stop.
 *
 * From here on the record says that a restore is under way, until one of the same snapshot has come to its end: nothing else may make the cluster.
 */
import { z } from "zod";
import { NotYet, Unsafe } from "../core/failures.js";
import type { NodeGroup } from "../core/groups.js";
import { serverPool, stateKeys } from "../core/layout.js";
import type { ClusterRecord, OperationRequest, RestoreRecord, RestoreSource } from "../core/records.js";
import { decideRestore, type RestoreAnswer } from "../core/restore.js";
import { type Commands, commands } from "./aws/commands.js";
import { type Instances, instances } from "./aws/instances.js";
import { type LoadBalancers, loadBalancers } from "./aws/load-balancer.js";
import { type SecretStore, secretStore } from "./aws/secrets.js";
import { snapshotStore } from "./aws/snapshots.js";
import { stateStore } from "./aws/state.js";
import type { LostNodes } from "./clear-lost-nodes.js";
import { holdLease, milestone, observe, readOperation, readRecord, stepInput, updateRecord } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";
import { leaveEndpoint } from "./leave-endpoint.js";
import { checkedSource, type FactClients, useSnapshot } from "./restore-facts.js";

const input = stepInput.extend({ pass: z.number().int().min(1) });

interface Clients extends FactClients {
  readonly instances: Instances;
  readonly commands: Commands;
  readonly balancers: LoadBalancers;
}

interface Begun {
  readonly stop: number;
  readonly terminate: number;
}

export const beginRestore: Task<z.output<typeof input>, Clients, Begun> = async (step, clients, moment) => {
  const { state } = clients;
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const { request } = await readOperation(state, step);
  if (request === undefined)
    throw new Unsafe(`${step.operation} does not say what ${step.cluster} is to be restored from`, "Ask for the restore again");
  const source = await sourceFor(request, record, clients);
  if (source.kind === "snapshot") await useSnapshot(step, source, state, moment.now);

  const { instances: observed } = await observe(state, clients.instances, record, moment.now);
  const online = new Set(await clients.commands.online(observed.map((instance) => instance.instanceId)));
  const decision = decideRestore({ record, source, observed, online, operation: step.operation, pass: step.pass, now: moment.now });
  if (decision.kind === "wait") throw new NotYet(decision.reason, "Asking again shortly");
  if (decision.kind === "stop") throw new Unsafe(decision.reason, decision.next);

  const secrets = await secretsFor(source, record, clients);
  await updateRecord(state, step.cluster, (current) => withRestore(current, decision, secrets));
  if (!(await leaveEndpoint(record, new Set(decision.leave), clients.balancers))) {
    throw new NotYet(`Servers of ${step.cluster} are still leaving the endpoint`, "Asking again shortly");
  }
  const old: NodeGroup = {
    schema: 1,
    id: "old-servers",
    role: "server",
    pool: serverPool,
    instanceIds: decision.stop.map((server) => server.instanceId),
  };
  const lost: LostNodes = { schema: 1, id: "lost-nodes", members: [], instances: decision.terminate };
  await state.write(stateKeys.group(step.cluster, step.operation, old.id), old);
  await state.write(stateKeys.group(step.cluster, step.operation, lost.id), lost);
  const goesOn = decision.goesOn && decision.restore.operation !== step.operation ? `, going on with ${decision.restore.id}` : "";
  const detail = `${describe(decision.restore)} ${decision.way}${goesOn}: ${old.instanceIds.length} to stop, ${decision.terminate.length} to terminate`;
  await milestone(state, step, "restore begun", detail, moment.now);
  return { stop: old.instanceIds.length, terminate: decision.terminate.length };
};

/** Members of the time before stay until another decision is in the record: they say who could be a survivor. */
function withRestore(
  record: ClusterRecord,
  { restore, members }: Extract<RestoreAnswer, { kind: "go" }>,
  secrets: ClusterRecord["secrets"],
): ClusterRecord {
  const isDone = record.bootstrap?.restore === restore.id && record.bootstrap.done !== undefined;
  return { ...record, phase: "restoring", restore, secrets, ...(isDone ? { members } : {}) };
}

function describe({ source }: RestoreRecord): string {
  return source.kind === "survivor" ? "a survivor's data" : `snapshot ${source.snapshot}, revision ${source.revision}`;
}

async function sourceFor(request: OperationRequest, record: ClusterRecord, clients: Clients): Promise<RestoreSource> {
  return request.snapshot === "survivor" ? { kind: "survivor" } : checkedSource(request, record, clients);
}

/**
 * The tokens that the restored cluster will have. The server token is the one in force when the snapshot was taken: where another is current, it becomes
 * a new generation, for none is ever overwritten and the newest is the one in use.
 */
async function secretsFor(source: RestoreSource, record: ClusterRecord, { secrets }: Clients): Promise<ClusterRecord["secrets"]> {
  if (source.kind === "survivor") return record.secrets;
  const current = record.secrets["server-token"];
  const token = await secrets.read(source.uid, "server-token", source.tokenGeneration);
  const serverToken = await asGeneration(record.uid, "server-token", current, token, secrets);
  if (source.uid === record.uid) return { ...record.secrets, "server-token": serverToken };
  // Another cluster's snapshot brings that cluster's agent token with it.
  const newest = record.secrets["agent-token"] === 0 ? await newestGeneration(source.uid, secrets) : undefined;
  const agentToken =
    newest === undefined
      ? record.secrets["agent-token"]
      : await asGeneration(record.uid, "agent-token", 0, await secrets.read(source.uid, "agent-token", newest), secrets);
  return { ...record.secrets, "server-token": serverToken, "agent-token": agentToken };
}

/** The generation that holds this value, made where it is not the current one. A step that runs twice finds the one it made. */
async function asGeneration(
  uid: string,
  kind: "server-token" | "agent-token",
  current: number,
  value: string,
  secrets: SecretStore,
): Promise<number> {
  const kept = await secrets.generations(uid, kind);
  for (let generation = current; ; generation++) {
    if ((generation > current || kept.includes(generation)) && (await secrets.read(uid, kind, generation)) === value) return generation;
    if (await secrets.create(uid, kind, generation + 1, value)) return generation + 1;
  }
}

async function newestGeneration(uid: string, secrets: SecretStore): Promise<number> {
  const generations = await secrets.generations(uid, "agent-token");
  const newest = generations.at(-1);
  if (newest === undefined)
    throw new Unsafe(`The agent token of cluster ${uid} is gone from the secrets`, "Without it no agent could join; restore in place");
  return newest;
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    secrets: secretStore(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
    snapshots: snapshotStore(environment("SNAPSHOT_BUCKET")),
    instances: instances(),
    commands: commands(),
    balancers: loadBalancers(),
  }),
  beginRestore,
);
