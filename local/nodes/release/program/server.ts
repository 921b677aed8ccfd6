/**
 * `rke2 server`: makes a cluster, joins one, or starts a member again. Which of the three is told by two things alone, etcd data on the disk and
 * `server:` in the configuration; a disk without data and a configuration without `server:` always make a new cluster.
 */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { arch } from "node:os";
import { stringify } from "yaml";
import { Api } from "./api.js";
import { caHash } from "./certificates.js";
import { type Config, criticalValues, type Given, type Identity, identify, readConfig, secretOf } from "./config.js";
import { annotations, etcdFinalizer, nodeOf, removedText, runControllers, tombstone, wasRemoved, watchMembership } from "./controllers.js";
import { Etcd, type EtcdTls, type Member } from "./etcd.js";
import {
  agent,
  data,
  etc,
  everyAddress,
  fatal,
  loopback,
  notifyReady,
  pace,
  pause,
  places,
  read,
  reasonOf,
  say,
  server,
  shutDown,
  version,
  write,
} from "./host.js";
import { fileOfImage, imageNames, importImages, requireRuntime } from "./images.js";
import { type Access, ask, type NodeConfig, obtainKubelet, reach } from "./join.js";
import { checkMachine, keepPods, runKubelet } from "./kubelet.js";
import * as pki from "./pki.js";
import { isRunning, placeManifest, stopPods } from "./pods.js";
import { resetCluster } from "./reset.js";
import { announceEncryption, changeEncryption, rotateToken } from "./rotation.js";
import { linkRuntime, selfCommand, selfEnvironment } from "./runtime.js";
import { createSnapshots } from "./snapshots.js";
import { checkNodePassword, passwordSecret, Refused, runSupervisor } from "./supervisor.js";
import { serverPassword } from "./tokens.js";

const wal = () => server("db/etcd/member/wal");

/** What a server stands on once it has its secrets. */
export interface Secrets {
  readonly password: string;
  readonly agentPassword: string;
}

export async function runServer(given: Given): Promise<void> {
  const config = readConfig("server", given);
  say("info", `Starting rke2 ${version}`);
  if (config.flag("cluster-reset")) return resetCluster(config);
  if (config.values.has("cluster-reset-restore-path")) fatal("invalid flag use; --cluster-reset required with --cluster-reset-restore-path");
  refuseUnmodelled(config);
  checkMachine(config, "server");
  const identity = identify(config);
  const url = config.text("server");
  const isMember = existsSync(wal());
  if (existsSync(tombstone())) {
    if (url === undefined) fatal("tombstone file has been detected but --server is empty");
    fatal(removedText);
  }
  if (!isMember && url !== undefined && secretOf(config, "token") === undefined) fatal("token is required to join a cluster");

  const joins = !isMember && url !== undefined;
  if (isMember) say("info", "Managed etcd cluster bootstrap already complete and initialized");
  else if (joins) say("info", "Managed etcd cluster not yet initialized");
  else say("info", "Managed etcd cluster initializing");
  const tokenText = readToken(config);
  const secrets = secretsOf(config, tokenText);
  const access = joins ? await prepareJoin(url, tokenText, config) : undefined;
  pki.makeSharedFiles({
    serverPassword: secrets.password,
    agentPassword: secrets.agentPassword,
    encryption: config.text("secrets-encryption-provider") ?? "aescbc",
  });
  if (!joins && !isMember) checkOwnToken(tokenText);
  prepareServer(config, identity, secrets);

  const state = { ready: false };
  const cluster = connect();
  const snapshots = createSnapshots({
    config,
    identity,
    etcd: cluster.etcd,
    api: cluster.api,
    password: passwordNow,
  });
  const nodeConfig: NodeConfig = { critical: criticalValues(config), cni: config.list("cni").at(-1) ?? "canal" };
  runSupervisor(
    {
      ready: () => state.ready,
      nodeConfig,
      api: cluster.api,
      members: () => cluster.etcd.members(),
      async act(command, request) {
        if (!state.ready) throw new Refused(503, "Service Unavailable");
        if (command === "snapshot") return snapshots.act(request);
        if (command === "token") return rotateToken(cluster.etcd, request);
        return changeEncryption({ ...cluster, node: identity.name, password: passwordNow() }, request);
      },
    },
    config.text("bind-address") === undefined || config.text("bind-address") === "0.0.0.0" ? everyAddress : config.text("bind-address"),
  );
  importImages();
  await requireRuntime();
  linkRuntime();
  if (existsSync(data("force-restart"))) {
    await stopPods();
    rmSync(data("force-restart"));
  }
  rmSync(server("db/reset-flag"), { force: true });

  // A joining server's kubelet comes up through the server it joins; the others have only themselves.
  const own = `https://${loopback}:6443`;
  const through = access === undefined ? undefined : `https://${new URL(access.url).hostname}:6443`;
  const kubeletOf = () => {
    const [certificate, key] = ["client-kubelet.crt", "client-kubelet.key"].map((file) => readFileSync(agent(file), "utf8")) as [string, string];
    write(agent("kubelet.kubeconfig"), pki.kubeconfig({ url: "https://127.0.0.1:6443", ca: pki.serverCa() as string, certificate, key }));
    const api = new Api(() => (through === undefined || state.ready ? [own] : [own, through]), { ca: pki.serverCa() as string, certificate, key }, 5);
    return runKubelet({
      identity,
      role: "server",
      config,
      api,
      cni: () => nodeConfig.cni,
      annotations: { [annotations.nodeName]: identity.name, [annotations.nodeAddress]: identity.address },
      finalizers: [etcdFinalizer],
    });
  };
  let kubelet: Promise<void> | undefined;
  if (access !== undefined) {
    const { certificates } = await obtainKubelet(() => [access.url], tokenText, identity, "server");
    pki.placeKubeletCertificates(certificates);
    kubelet = kubeletOf();
  }
  keepPods(identity);
  await startEtcd({ config, identity, isMember, access, cluster });
  const stored = isMember ? await reconcile(cluster.etcd, identity.name, secrets.password) : joins;
  await waitForEtcd(cluster.etcd, identity.name);
  if (!stored) await pki.storeSharedData(cluster.etcd, secrets.password);

  startApiserver(config);
  while ((await cluster.api.raw("GET", "/readyz").catch(() => undefined))?.status !== 200) await pause(0.5);
  say("info", "Kube API server is now running");
  await makeNamespaces(cluster.api);
  if (isMember && existsSync(server("db/restored"))) {
    await cluster.api.delete(passwordSecret(identity.name));
    rmSync(server("db/restored"));
  }
  if (kubelet === undefined) {
    await ownKubeletCertificates(cluster.api, identity);
    kubelet = kubeletOf();
  }
  await kubelet;
  runControllers({ node: identity.name, etcd: cluster.etcd, tls: cluster.tls, api: cluster.api });
  watchMembership({ node: identity.name });
  snapshots.schedule();
  if (!isMember && !joins) void installCharts(cluster.api, identity.name, nodeConfig.cni);
  await announceEncryption(cluster.api, identity.name);
  state.ready = true;
  notifyReady();
  say("info", "rke2 is up and running");
  void labelRoles(cluster.api, identity.name);
}

function refuseUnmodelled(config: Config): void {
  for (const key of ["datastore-endpoint", "disable-etcd", "disable-apiserver", "etcd-s3"]) {
    const value = config.text(key);
    if (value !== undefined && value !== "" && value !== "false") fatal(`${key} is not modelled by this stand-in release`);
  }
}

/** Token as configured, else the one on the disk, else a new one. */
function readToken(config: Config): string {
  const configured = secretOf(config, "token");
  if (configured !== undefined) return configured;
  const kept = read(server("token"))?.trim();
  if (kept !== undefined) return kept;
  return randomBytes(16).toString("hex");
}

function secretsOf(config: Config, tokenText: string): Secrets {
  try {
    const password = serverPassword(tokenText);
    const agentToken = secretOf(config, "agent-token");
    return { password, agentPassword: agentToken === undefined ? password : serverPassword(agentToken) };
  } catch (error) {
    fatal(reasonOf(error));
  }
}

/** Password in force: the one the cluster's data is kept under. */
const passwordNow = () => pki.passwordOf("server") as string;

/** The full form on a first server can only be wrong, unless its authorities were placed before. */
function checkOwnToken(tokenText: string): void {
  const [, expected] = /^K10([0-9a-f]{64})::/.exec(tokenText) ?? [];
  const found = caHash(pki.serverCa() as string);
  if (expected !== undefined && expected !== found) fatal(`token CA hash does not match the Cluster CA certificate hash: ${expected} != ${found}`);
}

/** Everything a joining server asks before it begins; each refusal ends the process, and systemd starts it again. */
async function prepareJoin(url: string, tokenText: string, config: Config): Promise<Access> {
  try {
    const access = await reach(url, tokenText, "server");
    const theirs = (JSON.parse(await ask(access, "/v1-rke2/config")) as NodeConfig).critical;
    const mine = criticalValues(config);
    const different = Object.keys(mine).filter((key) => mine[key] !== theirs[key]);
    for (const key of different) say("warning", `critical configuration mismatched: ${key}`);
    if (different.length > 0) throw new Error("failed to validate server configuration: critical configuration value mismatch between servers");
    const shared = JSON.parse(await ask(access, "/v1-rke2/server-bootstrap")) as pki.SharedData;
    pki.reconcileSharedData(shared);
    return access;
  } catch (error) {
    fatal(`starting kubernetes: preparing server: ${reasonOf(error)}`);
  }
}

/** Files of a server that follow from its authorities and its configuration; written again at every start. */
function prepareServer(config: Config, identity: Identity, secrets: Secrets): void {
  pki.placePasswords(secrets.password, secrets.agentPassword);
  const services = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
  const serviceAddress = (config.list("service-cidr")[0] ?? "10.43.0.0/16").replace(/\d+\/\d+$/, "1");
  pki.issueServerLeaves({
    cluster: ["127.0.0.1", loopback, "localhost", identity.address, identity.name, serviceAddress, ...services, ...config.list("tls-san")],
    node: ["127.0.0.1", loopback, "localhost", identity.address, identity.name],
  });
  const hash = caHash(pki.serverCa() as string);
  write(server("token"), `K10${hash}::server:${secrets.password}\n`);
  link(server("node-token"), places.server("token"));
  if (secrets.agentPassword === secrets.password) {
    link(server("agent-token"), places.server("token"));
  } else {
    rmSync(server("agent-token"), { force: true });
    write(server("agent-token"), `K10${hash}::node:${secrets.agentPassword}\n`);
  }
  const read = (file: string) => readFileSync(server("tls", file), "utf8");
  const admin = { ca: read("server-ca.crt"), certificate: read("client-admin.crt"), key: read("client-admin.key") };
  const mode = Number.parseInt(config.text("write-kubeconfig-mode") ?? "0600", 8);
  const path = config.text("write-kubeconfig");
  write(etc("rke2/rke2.yaml"), pki.kubeconfig({ url: "https://127.0.0.1:6443", ...admin }), mode);
  if (path !== undefined && path !== "/etc/rancher/rke2/rke2.yaml") fatal("write-kubeconfig is not modelled by this stand-in release");
  write(etc("rke2/rke2-pss.yaml"), "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n");
  for (const chart of ["rke2-coredns", "rke2-metrics-server", "rke2-snapshot-controller", `rke2-${config.list("cni").at(-1) ?? "canal"}`]) {
    if (config.list("disable").includes(chart)) rmSync(server("manifests", `${chart}.yaml`), { force: true });
    else
      write(
        server("manifests", `${chart}.yaml`),
        `apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata:\n  name: ${chart}\n  namespace: kube-system\n`,
      );
  }
}

function link(path: string, target: string): void {
  rmSync(path, { force: true });
  symlinkSync(target.replace(/^.*\/server\//, ""), path);
}

function etcdTls(): EtcdTls {
  const file = (name: string) => readFileSync(server("tls/etcd", name), "utf8");
  return { ca: file("server-ca.crt"), certificate: file("client.crt"), key: file("client.key") };
}

interface Connected {
  readonly etcd: Etcd;
  readonly tls: EtcdTls;
  readonly api: Api;
}

function connect(): Connected {
  const tls = etcdTls();
  const client = (name: string) => readFileSync(server("tls", name), "utf8");
  const api = new Api(() => [`https://${loopback}:6443`], {
    ca: client("server-ca.crt"),
    certificate: client("client-rke2-controller.crt"),
    key: client("client-rke2-controller.key"),
  });
  return { tls, etcd: new Etcd(`https://${loopback}:2379`, tls), api };
}

/** Member name, `<node>-<8 hexadecimal characters>`, chosen once. */
function memberName(identity: Identity): string {
  const file = server("db/etcd/name");
  const kept = read(file)?.trim();
  if (kept !== undefined && kept !== "") return kept;
  mkdirSync(server("db/etcd"), { recursive: true, mode: 0o700 });
  const name = `${identity.name}-${randomBytes(4).toString("hex")}`;
  write(file, name);
  return name;
}

export const peerUrl = (identity: Identity) => `https://${identity.address}:2380`;

function etcdConfig(
  identity: Identity,
  name: string,
  initial: { readonly cluster: string; readonly state: "new" | "existing" },
): Record<string, unknown> {
  const each = (port: number, scheme = "https") =>
    [...new Set([loopback, identity.address])].map((address) => `${scheme}://${address}:${port}`).join(",");
  const transport = (file: string, ca: string) => ({
    "cert-file": server(`tls/etcd/${file}.crt`),
    "key-file": server(`tls/etcd/${file}.key`),
    "client-cert-auth": true,
    "trusted-ca-file": server(`tls/etcd/${ca}.crt`),
  });
  return {
    name,
    "data-dir": server("db/etcd"),
    "listen-client-urls": each(2379),
    "advertise-client-urls": `https://${identity.address}:2379`,
    "listen-peer-urls": each(2380),
    "initial-advertise-peer-urls": peerUrl(identity),
    "initial-cluster": initial.cluster,
    "initial-cluster-state": initial.state,
    // Two clusters never share an id, whatever their addresses were.
    "initial-cluster-token": name,
    "heartbeat-interval": Math.max(50, 500 / pace),
    "election-timeout": Math.max(500, 5000 / pace),
    "listen-metrics-urls": `http://${loopback}:2381`,
    logger: "zap",
    "log-outputs": ["stderr"],
    // etcd serves the JSON form only when told so, as soon as it reads a configuration file.
    "enable-grpc-gateway": true,
    "experimental-initial-corrupt-check": true,
    "client-transport-security": transport("server-client", "server-ca"),
    "peer-transport-security": transport("peer-server-client", "peer-ca"),
  };
}

async function startEtcd(options: {
  readonly config: Config;
  readonly identity: Identity;
  readonly isMember: boolean;
  readonly access: Access | undefined;
  readonly cluster: Connected;
}): Promise<void> {
  const { config, identity, isMember, access } = options;
  const name = memberName(identity);
  const own = `${name}=${peerUrl(identity)}`;
  let initial = { cluster: own, state: isMember ? ("existing" as const) : ("new" as const) };
  if (access !== undefined) initial = { cluster: await addMember(access, identity, name), state: "existing" };
  else if (!isMember) say("info", "Starting etcd for new cluster, cluster-reset=false");
  const extra = Object.fromEntries(config.list("etcd-arg").map((argument) => argument.split(/=(.*)/s).slice(0, 2) as [string, string]));
  write(server("db/etcd/config"), stringify({ ...etcdConfig(identity, name, initial), ...extra }));
  for (let told = false; ; told = true) {
    const program = fileOfImage(imageNames.etcd(version), "bin/etcd");
    if (program !== undefined) {
      const env = arch() === "x64" ? {} : { ETCD_UNSUPPORTED_ARCH: "arm64" };
      placeManifest({ name: "etcd", image: imageNames.etcd(version), command: [program, `--config-file=${server("db/etcd/config")}`], env });
      return;
    }
    if (!told)
      say(
        "error",
        `Pod for etcd not synced (failed to pull image ${imageNames.etcd(version)}: it is in no archive and no registry answers), retrying`,
      );
    await pause(10);
    importImages();
  }
}

/** Makes this node a learner of the cluster; answers etcd's initial-cluster. Waits for ever while another one learns. */
async function addMember(access: Access, identity: Identity, name: string): Promise<string> {
  const tls = etcdTls();
  for (let told = ""; ; ) {
    try {
      const { members } = JSON.parse(await ask(access, "/db/info")) as { members: Member[] };
      const cluster: string[] = [];
      let present = false;
      for (const member of members) {
        const host = new URL(member.peers[0] as string).hostname;
        // A member that has not started has no name: at this address it can only be this node.
        const memberName = member.name === "" && host === identity.address ? name : member.name;
        if (memberName === name && host === identity.address) present = true;
        if (memberName !== name && nodeOf({ ...member, name: memberName }) === identity.name) {
          rmSync(server("db/etcd/name"), { force: true });
          shutDown("etcd cluster join failed: duplicate node name found, please use a unique name for this node");
        }
        if (memberName !== "") cluster.push(...member.peers.map((peer) => `${memberName}=${peer}`));
      }
      if (!present) {
        const voter = members.find((member) => !member.learner && member.clients[0] !== undefined) as Member;
        await new Etcd(voter.clients[0] as string, tls).addLearner(peerUrl(identity));
        cluster.push(`${name}=${peerUrl(identity)}`);
        say("info", `Adding member ${name}=${peerUrl(identity)} to etcd cluster [${cluster.join(",")}]`);
      }
      return cluster.join(",");
    } catch (error) {
      const reason = reasonOf(error);
      const waits = /too many learner members|unhealthy cluster|not enough started members|Service Unavailable|starting/.test(reason);
      const repeats = /deadline exceeded|timed out/.test(reason);
      if (!waits && !repeats) shutDown(`etcd cluster join failed: ${reason}`);
      const line = waits
        ? `Waiting for other members to finish joining etcd cluster: ${reason}`
        : "Retrying etcd cluster join: MemberAdd request timed out";
      if (line !== told) say("info", line);
      told = line;
      await pause(1);
    }
  }
}

/** Compares disk and datastore as soon as etcd answers at all, which needs no majority. Answers whether the datastore had anything. */
async function reconcile(etcd: Etcd, node: string, password: string): Promise<boolean> {
  say("info", "Reconciling bootstrap data between datastore and disk");
  for (;;) {
    try {
      await etcd.status();
      const shared = await pki.loadSharedData(etcd, password);
      if (shared !== undefined) pki.reconcileSharedData(shared);
      return shared !== undefined;
    } catch (error) {
      if (/bootstrap data/.test(reasonOf(error))) fatal(`starting kubernetes: preparing server: ${reasonOf(error)}`);
      await endIfRemoved(node);
      await pause(0.5);
    }
  }
}

/** A member that its cluster no longer knows ends here, and at every later start. */
async function endIfRemoved(node: string): Promise<void> {
  if (isRunning("etcd") || !wasRemoved(node)) return;
  write(tombstone(), new Date().toISOString());
  await stopPods();
  fatal(removedText);
}

/** Until etcd serves this server as a voter. */
async function waitForEtcd(etcd: Etcd, node: string): Promise<void> {
  for (let told = ""; ; ) {
    let reason: string;
    try {
      const status = await etcd.status();
      if (!status.learner) {
        await etcd.get("health");
        say("info", "Connection to etcd is ready");
        return;
      }
      reason = "this server has not yet been promoted from learner to voting member";
    } catch (error) {
      reason = reasonOf(error);
    }
    await endIfRemoved(node);
    if (reason !== told) say("info", `Failed to test etcd connection: ${reason}`);
    told = reason;
    await pause(0.5);
  }
}

function startApiserver(config: Config): void {
  placeManifest({
    name: "kube-apiserver",
    image: imageNames.runtime(version).replace("rke2-runtime", "hardened-kubernetes"),
    command: [...selfCommand(), "@kube-apiserver", everyAddress, ...config.list("kube-apiserver-arg").map((each) => `--${each}`)],
    env: { ...selfEnvironment(), RKE2_DATA_DIR: places.data(), CERTIFICATE: caHash(readFileSync(server("tls/serving-kube-apiserver.crt"), "utf8")) },
  });
}

async function makeNamespaces(api: Api): Promise<void> {
  for (const name of ["kube-system", "default", "kube-public", "kube-node-lease"]) {
    if ((await api.find(`/api/v1/namespaces/${name}`)) !== undefined) continue;
    await api
      .call("POST", "/api/v1/namespaces", { metadata: { name }, status: { phase: "Active" } })
      .catch((error: unknown) => say("warning", reasonOf(error)));
  }
}

/** A server's own kubelet is let in like any other: by the node's password. */
async function ownKubeletCertificates(api: Api, identity: Identity): Promise<void> {
  for (;;) {
    try {
      await checkNodePassword(api, identity.name, pki.nodePassword());
      break;
    } catch (error) {
      say("info", `Waiting to retrieve agent configuration; server is not ready: ${reasonOf(error)}`);
      await pause(5);
    }
  }
  pki.placeKubeletCertificates(pki.issueKubeletCertificates(identity.name, identity.address));
}

/** Role labels come a while after the node, and are put back when they are taken. */
async function labelRoles(api: Api, node: string): Promise<never> {
  for (;;) {
    await pause(2);
    const labels = { "node-role.kubernetes.io/control-plane": "true", "node-role.kubernetes.io/etcd": "true" };
    await api
      .change(`/api/v1/nodes/${node}`, (object) => {
        if (Object.keys(labels).every((label) => object.metadata.labels?.[label] === "true")) return false;
        object.metadata.labels = { ...object.metadata.labels, ...labels };
        return true;
      })
      .catch(() => undefined);
    await pause(8);
  }
}

/** The jobs that install the packaged charts: pending, then done. */
async function installCharts(api: Api, node: string, cni: string): Promise<void> {
  for (const chart of [...(cni === "none" ? [] : [`rke2-${cni}`]), "rke2-coredns"]) {
    const pod = (phase: string) => ({
      metadata: { name: `helm-install-${chart}-x7v2k` },
      spec: { nodeName: node, containers: [{ name: "helm" }] },
      status: { phase },
    });
    const pods = "/api/v1/namespaces/kube-system/pods";
    try {
      await api.apply(pods, pod("Pending"));
      await pause(4);
      await api.apply(pods, pod("Succeeded"));
    } catch (error) {
      say("warning", `Failed to install ${chart}: ${reasonOf(error)}`);
    }
  }
}
