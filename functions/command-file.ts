/**
 * What is remembered of one node command: found again by the step that sent it, however often that step runs.
 *
 * A file goes through `sending` (before SendCommand, which is not idempotent) and `sent`; a command that failed becomes `reported` when its step has
 * been told. A step that asks again after a reported failure sends a new command, and the number in the file rises.
 */
import { z } from "zod";
import { assessQuorum, decideReady } from "../core/cluster-health.js";
import { nodeName, serverPool, shortHash, stateKeys } from "../core/layout.js";
import { type NodeCommandName, type NodeFailure, nodeCommands, nodeFailureSchema } from "../core/node-commands.js";
import { isAlive } from "../core/nodes.js";
import type { ClusterRecord } from "../core/records.js";
import { redact } from "../core/redact.js";
import type { Commands, Invocation } from "./aws/commands.js";
import type { Instances } from "./aws/instances.js";
import type { StateStore } from "./aws/state.js";
import type { Workflows } from "./aws/workflows.js";
import { milestone, type StepInput } from "./cluster.js";

export interface CommandFile {
  readonly schema: 1;
  readonly key: string;
  readonly command: NodeCommandName;
  readonly step: StepInput;
  readonly group: string;
  readonly number: number;
  readonly stage: "sending" | "sent" | "reported";
  readonly document: string;
  readonly comment: string;
  readonly instanceIds: readonly string[];
  /** Members of the group for whom an earlier number of the same command was enough: it is not sent to them again. */
  readonly done?: readonly string[];
  /** Members of the group that were gone before the command was sent. */
  readonly lost: readonly string[];
  readonly at: string;
  readonly commandId?: string;
  /** Key of the object that the node may create, for commands that send something back. */
  readonly upload?: string;
  readonly outcome?: CommandOutcome;
}

/** How a command ended, node by node. */
export interface CommandOutcome {
  readonly succeeded: readonly string[];
  readonly failed: readonly { readonly instanceId: string; readonly failure: NodeFailure }[];
  readonly lost: readonly string[];
  /** Results of a command that one node runs. */
  readonly result?: Readonly<Record<string, unknown>>;
}

/** What a waiting step is answered by: the token, and where its command's file is. */
export interface Callback {
  readonly schema: 1;
  readonly taskToken: string;
  readonly key: string;
}

export const callbackSchema = z.object({ schema: z.literal(1), taskToken: z.string(), key: z.string() });

export interface SettleClients {
  readonly state: StateStore;
  readonly instances: Instances;
  readonly commands: Commands;
  readonly workflows: Workflows;
}

/** Key of the file for one command of one state, group and pass. */
export function commandKey(step: StepInput, command: NodeCommandName, group: string, pass: number): string {
  return stateKeys.command(step.cluster, step.operation, `${command}-${group}-p${pass}`);
}

/** How the sender recognises its command in SSM's list; at most 100 characters. */
export function commandComment(key: string, number: number, execution: string): string {
  return `drover ${shortHash(`${execution} ${key}`)} ${number} ${key.split("/").at(-1)?.replace(".json", "")}`.slice(0, 100);
}

/** Failures of a node that pass by themselves: the step asks again. */
const passing: ReadonlySet<string> = new Set(["DownloadFailed", "UploadFailed", "AnotherCommandRuns"]);

/**
 * Looks at a command once and answers the waiting step when every node has ended. Answers whether it did.
 *
 * Nodes whose machine is gone count as ended: SSM itself would wait for them until both of its time-outs have passed.
 */
export async function settle(file: CommandFile, taskToken: string, clients: SettleClients, now: string): Promise<boolean> {
  if (file.commandId === undefined) return false;
  const invocations = await clients.commands.invocations(file.commandId);
  const open = file.instanceIds.filter((id) => !invocations.some((invocation) => invocation.instanceId === id && invocation.over));
  const gone = open.length === 0 ? [] : await goneAmong(open, clients.instances);
  if (open.length > gone.length) return false;

  const outcome = readOutcome(file, invocations, gone);
  const record = (await clients.state.read<ClusterRecord>(stateKeys.record(file.step.cluster)))?.value;
  const answer = await judge(file, outcome, record, clients, now);
  // Stored before the answer, because the next state reads it. Only a reported failure is asked anew; a success is answered again.
  const stage = answer.kind === "success" ? "sent" : "reported";
  await clients.state.write(file.key, { ...file, stage, outcome: withoutLogs(outcome) });
  await rememberSetAside(file, outcome, clients.state);
  if (answer.kind === "success") {
    await noteProgress(file, outcome, clients.state, now);
    await clients.workflows.succeed(taskToken, answer.output);
  } else await clients.workflows.fail(taskToken, answer.error, redact(JSON.stringify(answer.cause)));
  await clients.state.remove(stateKeys.callback(file.commandId));
  return true;
}

/** For whom of the group the command has ended well by now, though others may still be at it. */
export async function succeededSoFar(file: CommandFile, commands: Pick<Commands, "invocations">): Promise<readonly string[]> {
  if (file.outcome !== undefined) return file.outcome.succeeded;
  const invocations = file.commandId === undefined ? [] : await commands.invocations(file.commandId);
  const over = invocations.filter((invocation) => invocation.over && readResult(file.command, invocation).ok);
  return [...(file.done ?? []), ...over.map(({ instanceId }) => instanceId)];
}

/** Agents that could not be prepared or started in a pass, with what their nodes said: stored as the group `set-aside-p<pass>`. */
interface SetAside {
  readonly schema: 1;
  readonly nodes: readonly { readonly instanceId: string; readonly pool: string; readonly failure: NodeFailure }[];
}

const setAsideKey = (step: StepInput, key: string) =>
  stateKeys.group(step.cluster, step.operation, `set-aside-p${/-p(\d+)\.json$/.exec(key)?.[1] ?? "1"}`);

/** A group goes on without the nodes that failed in it; verification finds them missing, and this is how it knows why. */
async function rememberSetAside(file: CommandFile, outcome: CommandOutcome, state: StateStore): Promise<void> {
  if (nodeCommands[file.command].mode === "single" || isServerGroup(file)) return;
  // What passes by itself is asked again.
  const lasting = outcome.failed.filter(({ failure }) => !passing.has(failure.code));
  if (lasting.length === 0) return;
  const failed = lasting.map(({ instanceId, failure }) => ({
    instanceId,
    pool: poolOf(file.group),
    failure: { ...failure, message: redact(failure.message), log: redact(failure.log) },
  }));
  await state.update<SetAside>(setAsideKey(file.step, file.key), (current) => ({
    schema: 1,
    nodes: [...(current?.nodes ?? []).filter((node) => !failed.some((each) => each.instanceId === node.instanceId)), ...failed],
  }));
}

function isServerGroup(file: CommandFile): boolean {
  return poolOf(file.group) === serverPool;
}

const progressSteps: Readonly<Partial<Record<NodeCommandName, string>>> = {
  "prepare-node": "prepare",
  "start-agent": "agents",
  "check-cluster": "verify",
};

async function noteProgress(file: CommandFile, outcome: CommandOutcome, state: StateStore, now: string): Promise<void> {
  const name = progressSteps[file.command];
  if (name === undefined) return;
  const set = outcome.failed.length + outcome.lost.length;
  const detail = `${file.group}: ${outcome.succeeded.length} node(s)${set === 0 ? "" : `, ${set} set aside`}`;
  await milestone(state, file.step, name, detail, now);
}

async function goneAmong(ids: readonly string[], instances: Instances): Promise<readonly string[]> {
  const observed = await instances.byId(ids);
  return ids.filter((id) => observed.some((instance) => instance.instanceId === id && !isAlive(instance.state)));
}

function readOutcome(file: CommandFile, invocations: readonly Invocation[], gone: readonly string[]): CommandOutcome {
  const succeeded: string[] = [...(file.done ?? [])];
  const failed: { instanceId: string; failure: NodeFailure }[] = [];
  let result: Readonly<Record<string, unknown>> | undefined;
  for (const instanceId of file.instanceIds.filter((id) => !gone.includes(id))) {
    const invocation = invocations.find((candidate) => candidate.instanceId === instanceId);
    const read = readResult(file.command, invocation);
    if (read.ok) {
      succeeded.push(instanceId);
      result = read;
    } else failed.push({ instanceId, failure: read });
  }
  return { succeeded, failed, lost: [...file.lost, ...gone], ...(result === undefined ? {} : { result }) };
}

/** The one JSON line of the contract, or the failure that its absence means. */
function readResult(command: NodeCommandName, invocation: Invocation | undefined): NodeFailure | { ok: true; [name: string]: unknown } {
  const [line = ""] = (invocation?.output ?? "").split("\n");
  try {
    const value: unknown = JSON.parse(line);
    const success = nodeCommands[command].result.safeParse(value);
    if (success.success && invocation?.status === "Success") return success.data;
    const failure = nodeFailureSchema.safeParse(value);
    if (failure.success) return failure.data;
  } catch {
    // Not JSON: the script never got to its end, and the status says why.
  }
  const status = invocation?.status ?? "no invocation";
  const code = status.includes("TimedOut") ? "StartTimedOut" : "Internal";
  return { ok: false, code, message: `${command} ended as ${status} without a result`, log: "" };
}

type Answer =
  | { readonly kind: "success"; readonly output: Readonly<Record<string, unknown>> }
  | { readonly kind: "failure"; readonly error: string; readonly cause: Readonly<Record<string, unknown>> };

async function judge(
  file: CommandFile,
  outcome: CommandOutcome,
  record: ClusterRecord | undefined,
  { state, instances }: Pick<SettleClients, "state" | "instances">,
  now: string,
): Promise<Answer> {
  const failure = (error: string, errorMessage: string, more: Readonly<Record<string, unknown>> = {}): Answer => ({
    kind: "failure",
    error,
    cause: { errorType: error, errorMessage: `[${file.step.step}] ${errorMessage}`, ...more },
  });
  const [firstFailed] = outcome.failed;
  if (outcome.succeeded.length === 0 && firstFailed === undefined) {
    return failure("NodeLost", `${file.command}: the machine of ${outcome.lost.join(", ")} is gone`, { lost: outcome.lost });
  }
  const mustAllSucceed = nodeCommands[file.command].mode === "single" || isServerGroup(file);
  if (firstFailed !== undefined && (mustAllSucceed || outcome.succeeded.length === 0 || passing.has(firstFailed.failure.code))) {
    const { instanceId, failure: why } = firstFailed;
    const error = passing.has(why.code) ? "NotYet" : "NodeCommandFailed";
    return failure(error, `${file.command} on ${instanceId}: ${why.code}: ${why.message}`, {
      node: { instanceId, pool: poolOf(file.group), failure: why },
    });
  }
  if (mustAllSucceed && outcome.lost.length > 0) {
    return failure("NodeLost", `${file.command}: the machine of ${outcome.lost.join(", ")} is gone`, { lost: outcome.lost });
  }
  if (file.command === "check-cluster" && record !== undefined) return judgeCluster(file, outcome, record, { state, instances }, now, failure);
  return {
    kind: "success",
    output: { succeeded: outcome.succeeded.length, failed: outcome.failed.length, lost: outcome.lost.length },
  };
}

/** `workers-1-03` is of pool `workers`; every other group is of servers. */
function poolOf(group: string): string {
  return /^(.+)-\d+-\d+$/.exec(group)?.[1] ?? serverPool;
}

/**
 * A cluster that is not ready because a node has no machine any more, or because a node has said that it cannot go on, will not become so by waiting.
 */
async function judgeCluster(
  file: CommandFile,
  outcome: CommandOutcome,
  record: ClusterRecord,
  { state, instances }: Pick<SettleClients, "state" | "instances">,
  now: string,
  failure: (error: string, message: string, more?: Readonly<Record<string, unknown>>) => Answer,
): Promise<Answer> {
  const check = nodeCommands["check-cluster"].result.parse(outcome.result);
  const decision = decideReady({ record, check });
  if (decision.kind === "ready") {
    return { kind: "success", output: { servers: check.serversReady, agents: check.agentsReady, version: check.version } };
  }
  if (decision.kind === "stop") return failure("Unsafe", decision.reason);
  const { servers, agentPools } = record.wanted.spec;
  const wanted = servers.count + agentPools.reduce((sum, pool) => sum + pool.count, 0);
  const [observed, setAside] = await Promise.all([instances.ofCluster(record.uid), state.read<SetAside>(setAsideKey(file.step, file.key))]);
  const alive = observed.filter((instance) => isAlive(instance.state));
  if (alive.length < wanted) {
    const quorum = assessQuorum({ record, observed, now });
    const etcd = quorum === undefined || quorum.kind === "whole" ? "" : `; ${quorum.kind}: ${quorum.reason}`;
    return failure("NodeLost", `${wanted - alive.length} of ${wanted} machines are gone: ${decision.reason}${etcd}`);
  }
  const [node, ...others] = (setAside?.value.nodes ?? []).filter((each) => alive.some((instance) => instance.instanceId === each.instanceId));
  if (node === undefined) return failure("NotYet", decision.reason);
  const more = others.length === 0 ? "" : `, and ${others.length} more`;
  const what = `${decision.reason}: ${nodeName(node.pool, node.instanceId)}${more}: ${node.failure.code}: ${node.failure.message}`;
  return failure("NodeCommandFailed", what, { node });
}

/** Logs go to the failure card only, not into every file. */
function withoutLogs(outcome: CommandOutcome): CommandOutcome {
  return {
    ...outcome,
    failed: outcome.failed.map((each) => ({ ...each, failure: { ...each.failure, message: redact(each.failure.message), log: "" } })),
  };
}
