import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { nodePaths } from "../../core/node-commands.js";
import { instanceId, Machine, makeRelease, preparation, sha256, tcpTable, version } from "./machine.js";

let machine: Machine;
beforeEach(() => {
  machine = new Machine();
});
afterEach(() => machine.end());

const parameters = (delivery: string, more: Partial<Record<"role" | "pool" | "profile" | "selinux" | "version", string>> = {}) =>
  ({ role: "server", pool: "server", delivery, version, profile: "none", selinux: "false", ...more }) as const as Parameters<
    typeof machine.run<"prepare-node">
  >[1];

const prepare = (more: Parameters<typeof parameters>[1] = {}, release = makeRelease()) =>
  machine.run("prepare-node", parameters(machine.deliver(preparation(machine, release)), more));

const watched = ["/etc", "/usr", "/opt", "/var"];

describe("preparing a node", () => {
  it("places the release, the configuration and the node's own part, and says so", () => {
    const release = makeRelease();
    expect(prepare({}, release)).toMatchObject({
      status: 0,
      result: { ok: true, node: `server-${instanceId}`, changed: true, version, warnings: [] },
    });
    expect(machine.list("/usr/local/bin")).toEqual(["rke2", "rke2-killall.sh", "rke2-uninstall.sh"]);
    expect(machine.mode("/usr/local/bin/rke2")).toBe("755");
    expect(machine.read("/usr/local/lib/systemd/system/rke2-server.service")).toContain("/usr/local/bin/rke2 server");
    expect(machine.read("/etc/rancher/rke2/config.yaml")).toContain("calico");
    expect(machine.mode("/etc/rancher/rke2/config.yaml")).toBe("600");
    expect(machine.read("/etc/rancher/rke2/config.yaml.d/10-drover-node.yaml")).toBe(`node-name: "server-${instanceId}"\nnode-ip: "10.0.1.17"\n`);
    expect(machine.mode("/etc/rancher/rke2/config.yaml.d")).toBe("700");
    expect(machine.calls()).toContain("systemctl daemon-reload");
  });

  it("places image archives unmodified and lets RKE2 import them once", () => {
    const release = makeRelease();
    prepare({}, release);
    const name = "rke2-images-core.linux-amd64.tar.zst";
    expect(machine.list(nodePaths.images)).toEqual([".cache.json", "rke2-images-calico.linux-amd64.tar.zst", name]);
    expect(sha256(machine.read(`${nodePaths.images}/${name}`))).toBe(sha256(release.files[name] as Buffer));
    expect(machine.list(nodePaths.staging)).toEqual([]);
  });

  it("starts nothing", () => {
    prepare();
    expect(machine.calls().filter((call) => /systemctl (start|enable|restart)/.test(call))).toEqual([]);
  });

  it("changes nothing and fetches no archive the second time", () => {
    const release = makeRelease();
    prepare({ profile: "cis" }, release);
    const before = machine.snapshot(...watched);
    machine.calls();
    expect(prepare({ profile: "cis" }, release).result).toMatchObject({ ok: true, changed: false });
    expect(machine.snapshot(...watched)).toEqual(before);
    expect(machine.calls().filter((call) => call.includes("linux-amd64.tar"))).toEqual([]);
  });

  it("replaces what was damaged since, and only that", () => {
    const release = makeRelease();
    prepare({}, release);
    machine.write({ [`${nodePaths.images}/rke2-images-core.linux-amd64.tar.zst`]: "damaged" });
    machine.calls();
    expect(prepare({}, release).result).toMatchObject({ ok: true, changed: true });
    const fetched = machine.calls().filter((call) => /^curl GET rke2.*tar/.test(call) && !call.endsWith(" range"));
    expect(fetched).toEqual(["curl GET rke2-images-core.linux-amd64.tar.zst"]);
  });

  it("removes archives of another release and image lists, which RKE2 would pull, and keeps a user's own", () => {
    machine.write({
      [`${nodePaths.images}/rke2-images-cilium.linux-amd64.tar.zst`]: "old",
      [`${nodePaths.images}/rke2-images.linux-amd64.txt`]: "docker.io/rancher/x",
      [`${nodePaths.images}/company.tar`]: "own",
    });
    prepare();
    expect(machine.list(nodePaths.images)).toEqual([
      ".cache.json",
      "company.tar",
      "rke2-images-calico.linux-amd64.tar.zst",
      "rke2-images-core.linux-amd64.tar.zst",
    ]);
  });

  it("installs under /opt/rke2 when /usr/local is a mount of its own, with paths rewritten", () => {
    machine.write({ "/proc/mounts": "/dev/a / ext4 ro 0 0\n/dev/b /usr/local btrfs rw 0 0\n" });
    expect(prepare().result).toMatchObject({ ok: true });
    expect(machine.has("/opt/rke2/bin/rke2")).toBe(true);
    expect(machine.read("/etc/systemd/system/rke2-server.service")).toBe(
      "[Service]\nEnvironmentFile=-/opt/rke2/lib/systemd/system/%N.env\nExecStart=/opt/rke2/bin/rke2 server\n",
    );
    expect(machine.read("/opt/rke2/bin/rke2-uninstall.sh")).toContain("/opt/rke2/bin/rke2");
    expect(machine.list("/usr/local/bin")).toEqual([]);
    expect(prepare().result).toMatchObject({ ok: true, changed: false });
  });

  it("turns swap off and warns that it returns", () => {
    machine.write({ "/proc/swaps": "Filename Type Size Used Priority\n/swapfile file 2097148 0 -2\n" });
    expect(prepare().result).toMatchObject({ ok: true, warnings: [expect.stringContaining("/etc/fstab")] });
    expect(machine.read("/proc/swaps")).not.toContain("/swapfile");
  });

  it("raises inotify limits and never lowers them", () => {
    prepare();
    expect(machine.read("/proc/sys/fs/inotify/max_user_instances")).toBe("8192\n");
    expect(machine.read("/proc/sys/fs/inotify/max_user_watches")).toBe("1048576\n");
    expect(machine.read("/etc/sysctl.d/60-drover.conf")).toBe("fs.inotify.max_user_instances = 8192\nfs.inotify.max_user_watches = 1048576\n");
  });

  it("keeps NetworkManager and nm-cloud-setup away from the pods' interfaces", () => {
    machine.write({ "/etc/NetworkManager/NetworkManager.conf": "" });
    machine.say({ "units/NetworkManager": "active 0", "enabled/nm-cloud-setup.timer": "" });
    expect(prepare().result).toMatchObject({ ok: true, warnings: [expect.stringContaining("nm-cloud-setup.timer")] });
    expect(machine.read("/etc/NetworkManager/conf.d/rke2-canal.conf")).toMatch(/^\[keyfile\]\nunmanaged-devices=interface-name:flannel\*;/);
    const calls = machine.calls();
    expect(calls).toContain("systemctl reload NetworkManager");
    expect(calls).toContain("systemctl disable --now nm-cloud-setup.timer");
  });

  it.each([
    ["firewalld", () => machine.say({ "units/firewalld": "active 0" }), "firewalld runs"],
    ["docker", () => machine.say({ "units/docker": "active 0" }), "docker runs beside"],
    ["fapolicyd", () => machine.say({ "units/fapolicyd": "active 0" }), "fapolicyd runs"],
    ["a resolver on loopback alone", () => machine.write({ "/etc/resolv.conf": "nameserver 127.0.0.53\n" }), "8.8.8.8"],
    ["no default route", () => machine.write({ "/proc/net/route": "Iface\tDestination\tGateway\n" }), "no default route"],
    ["a missing kernel module", () => machine.say({ "no-modules": "" }), "Kernel module overlay"],
    ["a clock 5 s off", () => machine.say({ "store-time": "1795000105" }), "differs by 5 s"],
  ])("warns of %s and goes on", (_, arrange, text) => {
    arrange();
    const { result } = prepare();
    expect(result).toMatchObject({ ok: true });
    expect((result as { warnings: string[] }).warnings.join()).toContain(text);
  });

  it("sends at most five warnings, the rest stay in the log", () => {
    machine.say({
      "units/firewalld": "active 0",
      "units/ufw": "active 0",
      "units/docker": "active 0",
      "units/containerd": "active 0",
      "no-modules": "",
    });
    const { result, stderr } = prepare();
    expect((result as { warnings: string[] }).warnings).toHaveLength(5);
    expect(stderr.match(/warning: /g)?.length).toBe(6);
  });

  it("restores SELinux labels and warns when no policy confines RKE2", () => {
    machine.say({ selinux: "Enforcing" });
    expect(prepare({ selinux: "true" }).result).toMatchObject({ ok: true, warnings: [expect.stringContaining("rke2-selinux")] });
    expect(machine.calls().some((call) => call.startsWith("restorecon -R -i") && call.endsWith("/usr/local/bin"))).toBe(true);
  });
});

describe("profile cis", () => {
  it("sets the bundle's kernel parameters before the first start and makes the etcd user on servers", () => {
    expect(prepare({ profile: "cis" }).result).toMatchObject({ ok: true });
    expect(machine.read("/proc/sys/vm/overcommit_memory")).toBe("1\n");
    expect(machine.read("/proc/sys/kernel/panic")).toBe("10\n");
    expect(machine.has("/etc/sysctl.d/60-rke2-cis.conf")).toBe(true);
    expect(machine.read("/etc/passwd")).toContain("etcd:x:998");
    expect(machine.read("/etc/group")).toContain("etcd:x:998");
  });

  it("makes no etcd user on agents", () => {
    expect(prepare({ profile: "cis", role: "agent", pool: "workers" }).result).toMatchObject({ ok: true, node: `workers-${instanceId}` });
    expect(machine.read("/etc/passwd")).not.toContain("etcd");
    expect(machine.read("/proc/sys/kernel/panic")).toBe("10\n");
  });

  it("says which kernel parameter cannot be set", () => {
    const release = makeRelease({ cisParameters: "kernel.unknown_switch=1\n" });
    expect(prepare({ profile: "cis" }, release)).toMatchObject({
      status: 1,
      result: { code: "KernelParameter", message: expect.stringContaining("kernel.unknown_switch is missing") },
    });
  });

  it("fails when the etcd user cannot be made", () => {
    machine.say({ "no-users": "" });
    expect(prepare({ profile: "cis" }).result).toMatchObject({ code: "UnsupportedOs", message: expect.stringContaining("group etcd") });
  });
});

describe("a machine that cannot become a node is left as it was", () => {
  it.each<[string, () => void, string, string]>([
    ["not root", () => machine.say({ uid: "1000" }), "UnsupportedOs", "as user 1000"],
    ["no systemd", () => machine.remove("/run/systemd"), "UnsupportedOs", "systemd"],
    ["an architecture RKE2 has no release for", () => machine.say({ machine: "riscv64" }), "UnsupportedOs", "riscv64"],
    ["another architecture than the release", () => machine.say({ machine: "aarch64" }), "UnsupportedOs", "sha256sum-arm64.txt"],
    ["a clock that was never set", () => machine.say({ clock: "100" }), "ClockWrong", "1970-01-01"],
    ["a clock 95 s off that nothing sets", () => machine.say({ "store-time": "1795000195" }), "ClockWrong", "95 s"],
    ["no pids cgroup", () => machine.write({ "/sys/fs/cgroup/cgroup.controllers": "cpu memory\n" }), "CgroupMissing", "pids"],
    ["a port in use", () => machine.write({ "/proc/net/tcp": tcpTable(22, 6443, 10250) }), "PortInUse", "6443 10250"],
    [
      "a port in use on IPv6 alone",
      () => machine.write({ "/proc/net/tcp6": tcpTable(9345).replace("00000000:2481", `${"0".repeat(32)}:2481`) }),
      "PortInUse",
      "9345",
    ],
    ["RKE2 from packages", () => machine.write({ "/usr/bin/rke2": "" }), "ForeignRke2", "/usr/bin/rke2"],
    ["another Kubernetes", () => machine.say({ "units/k3s": "active 0" }), "ForeignRke2", "k3s runs"],
    [
      "data of another node",
      () => machine.write({ "/var/lib/rancher/rke2/server/db/etcd/name": "x" }),
      "ForeignRke2",
      "a node that Drover did not make",
    ],
    ["no room", () => machine.say({ free: String(100 * 2 ** 20) }), "DiskFull", "100 MiB free"],
    ["no instance metadata", () => machine.say({ "metadata/off": "" }), "Internal", "IMDSv2"],
  ])("%s", (_, arrange, code, text) => {
    arrange();
    const before = machine.snapshot("/etc", "/usr", "/opt", "/var/lib/rancher");
    expect(prepare()).toMatchObject({ status: 1, result: { ok: false, code, message: expect.stringContaining(text) } });
    expect(machine.snapshot("/etc", "/usr", "/opt", "/var/lib/rancher")).toEqual(before);
  });

  it("counts three times the archives, by what the store says of their size", () => {
    machine.say({ free: String(3 * 2 ** 30) });
    const release = makeRelease();
    machine.say({ "http/rke2-images-core.linux-amd64.tar.zst.size": String(2 ** 30) });
    expect(prepare({}, release).result).toMatchObject({ code: "DiskFull", message: expect.stringContaining("3584 MiB are needed") });
  });

  it("accepts cgroup v1 with a pids controller", () => {
    machine.remove("/sys/fs/cgroup/cgroup.controllers");
    machine.write({ "/proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\npids\t8\t1\t1\n" });
    expect(prepare().result).toMatchObject({ ok: true });
  });

  it("waits for a clock that is being set", () => {
    machine.say({ "store-time": "1795000195" });
    machine.script("on-sleep", 'echo 1795000092 >"$WORLD/clock"');
    expect(prepare().result).toMatchObject({ ok: true });
  });

  it("leaves the version of a node that has started to another command", () => {
    prepare();
    machine.write({ "/var/lib/rancher/rke2/server/db/etcd/name": "x" });
    expect(prepare({ version: "v1.35.8+rke2r1" }, makeRelease({ version: "v1.35.8+rke2r1" })).result).toMatchObject({
      code: "ForeignRke2",
      message: expect.stringContaining("does not change the version"),
    });
    expect(prepare().result).toMatchObject({ ok: true, changed: false });
  });

  it("does not take RKE2's own ports for another's", () => {
    prepare();
    machine.say({ "units/rke2-server": "active 0" });
    machine.write({ "/proc/net/tcp": tcpTable(6443, 9345, 2379) });
    expect(prepare().result).toMatchObject({ ok: true, changed: false });
  });
});

describe("fetching", () => {
  it("resumes an archive after the connection broke", () => {
    const delivery = machine.deliver(preparation(machine));
    machine.answers("rke2-images-core.linux-amd64.tar.zst", "200", "cut 500", "000", "503");
    expect(machine.run("prepare-node", parameters(delivery)).result).toMatchObject({ ok: true });
    expect(machine.calls()).toContain("curl resumed rke2-images-core.linux-amd64.tar.zst at 500");
  });

  it("gives up at once when the store refuses, for an expired address does not heal", () => {
    const delivery = machine.deliver(preparation(machine));
    machine.answers("rke2-images-calico.linux-amd64.tar.zst", "200", "403");
    expect(machine.run("prepare-node", parameters(delivery))).toMatchObject({
      status: 1,
      result: { code: "DownloadFailed", message: expect.stringContaining("HTTP 403: the address has expired") },
    });
    expect(machine.calls().filter((call) => call === "curl GET rke2-images-calico.linux-amd64.tar.zst")).toHaveLength(1);
    expect(machine.has("/usr/local/bin/rke2")).toBe(false);
  });

  it("gives up after a bounded number of attempts when nothing answers", () => {
    const delivery = machine.deliver(preparation(machine));
    machine.answers("list-1", ...Array<string>(20).fill("000"));
    expect(machine.run("prepare-node", parameters(delivery)).result).toMatchObject({
      code: "DownloadFailed",
      message: expect.stringContaining("delivery list"),
    });
    expect(machine.calls().filter((call) => call === "curl GET list-1")).toHaveLength(8);
  });

  it("places nothing of an archive that is not what the checksum file says, and fetches it afresh once", () => {
    const release = makeRelease();
    const delivery = machine.deliver(preparation(machine, release));
    machine.store("rke2-images-core.linux-amd64.tar.zst", "not what was released");
    expect(machine.run("prepare-node", parameters(delivery))).toMatchObject({
      status: 1,
      result: { code: "ChecksumMismatch", message: expect.stringContaining("rke2-images-core.linux-amd64.tar.zst arrived with SHA-256") },
    });
    expect(machine.list(nodePaths.images)).toEqual([]);
    expect(machine.has("/usr/local/bin/rke2")).toBe(false);
    expect(machine.calls().filter((call) => call === "curl GET rke2-images-core.linux-amd64.tar.zst")).toHaveLength(2);
  });

  it.each<[string, (entries: ReturnType<typeof preparation>) => ReturnType<typeof preparation>, string]>([
    [
      "a checksum file that is not the one the delivery names",
      ([, ...rest]) => [machine.get("sha256sum-amd64.txt", `${nodePaths.staging}/sha256sum-amd64.txt`, "0644", "0".repeat(64)), ...rest],
      "sha256sum-amd64.txt arrived",
    ],
    [
      "an archive the release's checksum file does not name",
      (entries) => [...entries, machine.get("config.yaml", `${nodePaths.staging}/rke2-images-multus.linux-amd64.tar.zst`)],
      "does not name rke2-images-multus",
    ],
    [
      "configuration that is not what was written",
      (entries) => [...entries, machine.get("config.yaml", nodePaths.registries, "0600", "1".repeat(64))],
      "registries.yaml arrived",
    ],
  ])("refuses %s", (_, change, text) => {
    const delivery = machine.deliver(change(preparation(machine)));
    expect(machine.run("prepare-node", parameters(delivery)).result).toMatchObject({
      code: "ChecksumMismatch",
      message: expect.stringContaining(text),
    });
    expect(machine.has("/etc/rancher/rke2/config.yaml")).toBe(false);
  });

  it("refuses a bundle of another version than asked for", () => {
    const release = makeRelease({ version: "v1.34.1+rke2r1" });
    expect(prepare({}, release).result).toMatchObject({
      code: "ChecksumMismatch",
      message: expect.stringContaining("holds RKE2 v1.34.1+rke2r1, not v1.35.7+rke2r1"),
    });
    expect(machine.has("/usr/local/bin/rke2")).toBe(false);
  });

  it.each([
    ["outside the directories a delivery may write", "get\t-\t0600\t/etc/shadow\tURL", "/etc/shadow"],
    ["climbing out of them", "get\t-\t0600\t/etc/rancher/rke2/../../shadow\tURL", "wrong get line"],
    ["with a mode that is none", "get\t-\tu+s\t/etc/rancher/rke2/x\tURL", "wrong get line"],
    ["with an address that is not https", "get\t-\t0600\t/etc/rancher/rke2/x\thttp://store.example/x", "wrong get line"],
    ["with a quote in its address, which would speak to curl", 'get\t-\t0600\t/etc/rancher/rke2/x\thttps://a/"\noutput = "/etc/x', "wrong get line"],
    ["of an unknown kind", "run\trm -rf /", "neither get nor put"],
    ["that puts nothing", "put\tkubeconfig", "wrong put line"],
  ])("refuses a delivery line %s", (_, line, text) => {
    const delivery = machine.deliverText(`${line.replace("URL", machine.presigned("config.yaml"))}\n`);
    expect(machine.run("prepare-node", parameters(delivery)).result).toMatchObject({ code: "ConfigInvalid", message: expect.stringContaining(text) });
  });

  it.each([
    ["config.yaml", nodePaths.config],
    ["rke2.linux-amd64.tar.gz", `${nodePaths.staging}/rke2.linux-amd64.tar.gz`],
  ])("refuses a delivery without %s before anything changes", (name, target) => {
    const entries = preparation(machine).filter((entry) => entry.kind === "get" && entry.target !== target);
    expect(machine.run("prepare-node", parameters(machine.deliver(entries))).result).toMatchObject({
      code: "ConfigInvalid",
      message: expect.stringContaining(name),
    });
    expect(machine.has("/usr/local/bin/rke2")).toBe(false);
  });
});
