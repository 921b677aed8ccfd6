/** The command line beside `server` and `agent`: each asks the local supervisor, or looks at the local disk. */
import { randomBytes, X509Certificate } from "node:crypto";
import { cpSync, existsSync, readFileSync, rmSync } from "node:fs";
import { stringify } from "yaml";
import { daysLeft } from "./certificates.js";
import { type Given, parseArguments, readConfig } from "./config.js";
import { agent, data, fatal, places, read, reasonOf, say, server, useDataDir, write } from "./host.js";
import { type Access, ask, askRaw, reach } from "./join.js";
import { renewalDays, serverLeaves } from "./pki.js";
import { isRunning } from "./pods.js";
import type { SnapshotFile } from "./snapshots.js";

const flag = (given: Given, ...names: string[]) => {
  for (const name of names) {
    const value = given.flags.get(name);
    if (value !== undefined) return [value].flat().join(",");
  }
  return undefined;
};

async function supervisor(given: Given, ...urlFlags: string[]): Promise<Access> {
  const token = flag(given, "token") ?? read(server("token"))?.trim();
  if (token === undefined) fatal(`open ${places.server("token")}: no such file or directory`);
  try {
    return await reach(flag(given, ...urlFlags) ?? "https://127.0.0.1:9345", token, "server");
  } catch (error) {
    fatal(reasonOf(error));
  }
}

export async function etcdSnapshot(args: readonly string[]): Promise<void> {
  const [command = "", ...rest] = args;
  const given = parseArguments(rest, ["name", "dir", "snapshot-compress", "snapshot-retention", "s3", "etcd-server", "output", "etcd-token"]);
  const config = readConfig("etcd-snapshot", given);
  if (config.flag("etcd-s3")) fatal("etcd-s3 is not modelled by this stand-in release");
  const access = await supervisor(given, "etcd-server");
  const directory = given.flags.has("dir") || given.flags.has("etcd-snapshot-dir") ? { dir: flag(given, "dir", "etcd-snapshot-dir") } : {};
  const act = async <T>(request: object): Promise<T> => {
    const answer = await askRaw(access, "/db/snapshot", { method: "POST", body: { ...directory, ...request }, seconds: 120 }).catch(
      (error: unknown) => fatal(reasonOf(error)),
    );
    if (answer.status >= 300) fatal(`${answer.text.trim()}; see server log for details`);
    return JSON.parse(answer.text) as T;
  };
  if (command === "save") {
    if (given.words.length > 0) fatal("etcd-snapshot save takes no arguments");
    const file = await act<SnapshotFile>({
      operation: "save",
      name: flag(given, "name", "etcd-snapshot-name") ?? "on-demand",
      compress: config.flag("etcd-snapshot-compress"),
    });
    say("info", `Snapshot ${file.name} saved.`);
  } else if (["ls", "list", "l"].includes(command)) {
    print(await act<(SnapshotFile & { node: string })[]>({ operation: "list" }), flag(given, "output") ?? "table");
  } else if (command === "delete") {
    if (given.words.length === 0) fatal("no snapshots given for removal");
    for (const { name, found } of await act<{ name: string; found: boolean }[]>({ operation: "delete", names: given.words })) {
      if (found) say("info", `Snapshot ${name} deleted.`);
      else say("warning", `Snapshot ${name} not found.`);
    }
  } else if (command === "prune") {
    const retention = flag(given, "snapshot-retention", "etcd-snapshot-retention");
    const gone = await act<string[]>({
      operation: "prune",
      name: flag(given, "name") ?? config.text("etcd-snapshot-name"),
      ...(retention !== undefined && { retention: Number(retention) }),
    });
    for (const name of gone) say("info", `Snapshot ${name} deleted.`);
  } else {
    fatal(`etcd-snapshot ${command} is not known: save, ls, delete, prune`);
  }
}

function print(files: readonly (SnapshotFile & { readonly node: string })[], form: string): void {
  if (form === "json" || form === "yaml") {
    const items = files.map((file) => ({
      apiVersion: "k3s.cattle.io/v1",
      kind: "ETCDSnapshotFile",
      metadata: { name: `local-${file.name}` },
      spec: { snapshotName: file.name, location: file.location, nodeName: file.node },
      status: { creationTime: file.createdAt, readyToUse: true, size: String(file.size) },
    }));
    const list = { apiVersion: "v1", kind: "List", items };
    process.stdout.write(form === "json" ? `${JSON.stringify(list)}\n` : stringify(list));
    return;
  }
  if (form !== "table") fatal(`invalid output format ${form}`);
  process.stdout.write("Name Location Size Created\n");
  for (const file of files) process.stdout.write(`${file.name} ${file.location} ${file.size} ${file.createdAt}\n`);
}

export async function token(args: readonly string[]): Promise<void> {
  const [command = "", ...rest] = args;
  const given = parseArguments(rest, ["new-token"]);
  const directory = flag(given, "data-dir");
  if (directory !== undefined) useDataDir(directory);
  if (command === "generate") {
    process.stdout.write(`${randomBytes(3).toString("hex")}.${randomBytes(8).toString("hex")}\n`);
    return;
  }
  if (command !== "rotate") fatal(`token ${command} is not modelled by this stand-in release: rotate, generate`);
  const access = await supervisor(given, "server");
  const newToken = flag(given, "new-token") ?? randomBytes(8).toString("hex");
  try {
    await ask(access, "/v1-rke2/token", { method: "PUT", body: { token: flag(given, "token") ?? read(server("token"))?.trim(), newToken } });
  } catch (error) {
    fatal(reasonOf(error));
  }
  say("info", "Token rotated, restart rke2 nodes with new token");
}

export async function secretsEncrypt(args: readonly string[]): Promise<void> {
  const [operation = "", ...rest] = args;
  const given = parseArguments(rest, ["output", "f", "force"]);
  const access = await supervisor(given, "server");
  let text: string;
  try {
    text = await ask(access, "/v1-rke2/encrypt", { method: "PUT", body: { operation }, seconds: 120 });
  } catch (error) {
    fatal(reasonOf(error));
  }
  if (operation !== "status") {
    process.stdout.write("keys rotated, reencryption finished\n");
    return;
  }
  const status = JSON.parse(text) as { stage: string; activekey: string; hashmatch: boolean; hasherror?: string };
  if (flag(given, "output") === "json") process.stdout.write(`${JSON.stringify(status)}\n`);
  else {
    process.stdout.write(`Encryption Status: Enabled\nCurrent Rotation Stage: ${status.stage}\n`);
    process.stdout.write(`Server Encryption Hashes: ${status.hashmatch ? "All hashes match" : status.hasherror}\nActive Key: ${status.activekey}\n`);
  }
}

const kubeletLeaves = ["serving-kubelet", "client-kubelet"].map((file) => ({ path: agent(file), service: "kubelet" }));
const services = [
  ...["admin", "api-server", "auth-proxy", "cloud-controller", "controller-manager", "etcd", "kubelet", "kube-proxy", "scheduler", "supervisor"],
  ...["rke2-controller", "rke2-server"],
];

/** Never fails, whatever the certificates are; a rotation wants the service stopped. */
export async function certificate(args: readonly string[]): Promise<void> {
  const [command = "", ...rest] = args;
  const given = parseArguments(rest, ["output", "service"]);
  const chosen = flag(given, "service")?.split(",");
  const strange = chosen?.find((service) => !services.includes(service));
  if (strange !== undefined) fatal(`service ${strange} is not recognized`);
  const leaves = [...serverLeaves.map(({ file, service }) => ({ path: server("tls", file), service })), ...kubeletLeaves].filter(
    ({ path, service }) => existsSync(`${path}.crt`) && (chosen === undefined || chosen.includes(service)),
  );
  if (command === "check") {
    const rows = leaves.map(({ path }) => describe(`${path}.crt`));
    const form = flag(given, "output") ?? "text";
    if (form === "json") process.stdout.write(`${JSON.stringify({ Certificates: rows })}\n`);
    else for (const row of rows) process.stdout.write(`${row.Filename} ${row.Subject} ${row.Usages} ${row.ExpiryTime} ${row.Status}\n`);
    return;
  }
  if (command !== "rotate") fatal(`certificate ${command} is not modelled by this stand-in release: check, rotate`);
  const stamp = Math.floor(Date.now() / 1000);
  if (existsSync(server("tls"))) cpSync(server("tls"), server(`tls-${stamp}`), { recursive: true, preserveTimestamps: true });
  for (const { path } of leaves) for (const end of ["crt", "key"]) rmSync(`${path}.${end}`, { force: true });
  write(data("force-restart"), "");
  say("info", `Successfully backed up certificates to ${places.server(`tls-${stamp}`)}, please restart rke2 server or agent to rotate certificates`);
  if (isRunning("etcd")) say("info", "Static pods are recreated when the service starts");
}

function describe(path: string) {
  const { subject, issuer, validTo, ca } = new X509Certificate(readFileSync(path));
  const days = daysLeft(readFileSync(path, "utf8"));
  const common = (text: string) => /CN=(.*)/.exec(text)?.[1] ?? text;
  return {
    Filename: path.slice(path.lastIndexOf("/") + 1),
    Subject: common(subject),
    Issuer: common(issuer),
    Usages: [ca ? "CertSign" : "ServerAuth,ClientAuth"],
    ExpiryTime: new Date(validTo).toISOString(),
    ResidualTime: Math.round(days * 86_400e9),
    Status: days < 0 ? "EXPIRED" : days < renewalDays ? "WARNING" : "OK",
  };
}
