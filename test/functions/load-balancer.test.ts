import type { ElasticLoadBalancingV2Client } from "@aws-sdk/client-elastic-load-balancing-v2";
import { describe, expect, it } from "vitest";
import { loadBalancers } from "../../functions/aws/load-balancer.js";

const marks = [{ Key: "drover:operation", Value: "create-prod-2" }];

/** Elastic Load Balancing as it answers when an earlier operation made what has the name, with tags of its own. */
function madeBefore(): { readonly client: ElasticLoadBalancingV2Client; readonly asked: string[] } {
  const asked: string[] = [];
  const send = async (command: { readonly constructor: { readonly name: string } }) => {
    const { name } = command.constructor;
    asked.push(name);
    const duplicate = /^Create(LoadBalancer|TargetGroup)Command$/.exec(name)?.[1];
    if (duplicate !== undefined) {
      const text = "A resource with the same name exists, but with different settings";
      throw Object.assign(new Error(text), { name: `Duplicate${duplicate}NameException` });
    }
    if (name === "DescribeLoadBalancersCommand") return { LoadBalancers: [{ LoadBalancerArn: "arn:lb", DNSName: "prod.elb.amazonaws.com" }] };
    if (name === "DescribeTargetGroupsCommand") return { TargetGroups: [{ TargetGroupArn: "arn:tg" }] };
    return {};
  };
  return { client: { send } as unknown as ElasticLoadBalancingV2Client, asked };
}

describe("the endpoint of a cluster whose first create was stopped", () => {
  it("keeps the load balancer that is there, and makes sure of its attributes", async () => {
    const { client, asked } = madeBefore();
    const order = { name: "drv-prod-1", subnetIds: ["subnet-1"], scheme: "internal", securityGroupId: "sg-1", marks } as const;
    expect(await loadBalancers(client).createLoadBalancer(order)).toEqual({ arn: "arn:lb", dnsName: "prod.elb.amazonaws.com" });
    expect(asked.at(-1)).toBe("ModifyLoadBalancerAttributesCommand");
  });
  it("keeps the target groups that are there, and makes sure of their attributes", async () => {
    const { client, asked } = madeBefore();
    const order = { name: "drv-prod-1-s", vpcId: "vpc-1", port: 9345, healthPath: "/ping", healthCodes: "200", marks };
    expect(await loadBalancers(client).createTargetGroup(order)).toBe("arn:tg");
    expect(asked.at(-1)).toBe("ModifyTargetGroupAttributesCommand");
  });
});
