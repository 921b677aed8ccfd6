/** A cluster file with nothing to say against it, and ways to spoil it. */
import { stringify } from "yaml";
import { type ClusterFile, clusterFileSchema } from "../../core/cluster-file.js";
import type { Fault } from "../../core/failures.js";

export type Spoil = Readonly<Record<string, unknown>>;

const good = {
  apiVersion: "drover.dev/v1",
  kind: "Cluster",
  metadata: { name: "prod" },
  spec: {
    version: "v1.35.7+rke2r1",
    servers: { count: 3, instanceTypes: ["m6i.xlarge", "m5.xlarge"] },
    agentPools: [
      { name: "general", count: 2, instanceTypes: ["m6i.large"] },
      { name: "batch", count: 2, instanceTypes: ["m6i.large"], market: "spot" },
    ],
    image: { id: "ami-0123456789abcdef0" },
    network: {
      vpcId: "vpc-0a1b2c3d4e5f60718",
      subnetIds: ["subnet-0aaa1111bbbb2222c", "subnet-0bbb2222cccc3333d", "subnet-0ccc3333dddd4444e"],
    },
  },
};

/** The file with values put at dotted paths; `undefined` takes a value out. A number in a path is an index. */
export function written(spoil: Spoil = {}): Record<string, unknown> {
  const file = structuredClone(good) as Record<string, unknown>;
  for (const [path, value] of Object.entries(spoil)) {
    const parts = path.split(".");
    const last = parts.pop() as string;
    let at = file as Record<string, unknown>;
    for (const part of parts) {
      at[part] ??= {};
      at = at[part] as Record<string, unknown>;
    }
    if (value === undefined) delete at[last];
    else at[last] = value;
  }
  return file;
}

export function asText(spoil: Spoil = {}): string {
  return stringify(written(spoil));
}

export function clusterFile(spoil: Spoil = {}): ClusterFile {
  return clusterFileSchema.parse(written(spoil));
}

/** `error spec.x: message`, for tests that read like what a person sees. */
export function shown(faults: readonly Fault[]): string[] {
  return faults.map(({ severity, path, message }) => `${severity} ${path}: ${message}`);
}
