/** Whether machine tests can run here: ends with status 1 and one line that says why they cannot. Changes nothing. */
import { machineWorldSupport } from "../../local/nodes/machines/world.js";

const support = machineWorldSupport();
if (!support.ok) {
  console.log(support.missing);
  process.exitCode = 1;
}
