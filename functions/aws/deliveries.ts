/**
 * Deliveries: files on their way to a node, and from it, by presigned URL.
 *
 * A URL is a bearer key, so it lives fifteen minutes, and what a node puts can only create that one object (If-None-Match is signed). Whoever signs
 * needs the right the URL gives; the node needs none.
 */
import { GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { stateKeys } from "../../core/layout.js";
import { type DeliveryEntry, deliveryLine } from "../../core/node-commands.js";

/** Fifteen minutes at most; also never longer than the signing role's session. */
export const urlLifetimeSeconds = 900;

export interface Deliveries {
  /** Stores a file for one delivery, encrypted with the secrets key, and answers how a node gets it. */
  file(key: string, content: string, target: string, mode: string): Promise<DeliveryEntry>;
  /** An object of another bucket, such as an archive of the release. */
  object(bucket: string, key: string, target: string, mode: string, sha256: string | undefined): Promise<DeliveryEntry>;
  /** Where a node may create one object, encrypted with the secrets key. */
  upload(name: string, key: string): Promise<DeliveryEntry>;
  /** Stores the list of entries and answers the one URL a command carries. The list holds URLs, so it is encrypted as a secret is. */
  list(uid: string, delivery: string, entries: readonly DeliveryEntry[]): Promise<string>;
}

export function deliveries(bucket: string, secretsKeyArn: string, s3: S3Client = presigningClient()): Deliveries {
  const encrypted = { ServerSideEncryption: "aws:kms", SSEKMSKeyId: secretsKeyArn } as const;
  const get = (from: string, key: string) => getSignedUrl(s3, new GetObjectCommand({ Bucket: from, Key: key }), { expiresIn: urlLifetimeSeconds });
  const put = (key: string, content: string) => s3.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: content, ...encrypted }));
  return {
    async file(key, content, target, mode) {
      await put(key, content);
      return { kind: "get", sha256: undefined, mode, target, url: await get(bucket, key) };
    },
    async object(from, key, target, mode, sha256) {
      return { kind: "get", sha256, mode, target, url: await get(from, key) };
    },
    async upload(name, key) {
      const command = new PutObjectCommand({ Bucket: bucket, Key: key, IfNoneMatch: "*", ...encrypted });
      const url = await getSignedUrl(s3, command, { expiresIn: urlLifetimeSeconds });
      return {
        kind: "put",
        name,
        url,
        headers: {
          "if-none-match": "*",
          "x-amz-server-side-encryption": "aws:kms",
          "x-amz-server-side-encryption-aws-kms-key-id": secretsKeyArn,
        },
      };
    },
    async list(uid, delivery, entries) {
      const key = stateKeys.delivery(uid, delivery, "list");
      await put(key, `${entries.map(deliveryLine).join("\n")}\n`);
      return get(bucket, key);
    },
  };
}

/** Without WHEN_REQUIRED a presigned PUT would carry the checksum of an empty body, and every real upload would fail it. */
export function presigningClient(): S3Client {
  return new S3Client({ requestChecksumCalculation: "WHEN_REQUIRED" });
}
