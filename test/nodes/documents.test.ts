import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type NodeCommandName, nodeCommands } from "../../core/node-commands.js";
import { assembleScript, buildDocuments } from "../../nodes/documents.js";
import { Machine, preparation, version } from "./machine.js";

const documents = buildDocuments();
const names = Object.keys(nodeCommands) as NodeCommandName[];
const longestUrl = `https://store.example/${"a".repeat(3400)}?X-Amz-Signature=0`;

/** Values a workflow sends, by parameter. */
const samples: Record<string, readonly string[]> = {
  role: ["server", "agent"],
  pool: ["server", "a", "workers-2"],
  delivery: ["https://bucket.s3.eu-central-1.amazonaws.com/deliveries/x/list?X-Amz-Security-Token=IQo%2B&X-Amz-Signature=0f", longestUrl],
  version: ["v1.35.7+rke2r1", "v1.31.4-rc1+rke2r12"],
  profile: ["none", "cis"],
  selinux: ["true", "false"],
  mode: ["bootstrap", "join", "snapshot", "survivor"],
  joinAddress: ["10.0.1.5"],
  joins: ["i-0a1b2c3d4e5f60718:10.0.1.5", Array(50).fill("i-0a1b2c3d4e5f60718:100.100.100.100").join(",")],
  endpoint: ["drv-prod-1a2b3c4d-0123456789abcdef.elb.eu-central-1.amazonaws.com"],
  snapshot: ["20260105T020000Z-1a2b3c4d"],
  restore: ["restore-1a2b3c4d", "r".repeat(80)],
  revision: ["0", "123456789012345678"],
  nodes: ["server-i-0a1b2c3d4e5f60718", "workers-i-1,workers-i-2"],
};
const hostile = ["$(touch /tmp/x)", "`id`", "a;b", "a b", "a\nb", 'a"b', "a'b", "a|b", "--all", "a&b", "../x", "$HOME", "{{ ssm:x }}", "\\", "é"];

describe("SSM documents", () => {
  it.each(names)("%s has the contract's parameters, as strings that arrive in the environment", (name) => {
    const { content } = documents[name];
    expect(content.schemaVersion).toBe("2.2");
    expect(Object.keys(content.parameters).sort()).toEqual(Object.keys(nodeCommands[name].parameters.shape).sort());
    for (const parameter of Object.values(content.parameters)) {
      expect(parameter).toMatchObject({
        type: "String",
        interpolationType: "ENV_VAR",
        allowedPattern: expect.stringMatching(/^\^.*\$$/),
        maxChars: expect.any(Number),
      });
    }
  });

  it.each(names)("%s admits what the contract admits and refuses what could reach a shell", (name) => {
    const contract = nodeCommands[name].parameters.shape as Record<string, { safeParse(value: unknown): { success: boolean } }>;
    for (const [parameter, { allowedPattern, allowedValues, maxChars }] of Object.entries(documents[name].content.parameters)) {
      const admits = (value: string) =>
        new RegExp(allowedPattern).test(value) && value.length <= maxChars && (allowedValues?.includes(value) ?? true);
      for (const value of samples[parameter] ?? []) {
        expect(contract[parameter]?.safeParse(value).success, `${parameter} ${value}`).toBe(admits(value));
      }
      for (const value of hostile) expect(admits(value), `${parameter} ${value}`).toBe(false);
    }
  });

  it("lets only the join address be empty", () => {
    const empty = names.flatMap((name) =>
      Object.entries(documents[name].content.parameters).filter(([, { allowedPattern }]) => new RegExp(allowedPattern).test("")),
    );
    expect(empty).toEqual([["joinAddress", expect.objectContaining({ default: "" })]]);
  });

  it("keeps to patterns that Go reads too: the agent compiles them, and its repetitions end at 1,000", () => {
    for (const name of names) {
      for (const { allowedPattern } of Object.values(documents[name].content.parameters)) {
        expect(allowedPattern).not.toMatch(/\(\?[=!<]|\\\d|\{\d{4,}/);
      }
    }
  });

  it.each(names)("%s fits SSM's 64 KB with the longest parameters", (name) => {
    const { content } = documents[name];
    const values = Object.values(content.parameters).reduce((sum, { maxChars }) => sum + maxChars, 0);
    expect(Buffer.byteLength(JSON.stringify(content)) + values).toBeLessThanOrEqual(64 * 1024);
  });

  it.each(names)("%s is one shell step with the contract's deadline, below which the script ends by itself", (name) => {
    const [step, ...others] = documents[name].content.mainSteps;
    expect(others).toEqual([]);
    expect(step).toMatchObject({ action: "aws:runShellScript", inputs: { timeoutSeconds: String(nodeCommands[name].deadlineSeconds) } });
    const bound = Number(/^ {2}begin \S+ (\d+)$/m.exec(assembleScript(name))?.[1]);
    expect(nodeCommands[name].deadlineSeconds - bound).toBeGreaterThanOrEqual(20);
  });

  it.each(names)("%s is named by its content, within SSM's characters", (name) => {
    expect(documents[name].name).toMatch(new RegExp(`^drover-${name}-[0-9a-f]{8}$`));
    expect(buildDocuments()[name].name).toBe(documents[name].name);
  });

  it.each(names)("%s is bash, self-contained, without the text SSM would replace", (name) => {
    const lines = documents[name].content.mainSteps[0].inputs.runCommand;
    expect(lines[0]).toBe("#!/usr/bin/env bash");
    expect(lines.join("\n")).not.toMatch(/\{\{|^\s*source /m);
    expect(spawnSync("bash", ["-n"], { input: lines.join("\n") }).status).toBe(0);
  });

  it.each(names)("%s uses nothing but what every supported OS and RKE2 have", (name) => {
    expect(assembleScript(name)).not.toMatch(/\b(jq|python3?|perl|awk|sed|grep|cmp|aws) /);
  });

  it("has its scripts clean in ShellCheck", () => {
    if (spawnSync("shellcheck", ["--version"]).error) {
      console.log("ShellCheck is not installed: the scripts were not checked (apt-get install shellcheck)");
      return;
    }
    const scripts = new URL("../../nodes/scripts/", import.meta.url).pathname;
    const fakes = new URL("./fakes/", import.meta.url).pathname;
    const files = [
      ...readdirSync(scripts)
        .filter((file) => file.endsWith(".sh"))
        .map((file) => scripts + file),
      ...readdirSync(fakes).map((file) => fakes + file),
    ];
    const { status, stdout } = spawnSync("shellcheck", files, { encoding: "utf8" });
    expect(stdout).toBe("");
    expect(status).toBe(0);
  });
});

describe("every node command", () => {
  let machine: Machine;
  beforeEach(() => {
    machine = new Machine();
  });
  afterEach(() => machine.end());

  const environment = (name: NodeCommandName) =>
    Object.fromEntries(Object.keys(nodeCommands[name].parameters.shape).map((parameter) => [`SSM_${parameter}`, samples[parameter]?.[0] ?? ""]));

  it.each(names)("%s refuses to run when the agent is too old to pass parameters as environment variables", (name) => {
    expect(machine.runRaw(name, {})).toMatchObject({
      status: 64,
      result: { ok: false, code: "ConfigInvalid", message: expect.stringContaining("3.3.2746.0") },
    });
    expect(machine.calls()).toEqual([]);
  });

  it.each(names)("%s does nothing with hostile values, and does not repeat them", (name) => {
    const marker = `${machine.root}/owned`;
    for (const parameter of Object.keys(nodeCommands[name].parameters.shape)) {
      for (const value of [`$(touch ${marker})`, `x"; touch ${marker}; "`, `x'\ntouch ${marker}\n'`, `\`touch ${marker}\``]) {
        const { status, result, stderr } = machine.runRaw(name, {
          ...environment(name),
          SSM_joinAddress: "10.0.1.5",
          SSM_mode: name === "restore-snapshot" ? "snapshot" : "bootstrap",
          SSM_joins: "i-0a1b2c3d4e5f60718:10.0.1.5",
          [`SSM_${parameter}`]: value,
        });
        expect(status).toBe(64);
        expect(JSON.stringify(result) + stderr).not.toContain("owned");
        expect(machine.has("/owned")).toBe(false);
      }
    }
  });

  it("waits a bounded time for another command on the same node, then says so", async () => {
    mkdirSync(`${machine.root}/run/drover`, { recursive: true });
    writeFileSync(`${machine.root}/run/drover/node.lock`, "");
    const holder = spawn("flock", [`${machine.root}/run/drover/node.lock`, "sh", "-c", "echo held; read end"], { stdio: ["pipe", "pipe", "ignore"] });
    await new Promise((resolve) => holder.stdout.once("data", resolve));
    expect(machine.runRaw("check-cluster", { SSM_pool: "server" })).toMatchObject({ status: 75, result: { code: "AnotherCommandRuns" } });
    expect(machine.calls().filter((call) => call === "sleep 3").length).toBeGreaterThanOrEqual(6);
    holder.stdin.end("\n");
    await new Promise((resolve) => holder.once("close", resolve));
    expect(machine.runRaw("check-cluster", { SSM_pool: "server" }).result).toMatchObject({ code: "NotReady" });
  });

  it("ends with a result line even when something unforeseen fails", () => {
    machine.say({ free: "nobody knows" });
    const delivery = machine.deliver(preparation(machine));
    const { status, result } = machine.run("prepare-node", { role: "server", pool: "server", delivery, version, profile: "none", selinux: "false" });
    expect(status).toBe(1);
    expect(result).toMatchObject({ ok: false, code: "Internal", message: expect.stringMatching(/ended unexpectedly with status 1 in \S+/) });
  });
});
