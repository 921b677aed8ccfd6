/** A cloud of machines in a tiny world that keeps pace with real time, with the local S3 and what its presigned addresses need. */
import { GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import type { SigningCredentials } from "../../local/aws/presigned.js";
import { createS3, type S3 } from "../../local/aws/s3.js";
import { hurried } from "../../local/kernel/random.js";
import type { DocumentContent, DocumentEnd, Machine } from "../../local/nodes/contract.js";
import { type MachineCloud, type MachineDriver, openMachines } from "../../local/nodes/machines/driver.js";
import { calls, type TinyWorld, tinyWorld } from "../local-aws/tiny-world.js";

export const region = "eu-central-1";
export const bucket = "drover-artifacts-111122223333";

export interface MachineBench {
  readonly cloud: MachineCloud;
  readonly world: TinyWorld;
  readonly driver: MachineDriver;
  readonly s3: S3;
  /** Boots a machine in a zone (a, b or c), and waits for its agent. */
  boot(zone?: Zone, overrides?: Partial<Machine>): Promise<Machine>;
  /** Runs a shell in a machine; fails with what it says when its status is not 0. */
  sh(machine: Machine, script: string): Promise<string>;
  /** Runs the lines as a document of one step. */
  script(machine: Machine, text: string, inputs?: Readonly<Record<string, unknown>>): Promise<DocumentEnd>;
  document(machine: Machine, content: DocumentContent, parameters?: Readonly<Record<string, string>>): Promise<DocumentEnd>;
  /** Address of an object that a machine may fetch, or create. */
  presigned(method: "GET" | "PUT", key: string): Promise<string>;
  close(): Promise<void>;
}

type Zone = "a" | "b" | "c";

/** The so-manieth machine of a cloud, counted from 1. */
export function blankMachine(number: number, zone: Zone, overrides: Partial<Machine> = {}): Machine {
  return {
    instanceId: `i-${String(number).padStart(17, "0")}`,
    address: `10.0.${{ a: 0, b: 16, c: 32 }[zone]}.${number + 10}`,
    zone: `${region}${zone}`,
    architecture: process.arch === "arm64" ? "arm64" : "x86_64",
    platform: "ubuntu",
    rootVolumeGib: 4,
    ...overrides,
  };
}

let machines = 0;
let commands = 0;

export async function machineBench(prepare: (world: TinyWorld) => void = () => {}, startAtMs = Date.now()): Promise<MachineBench> {
  const cloud = await openMachines({ region });
  const world = tinyWorld({ startAtMs });
  // AWS's own delays are modelled for virtual time; here they only have to be there.
  Object.assign(world, { random: hurried(world.random, 50) });
  const session: SigningCredentials = {
    accessKeyId: "ASIAEXAMPLE",
    secretAccessKey: "secret",
    expiresAtMs: startAtMs + 3_600_000,
    principal: "arn:aws:iam::111122223333:role/signer",
    name: "signer",
  };
  const s3 = createS3(world);
  world.add(s3);
  s3.createBucket({ name: bucket, versioned: true, encryption: { algorithm: "AES256" }, lifecycle: [], objectLock: undefined, events: false });
  const call = calls(world, s3);
  s3.usePresigned({
    credentials: (accessKeyId) => (accessKeyId === session.accessKeyId ? session : undefined),
    call: (operation, input) => call(operation, input),
  });
  const client = new S3Client({
    region,
    credentials: { accessKeyId: session.accessKeyId, secretAccessKey: session.secretAccessKey },
    requestChecksumCalculation: "WHEN_REQUIRED",
  });
  const driver = cloud.driver(world, { fetch: (url, request) => s3.fetchPresigned(url, request) });
  world.add(driver);
  prepare(world);
  const { orBroken, stop } = world.clock.paceUntilStopped({ speed: 1, skipsIdle: true });

  const bench: MachineBench = {
    cloud,
    world,
    driver,
    s3,
    async boot(zone = "a", overrides = {}) {
      const machine = blankMachine(++machines, zone, overrides);
      driver.boot(machine);
      await orBroken(driver.online(machine.instanceId));
      return machine;
    },
    async sh(machine, script) {
      const { status, stdout, stderr } = await driver.exec(machine.instanceId, ["sh", "-c", script]);
      if (status !== 0) throw new Error(`status ${status} of: ${script}\n${stdout}${stderr}`);
      return stdout.trim();
    },
    script: (machine, text, inputs = {}) =>
      bench.document(machine, {
        schemaVersion: "2.2",
        mainSteps: [{ action: "aws:runShellScript", name: "step", inputs: { runCommand: text.split("\n"), ...inputs } }],
      }),
    document: (machine, content, parameters = {}) =>
      orBroken(driver.run({ commandId: `command-${++commands}`, instanceId: machine.instanceId, documentName: "test", content, parameters }).ended),
    presigned: (method, key) => {
      const target = { Bucket: bucket, Key: key };
      const command = method === "GET" ? new GetObjectCommand(target) : new PutObjectCommand({ ...target, IfNoneMatch: "*" });
      return getSignedUrl(client, command as GetObjectCommand, {
        expiresIn: 900,
        signingDate: new Date(world.clock.now()),
        ...(method === "PUT" ? { signableHeaders: new Set(["host", "if-none-match"]) } : {}),
      });
    },
    async close() {
      await cloud.close();
      await stop();
    },
  };
  return bench;
}

/** Waits in real time until something holds: what is waited for is real. Fails with its last value. */
export async function until<T>(seconds: number, ask: () => T | Promise<T>, holds: (value: T) => boolean): Promise<T> {
  const ends = performance.now() + seconds * 1000;
  for (;;) {
    const value = await ask();
    if (holds(value)) return value;
    if (performance.now() > ends) throw new Error(`not within ${seconds} s: ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
