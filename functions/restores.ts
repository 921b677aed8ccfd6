/**
 * HTTP route of its own for restores: its role alone may open a token to see whether it fits a snapshot, and IAM can allow the route to fewer people.
 *
 * Everything is looked at before anything is touched, and a refusal holds every fault there is. A preview answers the same, and starts nothing.
 */
import { randomUUID } from "node:crypto";
import { type RestoreAccepted, restoreRequestSchema } from "../core/api.js";
import { assessQuorum } from "../core/cluster-health.js";
import { type Fault, Invalid, Unsafe } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { isAlive } from "../core/nodes.js";
import type { ClusterRecord, OperationRecord, RestoreSource } from "../core/records.js";
import { estimateLoss, type Loss, preflight, restorePlan, sourceOf } from "../core/restore.js";
import type { Manifest } from "../core/snapshots.js";
import { isError, validateCluster } from "../core/validate-cluster.js";
import {
  type AdmissionClients,
  type Asking,
  admissionClients,
  admittedMeanwhile,
  blankRecord,
  open,
  operationId,
  refuseBusy,
  refuseWhileOpen,
  repeatedRequest,
  resolve,
} from "./admission.js";
import { type SecretStore, secretStore } from "./aws/secrets.js";
import { type SnapshotStore, snapshotStore } from "./aws/snapshots.js";
import type { StateStore, Stored } from "./aws/state.js";
import { httpHandler, NotFound, nameIn, type Route, readBody } from "./http.js";
import type { Moment } from "./lambda.js";
import { snapshotFacts, tokenGenerations } from "./restore-facts.js";

interface Clients extends AdmissionClients {
  readonly secrets: SecretStore;
  readonly snapshots: SnapshotStore;
}

interface RestoreAsking extends Asking {
  /** The cluster whose data are wanted. */
  readonly cluster: string;
  readonly snapshot: string;
  readonly confirm: string;
  /** Name of the new cluster, where one is to be made. */
  readonly as?: string | undefined;
}

/** Manifests that are read to tell what is lost: the newest ones. */
const manifestsRead = 30;

const restoreCluster: Route<Clients> = async (request, clients, moment) => {
  const asked = readBody(restoreRequestSchema, request.body);
  const answer = await admitRestore({ ...asked, cluster: nameIn(request.path), requestedBy: request.caller }, clients, moment);
  return { status: asked.preview ? 200 : 202, body: answer };
};

/** @throws NotFound, Invalid with every fault, Unsafe when it would lose what is not lost, Busy with the operation that holds the cluster */
export async function admitRestore(asking: RestoreAsking, clients: Clients, moment: Moment): Promise<RestoreAccepted> {
  const target = asking.as ?? asking.cluster;
  const id = operationId("restore", target, asking.requestId);
  const repeated = await repeatedRequest(target, id, clients);
  if (repeated !== undefined) return repeated;
  const from = await sourceCluster(asking.cluster, clients.state);
  const existing = target === asking.cluster ? from.record : await clients.state.read<ClusterRecord>(stateKeys.record(target));
  const meanwhile = await admittedMeanwhile(existing?.value, id, clients);
  if (meanwhile !== undefined) return meanwhile;
  if (!asking.preview && asking.confirm !== target && asking.confirm !== asking.cluster) {
    const what = `To restore ${target} its name must be given again; found "${asking.confirm.slice(0, 40)}"`;
    throw new Invalid(what, [], `Type ${target} to confirm`);
  }
  if (existing?.value.phase === "deleting") {
    throw new Invalid(`The cluster ${target} is being deleted`, [], `Finish that first: drover delete ${target}. Its snapshots stay`);
  }
  if (existing !== undefined) await refuseWhileOpen(existing.value, clients, moment);
  await refuseBusy(target, clients);

  const plan =
    asking.snapshot === "survivor"
      ? await planSurvivor(target, existing, clients, moment)
      : await planSnapshot(asking, target, from, existing, clients, moment);
  const answer = {
    operation: id,
    cluster: target,
    plan: plan.lines,
    warnings: plan.warnings,
    ...(plan.loss === undefined ? {} : { loss: plan.loss }),
  };
  if (asking.preview) return { ...answer, status: "preview" };
  const { record } = plan;
  const restore = plan.isNew && record.restore === undefined && plan.source !== undefined;
  const opened: ClusterRecord = {
    ...record,
    phase: "restoring",
    operation: id,
    // Said at once, so that nobody makes an empty cluster of this name meanwhile.
    ...(restore && plan.source !== undefined ? { restore: { id, operation: id, begunAt: moment.now, source: plan.source } } : {}),
  };
  const request = { snapshot: plan.source?.kind === "snapshot" ? plan.source.snapshot : "survivor", from: { name: asking.cluster, uid: from.uid } };
  await open(opened, existing?.etag, { id, kind: "restore", uid: record.uid, request }, asking, clients, moment);
  return { ...answer, status: "accepted" };
}

interface SourceCluster {
  readonly name: string;
  readonly uid: string;
  readonly record: Stored<ClusterRecord> | undefined;
}

/** The cluster as it is, or the last one of this name: snapshots and their tokens outlive it. */
async function sourceCluster(name: string, state: StateStore): Promise<SourceCluster> {
  const record = await state.read<ClusterRecord>(stateKeys.record(name));
  if (record !== undefined) return { name, uid: record.value.uid, record };
  const operations = await Promise.all((await state.list(stateKeys.operations(name))).map((key) => state.read<OperationRecord>(key)));
  const [last] = operations.flatMap((each) => (each === undefined ? [] : [each.value])).sort((a, b) => b.acceptedAt.localeCompare(a.acceptedAt));
  if (last === undefined) throw new NotFound(`There is and was no cluster ${name}`, "See which there are: drover list");
  return { name, uid: last.uid, record: undefined };
}

interface RestorePlanned {
  /** As it is to be written, but for phase and operation. */
  readonly record: ClusterRecord;
  readonly isNew: boolean;
  readonly source: RestoreSource | undefined;
  readonly lines: readonly string[];
  readonly warnings: readonly { readonly path: string; readonly message: string }[];
  readonly loss?: Loss;
}

async function planSurvivor(
  target: string,
  existing: Stored<ClusterRecord> | undefined,
  { instances }: Clients,
  moment: Moment,
): Promise<RestorePlanned> {
  if (existing === undefined) {
    throw new Invalid(`There is no cluster ${target} with a server to go on from`, [], "Name a snapshot: drover restore --snapshot latest");
  }
  const record = existing.value;
  const observed = await instances.ofCluster(record.uid);
  const quorum = assessQuorum({ record, observed, now: moment.now });
  const goesOn = record.restore?.source.kind === "survivor";
  const chosen = goesOn && record.bootstrap?.restore === record.restore?.id ? record.bootstrap?.instanceId : undefined;
  const isChosenAlive = observed.some((server) => server.instanceId === chosen && isAlive(server.state));
  if (!isChosenAlive && (quorum === undefined || quorum.running === 0)) {
    throw new Invalid(`No server of ${target} that was a member runs: there is no survivor`, [], `drover restore ${target} --snapshot latest`);
  }
  if (!goesOn && (quorum?.kind === "whole" || quorum?.kind === "member lost")) {
    const what = `${target} still has its majority (${quorum.reason}): going on with one server alone would lose what the others have`;
    throw new Unsafe(what, quorum.command ?? `Look at it: drover status ${target}`);
  }
  const servers = observed.filter((node) => node.role === "server");
  const warnings =
    quorum?.loss === "nothing"
      ? [{ path: "", message: `Stopped machines would bring the majority back without any loss: ${quorum.command ?? ""}` }]
      : [];
  const lines = restorePlan({
    target,
    servers,
    wantedServers: record.wanted.spec.servers.count,
    snapshot: "survivor",
    loss: undefined,
    tokenGeneration: undefined,
    isNew: false,
  });
  return { record, isNew: false, source: { kind: "survivor" }, lines, warnings };
}

async function planSnapshot(
  asking: RestoreAsking,
  target: string,
  from: SourceCluster,
  existing: Stored<ClusterRecord> | undefined,
  clients: Clients,
  moment: Moment,
): Promise<RestorePlanned> {
  const { snapshots, instances } = clients;
  const proven = (await snapshots.list(from.uid)).filter((each) => each.hasManifest).map((each) => each.id);
  const id = asking.snapshot === "latest" ? (from.record?.value.newestProven?.id ?? proven.at(-1)) : asking.snapshot;
  if (id === undefined) {
    throw new Invalid(`${from.name} has no proven snapshot`, [], "Without one nothing can be restored");
  }
  const isNew = existing === undefined || existing.value.uid !== from.uid;
  const [facts, tokens, newest] = await Promise.all([
    snapshotFacts(from.uid, id, snapshots),
    tokenGenerations(from.uid, clients),
    Promise.all(proven.slice(-manifestsRead).map((each) => snapshots.manifest(from.uid, each))),
  ]);
  const { manifest } = facts;
  const made = isNew && manifest !== undefined ? await planNew(target, manifest, existing?.value, clients, moment) : undefined;
  const record = made?.record ?? existing?.value;
  const checked = preflight({
    from,
    snapshot: facts,
    tokens,
    version: record?.resolved.version ?? manifest?.version ?? "",
    rootVolumeGib: record?.wanted.spec.servers.rootVolumeGib ?? Number.POSITIVE_INFINITY,
  });
  const faults = [...checked.faults, ...(made?.faults ?? [])];
  const errors = faults.filter(isError);
  if (errors.length > 0 || record === undefined || manifest === undefined || checked.tokenGeneration === undefined) {
    const next = `Nothing was changed. See which snapshots there are: drover snapshot list ${from.name}`;
    throw new Invalid(`Snapshot ${id} cannot be restored ${isNew ? `as ${target}` : `on ${target}`}`, errors, next);
  }
  const loss = estimateLoss(
    manifest,
    newest.flatMap((each) => (each === undefined ? [] : [each.manifest])),
    moment.now,
  );
  const observed = isNew ? [] : await instances.ofCluster(record.uid);
  const servers = observed.filter((node) => node.role === "server" && isAlive(node.state));
  const lines = restorePlan({
    target,
    servers,
    wantedServers: record.wanted.spec.servers.count,
    snapshot: manifest,
    loss,
    tokenGeneration: checked.tokenGeneration,
    isNew,
  });
  return {
    record,
    isNew,
    source: sourceOf(manifest, checked.tokenGeneration),
    lines,
    warnings: faults.filter((fault) => !isError(fault)).map(({ path, message }) => ({ path, message })),
    ...(isNew ? {} : { loss }),
  };
}

/** The record of a cluster that is to be made of a snapshot: as the manifest wants it, in the release that took it, under its new name. */
async function planNew(
  target: string,
  manifest: Manifest,
  existing: ClusterRecord | undefined,
  clients: Clients,
  moment: Moment,
): Promise<{ readonly record?: ClusterRecord; readonly faults: readonly Fault[] }> {
  if (existing !== undefined) {
    const { restore } = existing;
    const isSame = restore?.source.kind === "snapshot" && restore.source.snapshot === manifest.id && existing.readyAt === undefined;
    if (isSame) return { record: existing, faults: [] };
    return { faults: [{ path: "as", message: `a cluster ${target} exists since ${existing.createdAt}: choose another name`, severity: "error" }] };
  }
  const { file, faults } = validateCluster(JSON.stringify(renamed(manifest, target)));
  if (file === undefined) return { faults };
  const resolution = await resolve(file, clients);
  const all = [...faults, ...resolution.faults];
  if (resolution.resolved === undefined) return { faults: all };
  const record: ClusterRecord = {
    ...blankRecord(target, randomUUID(), moment.now),
    generation: 1,
    phase: "restoring",
    wanted: file,
    resolved: resolution.resolved,
  };
  return { record, faults: all };
}

function renamed(manifest: Manifest, name: string): unknown {
  const wanted = manifest.wanted as { readonly metadata?: object; readonly spec?: object } | null;
  const { channel: _, ...spec } = { ...wanted?.spec } as Record<string, unknown>;
  return { ...wanted, metadata: { ...wanted?.metadata, name }, spec: { ...spec, version: manifest.version } };
}

export const handler = httpHandler<Clients>(
  (environment) => ({
    ...admissionClients(environment),
    secrets: secretStore(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
    snapshots: snapshotStore(environment("SNAPSHOT_BUCKET")),
  }),
  { restoreCluster },
);
