/** What is wrong with a machine or with the release ends a create in one card that names node, code and cause; once it is mended the next create finishes. */
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { tags } from "../../core/layout.js";
import { must } from "../../local/nodes/machines/image.js";
import { cloudFolder } from "../../local/nodes/machines/traces.js";
import { Account, archives, clusterFile } from "./account.js";
import { describeMachines } from "./machine-tests.js";

const name = "faulty";
const file = clusterFile(name, 1, 1);

interface Fault {
  readonly what: string;
  /** On whose node it shows. */
  readonly role: "server" | "agent";
  readonly code: string;
  readonly says: RegExp;
  readonly make: (account: Account, instanceId: string) => unknown;
  readonly mend: (account: Account, instanceId: string) => unknown;
}

/** The disk of a machine is memory; its size can be changed while it runs. */
function resizeDisk({ cloud }: Account, instanceId: string, size: string): void {
  const disk = join(cloudFolder(cloud.name), instanceId, "disk");
  must("mount", ["-o", `remount,size=${size}`, disk]);
}

const controllers = "$(ls /sys/fs/cgroup/cgroup.controllers 2>/dev/null || echo /proc/cgroups)";

/** One cluster meets all of them, in the order in which a create comes by. */
const faults: readonly Fault[] = [
  {
    what: "a corrupted archive in the artifact store",
    role: "server",
    code: "ChecksumMismatch",
    says: /rke2-images\.linux-\w+\.tar\.zst arrived with SHA-256 [0-9a-f]{64}, the release's checksum file says [0-9a-f]{64}/,
    make: (account) => account.spoil(archives.images),
    mend: (account) => account.mend(archives.images),
  },
  {
    what: "a wrong checksum in the release's checksum file",
    role: "server",
    code: "ChecksumMismatch",
    says: /rke2\.linux-\w+\.tar\.gz arrived with SHA-256 [0-9a-f]{64}, the release's checksum file says 0{64}/,
    make: (account) =>
      account.spoil(archives.checksums, (text) =>
        Buffer.from(text.toString("utf8").replace(new RegExp(`^[0-9a-f]{64}(?=  ${archives.bundle.replaceAll(".", "\\.")}$)`, "m"), "0".repeat(64))),
      ),
    mend: (account) => account.mend(archives.checksums),
  },
  {
    what: "a full disk",
    role: "server",
    code: "DiskFull",
    says: /\/var\/lib\/rancher has \d+ MiB free, \d+ MiB are needed/,
    make: (account, instanceId) => resizeDisk(account, instanceId, "400M"),
    mend: (account, instanceId) => resizeDisk(account, instanceId, "80G"),
  },
  {
    what: "a port that is in use",
    role: "server",
    code: "PortInUse",
    says: /Something listens on port 6443 already, which RKE2 needs as server/,
    make: (account, instanceId) => account.sh(instanceId, "systemd-run --quiet --unit=other nc -lk 6443"),
    mend: (account, instanceId) => account.sh(instanceId, "systemctl stop other"),
  },
  {
    what: "a clock that is ten minutes off",
    role: "server",
    code: "ClockWrong",
    says: /The clock differs by (59\d|60\d|61\d) s from the artifact store's, at most 30 s are allowed/,
    make: (account, instanceId) => account.driver.setClock(instanceId, -600),
    mend: (account, instanceId) => account.driver.setClock(instanceId, 0),
  },
  {
    what: "a cgroup controller that is missing",
    role: "agent",
    code: "CgroupMissing",
    says: /The kernel offers no pids cgroup controller/,
    make: (account, instanceId) =>
      account.sh(instanceId, `grep -v ^pids ${controllers} | sed 's/\\bpids\\b//' >/run/without-pids; mount --bind /run/without-pids ${controllers}`),
    mend: (account, instanceId) => account.sh(instanceId, `umount ${controllers}`),
  },
  {
    // The server has the one that it was started with.
    what: "a token that was changed in the secrets",
    role: "agent",
    code: "TokenRejected",
    says: /The server does not accept the token/,
    make: (account) => account.spoilSecret(name, "agent-token"),
    mend: (account) => account.mendSecret(name, "agent-token"),
  },
];

describeMachines("a create that meets a fault", () => {
  let account: Account;
  beforeAll(async () => {
    account = await Account.open();
  });
  afterAll(() => account?.close());

  /** The one machine of a role; none before the first create. */
  const machineOf = (role: Fault["role"]) => account.living.find(({ tags: own }) => own[tags.role] === role)?.id ?? "";

  it.each(faults.map((fault) => [fault.what, fault] as const))("tells which node, why and what to do: %s", async (_, fault) => {
    await fault.make(account, machineOf(fault.role));
    try {
      const operation = await account.create(file);
      account.expectCard(operation, { instanceId: machineOf(fault.role), code: fault.code, says: fault.says });
    } finally {
      await fault.mend(account, machineOf(fault.role));
    }
  });

  it("finishes when all is mended, on the machines that there were", async () => {
    const before = (await account.nodes(name)).map(({ instanceId }) => instanceId);
    const operation = await account.create(file);
    expect(operation, JSON.stringify(operation.card)).toMatchObject({ status: "succeeded" });
    await account.expectSound(name);
    expect((await account.nodes(name)).map(({ instanceId }) => instanceId)).toEqual(before);
  });
});
