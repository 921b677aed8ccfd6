/** The runtime directory: programs that exist once the node has started, as small scripts around this one. */
import { chmodSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { data, places, read, run, version, write } from "./host.js";

/** How this program is started again: Node, and the file that runs. */
export const selfCommand = (): string[] => [process.execPath, process.argv[1] as string];

/** Environment that a program started by this one needs; nothing else of ours reaches it. */
export function selfEnvironment(): Record<string, string> {
  const names = ["RKE2_STAND_IN_VERSION", "RKE2_STAND_IN_ROOT", "RKE2_STAND_IN_LOOPBACK", "RKE2_STAND_IN_PACE"];
  return Object.fromEntries(names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name] as string]])));
}

/** Directory of this version below $D/data, where the launcher has put the program. */
const directoryName = () => process.env["RKE2_STAND_IN_DIRECTORY"] ?? `${version.replace("+", "-")}-000000000000`;

export function linkRuntime(): void {
  const bin = join(data("data"), directoryName(), "bin");
  mkdirSync(bin, { recursive: true });
  const environment = Object.entries(selfEnvironment())
    .map(([name, value]) => `${name}='${value}'`)
    .join(" ");
  for (const name of ["kubectl", "crictl", "ctr"]) {
    write(join(bin, name), `#!/bin/sh\nexec env ${environment} '${selfCommand().join("' '")}' @${name} "$@"\n`, 0o755);
    chmodSync(join(bin, name), 0o755);
  }
  // Replaced in one step: a script that asks kubectl meanwhile finds the old one or the new one.
  rmSync(data("bin.new"), { force: true });
  symlinkSync(bin, data("bin.new"));
  renameSync(data("bin.new"), data("bin"));
  write(data("agent/etc/crictl.yaml"), "runtime-endpoint: unix:///run/k3s/containerd/containerd.sock\n", 0o644);
  removeOldVersions();
}

/** Earlier versions go, except where a container that still runs came from. */
function removeOldVersions(): void {
  const used = existsSync(run("stand-in")) ? commandLines() : "";
  for (const name of readdirSync(data("data"))) {
    if (name !== directoryName() && !used.includes(places.data("data", name))) rmSync(data("data", name), { recursive: true, force: true });
  }
}

function commandLines(): string {
  return readdirSync(run("stand-in"))
    .map((pod) => {
      const [pid] = (read(join(run("stand-in"), pod)) ?? "").split(" ");
      try {
        return read(`/proc/${pid}/cmdline`) ?? "";
      } catch {
        return "";
      }
    })
    .join(" ");
}
