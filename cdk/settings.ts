/**
 * What a deployment may choose, as CDK context: `-c snapshotLockDays=30`. Everything else is the same in every deployment.
 */
import { z } from "zod";

/** Retention periods CloudWatch Logs takes (CloudWatch Logs API reference, PutRetentionPolicy). */
const logDays = [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653] as const;

/** Context comes as text from a command line and as JSON from a file. */
const flag = z.union([z.boolean(), z.enum(["true", "false"]).transform((text) => text === "true")]);
const days = (least: number, most: number) => z.coerce.number().int().min(least).max(most);

const settingsSchema = z.strictObject({
  network: flag.default(false).describe("Also deploys DroverNetwork: private subnets in three zones, endpoints for SSM and S3, no internet."),
  s3EndpointId: z
    .string()
    .regex(/^vpce-[0-9a-f]{8,17}$/, "must be a VPC endpoint id such as vpce-0123456789abcdef0")
    .optional()
    .describe("S3 gateway endpoint of the network the nodes are in: presigned addresses then work only through it. Not together with network."),
  snapshotLockDays: days(1, 36500)
    .default(7)
    .describe("Days in which nobody without s3:BypassGovernanceRetention can delete a snapshot (S3 Object Lock, GOVERNANCE)."),
  logDays: z.coerce
    .number()
    .refine((value) => logDays.some((allowed) => allowed === value), `must be a period CloudWatch Logs knows: ${logDays.join(", ")}`)
    .default(90)
    .describe("Days in which logs are kept."),
  eventArchiveDays: days(0, 3650).default(30).describe("Days in which events of the bus can be replayed; 0 keeps none."),
  clusterMetrics: flag
    .default(true)
    .describe(
      "Keeps metrics of each cluster under its name too, about $0.90 a month for each cluster; without it those of the fleet, its worst among them.",
    ),
  alarmTopicArn: z
    .string()
    .regex(/^arn:[a-z-]+:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]+$/, "must be the ARN of an SNS topic")
    .optional()
    .describe("Where alarms are told; without it they only show on the dashboard."),
});
export type Settings = z.output<typeof settingsSchema>;
type SettingName = keyof Settings;
const settingNames = Object.keys(settingsSchema.shape) as SettingName[];

/** Reads the settings out of CDK context; reports every fault at once. */
export function readSettings(context: (name: string) => unknown): Settings {
  const given = Object.fromEntries(settingNames.map((name) => [name, context(name)]).filter(([, value]) => value !== undefined));
  const parsed = settingsSchema.safeParse(given);
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `-c ${issue.path.join(".")}=${String(given[String(issue.path[0])])}: ${issue.message}`);
    throw new Error(`Cannot synthesize: ${faults.join("; ")}`);
  }
  if (parsed.data.network && parsed.data.s3EndpointId !== undefined) {
    throw new Error("Cannot synthesize: -c network=true brings its own S3 endpoint, so -c s3EndpointId must not be given as well");
  }
  return parsed.data;
}
