/**
 * What SSM Agent does with a document on a Linux machine (aws:runShellScript): each step's lines become a script that runs as root with little in its
 * environment, in a process group of its own, its output in files.
 *
 * Exit codes 168 and 169 end the document well and badly, 194 restarts the machine and runs the step again (Systems Manager user guide, handling
 * reboots). A script that is killed takes its process group with it; what had left the group stays.
 */
import type { ChildProcess } from "node:child_process";
import { chmodSync, closeSync, mkdirSync, openSync, readSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { DocumentEnd, DocumentRun, DocumentStep } from "../contract.js";

/** The machine as its agent sees it. */
export interface AgentHost {
  readonly region: string;
  /** The machine's own root, seen from here. */
  readonly root: string;
  /** Folder outside the machine for what a run needs here. */
  readonly folder: string;
  /** Added to the environment of every script. */
  readonly environment: Readonly<Record<string, string>>;
  /** Settles when the machine has booted and can be reached. */
  online(): Promise<void>;
  /** Tells one boot from the next; undefined while the machine is down. */
  boot(): number | undefined;
  /** Starts a program in the machine, as leader of a process group. */
  start(program: readonly string[], environment: Readonly<Record<string, string>>, stdout: number, stderr: number): ChildProcess;
  restart(): Promise<void>;
}

/** Characters of output that the agent sends (SSM API reference, GetCommandInvocation). */
const headOfOutput = { stdout: 24_000, stderr: 8_000 } as const;
const exits = { passAndExit: 168, failAndExit: 169, reboot: 194, stopped: 137 } as const;
/** After this long a script that asks for restart upon restart has failed. */
const mostReboots = 10;
/** The service ends a run at its timeout; an agent left alone does so a little later. */
const graceMilliseconds = 2000;

/** `end` settles when the document has ended, and never when its machine is gone or somebody killed it. */
export class AgentRun {
  readonly #document: DocumentRun;
  readonly #host: AgentHost;
  #child: ChildProcess | undefined;
  #killed = false;

  constructor(document: DocumentRun, host: AgentHost) {
    this.#document = document;
    this.#host = host;
  }

  kill(): void {
    this.#killed = true;
    killGroup(this.#child);
  }

  /** Undefined when there is nobody left to tell. */
  async run(): Promise<DocumentEnd | undefined> {
    let exitCode = 0;
    let skips = false;
    let stdout = "";
    let stderr = "";
    for (const step of this.#document.content.mainSteps) {
      if (step.action !== "aws:runShellScript") throw new Error(`the agent has no action ${step.action}`);
      if ((skips && !isTrue(step.inputs?.finallyStep)) || !appliesHere(step)) continue;
      const end = await this.#step(step);
      if (end === undefined) return undefined;
      stdout += end.stdout;
      stderr += end.stderr;
      const { onFailure, onSuccess } = (step.inputs ?? {}) as { onFailure?: unknown; onSuccess?: unknown };
      const isFine =
        end.exitCode === 0 || end.exitCode === exits.passAndExit || (onFailure === "successAndExit" && end.exitCode !== exits.failAndExit);
      if (!isFine && exitCode === 0) exitCode = end.exitCode;
      if (isFine ? end.exitCode !== 0 || onSuccess === "exit" : end.exitCode === exits.failAndExit || onFailure === "exit") skips = true;
    }
    return { exitCode, stdout: stdout.slice(0, headOfOutput.stdout), stderr: stderr.slice(0, headOfOutput.stderr) };
  }

  async #step(step: DocumentStep): Promise<DocumentEnd | undefined> {
    for (let reboots = 0; ; reboots++) {
      await this.#host.online();
      if (this.#killed) return undefined;
      const end = await this.#script(step);
      if (end?.exitCode !== exits.reboot) return end;
      if (reboots >= mostReboots)
        return { ...end, exitCode: 1, stderr: `${end.stderr}\nThe step asked for a restart more than ${mostReboots} times` };
      await this.#host.restart();
    }
  }

  async #script(step: DocumentStep): Promise<DocumentEnd | undefined> {
    const { commandId, instanceId } = this.#document;
    const host = this.#host;
    const place = `/var/lib/amazon/ssm/${instanceId}/document/orchestration/${commandId}/${step.name}`;
    const script = `${place}/_script.sh`;
    try {
      mkdirSync(join(host.root, place), { recursive: true, mode: 0o700 });
      writeFileSync(join(host.root, script), this.#text(step), { mode: 0o700 });
      chmodSync(join(host.root, script), 0o700);
    } catch (error) {
      // Only the machine's disk is the machine's fault.
      if (!["ENOSPC", "EROFS", "EDQUOT"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
      return {
        exitCode: 1,
        stdout: "",
        stderr: `failed to write the script: ${(error as NodeJS.ErrnoException).code === "ENOSPC" ? "no space left on device" : "the disk refuses"}\n`,
      };
    }
    const outputs = { stdout: join(host.folder, `${commandId}.${step.name}.stdout`), stderr: join(host.folder, `${commandId}.${step.name}.stderr`) };
    const stdout = openSync(outputs.stdout, "w+", 0o600);
    const stderr = openSync(outputs.stderr, "w+", 0o600);
    try {
      const boot = host.boot();
      if (boot === undefined) return undefined;
      const child = host.start(["sh", "-c", script], this.#environment(), stdout, stderr);
      this.#child = child;
      const limit = setTimeout(() => killGroup(child), this.#timeoutSeconds(step) * 1000 + graceMilliseconds);
      const status = await new Promise<number>((resolve, reject) => {
        child.once("error", reject);
        child.once("exit", (code) => resolve(code ?? exits.stopped));
      });
      clearTimeout(limit);
      this.#child = undefined;
      if (this.#killed || host.boot() !== boot) return undefined;
      return { exitCode: status, stdout: head(stdout, headOfOutput.stdout), stderr: head(stderr, headOfOutput.stderr) };
    } finally {
      closeSync(stdout);
      closeSync(stderr);
      rmSync(outputs.stdout, { force: true });
      rmSync(outputs.stderr, { force: true });
    }
  }

  /** Parameters with interpolationType ENV_VAR become references to the environment, the others are put in as they are. */
  #text(step: DocumentStep): string {
    const lines = step.inputs?.runCommand;
    const text = Array.isArray(lines) ? lines.join("\n") : String(lines ?? "");
    return `${this.#fill(text, (name) => `\${SSM_${name}}`)}\n`;
  }

  #fill(text: string, reference?: (name: string) => string): string {
    const { content, parameters } = this.#document;
    return text.replace(/\{\{\s*(\w+)\s*\}\}/g, (whole, name: string) => {
      const value = parameters[name];
      if (value === undefined) return whole;
      return reference !== undefined && content.parameters?.[name]?.interpolationType === "ENV_VAR" ? reference(name) : value;
    });
  }

  #timeoutSeconds(step: DocumentStep): number {
    return Number(this.#fill(String(step.inputs?.timeoutSeconds ?? 3600)));
  }

  #environment(): Record<string, string> {
    const { commandId, instanceId, content, parameters } = this.#document;
    const environment: Record<string, string> = {
      PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      AWS_SSM_INSTANCE_ID: instanceId,
      AWS_SSM_REGION_NAME: this.#host.region,
      AWS_SSM_PLATFORM_NAME: "Debian GNU/Linux",
      AWS_SSM_PLATFORM_VERSION: "12",
      SSM_COMMAND_ID: commandId,
      ...this.#host.environment,
    };
    // The agent sets a variable for parameters of this interpolation alone.
    for (const [name, { interpolationType }] of Object.entries(content.parameters ?? {})) {
      if (interpolationType === "ENV_VAR" && parameters[name] !== undefined) environment[`SSM_${name}`] = parameters[name];
    }
    return environment;
  }
}

function killGroup(child: ChildProcess | undefined): void {
  if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // It has just ended.
  }
}

function appliesHere(step: DocumentStep): boolean {
  const { precondition } = step as { readonly precondition?: { readonly StringEquals?: readonly string[] } };
  const [name, value] = precondition?.StringEquals ?? [];
  return name !== "platformType" || value === "Linux";
}

const isTrue = (value: unknown) => value === true || value === "true";

/** The first characters of a file. A character of UTF-8 has at most four bytes; one that is cut in half is left out. */
function head(file: number, characters: number): string {
  const bytes = Buffer.alloc(characters * 4);
  let length = 0;
  for (;;) {
    const got = readSync(file, bytes, length, bytes.byteLength - length, length);
    if (got === 0) break;
    length += got;
  }
  return new TextDecoder("utf-8").decode(bytes.subarray(0, length), { stream: length === bytes.byteLength }).slice(0, characters);
}
