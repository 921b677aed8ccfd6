/**
 * HTTP routes for the artifact store: what is there, what is missing, and resumable uploads.
 *
 * Files go straight to the bucket by presigned addresses; this handler never sees their bytes. The first file of a release is its checksum file, and every
 * other file must be in it with the hash its uploader says, so that nothing enters that nodes would refuse.
 */
import { type ArtifactRelease, type ArtifactUpload, artifactCompleteSchema, artifactUploadSchema, type UploadTicket } from "../core/api.js";
import { archivesNeeded, missingArchives, parseChecksums } from "../core/archives.js";
import { Invalid, NotYet } from "../core/failures.js";
import { artifactKeys } from "../core/layout.js";
import { compareVersions, parseVersion } from "../core/versions.js";
import { type ArtifactReader, type ArtifactWriter, artifactReader, artifactWriter, partBytes } from "./aws/artifacts.js";
import { httpHandler, NotFound, type Route, readBody } from "./http.js";

interface Clients {
  readonly reader: ArtifactReader;
  readonly writer: ArtifactWriter;
}

/** Addresses handed out at once. */
const partsAtOnce = 100;
const cnis = ["canal", "calico", "cilium", "flannel", "none"] as const;

const listArtifacts: Route<Clients> = async (_, { reader }) => ({ status: 200, body: { releases: releasesOf(await reader.releases()) } });

const readArtifacts: Route<Clients> = async (request, { reader }) => {
  const version = decodeURIComponent(request.path.version ?? "");
  const releases = releasesOf((await reader.releases()).filter((file) => file.version === version));
  if (releases.length === 0) {
    const next = "See which there are: drover artifacts list. Add one: drover artifacts add DIR";
    throw new NotFound(`Nothing of ${version.slice(0, 40)} is in the artifact store`, next);
  }
  return { status: 200, body: { releases } };
};

const startUpload: Route<Clients> = async (request, { reader, writer }) => {
  const asked = readBody(artifactUploadSchema, request.body);
  await refuseUnlisted(asked, reader);
  const key = artifactKeys.file(asked.version, asked.architecture, asked.file);
  const present = await writer.stat(key);
  if (present !== undefined) {
    if (present.bytes === asked.bytes && present.sha256 === asked.sha256) return { status: 200, body: { status: "present" } satisfies UploadTicket };
    throw new Invalid(
      `${asked.file} of ${asked.version} is in the store with other content (${present.bytes} bytes, SHA-256 ${present.sha256 ?? "not recorded"})`,
      [],
      "A release does not change. Compare the files; delete the wrong one from the bucket by hand if it is the store's",
    );
  }
  const uploadId = await writer.begin(key, asked.sha256);
  const sent = (await writer.sentParts(key, uploadId)).filter((part) => part.bytes === sizeOfPart(asked.bytes, part.number));
  const done = new Set(sent.map((part) => part.number));
  const missing = Array.from({ length: partCount(asked.bytes) }, (_, index) => index + 1).filter((number) => !done.has(number));
  const parts = await Promise.all(
    missing.slice(0, partsAtOnce).map(async (number) => ({ number, url: await writer.partUrl(key, uploadId, number) })),
  );
  return { status: 200, body: { status: "send", uploadId, partBytes, parts, sentParts: done.size } satisfies UploadTicket };
};

const completeUpload: Route<Clients> = async (request, { reader, writer }) => {
  const asked = readBody(artifactCompleteSchema, request.body);
  await refuseUnlisted(asked, reader);
  const key = artifactKeys.file(asked.version, asked.architecture, asked.file);
  const sent = await writer.sentParts(key, asked.uploadId);
  const wrong = Array.from({ length: partCount(asked.bytes) }, (_, index) => index + 1).filter(
    (number) => sent.find((part) => part.number === number)?.bytes !== sizeOfPart(asked.bytes, number),
  );
  if (wrong.length > 0)
    throw new NotYet(`${wrong.length} part(s) of ${asked.file} have not arrived whole`, "Send them again: drover artifacts add goes on");
  const isFirst = await writer.complete(key, asked.uploadId, sent, asked.bytes);
  if (!isFirst) await writer.abort(key, asked.uploadId);
  return { status: 200, body: { status: "present" } satisfies UploadTicket };
};

/** @throws Invalid when the release's own checksum file does not list the file with this hash */
async function refuseUnlisted(asked: ArtifactUpload, reader: ArtifactReader): Promise<void> {
  const { version, architecture, file, sha256 } = asked;
  if (parseVersion(version) === undefined) {
    throw new Invalid(`"${version.slice(0, 40)}" is no RKE2 version`, [], "Versions look like v1.35.7+rke2r1");
  }
  const { checksums } = archivesNeeded({ version, architecture, cni: "canal", multus: false, ingress: "default", airGap: true, imageSets: [] });
  if (file === checksums) return;
  const text = await reader.text(artifactKeys.file(version, architecture, checksums));
  if (text === undefined) throw new Invalid(`${checksums} of ${version} is not in the store yet`, [], "Upload the checksum file first");
  const listed = parseChecksums(text).get(file);
  if (listed === sha256) return;
  const found = listed === undefined ? "does not list it" : `lists it with SHA-256 ${listed}`;
  throw new Invalid(`${file} has SHA-256 ${sha256}, and ${checksums} of ${version} ${found}`, [], "Download the file again");
}

function partCount(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / partBytes));
}

function sizeOfPart(bytes: number, number: number): number {
  return number < partCount(bytes) ? partBytes : bytes - (partCount(bytes) - 1) * partBytes;
}

function releasesOf(files: Awaited<ReturnType<ArtifactReader["releases"]>>): ArtifactRelease[] {
  const groups = new Map<string, (typeof files)[number][]>();
  for (const file of files) {
    if (parseVersion(file.version) === undefined || (file.architecture !== "amd64" && file.architecture !== "arm64")) continue;
    const group = `${file.version} ${file.architecture}`;
    groups.set(group, [...(groups.get(group) ?? []), file]);
  }
  return [...groups.values()]
    .map((group): ArtifactRelease => {
      const version = group[0]?.version ?? "";
      const architecture = group[0]?.architecture === "arm64" ? "arm64" : "amd64";
      const present = group.map((file) => file.file);
      const missing = cnis.map((cni) => {
        const needed = archivesNeeded({ version, architecture, cni, multus: false, ingress: "default", airGap: true, imageSets: [] });
        return [cni, missingArchives(needed, present)] as const;
      });
      return { version, architecture, files: group.map(({ file, bytes }) => ({ file, bytes })), missing: Object.fromEntries(missing) };
    })
    .sort((a, b) => compareVersions(b.version, a.version) || a.architecture.localeCompare(b.architecture));
}

export const handler = httpHandler<Clients>(
  (environment) => ({ reader: artifactReader(environment("ARTIFACT_BUCKET")), writer: artifactWriter(environment("ARTIFACT_BUCKET")) }),
  { listArtifacts, readArtifacts, startUpload, completeUpload },
);
