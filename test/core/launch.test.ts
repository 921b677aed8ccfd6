import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Batch,
  batchLimit,
  emptyLaunchLog,
  isRefusal,
  type LaunchLog,
  missingSlots,
  type NextLaunch,
  nextLaunch,
  openBatches,
  planBatches,
  rememberBatches,
  rememberLaunch,
  rememberRefusal,
  type Shape,
  shapesOf,
  surplusInstances,
  unseenInstances,
} from "../../core/launch.js";
import { isAlive, isGone, type ObservedInstance } from "../../core/nodes.js";
import { agent, at, chance, clusterFile, instance, subnets, zones } from "./facts.js";

const servers: Shape = {
  pool: "server",
  role: "server",
  count: 3,
  instanceTypes: ["m6i.xlarge", "m5.xlarge"],
  market: "on-demand",
  rootVolumeGib: 80,
};
const workers: Shape = { pool: "workers", role: "agent", count: 8, instanceTypes: ["c6i.large", "c5.large"], market: "spot", rootVolumeGib: 100 };
const plan = (shapes: Shape[], observed: ObservedInstance[] = [], more: Partial<Parameters<typeof planBatches>[0]> = {}) =>
  planBatches({ uid: "uid-1", operation: "op-1", pass: 1, shapes, subnets, observed, ...more });
const only = (batches: Batch[]): Batch => {
  expect(batches).toHaveLength(1);
  return batches[0] as Batch;
};
const launchOf = (next: NextLaunch) => {
  expect(next.kind).toBe("launch");
  return next as Extract<NextLaunch, { kind: "launch" }>;
};
const firstOf = (batch: Batch) => batch.options[0]?.zone;

describe("planning launches", () => {
  it("reads servers and pools from the cluster file", () => {
    expect(shapesOf(clusterFile(3, { workers: 4, gpu: 2 })).map((shape) => [shape.pool, shape.role, shape.count, shape.market])).toEqual([
      ["server", "server", 3, "on-demand"],
      ["workers", "agent", 4, "on-demand"],
      ["gpu", "agent", 2, "on-demand"],
    ]);
  });

  it("finds the slots that nothing holds", () => {
    const observed = [
      agent("i-1", 1),
      agent("i-2", 2, { state: "terminated" }),
      agent("i-3", 3, { state: "stopped" }),
      agent("i-4", 4, { state: "unseen" }),
      agent("i-5", 5, { state: "shutting-down" }),
      agent("i-6", 6, { pool: "other" }),
    ];
    expect(missingSlots({ pool: "workers", count: 6 }, observed)).toEqual([2, 5, 6]);
  });

  it("launches servers one by one, each slot in its own zone", () => {
    expect(plan([servers]).map((batch) => [batch.firstSlot, batch.count, firstOf(batch)])).toEqual([
      [1, 1, "eu-west-1a"],
      [2, 1, "eu-west-1b"],
      [3, 1, "eu-west-1c"],
    ]);
  });

  it("replaces a server in the zone of its slot, so that the spread stays", () => {
    const observed = [instance({ instanceId: "i-1", slot: 1 }), instance({ instanceId: "i-3", slot: 3, zone: "eu-west-1c" })];
    expect(firstOf(only(plan([servers], observed)))).toBe("eu-west-1b");
  });

  it("tries every type in a server's own zone before it moves to another", () => {
    expect(plan([servers])[1]?.options.map((option) => `${option.zone} ${option.instanceType}`)).toEqual([
      "eu-west-1b m6i.xlarge",
      "eu-west-1b m5.xlarge",
      "eu-west-1c m6i.xlarge",
      "eu-west-1c m5.xlarge",
      "eu-west-1a m6i.xlarge",
      "eu-west-1a m5.xlarge",
    ]);
  });

  it("tries an agent's first type in every zone before the second type", () => {
    expect(plan([workers])[0]?.options.map((option) => `${option.zone} ${option.instanceType}`)).toEqual([
      "eu-west-1a c6i.large",
      "eu-west-1b c6i.large",
      "eu-west-1c c6i.large",
      "eu-west-1a c5.large",
      "eu-west-1b c5.large",
      "eu-west-1c c5.large",
    ]);
  });

  it("levels agents over the zones in contiguous runs", () => {
    expect(plan([workers]).map((batch) => [batch.firstSlot, batch.count, firstOf(batch)])).toEqual([
      [1, 3, "eu-west-1a"],
      [4, 3, "eu-west-1b"],
      [7, 2, "eu-west-1c"],
    ]);
  });

  it("replaces agents where the pool has fewest", () => {
    const observed = [1, 2, 4, 5, 7].map((slot) =>
      agent(`i-${slot}`, slot, { zone: slot === 7 ? "eu-west-1c" : slot < 4 ? "eu-west-1a" : "eu-west-1b" }),
    );
    expect(plan([workers], observed).map((batch) => [batch.firstSlot, batch.count, firstOf(batch)])).toEqual([
      [3, 1, "eu-west-1a"],
      [6, 1, "eu-west-1b"],
      [8, 1, "eu-west-1c"],
    ]);
  });

  it("launches 1,000 agents in few calls, none over the limit", () => {
    const batches = plan([{ ...workers, count: 1000 }]);
    expect(batches.map((batch) => batch.count)).toEqual([250, 84, 250, 83, 250, 83]);
    expect(Math.max(...batches.map((batch) => batch.count))).toBe(batchLimit);
  });

  it("plans a batch without options when no subnet is left, so that it ends as exhausted and not as nothing to do", () => {
    const batch = only(planBatches({ uid: "u", operation: "o", pass: 1, shapes: [{ ...workers, count: 2 }], subnets: [], observed: [] }));
    expect(nextLaunch(emptyLaunchLog, batch)).toEqual({ kind: "exhausted", missing: 2, refusals: [] });
  });

  it("puts what was refused in the pass before at the end of the ladder", () => {
    const refusals = [
      { batch: "b", zone: "eu-west-1a", subnetId: "subnet-00000001", instanceType: "c6i.large", code: "InsufficientInstanceCapacity", at: at(0) },
    ];
    const options = plan([{ ...workers, count: 1 }], [], { pass: 2, refusals })[0]?.options ?? [];
    expect(options.at(-1)).toMatchObject({ zone: "eu-west-1a", instanceType: "c6i.large" });
    expect(options).toHaveLength(6);
  });

  it("keeps a pass as it was planned first, whatever is planned for it later", () => {
    const once = rememberBatches(emptyLaunchLog, plan([workers]));
    expect(rememberBatches(once, plan([{ ...workers, count: 9 }]))).toEqual(once);
    expect(rememberBatches(once, plan([{ ...workers, count: 9 }], [], { pass: 2 })).batches).toHaveLength(6);
  });
});

describe("launching a batch", () => {
  const batch = only(plan([{ ...workers, count: 5 }], [], { subnets: subnets.slice(0, 1) }));
  const [first, second] = batch.options;

  it("asks for every slot at the likeliest place first", () => {
    expect(nextLaunch(emptyLaunchLog, batch)).toMatchObject({ kind: "launch", firstSlot: 1, count: 5, option: first, optionIndex: 0 });
  });

  it("repeats a call of unknown outcome as it was, with the same token", () => {
    expect(nextLaunch(emptyLaunchLog, batch)).toEqual(nextLaunch(emptyLaunchLog, { ...batch }));
  });

  it("goes on with the rest at the next place after a partial answer", () => {
    const call = launchOf(nextLaunch(emptyLaunchLog, batch));
    const { log } = rememberLaunch(emptyLaunchLog, batch, call, ["i-1", "i-2"], at(0));
    expect(nextLaunch(log, batch)).toMatchObject({ kind: "launch", firstSlot: 3, count: 3, option: second, optionIndex: 1 });
    const next = launchOf(nextLaunch(log, batch));
    expect(nextLaunch(rememberLaunch(log, batch, next, ["i-3", "i-4", "i-5"], at(1)).log, batch)).toEqual({ kind: "done" });
  });

  it("says which places refused when the ladder ends", () => {
    let log: LaunchLog = emptyLaunchLog;
    for (const option of batch.options) log = rememberRefusal(log, batch, option, "InsufficientInstanceCapacity", at(0));
    expect(nextLaunch(log, batch)).toMatchObject({
      kind: "exhausted",
      missing: 5,
      refusals: [{ instanceType: "c6i.large" }, { instanceType: "c5.large" }],
    });
  });

  it("skips other subnets of a zone that has no machines of the type, and other types in a subnet that has no addresses", () => {
    const double = [...subnets, { id: "subnet-00000009", zone: "eu-west-1a" }];
    const wide = plan([{ ...workers, count: 1 }], [], { subnets: double })[0] as Batch;
    const place = (log: LaunchLog) => {
      const { subnetId, instanceType } = launchOf(nextLaunch(log, wide)).option;
      return [subnetId, instanceType];
    };
    expect(place(emptyLaunchLog)).toEqual(["subnet-00000001", "c6i.large"]);
    const full = rememberRefusal(emptyLaunchLog, wide, wide.options[0] as Batch["options"][0], "InsufficientInstanceCapacity", at(0));
    expect(place(full)).toEqual(["subnet-00000002", "c6i.large"]);
    const crowded = rememberRefusal(emptyLaunchLog, wide, wide.options[0] as Batch["options"][0], "InsufficientFreeAddressesInSubnet", at(0));
    expect(place(crowded)).toEqual(["subnet-00000009", "c6i.large"]);
  });

  it("is not moved by what another batch met, because its own call may be under way", () => {
    const other: Batch = { ...batch, id: "another" };
    const log = rememberRefusal(emptyLaunchLog, other, other.options[0] as Batch["options"][0], "InsufficientInstanceCapacity", at(0));
    expect(nextLaunch(log, batch)).toEqual(nextLaunch(emptyLaunchLog, batch));
  });

  it("ends the batch when its token made instances that are terminated, and leaves the slots to the next pass", () => {
    const log = rememberRefusal(emptyLaunchLog, batch, first as Batch["options"][0], "IdempotentInstanceTerminated", at(0));
    expect(nextLaunch(log, batch)).toMatchObject({ kind: "exhausted", missing: 5 });
    expect(isRefusal("IdempotentInstanceTerminated")).toBe(true);
  });

  it("takes only definite answers for refusals", () => {
    expect(["InsufficientInstanceCapacity", "Unsupported", "InsufficientFreeAddressesInSubnet"].map(isRefusal)).toEqual([true, true, true]);
    expect(["RequestLimitExceeded", "InternalError", "TimeoutError", "UnauthorizedOperation", "VcpuLimitExceeded"].map(isRefusal)).toEqual([
      false,
      false,
      false,
      false,
      false,
    ]);
  });

  it("remembers the same answer once", () => {
    const call = launchOf(nextLaunch(emptyLaunchLog, batch));
    const once = rememberLaunch(emptyLaunchLog, batch, call, ["i-1", "i-2"], at(0)).log;
    expect(rememberLaunch(once, batch, call, ["i-1", "i-2"], at(9))).toEqual({ log: once, surplus: [] });
    const refused = rememberRefusal(once, batch, second as Batch["options"][0], "Unsupported", at(1));
    expect(rememberRefusal(refused, batch, second as Batch["options"][0], "Unsupported", at(2))).toEqual(refused);
  });

  it("hands back instances whose slots another run of the step has filled meanwhile", () => {
    const call = launchOf(nextLaunch(emptyLaunchLog, batch));
    const refused = rememberRefusal(emptyLaunchLog, batch, first as Batch["options"][0], "Unsupported", at(0));
    const elsewhere = rememberLaunch(refused, batch, launchOf(nextLaunch(refused, batch)), ["i-1", "i-2", "i-3"], at(1)).log;
    expect(rememberLaunch(elsewhere, batch, call, ["i-8", "i-9"], at(2))).toEqual({ log: elsewhere, surplus: ["i-8", "i-9"] });
  });

  it("launches nothing more for slots that were planned anew, and hands back what comes late", () => {
    const call = launchOf(nextLaunch(emptyLaunchLog, batch));
    const log = rememberBatches(rememberBatches(emptyLaunchLog, [batch]), plan([{ ...workers, count: 5 }], [], { operation: "op-2" }));
    expect(nextLaunch(log, batch)).toMatchObject({ kind: "exhausted", missing: 5 });
    expect(openBatches(log).map((open) => open.operation)).toEqual(["op-2", "op-2", "op-2"]);
    expect(rememberLaunch(log, batch, call, ["i-1"], at(1)).surplus).toEqual(["i-1"]);
  });

  it("counts instances that Describe does not show yet, for ten minutes", () => {
    const planned = rememberBatches(emptyLaunchLog, [batch]);
    const { log } = rememberLaunch(planned, batch, launchOf(nextLaunch(planned, batch)), ["i-1", "i-2"], at(0));
    expect(unseenInstances(log, [agent("i-1", 1)], at(599))).toEqual([
      {
        instanceId: "i-2",
        role: "agent",
        pool: "workers",
        slot: 2,
        operation: "op-1",
        zone: "eu-west-1a",
        subnetId: "subnet-00000001",
        instanceType: "c6i.large",
        address: "",
        state: "unseen",
        launchedAt: at(0),
      },
    ]);
    expect(unseenInstances(log, [agent("i-1", 1), agent("i-2", 2, { state: "terminated" })], at(1))).toEqual([]);
    expect(unseenInstances(log, [], at(600))).toEqual([]);
  });

  it("keeps one instance of two in a slot: a member before one that was logged, that before the older", () => {
    const two = [instance({ instanceId: "i-old", launchedAt: at(0) }), instance({ instanceId: "i-new", launchedAt: at(5) })];
    const logged = rememberLaunch(emptyLaunchLog, batch, launchOf(nextLaunch(emptyLaunchLog, batch)), ["i-new"], at(5)).log;
    const surplus = (log: LaunchLog, keep: string[], observed = two) => surplusInstances(observed, log, new Set(keep)).map((each) => each.instanceId);
    expect(surplus(emptyLaunchLog, [])).toEqual(["i-new"]);
    expect(surplus(logged, [])).toEqual(["i-old"]);
    expect(surplus(logged, ["i-old"])).toEqual(["i-new"]);
    expect(surplus(emptyLaunchLog, ["i-old", "i-new"])).toEqual([]);
    expect(surplus(emptyLaunchLog, [], [{ ...(two[0] as ObservedInstance), state: "terminated" }, two[1] as ObservedInstance])).toEqual([]);
  });
});

/**
 * EC2 as far as a launch can go wrong: tokens are idempotent within a zone and spent once an instance of theirs is terminated, answers are full, partial,
 * refused or lost, instances die, and Describe lags behind.
 */
class Ec2 {
  readonly instances: { observed: ObservedInstance; token: string; sinceStep: number }[] = [];
  readonly parameters = new Map<string, string>();
  private next = 0;
  constructor(private readonly draw: () => number) {}

  run(
    call: Extract<NextLaunch, { kind: "launch" }>,
    batch: Batch,
    step: number,
    luck = this.draw(),
  ): { ids: string[] } | { refused: string } | "lost before" | "lost after" {
    const parameters = JSON.stringify([batch.operation, batch.pool, call.firstSlot, call.count, call.option]);
    expect(this.parameters.get(call.clientToken) ?? parameters, "a token is never used with other parameters").toBe(parameters);
    this.parameters.set(call.clientToken, parameters);
    expect(call.clientToken).toMatch(/^[ -~]{1,64}$/);

    if (luck < 0.1) return "lost before";
    const before = this.instances.filter((each) => each.token === call.clientToken && each.observed.zone === call.option.zone);
    if (before.some((each) => isGone(each.observed.state))) return { refused: "IdempotentInstanceTerminated" };
    if (before.length > 0) return luck < 0.3 ? "lost after" : { ids: before.map((each) => each.observed.instanceId) };
    if (luck > 0.7) return { refused: luck > 0.9 ? "InsufficientFreeAddressesInSubnet" : "InsufficientInstanceCapacity" };
    const count = luck > 0.5 ? Math.max(1, Math.floor(call.count * this.draw())) : call.count;
    const ids = Array.from({ length: count }, (_, index) => {
      this.next += 1;
      const place = { pool: batch.pool, role: batch.role, slot: call.firstSlot + index, zone: call.option.zone, subnetId: call.option.subnetId };
      const observed = instance({ ...place, instanceId: `i-${this.next}`, state: "pending", launchedAt: at(step) });
      this.instances.push({ observed, token: call.clientToken, sinceStep: step });
      return observed.instanceId;
    });
    return luck < 0.3 ? "lost after" : { ids };
  }

  /** Describe shows an instance three steps after its launch. */
  describe(step: number): ObservedInstance[] {
    return this.instances.filter((each) => step - each.sinceStep >= 3).map((each) => each.observed);
  }

  kill(index: number): void {
    const victim = this.instances[index];
    if (victim !== undefined) victim.observed = { ...victim.observed, state: "terminated" };
  }

  alive(): ObservedInstance[] {
    return this.instances.map((each) => each.observed).filter((each) => isAlive(each.state));
  }
}

describe("law: a retry never makes a second instance", () => {
  const world = fc.record({
    seed: fc.integer({ min: 1, max: 2 ** 31 }),
    agents: fc.integer({ min: 0, max: 30 }),
    serverCount: fc.constantFrom(1, 3, 5),
    zoneCount: fc.integer({ min: 1, max: 3 }),
    passes: fc.integer({ min: 1, max: 4 }),
  });

  it("never has more instances than wanted slots, whatever AWS answers, and fills them once AWS has room", () => {
    fc.assert(
      fc.property(world, ({ seed, agents, serverCount, zoneCount, passes }) => {
        const draw = chance(seed);
        const ec2 = new Ec2(draw);
        const shapes: Shape[] = [
          { ...servers, count: serverCount },
          { ...workers, count: agents },
        ];
        let log: LaunchLog = emptyLaunchLog;
        let step = 0;
        const check = () => {
          const slots = ec2.alive().map((each) => `${each.pool}-${each.slot}`);
          expect(new Set(slots).size, "one instance in a slot").toBe(slots.length);
          for (const shape of shapes) {
            const held = ec2.alive().filter((each) => each.pool === shape.pool);
            expect(held.length).toBeLessThanOrEqual(shape.count);
            expect(held.every((each) => each.slot >= 1 && each.slot <= shape.count)).toBe(true);
          }
        };
        const pass = (
          number: number,
          answer: (call: Extract<NextLaunch, { kind: "launch" }>, batch: Batch) => ReturnType<Ec2["run"]>,
          deaths: number,
        ) => {
          const seen = ec2.describe(step);
          const observed = [...seen, ...unseenInstances(log, seen, at(step))];
          log = rememberBatches(
            log,
            planBatches({ uid: "u", operation: "op", pass: number, shapes, subnets: subnets.slice(0, zoneCount), observed, refusals: log.refusals }),
          );
          for (let open = openBatches(log), calls = 0; open.length > 0 && calls < 500; open = openBatches(log), calls += 1) {
            step += 1;
            const batch = open[Math.floor(draw() * open.length)] ?? (open[0] as Batch);
            const call = launchOf(nextLaunch(log, batch));
            const answered = answer(call, batch);
            check();
            if (answered === "lost before" || answered === "lost after") continue; // the step crashed: the same log decides again
            if ("refused" in answered) log = rememberRefusal(log, batch, call.option, answered.refused, at(step));
            else {
              const remembered = rememberLaunch(log, batch, call, answered.ids, at(step));
              expect(remembered.surplus).toEqual([]);
              log = remembered.log;
            }
            if (draw() < deaths) ec2.kill(Math.floor(draw() * ec2.instances.length));
          }
        };
        for (let number = 1; number <= passes; number += 1) {
          pass(number, (call, batch) => ec2.run(call, batch, step), 0.05);
          // The log holds everything the pass made, seen or not; only instances of a token that is spent have to be seen.
          if (log.refusals.some((refusal) => refusal.code === "IdempotentInstanceTerminated")) step += 10;
        }
        step += 10; // long enough to see what has died unseen
        pass(passes + 1, (call, batch) => ec2.run(call, batch, step, 0.4), 0);
        expect(ec2.alive().length).toBe(serverCount + agents);
      }),
      { seed: 41170, numRuns: 300 },
    );
  });

  it("ends with one instance in each slot when two runs of the step race, because what is surplus is handed back", () => {
    fc.assert(
      fc.property(world, ({ seed, agents, zoneCount }) => {
        const draw = chance(seed);
        const ec2 = new Ec2(draw);
        const batches = plan([{ ...workers, count: Math.max(1, agents) }], [], { subnets: subnets.slice(0, zoneCount) });
        let stored = rememberBatches(emptyLaunchLog, batches);
        // Each run reads the log, calls, and writes what was answered on what the log says by then; its reads may be old.
        const runs = [0, 1].map(() => ({ log: stored }));
        for (let turn = 0; turn < 200 && openBatches(stored).length > 0; turn += 1) {
          const run = runs[draw() < 0.5 ? 0 : 1] as { log: LaunchLog };
          const [batch] = openBatches(run.log);
          if (batch === undefined) {
            run.log = stored;
            continue;
          }
          const call = launchOf(nextLaunch(run.log, batch));
          const answered = ec2.run(call, batch, turn);
          if (typeof answered === "object" && "refused" in answered) stored = rememberRefusal(stored, batch, call.option, answered.refused, at(turn));
          if (typeof answered === "object" && "ids" in answered) {
            const remembered = rememberLaunch(stored, batch, call, answered.ids, at(turn));
            stored = remembered.log;
            for (const id of remembered.surplus) ec2.kill(ec2.instances.findIndex((each) => each.observed.instanceId === id));
          }
          run.log = stored;
        }
        // A call that was lost after its effect leaves an instance that no log knows: the safety net finds it by its slot.
        for (const extra of surplusInstances(ec2.alive(), stored, new Set())) {
          ec2.kill(ec2.instances.findIndex((each) => each.observed.instanceId === extra.instanceId));
        }
        const slots = ec2.alive().map((each) => each.slot);
        expect(new Set(slots).size).toBe(slots.length);
        const logged = stored.launches.flatMap((launch) => launch.instanceIds);
        expect(new Set(logged).size).toBe(logged.length);
        const spent = stored.refusals.some((refusal) => refusal.code === "IdempotentInstanceTerminated");
        if (!spent) for (const id of logged) expect(ec2.alive().map((each) => each.instanceId)).toContain(id);
      }),
      { seed: 41171, numRuns: 300 },
    );
  });

  it("levels the zones and covers each missing slot exactly once, for any holes", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 700 }), fc.array(fc.integer({ min: 1, max: 700 }), { maxLength: 60 }), (count, held) => {
        const observed = [...new Set(held)]
          .filter((slot) => slot <= count)
          .map((slot) => agent(`i-${slot}`, slot, { zone: zones[slot % 3] as string }));
        const batches = plan([{ ...workers, count }], observed);
        const covered = batches.flatMap((batch) => Array.from({ length: batch.count }, (_, index) => batch.firstSlot + index));
        expect(covered.sort((a, b) => a - b)).toEqual(missingSlots({ pool: "workers", count }, observed));
        const perZone = zones.map(
          (zone) =>
            observed.filter((each) => each.zone === zone).length +
            batches.filter((batch) => firstOf(batch) === zone).reduce((sum, batch) => sum + batch.count, 0),
        );
        const heldMost = Math.max(...zones.map((zone) => observed.filter((each) => each.zone === zone).length));
        expect(Math.max(...perZone) - Math.min(...perZone)).toBeLessThanOrEqual(Math.max(1, heldMost - Math.min(...perZone)));
      }),
      { seed: 41172, numRuns: 200 },
    );
  });
});
