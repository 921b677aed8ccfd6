/**
 * Follows Step Functions' status event: closes an operation whose execution ended without doing so. That event is best effort (law 9), so the sweep of the fleet
 * looks at every open operation as well.
 */
import { z } from "zod";
import { NotYet } from "../core/failures.js";
import { announcer } from "./aws/events.js";
import { inventory } from "./aws/inventory.js";
import { stateStore } from "./aws/state.js";
import { workflows } from "./aws/workflows.js";
import { closeEnded, type EndClients } from "./ended-execution.js";
import { lambda, type Task } from "./lambda.js";

const input = z.object({ detail: z.object({ executionArn: z.string().min(1) }) });

export const observeExecution: Task<z.output<typeof input>, EndClients, { readonly closed: number }> = async ({ detail }, clients, moment) => {
  const { end } = await closeEnded(detail.executionArn, clients, moment);
  if (end === "too early") throw new NotYet(`What ${detail.executionArn} began may still be under way`, "Lambda asks again");
  return { closed: end === "closed" ? 1 : 0 };
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
