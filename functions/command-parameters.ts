/** What each node command is sent with: its few plain parameters, and the delivery that holds the rest. */
import { type AdmissionBook, assignJoins } from "../core/agent-admission.js";
import { archivesOfCluster, parseChecksums } from "../core/archives.js";
import { NotYet, Unsafe } from "../core/failures.js";
import { artifactKeys, drillRole, serverPool, shortHash, stateKeys } from "../core/layout.js";
import { type DeliveryEntry, joinsText, nodeCommands, nodePaths } from "../core/node-commands.js";
import type { ClusterRecord, RestoreSource } from "../core/records.js";
import type { SnapshotSource } from "../core/restore.js";
import { fullToken, renderConfigs, tokenPaths } from "../core/rke2-config.js";
import { snapshotIdOfPass } from "../core/snapshots.js";
import { endpointOf, readOperation } from "./cluster.js";
import type { CommandFile } from "./command-file.js";
import { type DrillGroup, drillGroup } from "./drill-server.js";
import { type CommandClients, type CommandInput, isLostGroup, namesOfLost } from "./run-node-command.js";
import { savedSnapshot, snapshotServer } from "./saved-snapshot.js";

/** @throws Unsafe when the workflow's order was broken: a command before what it needs is known */
export async function commandParameters(
  step: CommandInput,
  file: CommandFile,
  record: ClusterRecord,
  clients: CommandClients,
  nowMs: number,
): Promise<Readonly<Record<string, string>>> {
  const delivery = deliveryOf(file);
  const pool = await poolOf(step, clients);
  const parameters = nodeCommands[step.command].parameters;
  switch (step.command) {
    case "prepare-node": {
      const { security } = record.wanted.spec;
      return parameters.parse({
        role: isServerPool(pool) ? "server" : "agent",
        pool,
        version: record.resolved.version,
        profile: security.profile,
        selinux: String(security.selinux),
        delivery: await clients.deliveries.list(record.uid, delivery, await preparation(delivery, pool, record, clients)),
      });
    }
    case "start-server": {
      const mode = step.mode ?? "join";
      return parameters.parse({
        mode,
        pool,
        joinAddress: mode === "bootstrap" ? "" : joinAddress(step, file, record),
        endpoint: endpointOf(record).dnsName,
        delivery: await clients.deliveries.list(record.uid, delivery, await serverStart(file, mode, record, clients)),
      });
    }
    case "start-agent": {
      const token = fullToken(caHashOf(record), "node", await clients.secrets.read(record.uid, "agent-token", record.secrets["agent-token"]));
      const entry = await clients.deliveries.file(stateKeys.delivery(record.uid, delivery, "token"), token, tokenPaths.token, "0600");
      return parameters.parse({
        pool,
        joins: joinsText(await assignedJoins(step, file, record, clients, nowMs)),
        endpoint: endpointOf(record).dnsName,
        delivery: await clients.deliveries.list(record.uid, delivery, [entry]),
      });
    }
    case "check-cluster":
      return parameters.parse({ pool: serverPool });
    case "remove-node":
      return parameters.parse({ pool: serverPool, role: "server", nodes: (await namesOfLost(clients.state, step)).join(",") });
    case "save-snapshot":
      return parameters.parse({ pool, snapshot: await snapshotOf(step, record, clients) });
    case "upload-snapshot": {
      const snapshot = await snapshotOf(step, record, clients);
      const entries = await clients.snapshots.upload(record.uid, snapshot, (await savedSnapshot(clients.state, step)).result);
      return parameters.parse({ pool, snapshot, delivery: await clients.deliveries.list(record.uid, delivery, entries) });
    }
    case "stop-server":
      return parameters.parse({ pool, restore: restoreOf(record).id });
    case "restore-snapshot": {
      const { id, source, endpoint } = pool === drillRole ? await drillOf(step, clients) : restoreOf(record);
      return parameters.parse({
        mode: source.kind,
        pool,
        restore: id,
        endpoint,
        revision: source.kind === "snapshot" ? String(source.revision) : "0",
        delivery: await clients.deliveries.list(record.uid, delivery, await restoration(file, source, record, clients)),
      });
    }
    case "rejoin-server":
      return parameters.parse({
        pool,
        restore: restoreOf(record).id,
        joinAddress: joinAddress(step, file, record),
        endpoint: endpointOf(record).dnsName,
        delivery: await clients.deliveries.list(record.uid, delivery, await serverStart(file, "join", record, clients)),
      });
    case "collect-diagnostics": {
      const entry = await clients.deliveries.upload("diagnostics", stateKeys.upload(record.uid, delivery, "diagnostics.tar.gz"));
      return parameters.parse({ pool, delivery: await clients.deliveries.list(record.uid, delivery, [entry]) });
    }
  }
}

function isServerPool(pool: string): boolean {
  return pool === serverPool || pool === drillRole;
}

interface Restoring {
  readonly id: string;
  readonly source: RestoreSource;
  /** What a restarted server would join. */
  readonly endpoint: string;
}

function restoreOf(record: ClusterRecord): Restoring {
  if (record.restore === undefined) throw new Unsafe(`No restore of ${record.name} is under way`, "Ask for the restore again");
  return { id: record.restore.id, source: record.restore.source, endpoint: endpointOf(record).dnsName };
}

/** A drill's server joins nobody: were it to restart, it must not find the cluster that it is a copy of. */
async function drillOf(step: CommandInput, { state }: CommandClients): Promise<Restoring> {
  const group = await state.read<DrillGroup>(stateKeys.group(step.cluster, step.operation, drillGroup));
  if (group === undefined) throw new Unsafe(`The server of drill ${step.operation} is not known`, "Start the drill again");
  return { id: step.operation, source: group.value.source, endpoint: "127.0.0.1" };
}

/**
 * The snapshot, by the address of that very version, and the tokens in their short form: the CA that a full one names is in the snapshot. What a drill's
 * server is given it may read and not write: no address to send anything.
 */
async function restoration(file: CommandFile, source: RestoreSource, record: ClusterRecord, clients: CommandClients): Promise<DeliveryEntry[]> {
  const delivery = deliveryOf(file);
  const place = (name: string, content: string, target: string) =>
    clients.deliveries.file(stateKeys.delivery(record.uid, delivery, name), content, target, "0600");
  const serverToken =
    source.kind === "snapshot"
      ? await clients.secrets.read(source.uid, "server-token", source.tokenGeneration)
      : await clients.secrets.read(record.uid, "server-token", record.secrets["server-token"]);
  const agentToken = await clients.secrets.read(record.uid, "agent-token", record.secrets["agent-token"]);
  return Promise.all([
    place("token", serverToken, tokenPaths.token),
    place("agent-token", agentToken, tokenPaths.agentToken),
    ...(source.kind === "snapshot" ? [snapshotEntry(source, clients)] : []),
    ...(file.upload === undefined ? [] : [clients.deliveries.upload("kubeconfig", file.upload)]),
  ]);
}

async function snapshotEntry(source: SnapshotSource, { snapshots }: CommandClients): Promise<DeliveryEntry> {
  const { uid, snapshot, versionId, sha256 } = source;
  return { kind: "get", sha256, mode: "0600", target: `${nodePaths.snapshots}/${snapshot}`, url: await snapshots.address(uid, snapshot, versionId) };
}

/** Names one delivery: a new one for each command sent, so that no URL is ever handed out twice. */
function deliveryOf(file: Pick<CommandFile, "step" | "key" | "number">): string {
  return `${file.step.operation}-${shortHash(`${file.key} ${file.number}`)}`;
}

/** Where a first server puts its kubeconfig. */
export function kubeconfigUpload(record: ClusterRecord, file: Pick<CommandFile, "step" | "key" | "number">): string {
  return stateKeys.upload(record.uid, deliveryOf(file), "kubeconfig");
}

async function poolOf(step: CommandInput, clients: CommandClients): Promise<string> {
  if (step.group === "any-server" || isLostGroup(step.group) || step.group === snapshotServer) return serverPool;
  const group = await clients.state.read<{ readonly pool: string }>(stateKeys.group(step.cluster, step.operation, step.group));
  return group?.value.pool ?? serverPool;
}

async function snapshotOf(step: CommandInput, record: ClusterRecord, { state }: CommandClients): Promise<string> {
  return snapshotIdOfPass(record.uid, await readOperation(state, step), step.pass);
}

/** Archives of the release, held to its own checksum file, and the configuration of this pool. */
async function preparation(delivery: string, pool: string, record: ClusterRecord, clients: CommandClients): Promise<DeliveryEntry[]> {
  const { version } = record.resolved;
  const { architecture } = record.wanted.spec.image;
  const needed = archivesOfCluster(record.wanted, version);
  const key = (file: string) => artifactKeys.file(version, architecture, file);
  const checksumText = await clients.artifacts.text(key(needed.checksums));
  if (checksumText === undefined)
    throw new Unsafe(`${needed.checksums} of ${version} is gone from the artifact store`, `Add it: drover artifacts check ${version}`);
  const checksums = parseChecksums(checksumText);
  const staged = (file: string) =>
    clients.deliveries.object(clients.artifacts.bucket, key(file), `${nodePaths.staging}/${file}`, "0644", checksums.get(file));
  const archives = await Promise.all([needed.checksums, needed.bundle, ...needed.images].map(staged));

  const configs = renderConfigs({ file: record.wanted, version, endpointDns: endpointOf(record).dnsName, uid: record.uid });
  const isServer = isServerPool(pool);
  const files: [name: string, content: string | undefined, target: string][] = [
    ["config.yaml", isServer ? configs.server : configs.agents[pool], nodePaths.config],
    ["registries.yaml", configs.registries, nodePaths.registries],
    ...(isServer
      ? ([
          ["psa.yaml", configs.podSecurity, nodePaths.podSecurity],
          ...Object.entries(configs.manifests).map(([name, text]) => [`manifest-${name}`, text, `${nodePaths.manifests}/${name}`]),
        ] as [string, string | undefined, string][])
      : []),
  ];
  const placed = await Promise.all(
    files.flatMap(([name, content, target]) =>
      content === undefined ? [] : [clients.deliveries.file(stateKeys.delivery(record.uid, delivery, name), content, target, "0600")],
    ),
  );
  return [...archives, ...placed];
}

/** Tokens as files of mode 0600; the first server gets the short form, because the CA that the full one names does not exist before it. */
async function serverStart(file: CommandFile, mode: "bootstrap" | "join", record: ClusterRecord, clients: CommandClients): Promise<DeliveryEntry[]> {
  const delivery = deliveryOf(file);
  const [serverToken, agentToken] = await Promise.all([
    clients.secrets.read(record.uid, "server-token", record.secrets["server-token"]),
    clients.secrets.read(record.uid, "agent-token", record.secrets["agent-token"]),
  ]);
  const token = mode === "bootstrap" ? serverToken : fullToken(caHashOf(record), "server", serverToken);
  const place = (name: string, content: string, target: string) =>
    clients.deliveries.file(stateKeys.delivery(record.uid, delivery, name), content, target, "0600");
  return Promise.all([
    place("token", token, tokenPaths.token),
    place("agent-token", agentToken, tokenPaths.agentToken),
    ...(mode === "bootstrap" ? [clients.deliveries.upload("kubeconfig", kubeconfigUpload(record, file))] : []),
  ]);
}

function joinAddress(step: CommandInput, file: CommandFile, record: ClusterRecord): string {
  if (step.joinAddress !== undefined && step.joinAddress !== "") return step.joinAddress;
  const others = record.members.filter((member) => !file.instanceIds.includes(member.instanceId));
  const [first] = [...others].sort((a, b) => a.slot - b.slot);
  if (first === undefined) throw new NotYet(`No server of ${record.name} votes yet`, "Asking again shortly");
  return first.address;
}

/** Which server each agent joins through, written down before the command is sent, because the next group is assigned by it. */
async function assignedJoins(step: CommandInput, file: CommandFile, record: ClusterRecord, { state }: CommandClients, nowMs: number) {
  let joins: Readonly<Record<string, string>> = {};
  await state.update<AdmissionBook>(stateKeys.admission(step.cluster), (book) => {
    const command = `${file.key} ${file.number}`;
    const assigned = assignJoins({
      book,
      nowMs,
      command,
      group: `${step.operation}/${step.group}`,
      members: record.members,
      instanceIds: file.instanceIds,
    });
    joins = assigned.joins;
    return assigned.book;
  });
  return joins;
}

function caHashOf(record: ClusterRecord): string {
  const hash = record.bootstrap?.done?.caHash;
  if (hash === undefined) throw new NotYet(`${record.name} has no CA yet: its first server has not answered`, "Asking again shortly");
  return hash;
}
