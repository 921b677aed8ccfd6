import { describe, expect, it } from "vitest";
import { byPlace, type InstanceState, isAlive, isGone, observedFromTags } from "../../core/nodes.js";
import { agent, at } from "./facts.js";

const described = {
  instanceId: "i-7",
  tags: { "drover:role": "agent", "drover:pool": "workers", "drover:slot": "5", "drover:operation": "op-9" },
  amiLaunchIndex: 2,
  zone: "eu-west-1b",
  subnetId: "subnet-2",
  instanceType: "c6i.large",
  address: "10.0.1.7",
  state: "running",
  launchedAt: at(3),
};

describe("reading instances from their tags", () => {
  it("finds an instance's slot from the launch's first slot and its launch index", () => {
    expect(observedFromTags(described)).toEqual({
      instanceId: "i-7",
      role: "agent",
      pool: "workers",
      slot: 7,
      operation: "op-9",
      zone: "eu-west-1b",
      subnetId: "subnet-2",
      instanceType: "c6i.large",
      address: "10.0.1.7",
      state: "running",
      launchedAt: at(3),
    });
  });
  it("keeps EC2's reason for the state", () => {
    expect(observedFromTags({ ...described, stateReason: "Client.InternalError" })?.stateReason).toBe("Client.InternalError");
  });
  it.each([
    ["no role", { "drover:role": undefined }],
    ["a role of another system", { "drover:role": "bastion" }],
    ["no pool", { "drover:pool": undefined }],
    ["an empty pool", { "drover:pool": "" }],
    ["no slot", { "drover:slot": undefined }],
    ["slot 0", { "drover:slot": "0" }],
    ["a slot that is no number", { "drover:slot": "1e3" }],
  ])("takes no instance with %s for a node", (_, change) => {
    const tags = Object.fromEntries(Object.entries({ ...described.tags, ...change }).filter(([, value]) => value !== undefined)) as Record<
      string,
      string
    >;
    expect(observedFromTags({ ...described, tags })).toBeUndefined();
  });
  it("takes no instance in a state that EC2 does not have for a node", () => {
    expect(observedFromTags({ ...described, state: "hibernating" })).toBeUndefined();
  });
});

describe("states of an instance", () => {
  it.each<[InstanceState, boolean, boolean]>([
    ["pending", true, false],
    ["running", true, false],
    ["unseen", true, false],
    ["stopping", false, false],
    ["stopped", false, false],
    ["shutting-down", false, true],
    ["terminated", false, true],
  ])("%s: alive %s, gone %s", (state, alive, gone) => {
    expect([isAlive(state), isGone(state)]).toEqual([alive, gone]);
  });
  it("orders nodes by pool, slot and id", () => {
    const nodes = [agent("i-4", 10), agent("i-3", 2), agent("i-2", 1, { pool: "zeta" }), agent("i-1", 2)];
    expect(nodes.sort(byPlace).map((node) => node.instanceId)).toEqual(["i-1", "i-3", "i-4", "i-2"]);
  });
});
