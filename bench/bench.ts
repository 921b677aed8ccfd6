/**
 * Figures, as ratios and counts: how close a create comes to what AWS and RKE2 allow, and what it uses; what a night's backup takes of a cluster and of a fleet,
 * and how close a restore comes to what its own draws allow.
 *
 *     npm run bench                         three sizes over many seeds, as text
 *     npm run bench -- --json               the same as one JSON document
 *     npm run bench -- --only 3+10 --seeds 5
 *     npm run bench -- --only night
 *
 * Every second of a cluster is virtual and drawn from the latency model, so a busy machine changes no figure but the two that say so. It is no test:
 * a goal that is missed is printed as `over`, and the exit code is 0 unless a run failed.
 */
import { type ChildProcess, fork } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ensureAssembly, synthesize } from "../cdk/app.js";
import { hoursPerMonth } from "../core/costs.js";
import { sweepSeconds } from "../core/due.js";
import { type CreateFigures, type CreateJob, createRun } from "./create-run.js";
import { type FleetFigures, fleetNight } from "./fleet-waves.js";
import { type NightFigures, type NightJob, nightRun } from "./night-run.js";

/** Sizes and their goals, as the project has set them. `bound` is of both ways to compute it. */
export const sizes = [
  { name: "3+10", servers: 3, agents: 10, transitions: 60, historyPercent: 2, seedShare: 1 },
  { name: "3+100", servers: 3, agents: 100, transitions: 80, historyPercent: 3, seedShare: 1 },
  // Each takes as long as twenty of the smallest: a quarter of the seeds.
  { name: "3+1000", servers: 3, agents: 1000, transitions: 200, historyPercent: 10, seedShare: 0.25 },
] as const;
type Size = (typeof sizes)[number];
/** Name of the part that is no size. */
const night = "night";
const nightGoals = { transitions: 10, dollars: 0.0003, restoreRatio: 1.15 } as const;
/** Two worlds each, one for each way to restore. */
const nightSeedShare = 0.25;
const fleetSizes = [100, 1000, 10_000] as const;
const goals = { ratio: 1.1, ratioInTheEnd: 1.02, callsPerNode: 3, callsPerNodeAt: "3+1000" } as const;
/** Events a Standard workflow may have (Step Functions quotas). */
const historyLimit = 25_000;

export interface Spread {
  readonly p50: number;
  readonly p99: number;
  readonly least: number;
  readonly most: number;
}

/** A figure beside its goal; `ok` is missing where there is none. */
export interface Judged<T = number> {
  readonly value: T;
  readonly goal?: number;
  readonly ok?: boolean;
}

export interface SizeReport {
  readonly size: string;
  readonly seeds: readonly number[];
  readonly readySeconds: Spread;
  /** Time to ready over the bound of the model's medians. */
  readonly overMedians: Judged<Spread>;
  /** Time to ready over the bound of what each run itself drew. */
  readonly overOwn: Judged<Spread>;
  /** Median over the runs, seconds: when nothing could have had it earlier, when it came, and how much later that was in the same run. */
  readonly course: Readonly<Record<"F" | "K" | "A" | "E" | "ready", { readonly bound: number; readonly came: number; readonly later: number }>>;
  readonly transitions: Judged<Spread>;
  readonly childStarts: Spread;
  readonly largestHistoryPercent: Judged<Spread>;
  readonly callsPerNode: Judged<Spread>;
  readonly functionCallsPerNode: Spread;
  readonly workflowCallsPerNode: Spread;
  /** Files that a node fetches or sends itself, by presigned URL. */
  readonly nodeTransfersPerNode: Spread;
  readonly dollars: Spread;
  readonly dollarsByService: Readonly<Record<string, number>>;
  readonly createsPerSecondPerCore: number;
}

/** A night of one cluster over several worlds, and of fleets by model. */
export interface NightReport {
  readonly seeds: readonly number[];
  readonly backupSeconds: Spread;
  readonly transitions: Judged<Spread>;
  readonly dollars: Judged<Spread>;
  readonly dollarsByService: Readonly<Record<string, number>>;
  /** One look at a fleet of one cluster with nothing due, and a month of them. */
  readonly sweepMilliseconds: number;
  readonly sweepDollarsPerMonth: number;
  readonly admissionMilliseconds: number;
  readonly restores: readonly {
    readonly way: NightJob["way"];
    readonly seconds: Spread;
    readonly overOwn: Judged<Spread>;
    readonly transitions: Spread;
  }[];
  readonly fleets: readonly FleetFigures[];
}

export interface BenchReport {
  readonly schema: 1;
  readonly goals: typeof goals;
  readonly sizes: readonly SizeReport[];
  readonly night?: NightReport;
  readonly bundles: { readonly largest: { readonly name: string; readonly bytes: number }; readonly totalBytes: number; readonly count: number };
  /** Wall time of one synthesis with all its checks, in this process. */
  readonly synthSeconds: number;
  readonly realSeconds: number;
}

export interface BenchOptions {
  readonly seeds?: number;
  readonly only?: readonly (Size["name"] | typeof night)[];
  /** Processes that run creates; 0 runs them in this one. */
  readonly workers?: number;
  readonly outdir?: string;
  /** What goes on, one line at a time. */
  readonly progress?: (line: string) => void;
}

const defaultSeeds = 20;
const root = resolve(fileURLToPath(import.meta.url), "../..");

/** @throws when a run fails, with its seed and failure card */
export async function bench(options: BenchOptions = {}): Promise<BenchReport> {
  const started = performance.now();
  const { seeds = defaultSeeds, only, workers = 2, outdir = resolve(root, "cdk.out"), progress = () => {} } = options;
  const assembly = await ensureAssembly(outdir, { validate: false });
  progress("Synthesizing, for the time it takes");
  const synthSeconds = await timeSynthesis();

  const wanted = sizes.filter(({ name }) => only === undefined || only.includes(name));
  const jobs = wanted.flatMap(({ servers, agents, seedShare }) =>
    Array.from(
      { length: Math.max(1, Math.ceil(seeds * seedShare)) },
      (_, index): CreateJob => ({ assembly: assembly.directory, servers, agents, seed: index + 1 }),
    ),
  );
  // The largest first, so that no process is left with one alone at the end.
  jobs.sort((a, b) => b.agents - a.agents || a.seed - b.seed);
  progress(`Running ${jobs.length} creates`);
  const done = workers === 0 ? await inThisProcess(jobs) : await inProcesses(jobs, workers, progress);
  const nights: NightFigures[] = [];
  const nightSeeds = only === undefined || only.includes(night) ? Math.max(1, Math.ceil(seeds * nightSeedShare)) : 0;
  for (let seed = 1; seed <= nightSeeds; seed++) {
    for (const way of ["in place", "onto new nodes"] as const) {
      nights.push(await nightRun({ assembly: assembly.directory, seed, way }));
      progress(`${nights.length} of ${2 * nightSeeds} nights: restored ${way}, seed ${seed}`);
    }
  }
  const { functions } = JSON.parse(readFileSync(assembly.sizes, "utf8")) as { functions: { name: string; bytes: number }[] };
  const largest = functions.reduce((most, each) => (each.bytes > most.bytes ? each : most));
  return {
    schema: 1,
    goals,
    sizes: wanted.map((size) =>
      summarize(
        size,
        done.filter(({ agents }) => agents === size.agents),
      ),
    ),
    ...(nights.length === 0 ? {} : { night: summarizeNights(nights) }),
    bundles: { largest, totalBytes: functions.reduce((sum, { bytes }) => sum + bytes, 0), count: functions.length },
    synthSeconds,
    realSeconds: (performance.now() - started) / 1000,
  };
}

async function timeSynthesis(): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), "drover-bench-"));
  try {
    const started = performance.now();
    await synthesize(directory);
    return (performance.now() - started) / 1000;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function inThisProcess(jobs: readonly CreateJob[]): Promise<CreateFigures[]> {
  const done: CreateFigures[] = [];
  for (const job of jobs) done.push(await createRun(job));
  return done;
}

type WorkerAnswer = { readonly figures: CreateFigures } | { readonly error: string };

/** Hands out one create after another; the first that fails ends all. */
async function inProcesses(jobs: readonly CreateJob[], count: number, progress: (line: string) => void): Promise<CreateFigures[]> {
  const waiting = [...jobs];
  const done: CreateFigures[] = [];
  const workers: ChildProcess[] = [];
  try {
    await Promise.all(
      Array.from({ length: Math.min(count, jobs.length) }, async () => {
        const worker = fork(fileURLToPath(import.meta.url), ["--worker"], { stdio: ["ignore", "ignore", "inherit", "ipc"] });
        workers.push(worker);
        for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) {
          const answer = await ask(worker, job);
          if ("error" in answer) throw new Error(answer.error);
          done.push(answer.figures);
          progress(`${done.length} of ${jobs.length}: ${job.servers}+${job.agents}, seed ${job.seed}`);
        }
      }),
    );
  } finally {
    for (const worker of workers) worker.kill();
  }
  return done.sort((a, b) => a.seed - b.seed);
}

function ask(worker: ChildProcess, job: CreateJob): Promise<WorkerAnswer> {
  return new Promise((answered, failed) => {
    const gone = (code: number | null) =>
      failed(new Error(`the process that ran ${job.servers}+${job.agents}, seed ${job.seed}, ended with ${code}`));
    worker.once("exit", gone);
    worker.once("message", (answer) => {
      worker.off("exit", gone);
      answered(answer as WorkerAnswer);
    });
    worker.send(job);
  });
}

function serveParent(): void {
  process.on("message", (job: CreateJob) => {
    createRun(job)
      .then((figures): WorkerAnswer => ({ figures }))
      .catch((error: unknown): WorkerAnswer => ({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }))
      .then((answer) => process.send?.(answer));
  });
  process.on("disconnect", () => process.exit());
}

// ------------------------------------------------------------------------------------------------------------------------ summary

/**
 * The value at or below which so many percent of the values lie (nearest rank): always one that was seen. With fewer than a hundred values the 99th
 * is the largest.
 */
export function percentile(values: readonly number[], percent: number): number {
  if (values.length === 0) throw new RangeError("no value has no percentile");
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] as number;
}

export function spreadOf(values: readonly number[]): Spread {
  return { p50: percentile(values, 50), p99: percentile(values, 99), least: Math.min(...values), most: Math.max(...values) };
}

/** What so many creates of one size came to. */
export function summarize({ name, servers, agents, transitions, historyPercent }: Size, runs: readonly CreateFigures[]): SizeReport {
  const nodes = servers + agents;
  const over = (figure: (run: CreateFigures) => number) => spreadOf(runs.map(figure));
  const judged = (value: Spread, goal: number, measure: (spread: Spread) => number): Judged<Spread> => ({ value, goal, ok: measure(value) <= goal });
  const middle = ({ p50 }: Spread) => p50;
  const highest = ({ most }: Spread) => most;
  const median = (figure: (run: CreateFigures) => number) => over(figure).p50;
  const landmark = (bound: (run: CreateFigures) => number, came: (run: CreateFigures) => number) => ({
    bound: median(bound),
    came: median(came),
    later: median((run) => came(run) - bound(run)),
  });
  const calls = over(({ calls: { functions, workflows } }) => (functions + workflows) / nodes);
  const services = Object.keys(runs[0]?.dollarsByService ?? {});
  return {
    size: name,
    seeds: runs.map(({ seed }) => seed),
    readySeconds: over(({ readySeconds }) => readySeconds),
    overMedians: judged(
      over(({ readySeconds, medians }) => readySeconds / medians.LB),
      goals.ratio,
      middle,
    ),
    overOwn: judged(
      over(({ readySeconds, own }) => readySeconds / own.LB),
      goals.ratio,
      middle,
    ),
    course: {
      F: landmark(
        ({ own }) => own.F,
        ({ came }) => came.F,
      ),
      K: landmark(
        ({ own }) => own.K,
        ({ came }) => came.K,
      ),
      A: landmark(
        ({ own }) => own.A,
        ({ came }) => came.A,
      ),
      E: landmark(
        ({ own }) => own.E,
        ({ came }) => came.E,
      ),
      // Against what was last to come true in the same run: what is ours from then on.
      ready: landmark(
        ({ came }) => Math.max(came.K, came.A, came.E),
        ({ readySeconds }) => readySeconds,
      ),
    },
    transitions: judged(
      over((run) => run.transitions),
      transitions,
      middle,
    ),
    childStarts: over(({ childStarts }) => childStarts),
    largestHistoryPercent: judged(
      over(({ largestHistory }) => (100 * largestHistory) / historyLimit),
      historyPercent,
      highest,
    ),
    callsPerNode: name === goals.callsPerNodeAt ? judged(calls, goals.callsPerNode, middle) : { value: calls },
    functionCallsPerNode: over(({ calls: { functions } }) => functions / nodes),
    workflowCallsPerNode: over(({ calls: { workflows } }) => workflows / nodes),
    nodeTransfersPerNode: over(({ calls: { downloads } }) => downloads / nodes),
    dollars: over(({ dollars }) => dollars),
    dollarsByService: Object.fromEntries(services.map((service) => [service, median((run) => run.dollarsByService[service] ?? 0)])),
    createsPerSecondPerCore: runs.length / runs.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0),
  };
}

/** What so many nights came to. The fleets are modelled on their medians. */
export function summarizeNights(runs: readonly NightFigures[]): NightReport {
  const over = (figure: (run: NightFigures) => number, of = runs) => spreadOf(of.map(figure));
  const judged = (value: Spread, goal: number, found: number): Judged<Spread> => ({ value, goal, ok: found <= goal });
  const transitions = over(({ backup }) => backup.transitions);
  const dollars = over(({ backup }) => backup.dollars);
  const backupSeconds = over(({ backup }) => backup.seconds);
  const admissionMilliseconds = over(({ backup }) => backup.admissionMilliseconds).p50;
  const services = Object.keys(runs[0]?.backup.dollarsByService ?? {});
  const ways = [...new Set(runs.map(({ way }) => way))];
  return {
    seeds: [...new Set(runs.map(({ seed }) => seed))],
    backupSeconds,
    transitions: judged(transitions, nightGoals.transitions, transitions.most),
    dollars: judged(dollars, nightGoals.dollars, dollars.most),
    dollarsByService: Object.fromEntries(services.map((service) => [service, over(({ backup }) => backup.dollarsByService[service] ?? 0).p50])),
    sweepMilliseconds: over(({ sweep }) => sweep.milliseconds).p50,
    sweepDollarsPerMonth: (over(({ sweep }) => sweep.dollars).p50 * hoursPerMonth * 3600) / sweepSeconds,
    admissionMilliseconds,
    restores: ways.map((way) => {
      const of = runs.filter((run) => run.way === way);
      const ratio = over(({ restore }) => restore.seconds / restore.boundSeconds, of);
      return {
        way,
        seconds: over(({ restore }) => restore.seconds, of),
        overOwn: judged(ratio, nightGoals.restoreRatio, ratio.p50),
        transitions: over(({ restore }) => restore.transitions, of),
      };
    }),
    fleets: fleetSizes.map((clusters) => fleetNight(clusters, { backupSeconds: backupSeconds.p50, admissionSeconds: admissionMilliseconds / 1000 })),
  };
}

// --------------------------------------------------------------------------------------------------------------------------- text

/** @returns lines of at most 100 columns, each ended */
export function benchText(report: BenchReport): string {
  const columns = report.sizes.map(({ size }) => size);
  const line = (label: string, cells: readonly string[], goal = "") =>
    `  ${label.padEnd(36)}${cells.map((cell) => cell.padStart(15)).join("")}${goal === "" ? "" : `  ${goal}`}`.trimEnd();
  const row = (label: string, cell: (size: SizeReport) => string) => line(label, report.sizes.map(cell));
  const verdict = ({ ok, goal }: Judged<Spread>, text: string) => (ok === undefined || goal === undefined ? text : `${text} ${ok ? "ok  " : "over"}`);
  const goalRow = (label: string, figure: (size: SizeReport) => Judged<Spread>, text: (spread: Spread) => string) => [
    row(label, (size) => verdict(figure(size), text(figure(size).value))),
    row("  goal, at most", (size) => figure(size).goal?.toString() ?? "-"),
  ];
  const ratio = (value: number) => value.toFixed(3);
  const secondsOf = (value: number) => value.toFixed(1);
  const course = (label: string, name: keyof SizeReport["course"]) =>
    row(label, ({ course: { [name]: at } }) => (at.came === 0 ? "-" : `${secondsOf(at.came)} (${at.later < 0 ? "" : "+"}${secondsOf(at.later)})`));
  const services = [...new Set(report.sizes.flatMap(({ dollarsByService }) => Object.keys(dollarsByService)))];
  const kib = (bytes: number) => `${(bytes / 1024).toFixed(0)} KiB`;
  const { bundles } = report;
  const creates = [
    line("Create of servers+agents", columns),
    row("seeds", ({ seeds }) => String(seeds.length)),
    "",
    row("ready, seconds, p50", ({ readySeconds }) => secondsOf(readySeconds.p50)),
    row("ready, seconds, p99", ({ readySeconds }) => secondsOf(readySeconds.p99)),
    ...goalRow(
      "(a) over the medians' bound, p50",
      ({ overMedians }) => overMedians,
      ({ p50 }) => ratio(p50),
    ),
    row("    p99", ({ overMedians }) => ratio(overMedians.value.p99)),
    ...goalRow(
      "(b) over the run's own bound, p50",
      ({ overOwn }) => overOwn,
      ({ p50 }) => ratio(p50),
    ),
    row("    p99", ({ overOwn }) => ratio(overOwn.value.p99)),
    `  ratio wanted in the end: ${report.goals.ratioInTheEnd}`,
    "",
    "  When it came, seconds, and in brackets how much later than it could have",
    course("first server answers (F)", "F"),
    course("control plane complete (K)", "K"),
    course("last agent Ready (A)", "A"),
    course("endpoint serves (E)", "E"),
    course("operation over, after all of these", "ready"),
    "",
    row("state transitions, p50", ({ transitions }) => String(transitions.value.p50)),
    ...goalRow(
      "state transitions, most",
      ({ transitions }) => transitions,
      ({ most }) => String(most),
    ),
    row("  child executions started", ({ childStarts }) => String(childStarts.p50)),
    ...goalRow(
      "largest history, % of 25,000",
      ({ largestHistoryPercent }) => largestHistoryPercent,
      ({ most }) => most.toFixed(2),
    ),
    ...goalRow(
      "AWS calls a node, p50",
      ({ callsPerNode }) => callsPerNode,
      ({ p50 }) => p50.toFixed(2),
    ),
    row("  by functions", ({ functionCallsPerNode }) => functionCallsPerNode.p50.toFixed(2)),
    row("  by workflows", ({ workflowCallsPerNode }) => workflowCallsPerNode.p50.toFixed(2)),
    row("  besides, files by presigned URL", ({ nodeTransfersPerNode }) => nodeTransfersPerNode.p50.toFixed(2)),
    "",
    row("cost of a create, $", ({ dollars }) => dollars.p50.toFixed(4)),
    ...services.map((service) => row(`  ${service}`, ({ dollarsByService }) => (dollarsByService[service] ?? 0).toFixed(6))),
    "",
    row("simulated creates a second and core", ({ createsPerSecondPerCore }) => createsPerSecondPerCore.toPrecision(2)),
    "",
  ];
  const lines = [
    ...(report.sizes.length === 0 ? [] : creates),
    ...(report.night === undefined ? [] : [...nightLines(report.night), ""]),
    `  bundles: ${bundles.count} functions, ${kib(bundles.totalBytes)} in all; the largest is ${bundles.largest.name}, ${kib(bundles.largest.bytes)}`,
    `  synthesis with all checks: ${report.synthSeconds.toFixed(1)} s; this bench: ${report.realSeconds.toFixed(0)} s`,
    "",
    "  (a) divides by the formulas of core/latency-model.json over its medians. The slowest of many machines",
    "      is slower than the median one, so (a) holds luck and the size of the cluster besides our own time.",
    "  (b) divides by the same formulas over what the run itself drew: boots, downloads, imports, starts,",
    "      joins, the load balancer. Nothing could have been ready earlier in that very run.",
    "  p99 is the largest of fewer than 100 runs. Workflow calls are tasks scheduled by executions.",
    "  Costs are us-east-1 list prices, without nodes, endpoint, logs and traces. EC2, Elastic Load",
    "  Balancing and Run Command calls are free. The last two blocks depend on this machine.",
  ];
  return `${lines.join("\n")}\n`;
}

function nightLines(night: NightReport): string[] {
  const line = (label: string, text: string, judged?: Judged<Spread>): string => {
    const verdict = judged?.ok === undefined ? "" : `  goal, at most ${judged.goal}: ${judged.ok ? "ok" : "over"}`;
    return `  ${label.padEnd(44)}${text.padStart(10)}${verdict}`.trimEnd();
  };
  return [
    `  A night of a cluster of 3+10, ${night.seeds.length} seed(s) for each way to restore`,
    line("backup, seconds, p50", night.backupSeconds.p50.toFixed(1)),
    line("state transitions of a backup, most", String(night.transitions.value.most), night.transitions),
    line("cost of a backup, $, most", night.dollars.value.most.toFixed(6), night.dollars),
    ...Object.entries(night.dollarsByService).map(([service, dollars]) => line(`  ${service}`, dollars.toFixed(6))),
    line("a sweep with nothing due, milliseconds", night.sweepMilliseconds.toFixed(0)),
    line("  a month of sweeps, $", night.sweepDollarsPerMonth.toFixed(2)),
    ...night.restores.flatMap(({ way, seconds, overOwn, transitions }) => [
      line(`restored ${way}, seconds, p50`, seconds.p50.toFixed(1)),
      line("  over the run's own bound, p50", overOwn.value.p50.toFixed(3), overOwn),
      line("  state transitions, p50", String(transitions.p50)),
    ]),
    "",
    "  Nightly backups of a fleet, all at the same minute, by the decisions of core/due.ts and a model",
    "  of what they ask: 20 SendCommand calls a second, starts one after another in a sweep",
    ...night.fleets.map(({ clusters, seconds, boundSeconds, mostCommandsPerSecond, sweeps }) => {
      const within = `in ${sweeps} sweep(s), at most ${mostCommandsPerSecond} commands a second`;
      return `  ${String(clusters).padStart(6)} clusters: ${seconds.toFixed(0)} s ${within}; ${boundSeconds.toFixed(0)} s with none but these`;
    }),
  ];
}

// ------------------------------------------------------------------------------------------------------------------- command line

const help = `Measures creates, backups and restores in the local cloud against the least that AWS and RKE2 allow.

  npm run bench
  npm run bench -- --only 3+10 --seeds 5
  npm run bench -- --json

  --seeds N      creates of each size (default ${defaultSeeds}); 3+1000 runs a quarter of them
  --only PART    one of ${[...sizes.map(({ name }) => name), night].join(", ")}; may be given more than once
  --json         one JSON document on stdout
  --help         this text

Exit codes: 0 all ran, whatever the goals say; 1 a run failed; 2 wrong use
`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: "string", default: String(defaultSeeds) },
      only: { type: "string", multiple: true },
      json: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return;
  }
  if (!/^[1-9]\d{0,3}$/.test(values.seeds)) throw new WrongUse(`--seeds takes a whole number from 1 to 9999, not ${values.seeds}`);
  const only = values.only?.map((name) => {
    if (name === night) return night;
    const size = sizes.find((each) => each.name === name);
    if (size === undefined) throw new WrongUse(`--only takes ${[...sizes.map((each) => each.name), night].join(", ")}, not ${name}`);
    return size.name;
  });
  const report = await bench({
    seeds: Number(values.seeds),
    ...(only === undefined ? {} : { only }),
    progress: (line) => void process.stderr.write(`${line}\n`),
  });
  process.stdout.write(values.json ? `${JSON.stringify(report, undefined, 2)}\n` : benchText(report));
}

class WrongUse extends Error {}

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === resolve(process.argv[1])) {
  if (process.argv.includes("--worker") && process.send !== undefined) serveParent();
  else
    await main().catch((error: unknown) => {
      const isUse = error instanceof WrongUse || ((error as NodeJS.ErrnoException).code ?? "").startsWith("ERR_PARSE_ARGS");
      process.stderr.write(`${error instanceof Error ? (isUse ? error.message : (error.stack ?? error.message)) : String(error)}\n`);
      if (isUse) process.stderr.write("See: npm run bench -- --help\n");
      process.exitCode = isUse ? 2 : 1;
    });
}
