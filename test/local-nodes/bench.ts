/** A bench of simulated nodes: a clock, a store that answers by HTTP, and an EC2 that lets nodes die. */
import type { Faults, Service } from "../../local/kernel/contract.js";
import type { Machine, MachineFetch } from "../../local/nodes/contract.js";
import { createSimulatedNodes } from "../../local/nodes/simulated.js";
import { type TinyWorld, tinyWorld } from "../local-aws/tiny-world.js";
import type { NodeBench } from "./contract.js";

export interface SimulatedBench extends NodeBench {
  readonly world: TinyWorld;
  /** Instances that EC2 was told to let die. */
  readonly lost: string[];
}

export function simulatedBench(options: { readonly seed?: number; readonly faults?: Partial<Faults> } = {}): SimulatedBench {
  const world = tinyWorld(options);
  const objects = new Map<string, Buffer>();
  const slots = new Set<string>();
  const lost: string[] = [];
  let requests = 0;
  let machines = 0;
  const origin = "https://store.example/";
  const fetch: MachineFetch = (url, request) => {
    requests++;
    const name = url.slice(origin.length);
    const answer = (status: number, body: Uint8Array = Buffer.alloc(0)) => ({ status, headers: {}, body });
    if (request.method === "GET") {
      const body = objects.get(name);
      return body === undefined ? answer(404) : answer(200, body);
    }
    if (!slots.has(name)) return answer(403);
    if (objects.has(name)) return answer(412);
    objects.set(name, Buffer.from(request.body ?? []));
    return answer(200);
  };
  const driver = createSimulatedNodes(world, { fetch });
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
  return {
    world,
    driver,
    lost,
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
    async settle(promise) {
      let over = false;
      const done = () => {
        over = true;
      };
      promise.then(done, done);
      await world.clock.runUntil(() => over);
      if (!over) throw new Error("the world came to rest before the command ended");
      return promise;
    },
    async pass(seconds) {
      await world.clock.runUntil(world.clock.now() + seconds * 1000);
    },
    store: {
      give(name, body) {
        // Another body is another address: what was given once stays as it was.
        const address = `${name}-${objects.size + 1}`;
        objects.set(address, Buffer.from(body));
        return `${origin}${address}`;
      },
      slot(name) {
        slots.add(name);
        return `${origin}${name}`;
      },
      taken: (name) => objects.get(name)?.toString("utf8"),
      bytes: (name) => objects.get(name) ?? Buffer.alloc(0),
      get requests() {
        return requests;
      },
    },
  };
}
