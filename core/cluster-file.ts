/**
 * The cluster file: one schema gives the types, the validation, the published JSON Schema and the API's OpenAPI document.
 *
 * Shape only. Rules that need more than one field (CIDR overlap, keys of RKE2 itself, archives, zones) are in `validate-cluster.ts`.
 * Each description is what an editor shows beside the field and what `docs/reference/cluster-file.md` says of it.
 */
import { z } from "zod";

const dnsLabel = /^[a-z]([a-z0-9-]*[a-z0-9])?$/;
const dnsLabelRule = "must be lower-case letters, digits and hyphens, starting with a letter and not ending in a hyphen";

/** DNS label (RFC 1123). 30 characters leave room for what AWS resources append: load balancer names end at 32. */
const clusterName = z.string().regex(dnsLabel, dnsLabelRule).max(30);

/** Node names are `<pool>-<instance id>`: 30 + 1 + 19 characters of the 63 that a DNS label may have. */
const poolName = z.string().regex(dnsLabel, dnsLabelRule).max(30);

const instanceType = z.string().regex(/^[a-z0-9-]+\.[a-z0-9-]+$/, "must be an EC2 instance type such as m6i.xlarge");
const labels = z.record(z.string(), z.string());
const taint = z
  .string()
  .regex(
    /^[A-Za-z0-9._/-]+(=[A-Za-z0-9._-]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$/,
    "must be key=value:effect with effect NoSchedule, PreferNoSchedule or NoExecute",
  );
const cidr = z.string().regex(/^(\d{1,3}\.){3}\d{1,3}\/\d{1,2}$/, "must be an IPv4 network such as 10.42.0.0/16");
const rootVolumeGib = z
  .number()
  .int()
  .min(30)
  .max(16384)
  .describe("Size of the root volume in GiB. Air-gap archives need about three times their size while they are imported.");
const timeZone = z
  .string()
  .describe("IANA time zone, such as Europe/Berlin.")
  .meta({ examples: ["UTC", "Europe/Berlin", "America/New_York"] });
const kubeletArgument = z.string().regex(/^[a-z0-9-]+=.*/, "must be name=value, without leading hyphens");

/** A value RKE2's config.yaml can hold. */
export const configValueSchema = z.union(
  [z.string(), z.number(), z.boolean(), z.array(z.union([z.string(), z.number(), z.boolean()], { error: "must be text, a number, true or false" }))],
  { error: "must be text, a number, true, false or a list of these" },
);

export const serversSchema = z.strictObject({
  count: z
    .union([z.literal(1), z.literal(3), z.literal(5), z.literal(7)], {
      error: "must be 1, 3, 5 or 7: etcd needs an odd number of voters, an even one adds a machine that can fail and no tolerance",
    })
    .describe("How many servers: 1, 3, 5 or 7. Three bear the loss of one, five of two, seven of three."),
  instanceTypes: z
    .array(instanceType)
    .min(1)
    .max(10)
    .describe("EC2 instance types in order of preference: the next is tried where one has no capacity."),
  taints: z
    .array(taint)
    .max(50)
    .default([])
    .describe("Taints of the servers, as key=value:effect. Given at a node's first registration; without any, servers run workloads too."),
  rootVolumeGib: rootVolumeGib.default(80),
});

export const agentPoolSchema = z.strictObject({
  name: poolName.describe("Name of the pool, unique in the cluster: part of its nodes' names and the value of their label drover.dev/pool."),
  count: z.number().int().min(0).max(1000).describe("How many agents."),
  instanceTypes: z
    .array(instanceType)
    .min(1)
    .max(10)
    .describe("EC2 instance types in order of preference: the next is tried where one has no capacity."),
  market: z
    .enum(["on-demand", "spot"])
    .default("on-demand")
    .describe("How the agents are bought. AWS takes spot instances back at two minutes' notice."),
  labels: labels.default({}).describe("Kubernetes labels of the pool's nodes."),
  taints: z.array(taint).max(50).default([]).describe("Taints of the pool's nodes, as key=value:effect. Given at a node's first registration."),
  rootVolumeGib: rootVolumeGib.default(80),
  config: z
    .record(z.string(), configValueSchema)
    .optional()
    .describe("Keys of RKE2's config.yaml for the agents of this pool alone; a key here replaces the same key of spec.rke2.config."),
  kubeletArgs: z
    .array(kubeletArgument)
    .optional()
    .describe("Kubelet arguments of this pool's agents, name=value, besides those of spec.rke2.kubeletArgs."),
});

export const imageSchema = z.strictObject({
  ssmParameter: z
    .string()
    .regex(/^\/[A-Za-z0-9_./-]{1,1010}$/, "must be a Parameter Store name that starts with /")
    .optional()
    .describe("Public or own Parameter Store name that holds the image id. Resolved once, when the cluster is created. Give this or id.")
    .meta({ examples: ["/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"] }),
  id: z
    .string()
    .regex(/^ami-[0-9a-f]{8,17}$/, "must be an image id such as ami-0123456789abcdef0")
    .optional()
    .describe("Image id. Give this or ssmParameter."),
  architecture: z
    .enum(["amd64", "arm64"])
    .default("amd64")
    .describe("Processor architecture of the image and of every instance type; EC2 calls amd64 x86_64."),
});

export const networkSchema = z.strictObject({
  vpcId: z
    .string()
    .regex(/^vpc-[0-9a-f]{8,17}$/, "must be a VPC id such as vpc-0123456789abcdef0")
    .describe("VPC of the nodes and of the endpoint."),
  subnetIds: z
    .array(z.string().regex(/^subnet-[0-9a-f]{8,17}$/, "must be a subnet id such as subnet-0123456789abcdef0"))
    .min(1)
    .max(6)
    .describe("Subnets of the nodes and of the endpoint, private ones. Servers are spread over their zones: give three zones for three servers."),
  cni: z
    .enum(["canal", "calico", "cilium", "flannel", "none"])
    .default("canal")
    .describe("Pod network. It cannot be changed on a running cluster. With none, a manifest must bring one."),
  multus: z.boolean().default(false).describe("Puts Multus before the CNI, for pods with several networks."),
  clusterCidr: cidr.default("10.42.0.0/16").describe("Addresses of pods: a /24 for every node. It cannot be changed on a running cluster."),
  serviceCidr: cidr.default("10.43.0.0/16").describe("Addresses of services, from /12 to /24. It cannot be changed on a running cluster."),
  endpoint: z
    .strictObject({
      scheme: z.enum(["internal", "internet-facing"]).default("internal").describe("Where the load balancer of the API has its addresses."),
      allowedCidrs: z.array(cidr).max(50).default([]).describe("Networks that may reach the Kubernetes API (port 6443) besides the nodes."),
    })
    .prefault({})
    .describe("The load balancer in front of the servers."),
});

export const rke2Schema = z.strictObject({
  config: z
    .record(z.string(), configValueSchema)
    .default({})
    .describe("Any key of RKE2's config.yaml that Drover does not set itself. Servers get all of them, agents those that RKE2 takes on agents."),
  registries: z.record(z.string(), z.unknown()).default({}).describe("Contents of registries.yaml on every node: mirrors and configs. No passwords."),
  manifests: z
    .record(
      z.string().regex(/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?\.ya?ml$/, {
        error: "must be a file name of lower-case letters, digits, hyphens and dots that ends in .yaml, such as storage.yaml",
      }),
      z.string(),
    )
    .default({})
    .describe("Kubernetes manifests by file name, applied by RKE2 when the cluster starts and kept applied. No secrets."),
  disable: z.array(z.string()).max(100).default([]).describe("Packaged components to leave out, such as rke2-metrics-server."),
  tlsSan: z
    .array(z.string())
    .max(50)
    .default([])
    .describe("Further DNS names and addresses in the API's certificate; the endpoint's own name is always in it."),
  kubeletArgs: z
    .array(kubeletArgument)
    .default([])
    .describe("Kubelet arguments of every node, name=value.")
    .meta({ examples: [["max-pods=150"]] }),
  ingress: z
    .enum(["default", "traefik", "ingress-nginx", "none"])
    .default("default")
    .describe("Ingress controller. The default is RKE2's own: ingress-nginx up to v1.35, Traefik from v1.36."),
});

export const airGapSchema = z.strictObject({
  enabled: z
    .boolean()
    .default(true)
    .describe("Images come from archives of the artifact store. When false they are pulled; the bundle still comes from the store."),
  imageSets: z
    .array(z.string())
    .max(20)
    .default([])
    .describe("Further image sets of the release, such as harvester, besides those that the CNI and the ingress controller need."),
});

export const securitySchema = z.strictObject({
  profile: z.enum(["none", "cis"]).default("none").describe("RKE2's hardening profile. cis prepares the machine too and enforces restricted pods."),
  selinux: z.boolean().default(false).describe("SELinux support in the container runtime. The image must bring the rke2-selinux policy."),
  secretsEncryptionProvider: z
    .enum(["aescbc", "secretbox"])
    .default("aescbc")
    .describe("Cipher of Secrets at rest. It cannot be changed on a running cluster; secretbox is not FIPS validated."),
  podSecurity: z
    .enum(["default", "restricted"])
    .default("default")
    .describe("Pod Security Admission: RKE2's own defaults, or the restricted standard for every namespace but those of the system."),
});

export const backupSchema = z.strictObject({
  schedule: z
    .string()
    .default("0 2 * * *")
    .describe("When a snapshot is taken: minute, hour, day of month, month, day of week.")
    .meta({ examples: ["0 2 * * *", "0 */6 * * *"] }),
  timeZone: timeZone.default("UTC"),
  keep: z
    .strictObject({
      last: z.number().int().min(1).default(7).describe("The newest snapshots, whatever their age."),
      hourly: z.number().int().min(0).default(0).describe("One snapshot an hour, for so many hours."),
      daily: z.number().int().min(0).default(14).describe("One snapshot a day, for so many days."),
      weekly: z.number().int().min(0).default(8).describe("One snapshot a week, for so many weeks."),
      monthly: z.number().int().min(0).default(12).describe("One snapshot a month, for so many months."),
    })
    .prefault({})
    .describe("Which snapshots are kept: one is removed only when no line asks for it."),
  drill: z
    .enum(["nightly", "weekly", "never"])
    .default("weekly")
    .describe("How often the newest snapshot is restored on a throw-away server to prove it."),
});

export const maintenanceSchema = z.strictObject({
  windows: z
    .array(
      z.strictObject({
        days: z
          .array(z.enum(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]))
          .min(1)
          .max(7)
          .describe("Days on which the window opens."),
        start: z
          .string()
          .regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'must be a time in quotes, from "00:00" to "23:59"')
          .describe("When it opens, as hours and minutes in quotes."),
        hours: z.number().min(1).max(24).describe("How long it stays open."),
        timeZone: timeZone.default("UTC"),
      }),
    )
    .max(50)
    .default([])
    .describe("When Drover may change the cluster by itself. Requests of a person are not held back."),
  autoUpgrade: z
    .enum(["none", "patch"])
    .default("none")
    .describe("patch: in a window, the newest patch of the minor in the artifact store is rolled out."),
  maxUnavailable: z
    .union([z.number().int().min(1), z.string().regex(/^([1-9]|[1-9]\d|100)%$/)], {
      error: 'must be a count of at least 1 or a percentage such as "10%"',
    })
    .default(1)
    .describe("How many agents of a pool may be out at once while it is rolled: a count or a percentage. Servers go one at a time always."),
  drain: z
    .strictObject({
      timeoutSeconds: z.number().int().min(30).max(86400).default(600).describe("How long the pods of a node have to leave."),
      onBlocked: z
        .enum(["wait", "stop", "force"])
        .default("stop")
        .describe("When a disruption budget holds a pod: wait on, stop for a person, or force it out."),
    })
    .prefault({})
    .describe("How a node is emptied before it is changed."),
});

export const clusterSpecSchema = z.strictObject({
  version: z
    .string()
    .optional()
    .describe("RKE2 release, such as v1.35.7+rke2r1. Give this or channel.")
    .meta({ examples: ["v1.35.7+rke2r1"] }),
  channel: z
    .string()
    .optional()
    .describe("stable, latest or a minor such as v1.35: the newest such release in the artifact store, chosen once. Give this or version.")
    .meta({ examples: ["stable", "latest", "v1.35"] }),
  servers: serversSchema.describe("The control plane: every server runs the API and a member of etcd."),
  agentPools: z.array(agentPoolSchema).max(50).default([]).describe("Pools of agents, which run the workloads."),
  image: imageSchema.describe("Machine image of every node. Give ssmParameter or id."),
  network: networkSchema.describe("Where the cluster is, and its own networks."),
  rke2: rke2Schema.prefault({}).describe("Settings of RKE2 itself."),
  airGap: airGapSchema.prefault({}).describe("Where container images come from."),
  security: securitySchema.prefault({}).describe("Hardening."),
  backup: backupSchema.prefault({}).describe("Snapshots of etcd."),
  maintenance: maintenanceSchema.prefault({}).describe("When and how nodes are changed."),
  protection: z
    .strictObject({ delete: z.boolean().default(true).describe("Refuses to delete the cluster until this is false or the request overrides it.") })
    .prefault({})
    .describe("What Drover refuses to do by accident."),
});

export const clusterFileSchema = z.strictObject({
  apiVersion: z.literal("drover.dev/v1").describe("Version of this format."),
  kind: z.literal("Cluster").describe("What the file describes."),
  metadata: z
    .strictObject({
      name: clusterName.describe("Name of the cluster, unique in this deployment: part of the name of everything that belongs to it."),
      labels: labels.default({}).describe("Labels of the cluster, to find it by. Drover keeps them to itself."),
    })
    .describe("What the cluster is called."),
  spec: clusterSpecSchema.describe("The cluster as wanted."),
});

/** A cluster file with every default filled in. */
export type ClusterFile = z.output<typeof clusterFileSchema>;
export type AgentPool = z.output<typeof agentPoolSchema>;
export type ConfigValue = z.output<typeof configValueSchema>;
/** Processor architecture in the words of RKE2's release files; EC2 says x86_64 for amd64. */
export type Architecture = "amd64" | "arm64";
