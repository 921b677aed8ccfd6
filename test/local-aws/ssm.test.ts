import { describe, expect, it } from "vitest";
import { Unmodelled } from "../../local/kernel/contract.js";
import { checkContent, checkDocument, errorOf, fleet, ubuntu } from "./fleet.js";
import { codeOf, permissionsOf } from "./tiny-world.js";

type Cloud = ReturnType<typeof fleet>;

async function online(cloud: Cloud, count = 1): Promise<string[]> {
  cloud.ssm.addDocument({ name: checkDocument, content: checkContent });
  const made = cloud.ids({ MinCount: count, MaxCount: count });
  await cloud.pass(600);
  return made;
}

const send = (cloud: Cloud, ids: readonly string[], overrides: Record<string, unknown> = {}): string =>
  cloud.ssmCall("SendCommand", {
    DocumentName: checkDocument,
    InstanceIds: ids,
    Parameters: { pool: ["server"] },
    TimeoutSeconds: 60,
    MaxErrors: "100%",
    ...overrides,
  }).Command.CommandId;
/** A command whose script keeps asking a store that is too busy, for half a minute. */
function slowCommand(cloud: Cloud, timeoutSeconds: number, ids: readonly string[]): Record<string, unknown> {
  const name = "drover-start-agent-00000000";
  const names = ["pool", "delivery", "joins", "endpoint"];
  cloud.ssm.addDocument({
    name,
    content: {
      ...checkContent,
      parameters: Object.fromEntries(names.map((each) => [each, { type: "String" }])),
      mainSteps: [{ action: "aws:runShellScript", name: "startagent", inputs: { timeoutSeconds } }],
    },
  });
  return {
    DocumentName: name,
    Parameters: {
      pool: ["workers"],
      delivery: ["https://store.example/busy"],
      joins: [ids.map((id) => `${id}:10.0.0.99`).join(",")],
      endpoint: ["e.example"],
    },
  };
}
const command = (cloud: Cloud, id: string) => cloud.ssmCall("ListCommands", { CommandId: id }).Commands[0];
const invocations = (cloud: Cloud, id: string) => cloud.ssmCall("ListCommandInvocations", { CommandId: id, Details: true }).CommandInvocations;
const pages = (cloud: Cloud, input: Record<string, unknown> = {}): string[] => {
  const seen: string[] = [];
  let next: string | undefined;
  do {
    const page = cloud.ssmCall("DescribeInstanceInformation", { ...input, NextToken: next });
    seen.push(...page.InstanceInformationList.map((each: { InstanceId: string }) => each.InstanceId));
    next = page.NextToken;
  } while (next !== undefined);
  return seen;
};

describe("managed instances", () => {
  it("come online some time after the instance runs, never before", async () => {
    const cloud = fleet();
    const [id = ""] = cloud.ids();
    let runningAtMs = 0;
    let onlineAtMs = 0;
    cloud.world.clock.afterEachEvent(() => {
      if (runningAtMs === 0 && cloud.state(id) === "running") runningAtMs = cloud.world.clock.now();
      if (onlineAtMs === 0 && pages(cloud).length > 0) onlineAtMs = cloud.world.clock.now();
    });
    await cloud.pass(600);
    expect(runningAtMs).toBeGreaterThan(0);
    expect(onlineAtMs - runningAtMs).toBeGreaterThan(3000);
    expect(cloud.ssmCall("DescribeInstanceInformation", {}).InstanceInformationList).toMatchObject([
      { InstanceId: id, PingStatus: "Online", PlatformName: "Ubuntu" },
    ]);
  });

  it("come online later than two minutes when that fault strikes", async () => {
    const cloud = fleet({ faults: { lateOnline: 1 } });
    cloud.ids();
    await cloud.pass(120);
    expect(pages(cloud)).toEqual([]);
    await cloud.pass(240);
    expect(pages(cloud)).toHaveLength(1);
  });

  it("never come online without an instance profile", async () => {
    const cloud = fleet();
    cloud.ids({ IamInstanceProfile: undefined });
    await cloud.pass(1200);
    expect(pages(cloud)).toEqual([]);
  });

  it("are ten to a page unless asked otherwise, five to fifty", async () => {
    const cloud = fleet();
    const made = await online(cloud, 23);
    expect(cloud.ssmCall("DescribeInstanceInformation", {}).InstanceInformationList).toHaveLength(10);
    expect(pages(cloud).sort()).toEqual([...made].sort());
    expect(pages(cloud, { MaxResults: 50, Filters: [{ Key: "InstanceIds", Values: made.slice(0, 3) }] }).sort()).toEqual(made.slice(0, 3).sort());
    expect(codeOf(() => cloud.ssmCall("DescribeInstanceInformation", { MaxResults: 51 }))).toBe("ValidationException 400");
  });

  it("still look online for minutes after they died", async () => {
    const cloud = fleet();
    const [id = ""] = await online(cloud);
    cloud.ec2.lose(id, "Host hardware failed");
    await cloud.pass(60);
    expect(pages(cloud, { Filters: [{ Key: "PingStatus", Values: ["Online"] }] })).toEqual([id]);
    await cloud.pass(300);
    expect(pages(cloud, { Filters: [{ Key: "PingStatus", Values: ["Online"] }] })).toEqual([]);
    expect(pages(cloud, { Filters: [{ Key: "PingStatus", Values: ["ConnectionLost"] }] })).toEqual([id]);
  });
});

describe("sending a command", () => {
  it.each<[string, Record<string, unknown>, string]>([
    ["a document that is not there", { DocumentName: "drover-other" }, "InvalidDocument"],
    ["a version that is not there", { DocumentVersion: "2" }, "InvalidDocumentVersion"],
    ["a value its pattern does not allow", { Parameters: { pool: ["server; reboot"] } }, "InvalidParameters"],
    ["a value longer than allowed", { Parameters: { pool: ["s".repeat(31)] } }, "InvalidParameters"],
    ["a parameter it does not have", { Parameters: { pool: ["server"], shell: ["true"] } }, "InvalidParameters"],
    ["a missing parameter", { Parameters: {} }, "InvalidParameters"],
    ["two values for one string", { Parameters: { pool: ["a", "b"] } }, "InvalidParameters"],
    ["a delivery timeout under 30 seconds", { TimeoutSeconds: 29 }, "ValidationException"],
    ["a comment of 101 characters", { Comment: "c".repeat(101) }, "ValidationException"],
    ["a concurrency of nothing", { MaxConcurrency: "0" }, "ValidationException"],
    ["another document hash", { DocumentHash: "0".repeat(64), DocumentHashType: "Sha256" }, "InvalidDocument"],
  ])("refuses %s, and sends nothing", async (_, overrides, code) => {
    const cloud = fleet();
    const ids = await online(cloud);
    expect(errorOf(() => send(cloud, ids, overrides)).code).toBe(code);
    expect(cloud.ssm.history()).toEqual([]);
  });

  it("refuses instances that are not registered, or on their way out, at once", async () => {
    const cloud = fleet();
    const [id = ""] = await online(cloud);
    const [young = ""] = cloud.ids();
    expect(errorOf(() => send(cloud, [id, young]))).toMatchObject({ code: "InvalidInstanceId" });
    cloud.ec2Call("TerminateInstances", { InstanceIds: [id] });
    expect(errorOf(() => send(cloud, [id])).code).toBe("InvalidInstanceId");
  });

  it("takes at most fifty different instances", async () => {
    const cloud = fleet();
    const ids = await online(cloud, 51);
    expect(errorOf(() => send(cloud, ids)).code).toBe("ValidationException");
    expect(errorOf(() => send(cloud, [ids[0] as string, ids[0] as string])).code).toBe("DuplicateInstanceId");
    send(cloud, ids.slice(0, 50));
  });

  it("counts parameter values and document together against 64 KB", async () => {
    const cloud = fleet();
    const ids = await online(cloud);
    const name = "drover-check-cluster-11111111";
    cloud.ssm.addDocument({ name, content: { ...checkContent, parameters: { pool: { type: "String" } }, description: "d".repeat(60_000) } });
    send(cloud, ids, { DocumentName: name, Parameters: { pool: ["p".repeat(4000)] } });
    expect(errorOf(() => send(cloud, ids, { DocumentName: name, Parameters: { pool: ["p".repeat(6000)] } })).code).toBe("MaxDocumentSizeExceeded");
  });

  it("runs twice when it is sent twice", async () => {
    const cloud = fleet();
    const ids = await online(cloud);
    expect(send(cloud, ids)).not.toBe(send(cloud, ids));
    expect(cloud.ssm.history()).toHaveLength(2);
  });

  it("needs the document and every instance", async () => {
    const cloud = fleet();
    const [id = ""] = await online(cloud);
    const needed = permissionsOf(cloud.world, cloud.ssm, "SendCommand", { DocumentName: checkDocument, InstanceIds: [id] });
    expect(needed.map((each) => each.resource)).toEqual([
      `arn:aws:ssm:eu-central-1:111122223333:document/${checkDocument}`,
      `arn:aws:ec2:eu-central-1:111122223333:instance/${id}`,
    ]);
  });

  it("does not take a document whose pattern leaves its ends open, or whose shape is not modelled", () => {
    const { ssm } = fleet();
    const open = { ...checkContent, parameters: { pool: { type: "String", allowedPattern: "[a-z]+" } } };
    expect(() => ssm.addDocument({ name: "drover-open-00000000", content: open })).toThrow("anchor it with ^ and $");
    const [step] = checkContent.mainSteps;
    expect(() => ssm.addDocument({ name: "drover-two-00000000", content: { ...checkContent, mainSteps: [step as never, step as never] } })).toThrow(
      Unmodelled,
    );
  });
});

describe("the life of a command", () => {
  it("is invisible for a moment, then goes from pending to its end", async () => {
    const cloud = fleet({ seed: 6 });
    const ids = await online(cloud);
    const unseen: boolean[] = [];
    for (let round = 0; round < 12; round++) {
      const id = send(cloud, ids);
      unseen.push(cloud.ssmCall("ListCommandInvocations", { CommandId: id }).CommandInvocations.length === 0);
      if (unseen.at(-1))
        expect(codeOf(() => cloud.ssmCall("GetCommandInvocation", { CommandId: id, InstanceId: ids[0] }))).toBe("InvocationDoesNotExist 400");
      await cloud.pass(120);
      expect(command(cloud, id)).toMatchObject({ CompletedCount: 1, TargetCount: 1 });
    }
    expect(unseen).toContain(true);
    expect(unseen).toContain(false);
  });

  it("fails with the exit code and output of the script", async () => {
    const cloud = fleet();
    const ids = await online(cloud);
    const id = send(cloud, ids);
    await cloud.pass(120);
    expect(command(cloud, id)).toMatchObject({ Status: "Success", StatusDetails: "Incomplete" });
    const [invocation] = invocations(cloud, id);
    expect(invocation).toMatchObject({ Status: "Failed", StatusDetails: "Failed", CommandPlugins: [{ Name: "checkcluster", ResponseCode: 75 }] });
    expect(JSON.parse(invocation.CommandPlugins[0].Output.split("\n")[0])).toMatchObject({ ok: false, code: "NotReady" });
    expect(cloud.ssmCall("GetCommandInvocation", { CommandId: id, InstanceId: ids[0], PluginName: "checkcluster" })).toMatchObject({
      ResponseCode: 75,
      Status: "Failed",
    });
    expect(codeOf(() => cloud.ssmCall("GetCommandInvocation", { CommandId: id, InstanceId: ids[0], PluginName: "other" }))).toBe(
      "InvalidPluginName 400",
    );
  });

  it("is failed as a whole when more nodes failed than allowed", async () => {
    const cloud = fleet();
    const ids = await online(cloud, 3);
    const id = send(cloud, ids, { MaxErrors: "0" });
    await cloud.pass(120);
    expect(command(cloud, id)).toMatchObject({ Status: "Failed", StatusDetails: "Failed", ErrorCount: 3 });
  });

  it("sends to no further node after too many failed, one at a time", async () => {
    const cloud = fleet();
    const ids = await online(cloud, 5);
    const id = send(cloud, ids, { MaxErrors: "1", MaxConcurrency: "1" });
    await cloud.pass(300);
    expect(invocations(cloud, id).map((each: { StatusDetails: string }) => each.StatusDetails)).toEqual([
      "Failed",
      "Failed",
      "Terminated",
      "Terminated",
      "Terminated",
    ]);
  });

  it("stays in progress on a node that died until both timeouts are over", async () => {
    const cloud = fleet();
    const ids = await online(cloud, 2);
    const [dying = ""] = ids;
    const sentAt = cloud.world.clock.now();
    const id = send(cloud, ids, { TimeoutSeconds: 45 });
    cloud.ec2.lose(dying, "Host hardware failed");
    await cloud.pass(45 + 120 - 5);
    const before = invocations(cloud, id);
    expect(before.map((each: { Status: string }) => each.Status)).toEqual(["Pending", "Failed"]);
    await cloud.pass(10);
    expect((cloud.world.clock.now() - sentAt) / 1000).toBeCloseTo(170);
    expect(invocations(cloud, id)[0]).toMatchObject({ Status: "TimedOut", StatusDetails: "DeliveryTimedOut" });
    expect(cloud.ssmCall("GetCommandInvocation", { CommandId: id, InstanceId: dying }).StatusDetails).toBe("Delivery Timed Out");
    expect(command(cloud, id)).toMatchObject({ DeliveryTimedOutCount: 1, ErrorCount: 1 });
  });

  it("ends a script that runs longer than it may", async () => {
    const cloud = fleet();
    const ids = await online(cloud);
    const id = send(cloud, ids, slowCommand(cloud, 20, ids));
    await cloud.pass(15);
    expect(invocations(cloud, id)[0]).toMatchObject({
      Status: "InProgress",
      StatusDetails: "InProgress",
      CommandPlugins: [{ ResponseCode: -1, Output: "" }],
    });
    await cloud.pass(15);
    expect(invocations(cloud, id)[0]).toMatchObject({ Status: "TimedOut", StatusDetails: "ExecutionTimedOut" });
    expect(command(cloud, id)).toMatchObject({ ErrorCount: 1, CompletedCount: 1 });
  });

  it("stays in progress on a node that died in the middle, until both timeouts are over", async () => {
    const cloud = fleet();
    const ids = await online(cloud);
    const id = send(cloud, ids, { ...slowCommand(cloud, 200, ids), TimeoutSeconds: 30 });
    await cloud.pass(10);
    cloud.ec2.lose(ids[0] as string, "Host hardware failed");
    await cloud.pass(210);
    expect(invocations(cloud, id)[0]).toMatchObject({ Status: "InProgress" });
    await cloud.pass(15);
    expect(invocations(cloud, id)[0]).toMatchObject({ Status: "TimedOut", StatusDetails: "DeliveryTimedOut" });
  });

  it("can be cancelled", async () => {
    const cloud = fleet();
    const ids = await online(cloud, 3);
    const id = send(cloud, ids, { MaxConcurrency: "1" });
    await cloud.pass(1.3);
    cloud.ssmCall("CancelCommand", { CommandId: id });
    await cloud.pass(30);
    expect(command(cloud, id)).toMatchObject({ Status: "Cancelled", CompletedCount: 3 });
    expect(codeOf(() => cloud.ssmCall("CancelCommand", { CommandId: "00000000-0000-4000-a000-000000000000" }))).toBe("InvalidCommandId 400");
  });

  it("is found again by document, time and comment, the newest first", async () => {
    const cloud = fleet();
    const ids = await online(cloud);
    const first = send(cloud, ids, { Comment: "one" });
    await cloud.pass(100);
    const middle = `${new Date(cloud.world.clock.now() - 50_000).toISOString().slice(0, 19)}Z`;
    const second = send(cloud, ids, { Comment: "two" });
    await cloud.pass(100);
    const list = (filters: unknown[]) =>
      cloud
        .ssmCall("ListCommands", { Filters: filters })
        .Commands.map((each: { CommandId: string; Comment: string }) => [each.CommandId, each.Comment]);
    expect(list([{ key: "DocumentName", value: checkDocument }])).toEqual([
      [second, "two"],
      [first, "one"],
    ]);
    expect(list([{ key: "InvokedAfter", value: middle }])).toEqual([[second, "two"]]);
    expect(list([{ key: "DocumentName", value: "drover-other" }])).toEqual([]);
    expect(list([{ key: "ExecutionStage", value: "Complete" }])).toHaveLength(2);
  });

  it("is told on the bus, per node and as a whole, the whole with its parameters in clear", async () => {
    const cloud = fleet();
    const ids = await online(cloud, 2);
    const id = send(cloud, ids, { MaxErrors: "0" });
    await cloud.pass(120);
    const told = (type: string) => cloud.world.published.filter((event) => event.detailType === type).map((event) => event.detail);
    expect(told("EC2 Command Status-change Notification").map((detail) => detail["status"])).toEqual(["InProgress", "Failed"]);
    expect(told("EC2 Command Status-change Notification")[1]).toMatchObject({
      "command-id": id,
      "document-name": checkDocument,
      parameters: { pool: ["server"] },
    });
    const perNode = told("EC2 Command Invocation Status-change Notification");
    expect(
      perNode
        .filter((detail) => detail["status"] === "Failed")
        .map((detail) => detail["instance-id"])
        .sort(),
    ).toEqual([...ids].sort());
  });

  it("keeps the first 2,500 characters of an output in a list", async () => {
    const cloud = fleet();
    const ids = await online(cloud);
    const long = {
      ...cloud.nodes,
      run: () => ({ ended: Promise.resolve({ exitCode: 0, stdout: "o".repeat(30_000), stderr: "e".repeat(9000) }), kill: () => {} }),
    };
    cloud.world.add(long);
    const id = send(cloud, ids);
    await cloud.pass(60);
    expect(invocations(cloud, id)[0].CommandPlugins[0].Output).toHaveLength(2500);
    const whole = cloud.ssmCall("GetCommandInvocation", { CommandId: id, InstanceId: ids[0] });
    expect([whole.StandardOutputContent.length, whole.StandardErrorContent.length]).toEqual([24_000, 8000]);
  });
});

describe("parameters", () => {
  it("name the images of the account", () => {
    const { ssmCall } = fleet();
    const name = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id";
    expect(ssmCall("GetParameter", { Name: name }).Parameter).toMatchObject({ Value: ubuntu, Type: "String" });
    expect(codeOf(() => ssmCall("GetParameter", { Name: "/aws/service/none" }))).toBe("ParameterNotFound 400");
    expect(ssmCall("GetParameters", { Names: [name, "/none"] })).toMatchObject({ Parameters: [{ Name: name }], InvalidParameters: ["/none"] });
  });

  it("of AWS belong to no account", () => {
    const { world, ssm } = fleet();
    expect(permissionsOf(world, ssm, "GetParameter", { Name: "/aws/service/x" })).toEqual([
      { action: "ssm:GetParameter", resource: "arn:aws:ssm:eu-central-1::parameter/aws/service/x" },
    ]);
  });
});

describe("keeping Systems Manager between starts", () => {
  it("remembers who is online and what was sent", async () => {
    const before = fleet();
    const ids = await online(before);
    const id = send(before, ids);
    await before.pass(300);
    const after = fleet();
    after.ssm.load(structuredClone(before.ssm.save()));
    after.ec2.load(structuredClone(before.ec2.save()));
    after.nodes.load(structuredClone(before.nodes.save()));
    after.ssm.addDocument({ name: checkDocument, content: checkContent });
    await after.pass(900);
    expect(pages(after)).toEqual(ids);
    expect(command(after, id)).toMatchObject({ CompletedCount: 1 });
    expect(send(after, ids)).not.toBe(id);
  });
});
