/**
 * SSM documents of the node commands, made from the bash that runs.
 *
 * A document holds its whole script, so what a command does is pinned by the document's name, which ends in the content's hash: a deployment
 * in the middle of a workflow adds documents and changes none. Parameters are read from the script's own `parameter` lines, so that what SSM
 * admits and what the script admits cannot differ.
 */
import { readFileSync } from "node:fs";
import { shortHash } from "../core/layout.js";
import { type NodeCommandName, nodeCommands } from "../core/node-commands.js";

/** SSM's limit on a document together with the parameter values of a command (AWS SSM API reference, CreateDocument). */
const documentLimitBytes = 64 * 1024;

interface DocumentParameter {
  readonly type: "String";
  readonly description: string;
  readonly allowedPattern: string;
  readonly allowedValues?: readonly string[];
  readonly maxChars: number;
  readonly interpolationType: "ENV_VAR";
  readonly default?: "";
}

interface DocumentContent {
  readonly schemaVersion: "2.2";
  readonly description: string;
  readonly parameters: Readonly<Record<string, DocumentParameter>>;
  readonly mainSteps: readonly [
    {
      readonly action: "aws:runShellScript";
      readonly name: string;
      readonly precondition: { readonly StringEquals: readonly ["platformType", "Linux"] };
      readonly inputs: { readonly timeoutSeconds: string; readonly runCommand: readonly string[] };
    },
  ];
}

export interface NodeDocument {
  /** `drover-<command>-<8 hexadecimal characters of the content's hash>`. */
  readonly name: string;
  readonly content: DocumentContent;
}

const descriptions: Readonly<Record<NodeCommandName, string>> = {
  "prepare-node": "Drover: makes a machine fit for RKE2 and places a verified release and its configuration. Starts nothing.",
  "start-server": "Drover: starts rke2-server, as the first server of a cluster or joining one, and waits until it is ready and votes.",
  "start-agent": "Drover: starts rke2-agent and waits until the node is Ready.",
  "check-cluster": "Drover: reads the cluster as this server sees it. Changes nothing.",
  "remove-node": "Drover: takes other nodes out of the cluster, with their etcd members and node passwords.",
  "save-snapshot": "Drover: saves a snapshot of etcd on this server's disk and verifies it.",
  "upload-snapshot": "Drover: sends a saved snapshot by addresses that can only create it, and removes it from the disk.",
  "stop-server": "Drover: stops rke2-server with all its containers. Leaves its data.",
  "restore-snapshot": "Drover: makes this server the one member of its cluster again, from a snapshot or from its own data.",
  "rejoin-server": "Drover: removes a server's etcd data of the time before a restore, and joins it as a new member.",
  "collect-diagnostics": "Drover: gathers logs and states, secrets masked, and uploads them.",
};

const parameterDescriptions: Readonly<Record<string, string>> = {
  role: "Role of the node: server or agent.",
  pool: "Node pool, the first part of the node's name.",
  delivery: "Presigned address of the delivery list; lives minutes.",
  version: "RKE2 release, such as v1.35.7+rke2r1.",
  profile: "Hardening profile: none or cis.",
  selinux: "Whether RKE2 is to run under SELinux.",
  mode: "What to start from: bootstrap or join of a server, snapshot or survivor of a restore.",
  joinAddress: "IPv4 address of a running server; empty with bootstrap.",
  snapshot: "Id of the snapshot, such as 20260105T020000Z-1a2b3c4d.",
  restore: "Id of the restore; what a restore does once is done once for it.",
  revision: "etcd revision whose state is asked for; 0 for the newest.",
  joins: "Server that each node of the command joins through, as instance:IPv4, comma separated, at most 50.",
  endpoint: "DNS name of the cluster's load balancer, which a restarted node uses.",
  nodes: "Node names to remove, comma separated, at most 50.",
};

/** Every node command's document. Throws when a script and its contract disagree. */
export function buildDocuments(): Record<NodeCommandName, NodeDocument> {
  const names = Object.keys(nodeCommands) as NodeCommandName[];
  return Object.fromEntries(names.map((name) => [name, buildDocument(name)])) as Record<NodeCommandName, NodeDocument>;
}

function buildDocument(command: NodeCommandName): NodeDocument {
  const contract = nodeCommands[command];
  const script = assembleScript(command);
  const parameters = readParameters(script);

  const wanted = Object.keys(contract.parameters.shape).sort();
  const found = Object.keys(parameters).sort();
  if (wanted.join() !== found.join()) {
    throw new Error(`nodes/scripts/${command}.sh takes the parameters ${found.join(", ")}, its contract has ${wanted.join(", ")}`);
  }
  const bound = Number(/^ {2}begin [a-z-]+ (\d+)$/m.exec(script)?.[1]);
  if (!(bound < contract.deadlineSeconds)) {
    throw new Error(`nodes/scripts/${command}.sh ends after ${bound} s, its contract's deadline is ${contract.deadlineSeconds} s: it must be sooner`);
  }
  if (script.includes("{{")) throw new Error(`nodes/scripts/${command}.sh contains {{, which SSM would take for a parameter`);

  const content: DocumentContent = {
    schemaVersion: "2.2",
    description: descriptions[command],
    parameters,
    mainSteps: [
      {
        action: "aws:runShellScript",
        name: command.replaceAll("-", ""),
        precondition: { StringEquals: ["platformType", "Linux"] },
        inputs: { timeoutSeconds: String(contract.deadlineSeconds), runCommand: script.split("\n") },
      },
    ],
  };
  const text = JSON.stringify(content);
  const values = Object.values(parameters).reduce((sum, { maxChars }) => sum + maxChars, 0);
  const bytes = Buffer.byteLength(text) + values;
  if (bytes > documentLimitBytes) {
    throw new Error(`the document of ${command} has ${bytes} bytes with the longest parameters, SSM takes ${documentLimitBytes}`);
  }
  return { name: `drover-${command}-${shortHash(text)}`, content };
}

/**
 * The command as it runs on a node: its script with the parts it sources put in their place, without comments, which only a reader of the
 * repository needs and SSM's size limit counts.
 */
export function assembleScript(command: NodeCommandName): string {
  const text = readScript(`${command}.sh`).replace(/^# shellcheck source=([a-z]+\.sh)\nsource .*$/gm, (_, part: string) => readScript(part));
  if (/^\s*source /m.test(text)) throw new Error(`nodes/scripts/${command}.sh sources a file without naming it for ShellCheck`);
  const [interpreter, ...lines] = text.split("\n");
  return [interpreter, ...lines.filter((line) => !/^\s*(#|$)/.test(line))].join("\n");
}

function readScript(file: string): string {
  return readFileSync(new URL(`./scripts/${file}`, import.meta.url), "utf8");
}

/** The `parameter NAME 'PATTERN' LONGEST` lines of a script as document parameters. */
function readParameters(script: string): Record<string, DocumentParameter> {
  const parameters: Record<string, DocumentParameter> = {};
  for (const [, name = "", pattern = "", longest = ""] of script.matchAll(/^ {2}parameter (\w+) '([^']+)' (\d+)$/gm)) {
    const description = parameterDescriptions[name];
    if (description === undefined) throw new Error(`parameter ${name} has no description`);
    const choice = /^\^\(([a-z|]+)\)\$$/.exec(pattern)?.[1]?.split("|");
    parameters[name] = {
      type: "String",
      description,
      allowedPattern: pattern,
      ...(choice && { allowedValues: choice }),
      maxChars: Number(longest),
      interpolationType: "ENV_VAR",
      ...(new RegExp(pattern).test("") && { default: "" as const }),
    };
  }
  return parameters;
}
