import { describe, expect, it } from "vitest";
import { createCost, hourlyPrice, priceLeft } from "../../core/costs.js";

describe("what things cost", () => {
  it.each([
    ["m6i.large", 0.096],
    ["m6i.xlarge, server-1", 0.192],
    ["workers-3, c7g.4xlarge, spot", 0.58],
    ["t3.micro", 0.0104],
    ["m7i-flex.2xlarge", 0.3832],
    ["r6i.metal", 6.048],
    ["m7i.metal-24xl", 4.8384],
    ["m99z.large", 0.1],
    ["z1d.large", 0.2],
    ["no instance type here", 0],
  ])("an instance: %s is about $%f an hour", (detail, price) => {
    expect(hourlyPrice("instance", detail)).toBeCloseTo(price, 3);
  });

  it("a volume by its size, a load balancer by the hour, the rest nothing", () => {
    expect(hourlyPrice("volume", "80 GiB gp3") * 730).toBeCloseTo(6.4, 6);
    expect(hourlyPrice("volume", "size unknown")).toBe(0);
    expect(hourlyPrice("load-balancer", "drv-prod")).toBe(0.0225);
    for (const kind of ["network-interface", "target-group", "security-group", "secret"] as const)
      expect(hourlyPrice(kind, "80 GiB m6i.large")).toBe(0);
  });

  it("sums up what is left, the dearest first", () => {
    const left = priceLeft([
      { kind: "security-group", id: "sg-1", detail: "nodes" },
      { kind: "load-balancer", id: "lb-1", detail: "drv-prod" },
      { kind: "instance", id: "i-1", detail: "m6i.xlarge" },
    ]);
    expect(left.resources.map((resource) => [resource.id, resource.dollarsPerHour])).toEqual([
      ["i-1", 0.192],
      ["lb-1", 0.0225],
      ["sg-1", 0],
    ]);
    expect(left.dollarsPerHour).toBe(0.2145);
    expect(left.dollarsPerMonth).toBe(156.59);
  });

  it("is nothing when nothing is left", () => {
    expect(priceLeft([])).toEqual({ resources: [], dollarsPerHour: 0, dollarsPerMonth: 0 });
  });

  it("prices one create by service", () => {
    const nothing = {
      transitions: 0,
      lambdaRequests: 0,
      lambdaMs: 0,
      lambdaMemoryMb: 1024,
      s3Writes: 0,
      s3Reads: 0,
      kmsRequests: 0,
      events: 0,
      apiRequests: 0,
    };
    expect(createCost(nothing).dollars).toBe(0);
    expect(createCost({ ...nothing, transitions: 200 }).dollars).toBeCloseTo(0.005, 9);
    expect(createCost({ ...nothing, lambdaRequests: 1_000_000 }).dollars).toBeCloseTo(0.2, 9);
    expect(createCost({ ...nothing, lambdaMs: 1000 }).dollars).toBeCloseTo(0.0000133334, 12);
    expect(createCost({ ...nothing, lambdaMs: 1000, lambdaMemoryMb: 512 }).dollars).toBeCloseTo(0.0000066667, 12);
    const { dollars, byService } = createCost({ ...nothing, transitions: 1, s3Writes: 1, s3Reads: 1, kmsRequests: 1, events: 1, apiRequests: 1 });
    expect(Object.values(byService).reduce((sum, each) => sum + each, 0)).toBe(dollars);
    expect(dollars).toBeCloseTo(0.000025 + 0.000005 + 0.0000004 + 0.000003 + 0.000001 + 0.000001, 12);
  });
});
