/** Keeps tests that boot machines out of the plain run, with a line that says why. */
import { describe } from "vitest";

const wanted = process.env.DROVER_TEST_MACHINES === "1";
let said = false;

export function describeMachines(name: string, tests: () => void): void {
  if (!wanted && !said) {
    said = true;
    console.info(
      "Machine tests are left out: they boot machines. npm run test:machines runs them, as root on Debian with: apt-get install systemd-container debootstrap etcd-server iproute2",
    );
  }
  describe.runIf(wanted)(name, tests);
}
