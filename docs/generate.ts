/**
 * Writes docs/reference from the schemas: `npx tsx docs/generate.ts`.
 *
 * A test compares the files with what this would write, so run it after every change of the cluster file or of the API.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { clusterFilePage, clusterJsonSchema, openApiDocument } from "../core/schema-documents.js";

export const referenceFolder = fileURLToPath(new URL("reference/", import.meta.url));

/** Every generated file with its text. */
export function referenceFiles(): Record<string, string> {
  return {
    "cluster.schema.json": `${JSON.stringify(clusterJsonSchema(), null, 2)}\n`,
    "openapi.json": `${JSON.stringify(openApiDocument(), null, 2)}\n`,
    "cluster-file.md": clusterFilePage(),
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(referenceFolder, { recursive: true });
  for (const [name, text] of Object.entries(referenceFiles())) writeFileSync(join(referenceFolder, name), text);
}
