import { createHash } from "node:crypto";
import { World } from "../../local/world.js";

/** Hash of every AWS call of one run: some requests, some of them at once, with faults. */
export async function traceHash(assembly: string, seed: number): Promise<string> {
  const hash = createHash("sha256");
  const world = World.boot({
    assembly,
    seed,
    faults: { throttle: 0.1, crashAfterEffect: 0.05, runTwice: 0.1 },
    trace: (entry) => hash.update(JSON.stringify(entry)),
  });
  const names = ["a", "b", "c", "d", "e", "f"];
  for (const name of names) await world.request("PUT", `/objects/${name}`, { with: names });
  await world.drive(
    Promise.all(
      names.map((name) =>
        world.api.request({ method: "GET", path: `/objects/${name}` }, { arn: "arn:aws:iam::1:user/x", accessKeyId: "A", enforced: false }),
      ),
    ),
  );
  await world.runUntilIdle();
  world.close();
  return hash.digest("hex");
}
