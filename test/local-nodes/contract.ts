/**
 * What every driver of nodes must do with the node commands, simulated or real: the contract suite, run over a bench that each driver provides.
 *
 * It looks at results, exit codes, uploads and ports alone, so it holds for anything that keeps core/node-commands.ts. Cases may run side by side, and
 * share what is dear: a case that harms a machine or a cluster boots its own.
 */
import { createHash } from "node:crypto";
import { gunzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import {
  deliveryLine,
  joinsText,
  type NodeCommandName,
  type NodeCommandResult,
  type NodeFailure,
  nodeCommands,
  nodeFailureSchema,
} from "../../core/node-commands.js";
import { standInFiles } from "../../local/aws/stand-in-release.js";
import type { Machine, NodeDriver, ObservedCluster } from "../../local/nodes/contract.js";
import { buildDocuments } from "../../nodes/documents.js";
import type { NodeStore } from "./store.js";

/** A driver with what it needs around it, for one case. */
export interface NodeBench {
  readonly driver: NodeDriver;
  readonly architecture: "amd64" | "arm64";
  /** A release that its machines run, by file name, the checksum file last. */
  readonly release: ReadonlyMap<string, Uint8Array>;
  readonly store: NodeStore;
  /** A machine of the case's own that has booted. */
  boot(machine?: Partial<Machine>): Promise<Machine>;
  /** Lends a machine on which nothing is installed; the case leaves it so. */
  blank(): Promise<Machine>;
  /** Lends a machine that is prepared and has never run as a node; the case leaves it so, whatever it was told to join. */
  candidate(role: "server" | "agent"): Promise<Machine>;
  /** Lends a cluster of one server; others may borrow it at the same time, and the case leaves it with that server alone. */
  cluster(): Promise<Cluster>;
  /** Runs the world until the promise is settled. */
  settle<T>(promise: Promise<T>): Promise<T>;
  /** Lets this many seconds pass. */
  pass(seconds: number): Promise<void>;
  /** Clusters as they are now. */
  clusters(): Promise<readonly ObservedCluster[]>;
  /** The case is over: what it borrowed goes back, what it booted goes. */
  done(): Promise<void>;
}

export interface Cluster {
  readonly first: Machine;
  readonly caHash: string;
  /** Name under which the store has its kubeconfig. */
  readonly kubeconfig: string;
}

export const version = "v1.35.7+rke2r1";
export const serverPassword = "s3rverPasswordOf32Characters0001";
export const agentPassword = "ag3ntPasswordOf32Characters00002";
export const endpoint = "drv-prod-0123abcd-0123456789abcdef.elb.eu-central-1.amazonaws.com";

const baseConfig = ["cluster-cidr: 10.42.0.0/16", "token-file: /etc/rancher/rke2/drover-token"];
const serverConfig = [...baseConfig, "agent-token-file: /etc/rancher/rke2/drover-agent-token", "cni: [canal]"];

export type Outcome<N extends NodeCommandName> =
  | { readonly exitCode: number; readonly ok: true; readonly result: NodeCommandResult<N>; readonly stdout: string; readonly stderr: string }
  | { readonly exitCode: number; readonly ok: false; readonly result: NodeFailure; readonly stdout: string; readonly stderr: string };

let commands = 0;
const documents = buildDocuments();

/** Starts a node command; the outcome comes as the world runs. */
export function begin<N extends NodeCommandName>(
  bench: NodeBench,
  machine: Machine,
  command: N,
  parameters: Record<string, string>,
): Promise<Outcome<N>> {
  const run = bench.driver.run({
    commandId: `command-${++commands}`,
    instanceId: machine.instanceId,
    documentName: documents[command].name,
    content: documents[command].content,
    parameters,
  });
  return run.ended.then((end) => {
    const [line = ""] = end.stdout.split("\n");
    expect(line.length, "a result fits what Run Command keeps").toBeLessThan(2000);
    const value: unknown = JSON.parse(line);
    const streams = { exitCode: end.exitCode, stdout: end.stdout, stderr: end.stderr };
    if ((value as { ok: boolean }).ok) return { ...streams, ok: true, result: nodeCommands[command].result.parse(value) as NodeCommandResult<N> };
    return { ...streams, ok: false, result: nodeFailureSchema.parse(value) };
  });
}

const turns = new WeakMap<Machine, Promise<unknown>>();

/** Runs a node command to its end; those of one machine one after another, whichever case asks. */
export async function perform<N extends NodeCommandName>(
  bench: NodeBench,
  machine: Machine,
  command: N,
  parameters: Record<string, string>,
): Promise<Outcome<N>> {
  const turn = (turns.get(machine) ?? Promise.resolve()).then(() => bench.settle(begin(bench, machine, command, parameters)));
  turns.set(
    machine,
    turn.catch(() => undefined),
  );
  return turn;
}

export const get = (target: string, url: string, body?: string | Uint8Array, mode = "0600") =>
  deliveryLine({ kind: "get", sha256: body === undefined ? undefined : createHash("sha256").update(body).digest("hex"), mode, target, url });

/** Delivery of prepare-node: a release and a configuration. */
export function releaseDelivery(
  bench: NodeBench,
  options: {
    readonly role?: "server" | "agent";
    readonly config?: readonly string[];
    readonly spoil?: string;
    readonly without?: string;
    /** Size of the core images, in place of the release's own. */
    readonly imageBytes?: number;
    /** For machines with another processor: its file names suffice. */
    readonly foreign?: boolean;
  } = {},
): string {
  const other = bench.architecture === "arm64" ? "amd64" : "arm64";
  const files = options.foreign ? standInFiles({ version, architecture: other, imageSets: ["core", "canal"] }) : bench.release;
  const lines: string[] = [];
  for (const [name, content] of files) {
    if (name === options.without) continue;
    const isImage = name.startsWith("rke2-images");
    const body = options.imageBytes !== undefined && name.startsWith("rke2-images-core") ? Buffer.alloc(options.imageBytes) : content;
    lines.push(
      get(
        isImage ? `/var/lib/rancher/rke2/agent/images/${name}` : `/var/lib/drover/staging/${name}`,
        bench.store.give(`release/${name}`, name === options.spoil ? Buffer.concat([body, Buffer.from("!")]) : body),
        undefined,
        "0644",
      ),
    );
  }
  const config = `${(options.config ?? configOf(options.role ?? "server")).join("\n")}\n`;
  lines.push(get("/etc/rancher/rke2/config.yaml", bench.store.give("config.yaml", config), config));
  return bench.store.give("delivery-prepare", `${lines.join("\n")}\n`);
}
const configOf = (role: "server" | "agent") => (role === "agent" ? baseConfig.slice(1) : serverConfig);

export function tokenDelivery(bench: NodeBench, token: string, options: { readonly agentToken?: string; readonly kubeconfig?: string } = {}): string {
  const lines = [get("/etc/rancher/rke2/drover-token", bench.store.give("token", `${token}\n`), `${token}\n`)];
  if (options.agentToken !== undefined) {
    lines.push(get("/etc/rancher/rke2/drover-agent-token", bench.store.give("agent-token", `${options.agentToken}\n`), `${options.agentToken}\n`));
  }
  if (options.kubeconfig !== undefined) {
    lines.push(deliveryLine({ kind: "put", name: "kubeconfig", url: bench.store.slot(options.kubeconfig), headers: { "if-none-match": "*" } }));
  }
  return bench.store.give("delivery-start", `${lines.join("\n")}\n`);
}

export const prepareParameters = (bench: NodeBench, role: "server" | "agent", pool: string, delivery = releaseDelivery(bench, { role })) => ({
  role,
  pool,
  delivery,
  version,
  profile: "none",
  selinux: "false",
});
let kubeconfigs = 0;
/** A name that no other cluster's kubeconfig has. */
const kubeconfigName = () => `kubeconfig-${++kubeconfigs}`;
export const bootstrapParameters = (bench: NodeBench, kubeconfig = kubeconfigName()) => ({
  mode: "bootstrap",
  pool: "server",
  joinAddress: "",
  endpoint,
  delivery: tokenDelivery(bench, serverPassword, { agentToken: agentPassword, kubeconfig }),
});
export const fullToken = (caHash: string, user: "server" | "node", password: string) => `K10${caHash}::${user}:${password}`;
export const joinParameters = (bench: NodeBench, caHash: string, joinAddress: string) => ({
  mode: "join",
  pool: "server",
  joinAddress,
  endpoint,
  delivery: tokenDelivery(bench, fullToken(caHash, "server", serverPassword), { agentToken: agentPassword }),
});
/** The first address is the agent's own, the others are of other nodes of the command. */
export const agentParameters = (
  bench: NodeBench,
  caHash: string,
  agent: Pick<Machine, "instanceId">,
  addresses: readonly [string, ...string[]],
  token = fullToken(caHash, "node", agentPassword),
) => ({
  pool: "workers",
  joins: joinsText(Object.fromEntries(addresses.map((address, index) => [index === 0 ? agent.instanceId : `i-ffffffffffffffff${index}`, address]))),
  endpoint,
  delivery: tokenDelivery(bench, token),
});

export function succeeded<N extends NodeCommandName>(outcome: Outcome<N>): NodeCommandResult<N> {
  expect(outcome, outcome.stderr).toMatchObject({ ok: true, exitCode: 0 });
  return outcome.result as NodeCommandResult<N>;
}
export function failed(outcome: Outcome<NodeCommandName>): NodeFailure & { readonly exitCode: number } {
  expect(outcome.ok).toBe(false);
  return { ...(outcome.result as NodeFailure), exitCode: outcome.exitCode };
}

export async function prepared(bench: NodeBench, role: "server" | "agent", machine?: Partial<Machine>): Promise<Machine> {
  const booted = await bench.boot(machine);
  succeeded(await perform(bench, booted, "prepare-node", prepareParameters(bench, role, role === "server" ? "server" : "workers")));
  return booted;
}

/** A cluster of one server. */
export async function bootstrapped(bench: NodeBench): Promise<Cluster> {
  const first = await prepared(bench, "server");
  const kubeconfig = kubeconfigName();
  const { caHash } = succeeded(await perform(bench, first, "start-server", bootstrapParameters(bench, kubeconfig)));
  return { first, caHash, kubeconfig };
}

export async function joined(bench: NodeBench, caHash: string, through: Machine): Promise<Machine> {
  const machine = await prepared(bench, "server");
  succeeded(await perform(bench, machine, "start-server", joinParameters(bench, caHash, through.address)));
  return machine;
}

/** Asks every other second until the answer is as it should be; fails with the last one. */
async function until<T>(bench: NodeBench, seconds: number, ask: () => T | Promise<T>, holds: (value: T) => boolean): Promise<T> {
  for (let waited = 0; ; waited += 2) {
    const value = await ask();
    if (holds(value)) return value;
    if (waited >= seconds) throw new Error(`not within ${seconds} s: ${JSON.stringify(value)}`);
    await bench.pass(2);
  }
}

const answering = (bench: NodeBench, machine: Machine, port: number, answers: boolean) =>
  until(
    bench,
    60,
    () => bench.driver.answers(machine.instanceId, port).answers,
    (now) => now === answers,
  );
const check = async (bench: NodeBench, server: Machine) => succeeded(await perform(bench, server, "check-cluster", { pool: "server" }));
const remove = (bench: NodeBench, by: Machine, node: string, role: "server" | "agent") =>
  perform(bench, by, "remove-node", { pool: "server", nodes: node, role });
const madeBy = (clusters: readonly ObservedCluster[], machine: Machine) =>
  clusters.filter(({ bootstrappedBy }) => bootstrappedBy === machine.instanceId);

/**
 * @param options.concurrent runs the cases side by side: for machines that take real time
 */
export function nodeCommandContract(driverName: string, makeBench: () => NodeBench, options: { readonly concurrent?: boolean } = {}): void {
  const on = (act: (bench: NodeBench) => Promise<void>) => async () => {
    const bench = makeBench();
    try {
      await act(bench);
    } finally {
      await bench.done();
    }
  };
  const prepare = (bench: NodeBench, machine: Machine, delivery: string, more: { readonly version?: string; readonly pool?: string } = {}) =>
    perform(bench, machine, "prepare-node", { ...prepareParameters(bench, "server", "server", delivery), ...more });

  describe(`node commands on ${driverName}`, { concurrent: options.concurrent ?? false }, () => {
    // Those that take longest come first: whoever runs them side by side is done sooner.
    it(
      "gives up a join when nothing listens at its address, and lets no second command in meanwhile",
      on(async (bench) => {
        const [machine, silent] = [await bench.candidate("server"), await bench.candidate("agent")];
        const slow = begin(bench, machine, "start-server", joinParameters(bench, "a".repeat(64), silent.address));
        await bench.pass(5);
        const second = await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server"));
        expect(failed(second)).toMatchObject({ code: "AnotherCommandRuns", exitCode: 75 });
        // RKE2 ends and systemd starts it again, every few seconds: twenty times are enough.
        const failure = failed(await bench.settle(slow));
        expect(failure).toMatchObject({ code: "ServiceFailed", exitCode: 1 });
        expect(failure.message).toMatch(/^rke2-server on server-i-\w+ ended 2\d times$/);
        expect(failure.log).toContain("failed to get CA certs");
      }),
    );

    it(
      "takes three servers together, counts them alike from each, and refuses the disk of one that was removed",
      on(async (bench) => {
        const [cluster, second, third, agent] = await Promise.all([
          bootstrapped(bench),
          prepared(bench, "server"),
          prepared(bench, "server"),
          prepared(bench, "agent"),
        ]);
        const { first, caHash } = cluster;
        const joining = joinParameters(bench, caHash, first.address);
        expect(succeeded(await perform(bench, second, "start-server", joining))).toMatchObject({
          node: `server-${second.instanceId}`,
          address: second.address,
          caHash,
          voter: true,
          members: 2,
          changed: true,
          version,
        });
        expect(succeeded(await perform(bench, second, "start-server", joining))).toMatchObject({ changed: false, members: 2 });
        const starts = await Promise.all([
          perform(bench, third, "start-server", joinParameters(bench, caHash, second.address)),
          perform(bench, agent, "start-agent", agentParameters(bench, caHash, agent, [first.address])),
        ]);
        for (const start of starts) succeeded(start);

        // Roles and pods come a while after the nodes.
        const whole = { apiReady: true, members: 3, voters: 3, serversReady: 3, agentsReady: 1, nodes: 4, notReady: [], podsPending: 0 };
        const ids = new Set<string>();
        for (const server of [first, second, third]) {
          const view = await until(
            bench,
            180,
            () => check(bench, server),
            ({ serversReady, podsPending }) => serversReady === 3 && podsPending === 0,
          );
          expect(view).toMatchObject({ ...whole, changed: false, caHash, version });
          ids.add(view.clusterId);
        }
        expect(ids.size).toBe(1);
        const seen = (await bench.clusters()).filter((each) => each.caHash === caHash);
        expect(seen).toMatchObject([{ bootstrappedBy: first.instanceId, hasQuorum: true }]);
        const members = seen[0]?.members.map(({ instanceId, voter, healthy }) => ({ instanceId, voter, healthy })) ?? [];
        expect(members).toHaveLength(3);
        for (const { instanceId } of [first, second, third]) expect(members).toContainEqual({ instanceId, voter: true, healthy: true });

        expect(failed(await remove(bench, first, `server-${second.instanceId}`, "agent"))).toMatchObject({ code: "ConfigInvalid", exitCode: 1 });
        expect(failed(await remove(bench, first, `server-${first.instanceId}`, "server"))).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
        expect((await check(bench, first)).members).toBe(3);

        const name = `server-${third.instanceId}`;
        expect(succeeded(await remove(bench, first, name, "server"))).toMatchObject({ removed: 1, members: 2, changed: true });
        expect(succeeded(await remove(bench, second, name, "server"))).toMatchObject({ removed: 0, members: 2, changed: false });
        await answering(bench, third, 9345, false);
        // systemd goes on trying; the disk is refused for ever.
        const refused = failed(await perform(bench, third, "start-server", joining));
        expect(refused).toMatchObject({ code: "AlreadyMember", exitCode: 1 });
        expect(refused.log).toContain("removed");
      }),
    );

    it(
      "takes out a dead server with its etcd member, keeps the majority meanwhile, and says when it is lost",
      on(async (bench) => {
        const [{ first, caHash }, second, third] = await Promise.all([bootstrapped(bench), prepared(bench, "server"), prepared(bench, "server")]);
        for (const machine of [second, third]) succeeded(await perform(bench, machine, "start-server", joinParameters(bench, caHash, first.address)));
        await until(
          bench,
          60,
          () => check(bench, first),
          ({ serversReady }) => serversReady === 3,
        );
        bench.driver.halt(third.instanceId);
        const [alive, dead] = [`server-${second.instanceId}`, `server-${third.instanceId}`];
        // The API notices a silent kubelet after 40 s only; until then it calls the dead server a healthy voter.
        const refused = failed(await remove(bench, first, alive, "server"));
        expect(refused).toMatchObject({ code: "NotReady", exitCode: 75 });
        expect(refused.message).toBe(`Removing ${alive} would leave 1 healthy of 2 etcd voters, majority is 2. Repair the others first`);
        expect(succeeded(await remove(bench, second, dead, "server"))).toMatchObject({ removed: 1, members: 2, changed: true });
        expect(succeeded(await remove(bench, first, dead, "server"))).toMatchObject({ removed: 0, members: 2, changed: false });

        bench.driver.halt(second.instanceId);
        expect(await check(bench, first)).toMatchObject({ apiReady: false, caHash, clusterId: "", members: 0, voters: 0, nodes: 0, version });
        // The supervisor needs no etcd.
        await answering(bench, first, 9345, true);
      }),
    );

    describe("prepare-node", () => {
      it(
        "installs a verified release and says so",
        on(async (bench) => {
          const machine = await bench.boot();
          const result = succeeded(await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server")));
          expect(result).toMatchObject({ node: `server-${machine.instanceId}`, changed: true, version });
          // About the machine alone: nobody has read the configuration yet.
          for (const warning of result.warnings) expect(warning).not.toContain("config.yaml");
        }),
      );

      it(
        "changes nothing the second time, and else what has changed",
        on(async (bench) => {
          const machine = await bench.candidate("server");
          const again = async (delivery: string) => {
            const outcome = await prepare(bench, machine, delivery);
            return { changed: succeeded(outcome).changed, log: outcome.stderr };
          };
          expect((await again(releaseDelivery(bench))).changed).toBe(false);
          const config = [...serverConfig, "write-kubeconfig-mode: '0600'"];
          expect((await again(releaseDelivery(bench, { config }))).changed).toBe(true);
          expect((await again(releaseDelivery(bench, { config }))).changed).toBe(false);
          const canal = `rke2-images-canal.linux-${bench.architecture}.tar.zst`;
          expect(await again(releaseDelivery(bench, { config, without: canal }))).toMatchObject({
            changed: true,
            log: expect.stringContaining(`removed ${canal}, which is not of this release`) as string,
          });
        }),
      );

      it(
        "refuses an archive that differs from the release's own checksum file",
        on(async (bench) => {
          const spoil = `rke2-images-core.linux-${bench.architecture}.tar.zst`;
          const failure = failed(await prepare(bench, await bench.blank(), releaseDelivery(bench, { spoil })));
          expect(failure).toMatchObject({ code: "ChecksumMismatch", exitCode: 1 });
          expect(failure.message).toMatch(/^rke2-images-core\S+ arrived with SHA-256 \w{64}, the release's checksum file says \w{64}\. Check/);
        }),
      );

      it(
        "refuses a bundle of another version than was asked for",
        on(async (bench) => {
          const failure = failed(await prepare(bench, await bench.blank(), releaseDelivery(bench), { version: "v1.35.6+rke2r1" }));
          expect(failure).toMatchObject({ code: "ChecksumMismatch", exitCode: 1 });
          expect(failure.message).toBe(`The bundle holds RKE2 ${version}, not v1.35.6+rke2r1. Check the artifact store`);
        }),
      );

      it(
        "refuses a delivery without the bundle",
        on(async (bench) => {
          const without = `rke2.linux-${bench.architecture}.tar.gz`;
          const failure = failed(await prepare(bench, await bench.blank(), releaseDelivery(bench, { without })));
          expect(failure).toMatchObject({ code: "ConfigInvalid", exitCode: 1, message: `The delivery has no ${without}` });
        }),
      );

      it(
        "refuses a release of another architecture",
        on(async (bench) => {
          const failure = failed(await prepare(bench, await bench.blank(), releaseDelivery(bench, { foreign: true })));
          expect(failure).toMatchObject({ code: "UnsupportedOs", exitCode: 1 });
          expect(failure.message).toContain(`this machine is ${bench.architecture}`);
        }),
      );

      it(
        "wants room for three times the archives and 512 MiB before it fetches any",
        on(async (bench) => {
          const imageBytes = 200 * 1_048_576;
          const failure = failed(await prepare(bench, await bench.boot({ rootVolumeGib: 1 }), releaseDelivery(bench, { imageBytes })));
          expect(failure).toMatchObject({ code: "DiskFull", exitCode: 1 });
          const sizeOf = (part: string) => [...bench.release].find(([name]) => name.startsWith(part))?.[1].length as number;
          const archives = sizeOf("rke2.linux") + sizeOf("rke2-images-canal") + imageBytes;
          expect(failure.message).toContain(`${Math.floor((3 * archives) / 1_048_576 + 512)} MiB are needed: three times the archives and 512 MiB`);
        }),
      );

      it(
        "says that a delivery cannot be fetched",
        on(async (bench) => {
          const delivery = `${bench.store.give("present", "x")}-gone`;
          const failure = failed(await prepare(bench, await bench.blank(), delivery));
          expect(failure).toMatchObject({ code: "DownloadFailed", exitCode: 1 });
          expect(failure.message).toContain("HTTP 404: the address has expired, or the store refuses or does not have the file");
          expect(bench.store.asked(delivery), "what is refused is not asked for again").toBe(1);
        }),
      );

      it(
        "writes nowhere but where a delivery may",
        on(async (bench) => {
          const delivery = bench.store.give("evil", `${get("/etc/passwd", bench.store.give("passwd", "root::0:0"))}\n`);
          const failure = failed(await prepare(bench, await bench.blank(), delivery));
          expect(failure).toMatchObject({ code: "ConfigInvalid", message: "The delivery list has a wrong get line for /etc/passwd" });
        }),
      );

      it(
        "refuses parameters that are not as the contract has them",
        on(async (bench) => {
          const machine = await bench.blank();
          const delivery = releaseDelivery(bench);
          const plain = delivery.replace("https:", "http:");
          expect(failed(await prepare(bench, machine, plain))).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
          expect(failed(await prepare(bench, machine, delivery, { version: "latest" }))).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
          const pool = failed(await prepare(bench, machine, delivery, { pool: "Server" }));
          expect(pool).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
          expect(pool.message).toBe("Parameter pool must match ^[a-z]([a-z0-9-]*[a-z0-9])?$, at most 30 characters");
          expect(bench.store.asked(delivery) + bench.store.asked(plain)).toBe(0);
        }),
      );

      it(
        "prepares no node again as another, or with another version, once it has started",
        on(async (bench) => {
          const { first } = await bench.cluster();
          const delivery = releaseDelivery(bench);
          const pool = failed(await prepare(bench, first, delivery, { pool: "control" }));
          expect(pool).toMatchObject({ code: "ForeignRke2", exitCode: 1 });
          expect(pool.message).toContain(`holds the data of server-${first.instanceId}, not of control-${first.instanceId}`);
          const release = failed(await prepare(bench, first, delivery, { version: "v1.36.3+rke2r1" }));
          expect(release).toMatchObject({ code: "ForeignRke2", exitCode: 1 });
          expect(release.message).toContain(`server-${first.instanceId} already runs with RKE2 ${version}, not v1.36.3+rke2r1`);
          expect(bench.store.asked(delivery)).toBe(0);
        }),
      );
    });

    describe("start-server", () => {
      it(
        "makes a cluster, votes, and hands over RKE2's own kubeconfig",
        on(async (bench) => {
          const { first, caHash, kubeconfig } = await bench.cluster();
          expect(caHash).toMatch(/^[0-9a-f]{64}$/);
          expect(bench.store.taken(kubeconfig)?.toString()).toContain("server: https://127.0.0.1:6443");
          await answering(bench, first, 9345, true);
          await answering(bench, first, 6443, true);
          expect(madeBy(await bench.clusters(), first)).toMatchObject([{ caHash, hasQuorum: true, members: [{ voter: true, healthy: true }] }]);
        }),
      );

      it(
        "starts the same cluster again when bootstrap is repeated on its machine, and uploads nothing twice",
        on(async (bench) => {
          const { first, caHash, kubeconfig } = await bench.cluster();
          const before = bench.store.taken(kubeconfig);
          const again = succeeded(await perform(bench, first, "start-server", bootstrapParameters(bench, kubeconfig)));
          expect(again).toMatchObject({ changed: false, caHash, members: 1, voter: true });
          expect(bench.store.taken(kubeconfig)).toBe(before);
          expect(madeBy(await bench.clusters(), first)).toHaveLength(1);
        }),
      );

      it(
        "says that a kubeconfig has nowhere to go",
        on(async (bench) => {
          const { first } = await bench.cluster();
          const delivery = tokenDelivery(bench, serverPassword, { agentToken: agentPassword });
          const failure = failed(await perform(bench, first, "start-server", { ...bootstrapParameters(bench), delivery }));
          expect(failure).toMatchObject({ code: "UploadFailed", exitCode: 1 });
          expect(failure.message).toBe("The kubeconfig of the new cluster cannot be uploaded: the delivery has no address for kubeconfig");
        }),
      );

      it(
        "makes a second cluster when a second machine is told to bootstrap, which then joins no other",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const second = await prepared(bench, "server");
          const early = tokenDelivery(bench, fullToken(caHash, "server", serverPassword), { agentToken: agentPassword, kubeconfig: "early" });
          const refused = failed(await perform(bench, second, "start-server", { ...bootstrapParameters(bench), delivery: early }));
          expect(refused).toMatchObject({ code: "ConfigInvalid", exitCode: 1 });
          expect(refused.message).toContain("Deliver the short form");
          // Nothing on a node can prevent it.
          const other = succeeded(await perform(bench, second, "start-server", bootstrapParameters(bench)));
          expect(other.caHash).not.toBe(caHash);
          expect(madeBy(await bench.clusters(), second)).toMatchObject([{ caHash: other.caHash }]);
          const failure = failed(await perform(bench, second, "start-server", joinParameters(bench, caHash, first.address)));
          expect(failure).toMatchObject({ code: "AlreadyMember", exitCode: 1 });
          expect(failure.message).toContain(`holds the CA ${other.caHash}, the cluster to join has ${caHash}`);
          // Nothing of the other cluster's was placed.
          expect(succeeded(await perform(bench, second, "start-server", bootstrapParameters(bench)))).toMatchObject({ changed: false, members: 1 });
        }),
      );

      it(
        "rejects a full token of another cluster's CA, and makes no cluster of a server that was told to join",
        on(async (bench) => {
          const { first } = await bench.cluster();
          const machine = await bench.candidate("server");
          const failure = failed(await perform(bench, machine, "start-server", joinParameters(bench, "a".repeat(64), first.address)));
          expect(failure).toMatchObject({ code: "TokenRejected", exitCode: 1 });
          expect(failure.log).toContain("token CA hash does not match");
          expect(failed(await perform(bench, machine, "start-server", bootstrapParameters(bench)))).toMatchObject({
            code: "SplitBrain",
            exitCode: 1,
          });
          expect(madeBy(await bench.clusters(), machine)).toEqual([]);
        }),
      );

      it(
        "rejects a wrong password, and never repeats it",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const delivery = tokenDelivery(bench, fullToken(caHash, "server", "wrongPasswordOf32Characters00009"), { agentToken: agentPassword });
          const machine = await bench.candidate("server");
          const outcome = await perform(bench, machine, "start-server", { ...joinParameters(bench, caHash, first.address), delivery });
          expect(failed(outcome)).toMatchObject({ code: "TokenRejected", exitCode: 1 });
          expect(outcome.stdout + outcome.stderr).not.toContain("wrongPasswordOf32Characters00009");
        }),
      );

      it(
        "refuses a join that would trust any server, reach itself, or be a bootstrap",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const machine = await bench.candidate("server");
          const join = (more: Record<string, string>) =>
            perform(bench, machine, "start-server", { ...joinParameters(bench, caHash, first.address), ...more });
          const short = failed(await join({ delivery: tokenDelivery(bench, serverPassword, { agentToken: agentPassword }) }));
          expect(short).toMatchObject({ code: "ConfigInvalid", exitCode: 1 });
          expect(failed(await join({ joinAddress: machine.address }))).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
          expect(failed(await join({ joinAddress: "" }))).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
        }),
      );

      it(
        "refuses a configuration that says whom to join",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const machine = await bench.candidate("server");
          const config = [...serverConfig, `server: "https://${first.address}:9345"`];
          succeeded(await prepare(bench, machine, releaseDelivery(bench, { config })));
          const failure = failed(await perform(bench, machine, "start-server", joinParameters(bench, caHash, first.address)));
          expect(failure).toMatchObject({ code: "ConfigInvalid", exitCode: 1 });
          expect(failure.message).toContain("/etc/rancher/rke2/config.yaml sets server:");
        }),
      );

      it(
        "refuses critical values that differ from the other servers, and only warns about keys it does not know",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const machine = await bench.candidate("server");
          const config = [...serverConfig.slice(1), "cluster-cidr: 10.99.0.0/16", "cluster-init: true"];
          succeeded(await prepare(bench, machine, releaseDelivery(bench, { config })));
          const failure = failed(await perform(bench, machine, "start-server", joinParameters(bench, caHash, first.address)));
          expect(failure).toMatchObject({ code: "ConfigInvalid", exitCode: 1 });
          expect(failure.log).toContain("Unknown flag --cluster-init found in config.yaml, skipping");
          expect(failure.log).toContain("critical configuration mismatched: cluster-cidr");
        }),
      );

      it(
        "refuses a machine that was not prepared",
        on(async (bench) => {
          const machine = await bench.boot();
          expect(failed(await perform(bench, machine, "start-server", bootstrapParameters(bench)))).toMatchObject({
            code: "ConfigInvalid",
            exitCode: 1,
          });
        }),
      );
    });

    describe("start-agent", () => {
      it(
        "joins an agent with the agent token, leaves it as it is the second time, and lets it be taken out",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const agent = await prepared(bench, "agent");
          const parameters = agentParameters(bench, caHash, agent, [first.address]);
          const name = `workers-${agent.instanceId}`;
          expect(succeeded(await perform(bench, agent, "start-agent", parameters))).toMatchObject({ node: name, changed: true, version });
          expect(succeeded(await perform(bench, agent, "start-agent", parameters)).changed).toBe(false);
          expect(failed(await perform(bench, agent, "check-cluster", { pool: "workers" }))).toMatchObject({ code: "NotReady", exitCode: 75 });
          expect(succeeded(await remove(bench, first, name, "agent"))).toMatchObject({ removed: 1, members: 1, changed: true });
          expect(succeeded(await remove(bench, first, name, "agent"))).toMatchObject({ removed: 0, members: 1, changed: false });
        }),
      );

      it(
        "joins through whichever other server of the command answers when its own does not",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const agent = await prepared(bench, "agent");
          const parameters = agentParameters(bench, caHash, agent, ["10.0.0.177", "10.0.0.178", first.address]);
          expect(succeeded(await perform(bench, agent, "start-agent", parameters))).toMatchObject({ changed: true, version });
          succeeded(await remove(bench, first, `workers-${agent.instanceId}`, "agent"));
        }),
      );

      it(
        "refuses a command that names no server for it, and a token that would trust any server",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const agent = await bench.candidate("agent");
          const nameless = agentParameters(bench, caHash, { instanceId: "i-fffffffffffffffff" }, [first.address]);
          expect(failed(await perform(bench, agent, "start-agent", nameless))).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
          const trusting = agentParameters(bench, caHash, agent, [first.address], agentPassword);
          expect(failed(await perform(bench, agent, "start-agent", trusting))).toMatchObject({ code: "ConfigInvalid", exitCode: 1 });
        }),
      );

      it(
        "rejects a token that is not of this cluster",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const agent = await bench.candidate("agent");
          const start = (token: string) => perform(bench, agent, "start-agent", agentParameters(bench, caHash, agent, [first.address], token));
          const ca = failed(await start(fullToken("b".repeat(64), "node", agentPassword)));
          expect(ca).toMatchObject({ code: "TokenRejected", exitCode: 1 });
          expect(ca.log).toContain("token CA hash does not match");
          const password = failed(await start(fullToken(caHash, "node", "anotherPasswordOf32Characters008")));
          expect(password).toMatchObject({ code: "TokenRejected", exitCode: 1 });
          expect(password.log).toContain("401 Unauthorized");
        }),
      );

      it(
        "does not start beside a server",
        on(async (bench) => {
          const { first, caHash } = await bench.cluster();
          const failure = failed(await perform(bench, first, "start-agent", agentParameters(bench, caHash, first, ["10.0.0.177"])));
          expect(failure).toMatchObject({ code: "ConfigInvalid", exitCode: 1 });
          expect(failure.message).toMatch(/^rke2-server runs on \S+, so rke2-agent will not start\./);
        }),
      );
    });

    describe("check-cluster", () => {
      it(
        "is not yet possible where no server has started",
        on(async (bench) => {
          const machine = await bench.candidate("server");
          expect(failed(await perform(bench, machine, "check-cluster", { pool: "server" }))).toMatchObject({ code: "NotReady", exitCode: 75 });
        }),
      );
    });

    describe("collect-diagnostics", () => {
      it(
        "uploads what it gathered, without a secret, and says its size and hash",
        on(async (bench) => {
          const { first } = await bench.cluster();
          const name = `diagnostics-${first.instanceId}`;
          const delivery = (url: string) =>
            bench.store.give("delivery-diagnostics", `${deliveryLine({ kind: "put", name: "diagnostics", url, headers: {} })}\n`);
          const parameters = { pool: "server", delivery: delivery(bench.store.slot(name)) };
          const result = succeeded(await perform(bench, first, "collect-diagnostics", parameters));
          const taken = bench.store.taken(name) as Buffer;
          expect(result).toMatchObject({ changed: false, bytes: taken.length, sha256: createHash("sha256").update(taken).digest("hex") });
          const text = gunzipSync(taken).toString("latin1");
          for (const part of ["rke2/rke2-server.log", "config/config.yaml", "config/20-drover-join.yaml"])
            expect(text).toContain(`server-${first.instanceId}/${part}`);
          expect(text).toContain("rke2 is up and running");
          for (const secret of [serverPassword, agentPassword]) expect(text).not.toContain(secret);
        }),
      );
    });
  });
}
