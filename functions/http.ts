/** The frame around handlers behind the HTTP API: route, act, answer; every failure becomes one answer a person can act on. */
import { Logger } from "@aws-lambda-powertools/logger";
import { z } from "zod";
import { type ApiError, type RouteName, routes } from "../core/api.js";
import { Busy, Invalid, NotYet, StepFailure, Unsafe } from "../core/failures.js";
import { redact } from "../core/redact.js";
import { type Environment, environment, type Moment } from "./lambda.js";

/** A request in API Gateway's payload format 2.0, as far as it is read. */
const request = z.object({
  routeKey: z.string(),
  pathParameters: z.record(z.string(), z.string()).default({}),
  queryStringParameters: z.record(z.string(), z.string()).default({}),
  body: z.string().optional(),
  isBase64Encoded: z.boolean().default(false),
  requestContext: z.object({ authorizer: z.object({ iam: z.object({ userArn: z.string().nullish() }).optional() }).optional() }).optional(),
});

export interface HttpRequest {
  readonly path: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string>>;
  readonly body: string;
  /** ARN of who asks, as IAM knows them. */
  readonly caller: string;
}

export interface HttpAnswer {
  readonly status: number;
  readonly body: unknown;
}

/** Something asked for is not there. */
export class NotFound extends StepFailure {
  override readonly name = "NotFound";
}

export type Route<Clients> = (request: HttpRequest, clients: Clients, moment: Moment) => Promise<HttpAnswer>;

const logger = new Logger({ serviceName: "drover" });

/** Makes a Lambda handler of routes. Answers are never cached: they change, and some are secret. */
export function httpHandler<Clients>(
  connect: (environment: Environment) => Clients,
  handlers: Readonly<Partial<Record<RouteName, Route<Clients>>>>,
): (event: unknown) => Promise<{ statusCode: number; headers: Record<string, string>; body: string }> {
  let clients: Clients | undefined;
  const byKey = new Map(
    (Object.keys(handlers) as RouteName[]).map((name) => [`${routes[name].method} ${routes[name].path}`, handlers[name] as Route<Clients>]),
  );
  return async (event) => {
    const now = new Date();
    const answer = await answerOf(async () => {
      const parsed = request.parse(event);
      const route = byKey.get(parsed.routeKey);
      if (route === undefined) throw new NotFound(`There is no ${parsed.routeKey}`, "See the API document for what there is");
      clients ??= connect(environment);
      const body = parsed.isBase64Encoded ? Buffer.from(parsed.body ?? "", "base64").toString("utf8") : (parsed.body ?? "");
      const caller = parsed.requestContext?.authorizer?.iam?.userArn ?? "unknown";
      const read = { path: parsed.pathParameters, query: parsed.queryStringParameters, body, caller };
      return route(read, clients, { nowMs: now.getTime(), now: now.toISOString(), log: logger });
    });
    return {
      statusCode: answer.status,
      headers: { "content-type": "application/json", "cache-control": "no-store" },
      body: JSON.stringify(answer.body),
    };
  };
}

/** Reads a JSON body; anything else is Invalid, with what is wrong and nothing of what was sent. */
export function readBody<T>(schema: z.ZodType<T>, body: string): T {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw new Invalid("The request's body is not JSON", [], "Send JSON as the API document describes");
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map((issue) => ({ path: issue.path.join("."), message: issue.message, severity: "error" as const }));
  throw new Invalid("The request is not of the expected shape", faults, "Correct it and send it again");
}

/** A name becomes part of a key, so it must be one. */
export function nameIn(path: Readonly<Record<string, string>>): string {
  const name = path.name ?? "";
  if (!/^[a-z][a-z0-9-]{0,29}$/.test(name)) throw new NotFound(`"${name.slice(0, 40)}" is no cluster's name`, "See which there are: drover list");
  return name;
}

async function answerOf(act: () => Promise<HttpAnswer>): Promise<HttpAnswer> {
  try {
    return await act();
  } catch (error) {
    const { status, body } = failureAnswer(error);
    if (status >= 500) logger.error("request failed", { failure: body.error, reason: error instanceof Error ? redact(error.message) : "" });
    return { status, body };
  }
}

function failureAnswer(error: unknown): { status: number; body: ApiError } {
  const answer = (status: number, name: ApiError["error"], failure: StepFailure, faults: ApiError["faults"] = []) => ({
    status,
    body: { error: name, message: redact(failure.what), next: redact(failure.next), faults },
  });
  if (error instanceof Invalid)
    return answer(
      400,
      "Invalid",
      error,
      error.faults.map(({ path, message }) => ({ path, message: redact(message) })),
    );
  if (error instanceof NotFound) return answer(404, "NotFound", error);
  if (error instanceof Busy) return answer(409, "Busy", error);
  if (error instanceof Unsafe) return answer(409, "Unsafe", error);
  if (error instanceof NotYet) return answer(503, "Internal", error);
  return {
    status: 500,
    body: { error: "Internal", message: "The request failed inside Drover", next: "Try again; the function's log says why", faults: [] },
  };
}
