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

function start(token = `K10${caHash}::node:${agentPassword}`, joins = `${instanceId}:10.0.1.5`) {
  machine.store("token", token);
  const delivery = machine.deliver([machine.get("token", "/etc/rancher/rke2/drover-token")]);
  return machine.run("start-agent", { pool: "workers", delivery, joins, endpoint });
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
  it("registers with the server that is named for it, waits until its kubelet is Ready, and then names the endpoint", () => {
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
    expect(start(undefined, `${instanceId}:10.0.1.6`).result).toMatchObject({ ok: true, changed: false });
    expect(machine.snapshot("/etc", "/var/lib/rancher")).toEqual(before);
    expect(machine.calls().filter((call) => /^systemctl (start|restart)/.test(call))).toEqual([]);
  });

  describe("told which server each node of its group joins through", () => {
    const other = (last: number) => `i-0a1b2c3d4e5f6070${last}`;
    const joins = [`${other(1)}:10.0.1.5`, `${instanceId}:10.0.1.6`, `${other(2)}:10.0.1.5`, `${other(3)}:10.0.1.7`, `${other(4)}:10.0.1.6`].join(
      ",",
    );
    /** The server it was started against, and those it asked before. */
    const choice = () => {
      machine.script("on-start", `cp "$DROVER_ROOT${joinFile}" "$WORLD/uploads/joined"`);
      journal(machine, "rke2-agent", "token CA hash does not match the Cluster CA certificate hash");
      start(undefined, joins);
      const asked = machine.calls().flatMap((call) => /^ping (.*)$/.exec(call)?.[1] ?? []);
      return { asked, joined: /^server: "https:\/\/(.*):9345"\n$/.exec(machine.uploaded("joined").toString())?.[1] as string };
    };

    it("takes its own, and asks no other while that answers", () => {
      machine.say({ ping: "pong" });
      expect(choice()).toEqual({ asked: ["10.0.1.6"], joined: "10.0.1.6" });
    });

    it.each([
      ["10.0.1.5", ["10.0.1.6", "10.0.1.5"]],
      ["10.0.1.7", ["10.0.1.6", "10.0.1.5", "10.0.1.7"]],
    ])("goes on to the others' when its own does not answer, each once: %s alone does", (only, asked) => {
      machine.say({ [`ping-${only}`]: "pong" });
      expect(choice()).toEqual({ asked, joined: only });
    });

    it("goes on when what answers is no supervisor", () => {
      machine.say({ ping: "pong", "ping-10.0.1.6": "<html>not here</html>" });
      expect(choice()).toEqual({ asked: ["10.0.1.6", "10.0.1.5"], joined: "10.0.1.5" });
    });

    it("keeps to its own when none answers: the service asks that one again", () => {
      expect(choice()).toEqual({ asked: ["10.0.1.6", "10.0.1.5", "10.0.1.7"], joined: "10.0.1.6" });
      expect(machine.read(joinFile)).toBe('server: "https://10.0.1.6:9345"\n');
    });

    it("asks none of them once it runs", () => {
      machine.say({ ping: "pong" });
      comesUp();
      start(undefined, joins);
      machine.calls();
      expect(start(undefined, joins).result).toMatchObject({ ok: true, changed: false });
      expect(machine.calls().filter((call) => call.startsWith("ping"))).toEqual([]);
    });

    it.each([other(1), instanceId.slice(0, -1)])("refuses a list that names a server for %s, and none for itself", (id) => {
      expect(start(undefined, `${id}:10.0.1.5`)).toMatchObject({
        status: 64,
        result: { code: "ConfigInvalid", message: `joins names no server for ${instanceId}` },
      });
      expect(machine.has(joinFile)).toBe(false);
    });

    it.each([
      "",
      "10.0.1.5",
      `${instanceId}:`,
      `${instanceId}:10.0.1.5,`,
      `${instanceId}:10.0.1.5 ${other(1)}:10.0.1.6`,
      `${instanceId}:server-2`,
      Array(51).fill(`${instanceId}:10.0.1.5`).join(","),
    ])("refuses a list that is none of one to fifty servers by instance: '%s'", (list) => {
      expect(start(undefined, list)).toMatchObject({ status: 64, result: { code: "ConfigInvalid" } });
    });
  });

  describe("running already, and not Ready", () => {
    const acts = () => machine.calls().filter((call) => /^systemctl (start|stop|restart)/.test(call));
    /** All servers it knows are gone: only a start with another one helps. */
    function isStranded(): void {
      comesUp();
      start();
      machine.say({ nodes: "" });
      machine.calls();
      machine.script(
        "on-start",
        `cp "$DROVER_ROOT${joinFile}" "$WORLD/uploads/joined"; echo "active 0" >"$WORLD/units/rke2-agent"; echo "${node}|True|||${version}" >"$WORLD/nodes"`,
      );
      machine.script("on-sleep", "exit 0");
    }

    it("is started anew against the server that is named for it and answers", () => {
      isStranded();
      machine.say({ "ping-10.0.1.9": "pong" });
      expect(start(undefined, `${instanceId}:10.0.1.9`).result).toMatchObject({ ok: true, changed: true });
      expect(acts()).toEqual(["systemctl stop rke2-agent", "systemctl start --no-block rke2-agent"]);
      expect(machine.uploaded("joined").toString()).toBe('server: "https://10.0.1.9:9345"\n');
      expect(machine.read(joinFile)).toBe(`server: "https://${endpoint}:9345"\n`);
    });

    it("is left as it is while no server answers: its pods would lose their kubelet", () => {
      isStranded();
      machine.say({ hurry: "50" });
      expect(start(undefined, `${instanceId}:10.0.1.9`)).toMatchObject({ status: 75, result: { code: "NotReady" } });
      expect(acts()).toEqual([]);
    });

    it("is left as it is when it becomes Ready by itself soon enough", () => {
      isStranded();
      machine.say({ ping: "pong" });
      machine.script("on-sleep", `echo "${node}|True|||${version}" >"$WORLD/nodes"`);
      expect(start(undefined, `${instanceId}:10.0.1.9`).result).toMatchObject({ ok: true, changed: false });
      expect(acts()).toEqual([]);
    });
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
    expect(machine.run("start-agent", { pool: "workers", delivery, joins: `${instanceId}:10.0.1.5`, endpoint }).result).toMatchObject({
      code: "ConfigInvalid",
    });
  });
});
