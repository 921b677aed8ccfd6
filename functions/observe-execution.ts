/**
 * Follows Step Functions' status event of an execution that ended badly: an abort or a time-out passes no Catch, so nobody else writes its card or gives
 * its lease back.
 */
import { z } from "zod";
import { stateKeys } from "../core/layout.js";
import { stillHolds } from "../core/lease.js";
import type { Lease, OperationRecord } from "../core/records.js";
import { announcer } from "./aws/events.js";
import { inventory } from "./aws/inventory.js";
import { stateStore } from "./aws/state.js";
import { type Workflows, workflows } from "./aws/workflows.js";
import { type FailureClients, recordFailure } from "./failed-operation.js";
import { lambda, type Task } from "./lambda.js";

const input = z.object({ detail: z.object({ executionArn: z.string().min(1) }) });

interface Clients extends FailureClients {
  readonly workflows: Workflows;
}

export const observeExecution: Task<z.output<typeof input>, Clients, { readonly recorded: boolean }> = async ({ detail }, clients, moment) => {
  const { executionArn } = detail;
  // The event may be late or repeated: what the execution says now is what counts.
  const { status, input: started, error, cause } = await clients.workflows.describe(executionArn);
  if (status !== "FAILED" && status !== "TIMED_OUT" && status !== "ABORTED") return { recorded: false };
  const request = z.object({ cluster: z.string(), operation: z.string() }).safeParse(started);
  if (!request.success) return { recorded: false };
  const { cluster, operation: id } = request.data;
  const operation = await clients.state.read<OperationRecord>(stateKeys.operation(cluster, id));
  const key = stateKeys.lease(cluster);
  const lease = await clients.state.read<Lease>(key);
  const isHeld = stillHolds(lease?.value, executionArn) === undefined;
  const isOpen = operation !== undefined && operation.value.card === undefined && operation.value.status !== "succeeded";
  if (isOpen) {
    const failure = { error: error ?? status, cause: cause ?? `the execution ended as ${status}`, state: "" };
    await recordFailure({ operation: operation.value, failure, isHeld, now: moment.now }, clients);
  }
  if (lease !== undefined && isHeld) await clients.state.removeVersion(key, lease.etag);
  return { recorded: isOpen };
};

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    inventory: inventory(),
    announcer: announcer(environment("EVENT_BUS")),
    workflows: workflows(),
  }),
  observeExecution,
);
