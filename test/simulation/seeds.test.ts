import { describe, expect, it } from "vitest";
import type { FaultChoice, Scenario } from "../../local/simulation/plan.js";
import { type SimulationResult, simulate } from "../../local/simulation.js";

const assembly = "cdk.out";
const run = (seed: number, more: { readonly faults?: FaultChoice; readonly scenarios?: readonly Scenario[] } = {}) =>
  simulate({ seed, assembly, ...more });

/** A violation with the command that replays it. */
const broken = ({ seed, violation }: SimulationResult) =>
  violation === undefined ? undefined : `${violation.rule}: ${violation.message} (npm run simulate -- --seed ${seed})`;

describe("a deployment's life, whatever goes wrong", () => {
  it.each(Array.from({ length: 24 }, (_, index) => index + 1))("keeps every law, and ends in ready and in nothing (seed %i)", async (seed) => {
    const result = await run(seed);
    expect(broken(result)).toBeUndefined();
    expect(result.first.length).toBeGreaterThan(0);
    for (const law of [1, 2, 3, 4, 5, 6, 8, 9, 11, 12] as const) expect(result.checked[law]).toBeGreaterThan(0);
  });

  it("is ready at the first try, without a card, when nothing goes wrong", async () => {
    const result = await run(1, { faults: "none" });
    expect(broken(result)).toBeUndefined();
    expect(result).toMatchObject({ first: ["ready"], cards: [], restarts: 0, struck: {} });
  });

  it("meets every kind of fault when all strike at once", async () => {
    const result = await run(6, { faults: "all" });
    expect(broken(result)).toBeUndefined();
    expect(Object.keys(result.struck).length).toBeGreaterThan(5);
  });
});

describe("seeds that once broke a law", () => {
  it.each<[number, string]>([
    [44, "a token whose write met another write is made, not taken for made"],
    [53, "the first create of a name is not told that somebody else was first"],
    [58, "an aborted operation is closed although its event was lost"],
    [101, "two runs of one deletion do not deny each other the group that is gone"],
    [109, "nothing is launched after an aborted operation has given its lease away"],
    [120, "an aborted operation is closed although the function that closes it crashed twice"],
    [204, "two runs of one request are not busy with each other"],
  ])("seed %i: %s", async (seed) => {
    expect(broken(await run(seed))).toBeUndefined();
  });

  const restores: readonly Scenario[] = ["backup", "restore", "drill"];
  it.each<[number, string]>([
    [18, "a server that had joined and was lost does not stay a member of what is restored"],
    [37, "a failed restore beside a living cluster leaves nothing that its card does not name"],
    [53, "a restore from a survivor whose machine has died is refused, not gone on with"],
    [134, "a new server with a lower slot than the survivor's is not asked to go on from data that it does not have"],
  ])("seed %i of backups, restores and drills: %s", async (seed) => {
    expect(broken(await run(seed, { scenarios: restores }))).toBeUndefined();
  });
});
