/**
 * Events on the bus `drover`: what may be asked for there, and what Drover says about clusters.
 *
 * One table gives the handlers' parsing, the rules' patterns and the published schemas. No event carries a secret, and each stays far below the
 * 256 KB that Step Functions could still take as input. Delivery is at least once and in no order (EventBridge user guide): a reader tells events apart
 * by `operation` or `requestId`.
 */
import { z } from "zod";
import { clusterFileLimitBytes, createRequestSchema, deleteRequestSchema, drillRequestSchema, snapshotRequestSchema } from "./api.js";

/** The bus's name in every deployment: one deployment per account and Region. */
export const busName = "drover";

/**
 * Who speaks. Two sources, so that a pipeline can be allowed to ask (`events:source` = `drover.request`) without being able to announce
 * a cluster that does not exist.
 */
export const eventSources = { request: "drover.request", announcement: "drover" } as const;

const operationKind = z.enum(["create", "delete", "backup", "restore", "drill"]);
const at = z.iso.datetime().describe("Instant in UTC, ISO 8601.");
const cluster = z.string().max(30).describe("Name of the cluster.");
const uid = z.string().describe("Never re-used: tells this cluster from an earlier one of the same name.");
const operation = z.string().describe("Id of the operation, as in `drover operations`.");

/** Every detail type, with the schema of its detail. Requests are strict; announcements may gain members, so readers must ignore what they do not know. */
export const events = {
  "Cluster Create Requested": {
    source: eventSources.request,
    summary: "Asks for a cluster to be created from a cluster file.",
    detail: z.strictObject({
      requestId: createRequestSchema.shape.requestId,
      file: z.string().max(clusterFileLimitBytes).describe("The cluster file as text: YAML or JSON."),
    }),
  },
  "Cluster Delete Requested": {
    source: eventSources.request,
    summary: "Asks for a cluster and everything of it in the account to be deleted.",
    detail: z.strictObject({
      requestId: deleteRequestSchema.shape.requestId,
      cluster,
      confirm: z.string().describe("The cluster's name again."),
      overrideProtection: deleteRequestSchema.shape.overrideProtection,
      skipSnapshot: deleteRequestSchema.shape.skipSnapshot,
    }),
  },
  "Snapshot Requested": {
    source: eventSources.request,
    summary: "Asks for a snapshot of a cluster, now.",
    detail: z.strictObject({ requestId: snapshotRequestSchema.shape.requestId, cluster }),
  },
  "Drill Requested": {
    source: eventSources.request,
    summary:
      "Asks for a snapshot to be restored on a throw-away server, to prove that it can be. A restore itself is asked for by people alone, not on the bus.",
    detail: z.strictObject({ requestId: drillRequestSchema.shape.requestId, cluster, snapshot: drillRequestSchema.shape.snapshot }),
  },
  "Operation Accepted": {
    source: eventSources.announcement,
    summary: "A request was admitted and its workflow started.",
    detail: z.object({ operation, cluster, kind: operationKind, requestId: z.string(), requestedBy: z.string(), at }),
  },
  "Operation Refused": {
    source: eventSources.announcement,
    summary: "A request from the bus was not admitted; nothing was changed. The only answer a request on the bus can get.",
    detail: z.object({
      requestId: z.string(),
      error: z.enum(["Invalid", "NotFound", "Busy", "Unsafe"]),
      message: z.string(),
      next: z.string(),
      faults: z.array(z.object({ path: z.string(), message: z.string() })),
      at,
    }),
  },
  "Operation Failed": {
    source: eventSources.announcement,
    summary: "An operation ended without reaching its goal; its failure card says what to type next.",
    detail: z.object({
      operation,
      cluster,
      kind: operationKind,
      failure: z.string().describe("A failure name with a heading in the runbook."),
      state: z.string(),
      what: z.string(),
      runbook: z.string(),
      at,
    }),
  },
  "Cluster Ready": {
    source: eventSources.announcement,
    summary: "Every server votes, every agent is Ready, and the endpoint answers.",
    detail: z.object({
      operation,
      cluster,
      uid,
      version: z.string(),
      endpoint: z.string().describe("DNS name of the load balancer."),
      servers: z.number().int(),
      agents: z.number().int(),
      at,
    }),
  },
  "Cluster Deleted": {
    source: eventSources.announcement,
    summary: "The cluster is gone; what is left in the account, if anything, is named with its cost.",
    detail: z.object({
      operation,
      cluster,
      uid,
      left: z.array(z.string()),
      dollarsPerMonth: z.number(),
      lastSnapshot: z.string().optional().describe("Id of the snapshot that was taken before."),
      snapshotFailure: z.string().optional().describe("Why no last snapshot could be taken, where one was wanted."),
      at,
    }),
  },
  "Snapshot Proven": {
    source: eventSources.announcement,
    summary: "A snapshot was taken and counts: size and SHA-256 were read back, and the token that opens it is in the secrets.",
    detail: z.object({
      operation,
      cluster,
      uid,
      snapshot: z.string().describe("Id of the snapshot, as in `drover snapshot list`."),
      takenAt: at,
      revision: z.number().int().describe("etcd's revision, read just before: the snapshot holds at least this."),
      bytes: z.number().int(),
      at,
    }),
  },
  "Snapshot Failed": {
    source: eventSources.announcement,
    summary: "An operation could not take its snapshot. Those that were proven before stand.",
    detail: z.object({
      operation,
      cluster,
      uid,
      failure: z.string().describe("A failure name with a heading in the runbook."),
      what: z.string(),
      newestProven: z.string().optional().describe("Id of the newest snapshot that counts, if there is one."),
      at,
    }),
  },
  "Cluster Restored": {
    source: eventSources.announcement,
    summary: "The cluster is what it was when the snapshot was taken: every server votes, every agent is Ready.",
    detail: z.object({
      operation,
      cluster,
      uid,
      snapshot: z.string().describe("Id of the snapshot, or `survivor` where a living server's data were gone on with."),
      version: z.string(),
      endpoint: z.string().describe("DNS name of the load balancer."),
      lostSince: z.string().describe("What was written since this instant is lost; empty after going on with a survivor."),
      at,
    }),
  },
  "Restore Proven": {
    source: eventSources.announcement,
    summary: "A drill restored a snapshot on a throw-away server, and what came back is what its manifest says.",
    detail: z.object({
      operation,
      cluster,
      uid,
      snapshot: z.string().describe("Id of the snapshot."),
      takenAt: at,
      revision: z.number().int(),
      keys: z.number().int(),
      seconds: z.number().describe("From the operation's begin until the snapshot was restored and compared."),
      at,
    }),
  },
} as const;

export type EventName = keyof typeof events;
export type EventDetail<N extends EventName> = z.output<(typeof events)[N]["detail"]>;

/** Detail types of one source, in the order of the table. */
export function eventNames(source: (typeof eventSources)[keyof typeof eventSources]): EventName[] {
  return (Object.keys(events) as EventName[]).filter((name) => events[name].source === source);
}

/**
 * One event as an OpenAPI document in the form of EventBridge's schema registry, which makes code bindings from it
 * (EventBridge user guide, "Creating schemas").
 */
export function eventSchemaDocument(name: EventName): Record<string, unknown> {
  const { detail, source, summary } = events[name];
  const shape = name.replaceAll(" ", "");
  return {
    openapi: "3.0.0",
    info: { version: "1.0.0", title: shape, description: summary },
    paths: {},
    components: {
      schemas: {
        AWSEvent: {
          type: "object",
          required: ["detail-type", "resources", "detail", "id", "source", "time", "region", "version", "account"],
          "x-amazon-events-detail-type": name,
          "x-amazon-events-source": source,
          properties: {
            detail: { $ref: `#/components/schemas/${shape}` },
            "detail-type": { type: "string" },
            resources: { type: "array", items: { type: "string" } },
            id: { type: "string" },
            source: { type: "string" },
            time: { type: "string", format: "date-time" },
            region: { type: "string" },
            version: { type: "string" },
            account: { type: "string" },
          },
        },
        [shape]: z.toJSONSchema(detail, { target: "openapi-3.0", io: "input" }),
      },
    },
  };
}

/** Name of an event's schema in the registry `drover`: source, `@` and detail type without spaces, as EventBridge's own discovery spells it. */
export function eventSchemaName(name: EventName): string {
  return `${events[name].source}@${name.replaceAll(" ", "")}`;
}
