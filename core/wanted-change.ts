/** What may differ between the file a half-made cluster was begun with and the one it is finished with. */
import type { ClusterFile } from "./cluster-file.js";
import type { Fault } from "./failures.js";
import type { ClusterRecord } from "./records.js";

/**
 * Differences that cannot be taken over, one fault each.
 *
 * Before the bootstrap is decided nothing of RKE2 exists, and only what the endpoint was made with is fixed. After it, what RKE2 or etcd was started with
 * is fixed as well; shapes and counts of agents may change, because that is what a person changes after a capacity error.
 */
export function mayChangeTo(record: ClusterRecord, file: ClusterFile): Fault[] {
  const before = record.wanted.spec;
  const after = file.spec;
  const faults: Fault[] = [];
  const mustEqual = (path: string, found: unknown, expected: unknown) => {
    if (JSON.stringify(found) === JSON.stringify(expected)) return;
    const message = `is ${shown(found)}, and the cluster was begun with ${shown(expected)}`;
    faults.push({ path: `spec.${path}`, message, severity: "error" });
  };
  if (record.endpoint !== undefined) {
    mustEqual("network.vpcId", after.network.vpcId, before.network.vpcId);
    mustEqual("network.subnetIds", after.network.subnetIds, before.network.subnetIds);
    mustEqual("network.endpoint", after.network.endpoint, before.network.endpoint);
  }
  if (record.bootstrap !== undefined) {
    const { network: _, servers, agentPools: __, protection: ___, maintenance: ____, backup: _____, ...fixed } = after;
    const was = before as unknown as Record<string, unknown>;
    for (const [name, value] of Object.entries(fixed)) mustEqual(name, value, was[name]);
    for (const name of ["cni", "multus", "clusterCidr", "serviceCidr"] as const)
      mustEqual(`network.${name}`, after.network[name], before.network[name]);
    mustEqual("servers.count", servers.count, before.servers.count);
    mustEqual("servers.taints", servers.taints, before.servers.taints);
  }
  return faults;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "not given";
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
