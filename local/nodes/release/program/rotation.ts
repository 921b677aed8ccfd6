/**
 * What is changed while the cluster lives: the server token, the keys that secrets are encrypted with, and leaf certificates.
 *
 * Secrets are not really encrypted in this stand-in's etcd; the stages, the hashes and what refuses what are upstream's.
 */
import { createHash } from "node:crypto";
import type { Api } from "./api.js";
import type { Etcd } from "./etcd.js";
import { pause, read, say, server, write } from "./host.js";
import { type EncryptionKey, encryptionConfig, newEncryptionKey, passwordOf, placePasswords, rekeySharedData, storeSharedData } from "./pki.js";
import { Refused } from "./supervisor.js";
import { parseToken, serverPassword } from "./tokens.js";

/** Moves the cluster to a new server token. The nodes' configuration is the caller's to change; until then their restarts fail. */
export async function rotateToken(etcd: Etcd, request: Readonly<Record<string, unknown>>): Promise<unknown> {
  let before: string;
  let after: string;
  try {
    before = parseToken(String(request["token"] ?? "")).password;
    after = serverPassword(String(request["newToken"] ?? ""));
  } catch (error) {
    throw new Refused(400, (error as Error).message);
  }
  const current = passwordOf("server");
  if (before !== current) throw new Refused(401, "Unauthorized");
  const agentPassword = passwordOf("node") as string;
  placePasswords(after, agentPassword === before ? after : agentPassword);
  await rekeySharedData(etcd, before, after);
  const [hash] = (read(server("token")) ?? "").split("::");
  write(server("token"), `${hash}::server:${after}\n`);
  say("info", "Token rotated; restart the servers with the new token");
  return {};
}

interface Encrypting {
  readonly etcd: Etcd;
  readonly api: Api;
  readonly node: string;
  readonly password: string;
}

interface State {
  readonly provider: string;
  readonly keys: readonly EncryptionKey[];
  readonly stage: string;
}

function readState(): State {
  const config = JSON.parse(read(server("cred/encryption-config.json")) ?? "{}") as {
    resources: [{ providers: [Record<string, { keys: EncryptionKey[] }>] }];
  };
  const [provider, { keys }] = Object.entries(config.resources[0].providers[0])[0] as [string, { keys: EncryptionKey[] }];
  const { stage } = JSON.parse(read(server("cred/encryption-state.json")) ?? '{"stage":"start"}') as { stage: string };
  return { provider, keys, stage };
}

const hashAnnotation = "rke2.io/encryption-config-hash";
const ownHash = () =>
  `${readState().stage}-${createHash("sha256")
    .update(read(server("cred/encryption-config.json")) ?? "")
    .digest("hex")}`;

/** Tells the others which configuration this server runs with; at its start and after its own changes. */
export async function announceEncryption(api: Api, node: string): Promise<void> {
  await api.change(`/api/v1/nodes/${node}`, (object) => {
    if (object.metadata.annotations?.[hashAnnotation] === ownHash()) return false;
    object.metadata.annotations = { ...object.metadata.annotations, [hashAnnotation]: ownHash() };
    return true;
  });
}

export async function changeEncryption(cluster: Encrypting, request: Readonly<Record<string, unknown>>): Promise<unknown> {
  const mismatch = async () => {
    const nodes = await cluster.api.list("/api/v1/nodes?labelSelector=node-role.kubernetes.io/control-plane=true");
    const hashes = nodes.map(({ metadata }) => ({ name: metadata.name, hash: metadata.annotations?.[hashAnnotation] ?? "" }));
    const own = hashes.find(({ name }) => name === cluster.node);
    const other = hashes.find(({ hash }) => hash !== own?.hash);
    return other === undefined ? undefined : `hash does not match between ${cluster.node} and ${other.name}`;
  };
  const { provider, keys, stage } = readState();
  if (request["operation"] === "status") {
    const error = await mismatch();
    return {
      enable: true,
      stage,
      activekey: keys[0]?.name,
      inactivekeys: keys.slice(1).map(({ name }) => name),
      hashmatch: error === undefined,
      ...(error !== undefined && { hasherror: error }),
    };
  }
  if (request["operation"] !== "rotate-keys")
    throw new Refused(400, `secrets-encrypt ${request["operation"]} is not modelled by this stand-in release`);
  if (!["start", "reencrypt_finished"].includes(stage)) throw new Refused(400, `incorrect stage: ${stage}`);
  const error = await mismatch();
  if (error !== undefined) throw new Refused(400, error);
  write(server("cred/encryption-config.json"), encryptionConfig(provider, [newEncryptionKey(provider)]));
  for (const next of ["reencrypt_request", "reencrypt_active"]) {
    write(server("cred/encryption-state.json"), JSON.stringify({ stage: next }));
    await pause(0.5);
  }
  write(server("cred/encryption-state.json"), JSON.stringify({ stage: "reencrypt_finished" }));
  await storeSharedData(cluster.etcd, cluster.password);
  await announceEncryption(cluster.api, cluster.node);
  return {};
}
