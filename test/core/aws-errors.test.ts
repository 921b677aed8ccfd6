import { describe, expect, it } from "vitest";
import { type AwsErrorClass, classifyAwsError, knownAwsErrors, toStepFailure } from "../../core/aws-errors.js";

const failure = (service: string, code: string, message = "no more room") =>
  toStepFailure({ service, operation: "RunInstances", code, message, resource: "server-1 of prod" });

describe("what an AWS error code means", () => {
  it.each<[string, string, AwsErrorClass]>([
    ["ec2", "RequestLimitExceeded", "throttle"],
    ["s3", "SlowDown", "throttle"],
    ["ssm", "ThrottlingException", "throttle"],
    ["ec2", "InsufficientInstanceCapacity", "capacity"],
    ["ec2", "InsufficientFreeAddressesInSubnet", "capacity"],
    ["ec2", "Unsupported", "capacity"],
    ["ec2", "SpotMaxPriceTooLow", "capacity"],
    ["ec2", "VcpuLimitExceeded", "limit"],
    ["elbv2", "TooManyLoadBalancersException", "limit"],
    ["ec2", "UnauthorizedOperation", "denied"],
    ["s3", "AccessDenied", "denied"],
    ["kms", "AccessDeniedException", "denied"],
    ["ec2", "InvalidInstanceID.NotFound", "notFound"],
    ["s3", "NoSuchKey", "notFound"],
    ["sfn", "TaskTimedOut", "notFound"],
    ["elbv2", "DuplicateTargetGroupNameException", "exists"],
    ["ec2", "InvalidPermission.Duplicate", "exists"],
    ["sfn", "ExecutionAlreadyExists", "exists"],
    ["s3", "ConditionalRequestConflict", "conflict"],
    ["ec2", "IdempotentParameterMismatch", "conflict"],
    ["s3", "PreconditionFailed", "precondition"],
    ["ssm", "InvalidInstanceId", "notYet"],
    ["ssm", "InvocationDoesNotExist", "notYet"],
    ["ec2", "DependencyViolation", "notYet"],
    ["elbv2", "ResourceInUse", "notYet"],
    ["ec2", "InvalidAMIID.NotFound", "invalid"],
    ["ssm", "ValidationException", "invalid"],
    ["ec2", "InternalError", "transient"],
    ["lambda", "ServiceException", "transient"],
    ["s3", "TimeoutError", "transient"],
    ["ec2", "SomethingNew", "unknown"],
  ])("%s %s: %s", (service, code, kind) => {
    expect(classifyAwsError(service, code)).toBe(kind);
  });

  it("knows a service by any of its names", () => {
    for (const name of ["elbv2", "elastic-load-balancing-v2", "ElasticLoadBalancingV2", "elasticloadbalancing"]) {
      expect(classifyAwsError(name, "LoadBalancerNotFoundException")).toBe("notFound");
    }
    expect(classifyAwsError("EventBridge", "InvalidEventPatternException")).toBe("invalid");
  });

  it("takes a code with or without Exception for the same", () => {
    expect(classifyAwsError("elbv2", "DuplicateLoadBalancerName")).toBe(classifyAwsError("elbv2", "DuplicateLoadBalancerNameException"));
  });

  it("knows a code whose service was lost on the way", () => {
    expect(classifyAwsError("aws", "InsufficientInstanceCapacity")).toBe("capacity");
    expect(classifyAwsError("", "NoSuchKey")).toBe("notFound");
  });

  it("does not lend one service's codes to another it knows", () => {
    expect(classifyAwsError("s3", "InvocationDoesNotExist")).toBe("unknown");
  });

  it("tells EC2 codes of no table by their endings", () => {
    expect(classifyAwsError("ec2", "InvalidRouteTableID.NotFound")).toBe("notFound");
    expect(classifyAwsError("ec2", "InvalidRouteTableID.Malformed")).toBe("invalid");
    expect(classifyAwsError("ec2", "AddressLimitExceeded")).toBe("limit");
  });

  it("holds each code once for a service", () => {
    const keys = knownAwsErrors().map(({ service, code }) => `${service} ${code.replace(/Exception$/, "")}`);
    const twice = keys.filter((key, index) => keys.indexOf(key) !== index);
    expect(twice.filter((key) => key !== " RequestTimeout")).toEqual([]);
  });
});

describe("the failure an AWS error becomes", () => {
  it.each<[string, string, string | undefined]>([
    ["ec2", "RequestLimitExceeded", "NotYet"],
    ["ec2", "InternalError", "NotYet"],
    ["ssm", "InvalidInstanceId", "NotYet"],
    ["s3", "ConditionalRequestConflict", "NotYet"],
    ["ec2", "InsufficientInstanceCapacity", "NoCapacity"],
    ["ec2", "VcpuLimitExceeded", "Invalid"],
    ["ec2", "InvalidAMIID.NotFound", "Invalid"],
    ["ec2", "UnauthorizedOperation", undefined],
    ["s3", "NoSuchKey", undefined],
    ["sfn", "ExecutionAlreadyExists", undefined],
    ["s3", "PreconditionFailed", undefined],
    ["ec2", "IdempotentParameterMismatch", undefined],
    ["ec2", "SomethingNew", undefined],
  ])("%s %s: %s", (service, code, name) => {
    expect(failure(service, code)?.name).toBe(name);
  });

  it("says what AWS answered to what, and the next act", () => {
    expect(failure("ec2", "InsufficientInstanceCapacity", "We have no m6i.xlarge\nin eu-west-1a.")?.message).toBe(
      "ec2 RunInstances for server-1 of prod was answered with InsufficientInstanceCapacity: We have no m6i.xlarge in eu-west-1a. Trying another instance type or zone.",
    );
  });

  it("says less where less is known", () => {
    const bare = toStepFailure({ service: "aws", operation: "", code: "SlowDown", message: "Reduce your request rate.", resource: "" });
    expect(bare?.message).toBe("aws was answered with SlowDown: Reduce your request rate. Asking again more slowly.");
  });

  it("repeats no secret and no novel from AWS's message", () => {
    const message = `bad url https://b.s3.amazonaws.com/k?X-Amz-Signature=0123456789abcdef ${"x ".repeat(500)}`;
    const text = failure("ec2", "InvalidParameterValue", message)?.message ?? "";
    expect(text).not.toContain("0123456789abcdef");
    expect(text.length).toBeLessThan(600);
  });
});
