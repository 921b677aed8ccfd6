import { describe, expect, it } from "vitest";
import { Unmodelled } from "../../local/kernel/contract.js";
import { errorOf, fleet, subnetA, subnetB, subnetC, ubuntu, vpcId } from "./fleet.js";
import { codeOf, permissionsOf } from "./tiny-world.js";

const tagged = (tags: Record<string, string>, type = "instance") => [
  { ResourceType: type, Tags: Object.entries(tags).map(([Key, Value]) => ({ Key, Value })) },
];

describe("launching instances", () => {
  it("answers pending, and the instance runs some seconds later with an address of its subnet", async () => {
    const { launch, ec2Call, pass } = fleet();
    const [instance] = launch({ SubnetId: subnetB });
    expect(instance).toMatchObject({ State: { Name: "pending" }, AmiLaunchIndex: 0, Placement: { AvailabilityZone: "eu-central-1b" } });
    expect(instance?.PrivateIpAddress).toMatch(/^10\.0\.(1[6-9]|2\d|3[01])\.\d+$/);
    await pass(60);
    const found = ec2Call("DescribeInstances", { InstanceIds: [instance?.InstanceId] });
    expect(found.Reservations[0].Instances[0].State.Name).toBe("running");
  });

  it("answers the same instances to the same token and parameters", async () => {
    const { launch, pass } = fleet();
    const first = launch({ ClientToken: "token-1", MinCount: 1, MaxCount: 3 });
    await pass(30);
    const again = launch({ ClientToken: "token-1", MinCount: 1, MaxCount: 3 });
    expect(again.map((instance) => instance.InstanceId)).toEqual(first.map((instance) => instance.InstanceId));
    expect(first.map((instance) => instance.AmiLaunchIndex)).toEqual([0, 1, 2]);
  });

  it("refuses a token whose parameters have changed", () => {
    const { launch } = fleet();
    launch({ ClientToken: "token-1" });
    expect(codeOf(() => launch({ ClientToken: "token-1", InstanceType: "m5.xlarge" }))).toBe("IdempotentParameterMismatch 400");
  });

  it("launches a second time with the same token in another zone, which a retry must therefore never do", () => {
    const { launch, ec2 } = fleet();
    const [first] = launch({ ClientToken: "token-1" });
    const [second] = launch({ ClientToken: "token-1", SubnetId: subnetB });
    expect(second?.InstanceId).not.toBe(first?.InstanceId);
    expect(ec2.living()).toHaveLength(2);
  });

  it("refuses the token of a terminated instance, also when the instance is forgotten", async () => {
    const { ids, launch, ec2Call, pass } = fleet();
    const made = ids({ ClientToken: "token-1" });
    await pass(60);
    ec2Call("TerminateInstances", { InstanceIds: made });
    await pass(60);
    expect(codeOf(() => launch({ ClientToken: "token-1" }))).toBe("IdempotentInstanceTerminated 400");
    await pass(7200);
    expect(codeOf(() => launch({ ClientToken: "token-1" }))).toBe("IdempotentInstanceTerminated 400");
  });

  it("launches as many as there is room for between the least and the most, else none", async () => {
    const { launch, ec2, pass } = fleet({ seed: 2, faults: { capacityError: 1 } });
    const made = launch({ MinCount: 1, MaxCount: 200 });
    expect(made.length).toBeGreaterThan(0);
    expect(made.length).toBeLessThan(200);
    await pass(5);
    const failure = errorOf(() => launch({ MinCount: 1, MaxCount: 200 }));
    expect(failure).toMatchObject({ code: "InsufficientInstanceCapacity", httpStatus: 500 });
    expect(failure.message).toContain("m6i.xlarge");
    expect(ec2.living()).toHaveLength(made.length);
  });

  it("finds room again once the world's faults are healed", () => {
    const { world, launch } = fleet({ faults: { capacityError: 1 } });
    expect(codeOf(() => launch({ MinCount: 50, MaxCount: 50 }))).toBe("InsufficientInstanceCapacity 500");
    Object.assign(world.faults.rates, { capacityError: 0 });
    expect(launch({ MinCount: 50, MaxCount: 50 })).toHaveLength(50);
  });

  it("bears five requests at once and two a second after that", async () => {
    const { launch, pass } = fleet();
    for (let request = 0; request < 5; request++) launch();
    expect(codeOf(() => launch())).toBe("RequestLimitExceeded 503");
    await pass(1);
    launch();
    launch();
    expect(codeOf(() => launch())).toBe("RequestLimitExceeded 503");
  });

  it("bears a thousand instances at once and two a second after that", async () => {
    const { launch, pass } = fleet();
    launch({ MinCount: 1, MaxCount: 1000 });
    await pass(10);
    expect(launch({ MinCount: 1, MaxCount: 20 })).toHaveLength(20);
    expect(codeOf(() => launch({ MinCount: 1, MaxCount: 20 }))).toBe("RequestLimitExceeded 503");
  });

  it("does not launch a type where its zone has none, or its architecture is not the image's", () => {
    const { launch } = fleet();
    expect(codeOf(() => launch({ InstanceType: "m7i.xlarge", SubnetId: subnetC }))).toBe("Unsupported 400");
    expect(errorOf(() => launch({ InstanceType: "m7g.xlarge" })).message).toContain("does not match the architecture 'x86_64'");
    expect(codeOf(() => launch({ InstanceType: "m99.huge" }))).toBe("InvalidParameterValue 400");
  });

  it.each([
    ["an unknown image", { ImageId: "ami-00000000000000000" }, "InvalidAMIID.NotFound"],
    ["an unknown subnet", { SubnetId: "subnet-00000000000000000" }, "InvalidSubnetID.NotFound"],
    ["an unknown security group", { SecurityGroupIds: ["sg-00000000000000000"] }, "InvalidGroup.NotFound"],
    ["an unknown instance profile", { IamInstanceProfile: { Arn: "arn:aws:iam::111122223333:instance-profile/other" } }, "InvalidParameterValue"],
    ["metadata without tokens", { MetadataOptions: { HttpTokens: "optional" } }, "UnsupportedOperation"],
    [
      "a root volume smaller than the image",
      { BlockDeviceMappings: [{ DeviceName: "/dev/sda1", Ebs: { VolumeSize: 4 } }] },
      "InvalidBlockDeviceMapping",
    ],
    ["more than 16 KB of user data", { UserData: Buffer.alloc(16_385).toString("base64") }, "InvalidParameterValue"],
    ["a token of 65 characters", { ClientToken: "t".repeat(65) }, "InvalidParameterValue"],
    ["a reserved tag", { TagSpecifications: tagged({ "aws:mine": "x" }) }, "InvalidParameterValue"],
    ["fewer at most than at least", { MinCount: 3, MaxCount: 2 }, "InvalidParameterValue"],
  ])("refuses %s and launches nothing", (_, overrides, code) => {
    const { launch, ec2 } = fleet();
    expect(errorOf(() => launch(overrides)).code).toBe(code);
    expect(ec2.living()).toHaveLength(0);
  });

  it("adds a second disk when a mapping does not name the image's own root device", () => {
    const { ids, ec2Call, ec2 } = fleet();
    const [id] = ids({ BlockDeviceMappings: [{ DeviceName: "/dev/xvda", Ebs: { VolumeSize: 80 } }] });
    expect(ec2.instance(id as string)?.rootVolumeGib).toBe(8);
    expect(ec2Call("DescribeVolumes", {}).Volumes.map((volume: { Size: number }) => volume.Size)).toEqual([8, 80]);
  });

  it("tags instance, volume and interface as asked", () => {
    const { ids, ec2Call } = fleet();
    const [id] = ids({ TagSpecifications: ["instance", "volume", "network-interface"].flatMap((type) => tagged({ "drover:uid": type }, type)) });
    const tags = ec2Call("DescribeTags", { Filters: [{ Name: "key", Values: ["drover:uid"] }] }).Tags;
    expect(tags.map((tag: { ResourceType: string; Value: string }) => [tag.ResourceType, tag.Value])).toEqual([
      ["volume", "volume"],
      ["network-interface", "network-interface"],
    ]);
    expect(ec2Call("DescribeVolumes", { Filters: [{ Name: "attachment.instance-id", Values: [id] }] }).Volumes).toHaveLength(1);
  });

  it("goes round in the addresses of a subnet, so that one lately used does not come again", async () => {
    const { launch, ec2Call, pass } = fleet();
    const seen = new Set<string>();
    for (let round = 0; round < 20; round++) {
      const [instance] = launch();
      expect(seen).not.toContain(instance?.PrivateIpAddress);
      seen.add(instance?.PrivateIpAddress as string);
      await pass(60);
      ec2Call("TerminateInstances", { InstanceIds: [instance?.InstanceId] });
      await pass(60);
    }
    expect(ec2Call("DescribeSubnets", { SubnetIds: [subnetA] }).Subnets[0].AvailableIpAddressCount).toBe(4091);
  });

  it("may answer 200 for an instance that dies, with the reason on the instance alone", async () => {
    const { ids, ec2Call, ssm, pass } = fleet({ seed: 3, faults: { nodeLostWhileBooting: 1 } });
    const made = ids({ MinCount: 8, MaxCount: 8 });
    await pass(300);
    const found = ec2Call("DescribeInstances", { InstanceIds: made }).Reservations[0].Instances;
    expect(found.map((instance: { State: { Name: string } }) => instance.State.Name)).toEqual(Array(8).fill("terminated"));
    expect(found[0].StateReason.Code).toBe("Server.InternalError");
    expect(ssm.operations["DescribeInstanceInformation"]?.call({}, {} as never, {} as never).InstanceInformationList).toEqual([]);
  });

  it("needs PassRole, the tags and every resource it touches", () => {
    const { world, ec2, request } = fleet();
    const needed = permissionsOf(world, ec2, "RunInstances", request({ TagSpecifications: tagged({ "drover:uid": "u1" }) }));
    expect(needed).toContainEqual(expect.objectContaining({ action: "iam:PassRole", resource: "arn:aws:iam::111122223333:role/drover-node" }));
    expect(needed).toContainEqual(
      expect.objectContaining({
        action: "ec2:CreateTags",
        resource: "arn:aws:ec2:eu-central-1:111122223333:instance/*",
        context: { "aws:RequestTag/drover:uid": "u1", "aws:TagKeys": ["drover:uid"], "ec2:CreateAction": "RunInstances" },
      }),
    );
    expect(needed.map((each) => each.resource)).toContain(`arn:aws:ec2:eu-central-1::image/${ubuntu}`);
    expect(needed.map((each) => each.resource)).toContain(`arn:aws:ec2:eu-central-1:111122223333:subnet/${subnetA}`);
  });
});

describe("describing instances", () => {
  it("misses new instances for some seconds when filtering by tag or token", async () => {
    const { ids, ec2Call, pass } = fleet();
    const made = ids({ MinCount: 40, MaxCount: 40, ClientToken: "t1", TagSpecifications: tagged({ "drover:uid": "u1" }) });
    const count = (filter: { Name: string; Values: string[] }) =>
      ec2Call("DescribeInstances", { Filters: [filter] }).Reservations.flatMap((each: { Instances: unknown[] }) => each.Instances).length;
    expect(count({ Name: "tag:drover:uid", Values: ["u1"] })).toBeLessThan(made.length);
    expect(codeOf(() => ec2Call("DescribeInstances", { InstanceIds: made }))).toBe("InvalidInstanceID.NotFound 400");
    await pass(4);
    expect(count({ Name: "tag:drover:uid", Values: ["u1"] })).toBe(40);
    expect(count({ Name: "client-token", Values: ["t1"] })).toBe(40);
    expect(count({ Name: "tag:drover:uid", Values: ["u2"] })).toBe(0);
    expect(count({ Name: "tag:drover:uid", Values: ["u?"] })).toBe(40);
  });

  it("pages in launch order, each instance once", async () => {
    const { ids, ec2Call, pass } = fleet();
    const made = [...ids({ MinCount: 7, MaxCount: 7 }), ...ids({ MinCount: 6, MaxCount: 6, SubnetId: subnetB })];
    await pass(5);
    const seen: string[] = [];
    let next: string | undefined;
    do {
      const page = ec2Call("DescribeInstances", { MaxResults: 5, NextToken: next });
      seen.push(...page.Reservations.flatMap((each: { Instances: { InstanceId: string }[] }) => each.Instances.map((one) => one.InstanceId)));
      next = page.NextToken;
    } while (next !== undefined);
    expect(seen).toEqual(made);
    expect(codeOf(() => ec2Call("DescribeInstances", { MaxResults: 4 }))).toBe("InvalidParameterValue 400");
    expect(codeOf(() => ec2Call("DescribeInstances", { InstanceIds: made, MaxResults: 5 }))).toBe("InvalidParameterCombination 400");
  });

  it("stops the world at a filter it does not know", () => {
    const { ec2Call, ids } = fleet();
    ids();
    expect(() => ec2Call("DescribeImages", { Filters: [{ Name: "hypervisor", Values: ["xen"] }] })).toThrow(Unmodelled);
  });

  it("finds an instance by a tag it got later", async () => {
    const { ids, ec2Call, pass } = fleet();
    const [id] = ids();
    await pass(10);
    ec2Call("CreateTags", { Resources: [id], Tags: [{ Key: "drover:uid", Value: "late" }] });
    const found = ec2Call("DescribeInstances", { Filters: [{ Name: "tag:drover:uid", Values: ["late"] }] });
    expect(found.Reservations[0].Instances[0].InstanceId).toBe(id);
  });
});

describe("terminating instances", () => {
  it("shuts down first, keeps the instance listed for an hour, and takes volume and interface with it", async () => {
    const { ids, ec2Call, state, pass, nodes } = fleet();
    const [id = ""] = ids();
    await pass(60);
    const answer = ec2Call("TerminateInstances", { InstanceIds: [id] });
    expect(answer.TerminatingInstances).toMatchObject([{ PreviousState: { Name: "running" }, CurrentState: { Name: "shutting-down" } }]);
    expect(nodes.answers(id, 9345).answers).toBe(false);
    await pass(60);
    expect(state(id)).toBe("terminated");
    expect(ec2Call("DescribeVolumes", {}).Volumes).toEqual([]);
    expect(ec2Call("DescribeNetworkInterfaces", {}).NetworkInterfaces).toEqual([]);
    const [listed] = ec2Call("DescribeInstances", { InstanceIds: [id] }).Reservations[0].Instances;
    expect(listed).toMatchObject({ State: { Name: "terminated" }, StateReason: { Code: "Client.UserInitiatedShutdown" } });
    ec2Call("TerminateInstances", { InstanceIds: [id] });
    await pass(3600);
    expect(codeOf(() => ec2Call("DescribeInstances", { InstanceIds: [id] }))).toBe("InvalidInstanceID.NotFound 400");
  });

  it("terminates none when one id is wrong", async () => {
    const { ids, ec2Call, state, pass } = fleet();
    const [id = ""] = ids();
    await pass(60);
    expect(codeOf(() => ec2Call("TerminateInstances", { InstanceIds: [id, "i-00000000000000000"] }))).toBe("InvalidInstanceID.NotFound 400");
    expect(codeOf(() => ec2Call("TerminateInstances", { InstanceIds: [id, "server-1"] }))).toBe("InvalidInstanceID.Malformed 400");
    expect(state(id)).toBe("running");
  });

  it("spares the zone of a protected instance alone", async () => {
    const { ids, ec2Call, state, pass } = fleet();
    const [guarded = ""] = ids({ DisableApiTermination: true });
    const [beside = ""] = ids();
    const [elsewhere = ""] = ids({ SubnetId: subnetB });
    await pass(60);
    expect(codeOf(() => ec2Call("TerminateInstances", { InstanceIds: [guarded, beside, elsewhere] }))).toBe("OperationNotPermitted 400");
    expect([guarded, beside, elsewhere].map(state)).toEqual(["running", "running", "shutting-down"]);
  });

  it("tells every change of state on the bus, without tags", async () => {
    const { world, ids, ec2Call, pass } = fleet();
    const [id] = ids({ TagSpecifications: tagged({ "drover:uid": "u1" }) });
    await pass(60);
    ec2Call("TerminateInstances", { InstanceIds: [id] });
    await pass(60);
    const told = world.published.filter((event) => event.detailType === "EC2 Instance State-change Notification");
    expect(told.map((event) => event.detail)).toEqual(
      ["pending", "running", "shutting-down", "terminated"].map((state) => ({ "instance-id": id, state })),
    );
    expect(told[0]?.resources).toEqual([`arn:aws:ec2:eu-central-1:111122223333:instance/${id}`]);
  });
});

describe("security groups", () => {
  const web = { IpProtocol: "tcp", FromPort: 6443, ToPort: 6443, IpRanges: [{ CidrIp: "10.0.0.0/16" }] };
  const make = (cloud: ReturnType<typeof fleet>, name = "nodes"): string =>
    cloud.ec2Call("CreateSecurityGroup", { GroupName: name, Description: "nodes", VpcId: vpcId }).GroupId;

  it("are unique by name within a network, and let everything out at first", () => {
    const cloud = fleet();
    const id = make(cloud);
    expect(codeOf(() => make(cloud))).toBe("InvalidGroup.Duplicate 400");
    const [group] = cloud.ec2Call("DescribeSecurityGroups", { GroupIds: [id] }).SecurityGroups;
    expect(group.IpPermissionsEgress).toMatchObject([{ IpProtocol: "-1", IpRanges: [{ CidrIp: "0.0.0.0/0" }] }]);
    cloud.ec2Call("RevokeSecurityGroupEgress", { GroupId: id, IpPermissions: [{ IpProtocol: "-1", IpRanges: [{ CidrIp: "0.0.0.0/0" }] }] });
    expect(cloud.ec2Call("DescribeSecurityGroups", { GroupIds: [id] }).SecurityGroups[0].IpPermissionsEgress).toEqual([]);
  });

  it("give up the rules that they are shown with, and refuse to give up others", () => {
    const cloud = fleet();
    const id = make(cloud);
    const own = { IpProtocol: "tcp", FromPort: 9345, ToPort: 9345, UserIdGroupPairs: [{ GroupId: id, Description: "nodes" }] };
    cloud.ec2Call("AuthorizeSecurityGroupIngress", { GroupId: id, IpPermissions: [web, own] });
    const shown = () =>
      cloud
        .ec2Call("DescribeSecurityGroups", { GroupIds: [id] })
        .SecurityGroups[0].IpPermissions.map(({ Ipv6Ranges: _, ...rule }: { Ipv6Ranges: unknown }) => rule);
    const missing = { ...web, FromPort: 80, ToPort: 80 };
    expect(codeOf(() => cloud.ec2Call("RevokeSecurityGroupIngress", { GroupId: id, IpPermissions: [web, missing] }))).toBe(
      "InvalidPermission.NotFound 400",
    );
    expect(shown()).toHaveLength(2);
    cloud.ec2Call("RevokeSecurityGroupIngress", { GroupId: id, IpPermissions: shown() });
    expect(shown()).toEqual([]);
  });

  it("refuse a rule that is there already, and then every rule of the request", () => {
    const cloud = fleet();
    const id = make(cloud);
    cloud.ec2Call("AuthorizeSecurityGroupIngress", { GroupId: id, IpPermissions: [web] });
    const more = { ...web, IpRanges: [{ CidrIp: "192.168.0.0/24" }, { CidrIp: "10.0.0.0/16" }] };
    expect(codeOf(() => cloud.ec2Call("AuthorizeSecurityGroupIngress", { GroupId: id, IpPermissions: [more] }))).toBe(
      "InvalidPermission.Duplicate 400",
    );
    expect(cloud.ec2Call("DescribeSecurityGroups", { GroupIds: [id] }).SecurityGroups[0].IpPermissions[0].IpRanges).toEqual([
      { CidrIp: "10.0.0.0/16" },
    ]);
  });

  it("refuse a group, a network or a port that cannot be", () => {
    const cloud = fleet();
    const id = make(cloud);
    const authorize = (permission: unknown) =>
      codeOf(() => cloud.ec2Call("AuthorizeSecurityGroupIngress", { GroupId: id, IpPermissions: [permission] }));
    expect(authorize({ ...web, IpRanges: undefined, UserIdGroupPairs: [{ GroupId: "sg-00000000000000000" }] })).toBe("InvalidGroup.NotFound 400");
    expect(authorize({ ...web, IpRanges: [{ CidrIp: "10.0.0.0/33" }] })).toBe("InvalidParameterValue 400");
    expect(authorize({ ...web, FromPort: 7000 })).toBe("InvalidParameterValue 400");
  });

  it("cannot be deleted while an instance, another group or a load balancer's last interface uses them", async () => {
    const cloud = fleet();
    const [nodes, other] = [make(cloud), make(cloud, "other")];
    cloud.ec2Call("AuthorizeSecurityGroupIngress", {
      GroupId: other,
      IpPermissions: [{ ...web, IpRanges: [], UserIdGroupPairs: [{ GroupId: nodes }] }],
    });
    const remove = (id: string) => () => cloud.ec2Call("DeleteSecurityGroup", { GroupId: id });
    expect(codeOf(remove(nodes))).toBe("DependencyViolation 400");
    const made = cloud.ids({ SecurityGroupIds: [other] });
    await cloud.pass(60);
    expect(codeOf(remove(other))).toBe("DependencyViolation 400");
    cloud.ec2Call("TerminateInstances", { InstanceIds: made });
    await cloud.pass(60);
    remove(other)();
    remove(nodes)();
    expect(codeOf(remove(nodes))).toBe("InvalidGroup.NotFound 400");
  });
});

describe("what is there before anything is deployed", () => {
  it("is a network of three zones with 4,091 free addresses each", () => {
    const { ec2Call } = fleet();
    expect(ec2Call("DescribeVpcs", {}).Vpcs).toMatchObject([{ VpcId: vpcId, CidrBlock: "10.0.0.0/16" }]);
    const subnets = ec2Call("DescribeSubnets", { Filters: [{ Name: "vpc-id", Values: [vpcId] }] }).Subnets;
    expect(subnets.map((subnet: { SubnetId: string }) => subnet.SubnetId)).toEqual([subnetA, subnetB, subnetC]);
    expect(subnets.map((subnet: { AvailableIpAddressCount: number }) => subnet.AvailableIpAddressCount)).toEqual([4091, 4091, 4091]);
  });

  it("are images and some eighty instance types, not all in every zone", () => {
    const { ec2Call } = fleet();
    expect(ec2Call("DescribeImages", { ImageIds: [ubuntu] }).Images).toMatchObject([{ Architecture: "x86_64", RootDeviceName: "/dev/sda1" }]);
    expect(codeOf(() => ec2Call("DescribeImages", { ImageIds: ["ami-00000000000000000"] }))).toBe("InvalidAMIID.NotFound 400");
    const types = ec2Call("DescribeInstanceTypes", {
      Filters: [{ Name: "instance-type", Values: ["m6i.xlarge", "m7g.large", "nothing.large"] }],
    }).InstanceTypes;
    expect(types).toMatchObject([
      { InstanceType: "m6i.xlarge", VCpuInfo: { DefaultVCpus: 4 }, MemoryInfo: { SizeInMiB: 16_384 } },
      { InstanceType: "m7g.large", ProcessorInfo: { SupportedArchitectures: ["arm64"] } },
    ]);
    expect(codeOf(() => ec2Call("DescribeInstanceTypes", { InstanceTypes: ["nothing.large"] }))).toBe("InvalidInstanceType 400");
    const offered = ec2Call("DescribeInstanceTypeOfferings", {
      LocationType: "availability-zone",
      Filters: [{ Name: "instance-type", Values: ["m7i.xlarge"] }],
    });
    expect(offered.InstanceTypeOfferings.map((each: { Location: string }) => each.Location)).toEqual(["eu-central-1a", "eu-central-1b"]);
  });
});

describe("keeping EC2 between starts", () => {
  it("remembers everything and gives no id again", async () => {
    const before = fleet({ seed: 1 });
    const made = before.ids({ ClientToken: "token-1", TagSpecifications: tagged({ "drover:uid": "u1" }) });
    await before.pass(120);
    const after = fleet({ seed: 1 });
    after.ec2.load(structuredClone(before.ec2.save()));
    await after.pass(180);
    expect(after.ids({ ClientToken: "token-1", TagSpecifications: tagged({ "drover:uid": "u1" }) })).toEqual(made);
    expect(after.ec2.instancesTagged("drover:uid", ["u1"])).toEqual(made);
    expect(after.ids()).not.toEqual(made);
  });
});
