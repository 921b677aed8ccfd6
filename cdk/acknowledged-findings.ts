/**
 * Findings of cdk-nag that stay, each with the reason. What is not here fails the synthesis; what is here and no longer found fails a test.
 */
import { type CfnElement, type Stack, Validations } from "aws-cdk-lib";

/** Rules acknowledged for the stack Drover. */
export const acknowledgedRules: Readonly<Record<string, string>> = {
  "AwsSolutions-S1":
    "Server access logs keep the query string of every request, and here those are presigned addresses: bearer keys in a log. CloudTrail data events record the same accesses without them.",
  "AwsSolutions-SQS3": "drover-dead-letters is the dead-letter queue of the others; a queue behind it would only hide that it is not read.",
  "AwsSolutions-L1":
    "nodejs22.x is supported until April 2027 and is what bundles are built and tested for; it moves with the target in cdk/bundle.ts, not by itself.",
};

/** Rules acknowledged for the stack DroverNetwork. */
export const acknowledgedNetworkRules: Readonly<Record<string, string>> = {};

/**
 * Resources with a wildcard that policies may name. `{StateBucket}` stands for the ARN of that bucket; the beginning of an ARN up to the service
 * is left out.
 */
export const acknowledgedWildcards: Readonly<Record<string, string>> = {
  "*": "Only for actions of `unscopableActions`.",

  "{StateBucket}/clusters/*/record.json": "Clusters are named at run time; the function reads or writes this one document of each.",
  "{StateBucket}/clusters/*/lease.json": "Clusters are named at run time; the lease is what every acting step checks.",
  "{StateBucket}/clusters/*/admission.json": "Clusters are named at run time; the book of agents admitted.",
  "{StateBucket}/clusters/*/launches.json": "Clusters are named at run time; the log of launches.",
  "{StateBucket}/clusters/*/operations/*.json": "Operations are named at run time; steps write their progress there.",
  "{StateBucket}/clusters/*/work/*/groups/*.json": "Operations and groups of nodes are named at run time.",
  "{StateBucket}/clusters/*/work/*/commands/*.json": "Operations and commands are named at run time.",
  "{StateBucket}/clusters/*/work/*": "Once a cluster is deleted, what its operations worked with goes.",
  "{StateBucket}/callbacks/*.json": "Commands are named by Systems Manager.",
  "{StateBucket}/deliveries/*/*/*": "Deliveries are made at run time; whoever signs an address needs the right it gives.",
  "{StateBucket}/uploads/*/*/*": "Uploads are named at run time; whoever signs an address needs the right it gives.",
  "{StateBucket}/secrets/*/server-token/*": "Clusters are told apart by uid; one object a generation. The secrets key is a second right.",
  "{StateBucket}/secrets/*/agent-token/*": "Clusters are told apart by uid; one object a generation. The secrets key is a second right.",
  "{StateBucket}/secrets/*/kubeconfig/*": "Clusters are told apart by uid; one object a generation. The secrets key is a second right.",
  "{StateBucket}/launches-kept/*.json": "Clusters are told apart by uid; what was launched for a deleted one, as long as a snapshot remembers it.",
  "{StateBucket}/snapshots-in-use/*/*/*.json": "Restores and drills are named at run time; retention leaves alone what one of them reads.",
  "{SnapshotBucket}/*/*/snapshot": "Snapshots are named by cluster and moment; whoever signs an upload needs the right it gives.",
  "{SnapshotBucket}/*/*/manifest.json": "Manifests are named as their snapshots are.",
  "{ArtifactBucket}/rke2/*": "Releases are added at run time; their names are upstream's.",

  "ec2:instance/*":
    "Instances get their ids at run time; the statement's condition holds it to launches that carry Drover's tags, or to instances that have them.",
  "ec2:volume/*": "Made by a launch or left by one; held to those with Drover's tags, encrypted at birth.",
  "ec2:network-interface/*": "Made by a launch; held to those with Drover's tags.",
  "ec2:security-group/*": "Made for a cluster; held to those with Drover's tags.",
  "ec2:spot-instances-request/*": "Made by a launch of spot instances, which is held to Drover's tags by its instance.",
  "ec2:subnet/*": "Cluster files choose their subnets.",
  "ec2:vpc/*": "Cluster files choose their network.",
  "ec2::image/*": "Cluster files choose their image; images of other accounts carry no tags of ours.",
  "elasticloadbalancing:loadbalancer/net/drv-*/*": "Load balancers get the rest of their name from the cluster and an id from AWS.",
  "elasticloadbalancing:targetgroup/drv-*/*": "Target groups get the rest of their name from the cluster and an id from AWS.",
  "elasticloadbalancing:listener/net/drv-*/*": "Listeners belong to load balancers named at run time.",
  "ssm:document/drover-*": "Drover's documents; the rest of a name is the command and its content's hash. No document of AWS can be sent.",
  "ssm::parameter/aws/service/*": "Public parameters of AWS that hold image ids.",
  "ssm:parameter/drover/images/*": "An account's own parameters that hold image ids.",
  "states:execution:drover-create-cluster:*": "Executions are named by their requests; the lease asks whether its holder still runs.",
  "states:execution:drover-delete-cluster:*": "Executions are named by their requests; the lease asks whether its holder still runs.",
  "states:execution:drover-backup-cluster:*": "Executions are named by their requests; the lease asks whether its holder still runs.",
  "states:execution:drover-restore-cluster:*": "Executions are named by their requests; the lease asks whether its holder still runs.",
  "states:execution:drover-drill-restore:*": "Executions are named by their requests; the lease asks whether its holder still runs.",
  "states:execution:drover-take-snapshot:*":
    "Executions are named by cluster and operation; whoever wants a snapshot awaits its own, and stops it with itself.",
  "states:execution:drover-start-agent-group:*":
    "Executions are named by group, operation and pass; create-cluster awaits its own, and stops them with it.",
};

/** Actions that a policy may allow on `*`, because IAM knows no resource for them (Service Authorization Reference) or for the reason given. */
export const unscopableActions: Readonly<Record<string, string>> = {
  "ec2:DescribeImages": "no resource type",
  "ec2:DescribeInstances": "no resource type",
  "ec2:DescribeInstanceTypes": "no resource type",
  "ec2:DescribeNetworkInterfaces": "no resource type",
  "ec2:DescribeSecurityGroups": "no resource type",
  "ec2:DescribeSubnets": "no resource type",
  "ec2:DescribeVolumes": "no resource type",
  "elasticloadbalancing:DescribeLoadBalancers": "no resource type",
  "elasticloadbalancing:DescribeTargetGroups": "no resource type",
  "elasticloadbalancing:DescribeTargetHealth": "no resource type",
  "ssm:DescribeInstanceInformation": "its resource is the node by id, which is not known before it registers",
  "ssm:ListCommands": "its resource is every command of the account",
  "ssm:ListCommandInvocations": "its resource is every command of the account",
  "ssm:ListInstanceAssociations": "the agent asks for itself; its resource is the instance by id",
  "ssm:UpdateInstanceInformation": "the agent registers itself; its resource is the instance by id",
  "ssmmessages:CreateControlChannel": "no resource type",
  "ssmmessages:CreateDataChannel": "no resource type",
  "ssmmessages:OpenControlChannel": "no resource type",
  "ssmmessages:OpenDataChannel": "no resource type",
  "xray:GetSamplingRules": "no resource type",
  "xray:GetSamplingTargets": "no resource type",
  "xray:PutTelemetryRecords": "no resource type",
  "xray:PutTraceSegments": "no resource type",
  "logs:CreateLogDelivery": "log delivery of Step Functions: no resource type",
  "logs:DeleteLogDelivery": "log delivery of Step Functions: no resource type",
  "logs:DescribeLogGroups": "log delivery of Step Functions: no resource type",
  "logs:DescribeResourcePolicies": "log delivery of Step Functions: no resource type",
  "logs:GetLogDelivery": "log delivery of Step Functions: no resource type",
  "logs:ListLogDeliveries": "log delivery of Step Functions: no resource type",
  "logs:PutResourcePolicy": "log delivery of Step Functions: no resource type",
  "logs:UpdateLogDelivery": "log delivery of Step Functions: no resource type",
};

export function acknowledgeFindings(stack: Stack): void {
  acknowledge(stack, acknowledgedRules);
  for (const [wildcard, reason] of Object.entries(acknowledgedWildcards)) {
    Validations.of(stack).acknowledge({ id: `AwsSolutions-IAM5[Resource::${spelledByNag(stack, wildcard)}]`, reason });
  }
}

export function acknowledgeNetworkFindings(stack: Stack): void {
  acknowledge(stack, acknowledgedNetworkRules);
}

function acknowledge(stack: Stack, rules: Readonly<Record<string, string>>): void {
  for (const [id, reason] of Object.entries(rules)) Validations.of(stack).acknowledge({ id, reason });
}

/** cdk-nag puts references between angle brackets: `<StateBucket446E0578.Arn>/...`, `arn:<AWS::Partition>:ec2:...`. */
function spelledByNag(stack: Stack, wildcard: string): string {
  if (wildcard === "*") return wildcard;
  const bucket = /^\{(\w+)\}(.*)$/.exec(wildcard);
  if (bucket !== null) {
    const resource = stack.node.findChild(bucket[1] as string).node.defaultChild as CfnElement;
    return `<${stack.getLogicalId(resource)}.Arn>${bucket[2]}`;
  }
  const [service, ...rest] = wildcard.split(":") as [string, ...string[]];
  const [account, resource] = rest[0] === "" ? ["", rest.slice(1).join(":")] : ["<AWS::AccountId>", rest.join(":")];
  return `arn:<AWS::Partition>:${service}:<AWS::Region>:${account}:${resource}`;
}
