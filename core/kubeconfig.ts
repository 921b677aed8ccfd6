/** The administrator's kubeconfig: from the file a server writes for itself to one that works from outside. */
import { parse, stringify } from "yaml";
import { z } from "zod";
import { Invalid } from "./failures.js";

const named = <Key extends string>(key: Key) => z.looseObject({ name: z.string(), [key]: z.looseObject({}) });
const kubeconfig = z.looseObject({
  clusters: z.array(z.looseObject({ name: z.string(), cluster: z.looseObject({ server: z.string() }) })).length(1),
  users: z.array(named("user")).length(1),
  contexts: z.array(named("context")).length(1),
});

/**
 * Names the endpoint in place of the loopback address that RKE2 writes, and the cluster in place of `default`, so that several kubeconfigs can be
 * merged (rke2-docs, "Cluster access").
 *
 * @param server such as https://name.elb.us-east-1.amazonaws.com:6443
 * @throws Invalid when the text is not a kubeconfig of one cluster; the message holds nothing of it
 */
export function kubeconfigForEndpoint(text: string, cluster: string, server: string): string {
  const parsed = kubeconfig.safeParse(readYaml(text));
  if (!parsed.success) {
    throw new Invalid(`The file that the first server of ${cluster} uploaded is not a kubeconfig of one cluster`, [], "Start the operation again");
  }
  const [source] = parsed.data.clusters;
  const [user] = parsed.data.users;
  return stringify({
    ...parsed.data,
    clusters: [{ name: cluster, cluster: { ...source?.cluster, server } }],
    users: [{ ...user, name: `${cluster}-admin` }],
    contexts: [{ name: cluster, context: { cluster, user: `${cluster}-admin` } }],
    "current-context": cluster,
  });
}

function readYaml(text: string): unknown {
  try {
    return parse(text);
  } catch {
    // The parser's message would quote the file, which is secret.
    return undefined;
  }
}
