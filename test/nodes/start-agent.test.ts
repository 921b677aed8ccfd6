import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { agentPassword, caHash, instanceId, journal, Machine, version } from "./machine.js";

const node = `workers-${instanceId}`;
const endpoint = "drv-prod-1a2b3c4d.elb.eu-central-1.amazonaws.com";
const joinFile = "/etc/rancher/rke2/config.yaml.d/20-drover-join.yaml";

let machine: Machine;
beforeEach(() => {
  machine = new Machine();
  machine.isPrepared("workers");
  machine.hasKubectl();
});
afterEach(() => machine.end());

function start(token = `K10${caHash}::node:${agentPassword}`, joinAddress = "10.0.1.5") {
  machine.store("token", token);
  const delivery = machine.deliver([machine.get("token", "/etc/rancher/rke2/drover-token")]);
  return machine.run("start-agent", { pool: "workers", delivery, joinAddress, endpoint });
}

function comesUp(readyAt = 130): void {
  machine.script("on-start", `cp "$DROVER_ROOT${joinFile}" "$WORLD/uploads/joined"`);
  machine.script(
    "on-sleep",
    `if (($1 < 110)); then exit 0; fi
echo "active 0" >"$WORLD/units/rke2-agent"
mkdir -p "$DROVER_ROOT/var/lib/rancher/rke2/agent" && touch "$DROVER_ROOT/var/lib/rancher/rke2/agent/kubelet.kubeconfig"
if (($1 >= ${readyAt})); then ready=True; else ready=False; fi
echo "${node}|$ready|||${version}" >"$WORLD/nodes"`,
  );
}

describe("starting an agent", () => {
  it("registers with the join address, waits until its kubelet is Ready, and then names the endpoint", () => {
    comesUp();
    expect(start()).toMatchObject({ status: 0, result: { ok: true, node, changed: true, version } });
    expect(machine.uploaded("joined").toString()).toBe('server: "https://10.0.1.5:9345"\n');
    expect(machine.read(joinFile)).toBe(`server: "https://${endpoint}:9345"\n`);
    expect(machine.mode("/etc/rancher/rke2/drover-token")).toBe("600");
    expect(machine.calls()).toContain("systemctl start --no-block rke2-agent");
  });

  it("changes nothing the second time, whatever server it is told", () => {
    comesUp();
    start();
    const before = machine.snapshot("/etc", "/var/lib/rancher");
    machine.calls();
    expect(start(undefined, "10.0.1.6").result).toMatchObject({ ok: true, changed: false });
    expect(machine.snapshot("/etc", "/var/lib/rancher")).toEqual(before);
    expect(machine.calls().filter((call) => /^systemctl (start|restart)/.test(call))).toEqual([]);
  });

  it("asks as its own kubelet: an agent has no administrator's kubeconfig", () => {
    comesUp();
    start();
    const asked = machine.calls().filter((call) => call.startsWith("kubectl"));
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.every((call) => call.includes("/agent/kubelet.kubeconfig"))).toBe(true);
  });

  it("is not done while the kubelet is not Ready", () => {
    machine.say({ hurry: "50" });
    comesUp(10_000);
    expect(start()).toMatchObject({ status: 75, result: { code: "NotReady", message: expect.stringContaining("the node is not Ready") } });
  });

  it("ends before the deadline when no server answers, for the unit itself never would", () => {
    machine.say({ hurry: "5" });
    machine.script("on-sleep", "exit 0");
    journal(machine, "rke2-agent", "Waiting to retrieve agent configuration; server is not ready: connection refused");
    expect(start()).toMatchObject({ status: 75, result: { code: "StartTimedOut", log: expect.stringContaining("connection refused") } });
    expect(Number(machine.read("/proc/uptime").split(" ")[0]) - 100).toBeLessThanOrEqual(840 + 150);
  });

  it.each([
    ["token CA hash does not match the Cluster CA certificate hash", 1, "TokenRejected"],
    ["https://10.0.1.5:9345/v1-rke2/serving-kubelet.crt: 401 Unauthorized", 8, "TokenRejected"],
    ["Node password rejected, duplicate hostname", 4, "DuplicateNode"],
  ])("ends early on: %s", (text, times, code) => {
    for (let count = 0; count < times; count++) journal(machine, "rke2-agent", text);
    expect(start()).toMatchObject({ status: 1, result: { code } });
    expect(machine.calls()).toContain("systemctl stop --no-block rke2-agent");
  });

  it("refuses a short token, which would trust any server", () => {
    expect(start(agentPassword)).toMatchObject({ status: 1, result: { code: "ConfigInvalid", message: expect.stringContaining("full form") } });
  });

  it("refuses a machine on which a server runs", () => {
    machine.say({ "units/rke2-server": "active 0" });
    expect(start().result).toMatchObject({ code: "ConfigInvalid", message: expect.stringContaining("rke2-server runs") });
  });

  it("refuses a delivery without the token", () => {
    const delivery = machine.deliver([]);
    expect(machine.run("start-agent", { pool: "workers", delivery, joinAddress: "10.0.1.5", endpoint }).result).toMatchObject({
      code: "ConfigInvalid",
    });
  });
});
