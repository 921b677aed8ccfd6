/**
 * What each function may do: one entry a function, and in it what it calls, on what.
 *
 * A wildcard in a resource is either a part of a name that is not known before a cluster exists, or what IAM forces because the action cannot be scoped
 * (Service Authorization Reference). Each has its reason in `acknowledged-findings.ts`, and a test refuses one that has none.
 */
import type { Stack } from "aws-cdk-lib";
import type { PolicyStatementProps } from "aws-cdk-lib/aws-iam";
import { eventSources } from "../core/events.js";
import { artifactKeys, type SecretKind, snapshotKeys, stateKeys, tags } from "../core/layout.js";
import { documentPrefix } from "./documents.js";
import type { FunctionName } from "./functions.js";
import type { NodeRole } from "./node-role.js";
import type { Storage } from "./storage.js";

/** What statements speak of. */
export interface Deployed {
  readonly stack: Stack;
  readonly storage: Storage;
  readonly nodes: NodeRole;
  readonly busArn: string;
  /**
   * Names of the state machines. Statements spell their ARNs from these: one taken from the resource would close a circle from function to machine
   * to function.
   */
  readonly workflows: readonly string[];
  /** Those that are an operation's own execution. */
  readonly operations: readonly string[];
}

type Grant = (deployed: Deployed) => PolicyStatementProps[];

// ---- Stored state -------------------------------------------------------------------------------------------------------------------------------

const record = stateKeys.record("*");
const lease = stateKeys.lease("*");
const admission = stateKeys.admission("*");
const launches = stateKeys.launches("*");
const operation = stateKeys.operation("*", "*");
const group = stateKeys.group("*", "*", "*");
const command = stateKeys.command("*", "*", "*");
const work = `${stateKeys.work("*")}*`;
const callback = stateKeys.callback("*");
const delivery = stateKeys.delivery("*", "*", "*");
const upload = stateKeys.upload("*", "*", "*");
const launchesKept = stateKeys.launchesKept("*");
const snapshotUse = stateKeys.snapshotUse("*", "*", "*");
const secret = (...kinds: SecretKind[]) => kinds.map((kind) => `${stateKeys.secrets("*")}${kind}/*`);

/** Encryption happens inside S3: the key cannot be used through another service, nor directly. */
const throughS3 = ({ stack }: Deployed) => ({ StringEquals: { "kms:ViaService": `s3.${stack.region}.amazonaws.com` } });
const decrypts: Grant = (on) => [{ actions: ["kms:Decrypt"], resources: [on.storage.stateKey.keyArn], conditions: throughS3(on) }];
const encrypts: Grant = (on) => [{ actions: ["kms:GenerateDataKey"], resources: [on.storage.stateKey.keyArn], conditions: throughS3(on) }];

/**
 * Reads documents that may not be there. Without ListBucket S3 answers 403 instead of 404 for a missing key, and a prefix condition
 * on ListBucket would never match such a read (S3 API reference, GetObject), so it covers the bucket's names.
 */
const reads =
  (...keys: string[]): Grant =>
  (on) => [
    { actions: ["s3:GetObject"], resources: keys.map((key) => on.storage.stateBucket.arnForObjects(key)) },
    { actions: ["s3:ListBucket"], resources: [on.storage.stateBucket.bucketArn] },
    ...decrypts(on),
  ];
const writes =
  (...keys: string[]): Grant =>
  (on) => [{ actions: ["s3:PutObject"], resources: keys.map((key) => on.storage.stateBucket.arnForObjects(key)) }, ...encrypts(on)];
const removes =
  (...keys: string[]): Grant =>
  (on) => [{ actions: ["s3:DeleteObject"], resources: keys.map((key) => on.storage.stateBucket.arnForObjects(key)) }];

/** Reads and writes back: conditional writes compare with what is there when S3 says that somebody else was first. */
const changes =
  (...keys: string[]): Grant =>
  (on) => [...reads(...keys)(on), ...writes(...keys)(on)];

/** Secrets take two rights: on the object here, on the key in `opensSecrets` and `closesSecrets`. */
const opensSecrets: Grant = (on) => [{ actions: ["kms:Decrypt"], resources: [on.storage.secretsKey.keyArn], conditions: throughS3(on) }];
const closesSecrets: Grant = (on) => [{ actions: ["kms:GenerateDataKey"], resources: [on.storage.secretsKey.keyArn], conditions: throughS3(on) }];

const listsArtifacts: Grant = (on) => [{ actions: ["s3:ListBucket"], resources: [on.storage.artifactBucket.bucketArn] }];
const readsArtifacts: Grant = (on) => [
  { actions: ["s3:GetObject"], resources: [on.storage.artifactBucket.arnForObjects(`${artifactKeys.all}*`)] },
  ...listsArtifacts(on),
  ...decrypts(on),
];
const writesArtifacts: Grant = (on) => [
  {
    actions: ["s3:PutObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"],
    resources: [on.storage.artifactBucket.arnForObjects(`${artifactKeys.all}*`)],
  },
  { actions: ["s3:ListBucketMultipartUploads"], resources: [on.storage.artifactBucket.bucketArn] },
  ...encrypts(on),
];
const countsSnapshots: Grant = (on) => [{ actions: ["s3:ListBucket"], resources: [on.storage.snapshotBucket.bucketArn] }];
const snapshotFile = snapshotKeys.snapshot("*", "*");
const manifest = snapshotKeys.manifest("*", "*");
const onSnapshots =
  (actions: readonly string[], ...keys: string[]): Grant =>
  (on) => [{ actions: [...actions], resources: keys.map((key) => on.storage.snapshotBucket.arnForObjects(key)) }];
const findsUploads: Grant = (on) => [{ actions: ["s3:ListBucketMultipartUploads"], resources: [on.storage.snapshotBucket.bucketArn] }];
/** Whoever signs an upload needs the right it gives; the parts of one are encrypted under the data key of its beginning. */
const signsSnapshotUploads = (on: Deployed) => [
  ...onSnapshots(["s3:PutObject"], snapshotFile)(on),
  ...findsUploads(on),
  ...encrypts(on),
  ...decrypts(on),
];
/** Reads what is stored of a snapshot: a HEAD of the file, and the manifest's text. */
const readsSnapshots = (on: Deployed) => [
  ...onSnapshots(["s3:GetObject", "s3:GetObjectVersion"], snapshotFile, manifest)(on),
  ...countsSnapshots(on),
  ...decrypts(on),
];
/** The address of one version, and what is known of it before a node fetches it. */
const restoresSnapshots = (on: Deployed) => [...onSnapshots(["s3:GetObjectVersion"], snapshotFile)(on), ...decrypts(on)];
const provesSnapshots = (on: Deployed) => [
  ...readsSnapshots(on),
  ...findsUploads(on),
  ...onSnapshots(["s3:PutObject"], manifest)(on),
  ...onSnapshots(["s3:PutObject", "s3:ListMultipartUploadParts"], snapshotFile)(on),
  ...encrypts(on),
];
const looksAtLocks = onSnapshots(["s3:GetObjectRetention"], snapshotFile, manifest);
/** Not s3:BypassGovernanceRetention: what is locked stays, whatever this function believes. */
const removesSnapshots = (on: Deployed) => [
  ...findsUploads(on),
  ...onSnapshots(["s3:DeleteObjectVersion"], snapshotFile, manifest)(on),
  ...onSnapshots(["s3:AbortMultipartUpload"], snapshotFile)(on),
];

// ---- Events and executions ----------------------------------------------------------------------------------------------------------------------

const arn = ({ stack }: Deployed, service: string, resource: string, scope: { region?: string; account?: string } = {}) =>
  `arn:${stack.partition}:${service}:${scope.region ?? stack.region}:${scope.account ?? stack.account}:${resource}`;

const announces: Grant = (on) => [
  { actions: ["events:PutEvents"], resources: [on.busArn], conditions: { StringEquals: { "events:source": eventSources.announcement } } },
];
const everyWorkflow = (on: Deployed) => on.workflows.map((name) => arn(on, "states", `stateMachine:${name}`));
const starts: Grant = (on) => [
  { actions: ["states:StartExecution"], resources: on.operations.map((name) => arn(on, "states", `stateMachine:${name}`)) },
];
/** What a schedule may start: nothing that makes, restores or removes a cluster. */
const startsScheduled: Grant = (on) => [
  {
    actions: ["states:StartExecution"],
    resources: ["backup-cluster", "drill-restore"].map((name) => arn(on, "states", `stateMachine:drover-${name}`)),
  },
];
const asksExecutions: Grant = (on) => [
  { actions: ["states:DescribeExecution"], resources: on.operations.map((name) => arn(on, "states", `execution:${name}:*`)) },
];
const answersSteps: Grant = (on) => [{ actions: ["states:SendTaskSuccess", "states:SendTaskFailure"], resources: everyWorkflow(on) }];

// ---- EC2 ----------------------------------------------------------------------------------------------------------------------------------------

const ec2 = (on: Deployed, ...kinds: string[]) => kinds.map((kind) => arn(on, "ec2", `${kind}/*`));
/** Made for one cluster by Drover, and says so. */
const ownTagged = { Null: { [`aws:ResourceTag/${tags.uid}`]: "false" } };
const taggedAtBirth = { Null: { [`aws:RequestTag/${tags.cluster}`]: "false", [`aws:RequestTag/${tags.uid}`]: "false" } };

/** Calls that IAM cannot scope to a resource. */
const looks =
  (...actions: string[]): Grant =>
  () => [{ actions, resources: ["*"] }];
const tagsAtBirth =
  (action: string, ...kinds: string[]): Grant =>
  (on) => [{ actions: ["ec2:CreateTags"], resources: ec2(on, ...kinds), conditions: { StringEquals: { "ec2:CreateAction": action } } }];
/** AWS makes this role at the first use in an account, by the caller's right. */
const firstUse =
  (service: string, role: string): Grant =>
  (on) => [
    {
      actions: ["iam:CreateServiceLinkedRole"],
      resources: [arn(on, "iam", `role/aws-service-role/${service}/${role}`, { region: "" })],
      conditions: { StringEquals: { "iam:AWSServiceName": service } },
    },
  ];

/** RunInstances is checked on every resource it touches; tags in the request exist only for what it makes. */
const launchesInstances: Grant = (on) => [
  {
    actions: ["ec2:RunInstances"],
    resources: ec2(on, "instance"),
    conditions: {
      ...taggedAtBirth,
      StringEquals: { "ec2:MetadataHttpTokens": "required" },
      ArnEquals: { "ec2:InstanceProfile": on.nodes.profile.instanceProfileArn },
    },
  },
  { actions: ["ec2:RunInstances"], resources: ec2(on, "volume"), conditions: { ...taggedAtBirth, Bool: { "ec2:Encrypted": "true" } } },
  { actions: ["ec2:RunInstances"], resources: ec2(on, "network-interface"), conditions: taggedAtBirth },
  { actions: ["ec2:RunInstances"], resources: ec2(on, "security-group"), conditions: ownTagged },
  { actions: ["ec2:RunInstances"], resources: [...ec2(on, "subnet", "spot-instances-request"), arn(on, "ec2", "image/*", { account: "" })] },
  ...tagsAtBirth("RunInstances", "instance", "volume", "network-interface")(on),
  { actions: ["iam:PassRole"], resources: [on.nodes.role.roleArn], conditions: { StringEquals: { "iam:PassedToService": "ec2.amazonaws.com" } } },
  ...firstUse("spot.amazonaws.com", "AWSServiceRoleForEC2Spot")(on),
];
const terminatesInstances: Grant = (on) => [{ actions: ["ec2:TerminateInstances"], resources: ec2(on, "instance"), conditions: ownTagged }];
const makesSecurityGroups: Grant = (on) => [
  { actions: ["ec2:CreateSecurityGroup"], resources: ec2(on, "security-group"), conditions: taggedAtBirth },
  { actions: ["ec2:CreateSecurityGroup"], resources: ec2(on, "vpc") },
  ...tagsAtBirth("CreateSecurityGroup", "security-group")(on),
  { actions: ["ec2:AuthorizeSecurityGroupIngress"], resources: ec2(on, "security-group"), conditions: ownTagged },
];
/** Groups whose members reach nothing but what is named. */
const closesOffSecurityGroups: Grant = (on) => [
  { actions: ["ec2:AuthorizeSecurityGroupEgress", "ec2:RevokeSecurityGroupEgress"], resources: ec2(on, "security-group"), conditions: ownTagged },
];
const removesSecurityGroups: Grant = (on) => [
  { actions: ["ec2:DeleteSecurityGroup", "ec2:RevokeSecurityGroupIngress"], resources: ec2(on, "security-group"), conditions: ownTagged },
];
const removesVolumes: Grant = (on) => [{ actions: ["ec2:DeleteVolume"], resources: ec2(on, "volume"), conditions: ownTagged }];

// ---- Elastic Load Balancing: by the names of `endpointNames`, which all begin alike ---------------------------------------------------------------

const loadBalancer = (on: Deployed) => arn(on, "elasticloadbalancing", "loadbalancer/net/drv-*/*");
const targetGroup = (on: Deployed) => arn(on, "elasticloadbalancing", "targetgroup/drv-*/*");
const listener = (on: Deployed) => arn(on, "elasticloadbalancing", "listener/net/drv-*/*");
const makesEndpoints: Grant = (on) => [
  {
    actions: ["elasticloadbalancing:CreateLoadBalancer", "elasticloadbalancing:CreateTargetGroup"],
    resources: [loadBalancer(on), targetGroup(on)],
    conditions: taggedAtBirth,
  },
  { actions: ["elasticloadbalancing:CreateListener", "elasticloadbalancing:ModifyLoadBalancerAttributes"], resources: [loadBalancer(on)] },
  { actions: ["elasticloadbalancing:ModifyTargetGroupAttributes"], resources: [targetGroup(on)] },
  {
    actions: ["elasticloadbalancing:AddTags"],
    resources: [loadBalancer(on), targetGroup(on), listener(on)],
    conditions: { StringEquals: { "elasticloadbalancing:CreateAction": ["CreateLoadBalancer", "CreateTargetGroup", "CreateListener"] } },
  },
  ...firstUse("elasticloadbalancing.amazonaws.com", "AWSServiceRoleForElasticLoadBalancing")(on),
];
const registersTargets: Grant = (on) => [{ actions: ["elasticloadbalancing:RegisterTargets"], resources: [targetGroup(on)] }];
const deregistersTargets: Grant = (on) => [{ actions: ["elasticloadbalancing:DeregisterTargets"], resources: [targetGroup(on)] }];
const removesEndpoints: Grant = (on) => [
  { actions: ["elasticloadbalancing:DeleteLoadBalancer"], resources: [loadBalancer(on)] },
  { actions: ["elasticloadbalancing:DeleteTargetGroup"], resources: [targetGroup(on)] },
];
const findsEndpoints = looks("elasticloadbalancing:DescribeLoadBalancers", "elasticloadbalancing:DescribeTargetGroups");
const looksAtTargets = looks("elasticloadbalancing:DescribeTargetHealth");

// ---- Systems Manager ------------------------------------------------------------------------------------------------------------------------------

/** SendCommand is checked on the document and on each instance; a tag condition on one statement for both would deny the document. */
const commandsNodes: Grant = (on) => [
  { actions: ["ssm:SendCommand"], resources: [arn(on, "ssm", `document/${documentPrefix}*`)] },
  { actions: ["ssm:SendCommand"], resources: ec2(on, "instance"), conditions: ownTagged },
];
const findsCommands = looks("ssm:ListCommands");
const looksAtCommands = looks("ssm:ListCommandInvocations");
const looksAtNodes = looks("ssm:DescribeInstanceInformation");
const looksAtInstances = looks("ec2:DescribeInstances");
/** Public parameters hold image ids; an account's own live under one path, so that no other parameter can be read. */
const imageParameterPath = "/drover/images/";
const readsImageParameters: Grant = (on) => [
  {
    actions: ["ssm:GetParameter"],
    resources: [arn(on, "ssm", "parameter/aws/service/*", { account: "" }), arn(on, "ssm", `parameter${imageParameterPath}*`)],
  },
];

// ---- The table ------------------------------------------------------------------------------------------------------------------------------------

const all =
  (...grants: Grant[]): Grant =>
  (on) =>
    grants.flatMap((grant) => grant(on));

const tokens = secret("server-token", "agent-token");
const kubeconfig = secret("kubeconfig");
/** Every step that acts checks that its execution still holds the lease (law 2), and says in the operation's record what it did. */
const step = all(reads(lease, record), changes(operation));
/** What EC2 shows of a cluster, and what was launched too recently to be shown. */
const observes = all(reads(launches), looksAtInstances);
/** Whatever a cluster has in the account. */
const takesInventory = all(
  looksAtInstances,
  looks("ec2:DescribeVolumes", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups"),
  findsEndpoints,
);
const admits = all(
  reads(lease),
  changes(record, operation),
  readsImageParameters,
  listsArtifacts,
  looksAtInstances,
  looks("ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeSubnets"),
  asksExecutions,
  starts,
  announces,
);

export const permissions: Readonly<Record<FunctionName, Grant>> = {
  api: admits,
  artifacts: all(readsArtifacts, writesArtifacts),
  "read-kubeconfig": all(reads(record, ...kubeconfig), opensSecrets),

  snapshots: all(reads(record, operation, snapshotUse), readsSnapshots, looksAtLocks),

  // Opens tokens to see whether one fits the snapshot: no other route may.
  restores: all(admits, reads(...secret("server-token")), opensSecrets, readsSnapshots),

  "admit-event": admits,
  "complete-node-command": all(
    reads(callback, record),
    changes(operation, command, group),
    removes(callback),
    looksAtCommands,
    looksAtInstances,
    answersSteps,
  ),
  "observe-execution": all(reads(lease), changes(operation, record), removes(lease), asksExecutions, takesInventory, announces),

  "sweep-fleet": all(reads(lease), changes(record, operation), removes(lease), asksExecutions, startsScheduled, takesInventory, announces),

  "open-operation": all(changes(lease, operation, record), reads(launches), asksExecutions),
  "plan-cluster": all(step, changes(launches), looksAtInstances),
  "create-credentials": all(step, changes(record), writes(...tokens), closesSecrets),
  "create-endpoint": all(step, changes(record), makesSecurityGroups, looks("ec2:DescribeSecurityGroups"), makesEndpoints, findsEndpoints),
  "launch-nodes": all(step, changes(launches), launchesInstances, terminatesInstances),
  "await-nodes": all(step, observes, looksAtNodes, looksAtCommands, reads(command), changes(group)),
  "decide-bootstrap": all(step, changes(record), observes, reads(group), countsSnapshots),
  "run-node-command": all(
    step,
    observes,
    reads(...tokens),
    changes(command, group, admission),
    writes(callback),
    removes(callback),
    // Whoever signs an address needs the right it gives.
    reads(delivery),
    writes(delivery, upload),
    opensSecrets,
    closesSecrets,
    readsArtifacts,
    signsSnapshotUploads,
    restoresSnapshots,
    looksAtNodes,
    findsCommands,
    looksAtCommands,
    commandsNodes,
    answersSteps,
  ),
  "admit-agents": all(reads(lease, record, group), changes(admission)),
  "register-server": all(step, changes(record), reads(command), looksAtInstances, registersTargets),
  "store-kubeconfig": all(step, changes(record), reads(upload), removes(upload), writes(...kubeconfig), opensSecrets, closesSecrets),
  "await-endpoint": all(reads(record), changes(operation), looksAtTargets),
  "clear-lost-nodes": all(step, changes(record), observes, looksAtNodes, countsSnapshots, deregistersTargets, looksAtTargets, writes(group)),
  "close-operation": all(
    reads(lease),
    changes(operation, record),
    removes(lease, record, admission, launches, work, delivery, upload, snapshotUse, ...tokens, ...kubeconfig),
    reads(launches),
    writes(launchesKept),
    countsSnapshots,
    takesInventory,
    announces,
  ),

  "prove-snapshot": all(step, changes(record), reads(command, ...secret("server-token")), opensSecrets, provesSnapshots, announces),
  "prune-snapshots": all(step, reads(snapshotUse), readsSnapshots, looksAtLocks, removesSnapshots),
  "record-snapshot-failure": all(reads(record), changes(operation), announces),

  "begin-restore": all(
    step,
    changes(record),
    observes,
    looksAtNodes,
    reads(...tokens),
    writes(...tokens, group, snapshotUse),
    opensSecrets,
    closesSecrets,
    readsSnapshots,
    looksAtTargets,
    deregistersTargets,
  ),
  "find-stale-nodes": all(step, observes, reads(command, launchesKept), writes(group)),
  "launch-drill": all(
    step,
    looksAtInstances,
    looksAtNodes,
    reads(...secret("server-token")),
    opensSecrets,
    readsSnapshots,
    changes(group),
    writes(snapshotUse),
    makesSecurityGroups,
    closesOffSecurityGroups,
    looks("ec2:DescribeSecurityGroups"),
    launchesInstances,
  ),
  "judge-drill": all(step, changes(record), reads(group, command), announces),
  "end-drill": all(step, looksAtInstances, terminatesInstances, looks("ec2:DescribeSecurityGroups"), removesSecurityGroups),

  "terminate-nodes": all(step, observes, reads(group), looksAtTargets, deregistersTargets, terminatesInstances),
  "delete-endpoint": all(step, findsEndpoints, removesEndpoints, looks("ec2:DescribeSecurityGroups"), removesSecurityGroups),
  "sweep-leftovers": all(step, takesInventory, removesVolumes),
};
