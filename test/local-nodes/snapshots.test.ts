/** Simulated nodes save what etcd holds, lose it, and bring it back: no more and no less than the snapshot has. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { deliveryLine, type NodeCommandResult } from "../../core/node-commands.js";
import { tokenHash } from "../../core/snapshots.js";
import type { Machine } from "../../local/nodes/contract.js";
import { type SimulatedBench, simulatedBench } from "./bench.js";
import {
  agentParameters,
  agentPassword,
  begin,
  bootstrapParameters,
  bootstrapped,
  endpoint,
  failed,
  fullToken,
  get,
  joined,
  joinParameters,
  perform,
  prepared,
  serverPassword,
  succeeded,
  version,
} from "./contract.js";

const id = "20260105T100000Z-1a2b3c4d";
const sha256 = (body: Uint8Array) => createHash("sha256").update(body).digest("hex");

const save = (bench: SimulatedBench, machine: Machine, snapshot = id) => perform(bench, machine, "save-snapshot", { pool: "server", snapshot });
function uploadList(bench: SimulatedBench, name = "snapshot-1"): string {
  return bench.store.give("delivery-upload", `${deliveryLine({ kind: "put", name: "snapshot", url: bench.store.slot(name), headers: {} })}\n`);
}
const upload = (bench: SimulatedBench, machine: Machine, delivery: string) =>
  perform(bench, machine, "upload-snapshot", { pool: "server", snapshot: id, delivery });

/** A snapshot as it lies in the store. */
async function sent(bench: SimulatedBench, machine: Machine): Promise<NodeCommandResult<"save-snapshot"> & { readonly body: Uint8Array }> {
  const saved = succeeded(await save(bench, machine));
  succeeded(await upload(bench, machine, uploadList(bench)));
  return { ...saved, body: bench.store.taken("snapshot-1") as Buffer };
}

function tokens(bench: SimulatedBench, token: string): string[] {
  return [
    get("/etc/rancher/rke2/drover-token", bench.store.give("token", `${token}\n`)),
    get("/etc/rancher/rke2/drover-agent-token", bench.store.give("agent-token", `${agentPassword}\n`)),
  ];
}

interface RestoreOptions {
  readonly body?: Uint8Array;
  readonly sum?: string | false;
  readonly token?: string;
  readonly revision?: number;
  readonly restore?: string;
}

function restoreParameters(bench: SimulatedBench, { body, sum, token = serverPassword, revision = 0, restore = "restore-1" }: RestoreOptions) {
  const lines = tokens(bench, token);
  if (body !== undefined) {
    const url = bench.store.give("snapshot", body);
    lines.push(
      deliveryLine({
        kind: "get",
        sha256: sum === false ? undefined : (sum ?? sha256(body)),
        mode: "0600",
        target: `/var/lib/drover/snapshots/${id}`,
        url,
      }),
    );
  }
  const delivery = bench.store.give("delivery-restore", `${lines.join("\n")}\n`);
  return { mode: body === undefined ? "survivor" : "snapshot", pool: "server", restore, delivery, endpoint, revision: String(revision) };
}
const restore = (bench: SimulatedBench, machine: Machine, options: RestoreOptions) =>
  perform(bench, machine, "restore-snapshot", restoreParameters(bench, options));
const rejoinParameters = (bench: SimulatedBench, caHash: string, through: Machine) => ({
  pool: "server",
  restore: "restore-1",
  joinAddress: through.address,
  endpoint,
  delivery: bench.store.give("delivery-rejoin", `${tokens(bench, fullToken(caHash, "server", serverPassword)).join("\n")}\n`),
});
const rejoin = (bench: SimulatedBench, machine: Machine, caHash: string, through: Machine) =>
  perform(bench, machine, "rejoin-server", rejoinParameters(bench, caHash, through));
const stop = (bench: SimulatedBench, machine: Machine) => perform(bench, machine, "stop-server", { pool: "server", restore: "restore-1" });
const held = (bench: SimulatedBench) => bench.driver.clusters()[0]?.store as { readonly revision: number; readonly keys: number };
const write = (bench: SimulatedBench, keys: number) => bench.driver.write?.(bench.driver.clusters()[0]?.id as string, keys);

async function threeServers(bench: SimulatedBench) {
  const { first, caHash } = await bootstrapped(bench);
  const second = await joined(bench, caHash, first);
  const third = await joined(bench, caHash, first);
  return { first, second, third, caHash, all: [first, second, third] };
}

describe("a saved snapshot", () => {
  it("is a file with its checksum at the end, and says what was in etcd when it was taken", async () => {
    const bench = simulatedBench();
    const { first, second, third } = await threeServers(bench);
    write(bench, 1000);
    const before = held(bench);
    const saved = await sent(bench, second);
    expect(saved).toMatchObject({ changed: true, keys: before.keys, parts: [], tokenHash: tokenHash(serverPassword), version });
    expect(saved.revision).toBeGreaterThanOrEqual(before.revision);
    expect(saved.members).toEqual([first, second, third].map(({ instanceId }) => `server-${instanceId}`));
    expect(saved.leader).toBe(`server-${first.instanceId}`);
    expect([saved.bytes, saved.sha256]).toEqual([saved.body.length, sha256(saved.body)]);
    expect(saved.bytes % 512).toBe(32);
    const file = Buffer.from(saved.body);
    expect(createHash("sha256").update(file.subarray(0, -32)).digest().equals(file.subarray(-32))).toBe(true);
    for (const secret of [serverPassword, agentPassword]) expect(file.includes(secret)).toBe(false);
  });

  it("is neither taken nor sent twice", async () => {
    const bench = simulatedBench();
    const { first } = await bootstrapped(bench);
    const once = succeeded(await save(bench, first));
    write(bench, 10);
    expect(succeeded(await save(bench, first))).toEqual({ ...once, changed: false });
    expect(succeeded(await upload(bench, first, uploadList(bench)))).toMatchObject({ changed: true, bytes: once.bytes, uploads: 1 });
    expect(succeeded(await upload(bench, first, uploadList(bench, "other")))).toMatchObject({ changed: false, bytes: once.bytes, uploads: 1 });
    expect(bench.store.taken("other")).toBeUndefined();
    expect(succeeded(await save(bench, first))).toEqual({ ...once, changed: false });
  });

  it("is not sent before it is saved", async () => {
    const bench = simulatedBench();
    const { first } = await bootstrapped(bench);
    expect(failed(await upload(bench, first, uploadList(bench))).code).toBe("SnapshotInvalid");
  });

  it("is not taken on a learner, nor without a majority", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const second = await prepared(bench, "server");
    const parameters = joinParameters(bench, caHash, first.address);
    const run = bench.driver.run({
      commandId: "join",
      instanceId: second.instanceId,
      documentName: "drover-start-server-01234567",
      content: { schemaVersion: "2.2", mainSteps: [] },
      parameters,
    });
    await bench.world.clock.runUntil(() => bench.driver.clusters()[0]?.members.length === 2);
    run.kill();
    expect(failed(await save(bench, second))).toMatchObject({ code: "NotReady", exitCode: 75, message: expect.stringContaining("learner") });
    await bench.pass(120);
    bench.driver.halt(first.instanceId);
    expect(failed(await save(bench, second))).toMatchObject({ code: "NotReady", message: expect.stringContaining("API") });
  });
});

describe("a restore onto a new machine", () => {
  it("brings back exactly what the snapshot has: the keys, the revision, the hash, the CA; what came later is gone", async () => {
    const bench = simulatedBench();
    const { all, caHash } = await threeServers(bench);
    write(bench, 1000);
    const saved = await sent(bench, all[1] as Machine);
    const kept = saved.keys;
    write(bench, 200);
    expect(held(bench).keys).toBeGreaterThanOrEqual(kept + 200);
    for (const { instanceId } of all) bench.driver.halt(instanceId);

    const fresh = await prepared(bench, "server");
    const result = succeeded(
      await restore(bench, fresh, { body: saved.body, revision: saved.revision, token: fullToken(caHash, "server", serverPassword) }),
    );
    expect(result).toMatchObject({
      changed: true,
      caHash,
      clusterId: saved.clusterId,
      members: 1,
      revision: saved.revision,
      keys: kept,
      hash: saved.hash,
      compactRevision: saved.compactRevision,
      nodes: [...all, fresh].map(({ instanceId }) => `server-${instanceId}`),
    });
    expect(result.newestRevision - result.revision).toBeLessThan(200);
    const [cluster, ...others] = bench.driver.clusters();
    expect(others).toEqual([]);
    expect(cluster).toMatchObject({ bootstrappedBy: fresh.instanceId, hasQuorum: true, members: [{ instanceId: fresh.instanceId, voter: true }] });
    const second = await joined(bench, caHash, fresh);
    expect(succeeded(await perform(bench, second, "check-cluster", { pool: "server" }))).toMatchObject({ members: 2, clusterId: saved.clusterId });
  });

  it("differs at the revisions after the snapshot from what was lost", async () => {
    const bench = simulatedBench();
    const { first } = await bootstrapped(bench);
    const saved = await sent(bench, first);
    write(bench, 50);
    const lost = succeeded(await save(bench, first, "20260105T110000Z-1a2b3c4d"));
    bench.driver.halt(first.instanceId);
    const fresh = await prepared(bench, "server");
    succeeded(await restore(bench, fresh, { body: saved.body }));
    write(bench, 80);
    const again = succeeded(await save(bench, fresh, "20260105T120000Z-1a2b3c4d"));
    expect(again.revision).toBeGreaterThan(lost.revision);
    expect(again.keys).toBeLessThan(lost.keys + 50);
    expect(again.hash).not.toBe(lost.hash);
  });

  it("beside the cluster that lives is a second one, with the same CA and uid", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const saved = await sent(bench, first);
    const beside = await prepared(bench, "server");
    expect(succeeded(await restore(bench, beside, { body: saved.body }))).toMatchObject({ caHash, clusterId: saved.clusterId, members: 1 });
    expect(bench.driver.clusters()).toMatchObject([
      { id: saved.clusterId, hasQuorum: true, bootstrappedBy: first.instanceId },
      { id: `${saved.clusterId}-2`, hasQuorum: true, bootstrappedBy: beside.instanceId },
    ]);
  });

  it("changes nothing when it is repeated", async () => {
    const bench = simulatedBench();
    const { first } = await bootstrapped(bench);
    const saved = await sent(bench, first);
    bench.driver.halt(first.instanceId);
    const fresh = await prepared(bench, "server");
    const parameters = restoreParameters(bench, { body: saved.body, revision: saved.revision });
    const once = succeeded(await perform(bench, fresh, "restore-snapshot", parameters));
    write(bench, 70);
    await bench.pass(2000);
    expect(succeeded(await perform(bench, fresh, "restore-snapshot", parameters))).toEqual({ ...once, changed: false });
    expect(held(bench).keys).toBeGreaterThanOrEqual(saved.keys + 70);
  });

  it("answers with the newest state where the one asked for never was", async () => {
    const bench = simulatedBench();
    const { first } = await bootstrapped(bench);
    const saved = await sent(bench, first);
    bench.driver.halt(first.instanceId);
    const fresh = await prepared(bench, "server");
    const result = succeeded(await restore(bench, fresh, { body: saved.body, revision: saved.revision + 100_000 }));
    expect(result.revision).toBe(result.newestRevision);
  });

  it.each([5, 15, 25, 35, 45, 60])("goes on after it was killed %i seconds in", async (seconds) => {
    const bench = simulatedBench();
    const { first } = await bootstrapped(bench);
    const saved = await sent(bench, first);
    bench.driver.halt(first.instanceId);
    const fresh = await prepared(bench, "server");
    const parameters = restoreParameters(bench, { body: saved.body, revision: saved.revision });
    const run = bench.driver.run({
      commandId: "restore",
      instanceId: fresh.instanceId,
      documentName: "drover-restore-snapshot-01234567",
      content: { schemaVersion: "2.2", mainSteps: [] },
      parameters,
    });
    await bench.pass(seconds);
    run.kill();
    expect(succeeded(await perform(bench, fresh, "restore-snapshot", parameters))).toMatchObject({
      revision: saved.revision,
      keys: saved.keys,
      hash: saved.hash,
      members: 1,
    });
    expect(bench.driver.clusters()).toHaveLength(1);
  });
});

describe("a restore is refused before anything is stopped", () => {
  async function running() {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const { body } = await sent(bench, first);
    return { bench, first, caHash, body: Buffer.from(body) };
  }
  const spoilt = (body: Buffer) => {
    const copy = Buffer.from(body);
    copy[100] = (copy[100] as number) ^ 1;
    return copy;
  };

  it.each<[string, (body: Buffer) => RestoreOptions, string, string]>([
    ["a tampered snapshot", (body) => ({ body: spoilt(body), sum: sha256(body) }), "ChecksumMismatch", "expected"],
    ["one whose own checksum does not fit", (body) => ({ body: spoilt(body) }), "SnapshotInvalid", "checksum"],
    ["a truncated one", (body) => ({ body: body.subarray(0, 3000) }), "SnapshotInvalid", "3000 bytes"],
    ["an empty one", () => ({ body: Buffer.alloc(0) }), "SnapshotInvalid", "0 bytes"],
    ["a zip", (body) => ({ body: Buffer.concat([Buffer.from("PK"), body]) }), "SnapshotInvalid", "zip"],
    ["one whose SHA-256 is not told", (body) => ({ body, sum: false }), "ConfigInvalid", "SHA-256"],
    ["one with another cluster's token", (body) => ({ body, token: fullToken("a".repeat(64), "server", serverPassword) }), "AlreadyMember", "CA"],
  ])("%s", async (_, options, code, text) => {
    const { bench, first, body } = await running();
    const failure = failed(await restore(bench, first, options(body)));
    expect(failure).toMatchObject({ code, message: expect.stringContaining(text) });
    expect(succeeded(await perform(bench, first, "check-cluster", { pool: "server" })).apiReady).toBe(true);
  });

  it("and after, when the token does not open it: then nothing runs, and the right token succeeds", async () => {
    const { bench, first, body } = await running();
    succeeded(await stop(bench, first));
    expect(failed(await restore(bench, first, { body, token: "an0therPasswordOf32Characters002" })).code).toBe("TokenRejected");
    expect(bench.driver.answers(first.instanceId, 9345).answers).toBe(false);
    expect(failed(await perform(bench, first, "start-server", bootstrapParameters(bench))).code).toBe("SplitBrain");
    expect(succeeded(await restore(bench, first, { body })).members).toBe(1);
  });
});

describe("a restore in place", () => {
  it("stops all servers, restores one, and takes the others back one by one", async () => {
    const bench = simulatedBench();
    const { first, second, third, all, caHash } = await threeServers(bench);
    const saved = await sent(bench, second);
    write(bench, 200);
    for (const machine of all) expect(succeeded(await stop(bench, machine)).changed).toBe(true);
    expect(bench.driver.clusters()).toMatchObject([{ hasQuorum: false }]);
    expect(succeeded(await stop(bench, first)).changed).toBe(false);
    expect(succeeded(await restore(bench, first, { body: saved.body, revision: saved.revision }))).toMatchObject({ members: 1, keys: saved.keys });
    expect(succeeded(await rejoin(bench, second, caHash, first))).toMatchObject({ changed: true, voter: true, members: 2 });
    expect(succeeded(await rejoin(bench, third, caHash, first))).toMatchObject({ changed: true, voter: true, members: 3 });
    expect(succeeded(await rejoin(bench, third, caHash, first))).toMatchObject({ changed: false, members: 3 });
    expect(bench.driver.clusters()).toMatchObject([{ hasQuorum: true, members: [{ voter: true }, { voter: true }, { voter: true }] }]);
    expect(held(bench).keys).toBeLessThan(saved.keys + 150);
  });

  it("goes on from a survivor when two of three are lost, and loses nothing", async () => {
    const bench = simulatedBench();
    const { first, second, third } = await threeServers(bench);
    write(bench, 300);
    const before = held(bench);
    bench.driver.halt(first.instanceId);
    bench.driver.halt(second.instanceId);
    expect(bench.driver.clusters()).toMatchObject([{ hasQuorum: false }]);
    const result = succeeded(await restore(bench, third, {}));
    expect(result).toMatchObject({ members: 1, voter: true });
    expect(result.keys).toBeGreaterThanOrEqual(before.keys);
    expect(bench.driver.clusters()).toMatchObject([{ hasQuorum: true, members: [{ instanceId: third.instanceId }] }]);
  });

  it("has no survivor in a machine without etcd data", async () => {
    const bench = simulatedBench();
    const fresh = await prepared(bench, "server");
    expect(failed(await restore(bench, fresh, {})).code).toBe("RestoreFailed");
  });

  it("keeps the restored server's data from a rejoin, and a rejoined server from a second reset", async () => {
    const bench = simulatedBench();
    const { first, second, all, caHash } = await threeServers(bench);
    const saved = await sent(bench, first);
    for (const machine of all) await stop(bench, machine);
    succeeded(await restore(bench, first, { body: saved.body }));
    succeeded(await rejoin(bench, second, caHash, first));
    expect(failed(await rejoin(bench, first, caHash, second)).code).toBe("SplitBrain");
    expect(failed(await restore(bench, second, { body: saved.body })).code).toBe("SplitBrain");
  });

  it("removes no data while the restored server does not answer", async () => {
    const bench = simulatedBench();
    const { first, second, third, caHash } = await threeServers(bench);
    await stop(bench, first);
    expect(failed(await rejoin(bench, second, caHash, first))).toMatchObject({
      code: "NotReady",
      message: expect.stringContaining("left as they are"),
    });
    expect(succeeded(await perform(bench, third, "check-cluster", { pool: "server" })).apiReady).toBe(true);
  });

  it("leaves agents that the snapshot knows, and none that came after it", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const agent = async () => {
      const machine = await prepared(bench, "agent");
      succeeded(await perform(bench, machine, "start-agent", agentParameters(bench, caHash, machine, [first.address])));
      return machine;
    };
    await agent();
    const saved = await sent(bench, first);
    await agent();
    await stop(bench, first);
    succeeded(await restore(bench, first, { body: saved.body }));
    await bench.pass(60);
    expect(succeeded(await perform(bench, first, "check-cluster", { pool: "server" }))).toMatchObject({ agentsReady: 1, nodes: 2 });
  });

  it("is not disturbed by one server that starts with data of before, and is by a majority of them", async () => {
    const bench = simulatedBench();
    const { first, second, third, all, caHash } = await threeServers(bench);
    const saved = await sent(bench, first);
    for (const machine of all) await stop(bench, machine);
    succeeded(await restore(bench, first, { body: saved.body }));
    const old = begin(bench, second, "start-server", joinParameters(bench, caHash, first.address));
    await bench.pass(600);
    expect(bench.driver.clusters()).toHaveLength(1);
    const other = begin(bench, third, "start-server", joinParameters(bench, caHash, first.address));
    succeeded(await bench.settle(old));
    succeeded(await bench.settle(other));
    expect(bench.driver.clusters()).toMatchObject([{ hasQuorum: true }, { hasQuorum: true, bootstrappedBy: expect.any(String) }]);
  });
});
