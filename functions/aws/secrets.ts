/**
 * Secrets: tokens and the kubeconfig, each with its history, as objects encrypted with the secrets key.
 *
 * They lie apart from the snapshots they open. Reading one takes two rights, on the object and on the key; most functions have neither.
 */
import { GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { NotYet } from "../../core/failures.js";
import { type SecretKind, stateKeys } from "../../core/layout.js";
import { listFiles } from "./state.js";

export interface SecretStore {
  /**
   * Stores a generation, or answers false when that generation exists: a secret is never overwritten.
   * @throws NotYet while another write of it is under way
   */
  create(uid: string, kind: SecretKind, generation: number, value: string): Promise<boolean>;
  read(uid: string, kind: SecretKind, generation: number): Promise<string>;
  /** Numbers of the generations that are kept, the oldest first. */
  generations(uid: string, kind: SecretKind): Promise<readonly number[]>;
  /** Text of another encrypted object, such as what a node uploaded; undefined when it is not there. */
  readText(key: string): Promise<string | undefined>;
}

/** Text of an object in any bucket; undefined when it is not there. */
export async function readObject(s3: S3Client, bucket: string, key: string): Promise<string | undefined> {
  try {
    return await (await s3.send(new GetObjectCommand({ Bucket: bucket, Key: key }))).Body?.transformToString();
  } catch (error) {
    if (error instanceof Error && error.name === "NoSuchKey") return undefined;
    throw error;
  }
}

export function secretStore(bucket: string, secretsKeyArn: string, s3: S3Client = new S3Client({})): SecretStore {
  const readText = (key: string) => readObject(s3, bucket, key);
  return {
    async create(uid, kind, generation, value) {
      try {
        await s3.send(
          new PutObjectCommand({
            Bucket: bucket,
            Key: stateKeys.secret(uid, kind, generation),
            Body: JSON.stringify({ value }),
            ServerSideEncryption: "aws:kms",
            SSEKMSKeyId: secretsKeyArn,
            IfNoneMatch: "*",
          }),
        );
        return true;
      } catch (error) {
        if (error instanceof Error && error.name === "PreconditionFailed") return false;
        // 409 says only that another write is under way: that one may fail, and then there is no secret.
        if (error instanceof Error && error.name === "ConditionalRequestConflict") {
          throw new NotYet(`The ${kind} of generation ${generation} is being written by another`, "Asking again shortly", { cause: error });
        }
        throw error;
      }
    },
    async read(uid, kind, generation) {
      const text = await readText(stateKeys.secret(uid, kind, generation));
      if (text === undefined) throw new Error(`the ${kind} of generation ${generation} is not in the secrets of ${uid}`);
      return (JSON.parse(text) as { value: string }).value;
    },
    async generations(uid, kind) {
      const files = await listFiles(bucket, stateKeys.secretKind(uid, kind), s3);
      return files.map(({ key }) => Number(/(\d+)\.json$/.exec(key)?.[1])).sort((a, b) => a - b);
    },
    readText,
  };
}
