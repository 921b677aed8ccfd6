/**
 * Keys and buckets: what outlives every operation. All of it stays when the stack is deleted.
 */
import { Duration, RemovalPolicy, type Stack } from "aws-cdk-lib";
import { AnyPrincipal, Effect, PolicyStatement, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Key } from "aws-cdk-lib/aws-kms";
import { BlockPublicAccess, Bucket, BucketEncryption, type BucketProps, ObjectLockRetention, ObjectOwnership } from "aws-cdk-lib/aws-s3";
import { stateKeys } from "../core/layout.js";
import type { Settings } from "./settings.js";

export interface Storage {
  /** Encrypts the buckets and the logs. */
  readonly stateKey: Key;
  /** Encrypts tokens and kubeconfigs, before they are stored in the state bucket: who may read a record can still not read a secret. */
  readonly secretsKey: Key;
  readonly stateBucket: Bucket;
  readonly artifactBucket: Bucket;
  readonly snapshotBucket: Bucket;
}

/**
 * A presigned address is a bearer key, so none is honoured when it is older than this, whatever lifetime it was signed with. Only a person's upload of a
 * release may take longer: a part of it, on a slow line.
 */
const presignedLimit = Duration.minutes(15);
const uploadLimit = Duration.hours(1);

export function makeStorage(stack: Stack, settings: Settings, s3EndpointId: string | undefined): Storage {
  const stateKey = new Key(stack, "StateKey", {
    alias: "drover-state",
    description: "Drover: cluster records, artifacts, snapshots and logs",
    enableKeyRotation: true,
    removalPolicy: RemovalPolicy.RETAIN,
  });
  stateKey.addToResourcePolicy(
    new PolicyStatement({
      sid: "LogsOfThisAccount",
      principals: [new ServicePrincipal(`logs.${stack.region}.amazonaws.com`)],
      actions: ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"],
      resources: ["*"],
      conditions: { ArnLike: { "kms:EncryptionContext:aws:logs:arn": stack.formatArn({ service: "logs", resource: "*" }) } },
    }),
  );
  const secretsKey = new Key(stack, "SecretsKey", {
    alias: "drover-secrets",
    description: "Drover: cluster tokens and kubeconfigs",
    enableKeyRotation: true,
    removalPolicy: RemovalPolicy.RETAIN,
  });

  const everyBucket: BucketProps = {
    encryption: BucketEncryption.KMS,
    encryptionKey: stateKey,
    bucketKeyEnabled: true,
    enforceSSL: true,
    minimumTLSVersion: 1.2,
    versioned: true,
    blockPublicAccess: BlockPublicAccess.BLOCK_ALL,
    objectOwnership: ObjectOwnership.BUCKET_OWNER_ENFORCED,
    removalPolicy: RemovalPolicy.RETAIN,
  };
  const keepOld = (daysKept: number) => ({
    id: "old-versions",
    noncurrentVersionExpiration: Duration.days(daysKept),
    expiredObjectDeleteMarker: true,
    abortIncompleteMultipartUploadAfter: Duration.days(7),
  });
  const expire = (id: string, prefix: string, daysKept: number) => ({
    id,
    prefix,
    expiration: Duration.days(daysKept),
    noncurrentVersionExpiration: Duration.days(1),
  });

  const stateBucket = new Bucket(stack, "StateBucket", {
    ...everyBucket,
    lifecycleRules: [
      keepOld(90),
      expire("callbacks", prefixOf(stateKeys.callback("")), 7),
      expire("deliveries", prefixOf(stateKeys.deliveries("")), 1),
      expire("uploads", prefixOf(stateKeys.uploads("")), 1),
      // Longer than a use counts (core/snapshots.ts).
      expire("snapshots-in-use", prefixOf(stateKeys.snapshotUses("")), 14),
      // As long as an execution's name stays taken (Step Functions API reference, StartExecution): a request id means one operation for that time.
      expire("requests", prefixOf(stateKeys.request("")), 90),
    ],
  });
  const artifactBucket = new Bucket(stack, "ArtifactBucket", { ...everyBucket, lifecycleRules: [keepOld(30)] });
  const snapshotBucket = new Bucket(stack, "SnapshotBucket", {
    ...everyBucket,
    objectLockEnabled: true,
    objectLockDefaultRetention: ObjectLockRetention.governance(Duration.days(settings.snapshotLockDays)),
    lifecycleRules: [keepOld(30)],
  });

  for (const bucket of [stateBucket, artifactBucket, snapshotBucket]) {
    const tooOld = (sid: string, actions: string[], limit: Duration) =>
      bucket.addToResourcePolicy(
        new PolicyStatement({
          sid,
          effect: Effect.DENY,
          principals: [new AnyPrincipal()],
          actions,
          resources: [bucket.arnForObjects("*")],
          conditions: { NumericGreaterThan: { "s3:signatureAge": limit.toMilliseconds() } },
        }),
      );
    if (bucket === artifactBucket) {
      tooOld("NoOldPresignedAddress", ["s3:GetObject"], presignedLimit);
      tooOld("NoOldUploadAddress", ["s3:PutObject"], uploadLimit);
    } else tooOld("NoOldPresignedAddress", ["s3:*"], presignedLimit);
    if (s3EndpointId === undefined) continue;
    bucket.addToResourcePolicy(
      new PolicyStatement({
        sid: "PresignedAddressOnlyFromTheNodesNetwork",
        effect: Effect.DENY,
        principals: [new AnyPrincipal()],
        // People send releases to the artifact bucket from wherever they are; nodes only read there.
        actions: bucket === artifactBucket ? ["s3:GetObject"] : ["s3:GetObject", "s3:PutObject"],
        resources: [bucket.arnForObjects("*")],
        conditions: { StringEquals: { "s3:authType": "REST-QUERY-STRING" }, StringNotEquals: { "aws:SourceVpce": s3EndpointId } },
      }),
    );
  }
  return { stateKey, secretsKey, stateBucket, artifactBucket, snapshotBucket };
}

/** First path element of a key: what lifecycle rules go by. */
function prefixOf(key: string): string {
  return `${key.split("/")[0]}/`;
}
