import { describe, expect, it } from "vitest";
import { lastStepSeconds } from "../../core/lease.js";
import { answers, completes, executionArn, fails, failsLater, machineArn, readMachine, runAsl, silent } from "../asl/harness.js";

const input = { cluster: "prod", operation: "op-1" };
const createdAt = "2026-01-01T00:00:00.000Z";

/** What taking a snapshot takes, in the machine that does nothing else. */
const snapshotSteps = {
  "Save snapshot": completes({}, 4),
  "Upload snapshot": completes({}, 6),
  "Prove snapshot": answers({ snapshot: "s-1" }),
};
/** What each step answers when a cluster of three servers and two groups of agents comes up without trouble. */
const calm = {
  "Open operation": answers({ begun: false }),
  "Find lost nodes": answers({ instances: 1, members: 1 }),
  "Remove lost nodes": completes({}),
  "Create endpoint": answers({ createdAt }),
  "Plan nodes": answers({ servers: 3, agents: 100 }),
  "Decide bootstrap": answers({ mode: "bootstrap", joinAddress: "" }),
  "Await other servers": answers({ groups: ["other-servers"] }),
  "Choose server to join": ({ number }: { readonly number: number }) => answers({ groups: [`server-${number + 1}`] }),
  "Prepare other servers": completes({}),
  "Prepare first server": completes({}, 39),
  "Start first server": completes({}, 35),
  "Join server": completes({}, 14),
  "Gather agents": answers({ groups: ["agents-1", "agents-2"] }),
  "Prepare agents": completes({}, 39),
  "Admit agents": answers({ waitSeconds: 20 }),
  "Start agents": completes({}, 18),
  "Verify cluster": completes({}),
  ...snapshotSteps,
};
/** The machine, with an execution of start-agent-group for each group of agents. */
const create = ({ lostAnswers = 0, ...more }: Parameters<typeof runAsl>[1] & { lostAnswers?: number } = {}) =>
  runAsl(readMachine("create-cluster"), {
    input,
    otherwise: answers({}),
    children: {
      [machineArn("StartAgentGroupStateMachine")]: { definition: readMachine("start-agent-group"), lostAnswers },
      [machineArn("TakeSnapshotStateMachine")]: { definition: readMachine("take-snapshot") },
    },
    ...more,
    answers: { ...calm, ...more.answers },
  });
type Created = Awaited<ReturnType<typeof create>>;
/** What was asked for one group, in order. */
const askedOf = (run: Created, group: string) =>
  run.calls.filter(({ payload }) => (payload as { group?: string }).group === group).map(({ state }) => state);
const askedOfSnapshot = (run: Created) => run.calls.map(({ state }) => state).filter((state) => state in snapshotSteps);
/** Executions of the groups of agents. */
const groupRuns = (run: Created) => run.children.filter(({ stateMachineArn }) => stateMachineArn === machineArn("StartAgentGroupStateMachine"));
const groupsThatEnded = (run: Created, status: string) =>
  groupRuns(run)
    .filter(({ execution }) => execution?.status === status)
    .map(({ execution }) => (execution?.input as { group: string }).group);
const remove = ({ lastSnapshot = false, ...more }: Parameters<typeof runAsl>[1] & { lastSnapshot?: boolean } = {}) =>
  runAsl(readMachine("delete-cluster"), {
    input,
    otherwise: answers({}),
    children: { [machineArn("TakeSnapshotStateMachine")]: { definition: readMachine("take-snapshot") } },
    ...more,
    answers: { "Open operation": answers({ begun: true, lastSnapshot }), ...snapshotSteps, ...more.answers },
  });
const before = (visited: readonly string[], first: string, second: string) =>
  visited.lastIndexOf(first) >= 0 && visited.lastIndexOf(first) < visited.indexOf(second);
const bound = 60; // billed transitions of a create at three servers and ten agents

describe("deleting a cluster", () => {
  it("takes the lease, then the nodes, then the endpoint, then sweeps, then gives the lease back", async () => {
    const run = await remove();
    expect(run).toMatchObject({
      status: "SUCCEEDED",
      visited: [
        "Open operation",
        "Is a last snapshot wanted?",
        "Terminate nodes",
        "Delete endpoint",
        "Sweep leftovers",
        "Close operation",
        "Cluster deleted",
      ],
    });
  });
  it("takes a last snapshot first, where one is wanted", async () => {
    const run = await remove({ lastSnapshot: true });
    expect(run.visited.slice(0, 4)).toEqual(["Open operation", "Is a last snapshot wanted?", "Take snapshot", "Terminate nodes"]);
    expect(run.children.map(({ execution }) => execution?.status)).toEqual(["SUCCEEDED"]);
    expect(run.status).toBe("SUCCEEDED");
  });
  it("goes on without one that cannot be taken, having said why", async () => {
    const run = await remove({ lastSnapshot: true, answers: { "Save snapshot": fails("Unsafe", "no server answers") } });
    expect(run.status).toBe("SUCCEEDED");
    expect(run.calls.map(({ state }) => state).filter((state) => state === "Record why" || state === "Terminate nodes")).toEqual([
      "Record why",
      "Terminate nodes",
    ]);
  });
  it.each(["Open operation", "Terminate nodes", "Delete endpoint", "Sweep leftovers", "Close operation"])(
    "records the failure of '%s', and fails by its name",
    async (state) => {
      const run = await remove({ answers: { [state]: fails("Unsafe", "a person should look") } });
      expect(run.visited.slice(-3)).toEqual([state, "Record failure", "Cluster not deleted"]);
      expect(run).toMatchObject({ status: "FAILED", error: "Unsafe" });
      expect(run.calls.at(-1)?.payload).toMatchObject({ cluster: "prod", operation: "op-1", outcome: "failed", failure: { error: "Unsafe", state } });
    },
  );
  it("ends by the first failure's name even when it cannot be recorded", async () => {
    const run = await remove({ answers: { "Terminate nodes": fails("Unsafe"), "Record failure": fails("Denied") } });
    expect(run).toMatchObject({ status: "FAILED", error: "Unsafe" });
  });
});

describe("creating a cluster", () => {
  it("begins with the endpoint, since it takes longest, and ends with it", async () => {
    const run = await create();
    expect(run).toMatchObject({ status: "SUCCEEDED", error: undefined });
    expect(before(run.visited, "Create endpoint", "Launch nodes")).toBe(true);
    expect(before(run.visited, "Verify cluster", "Await endpoint")).toBe(true);
    expect(run.visited.slice(-2)).toEqual(["Close operation", "Cluster ready"]);
    const inGroups = run.children.reduce((sum, { execution }) => sum + (execution?.transitions ?? Number.NaN), 0);
    expect(run.transitions + inGroups).toBeLessThanOrEqual(bound);
  });
  it("takes the first snapshot once the cluster is verified, while the endpoint is still warming up", async () => {
    const run = await create();
    expect(before(run.visited, "Verify cluster", "Take snapshot")).toBe(true);
    expect(before(run.visited, "Take snapshot", "Wait for endpoint")).toBe(true);
    expect(askedOfSnapshot(run)).toEqual(["Save snapshot", "Upload snapshot", "Prove snapshot"]);
  });
  it("is not called ready without a snapshot", async () => {
    const run = await create({ answers: { "Prove snapshot": fails("Unsafe", "not what was saved") } });
    expect(run.visited.slice(-3)).toEqual(["Take snapshot", "Record failure", "Cluster not created"]);
    expect(run.calls.at(-1)?.payload).toMatchObject({ outcome: "failed", failure: { state: "Take snapshot" } });
  });
  it("decides who bootstraps before any server starts (law 1), and registers a server only when it is ready (law 4)", async () => {
    const { visited } = await create();
    expect(before(visited, "Decide bootstrap", "Start first server")).toBe(true);
    expect(before(visited, "Start first server", "Register first server")).toBe(true);
    expect(before(visited, "Register first server", "Join server")).toBe(true);
  });
  it("joins servers one at a time, each registered before the next joins (law 3)", async () => {
    const run = await create();
    const joins = run.calls
      .filter(({ state }) => state === "Join server" || state === "Register server")
      .map(({ state, atSeconds }) => ({ state, atSeconds }));
    expect(joins.map(({ state }) => state)).toEqual(["Join server", "Register server", "Join server", "Register server"]);
    expect((joins[2]?.atSeconds ?? 0) - (joins[0]?.atSeconds ?? 0)).toBe(14);
  });
  it("joins whichever server is prepared first, while others are still at it", async () => {
    const run = await create({
      answers: {
        "Prepare other servers": completes({}, 110),
        "Choose server to join": ({ payload, number }) =>
          (payload as { turn: number }).turn === 1 || number > 4 ? answers({ groups: ["server-2"] }) : fails("NotYet"),
      },
    });
    expect(run.status).toBe("SUCCEEDED");
    const [first] = run.calls.filter(({ state }) => state === "Join server");
    const preparing = run.calls.find(({ state }) => state === "Prepare other servers");
    expect((first?.atSeconds ?? 0) - (preparing?.atSeconds ?? 0)).toBeLessThan(110);
    expect(run.calls.filter(({ state }) => state === "Choose server to join").map(({ payload }) => (payload as { turn: number }).turn)).toEqual([
      1, 2, 2, 2, 2,
    ]);
  });
  it.each([
    ["it cannot go on", "Decide bootstrap", fails("Unsafe")],
    ["nodes were lost in every pass", "Join server", failsLater("NodeLost")],
  ])("keeps the lease until what other branches began can act no more, when %s", async (_, state, answer) => {
    const run = await create({ answers: { [state]: answer } });
    const [recorded] = run.calls.filter((call) => call.state === "Record failure");
    const last = run.calls.filter((call) => call.state !== "Record failure").at(-1);
    expect((recorded?.atSeconds ?? 0) - (last?.atSeconds ?? 0)).toBeGreaterThanOrEqual(lastStepSeconds);
    expect(run.status).toBe("FAILED");
  });
  it("prepares agents while the first server starts", async () => {
    const run = await create();
    const at = (state: string) => run.calls.find((call) => call.state === state)?.atSeconds ?? Number.NaN;
    expect(groupRuns(run)).toHaveLength(2);
    expect(at("Prepare agents")).toBeLessThan(at("Start first server"));
  });
  it("starts each group of agents by itself: prepared, then admitted, then started when its turn comes", async () => {
    const turns: Record<string, number> = { "agents-1": 20, "agents-2": 50 };
    const run = await create({ answers: { "Admit agents": ({ payload }) => answers({ waitSeconds: turns[(payload as { group: string }).group] }) } });
    for (const [group, turn] of Object.entries(turns)) {
      expect(askedOf(run, group)).toEqual(["Prepare agents", "Admit agents", "Start agents"]);
      const own = run.calls.filter(({ payload }) => (payload as { group?: string }).group === group);
      expect((own[2]?.atSeconds ?? 0) - (own[1]?.atSeconds ?? 0)).toBe(turn);
    }
    expect(run.status).toBe("SUCCEEDED");
  });
  it("acts for agents under the lease of the operation's own execution", async () => {
    const run = await create();
    const own = run.calls.filter(({ state }) => ["Prepare agents", "Admit agents", "Start agents"].includes(state));
    expect(own).toHaveLength(6);
    for (const { payload } of own) expect(payload).toMatchObject({ cluster: "prod", operation: "op-1", execution: executionArn });
  });
  it("asks a group's commands in the pass that it belongs to", async () => {
    const run = await create({ answers: { "Verify cluster": ({ number }) => (number === 1 ? failsLater("NodeLost") : completes({})) } });
    const asked = run.calls.filter(({ state }) => state === "Prepare agents" || state === "Start agents");
    expect(asked.map(({ payload }) => (payload as { pass: number }).pass)).toEqual([1, 1, 1, 1, 2, 2, 2, 2]);
    expect(new Set(groupRuns(run).map(({ name }) => name)).size).toBe(4);
    expect(run.status).toBe("SUCCEEDED");
  });
  it("names a group's execution so that a start whose answer was lost is not a second one", async () => {
    const [run, again] = [await create({ lostAnswers: 2 }), await create()];
    expect(run.status).toBe("SUCCEEDED");
    expect(run.children.map(({ name }) => name)).toEqual(again.children.map(({ name }) => name));
    for (const group of ["agents-1", "agents-2"]) expect(askedOf(run, group)).toEqual(["Prepare agents", "Admit agents", "Start agents"]);
    expect(run.visited).not.toContain("Agents set aside");
  });
  it("names it by no more than 80 characters that a log may hold, whatever the operation and the pool are called", async () => {
    const groups = [`${"p".repeat(30)}-3-22`, "p".repeat(80)];
    const run = await create({ input: { cluster: "prod", operation: "x".repeat(80) }, answers: { "Gather agents": answers({ groups }) } });
    expect(run.status).toBe("SUCCEEDED");
    expect(groupRuns(run).map(({ name }) => name)).toEqual(
      groups.map((group) => expect.stringMatching(new RegExp(`^${group.slice(0, 40)}-[0-9a-f]{32}$`))),
    );
  });
  it("ends what runs for its agents when it is stopped", async () => {
    const run = await create({ answers: { "Start agents": silent }, meanwhile: [{ atSeconds: 130, act: (execution) => execution.stop() }] });
    expect(run.status).toBe("ABORTED");
    expect(groupsThatEnded(run, "ABORTED")).toEqual(["agents-1", "agents-2"]);
  });
  it("looks for lost nodes first when an earlier operation left the cluster half made", async () => {
    const run = await create({ answers: { "Open operation": answers({ begun: true }) } });
    expect(run.visited.slice(0, 6)).toEqual([
      "Open operation",
      "Was it begun before?",
      "Find lost nodes",
      "Are lost nodes members?",
      "Remove lost nodes",
      "Terminate lost nodes",
    ]);
    expect(run.status).toBe("SUCCEEDED");
  });
  it("replaces lost nodes in another pass, three passes in all, and then fails as NodeLost", async () => {
    const run = await create({ answers: { "Join server": failsLater("NodeLost", "i-2 is gone") } });
    expect(run.visited.filter((state) => state === "Start cluster")).toHaveLength(3);
    expect(run.visited.filter((state) => state === "Find lost nodes")).toHaveLength(2);
    expect(run.visited.slice(-2)).toEqual(["Record failure", "Cluster not created"]);
    expect(run).toMatchObject({ status: "FAILED", error: "NodeLost" });
  });
  it.each(["Prepare agents", "Admit agents", "Start agents"])(
    "sets a group of agents aside when '%s' fails, and lets the others go on",
    async (state) => {
      const failing = state === "Admit agents" ? fails("Denied") : failsLater("NodeCommandFailed");
      const good = { ...calm }[state as "Admit agents"];
      const run = await create({ answers: { [state]: ({ number }) => (number === 1 ? failing : good) } });
      expect(run.visited.filter((visited) => visited === "Agents set aside")).toHaveLength(1);
      expect(groupRuns(run).map(({ execution }) => execution?.error)).toEqual([failing.error ?? "NodeCommandFailed", undefined]);
      expect(groupsThatEnded(run, "SUCCEEDED")).toEqual(["agents-2"]);
      expect(run.status).toBe("SUCCEEDED");
    },
  );
  it("sets a group aside whose execution cannot be started, and goes on", async () => {
    const run = await create({ children: { [machineArn("TakeSnapshotStateMachine")]: { status: "SUCCEEDED", output: {} } } });
    expect(run.visited.filter((visited) => visited === "Agents set aside")).toHaveLength(2);
    expect(run.status).toBe("SUCCEEDED");
  });
  it("asks a node command again when its heartbeat stops, with a new token", async () => {
    const run = await create({ answers: { "Start first server": ({ number }) => (number === 1 ? silent : completes({}, 1)) } });
    const asked = run.calls.filter(({ state }) => state === "Start first server");
    expect(asked).toHaveLength(2);
    expect((asked[1]?.atSeconds ?? 0) - (asked[0]?.atSeconds ?? 0)).toBe(181);
    const tokens = asked.map(({ payload }) => (payload as { taskToken: string }).taskToken);
    expect(new Set(tokens).size).toBe(2);
    expect(run.status).toBe("SUCCEEDED");
  });
  it.each([
    "Open operation",
    "Create endpoint",
    "Create credentials",
    "Plan nodes",
    "Launch nodes",
    "Await first server",
    "Decide bootstrap",
    "Register first server",
    "Store kubeconfig",
    "Await endpoint",
    "Close operation",
  ])("records the failure of '%s', and fails by its name", async (state) => {
    const run = await create({ answers: { [state]: fails("Unsafe", "a person should look") } });
    expect(run.visited.slice(-2)).toEqual(["Record failure", "Cluster not created"]);
    expect(run).toMatchObject({ status: "FAILED", error: "Unsafe" });
    expect(run.calls.at(-1)?.payload).toMatchObject({ outcome: "failed", failure: { error: "Unsafe" } });
  });
});
