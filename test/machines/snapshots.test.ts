/** Snapshots and restores on machines, by the very documents that nodes get, over real etcd: what is written comes back, to the key. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, it } from "vitest";
import {
  type DeliveryEntry,
  deliveryLine,
  type NodeCommandName,
  type NodeCommandParameters,
  type NodeCommandResult,
  nodeCommands,
  nodeFailureSchema,
} from "../../core/node-commands.js";
import { tokenHash } from "../../core/snapshots.js";
import type { Machine } from "../../local/nodes/contract.js";
import { type BuiltRelease, buildRelease } from "../../local/nodes/release/build.js";
import { buildDocuments } from "../../nodes/documents.js";
import { agentPassword, password, releases, version } from "../release/nodes.js";
import { bucket, type MachineBench, machineBench } from "./bench.js";
import { describeMachines } from "./machine-tests.js";
import { testKeys } from "./test-keys.js";

const documents = buildDocuments();
const endpoint = "drv-prod-1a2b3c4d.elb.eu-central-1.amazonaws.com";
const id = "20260105T020000Z-1a2b3c4d";
const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");

describeMachines("snapshots and restores on machines", () => {
  let bench: MachineBench;
  let release: BuiltRelease;
  let servers: readonly [Machine, Machine, Machine];
  let caHash = "";
  let saved: NodeCommandResult<"save-snapshot">;
  let stored: Buffer;
  let files = 0;

  async function attempt<N extends NodeCommandName>(machine: Machine, command: N, parameters: NodeCommandParameters<N>) {
    const { stdout, stderr } = await bench.document(machine, documents[command].content, parameters as Record<string, string>);
    const line = JSON.parse(stdout.split("\n")[0] ?? "") as { readonly ok: boolean };
    for (const secret of [password, agentPassword]) expect(stdout + stderr).not.toContain(secret);
    return { line, stderr };
  }
  async function run<N extends NodeCommandName>(machine: Machine, command: N, parameters: NodeCommandParameters<N>): Promise<NodeCommandResult<N>> {
    const { line, stderr } = await attempt(machine, command, parameters);
    expect(line, stderr).toMatchObject({ ok: true });
    return nodeCommands[command].result.parse(line) as NodeCommandResult<N>;
  }
  async function refused<N extends NodeCommandName>(machine: Machine, command: N, parameters: NodeCommandParameters<N>) {
    return nodeFailureSchema.parse((await attempt(machine, command, parameters)).line);
  }

  const give = async (target: string, content: Uint8Array | string): Promise<DeliveryEntry> => {
    const key = `files/${++files}`;
    bench.s3.put(bucket, key, content);
    return { kind: "get", sha256: sha256(Buffer.from(content)), mode: "0600", target, url: await bench.presigned("GET", key) };
  };
  const take = async (name: string, key: string): Promise<DeliveryEntry> => ({
    kind: "put",
    name,
    url: await bench.presigned("PUT", key),
    headers: { "if-none-match": "*" },
  });
  const deliver = async (entries: readonly DeliveryEntry[]): Promise<string> => {
    const key = `lists/${++files}`;
    bench.s3.put(bucket, key, entries.map((entry) => `${deliveryLine(entry)}\n`).join(""));
    return bench.presigned("GET", key);
  };
  const tokens = async (form: "short" | "full") => [
    await give("/etc/rancher/rke2/drover-token", `${form === "short" ? password : `K10${caHash}::server:${password}`}\n`),
    await give("/etc/rancher/rke2/drover-agent-token", `${agentPassword}\n`),
  ];

  async function prepared(zone: "a" | "b" | "c"): Promise<Machine> {
    const machine = await bench.boot(zone, { rootVolumeGib: 8 });
    const wanted = [...release.files].filter(
      ([name]) => /^(rke2\.linux-.*\.tar\.gz|rke2-images-core\..*|sha256sum-.*)$/.test(name) && !name.endsWith(".txt"),
    );
    const sums = `sha256sum-${release.architecture}.txt`;
    const entries: DeliveryEntry[] = [];
    for (const [name, path] of [...wanted, [sums, release.files.get(sums) as string] as const]) {
      bench.s3.put(bucket, `release/${name}`, readFileSync(path));
      const target = name.startsWith("rke2-images") ? `/var/lib/rancher/rke2/agent/images/${name}` : `/var/lib/drover/staging/${name}`;
      entries.push({ kind: "get", sha256: undefined, mode: "0644", target, url: await bench.presigned("GET", `release/${name}`) });
    }
    const config = ["token-file: /etc/rancher/rke2/drover-token", "agent-token-file: /etc/rancher/rke2/drover-agent-token", "cni: [canal]", ""];
    entries.push(await give("/etc/rancher/rke2/config.yaml", config.join("\n")));
    const delivery = await deliver(entries);
    await run(machine, "prepare-node", { role: "server", pool: "server", delivery, version, profile: "none", selinux: "false" });
    return machine;
  }
  const join = async (machine: Machine, through: Machine) =>
    run(machine, "start-server", {
      mode: "join",
      pool: "server",
      delivery: await deliver(await tokens("full")),
      joinAddress: through.address,
      endpoint,
    });
  const stop = (machine: Machine) => run(machine, "stop-server", { pool: "server", restore: "restore-1" });
  const restoreParameters = async (restore: string, body: Uint8Array | undefined): Promise<NodeCommandParameters<"restore-snapshot">> => ({
    mode: body === undefined ? "survivor" : "snapshot",
    pool: "server",
    restore,
    delivery: await deliver([...(await tokens("full")), ...(body === undefined ? [] : [await give(`/var/lib/drover/snapshots/${id}`, body)])]),
    endpoint,
    revision: body === undefined ? "0" : String(saved.revision),
  });

  const keysOf = (machine: Machine) => testKeys((script) => bench.sh(machine, script));
  const write = (machine: Machine, from: number, count: number) => keysOf(machine).write(from, count);
  const written = (machine: Machine) => keysOf(machine).written();

  beforeAll(async () => {
    bench = await machineBench();
    release = await buildRelease({ version, outdir: releases });
    servers = [await prepared("a"), await prepared("b"), await prepared("c")];
    const [first, second, third] = servers;
    const delivery = await deliver([...(await tokens("short")), await take("kubeconfig", "kubeconfig")]);
    ({ caHash } = await run(first, "start-server", { mode: "bootstrap", pool: "server", delivery, joinAddress: "", endpoint }));
    await join(second, first);
    await join(third, first);
  });
  afterAll(() => bench.close());

  it("saves what is in etcd, once, and sends it by an address that can only create it", async () => {
    const [first, second, third] = servers;
    await write(first, 0, 1000);
    saved = await run(third, "save-snapshot", { pool: "server", snapshot: id });
    expect(saved).toMatchObject({ changed: true, parts: [], tokenHash: tokenHash(password), version });
    expect([...saved.members].sort()).toEqual([first, second, third].map(({ instanceId }) => `server-${instanceId}`).sort());
    expect(saved.members).toContain(saved.leader);
    expect(saved.keys).toBeGreaterThan(1000);
    expect(saved.bytes % 512).toBe(32);
    expect(await run(third, "save-snapshot", { pool: "server", snapshot: id })).toEqual({ ...saved, changed: false });

    // As a part, which is streamed with curl rather than sent as a file.
    const delivery = await deliver([await take("part-1", "snapshot")]);
    expect(await run(third, "upload-snapshot", { pool: "server", snapshot: id, delivery })).toMatchObject({ bytes: saved.bytes, uploads: 1 });
    stored = bench.s3.read(bucket, "snapshot") as Buffer;
    expect([stored.length, sha256(stored)]).toEqual([saved.bytes, saved.sha256]);
    expect(stored.includes(password)).toBe(false);
    expect(await bench.sh(third, "ls /var/lib/drover/snapshots")).toBe(`${id}.sent\n${id}.state`);
    const other = "20260105T030000Z-1a2b3c4d";
    const again = await run(second, "save-snapshot", { pool: "server", snapshot: other });
    expect(again.revision).toBeGreaterThanOrEqual(saved.revision);
    const whole = await deliver([await take("snapshot", "snapshot-whole")]);
    await run(second, "upload-snapshot", { pool: "server", snapshot: other, delivery: whole });
    expect(sha256(bench.s3.read(bucket, "snapshot-whole") as Buffer)).toBe(again.sha256);
  });

  it("restores in place: 200 later keys are gone, the 1,000 are there, and every server votes again", async () => {
    const [first, second, third] = servers;
    await write(first, 1000, 200);
    expect(await written(second)).toBe(1200);
    const spoilt = Buffer.from(stored);
    spoilt[9000] = (spoilt[9000] as number) ^ 1;
    expect(await refused(second, "restore-snapshot", await restoreParameters("restore-0", spoilt))).toMatchObject({ code: "SnapshotInvalid" });
    expect(await written(second)).toBe(1200);

    for (const server of servers) await stop(server);
    expect((await stop(first)).changed).toBe(false);
    const result = await run(second, "restore-snapshot", await restoreParameters("restore-1", stored));
    expect(result).toMatchObject({
      members: 1,
      caHash,
      clusterId: saved.clusterId,
      revision: saved.revision,
      keys: saved.keys,
      hash: saved.hash,
      compactRevision: saved.compactRevision,
    });
    expect(await run(second, "restore-snapshot", await restoreParameters("restore-1", stored))).toEqual({ ...result, changed: false });
    expect(await written(second)).toBe(1000);
    for (const [members, server] of [
      [2, first],
      [3, third],
    ] as const) {
      const delivery = await deliver(await tokens("full"));
      const parameters = { pool: "server", restore: "restore-1", delivery, joinAddress: second.address, endpoint };
      expect(await run(server, "rejoin-server", parameters)).toMatchObject({ members, voter: true, caHash });
      expect((await run(server, "rejoin-server", parameters)).changed).toBe(false);
      expect(await written(server)).toBe(1000);
    }
  });

  it("restores onto a new machine when all three are destroyed: exactly the 1,000", async () => {
    const [first] = servers;
    await write(first, 1000, 200);
    for (const { instanceId } of servers) bench.driver.halt(instanceId);
    const fresh = await prepared("a");
    const result = await run(fresh, "restore-snapshot", await restoreParameters("restore-2", stored));
    expect(result).toMatchObject({ members: 1, caHash, clusterId: saved.clusterId, keys: saved.keys, hash: saved.hash });
    expect(result.nodes).toEqual(expect.arrayContaining(servers.map(({ instanceId }) => `server-${instanceId}`)));
    expect(await written(fresh)).toBe(1000);

    // And from the survivor alone, when the majority is lost again.
    const second = await prepared("b");
    await join(second, fresh);
    await write(second, 1000, 50);
    bench.driver.halt(fresh.instanceId);
    expect(await run(second, "restore-snapshot", await restoreParameters("restore-3", undefined))).toMatchObject({ members: 1, caHash });
    expect(await written(second)).toBe(1050);
    const stale = servers.map(({ instanceId }) => `server-${instanceId}`).join(",");
    expect(await run(second, "remove-node", { pool: "server", nodes: stale, role: "server" })).toMatchObject({ removed: 3, members: 1 });
  });
});
