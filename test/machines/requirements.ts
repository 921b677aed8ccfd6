/** Before the first machine test: is everything here that machines need? Then the root they boot from is made, once, and what killed runs left goes. */
import { ensureRoot } from "../../local/nodes/machines/image.js";
import { removeLeftovers } from "../../local/nodes/machines/traces.js";
import { machineWorldSupport } from "../../local/nodes/machines/world.js";

export default async function setup(): Promise<void> {
  const support = machineWorldSupport();
  if (!support.ok) {
    console.error(support.missing);
    process.exit(1);
  }
  removeLeftovers();
  await ensureRoot((line) => console.error(line));
}
