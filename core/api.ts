/**
 * The HTTP API: one table gives the handler's routes, the CLI's calls, the deployment's routes and the OpenAPI document.
 *
 * Every route is IAM-authorised (SigV4, service `execute-api`). Faults in a request come back as 400 with all of them; 409 names the operation that
 * holds the cluster; 404 what is not there. A request id makes a repeated request be answered with the first operation.
 */
import { z } from "zod";
import type { QuorumAssessment } from "./cluster-health.js";
import type { ClusterRecord, Lease, OperationRecord } from "./records.js";
import type { Loss } from "./restore.js";

/** The largest cluster file: a Step Functions payload never carries it, but the event bus does. */
export const clusterFileLimitBytes = 200_000;

const requestId = z
  .string()
  .regex(/^[A-Za-z0-9_-]{8,64}$/, "must be 8 to 64 letters, digits, hyphens or underscores")
  .describe("Chosen by the caller; the same id is answered with the same operation.");

export const createRequestSchema = z.strictObject({
  requestId,
  /** The cluster file as text: YAML or JSON. Parsed by the one parser, so that positions in messages are the writer's. */
  file: z.string(),
  /** Validate and answer what would be done; start nothing. */
  preview: z.boolean().default(false),
});

export const deleteRequestSchema = z.strictObject({
  requestId,
  /** The cluster's name, typed by a person. */
  confirm: z.string(),
  /** Delete although the file says `protection.delete: true`. */
  overrideProtection: z.boolean().default(false),
  /** Take no last snapshot before. */
  skipSnapshot: z.boolean().default(false),
  preview: z.boolean().default(false),
});

export const snapshotRequestSchema = z.strictObject({
  requestId,
  /** Answer what would be done; start nothing. */
  preview: z.boolean().default(false),
});

const snapshotId = z.string().regex(/^\d{8}T\d{6}Z-[0-9a-f]{8}$/, "must be latest, or the id of a snapshot as drover snapshot list shows it");

export const restoreRequestSchema = z.strictObject({
  requestId,
  /** `survivor`: no snapshot, but what a living server has on its disk, when the others are lost. */
  snapshot: z.union([z.enum(["latest", "survivor"]), snapshotId]).default("latest"),
  /** The name of the cluster that is restored, typed by a person: what was written since the snapshot is lost. */
  confirm: z.string(),
  /** Restore as a new cluster of this name; the one that the snapshot is of stays as it is. */
  as: z
    .string()
    .regex(/^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$/, "must be a cluster's name: up to 30 lower-case letters, digits and hyphens, a letter first")
    .optional(),
  /** Look at everything, say what would be done and lost; start nothing. */
  preview: z.boolean().default(false),
});

export const drillRequestSchema = z.strictObject({
  requestId,
  snapshot: z.union([z.literal("latest"), snapshotId]).default("latest"),
  preview: z.boolean().default(false),
});

/** Files of one release for one architecture, offered for upload. */
export const artifactUploadSchema = z.strictObject({
  version: z.string(),
  architecture: z.enum(["amd64", "arm64"]),
  file: z.string().regex(/^[A-Za-z0-9._-]{1,128}$/),
  bytes: z.number().int().min(1),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
export type ArtifactUpload = z.output<typeof artifactUploadSchema>;

export const artifactCompleteSchema = z.strictObject({ ...artifactUploadSchema.shape, uploadId: z.string().min(1).max(1024) });

/** Routes in the spelling of API Gateway. `function` is the handler behind it. */
export const routes = {
  createCluster: { method: "POST", path: "/clusters", function: "api" },
  listClusters: { method: "GET", path: "/clusters", function: "api" },
  readCluster: { method: "GET", path: "/clusters/{name}", function: "api" },
  deleteCluster: { method: "DELETE", path: "/clusters/{name}", function: "api" },
  listOperations: { method: "GET", path: "/clusters/{name}/operations", function: "api" },
  readOperation: { method: "GET", path: "/clusters/{name}/operations/{operation}", function: "api" },
  createSnapshot: { method: "POST", path: "/clusters/{name}/snapshots", function: "api" },
  listSnapshots: { method: "GET", path: "/clusters/{name}/snapshots", function: "snapshots" },
  readSnapshot: { method: "GET", path: "/clusters/{name}/snapshots/{snapshot}", function: "snapshots" },
  proveSnapshot: { method: "POST", path: "/clusters/{name}/snapshots/{snapshot}/prove", function: "snapshots" },
  previewRetention: { method: "GET", path: "/clusters/{name}/retention", function: "snapshots" },
  restoreCluster: { method: "POST", path: "/clusters/{name}/restore", function: "restores" },
  drillRestore: { method: "POST", path: "/clusters/{name}/drill", function: "api" },
  readKubeconfig: { method: "GET", path: "/clusters/{name}/kubeconfig", function: "read-kubeconfig" },
  listArtifacts: { method: "GET", path: "/artifacts", function: "artifacts" },
  readArtifacts: { method: "GET", path: "/artifacts/{version}", function: "artifacts" },
  startUpload: { method: "POST", path: "/artifacts/uploads", function: "artifacts" },
  completeUpload: { method: "POST", path: "/artifacts/uploads/complete", function: "artifacts" },
} as const;
export type RouteName = keyof typeof routes;

/** Answer of everything that starts an operation. */
export interface Accepted {
  readonly operation: string;
  readonly cluster: string;
  readonly status: "accepted" | "preview";
  /** What will be done, one line each, for a person to read before saying yes. */
  readonly plan: readonly string[];
  readonly warnings: readonly ApiFault[];
}

/** Answer of restoreCluster. */
export interface RestoreAccepted extends Accepted {
  /** Undefined when a survivor is gone on with: what only the lost servers had is known to nobody. */
  readonly loss?: Loss;
}

export interface ApiFault {
  readonly path: string;
  readonly message: string;
}

/** Every answer that is not 2xx. */
export interface ApiError {
  readonly error: "Invalid" | "NotFound" | "Busy" | "Unsafe" | "Internal";
  readonly message: string;
  readonly next: string;
  readonly faults: readonly ApiFault[];
}

export interface ClusterSummary {
  readonly name: string;
  readonly phase: ClusterRecord["phase"];
  readonly version: string;
  readonly servers: number;
  readonly agents: number;
  readonly createdAt: string;
  readonly operation?: string;
}

/** Answer of readCluster: the record, what EC2 has now, and who holds the lease. */
export interface ClusterStatus {
  readonly record: ClusterRecord;
  readonly nodes: readonly NodeStatus[];
  readonly lease?: Lease;
  readonly operation?: OperationRecord;
  /** How etcd stands by which machines run; missing while the cluster never had a member. */
  readonly quorum?: QuorumAssessment;
}

export interface NodeStatus {
  readonly name: string;
  readonly role: "server" | "agent";
  readonly pool: string;
  readonly slot: number;
  readonly instanceId: string;
  readonly instanceType: string;
  readonly zone: string;
  readonly address: string;
  readonly state: string;
  readonly launchedAt: string;
}

/** One snapshot in a list. One that was never proven has its id and the time in it, and nothing else is known of it. */
export interface SnapshotSummary {
  readonly id: string;
  readonly uid: string;
  /** False: there is no manifest, so it does not count (law 10). */
  readonly proven: boolean;
  readonly takenAt: string;
  readonly provenAt?: string;
  readonly requestedBy?: string;
  readonly version?: string;
  readonly node?: string;
  readonly revision?: number;
  readonly keys?: number;
  readonly bytes?: number;
  readonly tokenGeneration?: number;
}

/** Answer of proveSnapshot: what the bucket holds now, held against the manifest. Changes nothing. */
export interface SnapshotProof {
  readonly id: string;
  readonly proven: boolean;
  /** Why it is not, as a sentence; empty when it is. */
  readonly fault: string;
  readonly at: string;
}

/** Answer of previewRetention. */
export interface RetentionPreview {
  readonly cluster: string;
  readonly uid: string;
  readonly timeZone: string;
  readonly keep: readonly { readonly id: string; readonly reasons: readonly string[] }[];
  readonly remove: readonly { readonly id: string; readonly reason: string }[];
}

/** Answer of startUpload. */
export interface UploadTicket {
  /** `present`: the store holds this very file already, nothing to send. */
  readonly status: "present" | "send";
  readonly uploadId?: string;
  readonly partBytes?: number;
  /** Parts that still have to be sent, at most 100 at a time; ask again for more. */
  readonly parts?: readonly { readonly number: number; readonly url: string }[];
  /** Parts that are there from an earlier try. */
  readonly sentParts?: number;
}

export interface ArtifactRelease {
  readonly version: string;
  readonly architecture: "amd64" | "arm64";
  readonly files: readonly { readonly file: string; readonly bytes: number; readonly sha256?: string }[];
  /** What a cluster with each CNI would miss; empty lists where nothing is missing. */
  readonly missing: Readonly<Record<string, readonly string[]>>;
}
