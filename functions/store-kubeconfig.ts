/** State "Store kubeconfig" of create-cluster: takes what the first server uploaded, names the endpoint in it, and keeps it encrypted. */
import type { z } from "zod";
import { Unsafe } from "../core/failures.js";
import { kubeconfigForEndpoint } from "../core/kubeconfig.js";
import { ports } from "../core/layout.js";
import { type SecretStore, secretStore } from "./aws/secrets.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { endpointOf, holdLease, milestone, readRecord, stepInput, updateRecord } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

interface Clients {
  readonly state: StateStore;
  readonly secrets: SecretStore;
}

export const storeKubeconfig: Task<z.output<typeof stepInput>, Clients, { readonly generation: number }> = async (
  step,
  { state, secrets },
  moment,
) => {
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const uploaded = record.kubeconfigUpload === undefined ? undefined : await secrets.readText(record.kubeconfigUpload);
  if (record.kubeconfigUpload === undefined || uploaded === undefined) {
    if (record.secrets.kubeconfig > 0) return { generation: record.secrets.kubeconfig };
    throw new Unsafe(`The first server of ${step.cluster} has not uploaded a kubeconfig`, "Start the operation again");
  }
  const generation = record.secrets.kubeconfig + 1;
  const server = `https://${endpointOf(record).dnsName}:${ports.api}`;
  await secrets.create(record.uid, "kubeconfig", generation, kubeconfigForEndpoint(uploaded, record.name, server));
  await updateRecord(state, step.cluster, ({ kubeconfigUpload: _, ...current }) => ({
    ...current,
    secrets: { ...current.secrets, kubeconfig: generation },
  }));
  await state.remove(record.kubeconfigUpload);
  await milestone(state, step, "kubeconfig", `Read it with: drover kubeconfig ${step.cluster}`, moment.now);
  return { generation };
};

export const handler = lambda(
  stepInput,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    secrets: secretStore(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
  }),
  storeKubeconfig,
);
