import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { type DemoReport, demo } from "../../local/demo.js";
import { leftovers, tracesOf } from "../../local/nodes/machines/traces.js";
import { until } from "./bench.js";
import { describeMachines } from "./machine-tests.js";

describeMachines("the demo on machines", () => {
  it("shows a cluster of real etcd from the request until nothing is left of it", async () => {
    let text = "";
    const report: DemoReport = await demo({ nodes: "machines", outdir: "cdk.out", write: (part) => (text += part) });
    expect(report, text).toMatchObject({ outcome: "ready and gone", nodeKind: "machines", file: "examples/machines.yaml" });
    expect(report).not.toHaveProperty("problem");
    expect(report.create).not.toHaveProperty("lowerBound");

    const { etcd, api, computer } = report.machines as NonNullable<DemoReport["machines"]>;
    const servers = report.nodes.filter(({ role }) => role === "server");
    const owners = etcd.members.map(({ name, peer, kind }) => [name.replace(/-[0-9a-f]{8}$/, ""), peer, kind]);
    expect(owners.sort()).toEqual(servers.map(({ name, address }) => [name, `https://${address}:2380`, "voter"]).sort());
    expect(new Set(servers.map(({ zone }) => zone)).size).toBe(3);
    expect(api).toMatchObject({ url: `https://${report.endpoint?.dnsName}:6443/api/v1/nodes`, status: 200, statusWithoutCertificate: 401 });
    expect(api.nodes).toEqual(report.nodes.map(({ name }) => ({ name, ready: true })).sort((a, b) => a.name.localeCompare(b.name)));

    const counts = Object.fromEntries(computer?.counts.map(({ kind, whenReady, now }) => [kind, [whenReady, now]]) ?? []);
    expect(counts).toMatchObject({ machines: [5, 0], mounts: [10, 0], "network namespaces": [6, 0] });
    for (const [kind, [whenReady, now]] of Object.entries(counts) as [string, [number, number]][]) {
      expect([kind, whenReady >= 5, now]).toEqual([kind, true, 0]);
    }

    // By the wall clock, and so well within the whole; a wait of the workflow's that was not passed over would be minutes.
    const took = (report.create?.seconds ?? 0) + (report.delete?.seconds ?? 0);
    expect(took).toBeLessThan(report.realSeconds);
    expect(report.create?.timeline.map(({ atSeconds }) => atSeconds)).toEqual(
      [...(report.create?.timeline ?? [])].map(({ atSeconds }) => atSeconds).sort((a, b) => a - b),
    );
    expect(text.split("\n").filter((line) => line.length > 100)).toEqual([]);
    expect(text + JSON.stringify(report)).not.toMatch(/client-key-data|certificate-authority-data|K10[0-9a-f]{20}/);
  });

  it("says in one line why the Debian root could not be made, and leaves nothing behind", () => {
    const folder = mkdtempSync(join(tmpdir(), "no-mirror-"));
    try {
      writeFileSync(join(folder, "debootstrap"), "#!/bin/sh\necho 'E: no mirror answers' >&2\nexit 3\n", { mode: 0o755 });
      const { pid, status, stdout, stderr } = spawnSync(
        process.execPath,
        ["--import", import.meta.resolve("tsx"), "local/demo.ts", "--nodes", "machines"],
        { encoding: "utf8", env: { ...process.env, HOME: folder, PATH: `${folder}:${process.env.PATH}`, NODE_OPTIONS: "" } },
      );
      expect([status, stdout]).toEqual([1, ""]);
      expect(stderr.trim().split("\n").at(-1)).toBe(
        "The Debian root was not made: debootstrap ended with status 3 (E: no mirror answers). Check that this computer reaches a Debian mirror, then start again",
      );
      expect(stderr).not.toContain("    at ");
      // Of its own: what others leave while these tests run is theirs.
      expect([...tracesOf(), ...leftovers()].filter((trace) => trace.includes(`drover-${pid}-`))).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it.each(["SIGINT", "SIGTERM"] as const)("leaves nothing behind when it is ended by %s in the middle", async (signal) => {
    const child = spawn(process.execPath, ["--import", import.meta.resolve("tsx"), "local/demo.ts", "--nodes", "machines"], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NODE_OPTIONS: "" },
    });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
    const ended = new Promise<NodeJS.Signals | null>((resolve) => child.once("close", (_, by) => resolve(by)));
    const cloud = await until(
      60,
      () => folders().find((name) => name.startsWith(`drover-${child.pid}-`)),
      (name) => name !== undefined,
    );
    await until(
      60,
      () => text,
      (said) => / first server online /.test(said),
    );
    expect(tracesOf(cloud).length).toBeGreaterThan(20);
    child.kill(signal);
    expect(await ended).toBe(signal);
    expect(tracesOf(cloud)).toEqual([]);
  });
});

function folders(): string[] {
  try {
    return readdirSync("/run/drover-machines");
  } catch {
    return [];
  }
}
