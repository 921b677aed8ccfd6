/**
 * RKE2's configuration files for the nodes of one cluster.
 *
 * All servers get one and the same config.yaml, the agents of a pool likewise: keys that must be equal on all servers are so because there is only one
 * text. What differs by node (`node-name`, `node-ip`) or by moment (`server`) is written beside it as drop-ins by the node's own script, and secrets
 * arrive as files that config.yaml names. So no text made here is secret.
 */
import { stringify } from "yaml";
import type { AgentPool, ClusterFile, ConfigValue } from "./cluster-file.js";
import { type Fault, Invalid } from "./failures.js";
import { nodePaths } from "./node-commands.js";
import { rke2Keys } from "./rke2-keys.js";

/** Files the start commands bring, mode 0600. Servers have both, agents the first, which then holds the agent token. */
export const tokenPaths = { token: "/etc/rancher/rke2/drover-token", agentToken: "/etc/rancher/rke2/drover-agent-token" } as const;

/** Label of every node, with the name of its pool. */
export const poolLabel = "drover.dev/pool";

export interface RenderedConfigs {
  /** config.yaml of every server. */
  readonly server: string;
  /** config.yaml of the agents, by pool. */
  readonly agents: Readonly<Record<string, string>>;
  /** registries.yaml of every node. */
  readonly registries?: string;
  /** Pod Security Admission file of every server. */
  readonly podSecurity?: string;
  /** Files for the manifests directory of every server, by name. All servers must hold the same (rke2-docs, packaged components). */
  readonly manifests: Readonly<Record<string, string>>;
}

export interface RenderInput {
  readonly file: ClusterFile;
  /** Resolved RKE2 version. */
  readonly version: string;
  /** DNS name of the load balancer: in the certificate of every server from its first start, else joins through it would fail. */
  readonly endpointDns: string;
  readonly uid: string;
}

type Config = Readonly<Record<string, ConfigValue>>;

/** @throws Invalid when a key would reach a node that does not know it: RKE2 would skip it with a warning */
export function renderConfigs({ file, version, endpointDns, uid }: RenderInput): RenderedConfigs {
  const { rke2, security, agentPools } = file.spec;
  const heading = `Cluster ${file.metadata.name} (${uid}), RKE2 ${version}. Written by Drover: a change here is overwritten.`;
  const server = serverConfig(file, endpointDns);
  refuseUnknownKeys(server, "server");
  const agents = agentPools.map((pool): [string, string] => {
    const config = agentConfig(file, pool);
    refuseUnknownKeys(config, "agent");
    return [pool.name, renderYaml(config, heading)];
  });
  return {
    server: renderYaml(server, heading),
    agents: Object.fromEntries(agents),
    ...(Object.keys(rke2.registries).length > 0 && { registries: renderYaml(rke2.registries, heading) }),
    ...(security.podSecurity === "restricted" && { podSecurity: renderYaml(restrictedPods(file), heading) }),
    manifests: Object.fromEntries(Object.entries(rke2.manifests).map(([name, text]) => [name, text.endsWith("\n") ? text : `${text}\n`])),
  };
}

function serverConfig(file: ClusterFile, endpointDns: string): Config {
  const { network, rke2, security, servers, airGap } = file.spec;
  return {
    ...rke2.config,
    ...bothRoles(file),
    "agent-token-file": tokenPaths.agentToken,
    "tls-san": [...new Set([endpointDns, ...rke2.tlsSan])],
    cni: network.multus ? ["multus", network.cni] : [network.cni],
    "cluster-cidr": network.clusterCidr,
    "service-cidr": network.serviceCidr,
    "secrets-encryption-provider": security.secretsEncryptionProvider,
    ...(rke2.ingress !== "default" && { "ingress-controller": [rke2.ingress] }),
    // It reports to upstream from a CronJob: in a network without a way out it only fails. Without effect on releases that have none.
    ...list("disable", [...rke2.disable, ...(airGap.enabled ? ["rke2-security-responder"] : [])]),
    ...(security.podSecurity === "restricted" && { "pod-security-admission-config-file": nodePaths.podSecurity }),
    "node-label": [`${poolLabel}=server`],
    ...list("node-taint", servers.taints),
    ...list("kubelet-arg", rke2.kubeletArgs),
  };
}

function agentConfig(file: ClusterFile, pool: AgentPool): Config {
  const { rke2 } = file.spec;
  const shared = Object.entries(rke2.config).filter(([name]) => rke2Keys.get(name)?.command !== "server");
  return {
    ...Object.fromEntries(shared),
    ...pool.config,
    ...bothRoles(file),
    "node-label": [`${poolLabel}=${pool.name}`, ...Object.entries(pool.labels).map(([name, value]) => `${name}=${value}`)],
    ...list("node-taint", pool.taints),
    ...list("kubelet-arg", mergeArguments(rke2.kubeletArgs, pool.kubeletArgs ?? [])),
  };
}

function bothRoles({ spec: { security } }: ClusterFile): Config {
  return {
    "token-file": tokenPaths.token,
    ...(security.profile !== "none" && { profile: security.profile }),
    ...(security.selinux && { selinux: true }),
  };
}

/** A pool's argument replaces the cluster's of the same name: given twice, the kubelet would take the last of them anyway, unseen. */
function mergeArguments(common: readonly string[], own: readonly string[]): string[] {
  const nameOf = (argument: string) => argument.slice(0, argument.indexOf("="));
  const replaced = new Set(own.map(nameOf));
  return [...common.filter((argument) => !replaced.has(nameOf(argument))), ...own];
}

/** A key with an empty list is left out: RKE2's own default then holds. */
function list(name: string, items: readonly string[]): Config {
  return items.length === 0 ? {} : { [name]: [...new Set(items)] };
}

/**
 * Strings are always quoted: RKE2 reads YAML 1.1, where a plain `on` or `0777` is something else than in YAML 1.2. Keys are sorted, so that equal
 * wishes give equal files and a changed file shows just the change.
 */
function renderYaml(content: Readonly<Record<string, unknown>>, heading: string): string {
  const body = stringify(content, {
    defaultStringType: "QUOTE_DOUBLE",
    defaultKeyType: "PLAIN",
    lineWidth: 0,
    sortMapEntries: true,
    aliasDuplicateObjects: false,
  });
  return `# ${heading}\n${body}`;
}

function refuseUnknownKeys(config: Config, role: "server" | "agent"): void {
  const faults = Object.keys(config).flatMap((name): Fault[] => {
    const key = rke2Keys.get(name);
    if (key !== undefined && (role === "server" || key.command === "both")) return [];
    const message = key === undefined ? `RKE2 has no key ${name}` : `${name} is a key of servers only`;
    return [{ path: `config.yaml of ${role === "server" ? "servers" : "agents"}`, message, severity: "error" }];
  });
  if (faults.length > 0) throw new Invalid("RKE2 would start without a part of its configuration", faults, "Correct the cluster file");
}

/**
 * Values that must be equal on all servers, as RKE2 would read them: the key list's defaults where a configuration says nothing.
 * Compared before a server joins, because RKE2 compares only some of them and only then.
 */
export function criticalValues(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    [...rke2Keys.values()].filter((key) => key.critical).map((key) => [key.name, normal(config[key.name] ?? key.default, key.type)]),
  );
}

/** Names of the critical keys in which two servers' configurations differ. */
export function criticalMismatches(a: Readonly<Record<string, unknown>>, b: Readonly<Record<string, unknown>>): string[] {
  const [left, right] = [criticalValues(a), criticalValues(b)];
  return Object.keys(left).filter((name) => JSON.stringify(left[name]) !== JSON.stringify(right[name]));
}

/** RKE2 takes one value for a list of one, and commas between values. */
function normal(value: unknown, type: string): unknown {
  if (type !== "list") return value ?? null;
  return [value].flat().flatMap((item) => String(item).split(","));
}

/** The restricted standard for all namespaces but those whose pods are the node's own plumbing (Kubernetes, Pod Security Admission). */
function restrictedPods({ spec }: ClusterFile) {
  const standard = {
    enforce: "restricted",
    "enforce-version": "latest",
    audit: "restricted",
    "audit-version": "latest",
    warn: "restricted",
    "warn-version": "latest",
  };
  const namespaces = ["kube-system", ...(spec.network.cni === "calico" ? ["calico-apiserver", "calico-system", "tigera-operator"] : [])];
  return {
    apiVersion: "apiserver.config.k8s.io/v1",
    kind: "AdmissionConfiguration",
    plugins: [
      {
        name: "PodSecurity",
        configuration: {
          apiVersion: "pod-security.admission.config.k8s.io/v1",
          kind: "PodSecurityConfiguration",
          defaults: standard,
          exemptions: { usernames: [], runtimeClasses: [], namespaces },
        },
      },
    ],
  };
}

/** Why a text cannot be a server or agent token, or undefined when it can. It never repeats the text. */
export function checkPassword(password: string): string | undefined {
  if (!/^[A-Za-z0-9]*$/.test(password)) {
    // A colon splits a full token, and `abcdef.0123456789abcdef` is read as a kubeadm bootstrap token.
    return "a token may hold letters and digits only";
  }
  if (password.length < 32 || password.length > 64) return `a token must have 32 to 64 characters, this one has ${password.length}`;
  if (password.startsWith("K10")) return "a token must not start with K10, which marks the full form";
  return undefined;
}

/**
 * The full form of a token: with it a joining node checks the cluster's CA before it sends the password; with the password alone it would trust
 * whoever answers.
 *
 * @param caHash SHA-256 of the cluster's CA bundle, 64 hexadecimal digits
 * @param user   `server` joins servers, `node` agents alone
 */
export function fullToken(caHash: string, user: "server" | "node", password: string): string {
  const fault = /^[0-9a-f]{64}$/.test(caHash) ? checkPassword(password) : "the CA hash must be 64 lower-case hexadecimal digits";
  if (fault !== undefined) throw new Invalid(`Cannot make a token: ${fault}`, [], "Read the CA hash and the token again");
  return `K10${caHash}::${user}:${password}`;
}
