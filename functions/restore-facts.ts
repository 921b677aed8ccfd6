/** What is known of a snapshot and of the tokens that may open it, read before a restore or a drill changes anything. */
import { Invalid } from "../core/failures.js";
import { stateKeys } from "../core/layout.js";
import type { ClusterRecord, OperationRequest } from "../core/records.js";
import { preflight, type SnapshotFacts, type SnapshotSource, sourceOf, type TokenGeneration } from "../core/restore.js";
import { type SnapshotUse, tokenHash } from "../core/snapshots.js";
import type { SecretStore } from "./aws/secrets.js";
import type { SnapshotStore } from "./aws/snapshots.js";
import type { StateStore } from "./aws/state.js";
import type { StepInput } from "./cluster.js";

export interface FactClients {
  readonly state: StateStore;
  readonly secrets: SecretStore;
  readonly snapshots: SnapshotStore;
}

export async function snapshotFacts(uid: string, id: string, snapshots: SnapshotStore): Promise<SnapshotFacts> {
  const manifest = (await snapshots.manifest(uid, id))?.manifest;
  const versionId = manifest?.file.versionId;
  const stored = versionId === undefined ? undefined : await snapshots.stored(uid, id, versionId);
  const firstBytes = stored === undefined || stored.bytes === 0 ? new Uint8Array() : await snapshots.firstBytes(uid, id, stored.versionId);
  return { id, manifest, stored, firstBytes };
}

/** Every generation of the server token that is kept, the oldest first, by its hash. */
export async function tokenGenerations(uid: string, { secrets }: Pick<FactClients, "secrets">): Promise<TokenGeneration[]> {
  const generations = await secrets.generations(uid, "server-token");
  return Promise.all(generations.map(async (generation) => ({ generation, hash: tokenHash(await secrets.read(uid, "server-token", generation)) })));
}

/**
 * Looks at the snapshot once more, just before it is used: since the request was admitted anything may have happened to it.
 * @throws Invalid with every fault
 */
export async function checkedSource(
  request: OperationRequest,
  target: Pick<ClusterRecord, "name" | "wanted" | "resolved">,
  clients: FactClients,
): Promise<SnapshotSource> {
  const { snapshot, from } = request;
  const [facts, tokens] = await Promise.all([snapshotFacts(from.uid, snapshot, clients.snapshots), tokenGenerations(from.uid, clients)]);
  const { faults, tokenGeneration } = preflight({
    from,
    snapshot: facts,
    tokens,
    version: target.resolved.version,
    rootVolumeGib: target.wanted.spec.servers.rootVolumeGib,
  });
  const errors = faults.filter((fault) => fault.severity === "error");
  if (errors.length > 0 || facts.manifest === undefined || tokenGeneration === undefined) {
    const next = `Nothing was changed. Choose another: drover snapshot list ${from.name}`;
    throw new Invalid(`Snapshot ${snapshot} cannot be restored on ${target.name}`, errors, next);
  }
  return sourceOf(facts.manifest, tokenGeneration);
}

/** From now on retention leaves the snapshot alone, until the operation has ended well or a week has passed. */
export async function useSnapshot(step: StepInput, source: SnapshotSource, state: StateStore, now: string): Promise<void> {
  const use: SnapshotUse = { schema: 1, operation: step.operation, cluster: step.cluster, at: now };
  await state.write(stateKeys.snapshotUse(source.uid, source.snapshot, step.operation), use);
}

export async function releaseSnapshot(request: OperationRequest | undefined, operation: string, state: StateStore): Promise<void> {
  if (request === undefined || request.snapshot === "survivor") return;
  await state.remove(stateKeys.snapshotUse(request.from.uid, request.snapshot, operation));
}
