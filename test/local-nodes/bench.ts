/** A bench of simulated nodes: a clock, a store that answers by HTTP, and an EC2 that lets nodes die. */
import { standInFiles } from "../../local/aws/stand-in-release.js";
import type { Faults, Service } from "../../local/kernel/contract.js";
import type { Machine } from "../../local/nodes/contract.js";
import { createSimulatedNodes } from "../../local/nodes/simulated.js";
import { type TinyWorld, tinyWorld } from "../local-aws/tiny-world.js";
import { bootstrapped, type NodeBench, prepared, version } from "./contract.js";
import { nodeStore } from "./store.js";

export interface SimulatedBench extends NodeBench {
  readonly world: TinyWorld;
  /** Instances that EC2 was told to let die. */
  readonly lost: string[];
}

export function simulatedBench(options: { readonly seed?: number; readonly faults?: Partial<Faults> } = {}): SimulatedBench {
  const world = tinyWorld(options);
  const lost: string[] = [];
  let machines = 0;
  const store = nodeStore("https://store.example/");
  const driver = createSimulatedNodes(world, { fetch: store.fetch });
  const ec2 = {
    name: "ec2",
    operations: {},
    throttle: { code: "RequestLimitExceeded", httpStatus: 503 },
    save: () => undefined,
    load: () => undefined,
    lose: (id: string) => {
      lost.push(id);
      driver.halt(id);
    },
  } satisfies Service & { lose(id: string): void };
  world.add(ec2);
  world.add(driver);
  // One clock for all who wait: the next has its turn when the one before has what it waited for.
  let turn: Promise<unknown> = Promise.resolve();
  const run = (goal: number | (() => boolean)) => {
    turn = turn.then(() => (typeof goal === "number" && goal <= world.clock.now() ? undefined : world.clock.runUntil(goal)));
    return turn;
  };
  const bench: SimulatedBench = {
    world,
    driver,
    lost,
    architecture: "amd64",
    release: standInFiles({ version, architecture: "amd64", imageSets: ["core", "canal"] }),
    store,
    async boot(overrides = {}) {
      machines++;
      const machine: Machine = {
        instanceId: `i-${String(machines).padStart(17, "0")}`,
        address: `10.0.${Math.floor(machines / 200)}.${(machines % 200) + 10}`,
        zone: `${world.region}a`,
        architecture: "x86_64",
        platform: "ubuntu",
        rootVolumeGib: 80,
        ...overrides,
      };
      driver.boot(machine);
      return machine;
    },
    // Simulated machines cost nothing: nobody shares one.
    blank: () => bench.boot(),
    candidate: (role) => prepared(bench, role),
    cluster: () => bootstrapped(bench),
    async settle(promise) {
      let over = false;
      const done = () => {
        over = true;
      };
      promise.then(done, done);
      await run(() => over);
      if (!over) throw new Error("the world came to rest before the command ended");
      return promise;
    },
    async pass(seconds) {
      const until = world.clock.now() + seconds * 1000;
      await run(until);
    },
    async clusters() {
      return driver.clusters();
    },
    async done() {},
  };
  return bench;
}
