/**
 * Admission: the one way in for every request, whichever door it came through. Validates, answers a repeated request with the first operation, refuses
 * a busy cluster by naming the operation that holds it, and starts the workflow. A refused request changes nothing.
 */
import { createHash, randomUUID } from "node:crypto";
import type { Accepted } from "../core/api.js";
import { archivesOfCluster } from "../core/archives.js";
import type { ClusterFile } from "../core/cluster-file.js";
import { priceLeft } from "../core/costs.js";
import { Busy, type Fault, Invalid, Unsafe } from "../core/failures.js";
import { lowerBound } from "../core/latency-bound.js";
import { stateKeys } from "../core/layout.js";
import type { ClusterRecord, Lease, OperationKind, OperationRecord } from "../core/records.js";
import { checkAgainstAccount, checkAgainstStore, hasErrors, isError, validateCluster } from "../core/validate-cluster.js";
import { newestOfChannel } from "../core/versions.js";
import { mayChangeTo } from "../core/wanted-change.js";
import { type ArtifactReader, artifactReader } from "./aws/artifacts.js";
import { type Commands, commands } from "./aws/commands.js";
import { type Announcer, announcer } from "./aws/events.js";
import { type Instances, instances } from "./aws/instances.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { executionArn, type Workflows, workflows } from "./aws/workflows.js";
import { NotFound } from "./http.js";
import type { Environment, Moment } from "./lambda.js";

export interface AdmissionClients {
  readonly state: StateStore;
  readonly artifacts: ArtifactReader;
  readonly instances: Instances;
  readonly commands: Commands;
  readonly workflows: Workflows;
  readonly announcer: Announcer;
  /** ARN of the state machine that does operations of a kind. */
  readonly machine: (kind: OperationKind) => string;
}

const machineVariables: Readonly<Record<OperationKind, string>> = {
  create: "CREATE_STATE_MACHINE_ARN",
  delete: "DELETE_STATE_MACHINE_ARN",
  backup: "BACKUP_STATE_MACHINE_ARN",
  restore: "RESTORE_STATE_MACHINE_ARN",
  drill: "DRILL_STATE_MACHINE_ARN",
};

export function admissionClients(environment: Environment): AdmissionClients {
  return {
    state: stateStore(environment("STATE_BUCKET")),
    artifacts: artifactReader(environment("ARTIFACT_BUCKET")),
    instances: instances(),
    commands: commands(),
    workflows: workflows(),
    announcer: announcer(environment("EVENT_BUS")),
    machine: (kind) => environment(machineVariables[kind]),
  };
}

/** Who asks, under which id. */
export interface Asking {
  readonly requestId: string;
  readonly requestedBy: string;
  readonly preview: boolean;
}

/** @throws Invalid with every fault, Busy with the operation that holds the cluster */
export async function admitCreate(asking: Asking & { readonly file: string }, clients: AdmissionClients, moment: Moment): Promise<Accepted> {
  const { file, faults } = validateCluster(asking.file);
  if (file === undefined || hasErrors(faults)) throw refused(faults);
  const name = file.metadata.name;
  const id = operationId("create", name, asking.requestId);
  const repeated = await repeatedRequest(name, id, clients);
  if (repeated !== undefined) return repeated;

  const resolution = await resolve(file, clients);
  const found = [...faults, ...resolution.faults];
  if (resolution.resolved === undefined || hasErrors(found)) throw refused(found);
  const existing = await clients.state.read<ClusterRecord>(stateKeys.record(name));
  const meanwhile = await admittedMeanwhile(existing?.value, id, clients);
  if (meanwhile !== undefined) return meanwhile;
  if (existing !== undefined) await refuseUnlessUnfinished(existing.value, file, clients, moment);
  await refuseBusy(name, clients);
  const plan = createPlan(file, resolution.resolved.version, existing?.value);
  const warnings = found.filter((fault) => !isError(fault)).map(({ path, message }) => ({ path, message }));
  if (asking.preview) return { operation: id, cluster: name, status: "preview", plan, warnings };

  const uid = existing?.value.uid ?? randomUUID();
  const record: ClusterRecord = {
    ...(existing?.value ?? blankRecord(name, uid, moment.now)),
    generation: (existing?.value.generation ?? 0) + 1,
    phase: "creating",
    wanted: file,
    // A version or image once resolved stays, so that a moved channel cannot mix releases within a cluster.
    resolved: existing?.value.bootstrap === undefined ? resolution.resolved : { ...existing.value.resolved, subnets: resolution.resolved.subnets },
    operation: id,
  };
  await open(record, existing?.etag, { id, kind: "create", uid }, asking, clients, moment);
  return { operation: id, cluster: name, status: "accepted", plan, warnings };
}

/** @throws NotFound, Invalid when the name was not typed, Unsafe when the cluster is protected, Busy with the operation that holds it */
export async function admitDelete(
  asking: Asking & { readonly cluster: string; readonly confirm: string; readonly overrideProtection: boolean; readonly skipSnapshot: boolean },
  clients: AdmissionClients,
  moment: Moment,
): Promise<Accepted> {
  const name = asking.cluster;
  const id = operationId("delete", name, asking.requestId);
  const repeated = await repeatedRequest(name, id, clients);
  if (repeated !== undefined) return repeated;
  const existing = await clients.state.read<ClusterRecord>(stateKeys.record(name));
  if (existing === undefined) throw new NotFound(`There is no cluster ${name}`, "See which there are: drover list");
  if (!asking.preview && asking.confirm !== name) {
    throw new Invalid(`To delete ${name} its name must be given again; found "${asking.confirm.slice(0, 40)}"`, [], `Type ${name} to confirm`);
  }
  if (existing.value.wanted.spec.protection.delete && !asking.overrideProtection && existing.value.readyAt !== undefined) {
    throw new Unsafe(
      `${name} is protected from deletion (spec.protection.delete is true)`,
      "If you mean it: drover delete with --override-protection",
    );
  }
  const meanwhile = await admittedMeanwhile(existing.value, id, clients);
  if (meanwhile !== undefined) return meanwhile;
  await refuseWhileOpen(existing.value, clients, moment);
  await refuseBusy(name, clients);
  const observed = await clients.instances.ofCluster(existing.value.uid);
  const machines = observed.filter((instance) => instance.state !== "terminated");
  const cost = priceLeft(machines.map((machine) => ({ kind: "instance", id: machine.instanceId, detail: machine.instanceType })));
  const serverLives = existing.value.members.some(({ instanceId }) =>
    machines.some((machine) => machine.instanceId === instanceId && machine.state === "running"),
  );
  const lastSnapshot = existing.value.readyAt !== undefined && serverLives && !asking.skipSnapshot;
  const plan = [
    ...(lastSnapshot ? ["Take a last snapshot; if that fails, say so and go on"] : []),
    `Take ${existing.value.members.length} server(s) out of the endpoint ${existing.value.endpoint?.dnsName ?? "(none yet)"}`,
    `Terminate ${machines.length} machine(s), which cost about $${cost.dollarsPerHour.toFixed(2)} an hour`,
    "Delete load balancer, target groups and security groups",
    "Sweep by tag, and report what is left and what it costs",
    existing.value.readyAt === undefined
      ? "It was never ready"
      : `It has been ready since ${existing.value.readyAt}; afterwards its data is in its snapshots alone`,
  ];
  if (asking.preview) return { operation: id, cluster: name, status: "preview", plan, warnings: [] };
  const record: ClusterRecord = { ...existing.value, phase: "deleting", operation: id };
  await open(record, existing.etag, { id, kind: "delete", uid: record.uid, lastSnapshot }, asking, clients, moment);
  return { operation: id, cluster: name, status: "accepted", plan, warnings: [] };
}

/** @throws NotFound, Invalid when there is no data to save yet, Unsafe while the cluster is not whole, Busy with the operation that holds it */
export async function admitBackup(asking: Asking & { readonly cluster: string }, clients: AdmissionClients, moment: Moment): Promise<Accepted> {
  const name = asking.cluster;
  const id = operationId("backup", name, asking.requestId);
  const repeated = await repeatedRequest(name, id, clients);
  if (repeated !== undefined) return repeated;
  const existing = await clients.state.read<ClusterRecord>(stateKeys.record(name));
  if (existing === undefined) throw new NotFound(`There is no cluster ${name}`, "See which there are: drover list");
  const record = existing.value;
  const meanwhile = await admittedMeanwhile(record, id, clients);
  if (meanwhile !== undefined) return meanwhile;
  await refuseWhileOpen(record, clients, moment);
  await refuseBusy(name, clients);
  if (record.readyAt === undefined)
    throw new Invalid(`${name} was never ready: there is nothing to save`, [], `Finish it first: drover status ${name}`);
  if (record.phase === "restoring" || record.phase === "deleting" || record.restore !== undefined) {
    const what = `${name} is ${record.restore === undefined ? record.phase : "half restored"}, and no operation goes on with it: what its servers hold is not to be trusted`;
    throw new Unsafe(what, `Finish that first: drover status ${name}`);
  }
  const { keep, timeZone } = record.wanted.spec.backup;
  const tiers = Object.entries(keep).map(([tier, count]) => `${tier} ${count}`);
  const plan = [
    `Save a snapshot of etcd on one of ${record.members.length} server(s), another than etcd's leader where there is one`,
    "Upload it, read its size and SHA-256 back, and write its manifest last",
    `Then remove what no tier asks for (${tiers.join(", ")}; ${timeZone}): drover snapshot prune ${name} --preview`,
  ];
  if (asking.preview) return { operation: id, cluster: name, status: "preview", plan, warnings: [] };
  await open({ ...record, operation: id }, existing.etag, { id, kind: "backup", uid: record.uid }, asking, clients, moment);
  return { operation: id, cluster: name, status: "accepted", plan, warnings: [] };
}

/**
 * A drill leaves the cluster alone: a snapshot is restored on a machine of its own. What is wrong with the snapshot is what the drill is there to find.
 *
 * @throws NotFound, Invalid when there is no proven snapshot, Busy with the operation that holds the cluster
 */
export async function admitDrill(
  asking: Asking & { readonly cluster: string; readonly snapshot: string },
  clients: AdmissionClients,
  moment: Moment,
): Promise<Accepted> {
  const name = asking.cluster;
  const id = operationId("drill", name, asking.requestId);
  const repeated = await repeatedRequest(name, id, clients);
  if (repeated !== undefined) return repeated;
  const existing = await clients.state.read<ClusterRecord>(stateKeys.record(name));
  if (existing === undefined) throw new NotFound(`There is no cluster ${name}`, "See which there are: drover list");
  const record = existing.value;
  const meanwhile = await admittedMeanwhile(record, id, clients);
  if (meanwhile !== undefined) return meanwhile;
  await refuseWhileOpen(record, clients, moment);
  await refuseBusy(name, clients);
  const snapshot = asking.snapshot === "latest" ? record.newestProven?.id : asking.snapshot;
  if (snapshot === undefined || record.endpoint === undefined) {
    throw new Invalid(`${name} has no proven snapshot to try out`, [], `Take one first: drover snapshot create ${name}`);
  }
  const { instanceTypes } = record.wanted.spec.servers;
  const cost = priceLeft([{ kind: "instance", id: "", detail: instanceTypes[0] ?? "" }]);
  const plan = [
    `Launch a throw-away server (${instanceTypes.join(" or ")}), closed off from the cluster; it costs about $${cost.dollarsPerHour.toFixed(2)} an hour, for some minutes`,
    `Restore snapshot ${snapshot} on it, and compare revision, keys and hash with its manifest`,
    "Terminate it, however that ends",
  ];
  if (asking.preview) return { operation: id, cluster: name, status: "preview", plan, warnings: [] };
  const request = { snapshot, from: { name, uid: record.uid } };
  await open({ ...record, operation: id }, existing.etag, { id, kind: "drill", uid: record.uid, request }, asking, clients, moment);
  return { operation: id, cluster: name, status: "accepted", plan, warnings: [] };
}

function refused(faults: readonly Fault[]): Invalid {
  const errors = faults.filter(isError);
  return new Invalid(`The cluster file has ${errors.length} error(s)`, errors, "Correct them and send the file again; nothing was changed");
}

/** Valid as an execution's name and in a log stream's: letters, digits and hyphens, under 80 characters. */
export function operationId(kind: OperationKind, cluster: string, requestId: string): string {
  return `${kind}-${cluster}-${createHash("sha256").update(`${kind} ${cluster} ${requestId}`).digest("hex").slice(0, 16)}`;
}

/** The first answer to this request id, and its execution, which a run that died in between may not have started. */
export async function repeatedRequest(cluster: string, id: string, clients: AdmissionClients): Promise<Accepted | undefined> {
  const operation = await clients.state.read<OperationRecord>(stateKeys.operation(cluster, id));
  if (operation === undefined) return undefined;
  if (operation.value.status === "accepted") await clients.workflows.start(clients.machine(operation.value.kind), id, { cluster, operation: id });
  return { operation: id, cluster, status: "accepted", plan: ["This request was accepted before"], warnings: [] };
}

/** The same request, admitted by another run of it since this one looked: nobody is busy with it but itself. */
export async function admittedMeanwhile(record: ClusterRecord | undefined, id: string, clients: AdmissionClients): Promise<Accepted | undefined> {
  return record?.operation === id ? repeatedRequest(record.name, id, clients) : undefined;
}

interface Resolution {
  readonly resolved?: ClusterRecord["resolved"];
  readonly faults: readonly Fault[];
}

/** What the file means here and now: version, image, zones; and everything about the store and the account that does not fit. */
export async function resolve(file: ClusterFile, clients: AdmissionClients): Promise<Resolution> {
  const { spec } = file;
  const [releases, imageId] = await Promise.all([
    clients.artifacts.releases(),
    spec.image.id ?? (spec.image.ssmParameter === undefined ? undefined : clients.commands.parameter(spec.image.ssmParameter)),
  ]);
  const knownVersions = [...new Set(releases.map((release) => release.version))];
  const version = spec.version ?? newestOfChannel(spec.channel ?? "stable", knownVersions);
  const present = releases
    .filter((release) => release.version === version && release.architecture === spec.image.architecture)
    .map((release) => release.file);
  const types = [...new Set([...spec.servers.instanceTypes, ...spec.agentPools.flatMap((pool) => pool.instanceTypes)])];
  const [image, instanceTypes, subnets] = await Promise.all([
    imageId === undefined ? undefined : clients.instances.image(imageId),
    clients.instances.instanceTypes(types),
    clients.instances.subnets(spec.network.subnetIds),
  ]);
  const faults = [...checkAgainstStore({ file, version, present, knownVersions }), ...checkAgainstAccount({ file, image, instanceTypes, subnets })];
  if (version === undefined || image === undefined) return { faults };
  const zones = spec.network.subnetIds.flatMap((id) => subnets.filter((subnet) => subnet.id === id).map(({ zone }) => ({ id, zone })));
  return { faults, resolved: { version, imageId: image.id, rootDeviceName: image.rootDeviceName, subnets: zones } };
}

/** A cluster that exists is not made again; one that an operation left half made is finished, with a file that fits what is there. */
async function refuseUnlessUnfinished(record: ClusterRecord, file: ClusterFile, clients: AdmissionClients, moment: Moment): Promise<void> {
  if (record.readyAt !== undefined || record.phase === "ready") {
    throw new Invalid(
      `A cluster ${record.name} exists since ${record.createdAt}`,
      [],
      `Choose another name, or look at it: drover status ${record.name}`,
    );
  }
  if (record.phase === "deleting") {
    throw new Invalid(`The cluster ${record.name} is being deleted`, [], `Finish that first: drover delete ${record.name}`);
  }
  if (record.restore !== undefined) {
    const what = `The cluster ${record.name} is being made of a snapshot, and that is not finished`;
    throw new Invalid(what, [], `Restore it again, or give it up: drover delete ${record.name}`);
  }
  await refuseWhileOpen(record, clients, moment);
  const faults = mayChangeTo(record, file);
  if (faults.length > 0) {
    const what = `${record.name} is half made with other settings`;
    throw new Invalid(what, faults, `Use the file it was begun with, or give it up first: drover delete ${record.name}`);
  }
}

/** How long, in seconds, an operation that ended without being closed keeps its cluster: the event closes it within minutes, the schedule soon after. */
const closingSeconds = 900;

/**
 * The operation that the record names is under way: accepted a moment ago with its lease not taken yet, or ended a moment ago with its card not written yet.
 * @throws Busy
 */
export async function refuseWhileOpen(record: ClusterRecord, clients: AdmissionClients, moment: Moment): Promise<void> {
  if (record.operation === undefined) return;
  const operation = (await clients.state.read<OperationRecord>(stateKeys.operation(record.name, record.operation)))?.value;
  if (operation === undefined || operation.status === "succeeded" || operation.status === "failed") return;
  const { status, endedAt } = await clients.workflows.describe(operation.execution);
  if (status === "RUNNING" || status === "PENDING_REDRIVE") throw busy(record.name, operation.id);
  const isClosing = endedAt !== undefined && moment.nowMs - Date.parse(endedAt) < closingSeconds * 1000;
  if (status !== "SUCCEEDED" && isClosing) {
    const what = `${record.name} is busy: operation ${operation.id} ended as ${status} at ${endedAt} and is being closed`;
    throw new Busy(what, "Ask again in a minute or two");
  }
}

/** @throws Busy when an execution that runs holds the cluster's lease */
export async function refuseBusy(cluster: string, clients: AdmissionClients): Promise<void> {
  const lease = await clients.state.read<Lease>(stateKeys.lease(cluster));
  if (lease === undefined) return;
  const status = await clients.workflows.status(lease.value.holder);
  if (status === "RUNNING" || status === "PENDING_REDRIVE") throw busy(cluster, lease.value.operation);
}

function busy(cluster: string, operation: string): Busy {
  return new Busy(`${cluster} is busy: operation ${operation} is changing it`, `Wait for it: drover watch ${cluster}`);
}

export function blankRecord(name: string, uid: string, now: string): Omit<ClusterRecord, "generation" | "phase" | "wanted" | "resolved"> {
  return {
    schema: 1,
    name,
    uid,
    createdAt: now,
    abandonedBootstraps: [],
    members: [],
    secrets: { "server-token": 0, "agent-token": 0, kubeconfig: 0 },
    conditions: [],
  };
}

/**
 * Record, then operation, then execution: a run that dies in between is finished by the same request sent again.
 * @throws Busy when another request wrote the record at the same moment
 */
export async function open(
  record: ClusterRecord,
  etag: string | undefined,
  operation: Pick<OperationRecord, "id" | "kind" | "uid" | "lastSnapshot" | "request">,
  asking: Asking,
  clients: AdmissionClients,
  moment: Moment,
): Promise<void> {
  const { id, kind } = operation;
  const key = stateKeys.record(record.name);
  const isWritten = etag === undefined ? await clients.state.create(key, record) : await clients.state.replace(key, record, etag);
  if (!isWritten && (await clients.state.read<ClusterRecord>(key))?.value.operation !== id) {
    throw new Busy(`${record.name} was changed by another request at the same moment`, `Look at it: drover status ${record.name}`);
  }
  const machine = clients.machine(kind);
  const opened: OperationRecord = {
    schema: 1,
    ...operation,
    cluster: record.name,
    status: "accepted",
    requestedBy: asking.requestedBy,
    requestId: asking.requestId,
    acceptedAt: moment.now,
    execution: executionArn(machine, id),
    steps: [],
  };
  await clients.state.create(stateKeys.operation(record.name, id), opened);
  await clients.workflows.start(machine, id, { cluster: record.name, operation: id });
  const { requestId, requestedBy } = asking;
  await clients.announcer.announce("Operation Accepted", { operation: id, cluster: record.name, kind, requestId, requestedBy, at: moment.now });
}

/** What a person reads before saying yes. */
function createPlan(file: ClusterFile, version: string, existing: ClusterRecord | undefined): string[] {
  const { spec } = file;
  const agents = spec.agentPools.reduce((sum, pool) => sum + pool.count, 0);
  const machines = [
    { type: spec.servers.instanceTypes[0] ?? "", count: spec.servers.count as number, gib: spec.servers.rootVolumeGib },
    ...spec.agentPools.map((pool) => ({ type: pool.instanceTypes[0] ?? "", count: pool.count, gib: pool.rootVolumeGib })),
  ];
  const cost = priceLeft([
    { kind: "load-balancer", id: "", detail: "" },
    ...machines.flatMap(({ type, count, gib }) =>
      Array.from({ length: count }, () => [
        { kind: "instance", id: "", detail: type } as const,
        { kind: "volume", id: "", detail: `${gib} GiB` } as const,
      ]).flat(),
    ),
  ]);
  const minutes = Math.ceil(lowerBound({ servers: spec.servers.count, agents }).LB / 60);
  return [
    existing === undefined
      ? `Create RKE2 ${version} cluster ${file.metadata.name}`
      : `Finish cluster ${file.metadata.name}, RKE2 ${version}, which is half made`,
    `Launch ${spec.servers.count} server(s) ${spec.servers.instanceTypes.join(" or ")} over ${spec.network.subnetIds.length} subnet(s)`,
    ...spec.agentPools.map((pool) => `Launch ${pool.count} agent(s) of pool ${pool.name}, ${pool.instanceTypes.join(" or ")}, ${pool.market}`),
    `Make a network load balancer, ${spec.network.endpoint.scheme}, for ports 9345 and 6443`,
    `Install ${[archivesOfCluster(file, version).bundle, ...archivesOfCluster(file, version).images].join(", ")} from the artifact store`,
    `Ready in about ${minutes} minutes; costs about $${cost.dollarsPerHour.toFixed(2)} an hour (on-demand list prices of us-east-1)`,
  ];
}
