/** A create of three servers and two agents on booted machines, from the request to nothing left; and every node script a second time on its nodes. */
import { S3Client } from "@aws-sdk/client-s3";
import { afterAll, beforeAll, expect, it } from "vitest";
import { stateKeys } from "../../core/layout.js";
import { deliveryLine, type NodeCommandName, nodeCommands } from "../../core/node-commands.js";
import { deliveries } from "../../functions/aws/deliveries.js";
import { functionCredentials } from "../../local/kernel/lambda.js";
import type { DocumentContent } from "../../local/nodes/contract.js";
import { etcdMembers } from "../../local/nodes/machines/proofs.js";
import { Account, clusterFile } from "./account.js";
import { describeMachines } from "./machine-tests.js";

const name = "whole";

describeMachines("a create of three servers and two agents", () => {
  let account: Account;
  beforeAll(async () => {
    account = await Account.open();
  });
  afterAll(() => account?.close());

  it("makes one cluster that votes with three, is Ready on five, and answers through the load balancer", async () => {
    const operation = await account.create(clusterFile(name, 3, 2));
    expect(operation, JSON.stringify(operation.card)).toMatchObject({ status: "succeeded" });
    const { members, nodes } = await account.expectSound(name);
    expect([members.length, nodes.length]).toEqual([3, 5]);
    const zones = (await account.nodes(name, "server")).map(({ zone }) => zone);
    expect(new Set(zones).size).toBe(3);
  });

  /** Runs a document in a machine as it is deployed, and reads the one line it prints. */
  async function run(instanceId: string, command: NodeCommandName, parameters: Readonly<Record<string, string>>): Promise<{ changed?: boolean }> {
    const document = account.world.template.documents.find((each) => each.name.startsWith(`drover-${command}-`));
    if (document === undefined) throw new Error(`the template has no document for ${command}`);
    const run = { commandId: `again-${command}-${instanceId}`, instanceId, documentName: document.name, parameters };
    const { stdout, stderr } = await account.driver.run({ ...run, content: document.content as unknown as DocumentContent }).ended;
    const result = nodeCommands[command].result.safeParse(JSON.parse(stdout.split("\n")[0] || "null"));
    if (!result.success) throw new Error(`${command} on ${instanceId}: ${stdout}${stderr}`);
    return result.data;
  }

  /** Processes that hold data or serve, by their ids and when they began; what etcd calls its members; every file that a script may write. */
  async function stateOf(instanceId: string): Promise<string> {
    const processes =
      'ps -o pid=,lstart=,comm= -p "$(pgrep -d, -x etcd || echo 1),$(systemctl show -p MainPID --value rke2-server),$(systemctl show -p MainPID --value rke2-agent)"';
    const files =
      "find /etc/rancher /etc/sysctl.d /usr/local/bin /usr/local/lib/systemd /var/lib/rancher/rke2/agent/images /var/lib/drover -type f -printf '%p %m %s %T@ %i\\n' | sort";
    return await account.sh(instanceId, `${processes}; ${files}; sysctl fs.inotify.max_user_watches; cat /proc/sys/kernel/random/boot_id`);
  }

  it("bears every node script a second time: nothing changes, and no process begins anew", async () => {
    const nodes = await account.nodes(name);
    const [server, second] = nodes as readonly [(typeof nodes)[number], (typeof nodes)[number]];
    const before = await Promise.all(nodes.map(({ instanceId }) => stateOf(instanceId)));
    const members = await etcdMembers(account.driver, server.instanceId);

    const asked = new Set<NodeCommandName>();
    const again = async (instanceId: string, command: NodeCommandName, parameters: Readonly<Record<string, string>>) => {
      asked.add(command);
      expect([command, instanceId, await run(instanceId, command, parameters)]).toMatchObject([command, instanceId, { ok: true, changed: false }]);
    };
    // As they were sent, the same deliveries and all; on each machine in its order.
    for (const { instanceId } of nodes) {
      for (const { command, parameters } of account.sent.filter(({ instanceIds }) => instanceIds.includes(instanceId))) {
        await again(instanceId, command, parameters);
      }
    }
    // No create sends these two where nothing has failed.
    await again(second.instanceId, "remove-node", {
      pool: "server",
      role: "server",
      nodes: "server-i-0123456789abcdef0,workers-i-0fedcba9876543210",
    });
    await again(server.instanceId, "collect-diagnostics", { pool: "server", delivery: await diagnosticsDelivery() });
    // Those of a restore are sent a second time where one is made (snapshots.test.ts).
    const ofRestores = ["stop-server", "restore-snapshot", "rejoin-server"];
    expect([...asked].sort()).toEqual(
      Object.keys(nodeCommands)
        .filter((command) => !ofRestores.includes(command))
        .sort(),
    );

    expect(await etcdMembers(account.driver, server.instanceId)).toEqual(members);
    expect(await Promise.all(nodes.map(({ instanceId }) => stateOf(instanceId)))).toEqual(before);
    await account.expectSound(name);
  });

  /** A list with a place for the diagnostics, as the function that sends commands would sign it. */
  async function diagnosticsDelivery(): Promise<string> {
    const { uid } = account.record(name);
    const sender = account.world.template.functions.find((each) => each.name === "drover-run-node-command");
    const { SECRETS_KEY_ARN: key = "" } = (sender?.environment ?? {}) as Readonly<Record<string, string>>;
    const client = new S3Client({
      region: account.world.region,
      credentials: functionCredentials(sender?.name ?? ""),
      requestChecksumCalculation: "WHEN_REQUIRED",
    });
    const signed = deliveries(account.bucket("STATE_BUCKET"), key, client);
    const upload = await signed.upload("diagnostics", stateKeys.upload(uid, "again", "diagnostics.tar.gz"));
    const list = stateKeys.delivery(uid, "again", "list");
    account.s3.put(account.bucket("STATE_BUCKET"), list, `${deliveryLine(upload)}\n`);
    const entry = await signed.object(account.bucket("STATE_BUCKET"), list, "/var/lib/drover/staging/list", "0600", undefined);
    if (entry.kind !== "get") throw new Error("a list is fetched");
    return entry.url;
  }

  it("is deleted without a trace: no machine, network, mount or process of it is left", async () => {
    expect(await account.delete(name)).toMatchObject({ status: "succeeded" });
    account.expectNothingLeft();
  });
});
