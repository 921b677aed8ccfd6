/** Vitest's result as one plain last line, which people and CI read alike: `tests: 212 passed, 0 failed, 1 skipped`. */
import type { Reporter, TestModule } from "vitest/node";

const leftOut =
  "Machine tests are left out: they boot machines. npm run test:machines runs them, as root on Debian with: apt-get install systemd-container debootstrap etcd-server iproute2";

/** Whether a file of machine tests was looked at and none of its tests run. */
function isLeftOut({ moduleId, children }: TestModule): boolean {
  const tests = [...children.allTests()];
  return /\/test\/machines\/[^/]+$/.test(moduleId) && tests.length > 0 && tests.every((test) => test.result().state === "skipped");
}

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const count = { passed: 0, failed: 0, skipped: 0, pending: 0 };
    for (const module of modules) {
      for (const test of module.children.allTests()) count[test.result().state]++;
      // A file that does not load has no tests to fail, and must not pass for that.
      if (module.errors().length > 0) count.failed++;
    }
    if (modules.some(isLeftOut)) process.stdout.write(`${leftOut}\n`);
    const failed = count.failed + count.pending + errors.length;
    process.stdout.write(`tests: ${count.passed} passed, ${failed} failed, ${count.skipped} skipped\n`);
  }
}
