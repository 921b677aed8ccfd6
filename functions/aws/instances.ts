/** EC2: instances, and the network and images they need. Reads are paginated; launches carry client tokens. */
import {
  DescribeImagesCommand,
  DescribeInstancesCommand,
  DescribeInstanceTypesCommand,
  DescribeSubnetsCommand,
  EC2Client,
  type Instance,
  RunInstancesCommand,
  TerminateInstancesCommand,
} from "@aws-sdk/client-ec2";
import { type drillRole, tags } from "../../core/layout.js";
import { isDrill, type ObservedInstance, observedFromTags } from "../../core/nodes.js";

export interface LaunchOrder {
  readonly cluster: string;
  readonly uid: string;
  readonly operation: string;
  readonly role: "server" | "agent" | typeof drillRole;
  readonly pool: string;
  readonly firstSlot: number;
  readonly pass: number;
  readonly count: number;
  readonly clientToken: string;
  readonly instanceType: string;
  readonly subnetId: string;
  readonly imageId: string;
  readonly rootDeviceName: string;
  readonly rootVolumeGib: number;
  readonly market: "on-demand" | "spot";
  readonly securityGroupId: string;
  readonly instanceProfileArn: string;
}

export interface Image {
  readonly id: string;
  readonly architecture: "x86_64" | "arm64";
  readonly rootDeviceName: string;
}

export interface InstanceTypeFacts {
  readonly architectures: string[];
  readonly vcpus: number;
  readonly memoryMib: number;
}

export interface SubnetFacts {
  readonly id: string;
  readonly vpcId: string;
  readonly zone: string;
  readonly cidr: string;
  readonly freeAddresses: number;
}

export interface Instances {
  /** Every node that carries the cluster's uid, gone ones as long as EC2 remembers them (about an hour). */
  ofCluster(uid: string): Promise<readonly ObservedInstance[]>;
  /** The throw-away servers that carry it: no nodes of the cluster, but its cost. */
  drillsOf(uid: string): Promise<readonly ObservedInstance[]>;
  /** States of these instances; one that EC2 does not know is not in the answer. */
  byId(ids: readonly string[]): Promise<readonly ObservedInstance[]>;
  /** Launches as many of `count` as there is room for, at least one. The same token answers with the same instances. */
  launch(order: LaunchOrder): Promise<readonly string[]>;
  terminate(ids: readonly string[]): Promise<void>;
  image(id: string): Promise<Image | undefined>;
  instanceTypes(types: readonly string[]): Promise<ReadonlyMap<string, InstanceTypeFacts>>;
  subnets(ids: readonly string[]): Promise<readonly SubnetFacts[]>;
}

/** TerminateInstances takes more, but one bad id fails the whole request; 100 keeps a retry small. */
const terminateAtOnce = 100;

export function instances(ec2: EC2Client = new EC2Client({})): Instances {
  const describe = async (filter: { name: string; values: readonly string[] }): Promise<ObservedInstance[]> => {
    const found: ObservedInstance[] = [];
    let next: string | undefined;
    do {
      const page = await ec2.send(
        new DescribeInstancesCommand({
          Filters: [{ Name: filter.name, Values: [...filter.values] }],
          MaxResults: 1000,
          ...(next === undefined ? {} : { NextToken: next }),
        }),
      );
      for (const reservation of page.Reservations ?? []) {
        for (const instance of reservation.Instances ?? []) {
          const observed = observe(instance);
          if (observed !== undefined) found.push(observed);
        }
      }
      next = page.NextToken;
    } while (next !== undefined && next !== "");
    return found;
  };
  return {
    ofCluster: async (uid) => (await describe({ name: `tag:${tags.uid}`, values: [uid] })).filter((node) => !isDrill(node)),
    drillsOf: async (uid) => (await describe({ name: `tag:${tags.uid}`, values: [uid] })).filter(isDrill),
    async byId(ids) {
      // A filter, not InstanceIds: one id that is not visible yet would fail the whole request.
      return ids.length === 0 ? [] : describe({ name: "instance-id", values: ids });
    },
    async launch(order) {
      const marks = [
        { Key: "Name", Value: `${order.cluster}-${order.pool}` },
        { Key: tags.cluster, Value: order.cluster },
        { Key: tags.uid, Value: order.uid },
        { Key: tags.role, Value: order.role },
        { Key: tags.pool, Value: order.pool },
        { Key: tags.slot, Value: String(order.firstSlot) },
        { Key: tags.attempt, Value: String(order.pass) },
        { Key: tags.operation, Value: order.operation },
      ];
      const answer = await ec2.send(
        new RunInstancesCommand({
          ClientToken: order.clientToken,
          MinCount: 1,
          MaxCount: order.count,
          ImageId: order.imageId,
          InstanceType: order.instanceType as never,
          SubnetId: order.subnetId,
          SecurityGroupIds: [order.securityGroupId],
          IamInstanceProfile: { Arn: order.instanceProfileArn },
          MetadataOptions: { HttpTokens: "required", HttpPutResponseHopLimit: 1, HttpEndpoint: "enabled", InstanceMetadataTags: "disabled" },
          BlockDeviceMappings: [
            {
              DeviceName: order.rootDeviceName,
              Ebs: { VolumeSize: order.rootVolumeGib, VolumeType: "gp3", Encrypted: true, DeleteOnTermination: true },
            },
          ],
          ...(order.market === "spot"
            ? {
                InstanceMarketOptions: {
                  MarketType: "spot",
                  SpotOptions: { SpotInstanceType: "one-time", InstanceInterruptionBehavior: "terminate" },
                },
              }
            : {}),
          TagSpecifications: (["instance", "volume", "network-interface"] as const).map((type) => ({ ResourceType: type, Tags: marks })),
        }),
      );
      return (answer.Instances ?? []).map((instance) => instance.InstanceId ?? "");
    },
    async terminate(ids) {
      for (let at = 0; at < ids.length; at += terminateAtOnce) {
        await ec2.send(new TerminateInstancesCommand({ InstanceIds: ids.slice(at, at + terminateAtOnce) }));
      }
    },
    async image(id) {
      const answer = await ec2.send(new DescribeImagesCommand({ ImageIds: [id] })).catch((error: unknown) => {
        if (error instanceof Error && error.name.startsWith("InvalidAMIID")) return { Images: [] };
        throw error;
      });
      const [image] = answer.Images ?? [];
      if (image?.ImageId === undefined) return undefined;
      return {
        id: image.ImageId,
        architecture: image.Architecture === "arm64" ? "arm64" : "x86_64",
        rootDeviceName: image.RootDeviceName ?? "/dev/xvda",
      };
    },
    async instanceTypes(types) {
      // A filter, not InstanceTypes: an unknown type would fail the whole request instead of being named.
      const answer = await ec2.send(new DescribeInstanceTypesCommand({ Filters: [{ Name: "instance-type", Values: [...types] }], MaxResults: 100 }));
      return new Map(
        (answer.InstanceTypes ?? []).map((type) => [
          type.InstanceType ?? "",
          {
            architectures: (type.ProcessorInfo?.SupportedArchitectures ?? []) as string[],
            vcpus: type.VCpuInfo?.DefaultVCpus ?? 0,
            memoryMib: type.MemoryInfo?.SizeInMiB ?? 0,
          },
        ]),
      );
    },
    async subnets(ids) {
      const answer = await ec2.send(new DescribeSubnetsCommand({ Filters: [{ Name: "subnet-id", Values: [...ids] }] }));
      return (answer.Subnets ?? []).map((subnet) => ({
        id: subnet.SubnetId ?? "",
        vpcId: subnet.VpcId ?? "",
        zone: subnet.AvailabilityZone ?? "",
        cidr: subnet.CidrBlock ?? "",
        freeAddresses: subnet.AvailableIpAddressCount ?? 0,
      }));
    },
  };
}

function observe(instance: Instance): ObservedInstance | undefined {
  return observedFromTags({
    instanceId: instance.InstanceId ?? "",
    tags: Object.fromEntries((instance.Tags ?? []).map((tag) => [tag.Key ?? "", tag.Value ?? ""])),
    amiLaunchIndex: instance.AmiLaunchIndex ?? 0,
    zone: instance.Placement?.AvailabilityZone ?? "",
    subnetId: instance.SubnetId ?? "",
    instanceType: instance.InstanceType ?? "",
    address: instance.PrivateIpAddress ?? "",
    state: instance.State?.Name ?? "pending",
    launchedAt: instance.LaunchTime?.toISOString() ?? "",
    ...(instance.StateReason?.Message === undefined ? {} : { stateReason: instance.StateReason.Message }),
  });
}
