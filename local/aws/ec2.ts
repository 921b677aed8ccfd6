/**
 * EC2 of the local cloud: instances with their volumes and network interfaces, networks, images, security groups and tags.
 *
 * Unkind where EC2 is: launches are idempotent per zone only, new instances are invisible for a moment, capacity and request rates run out, a launch
 * that answered 200 may still die, and a terminated instance stays in the list for an hour. Ids and lately used addresses are never given again.
 */
import { createHash } from "node:crypto";
import type {
  AuthorizeSecurityGroupEgressRequest,
  AuthorizeSecurityGroupEgressResult,
  AuthorizeSecurityGroupIngressRequest,
  AuthorizeSecurityGroupIngressResult,
  CreateSecurityGroupRequest,
  CreateSecurityGroupResult,
  CreateTagsRequest,
  DeleteSecurityGroupRequest,
  DeleteSecurityGroupResult,
  DeleteVolumeRequest,
  DescribeImagesRequest,
  DescribeImagesResult,
  DescribeInstancesRequest,
  DescribeInstancesResult,
  DescribeInstanceTypeOfferingsRequest,
  DescribeInstanceTypeOfferingsResult,
  DescribeInstanceTypesRequest,
  DescribeInstanceTypesResult,
  DescribeNetworkInterfacesRequest,
  DescribeNetworkInterfacesResult,
  DescribeSecurityGroupsRequest,
  DescribeSecurityGroupsResult,
  DescribeSubnetsRequest,
  DescribeSubnetsResult,
  DescribeTagsRequest,
  DescribeTagsResult,
  DescribeVolumesRequest,
  DescribeVolumesResult,
  DescribeVpcsRequest,
  DescribeVpcsResult,
  Instance,
  IpPermission,
  Reservation,
  RevokeSecurityGroupEgressRequest,
  RevokeSecurityGroupEgressResult,
  RevokeSecurityGroupIngressRequest,
  RevokeSecurityGroupIngressResult,
  RunInstancesRequest,
  TagSpecification,
  TerminateInstancesRequest,
  TerminateInstancesResult,
} from "@aws-sdk/client-ec2";
import model from "../../core/latency-model.json" with { type: "json" };
import { AwsError, type Operation, type Permission, type Service, Unmodelled, type World } from "../kernel/contract.js";
import type { NodeDriver, Platform } from "../nodes/contract.js";
import { type InstanceTypeModel, instanceTypes } from "./instance-types.js";
import { volumePermissions } from "./kms.js";
import { allow, arn, fields, Ids, meets, page, passes, requestTagContext, resourceTagContext, tagList, tagRecord } from "./requests.js";

export type InstanceLife = "pending" | "running" | "shutting-down" | "terminated";

/** An instance as the other services of the local cloud see it: at once, without EC2's delays of visibility. */
export interface InstanceFacts {
  readonly id: string;
  readonly order: number;
  readonly life: InstanceLife;
  readonly address: string;
  readonly subnetId: string;
  readonly vpcId: string;
  readonly zone: string;
  readonly platform: Platform;
  readonly architecture: "x86_64" | "arm64";
  readonly rootVolumeGib: number;
  readonly tags: Readonly<Record<string, string>>;
  readonly profileArn: string | undefined;
  readonly launchedAtMs: number;
  readonly runningAtMs: number | undefined;
  readonly lostAtMs: number | undefined;
  /** Will die before it can serve: such a machine never reaches Systems Manager. */
  readonly doomed: boolean;
}

export interface InstanceProfile {
  readonly arn: string;
  readonly name: string;
  readonly roleArn: string;
}

export interface Network {
  readonly vpcId: string;
  readonly cidr: string;
  readonly tags?: Readonly<Record<string, string>>;
  readonly subnets: readonly {
    readonly id: string;
    readonly zone: string;
    readonly cidr: string;
    readonly tags?: Readonly<Record<string, string>>;
  }[];
}

/** What hears of instances: Systems Manager registers them, the load balancers look for themselves. */
export interface InstanceListener {
  instanceRunning(instance: InstanceFacts): void;
  instanceLost(instance: InstanceFacts): void;
}

export interface Ec2 extends Service {
  readonly name: "ec2";
  /** Undefined for an id that EC2 no longer knows. */
  instance(id: string): InstanceFacts | undefined;
  /** Ids of instances that carry one of these values under the tag, in the order of their launch. */
  instancesTagged(key: string, values: readonly string[]): readonly string[];
  /** Every instance that is not terminated, in the order of launch: for checks that nothing is left. */
  living(): readonly InstanceFacts[];
  /** The machine dies by itself: hardware, spot reclaim, a shutdown from within. */
  lose(id: string, reason: string): void;
  subnet(id: string): { readonly id: string; readonly vpcId: string; readonly zone: string; readonly cidr: string } | undefined;
  hasVpc(id: string): boolean;
  hasSecurityGroup(id: string): boolean;
  /** Interfaces that a load balancer puts into subnets; they hold their security groups. Answers their ids. */
  addManagedInterfaces(owner: string, description: string, subnetIds: readonly string[], groups: readonly string[]): readonly string[];
  /** Those of an owner that are not on their way out. */
  managedInterfaces(owner: string): readonly { readonly subnetId: string; readonly address: string }[];
  /** They vanish this many seconds from now. */
  releaseManagedInterfaces(owner: string, afterSeconds: number): void;
  /** Instance profiles, networks and images of the account. They come from the template at each start, so they are not part of the kept state. */
  addInstanceProfile(profile: InstanceProfile): void;
  addNetwork(network: Network): void;
}

/** The network that is there before anything is deployed: three private subnets in three zones. */
export const fixtureNetwork = (region: string): Network => ({
  vpcId: "vpc-0a1b2c3d4e5f60718",
  cidr: "10.0.0.0/16",
  tags: { Name: "local" },
  subnets: [
    { id: "subnet-0aaa1111bbbb2222c", zone: `${region}a`, cidr: "10.0.0.0/20", tags: { Name: "private-a" } },
    { id: "subnet-0bbb2222cccc3333d", zone: `${region}b`, cidr: "10.0.16.0/20", tags: { Name: "private-b" } },
    { id: "subnet-0ccc3333dddd4444e", zone: `${region}c`, cidr: "10.0.32.0/20", tags: { Name: "private-c" } },
  ],
});

export interface ImageModel {
  readonly id: string;
  readonly name: string;
  readonly owner: string;
  readonly architecture: "x86_64" | "arm64";
  readonly platform: Platform;
  readonly rootDeviceName: string;
  readonly rootVolumeGib: number;
  /** Public parameter of Systems Manager that names it. */
  readonly parameter: string;
}

export const fixtureImages: readonly ImageModel[] = [
  {
    id: "ami-0d4a1b5c6e7f80912",
    name: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20261015",
    owner: "099720109477",
    architecture: "x86_64",
    platform: "ubuntu",
    rootDeviceName: "/dev/sda1",
    rootVolumeGib: 8,
    parameter: "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
  },
  {
    id: "ami-0e5b2c6d7f8091a23",
    name: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-20261015",
    owner: "099720109477",
    architecture: "arm64",
    platform: "ubuntu",
    rootDeviceName: "/dev/sda1",
    rootVolumeGib: 8,
    parameter: "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
  },
  {
    id: "ami-0f6c3d7e8091a2b34",
    name: "al2023-ami-2023.9.20261102.0-kernel-6.12-x86_64",
    owner: "137112412989",
    architecture: "x86_64",
    platform: "amazon-linux",
    rootDeviceName: "/dev/xvda",
    rootVolumeGib: 8,
    parameter: "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
  },
  {
    id: "ami-017d4e8f91a2b3c45",
    name: "al2023-ami-2023.9.20261102.0-kernel-6.12-arm64",
    owner: "137112412989",
    architecture: "arm64",
    platform: "amazon-linux",
    rootDeviceName: "/dev/xvda",
    rootVolumeGib: 8,
    parameter: "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
  },
];

interface InstanceRecord {
  readonly id: string;
  readonly order: number;
  readonly reservationId: string;
  readonly token: string | undefined;
  readonly type: string;
  readonly imageId: string;
  readonly subnetId: string;
  readonly address: string;
  readonly amiLaunchIndex: number;
  readonly profileArn: string | undefined;
  readonly groups: readonly string[];
  readonly rootVolumeGib: number;
  readonly rootDeviceName: string;
  readonly volumes: readonly string[];
  readonly interfaceId: string;
  readonly spotRequestId: string | undefined;
  readonly protected: boolean;
  readonly hopLimit: number;
  readonly launchedAtMs: number;
  /** From when a look by id finds it, and a filtered one. */
  readonly knownAtMs: number;
  readonly visibleAtMs: number;
  readonly doomed: boolean;
  tags: Record<string, string>;
  life: InstanceLife;
  runningAtMs?: number;
  lostAtMs?: number;
  terminatedAtMs?: number;
  reason?: { code: string; message: string };
}

interface VolumeRecord {
  readonly id: string;
  readonly order: number;
  readonly sizeGib: number;
  readonly type: string;
  readonly iops: number;
  readonly throughput: number;
  readonly encrypted: boolean;
  readonly kmsKeyId: string | undefined;
  readonly zone: string;
  readonly createdAtMs: number;
  readonly device: string;
  readonly deleteOnTermination: boolean;
  instanceId?: string;
  tags: Record<string, string>;
}

interface InterfaceRecord {
  readonly id: string;
  readonly order: number;
  readonly subnetId: string;
  readonly address: string;
  readonly groups: readonly string[];
  readonly description: string;
  /** The instance, or the load balancer it was made for. */
  readonly owner: string;
  readonly managed: boolean;
  goneAtMs?: number;
  tags: Record<string, string>;
}

interface RuleRecord {
  readonly id: string;
  readonly egress: boolean;
  readonly protocol: string;
  readonly fromPort: number | undefined;
  readonly toPort: number | undefined;
  readonly peer: { readonly kind: "cidr" | "group" | "prefix"; readonly id: string };
  readonly description: string | undefined;
}

interface GroupRecord {
  readonly id: string;
  readonly order: number;
  readonly name: string;
  readonly description: string;
  readonly vpcId: string;
  /** By what makes a rule the same as another. */
  readonly rules: Map<string, RuleRecord>;
  tags: Record<string, string>;
}

interface TokenRecord {
  readonly parameters: string;
  readonly instanceIds: readonly string[];
  lastGoneAtMs?: number;
}

interface SubnetUse {
  /** Where the next free address is looked for: addresses go round, so that one comes again only when all others have been used. */
  next: number;
  used: Set<number>;
}

interface State {
  idSeed: string;
  idsGiven: number;
  order: number;
  instances: Map<string, InstanceRecord>;
  volumes: Map<string, VolumeRecord>;
  interfaces: Map<string, InterfaceRecord>;
  groups: Map<string, GroupRecord>;
  tokens: Map<string, TokenRecord>;
  subnets: Map<string, SubnetUse>;
  buckets: Map<string, { left: number; atMs: number }>;
  /** Type and zone without room; `rate` is the fault's at that time. */
  full: Map<string, { readonly untilMs: number; readonly rate: number }>;
}

const seconds = 1000;
const hour = 3600 * seconds;

/** Request rates (EC2 API, request throttling): bucket and refill per second. RunInstances also spends one token an instance. */
const rates = {
  RunInstances: { bucket: 5, refill: 2 },
  "RunInstances instances": { bucket: model.rates.runInstancesBurst.value, refill: model.rates.runInstancesRefillPerSecond.value },
  mutating: { bucket: 50, refill: 5 },
  describe: { bucket: 100, refill: 20 },
} as const;

/** vCPUs of running instances the account may have: on-demand standard families. */
const vcpuQuota = 16_000;

export function createEc2(world: World): Ec2 {
  const random = world.random.fork("ec2");
  const ids = new Ids(random.hex(16));
  const profiles = new Map<string, InstanceProfile>();
  const networks = new Map<string, Network>();
  const subnetIndex = new Map<string, { id: string; vpcId: string; zone: string; cidr: string; tags: Readonly<Record<string, string>> }>();
  const images = new Map(fixtureImages.map((image) => [image.id, image]));
  /** `key=value` to ids of instances: what most reads filter by. */
  const tagIndex = new Map<string, Set<string>>();
  /** Interfaces whose end is set. */
  const releasing = new Set<string>();
  /** Terminated instances that are still listed, the longest gone first. */
  let gone: string[] = [];
  let state: State = {
    idSeed: ids.seed,
    idsGiven: 0,
    order: 0,
    instances: new Map(),
    volumes: new Map(),
    interfaces: new Map(),
    groups: new Map(),
    tokens: new Map(),
    subnets: new Map(),
    buckets: new Map(),
    full: new Map(),
  };
  let idSource = ids;
  let runningVcpus = 0;

  const now = () => world.clock.now();
  const newId = (prefix: string) => `${prefix}-0${idSource.hex(prefix, 16)}`;
  const nextOrder = () => ++state.order;
  const instanceArn = (id: string) => arn(world, "ec2", `instance/${id}`);
  const typeOf = (record: InstanceRecord) => instanceTypes.get(record.type) as InstanceTypeModel;
  const imageOf = (record: InstanceRecord) => images.get(record.imageId) as ImageModel;
  const subnetOf = (id: string) => {
    const found = subnetIndex.get(id);
    if (found === undefined) throw new AwsError("InvalidSubnetID.NotFound", `The subnet ID '${id}' does not exist`);
    return found;
  };

  // ------------------------------------------------------------------ rates

  function spend(bucketName: string, amount: number, rate: { readonly bucket: number; readonly refill: number }): void {
    const at = now();
    const bucket = state.buckets.get(bucketName) ?? { left: rate.bucket, atMs: at };
    bucket.left = Math.min(rate.bucket, bucket.left + ((at - bucket.atMs) / 1000) * rate.refill);
    bucket.atMs = at;
    state.buckets.set(bucketName, bucket);
    if (bucket.left < amount) throw new AwsError("RequestLimitExceeded", "Request limit exceeded.", 503);
    bucket.left -= amount;
  }

  /** An operation of EC2: its own request rate, then what it does. */
  function operation<Input, Output>(
    name: string,
    parts: {
      readonly fields: readonly string[];
      readonly mutates: boolean;
      readonly permissions?: (input: Input) => readonly Permission[];
      readonly latency?: Operation<Input, Output>["latency"];
      readonly call: (input: Input) => Output;
    },
  ): Operation<Input, Output> {
    return {
      fields: parts.fields,
      mutates: parts.mutates,
      latency: parts.latency ?? { milliseconds: parts.mutates ? 250 : 120 },
      permissions: parts.permissions ?? (() => allow(`ec2:${name}`)),
      call: (input) => {
        spend(name, 1, name === "RunInstances" ? rates.RunInstances : parts.mutates ? rates.mutating : rates.describe);
        forgetLongGone();
        return parts.call(input);
      },
    };
  }

  // -------------------------------------------------------------- addresses

  function takeAddress(subnetId: string): string | undefined {
    const { cidr } = subnetOf(subnetId);
    const { first, size } = rangeOf(cidr);
    const use = state.subnets.get(subnetId) ?? { next: 4, used: new Set<number>() };
    state.subnets.set(subnetId, use);
    // The first four addresses and the last one of a subnet belong to AWS.
    const room = size - 5;
    if (use.used.size >= room) return undefined;
    let at = use.next;
    while (use.used.has(at)) at = at + 1 > size - 2 ? 4 : at + 1;
    use.used.add(at);
    use.next = at + 1 > size - 2 ? 4 : at + 1;
    return formatAddress(first + at);
  }

  function freeAddress(subnetId: string, address: string): void {
    const subnet = subnetIndex.get(subnetId);
    if (subnet !== undefined) state.subnets.get(subnetId)?.used.delete(parseAddress(address) - rangeOf(subnet.cidr).first);
  }

  // -------------------------------------------------------------- tag index

  function indexTags(record: InstanceRecord): void {
    for (const [key, value] of Object.entries(record.tags)) {
      const entry = `${key}=${value}`;
      const set = tagIndex.get(entry);
      if (set === undefined) tagIndex.set(entry, new Set([record.id]));
      else set.add(record.id);
    }
  }

  function unindexTags(record: InstanceRecord): void {
    for (const [key, value] of Object.entries(record.tags)) {
      const set = tagIndex.get(`${key}=${value}`);
      set?.delete(record.id);
      if (set?.size === 0) tagIndex.delete(`${key}=${value}`);
    }
  }

  /** Terminated instances are forgotten after an hour, their client tokens a day later, a deleted load balancer's interfaces when their time has come. */
  function forgetLongGone(): void {
    const at = now();
    let forgotten = 0;
    for (const id of gone) {
      const record = state.instances.get(id) as InstanceRecord;
      if ((record.terminatedAtMs ?? at) + hour > at) break;
      forgotten++;
      unindexTags(record);
      state.instances.delete(id);
      const token = record.token === undefined ? undefined : state.tokens.get(tokenKey(subnetOf(record.subnetId).zone, record.token));
      if (token !== undefined) token.lastGoneAtMs = record.terminatedAtMs ?? at;
    }
    if (forgotten > 0) {
      gone.splice(0, forgotten);
      for (const [key, token] of state.tokens) {
        if (token.lastGoneAtMs !== undefined && token.lastGoneAtMs + 25 * hour <= at && token.instanceIds.every((id) => !state.instances.has(id)))
          state.tokens.delete(key);
      }
    }
    for (const id of releasing) {
      const record = state.interfaces.get(id) as InterfaceRecord;
      if ((record.goneAtMs ?? at) > at) continue;
      state.interfaces.delete(id);
      releasing.delete(id);
      freeAddress(record.subnetId, record.address);
    }
  }

  // --------------------------------------------------------- lives of nodes

  function announce(record: InstanceRecord, life: InstanceLife): void {
    world.clock.after((0.3 + random.next()) * seconds, () =>
      world.publish({
        source: "aws.ec2",
        detailType: "EC2 Instance State-change Notification",
        detail: { "instance-id": record.id, state: life },
        resources: [instanceArn(record.id)],
      }),
    );
  }

  function listener(): InstanceListener {
    return world.service<Service & InstanceListener>("ssm");
  }

  function startRunning(record: InstanceRecord): void {
    if (record.life !== "pending") return;
    record.life = "running";
    record.runningAtMs = now();
    announce(record, "running");
    const facts = factsOf(record);
    world.service<NodeDriver>("nodes").boot({
      instanceId: record.id,
      address: record.address,
      zone: facts.zone,
      architecture: facts.architecture,
      platform: facts.platform,
      rootVolumeGib: record.rootVolumeGib,
    });
    listener().instanceRunning(facts);
  }

  function shutDown(record: InstanceRecord, reason: { code: string; message: string }, afterSeconds: number): void {
    if (record.life === "shutting-down" || record.life === "terminated") return;
    const ran = record.life === "running";
    record.life = "shutting-down";
    record.lostAtMs = now();
    record.reason = reason;
    announce(record, "shutting-down");
    if (ran) {
      world.service<NodeDriver>("nodes").halt(record.id);
      listener().instanceLost(factsOf(record));
    }
    world.clock.after(afterSeconds * seconds, () => endLife(record));
  }

  function endLife(record: InstanceRecord): void {
    record.life = "terminated";
    record.terminatedAtMs = now();
    record.lostAtMs ??= now();
    gone.push(record.id);
    runningVcpus -= typeOf(record).vcpus;
    announce(record, "terminated");
    for (const id of record.volumes) {
      const volume = state.volumes.get(id);
      if (volume === undefined) continue;
      if (volume.deleteOnTermination) state.volumes.delete(id);
      else delete volume.instanceId;
    }
    const attached = state.interfaces.get(record.interfaceId);
    if (attached !== undefined) {
      state.interfaces.delete(attached.id);
      freeAddress(attached.subnetId, attached.address);
    }
  }

  function factsOf(record: InstanceRecord): InstanceFacts {
    const subnet = subnetOf(record.subnetId);
    const image = imageOf(record);
    return {
      id: record.id,
      order: record.order,
      life: record.life,
      address: record.address,
      subnetId: record.subnetId,
      vpcId: subnet.vpcId,
      zone: subnet.zone,
      platform: image.platform,
      architecture: image.architecture,
      rootVolumeGib: record.rootVolumeGib,
      tags: record.tags,
      profileArn: record.profileArn,
      launchedAtMs: record.launchedAtMs,
      runningAtMs: record.runningAtMs,
      lostAtMs: record.lostAtMs,
      doomed: record.doomed,
    };
  }

  // ------------------------------------------------------------ RunInstances

  const tokenKey = (zone: string, token: string) => `${zone} ${token}`;

  /** What a launch asks for, whichever of its two spellings the request uses. */
  function placementOf(input: RunInstancesRequest): { subnetId: string; groups: readonly string[] } {
    const [network, ...more] = input.NetworkInterfaces ?? [];
    if (more.length > 0) throw new Unmodelled("RunInstances with more than one network interface");
    if (network !== undefined) {
      if (input.SubnetId !== undefined || input.SecurityGroupIds !== undefined) {
        throw new AwsError(
          "InvalidParameterCombination",
          "Network interfaces and an instance-level subnet ID may not be specified on the same request",
        );
      }
      if (network.AssociatePublicIpAddress === true) throw new Unmodelled("RunInstances with a public address");
      return { subnetId: required(network.SubnetId, "SubnetId"), groups: network.Groups ?? [] };
    }
    return { subnetId: required(input.SubnetId, "SubnetId"), groups: input.SecurityGroupIds ?? [] };
  }

  function tagsFor(specifications: readonly TagSpecification[] | undefined, type: string): Record<string, string> {
    const tags: Record<string, string> = {};
    for (const specification of specifications ?? []) {
      if (specification.ResourceType === type) Object.assign(tags, checkTags(specification.Tags));
    }
    return tags;
  }

  function runInstances(input: RunInstancesRequest): Reservation {
    const least = input.MinCount ?? 0;
    const most = input.MaxCount ?? 0;
    if (!(least >= 1 && most >= least)) {
      throw new AwsError(
        "InvalidParameterValue",
        `Value (${most}) for parameter maxCount is invalid: minCount ${least} must be at least 1 and at most maxCount`,
      );
    }
    const { subnetId, groups } = placementOf(input);
    const subnet = subnetOf(subnetId);
    const image = images.get(input.ImageId ?? "");
    if (image === undefined) throw new AwsError("InvalidAMIID.NotFound", `The image id '[${input.ImageId ?? ""}]' does not exist`);
    const type = instanceTypes.get(input.InstanceType ?? "");
    if (type === undefined) throw new AwsError("InvalidParameterValue", `Invalid value '${input.InstanceType ?? ""}' for InstanceType.`);
    if (type.architecture !== image.architecture) {
      throw new AwsError(
        "InvalidParameterValue",
        `The architecture '${type.architecture}' of the specified instance type does not match the architecture '${image.architecture}' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.`,
      );
    }
    for (const group of groups) {
      const found = state.groups.get(group);
      if (found === undefined) throw new AwsError("InvalidGroup.NotFound", `The security group '${group}' does not exist`);
      if (found.vpcId !== subnet.vpcId) {
        throw new AwsError("InvalidParameter", `Security group ${group} and subnet ${subnetId} belong to different networks.`);
      }
    }
    const profileArn = resolveProfile(input.IamInstanceProfile);
    checkMetadata(input);
    checkUserData(input.UserData);
    const tags = {
      instance: tagsFor(input.TagSpecifications, "instance"),
      volume: tagsFor(input.TagSpecifications, "volume"),
      interface: tagsFor(input.TagSpecifications, "network-interface"),
    };
    for (const { ResourceType: kind } of input.TagSpecifications ?? []) {
      if (!["instance", "volume", "network-interface", "spot-instances-request"].includes(kind ?? "")) {
        throw new AwsError("InvalidParameterValue", `'${kind}' is not a valid taggable resource type for this operation.`);
      }
    }
    const disks = disksOf(input, image);
    const spot = input.InstanceMarketOptions?.MarketType === "spot";
    if (input.InstanceMarketOptions?.MarketType !== undefined && !spot) throw new Unmodelled(`market type ${input.InstanceMarketOptions.MarketType}`);
    if (input.Placement?.AvailabilityZone !== undefined && input.Placement.AvailabilityZone !== subnet.zone) {
      throw new AwsError("InvalidParameterValue", `The zone ${input.Placement.AvailabilityZone} is not that of subnet ${subnetId}`);
    }
    if (input.DryRun === true) throw new AwsError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412);

    // Idempotency is scoped to the zone (EC2 API, ensuring idempotency): the same token elsewhere is another launch.
    const token = input.ClientToken;
    if (token !== undefined && !/^[\x21-\x7e]{1,64}$/.test(token)) {
      throw new AwsError("InvalidParameterValue", "Value for parameter clientToken is invalid. Token must not be longer than 64 ASCII characters");
    }
    const parameters = parametersHash(input);
    if (token !== undefined) {
      const earlier = state.tokens.get(tokenKey(subnet.zone, token));
      if (earlier !== undefined) return repeated(earlier, token, parameters);
    }

    if (!type.zones.includes(subnet.zone.at(-1) as string)) {
      throw new AwsError(
        "Unsupported",
        `Your requested instance type (${type.name}) is not supported in your requested Availability Zone (${subnet.zone}). Please retry your request by choosing another zone.`,
      );
    }
    if (runningVcpus + least * type.vcpus > vcpuQuota) {
      throw new AwsError("VcpuLimitExceeded", `You have requested more vCPU capacity than your current vCPU limit of ${vcpuQuota} allows.`);
    }
    const room = Math.min(most, roomFor(type.name, subnet.zone, most), Math.floor((vcpuQuota - runningVcpus) / type.vcpus));
    if (room < least) {
      throw new AwsError(
        "InsufficientInstanceCapacity",
        `We currently do not have sufficient ${type.name} capacity in the Availability Zone you requested (${subnet.zone}). Our system will be working on provisioning additional capacity.`,
        500,
      );
    }
    const free = freeAddresses(subnetId);
    if (free < least) {
      throw new AwsError(
        "InsufficientFreeAddressesInSubnet",
        `There are not enough free addresses in subnet '${subnetId}' to satisfy the requested number of instances.`,
      );
    }
    const count = Math.min(room, free);
    spend("RunInstances instances", count, rates["RunInstances instances"]);

    const reservationId = newId("r");
    const launched: InstanceRecord[] = [];
    for (let index = 0; index < count; index++) {
      launched.push(
        launchOne({ input, reservationId, index, subnetId, zone: subnet.zone, groups, image, type, profileArn, disks, spot, tags, token }),
      );
    }
    if (token !== undefined) {
      state.tokens.set(tokenKey(subnet.zone, token), { parameters, instanceIds: launched.map((record) => record.id) });
    }
    return { ReservationId: reservationId, OwnerId: world.account, Groups: [], Instances: launched.map(describeInstance) };
  }

  function repeated(earlier: TokenRecord, token: string, parameters: string): Reservation {
    if (earlier.parameters !== parameters) {
      throw new AwsError(
        "IdempotentParameterMismatch",
        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
      );
    }
    const records = earlier.instanceIds.map((id) => state.instances.get(id)).filter((record) => record !== undefined);
    if (records.length === 0 || records.every((record) => record.life === "terminated" || record.life === "shutting-down")) {
      throw new AwsError(
        "IdempotentInstanceTerminated",
        `The request cannot be completed because the instance launched with token ${token} is terminated.`,
      );
    }
    return { ReservationId: records[0]?.reservationId ?? "", OwnerId: world.account, Groups: [], Instances: records.map(describeInstance) };
  }

  /**
   * How many of a type a zone takes now. Without room it stays so for some minutes, which is why a ladder of types and zones is worth having; once the
   * world's faults are healed there is room again.
   */
  function roomFor(type: string, zone: string, wanted: number): number {
    const place = `${type} in ${zone}`;
    const rate = world.faults.rates.capacityError;
    const full = state.full.get(place);
    if (full !== undefined && full.untilMs > now() && !(full.rate > 0 && rate === 0)) return 0;
    if (!world.faults.strike("capacityError", place)) return wanted;
    state.full.set(place, { untilMs: now() + (60 + random.next() * 540) * seconds, rate });
    return random.integer(wanted);
  }

  function freeAddresses(subnetId: string): number {
    return rangeOf(subnetOf(subnetId).cidr).size - 5 - (state.subnets.get(subnetId)?.used.size ?? 0);
  }

  function launchOne(launch: {
    readonly input: RunInstancesRequest;
    readonly reservationId: string;
    readonly index: number;
    readonly subnetId: string;
    readonly zone: string;
    readonly groups: readonly string[];
    readonly image: ImageModel;
    readonly type: InstanceTypeModel;
    readonly profileArn: string | undefined;
    readonly disks: readonly Disk[];
    readonly spot: boolean;
    readonly tags: { readonly instance: Record<string, string>; readonly volume: Record<string, string>; readonly interface: Record<string, string> };
    readonly token: string | undefined;
  }): InstanceRecord {
    const at = now();
    const id = newId("i");
    const address = takeAddress(launch.subnetId) as string;
    const attached: InterfaceRecord = {
      id: newId("eni"),
      order: nextOrder(),
      subnetId: launch.subnetId,
      address,
      groups: launch.groups,
      description: "",
      owner: id,
      managed: false,
      tags: { ...launch.tags.interface },
    };
    state.interfaces.set(attached.id, attached);
    const volumes = launch.disks.map((disk) => {
      const volume: VolumeRecord = {
        ...disk,
        id: newId("vol"),
        order: nextOrder(),
        zone: launch.zone,
        createdAtMs: at,
        instanceId: id,
        tags: { ...launch.tags.volume },
      };
      state.volumes.set(volume.id, volume);
      return volume.id;
    });
    const knownAtMs = at + (random.chance(0.2) ? random.next() * 2 * seconds : 0);
    const record: InstanceRecord = {
      id,
      order: nextOrder(),
      reservationId: launch.reservationId,
      token: launch.token,
      type: launch.type.name,
      imageId: launch.image.id,
      subnetId: launch.subnetId,
      address,
      amiLaunchIndex: launch.index,
      profileArn: launch.profileArn,
      groups: launch.groups,
      rootVolumeGib: launch.disks.find((disk) => disk.device === launch.image.rootDeviceName)?.sizeGib ?? launch.image.rootVolumeGib,
      rootDeviceName: launch.image.rootDeviceName,
      volumes,
      interfaceId: attached.id,
      spotRequestId: launch.spot ? `sir-${idSource.hex("sir", 8)}` : undefined,
      protected: launch.input.DisableApiTermination === true,
      hopLimit: launch.input.MetadataOptions?.HttpPutResponseHopLimit ?? 1,
      launchedAtMs: at,
      knownAtMs,
      visibleAtMs: Math.max(knownAtMs, at + random.next() * 4 * seconds),
      doomed: world.faults.strike("nodeLostWhileBooting", id),
      tags: { ...launch.tags.instance },
      life: "pending",
    };
    state.instances.set(id, record);
    indexTags(record);
    runningVcpus += launch.type.vcpus;
    announce(record, "pending");
    const running = random.latency("pendingToRunning");
    if (record.doomed && random.chance(0.5)) {
      world.clock.after(running * random.next() * seconds, () => dieBeforeRunning(record));
    } else {
      world.clock.after(running * seconds, () => startRunning(record));
      if (record.doomed) {
        world.clock.after((running + 1 + random.next() * 30) * seconds, () =>
          shutDown(record, { code: "Server.InternalError", message: "Server.InternalError: Internal error on launch" }, 5),
        );
      }
    }
    return record;
  }

  /** A launch that answered 200 and never ran: straight from pending to terminated, with the reason only here. */
  function dieBeforeRunning(record: InstanceRecord): void {
    if (record.life !== "pending") return;
    record.reason = { code: "Server.InternalError", message: "Server.InternalError: Internal error on launch" };
    endLife(record);
  }

  function resolveProfile(given: { readonly Arn?: string | undefined; readonly Name?: string | undefined } | undefined): string | undefined {
    if (given === undefined) return undefined;
    const profile = [...profiles.values()].find((known) => known.arn === given.Arn || (given.Name !== undefined && known.name === given.Name));
    if (profile === undefined) {
      throw new AwsError(
        "InvalidParameterValue",
        `Value (${given.Arn ?? given.Name ?? ""}) for parameter iamInstanceProfile is invalid. Invalid IAM Instance Profile`,
      );
    }
    return profile.arn;
  }

  // -------------------------------------------------------------- describing

  function describeInstance(record: InstanceRecord): Instance {
    const subnet = subnetOf(record.subnetId);
    const image = imageOf(record);
    const over = record.life === "terminated";
    const code = { pending: 0, running: 16, "shutting-down": 32, terminated: 48 }[record.life];
    return {
      InstanceId: record.id,
      ImageId: record.imageId,
      InstanceType: record.type as NonNullable<Instance["InstanceType"]>,
      AmiLaunchIndex: record.amiLaunchIndex,
      Architecture: image.architecture,
      ClientToken: record.token ?? "",
      State: { Code: code, Name: record.life },
      ...(record.reason === undefined ? {} : { StateReason: { Code: record.reason.code, Message: record.reason.message } }),
      StateTransitionReason:
        record.reason === undefined ? "" : `${record.reason.message.split(":")[0]} (${new Date(record.lostAtMs ?? 0).toISOString()})`,
      LaunchTime: new Date(Math.floor(record.launchedAtMs / 1000) * 1000),
      Placement: { AvailabilityZone: subnet.zone, Tenancy: "default" },
      ...(over
        ? {}
        : {
            SubnetId: record.subnetId,
            VpcId: subnet.vpcId,
            PrivateIpAddress: record.address,
            PrivateDnsName: `ip-${record.address.replaceAll(".", "-")}.${world.region}.compute.internal`,
            NetworkInterfaces: [
              {
                NetworkInterfaceId: record.interfaceId,
                SubnetId: record.subnetId,
                VpcId: subnet.vpcId,
                PrivateIpAddress: record.address,
                Groups: record.groups.map((id) => ({ GroupId: id, GroupName: state.groups.get(id)?.name ?? "" })),
                Status: "in-use" as const,
              },
            ],
            BlockDeviceMappings: record.volumes.flatMap((id) => {
              const volume = state.volumes.get(id);
              if (volume === undefined) return [];
              return [
                {
                  DeviceName: volume.device,
                  Ebs: {
                    VolumeId: id,
                    Status: "attached" as const,
                    DeleteOnTermination: volume.deleteOnTermination,
                    AttachTime: new Date(volume.createdAtMs),
                  },
                },
              ];
            }),
          }),
      SecurityGroups: over ? [] : record.groups.map((id) => ({ GroupId: id, GroupName: state.groups.get(id)?.name ?? "" })),
      ...(record.profileArn === undefined ? {} : { IamInstanceProfile: { Arn: record.profileArn } }),
      ...(record.spotRequestId === undefined ? {} : { InstanceLifecycle: "spot" as const, SpotInstanceRequestId: record.spotRequestId }),
      RootDeviceName: record.rootDeviceName,
      RootDeviceType: "ebs",
      MetadataOptions: {
        State: "applied",
        HttpTokens: "required",
        HttpPutResponseHopLimit: record.hopLimit,
        HttpEndpoint: "enabled",
        InstanceMetadataTags: "disabled",
      },
      Monitoring: { State: "disabled" },
      Tags: tagList(record.tags),
    };
  }

  function filterValues(record: InstanceRecord): Readonly<Record<string, readonly string[]>> {
    const { vpcId, zone } = subnetOf(record.subnetId);
    return {
      "instance-id": [record.id],
      "instance-state-name": [record.life],
      "client-token": record.token === undefined ? [] : [record.token],
      "instance-type": [record.type],
      "vpc-id": [vpcId],
      "subnet-id": [record.subnetId],
      "availability-zone": [zone],
      "private-ip-address": [record.address],
      "instance.group-id": record.groups,
      "network-interface.group-id": record.groups,
    };
  }

  /** Instances that could pass the filters, in launch order, without a walk over all of them where an index serves. */
  function candidates(filters: DescribeInstancesRequest["Filters"]): Iterable<InstanceRecord> {
    let found: ReadonlySet<string> | readonly string[] | undefined;
    for (const filter of filters ?? []) {
      const values = filter.Values ?? [];
      if (values.some((value) => /[*?]/.test(value))) continue;
      let here: ReadonlySet<string> | readonly string[] | undefined;
      if (filter.Name === "instance-id") here = new Set(values);
      else if (filter.Name?.startsWith("tag:")) here = tagged(filter.Name.slice(4), values);
      if (here !== undefined && (found === undefined || sizeOf(here) < sizeOf(found))) found = here;
    }
    if (found === undefined) return state.instances.values();
    return [...found]
      .map((id) => state.instances.get(id))
      .filter((record) => record !== undefined)
      .sort((a, b) => a.order - b.order);
  }

  function tagged(key: string, values: readonly string[]): ReadonlySet<string> {
    const [only, ...more] = values;
    if (only !== undefined && more.length === 0) return tagIndex.get(`${key}=${only}`) ?? new Set();
    return new Set(values.flatMap((value) => [...(tagIndex.get(`${key}=${value}`) ?? [])]));
  }

  function describeInstances(input: DescribeInstancesRequest): DescribeInstancesResult {
    const at = now();
    let records: InstanceRecord[];
    if (input.InstanceIds !== undefined && input.InstanceIds.length > 0) {
      if (input.MaxResults !== undefined) {
        throw new AwsError("InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults");
      }
      records = findAll(input.InstanceIds).filter((record) => passes(input.Filters, record.tags, filterValues(record)));
    } else {
      records = [];
      for (const record of candidates(input.Filters)) {
        if (record.visibleAtMs <= at && passes(input.Filters, record.tags, filterValues(record))) records.push(record);
      }
    }
    const size = pageSize(input.MaxResults, 5, 1000);
    const shown = page(records, (record) => record.order, { size, token: input.NextToken, badToken: "InvalidPaginationToken" });
    const reservations = new Map<string, Instance[]>();
    for (const record of shown.items) {
      const together = reservations.get(record.reservationId);
      if (together === undefined) reservations.set(record.reservationId, [describeInstance(record)]);
      else together.push(describeInstance(record));
    }
    return {
      Reservations: [...reservations].map(([ReservationId, Instances]) => ({ ReservationId, OwnerId: world.account, Groups: [], Instances })),
      ...(shown.nextToken === undefined ? {} : { NextToken: shown.nextToken }),
    };
  }

  /** Every one of these, or none: one bad id fails the whole request. */
  function findAll(wanted: readonly string[]): InstanceRecord[] {
    const malformed = wanted.filter((id) => !/^i-([0-9a-f]{8}|[0-9a-f]{17})$/.test(id));
    if (malformed.length > 0) throw new AwsError("InvalidInstanceID.Malformed", `Invalid id: "${malformed.join(", ")}"`);
    const at = now();
    const missing = wanted.filter((id) => (state.instances.get(id)?.knownAtMs ?? Number.POSITIVE_INFINITY) > at);
    if (missing.length > 0) {
      const which = missing.length === 1 ? `ID '${missing[0]}' does` : `IDs '${missing.join(", ")}' do`;
      throw new AwsError("InvalidInstanceID.NotFound", `The instance ${which} not exist`);
    }
    return wanted.map((id) => state.instances.get(id) as InstanceRecord).sort((a, b) => a.order - b.order);
  }

  function terminateInstances(input: TerminateInstancesRequest): TerminateInstancesResult {
    const records = findAll([...new Set(input.InstanceIds ?? [])]);
    const guardedZones = new Set(
      records.filter((record) => record.protected && record.life !== "terminated").map((record) => subnetOf(record.subnetId).zone),
    );
    const changes: NonNullable<TerminateInstancesResult["TerminatingInstances"]> = [];
    for (const record of records) {
      if (guardedZones.has(subnetOf(record.subnetId).zone)) continue;
      const before = describeInstance(record).State;
      if (record.life === "pending" || record.life === "running") {
        shutDown(
          record,
          { code: "Client.UserInitiatedShutdown", message: "Client.UserInitiatedShutdown: User initiated shutdown" },
          random.between(8, 35),
        );
      }
      changes.push({ InstanceId: record.id, PreviousState: before, CurrentState: describeInstance(record).State });
    }
    const guarded = records.find((record) => record.protected && guardedZones.has(subnetOf(record.subnetId).zone));
    if (guarded !== undefined) {
      // Those of the other zones are on their way out all the same (EC2 API reference, TerminateInstances).
      throw new AwsError(
        "OperationNotPermitted",
        `The instance '${guarded.id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.`,
      );
    }
    return { TerminatingInstances: changes };
  }

  // --------------------------------------------------------- security groups

  function groupById(id: string | undefined): GroupRecord {
    const group = state.groups.get(id ?? "");
    if (group === undefined) throw new AwsError("InvalidGroup.NotFound", `The security group '${id ?? ""}' does not exist`);
    return group;
  }

  function ownGroup(id: string | undefined, account: string | undefined): string {
    if (account !== undefined && account !== world.account) throw new Unmodelled(`a rule for a security group of account ${account}`);
    return groupById(id).id;
  }

  function rulesOf(group: GroupRecord, permissions: readonly IpPermission[], egress: boolean): Map<string, RuleRecord> {
    const rules = new Map<string, RuleRecord>();
    for (const permission of permissions) {
      const protocol = permission.IpProtocol ?? "";
      if (!["tcp", "udp", "icmp", "-1"].includes(protocol)) throw new Unmodelled(`security group rule for protocol ${protocol}`);
      const all = protocol === "-1";
      const fromPort = all ? undefined : permission.FromPort;
      const toPort = all ? undefined : permission.ToPort;
      if (!all && (fromPort === undefined || toPort === undefined)) {
        throw new AwsError("InvalidParameterValue", "Invalid value 'null' for portRange. Must specify both from and to ports with TCP/UDP.");
      }
      if (protocol !== "icmp" && !all && ((fromPort as number) > (toPort as number) || (fromPort as number) < 0 || (toPort as number) > 65535)) {
        throw new AwsError("InvalidParameterValue", `Invalid TCP/UDP port range (${fromPort}:${toPort})`);
      }
      const peers = [
        ...(permission.IpRanges ?? []).map((range) => ({ kind: "cidr" as const, id: checkCidr(range.CidrIp ?? ""), description: range.Description })),
        ...(permission.UserIdGroupPairs ?? []).map((pair) => ({
          kind: "group" as const,
          id: ownGroup(pair.GroupId, pair.UserId),
          description: pair.Description,
        })),
        ...(permission.PrefixListIds ?? []).map((list) => ({ kind: "prefix" as const, id: list.PrefixListId ?? "", description: list.Description })),
      ];
      if (peers.length === 0) throw new AwsError("InvalidParameterValue", "Invalid value for IpPermissions: a rule needs a source or a destination");
      for (const peer of peers) {
        const key = [egress ? "out" : "in", protocol, fromPort ?? "", toPort ?? "", peer.kind, peer.id].join(" ");
        if (rules.has(key)) throw new AwsError("InvalidParameterValue", "The same permission must not appear multiple times");
        const { kind, id, description } = peer;
        rules.set(key, { id: `sgr-0${idSource.hex("sgr", 16)}`, egress, protocol, fromPort, toPort, peer: { kind, id }, description });
      }
    }
    if (group.rules.size + rules.size > 120)
      throw new AwsError("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.");
    return rules;
  }

  function authorize(
    groupId: string | undefined,
    permissions: readonly IpPermission[] | undefined,
    egress: boolean,
  ): AuthorizeSecurityGroupIngressResult {
    const group = groupById(groupId);
    const rules = rulesOf(group, permissions ?? [], egress);
    if (rules.size === 0) throw new AwsError("MissingParameter", "The request must contain the parameter ipPermissions");
    for (const [key, rule] of rules) {
      if (!group.rules.has(key)) continue;
      const ports = rule.fromPort === undefined ? "ALL" : `from port: ${rule.fromPort}, to port: ${rule.toPort}`;
      throw new AwsError(
        "InvalidPermission.Duplicate",
        `the specified rule "peer: ${rule.peer.id}, ${rule.protocol.toUpperCase()}, ${ports}, ALLOW" already exists`,
      );
    }
    for (const [key, rule] of rules) group.rules.set(key, rule);
    return { Return: true, SecurityGroupRules: [...rules.values()].map((rule) => describeRule(group, rule)) };
  }

  function revoke(groupId: string | undefined, permissions: readonly IpPermission[] | undefined, egress: boolean): { Return: boolean } {
    const group = groupById(groupId);
    const rules = rulesOf({ ...group, rules: new Map() }, permissions ?? [], egress);
    const missing = [...rules.keys()].some((key) => !group.rules.has(key));
    if (missing) throw new AwsError("InvalidPermission.NotFound", "The specified rule does not exist in this security group.");
    for (const key of rules.keys()) group.rules.delete(key);
    return { Return: true };
  }

  function describeRule(group: GroupRecord, rule: RuleRecord) {
    return {
      SecurityGroupRuleId: rule.id,
      GroupId: group.id,
      GroupOwnerId: world.account,
      IsEgress: rule.egress,
      IpProtocol: rule.protocol,
      FromPort: rule.fromPort ?? -1,
      ToPort: rule.toPort ?? -1,
      ...(rule.peer.kind === "cidr" ? { CidrIpv4: rule.peer.id } : {}),
      ...(rule.peer.kind === "group" ? { ReferencedGroupInfo: { GroupId: rule.peer.id, UserId: world.account } } : {}),
      ...(rule.peer.kind === "prefix" ? { PrefixListId: rule.peer.id } : {}),
      ...(rule.description === undefined ? {} : { Description: rule.description }),
    };
  }

  function describePermissions(group: GroupRecord, egress: boolean): IpPermission[] {
    const together = new Map<string, IpPermission & { IpRanges: unknown[]; UserIdGroupPairs: unknown[]; PrefixListIds: unknown[] }>();
    for (const rule of group.rules.values()) {
      if (rule.egress !== egress) continue;
      const key = `${rule.protocol} ${rule.fromPort} ${rule.toPort}`;
      const entry = together.get(key) ?? {
        IpProtocol: rule.protocol,
        ...(rule.fromPort === undefined ? {} : { FromPort: rule.fromPort, ToPort: rule.toPort }),
        IpRanges: [],
        UserIdGroupPairs: [],
        PrefixListIds: [],
        Ipv6Ranges: [],
      };
      together.set(key, entry);
      const described = rule.description === undefined ? {} : { Description: rule.description };
      if (rule.peer.kind === "cidr") entry.IpRanges.push({ CidrIp: rule.peer.id, ...described });
      else if (rule.peer.kind === "group") entry.UserIdGroupPairs.push({ GroupId: rule.peer.id, UserId: world.account, ...described });
      else entry.PrefixListIds.push({ PrefixListId: rule.peer.id, ...described });
    }
    return [...together.values()];
  }

  function createSecurityGroup(input: CreateSecurityGroupRequest): CreateSecurityGroupResult {
    const vpcId = required(input.VpcId, "VpcId");
    if (!networks.has(vpcId)) throw new AwsError("InvalidVpcID.NotFound", `The vpc ID '${vpcId}' does not exist`);
    const name = required(input.GroupName, "GroupName");
    if (!/^[A-Za-z0-9 ._\-:/()#,@[\]+=&;{}!$*]{1,255}$/.test(name) || name.startsWith("sg-")) {
      throw new AwsError("InvalidParameterValue", `Invalid security group name '${name}'`);
    }
    const description = required(input.Description, "GroupDescription");
    if (!/^[A-Za-z0-9 ._\-:/()#,@[\]+=&;{}!$*]{1,255}$/.test(description)) {
      throw new AwsError(
        "InvalidParameterValue",
        `Value (${description}) for parameter GroupDescription is invalid. Character sets beyond ASCII are not supported.`,
      );
    }
    for (const group of state.groups.values()) {
      if (group.name === name && group.vpcId === vpcId) {
        throw new AwsError("InvalidGroup.Duplicate", `The security group '${name}' already exists for VPC '${vpcId}'`);
      }
    }
    const tags = tagsFor(input.TagSpecifications, "security-group");
    const group = addGroup(newId("sg"), name, description, vpcId, tags);
    return { GroupId: group.id, SecurityGroupArn: arn(world, "ec2", `security-group/${group.id}`), Tags: tagList(tags) };
  }

  function addGroup(id: string, name: string, description: string, vpcId: string, tags: Record<string, string>): GroupRecord {
    const group: GroupRecord = { id, order: nextOrder(), name, description, vpcId, rules: new Map(), tags };
    state.groups.set(group.id, group);
    authorize(group.id, [{ IpProtocol: "-1", IpRanges: [{ CidrIp: "0.0.0.0/0" }] }], true);
    return group;
  }

  function deleteSecurityGroup(input: DeleteSecurityGroupRequest): DeleteSecurityGroupResult {
    if (input.GroupName !== undefined) throw new Unmodelled("DeleteSecurityGroup by name: only groups of the default VPC have that");
    const group = groupById(input.GroupId);
    if (group.name === "default")
      throw new AwsError("CannotDelete", `the specified group: "${group.id}" name: "default" cannot be deleted by a user`);
    const used =
      [...state.interfaces.values()].some((each) => each.groups.includes(group.id)) ||
      [...state.groups.values()].some((other) => other !== group && [...other.rules.values()].some((rule) => rule.peer.id === group.id));
    if (used) throw new AwsError("DependencyViolation", `resource ${group.id} has a dependent object`);
    state.groups.delete(group.id);
    return { Return: true, GroupId: group.id };
  }

  // -------------------------------------------------------------------- tags

  /** Whatever can be tagged, by id. */
  function taggable(id: string): { kind: string; tags: Record<string, string> } {
    const prefix = id.split("-")[0];
    const [found, kind, code] = (() => {
      if (prefix === "i") return [state.instances.get(id), "instance", "InvalidInstanceID.NotFound"] as const;
      if (prefix === "vol") return [state.volumes.get(id), "volume", "InvalidVolume.NotFound"] as const;
      if (prefix === "eni") return [state.interfaces.get(id), "network-interface", "InvalidNetworkInterfaceID.NotFound"] as const;
      if (prefix === "sg") return [state.groups.get(id), "security-group", "InvalidGroup.NotFound"] as const;
      throw new Unmodelled(`tags of ${id}`);
    })();
    if (found === undefined || (kind === "instance" && (found as InstanceRecord).knownAtMs > now())) {
      throw new AwsError(code, `The ID '${id}' does not exist`);
    }
    return { kind, tags: found.tags };
  }

  function createTags(input: CreateTagsRequest): Record<string, never> {
    const tags = checkTags(input.Tags);
    const targets = (input.Resources ?? []).map((id) => ({ id, ...taggable(id) }));
    for (const target of targets) {
      if (Object.keys({ ...target.tags, ...tags }).length > 50)
        throw new AwsError("TagLimitExceeded", `The tag limit of 50 is exceeded for ${target.id}`);
    }
    for (const target of targets) {
      const record = state.instances.get(target.id);
      if (record !== undefined) unindexTags(record);
      Object.assign(target.tags, tags);
      if (record !== undefined) indexTags(record);
    }
    return {};
  }

  function* allTags(): Generator<{ resource: string; kind: string; key: string; value: string; tags: Record<string, string> }> {
    const all = [
      ["instance", state.instances],
      ["volume", state.volumes],
      ["network-interface", state.interfaces],
      ["security-group", state.groups],
    ] as const;
    for (const [kind, records] of all) {
      for (const record of records.values()) {
        if (kind === "instance" && (record as InstanceRecord).visibleAtMs > now()) continue;
        for (const [key, value] of Object.entries(record.tags)) yield { resource: record.id, kind, key, value, tags: record.tags };
      }
    }
  }

  function describeTags(input: DescribeTagsRequest): DescribeTagsResult {
    const found: { Key: string; Value: string; ResourceId: string; ResourceType: never; order: number }[] = [];
    let order = 0;
    for (const tag of allTags()) {
      order++;
      const hit = (input.Filters ?? []).every((filter) => {
        const wanted = filter.Values ?? [];
        switch (filter.Name) {
          case "resource-id":
            return meets(tag.resource, wanted);
          case "resource-type":
            return meets(tag.kind, wanted);
          case "key":
            return meets(tag.key, wanted);
          case "value":
            return meets(tag.value, wanted);
          default: {
            if (!filter.Name?.startsWith("tag:")) throw new Unmodelled(`DescribeTags filter ${filter.Name}`);
            return filter.Name.slice(4) === tag.key && meets(tag.value, wanted);
          }
        }
      });
      if (hit) found.push({ Key: tag.key, Value: tag.value, ResourceId: tag.resource, ResourceType: tag.kind as never, order });
    }
    const shown = page(found, (tag) => tag.order, {
      size: pageSize(input.MaxResults, 5, 1000),
      token: input.NextToken,
      badToken: "InvalidPaginationToken",
    });
    return { Tags: shown.items.map(({ order: _, ...tag }) => tag), ...(shown.nextToken === undefined ? {} : { NextToken: shown.nextToken }) };
  }

  // -------------------------------------------------------------- operations

  const filterFields = ["Filters.Name", "Filters.Values", "MaxResults", "NextToken"];
  const tagFields = ["TagSpecifications.ResourceType", "TagSpecifications.Tags.Key", "TagSpecifications.Tags.Value"];
  const permissionFields = [
    "IpPermissions.IpProtocol",
    "IpPermissions.FromPort",
    "IpPermissions.ToPort",
    "IpPermissions.IpRanges.CidrIp",
    "IpPermissions.IpRanges.Description",
    "IpPermissions.UserIdGroupPairs.GroupId",
    "IpPermissions.UserIdGroupPairs.UserId",
    "IpPermissions.UserIdGroupPairs.Description",
    "IpPermissions.PrefixListIds.PrefixListId",
    "IpPermissions.PrefixListIds.Description",
  ];
  const groupArn = (id: string) => arn(world, "ec2", `security-group/${id}`);
  const groupPermission = (action: string) => (input: { GroupId?: string | undefined }) =>
    allow(`ec2:${action}`, [groupArn(input.GroupId ?? "*")], groupContext(input.GroupId));
  const groupContext = (id: string | undefined) => {
    const group = state.groups.get(id ?? "");
    return group === undefined ? {} : { ...resourceTagContext("ec2", group.tags), "ec2:Vpc": arn(world, "ec2", `vpc/${group.vpcId}`) };
  };

  function runPermissions(input: RunInstancesRequest): Permission[] {
    const type = input.InstanceType === undefined ? {} : { "ec2:InstanceType": input.InstanceType };
    const profileArn = input.IamInstanceProfile?.Arn;
    const profile = [...profiles.values()].find((known) => known.arn === profileArn || known.name === input.IamInstanceProfile?.Name);
    const options = {
      ...type,
      ...(profile === undefined ? {} : { "ec2:InstanceProfile": profile.arn }),
      "ec2:MetadataHttpTokens": input.MetadataOptions?.HttpTokens ?? "optional",
      "ec2:MetadataHttpPutResponseHopLimit": String(input.MetadataOptions?.HttpPutResponseHopLimit ?? 1),
    };
    const network = input.NetworkInterfaces?.[0];
    const subnetId = input.SubnetId ?? network?.SubnetId;
    const groups = input.SecurityGroupIds ?? network?.Groups ?? [];
    const subnetTags = subnetIndex.get(subnetId ?? "")?.tags ?? {};
    const isEncrypted = (input.BlockDeviceMappings ?? []).every((mapping) => mapping.Ebs?.Encrypted === true);
    const volume = { "ec2:Encrypted": String(isEncrypted && input.BlockDeviceMappings !== undefined) };
    const made = {
      instance: "instance/*",
      volume: "volume/*",
      "network-interface": "network-interface/*",
      "spot-instances-request": "spot-instances-request/*",
    };
    const needed: Permission[] = [];
    for (const [kind, resource] of Object.entries(made)) {
      if (kind === "spot-instances-request" && input.InstanceMarketOptions?.MarketType !== "spot") continue;
      const tags = Object.assign(
        {},
        ...(input.TagSpecifications ?? []).filter((each) => each.ResourceType === kind).map((each) => tagRecord(each.Tags)),
      );
      const context = { ...requestTagContext(tags), ...(kind === "instance" ? options : kind === "volume" ? volume : {}) };
      needed.push(...allow("ec2:RunInstances", [arn(world, "ec2", resource)], context));
      if (Object.keys(tags).length > 0) {
        needed.push(...allow("ec2:CreateTags", [arn(world, "ec2", resource)], { ...requestTagContext(tags), "ec2:CreateAction": "RunInstances" }));
      }
    }
    needed.push(
      ...allow("ec2:RunInstances", [`arn:${world.partition}:ec2:${world.region}::image/${input.ImageId ?? ""}`], {
        "ec2:Owner": images.get(input.ImageId ?? "")?.owner ?? "",
      }),
    );
    if (subnetId !== undefined)
      needed.push(...allow("ec2:RunInstances", [arn(world, "ec2", `subnet/${subnetId}`)], resourceTagContext("ec2", subnetTags)));
    for (const group of groups) needed.push(...allow("ec2:RunInstances", [groupArn(group)], groupContext(group)));
    if (profile !== undefined) needed.push(...allow("iam:PassRole", [profile.roleArn], { "iam:PassedToService": "ec2.amazonaws.com" }));
    for (const mapping of input.BlockDeviceMappings ?? []) {
      const key = mapping.Ebs?.KmsKeyId;
      if (key === undefined) continue;
      // At AWS the launch answers 200 and the instance dies with Client.InternalError; refused here at once, which is easier to find.
      needed.push(...volumePermissions(key, world.region));
    }
    return needed;
  }

  const operations = {
    RunInstances: operation<RunInstancesRequest, Reservation>("RunInstances", {
      fields: fields(
        "ClientToken",
        "MinCount",
        "MaxCount",
        "ImageId",
        "InstanceType",
        "SubnetId",
        "SecurityGroupIds",
        "DryRun",
        "DisableApiTermination",
        "InstanceInitiatedShutdownBehavior",
        "EbsOptimized",
        "UserData",
        "Placement.AvailabilityZone",
        "IamInstanceProfile.Arn",
        "IamInstanceProfile.Name",
        "MetadataOptions.HttpTokens",
        "MetadataOptions.HttpPutResponseHopLimit",
        "MetadataOptions.HttpEndpoint",
        "MetadataOptions.InstanceMetadataTags",
        "BlockDeviceMappings.DeviceName",
        ...["VolumeSize", "VolumeType", "Encrypted", "KmsKeyId", "DeleteOnTermination", "Iops", "Throughput"].map(
          (name) => `BlockDeviceMappings.Ebs.${name}`,
        ),
        ...["DeviceIndex", "SubnetId", "Groups", "AssociatePublicIpAddress", "DeleteOnTermination"].map((name) => `NetworkInterfaces.${name}`),
        "InstanceMarketOptions.MarketType",
        "InstanceMarketOptions.SpotOptions.SpotInstanceType",
        "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior",
        ...tagFields,
      ),
      mutates: true,
      latency: "runInstancesCall",
      permissions: runPermissions,
      call: runInstances,
    }),
    TerminateInstances: operation<TerminateInstancesRequest, TerminateInstancesResult>("TerminateInstances", {
      fields: ["InstanceIds"],
      mutates: true,
      permissions: (input) =>
        (input.InstanceIds ?? []).flatMap((id) =>
          allow("ec2:TerminateInstances", [instanceArn(id)], resourceTagContext("ec2", state.instances.get(id)?.tags ?? {})),
        ),
      call: terminateInstances,
    }),
    DescribeInstances: operation<DescribeInstancesRequest, DescribeInstancesResult>("DescribeInstances", {
      fields: fields("InstanceIds", ...filterFields),
      mutates: false,
      call: describeInstances,
    }),
    DescribeSubnets: operation<DescribeSubnetsRequest, DescribeSubnetsResult>("DescribeSubnets", {
      fields: fields("SubnetIds", ...filterFields),
      mutates: false,
      call: (input) => {
        for (const id of input.SubnetIds ?? []) subnetOf(id);
        const all = [...subnetIndex.values()].filter(
          (subnet) =>
            (input.SubnetIds === undefined || input.SubnetIds.length === 0 || input.SubnetIds.includes(subnet.id)) &&
            passes(input.Filters, subnet.tags, { "subnet-id": [subnet.id], "vpc-id": [subnet.vpcId], "availability-zone": [subnet.zone] }),
        );
        const shown = paged(all, input);
        return {
          Subnets: shown.items.map((subnet) => ({
            SubnetId: subnet.id,
            SubnetArn: arn(world, "ec2", `subnet/${subnet.id}`),
            VpcId: subnet.vpcId,
            CidrBlock: subnet.cidr,
            AvailabilityZone: subnet.zone,
            AvailableIpAddressCount: freeAddresses(subnet.id),
            State: "available" as const,
            DefaultForAz: false,
            MapPublicIpOnLaunch: false,
            OwnerId: world.account,
            Tags: tagList(subnet.tags),
          })),
          ...shown.more,
        };
      },
    }),
    DescribeVpcs: operation<DescribeVpcsRequest, DescribeVpcsResult>("DescribeVpcs", {
      fields: fields("VpcIds", ...filterFields),
      mutates: false,
      call: (input) => {
        for (const id of input.VpcIds ?? []) {
          if (!networks.has(id)) throw new AwsError("InvalidVpcID.NotFound", `The vpc ID '${id}' does not exist`);
        }
        const all = [...networks.values()].filter(
          (network) =>
            (input.VpcIds === undefined || input.VpcIds.length === 0 || input.VpcIds.includes(network.vpcId)) &&
            passes(input.Filters, network.tags ?? {}, { "vpc-id": [network.vpcId], cidr: [network.cidr] }),
        );
        const shown = paged(all, input);
        return {
          Vpcs: shown.items.map((network) => ({
            VpcId: network.vpcId,
            CidrBlock: network.cidr,
            State: "available" as const,
            IsDefault: false,
            OwnerId: world.account,
            Tags: tagList(network.tags ?? {}),
          })),
          ...shown.more,
        };
      },
    }),
    DescribeImages: operation<DescribeImagesRequest, DescribeImagesResult>("DescribeImages", {
      fields: fields("ImageIds", "Owners", ...filterFields),
      mutates: false,
      call: (input) => {
        const missing = (input.ImageIds ?? []).filter((id) => !images.has(id));
        if (missing.some((id) => !/^ami-([0-9a-f]{8}|[0-9a-f]{17})$/.test(id)))
          throw new AwsError("InvalidAMIID.Malformed", `Invalid id: "${missing.join(", ")}"`);
        if (missing.length > 0) throw new AwsError("InvalidAMIID.NotFound", `The image id '[${missing.join(", ")}]' does not exist`);
        const aliases: Readonly<Record<string, string>> = { amazon: "137112412989" };
        const all = [...images.values()].filter(
          (image) =>
            (input.ImageIds === undefined || input.ImageIds.length === 0 || input.ImageIds.includes(image.id)) &&
            (input.Owners === undefined || input.Owners.length === 0 || input.Owners.some((owner) => (aliases[owner] ?? owner) === image.owner)) &&
            passes(input.Filters, {}, { name: [image.name], architecture: [image.architecture], "image-id": [image.id], state: ["available"] }),
        );
        const shown = paged(all, input);
        return {
          Images: shown.items.map((image) => ({
            ImageId: image.id,
            Name: image.name,
            OwnerId: image.owner,
            Architecture: image.architecture,
            State: "available" as const,
            RootDeviceName: image.rootDeviceName,
            RootDeviceType: "ebs" as const,
            VirtualizationType: "hvm" as const,
            EnaSupport: true,
            Public: true,
            ImageType: "machine" as const,
            PlatformDetails: "Linux/UNIX",
            BlockDeviceMappings: [
              {
                DeviceName: image.rootDeviceName,
                Ebs: { VolumeSize: image.rootVolumeGib, VolumeType: "gp3" as const, DeleteOnTermination: true, Encrypted: false },
              },
            ],
          })),
          ...shown.more,
        };
      },
    }),
    DescribeInstanceTypes: operation<DescribeInstanceTypesRequest, DescribeInstanceTypesResult>("DescribeInstanceTypes", {
      fields: fields("InstanceTypes", ...filterFields),
      mutates: false,
      call: (input) => {
        const wanted = (input.InstanceTypes ?? []) as readonly string[];
        const unknown = wanted.filter((name) => !instanceTypes.has(name));
        if (unknown.length > 0)
          throw new AwsError("InvalidInstanceType", `The following supplied instance types do not exist: [${unknown.join(", ")}]`);
        const all = [...instanceTypes.values()].filter(
          (type) =>
            (wanted.length === 0 || wanted.includes(type.name)) &&
            passes(
              input.Filters,
              {},
              {
                "instance-type": [type.name],
                "processor-info.supported-architecture": [type.architecture],
                "current-generation": [String(type.currentGeneration)],
              },
            ),
        );
        const shown = paged(all, input, 100);
        return {
          InstanceTypes: shown.items.map((type) => ({
            InstanceType: type.name as NonNullable<Instance["InstanceType"]>,
            CurrentGeneration: type.currentGeneration,
            BareMetal: false,
            BurstablePerformanceSupported: type.burstable,
            SupportedUsageClasses: ["on-demand" as const, "spot" as const],
            ProcessorInfo: { SupportedArchitectures: [type.architecture] },
            VCpuInfo: { DefaultVCpus: type.vcpus },
            MemoryInfo: { SizeInMiB: type.memoryMib },
          })),
          ...shown.more,
        };
      },
    }),
    DescribeInstanceTypeOfferings: operation<DescribeInstanceTypeOfferingsRequest, DescribeInstanceTypeOfferingsResult>(
      "DescribeInstanceTypeOfferings",
      {
        fields: fields("LocationType", ...filterFields),
        mutates: false,
        call: (input) => {
          const kind = input.LocationType ?? "region";
          if (kind !== "region" && kind !== "availability-zone") throw new Unmodelled(`instance type offerings by ${kind}`);
          const all = [...instanceTypes.values()]
            .flatMap((type) =>
              (kind === "region" ? [world.region] : [...type.zones].map((letter) => `${world.region}${letter}`)).map((location) => ({
                type,
                location,
              })),
            )
            .filter(({ type, location }) => passes(input.Filters, {}, { "instance-type": [type.name], location: [location] }));
          const shown = paged(all, input);
          return {
            InstanceTypeOfferings: shown.items.map(({ type, location }) => ({
              InstanceType: type.name as NonNullable<Instance["InstanceType"]>,
              LocationType: kind,
              Location: location,
            })),
            ...shown.more,
          };
        },
      },
    ),
    CreateSecurityGroup: operation<CreateSecurityGroupRequest, CreateSecurityGroupResult>("CreateSecurityGroup", {
      fields: fields("GroupName", "Description", "VpcId", ...tagFields),
      mutates: true,
      permissions: (input) => {
        const tags = Object.assign({}, ...(input.TagSpecifications ?? []).map((each) => tagRecord(each.Tags)));
        const vpc = arn(world, "ec2", `vpc/${input.VpcId ?? ""}`);
        return [
          ...allow("ec2:CreateSecurityGroup", [arn(world, "ec2", "security-group/*")], { ...requestTagContext(tags), "ec2:Vpc": vpc }),
          ...allow("ec2:CreateSecurityGroup", [vpc], resourceTagContext("ec2", networks.get(input.VpcId ?? "")?.tags ?? {})),
          ...(Object.keys(tags).length === 0
            ? []
            : allow("ec2:CreateTags", [arn(world, "ec2", "security-group/*")], {
                ...requestTagContext(tags),
                "ec2:CreateAction": "CreateSecurityGroup",
              })),
        ];
      },
      call: createSecurityGroup,
    }),
    AuthorizeSecurityGroupIngress: operation<AuthorizeSecurityGroupIngressRequest, AuthorizeSecurityGroupIngressResult>(
      "AuthorizeSecurityGroupIngress",
      {
        fields: fields("GroupId", ...permissionFields),
        mutates: true,
        permissions: groupPermission("AuthorizeSecurityGroupIngress"),
        call: (input) => authorize(input.GroupId, input.IpPermissions, false),
      },
    ),
    AuthorizeSecurityGroupEgress: operation<AuthorizeSecurityGroupEgressRequest, AuthorizeSecurityGroupEgressResult>("AuthorizeSecurityGroupEgress", {
      fields: fields("GroupId", ...permissionFields),
      mutates: true,
      permissions: groupPermission("AuthorizeSecurityGroupEgress"),
      call: (input) => authorize(input.GroupId, input.IpPermissions, true),
    }),
    RevokeSecurityGroupIngress: operation<RevokeSecurityGroupIngressRequest, RevokeSecurityGroupIngressResult>("RevokeSecurityGroupIngress", {
      fields: fields("GroupId", ...permissionFields),
      mutates: true,
      permissions: groupPermission("RevokeSecurityGroupIngress"),
      call: (input) => revoke(input.GroupId, input.IpPermissions, false),
    }),
    RevokeSecurityGroupEgress: operation<RevokeSecurityGroupEgressRequest, RevokeSecurityGroupEgressResult>("RevokeSecurityGroupEgress", {
      fields: fields("GroupId", ...permissionFields),
      mutates: true,
      permissions: groupPermission("RevokeSecurityGroupEgress"),
      call: (input) => revoke(input.GroupId, input.IpPermissions, true),
    }),
    DescribeSecurityGroups: operation<DescribeSecurityGroupsRequest, DescribeSecurityGroupsResult>("DescribeSecurityGroups", {
      fields: fields("GroupIds", ...filterFields),
      mutates: false,
      call: (input) => {
        for (const id of input.GroupIds ?? []) groupById(id);
        const all = [...state.groups.values()].filter(
          (group) =>
            (input.GroupIds === undefined || input.GroupIds.length === 0 || input.GroupIds.includes(group.id)) &&
            passes(input.Filters, group.tags, {
              "group-name": [group.name],
              "group-id": [group.id],
              "vpc-id": [group.vpcId],
              description: [group.description],
            }),
        );
        const shown = page(all, (group) => group.order, {
          size: pageSize(input.MaxResults, 5, 1000),
          token: input.NextToken,
          badToken: "InvalidPaginationToken",
        });
        return {
          SecurityGroups: shown.items.map((group) => ({
            GroupId: group.id,
            GroupName: group.name,
            Description: group.description,
            VpcId: group.vpcId,
            OwnerId: world.account,
            SecurityGroupArn: groupArn(group.id),
            IpPermissions: describePermissions(group, false),
            IpPermissionsEgress: describePermissions(group, true),
            Tags: tagList(group.tags),
          })),
          ...(shown.nextToken === undefined ? {} : { NextToken: shown.nextToken }),
        };
      },
    }),
    DeleteSecurityGroup: operation<DeleteSecurityGroupRequest, DeleteSecurityGroupResult>("DeleteSecurityGroup", {
      fields: ["GroupId", "GroupName"],
      mutates: true,
      permissions: groupPermission("DeleteSecurityGroup"),
      call: deleteSecurityGroup,
    }),
    DescribeNetworkInterfaces: operation<DescribeNetworkInterfacesRequest, DescribeNetworkInterfacesResult>("DescribeNetworkInterfaces", {
      fields: fields("NetworkInterfaceIds", ...filterFields),
      mutates: false,
      call: (input) => {
        for (const id of input.NetworkInterfaceIds ?? []) {
          if (!state.interfaces.has(id)) throw new AwsError("InvalidNetworkInterfaceID.NotFound", `The networkInterface ID '${id}' does not exist`);
        }
        const all = [...state.interfaces.values()].filter(
          (each) =>
            (input.NetworkInterfaceIds === undefined || input.NetworkInterfaceIds.length === 0 || input.NetworkInterfaceIds.includes(each.id)) &&
            passes(input.Filters, each.tags, {
              "group-id": each.groups,
              "network-interface-id": [each.id],
              "subnet-id": [each.subnetId],
              "vpc-id": [subnetOf(each.subnetId).vpcId],
              description: [each.description],
              "attachment.instance-id": each.managed ? [] : [each.owner],
              status: ["in-use"],
              "requester-managed": [String(each.managed)],
            }),
        );
        const shown = page(all, (each) => each.order, {
          size: pageSize(input.MaxResults, 5, 1000),
          token: input.NextToken,
          badToken: "InvalidPaginationToken",
        });
        return {
          NetworkInterfaces: shown.items.map((each) => ({
            NetworkInterfaceId: each.id,
            SubnetId: each.subnetId,
            VpcId: subnetOf(each.subnetId).vpcId,
            AvailabilityZone: subnetOf(each.subnetId).zone,
            PrivateIpAddress: each.address,
            Description: each.description,
            Status: "in-use" as const,
            InterfaceType: each.managed ? ("network_load_balancer" as const) : ("interface" as const),
            RequesterManaged: each.managed,
            OwnerId: world.account,
            Groups: each.groups.map((id) => ({ GroupId: id, GroupName: state.groups.get(id)?.name ?? "" })),
            ...(each.managed
              ? {}
              : { Attachment: { InstanceId: each.owner, DeviceIndex: 0, Status: "attached" as const, DeleteOnTermination: true } }),
            TagSet: tagList(each.tags),
          })),
          ...(shown.nextToken === undefined ? {} : { NextToken: shown.nextToken }),
        };
      },
    }),
    DescribeVolumes: operation<DescribeVolumesRequest, DescribeVolumesResult>("DescribeVolumes", {
      fields: fields("VolumeIds", ...filterFields),
      mutates: false,
      call: (input) => {
        for (const id of input.VolumeIds ?? []) volumeById(id);
        const all = [...state.volumes.values()].filter(
          (volume) =>
            (input.VolumeIds === undefined || input.VolumeIds.length === 0 || input.VolumeIds.includes(volume.id)) &&
            passes(input.Filters, volume.tags, {
              "volume-id": [volume.id],
              status: [volume.instanceId === undefined ? "available" : "in-use"],
              "attachment.instance-id": volume.instanceId === undefined ? [] : [volume.instanceId],
              "availability-zone": [volume.zone],
            }),
        );
        const shown = page(all, (volume) => volume.order, {
          size: pageSize(input.MaxResults, 5, 1000),
          token: input.NextToken,
          badToken: "InvalidPaginationToken",
        });
        return {
          Volumes: shown.items.map((volume) => ({
            VolumeId: volume.id,
            Size: volume.sizeGib,
            VolumeType: volume.type as "gp3",
            Iops: volume.iops,
            Throughput: volume.throughput,
            Encrypted: volume.encrypted,
            ...(volume.kmsKeyId === undefined ? {} : { KmsKeyId: volume.kmsKeyId }),
            AvailabilityZone: volume.zone,
            CreateTime: new Date(volume.createdAtMs),
            State: volume.instanceId === undefined ? ("available" as const) : ("in-use" as const),
            Attachments:
              volume.instanceId === undefined
                ? []
                : [
                    {
                      InstanceId: volume.instanceId,
                      VolumeId: volume.id,
                      Device: volume.device,
                      State: "attached" as const,
                      DeleteOnTermination: volume.deleteOnTermination,
                    },
                  ],
            Tags: tagList(volume.tags),
          })),
          ...(shown.nextToken === undefined ? {} : { NextToken: shown.nextToken }),
        };
      },
    }),
    DeleteVolume: operation<DeleteVolumeRequest, Record<string, never>>("DeleteVolume", {
      fields: ["VolumeId"],
      mutates: true,
      permissions: (input) =>
        allow(
          "ec2:DeleteVolume",
          [arn(world, "ec2", `volume/${input.VolumeId ?? ""}`)],
          resourceTagContext("ec2", state.volumes.get(input.VolumeId ?? "")?.tags ?? {}),
        ),
      call: (input) => {
        const volume = volumeById(input.VolumeId ?? "");
        if (volume.instanceId !== undefined) throw new AwsError("VolumeInUse", `Volume ${volume.id} is currently attached to ${volume.instanceId}`);
        state.volumes.delete(volume.id);
        return {};
      },
    }),
    CreateTags: operation<CreateTagsRequest, Record<string, never>>("CreateTags", {
      fields: fields("Resources", "Tags.Key", "Tags.Value"),
      mutates: true,
      permissions: (input) =>
        (input.Resources ?? []).flatMap((id) => {
          const kinds: Readonly<Record<string, string>> = { i: "instance", vol: "volume", eni: "network-interface", sg: "security-group" };
          const owner = state.instances.get(id) ?? state.volumes.get(id) ?? state.interfaces.get(id) ?? state.groups.get(id);
          return allow("ec2:CreateTags", [arn(world, "ec2", `${kinds[id.split("-")[0] ?? ""] ?? "*"}/${id}`)], {
            ...requestTagContext(tagRecord(input.Tags)),
            ...resourceTagContext("ec2", owner?.tags ?? {}),
          });
        }),
      call: createTags,
    }),
    DescribeTags: operation<DescribeTagsRequest, DescribeTagsResult>("DescribeTags", {
      fields: fields(...filterFields),
      mutates: false,
      call: describeTags,
    }),
  };

  function volumeById(id: string): VolumeRecord {
    const volume = state.volumes.get(id);
    if (volume === undefined) throw new AwsError("InvalidVolume.NotFound", `The volume '${id}' does not exist.`);
    return volume;
  }

  /** Pages of what never changes its order: the place in the list is the key. */
  function paged<T>(all: readonly T[], input: { MaxResults?: number | undefined; NextToken?: string | undefined }, defaultSize?: number) {
    const numbered = all.map((item, order) => ({ item, order }));
    const size = pageSize(input.MaxResults, 5, 1000) ?? defaultSize;
    const shown = page(numbered, (each) => each.order, { size, token: input.NextToken, badToken: "InvalidPaginationToken" });
    return { items: shown.items.map((each) => each.item), more: shown.nextToken === undefined ? {} : { NextToken: shown.nextToken } };
  }

  function addNetwork(network: Network): void {
    networks.set(network.vpcId, network);
    for (const subnet of network.subnets) subnetIndex.set(subnet.id, { ...subnet, vpcId: network.vpcId, tags: subnet.tags ?? {} });
    if (![...state.groups.values()].some((group) => group.vpcId === network.vpcId && group.name === "default")) {
      addGroup(newId("sg"), "default", "default VPC security group", network.vpcId, {});
    }
  }

  addNetwork(fixtureNetwork(world.region));

  return {
    name: "ec2",
    operations,
    throttle: { code: "RequestLimitExceeded", httpStatus: 503 },
    save: () => structuredClone({ ...state, idsGiven: idSource.given }),
    load(saved) {
      state = structuredClone(saved) as State;
      idSource = new Ids(state.idSeed, state.idsGiven);
      tagIndex.clear();
      runningVcpus = 0;
      releasing.clear();
      for (const record of state.interfaces.values()) if (record.goneAtMs !== undefined) releasing.add(record.id);
      for (const record of state.instances.values()) {
        indexTags(record);
        if (record.life !== "terminated") runningVcpus += typeOf(record).vcpus;
      }
      gone = [...state.instances.values()]
        .filter((record) => record.life === "terminated")
        .sort((a, b) => (a.terminatedAtMs ?? 0) - (b.terminatedAtMs ?? 0))
        .map((record) => record.id);
    },
    instance: (id) => {
      const record = state.instances.get(id);
      return record === undefined ? undefined : factsOf(record);
    },
    instancesTagged: (key, values) =>
      [...tagged(key, values)]
        .map((id) => state.instances.get(id) as InstanceRecord)
        .sort((a, b) => a.order - b.order)
        .map((record) => record.id),
    living: () => [...state.instances.values()].filter((record) => record.life !== "terminated").map(factsOf),
    lose: (id, reason) => {
      const record = state.instances.get(id);
      if (record !== undefined) shutDown(record, { code: "Server.InternalError", message: `Server.InternalError: ${reason}` }, 5);
    },
    subnet: (id) => subnetIndex.get(id),
    hasVpc: (id) => networks.has(id),
    hasSecurityGroup: (id) => state.groups.has(id),
    addManagedInterfaces: (owner, description, subnetIds, groups) =>
      subnetIds.map((subnetId) => {
        const address = takeAddress(subnetId);
        if (address === undefined)
          throw new AwsError(
            "InvalidSubnet",
            `Not enough IP space available in ${subnetId}. ELB requires at least 8 free IP addresses in each subnet.`,
          );
        const record: InterfaceRecord = {
          id: newId("eni"),
          order: nextOrder(),
          subnetId,
          address,
          groups,
          description,
          owner,
          managed: true,
          tags: {},
        };
        state.interfaces.set(record.id, record);
        return record.id;
      }),
    managedInterfaces: (owner) =>
      [...state.interfaces.values()]
        .filter((record) => record.managed && record.owner === owner && record.goneAtMs === undefined)
        .map(({ subnetId, address }) => ({ subnetId, address })),
    releaseManagedInterfaces: (owner, afterSeconds) => {
      for (const record of state.interfaces.values()) {
        if (record.owner !== owner || !record.managed) continue;
        record.goneAtMs = now() + afterSeconds * seconds;
        releasing.add(record.id);
      }
    },
    addInstanceProfile: (profile) => profiles.set(profile.arn, profile),
    addNetwork,
  };
}

// ---------------------------------------------------------------- requests

interface Disk {
  readonly device: string;
  readonly sizeGib: number;
  readonly type: string;
  readonly iops: number;
  readonly throughput: number;
  readonly encrypted: boolean;
  readonly kmsKeyId: string | undefined;
  readonly deleteOnTermination: boolean;
}

/** The root volume, changed where a mapping names the image's own root device, and a volume for every other name. */
function disksOf(input: RunInstancesRequest, image: ImageModel): Disk[] {
  const root = disk(image.rootDeviceName, { VolumeSize: image.rootVolumeGib }, image.rootVolumeGib);
  const disks = new Map<string, Disk>([[root.device, root]]);
  for (const mapping of input.BlockDeviceMappings ?? []) {
    const device = required(mapping.DeviceName, "BlockDeviceMapping.DeviceName");
    disks.set(device, disk(device, mapping.Ebs ?? {}, device === root.device ? image.rootVolumeGib : 1));
  }
  return [...disks.values()];
}

function disk(device: string, ebs: NonNullable<NonNullable<RunInstancesRequest["BlockDeviceMappings"]>[number]["Ebs"]>, leastGib: number): Disk {
  const sizeGib = ebs.VolumeSize ?? leastGib;
  if (sizeGib < leastGib) {
    throw new AwsError("InvalidBlockDeviceMapping", `Volume of size ${sizeGib}GB is smaller than snapshot, expect size >= ${leastGib}GB`);
  }
  const type = ebs.VolumeType ?? "gp3";
  if (type !== "gp3") throw new Unmodelled(`volume type ${type}`);
  if (ebs.KmsKeyId !== undefined && ebs.Encrypted === false)
    throw new AwsError("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.");
  return {
    device,
    sizeGib,
    type,
    iops: ebs.Iops ?? 3000,
    throughput: ebs.Throughput ?? 125,
    encrypted: ebs.Encrypted ?? false,
    kmsKeyId: ebs.KmsKeyId,
    deleteOnTermination: ebs.DeleteOnTermination ?? true,
  };
}

/** The account enforces IMDSv2: a launch that leaves the tokens open is refused, as with the account's own setting at AWS. */
function checkMetadata(input: RunInstancesRequest): void {
  if (input.MetadataOptions?.HttpTokens !== "required") {
    throw new AwsError(
      "UnsupportedOperation",
      "You can't launch instances with IMDSv1 because httpTokensEnforced is enabled for this account. Specify HttpTokens: required.",
    );
  }
  const hops = input.MetadataOptions.HttpPutResponseHopLimit ?? 1;
  if (!(hops >= 1 && hops <= 64))
    throw new AwsError("InvalidParameterValue", `Value (${hops}) for parameter HttpPutResponseHopLimit is invalid: 1 to 64`);
  if (input.MetadataOptions.InstanceMetadataTags === "enabled") throw new Unmodelled("instance tags in metadata");
  if (input.MetadataOptions.HttpEndpoint === "disabled") throw new Unmodelled("instances without a metadata endpoint");
}

function checkUserData(userData: string | undefined): void {
  if (userData !== undefined && Buffer.from(userData, "base64").length > 16_384) {
    throw new AwsError("InvalidParameterValue", "User data is limited to 16384 bytes");
  }
}

function checkTags(list: TagSpecification["Tags"]): Record<string, string> {
  for (const { Key: key = "", Value: value = "" } of list ?? []) {
    if (key === "" || key.length > 128 || value.length > 256)
      throw new AwsError("InvalidParameterValue", `Tag '${key}' is invalid: keys have 1 to 128 characters, values at most 256`);
    if (key.toLowerCase().startsWith("aws:"))
      throw new AwsError("InvalidParameterValue", `Tag keys starting with 'aws:' are reserved for internal use: '${key}'`);
  }
  if ((list ?? []).length > 50) throw new AwsError("TagLimitExceeded", "The maximum number of tags per resource is 50");
  return tagRecord(list);
}

/** Everything about a launch but its token: what must be the same for the token to be the same launch. */
function parametersHash(input: RunInstancesRequest): string {
  return createHash("sha256")
    .update(canonical({ ...input, ClientToken: undefined }))
    .digest("hex");
}

function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value).filter(([, member]) => member !== undefined);
    return `{${members
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, member]) => `${key}:${canonical(member)}`)
      .join(",")}}`;
  }
  return JSON.stringify(value) ?? "";
}

function required<T>(value: T | undefined, name: string): T {
  if (value === undefined || value === "") throw new AwsError("MissingParameter", `The request must contain the parameter ${name}`);
  return value;
}

function pageSize(asked: number | undefined, least: number, most: number): number | undefined {
  if (asked === undefined) return undefined;
  if (!(asked >= least && asked <= most))
    throw new AwsError(
      "InvalidParameterValue",
      `Value ( ${asked} ) for parameter maxResults is invalid. Expecting a value between ${least} and ${most}.`,
    );
  return asked;
}

const sizeOf = (set: ReadonlySet<string> | readonly string[]) => ("size" in set ? set.size : set.length);

function parseAddress(address: string): number {
  return address.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
}

function formatAddress(value: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join(".");
}

const ranges = new Map<string, { first: number; size: number }>();
function rangeOf(cidr: string): { readonly first: number; readonly size: number } {
  let range = ranges.get(cidr);
  if (range === undefined) {
    const [address = "", bits = ""] = cidr.split("/");
    range = { first: parseAddress(address), size: 2 ** (32 - Number(bits)) };
    ranges.set(cidr, range);
  }
  return range;
}

function checkCidr(cidr: string): string {
  const [, address, bits] = /^((?:\d{1,3}\.){3}\d{1,3})\/(\d{1,2})$/.exec(cidr) ?? [];
  const valid = address !== undefined && address.split(".").every((part) => Number(part) < 256) && Number(bits) <= 32;
  if (!valid) throw new AwsError("InvalidParameterValue", `CIDR block ${cidr} is malformed`);
  return cidr;
}
