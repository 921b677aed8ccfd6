/** Requests from the event bus: the same admission as the HTTP API's. A refusal is announced, because nobody waits for an answer. */
import { z } from "zod";
import { type EventName, eventNames, eventSources, events } from "../core/events.js";
import { Busy, Invalid, NotYet, StepFailure, Unsafe } from "../core/failures.js";
import { redact } from "../core/redact.js";
import { type AdmissionClients, admissionClients, admitBackup, admitCreate, admitDelete } from "./admission.js";
import { NotFound } from "./http.js";
import { lambda, type Moment, parse, type Task } from "./lambda.js";

const requested = eventNames(eventSources.request) as [EventName, ...EventName[]];
const input = z.object({ "detail-type": z.enum(requested), account: z.string(), source: z.string(), detail: z.record(z.string(), z.unknown()) });
type Input = z.output<typeof input>;

export const admitEvent: Task<Input, AdmissionClients, { readonly operation?: string }> = async (event, clients, moment) => {
  try {
    return { operation: await admit(event, clients, moment) };
  } catch (error) {
    // What may pass by itself is asked again: EventBridge and Lambda repeat it, and the request id makes that safe.
    if (!(error instanceof StepFailure) || error instanceof NotYet) throw error;
    await announceRefusal(event, error, clients, moment);
    return {};
  }
};

async function admit(event: Input, clients: AdmissionClients, moment: Moment): Promise<string> {
  const requestedBy = `event bus (${event.source}, account ${event.account})`;
  if (event["detail-type"] === "Cluster Create Requested") {
    const asked = parse(events["Cluster Create Requested"].detail, event.detail);
    return (await admitCreate({ ...asked, requestedBy, preview: false }, clients, moment)).operation;
  }
  if (event["detail-type"] === "Snapshot Requested") {
    const asked = parse(events["Snapshot Requested"].detail, event.detail);
    return (await admitBackup({ ...asked, requestedBy, preview: false }, clients, moment)).operation;
  }
  const asked = parse(events["Cluster Delete Requested"].detail, event.detail);
  return (await admitDelete({ ...asked, requestedBy, preview: false }, clients, moment)).operation;
}

async function announceRefusal(event: Input, error: StepFailure, { announcer }: AdmissionClients, moment: Moment): Promise<void> {
  const requestId = typeof event.detail.requestId === "string" ? event.detail.requestId.slice(0, 64) : "";
  const name = error instanceof Busy ? "Busy" : error instanceof NotFound ? "NotFound" : error instanceof Unsafe ? "Unsafe" : "Invalid";
  const faults = error instanceof Invalid ? error.faults.slice(0, 100).map(({ path, message }) => ({ path, message: redact(message) })) : [];
  const refusal = { requestId, error: name, message: redact(error.what), next: redact(error.next), faults, at: moment.now } as const;
  await announcer.announce("Operation Refused", refusal);
}

export const handler = lambda(input, admissionClients, admitEvent);
