/**
 * The Kubernetes API as a client sees it: HTTPS with a client certificate, JSON objects, and the few verbs that are needed.
 */
import { Agent, request } from "node:https";
import { parse } from "yaml";
import { resolveHost } from "./host.js";

export interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  readonly lastHeartbeatTime?: string;
  readonly lastTransitionTime?: string;
}
export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata: {
    name: string;
    namespace?: string;
    uid?: string;
    resourceVersion?: string;
    creationTimestamp?: string;
    deletionTimestamp?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    finalizers?: string[];
    ownerReferences?: { readonly kind: string; readonly name: string; readonly uid: string }[];
  };
  spec?: Record<string, unknown>;
  status?: Record<string, unknown>;
  [key: string]: unknown;
}

export interface Answer {
  readonly status: number;
  readonly text: string;
}

export interface ClientTls {
  readonly ca?: string;
  readonly certificate?: string;
  readonly key?: string;
  /** Ask whoever answers. */
  readonly insecure?: boolean;
}

/** One HTTPS request. The name in the certificate is not held against the address: nodes are reached by address, forwarded ports and load balancers alike. */
export function send(
  method: string,
  url: string,
  options: {
    readonly tls?: ClientTls;
    readonly agent?: Agent;
    readonly headers?: Readonly<Record<string, string>>;
    readonly body?: string;
    readonly seconds?: number;
  } = {},
): Promise<Answer> {
  const { hostname, port, pathname, search } = new URL(url);
  const { tls = {}, headers = {}, body, seconds = 10, agent } = options;
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: resolveHost(hostname),
        port,
        path: `${pathname}${search}`,
        method,
        headers,
        ...(agent ? { agent } : { ca: tls.ca, cert: tls.certificate, key: tls.key, agent: false }),
        rejectUnauthorized: tls.insecure !== true,
        checkServerIdentity: () => undefined,
      },
      (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (chunk) => {
          text += chunk;
        });
        answer.on("error", reject);
        answer.on("end", () => {
          clearTimeout(limit);
          resolve({ status: answer.statusCode ?? 0, text });
        });
      },
    );
    const limit = setTimeout(
      () => sent.destroy(new Error(`Get "${url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`)),
      seconds * 1000,
    );
    sent.on("error", (error: NodeJS.ErrnoException) => {
      clearTimeout(limit);
      reject(error.code === "ECONNREFUSED" ? new Error(`Get "${url}": dial tcp ${hostname}:${port}: connect: connection refused`) : error);
    });
    sent.end(body);
  });
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

export class Api {
  readonly #agent: Agent;
  #url = 0;
  /** @param urls servers to ask, in order of preference; the next one when one does not answer */
  constructor(
    private readonly urls: () => readonly string[],
    tls: ClientTls,
    private readonly seconds = 10,
  ) {
    this.#agent = new Agent({ keepAlive: true, ca: tls.ca, cert: tls.certificate, key: tls.key, maxSockets: 16 });
  }

  async raw(method: string, path: string, body?: unknown): Promise<Answer> {
    const urls = this.urls();
    for (let tried = 0; ; tried++) {
      const url = urls[(this.#url + tried) % urls.length];
      if (url === undefined) throw new Error("no server is known");
      try {
        const answer = await send(method, `${url}${path}`, {
          agent: this.#agent,
          seconds: this.seconds,
          ...(body !== undefined && { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
        });
        this.#url = (this.#url + tried) % urls.length;
        return answer;
      } catch (error) {
        if (tried + 1 >= urls.length) throw error;
      }
    }
  }

  async call<T = KubeObject>(method: string, path: string, body?: unknown): Promise<T> {
    const answer = await this.raw(method, path, body);
    const value = parseJson(answer.text);
    if (answer.status >= 300) {
      const { reason = "", message = answer.text.trim() } = (value ?? {}) as { reason?: string; message?: string };
      throw new ApiError(answer.status, reason, message || `HTTP ${answer.status}`);
    }
    return value as T;
  }

  async find(path: string): Promise<KubeObject | undefined> {
    return this.call("GET", path).catch(none);
  }
  async list(path: string): Promise<KubeObject[]> {
    return (await this.call<{ items: KubeObject[] }>("GET", path)).items;
  }
  /** Reads, changes and writes an object, again when another was faster. Undefined when there is none, or nothing to change. */
  async change(path: string, change: (object: KubeObject) => boolean): Promise<KubeObject | undefined> {
    for (let attempt = 0; ; attempt++) {
      const object = await this.find(path);
      if (object === undefined || !change(object)) return undefined;
      try {
        return await this.call("PUT", path, object);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 409 || attempt === 9) throw error;
      }
    }
  }
  /** Creates it, or gives it a new status and what else changes. */
  async apply(collection: string, object: KubeObject): Promise<void> {
    const updated = await this.change(`${collection}/${object.metadata.name}`, (present) => {
      if (JSON.stringify([present.spec, present.status]) === JSON.stringify([object.spec, object.status])) return false;
      if (object.spec !== undefined) present.spec = object.spec;
      if (object.status !== undefined) present.status = object.status;
      return true;
    });
    if (updated === undefined && (await this.find(`${collection}/${object.metadata.name}`)) === undefined) {
      await this.call("POST", collection, object).catch((error: unknown) => {
        if (!(error instanceof ApiError) || error.status !== 409) throw error;
      });
    }
  }
  async delete(path: string): Promise<void> {
    await this.call("DELETE", path).catch(none);
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function none(error: unknown): undefined {
  if (error instanceof ApiError && error.status === 404) return undefined;
  throw error;
}

export function setCondition(
  object: KubeObject,
  condition: { readonly type: string; readonly status: string; readonly reason: string; readonly message: string },
): boolean {
  object.status ??= {};
  const conditions = (object.status["conditions"] ?? []) as Condition[];
  const present = conditions.find(({ type }) => type === condition.type);
  if (present?.status === condition.status && present.reason === condition.reason) return false;
  const now = new Date().toISOString();
  const next = { ...condition, lastHeartbeatTime: now, lastTransitionTime: now };
  object.status["conditions"] = [...conditions.filter(({ type }) => type !== condition.type), next];
  return true;
}

/** Address and credentials of a kubeconfig file. */
export function readKubeconfig(text: string): { readonly url: string; readonly tls: ClientTls } {
  const file = parse(text) as {
    clusters: [{ cluster: { server: string; "certificate-authority-data": string } }];
    users: [{ user: { "client-certificate-data": string; "client-key-data": string } }];
  };
  const plain = (value: string) => Buffer.from(value, "base64").toString("utf8");
  const { cluster } = file.clusters[0];
  const { user } = file.users[0];
  return {
    url: cluster.server,
    tls: {
      ca: plain(cluster["certificate-authority-data"]),
      certificate: plain(user["client-certificate-data"]),
      key: plain(user["client-key-data"]),
    },
  };
}
