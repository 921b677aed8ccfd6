/**
 * `rke2 server --cluster-reset`: makes this server the only member of its cluster, from its own data or from a snapshot.
 *
 * It ends the process in either case: with status 0 and the success text inside a shutdown request, or with another text.
 */
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { arch } from "node:os";
import { basename, dirname, join } from "node:path";
import { stringify } from "yaml";
import { detachFromCluster } from "./bolt.js";
import { type Config, type Identity, identify, secretOf } from "./config.js";
import { Etcd, isWholeSnapshot } from "./etcd.js";
import { at, data, fatal, loopback, places, read, reasonOf, say, server, shutDown, version, write } from "./host.js";
import { fileOfImage, imageNames, importImages, requireRuntime } from "./images.js";
import * as pki from "./pki.js";
import { podStates, stopPods } from "./pods.js";
import { peerUrl } from "./server.js";
import { serverPassword } from "./tokens.js";

export async function resetCluster(config: Config): Promise<void> {
  if (config.text("server") !== undefined) {
    fatal("cannot perform cluster-reset while server URL is set - remove server from configuration before resetting");
  }
  // An empty path means none was given (rancher/rke2 issue 1084): a reset without a restore.
  const path = config.text("cluster-reset-restore-path") || undefined;
  if (path === undefined && existsSync(server("db/reset-flag"))) {
    fatal(
      `Managed etcd cluster membership was previously reset, please remove the cluster-reset flag and start rke2 normally. If you need to perform another cluster reset, you must first manually delete the file at ${places.server("db/reset-flag")}`,
    );
  }
  if (path === undefined && !existsSync(server("db/etcd/member/wal"))) fatal("cluster-reset: there is no etcd data to reset");
  const snapshot = path === undefined ? undefined : readSnapshot(config, path);
  const configured = secretOf(config, "token") ?? read(server("token"))?.trim();
  if (configured === undefined) fatal(`${places.server("token")} does not exist, please pass --token to complete the restoration`);
  let password: string;
  try {
    password = serverPassword(configured);
  } catch (error) {
    fatal(reasonOf(error));
  }
  const identity = identify(config);
  const stamp = Math.floor(Date.now() / 1000);
  if (podStates().some(({ running }) => running)) {
    say("info", "Static pod cleanup in progress");
    await stopPods();
  }
  importImages();
  await requireRuntime();
  if (existsSync(server("tls"))) cpSync(server("tls"), server(`tls-${stamp}`), { recursive: true, preserveTimestamps: true });
  if (snapshot !== undefined) {
    say("info", `Performing etcd snapshot restore from ${path}`);
    if (existsSync(server("db/etcd"))) renameSync(server("db/etcd"), server(`db/etcd-old-${stamp}`));
    detachFromCluster(snapshot);
    mkdirSync(server("db/etcd/member/snap"), { recursive: true, mode: 0o700 });
    write(server("db/etcd/member/snap/db"), snapshot);
  }
  await rebuildMember(identity, password, snapshot !== undefined);
  write(data("force-restart"), "");
  write(server("db/reset-flag"), "");
  if (snapshot !== undefined) write(server("db/restored"), "");
  shutDown(
    `Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. Backup and delete ${places.server("db")} on each peer etcd server and rejoin the nodes`,
  );
}

/** Reads and checks a snapshot; what follows its hash is the database. */
function readSnapshot(config: Config, path: string): Buffer {
  if (config.flag("etcd-s3")) fatal("etcd-s3 is not modelled by this stand-in release; pass --etcd-s3=false to restore a local file");
  const file = path.startsWith("/") ? path : places.server(path);
  if (!existsSync(at(file))) fatal(`etcd: snapshot path does not exist: ${file}`);
  if (statSync(at(file)).isDirectory()) fatal(`etcd: snapshot path must be a file, not a directory: ${file}`);
  // Upstream joins the directory to a path that has it already (k3s-io/k3s issue 14526).
  if (file.endsWith(".zip")) fatal(`open ${join(dirname(file), file)}: no such file or directory (${basename(file)})`);
  const content = readFileSync(at(file));
  if (content.length % 512 !== 32) fatal("snapshot missing hash but --skip-hash-check=false");
  if (!isWholeSnapshot(content)) fatal("expected sha256 of the snapshot does not match its content");
  return content.subarray(0, -32);
}

/** Runs etcd alone on the loopback with the data, until it is a cluster of one under this server's address. */
async function rebuildMember(identity: Identity, password: string, restored: boolean): Promise<void> {
  const nameFile = server("db/etcd/name");
  const name =
    restored || !existsSync(nameFile)
      ? `${identity.name}-${Math.floor(Date.now() / 1000)
          .toString(16)
          .padStart(8, "0")
          .slice(-8)}`
      : (read(nameFile) as string).trim();
  write(nameFile, name);
  const program = fileOfImage(imageNames.etcd(version), "bin/etcd");
  if (program === undefined) fatal(`failed to pull image ${imageNames.etcd(version)}: it is in no archive and no registry answers`);
  const file = server("db/etcd/config");
  write(
    file,
    stringify({
      name,
      "data-dir": server("db/etcd"),
      "listen-client-urls": `http://${loopback}:2399`,
      "advertise-client-urls": `http://${loopback}:2399`,
      "listen-peer-urls": `http://${loopback}:2398`,
      "initial-advertise-peer-urls": peerUrl(identity),
      "initial-cluster": `${name}=${peerUrl(identity)}`,
      "initial-cluster-state": "new",
      "initial-cluster-token": name,
      "force-new-cluster": !restored,
      // The log of a restored member knows nothing of what its database came with. A snapshot in it makes a member that joins later take the database
      // whole, and not the log from its first entry on; etcdutl writes one for the same reason.
      ...(restored && { "snapshot-count": 1 }),
      logger: "zap",
      "log-outputs": ["stderr"],
      "enable-grpc-gateway": true,
    }),
  );
  const child = spawn(program, [`--config-file=${file}`], {
    stdio: ["ignore", "ignore", "pipe"],
    env: arch() === "x64" ? {} : { ETCD_UNSUPPORTED_ARCH: "arm64" },
  });
  let log = "";
  child.stderr.on("data", (chunk) => {
    log = (log + chunk).slice(-5000);
  });
  const ended = new Promise<number | null>((resolve) => child.on("exit", resolve));
  let over = false;
  void ended.then(() => {
    over = true;
  });
  const giveUp = async (reason: string): Promise<never> => {
    child.kill("SIGTERM");
    await ended;
    return fatal(`starting kubernetes: preparing server: ${reason}`);
  };
  const etcd = new Etcd(`http://${loopback}:2399`, undefined);
  for (let attempt = 0; ; attempt++) {
    if (over)
      fatal(
        `etcd ended: ${
          log
            .trim()
            .split("\n")
            .findLast((line) => /"level":"(fatal|panic|error)"/.test(line)) ?? log.slice(-500)
        }`,
      );
    const served = await etcd.get("health").then(
      () => true,
      () => false,
    );
    if (served) break;
    if (attempt > 600) await giveUp("etcd does not start from this data");
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  try {
    const shared = await pki.loadSharedData(etcd, password);
    // The disk is replaced whole: it is what the snapshot's cluster had, and nothing newer.
    if (shared === undefined) return await giveUp("no bootstrap data found in datastore - check server token value and verify datastore integrity");
    pki.placeSharedData(shared);
    const members = await etcd.members();
    if (members.length !== 1) await giveUp("failed to update peer url: etcd still has more than one member");
    const [member] = members;
    if (member !== undefined && member.peers[0] !== peerUrl(identity)) await etcd.update(member.id, peerUrl(identity));
    for (const entry of await etcd.range("/registry/minions/", { prefix: true })) await clearRemoval(etcd, entry);
    for (let tenth = 0; restored && !readdirSync(server("db/etcd/member/snap")).some((file) => file.endsWith(".snap")); tenth++) {
      if (tenth > 300) await giveUp("etcd takes no snapshot of its log");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  } catch (error) {
    await giveUp(reasonOf(error));
  }
  child.kill("SIGTERM");
  await ended;
  // Leaf certificates are of the authorities that were: the next start makes them anew.
  for (const { file: leaf } of pki.serverLeaves) for (const end of ["crt", "key"]) rmSync(server("tls", `${leaf}.${end}`), { force: true });
}

/** Old members' removal annotations are of the cluster that was. */
async function clearRemoval(etcd: Etcd, entry: { readonly key: string; readonly value: string }): Promise<void> {
  const node = JSON.parse(entry.value) as { metadata: { annotations?: Record<string, string> } };
  const before = JSON.stringify(node);
  for (const key of ["remove", "removed-node-name"]) delete node.metadata.annotations?.[`etcd.rke2.cattle.io/${key}`];
  if (JSON.stringify(node) !== before) await etcd.put(entry.key, JSON.stringify(node));
}
