/** What runs on a node is killed in the middle of a create, without a last word. Where the create ends by that, the next one finishes. */
import { afterAll, beforeAll, expect, it } from "vitest";
import { Account, clusterFile, type Sent } from "./account.js";
import { describeMachines } from "./machine-tests.js";

const name = "struck";
const file = clusterFile(name, 3, 1);
const isJoining = ({ parameters }: Sent) => parameters.mode === "join";

describeMachines("a create in which a process of a node is killed", () => {
  let account: Account;
  beforeAll(async () => {
    account = await Account.open();
  });
  afterAll(() => account?.close());

  it("ends in a card when it was the script that prepares the first server", async () => {
    let instanceId = "";
    const operation = await account.createWhile(file, async () => {
      const sent = await account.next("prepare-node", ({ instanceIds, parameters }) => parameters.role === "server" && instanceIds.length === 1);
      [instanceId = ""] = sent.instanceIds;
      await account.untilSo(instanceId, "ls /var/lib/drover/staging/*");
      await account.killScript(instanceId);
    });
    account.expectCard(operation, { instanceId, code: "Internal", says: /prepare-node ended as Failed without a result/ });
  });

  it("ends in a card when it was the script that starts the first server, whose RKE2 and etcd are killed too and come back by themselves", async () => {
    let instanceId = "";
    const operation = await account.createWhile(file, async () => {
      [instanceId = ""] = (await account.next("start-server", ({ parameters }) => parameters.mode === "bootstrap")).instanceIds;
      await account.untilSo(instanceId, "pgrep --exact etcd");
      await account.signalService(instanceId, "rke2-server", "KILL");
      await account.killScript(instanceId);
    });
    account.expectCard(operation, { instanceId, code: "Internal", says: /start-server ended as Failed without a result/ });
    await account.untilSo(instanceId, "systemctl is-active rke2-server && pgrep --exact etcd");
  });

  it("goes on when RKE2 and etcd of a server are killed while it joins, and ends in a card when it was the script by which another joins", async () => {
    let third = "";
    const operation = await account.createWhile(file, async () => {
      // An agent that hangs as soon as it is started, and its script with no last word: it shows in the create after this one.
      const hang = account.next("start-agent").then(async ({ instanceIds: [agent = ""] }) => {
        await account.signalService(agent, "rke2-agent", "STOP");
        await account.killScript(agent);
      });
      const [second = ""] = (await account.next("start-server", isJoining)).instanceIds;
      const next = account.next("start-server", (sent) => isJoining(sent) && !sent.instanceIds.includes(second));
      await account.untilSo(second, "pgrep --exact etcd");
      await account.signalService(second, "rke2-server", "KILL");
      [third = ""] = (await next).instanceIds;
      await account.untilSo(third, "systemctl is-active rke2-server | grep --quiet activ");
      await hang;
      await account.killScript(third);
    });
    account.expectCard(operation, { instanceId: third, code: "Internal", says: /start-server ended as Failed without a result/ });
  });

  it("ends in a card when it was the script that starts an agent, whose RKE2 hangs", async () => {
    let instanceId = "";
    const operation = await account.createWhile(file, async () => {
      [instanceId = ""] = (await account.next("start-agent")).instanceIds;
      await account.killScript(instanceId);
    });
    account.expectCard(operation, { instanceId, code: "Internal", says: /start-agent ended as Failed without a result/ });
    await account.signalService(instanceId, "rke2-agent", "KILL");
  });

  it("finishes at last, with every node that there was", async () => {
    const before = (await account.nodes(name)).map(({ instanceId }) => instanceId);
    const operation = await account.create(file);
    expect(operation, JSON.stringify(operation.card)).toMatchObject({ status: "succeeded" });
    await account.expectSound(name);
    expect((await account.nodes(name)).map(({ instanceId }) => instanceId)).toEqual(before);
  });
});
