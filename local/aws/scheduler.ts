/**
 * Schedules: `rate`, `cron` and `at` expressions as EventBridge reads them, and EventBridge Scheduler with the schedules of the template.
 *
 * A schedule is a daemon timer: it does not keep the world awake, but fires when time passes it.
 */
import type { Clock, Service, Timer } from "../kernel/contract.js";
import { Unmodelled } from "../kernel/contract.js";
import type { Template } from "../kernel/template.js";
import { type DeliveringWorld, deliver, requireTarget } from "./deliveries.js";
import { uuid } from "./queues.js";

export interface Schedule {
  /** The first instant after `afterMs`; undefined when there is none. A rate counts from `begunAtMs`. */
  next(afterMs: number, begunAtMs: number): number | undefined;
}

const unitMilliseconds: Readonly<Record<string, number>> = { minute: 60_000, hour: 3_600_000, day: 86_400_000 };
const months = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const weekdays = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const dayMilliseconds = 86_400_000;
/** How far ahead a cron expression is looked for: a leap day on a given weekday comes at least every 40 years. */
const horizonDays = 366 * 40;

/** Reads a schedule expression; one that EventBridge would refuse throws. */
export function parseSchedule(expression: string, timeZone: string): Schedule {
  const [, kind, inside = ""] = /^(rate|cron|at)\((.+)\)$/.exec(expression) ?? [];
  switch (kind) {
    case "rate":
      return parseRate(inside, expression);
    case "cron":
      return parseCron(inside, expression, timeZone);
    case "at": {
      const [, year, month, day, hour, minute, second] = (/^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)$/.exec(inside) ?? []).map(Number);
      if (year === undefined) throw refused(expression, "must be at(yyyy-mm-ddThh:mm:ss)");
      const atMs = toInstant(Date.UTC(year, (month as number) - 1, day, hour, minute, second), timeZone);
      return { next: (afterMs) => (atMs !== undefined && atMs > afterMs ? atMs : undefined) };
    }
    default:
      throw refused(expression, "must be rate(...), cron(...) or at(...)");
  }
}

function parseRate(inside: string, expression: string): Schedule {
  const [, count, unit, plural] = /^(\d+) (minute|hour|day)(s?)$/.exec(inside) ?? [];
  if (count === undefined || unit === undefined || Number(count) < 1) throw refused(expression, "must be a positive count of minutes, hours or days");
  // EventBridge insists: 1 minute, 5 minutes.
  if ((Number(count) === 1) !== (plural === "")) throw refused(expression, "a count of 1 takes the singular, any other the plural");
  const period = Number(count) * (unitMilliseconds[unit] as number);
  return { next: (afterMs, begunAtMs) => begunAtMs + Math.max(1, Math.floor((afterMs - begunAtMs) / period) + 1) * period };
}

interface Day {
  readonly year: number;
  readonly month: number;
  readonly date: number;
  /** 1 is Sunday. */
  readonly weekday: number;
  readonly monthLength: number;
}

function parseCron(inside: string, expression: string, timeZone: string): Schedule {
  const fields = inside.trim().split(/\s+/);
  if (fields.length !== 6) throw refused(expression, `must have 6 fields, found ${fields.length}`);
  const [minute, hour, dayOfMonth, month, dayOfWeek, year] = fields as [string, string, string, string, string, string];
  if ((dayOfMonth === "?") === (dayOfWeek === "?")) throw refused(expression, "one of day of month and day of week must be ?, the other not");
  const minutes = [...values(minute, 0, 59, [], expression)].sort((a, b) => a - b);
  const hours = [...values(hour, 0, 23, [], expression)].sort((a, b) => a - b);
  const inMonths = values(month, 1, 12, months, expression);
  const inYears = values(year, 1970, 2199, [], expression);
  const isDay = dayOfMonth === "?" ? weekdayTest(dayOfWeek, expression) : dateTest(dayOfMonth, expression);
  requireTimeZone(timeZone, expression);

  return {
    next(afterMs) {
      const today = Math.floor((afterMs + offsetAt(afterMs, timeZone)) / dayMilliseconds);
      for (let day = today; day < today + horizonDays; day++) {
        const described = describeDay(day);
        if (!inYears.has(described.year) || !inMonths.has(described.month) || !isDay(described)) continue;
        const isSteady = offsetAt(day * dayMilliseconds - dayMilliseconds, timeZone) === offsetAt((day + 2) * dayMilliseconds, timeZone);
        const offset = offsetAt(day * dayMilliseconds, timeZone);
        const instants = hours.flatMap((h) =>
          minutes.flatMap((m) => {
            const local = day * dayMilliseconds + h * 3_600_000 + m * 60_000;
            // A local time that the clocks skip does not happen; one they repeat happens once.
            const atMs = isSteady ? local - offset : toInstant(local, timeZone);
            return atMs !== undefined && atMs > afterMs ? [atMs] : [];
          }),
        );
        if (instants.length > 0) return instants.reduce((first, instant) => Math.min(first, instant));
      }
      return undefined;
    },
  };
}

function describeDay(day: number): Day {
  const at = new Date(day * dayMilliseconds);
  const [year, month] = [at.getUTCFullYear(), at.getUTCMonth() + 1];
  return { year, month, date: at.getUTCDate(), weekday: at.getUTCDay() + 1, monthLength: new Date(Date.UTC(year, month, 0)).getUTCDate() };
}

/** Every value a field of lists, ranges, steps and names allows. */
function values(text: string, least: number, most: number, names: readonly string[], expression: string): Set<number> {
  const found = new Set<number>();
  const read = (part: string): number => {
    const named = names.indexOf(part.toUpperCase());
    const value = named >= 0 ? named + least : /^\d+$/.test(part) ? Number(part) : Number.NaN;
    if (!(value >= least && value <= most)) throw refused(expression, `${part} is not from ${least} to ${most}`);
    return value;
  };
  for (const item of text.split(",")) {
    const [range = "", step, ...rest] = item.split("/");
    const every = step === undefined ? 1 : Number(step);
    if (rest.length > 0 || !Number.isInteger(every) || every < 1) throw refused(expression, `${item} is no step`);
    const [from = "", to, ...more] = range === "*" ? [String(least), String(most)] : range.split("-");
    if (more.length > 0) throw refused(expression, `${item} is no range`);
    const first = read(from);
    const last = to === undefined ? (step === undefined ? first : most) : read(to);
    // Days of the week may run over the end: FRI-MON.
    const length = last >= first ? last - first : names === weekdays ? last + 7 - first : -1;
    if (length < 0) throw refused(expression, `${item} runs backwards`);
    for (let at = 0; at <= length; at += every) found.add(((first + at - least) % (most - least + 1)) + least);
  }
  return found;
}

function dateTest(text: string, expression: string): (day: Day) => boolean {
  if (text === "L") return (day) => day.date === day.monthLength;
  if (text === "LW") return (day) => day.date === nearestWeekday(day, day.monthLength);
  const [, workday] = /^(\d{1,2})W$/.exec(text) ?? [];
  if (workday !== undefined) {
    const [wanted] = values(workday, 1, 31, [], expression);
    return (day) => (wanted as number) <= day.monthLength && day.date === nearestWeekday(day, wanted as number);
  }
  const dates = values(text, 1, 31, [], expression);
  return (day) => dates.has(day.date);
}

/** The Monday to Friday next to a date, in the same month. */
function nearestWeekday(day: Day, date: number): number {
  const weekday = (((day.weekday - 1 + date - day.date) % 7) + 7) % 7;
  if (weekday === 6) return date === 1 ? 3 : date - 1;
  if (weekday === 0) return date === day.monthLength ? date - 2 : date + 1;
  return date;
}

function weekdayTest(text: string, expression: string): (day: Day) => boolean {
  const [, lastOf] = /^([1-7]|[A-Za-z]{3})L$/.exec(text) ?? [];
  if (lastOf !== undefined) {
    const wanted = values(lastOf, 1, 7, weekdays, expression);
    return (day) => wanted.has(day.weekday) && day.date + 7 > day.monthLength;
  }
  const [, nth, count] = /^([1-7]|[A-Za-z]{3})#([1-5])$/.exec(text) ?? [];
  if (nth !== undefined) {
    const wanted = values(nth, 1, 7, weekdays, expression);
    return (day) => wanted.has(day.weekday) && Math.ceil(day.date / 7) === Number(count);
  }
  if (text === "L") return (day) => day.weekday === 7;
  const wanted = values(text, 1, 7, weekdays, expression);
  return (day) => wanted.has(day.weekday);
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** What a zone's clocks add to UTC at an instant, in milliseconds. */
function offsetAt(atMs: number, timeZone: string): number {
  if (timeZone === "UTC") return 0;
  let format = formats.get(timeZone);
  if (format === undefined) {
    const numeric = "numeric" as const;
    format = new Intl.DateTimeFormat("en-US", {
      timeZone,
      hourCycle: "h23",
      year: numeric,
      month: numeric,
      day: numeric,
      hour: numeric,
      minute: numeric,
      second: numeric,
    });
    formats.set(timeZone, format);
  }
  const whole = Math.floor(atMs / 1000) * 1000;
  const parts = Object.fromEntries(format.formatToParts(whole).map(({ type, value }) => [type, Number(value)])) as Record<string, number>;
  const { year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0 } = parts;
  return Date.UTC(year, month - 1, day, hour, minute, second) - whole;
}

/** The first instant at which a zone's clocks show a local time (given as if it were UTC); undefined when they skip it. */
function toInstant(localMs: number, timeZone: string): number | undefined {
  const offsets = [offsetAt(localMs - dayMilliseconds, timeZone), offsetAt(localMs + dayMilliseconds, timeZone)];
  const instants = offsets.map((offset) => localMs - offset).filter((atMs) => offsetAt(atMs, timeZone) === localMs - atMs);
  return instants.length === 0 ? undefined : Math.min(...instants);
}

function requireTimeZone(timeZone: string, expression: string): void {
  try {
    offsetAt(0, timeZone);
  } catch {
    throw refused(expression, `${timeZone} is no time zone`);
  }
}

function refused(expression: string, reason: string): Unmodelled {
  return new Unmodelled(`schedule expression ${expression}: ${reason}`);
}

export interface ScheduleRun {
  cancel(): void;
}

/** Longest single wait: a clock counts milliseconds exactly whatever their number, a real timer behind it does not. */
const longestWaitMilliseconds = 86_400_000;

/** Fires at every instant of a schedule, as a daemon, until cancelled. An instant missed while the world was not running is not made up for. */
export function runOnSchedule(clock: Clock, schedule: Schedule, begunAtMs: number, fire: (atMs: number) => void): ScheduleRun {
  let timer: Timer | undefined;
  const arm = (afterMs: number) => {
    const nextMs = schedule.next(afterMs, begunAtMs);
    if (nextMs !== undefined) wait(nextMs);
  };
  const wait = (untilMs: number) => {
    const left = Math.max(0, untilMs - clock.now());
    timer = clock.after(
      Math.min(left, longestWaitMilliseconds),
      () => {
        if (clock.now() < untilMs) return wait(untilMs);
        fire(untilMs);
        arm(Math.max(untilMs, clock.now()));
      },
      { daemon: true },
    );
  };
  arm(clock.now());
  return { cancel: () => timer?.cancel() };
}

// --- EventBridge Scheduler ---

export interface Scheduler extends Service {
  createSchedule(config: ScheduleConfig): void;
}

export type ScheduleConfig = Pick<
  Template["schedules"][number],
  | "name"
  | "arn"
  | "expression"
  | "timeZone"
  | "enabled"
  | "flexibleMinutes"
  | "targetArn"
  | "role"
  | "input"
  | "deadLetterArn"
  | "retries"
  | "maxAgeSeconds"
>;

interface Saved {
  readonly serial: number;
  readonly begunAtMs: readonly (readonly [arn: string, atMs: number])[];
}

export function createScheduler(world: DeliveringWorld & { readonly template?: Pick<Template, "schedules"> }): Scheduler {
  const random = world.random.fork("scheduler");
  const schedules = new Map<string, { readonly config: ScheduleConfig; run: ScheduleRun | undefined }>();
  let begunAtMs = new Map<string, number>();
  let serial = 0;

  function fire(config: ScheduleConfig, atMs: number): void {
    // A flexible window spreads starts; without one Scheduler keeps to the minute.
    const delay = config.flexibleMinutes * 60_000 * random.next();
    const id = uuid(`schedule ${++serial}`);
    const attributes: Readonly<Record<string, string>> = {
      "aws.scheduler.schedule-arn": config.arn,
      "aws.scheduler.scheduled-time": `${new Date(atMs).toISOString().slice(0, 19)}Z`,
      "aws.scheduler.execution-id": id,
      "aws.scheduler.attempt-number": "1",
    };
    const payload: unknown =
      config.input === undefined
        ? {
            version: "0",
            id,
            "detail-type": "Scheduled Event",
            source: "aws.scheduler",
            account: world.account,
            time: attributes["aws.scheduler.scheduled-time"],
            region: world.region,
            resources: [config.arn],
            detail: "{}",
          }
        : JSON.parse(config.input.replace(/<(aws\.scheduler\.[a-z-]+)>/g, (found, name: string) => attributes[name] ?? found));
    const { arn, targetArn, role, retries, maxAgeSeconds, deadLetterArn } = config;
    const delivery = {
      targetArn,
      payload,
      by: { role },
      sourceArn: arn,
      service: "scheduler.amazonaws.com",
      retries,
      maxAgeSeconds,
      deadLetterArn,
    } as const;
    const copies = world.faults.strike("doubledEvent", `schedule ${config.name} ${attributes["aws.scheduler.scheduled-time"]}`) ? 2 : 1;
    for (let copy = 0; copy < copies; copy++)
      world.clock.after(delay + copy * (1000 + 30_000 * random.next()), () => deliver(world, random, delivery));
  }

  function begin(entry: { readonly config: ScheduleConfig; run: ScheduleRun | undefined }): void {
    const { config } = entry;
    entry.run?.cancel();
    if (!config.enabled) return;
    const begunAt = begunAtMs.get(config.arn) ?? world.clock.now();
    begunAtMs.set(config.arn, begunAt);
    entry.run = runOnSchedule(world.clock, parseSchedule(config.expression, config.timeZone), begunAt, (atMs) => fire(config, atMs));
  }

  function createSchedule(config: ScheduleConfig): void {
    requireTarget(config.targetArn, `schedule ${config.name}`);
    if (config.input !== undefined) JSON.parse(config.input);
    schedules.get(config.arn)?.run?.cancel();
    const entry = { config, run: undefined };
    schedules.set(config.arn, entry);
    begin(entry);
  }

  for (const schedule of world.template?.schedules ?? []) createSchedule(schedule);

  return {
    name: "scheduler",
    operations: {},
    throttle: { code: "ThrottlingException", httpStatus: 429 },
    createSchedule,
    save: (): Saved => ({ serial, begunAtMs: [...begunAtMs] }),
    load(state) {
      const saved = structuredClone(state as Saved);
      serial = saved.serial;
      begunAtMs = new Map(saved.begunAtMs);
      for (const entry of schedules.values()) begin(entry);
    },
  };
}
