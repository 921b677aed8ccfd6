import { beforeEach, describe, expect, it } from "vitest";
import { compilePattern } from "../../local/aws/event-pattern.js";
import { createEventBridge, type EventBridge, type EventEnvelope, entriesLimit, type RuleConfig } from "../../local/aws/eventbridge.js";
import { createQueues, type Queues } from "../../local/aws/queues.js";
import { createScheduler, parseSchedule } from "../../local/aws/scheduler.js";
import { calls, codeOf, permissionsOf, startAtMs, type TinyWorld, tinyWorld } from "./tiny-world.js";

const functionArn = "arn:aws:lambda:eu-central-1:111122223333:function:listener";
const deadLetters = "arn:aws:sqs:eu-central-1:111122223333:dead-letters";
const ruleArn = "arn:aws:events:eu-central-1:111122223333:rule/drover/requests";
const hour = 3_600_000;

const target = {
  id: "one",
  arn: functionArn,
  role: undefined,
  input: undefined,
  inputPath: undefined,
  inputTransformer: undefined,
  deadLetterArn: undefined,
  retries: 3,
  maxAgeSeconds: 3600,
};
const rule: RuleConfig = {
  name: "requests",
  arn: ruleArn,
  bus: "drover",
  enabled: true,
  pattern: { source: ["drover.request"] },
  scheduleExpression: undefined,
  targets: [target],
};
const ssmRule: RuleConfig = { ...rule, name: "commands", arn: `${ruleArn}-commands`, bus: "default", pattern: { source: ["aws.ssm"] } };

let world: TinyWorld;
let events: EventBridge;
let queues: Queues;
let call: ReturnType<typeof calls>;

function start(options: Parameters<typeof tinyWorld>[0] = {}): void {
  world = tinyWorld(options);
  queues = createQueues(world);
  queues.createQueue({ arn: deadLetters, retentionSeconds: 14 * 86_400 });
  world.add(queues);
  events = createEventBridge(world);
  events.createBus("drover");
  call = calls(world, events);
}
beforeEach(() => start());

const letIn = (sourceArn: string, service = "events.amazonaws.com") =>
  queues.setPolicy(deadLetters, {
    Statement: [
      {
        Effect: "Allow",
        Principal: { Service: service },
        Action: "sqs:SendMessage",
        Resource: deadLetters,
        Condition: { ArnEquals: { "aws:SourceArn": sourceArn } },
      },
      { Effect: "Deny", Principal: { AWS: "*" }, Action: "sqs:*", Resource: deadLetters, Condition: { Bool: { "aws:SecureTransport": "false" } } },
    ],
  });
const entry = (detail: object = { cluster: "prod" }, more: object = {}) => ({
  Source: "drover.request",
  DetailType: "Asked",
  Detail: JSON.stringify(detail),
  EventBusName: "drover",
  ...more,
});
const payloads = () => world.invocations.map(({ request }) => request.payload as EventEnvelope);
const command = (status = "Success") => ({
  source: "aws.ssm",
  detailType: "EC2 Command Status-change Notification",
  detail: { status },
  resources: [],
});

describe("event patterns", () => {
  const event = {
    source: "aws.ec2",
    "detail-type": "State Change",
    resources: ["arn:1", "arn:2"],
    detail: {
      state: "Running",
      count: 5,
      ready: true,
      note: null,
      text: "a*b",
      tags: [
        { k: "x", v: "1" },
        { k: "y", v: "2" },
      ],
      empty: [],
      inner: { deep: "v" },
    },
  };
  const matches = (pattern: object) => compilePattern(pattern)(event);

  it.each<[string, object, boolean]>([
    ["an exact value", { source: ["aws.ec2"] }, true],
    ["any of several values", { source: ["aws.ssm", "aws.ec2"] }, true],
    ["every field at once", { source: ["aws.ec2"], "detail-type": ["other"] }, false],
    ["a number, not its text", { detail: { count: ["5"] } }, false],
    ["a number however it is written", { detail: { count: [5.0] } }, true],
    ["booleans", { detail: { ready: [true] } }, true],
    ["null", { detail: { note: [null] } }, true],
    ["null where the field is missing: not", { detail: { missing: [null] } }, false],
    ["one element of an array", { resources: ["arn:2"] }, true],
    ["a nested field", { detail: { inner: { deep: ["v"] } } }, true],
    ["fields of one object in an array", { detail: { tags: { k: ["x"], v: ["1"] } } }, true],
    ["fields of different objects in an array: not", { detail: { tags: { k: ["x"], v: ["2"] } } }, false],
    ["a prefix", { detail: { state: [{ prefix: "Run" }] } }, true],
    ["a prefix in another case: not", { detail: { state: [{ prefix: "run" }] } }, false],
    ["a prefix in any case", { detail: { state: [{ prefix: { "equals-ignore-case": "rUN" } }] } }, true],
    ["a suffix", { detail: { state: [{ suffix: "ing" }] } }, true],
    ["a suffix in any case", { detail: { state: [{ suffix: { "equals-ignore-case": "ING" } }] } }, true],
    ["equals-ignore-case", { detail: { state: [{ "equals-ignore-case": "RUNNING" }] } }, true],
    ["anything-but one value", { detail: { state: [{ "anything-but": "Stopped" }] } }, true],
    ["anything-but a list", { detail: { state: [{ "anything-but": ["Stopped", "Running"] }] } }, false],
    ["anything-but a number", { detail: { count: [{ "anything-but": 5 }] } }, false],
    ["anything-but where the field is missing: not", { detail: { missing: [{ "anything-but": "x" }] } }, false],
    ["anything-but a prefix", { detail: { state: [{ "anything-but": { prefix: "Run" } }] } }, false],
    ["anything-but a suffix of a list", { detail: { state: [{ "anything-but": { suffix: ["ed", "al"] } }] } }, true],
    ["anything-but ignoring case", { detail: { state: [{ "anything-but": { "equals-ignore-case": "running" } }] } }, false],
    ["anything-but a wildcard", { detail: { state: [{ "anything-but": { wildcard: "R*g" } }] } }, false],
    ["a numeric bound", { detail: { count: [{ numeric: [">", 4] }] } }, true],
    ["a numeric range", { detail: { count: [{ numeric: [">", 0, "<=", 5] }] } }, true],
    ["a numeric range that ends before", { detail: { count: [{ numeric: [">=", 0, "<", 5] }] } }, false],
    ["numeric of a text: not", { detail: { state: [{ numeric: [">", 0] }] } }, false],
    ["exists", { detail: { note: [{ exists: true }] } }, true],
    ["exists of an object: not, only leaves exist", { detail: { inner: [{ exists: true }] } }, false],
    ["exists of an empty array: not", { detail: { empty: [{ exists: true }] } }, false],
    ["exists false of a missing field", { detail: { missing: [{ exists: false }] } }, true],
    ["exists false below a missing field", { missing: { below: [{ exists: false }] } }, true],
    ["exists false of a field that is there: not", { detail: { state: [{ exists: false }] } }, false],
    ["exists false or a value", { detail: { missing: ["x", { exists: false }] } }, true],
    ["a wildcard", { detail: { state: [{ wildcard: "R*n*g" }] } }, true],
    ["a wildcard whole, not in part", { detail: { state: [{ wildcard: "unn*" }] } }, false],
    ["a wildcard with an escaped star", { detail: { text: [{ wildcard: "a\\*b" }] } }, true],
    ["a wildcard with special characters of expressions", { resources: [{ wildcard: "arn.1" }] }, false],
    ["$or", { $or: [{ source: ["x"] }, { detail: { count: [5] } }] }, true],
    ["$or beside a field that fails", { "detail-type": ["other"], $or: [{ source: ["aws.ec2"] }, { source: ["x"] }] }, false],
    ["$or inside", { detail: { $or: [{ state: ["x"] }, { count: [{ numeric: ["<", 6] }] }] } }, true],
  ])("match %s", (_name, pattern, wanted) => {
    expect(matches(pattern)).toBe(wanted);
  });

  it.each<[string, object]>([
    ["an empty pattern", {}],
    ["a bare value", { source: "aws.ec2" }],
    ["an empty list", { source: [] }],
    ["two operators in one object", { source: [{ prefix: "a", suffix: "b" }] }],
    ["a range from high to low", { detail: { count: [{ numeric: [">", 5, "<", 1] }] } }],
    ["mixed values in anything-but", { detail: { count: [{ "anything-but": [1, "1"] }] } }],
    ["two stars in a row", { source: [{ wildcard: "a**" }] }],
    ["$or of one", { $or: [{ source: ["x"] }] }],
    ["4,097 characters", { source: ["x".repeat(4097 - '{"source":[""]}'.length)] }],
  ])("refuse %s", (_name, pattern) => {
    expect(codeOf(() => compilePattern(pattern))).toBe("InvalidEventPatternException 400");
  });

  it("stop the world at an operator that is not modelled", () => {
    expect(() => compilePattern({ source: [{ cidr: "10.0.0.0/8" }] })).toThrow(/operator cidr/);
  });
});

describe("PutEvents", () => {
  beforeEach(() => events.createRule(rule));

  it("hands a matching event to the function, once, in EventBridge's envelope, some milliseconds later", async () => {
    const { Entries, FailedEntryCount } = call("PutEvents", { Entries: [entry(), entry({}, { Source: "somebody.else" })] });
    expect([FailedEntryCount, world.invocations.length]).toEqual([0, 0]);
    await world.clock.runUntilIdle();
    expect(payloads()).toEqual([
      {
        version: "0",
        id: Entries[0].EventId,
        "detail-type": "Asked",
        source: "drover.request",
        account: "111122223333",
        time: "2026-01-05T10:00:00Z",
        region: "eu-central-1",
        resources: [],
        detail: { cluster: "prod" },
      },
    ]);
    const [{ atMs, request } = { atMs: 0, request: undefined }] = world.invocations;
    expect(atMs - startAtMs).toBeGreaterThanOrEqual(20);
    expect(atMs - startAtMs).toBeLessThanOrEqual(80);
    expect(request).toMatchObject({ function: functionArn, kind: "event", by: { service: "events.amazonaws.com", sourceArn: ruleArn } });
  });

  it("fails entry by entry, and delivers the good ones", async () => {
    const output = call("PutEvents", {
      Entries: [
        entry(),
        entry({}, { Detail: "[1]" }),
        entry({}, { Detail: "{" }),
        entry({}, { Source: "" }),
        entry({}, { Source: "aws.ec2" }),
        entry({}, { DetailType: "x".repeat(129) }),
      ],
    });
    expect(output.FailedEntryCount).toBe(5);
    expect(output.Entries.map(({ ErrorCode }: { ErrorCode?: string }) => ErrorCode)).toEqual([
      undefined,
      "MalformedDetail",
      "MalformedDetail",
      "InvalidArgument",
      "NotAuthorizedForSourceException",
      "InvalidArgument",
    ]);
    await world.clock.runUntilIdle();
    expect(payloads().length).toBe(1);
  });

  it("may fail an entry by throttling, which then is not delivered", async () => {
    start({ faults: { throttle: 1 } });
    events.createRule(rule);
    expect(call("PutEvents", { Entries: [entry()] })).toMatchObject({ FailedEntryCount: 1, Entries: [{ ErrorCode: "ThrottlingException" }] });
    await world.clock.runUntilIdle();
    expect(world.invocations).toEqual([]);
  });

  it("takes 1 to 10 entries and 256 KiB, on a bus that is there", () => {
    expect(codeOf(() => call("PutEvents", { Entries: [] }))).toBe("ValidationException 400");
    expect(codeOf(() => call("PutEvents", { Entries: Array.from({ length: entriesLimit + 1 }, () => entry()) }))).toBe("ValidationException 400");
    const fixed = "drover.request".length + "Asked".length + '{"t":""}'.length;
    expect(call("PutEvents", { Entries: [entry({ t: "x".repeat(262_144 - fixed) })] }).FailedEntryCount).toBe(0);
    expect(codeOf(() => call("PutEvents", { Entries: [entry({ t: "x".repeat(262_145 - fixed) })] }))).toBe("ValidationException 400");
    expect(codeOf(() => call("PutEvents", { Entries: [entry({}, { EventBusName: "none" })] }))).toBe("ResourceNotFoundException 400");
  });

  it("asks for the bus, the source and the detail type of every entry", () => {
    const bus = "arn:aws:events:eu-central-1:111122223333:event-bus/drover";
    expect(
      permissionsOf(world, events, "PutEvents", { Entries: [entry(), entry(), entry({}, { EventBusName: bus, DetailType: "Other" })] }),
    ).toMatchObject([
      { action: "events:PutEvents", resource: bus, context: { "events:source": "drover.request", "events:detail-type": "Asked" } },
      { action: "events:PutEvents", resource: bus, context: { "events:detail-type": "Other" } },
    ]);
  });

  it("never gives two events one id, also after being saved and loaded", () => {
    const first = call("PutEvents", { Entries: [entry()] }).Entries[0].EventId;
    const saved = structuredClone(events.save());
    start();
    events.load(saved);
    expect(call("PutEvents", { Entries: [entry()] }).Entries[0].EventId).not.toBe(first);
  });
});

describe("delivery by rules", () => {
  it("keeps AWS's events on the default bus and ours on their own", async () => {
    events.createRule(rule);
    events.createRule(ssmRule);
    events.publish(command());
    events.publish({ source: "drover.request", detailType: "Asked", detail: {}, bus: "drover" });
    await world.clock.runUntilIdle();
    expect(world.invocations.map(({ request }) => (request.by as { sourceArn: string }).sourceArn).sort()).toEqual([ruleArn, ssmRule.arn].sort());
    expect(() => events.publish({ ...command(), bus: "drover" })).toThrow(/default bus only/);
    expect(() => events.publish({ ...command(), source: "drover", bus: "none" })).toThrow(/event bus none/);
  });

  it("does nothing for a rule that is disabled", async () => {
    events.createRule({ ...rule, enabled: false });
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(world.invocations).toEqual([]);
  });

  it("loses AWS's best-effort events only: neither ours nor those of S3", async () => {
    start({ faults: { lostEvent: 1 } });
    events.createRule(rule);
    events.createRule({ ...ssmRule, pattern: { source: ["aws.ssm", "aws.s3"] } });
    events.publish(command());
    events.publish({ source: "aws.s3", detailType: "Object Created", detail: {} });
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(
      payloads()
        .map(({ source }) => source)
        .sort(),
    ).toEqual(["aws.s3", "drover.request"]);
    expect(world.notes).toMatchObject([{ kind: "event lost", detail: { source: "aws.ssm" } }]);
  });

  it("doubles events of every source: the same id twice, the second within about a minute", async () => {
    start({ faults: { doubledEvent: 1 } });
    events.createRule(rule);
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(new Set(payloads().map(({ id }) => id)).size).toBe(1);
    expect(world.invocations.length).toBe(2);
    expect(Math.max(...world.invocations.map(({ atMs }) => atMs)) - startAtMs).toBeLessThanOrEqual(60_100);
  });

  it("tries again when the function is not taken, and stops once it is", async () => {
    events.createRule(rule);
    world.answer = () =>
      world.invocations.length < 3
        ? { ok: false, kind: "service", error: "Lambda.ServiceException", cause: "", requestId: "r" }
        : { ok: true, payload: null, requestId: "r" };
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(world.invocations.length).toBe(3);
  });

  it("leaves a function that ran and failed to Lambda", async () => {
    events.createRule(rule);
    world.answer = () => ({ ok: false, kind: "handler", error: "Invalid", cause: "{}", requestId: "r" });
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(world.invocations.length).toBe(1);
  });

  it("puts what no attempt delivered into the dead letters, where the queue's policy lets the rule in", async () => {
    events.createRule({ ...rule, targets: [{ ...target, deadLetterArn: deadLetters }] });
    letIn(ruleArn);
    world.answer = () => ({ ok: false, kind: "service", error: "Lambda.ServiceException", cause: "busy", requestId: "r" });
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(world.invocations.length).toBe(1 + target.retries);
    const [message, ...others] = queues.messages(deadLetters);
    expect(others).toEqual([]);
    expect(message?.attributes).toMatchObject({
      RULE_ARN: ruleArn,
      TARGET_ARN: functionArn,
      RETRY_ATTEMPTS: "3",
      EXHAUSTED_RETRY_CONDITION: "MaximumRetryAttempts",
    });
    expect(JSON.parse(message?.body ?? "")).toMatchObject({ detail: { cluster: "prod" } });
  });

  it("gives up by age, too", async () => {
    events.createRule({ ...rule, targets: [{ ...target, retries: 185, maxAgeSeconds: 60, deadLetterArn: deadLetters }] });
    letIn(ruleArn);
    world.answer = () => ({ ok: false, kind: "service", error: "Lambda.ServiceException", cause: "busy", requestId: "r" });
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(queues.messages(deadLetters)).toMatchObject([{ attributes: { EXHAUSTED_RETRY_CONDITION: "MaximumEventAgeInSeconds" } }]);
    expect(world.clock.now() - startAtMs).toBeLessThanOrEqual(61_000);
  });

  it("does not try again what is not allowed, and drops it when the queue does not let the rule in", async () => {
    events.createRule({ ...rule, targets: [{ ...target, deadLetterArn: deadLetters }] });
    letIn("arn:aws:events:eu-central-1:111122223333:rule/another");
    world.answer = () => ({ ok: false, kind: "service", error: "AccessDeniedException", cause: "no", requestId: "r" });
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(world.invocations.length).toBe(1);
    expect(queues.messages(deadLetters)).toEqual([]);
    expect(world.notes.map(({ kind }) => kind)).toEqual(["message refused", "event dropped"]);
  });

  it("sends to queues as well", async () => {
    events.createRule({ ...rule, targets: [{ ...target, arn: deadLetters }] });
    letIn(ruleArn);
    call("PutEvents", { Entries: [entry()] });
    await world.clock.runUntilIdle();
    expect(queues.messages(deadLetters).map(({ body }) => JSON.parse(body).detail)).toEqual([{ cluster: "prod" }]);
  });

  it("gives the target what the rule says", async () => {
    const transformer = {
      paths: { cluster: "$.detail.cluster", none: "$.detail.none" },
      template: '{"text": "of <cluster>, <none>!", "name": <cluster>, "rule": <aws.events.rule-name>}',
    };
    events.createRule({
      ...rule,
      targets: [
        { ...target, id: "constant", input: '{"a":1}' },
        { ...target, id: "path", inputPath: "$.detail" },
        { ...target, id: "template", inputTransformer: transformer },
      ],
    });
    call("PutEvents", { Entries: [entry({ cluster: 'p"1' })] });
    await world.clock.runUntilIdle();
    const received = world.invocations.map(({ request }) => JSON.stringify(request.payload)).sort();
    expect(received).toEqual(
      [JSON.stringify({ a: 1 }), JSON.stringify({ cluster: 'p"1' }), JSON.stringify({ text: 'of p"1, !', name: 'p"1', rule: "requests" })].sort(),
    );
  });

  it("stops the boot at a target, an input or a bus that is not modelled", () => {
    expect(() => events.createRule({ ...rule, targets: [{ ...target, arn: "arn:aws:kinesis:eu-central-1:111122223333:stream/x" }] })).toThrow(
      /target/,
    );
    expect(() => events.createRule({ ...rule, targets: [{ ...target, inputPath: "$..x" }] })).toThrow(/path/);
    expect(() => events.createRule({ ...rule, bus: "none" })).toThrow(/no bus/);
    expect(() => events.createRule({ ...rule, targets: Array.from({ length: 6 }, () => target) })).toThrow(/6 targets/);
  });

  it("is the same for the same seed", async () => {
    const history = async (seed: number) => {
      start({ seed, faults: { doubledEvent: 0.3, lostEvent: 0.3 } });
      events.createRule(ssmRule);
      for (let index = 0; index < 30; index++) events.publish(command(String(index)));
      await world.clock.runUntilIdle();
      return JSON.stringify(world.invocations);
    };
    const first = await history(7);
    expect(await history(7)).toBe(first);
    expect(await history(8)).not.toBe(first);
  });
});

describe("schedule expressions", () => {
  const iso = (text: string) => Date.parse(text);
  const next = (expression: string, after: string, zone = "UTC") =>
    new Date(parseSchedule(expression, zone).next(iso(after), iso(after)) ?? Number.NaN).toISOString();

  it.each([
    ["rate(1 minute)", "2026-01-05T10:00:00Z", "UTC", "2026-01-05T10:01:00.000Z"],
    ["rate(2 days)", "2026-01-05T10:00:00Z", "UTC", "2026-01-07T10:00:00.000Z"],
    ["cron(0 2 * * ? *)", "2026-01-05T02:00:00Z", "UTC", "2026-01-06T02:00:00.000Z"],
    ["cron(0 2 * * ? *)", "2026-01-05T00:30:00Z", "Europe/Berlin", "2026-01-05T01:00:00.000Z"],
    ["cron(0/15 8-9 ? * MON-FRI *)", "2026-01-09T09:45:00Z", "UTC", "2026-01-12T08:00:00.000Z"],
    ["cron(0 0 ? * FRI-MON *)", "2026-01-06T00:00:00Z", "UTC", "2026-01-09T00:00:00.000Z"],
    ["cron(0 0 L * ? *)", "2026-02-01T00:00:00Z", "UTC", "2026-02-28T00:00:00.000Z"],
    ["cron(0 0 LW * ? *)", "2026-02-01T00:00:00Z", "UTC", "2026-02-27T00:00:00.000Z"],
    ["cron(0 0 15W * ? *)", "2026-02-01T00:00:00Z", "UTC", "2026-02-16T00:00:00.000Z"],
    ["cron(0 0 1W * ? *)", "2026-08-01T00:00:00Z", "UTC", "2026-08-03T00:00:00.000Z"],
    ["cron(0 0 ? * 6L *)", "2026-01-01T00:00:00Z", "UTC", "2026-01-30T00:00:00.000Z"],
    ["cron(0 0 ? * MON#2 *)", "2026-01-01T00:00:00Z", "UTC", "2026-01-12T00:00:00.000Z"],
    ["cron(0 0 29 2 ? *)", "2026-01-01T00:00:00Z", "UTC", "2028-02-29T00:00:00.000Z"],
    ["at(2026-03-01T04:05:06)", "2026-01-01T00:00:00Z", "Europe/Berlin", "2026-03-01T03:05:06.000Z"],
    // The clocks of Berlin skip 02:30 on 29 March 2026 and show it twice on 25 October.
    ["cron(30 2 * * ? *)", "2026-03-28T01:30:00Z", "Europe/Berlin", "2026-03-30T00:30:00.000Z"],
    ["cron(30 2 * * ? *)", "2026-10-24T12:00:00Z", "Europe/Berlin", "2026-10-25T00:30:00.000Z"],
    ["cron(30 2 * * ? *)", "2026-10-25T00:30:00Z", "Europe/Berlin", "2026-10-26T01:30:00.000Z"],
  ])("%s after %s in %s is %s", (expression, after, zone, wanted) => {
    expect(next(expression, after, zone)).toBe(wanted);
  });

  it("come to an end", () => {
    expect(parseSchedule("cron(0 0 1 1 ? 2025)", "UTC").next(startAtMs, startAtMs)).toBeUndefined();
    expect(parseSchedule("at(2025-01-01T00:00:00)", "UTC").next(startAtMs, startAtMs)).toBeUndefined();
  });

  it.each([
    "rate(1 minutes)",
    "rate(5 minute)",
    "rate(0 minutes)",
    "cron(0 2 * * * *)",
    "cron(0 2 ? * ? *)",
    "cron(0 2 * * ?)",
    "cron(60 2 * * ? *)",
    "cron(0 2 31-1 * ? *)",
    "every day",
  ])("refuse %s", (expression) => {
    expect(() => parseSchedule(expression, "UTC")).toThrow(/schedule expression/);
  });

  it("refuse a time zone that is none", () => {
    expect(() => parseSchedule("cron(0 2 * * ? *)", "Europe/Nowhere")).toThrow(/no time zone/);
  });
});

describe("schedules", () => {
  const scheduleArn = "arn:aws:scheduler:eu-central-1:111122223333:schedule/default/sweep";
  const schedule = {
    name: "sweep",
    arn: scheduleArn,
    expression: "rate(5 minutes)",
    timeZone: "UTC",
    enabled: true,
    flexibleMinutes: 0,
    targetArn: functionArn,
    role: "arn:aws:iam::111122223333:role/scheduler",
    input: undefined,
    deadLetterArn: undefined,
    retries: 0,
    maxAgeSeconds: 300,
  };

  it("fire at each time with the role they have, without keeping the world awake", async () => {
    createScheduler(world).createSchedule({ ...schedule, input: '{"at":"<aws.scheduler.scheduled-time>","by":"<aws.scheduler.schedule-arn>"}' });
    await world.clock.runUntilIdle();
    expect([world.clock.now(), world.invocations.length]).toEqual([startAtMs, 0]);
    await world.clock.runUntil(startAtMs + 16 * 60_000);
    expect(world.invocations.map(({ request }) => request.payload)).toEqual(
      ["10:05", "10:10", "10:15"].map((time) => ({ at: `2026-01-05T${time}:00Z`, by: scheduleArn })),
    );
    expect(world.invocations[0]?.request.by).toEqual({ role: schedule.role });
  });

  it("do not fire when disabled, spread over a flexible window, and come twice as a fault", async () => {
    const scheduler = createScheduler(world);
    scheduler.createSchedule({ ...schedule, enabled: false });
    await world.clock.runUntil(startAtMs + hour);
    expect(world.invocations).toEqual([]);
    start({ faults: { doubledEvent: 1 } });
    createScheduler(world).createSchedule({ ...schedule, expression: "cron(0 11 * * ? *)", flexibleMinutes: 10 });
    await world.clock.runUntil(startAtMs + 2 * hour);
    expect(world.invocations.length).toBe(2);
    expect(world.invocations[0]?.atMs).toBeGreaterThan(startAtMs + hour);
    expect(world.invocations[0]?.atMs).toBeLessThanOrEqual(startAtMs + hour + 600_000);
  });

  it("go on after a load as if they had never stopped, without making up for what was missed", async () => {
    const scheduler = createScheduler(world);
    scheduler.createSchedule(schedule);
    await world.clock.runUntil(startAtMs + 7 * 60_000);
    const saved = structuredClone(scheduler.save());
    start({ startAtMs: startAtMs + 63 * 60_000 + 30_000 });
    const again = createScheduler(world);
    again.createSchedule(schedule);
    again.load(saved);
    await world.clock.runUntil(startAtMs + 71 * 60_000);
    // Counted from when the schedule began, not from the load: 30 s past the minute would show.
    expect(world.invocations.map(({ atMs }) => (atMs - startAtMs) / 60_000)).toEqual([65, 70]);
  });

  it("are rules of the default bus as well", async () => {
    events.createRule({ ...ssmRule, pattern: undefined, scheduleExpression: "rate(1 hour)" });
    await world.clock.runUntil(startAtMs + 2 * hour + 1000);
    expect(payloads().map((event) => `${event["detail-type"]} ${event.time}`)).toEqual([
      "Scheduled Event 2026-01-05T11:00:00Z",
      "Scheduled Event 2026-01-05T12:00:00Z",
    ]);
    expect(() => events.createRule({ ...rule, pattern: undefined, scheduleExpression: "rate(1 hour)" })).toThrow(/default bus/);
  });
});

describe("queues for dead letters", () => {
  it("let a service in only where every condition of the policy holds", () => {
    const sender = { service: "events.amazonaws.com", sourceArn: ruleArn };
    const allow = (Condition: object) =>
      queues.setPolicy(deadLetters, { Statement: { Effect: "Allow", Principal: { Service: sender.service }, Action: "sqs:SendMessage", Condition } });
    allow({ ArnEquals: { "aws:SourceArn": ruleArn }, StringEquals: { "aws:SourceAccount": "999988887777" } });
    expect(queues.send(deadLetters, "x", {}, sender)).toBe(false);
    allow({ ArnEquals: { "aws:SourceArn": ruleArn }, StringEquals: { "aws:SourceAccount": world.account } });
    expect(queues.send(deadLetters, "x", {}, sender)).toBe(true);
    expect(queues.send(deadLetters, "x", {}, { ...sender, service: "scheduler.amazonaws.com" })).toBe(false);
  });

  it("forget a message when its retention is over, and keep the rest over a save", async () => {
    queues.createQueue({ arn: deadLetters, retentionSeconds: 60 });
    const role = { role: "arn:aws:iam::111122223333:role/listener" };
    expect(queues.send(deadLetters, "one", {}, role)).toBe(true);
    await world.clock.runUntil(startAtMs + 30_000);
    queues.send(deadLetters, "two", {}, role);
    await world.clock.runUntil(startAtMs + 60_000);
    const saved = structuredClone(queues.save());
    const again = createQueues(world);
    again.createQueue({ arn: deadLetters, retentionSeconds: 60 });
    again.load(saved);
    expect(again.messages(deadLetters).map(({ body }) => body)).toEqual(["two"]);
    expect(queues.send(`${deadLetters}-none`, "x", {}, role)).toBe(false);
  });
});
