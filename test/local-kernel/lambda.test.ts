import { beforeAll, describe, expect, it } from "vitest";
import type { Queues } from "../../local/aws/queues.js";
import type { S3 } from "../../local/aws/s3.js";
import type { InvocationOutcome } from "../../local/kernel/cloud.js";
import { World } from "../../local/world.js";
import { allow, bucketOf, writeAssembly } from "./assembly.js";

const resources = { Bucket: { Type: "AWS::S3::Bucket" }, Dead: { Type: "AWS::SQS::Queue" } };
const s3 = `import { S3Client, PutObjectCommand, GetObjectCommand, ListObjectsV2Command } from "@aws-sdk/client-s3";
const client = new S3Client({}); const Bucket = process.env.BUCKET;`;

let assembly: string;
beforeAll(() => {
  assembly = writeAssembly({
    resources,
    functions: {
      Tell: {
        code: `let served = 0;
          export const handler = async (event, context) => {
            const before = Date.now();
            await new Promise((resolve) => setTimeout(resolve, event.sleep ?? 0));
            return {
              event, before, after: Date.now(), iso: new Date().toISOString(), isDate: new Date() instanceof Date, called: typeof Date(), sum: new Date(2026, 0, 1, 1).getTime(),
              ids: [crypto.randomUUID(), require("node:crypto").randomBytes(4).toString("hex"), Math.random(), require("crypto").randomInt(10)],
              served: ++served, remaining: context.getRemainingTimeInMillis(), name: context.functionName, id: context.awsRequestId,
              env: { region: process.env.AWS_REGION, own: process.env.OWN, name: process.env.AWS_LAMBDA_FUNCTION_NAME, foreign: process.env.npm_config_user_agent },
            };
          };`,
        environment: { OWN: "value" },
        properties: { FunctionName: "tell" },
      },
      Fail: {
        code: `class NodeLost extends Error { override readonly name = "NodeLost"; }
          export const handler = async ({ how }) => {
            console.log("about to " + how);
            if (how === "throw") throw new NodeLost("i-1 is gone");
            if (how === "text") throw "only text";
            if (how === "hang") await new Promise(() => {});
            if (how === "exit") process.exit(3);
            if (how === "big") return "x".repeat(6 * 1024 * 1024);
            if (how === "cycle") { const a = {}; a.a = a; return a; }
            if (how === "child") require("node:child_process").execSync("ls");
            if (how === "fetch") await fetch("https://example.com");
            if (how === "file") { try { require("node:fs").readFileSync("/etc/passwd"); } catch (error) { return error.code; } }
          };`,
        properties: { Timeout: 5 },
      },
      Retried: {
        code: `export const handler = async () => { throw new Error("never works"); };`,
        statements: [allow("sqs:SendMessage", { "Fn::GetAtt": ["Dead", "Arn"] })],
        properties: { DeadLetterConfig: { TargetArn: { "Fn::GetAtt": ["Dead", "Arn"] } } },
      },
      Single: {
        code: `export const handler = async () => { await new Promise((resolve) => setTimeout(resolve, 1000)); return "done"; };`,
        properties: { ReservedConcurrentExecutions: 1 },
      },
      Write: {
        code: `${s3} export const handler = async ({ key, also = [], together = [] }) => {
          const put = (Key) => client.send(new PutObjectCommand({ Bucket, Key, Body: "by " + Key }));
          const before = Date.now(); await Promise.all([key, ...together].map(put)); await Promise.all(also.map(put)); return { key, took: Date.now() - before }; };`,
        statements: [allow("s3:PutObject", bucketOf("Bucket"))],
        environment: { BUCKET: { Ref: "Bucket" } },
      },
      Denied: {
        code: `${s3} export const handler = async () => { try { await client.send(new GetObjectCommand({ Bucket, Key: "k" })); } catch (error) { return { name: error.name, message: error.message }; } };`,
        environment: { BUCKET: { Ref: "Bucket" } },
      },
      Strange: {
        code: `import { S3Client, GetBucketPolicyCommand, PutObjectCommand } from "@aws-sdk/client-s3";
          export const handler = async ({ field }) => {
            const client = new S3Client({}); const Bucket = process.env.BUCKET;
            await client.send(field ? new PutObjectCommand({ Bucket, Key: "k", Body: "", WebsiteRedirectLocation: "/" }) : new GetBucketPolicyCommand({ Bucket }));
          };`,
        environment: { BUCKET: { Ref: "Bucket" } },
      },
    },
  });
});

const boot = (options: Partial<Parameters<typeof World.boot>[0]> = {}) => World.boot({ assembly, seed: 1, ...options });
const payloadOf = (outcome: InvocationOutcome) =>
  outcome.ok ? (outcome.payload as Record<string, unknown>) : expect.fail(`${outcome.error}: ${outcome.cause}`);
const read = (world: World, key: string) =>
  world
    .service<S3>("s3")
    .read(world.template.buckets[0]?.name as string, key)
    ?.toString();

describe("a function", () => {
  it("sees the virtual clock, seeded randomness and only its own environment", async () => {
    const tell = async (seed: number) => payloadOf(await boot({ seed }).invoke("tell", { sleep: 1500 }));
    const once = await tell(1);
    expect((once.after as number) - (once.before as number)).toBe(1500);
    expect(once.iso).toMatch(/^2026-01-05T02:00:0/);
    expect(once).toMatchObject({
      isDate: true,
      called: "string",
      sum: new Date(2026, 0, 1, 1).getTime(),
      name: "tell",
      env: { region: "eu-central-1", own: "value", name: "tell" },
    });
    expect(once.env).not.toHaveProperty("foreign");
    expect(once.remaining).toBe(58_500);
    expect((await tell(1)).ids).toEqual(once.ids);
    expect((await tell(2)).ids).not.toEqual(once.ids);
  });

  it("starts cold once, then warm, and is billed for its handler alone", async () => {
    const world = boot();
    const first = await world.invoke("tell", { sleep: 250 });
    const between = world.clock.now();
    await world.invoke("tell", { sleep: 250 });
    expect(world.counts.functions.tell).toEqual({ invocations: 2, errors: 0, throttles: 0, coldStarts: 1, billedMilliseconds: 500, memoryMib: 128 });
    expect(payloadOf(first).served).toBeGreaterThan(0);
    expect(world.clock.now() - between).toBeGreaterThan(250);
  });

  it("handles one request in one container, so overlapping requests need two", async () => {
    const world = boot();
    const outcomes = await world.drive(
      Promise.all([1, 2].map(() => world.invoke({ function: "tell", payload: { sleep: 5000 }, kind: "sync", by: "owner" }))),
    );
    expect(outcomes.every(({ ok }) => ok)).toBe(true);
    expect(world.counts.functions.tell?.coldStarts).toBe(2);
  });

  it("is found by its name, its logical id and its ARN, and by nothing else", async () => {
    const world = boot();
    const arn = world.template.functions.find(({ name }) => name === "tell")?.arn as string;
    for (const reference of ["tell", "Tell", arn, `${arn}:$LATEST`]) expect((await world.invoke(reference, {})).ok).toBe(true);
    expect(await world.invoke("other", {})).toMatchObject({ ok: false, kind: "service", error: "Lambda.ResourceNotFoundException" });
  });

  it("writes lines that are kept with its name and the time", async () => {
    const world = boot();
    const { requestId } = await world.invoke("Fail", { how: "nothing" });
    expect(world.logs).toMatchObject([{ function: "Fail", requestId, line: "about to nothing" }]);
  });
});

describe("a function that fails", () => {
  const fail = async (how: string) => await boot().invoke("Fail", { how });

  it("fails by the name of its error, with what Lambda says of it as the cause", async () => {
    const outcome = await fail("throw");
    expect(outcome).toMatchObject({ ok: false, kind: "handler", error: "NodeLost" });
    const cause = JSON.parse(outcome.ok ? "{}" : outcome.cause) as { trace: string[] };
    expect(cause).toMatchObject({ errorType: "NodeLost", errorMessage: "i-1 is gone" });
    expect(cause.trace[0]).toBe("NodeLost: i-1 is gone");
    expect(cause.trace.slice(1).every((line) => line.includes("/var/task/index.js"))).toBe(true);
  });

  it("fails by a name also when it throws no error", async () => {
    expect(await fail("text")).toMatchObject({ ok: false, error: "string" });
  });

  it("times out in virtual time", async () => {
    const world = boot();
    const outcome = await world.invoke("Fail", { how: "hang" });
    expect(outcome).toMatchObject({ ok: false, kind: "handler", error: "Sandbox.Timedout" });
    expect(outcome.ok ? "" : outcome.cause).toContain("Task timed out after 5.00 seconds");
    expect(world.counts.functions.Fail).toMatchObject({ errors: 1, billedMilliseconds: 5000 });
  });

  it("is lost when its process ends", async () => {
    expect(await fail("exit")).toMatchObject({ ok: false, kind: "service", error: "Lambda.Unknown" });
  });

  it("may not answer more than 6 MB, nor what is no JSON", async () => {
    expect(await fail("big")).toMatchObject({ ok: false, error: "Function.ResponseSizeTooLarge" });
    expect(await fail("cycle")).toMatchObject({ ok: false, error: "Runtime.MarshalError" });
  });

  it("finds no file of the machine", async () => {
    expect(await fail("file")).toMatchObject({ ok: true, payload: "ENOENT" });
  });

  it.each([
    ["child", "Fail: a handler uses child_process.execSync"],
    ["fetch", "Fail: a handler uses fetch"],
  ])("stops the world when it reaches for what is not modelled (%s)", async (how, message) => {
    await expect(fail(how)).rejects.toMatchObject({ name: "Unmodelled", message });
  });
});

describe("an asynchronous event", () => {
  it("is tried three times, then goes to the dead letters", async () => {
    const world = boot();
    const begun = world.clock.now();
    const outcome = await world.drive(world.invoke({ function: "Retried", payload: { a: 1 }, kind: "event", by: "owner" }));
    expect(outcome).toMatchObject({ ok: false, error: "Error" });
    expect(world.counts.functions.Retried?.invocations).toBe(3);
    expect((world.clock.now() - begun) / 1000).toBeGreaterThan(180);
    const [dead] = world.template.queues;
    const messages = world.service<Queues>("sqs").messages(dead?.arn as string);
    expect(messages.map(({ body }) => JSON.parse(body))).toEqual([{ a: 1 }]);
  });

  it("is tried again after time that merely passes: a paced world does not wait for it", async () => {
    const world = boot();
    const begun = world.clock.now();
    const stop = new AbortController();
    const given = world.invoke({ function: "Retried", payload: {}, kind: "event", by: "owner" }).finally(() => stop.abort());
    await world.clock.pace({ speed: 1, signal: stop.signal, skipsIdle: true });
    expect(await given).toMatchObject({ ok: false });
    const took = world.clock.now() - begun;
    expect(took / 1000).toBeGreaterThan(180);
    expect((took - world.clock.skippedUntil(world.clock.now())) / 1000).toBeLessThan(60);
  });

  it("waits for a place when the function has none left", async () => {
    const world = boot();
    const invoke = (kind: "sync" | "event") => world.invoke({ function: "Single", payload: {}, kind, by: "owner" });
    const [first, refused, event] = await world.drive(Promise.all([invoke("sync"), invoke("sync"), invoke("event")]));
    expect(first).toMatchObject({ ok: true, payload: "done" });
    expect(refused).toMatchObject({ ok: false, kind: "service", error: "Lambda.TooManyRequestsException" });
    expect(event).toMatchObject({ ok: true });
  });

  it("may hold 1 MB, a request 6 MB", async () => {
    const world = boot();
    const payload = "x".repeat(1024 * 1024);
    const invoke = (kind: "sync" | "event") => world.drive(world.invoke({ function: "Single", payload, kind, by: "owner" }));
    expect(await invoke("event")).toMatchObject({ ok: false, error: "Lambda.RequestTooLargeException" });
    expect(await invoke("sync")).toMatchObject({ ok: true });
  });
});

describe("who may invoke", () => {
  it("is a role that is allowed to, or a service that the function lets in", async () => {
    const world = boot();
    const [role] = world.template.roles;
    const invoke = async (by: Parameters<typeof world.lambda.invoke>[0]["by"]) =>
      await world.drive(world.invoke({ function: "tell", payload: {}, kind: "sync", by }));
    expect(await invoke({ role: role?.arn as string })).toMatchObject({ ok: false, error: "Lambda.AccessDeniedException" });
    expect(await invoke({ service: "events.amazonaws.com", sourceArn: "arn:aws:events:eu-central-1:123456789012:rule/r" })).toMatchObject({
      ok: false,
      error: "Lambda.AccessDeniedException",
      cause: expect.stringContaining("events.amazonaws.com (arn:aws:events:eu-central-1:123456789012:rule/r) is not authorized"),
    });
  });
});

describe("the calls of a function", () => {
  it("reach the local services with the real SDK, in virtual time", async () => {
    const world = boot();
    const payload = payloadOf(await world.invoke("Write", { key: "a" }));
    expect(read(world, "a")).toBe("by a");
    expect(payload.took).toBeGreaterThan(10);
    expect(payload.took).toBeLessThan(40);
    expect(world.counts.calls).toEqual({ "s3.PutObject": { Write: 1 } });
  });

  it("are denied when the role does not allow them, and the denial is listed", async () => {
    const world = boot();
    const payload = payloadOf(await world.invoke("Denied", {}));
    expect(payload).toMatchObject({
      name: "AccessDenied",
      message: expect.stringContaining("is not authorized to perform: s3:GetObject on resource:"),
    });
    expect(world.denials).toMatchObject([{ action: "s3:GetObject" }]);
    expect(world.timeline).toMatchObject([{ kind: "denied", detail: { function: "Denied", action: "s3:GetObject" } }]);
  });

  it("stop the world when they ask for what is not modelled, naming function, service, operation and field", async () => {
    await expect(boot().invoke("Strange", {})).rejects.toMatchObject({ name: "Unmodelled", message: "Strange: s3 GetBucketPolicy is not modelled" });
    await expect(boot().invoke("Strange", { field: true })).rejects.toMatchObject({
      name: "Unmodelled",
      message: "Strange: s3 PutObject: input field WebsiteRedirectLocation is not modelled",
    });
  });

  it("are traced as AWS's own models name them, bytes as their number", async () => {
    const trace: unknown[] = [];
    const world = boot({ trace: (entry) => trace.push(entry) });
    await world.invoke("Write", { key: "a" });
    expect(trace).toMatchObject([
      {
        seq: 0,
        at: expect.stringMatching(/^2026-01-05T02:00:/),
        service: "s3",
        operation: "PutObject",
        input: { Key: "a", Body: { bytes: 4 } },
        output: { ETag: expect.any(String) },
        function: "Write",
        role: world.template.functions.find(({ label }) => label === "Write")?.role,
      },
    ]);
  });
});

describe("faults", () => {
  it("throttle: the SDK asks again, in virtual time", async () => {
    const world = boot();
    world.faults.plan("throttle", "Write: s3 PutObject", 2);
    const payload = payloadOf(await world.invoke("Write", { key: "a" }));
    expect(payload.took).toBeGreaterThan(50);
    expect(world.counts.calls["s3.PutObject"]).toEqual({ Write: 3 });
    expect(world.faults.struck).toEqual({ throttle: 2 });
  });

  it.each([
    ["crashBeforeEffect", undefined],
    ["crashAfterEffect", "by a"],
  ] as const)("%s: the function is lost, and its call did or did not happen", async (fault, found) => {
    const world = boot();
    world.faults.plan(fault, "PutObject");
    const outcome = await world.invoke("Write", { key: "a", also: ["b"] });
    expect(outcome).toMatchObject({ ok: false, kind: "service", error: "Lambda.Unknown" });
    await world.runUntilIdle();
    expect([read(world, "a"), read(world, "b")]).toEqual([found, undefined]);
    expect(await world.invoke("Write", { key: "c" })).toMatchObject({ ok: true });
    expect(world.counts.functions.Write?.coldStarts).toBe(2);
  });

  it("let a call take effect that had left before its function was lost", async () => {
    const world = boot();
    world.faults.plan("crashBeforeEffect", "PutObject");
    expect((await world.invoke("Write", { key: "a", also: [], together: ["b", "c"] })).ok).toBe(false);
    await world.runUntilIdle();
    expect(["a", "b", "c"].filter((key) => read(world, key) !== undefined)).toHaveLength(2);
  });

  it("run a handler twice for one request, the caller hearing of one", async () => {
    const world = boot();
    world.faults.plan("runTwice", "Write");
    expect(await world.invoke("Write", { key: "a" })).toMatchObject({ ok: true });
    await world.runUntilIdle();
    expect(world.counts.functions.Write?.invocations).toBe(2);
    expect(world.counts.calls["s3.PutObject"]).toEqual({ Write: 2 });
  });

  it("strike as often as their rate says, and no more once they are healed", async () => {
    const world = boot({ faults: { crashBeforeEffect: 0.5 } });
    let lost = 0;
    for (let each = 0; each < 20; each++) if (!(await world.invoke("Write", { key: `k${each}` })).ok) lost++;
    expect(lost).toBeGreaterThan(3);
    expect(lost).toBeLessThan(17);
    world.healFaults();
    for (let each = 0; each < 5; each++) expect((await world.invoke("Write", { key: "k" })).ok).toBe(true);
  });
});

describe("a container", () => {
  it("is lent to the next world, which sees nothing of the one before", async () => {
    const trace = (seed: number) => {
      const lines: string[] = [];
      return { world: boot({ seed, trace: (entry) => lines.push(JSON.stringify(entry)) }), lines };
    };
    const run = async (seed: number) => {
      const { world, lines } = trace(seed);
      await world.invoke("Write", { key: "a", also: ["d", "c", "b", "e"] });
      await world.invoke("Write", { key: "f", also: ["g"] });
      world.close();
      return lines;
    };
    const fresh = await run(5);
    await run(6);
    expect(await run(5)).toEqual(fresh);
    expect(fresh).toHaveLength(7);
  });

  it("is not lent when it remembers trouble", async () => {
    const world = boot();
    world.faults.plan("throttle", "PutObject");
    await world.invoke("Write", { key: "a" });
    world.close();
    const calm = boot({ seed: 9 });
    const payload = payloadOf(await calm.invoke("Write", { key: "a" }));
    expect(payload.took).toBeLessThan(40);
  });
});
