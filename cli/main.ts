/** The command line on this machine: `npm run drover -- ...`, or the launcher `cli/drover.js`. */
import { randomUUID } from "node:crypto";
import { homedir } from "node:os";
import { createInterface } from "node:readline/promises";
import { setTimeout as pause } from "node:timers/promises";
import type { WriteStream } from "node:tty";
import { exitCodes } from "./failures.js";
import { sendOverNetwork } from "./http.js";
import { run } from "./program.js";
import type { Screen, Surroundings } from "./surroundings.js";

const { env: environment, stdin, stdout, stderr } = process;
const interruption = new AbortController();
const signal = interruption.signal;

for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(name, () => {
    // The second time is meant: at once, whatever is under way here.
    if (signal.aborted) process.exit(exitCodes.interrupted);
    interruption.abort();
  });
}
// Whoever read our output has seen enough, as `head` does.
for (const stream of [stdout, stderr])
  stream.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? exitCodes.ok : exitCodes.fault));

function screenOf(stream: WriteStream): Screen {
  const isTerminal = stream.isTTY === true && environment.TERM !== "dumb";
  const isForced = environment.FORCE_COLOR !== undefined && environment.FORCE_COLOR !== "0";
  return {
    write: (text) => void stream.write(text),
    isTerminal,
    hasColour: isForced || (isTerminal && !environment.NO_COLOR),
    get columns() {
      return stream.columns ?? 80;
    },
    get rows() {
      return stream.rows ?? 24;
    },
  };
}

async function ask(question: string): Promise<string | undefined> {
  const lines = createInterface({ input: stdin, output: stderr });
  try {
    lines.once("SIGINT", () => interruption.abort());
    const closed = new Promise<undefined>((resolve) => lines.once("close", () => resolve(undefined)));
    return await Promise.race([lines.question(question, { signal }), closed]);
  } catch (error) {
    if (!signal.aborted) throw error;
    stderr.write("\n");
    return undefined;
  } finally {
    lines.close();
  }
}

async function readInput(limitBytes: number): Promise<Uint8Array> {
  if (stdin.isTTY) stderr.write("Reading the cluster file from the terminal; end it with Ctrl-D\n");
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of stdin) {
    chunks.push(Buffer.from(chunk as Buffer));
    length += (chunk as Buffer).byteLength;
    if (length > limitBytes) break;
  }
  return Buffer.concat(chunks);
}

const surroundings: Surroundings = {
  out: screenOf(stdout),
  err: screenOf(stderr),
  readInput,
  ask: stdin.isTTY && stderr.isTTY ? ask : undefined,
  environment,
  // npm runs scripts in the package's folder; the person stands where npm was called.
  directory: environment.npm_lifecycle_event === "drover" && environment.INIT_CWD !== undefined ? environment.INIT_CWD : process.cwd(),
  home: homedir(),
  now: Date.now,
  sleep: (milliseconds) => pause(milliseconds, undefined, { signal }).catch(() => {}),
  random: Math.random,
  newId: randomUUID,
  send: sendOverNetwork,
  interrupted: signal,
};

process.exitCode = await run(process.argv.slice(2), surroundings);
// Standard input that is still open would keep the process waiting for a person.
stdin.unref?.();
