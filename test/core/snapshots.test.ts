import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  chooseSnapshotServer,
  isInUse,
  proofFault,
  sizeFault,
  snapshotIdOfPass,
  snapshotIdPattern,
  timeInId,
  tokenHash,
} from "../../core/snapshots.js";
import { member } from "./facts.js";

const hash = (text: string) => createHash("sha256").update(text).digest("hex");
const operation = { id: "backup-prod-1", acceptedAt: "2026-01-05T02:03:04.567Z" };

describe("a snapshot's id", () => {
  it("tells the time, sorts by it, and is the same for a step that runs twice", () => {
    const id = snapshotIdOfPass("u-1", operation, 1);
    expect(id).toMatch(snapshotIdPattern);
    expect(id.startsWith("20260105T020304Z-")).toBe(true);
    expect(snapshotIdOfPass("u-1", operation, 1)).toBe(id);
    expect(timeInId(id)).toBe("2026-01-05T02:03:04.000Z");
  });
  it("differs between passes, operations and clusters of the same second", () => {
    const ids = [
      snapshotIdOfPass("u-1", operation, 1),
      snapshotIdOfPass("u-1", operation, 2),
      snapshotIdOfPass("u-1", { ...operation, id: "backup-prod-2" }, 1),
      snapshotIdOfPass("u-2", operation, 1),
    ];
    expect(new Set(ids).size).toBe(4);
  });
});

describe("choosing the server that saves a snapshot", () => {
  const living = [member("i-1", 1), member("i-2", 2), member("i-3", 3)];
  const choose = (given: Partial<Parameters<typeof chooseSnapshotServer>[0]>) => chooseSnapshotServer({ living, failed: [], ...given })?.instanceId;
  it.each([
    ["the highest slot, of equal ones", {}, "i-3"],
    ["another than etcd's leader", { leader: "server-i-3" }, "i-2"],
    ["the leader rather than one that failed", { leader: "server-i-3", failed: ["i-1", "i-2"] }, "i-3"],
    ["one that failed when all did", { failed: ["i-1", "i-2", "i-3"] }, "i-3"],
    ["the only one, though it leads", { living: living.slice(0, 1), leader: "server-i-1" }, "i-1"],
  ])("takes %s", (_, given, chosen) => expect(choose(given)).toBe(chosen));
  it("does not go by the order in which they are listed", () => {
    expect(choose({ living: [...living].reverse() })).toBe("i-3");
  });
  it("takes none when none lives", () => expect(choose({ living: [] })).toBeUndefined());
});

describe("the proof of a snapshot", () => {
  const whole = { bytes: 20_512, sha256: hash("whole"), parts: [] };
  const found = { versionId: "v1", bytes: 20_512, sha256: hash("whole"), composite: undefined };
  const parts = [hash("one"), hash("two")];
  const composite = createHash("sha256")
    .update(Buffer.from(parts.join(""), "hex"))
    .digest("hex");
  const inParts = { ...found, sha256: undefined, composite: { sha256: composite, parts: 2 } };
  it("holds when size and hash are what the node said", () => {
    expect(proofFault(whole, found)).toBeUndefined();
    expect(proofFault({ ...whole, parts }, inParts)).toBeUndefined();
  });
  it.each([
    ["is not there", whole, undefined, /not in the snapshot bucket/],
    ["has another size", whole, { ...found, bytes: 20_511 }, /20511 bytes, expected 20512/],
    ["has another hash", whole, { ...found, sha256: hash("other") }, new RegExp(`expected ${hash("whole")}`)],
    ["has a hash that S3 does not know", whole, { ...found, sha256: undefined }, /not known to S3/],
    ["was sent in fewer parts", { ...whole, parts }, { ...inParts, composite: { sha256: composite, parts: 1 } }, /1 part\(s\), expected 2/],
    ["was sent whole though it has parts", { ...whole, parts }, found, /1 part\(s\), expected 2/],
    ["has other parts", { ...whole, parts: [...parts].reverse() }, inParts, /SHA-256 of its parts/],
  ])("fails when it %s", (_, expected, stored, fault) => expect(proofFault(expected, stored)).toMatch(fault));
  it.each([
    [32, /32 bytes, which no snapshot is/],
    [20_480, /not that of an etcd snapshot/],
  ])("fails for a file of %i bytes", (bytes, fault) => expect(sizeFault(bytes)).toMatch(fault));
  it("takes pages and a checksum", () => expect(sizeFault(20_512)).toBeUndefined());
});

describe("the hash of a token", () => {
  it("is of its password, in either form", () => {
    const first12 = hash("s3cr3t").slice(0, 12);
    expect(tokenHash("s3cr3t")).toBe(first12);
    expect(tokenHash(`K10${"a".repeat(64)}::server:s3cr3t`)).toBe(first12);
  });
});

describe("a snapshot in use", () => {
  const use = { schema: 1, operation: "restore-b-1", cluster: "b", at: "2026-01-01T00:00:00.000Z" } as const;
  it("stays so for a week, in which a failed restore may be started again", () => {
    expect(isInUse(use, "2026-01-07T23:59:59.999Z")).toBe(true);
    expect(isInUse(use, "2026-01-08T00:00:00.000Z")).toBe(false);
  });
});
