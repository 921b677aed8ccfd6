/**
 * Nodes of the stand-in release without machines: each a directory and a loopback address, its waits shortened, its services started by hand.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildRelease, bundleProgram } from "../../local/nodes/release/build.js";

export const version = "v1.35.7+rke2r1";
/** Where built releases are kept between runs. */
export const releases = join(tmpdir(), "drover-releases");
export const password = "s3rverPasswordOf32Characters0001";
export const agentPassword = "ag3ntPasswordOf32Characters00002";
const pace = 10;

/** One directory for all nodes of a test run, with the program and the images they need. */
export class Site {
  directory = "";
  program = "";
  readonly nodes: StandInNode[] = [];
  images = "";
  #next: number;

  /** @param network third number of the nodes' loopback addresses: sites side by side take different ones */
  constructor(private readonly network: number) {
    this.#next = 1;
  }

  async prepare(): Promise<void> {
    this.directory = mkdtempSync(join(tmpdir(), "drover-release-"));
    this.program = join(this.directory, "rke2.cjs");
    writeFileSync(this.program, await bundleProgram());
    const release = await buildRelease({ version, outdir: releases });
    this.images = release.files.get("rke2-images-core.linux-amd64.tar.zst") ?? (release.files.get("rke2-images-core.linux-arm64.tar.zst") as string);
  }

  node(name: string, address = `127.0.${this.network}.${this.#next++}`): StandInNode {
    const node = new StandInNode(this, name, address);
    this.nodes.push(node);
    return node;
  }

  async close(): Promise<void> {
    for (const node of this.nodes) await node.kill();
    if (this.directory !== "") rmSync(this.directory, { recursive: true, force: true });
  }
}

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class StandInNode {
  readonly root: string;
  log = "";
  #service: ChildProcess | undefined;
  /** Status with which the service ended, while it is over. */
  ended: number | null | undefined;

  constructor(
    private readonly site: Site,
    readonly name: string,
    readonly address: string,
  ) {
    this.root = join(site.directory, `${name}-${address}`);
    mkdirSync(join(this.root, "var/lib/rancher/rke2/agent/images"), { recursive: true });
    cpSync(site.images, join(this.path("agent/images"), "rke2-images-core.linux-amd64.tar.zst"));
  }

  path(file: string): string {
    return join(this.root, "var/lib/rancher/rke2", file);
  }
  read(file: string): string {
    return readFileSync(this.path(file), "utf8");
  }
  has(file: string): boolean {
    return existsSync(this.path(file));
  }

  get #environment(): NodeJS.ProcessEnv {
    return {
      PATH: process.env["PATH"],
      RKE2_STAND_IN_VERSION: version,
      RKE2_STAND_IN_ROOT: this.root,
      RKE2_STAND_IN_LOOPBACK: this.address,
      RKE2_STAND_IN_PACE: String(pace),
    };
  }

  configure(lines: readonly string[], file = "config.yaml"): void {
    const path = join(this.root, "etc/rancher/rke2", file);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, `${lines.join("\n")}\n`);
  }

  /** Configures it as a server or an agent; a server without `join` makes a cluster. */
  configureAs(
    role: "server" | "agent",
    options: { readonly join?: StandInNode; readonly token?: string; readonly lines?: readonly string[] } = {},
  ): void {
    const { join: through, token = password, lines = [] } = options;
    this.configure([
      `node-name: ${this.name}`,
      `node-ip: ${this.address}`,
      `token: "${token}"`,
      ...(role === "server" ? [`agent-token: "${agentPassword}"`] : []),
      ...(through === undefined ? [] : [`server: https://${through.address}:9345`]),
      ...lines,
    ]);
  }

  start(role: "server" | "agent"): void {
    this.log = "";
    this.ended = undefined;
    const service = spawn(process.execPath, [this.site.program, role], { env: this.#environment, stdio: ["ignore", "ignore", "pipe"] });
    service.stderr.on("data", (chunk) => {
      this.log += chunk;
    });
    service.on("exit", (status) => {
      if (this.#service === service) this.ended = status;
    });
    this.#service = service;
  }

  /** Ends the service alone; its static pods stay. */
  async stop(): Promise<void> {
    const service = this.#service;
    if (service === undefined || service.exitCode !== null) return;
    const over = new Promise((resolve) => service.on("exit", resolve));
    service.kill("SIGTERM");
    await over;
  }

  pods(): { readonly name: string; readonly pid: number }[] {
    const records = join(this.root, "run/k3s/stand-in");
    if (!existsSync(records)) return [];
    return readdirSync(records).map((name) => ({ name, pid: Number(readFileSync(join(records, name), "utf8").split(" ")[0]) }));
  }

  /** Ends everything, as a machine that loses its power. */
  async kill(): Promise<void> {
    this.#service?.kill("SIGKILL");
    for (const { pid } of this.pods()) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended by itself.
      }
    }
    rmSync(join(this.root, "run"), { recursive: true, force: true });
  }

  run(...args: readonly string[]): Ran {
    const { status, stdout, stderr } = spawnSync(process.execPath, [this.site.program, ...args], {
      env: this.#environment,
      encoding: "utf8",
      timeout: 60_000,
    });
    return { status, stdout, stderr };
  }

  kubectl(...args: readonly string[]): Ran {
    const kubeconfig = join(this.root, "etc/rancher/rke2/rke2.yaml");
    const { status, stdout, stderr } = spawnSync(this.path("bin/kubectl"), ["--kubeconfig", kubeconfig, "--request-timeout=10s", ...args], {
      encoding: "utf8",
    });
    return { status, stdout, stderr };
  }

  etcdctl(...args: readonly string[]): Ran {
    const tls = "/var/lib/rancher/rke2/server/tls/etcd";
    return this.kubectl(
      ...["--namespace", "kube-system", "exec", `etcd-${this.name}`, "--", "etcdctl", "--endpoints=https://127.0.0.1:2379"],
      ...[`--cacert=${tls}/server-ca.crt`, `--cert=${tls}/server-client.crt`, `--key=${tls}/server-client.key`, ...args],
    );
  }

  /** Members of etcd: node and whether it votes, as etcd itself says. */
  members(): { readonly name: string; readonly votes: boolean }[] {
    return this.etcdctl("member", "list")
      .stdout.split("\n")
      .filter((line) => line !== "")
      .map((line) => line.split(", "))
      .map((fields) => ({ name: (fields[2] as string).replace(/-[0-9a-f]{8}$/, ""), votes: fields[5] === "false" }));
  }
}

/** Asks again and again until the answer is yes. */
export async function until(what: string, limitSeconds: number, holds: () => boolean): Promise<void> {
  const begun = performance.now();
  while (!holds()) {
    if (performance.now() - begun > limitSeconds * 1000) throw new Error(`gave up waiting for ${what} after ${limitSeconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
