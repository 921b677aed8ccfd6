import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get } from "node:https";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { deliveryLine, type NodeCommandParameters, nodeCommands } from "../../core/node-commands.js";
import { createEc2, fixtureImages, fixtureNetwork } from "../../local/aws/ec2.js";
import { createElasticLoadBalancingV2, type ElasticLoadBalancingV2 } from "../../local/aws/elastic-load-balancing-v2.js";
import { createSsm } from "../../local/aws/ssm.js";
import type { Machine } from "../../local/nodes/contract.js";
import { leftovers, removeLeftovers, tracesOf } from "../../local/nodes/machines/driver.js";
import { inotifyInstances, raiseLimits, restoreLimits } from "../../local/nodes/machines/limits.js";
import { buildDocuments } from "../../nodes/documents.js";
import { calls } from "../local-aws/tiny-world.js";
import { bucket, type MachineBench, machineBench, region, until } from "./bench.js";
import { describeMachines } from "./machine-tests.js";

const version = "v1.35.7+rke2r1";
const architecture = process.arch === "arm64" ? "arm64" : "amd64";

/** Files of a release just large enough for prepare-node: a bundle whose `rke2` tells its version, one image archive, their checksums. */
function smallRelease(): Map<string, Buffer> {
  const folder = mkdtempSync(join(tmpdir(), "release-"));
  const file = (path: string, text: string, mode = 0o644) => {
    mkdirSync(dirname(join(folder, "bundle", path)), { recursive: true });
    writeFileSync(join(folder, "bundle", path), text);
    chmodSync(join(folder, "bundle", path), mode);
  };
  file("bin/rke2", `#!/bin/sh\necho "rke2 version ${version} (0123456789)"\n`, 0o755);
  for (const role of ["server", "agent"]) file(`lib/systemd/system/rke2-${role}.service`, "[Service]\nType=notify\nExecStart=/usr/local/bin/rke2\n");
  file("share/rke2/rke2-cis-sysctl.conf", "vm.panic_on_oom=0\nvm.overcommit_memory=1\nkernel.panic=10\nkernel.panic_on_oops=1\n");
  const bundle = `rke2.linux-${architecture}.tar.gz`;
  const packed = spawnSync("tar", ["--create", "--gzip", `--file=${join(folder, bundle)}`, `--directory=${join(folder, "bundle")}`, "."]);
  if (packed.status !== 0) throw new Error(String(packed.stderr));
  const files = new Map([
    [bundle, readFileSync(join(folder, bundle))],
    [`rke2-images-core.linux-${architecture}.tar.zst`, Buffer.alloc(300_000, "image")],
  ]);
  rmSync(folder, { recursive: true });
  const sums = [...files].map(([name, body]) => `${createHash("sha256").update(body).digest("hex")}  ${name}\n`).join("");
  return files.set(`sha256sum-${architecture}.txt`, Buffer.from(sums));
}

/** Puts a release and a configuration into the store, and answers the parameters of prepare-node. */
async function delivery(bench: MachineBench, profile: "none" | "cis" = "none"): Promise<NodeCommandParameters<"prepare-node">> {
  const lines: string[] = [];
  for (const [name, body] of smallRelease()) {
    bench.s3.put(bucket, name, body);
    const target = name.startsWith("rke2-images") ? `/var/lib/rancher/rke2/agent/images/${name}` : `/var/lib/drover/staging/${name}`;
    lines.push(deliveryLine({ kind: "get", sha256: undefined, mode: "0644", target, url: await bench.presigned("GET", name) }));
  }
  bench.s3.put(bucket, "config.yaml", "cni: [canal]\n");
  const target = "/etc/rancher/rke2/config.yaml";
  lines.push(deliveryLine({ kind: "get", sha256: undefined, mode: "0600", target, url: await bench.presigned("GET", "config.yaml") }));
  bench.s3.put(bucket, "delivery", `${lines.join("\n")}\n`);
  return { role: "server", pool: "server", delivery: await bench.presigned("GET", "delivery"), version, profile, selinux: "false" };
}

const prepareDocument = buildDocuments()["prepare-node"].content;
const lineOf = (stdout: string): unknown => JSON.parse(stdout.split("\n")[0] ?? "");
/** Of this run, in what a computer shows of itself. */
const tracesOfMachine = (bench: MachineBench, machine: Machine) => tracesOf(bench.cloud.name).filter((trace) => trace.includes(machine.instanceId));

describeMachines("a cloud of machines", () => {
  let bench: MachineBench;
  let machines: readonly [Machine, Machine, Machine];

  beforeAll(async () => {
    bench = await machineBench();
    machines = (await Promise.all([bench.boot("a"), bench.boot("b"), bench.boot("c")])) as [Machine, Machine, Machine];
  });
  afterAll(async () => {
    await bench.close();
    expect(tracesOf(bench.cloud.name)).toEqual([]);
  });

  it("boots Debian with systemd as its first process, each machine with its own address, name and zone", async () => {
    for (const machine of machines) {
      expect(await bench.sh(machine, "cat /proc/1/comm; systemctl is-system-running; hostname; ip -4 -o address show dev ens5")).toMatch(
        new RegExp(`^systemd\nrunning\nip-${machine.address.replaceAll(".", "-")}\n.* ${machine.address.replaceAll(".", "[.]")}/20 `),
      );
    }
  });

  it("raises the limit that all machines share while there is a cloud, and puts it back when the last one has gone", () => {
    expect(Number(readFileSync("/proc/sys/fs/inotify/max_user_instances", "utf8"))).toBeGreaterThanOrEqual(inotifyInstances);
    const folder = mkdtempSync(join(tmpdir(), "limits-"));
    const places = { parameter: join(folder, "max_user_instances"), folder: join(folder, "clouds"), lock: join(folder, "lock") };
    const limit = () => readFileSync(places.parameter, "utf8").trim();
    const cloud = (number: number) => join(places.folder, `drover-1-2-${number}`);
    writeFileSync(places.parameter, "128\n");
    for (const number of [1, 2]) {
      mkdirSync(cloud(number), { recursive: true });
      raiseLimits(places);
      expect(limit()).toBe(String(inotifyInstances));
    }
    rmSync(cloud(1), { recursive: true });
    restoreLimits(places);
    expect(limit()).toBe(String(inotifyInstances));
    rmSync(cloud(2), { recursive: true });
    for (let times = 0; times < 2; times++) restoreLimits(places);
    expect([limit(), existsSync(places.folder)]).toEqual(["128", false]);

    // A computer that allows more keeps what it has.
    writeFileSync(places.parameter, "99999\n");
    mkdirSync(cloud(3), { recursive: true });
    raiseLimits(places);
    rmSync(cloud(3), { recursive: true });
    restoreLimits(places);
    expect([limit(), existsSync(places.folder)]).toEqual(["99999", false]);
    rmSync(folder, { recursive: true });
  });

  it("boots more machines at once than Linux lets run by default", async () => {
    const many = await machineBench();
    try {
      // Six inotify instances each, of 128.
      await Promise.all(Array.from({ length: 24 }, (_, index) => many.boot((["a", "b", "c"] as const)[index % 3])));
    } finally {
      await many.close();
    }
    expect(tracesOf(many.cloud.name)).toEqual([]);
  });

  it("tells a machine who it is by IMDSv2 alone, and only to itself", async () => {
    const [first] = machines;
    const asked = `
      at=http://169.254.169.254/latest
      token="$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $at/api/token)"
      for path in instance-id local-ipv4 placement/availability-zone; do curl -sf -H "X-aws-ec2-metadata-token: $token" $at/meta-data/$path; echo; done
      curl -s -o /dev/null -w '%{http_code} ' $at/meta-data/instance-id
      curl -s -o /dev/null -w '%{http_code} ' -H "X-aws-ec2-metadata-token: stolen" $at/meta-data/instance-id
      curl -s -o /dev/null -w '%{http_code}' -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 0' $at/api/token`;
    expect((await bench.sh(first, asked)).split("\n")).toEqual([first.instanceId, first.address, first.zone, "401 401 400"]);
  });

  it("routes between zones, and knows nothing of this computer's network", async () => {
    const [first, second] = machines;
    await bench.sh(second, "systemd-run --quiet --unit=echo sh -c 'echo across | nc -lN 7000'");
    await until(
      10,
      () => bench.sh(first, `nc -w 2 ${second.address} 7000 </dev/null || true`),
      (text) => text === "across",
    );
    const links = spawnSync("ip", ["-o", "link"], { encoding: "utf8" }).stdout;
    expect(links).not.toContain("zone0");
    expect(await bench.sh(first, "curl -s --connect-timeout 2 http://192.0.2.1 || echo unreachable")).toBe("unreachable");
  });

  it("gives a zone's gateway a hardware address of its own, which stays when machines come and go", () => {
    const links = spawnSync("ip", ["-n", bench.cloud.name, "-json", "link"], { encoding: "utf8" }).stdout;
    const all = JSON.parse(links) as readonly { readonly ifname: string; readonly address: string; readonly master?: string }[];
    const gateways = all.filter(({ ifname }) => ifname.startsWith("zone"));
    expect(gateways).toHaveLength(3);
    for (const { ifname, address } of gateways) {
      const ports = all.filter(({ master }) => master === ifname);
      expect(ports.length).toBeGreaterThan(0);
      expect(ports.map((port) => port.address)).not.toContain(address);
    }
  });

  it("serves presigned addresses by https under S3's own names, ranges and create-only uploads included", async () => {
    const [first] = machines;
    bench.s3.put(bucket, "greeting", "hello from the store");
    const get = await bench.presigned("GET", "greeting");
    expect(await bench.sh(first, `curl --fail --silent --range 6-9 '${get}'`)).toBe("from");
    const put = await bench.presigned("PUT", "answer");
    const upload = `printf back >/tmp/answer; curl -s -o /dev/null -w '%{http_code}' -H 'if-none-match: *' --upload-file /tmp/answer '${put}'`;
    expect([await bench.sh(first, upload), await bench.sh(first, upload)]).toEqual(["200", "412"]);
    expect(bench.s3.read(bucket, "answer")?.toString()).toBe("back");
    expect(await bench.sh(first, `curl -s -o /dev/null -w '%{http_code}' '${get.replace("greeting", "other")}'`)).toBe("403");
  });

  it("tells machines the time of the wall clock, also when the world has passed minutes over", async () => {
    const [first] = machines;
    await new Promise<void>((resolve) => bench.world.clock.after(600_000, resolve, { idle: true }));
    expect(bench.world.clock.now()).toBeGreaterThan(Date.now() + 500_000);
    bench.s3.put(bucket, "clock", "");
    const answer = await bench.sh(first, `curl --fail --silent --include '${await bench.presigned("GET", "clock")}'`);
    const told = Date.parse(/^date: (.+)$/im.exec(answer)?.[1]?.trim() ?? "");
    expect(Math.abs(told - Date.now())).toBeLessThan(5000);
  });

  it("runs the prepare-node document as it is, which changes the machine once", async () => {
    const [first] = machines;
    const parameters = await delivery(bench);
    const once = await bench.document(first, prepareDocument, parameters);
    expect(nodeCommands["prepare-node"].result.parse(lineOf(once.stdout)), once.stderr).toMatchObject({
      node: `server-${first.instanceId}`,
      changed: true,
      version,
    });
    const again = await bench.document(first, prepareDocument, parameters);
    expect(lineOf(again.stdout)).toMatchObject({ ok: true, changed: false });
    expect(
      await bench.sh(first, "/usr/local/bin/rke2; systemctl cat rke2-server | head -1; cat /etc/rancher/rke2/config.yaml.d/10-drover-node.yaml"),
    ).toBe(
      `rke2 version ${version} (0123456789)\n# /usr/local/lib/systemd/system/rke2-server.service\nnode-name: "server-${first.instanceId}"\nnode-ip: "${first.address}"`,
    );
  });

  it("gives a machine kernel parameters of its own, so that profile cis changes nothing here", async () => {
    const [, second] = machines;
    const names = ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"];
    const here = names.map((name) => readFileSync(`/proc/sys/${name}`, "utf8"));
    const end = await bench.document(second, prepareDocument, await delivery(bench, "cis"));
    expect(lineOf(end.stdout), end.stderr).toMatchObject({ ok: true });
    expect(await bench.sh(second, "cat /proc/sys/vm/overcommit_memory /proc/sys/kernel/panic")).toBe("1\n10");
    expect(names.map((name) => readFileSync(`/proc/sys/${name}`, "utf8"))).toEqual(here);
  });

  it("fails prepare-node on a wrong checksum, a full disk and a clock that is minutes off, and leaves no RKE2", async () => {
    const spoilt = await bench.boot("a");
    const parameters = await delivery(bench);
    bench.s3.put(bucket, `rke2.linux-${architecture}.tar.gz`, Buffer.from("something else"));
    const wrong = await bench.document(spoilt, prepareDocument, parameters);
    expect([wrong.exitCode, lineOf(wrong.stdout)]).toMatchObject([1, { ok: false, code: "ChecksumMismatch" }]);

    const small = await bench.boot("b", { rootVolumeGib: 1 });
    await bench.sh(small, "fallocate --length 900M /filling");
    const full = await bench.document(small, prepareDocument, await delivery(bench));
    expect([full.exitCode, lineOf(full.stdout)]).toMatchObject([1, { ok: false, code: "DiskFull" }]);

    const late = await bench.boot("c");
    bench.driver.setClock(late.instanceId, -600);
    const off = await bench.document(late, prepareDocument, await delivery(bench));
    expect([off.exitCode, lineOf(off.stdout)]).toMatchObject([1, { ok: false, code: "ClockWrong" }]);
    bench.driver.setClock(late.instanceId, 0);
    expect(lineOf((await bench.document(late, prepareDocument, await delivery(bench))).stdout)).toMatchObject({ ok: true });

    for (const machine of [spoilt, small]) expect(await bench.sh(machine, "ls /usr/local/bin")).toBe("");
    for (const machine of [spoilt, small, late]) {
      bench.driver.halt(machine.instanceId);
      await until(
        5,
        () => tracesOfMachine(bench, machine),
        (traces) => traces.length === 0,
      );
    }
  });

  it("keeps address and disk over a loss of power and a shutdown", async () => {
    const [, , third] = machines;
    await bench.sh(third, "echo kept >/root/kept; sync");
    const boots = [await bench.sh(third, "cat /proc/sys/kernel/random/boot_id")];
    for (const how of ["at once", "shutdown"] as const) {
      await bench.driver.powerOff(third.instanceId, how);
      expect(tracesOfMachine(bench, third).filter((trace) => trace.startsWith("process"))).toEqual([]);
      await bench.driver.powerOn(third.instanceId);
      boots.push(await bench.sh(third, "cat /proc/sys/kernel/random/boot_id"));
      expect(await bench.sh(third, "cat /root/kept; ip -4 -o address show dev ens5 | grep -c ' " + third.address + "/'")).toBe("kept\n1");
    }
    expect(new Set(boots).size).toBe(3);
  });

  it("removes a machine with everything it left on this computer", async () => {
    const machine = await bench.boot("b");
    await bench.sh(
      machine,
      "systemd-run --quiet sleep 1000; setsid sleep 1000 >/dev/null 2>&1 &  dd if=/dev/zero of=/big bs=1M count=20 2>/dev/null",
    );
    expect(tracesOfMachine(bench, machine).length).toBeGreaterThan(3);
    bench.driver.halt(machine.instanceId);
    await until(
      5,
      () => tracesOfMachine(bench, machine),
      (traces) => traces.length === 0,
    );
    bench.driver.halt(machine.instanceId);
  });

  it("leads a port of this computer's loopback to a machine", async () => {
    const [first] = machines;
    await bench.sh(first, "systemd-run --quiet --unit=door sh -c 'echo behind the door | nc -lN 7100'");
    const port = await bench.cloud.door(first.address, 7100);
    const ask = () =>
      new Promise<string>((resolve) => {
        let text = "";
        const socket = connect(port, "127.0.0.1");
        socket.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
        socket.on("error", () => {});
        socket.once("close", () => resolve(text));
      });
    expect(await until(10, ask, (text) => text !== "")).toBe("behind the door\n");
  });
});

describeMachines("the agent of a machine", () => {
  let bench: MachineBench;
  let machine: Machine;
  beforeAll(async () => {
    bench = await machineBench();
    machine = await bench.boot();
  });
  afterAll(() => bench.close());

  const step = (name: string, text: string, inputs: Readonly<Record<string, unknown>> = {}) => ({
    action: "aws:runShellScript",
    name,
    inputs: { runCommand: text.split("\n"), ...inputs },
  });

  it("runs a script as root with little in its environment: no HOME, the agent's own variables", async () => {
    const { stdout } = await bench.script(machine, "#!/bin/bash\nid -u; env -u _ -u PWD -u SHLVL | sed 's/=.*//' | sort | tr '\\n' ' '");
    expect(stdout).toBe("0\nAWS_SSM_INSTANCE_ID AWS_SSM_PLATFORM_NAME AWS_SSM_PLATFORM_VERSION AWS_SSM_REGION_NAME PATH SSM_COMMAND_ID ");
  });

  it("hands over parameters as variables where the document says so, and never lets a shell read them", async () => {
    const parameters = { given: { type: "String", interpolationType: "ENV_VAR" }, plain: { type: "String" } };
    const content = { schemaVersion: "2.2", parameters, mainSteps: [step("a", 'printf "%s|%s|{{ plain }}" "{{ given }}" "$SSM_given"')] };
    const { stdout } = await bench.document(machine, content, { given: "$(id) `id` ; '", plain: "as it is" });
    expect(stdout).toBe("$(id) `id` ; '|$(id) `id` ; '|as it is");
  });

  it("goes on after a failed step unless told otherwise, and always runs the last one", async () => {
    const steps = (inputs: Readonly<Record<string, unknown>>, status: number) => ({
      schemaVersion: "2.2",
      mainSteps: [step("a", `echo a; exit ${status}`, inputs), step("b", "echo b"), step("c", "echo c", { finallyStep: true })],
    });
    const outcome = async (inputs: Readonly<Record<string, unknown>>, status: number) => {
      const { exitCode, stdout } = await bench.document(machine, steps(inputs, status));
      return `${exitCode} ${stdout.replaceAll("\n", "")}`;
    };
    expect(await outcome({}, 7)).toBe("7 abc");
    expect(await outcome({ onFailure: "exit" }, 7)).toBe("7 ac");
    expect(await outcome({ onFailure: "successAndExit" }, 7)).toBe("0 ac");
    expect(await outcome({ onSuccess: "exit" }, 0)).toBe("0 ac");
    expect(await outcome({}, 168)).toBe("0 ac");
    expect(await outcome({}, 169)).toBe("169 ac");
  });

  it("restarts the machine on exit code 194 and runs the step again", async () => {
    const text =
      "cat /proc/sys/kernel/random/boot_id >>/root/boots\nif [ $(wc -l </root/boots) -lt 2 ]; then exit 194; fi\nsort -u /root/boots | wc -l";
    expect(await bench.script(machine, text)).toEqual({ exitCode: 0, stdout: "2\n", stderr: "" });
  });

  it("sends the head of long output", async () => {
    const end = await bench.script(machine, "seq 1 20000; seq 1 20000 >&2; printf end");
    expect([end.stdout.length, end.stderr.length, end.stdout.slice(0, 6)]).toEqual([24_000, 8_000, "1\n2\n3\n"]);
  });

  it("kills a script with its process group, and lets stay what has left the group", async () => {
    const run = bench.driver.run({
      commandId: "killed",
      instanceId: machine.instanceId,
      documentName: "test",
      content: { schemaVersion: "2.2", mainSteps: [step("a", "setsid sleep 501 &\nsleep 502 &\nsleep 503")] },
      parameters: {},
    });
    const sleeping = () => bench.sh(machine, "pgrep --full --list-full '^sleep 50' | sed 's/.* //' | sort | xargs");
    await until(10, sleeping, (text) => text === "501 502 503");
    run.kill();
    expect(await until(10, sleeping, (text) => text === "501")).toBe("501");
    await bench.sh(machine, "pkill sleep");
  });

  it("ends a script that takes longer than its step may", async () => {
    const end = await bench.script(machine, "echo begun; sleep 60", { timeoutSeconds: "1" });
    expect(end).toEqual({ exitCode: 137, stdout: "begun\n", stderr: "" });
  });

  it("is silent while its machine is paused or off the network, and tells afterwards", async () => {
    for (const [stop, go] of [
      ["pause", "resume"],
      ["disconnect", "reconnect"],
    ] as const) {
      let ended = false;
      bench.driver[stop](machine.instanceId);
      const run = bench.script(machine, "echo late").then((end) => {
        ended = true;
        return end;
      });
      await new Promise((resolve) => setTimeout(resolve, 1000));
      expect(ended).toBe(false);
      bench.driver[go](machine.instanceId);
      expect((await run).stdout).toBe("late\n");
    }
  });

  it("never tells of a script whose machine is gone", async () => {
    const doomed = await bench.boot("b");
    let ended = false;
    void bench.script(doomed, "touch /tmp/runs; sleep 100").then(() => {
      ended = true;
    });
    await until(
      5,
      () => bench.sh(doomed, "ls /tmp"),
      (text) => text.includes("runs"),
    );
    bench.driver.halt(doomed.instanceId);
    await until(
      5,
      () => tracesOfMachine(bench, doomed),
      (traces) => traces.length === 0,
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(ended).toBe(false);
  });
});

describeMachines("a load balancer of machines", () => {
  let bench: MachineBench;
  let elb: ReturnType<typeof calls>;
  let ssm: ReturnType<typeof calls>;
  let ec2: ReturnType<typeof calls>;
  let machines: readonly [Machine, Machine, Machine];
  let balancer = { arn: "", dnsName: "" };
  const [subnetA, subnetB] = fixtureNetwork(region).subnets.map(({ id }) => id) as [string, string, string];

  beforeAll(async () => {
    bench = await machineBench((world) => {
      const services = { ec2: createEc2(world), elb: createElasticLoadBalancingV2(world), ssm: createSsm(world) };
      for (const service of Object.values(services)) world.add(service);
      services.ec2.addInstanceProfile({ arn: profileArn, name: "node", roleArn: "arn:aws:iam::111122223333:role/node" });
      services.ssm.addDocument({ name: "host-name", content: hostNameDocument });
      [ec2, elb, ssm] = [calls(world, services.ec2), calls(world, services.elb), calls(world, services.ssm)];
    });
    const ids = [launch(subnetA), launch(subnetB), launch(subnetA)];
    machines = (await Promise.all(ids.map(online))) as [Machine, Machine, Machine];
    // Each connection to port 8000 is answered with the name of the machine; port 8443 speaks HTTPS, and answers 200 whatever is asked.
    for (const machine of machines) await bench.sh(machine, services);
    const created = elb("CreateLoadBalancer", { Name: "nlb", Type: "network", Scheme: "internal", Subnets: [subnetA, subnetB] }).LoadBalancers[0];
    balancer = { arn: created.LoadBalancerArn, dnsName: created.DNSName };
  });
  afterAll(() => bench.close());

  const profileArn = "arn:aws:iam::111122223333:instance-profile/node";
  const hostNameDocument = {
    schemaVersion: "2.2",
    mainSteps: [{ action: "aws:runShellScript", name: "hostname", inputs: { timeoutSeconds: "60", runCommand: ["hostname", "sleep 1"] } }],
  };
  const services = `
    mkdir -p /srv && cd /srv && echo pong >ping
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=any -days 2 -keyout key -out cert 2>/dev/null
    printf '[Socket]\nListenStream=8000\nAccept=yes\n' >/etc/systemd/system/name.socket
    printf '[Service]\nExecStart=-/bin/sh -c "hostname; cat"\nStandardInput=socket\nStandardOutput=socket\n' >/etc/systemd/system/name@.service
    printf '[Service]\nWorkingDirectory=/srv\nExecStart=/usr/bin/openssl s_server -accept 8443 -cert cert -key key -WWW -quiet\n' >/etc/systemd/system/web.service
    systemctl daemon-reload && systemctl start name.socket web.service`;
  function launch(SubnetId: string): string {
    const image = process.arch === "arm64" ? "arm64" : "x86_64";
    const { id } = fixtureImages.find(({ architecture }) => architecture === image) as { id: string };
    const request = { MinCount: 1, MaxCount: 1, ImageId: id, InstanceType: image === "arm64" ? "m7g.xlarge" : "m6i.xlarge", SubnetId };
    const profile = { IamInstanceProfile: { Arn: profileArn }, MetadataOptions: { HttpTokens: "required", HttpPutResponseHopLimit: 1 } };
    return ec2("RunInstances", { ...request, ...profile }).Instances[0].InstanceId;
  }
  async function online(instanceId: string): Promise<Machine> {
    const ping = () =>
      ssm("DescribeInstanceInformation", {}).InstanceInformationList.find((each: { InstanceId: string }) => each.InstanceId === instanceId);
    const { IPAddress } = await until(30, ping, (found) => found?.PingStatus === "Online");
    return { instanceId, address: IPAddress, zone: "", architecture: "x86_64", platform: "ubuntu", rootVolumeGib: 8 };
  }
  let groups = 0;
  /** A target group on port 8000 behind a listener of its own; answers its ARN. */
  function group(listenerPort: number, attributes: Readonly<Record<string, string>> = {}, check: Readonly<Record<string, unknown>> = {}): string {
    const { VpcId } = ec2("DescribeSubnets", { SubnetIds: [subnetA] }).Subnets[0];
    const checks = { HealthCheckIntervalSeconds: 5, HealthCheckTimeoutSeconds: 2, HealthyThresholdCount: 2, UnhealthyThresholdCount: 2, ...check };
    const created = elb("CreateTargetGroup", { Name: `group-${++groups}`, Protocol: "TCP", Port: 8000, VpcId, ...checks });
    const { TargetGroupArn } = created.TargetGroups[0];
    const given = { "preserve_client_ip.enabled": "false", "deregistration_delay.timeout_seconds": "2", ...attributes };
    elb("ModifyTargetGroupAttributes", { TargetGroupArn, Attributes: Object.entries(given).map(([Key, Value]) => ({ Key, Value })) });
    elb("CreateListener", {
      LoadBalancerArn: balancer.arn,
      Protocol: "TCP",
      Port: listenerPort,
      DefaultActions: [{ Type: "forward", TargetGroupArn }],
    });
    return TargetGroupArn;
  }
  const targets = (...of: readonly Machine[]) => of.map(({ instanceId }) => ({ Id: instanceId }));
  const states = (TargetGroupArn: string): string[] =>
    elb("DescribeTargetHealth", { TargetGroupArn }).TargetHealthDescriptions.map(
      (each: { TargetHealth: { State: string } }) => each.TargetHealth.State,
    );
  const settled = (arn: string, wanted: string) =>
    until(
      40,
      () => states(arn).join(),
      (text) => text === wanted,
    );
  /** Names that so many connections from a machine arrive at. */
  const reached = async (from: Machine, port: number, times = 12): Promise<string[]> => {
    const text = await bench.sh(from, `for i in $(seq ${times}); do nc -N -w 2 ${balancer.dnsName} ${port} </dev/null || echo none; done`);
    return [...new Set(text.split("\n"))].sort();
  };
  const name = ({ address }: Machine) => `ip-${address.replaceAll(".", "-")}`;

  it("comes with machines that EC2 launched and Systems Manager reaches when their agent is there", async () => {
    const [first] = machines;
    const { Command } = ssm("SendCommand", { DocumentName: "host-name", InstanceIds: [first.instanceId] });
    const ask = () => ssm("ListCommandInvocations", { CommandId: Command.CommandId, Details: true }).CommandInvocations[0];
    const { CommandPlugins } = await until(20, ask, (invocation) => invocation?.Status === "Success");
    expect(CommandPlugins[0]).toMatchObject({ Output: `${name(first)}\n`, ResponseCode: 0 });
  });

  it("carries connections to healthy targets in the zones it may use, under its own name", async () => {
    const [first, second, third] = machines;
    await until(
      30,
      () => elb("DescribeLoadBalancers", {}).LoadBalancers[0].State.Code,
      (code) => code === "active",
    );
    const own = group(8001);
    elb("RegisterTargets", { TargetGroupArn: own, Targets: targets(first, second) });
    await settled(own, "healthy,healthy");
    const shown = () => bench.sh(third, `getent ahostsv4 ${balancer.dnsName} | sed -n 's/ *STREAM.*//p' | sort | xargs`);
    // Without cross-zone balancing the node of a zone knows the targets of that zone, and its name leads to zones with healthy targets.
    const nodeOf = Object.fromEntries(
      bench.world
        .service<ElasticLoadBalancingV2>("elastic-load-balancing-v2")
        .traffic()[0]
        ?.nodes.map((node) => [node.zone, node.address]) ?? [],
    );
    const both = Object.values(nodeOf).sort().join(" ");
    expect(await until(10, shown, (text) => text === both)).toBe(both);
    for (const [zone, machine] of [
      ["a", first],
      ["b", second],
    ] as const) {
      const node = nodeOf[`${region}${zone}`];
      expect(await bench.sh(third, `for i in 1 2 3 4; do nc -N -w 2 ${node} 8001 </dev/null; done | sort -u`)).toBe(name(machine));
    }
    elb("DeregisterTargets", { TargetGroupArn: own, Targets: targets(second) });
    expect(await until(10, shown, (text) => text === nodeOf[`${region}a`])).toBe(nodeOf[`${region}a`]);
  });

  it("asks the health of targets by the group's own protocol, path and thresholds", async () => {
    const [first] = machines;
    const check = { HealthCheckProtocol: "HTTPS", HealthCheckPort: "8443", HealthCheckPath: "/ping", Matcher: { HttpCode: "200" } };
    const own = group(8002, {}, check);
    elb("RegisterTargets", { TargetGroupArn: own, Targets: targets(first) });
    await settled(own, "healthy");
    await bench.sh(first, "systemctl stop web");
    const since = performance.now();
    await settled(own, "unhealthy");
    // Two failed checks, five seconds apart.
    expect(performance.now() - since).toBeGreaterThan(4000);
    // Fail open: with no healthy target, all of them serve.
    expect(await reached(first, 8002, 2)).toEqual([name(first)]);
    await bench.sh(first, "systemctl start web");
    await settled(own, "healthy");
  });

  it("drains a target: no new connections, the old ones go on until the delay is over", async () => {
    const [first, second, third] = machines;
    const attributes = { "deregistration_delay.connection_termination.enabled": "true", "load_balancing.cross_zone.enabled": "true" };
    const own = group(8003, { ...attributes, "deregistration_delay.timeout_seconds": "6" });
    elb("RegisterTargets", { TargetGroupArn: own, Targets: targets(first) });
    await settled(own, "healthy");
    // Held open, with a line said every second; what comes back is kept.
    const talk = `(i=0; while [ $i -lt 40 ]; do echo $i; i=$((i + 1)); sleep 1; done) | { nc ${balancer.dnsName} 8003 >/tmp/talk; echo over >>/tmp/talk; }`;
    await bench.sh(third, `systemd-run --quiet --unit=talk sh -c '${talk}'`);
    await until(
      10,
      () => bench.sh(third, "cat /tmp/talk 2>/dev/null | wc -l"),
      (lines) => Number(lines) >= 3,
    );
    elb("RegisterTargets", { TargetGroupArn: own, Targets: targets(second) });
    await settled(own, "healthy,healthy");
    elb("DeregisterTargets", { TargetGroupArn: own, Targets: targets(first) });
    await until(
      10,
      () => reached(third, 8003, 6),
      (names) => names.length === 1,
    );
    expect(await reached(third, 8003, 6)).toEqual([name(second)]);
    expect(states(own).sort()).toEqual(["draining", "healthy"]);
    expect(await bench.sh(third, "grep -c over /tmp/talk || true")).toBe("0");
    await until(
      15,
      () => bench.sh(third, "tail -1 /tmp/talk"),
      (line) => line === "over",
    );
    expect(states(own)).toEqual(["healthy"]);
  });

  it("lets a target hang that reaches itself with its own address as source, and no other", async () => {
    const [first, , third] = machines;
    const own = group(8004, { "preserve_client_ip.enabled": "true", "load_balancing.cross_zone.enabled": "true" });
    elb("RegisterTargets", { TargetGroupArn: own, Targets: targets(first) });
    await settled(own, "healthy");
    await until(
      10,
      () => reached(third, 8004, 1),
      (names) => names[0] === name(first),
    );
    expect(await bench.sh(first, `timeout 3 nc ${balancer.dnsName} 8004 </dev/null; echo $?`)).toBe("124");
  });

  it("leads the clients of this computer in, and is gone when it is deleted", async () => {
    const [first] = machines;
    const own = group(8005, { "load_balancing.cross_zone.enabled": "true" }, { HealthCheckPort: "8443" });
    elb("RegisterTargets", { TargetGroupArn: own, Targets: [{ Id: first.instanceId, Port: 8443 }] });
    await settled(own, "healthy");
    const port = await bench.cloud.door(balancer.dnsName, 8005);
    const ask = () =>
      new Promise<string>((resolve) => {
        const request = get({ host: "127.0.0.1", port, path: "/ping", rejectUnauthorized: false, agent: false }, (response) => {
          let text = "";
          response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
          response.on("end", () => resolve(text));
          response.on("error", () => resolve("broken"));
        });
        request.on("error", () => resolve("refused"));
      });
    expect(await until(10, ask, (text) => text !== "refused")).toBe("pong\n");
    // One that says nothing, as a client that waits for its answer: it hears that the load balancer is gone.
    let isOpen = true;
    const held = connect(port, "127.0.0.1");
    held.once("close", () => {
      isOpen = false;
    });
    held.on("error", () => {});
    await until(
      10,
      () => bench.sh(first, "ss --no-header --tcp state established '( sport = :8443 )' | wc -l"),
      (connections) => Number(connections) >= 1,
    );
    elb("DeleteLoadBalancer", { LoadBalancerArn: balancer.arn });
    expect(
      await until(
        10,
        () => isOpen,
        (open) => !open,
      ),
    ).toBe(false);
    expect(await until(10, ask, (text) => text === "refused")).toBe("refused");
    expect(await bench.sh(first, `getent hosts ${balancer.dnsName} || echo unknown`)).toBe("unknown");
  });

  it("loses a machine that shuts itself down, as EC2 does", async () => {
    const [, , third] = machines;
    await bench.sh(third, "systemctl poweroff --no-block");
    const state = () => ec2("DescribeInstances", { InstanceIds: [third.instanceId] }).Reservations[0].Instances[0].State.Name;
    await until(40, state, (text) => text !== "running");
    await until(
      5,
      () => tracesOfMachine(bench, third),
      (traces) => traces.length === 0,
    );
  });
});

describeMachines("clouds on one computer", () => {
  it("do not meet: the same address in two of them is two machines", async () => {
    const [one, other] = await Promise.all([machineBench(), machineBench()]);
    try {
      const same = { instanceId: "i-0123456789abcdef0", address: "10.0.0.77" };
      const [here, there] = await Promise.all([one.boot("a", same), other.boot("a", same)]);
      const neighbour = await other.boot("a");
      await one.sh(here, "echo one >/etc/which");
      await other.sh(there, "echo other >/etc/which; systemd-run --quiet --unit=which sh -c 'nc -lN 7000 </etc/which'");
      await until(
        10,
        () => other.sh(neighbour, "nc -w 2 10.0.0.77 7000 </dev/null || true"),
        (text) => text === "other",
      );
      expect(await one.sh(here, "cat /etc/which; nc -w 2 -z 10.0.0.77 7000 || echo closed")).toBe("one\nclosed");
      await one.close();
      expect(await other.sh(there, "cat /etc/which")).toBe("other");
    } finally {
      await Promise.all([one.close(), other.close()]);
    }
    expect([...tracesOf(one.cloud.name), ...tracesOf(other.cloud.name)]).toEqual([]);
  });

  it("tells a machine the time of its own clock in S3's answers, also when its world is ahead of it", async () => {
    const ahead = await machineBench(undefined, Date.now() + 3_600_000);
    try {
      const machine = await ahead.boot();
      ahead.s3.put(bucket, "greeting", "hello");
      const asked = `date --date="$(curl --silent --fail --dump-header - --output /dev/null '${await ahead.presigned("GET", "greeting")}' | sed -n 's/^date: //Ip')" +%s; date +%s`;
      const [theirs = 0, own = 0] = (await ahead.sh(machine, asked)).split("\n").map(Number);
      expect(Math.abs(theirs - own)).toBeLessThan(30);
    } finally {
      await ahead.close();
    }
  });

  /** Another process with a cloud and a machine; answers the cloud's name once the machine is online. */
  async function elsewhere(): Promise<{ readonly pid: number; readonly name: string; readonly over: Promise<string> }> {
    const file = fileURLToPath(new URL("one-machine.ts", import.meta.url));
    const child = spawn(process.execPath, ["--import", "tsx", file], {
      stdio: ["ignore", "pipe", "inherit"],
      env: { ...process.env, NODE_OPTIONS: "" },
    });
    const over = new Promise<string>((resolve) => child.once("exit", (code, signal) => resolve(signal ?? String(code))));
    const name = await new Promise<string>((resolve) => {
      let text = "";
      child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
        if (text.includes("\n")) resolve(text.trim());
      });
    });
    return { pid: child.pid as number, name, over };
  }

  it.each(["SIGINT", "SIGTERM"] as const)("leave nothing behind on %s", async (signal) => {
    const { pid, name, over } = await elsewhere();
    expect(tracesOf(name).length).toBeGreaterThan(5);
    process.kill(pid, signal);
    expect(await over).toBe(signal);
    expect(tracesOf(name)).toEqual([]);
  });

  it("end with a process that is killed", async () => {
    const { pid, name, over } = await elsewhere();
    process.kill(pid, "SIGKILL");
    expect(await over).toBe("SIGKILL");
    await until(
      10,
      () => tracesOf(name),
      (traces) => traces.length === 0,
    );
  });

  it("are found and removed by the next start when everything of theirs was killed at once", async () => {
    const { pid, name, over } = await elsewhere();
    process.kill(pid, "SIGSTOP");
    for (const trace of tracesOf(name)) {
      const [, process_] = /^process (\d+)$/.exec(trace) ?? [];
      if (process_ !== undefined) process.kill(Number(process_), "SIGKILL");
    }
    process.kill(pid, "SIGKILL");
    expect(await over).toBe("SIGKILL");
    expect(leftovers().filter((trace) => trace.includes(name)).length).toBeGreaterThan(3);
    removeLeftovers();
    expect(tracesOf(name)).toEqual([]);
    expect(leftovers().filter((trace) => trace.includes(name))).toEqual([]);
  });
});
