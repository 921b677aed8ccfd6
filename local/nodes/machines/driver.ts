/**
 * Real machines behind the instances of a local cloud: Debian with systemd on this computer, one network for each cloud, load balancers that carry
 * connections, S3 by https under its own names.
 *
 * Everything of a cloud lives in namespaces and folders that carry its name, so any number of clouds run side by side, and what one leaves behind when
 * it is killed is found and removed by the next. What really happens enters the world through its clock alone, which must keep pace with real time.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createRequire } from "node:module";
import { connect, createServer, type Server as NetServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Ec2, fixtureNetwork } from "../../aws/ec2.js";
import type { BalancerTraffic, ElasticLoadBalancingV2 } from "../../aws/elastic-load-balancing-v2.js";
import type { VirtualClock } from "../../kernel/clock.js";
import type { World } from "../../kernel/contract.js";
import type { Answering, DocumentRun, Machine, MachineFetch, NodeDriver, ObservedCluster, RunningDocument } from "../contract.js";
import { AgentRun } from "./agent.js";
import { createAuthority } from "./certificates.js";
import { ensureRoot, machineSupport, must } from "./image.js";
import { raiseLimits } from "./limits.js";
import { type CloudPlaces, NspawnMachine, type Program, writeCloudLayer } from "./machine.js";
import { Observer } from "./observe.js";
import { cloudFolder, makeCgroups, namespacePath, newCloudName, removeCloud, removeLeftovers } from "./traces.js";
import { addresses, type FromGateway, type ToGateway } from "./wire.js";

export { leftovers, removeLeftovers, tracesOf } from "./traces.js";

export interface MachineDriver extends NodeDriver {
  online(instanceId: string): Promise<void>;
  checked(targetGroupArn: string, instanceId: string, port: number): "initial" | "healthy" | "unhealthy";
  /** Runs a program in a machine as root and waits for it: for people, proofs and tests, outside of what AWS can do. */
  exec(instanceId: string, program: readonly string[], input?: string): Promise<Program>;
  /** Turns a machine off, at once or by its own shutdown, and on again: disk and address stay. */
  powerOff(instanceId: string, how: "at once" | "shutdown"): Promise<void>;
  powerOn(instanceId: string): Promise<void>;
  /** Stops a machine in the middle of what it does: nothing in it moves, its agent is silent. */
  pause(instanceId: string): void;
  resume(instanceId: string): void;
  /** Takes a machine off the network, and back. */
  disconnect(instanceId: string): void;
  reconnect(instanceId: string): void;
  /** Sets the time of day that programs of a machine see off by so many seconds; 0 puts it right. */
  setClock(instanceId: string, offsetSeconds: number): void;
  /** Asks the clusters on the machines anew; `clusters` tells what was seen last, at most a few seconds ago. */
  observe(): Promise<readonly ObservedCluster[]>;
}

/** One network of machines, before and after the world that uses it. */
export interface MachineCloud {
  /** In the name of everything it leaves on this computer, see `tracesOf`. */
  readonly name: string;
  /** The driver for a world; once. `fetch` answers what machines ask of S3. */
  driver(world: World & { readonly clock: VirtualClock }, options: { readonly fetch: MachineFetch }): MachineDriver;
  /** A port of this computer's loopback that leads to a name and port of the cloud's network, until the cloud is closed. */
  door(host: string, port: number): Promise<number>;
  /** Runs a program in the cloud's network, where its names do not resolve but its addresses are. */
  readonly networkNamespace: string;
  /** Removes everything. Doing so twice does nothing. */
  close(): Promise<void>;
}

export interface MachineCloudOptions {
  readonly region: string;
  /** A line for a person. */
  readonly say?: (line: string) => void;
}

const open = new Set<string>();

/** @throws when machines cannot run here, with the line of `machineSupport` */
export async function openMachines({ region, say = () => {} }: MachineCloudOptions): Promise<MachineCloud> {
  const support = machineSupport();
  if (!support.ok) throw new Error(support.missing);
  const removed = removeLeftovers();
  if (removed.length > 0) say(`Removed what ${removed.length === 1 ? "an earlier run" : `${removed.length} earlier runs`} had left`);
  const root = await ensureRoot(say);
  const name = newCloudName();
  watchSignals();
  open.add(name);
  try {
    return await makeCloud(name, root, region);
  } catch (error) {
    open.delete(name);
    removeCloud(name);
    throw error;
  }
}

let watching = false;

/** A process that is told to end, or ends without closing, removes its clouds on the way. */
function watchSignals(): void {
  if (watching) return;
  watching = true;
  const removeAll = () => {
    for (const name of open) removeCloud(name);
    open.clear();
  };
  process.on("exit", removeAll);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, function onSignal() {
      // Somebody else listens too, and will close in order.
      if (process.listenerCount(signal) > 1) return;
      removeAll();
      process.off(signal, onSignal);
      process.kill(process.pid, signal);
    });
  }
}

async function makeCloud(name: string, root: string, region: string): Promise<MachineCloud> {
  const folder = cloudFolder(name);
  mkdirSync(join(folder, "layer"), { recursive: true, mode: 0o755 });
  raiseLimits();
  const authority = createAuthority("Local cloud", Date.now());
  writeCloudLayer(join(folder, "layer"), root, authority.certificate);

  must("ip", ["netns", "add", name]);
  const own = [addresses.metadata, addresses.names, addresses.store].map((address) => `address add ${address}/32 dev lo\n`);
  must("ip", ["-n", name, "-batch", "-"], `link set lo up\n${own.join("")}`);
  must("nsenter", [`--net=${namespacePath(name)}`, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]);

  const bridges = new Map<string, { readonly bridge: string; readonly gateway: string; readonly prefix: number }>();
  let numbers = 0;
  let subnetOf: (address: string) => string = (address) => {
    const found = fixtureNetwork(region).subnets.find(({ cidr }) => contains(cidr, address));
    if (found === undefined) throw new Error(`${address} lies in no subnet`);
    return found.cidr;
  };
  const bridge = (cidr: string) => {
    let found = bridges.get(cidr);
    if (found === undefined) {
      const [network = "", prefix = ""] = cidr.split("/");
      found = { bridge: `zone${bridges.size}`, gateway: addressText(addressNumber(network) + 1), prefix: Number(prefix) };
      must(
        "ip",
        ["-n", name, "-batch", "-"],
        `link add ${found.bridge} address ${hardwareAddress(bridges.size)} type bridge forward_delay 0\naddress add ${found.gateway}/${prefix} dev ${found.bridge}\nlink set ${found.bridge} up\n`,
      );
      bridges.set(cidr, found);
    }
    return found;
  };
  const places: CloudPlaces = {
    name,
    region,
    layers: [join(folder, "layer"), root],
    subnet: (address) => bridge(subnetOf(address)),
    next: () => numbers++,
  };

  const storeSocket = join(folder, "store.sock");
  const dialSocket = join(folder, "dial.sock");
  const gateway = startGateway(name);
  const certified = authority.issue([`s3.${region}.amazonaws.com`, `*.s3.${region}.amazonaws.com`]);
  await gateway.begin({ kind: "setup", cloud: name, region, ...certified, storeSocket, dialSocket });

  const doors: NetServer[] = [];
  let driver: Driver | undefined;
  let closing: Promise<void> | undefined;
  return {
    name,
    networkNamespace: namespacePath(name),
    driver(world, { fetch }) {
      if (driver !== undefined) throw new Error("these machines have a world already");
      subnetOf = subnetsOf(world, subnetOf);
      driver = new Driver(world, places, gateway, fetch, storeSocket);
      for (const { cidr } of fixtureNetwork(region).subnets) bridge(cidr);
      return driver;
    },
    async door(host, port) {
      const server = createServer((client) => {
        const inside = connect(dialSocket);
        client.on("error", () => inside.destroy());
        inside.on("error", () => client.destroy());
        client.once("close", () => inside.destroySoon());
        inside.once("close", () => client.destroySoon());
        inside.write(`${host} ${port}\n`, () => client.pipe(inside).pipe(client));
      });
      doors.push(server);
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(0, "127.0.0.1", resolve);
      });
      return (server.address() as { port: number }).port;
    },
    close() {
      closing ??= (async () => {
        for (const server of doors) server.close();
        await driver?.end();
        gateway.end();
        removeCloud(name);
        open.delete(name);
      })();
      return closing;
    },
  };
}

/**
 * Hardware address of a zone's gateway. Left to itself a bridge takes the lowest of its ports': when that machine goes, all others of the zone lose their
 * way to the gateway until they ask for it again, most of a minute later (Linux kernel documentation, networking, Ethernet bridging).
 */
const hardwareAddress = (zone: number) => `02:00:00:00:00:${(zone + 1).toString(16).padStart(2, "0")}`;

/** By what EC2 knows of an address; by the network that is always there, where there is no EC2. */
function subnetsOf(world: World, otherwise: (address: string) => string): (address: string) => string {
  return (address) => {
    let ec2: Ec2 | undefined;
    try {
      ec2 = world.service<Ec2>("ec2");
    } catch {
      return otherwise(address);
    }
    const instance = ec2.living?.().find((each) => each.address === address);
    return (instance === undefined ? undefined : ec2.subnet(instance.subnetId)?.cidr) ?? otherwise(address);
  };
}

// -------------------------------------------------------------------------------------------------------------------- gateway

interface Gateway {
  begin(setup: ToGateway): Promise<void>;
  tell(message: ToGateway): void;
  hear(listener: (message: FromGateway) => void): void;
  end(): void;
}

function startGateway(name: string): Gateway {
  const groups = makeCgroups(name, "gateway")
    .map((group) => `echo $$ >'${group}/cgroup.procs'`)
    .join(" && ");
  const program = [
    process.execPath,
    "--import",
    createRequire(import.meta.url).resolve("tsx"),
    fileURLToPath(new URL("gateway.ts", import.meta.url)),
  ];
  const child: ChildProcess = spawn("sh", ["-c", `${groups} && exec nsenter "--net=$0" "$@"`, namespacePath(name), ...program], {
    stdio: ["ignore", "ignore", "pipe", "ipc"],
    env: { ...process.env, NODE_OPTIONS: "", TSX_TSCONFIG_PATH: fileURLToPath(new URL("../../../tsconfig.json", import.meta.url)) },
  });
  let listener: (message: FromGateway) => void = () => {};
  let ended = false;
  let errors = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    errors = `${errors}${chunk.toString("utf8")}`.slice(-2000);
  });
  child.on("message", (message: FromGateway) => listener(message));
  child.once("exit", (code) => {
    if (!ended) listener({ kind: "failed", message: `the gateway ended with status ${code}: ${errors.trim()}` });
  });
  const hear = (given: (message: FromGateway) => void) => {
    listener = given;
  };
  return {
    hear,
    begin: (setup) =>
      new Promise((resolve, reject) => {
        child.once("error", reject);
        hear((message) => {
          if (message.kind === "ready") resolve();
          if (message.kind === "failed") reject(new Error(message.message));
        });
        child.send(setup);
      }),
    tell(message) {
      if (child.connected) child.send(message);
    },
    end() {
      ended = true;
      if (child.connected) child.send({ kind: "end" } satisfies ToGateway, () => child.connected && child.disconnect());
    },
  };
}

// --------------------------------------------------------------------------------------------------------------------- driver

interface Live {
  readonly node: NspawnMachine;
  /** What is done to the machine, one after another. */
  work: Promise<void>;
  /** Whether it is meant to run. */
  on: boolean;
  gone: boolean;
  connected: boolean;
  paused: boolean;
  readonly changes: Set<() => void>;
}

const followMilliseconds = 200;
const observeMilliseconds = 3000;
const lingerMilliseconds = 500;
const bootPollMilliseconds = 50;
const bootLimitMilliseconds = 120_000;

class Driver implements MachineDriver {
  readonly name = "nodes";
  readonly operations = {};
  readonly throttle = { code: "Throttling", httpStatus: 400 };
  readonly #observer = new Observer();
  readonly #world: World & { readonly clock: VirtualClock };
  readonly #places: CloudPlaces;
  readonly #gateway: Gateway;
  readonly #fetch: MachineFetch;
  readonly #store: Server;
  readonly #machines = new Map<string, Live>();
  readonly #probes = new Map<string, { readonly instanceId: string; readonly port: number; answering: Answering }>();
  #checks: Readonly<Record<string, "initial" | "healthy" | "unhealthy">> = {};
  readonly #following: NodeJS.Timeout;
  #told = "";
  #over = false;

  constructor(world: World & { readonly clock: VirtualClock }, places: CloudPlaces, gateway: Gateway, fetch: MachineFetch, storeSocket: string) {
    this.#world = world;
    this.#places = places;
    this.#gateway = gateway;
    this.#fetch = fetch;
    this.#store = createHttpServer((request, response) => void this.#answerStore(request, response));
    this.#store.listen(storeSocket);
    gateway.hear((message) => this.#hear(message));
    this.#following = setInterval(() => this.#follow(), followMilliseconds);
    this.#following.unref();
    this.#keepObserving();
  }

  // -------------------------------------------------------------------------------------------------- what EC2 and SSM ask

  boot(machine: Machine): void {
    const node = new NspawnMachine(machine, this.#places);
    const live: Live = { node, work: Promise.resolve(), on: true, gone: false, connected: true, paused: false, changes: new Set() };
    if (this.#machines.has(machine.instanceId)) throw new Error(`a second boot of ${machine.instanceId}`);
    this.#machines.set(machine.instanceId, live);
    const own = process.arch === "arm64" ? "arm64" : "x86_64";
    if (machine.architecture !== own) {
      // As an image for another processor: it never comes up.
      this.#world.note("machine does not boot", { instance: machine.instanceId, architecture: machine.architecture, here: own });
      return;
    }
    node.ended = () => this.#endedByItself(live);
    const release = this.#world.clock.hold();
    this.#do(live, () => {
      if (live.gone) return;
      node.make();
      node.start();
      this.#follow();
    });
    const started = performance.now();
    this.#reachable(live).then(
      () =>
        this.#world.clock.arrive(() => {
          release();
          this.#world.note("machine booted", { instance: machine.instanceId, milliseconds: Math.round(performance.now() - started) });
        }),
      (error: unknown) => {
        release();
        this.#fail(error);
      },
    );
    live.changes.add(() => {
      if (live.gone) release();
    });
  }

  halt(instanceId: string): void {
    const live = this.#machines.get(instanceId);
    if (live === undefined || live.gone) return;
    live.gone = true;
    live.on = false;
    this.#changed(live);
    this.#do(live, () => live.node.remove());
  }

  online(instanceId: string): Promise<void> {
    const live = this.#live(instanceId);
    return new Promise((resolve) => {
      this.#reachable(live).then(
        () => this.#world.clock.arrive(() => resolve()),
        () => {
          // Told where the machine was booted.
        },
      );
    });
  }

  run(document: DocumentRun): RunningDocument {
    const live = this.#live(document.instanceId);
    const { node } = live;
    const { clock } = this.#world;
    const release = clock.hold();
    const run = new AgentRun(document, {
      region: this.#places.region,
      root: node.root,
      folder: node.folder,
      get environment() {
        return node.environment;
      },
      online: () => this.#reachable(live),
      boot: () => node.leader,
      start: (program, environment, stdout, stderr) => node.spawn(program, environment, ["ignore", stdout, stderr]),
      restart: () => this.#restart(live),
    });
    live.changes.add(() => {
      if (live.gone) release();
    });
    const ended = new Promise<Awaited<RunningDocument["ended"]>>((resolve) => {
      run.run().then(
        async (end) => {
          if (end === undefined) {
            release();
            return;
          }
          // The agent tells when it can.
          await this.#reachable(live);
          clock.arrive(() => {
            release();
            if (!live.gone) resolve(end);
          });
        },
        (error: unknown) => {
          release();
          if (!live.gone) this.#fail(error);
        },
      );
    });
    return {
      ended,
      kill: () => {
        release();
        run.kill();
      },
    };
  }

  answers(instanceId: string, port: number): Answering {
    const live = this.#machines.get(instanceId);
    const key = `${instanceId} ${port}`;
    let probe = this.#probes.get(key);
    if (probe === undefined) {
      probe = { instanceId, port, answering: { answers: false, sinceMs: this.#world.clock.now() } };
      if (live === undefined || live.gone) return probe.answering;
      this.#probes.set(key, probe);
      this.#follow();
    }
    return probe.answering;
  }

  checked(targetGroupArn: string, instanceId: string, port: number): "initial" | "healthy" | "unhealthy" {
    return this.#checks[`${targetGroupArn} ${instanceId} ${port}`] ?? "initial";
  }

  clusters(): readonly ObservedCluster[] {
    return this.#observer.clusters;
  }

  get revision(): number {
    return this.#observer.revision;
  }

  /** Machines are not kept: they end with the process that runs them. */
  save(): unknown {
    return undefined;
  }
  load(): void {}

  // ------------------------------------------------------------------------------------------------------------ what people do

  async exec(instanceId: string, program: readonly string[], input?: string): Promise<Program> {
    const child = this.#live(instanceId).node.spawn(
      program,
      { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME: "/root" },
      [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    );
    const texts = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) child[name]?.setEncoding("utf8").on("data", (chunk: string) => (texts[name] += chunk));
    child.stdin?.on("error", () => {});
    child.stdin?.end(input);
    const status = await new Promise<number>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code) => resolve(code ?? -1));
      // What it left running may hold its output for ever.
      child.once("exit", (code) => setTimeout(() => resolve(code ?? -1), lingerMilliseconds));
    });
    child.stdout?.destroy();
    child.stderr?.destroy();
    return { status, ...texts };
  }

  async powerOff(instanceId: string, how: "at once" | "shutdown"): Promise<void> {
    const live = this.#live(instanceId);
    live.on = false;
    if (how === "shutdown" && live.node.leader !== undefined) {
      // SIGRTMIN+4: systemd shuts down.
      process.kill(live.node.leader, 38);
      for (let waited = 0; live.node.isOn && waited < 30_000; waited += bootPollMilliseconds) await pause(bootPollMilliseconds);
    }
    this.#do(live, () => live.node.powerOff());
    await live.work;
    this.#changed(live);
  }

  async powerOn(instanceId: string): Promise<void> {
    const live = this.#live(instanceId);
    live.on = true;
    this.#do(live, () => {
      if (!live.gone && !live.node.isOn) live.node.start();
    });
    await live.work;
    await this.#reachable(live);
  }

  pause(instanceId: string): void {
    const live = this.#live(instanceId);
    live.node.freeze(true);
    live.paused = true;
  }

  resume(instanceId: string): void {
    const live = this.#live(instanceId);
    live.node.freeze(false);
    live.paused = false;
  }

  disconnect(instanceId: string): void {
    const live = this.#live(instanceId);
    live.connected = false;
    live.node.plug(false);
  }

  reconnect(instanceId: string): void {
    const live = this.#live(instanceId);
    live.connected = true;
    live.node.plug(true);
  }

  setClock(instanceId: string, offsetSeconds: number): void {
    this.#live(instanceId).node.setClock(offsetSeconds);
  }

  async observe(): Promise<readonly ObservedCluster[]> {
    const machines = [...this.#machines.values()].filter((live) => !live.gone && live.connected && !live.paused);
    const observable = machines.map(({ node }) => ({
      instanceId: node.machine.instanceId,
      address: node.machine.address,
      root: node.root,
      isOnline: node.isOnline,
      run: (program: readonly string[]) => this.exec(node.machine.instanceId, program),
    }));
    if (this.#observer.hasWork(observable)) {
      const known = new Map([...this.#machines.values()].map(({ node: { machine } }) => [machine.address, machine.instanceId]));
      await this.#observer.look(
        observable,
        (address) => known.get(address),
        () => this.#world.clock.now(),
      );
    }
    return this.#observer.clusters;
  }

  /** Looks at the clusters again and again; what has changed is there to see from an event on. */
  #keepObserving(): void {
    const again = () => {
      if (this.#over) return;
      const { revision } = this.#observer;
      this.observe().then(
        () => {
          if (this.#observer.revision !== revision) this.#world.clock.arrive(() => {});
          if (!this.#over) setTimeout(again, observeMilliseconds).unref();
        },
        (error: unknown) => this.#fail(error),
      );
    };
    again();
  }

  /** Removes every machine. */
  async end(): Promise<void> {
    this.#over = true;
    clearInterval(this.#following);
    for (const instanceId of this.#machines.keys()) this.halt(instanceId);
    await Promise.all([...this.#machines.values()].map((live) => live.work));
    this.#store.close();
    this.#store.closeAllConnections();
  }

  // ------------------------------------------------------------------------------------------------------------------ machines

  #live(instanceId: string): Live {
    const live = this.#machines.get(instanceId);
    if (live === undefined) throw new Error(`no machine ${instanceId}`);
    return live;
  }

  #do(live: Live, act: () => void | Promise<void>): void {
    live.work = live.work.then(act).catch((error: unknown) => this.#fail(error));
  }

  #changed(live: Live): void {
    for (const change of [...live.changes]) change();
  }

  /** What the driver cannot do is no answer of a machine: it ends the world. */
  #fail(error: unknown): void {
    if (this.#over) return;
    this.#world.clock.arrive(() => {
      throw error;
    });
  }

  /** Settles when the machine runs and is on the network; never, once it is gone. Rejects when it does not boot. */
  async #reachable(live: Live): Promise<void> {
    const started = performance.now();
    let onSince = started;
    for (;;) {
      if (live.gone) return await new Promise(() => {});
      if (live.on && live.connected && !live.paused && live.node.isOnline) return;
      if (!live.on || !live.connected || live.paused) onSince = performance.now();
      if (performance.now() - onSince > bootLimitMilliseconds) {
        throw new Error(`${live.node.machine.instanceId} did not boot within ${bootLimitMilliseconds / 1000} s: ${live.node.console}`);
      }
      await pause(bootPollMilliseconds);
    }
  }

  async #restart(live: Live): Promise<void> {
    if (live.gone) return;
    await this.powerOff(live.node.machine.instanceId, "shutdown");
    await this.powerOn(live.node.machine.instanceId);
  }

  /** A machine that shuts down from within is lost, as EC2 sees it; one that never came up is the driver's failure, told where it is waited for. */
  #endedByItself(live: Live): void {
    if (live.gone || !live.on || this.#over) return;
    live.on = false;
    const { instanceId } = live.node.machine;
    this.#world.clock.arrive(() => {
      if (live.gone) return;
      this.#world.note("machine shut down", { instance: instanceId });
      this.#world.service<Ec2>("ec2").lose(instanceId, "Client.InstanceInitiatedShutdown");
    });
  }

  // ------------------------------------------------------------------------------------------------------------------- network

  /** Tells the gateway what there is now, when that has changed. */
  #follow(): void {
    if (this.#over) return;
    const living = [...this.#machines.values()].filter((live) => !live.gone).map((live) => live.node);
    const message: ToGateway = {
      kind: "state",
      machines: living.map(({ machine, hostName }) => ({
        instanceId: machine.instanceId,
        address: machine.address,
        metadata: this.#metadata(machine, hostName),
      })),
      balancers: this.#traffic(),
      probes: [...this.#probes.values()].flatMap(({ instanceId, port }) => {
        const live = this.#machines.get(instanceId);
        return live === undefined || live.gone ? [] : [{ instanceId, address: live.node.machine.address, port }];
      }),
    };
    const text = JSON.stringify(message);
    if (text === this.#told) return;
    this.#told = text;
    this.#gateway.tell(message);
  }

  #traffic(): readonly BalancerTraffic[] {
    let balancing: ElasticLoadBalancingV2;
    try {
      balancing = this.#world.service<ElasticLoadBalancingV2>("elastic-load-balancing-v2");
    } catch {
      return [];
    }
    return balancing.traffic();
  }

  #metadata(machine: Machine, hostName: string): Readonly<Record<string, string>> {
    const { region } = this.#places;
    const name = `${hostName}.${region}.compute.internal`;
    const identity = {
      accountId: this.#world.account,
      architecture: machine.architecture,
      availabilityZone: machine.zone,
      instanceId: machine.instanceId,
      privateIp: machine.address,
      region,
      version: "2017-09-30",
    };
    return {
      "instance-id": machine.instanceId,
      "local-ipv4": machine.address,
      hostname: name,
      "local-hostname": name,
      "placement/availability-zone": machine.zone,
      "placement/region": region,
      "services/domain": "amazonaws.com",
      "services/partition": this.#world.partition,
      "dynamic/instance-identity/document": JSON.stringify(identity, undefined, 2),
    };
  }

  #hear(message: FromGateway): void {
    if (message.kind === "failed") {
      this.#fail(new Error(message.message));
      return;
    }
    if (message.kind !== "seen" || this.#over) return;
    this.#world.clock.arrive(() => {
      this.#checks = message.checks;
      for (const [key, answers] of Object.entries(message.answers)) {
        const probe = this.#probes.get(key);
        if (probe !== undefined && probe.answering.answers !== answers) probe.answering = { answers, sinceMs: this.#world.clock.now() };
      }
    });
  }

  // ------------------------------------------------------------------------------------------------------------------------ S3

  async #answerStore(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const headers: Record<string, string> = {};
      for (const [name, value] of Object.entries(request.headers)) {
        // What belongs to the connection and not to the request.
        if (name === "host" || name === "connection") continue;
        headers[name] = Array.isArray(value) ? value.join(",") : (value ?? "");
      }
      const url = `https://${request.headers.host ?? ""}${request.url ?? "/"}`;
      const method = request.method as "GET" | "PUT";
      const answer = await new Promise<Awaited<ReturnType<MachineFetch>>>((resolve, reject) =>
        this.#world.clock.arrive(async () => {
          try {
            resolve(await this.#fetch(url, { method, headers, body: Buffer.concat(chunks) }));
          } catch (error) {
            reject(error as Error);
          }
        }),
      );
      // Machines go by the wall clock; the world may be ahead of it, and so may the date that S3 gave.
      response.writeHead(answer.status, { ...answer.headers, date: new Date().toUTCString() });
      response.end(request.method === "HEAD" ? undefined : answer.body);
    } catch (error) {
      if (!request.destroyed || request.complete) this.#fail(error);
      if (!response.headersSent) response.writeHead(500);
      response.end();
    }
  }
}

const pause = (milliseconds: number) => new Promise<void>((resolve) => void setTimeout(resolve, milliseconds));

function addressNumber(text: string): number {
  return text.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
}
function addressText(number: number): string {
  return [24, 16, 8, 0].map((shift) => (number >>> shift) & 255).join(".");
}
function contains(cidr: string, address: string): boolean {
  const [network = "", prefix = "0"] = cidr.split("/");
  const size = 2 ** (32 - Number(prefix));
  return Math.floor(addressNumber(network) / size) === Math.floor(addressNumber(address) / size);
}
