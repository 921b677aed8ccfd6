/**
 * etcd's database file (bbolt), as far as a restore needs it.
 *
 * A snapshot becomes a new member's data by two changes: it must not know which raft entries it has seen, because the new log begins at one, and it
 * must not know the members it came from. Both are made in place; the key-value data, and with it every revision, stays as it was. etcdutl does the
 * same through etcd's own code; Debian ships it in another package than the server.
 */

interface Leaf {
  readonly isBucket: boolean;
  readonly key: Buffer;
  /** Where the value begins in the file, and its length. */
  readonly at: number;
  readonly length: number;
}

const branch = 0x01;
const leaf = 0x02;
const pageHeader = 16;
const bucketHeader = 16;

class Bolt {
  readonly #pageSize: number;
  readonly #root: number;
  constructor(private readonly file: Buffer) {
    // Two meta pages: the one of the later transaction counts.
    const first = this.#meta(0);
    this.#pageSize = first.pageSize;
    const second = this.#meta(this.#pageSize);
    this.#root = second.transaction > first.transaction ? second.root : first.root;
  }

  #meta(page: number): { readonly pageSize: number; readonly root: number; readonly transaction: bigint } {
    const at = page + pageHeader;
    if (at + 64 > this.file.length || this.file.readUInt32LE(at) !== 0xed0cdaed) throw new Error("not an etcd database");
    return {
      pageSize: this.file.readUInt32LE(at + 8),
      root: Number(this.file.readBigUInt64LE(at + 16)),
      transaction: this.file.readBigUInt64LE(at + 48),
    };
  }

  /** Leaf elements below a page of the file. */
  *#below(page: number): Generator<Leaf> {
    const count = this.file.readUInt16LE(page + 10);
    const kind = this.file.readUInt16LE(page + 8);
    for (let index = 0; index < count; index++) {
      const element = page + pageHeader + index * 16;
      if ((kind & branch) !== 0) {
        yield* this.#below(Number(this.file.readBigUInt64LE(element + 8)) * this.#pageSize);
      } else if ((kind & leaf) !== 0) {
        const key = element + this.file.readUInt32LE(element + 4);
        const keyLength = this.file.readUInt32LE(element + 8);
        const length = this.file.readUInt32LE(element + 12);
        yield { isBucket: (this.file.readUInt32LE(element) & 1) !== 0, key: this.file.subarray(key, key + keyLength), at: key + keyLength, length };
      } else {
        throw new Error(`not an etcd database: page at ${page} has flags ${kind}`);
      }
    }
  }

  /** Page of a top-level bucket: its own, or one inside its parent while the bucket is small. */
  bucket(name: string): number | undefined {
    for (const { isBucket, key, at } of this.#below(this.#root * this.#pageSize)) {
      if (!isBucket || key.toString() !== name) continue;
      const own = Number(this.file.readBigUInt64LE(at));
      return own === 0 ? at + bucketHeader : own * this.#pageSize;
    }
    return undefined;
  }

  value(bucket: string, name: string): Leaf | undefined {
    const page = this.bucket(bucket);
    if (page === undefined) return undefined;
    return [...this.#below(page)].find(({ key }) => key.toString() === name);
  }

  isLeaf(page: number): boolean {
    return (this.file.readUInt16LE(page + 8) & leaf) !== 0;
  }
}

/** Makes a snapshot's database the beginning of a new cluster's. Changes the buffer. */
export function detachFromCluster(database: Buffer): void {
  const bolt = new Bolt(database);
  for (const name of ["consistent_index", "term"]) {
    const value = bolt.value("meta", name);
    if (value !== undefined) database.fill(0, value.at, value.at + value.length);
  }
  for (const name of ["members", "members_removed"]) {
    const page = bolt.bucket(name);
    if (page === undefined) continue;
    if (!bolt.isLeaf(page)) throw new Error(`bucket ${name} of the snapshot has more members than any cluster`);
    database.writeUInt16LE(0, page + 10);
  }
}
