/**
 * A machine for node commands: a directory with what a fresh EC2 instance has, fake commands first on PATH, and a store of presigned files.
 *
 * The scripts are the documents' own, run the way SSM's agent runs them. Time stands still except in `sleep`.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "vitest";
import {
  type DeliveryEntry,
  deliveryLine,
  type NodeCommandName,
  type NodeCommandParameters,
  type NodeCommandResult,
  type NodeFailure,
  nodeCommands,
  nodeFailureSchema,
  nodePaths,
} from "../../core/node-commands.js";
import { buildDocuments } from "../../nodes/documents.js";

export const version = "v1.35.7+rke2r1";
export const instanceId = "i-0a1b2c3d4e5f60718";
export const password = "wJalrXUtnFEMIbPxRfiCYzK7MDENGq2a";
export const agentPassword = "bQ7yExAmPlEkEy41MzNLs9TtR0vWc8Zd";
const signature = "5f2c1d0e9b8a79685746352413021f0e";
/** One certificate in PEM: the CA hash is that of these bytes. */
export const caPem = "-----BEGIN CERTIFICATE-----\nMIIBdzCCAR2gAwIBAgIBADAKBggqhkjOPQQDAjAjMSEw\n-----END CERTIFICATE-----\n";
export const caHash = sha256(caPem);

/** Nothing of these may ever be told. */
const secrets = [password, agentPassword, signature, "metadata-session"];

const fakes = new URL("./fakes/", import.meta.url).pathname;
const plainCommands = [
  "sleep",
  "date",
  "uname",
  "id",
  "journalctl",
  "df",
  "swapoff",
  "useradd",
  "groupadd",
  "getenforce",
  "restorecon",
  "modprobe",
  "iptables",
  "timedatectl",
  "ip",
  "ss",
];
/** Commands that change files: a script may be killed at any of them. */
const deadlyCommands = ["mv", "rm", "cp", "install"];
const documents = buildDocuments();

export interface Ended<N extends NodeCommandName> {
  readonly status: number | null;
  readonly stderr: string;
  readonly result: NodeCommandResult<N> | NodeFailure;
}

export class Machine {
  readonly #top = mkdtempSync(join(tmpdir(), "drover-machine-"));
  readonly root = join(this.#top, "root");
  readonly world = join(this.#top, "world");
  readonly address = "10.0.1.17";
  #deliveries = 0;

  constructor() {
    for (const directory of ["units", "enabled", "journal", "http", "uploads", "metadata"])
      mkdirSync(join(this.world, directory), { recursive: true });
    mkdirSync(join(this.#top, "bin"));
    mkdirSync(join(this.#top, "scripts"));
    for (const command of ["curl", "systemctl"]) symlinkSync(join(fakes, command), join(this.#top, "bin", command));
    for (const command of plainCommands) symlinkSync(join(fakes, "machine"), join(this.#top, "bin", command));
    for (const command of Object.keys(documents) as NodeCommandName[]) {
      const path = join(this.#top, "scripts", command);
      writeFileSync(path, documents[command].content.mainSteps[0].inputs.runCommand.join("\n"), { mode: 0o700 });
    }
    this.say({
      clock: "1795000000",
      "store-time": "1795000100",
      machine: "x86_64",
      uid: "0",
      free: String(60 * 2 ** 30),
      selinux: "Disabled",
      hurry: "1",
    });
    this.say({ "metadata/instance-id": instanceId, "metadata/local-ipv4": this.address });
    this.write({
      "/run/systemd/system/.keep": "",
      "/proc/uptime": "100 0\n",
      "/proc/swaps": "Filename Type Size Used Priority\n",
      "/proc/mounts": "/dev/nvme0n1p1 / ext4 rw 0 0\n",
      "/proc/net/tcp": tcpTable(22),
      "/proc/net/route": "Iface\tDestination\tGateway\neth0\t00000000\t0101000A\n",
      "/proc/sys/fs/inotify/max_user_instances": "128\n",
      "/proc/sys/fs/inotify/max_user_watches": "1048576\n",
      "/proc/sys/vm/overcommit_memory": "0\n",
      "/proc/sys/vm/panic_on_oom": "0\n",
      "/proc/sys/kernel/panic": "0\n",
      "/proc/sys/kernel/panic_on_oops": "0\n",
      "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
      "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
      "/etc/group": "root:x:0:\n",
      "/etc/resolv.conf": "nameserver 10.0.0.2\n",
      "/usr/local/.keep": "",
    });
  }

  /** Sets facts of the world that the fakes read. */
  say(facts: Record<string, string>): void {
    for (const [name, text] of Object.entries(facts)) {
      const path = join(this.world, name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, text.endsWith("\n") || text === "" ? text : `${text}\n`);
    }
  }

  /** Gives the world a script: `on-start` runs when a unit starts, `on-sleep` whenever time passes, with the uptime. */
  script(name: "on-start" | "on-sleep" | "on-save" | "on-reset", body: string): void {
    writeFileSync(join(this.world, name), `#!/usr/bin/env bash\nset -o nounset\n${body}\n`, { mode: 0o755 });
  }

  /** A file of the world, byte for byte. */
  give(name: string, content: Buffer): void {
    writeFileSync(join(this.world, name), content);
  }

  forget(name: string): void {
    rmSync(join(this.world, name), { force: true });
  }

  /** Writes files of the machine, by absolute path. */
  write(files: Record<string, string | Buffer>): void {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(this.root + path), { recursive: true });
      writeFileSync(this.root + path, text);
    }
  }

  remove(path: string): void {
    rmSync(this.root + path, { recursive: true, force: true });
  }

  has(path: string): boolean {
    return existsSync(this.root + path);
  }

  read(path: string): string {
    return readFileSync(this.root + path, "utf8");
  }

  /** A file of the world, as the fakes left it. */
  worldFile(name: string): string {
    return readFileSync(join(this.world, name), "utf8");
  }

  /** Ports that something listens on. */
  listening(): number[] {
    return [...this.read("/proc/net/tcp").matchAll(/: 00000000:([0-9A-F]{4}) /g)].map(([, port]) => Number.parseInt(port as string, 16));
  }

  mode(path: string): string {
    return (statSync(this.root + path).mode & 0o777).toString(8);
  }

  list(path: string): string[] {
    return existsSync(this.root + path) ? readdirSync(this.root + path).sort() : [];
  }

  /** Every file below these directories with its mode and content: what two runs are compared by. */
  snapshot(...directories: string[]): Record<string, string> {
    const files: Record<string, string> = {};
    const walk = (path: string): void => {
      if (!this.has(path)) return;
      for (const entry of readdirSync(this.root + path, { withFileTypes: true })) {
        const child = `${path}/${entry.name}`;
        if (entry.isDirectory()) walk(child);
        else files[child] = `${this.mode(child)} ${sha256(readFileSync(this.root + child))}`;
      }
    };
    directories.forEach(walk);
    return files;
  }

  /** What the fakes were asked since the last look. */
  calls(): string[] {
    const path = join(this.world, "calls");
    const calls = existsSync(path) ? readFileSync(path, "utf8").split("\n").filter(Boolean) : [];
    rmSync(path, { force: true });
    return calls;
  }

  uploaded(name: string): Buffer {
    return readFileSync(join(this.world, "uploads", name));
  }

  uploadHeaders(name: string): string {
    return readFileSync(join(this.world, "uploads", `${name}.headers`), "utf8");
  }

  /** Puts a file into the store. */
  store(name: string, content: string | Buffer): void {
    writeFileSync(join(this.world, "http", name), content);
  }

  /** The store's next answers for a file, one a request: a status, `000` for no answer, `cut <bytes>` for a connection that breaks. */
  answers(name: string, ...answers: string[]): void {
    this.say({ [`http/${name}.answers`]: answers.join("\n") });
  }

  presigned(name: string): string {
    return `https://store.example/drover/${name}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Security-Token=FwoGZXIvYXdzEA&X-Amz-Signature=${signature}`;
  }

  get(name: string, target: string, mode = "0600", sum?: string): DeliveryEntry {
    return { kind: "get", sha256: sum, mode, target, url: this.presigned(name) };
  }

  put(name: string): DeliveryEntry {
    return { kind: "put", name, url: this.presigned(name), headers: { "If-None-Match": "*", "x-amz-server-side-encryption": "aws:kms" } };
  }

  /** Stores a delivery list; answers its presigned address. */
  deliver(entries: readonly DeliveryEntry[]): string {
    return this.deliverText(`${entries.map(deliveryLine).join("\n")}\n`);
  }

  deliverText(text: string): string {
    this.#deliveries += 1;
    this.store(`list-${this.#deliveries}`, text);
    return this.presigned(`list-${this.#deliveries}`);
  }

  /** Puts kubectl where RKE2 puts it, with the administrator's kubeconfig: a server that has started. */
  hasStarted(): void {
    this.write({ "/etc/rancher/rke2/rke2.yaml": "server: https://127.0.0.1:6443\n", "/var/lib/rancher/rke2/server/tls/server-ca.crt": caPem });
    this.write({ "/var/lib/rancher/rke2/server/token": `K10${caHash}::server:${password}\n` });
    this.hasKubectl();
  }

  hasKubectl(): void {
    mkdirSync(`${this.root}/var/lib/rancher/rke2/bin`, { recursive: true });
    cpSync(join(fakes, "kubectl"), `${this.root}/var/lib/rancher/rke2/bin/kubectl`);
    chmodSync(`${this.root}/var/lib/rancher/rke2/bin/kubectl`, 0o755);
  }

  /** A server with RKE2's programs, its etcd answering: revision, keys, hash and compacted revision by line, the newest first. */
  isServer(etcd = ["5120 1480 3735928559 4800"]): void {
    this.isPrepared();
    this.hasStarted();
    const wrapper = (name: string) => `#!/bin/sh\nWORLD=${this.world} DROVER_ROOT=${this.root} exec ${join(fakes, name)} "$@"\n`;
    this.write({
      "/usr/local/bin/rke2": wrapper("rke2"),
      "/usr/local/bin/rke2-killall.sh": wrapper("rke2-killall.sh"),
      "/var/lib/rancher/rke2/bin/crictl": wrapper("crictl"),
      "/var/lib/rancher/rke2/server/db/etcd/member/wal/0.wal": "of before",
    });
    for (const program of ["/usr/local/bin/rke2", "/usr/local/bin/rke2-killall.sh", "/var/lib/rancher/rke2/bin/crictl"])
      chmodSync(this.root + program, 0o755);
    this.say({ version, etcd: etcd.join("\n"), "units/rke2-server": "active 0", "enabled/rke2-server": "" });
    this.write({ "/proc/net/tcp": tcpTable(22, 9345, 6443, 2379, 2380, 10250) });
  }

  /** Lets parts of snapshots be a MiB, as if the machine had a thousandth of the data: the same script otherwise. */
  hasSmallParts(): void {
    for (const command of ["save-snapshot", "upload-snapshot"]) {
      const path = join(this.#top, "scripts", command);
      const text = readFileSync(path, "utf8");
      expect(text).toContain("readonly part_mebibytes=1024");
      writeFileSync(path, text.replace("part_mebibytes=1024", "part_mebibytes=1"));
    }
  }

  /** Kills a script at the given change it makes to files, from 1: before its effect or after it. Answers which command that was, if there was one. */
  runAndKill<N extends NodeCommandName>(
    command: N,
    parameters: NodeCommandParameters<N>,
    change: number,
    when: "before" | "after",
  ): string | undefined {
    for (const name of ["turns", "died", "die-after"]) this.forget(name);
    this.say({ "die-at": String(change), ...(when === "after" && { "die-after": "" }) });
    for (const name of deadlyCommands) symlinkSync(join(fakes, "deadly"), join(this.#top, "bin", name));
    const environment = Object.entries(parameters as Record<string, string>).map(([name, value]) => [`SSM_${name}`, value]);
    this.#spawn(command, Object.fromEntries(environment));
    for (const name of deadlyCommands) rmSync(join(this.#top, "bin", name));
    this.forget("die-at");
    return existsSync(join(this.world, "died")) ? readFileSync(join(this.world, "died"), "utf8") : undefined;
  }

  #spawn(command: NodeCommandName, environment: Record<string, string>) {
    return spawnSync("sh", ["-c", join(this.#top, "scripts", command)], {
      cwd: this.#top,
      encoding: "utf8",
      timeout: 60_000,
      env: { PATH: `${this.#top}/bin:/usr/bin:/bin`, TMPDIR: this.#top, DROVER_ROOT: this.root, WORLD: this.world, ...environment },
    });
  }

  /** What prepare-node leaves, for tests of what comes after. */
  isPrepared(pool = "server"): void {
    this.write({
      "/usr/local/bin/rke2": rke2Program(version),
      "/etc/rancher/rke2/config.yaml": "token-file: /etc/rancher/rke2/drover-token\n",
      "/etc/rancher/rke2/config.yaml.d/10-drover-node.yaml": `node-name: "${pool}-${instanceId}"\nnode-ip: "${this.address}"\n`,
    });
    chmodSync(`${this.root}/usr/local/bin/rke2`, 0o755);
    chmodSync(`${this.root}/etc/rancher/rke2/config.yaml.d/10-drover-node.yaml`, 0o600);
  }

  /** Runs a command as SSM's agent does, and holds what came out to the contract: one line, short, of the right shape, without secrets. */
  run<N extends NodeCommandName>(command: N, parameters: NodeCommandParameters<N>): Ended<N> {
    return this.runRaw(
      command,
      Object.fromEntries(Object.entries(parameters as Record<string, string>).map(([name, value]) => [`SSM_${name}`, value])),
    );
  }

  runRaw<N extends NodeCommandName>(command: N, environment: Record<string, string>): Ended<N> {
    const { status, stdout, stderr } = this.#spawn(command, environment);
    for (const secret of secrets) expect(stdout + stderr, `${command} told a secret`).not.toContain(secret);
    expect(Buffer.byteLength(stdout), `stdout of ${command}: ${stdout}`).toBeLessThan(2000);
    expect(stdout.split("\n"), `stdout of ${command}: ${stdout}\n${stderr}`).toHaveLength(2);
    const line: unknown = JSON.parse(stdout);
    const ok = (line as { ok: unknown }).ok === true;
    const result = ok ? (nodeCommands[command].result.parse(line) as NodeCommandResult<N>) : nodeFailureSchema.parse(line);
    expect(status === 0, `status ${status} with ${stdout}`).toBe(ok);
    return { status, stderr, result };
  }

  /** Removes the machine. */
  end(): void {
    rmSync(this.#top, { recursive: true, force: true });
  }
}

/** A release of RKE2: the same files and layout as upstream's, with little in them. */
export function makeRelease(options: { version?: string; architecture?: "amd64" | "arm64"; cisParameters?: string } = {}) {
  const architecture = options.architecture ?? "amd64";
  const directory = mkdtempSync(join(tmpdir(), "drover-release-"));
  const files: Record<string, [text: string, mode: number]> = {
    "bin/rke2": [rke2Program(options.version ?? version), 0o755],
    "bin/rke2-killall.sh": ["#!/bin/sh\nexec /usr/local/bin/rke2 --version\n", 0o755],
    "bin/rke2-uninstall.sh": ["#!/bin/sh\nrm -rf /usr/local/bin/rke2\n", 0o755],
    "lib/systemd/system/rke2-server.service": [
      "[Service]\nEnvironmentFile=-/usr/local/lib/systemd/system/%N.env\nExecStart=/usr/local/bin/rke2 server\n",
      0o644,
    ],
    "lib/systemd/system/rke2-server.env": ["HOME=/root\n", 0o644],
    "lib/systemd/system/rke2-agent.service": ["[Service]\nExecStart=/usr/local/bin/rke2 agent\n", 0o644],
    "lib/systemd/system/rke2-agent.env": ["HOME=/root\n", 0o644],
    "share/rke2/LICENSE.txt": ["Apache-2.0\n", 0o644],
    "share/rke2/rke2-cis-sysctl.conf": [
      options.cisParameters ?? "vm.panic_on_oom=0\nvm.overcommit_memory=1\nkernel.panic=10\nkernel.panic_on_oops=1\n",
      0o644,
    ],
  };
  for (const [path, [text, mode]] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), text, { mode });
  }
  const bundle = `rke2.linux-${architecture}.tar.gz`;
  const packed = spawnSync("tar", ["--create", "--gzip", "--sort=name", "--mtime=@0", `--file=${bundle}`, "bin", "lib", "share"], { cwd: directory });
  expect(packed.status).toBe(0);
  const release: Record<string, Buffer> = {
    [bundle]: readFileSync(join(directory, bundle)),
    [`rke2-images-core.linux-${architecture}.tar.zst`]: Buffer.from(`core images of ${options.version ?? version}\n`.repeat(40)),
    [`rke2-images-calico.linux-${architecture}.tar.zst`]: Buffer.from(`calico images of ${options.version ?? version}\n`.repeat(30)),
  };
  rmSync(directory, { recursive: true });
  const checksums = `${Object.entries(release)
    .map(([name, content]) => `${sha256(content)}  ${name}`)
    .join("\n")}\n`;
  return { files: release, checksums, checksumFile: `sha256sum-${architecture}.txt`, bundle };
}

/** Stores a release and the configuration, and answers the delivery of prepare-node. */
export function preparation(machine: Machine, release = makeRelease(), more: readonly DeliveryEntry[] = []): DeliveryEntry[] {
  for (const [name, content] of Object.entries(release.files)) machine.store(name, content);
  machine.store(release.checksumFile, release.checksums);
  const config = "token-file: /etc/rancher/rke2/drover-token\ncni:\n  - calico\n";
  machine.store("config.yaml", config);
  return [
    machine.get(release.checksumFile, `${nodePaths.staging}/${release.checksumFile}`, "0644", sha256(release.checksums)),
    ...Object.keys(release.files).map((name) => machine.get(name, `${nodePaths.staging}/${name}`, "0644")),
    machine.get("config.yaml", nodePaths.config, "0600", sha256(config)),
    ...more,
  ];
}

/** A snapshot: whole pages and their checksum behind them, as etcd writes it. */
export function snapshotOf(text: string, pages = 3): Buffer {
  const content = Buffer.alloc(pages * 4096, text);
  return Buffer.concat([content, createHash("sha256").update(content).digest()]);
}

export function sha256(content: string | Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}

function rke2Program(of: string): string {
  return `#!/bin/sh\necho "rke2 version ${of} (0123456789abcdef)"\necho "go version go1.24.6"\n`;
}

/** The kernel's table of sockets with one listening on each port. */
export function tcpTable(...ports: number[]): string {
  const lines = ports.map(
    (port, index) =>
      `   ${index}: 00000000:${port.toString(16).toUpperCase().padStart(4, "0")} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1`,
  );
  return `  sl  local_address rem_address   st tx_queue\n${lines.join("\n")}\n`;
}

/** Adds a line to a service's log as the fakes show it. */
export function journal(machine: Machine, unit: string, ...lines: string[]): void {
  appendFileSync(join(machine.world, "journal", unit), `${lines.join("\n")}\n`);
}
