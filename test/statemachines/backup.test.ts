import { describe, expect, it } from "vitest";
import { answers, completes, executionArn, fails, failsLater, machineArn, readMachine, runAsl, silent } from "../asl/harness.js";

const input = { cluster: "prod", operation: "backup-prod-1" };
const calm = {
  "Open operation": answers({ begun: true, lastSnapshot: false }),
  "Check cluster": completes({ succeeded: 1 }, 2),
  "Save snapshot": completes({ succeeded: 1 }, 4),
  "Upload snapshot": completes({ succeeded: 1 }, 6),
  "Prove snapshot": answers({ snapshot: "s-1" }),
  "Prune snapshots": answers({ removed: 0 }),
};
type More = Parameters<typeof runAsl>[1] & { lostAnswers?: number };
const backup = ({ lostAnswers = 0, ...more }: More = {}) =>
  runAsl(readMachine("backup-cluster"), {
    input,
    otherwise: answers({}),
    children: { [machineArn("TakeSnapshotStateMachine")]: { definition: readMachine("take-snapshot"), lostAnswers } },
    ...more,
    answers: { ...calm, ...more.answers },
  });
type Run = Awaited<ReturnType<typeof backup>>;
const billed = (run: Run) => run.transitions + run.children.reduce((sum, { execution }) => sum + (execution?.transitions ?? Number.NaN), 0);
const inChild = (run: Run) => run.children.flatMap(({ execution }) => execution?.visited ?? []);
const passesOf = (run: Run, state: string) =>
  run.calls.filter((call) => call.state === state).map(({ payload }) => (payload as { pass: number }).pass);

describe("backing up a cluster", () => {
  it("saves, uploads, proves, and only then removes what is old, within ten transitions", async () => {
    const run = await backup();
    expect(run.status).toBe("SUCCEEDED");
    expect(run.visited).toEqual(["Open operation", "Take snapshot", "Prune snapshots", "Close operation", "Snapshot taken"]);
    expect(inChild(run)).toEqual(["Check cluster", "Save snapshot", "Upload snapshot", "Prove snapshot"]);
    expect(billed(run)).toBeLessThanOrEqual(10);
  });
  it("acts under the lease of the operation's own execution, also in the child", async () => {
    const run = await backup();
    expect(run.calls).toHaveLength(7);
    for (const { payload } of run.calls) expect(payload).toMatchObject({ cluster: "prod", operation: "backup-prod-1", execution: executionArn });
  });
  it("names the child so that a start whose answer was lost is not a second snapshot", async () => {
    const run = await backup({ lostAnswers: 2 });
    expect(run.status).toBe("SUCCEEDED");
    expect(inChild(run).filter((state) => state === "Save snapshot")).toHaveLength(1);
  });
  it("takes the snapshot although no server answers the check: it is then that it is worth most", async () => {
    const run = await backup({ answers: { "Check cluster": fails("Unsafe") } });
    expect(run.status).toBe("SUCCEEDED");
    expect(inChild(run)).toEqual(["Check cluster", "Save snapshot", "Upload snapshot", "Prove snapshot"]);
    expect(run.calls.filter(({ state }) => state === "Save snapshot")[0]?.payload).toMatchObject({ cluster: "prod", pass: 1 });
  });
  it.each(["Save snapshot", "Upload snapshot"])("tries another server when '%s' fails on one, under a pass of its own", async (state) => {
    const good = calm[state as "Save snapshot"];
    const run = await backup({ answers: { [state]: ({ number }) => (number === 1 ? failsLater("NodeCommandFailed") : good) } });
    expect(run.status).toBe("SUCCEEDED");
    expect(passesOf(run, "Prove snapshot")).toEqual([2]);
    expect(run.visited).not.toContain("Record failure");
  });
  it("gives up after three passes, says why, keeps what is old, and fails as the node did", async () => {
    const run = await backup({ answers: { "Upload snapshot": failsLater("NodeCommandFailed", "no room") } });
    expect(passesOf(run, "Save snapshot")).toEqual([1, 2, 3]);
    expect(inChild(run).slice(-2)).toEqual(["Record why", "Snapshot not taken"]);
    expect(run.visited.slice(-2)).toEqual(["Record failure", "Cluster not backed up"]);
    expect(run.calls.map(({ state }) => state)).not.toContain("Prune snapshots");
    expect(run.children[0]?.execution?.error).toBe("NodeCommandFailed");
    expect(run.calls.at(-1)?.payload).toMatchObject({ outcome: "failed", failure: { error: "States.TaskFailed", state: "Take snapshot" } });
    expect((run.calls.at(-1)?.payload as { failure: { cause: string } }).failure.cause).toContain("no room");
  });
  it.each(["Save snapshot", "Upload snapshot", "Prove snapshot"])("does not try again what a person must look at: '%s'", async (state) => {
    const run = await backup({ answers: { [state]: fails("Unsafe", "look at it") } });
    expect(inChild(run).slice(-3)).toEqual([state, "Record why", "Snapshot not taken"]);
    expect(run.calls.find((call) => call.state === "Record why")?.payload).toMatchObject({
      cluster: "prod",
      operation: "backup-prod-1",
      failure: { error: "Unsafe", state },
    });
    expect(run.status).toBe("FAILED");
  });
  it("asks a node again when its heartbeat stops, with a new token and in the same pass", async () => {
    const run = await backup({ answers: { "Save snapshot": ({ number }) => (number === 1 ? silent : completes({}, 1)) } });
    expect(passesOf(run, "Save snapshot")).toEqual([1, 1]);
    expect(run.status).toBe("SUCCEEDED");
  });
  it.each(["Open operation", "Prune snapshots", "Close operation"])("records the failure of '%s', and fails by its name", async (state) => {
    const run = await backup({ answers: { [state]: fails("Unsafe", "a person should look") } });
    expect(run.visited.slice(-3)).toEqual([state, "Record failure", "Cluster not backed up"]);
    expect(run).toMatchObject({ status: "FAILED", error: "Unsafe" });
    expect(run.calls.at(-1)?.payload).toMatchObject({ cluster: "prod", outcome: "failed", failure: { error: "Unsafe", state } });
  });
  it("ends by the first failure's name even when nothing of it can be recorded", async () => {
    const run = await backup({ answers: { "Prove snapshot": fails("Unsafe"), "Record why": fails("Denied"), "Record failure": fails("Denied") } });
    expect(run.children[0]?.execution?.error).toBe("Unsafe");
    expect(run.status).toBe("FAILED");
  });
  it("ends the snapshot with itself when it is stopped", async () => {
    const run = await backup({ answers: { "Upload snapshot": silent }, meanwhile: [{ atSeconds: 60, act: (execution) => execution.stop() }] });
    expect(run.status).toBe("ABORTED");
    expect(run.children[0]?.execution?.status).toBe("ABORTED");
  });
});
