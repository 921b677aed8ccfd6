/**
 * Static pods: processes that outlive the service, as containers outlive it.
 *
 * A manifest in the pod directory is wish and record at once; the node's kubelet starts what is missing, restarts what ended, replaces what changed
 * and stops what is gone. A container is a process in a session of its own, remembered in a file under /run, where rke2-killall.sh finds it too.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, existsSync, fstatSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { agent, at, read, run, say, write } from "./host.js";

export interface PodWish {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

interface Container {
  readonly pid: number;
  /** Start time of the process in the kernel's ticks: a process id alone may be another's by now. */
  readonly started: string;
  readonly wish: string;
  readonly id: string;
  readonly restarts: number;
  /** Where its own log begins in the file that it shares with those before it. */
  readonly logFrom: number;
}

const manifests = () => agent("pod-manifests");
const manifestOf = (name: string) => join(manifests(), `${name}.yaml`);
const recordOf = (name: string) => run("stand-in", name);
const hash = (text: string) => createHash("sha256").update(text).digest("hex");

export function placeManifest({ name, image, command, env = {} }: PodWish): void {
  const manifest = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace: "kube-system", labels: { component: name, tier: "control-plane" } },
    spec: {
      hostNetwork: true,
      priorityClassName: "system-cluster-critical",
      containers: [{ name, image, command, env: Object.entries(env).map(([key, value]) => ({ name: key, value })) }],
    },
  };
  write(manifestOf(name), stringify(manifest), 0o600);
}

export function removeManifests(): void {
  rmSync(manifests(), { recursive: true, force: true });
}

function startedAt(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ");
    return fields === undefined || fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

function containerOf(name: string): Container | undefined {
  const [pid = "", started = "", wish = "", id = "", restarts = "0", logFrom = "0"] = (read(recordOf(name)) ?? "").trim().split(" ");
  return id === "" ? undefined : { pid: Number(pid), started, wish, id, restarts: Number(restarts), logFrom: Number(logFrom) };
}

const isAlive = (container: Container) => startedAt(container.pid) === container.started;

export interface PodState {
  readonly name: string;
  readonly id: string;
  readonly running: boolean;
  readonly restarts: number;
}

/** Containers this node remembers, running or not. */
export function podStates(): PodState[] {
  if (!existsSync(run("stand-in"))) return [];
  return readdirSync(run("stand-in"))
    .sort()
    .flatMap((name) => {
      const container = containerOf(name);
      return container === undefined ? [] : [{ name, id: container.id, running: isAlive(container), restarts: container.restarts }];
    });
}

export const isRunning = (name: string) => podStates().some((pod) => pod.name === name && pod.running);

const logOf = (name: string, node: string) => at(`/var/log/pods/kube-system_${name}-${node}/${name}/0.log`);

/** The end of what a container has said since it started; nothing of the one before it. */
export function podLog(name: string, node: string): string {
  const path = logOf(name, node);
  const container = containerOf(name);
  return container !== undefined && existsSync(path) ? readFileSync(path).subarray(container.logFrom).toString("utf8").slice(-20_000) : "";
}

async function stop(name: string, container: Container): Promise<void> {
  for (const [signal, tenths] of [
    ["SIGTERM", 100],
    ["SIGKILL", 50],
  ] as const) {
    if (!isAlive(container)) break;
    try {
      process.kill(container.pid, signal);
    } catch {
      break;
    }
    for (let tenth = 0; tenth < tenths && isAlive(container); tenth++) await new Promise((resolve) => setTimeout(resolve, 100));
  }
  rmSync(recordOf(name), { force: true });
}

function start(name: string, node: string, text: string, restarts: number): void {
  const { spec } = parse(text) as { spec: { containers: [{ command: string[]; env: { name: string; value: string }[] }] } };
  const [program, ...args] = spec.containers[0].command as [string, ...string[]];
  const env = Object.fromEntries(spec.containers[0].env.map((each) => [each.name, each.value]));
  const log = logOf(name, node);
  mkdirSync(join(log, ".."), { recursive: true });
  const output = openSync(log, "a", 0o640);
  const logFrom = fstatSync(output).size;
  const child = spawn(program, args, { detached: true, stdio: ["ignore", output, output], env: { PATH: process.env["PATH"], ...env }, cwd: at("/") });
  child.on("error", (error) => say("error", `Pod for ${name} not synced: ${error.message}`));
  child.unref();
  closeSync(output);
  if (child.pid === undefined) return;
  const id = hash(`${name} ${child.pid} ${startedAt(child.pid)}`);
  write(recordOf(name), `${child.pid} ${startedAt(child.pid) ?? "0"} ${hash(text)} ${id} ${restarts} ${logFrom}\n`);
}

/** When a container that ended may start again: 1, 2, 4, 8 and then every 10 seconds after it ended. */
const restartsAt = new Map<string, number>();

/** One look at manifests and containers, and what it takes to make them agree. */
export async function syncPods(node: string): Promise<void> {
  const wanted = existsSync(manifests())
    ? readdirSync(manifests())
        .filter((file) => file.endsWith(".yaml"))
        .map((file) => file.slice(0, -5))
    : [];
  for (const { name } of podStates()) {
    const container = containerOf(name);
    if (container !== undefined && !wanted.includes(name)) await stop(name, container);
  }
  for (const name of wanted) {
    const text = read(manifestOf(name)) as string;
    const container = containerOf(name);
    if (container === undefined) {
      start(name, node, text, 0);
    } else if (container.wish !== hash(text)) {
      await stop(name, container);
      start(name, node, text, 0);
    } else if (!isAlive(container)) {
      const due = restartsAt.get(name);
      if (due === undefined) {
        say("warning", `Pod for ${name} not synced (container ended: ${lastWords(name, node)}), retrying`);
        restartsAt.set(name, Date.now() + Math.min(10, 2 ** container.restarts) * 1000);
      } else if (Date.now() >= due) {
        restartsAt.delete(name);
        start(name, node, text, container.restarts + 1);
      }
    }
  }
}

/** What a container said last of why it ended. */
function lastWords(name: string, node: string): string {
  const lines = podLog(name, node).trim().split("\n").slice(-30);
  const line = lines.findLast((each) => /fatal|bind: address|no space left|permanently removed/.test(each)) ?? lines.at(-1) ?? "";
  try {
    const entry = JSON.parse(line) as { msg?: string; error?: string };
    return [entry.msg, entry.error].filter((each) => each !== undefined).join(": ");
  } catch {
    return line.slice(-300);
  }
}

/** Stops every static pod: its manifest goes first, so that nobody starts it again. */
export async function stopPods(): Promise<void> {
  removeManifests();
  for (const { name } of podStates()) {
    const container = containerOf(name);
    if (container !== undefined) await stop(name, container);
  }
}
