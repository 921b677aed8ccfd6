/** Law 10 while a world lives: no proven snapshot is ever lost. */
import { snapshotKeys } from "../../core/layout.js";
import type { Manifest } from "../../core/snapshots.js";
import type { S3 } from "../aws/s3.js";
import type { SeenCall } from "../kernel/calls.js";
import { type Seen, textOf } from "../laws/seen.js";
import type { World } from "../world.js";
import { PromiseBroken } from "./promise.js";

const rule = "no proven snapshot is lost";

export class SnapshotWatch {
  /** Manifests that stand, by the snapshot's id. */
  readonly #proven = new Map<string, Manifest>();
  readonly #seen: Seen;
  readonly #s3: S3;

  constructor(world: World, seen: Seen) {
    this.#seen = seen;
    this.#s3 = world.service<S3>("s3");
    world.onCall((call) => this.#call(call));
  }

  manifest(id: string): Manifest | undefined {
    return this.#proven.get(id);
  }

  /** Whether a cluster has one, by its uid. */
  isProven(uid: string): boolean {
    return [...this.#proven.values()].some(({ cluster }) => cluster.uid === uid);
  }

  /** The newest of a cluster that was taken before an instant. */
  newestBefore(cluster: string, at: string): Manifest | undefined {
    return [...this.#proven.values()]
      .filter((manifest) => manifest.cluster.name === cluster && manifest.takenAt < at)
      .sort((a, b) => a.takenAt.localeCompare(b.takenAt))
      .at(-1);
  }

  /** Whatever a manifest says is there, is there. */
  stand(): void {
    for (const manifest of this.#proven.values()) {
      const file = this.#s3.read(this.#seen.world.snapshotBucket, manifest.file.key);
      if (file?.length !== manifest.file.bytes)
        throw new PromiseBroken(rule, `snapshot ${manifest.id} has ${file?.length ?? "no"} bytes, ${manifest.file.bytes} were proven`);
    }
  }

  #call({ service, operation, input, error }: SeenCall): void {
    if (service !== "s3" || error !== undefined) return;
    const { Bucket, Key = "", Body } = input as { Bucket?: string; Key?: string; Body?: Uint8Array | string };
    if (Bucket !== this.#seen.world.snapshotBucket) return;
    if (operation === "PutObject" && Key.endsWith("/manifest.json")) {
      const manifest = JSON.parse(textOf(Body)) as Manifest;
      this.#proven.set(manifest.id, manifest);
    }
    if (operation !== "DeleteObject") return;
    const removed = [...this.#proven.values()].find(({ id, cluster }) =>
      [snapshotKeys.snapshot(cluster.uid, id), snapshotKeys.manifest(cluster.uid, id)].includes(Key),
    );
    if (removed === undefined) return;
    const newer = [...this.#proven.values()].filter(({ cluster, takenAt }) => cluster.uid === removed.cluster.uid && takenAt > removed.takenAt);
    if (newer.length === 0) throw new PromiseBroken(rule, `${removed.id} is the newest of ${removed.cluster.name} and was removed`);
    const uses = [...this.#seen.keys].filter((key) => key.startsWith(`snapshots-in-use/${removed.cluster.uid}/${removed.id}/`));
    if (uses.length > 0) throw new PromiseBroken(rule, `${removed.id} was removed while ${uses.join(", ")} reads it`);
    this.#proven.delete(removed.id);
  }
}
