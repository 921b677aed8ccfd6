/**
 * Image archives of the release: what they hold, and how they are laid out.
 *
 * `.tar.zst` as upstream, the tar an OCI image layout (OCI image specification) whose layers are gzip. The zstd frame holds raw blocks only (RFC 8878,
 * 3.1.1.2), because Node 20 cannot decompress zstd: any zstd reads them, and this reads no others.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { agent, fatal, pause, places, say, version, write } from "./host.js";

/** Raw blocks of at most 128 KiB. */
const blockBytes = 131_072;

export function packZstd(content: Buffer): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32LE(0xfd2fb528);
  header[4] = 0xe0; // one segment, content size in 8 bytes, no checksum
  header.writeBigUInt64LE(BigInt(content.length), 5);
  const parts: Buffer[] = [header];
  for (let from = 0; from === 0 || from < content.length; from += blockBytes) {
    const block = content.subarray(from, from + blockBytes);
    const head = Buffer.alloc(3);
    head.writeUIntLE((block.length << 3) | (from + blockBytes >= content.length ? 1 : 0), 0, 3);
    parts.push(head, block);
  }
  return Buffer.concat(parts);
}

export function unpackZstd(frame: Buffer): Buffer {
  if (frame.length < 16 || frame.readUInt32LE() !== 0xfd2fb528) throw new Error("magic number mismatch");
  if (frame[4] !== 0xe0) throw new Error("not an archive of a stand-in release: its zstd frame is compressed");
  const parts: Buffer[] = [];
  let from = 13;
  for (let last = false; !last; ) {
    if (from + 3 > frame.length) throw new Error("unexpected EOF");
    const head = frame.readUIntLE(from, 3);
    const length = head >> 3;
    last = (head & 1) === 1;
    if ((head & 6) !== 0) throw new Error("not an archive of a stand-in release: its zstd blocks are compressed");
    if (from + 3 + length > frame.length) throw new Error("unexpected EOF");
    parts.push(frame.subarray(from + 3, from + 3 + length));
    from += 3 + length;
  }
  return Buffer.concat(parts);
}

export interface File {
  readonly name: string;
  readonly content: Uint8Array;
  readonly mode?: number;
}

/** A tar archive (POSIX ustar) of plain files, the same bytes for the same files. */
export function packTar(files: readonly File[]): Buffer {
  const parts: Buffer[] = [];
  for (const { name, content, mode = 0o644 } of files) {
    const header = Buffer.alloc(512);
    header.write(name, 0);
    header.write(`${mode.toString(8).padStart(7, "0")}\0`, 100);
    header.write("0000000\x000000000\0", 108);
    header.write(`${content.length.toString(8).padStart(11, "0")}\x0000000000000\0`, 124);
    header.write("        0", 148);
    header.write("ustar\x0000", 257);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    parts.push(header, Buffer.from(content), Buffer.alloc((512 - (content.length % 512)) % 512));
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

export function unpackTar(archive: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  const text = (at: number, length: number) => archive.toString("latin1", at, at + length).replace(/\0.*$/s, "");
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0; ) {
    const length = Number.parseInt(text(at + 124, 12), 8);
    files.set(text(at, 100), archive.subarray(at + 512, at + 512 + length));
    at += 512 + Math.ceil(length / 512) * 512;
  }
  return files;
}

/** Image names, as upstream has them. */
export const imageNames = {
  etcd: (release: string) => `docker.io/rancher/hardened-etcd:${release.replace("+", "-")}`,
  runtime: (release: string) => `docker.io/rancher/rke2-runtime:${release.replace("+", "-")}`,
};

/** Archive of OCI images, each of one layer. */
export function packImages(images: readonly { readonly name: string; readonly layer: Buffer }[]): Buffer {
  const blobs = new Map<string, Buffer>();
  const keep = (content: Buffer, mediaType: string) => {
    const digest = createHash("sha256").update(content).digest("hex");
    blobs.set(digest, content);
    return { mediaType, digest: `sha256:${digest}`, size: content.length };
  };
  const json = (value: unknown) => Buffer.from(JSON.stringify(value));
  const manifests = images.map(({ name, layer }) => {
    const config = keep(
      json({ architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [] } }),
      "application/vnd.oci.image.config.v1+json",
    );
    const layers = [keep(layer, "application/vnd.oci.image.layer.v1.tar+gzip")];
    const manifest = keep(json({ schemaVersion: 2, config, layers }), "application/vnd.oci.image.manifest.v1+json");
    return { ...manifest, annotations: { "io.containerd.image.name": name } };
  });
  const tar = packTar([
    { name: "oci-layout", content: json({ imageLayoutVersion: "1.0.0" }) },
    { name: "index.json", content: json({ schemaVersion: 2, manifests }) },
    ...[...blobs].map(([digest, content]) => ({ name: `blobs/sha256/${digest}`, content })),
  ]);
  return packZstd(tar);
}

interface Reference {
  readonly digest: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Images in an archive: name and content of the layer. */
function readImages(archive: Buffer): Map<string, () => Map<string, Buffer>> {
  const files = unpackTar(unpackZstd(archive));
  const blob = (digest: string) => {
    const content = files.get(`blobs/sha256/${digest.replace("sha256:", "")}`);
    if (content === undefined || createHash("sha256").update(content).digest("hex") !== digest.replace("sha256:", ""))
      throw new Error(`blob ${digest}: wrong digest`);
    return content;
  };
  const index = JSON.parse((files.get("index.json") ?? Buffer.from("{}")).toString()) as { manifests?: Reference[] };
  if (index.manifests === undefined) throw new Error("unrecognized image format");
  return new Map(
    index.manifests.map(({ digest, annotations }) => [
      annotations?.["io.containerd.image.name"] ?? digest,
      () => {
        const { layers } = JSON.parse(blob(digest).toString()) as { layers: Reference[] };
        return unpackTar(gunzipSync(blob((layers[0] as Reference).digest)));
      },
    ]),
  );
}

const store = () => agent("containerd/images");
const stored = (image: string) => join(store(), image.replaceAll("/", "_"));

/** File of an imported image, or undefined while there is no such image. */
export function fileOfImage(image: string, file: string): string | undefined {
  const path = join(stored(image), file);
  return existsSync(path) ? path : undefined;
}

/**
 * Imports what lies in the image directory: every archive at every start, or only new and changed ones where `.cache.json` is there.
 * An archive that cannot be read is an error in the log, no more: the image is then pulled, which a network without a way out does not give.
 */
export function importImages(): void {
  const directory = agent("images");
  if (!existsSync(directory)) return;
  const cacheFile = join(directory, ".cache.json");
  const conditional = existsSync(cacheFile);
  const cached = conditional ? (JSON.parse(readFileSync(cacheFile, "utf8") || "{}") as Record<string, unknown>) : {};
  const seen: Record<string, string> = {};
  for (const name of readdirSync(directory).sort()) {
    if (!/\.(tar|tar\.(lz4|bz2|gz|zst)|tbz|tgz|tzst)$/.test(name)) continue;
    const path = join(directory, name);
    const { size, mtimeMs } = statSync(path);
    const mark = `${size} ${mtimeMs}`;
    if (conditional && cached[name] === mark) {
      seen[name] = mark;
      continue;
    }
    const begun = Date.now();
    try {
      const images = readImages(readFileSync(path));
      for (const [image, layer] of images) {
        for (const [file, content] of layer()) {
          const target = join(stored(image), file);
          if (existsSync(target) && readFileSync(target).equals(content)) continue; // it may be running
          mkdirSync(join(target, ".."), { recursive: true });
          writeFileSync(`${target}.new`, content, { mode: 0o755 });
          renameSync(`${target}.new`, target);
        }
      }
      say("info", `Imported ${images.size} images from ${places.agent("images", name)} in ${Date.now() - begun}ms`);
      seen[name] = mark;
    } catch (error) {
      say("error", `Unable to process image file ${places.agent("images", name)}: ${(error as Error).message}`);
    }
  }
  if (conditional) write(cacheFile, JSON.stringify(seen), 0o600);
}

/** The runtime image is needed on every node. One that is in no archive is pulled: without a way out that ends after a while, badly. */
export async function requireRuntime(): Promise<void> {
  const image = imageNames.runtime(version);
  if (existsSync(stored(image))) return;
  say("info", `Pulling runtime image ${image}`);
  await pause(30);
  fatal(`failed to get runtime image ${image}: dial tcp: lookup index.docker.io: no such host`);
}
