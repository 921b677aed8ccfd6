/**
 * Answers the step that waits for a node command, when SSM's status event says that the command has ended.
 *
 * The event is best effort and repeats the command's parameters in clear, so only the command's id is taken from it.
 */
import { z } from "zod";
import { NotYet } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import { commands } from "./aws/commands.js";
import { instances } from "./aws/instances.js";
import { stateStore } from "./aws/state.js";
import { workflows } from "./aws/workflows.js";
import { type Callback, type CommandFile, type SettleClients, settle } from "./command-file.js";
import { lambda, type Task } from "./lambda.js";

const input = z.object({ detail: z.object({ "command-id": z.string().min(1) }) });

export const completeNodeCommand: Task<z.output<typeof input>, SettleClients, { readonly answered: boolean }> = async (
  { detail },
  clients,
  moment,
) => {
  const callback = await clients.state.read<Callback>(stateKeys.callback(detail["command-id"]));
  // Answered already, or not stored yet: then its sender looks by itself right after storing it.
  if (callback === undefined) return { answered: false };
  const file = await clients.state.read<CommandFile>(callback.value.key);
  if (file === undefined) return { answered: false };
  if (await settle(file.value, callback.value.taskToken, clients, moment.now)) return { answered: true };
  throw new NotYet(`Command ${detail["command-id"]} has ended, but some of its nodes have not in what SSM lists`, "Lambda asks again");
};

export const handler = lambda(
  input,
  (environment) => ({ state: stateStore(environment("STATE_BUCKET")), instances: instances(), commands: commands(), workflows: workflows() }),
  completeNodeCommand,
);
