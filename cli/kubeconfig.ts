/** `drover kubeconfig`: the administrator's key to a cluster, to standard output or into a file that only its owner can read. */
import { randomBytes } from "node:crypto";
import { chmod, mkdir, open, readFile, realpath, rename, rm } from "node:fs/promises";
import { delimiter, dirname, join, resolve } from "node:path";
import { type Document, isMap, isSeq, parseDocument, type YAMLMap } from "yaml";
import { checkName } from "./changes.js";
import type { Act } from "./command.js";
import { badInput, CommandFailure, exitCodes } from "./failures.js";

interface Kubeconfig {
  readonly cluster: string;
  readonly generation: number;
  readonly kubeconfig: string;
}

export const kubeconfig: Act<{ readonly output?: string; readonly merge?: boolean; readonly force?: boolean }, [name: string]> = async (
  command,
  { output, merge = false, force = false },
  name,
) => {
  checkName(name);
  const { surroundings } = command;
  const api = await command.api();
  const found = await api.call<Kubeconfig>("readKubeconfig", { name });
  if (output === undefined && !merge) {
    command.answer(found, found.kubeconfig);
    return exitCodes.ok;
  }
  const usual =
    (surroundings.environment.KUBECONFIG ?? "").split(delimiter).find((path) => path !== "") ?? join(surroundings.home, ".kube", "config");
  const path = resolve(surroundings.directory, output ?? usual);
  const present = await readPresent(path);
  if (present !== undefined && !merge && !force) {
    throw badInput(`${path} exists and is not overwritten`, "Choose another file, add --force to replace it, or --merge to add the cluster to it");
  }
  const text = present !== undefined && merge ? merged(present, found, path, force) : found.kubeconfig;
  await writePrivate(path, text, { replace: present !== undefined });
  command.answer({ cluster: name, file: path, merged: merge }, "");
  if (!command.isJson) command.tell(`${path} is written, readable by you alone. Use it: kubectl --kubeconfig ${path} --context ${name} get nodes\n`);
  return exitCodes.ok;
};

async function readPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT") return undefined;
    if (code === "EISDIR") throw badInput(`${path} is a directory`, "Give a file in it");
    if (code === "EACCES") throw badInput(`${path} may not be read`, `Look at its owner and mode: ls -l ${path}`);
    throw error;
  }
}

/** Adds the cluster, its user and its context, and makes it the current one; everything else in the file stays as it is written. */
function merged(present: string, found: Kubeconfig, path: string, force: boolean): string {
  const into = parseDocument(present);
  const from = parseDocument(found.kubeconfig);
  if (into.errors.length > 0 || (into.contents !== null && !isMap(into.contents))) {
    throw badInput(`${path} is not a kubeconfig, so nothing can be added to it`, "Write to another file with --output");
  }
  if (into.contents === null) return found.kubeconfig;
  for (const kind of ["clusters", "users", "contexts"] as const) {
    for (const entry of entriesOf(from, kind)) {
      const list = into.get(kind);
      if (list !== undefined && list !== null && !isSeq(list))
        throw badInput(`${path} has no list under ${kind}`, "Write to another file with --output");
      const name = entry.get("name");
      const at = entriesOf(into, kind).findIndex((each) => each.get("name") === name);
      if (at === -1) {
        if (isSeq(list)) list.add(entry);
        else into.set(kind, into.createNode([entry]));
      } else if (JSON.stringify(entriesOf(into, kind)[at]) !== JSON.stringify(entry)) {
        if (!force)
          throw badInput(
            `${path} holds another ${kind.slice(0, -1)} named ${String(name)}`,
            "Add --force to replace it, or write to another file with --output",
          );
        into.setIn([kind, at], entry);
      }
    }
  }
  into.set("current-context", from.get("current-context"));
  return into.toString();
}

function entriesOf(document: Document.Parsed, kind: string): YAMLMap[] {
  const list = document.get(kind);
  return isSeq(list) ? list.items.filter(isMap) : [];
}

/** The whole file or nothing, mode 0600 from its first byte. */
async function writePrivate(given: string, text: string, { replace }: { readonly replace: boolean }): Promise<void> {
  // A link to the file stays a link.
  const path = await realpath(given).catch(() => given);
  const fresh = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const handle = await open(replace ? fresh : path, "wx", 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (!replace) return;
    await chmod(fresh, 0o600);
    await rename(fresh, path);
  } catch (error) {
    await rm(fresh, { force: true });
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") throw badInput(`${path} was made by somebody else at this moment`, "Look at it, then start the command again");
    throw new CommandFailure("input", `${path} cannot be written: ${message}`, "Choose another file", [], { cause: error });
  }
}
