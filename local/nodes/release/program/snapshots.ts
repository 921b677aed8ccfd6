/**
 * etcd snapshots on the server's disk: on demand and by schedule, each with its record in the API.
 */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { Api } from "./api.js";
import type { Config, Identity } from "./config.js";
import type { Etcd } from "./etcd.js";
import { at, places, reasonOf, say } from "./host.js";
import { Refused } from "./supervisor.js";
import { tokenHash } from "./tokens.js";

export interface SnapshotFile {
  readonly name: string;
  readonly location: string;
  readonly size: number;
  readonly createdAt: string;
}

interface Snapshots {
  act(request: Readonly<Record<string, unknown>>): Promise<unknown>;
  schedule(): void;
}

const collection = "/apis/k3s.cattle.io/v1/etcdsnapshotfiles";
const snapshotName = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/i;

export function createSnapshots(options: {
  readonly config: Config;
  readonly identity: Identity;
  readonly etcd: Etcd;
  readonly api: Api;
  password(): string;
}): Snapshots {
  const { config, identity, etcd, api } = options;
  let saving = false;

  const directoryOf = (request: Readonly<Record<string, unknown>>) => {
    const chosen = request["dir"] ?? config.text("etcd-snapshot-dir");
    if (typeof chosen !== "string" || chosen.startsWith("${data-dir}")) return places.server("db/snapshots");
    if (!existsSync(at(chosen))) throw new Refused(500, `stat ${chosen}: no such file or directory`);
    return chosen;
  };

  const list = (directory: string): SnapshotFile[] => {
    if (!existsSync(at(directory))) return [];
    return readdirSync(at(directory))
      .filter((name) => !name.endsWith(".partial"))
      .map((name) => {
        const { size, mtime } = statSync(at(join(directory, name)));
        return { name, location: `file://${join(directory, name)}`, size, createdAt: mtime.toISOString() };
      })
      .sort((a, b) => Number(a.name.split("-").at(-1)) - Number(b.name.split("-").at(-1)));
  };

  async function save(request: Readonly<Record<string, unknown>>): Promise<SnapshotFile> {
    const prefix = String(request["name"] ?? "on-demand");
    if (!snapshotName.test(prefix)) throw new Refused(400, `invalid snapshot name ${prefix}`);
    if (request["compress"] === true || config.flag("etcd-snapshot-compress"))
      throw new Refused(400, "etcd-snapshot-compress is not modelled by this stand-in release");
    if (saving) throw new Refused(409, "snapshot save already in progress");
    saving = true;
    try {
      if ((await etcd.status()).learner) throw new Refused(500, "failed to check for snapshot save: server is a learner");
      const directory = directoryOf(request);
      mkdirSync(at(directory), { recursive: true, mode: 0o700 });
      const name = `${prefix}-${identity.name}-${Math.floor(Date.now() / 1000)}`;
      const path = at(join(directory, name));
      say("info", `Saving etcd snapshot to ${join(directory, name)}`);
      try {
        await etcd.snapshot(`${path}.partial`);
        renameSync(`${path}.partial`, path);
      } finally {
        rmSync(`${path}.partial`, { force: true });
      }
      const file = list(directory).find((each) => each.name === name) as SnapshotFile;
      await record(file);
      return file;
    } finally {
      saving = false;
    }
  }

  async function record(file: SnapshotFile): Promise<void> {
    const id = `local-${file.name}-${randomBytes(3).toString("hex")}`.toLowerCase();
    const object = {
      metadata: {
        name: id,
        labels: { "etcd.rke2.cattle.io/snapshot-storage-node": identity.name },
        annotations: { "etcd.rke2.cattle.io/snapshot-token-hash": tokenHash(options.password()) },
      },
      spec: { snapshotName: file.name, nodeName: identity.name, location: file.location },
      status: { creationTime: file.createdAt, readyToUse: true, size: String(file.size) },
    };
    await api.call("POST", collection, object).catch((error: unknown) => say("error", `Failed to record snapshot ${file.name}: ${reasonOf(error)}`));
  }

  async function remove(directory: string, name: string): Promise<boolean> {
    if (basename(name) !== name) throw new Refused(400, `invalid snapshot name ${name}`);
    const present = list(directory).some((each) => each.name === name);
    rmSync(at(join(directory, name)), { force: true });
    for (const object of await api.list(collection)) {
      if (object.spec?.["snapshotName"] === name && object.spec["nodeName"] === identity.name)
        await api.delete(`${collection}/${object.metadata.name}`);
    }
    return present;
  }

  /** Removes the oldest of a prefix on this node; fewer than one to keep means none is removed. */
  async function prune(directory: string, prefix: string, keep: number): Promise<string[]> {
    if (keep < 1) return [];
    const mine = list(directory).filter(({ name }) => name.startsWith(`${prefix}-${identity.name}-`));
    const gone = mine.slice(0, Math.max(0, mine.length - keep)).map(({ name }) => name);
    for (const name of gone) await remove(directory, name);
    return gone;
  }

  async function act(request: Readonly<Record<string, unknown>>): Promise<unknown> {
    const directory = directoryOf(request);
    switch (request["operation"]) {
      case "save":
        return save(request);
      case "list":
        return list(directory).map((file) => ({ ...file, node: identity.name }));
      case "delete":
        return Promise.all((request["names"] as string[]).map(async (name) => ({ name, found: await remove(directory, name) })));
      case "prune":
        return prune(directory, String(request["name"] ?? "etcd-snapshot"), Number(request["retention"] ?? config.number("etcd-snapshot-retention")));
      default:
        throw new Refused(400, "unknown snapshot operation");
    }
  }

  return {
    act,
    schedule() {
      if (config.flag("etcd-disable-snapshots")) return;
      const cron = config.text("etcd-snapshot-schedule-cron") ?? "0 */12 * * *";
      const prefix = config.text("etcd-snapshot-name") ?? "etcd-snapshot";
      let last = "";
      setInterval(() => {
        const now = new Date();
        const minute = now.toISOString().slice(0, 16);
        if (minute === last || !isDue(cron, now)) return;
        last = minute;
        save({ name: prefix })
          .then(() => prune(directoryOf({}), prefix, config.number("etcd-snapshot-retention")))
          .catch((error: unknown) => say("error", `Failed to take etcd snapshot: ${reasonOf(error)}`));
      }, 5000).unref();
    },
  };
}

/** Whether a cron expression of five fields names this minute, in the system's time. */
export function isDue(cron: string, now: Date): boolean {
  const values = [now.getMinutes(), now.getHours(), now.getDate(), now.getMonth() + 1, now.getDay()];
  return cron
    .trim()
    .split(/\s+/)
    .every((field, index) =>
      field.split(",").some((part) => {
        const [range = "*", step = "1"] = part.split("/");
        const [from, to = part.includes("/") ? "59" : from] = range === "*" ? ["0", "59"] : range.split("-");
        const value = values[index] as number;
        return value >= Number(from) && value <= Number(to) && (value - Number(from)) % Number(step) === 0;
      }),
    );
}
