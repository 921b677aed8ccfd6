import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { asText } from "../core/sample.js";
import { personKeys, release, Stage, withRelease, world } from "./stage.js";

const file = (text: string | Uint8Array) => {
  const stage = new Stage();
  writeFileSync(join(stage.directory, "cluster.yaml"), text);
  return stage;
};

describe("validate", () => {
  it("says that a good file is valid, and how to check more", async () => {
    expect(await file(asText()).drover("validate", "cluster.yaml")).toEqual({
      code: 0,
      out: "cluster.yaml: no faults, cluster prod is valid\n",
      err: "Checked by itself; against the artifact store and the account: drover validate cluster.yaml --online\n",
    });
  });
  it("reads standard input", async () => {
    const stage = new Stage();
    stage.input = Buffer.from(asText());
    expect(await stage.drover("validate", "-")).toMatchObject({ code: 0, out: "standard input: no faults, cluster prod is valid\n" });
  });
  it("takes JSON as well as YAML", async () => {
    expect(await file(JSON.stringify({ kind: "Cluster" })).drover("validate", "cluster.yaml")).toMatchObject({ code: 2 });
  });
  it("says every fault at once, each with its place, and ends with 2", async () => {
    const spoilt = asText({
      "spec.servers.count": 4,
      "spec.rke2": { config: { "node-lable": ["a=b"] } },
      "spec.network.clusterCidr": "10.43.0.0/16",
    });
    const { code, out } = await file(spoilt).drover("validate", "cluster.yaml");
    expect(code).toBe(2);
    expect(out.split("\n")[0]).toBe("cluster.yaml: 3 errors");
    expect(out).toContain("error    spec.servers.count: ");
    expect(out).toContain("must be 1, 3, 5 or 7");
    expect(out).toMatch(/error {4}spec\.rke2\.config\.node-lable: .*node-label/);
    expect(out).toMatch(/error {4}spec\.network\.\w+Cidr: .*overlap/);
    expect(out.match(/line \d+/g)?.length).toBe(3);
  });
  it("counts warnings and lets the file pass", async () => {
    const subnets = ["subnet-0aaa1111bbbb2222c"];
    const { code, out } = await file(asText({ "spec.network.subnetIds": subnets })).drover("validate", "cluster.yaml");
    expect(code).toBe(0);
    expect(out.split("\n")).toEqual([
      "cluster.yaml: 1 warning, cluster prod is valid",
      expect.stringMatching(/^warning {2}spec\.network\.subnetIds: one subnet is one zone: .* \(line \d+\)$/),
      "",
    ]);
  });
  it("answers as data with --json: faults with path, message and severity", async () => {
    const { code, data } = await file(asText({ "spec.servers.count": 2 })).json<{ valid: boolean; faults: object[] }>("validate", "cluster.yaml");
    expect(code).toBe(2);
    expect(data).toMatchObject({ file: "cluster.yaml", valid: false, faults: [{ path: "spec.servers.count", severity: "error" }] });
  });

  const misfit = "\u00ff\u00fe";
  it.each<[what: string, make: (stage: Stage) => void, words: string, what: RegExp, next: RegExp]>([
    ["a file that is not there", () => {}, "gone.yaml", /^There is no file gone\.yaml$/, /^Looked in .*; give another path$/],
    [
      "a misspelt name",
      (s) => writeFileSync(join(s.directory, "prod.yaml"), "a"),
      "prd.yaml",
      /^There is no file prd\.yaml$/,
      /^Did you mean .*prod\.yaml$/,
    ],
    ["a folder that is not there", () => {}, "no/where.yaml", /its folder does not exist$/, /^Looked in .*\/no; give another path$/],
    ["a directory", (s) => mkdirSync(join(s.directory, "d")), "d", /^d is a directory$/, /^Give a cluster file$/],
    [
      "a directory with a cluster file",
      (s) => {
        mkdirSync(join(s.directory, "d"));
        writeFileSync(join(s.directory, "d", "ha.yaml"), "a");
      },
      "d",
      /^d is a directory$/,
      /^Give one file, such as d\/ha\.yaml$/,
    ],
    ["an empty file", (s) => writeFileSync(join(s.directory, "f"), ""), "f", /^f is empty$/, /examples\/ha\.yaml$/],
    [
      "text that is not UTF-8",
      (s) => writeFileSync(join(s.directory, "f"), Buffer.concat([Buffer.from("kïnd: "), Buffer.from([0xe4, 0x0a])])),
      "f",
      /^f is not UTF-8 text: byte 8, in line 1, begins no character$/,
      /^Save it as UTF-8$/,
    ],
    [
      "UTF-16",
      (s) => writeFileSync(join(s.directory, "f"), Buffer.concat([Buffer.from(misfit, "latin1"), Buffer.from("kind", "utf16le")])),
      "f",
      /it looks like UTF-16$/,
      /iconv/,
    ],
    ["a file over the limit", (s) => writeFileSync(join(s.directory, "f"), "#".repeat(200_001)), "f", /larger than .*: 200000 bytes$/, /manifests/],
    ["a link to itself", (s) => symlinkSync("f", join(s.directory, "f")), "f", /a link that leads to itself$/, /./],
  ])("has one clear answer for %s", async (_, make, words, what, next) => {
    const stage = new Stage();
    make(stage);
    const { code, out, err } = await stage.drover("validate", words);
    const [first, second, ...rest] = err.trimEnd().split("\n");
    expect({ code, out, rest }).toEqual({ code: 2, out: "", rest: [] });
    expect(first).toMatch(what);
    expect(second).toMatch(next);
  });
  it("says so when standard input is too long, without reading all of it", async () => {
    const stage = new Stage();
    stage.input = Buffer.alloc(5_000_000, "#");
    expect(await stage.drover("validate", "-")).toMatchObject({ code: 2, err: expect.stringMatching(/^Standard input is larger than/) });
  });
  it("says where YAML is no YAML", async () => {
    const { code, out } = await file("kind: Cluster\n  name: [a\n").drover("validate", "cluster.yaml");
    expect(code).toBe(2);
    expect(out).toMatch(/line \d/);
  });
});

describe("validate --online", () => {
  const account = withRelease(world());
  beforeAll(() => {
    for (const [name, value] of Object.entries(personKeys())) vi.stubEnv(name, value);
  });
  const online = async (spoil: Record<string, unknown>) => {
    const stage = new Stage({ world: account });
    writeFileSync(join(stage.directory, "cluster.yaml"), asText({ "spec.image": { id: "ami-0d4a1b5c6e7f80912" }, ...spoil }));
    return await stage.drover("validate", "cluster.yaml", "--online");
  };
  it("shows what would be done, and does nothing", async () => {
    const { code, out } = await online({});
    expect(code).toBe(0);
    expect(out).toContain(`  - Create RKE2 ${release} cluster prod\n`);
    expect(account.counts.transitions).toBe(0);
  });
  it.each<[what: string, spoil: Record<string, unknown>, fault: RegExp]>([
    ["a version that is not in the store", { "spec.version": "v1.35.6+rke2r1" }, /spec\.version: .*v1\.35\.7\+rke2r1/],
    ["an image of another architecture", { "spec.servers.instanceTypes": ["m6g.xlarge"] }, /spec\.servers\.instanceTypes.*arm64/],
    ["a subnet that does not exist", { "spec.network.subnetIds": ["subnet-0123456789abcdef0"] }, /spec\.network\.subnetIds/],
  ])("refuses %s", async (_, spoil, fault) => {
    const { code, out } = await online(spoil);
    expect(code).toBe(2);
    expect(out).toMatch(fault);
    expect(account.counts.transitions).toBe(0);
  });
});
