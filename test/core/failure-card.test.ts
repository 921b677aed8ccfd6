import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cardFailures, nodeCauses, unwrapCause, writeFailureCard } from "../../core/failure-card.js";
import { failureNames } from "../../core/failures.js";
import { type NodeFailure, nodeFailureCodes } from "../../core/node-commands.js";
import type { LeftResource } from "../../core/records.js";
import { at, chance } from "./facts.js";

const lambdaCause = (errorType: string, errorMessage: string) => JSON.stringify({ errorType, errorMessage, trace: ["at x"] });
const left: LeftResource[] = [
  { kind: "instance", id: "i-1", detail: "m6i.xlarge, server-1", dollarsPerHour: 0.192 },
  { kind: "load-balancer", id: "lb-1", detail: "drv-prod", dollarsPerHour: 0.0225 },
];
const card = (facts: Partial<Parameters<typeof writeFailureCard>[0]>) =>
  writeFailureCard({
    error: "NoCapacity",
    cause: lambdaCause("NoCapacity", "2 nodes of prod found no room. Allow further instance types."),
    state: "Launch nodes",
    cluster: "prod",
    operation: "create-prod-1",
    kind: "create",
    left: [],
    now: at(0),
    ...facts,
  });
const nodeFailure = (code: NodeFailure["code"], more: Partial<NodeFailure> = {}) => ({
  name: "server-i-1",
  instanceId: "i-1",
  failure: { ok: false as const, code, message: "images do not match", log: "level=fatal msg=gone", ...more },
});

describe("the failure card", () => {
  it("says what failed, where, why probably, and what to type next", () => {
    expect(card({})).toEqual({
      operation: "create-prod-1",
      cluster: "prod",
      failure: "NoCapacity",
      state: "Launch nodes",
      what: "2 nodes of prod found no room. Allow further instance types.",
      likelyCause: "AWS has no room for any of the instance types in any of the zones that the cluster file allows.",
      next: [
        "drover validate FILE   # after adding instance types or subnets in further zones",
        "drover create FILE   # the same file: goes on where this stopped",
      ],
      left: { resources: [], dollarsPerHour: 0 },
      at: at(0),
      runbook: "docs/runbook.md#nocapacity",
    });
  });

  it("says what is left and what it costs, and how to give it up", () => {
    const { left: rest, next } = card({ left });
    expect(rest).toEqual({ resources: left, dollarsPerHour: 0.2145 });
    expect(next.at(-1)).toBe("drover delete prod   # or give it up");
  });

  it("goes on with a delete by its name", () => {
    expect(card({ kind: "delete", left }).next.at(-1)).toBe("drover delete prod   # goes on where this stopped");
  });

  it("shows the node with the end of its log, and advises by its code", () => {
    const written = card({
      error: "NodeCommandFailed",
      cause: lambdaCause("NodeCommandFailed", "prepare-node on i-1"),
      nodeFailure: nodeFailure("ChecksumMismatch"),
    });
    expect(written).toMatchObject({
      failure: "NodeCommandFailed",
      node: { name: "server-i-1", instanceId: "i-1", log: "level=fatal msg=gone" },
      likelyCause: nodeCauses.ChecksumMismatch.likelyCause,
      runbook: "docs/runbook.md#checksummismatch",
    });
    expect(written.next).toContain("# add the release again: drover artifacts add DIR");
  });

  it("finds the state that a handler put before its message, as inside a Parallel state", () => {
    const written = card({ state: "Start cluster", cause: lambdaCause("NodeLost", "[Prepare first server] i-1 is gone") });
    expect(written).toMatchObject({ state: "Prepare first server", what: "i-1 is gone" });
  });

  it.each<[string, string, string, string]>([
    ["a state that timed out", "States.Timeout", "", "TimedOut"],
    ["a heartbeat that stopped", "States.HeartbeatTimeout", "", "TimedOut"],
    [
      "a function that ran out of time",
      "Sandbox.Timedout",
      lambdaCause("Sandbox.Timedout", "RequestId: 1 Error: Task timed out after 60.00 seconds"),
      "TimedOut",
    ],
    [
      "a missing permission",
      "UnauthorizedOperation",
      lambdaCause("UnauthorizedOperation", "not authorized to perform: ec2:RunInstances"),
      "AccessDenied",
    ],
    ["a state machine's missing permission", "States.Permissions", "no", "AccessDenied"],
    ["a quota by its own name", "VcpuLimitExceeded", lambdaCause("VcpuLimitExceeded", "32 vCPU"), "QuotaReached"],
    ["a quota inside an Invalid", "Invalid", lambdaCause("Invalid", "ec2 RunInstances was answered with VcpuLimitExceeded: 32 vCPU"), "QuotaReached"],
    ["another Invalid", "Invalid", lambdaCause("Invalid", "ec2 RunInstances was answered with InvalidAMIID.NotFound: no"), "Invalid"],
    ["a Lambda service that was busy", "Lambda.TooManyRequestsException", "Rate exceeded", "NotYet"],
    ["a programming error", "TypeError", lambdaCause("TypeError", "x is undefined"), "Unexpected"],
  ])("names %s", (_, error, cause, failure) => {
    const written = card({ error, cause });
    expect(written.failure).toBe(failure);
    expect(written.runbook).toBe(`docs/runbook.md#${failure.toLowerCase()}`);
    expect(written.what).not.toBe("");
  });

  it("keeps the name of an error that no table knows", () => {
    expect(card({ error: "TypeError", cause: lambdaCause("TypeError", "x is undefined") }).what).toBe("TypeError: x is undefined");
    expect(card({ error: "Strange", cause: "" }).what).toBe("Strange, without a message");
  });

  it("names only failures that have a heading in the runbook's list", () => {
    expect(failureNames.every((name) => cardFailures.includes(name))).toBe(true);
    fc.assert(
      fc.property(fc.string(), fc.string(), (error, cause) => {
        expect(cardFailures).toContain(card({ error, cause }).failure);
      }),
      { seed: 41179, numRuns: 500 },
    );
  });

  it("has advice for every code of a node command", () => {
    for (const code of nodeFailureCodes) {
      const { likelyCause, next } = nodeCauses[code];
      expect(likelyCause).toMatch(/\.$/);
      expect(next).not.toMatch(/\.$/);
    }
  });

  it("keeps a long message short", () => {
    expect(card({ cause: "x ".repeat(5000) }).what.length).toBeLessThanOrEqual(1000);
  });
});

describe("unwrapping a cause", () => {
  it("reads a Lambda error", () => {
    expect(unwrapCause("Runtime.Error", lambdaCause("NodeLost", "i-1 is gone"))).toEqual({ error: "NodeLost", message: "i-1 is gone" });
  });
  it("reads a child execution's error through all its wrapping", () => {
    const child = JSON.stringify({ ExecutionArn: "arn", Status: "FAILED", Error: "Unsafe", Cause: lambdaCause("Unsafe", "two clusters") });
    expect(unwrapCause("States.TaskFailed", child)).toEqual({ error: "Unsafe", message: "two clusters" });
    const twice = JSON.stringify({ Error: "States.TaskFailed", Cause: child });
    expect(unwrapCause("States.TaskFailed", twice)).toEqual({ error: "Unsafe", message: "two clusters" });
  });
  it("reads a cause that is an object already, or JSON in a JSON string", () => {
    expect(unwrapCause("x", JSON.stringify({ Error: "Busy", Cause: { errorType: "Busy", errorMessage: "op-1 holds it" } }))).toEqual({
      error: "Busy",
      message: "op-1 holds it",
    });
    expect(unwrapCause("x", JSON.stringify(lambdaCause("Busy", "op-1 holds it")))).toEqual({ error: "Busy", message: "op-1 holds it" });
  });
  it("reads what a node said", () => {
    const said = { ok: false, code: "DiskFull", message: "2 GiB are free, 8 are needed", log: "" };
    expect(unwrapCause("NodeCommandFailed", lambdaCause("NodeCommandFailed", JSON.stringify(said)))).toEqual({
      error: "NodeCommandFailed",
      message: "2 GiB are free, 8 are needed",
      nodeFailure: said,
    });
  });
  it("reads the beginning of a cause that was cut off", () => {
    expect(unwrapCause("x", lambdaCause("NodeLost", "i-1 is gone").slice(0, 55))).toMatchObject({ error: "NodeLost" });
    const cut = `{"errorType":"NodeLost","errorMessage":"i-1 is gone","trace":["at`;
    expect(unwrapCause("x", cut)).toEqual({ error: "NodeLost", message: "i-1 is gone" });
  });
  it("takes an execution that only ended, and plain text, as they are", () => {
    expect(unwrapCause("States.TaskFailed", JSON.stringify({ Status: "TIMED_OUT" }))).toEqual({
      error: "TIMED_OUT",
      message: "the execution ended as TIMED_OUT",
    });
    expect(unwrapCause("Odd", "plain words")).toEqual({ error: "Odd", message: "plain words" });
    expect(unwrapCause("Odd", "[1,2]")).toEqual({ error: "Odd", message: "[1,2]" });
  });
  it("ends on causes nested without end", () => {
    let cause = "deep";
    for (let depth = 0; depth < 12; depth += 1) cause = JSON.stringify({ Error: "E", Cause: cause });
    expect(unwrapCause("E", cause).error).toBe("E");
  });
});

describe("law 6 on the card", () => {
  it("never shows a secret, wherever it comes in and however it is wrapped", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), (seed) => {
        const draw = chance(seed);
        const pick = <T>(items: readonly T[]): T => items[Math.floor(draw() * items.length)] as T;
        const secret = Array.from({ length: 24 + Math.floor(draw() * 20) }, () =>
          pick([..."ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"]),
        ).join("");
        const leak = pick([
          `token: ${secret}`,
          `K10${"ab".repeat(32)}::server:${secret}`,
          `https://b.s3.amazonaws.com/k?X-Amz-Security-Token=${secret}&X-Amz-Signature=${secret}`,
          `msg="password=${secret}, retrying"`,
          JSON.stringify({ token: secret }),
          `Authorization: Bearer ${secret}`,
        ]);
        const text = `${pick(["", "failed: "])}${leak}${pick(["", " at 10.0.0.1"])}`;
        const cause = pick([
          text,
          lambdaCause("NodeLost", text),
          JSON.stringify({ Error: "X", Cause: lambdaCause("NodeLost", text) }),
          lambdaCause("NodeLost", text).slice(0, -12),
        ]);
        const written = card({
          cause,
          error: pick(["NodeLost", "States.TaskFailed", "Weird"]),
          left: [{ kind: "secret", id: "secret-1", detail: text, dollarsPerHour: 0 }],
          nodeFailure: draw() < 0.5 ? nodeFailure("ServiceFailed", { message: text, log: text }) : undefined,
        });
        const shown = JSON.stringify(written);
        if (shown.includes(secret)) throw new Error(`${secret} is shown: ${shown}`);
      }),
      { seed: 41180, numRuns: 1000 },
    );
  });
});
