/**
 * RKE2 release versions, `v<kubernetes>+rke2r<packaging>`: `v1.35.7+rke2r1`, `v1.36.0-rc2+rke2r1`.
 *
 * Kubernetes' part is ordered as Semantic Versioning orders it; the packaging number decides between releases of one Kubernetes version, which
 * Semantic Versioning leaves unordered (a higher N only repackages).
 */

export interface Version {
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
  /** Dot-separated identifiers such as `["rc2"]`; empty for a release. */
  readonly preRelease: readonly string[];
  /** N of `+rke2rN`. */
  readonly packaging: number;
  /** As written. */
  readonly text: string;
}

/** Kubernetes minors that upstream RKE2 still maintains, by this revision of Drover. */
export const supportedMinors = { oldest: 33, newest: 36 } as const;
/** The oldest minor Drover takes at all: below it secrets-encryption rotation, kubelet drop-ins and archive names differ. */
export const oldestMinor = 30;

const pattern = /^v(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})(?:-([0-9a-z]+(?:\.[0-9a-z]+)*))?\+rke2r([1-9]\d{0,5})$/;

export function parseVersion(text: string): Version | undefined {
  const match = pattern.exec(text);
  if (match === null) return undefined;
  const [, major, minor, patch, preRelease, packaging] = match;
  return {
    major: Number(major),
    minor: Number(minor),
    patch: Number(patch),
    preRelease: preRelease === undefined ? [] : preRelease.split("."),
    packaging: Number(packaging),
    text,
  };
}

/** What to write instead of a text that is no RKE2 version; undefined when it is one. */
export function versionFault(text: string): string | undefined {
  if (parseVersion(text) !== undefined) return undefined;
  if (/\+k3s\d+$/.test(text)) return `is a K3s version; an RKE2 version ends in +rke2rN, such as ${text.replace(/\+k3s\d+$/, "")}+rke2r1`;
  const repaired = repair(text);
  if (repaired !== undefined) return `is no RKE2 version; did you mean ${repaired}`;
  return "is no RKE2 version; write it in full, such as v1.35.7+rke2r1";
}

/** Common slips: no `v`, no `+rke2rN`, or the spelling of image tags, where `+` is `-`. */
function repair(text: string): string | undefined {
  const withV = text.startsWith("v") ? text : `v${text}`;
  return [withV, withV.replace(/-(rke2r\d+)$/, "+$1"), `${withV}+rke2r1`].find((candidate) => parseVersion(candidate) !== undefined);
}

/**
 * Orders two versions, oldest first. Total: texts that are no versions come before all versions and are ordered by code unit,
 * so that a listing with a stray name in it still sorts the same everywhere.
 */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [parseVersion(a), parseVersion(b)];
  if (left === undefined || right === undefined) {
    if (left !== undefined) return 1;
    if (right !== undefined) return -1;
    return a < b ? -1 : a > b ? 1 : 0;
  }
  return (
    left.major - right.major ||
    left.minor - right.minor ||
    left.patch - right.patch ||
    comparePreRelease(left.preRelease, right.preRelease) ||
    left.packaging - right.packaging
  );
}

/**
 * A release is newer than its pre-releases (Semantic Versioning 2.0.0, item 11). Within an identifier runs of digits compare by value, because
 * upstream writes `rc2` and `rc10` without a dot and a person reads them as numbers.
 */
function comparePreRelease(a: readonly string[], b: readonly string[]): number {
  if (a.length === 0 || b.length === 0) return b.length - a.length;
  return compareLists(a, b, (left, right) => compareLists(left.match(runs) ?? [], right.match(runs) ?? [], compareRuns));
}

const runs = /\d+|[a-z]+/g;

function compareRuns(a: string, b: string): number {
  const [leftDigits, rightDigits] = [/^\d/.test(a), /^\d/.test(b)];
  if (leftDigits && rightDigits) return compareDigits(a, b);
  if (leftDigits !== rightDigits) return leftDigits ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Item by item; where one list is the beginning of the other, the shorter comes first. */
function compareLists(a: readonly string[], b: readonly string[], compare: (left: string, right: string) => number): number {
  for (const [index, left] of a.entries()) {
    const right = b[index];
    if (right === undefined) return 1;
    const order = compare(left, right);
    if (order !== 0) return order;
  }
  return a.length - b.length;
}

/** Compares texts of digits of any length by their value; leading zeros decide last, so that equal means the same text. */
function compareDigits(a: string, b: string): number {
  const [left, right] = [a.replace(/^0+(?=\d)/, ""), b.replace(/^0+(?=\d)/, "")];
  if (left.length !== right.length) return left.length - right.length;
  if (left !== right) return left < right ? -1 : 1;
  return a.length - b.length;
}

/** Whether both are versions of one Kubernetes minor: a change between them is a patch. */
export function isSameMinor(a: string, b: string): boolean {
  const [left, right] = [parseVersion(a), parseVersion(b)];
  return left !== undefined && right !== undefined && left.major === right.major && left.minor === right.minor;
}

/** Whether a text names a channel: `stable`, `latest`, or one Kubernetes minor such as `v1.35`. */
export function isChannel(text: string): boolean {
  return text === "stable" || text === "latest" || /^v1\.(0|[1-9]\d{0,5})$/.test(text);
}

/**
 * The newest release of a channel among the versions at hand; undefined when there is none. Pre-releases belong to no channel.
 *
 * - `latest`: the newest release of all.
 * - `v1.35`: the newest release of that minor.
 * - `stable`: the newest release of the second newest minor at hand, as upstream's own stable channel trails the newest line by one minor;
 *   of the only minor when there is but one.
 *
 * Upstream's channel server is not asked: nodes install from the artifact store, so only what is there can be chosen.
 */
export function newestOfChannel(channel: string, versions: readonly string[]): string | undefined {
  const releases = versions
    .map(parseVersion)
    .filter((version): version is Version => version !== undefined && version.preRelease.length === 0)
    .sort((a, b) => compareVersions(b.text, a.text));
  if (channel === "latest") return releases[0]?.text;
  if (channel === "stable") return (releases.find((release) => !isSameMinor(release.text, releases[0]?.text ?? "")) ?? releases[0])?.text;
  return releases.find((release) => `v${release.major}.${release.minor}` === channel)?.text;
}
