/** Tests on booted machines: `npm run test:machines`, and the long ones of `npm run test:restores`; as root on a Linux with the packages that `machineWorldSupport` names. */
import { defineConfig } from "vitest/config";
import LongestFirst from "./test/machines/order.js";

export default defineConfig({
  test: {
    include: ["test/machines/**/*.test.ts"],
    // Machines take real time: a boot is seconds, a create a minute or two.
    testTimeout: 480_000,
    hookTimeout: 480_000,
    // Says in one line what is missing here and stops; makes the root that machines boot from.
    globalSetup: ["test/assembly.ts", "test/machines/requirements.ts"],
    env: { DROVER_TEST_MACHINES: "1" },
    reporters: ["default", "./test/closing-line.ts"],
    pool: "forks",
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
  },
});
