import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import type { Command } from "commander";
import { describe, expect, it } from "vitest";
import { buildProgram } from "../../cli/program.js";
import type { Surroundings } from "../../cli/surroundings.js";
import { routes } from "../../core/api.js";
import { cardFailures } from "../../core/failure-card.js";
import { nodeCommands, nodeFailureCodes } from "../../core/node-commands.js";

const root = join(import.meta.dirname, "../..");
const read = (path: string) => readFileSync(join(root, path), "utf8");

/** Folders that are made, not written. */
const made = new Set(["node_modules", "cdk.out", "coverage", ".git", ".drover"]);

function filesBelow(folder: string, suffix: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return made.has(entry.name) ? [] : filesBelow(path, suffix);
    return entry.name.endsWith(suffix) ? [path] : [];
  });
}

interface Page {
  readonly path: string;
  /** Without what is quoted: fenced blocks and code between backticks. */
  readonly prose: string;
  readonly text: string;
  readonly headings: readonly string[];
  readonly anchors: ReadonlySet<string>;
}

function readPage(path: string): Page {
  const text = read(path);
  const unfenced = text.replace(/^( *)(```+|~~~+)[^\n]*\n[\s\S]*?^\1\2[ \t]*$/gm, "");
  const headings = [...unfenced.matchAll(/^#{1,6} (.+)$/gm)].map((match) => (match[1] as string).trim());
  return { path, text, headings, anchors: anchorsOf(headings), prose: unfenced.replace(/`[^`\n]*`/g, "") };
}

/** As GitHub makes them: lower case, punctuation out, blanks to hyphens, and a number behind one that was there before. */
function anchorsOf(headings: readonly string[]): Set<string> {
  const seen = new Map<string, number>();
  return new Set(
    headings.map((heading) => {
      const plain = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1");
      const anchor = plain
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\p{M}_\- ]/gu, "")
        .replaceAll(" ", "-");
      const times = seen.get(anchor) ?? 0;
      seen.set(anchor, times + 1);
      return times === 0 ? anchor : `${anchor}-${times}`;
    }),
  );
}

const pages = filesBelow(".", ".md").map(readPage);
const page = (path: string) => {
  const found = pages.find((candidate) => candidate.path === path);
  if (found === undefined) throw new Error(`there is no page ${path}`);
  return found;
};
const scripts = Object.keys((JSON.parse(read("package.json")) as { scripts: Record<string, string> }).scripts);

/** What is wrong with the relative links of a page, one line each. */
function brokenLinks(from: Page): string[] {
  const targets = [...from.prose.matchAll(/\]\(([^()\s]+)(?:\s+"[^"]*")?\)|^\[[^\]]+\]:\s*(\S+)/gm)].map((match) => match[1] ?? (match[2] as string));
  return targets
    .filter((target) => !/^[a-z][a-z+.-]*:/i.test(target))
    .flatMap((target) => {
      const [file = "", anchor] = target.split("#");
      const path = file === "" ? from.path : relative(".", join(dirname(from.path), decodeURIComponent(file)));
      if (path.startsWith("..") || !existsSync(join(root, path))) return [`${from.path}: ${target} leads nowhere`];
      if (anchor === undefined || !path.endsWith(".md")) return [];
      return readPage(path).anchors.has(anchor) ? [] : [`${from.path}: ${path} has no heading for #${anchor}`];
    });
}

describe("links", () => {
  it("are read from every page, code left out", () => {
    expect(pages.map(({ path }) => path)).toEqual(
      expect.arrayContaining(["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/runbook.md", "local/README.md"]),
    );
    const wrong = { ...page("README.md"), prose: "[a](docs/absent.md) [b](docs/runbook.md#absent) [c](docs/runbook.md#notyet) [d](https://x.y/z)" };
    expect(brokenLinks(wrong)).toEqual(["README.md: docs/absent.md leads nowhere", "README.md: docs/runbook.md has no heading for #absent"]);
    expect([...anchorsOf(["`a` B, c!", "Not yet", "Not yet"])]).toEqual(["a-b-c", "not-yet", "not-yet-1"]);
  });
  it.each(pages.map(({ path }) => path))("of %s lead to files and headings that exist", (path) => {
    expect(brokenLinks(page(path))).toEqual([]);
  });
  it("every page of docs can be reached from the README", () => {
    const reached = new Set<string>();
    const visit = (path: string): void => {
      if (reached.has(path)) return;
      reached.add(path);
      for (const [, target = ""] of page(path).prose.matchAll(/\]\(([^()\s#:]+)(?:#[^()\s]*)?\)/g)) {
        const found = relative(".", join(dirname(path), target));
        // A folder shows its pages.
        for (const each of pages) if (each.path === found || dirname(each.path) === found) visit(each.path);
      }
    };
    visit("README.md");
    expect(pages.map(({ path }) => path).filter((path) => !reached.has(path))).toEqual([]);
  });
});

describe("the README", () => {
  const { text } = page("README.md");
  const named = new Set([...text.matchAll(/\bnpm (?:run(?: --silent)? )?([a-z][a-z:-]*)/g)].map((match) => match[1] as string));
  const builtIn = ["ci", "run"];

  it("names every npm script", () => expect(scripts.filter((script) => !named.has(script))).toEqual([]));
  it("names no script that does not exist", () => {
    expect([...named].filter((name) => !scripts.includes(name) && !builtIn.includes(name))).toEqual([]);
  });
  it("says plainly that nothing was run against AWS", () => expect(text).toMatch(/local cloud only, never against AWS/));
  it("leads to example files that exist", () => {
    const examples = pages.flatMap((each) => [...each.text.matchAll(/\bexamples\/[a-z0-9-]+\.yaml/g)].map((match) => match[0]));
    expect(examples.length).toBeGreaterThan(0);
    expect(examples.filter((file) => !existsSync(join(root, file)))).toEqual([]);
  });
});

describe("npm scripts on other pages", () => {
  it.each(pages.map(({ path }) => path))("of %s exist", (path) => {
    const named = [...page(path).text.matchAll(/\bnpm run (?:--silent )?([a-z][a-z:-]*)/g)].map((match) => match[1] as string);
    expect(named.filter((name) => !scripts.includes(name))).toEqual([]);
  });
});

describe("the runbook", () => {
  const runbook = page("docs/runbook.md");
  const states = readdirSync(join(root, "statemachines")).flatMap((file) => failStates(JSON.parse(read(`statemachines/${file}`)) as Machine));
  const alarms = alarmNames();

  interface Machine {
    readonly States: Readonly<Record<string, { readonly Type: string; readonly Branches?: readonly Machine[]; readonly ItemProcessor?: Machine }>>;
  }
  function failStates(machine: Machine): string[] {
    return Object.entries(machine.States).flatMap(([name, state]) => [
      ...(state.Type === "Fail" ? [name] : []),
      ...(state.Branches ?? []).flatMap(failStates),
      ...(state.ItemProcessor === undefined ? [] : failStates(state.ItemProcessor)),
    ]);
  }
  /** As they are deployed: CDK puts a hash behind the name it was given. */
  function alarmNames(): string[] {
    const { Resources } = JSON.parse(read("cdk.out/Drover.template.json")) as { Resources: Record<string, { Type: string }> };
    const ids = Object.entries(Resources).flatMap(([id, { Type }]) => (Type === "AWS::CloudWatch::Alarm" ? [id] : []));
    return ids.map((id) => id.replace(/[0-9A-F]{8}$/, ""));
  }

  it("knows where names come from", () => {
    expect(states).toEqual(expect.arrayContaining(["Cluster not created", "Cluster not deleted"]));
    expect(alarms).toEqual(expect.arrayContaining(["CreateClusterFailed", "DeadLettersWaiting"]));
  });
  it.each(cardFailures.map((name) => [name]))("has a heading for the failure %s", (name) => expect(runbook.headings).toContain(name));
  it.each(nodeFailureCodes.map((code) => [code]))("has a heading for the node failure %s", (code) => expect(runbook.headings).toContain(code));
  it.each(states.map((state) => [state]))("has a heading for the end %s", (state) => expect(runbook.headings).toContain(state));
  it.each(alarms.map((alarm) => [alarm]))("has a heading for the alarm %s", (alarm) => expect(runbook.headings).toContain(alarm));

  it("gives each name one heading, so that a card's anchor leads to the right one", () => {
    const names = [...cardFailures, ...nodeFailureCodes, ...states, ...alarms];
    expect(names.filter((name) => runbook.headings.filter((heading) => heading.toLowerCase() === name.toLowerCase()).length !== 1)).toEqual([]);
    // What core/failure-card.ts writes on a card.
    expect([...cardFailures, ...nodeFailureCodes].filter((name) => !runbook.anchors.has(name.toLowerCase()))).toEqual([]);
  });
  it("speaks of no name that is gone", () => {
    const names = new Set<string>([...cardFailures, ...nodeFailureCodes, ...states, ...alarms]);
    const headings = [...runbook.text.matchAll(/^### (.+)$/gm)].map((match) => match[1] as string);
    expect(headings.filter((heading) => !names.has(heading))).toEqual([]);
  });
  it("answers the same five questions under each", () => {
    const sections = runbook.text.split(/^### /m).slice(1);
    const questions = ["Means", "Done, and not done", "Look", "Type", "Safe to start again"];
    const silent = sections.flatMap((section) =>
      questions.filter((question) => !section.includes(`- **${question}** `)).map((question) => `${section.split("\n")[0]}: ${question}`),
    );
    expect(silent).toEqual([]);
    expect(sections.length).toBe(new Set([...cardFailures, ...nodeFailureCodes, ...states, ...alarms]).size);
  });
});

describe("commands on pages and on failure cards", () => {
  // Built and never run, so that it sees nothing of this machine.
  const program = buildProgram({} as Surroundings, () => undefined);

  /** What is wrong with a command line that begins with `drover`, or nothing. Placeholders such as NAME are arguments. */
  function fault(line: string): string | undefined {
    const words = line.split("#")[0]?.trim().split(/\s+/).slice(1) ?? [];
    let command: Command = program;
    for (const word of words) {
      const next = command.commands.find((candidate) => candidate.name() === word);
      if (next === undefined) break;
      command = next;
    }
    const [first = ""] = words;
    if (command === program && !first.startsWith("-") && first !== first.toUpperCase()) return `${line}: there is no command ${first}`;
    const isGroup = command.commands.length > 0 && command !== program;
    if (isGroup && words.length > 1 && !(words[1] as string).startsWith("-")) return `${line}: ${command.name()} has no command ${words[1]}`;
    const known = new Set(["--help", "--version", ...command.options.map((option) => option.long)]);
    const unknown = words.filter((word) => word.startsWith("--") && word !== "--" && !known.has(word));
    return unknown.length === 0 ? undefined : `${line}: ${command.name()} has no ${unknown.join(", ")}`;
  }
  /** In shell blocks, and between backticks in prose. */
  function commandLines({ text }: Page): string[] {
    const blocks = [...text.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].flatMap(([, block = ""]) => block.split("\n"));
    const quoted = [...text.matchAll(/`([^`\n]+)`/g)].map((match) => match[1] as string);
    return [...blocks, ...quoted]
      .map((line) => line.trim().replace(/^npm run (?:--silent )?drover -- /, "drover "))
      .filter((line) => /^drover [a-z-]/.test(line));
  }

  it("are held to the command line's own commands and options", () => {
    expect(fault("drover create FILE --yes")).toBeUndefined();
    expect(fault("drover destroy NAME")).toBe("drover destroy NAME: there is no command destroy");
    expect(fault("drover artifacts remove DIR")).toBe("drover artifacts remove DIR: artifacts has no command remove");
    expect(fault("drover delete NAME --force")).toBe("drover delete NAME --force: delete has no --force");
  });
  it.each(pages.map(({ path }) => path))("of %s exist", (path) => {
    expect(commandLines(page(path)).map(fault).filter(Boolean)).toEqual([]);
  });
  it("of failure cards exist", () => {
    const lines = [...read("core/failure-card.ts").matchAll(/"(drover [a-z][^"]*)"/g)].map((match) => match[1] as string);
    expect(lines.length).toBeGreaterThan(5);
    expect(lines.map(fault).filter(Boolean)).toEqual([]);
  });
  it("every command is shown on some page", () => {
    const shown = new Set(pages.flatMap(commandLines).map((line) => line.split(/\s+/)[1]));
    expect(program.commands.map((command) => command.name()).filter((name) => !shown.has(name))).toEqual([]);
  });
});

describe("other pages keep up with the code", () => {
  it("each dependency has its reason, and no reason is left of one that went", () => {
    const { dependencies, devDependencies } = JSON.parse(read("package.json")) as Record<string, Record<string, string>>;
    const used = [...Object.keys(dependencies ?? {}), ...Object.keys(devDependencies ?? {})].sort();
    const rows = [...read("docs/decisions/0006-dependencies.md").matchAll(/^\| `([^`]+)` \| (.{15,}) \|$/gm)].map((match) => match[1] as string);
    expect(rows.sort()).toEqual(used);
  });
  it("each decision has its four parts, and its place in the list", () => {
    const list = read("docs/decisions/README.md");
    const decisions = readdirSync(join(root, "docs/decisions")).filter((file) => file !== "README.md");
    for (const file of decisions) {
      const { headings } = page(`docs/decisions/${file}`);
      expect(headings.slice(1)).toEqual(["Context", "Decision", "Consequences", "Revisit when"]);
      expect(headings[0]).toMatch(new RegExp(`^${file.slice(0, 4)} `));
      expect(list).toContain(`(${file})`);
      expect(list).toContain((headings[0] as string).slice(5));
    }
    expect(decisions.map((file) => file.slice(0, 4))).toEqual(decisions.map((_, index) => String(index + 1).padStart(4, "0")));
  });
  it("the design names every node command", () => {
    const { text } = page("docs/design.md");
    expect(Object.keys(nodeCommands).filter((command) => !text.includes(`| \`${command}\` |`))).toEqual([]);
  });
  it("operations names every setting of the deployment", () => {
    const settings = [...read("cdk/settings.ts").matchAll(/^ {2}([a-zA-Z0-9]+): (?:flag|z|days)/gm)].map((match) => match[1] as string);
    expect(settings.length).toBeGreaterThan(4);
    expect(settings.filter((setting) => !page("docs/operations.md").text.includes(`| \`${setting}\` |`))).toEqual([]);
  });
  it("operations says how each route is allowed", () => {
    const allowed = [...page("docs/operations.md").text.matchAll(/`((?:GET|POST|DELETE)\/[^`\s]+)`/g)].map((match) => match[1] as string);
    const reaches = (resource: string, route: string) => new RegExp(`^${resource.replaceAll("*", ".*")}$`).test(route);
    const unnamed = Object.values(routes)
      .map(({ method, path }) => `${method}${path}`)
      .filter((route) => !allowed.some((resource) => reaches(resource, route)));
    expect(unnamed).toEqual([]);
  });
});

describe("words", () => {
  /** Everything that a person reads: pages and examples, as git has them or would. */
  const texts = [...pages.map(({ path }) => path), ...filesBelow("examples", ".yaml")];

  it.each([
    ["paths of somebody's machine", /(?:^|[\s`"'(=])\/(?:work|home|root|Users)\//],
    ["hosts of package registries", /registry\.npmjs|npmjs\.(?:com|org)|pypi\.org|proxy\.golang|registry\.yarnpkg|artifactory|codeartifact|jfrog/i],
    ["marketing", /\b(?:seamless(?:ly)?|blazing(?:ly)?|effortless(?:ly)?|world-class|cutting-edge|next-generation|robust|leverage[sd]?|powerful)\b/i],
  ])("no page holds %s", (_, forbidden) => {
    const found = texts.flatMap((path) =>
      read(path)
        .split("\n")
        .flatMap((line, index) => (forbidden.test(line) ? [`${path}:${index + 1}: ${line.trim()}`] : [])),
    );
    expect(found).toEqual([]);
  });
  it("no line of a written page is wider than a screen, tables and generated pages aside", () => {
    const written = pages.filter(({ path }) => !path.startsWith("docs/reference/") && path !== "local/README.md");
    const wide = written.flatMap(({ path, text }) =>
      text.split("\n").flatMap((line, index) => (line.length > 140 && !line.trimStart().startsWith("|") ? [`${path}:${index + 1}`] : [])),
    );
    expect(wide).toEqual([]);
  });
  it("shell examples are shell", () => {
    for (const { path, text } of pages) {
      for (const [, block = ""] of text.matchAll(/^```sh\n([\s\S]*?)^```$/gm)) {
        const check = () => execFileSync("bash", ["-n"], { input: block, stdio: ["pipe", "ignore", "pipe"] });
        expect(check, `${path}:\n${block}`).not.toThrow();
      }
    }
  });
  it("JSON examples are JSON", () => {
    for (const { text } of pages) {
      for (const [, block = ""] of text.matchAll(/^```json\n([\s\S]*?)^```$/gm)) expect(() => JSON.parse(block)).not.toThrow();
    }
  });
});
