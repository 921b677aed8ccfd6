/**
 * Calls of the HTTP API: signed, retried where a repeat is safe, and every bad answer turned into what a person should do.
 *
 * Every call may be sent twice: reads change nothing, creates and deletes carry a request id, uploads name their content.
 */
import { Sha256 } from "@aws-crypto/sha256-js";
import { SignatureV4 } from "@smithy/signature-v4";
import { z } from "zod";
import { type ApiError, type RouteName, routes } from "../core/api.js";
import type { Endpoint } from "./endpoint.js";
import { CommandFailure, faultLine, OutOfReach } from "./failures.js";
import type { FileRange, HttpResponse } from "./http.js";
import type { Surroundings } from "./surroundings.js";
import { plain } from "./text.js";

export interface ApiClient {
  readonly endpoint: Endpoint;
  /** @param parameters values of the names in braces in the route's path */
  call<T>(route: RouteName, parameters?: Readonly<Record<string, string>>, body?: unknown): Promise<T>;
  /** Puts a part of a file to an address that carries its own signature. `expired` when that address is not accepted any more. */
  put(url: string, body: FileRange): Promise<"stored" | "expired">;
}

/** API Gateway answers within 30 s, whatever happens behind it. */
const silenceMilliseconds = 35_000;
const mostTries = 5;
const firstPauseMilliseconds = 500;

export function apiClient(endpoint: Endpoint, surroundings: Surroundings): ApiClient {
  const repeat = repeater(surroundings);
  return {
    endpoint,
    async call<T>(name: RouteName, parameters: Readonly<Record<string, string>> = {}, body?: unknown): Promise<T> {
      const { method, path } = routes[name];
      const filled = path.replace(/\{(\w+)\}/g, (_, key: string) => encodeURIComponent(parameters[key] ?? ""));
      const url = new URL(`${endpoint.url.pathname.replace(/\/+$/, "")}${filled}`, endpoint.url);
      const bytes = body === undefined ? undefined : new TextEncoder().encode(JSON.stringify(body));
      const answer = await repeat(`${method} ${filled}`, endpoint.label, async () => {
        const headers = await signed({ method, url, bytes }, endpoint, surroundings.now());
        const request = { method, url, headers, silenceMilliseconds, ...(bytes === undefined ? {} : { body: bytes }) };
        return await surroundings.send(request, surroundings.interrupted);
      });
      if (answer.headers.date !== undefined) endpoint.heard(answer.headers.date);
      if (answer.status >= 200 && answer.status < 300) return JSON.parse(text(answer)) as T;
      throw refusal(answer, { method, path: filled, endpoint });
    },
    async put(url, body) {
      const target = new URL(url);
      const answer = await repeat(`PUT of ${body.file}`, target.host, () =>
        surroundings.send({ method: "PUT", url: target, headers: {}, body, silenceMilliseconds: 120_000 }, surroundings.interrupted),
      );
      if (answer.status === 200) return "stored";
      if (answer.status === 403 && /expired/i.test(text(answer))) return "expired";
      const said = /<Message>([^<]*)<\/Message>/.exec(text(answer))?.[1] ?? `status ${answer.status}`;
      throw new CommandFailure(
        "unreachable",
        `The artifact store at ${target.host} refused a part of ${body.file}: ${plain(said)}`,
        "Start the command again, it goes on where it stopped; if the store's bucket policy allows only a VPC endpoint, run it from inside that network",
      );
    },
  };
}

const text = (answer: HttpResponse) => Buffer.from(answer.body).toString("utf8");

async function signed(
  request: { readonly method: string; readonly url: URL; readonly bytes: Uint8Array | undefined },
  endpoint: Endpoint,
  now: number,
): Promise<Record<string, string>> {
  const { method, url, bytes } = request;
  const signer = new SignatureV4({ service: "execute-api", region: endpoint.region, credentials: await endpoint.credentials(), sha256: Sha256 });
  const { headers } = await signer.sign(
    {
      method,
      protocol: url.protocol,
      hostname: url.hostname,
      path: url.pathname,
      query: {},
      headers: { host: url.host, ...(bytes === undefined ? {} : { "content-type": "application/json" }) },
      ...(bytes === undefined ? {} : { body: bytes }),
    },
    { signingDate: new Date(now) },
  );
  return headers;
}

/** Sends until there is an answer that a repeat would not change: pauses double, with jitter. */
function repeater({ sleep, random, interrupted }: Surroundings) {
  return async (what: string, where: string, send: () => Promise<HttpResponse>): Promise<HttpResponse> => {
    for (let tries = 1; ; tries++) {
      let answer: HttpResponse | undefined;
      let reason: unknown;
      try {
        answer = await send();
      } catch (error) {
        if (error instanceof CommandFailure) throw error;
        reason = error;
      }
      if (interrupted.aborted) throw interruption(`${what} was interrupted`);
      if (answer !== undefined && answer.status !== 429 && answer.status < 500) return answer;
      if (answer === undefined && !mayPass(reason)) throw unreachable(where, reason);
      if (tries === mostTries) {
        if (answer !== undefined) return answer;
        throw unreachable(where, reason);
      }
      const asked = Number(answer?.headers["retry-after"]);
      const pause = firstPauseMilliseconds * 2 ** (tries - 1) * (0.5 + random());
      await sleep(Number.isFinite(asked) && asked > 0 ? Math.min(asked * 1000, 30_000) : pause);
      if (interrupted.aborted) throw interruption(`${what} was interrupted`);
    }
  };
}

export function interruption(what: string, next = "Start the command again when you are ready"): CommandFailure {
  return new CommandFailure("interrupted", what, next);
}

const codeOf = (error: unknown) => String((error as { code?: unknown } | null)?.code ?? "");
const isTls = (code: string) => /^(?:CERT_|ERR_TLS|ERR_SSL|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO_|HOSTNAME_MISMATCH|EPROTO)/.test(code);

/** What is wrong with a certificate or a name stays wrong. */
function mayPass(error: unknown): boolean {
  const code = codeOf(error);
  return !isTls(code) && !["ENOTFOUND", "ECONNREFUSED", "ERR_INVALID_URL"].includes(code);
}

function unreachable(where: string, error: unknown): OutOfReach {
  const code = codeOf(error);
  const message = error instanceof Error ? error.message : String(error);
  const fail = (what: string, next: string) => new OutOfReach(what, next, { cause: error });
  if (isTls(code)) {
    const next = "If a proxy inspects traffic, let Node trust its authority: export NODE_EXTRA_CA_CERTS=/path/to/ca.pem; otherwise check the address";
    return fail(`No trusted connection to ${where}: ${message} (${code})`, next);
  }
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") {
    return fail(`The name of ${where} is not known (${code})`, "Check the endpoint for a misspelling, and that this machine can resolve names");
  }
  if (code === "ECONNREFUSED") {
    const isLocal = where.startsWith("the local cloud");
    return fail(
      `Nothing answers at ${where}`,
      isLocal
        ? "It has stopped: start it with drover local up, its log is .drover/local/local.log"
        : "Check the endpoint, and that a firewall lets you through",
    );
  }
  return fail(`No answer from ${where} after ${mostTries} tries: ${message}`, "Check the network, then start the command again");
}

const apiError = z.object({
  error: z.enum(["Invalid", "NotFound", "Busy", "Unsafe", "Internal"]),
  message: z.string(),
  next: z.string(),
  faults: z.array(z.object({ path: z.string(), message: z.string() })),
}) satisfies z.ZodType<ApiError>;

const exitOf = { Invalid: "input", NotFound: "notFound", Busy: "busy", Unsafe: "input" } as const;

function refusal(answer: HttpResponse, asked: { readonly method: string; readonly path: string; readonly endpoint: Endpoint }): CommandFailure {
  const { status } = answer;
  const body = parsed(text(answer));
  const drover = apiError.safeParse(body);
  if (drover.success) {
    const { error, message, next, faults } = drover.data;
    // Faults get lines of their own below the message, which repeats them.
    const repeated = faults[0] === undefined ? -1 : message.indexOf(`: ${faultLine(faults[0])}`);
    if (error === "Internal") return new OutOfReach(message, next);
    return new CommandFailure(exitOf[error], repeated > 0 ? message.slice(0, repeated) : message, next, faults);
  }
  const { method, path, endpoint } = asked;
  const said = plain(String((body as { message?: unknown } | undefined)?.message ?? "")).slice(0, 500);
  if (status === 401 || status === 403) return denied(said, method, path, endpoint);
  if (status === 404) {
    return new CommandFailure(
      "unreachable",
      `${endpoint.label} knows no ${method} ${path}`,
      "Check that the endpoint is Drover's, and as new as this command",
    );
  }
  if (status === 413) return new CommandFailure("input", "The request is larger than the API takes", "Send a smaller file");
  if (status === 429) return new OutOfReach(`${endpoint.label} is throttling requests`, "Try again in a minute");
  const next = status >= 500 ? "Try again in a minute; if it stays, the log group of the function behind it says why" : "Check the endpoint";
  return new OutOfReach(`${endpoint.label} answered ${method} ${path} with status ${status}${said === "" ? "" : `: ${said}`}`, next);
}

function denied(said: string, method: string, path: string, endpoint: Endpoint): CommandFailure {
  const fail = (what: string, next: string) => new CommandFailure("unreachable", what, next);
  if (/token.*(expired|invalid)|ExpiredToken/i.test(said)) {
    return fail(`The AWS session is over: ${said}`, "Sign in again, such as with aws sso login; then start the command again");
  }
  if (/signature (expired|not yet current)/i.test(said))
    return fail(`The clock of this machine is wrong: ${said}`, "Set it right, then start the command again");
  const api = endpoint.url.hostname.split(".")[0] ?? "*";
  const what = `Denied: ${method} ${path}${said === "" || said === "Forbidden" ? "" : ` (${said})`}`;
  if (endpoint.kind === "local") return fail(what, "The local cloud was started anew with other keys: drover local down, then drover local up");
  return fail(
    what,
    `Your identity needs execute-api:Invoke on arn:aws:execute-api:${endpoint.region}:ACCOUNT:${api}/*/${method}${path}; see who you are: aws sts get-caller-identity`,
  );
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}
