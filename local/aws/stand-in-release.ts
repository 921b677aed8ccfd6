/**
 * A release that stands in for RKE2's: the upstream file names, a few bytes each, and a checksum file that is true of them.
 *
 * Tests, the demo and the simulator install it on simulated nodes; a real release put under the same keys takes its place.
 */
import { createHash } from "node:crypto";
import { knownImageSets } from "../../core/archives.js";
import { artifactKeys } from "../../core/layout.js";
import type { S3 } from "./s3.js";

export interface StandInRelease {
  /** Such as v1.35.7+rke2r1. */
  readonly version: string;
  readonly architecture: "amd64" | "arm64";
  /** Image sets, such as `core` and `canal`; the empty name is the set without one (core and canal together). */
  readonly imageSets: readonly string[];
}

/** Files of a release by name, the checksum file last. The same release always has the same bytes. */
export function standInFiles({ version, architecture, imageSets }: StandInRelease): ReadonlyMap<string, Buffer> {
  const images = [...new Set(imageSets)].sort().map((set) => `rke2-images${set === "" ? "" : `-${set}`}.linux-${architecture}.tar.zst`);
  const files = new Map(
    [`rke2.linux-${architecture}.tar.gz`, ...images].map((name) => [name, Buffer.from(`${name} of ${version}: stands in for the release file\n`)]),
  );
  const sums = [...files].map(([name, content]) => `${createHash("sha256").update(content).digest("hex")}  ${name}\n`);
  return files.set(`sha256sum-${architecture}.txt`, Buffer.from(sums.join("")));
}

/** Version that a file of a stand-in release is of; undefined for a file of any other release. */
export function versionOfStandIn(content: Uint8Array): string | undefined {
  return /^\S+ of (v\S+): stands in for the release file\n$/.exec(Buffer.from(content.subarray(0, 200)).toString("utf8"))?.[1];
}

/** Puts a stand-in release into the artifact store, and answers its keys. */
export function seedRelease(s3: Pick<S3, "put">, bucket: string, release: StandInRelease): readonly string[] {
  return [...standInFiles(release)].map(([name, content]) => {
    const key = artifactKeys.file(release.version, release.architecture, name);
    s3.put(bucket, key, content);
    return key;
  });
}

/** A release for both architectures and with every image set that it has. */
export function seedWholeRelease(s3: Pick<S3, "put">, bucket: string, version: string): void {
  for (const architecture of ["amd64", "arm64"] as const) {
    seedRelease(s3, bucket, { version, architecture, imageSets: ["", ...knownImageSets(version, architecture)] });
  }
}
