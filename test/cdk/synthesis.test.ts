import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { acknowledgedNetworkRules } from "../../cdk/acknowledged-findings.js";
import { ensureAssembly } from "../../cdk/app.js";
import { bundleFunctions } from "../../cdk/bundle.js";
import { readSettings } from "../../cdk/settings.js";
import { sourceStamp } from "../../cdk/sources.js";
import { readTemplate, spell, statementsIn, type Template } from "./template.js";

const scratch = mkdtempSync(join(tmpdir(), "drover-synthesis-"));
const outdir = join(scratch, "assembly");
let network: Template;
let drover: Template;

// With the network, and held against cdk-nag and CloudFormation's rules: an unacknowledged finding throws.
beforeAll(async () => {
  await ensureAssembly(outdir, { context: { network: "true" } });
  network = readTemplate(join(outdir, "DroverNetwork.template.json"));
  drover = readTemplate(join(outdir, "Drover.template.json"));
}, 180_000);
afterAll(() => rmSync(scratch, { recursive: true }));

describe("the network stack", () => {
  it("has private subnets in three zones and no way to the internet", () => {
    const subnets = network.all("AWS::EC2::Subnet");
    expect(subnets.map(({ Properties }) => JSON.stringify(Properties.AvailabilityZone))).toEqual(
      [0, 1, 2].map((zone) => JSON.stringify({ "Fn::Select": [zone, { "Fn::GetAZs": "" }] })),
    );
    for (const { Properties } of subnets) expect(Properties.MapPublicIpOnLaunch).toBe(false);
    expect(network.all().filter(({ Type }) => /InternetGateway|NatGateway|::Route$|EIP/.test(Type))).toEqual([]);
  });
  it("keeps clear of RKE2's default cluster and service networks", () => {
    expect(network.all("AWS::EC2::VPC").map(({ Properties }) => Properties.CidrBlock)).toEqual(["10.64.0.0/16"]);
  });
  it("reaches Systems Manager and S3, and nothing else", () => {
    const services = network.all("AWS::EC2::VPCEndpoint").map(({ Properties }) => [Properties.VpcEndpointType, spell(Properties.ServiceName)]);
    expect(services).toEqual([
      ["Interface", "com.amazonaws.<AWS::Region>.ssm"],
      ["Interface", "com.amazonaws.<AWS::Region>.ssmmessages"],
      ["Gateway", "com.amazonaws.<AWS::Region>.s3"],
    ]);
  });
  it("lets nodes carry data only to buckets of this account", () => {
    const [statement] = statementsIn(network.one("AWS::EC2::VPCEndpoint", "S3Endpoint").Properties.PolicyDocument);
    expect(statement).toMatchObject({
      actions: ["s3:GetObject", "s3:PutObject"],
      condition: { StringEquals: { "aws:ResourceAccount": { Ref: "AWS::AccountId" } } },
    });
  });
  it("answers service endpoints to nodes only, over HTTPS", () => {
    expect(network.one("AWS::EC2::SecurityGroup", "EndpointSecurityGroup").Properties.SecurityGroupIngress).toEqual([
      { CidrIp: "10.64.0.0/16", Description: "HTTPS from nodes", FromPort: 443, IpProtocol: "tcp", ToPort: 443 },
    ]);
  });
  it("acknowledges its findings with reasons", () => {
    for (const reason of Object.values(acknowledgedNetworkRules)) expect(reason.length).toBeGreaterThan(40);
  });
});

describe("buckets, where the nodes' S3 endpoint is known", () => {
  const denial = (bucket: string) =>
    statementsIn(drover.one("AWS::S3::BucketPolicy", `${bucket}Policy`).Properties.PolicyDocument).find(
      ({ condition }) => condition.StringNotEquals?.["aws:SourceVpce"] !== undefined,
    );

  it.each(["StateBucket", "SnapshotBucket"])("%s accepts a presigned address only through it", (bucket) => {
    expect(denial(bucket)).toMatchObject({
      effect: "Deny",
      actions: ["s3:GetObject", "s3:PutObject"],
      condition: { StringEquals: { "s3:authType": "REST-QUERY-STRING" } },
    });
  });
  it("the artifact bucket still takes releases from wherever a person is", () => {
    expect(denial("ArtifactBucket")?.actions).toEqual(["s3:GetObject"]);
  });
  it("hold that endpoint, so that it cannot be removed under them", () => {
    expect(spell(denial("StateBucket")?.condition.StringNotEquals?.["aws:SourceVpce"])).toMatch(/^<import DroverNetwork:.*S3Endpoint/);
  });
});

describe("settings", () => {
  const given = (context: Record<string, unknown>) => () => readSettings((name) => context[name]);

  it("have a default each", () => {
    expect(given({})()).toEqual({ network: false, snapshotLockDays: 7, logDays: 90, eventArchiveDays: 30, clusterMetrics: true });
  });
  it("come as text from a command line", () => {
    expect(given({ network: "false", snapshotLockDays: "30", logDays: "14" })()).toMatchObject({ network: false, snapshotLockDays: 30, logDays: 14 });
  });
  it("report every fault at once, with what was given", () => {
    expect(given({ snapshotLockDays: "0", logDays: 8, alarmTopicArn: "ops" })).toThrow(
      /snapshotLockDays=0.*logDays=8: must be a period CloudWatch Logs knows.*alarmTopicArn=ops: must be the ARN of an SNS topic/,
    );
  });
  it("refuse two S3 endpoints", () => {
    expect(given({ network: true, s3EndpointId: "vpce-0123456789abcdef0" })).toThrow("must not be given as well");
  });
});

describe("the assembly", () => {
  it("is left as it is while no source has changed", async () => {
    const before = readFileSync(join(outdir, "drover-stamp.txt"), "utf8");
    const again = await ensureAssembly(outdir, { context: { network: "true" } });
    expect(again.made).toBe(false);
    expect(readFileSync(join(outdir, "drover-stamp.txt"), "utf8")).toBe(before);
  });
  it("comes out the same from the same sources, and replaces what was there as a whole", async () => {
    const other = join(scratch, "other");
    mkdirSync(other);
    writeFileSync(join(other, "left-over"), "");
    const made = await ensureAssembly(other, { context: { network: "true" }, validate: false });
    expect(made.made).toBe(true);
    expect(existsSync(join(other, "left-over"))).toBe(false);
    expect(readFileSync(made.template, "utf8")).toBe(drover.text);
    expect(readdirSync(scratch).sort()).toEqual(["assembly", "other"]);
  }, 120_000);
  it("is whole when two make it at the same time", async () => {
    const shared = join(scratch, "shared");
    const made = await Promise.all([1, 2].map(() => ensureAssembly(shared, { context: { network: "true" }, validate: false })));
    expect(made.filter((each) => each.made)).toHaveLength(1);
    expect(readFileSync(join(shared, "Drover.template.json"), "utf8")).toBe(drover.text);
    expect(readdirSync(scratch).sort()).toEqual(["assembly", "other", "shared"]);
  }, 120_000);
  it("is made again for validation when it was made without", async () => {
    const stamp = readFileSync(join(scratch, "other", "drover-stamp.txt"), "utf8");
    expect(`${stamp} validated`).toBe(readFileSync(join(outdir, "drover-stamp.txt"), "utf8"));
  });
  it("tells the size of every function", async () => {
    const { sizes } = await ensureAssembly(outdir, { context: { network: "true" } });
    const functions = JSON.parse(readFileSync(sizes, "utf8")).functions as { name: string; bytes: number }[];
    expect(functions.find(({ name }) => name === "api")?.bytes).toBeGreaterThan(10_000);
    for (const { name, bytes } of functions) expect.soft(bytes, name).toBeLessThan(3_000_000);
  });
});

describe("the stamp of the sources", () => {
  const sources = join(scratch, "sources-of-stamp");
  const write = (path: string, text: string) => {
    mkdirSync(join(sources, path, ".."), { recursive: true });
    writeFileSync(join(sources, path), text);
  };
  const stamp = (settings: unknown = {}) => sourceStamp(settings, sources, ["core", "cdk.json"]);

  it("changes with a file's content, its name, a new file, and the settings", () => {
    write("core/a.ts", "a");
    write("core/deep/b.ts", "b");
    write("cdk.json", "{}");
    const seen = [stamp()];
    write("core/a.ts", "A");
    seen.push(stamp());
    write("core/c.ts", "");
    seen.push(stamp());
    rmSync(join(sources, "core/c.ts"));
    write("core/d.ts", "");
    seen.push(stamp(), stamp({ network: "true" }));
    expect(new Set(seen).size).toBe(5);
    write("core/a.ts", "a");
    rmSync(join(sources, "core/d.ts"));
    expect(stamp()).toBe(seen[0]);
    rmSync(sources, { recursive: true });
  });
});

describe("bundles", () => {
  it("name every function that has no source", async () => {
    await expect(bundleFunctions(["drive-cattle", "count-sheep"], join(scratch, "none"))).rejects.toThrow(
      "Cannot bundle: no source for functions/drive-cattle.ts, functions/count-sheep.ts",
    );
  });
});
