/** Laws 1, 3, 4 and 5: what becomes of the RKE2 cluster and of the machines it runs on. */
import { drillRole } from "../../core/layout.js";
import { type DeliveryEntry, parseDelivery } from "../../core/node-commands.js";
import type { ClusterRecord, OperationKind } from "../../core/records.js";
import { urlLifetimeSeconds } from "../../functions/aws/deliveries.js";
import type { SeenCall } from "../kernel/calls.js";
import type { ObservedCluster, ObservedMember } from "../nodes/contract.js";
import { type Bench, broken, type Law } from "./law.js";
import { type Invoked, listOf, textOf } from "./seen.js";

const majorityOf = (voters: number) => Math.floor(voters / 2) + 1;
const votersOf = (cluster: ObservedCluster) => cluster.members.filter((member) => member.voter);

interface SentCommand {
  readonly DocumentName?: string;
  readonly InstanceIds?: readonly string[];
  readonly Parameters?: Readonly<Record<string, readonly string[]>>;
}

/** Law 1. */
export function oneBootstrap({ seen, held }: Bench): Law {
  const known = new Map<string, string>();
  /** A world may go on from a saved one: what was made before anybody watched is not judged. */
  const watchedSince = seen.world.now();

  /** A cluster has come to be that was not there before, or was made again of a snapshot. */
  function made(cluster: ObservedCluster, isKnown: boolean): void {
    held(1);
    const by = cluster.bootstrappedBy;
    const owner = seen.world.owner(by) ?? broken(1, `${by} made the RKE2 cluster ${cluster.id}, and belongs to nobody`);
    // A copy on a throw-away server; that it stays one is held against law 4.
    if (owner.role === drillRole) return;
    for (const other of seen.clusters) {
      if (other.id === cluster.id || seen.world.owner(other.bootstrappedBy)?.uid !== owner.uid) continue;
      const living = other.members.filter((member) => seen.world.isRunning(member.instanceId)).map((member) => member.instanceId);
      if (living.length > 0) broken(1, `${by} made a second RKE2 cluster of ${owner.cluster} while ${listOf(living)} of the first one lives`);
    }
    const record = seen.records.get(owner.cluster);
    if (record?.bootstrap?.instanceId !== by) {
      broken(1, `${by} made the RKE2 cluster of ${owner.cluster}, but the record chose ${record?.bootstrap?.instanceId ?? "nobody"}`);
    }
    const isRestore = record.restore !== undefined && record.bootstrap.restore === record.restore.id;
    if (isKnown && !isRestore) broken(1, `${by} reset the RKE2 cluster of ${owner.cluster}, and no restore of it is under way`);
    if (record.readyAt !== undefined && !isRestore)
      broken(1, `${by} made ${owner.cluster} anew, which was ready at ${record.readyAt} and may hold data`);
  }

  return {
    number: 1,
    changed() {
      for (const cluster of seen.clusters) {
        if (known.get(cluster.id) === cluster.bootstrappedBy) continue;
        const isKnown = known.has(cluster.id);
        known.set(cluster.id, cluster.bootstrappedBy);
        if (cluster.bootstrappedAtMs < watchedSince) continue;
        made(cluster, isKnown);
      }
    },
    call(call) {
      const input = call.input as SentCommand;
      const isRestore = /^drover-restore-snapshot-/.test(input.DocumentName ?? "");
      if (call.operation !== "SendCommand" || call.error !== undefined || (input.Parameters?.mode?.[0] !== "bootstrap" && !isRestore)) return;
      held(1);
      const ids = input.InstanceIds ?? [];
      const owner = seen.world.owner(ids[0] ?? "");
      if (isRestore && owner?.role === drillRole) return;
      const chosen = seen.records.get(owner?.cluster ?? "")?.bootstrap?.instanceId;
      if (ids.length !== 1 || ids[0] !== chosen) {
        broken(
          1,
          `${listOf(ids)} was told to ${isRestore ? "restore" : "bootstrap"} ${owner?.cluster ?? "an unknown cluster"} while the record chose ${chosen ?? "nobody"}`,
        );
      }
    },
    wrote(document) {
      if (document.kind !== "record") return;
      held(1);
      const { members } = document.value;
      const stranger = members.find((member) => !seen.membership.has(member.instanceId));
      if (stranger !== undefined)
        broken(1, `the record of ${document.cluster} names ${stranger.instanceId} as a member, which never joined any RKE2 cluster`);
      const clusters = new Set(members.map((member) => seen.membership.get(member.instanceId)));
      if (clusters.size > 1) {
        const where = members.map((member) => `${member.instanceId} in ${seen.membership.get(member.instanceId)}`);
        broken(1, `the servers of ${document.cluster} are not in one RKE2 cluster: ${where.join(", ")}`);
      }
    },
  };
}

/** Law 3, for what creating and deleting do to etcd: joins, removals and terminations. */
export function keepsMajority({ seen, held }: Bench): Law {
  return {
    number: 3,
    changed(before) {
      for (const cluster of seen.clusters) {
        held(3);
        const learners = cluster.members.filter((member) => !member.voter);
        if (learners.length > 1) broken(3, `${listOf(learners.map((member) => member.instanceId))} are learners of ${cluster.id} at the same time`);
        const earlier = before.find((each) => each.id === cluster.id);
        if (earlier === undefined || !earlier.hasQuorum || cluster.hasQuorum) continue;
        const removed = votersOf(earlier).filter((member) => !cluster.members.some((each) => each.instanceId === member.instanceId));
        if (removed.length > 0) broken(3, `removing ${listOf(removed.map((member) => member.instanceId))} from ${cluster.id} took its etcd majority`);
      }
    },
    call(call, invoked) {
      // A throw-away server is a cluster by itself, made to be thrown away.
      const terminated = terminatedAlive(call).filter((id) => seen.world.owner(id)?.role !== drillRole);
      if (terminated.length === 0 || isDelete(call, invoked)) return;
      for (const cluster of seen.clusters) {
        const voters = votersOf(cluster);
        const hit = voters.filter((member) => member.healthy && terminated.includes(member.instanceId));
        if (hit.length === 0 || seen.isAbandoned(cluster)) continue;
        held(3);
        const healthy = voters.filter((member) => member.healthy).length;
        const majority = majorityOf(voters.length);
        if (healthy >= majority && healthy - hit.length < majority) {
          const left = `${healthy - hit.length} healthy of ${voters.length} voters are left, majority is ${majority}`;
          broken(3, `${call.origin.name} terminated ${listOf(hit.map((member) => member.instanceId))}: ${left}`);
        }
      }
    },
  };

  function isDelete(_: SeenCall, invoked: Invoked | undefined): boolean {
    return seen.operations.get(invoked?.operation ?? "")?.kind === "delete";
  }
}

/** Instances that ran when TerminateInstances took effect. */
function terminatedAlive(call: SeenCall): string[] {
  if (call.service !== "ec2" || call.operation !== "TerminateInstances" || call.error !== undefined) return [];
  const output = call.output as { TerminatingInstances?: { InstanceId?: string; PreviousState?: { Name?: string } }[] };
  return (output.TerminatingInstances ?? [])
    .filter((each) => each.PreviousState?.Name === "running" || each.PreviousState?.Name === "pending")
    .map((each) => each.InstanceId ?? "");
}

/** Law 4. */
export function endpointOrder({ seen, held }: Bench): Law {
  const memberOf = (instanceId: string): { readonly cluster: ObservedCluster; readonly member: ObservedMember } | undefined => {
    for (const cluster of seen.clusters) {
      const member = cluster.members.find((each) => each.instanceId === instanceId);
      if (member !== undefined) return { cluster, member };
    }
    return undefined;
  };

  function entered(instanceId: string): void {
    held(4);
    if (seen.world.owner(instanceId)?.role === drillRole) broken(4, `${instanceId} entered a target group and is a throw-away server`);
    const found = memberOf(instanceId);
    if (found === undefined) broken(4, `${instanceId} entered a target group and is no etcd member`);
    if (!found.member.voter) broken(4, `${instanceId} entered a target group and does not vote yet`);
    // Whoever was Ready may have died since: Kubernetes learns of it later than the law is asked.
    if (!found.cluster.nodes.some((node) => node.instanceId === instanceId && node.role === "server")) {
      broken(4, `${instanceId} entered a target group and was never Ready`);
    }
  }

  function left(instanceId: string, kind: OperationKind | undefined): void {
    const owner = seen.world.owner(instanceId);
    if (owner?.role !== "server") return;
    held(4);
    const record = seen.records.get(owner.cluster);
    const { supervisorTargetGroupArn, apiTargetGroupArn } = record?.endpoint ?? {};
    for (const arn of [supervisorTargetGroupArn, apiTargetGroupArn]) {
      if (arn !== undefined && seen.world.targets(arn).includes(instanceId))
        broken(4, `${instanceId} was terminated while it was in the target group ${arn}`);
    }
    const found = memberOf(instanceId);
    // What a restore replaces is a member of a cluster that is stopped, not of the one that is being made.
    if (kind === "restore" && record !== undefined && !isOfRestored(record, instanceId)) return;
    if (kind === "delete" || found === undefined || seen.isAbandoned(found.cluster)) return;
    broken(4, `${instanceId} was terminated while it was an etcd member of ${found.cluster.id}`);
  }

  return {
    number: 4,
    call(call, invoked) {
      if (call.operation === "RegisterTargets" && call.error === undefined) {
        for (const { Id } of (call.input as { Targets?: { Id?: string }[] }).Targets ?? []) entered(Id ?? "");
      }
      const kind = seen.operations.get(invoked?.operation ?? "")?.kind;
      for (const instanceId of terminatedAlive(call)) left(instanceId, kind);
    },
  };
}

function isOfRestored({ bootstrap, restore, members }: ClusterRecord, instanceId: string): boolean {
  return restore !== undefined && bootstrap?.restore === restore.id && members.some((member) => member.instanceId === instanceId);
}

/** Law 5. What a node may do to S3 it does by presigned URL, so those are looked at where they are made. */
export function nodesHoldNoKeys({ seen, held }: Bench): Law {
  function checkUrl(url: string, where: string): void {
    held(5);
    const expires = Number(/[?&]X-Amz-Expires=(\d+)/.exec(url)?.[1] ?? Number.NaN);
    if (!(expires > 0 && expires <= urlLifetimeSeconds)) broken(5, `a URL in ${where} lives ${expires} seconds, ${urlLifetimeSeconds} are allowed`);
  }

  /** Everything a node is given by one list is its own cluster's, or a release's. */
  function checkEntry(key: string, uid: string, entry: DeliveryEntry): void {
    checkUrl(entry.url, key);
    const { hostname, pathname } = new URL(entry.url);
    const bucket = hostname.split(".s3.")[0] as string;
    const path = decodeURIComponent(pathname);
    const isOwn = bucket === seen.world.stateBucket && [`/deliveries/${uid}/`, `/uploads/${uid}/`].some((prefix) => path.startsWith(prefix));
    const ofCluster = [...seen.records.values()].find((record) => record.uid === uid);
    const restored = ofCluster?.restore?.source;
    const readable = [uid, ...(restored?.kind === "snapshot" ? [restored.uid] : [])];
    const { searchParams } = new URL(entry.url);
    // A node sends what it saved, or part of it, and reads the one version that it restores.
    const isSnapshot =
      bucket === seen.world.snapshotBucket &&
      (entry.kind === "put"
        ? path.startsWith(`/${uid}/`) && path.endsWith("/snapshot") && entry.headers["x-amz-checksum-sha256"] !== undefined
        : readable.some((each) => path.startsWith(`/${each}/`)) && path.endsWith("/snapshot") && searchParams.has("versionId"));
    const isPart = isSnapshot && searchParams.has("partNumber");
    const isRelease = bucket === seen.world.artifactBucket && path.startsWith("/rke2/") && entry.kind === "get";
    if (!isOwn && !isRelease && !isSnapshot) broken(5, `the list ${key} hands out ${bucket}${path}, which is not its cluster's`);
    if (entry.kind === "put" && entry.headers["if-none-match"] !== "*" && !isPart)
      broken(5, `the list ${key} hands out a PUT that could replace ${path}`);
  }

  return {
    number: 5,
    call(call) {
      if (call.service === "ssm" && call.operation === "SendCommand") {
        for (const value of Object.values((call.input as SentCommand).Parameters ?? {}).flat()) {
          if (value.startsWith("https://") && value.includes("X-Amz-"))
            checkUrl(value, `a command for ${listOf((call.input as SentCommand).InstanceIds ?? [])}`);
        }
      }
      if (seen.world.nodeRoles.has(call.origin.principal)) {
        broken(5, `a node's own role was used for ${call.service} ${call.operation}`);
      }
      if (call.origin.name === "node") {
        held(5);
        const { Key, IfNoneMatch } = call.input as { Key?: string; IfNoneMatch?: string };
        if (call.service !== "s3" || !["GetObject", "PutObject", "UploadPart"].includes(call.operation))
          broken(5, `a node called ${call.service} ${call.operation}`);
        if (call.operation === "PutObject" && IfNoneMatch !== "*") broken(5, `a node put ${Key} without If-None-Match: it could have replaced it`);
        return;
      }
      const { Key = "", Body } = call.input as { Key?: string; Body?: Uint8Array | string };
      const [, uid] = /^deliveries\/([^/]+)\/.*\/list$/.exec(Key) ?? [];
      if (call.service !== "s3" || call.operation !== "PutObject" || uid === undefined) return;
      for (const entry of parseDelivery(textOf(Body))) checkEntry(Key, uid, entry);
    },
  };
}
