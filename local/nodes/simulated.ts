/**
 * Simulated nodes: what a machine with RKE2 does, without the machine.
 *
 * Each node is a small disk and one service; the node commands act on both as the scripts do, within the time the latency model gives. RKE2's rules
 * hold, the unkind ones first: a server without `server:` and without etcd data always makes a new cluster, learners join one at a time, agents are
 * admitted at the rate a server bears, and a wrong key in config.yaml is only warned about. The service outlives the script that started it.
 */
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { parse as parseYaml } from "yaml";
import model from "../../core/latency-model.json" with { type: "json" };
import { nodeName } from "../../core/layout.js";
import {
  type DeliveryEntry,
  joinAddressesOf,
  type NodeCommandName,
  type NodeCommandParameters,
  type NodeCommandResult,
  type NodeFailure,
  type NodeFailureCode,
  nodeCommands,
  nodeFailureSchema,
  nodePaths,
  parseDelivery,
  snapshotPartBytes,
} from "../../core/node-commands.js";
import configKeys from "../../core/rke2-config-keys.json" with { type: "json" };
import { sizeFault, tokenHash } from "../../core/snapshots.js";
import { versionOfStandIn } from "../aws/stand-in-release.js";
import { type Random, type Service, type Timer, Unmodelled, type World } from "../kernel/contract.js";
import type {
  Answering,
  DocumentEnd,
  DocumentRun,
  Machine,
  MachineAnswer,
  MachineFetch,
  NodeDriver,
  ObservedCluster,
  RunningDocument,
} from "./contract.js";
import { EtcdStore, type StoreRecord } from "./etcd-store.js";
import { packTar } from "./release/program/images.js";

interface FileRecord {
  readonly sha256: string;
  readonly mode: string;
  readonly bytes: number;
  /** Kept for small files alone; of an archive its hash is enough. */
  readonly text: string | undefined;
}

type Unit = "rke2-server" | "rke2-agent";
type UnitState = "inactive" | "activating" | "active" | "failed";

interface NodeRecord {
  readonly machine: Machine;
  alive: boolean;
  lostAtMs: number | undefined;
  readonly files: Map<string, FileRecord>;
  /** RKE2 release whose binary is installed. */
  installed: string | undefined;
  unit: Unit;
  unitState: UnitState;
  unitChangedAtMs: number;
  /** How often systemd has started the unit again since somebody started it. */
  restarts: number;
  journal: string[];
  /** Why the service cannot succeed, as its log tells. */
  fatal: { readonly code: NodeFailureCode; readonly meaning: string } | undefined;
  /** Cluster whose etcd data is on the disk. */
  etcd: string | undefined;
  /** Which of the cluster's restores that data is of; 0 before the first. Data of an earlier one cannot join the members of a later. */
  era: number;
  /** Whether the etcd process of that data runs. */
  etcdRuns: boolean;
  /** The member was removed from its cluster: its data is refused for ever. */
  removed: boolean;
  /** Cluster that the node belongs to, as server or agent. */
  cluster: string | undefined;
  name: string;
  readonly password: string;
  /** Server: when the supervisor is free to admit the next agent. */
  admitsAtMs: number;
  /** Agent: what `server:` was when its service started; what the file says since counts at the next start. */
  startedWith: string | undefined;
  /** Snapshots saved here, by id; without content when it was sent. */
  readonly snapshots: Map<string, SavedSnapshot>;
  /** Restores that were made on this disk, and those after which it gave up its data; by the restore's id. */
  readonly restores: Map<string, RestoreNote>;
  /** Data of before a restore are set aside on this disk: nobody may bootstrap beside them. */
  keepsOldData: boolean;
}

interface SavedSnapshot {
  readonly reply: Omit<NodeCommandResult<"save-snapshot">, "ok" | "node" | "changed">;
  content: Uint8Array | undefined;
}

type RestoreNote = { readonly kind: "reset"; state: RestoredState | undefined } | { readonly kind: "removed" };
type RestoredState = Pick<NodeCommandResult<"restore-snapshot">, "revision" | "keys" | "hash" | "compactRevision" | "newestRevision">;

interface ClusterRecord {
  /** That of the kube-system namespace, and for a second living cluster of the same snapshot a number behind it. */
  readonly id: string;
  /** uid of the kube-system namespace. */
  readonly uid: string;
  readonly caHash: string;
  serverPassword: string;
  agentPassword: string;
  readonly critical: Readonly<Record<string, string>>;
  version: string;
  /** Whoever made it, or on whom it was restored last. */
  bootstrappedBy: string;
  bootstrappedAtMs: number;
  /** How often it was restored: what is on disks of an earlier era belongs to members that are no more. */
  era: number;
  /** Members of earlier eras, as they were when it ended. */
  readonly former: Map<number, readonly MemberRecord[]>;
  members: MemberRecord[];
  /** What etcd holds. */
  store: StoreRecord;
  /** Node objects by name; each remembers the hash of the password it was made with. */
  nodes: Map<string, NodeObject>;
  podsReadyAtMs: number;
  quorum: boolean;
  quorumChangedAtMs: number;
}

interface NodeObject {
  readonly instanceId: string;
  readonly role: "server" | "agent";
  readonly passwordHash: string;
  readonly version: string;
  /** When its role can be read from its labels; a server without them passes for an agent. */
  readonly labelledAtMs: number;
}

/** What a snapshot file holds, as JSON in whole pages, and 32 bytes of checksum behind it. */
interface SnapshotContent {
  readonly uid: string;
  readonly caHash: string;
  /** Of the server token's password: what opens it. */
  readonly tokenHash: string;
  readonly critical: Readonly<Record<string, string>>;
  readonly version: string;
  readonly store: StoreRecord;
  readonly nodes: readonly (readonly [string, NodeObject])[];
}

interface MemberRecord {
  readonly instanceId: string;
  readonly nodeName: string;
  readonly address: string;
  voter: boolean;
}

interface State {
  nodes: Map<string, NodeRecord>;
  clusters: Map<string, ClusterRecord>;
  serial: number;
}

/** What the scripts keep beside RKE2's own files. */
const paths = {
  token: "/etc/rancher/rke2/drover-token",
  agentToken: "/etc/rancher/rke2/drover-agent-token",
  node: "/etc/rancher/rke2/config.yaml.d/10-drover-node.yaml",
  join: "/etc/rancher/rke2/config.yaml.d/20-drover-join.yaml",
} as const;

const seconds = 1000;
const admissionSeconds = 1 / model.rates.agentsAdmittedPerSecondPerServer.value;
/** Join requests a supervisor holds at once; it answers 429 to more (k3s, 20 concurrent readers). */
const admissionQueue = 20;
/** etcd removes a learner without raft progress (k3s, managed etcd). */
const learnerStallSeconds = 300;
/** Kubernetes notices that a kubelet is silent (node monitor grace period). */
const nodeGraceSeconds = 40;
/** Snapshots are read, hashed and sent at this rate (latency model, snapshotFixed). */
const snapshotBytesPerSecond = 100e6;
/** Size of etcd's database as far as time goes; the files themselves are small. */
const databaseBytes = (keys: number) => 20e6 + keys * 2_000;
/** Agents ask the servers they know again this often, and this often altogether. */
const reconnectSeconds = 15;
const reconnectTries = 60;
/** `etcdctl` and `kubectl` answer, two or three questions long. */
const askSeconds = 0.8;
/** start-agent gives a running agent so long to become Ready before it starts it anew. */
const reviveSeconds = 30;
/** systemd starts a unit again so many seconds after it ended (RestartSec of RKE2's units); the scripts give up after so many times. */
const restartSeconds = 5;
const mostRestarts = 20;
/** A unit that is not even on its way for this long will not come. */
const idleSeconds = 15;
/** Role labels come a while after the node (rancher/rke2 issue 11238). */
const roleLabelSeconds = 2;
const mebibyte = 1_048_576;
/** What the image itself takes of the root volume. */
const imageBytes = 2048 * mebibyte;
/** Left to etcd and everybody else, beside three times the archives. */
const spareBytes = 512 * mebibyte;

/** How long a command waits for the one before it, where that is not 60 seconds. */
const lockSeconds: Partial<Record<NodeCommandName, number>> = { "check-cluster": 20, "collect-diagnostics": 30 };

/** A script's way out: everything that ends a command badly. */
class Refusal extends Error {
  constructor(
    readonly code: NodeFailureCode,
    message: string,
    readonly exitCode: number,
    readonly log: readonly string[] = [],
  ) {
    super(message);
  }
}
const notYet = new Set<NodeFailureCode>(["AnotherCommandRuns", "StartTimedOut", "NotReady"]);
function refusal(code: NodeFailureCode, message: string, log: readonly string[] = []): Refusal {
  return new Refusal(code, message, notYet.has(code) ? 75 : 1, log);
}
function wrongInput(message: string): Refusal {
  return new Refusal("ConfigInvalid", message, 64);
}

/** A process on a node: its waits end with it, and what waits for one that was killed waits for ever. */
class Process {
  #timers = new Set<Timer>();
  #over = false;
  constructor(private readonly world: World) {}

  sleep(length: number): Promise<void> {
    return this.pause(length).over;
  }

  /** A sleep that can be ended before its time. */
  pause(length: number): { readonly over: Promise<void>; readonly end: () => void } {
    let end = () => {};
    const over = new Promise<void>((resolve) => {
      if (this.#over) return;
      const timer = this.world.clock.after(length * seconds, () => end());
      this.#timers.add(timer);
      end = () => {
        timer.cancel();
        this.#timers.delete(timer);
        if (!this.#over) resolve();
      };
    });
    return { over, end: () => end() };
  }

  /** Waits for something outside; a killed process never hears of it. */
  after<T>(value: T | Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      Promise.resolve(value).then(
        (result) => {
          if (!this.#over) resolve(result);
        },
        (error: unknown) => {
          if (!this.#over) reject(error);
        },
      );
    });
  }

  get over(): boolean {
    return this.#over;
  }

  kill(): void {
    this.#over = true;
    for (const timer of this.#timers) timer.cancel();
    this.#timers.clear();
  }
}

interface Live {
  /** The script that holds the lock, and those that wait for it. */
  script: Process | undefined;
  readonly waiting: Set<Process>;
  service: Process | undefined;
  /** Scripts that wait for the service to settle. */
  watchers: Set<() => void>;
}

interface Script {
  readonly node: NodeRecord;
  readonly process: Process;
  readonly random: Random;
  readonly startedAtMs: number;
  readonly log: string[];
  changed: boolean;
}

/** A small file of a delivery, verified and not yet placed. */
interface Arrived {
  readonly entry: DeliveryEntry & { readonly kind: "get" };
  readonly text: string;
}

type Reply<N extends NodeCommandName> = Omit<NodeCommandResult<N>, "ok" | "node" | "changed">;

export function createSimulatedNodes(world: World, options: { readonly fetch?: MachineFetch } = {}): NodeDriver {
  const random = world.random.fork("nodes");
  const seed = random.hex(16);
  let state: State = { nodes: new Map(), clusters: new Map(), serial: 0 };
  let byAddress = new Map<string, NodeRecord>();
  const live = new Map<string, Live>();
  let revision = 0;
  const digests = new WeakMap<Uint8Array, string>();
  const configs = new Map<string, Readonly<Record<string, unknown>>>();

  const now = () => world.clock.now();
  const fetchOverNetwork: MachineFetch =
    options.fetch ?? ((url, request) => world.service<Service & { fetchPresigned: MachineFetch }>("s3").fetchPresigned(url, request));
  const hash = (text: string) => createHash("sha256").update(text).digest("hex");
  const clusterOf = (node: NodeRecord) => (node.cluster === undefined ? undefined : state.clusters.get(node.cluster));
  const liveOf = (node: NodeRecord): Live => {
    const id = node.machine.instanceId;
    let found = live.get(id);
    if (found === undefined) {
      found = { script: undefined, waiting: new Set(), service: undefined, watchers: new Set() };
      live.set(id, found);
    }
    return found;
  };

  // ---------------------------------------------------------------- machines

  function boot(machine: Machine): void {
    if (state.nodes.has(machine.instanceId)) throw new Unmodelled(`a second boot of ${machine.instanceId}`);
    const node: NodeRecord = {
      machine,
      alive: true,
      lostAtMs: undefined,
      files: new Map(),
      installed: undefined,
      unit: "rke2-server",
      unitState: "inactive",
      unitChangedAtMs: now(),
      restarts: 0,
      journal: [],
      fatal: undefined,
      etcd: undefined,
      etcdRuns: false,
      removed: false,
      cluster: undefined,
      name: "",
      password: hash(`${seed} node password ${machine.instanceId}`).slice(0, 32),
      admitsAtMs: 0,
      startedWith: undefined,
      era: 0,
      snapshots: new Map(),
      restores: new Map(),
      keepsOldData: false,
    };
    state.nodes.set(machine.instanceId, node);
    byAddress.set(machine.address, node);
  }

  function halt(instanceId: string): void {
    const node = state.nodes.get(instanceId);
    if (node === undefined || !node.alive) return;
    node.alive = false;
    node.lostAtMs = now();
    node.etcdRuns = false;
    node.files.clear();
    const running = live.get(instanceId);
    running?.script?.kill();
    running?.service?.kill();
    for (const waiting of running?.waiting ?? []) waiting.kill();
    live.delete(instanceId);
    setUnit(node, "inactive");
    if (byAddress.get(node.machine.address) === node) byAddress.delete(node.machine.address);
    const cluster = clusterOf(node);
    if (cluster === undefined) return;
    const learner = cluster.members.find((member) => member.instanceId === instanceId && !member.voter);
    if (learner !== undefined) {
      world.clock.after(learnerStallSeconds * seconds, () => {
        const at = cluster.members.indexOf(learner);
        if (at >= 0 && cluster.quorum) cluster.members.splice(at, 1);
        touch(cluster);
      });
    }
    touch(cluster);
  }

  /** Whether the member's etcd runs, on data of this cluster as it is now. */
  function isHealthy(cluster: ClusterRecord, member: MemberRecord): boolean {
    const node = state.nodes.get(member.instanceId);
    return node?.etcdRuns === true && node.etcd === cluster.id && node.era === cluster.era;
  }

  /** Something of the cluster has changed: whether it has a majority, and for checks that there is something to see. */
  function touch(cluster: ClusterRecord): void {
    revision++;
    const voters = cluster.members.filter((member) => member.voter);
    const healthy = voters.filter((member) => isHealthy(cluster, member)).length;
    const quorum = healthy >= Math.floor(voters.length / 2) + 1;
    if (quorum === cluster.quorum) return;
    storeOf(cluster).settle(now(), cluster.quorum);
    cluster.quorum = quorum;
    cluster.quorumChangedAtMs = now();
  }

  const storeOf = (cluster: ClusterRecord) => new EtcdStore(cluster.store);

  /** What etcd holds now. While it has no majority nothing is written. */
  function currentStore(cluster: ClusterRecord): EtcdStore {
    const store = storeOf(cluster);
    store.settle(now(), cluster.quorum);
    return store;
  }

  function setUnit(node: NodeRecord, unitState: UnitState): void {
    if (node.unitState !== unitState) node.unitChangedAtMs = now();
    node.unitState = unitState;
    for (const wake of live.get(node.machine.instanceId)?.watchers ?? []) wake();
  }

  function answers(instanceId: string, port: number): Answering {
    const node = state.nodes.get(instanceId);
    if (node === undefined) return { answers: false, sinceMs: 0 };
    if (!node.alive) return { answers: false, sinceMs: node.lostAtMs ?? 0 };
    if (port !== 9345 && port !== 6443) throw new Unmodelled(`whether port ${port} of a node answers`);
    const serves = node.unit === "rke2-server" && node.unitState === "active";
    const cluster = clusterOf(node);
    // The supervisor answers without etcd; the API server does not.
    if (port === 9345 || !serves || cluster === undefined) return { answers: serves, sinceMs: node.unitChangedAtMs };
    return { answers: cluster.quorum, sinceMs: Math.max(node.unitChangedAtMs, cluster.quorumChangedAtMs) };
  }

  // ---------------------------------------------------------- configuration

  function place(node: NodeRecord, target: string, text: string, mode: string): boolean {
    const file: FileRecord = { sha256: hash(text), mode, bytes: Buffer.byteLength(text), text };
    const before = node.files.get(target);
    if (before?.sha256 === file.sha256 && before.mode === mode) return false;
    node.files.set(target, file);
    return true;
  }

  const textOf = (node: NodeRecord, path: string) => node.files.get(path)?.text;
  const firstLine = (node: NodeRecord, path: string) => (textOf(node, path) ?? "").split("\n")[0] ?? "";

  /** First line of a file as it will be: as a delivery brought it, else as it is there. */
  const comingLine = (node: NodeRecord, arrived: readonly Arrived[], path: string) =>
    (arrived.find(({ entry }) => entry.target === path)?.text ?? textOf(node, path) ?? "").split("\n")[0] ?? "";

  /** config.yaml and its drop-ins, later files over earlier ones, as RKE2 reads them. */
  function readConfig(node: NodeRecord): Readonly<Record<string, unknown>> {
    const dropIns = [...node.files.keys()].filter((path) => /^\/etc\/rancher\/rke2\/config\.yaml\.d\/[^/]+\.ya?ml$/.test(path)).sort();
    const merged: Record<string, unknown> = {};
    for (const path of [nodePaths.config, ...dropIns]) {
      const text = textOf(node, path);
      if (text === undefined) continue;
      for (const [key, value] of Object.entries(parseConfig(text))) {
        if (key.endsWith("+")) merged[key.slice(0, -1)] = [...asList(merged[key.slice(0, -1)]), ...asList(value)];
        else merged[key] = value;
      }
    }
    return merged;
  }

  /** The same text is on hundreds of nodes. */
  function parseConfig(text: string): Readonly<Record<string, unknown>> {
    let parsed = configs.get(text);
    if (parsed === undefined) {
      const value: unknown = parseYaml(text);
      if (value !== null && (typeof value !== "object" || Array.isArray(value))) throw new Error("config.yaml is not a map");
      parsed = (value ?? {}) as Readonly<Record<string, unknown>>;
      if (configs.size > 500) configs.clear();
      configs.set(text, parsed);
    }
    return parsed;
  }

  /** Keys this role does not know: RKE2 warns and starts without them. */
  function unknownKeys(config: Readonly<Record<string, unknown>>, role: "server" | "agent"): string[] {
    return Object.keys(config).filter((key) => {
      const known = keysByName.get(key.replace(/\+$/, ""));
      return known === undefined || (role === "agent" && known.command === "server");
    });
  }

  // --------------------------------------------------------------- transfers

  async function request(process: Process, url: string, request: Parameters<MachineFetch>[1]): Promise<{ answer?: MachineAnswer; reason: string }> {
    let reason = "no answer";
    for (let attempt = 1; attempt <= 8; attempt++) {
      let answer: MachineAnswer | undefined;
      try {
        answer = await process.after(fetchOverNetwork(url, request));
      } catch (error) {
        if (error instanceof Unmodelled) throw error;
        reason = "no connection";
      }
      if (answer !== undefined) {
        if ([400, 401, 403, 404].includes(answer.status)) {
          return { answer, reason: `HTTP ${answer.status}: the address has expired, or the store refuses or does not have the file` };
        }
        if (answer.status < 500) return { answer, reason: `HTTP ${answer.status}` };
        reason = `HTTP ${answer.status}`;
      }
      await process.sleep(Math.min(attempt, 5));
    }
    return { reason };
  }

  async function fetchDelivery(script: Script, url: string): Promise<DeliveryEntry[]> {
    const { answer, reason } = await request(script.process, url, { method: "GET", headers: {} });
    if (answer?.status !== 200) throw refusal("DownloadFailed", `The delivery list cannot be fetched: ${reason}`);
    let entries: DeliveryEntry[];
    try {
      entries = parseDelivery(Buffer.from(answer.body).toString("utf8"));
    } catch {
      throw refusal("ConfigInvalid", "The delivery list has a line that is neither get nor put");
    }
    for (const entry of entries) {
      if (entry.kind === "put") {
        if (!httpsUrl.test(entry.url) || !/^[a-z-]+$/.test(entry.name)) throw refusal("ConfigInvalid", "The delivery list has a wrong put line");
      } else if (!httpsUrl.test(entry.url) || !mayWrite(entry.target) || !/^0?[0-7]{3}$/.test(entry.mode)) {
        throw refusal("ConfigInvalid", `The delivery list has a wrong get line for ${entry.target}`);
      }
    }
    return entries;
  }

  async function download(
    script: Script,
    entry: DeliveryEntry & { readonly kind: "get" },
    what = entry.target,
  ): Promise<{ readonly sha256: string; readonly body: Uint8Array }> {
    const { answer, reason } = await request(script.process, entry.url, { method: "GET", headers: {} });
    if (answer?.status !== 200) throw refusal("DownloadFailed", `${what} cannot be fetched: ${reason}`);
    const sha256 = digestOf(answer.body);
    if (entry.sha256 !== undefined && entry.sha256 !== sha256) {
      throw refusal("ChecksumMismatch", `${what} arrived with SHA-256 ${sha256}, expected ${entry.sha256}`);
    }
    return { sha256, body: answer.body };
  }

  function digestOf(body: Uint8Array): string {
    let digest = digests.get(body);
    if (digest === undefined) {
      digest = createHash("sha256").update(body).digest("hex");
      digests.set(body, digest);
    }
    return digest;
  }

  /** Fetches and verifies the small files; `placeConfiguration` puts them where they belong. */
  async function fetchConfiguration(script: Script, entries: readonly DeliveryEntry[]): Promise<readonly Arrived[]> {
    const arrived: Arrived[] = [];
    for (const entry of entries) {
      if (entry.kind === "get" && !isArchive(entry.target))
        arrived.push({ entry, text: Buffer.from((await download(script, entry)).body).toString("utf8") });
    }
    return arrived;
  }

  function placeConfiguration(script: Script, arrived: readonly Arrived[]): void {
    for (const { entry, text } of arrived) {
      if (place(script.node, entry.target, text, entry.mode)) changed(script, `placed ${entry.target}`);
    }
  }

  /** What is there already (412: such an address may only create) counts as uploaded. */
  async function upload(script: Script, entries: readonly DeliveryEntry[], name: string, body: Uint8Array, what: string): Promise<void> {
    const entry = entries.find((each) => each.kind === "put" && each.name === name);
    if (entry?.kind !== "put") throw refusal("UploadFailed", `${what} cannot be uploaded: the delivery has no address for ${name}`);
    const { answer, reason } = await request(script.process, entry.url, { method: "PUT", headers: entry.headers, body });
    if (answer?.status === 412) {
      script.log.push(`${name} is there already`);
      return;
    }
    if (answer === undefined || answer.status >= 300) throw refusal("UploadFailed", `${what} cannot be uploaded: ${reason}`);
  }

  function changed(script: Script, what: string): void {
    script.changed = true;
    script.log.push(what);
  }

  // ------------------------------------------------------------ node commands

  async function prepareNode(script: Script, parameters: NodeCommandParameters<"prepare-node">): Promise<Reply<"prepare-node">> {
    const { node, process } = script;
    const { version } = parameters;
    checkForeign(node, nodeName(parameters.pool, node.machine.instanceId), version);
    node.name = nodeName(parameters.pool, node.machine.instanceId);
    const entries = await fetchDelivery(script, parameters.delivery);
    const archives = entries.filter((entry) => entry.kind === "get" && isArchive(entry.target)) as (DeliveryEntry & { readonly kind: "get" })[];
    const architecture = node.machine.architecture === "arm64" ? "arm64" : "amd64";
    const sums = archives.find((entry) => baseName(entry.target) === `sha256sum-${architecture}.txt`);
    if (sums === undefined) {
      throw refusal(
        "UnsupportedOs",
        `The delivery has no sha256sum-${architecture}.txt, and this machine is ${architecture}. Is the image of another architecture than the cluster file says?`,
      );
    }
    const listed = await download(script, sums, baseName(sums.target));
    const expected = checksums(Buffer.from(listed.body).toString("utf8"));
    const rest = archives.filter((entry) => entry !== sums);
    const bundle = `rke2.linux-${architecture}.tar.gz`;
    for (const entry of rest) {
      const name = baseName(entry.target);
      if (name !== bundle && !new RegExp(`^rke2-images[a-z-]*\\.linux-${architecture}\\.tar\\.(zst|gz)$`).test(name)) {
        throw refusal("UnsupportedOs", `${name} is not a file of an RKE2 release for ${architecture}`);
      }
      const sum = expected.get(name);
      if (sum === undefined) throw refusal("ChecksumMismatch", `The release's checksum file does not name ${name}`);
      if (entry.sha256 !== undefined && entry.sha256 !== sum) {
        throw refusal("ChecksumMismatch", `${name} has SHA-256 ${sum} in the release's checksum file, ${entry.sha256} in the delivery`);
      }
    }
    if (!rest.some((entry) => baseName(entry.target) === bundle)) throw refusal("ConfigInvalid", `The delivery has no ${bundle}`);
    if (!entries.some((entry) => entry.kind === "get" && entry.target === nodePaths.config))
      throw refusal("ConfigInvalid", `The delivery has no ${nodePaths.config}`);
    const missing = rest.filter((entry) => node.files.get(entry.target)?.sha256 !== expected.get(baseName(entry.target)));
    const archived = await fetchArchives(script, missing, expected);
    const configuration = await fetchConfiguration(script, entries);
    // Until here nothing on the machine has changed.
    const bundled = archived.find(({ entry }) => baseName(entry.target) === bundle);
    const held = bundled === undefined ? node.installed : (versionOfStandIn(bundled.body) ?? version);
    if (held !== version) throw refusal("ChecksumMismatch", `The bundle holds RKE2 ${held}, not ${version}. Check the artifact store`);
    for (const { entry, sha256, body } of archived) {
      node.files.set(entry.target, { sha256, mode: entry.mode, bytes: body.length, text: undefined });
      changed(script, `placed ${baseName(entry.target)}`);
    }
    if (archived.some(({ entry }) => baseName(entry.target).startsWith("rke2-images"))) await process.sleep(script.random.latency("importImages"));
    node.installed = version;
    for (const path of [...node.files.keys()].filter((path) => path.startsWith(`${nodePaths.images}/`))) {
      if (rest.some((entry) => entry.target === path)) continue;
      node.files.delete(path);
      changed(script, `removed ${baseName(path)}, which is not of this release`);
    }
    placeConfiguration(script, configuration);
    if (place(node, paths.node, nodeText(node), "0600")) changed(script, `placed ${paths.node}`);
    return { version, warnings: [] };
  }

  /** What another node left on the disk, or this one with another release, is not prepared over. */
  function checkForeign(node: NodeRecord, name: string, version: string): void {
    if (node.cluster === undefined) return;
    const [, found = "a node that Drover did not make"] = /^node-name: "(.*)"$/m.exec(textOf(node, paths.node) ?? "") ?? [];
    if (found !== name) {
      throw refusal("ForeignRke2", `The disk holds the data of ${found}, not of ${name}. Use an image on which RKE2 never ran`);
    }
    if (node.installed !== version) {
      throw refusal(
        "ForeignRke2",
        `${name} already runs with RKE2 ${node.installed}, not ${version}. prepare-node does not change the version of a node that has started`,
      );
    }
  }

  /** Fetches and verifies what of a release is not in place, once there is room for it. */
  async function fetchArchives(
    script: Script,
    missing: readonly (DeliveryEntry & { readonly kind: "get" })[],
    expected: ReadonlyMap<string, string>,
  ): Promise<readonly { readonly entry: DeliveryEntry & { readonly kind: "get" }; readonly sha256: string; readonly body: Uint8Array }[]> {
    if (missing.length === 0) {
      await script.process.sleep(1);
      return [];
    }
    const arrived: { readonly entry: DeliveryEntry & { readonly kind: "get" }; readonly body: Uint8Array }[] = [];
    for (const entry of missing) {
      const { answer, reason } = await request(script.process, entry.url, { method: "GET", headers: {} });
      if (answer?.status !== 200) throw refusal("DownloadFailed", `${baseName(entry.target)} cannot be fetched: ${reason}`);
      arrived.push({ entry, body: answer.body });
    }
    checkDisk(
      script.node,
      arrived.reduce((sum, { body }) => sum + body.length, 0),
    );
    await script.process.sleep(script.random.latency("fetchAndVerifyArchives"));
    return arrived.map(({ entry, body }) => {
      const name = baseName(entry.target);
      const sha256 = digestOf(body);
      if (sha256 === expected.get(name)) return { entry, body, sha256 };
      throw refusal(
        "ChecksumMismatch",
        `${name} arrived with SHA-256 ${sha256}, the release's checksum file says ${expected.get(name)}. Check the artifact store`,
      );
    });
  }

  function checkDisk(node: NodeRecord, archiveBytes: number): void {
    const held = [...node.files.values()].reduce((sum, { bytes }) => sum + bytes, imageBytes);
    const free = Math.max(0, node.machine.rootVolumeGib * 1024 * mebibyte - held);
    const needed = 3 * archiveBytes + spareBytes;
    if (free >= needed) return;
    const mebibytes = (bytes: number) => Math.floor(bytes / mebibyte);
    throw refusal(
      "DiskFull",
      `/var/lib/rancher has ${mebibytes(free)} MiB free, ${mebibytes(needed)} MiB are needed: three times the archives and 512 MiB. Choose a larger rootVolumeGib`,
    );
  }

  function configOrRefuse(node: NodeRecord): Readonly<Record<string, unknown>> {
    if (textOf(node, nodePaths.config) === undefined)
      throw refusal("ConfigInvalid", `config.yaml is missing on ${node.name}. Run prepare-node first`);
    try {
      return readConfig(node);
    } catch {
      throw refusal("ConfigInvalid", `The configuration of ${node.name} is not a YAML map`);
    }
  }

  /** Refuses a configuration that would make the service do another thing than asked. */
  function checkConfiguration(node: NodeRecord): void {
    if (node.installed === undefined) throw refusal("ConfigInvalid", `RKE2 is not installed on ${node.name}. Run prepare-node first`);
    configOrRefuse(node);
    for (const [path, file] of node.files) {
      if (!path.startsWith("/etc/rancher/rke2/config.yaml") || path === paths.join || file.text === undefined) continue;
      const keys = Object.keys(parseConfig(file.text));
      if (keys.some((key) => key.startsWith("cluster-reset")))
        throw refusal("ConfigInvalid", `${path} asks for a cluster reset. Remove the key, a restore sets it on the command line`);
      if (keys.includes("server")) throw refusal("ConfigInvalid", `${path} sets server:, which Drover keeps in ${paths.join}. Remove the key`);
    }
  }

  const joinText = (address: string) => `server: "https://${address}:9345"\n`;

  async function startServer(script: Script, parameters: NodeCommandParameters<"start-server">): Promise<Reply<"start-server">> {
    const { node } = script;
    const { mode, joinAddress, endpoint } = parameters;
    refuseOtherRole(node, "rke2-server");
    if (mode === "bootstrap" && node.etcd === undefined && node.files.has(paths.join)) {
      throw refusal(
        "SplitBrain",
        `${node.name} was told to join a cluster and holds no etcd data: starting it without server: would make a second cluster. Replace the node`,
      );
    }
    if (mode === "bootstrap" && node.etcd === undefined && node.keepsOldData) {
      throw refusal(
        "SplitBrain",
        `Data of before a restore are on the disk of ${node.name}, which a bootstrap would replace by an empty cluster. Restore it, or replace the node`,
      );
    }
    const entries = await fetchDelivery(script, parameters.delivery);
    const arrived = await fetchConfiguration(script, entries);
    // What is refused leaves the files in place as they are: they may be a member's own.
    const token = checkTokens(node, arrived);
    if (mode === "join") {
      checkJoin(node, joinAddress, token);
    } else if (token.caHash !== undefined && ownCaOf(node) === undefined) {
      throw refusal(
        "ConfigInvalid",
        "The delivered server token names a CA, which does not exist before the first server has started. Deliver the short form",
      );
    }
    placeConfiguration(script, arrived);
    if (place(node, paths.node, nodeText(node), "0600")) changed(script, `placed ${paths.node}`);
    if (mode === "join" && node.etcd === undefined && place(node, paths.join, joinText(joinAddress), "0600")) changed(script, `placed ${paths.join}`);
    checkConfiguration(node);
    await startUnit(script, "rke2-server", 1440, () => serverUnready(node));
    const cluster = clusterOf(node) as ClusterRecord;
    if (mode === "bootstrap") await upload(script, entries, "kubeconfig", Buffer.from(kubeconfigOf(cluster)), "The kubeconfig of the new cluster");
    if (place(node, paths.join, joinText(endpoint), "0600")) changed(script, `placed ${paths.join}`);
    return serverReply(node, cluster);
  }

  /** Why a server whose service is active is not ready, if so. */
  function serverUnready(node: NodeRecord): string | undefined {
    if (!hasApi(node) || !isNode(node)) return "the API does not know the node yet";
    return clusterOf(node)?.members.some((member) => member.instanceId === node.machine.instanceId && member.voter) === true
      ? undefined
      : "its etcd member does not vote yet";
  }

  const nodeText = (node: NodeRecord) => `node-name: "${node.name}"\nnode-ip: "${node.machine.address}"\n`;
  const ownCaOf = (node: NodeRecord) => (node.etcd === undefined ? undefined : state.clusters.get(node.etcd)?.caHash);
  const serverReply = (node: NodeRecord, cluster: ClusterRecord) => ({
    address: node.machine.address,
    caHash: cluster.caHash,
    voter: true,
    members: cluster.members.length,
    version: node.installed as string,
  });

  /** The server's token as it will be, once both tokens are there or arrived. */
  function checkTokens(node: NodeRecord, arrived: readonly Arrived[]): Token {
    for (const path of [paths.token, paths.agentToken]) {
      if (comingLine(node, arrived, path) === "") throw refusal("ConfigInvalid", `The delivery brought no ${path}`);
    }
    return parseToken(comingLine(node, arrived, paths.token));
  }

  /** The token is full, and the disk is of no other cluster. */
  function checkJoin(node: NodeRecord, joinAddress: string, token: Token): void {
    if (joinAddress === node.machine.address)
      throw wrongInput(`joinAddress ${joinAddress} is this machine's own: a server cannot join through itself`);
    if (token.caHash === undefined || token.user !== "server") {
      throw refusal(
        "ConfigInvalid",
        "The delivered server token is not the full form with the CA hash. A short token would trust any server at the join address",
      );
    }
    const ownCa = ownCaOf(node);
    if (ownCa !== undefined && ownCa !== token.caHash) {
      throw refusal(
        "AlreadyMember",
        `The disk of ${node.name} holds the CA ${ownCa}, the cluster to join has ${token.caHash}: it belongs to another cluster. Replace the node`,
      );
    }
  }

  async function startAgent(script: Script, parameters: NodeCommandParameters<"start-agent">): Promise<Reply<"start-agent">> {
    const { node } = script;
    refuseOtherRole(node, "rke2-agent");
    const arrived = await fetchConfiguration(script, await fetchDelivery(script, parameters.delivery));
    const token = comingLine(node, arrived, paths.token);
    if (token === "") throw refusal("ConfigInvalid", `The delivery brought no ${paths.token}`);
    if (parseToken(token).caHash === undefined) {
      throw refusal(
        "ConfigInvalid",
        "The delivered token is not the full form with the CA hash. A short token would trust any server at the join address",
      );
    }
    placeConfiguration(script, arrived);
    if (place(node, paths.node, nodeText(node), "0600")) changed(script, `placed ${paths.node}`);
    const unready = () =>
      clusterOf(node)?.quorum === true && isNode(node) && node.era === clusterOf(node)?.era ? undefined : "the API does not know the node yet";
    const { address, answers: isServed } = chooseServer(node, parameters.joins);
    if (node.unitState === "active" && !(await holdsWithin(script, reviveSeconds, () => unready() === undefined)) && isServed) {
      stopUnit(node);
      changed(script, "stopped the agent, which finds none of the servers it knows");
    }
    if (node.unitState !== "active" && place(node, paths.join, joinText(address), "0600")) changed(script, `placed ${paths.join}`);
    checkConfiguration(node);
    await startUnit(script, "rke2-agent", 840, unready);
    if (place(node, paths.join, joinText(parameters.endpoint), "0600")) changed(script, `placed ${paths.join}`);
    return { version: node.installed as string };
  }

  async function holdsWithin(script: Script, limitSeconds: number, holds: () => boolean): Promise<boolean> {
    for (const ends = now() + limitSeconds * seconds; !holds(); ) {
      if (now() >= ends) return false;
      await script.process.sleep(3);
    }
    return true;
  }

  /** The server named for this node, or another that is named and answers. */
  function chooseServer(node: NodeRecord, joins: string): { readonly address: string; readonly answers: boolean } {
    const addresses = joinAddressesOf(node.machine.instanceId, joins);
    const [own] = addresses;
    if (own === undefined) throw wrongInput(`joins names no server for ${node.machine.instanceId}`);
    const answering = addresses.find((address) => {
      const server = resolve(address);
      return server !== undefined && serves(server);
    });
    return { address: answering ?? own, answers: answering !== undefined };
  }

  function refuseOtherRole(node: NodeRecord, unit: Unit): void {
    if (node.unit !== unit && node.unitState === "active") {
      throw refusal("ConfigInvalid", `${node.unit} runs on ${node.name}, so ${unit} will not start. Replace the node`);
    }
  }

  async function checkCluster(script: Script): Promise<Reply<"check-cluster">> {
    const { node } = script;
    const cluster = clusterOf(node);
    if (node.unit !== "rke2-server" || cluster === undefined) {
      throw refusal("NotReady", `No server has started on ${node.name} yet: it has no kubeconfig`);
    }
    await script.process.sleep(0.8);
    const version = node.installed as string;
    if (!hasApi(node)) await script.process.sleep(15);
    if (!hasApi(node)) {
      const nothing = { members: 0, voters: 0, serversReady: 0, agentsReady: 0, nodes: 0, notReady: [], podsPending: 0 };
      return { clusterId: "", caHash: cluster.caHash, apiReady: false, ...nothing, version };
    }
    let serversReady = 0;
    let agentsReady = 0;
    const notReady: string[] = [];
    for (const [name, object] of cluster.nodes) {
      if (!seemsReady(object.instanceId, cluster)) {
        if (notReady.length < 20) notReady.push(name);
      } else if (object.role === "server" && now() >= object.labelledAtMs) serversReady++;
      else agentsReady++;
    }
    return {
      clusterId: cluster.uid,
      caHash: cluster.caHash,
      apiReady: true,
      members: cluster.members.length,
      voters: cluster.members.filter((member) => member.voter).length,
      serversReady,
      agentsReady,
      nodes: cluster.nodes.size,
      notReady,
      podsPending: podsPending(cluster),
      version,
    };
  }

  /** Whether its supervisor says pong: that takes no majority. */
  const serves = (node: NodeRecord) => node.unit === "rke2-server" && node.unitState === "active";
  const hasApi = (node: NodeRecord) => serves(node) && clusterOf(node)?.quorum === true;
  /** Whether the API has a node of its name: a kubelet registers when it starts, and a node that was deleted stays deleted until then. */
  const isNode = (node: NodeRecord) => clusterOf(node)?.nodes.get(node.name)?.instanceId === node.machine.instanceId;

  /** As the API says it: a silent kubelet is noticed after a while. */
  function seemsReady(instanceId: string, cluster: ClusterRecord): boolean {
    const node = state.nodes.get(instanceId);
    if (node === undefined || node.cluster !== cluster.id || node.era !== cluster.era) return false;
    if (node.alive) return node.unitState === "active";
    return node.unitState === "active" || (node.lostAtMs ?? 0) + nodeGraceSeconds * seconds > now();
  }

  function podsPending(cluster: ClusterRecord): number {
    return Math.ceil(Math.max(0, cluster.podsReadyAtMs - now()) / (6 * seconds));
  }

  async function removeNode(script: Script, parameters: NodeCommandParameters<"remove-node">): Promise<Reply<"remove-node">> {
    const { node } = script;
    const cluster = clusterOf(node);
    if (!hasApi(node)) await script.process.sleep(30);
    if (cluster === undefined || !hasApi(node)) throw refusal("NotReady", `The API does not answer on ${node.name}`);
    const names = parameters.nodes.split(",");
    if (names.includes(node.name)) throw wrongInput(`${node.name} is this server itself. Run the command on another server`);
    const isServer = (name: string) => cluster.members.some((member) => member.nodeName === name) || cluster.nodes.get(name)?.role === "server";
    const servers = names.filter(isServer);
    if (parameters.role === "agent" && servers.length > 0) {
      throw refusal("ConfigInvalid", `${servers.join(" ")} is a server, not an agent. Nothing was removed`);
    }
    let removed = 0;
    const isMember = (name: string) => cluster.members.some((member) => member.nodeName === name);
    for (const name of servers.filter(isMember)) {
      checkMajority(cluster, name);
      await script.process.sleep(2 + script.random.next() * 4);
      if (!cluster.quorum) throw refusal("NotReady", `etcd has lost its majority: the member of ${name} cannot be removed`);
      removeFromCluster(cluster, name);
      removed++;
      changed(script, `removed ${name}`);
    }
    const agents = names.filter((name) => cluster.nodes.has(name));
    if (agents.length > 0) await script.process.sleep(1);
    for (const name of agents) {
      removeFromCluster(cluster, name);
      removed++;
      changed(script, `removed ${name}`);
    }
    return { removed, members: cluster.members.length };
  }

  /** Stops rather than break the etcd majority. */
  function checkMajority(cluster: ClusterRecord, name: string): void {
    const left = cluster.members.filter((member) => member.voter && member.nodeName !== name);
    const healthy = left.filter((member) => isHealthy(cluster, member)).length;
    const majority = Math.floor(left.length / 2) + 1;
    if (healthy >= majority) return;
    throw refusal(
      "NotReady",
      `Removing ${name} would leave ${healthy} healthy of ${left.length} etcd voters, majority is ${majority}. Repair the others first`,
    );
  }

  function removeFromCluster(cluster: ClusterRecord, name: string): void {
    const member = cluster.members.find((each) => each.nodeName === name);
    const instanceId = member?.instanceId ?? cluster.nodes.get(name)?.instanceId ?? "";
    cluster.nodes.delete(name);
    if (member !== undefined) cluster.members.splice(cluster.members.indexOf(member), 1);
    const other = state.nodes.get(instanceId);
    if (other?.alive === true && member !== undefined) {
      // A member that is told to leave takes its static pods down; its data is refused from then on, at every start that systemd tries.
      other.removed = true;
      other.etcdRuns = false;
      liveOf(other).service?.kill();
      setUnit(other, "activating");
      refuseRemoved(other);
    }
    touch(cluster);
  }

  async function collectDiagnostics(script: Script, parameters: NodeCommandParameters<"collect-diagnostics">): Promise<Reply<"collect-diagnostics">> {
    const { node } = script;
    const entries = await fetchDelivery(script, parameters.delivery);
    await script.process.sleep(3 + script.random.next() * 4);
    const secret = new Set<string>([paths.token, paths.agentToken]);
    const texts: Record<string, string> = {
      [`rke2/${node.unit}.log`]: node.journal.join("\n"),
      [`rke2/${node.unit}.status`]: `ActiveState=${node.unitState}\nNRestarts=${node.restarts}\n`,
      "rke2/version.txt": `rke2 version ${node.installed ?? "none"}\n`,
    };
    for (const [path, { text }] of node.files) {
      if (path.startsWith("/etc/rancher/rke2/config.yaml") && !secret.has(path)) texts[`config/${baseName(path)}`] = text ?? "";
    }
    const parts = Object.entries(texts).map(([name, text]) => ({ name: `${node.name}/${name}`, content: Buffer.from(text), mode: 0o600 }));
    const body = gzipSync(packTar(parts));
    await upload(script, entries, "diagnostics", body, "The diagnostics");
    return { bytes: body.length, sha256: digestOf(body) };
  }

  // --------------------------------------------------- snapshots and restores

  async function saveSnapshot(script: Script, parameters: NodeCommandParameters<"save-snapshot">): Promise<Reply<"save-snapshot">> {
    const { node, process } = script;
    const known = node.snapshots.get(parameters.snapshot);
    if (known !== undefined) {
      await process.sleep(askSeconds);
      script.log.push(`snapshot ${parameters.snapshot} is there and whole, or was sent before`);
      return known.reply;
    }
    const cluster = clusterOf(node);
    if (node.unit !== "rke2-server" || cluster === undefined || node.unitState === "inactive")
      throw refusal("NotReady", `No server has started on ${node.name} yet: it has no kubeconfig`);
    await process.sleep(askSeconds);
    if (!node.etcdRuns) {
      await process.sleep(30);
      if (!node.etcdRuns) throw refusal("NotReady", `etcd does not answer on ${node.name}`);
    }
    const member = cluster.members.find((each) => each.instanceId === node.machine.instanceId);
    if (member?.voter !== true) throw refusal("NotReady", `The etcd member of ${node.name} is a learner. Take the snapshot on a server that votes`);
    if (!hasApi(node)) await process.sleep(30);
    if (!hasApi(node)) throw refusal("NotReady", `The API does not answer on ${node.name}`);
    // Read first: the snapshot holds at least this.
    const before = currentStore(cluster).stateAt(undefined);
    await process.sleep(script.random.latency("snapshotFixed") + (2 * databaseBytes(before.keys)) / snapshotBytesPerSecond);
    if (!cluster.quorum)
      throw refusal("ServiceFailed", `RKE2 on ${node.name} did not say that it saved snapshot ${parameters.snapshot}`, node.journal);
    const content = snapshotFile({
      uid: cluster.uid,
      caHash: cluster.caHash,
      tokenHash: tokenHash(cluster.serverPassword),
      critical: cluster.critical,
      version: cluster.version,
      store: currentStore(cluster).copy(),
      nodes: [...cluster.nodes],
    });
    const leader = cluster.members.find((each) => each.voter && isHealthy(cluster, each));
    const reply: Reply<"save-snapshot"> = {
      bytes: content.length,
      sha256: digestOf(content),
      parts: [],
      ...before,
      members: cluster.members.map((each) => each.nodeName).slice(0, 9),
      leader: leader?.nodeName ?? "",
      clusterId: cluster.uid,
      tokenHash: tokenHash(cluster.serverPassword),
      version: node.installed as string,
    };
    node.snapshots.clear();
    node.snapshots.set(parameters.snapshot, { reply, content });
    changed(script, `saved ${parameters.snapshot}`);
    return reply;
  }

  async function uploadSnapshot(script: Script, parameters: NodeCommandParameters<"upload-snapshot">): Promise<Reply<"upload-snapshot">> {
    const { node, process } = script;
    const saved = node.snapshots.get(parameters.snapshot);
    if (saved === undefined)
      throw refusal("SnapshotInvalid", `Snapshot ${parameters.snapshot} is not on the disk of ${node.name}. Save it first, on this server`);
    const reply = { bytes: saved.reply.bytes, uploads: 1 };
    if (saved.content === undefined) return reply;
    const entries = await fetchDelivery(script, parameters.delivery);
    await process.sleep(databaseBytes(saved.reply.keys) / snapshotBytesPerSecond);
    // The files are far under the size of one part.
    const whole = entries.some((entry) => entry.kind === "put" && entry.name === "snapshot");
    if (saved.content.length > snapshotPartBytes) throw new Unmodelled("a simulated snapshot of several parts");
    await upload(script, entries, whole ? "snapshot" : "part-1", saved.content, `Snapshot ${parameters.snapshot}`);
    node.snapshots.set(parameters.snapshot, { reply: saved.reply, content: undefined });
    changed(script, `sent ${parameters.snapshot}`);
    return reply;
  }

  async function stopServer(script: Script, { restore }: NodeCommandParameters<"stop-server">): Promise<Reply<"stop-server">> {
    refuseOtherRole(script.node, "rke2-server");
    if (script.node.restores.has(restore)) script.log.push("it is of the cluster that this restore makes");
    else await stopAll(script);
    return {};
  }

  /** Service and containers; what is on the disk stays. */
  async function stopAll(script: Script): Promise<void> {
    const { node, process } = script;
    if (node.installed === undefined) throw refusal("ConfigInvalid", `RKE2 is not installed on ${node.name}. Run prepare-node first`);
    if (node.unitState === "inactive" && !node.etcdRuns) return;
    await process.sleep(4 + script.random.next() * 8);
    stopUnit(node);
    node.etcdRuns = false;
    node.fatal = undefined;
    for (const cluster of state.clusters.values()) touch(cluster);
    changed(script, "stopped rke2-server and its containers");
  }

  async function restoreSnapshot(script: Script, parameters: NodeCommandParameters<"restore-snapshot">): Promise<Reply<"restore-snapshot">> {
    const { node } = script;
    refuseOtherRole(node, "rke2-server");
    const note = node.restores.get(parameters.restore);
    if (note?.kind === "removed") {
      throw refusal(
        "SplitBrain",
        `${node.name} has rejoined the cluster that restore ${parameters.restore} made on another server. A second reset would make a second cluster`,
      );
    }
    if (node.installed === undefined) throw refusal("ConfigInvalid", `RKE2 is not installed on ${node.name}. Run prepare-node first`);
    const entries = await fetchDelivery(script, parameters.delivery);
    if (note === undefined) await resetCluster(script, parameters, entries);
    else script.log.push("the cluster was reset by an earlier run of this restore");
    await startUnit(script, "rke2-server", 2640, () => serverUnready(node));
    const cluster = clusterOf(node) as ClusterRecord;
    const reset = node.restores.get(parameters.restore) as Extract<RestoreNote, { kind: "reset" }>;
    if (reset.state === undefined) {
      await script.process.sleep(askSeconds);
      const store = currentStore(cluster);
      const asked = Number(parameters.revision);
      reset.state = { ...store.stateAt(asked === 0 ? undefined : asked), newestRevision: store.record.revision };
    }
    if (entries.some((entry) => entry.kind === "put" && entry.name === "kubeconfig"))
      await upload(script, entries, "kubeconfig", Buffer.from(kubeconfigOf(cluster)), "The kubeconfig of the restored cluster");
    if (place(node, paths.join, joinText(parameters.endpoint), "0600")) changed(script, `placed ${paths.join}`);
    const nodes = [...cluster.nodes].filter(([, object]) => object.role === "server").map(([name]) => name);
    return { ...serverReply(node, cluster), ...reset.state, clusterId: cluster.uid, nodes: nodes.slice(0, 20) };
  }

  /** Verifies what can be known, then stops, sets aside, and makes this server the one member. */
  async function resetCluster(
    script: Script,
    { mode, restore }: NodeCommandParameters<"restore-snapshot">,
    entries: readonly DeliveryEntry[],
  ): Promise<void> {
    const { node, process } = script;
    const arrived = await fetchConfiguration(script, entries);
    const delivered = deliveredTokens(arrived);
    const ownCa = ownCaOf(node);
    if (delivered.token.caHash !== undefined && ownCa !== undefined && ownCa !== delivered.token.caHash) {
      throw refusal(
        "AlreadyMember",
        `The disk of ${node.name} holds the CA ${ownCa}, the cluster to restore has ${delivered.token.caHash}: it belongs to another cluster. Replace the node`,
      );
    }
    checkConfiguration(node);
    let snapshot: SnapshotContent | undefined;
    if (mode === "snapshot") snapshot = await fetchSnapshot(script, entries);
    else if (node.etcd === undefined)
      throw refusal("RestoreFailed", `${node.name} holds no etcd data, so the cluster cannot go on from it. Restore a snapshot`);

    placeConfiguration(script, arrived);
    if (place(node, paths.node, nodeText(node), "0600")) changed(script, `placed ${paths.node}`);
    await stopAll(script);
    if (node.files.delete(paths.join)) changed(script, `removed ${paths.join}`);
    const survived = node.etcd === undefined ? undefined : state.clusters.get(node.etcd);
    node.keepsOldData = true;
    if (snapshot !== undefined) {
      node.etcd = undefined;
      node.removed = false;
    }
    await process.sleep(script.random.latency("firstServerStart") / 2);
    const content = snapshot ?? contentOf(survived as ClusterRecord);
    if (tokenHash(delivered.token.password) !== content.tokenHash) {
      throw refusal(
        "TokenRejected",
        `The token is not the one in force when the snapshot was taken. The data of before are beside those of ${node.name}`,
        ['level=fatal msg="bootstrap data already found and encrypted with different token"'],
      );
    }
    if (delivered.token.caHash !== undefined && delivered.token.caHash !== content.caHash) {
      throw refusal("RestoreFailed", `The snapshot brought the CA ${content.caHash}, expected ${delivered.token.caHash}: it is of another cluster`);
    }
    const cluster = begin(node, content, delivered);
    node.etcd = cluster.id;
    node.era = cluster.era;
    node.cluster = cluster.id;
    node.removed = false;
    node.restores.set(restore, { kind: "reset", state: undefined });
    changed(script, `reset the cluster: ${node.name} is its one member`);
  }

  const contentOf = (cluster: ClusterRecord): SnapshotContent => ({
    uid: cluster.uid,
    caHash: cluster.caHash,
    tokenHash: tokenHash(cluster.serverPassword),
    critical: cluster.critical,
    version: cluster.version,
    store: currentStore(cluster).copy(),
    nodes: [...cluster.nodes],
  });

  /** Tokens of a delivery before they are placed: a running server may need the ones it has. */
  function deliveredTokens(arrived: readonly Arrived[]): { readonly token: Token; readonly agentPassword: string } {
    const read = (path: string) => {
      const line = arrived.find(({ entry }) => entry.target === path)?.text.split("\n")[0] ?? "";
      if (line === "") throw refusal("ConfigInvalid", `The delivery brought no ${path}`);
      return parseToken(line);
    };
    return { token: read(paths.token), agentPassword: read(paths.agentToken).password };
  }

  async function fetchSnapshot(script: Script, entries: readonly DeliveryEntry[]): Promise<SnapshotContent> {
    const entry = entries.find((each) => each.kind === "get" && each.target.startsWith(`${nodePaths.snapshots}/`));
    if (entry?.kind !== "get") throw refusal("ConfigInvalid", "The delivery brought no snapshot to restore");
    if (entry.sha256 === undefined) throw refusal("ConfigInvalid", "The delivery does not tell the snapshot's SHA-256");
    const { body } = await download(script, entry);
    const invalid = (why: string) => refusal("SnapshotInvalid", `The snapshot cannot be restored: ${why}. Nothing was changed`);
    if (body[0] === 0x50 && body[1] === 0x4b) throw invalid("it is a zip archive");
    const fault = sizeFault(body.length);
    if (fault !== undefined) throw invalid(fault);
    const file = Buffer.from(body);
    if (!createHash("sha256").update(file.subarray(0, -32)).digest().equals(file.subarray(-32)))
      throw invalid("its content does not match the checksum at its end");
    let content: SnapshotContent;
    try {
      content = JSON.parse(file.subarray(0, -32).toString("utf8")) as SnapshotContent;
    } catch {
      throw new Unmodelled("a snapshot that no simulated node made");
    }
    await script.process.sleep((2 * databaseBytes(content.store.keys)) / snapshotBytesPerSecond);
    return content;
  }

  /**
   * The cluster that a snapshot becomes, with this server as its one member. While no etcd of the cluster runs it is that cluster again, in another era;
   * beside one that runs it is a second, with the same CA.
   */
  function begin(node: NodeRecord, content: SnapshotContent, delivered: { readonly token: Token; readonly agentPassword: string }): ClusterRecord {
    const members: MemberRecord[] = [{ instanceId: node.machine.instanceId, nodeName: node.name, address: node.machine.address, voter: true }];
    const store = new EtcdStore(structuredClone(content.store));
    store.branch(now(), hash(`${seed} restore ${state.serial++}`).slice(0, 16));
    const next = {
      serverPassword: delivered.token.password,
      agentPassword: delivered.agentPassword,
      version: node.installed as string,
      bootstrappedBy: node.machine.instanceId,
      bootstrappedAtMs: now(),
      members,
      store: store.record,
      nodes: new Map(content.nodes),
    };
    const old = state.clusters.get(content.uid);
    const lives = (cluster: ClusterRecord) =>
      [...state.nodes.values()].some((each) => each.etcdRuns && each.etcd === cluster.id && each.era === cluster.era);
    world.note("cluster restored", { cluster: content.uid, instance: node.machine.instanceId, revision: store.record.revision });
    if (old !== undefined && !lives(old)) {
      old.former.set(old.era, old.members);
      Object.assign(old, next, { era: old.era + 1 });
      touch(old);
      return old;
    }
    const id =
      old === undefined ? content.uid : `${content.uid}-${[...state.clusters.values()].filter((each) => each.uid === content.uid).length + 1}`;
    const cluster: ClusterRecord = {
      ...next,
      id,
      uid: content.uid,
      caHash: content.caHash,
      critical: content.critical,
      era: 0,
      former: new Map(),
      podsReadyAtMs: 0,
      quorum: false,
      quorumChangedAtMs: now(),
    };
    state.clusters.set(id, cluster);
    touch(cluster);
    return cluster;
  }

  async function rejoinServer(script: Script, parameters: NodeCommandParameters<"rejoin-server">): Promise<Reply<"rejoin-server">> {
    const { node, process } = script;
    const { restore, joinAddress, endpoint } = parameters;
    refuseOtherRole(node, "rke2-server");
    if (node.restores.get(restore)?.kind === "reset") {
      throw refusal(
        "SplitBrain",
        `${node.name} is the server that restore ${restore} was made on: its data are the cluster's, and stay. Rejoin the other servers`,
      );
    }
    const entries = await fetchDelivery(script, parameters.delivery);
    const arrived = await fetchConfiguration(script, entries);
    checkJoin(node, joinAddress, checkTokens(node, arrived));
    placeConfiguration(script, arrived);
    if (place(node, paths.node, nodeText(node), "0600")) changed(script, `placed ${paths.node}`);
    checkConfiguration(node);
    if (!node.restores.has(restore)) {
      const answers = () => {
        const server = resolve(joinAddress);
        return server?.unit === "rke2-server" && server.unitState === "active";
      };
      const until = now() + 120 * seconds;
      while (!answers()) {
        if (now() >= until) throw refusal("NotReady", `No server answers at ${joinAddress}:9345, so the data of ${node.name} were left as they are`);
        await process.sleep(3);
      }
      await stopAll(script);
      node.etcd = undefined;
      node.removed = false;
      node.restores.set(restore, { kind: "removed" });
      changed(script, "removed the etcd data of the time before the restore");
    }
    if (node.etcd === undefined && place(node, paths.join, joinText(joinAddress), "0600")) changed(script, `placed ${paths.join}`);
    await startUnit(script, "rke2-server", 1440, () => serverUnready(node));
    if (place(node, paths.join, joinText(endpoint), "0600")) changed(script, `placed ${paths.join}`);
    return serverReply(node, clusterOf(node) as ClusterRecord);
  }

  /** A snapshot as a file: the content in whole pages, and its SHA-256 behind it. */
  function snapshotFile(content: SnapshotContent): Uint8Array {
    const json = Buffer.from(JSON.stringify(content));
    const pages = Buffer.alloc(Math.ceil(json.length / 4096) * 4096, " ");
    json.copy(pages);
    return Buffer.concat([pages, createHash("sha256").update(pages).digest()]);
  }

  /**
   * Agents that lost their servers ask those they know, and the endpoint, again and again. A kubelet registers when it starts and never again, so one whose
   * Node the snapshot does not have stays outside until its service starts anew.
   */
  function reconnectAgents(cluster: ClusterRecord, tries = reconnectTries): void {
    const stranded = [...state.nodes.values()].filter(
      (node) => node.alive && node.unit === "rke2-agent" && node.unitState === "active" && node.cluster === cluster.id && node.era !== cluster.era,
    );
    if (stranded.length === 0 || tries === 0) return;
    world.clock.after(reconnectSeconds * seconds, () => {
      const known = new Set([...cluster.former.values()].flat().map((member) => member.address));
      const isServed = cluster.members.some((member) => known.has(member.address) && hasApi(state.nodes.get(member.instanceId) as NodeRecord));
      for (const node of stranded) {
        if (!node.alive || node.unitState !== "active" || !cluster.nodes.has(node.name)) continue;
        const address = node.startedWith;
        const server = isServed || address === undefined ? undefined : resolve(address);
        if (isServed || (server !== undefined && server.etcd === cluster.id && server.era === cluster.era && hasApi(server))) node.era = cluster.era;
      }
      revision++;
      reconnectAgents(cluster, tries - 1);
    });
  }

  // ---------------------------------------------------------------- services

  /**
   * Starts the unit unless it runs already, and waits until the node is ready, the log says that waiting is in vain, or the time is over.
   *
   * @param unready why a node whose unit is active is not ready, if so
   */
  async function startUnit(script: Script, unit: Unit, limitSeconds: number, unready: () => string | undefined): Promise<void> {
    const { node } = script;
    if (node.unit !== unit) {
      stopUnit(node);
      node.unit = unit;
    }
    if (node.unitState === "active") {
      script.log.push(`${unit} is active already`);
    } else if (node.unitState === "activating" && !script.changed) {
      script.log.push(`${unit} is starting already`);
    } else {
      changed(script, `started ${unit}`);
      launchUnit(node);
    }
    const begunAtMs = now();
    const deadlineMs = script.startedAtMs + limitSeconds * seconds;
    let idleSinceMs: number | undefined;
    for (;;) {
      const isActive = node.unitState === "active";
      const reason = isActive ? unready() : `${unit} is ${node.unitState}`;
      if (reason === undefined) return;
      if (!isActive && node.fatal !== undefined) {
        stopInVain(node);
        throw refusal(node.fatal.code, `${node.fatal.meaning}. RKE2 on ${node.name} says: ${node.journal.at(-1) ?? ""}`, node.journal);
      }
      const isIdle = node.unitState === "inactive" || node.unitState === "failed";
      idleSinceMs = isIdle ? (idleSinceMs ?? now()) : undefined;
      if (idleSinceMs !== undefined && now() - idleSinceMs >= idleSeconds * seconds)
        throw refusal("ServiceFailed", `${unit} on ${node.name} is ${node.unitState} and does not start`, node.journal);
      if (!isActive && node.restarts >= mostRestarts) {
        stopInVain(node);
        throw refusal("ServiceFailed", `${unit} on ${node.name} ended ${node.restarts} times`, node.journal);
      }
      const left = (deadlineMs - now()) / seconds;
      const took = Math.round((now() - begunAtMs) / seconds);
      if (left <= 0 && isActive) throw refusal("NotReady", `${unit} on ${node.name} is active, but after ${took} s ${reason}`, node.journal);
      if (left <= 0) throw refusal("StartTimedOut", `${unit} on ${node.name} is still ${node.unitState} after ${took} s`, node.journal);
      // What makes an active node ready wakes nobody.
      await settled(script, Math.min(left, isActive ? 3 : isIdle ? idleSeconds : left));
    }
  }

  /** Leaves no service that fails every five seconds, but never stops one that holds data of a cluster. */
  function stopInVain(node: NodeRecord): void {
    if (node.etcd === undefined) stopUnit(node);
  }

  /** Until the unit changes, or so many seconds. */
  async function settled(script: Script, limitSeconds: number): Promise<void> {
    const { watchers } = liveOf(script.node);
    const pause = script.process.pause(limitSeconds);
    watchers.add(pause.end);
    await pause.over;
    watchers.delete(pause.end);
  }

  function stopUnit(node: NodeRecord): void {
    liveOf(node).service?.kill();
    setUnit(node, "inactive");
  }

  function launchUnit(node: NodeRecord): void {
    const running = liveOf(node);
    running.service?.kill();
    const process = new Process(world);
    running.service = process;
    node.fatal = undefined;
    node.restarts = 0;
    node.journal = [];
    setUnit(node, "activating");
    const own = random.fork(`service ${node.machine.instanceId} ${state.serial++}`);
    if (world.faults.strike("nodeLostWhileJoining", node.machine.instanceId)) {
      const usual = node.unit === "rke2-server" ? 40 : 30;
      void process
        .sleep(own.next() * usual)
        .then(() => world.service<Service & { lose(id: string, reason: string): void }>("ec2").lose(node.machine.instanceId, "Host hardware failed"));
    }
    (node.unit === "rke2-server" ? runServer(node, process, own) : runAgent(node, process, own)).catch((error: unknown) => {
      world.clock.after(0, () => {
        throw error;
      });
    });
  }

  function say(node: NodeRecord, line: string): void {
    node.journal.push(line);
    if (node.journal.length > 60) node.journal.splice(0, 20);
  }

  /** The log has told what no waiting changes. */
  function giveUp(node: NodeRecord, code: NodeFailureCode, meaning: string, line: string): void {
    say(node, line);
    node.fatal = { code, meaning };
    for (const wake of liveOf(node).watchers) wake();
  }

  function refuseRemoved(node: NodeRecord): void {
    giveUp(
      node,
      "AlreadyMember",
      "The disk belongs to an etcd member that was removed",
      'level=fatal msg="the member has been permanently removed from the cluster; the data-dir used by this member must be removed"',
    );
  }

  /** The service has ended with this line, and systemd starts it again. */
  async function restart(node: NodeRecord, process: Process, own: Random, line: string): Promise<void> {
    say(node, line);
    await process.sleep(restartSeconds + 0.5 + own.next());
    if (++node.restarts >= mostRestarts) for (const wake of liveOf(node).watchers) wake();
  }

  async function runServer(node: NodeRecord, process: Process, own: Random): Promise<void> {
    const config = readConfig(node);
    for (const key of unknownKeys(config, "server")) say(node, `level=warning msg="Unknown flag --${key} found in config.yaml, skipping"`);
    if (node.removed) {
      refuseRemoved(node);
      return;
    }
    const token = parseToken(tokenOf(node, config, "token"));
    const agentToken = parseToken(tokenOf(node, config, "agent-token"));
    if (node.etcd !== undefined) return restartServer(node, process, own, token);
    const address = joinTarget(config);
    if (address === undefined) return bootstrapServer(node, process, own, config, token, agentToken);
    await joinServer(node, process, own, config, token, address);
  }

  /** No `server:` and no etcd data: a new cluster, whatever anybody meant. */
  async function bootstrapServer(
    node: NodeRecord,
    process: Process,
    own: Random,
    config: Readonly<Record<string, unknown>>,
    token: Token,
    agentToken: Token,
  ): Promise<void> {
    say(node, 'level=info msg="Managed etcd cluster initializing"');
    const whole = own.latency("firstServerStart");
    await process.sleep(whole * 0.2);
    const id = uuid(hash(`${seed} cluster ${node.machine.instanceId} ${state.serial++}`));
    const cluster: ClusterRecord = {
      id,
      uid: id,
      caHash: hash(`${id} server-ca`),
      serverPassword: token.password,
      agentPassword: agentToken.password === "" ? token.password : agentToken.password,
      critical: criticalValues(config),
      version: node.installed as string,
      bootstrappedBy: node.machine.instanceId,
      bootstrappedAtMs: now(),
      era: 0,
      former: new Map(),
      members: [{ instanceId: node.machine.instanceId, nodeName: node.name, address: node.machine.address, voter: true }],
      store: EtcdStore.create(now(), id),
      nodes: new Map(),
      podsReadyAtMs: 0,
      quorum: false,
      quorumChangedAtMs: now(),
    };
    state.clusters.set(id, cluster);
    node.etcd = id;
    node.era = 0;
    node.etcdRuns = true;
    node.cluster = id;
    world.note("cluster made", { cluster: id, instance: node.machine.instanceId });
    touch(cluster);
    await process.sleep(whole * 0.8);
    serverReady(node, cluster, own);
  }

  async function restartServer(node: NodeRecord, process: Process, own: Random, token: Token): Promise<void> {
    const cluster = state.clusters.get(node.etcd as string) as ClusterRecord;
    if (token.password !== cluster.serverPassword) {
      giveUp(
        node,
        "TokenRejected",
        "The data of the cluster was made with another server token",
        'level=fatal msg="bootstrap data already found and encrypted with different token"',
      );
      return;
    }
    say(node, 'level=info msg="Managed etcd cluster bootstrap already complete and initialized"');
    await process.sleep(8 + own.next() * 7);
    if (node.era !== cluster.era) return startFormerMember(node, process, cluster);
    node.etcdRuns = true;
    touch(cluster);
    await promoted(node, process, cluster);
    serverReady(node, cluster, own);
  }

  /**
   * Data of before a restore: the member looks for those it knew. Should a majority of them run, they are a second cluster, whatever anybody meant; else
   * it waits for ever.
   */
  async function startFormerMember(node: NodeRecord, process: Process, cluster: ClusterRecord): Promise<void> {
    const { era } = node;
    const former = cluster.former.get(era) ?? [];
    node.etcdRuns = true;
    touch(cluster);
    const runs = (each: NodeRecord | undefined) => each?.etcdRuns === true && each.etcd === cluster.id && each.era === era;
    for (;;) {
      const running = former.filter((member) => runs(state.nodes.get(member.instanceId)));
      // Whoever saw the majority first has taken this one along.
      if (node.etcd !== cluster.id || running.length >= Math.floor(former.length / 2) + 1) break;
      if (!node.journal.at(-1)?.includes("Failed to test etcd connection"))
        say(node, 'level=info msg="Failed to test etcd connection: context deadline exceeded"');
      await process.sleep(5);
    }
    const id = `${cluster.uid}-era-${era}`;
    if (!state.clusters.has(id)) {
      state.clusters.set(id, {
        ...cluster,
        id,
        era,
        former: new Map(),
        members: former.map((member) => ({ ...member })),
        store: EtcdStore.create(now(), id),
        nodes: new Map(),
        bootstrappedBy: node.machine.instanceId,
        bootstrappedAtMs: now(),
        quorum: false,
        quorumChangedAtMs: now(),
      });
      world.note("former members vote again", { cluster: id, instance: node.machine.instanceId });
    }
    const second = state.clusters.get(id) as ClusterRecord;
    for (const member of former) {
      const other = state.nodes.get(member.instanceId);
      if (other !== undefined && runs(other)) {
        other.etcd = id;
        other.cluster = id;
      }
    }
    node.etcd = id;
    node.cluster = id;
    touch(second);
    serverReady(node, second, random.fork(`former ${node.machine.instanceId} ${state.serial++}`));
  }

  async function joinServer(
    node: NodeRecord,
    process: Process,
    own: Random,
    config: Readonly<Record<string, unknown>>,
    token: Token,
    address: string,
  ): Promise<void> {
    const cluster = await reach(node, process, own, address, token, "server");
    if (cluster === undefined) return;
    const mine = criticalValues(config);
    const different = Object.keys(mine).filter((key) => mine[key] !== cluster.critical[key]);
    if (different.length > 0) {
      for (const key of different) say(node, `level=warning msg="critical configuration mismatched: ${key}"`);
      giveUp(
        node,
        "ConfigInvalid",
        `A critical value of config.yaml differs from the other servers: ${different.join(", ")}`,
        'level=fatal msg="failed to validate server configuration: critical configuration value mismatch between servers"',
      );
      return;
    }
    if (cluster.members.some((member) => member.nodeName === node.name && member.instanceId !== node.machine.instanceId)) {
      giveUp(
        node,
        "DuplicateNode",
        "etcd still has a member of this node name",
        'level=fatal msg="duplicate node name found, please use a unique name for this node"',
      );
      return;
    }
    // From here on it has the cluster's authorities and a kubeconfig.
    node.cluster = cluster.id;
    // One learner at a time, and only while a majority can agree to it.
    while (cluster.members.some((member) => !member.voter) || !cluster.quorum) {
      if (!node.journal.at(-1)?.includes("Waiting for other members")) {
        say(node, 'level=info msg="Waiting for other members to finish joining etcd cluster: etcdserver: too many learner members in cluster"');
      }
      await process.sleep(1);
    }
    cluster.members.push({ instanceId: node.machine.instanceId, nodeName: node.name, address: node.machine.address, voter: false });
    node.etcd = cluster.id;
    node.era = cluster.era;
    node.etcdRuns = true;
    touch(cluster);
    await process.sleep(own.latency("learnerJoinAndPromote"));
    await promoted(node, process, cluster);
    serverReady(node, cluster, own);
  }

  /** Until the member votes; the leader tries every 15 seconds. */
  async function promoted(node: NodeRecord, process: Process, cluster: ClusterRecord): Promise<void> {
    for (;;) {
      const member = cluster.members.find((each) => each.instanceId === node.machine.instanceId);
      if (member === undefined) {
        // Removed meanwhile: the process ends, its data is of no use.
        node.removed = true;
        refuseRemoved(node);
        await new Promise<never>(() => undefined);
      } else if (member.voter && cluster.quorum) {
        return;
      } else if (cluster.quorum) {
        member.voter = true;
        touch(cluster);
        return;
      }
      await process.sleep(15);
    }
  }

  function serverReady(node: NodeRecord, cluster: ClusterRecord, own: Random): void {
    say(node, 'level=info msg="rke2 is up and running"');
    const labelledAtMs = cluster.nodes.get(node.name)?.labelledAtMs ?? now() + roleLabelSeconds * seconds;
    cluster.nodes.set(node.name, nodeObject(node, "server", labelledAtMs));
    if (cluster.era > 0) reconnectAgents(cluster);
    cluster.podsReadyAtMs = Math.max(cluster.podsReadyAtMs, now() + own.latency("lastServerPodsReady") * seconds);
    node.admitsAtMs = now();
    setUnit(node, "active");
    touch(cluster);
  }

  const nodeObject = (node: NodeRecord, role: NodeObject["role"], labelledAtMs: number): NodeObject => ({
    instanceId: node.machine.instanceId,
    role,
    passwordHash: hash(node.password),
    version: node.installed as string,
    labelledAtMs,
  });

  async function runAgent(node: NodeRecord, process: Process, own: Random): Promise<void> {
    const config = readConfig(node);
    for (const key of unknownKeys(config, "agent")) say(node, `level=warning msg="Unknown flag --${key} found in config.yaml, skipping"`);
    const token = parseToken(tokenOf(node, config, "token"));
    const address = joinTarget(config);
    if (address === undefined) {
      giveUp(node, "ConfigInvalid", "No server is named", 'level=fatal msg="server address is required to join a cluster"');
      return;
    }
    for (;;) {
      const cluster = await reach(node, process, own, address, token, "agent");
      if (cluster === undefined) return;
      node.startedWith = address;
      const server = resolve(address) as NodeRecord;
      // Requests wait in line at the supervisor; it refuses those it cannot hold.
      const waiting = Math.ceil(Math.max(0, server.admitsAtMs - now()) / (admissionSeconds * seconds));
      if (waiting >= admissionQueue) {
        if (!node.journal.at(-1)?.includes("429"))
          say(node, 'level=info msg="Waiting to retrieve agent configuration; server is not ready: 429 Too Many Requests"');
        await process.sleep(5 + own.next() * 5);
        continue;
      }
      const turnAtMs = Math.max(now(), server.admitsAtMs);
      server.admitsAtMs = turnAtMs + admissionSeconds * seconds;
      await process.sleep((server.admitsAtMs - now()) / seconds);
      if (!hasApi(server)) {
        await process.sleep(5);
        continue;
      }
      node.cluster = cluster.id;
      node.era = cluster.era;
      cluster.nodes.set(node.name, nodeObject(node, "agent", now()));
      revision++;
      await process.sleep(own.latency("agentStartToReady"));
      while (!cluster.quorum) await process.sleep(5);
      say(node, 'level=info msg="rke2 agent is up and running"');
      setUnit(node, "active");
      revision++;
      return;
    }
  }

  /** Finds a server that serves at the address and accepts the token; undefined when the log has said why that will never be. */
  async function reach(
    node: NodeRecord,
    process: Process,
    own: Random,
    address: string,
    token: Token,
    role: "server" | "agent",
  ): Promise<ClusterRecord | undefined> {
    let rejected = 0;
    for (;;) {
      const server = resolve(address);
      const cluster = server === undefined ? undefined : clusterOf(server);
      if (server === undefined || cluster === undefined || !serves(server)) {
        const line = `failed to get CA certs: https://${address}:9345/cacerts: connection refused`;
        if (role === "server") {
          await restart(node, process, own, `level=fatal msg="starting kubernetes: preparing server: ${line}"`);
        } else {
          if (!node.journal.at(-1)?.includes("Failed to validate connection"))
            say(node, `level=error msg="Failed to validate connection to cluster at https://${address}:9345: ${line}"`);
          await process.sleep(4 + own.next() * 2);
        }
        continue;
      }
      if (token.caHash !== undefined && token.caHash !== cluster.caHash) {
        giveUp(
          node,
          "TokenRejected",
          "The token names another cluster CA than the server at the join address has",
          `level=fatal msg="token CA hash does not match the Cluster CA certificate hash: ${token.caHash} != ${cluster.caHash}"`,
        );
        return undefined;
      }
      const asServer = token.password === cluster.serverPassword && token.user !== "node";
      const asAgent = token.password === cluster.agentPassword && token.user !== "server";
      const known = cluster.nodes.get(node.name);
      const stranger = known !== undefined && known.passwordHash !== hash(node.password);
      const waiting = `level=info msg="Waiting to retrieve agent configuration; server is not ready: https://${address}:9345/v1-rke2`;
      if (!asServer && !(role === "agent" && asAgent)) {
        const isLast = ++rejected >= 8;
        const starting = "starting kubernetes: preparing server";
        const line =
          role === "server"
            ? `level=fatal msg="${starting}: https://${address}:9345/v1-rke2/config: 401 Unauthorized"`
            : `${waiting}/config: 401 Unauthorized"`;
        if (isLast) {
          giveUp(node, "TokenRejected", "The server does not accept the token", line);
          return undefined;
        }
        if (role === "server") {
          await restart(node, process, own, line);
          continue;
        }
        say(node, line);
      } else if (!cluster.quorum) {
        if (!node.journal.at(-1)?.includes("503 Service Unavailable")) say(node, `${waiting}/serving-kubelet.crt: 503 Service Unavailable"`);
      } else if (stranger) {
        const line = `${waiting}/serving-kubelet.crt: Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server node-passwd entry"`;
        if (++rejected >= 4) {
          giveUp(node, "DuplicateNode", "The cluster knows this node name with another node password", line);
          return undefined;
        }
        say(node, line);
      } else {
        return cluster;
      }
      await process.sleep(4 + own.next() * 2);
    }
  }

  /** The machine at an address, or one behind a load balancer's name. */
  function resolve(address: string): NodeRecord | undefined {
    if (/^[\d.]+$/.test(address)) return byAddress.get(address);
    const targets = world
      .service<Service & { route(dnsName: string, port: number): readonly { readonly instanceId: string }[] }>("elastic-load-balancing-v2")
      .route(address, 9345);
    const first = targets[0];
    return first === undefined ? undefined : state.nodes.get(first.instanceId);
  }

  function tokenOf(node: NodeRecord, config: Readonly<Record<string, unknown>>, key: "token" | "agent-token"): string {
    const file = config[`${key}-file`];
    return typeof file === "string" ? firstLine(node, file) : String(config[key] ?? "");
  }

  // ----------------------------------------------------------------- running

  function run(document: DocumentRun): RunningDocument {
    const node = state.nodes.get(document.instanceId);
    if (node === undefined || !node.alive) throw new Unmodelled(`a document for ${document.instanceId}, which does not run`);
    const command = /^drover-([a-z-]+)-[0-9a-f]{8}$/.exec(document.documentName)?.[1];
    if (command === undefined || !(command in nodeCommands))
      throw new Unmodelled(`document ${document.documentName} on a simulated node: it keeps the node commands alone`);
    const process = new Process(world);
    const script: Script = {
      node,
      process,
      random: random.fork(`script ${document.instanceId} ${state.serial++}`),
      startedAtMs: now(),
      log: [],
      changed: false,
    };
    const ended = execute(script, command as NodeCommandName, document);
    return {
      ended,
      kill: () => {
        process.kill();
        const running = live.get(document.instanceId);
        running?.waiting.delete(process);
        if (running?.script === process) running.script = undefined;
      },
    };
  }

  async function execute(script: Script, command: NodeCommandName, document: DocumentRun): Promise<DocumentEnd> {
    const { node, process } = script;
    try {
      checkParameters(command, document);
      const parsed = nodeCommands[command].parameters.safeParse(document.parameters);
      if (!parsed.success)
        throw wrongInput(
          `Parameters of ${command} are not as the contract has them: ${parsed.error.issues.map((issue) => issue.path.join(".")).join(", ")}`,
        );
      await lock(script, lockSeconds[command] ?? 60);
      // prepare-node looks first whose disk it is.
      if (command !== "prepare-node") node.name = nodeName(parsed.data.pool, node.machine.instanceId);
      const reply = await act(script, command, parsed.data);
      const result = nodeCommands[command].result.parse({ ok: true, node: node.name, changed: script.changed, ...reply });
      return { exitCode: 0, stdout: `${JSON.stringify(result)}\n`, stderr: logOf(script, command) };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const failure: NodeFailure = nodeFailureSchema.parse({
        ok: false,
        code: error.code,
        message: error.message.slice(0, 400),
        log: error.log.join("\n").slice(-1000),
      });
      script.log.push(`failed: ${failure.code}: ${failure.message}`);
      return { exitCode: error.exitCode, stdout: `${JSON.stringify(failure)}\n`, stderr: logOf(script, command) };
    } finally {
      const running = live.get(node.machine.instanceId);
      if (running?.script === process) running.script = undefined;
    }
  }

  /** What a script refuses before it does anything. */
  function checkParameters(command: NodeCommandName, { content, parameters }: DocumentRun): void {
    for (const [name, { allowedPattern = "", maxChars = Number.POSITIVE_INFINITY }] of Object.entries(content.parameters ?? {})) {
      const value = parameters[name] ?? "";
      if (value.length > maxChars || !new RegExp(allowedPattern).test(value))
        throw wrongInput(`Parameter ${name} must match ${allowedPattern}, at most ${maxChars} characters`);
    }
    if (command !== "start-server") return;
    const { mode, joinAddress } = parameters;
    if (mode === "join" && joinAddress === "") throw wrongInput("mode join needs a joinAddress: without it the node would make a cluster of its own");
    if (mode === "bootstrap" && joinAddress !== "") throw wrongInput("mode bootstrap takes no joinAddress: the first server joins nobody");
  }

  function act(script: Script, command: NodeCommandName, parameters: unknown): Promise<object> {
    switch (command) {
      case "prepare-node":
        return prepareNode(script, parameters as NodeCommandParameters<"prepare-node">);
      case "start-server":
        return startServer(script, parameters as NodeCommandParameters<"start-server">);
      case "start-agent":
        return startAgent(script, parameters as NodeCommandParameters<"start-agent">);
      case "check-cluster":
        return checkCluster(script);
      case "remove-node":
        return removeNode(script, parameters as NodeCommandParameters<"remove-node">);
      case "save-snapshot":
        return saveSnapshot(script, parameters as NodeCommandParameters<"save-snapshot">);
      case "upload-snapshot":
        return uploadSnapshot(script, parameters as NodeCommandParameters<"upload-snapshot">);
      case "stop-server":
        return stopServer(script, parameters as NodeCommandParameters<"stop-server">);
      case "restore-snapshot":
        return restoreSnapshot(script, parameters as NodeCommandParameters<"restore-snapshot">);
      case "rejoin-server":
        return rejoinServer(script, parameters as NodeCommandParameters<"rejoin-server">);
      case "collect-diagnostics":
        return collectDiagnostics(script, parameters as NodeCommandParameters<"collect-diagnostics">);
    }
  }

  /** One command at a time on a node. */
  async function lock(script: Script, limitSeconds: number): Promise<void> {
    const until = now() + limitSeconds * seconds;
    const running = liveOf(script.node);
    running.waiting.add(script.process);
    while (running.script !== undefined) {
      if (now() >= until) {
        running.waiting.delete(script.process);
        throw refusal("AnotherCommandRuns", `Another node command still runs on this node after ${limitSeconds} s. Ask again when it has ended`);
      }
      await script.process.sleep(3);
    }
    running.waiting.delete(script.process);
    running.script = script.process;
  }

  function observe(cluster: ClusterRecord): ObservedCluster {
    return {
      id: cluster.id,
      caHash: cluster.caHash,
      bootstrappedBy: cluster.bootstrappedBy,
      bootstrappedAtMs: cluster.bootstrappedAtMs,
      hasQuorum: cluster.quorum,
      podsPending: podsPending(cluster),
      members: cluster.members.map((member) => ({ ...member, healthy: isHealthy(cluster, member) })),
      get store() {
        const { revision, keys } = currentStore(cluster).stateAt(undefined);
        return { revision, keys };
      },
      // Asked for by few, and a thousand long.
      get nodes() {
        return [...cluster.nodes].map(([name, object]) => {
          const node = state.nodes.get(object.instanceId);
          const ready = node?.alive === true && node.unitState === "active" && node.cluster === cluster.id && node.era === cluster.era;
          return { name, instanceId: object.instanceId, role: object.role, ready, version: object.version };
        });
      },
    };
  }

  return {
    name: "nodes",
    operations: {},
    throttle: { code: "Throttling", httpStatus: 400 },
    save: () => structuredClone(state),
    load(saved) {
      state = structuredClone(saved) as State;
      byAddress = new Map([...state.nodes.values()].filter((node) => node.alive).map((node) => [node.machine.address, node]));
      live.clear();
      revision++;
    },
    boot,
    halt,
    run,
    answers,
    clusters: () => [...state.clusters.values()].map(observe),
    write(id, keys) {
      const cluster = state.clusters.get(id);
      if (cluster === undefined) throw new Unmodelled(`writing to ${id}, which is no cluster`);
      if (!cluster.quorum) return false;
      currentStore(cluster).write(keys);
      return true;
    },
    get revision() {
      return revision;
    },
  };
}

// ------------------------------------------------------------------- pieces

interface ConfigKey {
  readonly name: string;
  readonly command: string;
  readonly type: string;
  readonly default: unknown;
  readonly criticalEnforced: boolean;
}
const keysByName = new Map((configKeys as readonly ConfigKey[]).map((key) => [key.name, key]));
const httpsUrl = /^https:\/\/[A-Za-z0-9._~:/?&=%+-]+$/;

/** Values that RKE2 compares when a server joins. */
function criticalValues(config: Readonly<Record<string, unknown>>): Record<string, string> {
  const values: Record<string, string> = {};
  for (const key of keysByName.values()) {
    if (key.criticalEnforced)
      values[key.name] = asList(config[key.name] ?? key.default)
        .map(String)
        .join(",");
  }
  return values;
}

function asList(value: unknown): unknown[] {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) ? value : [value];
}

interface Token {
  readonly caHash: string | undefined;
  readonly user: string | undefined;
  readonly password: string;
}

/** `K10<hash>::<user>:<password>`, or the password alone. */
function parseToken(text: string): Token {
  const [, caHash, user, password] = /^K10([0-9a-f]{64})::([a-z]+):(.+)$/.exec(text) ?? [];
  return password === undefined ? { caHash: undefined, user: undefined, password: text } : { caHash, user, password };
}

function joinTarget(config: Readonly<Record<string, unknown>>): string | undefined {
  const server = config["server"];
  return typeof server === "string" ? /^https:\/\/([^:/]+):9345$/.exec(server)?.[1] : undefined;
}

/** Directories a delivery may write. */
function mayWrite(target: string): boolean {
  if (!/^\/[A-Za-z0-9._/+-]+$/.test(target) || target.includes("..") || target.endsWith("/")) return false;
  return ["/etc/rancher/rke2/", `${nodePaths.staging}/`, `${nodePaths.snapshots}/`, `${nodePaths.images}/`, `${nodePaths.manifests}/`].some(
    (directory) => target.startsWith(directory),
  );
}

function isArchive(target: string): boolean {
  return [nodePaths.staging, nodePaths.snapshots, nodePaths.images].some((directory) => target.startsWith(`${directory}/`));
}

const baseName = (path: string) => path.slice(path.lastIndexOf("/") + 1);

/** Lines `<sha256>  <file>` of the release's checksum file. */
function checksums(text: string): Map<string, string> {
  const sums = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [, sum, file] = /^([0-9a-f]{64}) [ *](\S+)$/.exec(line.trim()) ?? [];
    if (sum !== undefined && file !== undefined) sums.set(file, sum);
  }
  return sums;
}

function uuid(hex: string): string {
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join("-");
}

function logOf(script: Script, command: string): string {
  return script.log.map((line) => `${command}: ${line}\n`).join("");
}

/** The file RKE2 writes for an administrator on the node, addresses and all. */
function kubeconfigOf(cluster: ClusterRecord): string {
  const data = (what: string) => Buffer.from(`simulated ${what} of ${cluster.id}`).toString("base64");
  return [
    "apiVersion: v1",
    "clusters:",
    "- cluster:",
    `    certificate-authority-data: ${data("certificate authority")}`,
    "    server: https://127.0.0.1:6443",
    "  name: default",
    "contexts:",
    "- context:",
    "    cluster: default",
    "    user: default",
    "  name: default",
    "current-context: default",
    "kind: Config",
    "preferences: {}",
    "users:",
    "- name: default",
    "  user:",
    `    client-certificate-data: ${data("client certificate")}`,
    `    client-key-data: ${data("client key")}`,
    "",
  ].join("\n");
}
