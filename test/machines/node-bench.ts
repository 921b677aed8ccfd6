/**
 * Benches of booted machines for the contract of the node commands: one cloud, which every case shares, and what a case borrows there.
 *
 * A boot, a first prepare-node and a bootstrap take seconds each, so they are made once and lent; time is real.
 */
import { readFileSync } from "node:fs";
import type { Machine } from "../../local/nodes/contract.js";
import { type MachineCloud, type MachineDriver, openMachines } from "../../local/nodes/machines/driver.js";
import { releaseFolder } from "../../local/nodes/machines/world.js";
import { buildRelease } from "../../local/nodes/release/build.js";
import { tinyWorld } from "../local-aws/tiny-world.js";
import { bootstrapped, type Cluster, type NodeBench, perform, prepareParameters, succeeded, version } from "../local-nodes/contract.js";
import { nodeStore } from "../local-nodes/store.js";
import { blankMachine, region } from "./bench.js";

const zones = ["a", "b", "c"] as const;
/** How many of each kind there are to be lent; a case waits for its turn. */
const lent = { blank: 1, server: 3, agent: 2 } as const;

export interface SharedMachines {
  readonly cloud: MachineCloud;
  readonly driver: MachineDriver;
  /** A bench for one case. */
  bench(): NodeBench;
  close(): Promise<void>;
}

export async function shareMachines(): Promise<SharedMachines> {
  const built = await buildRelease({ version, outdir: releaseFolder() });
  const wanted = [
    `rke2.linux-${built.architecture}.tar.gz`,
    ...["core", "canal"].map((set) => `rke2-images-${set}.linux-${built.architecture}.tar.zst`),
  ];
  const release = new Map(
    [...wanted, `sha256sum-${built.architecture}.txt`].map((name) => [name, readFileSync(built.files.get(name) as string)] as const),
  );
  const cloud = await openMachines({ region });
  const world = tinyWorld({ startAtMs: Date.now() });
  const store = nodeStore(`https://s3.${region}.amazonaws.com/nodes/`);
  const driver = cloud.driver(world, { fetch: store.fetch });
  world.add(driver);
  const { orBroken, stop } = world.clock.paceUntilStopped({ speed: 1 });

  let machines = 0;
  async function boot(overrides: Partial<Machine> = {}): Promise<Machine> {
    const zone = zones[machines % zones.length] as (typeof zones)[number];
    const machine = blankMachine(++machines, zone, overrides);
    driver.boot(machine);
    await orBroken(driver.online(machine.instanceId));
    return machine;
  }

  const pools = { blank: new Pool(lent.blank, boot), server: new Pool(lent.server, boot), agent: new Pool(lent.agent, boot) };
  let cluster: Promise<Cluster> | undefined;

  /** @param own where the machines go that this bench boots, to be removed with it */
  function makeBench(own: Machine[]): NodeBench {
    const returns: (() => void)[] = [];
    const borrow = async (pool: Pool) => {
      const machine = await pool.take();
      returns.push(() => pool.give(machine));
      return machine;
    };
    const bench: NodeBench = {
      driver,
      architecture: built.architecture,
      release,
      store,
      async boot(overrides) {
        const machine = await boot(overrides);
        own.push(machine);
        return machine;
      },
      blank: () => borrow(pools.blank),
      async candidate(role) {
        const machine = await borrow(pools[role]);
        succeeded(await perform(bench, machine, "prepare-node", prepareParameters(bench, role, role === "server" ? "server" : "workers")));
        return machine;
      },
      cluster: () => {
        cluster ??= bootstrapped(makeBench([]));
        return cluster;
      },
      settle: orBroken,
      pass: (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000)),
      clusters: () => driver.observe(),
      async done() {
        for (const machine of own) driver.halt(machine.instanceId);
        for (const giveBack of returns) giveBack();
      },
    };
    return bench;
  }

  return {
    cloud,
    driver,
    bench: () => makeBench([]),
    async close() {
      await cloud.close();
      await stop();
    },
  };
}

/** Machines that are lent; booted when they are first asked for. */
class Pool {
  #made = 0;
  readonly #free: Machine[] = [];
  readonly #waiting: ((machine: Machine) => void)[] = [];
  constructor(
    private readonly most: number,
    private readonly make: () => Promise<Machine>,
  ) {}

  take(): Promise<Machine> {
    const machine = this.#free.pop();
    if (machine !== undefined) return Promise.resolve(machine);
    if (this.#made < this.most) {
      this.#made++;
      return this.make();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  give(machine: Machine): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(machine);
    else next(machine);
  }
}
