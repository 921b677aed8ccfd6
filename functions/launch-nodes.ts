/**
 * State "Launch nodes" of create-cluster: every missing node at once, each call under its own client token.
 *
 * What a call answered is remembered before the next option of its batch is tried, so that a run that dies half-way is repeated call by call
 * and never makes a second instance (core/launch.ts).
 */
import { z } from "zod";
import { NoCapacity } from "../core/failures.js";
import {
  type Batch,
  emptyLaunchLog,
  isRefusal,
  type LaunchLog,
  type NextLaunch,
  nextLaunch,
  openBatches,
  rememberLaunch,
  rememberRefusal,
  shapesOf,
} from "../core/launch.js";
import { stateKeys } from "../core/layout.js";
import type { ClusterRecord } from "../core/records.js";
import { type Instances, instances } from "./aws/instances.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { endpointOf, holdLease, milestone, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ pass: z.number().int().min(1) });
type Input = z.output<typeof input>;

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
  readonly instanceProfileArn: string;
}

type Call = Extract<NextLaunch, { kind: "launch" }>;
type Answer = { readonly batch: Batch; readonly call: Call } & ({ readonly ids: readonly string[] } | { readonly refused: string });

/** RunInstances bears five requests at once and two a second after that (EC2 API reference, request throttling). */
const callsAtOnce = 5;

export const launchNodes: Task<Input, Clients, { readonly launched: number }> = async (step, clients, moment) => {
  await holdLease(clients.state, step);
  const record = await readRecord(clients.state, step.cluster);
  let log = await readLog(clients.state, step.cluster);
  let launched = 0;
  for (let round = openBatches(log); round.length > 0; round = openBatches(log)) {
    const answers = await launchRound(round.slice(0, callsAtOnce), log, record, clients);
    const surplus: string[] = [];
    log = await remember(clients.state, step.cluster, answers, surplus, moment.now);
    if (surplus.length > 0) await clients.instances.terminate(surplus);
    launched += answers.reduce((sum, answer) => sum + ("ids" in answer ? answer.ids.length : 0), 0);
  }
  const empty = log.batches.filter((batch) => batch.operation === step.operation && batch.pass === step.pass).map((batch) => nextLaunch(log, batch));
  const missing = empty.reduce((sum, next) => sum + (next.kind === "exhausted" ? next.missing : 0), 0);
  if (missing > 0)
    throw new NoCapacity(
      `${missing} node(s) of ${step.cluster} found no room: ${refusalText(log)}`,
      "Allow further instance types or zones in the cluster file",
    );
  await milestone(clients.state, step, "launch", `${launched} machines were launched`, moment.now);
  return { launched };
};

async function readLog(state: StateStore, cluster: string): Promise<LaunchLog> {
  return (await state.read<LaunchLog>(stateKeys.launches(cluster)))?.value ?? emptyLaunchLog;
}

async function launchRound(batches: readonly Batch[], log: LaunchLog, record: ClusterRecord, clients: Clients): Promise<Answer[]> {
  const answers = await Promise.allSettled(
    batches.map(async (batch): Promise<Answer | undefined> => {
      const call = nextLaunch(log, batch);
      return call.kind === "launch" ? launchBatch(batch, call, record, clients) : undefined;
    }),
  );
  const failed = answers.find((answer) => answer.status === "rejected");
  const answered = answers.flatMap((answer) => (answer.status === "fulfilled" && answer.value !== undefined ? [answer.value] : []));
  if (failed === undefined) return answered;
  // What did succeed is found again by its token when the step is repeated.
  throw failed.reason;
}

async function launchBatch(batch: Batch, call: Call, record: ClusterRecord, clients: Clients): Promise<Answer> {
  const shape = shapesOf(record.wanted).find((candidate) => candidate.pool === batch.pool);
  try {
    const ids = await clients.instances.launch({
      cluster: record.name,
      uid: record.uid,
      operation: batch.operation,
      role: batch.role,
      pool: batch.pool,
      firstSlot: call.firstSlot,
      pass: batch.pass,
      count: call.count,
      clientToken: call.clientToken,
      instanceType: call.option.instanceType,
      subnetId: call.option.subnetId,
      imageId: record.resolved.imageId,
      rootDeviceName: record.resolved.rootDeviceName,
      rootVolumeGib: shape?.rootVolumeGib ?? 80,
      market: shape?.market ?? "on-demand",
      securityGroupId: endpointOf(record).nodeSecurityGroupId,
      instanceProfileArn: clients.instanceProfileArn,
    });
    return { batch, call, ids };
  } catch (error) {
    const code = error instanceof Error ? error.name : "";
    if (isRefusal(code)) return { batch, call, refused: code };
    throw error;
  }
}

async function remember(state: StateStore, cluster: string, answers: readonly Answer[], surplus: string[], now: string): Promise<LaunchLog> {
  const written = await state.update<LaunchLog>(stateKeys.launches(cluster), (current) => {
    surplus.length = 0;
    return answers.reduce((log, answer) => {
      if ("refused" in answer) return rememberRefusal(log, answer.batch, answer.call.option, answer.refused, now);
      const next = rememberLaunch(log, answer.batch, answer.call, answer.ids, now);
      surplus.push(...next.surplus);
      return next.log;
    }, current ?? emptyLaunchLog);
  });
  return written ?? emptyLaunchLog;
}

function refusalText(log: LaunchLog): string {
  return [...new Set(log.refusals.slice(-6).map((refusal) => `${refusal.instanceType} in ${refusal.zone} (${refusal.code})`))].join(", ");
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    instances: instances(),
    instanceProfileArn: environment("NODE_INSTANCE_PROFILE_ARN"),
  }),
  launchNodes,
);
