/** Everything of a cluster that exists in the account now, found by its tags and names, whatever its record says. */
import { DeleteVolumeCommand, DescribeNetworkInterfacesCommand, DescribeVolumesCommand, EC2Client } from "@aws-sdk/client-ec2";
import { hourlyPrice } from "../../core/costs.js";
import { endpointNames, tags } from "../../core/layout.js";
import { isGone } from "../../core/nodes.js";
import type { LeftResource } from "../../core/records.js";
import { instances } from "./instances.js";
import { loadBalancers, securityGroups } from "./load-balancer.js";

export interface Inventory {
  ofCluster(name: string, uid: string): Promise<readonly LeftResource[]>;
  /** The throw-away servers alone, which are not of the cluster that runs on. */
  ofDrills(uid: string): Promise<readonly LeftResource[]>;
  /** Deletes volumes that no instance holds any more. */
  deleteVolumes(ids: readonly string[]): Promise<void>;
}

export function inventory(ec2: EC2Client = new EC2Client({})): Inventory {
  const balancers = loadBalancers();
  const groups = securityGroups(ec2);
  const machines = instances(ec2);
  const tagged = (uid: string) => [{ Name: `tag:${tags.uid}`, Values: [uid] }];
  return {
    async ofCluster(name, uid) {
      const names = endpointNames(name, uid);
      const [nodes, drills, volumes, interfaces, endpoint, securityGroups] = await Promise.all([
        machines.ofCluster(uid),
        machines.drillsOf(uid),
        everyPage(async (next) => {
          const page = await ec2.send(new DescribeVolumesCommand({ Filters: tagged(uid), MaxResults: 500, ...next }));
          return { items: page.Volumes ?? [], next: page.NextToken };
        }),
        everyPage(async (next) => {
          const page = await ec2.send(new DescribeNetworkInterfacesCommand({ Filters: tagged(uid), MaxResults: 500, ...next }));
          return { items: page.NetworkInterfaces ?? [], next: page.NextToken };
        }),
        balancers.find({ loadBalancer: names.loadBalancer, targetGroups: [names.supervisorTargetGroup, names.apiTargetGroup] }),
        groups.find(tags.uid, uid),
      ]);
      const left = (kind: LeftResource["kind"], id: string, detail: string): LeftResource => ({
        kind,
        id,
        detail,
        dollarsPerHour: hourlyPrice(kind, detail),
      });
      return [
        ...[...nodes, ...drills].filter((node) => !isGone(node.state)).map((node) => left("instance", node.instanceId, node.instanceType)),
        ...volumes.map((volume) => left("volume", volume.VolumeId ?? "", `${volume.Size ?? 0} GiB`)),
        ...interfaces.map((each) => left("network-interface", each.NetworkInterfaceId ?? "", each.Status ?? "")),
        ...endpoint.loadBalancers.map((balancer) => left("load-balancer", balancer.arn, balancer.name)),
        ...endpoint.targetGroups.map((group) => left("target-group", group.arn, group.name)),
        ...securityGroups.map((group) => left("security-group", group.id, group.name)),
      ];
    },
    async ofDrills(uid) {
      const servers = (await machines.drillsOf(uid)).filter((server) => !isGone(server.state));
      return servers.map(({ instanceId: id, instanceType: detail }) => ({
        kind: "instance",
        id,
        detail,
        dollarsPerHour: hourlyPrice("instance", detail),
      }));
    },
    async deleteVolumes(ids) {
      for (const id of ids) {
        try {
          await ec2.send(new DeleteVolumeCommand({ VolumeId: id }));
        } catch (error) {
          // In use: its instance still goes; not found: it went with its instance.
          if (!(error instanceof Error && ["VolumeInUse", "InvalidVolume.NotFound"].includes(error.name))) throw error;
        }
      }
    },
  };
}

async function everyPage<Item>(
  read: (next: { NextToken?: string }) => Promise<{ readonly items: readonly Item[]; readonly next: string | undefined }>,
): Promise<Item[]> {
  const items: Item[] = [];
  let token: string | undefined;
  do {
    const page = await read(token === undefined ? {} : { NextToken: token });
    items.push(...page.items);
    token = page.next;
  } while (token !== undefined && token !== "");
  return items;
}
