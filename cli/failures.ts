/** Exit codes, and the one kind of error a command ends with. The table is in the help and in docs/reference/cli.md. */
import type { ApiFault } from "../core/api.js";

export const exitCodes = {
  ok: 0,
  failed: 1,
  input: 2,
  notFound: 3,
  busy: 4,
  unreachable: 5,
  fault: 70,
  interrupted: 130,
} as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

export const exitCodeMeanings: Readonly<Record<keyof typeof exitCodes, string>> = {
  ok: "Done.",
  failed: "The operation failed (its card is printed), or a check found gaps.",
  input: "Bad input, wrong usage, or refused as asked. Nothing was changed.",
  notFound: "There is no such cluster, operation or release.",
  busy: "Another operation is changing the cluster.",
  unreachable: "The API could not be reached, or denied the request.",
  fault: "A fault in drover itself.",
  interrupted: "Interrupted. An operation that had started goes on.",
};

/** What ends a command: what happened, expected and found; then the next act. */
export class CommandFailure extends Error {
  constructor(
    readonly exit: keyof typeof exitCodes,
    readonly what: string,
    readonly next: string,
    readonly faults: readonly ApiFault[] = [],
    options?: ErrorOptions,
  ) {
    super(`${what}. ${next}.`, options);
  }
}

/** There was no answer, or none that says anything: asking again later may help. */
export class OutOfReach extends CommandFailure {
  constructor(what: string, next: string, options?: ErrorOptions) {
    super("unreachable", what, next, [], options);
  }
}

export function badInput(what: string, next: string, faults: readonly ApiFault[] = []): CommandFailure {
  return new CommandFailure("input", what, next, faults);
}

/** A fault as one line: where it is, then what. */
export function faultLine({ path, message }: ApiFault): string {
  return path === "" ? message : `${path}: ${message}`;
}
