/** What retention decides for a cluster as its bucket is now: read by the step that removes, and by the preview that only says. */
import { stateKeys } from "../core/layout.js";
import type { ClusterRecord } from "../core/records.js";
import { decideRetention, type RetentionDecision, type SnapshotFacts } from "../core/retention.js";
import { isInUse, type SnapshotUse, timeInId } from "../core/snapshots.js";
import type { SnapshotStore } from "./aws/snapshots.js";
import type { StateStore } from "./aws/state.js";

/** Object Lock and who reads are asked about only where nothing else asks for a snapshot: it is a call for each, and most are kept anyway. */
export async function retentionOf(record: ClusterRecord, snapshots: SnapshotStore, state: StateStore, now: string): Promise<RetentionDecision> {
  const facts = await factsOf(record.uid, snapshots);
  const { keep, timeZone } = record.wanted.spec.backup;
  const byTiers = decideRetention({ snapshots: facts, keep, timeZone, inUse: [], now });
  if (byTiers.remove.length === 0) return byTiers;
  const rules = { keep, timeZone, inUse: await usesOf(record, state, now), now };
  const going = new Set(byTiers.remove.map(({ id }) => id));
  const withLocks = await Promise.all(
    facts.map(async (each) => (going.has(each.id) ? { ...each, lockedUntil: await snapshots.lockedUntil(record.uid, each.id) } : each)),
  );
  return decideRetention({ ...rules, snapshots: withLocks });
}

async function factsOf(uid: string, snapshots: SnapshotStore): Promise<SnapshotFacts[]> {
  const listed = await snapshots.list(uid);
  return Promise.all(
    listed.map(async ({ id, hasManifest }): Promise<SnapshotFacts> => {
      const takenAt = hasManifest ? (await snapshots.manifest(uid, id))?.manifest.takenAt : undefined;
      return { id, takenAt: takenAt ?? timeInId(id), proven: takenAt !== undefined };
    }),
  );
}

/** Ids that a restore or a drill reads: of this cluster by its own record, of any by what it has written down. */
async function usesOf(record: ClusterRecord, state: StateStore, now: string): Promise<string[]> {
  const source = record.restore?.source;
  const own = source?.kind === "snapshot" && source.uid === record.uid ? [source.snapshot] : [];
  const keys = await state.list(stateKeys.snapshotUses(record.uid));
  const uses = await Promise.all(keys.map(async (key) => ({ key, use: (await state.read<SnapshotUse>(key))?.value })));
  return [...own, ...uses.flatMap(({ key, use }) => (use !== undefined && isInUse(use, now) ? [key.split("/")[2] ?? ""] : []))];
}
