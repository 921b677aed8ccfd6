/** Elastic Load Balancing and security groups: a cluster's endpoint. Everything is found by name before it is made. */
import {
  AuthorizeSecurityGroupEgressCommand,
  AuthorizeSecurityGroupIngressCommand,
  CreateSecurityGroupCommand,
  DeleteSecurityGroupCommand,
  DescribeSecurityGroupsCommand,
  EC2Client,
  type IpPermission,
  RevokeSecurityGroupEgressCommand,
  RevokeSecurityGroupIngressCommand,
} from "@aws-sdk/client-ec2";
import {
  CreateListenerCommand,
  CreateLoadBalancerCommand,
  CreateTargetGroupCommand,
  DeleteLoadBalancerCommand,
  DeleteTargetGroupCommand,
  DeregisterTargetsCommand,
  DescribeLoadBalancersCommand,
  DescribeTargetGroupsCommand,
  DescribeTargetHealthCommand,
  ElasticLoadBalancingV2Client,
  ModifyLoadBalancerAttributesCommand,
  ModifyTargetGroupAttributesCommand,
  RegisterTargetsCommand,
} from "@aws-sdk/client-elastic-load-balancing-v2";
import type { SecurityRule } from "../../core/security-rules.js";

export type Marks = readonly { readonly Key: string; readonly Value: string }[];

export interface Target {
  readonly instanceId: string;
  /** initial, healthy, unhealthy, unused, draining, unavailable, ... */
  readonly state: string;
  readonly reason: string;
}

export interface LoadBalancers {
  createLoadBalancer(order: {
    readonly name: string;
    readonly subnetIds: readonly string[];
    readonly scheme: "internal" | "internet-facing";
    readonly securityGroupId: string;
    readonly marks: Marks;
  }): Promise<{ readonly arn: string; readonly dnsName: string }>;
  createTargetGroup(order: {
    readonly name: string;
    readonly vpcId: string;
    readonly port: number;
    readonly healthPath: string;
    readonly healthCodes: string;
    readonly marks: Marks;
  }): Promise<string>;
  createListener(loadBalancerArn: string, targetGroupArn: string, port: number, marks: Marks): Promise<void>;
  register(targetGroupArn: string, instanceIds: readonly string[]): Promise<void>;
  deregister(targetGroupArn: string, instanceIds: readonly string[]): Promise<void>;
  /** Empty when the target group is gone. */
  targets(targetGroupArn: string): Promise<readonly Target[]>;
  find(names: { readonly loadBalancer: string; readonly targetGroups: readonly string[] }): Promise<{
    readonly loadBalancers: readonly { readonly name: string; readonly arn: string }[];
    readonly targetGroups: readonly { readonly name: string; readonly arn: string }[];
  }>;
  deleteLoadBalancer(arn: string): Promise<void>;
  deleteTargetGroup(arn: string): Promise<void>;
}

/** Long enough for calls in flight, short enough for a roll: agents keep long connections, which are closed at the end of it. */
export const deregistrationDelaySeconds = 30;

export function loadBalancers(elb: ElasticLoadBalancingV2Client = new ElasticLoadBalancingV2Client({})): LoadBalancers {
  const balancersNamed = (name: string) =>
    ignoring("LoadBalancerNotFoundException", () => elb.send(new DescribeLoadBalancersCommand({ Names: [name] })));
  const targetGroupsNamed = (name: string) =>
    ignoring("TargetGroupNotFoundException", () => elb.send(new DescribeTargetGroupsCommand({ Names: [name] })));
  return {
    async createLoadBalancer(order) {
      // Create is idempotent for the same name and settings, tags among them (Elastic Load Balancing API reference, CreateLoadBalancer). Those of an
      // earlier operation name that operation; the name holds the cluster's uid, so what has it is this cluster's.
      const made = await ignoring("DuplicateLoadBalancerNameException", () =>
        elb.send(
          new CreateLoadBalancerCommand({
            Name: order.name,
            Type: "network",
            IpAddressType: "ipv4",
            Scheme: order.scheme,
            Subnets: [...order.subnetIds],
            SecurityGroups: [order.securityGroupId],
            Tags: [...order.marks],
          }),
        ),
      );
      const [created] = (made ?? (await balancersNamed(order.name)))?.LoadBalancers ?? [];
      const arn = created?.LoadBalancerArn ?? "";
      await elb.send(
        new ModifyLoadBalancerAttributesCommand({
          LoadBalancerArn: arn,
          Attributes: [{ Key: "load_balancing.cross_zone.enabled", Value: "true" }],
        }),
      );
      return { arn, dnsName: created?.DNSName ?? "" };
    },
    async createTargetGroup(order) {
      const made = await ignoring("DuplicateTargetGroupNameException", () =>
        elb.send(
          new CreateTargetGroupCommand({
            Name: order.name,
            Protocol: "TCP",
            Port: order.port,
            VpcId: order.vpcId,
            TargetType: "instance",
            HealthCheckProtocol: "HTTPS",
            HealthCheckPath: order.healthPath,
            HealthCheckPort: "traffic-port",
            HealthCheckIntervalSeconds: 5,
            HealthCheckTimeoutSeconds: 4,
            HealthyThresholdCount: 2,
            UnhealthyThresholdCount: 2,
            Matcher: { HttpCode: order.healthCodes },
            Tags: [...order.marks],
          }),
        ),
      );
      const arn = (made ?? (await targetGroupsNamed(order.name)))?.TargetGroups?.[0]?.TargetGroupArn ?? "";
      await elb.send(
        new ModifyTargetGroupAttributesCommand({
          TargetGroupArn: arn,
          Attributes: [
            // A server that dials the endpoint may be routed to itself; with the client's address kept, such a connection never opens.
            { Key: "preserve_client_ip.enabled", Value: "false" },
            { Key: "deregistration_delay.timeout_seconds", Value: String(deregistrationDelaySeconds) },
            { Key: "deregistration_delay.connection_termination.enabled", Value: "true" },
          ],
        }),
      );
      return arn;
    },
    async createListener(loadBalancerArn, targetGroupArn, port, marks) {
      await ignoring("DuplicateListener", () =>
        elb.send(
          new CreateListenerCommand({
            LoadBalancerArn: loadBalancerArn,
            Protocol: "TCP",
            Port: port,
            DefaultActions: [{ Type: "forward", TargetGroupArn: targetGroupArn }],
            Tags: [...marks],
          }),
        ),
      );
    },
    async register(targetGroupArn, instanceIds) {
      await elb.send(new RegisterTargetsCommand({ TargetGroupArn: targetGroupArn, Targets: instanceIds.map((Id) => ({ Id })) }));
    },
    async deregister(targetGroupArn, instanceIds) {
      await ignoring("TargetGroupNotFoundException", () =>
        elb.send(new DeregisterTargetsCommand({ TargetGroupArn: targetGroupArn, Targets: instanceIds.map((Id) => ({ Id })) })),
      );
    },
    async targets(targetGroupArn) {
      const answer = await ignoring("TargetGroupNotFoundException", () =>
        elb.send(new DescribeTargetHealthCommand({ TargetGroupArn: targetGroupArn })),
      );
      return (answer?.TargetHealthDescriptions ?? []).map((health) => ({
        instanceId: health.Target?.Id ?? "",
        state: health.TargetHealth?.State ?? "",
        reason: health.TargetHealth?.Reason ?? "",
      }));
    },
    async find(names) {
      const balancers = await balancersNamed(names.loadBalancer);
      const groups = await Promise.all(names.targetGroups.map(targetGroupsNamed));
      return {
        loadBalancers: (balancers?.LoadBalancers ?? []).map((found) => ({ name: found.LoadBalancerName ?? "", arn: found.LoadBalancerArn ?? "" })),
        targetGroups: groups
          .flatMap((answer) => answer?.TargetGroups ?? [])
          .map((found) => ({ name: found.TargetGroupName ?? "", arn: found.TargetGroupArn ?? "" })),
      };
    },
    async deleteLoadBalancer(arn) {
      await elb.send(new DeleteLoadBalancerCommand({ LoadBalancerArn: arn }));
    },
    async deleteTargetGroup(arn) {
      await elb.send(new DeleteTargetGroupCommand({ TargetGroupArn: arn }));
    },
  };
}

export interface SecurityGroups {
  /** Finds the group of this name in the VPC, or makes it. */
  ensure(order: { readonly name: string; readonly description: string; readonly vpcId: string; readonly marks: Marks }): Promise<string>;
  allow(groupId: string, rules: readonly SecurityRule[]): Promise<void>;
  /** Lets its members reach what the rules say, and nothing else; nobody reaches them. */
  closeOff(groupId: string, rules: readonly SecurityRule[]): Promise<void>;
  find(uidTag: string, uid: string): Promise<readonly { readonly id: string; readonly name: string }[]>;
  /** Takes all ingress rules off: two groups that name each other could not be deleted otherwise. */
  clear(groupId: string): Promise<void>;
  /** False while network interfaces still use it. */
  remove(groupId: string): Promise<boolean>;
}

export function securityGroups(ec2: EC2Client = new EC2Client({})): SecurityGroups {
  const find = async (filters: { Name: string; Values: string[] }[]) => {
    const answer = await ec2.send(new DescribeSecurityGroupsCommand({ Filters: filters, MaxResults: 100 }));
    return (answer.SecurityGroups ?? []).map((group) => ({ id: group.GroupId ?? "", name: group.GroupName ?? "" }));
  };
  const byId = async (groupId: string) =>
    (await ignoring("InvalidGroup.NotFound", () => ec2.send(new DescribeSecurityGroupsCommand({ GroupIds: [groupId] }))))?.SecurityGroups?.[0];
  /**
   * Whether an error only says that another run was quicker. A group that is gone has no tags, so a role that may delete groups by their tags is
   * told that it is not authorized.
   */
  const isGone = async (groupId: string, error: unknown) =>
    isNamed(error, "InvalidGroup.NotFound") || (isNamed(error, "UnauthorizedOperation") && (await byId(groupId)) === undefined);
  const named = (name: string, vpcId: string) =>
    find([
      { Name: "group-name", Values: [name] },
      { Name: "vpc-id", Values: [vpcId] },
    ]);
  return {
    async ensure(order) {
      const [existing] = await named(order.name, order.vpcId);
      if (existing !== undefined) return existing.id;
      const made = await ignoring("InvalidGroup.Duplicate", () =>
        ec2.send(
          new CreateSecurityGroupCommand({
            GroupName: order.name,
            Description: order.description,
            VpcId: order.vpcId,
            TagSpecifications: [{ ResourceType: "security-group", Tags: [...order.marks] }],
          }),
        ),
      );
      return made?.GroupId ?? (await named(order.name, order.vpcId))[0]?.id ?? "";
    },
    async allow(groupId, rules) {
      // One request for all; when some exist already it refuses them all, so then one request each.
      const authorize = (some: readonly SecurityRule[]) =>
        ec2.send(new AuthorizeSecurityGroupIngressCommand({ GroupId: groupId, IpPermissions: some.map(permission) })).then(() => true);
      if (await ignoring("InvalidPermission.Duplicate", () => authorize(rules))) return;
      for (const rule of rules) await ignoring("InvalidPermission.Duplicate", () => authorize([rule]));
    },
    async closeOff(groupId, rules) {
      const allowed = rules.map(permission);
      const isWanted = (rule: IpPermission) =>
        allowed.some((each) => each.IpProtocol === rule.IpProtocol && each.FromPort === rule.FromPort && each.ToPort === rule.ToPort);
      // What it may do first, then what it may not: a machine that is there already never loses its way to Systems Manager.
      for (const each of allowed) {
        await ignoring("InvalidPermission.Duplicate", () =>
          ec2.send(new AuthorizeSecurityGroupEgressCommand({ GroupId: groupId, IpPermissions: [each] })),
        );
      }
      // A group is made with leave to reach everything (EC2 API reference, CreateSecurityGroup).
      const excess = ((await byId(groupId))?.IpPermissionsEgress ?? []).filter((rule) => !isWanted(rule));
      if (excess.length > 0) {
        await ignoring("InvalidPermission.NotFound", () =>
          ec2.send(new RevokeSecurityGroupEgressCommand({ GroupId: groupId, IpPermissions: excess })),
        );
      }
    },
    find: (uidTag, uid) => find([{ Name: `tag:${uidTag}`, Values: [uid] }]),
    async clear(groupId) {
      const rules = (await byId(groupId))?.IpPermissions ?? [];
      if (rules.length === 0) return;
      await ec2.send(new RevokeSecurityGroupIngressCommand({ GroupId: groupId, IpPermissions: rules })).catch(async (error: unknown) => {
        if (!(await isGone(groupId, error)) && !isNamed(error, "InvalidPermission.NotFound")) throw error;
      });
    },
    async remove(groupId) {
      try {
        await ec2.send(new DeleteSecurityGroupCommand({ GroupId: groupId }));
        return true;
      } catch (error) {
        if (isNamed(error, "DependencyViolation")) return false;
        if (await isGone(groupId, error)) return true;
        throw error;
      }
    },
  };
}

function permission(rule: SecurityRule): IpPermission {
  return {
    IpProtocol: rule.protocol,
    FromPort: rule.fromPort,
    ToPort: rule.toPort,
    ...(rule.from.kind === "group"
      ? { UserIdGroupPairs: [{ GroupId: rule.from.groupId, Description: rule.purpose }] }
      : { IpRanges: [{ CidrIp: rule.from.cidr, Description: rule.purpose }] }),
  };
}

function isNamed(error: unknown, name: string): boolean {
  return error instanceof Error && error.name === name;
}

/** "Already so" is success: the answer, or undefined when AWS says the named error. SDK names may or may not end in `Exception`. */
async function ignoring<T>(name: string, call: () => Promise<T>): Promise<T | undefined> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof Error && [name, `${name}Exception`, name.replace(/Exception$/, "")].includes(error.name)) return undefined;
    throw error;
  }
}
