/** State "Admit agents" of start-agent-group: books a group's turn to join, at the rate at which RKE2 bears joins. */
import { z } from "zod";
import { type AdmissionBook, bookAdmission } from "../core/agent-admission.js";
import { NotYet } from "../core/failures.js";
import type { NodeGroup } from "../core/groups.js";
import { stateKeys } from "../core/layout.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, readRecord, stepInput } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ group: z.string().min(1) });

export const admitAgents: Task<z.output<typeof input>, { readonly state: StateStore }, { readonly waitSeconds: number }> = async (
  step,
  { state },
  moment,
) => {
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  // Until a restore has decided who makes the cluster anew, the record still tells of the servers of the time before.
  const isOfBefore = record.restore !== undefined && record.bootstrap?.restore !== record.restore.id;
  if (record.bootstrap?.done === undefined || record.members.length === 0 || isOfBefore) {
    throw new NotYet(`The first server of ${step.cluster} has not answered yet`, "Asking again shortly");
  }
  const group = await state.read<NodeGroup>(stateKeys.group(step.cluster, step.operation, step.group));
  const agents = Math.max(1, group?.value.instanceIds.length ?? 1);
  let waitSeconds = 0;
  await state.update<AdmissionBook>(stateKeys.admission(step.cluster), (book) => {
    const booked = bookAdmission({
      book,
      nowMs: moment.nowMs,
      group: `${step.operation}/${step.group}`,
      agents,
      members: record.members,
      wantedServers: record.wanted.spec.servers.count,
    });
    waitSeconds = booked.waitSeconds;
    return booked.book;
  });
  return { waitSeconds };
};

export const handler = lambda(input, (environment) => ({ state: stateStore(environment("STATE_BUCKET")) }), admitAgents);
