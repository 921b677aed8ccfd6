import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AdmissionBook, admissionLeadSeconds, bookAdmission, joinAddresses } from "../../core/agent-admission.js";
import { NotYet } from "../../core/failures.js";
import { lowerBound } from "../../core/latency-bound.js";
import model from "../../core/latency-model.json" with { type: "json" };
import { chance, member } from "./facts.js";

const start = Date.UTC(2026, 10, 22, 12);
const perServer = model.rates.agentsAdmittedPerSecondPerServer.value;

/** Books groups one after another at the given seconds; answers when each starts. */
function starts(groups: readonly { at: number; agents: number; ready: number; wanted?: number; group?: string }[]) {
  let book: AdmissionBook | undefined;
  return groups.map(({ at, agents, ready, wanted, group }) => {
    const named = group === undefined ? {} : { group };
    const booked = bookAdmission({ book, nowMs: start + at * 1000, agents, readyServers: ready, wantedServers: wanted ?? ready, ...named });
    book = booked.book;
    return at + booked.waitSeconds;
  });
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
    expect(
      starts([
        { at: 0, agents: 20, ready: 1 },
        { at: 60, agents: 20, ready: 1 },
      ]),
    ).toEqual([0, 60]);
  });

  it("admits three times as fast with three servers", () => {
    const [, , third] = starts([1, 2, 3].map(() => ({ at: 0, agents: 60, ready: 3 })));
    expect(third).toBe(120 / (3 * perServer) - 10);
  });

  it("reckons with the servers still to join, for nearly all groups book before they have", () => {
    const groups = [10, 20, ...Array.from({ length: 19 }, () => 50), 20].map((agents) => ({ at: 0, agents, ready: 1, wanted: 3 }));
    const last = starts(groups).at(-1) ?? 0;
    const { F, A } = lowerBound({ servers: 3, agents: 1000 });
    const bound = A - F - model.steps.agentStartToReady.p50 - model.steps.commandEndToEvent.p50;
    expect(last + 10 + 20 / 3).toBeGreaterThan(bound);
    expect(last + 10 + 20 / 3, "seconds behind the model's lower bound").toBeLessThan(bound + 10);
  });

  it("corrects what is queued by the servers that are ready when a later group books", () => {
    const slow = starts([
      { at: 0, agents: 300, ready: 1, wanted: 3 },
      { at: 60, agents: 10, ready: 1, wanted: 3 },
    ]);
    const asExpected = starts([
      { at: 0, agents: 300, ready: 1, wanted: 3 },
      { at: 60, agents: 10, ready: 3, wanted: 3 },
    ]);
    expect(slow[1]).toBeGreaterThan((asExpected[1] as number) + 15);
  });

  it("answers a group that books twice the same, and books it once", () => {
    const once = bookAdmission({ book: undefined, nowMs: start, group: "a", agents: 50, readyServers: 1 }).book;
    const second = bookAdmission({ book: once, nowMs: start, group: "b", agents: 50, readyServers: 1 });
    const again = bookAdmission({ book: second.book, nowMs: start + 15_000, group: "b", agents: 50, readyServers: 1 });
    expect(second.waitSeconds).toBe(40);
    expect(again).toEqual({ book: second.book, waitSeconds: 25 });
    expect(bookAdmission({ book: second.book, nowMs: start + 90_000, group: "b", agents: 50, readyServers: 1 }).waitSeconds).toBe(0);
  });

  it("forgets groups after an hour, so that the book stays small", () => {
    const old = bookAdmission({ book: undefined, nowMs: start, group: "a", agents: 50, readyServers: 1 }).book;
    const later = bookAdmission({ book: old, nowMs: start + 3_700_000, group: "b", agents: 50, readyServers: 1 }).book;
    expect(Object.keys(later.starts)).toEqual(["b"]);
    expect(later.admitted).toBe(100);
  });

  it("never starts more than the servers have admitted by then and will within the lead", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), fc.constantFrom(1, 3, 5), fc.integer({ min: 1, max: 40 }), (seed, ready, count) => {
        const draw = chance(seed);
        let at = 0;
        const groups = Array.from({ length: count }, () => {
          at += Math.floor(draw() * 30);
          return { at, agents: 1 + Math.floor(draw() * 50), ready };
        });
        const began = starts(groups);
        // The queue as the servers see it: every second they take their share, and each group that starts joins its end.
        let queue = 0;
        for (let second = 0; second <= (began.at(-1) ?? 0); second += 1) {
          groups.forEach((group, index) => {
            if (began[index] !== second) return;
            expect(queue, `agents before group ${index}`).toBeLessThanOrEqual((admissionLeadSeconds + 1) * ready * perServer + 1e-6);
            queue += group.agents;
          });
          queue = Math.max(0, queue - ready * perServer);
        }
        expect(began.every((second, index) => second >= (groups[index]?.at ?? 0))).toBe(true);
      }),
      { seed: 41176, numRuns: 300 },
    );
  });
});

describe("the servers that agents join through", () => {
  const members = [member("i-3", 3), member("i-1", 1), member("i-2", 2)];
  it("are those that vote, by slot, so that every node is told the same", () => {
    expect(joinAddresses(members)).toBe("10.0.0.1,10.0.0.2,10.0.0.3");
  });
  it("are not there yet while none votes", () => {
    expect(() => joinAddresses([])).toThrow(NotYet);
  });
});
