/**
 * The SSM documents of the node commands, each under a name that holds its content's hash.
 *
 * A changed script is a new document under a new name: a workflow that runs while the stack is updated keeps what it was started with until
 * CloudFormation removes the old one at the end of the update, and no default version ever moves under a command.
 */
import type { Stack } from "aws-cdk-lib";
import { CfnDocument } from "aws-cdk-lib/aws-ssm";
import type { NodeCommandName } from "../core/node-commands.js";
import { buildDocuments } from "../nodes/documents.js";

/** Every document of Drover's begins with it; what may be sent to nodes, and which events are Drover's, go by it. */
export const documentPrefix = "drover-";

/** Creates the documents; answers their names by node command, as the environment variable DOCUMENTS has them. */
export function makeDocuments(stack: Stack): Readonly<Record<NodeCommandName, string>> {
  const names = Object.entries(buildDocuments()).map(([command, { name, content }]) => {
    new CfnDocument(stack, `${pascal(command)}Document`, {
      name,
      documentType: "Command",
      documentFormat: "JSON",
      content,
      targetType: "/AWS::EC2::Instance",
      updateMethod: "Replace",
    });
    return [command, name] as const;
  });
  return Object.fromEntries(names) as Record<NodeCommandName, string>;
}

function pascal(name: string): string {
  return name.replace(/(^|-)([a-z])/g, (_, __, letter: string) => letter.toUpperCase());
}
