import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { NodeCommandParameters } from "../../core/node-commands.js";
import { agentPassword, caHash, caPem, instanceId, journal, Machine, password, version } from "./machine.js";

const node = `server-${instanceId}`;
const endpoint = "drv-prod-1a2b3c4d.elb.eu-central-1.amazonaws.com";
const fullToken = `K10${caHash}::server:${password}`;
const joinFile = "/etc/rancher/rke2/config.yaml.d/20-drover-join.yaml";
const wal = "/var/lib/rancher/rke2/server/db/etcd/member/wal/0.wal";

let machine: Machine;
beforeEach(() => {
  machine = new Machine();
  machine.isPrepared();
});
afterEach(() => machine.end());

type Start = NodeCommandParameters<"start-server">;

function start(mode: Start["mode"], more: Partial<Start> = {}, token = mode === "bootstrap" ? password : fullToken) {
  machine.store("token", token);
  machine.store("agent-token", agentPassword);
  const delivery = machine.deliver([
    machine.get("token", "/etc/rancher/rke2/drover-token"),
    machine.get("agent-token", "/etc/rancher/rke2/drover-agent-token"),
    ...(mode === "bootstrap" ? [machine.put("kubeconfig")] : []),
  ]);
  return machine.run("start-server", { mode, pool: "server", delivery, joinAddress: mode === "join" ? "10.0.1.5" : "", endpoint, ...more });
}

/** RKE2 comes up when its unit is started: etcd at once, ready and voting once the uptime passes these seconds. */
function comesUp({ readyAt = 130, votesAt = 130, others = 0 } = {}): void {
  const members = Array.from(
    { length: others + 1 },
    (_, index) => `${index}a1f, started, server-i-0000000${index}-0a0b0c0d, https://10.0.1.${index}:2380, https://10.0.1.${index}:2379, false`,
  );
  machine.say({ kubectl: "", "members.wanted": members.join("\n") });
  machine.script(
    "on-start",
    `mkdir -p "$DROVER_ROOT/var/lib/rancher/rke2/server/db/etcd/member/wal"; cp "$DROVER_ROOT${joinFile}" "$WORLD/joined" 2>/dev/null || true`,
  );
  machine.script(
    "on-sleep",
    `if [[ ! -e $WORLD/units/rke2-server ]]; then exit 0; fi
ready=False votes=False
if (($1 >= ${readyAt})); then ready=True; fi
if (($1 >= ${votesAt})); then votes=True; fi
if (($1 >= 115)); then
  echo "active 0" >"$WORLD/units/rke2-server"
  mkdir -p "$DROVER_ROOT/var/lib/rancher/rke2/server/tls"
  printf '%s' "$CA_PEM" >"$DROVER_ROOT/var/lib/rancher/rke2/server/tls/server-ca.crt"
  echo "server: https://127.0.0.1:6443" >"$DROVER_ROOT/etc/rancher/rke2/rke2.yaml"
  echo "${node}|$ready|$votes|true|${version}" >"$WORLD/nodes"
  cp "$WORLD/members.wanted" "$WORLD/members"
fi`.replace("$CA_PEM", caPem),
  );
  machine.hasKubectl();
}

const started = (calls: string[]) => calls.filter((call) => /^systemctl (start|restart|stop) /.test(call));

describe("bootstrap", () => {
  it("makes the cluster without server:, waits until it is ready and votes, and uploads RKE2's own kubeconfig", () => {
    comesUp({ votesAt: 136 });
    const { status, result } = start("bootstrap");
    expect(result).toEqual({ ok: true, node, changed: true, address: "10.0.1.17", caHash, voter: true, members: 1, version });
    expect(status).toBe(0);
    expect(machine.uploaded("kubeconfig").toString()).toBe("server: https://127.0.0.1:6443\n");
    expect(machine.uploadHeaders("kubeconfig")).toContain("If-None-Match: *");
    const calls = machine.calls();
    expect(started(calls)).toEqual(["systemctl start --no-block rke2-server"]);
    expect(calls).toContain("systemctl enable rke2-server");
    expect(Number(machine.read("/proc/uptime").split(" ")[0])).toBeGreaterThanOrEqual(136);
    expect(() => machine.uploaded("../joined")).toThrow();
  });

  it("leaves tokens private and then names the endpoint, so that a rebuilt disk joins instead of making a second cluster", () => {
    comesUp();
    start("bootstrap");
    expect(machine.read("/etc/rancher/rke2/drover-token")).toBe(password);
    expect(machine.mode("/etc/rancher/rke2/drover-token")).toBe("600");
    expect(machine.mode("/etc/rancher/rke2/drover-agent-token")).toBe("600");
    expect(machine.read(joinFile)).toBe(`server: "https://${endpoint}:9345"\n`);
  });

  it("changes nothing the second time, and takes an uploaded kubeconfig for done", () => {
    comesUp();
    start("bootstrap");
    const before = machine.snapshot("/etc", "/var/lib/rancher");
    machine.calls();
    expect(start("bootstrap").result).toMatchObject({ ok: true, changed: false, members: 1 });
    expect(machine.snapshot("/etc", "/var/lib/rancher")).toEqual(before);
    expect(started(machine.calls())).toEqual([]);
  });

  it("restarts a member whose etcd data is on the disk, and removes none of it", () => {
    machine.write({ [wal]: "log", [joinFile]: `server: "https://${endpoint}:9345"\n` });
    comesUp();
    expect(start("bootstrap").result).toMatchObject({ ok: true, changed: true });
    expect(machine.read(wal)).toBe("log");
  });

  it("refuses a machine that was told to join: it would make a second cluster", () => {
    machine.write({ [joinFile]: 'server: "https://10.0.1.5:9345"\n' });
    expect(start("bootstrap")).toMatchObject({ status: 1, result: { code: "SplitBrain", message: expect.stringContaining("second cluster") } });
    expect(started(machine.calls())).toEqual([]);
  });

  it.each(["snapshots/etcd-snapshot-x-1", "etcd-old-1795000000/member/wal/0.wal"])(
    "refuses a disk that holds %s of a cluster: it is restored, not made anew",
    (path) => {
      machine.write({ [`/var/lib/rancher/rke2/server/db/${path}`]: "data" });
      expect(start("bootstrap").result).toMatchObject({ code: "SplitBrain", message: expect.stringContaining("/db/") });
      expect(started(machine.calls())).toEqual([]);
    },
  );

  it("takes lines about authorisation for no verdict: the first server asks nobody", () => {
    for (let count = 0; count < 9; count++) journal(machine, "rke2-server", "Sending HTTP 401 Unauthorized");
    comesUp();
    expect(start("bootstrap").result).toMatchObject({ ok: true });
  });

  it("refuses when a server answers at the endpoint already", () => {
    machine.say({ ping: "pong" });
    expect(start("bootstrap").result).toMatchObject({ code: "SplitBrain", message: expect.stringContaining(endpoint) });
    expect(started(machine.calls())).toEqual([]);
  });

  it("refuses a full token before there is a CA", () => {
    expect(start("bootstrap", {}, fullToken).result).toMatchObject({ code: "ConfigInvalid", message: expect.stringContaining("short form") });
  });

  it("fails when the kubeconfig cannot be uploaded, and only uploads when asked again", () => {
    comesUp();
    machine.answers("kubeconfig", "403");
    expect(start("bootstrap")).toMatchObject({ status: 1, result: { code: "UploadFailed", message: expect.stringContaining("HTTP 403") } });
    machine.calls();
    expect(start("bootstrap").result).toMatchObject({ ok: true });
    expect(started(machine.calls())).toEqual([]);
    expect(machine.uploaded("kubeconfig").toString()).toContain("127.0.0.1");
  });

  it("goes on after uploads that the store was too busy for", () => {
    comesUp();
    machine.answers("kubeconfig", "503", "409", "000");
    expect(start("bootstrap").result).toMatchObject({ ok: true });
  });

  it("takes no join address", () => {
    expect(start("bootstrap", { joinAddress: "10.0.1.5" })).toMatchObject({ status: 64, result: { code: "ConfigInvalid" } });
  });
});

describe("join", () => {
  it("registers with the join address, and afterwards names the endpoint without a restart", () => {
    comesUp({ others: 2 });
    expect(start("join").result).toMatchObject({ ok: true, changed: true, voter: true, members: 3, caHash });
    expect(machine.read(joinFile)).toBe(`server: "https://${endpoint}:9345"\n`);
    expect(started(machine.calls())).toEqual(["systemctl start --no-block rke2-server"]);
  });

  it("never starts without server:", () => {
    comesUp();
    machine.script("on-start", `cp "$DROVER_ROOT${joinFile}" "$WORLD/uploads/joined"`);
    start("join");
    expect(machine.uploaded("joined").toString()).toBe('server: "https://10.0.1.5:9345"\n');
    expect(machine.run("start-server", { mode: "join", pool: "server", delivery: machine.deliver([]), joinAddress: "", endpoint })).toMatchObject({
      status: 64,
      result: { code: "ConfigInvalid", message: expect.stringContaining("cluster of its own") },
    });
  });

  it("is not done while the member is a learner", () => {
    machine.say({ hurry: "50" });
    comesUp({ readyAt: 120, votesAt: 10_000 });
    const { status, result } = start("join");
    expect(status).toBe(75);
    expect(result).toMatchObject({ code: "NotReady", message: expect.stringContaining("does not vote yet") });
  });

  it("is not done while its own API server does not say ok", () => {
    machine.say({ hurry: "50" });
    comesUp();
    machine.say({ readyz: "[-]etcd failed" });
    expect(start("join").result).toMatchObject({ code: "NotReady", message: expect.stringContaining("API server does not say ok") });
  });

  it("changes nothing on a machine that is a member", () => {
    comesUp();
    start("join");
    const before = machine.snapshot("/etc", "/var/lib/rancher");
    machine.calls();
    expect(start("join").result).toMatchObject({ ok: true, changed: false });
    expect(machine.snapshot("/etc", "/var/lib/rancher")).toEqual(before);
    expect(started(machine.calls())).toEqual([]);
  });

  it("goes on waiting for a start that an earlier command made, without starting again", () => {
    machine.say({ hurry: "50" });
    machine.script("on-sleep", "exit 0");
    expect(start("join")).toMatchObject({ status: 75, result: { code: "StartTimedOut", message: expect.stringContaining("still activating") } });
    comesUp({ readyAt: 0, votesAt: 0 });
    machine.calls();
    expect(start("join").result).toMatchObject({ ok: true });
    expect(started(machine.calls())).toEqual([]);
  });

  it("starts again when the configuration of a start on its way has changed", () => {
    machine.say({ hurry: "50" });
    machine.script("on-sleep", "exit 0");
    start("join");
    comesUp({ readyAt: 0, votesAt: 0 });
    machine.calls();
    expect(start("join", { joinAddress: "10.0.1.6" }).result).toMatchObject({ ok: true });
    expect(started(machine.calls())).toEqual(["systemctl restart --no-block rke2-server"]);
  });

  it("refuses a short token, which would trust any server", () => {
    expect(start("join", {}, password).result).toMatchObject({ code: "ConfigInvalid", message: expect.stringContaining("full form") });
  });

  it("refuses a disk of another cluster", () => {
    machine.write({ "/var/lib/rancher/rke2/server/tls/server-ca.crt": caPem.replace("MIIB", "MIIC"), [wal]: "log" });
    expect(start("join").result).toMatchObject({ code: "AlreadyMember", message: expect.stringContaining("another cluster") });
    expect(machine.read(wal)).toBe("log");
    expect(started(machine.calls())).toEqual([]);
  });

  it("leaves a member its token when it refuses another cluster's: the next start needs it", () => {
    const kept = "/etc/rancher/rke2/drover-token";
    machine.write({ "/var/lib/rancher/rke2/server/tls/server-ca.crt": caPem.replace("MIIB", "MIIC"), [wal]: "log", [kept]: "its own\n" });
    expect(start("join").result).toMatchObject({ code: "AlreadyMember" });
    expect(start("join", {}, password).result).toMatchObject({ code: "ConfigInvalid" });
    expect(start("join", { joinAddress: "10.0.1.17" })).toMatchObject({ status: 64 });
    expect(machine.read(kept)).toBe("its own\n");
  });

  it("cannot join through itself", () => {
    expect(start("join", { joinAddress: "10.0.1.17" })).toMatchObject({ status: 64, result: { message: expect.stringContaining("its") } });
  });

  it("reads the CA hash from RKE2's token when the CA file holds more than one certificate", () => {
    comesUp();
    const hash = "c".repeat(64);
    machine.script(
      "on-start",
      `mkdir -p "$DROVER_ROOT/var/lib/rancher/rke2/server/tls" && echo "K10${hash}::server:${password}" >"$DROVER_ROOT/var/lib/rancher/rke2/server/token"`,
    );
    machine.script(
      "on-sleep",
      `printf '%s' '${caPem}${caPem}' >"$DROVER_ROOT/var/lib/rancher/rke2/server/tls/server-ca.crt"
echo "active 0" >"$WORLD/units/rke2-server"; echo "${node}|True|True|true|${version}" >"$WORLD/nodes"
echo "server: https://127.0.0.1:6443" >"$DROVER_ROOT/etc/rancher/rke2/rke2.yaml"`,
    );
    expect(start("join", {}, `K10${hash}::server:${password}`).result).toMatchObject({ ok: true, caHash: hash });
  });

  it("counts members by the nodes' conditions when etcd's pod cannot be asked", () => {
    comesUp({ others: 4 });
    machine.say({ "no-exec": "" });
    expect(start("join").result).toMatchObject({ ok: true, members: 1 });
  });
});

describe("a start in vain ends early, by what RKE2's log says", () => {
  it.each([
    ["token CA hash does not match the Cluster CA certificate hash: 1a != 2b", 1, "TokenRejected"],
    ["bootstrap data already found and encrypted with different token", 1, "TokenRejected"],
    ["Failed to validate connection to cluster at https://10.0.1.5:9345: not authorized", 8, "TokenRejected"],
    ["etcd cluster join failed: duplicate node name found, please use a unique name for this node", 1, "DuplicateNode"],
    ["Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match", 4, "DuplicateNode"],
    ["failed to validate server configuration: critical configuration value mismatch between servers", 1, "ConfigInvalid"],
    ["invalid value provided for --profile flag", 1, "ConfigInvalid"],
    ["missing required: user: unknown user etcd", 1, "ConfigInvalid"],
    ["listen tcp 127.0.0.1:2380: bind: address already in use", 4, "PortInUse"],
    ["pids cgroup controller not found", 1, "CgroupMissing"],
    ["invalid kernel parameter value vm.overcommit_memory=0 - expected 1", 1, "KernelParameter"],
    ["the member has been permanently removed from the cluster", 1, "AlreadyMember"],
    ["/cred/passwd newer than datastore and could cause a cluster outage", 1, "ServiceFailed"],
    ["write /var/lib/rancher: no space left on device", 3, "DiskFull"],
  ])("%s", (text, times, code) => {
    for (let count = 0; count < times; count++) journal(machine, "rke2-server", `time="2026-11-22T20:00:00Z" level=fatal msg="${text}"`);
    const { status, result } = start("join");
    expect(status).toBe(1);
    expect(result).toMatchObject({
      ok: false,
      code,
      message: expect.stringContaining(text.slice(0, 60)),
      log: expect.stringContaining("level=fatal"),
    });
    expect(started(machine.calls())).toEqual(["systemctl start --no-block rke2-server", "systemctl stop --no-block rke2-server"]);
  });

  it("waits on when what may pass by itself was seen only a few times", () => {
    journal(machine, "rke2-server", "bind: address already in use", "Node password rejected");
    comesUp();
    expect(start("join").result).toMatchObject({ ok: true });
  });

  it("reads the log since this start, not an earlier one's", () => {
    comesUp();
    start("join");
    expect(
      machine
        .calls()
        .filter((call) => call.startsWith("journalctl"))
        .every((call) => call.includes("--since=@1795000100")),
    ).toBe(true);
  });

  it("does not stop a service on whose disk etcd data lies", () => {
    machine.write({ [wal]: "log" });
    journal(machine, "rke2-server", "bootstrap data already found and encrypted with different token");
    expect(start("bootstrap").result).toMatchObject({ code: "TokenRejected" });
    expect(started(machine.calls())).toEqual(["systemctl start --no-block rke2-server"]);
  });

  it("masks tokens, passwords and addresses in the log it tells", () => {
    journal(
      machine,
      "rke2-server",
      `starting with --token ${password}`,
      `token: ${fullToken}`,
      `GET https://store.example/x?X-Amz-Signature=5f2c1d0e9b8a79685746352413021f0e`,
      "-----BEGIN EC PRIVATE KEY-----",
      "MHcCAQEEIBase64OfAKey",
      "-----END EC PRIVATE KEY-----",
      "pids cgroup controller not found",
    );
    const { result } = start("join");
    expect(result).toMatchObject({ code: "CgroupMissing", log: expect.stringContaining("<private key>") });
    expect(JSON.stringify(result)).not.toContain("Base64OfAKey");
  });

  it("tells a long log by its end, escaped, within the contract's size", () => {
    journal(
      machine,
      "rke2-server",
      ...Array.from({ length: 60 }, (_, index) => `line ${index} "quoted" \\ \u0001\u001b[0m\ttab é`),
      "pids cgroup controller not found",
    );
    const { result } = start("join");
    const { log } = result as { log: string };
    expect(log.length).toBeLessThanOrEqual(1000);
    expect(log).toContain('line 59 "quoted" \\ \u0001\u001b[0m\ttab ??');
  });
});

describe("a start that does not come", () => {
  it("says so when systemd refuses", () => {
    machine.say({ "refuses-start": "" });
    expect(start("join").result).toMatchObject({ code: "ServiceFailed", message: expect.stringContaining("refuses to start") });
  });

  it("says so when the unit stays inactive, as a skipped condition leaves it", () => {
    machine.script("on-start", 'echo "inactive 0" >"$WORLD/units/rke2-server"');
    expect(start("join").result).toMatchObject({ code: "ServiceFailed", message: expect.stringContaining("is inactive") });
  });

  it("says so when the service ends again and again for a reason unknown", () => {
    machine.script("on-sleep", 'echo "activating 20" >"$WORLD/units/rke2-server"');
    journal(machine, "rke2-server", "level=fatal msg=unheard-of");
    expect(start("join").result).toMatchObject({
      code: "ServiceFailed",
      message: expect.stringContaining("20 times"),
      log: expect.stringContaining("unheard-of"),
    });
  });

  it("ends before the document's own deadline", () => {
    machine.say({ hurry: "5" });
    machine.script("on-sleep", "exit 0");
    start("join");
    expect(Number(machine.read("/proc/uptime").split(" ")[0]) - 100).toBeLessThanOrEqual(1440 + 150);
  });

  it.each<[string, () => void, string]>([
    ["RKE2 is not installed", () => machine.remove("/usr/local/bin/rke2"), "Run prepare-node first"],
    ["config.yaml is missing", () => machine.remove("/etc/rancher/rke2/config.yaml"), "config.yaml is missing"],
    ["config.yaml sets server:", () => machine.write({ "/etc/rancher/rke2/config.yaml": "server: https://10.9.9.9:9345\n" }), "sets server:"],
    [
      "a later file sets server:",
      () => machine.write({ "/etc/rancher/rke2/config.yaml.d/99-own.yml": '"server": https://10.9.9.9:9345\n' }),
      "99-own.yml sets server:",
    ],
    [
      "a cluster reset is configured",
      () => machine.write({ "/etc/rancher/rke2/config.yaml.d/99-own.yaml": "cluster-reset: true\n" }),
      "cluster reset",
    ],
    [
      "the unit's environment overrides the configuration",
      () => machine.write({ "/etc/default/rke2-server": "RKE2_URL=https://10.9.9.9:9345\n" }),
      "RKE2_URL",
    ],
    ["the agent runs here", () => machine.say({ "units/rke2-agent": "active 0" }), "rke2-agent runs"],
  ])("refuses to start when %s", (_, arrange, text) => {
    arrange();
    expect(start("join")).toMatchObject({ status: 1, result: { code: "ConfigInvalid", message: expect.stringContaining(text) } });
    expect(started(machine.calls())).toEqual([]);
  });

  it("refuses a delivery without the tokens", () => {
    const delivery = machine.deliver([machine.put("kubeconfig")]);
    expect(machine.run("start-server", { mode: "bootstrap", pool: "server", delivery, joinAddress: "", endpoint }).result).toMatchObject({
      code: "ConfigInvalid",
      message: expect.stringContaining("drover-token"),
    });
  });
});
