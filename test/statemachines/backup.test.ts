import { describe, expect, it } from "vitest";
import { answers, completes, executionArn, fails, failsLater, readMachine, runAsl, silent } from "../asl/harness.js";

const calm = {
  "Open operation": answers({ begun: true, lastSnapshot: false }),
  "Save snapshot": completes({ succeeded: 1 }, 4),
  "Upload snapshot": completes({ succeeded: 1 }, 6),
  "Prove snapshot": answers({ snapshot: "s-1" }),
  "Prune snapshots": answers({ removed: 0 }),
};
type More = Parameters<typeof runAsl>[1];
const run = (name: string, input: object, more: More) =>
  runAsl(readMachine(name), { input, otherwise: answers({}), ...more, answers: { ...calm, ...more?.answers } });
const backup = (more: More = {}) => run("backup-cluster", { cluster: "prod", operation: "backup-prod-1" }, more);
/** As a create, a delete or a restore has it done, under its own lease. */
const take = (more: More = {}) => run("take-snapshot", { cluster: "prod", operation: "backup-prod-1", execution: executionArn }, more);
type Run = Awaited<ReturnType<typeof run>>;
const asked = (done: Run) => done.calls.map(({ state }) => state);
const passesOf = (done: Run, state: string) =>
  done.calls.filter((call) => call.state === state).map(({ payload }) => (payload as { pass: number }).pass);

describe.each([
  ["backup-cluster", backup, ["Record why", "Record failure", "Cluster not backed up"]],
  ["take-snapshot", take, ["Record why", "Snapshot not taken"]],
])("taking a snapshot in %s", (_, carryOut, badEnd) => {
  it("saves, uploads, and proves what was saved, under the operation's lease", async () => {
    const done = await carryOut();
    expect(done.status).toBe("SUCCEEDED");
    expect(asked(done).filter((state) => state.endsWith(" snapshot"))).toEqual(["Save snapshot", "Upload snapshot", "Prove snapshot"]);
    for (const { payload } of done.calls) expect(payload).toMatchObject({ cluster: "prod", operation: "backup-prod-1", execution: executionArn });
  });
  it.each(["Save snapshot", "Upload snapshot"])("tries another server when '%s' fails on one, under a pass of its own", async (state) => {
    const good = calm[state as "Save snapshot"];
    const done = await carryOut({ answers: { [state]: ({ number }) => (number === 1 ? failsLater("NodeCommandFailed") : good) } });
    expect(done.status).toBe("SUCCEEDED");
    expect([passesOf(done, "Save snapshot"), passesOf(done, "Prove snapshot")]).toEqual([[1, 2], [2]]);
  });
  it("gives up after three passes, says why, and fails as the node did", async () => {
    const done = await carryOut({ answers: { "Upload snapshot": failsLater("NodeCommandFailed", "no room") } });
    expect(passesOf(done, "Save snapshot")).toEqual([1, 2, 3]);
    expect(done.visited.slice(-badEnd.length)).toEqual(badEnd);
    expect(asked(done)).not.toContain("Prune snapshots");
    expect(done).toMatchObject({ status: "FAILED", error: "NodeCommandFailed", cause: "no room" });
  });
  it.each(["Save snapshot", "Upload snapshot", "Prove snapshot"])("does not try again what a person must look at: '%s'", async (state) => {
    const done = await carryOut({ answers: { [state]: fails("Unsafe", "look at it") } });
    expect(done.visited.slice(-badEnd.length - 1)).toEqual([state, ...badEnd]);
    expect(done.calls.find((call) => call.state === "Record why")?.payload).toMatchObject({ failure: { error: "Unsafe", state } });
    expect(done).toMatchObject({ status: "FAILED", error: "Unsafe" });
  });
  it("asks a node again when its heartbeat stops, with a new token and in the same pass", async () => {
    const done = await carryOut({ answers: { "Save snapshot": ({ number }) => (number === 1 ? silent : completes({}, 1)) } });
    expect(passesOf(done, "Save snapshot")).toEqual([1, 1]);
    expect(
      new Set(done.calls.filter(({ state }) => state === "Save snapshot").map(({ payload }) => (payload as { taskToken: string }).taskToken)).size,
    ).toBe(2);
    expect(done.status).toBe("SUCCEEDED");
  });
  it("ends by the first failure's name even when nothing of it can be recorded", async () => {
    const done = await carryOut({ answers: { "Prove snapshot": fails("Unsafe"), "Record why": fails("Denied"), "Record failure": fails("Denied") } });
    expect(done).toMatchObject({ status: "FAILED", error: "Unsafe" });
  });
});

describe("backing up a cluster", () => {
  it("removes what is old only when the new one is proven, and takes few transitions", async () => {
    const done = await backup();
    expect(done.visited).toEqual(["Open operation", "Save snapshot", "Upload snapshot", "Prove snapshot", "Prune snapshots", "Close operation"]);
    expect(done.transitions).toBeLessThanOrEqual(10);
  });
  it.each(["Open operation", "Prune snapshots", "Close operation"])("records the failure of '%s', and fails by its name", async (state) => {
    const done = await backup({ answers: { [state]: fails("Unsafe", "a person should look") } });
    expect(done.visited.slice(-3)).toEqual([state, "Record failure", "Cluster not backed up"]);
    expect(done).toMatchObject({ status: "FAILED", error: "Unsafe" });
    expect(done.calls.at(-1)?.payload).toMatchObject({ cluster: "prod", outcome: "failed", failure: { error: "Unsafe", state } });
  });
  it("does for its snapshot what every other operation does, state by state", () => {
    interface State {
      readonly [field: string]: unknown;
    }
    const statesOf = (name: string) => (JSON.parse(readMachine(name)) as { States: Readonly<Record<string, State>> }).States;
    /** Without where it goes when all is well, which is each machine's own. */
    const inner = ({ Next, End, Output, ...state }: State = {}) => state;
    const [own, shared] = [statesOf("backup-cluster"), statesOf("take-snapshot")];
    for (const name of ["Save snapshot", "Upload snapshot", "Prove snapshot", "Is there another pass?"]) {
      expect([name, inner(own[name])]).toEqual([name, inner(shared[name])]);
    }
    const { Catch: _, ...why } = inner(own["Record why"]);
    const { Catch: __, ...sharedWhy } = inner(shared["Record why"]);
    expect(why).toEqual(sharedWhy);
  });
});
