/**
 * The cluster file: one schema gives the types, the validation, the published JSON Schema and the API's OpenAPI document.
 *
 * Shape only. Rules that need more than one field (CIDR overlap, keys of RKE2 itself, archives, zones) are in `validate-cluster.ts`.
 */
import { z } from "zod";

/** DNS label (RFC 1123). 30 characters leave room for what AWS resources append: load balancer names end at 32. */
const clusterName = z
  .string()
  .regex(/^[a-z]([a-z0-9-]*[a-z0-9])?$/, "must be a DNS label: lower-case letters, digits and hyphens, starting with a letter")
  .max(30)
  .describe("Name of the cluster: unique in this deployment, part of every resource's name.");

const poolName = z
  .string()
  .regex(/^[a-z]([a-z0-9-]*[a-z0-9])?$/, "must be a DNS label: lower-case letters, digits and hyphens, starting with a letter")
  .max(30);

const instanceType = z.string().regex(/^[a-z0-9-]+\.[a-z0-9-]+$/, "must be an EC2 instance type such as m6i.xlarge");
const labels = z.record(z.string(), z.string());
const taint = z
  .string()
  .regex(
    /^[A-Za-z0-9._/-]+(=[A-Za-z0-9._-]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$/,
    "must be key=value:effect with effect NoSchedule, PreferNoSchedule or NoExecute",
  );
const cidr = z.string().regex(/^(\d{1,3}\.){3}\d{1,3}\/\d{1,2}$/, "must be an IPv4 network such as 10.42.0.0/16");
const rootVolumeGib = z.number().int().min(30).max(16384);

export const serversSchema = z.strictObject({
  count: z.union([z.literal(1), z.literal(3), z.literal(5), z.literal(7)], {
    error: "must be 1, 3, 5 or 7: etcd needs an odd number of voters, an even one adds a machine that can fail and no tolerance",
  }),
  instanceTypes: z.array(instanceType).min(1).max(10).describe("In order of preference."),
  taints: z.array(taint).default([]),
  rootVolumeGib: rootVolumeGib.default(80),
});

export const agentPoolSchema = z.strictObject({
  name: poolName,
  count: z.number().int().min(0).max(1000),
  instanceTypes: z.array(instanceType).min(1).max(10).describe("In order of preference."),
  market: z.enum(["on-demand", "spot"]).default("on-demand"),
  labels: labels.default({}),
  taints: z.array(taint).default([]),
  rootVolumeGib: rootVolumeGib.default(80),
});

export const imageSchema = z.strictObject({
  ssmParameter: z.string().startsWith("/").optional().describe("Public or own Parameter Store name that holds the image id; resolved once."),
  id: z
    .string()
    .regex(/^ami-[0-9a-f]{8,17}$/, "must be an image id such as ami-0123456789abcdef0")
    .optional(),
  architecture: z.enum(["amd64", "arm64"]).default("amd64"),
});

export const networkSchema = z.strictObject({
  vpcId: z.string().regex(/^vpc-[0-9a-f]{8,17}$/, "must be a VPC id such as vpc-0123456789abcdef0"),
  subnetIds: z
    .array(z.string().regex(/^subnet-[0-9a-f]{8,17}$/, "must be a subnet id such as subnet-0123456789abcdef0"))
    .min(1)
    .max(6),
  cni: z.enum(["canal", "calico", "cilium", "flannel", "none"]).default("canal"),
  multus: z.boolean().default(false).describe("Puts Multus before the CNI."),
  clusterCidr: cidr.default("10.42.0.0/16"),
  serviceCidr: cidr.default("10.43.0.0/16"),
  endpoint: z
    .strictObject({
      scheme: z.enum(["internal", "internet-facing"]).default("internal"),
      allowedCidrs: z.array(cidr).max(50).default([]).describe("Who may reach the API endpoint besides the nodes."),
    })
    .prefault({}),
});

/** A value RKE2's config.yaml can hold. */
export const configValueSchema = z.union([z.string(), z.number(), z.boolean(), z.array(z.union([z.string(), z.number(), z.boolean()]))]);

export const rke2Schema = z.strictObject({
  config: z
    .record(z.string(), configValueSchema)
    .default({})
    .describe("Any key of RKE2's config.yaml that Drover does not set itself; for servers and agents alike where RKE2 takes it on both."),
  registries: z.record(z.string(), z.unknown()).default({}).describe("Contents of registries.yaml."),
  manifests: z
    .record(z.string().regex(/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?\.ya?ml$/, "must be a file name such as storage.yaml"), z.string())
    .default({}),
  disable: z.array(z.string()).default([]),
  tlsSan: z.array(z.string()).max(50).default([]),
  kubeletArgs: z.array(z.string().regex(/^[a-z0-9-]+=.*/, "must be name=value")).default([]),
  ingress: z.enum(["default", "traefik", "ingress-nginx", "none"]).default("default"),
});

export const airGapSchema = z.strictObject({
  enabled: z
    .boolean()
    .default(true)
    .describe("Images come from archives of the artifact store. When false they are pulled; the bundle still comes from the store."),
  imageSets: z.array(z.string()).default([]).describe("Further image sets of the release besides those the CNI and ingress need."),
});

export const securitySchema = z.strictObject({
  profile: z.enum(["none", "cis"]).default("none"),
  selinux: z.boolean().default(false),
  secretsEncryptionProvider: z.enum(["aescbc", "secretbox"]).default("aescbc"),
  podSecurity: z.enum(["default", "restricted"]).default("default"),
});

export const backupSchema = z.strictObject({
  schedule: z.string().default("0 2 * * *"),
  timeZone: z.string().default("UTC"),
  keep: z
    .strictObject({
      last: z.number().int().min(1).default(7),
      hourly: z.number().int().min(0).default(0),
      daily: z.number().int().min(0).default(14),
      weekly: z.number().int().min(0).default(8),
      monthly: z.number().int().min(0).default(12),
    })
    .prefault({}),
  drill: z.enum(["nightly", "weekly", "never"]).default("weekly"),
});

export const maintenanceSchema = z.strictObject({
  windows: z
    .array(
      z.strictObject({
        days: z.array(z.enum(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])).min(1),
        start: z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, "must be a time such as 02:00"),
        hours: z.number().min(1).max(24),
        timeZone: z.string().default("UTC"),
      }),
    )
    .default([]),
  autoUpgrade: z.enum(["none", "patch"]).default("none"),
  maxUnavailable: z
    .union([z.number().int().min(1), z.string().regex(/^([1-9]|[1-9]\d|100)%$/, "must be a count or a percentage such as 10%")])
    .default(1),
  drain: z
    .strictObject({ timeoutSeconds: z.number().int().min(30).max(86400).default(600), onBlocked: z.enum(["wait", "stop", "force"]).default("stop") })
    .prefault({}),
});

export const clusterSpecSchema = z.strictObject({
  version: z.string().optional().describe("RKE2 release, such as v1.35.7+rke2r1."),
  channel: z.string().optional().describe("RKE2 channel, such as stable: the newest release of it in the artifact store."),
  servers: serversSchema,
  agentPools: z.array(agentPoolSchema).max(50).default([]),
  image: imageSchema,
  network: networkSchema,
  rke2: rke2Schema.prefault({}),
  airGap: airGapSchema.prefault({}),
  security: securitySchema.prefault({}),
  backup: backupSchema.prefault({}),
  maintenance: maintenanceSchema.prefault({}),
  protection: z.strictObject({ delete: z.boolean().default(true) }).prefault({}),
});

export const clusterFileSchema = z.strictObject({
  apiVersion: z.literal("drover.dev/v1"),
  kind: z.literal("Cluster"),
  metadata: z.strictObject({ name: clusterName, labels: labels.default({}) }),
  spec: clusterSpecSchema,
});

/** A cluster file with every default filled in. */
export type ClusterFile = z.output<typeof clusterFileSchema>;
/** A cluster file as a person writes it. */
export type ClusterFileInput = z.input<typeof clusterFileSchema>;
export type ClusterSpec = z.output<typeof clusterSpecSchema>;
export type AgentPool = z.output<typeof agentPoolSchema>;
export type ConfigValue = z.output<typeof configValueSchema>;
/** Processor architecture in the words of RKE2's release files; EC2 says x86_64 for amd64. */
export type Architecture = "amd64" | "arm64";
