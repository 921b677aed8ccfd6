/**
 * What a local AWS service is: operations over plain data, behind the wire protocol that the real SDK clients speak.
 *
 * The kernel decodes a request by the SDK's own schemas, checks the caller's role, adds latency and faults, calls the operation at one instant of
 * virtual time, and encodes the answer. A service never sees HTTP, promises of other calls, the real clock or real randomness.
 */

/** One clock for the whole cloud, in milliseconds since the epoch. Things happen in order of time, then of scheduling. */
export interface Clock {
  now(): number;
  /** Runs `act` after `milliseconds`. */
  after(milliseconds: number, act: () => void | Promise<void>, options?: TimerOptions): Timer;
}
export interface TimerOptions {
  /** It does not keep the world awake: a periodic ping, say. */
  readonly daemon?: boolean;
  /** Time that merely passes, by somebody's wish: nobody looks before it is over. */
  readonly idle?: boolean;
}
export interface Timer {
  cancel(): void;
}

/** Randomness from the world's printed seed. Each consumer forks a stream by name, so that adding one draw does not shift the others. */
export interface Random {
  fork(name: string): Random;
  /** Uniform in [0, 1). */
  next(): number;
  /** Whole number in [0, below). */
  integer(below: number): number;
  chance(probability: number): boolean;
  pick<T>(items: readonly T[]): T;
  /** Hexadecimal characters, for ids. */
  hex(length: number): string;
  /** Seconds, uniform between two bounds, for a delay of AWS that the model has no step for. */
  between(leastSeconds: number, mostSeconds: number): number;
  /** Seconds drawn for a step of core/latency-model.json: log-normal through its p50 and p95. */
  latency(step: LatencyStep): number;
}
export type LatencyStep = keyof typeof import("../../core/latency-model.json", { with: { "resolution-mode": "import" }})["steps"];

/** An error as AWS answers it: the SDK sees `code` as the error's name. */
export class AwsError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly httpStatus = 400,
    /** Members of a modelled error's shape besides the message. */
    readonly detail: Readonly<Record<string, unknown>> = {},
  ) {
    super(message);
    this.name = code;
  }
}

/** A call, field, value or state that the local cloud does not model: fails the whole world loudly, never the handler alone. */
export class Unmodelled extends Error {
  override readonly name = "Unmodelled";
}

/** One thing the caller must be allowed to do, as IAM evaluates it. */
export interface Permission {
  readonly action: string;
  readonly resource: string;
  readonly context?: Readonly<Record<string, string | readonly string[]>>;
}

export interface Caller {
  /** ARN of the role, or of the person's user. */
  readonly principal: string;
  /** Logical name of the function, `node` for an instance, `person` for somebody at the API. */
  readonly name: string;
  /** Request id: unique, also in the trace. */
  readonly requestId: string;
}

export interface Operation<Input, Output> {
  /** Every input field the model understands, dotted (`TagSpecifications.Tags`); arrays are walked. Another field is `Unmodelled`. */
  readonly fields: readonly string[];
  /** What IAM must allow. Evaluated before the call, over the state of that instant. An empty list needs no permission. */
  readonly permissions: (input: Input, world: World) => readonly Permission[];
  /** How long the answer takes. */
  readonly latency?: LatencyStep | { readonly milliseconds: number };
  /** True when the call changes something: such calls are where crashes are injected. */
  readonly mutates: boolean;
  readonly call: (input: Input, caller: Caller, world: World) => Output;
}

// A table of operations has a different input and output in each entry; the entries are typed.
export type Operations = Readonly<Record<string, Operation<any, any>>>;

export interface Service {
  /** The SDK client's name in lower case, as in `@aws-sdk/client-<name>`: "ec2", "s3", "elastic-load-balancing-v2". */
  readonly name: string;
  readonly operations: Operations;
  /** The throttle answer of this service: code and HTTP status. */
  readonly throttle: { readonly code: string; readonly httpStatus: number };
  /** Everything the service remembers, as one structured-cloneable value, for keeping between starts. Taken when no timer is pending. */
  save(): unknown;
  load(state: unknown): void;
}

/** An AWS event for the default bus, or a Drover event for its own. */
export interface CloudEvent {
  readonly source: string;
  readonly detailType: string;
  readonly detail: Readonly<Record<string, unknown>>;
  readonly resources?: readonly string[];
  readonly bus?: string;
}

/** What goes wrong. Rates are probabilities per occasion; zero means never. Drawn from the seed. */
export interface Faults {
  /** RunInstances finds no room for the type in the zone. */
  readonly capacityError: number;
  /** Any call is throttled. */
  readonly throttle: number;
  /** A best-effort event never comes. */
  readonly lostEvent: number;
  /** An event comes twice. */
  readonly doubledEvent: number;
  /** An instance dies between pending and SSM online. */
  readonly nodeLostWhileBooting: number;
  /** An instance dies while it joins or starts. */
  readonly nodeLostWhileJoining: number;
  /** A handler crashes just before one of its mutating calls. */
  readonly crashBeforeEffect: number;
  /** A handler crashes just after one of its mutating calls took effect. */
  readonly crashAfterEffect: number;
  /** A handler is invoked twice for one request, the second time while or after the first runs. */
  readonly runTwice: number;
  /** SSM online later than 120 s. */
  readonly lateOnline: number;
}

/** What services share. `World` in `local/world.ts` is the whole. */
export interface World {
  readonly clock: Clock;
  readonly random: Random;
  readonly faults: { readonly rates: Faults; strike(fault: keyof Faults, occasion: string): boolean };
  readonly account: string;
  readonly region: string;
  readonly partition: "aws";
  publish(event: CloudEvent): void;
  /** Another service, for the few places where AWS's services reach into each other. Throws when it is not there. */
  service<T extends Service>(name: string): T;
  /** A line in the world's log: something a person may want to see in the timeline. */
  note(kind: string, detail: Readonly<Record<string, unknown>>): void;
}
