/**
 * A night of one cluster in a world of its own: what the sweep costs while nothing is due, what the nightly backup takes, and then a restore against the least
 * time that its own draws allow.
 */
import { createCost } from "../core/costs.js";
import model from "../core/latency-model.json" with { type: "json" };
import type { ClusterRecord, OperationRecord } from "../core/records.js";
import type { RestoreWay } from "../core/restore.js";
import { deregistrationDelaySeconds } from "../functions/aws/load-balancer.js";
import type { Ec2 } from "../local/aws/ec2.js";
import type { Sfn } from "../local/aws/sfn.js";
import { stockArtifactStore } from "../local/demo.js";
import { paidUsage } from "../local/usage.js";
import { World } from "../local/world.js";
import { clusterFile, readOperation } from "./create-run.js";

export interface NightJob {
  readonly assembly: string;
  readonly seed: number;
  readonly way: Exclude<RestoreWay, "as a new cluster">;
}

export interface NightFigures {
  readonly seed: number;
  readonly way: NightJob["way"];
  /** One look at a fleet of one cluster with nothing due. */
  readonly sweep: { readonly milliseconds: number; readonly dollars: number };
  readonly backup: {
    readonly seconds: number;
    readonly transitions: number;
    readonly dollars: number;
    readonly dollarsByService: Readonly<Record<string, number>>;
    /** What the sweep took longer for starting it. */
    readonly admissionMilliseconds: number;
  };
  readonly restore: { readonly seconds: number; readonly boundSeconds: number; readonly transitions: number };
}

const seconds = 1000;
/** EventBridge Scheduler, for each invocation (AWS price list). */
const schedulerDollars = 0.000001;
const limitMs = 3 * 3600 * seconds;

/** @throws when an operation does not succeed, with its failure card */
export async function nightRun({ assembly, seed, way }: NightJob): Promise<NightFigures> {
  const world = World.boot({ assembly, seed });
  try {
    stockArtifactStore(world);
    await carryOut(world, "/clusters", { requestId: "bench-create", file: JSON.stringify(clusterFile(3, 10)) });

    // From the middle of an hour on, so that whole sweeps are counted.
    await world.runUntil(Date.UTC(2026, 0, 5, 12, 2));
    const quiet = await used(world, async () => void (await world.runUntil(Date.UTC(2026, 0, 5, 13, 2))));
    const sweeps = quiet.sweep.invocations;
    const sweep = { milliseconds: quiet.sweep.milliseconds / sweeps, dollars: quiet.dollars / sweeps + schedulerDollars };

    await world.runUntil(Date.UTC(2026, 0, 6, 1, 57));
    const before = new Set(names(world));
    const night = await used(world, async () => void (await world.runUntil(Date.UTC(2026, 0, 6, 2, 12))));
    const [started] = names(world).filter((name) => name.startsWith("backup-") && !before.has(name));
    const backup = started === undefined ? undefined : readOperation(world, started);
    if (backup?.status !== "succeeded" || backup.endedAt === undefined) {
      throw new Error(`the backup of seed ${seed} did not succeed: ${JSON.stringify(backup?.card ?? backup)}`);
    }
    const resting = night.sweep.invocations;
    const share = (service: string) => (night.byService[service] ?? 0) - (resting * (quiet.byService[service] ?? 0)) / sweeps;
    const dollarsByService = Object.fromEntries(Object.keys(night.byService).map((service) => [service, share(service)]));

    await world.runUntil(Date.UTC(2026, 0, 6, 3, 2));
    const { members } = await recordOf(world);
    if (way === "onto new nodes") {
      for (const { instanceId } of members) world.service<Ec2>("ec2").lose(instanceId, "Server.InternalError");
      await world.runFor({ minutes: 6 });
    }
    const begunMs = world.clock.now();
    const transitions = world.counts.transitions;
    const restored = await carryOut(world, "/clusters/bench/restore", { requestId: "bench-restore", confirm: "bench" });
    return {
      seed,
      way,
      sweep,
      backup: {
        seconds: (Date.parse(backup.endedAt) - Date.parse(backup.acceptedAt)) / seconds,
        transitions: night.transitions,
        dollars: night.dollars - (resting * quiet.dollars) / sweeps,
        dollarsByService,
        admissionMilliseconds: night.sweep.milliseconds - resting * sweep.milliseconds,
      },
      restore: {
        seconds: (Date.parse(restored.endedAt as string) - begunMs) / seconds,
        boundSeconds: restoreBound(world, begunMs, way),
        transitions: world.counts.transitions - transitions,
      },
    };
  } finally {
    world.close();
  }
}

const names = (world: World) =>
  world
    .service<Sfn>("sfn")
    .executions()
    .map(({ arn }) => arn.split(":").at(-1) as string);

async function recordOf(world: World): Promise<ClusterRecord> {
  return (JSON.parse((await world.request("GET", "/clusters/bench")).body) as { record: ClusterRecord }).record;
}

async function carryOut(world: World, path: string, body: unknown): Promise<OperationRecord> {
  const answer = await world.request("POST", path, body);
  if (answer.status !== 202) throw new Error(`POST ${path} was answered with ${answer.status}: ${answer.body}`);
  const { operation: id } = JSON.parse(answer.body) as { operation: string };
  const hasEnded = () => ["succeeded", "failed"].includes(readOperation(world, id)?.status ?? "");
  await world.runUntil(() => world.service<Sfn>("sfn").running().length === 0 && hasEnded(), { at: world.clock.now() + limitMs });
  const operation = readOperation(world, id);
  if (operation?.status !== "succeeded") throw new Error(`${id} did not succeed: ${JSON.stringify(operation?.card ?? operation)}`);
  return operation;
}

async function used(world: World, act: () => Promise<void>) {
  const read = () => {
    const cost = createCost(paidUsage(world));
    const swept = Object.entries(world.counts.functions).find(([name]) => name.endsWith("sweep-fleet"))?.[1];
    return { cost, transitions: world.counts.transitions, invocations: swept?.invocations ?? 0, milliseconds: swept?.billedMilliseconds ?? 0 };
  };
  const before = read();
  await act();
  const after = read();
  return {
    dollars: after.cost.dollars - before.cost.dollars,
    byService: Object.fromEntries(
      Object.entries(after.cost.byService).map(([service, dollars]) => [service, dollars - (before.cost.byService[service] ?? 0)]),
    ),
    transitions: after.transitions - before.transitions,
    sweep: { invocations: after.invocations - before.invocations, milliseconds: after.milliseconds - before.milliseconds },
  };
}

// ------------------------------------------------------------------------------------------------------------------------- bound

interface Remembered {
  readonly managed: ReadonlyMap<string, { readonly registeredAtMs: number }>;
  readonly commands: ReadonlyMap<
    string,
    {
      readonly documentName: string;
      readonly requestedAtMs: number;
      readonly invocations: ReadonlyMap<string, { readonly startedAtMs?: number; readonly endedAtMs?: number }>;
    }
  >;
}
interface Launched {
  readonly instances: ReadonlyMap<string, { readonly id: string; readonly launchedAtMs: number }>;
}
interface Balancing {
  readonly targetGroups: ReadonlyMap<
    string,
    { readonly targets: ReadonlyMap<string, { readonly id: string; readonly checksSeconds: number; readonly thresholdSeconds: number }> }
  >;
}

/**
 * The least that this run's own draws allow, from the request until everything that a restore promises is so: what the machines and RKE2 took, one after another
 * where the laws ask for it, and nothing of our own between.
 *
 * In place: servers leave the endpoint for as long as it lets connections end, stop side by side; one restores; the others join one by one. Onto new nodes:
 * machines boot and are prepared, and the first of them restores. Then pods, or the endpoint's checks, whichever is later; and a snapshot of it.
 */
function restoreBound(world: World, begunMs: number, way: NightJob["way"]): number {
  const ssm = world.service("ssm").save() as Remembered;
  const ec2 = world.service<Ec2>("ec2").save() as unknown as Launched;
  const balancing = world.service("elastic-load-balancing-v2").save() as Balancing;
  const [cluster] = [...(world.service("nodes").save() as { clusters: ReadonlyMap<string, { podsReadyAtMs: number }> }).clusters.values()].slice(-1);
  const { steps } = model;
  const runs = (command: string) =>
    [...ssm.commands.values()]
      .filter(({ documentName, requestedAtMs }) => documentName.startsWith(`drover-${command}-`) && requestedAtMs >= begunMs)
      .flatMap(({ invocations }) => [...invocations])
      .flatMap(([instanceId, { startedAtMs, endedAtMs }]) =>
        startedAtMs === undefined || endedAtMs === undefined ? [] : [{ instanceId, endedAtMs, seconds: (endedAtMs - startedAtMs) / seconds }],
      );
  const longest = (command: string) => Math.max(0, ...runs(command).map((run) => run.seconds));
  const [restore] = runs("restore-snapshot");
  if (restore === undefined || cluster === undefined) throw new Error("the world does not remember the restore");
  const joins = [...runs("rejoin-server"), ...runs("start-server")];

  const prepared = runs("prepare-node").flatMap(({ instanceId, seconds: took }) => {
    const launchedAtMs = ec2.instances.get(instanceId)?.launchedAtMs ?? 0;
    const registered = ssm.managed.get(instanceId)?.registeredAtMs;
    return launchedAtMs < begunMs || registered === undefined ? [] : [(registered - launchedAtMs) / seconds + steps.sendCommandToStart.p50 + took];
  });
  const toRestore =
    way === "in place"
      ? deregistrationDelaySeconds + steps.sendCommandToStart.p50 + longest("stop-server")
      : steps.runInstancesCall.p50 + Math.min(...prepared);
  const answers = steps.requestAccepted.p50 + toRestore + steps.sendCommandToStart.p50 + restore.seconds;
  const joined = answers + joins.reduce((sum, join) => sum + join.seconds, 0);
  const lastServerMs = Math.max(restore.endedAtMs, ...joins.map(({ endedAtMs }) => endedAtMs));
  const complete = joined + Math.max(0, (cluster.podsReadyAtMs - lastServerMs) / seconds) + steps.commandEndToEvent.p50;

  const place = [restore.instanceId, ...joins.map(({ instanceId }) => instanceId)];
  const readyAt = (id: string) => answers + joins.slice(0, place.indexOf(id)).reduce((sum, join) => sum + join.seconds, 0);
  const serves = Math.max(
    ...[...balancing.targetGroups.values()].map(({ targets }) =>
      Math.min(
        ...[...targets.values()]
          .filter(({ id }) => place.includes(id))
          .map(({ id, checksSeconds, thresholdSeconds }) => readyAt(id) + checksSeconds + thresholdSeconds),
      ),
    ),
  );
  const saved = 2 * (steps.sendCommandToStart.p50 + steps.commandEndToEvent.p50) + steps.snapshotFixed.p50;
  return Math.max(complete + saved, serves);
}
