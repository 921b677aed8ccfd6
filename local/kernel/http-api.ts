/**
 * The HTTP API's front door: routes of the template, callers known by their signature, events and answers in payload format 2.0 (API Gateway
 * developer guide, HTTP APIs).
 *
 * In process a caller is taken at its word; over the loopback server every request must carry a valid Signature Version 4. The server also passes
 * presigned S3 requests on: a URL in an answer, `https://<bucket>.s3.<region>.amazonaws.com/<key>?...`, is rewritten to
 * `http://127.0.0.1:<port>/_s3/<that host>/<key>?...`, and a request there is put to the local S3 as the original URL, which is what was signed.
 */
import { createHash } from "node:crypto";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer } from "node:http";
import type { Cloud } from "./cloud.js";
import { Unmodelled } from "./contract.js";
import type { AccessControl } from "./iam.js";
import type { WireRequest } from "./protocols.js";
import { isSignedWith, readSignature } from "./signatures.js";
import type { TemplateApi, TemplateRoute } from "./template.js";

/** Bytes of a request (API Gateway quotas). */
const requestLimitBytes = 10 * 1024 * 1024;
/** Longest wait for a function, whatever the integration says (API Gateway quotas). */
const integrationLimitMilliseconds = 30_000;
/** How far a signature's time may be from the clock. */
const clockSkewMilliseconds = 300_000;

export interface ApiRequest {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

export interface ApiResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Who calls: a person of the account, or a role of the template, whose `execute-api:Invoke` is then checked. */
export interface ApiCaller {
  readonly arn: string;
  readonly accessKeyId: string;
  readonly enforced: boolean;
}

interface ApiWorld extends Cloud {
  readonly access: AccessControl;
  requestId(): string;
  /** The secret and the owner of an access key. */
  credentials(accessKeyId: string): { readonly secretAccessKey: string; readonly caller: ApiCaller } | undefined;
  /** Puts a presigned request to the local S3. */
  fetchPresigned(
    url: string,
    request: { readonly method: string; readonly headers: Readonly<Record<string, string>>; readonly body: Uint8Array },
  ): { readonly status: number; readonly headers: Readonly<Record<string, string>>; readonly body: Uint8Array };
}

/** Access keys of a person at the local cloud: the same every time, worth nothing elsewhere. */
export function personCredentials(name: string): { readonly accessKeyId: string; readonly secretAccessKey: string } {
  const digest = createHash("sha256").update(`person ${name}`).digest("hex");
  return {
    accessKeyId: `AKIA${digest.slice(0, 16).toUpperCase()}`,
    secretAccessKey: createHash("sha256").update(`secret ${digest}`).digest("base64").slice(0, 40),
  };
}

interface Match {
  readonly route: TemplateRoute;
  readonly parameters: Readonly<Record<string, string>>;
}

export class HttpApi {
  readonly #world: ApiWorld;
  readonly #api: TemplateApi;
  #tokens: number;
  #tokensAt: number;

  constructor(world: ApiWorld, api: TemplateApi) {
    this.#world = world;
    this.#api = api;
    this.#tokens = api.throttle?.burst ?? 0;
    this.#tokensAt = world.clock.now();
  }

  /** A request with its signature; `clock: "wall"` when the signer's clock is not the world's, and the signature's age says nothing. */
  async signed(request: WireRequest, clock: "world" | "wall" = "world"): Promise<ApiResponse> {
    const match = this.#match(request);
    if (match?.route.authorization === "NONE") return await this.#answer(request, match, undefined);
    const signature = readSignature(request);
    if (signature === undefined) return message(403, request.headers.authorization === undefined ? "Missing Authentication Token" : "Forbidden");
    const known = this.#world.credentials(signature.accessKeyId);
    const now = this.#world.clock.now();
    const isNow = clock === "wall" || Math.abs(now - signature.signedAt) <= clockSkewMilliseconds;
    const scope = signature.scope.split("/").slice(1).join("/");
    const valid =
      known !== undefined &&
      isNow &&
      scope === `${this.#world.region}/execute-api/aws4_request` &&
      isSignedWith(known.secretAccessKey, signature, request);
    if (!valid) return message(403, "Forbidden");
    return await this.#answer(request, match, known.caller);
  }

  /** A request of a caller who is known already. */
  async request(request: ApiRequest, caller: ApiCaller): Promise<ApiResponse> {
    const wire: WireRequest = {
      method: request.method,
      host: this.#host,
      path: request.path,
      headers: Object.fromEntries(Object.entries(request.headers ?? {}).map(([name, value]) => [name.toLowerCase(), value])),
      body: typeof request.body === "string" ? Buffer.from(request.body, "utf8") : (request.body ?? Buffer.alloc(0)),
    };
    return await this.#answer(wire, this.#match(wire), caller);
  }

  /** Serves on loopback until closed. Port 0 takes any free one. */
  async serve(port: number): Promise<{ readonly url: string; close(): Promise<void> }> {
    const server: Server = createServer((incoming, outgoing) => {
      this.#overHttp(incoming, outgoing, () => baseOf(server)).catch((error: unknown) => {
        this.#world.fail(error instanceof Error ? error : new Error(String(error)));
        if (!outgoing.headersSent) outgoing.writeHead(500, { "content-type": "application/json" });
        outgoing.end('{"message":"Internal Server Error"}');
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, "127.0.0.1", resolve);
    });
    return {
      url: baseOf(server),
      close: () =>
        new Promise((resolve, reject) => {
          server.close((error) => (error === undefined ? resolve() : reject(error)));
          server.closeAllConnections();
        }),
    };
  }

  get #host(): string {
    return `${this.#api.ref}.execute-api.${this.#world.region}.amazonaws.com`;
  }

  async #overHttp(incoming: IncomingMessage, outgoing: ServerResponse, base: () => string): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const headers: Record<string, string> = {};
    for (const [name, value] of Object.entries(incoming.headers)) headers[name] = Array.isArray(value) ? value.join(",") : (value ?? "");
    const path = incoming.url ?? "/";
    const method = incoming.method ?? "GET";
    const body = Buffer.concat(chunks);
    const presigned = /^\/_s3\/([^/?]+)(\/[^?]*)(\?.*)?$/.exec(path);
    if (presigned !== null) {
      const [, host, key, query = ""] = presigned as unknown as [string, string, string, string?];
      // What node:http and clients add by themselves was not part of what S3 would see from a plain client.
      const { host: _host, connection: _connection, "transfer-encoding": _encoding, ...sent } = headers;
      const answer = this.#world.fetchPresigned(`https://${host}${key}${query}`, { method, headers: sent, body });
      outgoing.writeHead(answer.status, { ...answer.headers });
      outgoing.end(method === "HEAD" ? undefined : answer.body);
      return;
    }
    const answer = await this.signed({ method, host: headers.host ?? "", path, headers, body }, "wall");
    const text = answer.body.replace(/https:\/\/([a-z0-9.-]+\.s3[.-][a-z0-9-]*\.?amazonaws\.com)\/(?=[^"\s]*X-Amz-Signature)/g, `${base()}/_s3/$1/`);
    // The time here, which is not that of whoever asks.
    const date = new Date(this.#world.clock.now()).toUTCString();
    outgoing.writeHead(answer.status, { ...answer.headers, date, "content-length": String(Buffer.byteLength(text)) });
    outgoing.end(text);
  }

  async #answer(request: WireRequest, match: Match | undefined, caller: ApiCaller | undefined): Promise<ApiResponse> {
    if (request.body.byteLength > requestLimitBytes) return message(413, "Request Entity Too Large");
    if (match === undefined) return message(404, "Not Found");
    if (caller?.enforced === true) {
      const resource = `arn:${this.#world.partition}:execute-api:${this.#world.region}:${this.#world.account}:${this.#api.ref}/${this.#api.stage}/${request.method}${withoutQuery(request.path)}`;
      if (!this.#world.access.decide(caller.arn, { action: "execute-api:Invoke", resource }).allowed) return message(403, "Forbidden");
    }
    if (!this.#admit()) return message(429, "Too Many Requests");
    const { route } = match;
    const { clock } = this.#world;
    const invocation = this.#world.invoke({
      function: route.functionArn,
      payload: this.#event(request, match, caller),
      kind: "sync",
      by: { service: "apigateway.amazonaws.com", sourceArn: this.#sourceArn(route) },
    });
    let expired: (() => void) | undefined;
    const limit = clock.after(Math.min(route.timeoutMilliseconds, integrationLimitMilliseconds), () => expired?.());
    const outcome = await Promise.race([invocation, new Promise<undefined>((resolve) => (expired = () => resolve(undefined)))]);
    limit.cancel();
    if (outcome === undefined) return message(503, "Service Unavailable");
    if (!outcome.ok) {
      this.#world.note("request failed", {
        method: request.method,
        path: withoutQuery(request.path),
        error: outcome.error,
        requestId: outcome.requestId,
      });
      return outcome.error === "Lambda.TooManyRequestsException" ? message(503, "Service Unavailable") : message(500, "Internal Server Error");
    }
    return respond(outcome.payload, outcome.requestId);
  }

  /** A token bucket of the stage. */
  #admit(): boolean {
    const { throttle } = this.#api;
    if (throttle === undefined) return true;
    const now = this.#world.clock.now();
    this.#tokens = Math.min(throttle.burst, this.#tokens + ((now - this.#tokensAt) / 1000) * throttle.ratePerSecond);
    this.#tokensAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }

  /** The most particular route: a method before ANY, words before parameters, a greedy parameter last, then $default. */
  #match(request: WireRequest): Match | undefined {
    const segments = withoutQuery(request.path).split("/").slice(1);
    const candidates = this.#api.routes
      .filter((route) => ["$default", "ANY", request.method].includes(route.method))
      .flatMap((route) => {
        const parameters = route.path === "$default" ? {} : match(route.path.split("/").slice(1), segments);
        return parameters === undefined ? [] : [{ route, parameters, rank: rankOf(route) }];
      })
      .sort((a, b) => (a.rank < b.rank ? -1 : 1));
    return candidates[0];
  }

  #sourceArn(route: TemplateRoute): string {
    const { partition, region, account } = this.#world;
    const path = route.path === "$default" ? "/$default" : `/${route.method === "ANY" ? "*" : route.method}${route.path}`;
    return `arn:${partition}:execute-api:${region}:${account}:${this.#api.ref}/${this.#api.stage}${path}`;
  }

  #event(request: WireRequest, { route, parameters }: Match, caller: ApiCaller | undefined): unknown {
    const [path = "/", rawQueryString = ""] = request.path.split("?");
    const query: Record<string, string> = {};
    for (const [name, value] of new URLSearchParams(rawQueryString)) query[name] = query[name] === undefined ? value : `${query[name]},${value}`;
    const now = this.#world.clock.now();
    const text = Buffer.from(request.body).toString("utf8");
    const isText = Buffer.from(text, "utf8").equals(Buffer.from(request.body));
    const routeKey = route.path === "$default" ? "$default" : `${route.method} ${route.path}`;
    const { account } = this.#world;
    return {
      version: "2.0",
      routeKey,
      rawPath: path,
      rawQueryString,
      headers: { ...request.headers, "content-length": String(request.body.byteLength), host: this.#host },
      ...(Object.keys(query).length === 0 ? {} : { queryStringParameters: query }),
      requestContext: {
        accountId: account,
        apiId: this.#api.ref,
        ...(caller === undefined
          ? {}
          : {
              authorizer: {
                iam: {
                  accessKey: caller.accessKeyId,
                  accountId: account,
                  callerId: caller.accessKeyId,
                  cognitoIdentity: null,
                  principalOrgId: null,
                  userArn: caller.arn,
                  userId: caller.accessKeyId,
                },
              },
            }),
        domainName: this.#host,
        domainPrefix: this.#api.ref,
        http: { method: request.method, path, protocol: "HTTP/1.1", sourceIp: "127.0.0.1", userAgent: request.headers["user-agent"] ?? "" },
        requestId: this.#world.requestId(),
        routeKey,
        stage: this.#api.stage,
        time: commonLogTime(now),
        timeEpoch: Math.floor(now),
      },
      ...(Object.keys(parameters).length === 0 ? {} : { pathParameters: parameters }),
      ...(request.body.byteLength === 0 ? {} : { body: isText ? text : Buffer.from(request.body).toString("base64") }),
      isBase64Encoded: request.body.byteLength > 0 && !isText,
    };
  }
}

function respond(payload: unknown, requestId: string): ApiResponse {
  const apart = { "apigw-requestid": requestId };
  const shaped = payload as {
    statusCode?: unknown;
    headers?: Record<string, unknown>;
    body?: unknown;
    isBase64Encoded?: boolean;
    cookies?: unknown;
  } | null;
  if (typeof shaped !== "object" || shaped === null || shaped.statusCode === undefined) {
    return {
      status: 200,
      headers: { "content-type": "application/json", ...apart },
      body: typeof payload === "string" ? payload : JSON.stringify(payload),
    };
  }
  const status = Number(shaped.statusCode);
  if (!Number.isInteger(status) || (shaped.body !== undefined && shaped.body !== null && typeof shaped.body !== "string")) {
    return message(500, "Internal Server Error");
  }
  if (shaped.cookies !== undefined) throw new Unmodelled("cookies in an answer of the HTTP API");
  const headers = Object.fromEntries(Object.entries(shaped.headers ?? {}).map(([name, value]) => [name.toLowerCase(), String(value)]));
  const body = (shaped.body as string | undefined) ?? "";
  return {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", ...headers, ...apart },
    body: shaped.isBase64Encoded === true ? Buffer.from(body, "base64").toString("utf8") : body,
  };
}

function message(status: number, text: string): ApiResponse {
  return { status, headers: { "content-type": "application/json" }, body: JSON.stringify({ message: text }) };
}

function match(pattern: readonly string[], segments: readonly string[]): Record<string, string> | undefined {
  const parameters: Record<string, string> = {};
  for (const [index, part] of pattern.entries()) {
    const greedy = /^\{(.+)\+\}$/.exec(part)?.[1];
    if (greedy !== undefined) {
      if (index >= segments.length) return undefined;
      parameters[greedy] = segments.slice(index).map(decode).join("/");
      return parameters;
    }
    const segment = segments[index];
    if (segment === undefined || segment === "") return undefined;
    const name = /^\{(.+)\}$/.exec(part)?.[1];
    if (name !== undefined) parameters[name] = decode(segment);
    else if (part !== segment) return undefined;
  }
  return pattern.length === segments.length ? parameters : undefined;
}

function rankOf(route: TemplateRoute): string {
  if (route.path === "$default") return "z";
  const path = route.path
    .split("/")
    .map((part) => (part.endsWith("+}") ? "2" : part.startsWith("{") ? "1" : "0"))
    .join("");
  return `${path}${route.method === "ANY" ? "1" : "0"}`;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const withoutQuery = (path: string) => path.split("?")[0] as string;

function baseOf(server: Server): string {
  const address = server.address();
  return typeof address === "object" && address !== null ? `http://127.0.0.1:${address.port}` : "";
}

/** As in an access log: 05/Jan/2026:02:00:00 +0000. */
function commonLogTime(at: number): string {
  const [, day, month, year, time] = /^\w+, (\d+) (\w+) (\d+) ([\d:]+)/.exec(new Date(at).toUTCString()) as unknown as string[];
  return `${day}/${month}/${year}:${time} +0000`;
}
