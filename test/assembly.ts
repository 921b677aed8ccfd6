/** Makes the synthesized assembly before the first test, so that tests run side by side share one and none synthesizes it twice. */
import { ensureAssembly } from "../cdk/app.js";

export default async function setup(): Promise<void> {
  await ensureAssembly("cdk.out", { validate: false });
}
