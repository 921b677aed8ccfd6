/**
 * Makes the deployment: bundles, template and assets in one cloud assembly, without network, account or CLI.
 *
 *     npm run synth                         the assembly in cdk.out, and where the template is
 *     npm run synth -- -c network=true      with the network stack; settings are listed in cdk/settings.ts
 *     npx cdk deploy                        the same through the CDK CLI, which runs this file
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { CloudAssembly } from "aws-cdk-lib/cx-api";
import { readSource, root, sourceStamp } from "./sources.js";

/** Context as the CDK CLI would pass it: what `cdk.json` says, then what was given. */
export type Context = Readonly<Record<string, unknown>>;

export interface SynthesisOptions {
  readonly context?: Context;
  /** Hold the template against cdk-nag and CloudFormation's rules. Half of the time; whoever only runs the assembly on this machine can do without. */
  readonly validate?: boolean;
}

export interface Assembly {
  /** Directory of the assembly: manifest, templates, assets. */
  readonly directory: string;
  /** Template of the stack Drover. */
  readonly template: string;
  /** Sizes of the functions' bundles. */
  readonly sizes: string;
  /** False when what was there was still right. */
  readonly made: boolean;
  readonly seconds: number;
}

const files = { template: "Drover.template.json", sizes: "bundle-sizes.json", stamp: "drover-stamp.txt" } as const;

/**
 * Synthesizes into `outdir`. The libraries are loaded here and not with the module, so that `ensureAssembly` is quick when there is nothing to do.
 *
 * @throws when a rule of cdk-nag or of CloudFormation is broken and not acknowledged, naming each
 */
export async function synthesize(outdir: string, { context = {}, validate = true }: SynthesisOptions = {}): Promise<CloudAssembly> {
  const [{ App, Validations }, { AwsSolutionsChecks }, { bundleFunctions }, { functionNames }, { DroverStack }, { NetworkStack }, { readSettings }] =
    await Promise.all([
      import("aws-cdk-lib"),
      import("cdk-nag"),
      import("./bundle.js"),
      import("./functions.js"),
      import("./drover-stack.js"),
      import("./network-stack.js"),
      import("./settings.js"),
    ]);
  const directory = resolve(outdir);
  const app = new App({
    outdir: directory,
    context: { ...projectContext(), ...metadata, ...context },
    analyticsReporting: false,
    treeMetadata: false,
    // Finding out where each construct was made doubles the time.
    stackTraces: false,
    builtinCloudFormationValidation: validate,
  });
  const settings = readSettings((name) => app.node.tryGetContext(name));
  if (validate) Validations.of(app).addPlugins(new AwsSolutionsChecks(app, { verbose: true }));

  const bundleDirectory = join(directory, "bundles");
  const bundles = await bundleFunctions(functionNames, bundleDirectory);
  const network = settings.network ? new NetworkStack(app, "DroverNetwork", { settings }) : undefined;
  new DroverStack(app, "Drover", { settings, bundles, s3EndpointId: network?.s3EndpointId ?? settings.s3EndpointId });
  const assembly = app.synth();
  // Every bundle is an asset of the assembly by now.
  rmSync(bundleDirectory, { recursive: true });
  const sizes = [...bundles.values()].map(({ name, bytes }) => ({ name, bytes }));
  writeFileSync(join(directory, files.sizes), `${JSON.stringify({ functions: sizes }, null, 2)}\n`);
  return assembly;
}

/**
 * The assembly in `outdir`, made anew only when a source has changed since. An unfinished one is never seen: it is made beside the old one and
 * takes its place at the end.
 */
export async function ensureAssembly(outdir: string, options: SynthesisOptions = {}): Promise<Assembly> {
  const started = performance.now();
  const directory = resolve(outdir);
  const answer = (made: boolean): Assembly => ({
    directory,
    template: join(directory, files.template),
    sizes: join(directory, files.sizes),
    made,
    seconds: (performance.now() - started) / 1000,
  });
  const { context = {}, validate = true } = options;
  const stamp = sourceStamp(context);
  const stampFile = join(directory, files.stamp);
  const isRight = () => {
    const found = existsSync(stampFile) ? readFileSync(stampFile, "utf8") : "";
    return found === `${stamp} validated` || (!validate && found === stamp);
  };
  if (isRight()) return answer(false);

  const workshop = join(dirname(directory), ".drover");
  mkdirSync(workshop, { recursive: true });
  const fresh = mkdtempSync(join(workshop, "assembly-"));
  const old = `${fresh}-before`;
  try {
    await synthesize(fresh, { context, validate });
    writeFileSync(join(fresh, files.stamp), validate ? `${stamp} validated` : stamp);
    // Another process may have made the same meanwhile, and may be reading it by now.
    if (isRight()) return answer(false);
    try {
      if (existsSync(directory)) renameSync(directory, old);
      renameSync(fresh, directory);
    } catch (error) {
      // Both were here at once: one of the two is in place, and it is the same.
      if (!isRight()) throw error;
      return answer(false);
    }
  } finally {
    rmSync(fresh, { recursive: true, force: true });
    rmSync(old, { recursive: true, force: true });
    try {
      // Refused while others are at work in it.
      rmdirSync(workshop);
    } catch {
      // They tidy up, or have done so already.
    }
  }
  return answer(true);
}

/** What the CDK CLI switches on by itself: the local cloud finds a function's code by it, and both ways of synthesis come out the same. */
const metadata: Context = { "aws:cdk:enable-path-metadata": true, "aws:cdk:enable-asset-metadata": true };

function projectContext(): Context {
  return (JSON.parse(readSource("cdk.json")) as { context: Context }).context;
}

/** `-c name=value` as the CDK CLI takes it. */
function contextOf(pairs: readonly string[]): Context {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      if (at < 1) throw new Error(`-c takes name=value, not ${pair}`);
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}

async function main(): Promise<void> {
  const cli = process.env.CDK_OUTDIR;
  if (cli !== undefined) {
    await synthesize(cli);
    return;
  }
  const { values } = parseArgs({
    options: { context: { type: "string", short: "c", multiple: true, default: [] }, out: { type: "string", default: join(root, "cdk.out") } },
  });
  const assembly = await ensureAssembly(values.out, { context: contextOf(values.context) });
  console.log(assembly.template);
  console.error(
    `${assembly.made ? "synthesized" : "unchanged"} in ${assembly.seconds.toFixed(1)} s; deploy with: npx cdk deploy --app ${assembly.directory}`,
  );
}

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === resolve(process.argv[1])) {
  await main().catch((error: unknown) => {
    // What is wrong has been printed with its place, or is in the message; a stack of this file's own adds nothing.
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  });
}
