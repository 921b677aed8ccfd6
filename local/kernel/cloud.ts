/**
 * The cloud as its services see it: what contract.ts promises, and what only a few of them need besides.
 *
 * A service is made by `create<Name>(cloud)`, once per world, before the clock runs. It may keep `cloud` and use it in every call and timer.
 */
import type { Service, World } from "./contract.js";
import type { Template } from "./template.js";

export interface Cloud extends World {
  /** The deployed template: names and ARNs resolved. */
  readonly template: Template;
  /** Runs a function of the template. Answers at a later instant of virtual time; never rejects, except that the world stops. */
  invoke(request: Invocation): Promise<InvocationOutcome>;
  /** Whether a role of the template may do something: for services that act on behalf of a role. */
  allows(
    principal: string,
    permission: { readonly action: string; readonly resource: string; readonly context?: Readonly<Record<string, string | readonly string[]>> },
  ): boolean;
  /** Stops the world: whatever runs it ends with this error. */
  fail(error: Error): void;
}

export interface Invocation {
  /** Name, logical id, or ARN (with or without version or alias) of the function. */
  readonly function: string;
  readonly payload: unknown;
  /** `event`: asynchronous, two retries, then the dead-letter queue. The outcome is then of the last attempt. */
  readonly kind: "sync" | "event";
  /**
   * Who asks. A role needs `lambda:InvokeFunction`; a service principal (`events.amazonaws.com`) needs a permission on the function, for the
   * source ARN given. `owner` is the person at the console.
   */
  readonly by: { readonly role: string } | { readonly service: string; readonly sourceArn: string } | "owner";
}

/** What an invocation came to. `error` and `cause` of a failure are what Step Functions reports for it. */
export type InvocationOutcome =
  | { readonly ok: true; readonly payload: unknown; readonly requestId: string }
  | {
      readonly ok: false;
      /** `handler`: the function ran and failed. `service`: Lambda refused, or lost the function. */
      readonly kind: "handler" | "service";
      readonly error: string;
      readonly cause: string;
      readonly requestId: string;
    };

/** Makes one service of the local cloud. */
export type ServiceFactory = (cloud: Cloud) => Service;
