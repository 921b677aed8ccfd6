import { EventBridgeClient, PutEventsCommand } from "@aws-sdk/client-eventbridge";
import { DecryptCommand, DisabledException, EncryptCommand, GenerateDataKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  ListPartsCommand,
  NoSuchKey,
  NotFound,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { beforeEach, describe, expect, it } from "vitest";
import { createEventBridge } from "../../local/aws/eventbridge.js";
import { createKms, type Kms } from "../../local/aws/kms.js";
import { createS3, leastPartBytes, type S3 } from "../../local/aws/s3.js";
import { sdkOptions } from "./sdk-options.js";
import { type TinyWorld, tinyWorld } from "./tiny-world.js";

const keyArn = "arn:aws:kms:eu-central-1:111122223333:key/0a1b";

let world: TinyWorld;
let s3: S3;
let kms: Kms;

const options = () => sdkOptions(world);

beforeEach(() => {
  world = tinyWorld();
  kms = createKms(world);
  kms.createKey({ arn: keyArn, description: "", aliases: ["alias/secrets"], enabled: true });
  s3 = createS3(world);
  const encryption = { algorithm: "aws:kms", keyArn, bucketKey: true } as const;
  s3.createBucket({ name: "state", versioned: true, encryption, lifecycle: [], objectLock: undefined, events: false });
  const events = createEventBridge(world);
  events.createBus("drover");
  for (const service of [kms, s3, events]) world.add(service);
});

describe("the SDK's S3 client against the local S3", () => {
  const client = () => new S3Client(options());
  const where = { Bucket: "state", Key: "clusters/prod/record é+1.json" };

  it("puts with the checksum it adds by itself, and reads with the check it does by itself", async () => {
    const put = await client().send(new PutObjectCommand({ ...where, Body: "hello", Metadata: { owner: "x" }, IfNoneMatch: "*" }));
    expect(put).toMatchObject({ ServerSideEncryption: "aws:kms", SSEKMSKeyId: keyArn, BucketKeyEnabled: true, ChecksumCRC32: "NhCmhg==" });
    const got = await client().send(new GetObjectCommand(where));
    expect(await got.Body?.transformToString()).toBe("hello");
    expect(got).toMatchObject({ ETag: put.ETag, VersionId: put.VersionId, Metadata: { owner: "x" }, ContentLength: 5 });
  });

  it("meets its own exceptions: a condition that does not hold, a key that is not there", async () => {
    const put = () => client().send(new PutObjectCommand({ ...where, Body: "hello", IfNoneMatch: "*" }));
    await put();
    await expect(put()).rejects.toMatchObject({ name: "PreconditionFailed", $metadata: { httpStatusCode: 412 } });
    await expect(client().send(new GetObjectCommand({ ...where, Key: "none" }))).rejects.toBeInstanceOf(NoSuchKey);
    await expect(client().send(new HeadObjectCommand({ ...where, Key: "none" }))).rejects.toBeInstanceOf(NotFound);
    await expect(client().send(new GetObjectCommand({ ...where, Range: "bytes=9-" }))).rejects.toMatchObject({
      name: "InvalidRange",
      $metadata: { httpStatusCode: 416 },
    });
  });

  it("lists, pages, and deletes many", async () => {
    for (const key of ["a/1", "a/2", "b"]) await client().send(new PutObjectCommand({ Bucket: "state", Key: key, Body: key }));
    const first = await client().send(new ListObjectsV2Command({ Bucket: "state", Delimiter: "/", MaxKeys: 1 }));
    expect(first).toMatchObject({ CommonPrefixes: [{ Prefix: "a/" }], IsTruncated: true, KeyCount: 1 });
    const second = await client().send(new ListObjectsV2Command({ Bucket: "state", Delimiter: "/", ContinuationToken: first.NextContinuationToken }));
    expect(second).toMatchObject({ Contents: [{ Key: "b", Size: 1 }], IsTruncated: false });
    const deleted = await client().send(new DeleteObjectsCommand({ Bucket: "state", Delete: { Objects: [{ Key: "a/1" }, { Key: "b" }] } }));
    expect(deleted.Deleted?.map(({ Key, DeleteMarker }) => [Key, DeleteMarker])).toEqual([
      ["a/1", true],
      ["b", true],
    ]);
    const versions = await client().send(new ListObjectVersionsCommand({ Bucket: "state" }));
    expect([versions.Versions?.length, versions.DeleteMarkers?.length]).toEqual([3, 2]);
  });

  it("uploads in parts, with SHA-256 when the upload says so", async () => {
    const { UploadId } = await client().send(new CreateMultipartUploadCommand({ ...where, ChecksumAlgorithm: "SHA256" }));
    const bodies = [Buffer.alloc(leastPartBytes, "x"), Buffer.from("tail")];
    await expect(client().send(new UploadPartCommand({ ...where, UploadId, PartNumber: 1, Body: Buffer.from("x") }))).rejects.toMatchObject({
      name: "InvalidRequest",
    });
    for (const [index, Body] of bodies.entries()) {
      await client().send(new UploadPartCommand({ ...where, UploadId, PartNumber: index + 1, Body, ChecksumAlgorithm: "SHA256" }));
    }
    const { Parts } = await client().send(new ListPartsCommand({ ...where, UploadId }));
    const done = await client().send(
      new CompleteMultipartUploadCommand({
        ...where,
        UploadId,
        IfNoneMatch: "*",
        MultipartUpload: { Parts: (Parts ?? []).map(({ PartNumber, ETag, ChecksumSHA256 }) => ({ PartNumber, ETag, ChecksumSHA256 })) },
      }),
    );
    expect(done.ChecksumSHA256).toMatch(/-2$/);
    expect((await client().send(new HeadObjectCommand(where))).ContentLength).toBe(leastPartBytes + 4);
  });
});

describe("the SDK's KMS client against the local KMS", () => {
  it("encrypts, decrypts, and meets its own exceptions", async () => {
    const client = new KMSClient(options());
    const context = { EncryptionContext: { cluster: "prod" } };
    const { CiphertextBlob } = await client.send(new EncryptCommand({ KeyId: "alias/secrets", Plaintext: Buffer.from("token"), ...context }));
    const opened = await client.send(new DecryptCommand({ CiphertextBlob, ...context }));
    expect(Buffer.from(opened.Plaintext as Uint8Array).toString()).toBe("token");
    await expect(client.send(new DecryptCommand({ CiphertextBlob }))).rejects.toMatchObject({ name: "InvalidCiphertextException" });
    expect((await client.send(new GenerateDataKeyCommand({ KeyId: keyArn, KeySpec: "AES_256" }))).Plaintext?.length).toBe(32);
    kms.setKeyState(keyArn, "Disabled");
    await expect(client.send(new DecryptCommand({ CiphertextBlob, ...context }))).rejects.toBeInstanceOf(DisabledException);
  });
});

describe("the SDK's EventBridge client against the local EventBridge", () => {
  it("puts entries, and learns which failed", async () => {
    const entry = { Source: "drover", DetailType: "Cluster Ready", Detail: "{}", EventBusName: "drover", Time: new Date(world.clock.now()) };
    const output = await new EventBridgeClient(options()).send(new PutEventsCommand({ Entries: [entry, { ...entry, Detail: "[]" }] }));
    expect(output).toMatchObject({
      FailedEntryCount: 1,
      Entries: [{ EventId: expect.stringMatching(/^[0-9a-f-]{36}$/) }, { ErrorCode: "MalformedDetail" }],
    });
  });
});
