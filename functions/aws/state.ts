/**
 * The state bucket as a store of JSON documents with conditional writes.
 *
 * S3 answers 412 when a condition is false, and 409 when a concurrent write is under way and nothing was decided: then it is asked again. Because the SDK
 * retries a PUT whose answer was lost, a 412 may be our own success: `create` and `replace` read back and compare before they say that somebody else
 * was first.
 */
import { DeleteObjectCommand, GetObjectCommand, ListObjectsV2Command, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { NotYet } from "../../core/failures.js";

export interface Stored<T> {
  readonly value: T;
  readonly etag: string;
}

export interface StateStore {
  read<T>(key: string): Promise<Stored<T> | undefined>;
  /** Writes whatever was there before. For documents that have one writer. */
  write(key: string, value: unknown): Promise<void>;
  /** Creates, or answers false when another document is there already. The very same document counts as created. */
  create(key: string, value: unknown): Promise<boolean>;
  /** Replaces the version with this etag, or answers false when it is no longer the current one. */
  replace(key: string, value: unknown, etag: string): Promise<boolean>;
  /**
   * Reads, changes and writes back until nobody else wrote in between. `change` must be pure; answering `undefined` leaves the document as it is.
   * @throws NotYet after ten lost races: the step is retried by its state machine.
   */
  update<T>(key: string, change: (value: T | undefined) => T | undefined): Promise<T | undefined>;
  remove(key: string): Promise<void>;
  /** Removes only this version of the document. */
  removeVersion(key: string, etag: string): Promise<boolean>;
  list(prefix: string, limit?: number): Promise<readonly string[]>;
  /** What comes next after the prefix, up to the following `/`: clusters, without everything that is kept of each. */
  names(prefix: string): Promise<readonly string[]>;
}

const lostRaces = 10;

export function stateStore(bucket: string, s3: S3Client = new S3Client({})): StateStore {
  const put = (key: string, body: string, condition: { IfNoneMatch?: string; IfMatch?: string }): Promise<boolean> =>
    untilDecided(key, async () => {
      try {
        await s3.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: body, ContentType: "application/json", ...condition }));
        return true;
      } catch (error) {
        if (isRace(error)) return (await readText(key))?.text === body ? true : "again";
        if (isRefused(error) || isMissing(error)) return (await readText(key))?.text === body;
        throw error;
      }
    });
  const readText = async (key: string): Promise<{ text: string; etag: string } | undefined> => {
    try {
      const answer = await s3.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
      return { text: (await answer.Body?.transformToString()) ?? "", etag: answer.ETag ?? "" };
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  };
  const store: StateStore = {
    async read<T>(key: string) {
      const found = await readText(key);
      return found && { value: JSON.parse(found.text) as T, etag: found.etag };
    },
    async write(key, value) {
      await put(key, JSON.stringify(value), {});
    },
    create: (key, value) => put(key, JSON.stringify(value), { IfNoneMatch: "*" }),
    replace: (key, value, etag) => put(key, JSON.stringify(value), { IfMatch: etag }),
    async update<T>(key: string, change: (value: T | undefined) => T | undefined) {
      for (let race = 0; race < lostRaces; race++) {
        const found = await store.read<T>(key);
        const changed = change(found?.value);
        if (changed === undefined) return found?.value;
        const written = found === undefined ? await store.create(key, changed) : await store.replace(key, changed, found.etag);
        if (written) return changed;
      }
      throw new NotYet(`${key} was changed by others ${lostRaces} times in a row`, "Asking again shortly");
    },
    async remove(key) {
      await s3.send(new DeleteObjectCommand({ Bucket: bucket, Key: key }));
    },
    removeVersion: (key, etag) =>
      untilDecided(key, async () => {
        try {
          await s3.send(new DeleteObjectCommand({ Bucket: bucket, Key: key, IfMatch: etag }));
          return true;
        } catch (error) {
          if (isRace(error)) return "again";
          if (isRefused(error) || isMissing(error)) return false;
          throw error;
        }
      }),
    async list(prefix, limit = Number.POSITIVE_INFINITY) {
      const keys: string[] = [];
      let next: string | undefined;
      do {
        const page = await s3.send(
          new ListObjectsV2Command({
            Bucket: bucket,
            Prefix: prefix,
            ...(next === undefined ? {} : { ContinuationToken: next }),
            ...(limit < 1000 ? { MaxKeys: limit } : {}),
          }),
        );
        keys.push(...(page.Contents ?? []).map((object) => object.Key ?? ""));
        next = page.NextContinuationToken;
      } while (next !== undefined && keys.length < limit);
      return keys.slice(0, Number.isFinite(limit) ? limit : undefined);
    },
    async names(prefix) {
      const found: string[] = [];
      let next: string | undefined;
      do {
        const page = await s3.send(
          new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix, Delimiter: "/", ...(next === undefined ? {} : { ContinuationToken: next }) }),
        );
        found.push(...(page.CommonPrefixes ?? []).map((common) => (common.Prefix ?? "").slice(prefix.length, -1)));
        next = page.NextContinuationToken;
      } while (next !== undefined);
      return found;
    },
  };
  return store;
}

/** Lists file names directly under a prefix, with their sizes: what the artifact store holds of a release. */
export async function listFiles(bucket: string, prefix: string, s3: S3Client): Promise<readonly { readonly key: string; readonly bytes: number }[]> {
  const files: { key: string; bytes: number }[] = [];
  let next: string | undefined;
  do {
    const page = await s3.send(
      new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix, ...(next === undefined ? {} : { ContinuationToken: next }) }),
    );
    files.push(...(page.Contents ?? []).map((object) => ({ key: object.Key ?? "", bytes: object.Size ?? 0 })));
    next = page.NextContinuationToken;
  } while (next !== undefined);
  return files;
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && (error.name === "NoSuchKey" || error.name === "NotFound");
}

/** 412: the condition was looked at, and is false. */
function isRefused(error: unknown): boolean {
  return error instanceof Error && error.name === "PreconditionFailed";
}

/** 409: another conditional write was under way, and nothing was decided. */
function isRace(error: unknown): boolean {
  return error instanceof Error && error.name === "ConditionalRequestConflict";
}

/** @throws NotYet when the same race is lost ten times: whether the condition holds is still unknown */
async function untilDecided(key: string, act: () => Promise<boolean | "again">): Promise<boolean> {
  for (let race = 0; race < lostRaces; race++) {
    const decided = await act();
    if (decided !== "again") return decided;
  }
  throw new NotYet(`${key} was being written by others ${lostRaces} times in a row`, "Asking again shortly");
}
