/** Commands on clusters: check a file, create, look, follow, delete. Changes are shown first and asked for. */
import type { Accepted, ClusterStatus, ClusterSummary } from "../core/api.js";
import { formatFault } from "../core/failures.js";
import { ports } from "../core/layout.js";
import type { LeftResource, OperationRecord } from "../core/records.js";
import { faultSummary, validateCluster } from "../core/validate-cluster.js";
import { type ApiClient, interruption } from "./api-client.js";
import { cardText, leftLines } from "./card.js";
import { readClusterText } from "./cluster-text.js";
import type { Act, Command } from "./command.js";
import { badInput, CommandFailure, type ExitCode, exitCodes } from "./failures.js";
import type { ClusterSize } from "./progress.js";
import { age, counted, duration, instant, paint, plain, secondsBetween, table, wrap } from "./text.js";
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

interface ChangeOptions {
  readonly yes?: boolean;
  readonly wait?: boolean;
  readonly requestId?: string;
}

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

export const remove: Act<Omit<ChangeOptions, "yes"> & { readonly confirm?: string; readonly overrideProtection?: boolean }, [name: string]> = async (
  command,
  options,
  name,
) => {
  const { surroundings } = command;
  checkName(name);
  if (options.confirm !== undefined && options.confirm !== name) throw wrongName(name, options.confirm);
  const api = await command.api();
  const body = { requestId: requestIdOf(options, surroundings.newId), overrideProtection: options.overrideProtection === true };
  const preview = await api.call<Accepted>("deleteCluster", { name }, { ...body, confirm: "", preview: true });
  if (preview.status === "accepted") return await follow(command, api, preview, options, undefined);
  command.tell(previewText(preview, api, surroundings.err.columns));
  if (options.confirm === undefined) {
    if (surroundings.ask === undefined) throw nobodyToAsk(`add --confirm ${name}`);
    const typed = await surroundings.ask(`Type the cluster's name to delete it: `);
    if (surroundings.interrupted.aborted || typed === undefined) throw interruption("Nothing was changed");
    if (typed.trim() !== name) throw wrongName(name, typed.trim());
  }
  const accepted = await sendChange(api, "deleteCluster", { name }, { ...body, confirm: name, preview: false }, name, body.requestId);
  return await follow(command, api, accepted, options, { servers: 1, agents: 0 });
};

function requestIdOf({ requestId }: ChangeOptions, newId: () => string): string {
  if (requestId === undefined) return newId();
  if (!/^[A-Za-z0-9_-]{8,64}$/.test(requestId)) {
    throw badInput(`--request-id must be 8 to 64 letters, digits, hyphens or underscores; found "${requestId}"`, "Choose another, or leave it out");
  }
  return requestId;
}

/** A change whose answer was cut off may have been accepted: the person gets the id with which it can be sent again. */
async function sendChange(
  api: ApiClient,
  route: "createCluster" | "deleteCluster",
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
async function agrees({ surroundings }: Command, question: string): Promise<boolean> {
  if (surroundings.ask === undefined) throw nobodyToAsk("add --yes");
  const answer = await surroundings.ask(`${question} [y/N] `);
  if (surroundings.interrupted.aborted || answer === undefined) throw interruption("Nothing was changed");
  return /^y(es)?$/i.test(answer.trim());
}

function nobodyToAsk(instead: string): CommandFailure {
  return badInput("This is not a terminal, so nobody can be asked; nothing was changed", `Read what would be done, then ${instead}`);
}

function wrongName(name: string, found: string): CommandFailure {
  return badInput(
    `To delete ${name} its name must be given again; found "${plain(found).slice(0, 40)}"; nothing was changed`,
    `Give ${name} to confirm`,
  );
}

function nothingChanged(command: Command): ExitCode {
  command.answer({ changed: false }, "Nothing was changed.\n");
  return exitCodes.ok;
}

/** One act a line, wrapped under itself. */
function planText(plan: readonly string[], columns: number): string {
  return plan.map((act) => `  - ${wrap(act, Math.max(40, columns - 5)).join("\n    ")}\n`).join("");
}

function previewText(preview: Accepted, api: ApiClient, columns: number): string {
  const warnings = preview.warnings.map((warning) => `warning  ${plain(formatFault({ ...warning, severity: "warning" }))}\n`).join("");
  return `At ${api.endpoint.label}:\n${planText(preview.plan, columns)}${warnings}`;
}

async function follow(
  command: Command,
  api: ApiClient,
  accepted: Accepted,
  options: ChangeOptions,
  size: ClusterSize | undefined,
): Promise<ExitCode> {
  const { operation, cluster } = accepted;
  if (options.wait === false) {
    command.answer({ operation: { id: operation, cluster, status: "accepted" } }, `${operation} is accepted. Watch it: drover watch ${cluster}\n`);
    return exitCodes.ok;
  }
  command.tell(`Operation ${operation}; Ctrl-C stops watching, not the operation\n`);
  return await finish(command, api, await watchOperation({ cluster, operation, size }, api, command.surroundings));
}

/** Says how an operation ended: its result on standard output, or its card. */
async function finish(command: Command, api: ApiClient, operation: OperationRecord): Promise<ExitCode> {
  if (operation.status === "failed") {
    if (command.isJson) command.answer({ operation }, "");
    command.tell(`\n${failureText(command, operation)}`);
    return exitCodes.failed;
  }
  command.answer({ operation }, operation.kind === "create" ? await readyText(operation, api) : deletedText(operation));
  return exitCodes.ok;
}

function failureText({ surroundings }: Command, operation: OperationRecord): string {
  if (operation.card !== undefined) return cardText(operation.card, surroundings.err);
  return `${operation.id} failed without a card. Look at the execution: ${operation.execution}\n`;
}

async function readyText(operation: OperationRecord, api: ApiClient): Promise<string> {
  const { cluster } = operation;
  const status = await api.call<ClusterStatus>("readCluster", { name: cluster }).catch(() => undefined);
  const endpoint = status?.record.endpoint;
  return [
    `${cluster} is ready after ${took(operation)}`,
    ...(endpoint === undefined ? [] : [`  endpoint    https://${endpoint.dnsName}:${ports.api}`]),
    `  kubeconfig  drover kubeconfig ${cluster} --output ${cluster}.kubeconfig`,
    "",
  ].join("\n");
}

function deletedText(operation: OperationRecord): string {
  const outcome = operation.outcome as { readonly left?: readonly LeftResource[]; readonly dollarsPerMonth?: number } | undefined;
  const left = outcome?.left ?? [];
  const first = `${operation.cluster} is deleted after ${took(operation)}`;
  if (left.length === 0) return `${first}; nothing is left\n`;
  const cost = (outcome?.dollarsPerMonth ?? 0).toFixed(2);
  return `${[`${first}; ${counted(left.length, "resource")} left, about $${cost} a month:`, ...leftLines(left, 50)].join("\n")}\n`;
}

function took(operation: OperationRecord): string {
  return operation.endedAt === undefined ? "an unknown time" : duration(secondsBetween(operation.acceptedAt, operation.endedAt));
}

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

function statusText({ record, nodes, operation }: ClusterStatus, { surroundings }: Command, now: number): string {
  const colour = { ready: "green", failed: "red", creating: "yellow", deleting: "yellow" } as const;
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
  return `${lines.join("\n")}\n\n${nodeTable}${operation === undefined ? "" : `\n${latestText(operation)}`}`;
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
  const cluster = /^(?:create|delete)-([a-z][a-z0-9-]{0,29})-[0-9a-f]{16}$/.exec(what)?.[1];
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

/** The same rule as the cluster file's, so that a misspelt name is said here. */
export function checkName(name: string): void {
  if (/^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$/.test(name)) return;
  const rule = "1 to 30 lower-case letters, digits and hyphens, starting with a letter";
  throw badInput(`"${plain(name).slice(0, 60)}" is no cluster's name: names are ${rule}`, "See which there are: drover list");
}
