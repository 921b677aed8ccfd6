/**
 * The sources an assembly is made of, and their stamp: one hash that changes when any of them does.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

const stamped = ["cdk", "core", "functions", "nodes", "statemachines", "cdk.json", "package-lock.json", "tsconfig.json"] as const;

/** Hash of every source file's path and content, and of the settings the assembly was made with. */
export function sourceStamp(settings: unknown, directory: string = root, sources: readonly string[] = stamped): string {
  const hash = createHash("sha256").update(JSON.stringify(settings));
  for (const file of sources.flatMap((name) => filesUnder(join(directory, name)))) {
    hash.update(`\0${relative(directory, file).split(sep).join("/")}\0`).update(readFileSync(file));
  }
  return hash.digest("hex");
}

function filesUnder(path: string): string[] {
  if (path.endsWith(".json")) return [path];
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

/** Text of one source file, by its path in the repository. */
export function readSource(path: string): string {
  return readFileSync(join(root, path), "utf8");
}
