/** What every command that changes something does alike: show what would be done, ask, send, follow, and say how it ended. */
import type { Accepted, ClusterStatus } from "../core/api.js";
import { formatFault } from "../core/failures.js";
import { ports } from "../core/layout.js";
import type { LeftResource, OperationRecord, SnapshotOutcome } from "../core/records.js";
import type { Manifest } from "../core/snapshots.js";
import { type ApiClient, interruption } from "./api-client.js";
import { cardText, leftLines } from "./card.js";
import type { Command } from "./command.js";
import { badInput, CommandFailure, type ExitCode, exitCodes } from "./failures.js";
import type { ClusterSize } from "./progress.js";
import { counted, duration, plain, secondsBetween, size, wrap } from "./text.js";
import { watchOperation } from "./watch.js";

export interface ChangeOptions {
  readonly yes?: boolean;
  readonly wait?: boolean;
  readonly requestId?: string;
}

export function requestIdOf({ requestId }: ChangeOptions, newId: () => string): string {
  if (requestId === undefined) return newId();
  if (!/^[A-Za-z0-9_-]{8,64}$/.test(requestId)) {
    throw badInput(`--request-id must be 8 to 64 letters, digits, hyphens or underscores; found "${requestId}"`, "Choose another, or leave it out");
  }
  return requestId;
}

/** A change whose answer was cut off may have been accepted: the person gets the id with which it can be sent again. */
export async function sendChange(
  api: ApiClient,
  route: "createCluster" | "deleteCluster" | "createSnapshot" | "restoreCluster" | "drillRestore",
  parameters: Readonly<Record<string, string>>,
  body: unknown,
  cluster: string,
  requestId: string,
): Promise<Accepted> {
  try {
    return await api.call<Accepted>(route, parameters, body);
  } catch (error) {
    if (!(error instanceof CommandFailure) || !["unreachable", "interrupted"].includes(error.exit)) throw error;
    const next = `It may have been accepted: see drover operations ${cluster}; or send it again with --request-id ${requestId}, which is safe`;
    throw new CommandFailure(error.exit, error.what, next, [], { cause: error });
  }
}

/** @returns false when the person says no */
export async function agrees({ surroundings }: Command, question: string): Promise<boolean> {
  if (surroundings.ask === undefined) throw nobodyToAsk("add --yes");
  const answer = await surroundings.ask(`${question} [y/N] `);
  if (surroundings.interrupted.aborted || answer === undefined) throw interruption("Nothing was changed");
  return /^y(es)?$/i.test(answer.trim());
}

/** Asks for the cluster's name, unless it was given with `--confirm`. @throws CommandFailure when another name is given */
export async function nameTyped({ surroundings }: Command, act: "delete" | "restore", name: string, given: string | undefined): Promise<void> {
  if (given !== undefined) return requireName(act, name, given);
  if (surroundings.ask === undefined) throw nobodyToAsk(`add --confirm ${name}`);
  const typed = await surroundings.ask(`Type the cluster's name to ${act} it: `);
  if (surroundings.interrupted.aborted || typed === undefined) throw interruption("Nothing was changed");
  requireName(act, name, typed.trim());
}

export function requireName(act: "delete" | "restore", name: string, found: string): void {
  if (found === name) return;
  throw badInput(
    `To ${act} ${name} its name must be given again; found "${plain(found).slice(0, 40)}"; nothing was changed`,
    `Give ${name} to confirm`,
  );
}

function nobodyToAsk(instead: string): CommandFailure {
  return badInput("This is not a terminal, so nobody can be asked; nothing was changed", `Read what would be done, then ${instead}`);
}

export function nothingChanged(command: Command): ExitCode {
  command.answer({ changed: false }, "Nothing was changed.\n");
  return exitCodes.ok;
}

/** One act a line, wrapped under itself. */
export function planText(plan: readonly string[], columns: number): string {
  return plan.map((act) => `  - ${wrap(act, Math.max(40, columns - 5)).join("\n    ")}\n`).join("");
}

export function previewText(preview: Accepted, api: ApiClient, columns: number): string {
  const warnings = preview.warnings.map((warning) => `warning  ${plain(formatFault({ ...warning, severity: "warning" }))}\n`).join("");
  return `At ${api.endpoint.label}:\n${planText(preview.plan, columns)}${warnings}`;
}

export async function follow(
  command: Command,
  api: ApiClient,
  accepted: Accepted,
  options: ChangeOptions,
  nodes: ClusterSize | undefined,
): Promise<ExitCode> {
  const { operation, cluster } = accepted;
  if (options.wait === false) {
    command.answer({ operation: { id: operation, cluster, status: "accepted" } }, `${operation} is accepted. Watch it: drover watch ${cluster}\n`);
    return exitCodes.ok;
  }
  command.tell(`Operation ${operation}; Ctrl-C stops watching, not the operation\n`);
  return await finish(command, api, await watchOperation({ cluster, operation, size: nodes }, api, command.surroundings));
}

/** Says how an operation ended: its result on standard output, or its card. */
export async function finish(command: Command, api: ApiClient, operation: OperationRecord): Promise<ExitCode> {
  if (operation.status === "failed") {
    if (command.isJson) command.answer({ operation }, "");
    command.tell(`\n${failureText(command, operation)}`);
    return exitCodes.failed;
  }
  command.answer({ operation }, await successText(operation, api));
  return exitCodes.ok;
}

async function successText(operation: OperationRecord, api: ApiClient): Promise<string> {
  switch (operation.kind) {
    case "create":
      return await readyText(operation, "ready", api);
    case "restore":
      return await readyText(operation, "restored", api);
    case "delete":
      return deletedText(operation);
    case "backup":
      return await snapshotText(operation, api);
    case "drill":
      return await drillText(operation, api);
  }
}

function failureText({ surroundings }: Command, operation: OperationRecord): string {
  if (operation.card !== undefined) return cardText(operation.card, surroundings.err);
  return `${operation.id} failed without a card. Look at the execution: ${operation.execution}\n`;
}

async function readyText(operation: OperationRecord, become: "ready" | "restored", api: ApiClient): Promise<string> {
  const { cluster } = operation;
  const status = await api.call<ClusterStatus>("readCluster", { name: cluster }).catch(() => undefined);
  const endpoint = status?.record.endpoint;
  return [
    `${cluster} is ${become} after ${took(operation)}`,
    ...(endpoint === undefined ? [] : [`  endpoint    https://${endpoint.dnsName}:${ports.api}`]),
    `  kubeconfig  drover kubeconfig ${cluster} --output ${cluster}.kubeconfig`,
    "",
  ].join("\n");
}

async function snapshotText({ cluster, outcome, ...operation }: OperationRecord, api: ApiClient): Promise<string> {
  const snapshot = (outcome as SnapshotOutcome | undefined)?.snapshot ?? "";
  const manifest = await api.call<Manifest>("readSnapshot", { name: cluster, snapshot }).catch(() => undefined);
  const what = manifest === undefined ? "" : `: revision ${manifest.etcd.revision}, ${manifest.etcd.keys} keys, ${size(manifest.file.bytes)}`;
  return `${cluster} has a proven snapshot after ${took(operation)}\n  ${snapshot}${what}\n`;
}

async function drillText({ cluster, ...operation }: OperationRecord, api: ApiClient): Promise<string> {
  const status = await api.call<ClusterStatus>("readCluster", { name: cluster }).catch(() => undefined);
  const drill = status?.record.lastDrill;
  const what = drill === undefined ? "" : `\n  ${drill.snapshot}: ${plain(drill.detail)}`;
  return `The snapshot of ${cluster} was restored on a throw-away server and is what its manifest says, after ${took(operation)}${what}\n`;
}

export function deletedText(operation: OperationRecord): string {
  type Outcome = SnapshotOutcome & { readonly left?: readonly LeftResource[]; readonly dollarsPerMonth?: number };
  const { left = [], dollarsPerMonth = 0, snapshot, snapshotFailure } = (operation.outcome ?? {}) as Outcome;
  const first = `${operation.cluster} is deleted after ${took(operation)}`;
  const cost = `${counted(left.length, "resource")} left, about $${dollarsPerMonth.toFixed(2)} a month:`;
  return `${[
    left.length === 0 ? `${first}; nothing is left` : `${first}; ${cost}`,
    ...(left.length === 0 ? [] : leftLines(left, 50)),
    ...(snapshot === undefined ? [] : [`  last snapshot  ${snapshot}, in the snapshot bucket`]),
    ...(snapshotFailure === undefined ? [] : [`  No last snapshot could be taken: ${plain(snapshotFailure)}`]),
  ].join("\n")}\n`;
}

export function took(operation: Pick<OperationRecord, "acceptedAt" | "endedAt">): string {
  return operation.endedAt === undefined ? "an unknown time" : duration(secondsBetween(operation.acceptedAt, operation.endedAt));
}

/** The same rule as the cluster file's, so that a misspelt name is said here. */
export function checkName(name: string): void {
  if (/^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$/.test(name)) return;
  const rule = "1 to 30 lower-case letters, digits and hyphens, starting with a letter";
  throw badInput(`"${plain(name).slice(0, 60)}" is no cluster's name: names are ${rule}`, "See which there are: drover list");
}
