/**
 * One account of a local cloud: the deployed template, the services, the clock and the seed, wired together.
 *
 * A world is booted from a synthesized assembly and driven by its clock. Everything in it is decided by the seed: the same seed gives the same calls,
 * at the same virtual times, in the same order.
 */
import type { Ec2 } from "./aws/ec2.js";
import { createEc2 } from "./aws/ec2.js";
import { createElasticLoadBalancingV2 } from "./aws/elastic-load-balancing-v2.js";
import type { EventBridge } from "./aws/eventbridge.js";
import { createEventBridge } from "./aws/eventbridge.js";
import { createKms } from "./aws/kms.js";
import type { Queues } from "./aws/queues.js";
import { createQueues } from "./aws/queues.js";
import type { S3 } from "./aws/s3.js";
import { createS3 } from "./aws/s3.js";
import { createScheduler } from "./aws/scheduler.js";
import type { Sfn } from "./aws/sfn.js";
import { createSfn } from "./aws/sfn.js";
import { createSsm } from "./aws/ssm.js";
import type { Origin, SeenCall, TraceEntry } from "./kernel/calls.js";
import { Calls } from "./kernel/calls.js";
import type { RunEnd } from "./kernel/clock.js";
import { VirtualClock } from "./kernel/clock.js";
import type { Cloud, Invocation, InvocationOutcome, ServiceFactory } from "./kernel/cloud.js";
import type { CloudEvent, Faults, Permission, Random, Service } from "./kernel/contract.js";
import type { ApiCaller, ApiRequest, ApiResponse } from "./kernel/http-api.js";
import { HttpApi, personCredentials } from "./kernel/http-api.js";
import type { Denial, UnusedPermission } from "./kernel/iam.js";
import { AccessControl } from "./kernel/iam.js";
import type { FunctionCounts, LogLine } from "./kernel/lambda.js";
import { functionCredentials, Lambda } from "./kernel/lambda.js";
import { hurried, SeededRandom } from "./kernel/random.js";
import type { StackSource, Template } from "./kernel/template.js";
import { loadTemplate, readAssembly } from "./kernel/template.js";
import type { MachineFetch } from "./nodes/contract.js";
import { createSimulatedNodes } from "./nodes/simulated.js";

/** Nothing goes wrong. */
export const noFaults: Faults = {
  capacityError: 0,
  throttle: 0,
  lostEvent: 0,
  doubledEvent: 0,
  nodeLostWhileBooting: 0,
  nodeLostWhileJoining: 0,
  crashBeforeEffect: 0,
  crashAfterEffect: 0,
  runTwice: 0,
  lateOnline: 0,
};

/** Virtual time at which a world begins unless told otherwise. */
export const defaultStart = Date.UTC(2026, 0, 5, 2);

/** The services of an account, in the order they are made. */
const usualServices: readonly ServiceFactory[] = [
  createQueues,
  createS3,
  createKms,
  createEventBridge,
  createScheduler,
  createEc2,
  createElasticLoadBalancingV2,
  createSsm,
  createSfn,
  (cloud) => createSimulatedNodes(cloud, { fetch: fetchByNodes(cloud) }),
];

/** Nodes reach S3 through the endpoint of the network stack, where the template has one: bucket policies may insist on it. */
export function fetchByNodes(cloud: Cloud): MachineFetch {
  const [endpoint] = [...cloud.template.resources.values()].filter(
    ({ type, properties }) => type === "AWS::EC2::VPCEndpoint" && String(properties.ServiceName).endsWith(".s3"),
  );
  const network: Readonly<Record<string, string>> = endpoint === undefined ? {} : { "aws:SourceVpce": endpoint.ref };
  return (url, request) => cloud.service<S3>("s3").fetchPresigned(url, request, network);
}

export interface BootOptions {
  /** Folder of the synthesized assembly, or what `readAssembly` made of it. */
  readonly assembly: string | readonly StackSource[];
  readonly seed: number | string;
  readonly faults?: Partial<Faults>;
  readonly region?: string;
  readonly account?: string;
  /** Milliseconds since the epoch; a world that goes on from a saved one begins where that one stopped, or here if this is later. */
  readonly startAt?: number;
  /** So many times shorter are AWS's own delays than the model has them; in a world of real machines they need only be there. */
  readonly hurry?: number;
  /** Receives every AWS call. */
  readonly trace?: (entry: TraceEntry) => void;
  /** Names of the stacks to deploy; all of the assembly unless given. */
  readonly stacks?: readonly string[];
  /** Services besides the usual ones, or in place of those of the same name. */
  readonly services?: readonly ServiceFactory[];
  /** What `save` gave. */
  readonly saved?: SavedWorld;
}

/** Structured-cloneable and free of functions: may be written to disk with `v8.serialize`. */
export interface SavedWorld {
  readonly version: 1;
  readonly at: number;
  /** How many times this account was started again: no stream of randomness, and so no id, comes twice. */
  readonly starts: number;
  readonly services: Readonly<Record<string, unknown>>;
}

export interface TimelineEntry {
  /** Virtual time, milliseconds since the epoch. */
  readonly at: number;
  readonly kind: string;
  readonly detail: Readonly<Record<string, unknown>>;
}

export interface Counts {
  /** State transitions of all executions, as they are billed. */
  readonly transitions: number;
  /** By `<service>.<operation>`, then by what called. */
  readonly calls: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly functions: Readonly<Record<string, FunctionCounts>>;
  readonly lambdaMilliseconds: number;
  /** Events the clock released. */
  readonly events: number;
}

/** Templates already resolved, by the sources they came from: worlds of one process share them and what is prepared from them. */
const templates = new WeakMap<readonly StackSource[], Map<string, Template>>();
const assemblies = new Map<string, readonly StackSource[]>();

export class World implements Cloud {
  readonly clock: VirtualClock;
  readonly random: Random;
  readonly faults: WorldFaults;
  readonly partition = "aws";
  readonly account: string;
  readonly region: string;
  readonly template: Template;
  readonly access: AccessControl;
  readonly calls: Calls;
  readonly lambda: Lambda;
  readonly services = new Map<string, Service>();
  /** What the functions wrote, in order. */
  readonly logs: LogLine[] = [];
  /** What happened, for people. */
  readonly timeline: TimelineEntry[] = [];
  readonly #eventObservers: ((event: CloudEvent) => void)[] = [];
  readonly #apis: readonly HttpApi[];
  readonly #starts: number;

  private constructor(options: BootOptions, template: Template) {
    this.#starts = (options.saved?.starts ?? -1) + 1;
    this.clock = new VirtualClock(Math.max(options.saved?.at ?? 0, options.startAt ?? (options.saved === undefined ? defaultStart : 0)));
    const random = new SeededRandom(this.#starts === 0 ? String(options.seed) : `${options.seed} start ${this.#starts}`);
    this.random = options.hurry === undefined ? random : hurried(random, options.hurry);
    this.template = template;
    this.account = template.account;
    this.region = template.region;
    this.faults = new WorldFaults(this, { ...noFaults, ...options.faults });
    this.access = new AccessControl(template);
    this.calls = new Calls(this, options.trace);
    this.lambda = new Lambda(this);
    for (const create of [...usualServices, ...(options.services ?? [])]) {
      const service = create(this);
      this.services.set(service.name, service);
    }
    for (const [name, state] of Object.entries(options.saved?.services ?? {})) this.services.get(name)?.load(structuredClone(state));
    this.#deploy();
    this.#apis = template.apis.map((api) => new HttpApi(this, api));
  }

  static boot(options: BootOptions): World {
    return new World(options, resolveTemplate(options));
  }

  // ----------------------------------------------------------------------------------------------------- what services see

  publish(event: CloudEvent): void {
    for (const see of this.#eventObservers) this.#checked(() => see(event));
    this.service<EventBridge>("eventbridge").publish(event);
  }

  service<T extends Service>(name: string): T {
    const found = this.services.get(name);
    if (found === undefined) throw new Error(`the local cloud has no service "${name}"`);
    return found as T;
  }

  /** What the template's functions know under this name, such as STATE_BUCKET. @throws when none has it in its environment */
  environment(variable: string): string {
    const value = this.template.functions.map(({ environment }) => environment[variable]).find((each) => each !== undefined);
    if (value === undefined) throw new Error(`no function of the template has ${variable} in its environment`);
    return value;
  }

  note(kind: string, detail: Readonly<Record<string, unknown>>): void {
    this.timeline.push({ at: this.clock.now(), kind, detail });
  }

  log(line: LogLine): void {
    this.logs.push(line);
  }

  fail(error: Error): void {
    this.clock.fail(error);
  }

  /** Runs a function. The answer comes as the clock runs: see `drive`. */
  invoke(request: Invocation): Promise<InvocationOutcome>;
  /** Runs a function as the account's owner, and drives the clock until it has answered. */
  invoke(name: string, payload: unknown): Promise<InvocationOutcome>;
  async invoke(request: Invocation | string, payload?: unknown): Promise<InvocationOutcome> {
    if (typeof request !== "string") return await this.lambda.invoke(request);
    return await this.drive(this.lambda.invoke({ function: request, payload, kind: "sync", by: "owner" }));
  }

  allows(principal: string, permission: Permission): boolean {
    return this.access.decide(principal, permission).allowed;
  }

  deadLetter(queueArn: string, body: string, attributes: Readonly<Record<string, string>>, role: string): boolean {
    if (!this.allows(role, { action: "sqs:SendMessage", resource: queueArn })) return false;
    return this.service<Queues>("sqs").send(queueArn, body, attributes, { role });
  }

  requestId(): string {
    return this.calls.requestId();
  }

  // ------------------------------------------------------------------------------------------------------ what people see

  /** A request to the HTTP API, by the name of a person of the account or the ARN of a role of the template; drives the clock until it is answered. */
  async request(
    method: string,
    path: string,
    body?: unknown,
    options: { readonly as?: string; readonly headers?: Readonly<Record<string, string>> } = {},
  ): Promise<ApiResponse> {
    const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const request: ApiRequest = {
      method,
      path,
      headers: { "content-type": "application/json", ...options.headers },
      ...(text === undefined ? {} : { body: text }),
    };
    return await this.drive(this.api.request(request, this.#callerOf(options.as ?? "operator")));
  }

  /** The HTTP API of the template; the first, when it has several. */
  get api(): HttpApi {
    const [api] = this.#apis;
    if (api === undefined) throw new Error("the template has no HTTP API");
    return api;
  }

  credentials(accessKeyId: string): { readonly secretAccessKey: string; readonly caller: ApiCaller } | undefined {
    const person = ["operator", "pipeline"].find((name) => personCredentials(name).accessKeyId === accessKeyId);
    return person === undefined ? undefined : { secretAccessKey: personCredentials(person).secretAccessKey, caller: this.#callerOf(person) };
  }

  fetchPresigned(
    url: string,
    request: { readonly method: string; readonly headers: Readonly<Record<string, string>>; readonly body: Uint8Array },
  ): { readonly status: number; readonly headers: Readonly<Record<string, string>>; readonly body: Uint8Array } {
    return this.service<S3>("s3").fetchPresigned(url, request);
  }

  /** Runs the clock until the promise is settled, unless somebody runs it already. */
  async drive<T>(promise: Promise<T>): Promise<T> {
    if (this.clock.isRunning) return await promise;
    let settled = false;
    const done = () => {
      settled = true;
    };
    promise.then(done, done);
    const end = await this.clock.runUntil(() => settled);
    if (end !== "reached") throw new Error(`the world came to rest (${end}) before the answer`);
    return await promise;
  }

  async runUntilIdle(): Promise<RunEnd> {
    return await this.clock.runUntilIdle();
  }

  /** Runs until the predicate holds, or until a virtual time. */
  async runUntil(goal: (() => boolean) | number, limit: { readonly events?: number; readonly at?: number } = {}): Promise<RunEnd> {
    return await this.clock.runUntil(goal, limit);
  }

  async runFor(duration: { readonly hours?: number; readonly minutes?: number; readonly seconds?: number }): Promise<RunEnd> {
    const seconds = (duration.hours ?? 0) * 3600 + (duration.minutes ?? 0) * 60 + (duration.seconds ?? 0);
    return await this.clock.runUntil(this.clock.now() + seconds * 1000);
  }

  /** Checks after every step of the world, once it has come to rest. A check that throws ends the run. */
  afterEachStep(...checks: readonly ((world: World) => void)[]): void {
    for (const check of checks) this.clock.afterEachEvent(() => check(this));
  }

  /** Tells of every AWS call at the instant of its effect, with nothing taken out. What the observer throws ends the run. */
  onCall(observer: (call: SeenCall) => void): void {
    this.calls.observers.push((call) => this.#checked(() => observer(call)));
  }

  /** Tells of every event that AWS itself puts on the default bus. What the observer throws ends the run. */
  onEvent(observer: (event: CloudEvent) => void): void {
    this.#eventObservers.push(observer);
  }

  #checked(check: () => void): void {
    try {
      check();
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** From now on nothing goes wrong by itself. */
  healFaults(): void {
    this.faults.heal();
  }

  get denials(): readonly Denial[] {
    return this.access.denials;
  }

  unusedPermissions(): UnusedPermission[] {
    return this.access.unusedPermissions();
  }

  get counts(): Counts {
    const functions = this.lambda.counts;
    const executions = (this.services.get("sfn") as Sfn | undefined)?.executions() ?? [];
    return {
      transitions: executions.reduce((sum, { transitions }) => sum + transitions, 0),
      calls: Object.fromEntries([...this.calls.counts].sort().map(([operation, callers]) => [operation, Object.fromEntries(callers)])),
      functions,
      lambdaMilliseconds: Object.values(functions).reduce((sum, { billedMilliseconds }) => sum + billedMilliseconds, 0),
      events: this.clock.events,
    };
  }

  /** Everything that is remembered. Only while nothing is under way. */
  save(): SavedWorld {
    if (!this.clock.idle) throw new Error("the world is not at rest: something is still under way");
    const services = Object.fromEntries([...this.services].map(([name, service]) => [name, structuredClone(service.save())]));
    return { version: 1, at: this.clock.now(), starts: this.#starts, services };
  }

  /** Gives back what can be used by the next world of this process. */
  close(): void {
    this.lambda.release();
  }

  #callerOf(as: string): ApiCaller {
    if (as.startsWith("arn:")) return { arn: as, accessKeyId: "", enforced: true };
    return { arn: `arn:aws:iam::${this.account}:user/${as}`, accessKeyId: personCredentials(as).accessKeyId, enforced: false };
  }

  /** What services do not read from the template themselves, and what they need of the kernel. */
  #deploy(): void {
    const ec2 = this.services.get("ec2") as Ec2 | undefined;
    for (const { arn, name, roles } of this.template.instanceProfiles) ec2?.addInstanceProfile({ arn, name, roleArn: roles[0] ?? "" });
    const sfn = this.services.get("sfn") as Sfn | undefined;
    for (const { arn, name, definition, role } of this.template.stateMachines) sfn?.registerStateMachine({ arn, name, definition, roleArn: role });
    (this.services.get("s3") as S3 | undefined)?.usePresigned({
      credentials: (accessKeyId) => {
        const signer = this.template.functions.find(({ name }) => functionCredentials(name).accessKeyId === accessKeyId);
        return signer === undefined ? undefined : { ...functionCredentials(signer.name), principal: signer.role, name: signer.name };
      },
      call: (operation, input, signer, context) => {
        const origin: Origin = { principal: signer.principal, name: "node", enforced: true, context };
        return this.calls.callNow("s3", operation, input, origin);
      },
    });
  }
}

/** What goes wrong: each fault draws from a stream of its own, so that one rate does not shift the others. */
class WorldFaults {
  rates: Faults;
  /** How often each fault struck. */
  readonly struck: Partial<Record<keyof Faults, number>> = {};
  readonly #world: World;
  readonly #streams = new Map<keyof Faults, Random>();
  readonly #planned: { readonly fault: keyof Faults; readonly occasion: string | RegExp; left: number }[] = [];

  constructor(world: World, rates: Faults) {
    this.#world = world;
    this.rates = rates;
  }

  strike(fault: keyof Faults, occasion: string): boolean {
    const plan = this.#planned.find(
      (each) =>
        each.fault === fault &&
        each.left > 0 &&
        (typeof each.occasion === "string" ? occasion.includes(each.occasion) : each.occasion.test(occasion)),
    );
    if (plan !== undefined) plan.left--;
    const rate = this.rates[fault];
    if (plan === undefined && rate === 0) return false;
    let stream = this.#streams.get(fault);
    if (stream === undefined) {
      stream = this.#world.random.fork(`fault ${fault}`);
      this.#streams.set(fault, stream);
    }
    if (plan === undefined && !stream.chance(rate)) return false;
    this.struck[fault] = (this.struck[fault] ?? 0) + 1;
    this.#world.note("fault", { fault, occasion });
    return true;
  }

  /** Lets a fault strike the next occasions whose description matches, whatever its rate: for a test that needs it there. */
  plan(fault: keyof Faults, occasion: string | RegExp, times = 1): void {
    this.#planned.push({ fault, occasion, left: times });
  }

  heal(): void {
    this.rates = noFaults;
    this.#planned.length = 0;
  }
}

function resolveTemplate(options: BootOptions): Template {
  const { region = "eu-central-1", account = "123456789012" } = options;
  let stacks: readonly StackSource[];
  if (typeof options.assembly === "string") {
    const key = `${options.assembly}|${options.stacks?.join() ?? ""}`;
    stacks = assemblies.get(key) ?? readAssembly(options.assembly, options.stacks);
    assemblies.set(key, stacks);
  } else {
    const { assembly } = options;
    stacks = assembly;
  }
  const known = templates.get(stacks) ?? new Map<string, Template>();
  templates.set(stacks, known);
  const key = `${account} ${region}`;
  let template = known.get(key);
  if (template === undefined) {
    template = loadTemplate(stacks, { account, region, partition: "aws" });
    known.set(key, template);
  }
  return template;
}
