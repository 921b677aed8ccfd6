/** Keeps tests that boot machines out of the plain run; the closing line of that run says so. */
import { describe } from "vitest";

export function describeMachines(name: string, tests: () => void): void {
  describe.runIf(process.env.DROVER_TEST_MACHINES === "1")(name, tests);
}
