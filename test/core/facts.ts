/** Facts to decide on: a cluster's record, its instances and what its servers report. Each takes what the test is about and fills in the rest. */
import { type ClusterFile, clusterFileSchema } from "../../core/cluster-file.js";
import type { ClusterCheck } from "../../core/cluster-health.js";
import type { ObservedInstance } from "../../core/nodes.js";
import type { BootstrapDecision, ClusterRecord, ServerMember } from "../../core/records.js";

/** An instant so many seconds into the tests' day, ISO 8601. */
export function at(seconds: number): string {
  return new Date(Date.UTC(2026, 10, 22, 12) + seconds * 1000).toISOString();
}

export const zones = ["eu-west-1a", "eu-west-1b", "eu-west-1c"];
export const subnets = zones.map((zone, index) => ({ id: `subnet-0000000${index + 1}`, zone }));

export function instance(facts: Partial<ObservedInstance> & { instanceId: string }): ObservedInstance {
  return {
    role: "server",
    pool: "server",
    slot: 1,
    operation: "op-1",
    zone: "eu-west-1a",
    subnetId: "subnet-00000001",
    instanceType: "m6i.xlarge",
    address: "10.0.0.1",
    state: "running",
    launchedAt: at(0),
    ...facts,
  };
}

export function agent(instanceId: string, slot: number, facts: Partial<ObservedInstance> = {}): ObservedInstance {
  return instance({ instanceId, role: "agent", pool: "workers", slot, ...facts });
}

export function clusterFile(servers: 1 | 3 | 5 | 7, pools: Readonly<Record<string, number>> = { workers: 4 }): ClusterFile {
  return clusterFileSchema.parse({
    apiVersion: "drover.dev/v1",
    kind: "Cluster",
    metadata: { name: "prod" },
    spec: {
      version: "v1.35.7+rke2r1",
      servers: { count: servers, instanceTypes: ["m6i.xlarge", "m5.xlarge"] },
      agentPools: Object.entries(pools).map(([name, count]) => ({ name, count, instanceTypes: ["c6i.large", "c5.large"] })),
      image: { id: "ami-0123456789abcdef0" },
      network: { vpcId: "vpc-01234567", subnetIds: ["subnet-01234567"] },
    },
  });
}

export function record(facts: Partial<ClusterRecord> = {}): ClusterRecord {
  return {
    schema: 1,
    name: "prod",
    uid: "uid-1",
    generation: 1,
    phase: "creating",
    createdAt: at(0),
    wanted: clusterFile(3),
    abandonedBootstraps: [],
    members: [],
    secrets: { "server-token": 1, "agent-token": 1, kubeconfig: 0 },
    conditions: [],
    ...facts,
  } as ClusterRecord;
}

export const caHash = "a".repeat(64);

export function decided(instanceId: string, facts: Partial<BootstrapDecision> = {}): BootstrapDecision {
  return { number: 1, instanceId, operation: "op-1", at: at(60), ...facts };
}

export function answered(instanceId: string, address: string, facts: Partial<BootstrapDecision> = {}): BootstrapDecision {
  return decided(instanceId, { done: { at: at(120), address, caHash }, ...facts });
}

export function member(instanceId: string, slot: number, address = `10.0.0.${slot}`): ServerMember {
  return { instanceId, slot, address, at: at(120) };
}

export function check(facts: Partial<ClusterCheck> = {}): ClusterCheck {
  return {
    ok: true,
    node: "server-i-1",
    changed: false,
    clusterId: "cluster-1",
    caHash,
    apiReady: true,
    members: 3,
    voters: 3,
    serversReady: 3,
    agentsReady: 4,
    nodes: 7,
    notReady: [],
    podsPending: 0,
    version: "v1.35.7+rke2r1",
    ...facts,
  };
}

/** Uniform draws in [0, 1) from a seed: the same seed, the same draws (mulberry32). */
export function chance(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
