/**
 * What a simulated etcd holds: how many keys there are at which revision, and the hash of them.
 *
 * Revisions rise by themselves while there is a majority, as leases and events make them rise. A restored store begins another branch at the revision
 * of its snapshot: what the lost branch wrote after that is gone, and the same revision has another hash on each.
 */
import { createHash } from "node:crypto";

/** From a revision on: keys there were then, and how many come with each revision. */
interface Stretch {
  readonly from: number;
  readonly keys: number;
  readonly keysPerRevision: number;
  /** Names the branch: what was written on another is other data. */
  readonly branch: string;
}

export interface StoreRecord {
  revision: number;
  /** At that revision. */
  keys: number;
  settledAtMs: number;
  stretches: Stretch[];
  /** What is older is forgotten. */
  compactRevision: number;
  compactedAtMs: number;
}

export interface StoreState {
  readonly revision: number;
  readonly keys: number;
  readonly hash: number;
  readonly compactRevision: number;
}

/** Lease renewals, events and status of a small cluster. */
const revisionsPerSecond = 3;
const keysPerRevision = 0.01;
/** Objects of a cluster that has just started. */
const firstKeys = 400;
const firstRevision = 900;
/** Every five minutes the API server has etcd forget what is older than five minutes (Kubernetes, etcd-compaction-interval). */
const compactionSeconds = 300;

export class EtcdStore {
  constructor(readonly record: StoreRecord) {}

  static create(nowMs: number, branch: string): StoreRecord {
    const stretches = [{ from: firstRevision, keys: firstKeys, keysPerRevision, branch }];
    return { revision: firstRevision, keys: firstKeys, settledAtMs: nowMs, stretches, compactRevision: 0, compactedAtMs: nowMs };
  }

  /** Lets pass what was written since the last look; nothing was, if there was no majority. */
  settle(nowMs: number, hadMajority: boolean): void {
    const revisions = Math.floor(((nowMs - this.record.settledAtMs) / 1000) * revisionsPerSecond);
    if (!hadMajority) {
      this.record.settledAtMs = nowMs;
    } else if (revisions > 0) {
      // By whole revisions: many short looks add up to what one long look sees.
      this.record.settledAtMs += (revisions / revisionsPerSecond) * 1000;
      this.#advance(revisions);
      this.#compact(nowMs);
    }
  }

  write(keys: number): void {
    const { branch } = this.#last;
    this.record.stretches.push({ from: this.record.revision, keys: this.record.keys, keysPerRevision: 1, branch });
    this.#advance(keys);
    this.record.stretches.push({ from: this.record.revision, keys: this.record.keys, keysPerRevision, branch });
  }

  /** Goes on from here on a branch of its own. */
  branch(nowMs: number, name: string): void {
    this.record.settledAtMs = nowMs;
    this.record.compactedAtMs = nowMs;
    this.record.stretches.push({ from: this.record.revision, keys: this.record.keys, keysPerRevision, branch: name });
  }

  /** The state at a revision; the newest where none is asked for, it is forgotten, or it never was. */
  stateAt(asked: number | undefined): StoreState {
    const { compactRevision } = this.record;
    const revision = asked === undefined || asked > this.record.revision || asked < compactRevision ? this.record.revision : asked;
    const stretch = this.record.stretches.findLast((each) => each.from < revision) ?? (this.record.stretches[0] as Stretch);
    const keys = keysIn(stretch, revision);
    const hash = createHash("sha256").update(`${stretch.branch} ${revision} ${keys}`).digest().readUInt32BE(0);
    return { revision, keys, hash, compactRevision };
  }

  #compact(nowMs: number): void {
    const times = Math.floor((nowMs - this.record.compactedAtMs) / (compactionSeconds * 1000));
    if (times === 0) return;
    this.record.compactedAtMs += times * compactionSeconds * 1000;
    const since = (nowMs - this.record.compactedAtMs) / 1000 + compactionSeconds;
    this.record.compactRevision = Math.max(this.record.compactRevision, this.record.revision - Math.ceil(since * revisionsPerSecond));
  }

  copy(): StoreRecord {
    return structuredClone(this.record);
  }

  get #last(): Stretch {
    return this.record.stretches.at(-1) as Stretch;
  }

  #advance(revisions: number): void {
    this.record.revision += revisions;
    this.record.keys = keysIn(this.#last, this.record.revision);
  }
}

function keysIn(stretch: Stretch, revision: number): number {
  return stretch.keys + Math.floor((revision - stretch.from) * stretch.keysPerRevision);
}
