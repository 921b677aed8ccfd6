/** Commands on snapshots: take one, look at them, prove one again, see which will be removed; restore one, and try out that it can be. */
import type { Accepted, RestoreAccepted, RetentionPreview, SnapshotProof, SnapshotSummary } from "../core/api.js";
import { type Manifest, snapshotIdPattern } from "../core/snapshots.js";
import type { ApiClient } from "./api-client.js";
import {
  agrees,
  type ChangeOptions,
  checkName,
  follow,
  nameTyped,
  nothingChanged,
  previewText,
  requestIdOf,
  requireName,
  sendChange,
} from "./changes.js";
import type { Act } from "./command.js";
import { badInput, CommandFailure, exitCodes } from "./failures.js";
import { age, counted, instant, plain, size, table } from "./text.js";

// ---------------------------------------------------------------------------------------------------------------------------------------------
// snapshot create, list, show, prove, prune

/** Takes nothing away and costs next to nothing, so that nobody is asked. */
export const createSnapshot: Act<Omit<ChangeOptions, "yes"> & { readonly preview?: boolean }, [name: string]> = async (command, options, name) => {
  checkName(name);
  const api = await command.api();
  const requestId = requestIdOf(options, command.surroundings.newId);
  if (options.preview === true) {
    const preview = await api.call<Accepted>("createSnapshot", { name }, { requestId, preview: true });
    command.answer({ preview }, previewText(preview, api, command.surroundings.out.columns));
    return exitCodes.ok;
  }
  const accepted = await sendChange(api, "createSnapshot", { name }, { requestId, preview: false }, name, requestId);
  return await follow(command, api, accepted, options, undefined);
};

export const listSnapshots: Act<object, [name: string]> = async (command, _, name) => {
  checkName(name);
  const api = await command.api();
  const found = await api.call<{ readonly snapshots: readonly SnapshotSummary[] }>("listSnapshots", { name });
  const now = api.endpoint.now();
  const rows = found.snapshots.map((snapshot) => [
    snapshot.id,
    snapshot.proven ? "yes" : "NO",
    age((now - Date.parse(snapshot.takenAt)) / 1000),
    String(snapshot.revision ?? ""),
    String(snapshot.keys ?? ""),
    snapshot.bytes === undefined ? "" : size(snapshot.bytes),
    snapshot.version ?? "",
    (snapshot.requestedBy ?? "").replace(/^arn:[^:]*:[^:]*::\d*:/, ""),
  ]);
  command.answer(found, rows.length === 0 ? "" : table(["SNAPSHOT", "PROVEN", "AGE", "REVISION", "KEYS", "SIZE", "VERSION", "BY"], rows));
  if (rows.length === 0 && !command.isJson) command.tell(`${name} has no snapshot. Take one: drover snapshot create ${name}\n`);
  return exitCodes.ok;
};

export const showSnapshot: Act<object, [name: string, snapshot: string]> = async (command, _, name, snapshot) => {
  checkName(name);
  const api = await command.api();
  const manifest = await api.call<Manifest>("readSnapshot", { name, snapshot: await idOf(name, snapshot, api) });
  command.answer(manifest, manifestText(manifest));
  return exitCodes.ok;
};

function manifestText({
  id,
  cluster,
  takenAt,
  provenAt,
  requestedBy,
  version,
  architecture,
  node,
  etcd,
  file,
  token,
  configs,
  manifests,
}: Manifest): string {
  const pair = (label: string, text: string) => `  ${label.padEnd(12)}${plain(text)}`;
  const parts = file.parts.length === 0 ? "" : `, in ${counted(file.parts.length, "part")}`;
  return `${[
    `${id}  of ${cluster.name}`,
    pair("taken", `${instant(takenAt)}, proven ${instant(provenAt)}, asked by ${requestedBy}`),
    pair("by", `RKE2 ${version} (${architecture}) on ${node.name}`),
    pair("etcd", `revision ${etcd.revision}, ${etcd.keys} keys, hash ${etcd.hash} since revision ${etcd.compactRevision}`),
    pair("members", `${etcd.members.join(", ")}; leader ${etcd.leader === "" ? "not known" : etcd.leader}`),
    pair("file", `${size(file.bytes)} (${file.bytes})${parts}, SHA-256 ${file.sha256}`),
    pair("object", `${file.key}, version ${file.versionId}`),
    pair("token", `generation ${token.generation}, hash ${token.hash}`),
    pair("cluster", `${cluster.uid}, in Kubernetes ${cluster.kubernetesId}`),
    pair("with it", `cluster file; configuration of ${Object.keys(configs).join(", ")}; manifests ${Object.keys(manifests).join(", ") || "none"}`),
  ].join("\n")}\n`;
}

export const proveSnapshot: Act<object, [name: string, snapshot: string]> = async (command, _, name, snapshot) => {
  checkName(name);
  const api = await command.api();
  const proof = await api.call<SnapshotProof>("proveSnapshot", { name, snapshot: await idOf(name, snapshot, api) }, {});
  const text = proof.proven
    ? `${proof.id} is what its manifest says: size and SHA-256, by S3 itself. Whether it can be restored, a drill shows: drover drill ${name}\n`
    : `${proof.id} is NOT what its manifest says: ${plain(proof.fault)}\n`;
  command.answer(proof, text);
  return proof.proven ? exitCodes.ok : exitCodes.failed;
};

export const pruneSnapshots: Act<{ readonly preview?: boolean }, [name: string]> = async (command, { preview }, name) => {
  checkName(name);
  if (preview !== true) {
    throw badInput(
      "Snapshots are removed at the end of every backup, by spec.backup.keep, and not by hand",
      `See which: drover snapshot prune ${name} --preview`,
    );
  }
  const api = await command.api();
  const retention = await api.call<RetentionPreview>("previewRetention", { name });
  const kept = retention.keep.map(({ id, reasons }) => [id, "keep", reasons.join(", ")]);
  const removed = retention.remove.map(({ id, reason }) => [id, "remove", reason]);
  const rows = [...kept, ...removed].sort(([a = ""], [b = ""]) => b.localeCompare(a));
  const count = `${counted(retention.keep.length, "snapshot")} kept, ${retention.remove.length} to be removed by the next backup (days and weeks in ${retention.timeZone})\n`;
  command.answer(retention, `${table(["SNAPSHOT", "THEN", "BECAUSE"], rows)}${count}`);
  return exitCodes.ok;
};

/** `latest` is the newest that counts. */
async function idOf(name: string, snapshot: string, api: ApiClient): Promise<string> {
  if (snapshotIdPattern.test(snapshot)) return snapshot;
  if (snapshot !== "latest") throw noId(snapshot, "latest", name);
  const { snapshots } = await api.call<{ readonly snapshots: readonly SnapshotSummary[] }>("listSnapshots", { name });
  const newest = snapshots.find(({ proven }) => proven);
  if (newest === undefined) {
    throw new CommandFailure("notFound", `${name} has no proven snapshot`, `Take one: drover snapshot create ${name}`);
  }
  return newest.id;
}

function noId(found: string, words: string, name: string): CommandFailure {
  return badInput(`"${plain(found).slice(0, 40)}" is no snapshot: give ${words} or an id`, `See which there are: drover snapshot list ${name}`);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// restore, drill

interface RestoreOptions extends Omit<ChangeOptions, "yes"> {
  readonly snapshot: string;
  readonly as?: string;
  readonly confirm?: string;
  readonly preview?: boolean;
}

export const restore: Act<RestoreOptions, [name: string]> = async (command, options, name) => {
  const { surroundings } = command;
  const { snapshot, as, confirm } = options;
  checkName(name);
  if (as !== undefined) checkName(as);
  if (as === name) throw badInput(`--as takes the name of a new cluster; found ${name} itself`, "Leave --as out to restore it in its place");
  if (!["latest", "survivor"].includes(snapshot) && !snapshotIdPattern.test(snapshot)) throw noId(snapshot, "latest, survivor", name);
  const target = as ?? name;
  if (confirm !== undefined) requireName("restore", target, confirm);
  const api = await command.api();
  const requestId = requestIdOf(options, surroundings.newId);
  const body = { requestId, snapshot, ...(as === undefined ? {} : { as }) };
  const preview = await api.call<RestoreAccepted>("restoreCluster", { name }, { ...body, confirm: "", preview: true });
  if (preview.status === "accepted") return await follow(command, api, preview, options, undefined);
  if (options.preview === true) {
    command.answer({ preview }, previewText(preview, api, surroundings.out.columns));
    return exitCodes.ok;
  }
  command.tell(previewText(preview, api, surroundings.err.columns));
  await nameTyped(command, "restore", target, confirm);
  const accepted = await sendChange(api, "restoreCluster", { name }, { ...body, confirm: target, preview: false }, target, requestId);
  return await follow(command, api, accepted, options, undefined);
};

export const drill: Act<ChangeOptions & { readonly snapshot: string; readonly preview?: boolean }, [name: string]> = async (
  command,
  options,
  name,
) => {
  const { surroundings } = command;
  checkName(name);
  if (options.snapshot !== "latest" && !snapshotIdPattern.test(options.snapshot)) throw noId(options.snapshot, "latest", name);
  const api = await command.api();
  const requestId = requestIdOf(options, surroundings.newId);
  const body = { requestId, snapshot: options.snapshot };
  const preview = await api.call<Accepted>("drillRestore", { name }, { ...body, preview: true });
  if (preview.status === "accepted") return await follow(command, api, preview, options, undefined);
  if (options.preview === true) {
    command.answer({ preview }, previewText(preview, api, surroundings.out.columns));
    return exitCodes.ok;
  }
  command.tell(previewText(preview, api, surroundings.err.columns));
  if (options.yes !== true && !(await agrees(command, `Drill a restore of ${name}?`))) return nothingChanged(command);
  const accepted = await sendChange(api, "drillRestore", { name }, { ...body, preview: false }, name, requestId);
  return await follow(command, api, accepted, options, undefined);
};
