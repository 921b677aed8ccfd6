/** HTTP routes that look at snapshots. They read manifests and what S3 says of objects; none changes anything. */
import type { RetentionPreview, SnapshotProof, SnapshotSummary } from "../core/api.js";
import { Unsafe } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import type { ClusterRecord, OperationRecord } from "../core/records.js";
import { type Manifest, proofFault, snapshotIdPattern, timeInId } from "../core/snapshots.js";
import { type SnapshotStore, snapshotStore } from "./aws/snapshots.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { httpHandler, NotFound, nameIn, type Route } from "./http.js";
import { retentionOf } from "./retention.js";

interface Clients {
  readonly state: StateStore;
  readonly snapshots: SnapshotStore;
}

export const listSnapshots: Route<Clients> = async (request, { state, snapshots }) => {
  const cluster = nameIn(request.path);
  const uid = await uidOf(cluster, state);
  const listed = await snapshots.list(uid);
  const summaries = await Promise.all(
    listed.map(async ({ id, hasManifest }) => summary(id, uid, hasManifest ? await readable(snapshots, uid, id) : undefined)),
  );
  const newestFirst = summaries.sort((a, b) => b.takenAt.localeCompare(a.takenAt) || b.id.localeCompare(a.id));
  return { status: 200, body: { cluster, uid, snapshots: newestFirst } };
};

export const readSnapshot: Route<Clients> = async (request, { state, snapshots }) => {
  const cluster = nameIn(request.path);
  const uid = await uidOf(cluster, state);
  return { status: 200, body: await manifestIn(request.path, cluster, uid, snapshots) };
};

export const proveSnapshotAgain: Route<Clients> = async (request, { state, snapshots }, moment) => {
  const cluster = nameIn(request.path);
  const uid = await uidOf(cluster, state);
  const { id, file } = await manifestIn(request.path, cluster, uid, snapshots);
  const fault = proofFault(file, await snapshots.stored(uid, id, file.versionId)) ?? "";
  const proof: SnapshotProof = { id, proven: fault === "", fault, at: moment.now };
  return { status: 200, body: proof };
};

export const previewRetention: Route<Clients> = async (request, { state, snapshots }, moment) => {
  const name = nameIn(request.path);
  const record = (await state.read<ClusterRecord>(stateKeys.record(name)))?.value;
  if (record === undefined) {
    throw new NotFound(`There is no cluster ${name}: nothing removes what is left of a deleted one`, "See which there are: drover list");
  }
  const decision = await retentionOf(record, snapshots, state, moment.now);
  const preview: RetentionPreview = { cluster: name, uid: record.uid, timeZone: record.wanted.spec.backup.timeZone, ...decision };
  return { status: 200, body: preview };
};

/** Of the cluster that has the name, or of the last one that had it: snapshots outlive their cluster. */
async function uidOf(cluster: string, state: StateStore): Promise<string> {
  const record = (await state.read<ClusterRecord>(stateKeys.record(cluster)))?.value;
  if (record !== undefined) return record.uid;
  const keys = await state.list(stateKeys.operations(cluster));
  const operations = await Promise.all(keys.map((key) => state.read<OperationRecord>(key)));
  const [latest] = operations.flatMap((found) => found?.value ?? []).sort((a, b) => b.acceptedAt.localeCompare(a.acceptedAt));
  if (latest === undefined) throw new NotFound(`There never was a cluster ${cluster}`, "See which there are: drover list");
  return latest.uid;
}

/** An id becomes part of a key, so it must be one. */
async function manifestIn(path: Readonly<Record<string, string>>, cluster: string, uid: string, snapshots: SnapshotStore): Promise<Manifest> {
  const id = path.snapshot ?? "";
  const next = `See which there are: drover snapshot list ${cluster}`;
  if (!snapshotIdPattern.test(id)) throw new NotFound(`"${id.slice(0, 40)}" is no snapshot's id`, next);
  const found = await snapshots.manifest(uid, id);
  if (found !== undefined) return found.manifest;
  const isThere = (await snapshots.stored(uid, id)) !== undefined;
  throw new NotFound(isThere ? `Snapshot ${id} of ${cluster} was never proven: it has no manifest` : `${cluster} has no snapshot ${id}`, next);
}

/** One that is no manifest proves nothing; it does not hide the others either. */
async function readable(snapshots: SnapshotStore, uid: string, id: string): Promise<Manifest | undefined> {
  try {
    return (await snapshots.manifest(uid, id))?.manifest;
  } catch (error) {
    if (error instanceof Unsafe) return undefined;
    throw error;
  }
}

function summary(id: string, uid: string, manifest: Manifest | undefined): SnapshotSummary {
  if (manifest === undefined) return { id, uid, proven: false, takenAt: timeInId(id) };
  const { takenAt, provenAt, requestedBy, version, node, etcd, file, token } = manifest;
  return {
    id,
    uid,
    proven: true,
    takenAt,
    provenAt,
    requestedBy,
    version,
    node: node.name,
    revision: etcd.revision,
    keys: etcd.keys,
    bytes: file.bytes,
    tokenGeneration: token.generation,
  };
}

export const handler = httpHandler<Clients>(
  (environment) => ({ state: stateStore(environment("STATE_BUCKET")), snapshots: snapshotStore(environment("SNAPSHOT_BUCKET")) }),
  { listSnapshots, readSnapshot, proveSnapshot: proveSnapshotAgain, previewRetention },
);
