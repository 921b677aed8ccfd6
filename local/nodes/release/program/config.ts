/**
 * Flags, environment and configuration files, read and merged as RKE2 does: drop-ins over config.yaml, `key+` appends, the command line over
 * everything, and an unknown key is a warning.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { hostname, networkInterfaces } from "node:os";
import { parse } from "yaml";
import keys from "../../../../core/rke2-config-keys.json" with { type: "json" };
import { at, etc, fatal, loopback, say, useDataDir } from "./host.js";

interface Key {
  readonly name: string;
  readonly command: string;
  readonly type: string;
  readonly default: unknown;
  readonly criticalEnforced: boolean;
  readonly env: readonly string[];
}
const known = new Map((keys as readonly Key[]).map((key) => [key.name, key]));

/** Aliases of `etcd-snapshot`'s own flags. */
const snapshotFlags: Readonly<Record<string, string>> = {
  name: "etcd-snapshot-name",
  dir: "etcd-snapshot-dir",
  "snapshot-compress": "etcd-snapshot-compress",
  "snapshot-retention": "etcd-snapshot-retention",
  s3: "etcd-s3",
};

export interface Config {
  readonly values: ReadonlyMap<string, unknown>;
  text(key: string): string | undefined;
  list(key: string): string[];
  flag(key: string): boolean;
  number(key: string): number;
}

export interface Given {
  readonly flags: ReadonlyMap<string, string | string[]>;
  readonly words: readonly string[];
}

/** Splits arguments into flags and words. A flag that is neither RKE2's nor the command's own ends the program, as it does upstream. */
export function parseArguments(args: readonly string[], own: readonly string[] = []): Given {
  const flags = new Map<string, string | string[]>();
  const words: string[] = [];
  for (let index = 0; index < args.length; index++) {
    const arg = args[index] as string;
    if (!arg.startsWith("-")) {
      words.push(arg);
      continue;
    }
    const [, written = "", attached] = /^--?([^=]+)(?:=([\s\S]*))?$/.exec(arg) ?? [];
    const name = written === "o" ? "output" : written === "t" ? "token" : written === "s" ? "server" : written;
    const key = known.get(name);
    if (key === undefined && !own.includes(name)) {
      process.stderr.write(`Incorrect Usage: flag provided but not defined: -${name}\n`);
      process.exit(1);
    }
    const isSwitch = key === undefined ? ["f", "force", "enable", "disable", "s3", "snapshot-compress"].includes(name) : key.type === "bool";
    const value = attached ?? (isSwitch ? "true" : args[++index]);
    if (value === undefined) {
      process.stderr.write(`Incorrect Usage: flag needs an argument: -${name}\n`);
      process.exit(1);
    }
    if (key?.type === "list") flags.set(name, [...asList(flags.get(name)), ...value.split(",")]);
    else flags.set(name, value);
  }
  return { flags, words };
}

const asList = (value: unknown): string[] =>
  value === undefined || value === null || value === "" ? [] : (Array.isArray(value) ? value : [value]).map((item) => String(item));

/** Reads all that configures a command. `etcd-snapshot` takes its own keys alone and warns of every other one. */
export function readConfig(command: "server" | "agent" | "etcd-snapshot", given: Given): Config {
  const values = new Map<string, unknown>();
  const mine = (key: Key) => command === "server" || (command === "agent" ? key.command === "both" : isSnapshotKey(key.name));
  for (const key of known.values()) {
    const found = key.env.map((name) => process.env[name]).find((value) => value !== undefined && value !== "");
    if (found !== undefined && key.name !== "config") values.set(key.name, key.type === "list" ? found.split(",") : found);
  }
  for (const [name, value] of readFiles(given)) {
    const key = known.get(name);
    if (key === undefined || !mine(key)) say("warning", `Unknown flag --${name} found in config.yaml, skipping`);
    else values.set(name, value);
  }
  for (const [name, value] of given.flags) values.set((command === "etcd-snapshot" && snapshotFlags[name]) || name, value);
  const get = (name: string) => values.get(name) ?? known.get(name)?.default ?? undefined;
  const config: Config = {
    values,
    text: (name) => asList(get(name))[0],
    list: (name) => asList(get(name)).flatMap((item) => (name.endsWith("-arg") ? [item] : item.split(","))),
    flag: (name) => String(get(name)) === "true",
    number: (name) => Number(get(name)),
  };
  const directory = config.text("data-dir");
  if (directory !== undefined) useDataDir(directory);
  return config;
}

const isSnapshotKey = (name: string) => /^(etcd-snapshot|etcd-s3)|^(data-dir|node-name|debug|config)$/.test(name);

/** Keys of config.yaml and its drop-ins, later files over earlier ones. */
function readFiles(given: Given): Map<string, unknown> {
  const chosen = given.flags.get("config") ?? process.env["RKE2_CONFIG_FILE"];
  const base = typeof chosen === "string" ? at(chosen) : etc("rke2/config.yaml");
  const dropIns = existsSync(`${base}.d`)
    ? readdirSync(`${base}.d`)
        .filter((name) => /\.ya?ml$/.test(name))
        .sort()
        .map((name) => `${base}.d/${name}`)
    : [];
  if (!existsSync(base) && dropIns.length === 0 && chosen !== undefined) fatal(`stat ${base}: no such file or directory`);
  const merged = new Map<string, unknown>();
  for (const path of [base, ...dropIns]) {
    if (!existsSync(path)) continue;
    let content: unknown;
    try {
      content = parse(readFileSync(path, "utf8"), { version: "1.1" });
    } catch (error) {
      fatal(`failed to parse config file ${path}: yaml: ${(error as Error).message.split("\n")[0]}`);
    }
    if (content === null) continue;
    if (typeof content !== "object" || Array.isArray(content)) fatal(`failed to parse config file ${path}: yaml: cannot unmarshal into a map`);
    for (const [written, value] of Object.entries(content as Record<string, unknown>)) {
      const name = written.replace(/\+$/, "");
      merged.set(name, written === name ? value : [...asList(merged.get(name)), ...asList(value)]);
    }
  }
  return merged;
}

/** The values a joining server must share with the others, as text. */
export function criticalValues(config: Config): Record<string, string> {
  const critical = [...known.values()].filter((key) => key.criticalEnforced);
  return Object.fromEntries(critical.map((key) => [key.name, config.list(key.name).join(",")]));
}

/** `<key>-file` beats nothing and is beaten by `<key>`: the first line of the file. */
export function secretOf(config: Config, key: "token" | "agent-token"): string | undefined {
  const direct = config.text(key);
  if (direct !== undefined) return direct.trim();
  const file = config.text(`${key}-file`);
  if (file === undefined) return undefined;
  if (!existsSync(at(file))) fatal(`open ${file}: no such file or directory`);
  return readFileSync(at(file), "utf8").trim() || undefined;
}

export interface Identity {
  readonly name: string;
  readonly address: string;
}

/** Who this node is: as configured, else the host's name and the address of its first network. */
export function identify(config: Config): Identity {
  const name = (config.text("node-name") ?? hostname()).toLowerCase();
  const configured = config.list("node-ip")[0];
  if (configured !== undefined) return { name, address: configured };
  const found = Object.values(networkInterfaces())
    .flat()
    .find((each) => each?.family === "IPv4" && !each.internal);
  if (found === undefined && loopback === "127.0.0.1") fatal('no default routes found in "/proc/net/route" or "/proc/net/ipv6_route"');
  return { name, address: found?.address ?? loopback };
}
