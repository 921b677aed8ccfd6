/** The files that take longest come first, so that none of them is left to run alone at the end; the others by their size, as usual. */
import { BaseSequencer, type TestSpecification } from "vitest/node";

const longest = ["killed-restore", "killed-workflow", "restore", "contract", "snapshots", "demo", "create", "killed-node", "faults"];

export default class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = longest.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`));
      return found < 0 ? longest.length : found;
    };
    return (await super.sort(files)).sort((a, b) => place(a) - place(b));
  }
}
