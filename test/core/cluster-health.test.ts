import { describe, expect, it } from "vitest";
import { assessQuorum, type ClusterCheck, decideEndpoint, decideReady, type TargetState } from "../../core/cluster-health.js";
import { answered, at, caHash, check, instance, member, record } from "./facts.js";

const complete = record({ bootstrap: answered("i-1", "10.0.0.1"), members: [member("i-1", 1), member("i-2", 2), member("i-3", 3)] });
const ready = (facts: Partial<ClusterCheck>, others: ClusterCheck[] = []) => decideReady({ record: complete, check: check(facts), others });

describe("calling a cluster ready", () => {
  it("is when all that is wanted is there, votes and is ready", () => {
    expect(ready({}, [check({ node: "server-i-2" })])).toEqual({ kind: "ready" });
  });

  it.each<[string, Partial<ClusterCheck>, string]>([
    ["the API server is not ready", { apiReady: false }, "the API server on server-i-1 is not ready"],
    ["an etcd member is missing", { members: 2 }, "etcd has 2 of 3 members"],
    ["a dead etcd member is left", { members: 4 }, "etcd has 4 of 3 members"],
    ["a learner does not vote yet", { voters: 2 }, "2 of 3 etcd members vote"],
    ["a server is not ready", { serversReady: 2, notReady: ["server-i-3"] }, "2 of 3 servers are ready; not ready: server-i-3"],
    ["an agent is not ready", { agentsReady: 3, notReady: ["workers-i-7"] }, "3 of 4 agents are ready; not ready: workers-i-7"],
    [
      "the cluster knows a node that nobody wants",
      { nodes: 8, notReady: ["workers-i-0"] },
      "the cluster knows 8 nodes, 7 are wanted; not ready: workers-i-0",
    ],
    ["system pods are pending", { podsPending: 2 }, "2 system pods are pending"],
  ])("is not yet when %s", (_, facts, reason) => {
    expect(ready(facts)).toEqual({ kind: "notYet", reason });
  });

  it("names five nodes at most", () => {
    const notReady = ["a", "b", "c", "d", "e", "f", "g"];
    expect(ready({ agentsReady: 0, notReady })).toHaveProperty("reason", "0 of 4 agents are ready; not ready: a, b, c, d, e, and 2 more");
  });

  it("stops at a split brain: another CA than the first server's", () => {
    expect(ready({ caHash: "b".repeat(64) })).toEqual({
      kind: "stop",
      reason: "server-i-1 has cluster CA bbbbbbbbbbbb, the first server made aaaaaaaaaaaa: it belongs to another cluster",
    });
  });

  it("stops at a split brain: two servers with different cluster ids", () => {
    expect(ready({}, [check({ node: "server-i-2", clusterId: "cluster-2" })])).toEqual({
      kind: "stop",
      reason: "server-i-2 and server-i-1 are servers of different clusters (cluster-2 and cluster-1)",
    });
  });

  it("compares servers with each other when the record holds no hash", () => {
    const answer = decideReady({ record: record(), check: check(), others: [check({ node: "server-i-2", caHash: `${caHash.slice(1)}b` })] });
    expect(answer.kind).toBe("stop");
  });
});

describe("calling the endpoint healthy", () => {
  const target = (instanceId: string, state: TargetState["state"], reason?: string): TargetState => ({
    instanceId,
    state,
    ...(reason === undefined ? {} : { reason }),
  });
  const all = (state: TargetState["state"]) => ["i-1", "i-2", "i-3"].map((id) => target(id, state));
  const decide = (supervisor: TargetState[], api: TargetState[]) => decideEndpoint({ wantedServers: 3, targets: { supervisor, api } });

  it("is when every server is registered and healthy in both groups", () => {
    expect(decide(all("healthy"), all("healthy"))).toEqual({ kind: "ready" });
  });
  it("is when one is healthy in each group and the rest are still being checked", () => {
    const mixed = [target("i-1", "healthy"), target("i-2", "initial"), target("i-3", "initial")];
    expect(decide(mixed, mixed)).toEqual({ kind: "ready" });
  });
  it("is not yet when none is healthy: the load balancer would then send traffic to all of them", () => {
    expect(decide(all("healthy"), all("initial"))).toEqual({ kind: "notYet", reason: "no server is healthy yet in the api target group" });
  });
  it.each(["unhealthy", "unused", "unavailable"] as const)("is not yet while one is %s", (state) => {
    const mixed = [target("i-1", "healthy"), target("i-2", state, "Target.FailedHealthChecks"), target("i-3", "healthy")];
    expect(decide(mixed, all("healthy"))).toEqual({
      kind: "notYet",
      reason: `i-2 is ${state} (Target.FailedHealthChecks) in the supervisor target group`,
    });
  });
  it("is not yet while a server is missing from a group, and does not count one that leaves", () => {
    expect(decide(all("healthy"), all("healthy").slice(0, 2))).toEqual({
      kind: "notYet",
      reason: "2 of 3 servers are registered in the api target group",
    });
    expect(decide([...all("healthy").slice(0, 2), target("i-3", "draining")], all("healthy"))).toMatchObject({ kind: "notYet" });
    expect(decide([...all("healthy"), target("i-0", "draining")], all("healthy"))).toEqual({ kind: "ready" });
  });
});

describe("what is lost of etcd", () => {
  const newestProven = { id: "20261122T110000Z-0000000a", at: at(-7200), revision: 10, bytes: 32 };
  const assess = (states: readonly ("running" | "stopped" | "terminated")[], facts: object = { newestProven }) => {
    const members = states.map((_, index) => member(`i-${index + 1}`, index + 1));
    const observed = states.map((state, index) => instance({ instanceId: `i-${index + 1}`, slot: index + 1, state }));
    return assessQuorum({ record: { name: "prod", members, ...facts }, observed, now: at(0) });
  };
  const [up, off, gone] = ["running", "stopped", "terminated"] as const;

  it("is nothing while every member's machine runs", () => {
    expect(assess([up, up, up])).toMatchObject({ kind: "whole", lost: [], safe: [] });
    expect(assess([up, up, up])).not.toHaveProperty("command");
    expect(assess([])).toBeUndefined();
  });
  it("is one member: the cluster works on, and a snapshot comes first", () => {
    expect(assess([up, gone, up])).toMatchObject({
      kind: "member lost",
      lost: ["i-2"],
      reason: "2 of 3 etcd members' machines run, majority is 2: i-2 does not",
      safe: ["The cluster works on and keeps its data; no other may fail", expect.any(String), expect.any(String)],
      loss: "nothing",
      command: "drover snapshot create prod",
    });
    expect(assess([up, gone, up, up, up])?.safe[0]).toContain("1 more may fail");
  });
  it("is the majority: a survivor loses least, and nobody may terminate it", () => {
    const lost = assess([gone, up, gone]);
    expect(lost).toMatchObject({ kind: "quorum lost", command: "drover restore prod --snapshot survivor" });
    expect(lost?.safe.join()).toContain("Do not terminate i-2");
    expect(lost?.safe.join()).toContain(`loses everything since ${at(-7200)} (2 h), snapshot ${newestProven.id}`);
  });
  it("is the cluster: the newest proven snapshot, with what is written since", () => {
    expect(assess([gone, gone, gone])).toMatchObject({
      kind: "cluster lost",
      loss: `everything since ${at(-7200)} (2 h), snapshot ${newestProven.id}`,
      command: "drover restore prod --snapshot latest",
    });
    expect(assess([gone], {})).toMatchObject({ kind: "cluster lost", loss: "everything", command: "drover delete prod" });
  });
  it("is nothing yet where machines are only stopped: they are started, and no restore is needed", () => {
    const start = (...ids: string[]) => `aws ec2 start-instances --instance-ids ${ids.join(" ")}`;
    expect(assess([up, off, up])).toMatchObject({ kind: "member lost", command: start("i-2") });
    expect(assess([up, off, off])).toMatchObject({ kind: "quorum lost", loss: "nothing", command: start("i-2", "i-3") });
    expect(assess([off])).toMatchObject({ kind: "cluster lost", loss: "nothing", command: start("i-1") });
    expect(assess([gone, off, gone])).toMatchObject({ kind: "cluster lost", command: "drover restore prod --snapshot latest" });
  });
});
