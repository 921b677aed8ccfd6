/**
 * A limit of this computer that all machines share: systemd in each of them takes six inotify instances, and Linux allows root 128 of them unless told
 * otherwise (inotify(7), max_user_instances). The machine that finds none left never boots, and says nothing.
 *
 * The limit is raised while there is a cloud, and put back when the last one goes. Both hold a lock: one cloud may come while another goes.
 */
import { spawnSync } from "node:child_process";

export interface LimitPlaces {
  readonly parameter: string;
  /** Where clouds have their folders, and the limit as it was is kept. */
  readonly folder: string;
  readonly lock: string;
}

const usual: LimitPlaces = {
  parameter: "/proc/sys/fs/inotify/max_user_instances",
  folder: "/run/drover-machines",
  lock: "/run/lock/drover-machines.lock",
};
/** For more machines than memory has room for. */
export const inotifyInstances = 8192;

const raise = `
set -e
now="$(cat "$1")"
if [ "$now" -ge "$3" ]; then exit; fi
if [ ! -e "$2/inotify-instances" ]; then echo "$now" >"$2/inotify-instances"; fi
echo "$3" >"$1"
`;
const restore = `
set -e
for cloud in "$2"/drover-*; do
  if [ -e "$cloud" ]; then exit; fi
done
if [ -e "$2/inotify-instances" ]; then
  cat "$2/inotify-instances" >"$1"
  rm "$2/inotify-instances"
fi
rmdir "$2" 2>/dev/null || true
`;

/** Once the folder of a cloud is there. */
export function raiseLimits(places: LimitPlaces = usual): void {
  locked(raise, places);
}

/** Once the folder of a cloud is gone: when it was the last, takes away the folder of all. */
export function restoreLimits(places: LimitPlaces = usual): void {
  locked(restore, places);
}

function locked(script: string, { parameter, folder, lock }: LimitPlaces): void {
  const words = [lock, "sh", "-c", script, "limits", parameter, folder, String(inotifyInstances)];
  const { error, status, stderr } = spawnSync("flock", words, { encoding: "utf8" });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${parameter} was not set (status ${status}): ${stderr.trim()}`);
}
