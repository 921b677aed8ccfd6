/**
 * A cluster on booted machines that loses its servers, and comes back from its snapshots: to the key, in every way there is. Asked of etcd itself.
 *
 * One cluster goes through all of it, because each restore has to stand on what the one before left.
 */
import { afterAll, beforeAll, expect, it } from "vitest";
import { stateKeys } from "../../core/layout.js";
import { Account, clusterFile } from "./account.js";
import { describeMachines } from "./machine-tests.js";

const name = "rest";

describeMachines("a cluster that loses its servers", () => {
  let account: Account;
  beforeAll(async () => {
    account = await Account.open();
    expect(await account.create(clusterFile(name, 3, 1))).toMatchObject({ status: "succeeded" });
  });
  afterAll(() => account?.close());

  const servers = () => account.nodes(name, "server");
  const keysOfAny = async () => account.keys((await servers())[0]?.instanceId ?? "");
  const expectWritten = async (keys: number) => {
    for (const { instanceId } of await servers()) expect([instanceId, await account.keys(instanceId).written()]).toEqual([instanceId, keys]);
  };
  const newest = () => account.record(name).newestProven?.id ?? "";
  const expectSuccess = (operation: object) => expect(operation, JSON.stringify(operation)).toMatchObject({ status: "succeeded" });

  it("gets exactly its 1,000 keys back onto new machines when all three are destroyed, and was told of the 200 that are lost", async () => {
    await (await keysOfAny()).write(0, 1000);
    expectSuccess(await account.backup(name));
    const thousand = newest();
    for (let key = 1000; key < 1200; key += 20) await (await keysOfAny()).write(key, 20);
    expectSuccess(await account.backup(name));
    await expectWritten(1200);

    const agents = await account.nodes(name, "agent");
    await account.lose(name, await servers(), "cluster lost");
    const { loss, plan } = await account.preview(name, { snapshot: thousand });
    // Ten writes of twenty keys: a later snapshot knows of them.
    expect(loss?.revisionsAtLeast).toBeGreaterThanOrEqual(10);
    expect(plan.join("\n")).toContain(`Everything written to the cluster since ${loss?.since} is lost`);
    expectSuccess(await account.restore(name, { snapshot: thousand }));
    await expectWritten(1000);
    expect((await account.nodes(name, "agent")).map(({ instanceId }) => instanceId)).toEqual(agents.map(({ instanceId }) => instanceId));
    await account.expectSound(name, "restored");
  });

  it("goes on from its last server when two of three are lost, and loses nothing", async () => {
    await (await keysOfAny()).write(1000, 50);
    const [survivor, ...others] = await servers();
    await account.lose(name, others, "quorum lost");
    expectSuccess(await account.restore(name, { snapshot: "survivor" }));
    expect((await servers()).map(({ instanceId }) => instanceId)).toContain(survivor?.instanceId);
    await expectWritten(1050);
    await account.expectSound(name, "restored");
  });

  it("is restored in place from a snapshot when two of three are lost", async () => {
    await (await keysOfAny()).write(2000, 30);
    const [survivor, ...others] = await servers();
    await account.lose(name, others, "quorum lost");
    // The newest is the one that the restore before this ended with.
    expectSuccess(await account.restore(name, { snapshot: newest() }));
    expect((await servers()).map(({ instanceId }) => instanceId)).toContain(survivor?.instanceId);
    await expectWritten(1050);
    await account.expectSound(name, "restored");
  });

  it("opens a snapshot with the token of its time, though the servers have another since", async () => {
    const before = newest();
    const { uid, secrets } = account.record(name);
    const old = account.secret(name, "server-token");
    const rotated = "R0tated0n0neServer00000000000000";
    const [first] = await servers();
    const token = old.replace(/^.*::server:/, "");
    await account.sh(first?.instanceId ?? "", `rke2 token rotate --token '${token}' --new-token '${rotated}'`);
    // What a rotation leaves: a newer generation that is in use, and the older one.
    account.addSecret(name, "server-token", old.replace(token, rotated));
    await account.lose(name, await servers(), "cluster lost");
    expectSuccess(await account.restore(name, { snapshot: before }));
    await expectWritten(1050);
    expect(account.record(name).secrets["server-token"]).toBe(secrets["server-token"] + 2);
    expect(account.secret(name, "server-token")).toBe(old);
    expect(account.s3.read(account.bucket("STATE_BUCKET"), stateKeys.secret(uid, "server-token", secrets["server-token"]))).toBeDefined();
    await account.expectSound(name, "restored");
  });

  it("becomes another cluster beside itself, and stays as it is", async () => {
    const uidOf = async (cluster: string) => {
      const [server] = await account.nodes(cluster, "server");
      return await account.sh(server?.instanceId ?? "", "sha256sum </var/lib/rancher/rke2/server/tls/server-ca.crt");
    };
    const before = (await servers()).map(({ instanceId }) => instanceId);
    await (await keysOfAny()).write(3000, 10);
    expectSuccess(await account.restore(name, { as: "copy" }));
    for (const { instanceId } of await account.nodes("copy", "server")) expect(await account.keys(instanceId).written()).toBe(1050);
    expect(await uidOf("copy")).toBe(await uidOf(name));
    expect((await servers()).map(({ instanceId }) => instanceId)).toEqual(before);
    await expectWritten(1060);
    expectSuccess(await account.delete("copy"));
    await account.expectSound(name, "restored");
  });

  it("is deleted without a trace: no machine, network, mount or process of it is left", async () => {
    expect(await account.delete(name)).toMatchObject({ status: "succeeded" });
    account.expectNothingLeft();
  });
});
