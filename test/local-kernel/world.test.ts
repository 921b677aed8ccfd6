import { execFileSync } from "node:child_process";
import { deserialize, serialize } from "node:v8";
import { Sha256 } from "@aws-crypto/sha256-js";
import { SignatureV4 } from "@smithy/signature-v4";
import { beforeAll, describe, expect, it } from "vitest";
import type { S3 } from "../../local/aws/s3.js";
import { personCredentials } from "../../local/kernel/http-api.js";
import { World } from "../../local/world.js";
import { allow, bucketOf, writeAssembly } from "./assembly.js";
import { traceHash } from "./fixed-run.js";

let assembly: string;
beforeAll(() => {
  const integration = (name: string, target: string) => ({
    [`${name}Integration`]: {
      Type: "AWS::ApiGatewayV2::Integration",
      Properties: {
        ApiId: { Ref: "Http" },
        IntegrationType: "AWS_PROXY",
        IntegrationUri: { "Fn::GetAtt": [target, "Arn"] },
        PayloadFormatVersion: "2.0",
      },
    },
    [`${name}Permission`]: {
      Type: "AWS::Lambda::Permission",
      Properties: {
        Action: "lambda:InvokeFunction",
        FunctionName: { "Fn::GetAtt": [target, "Arn"] },
        Principal: "apigateway.amazonaws.com",
        SourceArn: { "Fn::Sub": "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Http}/*/*" },
      },
    },
  });
  const route = (name: string, key: string, integrated: string, authorization = "AWS_IAM") => ({
    [name]: {
      Type: "AWS::ApiGatewayV2::Route",
      Properties: {
        ApiId: { Ref: "Http" },
        RouteKey: key,
        AuthorizationType: authorization,
        Target: { "Fn::Sub": `integrations/\${${integrated}Integration}` },
      },
    },
  });
  assembly = writeAssembly({
    functions: {
      Objects: {
        code: `import { S3Client, PutObjectCommand, GetObjectCommand } from "@aws-sdk/client-s3";
          import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
          const s3 = new S3Client({ requestChecksumCalculation: "WHEN_REQUIRED" }); const Bucket = process.env.BUCKET;
          export const handler = async (event) => {
            const Key = event.pathParameters.name;
            if (event.routeKey.startsWith("POST")) {
              const url = await getSignedUrl(s3, new PutObjectCommand({ Bucket, Key, IfNoneMatch: "*" }), { expiresIn: 900, unhoistableHeaders: new Set(["if-none-match"]) });
              return { statusCode: 201, headers: { "Content-Type": "application/json" }, body: JSON.stringify({ url }) };
            }
            if (event.routeKey.startsWith("PUT")) {
              const also = JSON.parse(event.body).with ?? [];
              await Promise.all([Key, ...also].map((each) => s3.send(new PutObjectCommand({ Bucket, Key: each, Body: event.body }))));
              return { stored: Key };
            }
            const found = await s3.send(new GetObjectCommand({ Bucket, Key }));
            return { statusCode: 200, body: await found.Body.transformToString() };
          };`,
        environment: { BUCKET: { Ref: "Bucket" } },
        statements: [allow(["s3:PutObject", "s3:GetObject"], bucketOf("Bucket"))],
      },
      Echo: {
        code: `export const handler = async (event) => {
          if (event.rawPath === "/slow") await new Promise((resolve) => setTimeout(resolve, 40000));
          if (event.rawPath === "/broken") throw new Error("broken");
          if (event.rawPath === "/shapeless") return { statusCode: "what" };
          return event; };`,
      },
      Unreachable: { code: "export const handler = async () => 1;" },
    },
    resources: {
      Bucket: { Type: "AWS::S3::Bucket" },
      Http: { Type: "AWS::ApiGatewayV2::Api", Properties: { Name: "drover", ProtocolType: "HTTP" } },
      Stage: {
        Type: "AWS::ApiGatewayV2::Stage",
        Properties: {
          ApiId: { Ref: "Http" },
          StageName: "$default",
          AutoDeploy: true,
          DefaultRouteSettings: { ThrottlingRateLimit: 1, ThrottlingBurstLimit: 20 },
        },
      },
      ...integration("Objects", "Objects"),
      ...integration("Echo", "Echo"),
      UnreachableIntegration: {
        Type: "AWS::ApiGatewayV2::Integration",
        Properties: {
          ApiId: { Ref: "Http" },
          IntegrationType: "AWS_PROXY",
          IntegrationUri: { "Fn::GetAtt": ["Unreachable", "Arn"] },
          PayloadFormatVersion: "2.0",
        },
      },
      ...route("PutObject", "PUT /objects/{name}", "Objects"),
      ...route("GetObject", "GET /objects/{name}", "Objects"),
      ...route("PostObject", "POST /objects/{name}", "Objects"),
      ...route("Named", "GET /things/{name}", "Echo"),
      ...route("Fixed", "GET /things/fixed", "Echo"),
      ...route("Any", "ANY /things/{name}", "Echo"),
      ...route("Greedy", "GET /files/{path+}", "Echo"),
      ...route("Slow", "GET /slow", "Echo"),
      ...route("Broken", "GET /broken", "Echo"),
      ...route("Shapeless", "GET /shapeless", "Echo"),
      ...route("Open", "GET /open", "Echo", "NONE"),
      ...route("Forgotten", "GET /forgotten", "Unreachable"),
    },
  });
});

const boot = (options: Partial<Parameters<typeof World.boot>[0]> = {}) => World.boot({ assembly, seed: 1, ...options });
const signer = (name: string, service = "execute-api") =>
  new SignatureV4({ credentials: personCredentials(name), region: "eu-central-1", service, sha256: Sha256 });

async function sign(
  world: World,
  more: { name?: string; service?: string; at?: number; path?: string; query?: Record<string, string>; body?: string } = {},
) {
  const request = {
    method: "GET",
    protocol: "https:",
    hostname: "api.local",
    path: more.path ?? "/things/a b",
    query: more.query ?? {},
    headers: { host: "api.local" },
    ...(more.body === undefined ? {} : { body: more.body }),
  };
  const signed = await signer(more.name ?? "operator", more.service).sign(request, { signingDate: new Date(more.at ?? world.clock.now()) });
  const query = Object.entries(more.query ?? {})
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`)
    .join("&");
  return {
    method: "GET",
    host: "api.local",
    path: (more.path ?? "/things/a b") + (query === "" ? "" : `?${query}`),
    headers: Object.fromEntries(Object.entries(signed.headers).map(([name, value]) => [name.toLowerCase(), value])),
    body: Buffer.from(more.body ?? ""),
  };
}

describe("the HTTP API", () => {
  it("hands the most particular route's function an event in payload format 2.0", async () => {
    const world = boot();
    const read = async (method: string, path: string) => JSON.parse((await world.request(method, path)).body) as Record<string, unknown>;
    expect((await read("GET", "/things/fixed")).routeKey).toBe("GET /things/fixed");
    expect((await read("DELETE", "/things/fixed")).routeKey).toBe("ANY /things/{name}");
    expect(await read("GET", "/things/a%20b?x=1&y=2&x=3")).toMatchObject({
      version: "2.0",
      routeKey: "GET /things/{name}",
      rawPath: "/things/a%20b",
      rawQueryString: "x=1&y=2&x=3",
      queryStringParameters: { x: "1,3", y: "2" },
      pathParameters: { name: "a b" },
      isBase64Encoded: false,
      requestContext: {
        accountId: "123456789012",
        http: { method: "GET", path: "/things/a%20b" },
        authorizer: { iam: { userArn: "arn:aws:iam::123456789012:user/operator" } },
        stage: "$default",
        time: expect.stringMatching(/^05\/Jan\/2026:02:00:\d\d \+0000$/),
      },
    });
    expect(await read("GET", "/files/a/b/c")).toMatchObject({ pathParameters: { path: "a/b/c" } });
  });

  it("answers what the function answers, with a status or without", async () => {
    const world = boot();
    expect(await world.request("PUT", "/objects/k", { a: 1 })).toMatchObject({
      status: 200,
      body: '{"stored":"k"}',
      headers: { "content-type": "application/json" },
    });
    expect(await world.request("GET", "/objects/k")).toMatchObject({ status: 200, body: '{"a":1}' });
  });

  it.each([
    ["GET", "/nothing", 404, "Not Found"],
    ["PATCH", "/objects/k", 404, "Not Found"],
    ["GET", "/broken", 500, "Internal Server Error"],
    ["GET", "/shapeless", 500, "Internal Server Error"],
    ["GET", "/forgotten", 500, "Internal Server Error"],
    ["GET", "/slow", 503, "Service Unavailable"],
  ])("%s %s answers %i %s", async (method, path, status, message) => {
    const world = boot();
    expect(await world.request(method, path)).toMatchObject({ status, body: JSON.stringify({ message }) });
    expect(world.clock.now()).toBeLessThan(Date.UTC(2026, 0, 5, 2, 0, 31));
  });

  it("refuses what is too much: a request over 10 MB, requests over the stage's rate", async () => {
    const world = boot();
    expect(await world.request("PUT", "/objects/k", "x".repeat(10 * 1024 * 1024 + 1))).toMatchObject({ status: 413 });
    const caller = { arn: "arn:aws:iam::123456789012:user/operator", accessKeyId: "A", enforced: false };
    const answers = await world.drive(Promise.all(Array.from({ length: 25 }, () => world.api.request({ method: "GET", path: "/things/x" }, caller))));
    expect(answers.map(({ status }) => status)).toEqual([...Array(20).fill(200), ...Array(5).fill(429)]);
    await world.runFor({ seconds: 3 });
    expect((await world.request("GET", "/things/x")).status).toBe(200);
  });

  it("lets a role in only with execute-api:Invoke", async () => {
    const world = boot();
    expect(await world.request("GET", "/things/x", undefined, { as: world.template.roles[0]?.arn as string })).toMatchObject({ status: 403 });
    expect(world.denials).toMatchObject([{ action: "execute-api:Invoke", resource: expect.stringContaining("/$default/GET/things/x") }]);
  });

  it("knows a caller by a signature over the whole request, and nobody else", async () => {
    const world = boot();
    const answer = async (request: Awaited<ReturnType<typeof sign>>) => (await world.drive(world.api.signed(request))).status;
    const good = await sign(world, { query: { "a b": "1/2", z: "é" } });
    expect(await answer(good)).toBe(200);
    expect(await answer({ ...good, path: good.path.replace("1%2F2", "1%2F3") })).toBe(403);
    expect(await answer({ ...good, method: "DELETE" })).toBe(403);
    expect(await answer({ ...good, body: Buffer.from("smuggled") })).toBe(403);
    expect(await answer({ ...good, headers: { ...good.headers, host: "elsewhere" } })).toBe(403);
    expect(await answer({ ...good, headers: {} })).toBe(403);
    expect(await answer(await sign(world, { name: "stranger" }))).toBe(403);
    expect(await answer(await sign(world, { service: "s3" }))).toBe(403);
    expect(await answer(await sign(world, { at: world.clock.now() - 600_000 }))).toBe(403);
    expect(await answer({ ...good, path: "/open", headers: {} })).toBe(200);
  });

  it("serves on loopback, presigned URLs of the artifact store included", async () => {
    const world = boot({ startAt: Date.UTC(2026, 0, 5, 2) });
    const stop = new AbortController();
    const paced = world.clock.pace({ speed: 1000, signal: stop.signal });
    const server = await world.api.serve(0);
    try {
      const { hostname, port, host } = new URL(server.url);
      const signed = await signer("operator").sign(
        { method: "POST", protocol: "http:", hostname, port: Number(port), path: "/objects/upload", headers: { host } },
        { signingDate: new Date() },
      );
      const ticket = await fetch(`${server.url}/objects/upload`, { method: "POST", headers: signed.headers });
      expect(ticket.status).toBe(201);
      const { url } = (await ticket.json()) as { url: string };
      expect(url.startsWith(`${server.url}/_s3/`)).toBe(true);
      const put = () => fetch(url, { method: "PUT", headers: { "if-none-match": "*" }, body: "content" });
      expect((await put()).status).toBe(200);
      expect((await put()).status).toBe(412);
      expect((await fetch(url.replace("upload", "other"), { method: "PUT", headers: { "if-none-match": "*" }, body: "x" })).status).toBe(403);
      expect(
        world
          .service<S3>("s3")
          .read(world.template.buckets[0]?.name as string, "upload")
          ?.toString(),
      ).toBe("content");
      expect((await fetch(`${server.url}/objects/upload`)).status).toBe(403);
    } finally {
      stop.abort();
      await paced;
      await server.close();
    }
  });
});

describe("a world", () => {
  it("does the same for the same seed, in this process and in a fresh one, and something else for another", async () => {
    const first = await traceHash(assembly, 11);
    expect(await traceHash(assembly, 12)).not.toBe(first);
    expect(await traceHash(assembly, 11)).toBe(first);
    const script = `${import.meta.dirname}/trace-hash.ts`;
    expect(execFileSync(process.execPath, ["--no-warnings", "--import", "tsx", script, assembly, "11"], { encoding: "utf8" })).toBe(first);
  });

  it("goes on from what it saved, later and with other ids", async () => {
    const before = boot();
    await before.request("PUT", "/objects/k", { kept: true });
    const first = (await before.request("GET", "/things/x")).headers["apigw-requestid"];
    const saved = deserialize(serialize(before.save()));
    const after = boot({ saved });
    expect(after.clock.now()).toBe(before.clock.now());
    expect(await after.request("GET", "/objects/k")).toMatchObject({ status: 200, body: '{"kept":true}' });
    expect((await after.request("GET", "/things/x")).headers["apigw-requestid"]).not.toBe(first);
    expect(boot({ saved: after.save() }).save()).toMatchObject({ version: 1, starts: 2 });
  });

  it("saves nothing while something is under way", () => {
    const world = boot();
    world.clock.after(10, () => {});
    expect(() => world.save()).toThrow("the world is not at rest: something is still under way");
  });

  it("is checked after every step", async () => {
    const world = boot();
    let steps = 0;
    world.afterEachStep((seen) => {
      if (seen.clock.events !== ++steps) throw new Error("missed a step");
    });
    await world.request("GET", "/things/x");
    expect(steps).toBe(world.clock.events);
    world.afterEachStep(() => {
      throw new Error("law broken");
    });
    await expect(world.request("GET", "/things/x")).rejects.toThrow("law broken");
  });

  it("lists what roles may do and never did", async () => {
    const world = boot();
    await world.request("PUT", "/objects/k", {});
    expect(world.unusedPermissions().map(({ action }) => action)).toEqual(["s3:GetObject"]);
    await world.request("GET", "/objects/k");
    expect(world.unusedPermissions()).toEqual([]);
  });

  it("says which answer never came when it comes to rest too early", async () => {
    await expect(boot().drive(new Promise(() => {}))).rejects.toThrow("the world came to rest (idle) before the answer");
  });
});
