import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Command } from "commander";
import { describe, expect, it, vi } from "vitest";
import { exitCodes } from "../../cli/failures.js";
import { buildProgram } from "../../cli/program.js";
import type { Surroundings } from "../../cli/surroundings.js";
import { folder, Stage } from "./stage.js";

const commandNames = ["validate", "create", "list", "status", "watch", "kubeconfig", "delete", "operations", "artifacts", "local"];
const paths = [
  [],
  ...commandNames.map((name) => [name]),
  ...["add", "list", "check"].map((name) => ["artifacts", name]),
  ...["up", "down", "status", "reset"].map((name) => ["local", name]),
];
const stage = new Stage();

describe("help", () => {
  it.each(paths.map((path) => [path.join(" ") || "drover", path] as const))("of %s begins with examples and fits 80 columns", async (_, path) => {
    const { code, out, err } = await stage.drover(...path, "--help");
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out).toMatch(/^Examples:\n {2}\S/);
    expect(out.indexOf("Usage: drover")).toBeGreaterThan(out.indexOf("Examples:"));
    expect(out.split("\n").filter((line) => line.length > 80)).toEqual([]);
  });
  it("shows examples that the command line takes", async () => {
    const program = buildProgram({ out: {}, err: {} } as Surroundings, () => {});
    const examples: string[] = [];
    for (const path of paths) {
      const [lines = ""] = (await stage.drover(...path, "--help")).out.split("Usage:");
      for (const [, words] of lines.matchAll(/^ {2}(?:generate-file \| )?drover (.+?)(?: {2,}.*)?$/gm)) examples.push(words as string);
    }
    expect(examples.length).toBeGreaterThan(paths.length);
    expect(examples.flatMap((example) => fault(example.replace(/ <.*$/, "").split(" "), program))).toEqual([]);
  });
  it("lists the exit codes", async () => {
    const { out } = await stage.drover("--help");
    const listed = [...out.slice(out.indexOf("Exit codes:")).matchAll(/^ {2}(\d+) +\S/gm)].map((match) => Number(match[1]));
    expect(listed).toEqual(Object.values(exitCodes));
  });
  it("knows its version", async () => {
    const { version } = JSON.parse(readFileSync(join(import.meta.dirname, "..", "..", "package.json"), "utf8")) as { version: string };
    expect(await stage.drover("--version")).toEqual({ code: 0, out: `${version}\n`, err: "" });
  });
});

/** What is wrong with a line of an example: an unknown command, option, or a number of arguments that it does not take. */
function fault(words: readonly string[], program: Command): string[] {
  let command = program;
  let at = 0;
  for (; at < words.length; at++) {
    const next = command.commands.find((each) => each.name() === words[at]);
    if (next === undefined) break;
    command = next;
  }
  const { operands, unknown } = command.parseOptions(words.slice(at));
  const most = command.registeredArguments.length;
  const least = command.registeredArguments.filter(({ required }) => required).length;
  const isRight = unknown.length === 0 && operands.length >= least && operands.length <= most && command.commands.length === 0;
  return isRight ? [] : [words.join(" ")];
}

describe("usage that is wrong ends with 2 and says what is right", () => {
  it.each([
    [["creat"], /^Unknown command 'creat'\n\(Did you mean create\?\)/],
    [["artifacts", "ad"], /^Unknown command 'ad'/],
    [["create", "a.yaml", "--yess"], /^Unknown option '--yess'\n\(Did you mean --yes\?\)/],
    [["status"], /^Missing required argument 'name'/],
    [["status", "a", "b"], /^Too many arguments/],
    [["create"], /^No cluster file is given\nSuch as: drover create examples\/ha\.yaml/],
    [["create", "a.yaml", "--file", "b.yaml"], /^Two cluster files are given/],
    [["status", "No_Name"], /^"No_Name" is no cluster's name: names are 1 to 30 lower-case letters/],
    [["status", "a".repeat(31)], /is no cluster's name/],
    [["local", "up", "--speed", "fast"], /^--speed must be a number from 0\.1 to 10000; found "fast"/],
    [["local", "up", "--port", "99999"], /^--port must be a whole number from 0 to 65535; found "99999"/],
    [["local", "up", "--seed", "a b"], /^--seed must be 1 to 64 letters/],
  ])("%j", async (words, what) => {
    const { code, out, err } = await stage.drover(...words);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toMatch(what);
  });
  it("nothing at all", async () => {
    const { code, out, err } = await stage.drover();
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toMatch(/^Examples:\n/);
  });
});

describe("errors with --json", () => {
  it("are one document on standard output, and words on standard error", async () => {
    writeFileSync(join(stage.directory, "bad.yaml"), "kind: Clutser\n");
    const { code, data, err } = await stage.json<{ error: { faults: unknown[] } }>("create", "bad.yaml");
    expect(code).toBe(2);
    expect(data).toMatchObject({
      error: { kind: "input", exitCode: 2, what: expect.stringMatching(/^bad\.yaml has \d+ errors; nothing was changed$/) },
    });
    expect(data.error.faults.length).toBeGreaterThan(2);
    expect(err).toMatch(/^bad\.yaml has/);
  });
  it("say so when drover itself is at fault", async () => {
    const broken = new Stage();
    broken.network = () => ({ status: 200, headers: {}, body: Buffer.from("not JSON") });
    vi.stubEnv("AWS_ACCESS_KEY_ID", "AKIATEST");
    vi.stubEnv("AWS_SECRET_ACCESS_KEY", "secret-of-nobody");
    const { code, err } = await broken.drover("list", "--endpoint", "https://a.execute-api.eu-central-1.amazonaws.com");
    expect(code).toBe(70);
    expect(err).toMatch(/^drover itself failed: SyntaxError/);
    expect(err).not.toContain("secret-of-nobody");
  });
});

describe("the launcher", () => {
  it("works from any folder, whatever TypeScript settings lie there", async () => {
    const elsewhere = folder({ "tsconfig.json": "{ not json", "c.yaml": "kind: Cluster\n" });
    const launcher = join(import.meta.dirname, "..", "..", "cli", "drover.js");
    const ended = await promisify(execFile)(process.execPath, [launcher, "validate", "c.yaml"], { cwd: elsewhere }).catch((error: unknown) => error);
    expect(ended).toMatchObject({ code: 2, stdout: expect.stringMatching(/^c\.yaml: \d+ errors\n/) });
  });
});
