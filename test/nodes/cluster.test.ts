import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { NodeCommandParameters } from "../../core/node-commands.js";
import { agentPassword, caHash, instanceId, journal, Machine, password, sha256, version } from "./machine.js";

const self = `server-${instanceId}`;
let machine: Machine;
beforeEach(() => {
  machine = new Machine();
  machine.isPrepared();
  machine.hasStarted();
});
afterEach(() => machine.end());

const member = (id: string, name: string, learner = false) => {
  const address = `https://10.0.1.${id.slice(1)}`;
  return `${id}, started, ${name}, ${address}:2380, ${address}:2379, ${learner}`;
};

/** Three servers and agents, all Ready. */
function threeServers(agents: readonly string[] = ["workers-i-00000001", "workers-i-00000002"]): void {
  machine.say({
    nodes: [
      `${self}|True|True|true|${version}`,
      `server-i-00000002|True|True|true|${version}`,
      `server-i-00000003|True|True|true|${version}`,
      ...agents.map((name) => `${name}|True|||${version}`),
    ].join("\n"),
    members: [member("a1", `${self}-0a0b0c0d`), member("a2", "server-i-00000002-1a1b1c1d"), member("a3", "server-i-00000003-2a2b2c2d")].join("\n"),
  });
}

describe("checking a cluster", () => {
  const check = () => machine.run("check-cluster", { pool: "server" });

  it("counts what this server sees", () => {
    threeServers();
    expect(check()).toMatchObject({
      status: 0,
      result: {
        ok: true,
        node: self,
        changed: false,
        clusterId: "6f1c1f6e-0c1e-4b52-9a53-0d2b6c1f7a10",
        caHash,
        apiReady: true,
        members: 3,
        voters: 3,
        serversReady: 3,
        agentsReady: 2,
        nodes: 5,
        notReady: [],
        podsPending: 0,
        version,
      },
    });
  });

  it("tells learners from voters, and pending pods and nodes that are not Ready", () => {
    threeServers();
    machine.say({
      members: [member("a1", `${self}-0a0b0c0d`), member("a2", "server-i-00000002-1a1b1c1d", true)].join("\n"),
      nodes: `${self}|True|True|true|${version}\nserver-i-00000002|False|False|true|${version}\nworkers-i-1|Unknown|||${version}`,
      pending: "pod/coredns-1\npod/traefik-2",
    });
    expect(check().result).toMatchObject({
      members: 2,
      voters: 1,
      serversReady: 1,
      agentsReady: 0,
      nodes: 3,
      notReady: ["server-i-00000002", "workers-i-1"],
      podsPending: 2,
    });
  });

  it("answers in a short line for a thousand nodes that are not Ready", () => {
    const names = Array.from({ length: 1000 }, (_, index) => `a-pool-with-quite-a-long-name-${index}-i-0123456789abcdef0`);
    machine.say({ nodes: names.map((name) => `${name}|False|||${version}`).join("\n"), members: member("a1", `${self}-0a0b0c0d`) });
    const { result } = check();
    expect(result).toMatchObject({ nodes: 1000, agentsReady: 0 });
    expect((result as { notReady: string[] }).notReady).toHaveLength(20);
  });

  it("says that the API does not answer instead of failing", () => {
    machine.say({ "api-down": "" });
    expect(check()).toMatchObject({ status: 0, result: { ok: true, apiReady: false, clusterId: "", caHash, nodes: 0 } });
  });

  it("says not yet on a machine where no server has started", () => {
    machine.remove("/etc/rancher/rke2/rke2.yaml");
    expect(check()).toMatchObject({ status: 75, result: { code: "NotReady" } });
  });

  it("changes nothing", () => {
    threeServers();
    const before = machine.snapshot("/etc", "/usr", "/var");
    check();
    expect(machine.snapshot("/etc", "/usr", "/var")).toEqual(before);
  });
});

describe("removing nodes", () => {
  const remove = (nodes: string, role: NodeCommandParameters<"remove-node">["role"] = "server") =>
    machine.run("remove-node", { pool: "server", nodes, role });
  const deletions = () => machine.calls().filter((call) => / delete | member remove /.test(call));

  it("deletes the Node, waits until etcd has let go of the member, deletes the node password", () => {
    threeServers();
    expect(remove("server-i-00000003")).toMatchObject({ status: 0, result: { ok: true, node: self, changed: true, removed: 1, members: 2 } });
    const calls = deletions();
    expect(calls[0]).toMatch(/delete node --ignore-not-found --wait=false -- server-i-00000003$/);
    expect(calls[1]).toMatch(/delete secret .*-- server-i-00000003.node-password.rke2$/);
    expect(calls).toHaveLength(2);
  });

  it("takes a name that is not there for removed, and still deletes its node password", () => {
    threeServers();
    remove("server-i-00000003");
    machine.calls();
    expect(remove("server-i-00000003").result).toMatchObject({ ok: true, changed: false, removed: 0, members: 2 });
    expect(deletions()).toEqual([expect.stringContaining("server-i-00000003.node-password.rke2")]);
  });

  it("removes a member that stayed by its id", () => {
    threeServers();
    machine.say({ "member-stays": "" });
    expect(remove("server-i-00000003").result).toMatchObject({ ok: true, removed: 1, members: 2 });
    expect(deletions().some((call) => call.endsWith("member remove a3"))).toBe(true);
  });

  it("removes the member of a server whose Node is gone already", () => {
    threeServers();
    machine.say({ nodes: `${self}|True|True|true|${version}\nserver-i-00000002|True|True|true|${version}`, "member-stays": "" });
    expect(remove("server-i-00000003").result).toMatchObject({ ok: true, removed: 1, members: 2 });
  });

  it("stops rather than break the etcd majority", () => {
    threeServers();
    // The API says that all is well: it notices a death 40 s late.
    machine.say({ unhealthy: "server-i-00000002" });
    expect(remove("server-i-00000003")).toMatchObject({
      status: 75,
      result: {
        code: "NotReady",
        message: "Removing server-i-00000003 would leave 1 healthy of 2 etcd voters, majority is 2. Repair the others first",
      },
    });
    expect(deletions()).toEqual([]);
  });

  it("removes the dead one of three, for the two others are the majority", () => {
    threeServers();
    machine.say({ unhealthy: "server-i-00000003" });
    expect(remove("server-i-00000003").result).toMatchObject({ ok: true, removed: 1 });
  });

  it("removes no server while etcd itself cannot be asked, whatever the API says of it", () => {
    threeServers();
    machine.say({ "no-exec": "" });
    expect(remove("server-i-00000003")).toMatchObject({
      status: 75,
      result: { code: "NotReady", message: expect.stringContaining("members of etcd") },
    });
    expect(deletions()).toEqual([]);
  });

  it("does not count a learner among the voters", () => {
    threeServers([]);
    machine.say({
      members: `${member("a1", `${self}-0a0b0c0d`)}\n${member("a2", "server-i-00000002-1a1b1c1d", true)}`,
      nodes: `${self}|True|True|true|${version}`,
    });
    expect(remove("server-i-00000002").result).toMatchObject({ ok: true, removed: 1 });
  });

  it("takes one server after the other, each only while the rest keep the majority", () => {
    threeServers();
    expect(remove("server-i-00000002,server-i-00000003").result).toMatchObject({ ok: true, removed: 2, members: 1 });
    expect(deletions().filter((call) => call.includes("delete node"))).toHaveLength(2);
  });

  it("removes servers that a restore brought back together, whoever is healthy: they are no members", () => {
    threeServers();
    machine.say({
      members: member("a1", `${self}-0a0b0c0d`),
      nodes: [self, "server-i-00000002", "server-i-00000003"].map((name) => `${name}|True|True|true|${version}`).join("\n"),
      unhealthy: "server-i-00000002\nserver-i-00000003",
    });
    expect(remove("server-i-00000002,server-i-00000003").result).toMatchObject({ ok: true, removed: 2, members: 1 });
    expect(deletions().filter((call) => call.includes("delete node"))).toHaveLength(1);
    expect(remove("server-i-00000002", "agent").result).toMatchObject({ ok: true, removed: 0 });
    threeServers();
    machine.say({ members: member("a1", `${self}-0a0b0c0d`) });
    expect(remove("server-i-00000002", "agent")).toMatchObject({
      status: 1,
      result: { code: "ConfigInvalid", message: expect.stringContaining("server-i-00000002 is a server, not an agent") },
    });
  });

  it("removes agents together", () => {
    threeServers();
    expect(remove("workers-i-00000001,workers-i-00000002,workers-i-00000009", "agent").result).toMatchObject({ ok: true, removed: 2, members: 3 });
    expect(deletions()).toHaveLength(2);
  });

  it("takes agents among servers, and no servers among agents", () => {
    threeServers();
    expect(remove("server-i-00000003,workers-i-00000001", "agent")).toMatchObject({
      status: 1,
      result: { code: "ConfigInvalid", message: expect.stringContaining("Nothing was removed") },
    });
    expect(deletions()).toEqual([]);
    expect(remove("server-i-00000003,workers-i-00000001", "server").result).toMatchObject({ ok: true, removed: 2 });
  });

  it("never removes the server it runs on", () => {
    threeServers();
    expect(remove(`server-i-00000003,${self}`)).toMatchObject({ status: 64, result: { code: "ConfigInvalid" } });
    expect(deletions()).toEqual([]);
  });

  it("takes no name that kubectl would read as an option", () => {
    threeServers();
    expect(remove("--all", "agent")).toMatchObject({ status: 64, result: { code: "ConfigInvalid" } });
    expect(remove(Array.from({ length: 51 }, (_, index) => `n${index}`).join(",")).status).toBe(64);
    expect(deletions()).toEqual([]);
  });

  it("says not yet when a finalizer holds a Node, and when the API does not answer", () => {
    threeServers();
    machine.say({ finalizer: "" });
    expect(remove("server-i-00000003")).toMatchObject({ status: 75, result: { code: "NotReady", message: expect.stringContaining("finalizer") } });
    machine.say({ "api-down": "" });
    expect(remove("server-i-00000003")).toMatchObject({ status: 75, result: { code: "NotReady" } });
  });
});

describe("collecting diagnostics", () => {
  const collect = () => machine.run("collect-diagnostics", { pool: "server", delivery: machine.deliver([machine.put("diagnostics")]) });

  function unpack(): Record<string, string> {
    const directory = join(machine.world, "unpacked");
    const archive = join(machine.world, "diagnostics.tar.gz");
    writeFileSync(archive, machine.uploaded("diagnostics"));
    spawnSync("mkdir", ["-p", directory]);
    expect(spawnSync("tar", ["--extract", "--gzip", `--file=${archive}`, `--directory=${directory}`]).status).toBe(0);
    const files = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    return Object.fromEntries(
      files.map((entry) => [
        join(entry.parentPath, entry.name).slice(directory.length + 1),
        readFileSync(join(entry.parentPath, entry.name), "utf8"),
      ]),
    );
  }

  it("uploads one archive with logs, states and configuration", () => {
    threeServers();
    journal(machine, "rke2-server", "level=info msg=hello");
    machine.write({
      "/var/lib/rancher/rke2/agent/logs/kubelet.log": "kubelet says\n",
      "/var/log/pods/kube-system_etcd-x_1/etcd/0.log": "etcd says\n",
      "/var/lib/rancher/rke2/agent/pod-manifests/etcd.yaml": "kind: Pod\n",
    });
    const { status, result } = collect();
    expect(status).toBe(0);
    expect(result).toMatchObject({
      ok: true,
      node: self,
      changed: false,
      bytes: machine.uploaded("diagnostics").length,
      sha256: sha256(machine.uploaded("diagnostics")),
    });
    const files = unpack();
    expect(files[`${self}/rke2/rke2-server.log`]).toContain("hello");
    expect(files[`${self}/rke2/kubelet.log`]).toBe("kubelet says\n");
    expect(files[`${self}/pods/etcd-x_1/etcd/0.log`]).toBe("etcd says\n");
    expect(files[`${self}/rke2/ca-hash.txt`]).toBe(`${caHash}\n`);
    expect(files[`${self}/config/config.yaml`]).toContain("token-file: /etc/rancher/rke2/drover-token");
    expect(Object.keys(files)).toEqual(
      expect.arrayContaining(["cluster/nodes.txt", "cluster/etcd.txt", "system/disk.txt", "system/routes.txt"].map((name) => `${self}/${name}`)),
    );
  });

  it("tells no secret of the machine, wherever it stands", () => {
    machine.write({
      "/etc/rancher/rke2/drover-token": password,
      "/etc/rancher/rke2/drover-agent-token": agentPassword,
      "/etc/rancher/rke2/config.yaml": "token: plain-and-short\nprofile: cis\netcd-s3-secret-key: abcdef\n",
      "/etc/rancher/rke2/registries.yaml": 'configs:\n  registry.example:\n    auth:\n      username: puller\n      password: "hunter2hunter2"\n',
      "/var/lib/rancher/rke2/agent/logs/kubelet.log": `Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig\nraw ${password} ${agentPassword}\naws AKIAIOSFODNN7EXAMPLE\n`,
      "/var/lib/rancher/rke2/server/cred/passwd": "cred-file-content",
      "/var/lib/rancher/rke2/server/tls/server-ca.key": "key-file-content",
    });
    journal(
      machine,
      "rke2-server",
      `joined with K10${caHash}::server:${password}`,
      "-----BEGIN RSA PRIVATE KEY-----",
      "c2VjcmV0LWtleQ==",
      "-----END RSA PRIVATE KEY-----",
      "after",
    );
    expect(collect().status).toBe(0);
    const all = Object.values(unpack()).join("\n");
    for (const secret of [
      password,
      agentPassword,
      "plain-and-short",
      "abcdef\n",
      "hunter2hunter2",
      "eyJhbGci",
      "AKIAIOSFODNN7EXAMPLE",
      "c2VjcmV0LWtleQ",
      "cred-file-content",
      "key-file-content",
    ]) {
      expect(all).not.toContain(secret);
    }
    expect(all).toContain("profile: cis");
    expect(all).toContain("after");
  });

  it("works on a machine on which nothing was installed and whose metadata does not answer", () => {
    machine.remove("/etc/rancher");
    machine.remove("/var/lib/rancher");
    machine.say({ "metadata/off": "" });
    expect(collect()).toMatchObject({ status: 0, result: { ok: true, node: "server-unknown" } });
  });

  it("leaves nothing on the machine and takes an archive that is there for uploaded", () => {
    const before = machine.snapshot("/etc", "/usr", "/var");
    collect();
    expect(machine.snapshot("/etc", "/usr", "/var")).toEqual(before);
    expect(collect()).toMatchObject({ status: 0, result: { ok: true } });
  });

  it("fails when the archive cannot be uploaded", () => {
    machine.answers("diagnostics", "403");
    expect(collect()).toMatchObject({ status: 1, result: { code: "UploadFailed", message: expect.stringContaining("HTTP 403") } });
    expect(machine.run("collect-diagnostics", { pool: "server", delivery: machine.deliver([]) }).result).toMatchObject({
      code: "UploadFailed",
      message: expect.stringContaining("no address for diagnostics"),
    });
  });
});
