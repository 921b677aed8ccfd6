import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ArchiveNeeds, archivesNeeded, archivesOfCluster, knownImageSets, missingArchives, parseChecksums } from "../../core/archives.js";
import { Invalid } from "../../core/failures.js";
import { clusterFile } from "./sample.js";

const base: ArchiveNeeds = {
  version: "v1.35.7+rke2r1",
  architecture: "amd64",
  cni: "canal",
  multus: false,
  ingress: "default",
  airGap: true,
  imageSets: [],
};

/** Image sets by name, the combined archive as `""`. */
function sets(change: Partial<ArchiveNeeds>): string[] {
  const needs = { ...base, ...change };
  return archivesNeeded(needs).images.map((file) => {
    const [, set] = new RegExp(`^rke2-images(?:-([a-z-]+))?\\.linux-${needs.architecture}\\.tar\\.zst$`).exec(file) ?? [file, `?${file}`];
    return set ?? "";
  });
}

describe("the archives of a release that a node needs", () => {
  it("are the bundle, the checksum file and the images, by upstream's names", () => {
    expect(archivesNeeded({ ...base, architecture: "arm64" })).toEqual({
      bundle: "rke2.linux-arm64.tar.gz",
      checksums: "sha256sum-arm64.txt",
      images: ["rke2-images.linux-arm64.tar.zst"],
    });
  });

  it.each<[string, Partial<ArchiveNeeds>, string[]]>([
    ["Canal comes with the core in one archive", {}, [""]],
    ["Calico comes beside the bare core", { cni: "calico" }, ["core", "calico"]],
    ["Cilium comes beside the bare core", { cni: "cilium" }, ["core", "cilium"]],
    ["Flannel comes beside the bare core", { cni: "flannel" }, ["core", "flannel"]],
    ["no CNI leaves the bare core", { cni: "none" }, ["core"]],
    ["Multus adds its own", { multus: true }, ["", "multus"]],
    ["ingress-nginx is in the core up to v1.35", { ingress: "ingress-nginx" }, [""]],
    ["Traefik is extra up to v1.35", { ingress: "traefik" }, ["", "traefik"]],
    ["Traefik is in the core from v1.36 on", { version: "v1.36.3+rke2r1", ingress: "traefik" }, [""]],
    ["ingress-nginx is extra from v1.36 on", { version: "v1.36.3+rke2r1", ingress: "ingress-nginx" }, ["", "ingress-nginx"]],
    ["no ingress controller needs none", { version: "v1.36.3+rke2r1", ingress: "none" }, [""]],
    [
      "further sets are added once",
      { cni: "calico", multus: true, imageSets: ["harvester", "multus", "core"] },
      ["core", "calico", "multus", "harvester"],
    ],
    ["the combined archive is not doubled by its parts", { imageSets: ["canal", "core", "vsphere"] }, ["", "vsphere"]],
    ["nothing is needed when images are pulled", { airGap: false, cni: "calico", multus: true, imageSets: ["harvester"] }, []],
  ])("%s", (_, change, wanted) => {
    expect(sets(change)).toEqual(wanted);
  });

  it("follow from the cluster file", () => {
    const file = clusterFile({
      "spec.network.cni": "cilium",
      "spec.network.multus": true,
      "spec.image.architecture": "arm64",
      "spec.rke2.ingress": "traefik",
      "spec.airGap.imageSets": ["harvester"],
      "spec.servers.instanceTypes": ["m7g.large"],
    });
    expect(archivesOfCluster(file, "v1.35.7+rke2r1")).toEqual(
      archivesNeeded({ ...base, architecture: "arm64", cni: "cilium", multus: true, ingress: "traefik", imageSets: ["harvester"] }),
    );
  });

  it("are all of sets that the version has", () => {
    const any = fc.record({
      version: fc.constantFrom("v1.33.1+rke2r1", "v1.35.7+rke2r1", "v1.36.0+rke2r1"),
      architecture: fc.constantFrom("amd64" as const, "arm64" as const),
      cni: fc.constantFrom("canal" as const, "calico" as const, "cilium" as const, "flannel" as const, "none" as const),
      multus: fc.boolean(),
      ingress: fc.constantFrom("default" as const, "traefik" as const, "ingress-nginx" as const, "none" as const),
    });
    fc.assert(
      fc.property(any, (needs) => {
        const found = sets(needs);
        expect(found.filter((set) => set !== "" && !knownImageSets(needs.version, needs.architecture).includes(set))).toEqual([]);
        // Every node needs the core, exactly once.
        expect(found.filter((set) => set === "" || set === "core")).toHaveLength(1);
        expect(new Set(found).size).toBe(found.length);
      }),
      { seed: 31 },
    );
  });

  it("are missing where the store has them not, the checksum file first", () => {
    const needed = archivesNeeded({ ...base, cni: "calico" });
    expect(missingArchives(needed, ["rke2-images-core.linux-amd64.tar.zst", "other"])).toEqual([
      "sha256sum-amd64.txt",
      "rke2.linux-amd64.tar.gz",
      "rke2-images-calico.linux-amd64.tar.zst",
    ]);
    expect(missingArchives(needed, [needed.bundle, needed.checksums, ...needed.images])).toEqual([]);
  });

  it("have vsphere for amd64 alone", () => {
    expect(knownImageSets("v1.36.3+rke2r1", "amd64")).toContain("vsphere");
    expect(knownImageSets("v1.36.3+rke2r1", "arm64")).not.toContain("vsphere");
  });
});

describe("a release's checksum file", () => {
  const [a, b] = ["a".repeat(64), "0123456789abcdef".repeat(4)];

  it("gives the SHA-256 of each file", () => {
    expect([...parseChecksums(`${a}  rke2.linux-amd64.tar.gz\n${b} *rke2-images.linux-amd64.tar.zst\n`)]).toEqual([
      ["rke2.linux-amd64.tar.gz", a],
      ["rke2-images.linux-amd64.tar.zst", b],
    ]);
  });

  it("need not end in a new line, and may repeat itself", () => {
    expect(parseChecksums(`${a}  x\n${a}  x`).size).toBe(1);
  });

  it.each([
    ["it is empty", "", /it is empty/],
    ["a checksum is short", `${a.slice(1)}  x\n`, /line 1: must be a SHA-256/],
    ["a checksum is in capitals", `${a.toUpperCase()}  x\n`, /line 1/],
    ["a line is blank", `${a}  x\n\n${a}  y\n`, /line 2: .*; found ""/],
    ["a file is in a folder", `${a}  ../x\n`, /line 1/],
    ["a line ends as on Windows", `${a}  x\r\n`, /line 1/],
    ["a file has two checksums", `${a}  x\n${b}  x\n`, /line 2: gives x another checksum than a line before/],
    ["it is a web page", "<html>\nnot found\n", /line 1: .*; line 2: /],
  ])("is refused as a whole when %s", (_, text, message) => {
    expect(() => parseChecksums(text)).toThrow(Invalid);
    expect(() => parseChecksums(text)).toThrow(message);
  });

  it("is read back as it was written", () => {
    const sha256 = fc.stringMatching(/^[0-9a-f]{64}$/);
    const file = fc.stringMatching(/^[A-Za-z0-9._-]{1,40}$/);
    fc.assert(
      fc.property(fc.uniqueArray(fc.tuple(file, sha256), { selector: ([name]) => name, minLength: 1, maxLength: 10 }), (entries) => {
        const text = entries.map(([name, sum]) => `${sum}  ${name}\n`).join("");
        expect([...parseChecksums(text)]).toEqual(entries);
      }),
      { seed: 32 },
    );
  });
});
