import { describe, expect, it } from "vitest";
import { lowerBound } from "../../core/latency-bound.js";
import model from "../../core/latency-model.json" with { type: "json" };

/** One second for each step, so that a step counted twice or not at all shows. */
const ones = () => 1;

describe("the least time to Ready", () => {
  it("is the model's, worked out by hand for three servers", () => {
    const { F, K, A, E, LB } = lowerBound({ servers: 3, agents: 10 });
    expect(F).toBeCloseTo(0.3 + 1.5 + 7 + 18 + 1 + 8 + 31 + 35, 6);
    expect(K).toBeCloseTo(101.8 + 28 + 25 + 1.5, 6);
    expect(A).toBeCloseTo(101.8 + 10 + 18 + 1.5, 6);
    expect(E).toBeCloseTo(0.3 + 155 + 105 + 8, 6);
    expect(LB).toBe(E);
  });

  it("counts each step as often as the formulas do", () => {
    expect(lowerBound({ servers: 3, agents: 1, steps: ones })).toEqual({ F: 8, K: 12, A: 11, E: 9, LB: 12 });
  });

  it("lets one server admit agents during the joins, and all of them after", () => {
    const { F, A } = lowerBound({ servers: 3, agents: 1000 });
    expect(A - F - 18 - 1.5).toBeCloseTo(28 + (1000 - 28) / 3, 6);
  });

  it("needs no join for one server, and four for five", () => {
    const one = lowerBound({ servers: 1, agents: 0 });
    expect(one.K - one.F).toBeCloseTo(25 + 1.5, 6);
    const five = lowerBound({ servers: 5, agents: 0 });
    expect(five.K - five.F).toBeCloseTo(4 * 14 + 25 + 1.5, 6);
  });

  it("is no time for agents where there are none", () => {
    expect(lowerBound({ servers: 3, agents: 0 }).A).toBe(0);
  });

  it("counts the wait for EC2's launch rate when that is what takes longest", () => {
    const slow = (name: keyof typeof model.steps) => (name === "firstServerStart" ? -400 : 1);
    const { A } = lowerBound({ servers: 3, agents: 1197, steps: slow });
    expect(A).toBe(100 + 7 + 2);
  });

  it("waits for the first server's health where the load balancer is quick", () => {
    const quick = (name: keyof typeof model.steps) => (name === "loadBalancerCreate" || name === "targetRegisterToChecks" ? 0 : 10);
    expect(lowerBound({ servers: 3, agents: 0, steps: quick })).toMatchObject({ F: 80, E: 90 });
  });
});
