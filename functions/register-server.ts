/**
 * States "Register first server" and "Register server" of create-cluster, "Register restored server" and "Register server" of restore-cluster: the server is
 * a member now, and enters the endpoint (law 4).
 *
 * What it answered to its start is the proof that it is ready and votes; without that proof it stays out. So does a restored server that is not what the
 * snapshot was.
 */
import { z } from "zod";
import { Unsafe } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { nodeCommands } from "../core/node-commands.js";
import type { ClusterRecord, OperationRecord, ServerMember } from "../core/records.js";
import { compareRestored, type RestoredState } from "../core/restore.js";
import { type Instances, instances } from "./aws/instances.js";
import { type LoadBalancers, loadBalancers } from "./aws/load-balancer.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { endpointOf, holdLease, milestone, readRecord, stepInput, updateRecord } from "./cluster.js";
import { type CommandFile, commandKey } from "./command-file.js";
import { lambda, type Task } from "./lambda.js";

const input = stepInput.extend({
  group: z.string().min(1),
  pass: z.number().int().min(1),
  /** What made it a member. */
  command: z.enum(["start-server", "restore-snapshot", "rejoin-server"]).default("start-server"),
});

interface Clients {
  readonly state: StateStore;
  readonly instances: Instances;
  readonly balancers: LoadBalancers;
}

export const registerServer: Task<z.output<typeof input>, Clients, { readonly address: string }> = async (
  step,
  { state, instances, balancers },
  moment,
) => {
  await holdLease(state, step);
  const file = await state.read<CommandFile>(commandKey(step, step.command, step.group, step.pass));
  const started = nodeCommands[step.command].result.safeParse(file?.value.outcome?.result);
  const [instanceId] = file?.value.outcome?.succeeded ?? [];
  if (!started.success || !started.data.voter || instanceId === undefined) {
    throw new Unsafe(`${step.group} of ${step.cluster} has not shown that it votes`, "Start the operation again");
  }
  const { address, caHash } = started.data;
  if (step.command === "restore-snapshot") {
    await holdToSnapshot(step, nodeCommands["restore-snapshot"].result.parse(file?.value.outcome?.result), state, moment.now);
  }
  const [observed] = await instances.byId([instanceId]);
  const member: ServerMember = { instanceId, address, slot: observed?.slot ?? 0, at: moment.now };
  const record = await updateRecord(state, step.cluster, (current) => admitted(current, member, caHash, file?.value.upload));
  const { supervisorTargetGroupArn, apiTargetGroupArn } = endpointOf(record);
  const isFirst = record.bootstrap?.instanceId === instanceId;
  await Promise.all([balancers.register(supervisorTargetGroupArn, [instanceId]), balancers.register(apiTargetGroupArn, [instanceId])]);
  await milestone(
    state,
    step,
    isFirst ? (step.command === "restore-snapshot" ? "restore" : "bootstrap") : "join",
    `server-${member.slot} (${instanceId}) votes and is in the endpoint`,
    moment.now,
  );
  return { address };
};

/** @throws Unsafe when the cluster that was restored is not what was announced: it would lose more than a person agreed to */
async function holdToSnapshot(step: z.output<typeof input>, restored: RestoredState, state: StateStore, now: string): Promise<void> {
  const { restore } = await readRecord(state, step.cluster);
  const { revision, keys, newestRevision } = restored;
  if (restore?.source.kind === "snapshot") {
    const { faults } = compareRestored(restore.source, restored);
    if (faults.length > 0) {
      const what = `What was restored on ${step.cluster} is not snapshot ${restore.source.snapshot}: ${faults.join("; ")}`;
      throw new Unsafe(what, "The old data are kept on the servers' disks. Restore another snapshot");
    }
  }
  const outcome = { snapshot: restore?.source.kind === "snapshot" ? restore.source.snapshot : "survivor", revision, keys, newestRevision, at: now };
  await state.update<OperationRecord>(stateKeys.operation(step.cluster, step.operation), (current) =>
    current === undefined ? undefined : { ...current, outcome: { ...current.outcome, restored: outcome } },
  );
}

/** @throws Unsafe when the server belongs to another cluster than the first one: two clusters must not share an endpoint */
function admitted(record: ClusterRecord, member: ServerMember, caHash: string, upload: string | undefined): ClusterRecord {
  const known = record.bootstrap?.done?.caHash ?? caHashBefore(record);
  if (known !== undefined && known !== caHash) {
    throw new Unsafe(
      `${member.instanceId} has cluster CA ${caHash.slice(0, 12)}, ${record.name} has ${known.slice(0, 12)}: it made a cluster of its own`,
      "Terminate that instance, then start the operation again",
    );
  }
  const bootstrap =
    record.bootstrap === undefined || record.bootstrap.done !== undefined || record.bootstrap.instanceId !== member.instanceId
      ? record.bootstrap
      : { ...record.bootstrap, done: { at: member.at, address: member.address, caHash } };
  const others = record.members.filter((each) => each.instanceId !== member.instanceId);
  return {
    ...record,
    ...(bootstrap === undefined ? {} : { bootstrap }),
    ...(upload === undefined ? {} : { kubeconfigUpload: upload }),
    members: [...others, member].sort((a, b) => a.slot - b.slot),
  };
}

/** A restore keeps the cluster's CA: it is in the snapshot. */
function caHashBefore(record: ClusterRecord): string | undefined {
  if (record.bootstrap?.restore === undefined) return undefined;
  return record.abandonedBootstraps.findLast((decision) => decision.done !== undefined && decision.abandonedAt === undefined)?.done?.caHash;
}

export const handler = lambda(
  input,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    instances: instances(),
    balancers: loadBalancers(),
  }),
  registerServer,
);
