import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Simulations take seconds of computing, never of waiting; a machine may be busy with more than these.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    // The template is synthesized once, before the first test, and shared.
    globalSetup: ["test/assembly.ts"],
    reporters: ["default", "./test/closing-line.ts"],
    pool: "forks",
    maxWorkers: 2,
  },
});
