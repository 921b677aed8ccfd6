import { describe, expect, it } from "vitest";
import { courseOf, picture, progressDisplay } from "../../cli/progress.js";
import type { Screen } from "../../cli/surroundings.js";
import type { OperationRecord, StepRecord } from "../../core/records.js";

const start = Date.UTC(2026, 0, 5, 2);
const at = (seconds: number) => new Date(start + seconds * 1000).toISOString();
const step = (seconds: number, name: string, detail = ""): StepRecord => ({ name, at: at(seconds), detail });
const size = { servers: 3, agents: 4 };

function operation(steps: readonly StepRecord[], more: Partial<OperationRecord> = {}): OperationRecord {
  return {
    schema: 1,
    id: "create-ha-0123456789abcdef",
    kind: "create",
    cluster: "ha",
    uid: "u",
    status: "running",
    requestedBy: "",
    requestId: "",
    acceptedAt: at(0),
    execution: "",
    steps,
    ...more,
  };
}

const begun = [step(1, "lease"), step(2, "endpoint"), step(3, "credentials"), step(4, "plan"), step(5, "launch"), step(25, "first server online")];
const stateOf = (record: OperationRecord, now: number) =>
  Object.fromEntries(courseOf(record, size, start + now * 1000).steps.map(({ name, state }) => [name, state]));

function screen(more: Partial<Screen> = {}): { screen: Screen; text: () => string } {
  let text = "";
  return {
    screen: { write: (words) => (text += words), isTerminal: false, hasColour: false, columns: 80, rows: 40, ...more },
    text: () => text,
  };
}

describe("the course of an operation", () => {
  it("has several steps under way at once", () => {
    expect(stateOf(operation(begun), 30)).toMatchObject({
      "first server online": "done",
      prepare: "running",
      "agents online": "running",
      "endpoint healthy": "running",
      bootstrap: "later",
      agents: "later",
    });
  });
  it("of a delete has a snapshot only where one was wanted", () => {
    const named = (lastSnapshot: boolean) => courseOf(operation([], { kind: "delete", lastSnapshot }), size, start).steps.map(({ name }) => name);
    expect(named(true)).toEqual(["lease", "snapshot", "nodes", "endpoint", "sweep"]);
    expect(named(false)).toEqual(["lease", "nodes", "endpoint", "sweep"]);
  });
  it("of a backup, a restore and a drill goes from one step to the next", () => {
    const running = (kind: "backup" | "restore" | "drill", ...names: string[]) => {
      const record = operation(
        names.map((name, index) => step(index + 1, name)),
        { kind },
      );
      return courseOf(record, size, start + 30_000).steps.flatMap(({ name, state }) => (state === "running" ? [name] : []));
    };
    expect(running("backup", "lease")).toEqual(["snapshot"]);
    expect(running("restore", "lease", "restore begun", "plan", "launch", "first server online", "prepare", "restore decided")).toEqual(["restore"]);
    expect(running("restore", "lease", "restore begun", "plan", "launch", "first server online", "prepare", "restore decided", "restore")).toEqual([
      "join",
      "agents",
    ]);
    expect(running("drill", "lease", "drill server launched", "drill server online", "prepare")).toEqual(["restore proven"]);
  });
  it("counts the time of a step from the end of the steps before it, on the API's clock", () => {
    const { steps, elapsedSeconds, expectedSeconds } = courseOf(operation(begun), size, start + 40_000);
    expect(steps.find(({ name }) => name === "prepare")).toMatchObject({ elapsedSeconds: 15, count: { done: 0, of: 7 } });
    expect(steps.find(({ name }) => name === "first server online")).toMatchObject({ elapsedSeconds: 20 });
    expect(elapsedSeconds).toBe(40);
    expect(expectedSeconds).toBeGreaterThan(200);
  });
  it("ends a step of many nodes with the last of them", () => {
    const some = [...begun, step(60, "prepare", "first-server: 1 node(s)"), step(61, "bootstrap decided"), step(90, "prepare", "others: 5 node(s)")];
    expect(courseOf(operation(some), size, start).steps.find(({ name }) => name === "prepare")).toMatchObject({
      state: "running",
      count: { done: 6, of: 7 },
    });
    const all = [...some, step(95, "prepare", "late: 1 node(s), 0 set aside")];
    expect(stateOf(operation(all), 96)).toMatchObject({ prepare: "done", bootstrap: "running" });
  });
  it("takes a step for done when one that needs it is, as in a run that goes on where another stopped", () => {
    expect(stateOf(operation([step(1, "lease"), step(9, "verify", "any-server: 1 node(s)")]), 10)).toMatchObject({
      launch: "done",
      prepare: "done",
      join: "done",
      verify: "done",
      kubeconfig: "running",
    });
  });
  it("has no step for what a cluster does not have", () => {
    const names = courseOf(operation([]), { servers: 1, agents: 0 }, start).steps.map(({ name }) => name);
    expect(names).not.toContain("join");
    expect(names).not.toContain("agents");
    expect(names).not.toContain("agents online");
    expect(names).toContain("bootstrap");
  });
  it("stands still once the operation has failed", () => {
    const failed = operation(begun, { status: "failed", endedAt: at(50) });
    expect(Object.values(stateOf(failed, 9000))).not.toContain("running");
    expect(courseOf(failed, size, start + 9_000_000).elapsedSeconds).toBe(50);
  });
  it("follows a delete", () => {
    const record = operation([step(1, "lease"), step(70, "nodes")], { kind: "delete" });
    expect(stateOf(record, 80)).toEqual({ lease: "done", nodes: "done", endpoint: "running", sweep: "later" });
  });
});

describe("progress in a log", () => {
  it("is a line for each milestone, with the step's time once it is done, and nothing twice", () => {
    const { screen: log, text } = screen();
    const display = progressDisplay(log);
    display.show(operation(begun.slice(0, 1)), size, start + 2000);
    display.show(operation(begun), size, start + 26_000);
    display.show(operation(begun), size, start + 28_000);
    expect(text().split("\n").length).toBe(7);
    expect(text()).toMatch(/^ {3}0:01 {2}lease {17}\(0:01, expected 0:01\)\n/m);
    expect(text()).toMatch(/\n {3}0:25 {2}first server online {3}\(0:20, expected 0:\d\d\)\n$/);
  });
  it("says what is waited for when nothing happens: after 30 s, then ever less often", () => {
    const { screen: log, text } = screen();
    const display = progressDisplay(log);
    for (let now = 26; now <= 600; now += 2) display.show(operation(begun), size, start + now * 1000);
    const waits = text()
      .split("\n")
      .filter((line) => line.includes("waiting for archives"));
    expect(waits.map((line) => line.trim().split(" ")[0])).toEqual(["0:56", "1:56", "3:56", "7:56"]);
    expect(waits[0]).toMatch(/waiting for archives to be fetched, verified and imported, 0 of 7 \(0:31, expected 0:\d\d\)$/);
  });
});

describe("progress at a terminal", () => {
  it("is a picture of every step that fits 80 columns", () => {
    const record = operation([...begun, step(66, "prepare", "first-server: 1 node(s)")]);
    const lines = picture(courseOf(record, size, start + 70_000), record, screen({ isTerminal: true }).screen);
    expect(lines[0]).toMatch(/^ha: create, 1:10 of about \d:\d\d$/);
    expect(lines).toContainEqual(expect.stringMatching(/^✓ first server online +0:20 {2}expected 0:\d\d$/));
    expect(lines).toContainEqual(expect.stringMatching(/^▸ prepare +1 of 7 +0:45 {2}expected 0:\d\d$/));
    expect(lines).toContainEqual(expect.stringMatching(/^· bootstrap +expected 0:\d\d$/));
    expect(lines.slice(lines.findIndex((line) => line.startsWith("waiting for "))).join(" ")).toBe(
      "waiting for archives to be fetched, verified and imported, the one server that may start the cluster, agents to be online in SSM, " +
        "the endpoint to answer",
    );
    expect(lines.filter((line) => line.length > 80)).toEqual([]);
  });
  it("marks a step that takes longer than usual", () => {
    const record = operation(begun);
    const lines = picture(courseOf(record, size, start + 500_000), record, screen({ isTerminal: true }).screen);
    expect(lines).toContainEqual(expect.stringMatching(/^▸ prepare .*, slower than usual$/));
  });
  it("shows only what is under way where there is no room for more", () => {
    const record = operation(begun);
    const lines = picture(courseOf(record, size, start + 30_000), record, screen({ isTerminal: true, rows: 10 }).screen);
    expect(lines.length).toBeLessThan(8);
    expect(lines.join("\n")).not.toContain("✓");
  });
  it("is drawn over itself, and stays when it ends", () => {
    const { screen: terminal, text } = screen({ isTerminal: true });
    const display = progressDisplay(terminal);
    display.show(operation(begun), size, start + 30_000);
    const height = text().split("\n").length - 1;
    display.show(operation(begun), size, start + 32_000);
    expect(text()).toContain(`\u001b[${height}A\u001b[0J`);
    const before = text().length;
    display.end();
    expect(text().length).toBe(before);
  });
});
