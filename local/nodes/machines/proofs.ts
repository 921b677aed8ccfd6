/** What can be seen of a cluster on machines without asking Drover: by etcd, through the load balancer, on this computer. */
import { request } from "node:https";
import { parse as parseYaml } from "yaml";
import type { MachineCloud, MachineDriver } from "./driver.js";
import { linksOf, tracesOf } from "./traces.js";

export interface EtcdMember {
  /** As etcdctl shows it, in hexadecimal. */
  readonly id: string;
  readonly name: string;
  readonly peer: string;
  readonly kind: "voter" | "learner";
}

export interface EtcdList {
  /** Of the server that was asked. */
  readonly version: string;
  readonly members: readonly EtcdMember[];
}

const tls = "/var/lib/rancher/rke2/server/tls/etcd";
const etcdctl = [
  "env",
  "ETCDCTL_API=3",
  "etcdctl",
  "--endpoints=https://127.0.0.1:2379",
  `--cacert=${tls}/server-ca.crt`,
  `--cert=${tls}/server-client.crt`,
  `--key=${tls}/server-client.key`,
];

/** Asks etcd on a server for its members, with etcd's own client. */
export async function etcdMembers(driver: Pick<MachineDriver, "exec">, instanceId: string): Promise<EtcdList> {
  const ask = async (...words: readonly string[]) => {
    const { status, stdout, stderr } = await driver.exec(instanceId, [...etcdctl, ...words]);
    if (status !== 0) throw new Error(`etcdctl ${words.join(" ")} on ${instanceId} ended with status ${status}: ${stderr.trim()}`);
    return stdout.trim();
  };
  // `id, status, name, peer addresses, client addresses, is a learner`
  const members = (await ask("member", "list")).split("\n").map((line): EtcdMember => {
    const [id = "", , name = "", peer = "", , learner] = line.split(", ");
    return { id, name, peer, kind: learner === "false" ? "voter" : "learner" };
  });
  const [status] = JSON.parse(await ask("endpoint", "status", "--write-out=json")) as { Status?: { version?: string } }[];
  return { version: status?.Status?.version ?? "", members: members.sort((a, b) => a.name.localeCompare(b.name)) };
}

export interface ApiProof {
  readonly url: string;
  /** With the client certificate of the kubeconfig, and without any. */
  readonly status: number;
  readonly statusWithoutCertificate: number;
  readonly nodes: readonly { readonly name: string; readonly ready: boolean }[];
}

interface Kubeconfig {
  readonly clusters: readonly { readonly cluster: { readonly server: string; readonly "certificate-authority-data": string } }[];
  readonly users: readonly { readonly user: { readonly "client-certificate-data": string; readonly "client-key-data": string } }[];
}

const answerWithinMilliseconds = 10_000;

/** Asks the API for its nodes with a kubeconfig: its address, its CA, its client certificate. The name is the load balancer's, and is verified. */
export async function askThroughEndpoint(cloud: Pick<MachineCloud, "door">, kubeconfig: string): Promise<ApiProof> {
  const { clusters, users } = parseYaml(kubeconfig) as Kubeconfig;
  const [{ cluster } = { cluster: undefined }] = clusters;
  const [{ user } = { user: undefined }] = users;
  if (cluster === undefined || user === undefined) throw new Error("the kubeconfig names no cluster or no user");
  const url = new URL("/api/v1/nodes", cluster.server);
  const port = await cloud.door(url.hostname, Number(url.port));
  const decoded = (text: string) => Buffer.from(text, "base64");
  const credentials = { cert: decoded(user["client-certificate-data"]), key: decoded(user["client-key-data"]) };
  const ask = (more: Partial<typeof credentials>) =>
    new Promise<{ status: number; body: string }>((resolve, reject) => {
      const ca = decoded(cluster["certificate-authority-data"]);
      const asking = request({ host: "127.0.0.1", port, servername: url.hostname, path: url.pathname, ca, agent: false, ...more }, (response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
        response.once("end", () => resolve({ status: response.statusCode ?? 0, body }));
        response.once("error", reject);
      });
      asking.setTimeout(answerWithinMilliseconds, () => asking.destroy(new Error(`no answer within ${answerWithinMilliseconds / 1000} s`)));
      asking.once("error", (error) => reject(new Error(`${url.href} through the load balancer: ${error.message}`)));
      asking.end();
    });
  const [answer, stranger] = [await ask(credentials), await ask({})];
  return {
    url: url.href,
    status: answer.status,
    statusWithoutCertificate: stranger.status,
    nodes: answer.status === 200 ? nodesIn(answer.body) : [],
  };
}

interface NodeList {
  readonly items: readonly {
    readonly metadata: { readonly name: string };
    readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
  }[];
}

function nodesIn(body: string): ApiProof["nodes"] {
  return (JSON.parse(body) as NodeList).items
    .map(({ metadata, status }) => ({
      name: metadata.name,
      ready: status?.conditions?.some((condition) => condition.type === "Ready" && condition.status === "True") === true,
    }))
    .sort((a, b) => a.name.localeCompare(b.name));
}

/** What a cloud has on this computer, by kind. */
export type ComputerCounts = Readonly<Record<(typeof traceKinds)[number] | "network links", number>>;
const traceKinds = ["machines", "processes", "mounts", "network namespaces", "cgroups", "folders"] as const;

export function computerCounts(cloud: string): ComputerCounts {
  const traces = tracesOf(cloud);
  const starting = (word: string) => traces.filter((trace) => trace.startsWith(`${word} `)).length;
  // A machine is a folder of its cloud that is named as its instance.
  const machines = new Set(traces.map((trace) => new RegExp(`^folder \\S+/${cloud}/(i-[0-9a-f]+)$`).exec(trace)?.[1]).filter(Boolean)).size;
  return {
    machines,
    processes: starting("process"),
    mounts: starting("mount"),
    "network namespaces": starting("network namespace"),
    "network links": linksOf(cloud).length,
    cgroups: starting("cgroup"),
    folders: starting("folder"),
  };
}
