/**
 * Snapshots in the snapshot bucket: `<cluster uid>/<id>/snapshot` and, written last, `manifest.json`. One without a manifest does not count (law 10).
 *
 * A snapshot holds the cluster's CA keys, encrypted with the server token, and no token: so manifests name the token's generation and 12 hexadecimal
 * characters of its hash, which RKE2 itself keeps with each snapshot (k3s source, ETCDSnapshotFile), and the tokens lie in another bucket under another key.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { nodeName, serverPool, shortHash } from "./layout.js";
import type { OperationRecord, ServerMember } from "./records.js";

const at = z.iso.datetime();
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** `20260105T020000Z-1a2b3c4d`: sorts by time; the end is of the operation that took it, so that two of the same second differ and a step that runs twice does not. */
export const snapshotIdPattern = /^\d{8}T\d{6}Z-[0-9a-f]{8}$/;

export function snapshotId(uid: string, operation: string, acceptedAt: string): string {
  const time = `${new Date(acceptedAt).toISOString().replace(/[-:]/g, "").slice(0, 15)}Z`;
  return `${time}-${shortHash(`${uid} ${operation}`)}`;
}

/** A later pass of the same operation takes another snapshot, perhaps on another server: its file must not meet the first one's. */
export function snapshotIdOfPass(uid: string, operation: Pick<OperationRecord, "id" | "acceptedAt">, pass: number): string {
  return snapshotId(uid, pass === 1 ? operation.id : `${operation.id} ${pass}`, operation.acceptedAt);
}

/** When the operation was accepted that took it, ISO 8601: all that an id tells, for a snapshot without a manifest. */
export function timeInId(id: string): string {
  return id.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-.*$/, "$1-$2-$3T$4:$5:$6.000Z");
}

export const manifestSchema = z.strictObject({
  schema: z.literal(1),
  id: z.string().regex(snapshotIdPattern),
  cluster: z.strictObject({ name: z.string(), uid: z.string(), kubernetesId: z.string().describe("uid of the kube-system namespace") }),
  takenAt: at,
  provenAt: at,
  operation: z.string(),
  requestedBy: z.string(),
  version: z.string().describe("RKE2 release that took it"),
  architecture: z.enum(["amd64", "arm64"]),
  node: z.strictObject({ name: z.string(), instanceId: z.string() }),
  etcd: z.strictObject({
    /** Read just before the snapshot was taken: it holds at least this. */
    revision: z.number().int(),
    keys: z.number().int(),
    hash: z.number().int(),
    compactRevision: z.number().int(),
    members: z.array(z.string()),
    leader: z.string(),
  }),
  file: z.strictObject({
    key: z.string(),
    /** The version of the object that was proven: a later one under the same key is another snapshot, or somebody's attempt at one. */
    versionId: z.string(),
    bytes: z.number().int().min(1),
    sha256,
    parts: z.array(sha256),
  }),
  token: z.strictObject({ generation: z.number().int().min(1), hash: z.string().regex(/^[0-9a-f]{12}$/) }),
  /** What a restore onto new machines needs besides: the cluster file as it was wanted. It holds no secret. */
  wanted: z.unknown(),
  /** Rendered RKE2 configuration by role (`server`, and each agent pool's name), and the cluster's own manifests by file name. */
  configs: z.record(z.string(), z.string()),
  manifests: z.record(z.string(), z.string()),
});
export type Manifest = z.output<typeof manifestSchema>;

/** The part of a token that is its password: what RKE2 hashes for `Rke2-Token-Hash` (rke2-docs, token formats). */
export function tokenHash(token: string): string {
  const password = /^K10[0-9a-f]{64}::[a-z]+:(.+)$/.exec(token)?.[1] ?? token;
  return createHash("sha256").update(password).digest("hex").slice(0, 12);
}

/** What S3 says of an object it holds; `sha256` as lower-case hexadecimal, undefined where it was sent in parts. */
export interface StoredObject {
  readonly versionId: string;
  readonly bytes: number;
  readonly sha256: string | undefined;
  /** Hash of the parts' hashes, with their number: how S3 names an object that was sent in parts. */
  readonly composite: { readonly sha256: string; readonly parts: number } | undefined;
}

/**
 * Why an object is not the snapshot it should be, as a sentence; undefined when it is. Read back from S3, which computed the hash from what it received.
 */
export function proofFault(expected: Pick<Manifest["file"], "bytes" | "sha256" | "parts">, found: StoredObject | undefined): string | undefined {
  if (found === undefined) return "it is not in the snapshot bucket";
  if (found.bytes !== expected.bytes) return `it has ${found.bytes} bytes, expected ${expected.bytes}`;
  if (expected.parts.length === 0) {
    return found.sha256 === expected.sha256 ? undefined : `its SHA-256 is ${found.sha256 ?? "not known to S3"}, expected ${expected.sha256}`;
  }
  const composite = createHash("sha256")
    .update(Buffer.from(expected.parts.join(""), "hex"))
    .digest("hex");
  if (found.composite?.parts !== expected.parts.length) return `it has ${found.composite?.parts ?? 1} part(s), expected ${expected.parts.length}`;
  return found.composite.sha256 === composite ? undefined : `the SHA-256 of its parts is ${found.composite.sha256}, expected ${composite}`;
}

/**
 * Says that an operation reads a snapshot, perhaps one of another cluster: retention leaves it alone. Stored at `stateKeys.snapshotUse` before the first
 * read, and removed when the operation has ended well.
 */
export interface SnapshotUse {
  readonly schema: 1;
  readonly operation: string;
  readonly cluster: string;
  readonly at: string;
}

/** Days in which an operation that failed may be started again and find its snapshot still there. */
const useHoldsDays = 7;

export function isInUse(use: SnapshotUse, now: string): boolean {
  return Date.parse(now) - Date.parse(use.at) < useHoldsDays * 86_400_000;
}

/**
 * Chooses the server that saves a snapshot: one that did not fail at it before and is not etcd's leader, in this order of weight; of equal ones that of the
 * highest slot. The leader has the most to do, so it is left alone where there is another. Undefined when there is none at all.
 *
 * Nobody is asked first who is well: that command would cost as much as the snapshot, every night on every cluster. Whoever is not well says so when it is
 * to save, within seconds, and the next one is asked.
 *
 * @param living members whose machine runs
 * @param leader node name of etcd's leader when the last snapshot was taken: it changes when servers restart, seldom between two nights
 * @param failed instances on which an earlier pass failed
 */
export function chooseSnapshotServer(input: {
  readonly living: readonly ServerMember[];
  readonly leader?: string | undefined;
  readonly failed: readonly string[];
}): ServerMember | undefined {
  const { leader, failed } = input;
  const weight = ({ instanceId }: ServerMember) => (failed.includes(instanceId) ? 2 : 0) + (leader === nodeName(serverPool, instanceId) ? 1 : 0);
  return [...input.living].sort((a, b) => weight(a) - weight(b) || b.slot - a.slot)[0];
}

/** RKE2's snapshot ends with 32 bytes, the SHA-256 of all before them, and is otherwise whole pages of 512 bytes or more (etcd source, snapshot save). */
export function sizeFault(bytes: number): string | undefined {
  if (bytes <= 32) return `it has ${bytes} bytes, which no snapshot is`;
  return bytes % 512 === 32 ? undefined : `its size, ${bytes} bytes, is not that of an etcd snapshot with its checksum at the end`;
}
