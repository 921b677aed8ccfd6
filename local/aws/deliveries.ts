/**
 * How EventBridge hands something to a target: once if all goes well, again while the retry policy allows it, then to the dead-letter queue.
 */
import type { Cloud, Invocation } from "../kernel/cloud.js";
import { Unmodelled, type World } from "../kernel/contract.js";
import type { Queues } from "./queues.js";

export type DeliveringWorld = World & Pick<Cloud, "invoke">;

export interface Delivery {
  readonly targetArn: string;
  readonly payload: unknown;
  readonly by: Exclude<Invocation["by"], "owner">;
  /** ARN of the rule or schedule. */
  readonly sourceArn: string;
  readonly service: "events.amazonaws.com" | "scheduler.amazonaws.com";
  readonly retries: number;
  readonly maxAgeSeconds: number;
  readonly deadLetterArn: string | undefined;
}

/** Refusals that another attempt cannot change (EventBridge user guide, retry policy): they go to the dead letters at once. */
const finalErrors = ["AccessDenied", "AccessDeniedException", "ResourceNotFoundException", "InvalidParameterValueException", "ValidationException"];
const firstRetryMilliseconds = 1000;
const longestRetryMilliseconds = 600_000;

/** What a target can be: checked when the rule or schedule is made, so that nothing is found out at the first event. */
export function requireTarget(arn: string, at: string): void {
  if (!/^arn:aws:(lambda:[^:]*:[^:]*:function|sqs:[^:]*:[^:]*):/.test(arn))
    throw new Unmodelled(`${at}: target ${arn} (only functions and queues are modelled)`);
}

/** Delivers, and keeps at it. Answers when the target took it or the dead letters did; never rejects, except that the world stops. */
export async function deliver(world: DeliveringWorld, random: World["random"], delivery: Delivery): Promise<void> {
  const startedAt = world.clock.now();
  for (let attempt = 0; ; attempt++) {
    const refusal = await attemptOnce(world, delivery);
    if (refusal === undefined) return;
    const wait = random.next() * Math.min(longestRetryMilliseconds, firstRetryMilliseconds * 2 ** Math.min(attempt, 20)) + firstRetryMilliseconds / 2;
    const isFinal = finalErrors.some((error) => refusal.error.endsWith(error));
    const isTooOld = world.clock.now() + wait - startedAt > delivery.maxAgeSeconds * 1000;
    if (isFinal || isTooOld || attempt >= delivery.retries) {
      const exhausted = isFinal ? undefined : isTooOld ? "MaximumEventAgeInSeconds" : "MaximumRetryAttempts";
      bury(world, delivery, refusal, attempt, exhausted);
      return;
    }
    await new Promise<void>((resolve) => world.clock.after(wait, resolve));
  }
}

interface Refusal {
  readonly error: string;
  readonly message: string;
}

async function attemptOnce(world: DeliveringWorld, delivery: Delivery): Promise<Refusal | undefined> {
  const { targetArn, payload } = delivery;
  if (targetArn.includes(":sqs:")) {
    const sender = "role" in delivery.by ? { role: delivery.by.role } : { service: delivery.service, sourceArn: delivery.sourceArn };
    const taken = world.service<Queues>("sqs").send(targetArn, JSON.stringify(payload), {}, sender);
    return taken ? undefined : { error: "AccessDenied", message: `${targetArn} did not take the message` };
  }
  const outcome = await world.invoke({ function: targetArn, payload, kind: "event", by: delivery.by });
  // A function that took the event and failed is Lambda's to retry and to bury.
  return outcome.ok || outcome.kind === "handler" ? undefined : { error: outcome.error, message: outcome.cause };
}

function bury(world: DeliveringWorld, delivery: Delivery, refusal: Refusal, attempts: number, exhausted: string | undefined): void {
  const { deadLetterArn, service, sourceArn, targetArn } = delivery;
  const attributes = {
    [service === "events.amazonaws.com" ? "RULE_ARN" : "SCHEDULE_ARN"]: sourceArn,
    TARGET_ARN: targetArn,
    ERROR_CODE: refusal.error,
    ERROR_MESSAGE: refusal.message,
    RETRY_ATTEMPTS: String(attempts),
    ...(exhausted === undefined ? {} : { EXHAUSTED_RETRY_CONDITION: exhausted }),
  };
  const kept =
    deadLetterArn !== undefined &&
    world.service<Queues>("sqs").send(deadLetterArn, JSON.stringify(delivery.payload), attributes, { service, sourceArn });
  world.note(kept ? "event in the dead letters" : "event dropped", { source: sourceArn, target: targetArn, error: refusal.error, attempts });
}
