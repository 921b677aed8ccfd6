/**
 * Looks at every cluster every few minutes: closes operations whose execution ended without doing so, measures what protects the cluster, and starts what is due.
 *
 * Nothing is remembered from one look to the next. A sweep that is doubled or cut short does no harm: what it asks for is named by cluster, kind and scheduled
 * time, and admission answers a repeated name with the first operation.
 */
import { z } from "zod";
import { type Due, type DueKind, decideDue, decideTry, decideWave, freshness, requestIdOf } from "../core/due.js";
import { Busy, NotYet, StepFailure } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { clusterMetrics, metricLine } from "../core/metrics.js";
import type { ClusterRecord, Lease, OperationKind, OperationRecord } from "../core/records.js";
import { type AdmissionClients, admissionClients, admitBackup, admitDrill, operationId } from "./admission.js";
import { inventory } from "./aws/inventory.js";
import { closeEnded, type EndClients, isOpen } from "./ended-execution.js";
import { awsFailure, lambda, type Moment, type Task } from "./lambda.js";
import { type Meter, meter } from "./meter.js";

const input = z.object({ "detail-type": z.literal("Scheduled Event") });

interface Clients extends AdmissionClients, EndClients {
  readonly meter: Meter;
}

interface Swept {
  readonly clusters: number;
  readonly closed: number;
  readonly started: number;
}

/** Clusters looked at side by side: enough that ten thousand take seconds, few enough for one function's connections. */
const sideBySide = 25;

export const sweepFleet: Task<z.output<typeof input>, Clients, Swept> = async (_, clients, moment) => {
  const failures: unknown[] = [];
  const names = await clients.state.names(stateKeys.allClusters);
  const looked = await forEach(names, sideBySide, async (name) => {
    try {
      return await look(name, clients, moment);
    } catch (error) {
      // One that cannot be looked at does not keep the others waiting.
      failures.push(error);
      return undefined;
    }
  });
  const seen = looked.filter((each) => each !== undefined);
  const wanted = await forEach(seen, sideBySide, async (each) => await wantedOf(each, seen.length, clients, moment));
  for (const [index, { record }] of seen.entries()) measure(record, wanted[index]?.failedBackups ?? 0, clients.meter, moment);

  const asks = new Map(wanted.flatMap(({ ask }) => (ask === undefined ? [] : [[ask.due, ask] as const])));
  const drillsUnderWay = seen.filter(({ underWay }) => underWay === "drill").length;
  let started = 0;
  // One after another: at the pace of an admission, a quarter of a second or so, a wave starts as evenly as the account's limits ask.
  for (const due of decideWave([...asks.keys()], drillsUnderWay)) {
    try {
      await ask(due, asks.get(due)?.number ?? 1, clients, moment);
      started++;
    } catch (error) {
      // Somebody else was faster; or it was deleted, or is not whole any more, since it was looked at: the next look finds what is so then.
      if (!(error instanceof Busy)) failures.push(error);
    }
  }
  const closed = seen.filter(({ isClosed }) => isClosed).length;
  moment.log.info("fleet swept", { clusters: seen.length, closed, started, waiting: asks.size - started });
  const [serious] = failures.filter((error) => !isPassing(error));
  if (serious !== undefined) throw serious;
  return { clusters: seen.length, closed, started };
};

/** Throttles and the like: the next look asks again. */
function isPassing(error: unknown): boolean {
  return error instanceof NotYet || (error instanceof Error && awsFailure(error) instanceof NotYet);
}

interface Seen {
  readonly record: ClusterRecord;
  /** What an execution that runs is doing with it. */
  readonly underWay: OperationKind | undefined;
  readonly isBusy: boolean;
  readonly isClosed: boolean;
}

/** The cluster as it is, once an operation that has ended is closed; undefined when it is gone. */
async function look(name: string, clients: Clients, moment: Moment): Promise<Seen | undefined> {
  const { state } = clients;
  const [record, lease] = await Promise.all([state.read<ClusterRecord>(stateKeys.record(name)), state.read<Lease>(stateKeys.lease(name))]);
  if (record === undefined) return undefined;
  // A record that says ready names no operation any more, though the one that wrote it may have died before it gave its lease back.
  const id = record.value.operation ?? lease?.value.operation;
  const operation = id === undefined ? undefined : (await state.read<OperationRecord>(stateKeys.operation(name, id)))?.value;
  const isLeased = lease !== undefined && lease.value.holder === operation?.execution;
  if (operation === undefined || !(isOpen(operation) || isLeased)) {
    return { record: record.value, underWay: undefined, isBusy: false, isClosed: false };
  }
  const { end, status } = await closeEnded(operation.execution, clients, moment);
  const isRunning = status === "RUNNING" || status === "PENDING_REDRIVE";
  // What was read is of before the closing: whatever is due then can wait for the next look.
  const isBusy = isRunning || end === "closed" || end === "too early";
  return { record: record.value, underWay: isRunning ? operation.kind : undefined, isBusy, isClosed: end === "closed" };
}

interface Wanted {
  readonly failedBackups: number;
  readonly ask?: { readonly due: Due; readonly number: number };
}

/** The first thing the cluster is due for that may be tried now, and how often its backup has failed since it was due. */
async function wantedOf({ record, isBusy }: Seen, clusters: number, { state }: Clients, moment: Moment): Promise<Wanted> {
  const decision = decideDue(record, isBusy, clusters, moment.nowMs);
  if (decision.kind === "rests") return { failedBackups: 0 };
  let failedBackups = 0;
  let first: Wanted["ask"];
  for (const due of decision.due) {
    const tries: (OperationRecord | undefined)[] = [];
    let answer = decideTry(due, tries, moment.nowMs);
    while (answer.kind === "look") {
      const id = operationId(due.kind, due.cluster, requestIdOf(due, answer.number));
      tries.push((await state.read<OperationRecord>(stateKeys.operation(due.cluster, id)))?.value);
      answer = decideTry(due, tries, moment.nowMs);
    }
    if (due.kind === "backup") failedBackups = tries.filter((made) => made?.status === "failed").length;
    if (answer.kind === "start") first ??= { due, number: answer.number };
  }
  return { failedBackups, ...(first === undefined ? {} : { ask: first }) };
}

function measure(record: ClusterRecord, failedBackups: number, { write, eachCluster }: Meter, { nowMs }: Moment): void {
  const cluster = record.name;
  const values = clusterMetrics({
    cluster,
    backup: freshness("backup", record, nowMs),
    drill: freshness("drill", record, nowMs),
    failedBackups,
  });
  if (values !== undefined) write(metricLine(cluster, values, eachCluster, nowMs));
}

const admit: Readonly<Record<DueKind, (asking: Asked, clients: AdmissionClients, moment: Moment) => Promise<unknown>>> = {
  backup: admitBackup,
  drill: (asking, clients, moment) => admitDrill({ ...asking, snapshot: "latest" }, clients, moment),
};
interface Asked {
  readonly cluster: string;
  readonly requestId: string;
  readonly requestedBy: string;
  readonly preview: false;
}

/** @throws Busy when another operation is under way, NotYet when AWS asks for patience */
async function ask(due: Due, number: number, clients: Clients, moment: Moment): Promise<void> {
  const { kind, cluster } = due;
  try {
    await admit[kind]({ cluster, requestId: requestIdOf(due, number), requestedBy: "schedule", preview: false }, clients, moment);
  } catch (error) {
    if (!(error instanceof StepFailure) || error instanceof Busy || error instanceof NotYet) throw error;
    moment.log.warn("refused", { cluster, kind, reason: error.message });
  }
}

/** Answers in the order of the items, so many at a time. */
async function forEach<Item, Answer>(items: readonly Item[], atOnce: number, act: (item: Item) => Promise<Answer>): Promise<Answer[]> {
  const answers: Answer[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    for (let index = next++; index < items.length; index = next++) answers[index] = await act(items[index] as Item);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, work));
  return answers;
}

export const handler = lambda(
  input,
  (environment) => ({
    ...admissionClients(environment),
    inventory: inventory(),
    meter: meter(environment("CLUSTER_METRICS") === "true"),
  }),
  sweepFleet,
);
