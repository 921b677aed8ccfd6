import { describe, expect, it } from "vitest";
import { answers, completes, executionArn, fails, failsLater, machineArn, readMachine, runAsl, silent } from "../asl/harness.js";

const input = { cluster: "prod", operation: "restore-prod-1" };
const calm = {
  "Open operation": answers({ begun: true, lastSnapshot: false }),
  "Begin restore": answers({ stop: 3, terminate: 1 }),
  "Stop servers": completes({}, 20),
  "Create endpoint": answers({ createdAt: "2026-01-01T00:00:00.000Z" }),
  "Plan nodes": answers({ servers: 3, agents: 4, toLaunch: 1 }),
  "Prepare first server": completes({}, 39),
  "Decide who restores": answers({ mode: "restore", joinAddress: "" }),
  "Restore snapshot": completes({}, 60),
  "Await other servers": answers({ groups: ["other-servers"] }),
  "Prepare other servers": completes({}),
  "Choose server to join": ({ number }: { readonly number: number }) => answers({ groups: [`server-${number + 1}`] }),
  "Rejoin server": completes({}, 15),
  "Find stale nodes": answers({ groups: ["lost-nodes-1", "lost-nodes-2"] }),
  "Remove stale group": completes({}),
  "Gather agents": answers({ groups: ["workers-1-01"] }),
  "Prepare agents": completes({}),
  "Admit agents": answers({ waitSeconds: 1 }),
  "Start agents": completes({}),
  "Verify cluster": completes({}),
  "Check cluster": completes({}),
  "Save snapshot": completes({}),
  "Upload snapshot": completes({}),
};
type More = NonNullable<Parameters<typeof runAsl>[1]>;
const restore = (more: More = {}) =>
  runAsl(readMachine("restore-cluster"), {
    input,
    otherwise: answers({}),
    children: {
      [machineArn("StartAgentGroupStateMachine")]: { definition: readMachine("start-agent-group") },
      [machineArn("TakeSnapshotStateMachine")]: { definition: readMachine("take-snapshot") },
    },
    ...more,
    answers: { ...calm, ...more.answers },
  });
const before = (visited: readonly string[], first: string, second: string) =>
  visited.lastIndexOf(first) >= 0 && visited.lastIndexOf(first) < visited.indexOf(second);

describe("restoring a cluster", () => {
  it("stops and terminates what is of the time before, then restores, rejoins, cleans, verifies, and takes a fresh snapshot", async () => {
    const run = await restore();
    expect(run).toMatchObject({ status: "SUCCEEDED", error: undefined });
    const order = ["Begin restore", "Stop servers", "Terminate lost nodes", "Launch nodes", "Decide who restores", "Restore snapshot"];
    const then = ["Register restored server", "Rejoin server", "Find stale nodes", "Verify cluster", "Take snapshot", "Close operation"];
    const all = [...order, ...then];
    for (const [index, state] of all.slice(1).entries())
      expect([all[index], state, before(run.visited, all[index] as string, state)]).toEqual([all[index], state, true]);
    expect(run.visited.at(-1)).toBe("Cluster restored");
  });
  it("decides who restores before the command is sent (law 1), and tells the decision that it is a restore's", async () => {
    const run = await restore();
    expect(run.calls.find(({ state }) => state === "Decide who restores")?.payload).toMatchObject({ restores: true, group: "first-server" });
    expect(run.calls.filter(({ state }) => state === "Restore snapshot")).toHaveLength(1);
  });
  it("rejoins servers one at a time, each registered before the next (laws 3 and 4)", async () => {
    const run = await restore();
    const joins = run.calls.filter(({ state }) => state === "Rejoin server" || state === "Register server").map(({ state }) => state);
    expect(joins).toEqual(["Rejoin server", "Register server", "Rejoin server", "Register server"]);
    const registers = run.calls.filter(({ state }) => /^Register/.test(state)).map(({ payload }) => (payload as { command: string }).command);
    expect(registers).toEqual(["restore-snapshot", "rejoin-server", "rejoin-server"]);
  });
  it("stops nobody where nobody is left, and waits for machines only where some are launched", async () => {
    const run = await restore({
      answers: { "Begin restore": answers({ stop: 0, terminate: 0 }), "Plan nodes": answers({ servers: 1, agents: 0, toLaunch: 0 }) },
    });
    expect(run.status).toBe("SUCCEEDED");
    for (const state of ["Stop servers", "Terminate lost nodes", "Wait for machines to boot"]) expect(run.visited).not.toContain(state);
  });
  it("begins again when a machine is lost: whoever had restored may be gone, three passes in all", async () => {
    const run = await restore({ answers: { "Rejoin server": failsLater("NodeLost", "i-2 is gone") } });
    expect(run.calls.filter(({ state }) => state === "Begin restore").map(({ payload }) => (payload as { pass: number }).pass)).toEqual([1, 2, 3]);
    expect(run).toMatchObject({ status: "FAILED", error: "NodeLost" });
  });
  it("does not undo what is restored because a fresh snapshot cannot be taken", async () => {
    const run = await restore({ answers: { "Prove snapshot": fails("Unsafe") } });
    expect(run.status).toBe("SUCCEEDED");
    expect(run.visited.slice(-2)).toEqual(["Close operation", "Cluster restored"]);
  });
  it("acts under its own execution's lease, in children too", async () => {
    const run = await restore();
    for (const { payload } of run.calls) expect(payload).toMatchObject({ cluster: "prod", operation: "restore-prod-1", execution: executionArn });
  });
  it("asks the node again when its heartbeat stops: it goes on where it was", async () => {
    const run = await restore({ answers: { "Restore snapshot": ({ number }) => (number === 1 ? silent : completes({}, 1)) } });
    expect(run.calls.filter(({ state }) => state === "Restore snapshot")).toHaveLength(2);
    expect(run.status).toBe("SUCCEEDED");
  });
  it.each([
    "Open operation",
    "Begin restore",
    "Create endpoint",
    "Decide who restores",
    "Register restored server",
    "Find stale nodes",
    "Await endpoint",
  ])("records the failure of '%s', and fails by its name", async (state) => {
    const run = await restore({ answers: { [state]: fails("Unsafe", "a person should look") } });
    expect(run.visited.slice(-2)).toEqual(["Record failure", "Cluster not restored"]);
    expect(run).toMatchObject({ status: "FAILED", error: "Unsafe" });
    expect(run.calls.at(-1)?.payload).toMatchObject({ cluster: "prod", outcome: "failed", failure: { error: "Unsafe" } });
  });
});

describe("a drill", () => {
  const steps = ["Launch drill server", "Prepare drill server", "Restore on drill server", "Compare with manifest"];
  const drill = (more: More = {}) =>
    runAsl(readMachine("drill-restore"), {
      input: { cluster: "prod", operation: "drill-prod-1" },
      otherwise: answers({}),
      ...more,
      answers: { "Prepare drill server": completes({}, 39), "Restore on drill server": completes({}, 60), ...more.answers },
    });
  it("launches, prepares, restores, compares, and throws the server away", async () => {
    const run = await drill();
    expect(run.visited).toEqual(["Open operation", ...steps, "End drill server", "Close operation", "Restore proven"]);
  });
  it.each(steps)("throws the server away when '%s' fails, and then fails by that name", async (state) => {
    const failing = /Prepare|Restore/.test(state) ? failsLater("NodeCommandFailed") : fails("Unsafe");
    const run = await drill({ answers: { [state]: failing } });
    expect(run.visited.slice(-4)).toEqual([state, "End failed drill", "Record failure", "Restore not proven"]);
    expect(run.error).toBe(/Prepare|Restore/.test(state) ? "NodeCommandFailed" : "Unsafe");
    expect(run.calls.at(-1)?.payload).toMatchObject({ failure: { state } });
  });
  it("tells the first failure even when the server cannot be thrown away", async () => {
    const run = await drill({ answers: { "Compare with manifest": fails("Unsafe"), "End failed drill": fails("Denied") } });
    expect(run).toMatchObject({ status: "FAILED", error: "Unsafe" });
    expect(run.calls.at(-1)?.payload).toMatchObject({ outcome: "failed", failure: { error: "Unsafe" } });
  });
});
