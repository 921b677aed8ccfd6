/** Law 6: the world's real secrets are looked for in everything that leaves it. */
import type { SeenCall } from "../kernel/calls.js";
import type { CloudEvent } from "../kernel/contract.js";
import { type Bench, broken, type Law } from "./law.js";
import { textOf } from "./seen.js";

/** A presigned URL's signature, and a task token, are known by their form. */
const signature = /X-Amz-Signature(?:=|%3D)[0-9a-f]{64}/i;
const taskToken = "AQCkAAAAKgAAAAMAAAAAAAAAAS";

export interface SecretWatch extends Law {
  /** Something is about to leave. */
  leaves(text: string, where: string, allowed?: { readonly url?: boolean; readonly token?: boolean }): void;
}

export function noSecretInTheClear({ seen, held }: Bench): SecretWatch {
  /** Secret to what it is. */
  const secrets = new Map<string, string>();
  const histories = new Map<string, number>();
  let logs = 0;

  function leaves(text: string, where: string, allowed: { readonly url?: boolean; readonly token?: boolean } = {}): void {
    held(6);
    for (const [secret, what] of secrets) if (text.includes(secret)) broken(6, `the ${what} is in ${where}`);
    if (allowed.url !== true && signature.test(text)) broken(6, `a presigned URL is in ${where}`);
    if (allowed.token !== true && text.includes(taskToken)) broken(6, `a task token is in ${where}`);
  }

  function learn(key: string, text: string): void {
    const [, uid, kind] = /^secrets\/([^/]+)\/([^/]+)\//.exec(key) ?? [];
    const value = kind === undefined ? text : (JSON.parse(text) as { value: string }).value;
    const clientKey = /client-key-data["'\\]*:\s*["'\\]*([A-Za-z0-9+/=]{16,})/.exec(value)?.[1];
    if (clientKey !== undefined) secrets.set(clientKey, "client key of a kubeconfig");
    else if (kind !== undefined) secrets.set(value, `${kind} of ${uid}`);
  }

  function s3(call: SeenCall): void {
    const {
      Bucket,
      Key = "",
      Body,
      ServerSideEncryption,
    } = call.input as { Bucket?: string; Key?: string; Body?: Uint8Array | string; ServerSideEncryption?: string };
    if (call.operation !== "PutObject" || Bucket !== seen.world.stateBucket) return;
    const text = textOf(Body);
    if (ServerSideEncryption === "aws:kms") {
      if (/^(secrets|uploads)\//.test(Key)) learn(Key, text);
      return;
    }
    leaves(text, `${Key}, which is not encrypted with the secrets key`, { token: Key.startsWith("callbacks/") });
  }

  return {
    number: 6,
    leaves,
    call(call) {
      if (call.service === "s3") s3(call);
      // The one place where a URL may be in the clear, and so it lives minutes only.
      else if (call.operation === "SendCommand") leaves(JSON.stringify(call.input), "a parameter of Run Command", { url: true });
      else if (call.operation === "ListCommandInvocations") leaves(JSON.stringify(call.output ?? ""), "the output of a node command");
      else if (call.operation === "PutEvents") leaves(JSON.stringify(call.input), "an event on the bus");
      else if (call.operation === "SendTaskFailure" || call.operation === "SendTaskSuccess") {
        const { taskToken: _, ...rest } = call.input as { taskToken?: string };
        leaves(JSON.stringify(rest), "the answer to a waiting step");
      }
    },
    event(event: CloudEvent) {
      // Systems Manager repeats a command's parameters in its events.
      leaves(JSON.stringify(event.detail), `an event "${event.detailType}" of ${event.source}`, { url: event.source === "aws.ssm" });
    },
    step() {
      const lines = seen.world.logs;
      for (; logs < lines.length; logs++) leaves(lines[logs]?.line ?? "", `a log line of ${lines[logs]?.function}`);
      for (const { arn, history } of seen.world.executions()) {
        const from = histories.get(arn) ?? 0;
        if (history.length === from) continue;
        histories.set(arn, history.length);
        for (const event of history.slice(from)) {
          if (event.details !== undefined)
            leaves(JSON.stringify(event.details), `${event.type} in the history of ${arn.split(":").at(-1)}`, { token: true });
        }
      }
    },
  };
}
