/**
 * Law 12: every failure ends in one card that a person can act on at three in the morning: what failed, where, the likely cause, what to type next,
 * and what it costs until then.
 */
import { type AwsErrorClass, classifyAwsError } from "./aws-errors.js";
import { failureNames } from "./failures.js";
import { type NodeFailure, type NodeFailureCode, nodeFailureSchema } from "./node-commands.js";
import type { FailureCard, LeftResource, OperationKind } from "./records.js";
import { redact } from "./redact.js";

/** Every name a card's `failure` can have: each has a heading in docs/runbook.md. */
export const cardFailures = [...failureNames, "AccessDenied", "QuotaReached", "TimedOut", "Aborted", "Unexpected"] as const;
export type CardFailure = (typeof cardFailures)[number];

interface Advice {
  readonly likelyCause: string;
  /** What to do, as the end of "then": commands or acts, the first the likeliest. */
  readonly next: string;
}

/** By failure name. `next` is typed by a person: `CLUSTER` and `OPERATION` stand for the card's own. */
const causes: Readonly<Record<CardFailure, { readonly likelyCause: string; readonly next: readonly string[] }>> = {
  NotYet: {
    likelyCause: "The world was still changing when the step's patience ran out: AWS or the nodes were slower than they have ever been.",
    next: ["drover status CLUSTER"],
  },
  Busy: { likelyCause: "Another operation holds the cluster's lease and has not ended.", next: ["drover operations CLUSTER"] },
  Invalid: {
    likelyCause: "The request names something that AWS or RKE2 does not take: the message says which.",
    next: ["drover validate FILE"],
  },
  Unsafe: {
    likelyCause: "Going on by itself could lose the etcd majority or data, so it stopped for a person.",
    next: ["drover status CLUSTER"],
  },
  LeaseLost: {
    likelyCause: "This run was taken for ended and another operation took the cluster over, so this run stopped before it changed anything more.",
    next: ["drover operations CLUSTER"],
  },
  NoCapacity: {
    likelyCause: "AWS has no room for any of the instance types in any of the zones that the cluster file allows.",
    next: ["drover validate FILE   # after adding instance types or subnets in further zones"],
  },
  NodeLost: {
    likelyCause: "A machine died, was terminated by somebody, or its SSM agent never came online (no route to the ssm and ssmmessages endpoints).",
    next: ["drover status CLUSTER"],
  },
  NodeCommandFailed: {
    likelyCause: "A command ran on the node and could not do its work: the node's log says why.",
    next: ["drover status CLUSTER"],
  },
  AccessDenied: {
    likelyCause: "A role of this deployment lacks a permission, or an organisation's policy or a key's policy forbids the call.",
    next: ["npx cdk diff   # shows whether the roles are as they were deployed"],
  },
  QuotaReached: {
    likelyCause: "The account has reached a quota: AWS gives more only when asked.",
    next: ["aws service-quotas list-service-quotas --service-code ec2   # then request-service-quota-increase"],
  },
  TimedOut: {
    likelyCause: "A step took longer than it ever should: its function or its node stopped answering.",
    next: ["drover status CLUSTER"],
  },
  Aborted: {
    likelyCause: "Somebody stopped the execution in Step Functions, by hand or by a script.",
    next: ["drover status CLUSTER"],
  },
  Unexpected: {
    likelyCause: "A fault that no table knows yet, most likely in Drover itself.",
    next: ["drover operations CLUSTER --json"],
  },
};

/** By the code with which a node command failed. */
export const nodeCauses: Readonly<Record<NodeFailureCode, Advice>> = {
  UnsupportedOs: {
    likelyCause: "The image is not an operating system that RKE2 supports, or lacks systemd.",
    next: "choose another image in spec.image",
  },
  ClockWrong: {
    likelyCause: "The machine's clock is not synchronised, and certificates would not be valid on it.",
    next: "use an image whose time service reaches the Amazon Time Sync Service (169.254.169.123)",
  },
  DiskFull: { likelyCause: "The root volume has no room for the release's archives and images.", next: "raise rootVolumeGib of the pool" },
  PortInUse: {
    likelyCause: "Something on the image already listens on a port of Kubernetes or RKE2.",
    next: "use an image without another Kubernetes, kubelet or container runtime service",
  },
  SnapshotInvalid: {
    likelyCause: "The snapshot is not whole: its own checksum does not fit, it is empty, or it is compressed.",
    next: "choose another snapshot: drover snapshot list CLUSTER",
  },
  RestoreFailed: {
    likelyCause: "RKE2 did not say that it reset the cluster: the token does not open the snapshot, or old data or processes were in its way.",
    next: "read the log in this card, then start the restore again",
  },
  CgroupMissing: {
    likelyCause: "The kernel was started without the cgroup controllers that the kubelet needs (pids, memory, cpu).",
    next: "use an image with cgroup v2",
  },
  ForeignRke2: {
    likelyCause: "The image or the node holds an RKE2 or K3s that Drover did not put there.",
    next: "use an image without RKE2",
  },
  DownloadFailed: {
    likelyCause: "The node cannot reach S3 (no gateway endpoint, or its policy forbids the bucket), or the address expired before it was used.",
    next: "check the S3 endpoint and route table of the node's subnet",
  },
  ChecksumMismatch: {
    likelyCause: "An archive in the artifact store is not the one in the release's checksum file: cut short in upload, or changed.",
    next: "add the release again: drover artifacts add DIR",
  },
  KernelParameter: {
    likelyCause: "The kernel refused a setting that the CIS profile or Kubernetes requires.",
    next: "use another image, or spec.security.profile: none",
  },
  ConfigInvalid: {
    likelyCause: "RKE2 refused its configuration: a key or value in spec.rke2 that this release does not take.",
    next: "correct spec.rke2 as the log says",
  },
  TokenRejected: {
    likelyCause: "The server did not accept the join token, or its CA is not the one that the token pins: the node asked another cluster.",
    next: "make sure that no other server answers at the address in the message",
  },
  DuplicateNode: {
    likelyCause: "The cluster still knows a node or an etcd member of this name.",
    next: "start the operation again: it removes what is left of lost nodes first",
  },
  SplitBrain: {
    likelyCause: "This node belongs to another cluster than the record says: two clusters were made under one name.",
    next: "compare the servers before anything else; do not delete either while you do not know which holds the data",
  },
  AlreadyMember: {
    likelyCause: "The node's disk holds etcd data of a cluster that it cannot rejoin.",
    next: "terminate the instance, then start the operation again: a new one takes its slot",
  },
  StartTimedOut: {
    likelyCause: "RKE2 started but was not ready in time: images still importing on a slow disk, or etcd or the API server unable to settle.",
    next: "read the log, then start the operation again",
  },
  ServiceFailed: {
    likelyCause: "The RKE2 service ended with an error.",
    next: "read the log's last lines, correct what they name, then start again",
  },
  NotReady: {
    likelyCause: "The node runs but is not Ready: most often the CNI's images are missing or its pods cannot start.",
    next: "check that the CNI's image archive is in the store: drover artifacts check VERSION",
  },
  UploadFailed: {
    likelyCause: "The node could not send its file to S3: no endpoint, the address expired, or the object was there already.",
    next: "check the S3 endpoint of the node's subnet, then start the operation again",
  },
  AnotherCommandRuns: {
    likelyCause: "Another Drover command was still running on the node.",
    next: "wait for it to end, then start the operation again",
  },
  Internal: { likelyCause: "The script on the node failed in a way it does not know.", next: "read the log, and report it" },
};

/** AWS error classes that a card names itself; the others keep the failure they came with. */
const byAwsClass: Readonly<Partial<Record<AwsErrorClass, CardFailure>>> = {
  denied: "AccessDenied",
  limit: "QuotaReached",
  capacity: "NoCapacity",
  throttle: "NotYet",
  transient: "NotYet",
  notYet: "NotYet",
  invalid: "Invalid",
};

const timedOut = ["States.Timeout", "States.HeartbeatTimeout", "Sandbox.Timedout", "Lambda.Unknown", "TIMED_OUT", "TimedOut"];
const lambdaTransient =
  /^Lambda\.(?:ServiceException|AWSLambdaException|SdkClientException|ClientExecutionTimeoutException|TooManyRequestsException)$/;

/**
 * Writes the card of a failed operation. Nothing on it is a secret: every text passes `redact`.
 *
 * @param error       name as Step Functions caught it
 * @param cause       raw cause: JSON of a Lambda error, of a child execution (also nested), or plain text
 * @param state       state that failed; a `[state] ` before the message, which handlers put there, names it more exactly
 * @param left        what exists and costs money until the next command
 * @param nodeFailure what the node said, where one did
 * @param now         ISO 8601
 */
export function writeFailureCard(input: {
  readonly error: string;
  readonly cause: string;
  readonly state: string;
  readonly cluster: string;
  readonly operation: string;
  readonly kind: OperationKind;
  readonly left: readonly LeftResource[];
  readonly nodeFailure?: { readonly name: string; readonly instanceId: string; readonly failure: NodeFailure } | undefined;
  readonly now: string;
}): FailureCard {
  const { cluster, operation, kind, nodeFailure } = input;
  const raw = unwrapCause(input.error, input.cause);
  const [, stated, message] = /^\[([^\]\n]{1,80})\] ([\s\S]*)$/.exec(raw.message) ?? [undefined, undefined, raw.message];
  const code = nodeFailure?.failure.code ?? raw.nodeFailure?.code;
  const failure = nameFailure(raw.error, message ?? "", code);
  const advice = code === undefined ? undefined : nodeCauses[code];

  const commands = [...causes[failure].next, ...(advice === undefined ? [] : [`# ${advice.next}`]), ...goOn(kind, input.left.length > 0)];
  const named = (text: string) => text.replaceAll("CLUSTER", cluster).replaceAll("OPERATION", operation);
  return {
    operation,
    cluster,
    failure,
    state: redact(stated ?? input.state),
    what: shorten(redact(whatHappened(raw.error, message ?? "", failure, nodeFailure?.failure ?? raw.nodeFailure)), 1000),
    likelyCause: advice?.likelyCause ?? causes[failure].likelyCause,
    ...(nodeFailure === undefined
      ? {}
      : { node: { name: nodeFailure.name, instanceId: nodeFailure.instanceId, log: redact(nodeFailure.failure.log) } }),
    next: [...new Set(commands.map(named))],
    left: {
      resources: input.left.map((resource) => ({ ...resource, detail: redact(resource.detail) })),
      dollarsPerHour: Number(input.left.reduce((sum, resource) => sum + resource.dollarsPerHour, 0).toFixed(4)),
    },
    at: input.now,
    runbook: `docs/runbook.md#${(code ?? failure).toLowerCase()}`,
  };
}

/** What a cause says once all its wrapping is off. */
export interface RawFailure {
  readonly error: string;
  readonly message: string;
  readonly nodeFailure?: NodeFailure;
}

/**
 * Takes the wrapping off a Step Functions cause: a Lambda error is JSON with errorType and errorMessage, a failed child execution JSON with Error and
 * Cause, and each may hold the other. A cause is cut at 32,768 characters, so JSON that does not parse is read by its first fields.
 */
export function unwrapCause(error: string, cause: string, depth = 0): RawFailure {
  if (depth > 8) return { error, message: cause };
  const value = parsed(cause);
  if (typeof value === "string") return unwrapCause(error, value, depth + 1);
  if (typeof value !== "object" || value === null || Array.isArray(value)) return cutCause(error, cause);
  const fields = value as Readonly<Record<string, unknown>>;

  const node = nodeFailureSchema.safeParse(fields);
  if (node.success) return { error, message: node.data.message, nodeFailure: node.data };
  const type = text(fields, "errorType", "Error", "error");
  const inner = text(fields, "errorMessage", "Cause", "cause", "message");
  if (inner !== undefined) return unwrapCause(type ?? error, inner, depth + 1);
  const status = text(fields, "Status", "status");
  if (type !== undefined || status !== undefined) return { error: type ?? status ?? error, message: type ?? `the execution ended as ${status}` };
  return { error, message: cause };
}

function cutCause(error: string, cause: string): RawFailure {
  if (!/^\s*[{"]/.test(cause)) return { error, message: cause };
  const field = (...names: string[]) => new RegExp(`\\\\*"(?:${names.join("|")})\\\\*"\\s*:\\s*\\\\*"((?:[^"\\\\]|\\\\+[^"])*)`).exec(cause)?.[1];
  return { error: field("errorType", "Error") ?? error, message: field("errorMessage") ?? cause };
}

function nameFailure(error: string, message: string, code: NodeFailureCode | undefined): CardFailure {
  const known = cardFailures.find((name) => name === error);
  // A refused call of AWS that a handler made Invalid is told apart by the code in its message.
  const quoted = / was answered with ([A-Za-z0-9.]+):/.exec(message)?.[1];
  if (known === "Invalid" && quoted !== undefined && classifyAwsError("", quoted) === "limit") return "QuotaReached";
  if (known !== undefined) return known;
  if (code !== undefined) return "NodeCommandFailed";
  if (timedOut.includes(error)) return "TimedOut";
  if (error === "ABORTED") return "Aborted";
  if (lambdaTransient.test(error)) return "NotYet";
  if (error === "States.Permissions") return "AccessDenied";
  return byAwsClass[classifyAwsError("", error)] ?? "Unexpected";
}

function whatHappened(error: string, message: string, failure: CardFailure, node: NodeFailure | undefined): string {
  const plain = message.replace(/\s+/g, " ").trim();
  const said = plain === "" ? (node?.message ?? "") : plain;
  if (said === "") return failure === "TimedOut" ? `${error}: no answer in time` : `${error}, without a message`;
  return failure === error || said.includes(error) ? said : `${error}: ${said}`;
}

/** How to go on: a create is started again with the same file, a delete with the same name; both continue where they stopped. */
function goOn(kind: OperationKind, somethingIsLeft: boolean): string[] {
  switch (kind) {
    case "create":
      return [
        "drover create FILE   # the same file: goes on where this stopped",
        ...(somethingIsLeft ? ["drover delete CLUSTER   # or give it up"] : []),
      ];
    case "delete":
      return ["drover delete CLUSTER   # goes on where this stopped"];
    case "backup":
      return ["drover snapshot create CLUSTER   # takes another", "drover snapshot list CLUSTER   # those that count stand"];
    case "restore":
      return ["drover restore CLUSTER   # the same request: goes on where this stopped"];
    case "drill":
      return ["drover drill CLUSTER   # again, on a new machine"];
  }
}

function parsed(json: string): unknown {
  if (!/^\s*[{"]/.test(json)) return undefined;
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

function text(fields: Readonly<Record<string, unknown>>, ...names: readonly string[]): string | undefined {
  for (const name of names) {
    const value = fields[name];
    if (typeof value === "string" && value !== "") return value;
    if (typeof value === "object" && value !== null) return JSON.stringify(value);
  }
  return undefined;
}

function shorten(line: string, limit: number): string {
  return line.length > limit ? `${line.slice(0, limit - 3)}...` : line;
}
