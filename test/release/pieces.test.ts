/** The stand-in release's pieces, without etcd: what it reads, what it writes, what it refuses. */

import { spawnSync } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundleProgram } from "../../local/nodes/release/build.js";
import { send } from "../../local/nodes/release/program/api.js";
import { caHash, daysLeft, issue } from "../../local/nodes/release/program/certificates.js";
import { packImages, packTar, packZstd, unpackTar, unpackZstd } from "../../local/nodes/release/program/images.js";
import { jsonPath } from "../../local/nodes/release/program/kubectl.js";
import { isDue } from "../../local/nodes/release/program/snapshots.js";
import { decrypt, encrypt, parseToken, serverPassword, tokenHash } from "../../local/nodes/release/program/tokens.js";

const hash = "5a".repeat(32);

describe("tokens of the stand-in release", () => {
  it("come as a password, or in full with the CA's hash and the user", () => {
    expect(parseToken("pass")).toEqual({ caHash: undefined, user: undefined, password: "pass" });
    expect(parseToken(`K10${hash}::node:pass:word`)).toEqual({ caHash: hash, user: "node", password: "pass:word" });
  });

  it.each([
    ["K10abc::server:x", "invalid token CA hash length"],
    [`K10${hash}`, "invalid token format"],
    [`K10${hash}::server:`, "invalid token format"],
    [`K10${hash}:::x`, "invalid token format"],
  ])("refuse %s", (token, text) => {
    expect(() => parseToken(token)).toThrow(text);
  });

  it("of kubeadm's form make no server token", () => {
    expect(() => serverPassword("abcdef.0123456789abcdef")).toThrow("failed to normalize server token");
    expect(() => serverPassword(`K10${hash}::abcdef.0123456789abcdef`)).toThrow("failed to normalize server token");
    expect(serverPassword(`K10${hash}::server:pass`)).toBe("pass");
  });

  it("open what they have closed, and nothing else does", () => {
    const closed = encrypt("one", "the authorities");
    expect(closed).not.toContain("authorities");
    expect(decrypt("one", closed)).toBe("the authorities");
    expect(() => decrypt("two", closed)).toThrow();
  });

  it("are told apart by twelve digits of the password's hash", () => {
    expect(tokenHash("secret")).toBe(createHash("sha256").update("secret").digest("hex").slice(0, 12));
  });
});

describe("certificates of the stand-in release", () => {
  const authority = issue({ commonName: "test-ca@1", days: 3650 });

  it("chain to their authority, carry names and usages, and last as asked", () => {
    const leaf = new X509Certificate(
      issue(
        { commonName: "n1", organizations: ["system:nodes"], usages: ["server", "client"], names: ["127.0.0.1", "n1.internal"], days: 365 },
        authority,
      ).certificate,
    );
    expect(leaf.verify(new X509Certificate(authority.certificate).publicKey)).toBe(true);
    expect(leaf.checkIssued(new X509Certificate(authority.certificate))).toBe(true);
    expect(leaf.subject).toBe("O=system:nodes\nCN=n1");
    expect(leaf.subjectAltName).toBe("IP Address:127.0.0.1, DNS:n1.internal");
    expect(leaf.ca).toBe(false);
    expect(new X509Certificate(authority.certificate).ca).toBe(true);
    expect(Math.round(daysLeft(leaf.toString()))).toBe(365);
  });

  it("are taken by TLS on both sides, and a stranger's are not", async () => {
    const serving = issue({ commonName: "s", usages: ["server"], names: ["127.0.0.1"], days: 1 }, authority);
    const server = createServer(
      { cert: serving.certificate, key: serving.key, ca: authority.certificate, requestCert: true, rejectUnauthorized: true },
      (_, answer) => answer.end("ok"),
    );
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    const client = issue({ commonName: "c", usages: ["client"], days: 1 }, authority);
    const other = issue({ commonName: "other-ca", days: 1 });
    expect((await send("GET", url, { tls: { ca: authority.certificate, certificate: client.certificate, key: client.key } })).text).toBe("ok");
    await expect(send("GET", url, { tls: { ca: other.certificate, certificate: client.certificate, key: client.key } })).rejects.toThrow();
    await expect(send("GET", url, { tls: { ca: authority.certificate } })).rejects.toThrow();
    server.close();
  });

  it("give the hash that tokens name: of the PEM file with one certificate, of the root's DER form with more", () => {
    const sha256 = (content: string | Uint8Array) => createHash("sha256").update(content).digest("hex");
    expect(caHash(authority.certificate)).toBe(sha256(authority.certificate));
    const root = issue({ commonName: "root", days: 1 });
    expect(caHash(authority.certificate + root.certificate)).toBe(sha256(new X509Certificate(root.certificate).raw));
  });
});

describe("image archives of the stand-in release", () => {
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, index) => index % 251));

  it("are zstd frames that give back what was packed, whatever its size", () => {
    for (const size of [0, 1, 131_072, 131_073, 300_000])
      expect(unpackZstd(packZstd(content.subarray(0, size))).equals(content.subarray(0, size))).toBe(true);
  });

  it("are refused when they are cut, compressed, or something else", () => {
    const frame = packZstd(content);
    expect(() => unpackZstd(frame.subarray(0, 200_000))).toThrow("unexpected EOF");
    expect(() => unpackZstd(Buffer.from("not an archive at all"))).toThrow("magic number mismatch");
    const compressed = Buffer.from(frame);
    compressed[13] = (compressed[13] as number) | 4;
    expect(() => unpackZstd(compressed)).toThrow("its zstd blocks are compressed");
  });

  it("hold an OCI layout: an index, manifests and blobs named by their hash", () => {
    const files = unpackTar(unpackZstd(packImages([{ name: "docker.io/rancher/x:1", layer: Buffer.from("layer") }])));
    expect(JSON.parse(String(files.get("index.json"))).manifests[0].annotations).toEqual({ "io.containerd.image.name": "docker.io/rancher/x:1" });
    const blobs = [...files].filter(([name]) => name.startsWith("blobs/"));
    expect(blobs).toHaveLength(3);
    for (const [name, blob] of blobs) expect(name).toBe(`blobs/sha256/${createHash("sha256").update(blob).digest("hex")}`);
  });

  it("are the same bytes for the same files", () => {
    const tar = () => packTar([{ name: "a", content: Buffer.from("b"), mode: 0o755 }]);
    expect(tar().equals(tar())).toBe(true);
  });
});

describe("the stand-in's kubectl", () => {
  const node = (name: string, votes: string | undefined, labels: Record<string, string> = {}) => ({
    metadata: { name, labels },
    status: { conditions: [{ type: "Ready", status: "True" }, ...(votes === undefined ? [] : [{ type: "EtcdIsVoter", status: votes }])] },
  });
  const nodes = { items: [node("s1", "True", { "node-role.kubernetes.io/control-plane": "true" }), node("a1", undefined)] };

  it("answers every jsonpath that the node scripts ask", () => {
    const folder = join(import.meta.dirname, "../../nodes/scripts");
    const asked = readdirSync(folder).flatMap((file) =>
      [...readFileSync(join(folder, file), "utf8").matchAll(/jsonpath=([^']+)'/g)].map((match) => match[1] as string),
    );
    expect(asked.length).toBeGreaterThan(4);
    for (const path of asked) {
      const value = path.includes(".items") ? nodes : { ...node("s1", "False"), metadata: { name: "s1", uid: "u-1" } };
      expect(jsonPath(path, value), path).toMatch(path.includes(".items") ? /^s1[\s\S]*\na1[\s\S]*\n$/ : /^(True\|False\||u-1$)/);
    }
  });

  it("leaves out what is not there, and reads labels with dots", () => {
    const path =
      '{range .items[*]}{.metadata.name}{"|"}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"|"}{.metadata.labels.node-role\\.kubernetes\\.io/control-plane}{"\\n"}{end}';
    expect(jsonPath(path, nodes)).toBe("s1|True|true\na1||\n");
    expect(jsonPath(path, { items: [] })).toBe("");
  });

  it("refuses a jsonpath it does not model", () => {
    expect(() => jsonPath("{.items[?(@.a>1)]}", nodes)).toThrow("jsonpath");
  });
});

describe("the stand-in's snapshot schedule", () => {
  it.each([
    ["0 */12 * * *", "2026-03-01T12:00:00", true],
    ["0 */12 * * *", "2026-03-01T13:00:00", false],
    ["0 */12 * * *", "2026-03-01T12:01:00", false],
    ["*/5 1-3 * * 0", "2026-03-01T02:35:00", true],
    ["*/5 1-3 * * 1", "2026-03-01T02:35:00", false],
    ["7,9 * 1 3 *", "2026-03-01T02:09:00", true],
  ])("%s at %s: %s", (cron, time, due) => {
    expect(isDue(cron, new Date(time))).toBe(due);
  });
});

describe("the stand-in's command line", () => {
  let folder: string;
  let program: string;
  const rke2 = (config: Readonly<Record<string, string>>, ...args: string[]) => {
    const root = mkdtempSync(join(folder, "root-"));
    for (const [name, text] of Object.entries(config)) {
      const path = join(root, "etc/rancher/rke2", name);
      mkdirSync(join(path, ".."), { recursive: true });
      writeFileSync(path, text);
    }
    const env = {
      PATH: process.env["PATH"],
      RKE2_STAND_IN_ROOT: root,
      RKE2_STAND_IN_VERSION: "v1.35.7+rke2r1",
      RKE2_STAND_IN_LOOPBACK: "127.0.200.1",
    };
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { env, encoding: "utf8", timeout: 20_000 });
    return { status, stdout, stderr };
  };

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "drover-release-"));
    program = join(folder, "rke2.cjs");
    writeFileSync(program, await bundleProgram());
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it("tells its version as RKE2 does", () => {
    expect(rke2({}, "--version").stdout).toMatch(/^rke2 version v1\.35\.7\+rke2r1 \([0-9a-f]{40}\)\n$/);
  });

  it("only warns of a key it does not know, and goes on", () => {
    const { stderr } = rke2({ "config.yaml": "cluster-init: true\nserver: https://127.0.200.9:9345\n" }, "server");
    expect(stderr).toContain('level=warning msg="Unknown flag --cluster-init found in config.yaml, skipping"');
    expect(stderr).toContain('level=fatal msg="token is required to join a cluster"');
  });

  it("reads drop-ins in order, the later over the earlier, and without config.yaml too", () => {
    const { status, stderr } = rke2({ "config.yaml.d/10-a.yaml": "profile: cis-1.6\n", "config.yaml.d/20-b.yaml": "profile: strange\n" }, "server");
    expect(status).toBe(1);
    expect(stderr).toContain("invalid value provided for --profile flag");
  });

  it("ends where the machine is not fit for it: no pids controller, a kernel parameter that profile cis forbids, no etcd user", () => {
    const machine = (files: Readonly<Record<string, string>>, config = "") =>
      rke2(
        {
          "config.yaml": `server: https://127.0.200.9:9345\ntoken: a\n${config}`,
          ...Object.fromEntries(Object.entries(files).map(([path, text]) => [`../../..${path}`, text])),
        },
        "server",
      ).stderr;
    const users = { "/etc/passwd": "etcd:x:1:1::/:/sbin/nologin\n", "/etc/group": "etcd:x:1:\n" };
    expect(machine({ "/sys/fs/cgroup/cgroup.controllers": "cpu memory\n" })).toContain("pids cgroup controller not found");
    expect(machine({ "/proc/cgroups": "cpu\t1\t1\t1\npids\t8\t1\t0\n" })).toContain("pids cgroup controller not found");
    expect(machine({ "/etc/passwd": "root:x:0:0\n" }, "profile: cis\n")).toContain("missing required: user: unknown user etcd");
    expect(machine({ ...users, "/proc/sys/vm/overcommit_memory": "0\n" }, "profile: cis\n")).toContain(
      "invalid kernel parameter value vm.overcommit_memory=0 - expected 1",
    );
    expect(machine({ ...users, "/proc/sys/vm/overcommit_memory": "1\n" }, "profile: cis\n")).toContain("failed to get CA certs");
  });

  it("takes the command line over the files", () => {
    const { stderr } = rke2({ "config.yaml": "server: https://127.0.200.9:9345\ntoken: a\n" }, "server", "--token", "K10abc::server:x");
    expect(stderr).toContain("invalid token CA hash length");
  });

  it("refuses a flag that RKE2 does not have", () => {
    expect(rke2({}, "server", "--cluster-init")).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("flag provided but not defined: -cluster-init"),
    });
  });

  it.each([
    [
      ["--cluster-reset"],
      "server: https://127.0.200.9:9345\n",
      "cannot perform cluster-reset while server URL is set - remove server from configuration before resetting",
    ],
    [["--cluster-reset-restore-path=/x"], "", "invalid flag use; --cluster-reset required with --cluster-reset-restore-path"],
    [["--cluster-reset", "--cluster-reset-restore-path=/nowhere"], "token: a\n", "etcd: snapshot path does not exist: /nowhere"],
    [["--cluster-reset", "--cluster-reset-restore-path=/etc"], "token: a\n", "etcd: snapshot path must be a file, not a directory: /etc"],
  ])("refuses a reset with %j", (flags, config, text) => {
    expect(rke2({ "config.yaml": config, "config.yaml.d/.keep": "" }, "server", ...flags)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining(text),
    });
  });

  it("says when it cannot find a server, and ends: systemd starts it again", () => {
    const { status, stderr } = rke2({ "config.yaml": "server: https://127.0.200.9:9345\ntoken: abc\n" }, "server");
    expect(status).toBe(1);
    expect(stderr).toContain(
      'failed to get CA certs: Get \\"https://127.0.200.9:9345/cacerts\\": dial tcp 127.0.200.9:9345: connect: connection refused',
    );
  });

  it("has no command of K3s or RKE1", () => {
    expect(rke2({}, "up").status).toBe(3);
    expect(rke2({}, "kubectl", "get", "nodes")).toMatchObject({ status: 3, stderr: "No help topic for 'kubectl'\n" });
  });

  it("checks and refuses certificates by name", () => {
    expect(rke2({}, "certificate", "check", "--output", "json")).toMatchObject({ status: 0, stdout: '{"Certificates":[]}\n' });
    expect(rke2({}, "certificate", "rotate", "--service", "bogus").stderr).toContain("service bogus is not recognized");
  });
});
