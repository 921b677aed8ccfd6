/** What was used of AWS in a world so far: what is paid for, and how often who called. */
import type { OperationUsage } from "../core/costs.js";
import type { Sfn } from "./aws/sfn.js";
import type { World } from "./world.js";

const s3Reads = ["s3.GetObject", "s3.HeadObject", "s3.GetObjectRetention"];
/** DELETE is free, and so are EC2, Elastic Load Balancing and Run Command. */
const s3Writes = ["s3.PutObject", "s3.CopyObject", "s3.CreateMultipartUpload", "s3.UploadPart", "s3.CompleteMultipartUpload"];
const s3Lists = ["s3.ListObjectsV2", "s3.ListObjectVersions", "s3.ListParts", "s3.ListMultipartUploads"];

/** Since the world began. What the account's owner looked at by hand is not counted. */
export function paidUsage(world: World): OperationUsage {
  const { calls, functions, transitions, lambdaMilliseconds } = world.counts;
  const sum = (wanted: (operation: string) => boolean) =>
    Object.entries(calls)
      .filter(([operation]) => wanted(operation))
      .flatMap(([, callers]) => Object.entries(callers))
      .filter(([caller]) => caller !== owner)
      .reduce((total, [, count]) => total + count, 0);
  const all = Object.values(functions);
  const weighted = all.reduce((total, { billedMilliseconds, memoryMib }) => total + billedMilliseconds * memoryMib, 0);
  return {
    transitions,
    lambdaRequests: all.reduce((total, { invocations }) => total + invocations, 0),
    lambdaMs: lambdaMilliseconds,
    lambdaMemoryMb: lambdaMilliseconds === 0 ? 0 : weighted / lambdaMilliseconds,
    s3Writes: sum((operation) => s3Writes.includes(operation) || s3Lists.includes(operation)),
    s3Reads: sum((operation) => s3Reads.includes(operation)),
    kmsRequests: sum((operation) => operation.startsWith("kms.")),
    // Drover publishes one event a request; AWS's own events are free.
    events: sum((operation) => operation === "eventbridge.PutEvents"),
    apiRequests: Object.entries(functions)
      .filter(([name]) => apiFunctions.some((route) => name.endsWith(route)))
      .reduce((total, [, { invocations }]) => total + invocations, 0),
  };
}
/** Functions that the HTTP API alone invokes. */
const apiFunctions = ["drover-api", "drover-artifacts", "drover-snapshots", "drover-read-kubeconfig"];

/** How a call of the account's owner is named. */
export const owner = "person";

export interface CallsMade {
  /** AWS calls by handlers. */
  readonly functions: number;
  /** Tasks that executions scheduled: functions invoked, children started. */
  readonly workflows: number;
  /** Files that nodes fetched and sent by presigned URL. */
  readonly downloads: number;
}

export function callsMade(world: World): CallsMade {
  const byCaller = Object.values(world.counts.calls).flatMap((callers) => Object.entries(callers));
  const of = (wanted: (caller: string) => boolean) => byCaller.filter(([caller]) => wanted(caller)).reduce((total, [, count]) => total + count, 0);
  const scheduled = world
    .service<Sfn>("sfn")
    .executions()
    .flatMap(({ history }) => history.filter(({ type }) => type === "TaskScheduled"));
  return {
    functions: of((caller) => caller !== "node" && caller !== owner),
    workflows: scheduled.length,
    downloads: of((caller) => caller === "node"),
  };
}
