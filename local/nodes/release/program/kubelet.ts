/**
 * The kubelet's part: static pods, the Node object and its heartbeat, mirror pods, and commands run in pods.
 *
 * It ends with the service, as RKE2's own does; what runs in pods goes on, and the node's lease runs out.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { arch, release } from "node:os";
import type { TLSSocket } from "node:tls";
import { type Api, type KubeObject, setCondition } from "./api.js";
import type { Config, Identity } from "./config.js";
import { etcdctl } from "./etcd.js";
import { agent, at, every, everyAddress, fatal, pause, read, reasonOf, say, version } from "./host.js";
import { isRunning, podStates, syncPods } from "./pods.js";

export interface KubeletOptions {
  readonly identity: Identity;
  readonly role: "server" | "agent";
  readonly config: Config;
  readonly api: Api;
  /** CNI of the cluster: with `none` the node is never ready, as long as nobody installs one. */
  readonly cni: () => string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly finalizers?: readonly string[];
}

/** Starts the loop that keeps the static pods; it needs no API. */
export function keepPods({ name }: Identity): void {
  void every(1, "Failed to sync static pods", () => syncPods(name));
}

/** Registers the node and keeps telling that it lives. Ends the process only for a port that is taken. */
export async function runKubelet(options: KubeletOptions): Promise<void> {
  serveExec(options.identity);
  let registered = false;
  while (!registered) {
    try {
      await register(options);
      registered = true;
    } catch (error) {
      say("info", `Waiting for the node to be registered: ${reasonOf(error)}`);
      await pause(2);
    }
  }
  void every(10, "Failed to renew the node's lease", () => heartbeat(options));
}

const nodePath = (name: string) => `/api/v1/nodes/${name}`;

async function register(options: KubeletOptions): Promise<void> {
  const { api, identity, config, annotations = {}, finalizers = [] } = options;
  const labels = {
    "kubernetes.io/hostname": identity.name,
    "kubernetes.io/os": "linux",
    "kubernetes.io/arch": arch() === "arm64" ? "arm64" : "amd64",
    "node.kubernetes.io/instance-type": "rke2",
    ...Object.fromEntries(config.list("node-label").map((label) => splitAt(label, "="))),
  };
  const present = await api.find(nodePath(identity.name));
  const node: KubeObject = {
    metadata: { name: identity.name, labels, annotations: { ...annotations }, finalizers: [...finalizers] },
    spec: { providerID: `rke2://${identity.name}`, taints: config.list("node-taint").map(readTaint) },
    status: statusOf(identity),
  };
  if (present === undefined) {
    setCondition(node, {
      type: "Ready",
      status: "False",
      reason: "KubeletNotReady",
      message: "container runtime network not ready: cni plugin not initialized",
    });
    await api.call("POST", "/api/v1/nodes", node);
    say("info", `Successfully registered node ${identity.name}`);
    await pause(2); // the CNI's pod brings the network
  }
  await api.change(nodePath(identity.name), (object) => {
    object.metadata.labels = { ...object.metadata.labels, ...labels };
    object.metadata.annotations = { ...object.metadata.annotations, ...annotations };
    object.metadata.finalizers = [...new Set([...(object.metadata.finalizers ?? []), ...finalizers])];
    object.status = { ...object.status, ...statusOf(identity) };
    return true;
  });
  await heartbeat(options);
}

const splitAt = (text: string, separator: string): [string, string] => {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + separator.length)];
};

function readTaint(text: string): { key: string; value?: string; effect: string } {
  const [left, effect] = splitAt(text, ":");
  const [key, value] = splitAt(left, "=");
  return { key, ...(value !== "" && { value }), effect };
}

const statusOf = (identity: Identity) => ({
  addresses: [
    { type: "InternalIP", address: identity.address },
    { type: "Hostname", address: identity.name },
  ],
  nodeInfo: {
    kubeletVersion: version,
    kubeProxyVersion: version,
    kernelVersion: release(),
    operatingSystem: "linux",
    osImage: "stand-in",
    containerRuntimeVersion: "stand-in://1",
  },
});

let lost = false;

/** A node that was deleted stays deleted: a kubelet registers when it starts, and then never again. */
async function heartbeat({ api, identity, cni, role }: KubeletOptions): Promise<void> {
  const node = await api.find(nodePath(identity.name));
  if (node === undefined) {
    if (!lost) say("error", `Error updating node status, will retry: nodes "${identity.name}" not found`);
    lost = true;
    return;
  }
  lost = false;
  await api.change(nodePath(identity.name), (object) =>
    cni() === "none"
      ? false
      : setCondition(object, { type: "Ready", status: "True", reason: "KubeletReady", message: "kubelet is posting ready status" }),
  );
  const lease = { metadata: { name: identity.name }, spec: { holderIdentity: identity.name, renewTime: new Date().toISOString() } };
  await api.apply("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease);
  for (const pod of mirrorPods(identity, role, cni())) await api.apply("/api/v1/namespaces/kube-system/pods", pod);
}

/** Static pods as the API shows them. Those without a process of their own here run whenever the node does. */
function mirrorPods({ name, address }: Identity, role: "server" | "agent", cni: string): KubeObject[] {
  const states = podStates();
  const pretended = [
    "kube-proxy",
    ...(cni === "none" ? [] : [`rke2-${cni}`]),
    ...(role === "server" ? ["kube-controller-manager", "kube-scheduler", "cloud-controller-manager"] : []),
  ];
  const pod = (component: string, running: boolean, restarts: number): KubeObject => {
    const daemon = component.startsWith("rke2-");
    const suffix = daemon ? createHash("sha256").update(name).digest("hex").slice(0, 5) : name;
    return {
      metadata: { name: `${component}-${suffix}`, labels: { component, tier: "control-plane" } },
      spec: { nodeName: name, hostNetwork: true, containers: [{ name: component }] },
      status: {
        phase: running ? "Running" : "Pending",
        hostIP: address,
        podIP: address,
        conditions: [{ type: "Ready", status: running ? "True" : "False" }],
        containerStatuses: [{ name: component, ready: running, restartCount: restarts }],
      },
    };
  };
  return [...states.map((state) => pod(state.name, state.running, state.restarts)), ...pretended.map((component) => pod(component, true, 0))];
}

/** The kubelet's port: runs a command in a pod, for the API server alone. */
function serveExec({ name }: Identity): void {
  const listener = createServer(
    {
      cert: readFileSync(agent("serving-kubelet.crt")),
      key: readFileSync(agent("serving-kubelet.key")),
      ca: readFileSync(agent("client-ca.crt")),
      requestCert: true,
      rejectUnauthorized: false,
    },
    async (asked, answer) => {
      const socket = asked.socket as TLSSocket;
      const isAdmin = socket.authorized && [socket.getPeerCertificate().subject?.O ?? []].flat().includes("system:masters");
      if (!isAdmin) return answer.writeHead(401).end("Unauthorized");
      if (asked.url === "/healthz") return answer.end("ok");
      const pod = /^\/exec\/kube-system\/(.+)$/.exec(asked.url ?? "")?.[1];
      let body = "";
      for await (const chunk of asked) body += chunk;
      const ran = await runInPod(name, pod ?? "", JSON.parse(body || "[]") as string[]);
      answer.end(JSON.stringify(ran));
    },
  );
  listener.on("error", (error: NodeJS.ErrnoException) => fatal(listenFailure(error, 10250)));
  listener.listen(10250, everyAddress);
}

export function listenFailure(error: NodeJS.ErrnoException, port: number): string {
  return error.code === "EADDRINUSE" ? `listen tcp 0.0.0.0:${port}: bind: address already in use` : reasonOf(error);
}

export async function runInPod(node: string, pod: string, command: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const refused = (stderr: string) => ({ status: 1, stdout: "", stderr: `${stderr}\n` });
  if (pod !== `etcd-${node}`) return refused("error: the stand-in runs commands in the etcd pod alone");
  if (!isRunning("etcd")) return refused('error: unable to upgrade connection: container not found ("etcd")');
  if (command[0] !== "etcdctl") return refused(`error: exec: "${command[0]}": executable file not found in $PATH`);
  return etcdctl(command.slice(1));
}

/** What the machine itself must offer. */
export function checkMachine(config: Config, role: "server" | "agent"): void {
  const unified = read(at("/sys/fs/cgroup/cgroup.controllers"));
  const hasPids = unified === undefined ? /^pids\s.*\s1$/m.test(read(at("/proc/cgroups")) ?? "pids 0 0 1") : unified.split(/\s/).includes("pids");
  if (!hasPids) fatal("pids cgroup controller not found");
  if (new Date().getUTCFullYear() < 1980) fatal("server time isn't set properly");
  const profile = config.text("profile");
  if (profile === undefined || profile === "") return;
  if (!["cis", "etcd"].includes(profile)) fatal("invalid value provided for --profile flag");
  if (role === "server") {
    for (const [file, what] of [
      ["/etc/passwd", "user"],
      ["/etc/group", "group"],
    ] as const) {
      if (!/^etcd:/m.test(read(at(file)) ?? "")) fatal(`missing required: ${what}: unknown ${what} etcd`);
    }
  }
  if (profile !== "cis") return;
  for (const [name, expected] of [
    ["vm.overcommit_memory", "1"],
    ["vm.panic_on_oom", "0"],
    ["kernel.panic", "10"],
    ["kernel.panic_on_oops", "1"],
  ] as const) {
    const found = read(at(`/proc/sys/${name.replaceAll(".", "/")}`))?.trim();
    if (found !== undefined && found !== expected) fatal(`invalid kernel parameter value ${name}=${found} - expected ${expected}`);
  }
}
