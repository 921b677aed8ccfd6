/**
 * kubectl and crictl, for what a node's keeper asks of them. What they do not model they refuse, by name and with status 1.
 */
import { readFileSync } from "node:fs";
import { stringify } from "yaml";
import { Api, ApiError, type KubeObject, readKubeconfig } from "./api.js";
import { reasonOf } from "./host.js";
import { runInPod } from "./kubelet.js";
import { podStates } from "./pods.js";

const kinds: Readonly<Record<string, { readonly path: string; readonly namespaced: boolean; readonly kind: string }>> = {};
for (const [names, group, namespaced, kind] of [
  ["nodes node no", "/api/v1", false, "node"],
  ["namespaces namespace ns", "/api/v1", false, "namespace"],
  ["pods pod po", "/api/v1", true, "pod"],
  ["secrets secret", "/api/v1", true, "secret"],
  ["configmaps configmap cm", "/api/v1", true, "configmap"],
  ["events event ev", "/api/v1", true, "event"],
  ["leases lease", "/apis/coordination.k8s.io/v1", true, "lease"],
  ["etcdsnapshotfiles etcdsnapshotfile", "/apis/k3s.cattle.io/v1", false, "etcdsnapshotfile"],
] as const) {
  const [plural] = names.split(" ");
  for (const name of names.split(" ")) Object.assign(kinds, { [name]: { path: `${group}|${plural}`, namespaced, kind } });
}
/** Kinds that are asked for and of which there are none here. */
const emptyKinds = new Set(["helmcharts", "addons", "jobs", "helmcharts,addons,jobs"]);

class Usage extends Error {}

const valued = [
  "kubeconfig",
  "request-timeout",
  "namespace",
  "output",
  "selector",
  "field-selector",
  "raw",
  "sort-by",
  "wait",
  "ignore-not-found",
  "all-namespaces",
  "container",
  "overwrite",
];
const switches = ["ignore-not-found", "all-namespaces", "wait", "overwrite"];
const short: Readonly<Record<string, string>> = { n: "namespace", o: "output", l: "selector", A: "all-namespaces", c: "container" };

interface Asked {
  readonly flags: ReadonlyMap<string, string>;
  readonly words: readonly string[];
  readonly after: readonly string[];
}

function readArguments(args: readonly string[]): Asked {
  const flags = new Map<string, string>();
  const words: string[] = [];
  for (let index = 0; index < args.length; index++) {
    const arg = args[index] as string;
    if (arg === "--") return { flags, words, after: args.slice(index + 1) };
    const [, dashes, written = "", attached] = /^(--?)([A-Za-z-]+)(?:=([\s\S]*))?$/.exec(arg) ?? [];
    if (dashes === undefined || arg === "-") {
      words.push(arg);
      continue;
    }
    const name = dashes === "-" ? short[written] : written;
    if (name === undefined || !valued.includes(name)) throw new Usage(`unknown flag: ${arg}`);
    flags.set(name, attached ?? (switches.includes(name) ? "true" : (args[++index] ?? "")));
  }
  return { flags, words, after: [] };
}

export async function kubectl(args: readonly string[]): Promise<number> {
  try {
    const asked = readArguments(args);
    const file = asked.flags.get("kubeconfig") ?? process.env["KUBECONFIG"];
    if (file === undefined) throw new Usage("no kubeconfig: pass --kubeconfig");
    const { url, tls } = readKubeconfig(readFileSync(file, "utf8"));
    const seconds = Number(/^(\d+)s?$/.exec(asked.flags.get("request-timeout") ?? "30s")?.[1] ?? Number.NaN);
    if (Number.isNaN(seconds)) throw new Usage(`--request-timeout=${asked.flags.get("request-timeout")}`);
    return await act(new Api(() => [url], tls, seconds === 0 ? 3600 : seconds), asked);
  } catch (error) {
    if (error instanceof Usage) process.stderr.write(`error: the stand-in's kubectl does not model this: ${error.message}\n`);
    else if (error instanceof ApiError) process.stderr.write(`Error from server (${error.reason || error.status}): ${error.message}\n`);
    else process.stderr.write(`Unable to connect to the server: ${reasonOf(error)}\n`);
    return 1;
  }
}

async function act(api: Api, asked: Asked): Promise<number> {
  const [verb = "", what = "", ...names] = asked.words;
  const raw = asked.flags.get("raw");
  if (verb === "get" && raw !== undefined) {
    const { status, text } = await api.raw("GET", raw);
    if (status !== 200) throw new ApiError(status, status === 401 ? "Unauthorized" : "InternalError", text.trim());
    process.stdout.write(text);
    return 0;
  }
  switch (verb) {
    case "get":
      return get(api, asked, what, names);
    case "delete":
      return remove(api, asked, what, [...names, ...asked.after]);
    case "exec":
      return exec(api, what, asked.after);
    case "annotate":
    case "label":
      return mark(api, verb === "label" ? "labels" : "annotations", what, names);
    case "cordon":
    case "uncordon":
      return cordon(api, [what, ...names], verb === "cordon");
    default:
      throw new Usage(`kubectl ${asked.words.join(" ")}`);
  }
}

function collection(what: string, asked: Asked): { readonly url: string; readonly kind: string } {
  const known = kinds[what];
  if (known === undefined) throw new Usage(`resource type "${what}"`);
  const [group, plural] = known.path.split("|");
  const namespace =
    known.namespaced && asked.flags.get("all-namespaces") !== "true" ? `/namespaces/${asked.flags.get("namespace") ?? "default"}` : "";
  return { url: `${group}${namespace}/${plural}`, kind: known.kind };
}

async function get(api: Api, asked: Asked, written: string, given: readonly string[]): Promise<number> {
  const [what = "", slashed] = written.split("/");
  const names = slashed === undefined ? given : [slashed, ...given];
  if (emptyKinds.has(what)) {
    process.stderr.write("No resources found\n");
    return 0;
  }
  const { url, kind } = collection(what, asked);
  const output = asked.flags.get("output") ?? "";
  const query = new URLSearchParams();
  if (asked.flags.has("selector")) query.set("labelSelector", asked.flags.get("selector") as string);
  if (asked.flags.has("field-selector")) query.set("fieldSelector", asked.flags.get("field-selector") as string);
  const missingIsFine = asked.flags.get("ignore-not-found") === "true";
  const found: KubeObject[] = [];
  if (names.length === 0) found.push(...(await api.list(`${url}?${query}`)));
  for (const name of names) {
    const object = missingIsFine ? await api.find(`${url}/${name}`) : await api.call("GET", `${url}/${name}`);
    if (object !== undefined) found.push(object);
  }
  const single = names.length === 1;
  if (single && found.length === 0) return 0;
  const value = single ? found[0] : { apiVersion: "v1", kind: "List", items: found, metadata: { resourceVersion: "" } };
  if (output.startsWith("jsonpath=")) process.stdout.write(jsonPath(output.slice("jsonpath=".length), value));
  else if (output === "json") process.stdout.write(`${JSON.stringify(value, undefined, 4)}\n`);
  else if (output === "yaml") process.stdout.write(stringify(value));
  else if (output === "name") process.stdout.write(found.map((object) => `${kind}/${object.metadata.name}\n`).join(""));
  else if (output === "" || output === "wide")
    process.stdout.write(found.length === 0 ? "" : table(found, asked.flags.get("all-namespaces") === "true"));
  else throw new Usage(`--output=${output}`);
  if (found.length === 0) process.stderr.write("No resources found\n");
  return 0;
}

function table(objects: readonly KubeObject[], namespaces: boolean): string {
  const rows = objects.map((object) => {
    const ready = (object.status?.["conditions"] as { type: string; status: string }[] | undefined)?.find(({ type }) => type === "Ready");
    const state = object.status?.["phase"] ?? (ready === undefined ? "" : ready.status === "True" ? "Ready" : "NotReady");
    const version = (object.status?.["nodeInfo"] as { kubeletVersion?: string } | undefined)?.kubeletVersion ?? "";
    return [
      ...(namespaces ? [object.metadata.namespace ?? ""] : []),
      object.metadata.name,
      String(state),
      version,
      object.metadata.creationTimestamp ?? "",
    ];
  });
  const all = [[...(namespaces ? ["NAMESPACE"] : []), "NAME", "STATUS", "VERSION", "CREATED"], ...rows];
  const widths = (all[0] as string[]).map((_, column) => Math.max(...all.map((row) => (row[column] as string).length)));
  return all
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column] as number))
          .join("   ")
          .trimEnd()}\n`,
    )
    .join("");
}

async function remove(api: Api, asked: Asked, what: string, names: readonly string[]): Promise<number> {
  const { url, kind } = collection(what, asked);
  if (names.length === 0) throw new Usage("delete without names");
  const ignore = asked.flags.get("ignore-not-found") === "true";
  let status = 0;
  for (const name of names) {
    if (ignore && (await api.find(`${url}/${name}`)) === undefined) continue;
    try {
      await api.call("DELETE", `${url}/${name}`);
      process.stdout.write(`${kind} "${name}" deleted\n`);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      if (ignore) continue;
      process.stderr.write(`Error from server (NotFound): ${error.message}\n`);
      status = 1;
      continue;
    }
    while (asked.flags.get("wait") !== "false" && (await api.find(`${url}/${name}`)) !== undefined)
      await new Promise((resolve) => setTimeout(resolve, 500));
  }
  return status;
}

async function exec(api: Api, pod: string, command: readonly string[]): Promise<number> {
  if (command.length === 0) throw new Usage("exec without a command");
  const query = command.map((part) => `command=${encodeURIComponent(part)}`).join("&");
  return show(await api.call<{ status: number; stdout: string; stderr: string }>("POST", `/api/v1/namespaces/kube-system/pods/${pod}/exec?${query}`));
}

function show({ status, stdout, stderr }: { readonly status: number; readonly stdout: string; readonly stderr: string }): number {
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  if (status !== 0) process.stderr.write(`command terminated with exit code ${status}\n`);
  return status;
}

async function mark(api: Api, field: "labels" | "annotations", what: string, [name = "", ...pairs]: readonly string[]): Promise<number> {
  if (kinds[what]?.kind !== "node") throw new Usage(`marks on ${what}`);
  const wanted = Object.fromEntries(pairs.map((pair) => (pair.endsWith("-") ? [pair.slice(0, -1), null] : pair.split(/=(.*)/s).slice(0, 2))));
  await api.call("PATCH", `/api/v1/nodes/${name}`, { metadata: { [field]: wanted } });
  process.stdout.write(`node/${name} ${field === "labels" ? "labeled" : "annotated"}\n`);
  return 0;
}

async function cordon(api: Api, names: readonly string[], unschedulable: boolean): Promise<number> {
  for (const name of names) {
    await api.call("PATCH", `/api/v1/nodes/${name}`, { spec: { unschedulable: unschedulable || null } });
    process.stdout.write(`node/${name} ${unschedulable ? "cordoned" : "uncordoned"}\n`);
  }
  return 0;
}

// ------------------------------------------------------------------ jsonpath

/** kubectl's jsonpath templates, with text, fields, `[*]`, equality filters and range. A field that is not there is an empty text. */
export function jsonPath(template: string, value: unknown): string {
  const tokens = [...template.matchAll(/\{((?:"(?:[^"\\]|\\.)*"|[^}"])*)\}|([^{]+)/g)].map((match) =>
    match[2] !== undefined ? { text: match[2] } : { code: (match[1] as string).trim() },
  );
  let position = 0;
  const render = (current: unknown): string => {
    let out = "";
    while (position < tokens.length) {
      const token = tokens[position++] as { readonly text?: string; readonly code?: string };
      const { text, code = "" } = token;
      if (text !== undefined) out += text;
      else if (code === "end") return out;
      else if (code.startsWith("range ")) {
        const start = position;
        const items = select(code.slice("range ".length).trim(), current);
        if (items.length === 0) skip();
        for (const item of items) {
          position = start;
          out += render(item);
        }
      } else if (code.startsWith('"')) out += JSON.parse(code) as string;
      else
        out += select(code, current)
          .map((each) => (typeof each === "object" ? JSON.stringify(each) : String(each)))
          .join(" ");
    }
    return out;
  };
  const skip = () => {
    for (let depth = 1; position < tokens.length && depth > 0; position++) {
      const { code = "" } = tokens[position] as { readonly code?: string };
      if (code.startsWith("range ")) depth++;
      if (code === "end") depth--;
    }
  };
  return render(value);
}

/** Values at a path: `.field`, `.field\.with\.dots`, `[*]`, `[2]`, `[?(@.field=="value")]`. */
function select(path: string, value: unknown): unknown[] {
  let values: unknown[] = [value];
  let rest = path.replace(/^\$/, "");
  while (rest !== "") {
    const field = /^\.((?:\\.|[^.[\\])+)/.exec(rest);
    const filter = /^\[\?\(@\.([A-Za-z.]+)=="([^"]*)"\)\]/.exec(rest);
    const index = /^\[(\*|\d+)\]/.exec(rest);
    if (field !== null) {
      const name = (field[1] as string).replace(/\\(.)/g, "$1");
      values = values.flatMap((each) => own(each, name));
    } else if (filter !== null) {
      values = values.flatMap((each) => (Array.isArray(each) ? each : [])).filter((each) => String(select(`.${filter[1]}`, each)[0]) === filter[2]);
    } else if (index !== null) {
      values = values.flatMap((each) => (Array.isArray(each) ? (index[1] === "*" ? each : each.slice(Number(index[1]), Number(index[1]) + 1)) : []));
    } else {
      throw new Usage(`jsonpath ${path}`);
    }
    rest = rest.slice((field ?? filter ?? index ?? [""])[0].length);
  }
  return values;
}

const own = (value: unknown, name: string): unknown[] => {
  const found = (value as Record<string, unknown> | null)?.[name];
  return found === undefined || found === null ? [] : [found];
};

// -------------------------------------------------------------------- crictl

export async function crictl(args: readonly string[]): Promise<number> {
  const own = ["--runtime-endpoint", "--config"];
  const [verb = "", ...rest] = args.filter(
    (arg, index) => !own.some((name) => arg === name || arg.startsWith(`${name}=`)) && !own.includes(args[index - 1] ?? ""),
  );
  if (verb === "ps") {
    const all = rest.includes("-a") || rest.includes("--all");
    const quiet = rest.includes("-q") || rest.includes("--quiet");
    const name = rest.includes("--name") ? rest[rest.indexOf("--name") + 1] : undefined;
    const strange = rest.find((arg) => arg.startsWith("-") && !["-a", "--all", "-q", "--quiet", "--name"].includes(arg));
    if (strange === undefined) {
      const pods = podStates().filter((pod) => (all || pod.running) && (name === undefined || new RegExp(name).test(pod.name)));
      if (!quiet) process.stdout.write("CONTAINER       STATE     NAME             ATTEMPT\n");
      for (const pod of pods)
        process.stdout.write(
          quiet ? `${pod.id}\n` : `${pod.id.slice(0, 13)}   ${pod.running ? "Running" : "Exited "}   ${pod.name.padEnd(14)}   ${pod.restarts}\n`,
        );
      return 0;
    }
  }
  if (verb === "exec" && rest[0] !== undefined) {
    const pod = podStates().find(({ id }) => id.startsWith(rest[0] as string));
    if (pod?.name === "etcd") return show(await runInPod("node", "etcd-node", rest.slice(1)));
  }
  process.stderr.write(`the stand-in's crictl does not model this: crictl ${args.join(" ")}\n`);
  return 1;
}
