/** The one program of the stand-in release: `rke2` itself, and the programs it brings under other names. */
import { runAgent } from "./agent.js";
import { runApiserver } from "./apiserver.js";
import { certificate, etcdSnapshot, secretsEncrypt, token } from "./commands.js";
import { parseArguments } from "./config.js";
import { fatal, reasonOf, useDataDir, version } from "./host.js";
import { crictl, kubectl } from "./kubectl.js";
import { runServer } from "./server.js";

const usage = `rke2 ${version}, a stand-in for tests: server, agent, etcd-snapshot, certificate, secrets-encrypt, token, --version\n`;

async function main([command = "", ...args]: readonly string[]): Promise<void> {
  switch (command) {
    case "server":
      process.on("SIGTERM", () => process.exit(0));
      return runServer(parseArguments(args));
    case "agent":
      process.on("SIGTERM", () => process.exit(0));
      return runAgent(parseArguments(args));
    case "etcd-snapshot":
      return etcdSnapshot(args);
    case "certificate":
      return certificate(args);
    case "secrets-encrypt":
      return secretsEncrypt(args);
    case "token":
      return token(args);
    case "@kube-apiserver":
      if (process.env["RKE2_DATA_DIR"] !== undefined) useDataDir(process.env["RKE2_DATA_DIR"]);
      return runApiserver(args);
    // Not commands of rke2: programs it brings under names of their own.
    case "@kubectl":
      process.exitCode = await kubectl(args);
      return;
    case "@crictl":
      process.exitCode = await crictl(args);
      return;
    case "--version":
    case "-v":
      process.stdout.write(`rke2 version ${version} (${process.env["RKE2_STAND_IN_COMMIT"] ?? "0".repeat(40)})\n`);
      return;
    case "":
    case "help":
    case "--help":
      process.stdout.write(usage);
      return;
    default:
      process.stderr.write(`No help topic for '${command}'\n`);
      process.exitCode = 3;
  }
}

main(process.argv.slice(2)).then(
  () => {
    // Commands that only ask keep connections open for a moment; nothing waits for them.
    if (!["server", "agent", "@kube-apiserver"].includes(process.argv[2] ?? "")) process.exit();
  },
  (error: unknown) => fatal(reasonOf(error).replace(/^ENOSPC: /, "")),
);
