import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decideRetention, type Keep, type SnapshotFacts, unprovenHours } from "../../core/retention.js";

const nothing: Keep = { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0 };
const proven = (takenAt: string, more: Partial<SnapshotFacts> = {}): SnapshotFacts => ({ id: takenAt, takenAt, proven: true, ...more });
const decide = (snapshots: readonly SnapshotFacts[], keep: Partial<Keep>, more: Partial<Parameters<typeof decideRetention>[0]> = {}) =>
  decideRetention({ snapshots, keep: { ...nothing, ...keep }, timeZone: "UTC", inUse: [], now: "2027-01-10T12:00:00Z", ...more });
const kept = (...given: Parameters<typeof decide>) => decide(...given).keep.map(({ id }) => id);
const reasonsOf = (id: string, ...given: Parameters<typeof decide>) => decide(...given).keep.find((each) => each.id === id)?.reasons;

describe("retention", () => {
  it("keeps the newest, so many of them", () => {
    const all = ["2027-01-01T02:00:00Z", "2027-01-02T02:00:00Z", "2027-01-03T02:00:00Z"].map((at) => proven(at));
    expect(decide(all, { last: 2 })).toEqual({
      keep: [
        { id: "2027-01-03T02:00:00Z", reasons: ["the newest proven snapshot", "last 1 of 2"] },
        { id: "2027-01-02T02:00:00Z", reasons: ["last 2 of 2"] },
      ],
      remove: [{ id: "2027-01-01T02:00:00Z", reason: "no tier asks for it" }],
    });
  });
  it("keeps the newest of each day, by the clocks of the cluster", () => {
    // 23:30 UTC of the 2nd is 00:30 of the 3rd in Berlin.
    const all = ["2027-01-02T01:00:00Z", "2027-01-02T22:30:00Z", "2027-01-02T23:30:00Z", "2027-01-03T01:00:00Z"].map((at) => proven(at));
    expect(kept(all, { daily: 2 })).toEqual(["2027-01-03T01:00:00Z", "2027-01-02T23:30:00Z"]);
    expect(kept(all, { daily: 2 }, { timeZone: "Europe/Berlin" })).toEqual(["2027-01-03T01:00:00Z", "2027-01-02T22:30:00Z"]);
    expect(reasonsOf("2027-01-02T22:30:00Z", all, { daily: 2 }, { timeZone: "Europe/Berlin" })).toEqual(["daily 2 of 2 (2027-01-02)"]);
  });
  it("counts an hour that comes twice, when clocks are set back, as two", () => {
    const all = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"].map((at) => proven(at)); // 02:30, 02:30, 03:30 in Berlin
    expect(kept(all, { hourly: 3 }, { timeZone: "Europe/Berlin" })).toHaveLength(3);
    expect(reasonsOf("2026-10-25T00:30:00Z", all, { hourly: 3 }, { timeZone: "Europe/Berlin" })).toEqual(["hourly 3 of 3 (2026-10-25T02h, UTC+2)"]);
  });
  it("keeps the newest of each week, which begins on Monday and belongs to the year of its Thursday", () => {
    const all = ["2026-12-27T02:00:00Z", "2026-12-28T02:00:00Z", "2027-01-03T02:00:00Z", "2027-01-04T02:00:00Z"].map((at) => proven(at));
    expect(kept(all, { weekly: 3 })).toEqual(["2027-01-04T02:00:00Z", "2027-01-03T02:00:00Z", "2026-12-27T02:00:00Z"]);
    expect(reasonsOf("2027-01-03T02:00:00Z", all, { weekly: 3 })).toEqual(["weekly 2 of 3 (2026-W53)"]);
  });
  it("keeps the newest of each month that has one: a pause costs no history", () => {
    const all = ["2026-03-01T02:00:00Z", "2026-03-31T02:00:00Z", "2026-09-30T23:59:59Z", "2027-01-04T02:00:00Z"].map((at) => proven(at));
    expect(kept(all, { monthly: 3 })).toEqual(["2027-01-04T02:00:00Z", "2026-09-30T23:59:59Z", "2026-03-31T02:00:00Z"]);
  });
  it("never counts one that was not proven, and removes it when it can no longer be on its way", () => {
    const old = new Date(Date.parse("2027-01-10T12:00:00Z") - unprovenHours * 3_600_000).toISOString();
    const young = new Date(Date.parse(old) + 1).toISOString();
    const all = [proven("2027-01-01T02:00:00Z"), proven(old, { proven: false }), proven(young, { proven: false })];
    const decision = decide(all, { last: 3, daily: 5 });
    expect(decision.remove).toEqual([{ id: old, reason: "not proven within 36 hours" }]);
    expect(decision.keep.map(({ id }) => id)).toEqual([young, "2027-01-01T02:00:00Z"]);
  });
  it("keeps the newest when none is proven, whatever its age", () => {
    const all = [proven("2026-01-01T02:00:00Z", { proven: false }), proven("2026-01-02T02:00:00Z", { proven: false })];
    expect(decide(all, {})).toMatchObject({ keep: [{ id: "2026-01-02T02:00:00Z" }], remove: [{ id: "2026-01-01T02:00:00Z" }] });
  });
  it("keeps what Object Lock holds, until it does not", () => {
    const locked = proven("2026-01-01T02:00:00Z", { lockedUntil: "2027-01-10T12:00:00Z" });
    const all = [locked, proven("2027-01-09T02:00:00Z")];
    expect(reasonsOf(locked.id, all, {}, { now: "2027-01-10T11:59:59Z" })).toEqual(["Object Lock until 2027-01-10T12:00:00Z"]);
    expect(kept(all, {})).toEqual(["2027-01-09T02:00:00Z"]);
  });
  it("keeps what a restore or a drill reads", () => {
    const all = [proven("2026-01-01T02:00:00Z"), proven("2027-01-09T02:00:00Z")];
    expect(reasonsOf("2026-01-01T02:00:00Z", all, {}, { inUse: ["2026-01-01T02:00:00Z"] })).toEqual(["a restore or a drill reads it"]);
  });
  it("has nothing to say of nothing", () => {
    expect(decide([], {})).toEqual({ keep: [], remove: [] });
  });
});

const hours = (from: number) => new Date(Date.UTC(2026, 0, 1) + from * 1_800_000).toISOString();
const history = fc.uniqueArray(fc.integer({ min: 0, max: 20_000 }), { maxLength: 80 }).chain((times) =>
  fc.tuple(
    ...times.map((time) =>
      fc.record({ proven: fc.boolean(), lock: fc.option(fc.integer({ min: 0, max: 20_500 })) }).map(
        ({ proven: isProven, lock }): SnapshotFacts => ({
          id: `s-${time}`,
          takenAt: hours(time),
          proven: isProven,
          ...(lock === null ? {} : { lockedUntil: hours(lock) }),
        }),
      ),
    ),
  ),
);
const anywhere = fc.record({
  snapshots: history as fc.Arbitrary<SnapshotFacts[]>,
  keep: fc.record({
    last: fc.integer({ min: 1, max: 9 }),
    hourly: fc.integer({ min: 0, max: 9 }),
    daily: fc.integer({ min: 0, max: 9 }),
    weekly: fc.integer({ min: 0, max: 9 }),
    monthly: fc.integer({ min: 0, max: 9 }),
  }),
  timeZone: fc.constantFrom("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kolkata"),
  now: fc.integer({ min: 0, max: 20_500 }).map(hours),
  inUse: fc.subarray(["s-1", "s-2", "s-3", "s-5", "s-8", "s-13"]),
});
/** Printed with what failed, so that it can be repeated. */
const seed = 20_260_105;

describe("retention, whatever the history", () => {
  it("never removes the newest proven snapshot, one under lock, or one that is read", () => {
    fc.assert(
      fc.property(anywhere, (given) => {
        const removed = new Set(decideRetention(given).remove.map(({ id }) => id));
        const [newest] = given.snapshots.filter((each) => each.proven).sort((a, b) => b.takenAt.localeCompare(a.takenAt));
        const untouchable = given.snapshots.filter(
          (each) => each === newest || given.inUse.includes(each.id) || (each.lockedUntil ?? "") > given.now,
        );
        expect(untouchable.filter(({ id }) => removed.has(id))).toEqual([]);
      }),
      { seed, numRuns: 500 },
    );
  });
  it("says of every snapshot, once, whether and why it stays or goes", () => {
    fc.assert(
      fc.property(anywhere, (given) => {
        const { keep, remove } = decideRetention(given);
        expect([...keep, ...remove].map(({ id }) => id).sort()).toEqual(given.snapshots.map(({ id }) => id).sort());
        expect(keep.filter(({ reasons }) => reasons.length === 0)).toEqual([]);
      }),
      { seed, numRuns: 200 },
    );
  });
  it("decides the same in any order, and nothing more once it was obeyed", () => {
    fc.assert(
      fc.property(
        anywhere.chain((given) => fc.tuple(fc.constant(given), fc.shuffledSubarray(given.snapshots, { minLength: given.snapshots.length }))),
        ([given, shuffled]) => {
          const decision = decideRetention(given);
          expect(decideRetention({ ...given, snapshots: shuffled })).toEqual(decision);
          const left = given.snapshots.filter(({ id }) => decision.keep.some((each) => each.id === id));
          expect(decideRetention({ ...given, snapshots: left })).toEqual({ keep: decision.keep, remove: [] });
        },
      ),
      { seed, numRuns: 200 },
    );
  });
  it("never keeps fewer than a tier asks for while there are so many periods, and asks for each by name", () => {
    fc.assert(
      fc.property(anywhere, (given) => {
        const { keep } = decideRetention(given);
        const provenCount = given.snapshots.filter((each) => each.proven).length;
        const last = keep.filter(({ reasons }) => reasons.some((reason) => reason.startsWith("last "))).length;
        expect(last).toBe(Math.min(given.keep.last, provenCount));
        for (const tier of ["hourly", "daily", "weekly", "monthly"] as const) {
          const asked = keep.flatMap(({ reasons }) => reasons.filter((reason) => reason.startsWith(`${tier} `)));
          expect(asked.length).toBeLessThanOrEqual(given.keep[tier]);
          expect(new Set(asked).size).toBe(asked.length);
          if (given.keep[tier] > 0 && provenCount > 0) expect(asked.length).toBeGreaterThan(0);
        }
      }),
      { seed, numRuns: 200 },
    );
  });
  it("keeps as much of the past when it is asked every night as when it is asked once", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 4000 }), { minLength: 1, maxLength: 120 }), anywhere, (times, { keep, timeZone }) => {
        const all = times.sort((a, b) => a - b).map((time): SnapshotFacts => ({ id: `s-${time}`, takenAt: hours(time), proven: true }));
        const ask = (snapshots: readonly SnapshotFacts[]) => decideRetention({ snapshots, keep, timeZone, inUse: [], now: hours(9000) });
        let left: SnapshotFacts[] = [];
        for (const snapshot of all) {
          const { keep: stays } = ask([...left, snapshot]);
          left = [...left, snapshot].filter(({ id }) => stays.some((each) => each.id === id));
        }
        expect(ask(left).keep).toEqual(ask(all).keep);
      }),
      { seed, numRuns: 200 },
    );
  });
});
