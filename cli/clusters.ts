/** Commands on clusters: check a file, create, look, follow, delete. Changes are shown first and asked for. */
import type { Accepted, ClusterStatus, ClusterSummary } from "../core/api.js";
import type { QuorumAssessment } from "../core/cluster-health.js";
import { latestTime, nextTime, readSchedule } from "../core/cron.js";
import { type DueKind, freshness } from "../core/due.js";
import { ports } from "../core/layout.js";
import type { ClusterRecord, OperationRecord } from "../core/records.js";
import { faultSummary, validateCluster } from "../core/validate-cluster.js";
import type { ApiClient } from "./api-client.js";
import { cardText } from "./card.js";
import {
  agrees,
  type ChangeOptions,
  checkName,
  deletedText,
  finish,
  follow,
  nameTyped,
  nothingChanged,
  planText,
  previewText,
  requestIdOf,
  requireName,
  sendChange,
  took,
} from "./changes.js";
import { readClusterText } from "./cluster-text.js";
import type { Act, Command } from "./command.js";
import { badInput, CommandFailure, exitCodes } from "./failures.js";
import { age, duration, instant, labelled, paint, plain, secondsBetween, size as sizeText, table } from "./text.js";
import { watchOperation } from "./watch.js";

// ---------------------------------------------------------------------------------------------------------------------------------------------
// validate

export const validate: Act<{ readonly online?: boolean }, [file: string]> = async (command, { online = false }, file) => {
  const text = await readClusterText(file, command.surroundings);
  const { file: parsed, faults } = validateCluster(text);
  const shown = file === "-" ? "standard input" : file;
  const { headline, lines, errors } = faultSummary(faults);
  const listed = lines.map((line) => `${line}\n`).join("");
  if (parsed === undefined || errors.length > 0) {
    command.answer({ file, valid: false, faults }, `${shown}: ${headline}\n${listed}`);
    return exitCodes.input;
  }
  const name = parsed.metadata.name;
  if (!online) {
    const next = `Checked by itself; against the artifact store and the account: drover validate ${file} --online\n`;
    command.answer({ file, valid: true, cluster: name, faults }, `${shown}: ${headline}, cluster ${name} is valid\n${listed}`);
    if (!command.isJson) command.tell(next);
    return exitCodes.ok;
  }
  const api = await command.api();
  const requestId = command.surroundings.newId();
  let preview: Accepted;
  try {
    preview = await api.call<Accepted>("createCluster", {}, { requestId, file: text, preview: true });
  } catch (error) {
    if (!(error instanceof CommandFailure) || error.faults.length === 0) throw error;
    const found = faultSummary(error.faults.map((fault) => ({ ...fault, severity: "error" as const })));
    command.answer(
      { file, valid: false, cluster: name, faults: found.errors },
      `${shown}: ${found.headline} at ${api.endpoint.label}\n${found.lines.map((line) => `${plain(line)}\n`).join("")}`,
    );
    return exitCodes.input;
  }
  const warnings = preview.warnings.map((warning) => ({ ...warning, severity: "warning" as const }));
  const all = faultSummary(warnings);
  command.answer(
    { file, valid: true, cluster: name, faults: warnings, plan: preview.plan },
    `${shown}: ${all.headline}, cluster ${name} is valid at ${api.endpoint.label}\n${all.lines.map((line) => `${line}\n`).join("")}${planText(preview.plan, command.surroundings.out.columns)}`,
  );
  return exitCodes.ok;
};

// ---------------------------------------------------------------------------------------------------------------------------------------------
// create, delete

export const create: Act<ChangeOptions & { readonly file?: string }, [file: string | undefined]> = async (command, options, given) => {
  if (given !== undefined && options.file !== undefined) throw badInput("Two cluster files are given", "Give one, as FILE or with --file");
  const file = given ?? options.file;
  if (file === undefined) throw badInput("No cluster file is given", "Such as: drover create examples/ha.yaml");
  const { surroundings } = command;
  const text = await readClusterText(file, surroundings);
  const { file: parsed, faults } = validateCluster(text);
  const { headline, errors } = faultSummary(faults);
  if (parsed === undefined || errors.length > 0) {
    throw badInput(
      `${file === "-" ? "Standard input" : file} has ${headline}; nothing was changed`,
      "Correct them, then start the command again",
      errors,
    );
  }
  const api = await command.api();
  const body = { requestId: requestIdOf(options, surroundings.newId), file: text };
  const { servers, agentPools } = parsed.spec;
  const size = { servers: servers.count, agents: agentPools.reduce((sum, pool) => sum + pool.count, 0) };
  const preview = await api.call<Accepted>("createCluster", {}, { ...body, preview: true });
  if (preview.status === "accepted") return await follow(command, api, preview, options, size);
  command.tell(previewText(preview, api, surroundings.err.columns));
  if (options.yes !== true) {
    if (file === "-" && surroundings.ask !== undefined) {
      throw badInput("The file came by standard input, so nobody can be asked; nothing was changed", "Start the command again with --yes");
    }
    if (!(await agrees(command, `Create ${preview.cluster}?`))) return nothingChanged(command);
  }
  const accepted = await sendChange(api, "createCluster", {}, { ...body, preview: false }, preview.cluster, body.requestId);
  return await follow(command, api, accepted, options, size);
};

interface DeleteOptions extends Omit<ChangeOptions, "yes"> {
  readonly confirm?: string;
  readonly overrideProtection?: boolean;
  readonly skipSnapshot?: boolean;
}

export const remove: Act<DeleteOptions, [name: string]> = async (command, options, name) => {
  const { surroundings } = command;
  checkName(name);
  if (options.confirm !== undefined) requireName("delete", name, options.confirm);
  const api = await command.api();
  const body = {
    requestId: requestIdOf(options, surroundings.newId),
    overrideProtection: options.overrideProtection === true,
    skipSnapshot: options.skipSnapshot === true,
  };
  const preview = await api.call<Accepted>("deleteCluster", { name }, { ...body, confirm: "", preview: true });
  if (preview.status === "accepted") return await follow(command, api, preview, options, undefined);
  command.tell(previewText(preview, api, surroundings.err.columns));
  await nameTyped(command, "delete", name, options.confirm);
  const accepted = await sendChange(api, "deleteCluster", { name }, { ...body, confirm: name, preview: false }, name, body.requestId);
  return await follow(command, api, accepted, options, { servers: 1, agents: 0 });
};

// ---------------------------------------------------------------------------------------------------------------------------------------------
// list, status, watch, operations

export const list: Act<object, []> = async (command) => {
  const api = await command.api();
  const { clusters } = await api.call<{ clusters: readonly ClusterSummary[] }>("listClusters");
  const rows = clusters.map((cluster) => [
    cluster.name,
    cluster.phase,
    cluster.version,
    String(cluster.servers),
    String(cluster.agents),
    age((api.endpoint.now() - Date.parse(cluster.createdAt)) / 1000),
    cluster.operation ?? "",
  ]);
  const text = table(["NAME", "PHASE", "VERSION", "SERVERS", "AGENTS", "AGE", "OPERATION"], rows);
  command.answer({ clusters }, clusters.length === 0 ? "" : text);
  if (clusters.length === 0 && !command.isJson) command.tell(`There are no clusters at ${api.endpoint.label}. Create one: drover create FILE\n`);
  return exitCodes.ok;
};

export const status: Act<object, [name: string]> = async (command, _, name) => {
  checkName(name);
  const api = await command.api();
  const found = await api.call<ClusterStatus>("readCluster", { name });
  command.answer(found, statusText(found, command, api.endpoint.now()));
  return exitCodes.ok;
};

function statusText({ record, nodes, operation, quorum }: ClusterStatus, { surroundings }: Command, now: number): string {
  const colour = { ready: "green", failed: "red", creating: "yellow", restoring: "yellow", deleting: "yellow" } as const;
  const pair = (label: string, text: string) => `  ${label.padEnd(12)}${text}`;
  const lines = [
    `${paint(surroundings.out, "bold", record.name)}  ${paint(surroundings.out, colour[record.phase], record.phase)}`,
    pair("version", `${record.resolved.version}, image ${record.resolved.imageId}`),
    pair("created", `${instant(record.createdAt)}${record.readyAt === undefined ? "" : `, ready ${instant(record.readyAt)}`}`),
    pair("endpoint", record.endpoint === undefined ? "none yet" : `https://${record.endpoint.dnsName}:${ports.api}`),
    pair("protection", record.wanted.spec.protection.delete ? "cannot be deleted without --override-protection" : "off"),
    ...record.conditions.map(({ type, status: value, message }) =>
      pair(value === "True" ? "ok" : value === "False" ? "NOT OK" : "unknown", `${type}: ${plain(message)}`),
    ),
    ...(record.readyAt === undefined ? [] : [pair("snapshot", snapshotState(record, now)), pair("drill", drillState(record, now))]),
  ];
  const rows = nodes.map((node) => [
    node.name,
    node.role,
    node.instanceType,
    node.zone,
    node.address,
    node.state,
    age((now - Date.parse(node.launchedAt)) / 1000),
  ]);
  const nodeTable = rows.length === 0 ? "No machines.\n" : table(["NODE", "ROLE", "TYPE", "ZONE", "ADDRESS", "STATE", "AGE"], rows);
  const guide = quorum === undefined || quorum.kind === "whole" ? "" : `\n${quorumGuide(quorum, surroundings.out)}`;
  return `${lines.join("\n")}\n${guide}\n${nodeTable}${operation === undefined ? "" : `\n${latestText(operation)}`}`;
}

/** Age of the newest snapshot that counts, and when the next is due. */
function snapshotState(record: ClusterRecord, now: number): string {
  const { newestProven, wanted } = record;
  const { schedule, timeZone } = wanted.spec.backup;
  const next = nextTime(readSchedule(schedule, timeZone), now);
  const isDue = newestProven === undefined || Date.parse(newestProven.at) < (latestTime(readSchedule(schedule, timeZone), now) ?? 0);
  const then = isDue ? "one is due" : next === undefined ? "" : `the next ${instant(new Date(next).toISOString())}`;
  if (newestProven === undefined) return `NONE IS PROVEN; ${then}${lateText("backup", record, now)}`;
  const { id, at, revision, bytes } = newestProven;
  return `proven ${ago(at, now)} ago, ${id}, revision ${revision}, ${sizeText(bytes)}; ${then}${lateText("backup", record, now)}`;
}

function drillState(record: ClusterRecord, now: number): string {
  const { lastDrill, wanted } = record;
  const { drill } = wanted.spec.backup;
  const wish = drill === "never" ? "none is asked for" : drill;
  if (lastDrill === undefined) return `no snapshot was restored to prove it yet; ${wish}${lateText("drill", record, now)}`;
  const { at, snapshot, proven, detail } = lastDrill;
  if (!proven) return `NOT PROVEN ${ago(at, now)} ago, ${snapshot}: ${plain(detail)}`;
  return `${snapshot} was restored and proven ${ago(at, now)} ago; ${wish}${lateText("drill", record, now)}`;
}

function lateText(kind: DueKind, record: ClusterRecord, now: number): string {
  const late = freshness(kind, record, now)?.lateSeconds ?? 0;
  return late === 0 ? "" : `; LATE by ${age(late)}`;
}

function ago(at: string, now: number): string {
  return age((now - Date.parse(at)) / 1000);
}

/** What a person reads first when servers are lost: what is so, what is safe, what would be lost, and the one command. */
function quorumGuide(quorum: QuorumAssessment, screen: { readonly hasColour: boolean; readonly columns: number }): string {
  const columns = Math.min(Math.max(screen.columns, 60), 120);
  return [
    paint(screen, "red", quorum.kind.toUpperCase()),
    labelled("Found", quorum.reason, columns),
    ...quorum.safe.map((line, index) => labelled(index === 0 ? "Safe" : "", line, columns)),
    labelled("Loss", quorum.loss, columns),
    ...(quorum.command === undefined ? [] : [`  Type       ${plain(quorum.command)}`]),
    "",
  ].join("\n");
}

function latestText(operation: OperationRecord): string {
  const { cluster, id } = operation;
  switch (operation.status) {
    case "accepted":
    case "running":
      return `${id} is ${operation.status}. Watch it: drover watch ${cluster}\n`;
    case "succeeded":
      return `${id} succeeded after ${took(operation)}\n`;
    case "failed":
      return `${id} failed: ${plain(operation.card?.what ?? "no card")}\nRead its card: drover operations ${cluster} ${id}\n`;
  }
}

export const watch: Act<object, [what: string]> = async (command, _, what) => {
  const api = await command.api();
  const found = await operationToWatch(what, api);
  const isOver = found.status === "succeeded" || found.status === "failed";
  if (!isOver) command.tell(`Operation ${found.id}; Ctrl-C stops watching, not the operation\n`);
  const ended = isOver ? found : await watchOperation({ cluster: found.cluster, operation: found.id }, api, command.surroundings);
  if (isOver) command.tell(`${found.id} ended ${instant(found.endedAt ?? "")}\n`);
  return await finish(command, api, ended);
};

/** By its id, or the latest of a cluster, which may be gone already. */
async function operationToWatch(what: string, api: ApiClient): Promise<OperationRecord> {
  const cluster = /^(?:create|delete|backup|restore|drill)-([a-z][a-z0-9-]{0,29})-[0-9a-f]{16}$/.exec(what)?.[1];
  if (cluster !== undefined) {
    const found = await unlessNotFound(api.call<OperationRecord>("readOperation", { name: cluster, operation: what }));
    if (found !== undefined) return found;
  }
  if (what.length > 30 && cluster !== undefined) {
    throw new CommandFailure("notFound", `There is no operation ${what}`, `See which there are: drover operations ${cluster}`);
  }
  checkName(what);
  const { operations } = await api.call<{ operations: readonly OperationRecord[] }>("listOperations", { name: what });
  const [latest] = operations;
  if (latest === undefined) throw new CommandFailure("notFound", `No operation on ${what} is known`, "See which clusters there are: drover list");
  return latest;
}

async function unlessNotFound<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof CommandFailure && error.exit === "notFound") return undefined;
    throw error;
  }
}

export const operations: Act<object, [name: string, id: string | undefined]> = async (command, _, name, id) => {
  checkName(name);
  const api = await command.api();
  if (id === undefined) {
    const found = await api.call<{ operations: readonly OperationRecord[] }>("listOperations", { name });
    const rows = found.operations.map((operation) => [
      operation.id,
      operation.status,
      instant(operation.acceptedAt),
      operation.endedAt === undefined ? "" : took(operation),
      operation.card?.failure ?? "",
      operation.requestedBy.replace(/^arn:[^:]*:[^:]*::\d*:/, ""),
    ]);
    command.answer(found, table(["OPERATION", "STATUS", "ACCEPTED", "TOOK", "FAILURE", "BY"], rows));
    return exitCodes.ok;
  }
  const operation = await api.call<OperationRecord>("readOperation", { name, operation: id });
  command.answer({ operation }, operationText(operation, command));
  return exitCodes.ok;
};

function operationText(operation: OperationRecord, { surroundings }: Command): string {
  const ended = operation.endedAt === undefined ? "" : ` after ${took(operation)}`;
  const rows = operation.steps.map((step) => [duration(secondsBetween(operation.acceptedAt, step.at)), step.name, plain(step.detail)]);
  return [
    `${operation.id}  ${operation.status}${ended}`,
    `  accepted    ${instant(operation.acceptedAt)}, asked by ${operation.requestedBy}`,
    `  request id  ${operation.requestId}`,
    `  execution   ${operation.execution}`,
    "",
    rows.length === 0 ? "No step is done yet.\n" : table(["AFTER", "STEP", ""], rows),
    ...(operation.card === undefined ? [] : [cardText(operation.card, surroundings.out)]),
    ...(operation.kind === "delete" && operation.status === "succeeded" ? [deletedText(operation)] : []),
  ].join("\n");
}
