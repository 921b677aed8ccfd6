import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { chooseFirstServer, decideBootstrap, isFresh } from "../../core/bootstrap.js";
import { isGone, type ObservedInstance } from "../../core/nodes.js";
import type { ClusterRecord } from "../../core/records.js";
import { agent, answered, at, caHash, chance, decided, instance, member, record } from "./facts.js";

const server = (slot: number, facts: Partial<ObservedInstance> = {}) =>
  instance({ instanceId: `i-${slot}`, slot, address: `10.0.0.${slot}`, ...facts });
const three = [server(1), server(2), server(3)];
const decide = (
  facts: Partial<ClusterRecord>,
  servers: ObservedInstance[],
  candidate: string,
  more: { now?: string; snapshots?: number; restores?: boolean } = {},
) => decideBootstrap({ record: record(facts), servers, candidate, operation: "op-2", now: at(200), snapshots: 0, ...more });

describe("who may bootstrap a cluster", () => {
  it("lets the first that asks have an untouched cluster", () => {
    expect(decide({}, three, "i-1")).toEqual({
      kind: "bootstrap",
      decision: { number: 1, instanceId: "i-1", operation: "op-2", at: at(200) },
      abandoned: [],
    });
  });

  it("lets a second that asks wait for the one that was chosen", () => {
    expect(decide({ bootstrap: decided("i-1") }, three, "i-2")).toEqual({
      kind: "wait",
      instanceId: "i-1",
      reason: "i-1 was chosen to bootstrap prod and has not answered yet",
    });
  });

  it("gives the one that was chosen its own decision again, also to another operation", () => {
    expect(decide({ bootstrap: decided("i-1") }, three, "i-1")).toEqual({ kind: "resume", decision: decided("i-1") });
  });

  it("gives the one that answered its own decision again, because the same command finds its work done", () => {
    const bootstrap = answered("i-1", "10.0.0.1");
    expect(decide({ bootstrap, members: [member("i-1", 1)] }, three, "i-1")).toEqual({ kind: "resume", decision: bootstrap });
  });

  it("lets everybody else join once it answered", () => {
    expect(decide({ bootstrap: answered("i-1", "10.0.0.1"), members: [member("i-1", 1)] }, three, "i-2")).toEqual({
      kind: "join",
      address: "10.0.0.1",
    });
    expect(decide({ bootstrap: answered("i-1", "10.0.0.1") }, three, "i-2")).toEqual({ kind: "join", address: "10.0.0.1" });
  });

  it("lets a new server join another member when the first is gone and the majority holds", () => {
    const members = [member("i-1", 1), member("i-2", 2), member("i-3", 3)];
    const servers = [server(1, { state: "terminated" }), server(2), server(3), server(4)];
    expect(decide({ bootstrap: answered("i-1", "10.0.0.1"), members }, servers, "i-4")).toEqual({ kind: "join", address: "10.0.0.2" });
  });

  it("never sends a member to itself", () => {
    const members = [member("i-1", 1), member("i-2", 2), member("i-3", 3)];
    const servers = [server(1, { state: "terminated" }), server(2), server(3)];
    expect(decide({ bootstrap: answered("i-1", "10.0.0.1"), members }, servers, "i-2")).toEqual({ kind: "join", address: "10.0.0.3" });
  });

  it("lets the first server join the others when it has left the cluster it made", () => {
    const members = [member("i-2", 2), member("i-3", 3)];
    expect(decide({ bootstrap: answered("i-1", "10.0.0.1"), members }, three, "i-1")).toEqual({ kind: "join", address: "10.0.0.2" });
  });

  it("stops when etcd has lost its majority, for no server can join then", () => {
    const members = [member("i-1", 1), member("i-2", 2)];
    const servers = [server(1, { state: "terminated" }), server(2), server(4)];
    expect(decide({ bootstrap: answered("i-1", "10.0.0.1"), members }, servers, "i-4")).toEqual({
      kind: "stop",
      reason: "1 of 2 members of prod run, majority is 2: etcd takes no new member, and the cluster is restored or deleted, never bootstrapped again",
    });
  });

  it("waits for members that are only starting or stopping", () => {
    const members = [member("i-1", 1), member("i-2", 2)];
    const servers = [server(1, { state: "stopping" }), server(2), server(4)];
    expect(decide({ bootstrap: answered("i-1", "10.0.0.1"), members }, servers, "i-4")).toMatchObject({ kind: "wait" });
  });
});

describe("when the chosen server is lost", () => {
  it("chooses anew at once when it is terminated before it answered: nothing was ever started against it", () => {
    expect(decide({ bootstrap: decided("i-1") }, [server(1, { state: "terminated" }), server(2)], "i-2")).toEqual({
      kind: "bootstrap",
      decision: { number: 2, instanceId: "i-2", operation: "op-2", at: at(200) },
      abandoned: [decided("i-1")],
    });
  });

  it("keeps every earlier decision and counts on from them", () => {
    const facts = { bootstrap: decided("i-2", { number: 2 }), abandonedBootstraps: [decided("i-1")] };
    expect(decide(facts, [server(1, { state: "terminated" }), server(2, { state: "terminated" }), server(3)], "i-3")).toMatchObject({
      decision: { number: 3, instanceId: "i-3" },
      abandoned: [{ number: 1 }, { number: 2 }],
    });
  });

  it.each(["pending", "running", "unseen", "stopping", "shutting-down"] as const)("waits while it is %s: that is not certain to be gone", (state) => {
    expect(decide({ bootstrap: decided("i-1") }, [server(1, { state }), server(2)], "i-2")).toMatchObject({ kind: "wait", instanceId: "i-1" });
  });

  it("stops when it is stopped: its disk may hold the cluster, and only a person knows", () => {
    expect(decide({ bootstrap: decided("i-1") }, [server(1, { state: "stopped" }), server(2)], "i-2")).toEqual({
      kind: "stop",
      reason: "i-1 was chosen to bootstrap prod and is stopped, with its disk: start it, or terminate it",
    });
  });

  it("takes one that EC2 does not show for gone only when it can no longer be merely unseen", () => {
    expect(decide({ bootstrap: decided("i-1") }, [server(2)], "i-2", { now: at(660) })).toMatchObject({ kind: "wait", instanceId: "i-1" });
    expect(decide({ bootstrap: decided("i-1") }, [server(2)], "i-2", { now: at(661) })).toMatchObject({ kind: "bootstrap" });
  });

  it("replaces everything launched until then when it had answered: any of it may belong to the lost cluster", () => {
    const bootstrap = answered("i-1", "10.0.0.1");
    const lost = [server(1, { state: "terminated" }), server(2)];
    expect(decide({ bootstrap, members: [member("i-1", 1)] }, lost, "i-2")).toEqual({
      kind: "replace",
      abandoned: [{ ...bootstrap, abandonedAt: at(200) }],
      replaceStarted: true,
      launchedUntil: at(200),
      reason:
        "i-1, which was chosen to bootstrap prod, is terminated with all it held: nodes started against it are replaced before a new first server is chosen",
    });
  });

  it("bootstraps again only on a server launched since, and only when no older one stands", () => {
    const abandonedBootstraps = [answered("i-1", "10.0.0.1", { abandonedAt: at(200) })];
    const fresh = server(4, { launchedAt: at(260) });
    const ask = (servers: ObservedInstance[], candidate: string) => decide({ abandonedBootstraps }, servers, candidate, { now: at(300) });
    expect(ask([server(2), fresh], "i-2")).toMatchObject({ kind: "replace", launchedUntil: at(200), abandoned: abandonedBootstraps });
    expect(ask([server(2), fresh], "i-4")).toMatchObject({ kind: "replace", launchedUntil: at(200) });
    expect(ask([server(2, { state: "shutting-down" }), fresh], "i-4")).toMatchObject({ kind: "wait", instanceId: "i-2" });
    expect(ask([server(2, { state: "terminated" }), fresh], "i-4")).toMatchObject({ kind: "bootstrap", decision: { number: 2 } });
  });

  it("tells which nodes are older than a lost cluster, agents too", () => {
    const lost = record({ abandonedBootstraps: [answered("i-1", "10.0.0.1", { abandonedAt: at(200) })] });
    expect([agent("i-8", 1, { launchedAt: at(200) }), agent("i-9", 2, { launchedAt: at(201) })].map((node) => isFresh(node, lost))).toEqual([
      false,
      true,
    ]);
    expect(isFresh(agent("i-8", 1), record({ abandonedBootstraps: [decided("i-1")] }))).toBe(true);
  });

  it.each<[string, Partial<ClusterRecord>, number, string]>([
    [
      "another server was a member",
      { members: [member("i-1", 1), member("i-2", 2)] },
      0,
      "1 of 2 members of prod run, majority is 2: etcd takes no new member",
    ],
    ["a snapshot exists", { members: [member("i-1", 1)] }, 1, "is terminated, and 1 snapshot of it exist: restore from the newest"],
    ["the cluster was ready", { members: [member("i-1", 1)], phase: "ready" }, 0, "after prod was ready: its data is lost"],
  ])("never bootstraps again when %s", (_, facts, snapshots, reason) => {
    const servers = [server(1, { state: "terminated" }), server(2), server(4)];
    const answer = decide({ bootstrap: answered("i-1", "10.0.0.1"), ...facts }, servers, "i-4", { snapshots });
    expect(answer).toMatchObject({ kind: "stop" });
    expect(answer).toHaveProperty("reason", expect.stringContaining(reason));
  });
});

describe("what is never started", () => {
  it("nothing of a cluster that is being deleted", () => {
    expect(decide({ phase: "deleting" }, three, "i-1")).toMatchObject({ kind: "stop" });
  });
  it.each(["pending", "unseen", "stopped", "terminated"] as const)("no instance that is %s", (state) => {
    expect(decide({}, [server(1, { state })], "i-1")).toMatchObject({ kind: "wait", instanceId: "i-1" });
  });
  it("no instance that is not the cluster's", () => {
    expect(decide({}, three, "i-99")).toMatchObject({ kind: "wait", instanceId: "i-99" });
  });
  it("no first server where snapshots exist", () => {
    expect(decide({}, three, "i-1", { snapshots: 2 })).toEqual({
      kind: "stop",
      reason: "prod has 2 snapshots: it is restored, never bootstrapped again",
    });
  });
  it.each<[string, Partial<ClusterRecord>, string]>([
    ["members but no decision", { members: [member("i-3", 3)] }, "i-1"],
    ["a ready cluster but no decision", { phase: "ready" }, "i-1"],
    ["members beside a chosen server that has not answered", { bootstrap: decided("i-1"), members: [member("i-3", 3)] }, "i-1"],
  ])("nothing from a record with %s, which is damaged", (_, facts, candidate) => {
    expect(decide(facts, three, candidate)).toMatchObject({ kind: "stop", reason: expect.stringContaining("damaged") });
  });
});

describe("choosing whom to ask", () => {
  it("prefers the one decided on, else the lowest slot online", () => {
    const online = [server(3), server(2)];
    expect(chooseFirstServer(online, record())?.instanceId).toBe("i-2");
    expect(chooseFirstServer(online, record({ bootstrap: decided("i-3") }))?.instanceId).toBe("i-3");
    expect(chooseFirstServer(online, record({ bootstrap: decided("i-1") }))?.instanceId).toBe("i-2");
  });
  it("passes over agents, instances that leave, and what is older than a lost cluster", () => {
    const abandonedBootstraps = [answered("i-0", "10.0.0.9", { abandonedAt: at(50) })];
    const online = [agent("i-8", 1), server(1), server(2, { state: "shutting-down", launchedAt: at(60) }), server(3, { launchedAt: at(60) })];
    expect(chooseFirstServer(online, record({ abandonedBootstraps }))?.instanceId).toBe("i-3");
    expect(chooseFirstServer([agent("i-8", 1)], record())).toBeUndefined();
  });
  it("chooses a member, whatever its slot, where a cluster goes on from a survivor's data; until one is decided", () => {
    const restore = { id: "restore-1", operation: "restore-1", begunAt: at(100), source: { kind: "survivor" as const } };
    const members = [member("i-2", 2), member("i-3", 3)];
    expect(chooseFirstServer(three, record({ restore, members }))?.instanceId).toBe("i-2");
    expect(chooseFirstServer(three, record({ restore, members, bootstrap: answered("i-1", "10.0.0.1") }))?.instanceId).toBe("i-2");
    expect(chooseFirstServer([server(1)], record({ restore, members }))).toBeUndefined();
    const bootstrap = answered("i-1", "10.0.0.1", { restore: "restore-1" });
    expect(chooseFirstServer(three, record({ restore, members: [], bootstrap }))?.instanceId).toBe("i-1");
  });
});

/**
 * A cluster's record under conditional writes, its servers, and two operations that act on what they last read, however old. What a started server does
 * is what RKE2 does: without etcd data and without `server:` it makes a new cluster.
 */
class World {
  record: ClusterRecord = record();
  etag = 0;
  now = 0;
  servers: (ObservedInstance & { cluster?: number })[] = [];
  clusters = 0;
  launched = 0;
  snapshots = 0;
  readonly runs = [this.read(), this.read()];

  read() {
    return { record: this.record, etag: this.etag, servers: this.servers.map((each) => ({ ...each })), now: this.now, snapshots: this.snapshots };
  }

  write(etag: number, change: Partial<ClusterRecord>): boolean {
    if (etag !== this.etag) return false;
    const { bootstrap: _, ...rest } = this.record;
    this.record = {
      ...rest,
      ...("bootstrap" in change || "abandonedBootstraps" in change ? {} : { bootstrap: this.record.bootstrap }),
      ...change,
    } as ClusterRecord;
    this.etag += 1;
    return true;
  }

  launch(): void {
    this.launched += 1; // ids and, here, addresses are never used again
    this.servers.push(server(this.launched, { launchedAt: at(this.now) }));
  }

  change(id: string | undefined, state: ObservedInstance["state"]): void {
    this.servers = this.servers.map((each) => (each.instanceId === id ? { ...each, state } : each));
  }

  start(id: string, mode: "bootstrap" | "join", address = ""): void {
    this.servers = this.servers.map((each) => {
      if (each.instanceId !== id || each.state !== "running" || each.cluster !== undefined) return each;
      if (mode === "bootstrap") {
        this.clusters += 1;
        return { ...each, cluster: this.clusters };
      }
      const joined = this.servers.find((other) => other.address === address && other.state === "running")?.cluster;
      return joined === undefined ? each : { ...each, cluster: joined };
    });
  }

  /** Clusters that live: some server of theirs is not terminated. */
  living(): Set<number> {
    return new Set(this.servers.flatMap((each) => (each.cluster !== undefined && each.state !== "terminated" ? [each.cluster] : [])));
  }
}

describe("law 1: one bootstrap, ever", () => {
  it("never lets two clusters live under one record, over random histories of two operations with stale reads", () => {
    const outcomes = new Set<string>();
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), (seed) => {
        const draw = chance(seed);
        const pick = <T>(items: readonly T[]): T | undefined => items[Math.floor(draw() * items.length)];
        const world = new World();
        world.launch();
        for (let step = 0; step < 120; step += 1) {
          world.now += 10 + Math.floor(draw() * 40);
          const run = pick(world.runs) as World["runs"][number];
          const luck = draw();
          if (luck < 0.08 && world.servers.filter((each) => !isGone(each.state)).length < 5) world.launch();
          else if (luck < 0.14) world.change(pick(world.servers.filter((each) => each.state === "running"))?.instanceId, "shutting-down");
          else if (luck < 0.24) world.change(pick(world.servers.filter((each) => each.state === "shutting-down"))?.instanceId, "terminated");
          else if (luck < 0.27) world.servers = world.servers.filter((each) => each.state !== "terminated" || draw() < 0.5);
          else if (luck < 0.28 && world.record.members.length > 0) world.snapshots += 1;
          else if (luck < 0.55) Object.assign(run, world.read());
          else if (luck < 0.65) {
            // The chosen server has answered, or another has joined: its operation writes that down.
            const { bootstrap } = world.record;
            const first = world.servers.find(
              (each) => each.instanceId === bootstrap?.instanceId && each.state === "running" && each.cluster !== undefined,
            );
            if (bootstrap !== undefined && bootstrap.done === undefined && first !== undefined) {
              const done = { at: at(world.now), address: first.address, caHash };
              world.write(world.etag, { bootstrap: { ...bootstrap, done }, members: [member(first.instanceId, first.slot, first.address)] });
            } else if (bootstrap?.done !== undefined) {
              const joined = pick(world.servers.filter((each) => each.cluster !== undefined && each.state === "running"));
              const known = world.record.members.some((each) => each.instanceId === joined?.instanceId);
              if (joined !== undefined && !known && draw() < 0.3) {
                world.write(world.etag, { members: [...world.record.members, member(joined.instanceId, joined.slot, joined.address)] });
              }
            }
          } else {
            const candidate = draw() < 0.7 ? chooseFirstServer(run.servers, run.record) : pick(run.servers);
            if (candidate === undefined) continue;
            const asked = { record: run.record, servers: run.servers, candidate: candidate.instanceId, operation: "op", snapshots: run.snapshots };
            const answer = decideBootstrap({ ...asked, now: at(run.now) });
            outcomes.add(answer.kind);
            if (answer.kind === "bootstrap") {
              expect(run.snapshots, "no bootstrap where a snapshot exists").toBe(0);
              const wrote = world.write(run.etag, { bootstrap: answer.decision, abandonedBootstraps: answer.abandoned });
              if (wrote && draw() < 0.8) world.start(candidate.instanceId, "bootstrap");
            }
            if (answer.kind === "resume") world.start(candidate.instanceId, "bootstrap");
            if (answer.kind === "join") world.start(candidate.instanceId, "join", answer.address);
            if (answer.kind === "replace" && world.write(run.etag, { abandonedBootstraps: answer.abandoned, members: [] }) && draw() < 0.7) {
              for (const each of run.servers.filter((old) => Date.parse(old.launchedAt) <= Date.parse(answer.launchedUntil) && !isGone(old.state))) {
                world.change(each.instanceId, "shutting-down");
              }
            }
          }
          if (world.living().size > 1) throw new Error(`clusters ${[...world.living()].join(" and ")} live after step ${step}`);
          const numbers = [...world.record.abandonedBootstraps, world.record.bootstrap].flatMap((each) => (each === undefined ? [] : [each.number]));
          if (new Set(numbers).size !== numbers.length) throw new Error(`two decisions have one number after step ${step}: ${numbers.join(", ")}`);
        }
      }),
      { seed: 41173, numRuns: 500 },
    );
    expect([...outcomes].sort()).toEqual(["bootstrap", "join", "replace", "resume", "stop", "wait"]);
  });
});

describe("who may restore a cluster", () => {
  const restore = (kind: "snapshot" | "survivor" = "snapshot") =>
    ({ id: "restore-1", operation: "restore-1", begunAt: at(150), source: { kind } }) as NonNullable<ClusterRecord["restore"]>;
  const asks = (facts: Partial<ClusterRecord>, candidate: string, servers = three) =>
    decide({ restore: restore(), phase: "restoring", ...facts }, servers, candidate, { snapshots: 3, restores: true });
  const old = answered("i-1", "10.0.0.1");

  it("is one server for one restore, whatever was decided before, and keeps that in the history", () => {
    const bootstrap = { ...old, number: 4 };
    const decision = { number: 5, instanceId: "i-2", operation: "op-2", at: at(200), restore: "restore-1" };
    expect(asks({ bootstrap }, "i-2")).toEqual({ kind: "restore", decision, abandoned: [bootstrap] });
    expect(asks({ bootstrap: decision, abandonedBootstraps: [bootstrap] }, "i-2")).toEqual({ kind: "resume", decision });
    expect(asks({ bootstrap: decision }, "i-3")).toMatchObject({ kind: "wait", instanceId: "i-2" });
  });
  it("is the first server of a cluster that never had one, too", () => {
    expect(asks({}, "i-1")).toMatchObject({ kind: "restore", decision: { number: 1, restore: "restore-1" }, abandoned: [] });
  });
  it("is joined by the others once it has answered", () => {
    const bootstrap = answered("i-2", "10.0.0.2", { restore: "restore-1" });
    expect(asks({ bootstrap, members: [member("i-2", 2)] }, "i-3")).toEqual({ kind: "join", address: "10.0.0.2" });
  });
  it("begins anew when that server is gone for certain, and not sooner", () => {
    const bootstrap = decided("i-2", { restore: "restore-1" });
    expect(asks({ bootstrap }, "i-3", [server(2, { state: "shutting-down" }), server(3)])).toMatchObject({ kind: "wait" });
    expect(asks({ bootstrap }, "i-3", [server(2, { state: "terminated" }), server(3)])).toMatchObject({ kind: "beginAnew" });
  });
  it("is a survivor, where one is to be gone on with", () => {
    const facts = { restore: restore("survivor"), bootstrap: old, members: [member("i-1", 1), member("i-3", 3)] };
    expect(asks(facts, "i-3")).toMatchObject({ kind: "restore" });
    expect(asks(facts, "i-2")).toMatchObject({ kind: "stop", reason: expect.stringMatching(/was no member of prod/) });
  });
  it("is nobody where no restore has begun", () => {
    expect(decide({ bootstrap: old }, three, "i-1", { restores: true })).toEqual({ kind: "stop", reason: "no restore of prod is under way" });
  });
  it("keeps everybody else from making the cluster until it is over", () => {
    for (const facts of [{}, { bootstrap: old }, { bootstrap: decided("i-2", { restore: "restore-1" }) }]) {
      const answer = decide({ restore: restore(), ...facts }, three, "i-1");
      expect(answer).toMatchObject({ kind: "stop", reason: expect.stringMatching(/^prod is being restored by restore-1/) });
    }
  });
  it("does not make nodes stale that were started before it: the cluster's CA stays", () => {
    const bootstrap = decided("i-2", { restore: "restore-1" });
    expect(isFresh(agent("i-9", 1, { launchedAt: at(1) }), record({ bootstrap, abandonedBootstraps: [old] }))).toBe(true);
  });
});
