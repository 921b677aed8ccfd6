/**
 * Builds the stand-in release: upstream's files, upstream's names, and a checksum file that is true of them.
 *
 * The bundle's bin/rke2 is one file, as upstream's is: a few lines of shell with a Node binary and the program packed behind them. etcd comes as an image,
 * in the archives whose sets bring it upstream. Both are taken from this machine: Node from the process that runs, etcd from Debian's etcd-server.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { artifactKeys } from "../../../core/layout.js";
import type { S3 } from "../../aws/s3.js";
import { imageNames, packImages, packTar } from "./program/images.js";

const here = import.meta.dirname;
const architecture = process.arch === "arm64" ? "arm64" : "amd64";

export interface BuiltRelease {
  readonly version: string;
  readonly architecture: "amd64" | "arm64";
  /** Path of each file by its name in the release, the checksum file last. */
  readonly files: ReadonlyMap<string, string>;
}

export interface BuildOptions {
  /** Such as v1.35.7+rke2r1. */
  readonly version: string;
  /** Directory that keeps what was built; the same release is built once. */
  readonly outdir: string;
  /** Debian's etcd. */
  readonly etcd?: string;
}

/** Sets whose archives exist; the empty name holds core and Canal, as upstream. */
const imageSets = ["", "core", "canal", "calico", "cilium", "flannel", "multus", "ingress-nginx", "traefik", "harvester"];
const setsWithCore = new Set(["", "core"]);

/** What is missing on this machine to build a release, in one line; undefined when nothing is. */
export function missingForRelease(etcd = "/usr/bin/etcd"): string | undefined {
  if (process.platform !== "linux") return `a stand-in release is built on Linux, this is ${process.platform}`;
  if (!existsSync(etcd)) return `${etcd} is missing: apt-get install etcd-server`;
  return undefined;
}

/** The program alone, as one CommonJS file: what `bin/rke2` runs. */
export async function bundleProgram(): Promise<Buffer> {
  const { outputFiles } = await build({
    entryPoints: [join(here, "program/main.ts")],
    bundle: true,
    platform: "node",
    target: "node20",
    format: "cjs",
    write: false,
    logLevel: "silent",
    legalComments: "none",
  });
  return Buffer.from((outputFiles[0] as { contents: Uint8Array }).contents);
}

export async function buildRelease({ version, outdir, etcd = "/usr/bin/etcd" }: BuildOptions): Promise<BuiltRelease> {
  const missing = missingForRelease(etcd);
  if (missing !== undefined) throw new Error(`Cannot build a stand-in release: ${missing}`);
  const program = await bundleProgram();
  const parts = readdirSync(join(here, "bundle"), { recursive: true, encoding: "utf8" }).sort();
  const own = parts.filter((name) => /\.[a-z]+$/.test(name)).map((name) => [name, readFileSync(join(here, "bundle", name))] as const);
  const engine = readFileSync(process.execPath);
  const server = readFileSync(etcd);
  const hash = createHash("sha256").update(JSON.stringify([version, own.map(([name, content]) => [name, digest(content)])]));
  for (const content of [program, engine, server]) hash.update(digest(content));
  const identity = hash.digest("hex");
  const directory = join(outdir, `${version}-${identity.slice(0, 12)}`);
  if (!existsSync(directory)) {
    const made = `${directory}.${process.pid}`;
    rmSync(made, { recursive: true, force: true });
    mkdirSync(made, { recursive: true });
    for (const [name, content] of contentOf(version, identity, { program, engine, server, own })) writeFileSync(join(made, name), content);
    try {
      renameSync(made, directory);
    } catch (error) {
      // Another process has built the same meanwhile.
      if (!existsSync(directory)) throw error;
      rmSync(made, { recursive: true, force: true });
    }
  }
  const names = readdirSync(directory).sort((a, b) => Number(a.startsWith("sha256sum")) - Number(b.startsWith("sha256sum")) || a.localeCompare(b));
  return { version, architecture, files: new Map(names.map((name) => [name, join(directory, name)])) };
}

/**
 * Puts a built release into the artifact store, all but the bare binary and the image lists, which no node fetches; answers its keys.
 *
 * @public for whoever runs a whole local cloud on machines
 */
export function seedBuiltRelease(s3: Pick<S3, "put">, bucket: string, release: BuiltRelease): readonly string[] {
  const wanted = [...release.files].filter(([name]) => /\.tar\.(gz|zst)$|^sha256sum-/.test(name));
  return wanted.map(([name, path]) => {
    const key = artifactKeys.file(release.version, release.architecture, name);
    s3.put(bucket, key, readFileSync(path));
    return key;
  });
}

const digest = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");

function* contentOf(
  version: string,
  identity: string,
  parts: { readonly program: Buffer; readonly engine: Buffer; readonly server: Buffer; readonly own: readonly (readonly [string, Buffer])[] },
): Generator<readonly [string, Uint8Array]> {
  const sums: string[] = [];
  const out = (name: string, content: Uint8Array) => {
    sums.push(`${digest(content)}  ${name}\n`);
    return [name, content] as const;
  };
  const payload = gzipSync(
    packTar([
      { name: "lib/node", content: parts.engine, mode: 0o755 },
      { name: "lib/rke2.cjs", content: parts.program },
    ]),
    { level: 1 },
  );
  const text = (name: string) => (parts.own.find(([own]) => own === name) as readonly [string, Buffer])[1].toString("utf8");
  const filled = (source: string) =>
    source
      .replaceAll("@VERSION@", version)
      .replaceAll("@COMMIT@", identity.slice(0, 40))
      .replaceAll("@TAG@", `${version.replace("+", "-")}-${identity.slice(0, 12)}`);
  const launcher = Buffer.concat([Buffer.from(filled(text("bin/rke2.sh"))), payload]);
  yield out(`rke2.linux-${architecture}`, launcher);
  const unit = (role: "server" | "agent") =>
    text("lib/systemd/system/rke2.service")
      .replaceAll("@ROLE@", role)
      .replaceAll("@OTHER@", role === "server" ? "agent" : "server");
  const bundle = packTar([
    { name: "bin/rke2", content: launcher, mode: 0o755 },
    ...["bin/rke2-killall.sh", "bin/rke2-uninstall.sh"].map((name) => ({ name, content: Buffer.from(text(name)), mode: 0o755 })),
    ...(["server", "agent"] as const).flatMap((role) => [
      { name: `lib/systemd/system/rke2-${role}.service`, content: Buffer.from(unit(role)) },
      { name: `lib/systemd/system/rke2-${role}.env`, content: Buffer.from("HOME=/root\n") },
    ]),
    ...["share/rke2/LICENSE.txt", "share/rke2/rke2-cis-sysctl.conf"].map((name) => ({ name, content: Buffer.from(text(name)) })),
  ]);
  yield out(`rke2.linux-${architecture}.tar.gz`, gzipSync(bundle, { level: 1 }));
  const etcd = gzipSync(packTar([{ name: "bin/etcd", content: parts.server, mode: 0o755 }]), { level: 6 });
  const marker = (name: string) => gzipSync(packTar([{ name: "image", content: Buffer.from(`${name} of ${version}, a stand-in\n`) }]));
  const upstream = (name: string) => imageNames.runtime(version).replace("rke2-runtime", name);
  const core = [
    { name: imageNames.etcd(version), layer: etcd },
    { name: imageNames.runtime(version), layer: marker("runtime") },
    { name: upstream("hardened-kubernetes"), layer: marker("kubernetes") },
    { name: "docker.io/rancher/mirrored-pause:3.6", layer: marker("pause") },
  ];
  const lists: string[] = [];
  for (const set of imageSets) {
    const stem = `rke2-images${set === "" ? "" : `-${set}`}.linux-${architecture}`;
    const networks = set === "" ? ["canal"] : set === "core" ? [] : [set];
    const images = [...(setsWithCore.has(set) ? core : []), ...networks.map((name) => ({ name: upstream(`hardened-${name}`), layer: marker(name) }))];
    lists.push(...images.map(({ name }) => name));
    yield out(`${stem}.tar.zst`, packImages(images));
    yield out(`${stem}.txt`, Buffer.from(images.map(({ name }) => `${name}\n`).join("")));
  }
  yield out(`rke2-images-all.linux-${architecture}.txt`, Buffer.from([...new Set(lists)].map((name) => `${name}\n`).join("")));
  yield [`sha256sum-${architecture}.txt`, Buffer.from(sums.join(""))];
}
