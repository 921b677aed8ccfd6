/**
 * `drover local`: the cloud on this machine, for trying everything without an account.
 *
 * The one place of the command line that knows the local cloud, and loads it only when it is started. Where it runs is written to `.drover/local.json`,
 * which every other command reads.
 */
import { spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { ClusterSummary } from "../core/api.js";
import { apiClient } from "./api-client.js";
import type { Act, Command } from "./command.js";
import { type LocalFile, localEndpoint, localFileName, readLocalFile } from "./endpoint.js";
import { badInput, CommandFailure, exitCodes } from "./failures.js";
import type { Surroundings } from "./surroundings.js";
import { counted } from "./text.js";

interface PlaceOptions {
  readonly state?: string;
}

export interface UpOptions extends PlaceOptions {
  readonly seed?: string;
  readonly speed?: string;
  readonly port?: string;
  readonly trace?: string;
  readonly release?: boolean;
  readonly assembly?: string;
  readonly foreground?: boolean;
}

export const defaultSpeed = 20;
export const defaultPort = 8470;
/** A cold start synthesizes the deployment first. */
const startWithinMilliseconds = 180_000;
const stopWithinMilliseconds = 120_000;
const lookEveryMilliseconds = 200;

interface Place {
  readonly directory: string;
  /** Where it runs, for every other command. */
  readonly file: string;
  readonly lock: string;
  readonly state: string;
  readonly log: string;
  readonly folder: string;
}

function placeOf({ state }: PlaceOptions, { directory }: Surroundings): Place {
  const root = resolve(directory, state ?? ".");
  const folder = join(root, ".drover", "local");
  return {
    directory: root,
    folder,
    file: join(root, localFileName),
    lock: join(folder, "lock"),
    state: join(folder, "state.bin"),
    log: join(folder, "local.log"),
  };
}

export const up: Act<UpOptions, []> = async (command, options) => {
  const place = placeOf(options, command.surroundings);
  const settings = readSettings(options);
  const running = await findRunning(place, command.surroundings);
  if (running !== undefined) {
    throw badInput(
      `A local cloud runs on this state already, at ${running.endpoint} (process ${running.pid})`,
      "Use it, or stop it first: drover local down",
    );
  }
  return options.foreground === true ? await serve(command, place, settings) : await startBehind(command, place, options);
};

interface Settings {
  readonly seed: string;
  readonly speed: number;
  readonly port: number;
  readonly traceFile: string | undefined;
  readonly assembly: string | undefined;
  readonly release: boolean;
}

function readSettings({ seed = "1", speed, port, trace, assembly, release = true }: UpOptions): Settings {
  const speedNumber = Number(speed ?? defaultSpeed);
  if (!(speedNumber >= 0.1 && speedNumber <= 10_000))
    throw badInput(`--speed must be a number from 0.1 to 10000; found "${speed}"`, "20 makes five minutes fifteen seconds");
  const portNumber = Number(port ?? defaultPort);
  if (!Number.isInteger(portNumber) || portNumber < 0 || portNumber > 65_535) {
    throw badInput(`--port must be a whole number from 0 to 65535; found "${port}"`, "0 takes any free port");
  }
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(seed))
    throw badInput(`--seed must be 1 to 64 letters, digits, hyphens or underscores; found "${seed}"`, "Such as --seed 7");
  return { seed, speed: speedNumber, port: portNumber, traceFile: trace, assembly, release };
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Serving

async function serve(command: Command, place: Place, settings: Settings): Promise<0> {
  const { surroundings } = command;
  takeLock(place);
  try {
    const cloud = await start(command, place, settings);
    const file: LocalFile = {
      schema: 1,
      endpoint: cloud.url,
      region: cloud.region,
      accessKeyId: cloud.accessKeyId,
      secretAccessKey: cloud.secretAccessKey,
      pid: process.pid,
      speed: settings.speed,
      virtualMilliseconds: cloud.virtualMilliseconds,
      realMilliseconds: cloud.realMilliseconds,
    };
    await writeLocalFile(place.file, file);
    tellWhatNext(command, place, file, cloud.goesOn ? "goes on where it stopped" : `new, seed ${cloud.seed}`);
    try {
      await Promise.race([cloud.broken, aborted(surroundings.interrupted)]);
    } catch (error) {
      command.tell("The local cloud broke off; the next start goes on from its last rest, before the operations that were under way\n");
      throw error;
    } finally {
      await rm(place.file, { force: true });
      await cloud.stop();
    }
    command.tell("Stopped; everything is remembered\n");
    return exitCodes.ok;
  } finally {
    rmSync(place.lock, { force: true });
  }
}

async function start(command: Command, place: Place, settings: Settings) {
  const { startLocalCloud } = await import("../local/serve.js");
  const { surroundings } = command;
  const path = (given: string | undefined) => (given === undefined ? undefined : resolve(surroundings.directory, given));
  try {
    return await startLocalCloud({
      ...settings,
      traceFile: path(settings.traceFile),
      assembly: path(settings.assembly),
      stateFile: place.state,
      now: surroundings.now,
      say: (line) => command.tell(`${line}\n`),
    });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "EADDRINUSE")
      throw badInput(`Port ${settings.port} is in use by another program`, "Choose another: drover local up --port 0 takes any free one");
    if (code === "EACCES") throw badInput(`The local cloud may not use what it needs: ${message}`, "Choose another --port, --state or --trace");
    if (/drover local reset/.test(message))
      throw badInput(message.replace(/\. Start anew.*$/, ""), "Start anew: drover local reset --yes, then drover local up");
    throw error;
  }
}

const aborted = (signal: AbortSignal) =>
  new Promise<void>((done) => (signal.aborted ? done() : signal.addEventListener("abort", () => done(), { once: true })));

function tellWhatNext(command: Command, place: Place, file: LocalFile, how: string): void {
  const { directory } = command.surroundings;
  const elsewhere = place.directory === directory ? "" : `Commands find it from ${place.directory} and the folders below.\n`;
  command.answer(
    { running: true, endpoint: file.endpoint, region: file.region, pid: file.pid, speed: file.speed, state: place.folder },
    [
      `A local cloud serves at ${file.endpoint}, ${file.speed} times as fast as real time (${how})`,
      "Try:",
      "  drover create examples/ha.yaml",
      "  drover status ha",
      "  drover delete ha",
      "Stop it: drover local down",
    ].join("\n") + `\n${elsewhere}`,
  );
}

/** One process on a state: the lock names it, and one that has died is passed over. */
function takeLock(place: Place): void {
  mkdirSync(place.folder, { recursive: true, mode: 0o700 });
  for (let tries = 1; ; tries++) {
    try {
      writeFileSync(place.lock, String(process.pid), { flag: "wx", mode: 0o600 });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      const holder = Number(readIfThere(place.lock));
      if (tries > 1 || isLocalCloud(holder))
        throw badInput(`Another local cloud is being started on this state (process ${holder})`, "Wait for it, or look: drover local status");
      rmSync(place.lock, { force: true });
    }
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** Whether a process lives and is a local cloud: ids are used again after a restart of the machine. */
function isLocalCloud(pid: number): boolean {
  if (!Number.isInteger(pid) || pid <= 1) return false;
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  const words = readIfThere(`/proc/${pid}/cmdline`);
  return words === "" || /\0local\0up\0/.test(`${words}\0`);
}

async function writeLocalFile(path: string, file: LocalFile): Promise<void> {
  const fresh = `${path}.${process.pid}`;
  rmSync(fresh, { force: true });
  writeFileSync(fresh, `${JSON.stringify(file, null, 2)}\n`, { mode: 0o600, flag: "wx" });
  await rename(fresh, path);
}

/** The local cloud that answers on this state. What a dead one left is taken away. */
async function findRunning(place: Place, surroundings: Surroundings): Promise<LocalFile | undefined> {
  const file = await readLocalFile(place.file);
  if (file === undefined) return undefined;
  if (isLocalCloud(file.pid) && (await clustersAt(file, surroundings)) !== undefined) return file;
  if (!isLocalCloud(file.pid)) await rm(place.file, { force: true });
  return undefined;
}

/** Asks with the keys that only this local cloud takes; undefined when it is another program that answers, or none. */
async function clustersAt(file: LocalFile, surroundings: Surroundings): Promise<readonly ClusterSummary[] | undefined> {
  try {
    return (await apiClient(localEndpoint(file, surroundings), surroundings).call<{ clusters: readonly ClusterSummary[] }>("listClusters")).clusters;
  } catch (error) {
    if (error instanceof CommandFailure && error.exit !== "interrupted") return undefined;
    throw error;
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Behind the terminal

/** Starts the same command in the foreground of a process of its own, and waits until it serves. */
async function startBehind(command: Command, place: Place, options: UpOptions): Promise<0> {
  const { surroundings } = command;
  mkdirSync(place.folder, { recursive: true, mode: 0o700 });
  const flags = (["seed", "speed", "port", "trace", "assembly"] as const).flatMap((name) =>
    options[name] === undefined ? [] : [`--${name}`, options[name]],
  );
  const words = ["local", "up", "--foreground", "--state", place.directory, ...flags, ...(options.release === false ? ["--no-release"] : [])];
  const log = openSync(place.log, "a", 0o600);
  const child = spawn(process.execPath, [fileURLToPath(new URL("drover.js", import.meta.url)), ...words], {
    cwd: surroundings.directory,
    detached: true,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  let exit: number | undefined;
  child.once("exit", (code) => {
    exit = code ?? exitCodes.fault;
  });
  child.once("error", () => {
    exit = exitCodes.fault;
  });
  const deadline = surroundings.now() + startWithinMilliseconds;
  let isTold = false;
  for (;;) {
    const file = await readLocalFile(place.file);
    if (file !== undefined && file.pid === child.pid) {
      child.unref();
      tellWhatNext(command, place, file, `process ${file.pid}, log ${place.log}`);
      return exitCodes.ok;
    }
    if (exit !== undefined) {
      const said = readIfThere(place.log).trimEnd().split("\n").slice(-2).join(" ");
      const kind = Object.entries(exitCodes).find(([, code]) => code === exit)?.[0] as keyof typeof exitCodes | undefined;
      throw new CommandFailure(
        kind === undefined || kind === "ok" ? "fault" : kind,
        `The local cloud did not start: ${said}`,
        `Its log is ${place.log}`,
      );
    }
    if (surroundings.interrupted.aborted || surroundings.now() > deadline) {
      child.kill("SIGTERM");
      throw new CommandFailure("interrupted", "The local cloud was not up in time and was stopped", `Its log is ${place.log}`);
    }
    if (!isTold) command.tell("Starting a local cloud; the first start synthesizes the deployment, which takes a moment\n");
    isTold = true;
    await surroundings.sleep(lookEveryMilliseconds);
  }
}

export const down: Act<PlaceOptions, []> = async (command, options) => {
  const { surroundings } = command;
  const place = placeOf(options, surroundings);
  const file = await readLocalFile(place.file);
  const pid = file?.pid ?? Number(readIfThere(place.lock));
  if (!isLocalCloud(pid)) {
    await rm(place.file, { force: true });
    rmSync(place.lock, { force: true });
    command.answer({ running: false, stopped: false }, `No local cloud runs on the state in ${place.directory}.\n`);
    return exitCodes.ok;
  }
  process.kill(pid, "SIGTERM");
  command.tell("Stopping; operations that are under way run to their end first\n");
  const deadline = surroundings.now() + stopWithinMilliseconds;
  while (isLocalCloud(pid)) {
    if (surroundings.interrupted.aborted || surroundings.now() > deadline) {
      throw new CommandFailure("interrupted", `Process ${pid} has not stopped yet`, `Its log is ${place.log}. Look again: drover local status`);
    }
    await surroundings.sleep(lookEveryMilliseconds);
  }
  command.answer({ running: false, stopped: true }, "Stopped; everything is remembered. Start it again: drover local up\n");
  return exitCodes.ok;
};

export const localStatus: Act<PlaceOptions, []> = async (command, options) => {
  const { surroundings } = command;
  const place = placeOf(options, surroundings);
  const file = await findRunning(place, surroundings);
  if (file === undefined) {
    const hasState = existsSync(place.state);
    command.answer(
      { running: false, hasState, state: place.folder },
      `No local cloud runs on the state in ${place.directory}${hasState ? ", which remembers an account" : ""}. Start it: drover local up\n`,
    );
    return exitCodes.notFound;
  }
  const clusters = (await clustersAt(file, surroundings)) ?? [];
  command.answer(
    { running: true, endpoint: file.endpoint, region: file.region, pid: file.pid, speed: file.speed, state: place.folder, clusters: clusters.length },
    `A local cloud serves at ${file.endpoint}, ${file.speed} times as fast as real time, process ${file.pid}, with ${counted(clusters.length, "cluster")}\n`,
  );
  return exitCodes.ok;
};

export const reset: Act<PlaceOptions & { readonly yes?: boolean }, []> = async (command, options) => {
  const { surroundings } = command;
  const place = placeOf(options, surroundings);
  const running = await findRunning(place, surroundings);
  if (running !== undefined) throw badInput(`The local cloud at ${running.endpoint} runs`, "Stop it first: drover local down");
  if (isLocalCloud(Number(readIfThere(place.lock))))
    throw badInput("A local cloud is being started on this state", "Stop it first: drover local down");
  if (options.yes !== true) {
    if (surroundings.ask === undefined)
      throw badInput("This is not a terminal, so nobody can be asked; nothing was changed", "Start the command again with --yes");
    const answer = await surroundings.ask(`Forget the local account in ${place.folder}, with all its clusters? [y/N] `);
    if (!/^y(es)?$/i.test(answer?.trim() ?? "")) {
      command.answer({ changed: false }, "Nothing was changed.\n");
      return exitCodes.ok;
    }
  }
  for (const path of [place.state, `${place.state}.new`, place.log, place.lock, place.file]) await rm(path, { force: true });
  command.answer({ changed: true }, "Forgotten. Start a new one: drover local up\n");
  return exitCodes.ok;
};
