import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createSteps, deleteSteps } from "../../core/progress.js";
import { type DemoReport, demo } from "../../local/demo.js";

const folder = mkdtempSync(join(tmpdir(), "drover-demo-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const outdir = "cdk.out";

/** The example with one line put in place of another. */
function changedExample(name: string, from: string, to: string): string {
  const text = readFileSync("examples/ha.yaml", "utf8");
  expect(text).toContain(from);
  const path = join(folder, name);
  writeFileSync(path, text.replace(from, to));
  return path;
}

describe("the demo", () => {
  const trace = join(folder, "calls.jsonl");
  let report: DemoReport;
  let text = "";
  beforeAll(async () => {
    report = await demo({ outdir, seed: 3, trace, write: (part) => (text += part) });
  });

  it("creates the example, deletes it, and leaves nothing", () => {
    expect(report).toMatchObject({ schema: 1, outcome: "ready and gone", seed: 3, nodeKind: "simulated", file: "examples/ha.yaml", warnings: [] });
    expect(report).not.toHaveProperty("problem");
    expect(report.create).toMatchObject({ status: "succeeded" });
    expect(report.delete).toMatchObject({ status: "succeeded" });
    expect(report.left?.counts.filter(({ count }) => count !== 0)).toEqual([]);
    expect(report.left?.counts.map(({ service, kind }) => `${service} ${kind}`)).toEqual([
      "EC2 instances",
      "EC2 network interfaces",
      "EC2 security groups",
      "EBS volumes",
      "ELB load balancers",
      "ELB target groups",
      "S3 secrets that open no snapshot",
      "S3 files on their way to or from nodes",
      "S3 task tokens of waiting steps",
      "S3 records, leases, plans",
    ]);
  });
  it("asked for what is left in a way that finds it while it is there", () => {
    const calls = readFileSync(trace, "utf8").trim().split("\n");
    const looks = calls.map((line) => JSON.parse(line)).filter((call: { function: string }) => call.function === "person");
    expect(looks.map((call: { service: string; operation: string }) => `${call.service} ${call.operation}`)).toEqual(
      expect.arrayContaining(["ec2 DescribeInstances", "ec2 DescribeVolumes", "elbv2 DescribeLoadBalancers", "s3 ListObjectsV2"]),
    );
    // The machines are still listed, as terminated, under the very tag that was asked for.
    const instances = looks.find((call: { operation: string }) => call.operation === "DescribeInstances");
    expect(JSON.stringify(instances.output).match(/"Name":"terminated"/g)).toHaveLength(7);
  });
  it("keeps the history of both operations, a first and a last snapshot, and the tokens that open them", () => {
    const kept = report.left?.kept ?? [];
    expect(kept.slice(0, 2)).toEqual([report.create, report.delete].map((each) => `clusters/ha/operations/${each?.operation}.json`));
    expect(kept.slice(2).map((key) => key.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/, "UID").replace(/\d{8}T\d{6}Z-[0-9a-f]{8}/, "ID"))).toEqual([
      ...["UID/ID/manifest.json", "UID/ID/snapshot", "UID/ID/manifest.json", "UID/ID/snapshot"],
      ...["secrets/UID/server-token/000001.json", "secrets/UID/agent-token/000001.json"],
    ]);
  });
  it("shows three servers in three zones and two agents of each pool", () => {
    const of = (pool: string) => report.nodes.filter((node) => node.pool === pool);
    expect([of("server"), of("general"), of("batch")].map((nodes) => nodes.length)).toEqual([3, 2, 2]);
    expect(new Set(of("server").map(({ zone }) => zone)).size).toBe(3);
    expect(new Set(report.nodes.map(({ address }) => address)).size).toBe(7);
    for (const { state, role, pool } of report.nodes) expect([state, role]).toEqual(["running", pool === "server" ? "server" : "agent"]);
  });
  it("tells every milestone in order, with what it took and what it usually takes", () => {
    const { create, delete: deleted } = report;
    expect(new Set(create?.timeline.map(({ step }) => step))).toEqual(new Set(createSteps));
    expect(deleted?.timeline.map(({ step }) => step)).toEqual([...deleteSteps]);
    for (const operation of [create, deleted]) {
      const times = operation?.timeline.map(({ atSeconds }) => atSeconds) ?? [];
      expect(times).toEqual([...times].sort((a, b) => a - b));
      expect(times.at(-1)).toBeLessThanOrEqual(operation?.seconds ?? 0);
      for (const { tookSeconds, expectedSeconds, step } of operation?.timeline ?? []) {
        expect(tookSeconds, step).toBeGreaterThanOrEqual(0);
        expect(expectedSeconds, step).toBeGreaterThan(0);
      }
    }
  });
  it("holds the time to ready against the bound of an image whose nodes are slower to come online", () => {
    const { lowerBound, ratio = 0, seconds } = report.create as NonNullable<DemoReport["create"]>;
    if (lowerBound === undefined) throw new Error("simulated nodes are held against the bound");
    // Ubuntu's 30 s in place of Amazon Linux's 18 s.
    expect(lowerBound.F).toBeCloseTo(101.8 + 12, 6);
    expect(ratio).toBeCloseTo(seconds / lowerBound.LB, 9);
    expect(ratio).toBeGreaterThan(0.8);
  });
  it("says where the kubeconfig is, and nothing that is in it but the server", () => {
    expect(report.kubeconfig?.server).toBe(`https://${report.endpoint?.dnsName}:6443`);
    expect(report.kubeconfig?.command).toBe("drover kubeconfig ha");
    expect(report.kubeconfig?.key).toMatch(/^secrets\/[0-9a-f-]{36}\/kubeconfig\/000001\.json$/);
    expect(text + JSON.stringify(report)).not.toMatch(/client-key-data|certificate-authority-data|K10[0-9a-f]{20}/);
  });
  it("counts calls, transitions and cost", () => {
    expect(report.create?.awsCalls).toBeGreaterThan(50);
    expect(report.create?.transitions).toBeGreaterThan(20);
    expect(report.create?.dollars).toBeGreaterThan(0.0005);
    expect(report.used?.awsCalls).toBeGreaterThan((report.create?.awsCalls ?? 0) + (report.delete?.awsCalls ?? 0) - 1);
    expect(report.used?.nodeTransfers).toBeGreaterThan(7 * 4);
  });
  it("writes sections that fit a terminal, in plain text", () => {
    const headings = text
      .split("\n")
      .filter((line, index, lines) => line !== "" && !line.startsWith(" ") && (index === 0 || lines[index - 1] === ""));
    expect(headings.map((line) => line.replace(/[:,]? .*$/, ""))).toEqual([
      "Drover",
      "Plan",
      "Create",
      "Ready",
      "Nodes",
      "Endpoint",
      "Kubeconfig",
      "Delete",
      "What",
      "Figures",
    ]);
    expect(text.split("\n").filter((line) => line.length > 100)).toEqual([]);
    expect(text).not.toContain("\u001b");
    expect(text).not.toMatch(/undefined|NaN|\[object/);
  });
  it("is the same again with the same seed, but for the time of this machine", async () => {
    const again = await demo({ outdir, seed: 3 });
    expect({ ...again, realSeconds: 0, synthSeconds: 0 }).toEqual({ ...report, realSeconds: 0, synthSeconds: 0 });
    expect(report.realSeconds).toBeGreaterThan(0);
  });
});

describe("the demo's choice of nodes", () => {
  /** As from a terminal, where none of the programs that machines need is to be found. */
  const run = (...words: string[]) =>
    spawnSync(process.execPath, ["--import", import.meta.resolve("tsx"), "local/demo.ts", ...words], {
      encoding: "utf8",
      env: { ...process.env, PATH: folder, NODE_OPTIONS: "" },
    });

  it("says in one line what is missing when machines are asked for, and does nothing", () => {
    const { status, stdout, stderr } = run("--nodes", "machines");
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(/^Machines (?:need|cannot run)[^\n]+\n$/);
    if (process.platform === "linux") expect(stderr).toContain("apt-get install --yes systemd-container");
  });
  it("takes simulated nodes when nobody asks and machines cannot run, and says what would be needed", () => {
    const { status, stdout, stderr } = run("--json");
    expect([status, stderr]).toEqual([0, expect.stringMatching(/^Nodes are simulated\. Machines (?:need|cannot run)[^\n]+\n$/)]);
    expect(JSON.parse(stdout)).toMatchObject({ outcome: "ready and gone", nodeKind: "simulated", file: "examples/ha.yaml" });
  });
  it("knows no other kind", () => {
    const { status, stdout, stderr } = run("--nodes", "real");
    expect([status, stdout, stderr]).toEqual([2, "", "--nodes takes simulated or machines, not real\nSee: npm run demo -- --help\n"]);
  });
});

describe("a demo that cannot be shown", () => {
  it("answers a file with faults as the API does, and makes nothing", async () => {
    let text = "";
    const file = changedExample("even.yaml", "    count: 3\n", "    count: 4\n");
    const report = await demo({ outdir, file, write: (part) => (text += part) });
    expect(report).toMatchObject({ outcome: "failed", nodes: [], plan: [] });
    expect(report.problem).toContain("POST /clusters");
    expect(report).not.toHaveProperty("create");
    expect(text).toContain("spec.servers.count");
  });
  it("shows the failure card of a create that fails, and what it left", async () => {
    let text = "";
    const report = await demo({ outdir, faults: { nodeLostWhileBooting: 1 }, write: (part) => (text += part) });
    expect(report).toMatchObject({ outcome: "failed", create: { status: "failed", card: { failure: "NodeLost", cluster: "ha" } } });
    expect(report.create).not.toHaveProperty("ratio");
    expect(report).not.toHaveProperty("delete");
    expect(text).toContain("failed (NodeLost)");
    expect(text).toContain("$ drover delete ha");
    expect(text.trimEnd().split("\n").at(-1)).toMatch(/^ {2}Failed after \d+\.\d s of real time/);
  });
  it("says that a cluster stays when its file protects it", async () => {
    const file = changedExample("protected.yaml", "    delete: false\n", "    delete: true\n");
    const report = await demo({ outdir, file });
    expect(report).toMatchObject({ outcome: "failed", create: { status: "succeeded" } });
    expect(report.problem).toContain("DELETE /clusters/ha");
    expect(report).not.toHaveProperty("delete");
  });
});
