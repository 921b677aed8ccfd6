/**
 * Writes docs/reference from the schemas and the commands: `npx tsx docs/generate.ts`.
 *
 * A test compares the files with what this would write, so run it after every change of the cluster file, of the API or of the command line.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cliPage } from "../cli/reference.js";
import { clusterFilePage, clusterJsonSchema, openApiDocument } from "../core/schema-documents.js";

export const referenceFolder = fileURLToPath(new URL("reference/", import.meta.url));

/** Every generated file with its text. */
export function referenceFiles(): Record<string, string> {
  return {
    "cluster.schema.json": `${json(clusterJsonSchema())}\n`,
    "openapi.json": `${json(openApiDocument())}\n`,
    "cluster-file.md": clusterFilePage(),
    "cli.md": cliPage(),
  };
}

/** A list on one line, unless there is a mapping in it. */
function inline(value: unknown): string | undefined {
  if (Array.isArray(value)) {
    const items = value.map(inline);
    return items.includes(undefined) ? undefined : `[${items.join(", ")}]`;
  }
  return typeof value === "object" && value !== null ? undefined : JSON.stringify(value);
}

/** JSON as the formatter of this repository would write it: a list of plain values stays on its line while it fits. */
function json(value: unknown, indent = "", room = 150): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    const line = inline(value);
    if (line !== undefined && line.length <= room) return line;
    return `[\n${value.map((item) => `${inner}${json(item, inner, 148 - inner.length)}`).join(",\n")}\n${indent}]`;
  }
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  if (entries.length === 0) return "{}";
  const last = entries.length - 1;
  const lines = entries.map(([name, item], index) => {
    const label = `${inner}${JSON.stringify(name)}: `;
    return `${label}${json(item, inner, 150 - label.length - (index < last ? 1 : 0))}`;
  });
  return `{\n${lines.join(",\n")}\n${indent}}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(referenceFolder, { recursive: true });
  for (const [name, text] of Object.entries(referenceFiles())) writeFileSync(join(referenceFolder, name), text);
}
