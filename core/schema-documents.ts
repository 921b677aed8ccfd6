/**
 * The published forms of the schemas: JSON Schema of the cluster file for editors, OpenAPI of the HTTP API for client makers, and the table of fields
 * for readers. All three are made from the schemas that the code itself reads by, so that none can say something else.
 */
import { z } from "zod";
import {
  type Accepted,
  type ApiError,
  type ApiFault,
  type ArtifactRelease,
  artifactCompleteSchema,
  artifactUploadSchema,
  type ClusterSummary,
  createRequestSchema,
  deleteRequestSchema,
  drillRequestSchema,
  type NodeStatus,
  type RestoreAccepted,
  type RetentionPreview,
  type RouteName,
  restoreRequestSchema,
  routes,
  type SnapshotProof,
  type SnapshotSummary,
  snapshotRequestSchema,
  type UploadTicket,
} from "./api.js";
import { clusterFileSchema } from "./cluster-file.js";
import type { QuorumAssessment } from "./cluster-health.js";
import type { ClusterRecord, FailureCard, Lease, OperationRecord, StepRecord } from "./records.js";
import { disableItems, ownedKeys, type Rke2Key, rke2Keys } from "./rke2-keys.js";
import { manifestSchema } from "./snapshots.js";

/** A JSON Schema, as far as this file reads or changes one. */
export interface JsonSchema {
  $id?: string;
  $schema?: string;
  $ref?: string;
  title?: string;
  description?: string;
  type?: string | string[];
  const?: unknown;
  enum?: unknown[];
  default?: unknown;
  examples?: unknown[];
  pattern?: string;
  minimum?: number;
  maximum?: number;
  minItems?: number;
  maxItems?: number;
  maxLength?: number;
  properties?: Record<string, JsonSchema>;
  propertyNames?: JsonSchema;
  additionalProperties?: boolean | JsonSchema;
  required?: string[];
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  contentMediaType?: string;
  contentSchema?: JsonSchema;
  deprecated?: boolean;
}

export const clusterSchemaId = "https://drover.dev/schemas/v1/cluster.schema.json";

/** JSON Schema of the cluster file (draft 2020-12), as a person writes it: with defaults, and with RKE2's own keys for completion. */
export function clusterJsonSchema(): JsonSchema {
  const { $schema, ...schema } = z.toJSONSchema(clusterFileSchema, { io: "input", target: "draft-2020-12" }) as JsonSchema;
  const spec = at(schema, "spec");
  spec.oneOf = [{ required: ["version"] }, { required: ["channel"] }];
  at(spec, "image").oneOf = [{ required: ["ssmParameter"] }, { required: ["id"] }];
  describeRke2Keys(at(spec, "rke2", "config"), () => true);
  describeRke2Keys(at(spec, "agentPools", "[]", "config"), (key) => key.command === "both");
  // Any file name of a manifest is a component too, so the known ones are offered and others not refused.
  const disabled = at(spec, "rke2", "disable").items;
  if (disabled !== undefined) disabled.examples = [...disableItems.known];
  for (const [name, title] of Object.entries(titles)) at(spec, name).title = title;
  return {
    ...($schema !== undefined && { $schema }),
    $id: clusterSchemaId,
    title: "Drover cluster file",
    description: "One RKE2 cluster on EC2 as Drover is asked to make and keep it. Rules over several fields are checked by `drover validate`.",
    ...schema,
  };
}

const titles: Readonly<Record<string, string>> = {
  servers: "Servers",
  agentPools: "Agent pools",
  image: "Machine image",
  network: "Network",
  rke2: "RKE2",
  airGap: "Air-gap",
  security: "Security",
  backup: "Snapshots",
  maintenance: "Maintenance",
  protection: "Protection",
};

/** The schema at a path of field names, `[]` for the entries of a list. */
function at(schema: JsonSchema, ...path: readonly string[]): JsonSchema {
  return path.reduce((found, name) => {
    const next = name === "[]" ? found.items : found.properties?.[name];
    if (next === undefined) throw new Error(`the cluster file's schema has no ${path.join(".")}`);
    return next;
  }, schema);
}

/** Offers the keys that may be written there, by the key list, and lets an editor mark all others. */
function describeRke2Keys(config: JsonSchema, isMeant: (key: Rke2Key) => boolean): void {
  const keys = [...rke2Keys.values()].filter((key) => isMeant(key) && !ownedKeys.has(key.name));
  config.properties = Object.fromEntries(keys.map((key) => [key.name, keySchema(key)]));
  config.additionalProperties = false;
  delete config.propertyNames;
}

const scalar = ["string", "number", "boolean"];

function keySchema(key: Rke2Key): JsonSchema {
  const known = key.default === null || key.default === undefined ? "" : ` RKE2's default: ${JSON.stringify(key.default)}.`;
  const since = key.since === undefined ? "" : ` From ${key.since.replace(/ \(.*$/, "")} on.`;
  const description = `${key.command === "server" ? "Servers only." : "Servers and agents."}${known}${since}`;
  switch (key.type) {
    case "bool":
      return { type: "boolean", description };
    case "int":
      return { type: "integer", description };
    case "duration":
      return { type: "string", pattern: "^([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+$", description };
    case "string":
      return { type: "string", description };
    case "list":
      return { anyOf: [{ type: "array", items: { type: scalar } }, { type: scalar }], description };
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// OpenAPI

const fault: z.ZodType<ApiFault> = z.object({
  path: z.string().describe("Dotted path into the cluster file; empty for the whole."),
  message: z.string(),
});

const accepted: z.ZodType<Accepted> = z.object({
  operation: z.string().describe("Id of the operation; empty for a preview."),
  cluster: z.string(),
  status: z.enum(["accepted", "preview"]),
  plan: z.array(z.string()).describe("What will be done, one line each."),
  warnings: z.array(fault),
});

const restoreAccepted: z.ZodType<RestoreAccepted> = z.object({
  operation: z.string().describe("Id of the operation; empty for a preview."),
  cluster: z.string().describe("The cluster that is restored: with `as`, the new one."),
  status: z.enum(["accepted", "preview"]),
  plan: z.array(z.string()).describe("What will be done and lost, one line each."),
  warnings: z.array(fault),
  loss: z
    .object({
      since: z.string().describe("Everything written after this instant is lost."),
      seconds: z.number(),
      revisionsAtLeast: z.int().describe("Writes that a later snapshot is known to hold."),
      revisionsAbout: z.int().exactOptional().describe("Writes at the pace between the two newest snapshots; missing where there is but one."),
      newerSnapshots: z.int().describe("Proven snapshots that are newer: they stay."),
    })
    .exactOptional(),
});

const quorum: z.ZodType<QuorumAssessment> = z.object({
  kind: z.enum(["whole", "member lost", "quorum lost", "cluster lost"]),
  members: z.int(),
  running: z.int().describe("Members whose machine runs."),
  majority: z.int(),
  lost: z.array(z.string()).describe("Instances of the others."),
  reason: z.string(),
  safe: z.array(z.string()).describe("What may be done without making it worse."),
  loss: z.string().describe("What the command loses."),
  command: z.string().exactOptional().describe("The one command; missing when nothing is to be done."),
});

const apiError: z.ZodType<ApiError> = z.object({
  error: z.enum(["Invalid", "NotFound", "Busy", "Unsafe", "Internal"]),
  message: z.string().describe("What happened to which thing."),
  next: z.string().describe("What to do next."),
  faults: z.array(fault).describe("Every fault of the request, when it is invalid."),
});

const instant = z.string().describe("Instant in UTC, ISO 8601.");

const clusterSummary: z.ZodType<ClusterSummary> = z.object({
  name: z.string(),
  phase: z.enum(["creating", "ready", "failed", "restoring", "deleting"]),
  version: z.string(),
  servers: z.int(),
  agents: z.int(),
  createdAt: instant,
  operation: z.string().exactOptional(),
});

const nodeStatus: z.ZodType<NodeStatus> = z.object({
  name: z.string(),
  role: z.enum(["server", "agent"]),
  pool: z.string(),
  slot: z.int(),
  instanceId: z.string(),
  instanceType: z.string(),
  zone: z.string(),
  address: z.string(),
  state: z.string(),
  launchedAt: instant,
});

const lease: z.ZodType<Lease> = z.object({ cluster: z.string(), holder: z.string(), operation: z.string(), takenAt: instant });

/** The members of the record that a caller may count on; it has more, and may gain some. */
const record: z.ZodType<Pick<ClusterRecord, "name" | "uid" | "generation" | "phase" | "createdAt" | "conditions">> = z.looseObject({
  name: z.string(),
  uid: z.string().describe("Never re-used: tells this cluster from an earlier one of the same name."),
  generation: z.int().describe("Rises by one with every change of the wanted state."),
  phase: z.enum(["creating", "ready", "failed", "restoring", "deleting"]),
  createdAt: instant,
  conditions: z.array(
    z.object({
      type: z.enum(["Endpoint", "ControlPlane", "Agents"]),
      status: z.enum(["True", "False", "Unknown"]),
      reason: z.string(),
      message: z.string(),
      at: instant,
    }),
  ),
});

const step: z.ZodType<Pick<StepRecord, "name" | "at" | "detail">> = z.looseObject({ name: z.string(), at: instant, detail: z.string() });

const card: z.ZodType<Pick<FailureCard, "failure" | "state" | "what" | "likelyCause" | "next" | "at" | "runbook">> = z.looseObject({
  failure: z.string().describe("A failure name; its heading in the runbook."),
  state: z.string(),
  what: z.string(),
  likelyCause: z.string(),
  next: z.array(z.string()).describe("Commands to type next, the likeliest first."),
  at: instant,
  runbook: z.string(),
});

type OperationShown = Pick<OperationRecord, "id" | "kind" | "cluster" | "status" | "requestedBy" | "requestId" | "acceptedAt"> & {
  readonly endedAt?: string;
  readonly steps: readonly Pick<StepRecord, "name" | "at" | "detail">[];
};
const operation: z.ZodType<OperationShown> = z.looseObject({
  id: z.string(),
  kind: z.enum(["create", "delete", "backup", "restore", "drill"]),
  cluster: z.string(),
  status: z.enum(["accepted", "running", "succeeded", "failed"]),
  requestedBy: z.string(),
  requestId: z.string(),
  acceptedAt: instant,
  endedAt: instant.exactOptional(),
  steps: z.array(step),
  card: card.exactOptional(),
});

const ticket: z.ZodType<UploadTicket> = z.object({
  status: z.enum(["present", "send"]).describe("present: the store holds this very file already, nothing to send."),
  uploadId: z.string().exactOptional(),
  partBytes: z.int().exactOptional(),
  parts: z.array(z.object({ number: z.int(), url: z.string() })).exactOptional(),
  sentParts: z.int().exactOptional(),
});

const release: z.ZodType<ArtifactRelease> = z.object({
  version: z.string(),
  architecture: z.enum(["amd64", "arm64"]),
  files: z.array(z.object({ file: z.string(), bytes: z.int(), sha256: z.string().exactOptional() })),
  missing: z.record(z.string(), z.array(z.string())).describe("What a cluster with each CNI would miss; empty lists where nothing is missing."),
});

const snapshot: z.ZodType<SnapshotSummary> = z.object({
  id: z.string(),
  uid: z.string().describe("The cluster's uid: snapshots of an earlier cluster of the same name are another's."),
  proven: z.boolean().describe("False: it has no manifest and does not count. Nothing but its id and the time in it is known."),
  takenAt: instant,
  provenAt: instant.exactOptional(),
  requestedBy: z.string().exactOptional(),
  version: z.string().exactOptional(),
  node: z.string().exactOptional(),
  revision: z.int().exactOptional(),
  keys: z.int().exactOptional(),
  bytes: z.int().exactOptional(),
  tokenGeneration: z.int().exactOptional(),
});

const proof: z.ZodType<SnapshotProof> = z.object({
  id: z.string(),
  proven: z.boolean(),
  fault: z.string().describe("Why it is not proven, as a sentence; empty when it is."),
  at: instant,
});

const retention: z.ZodType<RetentionPreview> = z.object({
  cluster: z.string(),
  uid: z.string(),
  timeZone: z.string(),
  keep: z.array(z.object({ id: z.string(), reasons: z.array(z.string()).describe("Everything that asks for it.") })),
  remove: z
    .array(z.object({ id: z.string(), reason: z.string() }))
    .describe("What the next snapshot's operation removes if nothing changes until then."),
});

interface Described {
  readonly summary: string;
  readonly request?: z.ZodType;
  /** Name in components, status of a good answer. */
  readonly answers: Readonly<Record<number, readonly [description: string, schema: z.ZodType]>>;
  readonly errors: readonly (keyof typeof errorAnswers)[];
}

const errorAnswers = {
  400: "The request is invalid: every fault of it.",
  403: "The signature is missing or wrong, or the caller may not call this.",
  404: "There is no such thing.",
  409: "Another operation holds the cluster, or the cluster is protected: which and what to do.",
  503: "Not yet: ask again shortly.",
  500: "Drover failed. Nothing is known to have been changed; asking again with the same request id is safe.",
} as const;

const described: Readonly<Record<RouteName, Described>> = {
  createCluster: {
    summary: "Creates a cluster from a cluster file, or says what would be done.",
    request: createRequestSchema,
    answers: { 200: ["Preview: nothing was started.", accepted], 202: ["The operation was accepted.", accepted] },
    errors: [400, 403, 409, 500],
  },
  listClusters: {
    summary: "Lists the clusters.",
    answers: { 200: ["All clusters, by name.", z.object({ clusters: z.array(clusterSummary) })] },
    errors: [403, 500],
  },
  readCluster: {
    summary: "Shows a cluster: its record, its nodes as EC2 has them now, and who holds its lease.",
    answers: {
      200: [
        "The cluster.",
        z.object({
          record,
          nodes: z.array(nodeStatus),
          lease: lease.exactOptional(),
          operation: operation.exactOptional(),
          quorum: quorum.exactOptional().describe("How etcd stands by which machines run; missing while the cluster never had a member."),
        }),
      ],
    },
    errors: [403, 404, 500],
  },
  deleteCluster: {
    summary: "Deletes a cluster and everything of it in the account, or says what would be done.",
    request: deleteRequestSchema,
    answers: { 200: ["Preview: nothing was started.", accepted], 202: ["The operation was accepted.", accepted] },
    errors: [400, 403, 404, 409, 500],
  },
  listOperations: {
    summary: "Lists the operations of a cluster.",
    answers: { 200: ["Operations, the newest first.", z.object({ operations: z.array(operation) })] },
    errors: [403, 404, 500],
  },
  readOperation: {
    summary: "Shows an operation: its steps so far, its outcome or its failure card.",
    answers: { 200: ["The operation.", operation] },
    errors: [403, 404, 500],
  },
  createSnapshot: {
    summary: "Takes a snapshot of a cluster and proves it, or says what would be done.",
    request: snapshotRequestSchema,
    answers: { 200: ["Preview: nothing was started.", accepted], 202: ["The operation was accepted.", accepted] },
    errors: [400, 403, 404, 409, 500],
  },
  listSnapshots: {
    summary: "Lists the snapshots of a cluster, also of a deleted one.",
    answers: { 200: ["Snapshots, the newest first.", z.object({ cluster: z.string(), uid: z.string(), snapshots: z.array(snapshot) })] },
    errors: [403, 404, 500],
  },
  readSnapshot: {
    summary: "Shows the manifest of a snapshot. It holds no secret.",
    answers: { 200: ["The manifest.", manifestSchema] },
    errors: [403, 404, 500],
  },
  proveSnapshot: {
    summary: "Holds what the bucket has of a snapshot now against its manifest. Changes nothing.",
    answers: { 200: ["Whether it still is what was proven.", proof] },
    errors: [403, 404, 500],
  },
  previewRetention: {
    summary: "Says which snapshots are kept and why, and which would be removed. Removes nothing.",
    answers: { 200: ["The decision as of now.", retention] },
    errors: [403, 404, 500],
  },
  restoreCluster: {
    summary: "Restores a cluster, in place, onto new nodes, or as a new cluster under another name; or says what would be done and lost.",
    request: restoreRequestSchema,
    answers: { 200: ["Preview: nothing was started.", restoreAccepted], 202: ["The operation was accepted.", restoreAccepted] },
    errors: [400, 403, 404, 409, 500, 503],
  },
  drillRestore: {
    summary: "Restores a snapshot on a throw-away server to prove that it can be, or says what would be done.",
    request: drillRequestSchema,
    answers: { 200: ["Preview: nothing was started.", accepted], 202: ["The operation was accepted.", accepted] },
    errors: [400, 403, 404, 409, 500],
  },
  readKubeconfig: {
    summary: "Gives the administrator's kubeconfig of a cluster.",
    answers: {
      200: [
        "The kubeconfig: keep it as a secret.",
        z.object({ cluster: z.string(), generation: z.int().describe("Rises with every renewal."), kubeconfig: z.string().describe("YAML.") }),
      ],
    },
    errors: [403, 404, 500],
  },
  listArtifacts: {
    summary: "Lists the RKE2 releases in the artifact store.",
    answers: { 200: ["Releases by version and architecture.", z.object({ releases: z.array(release) })] },
    errors: [403, 500],
  },
  readArtifacts: {
    summary: "Shows one RKE2 release in the artifact store and what a cluster would miss in it.",
    answers: { 200: ["The release, one entry for each architecture.", z.object({ releases: z.array(release) })] },
    errors: [403, 404, 500],
  },
  startUpload: {
    summary: "Offers a file of a release for upload, or asks for the next parts of an upload that was begun.",
    request: artifactUploadSchema,
    answers: { 200: ["Where to send the parts.", ticket] },
    errors: [400, 403, 500],
  },
  completeUpload: {
    summary: "Completes the upload of a file: it is in the store when its size and SHA-256 are right.",
    request: artifactCompleteSchema,
    answers: { 200: ["The file is in the store.", ticket] },
    errors: [400, 403, 500, 503],
  },
};

const parameterDescriptions: Readonly<Record<string, string>> = {
  name: "Name of the cluster.",
  operation: "Id of the operation.",
  snapshot: "Id of the snapshot.",
  version: "RKE2 version; its + is written %2B.",
};

/** The HTTP API as an OpenAPI 3.1 document: paths and bodies from the same table and schemas as the handlers. */
export function openApiDocument() {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const name of Object.keys(routes) as RouteName[]) {
    const { method, path } = routes[name];
    paths[path] = { ...paths[path], [method.toLowerCase()]: operationObject(name, path) };
  }
  const { $schema, $id, ...clusterFile } = clusterJsonSchema();
  return {
    openapi: "3.1.1",
    info: {
      title: "Drover",
      version: "1",
      summary: "Creates, shows and deletes RKE2 clusters on EC2.",
      description:
        "Every call is signed with AWS Signature Version 4 for the service execute-api and needs execute-api:Invoke on its route. A request id makes a repeated request be answered with the first operation.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [
      {
        url: "https://{api}.execute-api.{region}.amazonaws.com",
        description: "The ApiUrl that the deployment prints.",
        variables: { api: { default: "api-id" }, region: { default: "eu-central-1" } },
      },
    ],
    security: [{ sigv4: [] }],
    paths,
    components: {
      securitySchemes: {
        sigv4: {
          type: "apiKey",
          name: "Authorization",
          in: "header",
          description: "AWS Signature Version 4, service execute-api.",
          "x-amazon-apigateway-authtype": "awsSigv4",
        },
      },
      schemas: { ClusterFile: clusterFile, Error: jsonSchema(apiError, "output") },
      responses: Object.fromEntries(
        Object.entries(errorAnswers).map(([status, description]) => [
          `Error${status}`,
          { description, content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } } },
        ]),
      ),
    },
  };
}

function operationObject(name: RouteName, path: string) {
  const { summary, request, answers, errors } = described[name];
  const parameters = [...path.matchAll(/\{(\w+)\}/g)].map(([, parameter = ""]) => ({
    name: parameter,
    in: "path",
    required: true,
    description: parameterDescriptions[parameter],
    schema: { type: "string" },
  }));
  const good = Object.entries(answers).map(([status, [description, schema]]) => [
    status,
    { description, content: { "application/json": { schema: jsonSchema(schema, "output") } } },
  ]);
  return {
    operationId: name,
    summary,
    ...(parameters.length > 0 && { parameters }),
    ...(request !== undefined && { requestBody: { required: true, content: { "application/json": { schema: requestSchema(request) } } } }),
    responses: Object.fromEntries([...good, ...errors.map((status) => [String(status), { $ref: `#/components/responses/Error${status}` }])]),
  };
}

/** A field `file` carries a cluster file as text; JSON Schema can say what the text holds. */
function requestSchema(schema: z.ZodType): JsonSchema {
  const body = jsonSchema(schema, "input");
  const file = schema === createRequestSchema ? body.properties?.file : undefined;
  if (file !== undefined) {
    file.description = "The cluster file as text: YAML or JSON.";
    file.contentMediaType = "application/yaml";
    file.contentSchema = { $ref: "#/components/schemas/ClusterFile" };
  }
  return body;
}

function jsonSchema(schema: z.ZodType, io: "input" | "output"): JsonSchema {
  const { $schema, ...rest } = z.toJSONSchema(schema, { io, target: "draft-2020-12" }) as JsonSchema;
  return rest;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Table of fields

export interface Field {
  readonly path: string;
  readonly type: string;
  /** `required`, a default, or a dash for what may be left out. */
  readonly default: string;
  readonly meaning: string;
}

/** Every field of the cluster file, in the order of the schema. */
export function clusterFields(): Field[] {
  const schema = z.toJSONSchema(clusterFileSchema, { io: "input", target: "draft-2020-12" }) as JsonSchema;
  return fieldsOf(schema, "");
}

function fieldsOf(schema: JsonSchema, prefix: string): Field[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, property]) => {
    const path = `${prefix}${name}`;
    const isRequired = schema.required?.includes(name) === true;
    const own: Field = { path, type: typeOf(property), default: isRequired ? "required" : defaultOf(property), meaning: property.description ?? "" };
    const nested = property.items?.properties === undefined ? fieldsOf(property, `${path}.`) : fieldsOf(property.items, `${path}[].`);
    return [own, ...nested];
  });
}

function typeOf(schema: JsonSchema): string {
  if (schema.const !== undefined) return `\`${String(schema.const)}\``;
  if (schema.enum !== undefined) return schema.enum.map((value) => `\`${String(value)}\``).join(", ");
  if (schema.anyOf !== undefined) return [...new Set(schema.anyOf.map(typeOf))].join(", ");
  switch (schema.type) {
    case "array":
      return schema.items?.properties === undefined && schema.items !== undefined ? `list of ${typeOf(schema.items)}` : "list";
    case "object":
      return typeof schema.additionalProperties === "object" && schema.properties === undefined ? "mapping by name" : "mapping";
    case "integer":
      return `whole number${range(schema)}`;
    case "number":
      return `number${range(schema)}`;
    case "boolean":
      return "`true`, `false`";
    default:
      return Array.isArray(schema.type) ? schema.type.map((type) => typeOf({ type })).join(", ") : "text";
  }
}

function range({ minimum, maximum }: JsonSchema): string {
  const bounded = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER;
  if (minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER) return bounded ? `, ${minimum} to ${maximum}` : `, at least ${minimum}`;
  return bounded ? `, at most ${maximum}` : "";
}

function defaultOf(schema: JsonSchema): string {
  // A mapping's default is that of its fields, which have lines of their own.
  if (schema.default === undefined || (schema.properties !== undefined && schema.type === "object")) return "–";
  return `\`${JSON.stringify(schema.default)}\``;
}

/** docs/reference/cluster-file.md. */
export function clusterFilePage(): string {
  const fields = clusterFields().map(({ path, type, default: value, meaning }) => [`\`${path}\``, type, value, meaning]);
  const owned = [...ownedKeys].map(([name, reason]) => [`\`${name}\``, reason]);
  return [
    "# The cluster file",
    "",
    "One YAML or JSON file describes one cluster. `drover validate FILE` says everything that is wrong with it, at once. Files to copy are in",
    "[examples](../../examples); an editor completes fields by [cluster.schema.json](cluster.schema.json) when a file begins with",
    "",
    "```yaml",
    "# yaml-language-server: $schema=../docs/reference/cluster.schema.json",
    "```",
    "",
    "Written by `npx tsx docs/generate.ts` from the schema that Drover itself reads by; a test holds the two together.",
    "",
    "## Fields",
    "",
    ...table(["Field", "Type", "Default", "Meaning"], fields),
    "",
    "## Keys of RKE2 that are written elsewhere",
    "",
    "`spec.rke2.config` takes any key of RKE2's `config.yaml` besides these. A key that RKE2 does not know is refused, because RKE2 itself would",
    "only warn and start without it; servers' keys in the `config` of an agent pool likewise.",
    "",
    ...table(["Key", "Why, and where instead"], owned),
    "",
  ].join("\n");
}

/** A Markdown table with even columns, as this repository's formatter writes it. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const cells = [head, ...rows].map((row) => row.map((cell) => cell.replaceAll("|", "\\|")));
  const widths = head.map((_, column) => Math.max(...cells.map((row) => (row[column] as string).length)));
  const line = (row: readonly string[], fill: string) => `| ${row.map((cell, column) => cell.padEnd(widths[column] as number, fill)).join(" | ")} |`;
  const [first = [], ...rest] = cells;
  return [
    line(first, " "),
    line(
      head.map(() => ""),
      "-",
    ),
    ...rest.map((row) => line(row, " ")),
  ];
}
