/** A process with a cloud of one machine, for the tests that end such a process: prints the cloud's name once the machine is online, and stays. */
import { machineBench } from "./bench.js";

const bench = await machineBench();
await bench.boot();
console.log(bench.cloud.name);
setInterval(() => {}, 1000);
