import { describe, expect, it } from "vitest";
import { runbookAnchors } from "../../local/laws.js";
import { bucket, cardOf, clusterOf, deletion, execution, Stage, terminated } from "./watched.js";

const password = "kV3nQ8wZ1xT5rB7yH2mC9pL4sD6fG0jA1bE3uI5oN7vX9zQ2";
const url = `https://${bucket}.s3.eu-central-1.amazonaws.com/deliveries/uid-prod/d1/list?X-Amz-Expires=900&X-Amz-Signature=${"a".repeat(64)}`;

describe("a world that keeps the laws", () => {
  it("is not stopped, and everything in it is counted", () => {
    const stage = new Stage().settled();
    stage.put("secrets/uid-prod/server-token/000001.json", { value: password }, { ServerSideEncryption: "aws:kms" });
    stage.call("ssm", "SendCommand", { InstanceIds: ["s1"], Parameters: { mode: ["bootstrap"], delivery: [url] } });
    stage.record({
      bootstrap: { number: 1, instanceId: "s1", operation: "create-prod-1", at: "" },
      members: [{ instanceId: "s1", slot: 1, address: "", at: "" }],
    });
    stage.call("elastic-load-balancing-v2", "RegisterTargets", { TargetGroupArn: "tg-s", Targets: [{ Id: "s1" }] });
    stage.history({ details: ["stateExitedEventDetails", { name: "Join server", output: { ok: true } }] });
    stage.log("all is well");
    stage.call("ec2", "TerminateInstances", { InstanceIds: ["s4"] }, terminated("s4"));
    expect(Object.fromEntries(Object.entries(stage.laws.checked).filter(([, count]) => count === 0))).toEqual({ 7: 0, 9: 0, 12: 0 });
  });
});

describe("law 1: one bootstrap, ever", () => {
  it("is broken by a second cluster while a server of the first lives", () => {
    const stage = new Stage().settled();
    stage.record({ bootstrap: { number: 2, instanceId: "s4", operation: "create-prod-1", at: "" } });
    expect(() => stage.become([...stage.clusters, clusterOf(["s4"])])).toThrow(
      "law 1 (one bootstrap, ever): s4 made a second RKE2 cluster of prod while s1, s2, s3 of the first one lives",
    );
  });

  it("bears a second cluster once every server of the first is gone", () => {
    const stage = new Stage().settled();
    for (const id of ["s1", "s2", "s3"]) stage.running.delete(id);
    stage.record({ bootstrap: { number: 2, instanceId: "s4", operation: "create-prod-1", at: "" } });
    expect(() => stage.become([...stage.clusters, clusterOf(["s4"])])).not.toThrow();
  });

  it("is broken by a server that nobody chose, and by one that makes anew what was ready", () => {
    const unchosen = new Stage();
    unchosen.record({});
    expect(() => unchosen.become([clusterOf(["s1"])])).toThrow("s1 made the RKE2 cluster of prod, but the record chose nobody");
    const anew = new Stage();
    anew.record({ bootstrap: { number: 1, instanceId: "s1", operation: "o", at: "" }, readyAt: "2026-01-05T02:00:00Z" });
    expect(() => anew.become([clusterOf(["s1"])])).toThrow("s1 made prod anew, which was ready at 2026-01-05T02:00:00Z and may hold data");
  });

  it("is broken by the command itself when the record has not chosen its node", () => {
    const stage = new Stage().settled();
    const sent = () => stage.call("ssm", "SendCommand", { InstanceIds: ["s2"], Parameters: { mode: ["bootstrap"] } });
    expect(sent).toThrow("s2 was told to bootstrap prod while the record chose s1");
  });

  it("is broken by a record whose servers are not in one cluster", () => {
    const stage = new Stage();
    stage.record({ bootstrap: { number: 1, instanceId: "s1", operation: "o", at: "" } });
    stage.become([clusterOf(["s1"])]);
    const members = (...ids: string[]) => ids.map((instanceId, index) => ({ instanceId, slot: index + 1, address: "", at: "" }));
    expect(() => stage.record({ members: members("s1", "s2") })).toThrow(
      "the record of prod names s2 as a member, which never joined any RKE2 cluster",
    );
    stage.owners.set("x1", { cluster: "other", uid: "uid-other", role: "server" });
    stage.put("clusters/other/record.json", { uid: "uid-other", members: [], abandonedBootstraps: [], bootstrap: { instanceId: "x1" } });
    stage.become([...stage.clusters, clusterOf(["x1"])]);
    expect(() => stage.record({ members: members("s1", "x1") })).toThrow(
      "the servers of prod are not in one RKE2 cluster: s1 in cluster of s1, x1 in cluster of x1",
    );
  });
});

describe("law 2: one operation per cluster", () => {
  const launch = (stage: Stage, from?: object | null) => () =>
    stage.call("ec2", "RunInstances", {}, { by: "drover-launch-nodes", ...(from === undefined ? {} : { from }) });

  it("is broken by a change while nobody, or somebody else, holds the lease", () => {
    const stage = new Stage();
    expect(launch(stage)).toThrow(
      "law 2 (one operation per cluster): drover-launch-nodes called RunInstances for prod in the execution create-prod-1, while nobody holds the lease",
    );
    stage.lease(deletion);
    expect(launch(stage)).toThrow("while delete-prod-1 holds the lease");
    stage.lease(execution);
    expect(launch(stage)).not.toThrow();
    stage.call("s3", "DeleteObject", { Bucket: bucket, Key: "clusters/prod/lease.json" });
    expect(launch(stage)).toThrow("while nobody holds the lease");
  });

  it("is broken by a change outside any execution, and by one on another cluster's machine", () => {
    const stage = new Stage().settled();
    expect(launch(stage, {})).toThrow("drover-launch-nodes called RunInstances outside any execution");
    stage.owners.set("x1", { cluster: "other", uid: "uid-other", role: "agent" });
    expect(() => stage.call("ec2", "TerminateInstances", { InstanceIds: ["x1"] }, terminated("x1"))).toThrow(
      "drover-step called TerminateInstances for prod on x1, which is another cluster's",
    );
  });

  it("does not mind what was refused, and what only reads", () => {
    const stage = new Stage();
    stage.call("ec2", "RunInstances", {}, { error: "RequestLimitExceeded" });
    stage.call("ec2", "DescribeInstances", {});
    expect(stage.laws.checked[2]).toBe(0);
  });
});

describe("law 3: no act of ours breaks the etcd majority", () => {
  it("is broken by two learners at the same time", () => {
    const stage = new Stage().settled();
    const members = clusterOf(["s1", "s2", "s3"]).members.map((member) => ({ ...member, voter: member.instanceId === "s1" }));
    expect(() => stage.become([clusterOf(["s1", "s2", "s3"], { members })])).toThrow(
      "law 3 (no act of ours breaks the etcd majority): s2, s3 are learners of cluster of s1 at the same time",
    );
  });

  it("is broken by terminating a healthy voter that the majority needs", () => {
    const stage = new Stage().settled();
    const members = clusterOf(["s1", "s2", "s3"]).members.map((member) => ({ ...member, healthy: member.instanceId !== "s3" }));
    stage.become([clusterOf(["s1", "s2", "s3"], { members })]);
    expect(() => stage.call("ec2", "TerminateInstances", { InstanceIds: ["s2"] }, terminated("s2"))).toThrow(
      "drover-step terminated s2: 1 healthy of 3 voters are left, majority is 2",
    );
  });

  it("is broken by a removal that takes the majority, and not by machines that die", () => {
    const dying = new Stage().settled();
    expect(() => dying.become([clusterOf(["s1", "s2", "s3"], { hasQuorum: false })])).not.toThrow();
    const removing = new Stage().settled();
    expect(() => removing.become([clusterOf(["s1", "s3"], { id: "cluster of s1", hasQuorum: false })])).toThrow(
      "removing s2 from cluster of s1 took its etcd majority",
    );
  });
});

describe("law 4: fixed order at the endpoint", () => {
  const enter = (stage: Stage, id: string) => () =>
    stage.call("elastic-load-balancing-v2", "RegisterTargets", { TargetGroupArn: "tg-s", Targets: [{ Id: id }] });

  it("is broken by who enters a target group before it votes and is Ready", () => {
    const stage = new Stage().settled();
    expect(enter(stage, "s4")).toThrow("law 4 (fixed order at the endpoint): s4 entered a target group and is no etcd member");
    const whole = clusterOf(["s1", "s2"], { id: "cluster of s1" });
    stage.become([{ ...whole, members: whole.members.map((member) => ({ ...member, voter: member.instanceId === "s1" })) }]);
    expect(enter(stage, "s2")).toThrow("s2 entered a target group and does not vote yet");
    stage.become([{ ...whole, nodes: whole.nodes.filter((node) => node.instanceId === "s1") }]);
    expect(enter(stage, "s2")).toThrow("s2 entered a target group and was never Ready");
    expect(enter(stage, "s1")).not.toThrow();
  });

  it("is broken by a server that is terminated while targets are sent to it, also when its cluster is deleted", () => {
    const stage = new Stage().settled();
    stage.lease(deletion);
    stage.operation({ id: "delete-prod-1", kind: "delete" });
    const terminate = () =>
      stage.call(
        "ec2",
        "TerminateInstances",
        { InstanceIds: ["s1"] },
        { ...terminated("s1"), from: { cluster: "prod", operation: "delete-prod-1", execution: deletion } },
      );
    stage.targets.set("tg-a", ["s1"]);
    expect(terminate).toThrow("s1 was terminated while it was in the target group tg-a");
    stage.targets.clear();
    expect(terminate).not.toThrow();
  });

  it("is broken by a member that is terminated before the cluster has forgotten it, unless that cluster was given up", () => {
    const stage = new Stage().settled();
    const five = clusterOf(["s1", "s2", "s3", "s4", "s5"]);
    stage.owners.set("s5", { cluster: "prod", uid: "uid-prod", role: "server" });
    stage.become([five]);
    const terminate = () => stage.call("ec2", "TerminateInstances", { InstanceIds: ["s5"] }, terminated("s5"));
    expect(terminate).toThrow("s5 was terminated while it was an etcd member of cluster of s1");
    stage.record({ abandonedBootstraps: [{ number: 1, instanceId: "s1", operation: "o", at: "" }] });
    expect(terminate).not.toThrow();
  });
});

describe("law 5: nodes hold no keys to the kingdom", () => {
  it("is broken by a call with the node's own role", () => {
    expect(() => new Stage().call("s3", "GetObject", {}, { by: "node's own" })).toThrow(
      "law 5 (nodes hold no keys to the kingdom): a node's own role was used for s3 GetObject",
    );
  });

  it("is broken by a node that puts what it could replace, or does anything else but get and put", () => {
    const stage = new Stage();
    const put = (more: object) => () =>
      stage.call("s3", "PutObject", { Bucket: bucket, Key: "uploads/uid-prod/u/kubeconfig", ...more }, { by: "node" });
    expect(put({})).toThrow("a node put uploads/uid-prod/u/kubeconfig without If-None-Match: it could have replaced it");
    expect(put({ IfNoneMatch: "*", ServerSideEncryption: "aws:kms" })).not.toThrow();
    expect(() => stage.call("s3", "DeleteObject", { Bucket: bucket, Key: "x" }, { by: "node" })).toThrow("a node called s3 DeleteObject");
  });

  it("is broken by an address that lives longer than fifteen minutes", () => {
    const stage = new Stage().settled();
    const send = (delivery: string) => () => stage.call("ssm", "SendCommand", { InstanceIds: ["s1"], Parameters: { delivery: [delivery] } });
    expect(send(url)).not.toThrow();
    expect(send(url.replace("Expires=900", "Expires=901"))).toThrow("a URL in a command for s1 lives 901 seconds, 900 are allowed");
  });

  it("is broken by a list that hands out another cluster's object, or a put that could replace", () => {
    const stage = new Stage().settled();
    const list = (line: string) => () => stage.put("deliveries/uid-prod/d1/list", `${line}\n`, { ServerSideEncryption: "aws:kms" });
    const get = (key: string) => ["get", "-", "0600", "/etc/rancher/rke2/config.yaml", url.replace("deliveries/uid-prod/d1/list", key)].join("\t");
    expect(list(get("deliveries/uid-prod/d1/config.yaml"))).not.toThrow();
    expect(list(get("deliveries/uid-other/d1/config.yaml"))).toThrow(
      "hands out state/deliveries/uid-other/d1/config.yaml, which is not its cluster's",
    );
    const put = ["put", "kubeconfig", url.replace("deliveries/uid-prod/d1/list", "uploads/uid-prod/u/kubeconfig")].join("\t");
    expect(list(put)).toThrow("hands out a PUT that could replace /uploads/uid-prod/u/kubeconfig");
    expect(list(`${put}\tif-none-match: *`)).not.toThrow();
  });
});

describe("law 6: no secret in the clear", () => {
  const knowing = () => {
    const stage = new Stage().settled();
    stage.put("secrets/uid-prod/server-token/000001.json", { value: password }, { ServerSideEncryption: "aws:kms" });
    return stage;
  };
  const ways: readonly (readonly [string, (stage: Stage, text: string) => void])[] = [
    ["a parameter of Run Command", (stage, text) => stage.call("ssm", "SendCommand", { InstanceIds: ["s1"], Parameters: { pool: [text] } })],
    ["an event on the bus", (stage, text) => stage.call("eventbridge", "PutEvents", { Entries: [{ Detail: text }] })],
    ["an event of AWS", (stage, text) => stage.laws.event({ source: "aws.states", detailType: "Status", detail: { cause: text } })],
    ["a history", (stage, text) => stage.history({ details: ["taskFailedEventDetails", { cause: text }] })],
    ["a log line", (stage, text) => stage.log(`token=${text}`)],
    ["an operation's record", (stage, text) => stage.operation({ outcome: { text } })],
    ["the answer to a waiting step", (stage, text) => stage.call("sfn", "SendTaskFailure", { taskToken: "t", cause: text })],
    ["the output of a command", (stage, text) => stage.call("ssm", "ListCommandInvocations", {}, { output: { Output: text } })],
    ["an answer of the API", (stage, text) => stage.laws.leaves(text, "an answer of the API")],
  ];

  it.each(ways)("is broken by a token in %s", (_, leak) => {
    const stage = knowing();
    expect(() => leak(stage, "nothing of note")).not.toThrow();
    expect(() => leak(stage, `K10aa::server:${password}`)).toThrow("law 6 (no secret in the clear): the server-token of uid-prod is in ");
  });

  it("is broken by the key of a kubeconfig, as a node uploaded it", () => {
    const stage = new Stage().settled();
    const kubeconfig = "users:\n- user:\n    client-key-data: c2ltdWxhdGVkIGNsaWVudCBrZXk=\n";
    stage.call(
      "s3",
      "PutObject",
      { Bucket: bucket, Key: "uploads/uid-prod/u/kubeconfig", Body: kubeconfig, IfNoneMatch: "*", ServerSideEncryption: "aws:kms" },
      { by: "node" },
    );
    expect(() => stage.log("key c2ltdWxhdGVkIGNsaWVudCBrZXk= was sent")).toThrow("the client key of a kubeconfig is in a log line of drover-step");
  });

  it("is broken by an address that is a key, anywhere but in a command's parameters and in Systems Manager's own events", () => {
    const stage = knowing();
    stage.call("ssm", "SendCommand", { InstanceIds: ["s1"], Parameters: { delivery: [url] } });
    stage.laws.event({ source: "aws.ssm", detailType: "EC2 Command Status-change Notification", detail: { parameters: url } });
    expect(() => stage.log(`fetching ${url}`)).toThrow("a presigned URL is in a log line of drover-step");
  });

  it("is broken by a task token outside the history and the callback it is for", () => {
    const stage = knowing();
    const token = `AQCkAAAAKgAAAAMAAAAAAAAAAS${"0".repeat(96)}`;
    stage.put("callbacks/c1.json", { taskToken: token });
    stage.history({ details: ["taskScheduledEventDetails", { parameters: { taskToken: token } }] });
    expect(() => stage.log(token)).toThrow("a task token is in a log line of drover-step");
  });
});

describe("law 8: state by reference", () => {
  it("is broken by a payload of more than 8 KiB", () => {
    const large = { nodes: "x".repeat(8 * 1024) };
    for (const member of ["input", "output", "parameters", "assignedVariables"]) {
      expect(() => new Stage().history({ details: ["stateExitedEventDetails", { name: "Gather agents", [member]: large }] })).toThrow(
        `law 8 (state by reference): ${member} of "Gather agents" in TaskStateExited of create-prod-1 has 8204 bytes, 8192 are allowed`,
      );
    }
  });

  it("is broken by a history of more than a tenth of what Step Functions keeps", () => {
    expect(() => new Stage().history({}, 2500)).not.toThrow();
    expect(() => new Stage().history({}, 2501)).toThrow("the history of create-prod-1 has 2501 events, 2500 are allowed");
  });
});

describe("law 11: what is deployed is what is simulated", () => {
  const denied = (resource: string) => ({
    role: "arn:aws:iam::1:role/step",
    action: "ec2:DeleteSecurityGroup",
    resource,
    context: {},
    explicit: false,
  });

  it("is broken by a role that lacks a right", () => {
    const stage = new Stage();
    stage.resources = [{ kind: "security-group", id: "sg-0a", uid: "uid-prod", isGoing: false }];
    stage.denials.push(denied("arn:aws:ec2:eu-central-1:1:security-group/sg-0a"));
    expect(() => stage.laws.step()).toThrow(
      "law 11 (what is deployed is what is simulated): step was denied ec2:DeleteSecurityGroup on arn:aws:ec2:eu-central-1:1:security-group/sg-0a",
    );
  });

  it("bears that who comes second to what is gone is denied", () => {
    const stage = new Stage();
    stage.denials.push(denied("arn:aws:ec2:eu-central-1:1:security-group/sg-0a"));
    expect(() => stage.laws.step()).not.toThrow();
  });
});

describe("law 12: every failure ends in one card", () => {
  const fail = (stage: Stage, card?: ReturnType<typeof cardOf>) => () =>
    stage.operation({ status: "failed", ...(card === undefined ? {} : { card }) });

  it("is broken by a failed operation without a card, and by a second card", () => {
    const stage = new Stage().settled();
    expect(fail(stage)).toThrow("law 12 (every failure ends in one card): create-prod-1 is marked as failed and has no card");
    fail(stage, cardOf())();
    expect(fail(stage, cardOf({ what: "something else" }))).toThrow("the card of create-prod-1 was written twice");
  });

  it("is broken by a card that does not help: unknown name, no heading in the runbook, nothing to type", () => {
    const card = (facts: Parameters<typeof cardOf>[0]) => fail(new Stage().settled(), cardOf(facts));
    expect(card({ failure: "Oops" })).toThrow("the card of create-prod-1 names the failure Oops, which no table knows");
    expect(card({ runbook: "docs/runbook.md#oops" })).toThrow("points at docs/runbook.md#oops, a heading that is not there");
    expect(card({ runbook: "docs/design.md#laws" })).toThrow("points at docs/design.md#laws, which is not the runbook");
    expect(card({ next: [] })).toThrow("does not say what happened, why, and what to type next");
  });

  it("is broken by a card that hides what costs money, or invents it", () => {
    const stage = new Stage().settled();
    stage.resources = [{ kind: "instance", id: "s1", uid: "uid-prod", isGoing: false }];
    stage.call("ec2", "DescribeVolumes", {}, { by: "drover-close-operation" });
    const left = (id: string) => cardOf({ left: { resources: [{ kind: "instance", id, detail: "", dollarsPerHour: 1 }], dollarsPerHour: 1 } });
    expect(fail(stage, cardOf())).toThrow("the card of create-prod-1 does not tell of instance s1, which is there");
    const inventing = new Stage().settled();
    expect(fail(inventing, left("s9"))).toThrow("the card of create-prod-1 tells of instance s9, which is not there");
  });
});

describe("the runbook's headings", () => {
  it("are read as GitHub links to them", () => {
    const anchors = runbookAnchors();
    for (const anchor of ["nodelost", "how-to-read-a-failure-card", "starttimedout"]) expect(anchors).toContain(anchor);
    expect(runbookAnchors("/nowhere/runbook.md")).toBeUndefined();
  });
});
