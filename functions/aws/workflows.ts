/** Step Functions: start an operation's execution, ask how it stands, answer a waiting step. */
import { DescribeExecutionCommand, SendTaskFailureCommand, SendTaskSuccessCommand, SFNClient, StartExecutionCommand } from "@aws-sdk/client-sfn";
import type { HolderStatus } from "../../core/lease.js";

export interface Workflows {
  /** Starts it, once: an execution of this name that exists already, running or over, is the same one. */
  start(stateMachineArn: string, name: string, input: unknown): Promise<void>;
  /** How an execution stands; UNKNOWN when Step Functions has never heard of it. */
  status(executionArn: string): Promise<HolderStatus>;
  /** How it stands, what it was started with, when it ended and why it failed if it did. */
  describe(executionArn: string): Promise<{
    readonly status: HolderStatus;
    readonly input: unknown;
    readonly error?: string;
    readonly cause?: string;
    /** ISO 8601; undefined while it runs. */
    readonly endedAt?: string;
  }>;
  /** False when nobody waits for this token any more: the step has ended or asked anew. */
  succeed(taskToken: string, output: unknown): Promise<boolean>;
  fail(taskToken: string, error: string, cause: string): Promise<boolean>;
}

/** Limits of SendTaskFailure (Step Functions API reference). */
const causeLimit = 32_000;

export function workflows(sfn: SFNClient = new SFNClient({})): Workflows {
  const read: Workflows["describe"] = async (executionArn) => {
    try {
      const { status, input, error, cause, stopDate } = await sfn.send(new DescribeExecutionCommand({ executionArn }));
      return {
        status: status ?? "UNKNOWN",
        input: JSON.parse(input ?? "{}"),
        ...(error === undefined ? {} : { error }),
        ...(cause === undefined ? {} : { cause }),
        ...(stopDate === undefined ? {} : { endedAt: stopDate.toISOString() }),
      };
    } catch (error) {
      if (error instanceof Error && error.name === "ExecutionDoesNotExist") return { status: "UNKNOWN", input: undefined };
      throw error;
    }
  };
  return {
    async start(stateMachineArn, name, input) {
      try {
        await sfn.send(new StartExecutionCommand({ stateMachineArn, name, input: JSON.stringify(input) }));
      } catch (error) {
        if (!(error instanceof Error && error.name === "ExecutionAlreadyExists")) throw error;
      }
    },
    status: async (executionArn) => (await read(executionArn)).status,
    describe: read,
    succeed: (taskToken, output) => awaited(() => sfn.send(new SendTaskSuccessCommand({ taskToken, output: JSON.stringify(output) }))),
    fail: (taskToken, error, cause) => awaited(() => sfn.send(new SendTaskFailureCommand({ taskToken, error, cause: cause.slice(0, causeLimit) }))),
  };
}

async function awaited(call: () => Promise<unknown>): Promise<boolean> {
  try {
    await call();
    return true;
  } catch (error) {
    if (error instanceof Error && ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"].includes(error.name)) return false;
    throw error;
  }
}

/** ARN of the execution that `start` makes, known before it is started. */
export function executionArn(stateMachineArn: string, name: string): string {
  return `${stateMachineArn.replace(":stateMachine:", ":execution:")}:${name}`;
}
