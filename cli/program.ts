/** The command line: commands, options and help. Each help begins with examples. */
import { Argument, Command as Commander, CommanderError, Option } from "commander";
import { clusterFileLimitBytes } from "../core/api.js";
import { add, check, list as listArtifacts } from "./artifacts.js";
import { create, list, operations, remove, status, validate, watch } from "./clusters.js";
import { type Act, type CommonOptions, commandWith } from "./command.js";
import { CommandFailure, type ExitCode, exitCodeMeanings, exitCodes, faultLine } from "./failures.js";
import { kubeconfig } from "./kubeconfig.js";
import { defaultPort, defaultSpeed, down, localStatus, reset, up } from "./local.js";
import { createSnapshot, drill, listSnapshots, proveSnapshot, pruneSnapshots, restore, showSnapshot } from "./snapshots.js";
import type { Surroundings } from "./surroundings.js";
import { paint, plain } from "./text.js";

/** Runs one command line and answers its exit code. Nothing is thrown. */
export async function run(words: readonly string[], surroundings: Surroundings): Promise<ExitCode> {
  let code: ExitCode = exitCodes.ok;
  const program = buildProgram(surroundings, (result) => {
    code = result;
  });
  try {
    await program.parseAsync([...words], { from: "user" });
    return code;
  } catch (error) {
    return report(error, words.includes("--json"), surroundings);
  }
}

function report(error: unknown, isJson: boolean, { out, err, interrupted }: Surroundings): ExitCode {
  if (error instanceof CommanderError) {
    const isHelp = ["commander.helpDisplayed", "commander.version"].includes(error.code);
    return isHelp ? exitCodes.ok : exitCodes.input;
  }
  const failure =
    error instanceof CommandFailure
      ? error
      : interrupted.aborted
        ? new CommandFailure("interrupted", "Interrupted", "Start the command again when you are ready")
        : new CommandFailure(
            "fault",
            `drover itself failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
            "Report it with this text",
          );
  const code = exitCodes[failure.exit];
  if (isJson) {
    const { exit, what, next, faults } = failure;
    out.write(`${JSON.stringify({ error: { kind: exit, exitCode: code, what, next, faults } }, null, 2)}\n`);
  }
  const faults = failure.faults.map((fault) => `  ${plain(faultLine(fault))}\n`).join("");
  // The terminal has written ^C where the cursor was.
  if (failure.exit === "interrupted" && err.isTerminal) err.write("\n");
  err.write(`${paint(err, "red", plain(failure.what))}\n${faults}${plain(failure.next)}\n`);
  return code;
}

/** Set apart so that the reference page is written from the same commands. */
export function buildProgram(surroundings: Surroundings, done: (code: ExitCode) => void): Commander {
  /** Options every command has; those for the endpoint where one is spoken to. */
  const common = (command: Commander, { speaks = true } = {}) => {
    if (speaks) {
      command
        .addOption(new Option("--endpoint <url>", "the API: output ApiUrl of the stack Drover; DROVER_ENDPOINT unless given"))
        .addOption(new Option("--region <region>", "Region to sign for, where the endpoint's name does not say it"));
    }
    return command.option("--json", "the result as JSON on standard output");
  };
  const acts =
    <Options extends object, Arguments extends readonly unknown[]>(act: Act<Options, Arguments>) =>
    async (...given: unknown[]) => {
      // Commander gives the arguments, then the options, then the command itself.
      const options = given.at(-2) as Options & CommonOptions;
      done(await act(commandWith(options, surroundings), options, ...(given.slice(0, -2) as unknown as Arguments)));
    };
  const examples = (command: Commander, ...lines: readonly (readonly [words: string, what: string])[]) => {
    const width = Math.max(...lines.map(([words]) => words.length));
    const text = lines.map(([words, what]) => `  ${words.padEnd(width)}  ${what}\n`).join("");
    return command.addHelpText("before", `Examples:\n${text}`);
  };

  const program = new Commander("drover")
    .description("Fleets of RKE2 clusters on EC2: create, look, back up, restore, delete.")
    .version("0.1.0", "-V, --version", "print the version")
    .helpOption("-h, --help", "show help, examples first")
    .helpCommand("help [command]", "show help of a command")
    .enablePositionalOptions()
    .showHelpAfterError("Add --help to see how it is used.")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => surroundings.out.write(text),
      writeErr: (text) => surroundings.err.write(text),
      outputError: (text, write) => write(plain(text.replace(/^error: (.)/, (_, letter: string) => letter.toUpperCase()))),
      getOutHelpWidth: () => surroundings.out.columns,
      getErrHelpWidth: () => surroundings.err.columns,
      getOutHasColors: () => surroundings.out.hasColour,
      getErrHasColors: () => surroundings.err.hasColour,
    });
  examples(
    program,
    ["drover local up", "try everything on this machine"],
    ["drover validate examples/ha.yaml", "all faults of a file at once"],
    ["drover create examples/ha.yaml", "preview, question, progress"],
    ["drover status ha", "nodes, endpoint, operation"],
    ["drover kubeconfig ha --output ha.kubeconfig", "its key, for you alone"],
    ["drover snapshot create ha", "a snapshot, proven"],
    ["drover restore ha", "the loss shown, the name typed"],
    ["drover delete ha", "preview, the name typed"],
  );
  program.addHelpText(
    "after",
    `\n${exitCodeTable()}\n\nWhich Drover: --endpoint, else DROVER_ENDPOINT, else the local cloud that runs\nin this folder or one above it (drover local up).`,
  );

  const file = new Argument("<file>", "the cluster file, or - for standard input");
  const name = new Argument("<name>", "the cluster's name");

  const validateCommand = program
    .command("validate")
    .summary("check a cluster file and say everything that is wrong with it")
    .description(
      `Checks a cluster file without asking anybody, and prints every fault with its line. YAML or JSON, UTF-8, at most ${clusterFileLimitBytes} bytes.`,
    )
    .addArgument(file)
    .option("--online", "check it also against the artifact store and the account, and show what would be done")
    .action(acts(validate));
  examples(
    common(validateCommand),
    ["drover validate examples/ha.yaml", "by itself"],
    ["drover validate examples/ha.yaml --online", "also against store and account"],
    ["generate-file | drover validate - --json", "for a pipeline"],
  );

  const createCommand = program
    .command("create")
    .summary("create a cluster, or finish one that is half made")
    .description("Shows what would be done, asks, starts the operation and follows it. The same file again finishes a cluster that is half made.")
    .addArgument(new Argument("[file]", "the cluster file, or - for standard input"))
    .option("-f, --file <file>", "the cluster file, in place of the argument")
    .option("-y, --yes", "do not ask")
    .option("--no-wait", "start it and return, without following")
    .option("--request-id <id>", "repeat an earlier request: the same id is answered with the same operation")
    .action(acts(create));
  examples(
    common(createCommand),
    ["drover create examples/ha.yaml", "preview, question, progress"],
    ["drover create examples/ha.yaml --yes --no-wait", "from a pipeline"],
    ["drover create - --yes < cluster.yaml", "from standard input"],
  );

  examples(
    common(program.command("list").summary("list clusters").description("Lists clusters with their phase, version and size.").action(acts(list))),
    ["drover list", "a table"],
    ["drover list --json", "as data"],
  );

  examples(
    common(
      program
        .command("status")
        .summary("show a cluster")
        .description(
          "Shows a cluster: phase, version, endpoint, conditions, age of its newest proven snapshot and last drill, machines as EC2 shows them, and the latest operation. When servers are lost: what is safe, what would be lost, and the one command.",
        )
        .addArgument(name)
        .action(acts(status)),
    ),
    ["drover status ha", "for a person"],
    ["drover status ha --json", "everything that is recorded"],
  );

  examples(
    common(
      program
        .command("watch")
        .summary("follow an operation to its end")
        .description("Follows an operation, or the latest of a cluster, and ends as it ends. Ctrl-C stops watching; the operation goes on.")
        .addArgument(new Argument("<name|operation>", "a cluster's name or an operation's id"))
        .action(acts(watch)),
    ),
    ["drover watch ha", "the latest operation of a cluster"],
    ["drover watch create-ha-55087597c0d7b28e", "one operation"],
  );

  examples(
    common(
      program
        .command("kubeconfig")
        .summary("get the administrator's kubeconfig")
        .description(
          "Prints the administrator's kubeconfig, or writes it to a file that only you can read. It is a key to everything in the cluster.",
        )
        .addArgument(name)
        .option("-o, --output <file>", "write it to a file, mode 0600; a file that is there is left alone")
        .option("--merge", "add the cluster to the file, $KUBECONFIG or ~/.kube/config unless --output says another")
        .option("--force", "replace what is there")
        .action(acts(kubeconfig)),
    ),
    ["drover kubeconfig ha --output ha.kubeconfig", "to a file of its own"],
    ["drover kubeconfig ha --merge", "into the file that kubectl uses"],
  );

  examples(
    common(
      program
        .command("delete")
        .summary("delete a cluster and everything made for it")
        .description(
          "Shows what would go, asks for the cluster's name, takes a last snapshot, deletes its machines and endpoint, and says what is left and what that costs. Snapshots stay.",
        )
        .addArgument(name)
        .option("--confirm <name>", "the name once more, in place of typing it")
        .option("--override-protection", "delete although the file says protection.delete: true")
        .option("--skip-snapshot", "take no last snapshot before")
        .option("--no-wait", "start it and return, without following")
        .option("--request-id <id>", "repeat an earlier request: the same id is answered with the same operation")
        .action(acts(remove)),
    ),
    ["drover delete ha", "preview, the name typed, progress"],
    ["drover delete ha --confirm ha", "from a script"],
  );

  const snapshot = program.command("snapshot").summary("snapshots of etcd: take, list, show, prove").enablePositionalOptions();
  snapshot
    .description(
      "A snapshot counts once it is proven: S3's own size and SHA-256 are what the server said, a kept token opens it, and its manifest is written. Scheduled ones are taken by spec.backup of the cluster file.",
    )
    .helpCommand(false);
  const snapshotId = new Argument("<snapshot>", "a snapshot's id, or latest: the newest that is proven");
  examples(
    snapshot,
    ["drover snapshot create ha", "take one now"],
    ["drover snapshot list ha", "newest first"],
    ["drover snapshot prune ha --preview", "which go next, and why others stay"],
  );
  examples(
    common(
      snapshot
        .command("create")
        .summary("take a snapshot now, and prove it")
        .description("Saves a snapshot on a server that is not etcd's leader, uploads it, reads size and SHA-256 back, and writes its manifest last.")
        .addArgument(name)
        .option("--preview", "only say what would be done")
        .option("--no-wait", "start it and return, without following")
        .option("--request-id <id>", "repeat an earlier request: the same id is answered with the same operation")
        .action(acts(createSnapshot)),
    ),
    ["drover snapshot create ha", "take it, follow it"],
    ["drover snapshot create ha --no-wait", "from a pipeline"],
  );
  examples(
    common(
      snapshot
        .command("list")
        .summary("list snapshots")
        .description("Lists a cluster's snapshots, newest first, also after it is deleted. One that is not proven does not count.")
        .addArgument(name)
        .action(acts(listSnapshots)),
    ),
    ["drover snapshot list ha", "a table"],
    ["drover snapshot list ha --json", "as data"],
  );
  examples(
    common(
      snapshot
        .command("show")
        .summary("show a snapshot's manifest")
        .description(
          "Shows what is known of a proven snapshot: where, when and by what it was taken, etcd's revision, hashes, token generation. No secret is in it.",
        )
        .addArgument(name)
        .addArgument(snapshotId)
        .action(acts(showSnapshot)),
    ),
    ["drover snapshot show ha latest", "the newest that counts"],
  );
  examples(
    common(
      snapshot
        .command("prove")
        .summary("hold what S3 has now against the manifest")
        .description("Asks S3 for size and SHA-256 of a snapshot as it is now. Exit code 1 when they are not those of the manifest. Changes nothing.")
        .addArgument(name)
        .addArgument(snapshotId)
        .action(acts(proveSnapshot)),
    ),
    ["drover snapshot prove ha latest", "the newest that counts"],
  );
  examples(
    common(
      snapshot
        .command("prune")
        .summary("see which snapshots the next backup removes")
        .description(
          "Says which snapshots spec.backup.keep removes at the end of the next backup, and why each other is kept. Removes nothing itself.",
        )
        .addArgument(name)
        .option("--preview", "say it; there is no other way to call this")
        .action(acts(pruneSnapshots)),
    ),
    ["drover snapshot prune ha --preview", "a table"],
  );

  examples(
    common(
      program
        .command("restore")
        .summary("make a cluster what it was when a snapshot was taken")
        .description(
          "Looks at everything first and shows what would be done and lost; asks for the name; restores in place, onto new servers where none is left, or as a new cluster with --as. Started again after a failure it goes on where it stopped.",
        )
        .addArgument(name)
        .option("--snapshot <snapshot>", "latest, a snapshot's id, or survivor: go on with a living server's data when quorum is lost", "latest")
        .option("--as <new>", "restore as a new cluster of this name; the other stays as it is")
        .option("--preview", "only say what would be done and lost")
        .option("--confirm <name>", "the name once more, in place of typing it; with --as the new one")
        .option("--no-wait", "start it and return, without following")
        .option("--request-id <id>", "repeat an earlier request: the same id is answered with the same operation")
        .action(acts(restore)),
    ),
    ["drover restore ha --preview", "what would be lost"],
    ["drover restore ha", "the newest proven snapshot, in place or onto new servers"],
    ["drover restore ha --snapshot survivor", "quorum is lost, a server lives"],
    ["drover restore ha --as ha-copy", "beside the old one"],
  );

  examples(
    common(
      program
        .command("drill")
        .summary("restore a snapshot on a throw-away server, to prove that it can be")
        .description(
          "Restores the newest proven snapshot on a server of its own, closed off from the cluster, compares it with its manifest, and terminates the server however that ends. Scheduled by spec.backup.drill.",
        )
        .addArgument(name)
        .option("--snapshot <snapshot>", "latest, or a snapshot's id", "latest")
        .option("--preview", "only say what would be done")
        .option("-y, --yes", "do not ask")
        .option("--no-wait", "start it and return, without following")
        .option("--request-id <id>", "repeat an earlier request: the same id is answered with the same operation")
        .action(acts(drill)),
    ),
    ["drover drill ha", "preview, question, progress"],
    ["drover drill ha --yes", "from a pipeline"],
  );

  examples(
    common(
      program
        .command("operations")
        .summary("list a cluster's operations, or show one with its failure card")
        .description("Lists what was done to a cluster, newest first, also after it is deleted; with an id shows its steps and its failure card.")
        .addArgument(name)
        .addArgument(new Argument("[id]", "an operation's id"))
        .action(acts(operations)),
    ),
    ["drover operations ha", "all of a cluster's"],
    ["drover operations ha create-ha-55087597c0d7b28e", "one, with its card"],
  );

  const artifacts = program.command("artifacts").summary("RKE2 releases in the store that nodes install from").enablePositionalOptions();
  artifacts.description("Nodes install from the artifact store alone. A release is downloaded once, checked, and added.").helpCommand(false);
  examples(
    artifacts,
    ["drover artifacts add ./v1.35.7+rke2r1", "check and upload a release"],
    ["drover artifacts list", "what is there"],
    ["drover artifacts check v1.35.7+rke2r1 --cni cilium", "is it enough for Cilium?"],
  );
  examples(
    common(
      artifacts
        .command("add")
        .summary("check a downloaded release and upload it")
        .description(
          "Checks every file of a release against its checksum file and uploads what the store does not have. Safe to start again: it goes on where it stopped.",
        )
        .addArgument(new Argument("<dir>", "folder with the release's files under their upstream names, sha256sum-<arch>.txt among them"))
        .option("--version <version>", "the release, such as v1.35.7+rke2r1; needed unless the folder is named by it, for the files do not say it")
        .action(acts(add)),
    ),
    ["drover artifacts add ./v1.35.7+rke2r1", "folder named by version"],
    ["drover artifacts add dir --version v1.35.7+rke2r1", "any other folder"],
  );
  examples(
    common(
      artifacts
        .command("list")
        .summary("list releases")
        .description("Lists the releases in the store, and for which CNI each is complete.")
        .action(acts(listArtifacts)),
    ),
    ["drover artifacts list", "a table"],
  );
  examples(
    common(
      artifacts
        .command("check")
        .summary("say what is missing of a release")
        .description("Says for every CNI which files of a release are missing. With --cni it fails (exit code 1) when that one is incomplete.")
        .addArgument(new Argument("<version>", "the release, such as v1.35.7+rke2r1"))
        .option("--cni <cni>", "canal, calico, cilium, flannel or none")
        .addOption(new Option("--architecture <architecture>", "only this one").choices(["amd64", "arm64"]))
        .action(acts(check)),
    ),
    ["drover artifacts check v1.35.7+rke2r1", "every CNI"],
    ["drover artifacts check v1.35.7+rke2r1 --cni calico", "one, for a script"],
  );

  const local = program.command("local").summary("a cloud on this machine, to try everything").enablePositionalOptions();
  local
    .description(
      "Runs the real state machines, functions and template against AWS's services modelled on this machine. Needs no account and no rights.",
    )
    .helpCommand(false);
  const state = (command: Commander) => common(command, { speaks: false }).option("--state <dir>", "folder in which .drover/ keeps the state", ".");
  examples(
    local,
    ["drover local up", "start it"],
    ["drover create examples/ha.yaml", "use it, from the same folder"],
    ["drover local down", "stop it; it remembers everything"],
  );
  examples(
    state(
      local
        .command("up")
        .summary("start the local cloud")
        .description(
          "Starts the local cloud behind the terminal, or goes on from where it stopped. A new one holds a release that stands in for RKE2's.",
        )
        .option("--seed <seed>", "decides everything that is random in a new account (default: 1)")
        .option("--speed <factor>", `how much faster than real time (default: ${defaultSpeed})`)
        .option("--port <port>", `port on 127.0.0.1; 0 takes any free one (default: ${defaultPort})`)
        .option("--trace <file>", "append every AWS call to a file, a line of JSON each, secrets redacted")
        .option("--assembly <dir>", "run this synthesized assembly, such as one with other settings (default: made from these sources)")
        .option("--no-release", "begin with an empty artifact store")
        .option("--foreground", "stay in the terminal until Ctrl-C")
        .action(acts(up)),
    ),
    ["drover local up", "behind the terminal"],
    ["drover local up --speed 1 --foreground", "as slow as AWS, in the terminal"],
    ["drover local up --trace calls.jsonl", "with every AWS call in a file"],
  );
  examples(
    state(
      local
        .command("down")
        .summary("stop the local cloud")
        .description("Stops the local cloud. Operations that are under way run to their end first, in virtual time; everything is remembered.")
        .action(acts(down)),
    ),
    ["drover local down", "stop it"],
  );
  examples(
    state(
      local
        .command("status")
        .summary("say whether it runs, and where")
        .description("Says whether a local cloud runs and where. Exit code 3 when none does.")
        .action(acts(localStatus)),
    ),
    ["drover local status --json", "for a script"],
  );
  examples(
    state(
      local
        .command("reset")
        .summary("forget the local account")
        .description("Deletes the state of a local cloud that is stopped: the next start makes a new account.")
        .option("-y, --yes", "do not ask")
        .action(acts(reset)),
    ),
    ["drover local reset --yes", "without a question"],
  );
  return program;
}

export function exitCodeTable(): string {
  const rows = (Object.keys(exitCodes) as (keyof typeof exitCodes)[]).map(
    (kind) => `  ${String(exitCodes[kind]).padEnd(5)}${exitCodeMeanings[kind]}`,
  );
  return `Exit codes:\n${rows.join("\n")}`;
}
