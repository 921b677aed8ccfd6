/**
 * A whole local cloud on machines: the deployed template as in any other world, and behind its instances Debian with systemd, real scripts, real etcd.
 *
 * Its time is the wall clock's, except that what merely waits (a Wait state) is over as soon as no machine has anything to do. AWS's own delays are
 * modelled and hurried: machines take their own time.
 */
import { readdirSync, rmSync, statSync, utimesSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
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

const gib = 1024 ** 3;
/** A server's disk, its processes and etcd; an agent takes less. Measured, and rounded up. */
const memoryOfNode = gib / 2;
/** The cloud itself: the world, its functions, the release in the store. */
const memoryOfCloud = gib / 2;

/** Why so many nodes have no room in the memory of this computer, in one line; undefined when they have. */
export function whyNoRoom(nodes: number, freeBytes: number): string | undefined {
  const wanted = memoryOfCloud + nodes * memoryOfNode;
  if (freeBytes >= wanted) return undefined;
  const shown = (bytes: number) => (Math.floor((bytes / gib) * 10) / 10).toFixed(1);
  return `${nodes} machines need ${shown(wanted)} GiB of memory, and ${shown(freeBytes)} GiB are free. Take fewer nodes, or use --nodes simulated`;
}

/** @throws when machines cannot run here, with the line of `machineWorldSupport` */
export async function bootOnMachines({ releases, say = () => {}, ...options }: MachineWorldOptions): Promise<MachineWorld> {
  const support = machineWorldSupport();
  if (!support.ok) throw new Error(support.missing);
  const built: BuiltRelease[] = [];
  for (const version of releases) built.push(await buildRelease({ version, outdir: releaseFolder() }));
  forgetOldReleases(
    releaseFolder(),
    built.map(({ files }) => dirname([...files.values()][0] as string)),
    Date.now(),
  );
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
  for (const release of releases) seedBuiltRelease(world.service<S3>("s3"), world.environment("ARTIFACT_BUCKET"), release);
  const { broken, orBroken, stop } = world.clock.paceUntilStopped({ speed: 1, skipsIdle: true });
  let closing: Promise<void> | undefined;
  return {
    world,
    driver: driver as MachineDriver,
    cloud,
    broken,
    orBroken,
    close() {
      closing ??= (async () => {
        // Why it broke was told to whoever waited for it.
        await stop().catch(() => {});
        await cloud.close();
        world.close();
      })();
      return closing;
    },
  };
}

const forgetAfterMilliseconds = 7 * 86_400_000;

/** Removes what was built from other sources and not used for a week: each build is a hundred megabytes. */
export function forgetOldReleases(folder: string, used: readonly string[], nowMs: number): void {
  for (const path of used) utimesSync(path, nowMs / 1000, nowMs / 1000);
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    // Another run may have removed it just now.
    const last = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? nowMs;
    if (nowMs - last > forgetAfterMilliseconds) rmSync(path, { recursive: true, force: true });
  }
}

/** Built once and kept, as the Debian root is. */
export const releaseFolder = () => join(homedir(), ".cache", "drover", "releases");
