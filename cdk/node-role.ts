/**
 * The instance profile every node has: the agent may talk to Systems Manager, and that is all (law 5).
 *
 * AmazonSSMManagedInstanceCore is not used: it lets every node read every plain parameter of the account (`ssm:GetParameter` on `*`). Archives, configuration
 * and snapshots travel by presigned addresses instead of by rights of the node.
 */
import type { Stack } from "aws-cdk-lib";
import { InstanceProfile, PolicyDocument, PolicyStatement, Role, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { documentPrefix } from "./documents.js";

export interface NodeRole {
  readonly role: Role;
  readonly profile: InstanceProfile;
}

export function makeNodeRole(stack: Stack): NodeRole {
  const role = new Role(stack, "NodeRole", {
    description: "Drover nodes: Systems Manager's agent, nothing else",
    assumedBy: new ServicePrincipal("ec2.amazonaws.com"),
    inlinePolicies: {
      SystemsManagerAgent: new PolicyDocument({
        statements: [
          new PolicyStatement({
            sid: "RegisterAndBeReached",
            actions: [
              "ssm:UpdateInstanceInformation",
              "ssm:ListInstanceAssociations",
              "ssmmessages:CreateControlChannel",
              "ssmmessages:CreateDataChannel",
              "ssmmessages:OpenControlChannel",
              "ssmmessages:OpenDataChannel",
            ],
            resources: ["*"],
          }),
          new PolicyStatement({
            sid: "ReadOwnDocuments",
            actions: ["ssm:DescribeDocument", "ssm:GetDocument"],
            resources: [stack.formatArn({ service: "ssm", resource: "document", resourceName: `${documentPrefix}*` })],
          }),
        ],
      }),
    },
  });
  const profile = new InstanceProfile(stack, "NodeInstanceProfile", { role });
  return { role, profile };
}
