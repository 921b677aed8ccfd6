import { describe, expect, it } from "vitest";
import { bench, benchText, percentile, sizes, spreadOf, summarize, summarizeNights } from "../../bench/bench.js";
import { type CreateFigures, createRun } from "../../bench/create-run.js";
import { fleetNight } from "../../bench/fleet-waves.js";
import { nightRun } from "../../bench/night-run.js";
import { type AgentDraws, type Draws, ownBound } from "../../bench/own-bound.js";
import { lowerBound } from "../../core/latency-bound.js";
import model from "../../core/latency-model.json" with { type: "json" };

const { steps } = model;
const asked = steps.requestAccepted.p50 + steps.runInstancesCall.p50;

/** Every draw at its median: three servers alike, the first of them first. */
function medianDraws(agents: number): Draws {
  const boot = steps.pendingToRunning.p50 + steps.runningToSsmOnline.p50;
  const prepare = steps.sendCommandToStart.p50 + steps.fetchAndVerifyArchives.p50 + steps.importImages.p50;
  const server = (instanceId: string, start: number, isFirst: boolean) => ({ instanceId, boot, prepare, start, isFirst });
  const targets = ["i-1", "i-2", "i-3"].map((instanceId) => ({ instanceId, threshold: steps.targetHealthThreshold.p50 }));
  return {
    servers: [
      server("i-1", steps.firstServerStart.p50, true),
      server("i-2", steps.learnerJoinAndPromote.p50, false),
      server("i-3", steps.learnerJoinAndPromote.p50, false),
    ],
    agents: Array.from({ length: agents }, (_, index) => ({
      place: index + 4,
      boot,
      prepare,
      start: steps.agentStartToReady.p50,
      endToEvent: steps.commandEndToEvent.p50,
    })),
    podsReady: steps.lastServerPodsReady.p50,
    verifiedToEvent: steps.commandEndToEvent.p50,
    loadBalancer: { create: steps.loadBalancerCreate.p50, registerToChecks: steps.targetRegisterToChecks.p50, targets: [targets, targets] },
  };
}

/** Servers Ready at 100, 110 and 150; a load balancer that serves at 10. */
function handMade(agents: readonly AgentDraws[]): Draws {
  const at = (seconds: number) => seconds - asked;
  return {
    servers: [
      { instanceId: "i-late", boot: at(40), prepare: 100, start: 10, isFirst: false },
      { instanceId: "i-first", boot: at(30), prepare: 40, start: 30, isFirst: true },
      { instanceId: "i-next", boot: at(35), prepare: 40, start: 10, isFirst: false },
    ],
    agents,
    podsReady: 20,
    verifiedToEvent: 2,
    loadBalancer: { create: 1, registerToChecks: 2, targets: [[{ instanceId: "i-first", threshold: 3 }]] },
  };
}
const agent = (place: number, at: number, start: number): AgentDraws => ({ place, boot: at - asked, prepare: 0, start, endToEvent: 1 });

describe("the bound of a run's own draws", () => {
  it("is the model's bound when every draw is the median, but for agents that need not wait for the third server", () => {
    const own = ownBound(medianDraws(0));
    const medians = lowerBound({ servers: 3, agents: 0 });
    for (const name of ["F", "K", "A", "E", "LB"] as const) expect(own[name], name).toBeCloseTo(medians[name], 6);
    // 14 at the first server, then 28 at two, then the rest at three: where the model counts 28 until all have joined.
    expect(lowerBound({ servers: 3, agents: 300 }).A - ownBound(medianDraws(300)).A).toBeGreaterThan(0);
    expect(lowerBound({ servers: 3, agents: 300 }).A - ownBound(medianDraws(300)).A).toBeLessThan(7);
  });
  it("joins servers one at a time, in the order in which they can be prepared", () => {
    // 70 + 30; then max(100, 75) + 10; then max(110, 140) + 10; and 20 s of pods, 2 s of event.
    const own = ownBound(handMade([]));
    expect(own.F).toBeCloseTo(100, 6);
    expect(own.K).toBeCloseTo(172, 6);
    expect(own.A).toBe(0);
  });
  it("lets whichever server is prepared first be the first", () => {
    const draws = handMade([]);
    const slow = draws.servers.map((server) => (server.instanceId === "i-first" ? { ...server, prepare: 90 } : server));
    // i-next is prepared at 75 and could have started the cluster at 105.
    expect(ownBound({ ...draws, servers: slow }).F).toBeCloseTo(105, 6);
  });
  it("admits agents in the order they come, one a second at each server that is Ready", () => {
    // At 100 the first server alone: 101, 102. The one that comes at 120 finds two servers idle.
    expect(ownBound(handMade([agent(4, 50, 5), agent(5, 60, 5)])).A).toBeCloseTo(102 + 5 + 1, 6);
    expect(ownBound(handMade([agent(4, 50, 5), agent(5, 120, 5)])).A).toBeCloseTo(121 + 5 + 1, 6);
    // Whoever is slow afterwards was not known to be: the slow one that came last stays last.
    expect(ownBound(handMade([agent(4, 50, 1), agent(5, 60, 40)])).A).toBeCloseTo(102 + 40 + 1, 6);
  });
  it("uses the second server from the moment it is Ready", () => {
    // 14 agents wait at 100: 10 are through at 110, then two servers take two each second.
    const waiting = Array.from({ length: 14 }, (_, index) => agent(4 + index, 50 + index / 100, 0));
    expect(ownBound(handMade(waiting)).A).toBeCloseTo(112 + 1, 6);
  });
  it("counts the wait for EC2's bucket of instances", () => {
    const own = ownBound(handMade([agent(1203, 150, 5)]));
    expect(own.A).toBeCloseTo(150 + (1203 - 1000) / 2 + 1 + 5 + 1, 6);
  });
  it("needs one healthy target in each group", () => {
    const draws = handMade([]);
    const withTargets = (targets: Draws["loadBalancer"]["targets"]) =>
      ownBound({ ...draws, loadBalancer: { create: 200, registerToChecks: 90, targets } }).E;
    const checks = steps.requestAccepted.p50 + 290;
    const slow = { instanceId: "i-first", threshold: 12 };
    const quick = { instanceId: "i-next", threshold: 4 };
    expect(withTargets([[slow, quick], [quick]])).toBeCloseTo(checks + 4, 6);
    expect(withTargets([[slow], [quick]])).toBeCloseTo(checks + 12, 6);
    // One that came when the load balancer was active already had a shorter delay of its own.
    expect(withTargets([[slow, { ...quick, ownChecks: 30 }]])).toBeCloseTo(checks - 60 + 4, 6);
  });
  it("is not later than the endpoint's server answers", () => {
    expect(ownBound(handMade([])).E).toBeCloseTo(100 + 3, 6);
  });
  it("refuses a run in which nobody was first", () => {
    const draws = handMade([]);
    const none = draws.servers.map((server) => ({ ...server, isFirst: false }));
    expect(() => ownBound({ ...draws, servers: none })).toThrow("no server of the run was the first");
  });
});

describe("percentiles", () => {
  it("are values that were seen", () => {
    const values = [5, 1, 4, 2, 3];
    expect([1, 20, 21, 50, 99, 100].map((percent) => percentile(values, percent))).toEqual([1, 1, 2, 3, 5, 5]);
    expect(percentile([7], 50)).toBe(7);
    expect(percentile([2, 1], 50)).toBe(1);
    const hundred = Array.from({ length: 200 }, (_, index) => index + 1);
    expect(percentile(hundred, 99)).toBe(198);
  });
  it("do not exist of nothing", () => expect(() => percentile([], 50)).toThrow(RangeError));
  it("leave the values as they were", () => {
    const values = [3, 1, 2];
    expect(spreadOf(values)).toEqual({ p50: 2, p99: 3, least: 1, most: 3 });
    expect(values).toEqual([3, 1, 2]);
  });
});

describe("the summary of runs", () => {
  const [size] = sizes;
  const bound = { F: 80, K: 150, A: 120, E: 200, LB: 200 };
  const run = (seed: number, readySeconds: number, transitions: number): CreateFigures => ({
    seed,
    agents: 10,
    readySeconds,
    medians: { ...bound, E: 250, LB: 250 },
    own: bound,
    came: { F: 90, K: 170, A: 130, E: 201 },
    milestones: {},
    transitions,
    childStarts: 1,
    largestHistory: 250,
    calls: { functions: 130, workflows: 26, downloads: 91 },
    dollars: 0.002,
    dollarsByService: { stepFunctions: 0.0015, lambda: 0.0005 },
    lambda: { invocations: 50, milliseconds: 20_000 },
    cpuSeconds: 2,
  });

  it("judges the middle of times, and the most transitions and history", () => {
    const report = summarize(size, [run(1, 210, 58), run(2, 230, 61), run(3, 205, 70)]);
    expect(report.overOwn).toEqual({ value: { p50: 1.05, p99: 1.15, least: 1.025, most: 1.15 }, goal: 1.1, ok: true });
    expect(report.overMedians.value.p50).toBeCloseTo(0.84, 6);
    expect(report.transitions).toMatchObject({ value: { p50: 61, most: 70 }, goal: 60, ok: false });
    expect(report.largestHistoryPercent).toMatchObject({ value: { most: 1 }, goal: 2, ok: true });
    expect(report.callsPerNode).toEqual({ value: { p50: 12, p99: 12, least: 12, most: 12 } });
    expect(report.nodeTransfersPerNode.p50).toBe(7);
    expect(report.createsPerSecondPerCore).toBe(0.5);
    expect(report.course.K).toEqual({ bound: 150, came: 170, later: 20 });
    expect(report.course.ready).toEqual({ bound: 201, came: 210, later: 9 });
  });
});

describe("a create of 3+10", () => {
  const small = { assembly: "cdk.out", servers: 3, agents: 10 };

  it("yields every figure, as data and as text that fits a terminal", async () => {
    const report = await bench({ seeds: 1, only: ["3+10"], workers: 0, outdir: "cdk.out" });
    const [size] = report.sizes;
    expect(size).toMatchObject({ size: "3+10", seeds: [1] });
    expect(report).toMatchObject({ schema: 1, goals: { ratio: 1.1, ratioInTheEnd: 1.02, callsPerNode: 3 } });
    const numbers = JSON.stringify(report).match(/:(-?\d[\d.e+-]*|null)/g) ?? [];
    expect(numbers.length).toBeGreaterThan(60);
    expect(numbers).not.toContain(":null");
    expect(report.bundles.largest.bytes).toBeLessThan(report.bundles.totalBytes);
    expect(size?.dollars.p50).toBeCloseTo(
      Object.values(size?.dollarsByService ?? {}).reduce((sum, dollars) => sum + dollars, 0),
      9,
    );
    expect(size?.functionCallsPerNode.p50).toBeGreaterThan(1);
    expect(size?.nodeTransfersPerNode.p50).toBeGreaterThan(1);

    const text = benchText(report);
    expect(text.split("\n").filter((line) => line.length > 104)).toEqual([]);
    for (const label of [
      "(a) over the medians' bound",
      "(b) over the run's own bound",
      "state transitions",
      "largest history",
      "AWS calls a node",
      "cost of a create",
      "bundles: ",
      "synthesis",
    ]) {
      expect(text).toContain(label);
    }
  });
  it("comes to nothing earlier than its own draws allow, whatever the seed", async () => {
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const { own, came, readySeconds } = await createRun({ ...small, seed });
      for (const name of ["F", "E"] as const) expect(came[name], `${name} of seed ${seed}`).toBeGreaterThanOrEqual(own[name]);
      // The control plane's pods and the last agent are there; that it is told comes later.
      expect(came.K, `K of seed ${seed}`).toBeGreaterThan(own.K - 10);
      expect(readySeconds, `ready of seed ${seed}`).toBeGreaterThanOrEqual(own.LB);
      expect(readySeconds, `ready of seed ${seed}`).toBeGreaterThanOrEqual(Math.max(came.K, came.A, came.E));
    }
  });
  it("has the same figures for the same seed", async () => {
    const [one, other] = [await createRun({ ...small, seed: 11 }), await createRun({ ...small, seed: 11 })];
    expect({ ...one, cpuSeconds: 0 }).toEqual({ ...other, cpuSeconds: 0 });
    expect((await createRun({ ...small, seed: 12 })).readySeconds).not.toBe(one.readySeconds);
  });
});

describe("budgets", () => {
  it.each([
    [10, 60, 2],
    [100, 80, 3],
  ])(
    "a create of 3+%i takes %i state transitions at most in the middle run of five, a tenth more in the worst, and %i percent of a history",
    async (agents, transitions, historyPercent) => {
      const runs: CreateFigures[] = [];
      for (const seed of [1, 2, 3, 4, 5]) runs.push(await createRun({ assembly: "cdk.out", servers: 3, agents, seed }));
      const taken = runs.map((run) => run.transitions).sort((a, b) => a - b);
      expect(taken[2]).toBeLessThanOrEqual(transitions);
      expect(taken[4]).toBeLessThanOrEqual(1.1 * transitions);
      expect(Math.max(...runs.map(({ largestHistory }) => (100 * largestHistory) / 25_000))).toBeLessThanOrEqual(historyPercent);
    },
  );
});

describe("a night", () => {
  it("of one cluster costs at most ten transitions and three hundredths of a cent, and its restores end after nothing but what they drew", async () => {
    const runs = [
      await nightRun({ assembly: "cdk.out", seed: 1, way: "in place" }),
      await nightRun({ assembly: "cdk.out", seed: 2, way: "onto new nodes" }),
    ];
    const night = summarizeNights(runs);
    expect(night.transitions).toMatchObject({ goal: 10, ok: true });
    expect(night.transitions.value.least).toBeGreaterThan(4);
    expect(night.dollars).toMatchObject({ goal: 0.0003, ok: true });
    expect(night.dollars.value.least).toBeGreaterThan(0.0001);
    // Cents a month, as docs/operations.md says.
    expect(night.sweepDollarsPerMonth).toBeLessThan(0.15);
    for (const { seconds, boundSeconds } of runs.map(({ restore }) => restore)) {
      expect(boundSeconds).toBeGreaterThan(60);
      expect(seconds).toBeGreaterThanOrEqual(boundSeconds);
      expect(seconds).toBeLessThan(1.5 * boundSeconds);
    }
    const text = benchText({
      schema: 1,
      goals: {} as never,
      sizes: [],
      night,
      bundles: { largest: { name: "x", bytes: 1 }, totalBytes: 1, count: 1 },
      synthSeconds: 1,
      realSeconds: 1,
    });
    expect(text).toContain("cost of a backup");
    expect(text.split("\n").filter((line) => line.length > 110)).toEqual([]);
  });
  it.each([
    [100, 1],
    [1000, 1],
    [10_000, 7],
  ])("of a fleet of %i keeps within the account's commands, and is over within a few sweeps", (clusters, sweeps) => {
    const figures = fleetNight(clusters, { backupSeconds: 10, admissionSeconds: 0.2 });
    expect(figures.sweeps).toBeGreaterThanOrEqual(sweeps);
    expect(figures.sweeps).toBeLessThanOrEqual(sweeps + 2);
    expect(figures.mostCommandsPerSecond).toBeLessThanOrEqual(20);
    expect(figures.longestWaitSeconds).toBeLessThan(5);
    expect(figures.seconds).toBeGreaterThan(figures.boundSeconds);
    expect(figures.seconds).toBeLessThan((sweeps + 2) * 300);
  });
});
