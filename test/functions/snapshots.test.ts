import { createHash } from "node:crypto";
import { beforeEach, describe, expect, it } from "vitest";
import { stateKeys } from "../../core/layout.js";
import type { NodeCommandResult } from "../../core/node-commands.js";
import type { ClusterRecord, OperationRecord } from "../../core/records.js";
import { type Manifest, type StoredObject, snapshotIdOfPass, tokenHash } from "../../core/snapshots.js";
import type { SnapshotStore } from "../../functions/aws/snapshots.js";
import { closeOperation } from "../../functions/close-operation.js";
import type { Moment } from "../../functions/lambda.js";
import { openOperation } from "../../functions/open-operation.js";
import { proveSnapshot } from "../../functions/prove-snapshot.js";
import { pruneSnapshots } from "../../functions/prune-snapshots.js";
import { recordSnapshotFailure } from "../../functions/record-snapshot-failure.js";
import { listSnapshots, previewRetention, proveSnapshotAgain, readSnapshot } from "../../functions/snapshots.js";
import { clusterFile } from "../core/sample.js";
import { memory } from "./memory.js";

const [cluster, uid, id] = ["prod", "u-1", "backup-prod-1"];
const execution = "arn:aws:states:eu-central-1:1:execution:drover-backup-cluster:backup-prod-1";
const acceptedAt = "2026-01-05T02:00:00.000Z";
const now = "2026-01-05T02:01:00.000Z";
const moment: Moment = { now, nowMs: Date.parse(now), log: console as unknown as Moment["log"] };
const step = { cluster, operation: id, execution, step: "Prove snapshot" };
const snapshot = snapshotIdOfPass(uid, { id, acceptedAt }, 1);
const sha256 = createHash("sha256").update("snapshot").digest("hex");

const saved: NodeCommandResult<"save-snapshot"> = {
  ok: true,
  node: "server-i-2",
  changed: true,
  bytes: 20_512,
  sha256,
  parts: [],
  revision: 1234,
  keys: 1000,
  hash: 77,
  compactRevision: 1000,
  members: ["server-i-1", "server-i-2", "server-i-3"],
  leader: "server-i-1",
  clusterId: "k-1",
  tokenHash: tokenHash("second"),
  version: "v1.35.7+rke2r1",
};
const record = {
  schema: 1,
  name: cluster,
  uid,
  phase: "ready",
  readyAt: "2026-01-01T00:00:00.000Z",
  wanted: clusterFile(),
  resolved: { version: "v1.35.7+rke2r1" },
  endpoint: { dnsName: "prod.elb.amazonaws.com" },
  members: [],
  secrets: { "server-token": 3, "agent-token": 1, kubeconfig: 1 },
  operation: id,
} as unknown as ClusterRecord;
const operation = {
  schema: 1,
  id,
  kind: "backup",
  cluster,
  uid,
  status: "running",
  requestedBy: "arn:aws:iam::1:user/me",
  requestId: "r-1",
  acceptedAt,
  execution,
  steps: [],
} as OperationRecord;

/** The snapshot bucket as maps; `log` is what was done to it, in order. */
function bucket(objects: Record<string, StoredObject> = {}, manifests: Record<string, Manifest> = {}, locks: Record<string, string> = {}) {
  const log: string[] = [];
  const store: SnapshotStore = {
    upload: async () => [],
    complete: async (_, each) => void log.push(`complete ${each}`),
    stored: async (_, each, versionId) => (versionId === undefined || objects[each]?.versionId === versionId ? objects[each] : undefined),
    firstBytes: async () => new Uint8Array(),
    address: async () => "",
    list: async () =>
      [...new Set([...Object.keys(objects), ...Object.keys(manifests)])].sort().map((each) => ({ id: each, hasManifest: each in manifests })),
    manifest: async (_, each) => (manifests[each] === undefined ? undefined : { manifest: manifests[each], versionId: "m" }),
    writeManifest: async (manifest) => {
      if (manifest.id in manifests) return false;
      log.push(`manifest ${manifest.id}`);
      manifests[manifest.id] = manifest;
      return true;
    },
    lockedUntil: async (_, each) => locks[each],
    remove: async (_, each) => {
      log.push(`remove ${each}`);
      if (each in locks && (locks[each] as string) > now) return false;
      delete objects[each];
      delete manifests[each];
      return true;
    },
  };
  return { store, log, objects, manifests };
}

const tokens = ["first", "second", "third"];
const secrets = { read: async (_: string, __: string, generation: number) => tokens[generation - 1] as string };
let announced: { readonly name: string; readonly detail: Readonly<Record<string, unknown>> }[];
const announcer = { announce: async (name: string, detail: object) => void announced.push({ name, detail: { ...detail } }) };
const inventory = { ofCluster: async () => [{ kind: "instance", id: "i-1", detail: "m6i.xlarge", dollarsPerHour: 1 }] };

function stage(
  more: Readonly<Record<string, unknown>> = {},
  snapshots = bucket({ [snapshot]: { versionId: "v", bytes: 20_512, sha256, composite: undefined } }),
) {
  const state = memory({
    [stateKeys.record(cluster)]: record,
    [stateKeys.operation(cluster, id)]: operation,
    [stateKeys.lease(cluster)]: { cluster, holder: execution, operation: id, takenAt: now },
    [stateKeys.command(cluster, id, "save-snapshot-snapshot-server-p1")]: {
      at: "2026-01-05T02:00:10.000Z",
      instanceIds: ["i-2"],
      outcome: { succeeded: ["i-2"], failed: [], lost: [], result: saved },
    },
    ...more,
  });
  const clients = { state, snapshots: snapshots.store, secrets, announcer, inventory } as never;
  const read = <T>(key: string) => state.documents.get(key) as T;
  return {
    ...snapshots,
    clients,
    state,
    cluster: () => read<ClusterRecord>(stateKeys.record(cluster)),
    operation: () => read<OperationRecord>(stateKeys.operation(cluster, id)),
  };
}
beforeEach(() => {
  announced = [];
});

describe("proving a snapshot", () => {
  it("reads it back, finds its token among the generations, and writes the manifest", async () => {
    const world = stage();
    expect(await proveSnapshot({ ...step, pass: 1 }, world.clients, moment)).toEqual({ snapshot });
    expect(world.log).toEqual([`complete ${snapshot}`, `manifest ${snapshot}`]);
    expect(world.manifests[snapshot]).toMatchObject({
      id: snapshot,
      cluster: { name: "prod", uid, kubernetesId: "k-1" },
      takenAt: "2026-01-05T02:00:10.000Z",
      provenAt: now,
      operation: id,
      requestedBy: "arn:aws:iam::1:user/me",
      node: { name: "server-i-2", instanceId: "i-2" },
      etcd: { revision: 1234, keys: 1000, members: saved.members, leader: "server-i-1" },
      file: { versionId: "v", bytes: 20_512, sha256 },
      token: { generation: 2, hash: tokenHash("second") },
    });
    expect(Object.keys(world.manifests[snapshot]?.configs ?? {})).toEqual(["server", "general", "batch"]);
    expect(world.cluster().newestProven).toEqual({
      id: snapshot,
      at: "2026-01-05T02:00:10.000Z",
      revision: 1234,
      bytes: 20_512,
      leader: "server-i-1",
    });
    expect(world.operation().outcome).toEqual({ snapshot });
    expect(announced).toMatchObject([{ name: "Snapshot Proven", detail: { snapshot, revision: 1234, operation: id } }]);
  });
  it("holds no secret in what it writes and says", async () => {
    const world = stage();
    await proveSnapshot({ ...step, pass: 1 }, world.clients, moment);
    const written = JSON.stringify([world.manifests, [...world.state.documents.values()], announced]);
    expect(tokens.filter((token) => written.includes(`"${token}"`))).toEqual([]);
  });
  it("changes nothing when it runs a second time", async () => {
    const world = stage();
    await proveSnapshot({ ...step, pass: 1 }, world.clients, moment);
    const before = structuredClone([...world.state.documents]);
    await proveSnapshot({ ...step, pass: 1 }, world.clients, { ...moment, now: "2026-01-05T03:00:00.000Z" });
    expect([...world.state.documents]).toEqual(before);
    expect(world.log.filter((line) => line.startsWith("manifest"))).toHaveLength(1);
  });
  it.each([
    ["is not there", undefined, /not in the snapshot bucket/],
    ["has other bytes", { versionId: "v", bytes: 20_512, sha256: "0".repeat(64), composite: undefined }, /its SHA-256 is 0000/],
    ["was cut short", { versionId: "v", bytes: 20_000, sha256, composite: undefined }, /20000 bytes, expected 20512/],
  ])("writes no manifest for one that %s", async (_, object, fault) => {
    const world = stage({}, bucket(object === undefined ? {} : { [snapshot]: object }));
    await expect(proveSnapshot({ ...step, pass: 1 }, world.clients, moment)).rejects.toMatchObject({
      name: "Unsafe",
      message: expect.stringMatching(fault),
    });
    expect([world.manifests, world.cluster().newestProven, announced]).toEqual([{}, undefined, []]);
  });
  it("writes no manifest for one that no kept token opens", async () => {
    const key = stateKeys.command(cluster, id, "save-snapshot-snapshot-server-p1");
    const foreign = {
      at: now,
      instanceIds: ["i-2"],
      outcome: { succeeded: ["i-2"], failed: [], lost: [], result: { ...saved, tokenHash: "0".repeat(12) } },
    };
    const world = stage({ [key]: foreign });
    await expect(proveSnapshot({ ...step, pass: 1 }, world.clients, moment)).rejects.toMatchObject({
      name: "Unsafe",
      message: expect.stringMatching(/No token of prod opens/),
    });
    expect(world.manifests).toEqual({});
  });
  it("does not take the place of one that was taken later", async () => {
    const later = { id: "20260105T030000Z-00000000", at: "2026-01-05T03:00:00.000Z", revision: 2000, bytes: 1 };
    const world = stage({ [stateKeys.record(cluster)]: { ...record, newestProven: later } });
    await proveSnapshot({ ...step, pass: 1 }, world.clients, moment);
    expect(world.cluster().newestProven).toEqual(later);
  });
  it("does nothing once the lease is another's", async () => {
    const world = stage({ [stateKeys.lease(cluster)]: { cluster, holder: "another", operation: "x", takenAt: now } });
    await expect(proveSnapshot({ ...step, pass: 1 }, world.clients, moment)).rejects.toMatchObject({ name: "LeaseLost" });
    expect(world.log).toEqual([]);
  });
});

describe("a snapshot that was not taken", () => {
  const failure = {
    error: "NodeCommandFailed",
    cause: JSON.stringify({ errorType: "NodeCommandFailed", errorMessage: "[Save snapshot] save-snapshot on i-2: DiskFull: no room" }),
    state: "Save snapshot",
  };
  it("is told on the operation and the bus, once on the operation, with the one that still counts", async () => {
    const newestProven = { id: "20260104T020000Z-00000000", at: "2026-01-04T02:00:00.000Z", revision: 1, bytes: 1 };
    const world = stage({ [stateKeys.record(cluster)]: { ...record, newestProven } });
    for (const _ of [1, 2]) await recordSnapshotFailure({ ...step, failure }, world.clients, moment);
    expect(world.operation().steps.map(({ name }) => name)).toEqual(["snapshot failed"]);
    expect(world.operation().outcome).toEqual({ snapshotFailure: expect.stringContaining("DiskFull: no room") });
    expect(announced[0]).toMatchObject({ name: "Snapshot Failed", detail: { failure: "NodeCommandFailed", newestProven: newestProven.id } });
  });
});

const manifest = (each: string, takenAt: string): Manifest =>
  ({
    id: each,
    takenAt,
    provenAt: takenAt,
    requestedBy: "me",
    version: "v1",
    node: { name: "server-i-1" },
    etcd: { revision: 5, keys: 4 },
    file: { versionId: "v", bytes: 20_512, sha256, parts: [] },
    token: { generation: 1, hash: "0a1b2c3d4e5f" },
  }) as unknown as Manifest;
const ids = ["20240101T020000Z-00000001", "20240101T030000Z-00000002", "20260105T020000Z-00000003"] as const;
const object: StoredObject = { versionId: "v", bytes: 20_512, sha256, composite: undefined };
/** One that no tier asks for, the newest of its day and month, and the newest of all. */
const history = (locks: Record<string, string> = {}) => {
  const [old, kept, newest] = ids;
  const times = { [old]: "2024-01-01T02:00:00.000Z", [kept]: "2024-01-01T03:00:00.000Z", [newest]: "2026-01-05T02:00:00.000Z" };
  const manifests = Object.fromEntries(Object.entries(times).map(([each, at]) => [each, manifest(each, at)]));
  return bucket(Object.fromEntries(ids.map((each) => [each, object])), manifests, locks);
};
const keep = { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 2 };
const sparing = { [stateKeys.record(cluster)]: { ...record, wanted: clusterFile({ "spec.backup": { keep } }) } };

describe("pruning", () => {
  it("removes what no tier asks for, having said so, and nothing the second time", async () => {
    const world = stage(sparing, history());
    expect(await pruneSnapshots(step, world.clients, moment)).toEqual({ removed: 1 });
    expect(world.log).toEqual([`remove ${ids[0]}`]);
    expect(world.operation().steps).toMatchObject([{ name: "prune", detail: `${ids[0]}: no tier asks for it` }]);
    expect(world.operation().outcome).toEqual({ removed: [ids[0]] });
    expect(await pruneSnapshots(step, world.clients, moment)).toEqual({ removed: 0 });
  });
  it.each([
    ["locked", {}, { [ids[0]]: "2026-01-05T02:01:00.001Z" }],
    [
      "read by a restore of another cluster",
      { [stateKeys.snapshotUse(uid, ids[0], "restore-b-1")]: { schema: 1, operation: "restore-b-1", cluster: "b", at: "2026-01-04T00:00:00.000Z" } },
      {},
    ],
  ])("leaves alone what is %s", async (_, more, locks) => {
    const world = stage({ ...sparing, ...more }, history(locks));
    expect(await pruneSnapshots(step, world.clients, moment)).toEqual({ removed: 0 });
    expect(world.log).toEqual([]);
  });
  it("does nothing once the lease is another's", async () => {
    const world = stage({ ...sparing, [stateKeys.lease(cluster)]: { cluster, holder: "another", operation: "x", takenAt: now } }, history());
    await expect(pruneSnapshots(step, world.clients, moment)).rejects.toMatchObject({ name: "LeaseLost" });
    expect(world.log).toEqual([]);
  });
});

describe("looking at snapshots", () => {
  const request = (path: Readonly<Record<string, string>> = {}) => ({ path: { name: cluster, ...path }, query: {}, body: "", caller: "me" });
  it("lists them newest first, those that were never proven named as such", async () => {
    const world = stage({}, history());
    world.objects["20260105T013000Z-0000000f"] = object;
    const { body } = await listSnapshots(request(), world.clients, moment);
    const { snapshots } = body as { snapshots: { id: string; proven: boolean; takenAt: string }[] };
    expect(snapshots.map(({ id: each, proven }) => [each, proven])).toEqual([
      [ids[2], true],
      ["20260105T013000Z-0000000f", false],
      [ids[1], true],
      [ids[0], true],
    ]);
    expect(snapshots[1]).toEqual({ id: "20260105T013000Z-0000000f", uid, proven: false, takenAt: "2026-01-05T01:30:00.000Z" });
  });
  it("finds those of a deleted cluster by its operations", async () => {
    const world = stage({}, history());
    await world.state.remove(stateKeys.record(cluster));
    expect((await listSnapshots(request(), world.clients, moment)).body).toMatchObject({ uid, snapshots: [{ id: ids[2] }, {}, {}] });
  });
  it("shows one manifest, and says of others why there is none", async () => {
    const world = stage({}, history());
    world.objects["20260105T013000Z-0000000f"] = object;
    expect((await readSnapshot(request({ snapshot: ids[0] }), world.clients, moment)).body).toMatchObject({ id: ids[0] });
    const refused = (each: string) => expect(readSnapshot(request({ snapshot: each }), world.clients, moment)).rejects;
    await refused("20260105T013000Z-0000000f").toMatchObject({ name: "NotFound", message: expect.stringMatching(/never proven/) });
    await refused("20260105T013000Z-0000000e").toMatchObject({ name: "NotFound", message: expect.stringMatching(/has no snapshot/) });
    await refused("../../clusters/prod").toMatchObject({ name: "NotFound", message: expect.stringMatching(/no snapshot's id/) });
  });
  it("proves one again, by what the bucket holds now", async () => {
    const world = stage({}, history());
    const prove = async () => (await proveSnapshotAgain(request({ snapshot: ids[0] }), world.clients, moment)).body;
    expect(await prove()).toEqual({ id: ids[0], proven: true, fault: "", at: now });
    world.objects[ids[0]] = { ...object, versionId: "other" };
    expect(await prove()).toMatchObject({ proven: false, fault: "it is not in the snapshot bucket" });
    world.objects[ids[0]] = { ...object, bytes: 1 };
    expect(await prove()).toMatchObject({ proven: false, fault: "it has 1 bytes, expected 20512" });
  });
  it("says what would be removed and why the rest is kept, and removes nothing", async () => {
    const world = stage(sparing, history());
    expect((await previewRetention(request(), world.clients, moment)).body).toMatchObject({
      cluster,
      uid,
      keep: [{ id: ids[2], reasons: expect.arrayContaining(["last 1 of 1"]) }, { id: ids[1] }],
      remove: [{ id: ids[0] }],
    });
    expect(world.log).toEqual([]);
  });
});

describe("the operation around a snapshot", () => {
  const workflows = { describe: async () => ({ status: "FAILED", endedAt: "2026-01-01T00:00:00.000Z" }) };
  it("leaves the cluster ready when it begins, and says whether a last snapshot is wanted", async () => {
    const world = stage({ [stateKeys.operation(cluster, id)]: { ...operation, status: "accepted", lastSnapshot: true } });
    const opened = await openOperation({ ...step, kind: "backup" }, { state: world.state, workflows } as never, moment);
    expect(opened).toEqual({ begun: false, lastSnapshot: true });
    expect(world.cluster()).toEqual(record);
    expect(world.operation()).toMatchObject({ status: "running", startedAt: now, steps: [{ name: "lease" }] });
  });
  it("leaves nothing under way on the record when it has ended well", async () => {
    const world = stage();
    await closeOperation({ ...step, outcome: "succeeded" }, world.clients, moment);
    const { operation: _, ...idle } = record;
    expect(world.cluster()).toEqual(idle);
    expect(world.operation()).toMatchObject({ status: "succeeded", endedAt: now });
    expect(world.state.documents.has(stateKeys.lease(cluster))).toBe(false);
  });
  it("does not call the cluster failed when it failed, nor its machines left behind", async () => {
    const world = stage();
    const cause = JSON.stringify({
      Error: "NodeCommandFailed",
      Cause: JSON.stringify({
        errorMessage: "[Save snapshot] no room",
        node: { instanceId: "i-2", pool: "server", failure: { ok: false, code: "DiskFull", message: "no room", log: "last line" } },
      }),
    });
    await closeOperation(
      { ...step, outcome: "failed", failure: { error: "States.TaskFailed", cause, state: "Take snapshot" } },
      world.clients,
      moment,
    );
    expect(world.cluster().phase).toBe("ready");
    expect(world.cluster().operation).toBeUndefined();
    expect(world.operation().card).toMatchObject({
      failure: "NodeCommandFailed",
      state: "Save snapshot",
      left: { resources: [], dollarsPerHour: 0 },
      node: { name: "server-i-2", log: "last line" },
    });
  });
});
