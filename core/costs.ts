/**
 * What things cost, approximately: enough to tell a person what is left behind, and the bench what a create costs.
 *
 * On-demand list prices of us-east-1 in US dollars, without free tiers, taxes, data transfer and discounts (AWS public price list). Other regions are mostly
 * 0 to 30 % dearer. Spot instances are counted at the on-demand price, which is their upper bound.
 */
import type { LeftResource } from "./records.js";

/** Hours in AWS's month. */
export const hoursPerMonth = 730;

/** Dollars an hour of a family's `large` (2 vCPU, 1 for .medium of Graviton aside); sizes of a family are priced in proportion. */
const largePerHour: Readonly<Record<string, number>> = {
  t2: 0.0928,
  t3: 0.0832,
  t3a: 0.0752,
  t4g: 0.0672,
  m5: 0.096,
  m5a: 0.086,
  m5d: 0.113,
  m5n: 0.119,
  m6a: 0.0864,
  m6g: 0.077,
  m6gd: 0.0904,
  m6i: 0.096,
  m6id: 0.1187,
  m6in: 0.1392,
  m7a: 0.1159,
  m7g: 0.0816,
  m7gd: 0.1068,
  m7i: 0.1008,
  "m7i-flex": 0.0958,
  m8g: 0.0898,
  c5: 0.085,
  c5a: 0.077,
  c5d: 0.096,
  c5n: 0.108,
  c6a: 0.0765,
  c6g: 0.068,
  c6gd: 0.0768,
  c6gn: 0.0864,
  c6i: 0.085,
  c6id: 0.1008,
  c6in: 0.1134,
  c7a: 0.1026,
  c7g: 0.0725,
  c7gd: 0.0907,
  c7i: 0.0893,
  "c7i-flex": 0.0848,
  c8g: 0.0798,
  r5: 0.126,
  r5a: 0.113,
  r5d: 0.144,
  r6a: 0.1134,
  r6g: 0.1008,
  r6i: 0.126,
  r6id: 0.1512,
  r7a: 0.1522,
  r7g: 0.1071,
  r7i: 0.1323,
  r8g: 0.1178,
  x2gd: 0.167,
  i3: 0.156,
  i3en: 0.226,
  i4g: 0.1544,
  i4i: 0.172,
  g4dn: 0.263,
  g5: 0.503,
  g6: 0.4024,
};

/** For a family that is not in the table: a middling price of its class. */
const largePerHourByClass: Readonly<Record<string, number>> = { t: 0.08, c: 0.09, m: 0.1, r: 0.13, x: 0.17, i: 0.17, d: 0.17, g: 0.45, p: 1.5 };
const unknownLargePerHour = 0.2;

/** Sizes as multiples of `large`. */
const sizes: Readonly<Record<string, number>> = { nano: 1 / 16, micro: 1 / 8, small: 1 / 4, medium: 1 / 2, large: 1, xlarge: 2 };
/** `metal` without a number is the whole machine: 96 vCPU is the commonest. */
const metal = 48;

const volumeGibPerHour = 0.08 / hoursPerMonth;
const loadBalancerPerHour = 0.0225;

/**
 * Dollars an hour of one resource; 0 for what is free to keep.
 *
 * @param detail holds the instance type (`m6i.xlarge, server-1`) or the volume's size (`80 GiB gp3`); other text is ignored
 */
export function hourlyPrice(kind: LeftResource["kind"], detail: string): number {
  switch (kind) {
    case "instance":
      return instancePrice(/\b([a-z][a-z0-9-]*)\.((?:\d+)?[a-z]+(?:-\d+xl)?)\b/.exec(detail));
    case "volume":
      return Number(/(\d+(?:\.\d+)?)\s*GiB/i.exec(detail)?.[1] ?? 0) * volumeGibPerHour;
    case "load-balancer":
      return loadBalancerPerHour;
    // A secret is an object of some hundred bytes in the state bucket, under the deployment's one key.
    case "network-interface":
    case "target-group":
    case "security-group":
    case "secret":
      return 0;
  }
}

/** Prices what is left, the dearest first, and sums it up. */
export function priceLeft(resources: readonly Omit<LeftResource, "dollarsPerHour">[]): {
  resources: LeftResource[];
  dollarsPerHour: number;
  dollarsPerMonth: number;
} {
  const priced = resources
    .map(({ kind, id, detail }): LeftResource => ({ kind, id, detail, dollarsPerHour: rounded(hourlyPrice(kind, detail), 4) }))
    .sort((a, b) => b.dollarsPerHour - a.dollarsPerHour || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
  const dollarsPerHour = rounded(
    priced.reduce((sum, resource) => sum + resource.dollarsPerHour, 0),
    4,
  );
  return { resources: priced, dollarsPerHour, dollarsPerMonth: rounded(dollarsPerHour * hoursPerMonth, 2) };
}

/** What one operation used of AWS's paid calls. EC2, SSM Run Command and Elastic Load Balancing calls are free. */
export interface OperationUsage {
  /** State transitions of Standard workflows, retries included. */
  readonly transitions: number;
  readonly lambdaRequests: number;
  /** Billed milliseconds of all functions together. */
  readonly lambdaMs: number;
  readonly lambdaMemoryMb: number;
  /** PUT, COPY, POST and LIST. */
  readonly s3Writes: number;
  readonly s3Reads: number;
  readonly kmsRequests: number;
  readonly events: number;
  readonly apiRequests: number;
}

/** Dollars of one operation by service, without the nodes and the endpoint it makes. */
export function createCost(usage: OperationUsage): { dollars: number; byService: Readonly<Record<string, number>> } {
  const byService = {
    stepFunctions: usage.transitions * 0.000025,
    lambda: (usage.lambdaRequests * 0.2) / 1e6 + (usage.lambdaMs / 1000) * (usage.lambdaMemoryMb / 1024) * 0.0000133334,
    s3: usage.s3Writes * 0.000005 + usage.s3Reads * 0.0000004,
    kms: usage.kmsRequests * 0.000003,
    eventBridge: usage.events * 0.000001,
    apiGateway: usage.apiRequests * 0.000001,
  };
  return { dollars: Object.values(byService).reduce((sum, dollars) => sum + dollars, 0), byService };
}

function instancePrice(type: RegExpExecArray | null): number {
  const family = type?.[1];
  const size = type?.[2];
  if (family === undefined || size === undefined) return 0;
  const large = largePerHour[family] ?? largePerHourByClass[family[0] ?? ""] ?? unknownLargePerHour;
  return large * sizeOf(size);
}

function sizeOf(size: string): number {
  const known = sizes[size];
  if (known !== undefined) return known;
  const times = /^(\d+)xlarge$/.exec(size) ?? /^metal-(\d+)xl$/.exec(size);
  return times === null ? metal : Number(times[1]) * 2;
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
