/**
 * What is measured of clusters, as lines that CloudWatch makes metrics of (CloudWatch user guide, "Embedded metric format specification").
 *
 * A line of a cluster also counts without its name: over all of them the maximum of an age is the worst of the fleet. A metric of a cluster's own costs about
 * $0.30 a month (CloudWatch pricing), so a deployment can do with the fleet's.
 */
import type { Freshness } from "./due.js";

export const metricNamespace = "Drover";

/** Names and units. Those of `cluster` also come with the cluster's name. */
export const metrics = {
  SnapshotAge: { unit: "Seconds", cluster: true, summary: "Age of the newest proven snapshot" },
  DrillAge: { unit: "Seconds", cluster: true, summary: "Time since a snapshot was last restored to prove it" },
  FailedBackups: { unit: "Count", cluster: true, summary: "Tries that failed of the scheduled backup that is due" },
  LateSnapshots: { unit: "Count", cluster: false, summary: "1 where the newest proven snapshot is older than its schedule allows" },
  LateDrills: {
    unit: "Count",
    cluster: false,
    summary: "1 where the last drill is older than the cluster file allows, or did not prove its snapshot",
  },
} as const;
export type MetricName = keyof typeof metrics;

const names = Object.keys(metrics) as MetricName[];

/** Undefined where nothing is asked for that could be measured. */
export function clusterMetrics(facts: {
  readonly cluster: string;
  readonly backup: Freshness | undefined;
  readonly drill: Freshness | undefined;
  readonly failedBackups: number;
}): Partial<Record<MetricName, number>> | undefined {
  const { backup, drill, failedBackups } = facts;
  if (backup === undefined && drill === undefined) return undefined;
  return {
    ...(backup?.ageSeconds === undefined ? {} : { SnapshotAge: backup.ageSeconds }),
    ...(drill?.ageSeconds === undefined ? {} : { DrillAge: drill.ageSeconds }),
    ...(backup === undefined ? {} : { FailedBackups: failedBackups, LateSnapshots: backup.lateSeconds > 0 ? 1 : 0 }),
    ...(drill === undefined ? {} : { LateDrills: drill.lateSeconds > 0 ? 1 : 0 }),
  };
}

/**
 * One line of a cluster.
 *
 * @param each whether its metrics are also kept under its name
 */
export function metricLine(cluster: string, values: Partial<Record<MetricName, number>>, each: boolean, nowMs: number): string {
  const present = names.filter((name) => values[name] !== undefined);
  const directive = (dimensions: readonly string[], of: readonly MetricName[]) => ({
    Namespace: metricNamespace,
    Dimensions: [dimensions],
    Metrics: of.map((name) => ({ Name: name, Unit: metrics[name].unit })),
  });
  const own = present.filter((name) => metrics[name].cluster);
  const directives = [directive([], present), ...(each && own.length > 0 ? [directive(["Cluster"], own)] : [])];
  return JSON.stringify({ _aws: { Timestamp: nowMs, CloudWatchMetrics: directives }, Cluster: cluster, ...values });
}
