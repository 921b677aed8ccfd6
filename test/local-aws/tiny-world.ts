/** The least world a service can live in: a virtual clock, a seed, and calls made directly. */

import { VirtualClock } from "../../local/kernel/clock.js";
import type { Invocation, InvocationOutcome } from "../../local/kernel/cloud.js";
import { AwsError, type Caller, type CloudEvent, type Faults, type Permission, type Service, type World } from "../../local/kernel/contract.js";
import { SeededRandom } from "../../local/kernel/random.js";

const noFaults: Faults = {
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

export interface TinyWorld extends World {
  readonly clock: VirtualClock;
  readonly published: CloudEvent[];
  readonly notes: { readonly kind: string; readonly detail: Readonly<Record<string, unknown>> }[];
  readonly invocations: { readonly atMs: number; readonly request: Invocation }[];
  /** What a function answers from now on. */
  answer: (request: Invocation) => InvocationOutcome;
  /** Forwards what services publish. */
  onPublish: (event: CloudEvent) => void;
  invoke(request: Invocation): Promise<InvocationOutcome>;
  add(service: Service): void;
}

export const startAtMs = Date.UTC(2026, 0, 5, 10, 0, 0);
export const caller: Caller = { principal: "arn:aws:iam::111122223333:role/writer", name: "writer", requestId: "request-1" };

export function tinyWorld(options: { readonly seed?: number; readonly faults?: Partial<Faults>; readonly startAtMs?: number } = {}): TinyWorld {
  const random = new SeededRandom(options.seed ?? 1);
  const clock = new VirtualClock(options.startAtMs ?? startAtMs);
  const rates = { ...noFaults, ...options.faults };
  const draws = random.fork("faults");
  const services = new Map<string, Service>();
  const world: TinyWorld = {
    clock,
    random,
    faults: { rates, strike: (fault) => rates[fault] > 0 && draws.chance(rates[fault]) },
    account: "111122223333",
    region: "eu-central-1",
    partition: "aws",
    published: [],
    notes: [],
    invocations: [],
    answer: () => ({ ok: true, payload: null, requestId: "invoked" }),
    onPublish: () => {},
    publish(event) {
      world.published.push(event);
      world.onPublish(event);
    },
    service<T extends Service>(name: string): T {
      const service = services.get(name);
      if (service === undefined) throw new Error(`no service ${name} in this world`);
      return service as T;
    },
    note: (kind, detail) => void world.notes.push({ kind, detail }),
    async invoke(request) {
      world.invocations.push({ atMs: clock.now(), request });
      return world.answer(request);
    },
    add: (service) => void services.set(service.name, service),
  };
  return world;
}

/** Calls an operation at this instant, without asking IAM. */
export function calls(world: World, service: Service) {
  // Any: each operation has its own output, and a test reads the members it expects.
  return (operation: string, input: unknown): any => {
    const found = service.operations[operation];
    if (found === undefined) throw new Error(`no operation ${operation}`);
    return found.call(input, caller, world);
  };
}

/** What a call needs, as IAM would be asked now. */
export function permissionsOf(world: World, service: Service, operation: string, input: unknown): readonly Permission[] {
  return service.operations[operation]?.permissions(input, world) ?? [];
}

/** The code of the error that a call ends in; fails when it ends well. */
export function codeOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof AwsError) return `${error.code} ${error.httpStatus}`;
    throw error;
  }
  throw new Error("the call succeeded");
}
