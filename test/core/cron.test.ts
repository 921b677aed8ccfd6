import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cronFault, latestTime, nextTime, readSchedule } from "../../core/cron.js";
import { instantOf, localAt } from "../../core/time-zones.js";

describe("a schedule", () => {
  it.each([
    "0 2 * * *",
    "*/15 * * * *",
    "0 0 1 1 *",
    "0 2 * * sun",
    "0 2 * * 7",
    "5,35 8-18/2 * jan-jun mon-fri",
    "0 0 29 2 *",
    "59 23 31 12 6",
    "0 2 31 feb mon",
    "5/10 * * * *",
    "  0  2 * * *  ",
  ])("may be %j", (text) => {
    expect(cronFault(text)).toBeUndefined();
  });

  it.each([
    ["", /five fields.*found 0/],
    ["@daily", /five fields.*found 1/],
    ["0 2 * *", /found 4/],
    ["60 * * * *", /minute "60"; allowed are 0 to 59/],
    ["* 24 * * *", /hour "24"/],
    ["* * 0 * *", /day of month "0"; allowed are 1 to 31/],
    ["* * * 13 *", /month "13"; allowed are 1 to 12, jan to dec/],
    ["* * * * 8", /day of week "8"; allowed are 0 to 7, sun to sat/],
    ["* * * * monday", /day of week "monday"/],
    ["*/0 * * * *", /minute "\*\/0"/],
    ["1-2-3 * * * *", /minute/],
    ["1/2/3 * * * *", /minute/],
    [", * * * *", /minute/],
    ["-5 * * * *", /minute/],
    ["30-10 * * * *", /runs backwards in its minute "30-10"/],
    ["0 0 30 2 *", /never comes: no feb has a day 30/],
    ["0 0 31 4,6,9,11 *", /never comes/],
  ])("cannot be %j", (text, message) => {
    expect(cronFault(text)).toMatch(message);
  });

  it("may be any five values within their fields", () => {
    const within = fc.tuple(
      fc.integer({ min: 0, max: 59 }),
      fc.integer({ min: 0, max: 23 }),
      fc.integer({ min: 1, max: 28 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 0, max: 7 }),
    );
    fc.assert(
      fc.property(within, (values) => {
        expect(cronFault(values.join(" "))).toBeUndefined();
      }),
      { seed: 51 },
    );
  });
});

describe("the times of a schedule", () => {
  const utc = (iso: string) => Date.parse(iso);
  const iso = (ms: number | undefined) => (ms === undefined ? undefined : new Date(ms).toISOString().slice(0, 16));
  /** Every time after one instant, up to and with another. */
  function times(text: string, zone: string, from: string, to: string): string[] {
    const schedule = readSchedule(text, zone);
    const found: string[] = [];
    for (let at = nextTime(schedule, utc(from)); at !== undefined && at <= utc(to); at = nextTime(schedule, at)) found.push(iso(at) as string);
    return found;
  }

  it.each([
    ["0 2 * * *", "UTC", "2026-01-05T02:00Z", "2026-01-06T02:00"],
    ["0 2 * * *", "Europe/Berlin", "2026-01-05T00:59Z", "2026-01-05T01:00"],
    ["0 2 * * *", "Asia/Kathmandu", "2026-01-05T00:00Z", "2026-01-05T20:15"],
    ["0 2 * * *", "Pacific/Kiritimati", "2026-01-05T11:59Z", "2026-01-05T12:00"],
    ["30 1 * * sun", "America/New_York", "2026-01-05T00:00Z", "2026-01-11T06:30"],
    ["0 0 1 1 *", "UTC", "2026-01-05T00:00Z", "2027-01-01T00:00"],
    ["0 0 29 2 *", "UTC", "2096-03-01T00:00Z", "2104-02-29T00:00"],
    ["0 2 7 * mon", "UTC", "2026-01-05T03:00Z", "2026-01-07T02:00"],
    ["0 2 * * 7", "UTC", "2026-01-05T03:00Z", "2026-01-11T02:00"],
  ])("%s in %s after %s: %s", (text, zone, from, expected) => {
    const schedule = readSchedule(text, zone);
    expect(iso(nextTime(schedule, utc(from)))).toBe(expected);
    expect(iso(latestTime(schedule, utc(`${expected}Z`)))).toBe(expected);
  });

  it.each([
    // Clocks leap from 2:00 to 3:00 at 01:00Z: what lies between comes once, at the leap.
    ["0 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "2026-03-30T12:00Z", ["2026-03-29T01:00", "2026-03-30T00:00"]],
    ["15,45 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "2026-03-29T12:00Z", ["2026-03-29T01:00"]],
    [
      "*/30 1-3 * * *",
      "Europe/Berlin",
      "2026-03-28T12:00Z",
      "2026-03-29T12:00Z",
      ["2026-03-29T00:00", "2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"],
    ],
    // They show 2:00 to 2:59 twice: a time comes at the first.
    ["30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", "2026-10-26T12:00Z", ["2026-10-25T00:30", "2026-10-26T01:30"]],
    ["30 1 * * *", "America/New_York", "2026-10-31T12:00Z", "2026-11-02T12:00Z", ["2026-11-01T05:30", "2026-11-02T06:30"]],
    ["30 2 * * *", "America/New_York", "2026-03-07T12:00Z", "2026-03-09T12:00Z", ["2026-03-08T07:00", "2026-03-09T06:30"]],
    // Half an hour's leap, and one at midnight.
    ["15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00Z", "2026-10-04T12:00Z", ["2026-10-03T15:30"]],
    ["0 0 * * *", "Africa/Cairo", "2026-04-23T00:00Z", "2026-04-24T12:00Z", ["2026-04-23T22:00"]],
    // Samoa had no 30th of December 2011.
    [
      "0 12 * * *",
      "Pacific/Apia",
      "2011-12-29T00:00Z",
      "2012-01-01T00:00Z",
      ["2011-12-29T22:00", "2011-12-30T10:00", "2011-12-30T22:00", "2011-12-31T22:00"],
    ],
  ])("%s in %s, where the clocks change after %s", (text, zone, from, to, expected) => {
    expect(times(text, zone, from, to)).toEqual(expected);
  });

  const zones = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Asia/Tehran",
  ];
  const schedules = ["0 2 * * *", "30 1 * * *", "*/20 * * * *", "15 3 * * sun", "0 0 1 * *", "45 2 13 * fri", "0 */6 * * *"];
  const anywhere = fc.record({
    zone: fc.constantFrom(...zones),
    text: fc.constantFrom(...schedules),
    at: fc.integer({ min: utc("2010-01-01T00:00Z") / 1000, max: utc("2040-01-01T00:00Z") / 1000 }),
  });

  it("lie on either side of every instant, with none between", () => {
    fc.assert(
      fc.property(anywhere, ({ zone, text, at }) => {
        const schedule = readSchedule(text, zone);
        const latest = latestTime(schedule, at * 1000) as number;
        const next = nextTime(schedule, at * 1000) as number;
        expect(latest).toBeLessThanOrEqual(at * 1000);
        expect(next).toBeGreaterThan(at * 1000);
        expect(nextTime(schedule, latest)).toBe(next);
        expect(latestTime(schedule, next - 1)).toBe(latest);
        expect(latestTime(schedule, next)).toBe(next);
      }),
      { seed: 52, numRuns: 400 },
    );
  });
  it("come once for every local day, whatever the clocks do", () => {
    fc.assert(
      fc.property(anywhere, fc.integer({ min: 0, max: 1439 }), ({ zone, at }, minute) => {
        const schedule = readSchedule(`${minute % 60} ${Math.floor(minute / 60)} * * *`, zone);
        const first = nextTime(schedule, at * 1000) as number;
        let count = 0;
        let last = first;
        for (; count < 30; count++) last = nextTime(schedule, last) as number;
        // Thirty local days later, give or take what the clocks were moved; Samoa's lost day counts as a day.
        expect(Math.abs(last - first - 30 * 86_400_000)).toBeLessThanOrEqual(zone === "Pacific/Apia" ? 86_400_000 : 2 * 3_600_000);
      }),
      { seed: 53, numRuns: 200 },
    );
  });
  it("show their local time, unless the clocks leap over it", () => {
    fc.assert(
      fc.property(anywhere, ({ zone, at }) => {
        const local = localAt(at * 1000, zone);
        const instant = instantOf(local, zone);
        expect(localAt(instant, zone)).toBe(local);
        expect(instant).toBeLessThanOrEqual(at * 1000);
      }),
      { seed: 54, numRuns: 400 },
    );
  });
  it("cannot be had of a text that is no schedule", () => {
    expect(() => readSchedule("0 25 * * *", "UTC")).toThrow(/The schedule "0 25 \* \* \*" is wrong in its hour/);
  });
});
