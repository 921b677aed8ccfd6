/**
 * A restore that is killed in every state there is, and each time asked for again with the same snapshot: it goes on or begins anew, and in the end the
 * cluster is whole and is what the snapshot was. What a kill is: see killed-workflow.test.ts.
 */
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Ec2 } from "../../local/aws/ec2.js";
import { Account, clusterFile, taskStatesOf } from "./account.js";
import { describeMachines } from "./machine-tests.js";

const name = "cut";

interface Kill {
  readonly in: string;
  /** The call after whose effect the function is lost; its first change unless given. */
  readonly after?: string;
  readonly given?: (account: Account) => Promise<unknown>;
  readonly ends?: object;
}

const aborted = { status: "failed", card: { failure: "Aborted" } };
/** No RKE2 resets a cluster while its configuration names a server to join. */
const wrongFile = "/etc/rancher/rke2/config.yaml.d/90-wrong.yaml";

/** In the order in which a restore comes by. */
const kills: readonly Kill[] = [
  { in: "Open operation" },
  { in: "Begin restore" },
  { in: "Stop servers", after: "SendCommand" },
  { in: "Create endpoint" },
  { in: "Plan nodes" },
  { in: "Launch nodes", after: "RunInstances", given: loseServer },
  { in: "Await first server" },
  { in: "Prepare first server", after: "SendCommand" },
  { in: "Await other servers" },
  { in: "Prepare other servers", after: "SendCommand" },
  { in: "Gather agents" },
  { in: "Start agent group" },
  { in: "Decide who restores" },
  {
    in: "Record failure",
    given: onServers(`printf 'server: https://10.0.0.1:9345\\n' >${wrongFile}`),
    ends: { status: "failed", card: { failure: "NodeCommandFailed", runbook: "docs/runbook.md#configinvalid" } },
  },
  { in: "Restore snapshot", after: "SendCommand", given: onServers(`rm -f ${wrongFile}`) },
  { in: "Register restored server", after: "RegisterTargets" },
  { in: "Choose server to join" },
  { in: "Rejoin server", after: "SendCommand" },
  { in: "Register server", after: "RegisterTargets" },
  { in: "Find stale nodes" },
  { in: "Remove stale group", after: "SendCommand" },
  { in: "Verify cluster", after: "SendCommand" },
  { in: "Store kubeconfig" },
  { in: "Take snapshot" },
  { in: "Await endpoint" },
  // It had said that the cluster is ready, and so it is.
  { in: "Close operation", ends: { status: "succeeded" } },
];

/** One server of three is gone: another takes its place, and its Node of the snapshot's time is to be removed. */
async function loseServer(account: Account): Promise<void> {
  const [, , last] = await account.nodes(name, "server");
  account.world.service<Ec2>("ec2").lose(last?.instanceId ?? "", "Host hardware failed");
}

/** Something is done to the disk of every server. */
function onServers(script: string): (account: Account) => Promise<void> {
  return async (account) => {
    for (const { instanceId } of await account.nodes(name, "server")) await account.sh(instanceId, script);
  };
}

/** A machine counts as lost when it has been silent for a quarter of an hour, which takes simulated time (test/cloud/restore.test.ts). */
const tasks = taskStatesOf("restore-cluster").filter((task) => task.name !== "Terminate lost nodes");

describeMachines("a restore that is killed in a state, and asked for again", () => {
  let account: Account;
  let snapshot = "";
  const restore = () => account.restore(name, { snapshot });

  beforeAll(async () => {
    account = await Account.open();
    expect(await account.create(clusterFile(name, 3, 1))).toMatchObject({ status: "succeeded" });
    const [server] = await account.nodes(name, "server");
    await account.keys(server?.instanceId ?? "").write(0, 1000);
    expect(await account.backup(name)).toMatchObject({ status: "succeeded" });
    snapshot = account.record(name).newestProven?.id ?? "";
    await account.keys(server?.instanceId ?? "").write(1000, 200);
  });
  afterAll(() => account?.close());

  it("is killed here in every Task state that the workflow has", () => {
    expect(kills.map((kill) => kill.in).sort()).toEqual(tasks.map((task) => task.name).sort());
  });

  it.each(kills.map((kill) => [kill.in, kill] as const))("goes on from where it was killed: %s", async (_, kill) => {
    await kill.given?.(account);
    const state = tasks.find((task) => task.name === kill.in);
    if (state === undefined) throw new Error(`the workflow has no state "${kill.in}"`);
    const operation = await account.killedIn(state, restore, kill.after);
    expect(operation, JSON.stringify(operation.card)).toMatchObject(kill.ends ?? aborted);
  });

  it("has in the end one cluster of all its nodes and nobody else, which is what the snapshot was", async () => {
    await account.expectSound(name, "restored");
    for (const { instanceId } of await account.nodes(name, "server")) expect(await account.keys(instanceId).written()).toBe(1000);
  });
});
