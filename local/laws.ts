/**
 * The laws of the design, checked after every step of a world.
 *
 * What a law needs is indexed as it happens (`laws/seen.ts`), so that holding a world to all of them costs little. A law that is broken ends the run at
 * that instant, with its name and with what happened to which thing. Laws 7 and 9 are about how a run ends, and are checked there: `simulation.ts`.
 */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { Ec2 } from "./aws/ec2.js";
import type { Sfn } from "./aws/sfn.js";
import type { SeenCall } from "./kernel/calls.js";
import type { CloudEvent } from "./kernel/contract.js";
import { endpointOrder, keepsMajority, nodesHoldNoKeys, oneBootstrap } from "./laws/cluster-laws.js";
import { type Bench, type Law, LawBroken, type LawNumber, lawNames } from "./laws/law.js";
import { oneCard, oneOperation, rolesSuffice, stateByReference } from "./laws/operation-laws.js";
import { noSecretInTheClear, type SecretWatch } from "./laws/secret-laws.js";
import { type Owner, ownerOf, type Resource, Seen, type Watched } from "./laws/seen.js";
import type { NodeDriver } from "./nodes/contract.js";
import type { World } from "./world.js";

export { LawBroken, type LawNumber, lawNames };

export class Laws {
  readonly seen: Seen;
  /** How many things were held against each law. */
  readonly checked: Record<LawNumber, number> = { 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0, 8: 0, 9: 0, 11: 0, 12: 0 };
  readonly #laws: readonly Law[];
  readonly #secrets: SecretWatch;
  #revision = -1;

  /** @param runbook anchors of the runbook's headings; undefined when there is no runbook to hold cards against */
  constructor(world: Watched, runbook?: ReadonlySet<string>) {
    this.seen = new Seen(world);
    const bench: Bench = { seen: this.seen, held: (law) => this.checked[law]++ };
    this.#secrets = noSecretInTheClear(bench);
    this.#laws = [
      oneBootstrap(bench),
      oneOperation(bench),
      keepsMajority(bench),
      endpointOrder(bench),
      nodesHoldNoKeys(bench),
      this.#secrets,
      stateByReference(bench),
      rolesSuffice(bench),
      oneCard(bench, runbook),
    ];
  }

  call(call: SeenCall): void {
    const invoked = this.seen.invoked(call);
    const document = this.seen.call(call);
    for (const law of this.#laws) law.call?.(call, invoked);
    if (document !== undefined) for (const law of this.#laws) law.wrote?.(document);
  }

  event(event: CloudEvent): void {
    for (const law of this.#laws) law.event?.(event);
  }

  step(): void {
    const revision = this.seen.world.clusterRevision();
    if (revision !== this.#revision) {
      this.#revision = revision;
      const before = this.seen.look();
      for (const law of this.#laws) law.changed?.(before);
    }
    for (const law of this.#laws) law.step?.();
  }

  /** Something leaves the world by another way: an answer of the API, a line of a trace. */
  leaves(text: string, where: string): void {
    this.#secrets.leaves(text, where);
  }
}

/** Holds a world to the laws from now on. */
export function watchLaws(world: World, runbook: ReadonlySet<string> | undefined = runbookAnchors()): Laws {
  const laws = new Laws(watched(world), runbook);
  world.onCall((call) => laws.call(call));
  world.onEvent((event) => laws.event(event));
  world.afterEachStep(() => laws.step());
  return laws;
}

/** Anchors of the runbook's headings, as GitHub makes them; undefined while there is no runbook. */
export function runbookAnchors(file = resolve(import.meta.dirname, "../docs/runbook.md")): ReadonlySet<string> | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
  const headings = [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => heading as string);
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    ),
  );
}

interface Tagged {
  readonly tags: Readonly<Record<string, string>>;
}
interface Ec2State {
  readonly instances: ReadonlyMap<
    string,
    { readonly id: string; readonly life: string; readonly volumes: readonly string[]; readonly interfaceId: string } & Tagged
  >;
  readonly volumes: ReadonlyMap<string, { readonly instanceId?: string } & Tagged>;
  readonly interfaces: ReadonlyMap<string, { readonly owner: string; readonly managed: boolean } & Tagged>;
  readonly groups: ReadonlyMap<string, { readonly name: string } & Tagged>;
}
interface ElbState {
  readonly loadBalancers: ReadonlyMap<string, { readonly arn: string } & Tagged>;
  readonly targetGroups: ReadonlyMap<
    string,
    { readonly arn: string; readonly targets: ReadonlyMap<string, { readonly id: string; readonly goneAtMs?: number }> } & Tagged
  >;
}

/** A world as the laws look at it. What a service remembers is read, never what it answers: its answers may lag behind. */
function watched(world: World): Watched {
  const ec2 = world.service<Ec2>("ec2");
  const sfn = world.service<Sfn>("sfn");
  const nodes = world.service<NodeDriver>("nodes");
  const elb = () => world.service("elastic-load-balancing-v2").save() as ElbState;
  const owners = new Map<string, Owner>();
  return {
    now: () => world.clock.now(),
    stateBucket: world.environment("STATE_BUCKET"),
    artifactBucket: world.environment("ARTIFACT_BUCKET"),
    snapshotBucket: world.environment("SNAPSHOT_BUCKET"),
    nodeRoles: new Set(world.template.instanceProfiles.flatMap(({ roles }) => roles)),
    logs: world.logs,
    denials: world.denials,
    executions: () => sfn.executions(),
    clusterRevision: () => nodes.revision,
    clusters: () => nodes.clusters(),
    owner(instanceId) {
      // EC2 forgets an instance an hour after its end.
      const owner = owners.get(instanceId) ?? ownerOf(ec2.instance(instanceId)?.tags ?? {});
      if (owner !== undefined) owners.set(instanceId, owner);
      return owner;
    },
    isRunning: (instanceId) => ["pending", "running"].includes(ec2.instance(instanceId)?.life ?? ""),
    targets: (arn) =>
      [...elb().targetGroups.values()]
        .filter((group) => group.arn === arn)
        .flatMap((group) => [...group.targets.values()])
        .filter((target) => (target.goneAtMs ?? Number.POSITIVE_INFINITY) > world.clock.now())
        .map((target) => target.id),
    resources: () => resourcesOf(ec2.save() as Ec2State, elb()),
  };
}

/** Everything in the account that somebody made; not what the account came with, nor what belongs to a load balancer. */
function resourcesOf(ec2: Ec2State, elb: ElbState): Resource[] {
  const uidOf = ({ tags }: Tagged) => ownerUid(tags);
  const isUp = (instanceId: string | undefined) => ["pending", "running"].includes(ec2.instances.get(instanceId ?? "")?.life ?? "");
  const lasting = (kind: Resource["kind"], id: string, thing: Tagged): Resource => ({ kind, id, uid: uidOf(thing), isGoing: false });
  return [
    ...[...ec2.instances.values()]
      .filter(({ life }) => life !== "terminated")
      .map((instance): Resource => ({ kind: "instance", id: instance.id, uid: uidOf(instance), isGoing: !isUp(instance.id) })),
    ...[...ec2.volumes].map(
      ([id, volume]): Resource => ({ kind: "volume", id, uid: uidOf(volume), isGoing: volume.instanceId !== undefined && !isUp(volume.instanceId) }),
    ),
    ...[...ec2.interfaces]
      .filter(([, { managed }]) => !managed)
      .map(([id, each]): Resource => ({ kind: "network-interface", id, uid: uidOf(each), isGoing: !isUp(each.owner) })),
    ...[...ec2.groups].filter(([, { name }]) => name !== "default").map(([id, group]) => lasting("security-group", id, group)),
    ...[...elb.loadBalancers.values()].map((balancer) => lasting("load-balancer", balancer.arn, balancer)),
    ...[...elb.targetGroups.values()].map((group) => lasting("target-group", group.arn, group)),
  ];
}

function ownerUid(tags: Readonly<Record<string, string>>): string | undefined {
  return tags["drover:uid"];
}
