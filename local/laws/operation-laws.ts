/** Laws 2, 8, 11 and 12: what becomes of an operation. */
import { cardFailures } from "../../core/failure-card.js";
import { drillRole } from "../../core/layout.js";
import type { FailureCard, LeftResource, OperationRecord } from "../../core/records.js";
import { type HistoryEvent, historyLimit } from "../asl/run.js";
import type { SeenCall } from "../kernel/calls.js";
import { type Bench, broken, type Law } from "./law.js";
import { listOf, type Resource } from "./seen.js";

/** Services whose changes cost money or move machines. S3's are held together by conditions instead. */
const fenced = new Set(["ec2", "elastic-load-balancing-v2", "ssm"]);

/** Law 2. */
export function oneOperation({ seen, held }: Bench): Law {
  return {
    number: 2,
    call(call, invoked) {
      if (!call.mutates || !fenced.has(call.service) || call.error !== undefined || call.origin.name === "person") return;
      held(2);
      const { cluster, execution } = invoked ?? {};
      const what = `${call.origin.name} called ${call.operation}`;
      if (cluster === undefined || execution === undefined) broken(2, `${what} outside any execution`);
      const lease = seen.leases.get(cluster);
      if (lease?.holder !== execution) {
        const holder = lease === undefined ? "nobody" : lease.operation;
        broken(2, `${what} for ${cluster} in the execution ${nameOf(execution)}, while ${holder} holds the lease`);
      }
      const foreign = instancesOf(call).filter((id) => {
        const owner = seen.world.owner(id);
        return owner !== undefined && owner.cluster !== cluster;
      });
      if (foreign.length > 0) broken(2, `${what} for ${cluster} on ${listOf(foreign)}, which is another cluster's`);
    },
  };
}

const nameOf = (arn: string) => arn.split(":").at(-1) ?? arn;

/** Instances that a changing call is about. */
function instancesOf({ input }: SeenCall): readonly string[] {
  const { InstanceIds, Targets } = input as { InstanceIds?: readonly string[]; Targets?: readonly { Id?: string }[] };
  return [...(InstanceIds ?? []), ...(Array.isArray(Targets) ? Targets.map((target) => target.Id ?? "") : [])];
}

/** Largest payload of any state, bytes, and the longest history, events. */
export const payloadLimitBytes = 8 * 1024;
export const longestHistory = historyLimit / 10;

/** Parts of an event that a workflow carries on. A cause is cut by Step Functions and ends with its state. */
const payloadMembers = ["input", "output", "parameters", "assignedVariables"] as const;

/** Law 8. */
export function stateByReference({ seen, held }: Bench): Law & { readonly history: (name: string, event: HistoryEvent, length: number) => void } {
  const perExecution = new Map<string, number>();
  return {
    number: 8,
    step() {
      for (const { arn, history } of seen.world.executions()) {
        const from = perExecution.get(arn) ?? 0;
        if (history.length === from) continue;
        perExecution.set(arn, history.length);
        for (const event of history.slice(from)) this.history(nameOf(arn), event, history.length);
      }
    },
    history(name, event, length) {
      held(8);
      if (length > longestHistory) broken(8, `the history of ${name} has ${length} events, ${longestHistory} are allowed`);
      const details = event.details?.[1] ?? {};
      for (const member of payloadMembers) {
        const value = details[member];
        if (value === undefined) continue;
        const bytes = Buffer.byteLength(JSON.stringify(value));
        if (bytes > payloadLimitBytes) {
          const state = typeof details.name === "string" ? ` of "${details.name}"` : "";
          broken(8, `${member}${state} in ${event.type} of ${name} has ${bytes} bytes, ${payloadLimitBytes} are allowed`);
        }
      }
    },
  };
}

/**
 * Law 11, where it can be broken while a world runs: a role that lacks a right. Whoever comes second to something that is gone is denied as well, because
 * what is gone has no tags any more.
 */
export function rolesSuffice({ seen, held }: Bench): Law {
  let looked = 0;
  return {
    number: 11,
    call() {
      held(11);
    },
    step() {
      const { denials } = seen.world;
      if (denials.length === looked) return;
      const exists = new Set(seen.world.resources().map((resource) => resource.id));
      const isGone = (resource: string) => /\/(i|sg|vol|eni)-[0-9a-f]+$/.test(resource) && !exists.has(resource.split("/").at(-1) as string);
      const wrong = denials.slice(looked).find(({ resource }) => !isGone(resource));
      looked = denials.length;
      if (wrong !== undefined) broken(11, `${wrong.role.split("/").at(-1)} was denied ${wrong.action} on ${wrong.resource}`);
    },
  };
}

/** Law 12, as soon as a card is written. Whether every failed operation has one, the end of a run says. */
export function oneCard({ seen, held }: Bench, runbook: ReadonlySet<string> | undefined): Law {
  /** What existed when a function took stock, by who called. */
  const stock = new Map<string, readonly Resource[]>();

  function written(operation: OperationRecord, card: FailureCard): void {
    held(12);
    const at = `the card of ${operation.id}`;
    if (!cardFailures.some((name) => name === card.failure)) broken(12, `${at} names the failure ${card.failure}, which no table knows`);
    const [page, anchor] = card.runbook.split("#");
    if (page !== "docs/runbook.md" || anchor === undefined) broken(12, `${at} points at ${card.runbook}, which is not the runbook`);
    if (runbook !== undefined && !runbook.has(anchor)) broken(12, `${at} points at ${card.runbook}, a heading that is not there`);
    if (card.what === "" || card.likelyCause === "" || card.next.length === 0)
      broken(12, `${at} does not say what happened, why, and what to type next`);
    checkLeft(at, operation, card.left.resources);
  }

  /** What the card says is left is what exists; something may have gone since stock was taken, or be on its way. */
  function checkLeft(at: string, operation: OperationRecord, left: readonly LeftResource[]): void {
    const ours = (resources: readonly Resource[]) => new Map(resources.filter(({ uid }) => uid === operation.uid).map((each) => [each.id, each]));
    const now = ours(seen.world.resources());
    const then = ours(stock.get(operation.id) ?? []);
    const told = new Set(left.map((resource) => resource.id));
    // A backup or a drill leaves a cluster that runs on; of a drill its own server may be left.
    const isLeft = ({ id }: Resource) =>
      operation.kind === "backup" ? false : operation.kind === "drill" ? seen.world.owner(id)?.role === drillRole : true;
    const hidden = [...now.values()].filter((resource) => !resource.isGoing && then.has(resource.id) && !told.has(resource.id) && isLeft(resource));
    if (hidden.length > 0) broken(12, `${at} does not tell of ${listOf(hidden.map((each) => `${each.kind} ${each.id}`))}, which is there`);
    const invented = left.filter((resource) => !now.has(resource.id) && !then.has(resource.id));
    if (invented.length > 0) broken(12, `${at} tells of ${listOf(invented.map((each) => `${each.kind} ${each.id}`))}, which is not there`);
  }

  return {
    number: 12,
    call(call, invoked) {
      const isInventory = call.operation === "DescribeVolumes" && /close-operation|observe-execution|sweep-fleet/.test(call.origin.name);
      if (isInventory && invoked !== undefined) stock.set(operationOf(invoked), seen.world.resources());
    },
    wrote(document) {
      if (document.kind !== "operation") return;
      const { value, before } = document;
      if (value.status === "failed" && value.card === undefined) broken(12, `${value.id} is marked as failed and has no card`);
      if (before?.card !== undefined && JSON.stringify(before.card) !== JSON.stringify(value.card))
        broken(12, `the card of ${value.id} was written twice`);
      if (value.card !== undefined && before?.card === undefined) written(value, value.card);
    },
  };

  /** observe-execution is invoked with an event, whose execution has the operation's name; sweep-fleet with nothing. */
  function operationOf(invoked: { readonly operation?: string; readonly detail?: { readonly executionArn?: string } }): string {
    return invoked.operation ?? nameOf(invoked.detail?.executionArn ?? "");
  }
}
