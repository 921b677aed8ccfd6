import { createHash } from "node:crypto";
import { S3Client } from "@aws-sdk/client-s3";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { DeliveryEntry } from "../../core/node-commands.js";
import { type Manifest, proofFault } from "../../core/snapshots.js";
import { type SavedFile, type SnapshotStore, snapshotStore } from "../../functions/aws/snapshots.js";
import { createKms } from "../../local/aws/kms.js";
import type { SigningCredentials } from "../../local/aws/presigned.js";
import { createS3, leastPartBytes, type S3 } from "../../local/aws/s3.js";
import { sdkOptions } from "../local-aws/sdk-options.js";
import { calls, startAtMs, type TinyWorld, tinyWorld } from "../local-aws/tiny-world.js";

const bucket = "snapshots";
const [uid, id] = ["u-1", "20260105T100000Z-0a1b2c3d"];
const key = `${uid}/${id}/snapshot`;
const keyArn = "arn:aws:kms:eu-central-1:111122223333:key/0a1b";
const day = 86_400_000;
const signer: SigningCredentials = { accessKeyId: "AKIAEXAMPLE", secretAccessKey: "secret", principal: "arn:aws:iam::1:role/signer", name: "signer" };

let world: TinyWorld;
let s3: S3;
let store: SnapshotStore;
let call: ReturnType<typeof calls>;
let asked: string[];

beforeEach(() => {
  // The presigner asks the clock.
  vi.useFakeTimers({ toFake: ["Date"], now: startAtMs });
  world = tinyWorld();
  const kms = createKms(world);
  kms.createKey({ arn: keyArn, description: "", aliases: [], enabled: true });
  s3 = createS3(world);
  s3.createBucket({
    name: bucket,
    versioned: true,
    encryption: { algorithm: "aws:kms", keyArn, bucketKey: true },
    lifecycle: [],
    objectLock: { defaultRetention: { mode: "GOVERNANCE", days: 7 } },
    events: false,
  });
  for (const service of [kms, s3]) world.add(service);
  call = calls(world, s3);
  s3.usePresigned({
    credentials: (accessKeyId) => (accessKeyId === signer.accessKeyId ? signer : undefined),
    call: (name, input) => call(name, input),
  });
  asked = [];
  const options = sdkOptions(world, (operation) => asked.push(operation));
  store = snapshotStore(bucket, new S3Client(options), new S3Client({ ...options, requestChecksumCalculation: "WHEN_REQUIRED" }));
});
afterEach(() => {
  vi.useRealTimers();
});

const hash = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const content = Buffer.alloc(1056, "a");
const whole: SavedFile = { bytes: content.length, sha256: hash(content), parts: [] };
const pieces = [Buffer.alloc(leastPartBytes, "b"), Buffer.alloc(544, "c")];
const inParts: SavedFile = { bytes: leastPartBytes + 544, sha256: hash(Buffer.concat(pieces)), parts: pieces.map(hash) };

/** As a node sends: with the headers it was told, and any others it likes. */
function send(entry: DeliveryEntry | undefined, body: Uint8Array, more: Readonly<Record<string, string>> = {}): string {
  if (entry?.kind !== "put") throw new Error("nothing to send to");
  const response = s3.fetchPresigned(entry.url, { method: "PUT", headers: { ...entry.headers, ...more }, body });
  return `${response.status} ${/<Code>(\w+)<\/Code>/.exec(Buffer.from(response.body).toString())?.[1] ?? ""}`.trim();
}
const put = async (file: SavedFile = whole) => send((await store.upload(uid, id, file))[0], content);

describe("the upload of a snapshot", () => {
  it("goes to one address, and is what the node saved", async () => {
    const entries = await store.upload(uid, id, whole);
    expect(entries.map((entry) => entry.kind === "put" && entry.name)).toEqual(["snapshot"]);
    expect(send(entries[0], content)).toBe("200");
    const stored = await store.stored(uid, id);
    expect(proofFault(whole, stored)).toBeUndefined();
    expect(s3.read(bucket, key)).toEqual(content);
  });
  it("signs what makes it harmless: create only, and with this hash", async () => {
    const [entry] = await store.upload(uid, id, whole);
    const signed = new URL(entry?.url ?? "").searchParams.get("X-Amz-SignedHeaders")?.split(";");
    expect(signed).toEqual(expect.arrayContaining(["host", "if-none-match", "x-amz-checksum-sha256"]));
    expect(new URL(entry?.url ?? "").searchParams.get("X-Amz-Expires")).toBe("900");
  });
  it("cannot be overwritten by the same address, used again", async () => {
    const [entry] = await store.upload(uid, id, whole);
    send(entry, content);
    const { versionId } = (await store.stored(uid, id)) ?? {};
    expect(send(entry, content)).toBe("412 PreconditionFailed");
    expect((await store.stored(uid, id))?.versionId).toBe(versionId);
  });
  it.each([
    ["other bytes", Buffer.alloc(1056, "x"), {}, "400 BadDigest"],
    [
      "other bytes with their own hash",
      Buffer.alloc(1056, "x"),
      { "x-amz-checksum-sha256": "b".repeat(43).concat("=") },
      "403 SignatureDoesNotMatch",
    ],
    ["an overwrite", content, { "if-none-match": "" }, "403 SignatureDoesNotMatch"],
    ["a lock of its own", content, { "x-amz-object-lock-mode": "COMPLIANCE" }, "403 AccessDenied"],
    ["another encryption", content, { "x-amz-server-side-encryption": "AES256" }, "403 AccessDenied"],
  ])("refuses %s", async (_, body, headers, refusal) => {
    const [entry] = await store.upload(uid, id, whole);
    expect(send(entry, body, headers)).toBe(refusal);
    expect(await store.stored(uid, id)).toBeUndefined();
  });
  it.each(["GET", "HEAD", "DELETE"])("gives no right to %s", async (method) => {
    const [entry] = await store.upload(uid, id, whole);
    send(entry, content);
    if (entry?.kind !== "put") throw new Error("no upload");
    expect(s3.fetchPresigned(entry.url, { method, headers: entry.headers }).status).toBe(403);
  });
  it("is over after fifteen minutes", async () => {
    const [entry] = await store.upload(uid, id, whole);
    await world.clock.runUntil(startAtMs + 900_000);
    expect(send(entry, content)).toBe("403 AccessDenied");
  });
});

describe("the upload of a snapshot in parts", () => {
  const sendAll = async () => {
    const entries = await store.upload(uid, id, inParts);
    return entries.map((entry, index) => send(entry, pieces[index] as Buffer));
  };
  it("is put together by the function alone, and is what the node saved", async () => {
    expect(await sendAll()).toEqual(["200", "200"]);
    expect(await store.stored(uid, id)).toBeUndefined();
    await store.complete(uid, id, inParts);
    expect(proofFault(inParts, await store.stored(uid, id))).toBeUndefined();
    expect(s3.read(bucket, key)?.equals(Buffer.concat(pieces))).toBe(true);
  });
  it("goes on where it was begun, and is put together once", async () => {
    const [first] = await store.upload(uid, id, inParts);
    send(first, pieces[0] as Buffer);
    const [, second] = await store.upload(uid, id, inParts);
    send(second, pieces[1] as Buffer);
    await store.complete(uid, id, inParts);
    const { versionId } = (await store.stored(uid, id)) ?? {};
    await store.complete(uid, id, inParts);
    expect((await store.stored(uid, id))?.versionId).toBe(versionId);
    expect(asked.filter((operation) => operation === "CreateMultipartUpload")).toHaveLength(1);
  });
  it("is not put together while a part is missing", async () => {
    const [first] = await store.upload(uid, id, inParts);
    send(first, pieces[0] as Buffer);
    await store.complete(uid, id, inParts);
    expect(proofFault(inParts, await store.stored(uid, id))).toMatch(/not in the snapshot bucket/);
  });
  it("takes no part of other bytes, and none after its end", async () => {
    const entries = await store.upload(uid, id, inParts);
    expect(send(entries[0], Buffer.alloc(leastPartBytes, "x"))).toBe("400 BadDigest");
    for (const [index, entry] of entries.entries()) send(entry, pieces[index] as Buffer);
    await store.complete(uid, id, inParts);
    expect(send(entries[0], pieces[0] as Buffer)).toBe("404 NoSuchUpload");
  });
});

const manifestOf = async (more: Partial<Manifest> = {}): Promise<Manifest> => ({
  schema: 1,
  id,
  cluster: { name: "prod", uid, kubernetesId: "k-1" },
  takenAt: "2026-01-05T10:00:00.000Z",
  provenAt: "2026-01-05T10:00:30.000Z",
  operation: "backup-prod-1",
  requestedBy: "me",
  version: "v1.35.7+rke2r1",
  architecture: "amd64",
  node: { name: "server-i-1", instanceId: "i-1" },
  etcd: { revision: 7, keys: 3, hash: 1, compactRevision: 0, members: ["server-i-1"], leader: "server-i-1" },
  file: { key, versionId: (await store.stored(uid, id))?.versionId ?? "", ...whole },
  token: { generation: 1, hash: "0a1b2c3d4e5f" },
  wanted: {},
  configs: {},
  manifests: {},
  ...more,
});

describe("manifests", () => {
  it("make a snapshot count, and are written once", async () => {
    await put();
    expect(await store.list(uid)).toEqual([{ id, hasManifest: false }]);
    const manifest = await manifestOf();
    expect(await store.writeManifest(manifest)).toBe(true);
    expect(await store.writeManifest({ ...manifest, requestedBy: "somebody else" })).toBe(false);
    expect((await store.manifest(uid, id))?.manifest).toEqual(manifest);
    expect(await store.list(uid)).toEqual([{ id, hasManifest: true }]);
  });
  it("are not there where there is none, and not believed where something else lies", async () => {
    expect(await store.manifest(uid, id)).toBeUndefined();
    s3.put(bucket, `${uid}/${id}/manifest.json`, "{}");
    await expect(store.manifest(uid, id)).rejects.toMatchObject({ name: "Unsafe" });
  });
  it("are of one cluster, in the order of their ids", async () => {
    for (const each of ["u-1/b/snapshot", "u-1/a/snapshot", "u-1/a/manifest.json", "u-2/c/snapshot"]) s3.put(bucket, each, "x");
    expect(await store.list("u-1")).toEqual([
      { id: "a", hasManifest: true },
      { id: "b", hasManifest: false },
    ]);
  });
});

describe("the removal of a snapshot", () => {
  it("waits until Object Lock lets both go, and then leaves no version", async () => {
    await put();
    await world.clock.runUntil(startAtMs + 60_000);
    await store.writeManifest(await manifestOf());
    expect(await store.lockedUntil(uid, id)).toBe(new Date(startAtMs + 60_000 + 7 * day).toISOString());
    expect(await store.remove(uid, id)).toBe(false);
    await world.clock.runUntil(startAtMs + 60_000 + 7 * day);
    expect(await store.remove(uid, id)).toBe(true);
    const left = call("ListObjectVersions", { Bucket: bucket });
    expect([left.Versions, left.DeleteMarkers]).toEqual([undefined, undefined]);
    expect(await store.remove(uid, id)).toBe(true);
  });
  it("takes the manifest first, so that half a snapshot never counts", async () => {
    await put();
    await store.writeManifest(await manifestOf());
    await world.clock.runUntil(startAtMs + 8 * day);
    const deleted: string[] = [];
    const options = sdkOptions(world);
    const spied = new S3Client({
      ...options,
      requestHandler: {
        handle: async (request: Parameters<typeof options.requestHandler.handle>[0]) => {
          if (request.method === "DELETE") deleted.push(request.path);
          return options.requestHandler.handle(request);
        },
      },
    });
    await snapshotStore(bucket, spied).remove(uid, id);
    expect(deleted).toEqual([`/${uid}/${id}/manifest.json`, `/${key}`]);
  });
  it("also ends an upload that nobody finished", async () => {
    await store.upload(uid, id, inParts);
    await store.remove(uid, id);
    expect(call("ListMultipartUploads", { Bucket: bucket }).Uploads).toBeUndefined();
  });
});
