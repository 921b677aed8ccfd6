/**
 * What a running server looks after: learners and voters (the server whose etcd leads), nodes that go and nodes that fall silent (the server that
 * holds the lease), and its own membership.
 */
import { type Api, type KubeObject, setCondition } from "./api.js";
import { Etcd, type EtcdTls, hexOf, type Member } from "./etcd.js";
import { every, pace, reasonOf, say, server, shutDown, write } from "./host.js";
import { isRunning, podLog, stopPods } from "./pods.js";

export interface Cluster {
  readonly node: string;
  readonly etcd: Etcd;
  readonly tls: EtcdTls;
  readonly api: Api;
}

export const etcdFinalizer = "wrangler.cattle.io/managed-etcd-controller";
export const annotations = {
  nodeName: "etcd.rke2.cattle.io/node-name",
  nodeAddress: "etcd.rke2.cattle.io/node-address",
  remove: "etcd.rke2.cattle.io/remove",
  removed: "etcd.rke2.cattle.io/removed-node-name",
} as const;

/** Node of a member: its name without the last hyphen and what follows. */
export const nodeOf = (member: Member) => member.name.slice(0, Math.max(0, member.name.lastIndexOf("-")));

export function runControllers(cluster: Cluster): void {
  const learners = new Learners(cluster);
  const elected = new Election(cluster);
  const silence = new Silence(cluster);
  void every(15, "Failed to manage etcd learners", () => learners.look());
  void every(2, "Failed to look after nodes", async () => {
    if (!(await elected.holds())) return;
    await removeMembers(cluster);
    await silence.look();
  });
}

const promotionStallMs = () => 300_000 / pace;

/** Only the leader can tell how far a learner is: its server promotes, evicts, and writes the conditions of all. */
class Learners {
  /** By member: how far its log was, and since when it has not moved. */
  readonly #progress = new Map<string, { readonly index: string; readonly sinceMs: number }>();
  constructor(private readonly cluster: Cluster) {}

  async look(): Promise<void> {
    const { etcd, tls, api } = this.cluster;
    const own = await etcd.status();
    if (own.leader !== own.memberId) return;
    for (const member of await etcd.members()) if (member.learner) await this.#promote(member);
    const members = await etcd.members();
    const health = new Map(
      await Promise.all(
        members.map(
          async (member) =>
            [
              member.id,
              member.clients[0] !== undefined &&
                (await new Etcd(member.clients[0], tls).status().then(
                  () => true,
                  () => false,
                )),
            ] as const,
        ),
      ),
    );
    for (const node of await api.list("/api/v1/nodes")) {
      if (node.metadata.annotations?.[annotations.nodeName] === undefined) continue;
      const member = members.find((each) => nodeOf(each) === node.metadata.name);
      const condition = conditionOf(member, member !== undefined && health.get(member.id) === true);
      await api.change(`/api/v1/nodes/${node.metadata.name}`, (object) => setCondition(object, { type: "EtcdIsVoter", ...condition }));
    }
  }

  async #promote(member: Member): Promise<void> {
    const { etcd, tls } = this.cluster;
    try {
      await etcd.promote(member.id);
      this.#progress.delete(member.id);
      say("info", `Promoted learner ${member.name}`);
      return;
    } catch (error) {
      say("info", `Learner ${member.name || hexOf(member.id)} is not promoted yet: ${reasonOf(error)}`);
    }
    const index = await (member.clients[0] === undefined
      ? Promise.resolve("0")
      : new Etcd(member.clients[0], tls).status().then(
          (status) => status.index,
          () => "0",
        ));
    const before = this.#progress.get(member.id);
    if (before === undefined || (index !== "0" && index !== before.index)) {
      this.#progress.set(member.id, { index, sinceMs: performance.now() });
    } else if (performance.now() - before.sinceMs >= promotionStallMs()) {
      await etcd.remove(member.id);
      this.#progress.delete(member.id);
      say("warning", `Removed learner ${member.name || hexOf(member.id)} from etcd cluster: it made no progress`);
    }
  }
}

function conditionOf(member: Member | undefined, healthy: boolean): { readonly status: string; readonly reason: string; readonly message: string } {
  if (member === undefined) return { status: "False", reason: "NotAMember", message: "Node is not a member of the etcd cluster" };
  if (!healthy) return { status: "False", reason: "Unhealthy", message: "Node's etcd member does not answer" };
  if (member.learner)
    return { status: "False", reason: "MemberIsLearner", message: "Node has not been promoted to voting member of the etcd cluster" };
  return { status: "True", reason: "MemberNotLearner", message: "Node is a voting member of the etcd cluster" };
}

/** A key under an etcd lease: whoever writes it first holds the office until its lease runs out. */
class Election {
  #lease: string | undefined;
  static readonly key = "/registry/leases/kube-system/rke2-etcd";
  constructor(private readonly cluster: Cluster) {}

  async holds(): Promise<boolean> {
    const { etcd, node, api } = this.cluster;
    if (this.#lease !== undefined) {
      // One that is to be removed itself leaves the office to another.
      const leaving = (await api.find(`/api/v1/nodes/${node}`))?.metadata.deletionTimestamp !== undefined && (await etcd.members()).length > 1;
      if (leaving) {
        await etcd.delete(Election.key);
        this.#lease = undefined;
        return false;
      }
      if (await etcd.keepLease(this.#lease)) return true;
      this.#lease = undefined;
    }
    if ((await etcd.get(Election.key)) !== undefined) return false;
    if ((await api.find(`/api/v1/nodes/${node}`))?.metadata.deletionTimestamp !== undefined && (await etcd.members()).length > 1) return false;
    const lease = await etcd.grantLease(15);
    const value = JSON.stringify({
      kind: "Lease",
      apiVersion: "coordination.k8s.io/v1",
      metadata: { name: "rke2-etcd", namespace: "kube-system" },
      spec: { holderIdentity: node },
    });
    if ((await etcd.put(Election.key, value, { ifModifiedAt: "0", lease })) === undefined) return false;
    this.#lease = lease;
    return true;
  }
}

/** Deleting a server's Node removes its etcd member; so does the annotation, which keeps the Node. */
async function removeMembers(cluster: Cluster): Promise<void> {
  const { api } = cluster;
  for (const node of await api.list("/api/v1/nodes")) {
    const deleted = node.metadata.deletionTimestamp !== undefined && node.metadata.finalizers?.includes(etcdFinalizer) === true;
    const marked = node.metadata.annotations?.[annotations.remove] === "true" && node.metadata.annotations[annotations.removed] === undefined;
    if (!deleted && !marked) continue;
    const member = await removeMember(cluster, node);
    if (member === "last voter") {
      say("error", `Rejected removal of ${node.metadata.name}: it is the last voting member of the etcd cluster`);
      continue;
    }
    await api.change(`/api/v1/nodes/${node.metadata.name}`, (object) => {
      if (deleted) object.metadata.finalizers = (object.metadata.finalizers ?? []).filter((each) => each !== etcdFinalizer);
      else object.metadata.annotations = { ...object.metadata.annotations, [annotations.removed]: member };
      return true;
    });
  }
}

async function removeMember({ etcd, tls }: Cluster, node: KubeObject): Promise<string> {
  const members = await etcd.members();
  const member = members.find((each) => nodeOf(each) === node.metadata.name);
  if (member === undefined) return node.metadata.name;
  const others = members.filter((each) => each.id !== member.id && !each.learner);
  if (others.length === 0) return "last voter";
  const { leader } = await etcd.status();
  if (leader === member.id && member.clients[0] !== undefined) {
    const successor = (await firstAlive(others, tls)) ?? (others[0] as Member);
    await new Etcd(member.clients[0], tls)
      .moveLeader(successor.id)
      .catch((error: unknown) => say("warning", `Failed to move etcd leadership from ${member.name}: ${reasonOf(error)}`));
  }
  await etcd.remove(member.id);
  say("info", `Removed etcd member ${member.name} of node ${node.metadata.name}`);
  return member.name;
}

async function firstAlive(members: readonly Member[], tls: EtcdTls): Promise<Member | undefined> {
  for (const member of members) {
    if (
      member.clients[0] !== undefined &&
      (await new Etcd(member.clients[0], tls).status().then(
        () => true,
        () => false,
      ))
    )
      return member;
  }
  return undefined;
}

/** Marks nodes whose lease does not change any more. Measured by this server's own clock: theirs may be wrong. */
class Silence {
  readonly #seen = new Map<string, { readonly version: string; readonly sinceMs: number }>();
  constructor(private readonly cluster: Cluster) {}

  async look(): Promise<void> {
    const { api } = this.cluster;
    const now = performance.now();
    const leases = await api.list("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases");
    for (const { metadata } of leases) {
      const version = metadata.resourceVersion as string;
      if (this.#seen.get(metadata.name)?.version !== version) this.#seen.set(metadata.name, { version, sinceMs: now });
    }
    const graceMs = 40_000 / pace;
    for (const node of await api.list("/api/v1/nodes")) {
      const seen = this.#seen.get(node.metadata.name);
      if (seen === undefined || now - seen.sinceMs < graceMs) continue;
      await api.change(`/api/v1/nodes/${node.metadata.name}`, (object) =>
        setCondition(object, { type: "Ready", status: "Unknown", reason: "NodeStatusUnknown", message: "Kubelet stopped posting node status." }),
      );
    }
  }
}

export const tombstone = () => server("db/etcd/tombstone");
export const removedText = "the member has been permanently removed from the cluster; the data-dir used by this member must be removed";

/** Ends the server when its member was removed: its pods go, its data is marked, and every later start says the same. */
export function watchMembership({ node }: Pick<Cluster, "node">): void {
  void every(1, "Failed to watch the etcd member", async () => {
    if (isRunning("etcd") || !wasRemoved(node)) return;
    write(tombstone(), new Date().toISOString());
    await stopPods();
    shutDown(`this node has been removed from the cluster: ${removedText}`);
  });
}

/** Whether the etcd that ended did so because the cluster no longer knows the member. */
export const wasRemoved = (node: string) => podLog("etcd", node).includes("permanently removed from the cluster");
