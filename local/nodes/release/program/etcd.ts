/**
 * etcd, spoken to through the JSON form of its own API (etcd, gRPC gateway), and the few questions of etcdctl that a cluster's keeper asks.
 */
import { createHash } from "node:crypto";
import { createWriteStream, readFileSync } from "node:fs";
import { type IncomingMessage, request as requestPlain } from "node:http";
import { connect } from "node:http2";
import { Agent, request } from "node:https";
import { finished } from "node:stream/promises";
import { resolveHost, root } from "./host.js";

export interface EtcdTls {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
}

export interface Member {
  /** Decimal, as the API gives it: 64 bits do not fit a JavaScript number. */
  readonly id: string;
  /** Empty until the member has started. */
  readonly name: string;
  readonly peers: readonly string[];
  readonly clients: readonly string[];
  readonly learner: boolean;
}

export interface Entry {
  readonly key: string;
  readonly value: string;
  readonly version: string;
  readonly createdAt: string;
  readonly modifiedAt: string;
}

export interface Status {
  readonly memberId: string;
  readonly leader: string;
  readonly learner: boolean;
  readonly version: string;
  readonly bytes: number;
  readonly term: string;
  readonly index: string;
  readonly revision: string;
  readonly cluster: string;
}

type Json = Record<string, unknown>;
const base64 = (text: string) => Buffer.from(text).toString("base64");
const plain = (text: unknown) => Buffer.from(String(text ?? ""), "base64").toString("utf8");
const textOf = (value: unknown) => (value === undefined ? "" : String(value));

export const hexOf = (id: string) => BigInt(id).toString(16);

export class Etcd {
  readonly #agent: Agent | undefined;
  readonly #tls: EtcdTls | undefined;
  /** @param url one member's client address */
  constructor(
    readonly url: string,
    tls: EtcdTls | undefined,
  ) {
    this.#tls = tls;
    this.#agent = tls && new Agent({ keepAlive: true, ca: tls.ca, cert: tls.certificate, key: tls.key, maxSockets: 64 });
  }

  #open(path: string, body: Json, seconds: number, onAnswer: (answer: IncomingMessage) => void, onError: (error: Error) => void): void {
    const { hostname, port, protocol } = new URL(this.url);
    const options = { host: resolveHost(hostname), port, path, method: "POST", timeout: seconds * 1000 };
    const sent =
      protocol === "https:" && this.#agent !== undefined
        ? request({ ...options, agent: this.#agent, checkServerIdentity: () => undefined }, onAnswer)
        : requestPlain(options, onAnswer);
    sent.on("error", onError);
    sent.on("timeout", () => sent.destroy(new Error("context deadline exceeded")));
    sent.end(JSON.stringify(body));
  }

  /** @throws Error with etcd's own text */
  async call(path: string, body: Json = {}, seconds = 10): Promise<Json> {
    return new Promise((resolve, reject) => {
      this.#open(
        path,
        body,
        seconds,
        (answer) => {
          let text = "";
          answer.on("data", (chunk) => {
            text += chunk;
          });
          answer.on("error", reject);
          answer.on("end", () => {
            try {
              const reply = JSON.parse(text) as Json;
              if (answer.statusCode === 200) resolve(reply);
              else reject(new Error(textOf(reply["error"] ?? reply["message"]) || `HTTP ${answer.statusCode}`));
            } catch {
              reject(new Error(`etcd answered ${answer.statusCode}: ${text.slice(0, 80)}`));
            }
          });
        },
        reject,
      );
    });
  }

  async range(key: string, options: { readonly prefix?: boolean; readonly serializable?: boolean } = {}): Promise<Entry[]> {
    const end = options.prefix ? `${key.slice(0, -1)}${String.fromCharCode(key.charCodeAt(key.length - 1) + 1)}` : undefined;
    const reply = await this.call("/v3/kv/range", {
      key: base64(key),
      ...(end !== undefined && { range_end: base64(end) }),
      ...(options.serializable && { serializable: true }),
    });
    return ((reply["kvs"] ?? []) as Json[]).map((kv) => ({
      key: plain(kv["key"]),
      value: plain(kv["value"]),
      version: textOf(kv["version"]),
      createdAt: textOf(kv["create_revision"]),
      modifiedAt: textOf(kv["mod_revision"]),
    }));
  }

  async get(key: string, options: { readonly serializable?: boolean } = {}): Promise<Entry | undefined> {
    return (await this.range(key, options))[0];
  }

  /** Writes if the key still is at this revision (0: if it is not there). Answers the new revision, or undefined when it is not so. */
  async put(key: string, value: string, options: { readonly ifModifiedAt?: string; readonly lease?: string } = {}): Promise<string | undefined> {
    const put = { key: base64(key), value: base64(value), ...(options.lease !== undefined && { lease: options.lease }) };
    return this.#change(key, { request_put: put }, options.ifModifiedAt);
  }

  async delete(key: string, options: { readonly ifModifiedAt?: string } = {}): Promise<boolean> {
    return (await this.#change(key, { request_delete_range: { key: base64(key) } }, options.ifModifiedAt)) !== undefined;
  }

  async #change(key: string, change: Json, ifModifiedAt: string | undefined): Promise<string | undefined> {
    const compare = ifModifiedAt === undefined ? [] : [{ key: base64(key), target: "MOD", result: "EQUAL", mod_revision: ifModifiedAt }];
    const reply = await this.call("/v3/kv/txn", { compare, success: [change] });
    return reply["succeeded"] === true ? textOf((reply["header"] as Json)["revision"]) : undefined;
  }

  async status(seconds = 3): Promise<Status> {
    const reply = await this.call("/v3/maintenance/status", {}, seconds);
    const header = reply["header"] as Json;
    return {
      memberId: textOf(header["member_id"]),
      leader: textOf(reply["leader"]) || "0",
      learner: reply["isLearner"] === true,
      version: textOf(reply["version"]),
      bytes: Number(reply["dbSize"] ?? 0),
      term: textOf(reply["raftTerm"]),
      index: textOf(reply["raftIndex"]) || "0",
      revision: textOf(header["revision"]),
      cluster: textOf(header["cluster_id"]),
    };
  }

  /** How many keys there are at a revision (0: the newest). */
  async count(revision: string): Promise<{ readonly count: string; readonly revision: string }> {
    const all = Buffer.alloc(1).toString("base64");
    const reply = await this.call("/v3/kv/range", { key: all, range_end: all, count_only: true, revision });
    return { count: textOf(reply["count"]) || "0", revision: textOf((reply["header"] as Json)["revision"]) };
  }

  /** Hash of all keys up to a revision (0: the newest), since the last compaction. */
  async hashAt(revision: string): Promise<{ readonly hash: string; readonly compacted: string }> {
    const { hostname, port, protocol } = new URL(this.url);
    const reply = await callGrpc(
      `${protocol}//${resolveHost(hostname)}:${port}`,
      this.#tls,
      "/etcdserverpb.Maintenance/HashKV",
      numberField(1, revision),
    );
    return { hash: fieldOf(reply, 2).toString(), compacted: BigInt.asIntN(64, fieldOf(reply, 3)).toString() };
  }

  async members(): Promise<Member[]> {
    return membersIn(await this.call("/v3/cluster/member/list"));
  }

  async addLearner(peer: string): Promise<void> {
    await this.call("/v3/cluster/member/add", { peerURLs: [peer], isLearner: true }, 20);
  }
  async remove(id: string): Promise<void> {
    await this.call("/v3/cluster/member/remove", { ID: id }, 20);
  }
  async promote(id: string): Promise<void> {
    await this.call("/v3/cluster/member/promote", { ID: id }, 10);
  }
  async update(id: string, peer: string): Promise<void> {
    await this.call("/v3/cluster/member/update", { ID: id, peerURLs: [peer] }, 10);
  }
  async moveLeader(id: string): Promise<void> {
    await this.call("/v3/maintenance/transfer-leadership", { targetID: id }, 20);
  }
  async grantLease(seconds: number): Promise<string> {
    return textOf((await this.call("/v3/lease/grant", { TTL: String(seconds) }))["ID"]);
  }
  /** Whether the lease still lives. */
  async keepLease(id: string): Promise<boolean> {
    const reply = await this.call("/v3/lease/keepalive", { ID: id });
    return Number((reply["result"] as Json | undefined)?.["TTL"] ?? 0) > 0;
  }

  /** Writes a snapshot of all data to a file: etcd's database, and the SHA-256 of it that etcd itself puts at its end. */
  async snapshot(path: string): Promise<void> {
    const file = createWriteStream(path, { mode: 0o600 });
    await new Promise<void>((resolve, reject) => {
      const fail = (error: Error) => {
        file.destroy();
        reject(error);
      };
      file.on("error", fail);
      this.#open(
        "/v3/maintenance/snapshot",
        {},
        120,
        (answer) => {
          let rest = "";
          answer.on("data", (chunk) => {
            rest += chunk;
            const lines = rest.split("\n");
            rest = lines.pop() as string;
            for (const line of lines) this.#keepBlob(line, file, fail);
          });
          answer.on("error", fail);
          answer.on("end", () => {
            if (rest !== "") this.#keepBlob(rest, file, fail);
            file.end();
            finished(file).then(resolve, fail);
          });
        },
        fail,
      );
    });
  }

  #keepBlob(line: string, file: NodeJS.WritableStream, fail: (error: Error) => void): void {
    const message = JSON.parse(line) as { result?: Json; error?: unknown };
    if (message.error !== undefined) fail(new Error(JSON.stringify(message.error)));
    else if (message.result?.["blob"] !== undefined) file.write(Buffer.from(textOf(message.result["blob"]), "base64"));
  }
}

function membersIn(reply: Json): Member[] {
  return ((reply["members"] ?? []) as Json[]).map((member) => ({
    id: textOf(member["ID"]),
    name: textOf(member["name"]),
    peers: (member["peerURLs"] ?? []) as string[],
    clients: (member["clientURLs"] ?? []) as string[],
    learner: member["isLearner"] === true,
  }));
}

/**
 * One call of etcd's API as gRPC has it. The JSON form has no hash of the keys alone in every version: `/v3/maintenance/hash` is that of the whole
 * database (etcd API reference, Maintenance), which differs from member to member.
 */
async function callGrpc(url: string, tls: EtcdTls | undefined, path: string, message: Buffer): Promise<Buffer> {
  const session = connect(url, { ...(tls && { ca: tls.ca, cert: tls.certificate, key: tls.key }), checkServerIdentity: () => undefined });
  try {
    return await new Promise<Buffer>((resolve, reject) => {
      session.on("error", reject);
      session.setTimeout(10_000, () => reject(new Error("context deadline exceeded")));
      const stream = session.request({ ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" });
      const chunks: Buffer[] = [];
      let status: unknown;
      let text: unknown;
      const note = (headers: Readonly<Record<string, unknown>>) => {
        status = headers["grpc-status"] ?? status;
        text = headers["grpc-message"] ?? text;
      };
      stream.on("response", note);
      stream.on("trailers", note);
      stream.on("data", (chunk: Buffer) => chunks.push(chunk));
      stream.on("error", reject);
      stream.on("end", () => {
        const body = Buffer.concat(chunks);
        if (status === "0" && body.length >= 5) resolve(body.subarray(5, 5 + body.readUInt32BE(1)));
        else reject(new Error(decodeURIComponent(textOf(text)) || `gRPC status ${textOf(status)}`));
      });
      // One message, not compressed, its length before it.
      const head = Buffer.alloc(5);
      head.writeUInt32BE(message.length, 1);
      stream.end(Buffer.concat([head, message]));
    });
  } finally {
    session.destroy();
  }
}

/** A field of a protobuf message whose value is a number. */
function numberField(number: number, value: string): Buffer {
  const bytes = [number << 3];
  for (let rest = BigInt.asUintN(64, BigInt(value)); ; rest >>= 7n) {
    if (rest < 128n) return Buffer.from([...bytes, Number(rest)]);
    bytes.push(Number(rest & 127n) | 128);
  }
}

/** The number in a field of a protobuf message; 0 when it has none. */
function fieldOf(message: Buffer, wanted: number): bigint {
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++] ?? 0;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = Number(varint());
    if ((key & 7) === 2) {
      const length = Number(varint());
      at += length;
    } else {
      const value = varint();
      if (key >> 3 === wanted) return value;
    }
  }
  return 0n;
}

/** Whether the last 32 bytes of a snapshot are the SHA-256 of the others. */
export function isWholeSnapshot(file: Buffer): boolean {
  if (file.length % 512 !== 32) return false;
  return createHash("sha256").update(file.subarray(0, -32)).digest().equals(file.subarray(-32));
}

export interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** How long etcdctl waits for an answer unless it is told (etcd source, global flag command-timeout). */
const commandSeconds = 5;

/** etcdctl as it lies in the etcd container: paths are the node's, because the directories are mounted under their own names. */
export async function etcdctl(args: readonly string[]): Promise<Ran> {
  const flags = new Map<string, string>();
  const words: string[] = [];
  for (let index = 0; index < args.length; index++) {
    const [, name, attached] = /^--?([a-z-]+)(?:=(.*))?$/.exec(args[index] as string) ?? [];
    if (name === undefined) words.push(args[index] as string);
    else if (["cluster", "prefix", "count-only"].includes(name)) flags.set(name, attached ?? "true");
    else flags.set(name === "w" ? "write-out" : name, attached ?? args[++index] ?? "");
  }
  const unknown = [...flags.keys()].find(
    (name) => !["endpoints", "cacert", "cert", "key", "write-out", "cluster", "prefix", "count-only", "rev"].includes(name),
  );
  if (unknown !== undefined)
    return { status: 128, stdout: "", stderr: `Error: unknown flag: --${unknown} (the stand-in's etcdctl does not model it)\n` };
  try {
    const file = (name: string) => readFileSync(`${root}${flags.get(name) ?? ""}`, "utf8");
    const tls = flags.has("cacert") ? { ca: file("cacert"), certificate: file("cert"), key: file("key") } : undefined;
    const etcd = new Etcd((flags.get("endpoints") ?? "http://127.0.0.1:2379").split(",")[0] as string, tls);
    const said = await answer(etcd, tls, words.join(" "), flags);
    return typeof said === "string" ? { status: 0, stdout: said, stderr: "" } : said;
  } catch (error) {
    return { status: 1, stdout: "", stderr: `Error: ${(error as Error).message}\n` };
  }
}

async function answer(etcd: Etcd, tls: EtcdTls | undefined, command: string, flags: ReadonlyMap<string, string>): Promise<string | Ran> {
  const form = flags.get("write-out") ?? "simple";
  const removed = /^member remove ([0-9a-f]+)$/.exec(command)?.[1];
  if (removed !== undefined) {
    await etcd.remove(BigInt(`0x${removed}`).toString());
    return `Member ${removed} removed from cluster\n`;
  }
  const rev = flags.get("rev") ?? "0";
  if (command.startsWith("get ")) {
    if (command !== "get " || !flags.has("prefix") || !flags.has("count-only"))
      throw new Error("the stand-in's etcdctl counts all keys, and gets none");
    const { count, revision } = await etcd.count(rev);
    // Upstream asks first and refuses the form after.
    if (form !== "fields") throw new Error("--count-only is only for `--write-out=fields`");
    const { cluster, memberId, term } = await etcd.status();
    const fields = { ClusterID: cluster, MemberID: memberId, Revision: revision, RaftTerm: term, More: "false", Count: count };
    return Object.entries(fields)
      .map(([name, value]) => `"${name}" : ${value}\n`)
      .join("");
  }
  const members = await etcd.members();
  const lines = (rows: readonly (readonly unknown[])[]) => rows.map((row) => `${row.join(", ")}\n`).join("");
  if (command === "member list") {
    if (form === "json") {
      const list = members.map(({ id, name, peers, clients, learner }) => {
        const fields = [
          `"ID":${id}`,
          ...(name === "" ? [] : [`"name":${JSON.stringify(name)}`]),
          `"peerURLs":${JSON.stringify(peers)}`,
          `"clientURLs":${JSON.stringify(clients)}`,
        ];
        return `{${[...fields, ...(learner ? ['"isLearner":true'] : [])].join(",")}}`;
      });
      return `{"header":${headerOf(await etcd.status())},"members":[${list.join(",")}]}\n`;
    }
    const rows = members.map(({ id, name, peers, clients, learner }) => [
      hexOf(id),
      name === "" ? "unstarted" : "started",
      name,
      peers.join(","),
      clients.join(","),
      learner,
    ]);
    return form === "table" ? table(["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"], rows) : lines(rows);
  }
  const addresses = flags.has("cluster") ? members.flatMap((member) => member.clients.slice(0, 1)) : [etcd.url];
  if (command === "endpoint hashkv") {
    const hashes = await Promise.all(addresses.map(async (address) => ({ address, ...(await new Etcd(address, tls).hashAt(rev)) })));
    if (form !== "json") return lines(hashes.map(({ address, hash }) => [address, hash]));
    const header = headerOf(await etcd.status());
    const list = hashes.map(
      ({ address, hash, compacted }) =>
        `{"Endpoint":${JSON.stringify(address)},"HashKV":{"header":${header},"hash":${hash}${compacted === "0" ? "" : `,"compact_revision":${compacted}`}}}`,
    );
    return `[${list.join(",")}]\n`;
  }
  if (command === "endpoint status" && form === "json") {
    const list = await Promise.all(
      addresses.map(async (address) => {
        const status = await new Etcd(address, tls).status();
        const { version, bytes, leader, index, term, learner } = status;
        // Empty fields are left out, as Go's encoder leaves them out.
        const fields = [
          `"header":${headerOf(status)}`,
          `"version":"${version}"`,
          `"dbSize":${bytes}`,
          ...(leader === "0" ? [] : [`"leader":${leader}`]),
          `"raftIndex":${index}`,
          `"raftTerm":${term}`,
          ...(learner ? ['"isLearner":true'] : []),
        ];
        return `{"Endpoint":${JSON.stringify(address)},"Status":{${fields.join(",")}}}`;
      }),
    );
    return `[${list.join(",")}]\n`;
  }
  if (command === "endpoint status") {
    const rows = await Promise.all(
      addresses.map(async (address) => {
        const status = await new Etcd(address, tls).status();
        return [
          address,
          hexOf(status.memberId),
          status.version,
          `${status.bytes} B`,
          status.memberId === status.leader,
          status.learner,
          status.term,
          status.index,
        ];
      }),
    );
    return form === "table"
      ? table(["ENDPOINT", "ID", "VERSION", "DB SIZE", "IS LEADER", "IS LEARNER", "RAFT TERM", "RAFT INDEX"], rows)
      : lines(rows);
  }
  if (command === "endpoint health") {
    const health = await Promise.all(
      addresses.map((endpoint) =>
        new Etcd(endpoint, tls).call("/v3/kv/range", { key: base64("health") }, commandSeconds).then(
          () => ({ endpoint, health: true, took: "1ms" }),
          (error: Error) => ({ endpoint, health: false, took: `${commandSeconds}s`, error: error.message }),
        ),
      ),
    );
    const ill = health.filter((each) => !each.health).map(({ endpoint }) => `${endpoint} is unhealthy: failed to commit proposal\n`);
    const well = health
      .filter((each) => each.health)
      .map(({ endpoint, took }) => `${endpoint} is healthy: successfully committed proposal: took = ${took}\n`);
    const isJson = form === "json";
    return {
      status: ill.length > 0 ? 1 : 0,
      stdout: isJson ? `${JSON.stringify(health)}\n` : well.join(""),
      stderr: `${isJson ? "" : ill.join("")}${ill.length > 0 ? "Error: unhealthy cluster\n" : ""}`,
    };
  }
  throw new Error(`unknown command "${command}" (the stand-in's etcdctl does not model it)`);
}

/** Ids have 64 bits and are written as etcd wrote them. */
const headerOf = ({ cluster, memberId, revision, term }: Status) =>
  `{"cluster_id":${cluster},"member_id":${memberId},"revision":${revision},"raft_term":${term}}`;

function table(heads: readonly string[], rows: readonly (readonly unknown[])[]): string {
  const all = [heads, ...rows.map((row) => row.map(String))];
  const widths = heads.map((_, column) => Math.max(...all.map((row) => String(row[column]).length)));
  const rule = `+${widths.map((width) => "-".repeat(width + 2)).join("+")}+\n`;
  const text = (row: readonly unknown[]) => `| ${row.map((cell, column) => String(cell).padEnd(widths[column] as number)).join(" | ")} |\n`;
  return `${rule}${text(heads)}${rule}${rows.map(text).join("")}${rule}`;
}
