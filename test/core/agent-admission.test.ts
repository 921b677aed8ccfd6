import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AdmissionBook, admissionLeadSeconds, assignJoins, bookAdmission } from "../../core/agent-admission.js";
import { NotYet } from "../../core/failures.js";
import { lowerBound } from "../../core/latency-bound.js";
import model from "../../core/latency-model.json" with { type: "json" };
import { chance, member } from "./facts.js";

const start = Date.UTC(2026, 10, 22, 12);
const perServer = model.rates.agentsAdmittedPerSecondPerServer.value;

const { steps } = model;
const joinSeconds = steps.learnerJoinAndPromote.p50 + steps.sendCommandToStart.p50 + steps.commandEndToEvent.p50;
const servers = (count: number) => Array.from({ length: count }, (_, index) => member(`i-${index + 1}`, index + 1));
const instances = (name: string, count: number) => Array.from({ length: count }, (_, index) => `i-${name}-${index}`);

interface Group {
  readonly at: number;
  readonly agents: number;
  readonly ready: number;
  readonly wanted?: number;
}
/** Books groups one after another at the given seconds; answers when each starts. */
function starts(groups: readonly Group[]) {
  let book: AdmissionBook | undefined;
  return groups.map(({ at, agents, ready, wanted }, index) => {
    const booked = bookAdmission({
      book,
      nowMs: start + at * 1000,
      group: `g${index}`,
      agents,
      members: servers(ready),
      wantedServers: wanted ?? ready,
    });
    book = booked.book;
    return at + booked.waitSeconds;
  });
}

/** Agents that each server has before it, one admitted after another. */
function backlogs(book: AdmissionBook, nowMs: number, count: number): number[] {
  return servers(count).map(({ address }) => (Math.max(0, Date.parse(book.freeAt[address] ?? "") - nowMs || 0) / 1000) * perServer);
}

describe("admitting agents at the rate RKE2 bears", () => {
  it("starts the first group at once", () => {
    expect(starts([{ at: 0, agents: 50, ready: 1 }])).toEqual([0]);
  });

  it("starts a group when the work before it is nearly admitted", () => {
    expect(starts([1, 2, 3].map(() => ({ at: 0, agents: 50, ready: 1 })))).toEqual([0, 50 / perServer - 10, 100 / perServer - 10]);
    expect(admissionLeadSeconds).toBe(10);
  });

  it("starts at once when the work before is done", () => {
    const first = bookAdmission({ book: undefined, nowMs: start, group: "a", agents: 20, members: servers(1) });
    const sent = assignJoins({ ...sending("a", 20), book: first.book, members: servers(1) });
    expect(bookAdmission({ book: sent.book, nowMs: start + 60_000, group: "b", agents: 20, members: servers(1) }).waitSeconds).toBe(0);
  });

  it("admits three times as fast with three servers", () => {
    const [, , third] = starts([1, 2, 3].map(() => ({ at: 0, agents: 60, ready: 3 })));
    expect(third).toBe(120 / (3 * perServer) - 10);
  });

  it("reckons with the servers still to join, for nearly all groups book before they have", () => {
    const groups = [10, 20, ...Array.from({ length: 19 }, () => 50), 20].map((agents) => ({ at: 0, agents, ready: 1, wanted: 3 }));
    const last = starts(groups).at(-1) ?? 0;
    // Two servers come one after the other and miss what they would have admitted until then.
    const bound = (1000 / perServer + 3 * joinSeconds) / 3;
    expect(last + 10 + 20 / 3).toBeGreaterThan(bound - 1);
    expect(last + 10 + 20 / 3, "seconds behind the bound").toBeLessThan(bound + 2);
    expect(Math.abs(bound - modelBound(1000)), "seconds from the model's").toBeLessThan(5);
  });

  it("starts a group for a server that comes, not before it is there", () => {
    const first = bookAdmission({ book: undefined, nowMs: start, group: "a", agents: 50, members: servers(1), wantedServers: 2 });
    const sent = assignJoins({ ...sending("a", 50), book: first.book, members: servers(1) });
    const second = bookAdmission({ book: sent.book, nowMs: start, group: "b", agents: 50, members: servers(1), wantedServers: 2 });
    expect([first, second].map(({ waitSeconds }) => waitSeconds)).toEqual([0, Math.floor(joinSeconds)]);
  });

  it("does not promise a late server's time to everybody who books while it is late", () => {
    // What it will admit once it is there is given away once.
    const began = starts(Array.from({ length: 10 }, (_, at) => ({ at: at * 6, agents: 50, ready: 1, wanted: 2 })));
    for (let index = 2; index < began.length; index++) {
      const before = (index * 50) / perServer;
      expect(began[index], `group ${index} at two servers`).toBeGreaterThanOrEqual(before / 2 - 10 - 1);
    }
  });

  it("reckons with the work that was really sent, not with what was expected", () => {
    const first = bookAdmission({ book: undefined, nowMs: start, group: "a", agents: 30, members: servers(1), wantedServers: 2 });
    // The second server came at once, so that both have 15 before them; at one alone it would be 30.
    const sent = assignJoins({ ...sending("a", 30), book: first.book, members: servers(2) });
    expect(backlogs(sent.book, start, 2)).toEqual([15, 15]);
    const second = bookAdmission({ book: sent.book, nowMs: start, group: "b", agents: 30, members: servers(2) });
    expect(second.waitSeconds).toBe(15 / perServer - 10);
  });

  it("does not wait for a group that was booked and never sent", () => {
    const lost = bookAdmission({ book: undefined, nowMs: start, group: "lost", agents: 50, members: servers(1) }).book;
    const waits = (seconds: number) =>
      bookAdmission({ book: lost, nowMs: start + seconds * 1000, group: "b", agents: 1, members: servers(1) }).waitSeconds;
    expect([waits(0), waits(119), waits(120)]).toEqual([40, 40, 0]);
  });

  it("answers a group that books twice the same, and books it once", () => {
    const once = bookAdmission({ book: undefined, nowMs: start, group: "a", agents: 50, members: servers(1) }).book;
    const second = bookAdmission({ book: once, nowMs: start, group: "b", agents: 50, members: servers(1) });
    const again = bookAdmission({ book: second.book, nowMs: start + 15_000, group: "b", agents: 50, members: servers(1) });
    expect(second.waitSeconds).toBe(40);
    expect(again).toEqual({ book: second.book, waitSeconds: 25 });
    expect(bookAdmission({ book: second.book, nowMs: start + 90_000, group: "b", agents: 50, members: servers(1) }).waitSeconds).toBe(0);
  });

  it("forgets groups and commands after an hour, so that the book stays small", () => {
    const old = bookAdmission({ book: undefined, nowMs: start, group: "a", agents: 50, members: servers(1) }).book;
    const sent = assignJoins({ ...sending("a", 50), book: old, members: servers(1) }).book;
    const later = bookAdmission({ book: sent, nowMs: start + 3_700_000, group: "b", agents: 50, members: servers(1) }).book;
    expect(Object.keys(later.groups)).toEqual(["b"]);
    expect(later.sent).toEqual({});
  });

  it("never starts more than the servers have admitted by then and will within the lead", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), fc.constantFrom(1, 3, 5), fc.integer({ min: 1, max: 40 }), (seed, ready, count) => {
        const draw = chance(seed);
        let at = 0;
        const groups = Array.from({ length: count }, (_, index) => {
          at += Math.floor(draw() * 30);
          return { name: `g${index}`, at, agents: 1 + Math.floor(draw() * 50) };
        });
        let book: AdmissionBook | undefined;
        const began = new Map<string, number>();
        // The queue as the servers see it: every second they take their share, and each group that starts joins its end.
        let queue = 0;
        for (let second = 0; began.size < count || second <= Math.max(...began.values()); second += 1) {
          const nowMs = start + second * 1000;
          for (const { name, agents } of groups.filter((group) => group.at === second)) {
            const booked = bookAdmission({ book, nowMs, group: name, agents, members: servers(ready) });
            began.set(name, second + booked.waitSeconds);
            book = booked.book;
          }
          for (const { name, agents } of groups.filter((group) => began.get(group.name) === second)) {
            expect(queue, `agents before group ${name}`).toBeLessThanOrEqual((admissionLeadSeconds + 1) * ready * perServer + ready);
            queue += agents;
            book = assignJoins({ book, nowMs, command: name, group: name, members: servers(ready), instanceIds: instances(name, agents) }).book;
          }
          queue = Math.max(0, queue - ready * perServer);
        }
      }),
      { seed: 41176, numRuns: 300 },
    );
  });
});

/** Until the last agent is admitted, from when the first server answers. */
function modelBound(agents: number): number {
  const { F, A } = lowerBound({ servers: 3, agents });
  return A - F - steps.agentStartToReady.p50 - steps.commandEndToEvent.p50;
}

function sending(name: string, agents: number) {
  return { book: undefined, nowMs: start, command: `start ${name}`, group: name, instanceIds: instances(name, agents) };
}

describe("the servers that agents join through", () => {
  it("share a group evenly, by slot, so that every run of the step says the same", () => {
    const members = [member("i-3", 3), member("i-1", 1), member("i-2", 2)];
    const { joins } = assignJoins({ ...sending("a", 4), members });
    expect(joins).toEqual({ "i-a-0": "10.0.0.1", "i-a-1": "10.0.0.2", "i-a-2": "10.0.0.3", "i-a-3": "10.0.0.1" });
  });

  it("are above all the one that came last, until it has as much before it as the others", () => {
    const early = assignJoins({ ...sending("a", 30), members: servers(1) });
    const later = assignJoins({ ...sending("b", 40), book: early.book, nowMs: start + 10_000, members: servers(2) });
    expect(backlogs(later.book, start + 10_000, 2)).toEqual([30, 30]);
    expect(Object.values(later.joins).filter((address) => address === "10.0.0.2")).toHaveLength(30);
  });

  it("are not there yet while none votes", () => {
    expect(() => assignJoins({ ...sending("a", 1), members: [] })).toThrow(NotYet);
  });

  it("are the same when the same command is sent again, whatever has happened since, and count once", () => {
    const once = assignJoins({ ...sending("a", 20), members: servers(1) });
    const again = assignJoins({ ...sending("a", 20), book: once.book, nowMs: start + 30_000, members: servers(3) });
    expect(again).toEqual(once);
  });

  it("have work that differs by no more than one agent after an assignment, unless one had more before; each instance has exactly one", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), fc.constantFrom(1, 2, 3, 5, 7), fc.integer({ min: 1, max: 40 }), (seed, count, sends) => {
        const draw = chance(seed);
        let book: AdmissionBook | undefined;
        let nowMs = start;
        for (let index = 0; index < sends; index++) {
          nowMs += Math.floor(draw() * 40) * 1000;
          const ready = 1 + Math.floor(draw() * count);
          const agents = 1 + Math.floor(draw() * 50);
          const before = book === undefined ? Array<number>(ready).fill(0) : backlogs(book, nowMs, ready);
          const ids = instances(String(index), agents);
          const input = { nowMs, command: `c${index}`, group: `g${index}`, members: servers(ready), instanceIds: ids };
          const assigned = assignJoins({ ...input, book });
          book = assigned.book;
          expect(Object.keys(assigned.joins)).toEqual(ids);
          const given = servers(ready).map(({ address }) => Object.values(assigned.joins).filter((each) => each === address).length);
          expect(given.reduce((sum, each) => sum + each, 0)).toBe(agents);
          const after = backlogs(book, nowMs, ready);
          for (let server = 0; server < ready; server++) {
            expect(after[server]).toBeCloseTo((before[server] as number) + (given[server] as number), 6);
            // Whoever was given any has at most one more than each of the others.
            if (given[server] !== 0) for (const other of after) expect(after[server]).toBeLessThanOrEqual(other + 1 + 1e-6);
          }
          expect(assignJoins({ ...input, book }).joins).toEqual(assigned.joins);
        }
      }),
      { seed: 41178, numRuns: 200 },
    );
  });
});
