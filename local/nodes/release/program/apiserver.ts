/**
 * kube-apiserver: enough of the Kubernetes API for what a cluster's keeper asks, every object in etcd.
 *
 * Modelled: client certificates (no other way in), nodes, namespaces, pods, secrets, configmaps, events, leases and etcdsnapshotfiles; get, list with
 * equality selectors, create, update with resourceVersion, merge patch, delete with finalizers; exec, handed to the node's kubelet. What a controller
 * manager would do at a node's end is done here: its pods and its password go with it. Anything else is 404.
 */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:https";
import type { TLSSocket } from "node:tls";
import { ApiError, type KubeObject, send } from "./api.js";
import { type Entry, Etcd } from "./etcd.js";
import { everyAddress, loopback, reasonOf, server } from "./host.js";

interface Resource {
  readonly kind: string;
  readonly apiVersion: string;
  readonly namespaced: boolean;
  /** Where etcd has them. */
  readonly stored: string;
}

const resources: Readonly<Record<string, Resource>> = {
  "api/v1/nodes": { kind: "Node", apiVersion: "v1", namespaced: false, stored: "minions" },
  "api/v1/namespaces": { kind: "Namespace", apiVersion: "v1", namespaced: false, stored: "namespaces" },
  "api/v1/pods": { kind: "Pod", apiVersion: "v1", namespaced: true, stored: "pods" },
  "api/v1/secrets": { kind: "Secret", apiVersion: "v1", namespaced: true, stored: "secrets" },
  "api/v1/configmaps": { kind: "ConfigMap", apiVersion: "v1", namespaced: true, stored: "configmaps" },
  "api/v1/events": { kind: "Event", apiVersion: "v1", namespaced: true, stored: "events" },
  "apis/coordination.k8s.io/v1/leases": { kind: "Lease", apiVersion: "coordination.k8s.io/v1", namespaced: true, stored: "leases" },
  "apis/k3s.cattle.io/v1/etcdsnapshotfiles": {
    kind: "ETCDSnapshotFile",
    apiVersion: "k3s.cattle.io/v1",
    namespaced: false,
    stored: "k3s.cattle.io/etcdsnapshotfiles",
  },
};

interface Target {
  readonly resource: Resource;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource: string | undefined;
}

function targetOf(path: string): Target | undefined {
  const [, group = "", rest = ""] = /^\/((?:api|apis\/[^/]+)\/v1)\/(.*)$/.exec(path) ?? [];
  const scoped = /^namespaces\/([^/]+)\/(.+)$/.exec(rest);
  const [plural = "", name, subresource] = (scoped?.[2] ?? rest).split("/").map(decodeURIComponent);
  const resource = resources[`${group}/${plural}`];
  if (resource === undefined || (resource.namespaced && name !== undefined && scoped === null)) return undefined;
  return { resource, namespace: scoped?.[1], name, subresource };
}

const keyOf = ({ stored }: Resource, namespace: string | undefined, name: string) =>
  `/registry/${stored}/${namespace === undefined ? "" : `${namespace}/`}${name}`;

const objectOf = (entry: Entry): KubeObject => {
  const object = JSON.parse(entry.value) as KubeObject;
  object.metadata.resourceVersion = entry.modifiedAt;
  return object;
};

export async function runApiserver(args: readonly string[]): Promise<void> {
  const bind = args[0] ?? everyAddress;
  const tls = {
    ca: readFileSync(server("tls/etcd/server-ca.crt"), "utf8"),
    certificate: readFileSync(server("tls/etcd/client.crt"), "utf8"),
    key: readFileSync(server("tls/etcd/client.key"), "utf8"),
  };
  const store = new Store(new Etcd(`https://${loopback}:2379`, tls));
  const listener = createServer(
    {
      cert: readFileSync(server("tls/serving-kube-apiserver.crt")),
      key: readFileSync(server("tls/serving-kube-apiserver.key")),
      ca: readFileSync(server("tls/client-ca.crt")),
      requestCert: true,
      rejectUnauthorized: false,
      keepAliveTimeout: 30_000,
    },
    (asked, answer) => {
      serve(store, asked, answer).catch((error: unknown) => {
        const failure = error instanceof ApiError ? error : new ApiError(500, "InternalError", reasonOf(error));
        reply(answer, failure.status, {
          kind: "Status",
          apiVersion: "v1",
          status: "Failure",
          message: failure.message,
          reason: failure.reason,
          code: failure.status,
        });
      });
    },
  );
  listener.on("error", (error) => {
    process.stderr.write(
      `fatal: ${reasonOf(error).replace(/^listen EADDRINUSE: address already in use (.*)$/, "listen tcp $1: bind: address already in use")}\n`,
    );
    process.exit(1);
  });
  listener.listen(6443, bind);
  process.on("SIGTERM", () => process.exit(0));
}

function reply(answer: ServerResponse, status: number, body: unknown): void {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  answer.writeHead(status, { "content-type": typeof body === "string" ? "text/plain" : "application/json" }).end(text);
}

interface User {
  readonly name: string;
  readonly groups: readonly string[];
}

/** Who asks, by certificate. Nobody else may ask anything: anonymous-auth is off. */
function userOf(asked: IncomingMessage): User | undefined {
  const socket = asked.socket as TLSSocket;
  if (!socket.authorized) return undefined;
  const { subject } = socket.getPeerCertificate();
  if (subject === undefined || subject === null) return undefined;
  return { name: String(subject.CN), groups: [subject.O ?? []].flat() };
}

/** A node reads nodes and writes what is its own. */
function mayDo(user: User, method: string, { resource, namespace, name }: Target): boolean {
  if (user.groups.includes("system:masters")) return true;
  if (!user.groups.includes("system:nodes")) return false;
  const node = user.name.slice("system:node:".length);
  if (resource.kind === "Secret") return false;
  if (method === "GET") return true;
  if (resource.kind === "Node") return method !== "DELETE" && (name === undefined || name === node);
  if (resource.kind === "Lease") return namespace === "kube-node-lease" && (name === undefined || name === node);
  return resource.kind === "Pod" || resource.kind === "Event";
}

async function serve(store: Store, asked: IncomingMessage, answer: ServerResponse): Promise<void> {
  const url = new URL(asked.url ?? "/", "https://server");
  const method = asked.method ?? "GET";
  const user = userOf(asked);
  if (user === undefined) throw new ApiError(401, "Unauthorized", "Unauthorized");
  if (["/readyz", "/livez", "/healthz"].includes(url.pathname)) {
    const etcd = url.pathname === "/livez" ? undefined : await store.failure();
    if (etcd !== undefined) reply(answer, 500, `[+]ping ok\n[-]etcd failed: ${etcd}\n${url.pathname.slice(1)} check failed\n`);
    else reply(answer, 200, url.searchParams.has("verbose") ? `[+]ping ok\n[+]etcd ok\n${url.pathname.slice(1)} check passed\n` : "ok");
    return;
  }
  if (url.pathname === "/version") return reply(answer, 200, { gitVersion: process.env["RKE2_STAND_IN_VERSION"] });
  const target = targetOf(url.pathname);
  if (target === undefined) throw new ApiError(404, "NotFound", "the server could not find the requested resource");
  if (!mayDo(user, method, target))
    throw new ApiError(403, "Forbidden", `User "${user.name}" cannot do that to ${target.resource.kind} ${target.name ?? ""}`);
  const body = await bodyOf(asked);
  const { resource, namespace, name } = target;
  if (target.subresource === "exec" && name !== undefined) return reply(answer, 200, await exec(store, name, url.searchParams.getAll("command")));
  if (target.subresource !== undefined && target.subresource !== "status")
    throw new ApiError(404, "NotFound", "the server could not find the requested resource");
  if (method === "GET" && name !== undefined) return reply(answer, 200, await store.get(resource, namespace, name));
  if (method === "GET") {
    const items = (await store.list(resource, namespace)).filter((object) => selects(url.searchParams, object));
    return reply(answer, 200, { kind: `${resource.kind}List`, apiVersion: resource.apiVersion, metadata: {}, items });
  }
  if (method === "POST" && name === undefined) return reply(answer, 201, await store.create(resource, namespace, body as KubeObject));
  if (method === "PUT" && name !== undefined) return reply(answer, 200, await store.update(resource, namespace, name, () => body as KubeObject));
  if (method === "PATCH" && name !== undefined)
    return reply(answer, 200, await store.update(resource, namespace, name, (object) => mergePatch(object, body) as KubeObject));
  if (method === "DELETE" && name !== undefined) return reply(answer, 200, await store.remove(resource, namespace, name));
  throw new ApiError(405, "MethodNotAllowed", `${method} is not modelled for ${resource.kind}`);
}

async function bodyOf(asked: IncomingMessage): Promise<unknown> {
  let text = "";
  for await (const chunk of asked) text += chunk;
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(400, "BadRequest", "the body is not JSON");
  }
}

/** Equality selectors of labels and fields. */
function selects(query: URLSearchParams, object: KubeObject): boolean {
  const terms = (name: string) => (query.get(name) ?? "").split(",").filter((term) => term !== "");
  const holds = (term: string, valueOf: (path: string) => string) => {
    const [, path = term, operator = "", value = ""] = /^([^!=]+)(!=|==?)(.*)$/.exec(term) ?? [];
    if (operator === "") return valueOf(path) !== "";
    return (valueOf(path) === value) === (operator !== "!=");
  };
  const field = (path: string) =>
    String(path.split(".").reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], object) ?? "");
  return (
    terms("labelSelector").every((term) => holds(term, (label) => object.metadata.labels?.[label] ?? "")) &&
    terms("fieldSelector").every((term) => holds(term, field))
  );
}

function mergePatch(value: unknown, patch: unknown): unknown {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const merged: Record<string, unknown> = typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : {};
  for (const [key, each] of Object.entries(patch)) {
    if (each === null) delete merged[key];
    else merged[key] = mergePatch(merged[key], each);
  }
  return merged;
}

/** A command in a pod, run by the kubelet of its node. */
async function exec(store: Store, pod: string, command: readonly string[]): Promise<unknown> {
  const object = await store.get(resources["api/v1/pods"] as Resource, "kube-system", pod);
  const node = await store.get(resources["api/v1/nodes"] as Resource, undefined, String(object.spec?.["nodeName"]));
  const address = (node.status?.["addresses"] as { type: string; address: string }[]).find(({ type }) => type === "InternalIP")?.address;
  const tls = {
    ca: readFileSync(server("tls/server-ca.crt"), "utf8"),
    certificate: readFileSync(server("tls/client-kube-apiserver.crt"), "utf8"),
    key: readFileSync(server("tls/client-kube-apiserver.key"), "utf8"),
  };
  const answer = await send("POST", `https://${address}:10250/exec/kube-system/${pod}`, { tls, body: JSON.stringify(command), seconds: 20 });
  if (answer.status !== 200) throw new ApiError(500, "InternalError", `error dialing backend: ${answer.text}`);
  return JSON.parse(answer.text);
}

class Store {
  constructor(private readonly etcd: Etcd) {}

  /** Why etcd does not serve, or undefined. */
  async failure(): Promise<string | undefined> {
    return this.etcd.call("/v3/kv/range", { key: Buffer.from("/registry/health").toString("base64") }, 2).then(
      () => undefined,
      (error: unknown) => reasonOf(error),
    );
  }

  async get(resource: Resource, namespace: string | undefined, name: string): Promise<KubeObject> {
    const entry = await this.etcd.get(keyOf(resource, namespace, name));
    if (entry === undefined) throw missing(resource, name);
    return objectOf(entry);
  }

  async list(resource: Resource, namespace: string | undefined): Promise<KubeObject[]> {
    return (await this.etcd.range(keyOf(resource, namespace, ""), { prefix: true })).map(objectOf);
  }

  async create(resource: Resource, namespace: string | undefined, object: KubeObject): Promise<KubeObject> {
    if (!/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(object?.metadata?.name ?? ""))
      throw new ApiError(422, "Invalid", `${resource.kind} needs a valid metadata.name`);
    const { resourceVersion: _, ...metadata } = object.metadata;
    const made = {
      ...object,
      kind: resource.kind,
      apiVersion: resource.apiVersion,
      metadata: { ...metadata, ...(namespace !== undefined && { namespace }), uid: randomUUID(), creationTimestamp: new Date().toISOString() },
    };
    const revision = await this.etcd.put(keyOf(resource, namespace, metadata.name), JSON.stringify(made), { ifModifiedAt: "0" });
    if (revision === undefined) throw new ApiError(409, "AlreadyExists", `${resource.kind} "${metadata.name}" already exists`);
    return { ...made, metadata: { ...made.metadata, resourceVersion: revision } };
  }

  async update(resource: Resource, namespace: string | undefined, name: string, change: (object: KubeObject) => KubeObject): Promise<KubeObject> {
    const present = await this.get(resource, namespace, name);
    const changed = change(structuredClone(present));
    const { resourceVersion = present.metadata.resourceVersion, ...metadata } = changed.metadata;
    if (resourceVersion !== present.metadata.resourceVersion) throw conflict(resource, name);
    if (resource.kind === "Secret" && present["immutable"] === true && JSON.stringify(changed["data"]) !== JSON.stringify(present["data"])) {
      throw new ApiError(422, "Invalid", `Secret "${name}" is invalid: data: field is immutable when \`immutable\` is set`);
    }
    const fixed = { uid: present.metadata.uid, creationTimestamp: present.metadata.creationTimestamp };
    const next = { ...changed, metadata: { ...metadata, ...fixed } } as KubeObject;
    // The last finalizer of an object that was to be deleted is what deletes it.
    if (next.metadata.deletionTimestamp !== undefined && (next.metadata.finalizers ?? []).length === 0)
      return this.#erase(resource, namespace, name, present);
    const revision = await this.etcd.put(keyOf(resource, namespace, name), JSON.stringify(next), { ifModifiedAt: resourceVersion as string });
    if (revision === undefined) throw conflict(resource, name);
    return { ...next, metadata: { ...next.metadata, resourceVersion: revision } };
  }

  async remove(resource: Resource, namespace: string | undefined, name: string): Promise<KubeObject> {
    for (let attempt = 0; ; attempt++) {
      const present = await this.get(resource, namespace, name);
      try {
        if ((present.metadata.finalizers ?? []).length === 0) return await this.#erase(resource, namespace, name, present);
        if (present.metadata.deletionTimestamp !== undefined) return present;
        return await this.update(resource, namespace, name, (object) => {
          object.metadata.deletionTimestamp = new Date().toISOString();
          return object;
        });
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 409 || attempt === 9) throw error;
      }
    }
  }

  async #erase(resource: Resource, namespace: string | undefined, name: string, present: KubeObject): Promise<KubeObject> {
    const gone = await this.etcd.delete(keyOf(resource, namespace, name), { ifModifiedAt: present.metadata.resourceVersion as string });
    if (!gone) throw conflict(resource, name);
    if (resource.kind === "Node") await this.#sweepNode(name);
    return present;
  }

  /** What a controller manager removes after a node: its pods, its lease, and its password, which it owns since the releases of late 2025. */
  async #sweepNode(name: string): Promise<void> {
    await this.etcd.delete(`/registry/secrets/kube-system/${name}.node-password.rke2`);
    await this.etcd.delete(`/registry/leases/kube-node-lease/${name}`);
    const pods = await this.etcd.range("/registry/pods/", { prefix: true });
    for (const pod of pods.filter((entry) => objectOf(entry).spec?.["nodeName"] === name)) await this.etcd.delete(pod.key);
  }
}

const missing = (resource: Resource, name: string) => new ApiError(404, "NotFound", `${resource.kind.toLowerCase()}s "${name}" not found`);
const conflict = (resource: Resource, name: string) =>
  new ApiError(409, "Conflict", `Operation cannot be fulfilled on ${resource.kind.toLowerCase()}s "${name}": the object has been modified`);
