/**
 * The supervisor: port 9345. Others join through it, and the command line of the same node asks it for snapshots, tokens and encryption keys.
 *
 * It answers `starting` until the server is ready, and bears only so many nodes at once: 20 that read and 10 that write; more are told to come back.
 */
import { randomBytes, scryptSync, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:https";
import { type Api, ApiError, type KubeObject } from "./api.js";
import type { Member } from "./etcd.js";
import { everyAddress, fatal, reasonOf, say, server } from "./host.js";
import type { NodeConfig } from "./join.js";
import { listenFailure } from "./kubelet.js";
import { issueKubeletCertificates, passwordOf, readSharedData, serverCa } from "./pki.js";

export interface Supervised {
  ready(): boolean;
  readonly nodeConfig: NodeConfig;
  readonly api: Api;
  members(): Promise<Member[]>;
  /** Requests of the node's own command line. */
  act(command: string, request: Readonly<Record<string, unknown>>): Promise<unknown>;
}

const limits = { read: 20, write: 10 } as const;

/** Anything a request can be refused with. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export function runSupervisor(supervised: Supervised, bind = everyAddress): void {
  const flying = { read: 0, write: 0 };
  const listener = createServer(
    { cert: readFileSync(server("tls/serving-kube-apiserver.crt")), key: readFileSync(server("tls/serving-kube-apiserver.key")) },
    async (asked, answer) => {
      const path = (asked.url ?? "/").split("?")[0] as string;
      const kind = path === "/v1-rke2/serving-kubelet.crt" ? "write" : path.startsWith("/v1-rke2/") ? "read" : undefined;
      if (kind !== undefined && flying[kind] >= limits[kind]) return reply(answer, 429, "Too Many Requests");
      if (kind !== undefined) flying[kind]++;
      try {
        const value = await route(supervised, path, asked);
        reply(answer, 200, value);
      } catch (error) {
        const status = error instanceof Refused ? error.status : 500;
        if (status === 500) say("error", `Sending HTTP 500 response to ${asked.socket.remoteAddress}: ${reasonOf(error)}`);
        reply(answer, status, `${reasonOf(error)}\n`);
      } finally {
        if (kind !== undefined) flying[kind]--;
      }
    },
  );
  listener.on("error", (error) => fatal(listenFailure(error, 9345)));
  listener.listen(9345, bind);
}

function reply(answer: ServerResponse, status: number, value: unknown): void {
  const isText = typeof value === "string";
  answer.writeHead(status, {
    "content-type": isText ? "text/plain" : "application/json",
    ...(status === 401 && { "www-authenticate": 'Basic realm="rke2"' }),
  });
  answer.end(isText ? value : JSON.stringify(value));
}

async function route(supervised: Supervised, path: string, asked: IncomingMessage): Promise<unknown> {
  if (path === "/ping") {
    if (!supervised.ready()) throw new Refused(503, "starting");
    return "pong";
  }
  if (path === "/cacerts") return serverCa() ?? "";
  const user = userOf(asked);
  if (user === undefined) throw new Refused(401, "Unauthorized");
  const ready = () => {
    if (!supervised.ready()) throw new Refused(503, "Service Unavailable: runtime core not ready");
  };
  const serversOnly = () => {
    if (user !== "server") throw new Refused(403, "Forbidden: not authorized");
  };
  switch (path) {
    case "/v1-rke2/readyz":
      ready();
      return "ok";
    case "/v1-rke2/config":
      ready();
      return supervised.nodeConfig;
    case "/v1-rke2/apiservers":
      ready();
      return (await serversIn(supervised.api)).map(({ address }) => address);
    case "/v1-rke2/serving-kubelet.crt": {
      ready();
      const header = (name: string) => String(asked.headers[name] ?? "");
      await checkNodePassword(supervised.api, header("rke2-node-name"), header("rke2-node-password"));
      return issueKubeletCertificates(header("rke2-node-name"), header("rke2-node-ip"));
    }
    case "/v1-rke2/server-bootstrap":
      serversOnly();
      ready();
      return readSharedData();
    case "/db/info":
      serversOnly();
      return { members: await supervised.members() };
    case "/db/snapshot":
    case "/v1-rke2/token":
    case "/v1-rke2/encrypt":
      serversOnly();
      return supervised.act(path.slice(path.lastIndexOf("/") + 1), (await bodyOf(asked)) as Record<string, unknown>);
    default:
      throw new Refused(404, "404 page not found");
  }
}

async function bodyOf(asked: IncomingMessage): Promise<unknown> {
  let text = "";
  for await (const chunk of asked) text += chunk;
  return text === "" ? {} : JSON.parse(text);
}

/** User of the credentials, `server` or `node`; undefined for wrong ones. */
function userOf(asked: IncomingMessage): string | undefined {
  const [, encoded] = /^Basic (.+)$/.exec(asked.headers.authorization ?? "") ?? [];
  if (encoded === undefined) return undefined;
  const [user = "", password = ""] = Buffer.from(encoded, "base64").toString("utf8").split(/:(.*)/s);
  const expected = passwordOf(user);
  if (expected === undefined || !["server", "node"].includes(user)) return undefined;
  const [left, right] = [Buffer.from(password), Buffer.from(expected)];
  return left.length === right.length && timingSafeEqual(left, right) ? user : undefined;
}

/** Servers by their nodes: name and address. */
export async function serversIn(api: Api): Promise<{ readonly name: string; readonly address: string }[]> {
  const nodes = await api.list("/api/v1/nodes?labelSelector=node-role.kubernetes.io/control-plane=true");
  return nodes.map((node) => ({ name: node.metadata.name, address: addressOf(node) }));
}

export function addressOf(node: KubeObject): string {
  const addresses = (node.status?.["addresses"] ?? []) as { readonly type: string; readonly address: string }[];
  return addresses.find(({ type }) => type === "InternalIP")?.address ?? "";
}

const secretPath = "/api/v1/namespaces/kube-system/secrets";
export const passwordSecret = (node: string) => `${secretPath}/${node}.node-password.rke2`;

/**
 * A node's name belongs to whoever came with it first: the first password is kept, hashed, and every later one must be the same.
 *
 * @throws Refused 403 with the text that a joining node's log then repeats
 */
export async function checkNodePassword(api: Api, node: string, password: string): Promise<void> {
  if (node === "" || password === "") throw new Refused(400, "node name not set");
  try {
    const present = await api.find(passwordSecret(node));
    if (present === undefined) {
      const salt = randomBytes(8).toString("hex");
      const hash = `$1:${salt}:15:8:1:${scrypt(password, salt)}`;
      await api.call("POST", secretPath, {
        metadata: { name: `${node}.node-password.rke2` },
        type: "Opaque",
        immutable: true,
        data: { hash: Buffer.from(hash).toString("base64") },
      });
      return;
    }
    const kept = Buffer.from((present["data"] as { hash: string }).hash, "base64").toString("utf8");
    const [, salt = "", , , , hash] = kept.split(":");
    if (hash === scrypt(password, salt)) return;
  } catch (error) {
    if (error instanceof ApiError && error.status === 409) return checkNodePassword(api, node, password);
    throw new Refused(503, `Service Unavailable: ${reasonOf(error)}`);
  }
  throw new Refused(
    403,
    "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag",
  );
}

/** Cheaper than upstream's 2^15: a thousand nodes register on a small machine. */
const scrypt = (password: string, salt: string) => scryptSync(password, salt, 64, { N: 1024 }).toString("base64");
