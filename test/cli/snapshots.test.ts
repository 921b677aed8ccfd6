import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it, vi } from "vitest";
import type { ClusterStatus, RetentionPreview, SnapshotProof, SnapshotSummary } from "../../core/api.js";
import type { OperationRecord } from "../../core/records.js";
import type { Manifest } from "../../core/snapshots.js";
import type { Ec2 } from "../../local/aws/ec2.js";
import type { Sfn } from "../../local/aws/sfn.js";
import { masked, personKeys, Stage, withRelease, world } from "./stage.js";

const ha = readFileSync(join(import.meta.dirname, "..", "..", "examples", "ha.yaml"), "utf8");

beforeAll(() => {
  for (const [name, value] of Object.entries(personKeys())) vi.stubEnv(name, value);
});

describe("a cluster's snapshots", () => {
  const account = withRelease(world({ seed: 11 }));
  const stage = new Stage({ world: account, columns: 160 });
  const executions = () => account.service<Sfn>("sfn").executions().length;
  const snapshots = async () => (await stage.json<{ snapshots: SnapshotSummary[] }>("snapshot", "list", "ha")).data.snapshots;

  beforeAll(async () => {
    writeFileSync(join(stage.directory, "ha.yaml"), ha);
    expect((await stage.drover("create", "ha.yaml", "--yes")).code).toBe(0);
  });

  it("begin with the one of its creation", async () => {
    const { out } = await stage.drover("snapshot", "list", "ha");
    expect(masked(out).split("\n")).toEqual([
      expect.stringMatching(/^SNAPSHOT +PROVEN +AGE +REVISION +KEYS +SIZE +VERSION +BY$/),
      expect.stringMatching(/^SNAPSHOT +yes +TIME +\d+ +\d+ +\S+ (?:KiB|MiB) +v1\.35\.7\+rke2r1 +user\/operator$/),
      "",
    ]);
  });
  it("say on a cluster's status how old the newest is, and when the next comes", async () => {
    const { out } = await stage.drover("status", "ha");
    expect(masked(out)).toMatch(
      /\n {2}snapshot {4}proven TIME ago, SNAPSHOT, revision \d+, \S+ (?:KiB|MiB); the next 2026-01-06 TIME UTC\n {2}drill {7}no snapshot was restored to prove it yet; weekly\n/,
    );
  });
  it("are previewed without being taken", async () => {
    const before = executions();
    const { code, out } = await stage.drover("snapshot", "create", "ha", "--preview");
    expect(code).toBe(0);
    expect(out).toMatch(/^At .*:\n {2}- Save a snapshot of etcd on one of 3 server\(s\)/);
    expect(executions()).toBe(before);
  });
  it("are taken by hand without a question, and followed until they are proven", async () => {
    const { code, out, err } = await stage.drover("snapshot", "create", "ha");
    expect({ code, out: masked(out) }).toEqual({
      code: 0,
      out: expect.stringMatching(/^ha has a proven snapshot after TIME\n {2}SNAPSHOT: revision \d+, \d+ keys, \S+ (?:KiB|MiB)\n$/),
    });
    expect(masked(err)).toMatch(/TIME {2}snapshot +\S.*\(TIME, expected TIME\)\n/);
    expect((await snapshots()).length).toBe(2);
  });
  it("are shown by their manifest, without a secret", async () => {
    const [newest] = await snapshots();
    const { code, out } = await stage.drover("snapshot", "show", "ha", "latest");
    expect(code).toBe(0);
    expect(out).toMatch(new RegExp(`^${newest?.id} {2}of ha\n`));
    expect(out).toMatch(/\n {2}token {7}generation 1, hash [0-9a-f]{12}\n/);
    const { data } = await stage.json<Manifest>("snapshot", "show", "ha", newest?.id as string);
    expect(data.id).toBe(newest?.id);
    expect(JSON.stringify(data)).not.toMatch(/K10[0-9a-f]|BEGIN|password/);
  });
  it("are held again against what S3 has now", async () => {
    const { code, data } = await stage.json<SnapshotProof>("snapshot", "prove", "ha", "latest");
    expect({ code, proven: data.proven, fault: data.fault }).toEqual({ code: 0, proven: true, fault: "" });
    expect((await stage.drover("snapshot", "prove", "ha", "latest")).out).toMatch(/ is what its manifest says: size and SHA-256, by S3 itself\. /);
  });
  it("are removed by backups alone: prune says which, and why others stay", async () => {
    expect(await stage.drover("snapshot", "prune", "ha")).toMatchObject({
      code: 2,
      err: expect.stringMatching(/by spec\.backup\.keep, and not by hand\nSee which: drover snapshot prune ha --preview\n$/),
    });
    const { code, data } = await stage.json<RetentionPreview>("snapshot", "prune", "ha", "--preview");
    expect(code).toBe(0);
    expect(data.keep.map(({ id }) => id).sort()).toEqual((await snapshots()).map(({ id }) => id).sort());
    expect((await stage.drover("snapshot", "prune", "ha", "--preview")).out).toMatch(
      /2 snapshots kept, 0 to be removed by the next backup \(days and weeks in UTC\)\n$/,
    );
  });
  it("cannot be asked for by what is no id", async () => {
    for (const words of [
      ["snapshot", "show", "ha", "yesterday"],
      ["snapshot", "prove", "ha", "../x"],
      ["restore", "ha", "--snapshot", "newest"],
      ["drill", "ha", "--snapshot", "survivor"],
    ]) {
      expect(await stage.drover(...words)).toMatchObject({
        code: 2,
        err: expect.stringMatching(/is no snapshot: give latest.* or an id\nSee which there are/),
      });
    }
    expect(await stage.drover("snapshot", "show", "ha", "20200101T000000Z-00000000")).toMatchObject({
      code: 3,
      err: expect.stringMatching(/has no snapshot/),
    });
    expect(await stage.drover("snapshot", "list", "never")).toMatchObject({ code: 3 });
  });
  it("are taken every night without anybody asking", async () => {
    await account.runUntil(Date.UTC(2026, 0, 6, 2, 15));
    const { data } = await stage.json<{ operations: OperationRecord[] }>("operations", "ha");
    expect(data.operations[0]).toMatchObject({ kind: "backup", status: "succeeded", requestedBy: "schedule" });
    expect(data.operations[0]?.requestId).toMatch(/^backup-20260106T0200Z-[0-9a-f]{8}-1$/);
    const [newest] = await snapshots();
    expect(newest).toMatchObject({ proven: true, requestedBy: "schedule" });
    expect(Date.parse(newest?.takenAt as string)).toBeLessThan(Date.UTC(2026, 0, 6, 2, 6));
    expect(masked((await stage.drover("status", "ha")).out)).toMatch(/\n {2}snapshot {4}proven TIME ago, .*; the next 2026-01-07 TIME UTC\n/);
  });
  it("are measured at every sweep, in lines that CloudWatch reads", () => {
    const lines = account.logs.filter(({ function: name }) => name === "SweepFleetFunction" || name.includes("sweep-fleet")).map(({ line }) => line);
    const measured = lines.filter((line) => line.startsWith('{"_aws"')).map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(measured.length).toBeGreaterThan(200);
    expect(measured.at(-1)).toMatchObject({ Cluster: "ha", LateSnapshots: 0, LateDrills: 0, FailedBackups: 0, SnapshotAge: expect.any(Number) });
  });

  it("say what a restore would lose before it is begun, and refuse what cannot be, all at once", async () => {
    const before = executions();
    const { code, out } = await stage.drover("restore", "ha", "--preview");
    expect(code).toBe(0);
    expect(masked(out)).toMatch(/ {2}- Restore snapshot SNAPSHOT \(/);
    expect(out).toMatch(/Everything written to the cluster since \S+ is lost: /);
    expect(await stage.drover("restore", "ha", "--as", "ha")).toMatchObject({
      code: 2,
      err: expect.stringMatching(/--as takes the name of a new cluster/),
    });
    expect(await stage.drover("restore", "ha", "--snapshot", "20200101T000000Z-00000000", "--preview")).toMatchObject({
      code: 2,
      err: expect.stringMatching(/ha has no proven snapshot of this id/),
    });
    expect(await stage.drover("restore", "ha", "--confirm", "hb")).toMatchObject({ code: 2, err: expect.stringMatching(/^To restore ha its name/) });
    stage.answers = ["hb"];
    expect(await stage.drover("restore", "ha")).toMatchObject({
      code: 2,
      err: expect.stringMatching(/To restore ha its name must be given again; found "hb"/),
    });
    stage.answers = undefined;
    expect(await stage.drover("restore", "ha")).toMatchObject({
      code: 2,
      err: expect.stringMatching(/nobody can be asked.*\n.*add --confirm ha\n$/),
    });
    expect(executions()).toBe(before);
  });
  it("are drilled after a question", async () => {
    stage.answers = ["n"];
    expect(await stage.drover("drill", "ha")).toMatchObject({ code: 0, out: "Nothing was changed.\n" });
    stage.answers = undefined;
    expect(await stage.drover("drill", "ha")).toMatchObject({ code: 2, err: expect.stringMatching(/Launch a throw-away server/) });
    const { code, out, err } = await stage.drover("drill", "ha", "--yes");
    expect({ code, out: masked(out), err: code === 0 ? "" : err }).toEqual({
      code: 0,
      out: expect.stringMatching(
        /^The snapshot of ha was restored on a throw-away server and is what its manifest says, after TIME\n {2}SNAPSHOT: \S/,
      ),
      err: "",
    });
    expect(masked((await stage.drover("status", "ha")).out)).toMatch(/\n {2}drill {7}SNAPSHOT was restored and proven TIME ago; weekly\n/);
  });

  it("lead out of a lost server, a lost quorum and a lost cluster, as the status says", async () => {
    const ec2 = account.service<Ec2>("ec2");
    const members = (await stage.json<ClusterStatus>("status", "ha")).data.record.members.map(({ instanceId }) => instanceId);
    const loses = async (id: string) => {
      ec2.lose(id, "Server.InternalError");
      await account.runFor({ minutes: 5 });
      const { out } = await stage.drover("status", "ha");
      return masked(out).slice(masked(out).indexOf("  drill"));
    };
    expect((await stage.drover("status", "ha")).out).not.toMatch(/LOST/);
    const [first, second, third] = members as [string, string, string];
    expect(await loses(first)).toMatch(
      /\n\nMEMBER LOST\n {2}Found {6}2 of 3 etcd members' machines run, majority is 2: i-ID does not\n {2}Safe {7}The cluster works on.*\n(?:.*\n)* {2}Loss {7}nothing\n {2}Type {7}drover snapshot create ha\n/,
    );
    expect(await loses(second)).toMatch(/\n\nQUORUM LOST\n(?:.*\n)* {2}Type {7}drover restore ha --snapshot survivor\n/);
    expect(await loses(third)).toMatch(
      /\n\nCLUSTER LOST\n(?:.*\n)* {2}Loss {7}everything since .* snapshot SNAPSHOT\n {2}Type {7}drover restore ha --snapshot latest\n/,
    );
    const { data } = await stage.json<ClusterStatus>("status", "ha");
    expect(data.quorum).toMatchObject({ kind: "cluster lost", command: "drover restore ha --snapshot latest" });
  });
  it("are restored when the name is typed, and the loss was said before", async () => {
    stage.answers = ["ha"];
    const { code, out, err } = await stage.drover("restore", "ha");
    stage.answers = undefined;
    expect({ code, out: masked(out), err: code === 0 ? "" : err }).toEqual({
      code: 0,
      out: [
        "ha is restored after TIME",
        "  endpoint    https://drv-ha-ID.elb.eu-central-1.amazonaws.com:6443",
        "  kubeconfig  drover kubeconfig ha --output ha.kubeconfig",
        "",
      ].join("\n"),
      err: "",
    });
    expect(err).toMatch(/is lost: /);
    const { data } = await stage.json<ClusterStatus>("status", "ha");
    expect(data.record.phase).toBe("ready");
    expect(data.quorum?.kind).toBe("whole");
    expect(data.record.newestProven?.id).toBe((await snapshots())[0]?.id);
  });
});
