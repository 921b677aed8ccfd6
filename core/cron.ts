/**
 * Cron expressions of five fields: minute, hour, day of month, month, day of week; names of months and days, lists, ranges and steps.
 */
import { instantOf, localAt } from "./time-zones.js";

interface Field {
  readonly name: string;
  readonly least: number;
  readonly most: number;
  readonly names: readonly string[];
}

const months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const fields: readonly Field[] = [
  { name: "minute", least: 0, most: 59, names: [] },
  { name: "hour", least: 0, most: 23, names: [] },
  { name: "day of month", least: 1, most: 31, names: [] },
  { name: "month", least: 1, most: 12, names: months },
  // 7 is Sunday too, as in most crons.
  { name: "day of week", least: 0, most: 7, names: days },
];
const longestMonth = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/** Why a text is no schedule, or undefined when it is one that comes at least once. */
export function cronFault(text: string): string | undefined {
  const parts = text.trim().split(/\s+/);
  if (parts.length !== fields.length || text.trim() === "") {
    const found = text.trim() === "" ? 0 : parts.length;
    return `must have five fields (minute, hour, day of month, month, day of week), such as "0 2 * * *"; found ${found}`;
  }
  const values: (number[] | undefined)[] = [];
  for (const [index, field] of fields.entries()) {
    const read = readField(parts[index] as string, field);
    if (typeof read === "string") return read;
    values.push(read);
  }
  const [, , dates, inMonths, weekdays] = values as [number[], number[], number[], number[], number[]];
  const comes = parts[4] !== "*" ? weekdays.length > 0 : inMonths.some((month) => dates.some((date) => date <= (longestMonth[month - 1] as number)));
  return comes ? undefined : `never comes: no ${inMonths.map((month) => months[month - 1]).join(" or ")} has a day ${dates.join(" or ")}`;
}

/** Every value a field allows, or what is wrong with it. */
function readField(text: string, field: Field): number[] | string {
  const values = new Set<number>();
  for (const item of text.split(",")) {
    const [range, step, ...rest] = item.split("/");
    const every = step === undefined ? 1 : number(step, { ...field, least: 1, names: [] });
    const [from, to, ...more] = range === "*" ? [String(field.least), String(field.most)] : (range ?? "").split("-");
    const first = number(from ?? "", field);
    // `5/10` without a range begins at 5 and goes on to the end.
    const last = to === undefined ? (step === undefined ? first : field.most) : number(to, field);
    if (every === undefined || first === undefined || last === undefined || rest.length + more.length > 0) {
      return `is wrong in its ${field.name} "${text}"; allowed are ${field.least} to ${field.most}${field.names.length > 0 ? `, ${field.names[0]} to ${field.names.at(-1)}` : ""}, lists, ranges and steps`;
    }
    if (first > last) return `runs backwards in its ${field.name} "${item}"`;
    for (let value = first; value <= last; value += every) values.add(value);
  }
  return [...values].sort((a, b) => a - b);
}

function number(text: string, { least, most, names }: Field): number | undefined {
  const named = names.indexOf(text.toLowerCase());
  const value = named >= 0 ? named + least : /^\d{1,2}$/.test(text) ? Number(text) : Number.NaN;
  return value >= least && value <= most ? value : undefined;
}

/** A schedule in a time zone. Made of a text that `cronFault` finds no fault in. */
export interface Schedule {
  readonly timeZone: string;
  readonly minutes: readonly number[];
  readonly hours: readonly number[];
  readonly isDay: (day: Date) => boolean;
}

/** @throws when the text is no schedule: a cluster file that holds one is not admitted */
export function readSchedule(text: string, timeZone: string): Schedule {
  const fault = cronFault(text);
  if (fault !== undefined) throw new Error(`The schedule "${text}" ${fault}`);
  const parts = text.trim().split(/\s+/);
  const [minutes, hours, dates, inMonths, weekdays] = fields.map((field, index) => readField(parts[index] as string, field)) as number[][] as [
    number[],
    number[],
    number[],
    number[],
    number[],
  ];
  const isDate = (day: Date) => dates.includes(day.getUTCDate());
  const isWeekday = (day: Date) => weekdays.some((weekday) => weekday % 7 === day.getUTCDay());
  // Where both are given a day of either comes; where one is *, the other decides (POSIX, crontab).
  const isAny = parts[2] !== "*" && parts[4] !== "*";
  const isMatch = (day: Date) => (isAny ? isDate(day) || isWeekday(day) : isDate(day) && isWeekday(day));
  return { timeZone, minutes, hours, isDay: (day) => inMonths.includes(day.getUTCMonth() + 1) && isMatch(day) };
}

const dayMs = 86_400_000;
/** The 29th of February stays away for eight years around 2100, which is no leap year. */
const horizonDays = 9 * 366;

/**
 * The newest time of the schedule that is not after an instant, in milliseconds since the epoch. Every local time comes once: one that clocks leap over
 * comes at the leap, one that they show twice the first time.
 */
export function latestTime(schedule: Schedule, atMs: number): number | undefined {
  return search(schedule, atMs, -1, (timeMs) => timeMs <= atMs);
}

/** The first time of the schedule after an instant. */
export function nextTime(schedule: Schedule, atMs: number): number | undefined {
  return search(schedule, atMs, 1, (timeMs) => timeMs > atMs);
}

function search(schedule: Schedule, atMs: number, step: 1 | -1, isFound: (timeMs: number) => boolean): number | undefined {
  const { timeZone, minutes, hours, isDay } = schedule;
  const inOrder = (values: readonly number[]) => (step === 1 ? values : [...values].reverse());
  const today = Math.floor(localAt(atMs, timeZone) / dayMs);
  // A leap may put a time of the day before after this instant, so the day behind is looked at too.
  for (let day = today - step; Math.abs(day - today) < horizonDays; day += step) {
    if (!isDay(new Date(day * dayMs))) continue;
    for (const hour of inOrder(hours)) {
      for (const minute of inOrder(minutes)) {
        const localMs = day * dayMs + hour * 3_600_000 + minute * 60_000;
        // Far from the instant no zone's offset can matter.
        if (!isFound(localMs + step * dayMs)) continue;
        const timeMs = instantOf(localMs, timeZone);
        if (isFound(timeMs)) return timeMs;
      }
    }
  }
  return undefined;
}
