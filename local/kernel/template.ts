/**
 * What is deployed: the synthesized assembly, with every name and ARN resolved, as the services of the local cloud read it.
 *
 * A resource type that is neither modelled nor on the list of those accepted with a reason stops the boot, and so does a property of a modelled
 * type that nobody here understands: what is deployed is what is simulated, or the difference is written down.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Unmodelled } from "./contract.js";

export interface Target {
  readonly account: string;
  readonly region: string;
  readonly partition: "aws";
}

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export interface PolicyDocument {
  readonly Version?: string;
  readonly Statement: readonly PolicyStatement[];
}
export interface PolicyStatement {
  readonly Sid?: string;
  readonly Effect: "Allow" | "Deny";
  readonly Principal?: unknown;
  readonly Action?: string | readonly string[];
  readonly NotAction?: string | readonly string[];
  readonly Resource?: string | readonly string[];
  readonly NotResource?: string | readonly string[];
  readonly Condition?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

interface TemplateResource {
  readonly logicalId: string;
  readonly type: string;
  readonly stack: string;
  /** The construct's path in the app, where CDK says it. */
  readonly path: string;
  /** Physical name or id: what `Ref` gives. */
  readonly ref: string;
  readonly arn: string;
  /** Resolved. */
  readonly properties: Readonly<Record<string, Json>>;
}

export interface TemplateFunction extends TemplateResource {
  readonly name: string;
  /** What people call it: its name where the template gives one, else its logical id. */
  readonly label: string;
  /** ARN of its role. */
  readonly role: string;
  /** Folder of the unpacked code. */
  readonly code: string;
  readonly handler: string;
  readonly timeoutSeconds: number;
  readonly memoryMib: number;
  readonly environment: Readonly<Record<string, string>>;
  readonly reservedConcurrency: number | undefined;
  readonly deadLetterArn: string | undefined;
  readonly asyncRetries: number;
  readonly asyncMaxAgeSeconds: number;
  /** Where outcomes of asynchronous invocations go. */
  readonly onFailureArn: string | undefined;
}

export interface TemplateRole extends TemplateResource {
  readonly name: string;
  readonly trust: PolicyDocument;
  readonly policies: readonly { readonly name: string; readonly document: PolicyDocument }[];
  readonly boundary: PolicyDocument | undefined;
}

interface FunctionPermission {
  readonly functionArn: string;
  readonly action: string;
  readonly principal: string;
  readonly sourceArn: string | undefined;
  readonly sourceAccount: string | undefined;
}

interface TemplateStateMachine extends TemplateResource {
  readonly name: string;
  readonly role: string;
  readonly kind: "STANDARD" | "EXPRESS";
  /** Substitutions done. */
  readonly definition: string;
}

export interface TemplateBucket extends TemplateResource {
  readonly name: string;
  readonly versioned: boolean;
  /** Key the bucket encrypts with by default, or undefined for S3's own. */
  readonly kmsKeyArn: string | undefined;
  readonly bucketKey: boolean;
  readonly lifecycle: readonly { readonly [name: string]: Json }[];
  readonly policy: PolicyDocument | undefined;
  readonly objectLock: { readonly mode: "GOVERNANCE" | "COMPLIANCE" | undefined; readonly days: number } | undefined;
  readonly eventBridge: boolean;
}

export interface TemplateKey extends TemplateResource {
  readonly policy: PolicyDocument;
  readonly aliases: readonly string[];
  readonly rotation: boolean;
}

interface TemplateBus extends TemplateResource {
  readonly name: string;
}

interface RuleTarget {
  readonly id: string;
  readonly arn: string;
  readonly role: string | undefined;
  readonly input: string | undefined;
  readonly inputPath: string | undefined;
  readonly inputTransformer: { readonly paths: Readonly<Record<string, string>>; readonly template: string } | undefined;
  readonly deadLetterArn: string | undefined;
  readonly retries: number;
  readonly maxAgeSeconds: number;
}

export interface TemplateRule extends TemplateResource {
  readonly name: string;
  readonly bus: string;
  readonly enabled: boolean;
  readonly pattern: { readonly [name: string]: Json } | undefined;
  readonly scheduleExpression: string | undefined;
  readonly targets: readonly RuleTarget[];
}

interface TemplateSchedule extends TemplateResource {
  readonly name: string;
  readonly group: string;
  readonly expression: string;
  readonly timeZone: string;
  readonly enabled: boolean;
  readonly flexibleMinutes: number;
  readonly targetArn: string;
  readonly role: string;
  readonly input: string | undefined;
  readonly deadLetterArn: string | undefined;
  readonly retries: number;
  readonly maxAgeSeconds: number;
}

export interface TemplateRoute extends TemplateResource {
  readonly apiId: string;
  readonly method: string;
  /** In API Gateway's spelling: `/clusters/{name}`. `$default` has method and path `$default`. */
  readonly path: string;
  readonly functionArn: string;
  readonly authorization: "AWS_IAM" | "NONE";
  readonly timeoutMilliseconds: number;
}

export interface TemplateApi extends TemplateResource {
  readonly name: string;
  readonly routes: readonly TemplateRoute[];
  readonly stage: string;
  readonly throttle: { readonly ratePerSecond: number; readonly burst: number } | undefined;
}

interface TemplateDocument extends TemplateResource {
  readonly name: string;
  readonly documentType: string;
  readonly content: { readonly [name: string]: Json };
}

interface TemplateQueue extends TemplateResource {
  readonly name: string;
  readonly policy: PolicyDocument | undefined;
}

interface TemplateInstanceProfile extends TemplateResource {
  readonly name: string;
  readonly roles: readonly string[];
}

/** What boots a world. */
export interface Template extends Target {
  readonly stacks: readonly string[];
  /** Every resource by `<stack>/<logical id>`. */
  readonly resources: ReadonlyMap<string, TemplateResource>;
  readonly outputs: Readonly<Record<string, Json>>;
  readonly functions: readonly TemplateFunction[];
  readonly permissions: readonly FunctionPermission[];
  readonly roles: readonly TemplateRole[];
  readonly stateMachines: readonly TemplateStateMachine[];
  readonly buckets: readonly TemplateBucket[];
  readonly keys: readonly TemplateKey[];
  readonly buses: readonly TemplateBus[];
  readonly rules: readonly TemplateRule[];
  readonly schedules: readonly TemplateSchedule[];
  readonly apis: readonly TemplateApi[];
  readonly documents: readonly TemplateDocument[];
  readonly queues: readonly TemplateQueue[];
  readonly instanceProfiles: readonly TemplateInstanceProfile[];
  readonly parameters: readonly { readonly name: string; readonly value: string }[];
  /** Types taken as deployed though nothing here acts for them: why. */
  readonly accepted: Readonly<Record<string, string>>;
}

interface TypeModel {
  readonly name?: { readonly property: string; readonly limit?: number; readonly lower?: boolean };
  readonly arn?: (name: string, target: Target, properties: Readonly<Record<string, Json>>) => string;
  readonly ref?: "name" | "arn" | "id";
  /** Prefix of an id that AWS makes up, with its length in hexadecimal characters. */
  readonly id?: readonly [prefix: string, length: number];
  readonly attributes?: Readonly<Record<string, (resource: Named, target: Target) => string>>;
  /** Properties understood. Undefined: the type is accepted whole, for the reason. */
  readonly properties?: readonly string[];
  readonly accepted?: string;
}

interface Named {
  readonly name: string;
  readonly ref: string;
  readonly arn: string;
  readonly properties: Readonly<Record<string, Json>>;
}

const observability = "seen by people and alarms only; no handler or workflow reads it";
const network = "the local network has its own subnets and lets everything through";
const arnOf =
  (service: string, prefix: string) =>
  (name: string, { partition, region, account }: Target) =>
    `arn:${partition}:${service}:${region}:${account}:${prefix}${name}`;
const iamArn =
  (prefix: string) =>
  (name: string, { partition, account }: Target, properties: Readonly<Record<string, Json>>) =>
    `arn:${partition}:iam::${account}:${prefix}${typeof properties.Path === "string" ? properties.Path : "/"}${name}`;

/** Resource types, in the words of the CloudFormation resource reference. */
const types: Readonly<Record<string, TypeModel>> = {
  "AWS::Lambda::Function": {
    name: { property: "FunctionName", limit: 64 },
    arn: arnOf("lambda", "function:"),
    // Layers, VPC and file systems would change what a handler sees, so they stay unmodelled.
    properties: [
      "FunctionName",
      "Code",
      "Handler",
      "Runtime",
      "Role",
      "Environment",
      "Timeout",
      "MemorySize",
      "ReservedConcurrentExecutions",
      "DeadLetterConfig",
      "Architectures",
      "Description",
      "LoggingConfig",
      "TracingConfig",
      "Tags",
      "EphemeralStorage",
      "KmsKeyArn",
      "RecursiveLoop",
    ],
  },
  "AWS::Lambda::Permission": { properties: ["Action", "FunctionName", "Principal", "SourceArn", "SourceAccount"] },
  "AWS::Lambda::EventInvokeConfig": {
    properties: ["FunctionName", "Qualifier", "MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig"],
  },
  "AWS::IAM::Role": {
    name: { property: "RoleName", limit: 64 },
    arn: iamArn("role"),
    attributes: { RoleId: ({ name }) => `AROA${hash(name, 17).toUpperCase()}` },
    properties: [
      "RoleName",
      "Path",
      "AssumeRolePolicyDocument",
      "Policies",
      "ManagedPolicyArns",
      "PermissionsBoundary",
      "Description",
      "Tags",
      "MaxSessionDuration",
    ],
  },
  "AWS::IAM::Policy": { properties: ["PolicyName", "PolicyDocument", "Roles"] },
  "AWS::IAM::ManagedPolicy": {
    name: { property: "ManagedPolicyName", limit: 128 },
    arn: iamArn("policy"),
    ref: "arn",
    properties: ["ManagedPolicyName", "PolicyDocument", "Roles", "Description", "Path"],
  },
  "AWS::IAM::InstanceProfile": {
    name: { property: "InstanceProfileName", limit: 128 },
    arn: iamArn("instance-profile"),
    properties: ["InstanceProfileName", "Roles", "Path"],
  },
  "AWS::S3::Bucket": {
    name: { property: "BucketName", limit: 63, lower: true },
    arn: (name, { partition }) => `arn:${partition}:s3:::${name}`,
    attributes: {
      DomainName: ({ name }) => `${name}.s3.amazonaws.com`,
      RegionalDomainName: ({ name }, { region }) => `${name}.s3.${region}.amazonaws.com`,
    },
    properties: [
      "BucketName",
      "VersioningConfiguration",
      "BucketEncryption",
      "LifecycleConfiguration",
      "ObjectLockEnabled",
      "ObjectLockConfiguration",
      "PublicAccessBlockConfiguration",
      "OwnershipControls",
      "LoggingConfiguration",
      "NotificationConfiguration",
      "AccessControl",
      "Tags",
    ],
  },
  "AWS::S3::BucketPolicy": { properties: ["Bucket", "PolicyDocument"] },
  "AWS::KMS::Key": {
    id: ["", 32],
    ref: "id",
    arn: arnOf("kms", "key/"),
    attributes: { KeyId: ({ ref }) => ref },
    properties: [
      "KeyPolicy",
      "Description",
      "EnableKeyRotation",
      "RotationPeriodInDays",
      "PendingWindowInDays",
      "KeySpec",
      "KeyUsage",
      "Enabled",
      "MultiRegion",
      "Tags",
    ],
  },
  "AWS::KMS::Alias": { name: { property: "AliasName" }, arn: arnOf("kms", ""), properties: ["AliasName", "TargetKeyId"] },
  "AWS::StepFunctions::StateMachine": {
    name: { property: "StateMachineName", limit: 80 },
    arn: arnOf("states", "stateMachine:"),
    ref: "arn",
    attributes: { Name: ({ name }) => name },
    properties: [
      "StateMachineName",
      "StateMachineType",
      "DefinitionString",
      "DefinitionS3Location",
      "Definition",
      "DefinitionSubstitutions",
      "RoleArn",
      "LoggingConfiguration",
      "TracingConfiguration",
      "EncryptionConfiguration",
      "Tags",
    ],
  },
  "AWS::Events::EventBus": {
    name: { property: "Name" },
    arn: arnOf("events", "event-bus/"),
    attributes: { Name: ({ name }) => name },
    properties: ["Name", "Description", "DeadLetterConfig", "KmsKeyIdentifier", "LogConfig", "Tags"],
  },
  "AWS::Events::Rule": {
    name: { property: "Name", limit: 64 },
    arn: (name, { partition, region, account }, { EventBusName: bus }) =>
      `arn:${partition}:events:${region}:${account}:rule/${typeof bus === "string" && bus !== "default" ? `${bus.split("/").at(-1)}/` : ""}${name}`,
    properties: ["Name", "EventBusName", "EventPattern", "ScheduleExpression", "State", "Targets", "Description", "RoleArn", "Tags"],
  },
  "AWS::Events::EventBusPolicy": { accepted: "only principals of this account send events here" },
  "AWS::Events::Archive": { accepted: "an archive keeps events for a person to replay" },
  "AWS::EventSchemas::Registry": { accepted: "a registry publishes schemas for people" },
  "AWS::EventSchemas::Schema": { accepted: "a registry publishes schemas for people" },
  "AWS::Scheduler::ScheduleGroup": { name: { property: "Name" }, arn: arnOf("scheduler", "schedule-group/"), properties: ["Name", "Tags"] },
  "AWS::Scheduler::Schedule": {
    name: { property: "Name", limit: 64 },
    arn: (name, { partition, region, account }, { GroupName: group }) =>
      `arn:${partition}:scheduler:${region}:${account}:schedule/${typeof group === "string" ? group : "default"}/${name}`,
    properties: [
      "Name",
      "GroupName",
      "ScheduleExpression",
      "ScheduleExpressionTimezone",
      "State",
      "FlexibleTimeWindow",
      "Target",
      "Description",
      "KmsKeyArn",
    ],
  },
  "AWS::SSM::Document": {
    name: { property: "Name", limit: 128 },
    arn: arnOf("ssm", "document/"),
    properties: ["Name", "Content", "DocumentFormat", "DocumentType", "TargetType", "UpdateMethod", "VersionName", "Tags"],
  },
  "AWS::SSM::Parameter": {
    name: { property: "Name" },
    arn: (name, target) => arnOf("ssm", `parameter${name.startsWith("/") ? "" : "/"}`)(name, target),
    attributes: { Value: ({ properties }) => String(properties.Value), Type: ({ properties }) => String(properties.Type) },
    properties: ["Name", "Type", "Value", "Description", "Tier", "AllowedPattern", "Tags"],
  },
  "AWS::SQS::Queue": {
    name: { property: "QueueName", limit: 80 },
    arn: arnOf("sqs", ""),
    attributes: {
      QueueName: ({ name }) => name,
      QueueUrl: ({ name }, { region, account }) => `https://sqs.${region}.amazonaws.com/${account}/${name}`,
    },
    properties: [
      "QueueName",
      "MessageRetentionPeriod",
      "KmsMasterKeyId",
      "SqsManagedSseEnabled",
      "VisibilityTimeout",
      "KmsDataKeyReusePeriodSeconds",
      "Tags",
    ],
  },
  "AWS::SQS::QueuePolicy": { properties: ["Queues", "PolicyDocument"] },
  "AWS::ApiGatewayV2::Api": {
    id: ["", 10],
    ref: "id",
    attributes: { ApiEndpoint: ({ ref }, { region }) => `https://${ref}.execute-api.${region}.amazonaws.com`, ApiId: ({ ref }) => ref },
    properties: ["Name", "ProtocolType", "Description", "DisableExecuteApiEndpoint", "Tags"],
  },
  "AWS::ApiGatewayV2::Route": { id: ["", 7], ref: "id", properties: ["ApiId", "RouteKey", "Target", "AuthorizationType", "OperationName"] },
  "AWS::ApiGatewayV2::Integration": {
    id: ["", 7],
    ref: "id",
    attributes: { IntegrationId: ({ ref }) => ref },
    properties: ["ApiId", "IntegrationType", "IntegrationUri", "PayloadFormatVersion", "TimeoutInMillis", "IntegrationMethod", "Description"],
  },
  "AWS::ApiGatewayV2::Stage": {
    name: { property: "StageName" },
    properties: ["ApiId", "StageName", "AutoDeploy", "DefaultRouteSettings", "AccessLogSettings", "Description", "Tags"],
  },
  "AWS::Logs::LogGroup": {
    name: { property: "LogGroupName" },
    arn: (name, target) => `${arnOf("logs", "log-group:")(name, target)}:*`,
    accepted: observability,
  },
  "AWS::Logs::ResourcePolicy": { accepted: observability },
  "AWS::Logs::MetricFilter": { accepted: observability },
  "AWS::Logs::QueryDefinition": { accepted: observability },
  "AWS::CloudWatch::Alarm": { name: { property: "AlarmName" }, arn: arnOf("cloudwatch", "alarm:"), accepted: observability },
  "AWS::CloudWatch::CompositeAlarm": { name: { property: "AlarmName" }, arn: arnOf("cloudwatch", "alarm:"), accepted: observability },
  "AWS::CloudWatch::Dashboard": { accepted: observability },
  "AWS::SNS::Topic": {
    name: { property: "TopicName" },
    arn: arnOf("sns", ""),
    ref: "arn",
    attributes: { TopicArn: ({ arn }) => arn, TopicName: ({ name }) => name },
    accepted: "alarms go to people; no function subscribes",
  },
  "AWS::SNS::TopicPolicy": { accepted: "alarms go to people; no function subscribes" },
  "AWS::EC2::VPC": {
    id: ["vpc-", 17],
    ref: "id",
    attributes: {
      VpcId: ({ ref }) => ref,
      CidrBlock: ({ properties }) => String(properties.CidrBlock),
      DefaultSecurityGroup: ({ ref }) => `sg-${hash(ref, 17)}`,
      DefaultNetworkAcl: ({ ref }) => `acl-${hash(ref, 17)}`,
    },
    accepted: network,
  },
  "AWS::EC2::Subnet": {
    id: ["subnet-", 17],
    ref: "id",
    attributes: { SubnetId: ({ ref }) => ref, AvailabilityZone: ({ properties }) => String(properties.AvailabilityZone) },
    accepted: network,
  },
  "AWS::EC2::RouteTable": { id: ["rtb-", 17], ref: "id", accepted: network },
  "AWS::EC2::SubnetRouteTableAssociation": { id: ["rtbassoc-", 17], ref: "id", accepted: network },
  "AWS::EC2::SecurityGroup": {
    id: ["sg-", 17],
    ref: "id",
    attributes: { GroupId: ({ ref }) => ref, VpcId: ({ properties }) => String(properties.VpcId) },
    accepted: network,
  },
  "AWS::EC2::SecurityGroupIngress": { id: ["sgr-", 17], ref: "id", accepted: network },
  "AWS::EC2::SecurityGroupEgress": { id: ["sgr-", 17], ref: "id", accepted: network },
  "AWS::EC2::VPCEndpoint": { id: ["vpce-", 17], ref: "id", attributes: { Id: ({ ref }) => ref }, accepted: network },
  "AWS::EC2::FlowLog": { id: ["fl-", 17], ref: "id", accepted: observability },
  "AWS::CDK::Metadata": { accepted: "says which constructs made the template" },
};

/** Documents of AWS's managed policies, as far as this template may name them (AWS managed policy reference). */
const managedPolicies: Readonly<Record<string, PolicyDocument>> = {
  "service-role/AWSLambdaBasicExecutionRole": {
    Version: "2012-10-17",
    Statement: [{ Effect: "Allow", Action: ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"], Resource: "*" }],
  },
  AmazonSSMManagedInstanceCore: {
    Version: "2012-10-17",
    Statement: [
      {
        Effect: "Allow",
        Action: [
          "ssm:DescribeAssociation",
          "ssm:GetDeployablePatchSnapshotForInstance",
          "ssm:GetDocument",
          "ssm:DescribeDocument",
          "ssm:GetManifest",
          "ssm:GetParameter",
          "ssm:GetParameters",
          "ssm:ListAssociations",
          "ssm:ListInstanceAssociations",
          "ssm:PutInventory",
          "ssm:PutComplianceItems",
          "ssm:PutConfigurePackageResult",
          "ssm:UpdateAssociationStatus",
          "ssm:UpdateInstanceAssociationStatus",
          "ssm:UpdateInstanceInformation",
        ],
        Resource: "*",
      },
      {
        Effect: "Allow",
        Action: [
          "ssmmessages:CreateControlChannel",
          "ssmmessages:CreateDataChannel",
          "ssmmessages:OpenControlChannel",
          "ssmmessages:OpenDataChannel",
        ],
        Resource: "*",
      },
      {
        Effect: "Allow",
        Action: [
          "ec2messages:AcknowledgeMessage",
          "ec2messages:DeleteMessage",
          "ec2messages:FailMessage",
          "ec2messages:GetEndpoint",
          "ec2messages:GetMessages",
          "ec2messages:SendReply",
        ],
        Resource: "*",
      },
    ],
  },
};

function hash(text: string, length: number): string {
  return createHash("sha256").update(text).digest("hex").slice(0, length);
}

interface RawResource {
  readonly Type: string;
  readonly Properties?: Record<string, Json>;
  readonly Condition?: string;
  readonly Metadata?: Record<string, Json>;
}
interface RawTemplate {
  readonly Parameters?: Record<string, { readonly Type: string; readonly Default?: Json }>;
  readonly Conditions?: Record<string, Json>;
  readonly Mappings?: Record<string, Record<string, Record<string, Json>>>;
  readonly Resources: Record<string, RawResource>;
  readonly Outputs?: Record<string, { readonly Value: Json; readonly Export?: { readonly Name: Json }; readonly Condition?: string }>;
}

/** One stack of an assembly, as read from disk. */
export interface StackSource {
  readonly name: string;
  readonly template: RawTemplate;
  /** Folder or file of an asset, by its object key. */
  readonly assets: ReadonlyMap<string, string>;
}

/** Reads `cdk.out`: every stack's template and where its assets are. */
export function readAssembly(folder: string, stacks?: readonly string[]): StackSource[] {
  const manifestPath = join(folder, "manifest.json");
  if (!existsSync(manifestPath)) throw new Error(`${folder} holds no synthesized app (no manifest.json). Run: npm run synth`);
  const manifest = readJson(manifestPath) as unknown as {
    artifacts?: Record<string, { type: string; properties?: { templateFile?: string; stackName?: string; file?: string } }>;
  };
  const artifacts = Object.entries(manifest.artifacts ?? {});
  const assets = new Map<string, string>();
  for (const [, artifact] of artifacts) {
    if (artifact.type !== "cdk:asset-manifest" || artifact.properties?.file === undefined) continue;
    const file = join(folder, artifact.properties.file);
    const { files = {} } = readJson(file) as unknown as {
      files?: Record<string, { source: { path?: string }; destinations: Record<string, { objectKey: string }> }>;
    };
    for (const asset of Object.values(files)) {
      for (const { objectKey } of Object.values(asset.destinations)) {
        if (asset.source.path !== undefined) assets.set(objectKey, join(dirname(file), asset.source.path));
      }
    }
  }
  const found = artifacts
    .filter(([, artifact]) => artifact.type === "aws:cloudformation:stack")
    .map(([id, { properties }]) => ({
      name: properties?.stackName ?? id,
      template: readJson(join(folder, properties?.templateFile ?? `${id}.template.json`)) as unknown as RawTemplate,
      assets,
    }));
  const wanted = stacks === undefined ? found : found.filter(({ name }) => stacks.includes(name));
  if (wanted.length === 0)
    throw new Error(`${folder} holds no stack${stacks === undefined ? "" : ` named ${stacks.join(" or ")}`}. Run: npm run synth`);
  return wanted;
}

function readJson(path: string): Json {
  return JSON.parse(readFileSync(path, "utf8")) as Json;
}

/** Resolves stacks for one account and region. Names and ARNs are the same every time. */
export function loadTemplate(stacks: readonly StackSource[], target: Target): Template {
  const exports = new Map<string, Json>();
  const loaded = stacks.map((stack) => new Stack(stack, target, exports));
  const outputs: Record<string, Json> = {};
  for (const stack of loaded) stack.resolveOutputs(outputs);
  const resources = new Map<string, TemplateResource>();
  for (const stack of loaded) for (const resource of stack.resources()) resources.set(`${resource.stack}/${resource.logicalId}`, resource);
  return new View([...resources.values()], resources, loaded, outputs, target).template();
}

class Stack {
  readonly #named = new Map<string, Named>();
  readonly #conditions = new Map<string, boolean>();
  readonly #busy = new Set<string>();

  constructor(
    readonly source: StackSource,
    readonly target: Target,
    readonly exports: Map<string, Json>,
  ) {}

  resolveOutputs(into: Record<string, Json>): void {
    for (const [id, output] of Object.entries(this.source.template.Outputs ?? {})) {
      if (output.Condition !== undefined && !this.#condition(output.Condition)) continue;
      const value = this.resolve(output.Value, `Outputs.${id}`);
      into[id] = value as Json;
      if (output.Export !== undefined) this.exports.set(String(this.resolve(output.Export.Name, `Outputs.${id}`)), value as Json);
    }
  }

  resources(): TemplateResource[] {
    return Object.entries(this.source.template.Resources)
      .filter(([, { Condition }]) => Condition === undefined || this.#condition(Condition))
      .map(([logicalId, { Type: type, Metadata }]) => {
        const named = this.#name(logicalId);
        const model = types[type] as TypeModel;
        const properties = this.#properties(logicalId);
        for (const property of model.properties === undefined ? [] : Object.keys(properties)) {
          if (!model.properties?.includes(property)) {
            throw new Unmodelled(`${this.source.name}.${logicalId}: property ${property} of ${type} is not modelled`);
          }
        }
        const path = Metadata?.["aws:cdk:path"];
        return { ...named, logicalId, type, stack: this.source.name, path: typeof path === "string" ? path : logicalId, properties };
      });
  }

  asset(key: string): string | undefined {
    return this.source.assets.get(key);
  }

  #properties(logicalId: string): Record<string, Json> {
    const raw = this.source.template.Resources[logicalId]?.Properties ?? {};
    return (this.resolve(raw, logicalId) ?? {}) as Record<string, Json>;
  }

  /** The names of a resource, from only those properties that a name is made of. */
  #name(logicalId: string): Named {
    const known = this.#named.get(logicalId);
    if (known !== undefined) return known;
    const raw = this.source.template.Resources[logicalId];
    if (raw === undefined) throw new Unmodelled(`${this.source.name}: no resource or parameter "${logicalId}"`);
    const model = types[raw.Type];
    if (model === undefined) throw new Unmodelled(`${this.source.name}.${logicalId}: resource type ${raw.Type} is not modelled`);
    if (this.#busy.has(logicalId)) throw new Unmodelled(`${this.source.name}.${logicalId}: its name depends on itself`);
    this.#busy.add(logicalId);
    const own: Record<string, Json> = {};
    for (const property of [model.name?.property, "Path", "EventBusName", "GroupName", "CidrBlock", "AvailabilityZone", "VpcId", "Value", "Type"]) {
      const value = property === undefined ? undefined : raw.Properties?.[property];
      if (property !== undefined && value !== undefined) own[property] = this.resolve(value, `${logicalId}.${property}`) as Json;
    }
    const given = model.name === undefined ? undefined : own[model.name.property];
    const made = `${this.source.name}-${logicalId}`.slice(0, (model.name?.limit ?? 255) - 13);
    const generated = `${made}-${hash(`${this.source.name}/${logicalId}`, 12).toUpperCase()}`;
    const unique = hash(`${this.target.account}/${this.target.region}/${this.source.name}/${logicalId}`, 64);
    const id = model.id === undefined ? undefined : model.id[0] + unique.slice(0, model.id[1]);
    const uuid = id?.length === 32 && model.id?.[0] === "" ? id.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5") : id;
    const name = typeof given === "string" ? given : (uuid ?? (model.name?.lower ? generated.toLowerCase() : generated));
    const arn = model.arn?.(name, this.target, own) ?? `arn:${this.target.partition}:none:${this.target.region}:${this.target.account}:${name}`;
    const named: Named = { name, ref: model.ref === "arn" ? arn : name, arn, properties: own };
    this.#named.set(logicalId, named);
    this.#busy.delete(logicalId);
    return named;
  }

  /** Undefined stands for AWS::NoValue. */
  resolve(value: Json, at: string): Json | undefined {
    if (Array.isArray(value)) return value.map((item, index) => this.resolve(item, `${at}[${index}]`)).filter((item) => item !== undefined);
    if (typeof value !== "object" || value === null) return value;
    const [only, ...more] = Object.entries(value);
    if (only !== undefined && more.length === 0) {
      const [name, argument] = only;
      if (name === "Ref") return this.#ref(String(argument), at);
      if (name === "Condition" && typeof argument === "string") return this.#condition(argument);
      if (name.startsWith("Fn::")) return this.#call(name.slice(4), argument, at);
    }
    const resolved: Record<string, Json> = {};
    for (const [name, inner] of Object.entries(value)) {
      const found = this.resolve(inner, `${at}.${name}`);
      if (found !== undefined) resolved[name] = found;
    }
    return resolved;
  }

  #ref(name: string, at: string): Json | undefined {
    const { account, region, partition } = this.target;
    switch (name) {
      case "AWS::AccountId":
        return account;
      case "AWS::Region":
        return region;
      case "AWS::Partition":
        return partition;
      case "AWS::URLSuffix":
        return "amazonaws.com";
      case "AWS::StackName":
        return this.source.name;
      case "AWS::StackId":
        return `arn:${partition}:cloudformation:${region}:${account}:stack/${this.source.name}/${hash(this.source.name, 12)}`;
      case "AWS::NoValue":
        return undefined;
      case "AWS::NotificationARNs":
        return [];
    }
    const parameter = this.source.template.Parameters?.[name];
    if (parameter !== undefined) {
      if (parameter.Default === undefined) throw new Unmodelled(`${at}: parameter ${name} has no default`);
      return parameter.Type === "CommaDelimitedList" || parameter.Type.startsWith("List<")
        ? String(parameter.Default)
            .split(",")
            .map((item) => item.trim())
            .filter((item) => item !== "")
        : parameter.Default;
    }
    return this.#name(name).ref;
  }

  #attribute(logicalId: string, attribute: string, at: string): Json {
    const named = this.#name(logicalId);
    const type = this.source.template.Resources[logicalId]?.Type ?? "";
    if (attribute === "Arn" && types[type]?.arn !== undefined) return named.arn;
    const read = types[type]?.attributes?.[attribute];
    if (read === undefined) throw new Unmodelled(`${at}: attribute ${attribute} of ${type} is not modelled`);
    return read(named, this.target);
  }

  #call(name: string, argument: Json, at: string): Json | undefined {
    const list = () => this.resolve(argument, at) as Json[];
    switch (name) {
      case "GetAtt": {
        const [logicalId, attribute] = typeof argument === "string" ? splitOnce(argument, ".") : (argument as [string, string]);
        return this.#attribute(logicalId, attribute, at);
      }
      case "Sub": {
        const [text, variables] = typeof argument === "string" ? [argument, {}] : (argument as [string, Record<string, Json>]);
        return text.replace(/\$\{(!?)([^}]+)\}/g, (_, literal: string, variable: string) => {
          if (literal !== "") return `\${${variable}}`;
          const own = variables[variable];
          if (own !== undefined) return String(this.resolve(own, at));
          if (variable.includes(".")) return String(this.#attribute(...splitOnce(variable, "."), at));
          return String(this.#ref(variable, at));
        });
      }
      case "Join": {
        const [separator, parts] = list() as [string, Json[]];
        return parts.map((part) => (typeof part === "object" ? JSON.stringify(part) : String(part))).join(separator);
      }
      case "Select": {
        const [index, parts] = list() as [Json, Json[]];
        const found = parts[Number(index)];
        if (found === undefined) throw new Unmodelled(`${at}: Fn::Select finds nothing at ${String(index)}`);
        return found;
      }
      case "Split": {
        const [separator, text] = list() as [string, string];
        return text.split(separator);
      }
      case "If": {
        const [condition, yes, no] = argument as [string, Json, Json];
        return this.resolve(this.#condition(condition) ? yes : no, at);
      }
      case "Equals": {
        const [left, right] = list() as [Json, Json];
        return JSON.stringify(left) === JSON.stringify(right);
      }
      case "Not":
        return list()[0] !== true;
      case "And":
        return list().every((item) => item === true);
      case "Or":
        return list().some((item) => item === true);
      case "FindInMap": {
        const [map, first, second] = list() as [string, string, string];
        const found = this.source.template.Mappings?.[map]?.[first]?.[second];
        if (found === undefined) throw new Unmodelled(`${at}: Fn::FindInMap finds nothing for ${map}.${first}.${second}`);
        return found;
      }
      case "Base64":
        return Buffer.from(String(this.resolve(argument, at)), "utf8").toString("base64");
      case "GetAZs":
        return ["a", "b", "c"].map((zone) => `${this.target.region}${zone}`);
      case "ImportValue": {
        const exported = String(this.resolve(argument, at));
        const found = this.exports.get(exported);
        if (found === undefined) throw new Unmodelled(`${at}: nothing exports ${exported}`);
        return found;
      }
      default:
        throw new Unmodelled(`${at}: Fn::${name} is not modelled`);
    }
  }

  #condition(name: string): boolean {
    const known = this.#conditions.get(name);
    if (known !== undefined) return known;
    const raw = this.source.template.Conditions?.[name];
    if (raw === undefined) throw new Unmodelled(`${this.source.name}: no condition "${name}"`);
    const holds = this.resolve(raw, `Conditions.${name}`) === true;
    this.#conditions.set(name, holds);
    return holds;
  }
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, ""] : [text.slice(0, at), text.slice(at + separator.length)];
}

type Bag = Readonly<Record<string, Json>>;
const bag = (value: Json | undefined): Bag => (typeof value === "object" && value !== null && !Array.isArray(value) ? value : {});
const list = (value: Json | undefined): readonly Json[] => (Array.isArray(value) ? value : []);
const text = (value: Json | undefined): string | undefined => (typeof value === "string" ? value : undefined);
const number = (value: Json | undefined, otherwise: number): number => (value === undefined || value === null ? otherwise : Number(value));
const truth = (value: Json | undefined): boolean => value === true || value === "true";
const document = (value: Json | undefined): PolicyDocument => {
  const raw = value as unknown as PolicyDocument & { Statement: PolicyStatement | readonly PolicyStatement[] };
  return { ...raw, Statement: Array.isArray(raw.Statement) ? raw.Statement : [raw.Statement as unknown as PolicyStatement] };
};

/** From resources to what each service wants to know. */
class View {
  constructor(
    readonly all: readonly TemplateResource[],
    readonly resources: ReadonlyMap<string, TemplateResource>,
    readonly stacks: readonly Stack[],
    readonly outputs: Readonly<Record<string, Json>>,
    readonly target: Target,
  ) {}

  template(): Template {
    const accepted: Record<string, string> = {};
    for (const { type } of this.all) {
      const reason = types[type]?.accepted;
      if (reason !== undefined) accepted[type] = reason;
    }
    return {
      ...this.target,
      stacks: this.stacks.map(({ source }) => source.name),
      resources: this.resources,
      outputs: this.outputs,
      functions: this.#of("AWS::Lambda::Function").map((resource) => this.#function(resource)),
      permissions: this.#of("AWS::Lambda::Permission").map(({ properties }) => ({
        functionArn: this.#functionArn(String(properties.FunctionName)),
        action: String(properties.Action),
        principal: String(properties.Principal),
        sourceArn: text(properties.SourceArn),
        sourceAccount: text(properties.SourceAccount),
      })),
      roles: this.#of("AWS::IAM::Role").map((resource) => this.#role(resource)),
      stateMachines: this.#of("AWS::StepFunctions::StateMachine").map((resource) => this.#stateMachine(resource)),
      buckets: this.#of("AWS::S3::Bucket").map((resource) => this.#bucket(resource)),
      keys: this.#of("AWS::KMS::Key").map((resource) => ({
        ...resource,
        policy: document(resource.properties.KeyPolicy),
        aliases: this.#of("AWS::KMS::Alias")
          .filter(({ properties }) => [resource.ref, resource.arn].includes(String(properties.TargetKeyId)))
          .map(({ properties }) => String(properties.AliasName)),
        rotation: truth(resource.properties.EnableKeyRotation),
      })),
      buses: this.#of("AWS::Events::EventBus").map((resource) => ({ ...resource, name: resource.ref })),
      rules: this.#of("AWS::Events::Rule").map((resource) => this.#rule(resource)),
      schedules: this.#of("AWS::Scheduler::Schedule").map((resource) => this.#schedule(resource)),
      apis: this.#of("AWS::ApiGatewayV2::Api").map((resource) => this.#api(resource)),
      documents: this.#of("AWS::SSM::Document").map((resource) => ({
        ...resource,
        name: resource.ref,
        documentType: text(resource.properties.DocumentType) ?? "Command",
        content: (typeof resource.properties.Content === "string" ? JSON.parse(resource.properties.Content) : resource.properties.Content) as {
          [name: string]: Json;
        },
      })),
      queues: this.#of("AWS::SQS::Queue").map((resource) => ({
        ...resource,
        name: resource.ref,
        policy: this.#policyOn("AWS::SQS::QueuePolicy", ({ Queues }) =>
          list(Queues).some((queue) =>
            [`https://sqs.${this.target.region}.amazonaws.com/${this.target.account}/${resource.ref}`, resource.ref].includes(String(queue)),
          ),
        ),
      })),
      instanceProfiles: this.#of("AWS::IAM::InstanceProfile").map((resource) => ({
        ...resource,
        name: resource.ref,
        roles: list(resource.properties.Roles).map((role) => this.#roleArn(String(role))),
      })),
      parameters: this.#of("AWS::SSM::Parameter").map(({ ref, properties }) => ({ name: ref, value: String(properties.Value) })),
      accepted,
    };
  }

  #of(type: string): TemplateResource[] {
    return this.all.filter((resource) => resource.type === type);
  }

  #stackOf(resource: TemplateResource): Stack {
    return this.stacks.find(({ source }) => source.name === resource.stack) as Stack;
  }

  #roleArn(nameOrArn: string): string {
    return this.#of("AWS::IAM::Role").find(({ ref, arn }) => ref === nameOrArn || arn === nameOrArn)?.arn ?? nameOrArn;
  }

  #functionArn(nameOrArn: string): string {
    return this.#of("AWS::Lambda::Function").find(({ ref, arn }) => ref === nameOrArn || nameOrArn.startsWith(arn))?.arn ?? nameOrArn;
  }

  #policyOn(type: string, belongs: (properties: Bag) => boolean): PolicyDocument | undefined {
    const found = this.#of(type).filter(({ properties }) => belongs(properties));
    if (found.length === 0) return undefined;
    return { Version: "2012-10-17", Statement: found.flatMap(({ properties }) => document(properties.PolicyDocument).Statement) };
  }

  #function(resource: TemplateResource): TemplateFunction {
    const { properties, logicalId } = resource;
    const code = bag(properties.Code);
    const folder = text(code.S3Key) === undefined ? undefined : this.#stackOf(resource).asset(String(code.S3Key));
    if (folder === undefined) throw new Unmodelled(`${logicalId}: the code of a function must be an asset of the assembly`);
    const asynchronous = this.#of("AWS::Lambda::EventInvokeConfig").find(
      (each) => this.#functionArn(String(each.properties.FunctionName)) === resource.arn,
    );
    const config = asynchronous?.properties ?? {};
    const variables = Object.entries(bag(bag(properties.Environment).Variables));
    return {
      ...resource,
      name: resource.ref,
      label: text(properties.FunctionName) ?? logicalId,
      role: String(properties.Role),
      code: folder,
      handler: String(properties.Handler),
      timeoutSeconds: number(properties.Timeout, 3),
      memoryMib: number(properties.MemorySize, 128),
      environment: Object.fromEntries(variables.map(([name, value]) => [name, String(value)])),
      reservedConcurrency: properties.ReservedConcurrentExecutions === undefined ? undefined : Number(properties.ReservedConcurrentExecutions),
      deadLetterArn: text(bag(properties.DeadLetterConfig).TargetArn),
      asyncRetries: number(config.MaximumRetryAttempts, 2),
      asyncMaxAgeSeconds: number(config.MaximumEventAgeInSeconds, 21_600),
      onFailureArn: text(bag(bag(config.DestinationConfig).OnFailure).Destination),
    };
  }

  #role(resource: TemplateResource): TemplateRole {
    const { properties } = resource;
    const inline = list(properties.Policies).map((policy) => ({
      name: String(bag(policy).PolicyName),
      document: document(bag(policy).PolicyDocument),
    }));
    const attached = [...this.#of("AWS::IAM::Policy"), ...this.#of("AWS::IAM::ManagedPolicy")]
      .filter((policy) => list(policy.properties.Roles).some((role) => role === resource.ref))
      .map((policy) => ({ name: policy.ref, document: document(policy.properties.PolicyDocument) }));
    const managed = list(properties.ManagedPolicyArns).map((arn) => this.#managed(String(arn), resource.logicalId));
    const boundary = text(properties.PermissionsBoundary);
    return {
      ...resource,
      name: resource.ref,
      trust: document(properties.AssumeRolePolicyDocument),
      policies: [...inline, ...attached, ...managed],
      boundary: boundary === undefined ? undefined : this.#managed(boundary, resource.logicalId).document,
    };
  }

  #managed(arn: string, logicalId: string): { name: string; document: PolicyDocument } {
    const own = this.#of("AWS::IAM::ManagedPolicy").find((policy) => policy.arn === arn);
    if (own !== undefined) return { name: own.ref, document: document(own.properties.PolicyDocument) };
    const name = arn.replace(/^arn:aws:iam::aws:policy\//, "");
    const known = managedPolicies[name];
    if (known === undefined) throw new Unmodelled(`${logicalId}: managed policy ${arn} is not modelled`);
    return { name, document: known };
  }

  #stateMachine(resource: TemplateResource): TemplateStateMachine {
    const { properties, logicalId } = resource;
    const location = bag(properties.DefinitionS3Location);
    const asset = text(location.Key) === undefined ? undefined : this.#stackOf(resource).asset(String(location.Key));
    const source =
      text(properties.DefinitionString) ??
      (properties.Definition === undefined ? undefined : JSON.stringify(properties.Definition)) ??
      (asset === undefined ? undefined : readFileSync(asset, "utf8"));
    if (source === undefined) throw new Unmodelled(`${logicalId}: a state machine needs a definition in the template or an asset`);
    const substitutions = bag(properties.DefinitionSubstitutions);
    const definition = source.replace(/\$\{([A-Za-z0-9_]+)\}/g, (whole, name: string) => {
      const value = substitutions[name];
      return value === undefined ? whole : String(value);
    });
    return {
      ...resource,
      name: resource.arn.split(":").at(-1) as string,
      role: String(properties.RoleArn),
      kind: text(properties.StateMachineType) === "EXPRESS" ? "EXPRESS" : "STANDARD",
      definition,
    };
  }

  #bucket(resource: TemplateResource): TemplateBucket {
    const { properties } = resource;
    const [encryption] = list(bag(properties.BucketEncryption).ServerSideEncryptionConfiguration).map(bag);
    const byDefault = bag(encryption?.ServerSideEncryptionByDefault);
    const retention = bag(bag(bag(properties.ObjectLockConfiguration).Rule).DefaultRetention);
    return {
      ...resource,
      name: resource.ref,
      versioned: bag(properties.VersioningConfiguration).Status === "Enabled" || truth(properties.ObjectLockEnabled),
      kmsKeyArn: byDefault.SSEAlgorithm === "aws:kms" ? text(byDefault.KMSMasterKeyID) : undefined,
      bucketKey: truth(encryption?.BucketKeyEnabled),
      lifecycle: list(bag(properties.LifecycleConfiguration).Rules).map((rule) => bag(rule) as { [name: string]: Json }),
      policy: this.#policyOn("AWS::S3::BucketPolicy", ({ Bucket }) => Bucket === resource.ref),
      objectLock: truth(properties.ObjectLockEnabled)
        ? {
            mode: text(retention.Mode) as "GOVERNANCE" | "COMPLIANCE" | undefined,
            days: number(retention.Days, 0) + 365 * number(retention.Years, 0),
          }
        : undefined,
      eventBridge: bag(properties.NotificationConfiguration).EventBridgeConfiguration !== undefined,
    };
  }

  #rule(resource: TemplateResource): TemplateRule {
    const { properties } = resource;
    return {
      ...resource,
      name: resource.arn.split("/").at(-1) as string,
      bus: (text(properties.EventBusName) ?? "default").split("/").at(-1) as string,
      enabled: properties.State === undefined || String(properties.State).startsWith("ENABLED"),
      pattern: properties.EventPattern === undefined ? undefined : (bag(properties.EventPattern) as { [name: string]: Json }),
      scheduleExpression: text(properties.ScheduleExpression),
      targets: list(properties.Targets).map((target) => this.#ruleTarget(bag(target), resource.logicalId)),
    };
  }

  #ruleTarget(target: Bag, logicalId: string): RuleTarget {
    const known = ["Id", "Arn", "RoleArn", "Input", "InputPath", "InputTransformer", "DeadLetterConfig", "RetryPolicy"];
    const unknown = Object.keys(target).find((name) => !known.includes(name));
    if (unknown !== undefined) throw new Unmodelled(`${logicalId}: ${unknown} of a rule's target is not modelled`);
    const transformer = bag(target.InputTransformer);
    const paths = bag(transformer.InputPathsMap);
    return {
      id: String(target.Id),
      arn: String(target.Arn),
      role: text(target.RoleArn),
      input: text(target.Input),
      inputPath: text(target.InputPath),
      inputTransformer:
        target.InputTransformer === undefined
          ? undefined
          : {
              paths: Object.fromEntries(Object.entries(paths).map(([name, path]) => [name, String(path)])),
              template: String(transformer.InputTemplate),
            },
      deadLetterArn: text(bag(target.DeadLetterConfig).Arn),
      retries: number(bag(target.RetryPolicy).MaximumRetryAttempts, 185),
      maxAgeSeconds: number(bag(target.RetryPolicy).MaximumEventAgeInSeconds, 86_400),
    };
  }

  #schedule(resource: TemplateResource): TemplateSchedule {
    const { properties } = resource;
    const target = bag(properties.Target);
    return {
      ...resource,
      name: resource.ref,
      group: text(properties.GroupName) ?? "default",
      expression: String(properties.ScheduleExpression),
      timeZone: text(properties.ScheduleExpressionTimezone) ?? "UTC",
      enabled: properties.State === undefined || properties.State === "ENABLED",
      flexibleMinutes: number(bag(properties.FlexibleTimeWindow).MaximumWindowInMinutes, 0),
      targetArn: String(target.Arn),
      role: String(target.RoleArn),
      input: text(target.Input),
      deadLetterArn: text(bag(target.DeadLetterConfig).Arn),
      retries: number(bag(target.RetryPolicy).MaximumRetryAttempts, 185),
      maxAgeSeconds: number(bag(target.RetryPolicy).MaximumEventAgeInSeconds, 86_400),
    };
  }

  #api(resource: TemplateResource): TemplateApi {
    const stage = this.#of("AWS::ApiGatewayV2::Stage").find(({ properties }) => properties.ApiId === resource.ref);
    const settings = bag(stage?.properties.DefaultRouteSettings);
    if (text(resource.properties.ProtocolType) !== "HTTP") throw new Unmodelled(`${resource.logicalId}: only HTTP APIs are modelled`);
    return {
      ...resource,
      name: text(resource.properties.Name) ?? resource.ref,
      stage: text(stage?.properties.StageName) ?? "$default",
      throttle:
        settings.ThrottlingRateLimit === undefined && settings.ThrottlingBurstLimit === undefined
          ? undefined
          : { ratePerSecond: number(settings.ThrottlingRateLimit, 10_000), burst: number(settings.ThrottlingBurstLimit, 5_000) },
      routes: this.#of("AWS::ApiGatewayV2::Route")
        .filter(({ properties }) => properties.ApiId === resource.ref)
        .map((route) => this.#route(route)),
    };
  }

  #route(route: TemplateResource): TemplateRoute {
    const { properties, logicalId } = route;
    const integration = this.#of("AWS::ApiGatewayV2::Integration").find(({ ref }) => properties.Target === `integrations/${ref}`);
    if (integration === undefined) throw new Unmodelled(`${logicalId}: a route needs an integration of this template`);
    const { IntegrationType: type, PayloadFormatVersion: format, IntegrationUri: uri } = integration.properties;
    if (type !== "AWS_PROXY" || format !== "2.0")
      throw new Unmodelled(`${logicalId}: only AWS_PROXY integrations with payload format 2.0 are modelled`);
    const authorization = text(properties.AuthorizationType) ?? "NONE";
    if (authorization !== "AWS_IAM" && authorization !== "NONE") throw new Unmodelled(`${logicalId}: authorization ${authorization} is not modelled`);
    const [method, path] = properties.RouteKey === "$default" ? ["$default", "$default"] : String(properties.RouteKey).split(" ");
    const functionArn = /arn:aws:lambda:[^/]+:function:[^/:]+/.exec(String(uri))?.[0];
    if (functionArn === undefined) throw new Unmodelled(`${logicalId}: only functions are modelled behind a route`);
    return {
      ...route,
      apiId: String(properties.ApiId),
      method: method as string,
      path: path as string,
      functionArn,
      authorization,
      timeoutMilliseconds: number(integration.properties.TimeoutInMillis, 30_000),
    };
  }
}
