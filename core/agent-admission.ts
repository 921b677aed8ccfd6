/**
 * How fast agents may join.
 *
 * A server answers 10 join requests at a time and refuses the rest with 429 (rke2-docs and k3s source, "join limits"), and a burst of joins slows etcd
 * for everybody. So agents are started in groups, at the rate in the latency model, one queue for the whole cluster: a group books its place
 * and is started when the work before it is nearly done. Nearly, because an idle server costs the time to Ready that this is all about.
 */
import { NotYet } from "./failures.js";
import model from "./latency-model.json" with { type: "json" };
import type { ServerMember } from "./records.js";

/** The queue of one create operation. Changed by If-Match only. */
export interface AdmissionBook {
  readonly schema: 1;
  /** Agents booked so far. */
  readonly admitted: number;
  /** When everything booked is expected to be admitted, ISO 8601. */
  readonly nextFreeAt: string;
  /** What the expectation was made with. */
  readonly readyServers: number;
  readonly wantedServers: number;
  /** When the last of the wanted servers is expected to be ready, ISO 8601. */
  readonly allReadyAt: string;
  /** When each group of the last hour starts, ISO 8601: a step that runs twice is answered the same, and books once. */
  readonly starts: Readonly<Record<string, string>>;
}

/** Work that a group finds before it when it starts, seconds: covers the delay between the answer and the first agent's knock. */
export const admissionLeadSeconds = 10;

const forgetAfterMs = 3_600_000;
const agentsPerSecondPerServer = model.rates.agentsAdmittedPerSecondPerServer.value;
const joinSeconds = model.steps.learnerJoinAndPromote.p50 + model.steps.sendCommandToStart.p50 + model.steps.commandEndToEvent.p50;

/**
 * Books a group of agents and says how long it waits before it is started.
 *
 * Groups book long before they start, most while one server is ready, so the booking reckons with the servers still to come: one at a time, each
 * in the model's time to join. The rate rises when all are ready, as in the model's lower bound. A later booking corrects the expectation of what is
 * still queued by the servers that are ready then.
 *
 * @param book          the queue so far; undefined for the first group
 * @param group         names the group in this cluster, over all operations; without it every call is a new booking
 * @param agents        nodes in the group, at least 1
 * @param readyServers  servers that vote now, at least 1
 * @param wantedServers servers the cluster will have; the ready ones when left out
 */
export function bookAdmission(input: {
  readonly book: AdmissionBook | undefined;
  readonly nowMs: number;
  readonly group?: string;
  readonly agents: number;
  readonly readyServers: number;
  readonly wantedServers?: number;
}): { book: AdmissionBook; waitSeconds: number } {
  const { book, nowMs, group, agents } = input;
  const booked = group === undefined ? undefined : book?.starts[group];
  if (book !== undefined && booked !== undefined) return { book, waitSeconds: secondsUntil(booked, nowMs) };

  const readyServers = Math.max(1, input.readyServers);
  const wantedServers = Math.max(readyServers, input.wantedServers ?? readyServers);
  const allReadyMs = nowMs + (wantedServers - readyServers) * joinSeconds * 1000;
  const pace: Pace = { readyServers, wantedServers, allReadyMs };

  const queued = book === undefined ? 0 : agentsBetween(paceOf(book), nowMs, Date.parse(book.nextFreeAt));
  const freeMs = timeToAdmit(pace, nowMs, queued);
  const nextFreeMs = timeToAdmit(pace, nowMs, queued + agents);
  const startAt = new Date(Math.max(nowMs, Math.floor(freeMs) - admissionLeadSeconds * 1000)).toISOString();
  const recent = Object.entries(book?.starts ?? {}).filter(([, start]) => Date.parse(start) > nowMs - forgetAfterMs);
  return {
    book: {
      schema: 1,
      admitted: (book?.admitted ?? 0) + agents,
      nextFreeAt: new Date(Math.ceil(nextFreeMs)).toISOString(),
      readyServers,
      wantedServers,
      allReadyAt: new Date(Math.ceil(allReadyMs)).toISOString(),
      starts: Object.fromEntries([...recent, ...(group === undefined ? [] : [[group, startAt] as const])]),
    },
    waitSeconds: secondsUntil(startAt, nowMs),
  };
}

/**
 * Private addresses of the servers that vote, by slot: agents spread over them by themselves. Not the load balancer, which may still be warming up.
 * @throws NotYet when none votes
 */
export function joinAddresses(members: readonly ServerMember[]): string {
  if (members.length === 0) throw new NotYet("no server votes yet, so no agent can join", "Asking again shortly");
  return [...members]
    .sort((a, b) => a.slot - b.slot)
    .map((member) => member.address)
    .join(",");
}

/** Whole seconds, rounded down: the lead covers the rest. */
function secondsUntil(instant: string, nowMs: number): number {
  return Math.max(0, Math.floor((Date.parse(instant) - nowMs) / 1000));
}

/** `readyServers` admit until `allReadyMs`, `wantedServers` from then on. */
interface Pace {
  readonly readyServers: number;
  readonly wantedServers: number;
  readonly allReadyMs: number;
}

function paceOf(book: AdmissionBook): Pace {
  return { readyServers: book.readyServers, wantedServers: book.wantedServers, allReadyMs: Date.parse(book.allReadyAt) };
}

/** Agents admitted in a span of time; none when it is empty. */
function agentsBetween(pace: Pace, fromMs: number, untilMs: number): number {
  const early = Math.max(0, Math.min(untilMs, pace.allReadyMs) - fromMs);
  const late = Math.max(0, untilMs - Math.max(fromMs, pace.allReadyMs));
  return ((early * pace.readyServers + late * pace.wantedServers) * agentsPerSecondPerServer) / 1000;
}

/** The instant by which so many agents are admitted, milliseconds since the epoch. */
function timeToAdmit(pace: Pace, fromMs: number, agents: number): number {
  const early = agentsBetween(pace, fromMs, Math.max(fromMs, pace.allReadyMs));
  if (agents <= early) return fromMs + (agents * 1000) / (pace.readyServers * agentsPerSecondPerServer);
  return Math.max(fromMs, pace.allReadyMs) + ((agents - early) * 1000) / (pace.wantedServers * agentsPerSecondPerServer);
}
