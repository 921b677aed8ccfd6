import { Readable } from "node:stream";
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
import { AwsError } from "../../local/kernel/contract.js";
import { decode, encodeError, encodeOutput } from "../../local/kernel/protocols.js";
import { fieldTree, unmodelledFields } from "../../local/kernel/schemas.js";
import { calls, type TinyWorld, tinyWorld } from "./tiny-world.js";

const keyArn = "arn:aws:kms:eu-central-1:111122223333:key/0a1b";

interface SdkRequest {
  readonly method: string;
  readonly hostname: string;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | readonly string[] | null>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

let world: TinyWorld;
let s3: S3;
let kms: Kms;

/** What an SDK client needs to speak to the services of the world: no socket, no permission asked, unmodelled fields refused. */
function options() {
  const handle = async (request: SdkRequest) => {
    const query = Object.entries(request.query ?? {}).flatMap(([name, value]) =>
      [value].flat().map((each) => (each === null ? name : `${encodeURIComponent(name)}=${encodeURIComponent(each)}`)),
    );
    const chunks: Buffer[] = [];
    if (request.body instanceof Readable) for await (const chunk of request.body) chunks.push(Buffer.from(chunk));
    else if (request.body instanceof Uint8Array) chunks.push(Buffer.from(request.body.buffer, request.body.byteOffset, request.body.byteLength));
    else if (request.body !== undefined) chunks.push(Buffer.from(String(request.body)));
    const { service, operation, input } = decode({
      method: request.method,
      host: request.hostname,
      path: request.path + (query.length === 0 ? "" : `?${query.join("&")}`),
      headers: Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name.toLowerCase(), value])),
      body: Buffer.concat(chunks),
    });
    const found = world.service(service);
    expect(unmodelledFields(input, operation.input, fieldTree(found.operations[operation.name]?.fields ?? [])), operation.name).toEqual([]);
    const context = { requestId: "11111111-2222-3333-4444-555555555555", now: world.clock.now(), method: request.method };
    const answer = () => {
      try {
        return encodeOutput(operation, calls(world, found)(operation.name, input), context);
      } catch (error) {
        if (error instanceof AwsError) return encodeError(service, error, context);
        throw error;
      }
    };
    const { status, headers, body } = answer();
    return { response: { statusCode: status, headers: { ...headers }, body: Readable.from([Buffer.from(body)]) } };
  };
  return {
    region: "eu-central-1",
    credentials: { accessKeyId: "AKIAEXAMPLE", secretAccessKey: "secret" },
    maxAttempts: 1,
    requestHandler: { handle },
  };
}

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
