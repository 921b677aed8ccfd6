import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { help, readSettings } from "../../local/simulate.js";
import { faultNames } from "../../local/simulation/plan.js";
import { simulate } from "../../local/simulation.js";

const root = resolve(import.meta.dirname, "../..");
const seed = 7;

/** The command line itself, in a process of its own. */
function command(...options: readonly string[]): { readonly status: number; readonly out: string; readonly err: string } {
  try {
    const out = execFileSync(process.execPath, ["--import", "tsx", "local/simulate.ts", ...options], { cwd: root, encoding: "utf8", stdio: "pipe" });
    return { status: 0, out, err: "" };
  } catch (error) {
    const { status, stdout, stderr } = error as { status: number; stdout: string; stderr: string };
    return { status, out: stdout, err: stderr };
  }
}

describe("a seed", () => {
  it("has the same outcome in a warm process, in a fresh one, and while it is traced", async () => {
    const first = await simulate({ seed, assembly: "cdk.out" });
    await simulate({ seed: seed + 1, assembly: "cdk.out" });
    const warm = await simulate({ seed, assembly: "cdk.out" });
    expect(warm).toEqual(first);

    const folder = mkdtempSync(join(tmpdir(), "drover-"));
    const file = join(folder, "calls.jsonl");
    const fresh = command("--seed", String(seed), "--json", "--trace", file);
    expect(fresh.status).toBe(0);
    expect(JSON.parse(fresh.out).hashes).toEqual({ [seed]: first.hash });
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    expect(lines).toHaveLength(first.calls);
    expect(Object.keys(JSON.parse(lines[0] as string))).toEqual(expect.arrayContaining(["service", "operation", "input", "function", "role", "at"]));
    rmSync(folder, { recursive: true });
    expect(existsSync(file)).toBe(false);
  });

  it("differs from another", async () => {
    const [one, other] = [
      await simulate({ seed: 1, assembly: "cdk.out", faults: "none" }),
      await simulate({ seed: 2, assembly: "cdk.out", faults: "none" }),
    ];
    expect(one.hash).not.toBe(other.hash);
  });
});

describe("npm run simulate", () => {
  it.each([
    [["--sede", "1"], "Unknown option '--sede'"],
    [["--seeds", "many"], '--seeds must be a whole number of at least 1, not "many"'],
    [["--jobs", "0"], '--jobs must be a whole number of at least 1, not "0"'],
    [["--seed", "1", "--seeds", "5"], "--seed names one run, --seeds and --from many: give one of them"],
    [["--trace", "calls.jsonl"], "--trace follows one run: give its --seed"],
    [["--scenario", "upgrade"], '--scenario knows create, backup, restore, drill, delete, not "upgrade"'],
    [["--faults", "thunder=0.5"], `--faults knows all, none and ${faultNames.join(", ")}, not "thunder"`],
    [["--faults", "throttle=2"], '--faults throttle must be a rate from 0 to 1, not "2"'],
  ])("has one clear message for %j", (options, message) => {
    expect(() => readSettings(options)).toThrow(new Error(message));
  });

  it("ends with 2 and that message alone when an option is wrong", () => {
    expect(command("--faults", "throttle=2")).toEqual({
      status: 2,
      out: "",
      err: '--faults throttle must be a rate from 0 to 1, not "2". See npm run simulate -- --help\n',
    });
  });

  it("reads scenarios and rates, and how to replay a seed with them", () => {
    expect(readSettings(["--from", "7", "--seeds", "3", "--jobs", "5", "--scenario", "delete", "--faults", "throttle=0.1,runTwice=1"])).toMatchObject(
      {
        seeds: [7, 8, 9],
        jobs: 3,
        scenarios: ["delete"],
        faults: { throttle: 0.1, runTwice: 1 },
        replay: "--scenario delete --faults throttle=0.1,runTwice=1",
      },
    );
  });

  it("begins its help with examples", () => {
    expect(help).toMatch(/^Examples\n/);
    for (const option of ["seeds", "from", "seed", "scenario", "faults", "jobs", "trace", "permissions", "json"])
      expect(help).toContain(`  --${option} `);
  });
});
