/**
 * Instances of a cluster as EC2 shows them now: the facts every decision about nodes starts from.
 */
import { drillRole, tags as tagKeys } from "./layout.js";

/**
 * EC2's instance states, and `unseen`: a launch has answered with the id, but Describe calls do not show it yet (eventual consistency, EC2 API
 * reference). What is unseen exists, and is never launched again.
 */
export type InstanceState = "pending" | "running" | "shutting-down" | "terminated" | "stopping" | "stopped" | "unseen";

export type Role = "server" | "agent";

export interface ObservedInstance {
  readonly instanceId: string;
  readonly role: Role;
  readonly pool: string;
  /** Counted from 1 within the pool. */
  readonly slot: number;
  /** The operation that launched it. */
  readonly operation: string;
  readonly zone: string;
  readonly subnetId: string;
  readonly instanceType: string;
  /** Private IPv4 address; empty until it is known. */
  readonly address: string;
  readonly state: InstanceState;
  /** ISO 8601, UTC. */
  readonly launchedAt: string;
  /** EC2's reason for the last change of state, such as `Server.InsufficientInstanceCapacity`. */
  readonly stateReason?: string;
}

/** What a Describe call tells of an instance, before its tags are read. */
export interface TaggedInstance {
  readonly instanceId: string;
  readonly tags: Readonly<Record<string, string>>;
  /** Position within the RunInstances call that made it, from 0. */
  readonly amiLaunchIndex: number;
  readonly zone: string;
  readonly subnetId: string;
  readonly instanceType: string;
  readonly address: string;
  readonly state: string;
  readonly launchedAt: string;
  readonly stateReason?: string;
}

const instanceStates: readonly string[] = ["pending", "running", "shutting-down", "terminated", "stopping", "stopped", "unseen"];

/**
 * Reads an instance's place in its cluster from its tags; undefined when the tags are not those of a node of ours.
 *
 * The slot is the first slot of the launch plus the launch index: one RunInstances call makes many agents with the same tags.
 */
export function observedFromTags(instance: TaggedInstance): ObservedInstance | undefined {
  const role = instance.tags[tagKeys.role];
  const pool = instance.tags[tagKeys.pool];
  const firstSlot = instance.tags[tagKeys.slot] ?? "";
  if ((role !== "server" && role !== "agent" && role !== drillRole) || pool === undefined || pool === "" || !/^[1-9]\d{0,6}$/.test(firstSlot))
    return undefined;
  if (!instanceStates.includes(instance.state)) return undefined;
  return {
    instanceId: instance.instanceId,
    // What a drill restores a snapshot on is a server, though none of this cluster: its pool tells.
    role: role === drillRole ? "server" : role,
    pool,
    slot: Number(firstSlot) + instance.amiLaunchIndex,
    operation: instance.tags[tagKeys.operation] ?? "",
    zone: instance.zone,
    subnetId: instance.subnetId,
    instanceType: instance.instanceType,
    address: instance.address,
    state: instance.state as InstanceState,
    launchedAt: instance.launchedAt,
    ...(instance.stateReason === undefined ? {} : { stateReason: instance.stateReason }),
  };
}

/** A throw-away server on which a snapshot is tried out: it carries the cluster's name and is no node of it. */
export function isDrill(node: Pick<ObservedInstance, "pool">): boolean {
  return node.pool === drillRole;
}

/** It runs, or will: the states of a node that can do its work. A stopped instance is neither alive nor gone. */
export function isAlive(state: InstanceState): boolean {
  return state === "pending" || state === "running" || state === "unseen";
}

/** It never comes back, and its slot is free. An instance that is shutting down may still run processes for some seconds. */
export function isGone(state: InstanceState): boolean {
  return state === "shutting-down" || state === "terminated";
}

/** How long an instance that exists may stay out of Describe answers, seconds; EC2's lag is seconds, this leaves room. */
export const visibleWithinSeconds = 600;

/** Orders nodes the same way everywhere: by pool, then slot, then id. */
export function byPlace(a: ObservedInstance, b: ObservedInstance): number {
  return compareText(a.pool, b.pool) || a.slot - b.slot || compareText(a.instanceId, b.instanceId);
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
