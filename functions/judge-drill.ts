/**
 * State "Compare with manifest" of drill-restore: whether what was restored is what was proven when the snapshot was taken. That it could be restored at
 * all says that its bootstrap data open with the token that is kept.
 */
import { Unsafe } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { nodeCommands } from "../core/node-commands.js";
import type { OperationRecord } from "../core/records.js";
import { compareRestored } from "../core/restore.js";
import { type Announcer, announcer } from "./aws/events.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, readOperation, type StepInput, stepInput, updateRecord } from "./cluster.js";
import { type CommandFile, commandKey } from "./command-file.js";
import { type DrillGroup, drillGroup } from "./drill-server.js";
import { lambda, type Task } from "./lambda.js";

interface Clients {
  readonly state: StateStore;
  readonly announcer: Announcer;
}

export const judgeDrill: Task<StepInput, Clients, { readonly proven: true }> = async (step, { state, announcer }, moment) => {
  await holdLease(state, step);
  const [operation, group, command] = await Promise.all([
    readOperation(state, step),
    state.read<DrillGroup>(stateKeys.group(step.cluster, step.operation, drillGroup)),
    state.read<CommandFile>(commandKey(step, "restore-snapshot", drillGroup, 1)),
  ]);
  const restored = nodeCommands["restore-snapshot"].result.safeParse(command?.value.outcome?.result);
  if (group === undefined || !restored.success) {
    throw new Unsafe(`The server of drill ${step.operation} has not told what it restored`, "Start the drill again");
  }
  const { source } = group.value;
  const { faults, unproven } = compareRestored(source, restored.data);
  const wrong = [...faults, ...unproven];
  const { revision, keys, newestRevision } = restored.data;
  const seconds = Math.round((moment.nowMs - Date.parse(operation.startedAt ?? operation.acceptedAt)) / 1000);
  const proven = wrong.length === 0;
  const detail = proven ? `${keys} keys at revision ${revision}, after ${seconds} s` : wrong.join("; ");
  await updateRecord(state, step.cluster, (record) => ({ ...record, lastDrill: { at: moment.now, snapshot: source.snapshot, proven, detail } }));
  await state.update<OperationRecord>(stateKeys.operation(step.cluster, step.operation), (current) =>
    current === undefined
      ? undefined
      : { ...current, outcome: { ...current.outcome, drill: { snapshot: source.snapshot, proven, revision, keys, newestRevision, seconds, wrong } } },
  );
  await milestone(state, step, proven ? "restore proven" : "restore not proven", detail, moment.now);
  if (!proven) {
    const what = `What was restored of snapshot ${source.snapshot} is not what its manifest says: ${detail}`;
    throw new Unsafe(what, `Do not count on it. Take another and try that: drover snapshot create ${step.cluster}`);
  }
  const { cluster, operation: id } = step;
  await announcer.announce("Restore Proven", {
    operation: id,
    cluster,
    uid: operation.uid,
    snapshot: source.snapshot,
    takenAt: source.takenAt,
    revision,
    keys,
    seconds,
    at: moment.now,
  });
  return { proven: true };
};

export const handler = lambda(
  stepInput,
  (environment) => ({ state: stateStore(environment("STATE_BUCKET")), announcer: announcer(environment("EVENT_BUS")) }),
  judgeDrill,
);
