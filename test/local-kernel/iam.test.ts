import { runSimulation } from "@cloud-copilot/iam-simulate";
import { describe, expect, it } from "vitest";
import { AccessControl } from "../../local/kernel/iam.js";
import { loadTemplate } from "../../local/kernel/template.js";
import { allow } from "./assembly.js";

const target = { account: "123456789012", region: "eu-central-1", partition: "aws" } as const;
const role = (statements: readonly object[], more = {}) => ({
  Type: "AWS::IAM::Role",
  Properties: {
    RoleName: "worker",
    AssumeRolePolicyDocument: { Statement: [] },
    Policies: [{ PolicyName: "calls", PolicyDocument: { Version: "2012-10-17", Statement: statements } }],
    ...more,
  },
});
const arn = "arn:aws:iam::123456789012:role/worker";
const access = (statements: readonly object[], resources: Record<string, unknown> = {}, more = {}) =>
  new AccessControl(
    loadTemplate([{ name: "App", template: { Resources: { Worker: role(statements, more), ...resources } as never }, assets: new Map() }], target),
  );

const bucket = (statements: readonly object[]) => ({
  Store: { Type: "AWS::S3::Bucket", Properties: { BucketName: "store" } },
  Policy: {
    Type: "AWS::S3::BucketPolicy",
    Properties: { Bucket: { Ref: "Store" }, PolicyDocument: { Version: "2012-10-17", Statement: statements } },
  },
});

describe("roles of the template", () => {
  it("allow what a statement allows, for the resources it names", () => {
    const control = access([allow("s3:GetObject", "arn:aws:s3:::store/clusters/*")]);
    expect(control.decide(arn, { action: "s3:GetObject", resource: "arn:aws:s3:::store/clusters/prod/record.json" }).allowed).toBe(true);
    expect(control.decide(arn, { action: "s3:GetObject", resource: "arn:aws:s3:::store/secrets/x" }).allowed).toBe(false);
    expect(control.decide(arn, { action: "s3:PutObject", resource: "arn:aws:s3:::store/clusters/prod/record.json" }).allowed).toBe(false);
  });

  it("say in a denial who may not do what to which resource, and list it", () => {
    const control = access([]);
    const decision = control.decide(arn, { action: "ec2:RunInstances", resource: "arn:aws:ec2:eu-central-1:123456789012:instance/*" });
    expect(decision).toEqual({
      allowed: false,
      explicit: false,
      message:
        "User: arn:aws:sts::123456789012:assumed-role/worker/session is not authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:eu-central-1:123456789012:instance/* because no identity-based policy allows the ec2:RunInstances action",
    });
    expect(control.denials).toMatchObject([{ role: arn, action: "ec2:RunInstances", explicit: false }]);
  });

  it("hold conditions against the request", () => {
    const control = access([allow("ec2:TerminateInstances", "*", { StringEquals: { "aws:ResourceTag/drover:cluster": "prod" } })]);
    const terminate = (tag: string) =>
      control.decide(arn, {
        action: "ec2:TerminateInstances",
        resource: "arn:aws:ec2:eu-central-1:123456789012:instance/i-1",
        context: { "aws:ResourceTag/drover:cluster": tag },
      }).allowed;
    expect([terminate("prod"), terminate("other"), terminate("prod")]).toEqual([true, false, true]);
    expect(control.decide(arn, { action: "ec2:TerminateInstances", resource: "arn:aws:ec2:eu-central-1:123456789012:instance/i-1" }).allowed).toBe(
      false,
    );
  });

  it("are bounded by a permissions boundary", () => {
    const boundary = {
      Boundary: {
        Type: "AWS::IAM::ManagedPolicy",
        Properties: { ManagedPolicyName: "limit", PolicyDocument: { Version: "2012-10-17", Statement: [allow("s3:GetObject")] } },
      },
    };
    const control = access([allow(["s3:GetObject", "s3:PutObject"])], boundary, { PermissionsBoundary: { Ref: "Boundary" } });
    expect(control.decide(arn, { action: "s3:GetObject", resource: "arn:aws:s3:::store/k" }).allowed).toBe(true);
    expect(control.decide(arn, { action: "s3:PutObject", resource: "arn:aws:s3:::store/k" }).allowed).toBe(false);
  });

  it("are denied by a bucket's policy whatever they allow", () => {
    const deny = { Effect: "Deny", Principal: { AWS: "*" }, Action: "s3:DeleteObject", Resource: "arn:aws:s3:::store/*" };
    const control = access([allow("s3:*")], bucket([deny]));
    expect(control.decide(arn, { action: "s3:DeleteObject", resource: "arn:aws:s3:::store/k" })).toMatchObject({ allowed: false, explicit: true });
    expect(control.decide(arn, { action: "s3:GetObject", resource: "arn:aws:s3:::store/k" }).allowed).toBe(true);
    expect(control.decide(arn, { action: "s3:DeleteObject", resource: "arn:aws:s3:::elsewhere/k" }).allowed).toBe(true);
  });

  it("are held to a limit in a bucket's policy, to the millisecond", () => {
    const old = {
      Effect: "Deny",
      Principal: { AWS: "*" },
      Action: "s3:*",
      Resource: "arn:aws:s3:::store/*",
      Condition: { NumericGreaterThan: { "s3:signatureAge": "900000" } },
    };
    const control = access([allow("s3:GetObject")], bucket([old]));
    const read = (age: number) =>
      control.decide(arn, { action: "s3:GetObject", resource: "arn:aws:s3:::store/k", context: { "s3:signatureAge": String(age) } }).allowed;
    expect([1, 899_999, 900_000, 900_001, 5_000_000, 2].map(read)).toEqual([true, true, true, false, false, true]);
  });

  it("need the key's policy to leave a key to IAM", () => {
    const key = (principal: string) => ({
      Key: {
        Type: "AWS::KMS::Key",
        Properties: {
          KeyPolicy: { Version: "2012-10-17", Statement: [{ Effect: "Allow", Principal: { AWS: principal }, Action: "kms:*", Resource: "*" }] },
        },
      },
    });
    const decrypt = (control: AccessControl) =>
      control.decide(arn, { action: "kms:Decrypt", resource: control.template.keys[0]?.arn as string }).allowed;
    expect(decrypt(access([allow("kms:Decrypt")], key("arn:aws:iam::123456789012:root")))).toBe(true);
    expect(decrypt(access([], key("arn:aws:iam::123456789012:root")))).toBe(false);
    expect(decrypt(access([allow("kms:Decrypt")], key("arn:aws:iam::123456789012:role/other")))).toBe(false);
  });

  it("list the actions that nothing needed", () => {
    const control = access([allow(["s3:GetObject", "s3:DeleteObject"], "arn:aws:s3:::store/*"), allow("ec2:Describe*"), allow("logs:PutLogEvents")]);
    control.decide(arn, { action: "s3:GetObject", resource: "arn:aws:s3:::store/k" });
    control.decide(arn, { action: "s3:DeleteObject", resource: "arn:aws:s3:::elsewhere/k" });
    expect(control.unusedPermissions()).toEqual([
      { role: "worker", policy: "calls", action: "s3:DeleteObject", resources: ["arn:aws:s3:::store/*"] },
      { role: "worker", policy: "calls", action: "ec2:Describe*", resources: ["*"] },
    ]);
    const other = new AccessControl(control.template);
    other.decide(arn, { action: "ec2:DescribeInstances", resource: "*" });
    control.countUses(other.uses);
    expect(control.unusedPermissions().map(({ action }) => action)).toEqual(["s3:DeleteObject"]);
  });

  it("decide as the simulator with all its checks does", async () => {
    const statements = [
      allow("s3:GetObject", "arn:aws:s3:::store/clusters/*"),
      { Effect: "Deny", Action: "s3:GetObject", Resource: "arn:aws:s3:::store/clusters/secret/*" },
    ];
    const control = access(statements);
    for (const key of ["clusters/prod/record.json", "clusters/secret/x", "other"]) {
      const resource = `arn:aws:s3:::store/${key}`;
      const full = await runSimulation(
        {
          request: { principal: arn, action: "s3:GetObject", resource: { resource, accountId: target.account }, contextVariables: {} },
          identityPolicies: [{ name: "calls", policy: { Version: "2012-10-17", Statement: statements } }],
          serviceControlPolicies: [],
          resourceControlPolicies: [],
        },
        {},
      );
      expect(full.resultType).toBe("single");
      expect(control.decide(arn, { action: "s3:GetObject", resource }).allowed).toBe(
        full.resultType === "single" && full.overallResult === "Allowed",
      );
    }
  });

  it("refuse a principal that is none of them", () => {
    expect(() => access([]).decide("arn:aws:iam::123456789012:role/ghost", { action: "s3:GetObject", resource: "*" })).toThrow(
      "arn:aws:iam::123456789012:role/ghost is no role of the template: it cannot ask for s3:GetObject",
    );
  });
});
