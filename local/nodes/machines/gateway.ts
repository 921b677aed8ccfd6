/**
 * The network side of one local cloud of machines, a process of its own inside the cloud's network namespace: load balancers, name service, instance
 * metadata, and the door to S3.
 *
 * It decides nothing: which load balancers, targets and machines there are comes from the process that started it, and what the health checks see goes
 * back. When that process is killed, the gateway removes the cloud and ends.
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { createServer as createHttpServer, request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect, createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import type { ListenerTraffic } from "../../aws/elastic-load-balancing-v2.js";
import { leaveCgroups, removeCloud } from "./traces.js";
import { addresses, type FromGateway, type GatewaySetup, type GatewayState, type ToGateway } from "./wire.js";

type Target = ListenerTraffic["targets"][number];

/** A flow without packets this long is forgotten (Elastic Load Balancing user guide, TCP idle timeout). */
const idleMilliseconds = 350_000;
const probeMilliseconds = 1000;

let state: GatewayState = { kind: "state", machines: [], balancers: [], probes: [] };
const send = (message: FromGateway) => void process.send?.(message);

// -------------------------------------------------------------------------------------------------------------- health checks

interface Check {
  result: "initial" | "healthy" | "unhealthy";
  /** Results in a row that speak against `result`. */
  against: number;
  timer: NodeJS.Timeout | undefined;
  over: boolean;
}
const checks = new Map<string, Check>();
const answers = new Map<string, { answers: boolean; timer: NodeJS.Timeout | undefined; over: boolean }>();

function report(): void {
  send({
    kind: "seen",
    checks: Object.fromEntries([...checks].map(([key, { result }]) => [key, result])),
    answers: Object.fromEntries([...answers].map(([key, each]) => [key, each.answers])),
  });
}

const checkKey = (group: string, target: Target) => `${group} ${target.instanceId} ${target.port}`;

function followChecks(): void {
  const wanted = new Set<string>();
  for (const balancer of state.balancers) {
    if (!balancer.active) continue;
    for (const listener of balancer.listeners) {
      for (const target of listener.targets) {
        if (target.state === "draining") continue;
        const key = checkKey(listener.targetGroupArn, target);
        wanted.add(key);
        if (!checks.has(key)) void keepChecking(key, listener, target, balancer.nodes[0]?.address);
      }
    }
  }
  for (const [key, check] of checks) {
    if (wanted.has(key)) continue;
    check.over = true;
    clearTimeout(check.timer);
    checks.delete(key);
  }
  const probed = new Set(state.probes.map(({ instanceId, port }) => `${instanceId} ${port}`));
  for (const { instanceId, address, port } of state.probes) {
    const key = `${instanceId} ${port}`;
    if (!answers.has(key)) void keepProbing(key, address, port);
  }
  for (const [key, probe] of answers) {
    if (probed.has(key)) continue;
    probe.over = true;
    clearTimeout(probe.timer);
    answers.delete(key);
  }
}

async function keepChecking(key: string, { check }: ListenerTraffic, target: Target, from: string | undefined): Promise<void> {
  const record: Check = { result: "initial", against: 0, timer: undefined, over: false };
  checks.set(key, record);
  while (!record.over) {
    const passed = await passes(check, target, from);
    if (record.over) return;
    const before = record.result;
    // A new target serves after its first good check (Elastic Load Balancing user guide, register targets).
    if (record.result === "initial") {
      record.against++;
      if (passed) record.result = "healthy";
      else if (record.against >= check.unhealthyThreshold) record.result = "unhealthy";
      if (record.result !== "initial") record.against = 0;
    } else if (passed === (record.result === "healthy")) {
      record.against = 0;
    } else if (++record.against >= (passed ? check.healthyThreshold : check.unhealthyThreshold)) {
      record.result = passed ? "healthy" : "unhealthy";
      record.against = 0;
    }
    if (record.result !== before) report();
    await new Promise<void>((resolve) => {
      record.timer = setTimeout(resolve, check.intervalSeconds * 1000);
    });
  }
}

async function keepProbing(key: string, address: string, port: number): Promise<void> {
  const record = { answers: false, timer: undefined as NodeJS.Timeout | undefined, over: false };
  answers.set(key, record);
  while (!record.over) {
    const now = await connects(address, port, undefined, 2000);
    if (record.over) return;
    if (now !== record.answers) {
      record.answers = now;
      report();
    }
    await new Promise<void>((resolve) => {
      record.timer = setTimeout(resolve, probeMilliseconds);
    });
  }
}

function passes(check: ListenerTraffic["check"], target: Target, from: string | undefined): Promise<boolean> {
  const port = check.port === "traffic-port" ? target.port : Number(check.port);
  const limit = check.timeoutSeconds * 1000;
  if (check.protocol === "TCP") return connects(target.address, port, from, limit);
  return new Promise((resolve) => {
    const ask = check.protocol === "HTTPS" ? httpsRequest : httpRequest;
    const options = { host: target.address, port, path: check.path ?? "/", agent: false as const, rejectUnauthorized: false, servername: "" };
    const request = ask({ ...options, ...(from === undefined ? {} : { localAddress: from }), headers: { "user-agent": "ELB-HealthChecker/2.0" } });
    const timer = setTimeout(() => request.destroy(new Error("timeout")), limit);
    const end = (passed: boolean) => {
      clearTimeout(timer);
      resolve(passed);
    };
    request.once("response", (response: IncomingMessage) => {
      response.resume();
      response.once("error", () => {});
      end(matches(check.matcher ?? "200-399", response.statusCode ?? 0));
      request.destroy();
    });
    request.on("error", () => end(false));
    request.end();
  });
}

function connects(host: string, port: number, from: string | undefined, limit: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, ...(from === undefined ? {} : { localAddress: from }) });
    const end = (passed: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(passed);
    };
    const timer = setTimeout(() => end(false), limit);
    socket.once("connect", () => end(true));
    socket.on("error", () => end(false));
  });
}

/** `200`, `200,202` or `200-399`. */
function matches(matcher: string, status: number): boolean {
  return matcher.split(",").some((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return status >= (first as number) && status <= (last as number);
  });
}

// ------------------------------------------------------------------------------------------------------------- load balancers

interface Flow {
  readonly client: Socket;
  readonly upstream: Socket | undefined;
  readonly group: string;
  readonly key: string;
}
const doors = new Map<string, { readonly server: Server; readonly balancer: string; readonly address: string; readonly port: number }>();
const flows = new Set<Flow>();
const ownAddresses = new Set<string>();
let turns = 0;

function followBalancers(previous: GatewayState): void {
  const wanted = new Map<string, { balancer: string; address: string; port: number }>();
  const wantedAddresses = new Set<string>();
  for (const balancer of state.balancers) {
    if (!balancer.active) continue;
    for (const { address } of balancer.nodes) {
      wantedAddresses.add(address);
      for (const { port } of balancer.listeners) wanted.set(`${address}:${port}`, { balancer: balancer.arn, address, port });
    }
  }
  for (const address of wantedAddresses) {
    if (ownAddresses.has(address)) continue;
    execFileSync("ip", ["address", "replace", `${address}/32`, "dev", "lo"]);
    ownAddresses.add(address);
  }
  for (const [key, door] of doors) {
    if (wanted.has(key)) continue;
    door.server.close();
    doors.delete(key);
  }
  // Before its address goes, from which a client could not be told of the end any more.
  endFlows(previous);
  for (const address of ownAddresses) {
    if (wantedAddresses.has(address)) continue;
    execFileSync("ip", ["address", "delete", `${address}/32`, "dev", "lo"]);
    ownAddresses.delete(address);
  }
  for (const [key, { balancer, address, port }] of wanted) {
    if (doors.has(key)) continue;
    const server = createServer({ allowHalfOpen: true }, (client) => carry(client, balancer, address, port));
    server.once("error", fail);
    server.listen(port, address, 4096);
    doors.set(key, { server, balancer, address, port });
  }
}

/** Ends the connections to targets that have drained or become unhealthy, where the target group says so, and all of a load balancer that is gone. */
function endFlows(previous: GatewayState): void {
  const listeners = (from: GatewayState) => from.balancers.flatMap((balancer) => balancer.listeners);
  const now = new Map(listeners(state).flatMap((each) => each.targets.map((target) => [checkKey(each.targetGroupArn, target), target] as const)));
  const groups = new Map(listeners(state).map((each) => [each.targetGroupArn, each]));
  const before = new Map(
    listeners(previous).flatMap((each) => each.targets.map((target) => [checkKey(each.targetGroupArn, target), target] as const)),
  );
  for (const flow of flows) {
    const group = groups.get(flow.group);
    const target = now.get(flow.key);
    const was = before.get(flow.key);
    const drained = was?.state === "draining" && target === undefined && group?.endsDrained === true;
    const unhealthy = was?.state === "healthy" && target?.state === "unhealthy" && group?.endsUnhealthy === true;
    if (group === undefined || drained || unhealthy) {
      flow.client.resetAndDestroy();
      flow.upstream?.resetAndDestroy();
    }
  }
}

function carry(client: Socket, arn: string, address: string, port: number): void {
  client.on("error", () => {});
  const balancer = state.balancers.find((each) => each.arn === arn);
  const listener = balancer?.listeners.find((each) => each.port === port);
  const zone = balancer?.nodes.find((each) => each.address === address)?.zone;
  if (listener === undefined) {
    client.resetAndDestroy();
    return;
  }
  const reachable = reach(listener, zone);
  const target = reachable[turns++ % Math.max(1, reachable.length)];
  if (target === undefined) {
    client.resetAndDestroy();
    return;
  }
  const key = checkKey(listener.targetGroupArn, target);
  const track = (flow: Flow) => {
    flows.add(flow);
    client.once("close", () => flows.delete(flow));
  };
  // With its own address as source, a target's answer to itself never leaves it: the connection hangs.
  if (listener.preserveClientIp && client.remoteAddress === target.address) {
    track({ client, upstream: undefined, group: listener.targetGroupArn, key });
    client.once("end", () => client.destroy());
    return;
  }
  const upstream = connect({ host: target.address, port: target.port, localAddress: address, allowHalfOpen: true });
  track({ client, upstream, group: listener.targetGroupArn, key });
  for (const socket of [client, upstream]) socket.setTimeout(idleMilliseconds, () => socket.destroy());
  client.setNoDelay(true);
  upstream.setNoDelay(true);
  upstream.once("error", () => client.resetAndDestroy());
  client.once("error", () => upstream.resetAndDestroy());
  client.once("close", () => upstream.destroy());
  upstream.once("close", () => client.destroySoon());
  client.pipe(upstream).pipe(client);
}

/** Targets that take a new connection: the healthy ones, or all that do not drain when none is healthy. */
function reach(listener: ListenerTraffic, zone: string | undefined): readonly Target[] {
  const near = listener.targets.filter((target) => target.state !== "draining" && (listener.crossZone || target.zone === zone));
  const healthy = near.filter((target) => target.state === "healthy");
  return healthy.length > 0 ? healthy : near;
}

// --------------------------------------------------------------------------------------------------------------- name service

/** Each question for addresses is answered in another order. */
let lookups = 0;

/** Addresses of a name; undefined when there is no such name. */
function resolve(region: string, given: string): readonly string[] | undefined {
  const name = given.toLowerCase().replace(/\.$/, "");
  if (name === `s3.${region}.amazonaws.com` || name.endsWith(`.s3.${region}.amazonaws.com`)) return [addresses.store];
  const [, host] = /^ip-(\d+-\d+-\d+-\d+)\./.exec(name) ?? [];
  if (host !== undefined) {
    const address = host.replaceAll("-", ".");
    return state.machines.some((machine) => machine.address === address) ? [address] : undefined;
  }
  const balancer = state.balancers.find((each) => each.active && each.dnsName.toLowerCase() === name);
  if (balancer === undefined) return undefined;
  // A zone in which nothing is healthy leaves the answer, unless that is so everywhere.
  const serving = balancer.nodes.filter(({ zone }) =>
    balancer.listeners.some((listener) => reach(listener, zone).some((target) => target.state === "healthy")),
  );
  const shown = (serving.length > 0 ? serving : balancer.nodes).map((node) => node.address);
  const first = lookups % Math.max(1, shown.length);
  return [...shown.slice(first), ...shown.slice(0, first)];
}

/** One question, one answer (RFC 1035). */
function answerName(region: string, query: Buffer): Buffer | undefined {
  if (query.length < 17 || query.readUInt16BE(4) !== 1) return undefined;
  const labels: string[] = [];
  let at = 12;
  for (;;) {
    const length = query[at];
    if (length === undefined || length > 63) return undefined;
    at++;
    if (length === 0) break;
    labels.push(query.toString("latin1", at, at + length));
    at += length;
  }
  if (query.length < at + 4) return undefined;
  const type = query.readUInt16BE(at);
  const question = query.subarray(12, at + 4);
  if (type === 1) lookups++;
  const found = resolve(region, labels.join("."));
  const shown = type === 1 ? (found ?? []) : [];
  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  // Response, recursion as asked and available, NXDOMAIN where there is no such name.
  header.writeUInt16BE(0x8080 | (query.readUInt16BE(2) & 0x0100) | (found === undefined ? 3 : 0), 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(shown.length, 6);
  const records = shown.map((address) => Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, ...address.split(".").map(Number)]));
  return Buffer.concat([header, question, ...records]);
}

// ----------------------------------------------------------------------------------------------------------- instance metadata

const tokens = new Map<string, number>();

/** IMDSv2 as with HttpTokens=required: a token first, by PUT, and none for requests that were forwarded. */
function answerMetadata(request: IncomingMessage): { status: number; body: string; headers?: Record<string, string> } {
  const remote = (request.socket.remoteAddress ?? "").replace(/^::ffff:/, "");
  const machine = state.machines.find((each) => each.address === remote);
  if (machine === undefined) return { status: 404, body: "" };
  const path = (request.url ?? "/").replace(/\?.*$/, "").replace(/\/{2,}/g, "/");
  if (request.method === "PUT" && path === "/latest/api/token") {
    if (request.headers["x-forwarded-for"] !== undefined) return { status: 403, body: "" };
    const ttl = String(request.headers["x-aws-ec2-metadata-token-ttl-seconds"] ?? "");
    const seconds = /^\d{1,5}$/.test(ttl) ? Number(ttl) : 0;
    if (!(seconds >= 1 && seconds <= 21_600)) return { status: 400, body: "" };
    const token = randomBytes(42).toString("base64url");
    tokens.set(`${remote} ${token}`, Date.now() + seconds * 1000);
    return { status: 200, body: token, headers: { "x-aws-ec2-metadata-token-ttl-seconds": ttl } };
  }
  if (request.method !== "GET" && request.method !== "HEAD") return { status: 405, body: "" };
  const token = `${remote} ${String(request.headers["x-aws-ec2-metadata-token"] ?? "")}`;
  if ((tokens.get(token) ?? 0) <= Date.now()) return { status: 401, body: "" };
  const wanted = path.replace(/^\/(latest|20\d\d-\d\d-\d\d)\//, "").replace(/^meta-data\/?/, "");
  const value = machine.metadata[wanted];
  if (value !== undefined) return { status: 200, body: value };
  const folder = wanted === "" || wanted.endsWith("/") ? wanted : `${wanted}/`;
  const names = Object.keys(machine.metadata).filter((name) => name.startsWith(folder));
  if (names.length === 0) return { status: 404, body: "" };
  return { status: 200, body: [...new Set(names.map((name) => name.slice(folder.length).replace(/\/.*/, "/")))].sort().join("\n") };
}

// ------------------------------------------------------------------------------------------------------------------- the rest

function fail(error: Error): void {
  send({ kind: "failed", message: error.message });
}

async function listening(server: Server, ...place: [number, string] | [string]): Promise<void> {
  await new Promise<void>((done, reject) => {
    server.once("error", reject);
    if (place.length === 1) server.listen(place[0], done);
    else server.listen(place[0], place[1], done);
  });
}

/** Joins two connections until either ends. */
function join(a: Socket, b: Socket): void {
  a.on("error", () => b.destroy());
  b.on("error", () => a.destroy());
  a.once("close", () => b.destroySoon());
  b.once("close", () => a.destroySoon());
  a.pipe(b).pipe(a);
}

async function begin(setup: GatewaySetup): Promise<void> {
  const { region } = setup;
  const store = createTlsServer({ cert: setup.certificate, key: setup.key, ALPNProtocols: ["http/1.1"] }, (client) =>
    join(client, connect(setup.storeSocket)),
  );
  store.on("tlsClientError", () => {});
  await listening(store, 443, addresses.store);

  const metadata = createHttpServer((request, response) => {
    const { status, body, headers } = answerMetadata(request);
    response.writeHead(status, { server: "EC2ws", "content-type": "text/plain", "content-length": Buffer.byteLength(body), ...headers });
    response.end(request.method === "HEAD" ? undefined : body);
  });
  await listening(metadata, 80, addresses.metadata);

  const names = createSocket("udp4", (query, from) => {
    const answer = answerName(region, query);
    if (answer !== undefined) names.send(answer, from.port, from.address);
  });
  names.on("error", fail);
  await new Promise<void>((done) => names.bind(53, addresses.names, done));

  // `<host> <port>` and a newline, then the connection.
  const dial = createServer((client) => {
    client.on("error", () => {});
    client.once("readable", () => {
      const begun = (client.read() ?? Buffer.alloc(0)) as Buffer;
      const end = begun.indexOf("\n");
      const line = begun.toString("utf8", 0, Math.max(0, end));
      // What follows on the line's heels belongs to the connection.
      if (end >= 0 && end + 1 < begun.length) client.unshift(begun.subarray(end + 1));
      const [host = "", port = ""] = line.split(" ");
      const [address] = /^[\d.]+$/.test(host) ? [host] : (resolve(region, host) ?? []);
      if (address === undefined) client.destroy();
      else join(client, connect(Number(port), address));
    });
  });
  await listening(dial, setup.dialSocket);
  send({ kind: "ready" });
}

let cloud: string | undefined;

process.on("message", (message: ToGateway) => {
  if (message.kind === "end") process.exit(0);
  if (message.kind === "setup") {
    cloud = message.cloud;
    begin(message).catch((error: unknown) => fail(error instanceof Error ? error : new Error(String(error))));
    return;
  }
  const previous = state;
  state = message;
  try {
    followBalancers(previous);
  } catch (error) {
    fail(error instanceof Error ? error : new Error(String(error)));
  }
  followChecks();
});
process.on("disconnect", () => {
  if (cloud !== undefined) {
    leaveCgroups();
    removeCloud(cloud);
  }
  process.exit(0);
});
// The cloud's own process says when it is time: both get the signals of a terminal.
process.on("SIGINT", () => {});
process.on("SIGTERM", () => {});
