import { existsSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { machineSupport, type Surroundings } from "../../local/nodes/machines/image.js";
import { forgetOldReleases, whyNoRoom } from "../../local/nodes/machines/world.js";

const here = (overrides: Partial<Surroundings> & { readonly without?: readonly string[] } = {}): Surroundings => ({
  platform: "linux",
  uid: 0,
  has: (program) => !(overrides.without ?? []).includes(program),
  hasCgroups: () => true,
  hasCapabilities: () => true,
  ...overrides,
});

describe("what machines need of this computer", () => {
  it("is there on Linux as root with the packages", () => {
    expect(machineSupport(here())).toEqual({ ok: true });
  });

  it.each<readonly [string, Surroundings, string]>([
    ["another system", here({ platform: "darwin" }), "Machines need Linux, this is darwin. Use --nodes simulated, or a Debian with root"],
    ["no root", here({ uid: 1000 }), "Machines need root: run this with sudo"],
    [
      "no root and no package",
      here({ uid: 1000, without: ["debootstrap"] }),
      "Machines need root, and debootstrap is missing: sudo apt-get install --yes debootstrap, then run this with sudo",
    ],
    [
      "no packages",
      here({ without: ["systemd-nspawn", "debootstrap", "etcd"] }),
      "Machines cannot run: systemd-nspawn, debootstrap, etcd are missing. apt-get install --yes systemd-container debootstrap etcd-server",
    ],
    [
      "no right to mount",
      here({ hasCapabilities: () => false }),
      "Machines cannot run: root may not mount or make networks here (CAP_SYS_ADMIN, CAP_NET_ADMIN). Start the container with --privileged",
    ],
    [
      "no cgroups",
      here({ hasCgroups: () => false }),
      "Machines cannot run: no cgroup hierarchy for systemd. mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, or boot with cgroup v2",
    ],
  ])("is told in one line when it lacks: %s", (_, surroundings, missing) => {
    expect(machineSupport(surroundings)).toEqual({ ok: false, missing });
  });
});

describe("a whole local cloud on machines", () => {
  const gib = 1024 ** 3;

  it("is refused in one line when its nodes have no room in memory", () => {
    expect(whyNoRoom(5, 3 * gib)).toBeUndefined();
    expect(whyNoRoom(5, 3 * gib - 1)).toBe("5 machines need 3.0 GiB of memory, and 2.9 GiB are free. Take fewer nodes, or use --nodes simulated");
  });

  it("keeps the releases it uses, and those of others for a week", () => {
    const folder = mkdtempSync(join(tmpdir(), "releases-"));
    const day = 86_400;
    const now = Date.UTC(2026, 0, 30) / 1000;
    const made = (name: string, usedDaysAgo: number) => {
      const path = join(folder, name);
      mkdirSync(path);
      writeFileSync(join(path, "rke2"), "");
      utimesSync(path, now - usedDaysAgo * day, now - usedDaysAgo * day);
      return path;
    };
    const [used, recent, old] = [made("used", 30), made("recent", 6), made("old", 8)];
    forgetOldReleases(folder, [used], now * 1000);
    expect([used, recent, old].map((path) => existsSync(path))).toEqual([true, true, false]);
    forgetOldReleases(folder, [recent], (now + 6 * day) * 1000);
    expect([used, recent].map((path) => existsSync(path))).toEqual([true, true]);
    rmSync(folder, { recursive: true });
  });
});
