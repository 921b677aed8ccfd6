/**
 * Says everything that is wrong with a cluster file, at once: where, what was found, what is allowed.
 *
 * Four readers, each with what it can know: the text (`parseClusterFile`), the file by itself (`checkCluster`), the artifact store
 * (`checkAgainstStore`), the account (`checkAgainstAccount`). An error stops a request before anything is changed; a warning is shown and goes on.
 */
import { isIP } from "node:net";
import { type Document, isMap, isScalar, isSeq, LineCounter, type Node, parseAllDocuments, visit } from "yaml";
import type { z } from "zod";
import { clusterFileLimitBytes } from "./api.js";
import { archivesOfCluster, imageArchive, knownImageSets, missingArchives } from "./archives.js";
import { type AgentPool, type Architecture, type ClusterFile, type ConfigValue, clusterFileSchema } from "./cluster-file.js";
import { cronFault } from "./cron.js";
import type { Fault } from "./failures.js";
import { drillRole, serverPool } from "./layout.js";
import { contains, networkFault, overlaps, parseAddress, parseNetwork } from "./networks.js";
import { poolLabel } from "./rke2-config.js";
import { disableItems, foreignKeys, nearest, ownedKeys, type Rke2Key, rke2Keys } from "./rke2-keys.js";
import { compareVersions, isChannel, oldestMinor, parseVersion, supportedMinors, versionFault } from "./versions.js";

/** History, payloads and admission are proven up to here. */
const mostAgents = 1000;
/** A longer list of faults helps nobody and would outgrow an answer. */
const mostFaults = 100;

type Path = readonly (string | number)[];

/** A fault with its path in parts, and the other fields it depends on: a rule that read a broken field says nothing. */
interface Finding {
  readonly path: Path;
  readonly message: string;
  readonly severity: Fault["severity"];
  readonly also?: readonly Path[];
}

const error = (path: Path, message: string, ...also: Path[]): Finding => ({ path, message, severity: "error", also });
const warning = (path: Path, message: string, ...also: Path[]): Finding => ({ path, message, severity: "warning", also });

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Text

/**
 * Reads a cluster file, YAML or JSON, and fills in every default.
 *
 * Without faults of its own the file comes back for `checkCluster`. With some, the rules of `checkCluster` are applied to all that can be read
 * besides, so that one answer holds every fault.
 */
export function parseClusterFile(text: string): { file?: ClusterFile; faults: Fault[] } {
  const read = readText(text);
  if ("fault" in read) return { faults: [{ path: "", message: read.fault, severity: "error" }] };
  const parsed = clusterFileSchema.safeParse(read.value);
  if (parsed.success) return { file: parsed.data, faults: [] };
  const shape = parsed.error.issues.flatMap((issue) => describeIssue(issue, read.value));
  return { faults: toFaults([...shape, ...rulesBesides(shape, read.value)], read.lineOf) };
}

/** `parseClusterFile` and `checkCluster` in one, each fault with its line. The file comes back when no error stands against it. */
export function validateCluster(text: string): { file?: ClusterFile; faults: Fault[] } {
  const read = readText(text);
  const { file, faults } = parseClusterFile(text);
  if (file === undefined || "fault" in read) return { faults };
  const found = toFaults(rules(file), read.lineOf);
  return hasErrors(found) ? { faults: found } : { file, faults: found };
}

type ReadText = { readonly value: unknown; readonly lineOf: (path: Path) => number | undefined } | { readonly fault: string };

function readText(text: string): ReadText {
  const bytes = new TextEncoder().encode(text).byteLength;
  if (bytes > clusterFileLimitBytes) {
    return {
      fault: `the cluster file has ${bytes} bytes; at most ${clusterFileLimitBytes} are allowed. Large manifests belong into a chart or a registry`,
    };
  }
  const lines = new LineCounter();
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `line ${Math.max(line, 1)}, column ${Math.max(col, 1)}`;
  };
  let document: Document | undefined;
  let value: unknown;
  try {
    const documents = parseAllDocuments(text, {
      lineCounter: lines,
      prettyErrors: false,
      strict: true,
      uniqueKeys: false,
      version: "1.2",
      stringKeys: true,
    });
    const problem = documents.flatMap(({ errors, warnings }) => [...errors, ...warnings])[0];
    if (problem !== undefined) return { fault: `the cluster file is not YAML as wanted, ${at(problem.pos[0])}: ${reasonOf(problem)}` };
    if (documents.length === 0) return { fault: "the cluster file is empty" };
    if (documents.length > 1) {
      return {
        fault: `the cluster file must hold one document; found ${documents.length}, the second at ${at((documents[1] as Document).range?.[0] ?? 0)}`,
      };
    }
    document = documents[0] as Document;
    const twice = duplicateKey(document);
    if (twice !== undefined) return { fault: `the cluster file is not YAML as wanted, ${at(twice.offset)}: ${describe(twice.name)} is given twice` };
    value = document.toJS({ maxAliasCount: 100 });
  } catch (thrown) {
    // The library throws for aliases that multiply without end; nesting without end exhausts the stack.
    return { fault: `the cluster file cannot be read: ${reasonOf(thrown)}` };
  }
  if (value === null) return { fault: "the cluster file is empty" };
  if (!isMapping(value)) return { fault: `the cluster file must be a mapping with apiVersion, kind, metadata and spec; found ${describe(value)}` };
  const { contents } = document;
  return { value, lineOf: (path) => lineOf(contents, path, lines) };
}

/** What an error of the YAML library says, without the piece of text it quotes. */
function reasonOf(thrown: unknown): string {
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  if (thrown instanceof RangeError || message.startsWith("Maximum call stack")) return "it is nested too deeply";
  return (message.split("\n")[0] as string).replace(/:$/, "");
}

/** The first key that stands twice in one mapping. The library's own check compares every key with every other. */
function duplicateKey(document: Document): { name: string; offset: number } | undefined {
  let found: { name: string; offset: number } | undefined;
  visit(document, {
    Map(_, map) {
      const seen = new Set<string>();
      for (const { key } of map.items) {
        const name = String(isScalar(key) ? key.value : key);
        if (seen.has(name)) {
          found = { name, offset: (key as Node).range?.[0] ?? 0 };
          return visit.BREAK;
        }
        seen.add(name);
      }
      return undefined;
    },
  });
  return found;
}

/** Line of the deepest part of a path that is written in the file: of the field itself, or of the mapping that misses it. */
function lineOf(contents: Node | null, path: Path, lines: LineCounter): number | undefined {
  let node: unknown = contents;
  let offset: number | undefined;
  for (const part of path) {
    if (isMap(node)) {
      const pair = node.items.find((item) => String((item.key as { value?: unknown } | null)?.value ?? item.key) === String(part));
      if (pair === undefined) break;
      offset = (pair.key as Node | null)?.range?.[0] ?? offset;
      node = pair.value;
    } else if (isSeq(node)) {
      node = node.items[Number(part)];
      offset = (node as Node | undefined)?.range?.[0] ?? offset;
    } else break;
  }
  return offset === undefined ? undefined : lines.linePos(offset).line;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Shape

type Issue = z.core.$ZodIssue;

/** One finding for each thing a schema refused, in the words of a cluster file rather than of the schema library. */
function describeIssue(issue: Issue, root: unknown): Finding[] {
  const path = issue.path as Path;
  const found = valueAt(root, path);
  const at = (message: string) => [error(path, `${message}; found ${describe(found, path)}`)];
  switch (issue.code) {
    case "unrecognized_keys":
      return issue.keys.map((key, index) => {
        // Comparing thousands of names with all fields would take minutes, for answers that are cut off anyway.
        const meant = index < mostFaults ? nearest(key, fieldsAt(path)) : undefined;
        return error([...path, key], unknownField(path, key, meant), ...(meant === undefined ? [] : [[...path, meant]]));
      });
    case "invalid_key":
      return [error(path, issue.issues[0]?.message ?? "is no name that is allowed here")];
    case "invalid_type":
      if (found === undefined) return [error(path, `is missing: it must be ${typeWord(issue.expected)}`)];
      if (issue.expected === "boolean" && typeof found === "string" && /^(yes|no|on|off|true|false)$/i.test(found)) {
        return at(`must be true or false: write ${/^(yes|on|true)$/i.test(found)}, without quotes`);
      }
      return at(`must be ${typeWord(issue.expected)}`);
    case "invalid_value":
      if (found === undefined) return [error(path, `is missing: it must be ${oneOf(issue.values)}`)];
      return at(`must be ${oneOf(issue.values)}${didYouMean(String(found), issue.values.map(String))}`);
    case "too_small":
    case "too_big": {
      const bound = issue.code === "too_small" ? issue.minimum : issue.maximum;
      const most = issue.code === "too_small" ? "at least" : "at most";
      if (issue.origin === "string") return at(`must have ${most} ${bound} characters, not ${String(found).length}`);
      if (issue.origin === "array")
        return [error(path, `must have ${most} ${bound} ${bound === 1 ? "entry" : "entries"}; found ${(found as unknown[]).length}`)];
      return at(`must be ${most} ${bound}`);
    }
    case "invalid_union":
      if (found === undefined) return [error(path, `is missing: it ${issue.message ?? "must be given"}`)];
      return at(issue.message ?? "is none of the kinds allowed here");
    case "invalid_format":
      // An own rule of the schema says it in full; the library's default names a pattern nobody reads.
      return at(
        issue.message?.startsWith("Invalid") ? 'must be a count of at least 1 or a percentage such as "10%"' : (issue.message ?? "is malformed"),
      );
    case "not_multiple_of":
    case "invalid_element":
    case "custom":
      return at(issue.message ?? "is not allowed");
  }
}

function typeWord(expected: string): string {
  const words: Record<string, string> = {
    string: "text",
    number: "a number",
    int: "a whole number",
    boolean: "true or false",
    array: "a list",
    object: "a mapping",
    record: "a mapping",
  };
  return words[expected] ?? expected;
}

function oneOf(values: readonly unknown[]): string {
  const words = values.map(String);
  return words.length === 1 ? (words[0] as string) : `one of ${words.join(", ")}`;
}

function didYouMean(word: string, names: Iterable<string>): string {
  const name = nearest(word, names);
  return name === undefined ? "" : ` (did you mean ${name}?)`;
}

/** Fields that people expect from other tools, by dotted path without indices. */
const expectedElsewhere: Readonly<Record<string, string>> = {
  "spec.servers.market": "servers are always on demand: AWS takes spot instances back at two minutes' notice, and with them etcd's majority",
  "spec.servers.zones": "zones are those of spec.network.subnetIds: give subnets in three zones",
  "spec.servers.labels": "servers carry RKE2's own role labels only",
  "spec.servers.config": "write it at spec.rke2.config: all servers share one configuration",
  "spec.servers.kubeletArgs": "write it at spec.rke2.kubeletArgs",
  "spec.masters": "write spec.servers",
  "spec.controlPlane": "write spec.servers",
  "spec.workers": "write spec.agentPools",
  "spec.agents": "write spec.agentPools",
  "spec.nodePools": "write spec.agentPools",
  "spec.kubernetesVersion": "write spec.version, such as v1.35.7+rke2r1",
  "spec.rke2Version": "write spec.version, such as v1.35.7+rke2r1",
  "spec.cni": "write spec.network.cni",
  "spec.region": "the region is that of the deployment",
  "spec.rke2.version": "write spec.version",
  "spec.rke2.cni": "write spec.network.cni",
  "spec.network.zones": "zones are those of spec.network.subnetIds",
  "spec.token": "Drover makes the token; a cluster file holds no secret",
};

function unknownField(parent: Path, key: string, meant: string | undefined): string {
  const dotted = [...parent.filter((part) => typeof part === "string"), key].join(".");
  const elsewhere = expectedElsewhere[dotted];
  if (elsewhere !== undefined) return `is not a field of a cluster file: ${elsewhere}`;
  const names = fieldsAt(parent);
  if (meant !== undefined) return `is not a field of a cluster file; did you mean ${meant}?`;
  // `image` beside `spec` instead of in it, and the like.
  const home = parent.length === 0 && fieldsAt(["spec"]).includes(key) ? `; write it below spec` : "";
  return `is not a field of a cluster file${home}; allowed here are ${names.join(", ")}`;
}

/** Names of the fields that the schema allows at a path. */
function fieldsAt(path: Path): string[] {
  let schema: unknown = clusterFileSchema;
  for (const part of ["", ...path]) {
    if (part !== "") {
      const definition = definitionOf(schema);
      schema = definition.type === "array" ? definition.element : definition.shape?.[part];
    }
    for (let inner = definitionOf(schema).innerType; inner !== undefined; inner = definitionOf(schema).innerType) schema = inner;
  }
  return Object.keys(definitionOf(schema).shape ?? {});
}

interface SchemaDefinition {
  readonly type?: string;
  readonly shape?: Readonly<Record<string, unknown>>;
  readonly element?: unknown;
  readonly innerType?: unknown;
}

function definitionOf(schema: unknown): SchemaDefinition {
  return (schema as { def?: SchemaDefinition } | undefined)?.def ?? {};
}

/** A file against which no rule speaks: stands in for what is broken, so that the rules can read the rest. */
const standIn = {
  apiVersion: "drover.dev/v1",
  kind: "Cluster",
  metadata: { name: "stand-in" },
  spec: {
    version: `v1.${supportedMinors.newest}.0+rke2r1`,
    servers: { count: 1, instanceTypes: ["stand.in"] },
    image: { id: "ami-00000000" },
    network: { vpcId: "vpc-00000000", subnetIds: ["subnet-00000000"] },
  },
} as const;

/** What the rules say of the parts of a file that its broken parts do not touch. */
function rulesBesides(shape: readonly Finding[], value: unknown): Finding[] {
  if (shape.length > mostFaults) return [];
  const mended = structuredClone(value);
  const broken = shape.flatMap(({ path, also = [] }) => [brokenPart(path), ...also]);
  for (const path of broken) mend(mended, path);
  const parsed = clusterFileSchema.safeParse(mended);
  if (!parsed.success) return [];
  const isBroken = (path: Path) => broken.some((part) => startsWith(part, path) || startsWith(path, part));
  return rules(parsed.data).filter((finding) => ![finding.path, ...(finding.also ?? [])].some(isBroken));
}

/** A list with a broken entry is broken as a whole: without the entry, the numbers of those behind it would be wrong. */
function brokenPart(path: Path): Path {
  return typeof path.at(-1) === "number" ? path.slice(0, -1) : path;
}

/** Puts the stand-in's value where the file's is broken, or takes it out where the stand-in has none and a default can hold. */
function mend(root: unknown, path: Path): void {
  const parent = valueAt(root, path.slice(0, -1));
  const name = path.at(-1);
  if (!isMapping(parent) || typeof name !== "string") return;
  const replacement = path.length === 4 && path[1] === "agentPools" ? standInPool[name] : valueAt(standIn, path);
  if (replacement === undefined) delete parent[name];
  else parent[name] = structuredClone(replacement);
}

const standInPool: Readonly<Record<string, unknown>> = { name: "stand-in", count: 0, instanceTypes: ["stand.in"] };

function startsWith(path: Path, beginning: Path): boolean {
  return beginning.every((part, index) => path[index] === part);
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function valueAt(root: unknown, path: Path): unknown {
  return path.reduce<unknown>((value, part) => {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, part)) return undefined;
    return (value as Record<string | number, unknown>)[part];
  }, root);
}

/** What was found, short and never a secret. */
function describe(value: unknown, path: Path = []): string {
  if (value === undefined || value === null) return "nothing";
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : "a list";
  if (typeof value === "object") return "a mapping";
  if (path.some((part) => /token|secret|passw|auth|credential|private/i.test(String(part)))) return `a ${typeof value} not shown here`;
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 80 ? `${text.slice(0, 76)}..."` : text;
}

function formatPath(path: Path): string {
  return path
    .map((part, index) => {
      if (typeof part === "number") return `[${part}]`;
      if (!/^[A-Za-z0-9_-]{1,60}$/.test(part)) return `[${JSON.stringify(part.slice(0, 60))}]`;
      return index === 0 ? part : `.${part}`;
    })
    .join("");
}

function toFaults(findings: readonly Finding[], lineOf: (path: Path) => number | undefined = () => undefined): Fault[] {
  // Errors first where not all fit: a warning must not push one off the list.
  const sorted = findings.length <= mostFaults ? findings : [...findings.filter(isError), ...findings.filter((finding) => !isError(finding))];
  const faults = sorted.slice(0, mostFaults).map(({ path, message, severity }): Fault => {
    const line = lineOf(path);
    return { path: formatPath(path), message: line === undefined ? message : `${message} (line ${line})`, severity };
  });
  const left = findings.length - faults.length;
  if (left === 0) return faults;
  return [...faults, { path: "", message: `${left} more faults are not listed`, severity: findings.some(isError) ? "error" : "warning" }];
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Rules

/** Rules over several fields, and what RKE2 and Kubernetes themselves would refuse, ignore or suffer from. */
export function checkCluster(file: ClusterFile): Fault[] {
  return toFaults(rules(file));
}

function rules(file: ClusterFile): Finding[] {
  return [
    ...versionRules(file),
    ...poolRules(file),
    ...imageRules(file),
    ...networkRules(file),
    ...endpointRules(file),
    ...configRules(file),
    ...kubeletRules(file),
    ...componentRules(file),
    ...registryRules(file),
    ...manifestRules(file),
    ...securityRules(file),
    ...scheduleRules(file),
  ];
}

/** The version as far as the file alone tells it. */
function versionOf({ spec }: ClusterFile) {
  return parseVersion(spec.version ?? "");
}

function versionRules({ spec }: ClusterFile): Finding[] {
  const findings: Finding[] = [];
  const path = ["spec", "version"];
  if (spec.version !== undefined && spec.channel !== undefined) {
    findings.push(
      error(path, `and spec.channel exclude each other: take out one; found ${describe(spec.version)} and ${describe(spec.channel)}`, [
        "spec",
        "channel",
      ]),
    );
  } else if (spec.version === undefined && spec.channel === undefined) {
    findings.push(error(path, "is missing: write a version such as v1.35.7+rke2r1, or spec.channel such as stable", ["spec", "channel"]));
  }
  if (spec.channel !== undefined && !isChannel(spec.channel)) {
    const meant = didYouMean(spec.channel, ["stable", "latest"]);
    findings.push(error(["spec", "channel"], `must be stable, latest or a minor such as v1.35${meant}; found ${describe(spec.channel)}`));
  }
  if (spec.version === undefined) return findings;
  const fault = versionFault(spec.version);
  const version = parseVersion(spec.version);
  if (fault !== undefined || version === undefined) return [...findings, error(path, `${fault}; found ${describe(spec.version)}`)];
  if (version.major !== 1 || version.minor < oldestMinor) {
    findings.push(error(path, `must be v1.${oldestMinor} or newer; found ${version.text}`));
  } else if (version.minor < supportedMinors.oldest) {
    findings.push(warning(path, `${version.text} gets no more fixes upstream: the oldest line that does is v1.${supportedMinors.oldest}`));
  }
  if (version.preRelease.length > 0) findings.push(warning(path, `${version.text} is a pre-release`));
  return findings;
}

function poolRules({ spec }: ClusterFile): Finding[] {
  const { agentPools, servers } = spec;
  const findings: Finding[] = [];
  for (const [index, pool] of agentPools.entries()) {
    const path = ["spec", "agentPools", index];
    const first = agentPools.findIndex(({ name }) => name === pool.name);
    if (first < index) findings.push(error([...path, "name"], `${pool.name} is the name of spec.agentPools[${first}] too: pool names must differ`));
    if (pool.name === serverPool) findings.push(error([...path, "name"], `${serverPool} is the name of the servers' pool: choose another`));
    if (pool.name === drillRole)
      findings.push(error([...path, "name"], `${drillRole} is the name of servers that try out snapshots: choose another`));
    findings.push(...labelRules([...path, "labels"], pool.labels), ...taintRules([...path, "taints"], pool.taints));
  }
  findings.push(...taintRules(["spec", "servers", "taints"], servers.taints));
  const agents = agentPools.reduce((sum, pool) => sum + pool.count, 0);
  const pools: Path = ["spec", "agentPools"];
  if (agents > mostAgents) findings.push(error(pools, `ask for ${agents} agents; at most ${mostAgents} are allowed in one cluster`));
  if (agents === 0 && servers.taints.some((taint) => !taint.endsWith(":PreferNoSchedule"))) {
    const message = "keep workloads off the servers, and there is no agent to take them: not even the ingress controller could run";
    findings.push(warning(["spec", "servers", "taints"], message, pools));
  }
  return findings;
}

/** Label names and values (Kubernetes, labels and selectors), and what a kubelet may not give itself (Kubernetes, kubelet `--node-labels`). */
function labelRules(path: Path, labels: Readonly<Record<string, string>>): Finding[] {
  return Object.entries(labels).flatMap(([name, value]): Finding[] => {
    const at = [...path, name];
    if (!isQualifiedName(name))
      return [error(at, "is no label name: write an optional DNS prefix with a slash, then up to 63 letters, digits, - _ .")];
    const findings: Finding[] = [];
    if (!/^(|[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)$/.test(value)) {
      findings.push(
        error(at, `must have a value of at most 63 letters, digits, - _ . that begins and ends with a letter or digit; found ${describe(value)}`),
      );
    }
    if (name.startsWith("drover.dev/")) findings.push(error(at, `is Drover's own: nodes carry ${poolLabel} already`));
    else if (isReservedLabel(name)) {
      const reason = name.startsWith("node-role.kubernetes.io/") ? "a node cannot give itself a role" : "kubernetes.io and k8s.io are reserved";
      findings.push(error(at, `${reason}: the kubelet would refuse to start. Use a prefix of your own, or label the node after it has joined`));
    }
    return findings;
  });
}

const kubeletLabels = new Set([
  "kubernetes.io/hostname",
  "kubernetes.io/arch",
  "kubernetes.io/os",
  "beta.kubernetes.io/arch",
  "beta.kubernetes.io/os",
  "beta.kubernetes.io/instance-type",
  "topology.kubernetes.io/region",
  "topology.kubernetes.io/zone",
  "failure-domain.beta.kubernetes.io/region",
  "failure-domain.beta.kubernetes.io/zone",
]);

function isReservedLabel(name: string): boolean {
  const prefix = name.includes("/") ? name.slice(0, name.indexOf("/")) : "";
  const within = (domain: string) => prefix === domain || prefix.endsWith(`.${domain}`);
  if (!within("kubernetes.io") && !within("k8s.io")) return false;
  return !kubeletLabels.has(name) && !within("kubelet.kubernetes.io") && !within("node.kubernetes.io");
}

/** Optional DNS subdomain and slash, then a name of at most 63 characters. */
function isQualifiedName(name: string): boolean {
  const parts = name.split("/");
  const [own, prefix] = [parts.at(-1) as string, parts.length === 2 ? (parts[0] as string) : undefined];
  if (parts.length > 2 || !/^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/.test(own)) return false;
  return prefix === undefined || isDnsName(prefix);
}

function isDnsName(name: string): boolean {
  return name.length <= 253 && name.split(".").every((label) => /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(label));
}

function taintRules(path: Path, taints: readonly string[]): Finding[] {
  const seen = new Map<string, number>();
  return taints.flatMap((taint, index): Finding[] => {
    const at = [...path, index];
    const [, key = "", value = "", effect = ""] = /^([^=:]*)(?:=([^:]*))?:(.*)$/.exec(taint) ?? [];
    const findings: Finding[] = [];
    if (!isQualifiedName(key))
      findings.push(error(at, `has a key that is none: write an optional DNS prefix with a slash, then a name; found ${describe(key)}`));
    if (!/^(|[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)$/.test(value)) {
      findings.push(
        error(at, `has a value that is none: at most 63 letters, digits, - _ . that begin and end with a letter or digit; found ${describe(value)}`),
      );
    }
    const first = seen.get(`${key}:${effect}`);
    if (first !== undefined) findings.push(error(at, `has the key and effect of entry ${first}: a node can carry them only once`));
    else seen.set(`${key}:${effect}`, index);
    return findings;
  });
}

function imageRules({ spec }: ClusterFile): Finding[] {
  const { image, servers, agentPools } = spec;
  const path: Path = ["spec", "image"];
  const architecture = [...path, "architecture"];
  const findings: Finding[] = [];
  if (image.id !== undefined && image.ssmParameter !== undefined) findings.push(error(path, "has both ssmParameter and id: take out one"));
  if (image.id === undefined && image.ssmParameter === undefined) findings.push(error(path, "needs ssmParameter or id"));
  const named = architectureNamedIn(image.ssmParameter ?? "");
  if (named !== undefined && named !== image.architecture) {
    findings.push(
      error(architecture, `is ${image.architecture}, but spec.image.ssmParameter names an image for ${named}`, [...path, "ssmParameter"]),
    );
  }
  for (const [types, list] of instanceTypeLists(servers.instanceTypes, agentPools)) {
    for (const [index, type] of types.entries()) {
      const at = [...list, index];
      if (types.indexOf(type) < index) findings.push(warning(at, `${type} is in the list twice`));
      if (isGraviton(type) !== (image.architecture === "arm64")) {
        const found = isGraviton(type) ? "arm64" : "amd64";
        findings.push(
          error(at, `${type} has an ${found} processor, and the image is for ${image.architecture} (spec.image.architecture)`, architecture),
        );
      }
    }
  }
  return findings;
}

function instanceTypeLists(servers: readonly string[], pools: readonly AgentPool[]): [readonly string[], Path][] {
  const agents = pools.map((pool, index): [readonly string[], Path] => [pool.instanceTypes, ["spec", "agentPools", index, "instanceTypes"]]);
  return [[servers, ["spec", "servers", "instanceTypes"]], ...agents];
}

function architectureNamedIn(parameter: string): Architecture | undefined {
  if (/(^|[/_-])(arm64|aarch64)([/_-]|$)/.test(parameter)) return "arm64";
  return /(^|[/_-])(amd64|x86_64)([/_-]|$)/.test(parameter) ? "amd64" : undefined;
}

/** Families whose generation is followed by `g` have AWS's Arm processor, as has the first, a1; `-gb200` are NVIDIA's (EC2, instance type naming). */
function isGraviton(type: string): boolean {
  return /^(a1|[a-z]+\d+g[a-z]*|[a-z]+\d+[a-z]*-gb\d+)\./.test(type);
}

const clusterCidrPath: Path = ["spec", "network", "clusterCidr"];
const serviceCidrPath: Path = ["spec", "network", "serviceCidr"];

/** Networks that routing or Linux itself keeps: pods or services there would never be reached. */
const reservedNetworks: readonly (readonly [string, string])[] = [
  ["0.0.0.0/8", "this network"],
  ["127.0.0.0/8", "loopback"],
  ["169.254.0.0/16", "link-local: instance metadata is there"],
  ["224.0.0.0/4", "multicast"],
  ["240.0.0.0/4", "reserved"],
];

function networkRules(file: ClusterFile): Finding[] {
  const { network, servers, agentPools, rke2 } = file.spec;
  const findings: Finding[] = [];
  const fields: [Path, string][] = [
    [clusterCidrPath, network.clusterCidr],
    [serviceCidrPath, network.serviceCidr],
  ];
  for (const [path, text] of fields) {
    const fault = networkFault(text);
    if (fault !== undefined) findings.push(error(path, `${fault}; found ${describe(text)}`));
    const parsed = parseNetwork(text);
    const reserved = reservedNetworks.find(([block]) => parsed !== undefined && overlaps(parsed, parseNetwork(block) as NonNullable<typeof parsed>));
    if (reserved !== undefined) findings.push(error(path, `overlaps ${reserved[0]} (${reserved[1]}); found ${text}`));
  }
  const [pods, services] = [parseNetwork(network.clusterCidr), parseNetwork(network.serviceCidr)];
  if (pods !== undefined && services !== undefined && overlaps(pods, services)) {
    findings.push(
      error(
        clusterCidrPath,
        `${network.clusterCidr} overlaps spec.network.serviceCidr ${network.serviceCidr}: pods and services need networks of their own`,
        serviceCidrPath,
      ),
    );
  }
  if (services !== undefined && (services.prefix < 12 || services.prefix > 24)) {
    findings.push(error(serviceCidrPath, `must be from /12 to /24; found ${network.serviceCidr}`));
  }
  if (pods !== undefined) {
    const mask = nodeMask(rke2.config["kube-controller-manager-arg"]);
    const nodes = agentPools.reduce((sum, pool) => sum + pool.count, servers.count as number);
    const room = mask >= pods.prefix ? 2 ** (mask - pods.prefix) : 0;
    const also: Path[] = [
      ["spec", "servers", "count"],
      ["spec", "agentPools"],
    ];
    if (nodes > room) {
      const wanted = Math.max(0, mask - Math.ceil(Math.log2(nodes)));
      findings.push(
        error(
          clusterCidrPath,
          `${network.clusterCidr} has room for ${room} nodes of a /${mask} each, and the file asks for ${nodes}: write a /${wanted} or larger`,
          ...also,
        ),
      );
    } else if (nodes === room && nodes > 1) {
      findings.push(
        warning(
          clusterCidrPath,
          `${network.clusterCidr} has room for just the ${nodes} nodes asked for: the cluster cannot grow, and its pod network cannot be changed`,
          ...also,
        ),
      );
    }
    findings.push(...podsPerNodeRules(rke2.kubeletArgs, ["spec", "rke2", "kubeletArgs"], mask));
    for (const [index, pool] of agentPools.entries()) {
      findings.push(...podsPerNodeRules(pool.kubeletArgs ?? [], ["spec", "agentPools", index, "kubeletArgs"], mask));
    }
  }
  if (services !== undefined) findings.push(...clusterDnsRules(rke2.config["cluster-dns"], network.serviceCidr, services));
  const subnets: Path = ["spec", "network", "subnetIds"];
  for (const [index, id] of network.subnetIds.entries()) {
    if (network.subnetIds.indexOf(id) < index) findings.push(error([...subnets, index], `${id} is in the list twice`));
  }
  if (servers.count > 1 && network.subnetIds.length === 1) {
    findings.push(
      warning(subnets, `one subnet is one zone: when it fails, all ${servers.count} servers fail. Give subnets in three zones`, [
        "spec",
        "servers",
        "count",
      ]),
    );
  }
  if (network.multus && network.cni === "none") {
    findings.push(error(["spec", "network", "multus"], "needs a CNI behind it: spec.network.cni is none", ["spec", "network", "cni"]));
  }
  if (network.cni === "none" && Object.keys(rke2.manifests).length === 0) {
    findings.push(
      warning(["spec", "network", "cni"], "is none and spec.rke2.manifests brings no other: nodes stay NotReady until a CNI is installed", [
        "spec",
        "rke2",
        "manifests",
      ]),
    );
  }
  return findings;
}

/** Prefix length of a node's share of the pod network: 24, unless the controller manager is told otherwise (kube-controller-manager reference). */
function nodeMask(argument: ConfigValue | undefined): number {
  const masks = [argument ?? []].flat().flatMap((item) => /^(?:--)?node-cidr-mask-size(?:-ipv4)?=(\d{1,2})$/.exec(String(item))?.[1] ?? []);
  return masks.length === 0 ? 24 : Number(masks.at(-1));
}

/** A node's share of the pod network holds its pods, less network and broadcast address. */
function podsPerNodeRules(args: readonly string[], path: Path, mask: number): Finding[] {
  return args.flatMap((argument, index) => {
    const pods = Number(/^max-pods=(\d+)$/.exec(argument)?.[1]);
    const room = 2 ** (32 - mask) - 2;
    return pods > room
      ? [warning([...path, index], `allows ${pods} pods on a node, and its /${mask} of the pod network holds ${room}`, clusterCidrPath)]
      : [];
  });
}

function clusterDnsRules(value: ConfigValue | undefined, cidr: string, services: NonNullable<ReturnType<typeof parseNetwork>>): Finding[] {
  return [value ?? []].flat().flatMap((item): Finding[] => {
    const path = ["spec", "rke2", "config", "cluster-dns"];
    const address = parseAddress(String(item));
    if (address === undefined) return [error(path, `must be an IPv4 address; found ${describe(item)}`)];
    if (!contains(services, address)) return [error(path, `must be within spec.network.serviceCidr ${cidr}; found ${item}`, serviceCidrPath)];
    if (address === services.first || address === services.first + 1 || address === services.last) {
      return [error(path, `must not be the first, second or last address of ${cidr}: the second is the API's own; found ${item}`, serviceCidrPath)];
    }
    return [];
  });
}

function endpointRules({ spec }: ClusterFile): Finding[] {
  const { endpoint } = spec.network;
  const path: Path = ["spec", "network", "endpoint"];
  const findings: Finding[] = [];
  for (const [index, cidr] of endpoint.allowedCidrs.entries()) {
    const at = [...path, "allowedCidrs", index];
    const fault = networkFault(cidr);
    if (fault !== undefined) findings.push(error(at, `${fault}; found ${describe(cidr)}`));
    else if (endpoint.allowedCidrs.indexOf(cidr) < index) findings.push(warning(at, `${cidr} is in the list twice`));
    else if (parseNetwork(cidr)?.prefix === 0 && endpoint.scheme === "internet-facing") {
      findings.push(warning(at, "lets the whole internet reach the Kubernetes API: name the networks that need it", [...path, "scheme"]));
    }
  }
  if (endpoint.scheme === "internet-facing" && endpoint.allowedCidrs.length === 0) {
    findings.push(warning(path, "is internet-facing, and nobody may reach it: name networks in allowedCidrs, or make it internal"));
  }
  for (const [index, name] of spec.rke2.tlsSan.entries()) {
    if (isIP(name) === 0 && !isDnsName(name)) {
      findings.push(
        error(
          ["spec", "rke2", "tlsSan", index],
          `must be a DNS name in lower case or an IP address, without scheme, port or wildcard; found ${describe(name)}`,
        ),
      );
    }
  }
  return findings;
}

function configRules(file: ClusterFile): Finding[] {
  const { rke2, agentPools } = file.spec;
  const path: Path = ["spec", "rke2", "config"];
  const findings = tooManyKeys(path, rke2.config);
  findings.push(...keysOf(rke2.config).flatMap(([name, value]) => keyRules([...path, name], name, value, file)));
  for (const [index, pool] of agentPools.entries()) {
    const poolPath = ["spec", "agentPools", index, "config"];
    findings.push(...tooManyKeys(poolPath, pool.config ?? {}));
    for (const [name, value] of keysOf(pool.config ?? {})) {
      const key = rke2Keys.get(name);
      if (key?.command === "server" && !ownedKeys.has(name)) {
        findings.push(
          error([...poolPath, name], "is a key of servers only: RKE2 would only warn on an agent and start without it. Write it at spec.rke2.config"),
        );
      } else findings.push(...keyRules([...poolPath, name], name, value, file));
    }
  }
  const { config } = rke2;
  if (config["disable-kube-proxy"] === true && file.spec.network.cni !== "cilium") {
    const at = [...path, "disable-kube-proxy"];
    findings.push(
      warning(at, `takes kube-proxy out, and ${file.spec.network.cni} does not replace it: services would not be reached`, [
        "spec",
        "network",
        "cni",
      ]),
    );
  }
  if (config["disable-cloud-controller"] === true && Object.keys(rke2.manifests).length === 0) {
    const message = "leaves nodes without a cloud controller, and spec.rke2.manifests brings no other: they may stay tainted as uninitialized";
    findings.push(warning([...path, "disable-cloud-controller"], message, ["spec", "rke2", "manifests"]));
  }
  if (config["embedded-registry"] === true && !isMapping(rke2.registries.mirrors)) {
    const message = "shares only the registries that spec.rke2.registries.mirrors names, and there is none";
    findings.push(warning([...path, "embedded-registry"], message, ["spec", "rke2", "registries"]));
  }
  if (config["etcd-s3"] === true) {
    const message =
      "makes RKE2 upload snapshots itself, for which Drover's nodes have no right; Drover keeps snapshots in S3 by itself, see spec.backup";
    findings.push(warning([...path, "etcd-s3"], message));
  }
  return findings;
}

/** RKE2 has fewer keys than this: what goes beyond cannot be right, and is not looked at one by one. */
const mostKeys = 200;

function keysOf(config: Readonly<Record<string, ConfigValue>>): [string, ConfigValue][] {
  return Object.entries(config).slice(0, mostKeys);
}

function tooManyKeys(path: Path, config: Readonly<Record<string, ConfigValue>>): Finding[] {
  const count = Object.keys(config).length;
  return count > mostKeys ? [error(path, `has ${count} keys, and RKE2 has but ${rke2Keys.size}: only the first ${mostKeys} were looked at`)] : [];
}

/** One key of config.yaml: does RKE2 know it, may it be set here, is its value of the right kind. */
function keyRules(path: Path, name: string, value: ConfigValue, file: ClusterFile): Finding[] {
  const key = rke2Keys.get(name);
  if (key === undefined) return [error(path, unknownKey(name))];
  const owned = ownedKeys.get(name);
  if (owned !== undefined) return [error(path, `cannot be set here: ${owned}`)];
  const [version, since] = [versionOf(file), /v\d+\.\d+\.\d+/.exec(key.since ?? "")?.[0]];
  if (version !== undefined && since !== undefined && compareVersions(version.text, `${since}+rke2r1`) < 0) {
    return [error(path, `exists from ${since} on: ${version.text} would only warn and start without it`, ["spec", "version"])];
  }
  const kind = kindFault(key, value);
  if (kind !== undefined) return [error(path, `${kind}; found ${describe(value, path)}`)];
  const meaning = meaningFault(name, value, file);
  return meaning === undefined ? [] : [error(path, meaning, ["spec", "security", "profile"])];
}

function unknownKey(name: string): string {
  const consequence = "RKE2 would only warn and start without it";
  const bare = name.replace(/^--/, "").replace(/\+$/, "");
  if (bare !== name && rke2Keys.has(bare)) return `is no key of RKE2: write ${bare}`;
  const foreign = foreignKeys.get(bare);
  if (foreign !== undefined) return `is no key of RKE2, which would only warn and start without it; ${foreign}`;
  const meant = nearest(bare, [...rke2Keys.keys(), ...foreignKeys.keys()]);
  if (meant === undefined) return `is no key of RKE2: ${consequence}`;
  const advice = foreignKeys.get(meant);
  return advice === undefined
    ? `is no key of RKE2: ${consequence}. Did you mean ${meant}?`
    : `is no key of RKE2: ${consequence}. Like ${meant}: ${advice}`;
}

/** What a value must be by the key list, or undefined when it is. */
function kindFault(key: Rke2Key, value: ConfigValue): string | undefined {
  if (key.type === "list") return undefined;
  if (Array.isArray(value)) return `must be one value, not a list`;
  switch (key.type) {
    case "bool":
      return typeof value === "boolean" ? undefined : "must be true or false, without quotes";
    case "int":
      return typeof value === "number" && Number.isInteger(value) ? undefined : "must be a whole number";
    case "string":
      return typeof value === "string" ? undefined : "must be text: put it in quotes";
    case "duration":
      return typeof value === "string" && /^(\d+(\.\d+)?(ns|us|ms|s|m|h))+$/.test(value) ? undefined : "must be a duration such as 5m0s";
  }
}

/** Values that RKE2 takes and a cluster then suffers from. */
function meaningFault(name: string, value: ConfigValue, { spec }: ClusterFile): string | undefined {
  switch (name) {
    case "etcd-snapshot-compress":
      return value === true ? "must stay false: RKE2 cannot restore a compressed snapshot (k3s-io/k3s issue 14526)" : undefined;
    case "etcd-snapshot-schedule-cron": {
      const fault = cronFault(String(value));
      return fault === undefined ? undefined : `${fault}; found ${describe(value)}`;
    }
    case "service-node-port-range": {
      const [first, last] = /^(\d{1,5})-(\d{1,5})$/.exec(String(value))?.slice(1).map(Number) ?? [];
      const fits = first !== undefined && last !== undefined && first > 0 && first <= last && last <= 65535;
      return fits ? undefined : `must be two ports such as 30000-32767; found ${describe(value)}`;
    }
    case "egress-selector-mode":
      return ["disabled", "agent", "cluster", "pod"].includes(String(value))
        ? undefined
        : `must be one of disabled, agent, cluster, pod; found ${describe(value)}`;
    case "cluster-domain":
      return isDnsName(String(value)) ? undefined : `must be a DNS name such as cluster.local; found ${describe(value)}`;
    case "system-default-registry":
      return /^[a-z0-9.-]+(:\d{1,5})?$/.test(String(value))
        ? undefined
        : `must be a host with an optional port, without scheme or path; found ${describe(value)}`;
    case "protect-kernel-defaults":
      return value === false && spec.security.profile === "cis"
        ? "must not be false with spec.security.profile cis: RKE2 would not start"
        : undefined;
    case "cloud-provider-name":
      return value === "aws" ? "aws is no longer a cloud provider of RKE2: it would only rename the nodes, which Drover names" : undefined;
    case "write-kubeconfig-mode":
      return /^0?[46]00$/.test(String(value)) ? undefined : `must be "0600" or "0400": the file is the key to the cluster; found ${describe(value)}`;
    default:
      return undefined;
  }
}

/** Arguments that differ by node, or that another field of the cluster file gives. */
const ownedKubeletArgs: ReadonlyMap<string, string> = new Map([
  ["node-ip", perNodeArgument()],
  ["hostname-override", perNodeArgument()],
  ["provider-id", perNodeArgument()],
  ["node-labels", "write it at labels of a pool"],
  ["register-with-taints", "write it at taints of a pool or of spec.servers"],
  ["kubeconfig", "RKE2 sets it"],
  ["bootstrap-kubeconfig", "RKE2 sets it"],
  ["container-runtime-endpoint", "RKE2 sets it"],
]);

function perNodeArgument(): string {
  return "it differs from node to node, and this list is the same for all of them";
}

function kubeletRules({ spec }: ClusterFile): Finding[] {
  const lists: [readonly string[], Path][] = [
    [spec.rke2.kubeletArgs, ["spec", "rke2", "kubeletArgs"]],
    ...spec.agentPools.map((pool, index): [readonly string[], Path] => [pool.kubeletArgs ?? [], ["spec", "agentPools", index, "kubeletArgs"]]),
  ];
  return lists.flatMap(([args, path]) => {
    const names = args.map((argument) => argument.slice(0, argument.indexOf("=")));
    return args.flatMap((argument, index): Finding[] => {
      const name = names[index] as string;
      const at = [...path, index];
      const owned = ownedKubeletArgs.get(name);
      if (owned !== undefined) return [error(at, `${name} cannot be set here: ${owned}`)];
      // Thresholds and gates come as one comma-separated value; a second argument of the name would silently replace the first.
      if (names.indexOf(name) < index) return [error(at, `${name} is given twice: the kubelet would take the last alone`)];
      if (argument === "protect-kernel-defaults=false" && spec.security.profile === "cis") {
        return [error(at, "must not be false with spec.security.profile cis: RKE2 would not start", ["spec", "security", "profile"])];
      }
      return [];
    });
  });
}

function componentRules(file: ClusterFile): Finding[] {
  const { rke2, airGap, image } = file.spec;
  const findings: Finding[] = [];
  const own = Object.keys(rke2.manifests).map(addonName);
  for (const [index, item] of rke2.disable.entries()) {
    const path = ["spec", "rke2", "disable", index];
    if (rke2.disable.indexOf(item) < index) findings.push(warning(path, `${item} is in the list twice`));
    else if ((disableItems.ingress as readonly string[]).includes(item))
      findings.push(warning(path, `${item} is better taken out by spec.rke2.ingress: none`));
    else if ((disableItems.cni as readonly string[]).includes(item)) {
      findings.push(error(path, `${item} is the pod network: choose it in spec.network.cni (none for one of your own)`));
    } else if (own.includes(item)) {
      findings.push(error(path, `${item} is a manifest of this very file: take it out of spec.rke2.manifests instead`));
    } else if (!(disableItems.known as readonly string[]).includes(item)) {
      const meant = nearest(item, disableItems.known) ?? nearest(`rke2-${item}`, disableItems.known);
      const known = `known are ${disableItems.known.join(", ")}`;
      findings.push(
        meant !== undefined
          ? error(path, `${describe(item)} is no component of RKE2; did you mean ${meant}?`)
          : warning(path, `${describe(item)} is no component that Drover knows, and RKE2 would not say so; ${known}`),
      );
    }
  }
  const version = versionOf(file);
  const sets = knownImageSets(version?.text ?? "", image.architecture);
  for (const [index, set] of airGap.imageSets.entries()) {
    const path = ["spec", "airGap", "imageSets", index];
    if (airGap.imageSets.indexOf(set) < index) findings.push(warning(path, `${set} is in the list twice`));
    // Without a version the set that v1.36 renamed cannot be judged.
    else if (!sets.includes(set) && !(version === undefined && ["traefik", "ingress-nginx"].includes(set))) {
      const message = `is no image set of ${version?.text ?? "RKE2"} for ${image.architecture}${didYouMean(set, sets)}; there are ${sets.join(", ")}; found ${describe(set)}`;
      findings.push(error(path, message, ["spec", "image", "architecture"]));
    }
  }
  if (!airGap.enabled && airGap.imageSets.length > 0) {
    findings.push(
      warning(["spec", "airGap", "imageSets"], "has no effect while spec.airGap.enabled is false: images are pulled", ["spec", "airGap", "enabled"]),
    );
  }
  if (rke2.ingress === "ingress-nginx" && (version?.minor ?? 0) >= 37) {
    findings.push(warning(["spec", "rke2", "ingress"], "ingress-nginx is no longer part of RKE2 from v1.37 on", ["spec", "version"]));
  }
  return findings;
}

function addonName(file: string): string {
  return file.replace(/\.ya?ml$/, "");
}

function registryRules({ spec }: ClusterFile): Finding[] {
  const { registries } = spec.rke2;
  const path: Path = ["spec", "rke2", "registries"];
  const findings = unknownNames(path, registries, ["mirrors", "configs"]);
  for (const [name, mirror] of mappingAt(findings, [...path, "mirrors"], registries.mirrors)) {
    // RKE2 takes a name alone, for the embedded registry.
    if (mirror === null) continue;
    const at = [...path, "mirrors", name];
    if (!isMapping(mirror)) {
      findings.push(error(at, `must be a mapping with endpoint and rewrite; found ${describe(mirror)}`));
      continue;
    }
    findings.push(...unknownNames(at, mirror, ["endpoint", "rewrite"]));
    if (mirror.endpoint !== undefined && !Array.isArray(mirror.endpoint)) findings.push(error([...at, "endpoint"], "must be a list of URLs"));
    for (const [index, url] of (Array.isArray(mirror.endpoint) ? mirror.endpoint : []).entries()) {
      const here = [...at, "endpoint", index];
      if (typeof url !== "string" || !/^https?:\/\/[^\s/]+/.test(url))
        findings.push(error(here, "must be a URL such as https://registry.example.com"));
      else if (/^https?:\/\/[^/]*@/.test(url)) findings.push(error(here, "must not carry a user or password: a cluster file holds no secret"));
    }
    for (const [pattern, replacement] of mappingAt(findings, [...at, "rewrite"], mirror.rewrite)) {
      if (typeof replacement !== "string") findings.push(error([...at, "rewrite", pattern], "must be text"));
    }
  }
  for (const [host, config] of mappingAt(findings, [...path, "configs"], registries.configs)) {
    const at = [...path, "configs", host];
    if (/:\/\//.test(host)) findings.push(error(at, "must be a host with an optional port, without scheme"));
    if (!isMapping(config)) {
      findings.push(error(at, `must be a mapping with tls; found ${describe(config, at)}`));
      continue;
    }
    findings.push(...unknownNames(at, config, ["auth", "tls"]));
    if (config.auth !== undefined) {
      const message =
        "is not taken: a cluster file holds no secret. Use the kubelet's credential provider, a client certificate in the image, or a registry that trusts its network";
      findings.push(error([...at, "auth"], message));
    }
    const tls = mappingAt(findings, [...at, "tls"], config.tls);
    findings.push(...unknownNames([...at, "tls"], Object.fromEntries(tls), ["ca_file", "cert_file", "key_file", "insecure_skip_verify"]));
    for (const [name, value] of tls) {
      if (name === "insecure_skip_verify" && value === true)
        findings.push(warning([...at, "tls", name], "lets anyone on the way put other images in place"));
      if (name.endsWith("_file") && !(typeof value === "string" && value.startsWith("/"))) {
        findings.push(error([...at, "tls", name], "must be the absolute path of a file that the image brings"));
      }
    }
  }
  return findings;
}

/** Entries of what must be a mapping; anything else is a finding and has none. */
function mappingAt(findings: Finding[], path: Path, value: unknown): [string, unknown][] {
  if (value === undefined || value === null) return [];
  if (isMapping(value)) return Object.entries(value);
  findings.push(error(path, `must be a mapping; found ${describe(value, path)}`));
  return [];
}

function unknownNames(path: Path, value: Readonly<Record<string, unknown>>, names: readonly string[]): Finding[] {
  return Object.keys(value)
    .filter((name) => !names.includes(name))
    .map((name) => error([...path, name], `is no key of registries.yaml${didYouMean(name, names)}; allowed here are ${names.join(", ")}`));
}

/** Names of packaged components: RKE2 writes these files anew at every start. */
const packagedManifests = new Set<string>([...disableItems.known, ...disableItems.ingress, ...disableItems.cni]);

/** Each becomes an object that RKE2 reads every 15 seconds on every server. */
const mostManifests = 100;

function manifestRules({ spec }: ClusterFile): Finding[] {
  const seen = new Map<string, string>();
  const all = Object.entries(spec.rke2.manifests);
  if (all.length > mostManifests) {
    return [error(["spec", "rke2", "manifests"], `has ${all.length} files; at most ${mostManifests} are allowed: put several objects into one`)];
  }
  return all.flatMap(([name, text]): Finding[] => {
    const path = ["spec", "rke2", "manifests", name];
    const findings: Finding[] = [];
    const twin = seen.get(addonName(name));
    seen.set(addonName(name), name);
    if (twin !== undefined) findings.push(error(path, `is to RKE2 the same as ${twin}: names must differ before the ending`));
    if (packagedManifests.has(addonName(name))) {
      findings.push(error(path, `is a file of RKE2 itself, written anew at every start; put a HelmChartConfig into ${addonName(name)}-config.yaml`));
    }
    return [...findings, ...manifestContentRules(path, text)];
  });
}

function manifestContentRules(path: Path, text: string): Finding[] {
  const lines = new LineCounter();
  let contents: unknown[];
  try {
    const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false, logLevel: "error" });
    const problem = documents.flatMap(({ errors }) => errors)[0];
    if (problem !== undefined) {
      const { line, col } = lines.linePos(problem.pos[0]);
      return [error(path, `is not YAML, line ${line}, column ${col} of it: ${reasonOf(problem)}`)];
    }
    contents = [...documents].map((document) => (document as Document).toJS({ maxAliasCount: 100 }) as unknown);
  } catch (thrown) {
    return [error(path, `cannot be read: ${reasonOf(thrown)}`)];
  }
  const objects = contents.filter((content) => content !== null && content !== undefined);
  if (objects.length === 0) return [warning(path, "is empty: RKE2 would remove what it applied from it before")];
  return objects.flatMap((object, index): Finding[] => {
    const which = objects.length > 1 ? `document ${index + 1} of it ` : "";
    if (!isMapping(object) || typeof object.apiVersion !== "string" || typeof object.kind !== "string") {
      return [error(path, `${which}must be a Kubernetes object with apiVersion and kind`)];
    }
    if (object.kind === "Secret" && (object.data !== undefined || object.stringData !== undefined)) {
      return [error(path, `${which}is a Secret: a cluster file holds no secret. Apply it when the cluster is ready`)];
    }
    return [];
  });
}

function securityRules({ spec }: ClusterFile): Finding[] {
  const { security, network, image } = spec;
  const findings: Finding[] = [];
  if (security.profile === "cis" && network.cni === "flannel") {
    const message = "cis stands on network policies, which flannel does not enforce: choose canal, calico or cilium";
    findings.push(warning(["spec", "security", "profile"], message, ["spec", "network", "cni"]));
  }
  if (security.selinux && /ubuntu|debian|canonical/i.test(image.ssmParameter ?? "")) {
    findings.push(
      warning(["spec", "security", "selinux"], "Ubuntu and Debian images have no SELinux policy for RKE2", ["spec", "image", "ssmParameter"]),
    );
  }
  return findings;
}

function scheduleRules({ spec, metadata }: ClusterFile): Finding[] {
  const { backup, maintenance, agentPools } = spec;
  const findings: Finding[] = [...metadataRules(metadata.labels)];
  const fault = cronFault(backup.schedule);
  if (fault !== undefined) findings.push(error(["spec", "backup", "schedule"], `${fault}; found ${describe(backup.schedule)}`));
  findings.push(...zoneRules(["spec", "backup", "timeZone"], backup.timeZone));
  for (const [index, window] of maintenance.windows.entries()) {
    const path = ["spec", "maintenance", "windows", index];
    findings.push(...zoneRules([...path, "timeZone"], window.timeZone));
    for (const [at, day] of window.days.entries()) {
      if (window.days.indexOf(day) < at) findings.push(warning([...path, "days", at], `${day} is in the list twice`));
    }
  }
  if (maintenance.autoUpgrade === "patch" && maintenance.windows.length === 0) {
    const message = "is patch, and there is no window: nothing would ever be upgraded. Name one in spec.maintenance.windows";
    findings.push(error(["spec", "maintenance", "autoUpgrade"], message, ["spec", "maintenance", "windows"]));
  }
  for (const [index, pool] of agentPools.entries()) {
    const out = mostOut(maintenance.maxUnavailable, pool.count);
    if (pool.count > 1 && out >= pool.count) {
      const message = `${maintenance.maxUnavailable} would take all ${pool.count} agents of pool ${pool.name} out at once; at most ${pool.count - 1} leaves one`;
      findings.push(warning(["spec", "maintenance", "maxUnavailable"], message, ["spec", "agentPools", index]));
    }
  }
  return findings;
}

/** How many of `count` may be out at once: a share is rounded down and is one at least, as Kubernetes rounds what may be unavailable. */
function mostOut(maxUnavailable: number | string, count: number): number {
  if (typeof maxUnavailable === "number") return maxUnavailable;
  return Math.max(1, Math.floor((count * Number.parseInt(maxUnavailable, 10)) / 100));
}

function metadataRules(labels: Readonly<Record<string, string>>): Finding[] {
  return labelRules(["metadata", "labels"], labels).filter((finding) => !finding.message.includes("kubelet"));
}

function zoneRules(path: Path, zone: string): Finding[] {
  if (isTimeZone(zone)) return [];
  const zones = Intl.supportedValuesOf("timeZone");
  // People write the city alone.
  const city = zones.find((name) => name.split("/").at(-1)?.toLowerCase() === zone.toLowerCase().replace(/ /g, "_"));
  const meant = city === undefined ? didYouMean(zone, zones) : ` (did you mean ${city}?)`;
  return [error(path, `must be an IANA time zone such as UTC or Europe/Berlin${meant}; found ${describe(zone)}`)];
}

/** Names only: an offset such as +02:00 would not follow summer time, and EventBridge Scheduler does not take it. */
function isTimeZone(zone: string): boolean {
  if (!/^[A-Za-z][A-Za-z0-9_+/-]*$/.test(zone)) return false;
  try {
    new Intl.DateTimeFormat("en", { timeZone: zone });
    return true;
  } catch {
    return false;
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Store and account

export interface StoreFacts {
  readonly file: ClusterFile;
  /** The version to install: the file's, or the one its channel stands for; undefined when the channel has none. */
  readonly version: string | undefined;
  /** Names of the files that the store holds for this version and the file's architecture. */
  readonly present: readonly string[];
  /** Every version that the store holds anything of. */
  readonly knownVersions: readonly string[];
}

/** Whether nodes could install from the artifact store what the file asks for. Nodes install from nowhere else. */
export function checkAgainstStore({ file, version, present, knownVersions }: StoreFacts): Fault[] {
  const { channel, image, network, airGap, rke2 } = file.spec;
  const path: Path = ["spec", file.spec.version === undefined ? "channel" : "version"];
  const there = [...knownVersions].filter((known) => parseVersion(known) !== undefined).sort((a, b) => compareVersions(b, a));
  const listed =
    there.length === 0 ? "it is empty" : `it has ${there.slice(0, 8).join(", ")}${there.length > 8 ? ` and ${there.length - 8} older` : ""}`;
  if (version === undefined) {
    return toFaults([
      error(path, `${channel ?? "the channel"} has no release in the artifact store; ${listed}. Add one with: drover artifacts add DIR`),
    ]);
  }
  if (!knownVersions.includes(version)) {
    const meant = didYouMean(version, there);
    return toFaults([error(path, `${version} is not in the artifact store${meant}; ${listed}. Add it with: drover artifacts add DIR`)]);
  }
  const needed = archivesOfCluster(file, version);
  const missing = missingArchives(needed, present);
  const store = `the artifact store for ${version} ${image.architecture}`;
  if (present.length === 0) {
    return toFaults([error(["spec", "image", "architecture"], `${store} is empty; that version is there for another architecture only`)]);
  }
  const cniArchive = network.cni === "canal" ? imageArchive("", image.architecture) : imageArchive(network.cni, image.architecture);
  return toFaults([
    ...rulesOfChannel(file, version),
    ...missing.map((name): Finding => {
      const lacks = `${name} is missing in ${store}`;
      if (name === needed.checksums) return error(path, `${lacks}: without it no download could be verified`);
      if (name === needed.bundle) return error(path, `${lacks}: it is RKE2 itself`);
      if (name === cniArchive) return error(["spec", "network", "cni"], `${network.cni} needs its image set: ${lacks}`);
      if (name === imageArchive("core", image.architecture)) return error(path, `${lacks}: every node needs these images`);
      if (name === imageArchive("multus", image.architecture) && network.multus) return error(["spec", "network", "multus"], lacks);
      if (name === imageArchive(rke2.ingress, image.architecture)) return error(["spec", "rke2", "ingress"], lacks);
      const index = airGap.imageSets.findIndex((set) => imageArchive(set, image.architecture) === name);
      return error(["spec", "airGap", "imageSets", ...(index < 0 ? [] : [index])], lacks);
    }),
  ]);
}

/** What the rules say only now, when the channel has become a version: keys, image sets and lines of support that depend on it. */
function rulesOfChannel(file: ClusterFile, version: string): Finding[] {
  if (file.spec.version !== undefined) return [];
  const { channel, ...spec } = file.spec;
  const said = new Set(rules(file).map(({ path, message }) => `${formatPath(path)} ${message}`));
  return rules({ ...file, spec: { ...spec, version } })
    .filter(({ path, message }) => !said.has(`${formatPath(path)} ${message}`))
    .map((finding) => (formatPath(finding.path) === "spec.version" ? { ...finding, path: ["spec", "channel"] } : finding));
}

export interface AccountFacts {
  readonly file: ClusterFile;
  /** The image as resolved; undefined when there is none of this id or parameter. */
  readonly image?: { readonly architecture: "x86_64" | "arm64"; readonly id: string; readonly rootDeviceName: string } | undefined;
  /** Those of the file's instance types that the region has. Architectures in EC2's words. */
  readonly instanceTypes: ReadonlyMap<string, { readonly architectures: readonly string[]; readonly vcpus: number; readonly memoryMib: number }>;
  /** Those of the file's subnets that exist. */
  readonly subnets: readonly {
    readonly id: string;
    readonly vpcId: string;
    readonly zone: string;
    readonly cidr: string;
    readonly freeAddresses: number;
  }[];
  readonly vpcCidrs?: readonly string[] | undefined;
}

/** Whether the account has what the file names, and whether the parts fit each other. */
export function checkAgainstAccount(facts: AccountFacts): Fault[] {
  return toFaults([...accountImageRules(facts), ...accountTypeRules(facts), ...accountSubnetRules(facts), ...accountNetworkRules(facts)]);
}

const ec2Architecture: Readonly<Record<Architecture, "x86_64" | "arm64">> = { amd64: "x86_64", arm64: "arm64" };

function accountImageRules({ file, image }: AccountFacts): Finding[] {
  const { id, ssmParameter, architecture } = file.spec.image;
  const path: Path = ["spec", "image", id === undefined ? "ssmParameter" : "id"];
  if (image === undefined) {
    const what = id === undefined ? `names no image in this region: ${ssmParameter}` : `is no image that this account sees in this region: ${id}`;
    return [error(path, what)];
  }
  if (image.architecture === ec2Architecture[architecture]) return [];
  return [
    error(["spec", "image", "architecture"], `is ${architecture} (${ec2Architecture[architecture]}), and image ${image.id} is ${image.architecture}`),
  ];
}

/** Least and recommended size of a server, and how many agents a size bears (rke2-docs, requirements and sizing). */
const serverSizes = {
  least: { vcpus: 2, memoryMib: 4096 },
  recommended: { vcpus: 4, memoryMib: 8192 },
  bears: [
    { vcpus: 8, memoryMib: 16384, agents: 1300 },
    { vcpus: 4, memoryMib: 8192, agents: 450 },
    { vcpus: 2, memoryMib: 4096, agents: 225 },
  ],
} as const;

function accountTypeRules({ file, instanceTypes }: AccountFacts): Finding[] {
  const { servers, agentPools, image } = file.spec;
  const agents = agentPools.reduce((sum, pool) => sum + pool.count, 0);
  const wanted = ec2Architecture[image.architecture];
  return instanceTypeLists(servers.instanceTypes, agentPools).flatMap(([types, list]) =>
    types.flatMap((type, index): Finding[] => {
      const at = [...list, index];
      const facts = instanceTypes.get(type);
      if (facts === undefined) return [error(at, `${type} does not exist in this region`)];
      const findings: Finding[] = [];
      if (!facts.architectures.includes(wanted)) {
        findings.push(error(at, `${type} is ${facts.architectures.join(", ")}, and the image is for ${image.architecture} (${wanted})`));
      }
      if (list[1] !== "servers") return findings;
      const isAtLeast = (size: { vcpus: number; memoryMib: number }) => facts.vcpus >= size.vcpus && facts.memoryMib >= size.memoryMib;
      const size = `${type} has ${facts.vcpus} vCPU and ${facts.memoryMib / 1024} GiB`;
      const bears = serverSizes.bears.find(isAtLeast)?.agents ?? 0;
      if (!isAtLeast(serverSizes.least)) findings.push(error(at, `${size}; a server needs at least 2 vCPU and 4 GiB`));
      else if (agents > bears) findings.push(warning(at, `${size}, enough for about ${bears} agents, and the file asks for ${agents}`));
      else if (!isAtLeast(serverSizes.recommended)) findings.push(warning(at, `${size}; 4 vCPU and 8 GiB are recommended for a server`));
      return findings;
    }),
  );
}

/** Addresses that a network load balancer may take in a subnet, besides those of nodes (Elastic Load Balancing user guide, subnets). */
const endpointAddresses = 8;

function accountSubnetRules({ file, subnets }: AccountFacts): Finding[] {
  const { network, servers, agentPools } = file.spec;
  const path: Path = ["spec", "network", "subnetIds"];
  const found = network.subnetIds.map((id) => subnets.find((subnet) => subnet.id === id));
  const findings = found.flatMap((subnet, index): Finding[] => {
    const at = [...path, index];
    const id = network.subnetIds[index] as string;
    if (subnet === undefined) return [error(at, `${id} does not exist in this region`)];
    if (subnet.vpcId !== network.vpcId) return [error(at, `${id} is in ${subnet.vpcId}, not in ${network.vpcId} (spec.network.vpcId)`)];
    if (subnet.freeAddresses < endpointAddresses) {
      return [error(at, `${id} has ${subnet.freeAddresses} free addresses; the endpoint alone needs ${endpointAddresses} there`)];
    }
    return [];
  });
  const there = found.filter((subnet) => subnet !== undefined);
  if (there.length < network.subnetIds.length) return findings;
  const nodes = agentPools.reduce((sum, pool) => sum + pool.count, servers.count as number);
  const free = there.reduce((sum, subnet) => sum + Math.max(0, subnet.freeAddresses - endpointAddresses), 0);
  if (nodes > free) findings.push(error(path, `have ${free} free addresses besides the endpoint's, and the file asks for ${nodes} nodes`));
  const zones = [...new Set(there.map((subnet) => subnet.zone))].sort();
  // One subnet alone is told from the file itself.
  if (servers.count > 1 && zones.length === 1 && there.length > 1) {
    findings.push(warning(path, `are all in ${zones[0]}: when it fails, all ${servers.count} servers fail. Give subnets in three zones`));
  } else if (servers.count > 1 && zones.length === 2) {
    findings.push(warning(path, `are in two zones, ${zones.join(" and ")}: the one with more servers takes etcd's majority with it. Give a third`));
  }
  return findings;
}

function accountNetworkRules({ file, subnets, vpcCidrs }: AccountFacts): Finding[] {
  const { network } = file.spec;
  const taken = [...(vpcCidrs ?? []), ...(vpcCidrs === undefined ? subnets.map((subnet) => subnet.cidr) : [])];
  const fields: [Path, string, string][] = [
    [clusterCidrPath, network.clusterCidr, "pods"],
    [serviceCidrPath, network.serviceCidr, "services"],
  ];
  return fields.flatMap(([path, cidr, what]): Finding[] => {
    const ours = parseNetwork(cidr);
    const hit = taken.filter((other) => {
      const theirs = parseNetwork(other);
      return ours !== undefined && theirs !== undefined && overlaps(ours, theirs);
    });
    if (hit.length === 0) return [];
    return [error(path, `${cidr} overlaps ${hit.join(", ")} of ${network.vpcId}: nodes could not tell ${what} from machines`)];
  });
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Summary

export function isError(fault: Pick<Fault, "severity">): boolean {
  return fault.severity === "error";
}

export function hasErrors(faults: readonly Fault[]): boolean {
  return faults.some(isError);
}

/** How the CLI and the API speak of a list of faults: one headline, and a line for each, errors first. */
export function faultSummary(faults: readonly Fault[]): { headline: string; lines: string[]; errors: Fault[]; warnings: Fault[] } {
  const errors = faults.filter(isError);
  const warnings = faults.filter((fault) => !isError(fault));
  const counts = [counted(errors.length, "error"), counted(warnings.length, "warning")].filter((text) => text !== "");
  return {
    headline: counts.length === 0 ? "no faults" : counts.join(" and "),
    lines: [...errors, ...warnings].map(({ path, message, severity }) => `${severity.padEnd(7)}  ${path === "" ? "" : `${path}: `}${message}`),
    errors,
    warnings,
  };
}

function counted(count: number, noun: string): string {
  return count === 0 ? "" : `${count} ${noun}${count === 1 ? "" : "s"}`;
}
