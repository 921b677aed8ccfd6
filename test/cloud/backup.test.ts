/** The deployed template in a world of its own: a cluster is created, backed up and deleted, and everybody tries what they may not. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { RetentionPreview, SnapshotProof, SnapshotSummary } from "../../core/api.js";
import { createCost, type OperationUsage } from "../../core/costs.js";
import { snapshotKeys, stateKeys } from "../../core/layout.js";
import { parseDelivery } from "../../core/node-commands.js";
import type { ClusterRecord, OperationRecord } from "../../core/records.js";
import { type Manifest, manifestSchema } from "../../core/snapshots.js";
import type { S3 } from "../../local/aws/s3.js";
import type { Sfn } from "../../local/aws/sfn.js";
import { stockArtifactStore } from "../../local/demo.js";
import type { SeenCall } from "../../local/kernel/calls.js";
import { paidUsage } from "../../local/usage.js";
import { World } from "../../local/world.js";

const file = {
  apiVersion: "drover.dev/v1",
  kind: "Cluster",
  metadata: { name: "prod" },
  spec: {
    version: "v1.35.7+rke2r1",
    servers: { count: 3, instanceTypes: ["m6i.2xlarge"] },
    agentPools: [{ name: "workers", count: 2, instanceTypes: ["m6i.large"] }],
    image: { ssmParameter: "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64", architecture: "amd64" },
    network: {
      vpcId: "vpc-0a1b2c3d4e5f60718",
      subnetIds: ["subnet-0aaa1111bbbb2222c", "subnet-0bbb2222cccc3333d", "subnet-0ccc3333dddd4444e"],
    },
    protection: { delete: false },
  },
};

let world: World;
let calls: SeenCall[];
let s3: S3;
beforeAll(() => {
  world = World.boot({ assembly: "cdk.out", seed: 4 });
  stockArtifactStore(world);
  s3 = world.service<S3>("s3");
  calls = [];
  world.onCall((call) => void calls.push(call));
});
afterAll(() => world.close());

const read = <T>(key: string, variable = "STATE_BUCKET") => {
  const bytes = s3.read(world.environment(variable), key);
  return bytes === undefined ? undefined : (JSON.parse(bytes.toString("utf8")) as T);
};
const record = () => read<ClusterRecord>(stateKeys.record("prod")) as ClusterRecord;
const operationOf = (id: string) => read<OperationRecord>(stateKeys.operation("prod", id)) as OperationRecord;

async function ask<T>(method: string, path: string, body?: unknown): Promise<{ status: number; body: T }> {
  const answer = await world.request(method, path, body);
  return { status: answer.status, body: JSON.parse(answer.body) as T };
}
/** Asks for an operation and waits for its end. */
async function carryOut(method: string, path: string, body: unknown): Promise<OperationRecord> {
  const { status, body: accepted } = await ask<{ operation: string }>(method, path, body);
  expect({ status, accepted }).toMatchObject({ status: 202 });
  const sfn = world.service<Sfn>("sfn");
  const hasEnded = () => ["succeeded", "failed"].includes(operationOf(accepted.operation)?.status);
  await world.runUntil(() => sfn.running().length === 0 && hasEnded(), { at: world.clock.now() + 4 * 3_600_000 });
  return operationOf(accepted.operation);
}
const writes = (from: number) => calls.slice(from).filter((call) => call.service === "s3" && call.error === undefined);
/** What a role of the deployment was refused; what the node's own was refused, when it was tried on purpose, is another matter. */
const denials = () => world.denials.filter(({ role }) => !role.includes("NodeRole"));
const inSnapshots = (operation: string, from = 0) =>
  writes(from)
    .filter((call) => call.operation === operation && (call.input as { Bucket: string }).Bucket === world.environment("SNAPSHOT_BUCKET"))
    .map((call) => (call.input as { Key: string }).Key);
const difference = (after: OperationUsage, before: OperationUsage) =>
  Object.fromEntries(
    (Object.keys(after) as (keyof OperationUsage)[]).map((name) => [name, name === "lambdaMemoryMb" ? after[name] : after[name] - before[name]]),
  ) as unknown as OperationUsage;

describe("a cluster and its snapshots", () => {
  let backup: OperationRecord;
  let from = 0;
  let uid = "";
  let used: OperationUsage;

  it("has one that counts before it is called ready", async () => {
    const created = await carryOut("POST", "/clusters", { requestId: "create-prod-1", file: JSON.stringify(file) });
    expect(created).toMatchObject({ status: "succeeded" });
    uid = record().uid;
    const [id] = [record().newestProven?.id ?? ""];
    expect(created.outcome).toEqual({ snapshot: id });
    expect(manifestSchema.parse(read(snapshotKeys.manifest(uid, id), "SNAPSHOT_BUCKET"))).toMatchObject({ id, operation: created.id });
    const names = created.steps.map(({ name }) => name);
    expect(names.indexOf("snapshot")).toBeLessThan(names.indexOf("ready"));
  });

  it("is backed up on request: the file by a node, its manifest last", async () => {
    from = calls.length;
    const before = paidUsage(world);
    backup = await carryOut("POST", "/clusters/prod/snapshots", { requestId: "backup-prod-1" });
    used = difference(paidUsage(world), before);
    expect(backup).toMatchObject({ status: "succeeded", requestedBy: expect.stringContaining("arn:aws:iam::"), kind: "backup" });
    const id = (backup.outcome as { snapshot: string }).snapshot;
    expect(inSnapshots("PutObject", from)).toEqual([snapshotKeys.snapshot(uid, id), snapshotKeys.manifest(uid, id)]);
    const manifest = read<Manifest>(snapshotKeys.manifest(uid, id), "SNAPSHOT_BUCKET") as Manifest;
    expect(manifest).toMatchObject({ requestedBy: backup.requestedBy, cluster: { name: "prod", uid }, token: { generation: 1 } });
    expect(manifest.etcd.members).toHaveLength(3);
    expect(manifest.node.name).not.toBe(manifest.etcd.leader);
    expect(record()).toMatchObject({ phase: "ready", newestProven: { id, bytes: manifest.file.bytes, revision: manifest.etcd.revision } });
    expect(record().operation).toBeUndefined();
    expect(denials()).toEqual([]);
  });

  it("costs at most ten transitions and three hundredths of a cent for it, with functions that start cold", () => {
    expect(used.transitions).toBeLessThanOrEqual(10);
    expect(createCost(used).dollars).toBeLessThanOrEqual(0.0003);
  });

  it("answers the same request with the same operation, and takes nothing again", async () => {
    const before = inSnapshots("PutObject").length;
    const { body } = await ask<{ operation: string }>("POST", "/clusters/prod/snapshots", { requestId: "backup-prod-1" });
    await world.runUntil(() => world.service<Sfn>("sfn").running().length === 0, { at: world.clock.now() + 600_000 });
    expect(body.operation).toBe(backup.id);
    expect(inSnapshots("PutObject")).toHaveLength(before);
  });

  it("says what a backup would do, and does nothing", async () => {
    const before = calls.filter(({ mutates }) => mutates).length;
    const { status, body } = await ask<{ status: string; plan: string[] }>("POST", "/clusters/prod/snapshots", {
      requestId: "preview-0001",
      preview: true,
    });
    expect([status, body.status]).toEqual([200, "preview"]);
    expect(body.plan.join("\n")).toMatch(/one of 3 server\(s\)/);
    expect(calls.filter(({ mutates }) => mutates)).toHaveLength(before);
  });

  it("shows what it has, newest first, proves one again, and says what retention will do", async () => {
    const { body: list } = await ask<{ snapshots: SnapshotSummary[] }>("GET", "/clusters/prod/snapshots");
    expect(list.snapshots.map(({ id, proven }) => [id, proven])).toEqual([
      [record().newestProven?.id, true],
      [expect.any(String), true],
    ]);
    const id = list.snapshots[0]?.id ?? "";
    expect((await ask<Manifest>("GET", `/clusters/prod/snapshots/${id}`)).body).toMatchObject({ id, file: { bytes: list.snapshots[0]?.bytes } });
    expect((await ask<SnapshotProof>("POST", `/clusters/prod/snapshots/${id}/prove`)).body).toMatchObject({ id, proven: true, fault: "" });
    const { body: retention } = await ask<RetentionPreview>("GET", "/clusters/prod/retention");
    expect(retention.remove).toEqual([]);
    expect(retention.keep.map((each) => each.id)).toEqual(list.snapshots.map((each) => each.id));
    expect(retention.keep[0]?.reasons).toContain("the newest proven snapshot");
    expect(denials()).toEqual([]);
  });

  it("is not touched by any address that a node was given, used again, nor by the node's own role", async () => {
    const bucket = world.environment("SNAPSHOT_BUCKET");
    const id = record().newestProven?.id ?? "";
    const before = s3.read(bucket, snapshotKeys.snapshot(uid, id));
    const lists = writes(from).filter((call) => call.operation === "PutObject" && String((call.input as { Key: string }).Key).endsWith("/list"));
    const entries = lists.flatMap((call) => parseDelivery(Buffer.from((call.input as { Body: Uint8Array }).Body).toString("utf8")));
    const uploads = entries.filter((entry) => entry.kind === "put");
    expect(uploads.map(({ name }) => name)).toEqual(["snapshot"]);
    for (const entry of uploads) {
      for (const [method, body] of [["PUT", before], ["PUT", Buffer.from("other")], ["GET"], ["HEAD"], ["DELETE"]] as const) {
        const answer = s3.fetchPresigned(entry.url, { method, headers: entry.headers, ...(body === undefined ? {} : { body }) });
        expect([method, answer.status]).toEqual([method, expect.toSatisfy((status: number) => status >= 400 && status < 500)]);
      }
    }
    const profile = [...world.template.resources.values()].find(({ type }) => type === "AWS::IAM::InstanceProfile");
    const [roleName] = profile?.properties.Roles as string[];
    const node = `arn:aws:iam::${world.account}:role/${roleName}`;
    expect(world.allows(node, { action: "ssmmessages:OpenDataChannel", resource: "*", context: {} })).toBe(true);
    for (const action of ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:ListBucket"]) {
      const resource = action === "s3:ListBucket" ? `arn:aws:s3:::${bucket}` : `arn:aws:s3:::${bucket}/${snapshotKeys.snapshot(uid, id)}`;
      expect([action, world.allows(node, { action, resource, context: {} })]).toEqual([action, false]);
    }
    expect(s3.read(bucket, snapshotKeys.snapshot(uid, id))).toEqual(before);
  });

  it("refuses a second operation while one runs, by its name", async () => {
    const { body } = await ask<{ operation: string }>("POST", "/clusters/prod/snapshots", { requestId: "backup-prod-2" });
    const { status, body: refused } = await ask<{ error: string; message: string }>("POST", "/clusters/prod/snapshots", {
      requestId: "backup-prod-3",
    });
    expect([status, refused.error]).toEqual([409, "Busy"]);
    expect(refused.message).toContain(body.operation);
    await world.runUntil(() => world.service<Sfn>("sfn").running().length === 0, { at: world.clock.now() + 3_600_000 });
    expect(operationOf(body.operation).status).toBe("succeeded");
  });

  it("is backed up every night by itself, and loses what no tier asks for once Object Lock lets it go, and not before", async () => {
    const listed = async () => (await ask<{ snapshots: SnapshotSummary[] }>("GET", "/clusters/prod/snapshots")).body.snapshots;
    const first = (await listed()).map(({ id }) => id);
    const { backup: wanted, ...spec } = record().wanted.spec;
    const keep = { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0 };
    const spare = { ...record(), wanted: { ...record().wanted, spec: { ...spec, backup: { ...wanted, keep, drill: "never" } } } };
    s3.put(world.environment("STATE_BUCKET"), stateKeys.record("prod"), JSON.stringify(spare));
    await world.runFor({ hours: 6.5 * 24 });
    const { body: locked } = await ask<RetentionPreview>("GET", "/clusters/prod/retention");
    expect(locked.remove).toEqual([]);
    for (const id of first) expect(locked.keep.find((each) => each.id === id)?.reasons).toContainEqual(expect.stringMatching(/^Object Lock until /));
    const nightly = (await listed()).filter(({ id }) => !first.includes(id));
    expect(nightly).toHaveLength(6);
    expect(nightly.every(({ proven, requestedBy }) => proven && requestedBy !== backup.requestedBy)).toBe(true);
    await world.runFor({ hours: 1.6 * 24 });
    const left = await listed();
    expect(left.filter(({ id }) => first.includes(id))).toEqual([]);
    expect(left[0]).toMatchObject({ id: record().newestProven?.id, proven: true });
    expect(denials()).toEqual([]);
  });

  it("is deleted with a last one, which stays with the token that opens it", async () => {
    const deleted = await carryOut("DELETE", "/clusters/prod", { requestId: "delete-prod-1", confirm: "prod" });
    expect(deleted).toMatchObject({ status: "succeeded", lastSnapshot: true });
    const last = (deleted.outcome as { snapshot: string }).snapshot;
    expect(read<Manifest>(snapshotKeys.manifest(uid, last), "SNAPSHOT_BUCKET")).toMatchObject({ operation: deleted.id });
    expect(s3.read(world.environment("STATE_BUCKET"), stateKeys.secret(uid, "server-token", 1))).toBeDefined();
    const { body } = await ask<{ uid: string; snapshots: SnapshotSummary[] }>("GET", "/clusters/prod/snapshots");
    expect([body.uid, body.snapshots[0]?.id]).toEqual([uid, last]);
    expect(denials()).toEqual([]);
  });
});
