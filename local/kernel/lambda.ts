/**
 * The local Lambda: invocations of the template's functions, in containers, in virtual time.
 *
 * Kept from the service (AWS Lambda developer guide): cold and warm starts, one request at a time per container, reserved concurrency, the function's
 * timeout, payload limits, the form of errors, and asynchronous events with two retries and a dead-letter queue.
 */
import { createHash } from "node:crypto";
import type { Calls, Origin } from "./calls.js";
import type { Invocation, InvocationOutcome } from "./cloud.js";
import type { Random, World } from "./contract.js";
import { Unmodelled } from "./contract.js";
import type { AccessControl } from "./iam.js";
import { wildcard } from "./iam.js";
import type { Host } from "./sandbox.js";
import { Container } from "./sandbox.js";
import type { Template, TemplateFunction } from "./template.js";

/** Bytes of a synchronous request or answer, and of an asynchronous event (Lambda quotas). */
export const payloadLimitBytes = { sync: 6 * 1024 * 1024, event: 1024 * 1024 } as const;

export interface LogLine {
  /** Virtual time, milliseconds since the epoch. */
  readonly at: number;
  readonly function: string;
  readonly requestId: string;
  readonly line: string;
}

export interface FunctionCounts {
  invocations: number;
  errors: number;
  throttles: number;
  coldStarts: number;
  /** Billed duration: from the start of the handler to its answer, in whole milliseconds. */
  billedMilliseconds: number;
  memoryMib: number;
}

interface LambdaWorld extends World {
  readonly template: Template;
  readonly access: AccessControl;
  readonly calls: Calls;
  fail(error: Error): void;
  log(line: LogLine): void;
  /** Puts a message on a queue of the template; false when the queue did not take it. */
  deadLetter(queueArn: string, body: string, attributes: Readonly<Record<string, string>>, role: string): boolean;
}

/** Containers that no world uses, by what tells them apart: code and environment. */
const spare = new Map<string, Container[]>();

/** Access keys of a function's role: the same every time, so that a container can be lent to another world. */
export function functionCredentials(name: string): { readonly accessKeyId: string; readonly secretAccessKey: string; readonly sessionToken: string } {
  const digest = createHash("sha256").update(`function ${name}`).digest("hex");
  return {
    accessKeyId: `ASIA${digest.slice(0, 16).toUpperCase()}`,
    secretAccessKey: createHash("sha256").update(`secret ${digest}`).digest("base64").slice(0, 40),
    sessionToken: `local-${digest.slice(16, 48)}`,
  };
}

interface FunctionState {
  readonly definition: TemplateFunction;
  readonly environment: Readonly<Record<string, string>>;
  readonly key: string;
  readonly idle: Container[];
  /** Containers that this world has started: the next start of any other is cold. */
  running: number;
  serial: number;
  readonly counts: FunctionCounts;
}

export class Lambda {
  readonly #functions = new Map<string, FunctionState>();
  readonly #latency: Random;

  constructor(readonly world: LambdaWorld) {
    this.#latency = world.random.fork("lambda");
    for (const definition of world.template.functions) this.#functions.set(definition.arn, this.#state(definition));
  }

  /** Counts by the functions' labels. */
  get counts(): Readonly<Record<string, FunctionCounts>> {
    return Object.fromEntries([...this.#functions.values()].map(({ definition, counts }) => [definition.label, counts]));
  }

  /** The function that a name, a logical id or an ARN means. */
  find(reference: string): TemplateFunction | undefined {
    const arn = /^(arn:aws:lambda:[^:]+:[^:]+:function:[^:]+)/.exec(reference)?.[1];
    return this.world.template.functions.find((each) => each.arn === arn || each.name === reference || each.logicalId === reference);
  }

  async invoke(request: Invocation): Promise<InvocationOutcome> {
    const requestId = this.world.calls.requestId();
    const definition = this.find(request.function);
    if (definition === undefined) {
      return service(requestId, "Lambda.ResourceNotFoundException", `Function not found: ${request.function}`);
    }
    const refusal = this.#refusal(definition, request);
    if (refusal !== undefined) return service(requestId, "Lambda.AccessDeniedException", refusal);
    const state = this.#functions.get(definition.arn) as FunctionState;
    const text = JSON.stringify(request.payload ?? null);
    const limit = payloadLimitBytes[request.kind];
    if (Buffer.byteLength(text) > limit) {
      return service(requestId, "Lambda.RequestTooLargeException", `Request must be smaller than ${limit} bytes for the InvokeFunction operation`);
    }
    return request.kind === "sync" ? await this.#attempt(state, text, requestId, 1) : await this.#deliver(state, text, requestId);
  }

  /** Gives the containers back, for the next world of this process. The world must be at rest. */
  release(): void {
    for (const { idle, key } of this.#functions.values()) {
      const kept = spare.get(key) ?? [];
      for (const container of idle.filter(({ isClean }) => isClean)) {
        container.detach();
        kept.push(container);
      }
      spare.set(key, kept);
      idle.length = 0;
    }
  }

  #state(definition: TemplateFunction): FunctionState {
    const { region } = this.world;
    const credentials = functionCredentials(definition.name);
    const environment = {
      ...definition.environment,
      AWS_REGION: region,
      AWS_DEFAULT_REGION: region,
      AWS_ACCESS_KEY_ID: credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
      AWS_SESSION_TOKEN: credentials.sessionToken,
      AWS_LAMBDA_FUNCTION_NAME: definition.name,
      AWS_LAMBDA_FUNCTION_VERSION: "$LATEST",
      AWS_LAMBDA_FUNCTION_MEMORY_SIZE: String(definition.memoryMib),
      AWS_LAMBDA_LOG_GROUP_NAME: `/aws/lambda/${definition.name}`,
      AWS_LAMBDA_LOG_STREAM_NAME: "local",
      AWS_LAMBDA_INITIALIZATION_TYPE: "on-demand",
      AWS_EXECUTION_ENV: `AWS_Lambda_${String(definition.properties.Runtime ?? "nodejs22.x")}`,
      AWS_XRAY_DAEMON_ADDRESS: "169.254.79.129:2000",
      _HANDLER: definition.handler,
      LAMBDA_TASK_ROOT: "/var/task",
      LAMBDA_RUNTIME_DIR: "/var/runtime",
      TZ: ":UTC",
      LANG: "en_US.UTF-8",
      PATH: "/var/lang/bin:/usr/local/bin:/usr/bin:/bin",
      HOME: "/home/sbx_user1051",
    };
    const key = createHash("sha256").update(definition.code).update(JSON.stringify(environment)).digest("hex");
    const counts = { invocations: 0, errors: 0, throttles: 0, coldStarts: 0, billedMilliseconds: 0, memoryMib: definition.memoryMib };
    return { definition, environment, key, idle: [], running: 0, serial: 0, counts };
  }

  /** Why the caller may not, or undefined. */
  #refusal(definition: TemplateFunction, { by }: Invocation): string | undefined {
    if (by === "owner") return undefined;
    if ("role" in by) {
      const decision = this.world.access.decide(by.role, { action: "lambda:InvokeFunction", resource: definition.arn });
      return decision.allowed ? undefined : decision.message;
    }
    const allowed = this.world.template.permissions.some(
      (permission) =>
        permission.functionArn === definition.arn &&
        permission.principal === by.service &&
        ["lambda:InvokeFunction", "lambda:*"].includes(permission.action) &&
        (permission.sourceArn === undefined || wildcard(permission.sourceArn, false).test(by.sourceArn)) &&
        (permission.sourceAccount === undefined || permission.sourceAccount === this.world.account),
    );
    return allowed ? undefined : `${by.service} (${by.sourceArn}) is not authorized to perform: lambda:InvokeFunction on resource: ${definition.arn}`;
  }

  /** An asynchronous event: a failed one is tried again after one and after two minutes, a throttled one for as long as it may grow old. */
  async #deliver(state: FunctionState, text: string, requestId: string): Promise<InvocationOutcome> {
    const { definition } = state;
    const { clock } = this.world;
    const until = clock.now() + definition.asyncMaxAgeSeconds * 1000;
    let failures = 0;
    let backoff = 1000;
    for (;;) {
      const outcome = await this.#attempt(state, text, requestId, failures + 1);
      if (outcome.ok) return outcome;
      const throttled = outcome.error === "Lambda.TooManyRequestsException";
      if (!throttled) failures++;
      const pause = throttled ? backoff : failures * 60_000;
      if (throttled) backoff = Math.min(2 * backoff, 300_000);
      if (failures > definition.asyncRetries || clock.now() + pause > until) {
        this.#bury(state, text, requestId, outcome.cause);
        return outcome;
      }
      await new Promise<void>((resolve) => clock.after(pause, resolve, { idle: true }));
    }
  }

  #bury({ definition }: FunctionState, text: string, requestId: string, cause: string): void {
    const { world } = this;
    world.note("event given up", { function: definition.label, requestId });
    if (definition.deadLetterArn !== undefined) {
      const attributes = { RequestID: requestId, ErrorCode: "200", ErrorMessage: cause.slice(0, 1024) };
      world.deadLetter(definition.deadLetterArn, text, attributes, definition.role);
    }
    if (definition.onFailureArn !== undefined) {
      const record = {
        version: "1.0",
        requestContext: { requestId, functionArn: definition.arn, condition: "RetriesExhausted" },
        requestPayload: JSON.parse(text),
      };
      world.deadLetter(definition.onFailureArn, JSON.stringify(record), {}, definition.role);
    }
  }

  async #attempt(state: FunctionState, text: string, requestId: string, attempt: number): Promise<InvocationOutcome> {
    const { definition, counts } = state;
    const { world } = this;
    if (definition.reservedConcurrency !== undefined && state.running >= definition.reservedConcurrency) {
      counts.throttles++;
      return service(requestId, "Lambda.TooManyRequestsException", "Rate Exceeded.");
    }
    if (world.faults.strike("runTwice", definition.label)) {
      // The second delivery has nobody who waits for it; it may begin before or after the first has ended.
      const later = world.random.fork(`twice ${requestId} ${attempt}`).next() * 2000;
      world.clock.after(later, async () => {
        await this.#run(state, text, requestId, `${attempt} again`);
      });
    }
    return await this.#run(state, text, requestId, String(attempt));
  }

  /** One run of the handler in one container. */
  #run(state: FunctionState, text: string, requestId: string, attempt: string): Promise<InvocationOutcome> {
    const { definition, counts } = state;
    const { world } = this;
    counts.invocations++;
    state.running++;
    return new Promise<InvocationOutcome>((resolve) => {
      let container: Container;
      let cold: boolean;
      try {
        ({ container, cold } = this.#container(state));
      } catch (error) {
        state.running--;
        if (error instanceof Unmodelled) {
          world.fail(new Unmodelled(`${definition.label}: ${error.message}`));
          return;
        }
        counts.errors++;
        resolve(this.#handlerFailure(error, requestId));
        return;
      }
      if (cold) counts.coldStarts++;
      world.clock.after(this.#latency.latency(cold ? "lambdaCold" : "lambdaWarm") * 1000, () => {
        const startedAt = world.clock.now();
        const deadline = startedAt + definition.timeoutSeconds * 1000;
        let ended = false;
        const end = (outcome: InvocationOutcome, isGone: boolean) => {
          if (ended) return;
          ended = true;
          limit.cancel();
          state.running--;
          counts.billedMilliseconds += Math.max(1, Math.ceil(world.clock.now() - startedAt));
          if (!outcome.ok) counts.errors++;
          if (isGone) container.kill();
          else {
            container.freeze();
            state.idle.push(container);
          }
          resolve(outcome);
        };
        const limit = world.clock.after(definition.timeoutSeconds * 1000, () => {
          const message = `RequestId: ${requestId} Error: Task timed out after ${definition.timeoutSeconds.toFixed(2)} seconds`;
          world.note("function timed out", { function: definition.label, requestId });
          end(failed(requestId, "Sandbox.Timedout", { errorType: "Sandbox.Timedout", errorMessage: message }), true);
        });
        const lost = (reason: string) => {
          world.note("function lost", { function: definition.label, requestId, reason });
          const cause = `The cause could not be determined because Lambda did not return an error type. Returned payload: {"errorMessage":"RequestId: ${requestId} Process exited before completing request"}`;
          end(service(requestId, "Lambda.Unknown", cause), true);
        };
        container.attach(this.#host(definition, text, requestId, attempt, container, lost));
        const context = {
          callbackWaitsForEmptyEventLoop: true,
          awsRequestId: requestId,
          functionName: definition.name,
          functionVersion: "$LATEST",
          invokedFunctionArn: definition.arn,
          memoryLimitInMB: String(definition.memoryMib),
          logGroupName: `/aws/lambda/${definition.name}`,
          logStreamName: "local",
          getRemainingTimeInMillis: () => Math.max(0, Math.floor(deadline - world.clock.now())),
        };
        void (async () => await container.handler(JSON.parse(text), context))().then(
          (value) => end(this.#answer(value, requestId), false),
          (error: unknown) => {
            if (error instanceof Unmodelled) world.fail(new Unmodelled(`${definition.label}: ${error.message}`));
            else end(this.#handlerFailure(error, requestId), false);
          },
        );
      });
    });
  }

  #container(state: FunctionState): { container: Container; cold: boolean } {
    const warm = state.idle.pop();
    if (warm !== undefined) return { container: warm, cold: false };
    const { definition } = state;
    const container = spare.get(state.key)?.pop() ?? new Container(definition.name, definition.code, definition.handler, state.environment);
    return { container, cold: true };
  }

  #host(
    definition: TemplateFunction,
    payload: string,
    requestId: string,
    attempt: string,
    container: Container,
    lost: (reason: string) => void,
  ): Host {
    const { world } = this;
    const origin: Origin = {
      principal: definition.role,
      name: definition.label,
      enforced: true,
      payload,
      crash: (when, operation) => lost(`${when === "crashBeforeEffect" ? "before" : "after"} ${operation}`),
      isAlive: () => container.isAlive,
      sawTrouble: () => container.sawTrouble(),
    };
    return {
      now: () => world.clock.now(),
      // Only the function's own timeout keeps the world awake; what a handler leaves behind does not.
      after: (milliseconds, act) => world.clock.after(milliseconds, act, { daemon: true }),
      random: world.random.fork(`invocation ${requestId} ${attempt}`),
      serve: (request) => world.calls.serve(request, origin),
      log: (line) => world.log({ at: world.clock.now(), function: definition.label, requestId, line }),
      exit: (code) => {
        if (container.isAlive) lost(`exit ${code}`);
      },
      fail: (error) => world.fail(error instanceof Unmodelled ? new Unmodelled(`${definition.label}: ${error.message}`) : error),
    };
  }

  #answer(value: unknown, requestId: string): InvocationOutcome {
    let text: string;
    try {
      text = JSON.stringify(value) ?? "null";
    } catch (error) {
      const errorMessage = `Unable to stringify response body: ${error instanceof Error ? error.message : String(error)}`;
      return failed(requestId, "Runtime.MarshalError", { errorType: "Runtime.MarshalError", errorMessage });
    }
    const bytes = Buffer.byteLength(text);
    if (bytes > payloadLimitBytes.sync) {
      const errorMessage = `Response payload size (${bytes} bytes) exceeded maximum allowed payload size (${payloadLimitBytes.sync} bytes).`;
      return failed(requestId, "Function.ResponseSizeTooLarge", { errorType: "Function.ResponseSizeTooLarge", errorMessage });
    }
    return { ok: true, payload: JSON.parse(text), requestId };
  }

  #handlerFailure(error: unknown, requestId: string): InvocationOutcome {
    if (!(error instanceof Error)) return failed(requestId, typeof error, { errorType: typeof error, errorMessage: String(error), trace: [] });
    // Lambda reports the name of the error; its trace has only the function's own frames here, the others are the local cloud's.
    const trace = (error.stack ?? "").split("\n").filter((line, index) => index === 0 || line.includes("/var/task/"));
    return failed(requestId, error.name, { errorType: error.name, errorMessage: error.message, trace });
  }
}

function failed(requestId: string, error: string, body: object): InvocationOutcome {
  return { ok: false, kind: "handler", error, cause: JSON.stringify(body), requestId };
}

function service(requestId: string, error: string, cause: string): InvocationOutcome {
  return { ok: false, kind: "service", error, cause, requestId };
}
