/** Which ports a cluster's nodes and endpoint open to whom. Ports from the RKE2 documentation, "Requirements, Networking". */
import type { ClusterFile } from "./cluster-file.js";
import { ports } from "./layout.js";

export interface SecurityRule {
  readonly protocol: "tcp" | "udp" | "icmp";
  readonly fromPort: number;
  readonly toPort: number;
  readonly from: { readonly kind: "group"; readonly groupId: string } | { readonly kind: "cidr"; readonly cidr: string };
  readonly purpose: string;
}

interface Opening {
  readonly protocol: SecurityRule["protocol"];
  readonly fromPort: number;
  readonly toPort: number;
  readonly purpose: string;
}

const tcp = (fromPort: number, purpose: string, toPort = fromPort): Opening => ({ protocol: "tcp", fromPort, toPort, purpose });
const udp = (fromPort: number, purpose: string): Opening => ({ protocol: "udp", fromPort, toPort: fromPort, purpose });

const betweenNodes: readonly Opening[] = [
  tcp(ports.supervisor, "RKE2 supervisor"),
  tcp(ports.api, "Kubernetes API"),
  tcp(2379, "etcd clients and peers", 2380),
  tcp(10250, "kubelet"),
];

const byCni: Readonly<Record<ClusterFile["spec"]["network"]["cni"], readonly Opening[]>> = {
  canal: [udp(8472, "Canal VXLAN"), tcp(9099, "Canal health"), udp(51820, "Canal WireGuard")],
  calico: [
    udp(4789, "Calico VXLAN"),
    tcp(179, "Calico BGP"),
    tcp(5473, "Calico Typha"),
    tcp(9098, "Calico Typha health", 9099),
    udp(51820, "Calico WireGuard"),
  ],
  cilium: [
    udp(8472, "Cilium VXLAN"),
    tcp(4240, "Cilium health"),
    { protocol: "icmp", fromPort: 8, toPort: 0, purpose: "Cilium health" },
    udp(51871, "Cilium WireGuard"),
  ],
  flannel: [udp(4789, "Flannel VXLAN")],
  none: [],
};

/** Rules of the nodes' group: nodes among themselves, and the endpoint's load balancer to the two ports it forwards. */
export function nodeRules(file: ClusterFile, nodeGroup: string, endpointGroup: string): SecurityRule[] {
  const embeddedRegistry = file.spec.rke2.config["embedded-registry"] === true ? [tcp(5001, "embedded registry")] : [];
  const nodes = { kind: "group", groupId: nodeGroup } as const;
  const endpoint = { kind: "group", groupId: endpointGroup } as const;
  return [
    ...[...betweenNodes, ...byCni[file.spec.network.cni], ...embeddedRegistry].map((opening) => ({ ...opening, from: nodes })),
    { ...tcp(ports.supervisor, "endpoint to supervisor"), from: endpoint },
    { ...tcp(ports.api, "endpoint to Kubernetes API"), from: endpoint },
  ];
}

/** Rules of the endpoint's group: nodes reach both ports, people the Kubernetes API alone, from the networks the cluster file names. */
export function endpointRules(file: ClusterFile, nodeGroup: string): SecurityRule[] {
  const nodes = { kind: "group", groupId: nodeGroup } as const;
  return [
    { ...tcp(ports.supervisor, "nodes to supervisor"), from: nodes },
    { ...tcp(ports.api, "nodes to Kubernetes API"), from: nodes },
    ...file.spec.network.endpoint.allowedCidrs.map((cidr) => ({ ...tcp(ports.api, "Kubernetes API"), from: { kind: "cidr", cidr } as const })),
  ];
}

/**
 * What a throw-away server may reach; nobody may reach it. TLS alone, because Systems Manager and S3 are behind endpoints in some networks and behind a
 * gateway in others: no port of any cluster is among it.
 */
export function drillRules(): SecurityRule[] {
  return [{ ...tcp(443, "Systems Manager and S3"), from: { kind: "cidr", cidr: "0.0.0.0/0" } }];
}
