import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { RestoreRecord, RestoreSource } from "../../core/records.js";
import {
  compareRestored,
  decideRestore,
  durationText,
  estimateLoss,
  lossText,
  preflight,
  restorePlan,
  type SnapshotFacts,
  sourceOf,
} from "../../core/restore.js";
import type { Manifest, StoredObject } from "../../core/snapshots.js";
import { agent, answered, at, decided, instance, member, record } from "./facts.js";

const id = "20261122T110000Z-0000000a";
const bytes = 512 * 4000 + 32;
const sha256 = createHash("sha256").update("snapshot").digest("hex");
const from = { name: "prod", uid: "uid-1" };
const hashOf = (token: string) => createHash("sha256").update(token).digest("hex").slice(0, 12);

function manifest(facts: Partial<Manifest> = {}): Manifest {
  return {
    schema: 1,
    id,
    cluster: { name: "prod", uid: "uid-1", kubernetesId: "kube-1" },
    takenAt: at(-3600),
    provenAt: at(-3590),
    operation: "backup-prod-1",
    requestedBy: "schedule",
    version: "v1.35.7+rke2r1",
    architecture: "amd64",
    node: { name: "server-i-1", instanceId: "i-1" },
    etcd: { revision: 1000, keys: 700, hash: 42, compactRevision: 900, members: ["server-i-1"], leader: "server-i-1" },
    file: { key: `uid-1/${id}/snapshot`, versionId: "v-1", bytes, sha256, parts: [] },
    token: { generation: 1, hash: hashOf("one") },
    wanted: {},
    configs: {},
    manifests: {},
    ...facts,
  };
}

const stored: StoredObject = { versionId: "v-1", bytes, sha256, composite: undefined };
const bolt = Uint8Array.from([0, 0, 0, 0]);
const look = (snapshot: Partial<SnapshotFacts> = {}, more: Partial<Parameters<typeof preflight>[0]> = {}) =>
  preflight({
    from,
    snapshot: { id, manifest: manifest(), stored, firstBytes: bolt, ...snapshot },
    tokens: [
      { generation: 1, hash: hashOf("one") },
      { generation: 2, hash: hashOf("two") },
    ],
    version: "v1.35.7+rke2r1",
    rootVolumeGib: 80,
    ...more,
  });
const messages = (answer: ReturnType<typeof preflight>) => answer.faults.map(({ message }) => message);

describe("looking at a snapshot before anything is touched", () => {
  it("finds nothing wrong with a proven one, and the token that opens it, though a newer token is in use", () => {
    expect(look()).toEqual({ faults: [], tokenGeneration: 1 });
  });
  it.each<[string, Partial<SnapshotFacts>, Partial<Parameters<typeof preflight>[0]>, RegExp]>([
    ["not proven", { manifest: undefined }, {}, /^prod has no proven snapshot of this id$/],
    ["gone", { stored: undefined }, {}, /^version v-1 of it is gone/],
    ["empty", { stored: { ...stored, bytes: 0 } }, {}, /^it is empty$/],
    ["a zip", { firstBytes: Uint8Array.from([0x50, 0x4b, 3, 4]) }, {}, /^it is compressed \(a zip file\)/],
    ["truncated", { stored: { ...stored, bytes: bytes - 512, sha256: "0".repeat(64) } }, {}, /^it is truncated: 2047520 bytes, expected 2048032$/],
    ["tampered with", { stored: { ...stored, sha256: "0".repeat(64) } }, {}, /^its SHA-256 is 0{64}, expected/],
    [
      "without its trailer",
      { manifest: manifest({ file: { ...manifest().file, bytes: 1024 } }), stored: { ...stored, bytes: 1024 } },
      {},
      /^its size, 1024 bytes, is not that of an etcd snapshot/,
    ],
    [
      "another cluster's",
      { manifest: manifest({ cluster: { name: "test", uid: "uid-2", kubernetesId: "kube-2" } }) },
      {},
      /^it is a snapshot of cluster test \(uid-2\), not of prod \(uid-1\)$/,
    ],
    ["another's by its manifest", { manifest: manifest({ id: "20261122T110000Z-0000000b" }) }, {}, /^its manifest is that of .*b, stored at/],
    ["of a newer minor", {}, { version: "v1.34.9+rke2r1" }, /^it was taken by v1.35.7\+rke2r1, and the servers run v1.34.9\+rke2r1/],
    ["of a newer patch", {}, { version: "v1.35.6+rke2r1" }, /into the same release or a newer one only$/],
    [
      "sealed with a token that is gone",
      {},
      { tokens: [{ generation: 2, hash: hashOf("two") }] },
      /^it opens with generation 1 of the server token, which is not kept: there is 2$/,
    ],
    ["sealed with another token", {}, { tokens: [{ generation: 1, hash: hashOf("x") }] }, /^the token of generation 1 has the hash/],
    ["too large for the servers", {}, { rootVolumeGib: 20 }, /^restoring it takes a root volume of about 26 GiB, and the servers have 20 GiB$/],
  ])("refuses one that is %s, with one message", (_, snapshot, more, message) => {
    const answer = look(snapshot, more);
    expect(messages(answer)).toHaveLength(1);
    expect(messages(answer)[0]).toMatch(message);
    expect(answer.faults[0]).toMatchObject({ path: id, severity: "error" });
  });
  it("tells of every fault at once", () => {
    expect(messages(look({ stored: { ...stored, bytes: 0 } }, { version: "v1.33.1+rke2r1", tokens: [], rootVolumeGib: 8 }))).toHaveLength(4);
  });
  it("takes a later generation that holds the same token, as after a restore", () => {
    const tokens = [
      { generation: 2, hash: hashOf("two") },
      { generation: 3, hash: hashOf("one") },
    ];
    expect(look({}, { tokens })).toEqual({ faults: [], tokenGeneration: 3 });
  });
  it("only warns of servers two minors ahead", () => {
    expect(look({}, { version: "v1.37.1+rke2r1" }).faults).toMatchObject([{ severity: "warning" }]);
    expect(look({}, { version: "v1.36.1+rke2r1" }).faults).toEqual([]);
  });
});

describe("what a restore loses", () => {
  const newer = manifest({ id: "b", takenAt: at(-1800), etcd: { ...manifest().etcd, revision: 1200 } });
  it("is the time since the snapshot, and the writes that a later one is known to hold", () => {
    const loss = estimateLoss(manifest(), [newer, manifest()], at(0));
    // 200 writes in half an hour, and another half hour since.
    expect(loss).toEqual({ since: at(-3600), seconds: 3600, revisionsAtLeast: 200, revisionsAbout: 400, newerSnapshots: 1 });
    expect(lossText(loss)).toBe(
      `Everything written to the cluster since ${at(-3600)} is lost: 1 h, at least 200 writes, about 400 writes at the pace of late`,
    );
  });
  it("has no pace where there is one snapshot, or a restore lies between two", () => {
    expect(estimateLoss(manifest(), [manifest()], at(0)).revisionsAbout).toBeUndefined();
    const after = manifest({ id: "b", takenAt: at(-60), etcd: { ...manifest().etcd, revision: 10 } });
    expect(estimateLoss(after, [after, manifest()], at(0))).not.toHaveProperty("revisionsAbout");
  });
  it("never counts another cluster's snapshots", () => {
    const others = manifest({
      id: "b",
      takenAt: at(-1),
      cluster: { ...manifest().cluster, uid: "uid-2" },
      etcd: { ...manifest().etcd, revision: 9e6 },
    });
    expect(estimateLoss(manifest(), [others, manifest()], at(0))).toMatchObject({ revisionsAtLeast: 0, newerSnapshots: 0 });
  });
  it.each([
    [0, "0 s"],
    [59.9, "59 s"],
    [60, "1 min"],
    [3661, "1 h 1 min"],
    [86_400 * 3 + 3600 * 4, "3 d 4 h"],
    [86_400 + 61, "1 d"],
  ])("says %d seconds as %s", (seconds, text) => expect(durationText(seconds)).toBe(text));
});

const source: RestoreSource = sourceOf(manifest(), 1);
const server = (slot: number, facts: object = {}) => instance({ instanceId: `i-${slot}`, slot, launchedAt: at(-9000), ...facts });
const three = [server(1), server(2), server(3)];
const members = [member("i-1", 1), member("i-2", 2), member("i-3", 3)];
const decide = (facts: Partial<Parameters<typeof decideRestore>[0]> = {}) =>
  decideRestore({
    record: record({ members, bootstrap: answered("i-1", "10.0.0.1"), phase: "ready" }),
    source,
    observed: three,
    online: new Set(["i-1", "i-2", "i-3"]),
    operation: "restore-prod-1",
    pass: 1,
    now: at(0),
    ...facts,
  });
const idsOf = (nodes: readonly { readonly instanceId: string }[]) => nodes.map((node) => node.instanceId);
const begun: RestoreRecord = { id: "restore-prod-0", operation: "restore-prod-0", begunAt: at(-300), source };

describe("beginning a restore", () => {
  it("stops every server that lives, and takes all out of the endpoint", () => {
    const answer = decide();
    expect(answer).toMatchObject({ kind: "go", way: "in place", goesOn: false, leave: ["i-1", "i-2", "i-3"], terminate: [] });
    expect(answer).toMatchObject({ restore: { id: "restore-prod-1", operation: "restore-prod-1", begunAt: at(0), source } });
    expect(answer.kind === "go" && idsOf(answer.stop)).toEqual(["i-1", "i-2", "i-3"]);
  });
  it("goes onto new nodes when no server is left", () => {
    const gone = three.map((each) => ({ ...each, state: "terminated" as const }));
    expect(decide({ observed: gone, online: new Set() })).toMatchObject({ kind: "go", way: "onto new nodes", stop: [], terminate: [] });
  });
  it("terminates what cannot be told to stop, once another server can", () => {
    expect(decide({ online: new Set(["i-2"]) })).toMatchObject({ kind: "go", stop: [{ instanceId: "i-2" }], terminate: ["i-1", "i-3"] });
  });
  it("terminates a stopped machine: started again, its old cluster would live beside the restored one", () => {
    const observed = [server(1), server(2, { state: "stopped" }), server(3)];
    expect(decide({ observed })).toMatchObject({ kind: "go", stop: [{ instanceId: "i-1" }, { instanceId: "i-3" }], terminate: ["i-2"] });
  });
  it("stops for a person when servers run and none can be reached: the way to them is broken, more likely than all of them", () => {
    expect(decide({ online: new Set() })).toMatchObject({ kind: "stop", reason: expect.stringMatching(/none is online in SSM/) });
  });
  it("waits for a server that has only just booted", () => {
    const observed = [server(1), server(2, { launchedAt: at(-30) }), server(3)];
    expect(decide({ observed, online: new Set(["i-1", "i-3"]) })).toEqual({ kind: "wait", reason: "i-2 of prod has not come online yet" });
  });
  it("leaves agents alone, but replaces those that were not online in an earlier pass", () => {
    const observed = [...three, agent("i-9", 1, { launchedAt: at(-9000) })];
    expect(decide({ observed })).toMatchObject({ terminate: [] });
    expect(decide({ observed, pass: 2 })).toMatchObject({ terminate: ["i-9"], restore: { id: "restore-prod-1-p2" } });
  });
  it("wants a survivor to go on with", () => {
    const survivor = { kind: "survivor" } as const;
    const observed = [server(1, { state: "terminated" }), server(2, { state: "terminated" }), server(3)];
    expect(decide({ source: survivor, observed, online: new Set(["i-3"]) })).toMatchObject({ kind: "go", stop: [{ instanceId: "i-3" }] });
    const stranger = [...observed.slice(0, 2), server(3, { instanceId: "i-new" })];
    expect(decide({ source: survivor, observed: stranger, online: new Set(["i-new"]) })).toMatchObject({
      kind: "stop",
      next: "Restore a snapshot instead: drover restore prod --snapshot latest",
    });
  });
});

describe("going on with a restore that was begun", () => {
  const on = (facts: object, more: Partial<Parameters<typeof decideRestore>[0]> = {}) =>
    decide({ record: record({ members, restore: begun, bootstrap: answered("i-1", "10.0.0.1"), ...facts }), ...more });

  it("keeps its id, so that nodes do nothing destructive twice", () => {
    expect(on({})).toMatchObject({ kind: "go", goesOn: true, restore: begun });
    expect(on({ bootstrap: decided("i-1", { restore: begun.id }), members: [] })).toMatchObject({
      restore: { ...begun, wentOn: ["restore-prod-1 p1"] },
    });
  });
  it("is not what another snapshot, or another version of it, begins", () => {
    for (const other of [{ ...source, snapshot: "20261122T110000Z-0000000b" }, { ...source, versionId: "v-2" }, { kind: "survivor" } as const]) {
      expect(on({}, { source: other })).toMatchObject({ goesOn: false, restore: { id: "restore-prod-1" } });
    }
  });
  it("does not stop the server that was chosen, nor one that has joined it", () => {
    const chosen = { restore: begun, bootstrap: decided("i-1", { restore: begun.id }), members: [] };
    expect(on(chosen)).toMatchObject({ leave: ["i-1", "i-2", "i-3"], stop: [{ instanceId: "i-2" }, { instanceId: "i-3" }] });
    const joined = { restore: begun, bootstrap: answered("i-1", "10.0.0.1", { restore: begun.id }), members: members.slice(0, 2) };
    expect(on(joined)).toMatchObject({ leave: ["i-3"], stop: [{ instanceId: "i-3" }], members: members.slice(0, 2) });
  });
  it("does not stop or terminate what was launched for it", () => {
    const observed = [server(1), server(2, { launchedAt: at(-100), state: "pending" })];
    const answer = on({ bootstrap: answered("i-1", "10.0.0.1", { restore: begun.id }), members: members.slice(0, 1) }, { observed });
    expect(answer).toMatchObject({ kind: "go", stop: [], terminate: [] });
  });
  it("begins anew when the server it was begun on is gone, and stops those that had joined it", () => {
    const observed = [server(1, { state: "terminated" }), server(2), server(3)];
    const answer = on({ bootstrap: answered("i-1", "10.0.0.1", { restore: begun.id }), members }, { observed });
    expect(answer).toMatchObject({ goesOn: false, restore: { id: "restore-prod-1" }, stop: [{ instanceId: "i-2" }, { instanceId: "i-3" }] });
  });

  it("takes a server that has joined it and is gone out of the endpoint and the record, while a majority lives", () => {
    const observed = [server(1), server(2, { launchedAt: at(-100) })];
    const facts = { restore: begun, bootstrap: answered("i-1", "10.0.0.1", { restore: begun.id }), members };
    expect(on(facts, { observed, online: new Set(["i-1", "i-2"]) })).toMatchObject({ goesOn: true, leave: ["i-3"], members: members.slice(0, 2) });
  });
  it("begins anew when etcd has lost its majority again", () => {
    const observed = [server(1), server(2, { state: "terminated" })];
    const facts = { restore: begun, bootstrap: answered("i-1", "10.0.0.1", { restore: begun.id }), members: members.slice(0, 2) };
    expect(on(facts, { observed })).toMatchObject({ goesOn: false, stop: [{ instanceId: "i-1" }], leave: ["i-1", "i-2"], members: [] });
  });
  it("goes on with a survivor's disk however often that has failed: there is no other copy", () => {
    const survivor = { ...begun, source: { kind: "survivor" } as const, wentOn: ["a p1", "b p1"] };
    const facts = { restore: survivor, bootstrap: decided("i-1", { restore: begun.id }), members: [] };
    expect(on(facts, { source: survivor.source })).toMatchObject({ goesOn: true, restore: survivor });
  });
  it("begins anew when going on has failed twice, and not while the same attempt asks again", () => {
    const facts = (wentOn: readonly string[]) => ({ restore: { ...begun, wentOn }, bootstrap: answered("i-1", "10.0.0.1", { restore: begun.id }) });
    expect(on(facts(["a p1", "restore-prod-1 p1"]))).toMatchObject({ goesOn: true });
    expect(on(facts(["a p1", "b p1"]))).toMatchObject({ goesOn: false, restore: { id: "restore-prod-1" } });
  });

  it("never leaves a server of the time before running, nor touches one of the time after (any facts)", () => {
    const states = fc.constantFrom("pending", "running", "stopping", "stopped", "shutting-down", "terminated" as const);
    const world = fc.record({
      states: fc.array(states, { minLength: 1, maxLength: 5 }),
      ages: fc.array(fc.integer({ min: 0, max: 20_000 }), { minLength: 5, maxLength: 5 }),
      online: fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
      begun: fc.boolean(),
      chosen: fc.option(fc.integer({ min: 1, max: 5 })),
      done: fc.boolean(),
      pass: fc.integer({ min: 1, max: 3 }),
    });
    fc.assert(
      fc.property(world, (drawn) => {
        const observed = drawn.states.map((state, index) =>
          server(index + 1, { state, launchedAt: at(-(drawn.ages[index] ?? 0)), address: `10.0.0.${index + 1}` }),
        );
        const online = new Set(observed.filter((_, index) => drawn.online[index]).map((each) => each.instanceId));
        const chosen = `i-${drawn.chosen ?? 1}`;
        const bootstrap = drawn.done
          ? answered(chosen, "10.0.0.9", { restore: begun.id })
          : decided(chosen, { restore: drawn.chosen === null ? "another" : begun.id });
        const answer = decide({
          record: record({ members: members.slice(0, 2), bootstrap, ...(drawn.begun ? { restore: begun } : {}) }),
          observed,
          online,
          pass: drawn.pass,
        });
        if (answer.kind !== "go") return;
        const touched = new Set([...idsOf(answer.stop), ...answer.terminate]);
        const kept =
          answer.restore.id === begun.id && bootstrap.restore === begun.id ? new Set([chosen, ...(drawn.done ? ["i-1", "i-2"] : [])]) : new Set();
        for (const each of observed) {
          const isOld = Date.parse(each.launchedAt) <= Date.parse(answer.restore.begunAt);
          if (each.state === "running" && isOld && !kept.has(each.instanceId)) expect(touched).toContain(each.instanceId);
          if (each.state === "running" && kept.has(each.instanceId)) expect(touched).not.toContain(each.instanceId);
          if (each.state === "running" && !isOld) expect(touched).not.toContain(each.instanceId);
        }
        expect(answer.terminate.filter((each) => idsOf(answer.stop).includes(each))).toEqual([]);
      }),
      { seed: 20_261_122, numRuns: 500 },
    );
  });
});

describe("the plan a person confirms", () => {
  const plan = (facts: Partial<Parameters<typeof restorePlan>[0]> = {}) =>
    restorePlan({
      target: "prod",
      servers: three,
      wantedServers: 3,
      snapshot: manifest(),
      loss: estimateLoss(manifest(), [manifest()], at(0)),
      tokenGeneration: 1,
      isNew: false,
      ...facts,
    }).join("\n");
  it("says what is restored, what stops and what is lost", () => {
    expect(plan()).toContain(`Restore snapshot ${id} (${at(-3600)}, revision 1000, 700 keys, RKE2 v1.35.7+rke2r1)`);
    expect(plan()).toContain("Stop 3 servers (i-1, i-2, i-3)");
    expect(plan()).toContain("is lost: 1 h");
    expect(plan({ servers: [] })).toContain("Launch 3 servers");
  });
  it("says that a new cluster takes nothing from the old one", () => {
    const text = plan({ target: "copy", servers: [], isNew: true });
    expect(text).toContain("the cluster it was taken of stays as it is");
    expect(text).not.toContain("lost");
  });
  it("says what going on with a survivor means", () => {
    expect(plan({ snapshot: "survivor", loss: undefined, tokenGeneration: undefined })).toContain("What only the lost servers had is lost");
  });
});

describe("comparing what came back with what was proven", () => {
  const restored = { revision: 1000, keys: 700, hash: 42, compactRevision: 900, newestRevision: 1004, clusterId: "kube-1" };
  const compare = (facts: Partial<typeof restored> = {}) => compareRestored(sourceOf(manifest(), 1), { ...restored, ...facts });

  it("finds nothing where all is as it was, and writes since then", () => expect(compare()).toEqual({ faults: [], unproven: [] }));
  it("compares hashes only of the same span", () => {
    expect(compare({ compactRevision: 950, hash: 7 })).toEqual({ faults: [], unproven: [] });
    expect(compare({ hash: 7 }).faults).toEqual(["the hash of its keys is 7, expected 42"]);
  });
  it("names everything that differs", () => {
    expect(compare({ keys: 699, hash: 7, clusterId: "kube-2" }).faults).toEqual([
      "it is cluster kube-2, expected kube-1",
      "it has 699 keys at revision 1000, expected 700",
      "the hash of its keys is 7, expected 42",
    ]);
    expect(compare({ newestRevision: 999, revision: 999 }).faults).toEqual(["its newest revision is 999, expected 1000 or later"]);
  });
  it("calls nothing proven that could not be compared, nor wrong", () => {
    expect(compare({ revision: 1004, keys: 702 })).toEqual({
      faults: [],
      unproven: ["its keys could not be counted at revision 1000, but only at 1004"],
    });
  });
});
