import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { Sha256 } from "@aws-crypto/sha256-js";
import { GetObjectCommand, PutObjectCommand, S3Client, UploadPartCommand } from "@aws-sdk/client-s3";
import { getSignedUrl, S3RequestPresigner } from "@aws-sdk/s3-request-presigner";
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { createKms, type Kms } from "../../local/aws/kms.js";
import { checkPresigned, type SigningCredentials, wireRequest } from "../../local/aws/presigned.js";
import { type BucketConfig, bucketFromTemplate, createS3, leastPartBytes, type S3 } from "../../local/aws/s3.js";
import { seedRelease, standInFiles } from "../../local/aws/stand-in-release.js";
import type { AwsError } from "../../local/kernel/contract.js";
import { fieldTree, schemasOf, unmodelledFields } from "../../local/kernel/schemas.js";
import { calls, codeOf, permissionsOf, startAtMs, type TinyWorld, tinyWorld } from "./tiny-world.js";

const keyArn = "arn:aws:kms:eu-central-1:111122223333:key/0a1b";
const day = 86_400_000;
const plain: BucketConfig = {
  name: "plain",
  versioned: false,
  encryption: { algorithm: "AES256" },
  lifecycle: [],
  objectLock: undefined,
  events: false,
};
const kept: BucketConfig = { ...plain, name: "kept", versioned: true };
const sealed: BucketConfig = { ...kept, name: "sealed", encryption: { algorithm: "aws:kms", keyArn, bucketKey: true } };
const locked: BucketConfig = { ...kept, name: "locked", objectLock: { defaultRetention: { mode: "GOVERNANCE", days: 2 } } };
const announced: BucketConfig = { ...kept, name: "announced", events: true };

const md5 = (text: string) => createHash("md5").update(text).digest("hex");
const sha256 = (bytes: string | Uint8Array) => createHash("sha256").update(bytes).digest("base64");

let world: TinyWorld;
let s3: S3;
let kms: Kms;
let call: ReturnType<typeof calls>;

function start(options: Parameters<typeof tinyWorld>[0] = {}): void {
  world = tinyWorld(options);
  kms = createKms(world);
  kms.createKey({ arn: keyArn, description: "", aliases: [], enabled: true });
  world.add(kms);
  s3 = createS3(world);
  for (const config of [plain, kept, sealed, locked, announced]) s3.createBucket(config);
  call = calls(world, s3);
}
beforeEach(() => start());

const put = (Bucket: string, Key: string, text: string, more: object = {}) => call("PutObject", { Bucket, Key, Body: Buffer.from(text), ...more });
const text = (Bucket: string, Key: string, more: object = {}) => Buffer.from(call("GetObject", { Bucket, Key, ...more }).Body).toString();
const keysOf = (output: { Contents?: { Key: string }[] }) => (output.Contents ?? []).map(({ Key }) => Key);

describe("objects of the local S3", () => {
  it("come back with what they were put with", () => {
    const { ETag } = put("plain", "a/b", "hello", { ContentType: "text/plain", Metadata: { Owner: "x" } });
    expect(ETag).toBe(`"${md5("hello")}"`);
    expect(call("HeadObject", { Bucket: "plain", Key: "a/b" })).toMatchObject({
      ContentLength: 5,
      ContentType: "text/plain",
      Metadata: { owner: "x" },
      ETag,
    });
    expect(text("plain", "a/b")).toBe("hello");
  });

  it("are not changed when the writer's or the reader's buffer is", () => {
    const body = Buffer.from("hello");
    call("PutObject", { Bucket: "plain", Key: "k", Body: body });
    body.fill(0);
    call("GetObject", { Bucket: "plain", Key: "k" }).Body.fill(0);
    expect(text("plain", "k")).toBe("hello");
  });

  it.each([
    ["bytes=1-2", "el", "bytes 1-2/5"],
    ["bytes=3-", "lo", "bytes 3-4/5"],
    ["bytes=-2", "lo", "bytes 3-4/5"],
    ["bytes=0-99", "hello", "bytes 0-4/5"],
  ])("answer the range %s with %s", (Range, wanted, ContentRange) => {
    put("plain", "k", "hello");
    expect(text("plain", "k", { Range })).toBe(wanted);
    expect(call("GetObject", { Bucket: "plain", Key: "k", Range }).ContentRange).toBe(ContentRange);
  });

  it("refuse a range after the end", () => {
    put("plain", "k", "hello");
    expect(codeOf(() => call("GetObject", { Bucket: "plain", Key: "k", Range: "bytes=5-" }))).toBe("InvalidRange 416");
  });

  it("that are missing answer NoSuchKey to GET, NotFound to HEAD, and NoSuchBucket without a bucket", () => {
    expect(codeOf(() => call("GetObject", { Bucket: "plain", Key: "k" }))).toBe("NoSuchKey 404");
    expect(codeOf(() => call("HeadObject", { Bucket: "plain", Key: "k" }))).toBe("NotFound 404");
    expect(codeOf(() => put("none", "k", "x"))).toBe("NoSuchBucket 404");
  });

  it("refuse a checksum, an MD5 or a length that is not the body's", () => {
    expect(codeOf(() => put("plain", "k", "hello", { ChecksumSHA256: sha256("other") }))).toBe("BadDigest 400");
    expect(codeOf(() => put("plain", "k", "hello", { ChecksumCRC32: "AAAAAA==" }))).toBe("BadDigest 400");
    expect(codeOf(() => put("plain", "k", "hello", { ContentMD5: Buffer.from(md5("other"), "hex").toString("base64") }))).toBe("BadDigest 400");
    expect(codeOf(() => put("plain", "k", "hello", { ContentMD5: "short" }))).toBe("InvalidDigest 400");
    expect(codeOf(() => put("plain", "k", "hello", { ContentLength: 4 }))).toBe("IncompleteBody 400");
    expect(codeOf(() => put("plain", "k", "hello", { ChecksumAlgorithm: "SHA256" }))).toBe("InvalidRequest 400");
    expect(s3.read("plain", "k")).toBeUndefined();
  });

  it("give a verified checksum back when it is asked for, of the whole object only", () => {
    put("plain", "k", "hello", { ChecksumSHA256: sha256("hello") });
    expect(call("HeadObject", { Bucket: "plain", Key: "k", ChecksumMode: "ENABLED" })).toMatchObject({
      ChecksumSHA256: sha256("hello"),
      ChecksumType: "FULL_OBJECT",
    });
    expect(call("HeadObject", { Bucket: "plain", Key: "k" }).ChecksumSHA256).toBeUndefined();
    expect(call("GetObject", { Bucket: "plain", Key: "k", ChecksumMode: "ENABLED", Range: "bytes=0-1" }).ChecksumSHA256).toBeUndefined();
  });

  it("refuse keys and metadata that are too long", () => {
    expect(codeOf(() => put("plain", "é".repeat(513), "x"))).toBe("KeyTooLongError 400");
    expect(codeOf(() => put("plain", "k", "x", { Metadata: { a: "y".repeat(2048) } }))).toBe("MetadataTooLarge 400");
  });

  it("are the same after being saved and loaded, and ids go on", () => {
    const first = put("kept", "k", "one").VersionId;
    const { UploadId } = call("CreateMultipartUpload", { Bucket: "kept", Key: "big" });
    call("UploadPart", { Bucket: "kept", Key: "big", UploadId, PartNumber: 1, Body: Buffer.from("part") });
    const saved = structuredClone(s3.save());
    start();
    s3.load(saved);
    const second = put("kept", "k", "two").VersionId;
    expect(second).not.toBe(first);
    expect(text("kept", "k", { VersionId: first })).toBe("one");
    const [{ ETag }] = call("ListParts", { Bucket: "kept", Key: "big", UploadId }).Parts;
    call("CompleteMultipartUpload", { Bucket: "kept", Key: "big", UploadId, MultipartUpload: { Parts: [{ PartNumber: 1, ETag }] } });
    expect(text("kept", "big")).toBe("part");
  });
});

describe("conditional requests of the local S3", () => {
  it("create once", () => {
    put("plain", "k", "first", { IfNoneMatch: "*" });
    expect(codeOf(() => put("plain", "k", "second", { IfNoneMatch: "*" }))).toBe("PreconditionFailed 412");
    expect(text("plain", "k")).toBe("first");
  });

  it("replace what was read, and nothing else", () => {
    const { ETag } = put("plain", "k", "first");
    put("plain", "k", "second", { IfMatch: ETag });
    expect(codeOf(() => put("plain", "k", "third", { IfMatch: ETag }))).toBe("PreconditionFailed 412");
    expect(codeOf(() => put("plain", "none", "x", { IfMatch: ETag }))).toBe("NoSuchKey 404");
    expect(text("plain", "k")).toBe("second");
  });

  it("take a delete marker for nothing", () => {
    put("kept", "k", "first");
    call("DeleteObject", { Bucket: "kept", Key: "k" });
    expect(codeOf(() => put("kept", "k", "x", { IfMatch: "*" }))).toBe("NoSuchKey 404");
    put("kept", "k", "second", { IfNoneMatch: "*" });
    expect(text("kept", "k")).toBe("second");
  });

  it("read and delete by ETag", () => {
    const { ETag } = put("plain", "k", "first");
    expect(codeOf(() => call("GetObject", { Bucket: "plain", Key: "k", IfNoneMatch: ETag }))).toBe("NotModified 304");
    expect(codeOf(() => call("GetObject", { Bucket: "plain", Key: "k", IfMatch: '"other"' }))).toBe("PreconditionFailed 412");
    expect(codeOf(() => call("DeleteObject", { Bucket: "plain", Key: "k", IfMatch: '"other"' }))).toBe("PreconditionFailed 412");
    call("DeleteObject", { Bucket: "plain", Key: "k", IfMatch: ETag });
    expect(s3.read("plain", "k")).toBeUndefined();
  });

  it("refuse If-None-Match of an ETag, and both conditions at once", () => {
    expect(codeOf(() => put("plain", "k", "x", { IfNoneMatch: '"abc"' }))).toBe("NotImplemented 501");
    expect(codeOf(() => put("plain", "k", "x", { IfNoneMatch: "*", IfMatch: '"abc"' }))).toBe("NotImplemented 501");
  });

  it("may meet a conflict, which changes nothing; unconditional writes never do", () => {
    start({ faults: { throttle: 1 } });
    expect(codeOf(() => put("plain", "k", "x", { IfNoneMatch: "*" }))).toBe("ConditionalRequestConflict 409");
    expect(s3.read("plain", "k")).toBeUndefined();
    put("plain", "k", "x");
  });

  it("are linearizable: of every create-if-absent one wins, and no update is lost (1,000 random histories)", () => {
    const action = fc.record({
      writer: fc.constantFrom("a", "b"),
      act: fc.constantFrom("create", "read", "replace", "remove"),
      key: fc.constantFrom("x", "y"),
    });
    fc.assert(
      fc.property(
        fc.array(action, { maxLength: 40 }),
        fc.constantFrom("plain", "kept", "sealed"),
        fc.constantFrom(0, 0.2),
        (history, bucket, throttle) => {
          start({ seed: history.length, faults: { throttle } });
          const actual = new Map<string, string>();
          const seen = new Map<string, string>();
          let number = 0;
          for (const { writer, act, key } of history) {
            const value = `${writer}${++number}`;
            const view = `${writer}/${key}`;
            const attempt = (work: () => void): string => {
              try {
                work();
                return "done";
              } catch (error) {
                return (error as AwsError).code;
              }
            };
            if (act === "create") {
              const end = attempt(() => put(bucket, key, value, { IfNoneMatch: "*" }));
              if (end === "ConditionalRequestConflict") continue;
              expect(end).toBe(actual.has(key) ? "PreconditionFailed" : "done");
              if (end === "done") actual.set(key, value);
            } else if (act === "read") {
              const end = attempt(() => seen.set(view, `${call("GetObject", { Bucket: bucket, Key: key }).ETag} ${text(bucket, key)}`));
              expect(end).toBe(actual.has(key) ? "done" : "NoSuchKey");
              if (end === "done") expect(seen.get(view)?.split(" ")[1]).toBe(actual.get(key));
            } else {
              const [etag, known] = (seen.get(view) ?? '"never" -').split(" ");
              const end = attempt(() =>
                act === "replace" ? put(bucket, key, value, { IfMatch: etag }) : call("DeleteObject", { Bucket: bucket, Key: key, IfMatch: etag }),
              );
              if (end === "ConditionalRequestConflict") continue;
              expect(end).toBe(!actual.has(key) ? "NoSuchKey" : actual.get(key) === known ? "done" : "PreconditionFailed");
              if (end !== "done") continue;
              if (act === "replace") actual.set(key, value);
              else actual.delete(key);
            }
          }
          for (const key of ["x", "y"]) expect(s3.read(bucket, key)?.toString()).toBe(actual.get(key));
        },
      ),
      { seed: 4117, numRuns: 1000 },
    );
  });
});

describe("versions of the local S3", () => {
  it("stay behind a delete marker, and each can be removed", () => {
    const one = put("kept", "k", "one").VersionId;
    const two = put("kept", "k", "two").VersionId;
    const marker = call("DeleteObject", { Bucket: "kept", Key: "k" });
    expect(marker.DeleteMarker).toBe(true);
    expect(codeOf(() => text("kept", "k"))).toBe("NoSuchKey 404");
    expect(codeOf(() => text("kept", "k", { VersionId: marker.VersionId }))).toBe("MethodNotAllowed 405");
    expect(text("kept", "k", { VersionId: one })).toBe("one");
    call("DeleteObject", { Bucket: "kept", Key: "k", VersionId: marker.VersionId });
    expect(text("kept", "k")).toBe("two");
    call("DeleteObject", { Bucket: "kept", Key: "k", VersionId: two });
    expect(text("kept", "k")).toBe("one");
    expect(codeOf(() => text("kept", "k", { VersionId: two }))).toBe("NoSuchVersion 404");
  });

  it("are listed newest first, with markers, page by page", () => {
    for (const key of ["a", "b"]) for (const value of ["1", "2"]) put("kept", key, value);
    call("DeleteObject", { Bucket: "kept", Key: "a" });
    const found: string[] = [];
    let page: Record<string, unknown> = {};
    do {
      const output = call("ListObjectVersions", {
        Bucket: "kept",
        MaxKeys: 2,
        KeyMarker: page.NextKeyMarker,
        VersionIdMarker: page.NextVersionIdMarker,
      });
      for (const { Key, IsLatest } of [...(output.DeleteMarkers ?? []), ...(output.Versions ?? [])]) found.push(`${Key}${IsLatest ? "*" : ""}`);
      page = output;
    } while (page.IsTruncated);
    expect(found).toEqual(["a*", "a", "a", "b*", "b"]);
  });

  it("are deleted many at a time, each with its own answer", () => {
    const version = put("locked", "k", "x", { ChecksumSHA256: sha256("x") }).VersionId;
    const output = call("DeleteObjects", { Bucket: "locked", Delete: { Objects: [{ Key: "k", VersionId: version }, { Key: "other" }] } });
    expect(output.Errors).toMatchObject([{ Key: "k", Code: "AccessDenied" }]);
    expect(output.Deleted).toMatchObject([{ Key: "other", DeleteMarker: true }]);
    expect(codeOf(() => call("DeleteObjects", { Bucket: "locked", Delete: { Objects: [] } }))).toBe("MalformedXML 400");
  });
});

describe("locked objects of the local S3", () => {
  const lockedPut = (more: object = {}) => put("locked", "k", "x", { ChecksumSHA256: sha256("x"), ...more }).VersionId as string;

  it("cannot be removed by version until the retention is over; a delete only hides them", async () => {
    const version = lockedPut();
    expect(codeOf(() => call("DeleteObject", { Bucket: "locked", Key: "k", VersionId: version }))).toBe("AccessDenied 403");
    call("DeleteObject", { Bucket: "locked", Key: "k" });
    expect(text("locked", "k", { VersionId: version })).toBe("x");
    await world.clock.runUntil(startAtMs + 2 * day);
    call("DeleteObject", { Bucket: "locked", Key: "k", VersionId: version });
    expect(codeOf(() => text("locked", "k", { VersionId: version }))).toBe("NoSuchVersion 404");
  });

  it("tell until when they are held, to whoever may know", () => {
    const version = lockedPut();
    const asked = { Bucket: "locked", Key: "k", VersionId: version };
    expect(call("GetObjectRetention", asked)).toEqual({ Retention: { Mode: "GOVERNANCE", RetainUntilDate: new Date(startAtMs + 2 * day) } });
    expect(permissionsOf(world, s3, "GetObjectRetention", asked).map(({ action }) => action)).toEqual(["s3:GetObjectRetention"]);
  });
  it.each([
    ["is not there", { Bucket: "locked", Key: "none" }, "NoSuchKey 404"],
    ["is a version that is not there", { Bucket: "locked", Key: "k", VersionId: "0".repeat(32) }, "NoSuchVersion 404"],
    ["lies in a bucket without locks", { Bucket: "kept", Key: "k" }, "InvalidRequest 400"],
    ["is not locked", { Bucket: "unlocked", Key: "k" }, "NoSuchObjectLockConfiguration 404"],
  ])("tell nothing of one that %s", (_, asked, code) => {
    s3.createBucket({ ...kept, name: "unlocked", objectLock: {} });
    lockedPut();
    for (const bucket of ["kept", "unlocked"]) put(bucket, "k", "x", { ChecksumSHA256: sha256("x") });
    expect(codeOf(() => call("GetObjectRetention", asked))).toBe(code);
  });

  it("yield to a bypass under governance, never under compliance", () => {
    const governed = lockedPut();
    const complied = lockedPut({ ObjectLockMode: "COMPLIANCE", ObjectLockRetainUntilDate: new Date(startAtMs + day) });
    call("DeleteObject", { Bucket: "locked", Key: "k", VersionId: governed, BypassGovernanceRetention: true });
    expect(codeOf(() => call("DeleteObject", { Bucket: "locked", Key: "k", VersionId: complied, BypassGovernanceRetention: true }))).toBe(
      "AccessDenied 403",
    );
    expect(
      permissionsOf(world, s3, "DeleteObject", { Bucket: "locked", Key: "k", VersionId: complied, BypassGovernanceRetention: true }).map(
        ({ action }) => action,
      ),
    ).toEqual(["s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"]);
  });

  it("must be protected on their way by a checksum", () => {
    expect(codeOf(() => put("locked", "k", "x"))).toBe("InvalidRequest 400");
  });

  it("cannot be asked for where the bucket has no lock", () => {
    expect(codeOf(() => put("kept", "k", "x", { ObjectLockMode: "GOVERNANCE", ObjectLockRetainUntilDate: new Date(startAtMs + day) }))).toBe(
      "InvalidRequest 400",
    );
  });
});

describe("lists of the local S3", () => {
  it("go page by page through every key once, in the order of UTF-8 bytes, whatever the prefix and delimiter", () => {
    const name = fc.array(fc.constantFrom("a", "b", "/", "é", "\uffee", "😀"), { minLength: 1, maxLength: 5 }).map((parts) => parts.join(""));
    fc.assert(
      fc.property(
        fc.uniqueArray(name, { maxLength: 30 }),
        fc.constantFrom("", "a", "a/", "b"),
        fc.constantFrom(undefined, "/"),
        fc.integer({ min: 1, max: 7 }),
        (names, Prefix, Delimiter, MaxKeys) => {
          start();
          for (const key of names) put("plain", key, "x");
          const keys: string[] = [];
          const prefixes: string[] = [];
          let ContinuationToken: string | undefined;
          do {
            const page = call("ListObjectsV2", { Bucket: "plain", Prefix, Delimiter, MaxKeys, ContinuationToken });
            expect(page.KeyCount).toBeLessThanOrEqual(MaxKeys);
            keys.push(...keysOf(page));
            prefixes.push(...(page.CommonPrefixes ?? []).map((item: { Prefix: string }) => item.Prefix));
            ContinuationToken = page.NextContinuationToken;
            expect(page.IsTruncated).toBe(ContinuationToken !== undefined);
          } while (ContinuationToken !== undefined);
          const inPrefix = names.filter((key) => key.startsWith(Prefix)).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
          const rolled = (key: string) =>
            Delimiter !== undefined && key.slice(Prefix.length).includes(Delimiter)
              ? key.slice(0, key.indexOf(Delimiter, Prefix.length) + 1)
              : undefined;
          expect(keys).toEqual(inPrefix.filter((key) => rolled(key) === undefined));
          expect(prefixes).toEqual([...new Set(inPrefix.flatMap((key) => rolled(key) ?? []))]);
        },
      ),
      { seed: 5, numRuns: 300 },
    );
  });

  it("hold 1,000 keys a page at most, and start after a key", () => {
    for (let index = 0; index < 1001; index++) put("plain", `k${String(index).padStart(4, "0")}`, "x");
    const page = call("ListObjectsV2", { Bucket: "plain", MaxKeys: 5000 });
    expect([page.KeyCount, page.IsTruncated]).toEqual([1000, true]);
    expect(keysOf(call("ListObjectsV2", { Bucket: "plain", StartAfter: "k0999" }))).toEqual(["k1000"]);
    expect(codeOf(() => call("ListObjectsV2", { Bucket: "plain", ContinuationToken: "made up" }))).toBe("InvalidArgument 400");
  });

  it("show a write and a delete at once, and no key whose newest version is a marker", () => {
    put("kept", "k", "x");
    expect(keysOf(call("ListObjectsV2", { Bucket: "kept" }))).toEqual(["k"]);
    call("DeleteObject", { Bucket: "kept", Key: "k" });
    expect(keysOf(call("ListObjectsV2", { Bucket: "kept" }))).toEqual([]);
  });
});

describe("multipart uploads of the local S3", () => {
  const big = Buffer.alloc(leastPartBytes, "b");
  const begin = (more: object = {}, Bucket = "plain") => call("CreateMultipartUpload", { Bucket, Key: "big", ...more }).UploadId as string;
  const part = (UploadId: string, PartNumber: number, Body: Buffer, more: object = {}, Bucket = "plain") =>
    ({ PartNumber, ...call("UploadPart", { Bucket, Key: "big", UploadId, PartNumber, Body, ...more }) }) as { PartNumber: number; ETag: string };
  const complete = (UploadId: string, Parts: object[], more: object = {}, Bucket = "plain") =>
    call("CompleteMultipartUpload", { Bucket, Key: "big", UploadId, MultipartUpload: { Parts }, ...more });

  it("join their parts in order, under an ETag of ETags", () => {
    const id = begin();
    const second = part(id, 7, Buffer.from("tail"));
    const first = part(id, 2, big);
    const { ETag } = complete(id, [first, second]);
    const digests = [big, Buffer.from("tail")].map((body) => createHash("md5").update(body).digest());
    expect(ETag).toBe(`"${createHash("md5").update(Buffer.concat(digests)).digest("hex")}-2"`);
    expect(s3.read("plain", "big")?.equals(Buffer.concat([big, Buffer.from("tail")]))).toBe(true);
    expect(codeOf(() => complete(id, [first, second]))).toBe("NoSuchUpload 404");
  });

  it("refuse a part below 5 MiB that is not the last, one byte being enough", () => {
    const id = begin();
    const parts = [part(id, 1, big.subarray(1)), part(id, 2, Buffer.from("tail"))];
    expect(codeOf(() => complete(id, parts))).toBe("EntityTooSmall 400");
    expect(complete(id, [part(id, 1, big), parts[1] as object]).ETag).toMatch(/-2"$/);
  });

  it("refuse parts out of order, parts that are not there, and another ETag than the part's", () => {
    const id = begin();
    const [one, two] = [part(id, 1, big), part(id, 2, Buffer.from("tail"))];
    expect(codeOf(() => complete(id, [two, one]))).toBe("InvalidPartOrder 400");
    expect(codeOf(() => complete(id, [one, { ...two, PartNumber: 3 }]))).toBe("InvalidPart 400");
    expect(codeOf(() => complete(id, [one, { ...two, ETag: one.ETag }]))).toBe("InvalidPart 400");
    expect(codeOf(() => complete(id, []))).toBe("MalformedXML 400");
    expect(codeOf(() => part(id, 10_001, big))).toBe("InvalidArgument 400");
    expect(codeOf(() => complete(id, [one, two], { MpuObjectSize: big.length }))).toBe("InvalidRequest 400");
  });

  it("keep the last upload of a part number, and list parts and uploads by page", () => {
    const id = begin();
    part(id, 1, Buffer.from("old"));
    part(id, 1, Buffer.from("newer"));
    part(id, 3, Buffer.from("x"));
    const page = call("ListParts", { Bucket: "plain", Key: "big", UploadId: id, MaxParts: 1 });
    expect(page).toMatchObject({ IsTruncated: true, NextPartNumberMarker: "1", Parts: [{ PartNumber: 1, Size: 5 }] });
    expect(call("ListParts", { Bucket: "plain", Key: "big", UploadId: id, PartNumberMarker: "1" }).Parts).toMatchObject([{ PartNumber: 3 }]);
    const other = call("CreateMultipartUpload", { Bucket: "plain", Key: "a" }).UploadId;
    const uploads = call("ListMultipartUploads", { Bucket: "plain", MaxUploads: 1 });
    expect(uploads).toMatchObject({ IsTruncated: true, Uploads: [{ UploadId: other }] });
    const next = call("ListMultipartUploads", { Bucket: "plain", KeyMarker: uploads.NextKeyMarker, UploadIdMarker: uploads.NextUploadIdMarker });
    expect(next.Uploads).toMatchObject([{ UploadId: id }]);
    call("AbortMultipartUpload", { Bucket: "plain", Key: "big", UploadId: id });
    expect(codeOf(() => part(id, 1, big))).toBe("NoSuchUpload 404");
  });

  it("have a SHA-256 of SHA-256s, which every part must carry", () => {
    const id = begin({ ChecksumAlgorithm: "SHA256" });
    expect(codeOf(() => part(id, 1, big))).toBe("InvalidRequest 400");
    const crc = Buffer.alloc(4);
    crc.writeUInt32BE(crc32(big) >>> 0);
    expect(codeOf(() => part(id, 1, big, { ChecksumCRC32: crc.toString("base64") }))).toBe("InvalidRequest 400");
    const one = { ...part(id, 1, big, { ChecksumSHA256: sha256(big) }), ChecksumSHA256: sha256(big) };
    expect(codeOf(() => complete(id, [{ PartNumber: 1, ETag: one.ETag }]))).toBe("InvalidRequest 400");
    const composite = createHash("sha256").update(createHash("sha256").update(big).digest()).digest("base64");
    expect(complete(id, [one])).toMatchObject({ ChecksumSHA256: `${composite}-1`, ChecksumType: "COMPOSITE" });
  });

  it("are spent by a conflict: everything must be sent again", () => {
    start({ faults: { throttle: 1 } });
    const id = begin();
    const one = part(id, 1, big);
    expect(codeOf(() => complete(id, [one], { IfNoneMatch: "*" }))).toBe("ConditionalRequestConflict 409");
    expect(codeOf(() => complete(id, [one]))).toBe("NoSuchUpload 404");
  });

  it("create once under If-None-Match, and can be tried again after the other object is gone", () => {
    put("plain", "big", "there");
    const id = begin();
    const one = part(id, 1, big);
    expect(codeOf(() => complete(id, [one], { IfNoneMatch: "*" }))).toBe("PreconditionFailed 412");
    call("DeleteObject", { Bucket: "plain", Key: "big" });
    complete(id, [one], { IfNoneMatch: "*" });
    expect(s3.read("plain", "big")?.length).toBe(leastPartBytes);
  });
});

describe("encryption of the local S3", () => {
  it("needs the key as the caller: to write, to read, and for every part", () => {
    const actions = (operation: string, input: object) =>
      permissionsOf(world, s3, operation, { Bucket: "sealed", Key: "k", ...input }).map(({ action }) => action);
    expect(actions("PutObject", {})).toEqual(["s3:PutObject", "kms:GenerateDataKey"]);
    put("sealed", "k", "x");
    expect(actions("GetObject", {})).toEqual(["s3:GetObject", "kms:Decrypt"]);
    expect(actions("CreateMultipartUpload", {})).toEqual(["s3:PutObject", "kms:GenerateDataKey"]);
    const { UploadId } = call("CreateMultipartUpload", { Bucket: "sealed", Key: "k" });
    expect(actions("UploadPart", { UploadId })).toEqual(["s3:PutObject", "kms:Decrypt"]);
    const [, key] = permissionsOf(world, s3, "GetObject", { Bucket: "sealed", Key: "k" });
    expect(key).toMatchObject({
      resource: keyArn,
      context: { "kms:ViaService": "s3.eu-central-1.amazonaws.com", "kms:EncryptionContext:aws:s3:arn": "arn:aws:s3:::sealed" },
    });
  });

  it("has an ETag that says nothing about the content", () => {
    const [one, two] = [put("sealed", "k", "hello"), put("sealed", "k", "hello")];
    expect(one.ETag).not.toBe(two.ETag);
    expect(one.ETag).not.toBe(`"${md5("hello")}"`);
    expect(one).toMatchObject({ ServerSideEncryption: "aws:kms", SSEKMSKeyId: keyArn, BucketKeyEnabled: true });
  });

  it("fails while the key is disabled, for old objects too", () => {
    put("sealed", "k", "x");
    kms.setKeyState(keyArn, "Disabled");
    expect(codeOf(() => text("sealed", "k"))).toBe("KMS.DisabledException 400");
    expect(codeOf(() => put("sealed", "k", "y"))).toBe("KMS.DisabledException 400");
  });

  it("stops the world when a write means the key aws/s3", () => {
    expect(() => put("plain", "k", "x", { ServerSideEncryption: "aws:kms" })).toThrow(/aws\/s3/);
  });
});

describe("permissions of the local S3", () => {
  const asked = (operation: string, input: object) => permissionsOf(world, s3, operation, { Bucket: "plain", Key: "k", ...input });

  it("ask for ListBucket where 404 would tell what is not there", () => {
    expect(asked("GetObject", {}).map(({ action, resource }) => `${action} ${resource}`)).toEqual([
      "s3:GetObject arn:aws:s3:::plain/k",
      "s3:ListBucket arn:aws:s3:::plain",
    ]);
    put("plain", "k", "x");
    expect(asked("HeadObject", {}).map(({ action }) => action)).toEqual(["s3:GetObject"]);
  });

  it("carry the conditions of a write, and GetObject for If-Match", () => {
    expect(asked("PutObject", { IfNoneMatch: "*", ServerSideEncryption: "AES256" })).toMatchObject([
      {
        action: "s3:PutObject",
        context: {
          "s3:if-none-match": "*",
          "s3:x-amz-server-side-encryption": "AES256",
          "s3:ObjectCreationOperation": "true",
          "aws:SecureTransport": "true",
        },
      },
    ]);
    expect(asked("PutObject", { IfMatch: '"x"' }).map(({ action }) => action)).toEqual(["s3:PutObject", "s3:GetObject"]);
    expect(asked("ListObjectsV2", { Prefix: "clusters/" })).toMatchObject([{ action: "s3:ListBucket", context: { "s3:prefix": "clusters/" } }]);
  });
});

describe("lifecycle of the local S3", () => {
  const rules = (lifecycle: BucketConfig["lifecycle"], versioned = true) => s3.createBucket({ ...plain, name: "aging", versioned, lifecycle });
  const at = (days: number) => world.clock.runUntil(startAtMs + days * day);
  const midnight = Date.UTC(2026, 0, 7);

  it("expires at the midnight after the days are over, and only under its prefix", async () => {
    rules([{ id: "old", prefix: "tmp/", expirationDays: 1 }], false);
    put("aging", "tmp/a", "x");
    put("aging", "keep/a", "x");
    await world.clock.runUntil(midnight - 1);
    expect(text("aging", "tmp/a")).toBe("x");
    await world.clock.runUntil(midnight);
    expect(codeOf(() => text("aging", "tmp/a"))).toBe("NoSuchKey 404");
    expect(text("aging", "keep/a")).toBe("x");
  });

  it("hides current versions behind a marker, removes old versions, then the marker", async () => {
    rules([{ id: "old", prefix: "", expirationDays: 1, noncurrentDays: 3, expiredObjectDeleteMarker: true }]);
    put("aging", "k", "x");
    await at(2);
    const hidden = call("ListObjectVersions", { Bucket: "aging" });
    expect([hidden.Versions.length, hidden.DeleteMarkers.length]).toEqual([1, 1]);
    await at(7);
    expect(call("ListObjectVersions", { Bucket: "aging" })).toMatchObject({ IsTruncated: false });
    expect(call("ListObjectVersions", { Bucket: "aging" }).Versions).toBeUndefined();
    expect(call("ListObjectVersions", { Bucket: "aging" }).DeleteMarkers).toBeUndefined();
  });

  it("keeps the newest of the noncurrent versions when told to", async () => {
    rules([{ id: "old", prefix: "", noncurrentDays: 1, newerNoncurrentVersions: 1 }]);
    for (const value of ["1", "2", "3"]) put("aging", "k", value);
    await at(5);
    expect(call("ListObjectVersions", { Bucket: "aging" }).Versions.length).toBe(2);
  });

  it("never removes a locked version", async () => {
    s3.createBucket({
      ...locked,
      lifecycle: [{ id: "old", prefix: "", noncurrentDays: 1 }],
      objectLock: { defaultRetention: { mode: "COMPLIANCE", days: 30 } },
    });
    put("locked", "k", "1", { ChecksumSHA256: sha256("1") });
    put("locked", "k", "2", { ChecksumSHA256: sha256("2") });
    await at(20);
    expect(call("ListObjectVersions", { Bucket: "locked" }).Versions.length).toBe(2);
    await at(40);
    expect(call("ListObjectVersions", { Bucket: "locked" }).Versions.length).toBe(1);
  });

  it("drops uploads that nobody finished", async () => {
    rules([{ id: "old", prefix: "", abortIncompleteDays: 7 }]);
    const { UploadId } = call("CreateMultipartUpload", { Bucket: "aging", Key: "k" });
    await at(6);
    expect(call("ListMultipartUploads", { Bucket: "aging" }).Uploads).toMatchObject([{ UploadId }]);
    await at(8);
    expect(call("ListMultipartUploads", { Bucket: "aging" }).Uploads).toBeUndefined();
  });
});

describe("notifications of the local S3", () => {
  it("tell of created and deleted objects where the bucket has them on", () => {
    put("kept", "k", "x");
    const { VersionId } = put("announced", "k", "hello");
    call("DeleteObject", { Bucket: "announced", Key: "k" });
    call("DeleteObject", { Bucket: "announced", Key: "k", VersionId });
    expect(world.published.map(({ detailType, detail }) => [detailType, detail["deletion-type"]])).toEqual([
      ["Object Created", undefined],
      ["Object Deleted", "Delete Marker Created"],
      ["Object Deleted", "Permanently Deleted"],
    ]);
    expect(world.published[0]).toMatchObject({ source: "aws.s3", detail: { bucket: { name: "announced" }, object: { key: "k", size: 5 } } });
  });
});

describe("buckets of the template", () => {
  const resource = {
    logicalId: "Bucket",
    type: "AWS::S3::Bucket",
    stack: "drover",
    path: "",
    ref: "state",
    arn: "arn:aws:s3:::state",
    properties: {},
  };
  const bucket = {
    ...resource,
    name: "state",
    versioned: true,
    kmsKeyArn: keyArn,
    bucketKey: true,
    policy: undefined,
    objectLock: undefined,
    eventBridge: false,
  };

  it("keep their key and their enabled lifecycle rules", () => {
    const lifecycle = [
      { Id: "old", Status: "Enabled", Prefix: "uploads/", ExpirationInDays: 1, NoncurrentVersionExpiration: { NoncurrentDays: 2 } },
      { Id: "off", Status: "Disabled", ExpirationInDays: 1 },
    ];
    expect(bucketFromTemplate({ ...bucket, lifecycle })).toMatchObject({
      encryption: { algorithm: "aws:kms", keyArn },
      lifecycle: [{ id: "old", prefix: "uploads/", expirationDays: 1, noncurrentDays: 2 }],
    });
  });

  it("stop the boot when a rule does what is not modelled", () => {
    expect(() => bucketFromTemplate({ ...bucket, lifecycle: [{ Status: "Enabled", Transitions: [] }] })).toThrow(/Transitions/);
  });
});

describe("presigned requests of the local S3", () => {
  const session: SigningCredentials = {
    accessKeyId: "ASIAEXAMPLE",
    secretAccessKey: "secret",
    sessionToken: "token/+=",
    expiresAtMs: startAtMs + 3_600_000,
    principal: "arn:aws:iam::111122223333:role/signer",
    name: "signer",
  };
  const client = new S3Client({
    region: "eu-central-1",
    credentials: { accessKeyId: session.accessKeyId, secretAccessKey: session.secretAccessKey, sessionToken: session.sessionToken as string },
    requestChecksumCalculation: "WHEN_REQUIRED",
  });
  let contexts: Readonly<Record<string, string>>[] = [];

  beforeEach(() => {
    contexts = [];
    s3.usePresigned({
      credentials: (accessKeyId) => (accessKeyId === session.accessKeyId ? session : undefined),
      call: (operation, input, signer, context) => {
        expect(signer.name).toBe("signer");
        contexts.push(context);
        return call(operation, input);
      },
    });
  });

  const sign = (command: GetObjectCommand | PutObjectCommand | UploadPartCommand, more: object = {}) =>
    getSignedUrl(client, command as GetObjectCommand, { expiresIn: 900, signingDate: new Date(startAtMs), ...more });
  const status = (response: { status: number; body: Uint8Array }) =>
    `${response.status} ${/<Code>(\w+)<\/Code>/.exec(Buffer.from(response.body).toString())?.[1] ?? ""}`.trim();
  const createOnly = (Key: string) =>
    sign(new PutObjectCommand({ Bucket: "kept", Key, IfNoneMatch: "*" }), { signableHeaders: new Set(["host", "if-none-match"]) });
  const encoded = (body: string) => ({ method: "PUT", headers: { "If-None-Match": "*" }, body: Buffer.from(body) });

  it("read what the signer may read, in ranges too, with the age of the signature known", async () => {
    put("kept", "a b/ü+1", "hello");
    const url = await sign(new GetObjectCommand({ Bucket: "kept", Key: "a b/ü+1" }));
    await world.clock.runUntil(startAtMs + 5000);
    expect(Buffer.from(s3.fetchPresigned(url, { method: "GET" }).body).toString()).toBe("hello");
    const range = s3.fetchPresigned(url, { method: "GET", headers: { Range: "bytes=1-2" } });
    expect([range.status, Buffer.from(range.body).toString(), range.headers["content-range"]]).toEqual([206, "el", "bytes 1-2/5"]);
    expect(contexts[0]).toMatchObject({ "s3:authType": "REST-QUERY-STRING", "s3:signatureAge": "5000", "aws:SecureTransport": "true" });
  });

  it("say that plain http is no secure transport, and by which endpoint they came", async () => {
    put("kept", "k", "x");
    const url = (await sign(new GetObjectCommand({ Bucket: "kept", Key: "k" }))).replace("https:", "http:");
    s3.fetchPresigned(url, { method: "GET" }, { "aws:SourceVpce": "vpce-1" });
    expect(contexts).toMatchObject([{ "aws:SecureTransport": "false", "aws:SourceVpce": "vpce-1" }]);
  });

  it("create once", async () => {
    const url = await createOnly("k");
    expect(s3.fetchPresigned(url, encoded("one")).status).toBe(200);
    expect(status(s3.fetchPresigned(url, encoded("two")))).toBe("412 PreconditionFailed");
    expect(s3.read("kept", "k")?.toString()).toBe("one");
  });

  it("are refused without a signed header, or with another value of it", async () => {
    const url = await createOnly("k");
    expect(status(s3.fetchPresigned(url, { method: "PUT", body: Buffer.from("x") }))).toBe("403 SignatureDoesNotMatch");
    expect(status(s3.fetchPresigned(url, { method: "PUT", headers: { "if-none-match": "" }, body: Buffer.from("x") }))).toBe(
      "403 SignatureDoesNotMatch",
    );
    expect(s3.read("kept", "k")).toBeUndefined();
  });

  it("are refused without a header that was signed as empty", async () => {
    const presigner = new S3RequestPresigner({
      region: "eu-central-1",
      credentials: { ...session, sessionToken: session.sessionToken as string },
      sha256: Sha256,
    });
    const host = "kept.s3.eu-central-1.amazonaws.com";
    const request = { method: "PUT", protocol: "https:", hostname: host, path: "/k", query: {}, headers: { host, "cache-control": "" } };
    const signed = await presigner.presign(request, {
      expiresIn: 900,
      signingDate: new Date(startAtMs),
      signableHeaders: new Set(["host", "cache-control"]),
    });
    const query = Object.entries(signed.query ?? {}).map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`);
    const url = `https://${host}/k?${query.join("&")}`;
    expect(url).toContain("X-Amz-SignedHeaders=cache-control%3Bhost");
    expect(status(s3.fetchPresigned(url, { method: "PUT", body: Buffer.from("x") }))).toBe("403 SignatureDoesNotMatch");
    expect(s3.fetchPresigned(url, { method: "PUT", headers: { "cache-control": "" }, body: Buffer.from("x") }).status).toBe(200);
  });

  it("are refused with an x-amz header that was not signed", async () => {
    const url = await createOnly("k");
    const request = encoded("x");
    const response = s3.fetchPresigned(url, { ...request, headers: { ...request.headers, "x-amz-meta-owner": "me" } });
    expect(status(response)).toBe("403 AccessDenied");
    expect(Buffer.from(response.body).toString()).toContain("x-amz-meta-owner");
  });

  it("are refused with another method, key, query or host", async () => {
    put("kept", "k", "x");
    put("kept", "other", "x");
    const url = await sign(new GetObjectCommand({ Bucket: "kept", Key: "k" }));
    expect(status(s3.fetchPresigned(url, { method: "PUT", body: Buffer.from("x") }))).toBe("403 SignatureDoesNotMatch");
    expect(status(s3.fetchPresigned(url.replace("/k?", "/other?"), { method: "GET" }))).toBe("403 SignatureDoesNotMatch");
    expect(status(s3.fetchPresigned(`${url}&versionId=null`, { method: "GET" }))).toBe("403 SignatureDoesNotMatch");
    expect(status(s3.fetchPresigned(url.replace("kept.s3", "plain.s3"), { method: "GET" }))).toBe("403 SignatureDoesNotMatch");
    expect(status(s3.fetchPresigned(url.replace("X-Amz-Expires=900", "X-Amz-Expires=901"), { method: "GET" }))).toBe("403 SignatureDoesNotMatch");
  });

  it("end at their expiry, to the second", async () => {
    put("kept", "k", "x");
    const url = await sign(new GetObjectCommand({ Bucket: "kept", Key: "k" }));
    await world.clock.runUntil(startAtMs + 899_999);
    expect(s3.fetchPresigned(url, { method: "GET" }).status).toBe(200);
    await world.clock.runUntil(startAtMs + 900_000);
    expect(status(s3.fetchPresigned(url, { method: "GET" }))).toBe("403 AccessDenied");
  });

  it("end with the signer's session, whatever their own expiry", async () => {
    put("kept", "k", "x");
    const url = await sign(new GetObjectCommand({ Bucket: "kept", Key: "k" }), { expiresIn: 7200 });
    await world.clock.runUntil(startAtMs + 3_599_999);
    expect(s3.fetchPresigned(url, { method: "GET" }).status).toBe(200);
    await world.clock.runUntil(startAtMs + 3_600_000);
    expect(status(s3.fetchPresigned(url, { method: "GET" }))).toBe("400 ExpiredToken");
  });

  it("fail for a real body when the checksum of an empty one was signed into them", async () => {
    const careless = new S3Client({ region: "eu-central-1", credentials: { ...session, sessionToken: session.sessionToken as string } });
    const url = await getSignedUrl(careless, new PutObjectCommand({ Bucket: "kept", Key: "k" }), {
      expiresIn: 900,
      signingDate: new Date(startAtMs),
    });
    expect(url).toContain("x-amz-checksum-crc32=AAAAAA");
    expect(status(s3.fetchPresigned(url, { method: "PUT", body: Buffer.from("body") }))).toBe("400 BadDigest");
  });

  it("hold a body to the SHA-256 and to the length that were signed", async () => {
    const command = new PutObjectCommand({ Bucket: "kept", Key: "k", ChecksumSHA256: sha256("right"), ContentLength: 5 });
    const url = await sign(command, { signableHeaders: new Set(["host", "content-length"]) });
    expect(status(s3.fetchPresigned(url, { method: "PUT", body: Buffer.from("wrong") }))).toBe("400 BadDigest");
    expect(status(s3.fetchPresigned(url, { method: "PUT", body: Buffer.from("longer") }))).toBe("403 SignatureDoesNotMatch");
    expect(s3.fetchPresigned(url, { method: "PUT", body: Buffer.from("right") }).status).toBe(200);
  });

  it("upload parts", async () => {
    const { UploadId } = call("CreateMultipartUpload", { Bucket: "kept", Key: "big" });
    const url = await sign(new UploadPartCommand({ Bucket: "kept", Key: "big", UploadId, PartNumber: 1 }));
    const response = s3.fetchPresigned(url, { method: "PUT", body: Buffer.from("part") });
    expect(response.headers.etag).toBe(`"${md5("part")}"`);
    call("CompleteMultipartUpload", {
      Bucket: "kept",
      Key: "big",
      UploadId,
      MultipartUpload: { Parts: [{ PartNumber: 1, ETag: response.headers.etag }] },
    });
    expect(s3.read("kept", "big")?.toString()).toBe("part");
  });

  it("are refused in chunks without a length", async () => {
    const request = encoded("x");
    const response = s3.fetchPresigned(await createOnly("k"), { ...request, headers: { ...request.headers, "Transfer-Encoding": "chunked" } });
    expect(status(response)).toBe("501 NotImplemented");
  });

  it("are refused for a key nobody has, another session's token, another Region, a week and a second, and when malformed", async () => {
    const facts = { region: "eu-central-1", nowMs: startAtMs, credentials: (id: string) => (id === session.accessKeyId ? session : undefined) };
    const url = await sign(new GetObjectCommand({ Bucket: "kept", Key: "k" }));
    const check = (changed: string, more: Partial<typeof facts> = {}) =>
      codeOf(() => checkPresigned(wireRequest(changed, { method: "GET" }), { ...facts, ...more }));
    expect(checkPresigned(wireRequest(url, { method: "GET" }), facts)).toMatchObject({
      signer: session,
      signedHeaders: ["host"],
      expiresAtMs: startAtMs + 900_000,
    });
    expect(check(url.replace("ASIAEXAMPLE", "ASIAOTHER"))).toBe("InvalidAccessKeyId 403");
    expect(check(url, { credentials: () => ({ ...session, sessionToken: "later" }) })).toBe("InvalidToken 400");
    expect(check(url, { region: "us-east-1" })).toBe("AuthorizationQueryParametersError 400");
    expect(check(url.replace("X-Amz-Expires=900", "X-Amz-Expires=604801"))).toBe("AuthorizationQueryParametersError 400");
    expect(check(url, { nowMs: startAtMs - 900_001 })).toBe("AccessDenied 403");
    expect(check(url.replace(/&X-Amz-Signature=[0-9a-f]+/, ""))).toBe("AuthorizationQueryParametersError 400");
  });
});

describe("the stand-in release", () => {
  it("has upstream's names, the same bytes every time, and a checksum file that is true", () => {
    const release = { version: "v1.35.7+rke2r1", architecture: "amd64", imageSets: ["", "canal", "core"] } as const;
    const keys = seedRelease(s3, "sealed", release);
    expect(keys).toEqual(
      [
        "rke2.linux-amd64.tar.gz",
        "rke2-images.linux-amd64.tar.zst",
        "rke2-images-canal.linux-amd64.tar.zst",
        "rke2-images-core.linux-amd64.tar.zst",
        "sha256sum-amd64.txt",
      ].map((name) => `rke2/v1.35.7+rke2r1/amd64/${name}`),
    );
    expect(standInFiles(release)).toEqual(standInFiles(release));
    const sums = (s3.read("sealed", keys.at(-1) as string) as Buffer).toString().trimEnd().split("\n");
    expect(sums.length).toBe(4);
    for (const line of sums) {
      const [sum, name] = line.split("  ");
      expect(
        createHash("sha256")
          .update(s3.read("sealed", `rke2/v1.35.7+rke2r1/amd64/${name}`) as Buffer)
          .digest("hex"),
      ).toBe(sum);
    }
  });
});

describe("what the local S3 says it models", () => {
  it("are fields that the SDK's operations have", () => {
    for (const [name, operation] of Object.entries(s3.operations)) {
      const shape = schemasOf("s3").operation(name)?.input;
      for (const field of operation.fields) expect(shape?.members.has(field.split(".")[0] as string), `${name} ${field}`).toBe(true);
      const unknown = shape === undefined ? [] : unmodelledFields({ ExpectedBucketOwner: "1" }, shape, fieldTree(operation.fields));
      expect(unknown).toEqual(["ExpectedBucketOwner"]);
    }
  });
});
