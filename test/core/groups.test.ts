import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decideGather, decideLost, groupLimit, type NodeGroup } from "../../core/groups.js";
import type { InstanceState, ObservedInstance } from "../../core/nodes.js";
import { agent, chance, instance } from "./facts.js";

const agents = (count: number, pool = "workers", facts: Partial<ObservedInstance> = {}) =>
  Array.from({ length: count }, (_, index) => agent(`i-${pool}-${index + 1}`, index + 1, { pool, ...facts }));
const ids = (nodes: readonly ObservedInstance[]) => new Set(nodes.map((node) => node.instanceId));
const gather = (wanted: ObservedInstance[], online: ReadonlySet<string>, sinceLaunchSeconds = 0) =>
  decideGather({ wanted, online, sinceLaunchSeconds });
const sizes = (answer: ReturnType<typeof decideGather>) =>
  answer.kind === "go" ? answer.groups.map((group) => group.instanceIds.length) : answer.reason;

describe("gathering nodes into groups", () => {
  it("goes as soon as all are online", () => {
    const wanted = agents(4);
    expect(gather(wanted, ids(wanted))).toEqual({
      kind: "go",
      groups: [
        { schema: 1, id: "workers-1-01", role: "agent", pool: "workers", instanceIds: ["i-workers-1", "i-workers-2", "i-workers-3", "i-workers-4"] },
      ],
      lost: [],
    });
  });

  it("goes with nothing when nothing is wanted", () => {
    expect(gather([], new Set())).toEqual({ kind: "go", groups: [], lost: [] });
  });

  it("waits for the rest, and names one of them", () => {
    const wanted = agents(4);
    expect(gather(wanted, ids(wanted.slice(0, 3)), 59)).toEqual({ kind: "wait", reason: "3 of 4 nodes are online in SSM, i-workers-4 is not" });
  });

  it.each([
    [59, 19, 20, false],
    [60, 10, 20, true],
    [60, 9, 20, false],
    [29, 210, 300, false],
    [30, 210, 300, true],
    [30, 209, 300, false],
    [119, 1, 20, false],
    [120, 1, 20, true],
    [599, 0, 20, false],
    [600, 0, 20, true],
  ])("after %i s with %i of %i online: goes %s", (seconds, online, count, goes) => {
    const wanted = agents(count);
    expect(gather(wanted, ids(wanted.slice(0, online)), seconds).kind === "go").toBe(goes);
  });

  it("lets late nodes wait by themselves, in small groups at the end", () => {
    const wanted = agents(120);
    expect(sizes(gather(wanted, ids(wanted.slice(0, 108)), 60))).toEqual([50, 50, 8, 10, 2]);
  });

  it("lets the late ones of many agents wait in full groups, since each group costs transitions and admission takes minutes anyway", () => {
    expect(sizes(gather(agents(201), ids(agents(201).slice(0, 181)), 45))).toEqual([5, 10, 20, 50, 50, 46, 20]);
    expect(sizes(gather(agents(200), ids(agents(200).slice(0, 180)), 60))).toEqual([50, 50, 50, 30, 10, 10]);
  });

  it("never mixes pools, and takes the larger first", () => {
    const wanted = [...agents(3, "gpu"), ...agents(60)];
    const answer = gather(wanted, ids(wanted));
    expect(answer.kind === "go" ? answer.groups.map((group) => [group.id, group.instanceIds.length]) : []).toEqual([
      ["workers-1-01", 50],
      ["workers-1-02", 10],
      ["gpu-1-01", 3],
    ]);
  });

  it("starts with small groups when there are many agents, so that admission starts early", () => {
    const wanted = [...agents(201), ...agents(100, "gpu")];
    expect(sizes(gather(wanted, ids(wanted)))).toEqual([5, 10, 20, 50, 50, 50, 16, 50, 50]);
  });

  it("leaves out what is gone, and says so", () => {
    const wanted = [...agents(2), agent("i-dead", 3, { state: "terminated" }), agent("i-off", 4, { state: "stopped" })];
    expect(gather(wanted, ids(wanted))).toMatchObject({
      kind: "go",
      groups: [{ instanceIds: ["i-workers-1", "i-workers-2"] }],
      lost: ["i-dead", "i-off"],
    });
  });

  it("names the groups of a later pass anew", () => {
    const wanted = agents(1);
    expect(decideGather({ wanted, online: ids(wanted), sinceLaunchSeconds: 0, pass: 2 })).toMatchObject({ groups: [{ id: "workers-2-01" }] });
  });

  it("gathers servers like agents", () => {
    const servers = [instance({ instanceId: "i-2", slot: 2 }), instance({ instanceId: "i-1", slot: 1 })];
    expect(gather(servers, ids(servers))).toMatchObject({ groups: [{ role: "server", pool: "server", instanceIds: ["i-1", "i-2"] }] });
  });

  it("divides the nodes: each that is not gone in exactly one group, none over the limit, pools apart, whatever is online", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2 ** 31 }),
        fc.integer({ min: 0, max: 250 }),
        fc.integer({ min: 1, max: 80 }),
        (seed, count, sizeLimit) => {
          const draw = chance(seed);
          const states: InstanceState[] = ["running", "running", "running", "pending", "unseen", "terminated"];
          const wanted = Array.from({ length: count }, (_, index) =>
            agent(`i-${index}`, index + 1, {
              pool: ["a", "b", "c"][Math.floor(draw() * 3)] as string,
              state: states[Math.floor(draw() * 6)] as InstanceState,
            }),
          );
          const online = new Set(wanted.filter(() => draw() < 0.95).map((node) => node.instanceId));
          const answer = decideGather({ wanted, online, sinceLaunchSeconds: 600, sizeLimit });
          if (answer.kind !== "go") throw new Error(`waits after ten minutes: ${answer.reason}`);
          const grouped = answer.groups.flatMap((group) => group.instanceIds);
          expect([...grouped, ...answer.lost].sort()).toEqual(wanted.map((node) => node.instanceId).sort());
          expect(new Set(answer.groups.map((group) => group.id)).size).toBe(answer.groups.length);
          for (const group of answer.groups) {
            expect(group.instanceIds.length).toBeGreaterThan(0);
            expect(group.instanceIds.length).toBeLessThanOrEqual(Math.min(sizeLimit, groupLimit));
            const nodes = group.instanceIds.map((id) => wanted.find((node) => node.instanceId === id));
            expect(new Set(nodes.map((node) => node?.pool))).toEqual(new Set([group.pool]));
            expect(new Set(nodes.map((node) => online.has(node?.instanceId ?? ""))).size, "late and online apart").toBe(1);
          }
        },
      ),
      { seed: 41177, numRuns: 100 },
    );
  });
});

describe("nodes of a group that cannot come", () => {
  const group: NodeGroup = { schema: 1, id: "workers-1-01", role: "agent", pool: "workers", instanceIds: ["i-1", "i-2", "i-3", "i-4"] };
  const observed = [agent("i-1", 1), agent("i-2", 2, { state: "shutting-down" }), agent("i-3", 3)];
  const online = new Set(["i-1", "i-2"]);

  it("are lost when EC2 says so, even while SSM calls them online", () => {
    expect(decideLost({ group, observed, online, sinceLaunchSeconds: 30 })).toEqual({ lost: ["i-2"], late: [] });
  });
  it("are late when they run but did not come online in ten minutes, and lost when EC2 does not show them by then", () => {
    expect(decideLost({ group, observed, online, sinceLaunchSeconds: 599 })).toEqual({ lost: ["i-2"], late: [] });
    expect(decideLost({ group, observed, online, sinceLaunchSeconds: 600 })).toEqual({ lost: ["i-2", "i-4"], late: ["i-3"] });
  });
  it("are lost when somebody stopped them", () => {
    expect(decideLost({ group, observed: [agent("i-1", 1, { state: "stopped" })], online, sinceLaunchSeconds: 1 }).lost).toEqual(["i-1"]);
  });
});
