/** The reference page of the command line, written from the commands themselves. */
import type { Command } from "commander";
import { exitCodeMeanings, exitCodes } from "./failures.js";
import { buildProgram } from "./program.js";
import type { Screen, Surroundings } from "./surroundings.js";

/** docs/reference/cli.md */
export function cliPage(): string {
  let written = "";
  const page: Screen = { write: (text) => (written += text), isTerminal: false, hasColour: false, columns: 80, rows: 24 };
  const program = buildProgram({ out: page, err: page } as Surroundings, () => {});
  const helpOf = (command: Command) => {
    written = "";
    command.outputHelp();
    return written.trim();
  };
  const codes = (Object.keys(exitCodes) as (keyof typeof exitCodes)[]).map((kind) => `| ${exitCodes[kind]} | ${exitCodeMeanings[kind]} |`);
  const sections = commandsOf(program, "drover").map(({ path, command }) => `## ${path}\n\n\`\`\`text\n${helpOf(command)}\n\`\`\`\n`);
  return [
    "# The command line\n",
    "Written from the commands by `npm run docs`. In this repository `npm run drover -- ...` and `node cli/drover.js ...` are the same as `drover ...`.\n",
    "Results go to standard output, progress, previews and errors to standard error. With `--json` the result is one JSON document; an error then is",
    '`{ "error": { kind, exitCode, what, next, faults } }`. Progress is redrawn at a terminal and written as plain lines elsewhere; `NO_COLOR` takes the',
    "colours away.\n",
    "Every request may be sent twice: a command makes one request id and sends it again when the network fails. `--request-id` repeats one by hand.\n",
    "## Exit codes\n",
    "| Code | Meaning |\n|---|---|",
    ...codes,
    "",
    "## Which Drover, and as whom\n",
    "`--endpoint`, else `DROVER_ENDPOINT`, else the local cloud that runs in this folder or one above it (`.drover/local.json`, written by",
    "`drover local up`, mode 0600). Requests are signed with AWS credentials as the AWS SDK finds them: environment, profile, single sign-on, instance",
    "role. The caller needs `execute-api:Invoke` on the routes that are used. The Region is read from the endpoint's name, else from `--region`,",
    "`AWS_REGION` or `AWS_DEFAULT_REGION`.\n",
    ...sections,
  ].join("\n");
}

/** Every command that does something, in the order of the help, with the groups before their commands. */
function commandsOf(command: Command, path: string): { path: string; command: Command }[] {
  return [
    { path, command },
    ...command.commands.filter((each) => each.name() !== "help").flatMap((each) => commandsOf(each, `${path} ${each.name()}`)),
  ];
}
