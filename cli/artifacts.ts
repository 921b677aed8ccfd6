/** `drover artifacts`: RKE2 releases in the store that nodes install from. */
import { stat } from "node:fs/promises";
import type { ArtifactRelease, UploadTicket } from "../core/api.js";
import { parseVersion } from "../core/versions.js";
import { type ApiClient, interruption } from "./api-client.js";
import type { Act } from "./command.js";
import { badInput, CommandFailure, exitCodes, OutOfReach } from "./failures.js";
import { type Release, type ReleaseFile, readRelease, verifyRelease } from "./release.js";
import type { Screen } from "./surroundings.js";
import { counted, fit, paint, size, table } from "./text.js";

/** Parts that travel at the same time. */
const partsAtOnce = 4;
/** How often a file may be asked for again without a part of it having arrived in between. */
const mostIdleRounds = 3;

interface Sent {
  readonly file: string;
  readonly architecture: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly status: "uploaded" | "present";
}

export const add: Act<{ readonly version?: string }, [directory: string]> = async (command, { version }, directory) => {
  const { surroundings } = command;
  const release = await readRelease(directory, version, surroundings.directory);
  const total = release.files.reduce((sum, file) => sum + file.bytes, 0);
  command.tell(`Checking ${counted(release.files.length, "file")} of ${release.version}, ${size(total)}, against the checksum file\n`);
  const line = progressLine(surroundings.err);
  try {
    await verifyRelease(release, directory, surroundings.interrupted, (file, done) => line.show(`checking ${file}  ${size(done)}`));
    line.clear();
    for (const { file, reason } of release.ignored) command.tell(`  left out  ${file}: ${reason}\n`);
    const api = await command.api();
    const sent: Sent[] = [];
    for (const file of inOrder(release)) {
      const status = await sendFile(release.version, file, api, surroundings.interrupted, (text) => line.show(text));
      line.clear();
      sent.push({ file: file.file, architecture: file.architecture, bytes: file.bytes, sha256: file.sha256, status });
      command.tell(`  ${status === "present" ? "present " : "uploaded"}  ${file.file}  ${size(file.bytes)}\n`);
    }
    const { releases } = await api.call<{ releases: readonly ArtifactRelease[] }>("readArtifacts", { version: release.version });
    const uploaded = sent.filter(({ status }) => status === "uploaded").length;
    command.answer(
      { version: release.version, files: sent, ignored: release.ignored, releases },
      `${release.version} is in the store: ${counted(uploaded, "file")} uploaded, ${sent.length - uploaded} present before\n${releases.map(missingText).join("")}`,
    );
    return exitCodes.ok;
  } catch (error) {
    line.clear();
    if (surroundings.interrupted.aborted) {
      throw interruption(
        "Stopped; what was uploaded stays",
        `Start the same command again, it goes on where it stopped: drover artifacts add ${directory}`,
      );
    }
    throw error;
  }
};

/** Checksum files first: the store takes nothing that they do not list. */
function inOrder(release: Release): ReleaseFile[] {
  const isChecksums = ({ file }: ReleaseFile) => file.startsWith("sha256sum-");
  return [...release.files.filter(isChecksums), ...release.files.filter((file) => !isChecksums(file))];
}

async function sendFile(
  version: string,
  file: ReleaseFile,
  api: ApiClient,
  signal: AbortSignal,
  progress: (text: string) => void,
): Promise<"uploaded" | "present"> {
  const upload = { version, architecture: file.architecture, file: file.file, bytes: file.bytes, sha256: file.sha256 };
  let best = -1;
  let idleRounds = 0;
  for (;;) {
    const ticket = await api.call<UploadTicket>("startUpload", {}, upload);
    if (ticket.status === "present") return "present";
    const { uploadId = "", partBytes = file.bytes, parts = [], sentParts = 0 } = ticket;
    const count = Math.max(1, Math.ceil(file.bytes / partBytes));
    if (parts.length === 0) {
      await refuseChanged(file);
      await api.call("completeUpload", {}, { ...upload, uploadId });
      return "uploaded";
    }
    idleRounds = sentParts > best ? 0 : idleRounds + 1;
    best = Math.max(best, sentParts);
    if (idleRounds >= mostIdleRounds) {
      throw new OutOfReach(
        `${file.file}: its parts do not arrive at the store`,
        "Check the network, then start the command again: it goes on where it stopped",
      );
    }
    let arrived = sentParts;
    progress(`uploading ${file.file}  ${arrived} of ${count} parts`);
    await sideBySide(parts, partsAtOnce, async ({ number, url }) => {
      if (signal.aborted) throw interruption("Stopped");
      const start = (number - 1) * partBytes;
      const outcome = await api.put(url, { file: file.path, start, bytes: Math.min(partBytes, file.bytes - start) });
      // An address that has run out is asked for again in the next round.
      if (outcome === "stored")
        progress(`uploading ${file.file}  ${++arrived} of ${count} parts, ${size(Math.min(file.bytes, arrived * partBytes))}`);
    });
  }
}

async function refuseChanged(file: ReleaseFile): Promise<void> {
  const now = await stat(file.path);
  if (now.size === file.bytes && now.mtimeMs === file.changedMilliseconds) return;
  throw badInput(
    `${file.file} was changed while it was being uploaded, and is not put into the store`,
    "Leave the folder alone, then start the command again",
  );
}

/** At most so many at the same time; the first failure stops what has not begun, and is thrown when what had begun has ended. */
async function sideBySide<T>(items: readonly T[], limit: number, act: (item: T) => Promise<void>): Promise<void> {
  const left = [...items];
  const failures: unknown[] = [];
  const work = async () => {
    for (let item = left.shift(); item !== undefined && failures.length === 0; item = left.shift()) {
      try {
        await act(item);
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, work));
  if (failures.length > 0) throw failures[0];
}

/** One line that is written over; nothing where nobody watches. */
function progressLine(screen: Screen): { show(text: string): void; clear(): void } {
  if (!screen.isTerminal) return { show: () => {}, clear: () => {} };
  return { show: (text) => screen.write(`\r\u001b[2K${fit(text, screen.columns - 1)}`), clear: () => screen.write("\r\u001b[2K") };
}

export const list: Act<object, []> = async (command) => {
  const api = await command.api();
  const { releases } = await api.call<{ releases: readonly ArtifactRelease[] }>("listArtifacts");
  const rows = releases.map(({ version, architecture, files, missing }) => [
    version,
    architecture,
    String(files.length),
    size(files.reduce((sum, file) => sum + file.bytes, 0)),
    Object.entries(missing)
      .filter(([, names]) => names.length === 0)
      .map(([cni]) => cni)
      .join(", ") || "no CNI",
  ]);
  command.answer({ releases }, releases.length === 0 ? "" : table(["VERSION", "ARCHITECTURE", "FILES", "SIZE", "COMPLETE FOR"], rows));
  if (releases.length === 0 && !command.isJson) command.tell("The artifact store is empty. Add a release: drover artifacts add DIR\n");
  return exitCodes.ok;
};

export const check: Act<{ readonly cni?: string; readonly architecture?: string }, [version: string]> = async (
  command,
  { cni, architecture },
  version,
) => {
  if (parseVersion(version) === undefined) throw badInput(`"${version}" is no RKE2 version`, "Versions look like v1.35.7+rke2r1");
  const api = await command.api();
  const found = await api.call<{ releases: readonly ArtifactRelease[] }>("readArtifacts", { version });
  const releases = found.releases.filter((release) => architecture === undefined || release.architecture === architecture);
  if (releases.length === 0) {
    throw new CommandFailure("notFound", `Nothing of ${version} for ${architecture} is in the artifact store`, "Add it: drover artifacts add DIR");
  }
  const asked = releases.map((release) => ({ release, missing: cni === undefined ? [] : missingFor(cni, release) }));
  const isComplete = asked.every(({ missing }) => missing.length === 0);
  const text = releases.map((release) => releaseText(release, command.surroundings.out)).join("\n");
  command.answer({ version, ...(cni === undefined ? {} : { cni, complete: isComplete }), releases }, text);
  if (!isComplete) {
    const names = asked.flatMap(({ missing }) => missing);
    command.tell(`Incomplete for ${cni}: ${names.join(", ")}. Download them from the release, then: drover artifacts add DIR\n`);
    return exitCodes.failed;
  }
  return exitCodes.ok;
};

function missingFor(cni: string, release: ArtifactRelease): readonly string[] {
  const missing = release.missing[cni];
  if (missing === undefined) throw badInput(`"${cni}" is no CNI`, `Give one of ${Object.keys(release.missing).join(", ")}`);
  return missing;
}

function releaseText({ version, architecture, files, missing }: ArtifactRelease, screen: Screen): string {
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  const lines = Object.entries(missing).map(([cni, names]) => {
    const mark = names.length === 0 ? paint(screen, "green", "complete") : paint(screen, "yellow", "missing ");
    return `  ${cni.padEnd(8)}  ${mark}${names.length === 0 ? "" : `  ${names.join(", ")}`}\n`;
  });
  return `${version} ${architecture}: ${counted(files.length, "file")}, ${size(total)}\n${lines.join("")}`;
}

/** One line an architecture: for which CNI it is complete. */
function missingText({ architecture, missing }: ArtifactRelease): string {
  const of = (isComplete: boolean) =>
    Object.entries(missing)
      .filter(([, names]) => (names.length === 0) === isComplete)
      .map(([cni]) => cni);
  const incomplete = of(false).length === 0 ? "" : `; not for ${of(false).join(", ")}`;
  return `  ${architecture}: complete for ${of(true).join(", ") || "no CNI"}${incomplete}\n`;
}
