/**
 * Failures, named by what must happen next.
 *
 * The `name` is the contract with `ErrorEquals` in the state machines: a Retry names the failures that may pass by themselves, a Catch sends
 * the others to the failure card. Each name has a heading in `docs/runbook.md`; a test holds the two together.
 */
export abstract class StepFailure extends Error {
  constructor(
    readonly what: string,
    readonly next: string,
    options?: ErrorOptions,
  ) {
    super(`${what}. ${next}.`, options);
  }
}

/** Ask again later: the world is still changing. */
export class NotYet extends StepFailure {
  override readonly name = "NotYet";
}

/** Ask again later: another operation holds the cluster's lease. */
export class Busy extends StepFailure {
  override readonly name = "Busy";
}

/** Fail: the request can never succeed as written. Reports every fault in it at once. */
export class Invalid extends StepFailure {
  override readonly name = "Invalid";
  constructor(
    what: string,
    readonly faults: readonly Fault[],
    next: string,
    options?: ErrorOptions,
  ) {
    super(faults.length === 0 ? what : `${what}: ${faults.map(formatFault).join("; ")}`, next, options);
  }
}

/** Stop for a person: going on could lose quorum or data. */
export class Unsafe extends StepFailure {
  override readonly name = "Unsafe";
}

/** Stop at once: this execution no longer holds the cluster's lease, so nothing it knows may be acted upon. */
export class LeaseLost extends StepFailure {
  override readonly name = "LeaseLost";
}

/** Launch again elsewhere: AWS has no room for this shape here and now, in any place the cluster file allows. */
export class NoCapacity extends StepFailure {
  override readonly name = "NoCapacity";
}

/** Replace the node: its machine is gone, or will never come. */
export class NodeLost extends StepFailure {
  override readonly name = "NodeLost";
}

/**
 * Every name a state machine may catch by, in the order a person should read them in the runbook. `NodeCommandFailed` has no class: it is what a step that
 * waits for a node command is told, when the command ran and said why it cannot go on.
 */
export const failureNames = ["NotYet", "Busy", "Invalid", "Unsafe", "LeaseLost", "NoCapacity", "NodeLost", "NodeCommandFailed"] as const;

/** One thing wrong with a request: where, what was found, what is allowed. Warnings do not stop a request. */
export interface Fault {
  /** Dotted path into the cluster file, such as `spec.agentPools[1].name`; empty for the file as a whole. */
  readonly path: string;
  readonly message: string;
  readonly severity: "error" | "warning";
}

/** One fault as one line for a person. */
export function formatFault(fault: Fault): string {
  return fault.path === "" ? fault.message : `${fault.path}: ${fault.message}`;
}
