/**
 * S3: buckets of the template, objects with versions, conditional writes, multipart uploads, locks, lifecycle, and presigned requests.
 *
 * Reads follow writes at once, as in S3. What a caller must be allowed to do includes what S3 asks on its behalf: the bucket's key, and ListBucket
 * where telling "not there" from "not yours" would leak. See local/README.md for what is modelled and what is refused.
 */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import type {
  AbortMultipartUploadRequest,
  CompletedPart,
  CompleteMultipartUploadOutput,
  CompleteMultipartUploadRequest,
  CreateMultipartUploadOutput,
  CreateMultipartUploadRequest,
  DeleteMarkerEntry,
  DeleteObjectOutput,
  DeleteObjectRequest,
  DeleteObjectsOutput,
  DeleteObjectsRequest,
  GetObjectOutput,
  GetObjectRequest,
  GetObjectRetentionOutput,
  GetObjectRetentionRequest,
  HeadObjectOutput,
  HeadObjectRequest,
  ListMultipartUploadsOutput,
  ListMultipartUploadsRequest,
  ListObjectsV2Output,
  ListObjectsV2Request,
  ListObjectVersionsOutput,
  ListObjectVersionsRequest,
  ListPartsOutput,
  ListPartsRequest,
  ObjectVersion,
  PutObjectOutput,
  PutObjectRequest,
  UploadPartOutput,
  UploadPartRequest,
} from "@aws-sdk/client-s3";
import { AwsError, type Caller, type Operation, type Permission, type Service, Unmodelled, type World } from "../kernel/contract.js";
import { decode, encodeError, encodeOutput, type WireResponse } from "../kernel/protocols.js";
import type { Template, TemplateBucket } from "../kernel/template.js";
import type { Kms } from "./kms.js";
import { checkPresigned, type SigningCredentials, unhoist, wireRequest } from "./presigned.js";

/** Least size of every part but the last, in bytes (S3 user guide, multipart upload limits). */
export const leastPartBytes = 5 * 1024 * 1024;
/** Most bytes of one PutObject or one part. */
export const mostPutBytes = 5 * 1024 * 1024 * 1024;
const mostParts = 10_000;
const mostListed = 1000;
const mostKeyBytes = 1024;
const mostMetadataBytes = 2048;
const dayMilliseconds = 86_400_000;

export interface BucketConfig {
  readonly name: string;
  readonly versioned: boolean;
  readonly encryption: Encryption;
  readonly lifecycle: readonly LifecycleRule[];
  /** Object Lock, and the retention that a new version gets when it names none. */
  readonly objectLock: { readonly defaultRetention?: { readonly mode: LockMode; readonly days: number } } | undefined;
  /** Whether the bucket tells the default event bus about its objects. */
  readonly events: boolean;
}

export type LockMode = "GOVERNANCE" | "COMPLIANCE";
export type Encryption = { readonly algorithm: "AES256" } | { readonly algorithm: "aws:kms"; readonly keyArn: string; readonly bucketKey: boolean };

/** One enabled rule. Days count from the midnight (UTC) that follows, as in S3. */
export interface LifecycleRule {
  readonly id: string;
  readonly prefix: string;
  readonly expirationDays?: number;
  readonly expiredObjectDeleteMarker?: boolean;
  readonly noncurrentDays?: number;
  readonly newerNoncurrentVersions?: number;
  readonly abortIncompleteDays?: number;
}

/** What the kernel knows about who signs, and does for a signed request: permissions of the signer, faults, the trace, then the operation. */
export interface PresignedHooks {
  credentials(accessKeyId: string): SigningCredentials | undefined;
  call(operation: string, input: Readonly<Record<string, unknown>>, signer: SigningCredentials, context: Readonly<Record<string, string>>): unknown;
}

export interface S3 extends Service {
  /** Makes a bucket of the template, or gives the one that was loaded its configuration. */
  createBucket(config: BucketConfig): void;
  bucketNames(): readonly string[];
  /** Puts an object as the account's owner would: no permission is asked, every other rule holds. */
  put(bucket: string, key: string, body: Uint8Array | string, contentType?: string): void;
  /** The bytes of a current object, or undefined: for tests and for what the local cloud shows. */
  read(bucket: string, key: string): Buffer | undefined;
  /** Sets what `fetchPresigned` needs of the kernel. */
  usePresigned(hooks: PresignedHooks): void;
  /**
   * Answers a presigned request as HTTP: the signature, everything that was signed, the expiry and the signer's credentials are checked as S3 checks
   * them, then the operation runs as the signer. `context` adds condition keys of the network, such as `aws:SourceVpce`.
   */
  fetchPresigned(
    url: string,
    request: { readonly method: string; readonly headers?: Readonly<Record<string, string>>; readonly body?: Uint8Array },
    context?: Readonly<Record<string, string>>,
  ): WireResponse;
}

type WithBody<T> = Omit<T, "Body"> & { readonly Body?: Uint8Array | undefined };
type Algorithm = "CRC32" | "SHA1" | "SHA256";
const algorithms = ["CRC32", "SHA1", "SHA256"] as const;
const digestBytes: Record<Algorithm, number> = { CRC32: 4, SHA1: 20, SHA256: 32 };

interface Checksum {
  readonly algorithm: Algorithm;
  readonly value: string;
  readonly type: "FULL_OBJECT" | "COMPOSITE";
}

interface Lock {
  readonly mode: LockMode;
  readonly untilMs: number;
}

/** What a writer says about an object besides its bytes. */
interface Settings {
  readonly encryption: Encryption;
  readonly contentType: string;
  readonly headers: Readonly<Partial<Record<StoredHeader, string>>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly lock: Lock | undefined;
}
const storedHeaders = ["CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage"] as const;
type StoredHeader = (typeof storedHeaders)[number];

interface Version {
  readonly id: string;
  /** Undefined for a delete marker. */
  readonly content: (Settings & { readonly body: Uint8Array; readonly etag: string; readonly checksum: Checksum | undefined }) | undefined;
  readonly atMs: number;
}

interface Part {
  readonly number: number;
  readonly body: Uint8Array;
  readonly etag: string;
  readonly checksum: Checksum | undefined;
  readonly atMs: number;
}

interface Upload {
  readonly id: string;
  readonly key: string;
  readonly settings: Settings;
  readonly algorithm: Algorithm | undefined;
  readonly checksumType: "FULL_OBJECT" | "COMPOSITE";
  readonly atMs: number;
  readonly parts: Map<number, Part>;
}

interface Bucket {
  readonly name: string;
  /** Newest version first; a key without versions is not here. */
  readonly objects: Map<string, Version[]>;
  /** Keys of `objects` in order. */
  readonly keys: string[];
  readonly uploads: Map<string, Upload>;
  /** Day of the last look at the lifecycle rules. */
  sweptDay: number;
}

interface Saved {
  readonly serial: number;
  readonly buckets: readonly Bucket[];
}

export function createS3(world: World & { readonly template?: Pick<Template, "buckets"> }): S3 {
  const configs = new Map<string, BucketConfig>();
  let buckets = new Map<string, Bucket>();
  /** Counts everything ever made here, so that no version id, upload id or opaque ETag comes twice, whatever was saved and loaded in between. */
  let serial = 0;
  let hooks: PresignedHooks | undefined;

  const unique = (kind: string) => createHash("sha256").update(`${kind} ${++serial}`).digest("hex").slice(0, 32);

  function open(name: string | undefined): { bucket: Bucket; config: BucketConfig } {
    const config = configs.get(name ?? "");
    const bucket = buckets.get(name ?? "");
    if (config === undefined || bucket === undefined)
      throw new AwsError("NoSuchBucket", "The specified bucket does not exist", 404, { BucketName: name });
    sweep(bucket, config);
    return { bucket, config };
  }

  /** The version a reader means, without judging it. For permissions, which are asked before the call. */
  function peek(name: string | undefined, key: string | undefined, versionId?: string): Version | undefined {
    const config = configs.get(name ?? "");
    const bucket = buckets.get(name ?? "");
    if (config === undefined || bucket === undefined) return undefined;
    sweep(bucket, config);
    const versions = bucket.objects.get(key ?? "");
    return versionId === undefined ? versions?.[0] : versions?.find((version) => version.id === versionId);
  }

  // --- permissions ---

  const objectArn = (bucket: string | undefined, key: string | undefined) => `arn:${world.partition}:s3:::${bucket}/${key}`;
  const bucketArn = (bucket: string | undefined) => `arn:${world.partition}:s3:::${bucket}`;

  /** Condition keys of every request; a presigned one overrides what differs. */
  const requestContext = {
    "aws:SecureTransport": "true",
    "s3:authType": "REST-HEADER",
    "s3:signatureversion": "AWS4-HMAC-SHA256",
    "s3:TlsVersion": "1.3",
    "s3:ResourceAccount": world.account,
    "aws:ResourceAccount": world.account,
  } as const;

  function allow(action: string, resource: string, context: Readonly<Record<string, string | undefined>> = {}): Permission {
    const known = Object.entries(context).filter((entry): entry is [string, string] => entry[1] !== undefined);
    return { action, resource, context: { ...requestContext, ...Object.fromEntries(known) } };
  }

  /** What the caller needs on the object's key: S3 acts with the caller's permissions (S3 user guide, SSE-KMS). */
  function keyPermission(
    action: "kms:GenerateDataKey" | "kms:Decrypt",
    encryption: Encryption | undefined,
    bucket: string | undefined,
    key: string | undefined,
  ): Permission[] {
    if (encryption?.algorithm !== "aws:kms") return [];
    return [
      {
        action,
        resource: encryption.keyArn,
        context: {
          "kms:ViaService": `s3.${world.region}.amazonaws.com`,
          "kms:CallerAccount": world.account,
          "kms:EncryptionContextKeys": ["aws:s3:arn"],
          "kms:EncryptionContext:aws:s3:arn": encryption.bucketKey ? bucketArn(bucket) : objectArn(bucket, key),
        },
      },
    ];
  }

  type WriteRequest = Pick<
    PutObjectRequest,
    "Bucket" | "Key" | "ServerSideEncryption" | "SSEKMSKeyId" | "BucketKeyEnabled" | "ObjectLockMode" | "ObjectLockRetainUntilDate"
  >;

  /** The encryption a write asks for, or undefined when the call will refuse it anyway. */
  function wantedEncryption(input: WriteRequest): Encryption | undefined {
    const config = configs.get(input.Bucket ?? "");
    if (config === undefined) return undefined;
    try {
      return encryptionOf(input, config);
    } catch (error) {
      if (error instanceof AwsError) return undefined;
      throw error;
    }
  }

  function writePermissions(
    input: WriteRequest,
    kind: { readonly creates: boolean; readonly ifMatch?: string | undefined; readonly ifNoneMatch?: string | undefined },
  ): Permission[] {
    const permissions = [
      allow("s3:PutObject", objectArn(input.Bucket, input.Key), {
        "s3:x-amz-server-side-encryption": input.ServerSideEncryption,
        "s3:x-amz-server-side-encryption-aws-kms-key-id": input.SSEKMSKeyId,
        "s3:if-none-match": kind.ifNoneMatch,
        "s3:if-match": kind.ifMatch,
        "s3:ObjectCreationOperation": String(kind.creates),
        "s3:object-lock-mode": input.ObjectLockMode,
      }),
    ];
    // S3 user guide, conditional writes: If-Match reads the object's ETag.
    if (kind.ifMatch !== undefined) permissions.push(allow("s3:GetObject", objectArn(input.Bucket, input.Key)));
    if (input.ObjectLockMode !== undefined) permissions.push(allow("s3:PutObjectRetention", objectArn(input.Bucket, input.Key)));
    return permissions;
  }

  function readPermissions(input: GetObjectRequest | HeadObjectRequest): Permission[] {
    const version = peek(input.Bucket, input.Key, input.VersionId);
    const permissions = [
      allow(input.VersionId === undefined ? "s3:GetObject" : "s3:GetObjectVersion", objectArn(input.Bucket, input.Key), {
        "s3:VersionId": input.VersionId,
      }),
    ];
    // Without ListBucket S3 answers 403 instead of 404, so that nobody learns what is not there (S3 API reference, GetObject).
    if (version?.content === undefined) permissions.push(allow("s3:ListBucket", bucketArn(input.Bucket)));
    return [...permissions, ...keyPermission("kms:Decrypt", version?.content?.encryption, input.Bucket, input.Key)];
  }

  // --- writing ---

  function encryptionOf(input: WriteRequest, config: BucketConfig): Encryption {
    const asked = input.ServerSideEncryption;
    if (asked === undefined) {
      if (input.SSEKMSKeyId !== undefined)
        throw invalidArgument("Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms");
      return config.encryption;
    }
    if (asked === "AES256") return { algorithm: "AES256" };
    if (asked !== "aws:kms") throw new Unmodelled(`S3 server side encryption ${asked}`);
    if (input.SSEKMSKeyId === undefined)
      throw new Unmodelled("S3 writes with aws:kms and no key use the AWS managed key aws/s3: name the key, or leave both to the bucket");
    const bucketDefault = config.encryption.algorithm === "aws:kms" && config.encryption.bucketKey;
    const keyArn = kms().resolveKey(input.SSEKMSKeyId);
    return { algorithm: "aws:kms", keyArn, bucketKey: input.BucketKeyEnabled ?? bucketDefault };
  }

  const kms = () => world.service<Kms>("kms");

  /** The key must work at the moment of use: S3 passes on what KMS answers, with the service's name before it. */
  function requireKey(encryption: Encryption): void {
    if (encryption.algorithm !== "aws:kms") return;
    try {
      kms().requireUsable(encryption.keyArn);
    } catch (error) {
      if (error instanceof AwsError) throw new AwsError(`KMS.${error.code}`, error.message, 400);
      throw error;
    }
  }

  function settingsOf(input: Omit<PutObjectRequest, "Body">, config: BucketConfig): Settings {
    requireKeyName(input.Key);
    const metadata = Object.fromEntries(Object.entries(input.Metadata ?? {}).map(([name, value]) => [name.toLowerCase(), value]));
    if (Object.entries(metadata).reduce((sum, [name, value]) => sum + Buffer.byteLength(name) + Buffer.byteLength(value), 0) > mostMetadataBytes) {
      throw new AwsError("MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size");
    }
    const encryption = encryptionOf(input, config);
    requireKey(encryption);
    return {
      encryption,
      contentType: input.ContentType ?? "binary/octet-stream",
      headers: Object.fromEntries(storedHeaders.flatMap((name) => (input[name] === undefined ? [] : [[name, input[name]]]))),
      metadata,
      lock: lockOf(input, config),
    };
  }

  function lockOf(input: WriteRequest, config: BucketConfig): Lock | undefined {
    const { ObjectLockMode: mode, ObjectLockRetainUntilDate: until } = input;
    if (mode === undefined && until === undefined) {
      const retention = config.objectLock?.defaultRetention;
      return retention && { mode: retention.mode, untilMs: world.clock.now() + retention.days * dayMilliseconds };
    }
    if (config.objectLock === undefined) throw invalidRequest("Bucket is missing Object Lock Configuration");
    if (mode === undefined || until === undefined)
      throw invalidArgument("x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied");
    if (until.getTime() <= world.clock.now()) throw invalidArgument("The retain until date must be in the future!");
    return { mode, untilMs: until.getTime() };
  }

  /** ETags are MD5 only where S3 promises it: not for objects encrypted with a KMS key (S3 API reference, Object). */
  const etagOf = (body: Uint8Array, encryption: Encryption) => (encryption.algorithm === "AES256" ? md5(body).toString("hex") : unique("etag"));

  /** Judges If-Match and If-None-Match of a write or delete against the current version. */
  function requireCondition(
    current: Version | undefined,
    input: { readonly IfMatch?: string | undefined; readonly IfNoneMatch?: string | undefined; readonly Key: string | undefined },
  ): void {
    if (input.IfNoneMatch === undefined && input.IfMatch === undefined) return;
    if (input.IfNoneMatch !== undefined && (input.IfNoneMatch !== "*" || input.IfMatch !== undefined)) {
      throw new AwsError("NotImplemented", "A header you provided implies functionality that is not implemented", 501);
    }
    // Harsher than S3, which answers so only while another request for the same key is under way: any conditional write may meet it.
    if (world.faults.strike("throttle", `s3 conditional write of ${input.Key}`)) {
      throw new AwsError(
        "ConditionalRequestConflict",
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
        409,
        {
          Condition: input.IfMatch === undefined ? "If-None-Match" : "If-Match",
          Key: input.Key,
        },
      );
    }
    const exists = current?.content !== undefined;
    if (input.IfNoneMatch !== undefined && exists) throw preconditionFailed("If-None-Match");
    if (input.IfMatch !== undefined && !exists) throw noSuchKey(input.Key);
    if (input.IfMatch !== undefined && input.IfMatch !== "*" && unquote(input.IfMatch) !== current?.content?.etag)
      throw preconditionFailed("If-Match");
  }

  function store(
    bucket: Bucket,
    config: BucketConfig,
    key: string,
    content: Version["content"],
    reason: string,
    caller: Caller,
    atMs = world.clock.now(),
  ): Version {
    const version: Version = { id: config.versioned ? unique("version") : "null", content, atMs };
    const versions = bucket.objects.get(key);
    if (versions === undefined) {
      bucket.objects.set(key, [version]);
      bucket.keys.splice(lowerBound(bucket.keys, key), 0, key);
    } else if (config.versioned) versions.unshift(version);
    else bucket.objects.set(key, [version]);
    if (config.events) announce(content === undefined ? "Delete Marker Created" : undefined, bucket.name, key, version, reason, caller);
    return version;
  }

  function forget(bucket: Bucket, key: string, version: Version): void {
    const left = (bucket.objects.get(key) ?? []).filter((other) => other !== version);
    if (left.length > 0) bucket.objects.set(key, left);
    else if (bucket.objects.delete(key)) bucket.keys.splice(lowerBound(bucket.keys, key), 1);
  }

  /** Tells the default bus, as a bucket with EventBridge notifications does: delivery is guaranteed, at least once. */
  function announce(
    deletion: "Delete Marker Created" | "Permanently Deleted" | undefined,
    bucket: string,
    key: string,
    version: Version,
    reason: string,
    caller: Caller,
  ): void {
    world.publish({
      source: "aws.s3",
      detailType: deletion === undefined ? "Object Created" : "Object Deleted",
      resources: [bucketArn(bucket)],
      detail: {
        version: "0",
        bucket: { name: bucket },
        object: {
          key,
          ...(version.content === undefined ? {} : { size: version.content.body.length, etag: version.content.etag }),
          ...(version.id === "null" ? {} : { "version-id": version.id }),
          sequencer: serial.toString(16).toUpperCase().padStart(16, "0"),
        },
        "request-id": caller.requestId,
        requester: world.account,
        reason,
        ...(deletion === undefined ? {} : { "deletion-type": deletion }),
      },
    });
  }

  /** Object Lock wants every write protected on its way (S3 user guide, Object Lock considerations). */
  function requireProtected(config: BucketConfig, settings: Settings, protectedByHash: boolean, what: string): void {
    if (config.objectLock !== undefined && settings.lock !== undefined && !protectedByHash) {
      throw invalidRequest(`Content-MD5 OR x-amz-checksum- HTTP header is required for ${what} requests with Object Lock parameters`);
    }
  }

  const putObject: Operation<WithBody<PutObjectRequest>, PutObjectOutput> = {
    fields: [
      ...["Bucket", "Key", "Body", "ContentLength", "ContentMD5", "ContentType", "Metadata", ...storedHeaders, "IfMatch", "IfNoneMatch"],
      ...["ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled", "ObjectLockMode", "ObjectLockRetainUntilDate"],
      ...["ChecksumAlgorithm", "ChecksumCRC32", "ChecksumSHA1", "ChecksumSHA256"],
    ],
    permissions: (input) => [
      ...writePermissions(input, { creates: true, ifMatch: input.IfMatch, ifNoneMatch: input.IfNoneMatch }),
      ...keyPermission("kms:GenerateDataKey", wantedEncryption(input), input.Bucket, input.Key),
    ],
    latency: { milliseconds: 30 },
    mutates: true,
    call: (input, caller) => {
      const { bucket, config } = open(input.Bucket);
      const body = bodyOf(input);
      const settings = settingsOf(input, config);
      const checksum = verified(input, body);
      requireProtected(config, settings, checksum !== undefined || input.ContentMD5 !== undefined, "Put Object");
      const key = input.Key as string;
      requireCondition(bucket.objects.get(key)?.[0], input);
      const etag = etagOf(body, settings.encryption);
      const version = store(bucket, config, key, { ...settings, body, etag, checksum }, "PutObject", caller);
      return { ETag: quote(etag), ...encryptionHeaders(settings.encryption), ...checksumHeaders(checksum, true), ...versionHeader(version) };
    },
  };

  // --- reading ---

  function requireReadable(
    input: Pick<GetObjectRequest, "Bucket" | "Key" | "VersionId" | "IfMatch" | "IfNoneMatch">,
    missing: (key: string) => AwsError,
  ): Version & { content: NonNullable<Version["content"]> } {
    const { bucket } = open(input.Bucket);
    if (input.VersionId !== undefined) requireVersionId(input.VersionId);
    const version = peek(bucket.name, input.Key, input.VersionId);
    if (version === undefined && input.VersionId !== undefined)
      throw new AwsError("NoSuchVersion", "The specified version does not exist.", 404, { Key: input.Key, VersionId: input.VersionId });
    if (version?.content === undefined) {
      if (version !== undefined && input.VersionId !== undefined)
        throw new AwsError("MethodNotAllowed", "The specified method is not allowed against this resource.", 405);
      throw missing(input.Key ?? "");
    }
    const content = version.content;
    if (input.IfMatch !== undefined && input.IfMatch !== "*" && unquote(input.IfMatch) !== content.etag) throw preconditionFailed("If-Match");
    if (input.IfNoneMatch !== undefined && (input.IfNoneMatch === "*" || unquote(input.IfNoneMatch) === content.etag))
      throw new AwsError("NotModified", "Not Modified", 304);
    requireKey(content.encryption);
    return { ...version, content };
  }

  /** Everything about an object that its headers carry; `range` when only a part of it is asked. */
  function describe(
    input: GetObjectRequest | HeadObjectRequest,
    version: Version & { content: NonNullable<Version["content"]> },
  ): { head: HeadObjectOutput; body: Uint8Array } {
    const { content } = version;
    const range = parseRange(input.Range, content.body.length);
    const body = range === undefined ? content.body : content.body.subarray(range.first, range.last + 1);
    const head: HeadObjectOutput = {
      AcceptRanges: "bytes",
      ContentLength: body.length,
      ...(range === undefined ? {} : { ContentRange: `bytes ${range.first}-${range.last}/${content.body.length}` }),
      ContentType: content.contentType,
      ...content.headers,
      ETag: quote(content.etag),
      LastModified: wholeSeconds(version.atMs),
      Metadata: { ...content.metadata },
      ...encryptionHeaders(content.encryption),
      ...(input.ChecksumMode === "ENABLED" && range === undefined ? checksumHeaders(content.checksum, true) : {}),
      ...versionHeader(version),
      ...(content.lock === undefined ? {} : { ObjectLockMode: content.lock.mode, ObjectLockRetainUntilDate: new Date(content.lock.untilMs) }),
    };
    return { head, body };
  }

  const readFields = ["Bucket", "Key", "VersionId", "Range", "IfMatch", "IfNoneMatch", "ChecksumMode"];

  const getObject: Operation<GetObjectRequest, WithBody<GetObjectOutput>> = {
    fields: readFields,
    permissions: readPermissions,
    latency: { milliseconds: 20 },
    mutates: false,
    call: (input) => {
      const { head, body } = describe(input, requireReadable(input, noSuchKey));
      return { ...head, Body: Buffer.from(body) } as WithBody<GetObjectOutput>;
    },
  };

  const headObject: Operation<HeadObjectRequest, HeadObjectOutput> = {
    fields: readFields,
    permissions: readPermissions,
    latency: { milliseconds: 15 },
    mutates: false,
    // A HEAD has no body to say more in: 404 is all the caller learns (S3 API reference, HeadObject).
    call: (input) =>
      describe(
        input,
        requireReadable(input, () => new AwsError("NotFound", "Not Found", 404)),
      ).head,
  };

  const getObjectRetention: Operation<GetObjectRetentionRequest, GetObjectRetentionOutput> = {
    fields: ["Bucket", "Key", "VersionId"],
    permissions: (input) => [
      allow("s3:GetObjectRetention", objectArn(input.Bucket, input.Key), { "s3:VersionId": input.VersionId }),
      ...(peek(input.Bucket, input.Key, input.VersionId)?.content === undefined ? [allow("s3:ListBucket", bucketArn(input.Bucket))] : []),
    ],
    latency: { milliseconds: 15 },
    mutates: false,
    call: (input) => {
      const { config } = open(input.Bucket);
      if (config.objectLock === undefined) throw invalidRequest("Bucket is missing Object Lock Configuration");
      const { lock } = requireReadable(input, noSuchKey).content;
      if (lock === undefined) {
        const message = "The specified object does not have a ObjectLock configuration";
        throw new AwsError("NoSuchObjectLockConfiguration", message, 404, { Key: input.Key });
      }
      return { Retention: { Mode: lock.mode, RetainUntilDate: new Date(lock.untilMs) } };
    },
  };

  // --- deleting ---

  function remove(
    bucket: Bucket,
    config: BucketConfig,
    target: { readonly Key: string; readonly VersionId?: string | undefined },
    bypass: boolean,
    caller: Caller,
    reason: string,
  ): DeleteObjectOutput {
    requireKeyName(target.Key);
    if (target.VersionId === undefined) {
      if (config.versioned) return { DeleteMarker: true, VersionId: store(bucket, config, target.Key, undefined, reason, caller).id };
      const version = bucket.objects.get(target.Key)?.[0];
      if (version !== undefined) removeVersion(bucket, config, target.Key, version, caller, reason);
      return {};
    }
    requireVersionId(target.VersionId);
    const version = bucket.objects.get(target.Key)?.find((other) => other.id === target.VersionId);
    // A version that is not there is already gone.
    if (version === undefined) return { VersionId: target.VersionId };
    const lock = version.content?.lock;
    if (lock !== undefined && lock.untilMs > world.clock.now() && !(lock.mode === "GOVERNANCE" && bypass)) {
      throw new AwsError("AccessDenied", "Access Denied because object protected by object lock.", 403);
    }
    removeVersion(bucket, config, target.Key, version, caller, reason);
    return { VersionId: version.id, ...(version.content === undefined ? { DeleteMarker: true } : {}) };
  }

  function removeVersion(bucket: Bucket, config: BucketConfig, key: string, version: Version, caller: Caller, reason: string): void {
    forget(bucket, key, version);
    if (config.events) announce("Permanently Deleted", bucket.name, key, version, reason, caller);
  }

  function deletePermissions(
    bucket: string | undefined,
    key: string | undefined,
    versionId: string | undefined,
    ifMatch: string | undefined,
    bypass: boolean | undefined,
  ): Permission[] {
    const permissions = [
      allow(versionId === undefined ? "s3:DeleteObject" : "s3:DeleteObjectVersion", objectArn(bucket, key), {
        "s3:if-match": ifMatch,
        "s3:VersionId": versionId,
      }),
    ];
    // S3 user guide, conditional deletes: an ETag needs GetObject, `*` does not.
    if (ifMatch !== undefined && ifMatch !== "*") permissions.push(allow("s3:GetObject", objectArn(bucket, key)));
    if (bypass === true) permissions.push(allow("s3:BypassGovernanceRetention", objectArn(bucket, key)));
    return permissions;
  }

  const deleteObject: Operation<DeleteObjectRequest, DeleteObjectOutput> = {
    fields: ["Bucket", "Key", "VersionId", "IfMatch", "BypassGovernanceRetention"],
    permissions: (input) => deletePermissions(input.Bucket, input.Key, input.VersionId, input.IfMatch, input.BypassGovernanceRetention),
    latency: { milliseconds: 25 },
    mutates: true,
    call: (input, caller) => {
      const { bucket, config } = open(input.Bucket);
      requireCondition(bucket.objects.get(input.Key ?? "")?.[0], { Key: input.Key, IfMatch: input.IfMatch });
      return remove(
        bucket,
        config,
        { Key: input.Key as string, VersionId: input.VersionId },
        input.BypassGovernanceRetention === true,
        caller,
        "DeleteObject",
      );
    },
  };

  const deleteObjects: Operation<DeleteObjectsRequest, DeleteObjectsOutput> = {
    fields: [
      "Bucket",
      "Delete",
      "Delete.Objects",
      "Delete.Objects.Key",
      "Delete.Objects.VersionId",
      "Delete.Objects.ETag",
      "Delete.Quiet",
      "BypassGovernanceRetention",
      "ChecksumAlgorithm",
    ],
    permissions: (input) =>
      (input.Delete?.Objects ?? []).flatMap((object) =>
        deletePermissions(input.Bucket, object.Key, object.VersionId, object.ETag, input.BypassGovernanceRetention),
      ),
    latency: { milliseconds: 120 },
    mutates: true,
    call: (input, caller) => {
      const { bucket, config } = open(input.Bucket);
      const targets = input.Delete?.Objects ?? [];
      if (targets.length === 0 || targets.length > mostListed) throw malformedXml();
      const deleted: NonNullable<DeleteObjectsOutput["Deleted"]> = [];
      const errors: NonNullable<DeleteObjectsOutput["Errors"]> = [];
      for (const target of targets) {
        try {
          requireCondition(bucket.objects.get(target.Key ?? "")?.[0], { Key: target.Key, IfMatch: target.ETag });
          const removed = remove(bucket, config, target as { Key: string }, input.BypassGovernanceRetention === true, caller, "DeleteObject");
          deleted.push({
            Key: target.Key,
            ...(target.VersionId === undefined ? {} : { VersionId: target.VersionId }),
            ...(removed.DeleteMarker ? { DeleteMarker: true, DeleteMarkerVersionId: removed.VersionId } : {}),
          });
        } catch (error) {
          if (!(error instanceof AwsError)) throw error;
          errors.push({ Key: target.Key, VersionId: target.VersionId, Code: error.code, Message: error.message });
        }
      }
      return { ...(input.Delete?.Quiet ? {} : { Deleted: deleted }), ...(errors.length > 0 ? { Errors: errors } : {}) };
    },
  };

  // --- listing ---

  const listObjects: Operation<ListObjectsV2Request, ListObjectsV2Output> = {
    fields: ["Bucket", "Prefix", "Delimiter", "MaxKeys", "ContinuationToken", "StartAfter"],
    permissions: (input) => [
      allow("s3:ListBucket", bucketArn(input.Bucket), {
        "s3:prefix": input.Prefix ?? "",
        "s3:delimiter": input.Delimiter,
        "s3:max-keys": input.MaxKeys === undefined ? undefined : String(input.MaxKeys),
      }),
    ],
    latency: { milliseconds: 40 },
    mutates: false,
    call: (input) => {
      const { bucket } = open(input.Bucket);
      const limit = pageLimit(input.MaxKeys, "maxKeys");
      const after = input.ContinuationToken === undefined ? { key: input.StartAfter ?? "", wholePrefix: false } : parseToken(input.ContinuationToken);
      const page = walk(
        bucket,
        input.Prefix ?? "",
        input.Delimiter ?? "",
        after,
        limit,
        (key) => bucket.objects.get(key)?.[0]?.content !== undefined,
      );
      return {
        Name: bucket.name,
        Prefix: input.Prefix ?? "",
        ...(input.Delimiter === undefined ? {} : { Delimiter: input.Delimiter }),
        ...(input.StartAfter === undefined ? {} : { StartAfter: input.StartAfter }),
        ...(input.ContinuationToken === undefined ? {} : { ContinuationToken: input.ContinuationToken }),
        MaxKeys: limit,
        KeyCount: page.keys.length + page.prefixes.length,
        IsTruncated: page.next !== undefined,
        ...(page.next === undefined
          ? {}
          : { NextContinuationToken: Buffer.from(JSON.stringify([page.next.key, page.next.wholePrefix])).toString("base64") }),
        ...(page.keys.length === 0 ? {} : { Contents: page.keys.map((key) => listed(key, bucket.objects.get(key)?.[0] as Version)) }),
        ...(page.prefixes.length === 0 ? {} : { CommonPrefixes: page.prefixes.map((prefix) => ({ Prefix: prefix })) }),
      };
    },
  };

  const listed = (key: string, version: Version) => ({
    Key: key,
    LastModified: wholeSeconds(version.atMs),
    ETag: quote(version.content?.etag ?? ""),
    ...(version.content?.checksum === undefined
      ? {}
      : { ChecksumAlgorithm: [version.content.checksum.algorithm], ChecksumType: version.content.checksum.type }),
    Size: version.content?.body.length ?? 0,
    StorageClass: "STANDARD" as const,
  });

  const listObjectVersions: Operation<ListObjectVersionsRequest, ListObjectVersionsOutput> = {
    fields: ["Bucket", "Prefix", "MaxKeys", "KeyMarker", "VersionIdMarker"],
    permissions: (input) => [allow("s3:ListBucketVersions", bucketArn(input.Bucket), { "s3:prefix": input.Prefix ?? "" })],
    latency: { milliseconds: 50 },
    mutates: false,
    call: (input) => {
      const { bucket } = open(input.Bucket);
      const limit = pageLimit(input.MaxKeys, "maxKeys");
      const prefix = input.Prefix ?? "";
      if (input.VersionIdMarker !== undefined && input.KeyMarker === undefined)
        throw invalidArgument("A version-id marker cannot be specified without a key marker.");
      const versions: ObjectVersion[] = [];
      const markers: DeleteMarkerEntry[] = [];
      let last: { key: string; id: string } | undefined;
      let truncated = false;
      const start = input.KeyMarker !== undefined && compareKeys(input.KeyMarker, prefix) > 0 ? input.KeyMarker : prefix;
      scan: for (let at = lowerBound(bucket.keys, start); at < bucket.keys.length; at++) {
        const key = bucket.keys[at] as string;
        if (!key.startsWith(prefix)) break;
        const all = bucket.objects.get(key) as Version[];
        let from = 0;
        if (key === input.KeyMarker) {
          const marked = input.VersionIdMarker === undefined ? all.length - 1 : all.findIndex((version) => version.id === input.VersionIdMarker);
          if (marked === -1) throw invalidArgument("Invalid version id specified");
          from = marked + 1;
        }
        for (let index = from; index < all.length; index++) {
          if (versions.length + markers.length >= limit) {
            truncated = true;
            break scan;
          }
          const version = all[index] as Version;
          last = { key, id: version.id };
          const common = { IsLatest: index === 0, VersionId: version.id };
          if (version.content === undefined) markers.push({ Key: key, LastModified: wholeSeconds(version.atMs), ...common });
          else versions.push({ ...listed(key, version), ...common });
        }
      }
      return {
        Name: bucket.name,
        Prefix: prefix,
        MaxKeys: limit,
        ...(input.KeyMarker === undefined ? {} : { KeyMarker: input.KeyMarker }),
        ...(input.VersionIdMarker === undefined ? {} : { VersionIdMarker: input.VersionIdMarker }),
        IsTruncated: truncated,
        ...(truncated && last !== undefined ? { NextKeyMarker: last.key, NextVersionIdMarker: last.id } : {}),
        ...(versions.length === 0 ? {} : { Versions: versions }),
        ...(markers.length === 0 ? {} : { DeleteMarkers: markers }),
      };
    },
  };

  // --- multipart uploads ---

  function findUpload(input: { readonly Bucket: string | undefined; readonly Key: string | undefined; readonly UploadId: string | undefined }) {
    const opened = open(input.Bucket);
    const upload = opened.bucket.uploads.get(input.UploadId ?? "");
    if (upload === undefined || upload.key !== input.Key) {
      throw new AwsError(
        "NoSuchUpload",
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
        404,
        { UploadId: input.UploadId },
      );
    }
    return { ...opened, upload };
  }

  const uploadEncryption = (input: { readonly Bucket: string | undefined; readonly UploadId: string | undefined }) =>
    buckets.get(input.Bucket ?? "")?.uploads.get(input.UploadId ?? "")?.settings.encryption;

  const createMultipartUpload: Operation<CreateMultipartUploadRequest, CreateMultipartUploadOutput> = {
    fields: [
      ...["Bucket", "Key", "ContentType", "Metadata", ...storedHeaders, "ChecksumAlgorithm", "ChecksumType"],
      ...["ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled", "ObjectLockMode", "ObjectLockRetainUntilDate"],
    ],
    permissions: (input) => [
      ...writePermissions(input, { creates: false }),
      ...keyPermission("kms:GenerateDataKey", wantedEncryption(input), input.Bucket, input.Key),
    ],
    latency: { milliseconds: 35 },
    mutates: true,
    call: (input) => {
      const { bucket, config } = open(input.Bucket);
      const { ChecksumAlgorithm: _, ...described } = input;
      const settings = settingsOf(described, config);
      const algorithm = input.ChecksumAlgorithm === undefined ? undefined : modelledAlgorithm(input.ChecksumAlgorithm);
      if (input.ChecksumType !== undefined && algorithm === undefined)
        throw invalidRequest("The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.");
      if (input.ChecksumType === "FULL_OBJECT" && algorithm !== "CRC32") {
        throw invalidRequest(`The FULL_OBJECT checksum type cannot be used with the ${algorithm?.toLowerCase()} checksum algorithm.`);
      }
      const id = unique("upload");
      const checksumType = input.ChecksumType === "FULL_OBJECT" ? "FULL_OBJECT" : "COMPOSITE";
      bucket.uploads.set(id, { id, key: input.Key as string, settings, algorithm, checksumType, atMs: world.clock.now(), parts: new Map() });
      return {
        Bucket: bucket.name,
        Key: input.Key,
        UploadId: id,
        ...encryptionHeaders(settings.encryption),
        ...(algorithm === undefined ? {} : { ChecksumAlgorithm: algorithm, ChecksumType: checksumType }),
      };
    },
  };

  const uploadPart: Operation<WithBody<UploadPartRequest>, UploadPartOutput> = {
    fields: [
      "Bucket",
      "Key",
      "UploadId",
      "PartNumber",
      "Body",
      "ContentLength",
      "ContentMD5",
      "ChecksumAlgorithm",
      "ChecksumCRC32",
      "ChecksumSHA1",
      "ChecksumSHA256",
    ],
    permissions: (input) => [
      allow("s3:PutObject", objectArn(input.Bucket, input.Key), { "s3:ObjectCreationOperation": "false" }),
      ...keyPermission("kms:Decrypt", uploadEncryption(input), input.Bucket, input.Key),
    ],
    latency: { milliseconds: 60 },
    mutates: true,
    call: (input) => {
      const { config, upload } = findUpload(input);
      const number = input.PartNumber ?? 0;
      if (!Number.isInteger(number) || number < 1 || number > mostParts)
        throw invalidArgument(`Part number must be an integer between 1 and ${mostParts}, inclusive`);
      const body = bodyOf(input);
      requireKey(upload.settings.encryption);
      const checksum = verified(input, body);
      requireProtected(config, upload.settings, checksum !== undefined || input.ContentMD5 !== undefined, "Put Part");
      if (upload.algorithm !== undefined && checksum?.algorithm !== upload.algorithm) {
        const found = checksum?.algorithm.toLowerCase() ?? "null";
        throw invalidRequest(
          `Checksum Type mismatch occurred, expected checksum Type: ${upload.algorithm.toLowerCase()}, actual checksum Type: ${found}`,
        );
      }
      const etag = etagOf(body, upload.settings.encryption);
      upload.parts.set(number, { number, body, etag, checksum, atMs: world.clock.now() });
      return { ETag: quote(etag), ...encryptionHeaders(upload.settings.encryption), ...checksumHeaders(checksum, false) };
    },
  };

  const listParts: Operation<ListPartsRequest, ListPartsOutput> = {
    fields: ["Bucket", "Key", "UploadId", "MaxParts", "PartNumberMarker"],
    permissions: (input) => [allow("s3:ListMultipartUploadParts", objectArn(input.Bucket, input.Key))],
    latency: { milliseconds: 30 },
    mutates: false,
    call: (input) => {
      const { bucket, upload } = findUpload(input);
      const limit = pageLimit(input.MaxParts, "max-parts");
      const after = input.PartNumberMarker === undefined ? 0 : Number(input.PartNumberMarker);
      const left = [...upload.parts.values()].filter((part) => part.number > after).sort((a, b) => a.number - b.number);
      const page = left.slice(0, limit);
      const truncated = left.length > page.length;
      return {
        Bucket: bucket.name,
        Key: upload.key,
        UploadId: upload.id,
        MaxParts: limit,
        PartNumberMarker: String(after),
        IsTruncated: truncated,
        ...(truncated ? { NextPartNumberMarker: String(page.at(-1)?.number ?? after) } : {}),
        ...(upload.algorithm === undefined ? {} : { ChecksumAlgorithm: upload.algorithm, ChecksumType: upload.checksumType }),
        StorageClass: "STANDARD",
        ...(page.length === 0
          ? {}
          : {
              Parts: page.map((part) => ({
                PartNumber: part.number,
                LastModified: wholeSeconds(part.atMs),
                ETag: quote(part.etag),
                Size: part.body.length,
                ...checksumHeaders(part.checksum, false),
              })),
            }),
      };
    },
  };

  const listMultipartUploads: Operation<ListMultipartUploadsRequest, ListMultipartUploadsOutput> = {
    fields: ["Bucket", "Prefix", "MaxUploads", "KeyMarker", "UploadIdMarker"],
    permissions: (input) => [allow("s3:ListBucketMultipartUploads", bucketArn(input.Bucket))],
    latency: { milliseconds: 40 },
    mutates: false,
    call: (input) => {
      const { bucket } = open(input.Bucket);
      const limit = pageLimit(input.MaxUploads, "max-uploads");
      const all = [...bucket.uploads.values()]
        .filter((upload) => upload.key.startsWith(input.Prefix ?? ""))
        .sort((a, b) => compareKeys(a.key, b.key) || a.atMs - b.atMs || (a.id < b.id ? -1 : 1));
      const marked =
        input.UploadIdMarker === undefined ? -1 : all.findIndex((upload) => upload.key === input.KeyMarker && upload.id === input.UploadIdMarker);
      const left =
        marked >= 0 ? all.slice(marked + 1) : all.filter((upload) => input.KeyMarker === undefined || compareKeys(upload.key, input.KeyMarker) > 0);
      const page = left.slice(0, limit);
      const last = page.at(-1);
      const truncated = left.length > page.length;
      return {
        Bucket: bucket.name,
        Prefix: input.Prefix ?? "",
        MaxUploads: limit,
        IsTruncated: truncated,
        ...(truncated && last !== undefined ? { NextKeyMarker: last.key, NextUploadIdMarker: last.id } : {}),
        ...(page.length === 0
          ? {}
          : {
              Uploads: page.map((upload) => ({
                Key: upload.key,
                UploadId: upload.id,
                Initiated: wholeSeconds(upload.atMs),
                StorageClass: "STANDARD" as const,
                ...(upload.algorithm === undefined ? {} : { ChecksumAlgorithm: upload.algorithm, ChecksumType: upload.checksumType }),
              })),
            }),
      };
    },
  };

  const completeMultipartUpload: Operation<CompleteMultipartUploadRequest, CompleteMultipartUploadOutput> = {
    fields: [
      ...[
        "Bucket",
        "Key",
        "UploadId",
        "IfMatch",
        "IfNoneMatch",
        "MpuObjectSize",
        "ChecksumType",
        "ChecksumCRC32",
        "ChecksumSHA1",
        "ChecksumSHA256",
        "MultipartUpload",
      ],
      ...["Parts", "Parts.PartNumber", "Parts.ETag", "Parts.ChecksumCRC32", "Parts.ChecksumSHA1", "Parts.ChecksumSHA256"].map(
        (name) => `MultipartUpload.${name}`,
      ),
    ],
    permissions: (input) => [
      ...writePermissions({ Bucket: input.Bucket, Key: input.Key }, { creates: true, ifMatch: input.IfMatch, ifNoneMatch: input.IfNoneMatch }),
      ...keyPermission("kms:Decrypt", uploadEncryption(input), input.Bucket, input.Key),
    ],
    latency: { milliseconds: 150 },
    mutates: true,
    call: (input, caller) => {
      const { bucket, config, upload } = findUpload(input);
      const parts = chosenParts(upload, input.MultipartUpload?.Parts ?? []);
      const body = Buffer.concat(parts.map((part) => part.body));
      if (input.MpuObjectSize !== undefined && Number(input.MpuObjectSize) !== body.length) {
        throw invalidRequest(
          `The provided 'x-amz-mp-object-size' header value ${input.MpuObjectSize} does not match what was computed: ${body.length}`,
        );
      }
      requireKey(upload.settings.encryption);
      const checksum = wholeChecksum(upload, parts, body);
      const claimed = checksum && input[`Checksum${checksum.algorithm}`];
      if (checksum && claimed !== undefined && claimed !== checksum.value) throw badDigest(checksum.algorithm);
      try {
        requireCondition(bucket.objects.get(upload.key)?.[0], input);
      } catch (error) {
        // After a conflict the upload is spent: everything must be sent again under a new one (S3 user guide, conditional writes).
        if (error instanceof AwsError && error.code === "ConditionalRequestConflict") bucket.uploads.delete(upload.id);
        throw error;
      }
      const { encryption } = upload.settings;
      const etag = `${encryption.algorithm === "AES256" ? md5(Buffer.concat(parts.map((part) => Buffer.from(part.etag, "hex")))).toString("hex") : unique("etag")}-${parts.length}`;
      bucket.uploads.delete(upload.id);
      const version = store(bucket, config, upload.key, { ...upload.settings, body, etag, checksum }, "CompleteMultipartUpload", caller);
      return {
        Location: `https://${bucket.name}.s3.${world.region}.amazonaws.com/${upload.key}`,
        Bucket: bucket.name,
        Key: upload.key,
        ETag: quote(etag),
        ...encryptionHeaders(encryption),
        ...checksumHeaders(checksum, true),
        ...versionHeader(version),
      };
    },
  };

  const abortMultipartUpload: Operation<AbortMultipartUploadRequest, Record<string, never>> = {
    fields: ["Bucket", "Key", "UploadId"],
    permissions: (input) => [allow("s3:AbortMultipartUpload", objectArn(input.Bucket, input.Key))],
    latency: { milliseconds: 25 },
    mutates: true,
    call: (input) => {
      const { bucket, upload } = findUpload(input);
      bucket.uploads.delete(upload.id);
      return {};
    },
  };

  // --- lifecycle ---

  /** Applies the rules once a day, at the first look after midnight: S3's expiry dates are midnights, so nothing is seen too early or too late. */
  function sweep(bucket: Bucket, config: BucketConfig): void {
    const now = world.clock.now();
    const today = Math.floor(now / dayMilliseconds);
    if (bucket.sweptDay === today) return;
    bucket.sweptDay = today;
    const locked = (version: Version) => version.content?.lock !== undefined && version.content.lock.untilMs > now;
    for (const rule of config.lifecycle) {
      for (const key of bucket.keys.filter((name) => name.startsWith(rule.prefix))) {
        const current = bucket.objects.get(key)?.[0] as Version;
        if (rule.expirationDays !== undefined && current.content !== undefined && dueAt(current.atMs, rule.expirationDays) <= now) {
          const expired = dueAt(current.atMs, rule.expirationDays);
          if (config.versioned) store(bucket, config, key, undefined, "Lifecycle Expiration", lifecycleCaller, expired);
          else removeVersion(bucket, config, key, current, lifecycleCaller, "Lifecycle Expiration");
        }
        const versions = [...(bucket.objects.get(key) ?? [])];
        if (rule.noncurrentDays !== undefined) {
          versions.forEach((version, index) => {
            const newer = versions[index - 1];
            if (newer === undefined || locked(version) || index - 1 < (rule.newerNoncurrentVersions ?? 0)) return;
            if (dueAt(newer.atMs, rule.noncurrentDays as number) <= now)
              removeVersion(bucket, config, key, version, lifecycleCaller, "Lifecycle Expiration");
          });
        }
        const [marker, ...others] = bucket.objects.get(key) ?? [];
        const markerGoes =
          rule.expiredObjectDeleteMarker === true ||
          (rule.expirationDays !== undefined && marker !== undefined && dueAt(marker.atMs, rule.expirationDays) <= now);
        if (marker !== undefined && marker.content === undefined && others.length === 0 && markerGoes) forget(bucket, key, marker);
      }
      if (rule.abortIncompleteDays === undefined) continue;
      for (const upload of [...bucket.uploads.values()]) {
        if (upload.key.startsWith(rule.prefix) && dueAt(upload.atMs, rule.abortIncompleteDays) <= now) bucket.uploads.delete(upload.id);
      }
    }
  }

  // --- presigned requests ---

  function fetchPresigned(
    url: string,
    request: { readonly method: string; readonly headers?: Readonly<Record<string, string>>; readonly body?: Uint8Array },
    network: Readonly<Record<string, string>> = {},
  ): WireResponse {
    if (hooks === undefined) throw new Unmodelled("presigned S3 requests before usePresigned");
    const requestId = unique("request").toUpperCase().slice(0, 16);
    const answer = { requestId, now: world.clock.now(), method: request.method };
    try {
      const arrived = wireRequest(url, request);
      if (!arrived.host.endsWith(`s3.${world.region}.amazonaws.com`))
        throw new Unmodelled(`S3 host ${arrived.host}: only the Region's own name is served`);
      const { signer, context } = checkPresigned(arrived, { region: world.region, nowMs: world.clock.now(), credentials: hooks.credentials });
      const { operation, input } = decode(unhoist(arrived));
      // A client that sends in chunks without a length is refused: S3 must know the length before the bytes.
      if ("transfer-encoding" in arrived.headers) {
        throw new AwsError("NotImplemented", "A header you provided implies functionality that is not implemented", 501, {
          Header: "Transfer-Encoding",
        });
      }
      const scheme = { "aws:SecureTransport": String(url.startsWith("https:")) };
      return encodeOutput(operation, hooks.call(operation.name, input, signer, { ...context, ...scheme, ...network }), answer);
    } catch (error) {
      if (error instanceof AwsError) return encodeError("s3", error, answer);
      throw error;
    }
  }

  function createBucket(config: BucketConfig): void {
    if (config.objectLock !== undefined && !config.versioned) throw new Unmodelled(`bucket ${config.name}: Object Lock needs versioning`);
    if (configs.get(config.name)?.versioned === true && !config.versioned) {
      throw new Unmodelled(`bucket ${config.name}: versioning cannot be taken back, only suspended`);
    }
    configs.set(config.name, config);
    if (!buckets.has(config.name)) buckets.set(config.name, emptyBucket(config.name, world.clock.now()));
  }

  for (const bucket of world.template?.buckets ?? []) createBucket(bucketFromTemplate(bucket));

  return {
    name: "s3",
    operations: {
      PutObject: putObject,
      GetObject: getObject,
      HeadObject: headObject,
      GetObjectRetention: getObjectRetention,
      DeleteObject: deleteObject,
      DeleteObjects: deleteObjects,
      ListObjectsV2: listObjects,
      ListObjectVersions: listObjectVersions,
      CreateMultipartUpload: createMultipartUpload,
      UploadPart: uploadPart,
      ListParts: listParts,
      ListMultipartUploads: listMultipartUploads,
      CompleteMultipartUpload: completeMultipartUpload,
      AbortMultipartUpload: abortMultipartUpload,
    },
    throttle: { code: "SlowDown", httpStatus: 503 },
    createBucket,
    bucketNames: () => [...configs.keys()],
    put(bucket, key, body, contentType) {
      const bytes = Buffer.from(body as Uint8Array);
      const described = { Bucket: bucket, Key: key, Body: bytes, ChecksumSHA256: digest("SHA256", bytes).toString("base64") };
      putObject.call(contentType === undefined ? described : { ...described, ContentType: contentType }, ownerCaller, world);
    },
    read(bucket, key) {
      const content = peek(bucket, key)?.content;
      return content && Buffer.from(content.body);
    },
    usePresigned(given) {
      hooks = given;
    },
    fetchPresigned,
    save: (): Saved => structuredClone({ serial, buckets: [...buckets.values()] }),
    load(state) {
      const saved = structuredClone(state as Saved);
      serial = saved.serial;
      buckets = new Map(saved.buckets.map((bucket) => [bucket.name, bucket]));
      for (const name of configs.keys()) {
        if (!buckets.has(name))
          buckets.set(name, { name, objects: new Map(), keys: [], uploads: new Map(), sweptDay: Math.floor(world.clock.now() / dayMilliseconds) });
      }
    },
  };
}

function emptyBucket(name: string, nowMs: number): Bucket {
  return { name, objects: new Map(), keys: [], uploads: new Map(), sweptDay: Math.floor(nowMs / dayMilliseconds) };
}

const lifecycleCaller: Caller = { principal: "s3.amazonaws.com", name: "s3-lifecycle", requestId: "lifecycle" };
const ownerCaller: Caller = { principal: "owner", name: "person", requestId: "owner" };

/** What S3 keeps to of a bucket of the template. */
export function bucketFromTemplate(bucket: TemplateBucket): BucketConfig {
  const at = `AWS::S3::Bucket ${bucket.name}`;
  const { objectLock } = bucket;
  return {
    name: bucket.name,
    versioned: bucket.versioned,
    encryption:
      bucket.kmsKeyArn === undefined ? { algorithm: "AES256" } : { algorithm: "aws:kms", keyArn: bucket.kmsKeyArn, bucketKey: bucket.bucketKey },
    lifecycle: bucket.lifecycle
      .filter((rule) => rule.Status === "Enabled")
      .map((rule, index) => lifecycleFromTemplate(`${at} lifecycle rule ${index}`, rule)),
    objectLock: objectLock && (objectLock.mode === undefined ? {} : { defaultRetention: { mode: objectLock.mode, days: objectLock.days } }),
    events: bucket.eventBridge,
  };
}

function lifecycleFromTemplate(at: string, rule: Readonly<Record<string, unknown>>): LifecycleRule {
  only(at, rule, [
    "Id",
    "Status",
    "Prefix",
    "ExpirationInDays",
    "ExpiredObjectDeleteMarker",
    "NoncurrentVersionExpiration",
    "NoncurrentVersionExpirationInDays",
    "AbortIncompleteMultipartUpload",
  ]);
  const noncurrent = rule.NoncurrentVersionExpiration as { NoncurrentDays?: unknown; NewerNoncurrentVersions?: unknown } | undefined;
  const abort = rule.AbortIncompleteMultipartUpload as { DaysAfterInitiation?: unknown } | undefined;
  const days = (name: string, value: unknown) => (value === undefined ? {} : { [name]: Number(value) });
  return {
    id: String(rule.Id ?? at),
    prefix: String(rule.Prefix ?? ""),
    ...days("expirationDays", rule.ExpirationInDays),
    ...(rule.ExpiredObjectDeleteMarker === true ? { expiredObjectDeleteMarker: true } : {}),
    ...days("noncurrentDays", noncurrent?.NoncurrentDays ?? rule.NoncurrentVersionExpirationInDays),
    ...days("newerNoncurrentVersions", noncurrent?.NewerNoncurrentVersions),
    ...days("abortIncompleteDays", abort?.DaysAfterInitiation),
  };
}

function only(at: string, properties: Readonly<Record<string, unknown>>, modelled: readonly string[]): void {
  const unknown = Object.keys(properties).filter((name) => !modelled.includes(name));
  if (unknown.length > 0) throw new Unmodelled(`${at}: property ${unknown.join(", ")}`);
}

/** Expiry is the midnight (UTC) after the days have passed (S3 user guide, lifecycle). */
function dueAt(atMs: number, days: number): number {
  return Math.ceil((atMs + days * dayMilliseconds) / dayMilliseconds) * dayMilliseconds;
}

// --- bytes and checksums ---

function bodyOf(input: {
  readonly Body?: Uint8Array | undefined;
  readonly ContentLength?: number | undefined;
  readonly ContentMD5?: string | undefined;
}): Buffer {
  const body = Buffer.from(input.Body ?? []);
  if (input.ContentLength !== undefined && input.ContentLength !== body.length) {
    throw new AwsError("IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header");
  }
  if (body.length > mostPutBytes)
    throw new AwsError("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size", 400, { MaxSizeAllowed: String(mostPutBytes) });
  if (input.ContentMD5 !== undefined) {
    if (Buffer.from(input.ContentMD5, "base64").length !== 16) throw new AwsError("InvalidDigest", "The Content-MD5 you specified was invalid.");
    if (md5(body).toString("base64") !== input.ContentMD5)
      throw new AwsError("BadDigest", "The Content-MD5 you specified did not match what we received.");
  }
  return body;
}

/** The one checksum a writer gave, once it holds. */
function verified(
  input: {
    readonly ChecksumAlgorithm?: string | undefined;
    readonly ChecksumCRC32?: string | undefined;
    readonly ChecksumSHA1?: string | undefined;
    readonly ChecksumSHA256?: string | undefined;
  },
  body: Uint8Array,
): Checksum | undefined {
  const given = algorithms.filter((algorithm) => input[`Checksum${algorithm}`] !== undefined);
  const [algorithm] = given;
  if (given.length > 1) throw invalidRequest("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.");
  if (algorithm === undefined) {
    if (input.ChecksumAlgorithm !== undefined && modelledAlgorithm(input.ChecksumAlgorithm)) {
      throw invalidRequest("x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.");
    }
    return undefined;
  }
  if (input.ChecksumAlgorithm !== undefined && modelledAlgorithm(input.ChecksumAlgorithm) !== algorithm) {
    throw invalidRequest("Value for x-amz-sdk-checksum-algorithm header is invalid.");
  }
  const value = input[`Checksum${algorithm}`] as string;
  if (Buffer.from(value, "base64").length !== digestBytes[algorithm])
    throw invalidRequest(`Value for x-amz-checksum-${algorithm.toLowerCase()} header is invalid.`);
  if (digest(algorithm, body).toString("base64") !== value) throw badDigest(algorithm);
  return { algorithm, value, type: "FULL_OBJECT" };
}

function modelledAlgorithm(name: string): Algorithm {
  const algorithm = algorithms.find((known) => known === name);
  if (algorithm === undefined) throw new Unmodelled(`S3 checksum algorithm ${name}`);
  return algorithm;
}

function digest(algorithm: Algorithm, body: Uint8Array): Buffer {
  if (algorithm !== "CRC32") return createHash(algorithm).update(body).digest();
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc32(body) >>> 0);
  return bytes;
}

const md5 = (body: Uint8Array) => createHash("md5").update(body).digest();

/** The parts a completion names, in order, each as it was uploaded. */
function chosenParts(upload: Upload, named: readonly CompletedPart[]): Part[] {
  if (named.length === 0) throw malformedXml();
  const parts = named.map((completed, index) => {
    if (index > 0 && (completed.PartNumber ?? 0) <= (named[index - 1]?.PartNumber ?? 0)) {
      throw new AwsError(
        "InvalidPartOrder",
        "The list of parts was not in ascending order. The parts list must be specified in order by part number.",
      );
    }
    const part = upload.parts.get(completed.PartNumber ?? 0);
    if (part === undefined || unquote(completed.ETag ?? "") !== part.etag) throw invalidPart(completed.PartNumber);
    const claimed = algorithms.map((algorithm) => [algorithm, completed[`Checksum${algorithm}`]] as const).filter(([, value]) => value !== undefined);
    if (upload.algorithm !== undefined && upload.checksumType === "COMPOSITE" && claimed.length === 0) {
      throw invalidRequest(
        `The upload was created using a ${upload.algorithm.toLowerCase()} checksum. The complete request must include the checksum for each part. It was missing for part ${part.number} in the request.`,
      );
    }
    if (claimed.some(([algorithm, value]) => part.checksum?.algorithm !== algorithm || part.checksum.value !== value))
      throw invalidPart(completed.PartNumber);
    return part;
  });
  const small = parts.slice(0, -1).find((part) => part.body.length < leastPartBytes);
  if (small !== undefined) {
    throw new AwsError("EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size", 400, {
      ProposedSize: String(small.body.length),
      MinSizeAllowed: String(leastPartBytes),
      PartNumber: String(small.number),
      ETag: small.etag,
    });
  }
  return parts;
}

/** A composite checksum is one of checksums, not of the file (S3 user guide, checking object integrity). */
function wholeChecksum(upload: Upload, parts: readonly Part[], body: Uint8Array): Checksum | undefined {
  const { algorithm } = upload;
  if (algorithm === undefined) return undefined;
  if (upload.checksumType === "FULL_OBJECT") return { algorithm, value: digest(algorithm, body).toString("base64"), type: "FULL_OBJECT" };
  const all = Buffer.concat(parts.map((part) => Buffer.from(part.checksum?.value ?? "", "base64")));
  return { algorithm, value: `${digest(algorithm, all).toString("base64")}-${parts.length}`, type: "COMPOSITE" };
}

function checksumHeaders(checksum: Checksum | undefined, withType: boolean): Readonly<Record<string, string>> {
  return checksum === undefined ? {} : { [`Checksum${checksum.algorithm}`]: checksum.value, ...(withType ? { ChecksumType: checksum.type } : {}) };
}

function encryptionHeaders(encryption: Encryption) {
  if (encryption.algorithm === "AES256") return { ServerSideEncryption: "AES256" as const };
  return { ServerSideEncryption: "aws:kms" as const, SSEKMSKeyId: encryption.keyArn, ...(encryption.bucketKey ? { BucketKeyEnabled: true } : {}) };
}

const versionHeader = (version: Version) => (version.id === "null" ? {} : { VersionId: version.id });
const wholeSeconds = (atMs: number) => new Date(Math.floor(atMs / 1000) * 1000);
const quote = (etag: string) => `"${etag}"`;
const unquote = (etag: string) => etag.replace(/^"(.*)"$/, "$1");

/** First and last byte of a single range; undefined when there is none, or one S3 ignores because it cannot read it. */
function parseRange(range: string | undefined, size: number): { first: number; last: number } | undefined {
  const [, from = "", to = ""] = /^bytes=(\d*)-(\d*)$/.exec(range ?? "") ?? [];
  if (from === "" && to === "") return undefined;
  const first = from === "" ? Math.max(0, size - Number(to)) : Number(from);
  const last = from === "" || to === "" ? size - 1 : Math.min(Number(to), size - 1);
  if (from !== "" && to !== "" && Number(to) < first) return undefined;
  if (first >= size || (from === "" && Number(to) === 0)) {
    throw new AwsError("InvalidRange", "The requested range is not satisfiable", 416, { RangeRequested: range, ActualObjectSize: String(size) });
  }
  return { first, last };
}

// --- keys in order ---

/** S3 lists by the bytes of UTF-8; that is the order of code points, not of JavaScript's code units. */
function compareKeys(a: string, b: string): number {
  if (a === b) return 0;
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at++) {
    const left = a.charCodeAt(at);
    const right = b.charCodeAt(at);
    if (left === right) continue;
    // A surrogate stands for a code point above every other unit.
    const [leftHigh, rightHigh] = [left >= 0xd800 && left <= 0xdfff, right >= 0xd800 && right <= 0xdfff];
    return leftHigh === rightHigh ? left - right : leftHigh ? 1 : -1;
  }
  return a.length - b.length;
}

/** Index of the first key that is not before `wanted`. */
function lowerBound(keys: readonly string[], wanted: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareKeys(keys[middle] as string, wanted) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Where a listing goes on: after a key, or after everything that shares a rolled-up prefix. */
interface Position {
  readonly key: string;
  readonly wholePrefix: boolean;
}

function walk(bucket: Bucket, prefix: string, delimiter: string, after: Position, limit: number, shows: (key: string) => boolean) {
  const keys: string[] = [];
  const prefixes: string[] = [];
  let last: Position | undefined;
  const start = compareKeys(after.key, prefix) > 0 ? after.key : prefix;
  for (let at = lowerBound(bucket.keys, start); at < bucket.keys.length; at++) {
    const key = bucket.keys[at] as string;
    if (!key.startsWith(prefix)) break;
    if (after.key !== "" && (after.wholePrefix ? key.startsWith(after.key) : compareKeys(key, after.key) <= 0)) continue;
    if (!shows(key)) continue;
    const cut = delimiter === "" ? -1 : key.indexOf(delimiter, prefix.length);
    const rolled = cut === -1 ? undefined : key.slice(0, cut + delimiter.length);
    if (rolled !== undefined && rolled === prefixes.at(-1)) continue;
    if (keys.length + prefixes.length >= limit) return { keys, prefixes, next: limit === 0 ? undefined : last };
    if (rolled === undefined) keys.push(key);
    else prefixes.push(rolled);
    last = { key: rolled ?? key, wholePrefix: rolled !== undefined };
  }
  return { keys, prefixes, next: undefined };
}

function parseToken(token: string): Position {
  try {
    const [key, wholePrefix] = JSON.parse(Buffer.from(token, "base64").toString()) as unknown[];
    if (typeof key === "string" && typeof wholePrefix === "boolean") return { key, wholePrefix };
  } catch {
    // Answered below, as every other token that is not ours.
  }
  throw invalidArgument("The continuation token provided is incorrect");
}

function pageLimit(asked: number | undefined, name: string): number {
  if (asked !== undefined && (!Number.isInteger(asked) || asked < 0))
    throw invalidArgument(`Argument ${name} must be an integer between 0 and 2147483647`);
  return Math.min(asked ?? mostListed, mostListed);
}

function requireKeyName(key: string | undefined): void {
  if (key === undefined || key === "") throw invalidArgument("The object key must not be empty");
  if (Buffer.byteLength(key) > mostKeyBytes)
    throw new AwsError("KeyTooLongError", "Your key is too long", 400, {
      Size: String(Buffer.byteLength(key)),
      MaxSizeAllowed: String(mostKeyBytes),
    });
}

function requireVersionId(id: string): void {
  if (id !== "null" && !/^[0-9a-f]{32}$/.test(id)) throw invalidArgument("Invalid version id specified");
}

// --- errors ---

const noSuchKey = (key: string | undefined) => new AwsError("NoSuchKey", "The specified key does not exist.", 404, { Key: key });
const preconditionFailed = (condition: string) =>
  new AwsError("PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412, { Condition: condition });
const invalidArgument = (message: string) => new AwsError("InvalidArgument", message);
const invalidRequest = (message: string) => new AwsError("InvalidRequest", message);
const malformedXml = () => new AwsError("MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema");
const badDigest = (algorithm: Algorithm) => new AwsError("BadDigest", `The ${algorithm} you specified did not match the calculated checksum.`);
const invalidPart = (number: number | undefined) =>
  new AwsError(
    "InvalidPart",
    "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.",
    400,
    { PartNumber: String(number) },
  );
