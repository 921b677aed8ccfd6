/**
 * The frame around every handler: parse the input, connect once, act, answer or fail by name.
 *
 * Environment variables are read here and nowhere else; clients and the clock arrive in the task as arguments.
 */
import { Logger } from "@aws-lambda-powertools/logger";
import type { z } from "zod";
import { toStepFailure } from "../core/aws-errors.js";
import { Invalid, type StepFailure } from "../core/failures.js";
import { redact } from "../core/redact.js";

/** One environment variable, or a failure that names it: a deployment fault, seen at the first call. */
export type Environment = (name: string) => string;

export interface Moment {
  /** Milliseconds since the epoch at the start of this call. */
  readonly nowMs: number;
  /** The same as ISO 8601 in UTC, as records keep it. */
  readonly now: string;
  readonly log: Logger;
}

export type Task<Input, Clients, Output> = (input: Input, clients: Clients, moment: Moment) => Promise<Output>;

const logger = new Logger({ serviceName: "drover" });

/**
 * Makes a Lambda handler of a task. `connect` runs once per container.
 *
 * A failure leaves with the name its class gives it, which is what `ErrorEquals` in the state machines reads; AWS's errors become those names in
 * one table (`core/aws-errors.ts`), and one that the table does not know keeps its own name. No secret leaves in a message.
 */
export function lambda<Input, Clients, Output>(
  schema: z.ZodType<Input>,
  connect: (environment: Environment) => Clients,
  task: Task<Input, Clients, Output>,
): (event: unknown) => Promise<Output> {
  let clients: Clients | undefined;
  return async (event) => {
    const now = new Date();
    const moment: Moment = { nowMs: now.getTime(), now: now.toISOString(), log: logger };
    try {
      const input = parse(schema, event);
      clients ??= connect(environment);
      return await task(input, clients, moment);
    } catch (error) {
      const failure = readable(error, stepOf(event));
      logger.warn("step did not succeed", { failure: failure.name, reason: failure.message });
      throw failure;
    }
  };
}

export function environment(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === "") throw new Error(`environment variable ${name} is not set: deploy the stack again`);
  return value;
}

/** Checks what arrived against the schema, and reports every fault in it at once. */
export function parse<Input>(schema: z.ZodType<Input>, value: unknown): Input {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map((issue) => ({
    path: issue.path.join("."),
    message: issue.message,
    severity: "error" as const,
  }));
  throw new Invalid("The request is not of the expected shape", faults, `Correct it and send it again`);
}

/** The failure as a person and a state machine should see it: named, redacted, with its cause kept and its state's name before it. */
function readable(error: unknown, step: string): Error {
  const failure = error instanceof Error ? (awsFailure(error) ?? error) : new Error(String(error));
  failure.message = `${step}${redact(failure.message)}`;
  return failure;
}

/** Name of the state that called, in brackets: inside a Parallel state the error alone does not tell which branch it came from. */
function stepOf(event: unknown): string {
  const step = typeof event === "object" && event !== null && "step" in event ? event.step : undefined;
  return typeof step === "string" ? `[${step}] ` : "";
}

/** An AWS SDK error carries `$metadata`; its name is the service's error code. */
export function awsFailure(error: Error): StepFailure | undefined {
  if (!("$metadata" in error)) return undefined;
  const service = "$service" in error && typeof error.$service === "string" ? error.$service : "aws";
  return toStepFailure({ service, operation: "", code: error.name, message: error.message, resource: "" });
}
