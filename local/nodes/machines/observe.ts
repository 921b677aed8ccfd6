/**
 * What the clusters on the machines really are: asked of etcd and of the API on every server, whatever Drover believes.
 *
 * A cluster is told from another by its CA, which lies on the disk of a server before anything answers: a second bootstrap is seen at once.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ObservedCluster, ObservedMember, ObservedNode } from "../contract.js";

/** A machine that may be a server. */
export interface Observable {
  readonly instanceId: string;
  readonly address: string;
  readonly root: string;
  readonly isOnline: boolean;
  run(program: readonly string[]): Promise<{ readonly status: number; readonly stdout: string }>;
}

/** One server's answer. */
interface Sight {
  readonly instanceId: string;
  readonly caHash: string;
  readonly members: readonly { readonly name: string; readonly address: string; readonly voter: boolean }[];
  /** Whether its own etcd process is well, and whether it can read through the majority. */
  readonly healthy: boolean;
  readonly quorum: boolean;
  readonly uid: string;
  readonly nodes: readonly Omit<ObservedNode, "instanceId">[] | undefined;
  readonly addresses: ReadonlyMap<string, string>;
  readonly podsPending: number | undefined;
}

const etcdData = "var/lib/rancher/rke2/server/db/etcd/member";
const separator = "\u001e";

/** etcd's API in JSON is on 2382 where RKE2 keeps HTTP from gRPC, else on 2379. Every question ends. */
const script = `
server=/var/lib/rancher/rke2/server
ask() {
  for port in 2382 2379; do
    curl --silent --fail --max-time 4 --cacert "$server/tls/etcd/server-ca.crt" --cert "$server/tls/etcd/server-client.crt" \\
      --key "$server/tls/etcd/server-client.key" --request POST --data "$2" "https://127.0.0.1:$port/v3/$1" && return
  done
}
kube() {
  timeout 8 /var/lib/rancher/rke2/bin/kubectl --kubeconfig /etc/rancher/rke2/rke2.yaml --request-timeout=5s get "$@" 2>/dev/null
}
next() { printf '\\036'; }
sha256sum <"$server/tls/server-ca.crt" 2>/dev/null; next
ask cluster/member/list '{}'; next
ask kv/range '{"key":"AA==","limit":"1","keys_only":true}'; next
curl --silent --max-time 4 'http://127.0.0.1:2381/health?serializable=true'; next
kube namespace kube-system --output='jsonpath={.metadata.uid}'; next
kube nodes --output=json; next
kube pods --all-namespaces --output='jsonpath={range .items[*]}{.status.phase}{"\\n"}{end}' && echo end; next
`;

export class Observer {
  readonly #clusters = new Map<string, ObservedCluster>();
  revision = 0;

  get clusters(): readonly ObservedCluster[] {
    return [...this.#clusters.values()];
  }

  /** Whether any machine is worth asking, or a cluster is known whose machines may be gone by now. */
  hasWork(machines: readonly Observable[]): boolean {
    return this.#clusters.size > 0 || machines.some(isServer);
  }

  /** Asks every server. `instanceAt` knows the machines that are gone too. */
  async look(machines: readonly Observable[], instanceAt: (address: string) => string | undefined, now: () => number): Promise<void> {
    const asked = machines.filter((machine) => machine.isOnline && isServer(machine));
    const sights = (await Promise.all(asked.map(see))).filter((sight) => sight !== undefined);
    for (const caHash of new Set([...this.#clusters.keys(), ...sights.map((sight) => sight.caHash)])) {
      const seen = merge(
        caHash,
        sights.filter((sight) => sight.caHash === caHash),
        this.#clusters.get(caHash),
        instanceAt,
        now(),
      );
      if (seen === undefined || JSON.stringify(seen) === JSON.stringify(this.#clusters.get(caHash))) continue;
      this.#clusters.set(caHash, seen);
      this.revision++;
    }
  }
}

const isServer = (machine: Observable) => existsSync(join(machine.root, etcdData));

async function see(machine: Observable): Promise<Sight | undefined> {
  let stdout: string;
  try {
    ({ stdout } = await machine.run(["sh", "-c", script]));
  } catch {
    // It went down meanwhile.
    return undefined;
  }
  const [ca = "", members = "", range = "", health = "", uid = "", nodes = "", pods = ""] = stdout.split(separator).map((part) => part.trim());
  const [caHash = ""] = ca.split(" ");
  if (!/^[0-9a-f]{64}$/.test(caHash)) return undefined;
  const listed = parse<{ members?: { name?: string; peerURLs?: string[]; isLearner?: boolean }[] }>(members);
  const objects = parse<{ items?: NodeObject[] }>(nodes)?.items;
  return {
    instanceId: machine.instanceId,
    caHash,
    members: (listed?.members ?? []).map((member) => ({
      name: member.name ?? "",
      address: /\/\/([\d.]+):/.exec(member.peerURLs?.[0] ?? "")?.[1] ?? "",
      voter: member.isLearner !== true,
    })),
    healthy: /"health":\s*"true"/.test(health),
    quorum: parse<{ header?: unknown }>(range)?.header !== undefined,
    uid,
    nodes: objects?.map((object) => ({
      name: object.metadata.name,
      role: object.metadata.labels?.["node-role.kubernetes.io/control-plane"] === "true" ? "server" : "agent",
      ready: object.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false,
      version: object.status?.nodeInfo?.kubeletVersion ?? "",
    })),
    addresses: new Map(
      (objects ?? []).map((object) => [object.metadata.name, object.status?.addresses?.find(({ type }) => type === "InternalIP")?.address ?? ""]),
    ),
    podsPending: pods.endsWith("end") ? pods.split("\n").filter((phase) => phase === "Pending").length : undefined,
  };
}

interface NodeObject {
  readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> };
  readonly status?: {
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly addresses?: readonly { readonly type: string; readonly address: string }[];
    readonly nodeInfo?: { readonly kubeletVersion?: string };
  };
}

/** The answers of the servers of one cluster, that of a majority first; what nobody answers stays as it was last seen. */
function merge(
  caHash: string,
  sights: readonly Sight[],
  before: ObservedCluster | undefined,
  instanceAt: (address: string) => string | undefined,
  now: number,
): ObservedCluster | undefined {
  const ordered = [...sights].sort((a, b) => Number(b.quorum) - Number(a.quorum) || b.members.length - a.members.length);
  const answer = ordered.find((sight) => sight.members.length > 0);
  const healthy = new Set(sights.filter((sight) => sight.healthy).map((sight) => sight.instanceId));
  const listed: readonly Omit<ObservedMember, "healthy">[] =
    answer?.members.map((member) => ({
      instanceId: instanceAt(member.address) ?? "",
      // etcd's name of a member is the node's, a hyphen, and eight characters.
      nodeName: member.name.replace(/-[0-9a-f]{8}$/, ""),
      address: member.address,
      voter: member.voter,
    })) ??
    before?.members ??
    [];
  if (listed.length === 0) return before;
  const withApi = ordered.find((sight) => sight.nodes !== undefined);
  return {
    id: ordered.map((sight) => sight.uid).find((uid) => uid !== "") ?? before?.id ?? caHash,
    caHash,
    bootstrappedBy: before?.bootstrappedBy ?? listed[0]?.instanceId ?? "",
    bootstrappedAtMs: before?.bootstrappedAtMs ?? now,
    members: listed.map((member) => ({ ...member, healthy: healthy.has(member.instanceId) })),
    nodes:
      withApi?.nodes?.map((node) => ({ ...node, instanceId: instanceAt(withApi.addresses.get(node.name) ?? "") ?? "" })) ??
      (before?.nodes ?? []).map((node) => ({ ...node, ready: sights.length > 0 && node.ready })),
    hasQuorum: sights.some((sight) => sight.quorum),
    podsPending: ordered.map((sight) => sight.podsPending).find((count) => count !== undefined) ?? before?.podsPending ?? 0,
  };
}

function parse<T>(text: string): T | undefined {
  try {
    return text === "" ? undefined : (JSON.parse(text) as T);
  } catch {
    return undefined;
  }
}
