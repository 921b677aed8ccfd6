/** State "Create credentials" of create-cluster: server and agent token, once. A generation that exists is kept. */
import { randomInt } from "node:crypto";
import type { z } from "zod";
import { checkPassword } from "../core/rke2-config.js";
import { type SecretStore, secretStore } from "./aws/secrets.js";
import { type StateStore, stateStore } from "./aws/state.js";
import { holdLease, milestone, readRecord, stepInput, updateRecord } from "./cluster.js";
import { lambda, type Task } from "./lambda.js";

interface Clients {
  readonly state: StateStore;
  readonly secrets: SecretStore;
}

const tokens = ["server-token", "agent-token"] as const;

export const createCredentials: Task<z.output<typeof stepInput>, Clients, Record<string, never>> = async (step, { state, secrets }, moment) => {
  await holdLease(state, step);
  const record = await readRecord(state, step.cluster);
  const missing = tokens.filter((kind) => record.secrets[kind] === 0);
  if (missing.length === 0) return {};
  // A generation that is there already is an earlier run's: it is kept, and only the record catches up.
  for (const kind of missing) await secrets.create(record.uid, kind, 1, password());
  await updateRecord(state, step.cluster, (current) => ({ ...current, secrets: { ...current.secrets, "server-token": 1, "agent-token": 1 } }));
  await milestone(state, step, "credentials", "Server and agent token are made and encrypted", moment.now);
  return {};
};

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/** 48 letters and digits, about 285 bits. Drawn again in the rare case that RKE2 would read it as a token of another form. */
function password(): string {
  for (;;) {
    const drawn = Array.from({ length: 48 }, () => alphabet[randomInt(alphabet.length)]).join("");
    if (checkPassword(drawn) === undefined) return drawn;
  }
}

export const handler = lambda(
  stepInput,
  (environment) => ({
    state: stateStore(environment("STATE_BUCKET")),
    secrets: secretStore(environment("STATE_BUCKET"), environment("SECRETS_KEY_ARN")),
  }),
  createCredentials,
);
