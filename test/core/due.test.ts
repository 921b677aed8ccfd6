import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  backupsPerSweep,
  type Dated,
  type Due,
  decideDue,
  decideTry,
  decideWave,
  fleetLimits,
  freshness,
  graceSeconds,
  requestIdOf,
  sweepSeconds,
} from "../../core/due.js";
import { clusterFile } from "./sample.js";

const utc = (iso: string) => Date.parse(iso);
const iso = (ms: number) => new Date(ms).toISOString().slice(0, 16);
const proven = (at: string) => ({ newestProven: { id: "20260105T020000Z-00000000", at, revision: 1, bytes: 1 } });
const drilled = (at: string, isProven = true) => ({ lastDrill: { at, snapshot: "", proven: isProven, detail: "" } });

function cluster(given: Partial<Dated> = {}, backup: Readonly<Record<string, unknown>> = {}): Dated {
  const spoil = Object.fromEntries(Object.entries(backup).map(([field, value]) => [`spec.backup.${field}`, value]));
  const ready = { name: "prod", uid: "u-1", phase: "ready", readyAt: "2026-01-01T10:00:00.000Z", wanted: clusterFile(spoil) } as const;
  return { ...ready, ...given };
}
/** What one of a fleet of so many is due for, as kind and time of the schedule. */
function dues(record: Dated, at: string, clusters = 1): string[] {
  const decision = decideDue(record, false, clusters, utc(at));
  return decision.kind === "due" ? decision.due.map(({ kind, dueAtMs }) => `${kind} ${iso(dueAtMs)}`) : [];
}
function due(record: Dated, at: string): Due {
  const decision = decideDue(record, false, 1, utc(at));
  if (decision.kind !== "due") throw new Error(decision.reason);
  return decision.due[0] as Due;
}
const noDrills = { drill: "never" };

describe("a cluster is due", () => {
  it("for a backup from the minute of its schedule until a snapshot is proven", () => {
    const served = cluster(proven("2026-01-04T02:01:00.000Z"), noDrills);
    expect(dues(served, "2026-01-05T01:59:59Z")).toEqual([]);
    expect(dues(served, "2026-01-05T02:00:01Z")).toEqual(["backup 2026-01-05T02:00"]);
    expect(dues(served, "2026-01-05T09:00:00Z")).toEqual(["backup 2026-01-05T02:00"]);
    expect(dues(cluster(proven("2026-01-05T02:01:00.000Z"), noDrills), "2026-01-05T09:00:00Z")).toEqual([]);
  });
  it("in its own time zone, and at the leap where clocks leap over its time", () => {
    const berlin = { ...noDrills, timeZone: "Europe/Berlin" };
    const served = cluster(proven("2026-03-28T01:01:00.000Z"), berlin);
    expect(dues(served, "2026-03-29T00:59:59Z")).toEqual([]);
    expect(dues(served, "2026-03-29T01:00:01Z")).toEqual(["backup 2026-03-29T01:00"]);
    const autumn = cluster(proven("2026-10-25T00:31:00.000Z"), { ...berlin, schedule: "30 2 * * *" });
    expect(dues(autumn, "2026-10-25T01:31:00Z")).toEqual([]);
  });
  it("once for what was missed, however many times that were", () => {
    expect(dues(cluster(proven("2025-11-05T02:01:00.000Z"), noDrills), "2026-01-05T01:00:00Z")).toEqual(["backup 2026-01-04T02:00"]);
  });
  it("at once when it has no proven snapshot", () => {
    expect(dues(cluster({}, noDrills), "2026-01-05T01:00:00Z")).toEqual(["backup 2026-01-04T02:00"]);
  });
  it("for a drill every night, or once a week on a day of its own, and never where the file says so", () => {
    const at = proven("2026-01-31T02:01:00.000Z");
    expect(dues(cluster({ ...at, ...drilled("2026-01-30T03:10:00.000Z") }, { drill: "nightly" }), "2026-01-31T03:00:01Z")).toEqual([
      "drill 2026-01-31T03:00",
    ]);
    expect(dues(cluster({ ...at, ...drilled("2026-01-31T03:10:00.000Z") }, { drill: "nightly" }), "2026-02-01T01:00:00Z")).toEqual([]);
    expect(dues(cluster(at, noDrills), "2026-01-31T03:00:00Z")).toEqual([]);
    const days = Array.from({ length: 60 }, (_, index) => {
      const found = dues(cluster({ ...at, uid: `u-${index}` }, { drill: "weekly" }), "2026-01-31T12:00:00Z");
      expect(found).toEqual([expect.stringMatching(/^drill 2026-01-(25|26|27|28|29|30|31)T03:00$/)]);
      return found[0];
    });
    expect(new Set(days).size).toBe(7);
  });
  it("for no drill before there is a snapshot to restore, nor in the first night after it was made", () => {
    expect(dues(cluster({}, { drill: "nightly", schedule: "0 2 1 1 *" }), "2026-01-05T03:00:00Z")).toEqual(["backup 2026-01-01T02:00"]);
    const young = cluster({ ...proven("2026-01-05T04:00:00.000Z"), readyAt: "2026-01-05T03:59:00.000Z" }, { drill: "nightly" });
    expect(dues(young, "2026-01-05T12:00:00Z")).toEqual([]);
    expect(dues(young, "2026-01-06T03:00:01Z")).toEqual(["backup 2026-01-06T02:00", "drill 2026-01-06T03:00"]);
  });
  it("for a backup before a drill, unless the drill has waited for hours", () => {
    const both = (at: string, schedule: string) =>
      dues(cluster({ ...proven("2026-01-01T00:00:00.000Z"), uid: "u-4" }, { drill: "nightly", schedule }), at);
    expect(both("2026-01-05T05:00:01Z", "0 5 * * *")).toEqual(["backup 2026-01-05T05:00", "drill 2026-01-05T03:00"]);
    expect(both("2026-01-05T10:00:01Z", "0 10 * * *")).toEqual(["drill 2026-01-05T03:00", "backup 2026-01-05T10:00"]);
  });
  it("for nothing while it is not ready or an operation is under way, and says so", () => {
    for (const phase of ["creating", "failed", "restoring", "deleting"] as const) {
      expect(decideDue(cluster({ phase }), false, 1, utc("2026-01-05T03:00Z"))).toEqual({ kind: "rests", reason: `prod is ${phase}` });
    }
    expect(decideDue(cluster(), true, 1, utc("2026-01-05T03:00Z"))).toMatchObject({ reason: "prod is being changed by an operation" });
  });
});

describe("a fleet's starts", () => {
  const fleet = (count: number) => Array.from({ length: count }, (_, index) => cluster({ name: `c${index}`, uid: `uid-${index}` }, noDrills));
  /** Minutes after its time that each begins. */
  const turns = (count: number, schedule = "0 2 * * *", at = "2026-01-05T12:00:00Z") =>
    fleet(count).map((each) => {
      const record = { ...each, wanted: clusterFile({ "spec.backup.schedule": schedule, "spec.backup.drill": "never" }) };
      const decision = decideDue(record, false, count, utc(at));
      const [found] = decision.kind === "due" ? decision.due : [];
      return ((found as Due).startsAtMs - (found as Due).dueAtMs) / 60_000;
    });

  it("of as many clusters as one look can start keep to the minute", () => {
    expect(turns(1)).toEqual([0]);
    expect(new Set(turns(backupsPerSweep))).toEqual(new Set([0]));
  });
  it("of more are spread evenly over the looks they need", () => {
    const minutes = turns(4 * backupsPerSweep);
    for (const minute of [0, 5, 10, 15]) {
      const within = minutes.filter((each) => each === minute).length;
      expect(within).toBeGreaterThan(1380);
      expect(within).toBeLessThan(1620);
    }
    expect(minutes.every((minute) => [0, 5, 10, 15].includes(minute))).toBe(true);
  });
  it("are never spread over more than half an hour, nor over more than a quarter of the time to the next", () => {
    expect(Math.max(...turns(10_000))).toBeLessThan(30);
    expect(Math.max(...turns(10_000, "*/48 * * * *", "2026-01-05T12:20:00Z"))).toBe(5);
  });
  it("are the same at every look", () => expect(turns(50)).toEqual(turns(50)));
});

describe("a time that is due", () => {
  const [at, record] = ["2026-01-05T03:00:00.000Z", cluster(proven("2026-01-04T02:01:00.000Z"), noDrills)];
  const asked = due(record, at);
  const tried = (...statuses: string[]) =>
    statuses.map((status) => (status === "none" ? undefined : { status: status.split("@")[0], endedAt: status.split("@")[1] })) as Parameters<
      typeof decideTry
    >[1];
  const decide = (...statuses: string[]) => decideTry(asked, tried(...statuses), utc(at));

  it("is asked for under an id of cluster, kind, time and number, which the API takes", () => {
    expect(requestIdOf(asked, 1)).toBe("backup-20260105T0200Z-a24a7f55-1");
    const others = [
      requestIdOf(asked, 2),
      requestIdOf({ ...asked, kind: "drill" }, 1),
      requestIdOf({ ...asked, uid: "u-2" }, 1),
      requestIdOf({ ...asked, dueAtMs: asked.dueAtMs + 60_000 }, 1),
    ];
    expect(new Set([...others, requestIdOf(asked, 1)]).size).toBe(5);
    for (const id of others) expect(id).toMatch(/^[A-Za-z0-9_-]{8,64}$/);
  });
  it("is looked for before it is tried", () => {
    expect(decide()).toEqual({ kind: "look", number: 1 });
    expect(decide("none")).toEqual({ kind: "start", number: 1 });
  });
  it("is asked for again under the same id when it was accepted and nobody works on it", () => {
    expect(decide("accepted")).toEqual({ kind: "start", number: 1 });
    expect(decide("failed@2026-01-05T02:10:00Z", "running")).toEqual({ kind: "start", number: 2 });
  });
  it("is tried three times, half an hour apart, and then waits for a person or the next time", () => {
    expect(decide("failed@2026-01-05T02:31:00Z")).toMatchObject({ kind: "rests", failed: 1 });
    expect(decide("failed@2026-01-05T02:29:00Z")).toEqual({ kind: "look", number: 2 });
    expect(decide("failed@2026-01-05T02:10:00Z", "failed@2026-01-05T02:50:00Z")).toMatchObject({ kind: "rests", failed: 2 });
    const gone = ["failed@2026-01-05T02:01:00Z", "failed@2026-01-05T02:10:00Z", "failed@2026-01-05T02:11:00Z"];
    expect(decide(...gone)).toEqual({ kind: "rests", failed: 3, reason: "every try of prod has failed: a person has to look" });
  });
  it("rests when a try has succeeded", () => expect(decide("succeeded@2026-01-05T02:50:00Z")).toMatchObject({ kind: "rests", failed: 0 }));
});

describe("a wave", () => {
  const made = fc.record({ kind: fc.constantFrom("backup" as const, "drill" as const), startsAtMs: fc.integer({ min: 0, max: 10_000 }) });
  const many = fc
    .array(made, { maxLength: 3000 })
    .map((each) => each.map((one, index): Due => ({ ...one, cluster: `c${index}`, uid: `u${index}`, dueAtMs: 0 })));

  it("is 1,500 backups at most, which half of an account's commands bear", () => {
    expect(backupsPerSweep).toBe(1500);
    expect(backupsPerSweep * fleetLimits.commandsPerBackup).toBeLessThanOrEqual(fleetLimits.commandsPerSecond * fleetLimits.share * sweepSeconds);
  });
  it("takes those that waited longest, within the limits, whatever the order they come in", () => {
    fc.assert(
      fc.property(many, fc.integer({ min: 0, max: 80 }), (all, underWay) => {
        const wave = decideWave(all, underWay);
        const drills = wave.filter(({ kind }) => kind === "drill");
        expect(wave.length - drills.length).toBeLessThanOrEqual(backupsPerSweep);
        expect(drills.length).toBeLessThanOrEqual(Math.max(0, fleetLimits.drillsAtOnce - underWay));
        const taken = new Set(wave.map(({ uid }) => uid));
        for (const kind of ["backup", "drill"] as const) {
          const latest = Math.max(-1, ...wave.filter((each) => each.kind === kind).map(({ startsAtMs }) => startsAtMs));
          const room = kind === "backup" ? backupsPerSweep : Math.max(0, fleetLimits.drillsAtOnce - underWay);
          const left = all.filter((each) => each.kind === kind && !taken.has(each.uid));
          expect(left.length).toBe(Math.max(0, all.filter((each) => each.kind === kind).length - room));
          for (const each of left) expect(each.startsAtMs).toBeGreaterThanOrEqual(latest);
        }
        expect(decideWave([...all].reverse(), underWay)).toEqual(wave);
      }),
      { seed: 61, numRuns: 100 },
    );
  });
});

describe("every scheduled time, swept every five minutes for weeks, with sweeps doubled and backups that take a while and fail", () => {
  const zones = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"];
  const life = fc.record({
    zone: fc.constantFrom(...zones),
    schedule: fc.constantFrom("0 2 * * *", "30 2 * * *", "0 */6 * * *", "15 1 * * mon,thu"),
    start: fc.constantFrom("2026-03-20T00:00:00Z", "2026-10-18T00:00:00Z"),
    clusters: fc.constantFrom(1, 300, 5000),
    fails: fc.array(fc.boolean(), { minLength: 1, maxLength: 7 }),
    minutes: fc.integer({ min: 1, max: 50 }),
  });

  it("is asked for under one id a try, and served once", () => {
    fc.assert(
      fc.property(life, ({ zone, schedule, start, clusters, fails, minutes }) => {
        let record = cluster({ readyAt: new Date(utc(start)).toISOString() }, { schedule, timeZone: zone, drill: "never" });
        const operations = new Map<string, { status: "running" | "succeeded" | "failed"; endedAt: string; endsMs: number; dueAtMs: number }>();
        const served = new Map<number, number>();
        let started = 0;
        for (let nowMs = utc(start); nowMs < utc(start) + 20 * 86_400_000; nowMs += sweepSeconds * 1000) {
          for (const operation of operations.values()) {
            if (operation.status !== "running" || operation.endsMs > nowMs) continue;
            operation.endedAt = new Date(operation.endsMs).toISOString();
            operation.status = fails[started % fails.length] === true ? "failed" : "succeeded";
            if (operation.status === "failed") continue;
            served.set(operation.dueAtMs, (served.get(operation.dueAtMs) ?? 0) + 1);
            record = { ...record, ...proven(operation.endedAt) };
          }
          const isBusy = [...operations.values()].some(({ status }) => status === "running");
          for (const sweep of [1, 2]) {
            const decision = decideDue(record, isBusy, clusters, nowMs);
            if (decision.kind === "rests") continue;
            const [asked] = decision.due as [Due];
            const tries: ReturnType<typeof operations.get>[] = [];
            let answer = decideTry(asked, tries, nowMs);
            while (answer.kind === "look") {
              tries.push(operations.get(requestIdOf(asked, answer.number)));
              answer = decideTry(asked, tries, nowMs);
            }
            if (answer.kind !== "start") continue;
            const id = requestIdOf(asked, answer.number);
            // The second sweep of an instant asks for what the first has started, and is answered with it.
            if (sweep === 1) expect(operations.has(id)).toBe(false);
            if (operations.has(id)) continue;
            started++;
            operations.set(id, { status: "running", endedAt: "", endsMs: nowMs + minutes * 60_000, dueAtMs: asked.dueAtMs });
          }
        }
        for (const times of served.values()) expect(times).toBe(1);
        if (!fails.includes(true) && clusters === 1) {
          // Every time was served: at the first look after it, and the first one made up for.
          expect(served.size).toBe(operations.size);
          expect(freshness("backup", record, utc(start) + 20 * 86_400_000)?.lateSeconds).toBe(0);
        }
      }),
      { seed: 62, numRuns: 10 },
    );
  });
});

describe("what protects a cluster", () => {
  const dayLater = (seconds: number) => utc("2026-01-05T02:00:00Z") + (graceSeconds.backup + seconds) * 1000;

  it("is as old as its newest proven snapshot, and late when a scheduled time went unserved for two hours", () => {
    const record = cluster(proven("2026-01-04T02:00:30.000Z"));
    expect(freshness("backup", record, dayLater(0))).toEqual({ ageSeconds: 86_400 + 7200 - 30, lateSeconds: 0 });
    expect(freshness("backup", record, dayLater(60))?.lateSeconds).toBe(60);
    expect(freshness("backup", cluster(proven("2026-01-05T02:30:00.000Z")), dayLater(60))?.lateSeconds).toBe(0);
  });
  it("is late too when there has never been one", () => {
    expect(freshness("backup", cluster(), utc("2026-01-01T20:00Z"))).toEqual({ ageSeconds: undefined, lateSeconds: 0 });
    expect(freshness("backup", cluster(), utc("2026-01-02T05:00Z"))).toEqual({ ageSeconds: undefined, lateSeconds: 3600 });
  });
  it("still counts while the cluster has failed or is restored, and not once it is deleted or before it was ready", () => {
    const at = utc("2026-02-01T00:00Z");
    expect(freshness("backup", cluster({ phase: "failed" }), at)?.lateSeconds).toBeGreaterThan(0);
    expect(freshness("backup", cluster({ phase: "restoring" }), at)?.lateSeconds).toBeGreaterThan(0);
    expect(freshness("backup", cluster({ phase: "deleting" }), at)).toBeUndefined();
    const { readyAt: _, ...unready } = cluster();
    expect(freshness("backup", unready, at)).toBeUndefined();
  });
  it("was last drilled so long ago; a drill that found something else counts as late at once", () => {
    const nightly = { drill: "nightly" };
    const at = utc("2026-01-06T03:00:00Z") + graceSeconds.drill * 1000;
    expect(freshness("drill", cluster(drilled("2026-01-05T03:10:00.000Z"), nightly), at)).toEqual({ ageSeconds: 29 * 3600 + 3000, lateSeconds: 0 });
    expect(freshness("drill", cluster(drilled("2026-01-05T03:10:00.000Z"), nightly), at + 1000)?.lateSeconds).toBe(1);
    expect(freshness("drill", cluster(drilled("2026-01-06T03:10:00.000Z", false), nightly), utc("2026-01-06T03:11:00Z"))?.lateSeconds).toBe(60);
    expect(freshness("drill", cluster({}, noDrills), at)).toBeUndefined();
  });
});
