/** The bus: what Drover says about clusters and operations. */
import { EventBridgeClient, PutEventsCommand } from "@aws-sdk/client-eventbridge";
import { type EventDetail, type EventName, events } from "../../core/events.js";
import { NotYet } from "../../core/failures.js";

export interface Announcer {
  /** @throws NotYet when the bus did not take it: PutEvents answers 200 with failed entries inside. */
  announce<N extends EventName>(name: N, detail: EventDetail<N>): Promise<void>;
}

export function announcer(bus: string, client: EventBridgeClient = new EventBridgeClient({})): Announcer {
  return {
    async announce(name, detail) {
      const answer = await client.send(
        new PutEventsCommand({
          Entries: [{ EventBusName: bus, Source: events[name].source, DetailType: name, Detail: JSON.stringify(detail) }],
        }),
      );
      const [entry] = answer.Entries ?? [];
      if (entry?.ErrorCode !== undefined) {
        throw new NotYet(`The bus ${bus} did not take the event "${name}": ${entry.ErrorCode}`, "Asking again shortly");
      }
    },
  };
}
