import { describe, expect, it } from "vitest";
import { machineSupport, type Surroundings } from "../../local/nodes/machines/image.js";

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
