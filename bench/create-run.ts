/**
 * One create in a world of its own, and everything the bench wants to know of it. Nothing goes wrong in it: the bench measures the usual course, the
 * simulator the unusual one.
 */
import { createCost } from "../core/costs.js";
import { type LowerBound, lowerBound } from "../core/latency-bound.js";
import { stateKeys } from "../core/layout.js";
import type { OperationRecord } from "../core/records.js";
import type { Ec2 } from "../local/aws/ec2.js";
import type { S3 } from "../local/aws/s3.js";
import type { Sfn } from "../local/aws/sfn.js";
import { stockArtifactStore } from "../local/demo.js";
import type { NodeDriver } from "../local/nodes/contract.js";
import { callsMade, paidUsage } from "../local/usage.js";
import { World } from "../local/world.js";
import { type AgentDraws, type Draws, ownBound } from "./own-bound.js";

export interface CreateJob {
  /** Directory of the synthesized assembly. */
  readonly assembly: string;
  readonly servers: number;
  readonly agents: number;
  readonly seed: number;
}

export interface CreateFigures {
  readonly seed: number;
  readonly agents: number;
  /** From the request to the end of the operation, virtual. */
  readonly readySeconds: number;
  readonly medians: LowerBound;
  readonly own: LowerBound;
  /** When what the bounds speak of came true. */
  readonly came: Readonly<Record<"F" | "K" | "A" | "E", number>>;
  /** When each milestone was last met. */
  readonly milestones: Readonly<Record<string, number>>;
  readonly transitions: number;
  readonly childStarts: number;
  /** Events of the longest history. */
  readonly largestHistory: number;
  readonly calls: { readonly functions: number; readonly workflows: number; readonly downloads: number };
  readonly dollars: number;
  readonly dollarsByService: Readonly<Record<string, number>>;
  readonly lambda: { readonly invocations: number; readonly milliseconds: number };
  /** Of this process, for boot, create and observation. */
  readonly cpuSeconds: number;
}

const seconds = 1000;
const limitSeconds = 6 * 3600;

/** @throws when the create does not succeed, with the failure card */
export async function createRun({ assembly, servers, agents, seed }: CreateJob): Promise<CreateFigures> {
  const cpu = process.cpuUsage();
  const world = World.boot({ assembly, seed });
  try {
    stockArtifactStore(world);
    const observed = observe(world);
    const startMs = world.clock.now();
    const answer = await world.request("POST", "/clusters", {
      requestId: `bench-${seed}-${agents}`,
      file: JSON.stringify(clusterFile(servers, agents)),
    });
    if (answer.status !== 202) throw new Error(`the create of 3+${agents} was answered with ${answer.status}: ${answer.body}`);
    const { operation: id } = JSON.parse(answer.body) as { operation: string };
    const sfn = world.service<Sfn>("sfn");
    const record = (): OperationRecord | undefined => readOperation(world, id);
    const hasEnded = () => ["succeeded", "failed"].includes(record()?.status ?? "");
    // The record is looked at only when executions have come to rest.
    const end = await world.runUntil(() => sfn.executions().length > 0 && sfn.running().length === 0 && hasEnded(), {
      at: startMs + limitSeconds * seconds,
    });
    const operation = record();
    if (operation?.status !== "succeeded" || operation.endedAt === undefined) {
      throw new Error(
        `the create of ${servers}+${agents} with seed ${seed} did not succeed (${end}): ${JSON.stringify(operation?.card ?? operation)}`,
      );
    }
    const since = (atMs: number) => (atMs - startMs) / seconds;
    const { draws, came } = drawsOf(world, observed, startMs);
    const usage = paidUsage(world);
    const cost = createCost(usage);
    const { user, system } = process.cpuUsage(cpu);
    return {
      seed,
      agents,
      readySeconds: since(Date.parse(operation.endedAt)),
      medians: lowerBound({ servers, agents }),
      own: ownBound(draws),
      came,
      milestones: Object.fromEntries(operation.steps.map(({ name, at }) => [name, since(Date.parse(at))])),
      transitions: usage.transitions,
      childStarts: sfn.executions().length - 1,
      largestHistory: Math.max(...sfn.executions().map(({ history }) => history.length)),
      calls: callsMade(world),
      dollars: cost.dollars,
      dollarsByService: cost.byService,
      lambda: { invocations: usage.lambdaRequests, milliseconds: usage.lambdaMs },
      cpuSeconds: (user + system) / 1e6,
    };
  } finally {
    world.close();
  }
}

/** Amazon Linux, as in the model's medians. The network leaves room for a thousand nodes of /24 each. */
export function clusterFile(servers: number, agents: number): object {
  return {
    apiVersion: "drover.dev/v1",
    kind: "Cluster",
    metadata: { name: "bench" },
    spec: {
      version: "v1.35.7+rke2r1",
      servers: { count: servers, instanceTypes: ["m6i.2xlarge"] },
      agentPools: [{ name: "workers", count: agents, instanceTypes: ["m6i.large"] }],
      image: { ssmParameter: "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64", architecture: "amd64" },
      network: {
        vpcId: "vpc-0a1b2c3d4e5f60718",
        subnetIds: ["subnet-0aaa1111bbbb2222c", "subnet-0bbb2222cccc3333d", "subnet-0ccc3333dddd4444e"],
        clusterCidr: "10.128.0.0/13",
      },
    },
  };
}

export function readOperation(world: World, id: string): OperationRecord | undefined {
  const bytes = world.service<S3>("s3").read(world.environment("STATE_BUCKET"), stateKeys.operation("bench", id));
  return bytes === undefined ? undefined : (JSON.parse(bytes.toString("utf8")) as OperationRecord);
}

// ------------------------------------------------------------------------------------------------------------------ observation

interface Observed {
  /** When each agent's Node object came to be, which is its admission. */
  readonly admittedMs: Map<string, number>;
  readonly readyMs: Map<string, number>;
  /** When the last event of a command was published. */
  readonly toldMs: Map<string, number>;
}

function observe(world: World): Observed {
  const observed: Observed = { admittedMs: new Map(), readyMs: new Map(), toldMs: new Map() };
  const nodes = world.service<NodeDriver>("nodes");
  let seen = nodes.revision;
  world.afterEachStep(() => {
    if (nodes.revision === seen) return;
    seen = nodes.revision;
    for (const { instanceId, ready } of nodes.clusters().flatMap((cluster) => cluster.nodes)) {
      if (!observed.admittedMs.has(instanceId)) observed.admittedMs.set(instanceId, world.clock.now());
      if (ready && !observed.readyMs.has(instanceId)) observed.readyMs.set(instanceId, world.clock.now());
    }
  });
  world.onEvent(({ detailType, detail }) => {
    if (detailType === "EC2 Command Status-change Notification") observed.toldMs.set(String(detail["command-id"]), world.clock.now());
  });
  return observed;
}

/** The parts of what services remember that the bound is made of. */
interface SsmMemory {
  readonly managed: ReadonlyMap<string, { readonly registeredAtMs: number }>;
  readonly commands: ReadonlyMap<
    string,
    {
      readonly documentName: string;
      readonly requestedAtMs: number;
      readonly parameters: Readonly<Record<string, readonly string[]>>;
      readonly invocations: ReadonlyMap<string, { readonly startedAtMs?: number; readonly endedAtMs?: number }>;
    }
  >;
}
interface Ec2Memory {
  readonly instances: ReadonlyMap<
    string,
    { readonly id: string; readonly order: number; readonly launchedAtMs: number; readonly tags: Readonly<Record<string, string>> }
  >;
}
interface LoadBalancerMemory {
  readonly loadBalancers: ReadonlyMap<string, { readonly createdAtMs: number; readonly activeAtMs: number; readonly firstChecksSeconds: number }>;
  readonly targetGroups: ReadonlyMap<
    string,
    {
      readonly targets: ReadonlyMap<
        string,
        { readonly id: string; readonly registeredAtMs: number; readonly checksSeconds: number; readonly thresholdSeconds: number }
      >;
    }
  >;
}
interface NodesMemory {
  readonly clusters: ReadonlyMap<string, { readonly podsReadyAtMs: number }>;
}

interface CommandRun {
  readonly commandId: string;
  readonly requestedMs: number;
  readonly startedMs: number;
  readonly endedMs: number;
  readonly isBootstrap: boolean;
}

function drawsOf(world: World, observed: Observed, startMs: number): { draws: Draws; came: CreateFigures["came"] } {
  const ssm = world.service("ssm").save() as SsmMemory;
  const ec2 = world.service<Ec2>("ec2").save() as Ec2Memory;
  const balancing = world.service("elastic-load-balancing-v2").save() as LoadBalancerMemory;
  const [cluster, ...others] = [...(world.service("nodes").save() as NodesMemory).clusters.values()];
  const [balancer] = [...balancing.loadBalancers.values()];
  if (cluster === undefined || balancer === undefined || others.length > 0)
    throw new Error("the world does not hold one cluster behind one load balancer");

  const runs = (command: string) => commandRuns(ssm, command);
  const [prepared, started, joined] = [runs("prepare-node"), runs("start-server"), runs("start-agent")];
  const checks = [...runs("check-cluster").values()].sort((a, b) => a.endedMs - b.endedMs);
  const told = ({ commandId, endedMs }: CommandRun) => (of(observed.toldMs, commandId, "its event") - endedMs) / seconds;
  const instances = [...ec2.instances.values()].sort((a, b) => a.order - b.order);
  const boot = (id: string, launchedAtMs: number) => (of(ssm.managed, id, "its registration").registeredAtMs - launchedAtMs) / seconds;
  const whole = ({ requestedMs, endedMs }: CommandRun) => (endedMs - requestedMs) / seconds;

  const serverIds = new Set(started.keys());
  const servers = instances
    .filter(({ id }) => serverIds.has(id))
    .map(({ id, launchedAtMs }) => {
      const start = of(started, id, "its start");
      return {
        instanceId: id,
        boot: boot(id, launchedAtMs),
        prepare: whole(of(prepared, id, "its preparation")),
        start: (start.endedMs - start.startedMs) / seconds,
        isFirst: start.isBootstrap,
      };
    });
  const agents = instances.flatMap(({ id, launchedAtMs }, index): AgentDraws[] => {
    if (serverIds.has(id)) return [];
    return [
      {
        place: index + 1,
        boot: boot(id, launchedAtMs),
        prepare: whole(of(prepared, id, "its preparation")),
        start: (of(observed.readyMs, id, "its Ready") - of(observed.admittedMs, id, "its admission")) / seconds,
        endToEvent: Math.max(0, told(lastOf(joined, of(joined, id, "its start").commandId))),
      },
    ];
  });
  const serverReadyMs = (id: string) => of(started, id, "its start").endedMs;
  const lastServerMs = Math.max(...servers.map(({ instanceId }) => serverReadyMs(instanceId)));
  const groups = [...balancing.targetGroups.values()].map(({ targets }) => [...targets.values()]);
  const healthyMs = groups.map((targets) =>
    Math.min(
      ...targets.map(({ id, registeredAtMs, checksSeconds, thresholdSeconds }) => {
        const early = registeredAtMs <= balancer.activeAtMs;
        const checksMs = early ? balancer.activeAtMs + balancer.firstChecksSeconds * seconds : registeredAtMs + checksSeconds * seconds;
        return Math.max(checksMs, serverReadyMs(id)) + thresholdSeconds * seconds;
      }),
    ),
  );
  const since = (atMs: number) => (atMs - startMs) / seconds;
  const lastCheck = checks.at(-1);
  if (lastCheck === undefined) throw new Error("no server was asked whether the cluster is complete");
  return {
    draws: {
      servers,
      agents,
      podsReady: Math.max(0, (cluster.podsReadyAtMs - lastServerMs) / seconds),
      loadBalancer: {
        create: (balancer.activeAtMs - balancer.createdAtMs) / seconds,
        registerToChecks: balancer.firstChecksSeconds,
        targets: groups.map((targets) =>
          targets.map(({ id, registeredAtMs, checksSeconds, thresholdSeconds }) => ({
            instanceId: id,
            threshold: thresholdSeconds,
            ...(registeredAtMs > balancer.activeAtMs ? { ownChecks: checksSeconds } : {}),
          })),
        ),
      },
      verifiedToEvent: Math.max(0, told(lastCheck)),
    },
    came: {
      F: since(Math.min(...servers.map(({ instanceId }) => serverReadyMs(instanceId)))),
      K: since(Math.max(lastServerMs, cluster.podsReadyAtMs)),
      A: agents.length === 0 ? 0 : since(Math.max(...[...observed.readyMs.values()])),
      E: since(Math.max(...healthyMs)),
    },
  };
}

/** Of one command: the run that ended last, after which its event is sent. */
function lastOf(runs: ReadonlyMap<string, CommandRun>, commandId: string): CommandRun {
  return [...runs.values()].filter((run) => run.commandId === commandId).reduce((last, run) => (run.endedMs > last.endedMs ? run : last));
}

/** The last run of a node command on each instance: a server is asked many times whether the cluster is complete. */
function commandRuns(ssm: SsmMemory, command: string): Map<string, CommandRun> {
  const runs = new Map<string, CommandRun>();
  for (const [commandId, { documentName, requestedAtMs, parameters, invocations }] of ssm.commands) {
    if (!documentName.startsWith(`drover-${command}-`)) continue;
    for (const [instanceId, { startedAtMs, endedAtMs }] of invocations) {
      if (startedAtMs === undefined || endedAtMs === undefined) continue;
      const isBootstrap = parameters.mode?.[0] === "bootstrap";
      runs.set(instanceId, { commandId, requestedMs: requestedAtMs, startedMs: startedAtMs, endedMs: endedAtMs, isBootstrap });
    }
  }
  return runs;
}

function of<V>(map: ReadonlyMap<string, V>, id: string, what: string): V {
  const found = map.get(id);
  if (found === undefined) throw new Error(`the world does not remember ${what} of ${id}`);
  return found;
}
