/**
 * EventBridge: the default bus with AWS's own events, the buses of the template, and their rules.
 *
 * Delivery is at least once and in no order. AWS's best-effort sources lose events, every source doubles some; a bus of ours loses none
 * (EventBridge user guide, event delivery level).
 */
import type { PutEventsRequest, PutEventsRequestEntry, PutEventsResponse, PutEventsResultEntry } from "@aws-sdk/client-eventbridge";
import { AwsError, type CloudEvent, type Operation, type Permission, type Service, Unmodelled } from "../kernel/contract.js";
import type { Template, TemplateRule } from "../kernel/template.js";
import { type DeliveringWorld, deliver, requireTarget } from "./deliveries.js";
import { compilePattern, type EventMatcher } from "./event-pattern.js";
import { uuid } from "./queues.js";
import { parseSchedule, runOnSchedule, type ScheduleRun } from "./scheduler.js";

/** An event as a target receives it. */
export interface EventEnvelope {
  readonly version: "0";
  readonly id: string;
  readonly "detail-type": string;
  readonly source: string;
  readonly account: string;
  /** Whole seconds, UTC. */
  readonly time: string;
  readonly region: string;
  readonly resources: readonly string[];
  readonly detail: Readonly<Record<string, unknown>>;
}

export interface RuleConfig {
  readonly name: string;
  readonly arn: string;
  readonly bus: string;
  readonly enabled: boolean;
  readonly pattern: Readonly<Record<string, unknown>> | undefined;
  readonly scheduleExpression: string | undefined;
  readonly targets: TemplateRule["targets"];
}

export interface EventBridge extends Service {
  createBus(name: string): void;
  createRule(config: RuleConfig): void;
  /** What `World.publish` does: puts an event of AWS or of Drover on its bus. */
  publish(event: CloudEvent): void;
}

/** Most entries of one PutEvents, and most bytes of all of them (EventBridge API reference; AWS allows 1 MB by now, Step Functions input does not). */
export const entriesLimit = 10;
export const requestLimitBytes = 262_144;
const detailTypeLimit = 128;
const targetsLimit = 5;

/** Sources whose events AWS delivers for certain; those of every other AWS service are best effort. */
const guaranteedSources = new Set(["aws.s3"]);

interface Rule {
  readonly config: RuleConfig;
  readonly matches: EventMatcher | undefined;
  run: ScheduleRun | undefined;
}

interface Saved {
  readonly serial: number;
  /** When each scheduled rule began, by ARN: a rate counts from there. */
  readonly begunAtMs: readonly (readonly [arn: string, atMs: number])[];
}

export function createEventBridge(world: DeliveringWorld & { readonly template?: Pick<Template, "buses" | "rules"> }): EventBridge {
  const random = world.random.fork("eventbridge");
  const buses = new Set(["default"]);
  const rules = new Map<string, Rule>();
  let begunAtMs = new Map<string, number>();
  let serial = 0;

  const busArn = (name: string) => `arn:${world.partition}:events:${world.region}:${world.account}:event-bus/${name}`;
  const busName = (name: string | undefined) => (name ?? "default").split("/").at(-1) as string;

  function envelopeOf(event: CloudEvent, atMs: number): EventEnvelope {
    return {
      version: "0",
      id: uuid(`event ${++serial}`),
      "detail-type": event.detailType,
      source: event.source,
      account: world.account,
      time: new Date(atMs).toISOString().replace(/\.\d{3}Z$/, "Z"),
      region: world.region,
      resources: event.resources ?? [],
      // A copy: what the publisher does with its object afterwards is not the event's.
      detail: structuredClone(event.detail),
    };
  }

  function route(bus: string, envelope: EventEnvelope): void {
    const matching = [...rules.values()].filter((rule) => rule.config.enabled && rule.config.bus === bus && rule.matches?.(envelope));
    if (matching.length === 0) return;
    const occasion = `${envelope.source} ${envelope["detail-type"]} ${envelope.id}`;
    const isBestEffort = envelope.source.startsWith("aws.") && !guaranteedSources.has(envelope.source);
    if (isBestEffort && world.faults.strike("lostEvent", occasion)) {
      world.note("event lost", { source: envelope.source, detailType: envelope["detail-type"], id: envelope.id });
      return;
    }
    for (const rule of matching) for (const target of rule.config.targets) send(rule, target, envelope, occasion);
  }

  function send(rule: Rule, target: RuleConfig["targets"][number], envelope: EventEnvelope, occasion: string): void {
    const delivery = {
      targetArn: target.arn,
      payload: inputOf(target, envelope, rule.config, world.clock.now()),
      by: { service: "events.amazonaws.com", sourceArn: rule.config.arn },
      sourceArn: rule.config.arn,
      service: "events.amazonaws.com",
      retries: target.retries,
      maxAgeSeconds: target.maxAgeSeconds,
      deadLetterArn: target.deadLetterArn,
    } as const;
    const later = (milliseconds: number) => world.clock.after(milliseconds, () => deliver(world, random, delivery));
    later(20 + 60 * random.next());
    if (world.faults.strike("doubledEvent", `${occasion} to ${rule.config.name}`)) {
      const delay = 100 + 60_000 * random.next();
      world.note("event doubled", {
        source: envelope.source,
        detailType: envelope["detail-type"],
        id: envelope.id,
        delayMilliseconds: Math.round(delay),
      });
      later(delay);
    }
  }

  function publish(event: CloudEvent): void {
    const bus = busName(event.bus);
    if (!buses.has(bus)) throw new Unmodelled(`event bus ${bus}: the template has none of this name`);
    if (event.source.startsWith("aws.") && bus !== "default")
      throw new Unmodelled(`${event.source} on bus ${bus}: AWS's events come on the default bus only`);
    route(bus, envelopeOf(event, world.clock.now()));
  }

  // --- the API ---

  const putEvents: Operation<PutEventsRequest, PutEventsResponse> = {
    fields: ["Time", "Source", "Resources", "DetailType", "Detail", "EventBusName", "TraceHeader"].map((name) => `Entries.${name}`),
    permissions: (input) => {
      const permissions = (input.Entries ?? []).map(
        (entry): Permission => ({
          action: "events:PutEvents",
          resource: busArn(busName(entry.EventBusName)),
          context: {
            ...(entry.Source === undefined ? {} : { "events:source": entry.Source }),
            ...(entry.DetailType === undefined ? {} : { "events:detail-type": entry.DetailType }),
            "events:eventBusInvocation": "false",
          },
        }),
      );
      return [...new Map(permissions.map((permission) => [JSON.stringify(permission), permission])).values()];
    },
    latency: { milliseconds: 25 },
    mutates: true,
    call: (input) => {
      const entries = input.Entries ?? [];
      if (entries.length < 1 || entries.length > entriesLimit) {
        throw new AwsError(
          "ValidationException",
          `1 validation error detected: Value at 'entries' failed to satisfy constraint: Member must have length between 1 and ${entriesLimit}, found ${entries.length}`,
        );
      }
      const bytes = entries.reduce((sum, entry) => sum + entryBytes(entry), 0);
      if (bytes > requestLimitBytes)
        throw new AwsError(
          "ValidationException",
          `Total size of the entries in the request is over the limit: ${bytes} of ${requestLimitBytes} bytes.`,
        );
      for (const entry of entries) {
        const bus = busName(entry.EventBusName);
        if (!buses.has(bus)) throw new AwsError("ResourceNotFoundException", `Event bus ${bus} does not exist.`);
      }
      const results = entries.map((entry): PutEventsResultEntry => {
        const checked = checkEntry(entry);
        if ("ErrorCode" in checked) return checked;
        // An answer of 200 with failed entries is normal: the caller must look at each.
        if (world.faults.strike("throttle", `events entry ${entry.DetailType}`))
          return { ErrorCode: "ThrottlingException", ErrorMessage: "Rate exceeded" };
        const event = {
          source: entry.Source as string,
          detailType: entry.DetailType as string,
          detail: checked.detail,
          resources: entry.Resources ?? [],
        };
        const envelope = envelopeOf(event, entry.Time?.getTime() ?? world.clock.now());
        route(busName(entry.EventBusName), envelope);
        return { EventId: envelope.id };
      });
      return { FailedEntryCount: results.filter((result) => result.ErrorCode !== undefined).length, Entries: results };
    },
  };

  // --- rules ---

  function createRule(config: RuleConfig): void {
    const at = `rule ${config.name}`;
    if (!buses.has(config.bus)) throw new Unmodelled(`${at}: no bus ${config.bus}`);
    if (config.targets.length > targetsLimit) throw new Unmodelled(`${at}: ${config.targets.length} targets, EventBridge allows ${targetsLimit}`);
    if ((config.pattern === undefined) === (config.scheduleExpression === undefined))
      throw new Unmodelled(`${at}: needs either a pattern or a schedule`);
    if (config.scheduleExpression !== undefined && config.bus !== "default") throw new Unmodelled(`${at}: schedules are for the default bus only`);
    for (const target of config.targets) {
      requireTarget(target.arn, at);
      requireInput(target, at);
    }
    rules.get(config.arn)?.run?.cancel();
    const rule: Rule = { config, matches: config.pattern && compilePattern(config.pattern), run: undefined };
    rules.set(config.arn, rule);
    begin(rule);
  }

  function begin(rule: Rule): void {
    const { config } = rule;
    rule.run?.cancel();
    if (config.scheduleExpression === undefined || !config.enabled) return;
    const begunAt = begunAtMs.get(config.arn) ?? world.clock.now();
    begunAtMs.set(config.arn, begunAt);
    rule.run = runOnSchedule(world.clock, parseSchedule(config.scheduleExpression, "UTC"), begunAt, (atMs) => {
      const event = { source: "aws.events", detailType: "Scheduled Event", detail: {}, resources: [config.arn] };
      const envelope = envelopeOf(event, atMs);
      for (const target of config.targets) send(rule, target, envelope, `schedule ${config.name} ${envelope.time}`);
    });
  }

  for (const bus of world.template?.buses ?? []) buses.add(bus.name);
  for (const rule of world.template?.rules ?? []) createRule(rule);

  return {
    name: "eventbridge",
    operations: { PutEvents: putEvents },
    throttle: { code: "ThrottlingException", httpStatus: 400 },
    createBus: (name) => void buses.add(name),
    createRule,
    publish,
    save: (): Saved => ({ serial, begunAtMs: [...begunAtMs] }),
    load(state) {
      const saved = structuredClone(state as Saved);
      serial = saved.serial;
      begunAtMs = new Map(saved.begunAtMs);
      // A rate goes on from when its rule first began, not from this start.
      for (const rule of rules.values()) begin(rule);
    },
  };
}

/** Bytes an entry counts (EventBridge user guide, calculating the size of an entry). */
function entryBytes(entry: PutEventsRequestEntry): number {
  const texts = [entry.Source, entry.DetailType, entry.Detail, ...(entry.Resources ?? [])];
  return texts.reduce((sum, text) => sum + Buffer.byteLength(text ?? ""), entry.Time === undefined ? 0 : 14);
}

function checkEntry(
  entry: PutEventsRequestEntry,
): { readonly detail: Readonly<Record<string, unknown>> } | { readonly ErrorCode: string; readonly ErrorMessage: string } {
  for (const name of ["Source", "DetailType", "Detail"] as const) {
    if (!entry[name])
      return { ErrorCode: "InvalidArgument", ErrorMessage: `Parameter ${name} is not valid. Reason: ${name} is a required argument.` };
  }
  if ((entry.DetailType as string).length > detailTypeLimit) {
    return {
      ErrorCode: "InvalidArgument",
      ErrorMessage: `Parameter DetailType is not valid. Reason: DetailType is longer than ${detailTypeLimit} characters.`,
    };
  }
  if (entry.Source?.startsWith("aws.")) return { ErrorCode: "NotAuthorizedForSourceException", ErrorMessage: "Not authorized for the source." };
  try {
    const detail: unknown = JSON.parse(entry.Detail as string);
    if (typeof detail === "object" && detail !== null && !Array.isArray(detail)) return { detail: detail as Record<string, unknown> };
  } catch {
    // The same answer as for JSON that is no object.
  }
  return { ErrorCode: "MalformedDetail", ErrorMessage: "Detail is malformed." };
}

// --- what a target receives ---

type Target = RuleConfig["targets"][number];

function requireInput(target: Target, at: string): void {
  if ([target.input, target.inputPath, target.inputTransformer].filter((given) => given !== undefined).length > 1) {
    throw new Unmodelled(`${at}: a target has one of Input, InputPath and InputTransformer`);
  }
  if (target.input !== undefined) JSON.parse(target.input);
  for (const path of [target.inputPath ?? "$", ...Object.values(target.inputTransformer?.paths ?? {})]) pathSteps(path);
}

function inputOf(target: Target, envelope: EventEnvelope, rule: RuleConfig, nowMs: number): unknown {
  if (target.input !== undefined) return JSON.parse(target.input);
  if (target.inputPath !== undefined) return valueAt(envelope, target.inputPath);
  if (target.inputTransformer === undefined) return envelope;
  const { paths, template } = target.inputTransformer;
  const reserved: Readonly<Record<string, unknown>> = {
    "aws.events.event": envelope,
    "aws.events.event.json": envelope,
    "aws.events.event.ingestion-time": new Date(nowMs).toISOString(),
    "aws.events.rule-arn": rule.arn,
    "aws.events.rule-name": rule.name,
  };
  const values = { ...Object.fromEntries(Object.entries(paths).map(([name, path]) => [name, valueAt(envelope, path)])), ...reserved };
  let isQuoted = false;
  const text = template.replace(/\\.|"|<([^<>"\s]+)>/gs, (found, name?: string) => {
    if (name === undefined) {
      if (found === '"') isQuoted = !isQuoted;
      return found;
    }
    if (!(name in values)) throw new Unmodelled(`input template of ${rule.name}: <${name}> is no variable`);
    const value = values[name];
    // Inside quotes the text itself; outside, JSON. What is not there leaves nothing behind.
    if (isQuoted) return value === undefined ? "" : JSON.stringify(typeof value === "string" ? value : JSON.stringify(value)).slice(1, -1);
    if (value === undefined)
      throw new Unmodelled(`input template of ${rule.name}: <${name}> is not in the event, and outside quotes nothing is no JSON`);
    return JSON.stringify(value);
  });
  try {
    return JSON.parse(text);
  } catch {
    throw new Unmodelled(`input template of ${rule.name} does not make JSON: ${text.slice(0, 200)}`);
  }
}

/** Steps of the JSONPath that targets take: names and indexes. */
function pathSteps(path: string): readonly string[] {
  if (!/^\$(\.[A-Za-z0-9_-]+|\[\d+\]|\['[^']+'\])*$/.test(path)) throw new Unmodelled(`path ${path} of an event target`);
  return [...path.matchAll(/\.([A-Za-z0-9_-]+)|\[(\d+)\]|\['([^']+)'\]/g)].map(([, name, index, quoted]) => (name ?? index ?? quoted) as string);
}

function valueAt(envelope: EventEnvelope, path: string): unknown {
  return pathSteps(path).reduce<unknown>(
    (value, step) => (typeof value === "object" && value !== null ? (value as Record<string, unknown>)[step] : undefined),
    envelope,
  );
}
