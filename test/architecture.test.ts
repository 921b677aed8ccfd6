import { existsSync, readdirSync, readFileSync } from "node:fs";
import { isBuiltin } from "node:module";
import { dirname, join, relative } from "node:path";
import { describe, expect, it } from "vitest";

const root = join(import.meta.dirname, "..");
const folders = ["core", "functions", "nodes", "cdk", "cli", "local", "bench", "test"] as const;

interface Import {
  /** Path of the importing file in the repository. */
  readonly from: string;
  /** Path in the repository without extension, the name of a package, or a builtin with `node:`. */
  readonly to: string;
  readonly own: boolean;
  /** `await import(...)`: loaded when it is reached. */
  readonly lazy: boolean;
}

const files = folders
  .filter((folder) => existsSync(join(root, folder)))
  .flatMap((folder) => readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((file) => `${folder}/${file}`))
  .concat(readdirSync(root))
  .filter((file) => file.endsWith(".ts"))
  .sort();
const sources = new Map(files.map((file) => [file, readFileSync(join(root, file), "utf8")]));
const imports = files.flatMap((file) => importsOf(file, sources.get(file) as string));
const importsFrom = (folder: string) => imports.filter(({ from }) => from.startsWith(`${folder}/`));
const told = (found: readonly Import[]) => found.map(({ from, to }) => `${from} imports ${to}`);

/** Static, re-exporting, type-only and dynamic imports, and the types of `import("...")`. */
function importsOf(from: string, source: string): Import[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
  const statement = /^\s*(?:import\s+(?:[^;"'`]*?\sfrom\s+)?|export\s+(?:type\s+)?[{*][^;"'`]*?\sfrom\s+)["']([^"']+)["']/gm;
  const statics = [...code.matchAll(statement)].map((match) => ({ target: match[1] as string, lazy: false }));
  const dynamics = [...code.matchAll(/\b(?:import|require)\(\s*["']([^"']+)["']/g)].map((match) => ({ target: match[1] as string, lazy: true }));
  return [...statics, ...dynamics].map(({ target, lazy }) => {
    const own = target.startsWith(".");
    const to = own
      ? relative(root, join(root, dirname(from), target)).replace(/\.(js|ts)$/, "")
      : isBuiltin(target)
        ? `node:${target.replace(/^node:/, "")}`
        : target;
    return { from, to, own, lazy };
  });
}

/** Imports of a folder that lead to folders it may not know. */
function astray(folder: string, allowed: readonly string[]): string[] {
  return told(importsFrom(folder).filter(({ own, to }) => own && !allowed.some((target) => to.startsWith(`${target}/`))));
}

describe("arrows point left: core <- functions <- statemachines <- cdk", () => {
  it("are read from every source", () => {
    expect(imports).toContainEqual({ from: "core/records.ts", to: "core/cluster-file", own: true, lazy: false });
    expect(imports).toContainEqual({ from: "cdk/app.ts", to: "cdk/drover-stack", own: true, lazy: true });
    expect(imports).toContainEqual({ from: "core/layout.ts", to: "node:crypto", own: false, lazy: false });
    expect(importsOf("cli/a.ts", 'import type {\n  A,\n} from "../local/a.js";\nexport * from "./b.js";\nimport "zod";').map(({ to }) => to)).toEqual(
      ["local/a", "cli/b", "zod"],
    );
  });
  it("core knows core", () => expect(astray("core", ["core"])).toEqual([]));
  it("functions know core", () => expect(astray("functions", ["functions", "core"])).toEqual([]));
  it("nodes know core", () => expect(astray("nodes", ["nodes", "core"])).toEqual([]));
  it("the deployment knows core and nodes, and reads the rest as files", () => expect(astray("cdk", ["cdk", "core", "nodes"])).toEqual([]));
  it("the command line knows core, and the local cloud only when it is asked for", () => {
    expect(astray("cli", ["cli", "core", "local"])).toEqual([]);
    expect(told(importsFrom("cli").filter(({ from, to, lazy }) => to.startsWith("local/") && !(lazy && from === "cli/local.ts")))).toEqual([]);
  });
  it("nothing that is deployed knows the local cloud", () => {
    const users = imports.filter(({ own, to }) => own && to.startsWith("local/")).map(({ from }) => from.split("/")[0]);
    expect([...new Set(users)].filter((user) => !["local", "bench", "test", "cli"].includes(user as string))).toEqual([]);
  });
  it("state machines are data", () => {
    expect(readdirSync(join(root, "statemachines")).filter((file) => !file.endsWith(".asl.json"))).toEqual([]);
  });
});

describe("core is pure", () => {
  const core = files.filter((file) => file.startsWith("core/"));

  it("uses of Node only what computes: hashes, certificates, the form of addresses", () => {
    const pure = ["node:crypto createHash", "node:crypto createHmac", "node:crypto X509Certificate", "node:net isIP", "node:net isIPv4"];
    const used = core.flatMap((file) =>
      [...(sources.get(file) as string).matchAll(/^import (.+) from "(node:[^"]+)"/gm)].flatMap(([, names, module]) =>
        (names as string)
          .replace(/[{}]/g, "")
          .split(",")
          .map((name) => `${file}: ${module} ${name.trim()}`),
      ),
    );
    expect(used.filter((use) => !pure.includes(use.replace(/^.*?: /, "")))).toEqual([]);
    expect(new Set(used.map((use) => use.split(" ").slice(0, 2).join(" "))).size).toBe(
      importsFrom("core").filter(({ to }) => to.startsWith("node:")).length,
    );
  });
  it("knows no SDK and no logger", () => {
    expect(told(importsFrom("core").filter(({ to }) => /^@aws|^@smithy|^aws-|powertools/.test(to)))).toEqual([]);
  });
  it.each([
    ["the clock", /\bDate\.now\(|\bnew Date\(\s*\)|\bperformance\.now\(/],
    ["randomness", /\bMath\.random\(|\brandomUUID\b|\brandomBytes\b|\bgetRandomValues\b/],
    ["the environment", /\bprocess\.|\bglobalThis\./],
    ["timers", /\bset(Timeout|Interval|Immediate)\(/],
    ["output", /\bconsole\./],
  ])("reads or writes nothing of %s", (_, forbidden) => {
    expect(core.filter((file) => forbidden.test(sources.get(file) as string))).toEqual([]);
  });
});

describe("functions are thin", () => {
  const handlers = files.filter((file) => file.startsWith("functions/") && !file.startsWith("functions/aws/"));

  it("touch AWS only through functions/aws", () => {
    const direct = importsFrom("functions").filter(
      ({ from, to }) => !from.startsWith("functions/aws/") && /^@aws-sdk\/|^@smithy\/|^aws-sdk/.test(to),
    );
    expect(told(direct)).toEqual([]);
  });
  it("read the environment in one place", () => {
    expect(handlers.filter((file) => /\bprocess\.env\b/.test(sources.get(file) as string))).toEqual(["functions/lambda.ts"]);
    expect(files.filter((file) => file.startsWith("functions/aws/") && /\bprocess\./.test(sources.get(file) as string))).toEqual([]);
  });
  it("never sleep", () => {
    expect(files.filter((file) => file.startsWith("functions/") && /\bset(Timeout|Interval)\(/.test(sources.get(file) as string))).toEqual([]);
  });
});

describe("names say what is inside", () => {
  it("never utils, helpers, managers or common", () => {
    expect(files.filter((file) => /(^|[/-])(utils?|helpers?|manager|common|misc)([.-]|\/)/.test(file))).toEqual([]);
  });
});
