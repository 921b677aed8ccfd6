/**
 * Queues, as far as dead letters need them: something arrives, is counted, is read by a person, and goes away when its retention ends.
 *
 * No function calls SQS, so there are no operations; another service sends, and only where the queue's policy lets that service in.
 */
import { createHash } from "node:crypto";
import { type Service, Unmodelled, type World } from "../kernel/contract.js";
import type { Template } from "../kernel/template.js";

/** Four days (SQS API reference, SetQueueAttributes). */
const defaultRetentionSeconds = 345_600;

export interface QueueConfig {
  readonly arn: string;
  readonly retentionSeconds: number;
}

export interface Message {
  readonly id: string;
  readonly body: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly sentAtMs: number;
}

/** Who sends: an AWS service on behalf of a resource, or a role whose own permission the kernel has checked. */
export type Sender = { readonly service: string; readonly sourceArn: string } | { readonly role: string };

export interface Queues extends Service {
  createQueue(config: QueueConfig): void;
  /** Adds an AWS::SQS::QueuePolicy. */
  setPolicy(arn: string, policy: unknown): void;
  /** Answers whether the queue took it: not when it is not there, or its policy does not name the sender. */
  send(arn: string, body: string, attributes: Readonly<Record<string, string>>, sender: Sender): boolean;
  messages(arn: string): readonly Message[];
}

interface Statement {
  readonly allow: boolean;
  readonly services: readonly string[];
  readonly actions: readonly string[];
  readonly conditions: readonly { readonly operator: string; readonly key: string; readonly values: readonly string[] }[];
}

interface Saved {
  readonly serial: number;
  readonly queues: readonly { readonly arn: string; readonly messages: readonly Message[] }[];
}

export function createQueues(world: World & { readonly template?: Pick<Template, "queues"> }): Queues {
  const configs = new Map<string, QueueConfig>();
  const policies = new Map<string, readonly Statement[]>();
  let messages = new Map<string, Message[]>();
  let serial = 0;

  function kept(arn: string): Message[] {
    const config = configs.get(arn);
    if (config === undefined) return [];
    const oldest = world.clock.now() - config.retentionSeconds * 1000;
    const left = (messages.get(arn) ?? []).filter((message) => message.sentAtMs > oldest);
    messages.set(arn, left);
    return left;
  }

  function isAllowed(arn: string, sender: Sender): boolean {
    if ("role" in sender) return true;
    const matching = (policies.get(arn) ?? []).filter(
      (statement) =>
        statement.actions.some((action) => ["*", "sqs:*", "sqs:SendMessage"].includes(action)) &&
        statement.services.some((service) => service === "*" || service === sender.service) &&
        statement.conditions.every((condition) =>
          holds(condition, { "aws:SourceArn": sender.sourceArn, "aws:SourceAccount": world.account, "aws:SecureTransport": "true" }),
        ),
    );
    return matching.some((statement) => statement.allow) && !matching.some((statement) => !statement.allow);
  }

  for (const { arn, properties, policy } of world.template?.queues ?? []) {
    configs.set(arn, { arn, retentionSeconds: Number(properties.MessageRetentionPeriod ?? defaultRetentionSeconds) });
    if (policy !== undefined) policies.set(arn, parsePolicy(arn, policy));
  }

  return {
    name: "sqs",
    operations: {},
    throttle: { code: "RequestThrottled", httpStatus: 403 },
    createQueue(config) {
      configs.set(config.arn, config);
    },
    setPolicy(arn, policy) {
      policies.set(arn, parsePolicy(arn, policy));
    },
    send(arn, body, attributes, sender) {
      if (!configs.has(arn) || !isAllowed(arn, sender)) {
        world.note("message refused", { queue: arn, reason: configs.has(arn) ? "the queue's policy does not allow the sender" : "no such queue" });
        return false;
      }
      const id = uuid(`message ${++serial}`);
      messages.set(arn, [...kept(arn), { id, body, attributes, sentAtMs: world.clock.now() }]);
      world.note("message", { queue: arn, id, bytes: Buffer.byteLength(body) });
      return true;
    },
    messages: (arn) => [...kept(arn)],
    save: (): Saved => structuredClone({ serial, queues: [...messages].map(([arn, list]) => ({ arn, messages: list })) }),
    load(state) {
      const saved = structuredClone(state as Saved);
      serial = saved.serial;
      messages = new Map(saved.queues.map((queue) => [queue.arn, [...queue.messages]]));
    },
  };
}

function parsePolicy(arn: string, policy: unknown): Statement[] {
  const statements = list((policy as { Statement?: unknown }).Statement) as Readonly<Record<string, unknown>>[];
  return statements.map((statement): Statement => {
    const principal = statement.Principal as string | { Service?: unknown; AWS?: unknown } | undefined;
    if (principal === undefined || statement.NotAction !== undefined)
      throw new Unmodelled(`queue policy of ${arn}: a statement without Principal, or with NotAction`);
    // A principal of the account is no service; `*` is everybody.
    const services =
      typeof principal === "string" ? [principal] : [...(list(principal.Service) as string[]), ...(list(principal.AWS).includes("*") ? ["*"] : [])];
    const conditions = Object.entries((statement.Condition ?? {}) as Record<string, Record<string, unknown>>).flatMap(([operator, keys]) => {
      if (!["ArnEquals", "ArnLike", "StringEquals", "StringLike", "Bool"].includes(operator))
        throw new Unmodelled(`queue policy of ${arn}: condition ${operator}`);
      return Object.entries(keys).map(([key, values]) => ({ operator, key, values: list(values).map(String) }));
    });
    return { allow: statement.Effect === "Allow", services, actions: list(statement.Action) as string[], conditions };
  });
}

function holds(
  condition: { readonly operator: string; readonly key: string; readonly values: readonly string[] },
  facts: Readonly<Record<string, string>>,
): boolean {
  const fact = facts[condition.key];
  if (fact === undefined) return false;
  if (condition.operator === "StringEquals" || condition.operator === "Bool") return condition.values.includes(fact);
  return condition.values.some((value) =>
    new RegExp(
      `^${value
        .replace(/[.+^${}()|[\]\\]/g, "\\$&")
        .replaceAll("*", ".*")
        .replaceAll("?", ".")}$`,
    ).test(fact),
  );
}

function list(value: unknown): unknown[] {
  return value === undefined ? [] : Array.isArray(value) ? value : [value];
}

/** An id in the form of a UUID, the same for the same name. */
export function uuid(name: string): string {
  const hex = createHash("sha256").update(name).digest("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
