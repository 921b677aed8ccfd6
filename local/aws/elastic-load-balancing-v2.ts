/**
 * Elastic Load Balancing of the local cloud: network load balancers, their listeners and target groups of instances.
 *
 * Nothing here has a timer: what a load balancer or a target is, follows from instants drawn when it was made, and from whether the node's port
 * answers. Errors carry the SDK's exception names; the wire has the shorter codes.
 */
import { isDeepStrictEqual } from "node:util";
import type {
  AddTagsInput,
  AddTagsOutput,
  CreateListenerInput,
  CreateListenerOutput,
  CreateLoadBalancerInput,
  CreateLoadBalancerOutput,
  CreateTargetGroupInput,
  CreateTargetGroupOutput,
  DeleteListenerInput,
  DeleteListenerOutput,
  DeleteLoadBalancerInput,
  DeleteLoadBalancerOutput,
  DeleteTargetGroupInput,
  DeleteTargetGroupOutput,
  DeregisterTargetsInput,
  DeregisterTargetsOutput,
  DescribeListenersInput,
  DescribeListenersOutput,
  DescribeLoadBalancersInput,
  DescribeLoadBalancersOutput,
  DescribeTagsInput,
  DescribeTagsOutput,
  DescribeTargetGroupsInput,
  DescribeTargetGroupsOutput,
  DescribeTargetHealthInput,
  DescribeTargetHealthOutput,
  Listener,
  LoadBalancer,
  ModifyLoadBalancerAttributesInput,
  ModifyLoadBalancerAttributesOutput,
  ModifyTargetGroupAttributesInput,
  ModifyTargetGroupAttributesOutput,
  RegisterTargetsInput,
  RegisterTargetsOutput,
  Tag,
  TargetGroup,
  TargetHealth,
} from "@aws-sdk/client-elastic-load-balancing-v2";
import model from "../../core/latency-model.json" with { type: "json" };
import { AwsError, type Operation, type Permission, type Service, Unmodelled, type World } from "../kernel/contract.js";
import type { NodeDriver } from "../nodes/contract.js";
import type { Ec2 } from "./ec2.js";
import { allow, fields, Ids, page, requestTagContext, resourceTagContext, tagList, tagRecord } from "./requests.js";

export interface ElasticLoadBalancingV2 extends Service {
  readonly name: "elastic-load-balancing-v2";
  /** What exists now, for checks that nothing is left. */
  existing(): { readonly loadBalancers: readonly string[]; readonly targetGroups: readonly string[] };
  /** Which targets a connection to this DNS name and port may reach: the healthy ones, or all of them when none is (fail open). */
  route(dnsName: string, port: number): readonly { readonly instanceId: string; readonly port: number }[];
  /** What every load balancer does with connections at this instant, for a driver whose machines make real ones. */
  traffic(): readonly BalancerTraffic[];
}

export interface BalancerTraffic {
  readonly arn: string;
  readonly dnsName: string;
  /** Carries connections, and has a name that resolves. */
  readonly active: boolean;
  readonly nodes: readonly { readonly zone: string; readonly cidr: string; readonly address: string }[];
  readonly listeners: readonly ListenerTraffic[];
}
export interface ListenerTraffic {
  readonly port: number;
  readonly targetGroupArn: string;
  readonly check: HealthCheck;
  /** Whether the load balancer's node of one zone uses targets of the others. */
  readonly crossZone: boolean;
  readonly preserveClientIp: boolean;
  /** Whether connections end with the deregistration delay, and when their target is found unhealthy. */
  readonly endsDrained: boolean;
  readonly endsUnhealthy: boolean;
  /** With those that are not in use left out. */
  readonly targets: readonly {
    readonly instanceId: string;
    readonly zone: string;
    readonly address: string;
    readonly port: number;
    readonly state: "initial" | "healthy" | "unhealthy" | "draining";
  }[];
}

interface LoadBalancerRecord {
  readonly arn: string;
  readonly order: number;
  readonly id: string;
  readonly name: string;
  readonly dnsName: string;
  readonly scheme: "internal" | "internet-facing";
  readonly subnets: readonly string[];
  readonly zones: readonly string[];
  readonly groups: readonly string[];
  readonly vpcId: string;
  readonly createdAtMs: number;
  readonly activeAtMs: number;
  /** Seconds from active to the first health checks of every target that was there before: one load balancer, one delay. */
  readonly firstChecksSeconds: number;
  attributes: Record<string, string>;
  tags: Record<string, string>;
}

interface TargetRecord {
  readonly id: string;
  readonly port: number;
  readonly registeredAtMs: number;
  /** Seconds to its first checks when it came after the load balancer was active: one call, one delay. */
  readonly checksSeconds: number;
  readonly thresholdSeconds: number;
  /** Set while it drains; over at this instant. */
  goneAtMs?: number;
}

export interface HealthCheck {
  readonly protocol: string;
  readonly port: string;
  readonly path: string | undefined;
  readonly intervalSeconds: number;
  readonly timeoutSeconds: number;
  readonly healthyThreshold: number;
  readonly unhealthyThreshold: number;
  readonly matcher: string | undefined;
}

interface TargetGroupRecord {
  readonly arn: string;
  readonly order: number;
  readonly name: string;
  readonly port: number;
  readonly vpcId: string;
  readonly check: HealthCheck;
  readonly targets: Map<string, TargetRecord>;
  attributes: Record<string, string>;
  tags: Record<string, string>;
}

interface ListenerRecord {
  readonly arn: string;
  readonly order: number;
  readonly loadBalancerArn: string;
  readonly targetGroupArn: string;
  readonly port: number;
  readonly createdAtMs: number;
  tags: Record<string, string>;
}

interface State {
  idSeed: string;
  idsGiven: number;
  order: number;
  loadBalancers: Map<string, LoadBalancerRecord>;
  targetGroups: Map<string, TargetGroupRecord>;
  listeners: Map<string, ListenerRecord>;
}

const seconds = 1000;

/** Attributes by name: the default, and which values are allowed (Elastic Load Balancing API reference). */
const loadBalancerAttributes: Readonly<Record<string, readonly [string, RegExp]>> = {
  "load_balancing.cross_zone.enabled": ["false", /^(true|false)$/],
  "deletion_protection.enabled": ["false", /^(true|false)$/],
  "access_logs.s3.enabled": ["false", /^false$/],
};
const targetGroupAttributes: Readonly<Record<string, readonly [string, RegExp]>> = {
  "deregistration_delay.timeout_seconds": ["300", /^(\d{1,3}|[12]\d{3}|3[0-5]\d{2}|3600)$/],
  "deregistration_delay.connection_termination.enabled": ["false", /^(true|false)$/],
  "preserve_client_ip.enabled": ["true", /^(true|false)$/],
  "proxy_protocol_v2.enabled": ["false", /^false$/],
  "stickiness.enabled": ["false", /^false$/],
  "target_health_state.unhealthy.connection_termination.enabled": ["true", /^(true|false)$/],
  "load_balancing.cross_zone.enabled": ["use_load_balancer_configuration", /^(true|false|use_load_balancer_configuration)$/],
};

export function createElasticLoadBalancingV2(world: World): ElasticLoadBalancingV2 {
  const random = world.random.fork("elastic-load-balancing-v2");
  let idSource = new Ids(random.hex(16));
  let state: State = { idSeed: idSource.seed, idsGiven: 0, order: 0, loadBalancers: new Map(), targetGroups: new Map(), listeners: new Map() };

  const now = () => world.clock.now();
  const ec2 = () => world.service<Ec2>("ec2");
  const prefix = `arn:${world.partition}:elasticloadbalancing:${world.region}:${world.account}:`;
  const listenersOf = (filter: (listener: ListenerRecord) => boolean) => [...state.listeners.values()].filter(filter);

  function loadBalancer(arn: string | undefined): LoadBalancerRecord {
    const found = state.loadBalancers.get(arn ?? "");
    if (found === undefined) throw new AwsError("LoadBalancerNotFoundException", `One or more load balancers not found: ${arn ?? ""}`);
    return found;
  }

  function targetGroup(arn: string | undefined): TargetGroupRecord {
    const found = state.targetGroups.get(arn ?? "");
    if (found === undefined) throw new AwsError("TargetGroupNotFoundException", "One or more target groups not found");
    return found;
  }

  function listener(arn: string | undefined): ListenerRecord {
    const found = state.listeners.get(arn ?? "");
    if (found === undefined) throw new AwsError("ListenerNotFoundException", "One or more listeners not found");
    return found;
  }

  // ---------------------------------------------------------- load balancers

  function createLoadBalancer(input: CreateLoadBalancerInput): CreateLoadBalancerOutput {
    const name = checkName(input.Name, "load balancer");
    if (name.startsWith("internal-")) throw invalid(`The load balancer name '${name}' cannot begin with 'internal-'`);
    const type = input.Type ?? "application";
    if (type !== "network") throw new Unmodelled(`a load balancer of type ${type}: only network load balancers are (the default is application)`);
    if ((input.IpAddressType ?? "ipv4") !== "ipv4") throw new Unmodelled(`a load balancer with address type ${input.IpAddressType}`);
    const scheme = input.Scheme ?? "internet-facing";
    const subnetIds = input.Subnets ?? [];
    if (subnetIds.length === 0) throw invalid("A load balancer needs at least one subnet");
    const subnets = subnetIds.map((id) => {
      const subnet = ec2().subnet(id);
      if (subnet === undefined) throw new AwsError("SubnetNotFoundException", `The subnet ID '${id}' does not exist`);
      return subnet;
    });
    const zones = subnets.map((subnet) => subnet.zone);
    if (new Set(zones).size < zones.length)
      throw new AwsError(
        "InvalidConfigurationRequestException",
        "A load balancer cannot be attached to multiple subnets in the same Availability Zone",
      );
    const [vpcId = "", ...otherVpcs] = [...new Set(subnets.map((subnet) => subnet.vpcId))];
    if (otherVpcs.length > 0) throw new AwsError("InvalidSubnetException", "All subnets must belong to the same VPC");
    const groups = input.SecurityGroups ?? [];
    for (const group of groups) {
      if (!ec2().hasSecurityGroup(group)) throw new AwsError("InvalidSecurityGroupException", `The security group '${group}' does not exist`);
    }
    const tags = checkTags(input.Tags);
    const existing = [...state.loadBalancers.values()].find((each) => each.name === name);
    if (existing !== undefined) {
      const wanted = { scheme, subnets: [...subnetIds].sort(), groups: [...groups].sort(), tags };
      const found = { scheme: existing.scheme, subnets: [...existing.subnets].sort(), groups: [...existing.groups].sort(), tags: existing.tags };
      if (!isDeepStrictEqual(wanted, found)) {
        throw new AwsError("DuplicateLoadBalancerNameException", `A load balancer with the same name '${name}' exists, but with different settings`);
      }
      return { LoadBalancers: [describeLoadBalancer(existing)] };
    }
    if (state.loadBalancers.size >= 50) throw new AwsError("TooManyLoadBalancersException", "The maximum number of load balancers has been reached");
    const at = now();
    const id = idSource.hex("load-balancer", 16);
    // Some load balancers take minutes longer for no reason that anybody sees.
    const tail = world.faults.strike("lateOnline", `load balancer ${name}`) ? model.faults.loadBalancerTailSeconds : 0;
    const record: LoadBalancerRecord = {
      arn: `${prefix}loadbalancer/net/${name}/${id}`,
      order: ++state.order,
      id,
      name,
      dnsName: `${name}-${id}.elb.${world.region}.amazonaws.com`,
      scheme,
      subnets: subnetIds,
      zones,
      groups,
      vpcId,
      createdAtMs: at,
      activeAtMs: at + (random.latency("loadBalancerCreate") + tail) * seconds,
      firstChecksSeconds: random.latency("targetRegisterToChecks"),
      attributes: defaults(loadBalancerAttributes),
      tags,
    };
    ec2().addManagedInterfaces(record.arn, `ELB net/${name}/${id}`, subnetIds, groups);
    state.loadBalancers.set(record.arn, record);
    return { LoadBalancers: [describeLoadBalancer(record)] };
  }

  function deleteLoadBalancer(input: DeleteLoadBalancerInput): DeleteLoadBalancerOutput {
    const record = state.loadBalancers.get(input.LoadBalancerArn ?? "");
    if (record === undefined) return {};
    if (record.attributes["deletion_protection.enabled"] === "true") {
      throw new AwsError("OperationNotPermittedException", `Load balancer '${record.arn}' cannot be deleted because deletion protection is enabled`);
    }
    state.loadBalancers.delete(record.arn);
    for (const each of listenersOf((one) => one.loadBalancerArn === record.arn)) state.listeners.delete(each.arn);
    // Its interfaces outlive it, and with them the hold on their security groups.
    ec2().releaseManagedInterfaces(record.arn, random.between(60, 240));
    return {};
  }

  function describeLoadBalancer(record: LoadBalancerRecord): LoadBalancer {
    return {
      LoadBalancerArn: record.arn,
      LoadBalancerName: record.name,
      DNSName: record.dnsName,
      CanonicalHostedZoneId: "Z26RNL4JYFTOTI",
      CreatedTime: new Date(record.createdAtMs),
      Scheme: record.scheme,
      VpcId: record.vpcId,
      State: { Code: record.activeAtMs <= now() ? "active" : "provisioning" },
      Type: "network",
      IpAddressType: "ipv4",
      AvailabilityZones: record.subnets.map((SubnetId, at) => ({ SubnetId, ZoneName: record.zones[at] as string, LoadBalancerAddresses: [] })),
      ...(record.groups.length === 0 ? {} : { SecurityGroups: [...record.groups] }),
    };
  }

  // ----------------------------------------------------------- target groups

  function createTargetGroup(input: CreateTargetGroupInput): CreateTargetGroupOutput {
    const name = checkName(input.Name, "target group");
    if (input.Protocol !== "TCP") throw new Unmodelled(`a target group for protocol ${input.Protocol}`);
    if ((input.TargetType ?? "instance") !== "instance") throw new Unmodelled(`a target group of target type ${input.TargetType}`);
    const port = checkPort(input.Port);
    const vpcId = input.VpcId ?? "";
    if (!ec2().hasVpc(vpcId)) throw invalid(`The VPC ID '${vpcId}' is not found`);
    const check = healthCheckOf(input);
    const tags = checkTags(input.Tags);
    const existing = [...state.targetGroups.values()].find((each) => each.name === name);
    if (existing !== undefined) {
      const found = { port: existing.port, vpcId: existing.vpcId, check: existing.check, tags: existing.tags };
      if (!isDeepStrictEqual({ port, vpcId, check, tags }, found)) {
        throw new AwsError("DuplicateTargetGroupNameException", `A target group with the same name '${name}' exists, but with different settings`);
      }
      return { TargetGroups: [describeTargetGroup(existing)] };
    }
    const record: TargetGroupRecord = {
      arn: `${prefix}targetgroup/${name}/${idSource.hex("target-group", 16)}`,
      order: ++state.order,
      name,
      port,
      vpcId,
      check,
      targets: new Map(),
      attributes: defaults(targetGroupAttributes),
      tags,
    };
    state.targetGroups.set(record.arn, record);
    return { TargetGroups: [describeTargetGroup(record)] };
  }

  function deleteTargetGroup(input: DeleteTargetGroupInput): DeleteTargetGroupOutput {
    const record = state.targetGroups.get(input.TargetGroupArn ?? "");
    if (record === undefined) return {};
    if (listenersOf((each) => each.targetGroupArn === record.arn).length > 0) {
      throw new AwsError("ResourceInUseException", `Target group '${record.arn}' is currently in use by a listener or a rule`);
    }
    state.targetGroups.delete(record.arn);
    return {};
  }

  function describeTargetGroup(record: TargetGroupRecord): TargetGroup {
    const { check } = record;
    return {
      TargetGroupArn: record.arn,
      TargetGroupName: record.name,
      Protocol: "TCP",
      Port: record.port,
      VpcId: record.vpcId,
      TargetType: "instance",
      IpAddressType: "ipv4",
      HealthCheckEnabled: true,
      HealthCheckProtocol: check.protocol as "TCP",
      HealthCheckPort: check.port,
      ...(check.path === undefined ? {} : { HealthCheckPath: check.path }),
      HealthCheckIntervalSeconds: check.intervalSeconds,
      HealthCheckTimeoutSeconds: check.timeoutSeconds,
      HealthyThresholdCount: check.healthyThreshold,
      UnhealthyThresholdCount: check.unhealthyThreshold,
      ...(check.matcher === undefined ? {} : { Matcher: { HttpCode: check.matcher } }),
      LoadBalancerArns: [...new Set(listenersOf((each) => each.targetGroupArn === record.arn).map((each) => each.loadBalancerArn))],
    };
  }

  // ----------------------------------------------------------------- targets

  const targetKey = (id: string, port: number) => `${id}:${port}`;

  function registerTargets(input: RegisterTargetsInput): RegisterTargetsOutput {
    const group = targetGroup(input.TargetGroupArn);
    const wanted = (input.Targets ?? []).map((target) => ({ id: target.Id ?? "", port: target.Port ?? group.port }));
    if (wanted.length === 0) throw invalid("At least one target is needed");
    for (const { id } of wanted) {
      const instance = ec2().instance(id);
      if (instance === undefined) throw new AwsError("InvalidTargetException", `The following targets are not valid instance ids: '${id}'`);
      if (instance.life !== "running") {
        throw new AwsError("InvalidTargetException", `The following targets are not in a running state and cannot be registered: '${id}'`);
      }
      if (instance.vpcId !== group.vpcId) {
        throw new AwsError("InvalidTargetException", `The following targets are not in the target group VPC '${group.vpcId}': '${id}'`);
      }
    }
    sweep(group);
    if (group.targets.size + wanted.length > 1000) throw new AwsError("TooManyTargetsException", "The maximum number of targets has been reached");
    const checksSeconds = random.latency("targetRegisterToChecks");
    for (const { id, port } of wanted) {
      const key = targetKey(id, port);
      const existing = group.targets.get(key);
      if (existing !== undefined && existing.goneAtMs === undefined) continue;
      group.targets.set(key, { id, port, registeredAtMs: now(), checksSeconds, thresholdSeconds: random.latency("targetHealthThreshold") });
    }
    return {};
  }

  function deregisterTargets(input: DeregisterTargetsInput): DeregisterTargetsOutput {
    const group = targetGroup(input.TargetGroupArn);
    const delaySeconds = Number(group.attributes["deregistration_delay.timeout_seconds"]);
    for (const target of input.Targets ?? []) {
      const key = targetKey(target.Id ?? "", target.Port ?? group.port);
      const record = group.targets.get(key);
      if (record === undefined || record.goneAtMs !== undefined) continue;
      // Nothing reaches a target that is not in use, so there is nothing to drain.
      if (healthOf(group, record).State === "unused") group.targets.delete(key);
      else record.goneAtMs = now() + delaySeconds * seconds;
    }
    return {};
  }

  /** Forgets targets whose draining is over, and those whose instance EC2 no longer knows. */
  function sweep(group: TargetGroupRecord): void {
    for (const [key, target] of group.targets) {
      if ((target.goneAtMs ?? Number.POSITIVE_INFINITY) <= now() || ec2().instance(target.id) === undefined) group.targets.delete(key);
    }
  }

  function healthOf(group: TargetGroupRecord, target: TargetRecord): TargetHealth {
    const at = now();
    if (target.goneAtMs !== undefined) return health("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress");
    const instance = ec2().instance(target.id);
    if (instance === undefined || instance.life !== "running") return health("unused", "Target.InvalidState", "Target is in the terminated state");
    const uses = listenersOf((each) => each.targetGroupArn === group.arn)
      .map((each) => ({ since: each.createdAtMs, balancer: state.loadBalancers.get(each.loadBalancerArn) as LoadBalancerRecord }))
      .filter((use) => use.balancer.zones.includes(instance.zone));
    if (uses.length === 0) {
      const attached = listenersOf((each) => each.targetGroupArn === group.arn).length > 0;
      return health(
        "unused",
        "Target.NotInUse",
        attached
          ? "Target is in an Availability Zone that is not enabled for the load balancer"
          : "Target group is not configured to receive traffic from the load balancer",
      );
    }
    const checksAt = Math.min(
      ...uses.map(({ since, balancer }) => {
        const there = Math.max(target.registeredAtMs, since);
        return there <= balancer.activeAtMs ? balancer.activeAtMs + balancer.firstChecksSeconds * seconds : there + target.checksSeconds * seconds;
      }),
    );
    if (at < checksAt) return health("initial", "Elb.RegistrationInProgress", "Target registration is in progress");
    const port = group.check.port === "traffic-port" ? target.port : Number(group.check.port);
    const checked = world.service<NodeDriver>("nodes").checked?.(group.arn, target.id, target.port);
    if (checked === "healthy") return { State: "healthy" };
    if (checked === "unhealthy") return health("unhealthy", "Target.FailedHealthChecks", "Health checks failed");
    if (checked === "initial") return health("initial", "Elb.InitialHealthChecking", "Initial health checks in progress");
    const { answers, sinceMs } = world.service<NodeDriver>("nodes").answers(target.id, port);
    const decidedAt = checksAt + target.thresholdSeconds * seconds;
    const failing = () => health("unhealthy", "Target.FailedHealthChecks", "Health checks failed");
    if (answers) {
      if (at >= Math.max(checksAt, sinceMs) + target.thresholdSeconds * seconds) return { State: "healthy" };
      // It answers, and not for long enough: new to the checks, or already found wanting.
      return sinceMs > decidedAt ? failing() : health("initial", "Elb.InitialHealthChecking", "Initial health checks in progress");
    }
    // A port that stopped answering after the checks began was healthy, and stays so until enough of them have failed.
    const noticedAt = sinceMs + group.check.unhealthyThreshold * group.check.intervalSeconds * seconds;
    if (sinceMs > decidedAt && at < noticedAt) return { State: "healthy" };
    return at >= decidedAt ? failing() : health("initial", "Elb.InitialHealthChecking", "Initial health checks in progress");
  }

  function describeTargetHealth(input: DescribeTargetHealthInput): DescribeTargetHealthOutput {
    const group = targetGroup(input.TargetGroupArn);
    sweep(group);
    const describe = (target: TargetRecord) => ({
      Target: { Id: target.id, Port: target.port },
      HealthCheckPort: group.check.port === "traffic-port" ? String(target.port) : group.check.port,
      TargetHealth: healthOf(group, target),
    });
    if (input.Targets === undefined || input.Targets.length === 0) return { TargetHealthDescriptions: [...group.targets.values()].map(describe) };
    return {
      TargetHealthDescriptions: input.Targets.map(({ Id = "", Port = group.port }) => {
        const target = group.targets.get(targetKey(Id, Port));
        if (target !== undefined) return describe(target);
        return { Target: { Id, Port }, TargetHealth: health("unused", "Target.NotRegistered", "Target is not registered to the target group") };
      }),
    };
  }

  // --------------------------------------------------------------- listeners

  function createListener(input: CreateListenerInput): CreateListenerOutput {
    const balancer = loadBalancer(input.LoadBalancerArn);
    if (input.Protocol !== "TCP") throw new Unmodelled(`a listener for protocol ${input.Protocol}`);
    const port = checkPort(input.Port);
    const [action, ...more] = input.DefaultActions ?? [];
    if (action?.Type !== "forward" || more.length > 0) throw new Unmodelled("a listener that does anything but forward to one target group");
    const group = targetGroup(action.TargetGroupArn);
    if (group.vpcId !== balancer.vpcId)
      throw new AwsError("InvalidConfigurationRequestException", "The target group and the load balancer are in different VPCs");
    const tags = checkTags(input.Tags);
    const existing = listenersOf((each) => each.loadBalancerArn === balancer.arn && each.port === port)[0];
    if (existing !== undefined) {
      if (existing.targetGroupArn === group.arn && isDeepStrictEqual(existing.tags, tags)) return { Listeners: [describeListener(existing)] };
      throw new AwsError("DuplicateListenerException", "A listener already exists on this port for this load balancer");
    }
    const elsewhere = listenersOf((each) => each.targetGroupArn === group.arn && each.loadBalancerArn !== balancer.arn);
    if (elsewhere.length > 0) {
      throw new AwsError(
        "TargetGroupAssociationLimitException",
        `The following target groups cannot be associated with more than one load balancer: ${group.arn}`,
      );
    }
    const record: ListenerRecord = {
      arn: `${prefix}listener/net/${balancer.name}/${balancer.id}/${idSource.hex("listener", 16)}`,
      order: ++state.order,
      loadBalancerArn: balancer.arn,
      targetGroupArn: group.arn,
      port,
      createdAtMs: now(),
      tags,
    };
    state.listeners.set(record.arn, record);
    return { Listeners: [describeListener(record)] };
  }

  function describeListener(record: ListenerRecord): Listener {
    return {
      ListenerArn: record.arn,
      LoadBalancerArn: record.loadBalancerArn,
      Port: record.port,
      Protocol: "TCP",
      DefaultActions: [{ Type: "forward", TargetGroupArn: record.targetGroupArn }],
    };
  }

  function traffic(): BalancerTraffic[] {
    return [...state.loadBalancers.values()].map((balancer) => ({
      arn: balancer.arn,
      dnsName: balancer.dnsName,
      active: balancer.activeAtMs <= now(),
      nodes: ec2()
        .managedInterfaces(balancer.arn)
        .flatMap(({ subnetId, address }) => {
          const subnet = ec2().subnet(subnetId);
          return subnet === undefined ? [] : [{ zone: subnet.zone, cidr: subnet.cidr, address }];
        }),
      listeners: listenersOf((each) => each.loadBalancerArn === balancer.arn).map((each) => listenerTraffic(each, targetGroup(each.targetGroupArn))),
    }));
  }

  function listenerTraffic({ port, targetGroupArn, loadBalancerArn }: ListenerRecord, group: TargetGroupRecord): ListenerTraffic {
    sweep(group);
    const crossZone = "load_balancing.cross_zone.enabled";
    const ofBalancer = loadBalancer(loadBalancerArn).attributes[crossZone];
    const ofGroup = group.attributes[crossZone];
    const is = (attribute: string) => group.attributes[attribute] === "true";
    return {
      port,
      targetGroupArn,
      check: group.check,
      crossZone: (ofGroup === "use_load_balancer_configuration" ? ofBalancer : ofGroup) === "true",
      preserveClientIp: is("preserve_client_ip.enabled"),
      endsDrained: is("deregistration_delay.connection_termination.enabled"),
      endsUnhealthy: is("target_health_state.unhealthy.connection_termination.enabled"),
      targets: [...group.targets.values()].flatMap((target) => {
        const instance = ec2().instance(target.id);
        const state = healthOf(group, target).State;
        if (instance === undefined || (state !== "initial" && state !== "healthy" && state !== "unhealthy" && state !== "draining")) return [];
        return [{ instanceId: target.id, zone: instance.zone, address: instance.address, port: target.port, state }];
      }),
    };
  }

  // -------------------------------------------------------------------- rest

  function tagged(arn: string): { tags: Record<string, string> } {
    const kind = /:(loadbalancer|targetgroup|listener)\//.exec(arn)?.[1];
    if (kind === "loadbalancer") return loadBalancer(arn);
    if (kind === "targetgroup") return targetGroup(arn);
    if (kind === "listener") return listener(arn);
    throw invalid(`'${arn}' is not a valid load balancer, target group or listener ARN`);
  }

  function tagsOf(arn: string | undefined): Readonly<Record<string, string>> {
    return (state.loadBalancers.get(arn ?? "") ?? state.targetGroups.get(arn ?? "") ?? state.listeners.get(arn ?? ""))?.tags ?? {};
  }

  function describe<Record extends { readonly order: number; readonly arn: string }>(
    records: Iterable<Record>,
    input: { readonly PageSize?: number | undefined; readonly Marker?: string | undefined },
    wanted: (record: Record) => boolean,
  ) {
    if (input.PageSize !== undefined && !(input.PageSize >= 1 && input.PageSize <= 400))
      throw invalid(`PageSize ${input.PageSize} is not between 1 and 400`);
    const shown = page([...records].filter(wanted), (record) => record.order, {
      size: input.PageSize ?? 400,
      token: input.Marker,
      badToken: "ValidationError",
    });
    return { items: shown.items, more: shown.nextToken === undefined ? {} : { NextMarker: shown.nextToken } };
  }

  /** Keeps the records that the ids or the names ask for; each of them must exist. */
  function chosen(
    ids: readonly string[] | undefined,
    names: readonly string[] | undefined,
    known: ReadonlySet<string>,
    knownNames: ReadonlySet<string>,
    missing: AwsError,
  ) {
    if ((ids ?? []).some((id) => !known.has(id)) || (names ?? []).some((name) => !knownNames.has(name))) throw missing;
    return (record: { readonly arn: string; readonly name: string }) =>
      (ids === undefined || ids.length === 0 || ids.includes(record.arn)) &&
      (names === undefined || names.length === 0 || names.includes(record.name));
  }

  function operation<Input, Output>(
    name: string,
    parts: {
      readonly fields: readonly string[];
      readonly mutates?: boolean;
      readonly permissions?: (input: Input) => readonly Permission[];
      readonly call: (input: Input) => Output;
    },
  ): Operation<Input, Output> {
    return {
      fields: parts.fields,
      mutates: parts.mutates ?? false,
      latency: { milliseconds: parts.mutates === true ? 300 : 110 },
      permissions: parts.permissions ?? (() => allow(`elasticloadbalancing:${name}`)),
      call: (input) => parts.call(input),
    };
  }
  /** On one resource that exists, or would. */
  const on = (name: string, arn: string | undefined, requestTags?: readonly Tag[]) =>
    allow(`elasticloadbalancing:${name}`, [arn ?? "*"], {
      ...resourceTagContext("elasticloadbalancing", tagsOf(arn)),
      ...requestTagContext(tagRecord(requestTags)),
    });
  const creating = (
    name: string,
    resource: string,
    requestTags: readonly Tag[] | undefined,
    extra: Readonly<Record<string, string | readonly string[]>> = {},
  ) => [
    ...allow(`elasticloadbalancing:${name}`, [resource], { ...requestTagContext(tagRecord(requestTags)), ...extra }),
    ...(requestTags === undefined || requestTags.length === 0
      ? []
      : allow("elasticloadbalancing:AddTags", [resource], {
          ...requestTagContext(tagRecord(requestTags)),
          "elasticloadbalancing:CreateAction": name,
        })),
  ];

  const operations = {
    CreateLoadBalancer: operation<CreateLoadBalancerInput, CreateLoadBalancerOutput>("CreateLoadBalancer", {
      fields: fields("Name", "Type", "Scheme", "IpAddressType", "Subnets", "SecurityGroups", "Tags.Key", "Tags.Value"),
      mutates: true,
      permissions: (input) =>
        creating("CreateLoadBalancer", `${prefix}loadbalancer/net/${input.Name ?? ""}/*`, input.Tags, {
          "elasticloadbalancing:Scheme": input.Scheme ?? "internet-facing",
          ...(input.Subnets === undefined ? {} : { "elasticloadbalancing:Subnet": input.Subnets }),
          ...(input.SecurityGroups === undefined ? {} : { "elasticloadbalancing:SecurityGroup": input.SecurityGroups }),
        }),
      call: createLoadBalancer,
    }),
    ModifyLoadBalancerAttributes: operation<ModifyLoadBalancerAttributesInput, ModifyLoadBalancerAttributesOutput>("ModifyLoadBalancerAttributes", {
      fields: fields("LoadBalancerArn", "Attributes.Key", "Attributes.Value"),
      mutates: true,
      permissions: (input) => on("ModifyLoadBalancerAttributes", input.LoadBalancerArn),
      call: (input) => {
        const record = loadBalancer(input.LoadBalancerArn);
        record.attributes = { ...record.attributes, ...checkAttributes(input.Attributes, loadBalancerAttributes) };
        return { Attributes: tagList(record.attributes) };
      },
    }),
    DescribeLoadBalancers: operation<DescribeLoadBalancersInput, DescribeLoadBalancersOutput>("DescribeLoadBalancers", {
      fields: fields("LoadBalancerArns", "Names", "PageSize", "Marker"),
      call: (input) => {
        const missing = new AwsError("LoadBalancerNotFoundException", "One or more load balancers not found");
        const names = new Set([...state.loadBalancers.values()].map((each) => each.name));
        const wanted = chosen(input.LoadBalancerArns, input.Names, new Set(state.loadBalancers.keys()), names, missing);
        const shown = describe(state.loadBalancers.values(), input, wanted);
        return { LoadBalancers: shown.items.map(describeLoadBalancer), ...shown.more };
      },
    }),
    DeleteLoadBalancer: operation<DeleteLoadBalancerInput, DeleteLoadBalancerOutput>("DeleteLoadBalancer", {
      fields: ["LoadBalancerArn"],
      mutates: true,
      permissions: (input) => on("DeleteLoadBalancer", input.LoadBalancerArn),
      call: deleteLoadBalancer,
    }),
    CreateTargetGroup: operation<CreateTargetGroupInput, CreateTargetGroupOutput>("CreateTargetGroup", {
      fields: fields(
        "Name",
        "Protocol",
        "Port",
        "VpcId",
        "TargetType",
        "HealthCheckEnabled",
        "HealthCheckProtocol",
        "HealthCheckPort",
        "HealthCheckPath",
        "HealthCheckIntervalSeconds",
        "HealthCheckTimeoutSeconds",
        "HealthyThresholdCount",
        "UnhealthyThresholdCount",
        "Matcher.HttpCode",
        "Tags.Key",
        "Tags.Value",
      ),
      mutates: true,
      permissions: (input) => creating("CreateTargetGroup", `${prefix}targetgroup/${input.Name ?? ""}/*`, input.Tags),
      call: createTargetGroup,
    }),
    ModifyTargetGroupAttributes: operation<ModifyTargetGroupAttributesInput, ModifyTargetGroupAttributesOutput>("ModifyTargetGroupAttributes", {
      fields: fields("TargetGroupArn", "Attributes.Key", "Attributes.Value"),
      mutates: true,
      permissions: (input) => on("ModifyTargetGroupAttributes", input.TargetGroupArn),
      call: (input) => {
        const record = targetGroup(input.TargetGroupArn);
        record.attributes = { ...record.attributes, ...checkAttributes(input.Attributes, targetGroupAttributes) };
        return { Attributes: tagList(record.attributes) };
      },
    }),
    DescribeTargetGroups: operation<DescribeTargetGroupsInput, DescribeTargetGroupsOutput>("DescribeTargetGroups", {
      fields: fields("TargetGroupArns", "Names", "LoadBalancerArn", "PageSize", "Marker"),
      call: (input) => {
        const missing = new AwsError("TargetGroupNotFoundException", "One or more target groups not found");
        const names = new Set([...state.targetGroups.values()].map((each) => each.name));
        const wanted = chosen(input.TargetGroupArns, input.Names, new Set(state.targetGroups.keys()), names, missing);
        const balancer = input.LoadBalancerArn === undefined ? undefined : loadBalancer(input.LoadBalancerArn);
        const ofBalancer = new Set(listenersOf((each) => each.loadBalancerArn === balancer?.arn).map((each) => each.targetGroupArn));
        const shown = describe(
          state.targetGroups.values(),
          input,
          (record) => wanted(record) && (balancer === undefined || ofBalancer.has(record.arn)),
        );
        return { TargetGroups: shown.items.map(describeTargetGroup), ...shown.more };
      },
    }),
    DeleteTargetGroup: operation<DeleteTargetGroupInput, DeleteTargetGroupOutput>("DeleteTargetGroup", {
      fields: ["TargetGroupArn"],
      mutates: true,
      permissions: (input) => on("DeleteTargetGroup", input.TargetGroupArn),
      call: deleteTargetGroup,
    }),
    CreateListener: operation<CreateListenerInput, CreateListenerOutput>("CreateListener", {
      fields: fields("LoadBalancerArn", "Protocol", "Port", "DefaultActions.Type", "DefaultActions.TargetGroupArn", "Tags.Key", "Tags.Value"),
      mutates: true,
      permissions: (input) => {
        const made = (input.LoadBalancerArn ?? "").replace(":loadbalancer/", ":listener/");
        return [
          ...on("CreateListener", input.LoadBalancerArn, input.Tags),
          ...(input.Tags === undefined || input.Tags.length === 0
            ? []
            : allow("elasticloadbalancing:AddTags", [`${made}/*`], {
                ...requestTagContext(tagRecord(input.Tags)),
                "elasticloadbalancing:CreateAction": "CreateListener",
              })),
        ];
      },
      call: createListener,
    }),
    DescribeListeners: operation<DescribeListenersInput, DescribeListenersOutput>("DescribeListeners", {
      fields: fields("ListenerArns", "LoadBalancerArn", "PageSize", "Marker"),
      call: (input) => {
        for (const arn of input.ListenerArns ?? []) listener(arn);
        const balancer = input.LoadBalancerArn === undefined ? undefined : loadBalancer(input.LoadBalancerArn);
        const shown = describe(
          state.listeners.values(),
          input,
          (record) =>
            (input.ListenerArns === undefined || input.ListenerArns.includes(record.arn)) &&
            (balancer === undefined || record.loadBalancerArn === balancer.arn),
        );
        return { Listeners: shown.items.map(describeListener), ...shown.more };
      },
    }),
    DeleteListener: operation<DeleteListenerInput, DeleteListenerOutput>("DeleteListener", {
      fields: ["ListenerArn"],
      mutates: true,
      permissions: (input) => on("DeleteListener", input.ListenerArn),
      call: (input) => {
        state.listeners.delete(listener(input.ListenerArn).arn);
        return {};
      },
    }),
    RegisterTargets: operation<RegisterTargetsInput, RegisterTargetsOutput>("RegisterTargets", {
      fields: fields("TargetGroupArn", "Targets.Id", "Targets.Port"),
      mutates: true,
      permissions: (input) => on("RegisterTargets", input.TargetGroupArn),
      call: registerTargets,
    }),
    DeregisterTargets: operation<DeregisterTargetsInput, DeregisterTargetsOutput>("DeregisterTargets", {
      fields: fields("TargetGroupArn", "Targets.Id", "Targets.Port"),
      mutates: true,
      permissions: (input) => on("DeregisterTargets", input.TargetGroupArn),
      call: deregisterTargets,
    }),
    DescribeTargetHealth: operation<DescribeTargetHealthInput, DescribeTargetHealthOutput>("DescribeTargetHealth", {
      fields: fields("TargetGroupArn", "Targets.Id", "Targets.Port"),
      call: describeTargetHealth,
    }),
    AddTags: operation<AddTagsInput, AddTagsOutput>("AddTags", {
      fields: fields("ResourceArns", "Tags.Key", "Tags.Value"),
      mutates: true,
      permissions: (input) => (input.ResourceArns ?? []).flatMap((arn) => on("AddTags", arn, input.Tags)),
      call: (input) => {
        const tags = checkTags(input.Tags);
        const records = (input.ResourceArns ?? []).map(tagged);
        for (const record of records) {
          if (Object.keys({ ...record.tags, ...tags }).length > 50)
            throw new AwsError("TooManyTagsException", "The maximum number of tags has been reached");
        }
        for (const record of records) record.tags = { ...record.tags, ...tags };
        return {};
      },
    }),
    DescribeTags: operation<DescribeTagsInput, DescribeTagsOutput>("DescribeTags", {
      fields: fields("ResourceArns"),
      call: (input) => {
        const arns = input.ResourceArns ?? [];
        if (arns.length < 1 || arns.length > 20) throw invalid("DescribeTags takes 1 to 20 resource ARNs");
        return { TagDescriptions: arns.map((ResourceArn) => ({ ResourceArn, Tags: tagList(tagged(ResourceArn).tags) })) };
      },
    }),
  };

  return {
    name: "elastic-load-balancing-v2",
    operations,
    throttle: { code: "Throttling", httpStatus: 400 },
    save: () => structuredClone({ ...state, idsGiven: idSource.given }),
    load(saved) {
      state = structuredClone(saved) as State;
      idSource = new Ids(state.idSeed, state.idsGiven);
    },
    existing: () => ({
      loadBalancers: [...state.loadBalancers.values()].map((record) => record.name),
      targetGroups: [...state.targetGroups.values()].map((record) => record.name),
    }),
    route: (dnsName, port) => {
      const balancer = [...state.loadBalancers.values()].find((record) => record.dnsName === dnsName);
      if (balancer === undefined || balancer.activeAtMs > now()) return [];
      const [found] = listenersOf((each) => each.loadBalancerArn === balancer.arn && each.port === port);
      const group = state.targetGroups.get(found?.targetGroupArn ?? "");
      if (group === undefined) return [];
      sweep(group);
      const all = [...group.targets.values()].filter((target) => ["healthy", "unhealthy", "initial"].includes(healthOf(group, target).State ?? ""));
      const healthy = all.filter((target) => healthOf(group, target).State === "healthy");
      return (healthy.length > 0 ? healthy : all).map((target) => ({ instanceId: target.id, port: target.port }));
    },
    traffic,
  };
}

function health(State: NonNullable<TargetHealth["State"]>, Reason: NonNullable<TargetHealth["Reason"]>, Description: string): TargetHealth {
  return { State, Reason, Description };
}

function invalid(message: string): AwsError {
  return new AwsError("ValidationError", message);
}

/** At most 32 letters, digits and hyphens, no hyphen at an end. */
function checkName(name: string | undefined, what: string): string {
  if (name === undefined || name === "") throw invalid(`A ${what} name must be specified`);
  if (name.length > 32) throw invalid(`The ${what} name '${name}' cannot be longer than '32' characters`);
  if (!/^[A-Za-z0-9-]+$/.test(name))
    throw invalid(`The ${what} name '${name}' can only contain characters that are alphanumeric characters and hyphens(-)`);
  if (name.startsWith("-") || name.endsWith("-")) throw invalid(`The ${what} name '${name}' cannot begin or end with a hyphen(-)`);
  return name;
}

function checkPort(port: number | undefined): number {
  if (port === undefined || !(port >= 1 && port <= 65_535)) throw invalid(`Port ${port ?? ""} must be between 1 and 65535`);
  return port;
}

function checkTags(list: readonly Tag[] | undefined): Record<string, string> {
  const tags = tagRecord(list);
  if (Object.keys(tags).length < (list ?? []).length) throw new AwsError("DuplicateTagKeysException", "A tag key was specified more than once");
  if (Object.keys(tags).length > 50) throw new AwsError("TooManyTagsException", "The maximum number of tags has been reached");
  for (const [key, value] of Object.entries(tags)) {
    if (!/^(?!aws:)[\p{L}\p{Z}\p{N}_.:/=+\-@]{1,128}$/u.test(key) || value.length > 256) throw invalid(`Tag '${key}' is not valid`);
  }
  return tags;
}

function defaults(attributes: Readonly<Record<string, readonly [string, RegExp]>>): Record<string, string> {
  return Object.fromEntries(Object.entries(attributes).map(([name, [value]]) => [name, value]));
}

function checkAttributes(
  given: readonly { readonly Key?: string | undefined; readonly Value?: string | undefined }[] | undefined,
  known: Readonly<Record<string, readonly [string, RegExp]>>,
): Record<string, string> {
  const checked: Record<string, string> = {};
  for (const { Key: key = "", Value: value = "" } of given ?? []) {
    const rule = known[key];
    if (rule === undefined) throw new Unmodelled(`attribute ${key} of a load balancer or target group`);
    if (!rule[1].test(value)) throw new AwsError("InvalidConfigurationRequestException", `The value '${value}' is not valid for attribute '${key}'`);
    checked[key] = value;
  }
  return checked;
}

function healthCheckOf(input: CreateTargetGroupInput): HealthCheck {
  const protocol = input.HealthCheckProtocol ?? "TCP";
  if (!["TCP", "HTTP", "HTTPS"].includes(protocol)) throw new Unmodelled(`a health check of protocol ${protocol}`);
  if (input.HealthCheckEnabled === false) throw invalid("Health checks must be enabled for target groups with target type 'instance'");
  const web = protocol !== "TCP";
  const between = (value: number, least: number, most: number, name: string) => {
    if (!(Number.isInteger(value) && value >= least && value <= most)) throw invalid(`${name} ${value} must be between ${least} and ${most}`);
    return value;
  };
  if (!web && (input.HealthCheckPath !== undefined || input.Matcher !== undefined)) {
    throw new AwsError("InvalidConfigurationRequestException", "Health check path and matcher are not supported for health checks with protocol TCP");
  }
  if (input.HealthCheckPath !== undefined && !/^\/.{0,1023}$/.test(input.HealthCheckPath))
    throw invalid(`Health check path '${input.HealthCheckPath}' must begin with a '/'`);
  const matcher = web ? (input.Matcher?.HttpCode ?? "200-399") : undefined;
  const codes = (matcher ?? "").split(/[-,]/).map(Number);
  if (web && !codes.every((code) => code >= 200 && code <= 599))
    throw invalid(`Health check matcher HTTP code '${matcher}' must be within '200-599' inclusive`);
  const port = input.HealthCheckPort ?? "traffic-port";
  if (port !== "traffic-port") checkPort(Number(port));
  const intervalSeconds = between(input.HealthCheckIntervalSeconds ?? 30, 5, 300, "Health check interval");
  const timeoutSeconds = between(input.HealthCheckTimeoutSeconds ?? (protocol === "HTTP" ? 6 : 10), 2, 120, "Health check timeout");
  if (timeoutSeconds >= intervalSeconds && intervalSeconds !== 10)
    throw invalid(`Health check timeout '${timeoutSeconds}' must be smaller than the interval '${intervalSeconds}'`);
  return {
    protocol,
    port,
    path: web ? (input.HealthCheckPath ?? "/") : undefined,
    intervalSeconds,
    timeoutSeconds,
    healthyThreshold: between(input.HealthyThresholdCount ?? 5, 2, 10, "Healthy threshold count"),
    unhealthyThreshold: between(input.UnhealthyThresholdCount ?? 2, 2, 10, "Unhealthy threshold count"),
    matcher,
  };
}
