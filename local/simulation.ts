/**
 * One simulated life of a deployment: clusters are created while things go wrong, created again once nothing does, used, and deleted.
 *
 * The world is held to the laws after every step (`laws.ts`). What only the end of a run can show is checked here: every operation ends in ready or in
 * one failure card, what a failed one left is known to it, the same create started again ends in ready once faults stop, and a delete leaves nothing.
 * Everything follows from the seed: the same seed has the same outcome, whatever ran before it in the same process.
 */
import { createHash } from "node:crypto";
import type { Accepted, ApiError } from "../core/api.js";
import { drillRole, tags } from "../core/layout.js";
import type { OperationKind } from "../core/records.js";
import type { Ec2 } from "./aws/ec2.js";
import type { S3 } from "./aws/s3.js";
import type { Sfn } from "./aws/sfn.js";
import { seedRelease } from "./aws/stand-in-release.js";
import type { SeenCall, TraceEntry } from "./kernel/calls.js";
import type { Faults } from "./kernel/contract.js";
import type { StackSource } from "./kernel/template.js";
import { listOf } from "./laws/seen.js";
import { LawBroken, type LawNumber, type Laws, lawNames, watchLaws } from "./laws.js";
import type { NodeDriver } from "./nodes/contract.js";
import {
  type ClusterPlan,
  clusterFile,
  describePlan,
  type FaultChoice,
  planRun,
  type RunPlan,
  release,
  type Scenario,
  usualScenarios,
} from "./simulation/plan.js";
import { PromiseBroken } from "./simulation/promise.js";
import { SnapshotWatch } from "./simulation/snapshot-watch.js";
import { World } from "./world.js";

export interface SimulationOptions {
  readonly seed: number;
  readonly assembly: string | readonly StackSource[];
  /** Operations during which faults strike; creates and deletes unless given. */
  readonly scenarios?: readonly Scenario[];
  /** Drawn from the seed unless given. */
  readonly faults?: FaultChoice;
  readonly trace?: (entry: TraceEntry) => void;
}

export interface SimulationResult {
  readonly seed: number;
  readonly about: string;
  /** How the creates ended at which faults struck. */
  readonly first: readonly ("ready" | "card" | "refused")[];
  /** Failure names of all cards, in the order they were written. */
  readonly cards: readonly string[];
  /** Creates started again after the faults were over, until each cluster was ready. */
  readonly restarts: number;
  readonly struck: Readonly<Partial<Record<keyof Faults, number>>>;
  readonly checked: Readonly<Record<LawNumber, number>>;
  /** What was broken, if anything. */
  readonly violation?: { readonly rule: string; readonly message: string; readonly at: string };
  /** Of every call and of the outcome: the same for the same seed. */
  readonly hash: string;
  readonly virtualSeconds: number;
  readonly calls: number;
  readonly transitions: number;
  /** Permissions that were used, for `AccessControl.countUses`. */
  readonly uses: readonly string[];
}

const second = 1000;
const minute = 60 * second;
/** A workflow's own limit, and what its end may take to be noticed. */
const operationLimitMs = 4 * 60 * minute + 20 * minute;
/** After an operation has ended, everything that it set going has come to its end. */
const afterglowMs = 3 * minute;
const mostRestarts = 3;

export async function simulate(options: SimulationOptions): Promise<SimulationResult> {
  const chosen = options.scenarios ?? usualScenarios;
  const plan = planRun(options.seed, chosen, options.faults);
  const run = new Run(options, plan);
  let violation: SimulationResult["violation"];
  try {
    await run.live();
  } catch (error) {
    const rule =
      error instanceof LawBroken ? `law ${error.law}, ${lawNames[error.law]}` : error instanceof PromiseBroken ? error.rule : "the world stopped";
    const message =
      error instanceof LawBroken || error instanceof PromiseBroken
        ? error.what
        : error instanceof Error
          ? (error.stack ?? error.message)
          : String(error);
    violation = { rule, message, at: new Date(run.world.clock.now()).toISOString() };
  }
  return run.result(violation);
}

class Run {
  readonly world: World;
  readonly laws: Laws;
  readonly #plan: RunPlan;
  readonly #snapshots: SnapshotWatch;
  readonly #seed: number;
  readonly #hash = createHash("sha256");
  readonly #startedAt: number;
  readonly #first: ("ready" | "card" | "refused")[] = [];
  #restarts = 0;
  #calls = 0;
  #requests = 0;
  /** Who waits for what. */
  readonly #waiting = new Set<{ readonly holds: () => boolean; readonly go: () => void }>();

  constructor({ seed, assembly, trace }: SimulationOptions, plan: RunPlan) {
    this.#plan = plan;
    this.#seed = seed;
    const looksThrough = plan.looksThroughTrace || trace !== undefined;
    this.world = World.boot({
      assembly,
      seed: `simulation ${seed}`,
      faults: plan.createFaults,
      ...(looksThrough
        ? {
            trace: (entry: TraceEntry) => {
              this.laws.leaves(JSON.stringify(entry), `the trace of ${entry.service} ${entry.operation}`);
              trace?.(entry);
            },
          }
        : {}),
    });
    this.laws = watchLaws(this.world);
    this.#snapshots = new SnapshotWatch(this.world, this.laws.seen);
    this.#startedAt = this.world.clock.now();
    this.world.onCall((call) => this.#note(call));
    this.world.afterEachStep(() => this.#wake());
    for (const architecture of ["amd64", "arm64"] as const) {
      seedRelease(this.world.service<S3>("s3"), this.laws.seen.world.artifactBucket, { ...release, architecture, imageSets: [""] });
    }
  }

  async live(): Promise<void> {
    await this.#drive((plan) => this.#create(plan));
    this.world.healFaults();
    await this.#drive((plan) => this.#createUntilReady(plan));
    if (this.#plan.hasSnapshots) await this.#liveThroughDisaster();
    this.world.faults.rates = this.#plan.deleteFaults;
    await this.#drive((plan) => this.#delete(plan, plan.meanwhile.abortDeleteAfter));
    this.world.healFaults();
    await this.#drive((plan) => this.#deleteUntilGone(plan));
    this.#nothingIsLeft();
    this.world.close();
  }

  result(violation: SimulationResult["violation"]): SimulationResult {
    const cards = this.#cards();
    const outcome = [...this.#first, ...cards, this.#restarts, violation?.message ?? ""].join("|");
    return {
      seed: this.#seed,
      about: describePlan(this.#plan),
      first: this.#first,
      cards,
      restarts: this.#restarts,
      struck: this.world.faults.struck,
      checked: this.laws.checked,
      ...(violation === undefined ? {} : { violation }),
      hash: this.#hash.update(outcome).digest("hex").slice(0, 16),
      virtualSeconds: Math.round((this.world.clock.now() - this.#startedAt) / second),
      calls: this.#calls,
      transitions: this.world.counts.transitions,
      uses: [...this.world.access.uses],
    };
  }

  /** Backups, a disaster, a restore and a drill: first while faults strike, then until each has come to a good end. */
  async #liveThroughDisaster(): Promise<void> {
    const { backupFaults, restoreFaults, drillFaults } = this.#plan;
    this.world.faults.rates = backupFaults;
    await this.#drive((plan) => this.#backup(plan, plan.disaster.abortBackupAfter));
    this.world.healFaults();
    await this.#drive((plan) => this.#backupUntilProven(plan));
    await this.#drive((plan) => this.#strike(plan));
    this.world.faults.rates = restoreFaults;
    await this.#drive((plan) => this.#restore(plan));
    this.world.healFaults();
    await this.#drive((plan) => this.#restoreUntilReady(plan));
    this.world.faults.rates = drillFaults;
    await this.#drive((plan) => this.#drill(plan, plan.disaster.abortDrillAfter));
    this.world.healFaults();
    await this.#drive((plan) => this.#drillUntilProven(plan));
    this.#snapshots.stand();
  }

  #cards(): string[] {
    return [...this.laws.seen.operations.values()].flatMap(({ card }) => (card === undefined ? [] : [card.failure]));
  }

  // ----------------------------------------------------------------------------------------------------------------- phases

  /** Creates a cluster while faults strike and others interfere. */
  async #create(plan: ClusterPlan): Promise<void> {
    const { meanwhile } = plan;
    const requestId = this.#requestId();
    const accepted = await this.#ask("POST", "/clusters", { requestId, file: clusterFile(plan) });
    if (accepted === undefined) {
      this.#first.push("refused");
      return;
    }
    const { operation } = accepted;
    await Promise.all([
      this.#ended(plan.name, operation, "create"),
      this.#later(meanwhile.repeatAfter, async () => {
        const again = await this.#ask("POST", "/clusters", { requestId, file: clusterFile(plan) });
        if (again !== undefined && again.operation !== operation)
          throw new PromiseBroken("a repeated request is answered with the first operation", again.operation);
      }),
      this.#later(meanwhile.secondCreateAfter, () => this.#interfere(plan, "create", "POST", "/clusters", { file: clusterFile(plan) })),
      this.#later(meanwhile.busyDeleteAfter, () => this.#interfere(plan, "delete", "DELETE", `/clusters/${plan.name}`, { confirm: plan.name })),
      this.#later(meanwhile.abortAfter, async () => this.#abort(operation)),
      this.#later(meanwhile.loseAfter, async () => this.#lose(plan, operation)),
    ]);
    await this.#sleep(afterglowMs);
    const ended = this.laws.seen.operations.get(operation);
    this.#first.push(ended?.status === "succeeded" ? "ready" : "card");
    this.#checkAfterwards(plan);
    await this.#look(plan.name, operation);
  }

  /** Starts the create again, nothing going wrong any more, until the cluster is ready: the seventh law. */
  async #createUntilReady(plan: ClusterPlan): Promise<void> {
    for (let again = 0; ; again++) {
      const phase = this.laws.seen.records.get(plan.name)?.phase;
      if (phase === "ready") break;
      if (phase === "deleting") await this.#deleteUntilGone(plan);
      if (again === mostRestarts) {
        throw new LawBroken(
          7,
          `${plan.name} is not ready after it was created again ${mostRestarts} times, though faults had stopped: ${this.#lastCard(plan)}`,
        );
      }
      this.#restarts++;
      this.laws.checked[7]++;
      const accepted = await this.#ask("POST", "/clusters", { requestId: this.#requestId(), file: clusterFile(plan) }, true);
      await this.#ended(plan.name, (accepted as Accepted).operation, "create");
      await this.#sleep(afterglowMs);
      this.#checkAfterwards(plan);
    }
    this.#isReady(plan);
    await this.#look(plan.name);
    const { body } = await this.#request("GET", `/clusters/${plan.name}/kubeconfig`);
    const endpoint = this.laws.seen.records.get(plan.name)?.endpoint?.dnsName ?? "";
    if (!body.includes(endpoint))
      throw new PromiseBroken("a ready cluster has a kubeconfig", `the kubeconfig of ${plan.name} does not name ${endpoint}`);
  }

  async #delete(plan: ClusterPlan, abortAfter: number | undefined): Promise<void> {
    const accepted = await this.#ask("DELETE", `/clusters/${plan.name}`, { requestId: this.#requestId(), confirm: plan.name });
    if (accepted === undefined) return;
    await Promise.all([this.#ended(plan.name, accepted.operation, "delete"), this.#later(abortAfter, async () => this.#abort(accepted.operation))]);
    await this.#sleep(afterglowMs);
    this.#checkAfterwards(plan);
  }

  async #deleteUntilGone(plan: ClusterPlan): Promise<void> {
    for (let again = 0; this.laws.seen.records.has(plan.name); again++) {
      if (again === mostRestarts)
        throw new LawBroken(
          7,
          `${plan.name} is not gone after it was deleted again ${mostRestarts} times, though faults had stopped: ${this.#lastCard(plan)}`,
        );
      const accepted = await this.#ask("DELETE", `/clusters/${plan.name}`, { requestId: this.#requestId(), confirm: plan.name }, true);
      await this.#ended(plan.name, (accepted as Accepted).operation, "delete");
      await this.#sleep(afterglowMs);
      this.#checkAfterwards(plan);
    }
  }

  // -------------------------------------------------------------------------------------------------------------- snapshots

  async #backup(plan: ClusterPlan, abortAfter: number | undefined): Promise<void> {
    for (let number = 1; number <= plan.disaster.backups; number++) {
      const accepted = await this.#ask("POST", `/clusters/${plan.name}/snapshots`, { requestId: this.#requestId() });
      if (accepted === undefined) continue;
      const { operation } = accepted;
      await Promise.all([this.#ended(plan.name, operation, "backup"), this.#later(abortAfter, async () => this.#abort(operation))]);
      await this.#sleep(afterglowMs);
      this.#checkAfterwards(plan);
    }
  }

  async #backupUntilProven(plan: ClusterPlan): Promise<void> {
    await this.#again(plan, "backup", "POST", `/clusters/${plan.name}/snapshots`, {});
  }

  /** What a restore will lose is written, and machines are lost. */
  async #strike({ name, disaster }: ClusterPlan): Promise<void> {
    const { seen } = this.laws;
    const nodes = this.world.service<NodeDriver>("nodes");
    const cluster = this.#rke2Of(name);
    if (cluster !== undefined) nodes.write?.(cluster.id, disaster.written);
    const ec2 = this.world.service<Ec2>("ec2");
    const living = ec2.living().filter(({ tags: own, life }) => own[tags.cluster] === name && life === "running");
    const servers = living.filter(({ tags: own }) => own[tags.role] === "server");
    const members = seen.records.get(name)?.members.length ?? 0;
    const count = {
      nothing: 0,
      "a member": 1,
      "the majority": Math.floor(members / 2) + 1,
      "all servers": servers.length,
      "all machines": servers.length,
    };
    const lost = disaster.damage === "all machines" ? living : servers.slice(0, count[disaster.damage]);
    for (const { id } of lost) ec2.lose(id, "Host hardware failed");
    this.world.note("disaster", { name, damage: disaster.damage, lost: lost.length, written: disaster.written });
    await this.#sleep(afterglowMs);
  }

  async #restore(plan: ClusterPlan): Promise<void> {
    const { disaster, name } = plan;
    const accepted = await this.#askForRestore(plan);
    if (accepted === undefined) return;
    const { operation } = accepted;
    await Promise.all([
      this.#ended(name, operation, "restore"),
      this.#later(disaster.abortRestoreAfter, async () => this.#abort(operation)),
      this.#later(disaster.loseWhileRestoringAfter, async () => this.#lose(plan, operation)),
    ]);
    await this.#sleep(afterglowMs);
    this.#checkAfterwards(plan);
    await this.#look(name, operation);
  }

  /** A survivor is gone on with where there is one; whoever is told that there is none takes the newest snapshot. */
  async #askForRestore({ name, disaster }: ClusterPlan, must = false): Promise<Accepted | undefined> {
    const path = `/clusters/${name}/restore`;
    const wantsSurvivor = disaster.takesSurvivor && disaster.damage === "the majority";
    if (wantsSurvivor) {
      const answer = await this.#request("POST", path, { requestId: this.#requestId(), confirm: name, snapshot: "survivor" });
      if (answer.status === 202) return JSON.parse(answer.body) as Accepted;
    }
    return this.#ask("POST", path, { requestId: this.#requestId(), confirm: name, snapshot: this.#newestProven(name) }, must);
  }

  async #restoreUntilReady(plan: ClusterPlan): Promise<void> {
    const { seen } = this.laws;
    for (let again = 0; ; again++) {
      const record = seen.records.get(plan.name);
      if (record?.phase === "ready" && record.restore === undefined && this.#wasRestored(plan.name)) break;
      if (again === mostRestarts) {
        const what = `${plan.name} is not restored after it was asked for again ${mostRestarts} times, though faults had stopped`;
        throw new LawBroken(7, `${what}: ${this.#lastCard(plan)}`);
      }
      this.#restarts++;
      this.laws.checked[7]++;
      const accepted = await this.#askForRestore(plan, true);
      await this.#ended(plan.name, (accepted as Accepted).operation, "restore");
      await this.#sleep(afterglowMs);
      this.#checkAfterwards(plan);
    }
    this.#isReady(plan);
    this.#lostNoMoreThanAnnounced(plan);
  }

  #wasRestored(name: string): boolean {
    return [...this.laws.seen.operations.values()].some(
      ({ cluster, kind, status }) => cluster === name && kind === "restore" && status === "succeeded",
    );
  }

  #newestProven(name: string): string {
    const record = this.laws.seen.records.get(name);
    return record?.restore?.source.kind === "snapshot" ? record.restore.source.snapshot : (record?.newestProven?.id ?? "latest");
  }

  /** What etcd holds is at least what the snapshot held; what a survivor had, it has. */
  #lostNoMoreThanAnnounced({ name, disaster }: ClusterPlan): void {
    const restores = [...this.laws.seen.operations.values()].filter(
      ({ cluster, kind, status }) => cluster === name && kind === "restore" && status === "succeeded",
    );
    const restored = restores.at(-1)?.outcome?.restored as
      | { readonly snapshot: string; readonly keys: number; readonly revision: number }
      | undefined;
    if (restored === undefined) return;
    const wrong = (what: string): never => {
      throw new PromiseBroken("no restore loses more than it announced", `${name} ${what}`);
    };
    const store = this.#rke2Of(name)?.store;
    const manifest = this.#snapshots.manifest(restored.snapshot);
    if (restored.snapshot !== "survivor") {
      if (manifest === undefined) return wrong(`was restored from ${restored.snapshot}, which nobody proved`);
      if (restored.keys !== manifest.etcd.keys) wrong(`was restored with ${restored.keys} keys, snapshot ${manifest.id} has ${manifest.etcd.keys}`);
      if (store !== undefined && store.revision < manifest.etcd.revision)
        wrong(`is at revision ${store.revision}, snapshot ${manifest.id} was at ${manifest.etcd.revision}`);
      return;
    }
    const before = this.#snapshots.newestBefore(name, restores.at(-1)?.acceptedAt ?? "")?.etcd.keys ?? 0;
    if (store !== undefined && store.keys < before + disaster.written)
      wrong(`has ${store.keys} keys, though a survivor held ${before + disaster.written}`);
  }

  #rke2Of(name: string) {
    const { seen } = this.laws;
    const members = new Set(seen.records.get(name)?.members.map((member) => member.instanceId));
    return seen.world.clusters().find((cluster) => cluster.members.some((member) => members.has(member.instanceId)));
  }

  async #drill(plan: ClusterPlan, abortAfter: number | undefined): Promise<void> {
    const accepted = await this.#ask("POST", `/clusters/${plan.name}/drill`, { requestId: this.#requestId() });
    if (accepted === undefined) return;
    const { operation } = accepted;
    await Promise.all([this.#ended(plan.name, operation, "drill"), this.#later(abortAfter, async () => this.#abort(operation))]);
    await this.#sleep(afterglowMs);
    this.#checkAfterwards(plan);
  }

  async #drillUntilProven(plan: ClusterPlan): Promise<void> {
    await this.#again(plan, "drill", "POST", `/clusters/${plan.name}/drill`, {});
    if (this.laws.seen.records.get(plan.name)?.lastDrill?.proven !== true)
      throw new PromiseBroken("a snapshot that counts can be restored", `the drill of ${plan.name} did not prove it`);
    const left = this.world
      .service<Ec2>("ec2")
      .living()
      .filter(({ tags: own }) => own[tags.cluster] === plan.name && own[tags.role] === drillRole);
    if (left.length > 0) throw new PromiseBroken("nothing leaks", `${listOf(left.map(({ id }) => id))} of a drill of ${plan.name} still runs`);
  }

  /** Once more, nothing going wrong any more, until it has come to a good end. */
  async #again(plan: ClusterPlan, kind: OperationKind, method: string, path: string, body: Readonly<Record<string, unknown>>): Promise<void> {
    for (let again = 1; ; again++) {
      const accepted = (await this.#ask(method, path, { requestId: this.#requestId(), ...body }, true)) as Accepted;
      await this.#ended(plan.name, accepted.operation, kind);
      await this.#sleep(afterglowMs);
      this.#checkAfterwards(plan);
      this.laws.checked[7]++;
      if (this.laws.seen.operations.get(accepted.operation)?.status === "succeeded") return;
      if (again === mostRestarts) {
        throw new LawBroken(7, `no ${kind} of ${plan.name} succeeded in ${mostRestarts} tries, though faults had stopped: ${this.#lastCard(plan)}`);
      }
    }
  }

  // ----------------------------------------------------------------------------------------------------------------- people

  /** Asks as the CLI does: the same request again while the answer is that the world is still changing. Undefined when it gives up. */
  async #ask(method: string, path: string, body: Readonly<Record<string, unknown>>, must = false): Promise<Accepted | undefined> {
    for (let attempt = 1; attempt <= 10; attempt++) {
      const answer = await this.#request(method, path, body);
      if (answer.status === 202) return JSON.parse(answer.body) as Accepted;
      // The schedule was faster: people wait for what it has started.
      if (answer.status === 409 && (JSON.parse(answer.body) as ApiError).error === "Busy" && this.#plan.hasSnapshots) {
        await this.#sleep(2 * minute);
        continue;
      }
      if (answer.status < 500 && answer.status !== 429) {
        const { error, message } = JSON.parse(answer.body) as ApiError;
        throw new PromiseBroken("a good request is accepted", `${method} ${path} was answered with ${answer.status} ${error}: ${message}`);
      }
      await this.#sleep(5 * second);
    }
    if (must) throw new PromiseBroken("a good request is accepted", `${method} ${path} was never answered, though faults had stopped`);
    return undefined;
  }

  /** Somebody else wants something of a cluster that is busy. Whatever they are told, one operation runs at a time. */
  async #interfere(plan: ClusterPlan, kind: OperationKind, method: string, path: string, body: Readonly<Record<string, unknown>>): Promise<void> {
    const isBusy = () => this.#running().length > 0 && this.laws.seen.leases.has(plan.name);
    const before = isBusy();
    const answer = await this.#request(method, path, { requestId: this.#requestId(), ...body });
    if (answer.status === 202) {
      if (before && isBusy()) throw new LawBroken(2, `a ${kind} of ${plan.name} was accepted while another operation changes it`);
      await this.#ended(plan.name, (JSON.parse(answer.body) as Accepted).operation, kind);
      return;
    }
    if (answer.status === 409 && before) {
      const { message } = JSON.parse(answer.body) as ApiError;
      if (!message.includes(plan.name)) throw new PromiseBroken("a busy cluster's refusal names who holds it", message);
    }
  }

  #abort(operation: string): void {
    const { execution = "" } = this.laws.seen.operations.get(operation) ?? {};
    if (this.world.service<Sfn>("sfn").execution(execution)?.status !== "RUNNING") return;
    this.world.note("aborted by an operator", { operation });
    const person = { principal: `arn:aws:iam::${this.world.account}:user/operator`, name: "person", enforced: false };
    try {
      this.world.calls.callNow("sfn", "StopExecution", { executionArn: execution, cause: "stopped by an operator" }, person);
    } catch (error) {
      // Throttled: the operator shrugs.
      if (!(error instanceof Error && error.name === "ThrottlingException")) throw error;
    }
  }

  /**
   * A machine of the cluster dies, a server or an agent, whatever it is doing just then. Not once the cluster was found complete: what dies afterwards is a
   * node of a ready cluster, though its create may still wait for the endpoint.
   */
  #lose(plan: ClusterPlan, operation: string): void {
    if (this.laws.seen.operations.get(operation)?.steps.some(({ name }) => name === "verify") !== false) return;
    const ec2 = this.world.service<Ec2>("ec2");
    const candidates = ec2.living().filter(({ tags: own, life }) => own[tags.cluster] === plan.name && life === "running");
    if (candidates.length > 0) ec2.lose(this.world.random.fork(`loss in ${plan.name}`).pick(candidates).id, "Host hardware failed");
  }

  /** Reads what people read; nothing of it may hold a secret. */
  async #look(name: string, operation?: string): Promise<void> {
    const paths = [
      "/clusters",
      `/clusters/${name}`,
      `/clusters/${name}/operations`,
      ...(operation === undefined ? [] : [`/clusters/${name}/operations/${operation}`]),
    ];
    for (const path of paths) {
      const { body } = await this.#request("GET", path);
      this.laws.leaves(body, `the answer to GET ${path}`);
    }
  }

  async #request(method: string, path: string, body?: unknown): Promise<{ readonly status: number; readonly body: string }> {
    const answer = await this.world.request(method, path, body);
    const text = Buffer.from(answer.body).toString("utf8");
    if (!path.endsWith("/kubeconfig")) this.laws.leaves(text, `the answer to ${method} ${path}`);
    return { status: answer.status, body: text };
  }

  #requestId(): string {
    this.#requests++;
    return `seed-${this.#seed}-request-${this.#requests}`;
  }

  // ----------------------------------------------------------------------------------------------------------------- checks

  /** Waits until an operation has ended, and holds its end to laws 9 and 12. */
  async #ended(cluster: string, operation: string, kind: OperationKind): Promise<void> {
    const { seen } = this.laws;
    const isOver = () => ["succeeded", "failed"].includes(seen.operations.get(operation)?.status ?? "");
    const execution = seen.operations.get(operation)?.execution ?? "";
    const executionStatus = () => this.world.service<Sfn>("sfn").execution(execution)?.status;
    const limit = this.world.clock.now() + operationLimitMs;
    await this.#until(() => (isOver() && executionStatus() !== "RUNNING") || executionStatus() === "SUCCEEDED", limit);
    if (executionStatus() === "RUNNING")
      throw new LawBroken(9, `the execution of ${operation} still runs ${operationLimitMs / minute} minutes after it began`);
    this.laws.checked[9]++;
    if (!isOver() && kind !== "delete") {
      throw new LawBroken(
        12,
        `the execution of ${operation} on ${cluster} ended as ${executionStatus() ?? "never started"}, and nobody wrote how the operation ended`,
      );
    }
    this.laws.checked[12]++;
  }

  /** Everything that costs money is some cluster's, and a failed operation's card tells of all of it. */
  #checkAfterwards(plan: ClusterPlan): void {
    const { seen } = this.laws;
    const uids = new Map([...seen.records.values()].map((record) => [record.uid, record]));
    const resources = seen.world.resources();
    const orphans = resources.filter((resource) => resource.uid === undefined || !uids.has(resource.uid));
    if (orphans.length > 0) {
      throw new PromiseBroken("nothing leaks", `${listOf(orphans.map(({ kind, id }) => `${kind} ${id}`))} belongs to no cluster's record`);
    }
    const record = seen.records.get(plan.name);
    const operation = seen.operations.get(record?.operation ?? "");
    if (record === undefined || operation?.card === undefined) return;
    // What these fail at leaves the cluster as it was; a drill's own server is held against its card by law 12.
    if (operation.kind === "backup" || operation.kind === "drill") return;
    const told = new Set(operation.card.left.resources.map(({ id }) => id));
    const hidden = resources.filter((resource) => resource.uid === record.uid && !resource.isGoing && !told.has(resource.id));
    if (hidden.length > 0) {
      throw new PromiseBroken(
        "nothing leaks",
        `${listOf(hidden.map(({ kind, id }) => `${kind} ${id}`))} came after the card of ${operation.id} and is not on it`,
      );
    }
    if (seen.leases.has(plan.name))
      throw new PromiseBroken("a failed operation gives its lease back", `${operation.id} has ended and ${plan.name} is still leased`);
  }

  /** What is called ready is ready, for all that could be known. */
  #isReady(plan: ClusterPlan): void {
    const { seen } = this.laws;
    const wrong = (what: string): never => {
      throw new PromiseBroken("ready means ready", `${plan.name} ${what}`);
    };
    const record = seen.records.get(plan.name);
    if (record?.readyAt === undefined || record.endpoint === undefined) return wrong("has no endpoint, or was never ready");
    const agents = plan.pools.reduce((sum, pool) => sum + pool.count, 0);
    const alive = seen.world.resources().filter(({ kind, uid, isGoing }) => kind === "instance" && uid === record.uid && !isGoing);
    const clusters = seen.clusters.filter((cluster) => seen.world.owner(cluster.bootstrappedBy)?.uid === record.uid);
    const cluster = clusters.find(({ members }) => members.some((member) => member.healthy)) ?? wrong("has no server that lives");
    // A machine may die after everything was found well; that is another day's work.
    const lateLoss = cluster.members.some((member) => !member.healthy) || cluster.nodes.some((node) => !node.ready);
    if (lateLoss) return;
    const voters = cluster.members.filter((member) => member.voter).length;
    if (voters !== plan.servers || cluster.members.length !== plan.servers)
      wrong(`has ${voters} voters of ${cluster.members.length} members, wanted are ${plan.servers}`);
    if (cluster.nodes.length !== plan.servers + agents) wrong(`has ${cluster.nodes.length} nodes, wanted are ${plan.servers + agents}`);
    if (alive.length !== plan.servers + agents) wrong(`has ${alive.length} machines, wanted are ${plan.servers + agents}`);
    const servers = new Set(record.members.map((member) => member.instanceId));
    if (servers.size !== plan.servers || cluster.members.some((member) => !servers.has(member.instanceId)))
      wrong("names other servers in its record than etcd has");
    for (const arn of [record.endpoint.supervisorTargetGroupArn, record.endpoint.apiTargetGroupArn]) {
      const targets = seen.world.targets(arn);
      if (targets.length !== plan.servers || targets.some((id) => !servers.has(id)))
        wrong(`has the targets ${listOf(targets)} in ${arn}, wanted are its ${plan.servers} servers`);
    }
  }

  /** A deleted cluster leaves its history and nothing else. */
  #nothingIsLeft(): void {
    const { seen } = this.laws;
    const resources = seen.world.resources();
    if (resources.length > 0)
      throw new PromiseBroken("a delete leaves nothing", `${listOf(resources.map(({ kind, id }) => `${kind} ${id}`))} is still there`);
    const keys = [...seen.keys].filter((key) => !this.#mayStay(key));
    if (keys.length > 0) throw new PromiseBroken("a delete leaves nothing", `${listOf(keys)} is still in the state bucket`);
    for (const { name } of this.#plan.clusters) {
      const history = [...seen.operations.values()].filter(({ cluster }) => cluster === name);
      if (!history.some(({ kind, status }) => kind === "delete" && status === "succeeded")) {
        throw new PromiseBroken("a delete leaves its history", `no operation of ${name} says that it was deleted`);
      }
      const silent = history.filter(({ execution, status, card }) => status !== "succeeded" && card === undefined && this.#endedBadly(execution));
      if (silent.length > 0) throw new LawBroken(12, `${listOf(silent.map(({ id }) => id))} failed and has no card`);
    }
  }

  /** History stays, what expires in days does, and what a snapshot needs to be restored does as long as there is one. */
  #mayStay(key: string): boolean {
    if (/^clusters\/[^/]+\/operations\/[^/]+\.json$/.test(key) || /^(callbacks|snapshots-in-use)\//.test(key)) return true;
    const [, uid] = /^secrets\/([^/]+)\/(?:server|agent)-token\//.exec(key) ?? /^launches-kept\/([^/]+)\.json$/.exec(key) ?? [];
    return uid !== undefined && this.#snapshots.isProven(uid);
  }

  #endedBadly(execution: string): boolean {
    const status = this.world.service<Sfn>("sfn").execution(execution)?.status;
    return status === "FAILED" || status === "ABORTED" || status === "TIMED_OUT";
  }

  #lastCard({ name }: ClusterPlan): string {
    const cards = [...this.laws.seen.operations.values()].filter(({ cluster, card }) => cluster === name && card !== undefined);
    const card = cards.at(-1)?.card;
    return card === undefined ? "no card says why" : `${card.failure} in "${card.state}": ${card.what}`;
  }

  #running() {
    return this.world.service<Sfn>("sfn").running();
  }

  // ------------------------------------------------------------------------------------------------------------------- time

  #note({ service, operation, origin, error }: SeenCall): void {
    this.#calls++;
    this.#hash.update(`${this.world.clock.now()} ${service} ${operation} ${origin.name} ${error?.code ?? ""}\n`);
  }

  /** Lets people act side by side, and runs the world until all are done. */
  async #drive(act: (plan: ClusterPlan) => Promise<void>): Promise<void> {
    let settled = false;
    let failure: { readonly error: unknown } | undefined;
    // They begin once the clock runs: whoever asks then waits for its answer and does not drive the clock himself.
    this.world.clock.after(0, () => {
      Promise.all(this.#plan.clusters.map(act))
        .catch((error: unknown) => {
          failure = { error };
        })
        .finally(() => {
          settled = true;
        });
    });
    const end = await this.world.runUntil(() => settled);
    if (!settled) throw new LawBroken(9, `nothing moves any more (${end}), and somebody still waits`);
    if (failure !== undefined) throw failure.error;
  }

  #sleep(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      this.world.clock.after(milliseconds, resolve);
    });
  }

  async #later(seconds: number | undefined, act: () => Promise<void>): Promise<void> {
    if (seconds === undefined) return;
    await this.#sleep(seconds * second);
    await act();
  }

  /** Waits until something holds, or until a virtual time. */
  #until(holds: () => boolean, limit: number): Promise<void> {
    if (holds()) return Promise.resolve();
    return new Promise((resolve) => {
      const waiter = {
        holds,
        go: () => {
          this.#waiting.delete(waiter);
          timer.cancel();
          resolve();
        },
      };
      const timer = this.world.clock.after(limit - this.world.clock.now(), waiter.go);
      this.#waiting.add(waiter);
    });
  }

  #wake(): void {
    for (const waiter of this.#waiting) {
      if (!waiter.holds()) continue;
      this.#waiting.delete(waiter);
      this.world.clock.after(0, waiter.go);
    }
  }
}
