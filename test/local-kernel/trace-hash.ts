/** Prints the hash of the trace of a fixed run over an assembly: run by a test in a process of its own. */
import { traceHash } from "./fixed-run.js";

traceHash(process.argv[2] as string, Number(process.argv[3])).then((hash) => process.stdout.write(hash));
