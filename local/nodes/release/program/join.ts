/**
 * A node's way to a running server: whom to trust, what to ask, and the client-side load balancer that keeps it reachable afterwards.
 */
import { createHash } from "node:crypto";
import { createConnection, createServer, type Socket } from "node:net";
import { type Answer, send } from "./api.js";
import { caHash } from "./certificates.js";
import type { Identity } from "./config.js";
import { agent, loopback, pause, read, reasonOf, resolveHost, say, write } from "./host.js";
import { type KubeletCertificates, nodePassword } from "./pki.js";
import { parseToken, type Token } from "./tokens.js";

/** A server whose CA was compared with the token, and the credentials it is asked with. */
export interface Access {
  readonly url: string;
  readonly ca: string;
  readonly token: Token;
  readonly user: string;
}

/**
 * Fetches the cluster's CA without trust, then compares it with the token before the password is sent to anybody.
 *
 * @throws Error with RKE2's text
 */
export async function reach(url: string, tokenText: string, user: "server" | "node"): Promise<Access> {
  const token = parseToken(tokenText);
  let answer: Answer;
  try {
    answer = await send("GET", `${url}/cacerts`, { tls: { insecure: true } });
  } catch (error) {
    throw new Error(`failed to get CA certs: ${reasonOf(error)}`);
  }
  if (answer.status !== 200) throw new Error(`failed to get CA certs: ${url}/cacerts: ${statusText(answer.status)}`);
  const found = caHash(answer.text);
  if (token.caHash === undefined) {
    say(
      "warning",
      "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA hash. Use the full token from the server's node-token file to enable Cluster CA validation.",
    );
  } else if (token.caHash !== found) {
    throw new Error(`token CA hash does not match the Cluster CA certificate hash: ${token.caHash} != ${found}`);
  }
  return { url, ca: answer.text, token, user: token.user ?? user };
}

/** @throws Error that names the address and the status, as RKE2's client does */
export async function ask(
  access: Access,
  path: string,
  options: { readonly method?: string; readonly headers?: Readonly<Record<string, string>>; readonly body?: unknown; readonly seconds?: number } = {},
): Promise<string> {
  const { status, text } = await askRaw(access, path, options);
  if (status >= 300) throw new Error(`${access.url}${path}: ${text.trim() === "" || status === 401 ? statusText(status) : text.trim()}`);
  return text;
}

export async function askRaw(access: Access, path: string, options: Parameters<typeof ask>[2] = {}): Promise<Answer> {
  const { method = "GET", headers = {}, body, seconds = 15 } = options;
  const authorization = `Basic ${Buffer.from(`${access.user}:${access.token.password}`).toString("base64")}`;
  return send(method, `${access.url}${path}`, {
    tls: { ca: access.ca },
    headers: { ...headers, authorization },
    seconds,
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
}

const statusNames: Readonly<Record<number, string>> = {
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  429: "Too Many Requests",
  500: "Internal Server Error",
  503: "Service Unavailable",
};
const statusText = (status: number) => `${status} ${statusNames[status] ?? ""}`.trim();

export interface NodeConfig {
  readonly critical: Readonly<Record<string, string>>;
  readonly cni: string;
}

/** Asks until a server gives what a kubelet needs; says why it does not. For ever: only a person knows when to give up. */
export async function obtainKubelet(
  servers: () => readonly string[],
  tokenText: string,
  identity: Identity,
  user: "server" | "node",
): Promise<{ readonly certificates: KubeletCertificates; readonly config: NodeConfig; readonly access: Access }> {
  for (let attempt = 0; ; attempt++) {
    const all = servers();
    const url = all[attempt % all.length] as string;
    let access: Access | undefined;
    try {
      access = await reach(url, tokenText, user);
      const config = JSON.parse(await ask(access, "/v1-rke2/config")) as NodeConfig;
      const certificates = await obtainCertificates(access, identity);
      return { certificates, config, access };
    } catch (error) {
      if (access === undefined) say("error", `Failed to validate connection to cluster at ${url}: ${reasonOf(error)}`);
      else say("info", `Waiting to retrieve agent configuration; server is not ready: ${reasonOf(error)}`);
    }
    if (attempt % all.length === all.length - 1) await pause(4 + 2 * jitter(`${identity.name} ${attempt}`));
  }
}

export async function obtainCertificates(access: Access, identity: Identity): Promise<KubeletCertificates> {
  const headers = { "rke2-node-name": identity.name, "rke2-node-password": nodePassword(), "rke2-node-ip": identity.address };
  return JSON.parse(await ask(access, "/v1-rke2/serving-kubelet.crt", { method: "POST", headers })) as KubeletCertificates;
}

/** Between 0 and 1, spread over the nodes. */
const jitter = (text: string) => createHash("sha256").update(text).digest().readUInt16LE() / 65_536;

/**
 * A load balancer in the node: one port on the loopback, every server behind it. The list is kept on disk, so that a node whose first server is gone
 * finds the others after a restart.
 */
export class Balancer {
  #servers: string[];
  readonly #open = new Map<Socket, string>();
  constructor(
    private readonly file: string,
    private readonly port: number,
    private readonly target: number,
    first: string,
  ) {
    const kept = JSON.parse(read(agent("etc", file)) ?? '{"ServerAddresses":[]}') as { ServerAddresses: string[] };
    this.#servers = [...new Set([first, ...kept.ServerAddresses])];
  }

  /** Hosts of the servers, the one that answered last first. */
  get servers(): readonly string[] {
    return this.#servers;
  }

  replace(servers: readonly string[]): void {
    if (servers.length === 0) return;
    const same = servers.length === this.#servers.length && servers.every((each) => this.#servers.includes(each));
    if (!same) {
      this.#servers = [...this.#servers.filter((each) => servers.includes(each)), ...servers.filter((each) => !this.#servers.includes(each))];
      for (const [socket, server] of this.#open) if (!servers.includes(server)) socket.destroy();
      say("info", `Updated load balancer ${this.file.replace(/\.json$/, "")} server addresses -> [${this.#servers.join(" ")}]`);
    }
    write(
      agent("etc", this.file),
      JSON.stringify({ ServerURL: `https://${this.#servers[0]}:${this.target}`, ServerAddresses: this.#servers }),
      0o600,
    );
  }

  listen(onError: (error: NodeJS.ErrnoException) => void): void {
    const listener = createServer({ pauseOnConnect: true }, (socket) => this.#forward(socket, [...this.#servers]));
    listener.on("error", onError);
    listener.listen(this.port, loopback);
  }

  #forward(socket: Socket, servers: string[]): void {
    const server = servers.shift();
    if (server === undefined) {
      socket.destroy();
      return;
    }
    const onward = createConnection({ host: resolveHost(server), port: this.target, timeout: 5000 });
    const next = () => {
      onward.destroy();
      if (!socket.destroyed) this.#forward(socket, servers);
    };
    onward.once("error", next);
    onward.once("timeout", next);
    onward.once("connect", () => {
      onward.off("error", next).off("timeout", next).setTimeout(0);
      this.#servers = [server, ...this.#servers.filter((each) => each !== server)];
      this.#open.set(socket, server);
      for (const [one, other] of [
        [socket, onward],
        [onward, socket],
      ] as const) {
        one.on("error", () => other.destroy());
        one.on("close", () => {
          this.#open.delete(socket);
          other.destroy();
        });
        one.pipe(other);
      }
      socket.resume();
    });
  }
}
