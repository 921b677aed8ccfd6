import { describe, expect, it } from "vitest";
import { VirtualClock } from "../../local/kernel/clock.js";

describe("the virtual clock", () => {
  it("releases events by time, then in the order they were scheduled", async () => {
    const clock = new VirtualClock(1000);
    const seen: string[] = [];
    for (const [name, after] of [
      ["late", 30],
      ["first", 10],
      ["second", 10],
      ["now", 0],
    ] as const)
      clock.after(after, () => void seen.push(`${name} ${clock.now()}`));
    expect(await clock.runUntilIdle()).toBe("idle");
    expect(seen).toEqual(["now 1000", "first 1010", "second 1010", "late 1030"]);
  });

  it("keeps the order of many events as a sorted list would", async () => {
    const clock = new VirtualClock(0);
    const times = Array.from({ length: 500 }, (_, index) => (index * 7919) % 211);
    const seen: [number, number][] = [];
    for (const [index, time] of times.entries()) clock.after(time, () => void seen.push([time, index]));
    await clock.runUntilIdle();
    expect(seen).toEqual(times.map((time, index): [number, number] => [time, index]).sort(([a, i], [b, j]) => a - b || i - j));
  });

  it("lets everything that an event set going come to rest before the next", async () => {
    const clock = new VirtualClock(0);
    const seen: string[] = [];
    clock.after(1, async () => {
      for (let turn = 0; turn < 50; turn++) await Promise.resolve();
      await new Promise<void>((resolve) => process.nextTick(resolve));
      seen.push("settled");
    });
    clock.after(1, () => void seen.push("next"));
    await clock.runUntilIdle();
    expect(seen).toEqual(["settled", "next"]);
  });

  it("does not release what was cancelled, nor wait for it", async () => {
    const clock = new VirtualClock(0);
    const timer = clock.after(5, () => expect.unreachable());
    timer.cancel();
    timer.cancel();
    expect(clock.idle).toBe(true);
    expect(await clock.runUntilIdle()).toBe("idle");
    expect(clock.now()).toBe(0);
  });

  it("is idle when only daemons are left, and runs them on its way to a time", async () => {
    const clock = new VirtualClock(0);
    let pings = 0;
    const ping = () => {
      pings++;
      clock.after(10, ping, { daemon: true });
    };
    clock.after(10, ping, { daemon: true });
    clock.after(35, () => {});
    expect(await clock.runUntilIdle()).toBe("idle");
    expect([pings, clock.now()]).toEqual([3, 35]);
    expect(await clock.runUntil(100)).toBe("reached");
    expect([pings, clock.now()]).toEqual([10, 100]);
  });

  it("stops at the event that makes the predicate true, and says when none did", async () => {
    const clock = new VirtualClock(0);
    let count = 0;
    for (let each = 1; each <= 5; each++) clock.after(each, () => void count++);
    expect(await clock.runUntil(() => count === 3)).toBe("reached");
    expect(clock.now()).toBe(3);
    expect(await clock.runUntil(() => false, { events: 1 })).toBe("limit");
    expect(await clock.runUntil(() => false)).toBe("idle");
    expect(count).toBe(5);
  });

  it("puts together what comes to rest at one instant", async () => {
    const clock = new VirtualClock(0);
    const seen: string[] = [];
    clock.after(1, () => {
      clock.atRest(() => void seen.push(`at rest ${clock.now()}`));
      queueMicrotask(() => seen.push("moving"));
    });
    clock.after(1, () => void seen.push("next event"));
    await clock.runUntilIdle();
    expect(seen).toEqual(["moving", "at rest 1", "next event"]);
  });

  it("ends the run with the first error, from an event, a promise or a check", async () => {
    const thrown = new VirtualClock(0);
    thrown.after(1, () => {
      throw new Error("in the event");
    });
    await expect(thrown.runUntilIdle()).rejects.toThrow("in the event");

    const rejected = new VirtualClock(0);
    rejected.after(1, async () => {
      await Promise.resolve();
      throw new Error("in its promise");
    });
    await expect(rejected.runUntilIdle()).rejects.toThrow("in its promise");

    const checked = new VirtualClock(0);
    checked.after(1, () => {});
    checked.after(2, () => {});
    checked.afterEachEvent(() => {
      if (checked.now() === 2) throw new Error("law broken at 2");
    });
    await expect(checked.runUntilIdle()).rejects.toThrow("law broken at 2");

    const failed = new VirtualClock(0);
    failed.after(1, () => {
      failed.fail(new Error("cause"));
      failed.fail(new Error("consequence"));
    });
    await expect(failed.runUntilIdle()).rejects.toThrow("cause");
  });

  it("lets time that merely passes pass at once in a paced world, once nothing else is due before and nothing outside is under way", async () => {
    const clock = new VirtualClock(0);
    const stop = new AbortController();
    const seen: string[] = [];
    const note = (name: string) => seen.push(`${name} ${Math.floor(clock.now() / 1000)}`);
    const hour = 3600_000;
    const release = clock.hold();
    clock.after(
      hour,
      () => {
        note("waited an hour");
        // Due before the next wait is over, and not idle: as long as it takes in real time.
        clock.after(1, () => void note("asked again"));
        clock.after(2 * hour, () => stop.abort(), { idle: true });
      },
      { idle: true },
    );
    clock.after(hour / 2, () => void note("pinged"), { daemon: true });
    clock.after(4 * hour, () => void note("timed out"));
    clock.after(1, () => {
      note("held");
      release();
    });
    await clock.pace({ speed: 1, signal: stop.signal, skipsIdle: true });
    expect(seen).toEqual(["held 0", "pinged 1800", "waited an hour 3600", "asked again 3600"]);
    expect(clock.now()).toBeGreaterThanOrEqual(3 * hour);
    expect(clock.now()).toBeLessThan(4 * hour);
    // An hour less the millisecond before it, then two less the one of asking again.
    const skipped = [hour / 2, hour, clock.now()].map((time) => Math.round(clock.skippedUntil(time) / 60_000));
    expect(skipped).toEqual([30, 60, 180]);
    expect(clock.skippedUntil(clock.now())).toBeLessThan(3 * hour);
  });

  it("refuses a second driver", async () => {
    const clock = new VirtualClock(0);
    clock.after(1, () => {});
    const first = clock.runUntilIdle();
    await expect(clock.runUntilIdle()).rejects.toThrow("the clock runs already");
    await first;
  });
});
