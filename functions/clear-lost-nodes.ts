/**
 * State "Find lost nodes" of create-cluster: which nodes of the cluster are gone, or must go, before others take their places.
 *
 * Takes them out of the endpoint at once. The workflow then has a living server forget them, and only then are machines terminated (law 4).
 */
import { z } from "zod";
import { NotYet, Unsafe } from "../core/failures.js";
import { decideLost } from "../core/groups.js";
import { stateKeys } from "../core/layout.js";
import { decideLostNodes, type LostNodesAnswer } from "../core/lost-nodes.js";
import { isAlive, type ObservedInstance } from "../core/nodes.js";
import type { ClusterRecord } from "../core/records.js";
import { type Commands, commands } from "./aws/commands.js";
import { type Instances, instances } from "./aws/instances.js";
import { type LoadBalancers, loadBalancers } from "./aws/load-balancer.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, observe, readRecord, stepInput, updateRecord } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ pass: z.number().int().min(1) });

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
  readonly commands: Commands;
  readonly balancers: LoadBalancers;
  /** Reads the snapshot bucket. */
  readonly snapshots: StateStore;
}

/** Stored as the group `lost-nodes`, or `lost-nodes-1` and so on where there may be many: nodes the cluster must forget, and instances to terminate after that. */
export interface LostNodes {
  readonly schema: 1;
  readonly id: string;
  readonly members: readonly { readonly instanceId: string; readonly pool: string }[];
  readonly instances: readonly string[];
}

interface Found {
  readonly members: number;
  readonly instances: number;
}

export const clearLostNodes: Task<z.output<typeof input>, Clients, Found> = async (step, clients, moment) => {
  await holdLease(clients.state, step);
  const record = await readRecord(clients.state, step.cluster);
  const { log, instances: observed } = await observe(clients.state, clients.instances, record, moment.now);
  const decision = decideLostNodes({
    record,
    observed,
    log,
    late: await lateNodes(observed, clients, moment.nowMs),
    snapshots: (await clients.snapshots.list(`${record.uid}/`, 1)).length,
    isAskedAgain: step.pass === 1,
    now: moment.now,
  });
  if (decision.kind === "stop") throw new Unsafe(decision.reason, decision.next);
  await leaveEndpoint(record, decision.leave, clients.balancers);
  const lost: LostNodes = { schema: 1, id: "lost-nodes", members: decision.forget, instances: decision.terminate };
  await clients.state.write(stateKeys.group(step.cluster, step.operation, "lost-nodes"), lost);
  await updateRecord(clients.state, step.cluster, (current) => without(current, decision));
  const found = { members: decision.forget.length, instances: decision.terminate.length };
  if (found.members + found.instances > 0) {
    const detail = `pass ${step.pass}: ${found.members} to forget, ${found.instances} to terminate`;
    await milestone(clients.state, step, "lost nodes found", detail, moment.now);
  }
  return found;
};

function without(record: ClusterRecord, decision: Extract<LostNodesAnswer, { kind: "clear" }>): ClusterRecord {
  const members = record.members.filter((member) => decision.members.some((kept) => kept.instanceId === member.instanceId));
  if (decision.abandon === undefined) return { ...record, members };
  const { bootstrap: _, ...rest } = record;
  return { ...rest, members, abandonedBootstraps: [...record.abandonedBootstraps, decision.abandon] };
}

/** Running, yet not online after ten minutes: it never will be. */
async function lateNodes(observed: readonly ObservedInstance[], clients: Clients, nowMs: number): Promise<ReadonlySet<string>> {
  const old = observed.filter((instance) => isAlive(instance.state) && nowMs - Date.parse(instance.launchedAt) > 600_000);
  const online = new Set(await clients.commands.online(old.map((instance) => instance.instanceId)));
  const { late } = decideLost({
    group: { schema: 1, id: "", role: "agent", pool: "", instanceIds: old.map((instance) => instance.instanceId) },
    observed: old,
    online,
    sinceLaunchSeconds: 600,
  });
  return new Set(late);
}

async function leaveEndpoint(record: ClusterRecord, servers: readonly string[], balancers: LoadBalancers): Promise<void> {
  if (record.endpoint === undefined || servers.length === 0) return;
  const groups = [record.endpoint.supervisorTargetGroupArn, record.endpoint.apiTargetGroupArn];
  await Promise.all(groups.map((group) => balancers.deregister(group, servers)));
  const states = (await Promise.all(groups.map((group) => balancers.targets(group)))).flat();
  const leaving = states.filter((target) => servers.includes(target.instanceId) && target.state.includes("draining"));
  if (leaving.length > 0) throw new NotYet(`${leaving.length} target(s) of ${record.name} are still draining`, "Asking again shortly");
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    instances: instances(),
    commands: commands(),
    balancers: loadBalancers(),
    snapshots: stateStore(environment("SNAPSHOT_BUCKET")),
  }),
  clearLostNodes,
);
