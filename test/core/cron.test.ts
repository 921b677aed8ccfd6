import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cronFault } from "../../core/cron.js";

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
