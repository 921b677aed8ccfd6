/**
 * Every check, one after the other: format and lint, types, tests, synth, dead code, documents in step with their source, shell scripts.
 *
 * Runs all of them even when one fails, so that one run shows everything there is to mend.
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { parseArgs } from "node:util";

interface Check {
  readonly name: string;
  readonly command: readonly [string, ...string[]];
  /** A tool that npm does not bring: without it the check is skipped, and says how to get it. */
  readonly needs?: { readonly tool: string; readonly advice: string };
}

const checks: readonly Check[] = [
  { name: "format and lint", command: ["biome", "check", "--error-on-warnings", "."] },
  { name: "types", command: ["tsc", "--noEmit"] },
  { name: "tests", command: ["vitest", "run"] },
  { name: "synth", command: ["tsx", "cdk/app.ts"] },
  { name: "dead code", command: ["knip"] },
  {
    name: "shell scripts",
    command: ["shellcheck", "--external-sources", ".ci/run", ...scripts()],
    needs: { tool: "shellcheck", advice: "apt-get install shellcheck" },
  },
];

function scripts(): string[] {
  return readdirSync("nodes/scripts")
    .filter((file) => file.endsWith(".sh"))
    .sort()
    .map((file) => `nodes/scripts/${file}`);
}

function run(check: Check): "passed" | "failed" | "skipped" {
  const [command, ...parameters] = check.command;
  if (check.needs !== undefined && spawnSync(check.needs.tool, ["--version"]).error !== undefined) {
    console.error(`- ${check.name}: skipped, ${check.needs.tool} is not installed (${check.needs.advice})`);
    return "skipped";
  }
  const local = check.needs === undefined ? `node_modules/.bin/${command}` : command;
  const { status } = spawnSync(local, parameters, { stdio: ["ignore", "inherit", "inherit"] });
  console.error(`- ${check.name}: ${status === 0 ? "passed" : "failed"}`);
  return status === 0 ? "passed" : "failed";
}

const { values } = parseArgs({ options: { without: { type: "string", multiple: true, default: [] } } });
const outcomes = checks.filter((check) => !values.without.includes(check.name)).map(run);
const count = (outcome: string) => outcomes.filter((each) => each === outcome).length;
console.log(`checks: ${count("passed")} passed, ${count("failed")} failed, ${count("skipped")} skipped`);
process.exitCode = count("failed") === 0 ? 0 : 1;
