import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { sendOverNetwork } from "../../cli/http.js";
import type { ArtifactRelease, ClusterStatus, ClusterSummary } from "../../core/api.js";
import { standInFiles } from "../../local/aws/stand-in-release.js";
import { type LocalCloud, startLocalCloud } from "../../local/serve.js";
import { Stage } from "./stage.js";

const startAt = Date.UTC(2026, 0, 5, 2);
const single = readFileSync(join(import.meta.dirname, "..", "..", "examples", "single.yaml"), "utf8");

const running: LocalCloud[] = [];
afterEach(async () => {
  for (const cloud of running.splice(0)) await cloud.stop();
});

/** A stage whose requests go over loopback to a local cloud, as those of a person's terminal do. */
async function start(stage: Stage, more: { readonly traceFile?: string } = {}) {
  const said: string[] = [];
  const cloud = await startLocalCloud({
    stateFile: join(stage.directory, ".drover", "local", "state.bin"),
    seed: "7",
    speed: 10_000,
    port: 0,
    release: true,
    assembly: "cdk.out",
    now: () => startAt,
    say: (line) => said.push(line),
    ...more,
  });
  running.push(cloud);
  const { url: endpoint, region, accessKeyId, secretAccessKey } = cloud;
  const file = {
    schema: 1,
    endpoint,
    region,
    accessKeyId,
    secretAccessKey,
    pid: process.pid,
    speed: 10_000,
    virtualMilliseconds: 0,
    realMilliseconds: 0,
  };
  writeFileSync(join(stage.directory, ".drover", "local.json"), JSON.stringify(file));
  return {
    cloud,
    said,
    async stop() {
      running.splice(running.indexOf(cloud), 1);
      await cloud.stop();
    },
  };
}

/** Sends for real: the stage's network is what answers. */
function overLoopback(): Stage {
  const stage = new Stage({ send: sendOverNetwork });
  mkdirSync(join(stage.directory, ".drover"));
  writeFileSync(join(stage.directory, "single.yaml"), single);
  return stage;
}

describe("the local cloud", () => {
  it("serves the API on loopback with a release to begin with, and lets only its own keys in", async () => {
    const stage = overLoopback();
    const { cloud } = await start(stage);
    expect(cloud.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    expect(cloud.goesOn).toBe(false);
    const { code, data } = await stage.json<{ releases: ArtifactRelease[] }>("artifacts", "list");
    expect(code).toBe(0);
    expect(data.releases.map(({ version, architecture }) => `${version} ${architecture}`)).toEqual(["v1.35.7+rke2r1 amd64", "v1.35.7+rke2r1 arm64"]);
    expect(data.releases.every(({ missing }) => Object.values(missing).every((names) => names.length === 0))).toBe(true);
    const answer = await sendOverNetwork(
      { method: "GET", url: new URL("/clusters", cloud.url), headers: {}, silenceMilliseconds: 5000 },
      new AbortController().signal,
    );
    expect(answer.status).toBe(403);
  });

  it("remembers its account between starts, in a file for its owner alone", async () => {
    const stage = overLoopback();
    const first = await start(stage);
    expect((await stage.drover("create", "single.yaml", "--yes", "--no-wait")).code).toBe(0);
    await first.stop();
    expect(first.said).toEqual(["1 operation(s) are under way: running them to their end first, in virtual time"]);
    const stateFile = join(stage.directory, ".drover", "local", "state.bin");
    expect(statSync(stateFile).mode & 0o777).toBe(0o600);
    expect(existsSync(`${stateFile}.new`)).toBe(false);

    const second = await start(stage);
    expect(second.cloud.goesOn).toBe(true);
    expect((await stage.json<{ clusters: ClusterSummary[] }>("list")).data.clusters).toMatchObject([{ name: "single", phase: "ready" }]);
    const { data } = await stage.json<ClusterStatus>("status", "single");
    expect(data.nodes.map(({ state }) => state)).toEqual(["running"]);
    expect((await stage.drover("delete", "single", "--confirm", "single", "--override-protection", "--no-wait")).code).toBe(0);
    await second.stop();
    await start(stage);
    expect((await stage.json<{ clusters: ClusterSummary[] }>("list")).data.clusters).toEqual([]);
  });

  it("takes uploads over loopback, at the addresses that it gives out", async () => {
    const stage = overLoopback();
    const { cloud } = await start(stage);
    const version = "v1.34.9+rke2r1";
    mkdirSync(join(stage.directory, version));
    for (const [name, content] of standInFiles({ version, architecture: "arm64", imageSets: [""] })) {
      writeFileSync(join(stage.directory, version, name), content);
    }
    expect(await stage.drover("artifacts", "add", version)).toMatchObject({
      code: 0,
      out: expect.stringMatching(/ 3 files uploaded, 0 present before\n {2}arm64: complete for canal; not for /),
    });
    expect(cloud.world.denials).toEqual([]);
  });

  it("writes every AWS call to the trace, a line of JSON each", async () => {
    const stage = overLoopback();
    const traceFile = join(stage.directory, "calls.jsonl");
    const { stop } = await start(stage, { traceFile });
    expect((await stage.drover("create", "single.yaml", "--yes", "--no-wait")).code).toBe(0);
    await stop();
    const calls = readFileSync(traceFile, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(calls.length).toBeGreaterThan(50);
    expect(new Set(calls.map(({ service, operation }) => `${service} ${operation}`))).toContain("ec2 RunInstances");
    expect(readFileSync(traceFile, "utf8")).not.toMatch(/K10[0-9a-f]{64}|X-Amz-Signature=[0-9a-f]{64}/);
  });

  it("refuses a port that is taken and a state that it cannot read", async () => {
    const stage = overLoopback();
    const { cloud } = await start(stage);
    const port = Number(new URL(cloud.url).port);
    const other = { seed: "1", speed: 1, release: true, assembly: "cdk.out", now: () => startAt, say: () => {} };
    await expect(startLocalCloud({ ...other, port, stateFile: join(stage.directory, "other.bin") })).rejects.toMatchObject({ code: "EADDRINUSE" });
    writeFileSync(join(stage.directory, "broken.bin"), "not a state");
    await expect(startLocalCloud({ ...other, port: 0, stateFile: join(stage.directory, "broken.bin") })).rejects.toThrow(
      /broken\.bin is not the state of a local cloud, or of another version\. Start anew: drover local reset/,
    );
  });
});

describe("local, when nothing runs", () => {
  it("says so, and passes over what a dead one left", async () => {
    const stage = new Stage();
    mkdirSync(join(stage.directory, ".drover", "local"), { recursive: true });
    const file = { schema: 1, endpoint: "http://127.0.0.1:9", region: "eu-central-1", accessKeyId: "a", secretAccessKey: "b", pid: 2 ** 30 };
    const clocks = { speed: 20, virtualMilliseconds: 0, realMilliseconds: 0 };
    const path = join(stage.directory, ".drover", "local.json");
    writeFileSync(path, JSON.stringify({ ...file, ...clocks }));
    writeFileSync(join(stage.directory, ".drover", "local", "lock"), String(2 ** 30));
    expect(await stage.drover("local", "status")).toMatchObject({
      code: 3,
      out: expect.stringMatching(/^No local cloud runs on the state in .*\. Start it: drover local up\n$/),
    });
    expect(existsSync(path)).toBe(false);
    expect(await stage.json("local", "down")).toMatchObject({ code: 0, data: { running: false, stopped: false } });
    expect(existsSync(join(stage.directory, ".drover", "local", "lock"))).toBe(false);
  });
  it("forgets its account only when it is told to", async () => {
    const stage = new Stage();
    const state = join(stage.directory, ".drover", "local", "state.bin");
    mkdirSync(join(stage.directory, ".drover", "local"), { recursive: true });
    writeFileSync(state, "state");
    expect(await stage.drover("local", "reset")).toMatchObject({ code: 2, err: expect.stringMatching(/nobody can be asked; nothing was changed/) });
    stage.answers = ["no"];
    expect(await stage.drover("local", "reset")).toMatchObject({ code: 0, out: "Nothing was changed.\n" });
    expect(existsSync(state)).toBe(true);
    stage.answers = undefined;
    expect((await stage.drover("local", "reset", "--yes")).code).toBe(0);
    expect(existsSync(state)).toBe(false);
  });
});
