/**
 * Instance types of the local cloud: the common general, compute, memory and burstable families in four sizes each.
 *
 * vCPUs and memory as in the EC2 user guide (instance types). A few families are missing from a zone, as everywhere at AWS: a launch plan that
 * takes a type for granted in every zone is wrong.
 */
export interface InstanceTypeModel {
  readonly name: string;
  readonly architecture: "x86_64" | "arm64";
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly burstable: boolean;
  readonly currentGeneration: boolean;
  /** Letters of the zones that offer it. */
  readonly zones: string;
}

const memoryPerVcpu = { c: 2048, m: 4096, r: 8192 } as const;
const sizes = { large: 2, xlarge: 4, "2xlarge": 8, "4xlarge": 16 } as const;
const burstable = { medium: [2, 4096], large: [2, 8192], xlarge: [4, 16384], "2xlarge": [8, 32768] } as const;

const families = ["m5", "m6i", "m6a", "m7i", "c5", "c6i", "c6a", "c7i", "r5", "r6i", "r7i", "m6g", "m7g", "c6g", "c7g", "r6g", "r7g"];
const offeredIn: Readonly<Record<string, string>> = { m7i: "ab", c7g: "ac" };

/** By name, in a stable order. */
export const instanceTypes: ReadonlyMap<string, InstanceTypeModel> = new Map(
  [
    ...families.flatMap((family) =>
      Object.entries(sizes).map(
        ([size, vcpus]): InstanceTypeModel => ({
          name: `${family}.${size}`,
          architecture: family.endsWith("g") ? "arm64" : "x86_64",
          vcpus,
          memoryMib: vcpus * memoryPerVcpu[family[0] as keyof typeof memoryPerVcpu],
          burstable: false,
          currentGeneration: true,
          zones: offeredIn[family] ?? "abc",
        }),
      ),
    ),
    ...["t3", "t3a", "t4g"].flatMap((family) =>
      Object.entries(burstable).map(
        ([size, [vcpus, memoryMib]]): InstanceTypeModel => ({
          name: `${family}.${size}`,
          architecture: family === "t4g" ? "arm64" : "x86_64",
          vcpus,
          memoryMib,
          burstable: true,
          currentGeneration: true,
          zones: "abc",
        }),
      ),
    ),
  ].map((type) => [type.name, type]),
);
