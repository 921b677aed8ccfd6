/** HTTP route of its own for the kubeconfig, so that its role alone may open that secret, and IAM can allow the route to fewer people. */
import { stateKeys } from "../core/layout.js";
import type { ClusterRecord } from "../core/records.js";
import { type SecretStore, secretStore } from "./aws/secrets.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { httpHandler, NotFound, nameIn, type Route } from "./http.js";

interface Clients {
  readonly state: StateStore;
  readonly secrets: SecretStore;
}

const readKubeconfig: Route<Clients> = async (request, { state, secrets }) => {
  const name = nameIn(request.path);
  const record = (await state.read<ClusterRecord>(stateKeys.record(name)))?.value;
  if (record === undefined) throw new NotFound(`There is no cluster ${name}`, "See which there are: drover list");
  const generation = record.secrets.kubeconfig;
  if (generation === 0) throw new NotFound(`${name} has no kubeconfig yet`, `See how far it is: drover watch ${name}`);
  return { status: 200, body: { cluster: name, generation, kubeconfig: await secrets.read(record.uid, "kubeconfig", generation) } };
};

export const handler = httpHandler<Clients>(
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    secrets: secretStore(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
  }),
  { readKubeconfig },
);
