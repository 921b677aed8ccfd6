/** What a seed means: the clusters of a run, what goes wrong in it, and who interferes. */
import type { Faults, Random } from "../kernel/contract.js";
import { SeededRandom } from "../kernel/random.js";
import { noFaults } from "../world.js";

/** Operations during which faults strike. What comes after them runs healed. */
export const scenarios = ["create", "backup", "restore", "drill", "delete"] as const;
export type Scenario = (typeof scenarios)[number];
/** Unless others are asked for. A life with snapshots takes three times as long, and they are tried only where one of theirs is asked for. */
export const usualScenarios = ["create", "delete"] as const satisfies readonly Scenario[];
export const hasSnapshots = (chosen: readonly Scenario[]) => chosen.some((scenario) => ["backup", "restore", "drill"].includes(scenario));

/** What is lost before a cluster is restored. */
export const damages = ["nothing", "a member", "the majority", "all servers", "all machines"] as const;
export type Damage = (typeof damages)[number];

/** `all`: every kind at once, as often as they may come together. `none`: nothing goes wrong. Otherwise rates by name, the others zero. */
export type FaultChoice = "all" | "none" | Partial<Faults>;

export interface ClusterPlan {
  readonly name: string;
  readonly servers: 1 | 3 | 5;
  readonly pools: readonly { readonly name: string; readonly count: number; readonly market: "on-demand" | "spot" }[];
  readonly architecture: "amd64" | "arm64";
  readonly system: "ubuntu" | "amazon-linux";
  readonly subnets: number;
  /** What others do meanwhile, seconds after the create was accepted. */
  readonly meanwhile: {
    /** The same request comes again. */
    readonly repeatAfter?: number;
    /** Another request for the same name comes. */
    readonly secondCreateAfter?: number;
    /** Somebody wants to delete what is being made. */
    readonly busyDeleteAfter?: number;
    /** An operator stops the execution. */
    readonly abortAfter?: number;
    /** A machine dies, whatever it is doing. */
    readonly loseAfter?: number;
    /** The same while it is deleted, seconds after the delete was accepted. */
    readonly abortDeleteAfter?: number;
  };
  readonly disaster: {
    readonly damage: Damage;
    /** Where a server survives, its data are gone on with instead of a snapshot. */
    readonly takesSurvivor: boolean;
    /** Backups before it. */
    readonly backups: number;
    /** Keys that are written after the last of them: they are what a restore loses. */
    readonly written: number;
    readonly abortBackupAfter?: number;
    readonly abortRestoreAfter?: number;
    readonly loseWhileRestoringAfter?: number;
    readonly abortDrillAfter?: number;
  };
}

export interface RunPlan {
  readonly clusters: readonly ClusterPlan[];
  readonly hasSnapshots: boolean;
  readonly createFaults: Faults;
  readonly backupFaults: Faults;
  readonly restoreFaults: Faults;
  readonly drillFaults: Faults;
  readonly deleteFaults: Faults;
  /** Whether every line of the trace is looked through for secrets: costs as much as a third of the run. */
  readonly looksThroughTrace: boolean;
}

export const release = { version: "v1.35.7+rke2r1" } as const;

/** Rates at which all kinds strike together and most operations still get through. */
export const together: Faults = {
  capacityError: 0.1,
  throttle: 0.02,
  lostEvent: 0.15,
  doubledEvent: 0.15,
  nodeLostWhileBooting: 0.03,
  nodeLostWhileJoining: 0.03,
  crashBeforeEffect: 0.01,
  crashAfterEffect: 0.01,
  runTwice: 0.08,
  lateOnline: 0.08,
};

/** Rates of a kind that strikes alone, or with one or two others. */
export const alone: Faults = {
  capacityError: 0.6,
  throttle: 0.12,
  lostEvent: 0.7,
  doubledEvent: 0.8,
  nodeLostWhileBooting: 0.15,
  nodeLostWhileJoining: 0.15,
  crashBeforeEffect: 0.06,
  crashAfterEffect: 0.06,
  runTwice: 0.5,
  lateOnline: 0.4,
};

export const faultNames = Object.keys(noFaults) as (keyof Faults)[];

export function planRun(seed: number, chosen: readonly Scenario[], faults: FaultChoice | undefined): RunPlan {
  const random = new SeededRandom(`simulation ${seed}`);
  const draw = random.fork("clusters");
  const clusters = [planCluster("alpha", random.fork("alpha"), faults !== "none")];
  if (draw.chance(0.1)) clusters.push(planCluster("alpha-two", random.fork("alpha-two"), faults !== "none"));
  const onCreate = drawFaults(random.fork("create faults"), faults);
  const onDelete = drawFaults(random.fork("delete faults"), faults);
  const spared = random.fork("delete").chance(0.4);
  return {
    clusters,
    hasSnapshots: hasSnapshots(chosen),
    createFaults: chosen.includes("create") ? onCreate : noFaults,
    backupFaults: chosen.includes("backup") ? drawFaults(random.fork("backup faults"), faults) : noFaults,
    restoreFaults: chosen.includes("restore") ? drawFaults(random.fork("restore faults"), faults) : noFaults,
    drillFaults: chosen.includes("drill") ? drawFaults(random.fork("drill faults"), faults) : noFaults,
    deleteFaults: chosen.includes("delete") && !(spared && chosen.length > 1) ? onDelete : noFaults,
    looksThroughTrace: random.fork("trace").chance(0.1),
  };
}

function planCluster(name: string, random: Random, interfere: boolean): ClusterPlan {
  const shape = random.fork("shape");
  const servers = shape.pick([1, 1, 3, 3, 3, 3, 5] as const);
  const pools = Array.from({ length: shape.integer(3) }, (_, index) => ({
    name: ["workers", "batch"][index] as string,
    count: shape.integer(7),
    market: shape.chance(0.2) ? ("spot" as const) : ("on-demand" as const),
  }));
  const architecture = shape.chance(0.15) ? "arm64" : "amd64";
  const system = shape.chance(0.5) ? "ubuntu" : "amazon-linux";
  const subnets = servers === 1 && shape.chance(0.3) ? 1 : 3;
  const meanwhile = interfere ? drawMeanwhile(random.fork("meanwhile")) : {};
  return { name, servers, pools, architecture, system, subnets, meanwhile, disaster: drawDisaster(random.fork("disaster"), interfere) };
}

function drawDisaster(random: Random, interfere: boolean): ClusterPlan["disaster"] {
  const maybe = (name: string, probability: number, latestSeconds: number) => {
    const own = random.fork(name);
    return interfere && own.chance(probability) ? { [name]: 1 + own.next() * (latestSeconds - 1) } : {};
  };
  const shape = random.fork("shape");
  return {
    damage: shape.pick(damages),
    takesSurvivor: shape.chance(0.4),
    backups: 1 + shape.integer(2),
    written: 1 + shape.integer(500),
    ...maybe("abortBackupAfter", 0.15, 20),
    ...maybe("abortRestoreAfter", 0.3, 300),
    ...maybe("loseWhileRestoringAfter", 0.15, 250),
    ...maybe("abortDrillAfter", 0.2, 180),
  };
}

function drawMeanwhile(random: Random): ClusterPlan["meanwhile"] {
  const maybe = (name: string, probability: number, latestSeconds: number) => {
    const own = random.fork(name);
    return own.chance(probability) ? { [name]: 1 + own.next() * (latestSeconds - 1) } : {};
  };
  return {
    ...maybe("repeatAfter", 0.15, 300),
    ...maybe("secondCreateAfter", 0.1, 200),
    ...maybe("busyDeleteAfter", 0.1, 60),
    ...maybe("abortAfter", 0.12, 330),
    ...maybe("loseAfter", 0.12, 330),
    ...maybe("abortDeleteAfter", 0.08, 120),
  };
}

function drawFaults(random: Random, choice: FaultChoice | undefined): Faults {
  if (choice === "none") return noFaults;
  if (choice === "all") return together;
  if (choice !== undefined) return { ...noFaults, ...choice };
  const kind = random.next();
  if (kind < 0.08) return noFaults;
  if (kind < 0.5) {
    const factor = 0.3 + 1.5 * random.next();
    return rates((name) => Math.min(1, together[name] * factor));
  }
  const few = kind < 0.8 ? 1 : 2 + random.integer(2);
  const struck = new Set(Array.from({ length: few }, () => random.pick(faultNames)));
  return rates((name) => (struck.has(name) ? alone[name] : 0));
}

function rates(rate: (name: keyof Faults) => number): Faults {
  return Object.fromEntries(faultNames.map((name) => [name, rate(name)])) as unknown as Faults;
}

const images = {
  ubuntu: (architecture: string) => `/aws/service/canonical/ubuntu/server/24.04/stable/current/${architecture}/hvm/ebs-gp3/ami-id`,
  "amazon-linux": (architecture: string) =>
    `/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-${architecture === "arm64" ? "arm64" : "x86_64"}`,
} as const;

/** The cluster file of a plan, as text. */
export function clusterFile(plan: ClusterPlan): string {
  const types =
    plan.architecture === "arm64"
      ? { server: ["m6g.xlarge", "m7g.xlarge"], agent: ["m6g.large"] }
      : { server: ["m6i.xlarge", "m5.xlarge"], agent: ["m6i.large", "m5.large"] };
  return JSON.stringify({
    apiVersion: "drover.dev/v1",
    kind: "Cluster",
    metadata: { name: plan.name },
    spec: {
      version: release.version,
      servers: { count: plan.servers, instanceTypes: types.server },
      agentPools: plan.pools.map((pool) => ({ ...pool, instanceTypes: types.agent })),
      image: { ssmParameter: images[plan.system](plan.architecture), architecture: plan.architecture },
      network: {
        vpcId: "vpc-0a1b2c3d4e5f60718",
        subnetIds: ["subnet-0aaa1111bbbb2222c", "subnet-0bbb2222cccc3333d", "subnet-0ccc3333dddd4444e"].slice(0, plan.subnets),
      },
      protection: { delete: false },
    },
  });
}

/** One line for a person. */
export function describePlan({ clusters }: RunPlan): string {
  return clusters
    .map(({ name, servers, pools }) => `${name}: ${servers} server(s), ${pools.reduce((sum, pool) => sum + pool.count, 0)} agent(s)`)
    .join("; ");
}
