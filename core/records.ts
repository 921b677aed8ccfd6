/**
 * What the state bucket remembers of a cluster. What exists in EC2 and Kubernetes is read there, never copied here.
 *
 * Times are ISO 8601 in UTC. A record is changed by If-Match only.
 */
import type { ClusterFile } from "./cluster-file.js";

export type OperationKind = "create" | "delete" | "backup" | "restore" | "drill";

export type ClusterPhase = "creating" | "ready" | "failed" | "restoring" | "deleting";

/** Kubernetes' conditions, as the status command shows them. */
export interface Condition {
  readonly type: "Endpoint" | "ControlPlane" | "Agents";
  readonly status: "True" | "False" | "Unknown";
  readonly reason: string;
  readonly message: string;
  readonly at: string;
}

/**
 * The one decision about who may start without `server:`. Written once by If-Match before the command is sent. A later decision exists only when
 * `decideBootstrap` finds that nothing of the cluster lives: its number is one higher and the earlier ones stay in the history.
 */
export interface BootstrapDecision {
  readonly number: number;
  readonly instanceId: string;
  readonly operation: string;
  readonly at: string;
  /** Set when the chosen server has answered: cluster id and CA hash that every later server must share. */
  readonly done?: { readonly at: string; readonly address: string; readonly caHash: string };
  /** Set when it moves to the history although it had answered: nodes launched up to then may belong to the lost cluster and are replaced. */
  readonly abandonedAt?: string;
  /** The restore whose first server this is: it starts from a snapshot or from the data on its disk, never from nothing. */
  readonly restore?: string;
}

/**
 * A restore that has begun and is not finished. Asked for again it goes on: nodes do its destructive steps once for its id, and nothing else may make
 * the cluster meanwhile.
 */
export interface RestoreRecord {
  /** The operation that began it, or that and a pass in which it had to begin anew. */
  readonly id: string;
  readonly operation: string;
  readonly begunAt: string;
  readonly source: RestoreSource;
  /** Operations, each with its pass, that went on with it. */
  readonly wentOn?: readonly string[];
}

/** What a restore makes the cluster of: a proven snapshot, or what a living server has on its disk after the majority was lost. */
export type RestoreSource =
  | {
      readonly kind: "snapshot";
      /** uid of the cluster that the snapshot is of: another one's when a new cluster is made of it. */
      readonly uid: string;
      readonly snapshot: string;
      readonly versionId: string;
      readonly sha256: string;
      readonly bytes: number;
      readonly takenAt: string;
      readonly revision: number;
      readonly keys: number;
      readonly hash: number;
      readonly compactRevision: number;
      readonly kubernetesId: string;
      /** Generation of the token that opens it, of the cluster that it is of. */
      readonly tokenGeneration: number;
    }
  | { readonly kind: "survivor" };

/** What was asked for, for operations that take more than the cluster's name. */
export interface OperationRequest {
  /** Id of a snapshot, or `survivor`. */
  readonly snapshot: string;
  /** The cluster it is of. */
  readonly from: { readonly name: string; readonly uid: string };
}

/** Everything about the endpoint that later steps need. */
export interface EndpointRecord {
  readonly loadBalancerArn: string;
  readonly dnsName: string;
  readonly supervisorTargetGroupArn: string;
  readonly apiTargetGroupArn: string;
  readonly endpointSecurityGroupId: string;
  readonly nodeSecurityGroupId: string;
  readonly createdAt: string;
}

/** A server that votes; removed when it leaves. */
export interface ServerMember {
  readonly instanceId: string;
  readonly slot: number;
  readonly address: string;
  readonly at: string;
}

export interface ClusterRecord {
  readonly schema: 1;
  readonly name: string;
  /** Random, never re-used: tells this cluster from an earlier one of the same name. */
  readonly uid: string;
  /** Rises by one with every change of the wanted state. */
  readonly generation: number;
  readonly phase: ClusterPhase;
  readonly createdAt: string;
  /** When it was ready for the first time: from then on somebody's data may be in it. */
  readonly readyAt?: string;
  readonly wanted: ClusterFile;
  /** Resolved once, so that a moved channel or image parameter cannot mix versions within a cluster. */
  readonly resolved: {
    readonly version: string;
    readonly imageId: string;
    readonly rootDeviceName: string;
    /** Subnets of the file, in its order, with the zone each lies in. */
    readonly subnets: readonly { readonly id: string; readonly zone: string }[];
  };
  readonly bootstrap?: BootstrapDecision;
  readonly abandonedBootstraps: readonly BootstrapDecision[];
  readonly endpoint?: EndpointRecord;
  readonly members: readonly ServerMember[];
  /** Key of the kubeconfig that the first server uploaded, until it is taken over into the secrets. */
  readonly kubeconfigUpload?: string;
  readonly secrets: Readonly<Record<"server-token" | "agent-token" | "kubeconfig", number>>;
  readonly conditions: readonly Condition[];
  /** The newest snapshot that was proven (law 10). */
  readonly newestProven?: {
    readonly id: string;
    readonly at: string;
    readonly revision: number;
    readonly bytes: number;
    /** Node name of etcd's leader at that moment, where it was known: the next snapshot is taken on another server. */
    readonly leader?: string;
  };
  /** When a snapshot was last restored on a throw-away server, and whether what came back was what its manifest says. */
  readonly lastDrill?: { readonly at: string; readonly snapshot: string; readonly proven: boolean; readonly detail: string };
  readonly restore?: RestoreRecord;
  readonly operation?: string;
}

/** Law 2: who may change the cluster. */
export interface Lease {
  readonly cluster: string;
  /** ARN of the execution that holds it. */
  readonly holder: string;
  readonly operation: string;
  readonly takenAt: string;
}

export type OperationStatus = "accepted" | "running" | "succeeded" | "failed";

export interface OperationRecord {
  readonly schema: 1;
  readonly id: string;
  readonly kind: OperationKind;
  readonly cluster: string;
  readonly uid: string;
  readonly status: OperationStatus;
  readonly requestedBy: string;
  readonly requestId: string;
  readonly acceptedAt: string;
  readonly startedAt?: string;
  readonly endedAt?: string;
  readonly execution: string;
  readonly request?: OperationRequest;
  /** Of a delete: a last snapshot is taken first. */
  readonly lastSnapshot?: boolean;
  readonly steps: readonly StepRecord[];
  readonly outcome?: Readonly<Record<string, unknown>>;
  readonly card?: FailureCard;
}

/** What an operation's outcome says of the snapshot that it took, or should have taken. */
export interface SnapshotOutcome {
  /** Id of the one that was proven. */
  readonly snapshot?: string;
  readonly snapshotFailure?: string;
}

/** One named milestone, as progress shows it. */
export interface StepRecord {
  readonly name: string;
  readonly at: string;
  readonly detail: string;
}

/** Law 12: what a person reads at three in the morning. Never holds a secret. */
export interface FailureCard {
  readonly operation: string;
  readonly cluster: string;
  /** A failure name; its heading in docs/runbook.md. */
  readonly failure: string;
  readonly state: string;
  readonly what: string;
  readonly likelyCause: string;
  /** Node it happened on, with the last lines of its log, redacted. */
  readonly node?: { readonly name: string; readonly instanceId: string; readonly log: string };
  /** Commands to type next, the likeliest first. */
  readonly next: readonly string[];
  /** What exists and costs money until the next command runs. */
  readonly left: { readonly resources: readonly LeftResource[]; readonly dollarsPerHour: number };
  readonly at: string;
  readonly runbook: string;
}

export interface LeftResource {
  readonly kind: "instance" | "volume" | "network-interface" | "load-balancer" | "target-group" | "security-group" | "secret";
  readonly id: string;
  readonly detail: string;
  readonly dollarsPerHour: number;
}
