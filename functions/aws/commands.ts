/** SSM: who is online, and Run Command. SendCommand is not idempotent, so a command is found again by its comment. */
import {
  DescribeInstanceInformationCommand,
  GetParameterCommand,
  ListCommandInvocationsCommand,
  ListCommandsCommand,
  SendCommandCommand,
  SSMClient,
} from "@aws-sdk/client-ssm";

/** How one instance stands with one command. */
export interface Invocation {
  readonly instanceId: string;
  /** SSM's StatusDetails without spaces: Success, Failed, DeliveryTimedOut, ExecutionTimedOut, InProgress, ... */
  readonly status: string;
  readonly over: boolean;
  /** First 2,500 characters of standard output; empty until it is over. */
  readonly output: string;
}

export interface Commands {
  /** Which of these are online, the longest registered first. */
  online(ids: readonly string[]): Promise<readonly string[]>;
  send(order: {
    readonly document: string;
    readonly parameters: Readonly<Record<string, string>>;
    readonly instanceIds: readonly string[];
    readonly comment: string;
    readonly deliveryTimeoutSeconds: number;
  }): Promise<string>;
  /** The command that carries this comment, sent after the given time; undefined when there is none. */
  findByComment(document: string, comment: string, sentAfter: string): Promise<string | undefined>;
  invocations(commandId: string): Promise<readonly Invocation[]>;
  /** Value of a plain parameter, such as the public ones that hold image ids; undefined when there is none. */
  parameter(name: string): Promise<string | undefined>;
}

const overStatuses = new Set([
  "Success",
  "Failed",
  "Cancelled",
  "TimedOut",
  "DeliveryTimedOut",
  "ExecutionTimedOut",
  "Undeliverable",
  "Terminated",
  "InvalidPlatform",
  "AccessDenied",
]);

export function commands(ssm: SSMClient = new SSMClient({})): Commands {
  return {
    async online(ids) {
      const found: { id: string; since: number }[] = [];
      for (let at = 0; at < ids.length; at += 50) {
        let next: string | undefined;
        do {
          const page = await ssm.send(
            new DescribeInstanceInformationCommand({
              Filters: [{ Key: "InstanceIds", Values: ids.slice(at, at + 50) }],
              MaxResults: 50,
              ...(next === undefined ? {} : { NextToken: next }),
            }),
          );
          for (const node of page.InstanceInformationList ?? []) {
            if (node.PingStatus === "Online" && node.InstanceId !== undefined) {
              found.push({ id: node.InstanceId, since: node.RegistrationDate?.getTime() ?? 0 });
            }
          }
          next = page.NextToken;
        } while (next !== undefined && next !== "");
      }
      return found.sort((a, b) => a.since - b.since || a.id.localeCompare(b.id)).map((node) => node.id);
    },
    async send(order) {
      const answer = await ssm.send(
        new SendCommandCommand({
          DocumentName: order.document,
          DocumentVersion: "1",
          InstanceIds: [...order.instanceIds],
          Parameters: Object.fromEntries(Object.entries(order.parameters).map(([name, value]) => [name, [value]])),
          Comment: order.comment,
          TimeoutSeconds: order.deliveryTimeoutSeconds,
          MaxConcurrency: "100%",
          MaxErrors: "100%",
        }),
      );
      return answer.Command?.CommandId ?? "";
    },
    async findByComment(document, comment, sentAfter) {
      let next: string | undefined;
      do {
        const page = await ssm.send(
          new ListCommandsCommand({
            Filters: [
              { key: "InvokedAfter", value: sentAfter.replace(/\.\d+Z$/, "Z") },
              { key: "DocumentName", value: document },
            ],
            MaxResults: 50,
            ...(next === undefined ? {} : { NextToken: next }),
          }),
        );
        const found = (page.Commands ?? []).find((command) => command.Comment === comment);
        if (found?.CommandId !== undefined) return found.CommandId;
        next = page.NextToken;
      } while (next !== undefined && next !== "");
      return undefined;
    },
    async invocations(commandId) {
      const found: Invocation[] = [];
      let next: string | undefined;
      do {
        const page = await ssm.send(
          new ListCommandInvocationsCommand({
            CommandId: commandId,
            Details: true,
            MaxResults: 50,
            ...(next === undefined ? {} : { NextToken: next }),
          }),
        );
        for (const invocation of page.CommandInvocations ?? []) {
          const status = (invocation.StatusDetails ?? invocation.Status ?? "").replaceAll(" ", "");
          found.push({
            instanceId: invocation.InstanceId ?? "",
            status,
            over: overStatuses.has(status),
            output: invocation.CommandPlugins?.[0]?.Output ?? "",
          });
        }
        next = page.NextToken;
      } while (next !== undefined && next !== "");
      return found;
    },
    async parameter(name) {
      try {
        return (await ssm.send(new GetParameterCommand({ Name: name }))).Parameter?.Value;
      } catch (error) {
        if (error instanceof Error && error.name === "ParameterNotFound") return undefined;
        throw error;
      }
    },
  };
}
