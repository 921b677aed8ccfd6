import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { parse } from "yaml";
import type { ClusterStatus } from "../../core/api.js";
import type { OperationRecord } from "../../core/records.js";
import type { Sfn } from "../../local/aws/sfn.js";
import type { World } from "../../local/world.js";
import { masked, personKeys, release, Stage, type StageOptions, withRelease, world } from "./stage.js";

const examples = join(import.meta.dirname, "..", "..", "examples");
const ha = readFileSync(join(examples, "ha.yaml"), "utf8");

beforeAll(() => {
  for (const [name, value] of Object.entries(personKeys())) vi.stubEnv(name, value);
});

function stageWith(of: World, options: StageOptions = {}): Stage {
  const stage = new Stage({ world: of, ...options });
  writeFileSync(join(stage.directory, "ha.yaml"), ha);
  return stage;
}

const executions = (of: World) => of.service<Sfn>("sfn").executions().length;

describe("a cluster's life", () => {
  const account = withRelease(world());
  const stage = stageWith(account);

  it("is shown first: without --yes and without a terminal nothing is changed, and the exit code is 2", async () => {
    const { code, out, err } = await stage.drover("create", "ha.yaml");
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err.split("\n")).toEqual([
      expect.stringMatching(/^At .*\.execute-api\.eu-central-1\.amazonaws\.com \(eu-central-1\):$/),
      `  - Create RKE2 ${release} cluster ha`,
      "  - Launch 3 server(s) m6i.xlarge or m5.xlarge over 3 subnet(s)",
      "  - Launch 2 agent(s) of pool general, m6i.large or m5.large, on-demand",
      "  - Launch 2 agent(s) of pool batch, m6i.large or m5.large, spot",
      expect.stringContaining("network load balancer, internal"),
      "  - Install rke2.linux-amd64.tar.gz, rke2-images.linux-amd64.tar.zst from the",
      "    artifact store",
      expect.stringMatching(/^ {2}- Ready in about \d+ minutes; costs about \$\d+\.\d\d an hour \(on-demand list prices$/),
      "    of us-east-1)",
      "This is not a terminal, so nobody can be asked; nothing was changed",
      "Read what would be done, then add --yes",
      "",
    ]);
    expect(executions(account)).toBe(0);
    expect(await stage.json("list")).toMatchObject({ code: 0, data: { clusters: [] } });
  });

  it("is not begun when the person says no", async () => {
    stage.answers = ["n"];
    expect(await stage.drover("create", "ha.yaml")).toMatchObject({ code: 0, out: "Nothing was changed.\n" });
    stage.answers = undefined;
    expect(stage.questions).toEqual(["Create ha? [y/N] "]);
    expect(executions(account)).toBe(0);
  });

  it("is created with --yes and followed to its end, step by step", async () => {
    const { code, out, err } = await stage.drover("create", "ha.yaml", "--yes");
    expect({ code, out: masked(out) }).toEqual({
      code: 0,
      out: [
        "ha is ready after TIME",
        "  endpoint    https://drv-ha-ID.elb.eu-central-1.amazonaws.com:6443",
        "  kubeconfig  drover kubeconfig ha --output ha.kubeconfig",
        "",
      ].join("\n"),
    });
    const lines = masked(err).split("\n");
    expect(lines).toContain("Operation create-ha-ID; Ctrl-C stops watching, not the operation");
    const order = ["lease", "endpoint", "plan", "launch", "credentials", "first server online", "bootstrap decided", "bootstrap", "verify", "ready"];
    const named = lines.flatMap((line) => /^ +TIME {2}([a-z ]+?) {2,}/.exec(line)?.[1] ?? []);
    expect(named.filter((name) => order.includes(name))).toEqual(order);
    expect(lines).toContainEqual(
      expect.stringMatching(/^ +TIME {2}bootstrap {12}server-\d \(i-ID\) votes and is in the endpoint \(TIME, expected TIME\)$/),
    );
    expect(lines).toContainEqual(expect.stringMatching(/^ +TIME {2}waiting for the endpoint to answer \(TIME, expected TIME\)$/));
  });

  it("is asked about every two seconds while it is watched", () => {
    expect(new Set(stage.pauses)).toEqual(new Set([2000]));
    expect(stage.pauses.length).toBeGreaterThan(100);
  });

  it("is listed", async () => {
    const { out } = await stage.drover("list");
    expect(masked(out)).toMatch(
      /^NAME {2}PHASE {2}VERSION {9}SERVERS {2}AGENTS {2}AGE +OPERATION\nha {4}ready {2}v1\.35\.7\+rke2r1 {2}3 {8}4 {7}TIME\n$/,
    );
  });

  it("shows its machines and conditions", async () => {
    const { code, out } = await stage.drover("status", "ha");
    expect(code).toBe(0);
    const lines = masked(out).split("\n");
    expect(lines[0]).toBe("ha  ready");
    expect(lines).toContain("  endpoint    https://drv-ha-ID.elb.eu-central-1.amazonaws.com:6443");
    expect(lines).toContain("  ok          ControlPlane: 3 of 3 servers vote");
    expect(lines.filter((line) => line.startsWith("server-i-ID")).length).toBe(3);
    expect(lines.filter((line) => /^(general|batch)-i-ID /.test(line)).length).toBe(4);
    expect(lines.at(-2)).toBe("create-ha-ID succeeded after TIME");
    const { data } = await stage.json<ClusterStatus>("status", "ha");
    expect(data.nodes.length).toBe(7);
    expect(JSON.stringify(data)).not.toMatch(/K10|BEGIN|password/);
  });

  it("gives its kubeconfig to a file that its owner alone can read, and overwrites none", async () => {
    const path = join(stage.directory, "ha.kubeconfig");
    const { code, out, err } = await stage.drover("kubeconfig", "ha", "--output", "ha.kubeconfig");
    expect({ code, out }).toEqual({ code: 0, out: "" });
    expect(err).toBe(`${path} is written, readable by you alone. Use it: kubectl --kubeconfig ${path} --context ha get nodes\n`);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(parse(readFileSync(path, "utf8"))).toMatchObject({ kind: "Config", "current-context": "ha" });

    writeFileSync(path, "mine");
    const again = await stage.drover("kubeconfig", "ha", "--output", "ha.kubeconfig");
    expect(again).toMatchObject({ code: 2, err: expect.stringMatching(/exists and is not overwritten\nChoose another file, add --force/) });
    expect(readFileSync(path, "utf8")).toBe("mine");
    expect((await stage.drover("kubeconfig", "ha", "-o", "ha.kubeconfig", "--force")).code).toBe(0);
    expect(readFileSync(path, "utf8")).toContain("current-context: ha");
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  it("adds its kubeconfig to one that is there, which otherwise stays as it is written", async () => {
    const path = join(stage.directory, "config");
    const mine = "# mine\napiVersion: v1\nkind: Config\nclusters:\n  - name: other\n    cluster: {server: https://other}\nusers: []\ncontexts: []\n";
    writeFileSync(path, mine);
    expect((await stage.drover("kubeconfig", "ha", "--merge", "--output", "config")).code).toBe(0);
    const text = readFileSync(path, "utf8");
    expect(text).toMatch(/^# mine\n/);
    expect(parse(text)).toMatchObject({
      clusters: [{ name: "other", cluster: { server: "https://other" } }, { name: "ha" }],
      users: [{ name: "ha-admin" }],
      contexts: [{ name: "ha", context: { cluster: "ha", user: "ha-admin" } }],
      "current-context": "ha",
    });
    // The same once more changes nothing; another cluster of the name is not replaced unasked.
    expect((await stage.drover("kubeconfig", "ha", "--merge", "--output", "config")).code).toBe(0);
    expect(readFileSync(path, "utf8")).toBe(text);
    writeFileSync(path, text.replace(/server: https:\/\/drv[^\n]*/, "server: https://elsewhere"));
    expect(await stage.drover("kubeconfig", "ha", "--merge", "--output", "config")).toMatchObject({
      code: 2,
      err: expect.stringMatching(/holds another cluster named ha\nAdd --force/),
    });
    expect((await stage.drover("kubeconfig", "ha", "--merge", "--output", "config", "--force")).code).toBe(0);
    expect(parse(readFileSync(path, "utf8"))).toEqual(parse(text));
  });

  it("is not created twice", async () => {
    const { code, err } = await stage.drover("create", "ha.yaml", "--yes");
    expect(code).toBe(2);
    expect(err).toMatch(/^A cluster ha exists since .*\nChoose another name, or look at it: drover status ha\n$/);
  });

  it("answers a repeated request with the first operation", async () => {
    const before = executions(account);
    const { data } = await stage.json<{ operation: OperationRecord }>("operations", "ha", await latest(stage));
    const { code, data: again } = await stage.json<{ operation: OperationRecord }>("create", "ha.yaml", "--request-id", data.operation.requestId);
    expect(code).toBe(0);
    expect(again.operation).toEqual(data.operation);
    expect(executions(account)).toBe(before);
  });

  it("is not deleted when another name is typed, given, or nobody is there to type", async () => {
    const before = executions(account);
    stage.answers = ["hb"];
    const typed = await stage.drover("delete", "ha");
    expect(typed).toMatchObject({
      code: 2,
      err: expect.stringMatching(/To delete ha its name must be given again; found "hb"; nothing was changed\n/),
    });
    expect(typed.err).toContain("  - Terminate 7 machine(s)");
    stage.answers = undefined;
    expect(await stage.drover("delete", "ha", "--confirm", "hb")).toMatchObject({ code: 2, err: expect.stringMatching(/^To delete ha its name/) });
    expect(await stage.drover("delete", "ha")).toMatchObject({ code: 2, err: expect.stringMatching(/nobody can be asked.*\n.*add --confirm ha\n$/) });
    expect(executions(account)).toBe(before);
    expect((await stage.json<ClusterStatus>("status", "ha")).data.record.phase).toBe("ready");
  });

  it("is deleted when its name is typed, and says what is left", async () => {
    stage.answers = ["ha"];
    const { code, out, err } = await stage.drover("delete", "ha");
    stage.answers = undefined;
    expect({ code, out: masked(out) }).toEqual({
      code: 0,
      out: "ha is deleted after TIME; nothing is left\n  last snapshot  SNAPSHOT, in the snapshot bucket\n",
    });
    expect(masked(err)).toMatch(/TIME {2}nodes {16}7 machine\(s\) are gone/);
    expect(await stage.json("list")).toMatchObject({ data: { clusters: [] } });
  });

  it("is remembered by its operations", async () => {
    const { out } = await stage.drover("operations", "ha");
    expect(
      masked(out)
        .split("\n")
        .map((line) => line.split("  ")[0]),
    ).toEqual(["OPERATION", "delete-ha-ID", "create-ha-ID", ""]);
    expect(await stage.drover("watch", "ha")).toMatchObject({ code: 0, out: expect.stringMatching(/^ha is deleted after/) });
    expect(await stage.drover("status", "ha")).toMatchObject({ code: 3, err: "There is no cluster ha\nSee which there are: drover list\n" });
  });
});

async function latest(stage: Stage): Promise<string> {
  const { data } = await stage.json<{ operations: OperationRecord[] }>("operations", "ha");
  return data.operations[0]?.id as string;
}

describe("an operation that is under way", () => {
  const account = withRelease(world({ seed: 2 }));
  const stage = stageWith(account);

  it("is started and left alone with --no-wait", async () => {
    const { code, data } = await stage.json<{ operation: { id: string } }>("create", "ha.yaml", "--yes", "--no-wait");
    expect(code).toBe(0);
    expect(data).toEqual({ operation: { id: expect.stringMatching(/^create-ha-[0-9a-f]{16}$/), cluster: "ha", status: "accepted" } });
    expect(stage.pauses).toEqual([]);
  });
  it("keeps others out: a second create ends with 4 and names it", async () => {
    const { code, err } = await stage.drover("create", "ha.yaml", "--yes");
    expect(code).toBe(4);
    expect(masked(err)).toBe("ha is busy: operation create-ha-ID is changing it\nWait for it: drover watch ha\n");
    const failed = await stage.json<{ error: object }>("delete", "ha", "--confirm", "ha");
    expect(failed).toMatchObject({ code: 4, data: { error: { kind: "busy", exitCode: 4, what: expect.stringContaining("is busy") } } });
  });
  it("goes on when Ctrl-C ends the watching, which says how to watch again and ends with 130", async () => {
    let pauses = 0;
    stage.onPause = () => {
      if (++pauses === 3) stage.interrupt();
    };
    const { code, err } = await stage.drover("watch", "ha");
    stage.onPause = () => {};
    expect(code).toBe(130);
    expect(masked(err)).toMatch(/Stopped watching create-ha-ID\nThe operation goes on\. Watch it again: drover watch ha\n$/);
    expect(account.service<Sfn>("sfn").running().length).toBe(1);
  });
  it("is followed through a time without network", async () => {
    const lost = Object.assign(new Error("socket hang up"), { code: "ECONNRESET" });
    let requests = 0;
    stage.network = () => (++requests > 3 && requests <= 10 ? lost : undefined);
    const { code, out, err } = await stage.drover("watch", await latest(stage));
    stage.network = () => undefined;
    expect(code).toBe(0);
    expect(out).toMatch(/^ha is ready/);
    expect(err.match(/socket hang up; the operation goes on, asking again/g)?.length).toBe(1);
    expect(err).toContain("The API answers again\n");
  });
});

describe("a create that fails", () => {
  const account = withRelease(world({ seed: 3 }));
  const stage = stageWith(account);

  it("ends with 1 and prints its card: what, where, the likely cause, what next, what is left and what it costs", async () => {
    account.faults.plan("capacityError", /./, 10_000);
    const { code, out, err } = await stage.drover("create", "ha.yaml", "--yes");
    expect({ code, out }).toEqual({ code: 1, out: "" });
    const card = masked(err.slice(err.indexOf("\nha: ")));
    expect(card).toMatch(/^\nha: create-ha-ID failed \(NoCapacity\) at 2026-01-05 TIME UTC\n/);
    expect(card).toMatch(/\n {2}What {7}\S/);
    expect(card).toMatch(/\n {2}Where {6}step "\S/);
    expect(card).toMatch(/\n {2}Likely {5}AWS has no room/);
    expect(card).toMatch(/\n {2}Runbook {4}docs\/runbook\.md#nocapacity\n/);
    expect(card).toMatch(/\n {2}Next\n {4}\$ drover validate FILE/);
    expect(card).toMatch(/\n {4}\$ drover delete ha {3}# or give it up\n/);
    expect(card).toMatch(/\n {2}Left until then: \d+ resources?, about \$\d+\.\d\d an hour\n/);
    // What is text is wrapped; commands and ids stay whole, to be copied.
    expect(card.split("\n").filter((line) => line.length > 80 && !/^ {4}/.test(line))).toEqual([]);
  });
  it("shows the card again, as text and as data", async () => {
    const id = await latest(stage);
    const { code, out } = await stage.drover("operations", "ha", id);
    expect(code).toBe(0);
    expect(out).toContain(`${id} failed (NoCapacity)`);
    const { data } = await stage.json<{ operation: OperationRecord }>("watch", "ha");
    expect(data.operation.card).toMatchObject({ failure: "NoCapacity", runbook: "docs/runbook.md#nocapacity" });
    expect((await stage.drover("status", "ha")).out).toContain(`Read its card: drover operations ha ${id}\n`);
    expect((await stage.drover("watch", "ha")).code).toBe(1);
  });
  it("goes on with the same file once there is room", async () => {
    account.healFaults();
    const { code, out } = await stage.drover("create", "ha.yaml", "--yes");
    expect(code).toBe(0);
    expect(out).toMatch(/^ha is ready after /);
  });
});

describe("a cluster that is protected", () => {
  it("is deleted only with --override-protection", async () => {
    const account = withRelease(world({ seed: 4 }));
    const stage = new Stage({ world: account });
    writeFileSync(join(stage.directory, "single.yaml"), readFileSync(join(examples, "single.yaml")));
    expect((await stage.drover("create", "-f", "single.yaml", "--yes")).code).toBe(0);
    expect((await stage.drover("status", "single")).out).toContain("  protection  cannot be deleted without --override-protection\n");
    expect(await stage.drover("delete", "single", "--confirm", "single")).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^single is protected from deletion .*\nIf you mean it: drover delete with --override-protection\n$/),
    });
    const { code, data } = await stage.json<{ operation: OperationRecord }>("delete", "single", "--confirm", "single", "--override-protection");
    expect(code).toBe(0);
    expect(data.operation).toMatchObject({ kind: "delete", status: "succeeded", outcome: { left: [], dollarsPerMonth: 0 } });
  });
});
