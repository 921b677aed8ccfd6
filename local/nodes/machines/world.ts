/**
 * A whole local cloud on machines: the deployed template as in any other world, and behind its instances Debian with systemd, real scripts, real etcd.
 *
 * Its time is the wall clock's, except that what merely waits (a Wait state) is over as soon as no machine has anything to do. AWS's own delays are
 * modelled and hurried: machines take their own time.
 */
import { homedir } from "node:os";
import { join } from "node:path";
import type { S3 } from "../../aws/s3.js";
import { type BootOptions, fetchByNodes, World } from "../../world.js";
import { type BuiltRelease, buildRelease, missingForRelease, seedBuiltRelease } from "../release/build.js";
import { type MachineCloud, type MachineDriver, openMachines } from "./driver.js";
import { type MachineSupport, machineSupport } from "./image.js";

export interface MachineWorld {
  readonly world: World;
  readonly driver: MachineDriver;
  readonly cloud: MachineCloud;
  /** Rejects when the world breaks: something that nobody models was asked of it, or a machine could not be made. */
  readonly broken: Promise<never>;
  /** What the world answers, or why it broke meanwhile. */
  orBroken<T>(promise: Promise<T>): Promise<T>;
  /** Stops the world and removes everything it has on this computer. Doing so twice does nothing. */
  close(): Promise<void>;
}

export interface MachineWorldOptions extends Omit<BootOptions, "services" | "startAt" | "hurry" | "saved"> {
  /** Versions of the stand-in release that the artifact store holds. */
  readonly releases: readonly string[];
  /** A line for a person. */
  readonly say?: (line: string) => void;
}

/** AWS's delays by the model, a load balancer's minutes among them, come down to seconds. */
const hurry = 50;

/** Whether a whole local cloud can run on machines here, or one line that says what is missing. Changes nothing. */
export function machineWorldSupport(): MachineSupport {
  const support = machineSupport();
  if (!support.ok) return support;
  const missing = missingForRelease();
  return missing === undefined ? support : { ok: false, missing };
}

/** @throws when machines cannot run here, with the line of `machineWorldSupport` */
export async function bootOnMachines({ releases, say = () => {}, ...options }: MachineWorldOptions): Promise<MachineWorld> {
  const support = machineWorldSupport();
  if (!support.ok) throw new Error(support.missing);
  const built: BuiltRelease[] = [];
  for (const version of releases) built.push(await buildRelease({ version, outdir: releaseFolder() }));
  const cloud = await openMachines({ region: options.region ?? "eu-central-1", say });
  try {
    return start(cloud, built, options);
  } catch (error) {
    await cloud.close();
    throw error;
  }
}

function start(cloud: MachineCloud, releases: readonly BuiltRelease[], options: BootOptions): MachineWorld {
  let driver: MachineDriver | undefined;
  const world = World.boot({
    ...options,
    startAt: Date.now(),
    hurry,
    services: [
      (services) => {
        driver = cloud.driver(services as World, { fetch: fetchByNodes(services) });
        return driver;
      },
    ],
  });
  fillStore(world, releases);
  const stopping = new AbortController();
  const pacing = world.clock.pace({ speed: 1, signal: stopping.signal, skipsIdle: true });
  const broken = pacing.then(() => new Promise<never>(() => {}));
  broken.catch(() => {});
  let closing: Promise<void> | undefined;
  return {
    world,
    driver: driver as MachineDriver,
    cloud,
    broken,
    orBroken: (promise) => Promise.race([promise, broken]),
    close() {
      closing ??= (async () => {
        stopping.abort();
        // Why it broke was told to whoever waited for it.
        await pacing.catch(() => {});
        await cloud.close();
        world.close();
      })();
      return closing;
    },
  };
}

function fillStore(world: World, releases: readonly BuiltRelease[]): void {
  const bucket = world.template.functions.map(({ environment }) => environment.ARTIFACT_BUCKET).find((name) => name !== undefined);
  if (bucket === undefined) throw new Error("no function of the template names the artifact bucket");
  for (const release of releases) seedBuiltRelease(world.service<S3>("s3"), bucket, release);
}

/** Built once and kept, as the Debian root is. */
const releaseFolder = () => join(homedir(), ".cache", "drover", "releases");
