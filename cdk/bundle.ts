/**
 * Bundles every function in one esbuild run: one directory with one `index.js` for each, complete with the SDK.
 *
 * The SDK is bundled because the runtime's copy lags and changes under a deployed function; parsing code is most of a cold start, so the file is minified
 * and what is not reached is shaken out. One run parses the SDK once instead of once a function. The output names no path of this machine: the same
 * sources give the same asset hashes everywhere.
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { type BuildOptions, build, type Message, type OutputFile, type Plugin } from "esbuild";
import { root } from "./sources.js";

/** Environment variables there are. A function gets those its bundle names, and no other. */
export const environmentNames = [
  "STATE_BUCKET",
  "ARTIFACT_BUCKET",
  "SNAPSHOT_BUCKET",
  "SECRETS_KEY_ARN",
  "EVENT_BUS",
  "NODE_INSTANCE_PROFILE_ARN",
  "DOCUMENTS",
  "CLUSTER_METRICS",
  "CREATE_STATE_MACHINE_ARN",
  "DELETE_STATE_MACHINE_ARN",
  "BACKUP_STATE_MACHINE_ARN",
  "RESTORE_STATE_MACHINE_ARN",
  "DRILL_STATE_MACHINE_ARN",
] as const;
export type EnvironmentName = (typeof environmentNames)[number];

export interface Bundle {
  readonly name: string;
  /** Holds `index.js` and nothing else. */
  readonly directory: string;
  readonly bytes: number;
  /** Environment variables the code names. */
  readonly reads: readonly EnvironmentName[];
}

/** Bundles the named functions into `<outdir>/<name>/index.js`. Reports every missing source and every fault of the sources at once. */
export async function bundleFunctions(names: readonly string[], outdir: string): Promise<Map<string, Bundle>> {
  const missing = names.filter((name) => !existsSync(join(root, "functions", `${name}.ts`)));
  if (missing.length > 0) throw new Error(`Cannot bundle: no source for ${missing.map((name) => `functions/${name}.ts`).join(", ")}`);

  const outputFiles = await buildAll({
    absWorkingDir: root,
    entryPoints: names.map((name) => ({ in: `functions/${name}.ts`, out: `${name}/index` })),
    outdir,
    bundle: true,
    platform: "node",
    target: "node22",
    format: "cjs",
    // ES modules are what tree shaking works on; the SDK offers both.
    mainFields: ["module", "main"],
    minify: true,
    // Failures set `name` themselves, ours and the SDK's: no ErrorEquals depends on a class's identifier.
    keepNames: false,
    legalComments: "none",
    sourcemap: false,
    logLevel: "silent",
    plugins: [englishOnly],
    write: false,
  });

  return new Map(
    outputFiles.map((file) => {
      const name = relative(outdir, file.path).split(/[\\/]/)[0] as string;
      const directory = join(outdir, name);
      mkdirSync(directory, { recursive: true });
      writeFileSync(file.path, file.contents);
      const reads = environmentNames.filter((variable) => file.text.includes(`"${variable}"`));
      return [name, { name, directory, bytes: file.contents.length, reads }];
    }),
  );
}

/** Zod carries its messages in fifty languages, a third of a small function; Drover's faults are in English. */
const englishOnly: Plugin = {
  name: "english-only",
  setup(bundler) {
    bundler.onResolve({ filter: /\/locales\/index\.js$/ }, ({ importer, resolveDir }) =>
      /[\\/]zod[\\/]/.test(importer) ? { path: join(resolveDir, "../locales/en.js"), sideEffects: false } : undefined,
    );
  },
};

/** What is wrong with the sources becomes the error's message, one line each. */
async function buildAll(options: BuildOptions & { write: false }): Promise<OutputFile[]> {
  try {
    return (await build(options)).outputFiles;
  } catch (error) {
    if (!(error instanceof Error && "errors" in error)) throw error;
    const lines = (error.errors as Message[]).map(({ text, location }) => (location ? `${location.file}:${location.line}: ${text}` : text));
    throw new Error(`Cannot bundle:\n${lines.join("\n")}`, { cause: error });
  }
}
