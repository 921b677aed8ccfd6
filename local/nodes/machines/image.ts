/**
 * What machines need of this computer, and the root they boot from: a Debian made once and kept.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { cgroupRoots } from "./traces.js";

export type MachineSupport = { readonly ok: true } | { readonly ok: false; readonly missing: string };

/** Program, Debian package. */
const programs: readonly (readonly [string, string])[] = [
  ["systemd-nspawn", "systemd-container"],
  ["debootstrap", "debootstrap"],
  ["etcd", "etcd-server"],
  ["ip", "iproute2"],
  ["nsenter", "util-linux"],
  ["flock", "util-linux"],
];

/** Bits of a process's effective capabilities (capabilities(7), linux/capability.h). */
const capabilities = { netAdmin: 12n, sysAdmin: 21n } as const;

/** Where and as whom this runs; given in tests alone. */
export interface Surroundings {
  readonly platform: string;
  readonly uid: number;
  has(program: string): boolean;
  hasCgroups(): boolean;
  /** Whether root here may mount and make networks: in a container it often may not. */
  hasCapabilities(): boolean;
}

/** Whether machines can run here, or one line that says what is missing and how to get it. Changes nothing. */
export function machineSupport(here: Surroundings = surroundings()): MachineSupport {
  const no = (missing: string): MachineSupport => ({ ok: false, missing });
  if (here.platform !== "linux") return no(`Machines need Linux, this is ${here.platform}. Use --nodes simulated, or a Debian with root`);
  const lacking = programs.filter(([program]) => !here.has(program));
  const names = [...new Set(lacking.map(([, name]) => name))];
  const install = `apt-get install --yes ${names.join(" ")}`;
  const what = `${lacking.map(([program]) => program).join(", ")} ${lacking.length === 1 ? "is" : "are"} missing`;
  if (here.uid !== 0) {
    return no(
      lacking.length === 0 ? "Machines need root: run this with sudo" : `Machines need root, and ${what}: sudo ${install}, then run this with sudo`,
    );
  }
  if (lacking.length > 0) return no(`Machines cannot run: ${what}. ${install}`);
  if (!here.hasCapabilities()) {
    return no("Machines cannot run: root may not mount or make networks here (CAP_SYS_ADMIN, CAP_NET_ADMIN). Start the container with --privileged");
  }
  if (!here.hasCgroups()) {
    return no("Machines cannot run: no cgroup hierarchy for systemd. mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, or boot with cgroup v2");
  }
  return { ok: true };
}

function surroundings(): Surroundings {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return {
    platform: process.platform,
    uid: process.getuid?.() ?? -1,
    has: (program) => folders.some((folder) => isExecutable(join(folder, program))),
    hasCgroups: () => cgroupRoots().length > 0,
    hasCapabilities: () => {
      const [, mask = "0"] = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8")) ?? [];
      return [capabilities.netAdmin, capabilities.sysAdmin].every((bit) => ((BigInt(`0x${mask}`) >> bit) & 1n) === 1n);
    },
  };
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Debian stable of this design; a later one needs a look at what its systemd does. */
const suite = "bookworm";
/** What an AMI brings, what the node scripts ask for, and what the release that stands in for RKE2's runs. */
const packages = [
  "ca-certificates",
  "curl",
  "dbus",
  "etcd-client",
  "etcd-server",
  "faketime",
  "iproute2",
  "iptables",
  "jq",
  "kmod",
  "libstdc++6",
  "netcat-openbsd",
  "openssl",
  "procps",
  "systemd",
  "systemd-sysv",
  "util-linux",
  "xz-utils",
  "zstd",
] as const;

/**
 * Run once the packages are there. etcd comes with a unit that would hold the ports; timers of a general computer only take time here. Lists and
 * archives of packages are half of the size.
 */
const finish = `
for unit in etcd.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer getty.target console-getty.service \\
  systemd-logind.service systemd-networkd-wait-online.service systemd-timesyncd.service; do
  ln --symbolic --force /dev/null "$new/etc/systemd/system/$unit"
done
rm --recursive --force "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/* "$new"/var/lib/etcd "$new/etc/hostname" "$new/etc/resolv.conf"
: >"$new/etc/machine-id"
`;

/** Only one run makes the root, the others wait; a build that is cut short leaves a folder that the next one removes. */
const build = `
set -o errexit -o nounset -o pipefail
root="$1"
if [[ -d $root ]]; then exit 0; fi
for old in "$root".building-*; do if [[ -d $old ]]; then rm --recursive --force --one-file-system "$old"; fi; done
new="$root.building-$$"
debootstrap --variant=minbase --include="$2" "$3" "$new"
${finish}
mv "$new" "$root"
`;

/** Not made, for a reason outside of Drover: its message is all that a person needs. */
export class RootFailed extends Error {}

/** Folder of the root; made when it is not there, in about a minute. */
export async function ensureRoot(say: (line: string) => void): Promise<string> {
  const hash = createHash("sha256")
    .update(JSON.stringify([suite, packages, build]))
    .digest("hex")
    .slice(0, 12);
  const folder = join(homedir(), ".cache", "drover", "machines", hash);
  const root = join(folder, "root");
  if (existsSync(root)) return root;
  mkdirSync(folder, { recursive: true });
  say("Making the Debian root that machines boot from: once, about a minute");
  const started = performance.now();
  // Its own mount namespace: what debootstrap mounts goes with it, however it ends.
  const args = ["--mount", "flock", join(folder, "lock"), "bash", "-c", build, "build", root, packages.join(","), suite];
  const child = spawn("unshare", args, { stdio: ["ignore", "pipe", "pipe"] });
  const tail: string[] = [];
  const keep = (text: Buffer) => void tail.splice(0, tail.length, ...[...tail, ...text.toString("utf8").split("\n").filter(Boolean)].slice(-5));
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  const code = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status) => resolve(status ?? -1));
  });
  if (code !== 0) {
    throw new RootFailed(
      `The Debian root was not made: debootstrap ended with status ${code} (${tail.join(" / ")}). Check that this computer reaches a Debian mirror, then start again`,
    );
  }
  say(`Made the Debian root in ${((performance.now() - started) / 1000).toFixed(0)} s`);
  return root;
}

/** Runs a program that must succeed. */
export function must(program: string, args: readonly string[], input?: string): string {
  const done = spawnSync(program, args, { encoding: "utf8", ...(input === undefined ? {} : { input }) });
  if (done.error !== undefined) throw done.error;
  if (done.status !== 0) throw new Error(`${program} ${args.join(" ")} failed with status ${done.status}: ${done.stderr.trim()}`);
  return done.stdout;
}
