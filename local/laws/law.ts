/** What a law is: a check that is told of what happens, and says by name what was broken. */
import type { SeenCall } from "../kernel/calls.js";
import type { CloudEvent } from "../kernel/contract.js";
import type { ObservedCluster } from "../nodes/contract.js";
import type { Invoked, Seen, StateDocument } from "./seen.js";

/** The laws of the design that a world is held to. The tenth is about proven snapshots, which no operation takes yet. */
export const lawNames = {
  1: "one bootstrap, ever",
  2: "one operation per cluster",
  3: "no act of ours breaks the etcd majority",
  4: "fixed order at the endpoint",
  5: "nodes hold no keys to the kingdom",
  6: "no secret in the clear",
  7: "every step may run twice, every workflow may be started again",
  8: "state by reference",
  9: "events first, timer as backstop",
  11: "what is deployed is what is simulated",
  12: "every failure ends in one card",
} as const;
export type LawNumber = keyof typeof lawNames;

export class LawBroken extends Error {
  override readonly name = "LawBroken";
  constructor(
    readonly law: LawNumber,
    readonly what: string,
  ) {
    super(`law ${law} (${lawNames[law]}): ${what}`);
  }
}

export interface Law {
  readonly number: LawNumber;
  /** An AWS call has taken effect, or was refused. */
  call?(call: SeenCall, invoked: Invoked | undefined): void;
  /** A record or an operation was written. */
  wrote?(document: StateDocument): void;
  /** AWS put an event on the default bus. */
  event?(event: CloudEvent): void;
  /** Something of an RKE2 cluster has changed; `seen.clusters` is how it is now. */
  changed?(before: readonly ObservedCluster[]): void;
  /** The world has come to rest after a step. */
  step?(): void;
}

/** Counts what was held against a law, and throws what was broken. */
export interface Bench {
  readonly seen: Seen;
  /** Another thing was held against the law. */
  held(law: LawNumber): void;
}

export function broken(law: LawNumber, what: string): never {
  throw new LawBroken(law, what);
}
