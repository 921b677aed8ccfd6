/**
 * What local clouds of machines leave on this computer, by name, and how it is removed.
 *
 * Every trace carries the name of its cloud, and the name tells which process made it and when that process began: a cloud whose process is gone is
 * a leftover, whoever finds it. Everything here is synchronous, so that it also works in the last moments of a process.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { restoreLimits } from "./limits.js";

const base = "/run/drover-machines";
const namespaces = "/run/netns";
const prefix = "drover-";
/** What systemd-nspawn makes for each machine and does not take away. */
const nspawnFolders = ["/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export"];

let cloudsOfThisProcess = 0;

/** A name nobody has: pid, start of the process in clock ticks since boot, and a number. */
export function newCloudName(): string {
  return `${prefix}${process.pid}-${startOf(process.pid) ?? 0}-${++cloudsOfThisProcess}`;
}

export const cloudFolder = (cloud: string) => join(base, cloud);
export const machineName = (cloud: string, instanceId: string) => `${cloud}-${instanceId}`;
export const namespacePath = (name: string) => join(namespaces, name);

/** Field 22 of /proc/<pid>/stat: the same pid later is another process. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}

/** Name of the cloud at the beginning of a trace's name. */
function cloudOf(name: string): string | undefined {
  return /^drover-\d+-\d+-\d+(?=$|-)/.exec(name)?.[0];
}

function isAlive(cloud: string): boolean {
  const [, pid, start] = /^drover-(\d+)-(\d+)-/.exec(cloud) ?? [];
  return pid !== undefined && startOf(Number(pid)) === start;
}

/** Where systemd's processes are grouped: cgroup v2 alone, v2 beside v1, or v1's own hierarchy for systemd. */
export function cgroupRoots(): string[] {
  if (existsSync("/sys/fs/cgroup/cgroup.controllers")) return ["/sys/fs/cgroup"];
  return ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].filter((root) => existsSync(join(root, "cgroup.procs")));
}

/** The group that can be frozen. */
export const freezableCgroup = (cloud: string, instanceId: string) => {
  const [root] = cgroupRoots();
  return root === undefined ? undefined : join(root, cloud, instanceId);
};

export function makeCgroups(cloud: string, instanceId: string): string[] {
  const folders = cgroupRoots().map((root) => join(root, cloud, instanceId));
  for (const folder of folders) mkdirSync(folder, { recursive: true });
  return folders;
}

/** Takes this process out of the groups of its cloud, which can then be emptied. */
export function leaveCgroups(): void {
  for (const root of cgroupRoots()) writeFileSync(join(root, "cgroup.procs"), String(process.pid));
}

/** Everything there is of one cloud, or of all: processes, mounts, network namespaces, cgroups, folders. Empty when nothing is left. */
export function tracesOf(cloud?: string): string[] {
  const isWanted = (name: string) => cloudOf(name) !== undefined && (cloud === undefined || cloudOf(name) === cloud);
  const below = (folder: string) => {
    const clouds = list(folder, true).filter(isWanted);
    return clouds.flatMap((name) => [join(folder, name), ...list(join(folder, name), true).map((each) => join(folder, name, each))]);
  };
  const cgroups = cgroupRoots().flatMap(below);
  return [
    ...processesIn(cgroups).map((pid) => `process ${pid}`),
    ...mountsUnder(base)
      .filter((path) => isWanted(path.slice(base.length + 1).replaceAll("/", "-")))
      .map((path) => `mount ${path}`),
    ...list(namespaces)
      .filter(isWanted)
      .map((name) => `network namespace ${name}`),
    ...cgroups.map((path) => `cgroup ${path}`),
    ...below(base).map((path) => `folder ${path}`),
    ...nspawnFolders.flatMap((folder) =>
      list(folder)
        .filter(isWanted)
        .map((name) => `folder ${join(folder, name)}`),
    ),
  ];
}

/** Links in the network namespaces of a cloud, as `<namespace> <link>`, without loopback. They go with their namespace. */
export function linksOf(cloud: string): string[] {
  return list(namespaces)
    .filter((name) => cloudOf(name) === cloud)
    .flatMap((name) => {
      const { stdout } = spawnSync("ip", ["-n", name, "-brief", "link"], { encoding: "utf8" });
      const names = (stdout ?? "").split("\n").map((line) => (line.split(/[@\s]/)[0] ?? "").trim());
      return names.filter((link) => link !== "" && link !== "lo").map((link) => `${name} ${link}`);
    });
}

/** Traces of clouds whose process is gone. */
export function leftovers(): string[] {
  return deadClouds().flatMap((cloud) => tracesOf(cloud));
}

/** Removes what runs that were killed have left. Answers their names. */
export function removeLeftovers(): string[] {
  const clouds = deadClouds();
  for (const cloud of clouds) removeCloud(cloud);
  return clouds;
}

function deadClouds(): string[] {
  const names = [
    ...list(base),
    ...list(namespaces),
    ...cgroupRoots().flatMap((root) => list(root)),
    ...nspawnFolders.flatMap((folder) => list(folder)),
  ];
  return [...new Set(names.map(cloudOf))].filter((cloud) => cloud !== undefined).filter((cloud) => !isAlive(cloud)) as string[];
}

/** Removes a cloud with all its traces; removing it again does nothing. */
export function removeCloud(cloud: string): void {
  emptyCgroups(cgroupRoots().map((root) => join(root, cloud)));
  unmount(mountsUnder(cloudFolder(cloud)));
  for (const name of list(namespaces).filter((each) => cloudOf(each) === cloud)) spawnSync("ip", ["netns", "delete", name], { stdio: "ignore" });
  for (const folder of nspawnFolders) {
    for (const name of list(folder)) if (cloudOf(name) === cloud) rmSync(join(folder, name), { recursive: true, force: true });
  }
  rmSync(cloudFolder(cloud), { recursive: true, force: true, maxRetries: 5 });
  restoreLimits();
}

/** Removes one machine of a cloud: what runs, what is mounted, its namespace and its disk. */
export function removeMachine(cloud: string, instanceId: string): void {
  powerOff(cloud, instanceId);
  const name = machineName(cloud, instanceId);
  unmount(mountsUnder(join(cloudFolder(cloud), instanceId)));
  if (existsSync(namespacePath(name))) spawnSync("ip", ["netns", "delete", name], { stdio: "ignore" });
  rmSync(join(cloudFolder(cloud), instanceId), { recursive: true, force: true });
}

/** Ends every process of a machine at once; its disk and its address stay. */
export function powerOff(cloud: string, instanceId: string): void {
  emptyCgroups(cgroupRoots().map((root) => join(root, cloud, instanceId)));
  for (const folder of nspawnFolders) rmSync(join(folder, machineName(cloud, instanceId)), { recursive: true, force: true });
}

/** Kills what runs in the groups and removes them. A process in the middle of a system call takes a moment to go. */
function emptyCgroups(folders: readonly string[]): void {
  for (let attempt = 0; attempt < 200; attempt++) {
    const pids = processesIn(folders);
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended by itself.
      }
    }
    for (const folder of folders) {
      const freezer = join(folder, "cgroup.freeze");
      if (pids.length > 0 && existsSync(freezer)) thaw(freezer);
      removeGroups(folder);
    }
    if (folders.every((folder) => !existsSync(folder))) return;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  }
  throw new Error(`processes of ${folders.join(", ")} do not end: ${processesIn(folders).join(", ")}`);
}

function thaw(freezer: string): void {
  try {
    writeFileSync(freezer, "0");
  } catch {
    // The group is gone.
  }
}

function removeGroups(folder: string): void {
  for (const each of list(folder, true)) removeGroups(join(folder, each));
  try {
    rmdirSync(folder);
  } catch {
    // Something runs in it yet, or it is gone.
  }
}

function processesIn(folders: readonly string[]): number[] {
  const found = folders.flatMap((folder) => [
    ...(existsSync(join(folder, "cgroup.procs")) ? pidsOf(join(folder, "cgroup.procs")) : []),
    ...processesIn(list(folder, true).map((each) => join(folder, each))),
  ]);
  return [...new Set(found)];
}

function pidsOf(file: string): number[] {
  try {
    return readFileSync(file, "utf8").split("\n").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** The deepest first. */
function mountsUnder(folder: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path === folder || path.startsWith(`${folder}/`))
    .reverse();
}

function unmount(paths: readonly string[]): void {
  for (const path of paths) {
    if (spawnSync("umount", [path], { stdio: "ignore" }).status !== 0) spawnSync("umount", ["--lazy", path], { stdio: "ignore" });
  }
}

function list(folder: string, onlyFolders = false): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => !onlyFolders || entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}
