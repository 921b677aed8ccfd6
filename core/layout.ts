/**
 * Where everything is: object keys, tags and names of AWS resources. The one place that spells them.
 */
import { createHash } from "node:crypto";

/** Keys in the state bucket. Values are JSON unless said otherwise. */
export const stateKeys = {
  record: (cluster: string) => `clusters/${cluster}/record.json`,
  clusterPrefix: (cluster: string) => `clusters/${cluster}/`,
  allClusters: "clusters/",
  lease: (cluster: string) => `clusters/${cluster}/lease.json`,
  admission: (cluster: string) => `clusters/${cluster}/admission.json`,
  /** Every launch and refusal (launch.ts); changed by If-Match only. */
  launches: (cluster: string) => `clusters/${cluster}/launches.json`,
  /** The same of a deleted cluster, as long as a snapshot remembers its nodes. */
  launchesKept: (uid: string) => `launches-kept/${uid}.json`,
  operations: (cluster: string) => `clusters/${cluster}/operations/`,
  operation: (cluster: string, operation: string) => `clusters/${cluster}/operations/${operation}.json`,
  /** What one operation works with: the plan of slots, and the groups of nodes that go through a command together. */
  plan: (cluster: string, operation: string) => `clusters/${cluster}/work/${operation}/plan.json`,
  work: (cluster: string) => `clusters/${cluster}/work/`,
  group: (cluster: string, operation: string, group: string) => `clusters/${cluster}/work/${operation}/groups/${group}.json`,
  groups: (cluster: string, operation: string) => `clusters/${cluster}/work/${operation}/groups/`,
  /** One node command of one state of one execution; found again by a step that runs twice. */
  command: (cluster: string, operation: string, command: string) => `clusters/${cluster}/work/${operation}/commands/${command}.json`,
  /** Task token of the step that waits for a command. Expires in days. */
  callback: (commandId: string) => `callbacks/${commandId}.json`,
  /** Files on their way to a node, fetched by presigned URL. Expire in a day. */
  delivery: (uid: string, delivery: string, file: string) => `deliveries/${uid}/${delivery}/${file}`,
  deliveries: (uid: string) => `deliveries/${uid}/`,
  /** Files on their way from a node, put by a presigned URL that can only create. Expire in a day. */
  upload: (uid: string, upload: string, file: string) => `uploads/${uid}/${upload}/${file}`,
  uploads: (uid: string) => `uploads/${uid}/`,
  /** Encrypted with the secrets key; one object a generation, generation 1 first. */
  secret: (uid: string, kind: SecretKind, generation: number) => `secrets/${uid}/${kind}/${String(generation).padStart(6, "0")}.json`,
  secretKind: (uid: string, kind: SecretKind) => `secrets/${uid}/${kind}/`,
  secrets: (uid: string) => `secrets/${uid}/`,
  secretsOf: (uid: string, kind: SecretKind) => `secrets/${uid}/${kind}/`,
  /** A snapshot that a restore or a drill reads, perhaps for another cluster: see `SnapshotUse`. Expire in days. */
  snapshotUse: (uid: string, snapshot: string, operation: string) => `snapshots-in-use/${uid}/${snapshot}/${operation}.json`,
  snapshotUses: (uid: string) => `snapshots-in-use/${uid}/`,
  /** Which operation answered a request, so that a repeated request is answered the same. Expires in days. */
  request: (requestId: string) => `requests/${requestId}.json`,
} as const;

export type SecretKind = "server-token" | "agent-token" | "kubeconfig";

/** Keys in the snapshot bucket. */
export const snapshotKeys = {
  cluster: (uid: string) => `${uid}/`,
  snapshot: (uid: string, snapshot: string) => `${uid}/${snapshot}/snapshot`,
  /** Written last: a snapshot without one does not count (law 10). */
  manifest: (uid: string, snapshot: string) => `${uid}/${snapshot}/manifest.json`,
} as const;

/** Keys in the artifact store, the same names as in the upstream release. */
export const artifactKeys = {
  all: "rke2/",
  version: (version: string) => `rke2/${version}/`,
  release: (version: string, architecture: string) => `rke2/${version}/${architecture}/`,
  file: (version: string, architecture: string, file: string) => `rke2/${version}/${architecture}/${file}`,
} as const;

/** Tags on everything Drover makes in an account. `InstanceMetadataTags` stays disabled, so other systems' tags with `/` remain possible. */
export const tags = {
  cluster: "drover:cluster",
  uid: "drover:uid",
  role: "drover:role",
  pool: "drover:pool",
  /**
   * First slot of the launch this instance belongs to. The instance's own slot is this plus its AMI launch index: one RunInstances call
   * can thus make many agents that are told apart without a tagging call for each.
   */
  slot: "drover:slot",
  attempt: "drover:attempt",
  /** The operation that made it. */
  operation: "drover:operation",
} as const;

/** Deterministic short hash for names with a limit: 8 hexadecimal characters. */
export function shortHash(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 8);
}

/** Supervisor (registration) and API server ports: hard-wired in RKE2. */
export const ports = { supervisor: 9345, api: 6443 } as const;

/**
 * Names of a cluster's endpoint resources. Load balancers and target groups end at 32 characters, alphanumeric and hyphen, no hyphen at an
 * end (Elastic Load Balancing API reference, CreateLoadBalancer and CreateTargetGroup), so the cluster's name is cut and told apart by its uid.
 */
export function endpointNames(cluster: string, uid: string) {
  const stem = `${cluster.slice(0, 16).replace(/-+$/, "")}-${shortHash(uid)}`;
  return {
    loadBalancer: `drv-${stem}`,
    supervisorTargetGroup: `drv-${stem}-s`,
    apiTargetGroup: `drv-${stem}-a`,
    loadBalancerSecurityGroup: `drover-${cluster}-${shortHash(uid)}-endpoint`,
    nodeSecurityGroup: `drover-${cluster}-${shortHash(uid)}-nodes`,
    drillSecurityGroup: `drover-${cluster}-${shortHash(uid)}-drill`,
  } as const;
}

/** Slot names: `server-1`, `workers-17`. Slots are numbered from 1 and kept for the cluster's life. */
export function slotName(pool: string, slot: number): string {
  return `${pool}-${slot}`;
}

/** The pool name servers have in tags and plans; no agent pool may take it. */
export const serverPool = "server";

/** Role, pool and first part of the node name of a throw-away server on which a snapshot is restored to prove that it can be; no agent pool may take it. */
export const drillRole = "drill";

/**
 * Kubernetes node name: unique for ever, because instance ids are. A re-used name would meet the node password of the one before it
 * (rancher/rke2 issue 4659), and an operator finds the instance from the name.
 */
export function nodeName(pool: string, instanceId: string): string {
  return `${pool}-${instanceId}`;
}
