/** Follows an operation until it ends, or until the person has seen enough. */
import type { ClusterStatus } from "../core/api.js";
import type { OperationRecord } from "../core/records.js";
import { type ApiClient, interruption } from "./api-client.js";
import { CommandFailure, OutOfReach } from "./failures.js";
import { type ClusterSize, progressDisplay } from "./progress.js";
import type { Surroundings } from "./surroundings.js";

/** How long the API may be out of reach while an operation is watched, which goes on all the same. */
const patienceMilliseconds = 5 * 60_000;

/** @throws CommandFailure when interrupted, or when the API stays out of reach: the operation goes on all the same */
export async function watchOperation(
  asked: { readonly cluster: string; readonly operation: string; readonly size?: ClusterSize | undefined },
  api: ApiClient,
  surroundings: Surroundings,
): Promise<OperationRecord> {
  const { cluster, operation } = asked;
  const size = asked.size ?? (await sizeOf(cluster, api));
  const display = progressDisplay(surroundings.err);
  const goesOn = `The operation goes on. Watch it again: drover watch ${cluster}`;
  let lostSince: number | undefined;
  try {
    for (;;) {
      if (surroundings.interrupted.aborted) throw interruption(`Stopped watching ${operation}`, goesOn);
      try {
        const record = await api.call<OperationRecord>("readOperation", { name: cluster, operation });
        if (lostSince !== undefined) display.note("The API answers again");
        lostSince = undefined;
        display.show(record, size, api.endpoint.now());
        if (record.status === "succeeded" || record.status === "failed") return record;
      } catch (error) {
        if (!(error instanceof CommandFailure)) throw error;
        if (error.exit === "interrupted") throw interruption(`Stopped watching ${operation}`, goesOn);
        if (!(error instanceof OutOfReach)) throw error;
        // Nothing goes on in a local cloud that has ended.
        if (api.endpoint.kind === "local") throw error;
        const now = surroundings.now();
        if (lostSince === undefined) display.note(`${error.what}; the operation goes on, asking again`);
        lostSince ??= now;
        if (now - lostSince >= patienceMilliseconds) throw new OutOfReach(error.what, goesOn, { cause: error });
      }
      await surroundings.sleep(api.endpoint.pollMilliseconds);
    }
  } finally {
    display.end();
  }
}

/** How many nodes there will be; a cluster that is gone already has none to wait for. */
export async function sizeOf(cluster: string, api: ApiClient): Promise<ClusterSize> {
  try {
    const { record } = await api.call<ClusterStatus>("readCluster", { name: cluster });
    const { servers, agentPools } = record.wanted.spec;
    return { servers: servers.count, agents: agentPools.reduce((sum, pool) => sum + pool.count, 0) };
  } catch (error) {
    if (error instanceof CommandFailure && error.exit === "notFound") return { servers: 1, agents: 0 };
    throw error;
  }
}
