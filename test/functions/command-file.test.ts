import { describe, expect, it } from "vitest";
import { stateKeys } from "../../core/layout.js";
import type { NodeCommandName } from "../../core/node-commands.js";
import type { ObservedInstance } from "../../core/nodes.js";
import type { Invocation } from "../../functions/aws/commands.js";
import { type CommandFile, type SettleClients, settle, succeededSoFar } from "../../functions/command-file.js";
import { memory } from "./memory.js";

const step = {
  cluster: "prod",
  operation: "create-prod-1",
  execution: "arn:aws:states:eu-central-1:1:execution:drover-create-cluster:x",
  step: "Start agents",
};
const now = "2026-01-05T02:00:00.000Z";

const machine = (instanceId: string, state: ObservedInstance["state"] = "running"): ObservedInstance => ({
  instanceId,
  role: instanceId.startsWith("i-s") ? "server" : "agent",
  pool: instanceId.startsWith("i-s") ? "server" : "workers",
  slot: 1,
  operation: step.operation,
  zone: "a",
  subnetId: "subnet-1",
  instanceType: "m6i.large",
  address: "10.0.0.1",
  state,
  launchedAt: now,
});

const ended = (instanceId: string, result: unknown, status = "Success"): Invocation => ({
  instanceId,
  status,
  over: true,
  output: `${JSON.stringify(result)}\nmore`,
});
const failed = (instanceId: string, code: string) =>
  ended(instanceId, { ok: false, code, message: "1 GiB is free, 3 GiB are needed", log: "df says so" }, "Failed");

function command(name: NodeCommandName, group: string, ids: readonly string[], lost: readonly string[] = []): CommandFile {
  const key = stateKeys.command(step.cluster, step.operation, `${name}-${group}-p1`);
  const [document, comment] = [`drover-${name}-1`, "drover 1"];
  return {
    schema: 1,
    key,
    command: name,
    step,
    group,
    number: 1,
    stage: "sent",
    document,
    comment,
    instanceIds: ids,
    lost,
    at: now,
    commandId: "c-1",
  };
}

function bench(invocations: readonly Invocation[], machines: readonly ObservedInstance[], stored: Readonly<Record<string, unknown>> = {}) {
  const answers: { kind: "success" | "failure"; error?: string; value: string }[] = [];
  const state = memory({ [stateKeys.callback("c-1")]: { schema: 1, taskToken: "t", key: "k" }, ...stored });
  const clients = {
    state,
    instances: { byId: async (ids: readonly string[]) => machines.filter((each) => ids.includes(each.instanceId)), ofCluster: async () => machines },
    commands: { invocations: async () => invocations },
    workflows: {
      succeed: async (_: string, value: unknown) => answers.push({ kind: "success", value: JSON.stringify(value) }) > 0,
      fail: async (_: string, error: string, value: string) => answers.push({ kind: "failure", error, value }) > 0,
    },
  } as unknown as SettleClients;
  return { state, answers, clients };
}

const started = (instanceId: string) => ended(instanceId, { ok: true, node: `workers-${instanceId}`, changed: true, version: "v1.35.7+rke2r1" });
const check = { ok: true, node: "server-i-s1", changed: false, clusterId: "u", caHash: "a".repeat(64), apiReady: true, members: 1, voters: 1 };
const wanted = { name: "prod", uid: "uid", members: [], wanted: { spec: { servers: { count: 1 }, agentPools: [{ name: "workers", count: 2 }] } } };
const shortOfOne = { ...check, serversReady: 1, agentsReady: 1, nodes: 2, notReady: [], podsPending: 0, version: "v1.35.7+rke2r1" };

describe("settling a node command", () => {
  it("waits while a node that lives has not ended", async () => {
    const { clients, answers } = bench([started("i-a1")], [machine("i-a1"), machine("i-a2")]);
    expect(await settle(command("start-agent", "workers-1-01", ["i-a1", "i-a2"]), "t", clients, now)).toBe(false);
    expect(answers).toEqual([]);
  });

  it("counts a node whose machine is gone as ended, instead of waiting for both of SSM's time-outs", async () => {
    const { clients, answers } = bench([started("i-a1")], [machine("i-a1"), machine("i-a2", "terminated")]);
    expect(await settle(command("start-agent", "workers-1-01", ["i-a1", "i-a2"]), "t", clients, now)).toBe(true);
    expect(answers).toEqual([{ kind: "success", value: '{"succeeded":1,"failed":0,"lost":1}' }]);
  });

  it("fails a server's command as NodeLost when its machine is gone", async () => {
    const { clients, answers } = bench([], [machine("i-s1", "shutting-down")]);
    await settle(command("start-server", "server-1", ["i-s1"]), "t", clients, now);
    expect(answers).toMatchObject([{ kind: "failure", error: "NodeLost" }]);
  });

  it("asks again for what passes by itself, and sends a new command then", async () => {
    const { clients, answers, state } = bench([failed("i-s1", "DownloadFailed")], [machine("i-s1")]);
    const file = command("prepare-node", "first-server", ["i-s1"]);
    await settle(file, "t", clients, now);
    expect(answers).toMatchObject([{ error: "NotYet" }]);
    expect(state.documents.get(file.key)).toMatchObject({ stage: "reported" });
  });

  it("names the node and what it said when a server cannot go on, and keeps its log out of the stored outcome", async () => {
    const { clients, answers, state } = bench([failed("i-s1", "DiskFull")], [machine("i-s1")]);
    const file = command("prepare-node", "first-server", ["i-s1"]);
    await settle(file, "t", clients, now);
    expect(answers).toMatchObject([{ error: "NodeCommandFailed" }]);
    expect(JSON.parse(answers[0]?.value ?? "")).toMatchObject({
      node: { instanceId: "i-s1", pool: "server", failure: { code: "DiskFull", log: "df says so" } },
    });
    expect(JSON.stringify(state.documents.get(file.key))).not.toContain("df says so");
  });

  it("goes on without an agent that failed, and remembers what it said", async () => {
    const { clients, answers, state } = bench([started("i-a1"), failed("i-a2", "DiskFull")], [machine("i-a1"), machine("i-a2")]);
    await settle(command("start-agent", "workers-1-01", ["i-a1", "i-a2"]), "t", clients, now);
    expect(answers).toMatchObject([{ kind: "success" }]);
    expect(state.documents.get(stateKeys.group("prod", step.operation, "set-aside-p1"))).toMatchObject({ nodes: [{ instanceId: "i-a2" }] });
  });

  it("reads no result from a script that did not come to its end", async () => {
    const { clients, answers } = bench([{ instanceId: "i-s1", status: "ExecutionTimedOut", over: true, output: "" }], [machine("i-s1")]);
    await settle(command("start-server", "server-1", ["i-s1"]), "t", clients, now);
    expect(answers[0]?.value).toContain("ended as ExecutionTimedOut without a result");
  });
});

describe("verifying a cluster that misses an agent", () => {
  const settleCheck = async (machines: readonly ObservedInstance[], setAside: readonly unknown[] = []) => {
    const aside = stateKeys.group("prod", step.operation, "set-aside-p1");
    const stored = { [stateKeys.record("prod")]: wanted, ...(setAside.length === 0 ? {} : { [aside]: { schema: 1, nodes: setAside } }) };
    const { clients, answers } = bench([ended("i-s1", shortOfOne)], machines, stored);
    await settle(command("check-cluster", "any-server", ["i-s1"]), "t", clients, now);
    return answers[0];
  };

  it("waits for it while nothing is known against it", async () => {
    expect(await settleCheck([machine("i-s1"), machine("i-a1"), machine("i-a2")])).toMatchObject({ error: "NotYet" });
  });

  it("asks for another pass when its machine is gone", async () => {
    expect(await settleCheck([machine("i-s1"), machine("i-a1"), machine("i-a2", "terminated")])).toMatchObject({ error: "NodeLost" });
  });

  it("fails with what the agent said when it was set aside, instead of waiting in vain", async () => {
    const failure = { ok: false, code: "DiskFull", message: "1 GiB is free", log: "df says so" };
    const answer = await settleCheck([machine("i-s1"), machine("i-a1"), machine("i-a2")], [{ instanceId: "i-a2", pool: "workers", failure }]);
    expect(answer).toMatchObject({ error: "NodeCommandFailed" });
    expect(JSON.parse(answer?.value ?? "")).toMatchObject({ node: { instanceId: "i-a2", failure: { code: "DiskFull", log: "df says so" } } });
  });
});

describe("asking how far a command has come", () => {
  const file = command("prepare-node", "other-servers", ["i-s1", "i-s2", "i-s3"]);
  const commands = (...invocations: readonly Invocation[]) => ({ invocations: async () => invocations });
  const prepared = (instanceId: string) => ended(instanceId, { ok: true, node: `server-${instanceId}`, changed: true, version: "v1", warnings: [] });

  it("names those for whom it has ended well, while others are at it or have failed", async () => {
    const running: Invocation = { instanceId: "i-s3", status: "InProgress", over: false, output: "" };
    expect(await succeededSoFar(file, commands(prepared("i-s1"), failed("i-s2", "DownloadFailed"), running))).toEqual(["i-s1"]);
  });
  it("counts those for whom an earlier number was enough", async () => {
    expect(await succeededSoFar({ ...file, number: 2, instanceIds: ["i-s2"], done: ["i-s1"] }, commands(prepared("i-s2")))).toEqual(["i-s1", "i-s2"]);
  });
  it("names nobody before it is sent", async () => {
    const { commandId: _, ...unsent } = file;
    expect(await succeededSoFar(unsent, commands(prepared("i-s1")))).toEqual([]);
  });
  it("reports those of an earlier number as succeeded when it settles", async () => {
    const { clients, answers } = bench([prepared("i-s2")], [machine("i-s1"), machine("i-s2")]);
    await settle({ ...command("prepare-node", "other-servers", ["i-s2"]), number: 2, done: ["i-s1"] }, "t", clients, now);
    expect(answers).toEqual([{ kind: "success", value: '{"succeeded":2,"failed":0,"lost":0}' }]);
  });
});
