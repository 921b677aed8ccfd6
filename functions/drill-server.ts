/** The throw-away server of a drill: what is stored of it, shared by the steps that make, use and end it. */
import type { NodeGroup } from "../core/groups.js";
import type { SnapshotSource } from "../core/restore.js";

export const drillGroup = "drill-server";

/** Stored as the group `drill-server`. */
export interface DrillGroup extends NodeGroup {
  /** What it restores, as it was found before the server was launched. */
  readonly source: SnapshotSource;
}
