import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { lowerBound } from "../../core/latency-bound.js";
import { backupSteps, createSteps, deleteSteps, drillSteps, expectedSteps, restoreSteps } from "../../core/progress.js";

const course = (servers: number, agents: number) => new Map(expectedSteps("create", { servers, agents }).map((step) => [step.name, step]));
const done = (steps: ReturnType<typeof course>, name: string) => steps.get(name)?.doneAfterSeconds ?? Number.NaN;

describe("what to expect of an operation's steps", () => {
  it("has every step once, in order", () => {
    expect(expectedSteps("create", { servers: 3, agents: 8 }).map((step) => step.name)).toEqual([...createSteps]);
    expect(expectedSteps("delete", { servers: 3, agents: 8 }).map((step) => step.name)).toEqual([...deleteSteps]);
    expect(expectedSteps("backup", { servers: 3, agents: 8 }).map((step) => step.name)).toEqual([...backupSteps]);
    expect(expectedSteps("restore", { servers: 3, agents: 8 }).map((step) => step.name)).toEqual([...restoreSteps]);
    expect(expectedSteps("drill", { servers: 3, agents: 8 }).map((step) => step.name)).toEqual([...drillSteps]);
  });

  it.each([
    [1, 0],
    [3, 8],
    [3, 100],
    [5, 1000],
  ])("expects %i servers and %i agents to be ready a little after the lower bound, never before", (servers, agents) => {
    const { LB } = lowerBound({ servers, agents });
    const ready = done(course(servers, agents), "ready");
    expect(ready).toBeGreaterThanOrEqual(LB);
    expect(ready).toBeLessThan(LB * 1.1);
  });

  it("keeps the order in which one step needs another", () => {
    const steps = course(3, 100);
    const chain = [
      "lease",
      "plan",
      "launch",
      "first server online",
      "prepare",
      "bootstrap decided",
      "bootstrap",
      "join",
      "agents",
      "verify",
      "kubeconfig",
      "ready",
    ];
    const times = chain.map((name) => done(steps, name));
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(done(steps, "endpoint healthy")).toBeLessThan(done(steps, "ready"));
  });

  it("waits for no agents and no joins where there are none", () => {
    const steps = course(1, 0);
    expect(steps.get("join")?.seconds).toBe(0);
    expect(steps.get("agents")?.seconds).toBe(0);
  });

  it("expects more of more agents", () => {
    expect(done(course(3, 1000), "agents")).toBeGreaterThan(done(course(3, 100), "agents") + 100);
  });

  it("never expects a negative time, nor a step to end before it can have begun", () => {
    const kinds = ["create", "delete", "backup", "restore", "drill"] as const;
    const sizes = [
      { servers: 7, agents: 400 },
      { servers: 1, agents: 0 },
    ];
    for (const step of kinds.flatMap((kind) => sizes.flatMap((size) => expectedSteps(kind, size)))) {
      expect(step.seconds).toBeGreaterThanOrEqual(0);
      expect(step.doneAfterSeconds).toBeGreaterThanOrEqual(step.seconds);
    }
  });

  it("knows every milestone that the handlers record in a run without trouble", () => {
    const folder = new URL("../../functions/", import.meta.url);
    const texts = readdirSync(folder)
      .filter((file) => file.endsWith(".ts"))
      .map((file) => readFileSync(new URL(file, folder), "utf8"));
    const recorded = texts.flatMap((text) => [...text.matchAll(/milestone\([^;`]*?(?:step|input), "([a-z ]+)"/g)].map((match) => match[1]));
    const inTrouble = ["lost nodes found", "stale nodes found"];
    const known: readonly string[] = [...createSteps, ...deleteSteps, ...backupSteps, ...restoreSteps, ...drillSteps, ...inTrouble, "prune"];
    expect(recorded.length).toBeGreaterThan(5);
    expect(recorded.filter((name) => !known.includes(name ?? ""))).toEqual([]);
  });
});
