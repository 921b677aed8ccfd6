import { createHash } from "node:crypto";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import type { ArtifactRelease } from "../../core/api.js";
import type { S3 } from "../../local/aws/s3.js";
import { standInFiles } from "../../local/aws/stand-in-release.js";
import { personKeys, release, Stage, world } from "./stage.js";

interface Added {
  readonly files: readonly { readonly file: string; readonly status: string }[];
  readonly ignored: readonly { readonly file: string; readonly reason: string }[];
}

const small = { version: release, architecture: "amd64", imageSets: [""] } as const;
let stage: Stage;

beforeAll(() => {
  for (const [name, value] of Object.entries(personKeys())) vi.stubEnv(name, value);
});
beforeEach(() => {
  stage = new Stage({ world: world() });
});

/** A folder as it lies there after a download. */
function download(files: ReadonlyMap<string, Uint8Array> = standInFiles(small), name: string = release): string {
  const path = join(stage.directory, name);
  mkdirSync(path);
  for (const [file, content] of files) writeFileSync(join(path, file), content);
  return path;
}

const asked = () => stage.requests.filter((request) => !request.startsWith("GET"));

describe("artifacts add", () => {
  it("uploads a release, its checksum file first, and says for which CNI it is complete", async () => {
    download();
    const { code, out, err } = await stage.drover("artifacts", "add", release);
    expect({ code, out }).toEqual({
      code: 0,
      out: [
        `${release} is in the store: 3 files uploaded, 0 present before`,
        "  amd64: complete for canal; not for calico, cilium, flannel, none",
        "",
      ].join("\n"),
    });
    expect(err.split("\n").slice(1)).toEqual([
      expect.stringMatching(/^ {2}uploaded {2}sha256sum-amd64\.txt {2}\d+ bytes$/),
      expect.stringMatching(/^ {2}uploaded {2}rke2-images\.linux-amd64\.tar\.zst {2}\d+ bytes$/),
      expect.stringMatching(/^ {2}uploaded {2}rke2\.linux-amd64\.tar\.gz {2}\d+ bytes$/),
      "",
    ]);
  });
  it("puts into the store the very bytes, under the names that nodes ask for", async () => {
    download();
    await stage.drover("artifacts", "add", release);
    const { data } = await stage.json<{ releases: ArtifactRelease[] }>("artifacts", "check", release);
    const sizes = Object.fromEntries([...standInFiles(small)].map(([name, content]) => [name, content.byteLength]));
    expect(Object.fromEntries(data.releases[0]?.files.map(({ file, bytes }) => [file, bytes]) ?? [])).toEqual(sizes);
  });
  it("sends nothing the second time", async () => {
    download();
    await stage.drover("artifacts", "add", release);
    stage.requests.length = 0;
    const { code, data } = await stage.json<Added>("artifacts", "add", release);
    expect(code).toBe(0);
    expect(data.files.map(({ status }) => status)).toEqual(["present", "present", "present"]);
    expect(asked().filter((request) => request.startsWith("PUT"))).toEqual([]);
  });
  it("needs the version where the folder is not named by it", async () => {
    download(undefined, "downloads");
    expect(await stage.drover("artifacts", "add", "downloads")).toMatchObject({
      code: 2,
      err: "The files of a release do not say their version, and neither does the folder's name\nAdd --version, such as --version v1.35.7+rke2r1\n",
    });
    expect(await stage.drover("artifacts", "add", "downloads", "--version", "1.35")).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^--version "1\.35": /),
    });
    expect((await stage.drover("artifacts", "add", "downloads", "--version", release)).code).toBe(0);
  });
  it("reports every bad file at once before anything is uploaded", async () => {
    const files = new Map<string, Uint8Array>(standInFiles({ ...small, imageSets: ["", "core", "cilium"] }));
    const cut = "rke2-images-core.linux-amd64.tar.zst";
    files.set(cut, (files.get(cut) as Uint8Array).subarray(1));
    files.set("rke2-images-cilium.linux-amd64.tar.zst", Buffer.from("another"));
    download(files);
    const { code, err } = await stage.drover("artifacts", "add", release);
    expect(code).toBe(2);
    expect(err).toContain(`${release} is not a whole release: 2 faults; nothing was uploaded\n`);
    expect(err).toMatch(
      /\n {2}rke2-images-cilium\.linux-amd64\.tar\.zst: has SHA-256 [0-9a-f]{64} \(7 bytes\), the release says [0-9a-f]{64}: download it again\n/,
    );
    expect(err).toMatch(/\n {2}rke2-images-core\.linux-amd64\.tar\.zst: has SHA-256 /);
    expect(stage.requests).toEqual([]);
  });
  it("reports files that cannot be checked: unlisted, empty, of another architecture", async () => {
    const files = new Map<string, Uint8Array>(standInFiles(small));
    files.set("rke2-images-harvester.linux-amd64.tar.zst", Buffer.from("x"));
    files.set("rke2.linux-arm64.tar.gz", Buffer.from("x"));
    files.set("rke2.linux-amd64.tar.gz", new Uint8Array());
    download(files);
    const { code, err } = await stage.drover("artifacts", "add", release);
    expect(code).toBe(2);
    expect(err.split("\n").slice(0, 4)).toEqual([
      `${release} is not a whole release: 3 faults; nothing was uploaded`,
      "  rke2-images-harvester.linux-amd64.tar.zst: sha256sum-amd64.txt does not list it: it is of another release, or renamed",
      "  rke2.linux-amd64.tar.gz: is empty: the download did not finish",
      "  rke2.linux-arm64.tar.gz: sha256sum-arm64.txt is not beside it, so it cannot be checked",
    ]);
    expect(stage.requests).toEqual([]);
  });
  it("refuses a checksum file with a line that is none", async () => {
    const files = new Map<string, Uint8Array>(standInFiles(small));
    files.set("sha256sum-amd64.txt", Buffer.from("<html>not found</html>\n"));
    download(files);
    expect(await stage.drover("artifacts", "add", release)).toMatchObject({
      code: 2,
      err: expect.stringMatching(/ {2}sha256sum-amd64\.txt: line 1: must be a SHA-256/),
    });
  });
  it("leaves out what nodes do not need, and says so", async () => {
    download(new Map([...standInFiles(small), ["rke2-images-all.linux-amd64.txt", Buffer.from("list")], ["notes.md", Buffer.from("n")]]));
    const { data } = await stage.json<Added>("artifacts", "add", release);
    expect(data.ignored).toEqual([
      { file: "notes.md", reason: "not among the files that nodes install" },
      { file: "rke2-images-all.linux-amd64.txt", reason: "a list, which nodes do not need" },
    ]);
  });
  it.each([
    ["gone", /^There is no folder gone\n/],
    ["file", /^file is a file\n/],
    ["empty", /^empty holds no checksum file of an RKE2 release \(sha256sum-amd64\.txt or sha256sum-arm64\.txt\): it is empty\n/],
  ])("has one clear answer for a folder that is none: %s", async (name, what) => {
    writeFileSync(join(stage.directory, "file"), "x");
    mkdirSync(join(stage.directory, "empty"));
    expect(await stage.drover("artifacts", "add", name, "--version", release)).toMatchObject({ code: 2, err: expect.stringMatching(what) });
  });
  it("refuses a file that the store holds with other content", async () => {
    download();
    await stage.drover("artifacts", "add", release);
    const other = new Map([["rke2.linux-amd64.tar.gz", Buffer.from("other")]]);
    const sums = [...other].map(([name, content]) => `${createHash("sha256").update(content).digest("hex")}  ${name}\n`).join("");
    download(new Map([...other, ["sha256sum-amd64.txt", Buffer.from(sums)]]), "other");
    expect(await stage.drover("artifacts", "add", "other", "--version", release)).toMatchObject({
      code: 2,
      err: expect.stringMatching(/sha256sum-amd64\.txt of .* is in the store with other content/),
    });
  });
});

describe("an upload of many parts", () => {
  const partBytes = 64 * 1024 * 1024;
  /** Three parts, of which the last is short. */
  const large = Buffer.alloc(2 * partBytes + 5, "z");
  const name = "rke2.linux-amd64.tar.gz";
  const sums = `${createHash("sha256").update(large).digest("hex")}  ${name}\n`;
  const isPart = (url: URL) => url.searchParams.has("partNumber") && url.pathname.endsWith(name);

  it("goes on after it broke: only the parts that are missing are sent again", async () => {
    const folder = download(
      new Map([
        [name, large],
        ["sha256sum-amd64.txt", Buffer.from(sums)],
      ]),
    );
    const sent: string[] = [];
    stage.network = ({ url }) => {
      if (!isPart(url)) return undefined;
      const part = url.searchParams.get("partNumber") as string;
      sent.push(part);
      return part === "2" ? Object.assign(new Error("socket hang up"), { code: "ECONNRESET" }) : undefined;
    };
    const broken = await stage.drover("artifacts", "add", folder, "--version", release);
    expect(broken).toMatchObject({ code: 5, err: expect.stringMatching(/after 5 tries: socket hang up\n/) });
    expect(sent.filter((part) => part === "1")).toEqual(["1"]);
    expect((await stage.json<{ releases: ArtifactRelease[] }>("artifacts", "list")).data.releases[0]?.files.length).toBe(1);

    sent.length = 0;
    stage.network = ({ url }) => {
      if (isPart(url)) sent.push(url.searchParams.get("partNumber") as string);
      return undefined;
    };
    const { code, data } = await stage.json<Added>("artifacts", "add", folder, "--version", release);
    expect(code).toBe(0);
    expect(sent).toEqual(["2"]);
    expect(data.files.map(({ status }) => status)).toEqual(["present", "uploaded"]);
    expect(stage.world.service<S3>("s3")).toBeDefined();
    const { data: found } = await stage.json<{ releases: ArtifactRelease[] }>("artifacts", "check", release);
    expect(found.releases[0]?.files.find(({ file }) => file === name)?.bytes).toBe(large.byteLength);
  });
  it("asks for new addresses when those it has have run out", async () => {
    const folder = download(
      new Map([
        [name, large],
        ["sha256sum-amd64.txt", Buffer.from(sums)],
      ]),
    );
    let expired = 0;
    stage.network = ({ url }) => {
      if (!isPart(url) || expired >= 3) return undefined;
      expired++;
      return { status: 403, headers: {}, body: Buffer.from("<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>") };
    };
    expect((await stage.drover("artifacts", "add", folder, "--version", release)).code).toBe(0);
    expect(stage.requests.filter((request) => request.endsWith(name)).length).toBe(6);
  });
  it("does not put a file into the store that changed while it was sent", async () => {
    const folder = download(
      new Map([
        [name, large],
        ["sha256sum-amd64.txt", Buffer.from(sums)],
      ]),
    );
    stage.network = ({ url }) => {
      if (isPart(url) && url.searchParams.get("partNumber") === "3") writeFileSync(join(folder, name), Buffer.concat([large, Buffer.from("more")]));
      return undefined;
    };
    expect(await stage.drover("artifacts", "add", folder, "--version", release)).toMatchObject({
      code: 2,
      err: expect.stringMatching(new RegExp(`${name} was changed while it was being uploaded`)),
    });
    expect((await stage.json<{ releases: ArtifactRelease[] }>("artifacts", "list")).data.releases[0]?.files.map(({ file }) => file)).toEqual([
      "sha256sum-amd64.txt",
    ]);
    rmSync(folder, { recursive: true });
  });
  it("stops at Ctrl-C and says that the same command goes on", async () => {
    const folder = download(
      new Map([
        [name, large],
        ["sha256sum-amd64.txt", Buffer.from(sums)],
      ]),
    );
    stage.network = ({ url }) => {
      if (!isPart(url)) return undefined;
      stage.interrupt();
      return Object.assign(new Error("aborted"), { code: "ABORT_ERR" });
    };
    const { code, err } = await stage.drover("artifacts", "add", folder, "--version", release);
    expect(code).toBe(130);
    expect(err).toMatch(/Stopped; what was uploaded stays\nStart the same command again, it goes on where it stopped: drover artifacts add /);
  });
});

describe("artifacts list and check", () => {
  it("say that the store is empty, and what to do", async () => {
    expect(await stage.drover("artifacts", "list")).toEqual({
      code: 0,
      out: "",
      err: "The artifact store is empty. Add a release: drover artifacts add DIR\n",
    });
    expect(await stage.drover("artifacts", "check", release)).toMatchObject({
      code: 3,
      err: expect.stringMatching(/^Nothing of v1\.35\.7\+rke2r1 is in the artifact store\n/),
    });
  });
  it("say for each CNI what is missing, and fail where one is asked for that is incomplete", async () => {
    download();
    await stage.drover("artifacts", "add", release);
    expect((await stage.drover("artifacts", "list")).out).toMatch(
      /^VERSION {9}ARCHITECTURE {2}FILES {2}SIZE +COMPLETE FOR\nv1\.35\.7\+rke2r1 {2}amd64 {9}3 {6}.* canal\n$/,
    );
    const { code, out } = await stage.drover("artifacts", "check", release);
    expect(code).toBe(0);
    expect(out.split("\n").slice(1, 4)).toEqual([
      "  canal     complete",
      "  calico    missing   rke2-images-core.linux-amd64.tar.zst, rke2-images-calico.linux-amd64.tar.zst",
      "  cilium    missing   rke2-images-core.linux-amd64.tar.zst, rke2-images-cilium.linux-amd64.tar.zst",
    ]);
    expect((await stage.drover("artifacts", "check", release, "--cni", "canal")).code).toBe(0);
    expect(await stage.drover("artifacts", "check", release, "--cni", "cilium")).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^Incomplete for cilium: rke2-images-core\.linux-amd64\.tar\.zst, rke2-images-cilium/),
    });
    expect((await stage.json("artifacts", "check", release, "--cni", "cilium")).data).toMatchObject({ cni: "cilium", complete: false });
  });
  it.each([
    [["v1"], 2, /^"v1" is no RKE2 version\n/],
    [[release, "--cni", "weave"], 2, /^"weave" is no CNI\nGive one of canal, calico, cilium, flannel, none\n/],
    [[release, "--architecture", "arm64"], 3, /^Nothing of v1\.35\.7\+rke2r1 for arm64 is in the artifact store\n/],
    [[release, "--architecture", "s390x"], 2, /Allowed choices are amd64, arm64/],
  ] as const)("have one clear answer for %j", async (words, code, what) => {
    download();
    await stage.drover("artifacts", "add", release);
    expect(await stage.drover("artifacts", "check", ...words)).toMatchObject({ code, err: expect.stringMatching(what) });
  });
});
