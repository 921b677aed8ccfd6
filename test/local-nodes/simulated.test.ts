/** What simulated nodes do beyond the contract: the times of the latency model, and the ways RKE2 is unkind. */
import { describe, expect, it } from "vitest";
import { joinsText } from "../../core/node-commands.js";
import { simulatedBench } from "./bench.js";
import {
  agentParameters,
  begin,
  bootstrapParameters,
  bootstrapped,
  failed,
  fullToken,
  joined,
  joinParameters,
  nodeCommandContract,
  perform,
  prepared,
  prepareParameters,
  releaseDelivery,
  succeeded,
  tokenDelivery,
} from "./contract.js";

nodeCommandContract("simulated nodes", () => simulatedBench());

describe("simulated servers", () => {
  it("join one learner at a time, whoever asks at once", async () => {
    const bench = simulatedBench({ seed: 4 });
    const { first, caHash } = await bootstrapped(bench);
    const others = [await prepared(bench, "server"), await prepared(bench, "server")];
    const joins = others.map((machine) => begin(bench, machine, "start-server", joinParameters(bench, caHash, first.address)));
    let learnersAtOnce = 0;
    let learnersSeen = 0;
    bench.world.clock.afterEachEvent(() => {
      const learners = bench.driver.clusters()[0]?.members.filter((member) => !member.voter).length ?? 0;
      learnersAtOnce = Math.max(learnersAtOnce, learners);
      learnersSeen += learners;
    });
    for (const join of joins) succeeded(await bench.settle(join));
    expect(learnersAtOnce).toBe(1);
    expect(learnersSeen).toBeGreaterThan(0);
    expect(bench.driver.clusters()[0]?.members.map((member) => member.voter)).toEqual([true, true, true]);
  });

  it("free the learner's place only five minutes after a learner died", async () => {
    const bench = simulatedBench({ seed: 5 });
    const { first, caHash } = await bootstrapped(bench);
    const [dying, waiting] = [await prepared(bench, "server"), await prepared(bench, "server")];
    void begin(bench, dying, "start-server", joinParameters(bench, caHash, first.address));
    await bench.pass(1);
    expect(bench.driver.clusters()[0]?.members).toMatchObject([{ voter: true }, { voter: false, instanceId: dying.instanceId }]);
    bench.driver.halt(dying.instanceId);
    const diedAt = bench.world.clock.now();
    succeeded(await perform(bench, waiting, "start-server", joinParameters(bench, caHash, first.address)));
    expect((bench.world.clock.now() - diedAt) / 1000).toBeGreaterThan(300);
    expect(bench.driver.clusters()[0]?.members.map((member) => member.instanceId)).toEqual([first.instanceId, waiting.instanceId]);
  });

  it("lose the majority with the second of two, and say since when", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const second = await joined(bench, caHash, first);
    await bench.pass(60);
    bench.driver.halt(second.instanceId);
    expect(bench.driver.clusters()[0]).toMatchObject({ hasQuorum: false });
    expect(bench.driver.answers(first.instanceId, 6443)).toEqual({ answers: false, sinceMs: bench.world.clock.now() });
  });

  it("take the first server's time and a learner's time from the latency model", async () => {
    const bench = simulatedBench({ seed: 11 });
    const first = await prepared(bench, "server");
    const startedAt = bench.world.clock.now();
    const { caHash } = succeeded(await perform(bench, first, "start-server", bootstrapParameters(bench)));
    const bootstrapSeconds = (bench.world.clock.now() - startedAt) / 1000;
    expect(bootstrapSeconds).toBeGreaterThan(15);
    expect(bootstrapSeconds).toBeLessThan(110);
    const second = await prepared(bench, "server");
    const joinedAt = bench.world.clock.now();
    succeeded(await perform(bench, second, "start-server", joinParameters(bench, caHash, first.address)));
    expect((bench.world.clock.now() - joinedAt) / 1000).toBeLessThan(90);
  });

  it("keep the service running when the script that started it is killed", async () => {
    const bench = simulatedBench();
    const machine = await prepared(bench, "server");
    const parameters = bootstrapParameters(bench);
    const run = bench.driver.run({
      commandId: "killed",
      instanceId: machine.instanceId,
      documentName: "drover-start-server-01234567",
      content: { schemaVersion: "2.2", mainSteps: [] },
      parameters,
    });
    let ended = false;
    void run.ended.then(() => {
      ended = true;
    });
    await bench.pass(3);
    run.kill();
    await bench.pass(300);
    expect(ended).toBe(false);
    expect(bench.driver.answers(machine.instanceId, 9345).answers).toBe(true);
    succeeded(await perform(bench, machine, "start-server", parameters));
    expect(bench.driver.clusters()).toHaveLength(1);
  });
});

// Beyond the contract because of their length: what a script waits out takes machines a quarter of an hour or more.
describe("simulated nodes at the end of their time", () => {
  it("give up an agent that no server answers", async () => {
    const bench = simulatedBench();
    const { caHash } = await bootstrapped(bench);
    const agent = await prepared(bench, "agent");
    const startedAt = bench.world.clock.now();
    const parameters = agentParameters(bench, caHash, agent, ["10.0.0.177", "10.0.0.178"]);
    expect(failed(await perform(bench, agent, "start-agent", parameters))).toMatchObject({ code: "StartTimedOut", exitCode: 75 });
    expect((bench.world.clock.now() - startedAt) / 1000).toBeCloseTo(840, -1);
  });

  it("take an agent back whose node was deleted, by starting it anew: a kubelet registers when it starts, and never again", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const agent = await prepared(bench, "agent");
    const parameters = agentParameters(bench, caHash, agent, [first.address]);
    succeeded(await perform(bench, agent, "start-agent", parameters));
    succeeded(await perform(bench, first, "remove-node", { pool: "server", nodes: `workers-${agent.instanceId}`, role: "agent" }));
    await bench.pass(120);
    expect(succeeded(await perform(bench, first, "check-cluster", { pool: "server" })).nodes).toBe(1);
    expect(succeeded(await perform(bench, agent, "start-agent", parameters)).changed).toBe(true);
    expect(succeeded(await perform(bench, first, "check-cluster", { pool: "server" })).nodes).toBe(2);
    expect(succeeded(await perform(bench, agent, "start-agent", parameters)).changed).toBe(false);
  });

  it("give up a server that runs in a cluster without a majority, and one that is to join it", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const second = await joined(bench, caHash, first);
    const third = await prepared(bench, "server");
    bench.driver.halt(second.instanceId);
    const removal = failed(await perform(bench, first, "remove-node", { pool: "server", nodes: `server-${second.instanceId}`, role: "server" }));
    expect(removal).toMatchObject({ code: "NotReady", exitCode: 75, message: `The API does not answer on server-${first.instanceId}` });
    const again = failed(await perform(bench, first, "start-server", bootstrapParameters(bench)));
    expect(again).toMatchObject({ code: "NotReady", exitCode: 75 });
    const join = failed(await perform(bench, third, "start-server", joinParameters(bench, caHash, first.address)));
    // The supervisor lets it ask, so it is not started again and again.
    expect(join).toMatchObject({ code: "StartTimedOut", exitCode: 75 });
    expect(join.log).toContain("503 Service Unavailable");
  });

  it("give a server up sooner than its time when nobody lets it in", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const [refused, lost] = [await prepared(bench, "server"), await prepared(bench, "server")];
    const took = async (act: () => Promise<unknown>) => {
      const startedAt = bench.world.clock.now();
      await act();
      return (bench.world.clock.now() - startedAt) / 1000;
    };
    const wrong = {
      ...joinParameters(bench, caHash, first.address),
      delivery: tokenDelivery(bench, fullToken(caHash, "server", "x"), { agentToken: "y" }),
    };
    const password = await took(async () => expect(failed(await perform(bench, refused, "start-server", wrong)).code).toBe("TokenRejected"));
    // Eight refusals, twenty starts; each start 5 to 7 s after the one before.
    expect(password).toBeGreaterThan(7 * 5);
    expect(password).toBeLessThan(8 * 7);
    const silence = await took(async () =>
      expect(failed(await perform(bench, lost, "start-server", joinParameters(bench, caHash, "10.0.47.9"))).code).toBe("ServiceFailed"),
    );
    expect(silence).toBeGreaterThan(20 * 5);
    expect(silence).toBeLessThan(20 * 7);
  });
});

describe("simulated servers and their labels", () => {
  it("pass for agents until their roles are told", async () => {
    const bench = simulatedBench();
    const { first } = await bootstrapped(bench);
    const view = async () => succeeded(await perform(bench, first, "check-cluster", { pool: "server" }));
    expect(await view()).toMatchObject({ serversReady: 0, agentsReady: 1, nodes: 1 });
    await bench.pass(2);
    expect(await view()).toMatchObject({ serversReady: 1, agentsReady: 0, nodes: 1 });
  });
});

describe("simulated agents", () => {
  it("are admitted one a second by the server they were sent to", async () => {
    const bench = simulatedBench({ seed: 3 });
    const { first, caHash } = await bootstrapped(bench);
    const agents = await Promise.all(Array.from({ length: 60 }, () => bench.boot()));
    const delivery = releaseDelivery(bench, { role: "agent" });
    const prepares = agents.map((agent) => begin(bench, agent, "prepare-node", prepareParameters(bench, "agent", "workers", delivery)));
    for (const prepare of prepares) succeeded(await bench.settle(prepare));
    const startedAt = bench.world.clock.now();
    const starts = agents.map((agent) => begin(bench, agent, "start-agent", agentParameters(bench, caHash, agent, [first.address])));
    const admitted: number[] = [];
    let seen = 1;
    bench.world.clock.afterEachEvent(() => {
      const count = bench.driver.clusters()[0]?.nodes.length ?? 0;
      for (; seen < count; seen++) admitted.push((bench.world.clock.now() - startedAt) / 1000);
    });
    for (const start of starts) succeeded(await bench.settle(start));
    expect(admitted).toHaveLength(60);
    // Never faster than the rate; those beyond the queue come back after 5 to 10 seconds, so it is not much slower either.
    for (const [at, second] of admitted.entries()) expect(second).toBeGreaterThanOrEqual(at + 1 - 1e-6);
    expect(admitted.at(-1)).toBeLessThan(80);
  });

  it("are not admitted by a server whose cluster has no majority", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    const second = await joined(bench, caHash, first);
    const agent = await prepared(bench, "agent");
    bench.driver.halt(second.instanceId);
    expect(failed(await perform(bench, agent, "start-agent", agentParameters(bench, caHash, agent, [first.address])))).toMatchObject({
      code: "StartTimedOut",
      exitCode: 75,
    });
  });
});

describe("simulated machines", () => {
  it("die while they join when that fault strikes, and their command never ends", async () => {
    const bench = simulatedBench({ faults: { nodeLostWhileJoining: 1 } });
    const machine = await prepared(bench, "server");
    let ended = false;
    void begin(bench, machine, "start-server", bootstrapParameters(bench)).then(() => {
      ended = true;
    });
    await bench.pass(600);
    expect(bench.lost).toEqual([machine.instanceId]);
    expect(ended).toBe(false);
    expect(bench.driver.answers(machine.instanceId, 9345).answers).toBe(false);
  });

  it("are remembered over a save and a load", async () => {
    const bench = simulatedBench();
    const { first, caHash } = await bootstrapped(bench);
    await bench.pass(600);
    const saved = structuredClone(bench.driver.save());
    const other = simulatedBench({ seed: 2 });
    other.driver.load(saved);
    expect(other.driver.clusters()).toMatchObject([{ caHash, bootstrappedBy: first.instanceId, hasQuorum: true }]);
    expect(other.driver.answers(first.instanceId, 9345).answers).toBe(true);
    expect(succeeded(await perform(other, first, "check-cluster", { pool: "server" }))).toMatchObject({ members: 1, caHash });
  });

  it("behave alike for the same seed", async () => {
    const times = [];
    for (const seed of [7, 7, 8]) {
      const bench = simulatedBench({ seed });
      await bootstrapped(bench);
      times.push(bench.world.clock.now());
    }
    expect(times[0]).toBe(times[1]);
    expect(times[0]).not.toBe(times[2]);
  });

  it("are cheap: a thousand agents join within seconds of computing", async () => {
    const bench = simulatedBench({ seed: 1 });
    const { first, caHash } = await bootstrapped(bench);
    const agents = await Promise.all(Array.from({ length: 1000 }, () => bench.boot()));
    const delivery = releaseDelivery(bench, { role: "agent" });
    const prepares = agents.map((agent) => begin(bench, agent, "prepare-node", prepareParameters(bench, "agent", "workers", delivery)));
    for (const prepare of prepares) succeeded(await bench.settle(prepare));
    // Groups of fifty, as fast as one server bears.
    const starts: Promise<unknown>[] = [];
    for (let group = 0; group < 20; group++) {
      const members = agents.slice(group * 50, group * 50 + 50);
      const joins = joinsText(Object.fromEntries(members.map(({ instanceId }) => [instanceId, first.address])));
      const parameters = { ...agentParameters(bench, caHash, first, [first.address]), joins };
      for (const agent of members) starts.push(begin(bench, agent, "start-agent", parameters).then(succeeded));
      await bench.pass(50);
    }
    for (const start of starts) await bench.settle(start);
    const { agentsReady } = succeeded(await perform(bench, first, "check-cluster", { pool: "server" }));
    expect(agentsReady).toBe(1000);
    expect(bench.world.clock.events).toBeLessThan(30_000);
  });
});
