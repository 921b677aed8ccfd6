/**
 * The machine as the stand-in sees it: its paths, its log, its processes, its waits.
 *
 * Environment  RKE2_STAND_IN_VERSION   the release it stands in for; set by the launcher, bin/rke2
 *              RKE2_STAND_IN_ROOT      tests only: put before every path of the machine
 *              RKE2_STAND_IN_LOOPBACK  tests only: address in the place of 127.0.0.1 and 0.0.0.0, so that several nodes share one machine
 *              RKE2_STAND_IN_PACE      tests only: its own waits are so many times shorter
 */
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export const root = process.env["RKE2_STAND_IN_ROOT"] ?? "";
export const version = process.env["RKE2_STAND_IN_VERSION"] ?? "v0.0.0+rke2r0";
export const pace = Number(process.env["RKE2_STAND_IN_PACE"] ?? 1);
const apart = process.env["RKE2_STAND_IN_LOOPBACK"];
export const loopback = apart ?? "127.0.0.1";
export const everyAddress = apart ?? "0.0.0.0";

/** Where an address of this machine's loopback really is. */
export const resolveHost = (host: string) => (host === "127.0.0.1" ? loopback : host);

/** Path on the machine. */
export const at = (path: string) => `${root}${path}`;

let dataDir = "/var/lib/rancher/rke2";
/** Chooses another data directory (`data-dir`), before anything is looked up. */
export function useDataDir(directory: string): void {
  dataDir = directory;
}
/** Paths as RKE2 and the machine call them, without the tests' root: what is written into files and messages. */
export const places = {
  data: (...parts: string[]) => join(dataDir, ...parts),
  server: (...parts: string[]) => join(dataDir, "server", ...parts),
  agent: (...parts: string[]) => join(dataDir, "agent", ...parts),
};
/** The same as files. */
export const data = (...parts: string[]) => at(places.data(...parts));
export const server = (...parts: string[]) => at(places.server(...parts));
export const agent = (...parts: string[]) => at(places.agent(...parts));
export const etc = (...parts: string[]) => at(join("/etc/rancher", ...parts));
export const run = (...parts: string[]) => at(join("/run/k3s", ...parts));

export type Level = "info" | "warning" | "error" | "fatal";

/** One line of the log, in logrus' form. */
export function say(level: Level, message: string): void {
  process.stderr.write(`time="${new Date().toISOString().slice(0, 19)}Z" level=${level} msg=${JSON.stringify(message)}\n`);
}

/** Ends the process as RKE2 does for what it finds before it has begun: status 1. */
export function fatal(message: string): never {
  say("fatal", message);
  process.exit(1);
}

/** Ends the process as RKE2 does for what it finds while it runs: an internal shutdown request, status 0, whatever the reason. */
export function shutDown(reason: string): never {
  say("error", `Shutdown request received: ${reason}`);
  process.exit(0);
}

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Waits; the length is what RKE2 would wait. */
export const pause = (seconds: number) => new Promise<void>((resolve) => setTimeout(resolve, (seconds * 1000) / pace));

/** Calls again and again for ever, the first time at once. A failure is the next call's to mend; it is told once. */
export async function every(seconds: number, what: string, act: () => Promise<void>): Promise<never> {
  let told = "";
  for (;;) {
    try {
      await act();
      told = "";
    } catch (error) {
      if (reasonOf(error) !== told) say("warning", `${what}: ${reasonOf(error)}`);
      told = reasonOf(error);
    }
    await pause(seconds);
  }
}

export function read(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}

/** Writes the whole file or nothing; leaves one that is the same untouched, so that its time still says when it changed. */
export function write(path: string, content: string | Uint8Array, mode = 0o600): void {
  if (existsSync(path) && readFileSync(path).equals(Buffer.from(content))) {
    chmodSync(path, mode);
    return;
  }
  mkdirSync(dirname(path), { recursive: true, mode: path.startsWith(server()) ? 0o700 : 0o755 });
  const beside = `${path}.${process.pid}.new`;
  writeFileSync(beside, content, { mode });
  chmodSync(beside, mode);
  renameSync(beside, path);
}

/** Tells systemd (Type=notify) that the service has started. As root systemd-notify speaks with its parent's process id, which is what counts. */
export function notifyReady(): void {
  if (process.env["NOTIFY_SOCKET"] === undefined) return;
  const { status, error } = spawnSync("systemd-notify", ["--ready"], { stdio: "ignore" });
  if (status !== 0) say("error", `systemd was not told that the service is ready: ${error?.message ?? `systemd-notify ended with ${status}`}`);
}
