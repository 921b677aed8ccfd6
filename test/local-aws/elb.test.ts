import { describe, expect, it } from "vitest";
import { Unmodelled } from "../../local/kernel/contract.js";
import type { NodeDriver } from "../../local/nodes/contract.js";
import { errorOf, fleet, subnetA, subnetB, vpcId } from "./fleet.js";
import { codeOf, permissionsOf } from "./tiny-world.js";

type Cloud = ReturnType<typeof fleet>;

function securityGroup(cloud: Cloud): string {
  return cloud.ec2Call("CreateSecurityGroup", { GroupName: "endpoint", Description: "endpoint", VpcId: vpcId }).GroupId;
}

const balancerInput = (overrides: Record<string, unknown> = {}) => ({
  Name: "drv-prod-0123abcd",
  Type: "network",
  Scheme: "internal",
  IpAddressType: "ipv4",
  Subnets: [subnetA, subnetB],
  ...overrides,
});
const groupInput = (overrides: Record<string, unknown> = {}) => ({
  Name: "drv-prod-0123abcd-s",
  Protocol: "TCP",
  Port: 9345,
  VpcId: vpcId,
  TargetType: "instance",
  HealthCheckProtocol: "HTTPS",
  HealthCheckPath: "/ping",
  HealthCheckIntervalSeconds: 5,
  HealthCheckTimeoutSeconds: 4,
  HealthyThresholdCount: 2,
  UnhealthyThresholdCount: 2,
  ...overrides,
});
const balancer = (cloud: Cloud, overrides: Record<string, unknown> = {}): string =>
  cloud.elbCall("CreateLoadBalancer", balancerInput(overrides)).LoadBalancers[0].LoadBalancerArn;
const targetGroup = (cloud: Cloud, overrides: Record<string, unknown> = {}): string =>
  cloud.elbCall("CreateTargetGroup", groupInput(overrides)).TargetGroups[0].TargetGroupArn;
const listen = (cloud: Cloud, balancerArn: string, groupArn: string, overrides: Record<string, unknown> = {}) =>
  cloud.elbCall("CreateListener", {
    LoadBalancerArn: balancerArn,
    Protocol: "TCP",
    Port: 9345,
    DefaultActions: [{ Type: "forward", TargetGroupArn: groupArn }],
    ...overrides,
  }).Listeners[0].ListenerArn as string;
const health = (cloud: Cloud, groupArn: string) =>
  cloud
    .elbCall("DescribeTargetHealth", { TargetGroupArn: groupArn })
    .TargetHealthDescriptions.map((each: { TargetHealth: { State: string; Reason?: string } }) => [
      each.TargetHealth.State,
      each.TargetHealth.Reason,
    ]);
const register = (cloud: Cloud, groupArn: string, ids: readonly string[]) =>
  cloud.elbCall("RegisterTargets", { TargetGroupArn: groupArn, Targets: ids.map((Id) => ({ Id })) });

/** Lets a node's ports answer, or not, from now on. */
function answering(cloud: Cloud): (id: string, answers: boolean) => void {
  const ports = new Map<string, { answers: boolean; sinceMs: number }>();
  const driver: NodeDriver = { ...cloud.nodes, answers: (id) => ports.get(id) ?? { answers: false, sinceMs: 0 } };
  cloud.world.add(driver);
  return (id, answers) => void ports.set(id, { answers, sinceMs: cloud.world.clock.now() });
}

async function running(cloud: Cloud, overrides: Record<string, unknown> = {}): Promise<string> {
  const [id = ""] = cloud.ids(overrides);
  await cloud.pass(60);
  return id;
}

describe("load balancers", () => {
  it("provision for minutes, then are active", async () => {
    const cloud = fleet();
    balancer(cloud);
    const state = () => cloud.elbCall("DescribeLoadBalancers", { Names: ["drv-prod-0123abcd"] }).LoadBalancers[0].State.Code;
    expect(state()).toBe("provisioning");
    await cloud.pass(60);
    expect(state()).toBe("provisioning");
    await cloud.pass(400);
    expect(state()).toBe("active");
  });

  it("are application load balancers facing the internet unless told otherwise", () => {
    const cloud = fleet();
    expect(() => balancer(cloud, { Type: undefined })).toThrow(Unmodelled);
    const arn = balancer(cloud, { Scheme: undefined });
    expect(cloud.elbCall("DescribeLoadBalancers", { LoadBalancerArns: [arn] }).LoadBalancers[0].Scheme).toBe("internet-facing");
  });

  it("are made once for the same name and settings, and refused for other settings", () => {
    const cloud = fleet();
    const tags = [{ Key: "drover:uid", Value: "u1" }];
    const arn = balancer(cloud, { Tags: tags });
    expect(balancer(cloud, { Tags: tags, Subnets: [subnetB, subnetA] })).toBe(arn);
    expect(codeOf(() => balancer(cloud, { Tags: tags, Scheme: "internet-facing" }))).toBe("DuplicateLoadBalancerNameException 400");
    expect(codeOf(() => balancer(cloud, { Tags: tags, SecurityGroups: [securityGroup(cloud)] }))).toBe("DuplicateLoadBalancerNameException 400");
    expect(cloud.elb.existing().loadBalancers).toHaveLength(1);
  });

  it.each([
    ["n".repeat(33), "longer than '32'"],
    ["-name", "begin or end with a hyphen"],
    ["name-", "begin or end with a hyphen"],
    ["na_me", "alphanumeric"],
    ["internal-name", "cannot begin with 'internal-'"],
  ])("cannot be named %s", (name, text) => {
    const cloud = fleet();
    expect(errorOf(() => balancer(cloud, { Name: name }))).toMatchObject({ code: "ValidationError", message: expect.stringContaining(text) });
  });

  it("hold their security groups for minutes after they are gone", async () => {
    const cloud = fleet();
    const group = securityGroup(cloud);
    const arn = balancer(cloud, { SecurityGroups: [group] });
    const interfaces = () => cloud.ec2Call("DescribeNetworkInterfaces", { Filters: [{ Name: "group-id", Values: [group] }] }).NetworkInterfaces;
    expect(interfaces()).toMatchObject([
      { RequesterManaged: true, SubnetId: subnetA },
      { RequesterManaged: true, SubnetId: subnetB },
    ]);
    cloud.elbCall("DeleteLoadBalancer", { LoadBalancerArn: arn });
    cloud.elbCall("DeleteLoadBalancer", { LoadBalancerArn: arn });
    await cloud.pass(30);
    expect(codeOf(() => cloud.ec2Call("DeleteSecurityGroup", { GroupId: group }))).toBe("DependencyViolation 400");
    await cloud.pass(300);
    expect(interfaces()).toEqual([]);
    cloud.ec2Call("DeleteSecurityGroup", { GroupId: group });
  });

  it("protected from deletion stay", () => {
    const cloud = fleet();
    const arn = balancer(cloud);
    const set = (value: string) =>
      cloud.elbCall("ModifyLoadBalancerAttributes", { LoadBalancerArn: arn, Attributes: [{ Key: "deletion_protection.enabled", Value: value }] });
    set("true");
    expect(codeOf(() => cloud.elbCall("DeleteLoadBalancer", { LoadBalancerArn: arn }))).toBe("OperationNotPermittedException 400");
    set("false");
    cloud.elbCall("DeleteLoadBalancer", { LoadBalancerArn: arn });
    expect(codeOf(() => cloud.elbCall("DescribeLoadBalancers", { Names: ["drv-prod-0123abcd"] }))).toBe("LoadBalancerNotFoundException 400");
  });

  it("need permission on a resource that carries the request's tags", () => {
    const { world, elb } = fleet();
    const needed = permissionsOf(world, elb, "CreateLoadBalancer", balancerInput({ Tags: [{ Key: "drover:uid", Value: "u1" }] }));
    const resource = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:loadbalancer/net/drv-prod-0123abcd/*";
    expect(needed.map((each) => [each.action, each.resource])).toEqual([
      ["elasticloadbalancing:CreateLoadBalancer", resource],
      ["elasticloadbalancing:AddTags", resource],
    ]);
    expect(needed[1]?.context).toMatchObject({ "aws:RequestTag/drover:uid": "u1", "elasticloadbalancing:CreateAction": "CreateLoadBalancer" });
  });
});

describe("target groups and listeners", () => {
  it("cannot be deleted while a listener forwards to them", () => {
    const cloud = fleet();
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    const listenerArn = listen(cloud, balancerArn, groupArn);
    expect(codeOf(() => cloud.elbCall("DeleteTargetGroup", { TargetGroupArn: groupArn }))).toBe("ResourceInUseException 400");
    cloud.elbCall("DeleteListener", { ListenerArn: listenerArn });
    cloud.elbCall("DeleteTargetGroup", { TargetGroupArn: groupArn });
    expect(cloud.elb.existing().targetGroups).toEqual([]);
  });

  it("go with their load balancer when they are listeners", () => {
    const cloud = fleet();
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    listen(cloud, balancerArn, groupArn);
    cloud.elbCall("DeleteLoadBalancer", { LoadBalancerArn: balancerArn });
    expect(cloud.elbCall("DescribeListeners", {}).Listeners).toEqual([]);
    cloud.elbCall("DeleteTargetGroup", { TargetGroupArn: groupArn });
  });

  it("are made once for the same settings, and refused for other ones", () => {
    const cloud = fleet();
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    expect(targetGroup(cloud)).toBe(groupArn);
    expect(codeOf(() => targetGroup(cloud, { Port: 6443 }))).toBe("DuplicateTargetGroupNameException 400");
    expect(listen(cloud, balancerArn, groupArn)).toBe(listen(cloud, balancerArn, groupArn));
    const other = targetGroup(cloud, { Name: "other", Port: 6443 });
    expect(codeOf(() => listen(cloud, balancerArn, other))).toBe("DuplicateListenerException 400");
  });

  it.each([
    ["an interval under five seconds", { HealthCheckIntervalSeconds: 4 }, "ValidationError"],
    ["a matcher outside 200 to 599", { Matcher: { HttpCode: "100-399" } }, "ValidationError"],
    ["a path for a TCP check", { HealthCheckProtocol: "TCP" }, "InvalidConfigurationRequestException"],
    ["a network that is not there", { VpcId: "vpc-00000000000000000" }, "ValidationError"],
  ])("refuse %s", (_, overrides, code) => {
    const cloud = fleet();
    expect(errorOf(() => targetGroup(cloud, overrides)).code).toBe(code);
  });

  it("refuse an attribute value that cannot be, and stop the world at one that is not modelled", () => {
    const cloud = fleet();
    const arn = targetGroup(cloud);
    const set = (Key: string, Value: string) => () =>
      cloud.elbCall("ModifyTargetGroupAttributes", { TargetGroupArn: arn, Attributes: [{ Key, Value }] });
    expect(codeOf(set("deregistration_delay.timeout_seconds", "3601"))).toBe("InvalidConfigurationRequestException 400");
    expect(set("slow_start.duration_seconds", "30")).toThrow(Unmodelled);
    set("preserve_client_ip.enabled", "false")();
  });

  it("keep tags, also those added later", () => {
    const cloud = fleet();
    const arn = targetGroup(cloud, { Tags: [{ Key: "drover:uid", Value: "u1" }] });
    cloud.elbCall("AddTags", { ResourceArns: [arn], Tags: [{ Key: "more", Value: "x" }] });
    expect(cloud.elbCall("DescribeTags", { ResourceArns: [arn] }).TagDescriptions[0].Tags).toEqual([
      { Key: "drover:uid", Value: "u1" },
      { Key: "more", Value: "x" },
    ]);
  });
});

describe("targets", () => {
  it("must run when they are registered", () => {
    const cloud = fleet();
    const [id = ""] = cloud.ids();
    const arn = targetGroup(cloud);
    expect(codeOf(() => register(cloud, arn, [id]))).toBe("InvalidTargetException 400");
    expect(codeOf(() => register(cloud, arn, ["i-00000000000000000"]))).toBe("InvalidTargetException 400");
  });

  it("are unused before a listener, initial until checks begin, then healthy because their port answers", async () => {
    const cloud = fleet();
    const answers = answering(cloud);
    const id = await running(cloud);
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    register(cloud, groupArn, [id]);
    expect(health(cloud, groupArn)).toEqual([["unused", "Target.NotInUse"]]);
    listen(cloud, balancerArn, groupArn);
    answers(id, true);
    expect(health(cloud, groupArn)).toEqual([["initial", "Elb.RegistrationInProgress"]]);
    await cloud.pass(900);
    expect(health(cloud, groupArn)).toEqual([["healthy", undefined]]);
  });

  it("share one delay when they were registered before the load balancer was active", async () => {
    const cloud = fleet({ seed: 9 });
    answering(cloud);
    const ids = [await running(cloud), await running(cloud), await running(cloud)];
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    listen(cloud, balancerArn, groupArn);
    for (const id of ids) register(cloud, groupArn, [id]);
    const begins = new Set<number>();
    for (let second = 0; second < 700; second++) {
      const initial = health(cloud, groupArn).filter((each: string[]) => each[1] === "Elb.RegistrationInProgress").length;
      if (initial > 0 && initial < 3) begins.add(second);
      await cloud.pass(1);
    }
    expect([...begins]).toEqual([]);
    expect(health(cloud, groupArn).map((each: string[]) => each[0])).toEqual(["unhealthy", "unhealthy", "unhealthy"]);
  });

  it("wait for their own delay when they come after the load balancer was active", async () => {
    const cloud = fleet();
    const answers = answering(cloud);
    const id = await running(cloud);
    answers(id, true);
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    listen(cloud, balancerArn, groupArn);
    await cloud.pass(3600);
    register(cloud, groupArn, [id]);
    await cloud.pass(20);
    expect(health(cloud, groupArn)).toEqual([["initial", "Elb.RegistrationInProgress"]]);
    await cloud.pass(600);
    expect(health(cloud, groupArn)).toEqual([["healthy", undefined]]);
  });

  it("follow their node: unhealthy when it stops answering, healthy when it answers again", async () => {
    const cloud = fleet();
    const answers = answering(cloud);
    const id = await running(cloud);
    answers(id, true);
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    listen(cloud, balancerArn, groupArn);
    register(cloud, groupArn, [id]);
    await cloud.pass(1200);
    answers(id, false);
    expect(health(cloud, groupArn)[0]?.[0]).toBe("healthy");
    await cloud.pass(10);
    expect(health(cloud, groupArn)).toEqual([["unhealthy", "Target.FailedHealthChecks"]]);
    answers(id, true);
    expect(health(cloud, groupArn)[0]?.[0]).toBe("unhealthy");
    await cloud.pass(90);
    expect(health(cloud, groupArn)[0]?.[0]).toBe("healthy");
    cloud.ec2Call("TerminateInstances", { InstanceIds: [id] });
    expect(health(cloud, groupArn)).toEqual([["unused", "Target.InvalidState"]]);
  });

  it("drain for the deregistration delay, and are gone at once when nothing reaches them", async () => {
    const cloud = fleet();
    const answers = answering(cloud);
    const id = await running(cloud);
    answers(id, true);
    const [balancerArn, groupArn, unused] = [balancer(cloud), targetGroup(cloud), targetGroup(cloud, { Name: "unused" })];
    listen(cloud, balancerArn, groupArn);
    cloud.elbCall("ModifyTargetGroupAttributes", {
      TargetGroupArn: groupArn,
      Attributes: [{ Key: "deregistration_delay.timeout_seconds", Value: "30" }],
    });
    for (const arn of [groupArn, unused]) register(cloud, arn, [id]);
    await cloud.pass(900);
    for (const arn of [groupArn, unused])
      cloud.elbCall("DeregisterTargets", { TargetGroupArn: arn, Targets: [{ Id: id }, { Id: "i-00000000000000000" }] });
    expect(health(cloud, unused)).toEqual([]);
    expect(health(cloud, groupArn)).toEqual([["draining", "Target.DeregistrationInProgress"]]);
    await cloud.pass(31);
    expect(health(cloud, groupArn)).toEqual([]);
    expect(
      cloud.elbCall("DescribeTargetHealth", { TargetGroupArn: groupArn, Targets: [{ Id: id }] }).TargetHealthDescriptions[0].TargetHealth,
    ).toMatchObject({
      State: "unused",
      Reason: "Target.NotRegistered",
    });
  });

  it("are not used in a zone the load balancer is not in", async () => {
    const cloud = fleet();
    const id = await running(cloud, { SubnetId: subnetB });
    const [balancerArn, groupArn] = [balancer(cloud, { Subnets: [subnetA] }), targetGroup(cloud)];
    listen(cloud, balancerArn, groupArn);
    register(cloud, groupArn, [id]);
    await cloud.pass(900);
    expect(health(cloud, groupArn)).toEqual([["unused", "Target.NotInUse"]]);
  });

  it("are all reached when none of them is healthy", async () => {
    const cloud = fleet();
    const answers = answering(cloud);
    const [first, second] = [await running(cloud), await running(cloud)];
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    listen(cloud, balancerArn, groupArn);
    register(cloud, groupArn, [first, second]);
    await cloud.pass(900);
    const { DNSName } = cloud.elbCall("DescribeLoadBalancers", { LoadBalancerArns: [balancerArn] }).LoadBalancers[0];
    const reached = () => cloud.elb.route(DNSName, 9345).map((target) => target.instanceId);
    expect(reached()).toEqual([first, second]);
    answers(second, true);
    await cloud.pass(60);
    expect(reached()).toEqual([second]);
  });

  it("are remembered over a save and a load", async () => {
    const cloud = fleet();
    const id = await running(cloud);
    const [balancerArn, groupArn] = [balancer(cloud), targetGroup(cloud)];
    listen(cloud, balancerArn, groupArn);
    register(cloud, groupArn, [id]);
    const after = fleet();
    after.ec2.load(structuredClone(cloud.ec2.save()));
    after.elb.load(structuredClone(cloud.elb.save()));
    expect(health(after, groupArn)).toEqual([["initial", "Elb.RegistrationInProgress"]]);
    expect(balancer(after, {})).toBe(balancerArn);
    expect(targetGroup(after, { Name: "new" })).not.toBe(targetGroup(cloud, { Name: "other" }));
  });
});
