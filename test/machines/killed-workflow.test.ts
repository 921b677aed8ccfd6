/**
 * A create that is killed in every state there is, and each time created again with the same file: it goes on, and ends as if nothing had been.
 *
 * One cluster goes through all of it. A kill is the worst there is: a function has just changed something and tells nobody, and the workflow is gone.
 */
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Ec2 } from "../../local/aws/ec2.js";
import { Account, archives, clusterFile, taskStatesOf } from "./account.js";
import { describeMachines } from "./machine-tests.js";

const name = "killed";
const file = clusterFile(name, 3, 1);

interface Kill {
  readonly in: string;
  /** The call after whose effect the function is lost; its first change unless given. */
  readonly after?: string;
  /** What is done to the cluster before. */
  readonly given?: (account: Account) => Promise<unknown>;
  /** How the operation ends: with the card of an abort, unless it had said already how it ends. */
  readonly ends?: object;
}

const aborted = { status: "failed", card: { failure: "Aborted" } };

/** In the order in which a create comes by. Each goes on where the one before was killed. */
const kills: readonly Kill[] = [
  { in: "Open operation" },
  { in: "Create endpoint", after: "CreateTargetGroup" },
  { in: "Plan nodes" },
  { in: "Launch nodes", after: "RunInstances" },
  { in: "Find lost nodes" },
  { in: "Create credentials" },
  { in: "Await first server" },
  {
    in: "Record failure",
    given: async (account) => account.spoil(archives.images),
    ends: { status: "failed", card: { failure: "NodeCommandFailed", runbook: "docs/runbook.md#checksummismatch" } },
  },
  { in: "Prepare first server", after: "SendCommand", given: async (account) => account.mend(archives.images) },
  { in: "Await other servers" },
  { in: "Prepare other servers", after: "SendCommand" },
  { in: "Gather agents" },
  { in: "Start agent group" },
  { in: "Prepare agents", after: "SendCommand" },
  { in: "Decide bootstrap" },
  { in: "Start first server", after: "SendCommand" },
  { in: "Register first server", after: "RegisterTargets" },
  { in: "Admit agents" },
  { in: "Start agents", after: "SendCommand" },
  { in: "Choose server to join" },
  { in: "Join server", after: "SendCommand" },
  { in: "Register server", after: "RegisterTargets" },
  { in: "Verify cluster", after: "SendCommand" },
  { in: "Remove lost nodes", after: "SendCommand", given: loseServer },
  { in: "Terminate lost nodes" },
  { in: "Store kubeconfig" },
  { in: "Take snapshot" },
  { in: "Save snapshot", after: "SendCommand" },
  { in: "Upload snapshot", after: "SendCommand" },
  { in: "Prove snapshot", after: "PutObject" },
  { in: "Record why", given: onServers("rm -rf /var/lib/drover/snapshots; touch /var/lib/drover/snapshots") },
  { in: "Await endpoint", given: onServers("rm -f /var/lib/drover/snapshots") },
  // It had said that the cluster is ready, and so it is.
  { in: "Close operation", ends: { status: "succeeded" } },
];

/** A server that votes dies: two are left of three, and that is a majority. */
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

const tasks = ["create-cluster", "start-agent-group", "take-snapshot"].flatMap(taskStatesOf);

describeMachines("a create that is killed in a state, and created again", () => {
  let account: Account;
  beforeAll(async () => {
    account = await Account.open();
  });
  afterAll(() => account?.close());

  it("is killed here in every Task state that the workflows have", () => {
    expect(kills.map((kill) => kill.in).sort()).toEqual(tasks.map((task) => task.name).sort());
  });

  it.each(kills.map((kill) => [kill.in, kill] as const))("goes on from where it was killed: %s", async (_, kill) => {
    await kill.given?.(account);
    const state = tasks.find((task) => task.name === kill.in);
    if (state === undefined) throw new Error(`no workflow has a state "${kill.in}"`);
    expect(await account.killedIn(state, () => account.create(file), kill.after)).toMatchObject(kill.ends ?? aborted);
  });

  it("has in the end one cluster, made once, of all its nodes and nobody else", async () => {
    await account.expectSound(name);
  });
});
