/** The deployed template in worlds of their own: a cluster is made and backed up once, and then restored in every way, refused, cut short and finished. */
import { createHash } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import type { ClusterStatus, RestoreAccepted } from "../../core/api.js";
import { snapshotKeys, stateKeys, tags } from "../../core/layout.js";
import type { ClusterRecord, OperationRecord } from "../../core/records.js";
import type { Manifest } from "../../core/snapshots.js";
import type { Ec2, InstanceFacts } from "../../local/aws/ec2.js";
import type { S3 } from "../../local/aws/s3.js";
import type { Sfn } from "../../local/aws/sfn.js";
import type { Ssm } from "../../local/aws/ssm.js";
import { stockArtifactStore } from "../../local/demo.js";
import { type Laws, watchLaws } from "../../local/laws.js";
import type { NodeDriver, ObservedCluster } from "../../local/nodes/contract.js";
import { type SavedWorld, World } from "../../local/world.js";

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
/** Written after the snapshot: exactly these are lost. */
const lostWrites = 200;

/** A world, and the people in it. */
class Account {
  readonly world: World;
  readonly laws: Laws;
  /** A saved world remembers the requests of its past. */
  readonly #past: string;
  #requests = 0;

  constructor(saved?: SavedWorld) {
    this.#past = saved === undefined ? "first" : "later";
    this.world = World.boot({ assembly: "cdk.out", seed: 4, ...(saved === undefined ? {} : { saved }) });
    this.laws = watchLaws(this.world);
    // The laws know what they have seen: the record that was there before them is shown to them.
    const Body = this.text(stateKeys.record("prod"));
    const origin = { principal: "", name: "person", enforced: false };
    const input = { Bucket: this.bucket("STATE_BUCKET"), Key: stateKeys.record("prod"), Body };
    this.laws.seen.look();
    if (Body !== undefined) this.laws.seen.call({ service: "s3", operation: "PutObject", mutates: true, input, output: {}, origin });
  }

  bucket(variable: string): string {
    return this.world.environment(variable);
  }

  text(key: string, variable = "STATE_BUCKET"): string | undefined {
    return this.world.service<S3>("s3").read(this.bucket(variable), key)?.toString("utf8");
  }

  record(name = "prod"): ClusterRecord {
    return JSON.parse(this.text(stateKeys.record(name)) ?? "{}") as ClusterRecord;
  }

  operation(cluster: string, id: string): OperationRecord | undefined {
    const text = this.text(stateKeys.operation(cluster, id));
    return text === undefined ? undefined : (JSON.parse(text) as OperationRecord);
  }

  async ask<T>(method: string, path: string, body?: object): Promise<{ status: number; body: T }> {
    this.#requests++;
    const answer = await this.world.request(
      method,
      path,
      body === undefined ? undefined : { requestId: `${this.#past}-request-${this.#requests}`, ...body },
    );
    return { status: answer.status, body: JSON.parse(answer.body) as T };
  }

  /** Asks, and waits until the operation has ended and nothing of it runs any more. */
  async carryOut(method: string, path: string, body: object): Promise<OperationRecord> {
    const { status, body: accepted } = await this.ask<{ operation: string; cluster: string }>(method, path, body);
    expect({ status, accepted }).toMatchObject({ status: 202 });
    return this.end(accepted.cluster ?? "prod", accepted.operation);
  }

  async end(cluster: string, id: string): Promise<OperationRecord> {
    const sfn = this.world.service<Sfn>("sfn");
    const hasEnded = () => ["succeeded", "failed"].includes(this.operation(cluster, id)?.status ?? "");
    await this.world.runUntil(() => sfn.running().length === 0 && hasEnded(), { at: this.world.clock.now() + 6 * 3_600_000 });
    return this.operation(cluster, id) as OperationRecord;
  }

  as(service: string, operation: string, input: Readonly<Record<string, unknown>>): Record<string, unknown> {
    const person = { principal: `arn:aws:iam::${this.world.account}:user/operator`, name: "person", enforced: false };
    return this.world.calls.callNow(service, operation, input, person) as Record<string, unknown>;
  }

  servers(role = "server", cluster = "prod"): string[] {
    return this.world
      .service<Ec2>("ec2")
      .living()
      .filter((machine) => machine.tags[tags.role] === role && machine.tags[tags.cluster] === cluster)
      .map((machine) => machine.id)
      .sort();
  }

  lose(ids: readonly string[]): void {
    for (const id of ids) this.world.service<Ec2>("ec2").lose(id, "Host hardware failed");
  }

  get clusters(): readonly ObservedCluster[] {
    return this.world.service<NodeDriver>("nodes").clusters();
  }

  /** The RKE2 cluster whose members are this cluster's machines. */
  rke2(name = "prod"): ObservedCluster {
    const ids = new Set(this.servers("server", name));
    const own = this.clusters.filter((cluster) => cluster.members.some((member) => ids.has(member.instanceId)));
    expect(own).toHaveLength(1);
    return own[0] as ObservedCluster;
  }

  /** It is whole, all of it is what the snapshot was, and what was written after that is gone. */
  expectRestored(operation: OperationRecord, name = "prod", keys = proven.etcd.keys): void {
    expect({ status: operation.status, card: operation.card }).toEqual({ status: "succeeded", card: undefined });
    const record = this.record(name);
    const cluster = this.rke2(name);
    expect(record).toMatchObject({ phase: "ready" });
    expect(record.restore).toBeUndefined();
    expect(cluster.members.map((member) => [member.voter, member.healthy])).toEqual(Array(3).fill([true, true]));
    expect(cluster.nodes.filter((node) => node.ready)).toHaveLength(5);
    expect(cluster.nodes).toHaveLength(5);
    expect(operation.outcome).toMatchObject({ restored: { keys } });
    // What is written while it is restored comes on top, a key in half a minute: never the two hundred.
    expect((cluster.store?.keys ?? 0) - keys).toBeLessThan(lostWrites / 4);
    for (const arn of [record.endpoint?.supervisorTargetGroupArn, record.endpoint?.apiTargetGroupArn]) {
      expect([...this.laws.seen.world.targets(arn ?? "")].sort()).toEqual(this.servers("server", name));
    }
    expect(record.members.map((member) => member.instanceId).sort()).toEqual(this.servers("server", name));
    expect(this.text(stateKeys.lease(name))).toBeUndefined();
    expect(this.world.denials).toEqual([]);
  }
}

let saved: SavedWorld;
let proven: Manifest;
let keysBefore: number;
beforeAll(async () => {
  const account = new Account();
  stockArtifactStore(account.world);
  expect(await account.carryOut("POST", "/clusters", { file: JSON.stringify(file) })).toMatchObject({ status: "succeeded" });
  expect(await account.carryOut("POST", "/clusters/prod/snapshots", {})).toMatchObject({ status: "succeeded" });
  const { uid, newestProven } = account.record();
  proven = JSON.parse(account.text(snapshotKeys.manifest(uid, newestProven?.id ?? ""), "SNAPSHOT_BUCKET") ?? "") as Manifest;
  account.world.service<NodeDriver>("nodes").write?.(account.rke2().id, lostWrites);
  await account.world.runFor({ minutes: 5 });
  keysBefore = account.rke2().store?.keys ?? 0;
  saved = account.world.save();
  account.world.close();
});
const restore = (account: Account, body: object = {}) => account.carryOut("POST", "/clusters/prod/restore", { confirm: "prod", ...body });

describe("restoring a cluster", () => {
  it("loses what came after the snapshot, of a cluster that had it", () => expect(keysBefore - proven.etcd.keys).toBeGreaterThanOrEqual(lostWrites));

  it("in place: every machine stays, every server is of the restored cluster", async () => {
    const account = new Account(saved);
    const machines = [...account.servers(), ...account.servers("agent")];
    const operation = await restore(account);
    account.expectRestored(operation);
    expect([...account.servers(), ...account.servers("agent")]).toEqual(machines);
    expect(account.record().bootstrap).toMatchObject({ number: 2, restore: operation.id });
    expect(account.record().abandonedBootstraps).toMatchObject([{ number: 1 }]);
    const names = operation.steps.map(({ name }) => name);
    expect(names.indexOf("restore begun")).toBeLessThan(names.indexOf("restore decided"));
    expect(account.record().newestProven?.id).not.toBe(proven.id);
  });

  it("in place when quorum is lost: the survivor restores, and new servers take the lost ones' slots", async () => {
    const account = new Account(saved);
    account.lose(account.servers().slice(1));
    await account.world.runFor({ minutes: 3 });
    const { body } = await account.ask<ClusterStatus>("GET", "/clusters/prod");
    expect(body.quorum).toMatchObject({ kind: "quorum lost", running: 1, command: "drover restore prod --snapshot survivor" });
    account.expectRestored(await restore(account));
  });

  it("goes on with a survivor's data, and loses nothing that it had", async () => {
    const account = new Account(saved);
    const [survivor] = account.servers();
    account.lose(account.servers().slice(1));
    await account.world.runFor({ minutes: 3 });
    const { body: preview } = await account.ask<RestoreAccepted>("POST", "/clusters/prod/restore", {
      confirm: "",
      snapshot: "survivor",
      preview: true,
    });
    expect(preview).toMatchObject({ status: "preview" });
    expect(preview.loss).toBeUndefined();
    const operation = await restore(account, { snapshot: "survivor" });
    expect(operation.status).toBe("succeeded");
    expect(account.rke2().store?.keys).toBeGreaterThanOrEqual(keysBefore);
    expect(account.record().members).toHaveLength(3);
    expect(account.servers()).toContain(survivor);
  });

  it("onto new nodes when no server is left, with its agents as they are", async () => {
    const account = new Account(saved);
    const agents = account.servers("agent");
    account.lose(account.servers());
    await account.world.runFor({ minutes: 3 });
    const { body } = await account.ask<ClusterStatus>("GET", "/clusters/prod");
    expect(body.quorum).toMatchObject({ kind: "cluster lost", command: "drover restore prod --snapshot latest" });
    const old = account.record().members.map(({ address }) => address);
    const joins: string[] = [];
    account.world.onCall(({ operation, input }) => {
      const { DocumentName, Parameters } = input as { DocumentName?: string; Parameters?: { joins?: string[] } };
      if (operation === "SendCommand" && DocumentName?.startsWith("drover-start-agent-")) joins.push(...(Parameters?.joins ?? []));
    });
    account.expectRestored(await restore(account));
    expect(account.servers("agent")).toEqual(agents);
    // They are sent to servers of the restored cluster, not to those the record tells of until there are such.
    expect(joins.length).toBeGreaterThan(0);
    for (const address of old) expect(joins.join(",")).not.toMatch(new RegExp(`:${address.replaceAll(".", "[.]")}(,|$)`));
  });

  it("onto new nodes when no machine is left at all: the nodes of the snapshot's time are forgotten", async () => {
    const account = new Account(saved);
    account.lose([...account.servers(), ...account.servers("agent")]);
    await account.world.runFor({ minutes: 3 });
    const operation = await restore(account);
    account.expectRestored(operation);
    expect(operation.steps.find(({ name }) => name === "stale nodes found")?.detail).toMatch(/^5 node/);
  });

  it("as a new cluster beside the old one, which stays as it is", async () => {
    const account = new Account(saved);
    const before = account.rke2();
    const { body: preview } = await account.ask<RestoreAccepted>("POST", "/clusters/prod/restore", { confirm: "", as: "copy", preview: true });
    expect(preview).toMatchObject({ status: "preview", cluster: "copy" });
    const operation = await restore(account, { as: "copy" });
    account.expectRestored(operation, "copy");
    expect(account.record("copy").uid).not.toBe(account.record().uid);
    expect(account.rke2().members).toEqual(before.members);
    expect(account.record()).toMatchObject({ phase: "ready" });
    const kubeconfig = await account.ask<{ kubeconfig: string }>("GET", "/clusters/copy/kubeconfig");
    expect(kubeconfig.body.kubeconfig).toContain(account.record("copy").endpoint?.dnsName);
  });

  it("of a deleted cluster, under its own name again", async () => {
    const account = new Account(saved);
    expect(await account.carryOut("DELETE", "/clusters/prod", { confirm: "prod", skipSnapshot: true })).toMatchObject({ status: "succeeded" });
    expect(account.text(stateKeys.record("prod"))).toBeUndefined();
    account.expectRestored(await restore(account, { snapshot: proven.id }));
  });

  it("with the token in force when the snapshot was taken, though another is since: it becomes the newest generation", async () => {
    const account = new Account(saved);
    const { uid } = account.record();
    rotateToken(account, uid);
    account.lose(account.servers());
    await account.world.runFor({ minutes: 3 });
    const operation = await restore(account);
    account.expectRestored(operation);
    expect(account.record().secrets["server-token"]).toBe(3);
    const valueOf = (generation: number) => account.text(stateKeys.secret(uid, "server-token", generation));
    expect(valueOf(3)).toBe(valueOf(1));
    expect(valueOf(2)).not.toBe(valueOf(1));
  });

  it("says what would be done and lost, and does nothing", async () => {
    const account = new Account(saved);
    let mutations = 0;
    account.world.onCall(({ mutates }) => {
      if (mutates) mutations++;
    });
    const { status, body } = await account.ask<RestoreAccepted>("POST", "/clusters/prod/restore", { confirm: "", preview: true });
    expect(status).toBe(200);
    expect(body.loss).toMatchObject({ since: proven.takenAt, revisionsAtLeast: 0, newerSnapshots: 0 });
    expect(body.plan.join("\n")).toContain(`Everything written to the cluster since ${proven.takenAt} is lost`);
    expect(body.plan.join("\n")).toContain("Stop 3 servers");
    expect(mutations).toBe(0);
  });

  it("never loses more than it announces: the older of two snapshots announces the writes that the newer one has", async () => {
    const account = new Account(saved);
    const { body: list } = await account.ask<{ snapshots: { id: string; revision: number }[] }>("GET", "/clusters/prod/snapshots");
    const oldest = list.snapshots.at(-1);
    const { body } = await account.ask<RestoreAccepted>("POST", "/clusters/prod/restore", { confirm: "", snapshot: oldest?.id, preview: true });
    expect(body.loss).toMatchObject({ revisionsAtLeast: proven.etcd.revision - (oldest?.revision ?? 0), newerSnapshots: 1 });
  });
});

/** What a rotation leaves: a newer generation in use, the older one kept. */
function rotateToken(account: Account, uid: string): void {
  const Bucket = account.bucket("STATE_BUCKET");
  const key = { ServerSideEncryption: "aws:kms", SSEKMSKeyId: account.bucket("SECRETS_KEY_ARN") };
  const value = JSON.stringify({ value: "R0tated".repeat(6) });
  account.as("s3", "PutObject", { Bucket, Key: stateKeys.secret(uid, "server-token", 2), Body: Buffer.from(value), ...key });
  const record = account.record();
  const rotated = { ...record, secrets: { ...record.secrets, "server-token": 2 } };
  account.as("s3", "PutObject", { Bucket, Key: stateKeys.record("prod"), Body: Buffer.from(JSON.stringify(rotated)) });
}

describe("refusing to restore, before anything is touched", () => {
  /** Plants a snapshot that is wrong in one way, with a manifest that proves it. */
  function plant(account: Account, body: Buffer, change: (manifest: Manifest) => Manifest = (manifest) => manifest): string {
    const { uid } = account.record();
    const id = "20260105T030000Z-0badc0de";
    const Bucket = account.bucket("SNAPSHOT_BUCKET");
    const key = snapshotKeys.snapshot(uid, id);
    const checksum = (bytes: Buffer) => createHash("sha256").update(bytes).digest("base64");
    const put = account.as("s3", "PutObject", { Bucket, Key: key, Body: body, ChecksumSHA256: checksum(body) });
    const sha256 = createHash("sha256").update(body).digest("hex");
    const fileFacts = { key, versionId: String(put.VersionId), bytes: body.length, sha256, parts: [] };
    const manifest = Buffer.from(JSON.stringify(change({ ...proven, id, file: fileFacts })));
    account.as("s3", "PutObject", { Bucket, Key: snapshotKeys.manifest(uid, id), Body: manifest, ChecksumSHA256: checksum(manifest) });
    return id;
  }
  const real = (account: Account) =>
    account.world.service<S3>("s3").read(account.bucket("SNAPSHOT_BUCKET"), snapshotKeys.snapshot(account.record().uid, proven.id)) as Buffer;
  const etcd = (of: Buffer, change: (file: Manifest["file"]) => Partial<Manifest["file"]>) => (manifest: Manifest) => {
    expect(of.length).toBeGreaterThan(0);
    return { ...manifest, file: { ...manifest.file, ...change(manifest.file) } };
  };

  it.each<[string, (account: Account) => string, RegExp]>([
    [
      "one that was tampered with",
      (account) =>
        plant(
          account,
          real(account),
          etcd(real(account), () => ({ sha256: "f".repeat(64) })),
        ),
      /its SHA-256 is [0-9a-f]{64}, expected f{64}/,
    ],
    [
      "a truncated one",
      (account) =>
        plant(
          account,
          real(account).subarray(0, 1056),
          etcd(real(account), () => ({ bytes: real(account).length })),
        ),
      /it is truncated: 1056 bytes, expected/,
    ],
    [
      "an empty one",
      (account) =>
        plant(
          account,
          Buffer.alloc(0),
          etcd(real(account), () => ({ bytes: 4128 })),
        ),
      /it is empty/,
    ],
    ["a zip", (account) => plant(account, Buffer.concat([Buffer.from("PK\u0003\u0004"), Buffer.alloc(1052)])), /it is compressed \(a zip file\)/],
    ["one without its checksum", (account) => plant(account, real(account).subarray(0, 1024)), /is not that of an etcd snapshot/],
    [
      "one of another cluster",
      (account) => plant(account, real(account), (manifest) => ({ ...manifest, cluster: { ...manifest.cluster, name: "test", uid: "another" } })),
      /it is a snapshot of cluster test \(another\), not of prod/,
    ],
    [
      "one of a newer minor",
      (account) => plant(account, real(account), (manifest) => ({ ...manifest, version: "v1.36.1+rke2r1" })),
      /it was taken by v1.36.1\+rke2r1, and the servers run v1.35.7\+rke2r1/,
    ],
    [
      "one whose token is gone",
      (account) => plant(account, real(account), (manifest) => ({ ...manifest, token: { generation: 7, hash: "0123456789ab" } })),
      /it opens with generation 7 of the server token, which is not kept: there is 1/,
    ],
    [
      "one whose token is another",
      (account) => plant(account, real(account), (manifest) => ({ ...manifest, token: { generation: 1, hash: "0123456789ab" } })),
      /the token of generation 1 has the hash [0-9a-f]{12}, and a token with 0123456789ab opens it/,
    ],
    ["one that does not exist", () => "20260105T030000Z-00000000", /prod has no proven snapshot of this id/],
  ])("%s", async (_, prepare, message) => {
    const account = new Account(saved);
    const snapshot = prepare(account);
    const before = account.text(stateKeys.record("prod"));
    let mutations = 0;
    account.world.onCall(({ mutates }) => {
      if (mutates) mutations++;
    });
    for (const preview of [true, false]) {
      const { status, body } = await account.ask<{ error: string; faults: { message: string }[] }>("POST", "/clusters/prod/restore", {
        confirm: "prod",
        snapshot,
        preview,
      });
      expect({ status, error: body.error, faults: body.faults.length }).toEqual({ status: 400, error: "Invalid", faults: 1 });
      expect(body.faults[0]?.message).toMatch(message);
    }
    expect(mutations).toBe(0);
    expect(account.text(stateKeys.record("prod"))).toBe(before);
    expect(account.world.denials).toEqual([]);
  });

  it("a name that was not typed, a survivor of a whole cluster, a name that is taken, and a cluster that never was", async () => {
    const account = new Account(saved);
    const post = async (path: string, body: object) =>
      (await account.ask<{ message: string; faults: { message: string }[] }>("POST", path, body)).body;
    expect((await post("/clusters/prod/restore", { confirm: "prud" })).message).toContain("its name must be given again");
    expect((await post("/clusters/prod/restore", { confirm: "prod", snapshot: "survivor" })).message).toContain("still has its majority");
    expect(await account.carryOut("POST", "/clusters/prod/restore", { confirm: "prod", as: "copy" })).toMatchObject({ status: "succeeded" });
    expect((await post("/clusters/prod/restore", { confirm: "prod", as: "copy" })).faults[0]?.message).toContain("a cluster copy exists since");
    expect((await post("/clusters/nobody/restore", { confirm: "nobody" })).message).toContain("There is and was no cluster nobody");
  });
});

describe("a restore that is cut short", () => {
  /** Where something begins that cannot be taken back, or is only half done when it stops. */
  const states = {
    "in place": [
      "Begin restore",
      "Stop servers",
      "Decide who restores",
      "Restore snapshot",
      "Register restored server",
      "Rejoin server",
      "Register server",
      "Verify cluster",
      "Take snapshot",
      "Close operation",
    ],
    // It runs, and answers nobody: it cannot be told to stop, so it is terminated.
    "in place beside a silent server": ["Terminate lost nodes", "Remove stale group"],
    "onto new nodes": ["Launch nodes", "Await first server", "Prepare first server", "Restore snapshot", "Rejoin server", "Remove stale group"],
  };
  /** Runs until a state has been entered, lets it get half-way, and stops the execution. */
  async function cutShort(account: Account, state: string): Promise<void> {
    const { body } = await account.ask<RestoreAccepted>("POST", "/clusters/prod/restore", { confirm: "prod" });
    const sfn = account.world.service<Sfn>("sfn");
    const { execution = "" } = account.operation("prod", body.operation) ?? {};
    const entered = () => sfn.execution(execution)?.history.some((event) => (event.details?.[1] as { name?: string } | undefined)?.name === state);
    await account.world.runUntil(() => entered() === true || sfn.execution(execution)?.status !== "RUNNING", {
      at: account.world.clock.now() + 4 * 3_600_000,
    });
    expect(entered()).toBe(true);
    await account.world.runFor({ seconds: state === "Restore snapshot" || state === "Rejoin server" ? 15 : 0.2 });
    if (sfn.execution(execution)?.status === "RUNNING")
      account.as("sfn", "StopExecution", { executionArn: execution, cause: "stopped by an operator" });
    expect((await account.end("prod", body.operation)).status).toMatch(/failed|succeeded/);
    await account.world.runFor({ minutes: 3 });
  }

  it.each(Object.entries(states).flatMap(([way, names]) => names.map((state) => [way, state] as const)))(
    "%s, in '%s', is finished by asking again",
    async (way, state) => {
      const account = new Account(saved);
      if (way === "onto new nodes") {
        account.lose(account.servers());
        await account.world.runFor({ minutes: 3 });
      }
      if (way === "in place beside a silent server") {
        const last = account.servers().at(-1);
        const machine = account.world
          .service<Ec2>("ec2")
          .living()
          .find(({ id }) => id === last);
        // For SSM it is gone; it still runs, and its etcd with it.
        account.world.service<Ssm>("ssm").instanceLost(machine as InstanceFacts);
        await account.world.runFor({ minutes: 12 });
      }
      await cutShort(account, state);
      const begun = account.record().restore?.id;
      const operation = await restore(account, { snapshot: proven.id });
      expect({ status: operation.status, card: operation.card?.what }).toEqual({ status: "succeeded", card: undefined });
      account.expectRestored(operation);
      // Nothing destructive was done twice: it went on under the first restore's id, unless that had come to its end.
      if (begun !== undefined) expect(account.record().bootstrap?.restore).toBe(begun);
    },
  );

  it("begins anew on another server when the one that restored is gone", async () => {
    const account = new Account(saved);
    await cutShort(account, "Rejoin server");
    account.lose([account.record().bootstrap?.instanceId ?? ""]);
    await account.world.runFor({ minutes: 2 });
    const operation = await restore(account, { snapshot: proven.id });
    account.expectRestored(operation);
    expect(account.record().bootstrap?.restore).toBe(operation.id);
  });

  it("lets nobody else make the cluster meanwhile", async () => {
    const account = new Account(saved);
    await cutShort(account, "Restore snapshot");
    const { status } = await account.ask("POST", "/clusters/prod/snapshots", {});
    expect(status).toBe(409);
    expect((await account.ask("POST", "/clusters", { file: JSON.stringify(file) })).status).toBe(400);
  });
});

describe("a drill", () => {
  it("restores the newest proven snapshot on a server that nobody reaches, compares, and throws it away", async () => {
    const account = new Account(saved);
    const before = account.rke2();
    const operation = await account.carryOut("POST", "/clusters/prod/drill", {});
    expect({ status: operation.status, card: operation.card }).toEqual({ status: "succeeded", card: undefined });
    expect(account.record().lastDrill).toMatchObject({ snapshot: proven.id, proven: true });
    expect(account.record().phase).toBe("ready");
    expect(account.servers("drill")).toEqual([]);
    expect(account.rke2().members).toEqual(before.members);
    expect(account.laws.seen.world.resources().filter(({ kind }) => kind === "security-group")).toHaveLength(2);
    expect(account.world.denials).toEqual([]);
  });

  it("gives its server no way to the cluster: TLS out, nothing in", async () => {
    const account = new Account(saved);
    await account.ask("POST", "/clusters/prod/drill", {});
    await account.world.runUntil(() => account.servers("drill").length === 1, { at: account.world.clock.now() + 600_000 });
    const [own] = account.servers("drill");
    const { Reservations } = account.as("ec2", "DescribeInstances", { InstanceIds: [own] }) as {
      Reservations: { Instances: { SecurityGroups: { GroupId: string }[] }[] }[];
    };
    const groups = Reservations[0]?.Instances[0]?.SecurityGroups.map(({ GroupId }) => GroupId) ?? [];
    expect(groups).toHaveLength(1);
    const { SecurityGroups } = account.as("ec2", "DescribeSecurityGroups", { GroupIds: groups }) as {
      SecurityGroups: { IpPermissions: unknown[]; IpPermissionsEgress: { IpProtocol: string; FromPort: number; ToPort: number }[] }[];
    };
    expect(SecurityGroups[0]?.IpPermissions).toEqual([]);
    expect(SecurityGroups[0]?.IpPermissionsEgress.map(({ IpProtocol, FromPort, ToPort }) => [IpProtocol, FromPort, ToPort])).toEqual([
      ["tcp", 443, 443],
    ]);
  });

  it("fails when the snapshot is not what its manifest says, leaves the cluster alone, and throws its server away all the same", async () => {
    const account = new Account(saved);
    const { uid } = account.record();
    const wrong = Buffer.from(JSON.stringify({ ...proven, etcd: { ...proven.etcd, keys: proven.etcd.keys + 1 } }));
    const ChecksumSHA256 = createHash("sha256").update(wrong).digest("base64");
    account.as("s3", "PutObject", {
      Bucket: account.bucket("SNAPSHOT_BUCKET"),
      Key: snapshotKeys.manifest(uid, proven.id),
      Body: wrong,
      ChecksumSHA256,
    });
    const operation = await account.carryOut("POST", "/clusters/prod/drill", {});
    expect(operation).toMatchObject({ status: "failed", card: { failure: "Unsafe", state: "Compare with manifest", left: { resources: [] } } });
    expect(operation.card?.what).toContain(`keys at revision ${proven.etcd.revision}, expected ${proven.etcd.keys + 1}`);
    expect(account.record()).toMatchObject({ phase: "ready", lastDrill: { proven: false } });
    expect(account.servers("drill")).toEqual([]);
  });

  it.each(["Launch drill server", "Prepare drill server", "Restore on drill server", "Compare with manifest"])(
    "that is stopped in '%s' leaves a server that the next one throws away",
    async (state) => {
      const account = new Account(saved);
      const { body } = await account.ask<{ operation: string }>("POST", "/clusters/prod/drill", {});
      const sfn = account.world.service<Sfn>("sfn");
      const { execution = "" } = account.operation("prod", body.operation) ?? {};
      const entered = () => sfn.execution(execution)?.history.some((event) => (event.details?.[1] as { name?: string } | undefined)?.name === state);
      await account.world.runUntil(() => entered() === true, { at: account.world.clock.now() + 3_600_000 });
      await account.world.runFor({ seconds: 5 });
      if (sfn.execution(execution)?.status === "RUNNING")
        account.as("sfn", "StopExecution", { executionArn: execution, cause: "stopped by an operator" });
      const ended = await account.end("prod", body.operation);
      if (ended.status === "failed") expect(ended.card?.left.resources.map(({ id }) => id)).toEqual(account.servers("drill"));
      await account.world.runFor({ minutes: 2 });
      expect(await account.carryOut("POST", "/clusters/prod/drill", {})).toMatchObject({ status: "succeeded" });
      expect(account.servers("drill")).toEqual([]);
    },
  );

  it("leaves nothing that a delete of the cluster would not find", async () => {
    const account = new Account(saved);
    const { body } = await account.ask<{ operation: string }>("POST", "/clusters/prod/drill", {});
    await account.world.runUntil(() => account.servers("drill").length === 1, { at: account.world.clock.now() + 600_000 });
    const { execution = "" } = account.operation("prod", body.operation) ?? {};
    account.as("sfn", "StopExecution", { executionArn: execution, cause: "stopped by an operator" });
    await account.end("prod", body.operation);
    expect(account.servers("drill")).toHaveLength(1);
    await account.world.runFor({ minutes: 2 });
    expect(await account.carryOut("DELETE", "/clusters/prod", { confirm: "prod", skipSnapshot: true })).toMatchObject({ status: "succeeded" });
    expect(account.laws.seen.world.resources()).toEqual([]);
  });
});
