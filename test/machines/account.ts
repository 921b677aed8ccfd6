/**
 * An account on booted machines: what people ask of it, what strikes it in the middle, and what is really there afterwards.
 *
 * One cluster lives in an account, so that a second bootstrap anywhere on its machines shows as a second cluster.
 */
import { readFileSync } from "node:fs";
import { expect } from "vitest";
import type { Accepted, ApiError, ClusterStatus, NodeStatus, RestoreAccepted } from "../../core/api.js";
import { artifactKeys, endpointNames, nodeName, stateKeys } from "../../core/layout.js";
import type { NodeCommandName } from "../../core/node-commands.js";
import type { ClusterRecord, FailureCard, OperationRecord } from "../../core/records.js";
import type { Ec2, InstanceFacts } from "../../local/aws/ec2.js";
import type { ElasticLoadBalancingV2 } from "../../local/aws/elastic-load-balancing-v2.js";
import type { S3 } from "../../local/aws/s3.js";
import type { Sfn } from "../../local/aws/sfn.js";
import type { ObservedCluster } from "../../local/nodes/contract.js";
import { askThroughEndpoint, computerCounts, etcdMembers } from "../../local/nodes/machines/proofs.js";
import { tracesOf } from "../../local/nodes/machines/traces.js";
import { bootOnMachines, type MachineWorld } from "../../local/nodes/machines/world.js";
import { until } from "./bench.js";
import { type TestKeys, testKeys } from "./test-keys.js";

export const release = "v1.35.7+rke2r1";
const architecture = process.arch === "arm64" ? "arm64" : "amd64";

/** Files of the release that a server fetches. */
export const archives = {
  bundle: `rke2.linux-${architecture}.tar.gz`,
  images: `rke2-images.linux-${architecture}.tar.zst`,
  checksums: `sha256sum-${architecture}.txt`,
} as const;

/** A cluster file for the local cloud's network: servers in three zones, agents of one pool. */
export function clusterFile(name: string, servers: number, agents: number): string {
  return `apiVersion: drover.dev/v1
kind: Cluster
metadata: { name: ${name} }
spec:
  version: ${release}
  servers: { count: ${servers}, instanceTypes: [m6i.xlarge] }
  agentPools: [{ name: workers, count: ${agents}, instanceTypes: [m6i.large] }]
  image:
    ssmParameter: /aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id
    architecture: amd64
  network:
    vpcId: vpc-0a1b2c3d4e5f60718
    subnetIds: [subnet-0aaa1111bbbb2222c, subnet-0bbb2222cccc3333d, subnet-0ccc3333dddd4444e]
    endpoint: { scheme: internal, allowedCidrs: [10.0.0.0/16] }
  protection: { delete: false }
`;
}

/** A Task state of a workflow, and the name of the function that is behind it, where one is. */
export interface TaskState {
  readonly name: string;
  readonly function: string | undefined;
}

interface AslState {
  readonly Type: string;
  readonly Arguments?: { readonly FunctionName?: string };
  readonly Branches?: readonly AslMachine[];
  readonly ItemProcessor?: AslMachine;
}
interface AslMachine {
  readonly States: Readonly<Record<string, AslState>>;
}

/** Every Task state of a workflow, those inside of others too, as the ASL file has them. */
export function taskStatesOf(workflow: string): TaskState[] {
  const file = new URL(`../../statemachines/${workflow}.asl.json`, import.meta.url);
  const inside = (machine: AslMachine): TaskState[] =>
    Object.entries(machine.States).flatMap(([name, state]) => [
      ...(state.Type === "Task" ? [{ name, function: functionNamed(state.Arguments?.FunctionName) }] : []),
      ...(state.Branches ?? []).flatMap(inside),
      ...(state.ItemProcessor === undefined ? [] : inside(state.ItemProcessor)),
    ]);
  return inside(JSON.parse(readFileSync(file, "utf8")) as AslMachine);
}

/** `${RunNodeCommandFunction}` is deployed as drover-run-node-command. */
function functionNamed(placeholder = ""): string | undefined {
  const [, name] = /^\$\{(\w+)Function\}$/.exec(placeholder) ?? [];
  return name === undefined ? undefined : `drover${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

interface SentCommand {
  readonly DocumentName?: string;
  readonly InstanceIds?: readonly string[];
  readonly Parameters?: Readonly<Record<string, readonly string[]>>;
}

/** A node command as it was sent. */
export interface Sent {
  readonly command: NodeCommandName;
  readonly document: string;
  readonly instanceIds: readonly string[];
  readonly parameters: Readonly<Record<string, string>>;
}

/** Within so many seconds every operation of these tests has come to its end. */
const operationLimitSeconds = 400;

export class Account {
  readonly sent: Sent[] = [];
  readonly #machines: MachineWorld;
  readonly #waiting = new Set<{ readonly isIt: (sent: Sent) => boolean; readonly go: (sent: Sent) => void }>();
  /** Told of every state that any execution enters or leaves. */
  readonly #watching = new Set<(execution: string, type: string, state: string) => void>();
  readonly #read = new Map<string, number>();
  /** How often the end of an operation was announced as a failure. */
  readonly #announced = new Map<string, number>();
  readonly #spoilt = new Map<string, Buffer>();
  #requests = 0;

  private constructor(machines: MachineWorld) {
    this.#machines = machines;
    const { world } = machines;
    world.onCall(({ operation, input, error }) => {
      if (error !== undefined) return;
      if (operation === "SendCommand") this.#noteCommand(input as SentCommand);
      if (operation === "PutEvents") this.#noteEvents(input as { Entries?: readonly { DetailType?: string; Detail?: string }[] });
    });
    world.afterEachStep(() => this.#readHistories());
  }

  static async open(): Promise<Account> {
    return new Account(await bootOnMachines({ assembly: "cdk.out", seed: 1, releases: [release] }));
  }

  get world() {
    return this.#machines.world;
  }
  get driver() {
    return this.#machines.driver;
  }
  get cloud() {
    return this.#machines.cloud;
  }

  // ----------------------------------------------------------------------------------------------------------------- people

  get #person() {
    return { principal: `arn:aws:iam::${this.world.account}:user/operator`, name: "person", enforced: false };
  }

  async begin(file: string): Promise<OperationRecord> {
    return await this.#ask("POST", "/clusters", { file });
  }

  /** Creates, or goes on creating, and waits for the end. */
  async create(file: string): Promise<OperationRecord> {
    return await this.ended(await this.begin(file));
  }

  /** Creates, and does something meanwhile; what waits for something that never comes fails with how the create ended. */
  async createWhile(file: string, act: () => Promise<void>): Promise<OperationRecord> {
    let isDone = false;
    const acting = act().then(() => {
      isDone = true;
    });
    const ended = this.create(file);
    const tooEarly = ended.then(({ id, status, card }) => {
      if (!isDone) throw new Error(`${id} ended as ${status} before all was done to it that was to be done: ${JSON.stringify(card)}`);
    });
    await Promise.race([acting, tooEarly]);
    return await ended;
  }

  async delete(cluster: string): Promise<OperationRecord> {
    return await this.ended(await this.#ask("DELETE", `/clusters/${cluster}`, { confirm: cluster }));
  }

  async backup(cluster: string): Promise<OperationRecord> {
    return await this.ended(await this.#ask("POST", `/clusters/${cluster}/snapshots`, {}));
  }

  async restore(cluster: string, body: object = {}): Promise<OperationRecord> {
    return await this.ended(await this.#ask("POST", `/clusters/${cluster}/restore`, { confirm: cluster, ...body }));
  }

  /** What a restore would do and lose. */
  async preview(cluster: string, body: object = {}): Promise<RestoreAccepted> {
    const asked = { requestId: `preview-${++this.#requests}`, confirm: "", preview: true, ...body };
    const answer = await this.#machines.orBroken(this.world.request("POST", `/clusters/${cluster}/restore`, asked));
    expect(answer.status, answer.body).toBe(200);
    return JSON.parse(answer.body) as RestoreAccepted;
  }

  async read<T>(path: string): Promise<T> {
    const { status, body } = await this.#machines.orBroken(this.world.request("GET", path));
    expect(status, `GET ${path}: ${body}`).toBe(200);
    return JSON.parse(body) as T;
  }

  async #ask(method: string, path: string, body: object): Promise<OperationRecord> {
    this.#requests++;
    const answer = await this.#machines.orBroken(this.world.request(method, path, { requestId: `request-${this.#requests}`, ...body }));
    if (answer.status !== 202) {
      const { message, faults } = JSON.parse(answer.body) as ApiError;
      throw new Error(`${method} ${path} was answered with ${answer.status}: ${message} ${JSON.stringify(faults)}`);
    }
    const { cluster, operation } = JSON.parse(answer.body) as Accepted;
    return this.#stored<OperationRecord>(stateKeys.operation(cluster, operation)) as OperationRecord;
  }

  /** The operation once its execution has ended, how it ended is written down, and the cluster is free. */
  async ended({ cluster, id, execution }: OperationRecord): Promise<OperationRecord> {
    const look = () => {
      const operation = this.#stored<OperationRecord>(stateKeys.operation(cluster, id)) as OperationRecord;
      const runs = this.world.service<Sfn>("sfn").execution(execution)?.status === "RUNNING";
      return { operation, runs, isLeased: this.#stored(stateKeys.lease(cluster)) !== undefined };
    };
    const { operation } = await this.until(
      operationLimitSeconds,
      look,
      (seen) => ["succeeded", "failed"].includes(seen.operation.status) && !seen.runs && !seen.isLeased,
    );
    return operation;
  }

  record(cluster: string): ClusterRecord {
    const record = this.#stored<ClusterRecord>(stateKeys.record(cluster));
    if (record === undefined) throw new Error(`there is no record of ${cluster}`);
    return record;
  }

  #stored<T>(key: string): T | undefined {
    const bytes = this.s3.read(this.bucket("STATE_BUCKET"), key);
    return bytes === undefined ? undefined : (JSON.parse(bytes.toString("utf8")) as T);
  }

  get s3(): S3 {
    return this.world.service<S3>("s3");
  }

  /** Changes a file of the release in the artifact store, by a byte in its middle unless told otherwise. */
  spoil(archive: string, change?: (content: Buffer) => Buffer): void {
    this.#spoil(this.bucket("ARTIFACT_BUCKET"), artifactKeys.file(release, architecture, archive), change ?? flipByte);
  }

  /** Puts it back as it was. */
  mend(archive: string): void {
    this.#mend(this.bucket("ARTIFACT_BUCKET"), artifactKeys.file(release, architecture, archive));
  }

  /** Somebody puts another token in the place of a cluster's own; what has it already keeps it. */
  spoilSecret(cluster: string, kind: "server-token" | "agent-token"): void {
    this.#spoil(this.bucket("STATE_BUCKET"), this.#secret(cluster, kind), () => Buffer.from(JSON.stringify({ value: "0123456789abcdef".repeat(4) })));
  }
  mendSecret(cluster: string, kind: "server-token" | "agent-token"): void {
    this.#mend(this.bucket("STATE_BUCKET"), this.#secret(cluster, kind));
  }
  #secret(cluster: string, kind: "server-token" | "agent-token"): string {
    const { uid, secrets } = this.record(cluster);
    return stateKeys.secret(uid, kind, secrets[kind]);
  }

  /** A secret of the cluster in the generation that is in use. */
  secret(cluster: string, kind: "server-token" | "agent-token"): string {
    const content = this.s3.read(this.bucket("STATE_BUCKET"), this.#secret(cluster, kind));
    return (JSON.parse(content?.toString("utf8") ?? "{}") as { value?: string }).value ?? "";
  }
  /** Another generation of it, which is in use from now on. */
  addSecret(cluster: string, kind: "server-token" | "agent-token", value: string): void {
    const { world } = this;
    const record = this.record(cluster);
    const generation = record.secrets[kind] + 1;
    const put = (Key: string, content: object, more: object = {}) =>
      world.calls.callNow(
        "s3",
        "PutObject",
        { Bucket: this.bucket("STATE_BUCKET"), Key, Body: Buffer.from(JSON.stringify(content)), ...more },
        this.#person,
      );
    const encrypted = { ServerSideEncryption: "aws:kms", SSEKMSKeyId: world.environment("SECRETS_KEY_ARN") };
    put(stateKeys.secret(record.uid, kind, generation), { value }, encrypted);
    put(stateKeys.record(cluster), { ...record, secrets: { ...record.secrets, [kind]: generation } });
  }

  #spoil(bucket: string, key: string, change: (content: Buffer) => Buffer): void {
    const content = this.s3.read(bucket, key);
    if (content === undefined) throw new Error(`${bucket} has no ${key}`);
    const changed = change(content);
    expect(changed.equals(content), `${key} was changed`).toBe(false);
    this.#spoilt.set(key, content);
    this.s3.put(bucket, key, changed);
  }
  #mend(bucket: string, key: string): void {
    const content = this.#spoilt.get(key);
    if (content === undefined) throw new Error(`${key} is as it was`);
    this.s3.put(bucket, key, content);
    this.#spoilt.delete(key);
  }

  /** What the functions of the template know under this name. */
  bucket(variable: "STATE_BUCKET" | "ARTIFACT_BUCKET"): string {
    return this.world.environment(variable);
  }

  /** The one card of an operation that failed because of a node: which node, why, and announced once. */
  expectCard(operation: OperationRecord, wanted: { readonly instanceId: string; readonly code: string; readonly says: RegExp }): void {
    const { card } = operation;
    expect(operation).toMatchObject({ status: "failed", card: { failure: "NodeCommandFailed", node: { instanceId: wanted.instanceId } } });
    const { what, runbook } = card as FailureCard;
    expect({ what, runbook }).toEqual({
      what: expect.stringMatching(wanted.says),
      runbook: `docs/runbook.md#${wanted.code.toLowerCase()}`,
    });
    expect(what).toContain(wanted.code);
    expect(this.#announced.get(operation.id)).toBe(1);
  }

  // --------------------------------------------------------------------------------------------------------------- machines

  /** Machines of the cluster that EC2 has, servers first, each by slot. */
  async nodes(cluster: string, role?: "server" | "agent"): Promise<readonly NodeStatus[]> {
    const { nodes } = await this.read<{ nodes: readonly NodeStatus[] }>(`/clusters/${cluster}`);
    const sorted = [...nodes].sort((a, b) => b.role.localeCompare(a.role) || a.slot - b.slot);
    return sorted.filter((node) => role === undefined || node.role === role);
  }

  get living(): readonly InstanceFacts[] {
    return this.world.service<Ec2>("ec2").living();
  }

  /** Runs a shell in a machine; fails with what it says when its status is not 0. */
  async sh(instanceId: string, script: string): Promise<string> {
    const { status, stdout, stderr } = await this.driver.exec(instanceId, ["sh", "-c", script]);
    if (status !== 0) throw new Error(`status ${status} of: ${script}\n${stdout}${stderr}`);
    return stdout.trim();
  }

  async until<T>(seconds: number, ask: () => T | Promise<T>, holds: (value: T) => boolean): Promise<T> {
    return await this.#machines.orBroken(until(seconds, ask, holds));
  }

  /** Keys of ours in etcd, past RKE2 and the API. */
  keys(instanceId: string): TestKeys {
    return testKeys((script) => this.sh(instanceId, script));
  }

  /** Machines that fail at once, and the wait until Drover says what that means for the cluster. */
  async lose(cluster: string, nodes: readonly NodeStatus[], kind: string): Promise<void> {
    for (const { instanceId } of nodes) this.world.service<Ec2>("ec2").lose(instanceId, "Host hardware failed");
    await this.until(
      120,
      async () => (await this.read<ClusterStatus>(`/clusters/${cluster}`)).quorum?.kind,
      (seen) => seen === kind,
    );
  }

  /** Waits until a question to a machine's shell is answered with status 0. */
  async untilSo(instanceId: string, question: string, seconds = 60): Promise<void> {
    await this.until(
      seconds,
      async () => (await this.driver.exec(instanceId, ["sh", "-c", question])).status,
      (status) => status === 0,
    );
  }

  /** The next sending of a node command from now on. */
  next(command: NodeCommandName, isIt: (sent: Sent) => boolean = () => true): Promise<Sent> {
    return this.#machines.orBroken(
      new Promise((resolve) => {
        const waiter = {
          isIt: (sent: Sent) => sent.command === command && isIt(sent),
          go: (sent: Sent) => {
            this.#waiting.delete(waiter);
            resolve(sent);
          },
        };
        this.#waiting.add(waiter);
      }),
    );
  }

  /** Kills the script of a node command as soon as one runs, as the kernel kills what takes too much memory: it has no last word. */
  async killScript(instanceId: string): Promise<void> {
    // Not by a shell, which would find the pattern in its own arguments.
    const kill = () => this.driver.exec(instanceId, ["pkill", "-KILL", "--full", "^[^ ]*(bash|sh) .*/document/orchestration/"]);
    await this.until(60, kill, ({ status }) => status === 0);
  }

  /** Signals the main process of a unit as soon as there is one; KILL takes etcd with it, if it runs there. systemd starts what was killed again. */
  async signalService(instanceId: string, unit: "rke2-server" | "rke2-agent", signal: "KILL" | "STOP"): Promise<void> {
    const etcd = signal === "KILL" ? "$(pgrep --exact etcd)" : "";
    await this.untilSo(instanceId, `pid=$(systemctl show --property=MainPID --value ${unit}); [ "$pid" -gt 1 ] && kill -${signal} "$pid" ${etcd}`);
  }

  #noteCommand({ DocumentName = "", InstanceIds = [], Parameters = {} }: SentCommand): void {
    const [, command = ""] = /^drover-([a-z-]+)-[0-9a-f]{8}$/.exec(DocumentName) ?? [];
    const parameters = Object.fromEntries(Object.entries(Parameters).map(([name, [value = ""]]) => [name, value]));
    const sent: Sent = { command: command as NodeCommandName, document: DocumentName, instanceIds: InstanceIds, parameters };
    this.sent.push(sent);
    for (const waiter of [...this.#waiting]) if (waiter.isIt(sent)) waiter.go(sent);
  }

  #noteEvents({ Entries = [] }: { readonly Entries?: readonly { readonly DetailType?: string; readonly Detail?: string }[] }): void {
    for (const { DetailType, Detail = "{}" } of Entries) {
      if (DetailType !== "Operation Failed") continue;
      const { operation = "" } = JSON.parse(Detail) as { operation?: string };
      this.#announced.set(operation, (this.#announced.get(operation) ?? 0) + 1);
    }
  }

  // -------------------------------------------------------------------------------------------------------------- workflows

  /**
   * Begins an operation, and kills it in a state: the state's function is lost as soon as one of its calls has taken effect, and the execution is stopped at
   * that instant. A function that changes nothing is left to answer; its execution is stopped then. Answers how the operation ended.
   *
   * @param after the call that is to have taken effect, such as `SendCommand`
   */
  async killedIn(state: TaskState, act: () => Promise<OperationRecord>, after = ""): Promise<OperationRecord> {
    const { world } = this;
    const sfn = world.service<Sfn>("sfn");
    const before = world.faults.struck.crashAfterEffect ?? 0;
    let isEntered = false;
    let isOver = false;
    const stop = (arn: string) => {
      isOver = true;
      this.#watching.delete(watch);
      world.clock.after(0, () => this.#stop(arn));
    };
    let execution = "";
    const parentOf = (arn: string) => (sfn.execution(arn)?.input as { readonly execution?: string } | undefined)?.execution;
    const watch = (arn: string, type: string, name: string) => {
      if (isOver) return;
      if (isEntered && type === "" && (world.faults.struck.crashAfterEffect ?? 0) > before) stop(execution);
      // Without a function, the state's effect is the execution that it starts.
      if (isEntered && state.function === undefined && arn !== "" && parentOf(arn) === execution) stop(execution);
      if (name !== state.name || isOver) return;
      if (isEntered && type.endsWith("StateExited")) stop(execution);
      if (isEntered || !type.endsWith("StateEntered")) return;
      isEntered = true;
      // Groups of agents have executions of their own, which end with the one that started them.
      execution = parentOf(arn) ?? arn;
      if (state.function !== undefined) world.faults.plan("crashAfterEffect", new RegExp(`^${state.function}: .*${after}`));
    };
    this.#watching.add(watch);
    const operation = await act();
    this.#watching.delete(watch);
    // A plan that struck nobody must not strike somebody later.
    world.healFaults();
    if (!isOver)
      throw new Error(`${operation.id} ended as ${operation.status} and never came through "${state.name}": ${JSON.stringify(operation.card)}`);
    if (after !== "") expect(world.faults.struck.crashAfterEffect ?? 0, `functions lost after ${after}`).toBe(before + 1);
    return operation;
  }

  #stop(executionArn: string): void {
    this.world.calls.callNow("sfn", "StopExecution", { executionArn, cause: "killed by a test" }, this.#person);
  }

  /** Watchers are told of a step (type "") after what happened in it. */
  #readHistories(): void {
    for (const { arn, history } of this.world.service<Sfn>("sfn").executions()) {
      for (const { type, details } of history.slice(this.#read.get(arn) ?? 0)) {
        const [, about] = details ?? [];
        for (const watch of [...this.#watching]) watch(arn, type, String((about as { name?: unknown } | undefined)?.name ?? ""));
      }
      this.#read.set(arn, history.length);
    }
    for (const watch of [...this.#watching]) watch("", "", "");
  }

  // ------------------------------------------------------------------------------------------------------- what is there

  /**
   * One etcd cluster with as many voters as servers, made once; and nothing of a failed node in etcd, in the API, in the target groups or on this
   * computer. Asked of all of them, and not of Drover.
   */
  async expectSound(cluster: string, since: "made" | "restored" = "made"): Promise<ObservedCluster> {
    const record = this.record(cluster);
    const { endpoint, bootstrap, wanted } = record;
    const counts = { server: wanted.spec.servers.count, agent: wanted.spec.agentPools.reduce((sum, pool) => sum + pool.count, 0) };
    expect(record).toMatchObject({ phase: "ready", ...(since === "made" && { abandonedBootstraps: [], bootstrap: { number: 1 } }) });
    expect(record.restore).toBeUndefined();
    const machines = this.living.map(({ id, address, tags }) => {
      const { "drover:role": role, "drover:pool": pool = "" } = tags;
      return { id, address, role: role as "server" | "agent", name: nodeName(pool, id) };
    });
    const servers = machines.filter(({ role }) => role === "server");
    expect({ server: servers.length, agent: machines.length - servers.length }).toEqual(counts);
    const inOrder = <T>(values: readonly T[]) => [...values].sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)));

    // etcd itself, on every server: a voter for each, by name and address, and nobody else.
    const lists = await Promise.all(servers.map(({ id }) => etcdMembers(this.driver, id)));
    for (const { members } of lists) {
      expect(inOrder(members.map(({ name, peer, kind }) => [name.replace(/-[0-9a-f]{8}$/, ""), peer, kind]))).toEqual(
        inOrder(servers.map(({ name, address }) => [name, `https://${address}:2380`, "voter"])),
      );
      expect(members.map(({ id }) => id)).toEqual(lists[0]?.members.map(({ id }) => id));
    }

    // One bootstrap: no other cluster was ever seen on any machine, and every disk holds the same CA, which a restore brings back.
    const clusters = await this.driver.observe();
    expect(clusters.map(({ bootstrappedBy }) => bootstrappedBy)).toHaveLength(1);
    const [seen] = clusters as readonly [ObservedCluster];
    expect(seen.caHash).toBe(bootstrap?.done?.caHash);
    const data = "/var/lib/rancher/rke2";
    const authorities = await Promise.all(
      machines.map(({ id, role }) => this.sh(id, `sha256sum <${data}/${role === "server" ? "server/tls" : "agent"}/server-ca.crt`)),
    );
    expect(new Set(authorities)).toEqual(new Set([`${seen.caHash}  -`]));
    expect(inOrder(record.members.map(({ instanceId }) => instanceId))).toEqual(inOrder(servers.map(({ id }) => id)));

    // The API, through the load balancer: every machine is a node that is Ready, and there is no other.
    const { kubeconfig } = await this.read<{ kubeconfig: string }>(`/clusters/${cluster}/kubeconfig`);
    const api = await this.#machines.orBroken(askThroughEndpoint(this.cloud, kubeconfig));
    expect(api).toMatchObject({ status: 200, statusWithoutCertificate: 401 });
    expect(inOrder(api.nodes)).toEqual(inOrder(machines.map(({ name }) => ({ name, ready: true }))));

    // One load balancer; the servers are behind both ports, nobody else is.
    const elb = this.world.service<ElasticLoadBalancingV2>("elastic-load-balancing-v2");
    const names = endpointNames(cluster, record.uid);
    expect({ ...elb.existing(), targetGroups: inOrder(elb.existing().targetGroups) }).toEqual({
      loadBalancers: [names.loadBalancer],
      targetGroups: inOrder([names.supervisorTargetGroup, names.apiTargetGroup]),
    });
    const listeners = elb.traffic().flatMap((balancer) => balancer.listeners);
    expect(inOrder(listeners.map(({ targetGroupArn }) => targetGroupArn))).toEqual(
      inOrder([endpoint?.supervisorTargetGroupArn, endpoint?.apiTargetGroupArn]),
    );
    for (const { targets } of listeners) {
      expect(inOrder(targets.map(({ instanceId, state }) => [instanceId, state]))).toEqual(inOrder(servers.map(({ id }) => [id, "healthy"])));
    }

    // On this computer: a disk and a root for each machine, a network for each and one for all; in each machine one service, and etcd on servers alone.
    expect(computerCounts(this.cloud.name)).toMatchObject({
      machines: machines.length,
      mounts: 2 * machines.length,
      "network namespaces": machines.length + 1,
    });
    const running =
      "printf '%s ' $(pgrep --count --exact etcd) $(systemctl is-active rke2-server rke2-agent); ls /var/lib/drover/staging 2>/dev/null";
    for (const { id, role } of machines) {
      expect([id, await this.sh(id, `${running}; true`)]).toEqual([id, role === "server" ? "1 active inactive" : "0 inactive active"]);
    }
    return seen;
  }

  /** Nothing of any cluster is left in the account or on this computer, but the account's own network. */
  expectNothingLeft(): void {
    const elb = this.world.service<ElasticLoadBalancingV2>("elastic-load-balancing-v2");
    expect(this.living.map(({ id }) => id)).toEqual([]);
    expect(elb.existing()).toEqual({ loadBalancers: [], targetGroups: [] });
    expect(computerCounts(this.cloud.name)).toMatchObject({ machines: 0, mounts: 0, "network namespaces": 1 });
  }

  /** Ends the account: afterwards this computer knows nothing of it. */
  async close(): Promise<void> {
    await this.#machines.close();
    expect(tracesOf(this.cloud.name)).toEqual([]);
  }
}

function flipByte(content: Buffer): Buffer {
  const changed = Buffer.from(content);
  const middle = changed.length >> 1;
  changed[middle] = (changed[middle] as number) ^ 0xff;
  return changed;
}
