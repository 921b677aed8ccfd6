/**
 * One cluster from a request to nothing left, in the local cloud: the first thing a newcomer runs.
 *
 *     npm run demo                          creates a cluster, shows it, deletes it, proves that nothing is left
 *     npm run demo -- --nodes machines      on Debian machines that are booted here: examples/machines.yaml
 *     npm run demo -- --nodes simulated     on simulated nodes, in virtual time: examples/ha.yaml
 *     npm run demo -- --seed 7              another draw of latencies
 *     npm run demo -- --file FILE           another cluster file, for the network and images of the local cloud
 *     npm run demo -- --trace FILE          every AWS call as a line of JSON
 *     npm run demo -- --json                the same as one JSON document
 *
 * Exit 0 when the cluster became ready and nothing is left of it, 1 otherwise, 2 when it was asked for in a way it does not know.
 */
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { freemem } from "node:os";
import { relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ensureAssembly } from "../cdk/app.js";
import { cardText } from "../cli/card.js";
import { courseOf } from "../cli/progress.js";
import { clockTime, counted, paint, table, wrap } from "../cli/text.js";
import type { Accepted, ApiError, ApiFault, ClusterStatus, NodeStatus } from "../core/api.js";
import { createCost } from "../core/costs.js";
import { type LatencyStepName, type LowerBound, lowerBound } from "../core/latency-bound.js";
import model from "../core/latency-model.json" with { type: "json" };
import { ports, snapshotKeys, stateKeys, tags } from "../core/layout.js";
import type { FailureCard, OperationKind, OperationRecord } from "../core/records.js";
import { validateCluster } from "../core/validate-cluster.js";
import { fixtureImages } from "./aws/ec2.js";
import type { S3 } from "./aws/s3.js";
import type { Sfn } from "./aws/sfn.js";
import { seedWholeRelease } from "./aws/stand-in-release.js";
import type { TraceEntry } from "./kernel/calls.js";
import type { Faults } from "./kernel/contract.js";
import type { ApiResponse } from "./kernel/http-api.js";
import { RootFailed } from "./nodes/machines/image.js";
import { type ApiProof, askThroughEndpoint, type ComputerCounts, computerCounts, type EtcdList, etcdMembers } from "./nodes/machines/proofs.js";
import { tracesOf } from "./nodes/machines/traces.js";
import { bootOnMachines, type MachineWorld, machineWorldSupport, whyNoRoom } from "./nodes/machines/world.js";
import { callsMade, owner, paidUsage } from "./usage.js";
import { type BootOptions, World } from "./world.js";

export interface DemoOptions {
  readonly seed?: number;
  /** What is behind the instances: simulated nodes unless it says otherwise. */
  readonly nodes?: NodeKind;
  /** Path of a cluster file. */
  readonly file?: string;
  /** Path of a file that gets every AWS call as a line of JSON. */
  readonly trace?: string;
  /** Where the assembly is, or is made. */
  readonly outdir?: string;
  /** Gets the text as it comes, in whole lines. */
  readonly write?: (text: string) => void;
  readonly hasColour?: boolean;
  /** A line for a person, about this computer and not about the cluster. */
  readonly say?: (line: string) => void;
  /** What goes wrong; nothing, unless a test wants to see it fail. */
  readonly faults?: Partial<Faults>;
}

export type NodeKind = "simulated" | "machines";

/** What `--json` prints. A field may be added; none changes its meaning while `schema` is 1. */
export interface DemoReport {
  readonly schema: 1;
  readonly outcome: "ready and gone" | "failed";
  /** Why it failed, where no operation's failure card says so. */
  readonly problem?: string;
  readonly seed: number;
  readonly nodeKind: NodeKind;
  readonly file: string;
  readonly plan: readonly string[];
  readonly warnings: readonly ApiFault[];
  /** On machines without the bound: the latencies of AWS are not there to be measured against. */
  readonly create?: OperationReport & { readonly lowerBound?: LowerBound; readonly ratio?: number };
  readonly nodes: readonly NodeStatus[];
  readonly endpoint?: { readonly dnsName: string; readonly apiPort: number; readonly registrationPort: number };
  /** Never its content: where it is, and where it leads. */
  readonly kubeconfig?: { readonly command: string; readonly bucket: string; readonly key: string; readonly server: string };
  readonly delete?: OperationReport;
  readonly left?: LeftReport;
  /** Where the nodes are machines: what was seen of them without asking Drover. */
  readonly machines?: MachinesReport;
  /** Of the cluster's whole life. */
  readonly used?: {
    readonly awsCalls: number;
    readonly workflowTasks: number;
    readonly nodeTransfers: number;
    readonly virtualSeconds: number;
  };
  readonly realSeconds: number;
  readonly synthSeconds: number;
}

export interface OperationReport {
  readonly operation: string;
  readonly status: OperationRecord["status"];
  /** From the request to the end: in virtual time, on machines by the wall clock. */
  readonly seconds: number;
  readonly timeline: readonly Milestone[];
  readonly awsCalls: number;
  readonly transitions: number;
  /** Of the workflow itself, without nodes and endpoint; list prices. */
  readonly dollars: number;
  readonly card?: FailureCard;
}

export interface Milestone {
  /** Since the request: in virtual time, on machines by the wall clock. */
  readonly atSeconds: number;
  readonly step: string;
  readonly detail: string;
  readonly tookSeconds?: number;
  readonly expectedSeconds?: number;
}

export interface LeftReport {
  readonly counts: readonly { readonly service: string; readonly kind: string; readonly count: number }[];
  /** Keys of objects that stay on purpose: the history of operations, snapshots, and the tokens that open them. */
  readonly kept: readonly string[];
}

export interface MachinesReport {
  /** etcd's own list of its members, asked with etcdctl on a server. */
  readonly etcd: EtcdList & { readonly askedOn: string };
  /** A request with the kubeconfig's own credentials through the load balancer. */
  readonly api: ApiProof;
  /** What the cloud had on this computer while the cluster was ready, and what of it is there at the end. */
  readonly computer?: { readonly counts: readonly { readonly kind: string; readonly whenReady: number; readonly now: number }[] };
}

/** The release that the examples ask for. */
export const exampleRelease = "v1.35.7+rke2r1";
const root = resolve(fileURLToPath(import.meta.url), "../..");
const width = 100;
const seconds = 1000;
const limitSeconds = 6 * 3600;

/** Fills a new account's artifact store with a release that stands in for RKE2's, for both architectures and every CNI. */
export function stockArtifactStore(world: World): void {
  seedWholeRelease(world.service<S3>("s3"), world.environment("ARTIFACT_BUCKET"), exampleRelease);
}

/** Runs the whole of it. Never rejects because of the cluster: the report says what went wrong. */
export async function demo(options: DemoOptions = {}): Promise<DemoReport> {
  const started = performance.now();
  const { seed = 1, outdir = resolve(root, "cdk.out") } = options;
  const nodes = options.nodes ?? "simulated";
  const file = options.file ?? exampleFor(nodes);
  const text = readFileSync(file, "utf8");
  const assembly = await ensureAssembly(outdir, { validate: false });
  const trace = options.trace === undefined ? undefined : openSync(options.trace, "w", 0o600);
  let stage: Stage | undefined;
  try {
    const boot = {
      assembly: assembly.directory,
      seed,
      ...(options.faults === undefined ? {} : { faults: options.faults }),
      ...(trace === undefined ? {} : { trace: (entry: TraceEntry) => void writeSync(trace, `${JSON.stringify(entry)}\n`) }),
    };
    stage = nodes === "machines" ? await stageOnMachines(boot, options) : stageOnSimulatedNodes(boot);
    const shown = relative(process.cwd(), file);
    const demonstration = new Demonstration(stage, { ...options, seed, shown: shown.startsWith("..") ? file : shown });
    const cluster = await demonstration.perform(text);
    await stage.close();
    const performed = demonstration.seeThatNothingIsLeftHere(cluster);
    const realSeconds = (performance.now() - started) / 1000;
    const report: DemoReport = { ...performed, realSeconds, synthSeconds: assembly.made ? assembly.seconds : 0 };
    options.write?.(closing(report, assembly.made, options.hasColour === true));
    return report;
  } finally {
    await stage?.close();
    if (trace !== undefined) closeSync(trace);
  }
}

const exampleFor = (nodes: NodeKind) => resolve(root, `examples/${nodes === "machines" ? "machines" : "ha"}.yaml`);

/** A world, and how its time passes. */
interface Stage {
  readonly world: World;
  /** Where the nodes are machines. */
  readonly machines: MachineWorld | undefined;
  /** Lets a second pass. */
  second(): Promise<void>;
  orBroken<T>(promise: Promise<T>): Promise<T>;
  close(): Promise<void>;
}

function stageOnSimulatedNodes(boot: BootOptions): Stage {
  const world = World.boot(boot);
  stockArtifactStore(world);
  return {
    world,
    machines: undefined,
    second: async () => void (await world.runFor({ seconds: 1 })),
    orBroken: (promise) => promise,
    close: async () => world.close(),
  };
}

async function stageOnMachines(boot: BootOptions, { say }: DemoOptions): Promise<Stage> {
  const machines = await bootOnMachines({ ...boot, releases: [exampleRelease], ...(say === undefined ? {} : { say }) });
  const { world, orBroken, close } = machines;
  return { world, machines, second: () => orBroken(new Promise((resolve) => void setTimeout(resolve, seconds))), orBroken, close };
}

type Performed = Omit<DemoReport, "realSeconds" | "synthSeconds">;

class Demonstration {
  readonly #screen: { readonly hasColour: boolean; readonly columns: number };
  private readonly world: World;
  /** What this computer had of the cloud when the create had ended. */
  #whenReady: ComputerCounts | undefined;

  constructor(
    private readonly stage: Stage,
    private readonly options: DemoOptions & { readonly seed: number; readonly shown: string },
  ) {
    this.#screen = { hasColour: options.hasColour === true, columns: width };
    this.world = stage.world;
  }

  async perform(text: string): Promise<Performed> {
    const { world, options } = this;
    const { machines } = this.stage;
    const { seed, shown: file } = options;
    const nodeKind = machines === undefined ? "simulated" : "machines";
    const begin = { schema: 1, seed, nodeKind, file, plan: [], warnings: [], nodes: [] } as const;
    this.#say(paint(this.#screen, "bold", "Drover: an RKE2 cluster on AWS, from one request until nothing is left of it"));
    this.#say(
      `${wrap(
        machines === undefined
          ? `All of it on this machine: the CloudFormation template as it would be deployed, its functions, roles and state machines, over simulated AWS services and nodes, in virtual time. Seed ${seed}.`
          : `All of it on this computer: the CloudFormation template as it would be deployed, its functions, roles and state machines, over simulated AWS services. The nodes are Debian machines booted here, with systemd, the real node scripts, a release that stands in for RKE2's, and real etcd. Times are the wall clock's; AWS's own delays are shortened. Seed ${seed}.`,
        width,
      ).join("\n")}`,
    );

    const startMs = world.clock.now();
    const asked = await this.#request("POST", "/clusters", { requestId: `demo-create-${seed}`, file: text });
    if (asked.status !== 202) return { ...begin, outcome: "failed", problem: this.#refused(`POST /clusters with ${file}`, asked) };
    const accepted = JSON.parse(asked.body) as Accepted;
    const known = { ...begin, plan: accepted.plan, warnings: accepted.warnings };
    this.#heading(`Plan for ${accepted.cluster}, from ${file}`);
    for (const line of accepted.plan) this.#say(`  ${wrap(line, width - 4).join("\n    ")}`);
    for (const { path, message } of accepted.warnings) this.#say(`  ${wrap(`Warning: ${path}: ${message}`, width - 4).join("\n    ")}`);

    const created = await this.#follow("create", accepted, startMs);
    const status = await this.#read<ClusterStatus>(`/clusters/${accepted.cluster}`);
    const size = sizeOf(status);
    const bound = this.#boundOf(status);
    const held = { lowerBound: bound, ...(created.status === "succeeded" ? { ratio: created.seconds / bound.LB } : {}) };
    const create = { ...created, ...(machines === undefined ? held : {}) };
    if (machines !== undefined) this.#whenReady = computerCounts(machines.cloud.name);
    if (created.status !== "succeeded") return { ...known, create, nodes: status.nodes, outcome: "failed", ...this.#card(created) };
    this.#showTime(created.seconds, machines === undefined ? bound : undefined, size);
    this.#showNodes(status.nodes);
    const etcd = machines === undefined ? undefined : await this.#showEtcd(machines, status.nodes);
    const { endpoint, kubeconfig, content } = await this.#showAccess(status);
    const proofs = etcd === undefined || machines === undefined ? {} : { machines: { etcd, api: await this.#showApi(machines, content) } };
    const ready = { ...known, create, nodes: status.nodes, endpoint, kubeconfig, ...proofs };

    const deletedAt = world.clock.now();
    const asking = await this.#request("DELETE", `/clusters/${accepted.cluster}`, { requestId: `demo-delete-${seed}`, confirm: accepted.cluster });
    if (asking.status !== 202) return { ...ready, outcome: "failed", problem: this.#refused(`DELETE /clusters/${accepted.cluster}`, asking) };
    const deleted = await this.#follow("delete", JSON.parse(asking.body) as Accepted, deletedAt);
    const left = this.#showLeft(status);
    const { functions, workflows, downloads } = callsMade(world);
    const virtualSeconds = (world.clock.now() - startMs) / seconds;
    const shortOf = machines === undefined ? undefined : this.#shortOf(size, ready.machines);
    const used = { awsCalls: functions, workflowTasks: workflows, nodeTransfers: downloads, virtualSeconds };
    const whole = { ...ready, delete: deleted, left, used };
    if (deleted.status !== "succeeded") return { ...whole, outcome: "failed", ...this.#card(deleted) };
    const found = left.counts.filter(({ count }) => count > 0).map(({ service, kind, count }) => `${count} ${kind} in ${service}`);
    if (found.length > 0) return { ...whole, outcome: "failed", problem: `of ${accepted.cluster} there are left: ${found.join(", ")}` };
    if (shortOf !== undefined) return { ...whole, outcome: "failed", problem: shortOf };
    return { ...whole, outcome: "ready and gone" };
  }

  /** What machines were to show and did not. */
  #shortOf({ servers, agents }: { servers: number; agents: number }, shown: MachinesReport | undefined): string | undefined {
    if (shown === undefined) return "nothing was seen of the machines";
    const voters = shown.etcd.members.filter(({ kind }) => kind === "voter").length;
    if (voters !== servers || shown.etcd.members.length !== servers) {
      return `etcd lists ${counted(shown.etcd.members.length, "member")}, ${voters} of them voters; expected ${servers} voters and nobody else`;
    }
    const { status, statusWithoutCertificate, nodes } = shown.api;
    if (status !== 200) return `${shown.api.url} was answered with ${status} through the load balancer; expected 200`;
    if (statusWithoutCertificate !== 401) return `${shown.api.url} was answered with ${statusWithoutCertificate} to a stranger; expected 401`;
    const readyNodes = nodes.filter(({ ready }) => ready).length;
    if (readyNodes !== servers + agents) return `the Kubernetes API lists ${readyNodes} Ready of ${nodes.length} nodes; expected ${servers + agents}`;
    return undefined;
  }

  /** Once everything is closed: this computer, asked for what the machines had on it. */
  seeThatNothingIsLeftHere(performed: Performed): Performed {
    const { machines } = this.stage;
    const whenReady = this.#whenReady;
    if (machines === undefined || whenReady === undefined) return performed;
    const now = computerCounts(machines.cloud.name);
    const counts = Object.entries(whenReady).map(([kind, count]) => ({ kind, whenReady: count, now: now[kind as keyof ComputerCounts] }));
    this.#heading("What is left on this computer: it was asked for everything that carries the cloud's name");
    this.#say(
      indented(
        table(
          ["kind", "when ready", "left"],
          counts.map((each) => [each.kind, String(each.whenReady), String(each.now)]),
        ),
      ),
    );
    const whole = performed.machines === undefined ? performed : { ...performed, machines: { ...performed.machines, computer: { counts } } };
    const left = tracesOf(machines.cloud.name);
    return left.length === 0 ? whole : { ...whole, outcome: "failed", problem: `left on this computer: ${left.join(", ")}` };
  }

  async #request(...request: Parameters<World["request"]>): Promise<ApiResponse> {
    return await this.stage.orBroken(this.world.request(...request));
  }

  /** Seconds between two times as they passed here: what passed at once does not count. */
  #secondsBetween(startMs: number, endMs: number): number {
    const { clock } = this.world;
    return (endMs - clock.skippedUntil(endMs) - (startMs - clock.skippedUntil(startMs))) / seconds;
  }

  // ---------------------------------------------------------------------------------------------------------------- operations

  /** Runs until the operation has ended, and tells of each milestone when it is met. */
  async #follow(kind: OperationKind, accepted: Accepted, startMs: number): Promise<OperationReport> {
    const { world } = this;
    const before = this.#spent();
    const sfn = world.service<Sfn>("sfn");
    const timeline: Milestone[] = [];
    let operation = this.#record(accepted);
    const size = this.#sizeNow(accepted.cluster);
    this.#heading(`${kind === "create" ? "Create" : "Delete"}: ${accepted.operation}`);
    const isReal = this.stage.machines !== undefined;
    this.#say(milestoneLine(isReal ? ["time", "step", "what"] : ["time", "step", "took", "usual", "what"]));
    const tell = () => {
      for (const [index, { name, at, detail }] of operation.steps.entries()) {
        if (index < timeline.length) continue;
        // As it stood when this milestone was met: later ones of the same step do not count yet.
        const then = { ...operation, status: "running" as const, steps: operation.steps.slice(0, index + 1) };
        const step = courseOf(then, size, Date.parse(at)).steps.find((each) => each.name === name);
        const milestone: Milestone = {
          atSeconds: this.#secondsBetween(startMs, Date.parse(at)),
          step: name,
          detail,
          // What is usual at AWS says nothing about machines on this computer.
          ...(isReal || step?.elapsedSeconds === undefined ? {} : { tookSeconds: step.elapsedSeconds }),
          ...(isReal || step === undefined ? {} : { expectedSeconds: step.expectedSeconds }),
        };
        timeline.push(milestone);
        this.#say(timelineText(milestone, isReal));
      }
    };
    const hasEnded = () => operation.status === "succeeded" || operation.status === "failed";
    while (!(hasEnded() && sfn.running().length === 0)) {
      if (world.clock.now() > startMs + limitSeconds * seconds) throw new Error(`${accepted.operation} did not end within ${limitSeconds / 3600} h`);
      await this.stage.second();
      operation = this.#record(accepted);
      tell();
    }
    const after = this.#spent();
    return {
      operation: operation.id,
      status: operation.status,
      seconds: this.#secondsBetween(startMs, Date.parse(operation.endedAt ?? "")),
      // Told as they were recorded; steps side by side record theirs in any order, milliseconds apart.
      timeline: timeline.sort((a, b) => a.atSeconds - b.atSeconds),
      awsCalls: after.calls - before.calls,
      transitions: after.transitions - before.transitions,
      dollars: after.dollars - before.dollars,
      ...(operation.card === undefined ? {} : { card: operation.card }),
    };
  }

  /** Read as the account's owner, so that looking on is not counted among the calls. */
  #record({ cluster, operation }: Accepted): OperationRecord {
    return this.#stored<OperationRecord>(stateKeys.operation(cluster, operation));
  }

  #sizeNow(cluster: string): { servers: number; agents: number } {
    return sizeOf({ record: this.#stored<ClusterStatus["record"]>(stateKeys.record(cluster)) });
  }

  #stored<T>(key: string): T {
    const bytes = this.world.service<S3>("s3").read(this.world.environment("STATE_BUCKET"), key);
    if (bytes === undefined) throw new Error(`the state bucket has no ${key}`);
    return JSON.parse(bytes.toString("utf8")) as T;
  }

  #spent(): { readonly calls: number; readonly transitions: number; readonly dollars: number } {
    const usage = paidUsage(this.world);
    return { calls: callsMade(this.world).functions, transitions: usage.transitions, dollars: createCost(usage).dollars };
  }

  async #read<T>(path: string): Promise<T> {
    const answer = await this.#request("GET", path);
    if (answer.status !== 200) throw new Error(`GET ${path} was answered with ${answer.status}: ${answer.body}`);
    return JSON.parse(answer.body) as T;
  }

  /** The model's bound, with Ubuntu's slower way to SSM where the image is Ubuntu's. */
  #boundOf({ record }: ClusterStatus): LowerBound {
    const isUbuntu = fixtureImages.find(({ id }) => id === record.resolved.imageId)?.platform === "ubuntu";
    const steps = (name: LatencyStepName) => model.steps[isUbuntu && name === "runningToSsmOnline" ? "runningToSsmOnlineUbuntu" : name].p50;
    return lowerBound({ ...sizeOf({ record }), steps });
  }

  // --------------------------------------------------------------------------------------------------------------------- text

  #say(text: string): void {
    this.options.write?.(`${text}\n`);
  }

  #heading(text: string): void {
    this.#say(`\n${paint(this.#screen, "bold", text)}`);
  }

  #refused(what: string, { status, body }: ApiResponse): string {
    const problem = `${what} was answered with ${status}`;
    this.#heading(problem);
    const error = JSON.parse(body) as Partial<ApiError>;
    for (const line of wrap(`${error.message ?? body}. ${error.next ?? ""}`, width - 2)) this.#say(`  ${line}`);
    for (const { path, message } of error.faults ?? []) this.#say(`  - ${wrap(`${path}: ${message}`, width - 4).join("\n    ")}`);
    return `${problem}: ${error.message ?? body}`;
  }

  #card({ operation, card }: OperationReport): { problem?: string } {
    if (card === undefined) return { problem: `${operation} failed and left no failure card` };
    this.#say(`\n${cardText(card, this.#screen).trimEnd()}`);
    return {};
  }

  #showTime(took: number, bound: LowerBound | undefined, { servers, agents }: { servers: number; agents: number }): void {
    if (bound === undefined) {
      this.#heading(`Ready in ${clockTime(took)} by the wall clock`);
      return;
    }
    const critical =
      bound.LB === bound.E
        ? "the load balancer's targets are healthy"
        : bound.LB === bound.K
          ? "the control plane's pods run"
          : "the last agent is Ready";
    this.#heading(`Ready in ${clockTime(took)}`);
    this.#say(
      `  ${wrap(
        `${(took / bound.LB).toFixed(2)} times ${clockTime(bound.LB)}, in which AWS and RKE2 can have ${counted(servers, "server")} and ${counted(agents, "agent")} ready at their median pace; it is then that ${critical}. This run drew its own latencies, so its luck is in the ratio too.`,
        width - 2,
      ).join("\n  ")}`,
    );
  }

  #showNodes(nodes: readonly NodeStatus[]): void {
    this.#heading("Nodes");
    const rows = nodes.map(({ name, role, zone, instanceType, address, state }) => [name, role, zone, instanceType, address, state]);
    this.#say(indented(table(["name", "role", "zone", "type", "address", "state"], rows)));
  }

  async #showEtcd(machines: MachineWorld, nodes: readonly NodeStatus[]): Promise<MachinesReport["etcd"]> {
    const server = nodes.find(({ role }) => role === "server");
    if (server === undefined) throw new Error("the cluster has no server");
    const list = await this.stage.orBroken(etcdMembers(machines.driver, server.instanceId));
    this.#heading(`etcd's own list of its members: etcdctl member list, etcd ${list.version}`);
    this.#say(
      indented(
        table(
          ["id", "member", "peer", "is a"],
          list.members.map(({ id, name, peer, kind }) => [id, name, peer, kind]),
        ),
      ),
    );
    return { askedOn: server.name, ...list };
  }

  async #showApi(machines: MachineWorld, kubeconfig: string): Promise<ApiProof> {
    const proof = await this.stage.orBroken(askThroughEndpoint(machines.cloud, kubeconfig));
    const readyNodes = proof.nodes.filter(({ ready }) => ready).length;
    this.#heading("The Kubernetes API through the load balancer, with the kubeconfig");
    this.#say(`  GET ${new URL(proof.url).pathname} of the endpoint`);
    this.#say(
      `  ${proof.status}: ${counted(proof.nodes.length, "node")}, ${readyNodes} Ready; without its client certificate ${proof.statusWithoutCertificate}`,
    );
    return proof;
  }

  async #showAccess({ record }: ClusterStatus): Promise<Required<Pick<DemoReport, "endpoint" | "kubeconfig">> & { readonly content: string }> {
    const { name, uid, secrets } = record;
    const dnsName = record.endpoint?.dnsName ?? "";
    const endpoint = { dnsName, apiPort: ports.api, registrationPort: ports.supervisor };
    const { kubeconfig: content } = await this.#read<{ kubeconfig: string }>(`/clusters/${name}/kubeconfig`);
    const server = /^\s*server:\s*(\S+)/m.exec(content)?.[1] ?? "";
    const bucket = this.world.environment("STATE_BUCKET");
    const kubeconfig = { command: `drover kubeconfig ${name}`, bucket, key: stateKeys.secret(uid, "kubeconfig", secrets.kubeconfig), server };
    this.#heading("Endpoint");
    this.#say(`  ${dnsName}`);
    this.#say(`  ports ${ports.api} (Kubernetes API) and ${ports.supervisor} (nodes that join)`);
    this.#heading("Kubeconfig");
    this.#say(`  $ ${kubeconfig.command}`);
    this.#say(`  server: ${server}`);
    this.#say(`  kept encrypted, s3://${bucket}/`);
    this.#say(`  ${kubeconfig.key}`);
    return { endpoint, kubeconfig, content };
  }

  // --------------------------------------------------------------------------------------------------------- nothing is left

  /** Asks the services themselves, as the account's owner, and not Drover. */
  #showLeft({ record }: ClusterStatus): LeftReport {
    const { name, uid } = record;
    const tagged = { Filters: [{ Name: `tag:${tags.uid}`, Values: [uid] }] };
    const network = { Filters: [{ Name: "vpc-id", Values: [record.wanted.spec.network.vpcId] }] };
    const ec2 = (operation: string, input: Record<string, unknown>, member: string) => listOf(this.#ask("ec2", operation, input)[member]);
    const balancing = (operation: string, member: string) => listOf(this.#ask("elastic-load-balancing-v2", operation, {})[member]);
    const instances = ec2("DescribeInstances", tagged, "Reservations").flatMap((reservation) =>
      listOf((reservation as { Instances?: unknown }).Instances),
    );
    const isThere = (instance: unknown) => (instance as { State?: { Name?: string } }).State?.Name !== "terminated";
    const keys = this.#keys("STATE_BUCKET");
    const snapshots = this.#keys("SNAPSHOT_BUCKET").filter((key) => key.startsWith(snapshotKeys.cluster(uid)));
    const under = (prefix: string) => keys.filter((key) => key.startsWith(prefix));
    const kept = under(stateKeys.clusterPrefix(name));
    const isHistory = (key: string) => key.startsWith(stateKeys.operations(name));
    const opening =
      snapshots.length === 0 ? [] : [...under(stateKeys.secretsOf(uid, "server-token")), ...under(stateKeys.secretsOf(uid, "agent-token"))];
    const count = (service: string, kind: string, found: readonly unknown[]) => ({ service, kind, count: found.length });
    const counts = [
      count("EC2", "instances", instances.filter(isThere)),
      count("EC2", "network interfaces", ec2("DescribeNetworkInterfaces", network, "NetworkInterfaces")),
      count("EC2", "security groups", ec2("DescribeSecurityGroups", tagged, "SecurityGroups")),
      count("EBS", "volumes", ec2("DescribeVolumes", tagged, "Volumes")),
      count("ELB", "load balancers", balancing("DescribeLoadBalancers", "LoadBalancers")),
      count("ELB", "target groups", balancing("DescribeTargetGroups", "TargetGroups")),
      count(
        "S3",
        "secrets that open no snapshot",
        under(stateKeys.secrets(uid)).filter((key) => !opening.includes(key)),
      ),
      count("S3", "files on their way to or from nodes", [...under(stateKeys.deliveries(uid)), ...under(stateKeys.uploads(uid))]),
      count("S3", "task tokens of waiting steps", under("callbacks/")),
      count(
        "S3",
        "records, leases, plans",
        kept.filter((key) => !isHistory(key)),
      ),
    ];
    this.#heading(`What is left of ${name}: EC2, EBS, ELB and S3 were asked for it`);
    this.#say(
      indented(
        table(
          ["service", "kind", "left"],
          counts.map(({ service, kind, count: found }) => [service, kind, String(found)]),
        ),
      ),
    );
    const history = kept.filter(isHistory);
    for (const [what, found] of [
      ["the history of its operations", history],
      ["its snapshots", snapshots],
      ["the tokens that open them", opening],
    ] as const) {
      this.#say(`  Kept on purpose, ${what}:`);
      for (const key of found) this.#say(`  ${key}`);
    }
    return { counts, kept: [...history, ...snapshots, ...opening] };
  }

  #keys(bucket: "STATE_BUCKET" | "SNAPSHOT_BUCKET"): string[] {
    const found: string[] = [];
    let token: unknown;
    do {
      const page = this.#ask("s3", "ListObjectsV2", {
        Bucket: this.world.environment(bucket),
        ...(token === undefined ? {} : { ContinuationToken: token }),
      });
      found.push(...listOf(page.Contents).map((each) => (each as { Key: string }).Key));
      token = page.NextContinuationToken;
    } while (token !== undefined);
    return found;
  }

  #ask(service: string, operation: string, input: Record<string, unknown>): Readonly<Record<string, unknown>> {
    const origin = { principal: `arn:aws:iam::${this.world.account}:user/operator`, name: owner, enforced: false };
    return this.world.calls.callNow(service, operation, input, origin) as Readonly<Record<string, unknown>>;
  }
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function sizeOf({ record }: Pick<ClusterStatus, "record">): { servers: number; agents: number } {
  const { servers, agentPools } = record.wanted.spec;
  return { servers: servers.count, agents: agentPools.reduce((sum, { count }) => sum + count, 0) };
}

function indented(text: string): string {
  return text
    .trimEnd()
    .split("\n")
    .map((line) => `  ${line}`)
    .join("\n");
}

/** Time and step, what the step took and what it usually takes where that is known, and what happened. */
function milestoneLine([time = "", step = "", ...rest]: readonly string[]): string {
  const what = rest.at(-1) ?? "";
  const durations = rest.slice(0, -1).map((text) => `${text.padStart(5)}  `);
  return `${time.padStart(6)}  ${step.padEnd(19)} ${durations.join("")}${what}`.trimEnd();
}

function timelineText({ atSeconds, step, detail, tookSeconds, expectedSeconds }: Milestone, isReal: boolean): string {
  const time = (value: number | undefined) => (value === undefined ? "" : clockTime(value));
  const cells = [clockTime(atSeconds), step, ...(isReal ? [] : [time(tookSeconds), time(expectedSeconds)])];
  const column = milestoneLine([...cells, "|"]).length - 1;
  // The endpoint's name is as long as the column; it is shown on its own.
  const short = detail.replace(/\S+\.elb\.\S+\.amazonaws\.com/g, "the endpoint");
  const [first = "", ...more] = wrap(short, width - column);
  return [milestoneLine([...cells, first]), ...more.map((line) => `${" ".repeat(column)}${line}`)].join("\n");
}

function closing(report: DemoReport, made: boolean, hasColour: boolean): string {
  const { create, used, realSeconds, synthSeconds } = report;
  const lines: string[] = [];
  const synth = made ? `, ${synthSeconds.toFixed(1)} s of it to synthesize the template` : "";
  if (create !== undefined && used !== undefined) {
    lines.push(
      `  The create: ${counted(create.awsCalls, "AWS call")}, ${counted(create.transitions, "state transition")}, $${create.dollars.toFixed(4)} for the workflow at list prices.`,
      `  In all: ${counted(used.awsCalls, "AWS call")} by functions, ${counted(used.nodeTransfers, "file")} to or from nodes${report.nodeKind === "machines" ? "" : `, ${clockTime(used.virtualSeconds)} of virtual time`}.`,
    );
  }
  lines.push(`  ${report.outcome === "failed" ? "Failed" : "Done"} after ${realSeconds.toFixed(1)} s of real time${synth}.`);
  const problem =
    report.outcome === "failed" && report.problem !== undefined ? [`  ${wrap(`Failed: ${report.problem}`, width - 2).join("\n  ")}`] : [];
  return `\n${paint({ hasColour }, "bold", "Figures")}\n${[...lines, ...problem].join("\n")}\n`;
}

// ----------------------------------------------------------------------------------------------------------------- command line

const help = `Creates a cluster in the local cloud, shows it, deletes it, and proves that nothing is left.

  npm run demo
  npm run demo -- --nodes machines
  npm run demo -- --file examples/ha.yaml
  npm run demo -- --seed 7 --trace calls.jsonl
  npm run demo -- --json

  --nodes KIND   machines: Debian machines booted on this computer, real etcd, real time; Linux as root
                 simulated: anywhere, in virtual time
                 (default machines where they can run, else simulated)
  --file FILE    cluster file (default examples/machines.yaml on machines, else examples/ha.yaml);
                 it must fit the local cloud's network and images
  --seed N       whole number that decides every latency and id (default 1)
  --trace FILE   write every AWS call as a line of JSON: service, operation, input, output, function, role, virtual time
  --json         one JSON document on stdout
  --help         this text

Exit codes: 0 ready and gone, 1 failed, 2 wrong use, or no machines where they were asked for
`;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      nodes: { type: "string" },
      file: { type: "string" },
      seed: { type: "string", default: "1" },
      trace: { type: "string" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return 0;
  }
  if (!/^\d{1,15}$/.test(values.seed)) throw new WrongUse(`--seed takes a whole number from 0 up, not ${values.seed}`);
  const say = (line: string) => void process.stderr.write(`${line}\n`);
  const file = values.file === undefined ? undefined : resolve(values.file);
  const nodes = chooseNodes(values.nodes, file, say);
  const report = await demo({
    seed: Number(values.seed),
    nodes,
    say,
    ...(file === undefined ? {} : { file }),
    ...(values.trace === undefined ? {} : { trace: values.trace }),
    ...(values.json ? {} : { write: (text: string) => void process.stdout.write(text) }),
    hasColour: process.stdout.isTTY === true && (process.env.NO_COLOR ?? "") === "",
  });
  if (values.json) process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
  return report.outcome === "failed" ? 1 : 0;
}

/** As asked for; otherwise machines where they can run. Says which, when nobody asked. */
function chooseNodes(asked: string | undefined, file: string | undefined, say: (line: string) => void): NodeKind {
  if (asked !== undefined && asked !== "simulated" && asked !== "machines") {
    throw new WrongUse(`--nodes takes simulated or machines, not ${asked}`);
  }
  if (asked === "simulated") return asked;
  const missing = whyNoMachines(file ?? exampleFor("machines"));
  if (asked === "machines") {
    if (missing !== undefined) throw new Missing(missing);
    return asked;
  }
  say(missing === undefined ? "Nodes are machines booted here (--nodes simulated for virtual time)" : `Nodes are simulated. ${missing}`);
  return missing === undefined ? "machines" : "simulated";
}

/** One line, or undefined when the machines of the file can run here. */
function whyNoMachines(file: string): string | undefined {
  const support = machineWorldSupport();
  if (!support.ok) return support.missing;
  const spec = validateCluster(readFileSync(file, "utf8")).file?.spec;
  // What is wrong with the file is the API's to say.
  if (spec === undefined) return undefined;
  const { architecture } = spec.image;
  const here = process.arch === "arm64" ? "arm64" : "amd64";
  if (architecture !== here) {
    return `Machines of ${relative(process.cwd(), file)} are ${architecture}, and this computer is ${here}. Change spec.image, or use --nodes simulated`;
  }
  return whyNoRoom(spec.servers.count + spec.agentPools.reduce((sum, { count }) => sum + count, 0), freemem());
}

class WrongUse extends Error {}
/** Asked for in a way that this computer cannot do. */
class Missing extends Error {}

/** What a person typed wrong, or what the machine refused, in one line; anything else with its place in the code. */
function told(error: unknown): { readonly text: string; readonly exitCode: 1 | 2 } {
  if (!(error instanceof Error)) return { text: String(error), exitCode: 1 };
  if (error instanceof RootFailed) return { text: error.message, exitCode: 1 };
  if (error instanceof Missing) return { text: error.message, exitCode: 2 };
  const code = (error as NodeJS.ErrnoException).code ?? "";
  if (error instanceof WrongUse || code.startsWith("ERR_PARSE_ARGS")) return { text: `${error.message}\nSee: npm run demo -- --help`, exitCode: 2 };
  return { text: /^E[A-Z]+$/.test(code) ? error.message : (error.stack ?? error.message), exitCode: 1 };
}

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === resolve(process.argv[1])) {
  process.exitCode = await main().catch((error: unknown) => {
    const { text, exitCode } = told(error);
    process.stderr.write(`${text}\n`);
    return exitCode;
  });
}
