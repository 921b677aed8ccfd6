import { describe, expect, it } from "vitest";
import { backupsPerSweep, fleetLimits } from "../../core/due.js";
import { stateKeys } from "../../core/layout.js";
import type { ClusterRecord, OperationRecord } from "../../core/records.js";
import { operationId } from "../../functions/admission.js";
import type { Moment } from "../../functions/lambda.js";
import { sweepFleet } from "../../functions/sweep-fleet.js";
import { clusterFile } from "../core/sample.js";
import { memory } from "./memory.js";

const schedule = { "detail-type": "Scheduled Event" } as const;
const at = (instant: string): Moment => {
  const log = { info: () => {}, warn: () => {} } as unknown as Moment["log"];
  return { now: new Date(instant).toISOString(), nowMs: Date.parse(instant), log };
};

interface Given {
  readonly record?: Partial<ClusterRecord>;
  readonly backup?: Readonly<Record<string, unknown>>;
  readonly operation?: Partial<OperationRecord>;
  readonly lease?: boolean;
}

const execution = (kind: string, id: string) => `arn:aws:states:eu-central-1:1:execution:${kind}:${id}`;

/** A fleet of which the functions see nothing but this, and Step Functions that ran nothing unless told. */
function fleet(given: Readonly<Record<string, Given>>) {
  const statuses = new Map<string, { readonly status: string; readonly endedAt?: string }>();
  const inputs = new Map<string, unknown>();
  const started: string[] = [];
  const announced: string[] = [];
  const lines: string[] = [];
  const documents: Record<string, unknown> = {};
  for (const [name, { record, backup = {}, operation, lease }] of Object.entries(given)) {
    const spoil = Object.fromEntries(Object.entries({ drill: "never", ...backup }).map(([field, value]) => [`spec.backup.${field}`, value]));
    documents[stateKeys.record(name)] = {
      schema: 1,
      name,
      uid: `uid-${name}`,
      generation: 1,
      phase: "ready",
      createdAt: "2026-01-01T09:00:00.000Z",
      readyAt: "2026-01-01T10:00:00.000Z",
      wanted: clusterFile(spoil),
      resolved: { version: "v1.35.7+rke2r1" },
      abandonedBootstraps: [],
      endpoint: { dnsName: `${name}.elb.amazonaws.com` },
      members: [],
      conditions: [],
      newestProven: { id: "20260104T020000Z-00000000", at: "2026-01-04T02:01:00.000Z", revision: 1, bytes: 1 },
      ...record,
    };
    if (operation === undefined) continue;
    const { id = "", kind = "create" } = operation;
    const held = execution(kind, id);
    documents[stateKeys.operation(name, id)] = {
      schema: 1,
      cluster: name,
      uid: `uid-${name}`,
      status: "running",
      steps: [],
      kind,
      execution: held,
      ...operation,
    };
    if (lease === true) documents[stateKeys.lease(name)] = { cluster: name, holder: held, operation: id, takenAt: "2026-01-05T01:00:00.000Z" };
    inputs.set(held, { cluster: name, operation: id });
  }
  const state = memory(documents);
  const describeExecution = async (arn: string) => ({ status: "UNKNOWN", ...statuses.get(arn), input: inputs.get(arn) });
  const clients = {
    state,
    inventory: { ofCluster: async () => [] },
    instances: { ofCluster: async () => [] },
    announcer: { announce: async (name: string) => void announced.push(name) },
    workflows: {
      describe: describeExecution,
      status: async (arn: string) => (await describeExecution(arn)).status,
      start: async (machine: string, name: string) => {
        if (!started.includes(name)) started.push(name);
        statuses.set(`${machine.replace(":stateMachine:", ":execution:")}:${name}`, { status: "RUNNING" });
      },
    },
    machine: (kind: string) => `arn:aws:states:eu-central-1:1:stateMachine:${kind}`,
    meter: { eachCluster: true, write: (line: string) => void lines.push(line) },
  } as unknown as Parameters<typeof sweepFleet>[1];
  const read = <T>(key: string) => state.documents.get(key) as T;
  return { clients, state, started, statuses, announced, lines, read };
}

const night = at("2026-01-05T02:05:00Z");

describe("a sweep", () => {
  it("starts what is due, asked for by the schedule, and not what is not", async () => {
    const { clients, started, read } = fleet({
      due: {},
      served: { record: { newestProven: { id: "20260105T020000Z-00000000", at: "2026-01-05T02:01:00.000Z", revision: 1, bytes: 1 } } },
      unready: { record: { phase: "creating" } },
    });
    expect(await sweepFleet(schedule, clients, night)).toEqual({ clusters: 3, closed: 0, started: 1 });
    expect(started).toEqual([expect.stringMatching(/^backup-due-[0-9a-f]{16}$/)]);
    const made = read<OperationRecord>(stateKeys.operation("due", started[0] as string));
    expect(made).toMatchObject({
      kind: "backup",
      requestedBy: "schedule",
      requestId: expect.stringMatching(/^backup-20260105T0200Z-[0-9a-f]{8}-1$/),
    });
  });
  it("that is doubled starts nothing twice, at once or a moment later", async () => {
    const { clients, started } = fleet({ a: {}, b: {} });
    await Promise.all([sweepFleet(schedule, clients, night), sweepFleet(schedule, clients, night)]);
    await sweepFleet(schedule, clients, at("2026-01-05T02:05:30Z"));
    expect(started.map((id) => id.split("-")[1]).sort()).toEqual(["a", "b"]);
  });
  it("finishes what another began and died over: a record that names an operation nobody started", async () => {
    const { clients, started, state, statuses, read } = fleet({ a: {} });
    await sweepFleet(schedule, clients, night);
    const [id] = started as [string];
    // Died before the execution, and before the operation was written.
    for (const isWritten of [true, false]) {
      started.length = 0;
      statuses.clear();
      if (!isWritten) state.documents.delete(stateKeys.operation("a", id));
      await sweepFleet(schedule, clients, at("2026-01-05T02:10:00Z"));
      expect(started).toEqual([id]);
      expect(read<OperationRecord>(stateKeys.operation("a", id))).toMatchObject({ status: "accepted" });
    }
  });
  it("leaves a cluster alone that an operation is changing", async () => {
    const { clients, started, statuses } = fleet({
      a: { record: { operation: "drill-a-1" }, operation: { id: "drill-a-1", kind: "drill" }, lease: true },
    });
    statuses.set(execution("drill", "drill-a-1"), { status: "RUNNING" });
    expect(await sweepFleet(schedule, clients, night)).toEqual({ clusters: 1, closed: 0, started: 0 });
    expect(started).toEqual([]);
  });
  it("tries a backup that failed again half an hour later, under another id, and three times in all", async () => {
    const { clients, started, state, statuses, read } = fleet({ a: {} });
    const times = ["02:05", "02:10", "02:40", "02:45", "03:15", "03:20", "04:30"];
    for (const time of times) {
      const moment = at(`2026-01-05T${time}:00Z`);
      await sweepFleet(schedule, clients, moment);
      for (const id of started) {
        const operation = read<OperationRecord>(stateKeys.operation("a", id));
        if (operation.status !== "accepted") continue;
        statuses.set(operation.execution, { status: "FAILED", endedAt: moment.now });
        state.documents.set(stateKeys.operation("a", id), { ...operation, status: "failed", endedAt: moment.now, card: {} });
        const { operation: _, ...record } = read<ClusterRecord>(stateKeys.record("a"));
        state.documents.set(stateKeys.record("a"), record);
      }
    }
    const numbers = started.map((id) => read<OperationRecord>(stateKeys.operation("a", id)).requestId.at(-1));
    expect(numbers).toEqual(["1", "2", "3"]);
    expect(started[0]).toBe(operationId("backup", "a", read<OperationRecord>(stateKeys.operation("a", started[0] as string)).requestId));
  });
  it("starts as many backups as a wave has at most, and the rest at the next look", async () => {
    const many = Object.fromEntries(Array.from({ length: backupsPerSweep + 50 }, (_, index) => [`c${index}`, {}]));
    const { clients, started } = fleet(many);
    const later = at("2026-01-05T04:00:00Z");
    expect(await sweepFleet(schedule, clients, later)).toMatchObject({ started: backupsPerSweep });
    expect(await sweepFleet(schedule, clients, later)).toMatchObject({ started: 50 });
    expect(new Set(started).size).toBe(backupsPerSweep + 50);
  });
  it("does not let one cluster that cannot be looked at keep the others waiting, and says so", async () => {
    const { clients, started } = fleet({ a: {}, b: {} });
    const reads = clients.state.read;
    const broken = {
      ...clients.state,
      read: async (key: string) => (key === stateKeys.record("a") ? Promise.reject(new Error("damaged")) : reads(key)),
    };
    await expect(sweepFleet(schedule, { ...clients, state: broken as typeof clients.state }, night)).rejects.toThrow("damaged");
    expect(started.map((id) => id.split("-")[1])).toEqual(["b"]);
  });
  it("is no failure when AWS asks for patience", async () => {
    const { clients } = fleet({ a: {} });
    const throttled = Object.assign(new Error("Rate exceeded"), { name: "ThrottlingException", $metadata: {}, $service: "SFN" });
    const workflows = { ...clients.workflows, start: async () => Promise.reject(throttled) };
    expect(await sweepFleet(schedule, { ...clients, workflows }, night)).toMatchObject({ started: 0 });
  });
});

describe("drills", () => {
  it("are started when nothing else is due, no more than may run at once", async () => {
    const fresh = { newestProven: { id: "20260105T020000Z-00000000", at: "2026-01-05T02:01:00.000Z", revision: 1, bytes: 1 } };
    const many = Object.fromEntries(
      Array.from({ length: fleetLimits.drillsAtOnce + 5 }, (_, index) => [`c${index}`, { record: fresh, backup: { drill: "nightly" } }]),
    );
    const { clients, started } = fleet(many);
    await sweepFleet(schedule, clients, at("2026-01-05T04:00:00Z"));
    expect(started.length).toBe(fleetLimits.drillsAtOnce);
    expect(started.every((id) => id.startsWith("drill-"))).toBe(true);
    await sweepFleet(schedule, clients, at("2026-01-05T04:05:00Z"));
    expect(started.length).toBe(fleetLimits.drillsAtOnce);
  });
});

describe("an operation whose execution ended without closing it, and whose event never came", () => {
  const ended = "2026-01-05T02:03:00.000Z";
  const creating = { phase: "creating", operation: "create-a-1" } as const;

  it("is closed with a card, its lease given back", async () => {
    const { clients, statuses, read, state, announced } = fleet({ a: { record: creating, operation: { id: "create-a-1" }, lease: true } });
    statuses.set(execution("create", "create-a-1"), { status: "ABORTED", endedAt: ended });
    expect(await sweepFleet(schedule, clients, night)).toEqual({ clusters: 1, closed: 1, started: 0 });
    expect(read<OperationRecord>(stateKeys.operation("a", "create-a-1"))).toMatchObject({ status: "failed", card: { failure: "Aborted" } });
    expect(state.documents.has(stateKeys.lease("a"))).toBe(false);
    expect(announced).toEqual(["Operation Failed"]);
    expect(await sweepFleet(schedule, clients, night)).toMatchObject({ closed: 0 });
  });
  it("waits until what it began can act no more", async () => {
    const { clients, statuses } = fleet({ a: { record: creating, operation: { id: "create-a-1" }, lease: true } });
    statuses.set(execution("create", "create-a-1"), { status: "TIMED_OUT", endedAt: "2026-01-05T02:04:30.000Z" });
    expect(await sweepFleet(schedule, clients, night)).toMatchObject({ closed: 0 });
  });
  it("of a cluster that had said it is ready is a success, and the cluster is looked after from the next look on", async () => {
    const { clients, statuses, read, announced, started } = fleet({ a: { operation: { id: "create-a-1" }, lease: true } });
    statuses.set(execution("create", "create-a-1"), { status: "ABORTED", endedAt: ended });
    expect(await sweepFleet(schedule, clients, night)).toEqual({ clusters: 1, closed: 1, started: 0 });
    expect(read<OperationRecord>(stateKeys.operation("a", "create-a-1"))).toMatchObject({ status: "succeeded" });
    expect(announced).toEqual(["Cluster Ready"]);
    expect(await sweepFleet(schedule, clients, at("2026-01-05T02:10:00Z"))).toMatchObject({ started: 1 });
    expect(started.length).toBe(1);
  });
});

describe("what is measured", () => {
  const measured = (lines: readonly string[]) =>
    lines.map((line) => JSON.parse(line) as Record<string, unknown> & { _aws: { CloudWatchMetrics: object[] } });

  it("is written as a line of CloudWatch's format for each cluster that was ever ready", async () => {
    const unready = { phase: "creating", readyAt: undefined } as unknown as Partial<ClusterRecord>;
    const { clients, lines } = fleet({ a: {}, b: { record: unready } });
    await sweepFleet(schedule, clients, night);
    expect(measured(lines)).toEqual([
      {
        _aws: {
          Timestamp: night.nowMs,
          CloudWatchMetrics: [
            {
              Namespace: "Drover",
              Dimensions: [[]],
              Metrics: [
                { Name: "SnapshotAge", Unit: "Seconds" },
                { Name: "FailedBackups", Unit: "Count" },
                { Name: "LateSnapshots", Unit: "Count" },
              ],
            },
            {
              Namespace: "Drover",
              Dimensions: [["Cluster"]],
              Metrics: [
                { Name: "SnapshotAge", Unit: "Seconds" },
                { Name: "FailedBackups", Unit: "Count" },
              ],
            },
          ],
        },
        Cluster: "a",
        SnapshotAge: 86_640,
        FailedBackups: 0,
        LateSnapshots: 0,
      },
    ]);
    expect(lines[0]).not.toContain("\n");
  });
  it("leaves the cluster's name out of the metrics where the deployment wants the fleet's alone", async () => {
    const { clients, lines } = fleet({ a: {} });
    await sweepFleet(schedule, { ...clients, meter: { ...clients.meter, eachCluster: false } }, night);
    expect(measured(lines)[0]?._aws.CloudWatchMetrics).toMatchObject([{ Dimensions: [[]] }]);
  });
  it("tells of a snapshot that is too old, a drill that is, and of tries that failed", async () => {
    const old = { newestProven: { id: "20260101T020000Z-00000000", at: "2026-01-01T12:00:00.000Z", revision: 1, bytes: 1 } };
    const lastDrill = { at: "2026-01-05T01:00:00.000Z", snapshot: "", proven: false, detail: "" };
    const { clients, lines, state, read, started } = fleet({ a: { record: { ...old, lastDrill }, backup: { drill: "nightly" } } });
    await sweepFleet(schedule, clients, night);
    const [id] = started as [string];
    state.documents.set(stateKeys.operation("a", id), {
      ...read<OperationRecord>(stateKeys.operation("a", id)),
      status: "failed",
      endedAt: night.now,
      card: {},
    });
    await sweepFleet(schedule, clients, at("2026-01-05T02:10:00Z"));
    expect(measured(lines).map(({ LateSnapshots, LateDrills, FailedBackups }) => ({ LateSnapshots, LateDrills, FailedBackups }))).toEqual([
      { LateSnapshots: 1, LateDrills: 1, FailedBackups: 0 },
      { LateSnapshots: 1, LateDrills: 1, FailedBackups: 1 },
    ]);
  });
});
