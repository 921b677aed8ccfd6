import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decideLease, type HolderStatus, stillHolds } from "../../core/lease.js";
import type { Lease } from "../../core/records.js";
import { at, chance } from "./facts.js";

const mine = "arn:aws:states:eu-west-1:111122223333:execution:create-cluster:op-2";
const theirs = "arn:aws:states:eu-west-1:111122223333:execution:create-cluster:op-1";
const lease = (facts: Partial<Lease> = {}): Lease => ({ cluster: "prod", holder: theirs, operation: "op-1", takenAt: at(0), ...facts });
const wanted: Lease = { cluster: "prod", holder: mine, operation: "op-2", takenAt: at(100) };
const ask = (facts: Partial<Parameters<typeof decideLease>[0]>) =>
  decideLease({ holder: mine, operation: "op-2", now: at(100), cluster: "prod", ...facts });

describe("who may change a cluster", () => {
  it("gives a free cluster to the one that asks", () => {
    expect(ask({})).toEqual({ kind: "take", lease: wanted });
  });

  it("lets the holder's retry meet its own lease, whatever Step Functions says of it", () => {
    expect(ask({ lease: lease({ holder: mine, operation: "op-2" }), holderStatus: "RUNNING" })).toEqual({ kind: "held" });
    expect(ask({ lease: lease({ holder: mine, operation: "op-2" }) })).toEqual({ kind: "held" });
  });

  it.each<[HolderStatus, string]>([
    ["RUNNING", "operation op-1 has held prod since 2026-11-22T12:00:00.000Z and runs"],
    ["PENDING_REDRIVE", "operation op-1 has held prod since 2026-11-22T12:00:00.000Z and is about to run again"],
    ["UNKNOWN", "operation op-1 has held prod since 2026-11-22T12:00:00.000Z and Step Functions does not know its execution"],
  ])("answers busy, with the operation's name, while its holder is %s", (holderStatus, reason) => {
    expect(ask({ lease: lease(), holderStatus })).toEqual({ kind: "busy", operation: "op-1", reason });
  });

  it("answers busy when nobody read whether the holder runs", () => {
    expect(ask({ lease: lease() })).toMatchObject({ kind: "busy", operation: "op-1" });
  });

  it.each<HolderStatus>(["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"])(
    "takes over from a holder that ended as %s and did not release it",
    (holderStatus) => {
      expect(ask({ lease: lease(), holderStatus })).toEqual({ kind: "takeOver", lease: wanted, from: lease() });
    },
  );

  it.each<HolderStatus>(["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"])(
    "waits, after a holder ended as %s, until what its last step began can act no more",
    (holderStatus) => {
      expect(ask({ lease: lease(), holderStatus, holderEndedAt: at(46) })).toEqual({
        kind: "busy",
        operation: "op-1",
        reason: "operation op-1 ended at 2026-11-22T12:00:46.000Z, and its last step may still be under way",
      });
      expect(ask({ lease: lease(), holderStatus, holderEndedAt: at(45) })).toMatchObject({ kind: "takeOver" });
    },
  );

  it("takes over from a holder that Step Functions has forgotten only when it is old enough to be forgotten", () => {
    const days = (count: number) => at(count * 86_400);
    expect(ask({ lease: lease(), holderStatus: "UNKNOWN", now: days(30) })).toMatchObject({ kind: "busy" });
    expect(ask({ lease: lease(), holderStatus: "UNKNOWN", now: days(30.1) })).toMatchObject({ kind: "takeOver" });
  });

  it("stays away from a lease that names another cluster", () => {
    expect(ask({ lease: lease({ cluster: "test" }), holderStatus: "FAILED" })).toMatchObject({
      kind: "busy",
      reason: "the lease of prod names cluster test: it is damaged",
    });
  });
});

describe("whether a run still holds the lease it took", () => {
  it("holds it while it is in its name", () => {
    expect(stillHolds(lease({ holder: mine }), mine)).toBeUndefined();
  });
  it("does not when it is gone, or another's", () => {
    expect(stillHolds(undefined, mine)).toBe("the lease is gone");
    expect(stillHolds(lease(), mine)).toBe("operation op-1 took the lease over at 2026-11-22T12:00:00.000Z");
  });
});

/** The lease object under conditional writes, and executions that read, decide and write at any time, crash, end without releasing and release twice. */
class World {
  stored: { lease: Lease; etag: number } | undefined;
  private etag = 0;
  readonly runs = Array.from({ length: 4 }, (_, index) => ({
    holder: `execution-${index}`,
    status: "RUNNING" as HolderStatus,
    read: undefined as { lease: Lease; etag: number } | undefined,
    wasRead: false,
    holderStatus: undefined as HolderStatus | undefined,
  }));

  create(lease: Lease): boolean {
    if (this.stored !== undefined) return false;
    this.etag += 1;
    this.stored = { lease, etag: this.etag };
    return true;
  }
  replace(lease: Lease, etag: number): boolean {
    if (this.stored?.etag !== etag) return false;
    this.etag += 1;
    this.stored = { lease, etag: this.etag };
    return true;
  }
  remove(etag: number): void {
    if (this.stored?.etag === etag) this.stored = undefined;
  }
}

describe("law 2: one operation per cluster", () => {
  it("never lets two running executions hold one cluster, however their reads and writes interleave", () => {
    let tookOver = 0;
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), (seed) => {
        const draw = chance(seed);
        const world = new World();
        for (let step = 0; step < 150; step += 1) {
          const run = world.runs[Math.floor(draw() * world.runs.length)] as World["runs"][number];
          const luck = draw();
          if (luck < 0.05) run.status = draw() < 0.5 ? "FAILED" : "SUCCEEDED";
          else if (luck < 0.08 && run.status !== "RUNNING") Object.assign(run, { holder: `${run.holder}'`, status: "RUNNING", wasRead: false });
          else if (luck < 0.5) {
            const holder = world.runs.find((each) => each.holder === world.stored?.lease.holder);
            // An execution of an earlier name has ended; Step Functions' answer may be as old as the read.
            const status = world.stored === undefined ? undefined : (holder?.status ?? "FAILED");
            Object.assign(run, { read: world.stored, wasRead: true, holderStatus: status });
          } else if (run.wasRead && run.status === "RUNNING") {
            const asked = { lease: run.read?.lease, holder: run.holder, operation: run.holder, cluster: "prod", now: at(step) };
            const answer = decideLease({ ...asked, holderStatus: run.holderStatus });
            if (answer.kind === "take") world.create(answer.lease);
            if (answer.kind === "takeOver" && world.replace(answer.lease, run.read?.etag ?? -1)) tookOver += 1;
            // The end of an operation gives back what is its own, and only that.
            if (answer.kind === "held" && draw() < 0.3 && stillHolds(run.read?.lease, run.holder) === undefined) world.remove(run.read?.etag ?? -1);
          }
          const holders = world.runs.filter((each) => each.status === "RUNNING" && stillHolds(world.stored?.lease, each.holder) === undefined);
          if (holders.length > 1) throw new Error(`${holders.map((each) => each.holder).join(" and ")} hold the cluster after step ${step}`);
        }
      }),
      { seed: 41174, numRuns: 300 },
    );
    expect(tookOver).toBeGreaterThan(50);
  });

  it("never takes a lease from an execution that runs", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), (seed) => {
        const draw = chance(seed);
        const statuses: (HolderStatus | undefined)[] = ["RUNNING", "PENDING_REDRIVE", undefined];
        const holderStatus = statuses[Math.floor(draw() * statuses.length)];
        const answer = ask({ lease: lease(), holderStatus, now: at(Math.floor(draw() * 1e8)) });
        expect(answer.kind).toBe("busy");
      }),
      { seed: 41175, numRuns: 200 },
    );
  });
});

/**
 * What the first-server locks of other cluster managers have been caught at: each case here for the pair of lease (who acts) and conditional write (what is
 * decided).
 */
describe("racing for a cluster", () => {
  const race = () => {
    const world = new World();
    const take = (holder: string, sight: World["stored"] | "now" | "free" = "now", holderStatus?: HolderStatus) => {
      const read = sight === "now" ? world.stored : sight === "free" ? undefined : sight;
      const answer = decideLease({ lease: read?.lease, holder, operation: holder, cluster: "prod", now: at(1), holderStatus });
      if (answer.kind === "take") return world.create(answer.lease) ? "took" : "lost the race";
      if (answer.kind === "takeOver") return world.replace(answer.lease, read?.etag ?? -1) ? "took over" : "lost the race";
      return answer.kind;
    };
    return { world, take };
  };

  it("lets one of two that saw it free take it, and the other finds it taken", () => {
    const { take, world } = race();
    expect(take("a", "free")).toBe("took");
    expect(take("b", "free")).toBe("lost the race");
    expect(take("b", world.stored, "RUNNING")).toBe("busy");
  });

  it("lets one of two that saw its owner ended take it over, and the other finds it taken", () => {
    const { take, world } = race();
    take("a");
    const seenByBoth = world.stored;
    expect(take("b", seenByBoth, "FAILED")).toBe("took over");
    expect(take("c", seenByBoth, "FAILED")).toBe("lost the race");
    expect(world.stored?.lease.holder).toBe("b");
  });

  it("does not take over on an old sight of an owner that ended: somebody else holds it by now", () => {
    const { take, world } = race();
    take("a");
    const old = world.stored;
    take("b", old, "FAILED");
    expect(take("c", old, "ABORTED")).toBe("lost the race");
    expect(stillHolds(world.stored?.lease, "b")).toBeUndefined();
  });

  it("survives a release that failed: the lease of an ended execution is taken over", () => {
    const { take, world } = race();
    take("a"); // ends; its release never reached the bucket
    expect(take("b", world.stored, "SUCCEEDED")).toBe("took over");
  });

  it("survives a release that came late: it does not remove the next holder's lease", () => {
    const { take, world } = race();
    take("a");
    const before = world.stored;
    take("b", before, "TIMED_OUT");
    expect(stillHolds(world.stored?.lease, "a")).toBe(`operation b took the lease over at ${at(1)}`);
    world.remove(before?.etag ?? -1);
    expect(world.stored?.lease.holder).toBe("b");
  });

  it("answers a taker whose first answer was lost with its own lease", () => {
    const { take, world } = race();
    take("a");
    expect(take("a", world.stored)).toBe("held");
  });

  it("is free again after a release, for anybody, once", () => {
    const { take, world } = race();
    take("a");
    world.remove(world.stored?.etag ?? -1);
    expect(take("b")).toBe("took");
    expect(take("c", world.stored, "RUNNING")).toBe("busy");
  });
});
