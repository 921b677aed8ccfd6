/**
 * One AWS call from the caller to the service and back: latency, throttle, permission, the operation at one instant, the trace.
 */
import { redact, redacted } from "../../core/redact.js";
import type { VirtualClock } from "./clock.js";
import type { Caller, Faults, Operation, Permission, Random, Service, World } from "./contract.js";
import { AwsError, Unmodelled } from "./contract.js";
import type { AccessControl } from "./iam.js";
import type { AnswerContext, Decoded, WireRequest, WireResponse } from "./protocols.js";
import { credentialOf, decode, encodeError, encodeOutput } from "./protocols.js";
import type { FieldTree, OperationSchema, Shape } from "./schemas.js";
import { fieldTree, isServiceName, schemasOf, serviceBySigningName, unmodelledFields } from "./schemas.js";

/** One line of a trace: service and operation as in AWS's own API models. */
export interface TraceEntry {
  readonly seq: number;
  /** Virtual time. */
  readonly at: string;
  readonly service: string;
  readonly operation: string;
  readonly input: unknown;
  readonly output?: unknown;
  readonly error?: { readonly code: string; readonly message: string; readonly status: number };
  /** Logical name of what called: a function, `node`, `person`, a state machine. */
  readonly function: string;
  readonly role: string;
  readonly requestId: string;
}

/** What calls. */
export interface Origin {
  readonly principal: string;
  readonly name: string;
  /** False when IAM is not asked: the account's owner. */
  readonly enforced: boolean;
  /** Ends what is calling, just before or just after a change it makes. It never sees the answer. */
  readonly crash?: (when: keyof Faults, operation: string) => void;
  /** Whether it is still there to see the answer. */
  readonly isAlive?: () => boolean;
  /** Tells the caller's keeper that a service answered with an error that the SDK retries: it keeps count of those in memory. */
  readonly sawTrouble?: () => void;
  readonly context?: Readonly<Record<string, string>>;
  /** Text of what the function was invoked with. */
  readonly payload?: string;
}

/** A call as it was: nothing copied, nothing taken out. For checks inside this process, never to be written down. */
export interface SeenCall {
  readonly service: string;
  readonly operation: string;
  readonly mutates: boolean;
  readonly input: unknown;
  /** Undefined when it was answered with an error. */
  readonly output?: unknown;
  readonly error?: AwsError;
  readonly origin: Origin;
}

/** Names of the services in AWS's API models (as botocore and the command line call them). */
const modelNames: Readonly<Record<string, string>> = {
  "elastic-load-balancing-v2": "elbv2",
  eventbridge: "events",
  sfn: "stepfunctions",
};

/** How each service says no (API references, common errors). */
const denials: Readonly<Record<string, readonly [string, number]>> = {
  s3: ["AccessDenied", 403],
  ec2: ["UnauthorizedOperation", 403],
  "elastic-load-balancing-v2": ["AccessDenied", 403],
};

/** A call whose operation says nothing else: a small request inside one region. */
const usualMilliseconds = 20;

interface CallsWorld extends World {
  readonly clock: VirtualClock;
  readonly access: AccessControl;
  readonly services: ReadonlyMap<string, Service>;
  fail(error: Error): void;
}

export class Calls {
  /** Calls by `<service>.<operation>`, then by who called. */
  readonly counts = new Map<string, Map<string, number>>();
  /** Told of every call, at the instant of its effect. */
  readonly observers: ((call: SeenCall) => void)[] = [];
  #seq = 0;
  readonly #latency: Random;
  readonly #ids: Random;
  readonly #trees = new WeakMap<object, FieldTree>();
  /** Requests that left at this instant. */
  #leaving: { readonly request: WireRequest; readonly origin: Origin; readonly go: () => void }[] = [];

  constructor(
    readonly world: CallsWorld,
    readonly trace: ((entry: TraceEntry) => void) | undefined,
  ) {
    this.#latency = world.random.fork("call latency");
    this.#ids = world.random.fork("request ids");
  }

  requestId(): string {
    return this.#ids.hex(32).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  }

  /** A request of an SDK client. Never answers when the caller crashed; stops the world when nobody models what is asked. */
  async serve(request: WireRequest, origin: Origin): Promise<WireResponse> {
    try {
      await this.#inOrder(request, origin);
      return await this.#serve(request, origin);
    } catch (error) {
      const named = error instanceof Unmodelled ? new Unmodelled(`${origin.name}: ${error.message}`) : error;
      this.world.fail(named instanceof Error ? named : new Error(String(named)));
      return await new Promise<never>(() => {});
    }
  }

  /**
   * Requests that a handler sends at once leave in the order of their content. The order in which they get here depends on what the SDK has in its
   * caches, and a container that is lent to a second world has them filled.
   */
  #inOrder(request: WireRequest, origin: Origin): Promise<void> {
    return new Promise((go) => {
      if (this.#leaving.length === 0) {
        this.world.clock.atRest(() => {
          const leaving = this.#leaving.sort((a, b) => (before(a, b) ? -1 : before(b, a) ? 1 : 0));
          this.#leaving = [];
          for (const each of leaving) each.go();
        });
      }
      this.#leaving.push({ request, origin, go });
    });
  }

  async #serve(request: WireRequest, origin: Origin): Promise<WireResponse> {
    const { clock, faults } = this.world;
    const requestId = this.requestId();
    const context = (): AnswerContext => ({ requestId, now: clock.now(), method: request.method });
    let decoded: Decoded;
    try {
      decoded = decode(request);
    } catch (error) {
      const service = serviceBySigningName(credentialOf(request)?.signing ?? "");
      if (!(error instanceof AwsError) || service === undefined) throw error;
      return encodeError(service, error, context());
    }
    const { service, operation, input } = decoded;
    const { mutates } = this.#operation(operation);
    const half = this.#milliseconds(this.#operation(operation)) / 2;
    await wait(clock, half);
    // What has left arrives, whether or not the one who sent it is still there.
    const where = `${origin.name}: ${operation.service} ${operation.name}`;
    const mayCrash = () => mutates && origin.crash !== undefined && origin.isAlive?.() !== false;
    if (mayCrash() && faults.strike("crashBeforeEffect", where)) {
      origin.crash?.("crashBeforeEffect", operation.name);
      return await forever();
    }
    const answer = this.#instant(operation, input, origin, requestId);
    if (!("error" in answer) && mayCrash() && faults.strike("crashAfterEffect", where)) {
      origin.crash?.("crashAfterEffect", operation.name);
      return await forever();
    }
    if ("error" in answer && (answer.throttled || answer.error.httpStatus >= 500)) origin.sawTrouble?.();
    // Encoded at once: what a service answers is of this instant, though it arrives later.
    const response = "error" in answer ? encodeError(service, answer.error, context()) : encodeOutput(operation, answer.output, context());
    await wait(clock, half);
    return origin.isAlive?.() === false ? await forever() : response;
  }

  /** The part of a call that happens at one instant: for what has come over the network by other means. */
  callNow(service: string, name: string, input: Readonly<Record<string, unknown>>, origin: Origin): unknown {
    const answer = this.#instant(this.#schema(service, name), input, origin, this.requestId());
    if ("error" in answer) throw answer.error;
    return answer.output;
  }

  #schema(service: string, name: string): OperationSchema {
    const operation = isServiceName(service) ? schemasOf(service).operation(name) : undefined;
    if (operation === undefined) throw new Unmodelled(`${service} has no operation "${name}"`);
    return operation;
  }

  #operation(schema: OperationSchema): Operation<unknown, unknown> {
    const service = this.world.services.get(schema.service);
    const operation = service?.operations[schema.name];
    if (operation === undefined) throw new Unmodelled(`${schema.service} ${schema.name} is not modelled`);
    return operation as Operation<unknown, unknown>;
  }

  #milliseconds({ latency }: Operation<unknown, unknown>): number {
    if (typeof latency === "string") return this.#latency.latency(latency) * 1000;
    return (latency?.milliseconds ?? usualMilliseconds) * (0.6 + 0.8 * this.#latency.next());
  }

  #instant(schema: OperationSchema, input: Readonly<Record<string, unknown>>, origin: Origin, requestId: string): Answer {
    const { world } = this;
    const operation = this.#operation(schema);
    const service = world.services.get(schema.service) as Service;
    this.#count(schema, origin.name);
    let tree = this.#trees.get(operation);
    if (tree === undefined) {
      tree = fieldTree(operation.fields);
      this.#trees.set(operation, tree);
    }
    const [unknown] = unmodelledFields(input, schema.input, tree);
    if (unknown !== undefined) throw new Unmodelled(`${schema.service} ${schema.name}: input field ${unknown} is not modelled`);
    const answer = this.#answer(schema, operation, service, input, origin, requestId);
    if (this.observers.length > 0) {
      const outcome = "error" in answer ? { error: answer.error } : { output: answer.output };
      const call: SeenCall = { service: schema.service, operation: schema.name, mutates: operation.mutates, input, ...outcome, origin };
      for (const see of this.observers) see(call);
    }
    this.#record(schema, input, answer, origin, requestId);
    return answer;
  }

  #answer(
    schema: OperationSchema,
    operation: Operation<unknown, unknown>,
    service: Service,
    input: Readonly<Record<string, unknown>>,
    origin: Origin,
    requestId: string,
  ): Answer {
    const { world } = this;
    if (world.faults.strike("throttle", `${origin.name}: ${schema.service} ${schema.name}`)) {
      return { error: new AwsError(service.throttle.code, "Rate exceeded", service.throttle.httpStatus), throttled: true };
    }
    const caller: Caller = { principal: origin.principal, name: origin.name, requestId };
    try {
      if (origin.enforced) {
        for (const permission of operation.permissions(input, world)) this.#require(schema, permission, origin);
      }
      return { output: operation.call(input, caller, world) };
    } catch (error) {
      if (error instanceof AwsError) return { error, throttled: error.code === service.throttle.code };
      if (error instanceof Unmodelled) throw new Unmodelled(`${schema.service} ${schema.name}: ${error.message}`);
      throw error;
    }
  }

  #require(schema: OperationSchema, permission: Permission, origin: Origin): void {
    const context = { ...origin.context, ...permission.context };
    const decision = this.world.access.decide(origin.principal, { ...permission, context });
    if (decision.allowed) return;
    const [code, status] = denials[schema.service] ?? ["AccessDeniedException", 400];
    this.world.note("denied", { function: origin.name, action: permission.action, resource: permission.resource });
    throw new AwsError(code, decision.message, status);
  }

  #count(schema: OperationSchema, name: string): void {
    const key = `${schema.service}.${schema.name}`;
    const callers = this.counts.get(key) ?? new Map<string, number>();
    callers.set(name, (callers.get(name) ?? 0) + 1);
    this.counts.set(key, callers);
  }

  #record(schema: OperationSchema, input: unknown, answer: Answer, origin: Origin, requestId: string): void {
    const seq = this.#seq++;
    if (this.trace === undefined) return;
    const outcome =
      "error" in answer
        ? { error: { code: answer.error.code, message: redact(answer.error.message), status: answer.error.httpStatus } }
        : { output: presentable(answer.output, schema.output) };
    this.trace({
      seq,
      at: new Date(this.world.clock.now()).toISOString(),
      service: modelNames[schema.service] ?? schema.service,
      operation: schema.name,
      input: presentable(input, schema.input),
      ...outcome,
      function: origin.name,
      role: origin.principal,
      requestId,
    });
  }
}

interface Leaving {
  readonly request: WireRequest;
  readonly origin: Origin;
}
function before(a: Leaving, b: Leaving): boolean {
  const keys = [a, b].map(
    ({ request, origin }) => `${origin.name} ${request.method} ${request.host} ${request.path} ${request.headers["x-amz-target"] ?? ""}`,
  );
  const [left, right] = keys as [string, string];
  return left === right ? Buffer.compare(a.request.body, b.request.body) < 0 : left < right;
}

type Answer = { readonly output: unknown } | { readonly error: AwsError; readonly throttled: boolean };

function wait(clock: World["clock"], milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    clock.after(milliseconds, resolve);
  });
}

function forever(): Promise<never> {
  return new Promise<never>(() => {});
}

/** Members whose value is a secret although the SDK's schema does not call it sensitive. */
const secretMembers = new Set(["taskToken", "Plaintext"]);

/** A value as it may be written down: secrets out, bytes as their number, times in ISO 8601. */
function presentable(value: unknown, shape: Shape): unknown {
  if (value === undefined || value === null) return undefined;
  if (value instanceof Uint8Array) return { bytes: value.byteLength };
  if (value instanceof Date) return value.toISOString();
  switch (shape.kind) {
    case "blob":
      return { bytes: typeof value === "string" ? Buffer.byteLength(value) : 0 };
    case "timestamp":
      return typeof value === "number" ? new Date(value).toISOString() : String(value);
    case "list":
      return (value as readonly unknown[]).map((item) => presentable(item, shape.item.shape));
    case "map":
      return Object.fromEntries(Object.entries(value as object).map(([key, item]) => [key, presentable(item, shape.item.shape)]));
    case "struct":
      return Object.fromEntries(
        Object.entries(value as object)
          .filter(([, inner]) => inner !== undefined)
          .map(([name, inner]) => {
            const member = shape.members.get(name);
            if (member === undefined || secretMembers.has(name)) return [name, inner instanceof Uint8Array ? { bytes: inner.byteLength } : redacted];
            // "Sensitive" covers whole workflow inputs and key names; those are text to search for secrets, not to hide.
            return [name, presentable(inner, member.shape)];
          }),
      );
    default:
      return typeof value === "string" ? redact(value) : value;
  }
}
