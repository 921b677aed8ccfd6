/**
 * Where a handler runs: the deployed bundle, compiled once, with its own environment, a virtual clock, seeded randomness, and no way out but the
 * local cloud.
 *
 * A container is one run of the bundle's module code. That costs tens of milliseconds, so a container is lent to one world after another: what it
 * sees of a world goes through `Host`, which is exchanged. What would tell worlds apart (randomness and time while the module is loaded) is fixed.
 */
import { Console } from "node:console";
import * as crypto from "node:crypto";
import { EventEmitter } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { Writable } from "node:stream";
import vm from "node:vm";
import type { Random, Timer } from "./contract.js";
import { Unmodelled } from "./contract.js";
import { SeededRandom } from "./random.js";
import type { Serve } from "./transport.js";
import { httpModule } from "./transport.js";

/** The world as a container sees it while it handles one request. */
export interface Host {
  now(): number;
  after(milliseconds: number, act: () => void): Timer;
  readonly random: Random;
  readonly serve: Serve;
  log(line: string): void;
  /** The handler ended its own process. */
  exit(code: number): void;
  /** What is not modelled stops the world, not only the handler that met it. */
  fail(error: Error): void;
}

export type Handler = (event: unknown, context: unknown) => unknown;

/** Time while a module is loaded, the same for every world: 2026-01-05T02:00:00Z. */
const loadedAt = Date.UTC(2026, 0, 5, 2);

const nodeRequire = createRequire(import.meta.url);

const parameters = [
  "require",
  "module",
  "exports",
  "__filename",
  "__dirname",
  "process",
  "globalThis",
  "global",
  "Date",
  "Math",
  "setTimeout",
  "clearTimeout",
  "setInterval",
  "clearInterval",
  "setImmediate",
  "clearImmediate",
  "performance",
  "crypto",
  "console",
  "fetch",
] as const;

type Compiled = (...values: unknown[]) => void;
const compiled = new Map<string, Compiled>();

/** Compiles a bundle once in this process. */
function compile(folder: string, file: string): Compiled {
  const path = join(folder, file);
  let found = compiled.get(path);
  if (found === undefined) {
    if (!existsSync(path)) throw new Unmodelled(`no ${file} in ${folder}: only bundles of one CommonJS file are modelled`);
    // The name that a stack trace shows is the one it has in Lambda.
    found = vm.compileFunction(readFileSync(path, "utf8"), [...parameters], { filename: `/var/task/${file}` }) as Compiled;
    compiled.set(path, found);
  }
  return found;
}

/** A host for while the module is loaded: nothing of a world is there yet. */
function loadingHost(name: string): Host {
  return {
    now: () => loadedAt,
    after: () => ({ cancel: () => {} }),
    random: new SeededRandom(`load ${name}`),
    serve: () => {
      throw new Unmodelled(`${name} makes a request while its module is loaded`);
    },
    log: () => {},
    exit: (code) => {
      throw new Error(`exit ${code} while the module is loaded`);
    },
    fail: (error) => {
      throw error;
    },
  };
}

const mostTroubles = 20;

export class Container {
  #host: Host;
  readonly handler: Handler;
  readonly #timers = new Map<number, Timer>();
  #nextTimer = 1;
  #dead = false;
  /** Answers that the SDK's clients took as a reason to try again. */
  #troubles = 0;

  constructor(
    readonly name: string,
    folder: string,
    handler: string,
    environment: Readonly<Record<string, string>>,
  ) {
    this.#host = loadingHost(name);
    const [file, exported] = handler.split(/\.(?=[^.]+$)/) as [string, string?];
    const run = compile(folder, `${file}.js`);
    const module = { exports: {} as Record<string, unknown> };
    const scope = this.#scope({ ...environment });
    const named: Record<(typeof parameters)[number], unknown> = {
      ...scope,
      module,
      exports: module.exports,
      __filename: `/var/task/${file}.js`,
      __dirname: "/var/task",
      global: scope.globalThis,
    };
    run.apply(
      module.exports,
      parameters.map((parameter) => named[parameter]),
    );
    const found = module.exports[exported ?? "handler"];
    if (typeof found !== "function") throw new Unmodelled(`${name}: ${file}.js exports no function "${exported ?? "handler"}"`);
    this.handler = found as Handler;
  }

  /** Gives the container to an invocation. */
  attach(host: Host): void {
    this.#host = host;
  }

  /** Forgets the world it served, which would otherwise be kept in memory as long as the container is. */
  detach(): void {
    this.freeze();
    this.#host = loadingHost(this.name);
  }

  /**
   * Whether it may be lent to another world: not once it holds in memory what would make it act otherwise than a fresh one. SDK clients keep a budget of 500
   * for retries, of which one takes 5 or 10 until it succeeds: a few leave everything as it was.
   */
  get isClean(): boolean {
    return !this.#dead && this.#troubles <= mostTroubles;
  }

  sawTrouble(): void {
    this.#troubles++;
  }

  /** Between two requests a container stands still: its timers are gone, as far as anyone can tell. */
  freeze(): void {
    for (const timer of this.#timers.values()) timer.cancel();
    this.#timers.clear();
  }

  /** The container is gone; nothing of it goes on. */
  kill(): void {
    this.#dead = true;
    this.freeze();
  }

  get isAlive(): boolean {
    return !this.#dead;
  }

  #setTimer(act: (...values: unknown[]) => void, milliseconds: unknown, values: readonly unknown[], again: boolean): object {
    const id = this.#nextTimer++;
    const delay = Math.max(again ? 1 : 0, Number(milliseconds) || 0);
    const start = () => {
      this.#timers.set(
        id,
        this.#host.after(delay, () => {
          this.#timers.delete(id);
          if (this.#dead) return;
          if (again) start();
          act(...values);
        }),
      );
    };
    start();
    const handle = { id, ref: () => handle, unref: () => handle, hasRef: () => true, refresh: () => handle, [Symbol.toPrimitive]: () => id };
    return handle;
  }

  #clearTimer(handle: unknown): void {
    const id = typeof handle === "number" ? handle : (handle as { id?: number } | undefined)?.id;
    if (id === undefined) return;
    this.#timers.get(id)?.cancel();
    this.#timers.delete(id);
  }

  #scope(environment: Record<string, string>) {
    const host = () => this.#host;
    const VirtualDate: DateConstructor = new Proxy(Date, {
      construct: (target, given, made): Date =>
        Reflect.construct(target, given.length === 0 ? [host().now()] : given, made === VirtualDate ? target : made),
      apply: () => new Date(host().now()).toString(),
      get: (target, name) => (name === "now" ? () => Math.floor(host().now()) : Reflect.get(target, name)),
    });
    const math = Object.create(Math, { random: { value: () => host().random.next() } }) as Math;
    const performance = {
      now: () => host().now() - loadedAt,
      timeOrigin: loadedAt,
      mark: () => undefined,
      measure: () => undefined,
    };
    const timers = {
      setTimeout: (act: () => void, milliseconds?: number, ...values: unknown[]) => this.#setTimer(act, milliseconds, values, false),
      setInterval: (act: () => void, milliseconds?: number, ...values: unknown[]) => this.#setTimer(act, milliseconds, values, true),
      setImmediate: (act: () => void, ...values: unknown[]) => this.#setTimer(act, 0, values, false),
      clearTimeout: (handle: unknown) => this.#clearTimer(handle),
      clearInterval: (handle: unknown) => this.#clearTimer(handle),
      clearImmediate: (handle: unknown) => this.#clearTimer(handle),
    };
    const cryptoModule = virtualCrypto(host);
    const output = () =>
      new Writable({
        decodeStrings: false,
        write: (chunk: string | Buffer, _encoding, done) => {
          for (const line of String(chunk).split("\n")) if (line !== "") host().log(line);
          done();
        },
      });
    const [stdout, stderr] = [output(), output()];
    const process = virtualProcess(host, environment, stdout, stderr);
    const console = new Console({ stdout, stderr });
    const fetch = () => refuse(host, "fetch");
    const globals: Record<string, unknown> = {
      Date: VirtualDate,
      Math: math,
      ...timers,
      performance,
      crypto: cryptoModule.webcrypto,
      console,
      process,
      fetch,
    };
    const sandbox = Object.create(globalThis, {
      ...Object.fromEntries(Object.entries(globals).map(([name, value]) => [name, { value, writable: true, configurable: true, enumerable: true }])),
      globalThis: { get: () => sandbox },
      global: { get: () => sandbox },
    }) as Record<string, unknown>;
    const https = httpModule((request) => host().serve(request));
    const modules: Record<string, unknown> = {
      http: https,
      https,
      crypto: cryptoModule,
      timers: { ...timers, promises: promiseTimers(timers) },
      "timers/promises": promiseTimers(timers),
      perf_hooks: { performance },
      process,
      console: Object.assign(Object.create(console), { Console, default: console }),
      fs: absentFiles(),
      "fs/promises": absentFiles().promises,
      os: { ...nodeRequire("node:os"), ...fixedMachine },
    };
    const require = (name: string): unknown => {
      const plain = name.replace(/^node:/, "");
      modules[plain] ??= plainModules.has(plain) ? nodeRequire(`node:${plain}`) : refusing(host, plain);
      return modules[plain];
    };
    return { ...globals, ...timers, require, globalThis: sandbox } as Record<Exclude<(typeof parameters)[number], "module" | "exports">, unknown>;
  }
}

/** Modules that compute, and neither wait nor look at the machine. */
const plainModules = new Set([
  "assert",
  "async_hooks",
  "buffer",
  "constants",
  "diagnostics_channel",
  "events",
  "path",
  "path/posix",
  "punycode",
  "querystring",
  "stream",
  "stream/promises",
  "stream/web",
  "string_decoder",
  "url",
  "util",
  "util/types",
]);

const fixedMachine = {
  hostname: () => "lambda",
  homedir: () => "/home/sbx_user1051",
  tmpdir: () => "/tmp",
  platform: () => "linux",
  release: () => "5.10",
  arch: () => "arm64",
  type: () => "Linux",
  cpus: () => [],
  totalmem: () => 512 * 1024 * 1024,
  freemem: () => 256 * 1024 * 1024,
  uptime: () => 60,
  networkInterfaces: () => ({}),
};

function refuse(host: () => Host, what: string): never {
  const error = new Unmodelled(`a handler uses ${what}`);
  host().fail(error);
  throw error;
}

/** A module whose constants may be read and whose functions stop the world: bundles carry code that is never reached. */
function refusing(host: () => Host, name: string): unknown {
  let real: Record<string, unknown>;
  try {
    real = nodeRequire(`node:${name}`) as Record<string, unknown>;
  } catch {
    throw new Unmodelled(`a handler needs the module "${name}", which is not in its bundle`);
  }
  const copy: Record<string, unknown> = {};
  for (const [member, value] of Object.entries(real)) {
    // zlib's synchronous functions compute in place; the others use threads, whose order no seed decides.
    const computes = name === "zlib" && (member.endsWith("Sync") || member === "crc32");
    copy[member] =
      typeof value === "function" && !computes
        ? function refused() {
            return refuse(host, `${name}.${member}`);
          }
        : value;
  }
  return copy;
}

function virtualCrypto(host: () => Host) {
  const bytes = (size: number) => Buffer.from(host().random.hex(2 * size), "hex");
  const fill = <T extends NodeJS.ArrayBufferView>(view: T): T => {
    const drawn = bytes(view.byteLength);
    new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(drawn);
    return view;
  };
  const randomUUID = () => {
    const raw = bytes(16);
    raw[6] = ((raw[6] as number) & 0x0f) | 0x40;
    raw[8] = ((raw[8] as number) & 0x3f) | 0x80;
    return raw.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  };
  const settled =
    <T>(compute: () => T) =>
    (callback: ((error: null, value: T) => void) | undefined): T | undefined => {
      const value = compute();
      if (callback === undefined) return value;
      queueMicrotask(() => callback(null, value));
      return undefined;
    };
  const subtle = new Proxy({}, { get: (_, name) => () => refuse(host, `crypto.subtle.${String(name)}`) });
  const webcrypto = { getRandomValues: fill, randomUUID, subtle };
  const drawn = {
    randomBytes: (size: number, callback?: (error: null, value: Buffer) => void) => settled(() => bytes(size))(callback),
    randomFillSync: fill,
    randomUUID,
    randomInt: (low: number, high?: number | ((error: null, value: number) => void), callback?: (error: null, value: number) => void) => {
      const [from, to] = typeof high === "number" ? [low, high] : [0, low];
      return settled(() => from + host().random.integer(to - from))(typeof high === "function" ? high : callback);
    },
    getRandomValues: fill,
    webcrypto,
    subtle,
  };
  const threaded = [
    "randomFill",
    "pbkdf2",
    "scrypt",
    "hkdf",
    "generateKeyPair",
    "generateKey",
    "generatePrime",
    "checkPrime",
    "generateKeyPairSync",
    "generateKeySync",
  ];
  return {
    ...crypto,
    ...Object.fromEntries(threaded.map((name) => [name, () => refuse(host, `crypto.${name}, whose result no seed decides`)])),
    ...drawn,
  };
}

function promiseTimers(timers: { setTimeout: (act: () => void, milliseconds?: number) => unknown }) {
  const later = <T>(milliseconds: number, value: T) => new Promise<T>((resolve) => timers.setTimeout(() => resolve(value), milliseconds));
  return {
    setTimeout: later,
    setImmediate: <T>(value: T) => later(0, value),
    scheduler: { wait: (milliseconds: number) => later(milliseconds, undefined), yield: () => later(0, undefined) },
  };
}

/** A file system with nothing in it: no profile, no configuration file, no cache. */
function absentFiles() {
  const missing = (path: unknown) =>
    Object.assign(new Error(`ENOENT: no such file or directory, open '${String(path)}'`), { code: "ENOENT", errno: -2 });
  const reject = (path: unknown) => Promise.reject(missing(path));
  const raise = (path: unknown) => {
    throw missing(path);
  };
  const callback = (path: unknown, ...rest: unknown[]) => queueMicrotask(() => (rest.at(-1) as (error: Error) => void)(missing(path)));
  const names = ["readFile", "stat", "lstat", "access", "readdir", "writeFile", "mkdir", "open", "unlink", "rename"];
  const promises = Object.fromEntries(names.map((name) => [name, reject]));
  return {
    ...Object.fromEntries(names.flatMap((name) => [[name, callback] as const, [`${name}Sync`, raise] as const])),
    promises,
    existsSync: () => false,
    createReadStream: raise,
    createWriteStream: raise,
    constants: (nodeRequire("node:fs") as { constants: unknown }).constants,
    // The SDK asks whether a stream it is given reads a file.
    ReadStream: class ReadStream {},
    WriteStream: class WriteStream {},
  } as Record<string, unknown> & { promises: unknown };
}

function virtualProcess(host: () => Host, env: Record<string, string>, stdout: Writable, stderr: Writable): Record<string, unknown> {
  const emitter = new EventEmitter();
  const nanoseconds = () => BigInt(Math.round((host().now() - loadedAt) * 1e6));
  const hrtime = Object.assign(
    (since?: readonly [number, number]) => {
      const now = nanoseconds() - (since === undefined ? 0n : BigInt(since[0]) * 1_000_000_000n + BigInt(since[1]));
      return [Number(now / 1_000_000_000n), Number(now % 1_000_000_000n)];
    },
    { bigint: nanoseconds },
  );
  const own: Record<string, unknown> = {
    env,
    argv: ["/var/lang/bin/node", "/var/runtime/index.mjs"],
    execArgv: [],
    execPath: "/var/lang/bin/node",
    version: process.version,
    versions: process.versions,
    release: process.release,
    features: process.features,
    config: process.config,
    platform: "linux",
    arch: "arm64",
    pid: 8,
    ppid: 1,
    title: "node",
    nextTick: process.nextTick.bind(process),
    hrtime,
    uptime: () => (host().now() - loadedAt) / 1000,
    cwd: () => "/var/task",
    memoryUsage: () => ({ rss: 80_000_000, heapTotal: 40_000_000, heapUsed: 30_000_000, external: 1_000_000, arrayBuffers: 100_000 }),
    emitWarning: () => {},
    exit: (code?: number) => host().exit(code ?? 0),
    abort: () => host().exit(134),
    umask: () => 0o022,
    getuid: () => 993,
    stdout,
    stderr,
  };
  for (const name of ["on", "once", "off", "addListener", "removeListener", "removeAllListeners", "emit", "listeners", "listenerCount"] as const) {
    own[name] = emitter[name].bind(emitter);
  }
  return own;
}
