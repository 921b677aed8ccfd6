/**
 * The stand-in release with real etcd. Most of it needs no machine: each node is a directory and a loopback address, its waits ten times shorter.
 */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseChecksums } from "../../core/archives.js";
import { type BuiltRelease, buildRelease } from "../../local/nodes/release/build.js";
import { agentPassword, password, releases, Site, type StandInNode, until, version } from "../release/nodes.js";
import { describeMachines } from "./machine-tests.js";

const voters = (...names: string[]) => names.map((name) => ({ name, votes: true }));
const byName = (members: readonly { readonly name: string; readonly votes: boolean }[]) => [...members].sort((a, b) => a.name.localeCompare(b.name));
const isUp = (node: StandInNode) => node.log.includes("is up and running");
async function comesUp(node: StandInNode, limitSeconds = 40): Promise<void> {
  await until(`${node.name} to be up`, limitSeconds, () => isUp(node) || node.ended !== undefined);
  expect(isUp(node), node.log).toBe(true);
}
async function ends(node: StandInNode, limitSeconds = 20): Promise<string> {
  await until(`${node.name} to end`, limitSeconds, () => node.ended !== undefined);
  return node.log;
}
async function says(node: StandInNode, text: string, times = 1): Promise<void> {
  await until(`${node.name} to say ${text}`, 20, () => node.log.split(text).length > times);
}
/** A running server; it joins when told through whom, with the full token. */
async function server(site: Site, name: string, through?: StandInNode, lines: readonly string[] = []): Promise<StandInNode> {
  const node = site.node(name);
  node.configureAs("server", { lines, ...(through && { join: through, token: through.read("server/token").trim() }) });
  node.start("server");
  await comesUp(node);
  return node;
}
const nodeLines = (node: StandInNode) =>
  node.kubectl(
    "get",
    "nodes",
    '--output=jsonpath={range .items[*]}{.metadata.name}{"|"}{.status.conditions[?(@.type=="Ready")].status}{"|"}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"|"}{.metadata.labels.node-role\\.kubernetes\\.io/control-plane}{"\\n"}{end}',
  ).stdout;

describeMachines("the stand-in release", () => {
  describe("as files", () => {
    let release: BuiltRelease;
    let folder: string;
    const file = (name: string) => readFileSync(release.files.get(name) as string);
    beforeAll(async () => {
      folder = mkdtempSync(join(tmpdir(), "drover-release-"));
      release = await buildRelease({ version, outdir: releases });
    });
    afterAll(() => rmSync(folder, { recursive: true }));

    it("has upstream's names, and a checksum file that is true of every one of them", () => {
      const sums = parseChecksums(file(`sha256sum-${release.architecture}.txt`).toString());
      expect([...sums.keys()].sort()).toEqual([...release.files.keys()].filter((name) => !name.startsWith("sha256sum")).sort());
      expect([...sums.keys()]).toContain(`rke2-images-core.linux-${release.architecture}.tar.zst`);
      for (const [name, sum] of sums) expect(createHash("sha256").update(file(name)).digest("hex"), name).toBe(sum);
    });

    it("unpacks into upstream's layout, with a command that tells its version at once and runs from a bare root", () => {
      spawnSync("tar", ["--extract", `--file=${release.files.get(`rke2.linux-${release.architecture}.tar.gz`)}`, `--directory=${folder}`]);
      const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((each) => each.isFile());
      expect(files.map((each) => join(each.parentPath, each.name).slice(folder.length + 1)).sort()).toEqual([
        "bin/rke2",
        "bin/rke2-killall.sh",
        "bin/rke2-uninstall.sh",
        "lib/systemd/system/rke2-agent.env",
        "lib/systemd/system/rke2-agent.service",
        "lib/systemd/system/rke2-server.env",
        "lib/systemd/system/rke2-server.service",
        "share/rke2/LICENSE.txt",
        "share/rke2/rke2-cis-sysctl.conf",
      ]);
      expect(spawnSync(join(folder, "bin/rke2"), ["--version"], { encoding: "utf8" }).stdout).toMatch(
        new RegExp(`^rke2 version ${version.replace("+", "\\+")} `),
      );
      const env = { PATH: "/usr/bin:/bin", RKE2_STAND_IN_ROOT: join(folder, "root") };
      expect(spawnSync(join(folder, "bin/rke2"), ["certificate", "check", "-o", "json"], { encoding: "utf8", env }).stdout).toBe(
        '{"Certificates":[]}\n',
      );
    });

    it("is built once, and again for another version", async () => {
      const again = await buildRelease({ version, outdir: releases });
      expect(again.files).toEqual(release.files);
      const next = await buildRelease({ version: "v1.36.3+rke2r1", outdir: releases });
      const command = readFileSync(next.files.get(`rke2.linux-${next.architecture}`) as string)
        .subarray(0, 400)
        .toString();
      expect(command).toContain("v1.36.3+rke2r1");
      expect(next.files.get(`rke2.linux-${next.architecture}`)).not.toBe(release.files.get(`rke2.linux-${release.architecture}`));
    });
  });

  describe("with three servers and two agents", () => {
    const site = new Site(101);
    let first: StandInNode;
    let second: StandInNode;
    let third: StandInNode;
    let agents: StandInNode[];
    let token: string;

    beforeAll(async () => {
      await site.prepare();
      first = await server(site, "server-1");
      token = first.read("server/token").trim();
      // Both at once: the second waits while the first learns.
      second = site.node("server-2");
      third = site.node("server-3");
      agents = [site.node("agent-1"), site.node("agent-2")];
      for (const node of [second, third]) node.configureAs("server", { join: first, token });
      for (const node of agents)
        node.configureAs("agent", { join: first, token: token.replace(/server:.*/, `node:${agentPassword}`), lines: ["tls-san: [a]"] });
      for (const node of [second, third]) node.start("server");
      for (const node of agents) node.start("agent");
      await Promise.all([second, third, ...agents].map((node) => comesUp(node)));
    });
    afterAll(() => site.close());

    it("is one etcd cluster with as many voters as servers, and every server says the same", () => {
      for (const node of [first, second, third]) expect(byName(node.members())).toEqual(voters("server-1", "server-2", "server-3"));
      const clusterOf = (node: StandInNode) => node.kubectl("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}").stdout;
      expect(clusterOf(first)).toMatch(/^[0-9a-f-]{36}$/);
      expect([clusterOf(second), clusterOf(third)]).toEqual([clusterOf(first), clusterOf(first)]);
      expect(second.read("server/tls/server-ca.crt")).toBe(first.read("server/tls/server-ca.crt"));
    });

    it("lets one server learn at a time: another one waits and says so", () => {
      const logs = second.log + third.log;
      expect(logs).toContain("Waiting for other members to finish joining etcd cluster: etcdserver: ");
      expect(logs).toContain("this server has not yet been promoted from learner to voting member");
      expect(first.log.match(/Promoted learner/g)).toHaveLength(2);
    });

    it("shows every node ready, the servers as voters and with their role", async () => {
      const wanted = "agent-1|True||\nagent-2|True||\nserver-1|True|True|true\nserver-2|True|True|true\nserver-3|True|True|true\n";
      await until("all nodes to be as wanted", 20, () => nodeLines(first) === wanted);
    });

    it("warns an agent of a server's key and goes on", () => {
      expect(agents[0]?.log).toContain("Unknown flag --tls-san found in config.yaml, skipping");
    });

    it("lays out upstream's files, private where they are secret", () => {
      expect(token).toMatch(/^K10[0-9a-f]{64}::server:/);
      expect(token.slice(3, 67)).toBe(createHash("sha256").update(first.read("server/tls/server-ca.crt")).digest("hex"));
      expect(first.read("server/node-token").trim()).toBe(token);
      expect(first.read("server/agent-token").trim()).toBe(token.replace(/server:.*/, `node:${agentPassword}`));
      expect(first.read("server/db/etcd/name")).toMatch(/^server-1-[0-9a-f]{8}$/);
      for (const file of ["server/db/etcd/member/wal", "server/db/etcd/config", "server/cred/passwd", "agent/pod-manifests/etcd.yaml"])
        expect(first.has(file), file).toBe(true);
      const mode = (path: string) => spawnSync("stat", ["--format=%a", path], { encoding: "utf8" }).stdout.trim();
      expect(mode(first.path("server/token"))).toBe("600");
      expect(mode(join(first.root, "etc/rancher/rke2/rke2.yaml"))).toBe("600");
      expect(readFileSync(join(first.root, "etc/rancher/rke2/rke2.yaml"), "utf8")).toContain("server: https://127.0.0.1:6443");
    });

    it("answers health checks without credentials, and nothing else", () => {
      const status = (path: string, ...args: string[]) =>
        spawnSync("curl", ["-sk", "-o", "/dev/null", "-w", "%{http_code}", ...args, `https://${first.address}:${path}`], { encoding: "utf8" }).stdout;
      expect(spawnSync("curl", ["-sk", `https://${first.address}:9345/ping`], { encoding: "utf8" }).stdout).toBe("pong");
      expect(["6443/readyz", "6443/api/v1/nodes", "9345/v1-rke2/readyz", "9345/db/info"].map((path) => status(path))).toEqual([
        "401",
        "401",
        "401",
        "401",
      ]);
      expect(status("9345/v1-rke2/readyz", "-u", `node:${agentPassword}`)).toBe("200");
      expect(status("9345/v1-rke2/server-bootstrap", "-u", `node:${agentPassword}`)).toBe("403");
      expect(status("9345/db/info", "-u", `server:${password}`)).toBe("200");
    });

    it("refuses what it does not model, by name", () => {
      expect(first.kubectl("apply", "-f", "x.yaml")).toMatchObject({ status: 1, stderr: expect.stringContaining("does not model") });
      expect(first.kubectl("get", "deployments")).toMatchObject({ status: 1, stderr: expect.stringContaining('resource type "deployments"') });
      expect(first.etcdctl("compaction", "5")).toMatchObject({ status: 1, stderr: expect.stringContaining("does not model") });
    });

    it.each([
      [
        "another CA's hash",
        (full: string) => full.replace(/^K10..../, "K10ffff"),
        "token CA hash does not match the Cluster CA certificate hash: ffff",
        1,
      ],
      ["a wrong password", (full: string) => full.replace(/server:.*/, "server:wrong"), "401 Unauthorized", 1],
      ["the agents' token", (full: string) => full.replace(/server:.*/, `node:${agentPassword}`), "not authorized", 1],
    ])("refuses a server with %s", async (_, spoil, text, status) => {
      const stranger = site.node("stranger");
      stranger.configureAs("server", { join: first, token: spoil(token) });
      stranger.start("server");
      expect(await ends(stranger)).toContain(text);
      expect(stranger.ended).toBe(status);
      expect(stranger.has("server/db/etcd")).toBe(false);
    });

    it("refuses a server whose critical values differ, naming them", async () => {
      const stranger = site.node("stranger");
      stranger.configureAs("server", { join: first, token, lines: ["cluster-cidr: 10.99.0.0/16"] });
      stranger.start("server");
      const log = await ends(stranger);
      expect(log).toContain("critical configuration mismatched: cluster-cidr");
      expect(log).toContain("failed to validate server configuration: critical configuration value mismatch between servers");
    });

    it("keeps an agent with a wrong token asking for ever", async () => {
      for (const [spoilt, text] of [
        [token.replace(/server:.*/, "node:wrong"), "401 Unauthorized"],
        [token.replace(/^K10..../, "K10ffff"), "token CA hash does not match the Cluster CA certificate hash"],
      ] as const) {
        const stranger = site.node("stranger");
        stranger.configureAs("agent", { join: first, token: spoilt });
        stranger.start("agent");
        await says(stranger, text, 3);
        expect(stranger.ended).toBeUndefined();
        await stranger.kill();
      }
    });

    it("rejects a node whose name belongs to another, until its password is deleted", async () => {
      const double = site.node("agent-1");
      double.configureAs("agent", { join: first, token });
      double.start("agent");
      await says(
        double,
        "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server node-passwd entry",
        2,
      );
      expect(double.ended).toBeUndefined();
      await double.kill();
    });

    it("rejects a server under the name of a member, once its password is out of the way", async () => {
      first.kubectl("--namespace", "kube-system", "delete", "secret", "server-3.node-password.rke2");
      const double = site.node("server-3");
      double.configureAs("server", { join: first, token });
      double.start("server");
      expect(await ends(double)).toContain("etcd cluster join failed: duplicate node name found, please use a unique name for this node");
      expect(double.ended).toBe(0);
      first.kubectl("--namespace", "kube-system", "delete", "secret", "server-3.node-password.rke2");
    });

    it("makes a second cluster of a server that is told of no other: nothing prevents it", async () => {
      const other = await server(site, "server-9");
      expect(other.log).toContain("Starting etcd for new cluster, cluster-reset=false");
      expect(other.members()).toEqual(voters("server-9"));
      expect(other.read("server/tls/server-ca.crt")).not.toBe(first.read("server/tls/server-ca.crt"));
      expect(first.members()).toHaveLength(3);
      await other.kill();
    });

    it("keeps etcd and the API server running while the service is stopped, and its data over a restart", async () => {
      first.kubectl("label", "node", "agent-1", "kept=yes");
      const before = third.pods();
      expect(before.map(({ name }) => name)).toEqual(["etcd", "kube-apiserver"]);
      await third.stop();
      expect(before.every(({ pid }) => existsSync(`/proc/${pid}`))).toBe(true);
      expect(byName(first.members())).toEqual(voters("server-1", "server-2", "server-3"));
      third.start("server");
      await comesUp(third);
      expect(third.log).toContain("Managed etcd cluster bootstrap already complete and initialized");
      expect(third.pods()).toEqual(before);
      expect(third.kubectl("get", "node", "agent-1", "-o", "jsonpath={.metadata.labels.kept}").stdout).toBe("yes");
    });

    it("starts a member again after a loss of power, and a voter is still a voter", async () => {
      await third.kill();
      await until("the others to notice", 20, () => /server-3\|(True|Unknown)\|False/.test(nodeLines(first)));
      third.start("server");
      await comesUp(third);
      expect(byName(third.members())).toEqual(voters("server-1", "server-2", "server-3"));
    });

    it("refuses a restart with another token", async () => {
      await third.stop();
      third.configureAs("server", { token: "an0therPasswordOf32Characters001" });
      third.start("server");
      expect(await ends(third)).toContain("bootstrap data already found and encrypted with different token");
      third.configureAs("server", { join: first, token });
      third.start("server");
      await comesUp(third);
    });

    it("removes the etcd member of a server whose node is deleted, which then ends and never comes back from its disk", async () => {
      expect(first.kubectl("delete", "node", "--ignore-not-found", "--wait=false", "--", "server-3").status).toBe(0);
      await until("the member to go", 20, () => first.members().length === 2);
      await until("the node to go", 20, () => !nodeLines(first).includes("server-3"));
      expect(first.kubectl("--namespace", "kube-system", "get", "secret", "server-3.node-password.rke2").status).toBe(1);
      expect(await ends(third)).toContain("the member has been permanently removed from the cluster");
      expect(third.ended).toBe(0);
      expect(third.pods()).toEqual([]);
      third.start("server");
      expect(await ends(third)).toContain(
        "the member has been permanently removed from the cluster; the data-dir used by this member must be removed",
      );
      third.configureAs("server");
      third.start("server");
      expect(await ends(third)).toContain("tombstone file has been detected but --server is empty");
    });

    it("takes the server back as a new member once its data is removed", async () => {
      rmSync(third.path("server/db"), { recursive: true });
      third.configureAs("server", { join: first, token });
      third.start("server");
      await comesUp(third);
      expect(byName(first.members())).toEqual(voters("server-1", "server-2", "server-3"));
    });

    it("keeps its agents when the server they came through is gone: they know the others", async () => {
      await until("the agents to know all servers", 20, () =>
        agents.every((agent) => agent.read("agent/etc/rke2-agent-load-balancer.json").includes(third.address)),
      );
      await first.kill();
      await until("the others to notice the loss", 40, () => /server-1\|Unknown\|/.test(nodeLines(second)));
      expect(nodeLines(second)).toContain("agent-1|True||\nagent-2|True||\n");
      const [agent] = agents as [StandInNode];
      await agent.stop();
      agent.start("agent");
      await comesUp(agent);
      expect(second.kubectl("delete", "node", "server-1", "--wait=false").status).toBe(0);
      await until("the dead member to go", 20, () => second.members().length === 2);
    });
  });

  describe("with snapshots", () => {
    const site = new Site(102);
    let first: StandInNode;
    let second: StandInNode;
    let snapshot: string;
    const path = () => `/var/lib/rancher/rke2/server/db/snapshots/${snapshot}`;
    const resetWith = (...flags: string[]) => first.run("server", "--cluster-reset", ...flags);
    const success = "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now.";
    const label = (name: string) => first.kubectl("get", "node", "server-1", "-o", `jsonpath={.metadata.labels.${name}}`).stdout;

    beforeAll(async () => {
      await site.prepare();
      first = await server(site, "server-1");
      second = await server(site, "server-2", first);
    });
    afterAll(() => site.close());

    it("saves etcd's own snapshot file: named by node and second, private, whole by its last 32 bytes", () => {
      first.kubectl("label", "node", "server-1", "before=yes");
      const { status, stderr } = first.run("etcd-snapshot", "save", "--name", "nightly");
      expect(status).toBe(0);
      snapshot = /Snapshot (\S+) saved\./.exec(stderr)?.[1] as string;
      expect(snapshot).toMatch(/^nightly-server-1-\d{10}$/);
      const content = readFileSync(first.path(`server/db/snapshots/${snapshot}`));
      expect(content.length % 512).toBe(32);
      expect(createHash("sha256").update(content.subarray(0, -32)).digest().equals(content.subarray(-32))).toBe(true);
    });

    it("lists it as JSON and in the API, with the hash of the token that opens it", () => {
      const list = JSON.parse(first.run("etcd-snapshot", "ls", "-o", "json").stdout) as {
        items: { spec: object; status: { readyToUse: boolean } }[];
      };
      expect(list.items).toMatchObject([
        { spec: { snapshotName: snapshot, nodeName: "server-1", location: `file://${path()}` }, status: { readyToUse: true } },
      ]);
      const [object] = (
        JSON.parse(first.kubectl("get", "etcdsnapshotfiles", "-o", "json").stdout) as { items: [{ metadata: { annotations: object } }] }
      ).items;
      expect(object.metadata.annotations).toEqual({
        "etcd.rke2.cattle.io/snapshot-token-hash": createHash("sha256").update(password).digest("hex").slice(0, 12),
      });
    });

    it("deletes and prunes by name, and only warns of one that is not there", async () => {
      for (let count = 0; count < 2; count++) {
        first.run("etcd-snapshot", "save", "--name", "old");
        await new Promise((resolve) => setTimeout(resolve, 1100));
      }
      expect(first.run("etcd-snapshot", "prune", "--name", "old", "--snapshot-retention", "1").stderr).toMatch(/Snapshot old-server-1-\d+ deleted/);
      const [left] = readdirSync(first.path("server/db/snapshots")).filter((name) => name.startsWith("old-"));
      expect(first.run("etcd-snapshot", "delete", left as string, "absent").stderr).toMatch(
        /deleted\.[\s\S]*level=warning msg="Snapshot absent not found\."/,
      );
      expect(readdirSync(first.path("server/db/snapshots"))).toEqual([snapshot]);
    });

    it("refuses a spoilt snapshot, a directory, and the wrong token, and leaves the data", async () => {
      first.kubectl("label", "node", "server-1", "after=yes");
      await Promise.all([first.stop(), second.stop()]);
      await second.kill();
      const spoilt = join(first.path("server/db/snapshots"), "spoilt");
      const content = readFileSync(first.path(`server/db/snapshots/${snapshot}`));
      content[4000] = (content[4000] as number) ^ 1;
      writeFileSync(spoilt, content);
      expect(resetWith(`--cluster-reset-restore-path=${path().replace(snapshot, "spoilt")}`)).toMatchObject({
        status: 1,
        stderr: expect.stringContaining("does not match its content"),
      });
      rmSync(spoilt);
      mkdirSync(first.path("server/db/snapshots/folder"));
      expect(resetWith(`--cluster-reset-restore-path=${path().replace(snapshot, "folder")}`).stderr).toContain(
        "etcd: snapshot path must be a file, not a directory",
      );
      rmSync(first.path("server/db/snapshots/folder"), { recursive: true });
      expect(first.has("server/db/etcd/member/wal")).toBe(true);
    });

    it("restores it: one member again, what came later is gone, revisions go on, the old data is kept beside", async () => {
      const { status, stderr } = resetWith(`--cluster-reset-restore-path=${path()}`);
      expect(status).toBe(0);
      expect(stderr).toContain(`level=error msg="Shutdown request received: ${success}`);
      expect(readdirSync(first.path("server/db")).some((name) => name.startsWith("etcd-old-"))).toBe(true);
      expect(first.has("server/db/reset-flag")).toBe(true);
      first.start("server");
      await comesUp(first);
      expect(first.has("server/db/reset-flag")).toBe(false);
      expect(first.members()).toEqual(voters("server-1"));
      expect([label("before"), label("after")]).toEqual(["yes", ""]);
      const version = Number(first.kubectl("get", "node", "server-1", "-o", "jsonpath={.metadata.resourceVersion}").stdout);
      expect(version).toBeGreaterThan(10);
    });

    it("takes the other servers back once their data is wiped", async () => {
      second.start("server");
      await until("the old member to fail", 5, () => second.ended !== undefined).catch(() => undefined);
      expect(isUp(second)).toBe(false);
      await second.kill();
      rmSync(second.path("server/db"), { recursive: true });
      second.start("server");
      await comesUp(second);
      expect(byName(first.members())).toEqual(voters("server-1", "server-2"));
      // With all that the snapshot has, which was never in the log that a new member reads.
      const hash = (node: StandInNode, revision: string) =>
        /"hash":(\d+)/.exec(node.etcdctl("endpoint", "hashkv", `--rev=${revision}`, "--write-out=json").stdout)?.[1];
      const revision = /"revision":(\d+)/.exec(second.etcdctl("endpoint", "status", "--write-out=json").stdout)?.[1] as string;
      expect(hash(second, revision)).toMatch(/^\d+$/);
      expect(hash(second, revision)).toBe(hash(first, revision));
    });

    it("resets to one member without a snapshot, once: the flag of the last reset stands in the way", async () => {
      await first.stop();
      await second.stop();
      await second.kill();
      expect(resetWith()).toMatchObject({ status: 0, stderr: expect.stringContaining(success) });
      expect(resetWith()).toMatchObject({ status: 1, stderr: expect.stringContaining("Managed etcd cluster membership was previously reset") });
      first.start("server");
      await comesUp(first);
      expect(first.members()).toEqual(voters("server-1"));
    });

    it("opens a snapshot on a new machine with its token alone, and with no other", async () => {
      const fresh = site.node("server-8");
      fresh.configure(["node-name: server-8", `node-ip: ${fresh.address}`]);
      mkdirSync(fresh.path("server/db/snapshots"), { recursive: true });
      writeFileSync(fresh.path(`server/db/snapshots/${snapshot}`), readFileSync(first.path(`server/db/snapshots/${snapshot}`)));
      const restore = (...flags: string[]) => fresh.run("server", "--cluster-reset", `--cluster-reset-restore-path=${path()}`, ...flags);
      expect(restore().stderr).toContain("/var/lib/rancher/rke2/server/token does not exist, please pass --token to complete the restoration");
      expect(restore("--token=wrong")).toMatchObject({
        status: 1,
        stderr: expect.stringContaining("bootstrap data already found and encrypted with different token"),
      });
      expect(restore(`--token=${password}`)).toMatchObject({ status: 0, stderr: expect.stringContaining(success) });
      expect(fresh.read("server/tls/server-ca.crt")).toBe(first.read("server/tls/server-ca.crt"));
    });
  });

  describe("with rotated secrets", () => {
    const site = new Site(103);
    let first: StandInNode;
    beforeAll(async () => {
      await site.prepare();
      first = await server(site, "server-1");
    });
    afterAll(() => site.close());

    it("rotates the server token: the old one no longer starts the server, the new one does", async () => {
      const next = "n3wPasswordOf32Characters0000001";
      expect(first.run("token", "rotate", "--token", "wrong", "--new-token", next).status).toBe(1);
      expect(first.run("token", "rotate", "--new-token", next).stderr).toContain("Token rotated, restart rke2 nodes with new token");
      expect(first.read("server/token")).toContain(`::server:${next}`);
      await first.stop();
      first.start("server");
      expect(await ends(first)).toContain("encrypted with different token");
      first.configureAs("server", { token: next });
      first.start("server");
      await comesUp(first);
    });

    it("rotates certificates while it is stopped: new ones at the next start, a copy of the old beside", async () => {
      const before = first.read("server/tls/client-admin.crt");
      await first.stop();
      expect(first.run("certificate", "rotate").status).toBe(0);
      first.start("server");
      await comesUp(first);
      expect(first.read("server/tls/client-admin.crt")).not.toBe(before);
      expect(readdirSync(first.path("server")).some((name) => /^tls-\d+$/.test(name))).toBe(true);
      const { Certificates } = JSON.parse(first.run("certificate", "check", "-o", "json").stdout) as { Certificates: { Status: string }[] };
      expect(Certificates.length).toBeGreaterThan(10);
      expect(new Set(Certificates.map(({ Status }) => Status))).toEqual(new Set(["OK"]));
      expect(first.kubectl("get", "nodes", "-o", "name").stdout).toBe("node/server-1\n");
    });

    it("rotates the encryption keys: finished stage, another active key, matching hashes", () => {
      const status = () =>
        JSON.parse(first.run("secrets-encrypt", "status", "-o", "json").stdout) as { stage: string; activekey: string; hashmatch: boolean };
      const before = status();
      expect(before).toMatchObject({ stage: "start", hashmatch: true });
      expect(first.run("secrets-encrypt", "rotate-keys").status).toBe(0);
      expect(status()).toMatchObject({ stage: "reencrypt_finished", hashmatch: true });
      expect(status().activekey).not.toBe(before.activekey);
    });

    it("starts again when it was killed before it had stored its shared files", async () => {
      const half = site.node("server-2");
      half.configureAs("server");
      half.start("server");
      await says(half, "Starting etcd for new cluster");
      await until("etcd data", 10, () => half.has("server/db/etcd/member/wal"));
      await half.kill();
      half.start("server");
      await comesUp(half);
      expect(half.members()).toEqual(voters("server-2"));
    });

    it("says which port is taken", async () => {
      const other = site.node("server-3", first.address);
      other.configureAs("server");
      other.start("server");
      expect(await ends(other)).toContain("listen tcp 0.0.0.0:9345: bind: address already in use");
    });

    it("does not start etcd without its image, and says so", async () => {
      const bare = site.node("server-4");
      rmSync(bare.path("agent/images"), { recursive: true });
      bare.configureAs("server");
      bare.start("server");
      expect(await ends(bare)).toContain("failed to get runtime image docker.io/rancher/rke2-runtime:v1.35.7-rke2r1");
    });
  });
});
