/** What a server said of the snapshot that it saved in one pass of an operation: read by the steps that send it and prove it. */
import { Unsafe } from "../core/failures.js";
import type { NodeCommandResult } from "../core/node-commands.js";
import { nodeCommands } from "../core/node-commands.js";
import type { StateStore } from "./aws/state.js";
import type { StepInput } from "./cluster.js";
import { type CommandFile, commandKey } from "./command-file.js";

/** Group of the one server that saves a snapshot and uploads it. */
export const snapshotServer = "snapshot-server";

export interface SavedSnapshot {
  readonly instanceId: string;
  /** When the server was asked: the snapshot holds everything that was written before. */
  readonly takenAt: string;
  readonly result: NodeCommandResult<"save-snapshot">;
}

/** @throws Unsafe when no server has saved one in this pass: the workflow's order was broken */
export async function savedSnapshot(state: StateStore, step: StepInput & { readonly pass: number }): Promise<SavedSnapshot> {
  const file = (await state.read<CommandFile>(commandKey(step, "save-snapshot", snapshotServer, step.pass)))?.value;
  const [instanceId] = file?.outcome?.succeeded ?? [];
  const result = nodeCommands["save-snapshot"].result.safeParse(file?.outcome?.result);
  if (file === undefined || instanceId === undefined || !result.success) {
    throw new Unsafe(`No server has saved a snapshot in pass ${step.pass} of ${step.operation}`, "Start the operation again");
  }
  return { instanceId, takenAt: file.at, result: result.data };
}
