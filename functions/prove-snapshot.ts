/**
 * State "Prove snapshot" of take-snapshot: law 10. What S3 has is held against what the node said, and the token that opens it against the secrets; only then
 * is the manifest written, last of all, and the snapshot counts.
 */
import { z } from "zod";
import { Unsafe } from "../core/failures.js";
import { nodeName, serverPool, snapshotKeys, stateKeys } from "../core/layout.js";
import type { ClusterRecord, OperationRecord } from "../core/records.js";
import { renderConfigs } from "../core/rke2-config.js";
import { type Manifest, proofFault, type StoredObject, sizeFault, snapshotIdOfPass, tokenHash } from "../core/snapshots.js";
import { type Announcer, announcer } from "./aws/events.js";
import { type SecretStore, secretStore } from "./aws/secrets.js";
import { type SnapshotStore, snapshotStore } from "./aws/snapshots.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { changeRecord, endpointOf, holdLease, readOperation, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";
import { type SavedSnapshot, savedSnapshot } from "./saved-snapshot.js";

const input = stepInput.extend({ pass: z.number().int().min(1) });

interface Clients {
  readonly state: StateStore;
  readonly snapshots: SnapshotStore;
  readonly secrets: SecretStore;
  readonly announcer: Announcer;
}

export const proveSnapshot: Task<z.output<typeof input>, Clients, { readonly snapshot: string }> = async (step, clients, moment) => {
  const { state, snapshots } = clients;
  await holdLease(state, step);
  const [record, operation, saved] = await Promise.all([readRecord(state, step.cluster), readOperation(state, step), savedSnapshot(state, step)]);
  const id = snapshotIdOfPass(record.uid, operation, step.pass);
  const manifest =
    (await snapshots.manifest(record.uid, id))?.manifest ??
    (await write(await prove({ id, record, operation, saved, now: moment.now }, clients), clients));

  await changeRecord(state, step.cluster, (current) => withProven(current, manifest));
  await state.update<OperationRecord>(stateKeys.operation(step.cluster, step.operation), (current) =>
    current === undefined || current.outcome?.snapshot === id ? undefined : withSnapshot(current, manifest, moment.now),
  );
  await clients.announcer.announce("Snapshot Proven", {
    operation: step.operation,
    cluster: step.cluster,
    uid: record.uid,
    snapshot: id,
    takenAt: manifest.takenAt,
    revision: manifest.etcd.revision,
    bytes: manifest.file.bytes,
    at: manifest.provenAt,
  });
  return { snapshot: id };
};

interface Facts {
  readonly id: string;
  readonly record: ClusterRecord;
  readonly operation: OperationRecord;
  readonly saved: SavedSnapshot;
  readonly now: string;
}

/** @throws Unsafe when it is not the file that the node saved, or no token is kept that opens it */
async function prove({ id, record, operation, saved, now }: Facts, { snapshots, secrets }: Clients): Promise<Manifest> {
  const { result } = saved;
  await snapshots.complete(record.uid, id, result);
  const stored = await snapshots.stored(record.uid, id);
  const fault = sizeFault(result.bytes) ?? proofFault(result, stored);
  if (fault !== undefined) {
    throw new Unsafe(`Snapshot ${id} of ${record.name} is not proven: ${fault}`, "It does not count. Take another: drover snapshot create");
  }
  const generation = await generationOf(result.tokenHash, record, secrets);
  const { resolved, wanted } = record;
  const configs = renderConfigs({ file: wanted, version: resolved.version, endpointDns: endpointOf(record).dnsName, uid: record.uid });
  return {
    schema: 1,
    id,
    cluster: { name: record.name, uid: record.uid, kubernetesId: result.clusterId },
    takenAt: saved.takenAt,
    provenAt: now,
    operation: operation.id,
    requestedBy: operation.requestedBy,
    version: result.version,
    architecture: wanted.spec.image.architecture,
    node: { name: nodeName(serverPool, saved.instanceId), instanceId: saved.instanceId },
    etcd: {
      revision: result.revision,
      keys: result.keys,
      hash: result.hash,
      compactRevision: result.compactRevision,
      members: result.members,
      leader: result.leader,
    },
    file: {
      key: snapshotKeys.snapshot(record.uid, id),
      versionId: (stored as StoredObject).versionId,
      bytes: result.bytes,
      sha256: result.sha256,
      parts: result.parts,
    },
    token: { generation, hash: result.tokenHash },
    wanted,
    configs: { server: configs.server, ...configs.agents },
    manifests: { ...configs.manifests },
  };
}

/** The newest generation of the server token that the node's hash is of: while a token is rotated, a server may still run with the one before. */
async function generationOf(hash: string, record: ClusterRecord, secrets: SecretStore): Promise<number> {
  const newest = record.secrets["server-token"];
  for (let generation = newest; generation >= 1; generation--) {
    if (tokenHash(await secrets.read(record.uid, "server-token", generation)) === hash) return generation;
  }
  throw new Unsafe(
    `No token of ${record.name} opens its snapshot: the server's has the hash ${hash}, which none of ${newest} generation(s) in the secrets has`,
    "Somebody changed the token on the servers by hand. Give them the one that Drover keeps, then take another: drover snapshot create",
  );
}

/** Another run of this step may have written it a moment ago: what is there counts. */
async function write(manifest: Manifest, { snapshots }: Clients): Promise<Manifest> {
  if (await snapshots.writeManifest(manifest)) return manifest;
  return (await snapshots.manifest(manifest.cluster.uid, manifest.id))?.manifest ?? manifest;
}

/** A snapshot that was taken earlier than the newest proven one does not take its place. */
function withProven(record: ClusterRecord, { id, takenAt, etcd, file, cluster }: Manifest): ClusterRecord | undefined {
  const newest = record.newestProven;
  if (record.uid !== cluster.uid || newest?.id === id || (newest !== undefined && Date.parse(newest.at) > Date.parse(takenAt))) return undefined;
  const { revision, leader } = etcd;
  return { ...record, newestProven: { id, at: takenAt, revision, bytes: file.bytes, ...(leader === "" ? {} : { leader }) } };
}

function withSnapshot(operation: OperationRecord, { id, etcd, file }: Manifest, now: string): OperationRecord {
  const detail = `${id} is proven: revision ${etcd.revision}, ${etcd.keys} keys, ${file.bytes} bytes`;
  return {
    ...operation,
    outcome: { ...operation.outcome, snapshot: id },
    steps: [...operation.steps, { name: "snapshot", at: now, detail }],
  };
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    snapshots: snapshotStore(environment("SNAPSHOT_BUCKET")),
    secrets: secretStore(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
    announcer: announcer(environment("EVENT_BUS")),
  }),
  proveSnapshot,
);
