/** How servers leave the endpoint before anything happens to them (law 4). Used by every step that stops or terminates servers. */
import type { ClusterRecord } from "../core/records.js";
import type { LoadBalancers } from "./aws/load-balancer.js";

/** Takes them out of the target groups; answers whether none of them is there any more, not even draining. */
export async function leaveEndpoint(record: ClusterRecord, servers: ReadonlySet<string>, balancers: LoadBalancers): Promise<boolean> {
  if (record.endpoint === undefined) return true;
  const left = await Promise.all(
    [record.endpoint.supervisorTargetGroupArn, record.endpoint.apiTargetGroupArn].map(async (group) => {
      const registered = (await balancers.targets(group)).filter((target) => servers.has(target.instanceId));
      const staying = registered.filter((target) => !target.state.includes("draining"));
      if (staying.length > 0) {
        await balancers.deregister(
          group,
          staying.map((target) => target.instanceId),
        );
      }
      return registered.length === 0;
    }),
  );
  return left.every(Boolean);
}
