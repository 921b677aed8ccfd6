/**
 * Virtual time: a queue of events, ordered by time and then by scheduling, released one at a time.
 *
 * Everything in the local cloud moves by microtasks between two events, so one turn of the event loop after each event lets handlers and services
 * come to rest before the next. Nothing waits for real time, except `pace`, which holds events back until the wall clock reaches them.
 */
import { setImmediate as turn } from "node:timers/promises";
import type { Clock, Timer, TimerOptions } from "./contract.js";

interface Entry extends Timer {
  readonly at: number;
  readonly order: number;
  readonly daemon: boolean;
  readonly idle: boolean;
  act: (() => void | Promise<void>) | undefined;
}

/** Why a run ended. */
export type RunEnd = "idle" | "reached" | "limit";

/** A clock that keeps pace with the wall clock. */
export interface Pacing {
  /** Rejects with what broke the world; never ends otherwise. */
  readonly broken: Promise<never>;
  /** What the promise answers, or why the world broke meanwhile. */
  orBroken<T>(promise: Promise<T>): Promise<T>;
  /** Stops; rejects with what broke the world, if something did. */
  stop(): Promise<void>;
}

export class VirtualClock implements Clock {
  #now: number;
  #order = 0;
  #waiting = 0;
  #held = 0;
  readonly #heap: Entry[] = [];
  readonly #checks: (() => void)[] = [];
  #atRest: (() => void)[] = [];
  #failure: { readonly error: unknown } | undefined;
  #running = false;
  #wake: (() => void) | undefined;
  /** Virtual time by the wall clock, while the clock keeps pace with it. */
  #wall: (() => number) | undefined;
  /** Spans of virtual time that passed at once, in order. */
  readonly #skips: { readonly from: number; readonly to: number }[] = [];
  /** Events released so far. */
  events = 0;

  constructor(startAt: number) {
    this.#now = startAt;
  }

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, act: () => void | Promise<void>, options: TimerOptions = {}): Timer {
    if (!(milliseconds >= 0)) throw new RangeError(`cannot schedule ${milliseconds} ms from now`);
    const entry: Entry = {
      at: this.#now + milliseconds,
      order: this.#order++,
      daemon: options.daemon === true,
      idle: options.idle === true,
      act,
      cancel: () => {
        if (entry.act === undefined) return;
        entry.act = undefined;
        if (!entry.daemon) this.#waiting--;
      },
    };
    if (!entry.daemon) this.#waiting++;
    push(this.#heap, entry);
    this.#wake?.();
    return entry;
  }

  /**
   * Something happened outside, in real time: `act` runs as an event of its own, at the time the wall clock says. The only way in for what real
   * processes and sockets tell, so that it never falls between an event and its coming to rest.
   */
  arrive(act: () => void | Promise<void>): void {
    this.after(Math.max(0, (this.#wall?.() ?? this.#now) - this.#now), act);
  }

  /** Something outside is under way that will `arrive`: the world is not at rest until the answer is called. */
  hold(): () => void {
    let held = true;
    this.#waiting++;
    this.#held++;
    return () => {
      if (!held) return;
      held = false;
      this.#waiting--;
      this.#held--;
      this.#wake?.();
    };
  }

  /** Milliseconds that passed at once, of all until a time: by so much virtual time was ahead of the wall clock then. */
  skippedUntil(time: number): number {
    return this.#skips.reduce((sum, { from, to }) => sum + Math.max(0, Math.min(time, to) - from), 0);
  }

  /** Called after every event, once the world has come to rest: the place to check what must always hold. */
  afterEachEvent(check: () => void): void {
    this.#checks.push(check);
  }

  /** Runs `act` at this same instant, once everything that moves now has come to rest: where what came together is put into an order. */
  atRest(act: () => void): void {
    this.#atRest.push(act);
    this.#wake?.();
  }

  /** Ends the run that is under way, or the next one, with this error. The first error stays. */
  fail(error: unknown): void {
    this.#failure ??= { error };
  }

  /** Whether nothing but daemon timers is left. */
  get idle(): boolean {
    return this.#waiting === 0;
  }

  /** Virtual time of the next event, daemons included. */
  get nextAt(): number | undefined {
    this.#dropCancelled();
    return this.#heap[0]?.at;
  }

  /** Lets what was started outside an event come to rest. */
  async settle(): Promise<void> {
    await turn();
    while (this.#atRest.length > 0) {
      const acts = this.#atRest;
      this.#atRest = [];
      for (const act of acts) act();
      await turn();
    }
    this.#throwFailure();
  }

  /** Releases the next event and lets the world come to rest. Answers whether there was one. */
  async step(): Promise<boolean> {
    this.#dropCancelled();
    const entry = pop(this.#heap);
    if (entry === undefined) return false;
    const act = entry.act as () => void | Promise<void>;
    entry.act = undefined;
    if (!entry.daemon) this.#waiting--;
    this.#now = entry.at;
    this.events++;
    try {
      const pending = act();
      if (pending !== undefined) pending.catch((error: unknown) => this.fail(error));
    } catch (error) {
      this.fail(error);
    }
    await this.settle();
    for (const check of this.#checks) check();
    return true;
  }

  /** Runs until only daemon timers are left. */
  async runUntilIdle(limit: { readonly events?: number; readonly at?: number } = {}): Promise<RunEnd> {
    return await this.runUntil(() => false, limit);
  }

  /**
   * Runs until the predicate holds (asked before the first event and after each), or until a time. A predicate that never holds ends with `idle` when
   * only daemon timers are left; a time lets daemons run up to it and leaves the clock there.
   */
  async runUntil(goal: (() => boolean) | number, limit: { readonly events?: number; readonly at?: number } = {}): Promise<RunEnd> {
    if (this.#running) throw new Error("the clock runs already: await the run under way first");
    this.#running = true;
    try {
      await this.settle();
      const until = typeof goal === "number" ? goal : (limit.at ?? Number.POSITIVE_INFINITY);
      for (let count = 0; ; count++) {
        if (typeof goal === "function" && goal()) return "reached";
        if (count >= (limit.events ?? Number.POSITIVE_INFINITY)) return "limit";
        const next = this.nextAt;
        const dry = next === undefined || (typeof goal === "function" && this.idle);
        if (dry && typeof goal === "function") return "idle";
        if (next === undefined || next > until) {
          this.#now = Math.max(this.#now, Math.min(until, Number.MAX_SAFE_INTEGER));
          return typeof goal === "number" ? "reached" : "limit";
        }
        await this.step();
      }
    } finally {
      this.#running = false;
    }
  }

  /**
   * Runs in real time until the signal is raised: an event is released when the wall clock, times `speed`, reaches it. What happens outside
   * (a request at the loopback server) sees the time of its arrival.
   *
   * With `skipsIdle`, time that merely passes passes at once: the clock goes ahead to an idle timer when nothing else is due before it and nothing
   * outside is under way. From then on it is ahead of the wall clock.
   */
  async pace(options: { readonly speed: number; readonly signal: AbortSignal; readonly skipsIdle?: boolean }): Promise<void> {
    if (this.#running) throw new Error("the clock runs already: await the run under way first");
    this.#running = true;
    const startedReal = performance.now();
    let startedVirtual = this.#now;
    const virtual = () => startedVirtual + (performance.now() - startedReal) * options.speed;
    this.#wall = virtual;
    try {
      while (!options.signal.aborted) {
        const next = this.nextAt;
        if (next !== undefined && next <= virtual()) {
          await this.step();
          continue;
        }
        await this.settle();
        const idleUntil = options.skipsIdle === true ? this.#idleUntil() : undefined;
        if (idleUntil !== undefined && idleUntil > virtual()) {
          const from = virtual();
          this.#skips.push({ from, to: idleUntil });
          startedVirtual += idleUntil - from;
          continue;
        }
        // Time passes also while nothing happens: a request from outside must not see the time of the last event.
        this.#now = Math.max(this.#now, Math.min(virtual(), next ?? Number.POSITIVE_INFINITY));
        const wait = next === undefined ? 50 : Math.min(50, Math.max(0, (next - virtual()) / options.speed));
        await this.#pause(wait, options.signal);
      }
    } finally {
      this.#wall = undefined;
      this.#running = false;
    }
  }

  /** Paces until `stop`, and tells whoever waits for something else when the world breaks meanwhile. */
  paceUntilStopped(options: { readonly speed: number; readonly skipsIdle?: boolean }): Pacing {
    const stopping = new AbortController();
    const pacing = this.pace({ ...options, signal: stopping.signal });
    const broken = pacing.then(() => new Promise<never>(() => {}));
    // Whoever waits hears of it; nobody has to.
    broken.catch(() => {});
    return {
      broken,
      orBroken: (promise) => Promise.race([promise, broken]),
      stop() {
        stopping.abort();
        return pacing;
      },
    };
  }

  /** When the next that is due is an idle timer, and nothing outside is under way: its time. */
  #idleUntil(): number | undefined {
    if (this.#held > 0) return undefined;
    let first: Entry | undefined;
    for (const entry of this.#heap) {
      if (entry.act !== undefined && !entry.daemon && (first === undefined || before(entry, first))) first = entry;
    }
    return first?.idle === true ? first.at : undefined;
  }

  /** Waits in real time, or until something is scheduled or the signal is raised. */
  #pause(milliseconds: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      signal.addEventListener("abort", done);
      this.#wake = done;
    });
  }

  /** Whether somebody drives the clock at this moment. */
  get isRunning(): boolean {
    return this.#running;
  }

  #throwFailure(): void {
    if (this.#failure === undefined) return;
    const { error } = this.#failure;
    this.#failure = undefined;
    throw error;
  }

  #dropCancelled(): void {
    while (this.#heap[0] !== undefined && this.#heap[0].act === undefined) pop(this.#heap);
  }
}

const before = (a: Entry, b: Entry) => a.at < b.at || (a.at === b.at && a.order < b.order);

function push(heap: Entry[], entry: Entry): void {
  let at = heap.length;
  heap.push(entry);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    const above = heap[parent] as Entry;
    if (!before(entry, above)) break;
    heap[at] = above;
    at = parent;
  }
  heap[at] = entry;
}

function pop(heap: Entry[]): Entry | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (first === undefined || last === undefined || heap.length === 0) return first;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && before(heap[child + 1] as Entry, heap[child] as Entry)) child++;
    if (!before(heap[child] as Entry, last)) break;
    heap[at] = heap[child] as Entry;
    at = child;
  }
  heap[at] = last;
  return first;
}
