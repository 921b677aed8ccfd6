/**
 * The one table of AWS error codes: what each means for the step that met it.
 *
 * Sources: EC2 API reference ("Error codes for the Amazon EC2 API"), and the error shapes of the SSM, Elastic Load Balancing v2, S3, Step Functions,
 * EventBridge, KMS and Lambda API references. The SDK appends `Exception` to some names and not to others; the table holds them without.
 */
import { Invalid, NoCapacity, NotYet, type StepFailure } from "./failures.js";
import { redact } from "./redact.js";

/**
 * - `throttle`, `transient`: the same call may succeed in a moment.
 * - `capacity`: AWS definitely has no room here; another type or zone may have.
 * - `limit`: the account may not have more; a person asks AWS for a higher quota.
 * - `denied`: a role lacks a permission, a mistake in the deployment.
 * - `notFound`, `exists`, `conflict`, `precondition`: how the object is; the caller knows whether that is success.
 * - `notYet`: the thing exists, but is not as far as the call needs it.
 * - `invalid`: the call can never succeed as written.
 */
export type AwsErrorClass =
  | "throttle"
  | "capacity"
  | "limit"
  | "denied"
  | "notFound"
  | "exists"
  | "conflict"
  | "precondition"
  | "notYet"
  | "invalid"
  | "transient"
  | "unknown";

type Known = Exclude<AwsErrorClass, "unknown">;

/** Codes that mean the same from every service. */
const everywhere: Readonly<Record<Known, readonly string[]>> = {
  throttle: [
    "Throttling",
    "ThrottledException",
    "RequestThrottled",
    "RequestLimitExceeded",
    "TooManyRequests",
    "SlowDown",
    "BandwidthLimitExceeded",
    "PriorRequestNotComplete",
    "EC2Throttled",
    "KmsThrottling",
    "TransactionInProgress",
  ],
  capacity: [],
  limit: ["ServiceQuotaExceeded", "ResourceLimitExceeded", "LimitExceeded"],
  denied: [
    "AccessDenied",
    "UnauthorizedOperation",
    "Unauthorized",
    "NotAuthorized",
    "AuthFailure",
    "KmsAccessDenied",
    "OptInRequired",
    "PendingVerification",
    "InvalidClientTokenId",
    "UnrecognizedClient",
    "MissingAuthenticationToken",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "Blocked",
  ],
  notFound: ["ResourceNotFound", "NotFound"],
  exists: ["AlreadyExists", "ResourceAlreadyExists"],
  conflict: ["Conflict", "ConcurrentModification"],
  precondition: [],
  notYet: ["ResourceInUse"],
  invalid: [
    "Validation",
    "ValidationError",
    "InvalidParameter",
    "InvalidParameterValue",
    "InvalidParameterCombination",
    "MissingParameter",
    "MissingRequiredParameter",
    "UnknownParameter",
    "MalformedQueryString",
    "InvalidAction",
    "InvalidRequest",
    "UnsupportedOperation",
  ],
  transient: [
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServer",
    "Internal",
    "Service",
    "ServiceUnavailable",
    "Unavailable",
    "RequestTimeout",
    "RequestTimeoutException",
    "RequestExpired",
    "Timeout",
    "TimeoutError",
    "AbortError",
    "NetworkingError",
    "ECONNRESET",
    "ECONNREFUSED",
    "ETIMEDOUT",
    "EPIPE",
    "EAI_AGAIN",
    "ENOTFOUND",
    "KMSInternal",
    "KeyUnavailable",
    "DependencyTimeout",
  ],
};

/** Codes by service; they win over the general ones. */
const byService: Readonly<Record<string, Readonly<Partial<Record<Known, readonly string[]>>>>> = {
  ec2: {
    capacity: [
      "InsufficientInstanceCapacity",
      "InsufficientHostCapacity",
      "InsufficientReservedInstanceCapacity",
      "InsufficientCapacity",
      "InsufficientFreeAddressesInSubnet",
      "UnfulfillableCapacity",
      "Unsupported",
      "SpotMaxPriceTooLow",
      "MaxSpotInstanceCountExceeded",
    ],
    limit: [
      "VcpuLimitExceeded",
      "InstanceLimitExceeded",
      "VolumeLimitExceeded",
      "MaxIOPSLimitExceeded",
      "SecurityGroupLimitExceeded",
      "RulesPerSecurityGroupLimitExceeded",
      "NetworkInterfaceLimitExceeded",
      "TagLimitExceeded",
    ],
    notFound: [
      "InvalidInstanceID.NotFound",
      "InvalidGroup.NotFound",
      "InvalidGroupId.NotFound",
      "InvalidPermission.NotFound",
      "InvalidNetworkInterfaceID.NotFound",
      "InvalidVolume.NotFound",
      "InvalidSecurityGroupRuleId.NotFound",
    ],
    exists: ["InvalidGroup.Duplicate", "InvalidPermission.Duplicate"],
    conflict: ["IdempotentParameterMismatch", "IdempotentInstanceTerminated"],
    notYet: ["DependencyViolation", "IncorrectInstanceState", "IncorrectState", "InvalidGroup.InUse", "VolumeInUse", "InvalidNetworkInterface.InUse"],
    invalid: [
      "InvalidAMIID.NotFound",
      "InvalidAMIID.Malformed",
      "InvalidAMIID.Unavailable",
      "InvalidAMIName.NotFound",
      "InvalidSubnetID.NotFound",
      "InvalidSubnet",
      "InvalidVpcID.NotFound",
      "InvalidInstanceID.Malformed",
      "InvalidGroupId.Malformed",
      "InvalidInstanceType",
      "InvalidBlockDeviceMapping",
      "InvalidUserData.Malformed",
      "InvalidPermission.Malformed",
      "OperationNotPermitted",
    ],
  },
  ssm: {
    limit: ["DocumentLimitExceeded", "ParameterLimitExceeded", "MaxDocumentSizeExceeded"],
    notFound: ["ParameterNotFound", "ParameterVersionNotFound", "InvalidDocument", "InvalidDocumentVersion", "InvalidCommandId"],
    exists: ["ParameterAlreadyExists", "DocumentAlreadyExists", "DuplicateDocumentContent"],
    // Registration takes minutes after boot, and a command is visible only some seconds after SendCommand answered with its id.
    notYet: ["InvalidInstanceId", "InvocationDoesNotExist", "TargetNotConnected"],
    conflict: ["TooManyUpdates"],
    invalid: [
      "InvalidParameters",
      "InvalidOutputFolder",
      "UnsupportedPlatformType",
      "DuplicateInstanceId",
      "InvalidRole",
      "InvalidFilterKey",
      "InvalidFilterValue",
      "InvalidInstanceInformationFilterValue",
      "InvalidPluginName",
    ],
  },
  elbv2: {
    capacity: ["InsufficientCapacity"],
    limit: [
      "TooManyLoadBalancers",
      "TooManyTargetGroups",
      "TooManyListeners",
      "TooManyTargets",
      "TooManyTags",
      "TooManyRegistrationsForTargetId",
      "TooManyUniqueTargetGroupsPerLoadBalancer",
      "TargetGroupAssociationLimit",
    ],
    notFound: ["LoadBalancerNotFound", "TargetGroupNotFound", "ListenerNotFound"],
    exists: ["DuplicateLoadBalancerName", "DuplicateTargetGroupName", "DuplicateListener"],
    notYet: ["ResourceInUse", "HealthUnavailable", "InvalidTarget"],
    denied: ["OperationNotPermitted"],
    invalid: [
      "SubnetNotFound",
      "InvalidSubnet",
      "InvalidSecurityGroup",
      "InvalidScheme",
      "InvalidConfigurationRequest",
      "AvailabilityZoneNotSupported",
      "IncompatibleProtocols",
      "UnsupportedProtocol",
      "AllocationIdNotFound",
    ],
  },
  s3: {
    notFound: ["NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NoSuchVersion", "NotFound"],
    exists: ["BucketAlreadyExists", "BucketAlreadyOwnedByYou"],
    conflict: ["ConditionalRequestConflict", "OperationAborted"],
    precondition: ["PreconditionFailed"],
    transient: ["InternalError", "IncompleteBody"],
    invalid: [
      "EntityTooLarge",
      "EntityTooSmall",
      "InvalidPart",
      "InvalidPartOrder",
      "BadDigest",
      "InvalidDigest",
      "KeyTooLongError",
      "InvalidArgument",
    ],
  },
  sfn: {
    limit: ["ExecutionLimitExceeded"],
    // Nobody waits for this answer any more: the step was timed out, or its execution is over.
    notFound: ["ExecutionDoesNotExist", "StateMachineDoesNotExist", "TaskDoesNotExist", "TaskTimedOut"],
    exists: ["ExecutionAlreadyExists"],
    notYet: ["StateMachineDeleting"],
    conflict: ["ExecutionNotRedrivable"],
    invalid: ["InvalidArn", "InvalidName", "InvalidExecutionInput", "InvalidOutput", "InvalidToken"],
  },
  kms: {
    denied: ["Disabled", "KMSInvalidState", "IncorrectKey", "InvalidGrantToken"],
    invalid: ["InvalidCiphertext", "InvalidKeyUsage"],
  },
  events: { invalid: ["InvalidEventPattern", "PolicyLengthExceeded"] },
  lambda: { throttle: ["ENILimitReached"], conflict: ["ResourceConflict"], notYet: ["ResourceNotReady"] },
};

/** Names by which the SDK's clients and callers call the services of the table. */
const serviceNames: Readonly<Record<string, string>> = {
  "elastic-load-balancing-v2": "elbv2",
  elasticloadbalancingv2: "elbv2",
  elasticloadbalancing: "elbv2",
  eventbridge: "events",
  states: "sfn",
  stepfunctions: "sfn",
};

/**
 * What an AWS error code means.
 *
 * @param service as the SDK names it: `ec2`, `ssm`, `elbv2` (or `elastic-load-balancing-v2`), `s3`, `sfn`, `kms`, `events`, `lambda`; any case
 * @param code    the error's name, with or without `Exception`
 */
export function classifyAwsError(service: string, code: string): AwsErrorClass {
  const lower = service.toLowerCase();
  const own = byService[serviceNames[lower] ?? lower];
  const known = lookUp(own, code) ?? lookUp(everywhere, code);
  // An error that lost its service on the way is still known by its code.
  const anywhere = () => Object.values(byService).flatMap((table) => lookUp(table, code) ?? [])[0];
  return known ?? (own === undefined ? anywhere() : undefined) ?? shaped(code);
}

/**
 * The failure that an AWS error becomes; undefined when its own name says more (a missing permission, an unknown code) or when only the caller knows
 * whether it is one (`notFound`, `exists`, `precondition`): then it keeps its name and its cause.
 *
 * @param resource what the call was about, in words a person knows: an id, a name, a key
 */
export function toStepFailure(error: {
  readonly service: string;
  readonly operation: string;
  readonly code: string;
  readonly message: string;
  readonly resource: string;
}): StepFailure | undefined {
  const { service, operation, code } = error;
  const about = error.resource === "" ? "" : ` for ${redact(error.resource)}`;
  const what = `${[service, operation].filter((word) => word !== "").join(" ")}${about} was answered with ${code}: ${sentence(redact(error.message))}`;
  const kind = classifyAwsError(service, code);
  switch (kind) {
    case "throttle":
      return new NotYet(what, "Asking again more slowly");
    case "transient":
    case "notYet":
    case "conflict":
      return code.startsWith("Idempotent") ? undefined : new NotYet(what, "Asking again shortly");
    case "capacity":
      return new NoCapacity(what, "Trying another instance type or zone");
    case "limit":
      return new Invalid(what, [], `Ask AWS for a higher quota, or delete what is no longer needed, then start again`);
    case "invalid":
      return new Invalid(what, [], "Correct what the message names, then start again");
    case "denied":
    case "notFound":
    case "exists":
    case "precondition":
    case "unknown":
      return undefined;
  }
}

/** Every code the table knows, with its class; `service` is empty for codes that mean the same everywhere. */
export function knownAwsErrors(): { service: string; code: string; kind: AwsErrorClass }[] {
  return [["", everywhere] as const, ...Object.entries(byService)].flatMap(([service, table]) =>
    Object.entries(table).flatMap(([kind, codes]) => (codes ?? []).map((code) => ({ service, code, kind: kind as Known }))),
  );
}

function lookUp(table: Readonly<Partial<Record<Known, readonly string[]>>> | undefined, code: string): Known | undefined {
  const bare = withoutSuffix(code);
  return Object.entries(table ?? {}).find(([, codes]) => codes?.some((known) => known === code || withoutSuffix(known) === bare))?.[0] as
    | Known
    | undefined;
}

/** EC2's codes have a grammar: what no table names is still told apart by its ending. */
function shaped(code: string): AwsErrorClass {
  if (/\.Malformed$/.test(code)) return "invalid";
  if (/LimitExceeded$/.test(withoutSuffix(code))) return "limit";
  if (/\.NotFound$/.test(code)) return "notFound";
  if (/\.Duplicate$/.test(code)) return "exists";
  return "unknown";
}

function withoutSuffix(code: string): string {
  return code.replace(/Exception$/, "");
}

/** One line without its full stop, at most 400 characters. */
function sentence(message: string): string {
  const line = message.replace(/\s+/g, " ").trim().replace(/\.$/, "");
  return line.length > 400 ? `${line.slice(0, 397)}...` : line;
}
