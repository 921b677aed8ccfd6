/**
 * How fast agents may join, and through which server each does.
 *
 * A server answers few join requests at a time and refuses the rest with 429 (rke2-docs and k3s source, "join limits"), and a burst of joins slows etcd
 * for everybody. So agents are started in groups, at the rate in the latency model, one queue for the whole cluster: a group books its place
 * and is started when the work before it is nearly done. Nearly, because an idle server costs the time to Ready that this is all about.
 * For the same reason the last agents must not all wait at one server while the others are idle: when a group's command is sent, each agent is sent to the
 * server with the least work before it.
 */
import { NotYet } from "./failures.js";
import model from "./latency-model.json" with { type: "json" };
import type { ServerMember } from "./records.js";

/** The queue of one cluster's agents. Changed by If-Match only. */
export interface AdmissionBook {
  readonly schema: 1;
  /** Groups booked in the last hour, by name: a step that runs twice is answered the same, and books once. */
  readonly groups: Readonly<Record<string, Booking>>;
  /** Commands sent in the last hour, by key: one that is sent twice sends every agent to the same server again. */
  readonly sent: Readonly<Record<string, Sending>>;
  /** When each server will have admitted whom it was sent, ISO 8601, by address. One that is not named has none before it. */
  readonly freeAt: Readonly<Record<string, string>>;
}

interface Booking {
  readonly startAt: string;
  readonly agents: number;
}

interface Sending {
  readonly at: string;
  readonly group: string;
  /** Address by instance. */
  readonly joins: Readonly<Record<string, string>>;
}

/** Work that a group finds before it when it starts, seconds: covers the delay between the answer and the first agent's knock. */
export const admissionLeadSeconds = 10;

const forgetAfterMs = 3_600_000;
/** A group whose command was not sent by then is not waited for: its execution has ended, or it is looked for again. */
const missedAfterMs = 120_000;
const agentMs = 1000 / model.rates.agentsAdmittedPerSecondPerServer.value;
const joinMs = 1000 * (model.steps.learnerJoinAndPromote.p50 + model.steps.sendCommandToStart.p50 + model.steps.commandEndToEvent.p50);

const emptyBook: AdmissionBook = { schema: 1, groups: {}, sent: {}, freeAt: {} };

/**
 * Books a group of agents and says how long it waits before it is started.
 *
 * Groups book long before they start, most while one server is ready, so the booking reckons with the servers still to come: one at a time, each
 * in the model's time to join. To the work that the servers have now it adds the groups that are booked and not yet sent, shared by the servers of now and
 * those to come, for a join that takes longer than expected must not make room for everybody who books meanwhile. This group starts when one
 * server is there and has no more than the lead before it.
 *
 * @param book          the queue so far; undefined for the first group
 * @param group         names the group in this cluster, over all operations
 * @param agents        nodes in the group, at least 1
 * @param members       servers that vote now, at least one
 * @param wantedServers servers the cluster will have; the present ones when left out
 */
export function bookAdmission(input: {
  readonly book: AdmissionBook | undefined;
  readonly nowMs: number;
  readonly group: string;
  readonly agents: number;
  readonly members: readonly Pick<ServerMember, "address">[];
  readonly wantedServers?: number;
}): { book: AdmissionBook; waitSeconds: number } {
  const { nowMs, group, agents, members } = input;
  const book = withoutOld(input.book ?? emptyBook, nowMs);
  const booked = book.groups[group];
  if (booked !== undefined) return { book, waitSeconds: secondsUntil(booked.startAt, nowMs) };

  const servers = [...serversNow(book, members, nowMs), ...serversToCome(members.length, input.wantedServers ?? members.length, nowMs)];
  for (const waiting of stillToSend(book, nowMs)) sendToLeast(servers, waiting.startMs, waiting.agents);
  const lead = admissionLeadSeconds * 1000;
  const startMs = Math.max(nowMs, Math.floor(Math.min(...servers.map(({ readyMs, freeMs }) => Math.max(readyMs, freeMs - lead)))));
  const startAt = new Date(startMs).toISOString();
  return { book: { ...book, groups: { ...book.groups, [group]: { startAt, agents } } }, waitSeconds: secondsUntil(startAt, nowMs) };
}

/**
 * Sends each agent of a command to the server that will have the least work before it, as of now. Not through the load balancer, which may still be
 * warming up, and not by the node's own choice, for a node knows nothing of the others.
 *
 * @param command     names the sending: the same again is answered the same
 * @param group       as it was booked
 * @param members     servers that vote now
 * @param instanceIds agents of the group
 * @throws NotYet when no server votes
 */
export function assignJoins(input: {
  readonly book: AdmissionBook | undefined;
  readonly nowMs: number;
  readonly command: string;
  readonly group: string;
  readonly members: readonly Pick<ServerMember, "address" | "slot">[];
  readonly instanceIds: readonly string[];
}): { book: AdmissionBook; joins: Readonly<Record<string, string>> } {
  const { nowMs, command, group, instanceIds } = input;
  if (input.members.length === 0) throw new NotYet("no server votes yet, so no agent can join", "Asking again shortly");
  const book = withoutOld(input.book ?? emptyBook, nowMs);
  const before = book.sent[command];
  if (before !== undefined) return { book, joins: before.joins };

  const members = [...input.members].sort((a, b) => a.slot - b.slot);
  const servers = serversNow(book, members, nowMs);
  const chosen = sendToLeast(servers, nowMs, instanceIds.length);
  const joins = Object.fromEntries(instanceIds.map((instanceId, index) => [instanceId, chosen[index]?.address ?? ""]));
  const freeAt = Object.fromEntries(servers.map(({ address, freeMs }) => [address, new Date(Math.ceil(freeMs)).toISOString()]));
  const sending: Sending = { at: new Date(nowMs).toISOString(), group, joins };
  return { book: { ...book, sent: { ...book.sent, [command]: sending }, freeAt: { ...book.freeAt, ...freeAt } }, joins };
}

/** A server as the queue sees it. */
interface Server {
  readonly address: string;
  readonly readyMs: number;
  /** When the work before it is done. */
  freeMs: number;
}

function serversNow(book: AdmissionBook, members: readonly Pick<ServerMember, "address">[], nowMs: number): Server[] {
  return members.map(({ address }) => ({ address, readyMs: nowMs, freeMs: Math.max(nowMs, Date.parse(book.freeAt[address] ?? "") || nowMs) }));
}

function serversToCome(ready: number, wanted: number, nowMs: number): Server[] {
  return Array.from({ length: Math.max(0, wanted - ready) }, (_, index) => {
    const readyMs = nowMs + (index + 1) * joinMs;
    return { address: "", readyMs, freeMs: readyMs };
  });
}

/** Groups that are booked and whose command was not sent, in the order in which they start; one that is late starts now. */
function stillToSend(book: AdmissionBook, nowMs: number): { readonly startMs: number; readonly agents: number }[] {
  const sent = new Set(Object.values(book.sent).map(({ group }) => group));
  return Object.entries(book.groups)
    .filter(([name, { startAt }]) => !sent.has(name) && Date.parse(startAt) > nowMs - missedAfterMs)
    .map(([, { startAt, agents }]) => ({ startMs: Math.max(nowMs, Date.parse(startAt)), agents }))
    .sort((a, b) => a.startMs - b.startMs);
}

/** One agent after another to the server that is free first; whoever is named first, of equals. Adds to their work. */
function sendToLeast(servers: readonly Server[], atMs: number, agents: number): Server[] {
  return Array.from({ length: agents }, () => {
    const least = servers.reduce((best, server) => (Math.max(server.freeMs, atMs) < Math.max(best.freeMs, atMs) ? server : best));
    least.freeMs = Math.max(least.freeMs, atMs) + agentMs;
    return least;
  });
}

function withoutOld(book: AdmissionBook, nowMs: number): AdmissionBook {
  const recent = <T>(entries: Readonly<Record<string, T>>, at: (entry: T) => string) =>
    Object.fromEntries(Object.entries(entries).filter(([, entry]) => Date.parse(at(entry)) > nowMs - forgetAfterMs));
  return { ...book, groups: recent(book.groups, ({ startAt }) => startAt), sent: recent(book.sent, ({ at }) => at) };
}

/** Whole seconds, rounded down: the lead covers the rest. */
function secondsUntil(instant: string, nowMs: number): number {
  return Math.max(0, Math.floor((Date.parse(instant) - nowMs) / 1000));
}
