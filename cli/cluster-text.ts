/** Reads a cluster file as text, and says what is wrong with what is not one. */
import { open, readdir, realpath } from "node:fs/promises";
import { basename, dirname, extname, resolve } from "node:path";
import { clusterFileLimitBytes } from "../core/api.js";
import { nearest } from "../core/rke2-keys.js";
import { badInput } from "./failures.js";
import type { Surroundings } from "./surroundings.js";

/** @param file a path, or `-` for standard input */
export async function readClusterText(file: string, surroundings: Surroundings): Promise<string> {
  const name = file === "-" ? "Standard input" : file;
  const bytes = file === "-" ? await surroundings.readInput(clusterFileLimitBytes) : await readBytes(resolve(surroundings.directory, file), file);
  if (bytes.byteLength > clusterFileLimitBytes) {
    const next = "Move large manifests out of spec.rke2.manifests and apply them when the cluster is ready";
    throw badInput(`${name} is larger than a cluster file may be: ${clusterFileLimitBytes} bytes`, next);
  }
  if (bytes.byteLength === 0) throw badInput(`${name} is empty`, "Begin with a copy of examples/ha.yaml");
  return decode(bytes, name);
}

function decode(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    const isWide = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
    const found = isWide ? "it looks like UTF-16" : badByte(bytes);
    throw badInput(
      `${name} is not UTF-8 text: ${found}`,
      `Save it as UTF-8${isWide ? `, such as with: iconv --from-code UTF-16 --to-code UTF-8` : ""}`,
    );
  }
}

function badByte(bytes: Uint8Array): string {
  const decodes = (length: number, stream: boolean) => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, length), { stream });
      return true;
    } catch {
      return false;
    }
  };
  let good = 0;
  let bad = bytes.byteLength;
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    // A character cut in two at the end of a part is no fault yet, which is what streaming means.
    if (decodes(middle, true)) good = middle;
    else bad = middle;
  }
  while (!decodes(good, false)) good--;
  const line = bytes.subarray(0, good).filter((byte) => byte === 0x0a).length + 1;
  return `byte ${good + 1}, in line ${line}, begins no character`;
}

async function readBytes(path: string, shown: string): Promise<Uint8Array> {
  try {
    const handle = await open(path, "r");
    try {
      if ((await handle.stat()).isDirectory()) throw await directoryGiven(path, shown);
      const chunks: Buffer[] = [];
      let length = 0;
      for await (const chunk of handle.createReadStream({ autoClose: false })) {
        chunks.push(chunk as Buffer);
        length += (chunk as Buffer).byteLength;
        if (length > clusterFileLimitBytes) break;
      }
      return Buffer.concat(chunks);
    } finally {
      await handle.close();
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") throw await missing(path, shown);
    if (code === "EISDIR") throw await directoryGiven(path, shown);
    if (code === "EACCES" || code === "EPERM") throw badInput(`${shown} may not be read`, `Look at its owner and mode: ls -l ${shown}`);
    if (code === "ELOOP") throw badInput(`${shown} is a link that leads to itself`, "Give the file itself");
    if (code === "ENAMETOOLONG") throw badInput("The file's name is longer than the system takes", "Give a path, or - to read standard input");
    throw error;
  }
}

async function clusterFilesIn(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch(() => []);
  return names.filter((name) => [".yaml", ".yml", ".json"].includes(extname(name))).sort();
}

async function directoryGiven(path: string, shown: string): Promise<Error> {
  const [first] = await clusterFilesIn(path);
  return badInput(
    `${shown} is a directory`,
    first === undefined ? "Give a cluster file" : `Give one file, such as ${shown.replace(/\/+$/, "")}/${first}`,
  );
}

async function missing(path: string, shown: string): Promise<Error> {
  const folder = dirname(path);
  const exists = await realpath(folder).catch(() => undefined);
  if (exists === undefined) return badInput(`There is no file ${shown}: its folder does not exist`, `Looked in ${folder}; give another path`);
  const names = await clusterFilesIn(folder);
  const close = nearest(basename(path), names);
  return badInput(
    `There is no file ${shown}`,
    close === undefined ? `Looked in ${folder}; give another path` : `Did you mean ${resolve(folder, close)}`,
  );
}
