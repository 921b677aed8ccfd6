/**
 * The snapshot bucket: uploads that can only create, what S3 says it holds, manifests, and removal by version.
 *
 * A node never gets more than an address for one object, or one part of it, with the SHA-256 that its bytes must have: S3 computes it from what arrives, and
 * refuses anything else. The bucket's own default encrypts.
 */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  GetObjectRetentionCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { NotYet, Unsafe } from "../../core/failures.js";
import { snapshotKeys } from "../../core/layout.js";
import type { DeliveryEntry } from "../../core/node-commands.js";
import { type Manifest, manifestSchema, type StoredObject } from "../../core/snapshots.js";
import { presigningClient, urlLifetimeSeconds } from "./deliveries.js";
import { listFiles } from "./state.js";

/** What a node said of the file it saved. */
export type SavedFile = Pick<Manifest["file"], "bytes" | "sha256" | "parts">;

export interface SnapshotStore {
  /** How a node sends a snapshot: `snapshot`, or `part-1`, `part-2`, ... Asked again it answers with new addresses for the same. */
  upload(uid: string, snapshot: string, file: SavedFile): Promise<readonly DeliveryEntry[]>;
  /** Puts the parts of an upload together, once all are there with the hashes they should have. Nothing to do for a file that was sent whole. */
  complete(uid: string, snapshot: string, file: SavedFile): Promise<void>;
  /** What S3 holds under the key now, or in one version of it; undefined when there is none. */
  stored(uid: string, snapshot: string, versionId?: string): Promise<StoredObject | undefined>;
  /** The beginning of one version: enough to tell a database from an archive. */
  firstBytes(uid: string, snapshot: string, versionId: string): Promise<Uint8Array>;
  /** Address of one version, for a node that restores it. */
  address(uid: string, snapshot: string, versionId: string): Promise<string>;
  /** Ids under a cluster, in their order, and which have a manifest. */
  list(uid: string): Promise<readonly { readonly id: string; readonly hasManifest: boolean }[]>;
  /** @throws Unsafe when what is there is no manifest */
  manifest(uid: string, snapshot: string): Promise<{ readonly manifest: Manifest; readonly versionId: string } | undefined>;
  /** Writes a manifest, or answers false when there is one. */
  writeManifest(manifest: Manifest): Promise<boolean>;
  /** Until when Object Lock holds the snapshot or its manifest, the later of the two; undefined when nothing does. */
  lockedUntil(uid: string, snapshot: string): Promise<string | undefined>;
  /** Removes a snapshot for good: its manifest first, so that half of it never counts. False while a lock holds it after all. */
  remove(uid: string, snapshot: string): Promise<boolean>;
}

export function snapshotStore(bucket: string, s3: S3Client = new S3Client({}), signer: S3Client = presigningClient()): SnapshotStore {
  /** Uploads of this key that are under way, the earliest first. */
  const uploadsOf = async (key: string): Promise<readonly string[]> => {
    const open = await s3.send(new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: key }));
    return (open.Uploads ?? [])
      .filter((upload) => upload.Key === key)
      .sort((a, b) => (a.Initiated?.getTime() ?? 0) - (b.Initiated?.getTime() ?? 0))
      .map((upload) => upload.UploadId ?? "");
  };
  const head = (key: string, versionId?: string) =>
    found(() =>
      s3.send(
        new HeadObjectCommand({ Bucket: bucket, Key: key, ChecksumMode: "ENABLED", ...(versionId === undefined ? {} : { VersionId: versionId }) }),
      ),
    );
  const partsOf = async (key: string, uploadId: string) => {
    const page = await s3.send(new ListPartsCommand({ Bucket: bucket, Key: key, UploadId: uploadId }));
    return page.Parts ?? [];
  };
  // Left out of the query, so that the hash is a header: it is signed, and whoever sends must send it.
  const signing = { expiresIn: urlLifetimeSeconds, unhoistableHeaders: new Set(["x-amz-checksum-sha256"]) };

  const store: SnapshotStore = {
    async upload(uid, snapshot, file) {
      const key = snapshotKeys.snapshot(uid, snapshot);
      if (file.parts.length === 0) {
        const hash = base64(file.sha256);
        const command = new PutObjectCommand({ Bucket: bucket, Key: key, IfNoneMatch: "*", ChecksumSHA256: hash });
        const headers = { "if-none-match": "*", "x-amz-checksum-sha256": hash };
        return [{ kind: "put", name: "snapshot", url: await getSignedUrl(signer, command, signing), headers }];
      }
      const [begun] = await uploadsOf(key);
      const uploadId = begun ?? (await s3.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key: key, ChecksumAlgorithm: "SHA256" }))).UploadId;
      return Promise.all(
        file.parts.map(async (part, index): Promise<DeliveryEntry> => {
          const hash = base64(part);
          const command = new UploadPartCommand({ Bucket: bucket, Key: key, UploadId: uploadId, PartNumber: index + 1, ChecksumSHA256: hash });
          const url = await getSignedUrl(signer, command, signing);
          return { kind: "put", name: `part-${index + 1}`, url, headers: { "x-amz-checksum-sha256": hash } };
        }),
      );
    },

    async complete(uid, snapshot, file) {
      if (file.parts.length === 0) return;
      const key = snapshotKeys.snapshot(uid, snapshot);
      if ((await head(key)) !== undefined) return;
      for (const uploadId of await uploadsOf(key)) {
        const sent = await partsOf(key, uploadId);
        const isWhole = sent.length === file.parts.length && sent.every((part, index) => part.ChecksumSHA256 === base64(file.parts[index] ?? ""));
        if (!isWhole) continue;
        try {
          await s3.send(
            new CompleteMultipartUploadCommand({
              Bucket: bucket,
              Key: key,
              UploadId: uploadId,
              IfNoneMatch: "*",
              MpuObjectSize: file.bytes,
              MultipartUpload: {
                Parts: sent.map(({ PartNumber, ETag, ChecksumSHA256 }) => ({ PartNumber, ETag, ChecksumSHA256 })),
              },
            }),
          );
          return;
        } catch (error) {
          // Another run was first; what it made is read back as ours would be.
          if (isNamed(error, "PreconditionFailed", "NoSuchUpload")) return;
          if (isNamed(error, "ConditionalRequestConflict")) {
            throw new NotYet(`The parts of ${snapshot} are being put together by another`, "Asking again shortly", { cause: error });
          }
          throw error;
        }
      }
    },

    async stored(uid, snapshot, versionId) {
      const object = await head(snapshotKeys.snapshot(uid, snapshot), versionId);
      return object && storedObject(object);
    },

    async firstBytes(uid, snapshot, versionId) {
      const key = snapshotKeys.snapshot(uid, snapshot);
      const answer = await s3.send(new GetObjectCommand({ Bucket: bucket, Key: key, VersionId: versionId, Range: "bytes=0-63" }));
      return (await answer.Body?.transformToByteArray()) ?? new Uint8Array();
    },

    address: (uid, snapshot, versionId) =>
      getSignedUrl(signer, new GetObjectCommand({ Bucket: bucket, Key: snapshotKeys.snapshot(uid, snapshot), VersionId: versionId }), {
        expiresIn: urlLifetimeSeconds,
      }),

    async list(uid) {
      const keys = (await listFiles(bucket, snapshotKeys.cluster(uid), s3)).map(({ key }) => key);
      const ids = [...new Set(keys.map((key) => key.split("/")[1] ?? ""))].sort();
      return ids.map((id) => ({ id, hasManifest: keys.includes(snapshotKeys.manifest(uid, id)) }));
    },

    async manifest(uid, snapshot) {
      const object = await found(() => s3.send(new GetObjectCommand({ Bucket: bucket, Key: snapshotKeys.manifest(uid, snapshot) })));
      if (object === undefined) return undefined;
      const manifest = manifestSchema.safeParse(parsed((await object.Body?.transformToString()) ?? ""));
      if (manifest.success) return { manifest: manifest.data, versionId: object.VersionId ?? "" };
      const [issue] = manifest.error.issues;
      throw new Unsafe(
        `What lies where the manifest of snapshot ${snapshot} should be is none: ${issue?.path.join(".") || "the whole"}: ${issue?.message ?? ""}`,
        `Somebody wrote ${snapshotKeys.manifest(uid, snapshot)} by hand: look at the versions of the object`,
      );
    },

    async writeManifest(manifest) {
      const key = snapshotKeys.manifest(manifest.cluster.uid, manifest.id);
      try {
        await s3.send(
          new PutObjectCommand({ Bucket: bucket, Key: key, Body: JSON.stringify(manifest), ContentType: "application/json", IfNoneMatch: "*" }),
        );
        return true;
      } catch (error) {
        if (isNamed(error, "PreconditionFailed")) return false;
        if (isNamed(error, "ConditionalRequestConflict")) {
          throw new NotYet(`The manifest of ${manifest.id} is being written by another`, "Asking again shortly", { cause: error });
        }
        throw error;
      }
    },

    async lockedUntil(uid, snapshot) {
      const keys = [snapshotKeys.snapshot(uid, snapshot), snapshotKeys.manifest(uid, snapshot)];
      const until = await Promise.all(
        keys.map(
          async (key) => (await found(() => s3.send(new GetObjectRetentionCommand({ Bucket: bucket, Key: key }))))?.Retention?.RetainUntilDate,
        ),
      );
      const latest = Math.max(...until.map((date) => date?.getTime() ?? 0));
      return latest === 0 ? undefined : new Date(latest).toISOString();
    },

    async remove(uid, snapshot) {
      for (const key of [snapshotKeys.manifest(uid, snapshot), snapshotKeys.snapshot(uid, snapshot)]) {
        const object = await head(key);
        if (object?.VersionId === undefined) continue;
        try {
          await s3.send(new DeleteObjectCommand({ Bucket: bucket, Key: key, VersionId: object.VersionId }));
        } catch (error) {
          if (isNamed(error, "AccessDenied") && (await store.lockedUntil(uid, snapshot)) !== undefined) return false;
          throw error;
        }
      }
      for (const uploadId of await uploadsOf(snapshotKeys.snapshot(uid, snapshot))) {
        await s3.send(new AbortMultipartUploadCommand({ Bucket: bucket, Key: snapshotKeys.snapshot(uid, snapshot), UploadId: uploadId }));
      }
      return true;
    },
  };
  return store;
}

/** S3 spells the hash of an object that was sent in parts `<hash of the parts' hashes>-<number of parts>` (S3 user guide, checking object integrity). */
function storedObject(head: {
  readonly VersionId?: string | undefined;
  readonly ContentLength?: number | undefined;
  readonly ChecksumSHA256?: string | undefined;
}): StoredObject {
  const { VersionId: versionId = "", ContentLength: bytes = 0, ChecksumSHA256: checksum } = head;
  const [hash = "", parts] = checksum?.split("-") ?? [];
  const sha256 = Buffer.from(hash, "base64").toString("hex");
  if (checksum === undefined) return { versionId, bytes, sha256: undefined, composite: undefined };
  if (parts === undefined) return { versionId, bytes, sha256, composite: undefined };
  return { versionId, bytes, sha256: undefined, composite: { sha256, parts: Number(parts) } };
}

async function found<T>(read: () => Promise<T>): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (isNamed(error, "NotFound", "NoSuchKey", "NoSuchVersion", "NoSuchObjectLockConfiguration")) return undefined;
    throw error;
  }
}

function isNamed(error: unknown, ...names: readonly string[]): boolean {
  return error instanceof Error && names.includes(error.name);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function base64(hex: string): string {
  return Buffer.from(hex, "hex").toString("base64");
}
