/** A person at a terminal, in process: a world behind the API, a clock that is the world's, and every word that is written. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import type { HttpRequest, HttpResponse, Send } from "../../cli/http.js";
import { run } from "../../cli/program.js";
import type { Screen, Surroundings } from "../../cli/surroundings.js";
import { knownImageSets } from "../../core/archives.js";
import type { S3 } from "../../local/aws/s3.js";
import { seedRelease } from "../../local/aws/stand-in-release.js";
import { personCredentials } from "../../local/kernel/http-api.js";
import { type BootOptions, World } from "../../local/world.js";
import { readPart } from "./parts.js";

export const release = "v1.35.7+rke2r1";

export interface Ended {
  readonly code: number;
  /** Standard output. */
  readonly out: string;
  /** Standard error. */
  readonly err: string;
}

export interface StageOptions {
  readonly world?: World;
  readonly isTerminal?: boolean;
  readonly columns?: number;
  readonly rows?: number;
  readonly environment?: Readonly<Record<string, string>>;
  /** Sends requests for real. */
  readonly send?: Send;
}

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

export function folder(files: Readonly<Record<string, string | Uint8Array>> = {}): string {
  const path = mkdtempSync(join(tmpdir(), "drover-cli-"));
  folders.push(path);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content);
  return path;
}

export function world(options: Partial<BootOptions> = {}): World {
  return World.boot({ assembly: "cdk.out", seed: 1, ...options });
}

export function artifactBucket(of: World): string {
  return of.environment("ARTIFACT_BUCKET");
}

export function withRelease(of: World): World {
  const imageSets = ["", ...knownImageSets(release)];
  seedRelease(of.service<S3>("s3"), artifactBucket(of), { version: release, architecture: "amd64", imageSets });
  return of;
}

export class Stage {
  readonly directory: string;
  /** What the person answers, in order; without any there is nobody to ask. */
  answers: (string | undefined)[] | undefined;
  /** What comes on standard input. */
  input: Uint8Array = new Uint8Array();
  /** Takes a request's place: answers it, fails it, or lets it through by answering undefined. */
  network: (request: HttpRequest) => HttpResponse | Error | undefined = () => undefined;
  /** Called before each pause. */
  onPause: () => void = () => {};
  readonly requests: string[] = [];
  readonly pauses: number[] = [];
  readonly questions: string[] = [];
  #ids = 0;
  #out = "";
  #err = "";
  #interruption = new AbortController();
  readonly #options: StageOptions;

  constructor(options: StageOptions = {}) {
    this.#options = options;
    this.directory = folder();
  }

  get world(): World {
    const { world } = this.#options;
    if (world === undefined) throw new Error("this stage has no world: the command should not have asked for one");
    return world;
  }

  interrupt(): void {
    this.#interruption.abort();
  }

  async drover(...words: string[]): Promise<Ended> {
    this.#out = "";
    this.#err = "";
    this.#interruption = new AbortController();
    const code = await run(words, this.#surroundings());
    return { code, out: this.#out, err: this.#err };
  }

  /** The same with the JSON it printed. */
  async json<T>(...words: string[]): Promise<{ readonly code: number; readonly data: T; readonly err: string }> {
    const { code, out, err } = await this.drover(...words, "--json");
    return { code, data: JSON.parse(out) as T, err };
  }

  #surroundings(): Surroundings {
    const { world, isTerminal = false, columns = 80, rows = 24, environment } = this.#options;
    const screen = (write: (text: string) => void): Screen => ({ write, isTerminal, hasColour: false, columns, rows });
    const { answers } = this;
    const host = `${world?.template.apis[0]?.ref}.execute-api.${world?.region}.amazonaws.com`;
    let virtual = Date.UTC(2026, 0, 5, 2);
    return {
      out: screen((text) => (this.#out += text)),
      err: screen((text) => (this.#err += text)),
      readInput: async (limit) => this.input.subarray(0, limit + 1),
      ask:
        answers === undefined
          ? undefined
          : async (question) => {
              this.questions.push(question);
              return answers.shift();
            },
      environment: world === undefined ? { ...environment } : { DROVER_ENDPOINT: `https://${host}`, ...environment },
      directory: this.directory,
      home: this.directory,
      now: () => world?.clock.now() ?? virtual,
      sleep: async (milliseconds) => {
        this.pauses.push(milliseconds);
        this.onPause();
        virtual += milliseconds;
        await world?.runFor({ seconds: milliseconds / 1000 });
      },
      random: () => 0.5,
      newId: () => `request-${String(++this.#ids).padStart(4, "0")}`,
      send: async (request) => await this.#send(request),
      interrupted: this.#interruption.signal,
    };
  }

  async #send(request: HttpRequest): Promise<HttpResponse> {
    const { method, url, headers } = request;
    this.requests.push(`${method} ${url.pathname}`);
    const instead = this.network(request);
    if (instead instanceof Error) throw instead;
    if (instead !== undefined) return instead;
    if (this.#options.send !== undefined) return await this.#options.send(request, this.#interruption.signal);
    const body = readPart(request.body);
    if (url.hostname.includes(".s3.")) {
      const sent = { "content-length": String(body.byteLength), ...headers };
      return this.world.fetchPresigned(url.href, { method, headers: sent, body });
    }
    const wire = { method, host: url.host, path: `${url.pathname}${url.search}`, headers, body };
    const answer = await this.world.drive(this.world.api.signed(wire));
    return { ...answer, body: Buffer.from(answer.body) };
  }
}

/** The keys of a person of the world's account, as the AWS SDK finds them. */
export function personKeys(person = "operator"): Readonly<Record<string, string>> {
  const { accessKeyId, secretAccessKey } = personCredentials(person);
  return { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
}

/** Text with everything that the seed decides taken out. */
export function masked(text: string): string {
  return text
    .replace(/\bi-[0-9a-f]{17}\b/g, "i-ID")
    .replace(/\bdrv-([a-z0-9-]*?)-[0-9a-f]{8}-[0-9a-f]{16}\.elb/g, "drv-$1-ID.elb")
    .replace(/\b(create|delete|backup|restore|drill)-([a-z0-9-]+?)-[0-9a-f]{16}\b/g, "$1-$2-ID")
    .replace(/\b\d{8}T\d{6}Z-[0-9a-f]{8}\b/g, "SNAPSHOT")
    .replace(/\b\d+:\d\d(:\d\d)?\b/g, "TIME")
    .replace(/\b\d+ (s|min)\b/g, "TIME");
}
