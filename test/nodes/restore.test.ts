import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { DeliveryEntry, NodeCommandParameters } from "../../core/node-commands.js";
import { agentPassword, caHash, caPem, instanceId, journal, Machine, password, sha256, snapshotOf, tcpTable, version } from "./machine.js";

const node = `server-${instanceId}`;
const endpoint = "drv-prod-1a2b3c4d.elb.eu-central-1.amazonaws.com";
const id = "20260105T020000Z-1a2b3c4d";
const content = snapshotOf("a database");
const fullToken = `K10${caHash}::server:${password}`;
const db = "/var/lib/rancher/rke2/server/db";
const old = `${db}/etcd-old-restore-1`;
const notes = "/var/lib/drover/restores/restore-1";
const kept = "/var/lib/drover/kept-snapshots/restore-1";
const joinFile = "/etc/rancher/rke2/config.yaml.d/20-drover-join.yaml";
const success = "Managed etcd cluster membership has been reset";

let machine: Machine;
beforeEach(() => {
  machine = new Machine();
  machine.isServer(["5200 1490 77 4800", "5120 1480 3735928559 4800"]);
  machine.write({
    [joinFile]: `server: "https://${endpoint}:9345"\n`,
    "/etc/rancher/rke2/drover-token": "t0kenOfTheGenerationAfter0000001",
    [`${db}/snapshots/etcd-snapshot-${node}-1794900000`]: "RKE2's own",
    [`${db}/.metadata/etcd-snapshot-${node}-1794900000`]: "{}",
  });
});
afterEach(() => machine.end());

/** RKE2 comes up when its unit is started; etcd answers and the node's member votes once the uptime passes this. */
function comesUp({ at = 120, members = [`a1, started, ${node}-0a0b0c0d, https://10.0.1.17:2380, https://10.0.1.17:2379, false`] } = {}): void {
  machine.say({ "members.wanted": members.join("\n"), "etcd.wanted": "5200 1490 77 4800\n5120 1480 3735928559 4800" });
  machine.script(
    "on-start",
    `mkdir -p "$DROVER_ROOT${db}/etcd/member/wal"; cp "$DROVER_ROOT${joinFile}" "$WORLD/joined" 2>/dev/null || echo none >"$WORLD/joined"; rm -f "$WORLD/nodes" "$WORLD/members"`,
  );
  machine.script(
    "on-sleep",
    `if [[ $(cat "$WORLD/units/rke2-server" 2>/dev/null) != activating* ]]; then exit 0; fi
if (($1 >= ${at})); then
  echo "active 0" >"$WORLD/units/rke2-server"
  rm -f "$DROVER_ROOT${db}/reset-flag"
  printf '${node}|True|True|true|${version}\\nserver-i-00000002|Unknown|True|true|${version}\\nworkers-i-00000003|True|||${version}\\n' >"$WORLD/nodes"
  cp "$WORLD/members.wanted" "$WORLD/members"; cp "$WORLD/etcd.wanted" "$WORLD/etcd"
fi`,
  );
}

const tokens = (token: string): DeliveryEntry[] => {
  machine.store("token", token);
  machine.store("agent-token", agentPassword);
  return [machine.get("token", "/etc/rancher/rke2/drover-token"), machine.get("agent-token", "/etc/rancher/rke2/drover-agent-token")];
};

type Restore = NodeCommandParameters<"restore-snapshot">;
interface Options {
  readonly token?: string;
  readonly body?: Buffer;
  readonly sum?: string | undefined;
  readonly more?: readonly DeliveryEntry[];
}

function restoreParameters(parameters: Partial<Restore> = {}, options: Options = {}): Restore {
  const { token = fullToken, body = content, more = [] } = options;
  const entries = [...tokens(token), ...more];
  if (parameters.mode !== "survivor") {
    machine.store("snapshot", body);
    entries.push(machine.get("snapshot", `/var/lib/drover/snapshots/${id}`, "0600", "sum" in options ? options.sum : sha256(body)));
  }
  return { mode: "snapshot", pool: "server", restore: "restore-1", delivery: machine.deliver(entries), endpoint, revision: "5120", ...parameters };
}
const restore = (parameters: Partial<Restore> = {}, options: Options = {}) => machine.run("restore-snapshot", restoreParameters(parameters, options));

const acts = (calls = machine.calls()) =>
  calls
    .filter((call) => /^(rke2 server|rke2-killall|systemctl (start|stop|restart|disable|enable))/.test(call))
    .map((call) => call.replace(machine.root, ""));
const reset = `rke2 server --cluster-reset --cluster-reset-restore-path=/var/lib/drover/snapshots/${id} --etcd-s3=false`;

describe("a restore from a snapshot", () => {
  it("stops all that runs, resets, starts the service without server:, and tells what came back", () => {
    comesUp();
    const { status, result } = restore();
    expect(result).toEqual({
      ok: true,
      node,
      changed: true,
      address: "10.0.1.17",
      caHash,
      voter: true,
      members: 1,
      revision: 5120,
      keys: 1480,
      hash: 3735928559,
      compactRevision: 4800,
      newestRevision: 5200,
      clusterId: "6f1c1f6e-0c1e-4b52-9a53-0d2b6c1f7a10",
      nodes: [node, "server-i-00000002"],
      version,
    });
    expect(status).toBe(0);
    expect(acts()).toEqual([
      "systemctl disable rke2-server",
      "rke2-killall.sh",
      reset,
      "systemctl enable rke2-server",
      "systemctl start --no-block rke2-server",
    ]);
    expect(machine.worldFile("joined")).toBe("none\n");
    expect(machine.read(joinFile)).toBe(`server: "https://${endpoint}:9345"\n`);
    expect(machine.read("/etc/rancher/rke2/drover-token")).toBe(fullToken);
  });

  it("keeps RKE2's own local snapshots and the data of before out of harm's way, and removes what it fetched", () => {
    comesUp();
    restore();
    expect(machine.list(kept)).toEqual([`etcd-snapshot-${node}-1794900000`]);
    expect(machine.list(`${db}/snapshots`)).toEqual([]);
    expect(machine.read(`${old}/member/wal/0.wal`)).toBe("of before");
    expect(machine.read(`${db}/etcd/member/restored`)).toBe(content.toString("utf8"));
    expect(machine.list("/var/lib/drover/snapshots")).toEqual([]);
  });

  it("runs the reset in RKE2's own environment, with files that etcd's user may read", () => {
    comesUp();
    machine.script("on-reset", `umask >"$WORLD/umask"; echo "${success}"; mkdir -p "$DROVER_ROOT${db}/etcd/member/wal"`);
    machine.runRaw("restore-snapshot", {
      ...Object.fromEntries(Object.entries(restoreParameters()).map(([name, value]) => [`SSM_${name}`, value])),
      RKE2_URL: "https://10.9.9.9:9345",
      HTTPS_PROXY: "http://proxy.example:3128",
    });
    expect(machine.worldFile("rke2.environment")).not.toMatch(/RKE2_|PROXY|SSM_/);
    expect(machine.worldFile("umask")).toBe("0022\n");
    expect(machine.mode(`${notes}/reset.log`)).toBe("600");
  });

  it("only waits the second time, and tells the same", () => {
    comesUp();
    const first = restore();
    machine.calls();
    machine.say({ etcd: "9000 1700 5 8000" });
    expect(restore().result).toEqual({ ...first.result, changed: false });
    expect(acts()).toEqual(["systemctl enable rke2-server"]);
  });

  it("goes on waiting for a start that an earlier run made", () => {
    machine.say({ hurry: "50" });
    machine.script("on-sleep", "exit 0");
    expect(restore()).toMatchObject({ status: 75, result: { code: "StartTimedOut" } });
    machine.calls();
    comesUp({ at: 0 });
    expect(restore().result).toMatchObject({ ok: true, revision: 5120 });
    expect(acts()).toEqual(["systemctl enable rke2-server"]);
  });

  it("takes success in the log of an earlier run for success, though nobody noted it", () => {
    machine.write({ [`${notes}/reset.log`]: `level=error msg="Shutdown request received: ${success}, restart without"\n` });
    machine.say({ "units/rke2-server": "inactive 0" });
    comesUp();
    expect(restore().result).toMatchObject({ ok: true });
    expect(acts()).not.toContain(reset);
  });

  it("works on a new machine, which has neither data nor a CA", () => {
    machine.remove("/var/lib/rancher/rke2/server");
    machine.remove(joinFile);
    machine.say({ "units/rke2-server": "inactive 0" });
    machine.write({ "/proc/net/tcp": tcpTable(22) });
    machine.forget("etcd");
    machine.script(
      "on-reset",
      `mkdir -p "$DROVER_ROOT${db}/etcd/member/wal" "$DROVER_ROOT/var/lib/rancher/rke2/server/tls"; printf '%s' '${caPem}' >"$DROVER_ROOT/var/lib/rancher/rke2/server/tls/server-ca.crt"; echo "${success}"`,
    );
    comesUp();
    expect(restore({}, { token: password }).result).toMatchObject({ ok: true, caHash, members: 1 });
  });

  it("uploads RKE2's kubeconfig where one is wanted", () => {
    comesUp();
    expect(restore({}, { more: [machine.put("kubeconfig")] }).result).toMatchObject({ ok: true });
    expect(machine.uploaded("kubeconfig").toString()).toContain("127.0.0.1");
    machine.answers("kubeconfig", "403");
    expect(restore({}, { more: [machine.put("kubeconfig")] }).result).toMatchObject({ code: "UploadFailed" });
  });

  it.each([
    ["compacted since", "4000"],
    ["never there", "99999"],
  ])("tells the newest state where the revision asked for is %s", (_, revision) => {
    comesUp();
    expect(restore({ revision }).result).toMatchObject({ ok: true, revision: 5200, keys: 1490, hash: 77, newestRevision: 5200 });
  });

  it("does not believe the Node objects that came back: etcd itself must list its member as a voter", () => {
    comesUp({ members: ["b2, started, server-i-00000002-1a1b1c1d, https://10.0.1.18:2380, https://10.0.1.18:2379, false"] });
    machine.say({ hurry: "50" });
    expect(restore()).toMatchObject({ status: 75, result: { code: "NotReady", message: expect.stringContaining("does not list its member") } });
  });

  it("fetches the snapshot on after the connection broke, and afresh what an earlier restore left of another", () => {
    comesUp();
    machine.answers("snapshot", "206", "cut 5000");
    machine.write({ [`/var/lib/drover/snapshots/${id}.part`]: "of another one" });
    expect(restore().result).toMatchObject({ ok: true });
  });
});

describe("a restore is refused before anything is stopped or changed", () => {
  it.each<[string, Options, string, string]>([
    ["the snapshot was tampered with", { sum: sha256("what was sent") }, "ChecksumMismatch", "expected"],
    ["its own checksum does not fit", { body: Buffer.from(content).fill("x", 0, 1) }, "SnapshotInvalid", "checksum"],
    ["it is cut short", { body: content.subarray(0, 5000) }, "SnapshotInvalid", "cut short"],
    ["it is empty", { body: Buffer.alloc(0) }, "SnapshotInvalid", "empty"],
    ["it is a zip", { body: Buffer.from("PK\u0003\u0004 and so on") }, "SnapshotInvalid", "zip"],
    ["its SHA-256 is not told", { sum: undefined }, "ConfigInvalid", "SHA-256"],
    ["the token is empty", { token: "" }, "ConfigInvalid", "empty"],
    ["the token is an agent's", { token: `K10${caHash}::node:${password}` }, "ConfigInvalid", "servers"],
    ["the token names another cluster", { token: `K10${"a".repeat(64)}::server:${password}` }, "AlreadyMember", "another cluster"],
  ])("when %s", (_, options, code, text) => {
    const before = machine.snapshot("/etc", "/var/lib/rancher");
    expect(restore({}, options)).toMatchObject({ status: 1, result: { ok: false, code, message: expect.stringContaining(text) } });
    expect(acts()).toEqual([]);
    expect(machine.snapshot("/etc", "/var/lib/rancher")).toEqual(before);
  });

  it.each<[string, () => void, string, string]>([
    ["there is no room for it", () => machine.say({ free: String(400 * 2 ** 20) }), "DiskFull", "400 MiB free"],
    ["it cannot be fetched", () => machine.answers("snapshot", "206", "403"), "DownloadFailed", "HTTP 403"],
    ["RKE2 is not installed", () => machine.remove("/usr/local/bin/rke2"), "ConfigInvalid", "not installed"],
    ["an agent runs here", () => machine.say({ "units/rke2-agent": "active 0" }), "ConfigInvalid", "rke2-agent runs"],
    [
      "config.yaml names a server",
      () => machine.write({ "/etc/rancher/rke2/config.yaml": "server: https://x:9345\n" }),
      "ConfigInvalid",
      "sets server:",
    ],
  ])("when %s", (_, arrange, code, text) => {
    const parameters = restoreParameters();
    arrange();
    expect(machine.run("restore-snapshot", parameters)).toMatchObject({ status: 1, result: { code, message: expect.stringContaining(text) } });
    expect(acts()).toEqual([]);
  });

  it("when the delivery brings no snapshot, or no tokens", () => {
    const run = (entries: readonly DeliveryEntry[]) =>
      machine.run("restore-snapshot", { ...restoreParameters(), delivery: machine.deliver(entries) }).result;
    expect(run(tokens(fullToken))).toMatchObject({ code: "ConfigInvalid", message: expect.stringContaining("no snapshot") });
    expect(run([])).toMatchObject({ code: "ConfigInvalid", message: expect.stringContaining("drover-agent-token") });
    expect(acts()).toEqual([]);
  });

  it("on a server that has rejoined after this restore was made on another", () => {
    machine.write({ [`${notes}/removed`]: "then" });
    expect(restore()).toMatchObject({ status: 1, result: { code: "SplitBrain", message: expect.stringContaining("second cluster") } });
  });
});

describe("a reset is judged by what RKE2 says, not by its status", () => {
  const says = (text: string, status = 0) => machine.script("on-reset", `echo 'level=error msg="${text}"' >&2; exit ${status}`);

  it.each<[string, number, string]>([
    ["Shutdown request received: something", 0, "RestoreFailed"],
    ["Managed etcd cluster membership was previously reset, please remove the cluster-reset flag", 1, "RestoreFailed"],
    ["bootstrap data already found and encrypted with different token", 1, "TokenRejected"],
    ["starting kubernetes: preparing server: no bootstrap data found in datastore - check server token value", 1, "TokenRejected"],
    ["write /var/lib/rancher: no space left on device", 1, "DiskFull"],
    ["snapshot missing hash but --skip-hash-check=false", 1, "SnapshotInvalid"],
    ["cannot perform cluster-reset while server URL is set", 1, "ConfigInvalid"],
    ["invalid kernel parameter value vm.overcommit_memory=0 - expected 1", 1, "KernelParameter"],
  ])("%s", (text, status, code) => {
    says(text, status);
    const ended = restore();
    expect(ended).toMatchObject({
      status: 1,
      result: { code, log: expect.stringContaining(text), message: expect.stringContaining("etcd-old-restore-1") },
    });
    expect(acts().filter((act) => act.startsWith("systemctl start"))).toEqual([]);
    expect(machine.read(`${old}/member/wal/0.wal`)).toBe("of before");
    expect(machine.has(`${notes}/reset`)).toBe(false);
  });

  it("tells its log without secrets", () => {
    says(`using token ${fullToken} and ${password}`);
    expect(restore().result).toMatchObject({ code: "RestoreFailed", log: expect.stringContaining("using token") });
  });

  it("succeeds in a later run, with the right token, and still has the data of before", () => {
    says("bootstrap data already found and encrypted with different token", 1);
    restore();
    machine.script("on-reset", `mkdir -p "$DROVER_ROOT${db}/etcd/member/wal"; echo "${success}"`);
    comesUp();
    expect(restore().result).toMatchObject({ ok: true, members: 1 });
    expect(machine.read(`${old}/member/wal/0.wal`)).toBe("of before");
  });

  it.each(["static pod cleanup timed out", "listen tcp 127.0.0.1:2380: bind: address already in use"])(
    "ends what is left of before and tries once more: %s",
    (text) => {
      comesUp();
      machine.script(
        "on-reset",
        `if [[ ! -e $WORLD/tried ]]; then touch "$WORLD/tried"; echo '${text}'; exit 0; fi; mkdir -p "$DROVER_ROOT${db}/etcd/member/wal"; echo "${success}"`,
      );
      expect(restore().result).toMatchObject({ ok: true });
      expect(acts().filter((act) => act === reset || act === "rke2-killall.sh")).toEqual(["rke2-killall.sh", reset, "rke2-killall.sh", reset]);
    },
  );

  it("does not start a cluster that the snapshot turned out to be of", () => {
    machine.script(
      "on-reset",
      `printf '%s' '${caPem.replace("MIIB", "MIIC")}' >"$DROVER_ROOT/var/lib/rancher/rke2/server/tls/server-ca.crt"; echo "${success}"`,
    );
    expect(restore()).toMatchObject({ status: 1, result: { code: "RestoreFailed", message: expect.stringContaining("another cluster") } });
    expect(acts().filter((act) => act.startsWith("systemctl start"))).toEqual([]);
  });

  it("reads the service's log after the reset like any start's", () => {
    journal(machine, "rke2-server", 'level=fatal msg="bootstrap data already found and encrypted with different token"');
    expect(restore().result).toMatchObject({ code: "TokenRejected" });
  });
});

describe("a restore from the survivor's own data", () => {
  const survive = () => restore({ mode: "survivor", revision: "0" });

  it("resets without a path, copies the data first, and loses nothing", () => {
    comesUp();
    expect(survive().result).toMatchObject({ ok: true, members: 1, revision: 5200, newestRevision: 5200 });
    expect(acts()).toContain("rke2 server --cluster-reset --etcd-s3=false");
    expect(machine.read(`${old}/member/wal/0.wal`)).toBe("of before");
    expect(machine.read(`${db}/etcd/member/wal/0.wal`)).toBe("of before");
    expect(machine.list(kept)).toHaveLength(1);
  });

  it("removes the flag of an earlier reset, which forbids another", () => {
    comesUp();
    machine.write({ [`${db}/reset-flag`]: "" });
    machine.script(
      "on-reset",
      `if [[ -e $DROVER_ROOT${db}/reset-flag ]]; then echo "membership was previously reset"; exit 1; fi; echo "${success}"`,
    );
    expect(survive().result).toMatchObject({ ok: true });
  });

  it("is refused where there are no data, or no room for a copy", () => {
    machine.say({ free: String(400 * 2 ** 20) });
    expect(survive().result).toMatchObject({ code: "DiskFull" });
    machine.remove(`${db}/etcd`);
    expect(survive().result).toMatchObject({ code: "RestoreFailed", message: expect.stringContaining("no etcd data") });
    expect(acts()).toEqual([]);
  });
});

type Rejoin = NodeCommandParameters<"rejoin-server">;
const rejoinParameters = (more: Partial<Rejoin> = {}, token = fullToken): Rejoin => ({
  pool: "server",
  restore: "restore-1",
  joinAddress: "10.0.1.5",
  endpoint,
  delivery: machine.deliver(tokens(token)),
  ...more,
});
const rejoin = (more: Partial<Rejoin> = {}, token = fullToken) => machine.run("rejoin-server", rejoinParameters(more, token));
const two = [
  "b2, started, server-i-00000002-1a1b1c1d, https://10.0.1.5:2380, https://10.0.1.5:2379, false",
  `a1, started, ${node}-9a9b9c9d, https://10.0.1.17:2380, https://10.0.1.17:2379, false`,
];

describe("a rejoin after a restore", () => {
  beforeEach(() => machine.say({ ping: "pong" }));

  it("removes the data of before, keeps the local snapshots, joins, and names the endpoint", () => {
    comesUp({ members: two });
    const { status, result } = rejoin();
    expect(result).toEqual({ ok: true, node, changed: true, address: "10.0.1.17", caHash, voter: true, members: 2, version });
    expect(status).toBe(0);
    expect(machine.worldFile("joined")).toBe('server: "https://10.0.1.5:9345"\n');
    expect(machine.read(joinFile)).toBe(`server: "https://${endpoint}:9345"\n`);
    expect(machine.list(kept)).toEqual([`etcd-snapshot-${node}-1794900000`]);
    expect(machine.list(`${db}/etcd/member/wal`)).toEqual([]);
    expect(machine.list("/var/lib/rancher/rke2/server").filter((name) => name.startsWith("db"))).toEqual(["db"]);
    expect(acts()).toEqual([
      "systemctl disable rke2-server",
      "rke2-killall.sh",
      "systemctl enable rke2-server",
      "systemctl start --no-block rke2-server",
    ]);
  });

  it("leaves the new data alone the second time", () => {
    comesUp({ members: two });
    rejoin();
    machine.write({ [`${db}/etcd/member/wal/1.wal`]: "new" });
    machine.calls();
    expect(rejoin().result).toMatchObject({ ok: true, changed: false });
    expect(machine.read(`${db}/etcd/member/wal/1.wal`)).toBe("new");
    expect(acts()).toEqual(["systemctl enable rke2-server"]);
  });

  it("is not done while etcd lists its member as a learner, whatever its Node object of before says", () => {
    machine.say({ hurry: "50" });
    comesUp({ members: [two[0] as string, (two[1] as string).replace("false", "true")] });
    expect(rejoin()).toMatchObject({ status: 75, result: { code: "NotReady" } });
  });

  it.each<[string, () => void, Partial<Rejoin>, string, string, string]>([
    ["while no restored server answers", () => machine.forget("ping"), {}, fullToken, "NotReady", "left as they are"],
    ["on the server that was restored", () => machine.write({ [`${notes}/reset`]: "then" }), {}, fullToken, "SplitBrain", "stay"],
    ["through itself", () => undefined, { joinAddress: "10.0.1.17" }, fullToken, "ConfigInvalid", "itself"],
    ["with a short token", () => undefined, {}, password, "ConfigInvalid", "full form"],
    ["on a disk of another cluster", () => undefined, {}, `K10${"a".repeat(64)}::server:${password}`, "AlreadyMember", "another cluster"],
  ])("removes nothing %s", (_, arrange, more, token, code, text) => {
    arrange();
    machine.say({ hurry: "20" });
    expect(rejoin(more, token).result).toMatchObject({ ok: false, code, message: expect.stringContaining(text) });
    expect(machine.read(`${db}/etcd/member/wal/0.wal`)).toBe("of before");
    expect(acts()).toEqual([]);
  });

  it("ends by what RKE2's log says, like any join", () => {
    journal(machine, "rke2-server", 'level=fatal msg="etcd cluster join failed: duplicate node name found, please use a unique name for this node"');
    expect(rejoin().result).toMatchObject({ code: "DuplicateNode" });
  });
});

describe("killed before or after any of its changes and run again, comes to the same end", () => {
  it("a rejoin", () => {
    everyChange(["before", "after"], "rejoin-server", rejoinParameters, () => {
      expect(rejoin().result).toMatchObject({ ok: true, members: 2, voter: true });
      expect(machine.list(kept)).toEqual([`etcd-snapshot-${node}-1794900000`]);
      expect(machine.has(`${db}/etcd/member/wal/0.wal`)).toBe(false);
      expect(machine.list("/var/lib/rancher/rke2/server").filter((name) => name.startsWith("db"))).toEqual(["db"]);
    });
  });

  it("a restore from a snapshot", () => {
    everyChange(["before", "after"], "restore-snapshot", restoreParameters, () => {
      expect(restore().result).toMatchObject({ ok: true, voter: true, revision: 5120, keys: 1480 });
      expect(machine.list(kept)).toEqual([`etcd-snapshot-${node}-1794900000`]);
      expect(machine.read(`${old}/member/wal/0.wal`)).toBe("of before");
      expect(machine.read(`${db}/etcd/member/restored`)).toBe(content.toString("utf8"));
      expect(machine.read(joinFile)).toBe(`server: "https://${endpoint}:9345"\n`);
    });
  });

  it("a restore from the survivor's own data", () => {
    everyChange(
      ["after"],
      "restore-snapshot",
      () => restoreParameters({ mode: "survivor", revision: "0" }),
      () => {
        expect(restore({ mode: "survivor", revision: "0" }).result).toMatchObject({ ok: true, voter: true, revision: 5200 });
        expect(machine.read(`${old}/member/wal/0.wal`)).toBe("of before");
        expect(machine.read(`${db}/etcd/member/wal/0.wal`)).toBe("of before");
      },
    );
  });

  /** Kills a command before or after each of its changes in turn, each on a machine of its own, and holds the run after it to the same end. */
  function everyChange<N extends "rejoin-server" | "restore-snapshot">(
    whens: readonly ("before" | "after")[],
    command: N,
    parameters: () => NodeCommandParameters<N>,
    holds: () => void,
  ): void {
    for (let change = 1; ; change++) {
      let died = 0;
      for (const when of whens) {
        machine.end();
        machine = new Machine();
        arrange();
        if (machine.runAndKill(command, parameters(), change, when) === undefined) continue;
        died++;
        holds();
      }
      if (died === 0) {
        expect(change).toBeGreaterThan(8);
        return;
      }
    }
  }

  function arrange(): void {
    machine.isServer(["5200 1490 77 4800", "5120 1480 3735928559 4800"]);
    machine.write({
      [joinFile]: `server: "https://${endpoint}:9345"\n`,
      [`${db}/snapshots/etcd-snapshot-${node}-1794900000`]: "RKE2's own",
    });
    machine.say({ ping: "pong" });
    comesUp({ members: two });
  }
});
