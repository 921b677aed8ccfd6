#!/usr/bin/env node
// Starts the command line from any folder: TypeScript is run by tsx, with this repository's settings rather than those of the folder one stands in.
import { fileURLToPath } from "node:url";

process.env.TSX_TSCONFIG_PATH = fileURLToPath(new URL("../tsconfig.json", import.meta.url));
const { register } = await import("tsx/esm/api");
register();
await import("./main.ts");
