/**
 * `npm run simulate`: many simulated lives of a deployment, each decided by its seed and held to the laws.
 *
 * Runs are spread over processes; each keeps its functions' containers warm from one run to the next, which changes nothing about the outcome.
 */
import { type ChildProcess, fork } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ensureAssembly } from "../cdk/app.js";
import { root } from "../cdk/sources.js";
import type { Faults } from "./kernel/contract.js";
import { type LawNumber, lawNames } from "./laws.js";
import { type FaultChoice, faultNames, type Scenario, scenarios, usualScenarios } from "./simulation/plan.js";
import { type SimulationResult, simulate } from "./simulation.js";
import { World } from "./world.js";

export const help = `Examples
  npm run simulate -- --seeds 1000            a thousand runs: create and delete, faults drawn from each seed
  npm run simulate -- --seed 4117             one run again, exactly as it was
  npm run simulate -- --seed 4117 --trace calls.jsonl
  npm run simulate -- --seeds 200 --scenario create --faults nodeLostWhileJoining=0.3,throttle=0.05

Options
  --seeds N          how many runs (default 100)
  --from N           first seed (default 1)
  --seed N           this one seed alone
  --scenario LIST    operations during which faults strike: ${scenarios.join(", ")} (default ${usualScenarios.join(", ")})
  --faults WHAT      all, none, or name=rate,... with ${faultNames.join(", ")}
                     (default: drawn from the seed, in some runs one kind often, in some all, in some none)
  --jobs N           processes (default 2)
  --trace FILE       every AWS call as a line of JSON, secrets redacted; with --seed
  --assembly DIR     where the synthesized template is, and is made when it is not (default cdk.out)
  --permissions      also list the permissions that no run used
  --json             the summary as JSON
  --help             this text

Exit codes: 0 every run kept the laws, 1 one did not, 2 wrong options`;

interface Settings {
  readonly seeds: readonly number[];
  readonly scenarios: readonly Scenario[];
  readonly faults: FaultChoice | undefined;
  readonly jobs: number;
  readonly trace: string | undefined;
  readonly assembly: string;
  readonly permissions: boolean;
  readonly json: boolean;
  /** What has to be typed besides the seed to get the same run. */
  readonly replay: string;
}

class WrongOption extends Error {}

export function readSettings(argv: readonly string[]): Settings | "help" {
  const { values } = parsed(argv);
  if (values.help) return "help";
  if (values.seed !== undefined && (values.seeds !== undefined || values.from !== undefined)) {
    throw new WrongOption("--seed names one run, --seeds and --from many: give one of them");
  }
  if (values.trace !== undefined && values.seed === undefined) throw new WrongOption("--trace follows one run: give its --seed");
  const from = whole("from", values.from ?? "1", 0);
  const count = whole("seeds", values.seeds ?? "100", 1);
  const seeds = values.seed === undefined ? Array.from({ length: count }, (_, index) => from + index) : [whole("seed", values.seed, 0)];
  const replay = [
    ...(values.scenario === undefined ? [] : [`--scenario ${values.scenario}`]),
    ...(values.faults === undefined ? [] : [`--faults ${values.faults}`]),
  ].join(" ");
  return {
    seeds,
    scenarios: values.scenario === undefined ? usualScenarios : readScenarios(values.scenario),
    faults: values.faults === undefined ? undefined : readFaults(values.faults),
    jobs: Math.min(whole("jobs", values.jobs ?? "2", 1), seeds.length),
    trace: values.trace,
    assembly: resolve(values.assembly ?? resolve(root, "cdk.out")),
    permissions: values.permissions ?? false,
    json: values.json ?? false,
    replay,
  };
}

function parsed(argv: readonly string[]) {
  const text = { type: "string" } as const;
  const flag = { type: "boolean" } as const;
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: false,
      options: {
        seeds: text,
        from: text,
        seed: text,
        scenario: text,
        faults: text,
        jobs: text,
        trace: text,
        assembly: text,
        permissions: flag,
        json: flag,
        help: flag,
      },
    });
  } catch (error) {
    throw new WrongOption(error instanceof Error ? (error.message.split(". ")[0] as string) : String(error));
  }
}

function whole(name: string, value: string, least: number): number {
  const number = Number(value);
  if (!/^\d+$/.test(value) || !Number.isSafeInteger(number) || number < least) {
    throw new WrongOption(`--${name} must be a whole number of at least ${least}, not "${value}"`);
  }
  return number;
}

function readScenarios(text: string): Scenario[] {
  const names = text.split(",");
  const unknown = names.find((name) => !scenarios.some((scenario) => scenario === name));
  if (unknown !== undefined) throw new WrongOption(`--scenario knows ${scenarios.join(", ")}, not "${unknown}"`);
  return names as Scenario[];
}

function readFaults(text: string): FaultChoice {
  if (text === "all" || text === "none") return text;
  const pairs = text.split(",").map((pair): [keyof Faults, number] => {
    const [name = "", rate = ""] = pair.split("=");
    if (!faultNames.some((each) => each === name)) throw new WrongOption(`--faults knows all, none and ${faultNames.join(", ")}, not "${name}"`);
    if (!/^(0(\.\d+)?|1(\.0+)?|\.\d+)$/.test(rate)) throw new WrongOption(`--faults ${name} must be a rate from 0 to 1, not "${rate}"`);
    return [name as keyof Faults, Number(rate)];
  });
  return Object.fromEntries(pairs);
}

// ------------------------------------------------------------------------------------------------------------------- processes

type Task = Pick<Settings, "scenarios" | "faults"> & { readonly seed: number; readonly assembly: string };

function perform({ seed, assembly, scenarios: chosen, faults }: Task): Promise<SimulationResult> {
  return simulate({ seed, assembly, scenarios: chosen, ...(faults === undefined ? {} : { faults }) });
}

/** What a process of `spread` does: one run after the other, as they are handed to it. */
function serve(): void {
  process.on("message", (task: Task) => {
    perform(task).then(
      (result) => process.send?.({ result }),
      (error: unknown) => process.send?.({ error: error instanceof Error ? error.stack : String(error) }),
    );
  });
}

/** Runs the tasks in `jobs` processes; results come in any order. */
async function spread(tasks: readonly Task[], jobs: number, done: (result: SimulationResult) => void): Promise<void> {
  const queue = [...tasks];
  const work = (child: ChildProcess) =>
    new Promise<void>((finished, failed) => {
      const next = () => {
        const task = queue.shift();
        if (task === undefined) child.disconnect();
        else child.send(task);
      };
      child.on("message", ({ result, error }: { result?: SimulationResult; error?: string }) => {
        if (result === undefined) {
          failed(new Error(error));
          return;
        }
        done(result);
        next();
      });
      child.on("error", failed);
      child.on("exit", (code, signal) => (code === 0 ? finished() : failed(new Error(`a process of the simulation ended with ${signal ?? code}`))));
      next();
    });
  const children = Array.from({ length: jobs }, () => fork(fileURLToPath(import.meta.url), ["--worker"]));
  try {
    await Promise.all(children.map(work));
  } finally {
    for (const child of children) child.kill();
  }
}

// ----------------------------------------------------------------------------------------------------------------------- report

export interface Summary {
  readonly runs: number;
  readonly seconds: number;
  readonly virtualHours: number;
  /** Creates while faults struck: how they ended. */
  readonly ready: number;
  readonly cards: number;
  readonly refused: number;
  readonly cardsByFailure: Readonly<Record<string, number>>;
  /** Creates started again after faults had stopped. */
  readonly restarts: number;
  readonly struck: Readonly<Record<string, number>>;
  readonly checked: Readonly<Record<string, number>>;
  readonly violations: readonly {
    readonly seed: number;
    readonly rule: string;
    readonly message: string;
    readonly at: string;
    readonly replay: string;
  }[];
  /** Of each run's calls and outcome, by seed: the same whenever the same is simulated. Only for a few runs. */
  readonly hashes?: Readonly<Record<number, string>>;
  readonly unusedPermissions?: readonly string[];
}

function summarize(results: readonly SimulationResult[], settings: Settings, seconds: number): Summary {
  const ends = results.flatMap(({ first }) => first);
  const sum = (tables: readonly Readonly<Record<string, number>>[]) => {
    const total: Record<string, number> = {};
    for (const table of tables) for (const [name, count] of Object.entries(table)) total[name] = (total[name] ?? 0) + count;
    return Object.fromEntries(Object.entries(total).sort());
  };
  return {
    runs: results.length,
    seconds: Number(seconds.toFixed(1)),
    virtualHours: Math.round(results.reduce((total, { virtualSeconds }) => total + virtualSeconds, 0) / 3600),
    ready: ends.filter((end) => end === "ready").length,
    cards: ends.filter((end) => end === "card").length,
    refused: ends.filter((end) => end === "refused").length,
    cardsByFailure: sum(results.flatMap(({ cards }) => cards.map((card) => ({ [card]: 1 })))),
    restarts: results.reduce((total, { restarts }) => total + restarts, 0),
    struck: sum(results.map((result) => result.struck as Record<string, number>)),
    checked: sum(results.map((result) => result.checked as Record<string, number>)),
    violations: results
      .flatMap(({ seed, violation }) => (violation === undefined ? [] : [{ seed, ...violation, replay: replayOf(seed, settings) }]))
      .sort((a, b) => a.seed - b.seed),
    ...(results.length > 20 ? {} : { hashes: Object.fromEntries(results.map(({ seed, hash }) => [seed, hash])) }),
  };
}

function replayOf(seed: number, { replay }: Settings): string {
  return `npm run simulate -- --seed ${seed}${replay === "" ? "" : ` ${replay}`}`;
}

const listed = (table: Readonly<Record<string, number>>) =>
  Object.entries(table)
    .map(([name, count]) => `${name} ${count}`)
    .join(", ") || "none";

/** Violations shown one by one; of a hundred alike, a few are enough. */
const mostShown = 20;

function write(summary: Summary): void {
  const { runs, seconds, virtualHours, violations } = summary;
  for (const { seed, rule, message, at, replay } of violations.slice(0, mostShown)) {
    console.log(`seed ${seed} broke ${rule}, at ${at}\n  ${message}\n  ${replay}\n`);
  }
  if (violations.length > mostShown)
    console.log(
      `and ${violations.length - mostShown} more seeds: ${violations
        .slice(mostShown)
        .map(({ seed }) => seed)
        .join(" ")}\n`,
    );
  const checked = Object.entries(summary.checked).map(([law, count]) => `  ${law.padStart(2)} ${lawNames[Number(law) as LawNumber]}: ${count}`);
  console.log(`${runs} runs in ${seconds} s, ${virtualHours} hours of virtual time`);
  console.log(
    `creates while faults struck: ${summary.ready} ready at the first try, ${summary.cards} ended in a card, ${summary.refused} never admitted`,
  );
  console.log(`cards of all operations: ${listed(summary.cardsByFailure)}`);
  console.log(`creates started again once faults had stopped: ${summary.restarts}`);
  console.log(`faults that struck: ${listed(summary.struck)}`);
  console.log(`held against the laws:\n${checked.join("\n")}`);
  if (summary.unusedPermissions !== undefined)
    console.log(`permissions that no run used:${summary.unusedPermissions.map((each) => `\n  ${each}`).join("") || " none"}`);
  console.log(`violations: ${violations.length}`);
}

/** One line on stderr, rewritten on a terminal, a few in all elsewhere; and at once what was broken, so that nobody has to wait for the end. */
function progress(total: number): (result: SimulationResult) => void {
  const started = performance.now();
  let runs = 0;
  let bad = 0;
  return ({ seed, violation }) => {
    runs++;
    if (violation !== undefined) {
      bad++;
      process.stderr.write(`${process.stderr.isTTY ? "\r" : ""}seed ${seed} broke ${violation.rule}: ${violation.message.split("\n")[0]}\n`);
    }
    const seconds = (performance.now() - started) / 1000;
    const left = Math.round((seconds / runs) * (total - runs));
    const line = `${runs} of ${total} runs, ${bad} violations, ${Math.round(seconds)} s, about ${left} s left`;
    if (process.stderr.isTTY) process.stderr.write(`\r${line.padEnd(78)}${runs === total ? "\n" : ""}`);
    else if (runs === total || runs % Math.ceil(total / 20) === 0) process.stderr.write(`${line}\n`);
  };
}

function unusedPermissions(assembly: string, results: readonly SimulationResult[]): string[] {
  const world = World.boot({ assembly, seed: 0 });
  for (const { uses } of results) world.access.countUses(uses);
  return world.unusedPermissions().map(({ role, action, resources }) => `${role}: ${action} on ${resources.join(", ")}`);
}

async function main(argv: readonly string[]): Promise<number> {
  let settings: Settings | "help";
  try {
    settings = readSettings(argv);
  } catch (error) {
    if (!(error instanceof WrongOption)) throw error;
    console.error(`${error.message}. See npm run simulate -- --help`);
    return 2;
  }
  if (settings === "help") {
    console.log(help);
    return 0;
  }
  const started = performance.now();
  const { directory: assembly } = await ensureAssembly(settings.assembly, { validate: false });
  const { seeds, scenarios: chosen, faults, jobs, trace } = settings;
  const tasks = seeds.map((seed): Task => ({ seed, assembly, scenarios: chosen, faults }));
  const results: SimulationResult[] = [];
  const advance = progress(seeds.length);
  const done = (result: SimulationResult) => {
    results.push(result);
    advance(result);
  };
  if (trace !== undefined) done(await traced(tasks[0] as Task, trace));
  else if (jobs === 1) for (const task of tasks) done(await perform(task));
  else await spread(tasks, jobs, done);
  const summary = summarize(results, settings, (performance.now() - started) / 1000);
  const whole: Summary = settings.permissions ? { ...summary, unusedPermissions: unusedPermissions(assembly, results) } : summary;
  if (settings.json) console.log(JSON.stringify(whole, undefined, 2));
  else write(whole);
  return whole.violations.length === 0 ? 0 : 1;
}

async function traced(task: Task, file: string): Promise<SimulationResult> {
  const { seed, assembly, scenarios: chosen, faults } = task;
  const handle = openSync(file, "w");
  try {
    const trace = (entry: unknown) => {
      writeSync(handle, `${JSON.stringify(entry)}\n`);
    };
    return await simulate({ seed, assembly, scenarios: chosen, trace, ...(faults === undefined ? {} : { faults }) });
  } finally {
    closeSync(handle);
  }
}

if (process.argv[2] === "--worker" && process.send !== undefined) serve();
else if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === resolve(process.argv[1])) {
  process.exitCode = await main(process.argv.slice(2)).catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    return 1;
  });
}
