/**
 * How long a fleet's nightly backups take within an account's limits: the very decisions of `core/due.ts`, swept as the deployment sweeps, over a model of what
 * a backup asks of the account. No world is booted: ten thousand of them would not fit into one.
 */
import { clusterFileSchema } from "../core/cluster-file.js";
import { type Dated, type Due, decideDue, decideWave, fleetLimits, sweepSeconds } from "../core/due.js";
import { shortHash } from "../core/layout.js";
import { clusterFile } from "./create-run.js";

export interface BackupPace {
  /** Of one backup alone, from its start to its proof. */
  readonly backupSeconds: number;
  /** Of one admission in a sweep: they come one after another. */
  readonly admissionSeconds: number;
}

export interface FleetFigures {
  readonly clusters: number;
  /** From the scheduled time to the proof of the last snapshot. */
  readonly seconds: number;
  /** What no schedule could beat: every command at the rate that the account bears. */
  readonly boundSeconds: number;
  readonly sweeps: number;
  /** Most in any second, after what the account's bucket let through, and the longest that a command waited for it. */
  readonly mostCommandsPerSecond: number;
  readonly longestWaitSeconds: number;
}

const night = Date.UTC(2026, 0, 6, 2);

/** Every cluster at the same minute of the same time zone: the worst case. */
export function fleetNight(clusters: number, { backupSeconds, admissionSeconds }: BackupPace): FleetFigures {
  const wanted = clusterFileSchema.parse(clusterFile(3, 0));
  const newestProven = { id: "20260105T020000Z-00000000", at: "2026-01-05T02:10:00.000Z", revision: 1, bytes: 1 };
  const waiting = new Map(
    Array.from({ length: clusters }, (_, index): [string, Dated] => {
      const uid = shortHash(`fleet ${index}`);
      return [uid, { name: `c${index}`, uid, phase: "ready", readyAt: "2026-01-01T00:00:00.000Z", newestProven, wanted }];
    }),
  );
  const startsMs: number[] = [];
  let sweeps = 0;
  for (let nowMs = night; waiting.size > 0; nowMs += sweepSeconds * 1000) {
    sweeps++;
    const due: Due[] = [...waiting.values()].flatMap((record) => {
      const decision = decideDue(record, false, clusters, nowMs);
      return decision.kind === "due" ? decision.due.filter(({ kind }) => kind === "backup") : [];
    });
    for (const [index, { uid }] of decideWave(due, 0).entries()) {
      startsMs.push(nowMs + (index + 1) * admissionSeconds * 1000);
      waiting.delete(uid);
    }
  }
  return {
    clusters,
    sweeps,
    boundSeconds: (clusters * fleetLimits.commandsPerBackup) / fleetLimits.commandsPerSecond,
    ...within(startsMs, backupSeconds),
  };
}

/** Each backup sends its commands one after another, and each waits for its turn at the account's bucket. */
function within(startsMs: readonly number[], backupSeconds: number): Pick<FleetFigures, "seconds" | "mostCommandsPerSecond" | "longestWaitSeconds"> {
  const apartMs = (backupSeconds * 1000) / fleetLimits.commandsPerBackup;
  const gapMs = 1000 / fleetLimits.commandsPerSecond;
  // By the second in which a command is wanted; later ones are added as earlier ones end.
  const wanted = new Map<number, number[][]>();
  const ask = (atMs: number, left: number) => {
    const second = Math.floor(atMs / 1000);
    const asked = wanted.get(second) ?? [];
    asked.push([atMs, left]);
    wanted.set(second, asked);
  };
  for (const startMs of startsMs) ask(startMs, fleetLimits.commandsPerBackup);
  let freeMs = 0;
  let lastMs = night;
  let longestWaitMs = 0;
  const sent = new Map<number, number>();
  for (let second = Math.floor(night / 1000); wanted.size > 0; second++) {
    const asked = (wanted.get(second) ?? []).sort(([a = 0], [b = 0]) => a - b);
    wanted.delete(second);
    for (const [atMs = 0, left = 0] of asked) {
      const sentMs = Math.max(atMs, freeMs);
      freeMs = sentMs + gapMs;
      longestWaitMs = Math.max(longestWaitMs, sentMs - atMs);
      sent.set(Math.floor(sentMs / 1000), (sent.get(Math.floor(sentMs / 1000)) ?? 0) + 1);
      if (left > 1) ask(Math.max(sentMs + apartMs, (second + 1) * 1000), left - 1);
      else lastMs = Math.max(lastMs, sentMs + apartMs);
    }
  }
  return {
    seconds: (lastMs - night) / 1000,
    mostCommandsPerSecond: Math.max(...sent.values()),
    longestWaitSeconds: longestWaitMs / 1000,
  };
}
