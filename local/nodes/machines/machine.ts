/**
 * One machine: a systemd-nspawn container with its own root, network namespace and address.
 *
 * Its disk is memory of the size of its root volume over the shared Debian root. What it may do to this computer is little: nspawn keeps clock, swap
 * and kernel parameters from it, and those parameters that a node must be able to set are files of its own.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Machine } from "../contract.js";
import { must } from "./image.js";
import { cloudFolder, freezableCgroup, machineName, makeCgroups, namespacePath, powerOff, removeMachine } from "./traces.js";
import { addresses } from "./wire.js";

export interface CloudPlaces {
  readonly name: string;
  readonly region: string;
  /** Lower layers of every machine's disk, the upper ones first. */
  readonly layers: readonly string[];
  /** Bridge and gateway of the subnet an address lies in. */
  subnet(address: string): { readonly bridge: string; readonly gateway: string; readonly prefix: number };
  /** For names of interfaces. */
  next(): number;
}

export interface Program {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Written by a unit of the machine as the last of its boot. */
const onlineFile = "/run/machine-online";
/** Kernel parameters that belong to the whole computer, and that nodes set: each machine has files of its own in their place. */
const ownParameters = [
  "fs/inotify/max_user_instances",
  "fs/inotify/max_user_watches",
  "kernel/panic",
  "kernel/panic_on_oops",
  "vm/overcommit_memory",
  "vm/panic_on_oom",
  "vm/max_map_count",
];
/** libfaketime gives a process another time of day (Debian package faketime). */
const fakeTime = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/** What every machine of a cloud has besides Debian: its trust, its name service, and units of its boot. */
export function writeCloudLayer(folder: string, root: string, authority: string): void {
  const write = (path: string, text: string, mode = 0o644) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true, mode: 0o755 });
    writeFileSync(join(folder, path), text, { mode });
  };
  write("usr/local/share/ca-certificates/local-cloud.crt", authority);
  write("etc/ssl/certs/ca-certificates.crt", `${readFileSync(join(root, "etc/ssl/certs/ca-certificates.crt"), "utf8")}${authority}`);
  write("etc/resolv.conf", `nameserver ${addresses.names}\noptions timeout:2 attempts:2\n`);
  write(
    "usr/lib/local-cloud/parameters",
    [
      "#!/bin/sh",
      "set -e",
      "mkdir -p /run/local-cloud",
      `for name in ${ownParameters.join(" ")}; do`,
      '  [ -e "/proc/sys/$name" ] || continue',
      '  file="/run/local-cloud/$(echo "$name" | tr / .)"',
      '  cat "/proc/sys/$name" >"$file"',
      '  mount --bind "$file" "/proc/sys/$name"',
      "done",
      "head -n 1 /proc/swaps >/run/local-cloud/swaps && mount --bind /run/local-cloud/swaps /proc/swaps",
      "",
    ].join("\n"),
    0o755,
  );
  const unit = (name: string, target: string, text: string) => {
    write(`etc/systemd/system/${name}`, text);
    mkdirSync(join(folder, `etc/systemd/system/${target}.wants`), { recursive: true, mode: 0o755 });
    symlinkSync(`../${name}`, join(folder, `etc/systemd/system/${target}.wants/${name}`));
  };
  unit(
    "local-cloud-parameters.service",
    "sysinit.target",
    "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/lib/local-cloud/parameters\n[Install]\nWantedBy=sysinit.target\n",
  );
  unit(
    "local-cloud-online.service",
    "multi-user.target",
    `[Unit]\nAfter=network-online.target basic.target systemd-user-sessions.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch ${onlineFile}\n[Install]\nWantedBy=multi-user.target\n`,
  );
}

/** A machine as a process of this computer. Its methods are called one after another; what it does by itself is told to `ended`. */
export class NspawnMachine {
  readonly machine: Machine;
  readonly folder: string;
  readonly root: string;
  readonly link: string;
  readonly #places: CloudPlaces;
  readonly #name: string;
  #nspawn: ChildProcess | undefined;
  #clockOffsetSeconds = 0;
  /** Called when the machine has shut down by itself. */
  ended: () => void = () => {};

  constructor(machine: Machine, places: CloudPlaces) {
    this.machine = machine;
    this.#places = places;
    this.#name = machineName(places.name, machine.instanceId);
    this.folder = join(cloudFolder(places.name), machine.instanceId);
    this.root = join(this.folder, "root");
    this.link = `m${places.next()}`;
  }

  /** Makes disk and network. */
  make(): void {
    const { machine } = this;
    const disk = join(this.folder, "disk");
    for (const path of [disk, this.root]) mkdirSync(path, { recursive: true, mode: 0o755 });
    must("mount", ["-t", "tmpfs", "-o", `size=${machine.rootVolumeGib}G,mode=0755`, "machine-disk", disk]);
    const upper = join(disk, "upper");
    for (const path of [join(upper, "etc"), join(disk, "work")]) mkdirSync(path, { recursive: true, mode: 0o755 });
    writeFileSync(join(upper, "etc/machine-id"), `${randomBytes(16).toString("hex")}\n`, { mode: 0o444 });
    writeFileSync(join(upper, "etc/hostname"), `${this.hostName}\n`, { mode: 0o644 });
    writeFileSync(join(upper, "etc/hosts"), `127.0.0.1 localhost\n${machine.address} ${this.hostName}\n`, { mode: 0o644 });
    const options = `lowerdir=${this.#places.layers.join(":")},upperdir=${upper},workdir=${join(disk, "work")}`;
    must("mount", ["-t", "overlay", "-o", options, "machine-root", this.root]);

    const { bridge, gateway, prefix } = this.#places.subnet(machine.address);
    must("ip", ["netns", "add", this.#name]);
    must("ip", ["link", "add", this.link, "netns", this.#places.name, "type", "veth", "peer", "name", "ens5", "netns", this.#name]);
    must("ip", ["-n", this.#places.name, "-batch", "-"], `link set ${this.link} master ${bridge} up\n`);
    must(
      "ip",
      ["-n", this.#name, "-batch", "-"],
      `link set lo up\naddress add ${machine.address}/${prefix} dev ens5\nlink set ens5 up\nroute add default via ${gateway}\n`,
    );
  }

  get hostName(): string {
    return `ip-${this.machine.address.replaceAll(".", "-")}`;
  }

  /** Turns it on. */
  start(): void {
    const groups = makeCgroups(this.#places.name, this.machine.instanceId);
    const log = openSync(join(this.folder, "console.log"), "a", 0o600);
    const args = [
      "--quiet",
      `--directory=${this.root}`,
      `--machine=${this.#name}`,
      `--hostname=${this.hostName}`,
      "--boot",
      "--register=no",
      "--keep-unit",
      `--network-namespace-path=${namespacePath(this.#name)}`,
      "--capability=CAP_NET_ADMIN",
      "--link-journal=no",
      "--console=pipe",
      "--resolv-conf=off",
      "--timezone=off",
    ];
    const join_ = groups.map((group) => `echo $$ >'${group}/cgroup.procs'`).join(" && ");
    const child = spawn("sh", ["-c", `${join_} && exec systemd-nspawn "$@"`, "sh", ...args], {
      stdio: ["ignore", log, log],
      env: { PATH: process.env.PATH ?? "", SYSTEMD_NSPAWN_LOCK: "0" },
      detached: true,
    });
    closeSync(log);
    this.#nspawn = child;
    const over = () => {
      if (this.#nspawn !== child) return;
      this.#nspawn = undefined;
      this.ended();
    };
    child.once("exit", over);
    child.once("error", over);
  }

  /** Ends everything in it at once, as a loss of power; disk and address stay. */
  powerOff(): void {
    this.#nspawn = undefined;
    powerOff(this.#places.name, this.machine.instanceId);
  }

  /** Takes it away with all its traces. */
  remove(): void {
    this.#nspawn = undefined;
    removeMachine(this.#places.name, this.machine.instanceId);
  }

  /** Freezes every process, or lets them go on. */
  freeze(frozen: boolean): void {
    const group = freezableCgroup(this.#places.name, this.machine.instanceId);
    if (group === undefined || !existsSync(join(group, "cgroup.freeze"))) throw new Error("this kernel cannot freeze a group of processes");
    writeFileSync(join(group, "cgroup.freeze"), frozen ? "1" : "0");
  }

  /** Pulls the network cable, or puts it back. */
  plug(connected: boolean): void {
    must("ip", ["-n", this.#places.name, "link", "set", this.link, connected ? "up" : "down"]);
  }

  /** What its programs take for the time of day is off by so much; their sense of how long something takes is not. */
  setClock(offsetSeconds: number): void {
    this.#clockOffsetSeconds = offsetSeconds;
    const assignments = Object.entries(this.environment).map(([name, value]) => `${name}=${value}`);
    const unset = ["LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC", "FAKETIME_SKIP_CMDS"];
    const args = assignments.length > 0 ? ["set-environment", ...assignments] : ["unset-environment", ...unset];
    must("nsenter", [...this.#enter(), "systemctl", ...args]);
  }

  get environment(): Readonly<Record<string, string>> {
    if (this.#clockOffsetSeconds === 0) return {};
    const offset = `${this.#clockOffsetSeconds < 0 ? "" : "+"}${this.#clockOffsetSeconds}`;
    return {
      LD_PRELOAD: fakeTime.replace("x86_64", process.arch === "arm64" ? "aarch64" : "x86_64"),
      FAKETIME: offset,
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
      FAKETIME_SKIP_CMDS: "systemctl,journalctl,systemd-run",
    };
  }

  /** The machine's first process as this computer numbers it; undefined while it is off. Another boot has another. */
  get leader(): number | undefined {
    const pid = this.#nspawn?.pid;
    if (pid === undefined) return undefined;
    for (const child of read(`/proc/${pid}/task/${pid}/children`).split(" ").filter(Boolean)) {
      if (/^NSpid:\t\d+\t1$/m.test(read(`/proc/${child}/status`))) return Number(child);
    }
    return undefined;
  }

  get isOnline(): boolean {
    const { leader } = this;
    return leader !== undefined && existsSync(`/proc/${leader}/root${onlineFile}`);
  }

  get isOn(): boolean {
    return this.#nspawn !== undefined;
  }

  /** Last lines of its console, for what failed. */
  get console(): string {
    return read(join(this.folder, "console.log")).split("\n").slice(-10).join(" / ");
  }

  /** Starts a program in it, as the leader of a process group of this computer. */
  spawn(program: readonly string[], environment: Readonly<Record<string, string>>, stdio: readonly (number | "pipe" | "ignore")[]): ChildProcess {
    const groups = makeCgroups(this.#places.name, join(this.machine.instanceId, "agent"));
    const join_ = groups.map((group) => `echo $$ >'${group}/cgroup.procs'`).join(" && ");
    const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
    return spawn("sh", ["-c", `${join_} && exec nsenter "$@"`, "sh", ...this.#enter(), "env", "-i", ...variables, ...program], {
      stdio: [...stdio],
      env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" },
      detached: true,
    });
  }

  #enter(): string[] {
    const { leader } = this;
    if (leader === undefined) throw new Error(`${this.machine.instanceId} is off`);
    return ["--target", String(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"];
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
