/** Which Drover a command speaks to, and as whom: what was given, the environment, or the local cloud that runs here. */
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import { badInput, CommandFailure } from "./failures.js";
import type { Surroundings } from "./surroundings.js";

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

export interface Endpoint {
  readonly url: URL;
  readonly region: string;
  readonly kind: "aws" | "local";
  /** What a person should read where it matters which Drover this is. */
  readonly label: string;
  readonly credentials: () => Promise<Credentials>;
  /** The time there, milliseconds since the epoch: the local cloud's runs faster. */
  readonly now: () => number;
  /** An answer came with this Date: the local cloud falls behind its pace while it computes, so what it says goes before what was reckoned. */
  readonly heard: (date: string) => void;
  /** How often it makes sense to ask how an operation goes. */
  readonly pollMilliseconds: number;
}

export interface EndpointOptions {
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
}

/** A running local cloud, as `drover local up` leaves it in `.drover/local.json`. */
export const localFileSchema = z.object({
  schema: z.literal(1),
  endpoint: z.url(),
  region: z.string(),
  accessKeyId: z.string(),
  secretAccessKey: z.string(),
  pid: z.number().int().positive(),
  /** How much faster its time runs, and one instant on both clocks. */
  speed: z.number().positive(),
  virtualMilliseconds: z.number(),
  realMilliseconds: z.number(),
});
export type LocalFile = z.output<typeof localFileSchema>;

/** Relative to the folder that the local cloud keeps its state in. */
export const localFileName = join(".drover", "local.json");
const pollMilliseconds = 2000;

/** @throws CommandFailure when there is none, or it cannot be used */
export async function findEndpoint(options: EndpointOptions, surroundings: Surroundings): Promise<Endpoint> {
  const given = options.endpoint ?? (surroundings.environment.DROVER_ENDPOINT || undefined);
  if (given !== undefined) return givenEndpoint(given, options.endpoint === undefined ? "DROVER_ENDPOINT" : "--endpoint", options, surroundings);
  const local = await findLocalFile(surroundings.directory);
  if (local === undefined) {
    throw new CommandFailure(
      "unreachable",
      "No Drover to speak to: neither --endpoint nor DROVER_ENDPOINT is given, and no local cloud runs here",
      "Start a local one: drover local up. Or give the output ApiUrl of the stack Drover: export DROVER_ENDPOINT=https://...",
    );
  }
  return localEndpoint(local.content, surroundings);
}

function givenEndpoint(text: string, source: string, options: EndpointOptions, surroundings: Surroundings): Endpoint {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isLoopback = url !== undefined && ["127.0.0.1", "localhost", "[::1]"].includes(url.hostname);
  if (url === undefined || !(url.protocol === "https:" || (url.protocol === "http:" && isLoopback))) {
    throw badInput(`${source} must be an https:// address; found "${text}"`, "Use the output ApiUrl of the stack Drover");
  }
  if (url.search !== "" || url.hash !== "" || url.username !== "") {
    throw badInput(`${source} must be an address without user, query or fragment`, "Use the output ApiUrl of the stack Drover");
  }
  const { environment, now } = surroundings;
  const ofUrl = /\.execute-api\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|api\.aws)$/.exec(url.hostname)?.[1];
  const region = options.region ?? ofUrl ?? (environment.AWS_REGION || environment.AWS_DEFAULT_REGION || undefined);
  if (region === undefined) {
    throw badInput(`The Region of ${url.hostname} is not part of its name, and is needed to sign requests`, "Give --region, or set AWS_REGION");
  }
  return {
    url,
    region,
    kind: "aws",
    label: `${url.hostname} (${region})`,
    credentials: awsCredentials(surroundings),
    now,
    heard: () => undefined,
    pollMilliseconds,
  };
}

export function localEndpoint(local: LocalFile, { now }: Pick<Surroundings, "now">): Endpoint {
  const { accessKeyId, secretAccessKey } = local;
  let known = { virtual: local.virtualMilliseconds, real: local.realMilliseconds };
  return {
    url: new URL(local.endpoint),
    region: local.region,
    kind: "local",
    label: `the local cloud at ${local.endpoint}`,
    credentials: async () => ({ accessKeyId, secretAccessKey }),
    now: () => known.virtual + (now() - known.real) * local.speed,
    heard: (date) => {
      const virtual = Date.parse(date);
      if (!Number.isNaN(virtual)) known = { virtual, real: now() };
    },
    pollMilliseconds: Math.max(250, Math.round(pollMilliseconds / local.speed)),
  };
}

/** The nearest `.drover/local.json`, from a folder upwards. A file that says nothing sensible counts as none. */
export async function findLocalFile(directory: string): Promise<{ readonly path: string; readonly content: LocalFile } | undefined> {
  for (let folder = directory; ; folder = dirname(folder)) {
    const path = join(folder, localFileName);
    const content = await readLocalFile(path);
    if (content !== undefined) return { path, content };
    if (dirname(folder) === folder) return undefined;
  }
}

export async function readLocalFile(path: string): Promise<LocalFile | undefined> {
  try {
    const parsed = localFileSchema.safeParse(JSON.parse(await readFile(path, "utf8")));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}

/** The SDK's own chain: environment, profiles, single sign-on, web identity, instance roles. Loaded when it is needed, for it is large. */
function awsCredentials({ environment }: Surroundings): () => Promise<Credentials> {
  let known: Promise<Credentials> | undefined;
  const find = async () => {
    const { fromNodeProviderChain } = await import("@aws-sdk/credential-providers");
    try {
      return await fromNodeProviderChain({ maxRetries: 1, timeout: 1000 })();
    } catch (error) {
      const profile = environment.AWS_PROFILE;
      throw new CommandFailure(
        "unreachable",
        `No AWS credentials${profile === undefined ? "" : ` for the profile ${profile}`}: ${error instanceof Error ? error.message : String(error)}`,
        "Sign in (aws sso login), choose a profile (export AWS_PROFILE=...), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; then see who you are: aws sts get-caller-identity",
        [],
        { cause: error },
      );
    }
  };
  return () => (known ??= find());
}
