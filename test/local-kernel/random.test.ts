import { describe, expect, it } from "vitest";
import model from "../../core/latency-model.json" with { type: "json" };
import type { LatencyStep } from "../../local/kernel/contract.js";
import { hurried, SeededRandom } from "../../local/kernel/random.js";

const draws = (random: { next(): number }, count: number) => Array.from({ length: count }, () => random.next());

describe("randomness from a seed", () => {
  it("is the same for the same seed and differs for another", () => {
    expect(draws(new SeededRandom(7), 5)).toEqual(draws(new SeededRandom("7"), 5));
    expect(draws(new SeededRandom(7), 5)).not.toEqual(draws(new SeededRandom(8), 5));
  });

  it("gives each fork a stream that no draw elsewhere shifts", () => {
    const alone = new SeededRandom(1).fork("ec2").next();
    const parent = new SeededRandom(1);
    draws(parent, 10);
    parent.fork("s3").next();
    expect(parent.fork("ec2").next()).toBe(alone);
    expect(parent.fork("ssm").next()).not.toBe(alone);
  });

  it("is spread evenly over [0, 1)", () => {
    const buckets = new Array<number>(10).fill(0);
    for (const value of draws(new SeededRandom("even"), 20_000)) {
      expect(value >= 0 && value < 1).toBe(true);
      buckets[Math.floor(value * 10)] = (buckets[Math.floor(value * 10)] ?? 0) + 1;
    }
    // Ten buckets of 2,000 with a standard deviation of 42.
    for (const count of buckets) expect(Math.abs(count - 2000)).toBeLessThan(210);
  });

  it("meets a small probability about as often as it says", () => {
    const random = new SeededRandom("rare");
    const met = Array.from({ length: 100_000 }, () => random.chance(0.001)).filter(Boolean).length;
    expect(met).toBeGreaterThan(60);
    expect(met).toBeLessThan(140);
  });

  it("draws the same number whether a chance is certain or not", () => {
    const [never, always] = [new SeededRandom(3), new SeededRandom(3)];
    expect([never.chance(0), always.chance(1)]).toEqual([false, true]);
    expect(never.next()).toBe(always.next());
  });

  it.each(Object.keys(model.steps) as LatencyStep[])("draws %s through its p50 and p95", (step) => {
    const random = new SeededRandom(`latency ${step}`);
    const drawn = Array.from({ length: 4000 }, () => random.latency(step)).sort((a, b) => a - b);
    const { p50, p95 } = model.steps[step];
    expect((drawn[2000] as number) / p50).toBeCloseTo(1, 0);
    expect(Math.abs((drawn[2000] as number) / p50 - 1)).toBeLessThan(0.1);
    expect(Math.abs((drawn[3800] as number) / p95 - 1)).toBeLessThan(0.15);
  });

  it("hurries AWS's delays alone, in every stream that comes from it", () => {
    const [usual, fast] = [new SeededRandom("pace").fork("ec2"), hurried(new SeededRandom("pace"), 50).fork("ec2")];
    expect(fast.latency("pendingToRunning")).toBeCloseTo(usual.latency("pendingToRunning") / 50, 9);
    const delay = usual.between(60, 240);
    expect(delay).toBeGreaterThanOrEqual(60);
    expect(delay).toBeLessThan(240);
    expect(fast.between(60, 240)).toBeCloseTo(delay / 50, 9);
    expect([fast.next(), fast.hex(8), fast.chance(0.5)]).toEqual([usual.next(), usual.hex(8), usual.chance(0.5)]);
  });

  it("makes ids of the length asked for, and picks among what there is", () => {
    const random = new SeededRandom(5);
    expect(random.hex(17)).toMatch(/^[0-9a-f]{17}$/);
    expect(new Set(Array.from({ length: 100 }, () => random.pick(["a", "b", "c"])))).toEqual(new Set(["a", "b", "c"]));
    expect(() => random.pick([])).toThrow("cannot pick from an empty list");
    expect(() => random.integer(0)).toThrow("cannot draw a whole number below 0");
  });
});
