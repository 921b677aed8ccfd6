/**
 * Which files of an RKE2 release a node needs, and what the release's own checksum file says of them.
 *
 * Names and sets are upstream's (rke2 release assets; rke2-docs, air-gapped installation). Image archives are taken as `.tar.zst`: the smaller
 * form, which RKE2 reads directly.
 */
import type { Architecture, ClusterFile } from "./cluster-file.js";
import { type Fault, Invalid } from "./failures.js";
import { parseVersion } from "./versions.js";

export interface ArchiveNeeds {
  readonly version: string;
  readonly architecture: Architecture;
  readonly cni: ClusterFile["spec"]["network"]["cni"];
  readonly multus: boolean;
  readonly ingress: ClusterFile["spec"]["rke2"]["ingress"];
  /** Images come from archives. When false nodes pull them, and only the bundle is needed. */
  readonly airGap: boolean;
  /** Further image sets by name, such as `harvester`. */
  readonly imageSets: readonly string[];
}

/** File names, as in the release. */
export interface NeededArchives {
  readonly bundle: string;
  readonly checksums: string;
  readonly images: readonly string[];
}

/** The first minor whose default ingress is Traefik, in the core set; until then ingress-nginx is in it (RKE2 v1.36 upgrade notice). */
export const firstTraefikMinor = 36;

export function archivesNeeded(needs: ArchiveNeeds): NeededArchives {
  const { architecture } = needs;
  return {
    bundle: `rke2.linux-${architecture}.tar.gz`,
    checksums: `sha256sum-${architecture}.txt`,
    images: imageSetsNeeded(needs).map((set) => imageArchive(set, architecture)),
  };
}

/** The same for a cluster as its file describes it. */
export function archivesOfCluster(file: ClusterFile, version: string): NeededArchives {
  const { network, rke2, airGap, image } = file.spec;
  return archivesNeeded({
    version,
    architecture: image.architecture,
    cni: network.cni,
    multus: network.multus,
    ingress: rke2.ingress,
    airGap: airGap.enabled,
    imageSets: airGap.imageSets,
  });
}

/** File name of an image set; the empty name is upstream's combined archive of core and Canal. */
export function imageArchive(set: string, architecture: Architecture): string {
  return `rke2-images${set === "" ? "" : `-${set}`}.linux-${architecture}.tar.zst`;
}

/** Canal comes with the core in one archive; every other CNI has its own beside the bare core. Each set once. */
function imageSetsNeeded({ version, cni, multus, ingress, airGap, imageSets }: ArchiveNeeds): string[] {
  if (!airGap) return [];
  const sets = cni === "canal" ? [""] : cni === "none" ? ["core"] : ["core", cni];
  if (multus) sets.push("multus");
  const separateIngress = separateIngressSet(version);
  if (ingress === separateIngress) sets.push(separateIngress);
  // The combined archive holds core and Canal: asking for either besides it would only import the same images twice.
  const wanted = imageSets.filter((set) => !(sets[0] === "" && (set === "core" || set === "canal")));
  return [...new Set([...sets, ...wanted])];
}

/** The ingress controller whose images are not in the core set of this version. */
function separateIngressSet(version: string): "traefik" | "ingress-nginx" {
  const minor = parseVersion(version)?.minor ?? firstTraefikMinor;
  return minor < firstTraefikMinor ? "traefik" : "ingress-nginx";
}

/** Image sets that a release of this version has, by name. `vsphere` exists for amd64 alone. */
export function knownImageSets(version: string, architecture: Architecture = "amd64"): string[] {
  const sets = ["core", "canal", "calico", "cilium", "flannel", "multus", separateIngressSet(version), "harvester"];
  return architecture === "amd64" ? [...sets, "vsphere"] : sets;
}

/** What is needed and not there, by file name, in the order in which a person should fetch it. */
export function missingArchives(needed: NeededArchives, present: readonly string[]): string[] {
  const there = new Set(present);
  return [needed.checksums, needed.bundle, ...needed.images].filter((file) => !there.has(file));
}

/**
 * Reads a release's checksum file, as `sha256sum` writes it. Strict, because this text decides what runs as root on every node: one line that is
 * not understood refuses the whole file.
 *
 * @returns SHA-256 in lower-case hexadecimal by file name
 * @throws Invalid naming every bad line
 */
export function parseChecksums(text: string): Map<string, string> {
  const checksums = new Map<string, string>();
  const faults: Fault[] = [];
  const refuse = (line: number, message: string) => faults.push({ path: `line ${line}`, message, severity: "error" });

  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  for (const [index, line] of lines.entries()) {
    const match = /^([0-9a-f]{64}) [ *]([A-Za-z0-9._-]{1,128})$/.exec(line);
    const [, sha256, file] = match ?? [];
    if (sha256 === undefined || file === undefined) {
      refuse(index + 1, `must be a SHA-256 in 64 lower-case hexadecimal digits, two spaces and a file name; found ${quoted(line)}`);
      continue;
    }
    const earlier = checksums.get(file);
    if (earlier !== undefined && earlier !== sha256) refuse(index + 1, `gives ${file} another checksum than a line before`);
    checksums.set(file, sha256);
  }
  if (lines.length === 0) faults.push({ path: "", message: "it is empty", severity: "error" });
  if (faults.length > 0) throw new Invalid("This is no checksum file of an RKE2 release", faults, "Download the release's sha256sum file again");
  return checksums;
}

function quoted(line: string): string {
  return JSON.stringify(line.length > 80 ? `${line.slice(0, 77)}...` : line);
}
