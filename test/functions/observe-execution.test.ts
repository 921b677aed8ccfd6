import { describe, expect, it } from "vitest";
import { stateKeys } from "../../core/layout.js";
import type { ClusterRecord, OperationRecord } from "../../core/records.js";
import type { Moment } from "../../functions/lambda.js";
import { observeExecution } from "../../functions/observe-execution.js";
import { memory } from "./memory.js";

const execution = "arn:aws:states:eu-central-1:1:execution:drover-create-cluster:create-prod-1";
const endedAt = "2026-01-05T02:04:36.000Z";
const now = "2026-01-05T02:06:00.000Z";
const at = (instant: string): Moment => ({ now: instant, nowMs: Date.parse(instant), log: console as unknown as Moment["log"] });
const moment = at(now);
const [cluster, id, uid] = ["prod", "create-prod-1", "u-1"];

/** A create that was aborted: how far its record had come, and whether it says which operation it belongs to. */
function aborted(record: Partial<ClusterRecord>) {
  const announced: string[] = [];
  const state = memory({
    [stateKeys.record(cluster)]: {
      schema: 1,
      name: cluster,
      uid,
      phase: "creating",
      endpoint: { dnsName: "prod.elb.amazonaws.com" },
      resolved: { version: "v1.35.7+rke2r1" },
      wanted: { spec: { servers: { count: 3 }, agentPools: [] } },
      ...record,
    },
    [stateKeys.operation(cluster, id)]: { schema: 1, id, kind: "create", cluster, uid, execution, status: "running", steps: [] },
    [stateKeys.lease(cluster)]: { cluster, holder: execution, operation: id, takenAt: now },
  });
  const clients = {
    state,
    inventory: { ofCluster: async () => [] },
    announcer: { announce: async (name: string) => announced.push(name) > 0 },
    workflows: { describe: async () => ({ status: "ABORTED", input: { cluster, operation: id }, endedAt }) },
  } as unknown as Parameters<typeof observeExecution>[1];
  const read = <T>(key: string) => state.documents.get(key) as T;
  return { clients, announced, state, operation: () => read<OperationRecord>(stateKeys.operation(cluster, id)), read };
}
const event = { detail: { executionArn: execution } };

describe("an execution that ended without closing its operation", () => {
  it("is recorded as a failure, with a card, and gives its lease back", async () => {
    const { clients, announced, operation, state } = aborted({ operation: id });
    expect(await observeExecution(event, clients, moment)).toEqual({ closed: 1 });
    expect(operation()).toMatchObject({ status: "failed", card: { failure: "Aborted" } });
    expect(announced).toEqual(["Operation Failed"]);
    expect(state.documents.has(stateKeys.lease(cluster))).toBe(false);
  });
  it("is left alone while what it began may still act", async () => {
    const { clients, operation } = aborted({ operation: id });
    const soon = at("2026-01-05T02:05:00.000Z");
    await expect(observeExecution(event, clients, soon)).rejects.toMatchObject({ name: "NotYet" });
    expect(operation()).toMatchObject({ status: "running" });
  });
  it("is a success when it had said that the cluster is ready", async () => {
    const { clients, announced, operation, read, state } = aborted({ phase: "ready", readyAt: endedAt });
    expect(await observeExecution(event, clients, moment)).toEqual({ closed: 1 });
    expect(operation()).toMatchObject({ status: "succeeded", endedAt: now });
    expect(operation().card).toBeUndefined();
    expect(read<ClusterRecord>(stateKeys.record(cluster))).toMatchObject({ phase: "ready", readyAt: endedAt });
    expect(announced).toEqual(["Cluster Ready"]);
    expect(state.documents.has(stateKeys.lease(cluster))).toBe(false);
    expect(await observeExecution(event, clients, moment)).toEqual({ closed: 0 });
  });
});
