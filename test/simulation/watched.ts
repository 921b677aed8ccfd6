import type { ClusterRecord, FailureCard, OperationRecord } from "../../core/records.js";
import type { ExecutionView, HistoryEvent } from "../../local/asl/run.js";
import type { SeenCall } from "../../local/kernel/calls.js";
import { AwsError } from "../../local/kernel/contract.js";
import type { Denial } from "../../local/kernel/iam.js";
import type { LogLine } from "../../local/kernel/lambda.js";
import type { Owner, Resource, Watched } from "../../local/laws/seen.js";
import { Laws } from "../../local/laws.js";
import type { ObservedCluster, ObservedMember, ObservedNode } from "../../local/nodes/contract.js";

export const bucket = "state";
export const execution = "arn:aws:states:eu-central-1:1:execution:drover-create-cluster:create-prod-1";
export const deletion = "arn:aws:states:eu-central-1:1:execution:drover-delete-cluster:delete-prod-1";
const payload = { cluster: "prod", operation: "create-prod-1", execution };

/** A world made by hand: three servers of cluster `prod` that vote, leased by a create. Tests change what is in it and tell what happens. */
export class Stage {
  readonly owners = new Map<string, Owner>(["s1", "s2", "s3", "s4"].map((id) => [id, { cluster: "prod", uid: "uid-prod", role: "server" }]));
  readonly running = new Set(["s1", "s2", "s3", "s4"]);
  readonly targets = new Map<string, readonly string[]>();
  readonly logs: LogLine[] = [];
  readonly denials: Denial[] = [];
  clusters: ObservedCluster[] = [];
  executions: ExecutionView[] = [];
  resources: Resource[] = [];
  revision = 0;
  readonly laws: Laws;

  constructor(runbook: ReadonlySet<string> = new Set(["nodelost"])) {
    const watched: Watched = {
      now: () => 0,
      stateBucket: bucket,
      artifactBucket: "artifacts",
      snapshotBucket: "snapshots",
      nodeRoles: new Set(["arn:aws:iam::1:role/node"]),
      logs: this.logs,
      denials: this.denials,
      executions: () => this.executions,
      clusterRevision: () => this.revision,
      clusters: () => this.clusters,
      owner: (id) => this.owners.get(id),
      isRunning: (id) => this.running.has(id),
      targets: (arn) => this.targets.get(arn) ?? [],
      resources: () => this.resources,
    };
    this.laws = new Laws(watched, runbook);
  }

  /** The record chose s1, s1 made the cluster, and the others joined it: nothing of that breaks a law. */
  settled(): this {
    this.lease(execution);
    this.operation({});
    this.record({ bootstrap: { number: 1, instanceId: "s1", operation: "create-prod-1", at: "" } });
    this.become([clusterOf(["s1", "s2", "s3"])]);
    return this;
  }

  /** RKE2 clusters are now so. */
  become(clusters: ObservedCluster[]): void {
    this.clusters = clusters;
    this.revision++;
    this.laws.step();
  }

  call(
    service: string,
    operation: string,
    input: object,
    more: { readonly output?: object; readonly by?: string; readonly from?: object | null; readonly error?: string } = {},
  ): void {
    const { output = {}, by = "drover-step", from = payload, error } = more;
    const call: SeenCall = {
      service,
      operation,
      mutates: !/^(Describe|List|Get)/.test(operation),
      input,
      ...(error === undefined ? { output } : { error: new AwsError(error, error) }),
      origin: {
        principal: by === "node's own" ? "arn:aws:iam::1:role/node" : `arn:aws:iam::1:role/of-${by}`,
        name: by,
        enforced: true,
        ...(from === null ? {} : { payload: JSON.stringify(from) }),
      },
    };
    this.laws.call(call);
  }

  put(key: string, value: unknown, more: object = {}): void {
    this.call("s3", "PutObject", { Bucket: bucket, Key: key, Body: Buffer.from(typeof value === "string" ? value : JSON.stringify(value)), ...more });
  }

  lease(holder: string): void {
    this.put("clusters/prod/lease.json", { cluster: "prod", holder, operation: holder.split(":").at(-1), takenAt: "" });
  }

  record(facts: Partial<ClusterRecord>): void {
    const endpoint = { supervisorTargetGroupArn: "tg-s", apiTargetGroupArn: "tg-a" };
    this.put("clusters/prod/record.json", { name: "prod", uid: "uid-prod", members: [], abandonedBootstraps: [], endpoint, ...facts });
  }

  operation(facts: Partial<OperationRecord>): void {
    const id = facts.id ?? "create-prod-1";
    const whole = { id, kind: "create", cluster: "prod", uid: "uid-prod", status: "running", execution, steps: [], ...facts };
    this.put(`clusters/prod/operations/${id}.json`, whole);
  }

  history(event: Partial<HistoryEvent>, length = 1): void {
    const events = Array.from({ length }, () => ({ id: 1, previousEventId: 0, atMs: 0, type: "TaskStateExited", ...event }));
    const before = this.executions[0]?.history ?? [];
    this.executions = [{ arn: execution, history: [...before, ...events] } as unknown as ExecutionView];
    this.laws.step();
  }

  log(line: string): void {
    this.logs.push({ at: 0, function: "drover-step", requestId: "1", line });
    this.laws.step();
  }
}

/** An RKE2 cluster whose first server made it; every member is healthy, votes and is Ready. */
export function clusterOf(ids: readonly string[], facts: Partial<ObservedCluster> = {}): ObservedCluster {
  const members = ids.map((id): ObservedMember => ({ instanceId: id, nodeName: `server-${id}`, address: "", voter: true, healthy: true }));
  const nodes = ids.map((id): ObservedNode => ({ name: `server-${id}`, instanceId: id, role: "server", ready: true, version: "" }));
  return {
    id: `cluster of ${ids[0]}`,
    caHash: "",
    bootstrappedBy: ids[0] as string,
    bootstrappedAtMs: 0,
    members,
    nodes,
    hasQuorum: true,
    podsPending: 0,
    ...facts,
  };
}

export function cardOf(facts: Partial<FailureCard> = {}): FailureCard {
  return {
    operation: "create-prod-1",
    cluster: "prod",
    failure: "NodeLost",
    state: "Join server",
    what: "the machine of s2 is gone",
    likelyCause: "A machine died",
    next: ["drover create FILE"],
    left: { resources: [], dollarsPerHour: 0 },
    at: "",
    runbook: "docs/runbook.md#nodelost",
    ...facts,
  };
}

export function terminated(...ids: readonly string[]): { readonly output: object } {
  return { output: { TerminatingInstances: ids.map((InstanceId) => ({ InstanceId, PreviousState: { Name: "running" } })) } };
}
