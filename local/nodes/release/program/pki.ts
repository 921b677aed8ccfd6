/**
 * The cluster's authorities, and the certificates each node makes of them.
 *
 * Authorities and the other files every server must share are the bootstrap data: made by the first server, kept in etcd encrypted with the server
 * token, written to disk by those that join, and reconciled at every start.
 */
import { randomBytes, randomUUID, X509Certificate } from "node:crypto";
import { existsSync, readFileSync, statSync, utimesSync } from "node:fs";
import { daysLeft, issue, newKey, type Pair } from "./certificates.js";
import type { Etcd } from "./etcd.js";
import { agent, etc, places, read, server, shutDown, write } from "./host.js";
import { decrypt, encrypt, tokenHash } from "./tokens.js";

const authorities = ["server-ca", "client-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca"] as const;
type Authority = (typeof authorities)[number];

const pairAt = (stem: string): Pair => ({ certificate: readFileSync(`${stem}.crt`, "utf8"), key: readFileSync(`${stem}.key`, "utf8") });

export const authority = (name: Authority): Pair => pairAt(server("tls", name));
export const serverCa = () => read(server("tls/server-ca.crt"));

export interface Leaf {
  readonly file: string;
  readonly authority: Authority;
  readonly commonName: string;
  readonly organizations?: readonly string[];
  readonly usages: readonly ("client" | "server")[];
  /** Serving certificates carry the node's names. */
  readonly serves?: "cluster" | "node";
  /** Under which name `rke2 certificate` knows it. */
  readonly service: string;
}

const masters = ["system:masters"];
/** Leaf certificates of a server, under $S/tls. */
export const serverLeaves: readonly Leaf[] = [
  { file: "client-admin", authority: "client-ca", commonName: "system:admin", organizations: masters, usages: ["client"], service: "admin" },
  {
    file: "client-kube-apiserver",
    authority: "client-ca",
    commonName: "system:apiserver",
    organizations: masters,
    usages: ["client"],
    service: "api-server",
  },
  {
    file: "serving-kube-apiserver",
    authority: "server-ca",
    commonName: "kube-apiserver",
    usages: ["server"],
    serves: "cluster",
    service: "api-server",
  },
  { file: "client-auth-proxy", authority: "request-header-ca", commonName: "system:auth-proxy", usages: ["client"], service: "auth-proxy" },
  {
    file: "client-rke2-cloud-controller",
    authority: "client-ca",
    commonName: "rke2-cloud-controller-manager",
    usages: ["client"],
    service: "cloud-controller",
  },
  {
    file: "client-controller",
    authority: "client-ca",
    commonName: "system:kube-controller-manager",
    usages: ["client"],
    service: "controller-manager",
  },
  { file: "client-scheduler", authority: "client-ca", commonName: "system:kube-scheduler", usages: ["client"], service: "scheduler" },
  {
    file: "client-supervisor",
    authority: "client-ca",
    commonName: "system:rke2-supervisor",
    organizations: masters,
    usages: ["client"],
    service: "supervisor",
  },
  {
    file: "client-rke2-controller",
    authority: "client-ca",
    commonName: "system:rke2-controller",
    organizations: masters,
    usages: ["client"],
    service: "rke2-controller",
  },
  { file: "etcd/client", authority: "etcd/server-ca", commonName: "etcd-client", usages: ["client"], service: "etcd" },
  {
    file: "etcd/server-client",
    authority: "etcd/server-ca",
    commonName: "etcd-server",
    usages: ["server", "client"],
    serves: "node",
    service: "etcd",
  },
  {
    file: "etcd/peer-server-client",
    authority: "etcd/peer-ca",
    commonName: "etcd-peer",
    usages: ["server", "client"],
    serves: "node",
    service: "etcd",
  },
];

const days = () => Number(process.env["CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS"] ?? 365);
/** Days before its end from which a certificate is renewed when the service starts. */
export const renewalDays = 120;

/** Makes the leaf certificates that are missing, that end soon, or whose names have changed. A renewed one keeps its key. */
export function issueServerLeaves(names: { readonly cluster: readonly string[]; readonly node: readonly string[] }): void {
  for (const leaf of serverLeaves) {
    const stem = server("tls", leaf.file);
    const wanted = leaf.serves === undefined ? [] : [...new Set(names[leaf.serves])];
    const present = existsSync(`${stem}.crt`) && existsSync(`${stem}.key`) ? pairAt(stem) : undefined;
    if (present !== undefined && daysLeft(present.certificate) >= renewalDays && sameNames(present.certificate, wanted)) continue;
    const { commonName, organizations, usages } = leaf;
    const pair = issue(
      { commonName, ...(organizations && { organizations }), usages, names: wanted, days: days(), ...(present && { key: present.key }) },
      authority(leaf.authority),
    );
    write(`${stem}.crt`, pair.certificate, 0o644);
    write(`${stem}.key`, pair.key);
  }
}

function sameNames(certificate: string, wanted: readonly string[]): boolean {
  const text = new X509Certificate(certificate).subjectAltName ?? "";
  const present = text.split(", ").map((each) => each.replace(/^(DNS|IP Address):/, ""));
  return wanted.every((each) => present.includes(each));
}

/** Certificates of a node's kubelet, as a server hands them out. */
export interface KubeletCertificates {
  readonly serving: Pair;
  readonly client: Pair;
  readonly clientCa: string;
  readonly serverCa: string;
}

export function issueKubeletCertificates(node: string, address: string): KubeletCertificates {
  const serving = issue({ commonName: node, usages: ["server"], names: [node, address, "127.0.0.1"], days: days() }, authority("server-ca"));
  const client = issue(
    { commonName: `system:node:${node}`, organizations: ["system:nodes"], usages: ["client"], days: days() },
    authority("client-ca"),
  );
  return { serving, client, clientCa: authority("client-ca").certificate, serverCa: authority("server-ca").certificate };
}

export function placeKubeletCertificates(given: KubeletCertificates): void {
  write(agent("serving-kubelet.crt"), given.serving.certificate);
  write(agent("serving-kubelet.key"), given.serving.key);
  write(agent("client-kubelet.crt"), given.client.certificate);
  write(agent("client-kubelet.key"), given.client.key);
  write(agent("client-ca.crt"), given.clientCa);
  write(agent("server-ca.crt"), given.serverCa);
}

// ------------------------------------------------------------ bootstrap data

/** Shared files, by their path under $S. */
const sharedFiles = [
  ...authorities.flatMap((name) => [`tls/${name}.crt`, `tls/${name}.key`]),
  "tls/service.key",
  "cred/passwd",
  "cred/ipsec.psk",
  "cred/encryption-config.json",
  "cred/encryption-state.json",
];

interface SharedFile {
  /** Seconds since the epoch, as on the disk it comes from. */
  readonly timestamp: number;
  readonly content: string;
}
export type SharedData = Readonly<Record<string, SharedFile>>;

/** Makes what is missing of the shared files. Authorities placed before the first start stay as they are. */
export function makeSharedFiles(options: { readonly serverPassword: string; readonly agentPassword: string; readonly encryption: string }): void {
  for (const name of authorities) {
    const stem = server("tls", name);
    if (existsSync(`${stem}.crt`)) continue;
    const pair = issue({ commonName: `rke2-${name.replace("/", "-")}@${Math.floor(Date.now() / 1000)}`, days: 3650 });
    write(`${stem}.crt`, pair.certificate, 0o644);
    write(`${stem}.key`, pair.key);
  }
  const once = (file: string, content: () => string) => {
    if (!existsSync(server(file))) write(server(file), content());
  };
  once("tls/service.key", newKey);
  once("cred/ipsec.psk", () => randomBytes(48).toString("hex"));
  once("cred/encryption-config.json", () => encryptionConfig(options.encryption, [newEncryptionKey(options.encryption)]));
  once("cred/encryption-state.json", () => JSON.stringify({ stage: "start" }));
  placePasswords(options.serverPassword, options.agentPassword);
}

/** Users and passwords that the supervisor takes. */
export function placePasswords(serverPassword: string, agentPassword: string): void {
  write(server("cred/passwd"), `${agentPassword},node,node,rke2:agent\n${serverPassword},server,server,rke2:server\n`);
}

export function passwordOf(user: string): string | undefined {
  return (read(server("cred/passwd")) ?? "")
    .split("\n")
    .map((line) => line.split(","))
    .find((fields) => fields[1] === user)?.[0];
}

export interface EncryptionKey {
  readonly name: string;
  readonly secret: string;
}
export const newEncryptionKey = (provider: string): EncryptionKey => ({
  name: `${provider}key-${new Date().toISOString()}-${randomUUID().slice(0, 4)}`,
  secret: randomBytes(32).toString("base64"),
});
export function encryptionConfig(provider: string, keys: readonly EncryptionKey[]): string {
  return JSON.stringify({
    kind: "EncryptionConfiguration",
    apiVersion: "apiserver.config.k8s.io/v1",
    resources: [{ resources: ["secrets"], providers: [{ [provider]: { keys } }, { identity: {} }] }],
  });
}

export function readSharedData(): SharedData {
  return Object.fromEntries(
    sharedFiles
      .filter((file) => existsSync(server(file)))
      .map((file) => [file, { timestamp: statSync(server(file)).mtimeMs / 1000, content: readFileSync(server(file), "utf8") }]),
  );
}

function place(file: string, { content, timestamp }: SharedFile): void {
  write(server(file), content, file.endsWith(".crt") ? 0o644 : 0o600);
  utimesSync(server(file), timestamp, timestamp);
}

export function placeSharedData(shared: SharedData): void {
  for (const [file, each] of Object.entries(shared)) if (sharedFiles.includes(file)) place(file, each);
}

const keyOf = (password: string) => `/bootstrap/${tokenHash(password)}`;

export async function storeSharedData(etcd: Etcd, password: string): Promise<void> {
  await etcd.put(keyOf(password), encrypt(password, JSON.stringify(readSharedData())));
}

/** Moves the shared data to another password. */
export async function rekeySharedData(etcd: Etcd, before: string, after: string): Promise<void> {
  await storeSharedData(etcd, after);
  if (before !== after) await etcd.delete(keyOf(before));
}

/**
 * Shared data in etcd, opened with the password. None at all is what a first server leaves that ended before it had stored any.
 *
 * @throws Error when there is some and the password opens none of it
 */
export async function loadSharedData(etcd: Etcd, password: string): Promise<SharedData | undefined> {
  const entries = await etcd.range("/bootstrap/", { prefix: true, serializable: true });
  const entry = entries.find(({ key }) => key === keyOf(password));
  if (entry !== undefined) return JSON.parse(decrypt(password, entry.value)) as SharedData;
  if (entries.length > 0) throw new Error("bootstrap data already found and encrypted with different token");
  return undefined;
}

/** Makes disk and datastore agree: the datastore's newer files replace the disk's; a file that is newer on the disk, by 3 seconds or more, ends the process. */
export function reconcileSharedData(shared: SharedData): void {
  const newer: string[] = [];
  for (const [file, inStore] of Object.entries(shared)) {
    if (!existsSync(server(file))) {
      place(file, inStore);
      continue;
    }
    if (readFileSync(server(file), "utf8") === inStore.content) continue;
    if (statSync(server(file)).mtimeMs / 1000 - inStore.timestamp >= 3) newer.push(places.server(file));
    else place(file, inStore);
  }
  if (newer.length > 0) {
    shutDown(
      `${newer.join(", ")} newer than datastore and could cause a cluster outage. Remove the file(s) from disk and restart to be recreated from datastore.`,
    );
  }
}

// ------------------------------------------------------------------- pieces

/** The node's own password, which its name in the cluster is bound to. */
export function nodePassword(): string {
  const path = etc("node/password");
  if (!existsSync(path)) write(path, `${randomBytes(16).toString("hex")}\n`);
  return readFileSync(path, "utf8").trim();
}

export function kubeconfig(options: {
  readonly url: string;
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
  readonly context?: string;
}): string {
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  const name = options.context ?? "default";
  return `apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: ${base64(options.ca)}
    server: ${options.url}
  name: ${name}
contexts:
- context:
    cluster: ${name}
    user: ${name}
  name: ${name}
current-context: ${name}
kind: Config
preferences: {}
users:
- name: ${name}
  user:
    client-certificate-data: ${base64(options.certificate)}
    client-key-data: ${base64(options.key)}
`;
}
