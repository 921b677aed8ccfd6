/**
 * Wall clocks: which instant a time of day means in a time zone, and the other way round.
 *
 * Zones change their offset twice a year and by law, so nothing is computed here: the runtime's own copy of the IANA time zone database is asked.
 * A local time is written as the milliseconds that UTC would need to show the same digits.
 */

const dayMs = 86_400_000;
/** Since 1973 every zone has changed its offset on a quarter of an hour, so one answer holds for all of it. */
const quarterMs = 900_000;
const mostKept = 20_000;
const formats = new Map<string, Intl.DateTimeFormat>();
/** Asking the database takes longer than everything else here, and a fleet asks it the same again and again. */
const kept = new Map<string, number>();

/** Milliseconds that the zone is ahead of UTC at an instant. @throws RangeError when there is no such zone */
export function offsetAt(atMs: number, timeZone: string): number {
  if (timeZone === "UTC") return 0;
  const quarter = Math.floor(atMs / quarterMs);
  const key = `${timeZone} ${quarter}`;
  const known = kept.get(key);
  if (known !== undefined) return known;
  if (kept.size >= mostKept) kept.clear();
  const offset = readOffset(quarter * quarterMs, timeZone);
  kept.set(key, offset);
  return offset;
}

function readOffset(atMs: number, timeZone: string): number {
  let format = formats.get(timeZone);
  if (format === undefined) {
    const numeric = "numeric";
    const shown = { year: numeric, month: numeric, day: numeric, hour: numeric, minute: numeric, second: numeric } as const;
    format = new Intl.DateTimeFormat("en-US", { timeZone, hourCycle: "h23", calendar: "gregory", numberingSystem: "latn", ...shown });
    formats.set(timeZone, format);
  }
  const part = Object.fromEntries(format.formatToParts(atMs).map(({ type, value }) => [type, Number(value)]));
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = part;
  return Date.UTC(year, month - 1, day, hour, minute, second) - atMs;
}

export function localAt(atMs: number, timeZone: string): number {
  return atMs + offsetAt(atMs, timeZone);
}

/**
 * The instant at which clocks in the zone show a local time. Where they show it twice, the first; where they leap over it, the instant of the leap, which
 * is the next one that they show at all.
 */
export function instantOf(localMs: number, timeZone: string): number {
  // No zone is further from UTC than 14 hours, so a day on either side spans every instant that could be meant.
  const before = offsetAt(localMs - dayMs, timeZone);
  const after = offsetAt(localMs + dayMs, timeZone);
  if (before === after) return localMs - before;
  const shown = [localMs - before, localMs - after].filter((atMs) => localAt(atMs, timeZone) === localMs);
  if (shown.length > 0) return Math.min(...shown);
  let still = localMs - after;
  let leapt = localMs - before;
  while (leapt - still > 1) {
    const middle = Math.floor((still + leapt) / 2);
    if (localAt(middle, timeZone) > localMs) leapt = middle;
    else still = middle;
  }
  return leapt;
}
