/** A downloaded RKE2 release in a folder: which files nodes need, and whether each is the one in the release's checksum file. */
import { createHash } from "node:crypto";
import { createReadStream, type Stats } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { ApiFault } from "../core/api.js";
import { parseChecksums } from "../core/archives.js";
import type { Architecture } from "../core/cluster-file.js";
import { Invalid } from "../core/failures.js";
import { parseVersion, versionFault } from "../core/versions.js";
import { badInput, faultLine } from "./failures.js";
import { counted } from "./text.js";

export interface ReleaseFile {
  readonly path: string;
  readonly file: string;
  readonly architecture: Architecture;
  readonly bytes: number;
  /** As it was when it was looked at: a file that changes while it is sent is not the one that was checked. */
  readonly changedMilliseconds: number;
  readonly sha256: string;
}

/** Files with the hash that is promised for them; those of the checksum files themselves first. */
export interface Release {
  readonly version: string;
  readonly files: readonly ReleaseFile[];
  /** Files that stay where they are, each with the reason. */
  readonly ignored: readonly { readonly file: string; readonly reason: string }[];
}

const architectures = ["amd64", "arm64"] as const;
const checksumsOf = (architecture: Architecture) => `sha256sum-${architecture}.txt`;
/** What nodes install from: the bundle and the image archives in the smaller form. */
const isUsed = (file: string, architecture: Architecture) =>
  file === `rke2.linux-${architecture}.tar.gz` || new RegExp(`^rke2-images(-[a-z0-9-]+)?\\.linux-${architecture}\\.tar\\.zst$`).test(file);
/** A file's bytes are read in parts of this size. */
const readAtOnceBytes = 4 * 1024 * 1024;

/** @throws CommandFailure with everything that can be said without reading the archives */
export async function readRelease(given: string, wanted: string | undefined, directory: string): Promise<Release> {
  const folder = resolve(directory, given);
  const names = await namesIn(folder, given);
  const version = versionOf(folder, wanted);
  const present = architectures.filter((architecture) => names.includes(checksumsOf(architecture)));
  if (present.length === 0) {
    const found =
      names.length === 0 ? "it is empty" : `found ${names.slice(0, 5).join(", ")}${names.length > 5 ? ` and ${names.length - 5} more` : ""}`;
    throw badInput(
      `${given} holds no checksum file of an RKE2 release (${architectures.map(checksumsOf).join(" or ")}): ${found}`,
      "Download it beside the archives: it is among the files of the same release",
    );
  }

  const faults: ApiFault[] = [];
  const files: ReleaseFile[] = [];
  const ignored: { file: string; reason: string }[] = [];
  const promises = new Map<Architecture, ReadonlyMap<string, string>>();
  for (const architecture of present) {
    const path = join(folder, checksumsOf(architecture));
    const [content, about] = await Promise.all([readFile(path).catch(() => undefined), stat(path).catch(() => undefined)]);
    if (content === undefined || about === undefined) {
      faults.push({ path: checksumsOf(architecture), message: "is not a file that can be read" });
      continue;
    }
    try {
      promises.set(architecture, parseChecksums(content.toString("utf8")));
    } catch (error) {
      if (!(error instanceof Invalid)) throw error;
      faults.push(...error.faults.map((fault) => ({ path: checksumsOf(architecture), message: faultLine(fault) })));
    }
    files.push(describe(folder, checksumsOf(architecture), architecture, about, createHash("sha256").update(content).digest("hex")));
  }

  for (const name of names) {
    if (files.some(({ file }) => file === name)) continue;
    const architecture = architectures.find((each) => isUsed(name, each));
    if (architecture === undefined) {
      ignored.push({ file: name, reason: /\.txt$/.test(name) ? "a list, which nodes do not need" : "not among the files that nodes install" });
      continue;
    }
    const promised = promises.get(architecture)?.get(name);
    const about = await stat(join(folder, name)).catch(() => undefined);
    if (!present.includes(architecture))
      faults.push({ path: name, message: `${checksumsOf(architecture)} is not beside it, so it cannot be checked` });
    else if (promised === undefined) {
      if (promises.has(architecture))
        faults.push({ path: name, message: `${checksumsOf(architecture)} does not list it: it is of another release, or renamed` });
    } else if (about === undefined || !about.isFile()) faults.push({ path: name, message: "is not a file that can be read" });
    else if (about.size === 0) faults.push({ path: name, message: "is empty: the download did not finish" });
    else files.push(describe(folder, name, architecture, about, promised));
  }
  if (faults.length > 0) throw refusal(given, faults);
  return { version, files, ignored };
}

/**
 * Reads every archive and compares it with its promised hash.
 *
 * @throws CommandFailure with every file that is not what it should be
 */
export async function verifyRelease(
  release: Release,
  given: string,
  signal: AbortSignal,
  progress: (file: string, doneBytes: number) => void,
): Promise<void> {
  const faults: ApiFault[] = [];
  for (const { path, file, bytes, sha256 } of release.files) {
    const found = await hashOf(path, signal, (done) => progress(file, done));
    if (found.sha256 === sha256) continue;
    const read = found.bytes === bytes ? counted(bytes, "byte") : `${found.bytes} of ${bytes} bytes`;
    faults.push({ path: file, message: `has SHA-256 ${found.sha256} (${read}), the release says ${sha256}: download it again` });
  }
  if (faults.length > 0) throw refusal(given, faults);
}

function refusal(given: string, faults: readonly ApiFault[]) {
  return badInput(
    `${given} is not a whole release: ${counted(faults.length, "fault")}; nothing was uploaded`,
    "Correct them, then start the command again",
    faults,
  );
}

function describe(folder: string, file: string, architecture: Architecture, about: Stats, sha256: string): ReleaseFile {
  return { path: join(folder, file), file, architecture, bytes: about.size, changedMilliseconds: about.mtimeMs, sha256 };
}

async function hashOf(path: string, signal: AbortSignal, progress: (doneBytes: number) => void): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: readAtOnceBytes, signal })) {
    hash.update(chunk as Buffer);
    bytes += (chunk as Buffer).byteLength;
    progress(bytes);
  }
  return { sha256: hash.digest("hex"), bytes };
}

async function namesIn(folder: string, given: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT") throw badInput(`There is no folder ${given}`, "Give the folder that holds the downloaded files of one RKE2 release");
    if (code === "ENOTDIR") throw badInput(`${given} is a file`, "Give the folder that holds it and the rest of the release");
    if (code === "EACCES") throw badInput(`${given} may not be read`, `Look at its owner and mode: ls -ld ${given}`);
    throw error;
  }
}

/** Release files do not carry their version: it is given, or the folder is named by it. */
function versionOf(folder: string, wanted: string | undefined): string {
  if (wanted !== undefined) {
    const fault = parseVersion(wanted) === undefined ? (versionFault(wanted) ?? "it is no RKE2 version") : undefined;
    if (fault === undefined) return wanted;
    throw badInput(`--version "${wanted}": ${fault}`, "Versions look like v1.35.7+rke2r1");
  }
  const name = basename(folder).replace(/%2B/i, "+");
  if (parseVersion(name) !== undefined) return name;
  throw badInput(
    "The files of a release do not say their version, and neither does the folder's name",
    "Add --version, such as --version v1.35.7+rke2r1",
  );
}
