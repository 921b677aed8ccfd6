import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { snapshotPartBytes } from "../../core/node-commands.js";
import { tokenHash } from "../../core/snapshots.js";
import { assembleScript } from "../../nodes/documents.js";
import { instanceId, Machine, password, sha256, snapshotOf, tcpTable, version } from "./machine.js";

const node = `server-${instanceId}`;
const id = "20260105T020000Z-1a2b3c4d";
const directory = "/var/lib/drover/snapshots";
const file = `${directory}/${id}`;

const content = snapshotOf("a database");

let machine: Machine;
beforeEach(() => {
  machine = new Machine();
  machine.isServer();
  machine.say({
    "etcd-members": `{"header":{"cluster_id":17237436991929493444,"member_id":9372538179322589801,"raft_term":3},"members":[{"ID":9372538179322589801,"name":"${node}-0a0b0c0d","peerURLs":["https://10.0.1.17:2380"],"clientURLs":["https://10.0.1.17:2379"]},{"ID":10501334649042878790,"name":"server-i-00000002-1a1b1c1d","peerURLs":["https://10.0.1.18:2380"],"clientURLs":["https://10.0.1.18:2379"]},{"ID":3,"peerURLs":["https://10.0.1.19:2380"],"isLearner":true}]}`,
  });
  machine.give("snapshot.content", content);
});
afterEach(() => machine.end());

const save = () => machine.run("save-snapshot", { pool: "server", snapshot: id });
const saves = (calls = machine.calls()) => calls.filter((call) => call.startsWith("rke2 etcd-snapshot"));

describe("saving a snapshot", () => {
  it("tells what was in etcd before, and the size and hash of the file, which it keeps under its id", () => {
    const { status, result } = save();
    expect(result).toEqual({
      ok: true,
      node,
      changed: true,
      bytes: content.length,
      sha256: sha256(content),
      parts: [],
      revision: 5120,
      keys: 1480,
      hash: 3735928559,
      compactRevision: 4800,
      members: [node, "server-i-00000002"],
      leader: "server-i-00000002",
      clusterId: "6f1c1f6e-0c1e-4b52-9a53-0d2b6c1f7a10",
      tokenHash: tokenHash(password),
      version,
    });
    expect(status).toBe(0);
    expect(machine.list(directory)).toEqual([id, `${id}.state`]);
    expect([machine.mode(directory), machine.mode(`${file}.state`)]).toEqual(["700", "600"]);
    const calls = machine.calls();
    const asked = (text: string) => calls.findIndex((call) => call.includes(text));
    expect(asked("hashkv")).toBeGreaterThan(-1);
    expect(asked("--count-only")).toBeLessThan(asked("rke2 etcd-snapshot save"));
  });

  it("is never compressed and never goes to S3 by itself, whatever config.yaml says, nor meets the agent's proxies", () => {
    machine.runRaw("save-snapshot", { SSM_pool: "server", SSM_snapshot: id, HTTPS_PROXY: "http://proxy.example:3128", RKE2_TOKEN: "x" });
    expect(saves()).toEqual([
      `rke2 etcd-snapshot save --name ${id} --etcd-snapshot-dir ${machine.root}${directory} --etcd-snapshot-compress=false --etcd-s3=false`,
    ]);
    const environment = machine.worldFile("rke2.environment");
    expect(environment).toContain("HOME=/root");
    expect(environment).not.toMatch(/PROXY|RKE2_|SSM_/);
  });

  it("does not save again what is there and whole, and tells the state of then", () => {
    const first = save();
    machine.calls();
    machine.say({ etcd: "9000 1600 17 8000" });
    expect(save().result).toEqual({ ...first.result, changed: false });
    expect(saves()).toEqual([]);
  });

  it("saves again when the file of an earlier run is not whole", () => {
    save();
    machine.write({ [file]: content.subarray(0, 5000) });
    machine.say({ etcd: "9000 1600 17 8000" });
    machine.calls();
    expect(save().result).toMatchObject({ ok: true, changed: true, revision: 9000, sha256: sha256(content) });
    expect(saves()).toHaveLength(1);
  });

  it("removes snapshots of other ids, which nobody sends any more, and halves of its own", () => {
    machine.write({
      [`${directory}/20250101T000000Z-00000000`]: "old",
      [`${file}-node-1794999999`]: "half",
      [`${file}-node-1794999999.part`]: "half",
    });
    save();
    expect(machine.list(directory)).toEqual([id, `${id}.state`]);
  });

  it("waits for a snapshot that is being saved already", () => {
    machine.script(
      "on-save",
      `if [[ ! -e $WORLD/tried ]]; then touch "$WORLD/tried"; echo 'level=fatal msg="snapshot save already in progress; see server log for details"' >&2; exit 1; fi
cp "$WORLD/snapshot.content" "$2/$1-node-1795000200"; echo "level=info msg=\\"Snapshot $1-node-1795000200 saved.\\"" >&2`,
    );
    expect(save().result).toMatchObject({ ok: true });
    expect(saves()).toHaveLength(2);
  });

  it.each<[string, string, string, string]>([
    ["RKE2 says nothing, with status 0", "exit 0", "ServiceFailed", "did not say that it saved"],
    ["RKE2 says why not", `echo 'level=fatal msg="etcd is broken; see server log for details"' >&2; exit 1`, "ServiceFailed", "did not say"],
    ["the disk is full", `echo 'level=fatal msg="write x: no space left on device"' >&2; exit 1`, "DiskFull", "full"],
    ["there is no such file", `echo 'msg="Snapshot '"$1"'-node-1 saved."' >&2`, "SnapshotInvalid", "no such file"],
    ["the file is empty", `: >"$2/$1-node-1"; echo 'msg="Snapshot '"$1"'-node-1 saved."' >&2`, "SnapshotInvalid", "it is empty"],
    [
      "the file is cut short",
      `head --bytes=5000 "$WORLD/snapshot.content" >"$2/$1-node-1"; echo 'msg="Snapshot '"$1"'-node-1 saved."' >&2`,
      "SnapshotInvalid",
      "cut short",
    ],
    ["the file is a zip", `printf 'PK\\3\\4 and more' >"$2/$1-node-1"; echo 'msg="Snapshot '"$1"'-node-1 saved."' >&2`, "SnapshotInvalid", "zip"],
    [
      "the content does not match its checksum",
      `{ printf X; tail --bytes=+2 "$WORLD/snapshot.content"; } >"$2/$1-node-1"; echo 'msg="Snapshot '"$1"'-node-1 saved."' >&2`,
      "SnapshotInvalid",
      "checksum",
    ],
  ])("is not done when %s", (_, body, code, text) => {
    machine.script("on-save", body);
    expect(save()).toMatchObject({ status: 1, result: { ok: false, code, message: expect.stringContaining(text) } });
    expect(machine.list(directory).filter((name) => !name.endsWith(".state"))).toEqual([]);
  });

  it.each<[string, () => void, string]>([
    ["on a learner", () => machine.say({ learner: "" }), "learner"],
    ["where etcd does not run", () => machine.forget("etcd"), "etcd does not answer"],
    ["where the API does not answer", () => machine.say({ "api-down": "" }), "API does not answer"],
    ["where no server has started", () => machine.remove("/etc/rancher/rke2/rke2.yaml"), "No server has started"],
    ["where the members cannot be read", () => machine.say({ "etcd-members": "nothing" }), "members"],
    ["where the server token is not there yet", () => machine.remove("/var/lib/rancher/rke2/server/token"), "token"],
  ])("is not yet possible %s", (_, arrange, text) => {
    arrange();
    expect(save()).toMatchObject({ status: 75, result: { code: "NotReady", message: expect.stringContaining(text) } });
    expect(saves()).toEqual([]);
  });

  it("needs room for the database and some more", () => {
    machine.say({ free: String(500 * 2 ** 20) });
    expect(save()).toMatchObject({ status: 1, result: { code: "DiskFull", message: expect.stringContaining("500 MiB free") } });
    expect(saves()).toEqual([]);
  });

  it("gives up on a snapshot that never ends, before its own deadline", () => {
    machine.script("on-save", `echo 'msg="snapshot save already in progress"' >&2; exit 1`);
    machine.say({ hurry: "5" });
    expect(save()).toMatchObject({ status: 75, result: { code: "NotReady", message: expect.stringContaining("busy with another snapshot") } });
  });

  it("counts parts as the contract does", () => {
    expect(Number(/part_mebibytes=(\d+)/.exec(assembleScript("save-snapshot"))?.[1]) * 2 ** 20).toBe(snapshotPartBytes);
  });

  it("tells the hash of each part of a file too large for one", () => {
    machine.hasSmallParts();
    const large = snapshotOf("a large database", 2 * 256 + 1);
    machine.give("snapshot.content", large);
    const parts = [large.subarray(0, 2 ** 20), large.subarray(2 ** 20, 2 ** 21), large.subarray(2 ** 21)];
    expect(save().result).toMatchObject({ ok: true, bytes: large.length, parts: parts.map(sha256) });
  });

  it("refuses a database of more than ten parts", () => {
    machine.hasSmallParts();
    machine.give("snapshot.content", snapshotOf("far too large", 10 * 256 + 1));
    expect(save().result).toMatchObject({ code: "SnapshotInvalid", message: expect.stringContaining("8 GiB") });
  });

  it("comes to the same end when it is killed at any of its changes", () => {
    for (let change = 1; ; change++) {
      const ends = (["before", "after"] as const).map((when) => {
        machine.remove(directory);
        const died = machine.runAndKill("save-snapshot", { pool: "server", snapshot: id }, change, when);
        expect(save().result, `killed ${when} ${died}`).toMatchObject({ ok: true, sha256: sha256(content), revision: 5120 });
        expect(machine.list(directory), `killed ${when} ${died}`).toEqual([id, `${id}.state`]);
        return died;
      });
      if (ends.every((died) => died === undefined)) {
        expect(change).toBeGreaterThan(4);
        return;
      }
    }
  });
});

describe("sending a snapshot", () => {
  const send = (...names: string[]) =>
    machine.run("upload-snapshot", { pool: "server", snapshot: id, delivery: machine.deliver(names.map((name) => machine.put(name))) });
  const puts = () => machine.calls().filter((call) => call.startsWith("curl PUT") && !call.endsWith("token"));
  beforeEach(() => {
    machine.write({ [file]: content });
  });

  it("puts it with exactly the headers that were signed, and removes it from the disk", () => {
    const { status, result } = send("snapshot");
    expect([status, result]).toEqual([0, { ok: true, node, changed: true, bytes: content.length, uploads: 1 }]);
    expect(machine.uploaded("snapshot").equals(content)).toBe(true);
    expect(machine.uploadHeaders("snapshot").trim().split("\n")).toEqual(["If-None-Match: *", "x-amz-server-side-encryption: aws:kms"]);
    expect(machine.list(directory)).toEqual([`${id}.sent`]);
  });

  it("sends nothing the second time", () => {
    const first = send("snapshot");
    machine.calls();
    expect(send("snapshot").result).toEqual({ ...first.result, changed: false });
    expect(puts()).toEqual([]);
  });

  it("takes one that is there already for sent", () => {
    machine.answers("snapshot", "412");
    expect(send("snapshot").result).toMatchObject({ ok: true, uploads: 1 });
    expect(machine.list(directory)).toEqual([`${id}.sent`]);
  });

  it("goes on through a store that is busy for minutes", () => {
    machine.answers("snapshot", ...Array<string>(20).fill("503"), "000", "409");
    expect(send("snapshot").result).toMatchObject({ ok: true });
    expect(puts()).toHaveLength(23);
  });

  it.each(["403", "400"])("ends at once when the address is refused (%s), and keeps the snapshot", (answer) => {
    machine.answers("snapshot", answer);
    expect(send("snapshot")).toMatchObject({ status: 1, result: { code: "UploadFailed", message: expect.stringContaining(`HTTP ${answer}`) } });
    expect(machine.read(file)).toBe(content.toString("utf8"));
    expect(puts()).toHaveLength(1);
  });

  it("ends before its deadline when the store never takes it", () => {
    machine.answers("snapshot", ...Array<string>(100).fill("503"));
    machine.say({ hurry: "20" });
    expect(send("snapshot")).toMatchObject({ status: 1, result: { code: "UploadFailed", message: expect.stringContaining("no time") } });
  });

  it("sends a large one in parts, streamed, each with its length and nothing of the others", () => {
    machine.hasSmallParts();
    const large = snapshotOf("a large database", 2 * 256 + 1);
    machine.write({ [file]: large });
    machine.answers("part-2", "503");
    expect(send("part-1", "part-2", "part-3").result).toMatchObject({ ok: true, bytes: large.length, uploads: 3 });
    expect(machine.uploaded("part-1").equals(large.subarray(0, 2 ** 20))).toBe(true);
    expect(machine.uploaded("part-2").equals(large.subarray(2 ** 20, 2 ** 21))).toBe(true);
    expect(machine.uploaded("part-3").equals(large.subarray(2 ** 21))).toBe(true);
    expect(machine.uploadHeaders("part-3").trim().split("\n")).toEqual([
      "If-None-Match: *",
      "x-amz-server-side-encryption: aws:kms",
      "Transfer-Encoding:",
      `Content-Length: ${large.length - 2 ** 21}`,
    ]);
  });

  it("sends one that fits a single part as such, when that is what it is given", () => {
    expect(send("part-1").result).toMatchObject({ ok: true, uploads: 1 });
    expect(machine.uploaded("part-1").equals(content)).toBe(true);
  });

  it("sends no part when one has no address", () => {
    machine.hasSmallParts();
    machine.write({ [file]: Buffer.alloc(2 ** 20 + 10) });
    expect(send("part-1").result).toMatchObject({ code: "ConfigInvalid", message: expect.stringContaining("part 2 of 2") });
    expect(puts()).toEqual([]);
  });

  it.each<[string, () => void, string]>([
    ["is not there", () => machine.remove(file), "not on the disk"],
    ["is empty", () => machine.write({ [file]: "" }), "empty"],
  ])("fails when the snapshot %s", (_, arrange, text) => {
    arrange();
    expect(send("snapshot")).toMatchObject({ status: 1, result: { code: "SnapshotInvalid", message: expect.stringContaining(text) } });
  });

  it("is not saved again once it was sent: the bytes would be others", () => {
    machine.remove(file);
    const saved = save();
    send("snapshot");
    machine.calls();
    expect(save().result).toEqual({ ...saved.result, changed: false });
    expect(saves()).toEqual([]);
  });

  it("comes to the same end when it is killed at any of its changes", () => {
    for (let change = 1; ; change++) {
      const ends = (["before", "after"] as const).map((when) => {
        machine.remove(directory);
        machine.write({ [file]: content });
        const delivery = machine.deliver([machine.put("snapshot")]);
        const died = machine.runAndKill("upload-snapshot", { pool: "server", snapshot: id, delivery }, change, when);
        expect(send("snapshot").result, `killed ${when} ${died}`).toMatchObject({ ok: true, bytes: content.length, uploads: 1 });
        expect(machine.list(directory), `killed ${when} ${died}`).toEqual([`${id}.sent`]);
        return died;
      });
      if (ends.every((died) => died === undefined)) {
        expect(change).toBeGreaterThan(2);
        return;
      }
    }
  });
});

describe("stopping a server", () => {
  const stop = (restore = "restore-1") => machine.run("stop-server", { pool: "server", restore });
  const acts = () => machine.calls().filter((call) => /killall|systemctl (stop|disable|start)/.test(call));

  it("ends the service with its containers, keeps it from starting at a boot, and leaves the data", () => {
    const before = machine.snapshot("/etc", "/var/lib/rancher");
    expect(stop()).toMatchObject({ status: 0, result: { ok: true, node, changed: true } });
    expect(acts()).toEqual(["systemctl disable rke2-server", "rke2-killall.sh"]);
    expect(machine.snapshot("/etc", "/var/lib/rancher")).toEqual(before);
    expect(machine.listening()).toEqual([]);
  });

  it("changes nothing the second time", () => {
    stop();
    machine.calls();
    expect(stop().result).toMatchObject({ ok: true, changed: false });
    expect(acts()).toEqual([]);
  });

  it.each(["reset", "removed"])("leaves a server alone that is of the restored cluster already, and only of that one (%s)", (note) => {
    machine.write({ [`/var/lib/drover/restores/restore-1/${note}`]: "2026-01-05T02:00:00Z\n" });
    expect(stop().result).toMatchObject({ ok: true, changed: false });
    expect(acts()).toEqual([]);
    expect(stop("restore-2").result).toMatchObject({ ok: true, changed: true });
  });

  it("ends the containers of a service that was only stopped: they still vote", () => {
    machine.say({ "units/rke2-server": "inactive 0" });
    machine.write({ "/proc/net/tcp": tcpTable(2379, 2380) });
    expect(stop().result).toMatchObject({ ok: true, changed: true });
    expect(machine.listening()).toEqual([]);
  });

  it("tries again while something is left, and says what when it stays", () => {
    machine.say({ "killall-needs": "3" });
    expect(stop().result).toMatchObject({ ok: true });
    machine.write({ "/proc/net/tcp": tcpTable(2380, 10250) });
    machine.say({ "killall-needs": "9" });
    machine.calls();
    expect(stop()).toMatchObject({ status: 1, result: { code: "ServiceFailed", message: expect.stringMatching(/port 2380 10250 .* three times/) } });
    expect(acts()).toEqual(Array(3).fill("rke2-killall.sh"));
  });

  it("is done on a prepared machine where nothing runs yet", () => {
    machine.write({ "/proc/net/tcp": tcpTable(22) });
    machine.say({ "units/rke2-server": "inactive 0" });
    machine.forget("enabled/rke2-server");
    expect(stop().result).toMatchObject({ ok: true, changed: false });
  });

  it.each<[string, () => void, string, string]>([
    ["on an agent", () => machine.say({ "units/rke2-agent": "active 0" }), "ConfigInvalid", "rke2-agent runs"],
    ["where RKE2 is not installed", () => machine.remove("/usr/local/bin/rke2"), "ConfigInvalid", "not installed"],
    ["without RKE2's own script", () => machine.remove("/usr/local/bin/rke2-killall.sh"), "ServiceFailed", "rke2-killall.sh is missing"],
  ])("is refused %s", (_, arrange, code, text) => {
    arrange();
    expect(stop()).toMatchObject({ status: 1, result: { code, message: expect.stringContaining(text) } });
  });
});
