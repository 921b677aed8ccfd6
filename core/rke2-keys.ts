/**
 * What is known of the keys of RKE2's config.yaml: which exist and for whom, which Drover sets itself, which K3s and RKE1 had and RKE2 has not.
 *
 * RKE2 does not refuse a key it does not know: it logs "Unknown flag" as a warning and starts without it (rancher/rke2 configfilearg), which is how
 * a misspelt `tls-san` or a K3s `cluster-init` goes unnoticed until it hurts. So they are refused here.
 */
import list from "./rke2-config-keys.json" with { type: "json" };

export interface Rke2Key {
  readonly name: string;
  /** `both`: servers and agents. */
  readonly command: "server" | "both";
  readonly type: "string" | "list" | "bool" | "int" | "duration";
  readonly default: unknown;
  /** Must be equal on all servers; `criticalEnforced` when a joining server is refused for it. */
  readonly critical: boolean;
  readonly criticalEnforced: boolean;
  /** First releases that have it, where not all supported ones do. */
  readonly since?: string;
}

export const rke2Keys: ReadonlyMap<string, Rke2Key> = new Map((list as readonly Rke2Key[]).map((key) => [key.name, key]));

/** Keys that K3s, RKE1 or well-meant articles have and RKE2 has not, with what to do instead. */
export const foreignKeys: ReadonlyMap<string, string> = new Map([
  ["cluster-init", "take it out: RKE2 always starts embedded etcd, and Drover decides which server makes the cluster"],
  ["join", "take it out: Drover joins the further servers itself"],
  ["nodes", "take it out: servers and agents are spec.servers and spec.agentPools"],
  ["network", "write spec.network.cni"],
  ["services", "write kube-apiserver-arg, etcd-arg and their like, as lists of name=value"],
  ["system-images", "write system-default-registry or spec.rke2.registries"],
  ["flannel-backend", "choose the network in spec.network.cni; its settings go into a HelmChartConfig in spec.rke2.manifests"],
  ["flannel-iface", "put it into a HelmChartConfig for the CNI in spec.rke2.manifests"],
  ["flannel-conf", "put it into a HelmChartConfig for the CNI in spec.rke2.manifests"],
  ["flannel-cni-conf", "put it into a HelmChartConfig for the CNI in spec.rke2.manifests"],
  ["flannel-ipv6-masq", "put it into a HelmChartConfig for the CNI in spec.rke2.manifests"],
  ["flannel-external-ip", "put it into a HelmChartConfig for the CNI in spec.rke2.manifests"],
  ["vpn-auth", "take it out: RKE2 has no VPN integration"],
  ["vpn-auth-file", "take it out: RKE2 has no VPN integration"],
  ["disable-network-policy", "choose a CNI without policies in spec.network.cni"],
  ["disable-helm-controller", "take it out: RKE2's own components are Helm charts"],
  ["default-local-storage-path", "take it out: RKE2 has no local-path provisioner; bring a storage class in spec.rke2.manifests"],
  ["docker", "take it out: RKE2 runs its own containerd"],
  ["rootless", "take it out: RKE2 runs as root only"],
  ["prefer-bundled-bin", "take it out: RKE2 always uses its own binaries"],
  ["image-service-endpoint", "take it out: RKE2 runs its own containerd"],
  ["disable-apiserver-lb", "take it out: RKE2's agents always balance between the servers"],
  ["kube-controller-arg", "write kube-controller-manager-arg"],
  ["kube-cloud-controller-arg", "write kube-cloud-controller-manager-arg"],
  ["kine-tls", "take it out: Drover's clusters keep their data in embedded etcd"],
  ["https-listen-port", "take it out: RKE2's ports 9345 and 6443 are fixed"],
  ["supervisor-port", "take it out: RKE2's ports 9345 and 6443 are fixed"],
  ["apiserver-port", "take it out: RKE2's ports 9345 and 6443 are fixed"],
  ["advertise-port", "take it out: RKE2's ports 9345 and 6443 are fixed"],
  ["etcd-snapshot-skip-load", "take it out: no such key ever existed; a restore is an operation of Drover"],
]);

const noSecret = "a cluster file holds no secret";
const perNode = "it differs from node to node, and this file is the same for all of them";
const wholeServer = "every server of a Drover cluster runs etcd, the control plane and a kubelet";
const embeddedEtcd = "Drover's clusters keep their data in embedded etcd, which its snapshots and its rules of majority stand on";
const fixedPaths = "Drover's node scripts stand on RKE2's own paths";

/** Keys that are not for `config`, with the reason and the place to write instead. */
export const ownedKeys: ReadonlyMap<string, string> = new Map([
  ["server", "Drover sets it: nodes join the first server and afterwards the endpoint"],
  ["token", `Drover makes the token and keeps it encrypted; ${noSecret}`],
  ["token-file", "Drover sets it: it makes the token and brings it to the nodes"],
  ["agent-token", `Drover makes the token and keeps it encrypted; ${noSecret}`],
  ["agent-token-file", "Drover sets it: it makes the token and brings it to the nodes"],
  ["node-name", "Drover sets it: a node is called after its pool and its instance"],
  ["node-name-from-cloud-provider-metadata", "Drover names the nodes, after pool and instance"],
  ["with-node-id", "Drover names the nodes, after pool and instance"],
  ["node-ip", `Drover sets it: ${perNode}`],
  ["node-external-ip", perNode],
  ["node-internal-dns", perNode],
  ["node-external-dns", perNode],
  ["advertise-address", perNode],
  ["cni", "write it at spec.network.cni (and spec.network.multus)"],
  ["cluster-cidr", "write it at spec.network.clusterCidr"],
  ["service-cidr", "write it at spec.network.serviceCidr"],
  ["tls-san", "write it at spec.rke2.tlsSan"],
  ["disable", "write it at spec.rke2.disable"],
  ["ingress-controller", "write it at spec.rke2.ingress"],
  ["kubelet-arg", "write it at spec.rke2.kubeletArgs, or at kubeletArgs of a pool"],
  ["node-label", "write it at labels of a pool in spec.agentPools"],
  ["node-taint", "write it at spec.servers.taints, or at taints of a pool in spec.agentPools"],
  ["profile", "write it at spec.security.profile"],
  ["selinux", "write it at spec.security.selinux"],
  ["secrets-encryption", "RKE2 always encrypts Secrets; the cipher is spec.security.secretsEncryptionProvider"],
  ["secrets-encryption-provider", "write it at spec.security.secretsEncryptionProvider"],
  ["pod-security-admission-config-file", "write spec.security.podSecurity: restricted; Drover brings the file"],
  ["private-registry", "write the contents at spec.rke2.registries; Drover brings the file"],
  ["config", fixedPaths],
  ["data-dir", fixedPaths],
  ["write-kubeconfig", fixedPaths],
  ["etcd-snapshot-dir", fixedPaths],
  ["disable-agent", wholeServer],
  ["disable-apiserver", wholeServer],
  ["disable-controller-manager", wholeServer],
  ["disable-etcd", wholeServer],
  ["disable-scheduler", wholeServer],
  ["cluster-reset", "a restore is an operation of Drover; left in a file, it would reset etcd at every start"],
  ["cluster-reset-restore-path", "a restore is an operation of Drover; left in a file, it would reset etcd at every start"],
  ["datastore-endpoint", embeddedEtcd],
  ["datastore-cafile", embeddedEtcd],
  ["datastore-certfile", embeddedEtcd],
  ["datastore-keyfile", embeddedEtcd],
  ["etcd-s3-access-key", `${noSecret}; Drover keeps snapshots in S3 by itself, see spec.backup`],
  ["etcd-s3-secret-key", `${noSecret}; Drover keeps snapshots in S3 by itself, see spec.backup`],
  ["etcd-s3-session-token", `${noSecret}; Drover keeps snapshots in S3 by itself, see spec.backup`],
]);

/** Components that `disable` takes out, and the chart names that have their own field in the cluster file. */
export const disableItems = {
  known: [
    "rke2-coredns",
    "rke2-metrics-server",
    "rke2-runtimeclasses",
    "rke2-snapshot-controller",
    "rke2-snapshot-controller-crd",
    "rke2-snapshot-validation-webhook",
    "rke2-security-responder",
  ],
  ingress: ["rke2-ingress-nginx", "rke2-traefik", "rke2-traefik-crd"],
  cni: ["rke2-canal", "rke2-calico", "rke2-calico-crd", "rke2-cilium", "rke2-flannel", "rke2-multus"],
} as const;

/**
 * The name among `names` that a person most likely meant, or undefined when none is near: at most one slip in three letters.
 * Case, underscores and camel case are no slips: `tlsSan` and `TLS_SAN` mean `tls-san`.
 */
export function nearest(word: string, names: Iterable<string>): string | undefined {
  const meant = plain(word);
  let best: { name: string; distance: number } | undefined;
  for (const name of names) {
    const candidate = plain(name);
    const limit = Math.floor(Math.min(meant.length, candidate.length) / 3);
    if (Math.abs(candidate.length - meant.length) > limit) continue;
    const distance = editDistance(meant, candidate);
    if (distance > limit) continue;
    if (best === undefined || distance < best.distance || (distance === best.distance && name < best.name)) best = { name, distance };
  }
  return best?.name;
}

function plain(word: string): string {
  return word
    .replace(/([a-z])([A-Z])/g, "$1-$2")
    .toLowerCase()
    .replace(/[_\s.]+/g, "-");
}

/** Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment). */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let least = Math.min((row[j] as number) + 1, (next[j - 1] as number) + 1, (row[j - 1] as number) + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) least = Math.min(least, (before[j - 2] as number) + 1);
      next.push(least);
    }
    before = row;
    row = next;
  }
  return row[b.length] as number;
}
