/**
 * What the laws look at: the account as it really is, and what has been seen of it since the world began.
 *
 * A law never scans the world. It is told of a call, of a document in the state bucket, or that something of an RKE2 cluster has changed, and finds
 * what else it needs here.
 */

import { tags } from "../../core/layout.js";
import type { ClusterRecord, Lease, LeftResource, OperationRecord } from "../../core/records.js";
import type { ExecutionView } from "../asl/run.js";
import type { SeenCall } from "../kernel/calls.js";
import type { Denial } from "../kernel/iam.js";
import type { LogLine } from "../kernel/lambda.js";
import type { ObservedCluster } from "../nodes/contract.js";

/** One thing that exists and costs money, with the tag that says whose it is. */
export interface Resource {
  readonly kind: Exclude<LeftResource["kind"], "secret">;
  readonly id: string;
  /** Value of the tag `drover:uid`; undefined when it has none. */
  readonly uid: string | undefined;
  /** Whether its instance, if it is one or belongs to one, is on its way out: it goes by itself. */
  readonly isGoing: boolean;
}

export interface Owner {
  readonly cluster: string;
  readonly uid: string;
  readonly role: string;
}

/** The world as the laws see it; `watchLaws` makes one of a real world, tests make theirs by hand. */
export interface Watched {
  now(): number;
  readonly stateBucket: string;
  readonly artifactBucket: string;
  readonly snapshotBucket: string;
  /** ARNs of the roles that nodes have. */
  readonly nodeRoles: ReadonlySet<string>;
  readonly logs: readonly LogLine[];
  readonly denials: readonly Denial[];
  executions(): readonly ExecutionView[];
  /** Rises with every change of an RKE2 cluster. */
  clusterRevision(): number;
  clusters(): readonly ObservedCluster[];
  /** The tags of an instance, also of one that runs no more; undefined for one that never was. */
  owner(instanceId: string): Owner | undefined;
  /** Whether the machine has power. */
  isRunning(instanceId: string): boolean;
  /** Instances in a target group, draining ones too. */
  targets(targetGroupArn: string): readonly string[];
  resources(): readonly Resource[];
}

export type StateDocument =
  | { readonly kind: "record"; readonly cluster: string; readonly value: ClusterRecord; readonly before: ClusterRecord | undefined }
  | { readonly kind: "operation"; readonly cluster: string; readonly value: OperationRecord; readonly before: OperationRecord | undefined };

/** What a function was invoked with, as far as the laws ask. */
export interface Invoked {
  readonly cluster?: string;
  readonly operation?: string;
  readonly execution?: string;
}

export class Seen {
  /** Who holds which cluster, by the cluster's name. */
  readonly leases = new Map<string, Lease>();
  readonly records = new Map<string, ClusterRecord>();
  readonly operations = new Map<string, OperationRecord>();
  /** Keys of the state bucket. */
  readonly keys = new Set<string>();
  /** RKE2 clusters as they were after the last step: while a call takes effect, as they were before it. */
  clusters: readonly ObservedCluster[] = [];
  /** Cluster of every server that ever was a member, by instance. */
  readonly membership = new Map<string, string>();
  readonly #invoked = new WeakMap<object, Invoked>();

  constructor(readonly world: Watched) {}

  /** Takes in a call, and answers the document that it wrote, if it is one that laws speak of. */
  call(call: SeenCall): StateDocument | undefined {
    if (call.service !== "s3" || !call.mutates || call.error !== undefined) return undefined;
    const {
      Bucket,
      Key = "",
      Body,
      Delete,
    } = call.input as { Bucket?: string; Key?: string; Body?: Uint8Array | string; Delete?: { Objects?: { Key?: string }[] } };
    if (Bucket !== this.world.stateBucket) return undefined;
    const removed =
      call.operation === "DeleteObject" ? [Key] : call.operation === "DeleteObjects" ? (Delete?.Objects ?? []).map((each) => each.Key ?? "") : [];
    for (const key of removed) this.#removed(key);
    if (call.operation !== "PutObject") return undefined;
    this.keys.add(Key);
    return this.#written(Key, textOf(Body));
  }

  #removed(key: string): void {
    this.keys.delete(key);
    const [, cluster, name] = /^clusters\/([^/]+)\/(lease|record)\.json$/.exec(key) ?? [];
    if (cluster === undefined) return;
    if (name === "lease") this.leases.delete(cluster);
    else this.records.delete(cluster);
  }

  #written(key: string, text: string): StateDocument | undefined {
    const [, cluster, name, operation] = /^clusters\/([^/]+)\/(lease|record|operations\/([^/]+))\.json$/.exec(key) ?? [];
    if (cluster === undefined || name === undefined) return undefined;
    const value: unknown = JSON.parse(text);
    if (name === "lease") {
      this.leases.set(cluster, value as Lease);
      return undefined;
    }
    if (name === "record") {
      const before = this.records.get(cluster);
      this.records.set(cluster, value as ClusterRecord);
      return { kind: "record", cluster, value: value as ClusterRecord, before };
    }
    const before = this.operations.get(operation as string);
    this.operations.set(operation as string, value as OperationRecord);
    return { kind: "operation", cluster, value: value as OperationRecord, before };
  }

  /** What the function that makes this call was invoked with; undefined when nobody invoked it with an object. */
  invoked(call: SeenCall): Invoked | undefined {
    const { origin } = call;
    if (origin.payload === undefined) return undefined;
    let found = this.#invoked.get(origin);
    if (found === undefined) {
      const value: unknown = JSON.parse(origin.payload);
      found = typeof value === "object" && value !== null ? (value as Invoked) : {};
      this.#invoked.set(origin, found);
    }
    return found;
  }

  /** Clusters that a decision of Drover gave up, by the instance that made them. */
  isAbandoned(cluster: ObservedCluster): boolean {
    const owner = this.world.owner(cluster.bootstrappedBy);
    const record = owner === undefined ? undefined : this.records.get(owner.cluster);
    if (record === undefined) return false;
    return record.uid !== owner?.uid || record.abandonedBootstraps.some((decision) => decision.instanceId === cluster.bootstrappedBy);
  }

  /** Looks at the RKE2 clusters again; answers how they were. */
  look(): readonly ObservedCluster[] {
    const before = this.clusters;
    this.clusters = this.world.clusters();
    for (const { id, members } of this.clusters) for (const member of members) this.membership.set(member.instanceId, id);
    return before;
  }
}

export function textOf(body: Uint8Array | string | undefined): string {
  if (body === undefined) return "";
  return typeof body === "string" ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString("utf8");
}

export function ownerOf(instanceTags: Readonly<Record<string, string>>): Owner | undefined {
  const { [tags.cluster]: cluster, [tags.uid]: uid, [tags.role]: role } = instanceTags;
  return cluster === undefined || uid === undefined ? undefined : { cluster, uid, role: role ?? "" };
}

export const listOf = (things: readonly string[]) =>
  things.length <= 5 ? things.join(", ") : `${things.slice(0, 5).join(", ")} and ${things.length - 5} more`;
