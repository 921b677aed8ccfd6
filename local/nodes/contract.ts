/**
 * What the local cloud expects of the machines behind its instances. Simulated nodes implement it today; a driver that boots real machines takes
 * their place by implementing the same.
 *
 * The cloud tells the driver when an instance boots and when it is gone, hands over the documents that Run Command delivers, and asks whether a
 * port answers. A driver knows nothing of Drover: no bucket of its state, no record, no execution.
 */
import type { Service } from "../kernel/contract.js";

/** An instance as its operating system finds it at boot. */
export interface Machine {
  readonly instanceId: string;
  /** Private IPv4 address; never that of a machine which is gone but lately. */
  readonly address: string;
  readonly zone: string;
  readonly architecture: "x86_64" | "arm64";
  readonly platform: Platform;
  readonly rootVolumeGib: number;
}

export type Platform = "ubuntu" | "amazon-linux";

/** One document on its way to one machine, as its agent receives it. */
export interface DocumentRun {
  readonly commandId: string;
  readonly instanceId: string;
  readonly documentName: string;
  /** The document itself: what a machine with a shell executes. */
  readonly content: DocumentContent;
  readonly parameters: Readonly<Record<string, string>>;
}

/** The part of an SSM Command document (schema 2.2) that a run depends on. */
export interface DocumentContent {
  readonly schemaVersion: string;
  readonly description?: string;
  readonly parameters?: Readonly<Record<string, DocumentParameter>>;
  readonly mainSteps: readonly DocumentStep[];
}
export interface DocumentParameter {
  readonly type: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly allowedPattern?: string;
  readonly allowedValues?: readonly string[];
  readonly minChars?: number;
  readonly maxChars?: number;
  readonly interpolationType?: string;
}
export interface DocumentStep {
  readonly action: string;
  readonly name: string;
  readonly inputs?: Readonly<Record<string, unknown>>;
}

export interface DocumentEnd {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A document at work. A machine that is gone never ends it: nobody is left to tell. */
export interface RunningDocument {
  readonly ended: Promise<DocumentEnd>;
  /** Ends the script, as the agent does at the execution timeout or when the command is cancelled. What it started stays started. */
  kill(): void;
}

/** Whether a port answers a health check, and since when it does (or does not), in milliseconds since the epoch. */
export interface Answering {
  readonly answers: boolean;
  readonly sinceMs: number;
}

/** An RKE2 cluster as it really is, whatever Drover believes: for the laws that a world checks, and for people. */
export interface ObservedCluster {
  /** uid of its kube-system namespace; with a number behind it where a restore made a second cluster beside one that lives. */
  readonly id: string;
  readonly caHash: string;
  /** Instance that started it, without `server:` and without etcd data, or on which it was restored last. */
  readonly bootstrappedBy: string;
  readonly bootstrappedAtMs: number;
  readonly members: readonly ObservedMember[];
  readonly nodes: readonly ObservedNode[];
  /** Whether a majority of the voters is healthy. */
  readonly hasQuorum: boolean;
  readonly podsPending: number;
  /** What etcd holds, where the driver can tell: the revision only rises, but for a restore. */
  readonly store?: { readonly revision: number; readonly keys: number };
}
export interface ObservedMember {
  readonly instanceId: string;
  readonly nodeName: string;
  readonly address: string;
  readonly voter: boolean;
  readonly healthy: boolean;
}
export interface ObservedNode {
  readonly name: string;
  readonly instanceId: string;
  readonly role: "server" | "agent";
  readonly ready: boolean;
  readonly version: string;
}

/** Registered in the world under the name `nodes`: a service without operations, so that its state is kept like that of the others. */
export interface NodeDriver extends Service {
  readonly name: "nodes";
  boot(machine: Machine): void;
  /** The machine has lost its power; what it ran is over, and its disk with it. */
  halt(instanceId: string): void;
  run(document: DocumentRun): RunningDocument;
  answers(instanceId: string, port: number): Answering;
  /** Settles when the agent of a machine that has booted is there. A driver without it leaves the time to the latency model. */
  online?(instanceId: string): Promise<void>;
  /**
   * What the health checks of a target group, made with its own protocol, path, interval and thresholds, say of a target. A driver without it leaves
   * that to `answers` and the latency model.
   */
  checked?(targetGroupArn: string, instanceId: string, port: number): "initial" | "healthy" | "unhealthy";
  /** Writes so many new keys into a cluster's etcd, one revision each; no while it has no majority. A driver without it leaves that to whoever can. */
  write?(cluster: string, keys: number): boolean;
  /** In the order they came to be. A cluster whose machines are all gone stays listed: it happened. */
  clusters(): readonly ObservedCluster[];
  /** Rises with every change of any cluster: a check that saw this number need not look again. */
  readonly revision: number;
}

/** HTTP as a machine sees it. Throws when nothing answers. */
export type MachineFetch = (url: string, request: MachineRequest) => MachineAnswer | Promise<MachineAnswer>;
export interface MachineRequest {
  readonly method: "GET" | "PUT";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
}
export interface MachineAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}
