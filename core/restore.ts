/**
 * Whether a restore is possible, what it loses, and what becomes of the servers that are there.
 *
 * A restore makes etcd what it was at one revision: everything written since is gone, on purpose. So everything that could make it fail half-way is looked
 * at before a server is stopped, and what will be lost is said before a person confirms it.
 */
import type { Fault } from "./failures.js";
import { lateAfterSeconds } from "./groups.js";
import { snapshotKeys } from "./layout.js";
import type { NodeCommandResult } from "./node-commands.js";
import { isAlive, isGone, type ObservedInstance } from "./nodes.js";
import type { ClusterRecord, RestoreRecord, RestoreSource } from "./records.js";
import { type Manifest, proofFault, type StoredObject, sizeFault } from "./snapshots.js";
import { compareVersions, parseVersion } from "./versions.js";

/** What a server's disk holds beside snapshots: the operating system, a release with its images, containers. */
const usedGib = 25;
/** The file itself, the data made of it, and the old data that RKE2 sets aside (rke2-docs, "Backup and Restore"): etcd's own data are about as large. */
const copies = 3;

/** A generation of the server token, by the 12 hexadecimal characters that RKE2 keeps with its snapshots; never the token. */
export interface TokenGeneration {
  readonly generation: number;
  readonly hash: string;
}

/** What can be known of a snapshot without fetching it. */
export interface SnapshotFacts {
  readonly id: string;
  /** Undefined: nobody proved it, or there is none of this id. */
  readonly manifest: Manifest | undefined;
  /** The very version that the manifest names, as S3 knows it now. */
  readonly stored: StoredObject | undefined;
  /** At least four, where it has so many. */
  readonly firstBytes: Uint8Array;
}

export interface Preflight {
  /** Errors and warnings, all of them. */
  readonly faults: readonly Fault[];
  /** Generation of the token that opens it. */
  readonly tokenGeneration: number | undefined;
}

/**
 * Everything that is wrong with a snapshot for this target, at once.
 *
 * @param from    the cluster whose snapshot was asked for
 * @param tokens  every generation of that cluster's server token that is in the secrets
 * @param version RKE2 release of the servers that will restore it
 */
export function preflight(input: {
  readonly from: { readonly name: string; readonly uid: string };
  readonly snapshot: SnapshotFacts;
  readonly tokens: readonly TokenGeneration[];
  readonly version: string;
  readonly rootVolumeGib: number;
}): Preflight {
  const { from, snapshot, tokens, version } = input;
  const { manifest, stored } = snapshot;
  const faults: Fault[] = [];
  const error = (message: string) => faults.push({ path: snapshot.id, message, severity: "error" });
  if (manifest === undefined) {
    error(`${from.name} has no proven snapshot of this id`);
    return { faults, tokenGeneration: undefined };
  }
  if (manifest.cluster.uid !== from.uid) {
    error(`it is a snapshot of cluster ${manifest.cluster.name} (${manifest.cluster.uid}), not of ${from.name} (${from.uid})`);
  } else if (manifest.id !== snapshot.id || manifest.file.key !== snapshotKeys.snapshot(from.uid, snapshot.id)) {
    error(`its manifest is that of ${manifest.id}, stored at ${manifest.file.key}`);
  }
  const damage = fileFault(manifest, stored, snapshot.firstBytes);
  if (damage !== undefined) error(damage);

  const order = compareVersions(version, manifest.version);
  if (order < 0)
    error(`it was taken by ${manifest.version}, and the servers run ${version}: RKE2 restores into the same release or a newer one only`);
  const [taken, wanted] = [parseVersion(manifest.version), parseVersion(version)];
  if (order > 0 && taken !== undefined && wanted !== undefined && wanted.minor - taken.minor > 1) {
    const message = `it was taken by ${manifest.version}, and the servers run ${version}: Kubernetes supports steps of one minor release`;
    faults.push({ path: snapshot.id, message, severity: "warning" });
  }

  const fitting = tokens.filter(({ hash }) => hash === manifest.token.hash);
  const token = fitting.find(({ generation }) => generation === manifest.token.generation) ?? fitting.at(-1);
  if (token === undefined) {
    const named = tokens.find(({ generation }) => generation === manifest.token.generation);
    error(
      named === undefined
        ? `it opens with generation ${manifest.token.generation} of the server token, which is not kept: ${generationText(tokens)}`
        : `the token of generation ${named.generation} has the hash ${named.hash}, and a token with ${manifest.token.hash} opens it`,
    );
  }

  const neededGib = Math.ceil((copies * manifest.file.bytes) / 1024 ** 3) + usedGib;
  if (neededGib > input.rootVolumeGib) {
    error(`restoring it takes a root volume of about ${neededGib} GiB, and the servers have ${input.rootVolumeGib} GiB`);
  }
  return { faults, tokenGeneration: token?.generation };
}

/** The worst thing first, and only that: a truncated file is also of the wrong size and the wrong hash. */
function fileFault(manifest: Manifest, stored: StoredObject | undefined, firstBytes: Uint8Array): string | undefined {
  if (stored === undefined) return `version ${manifest.file.versionId} of it is gone from the snapshot bucket`;
  if (stored.bytes === 0) return "it is empty";
  if (firstBytes[0] === 0x50 && firstBytes[1] === 0x4b)
    return "it is compressed (a zip file), which RKE2 cannot restore by its path (k3s issue 14526)";
  if (stored.bytes < manifest.file.bytes) return `it is truncated: ${stored.bytes} bytes, expected ${manifest.file.bytes}`;
  return proofFault(manifest.file, stored) ?? sizeFault(stored.bytes);
}

function generationText(tokens: readonly TokenGeneration[]): string {
  if (tokens.length === 0) return "there is none";
  return `there ${tokens.length === 1 ? "is" : "are"} ${tokens.map(({ generation }) => generation).join(", ")}`;
}

/** What a restore undoes. Revisions count writes to etcd. */
export interface Loss {
  /** Everything written after this instant is lost. */
  readonly since: string;
  readonly seconds: number;
  /** Revisions that are known to be lost: a later snapshot has them. */
  readonly revisionsAtLeast: number;
  /** Revisions at the pace between the two newest snapshots; missing where there is but one. */
  readonly revisionsAbout?: number;
  /** Proven snapshots that are newer: they stay. */
  readonly newerSnapshots: number;
}

/**
 * @param proven manifests of the same cluster, in any order
 * @param now    ISO 8601
 */
export function estimateLoss(manifest: Manifest, proven: readonly Manifest[], now: string): Loss {
  const own = proven.filter((each) => each.cluster.uid === manifest.cluster.uid).sort((a, b) => Date.parse(b.takenAt) - Date.parse(a.takenAt));
  const newer = own.filter((each) => Date.parse(each.takenAt) > Date.parse(manifest.takenAt));
  const newest = Math.max(manifest.etcd.revision, ...newer.map((each) => each.etcd.revision));
  const seconds = Math.max(0, Math.round((Date.parse(now) - Date.parse(manifest.takenAt)) / 1000));
  const [last, before] = own;
  const apart = last === undefined || before === undefined ? 0 : (Date.parse(last.takenAt) - Date.parse(before.takenAt)) / 1000;
  // A restore in between sets the revision back: then the two say nothing about a pace.
  const written = last === undefined || before === undefined ? -1 : last.etcd.revision - before.etcd.revision;
  const revisionsAtLeast = newest - manifest.etcd.revision;
  const sinceLast = last === undefined ? 0 : Math.max(0, (Date.parse(now) - Date.parse(last.takenAt)) / 1000);
  return {
    since: manifest.takenAt,
    seconds,
    revisionsAtLeast,
    ...(apart > 0 && written >= 0 ? { revisionsAbout: Math.round(revisionsAtLeast + (written / apart) * sinceLast) } : {}),
    newerSnapshots: newer.length,
  };
}

export function lossText(loss: Loss): string {
  const known = loss.revisionsAtLeast > 0 ? `, at least ${loss.revisionsAtLeast} writes` : "";
  const about = loss.revisionsAbout === undefined ? "" : `, about ${loss.revisionsAbout} writes at the pace of late`;
  return `Everything written to the cluster since ${loss.since} is lost: ${durationText(loss.seconds)}${known}${about}`;
}

/** `3 d 4 h`, `12 min`, `40 s`: two units at the most. */
export function durationText(seconds: number): string {
  const units = [
    ["d", 86_400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ] as const;
  const from = units.findIndex(([, size]) => seconds >= size);
  if (from < 0) return "0 s";
  let rest = Math.floor(seconds);
  return units
    .slice(from, from + 2)
    .flatMap(([name, size]) => {
      const count = Math.floor(rest / size);
      rest -= count * size;
      return count === 0 ? [] : [`${count} ${name}`];
    })
    .join(" ");
}

export type RestoreWay = "in place" | "onto new nodes" | "as a new cluster";

export type RestoreAnswer =
  | {
      readonly kind: "go";
      readonly restore: RestoreRecord;
      /** Whether it goes on with one that was begun before. */
      readonly goesOn: boolean;
      readonly way: RestoreWay;
      /** Servers that take no traffic any more. */
      readonly leave: readonly string[];
      /** Servers that are of the restored cluster already, and live. */
      readonly members: ClusterRecord["members"];
      /** Servers whose old cluster has to end before the new one begins. */
      readonly stop: readonly ObservedInstance[];
      /** Machines that cannot be stopped that way, or cannot be used: gone for good before the restore. */
      readonly terminate: readonly string[];
    }
  | { readonly kind: "wait"; readonly reason: string }
  | { readonly kind: "stop"; readonly reason: string; readonly next: string };

/**
 * Decides what becomes of the machines that are there.
 *
 * Two clusters of one name must never run beside each other, so every server of the time before is stopped, and one that cannot be told to stop is terminated.
 * But when none of the running servers can be reached, it is more likely the way to them that is broken: that stops for a person.
 *
 * @param observed  every machine of the cluster, with unseen ones
 * @param online    ids that SSM reports online
 * @param operation the one that asks
 * @param pass      of that operation, from 1
 */
export function decideRestore(input: {
  readonly record: ClusterRecord;
  readonly source: RestoreSource;
  readonly observed: readonly ObservedInstance[];
  readonly online: ReadonlySet<string>;
  readonly operation: string;
  readonly pass: number;
  readonly now: string;
}): RestoreAnswer {
  const { record, source, observed, online, now } = input;
  const servers = observed.filter((instance) => instance.role === "server");
  const running = servers.filter((server) => isAlive(server.state));
  const attempt = `${input.operation} p${input.pass}`;
  const begun = goesOnWith(record, source, servers, attempt);
  const restore = begun ?? {
    id: input.pass === 1 ? input.operation : `${input.operation}-p${input.pass}`,
    operation: input.operation,
    begunAt: now,
    source,
  };
  const first = record.bootstrap?.restore === restore.id ? record.bootstrap : undefined;
  const members = first?.done === undefined ? [] : livingMembers(record, servers);
  const isRestored = new Set([...(first === undefined ? [] : [first.instanceId]), ...ids(members)]);
  // Whatever was launched since the restore began holds nothing of the time before it.
  const old = running.filter((server) => Date.parse(server.launchedAt) <= Date.parse(restore.begunAt) && !isRestored.has(server.instanceId));
  const reachable = old.filter((server) => online.has(server.instanceId) && server.state === "running");
  const silent = old.filter((server) => !reachable.includes(server));
  const [young] = silent.filter((server) => Date.parse(now) - Date.parse(server.launchedAt) < lateAfterSeconds * 1000);
  if (young !== undefined) return { kind: "wait", reason: `${young.instanceId} of ${record.name} has not come online yet` };
  if (silent.length > 0 && reachable.length === 0 && isRestored.size === 0) {
    return {
      kind: "stop",
      reason: `${count(silent.length, "server")} of ${record.name} (${ids(silent).join(", ")}) still run, and none is online in SSM, so none can be told to stop`,
      next: "Repair their way to SSM, or terminate them; then start the restore again",
    };
  }
  if (source.kind === "survivor" && first === undefined) {
    const survivors = reachable.filter((server) => record.members.some((member) => member.instanceId === server.instanceId));
    if (survivors.length === 0) {
      return {
        kind: "stop",
        reason: `No server of ${record.name} that was a member is running and online: there is no survivor to go on with`,
        next: `Restore a snapshot instead: drover restore ${record.name} --snapshot latest`,
      };
    }
  }
  const lateAgents = observed.filter(
    (node) => node.role === "agent" && input.pass > 1 && isAlive(node.state) && !online.has(node.instanceId) && isOld(node, now),
  );
  const halted = observed.filter((node) => !isAlive(node.state) && !isGone(node.state));
  const isNew = source.kind === "snapshot" && source.uid !== record.uid;
  return {
    kind: "go",
    restore,
    goesOn: begun !== undefined,
    way: isNew ? "as a new cluster" : reachable.length > 0 || isRestored.size > 0 ? "in place" : "onto new nodes",
    // Members that EC2 has forgotten may still be targets.
    leave: [...new Set([...ids(servers), ...ids(record.members)])].filter((id) => !members.some((member) => member.instanceId === id)),
    members,
    stop: [...reachable].sort((a, b) => a.slot - b.slot),
    terminate: ids([...silent, ...halted, ...lateAgents]),
  };
}

/** An attempt that goes on and fails is made twice; after that it is what it goes on with that cannot be finished. */
const mostWentOn = 2;

/**
 * The unfinished restore of the same source, unless it cannot be finished as it is: the server it was begun on is gone, or etcd has lost its majority again, or
 * going on has failed twice (a server may have died after it had joined and before anybody knew). Then it begins anew, and every server gives up its data.
 */
function goesOnWith(record: ClusterRecord, source: RestoreSource, servers: readonly ObservedInstance[], attempt: string): RestoreRecord | undefined {
  const { restore, bootstrap } = record;
  if (restore === undefined || JSON.stringify(sameSource(restore.source)) !== JSON.stringify(sameSource(source))) return undefined;
  if (bootstrap?.restore !== restore.id) return restore;
  const first = servers.find((server) => server.instanceId === bootstrap.instanceId);
  if (first === undefined || !isAlive(first.state)) return undefined;
  // A survivor's disk is all there is: it is gone on with as long as it is there.
  if (source.kind === "survivor" && bootstrap.done === undefined) return restore;
  const majority = Math.floor(record.members.length / 2) + 1;
  if (bootstrap.done !== undefined && livingMembers(record, servers).length < majority) return undefined;
  const earlier = (restore.wentOn ?? []).filter((each) => each !== attempt);
  return earlier.length < mostWentOn ? { ...restore, wentOn: [...earlier, attempt] } : undefined;
}

function livingMembers({ members }: ClusterRecord, servers: readonly ObservedInstance[]): ClusterRecord["members"] {
  return members.filter((member) => servers.some((server) => server.instanceId === member.instanceId && isAlive(server.state)));
}

function sameSource(source: RestoreSource): unknown {
  return source.kind === "survivor" ? source.kind : [source.uid, source.snapshot, source.versionId];
}

function isOld(node: ObservedInstance, now: string): boolean {
  return Date.parse(now) - Date.parse(node.launchedAt) >= lateAfterSeconds * 1000;
}

function ids(nodes: readonly { readonly instanceId: string }[]): string[] {
  return nodes.map((node) => node.instanceId);
}

/** What will be done, for a person who is asked to confirm it. */
export function restorePlan(input: {
  readonly target: string;
  readonly servers: readonly ObservedInstance[];
  readonly wantedServers: number;
  readonly snapshot: Manifest | "survivor";
  readonly loss: Loss | undefined;
  readonly tokenGeneration: number | undefined;
  readonly isNew: boolean;
}): string[] {
  const { target, servers, snapshot, loss } = input;
  const living = servers.filter((server) => isAlive(server.state));
  const missing = Math.max(0, input.wantedServers - living.length);
  const what =
    snapshot === "survivor"
      ? `Go on with what a living server of ${target} has on its disk, as the one member of etcd`
      : `Restore snapshot ${snapshot.id} (${snapshot.takenAt}, revision ${snapshot.etcd.revision}, ${snapshot.etcd.keys} keys, RKE2 ${snapshot.version})`;
  const how = input.isNew
    ? `Make the new cluster ${target} of it, with machines and an endpoint of its own; the cluster it was taken of stays as it is`
    : living.length > 0
      ? `Stop ${count(living.length, "server")} (${ids(living).join(", ")}): the API of ${target} is away until it is restored`
      : `No server of ${target} is left: it is restored onto new ones`;
  return [
    what,
    how,
    ...(missing > 0 ? [`Launch ${count(missing, "server")}`] : []),
    ...(input.tokenGeneration === undefined ? [] : [`Use the server token of generation ${input.tokenGeneration}, which opens it`]),
    ...(living.length > 0 && !input.isNew ? ["Keep the data that is replaced on the servers' disks, as long as the machines are"] : []),
    "Take a fresh snapshot at the end",
    ...(loss === undefined
      ? input.isNew
        ? []
        : ["What only the lost servers had is lost: as a rule the last seconds, and nothing that the living one had confirmed"]
      : input.isNew
        ? [`It begins as of ${loss.since}, ${durationText(loss.seconds)} ago`]
        : [lossText(loss)]),
  ];
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** What a restore goes by from now on: the snapshot may be read again, its manifest need not be. */
export function sourceOf(manifest: Manifest, tokenGeneration: number): SnapshotSource {
  const { etcd, file, cluster } = manifest;
  return {
    kind: "snapshot",
    uid: cluster.uid,
    snapshot: manifest.id,
    versionId: file.versionId,
    sha256: file.sha256,
    bytes: file.bytes,
    takenAt: manifest.takenAt,
    revision: etcd.revision,
    keys: etcd.keys,
    hash: etcd.hash,
    compactRevision: etcd.compactRevision,
    kubernetesId: cluster.kubernetesId,
    tokenGeneration,
  };
}

export type SnapshotSource = Extract<RestoreSource, { kind: "snapshot" }>;

/** What a node reports of the etcd that it has restored. */
export type RestoredState = Pick<
  NodeCommandResult<"restore-snapshot">,
  "revision" | "keys" | "hash" | "compactRevision" | "newestRevision" | "clusterId"
>;

/**
 * How what came back differs from what was proven, one sentence each.
 *
 * A node reads the state at the snapshot's revision. Where etcd has compacted that already, it reads a later one, and then keys and hash say nothing: that
 * is no difference, but no proof either (`unproven`).
 */
export function compareRestored(
  source: SnapshotSource,
  restored: RestoredState,
): { readonly faults: readonly string[]; readonly unproven: readonly string[] } {
  const faults: string[] = [];
  const unproven: string[] = [];
  if (restored.clusterId !== source.kubernetesId) faults.push(`it is cluster ${restored.clusterId}, expected ${source.kubernetesId}`);
  if (restored.newestRevision < source.revision) {
    faults.push(`its newest revision is ${restored.newestRevision}, expected ${source.revision} or later`);
  } else if (restored.revision !== source.revision) {
    unproven.push(`its keys could not be counted at revision ${source.revision}, but only at ${restored.revision}`);
  } else {
    if (restored.keys !== source.keys) faults.push(`it has ${restored.keys} keys at revision ${source.revision}, expected ${source.keys}`);
    // etcd's hash covers what came after the last compaction: only equal spans can be compared (etcd source, HashKV).
    if (restored.compactRevision === source.compactRevision && restored.hash !== source.hash) {
      faults.push(`the hash of its keys is ${restored.hash}, expected ${source.hash}`);
    }
  }
  return { faults, unproven };
}
