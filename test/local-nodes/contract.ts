/**
 * What every driver of nodes must do with the node commands, simulated or real: the contract suite, run over a bench that each driver provides.
 *
 * It looks at results, exit codes, uploads and ports alone, so it holds for anything that keeps core/node-commands.ts.
 */
import { createHash } from "node:crypto";
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
import type { Machine, NodeDriver } from "../../local/nodes/contract.js";

/** A driver with what it needs around it. */
export interface NodeBench {
  readonly driver: NodeDriver;
  /** A machine that has booted. */
  boot(machine?: Partial<Machine>): Promise<Machine>;
  /** Runs the world until the promise is settled. */
  settle<T>(promise: Promise<T>): Promise<T>;
  /** Lets this many seconds pass. */
  pass(seconds: number): Promise<void>;
  readonly store: {
    /** Address under which these bytes can be fetched. */
    give(name: string, body: Uint8Array | string): string;
    /** Address that can create one object of this name. */
    slot(name: string): string;
    taken(name: string): string | undefined;
    /** The same, byte for byte. */
    bytes(name: string): Uint8Array;
    /** How many requests the store answered. */
    readonly requests: number;
  };
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
    documentName: `drover-${command}-01234567`,
    content: { schemaVersion: "2.2", mainSteps: [{ action: "aws:runShellScript", name: command.replaceAll("-", "") }] },
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

export async function perform<N extends NodeCommandName>(
  bench: NodeBench,
  machine: Machine,
  command: N,
  parameters: Record<string, string>,
): Promise<Outcome<N>> {
  return bench.settle(begin(bench, machine, command, parameters));
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
    readonly architecture?: "amd64" | "arm64";
  } = {},
): string {
  const architecture = options.architecture ?? "amd64";
  const lines: string[] = [];
  for (const [name, body] of standInFiles({ version, architecture, imageSets: ["core", "canal"] })) {
    if (name === options.without) continue;
    const target = name.startsWith("rke2-images") ? `/var/lib/rancher/rke2/agent/images/${name}` : `/var/lib/drover/staging/${name}`;
    lines.push(
      get(target, bench.store.give(`release/${name}`, name === options.spoil ? Buffer.concat([body, Buffer.from("!")]) : body), undefined, "0644"),
    );
  }
  const config = `${(options.config ?? (options.role === "agent" ? baseConfig.slice(1) : serverConfig)).join("\n")}\n`;
  lines.push(get("/etc/rancher/rke2/config.yaml", bench.store.give("config.yaml", config), config));
  return bench.store.give("delivery-prepare", `${lines.join("\n")}\n`);
}

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
export const bootstrapParameters = (bench: NodeBench) => ({
  mode: "bootstrap",
  pool: "server",
  joinAddress: "",
  endpoint,
  delivery: tokenDelivery(bench, serverPassword, { agentToken: agentPassword, kubeconfig: "kubeconfig-1" }),
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
  expect(outcome).toMatchObject({ ok: true, exitCode: 0 });
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
export async function bootstrapped(bench: NodeBench): Promise<{ readonly first: Machine; readonly caHash: string }> {
  const first = await prepared(bench, "server");
  const { caHash } = succeeded(await perform(bench, first, "start-server", bootstrapParameters(bench)));
  return { first, caHash };
}

export async function joined(bench: NodeBench, caHash: string, through: Machine): Promise<Machine> {
  const machine = await prepared(bench, "server");
  succeeded(await perform(bench, machine, "start-server", joinParameters(bench, caHash, through.address)));
  return machine;
}

export function nodeCommandContract(driverName: string, makeBench: () => NodeBench): void {
  describe(`node commands on ${driverName}`, () => {
    describe("prepare-node", () => {
      it("installs a verified release and says so", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        const result = succeeded(await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server")));
        expect(result).toMatchObject({ node: `server-${machine.instanceId}`, changed: true, version, warnings: [] });
      });

      it("changes nothing the second time", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        const parameters = prepareParameters(bench, "server", "server");
        succeeded(await perform(bench, machine, "prepare-node", parameters));
        expect(succeeded(await perform(bench, machine, "prepare-node", parameters)).changed).toBe(false);
      });

      it("refuses an archive that differs from the release's own checksum file", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        const delivery = releaseDelivery(bench, { spoil: "rke2-images-core.linux-amd64.tar.zst" });
        const failure = failed(await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server", delivery)));
        expect(failure).toMatchObject({ code: "ChecksumMismatch", exitCode: 1 });
        expect(failure.message).toContain("rke2-images-core.linux-amd64.tar.zst");
      });

      it("refuses a delivery without the bundle", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        const delivery = releaseDelivery(bench, { without: "rke2.linux-amd64.tar.gz" });
        expect(failed(await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server", delivery))).code).toBe(
          "ConfigInvalid",
        );
      });

      it("refuses a release of another architecture", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        const delivery = releaseDelivery(bench, { architecture: "arm64" });
        expect(failed(await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server", delivery))).code).toBe(
          "UnsupportedOs",
        );
      });

      it("says that a delivery cannot be fetched", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        const delivery = `${bench.store.give("present", "x")}-gone`;
        expect(failed(await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server", delivery)))).toMatchObject({
          code: "DownloadFailed",
          exitCode: 1,
        });
      });

      it("writes nowhere but where a delivery may", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        const list = `${get("/etc/passwd", bench.store.give("passwd", "root::0:0"))}\n`;
        const delivery = bench.store.give("evil", list);
        expect(failed(await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server", delivery))).code).toBe(
          "ConfigInvalid",
        );
      });

      it("refuses parameters that are not as the contract has them", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        const failure = failed(
          await perform(bench, machine, "prepare-node", { ...prepareParameters(bench, "server", "server"), delivery: "http://plain.example" }),
        );
        expect(failure).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
        expect(bench.store.requests).toBe(0);
      });
    });

    describe("start-server", () => {
      it("makes a cluster, votes, and hands over RKE2's own kubeconfig", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        expect(caHash).toMatch(/^[0-9a-f]{64}$/);
        expect(bench.store.taken("kubeconfig-1")).toContain("server: https://127.0.0.1:6443");
        expect(bench.driver.answers(first.instanceId, 9345).answers).toBe(true);
        expect(bench.driver.answers(first.instanceId, 6443).answers).toBe(true);
        expect(bench.driver.clusters()).toMatchObject([
          { bootstrappedBy: first.instanceId, hasQuorum: true, members: [{ voter: true, healthy: true }] },
        ]);
      });

      it("starts the same cluster again when bootstrap is repeated on its machine", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const again = succeeded(await perform(bench, first, "start-server", bootstrapParameters(bench)));
        expect(again).toMatchObject({ changed: false, caHash, members: 1, voter: true });
        expect(bench.driver.clusters()).toHaveLength(1);
      });

      it("makes a second cluster when a second machine is told to bootstrap: nothing on a node can prevent that", async () => {
        const bench = makeBench();
        const { caHash } = await bootstrapped(bench);
        const second = await prepared(bench, "server");
        const other = succeeded(await perform(bench, second, "start-server", bootstrapParameters(bench)));
        expect(other.caHash).not.toBe(caHash);
        expect(bench.driver.clusters().map((cluster) => cluster.bootstrappedBy)).toContain(second.instanceId);
        expect(bench.driver.clusters()).toHaveLength(2);
      });

      it("joins through a running server and becomes a voter of the same cluster", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await prepared(bench, "server");
        const result = succeeded(await perform(bench, second, "start-server", joinParameters(bench, caHash, first.address)));
        expect(result).toMatchObject({
          node: `server-${second.instanceId}`,
          address: second.address,
          caHash,
          voter: true,
          members: 2,
          changed: true,
          version,
        });
        expect(bench.driver.clusters()).toHaveLength(1);
      });

      it("leaves a member that is joined again as it is", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await joined(bench, caHash, first);
        expect(succeeded(await perform(bench, second, "start-server", joinParameters(bench, caHash, first.address)))).toMatchObject({
          changed: false,
          members: 2,
        });
      });

      it("rejects a full token of another cluster's CA", async () => {
        const bench = makeBench();
        const { first } = await bootstrapped(bench);
        const second = await prepared(bench, "server");
        const failure = failed(await perform(bench, second, "start-server", joinParameters(bench, "a".repeat(64), first.address)));
        expect(failure.code).toBe("TokenRejected");
        expect(failure.log).toContain("token CA hash does not match");
      });

      it("rejects a wrong password, and never repeats it", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await prepared(bench, "server");
        const delivery = tokenDelivery(bench, fullToken(caHash, "server", "wrongPasswordOf32Characters00009"), { agentToken: agentPassword });
        const outcome = await perform(bench, second, "start-server", { ...joinParameters(bench, caHash, first.address), delivery });
        expect(failed(outcome).code).toBe("TokenRejected");
        expect(outcome.stdout + outcome.stderr).not.toContain("wrongPasswordOf32Characters00009");
      });

      it("refuses a short token for a join, which would trust any server", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await prepared(bench, "server");
        const delivery = tokenDelivery(bench, serverPassword, { agentToken: agentPassword });
        expect(failed(await perform(bench, second, "start-server", { ...joinParameters(bench, caHash, first.address), delivery })).code).toBe(
          "ConfigInvalid",
        );
      });

      it("refuses critical values that differ from the other servers", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await bench.boot();
        const delivery = releaseDelivery(bench, { config: [...serverConfig.slice(1), "cluster-cidr: 10.99.0.0/16"] });
        succeeded(await perform(bench, second, "prepare-node", prepareParameters(bench, "server", "server", delivery)));
        const failure = failed(await perform(bench, second, "start-server", joinParameters(bench, caHash, first.address)));
        expect(failure).toMatchObject({ code: "ConfigInvalid", exitCode: 1 });
        expect(failure.log).toContain("critical configuration mismatched: cluster-cidr");
      });

      it("refuses a machine that was not prepared", async () => {
        const bench = makeBench();
        const machine = await bench.boot();
        expect(failed(await perform(bench, machine, "start-server", bootstrapParameters(bench))).code).toBe("ConfigInvalid");
      });

      it("refuses a join without an address: it would be a bootstrap", async () => {
        const bench = makeBench();
        const machine = await prepared(bench, "server");
        expect(
          failed(await perform(bench, machine, "start-server", { ...joinParameters(bench, "a".repeat(64), "10.0.0.9"), joinAddress: "" })),
        ).toMatchObject({
          code: "ConfigInvalid",
          exitCode: 64,
        });
        expect(bench.driver.clusters()).toHaveLength(0);
      });

      it("ends in its own time when no server answers at the join address", async () => {
        const bench = makeBench();
        const machine = await prepared(bench, "server");
        expect(failed(await perform(bench, machine, "start-server", joinParameters(bench, "a".repeat(64), "10.0.47.9")))).toMatchObject({
          code: "StartTimedOut",
          exitCode: 75,
        });
      });
    });

    describe("start-agent", () => {
      it("joins an agent with the agent token", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const agent = await prepared(bench, "agent");
        expect(succeeded(await perform(bench, agent, "start-agent", agentParameters(bench, caHash, agent, [first.address])))).toMatchObject({
          node: `workers-${agent.instanceId}`,
          changed: true,
          version,
        });
        const again = succeeded(await perform(bench, agent, "start-agent", agentParameters(bench, caHash, agent, [first.address])));
        expect(again.changed).toBe(false);
      });

      it("joins through its own server, and when that does not answer through whichever other of the command does", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const silent = ["10.0.0.77", "10.0.0.78"];
        for (const at of [0, 1, 2]) {
          const agent = await prepared(bench, "agent");
          const addresses = [...silent.slice(0, at), first.address, ...silent.slice(at)] as [string, ...string[]];
          const parameters = agentParameters(bench, caHash, agent, addresses);
          expect(succeeded(await perform(bench, agent, "start-agent", parameters))).toMatchObject({ changed: true, version });
        }
      });

      it("gives up in time when none of them answers", async () => {
        const bench = makeBench();
        const { caHash } = await bootstrapped(bench);
        const agent = await prepared(bench, "agent");
        const parameters = agentParameters(bench, caHash, agent, ["10.0.0.77", "10.0.0.78"]);
        expect(failed(await perform(bench, agent, "start-agent", parameters)).code).toBe("StartTimedOut");
      });

      it("refuses a command that names no server for it", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const agent = await prepared(bench, "agent");
        const parameters = agentParameters(bench, caHash, { instanceId: "i-fffffffffffffffff" }, [first.address]);
        expect(failed(await perform(bench, agent, "start-agent", parameters))).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
      });

      it("rejects a token that is not of this cluster", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const agent = await prepared(bench, "agent");
        const wrong = fullToken(caHash, "node", "anotherPasswordOf32Characters008");
        expect(failed(await perform(bench, agent, "start-agent", agentParameters(bench, caHash, agent, [first.address], wrong))).code).toBe(
          "TokenRejected",
        );
      });

      it("does not start beside a server", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        expect(failed(await perform(bench, first, "start-agent", agentParameters(bench, caHash, first, ["10.0.0.77"]))).code).toBe("ConfigInvalid");
      });
    });

    describe("check-cluster", () => {
      it("counts members, voters and nodes, alike from every server", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await joined(bench, caHash, first);
        const third = await joined(bench, caHash, first);
        const agent = await prepared(bench, "agent");
        succeeded(await perform(bench, agent, "start-agent", agentParameters(bench, caHash, agent, [first.address])));
        await bench.pass(180);
        const views = [];
        for (const server of [first, second, third]) views.push(succeeded(await perform(bench, server, "check-cluster", { pool: "server" })));
        expect(views[0]).toMatchObject({
          apiReady: true,
          members: 3,
          voters: 3,
          serversReady: 3,
          agentsReady: 1,
          nodes: 4,
          notReady: [],
          podsPending: 0,
          changed: false,
          caHash,
        });
        expect(new Set(views.map((view) => view.clusterId)).size).toBe(1);
      });

      it("is not yet possible where no server has started", async () => {
        const bench = makeBench();
        const machine = await prepared(bench, "server");
        expect(failed(await perform(bench, machine, "check-cluster", { pool: "server" }))).toMatchObject({ code: "NotReady", exitCode: 75 });
      });

      it("says that the API does not answer once the majority is lost", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await joined(bench, caHash, first);
        bench.driver.halt(second.instanceId);
        expect(succeeded(await perform(bench, first, "check-cluster", { pool: "server" }))).toMatchObject({ apiReady: false, caHash, members: 0 });
        expect(bench.driver.answers(first.instanceId, 6443).answers).toBe(false);
        expect(bench.driver.answers(first.instanceId, 9345).answers).toBe(true);
      });
    });

    describe("remove-node", () => {
      it("takes out a dead server with its etcd member, and finds it gone the second time", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await joined(bench, caHash, first);
        const third = await joined(bench, caHash, first);
        bench.driver.halt(third.instanceId);
        const parameters = { pool: "server", nodes: `server-${third.instanceId}`, role: "server" };
        expect(succeeded(await perform(bench, second, "remove-node", parameters))).toMatchObject({ removed: 1, members: 2, changed: true });
        expect(succeeded(await perform(bench, first, "remove-node", parameters))).toMatchObject({ removed: 0, members: 2, changed: false });
      });

      it("stops rather than break the etcd majority", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await joined(bench, caHash, first);
        const third = await joined(bench, caHash, first);
        bench.driver.halt(third.instanceId);
        const failure = failed(await perform(bench, first, "remove-node", { pool: "server", nodes: `server-${second.instanceId}`, role: "server" }));
        expect(failure.code).toBe("NotReady");
        expect(failure.message).toContain("1 healthy of 2 etcd voters, majority is 2");
        expect(bench.driver.clusters()[0]?.members).toHaveLength(3);
      });

      it("does not take a server for an agent, nor itself", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        const second = await joined(bench, caHash, first);
        const remove = (node: Machine, role: string) =>
          perform(bench, first, "remove-node", { pool: "server", nodes: `server-${node.instanceId}`, role });
        expect(failed(await remove(second, "agent")).code).toBe("ConfigInvalid");
        expect(failed(await remove(first, "server"))).toMatchObject({ code: "ConfigInvalid", exitCode: 64 });
        expect(bench.driver.clusters()[0]?.members).toHaveLength(2);
      });

      it("refuses the disk of a removed member for ever", async () => {
        const bench = makeBench();
        const { first, caHash } = await bootstrapped(bench);
        await joined(bench, caHash, first);
        const third = await joined(bench, caHash, first);
        succeeded(await perform(bench, first, "remove-node", { pool: "server", nodes: `server-${third.instanceId}`, role: "server" }));
        const failure = failed(await perform(bench, third, "start-server", joinParameters(bench, caHash, first.address)));
        expect(failure.code).toBe("AlreadyMember");
      });
    });

    describe("collect-diagnostics", () => {
      it("uploads what it gathered, without a secret, and says its size and hash", async () => {
        const bench = makeBench();
        const { first } = await bootstrapped(bench);
        const delivery = bench.store.give(
          "delivery-diagnostics",
          `${deliveryLine({ kind: "put", name: "diagnostics", url: bench.store.slot("diagnostics"), headers: {} })}\n`,
        );
        const result = succeeded(await perform(bench, first, "collect-diagnostics", { pool: "server", delivery }));
        const taken = bench.store.taken("diagnostics") as string;
        expect(result.bytes).toBe(Buffer.byteLength(taken));
        expect(result.sha256).toBe(createHash("sha256").update(taken).digest("hex"));
        for (const secret of [serverPassword, agentPassword]) expect(taken).not.toContain(secret);
      });
    });

    it("runs one command at a time: the second waits, and gives up before long", async () => {
      const bench = makeBench();
      const machine = await prepared(bench, "server");
      const slow = begin(bench, machine, "start-server", joinParameters(bench, "a".repeat(64), "10.0.47.9"));
      await bench.pass(2);
      const second = await perform(bench, machine, "prepare-node", prepareParameters(bench, "server", "server"));
      expect(failed(second)).toMatchObject({ code: "AnotherCommandRuns", exitCode: 75 });
      expect(failed(await bench.settle(slow)).code).toBe("StartTimedOut");
    });
  });
}
