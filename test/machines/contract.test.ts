/** The contract of the node commands on booted machines: the real scripts, the release that stands in for RKE2, real etcd. */
import { afterAll, beforeAll, expect, vi } from "vitest";
import { tracesOf } from "../../local/nodes/machines/driver.js";
import { nodeCommandContract } from "../local-nodes/contract.js";
import { describeMachines } from "./machine-tests.js";
import { type SharedMachines, shareMachines } from "./node-bench.js";

// Nearly all of a case is waiting.
vi.setConfig({ maxConcurrency: 16 });

describeMachines("machines keep the contract", () => {
  let machines: SharedMachines;
  beforeAll(async () => {
    machines = await shareMachines();
  });
  afterAll(async () => {
    await machines.close();
    expect(tracesOf(machines.cloud.name)).toEqual([]);
  });

  nodeCommandContract("booted machines", () => machines.bench(), { concurrent: true });
});
