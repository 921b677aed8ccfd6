/**
 * The local cloud for the command line: a world that keeps pace with the wall clock, serves the HTTP API on loopback, and is remembered between starts.
 *
 * A world can be saved only at rest. It is saved when it comes to rest, and stopping lets what is under way run to its end first: its time is virtual,
 * so nobody waits for it.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { deserialize, serialize } from "node:v8";
import type { S3 } from "./aws/s3.js";
import type { Sfn } from "./aws/sfn.js";
import { seedWholeRelease } from "./aws/stand-in-release.js";
import { personCredentials } from "./kernel/http-api.js";
import type { SavedWorld } from "./world.js";
import { World } from "./world.js";

export interface LocalCloudOptions {
  /** File in which the account is remembered. */
  readonly stateFile: string;
  /** Of a new account; one that is remembered keeps its own. */
  readonly seed: string;
  /** Virtual seconds in a second. */
  readonly speed: number;
  /** 0 takes any free one. */
  readonly port: number;
  /** Gets every AWS call as a line of JSON. */
  readonly traceFile?: string | undefined;
  /** Whether a new account's artifact store holds a release that stands in for RKE2's. */
  readonly release: boolean;
  /** Folder of the synthesized assembly; made when it is not given. */
  readonly assembly?: string | undefined;
  /** Milliseconds since the epoch, for the beginning of a new account. */
  readonly now: () => number;
  /** What a person should know: one line. */
  readonly say: (line: string) => void;
}

export interface LocalCloud {
  readonly url: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly seed: string;
  /** Whether it goes on from an earlier start. */
  readonly goesOn: boolean;
  /** One instant on both clocks. */
  readonly virtualMilliseconds: number;
  readonly realMilliseconds: number;
  readonly world: World;
  /** Rejects when the world breaks: something that nobody models was asked of it. */
  readonly broken: Promise<never>;
  /** Ends what is under way, remembers the account, closes the door. */
  stop(): Promise<void>;
}

/** The release that examples ask for. */
export const standInVersion = "v1.35.7+rke2r1";

interface StateFile {
  readonly schema: 1;
  readonly seed: string;
  readonly world: SavedWorld;
}

/** Longest virtual time that stopping gives to what is under way: every machine ends within it. */
const finishWithinMilliseconds = 48 * 3600_000;
const saveEveryMilliseconds = 1000;

/** @throws when the port is taken (EADDRINUSE), or the state cannot be read */
export async function startLocalCloud(options: LocalCloudOptions): Promise<LocalCloud> {
  const { stateFile, say } = options;
  const saved = readState(stateFile);
  const trace = options.traceFile === undefined ? undefined : openSync(options.traceFile, "a", 0o600);
  const seed = saved?.seed ?? options.seed;
  const realMilliseconds = options.now();
  const world = World.boot({
    assembly: options.assembly ?? (await makeAssembly(say)),
    seed,
    startAt: realMilliseconds,
    ...(saved === undefined ? {} : { saved: saved.world }),
    ...(trace === undefined ? {} : { trace: (entry) => void writeSync(trace, `${JSON.stringify(entry)}\n`) }),
  });
  if (saved === undefined && options.release) seedWholeRelease(world.service<S3>("s3"), world.environment("ARTIFACT_BUCKET"), standInVersion);
  const door = await world.api.serve(options.port);

  const virtualMilliseconds = world.clock.now();
  const pacing = world.clock.paceUntilStopped({ speed: options.speed });

  const save = keeper(world, seed, stateFile);
  save();
  const saving = setInterval(() => {
    try {
      save();
    } catch (error) {
      say(`The state could not be written: ${error instanceof Error ? error.message : String(error)}`);
    }
  }, saveEveryMilliseconds);
  saving.unref();

  return {
    url: door.url,
    region: world.region,
    ...personCredentials("operator"),
    seed,
    goesOn: saved !== undefined,
    virtualMilliseconds,
    realMilliseconds,
    world,
    broken: pacing.broken,
    async stop() {
      clearInterval(saving);
      const stopped = pacing.stop();
      await door.close();
      try {
        await stopped;
        await finish(world, say);
        save();
      } finally {
        world.close();
        if (trace !== undefined) closeSync(trace);
      }
    },
  };
}

async function makeAssembly(say: (line: string) => void): Promise<string> {
  const { ensureAssembly } = await import("../cdk/app.js");
  const assembly = await ensureAssembly(join(dirname(dirname(fileURLToPath(import.meta.url))), "cdk.out"), { validate: false });
  if (assembly.made) say(`Synthesized the deployment in ${assembly.seconds.toFixed(0)} s`);
  return assembly.directory;
}

/** Lets operations that run come to their end. */
async function finish(world: World, say: (line: string) => void): Promise<void> {
  if (world.clock.idle) return;
  const running = world.service<Sfn>("sfn").running().length;
  if (running > 0) say(`${running} operation(s) are under way: running them to their end first, in virtual time`);
  const end = await world.clock.runUntilIdle({ at: world.clock.now() + finishWithinMilliseconds });
  if (end === "limit") throw new Error("what is under way does not end, so what happened since the last rest is not remembered");
}

function readState(path: string): StateFile | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    const state = deserialize(bytes) as StateFile;
    if (state.schema === 1 && state.world.version === 1) return state;
  } catch {
    // Said below: a file of another kind and one that is cut short are told the same.
  }
  throw new Error(`${path} is not the state of a local cloud, or of another version. Start anew: drover local reset, then drover local up`);
}

/** Writes the account's state if it is at rest and something has happened since the last time. */
function keeper(world: World, seed: string, path: string): () => void {
  let kept = "";
  return () => {
    const calls = [...world.calls.counts.values()].reduce((sum, callers) => sum + [...callers.values()].reduce((a, b) => a + b, 0), 0);
    const mark = `${world.clock.events} ${calls}`;
    if (mark === kept || !world.clock.idle) return;
    const state: StateFile = { schema: 1, seed, world: world.save() };
    replaceFile(path, serialize(state));
    kept = mark;
  };
}

/** A reader sees the old file or the new one, never half. */
function replaceFile(path: string, content: Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const fresh = `${path}.new`;
  const file = openSync(fresh, "w", 0o600);
  try {
    for (let at = 0; at < content.byteLength; ) at += writeSync(file, content, at);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(fresh, path);
}
