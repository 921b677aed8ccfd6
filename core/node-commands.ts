/**
 * Node commands: typed contracts between the workflows and what runs on a node.
 *
 * The SSM document and the bash script implement a contract on real nodes, the simulated node in the local cloud; one contract suite runs over both.
 *
 * A command's parameters are few and never secret, because Run Command keeps them in clear: free text travels in the delivery, a file list
 * behind one presigned URL. A result is one line of JSON, first on stdout, under 2,000 bytes: ListCommandInvocations keeps the first
 * 2,500 characters of a plugin's output (AWS SSM API reference).
 */
import { z } from "zod";

/** Presigned URL of a delivery list: see `deliveryLine`. A query string of a presigned URL holds only these characters. */
const deliveryUrl = z.string().regex(/^https:\/\/[A-Za-z0-9._~:/?&=%+-]{1,3500}$/);
const role = z.enum(["server", "agent"]);
/** `i-0abc...:10.0.0.5`, one for each node of the command: the server through which it joins. */
const joinList = z.string().regex(/^i-[0-9a-f]{8,17}:(\d{1,3}\.){3}\d{1,3}(,i-[0-9a-f]{8,17}:(\d{1,3}\.){3}\d{1,3}){0,49}$/);
/** Names one snapshot of a cluster, and one restore; both become parts of file names on a node. */
const snapshotId = z.string().regex(/^\d{8}T\d{6}Z-[0-9a-f]{8}$/);
const restoreId = z.string().regex(/^[a-z0-9][a-z0-9-]{0,79}$/);
const sha256Hex = z.string().regex(/^[0-9a-f]{64}$/);
const ipv4 = z.string().regex(/^(\d{1,3}\.){3}\d{1,3}$/);

/**
 * Why a node cannot go on: the code names a heading of the runbook and decides whether another node could do better.
 * `message` is for a person, at most 400 characters, redacted.
 */
export const nodeFailureCodes = [
  "UnsupportedOs",
  "ClockWrong",
  "DiskFull",
  "PortInUse",
  "CgroupMissing",
  "ForeignRke2",
  "DownloadFailed",
  "ChecksumMismatch",
  "KernelParameter",
  "ConfigInvalid",
  "TokenRejected",
  "DuplicateNode",
  "SplitBrain",
  "AlreadyMember",
  "StartTimedOut",
  "ServiceFailed",
  "NotReady",
  "UploadFailed",
  "AnotherCommandRuns",
  "SnapshotInvalid",
  "RestoreFailed",
  "Internal",
] as const;
export type NodeFailureCode = (typeof nodeFailureCodes)[number];

export const nodeFailureSchema = z.strictObject({
  ok: z.literal(false),
  code: z.enum(nodeFailureCodes),
  message: z.string().max(400),
  /** Last lines of the service's log, redacted; at most 1,000 characters. */
  log: z.string().max(1000).default(""),
});
export type NodeFailure = z.output<typeof nodeFailureSchema>;

/** What a server says of its etcd, at one revision: the same from every member, and from a restored copy. */
const etcdState = {
  revision: z.number().int().describe("of the whole store, which only rises"),
  keys: z.number().int().describe("at that revision"),
  hash: z.number().int().describe("etcd's own hash of all keys up to that revision since its last compaction (HashKV)"),
  compactRevision: z.number().int().describe("hashes are comparable only where this is equal"),
};

const succeeded = { ok: z.literal(true), node: z.string(), changed: z.boolean() };

/**
 * Contracts. `deadlineSeconds` is the document's executionTimeout: the script bounds every wait of its own below it.
 * `mode` tells whether a group of up to 50 nodes runs it together, or one node at a time.
 */
export const nodeCommands = {
  /**
   * Preflight of the machine, then fetch, verify and place the release's archives and the configuration files. Starts nothing.
   * The delivery holds the checksum file, the bundle, the image archives, config.yaml and its neighbours.
   */
  "prepare-node": {
    parameters: z.strictObject({
      role,
      pool: z.string(),
      delivery: deliveryUrl,
      version: z.string(),
      profile: z.enum(["none", "cis"]),
      selinux: z.enum(["true", "false"]),
    }),
    result: z.strictObject({ ...succeeded, version: z.string(), warnings: z.array(z.string()).max(5) }),
    deadlineSeconds: 900,
    mode: "group",
  },
  /**
   * Starts rke2-server: `bootstrap` makes the cluster, `join` registers with `joinAddress`. Waits until this node is Ready and its etcd member
   * votes, then points the file left behind at `endpoint`. With bootstrap the delivery holds upload addresses for the kubeconfig.
   * Bootstrap on a machine whose disk holds etcd data of a cluster is a restart; join on a machine that is a member changes nothing.
   */
  "start-server": {
    parameters: z.strictObject({
      mode: z.enum(["bootstrap", "join"]),
      pool: z.string(),
      delivery: deliveryUrl,
      joinAddress: z.union([ipv4, z.literal("")]),
      endpoint: z.string(),
    }),
    result: z.strictObject({
      ...succeeded,
      address: ipv4,
      caHash: z.string().regex(/^[0-9a-f]{64}$/),
      voter: z.boolean(),
      members: z.number().int(),
      version: z.string(),
    }),
    deadlineSeconds: 1500,
    mode: "single",
  },
  /**
   * Starts rke2-agent against the server that `joins` names for this node, and when that does not answer, against another that it names. Waits until this
   * node's kubelet is Ready, then points the file left behind at `endpoint`.
   */
  "start-agent": {
    parameters: z.strictObject({ pool: z.string(), delivery: deliveryUrl, joins: joinList, endpoint: z.string() }),
    result: z.strictObject({ ...succeeded, version: z.string() }),
    deadlineSeconds: 900,
    mode: "group",
  },
  /** Reads the cluster as this server sees it; changes nothing. Counts, not lists: the answer fits whatever the cluster's size. */
  "check-cluster": {
    parameters: z.strictObject({ pool: z.string() }),
    result: z.strictObject({
      ...succeeded,
      clusterId: z.string().describe("uid of the kube-system namespace: the same from every server of one cluster"),
      caHash: z.string(),
      apiReady: z.boolean(),
      members: z.number().int(),
      voters: z.number().int(),
      serversReady: z.number().int(),
      agentsReady: z.number().int(),
      nodes: z.number().int(),
      notReady: z.array(z.string()).max(20),
      podsPending: z.number().int(),
      leader: z.string().max(63).optional().describe("node name of etcd's leader, where it is known"),
      version: z.string(),
    }),
    deadlineSeconds: 120,
    mode: "single",
  },
  /**
   * Run on a healthy server: takes other nodes out of the cluster by name. Deletes the Node object, waits until its etcd member is gone, deletes the
   * node password. A name that is not there is already removed.
   */
  "remove-node": {
    parameters: z.strictObject({ pool: z.string(), nodes: z.string().regex(/^[a-z][a-z0-9-]*[a-z0-9](,[a-z][a-z0-9-]*[a-z0-9]){0,49}$/), role }),
    result: z.strictObject({ ...succeeded, removed: z.number().int(), members: z.number().int() }),
    deadlineSeconds: 300,
    mode: "single",
  },
  /**
   * Saves a snapshot of etcd on this server's disk, uncompressed, and holds it to its own SHA-256 trailer. The state is read just before, so the snapshot
   * holds at least that revision. A snapshot of this id that is there and whole is not taken again.
   */
  "save-snapshot": {
    parameters: z.strictObject({ pool: z.string(), snapshot: snapshotId }),
    result: z.strictObject({
      ...succeeded,
      bytes: z.number().int().min(1),
      sha256: sha256Hex,
      /** SHA-256 of each part of `snapshotPartBytes`, where there is more than one: an upload in parts is verified part by part. */
      parts: z.array(sha256Hex).max(10),
      ...etcdState,
      members: z.array(z.string()).max(9).describe("node names of all etcd members"),
      leader: z.string().describe("node name of etcd's leader; empty when it is not known"),
      clusterId: z.string().describe("uid of the kube-system namespace"),
      tokenHash: z
        .string()
        .regex(/^[0-9a-f]{12}$/)
        .describe("first 12 hexadecimal characters of the SHA-256 of the token's password part"),
      version: z.string(),
    }),
    deadlineSeconds: 300,
    mode: "single",
  },
  /**
   * Sends a saved snapshot by the delivery's upload addresses: `snapshot`, or `part-1`, `part-2`, ... Each can only create what it names. What is there
   * already (412) counts as sent: the proof afterwards compares sizes and hashes. Removes the local file when all is sent.
   */
  "upload-snapshot": {
    parameters: z.strictObject({ pool: z.string(), snapshot: snapshotId, delivery: deliveryUrl }),
    result: z.strictObject({ ...succeeded, bytes: z.number().int(), uploads: z.number().int() }),
    deadlineSeconds: 840,
    mode: "single",
  },
  /**
   * Stops rke2-server with all that outlives it (etcd and the API server are static pods), so that no member of the old cluster votes or writes any more.
   * What is on the disk stays as it is. A server that is of the cluster this restore makes already is left alone: a restore that was cut short knows of it
   * too late, and without it the new cluster may have no majority.
   */
  "stop-server": {
    parameters: z.strictObject({ pool: z.string(), restore: restoreId }),
    result: z.strictObject(succeeded),
    deadlineSeconds: 400,
    mode: "group",
  },
  /**
   * Makes this server the one member of the cluster again: from the delivery's snapshot (`mode` snapshot), or from the data on its own disk (`mode`
   * survivor: quorum is lost, nothing else). Sets the local snapshots aside, takes `server:` away for the reset, judges it by the text in its log, starts
   * the service, waits until this server is Ready and votes, and puts `server:` back. Done once for a restore id: a second run only waits.
   * `revision` asks for the state at that revision (0: at the newest).
   */
  "restore-snapshot": {
    parameters: z.strictObject({
      mode: z.enum(["snapshot", "survivor"]),
      pool: z.string(),
      restore: restoreId,
      delivery: deliveryUrl,
      endpoint: z.string(),
      revision: z.string().regex(/^\d{1,18}$/),
    }),
    result: z.strictObject({
      ...succeeded,
      address: ipv4,
      caHash: sha256Hex,
      voter: z.boolean(),
      members: z.number().int(),
      ...etcdState,
      newestRevision: z.number().int(),
      clusterId: z.string(),
      nodes: z.array(z.string()).max(20).describe("names of server Nodes that the restored cluster knows"),
      version: z.string(),
    }),
    deadlineSeconds: 2700,
    mode: "single",
  },
  /**
   * Joins a server whose data belong to the time before a restore: sets its local snapshots aside, removes its etcd data, once for a restore id, and
   * joins as a new member would.
   */
  "rejoin-server": {
    parameters: z.strictObject({ pool: z.string(), restore: restoreId, delivery: deliveryUrl, joinAddress: ipv4, endpoint: z.string() }),
    result: z.strictObject({
      ...succeeded,
      address: ipv4,
      caHash: sha256Hex,
      voter: z.boolean(),
      members: z.number().int(),
      version: z.string(),
    }),
    deadlineSeconds: 1500,
    mode: "single",
  },
  /** Gathers logs and states, secrets redacted, and puts them where the delivery says. */
  "collect-diagnostics": {
    parameters: z.strictObject({ pool: z.string(), delivery: deliveryUrl }),
    result: z.strictObject({ ...succeeded, bytes: z.number().int(), sha256: z.string() }),
    deadlineSeconds: 300,
    mode: "group",
  },
} as const;

export type NodeCommandName = keyof typeof nodeCommands;
export type NodeCommandParameters<N extends NodeCommandName> = z.output<(typeof nodeCommands)[N]["parameters"]>;
export type NodeCommandResult<N extends NodeCommandName> = z.output<(typeof nodeCommands)[N]["result"]>;

/** A snapshot above this size is sent in parts of it: under S3's 5 GB for one PUT (Amazon S3 user guide, uploading objects), and 9 parts hold etcd's 8 GiB. */
export const snapshotPartBytes = 1024 ** 3;

/** Seconds in which an online agent must pick a command up, before SSM calls it undeliverable; 30 is SSM's least. */
export const deliveryTimeoutSeconds = 60;

/**
 * One line of a delivery list, what a node fetches or uploads: `get <sha256 or -> <mode> <target path> <url>` or
 * `put <name> <url> [header: value]...`, tab separated. Bash reads it without a JSON parser.
 */
export type DeliveryEntry =
  | { readonly kind: "get"; readonly sha256: string | undefined; readonly mode: string; readonly target: string; readonly url: string }
  | { readonly kind: "put"; readonly name: string; readonly url: string; readonly headers: Readonly<Record<string, string>> };

export function deliveryLine(entry: DeliveryEntry): string {
  if (entry.kind === "get") return ["get", entry.sha256 ?? "-", entry.mode, entry.target, entry.url].join("\t");
  return ["put", entry.name, entry.url, ...Object.entries(entry.headers).map(([name, value]) => `${name}: ${value}`)].join("\t");
}

/** Reads a delivery list back; throws on a line that is neither. Used by nodes that are simulated and by tests. */
export function parseDelivery(text: string): DeliveryEntry[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line): DeliveryEntry => {
      const [kind, second, third, fourth, fifth, ...rest] = line.split("\t");
      if (kind === "get" && second && third && fourth && fifth) {
        return { kind, sha256: second === "-" ? undefined : second, mode: third, target: fourth, url: fifth };
      }
      if (kind === "put" && second && third) {
        const headers = [fourth, fifth, ...rest].filter((header) => header !== undefined && header !== "");
        return { kind, name: second, url: third, headers: Object.fromEntries(headers.map((header) => splitHeader(header as string))) };
      }
      throw new Error(`not a delivery line: ${line.slice(0, 40)}`);
    });
}

function splitHeader(header: string): [string, string] {
  const at = header.indexOf(": ");
  return [header.slice(0, at), header.slice(at + 2)];
}

/** `joins` of start-agent: address by instance, in the order given. */
export function joinsText(joins: Readonly<Record<string, string>>): string {
  return Object.entries(joins)
    .map(([instanceId, address]) => `${instanceId}:${address}`)
    .join(",");
}

/** Reads it back: the instance's own server first, then the others that are named; empty when none is named for it. */
export function joinAddressesOf(instanceId: string, joins: string): string[] {
  const entries = joins.split(",").map((entry) => entry.split(":") as [string, string]);
  const own = entries.find(([id]) => id === instanceId)?.[1];
  return own === undefined ? [] : [...new Set([own, ...entries.map(([, address]) => address)])];
}

/** Targets a delivery may write, absolute paths. RKE2's own layout; `staging` holds what is verified before it is placed. */
export const nodePaths = {
  staging: "/var/lib/drover/staging",
  config: "/etc/rancher/rke2/config.yaml",
  registries: "/etc/rancher/rke2/registries.yaml",
  podSecurity: "/etc/rancher/rke2/psa.yaml",
  manifests: "/var/lib/rancher/rke2/server/manifests",
  images: "/var/lib/rancher/rke2/agent/images",
  /** Where save-snapshot puts a snapshot until it is sent, and restore-snapshot the one it restores. */
  snapshots: "/var/lib/drover/snapshots",
} as const;
