/**
 * State "Find stale nodes" of restore-cluster: nodes that the restored cluster remembers and that have no machine any more. A snapshot knows the nodes of its
 * time; those that are gone since would count as not ready for ever.
 *
 * Names come from what was ever launched, because the restored server tells of servers alone; a name that is not there is removed already.
 */
import { z } from "zod";
import { emptyLaunchLog, type LaunchLog } from "../core/launch.js";
import { nodeName, serverPool, stateKeys } from "../core/layout.js";
import { mostLostAtOnce } from "../core/lost-nodes.js";
import { nodeCommands } from "../core/node-commands.js";
import { isAlive } from "../core/nodes.js";
import type { ClusterRecord } from "../core/records.js";
import { type Instances, instances } from "./aws/instances.js";
import { type StateStore, type Stored, stateStore } from "./aws/state.js";
import type { LostNodes } from "./clear-lost-nodes.js";
import { holdLease, milestone, observe, readOperation, readRecord, type StepInput, stepInput } from "./cluster.js";
import { type CommandFile, commandKey } from "./command-file.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({ pass: z.number().int().min(1), group: z.string().min(1) });

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
}

/** So many commands at the most, the latest launched first: enough for a cluster of 1,000 agents that has lost them all. */
const mostGroups = 22;

export const findStaleNodes: Task<z.output<typeof input>, Clients, { readonly groups: readonly string[] }> = async (step, clients, moment) => {
  const { state } = clients;
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const [{ instances: observed }, launches, command] = await Promise.all([
    observe(state, clients.instances, record, moment.now),
    state.read<LaunchLog>(stateKeys.launches(step.cluster)),
    state.read<CommandFile>(commandKey(step, "restore-snapshot", step.group, step.pass)),
  ]);
  const alive = new Set(observed.filter((node) => isAlive(node.state)).map((node) => node.instanceId));
  const restored = nodeCommands["restore-snapshot"].result.safeParse(command?.value.outcome?.result);
  const servers = (restored.success ? restored.data.nodes : []).map((name) => ({
    instanceId: name.slice(`${serverPool}-`.length),
    pool: serverPool,
  }));
  const launched = [launches, await launchesOfSource(step, record, state)]
    .flatMap((log) => (log?.value ?? emptyLaunchLog).launches)
    .flatMap((launch) => launch.instanceIds.map((instanceId) => ({ instanceId, pool: launch.pool })))
    .reverse();
  const seen = new Set<string>();
  const stale = [...servers, ...launched].filter((node) => {
    const name = nodeName(node.pool, node.instanceId);
    if (alive.has(node.instanceId) || seen.has(name)) return false;
    seen.add(name);
    return true;
  });
  const groups = Array.from({ length: Math.min(mostGroups, Math.ceil(stale.length / mostLostAtOnce)) }, (_, index): LostNodes => {
    const members = stale.slice(index * mostLostAtOnce, (index + 1) * mostLostAtOnce);
    return { schema: 1, id: `lost-nodes-${index + 1}`, members, instances: [] };
  });
  await Promise.all(groups.map((group) => state.write(stateKeys.group(step.cluster, step.operation, group.id), group)));
  if (stale.length > 0) await milestone(state, step, "stale nodes found", `${stale.length} node(s) that have no machine any more`, moment.now);
  return { groups: groups.map((group) => group.id) };
};

/** A cluster made of another one's snapshot remembers that one's nodes, which were never its own, whether the other still is or not. */
async function launchesOfSource(step: StepInput, record: ClusterRecord, state: StateStore): Promise<Stored<LaunchLog> | undefined> {
  const { request } = await readOperation(state, step);
  if (request === undefined || request.from.uid === record.uid) return undefined;
  const source = await state.read<ClusterRecord>(stateKeys.record(request.from.name));
  return state.read<LaunchLog>(
    source?.value.uid === request.from.uid ? stateKeys.launches(request.from.name) : stateKeys.launchesKept(request.from.uid),
  );
}

export const handler = lambda(input, (environment) => ({ state: stateStore(environment("STATE_BUCKET")), instances: instances() }), findStaleNodes);
