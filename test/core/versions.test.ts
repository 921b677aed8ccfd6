import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compareVersions, isChannel, isSameMinor, newestOfChannel, parseVersion, versionFault } from "../../core/versions.js";

const version = fc
  .tuple(
    fc.constantFrom(1, 2),
    fc.integer({ min: 9, max: 12 }),
    fc.integer({ min: 0, max: 11 }),
    fc.constantFrom("", "-rc1", "-rc2", "-rc10", "-rc1a", "-rc01", "-alpha.1", "-alpha.x", "-1"),
    fc.integer({ min: 1, max: 11 }),
  )
  .map(([major, minor, patch, preRelease, packaging]) => `v${major}.${minor}.${patch}${preRelease}+rke2r${packaging}`);
const text = fc.oneof({ weight: 5, arbitrary: version }, { weight: 1, arbitrary: fc.string({ maxLength: 6 }) });

describe("an RKE2 version", () => {
  it("is read in its parts", () => {
    expect(parseVersion("v1.35.7+rke2r1")).toEqual({ major: 1, minor: 35, patch: 7, preRelease: [], packaging: 1, text: "v1.35.7+rke2r1" });
    expect(parseVersion("v1.36.0-rc2+rke2r12")).toMatchObject({ preRelease: ["rc2"], packaging: 12 });
  });

  it.each([
    "",
    "1.35.7+rke2r1",
    "v1.35.7",
    "v1.35+rke2r1",
    "v1.35.7+k3s1",
    "v1.35.7-rke2r1",
    "v1.035.7+rke2r1",
    "v1.35.7+rke2r0",
    "v1.35.7+rke2r1 ",
    "v1.35.7+rke2r1\n",
    "v1.9999999.0+rke2r1",
  ])("is not %j", (wrong) => {
    expect(parseVersion(wrong)).toBeUndefined();
    expect(versionFault(wrong)).toMatch(/RKE2 version/);
  });

  it.each([
    ["v1.34.9+rke2r1", "v1.35.0+rke2r1"],
    ["v1.9.0+rke2r1", "v1.10.0+rke2r1"],
    ["v1.35.9+rke2r1", "v1.35.10+rke2r1"],
    ["v1.35.7+rke2r9", "v1.35.7+rke2r10"],
    ["v1.35.7-rc2+rke2r9", "v1.35.7-rc10+rke2r1"],
    ["v1.35.7-rc10+rke2r1", "v1.35.7+rke2r1"],
    ["v1.35.7-alpha.1+rke2r1", "v1.35.7-rc1+rke2r1"],
    ["stray", "v1.30.0-rc1+rke2r1"],
  ])("%s comes before %s", (older, newer) => {
    expect(compareVersions(older, newer)).toBeLessThan(0);
    expect(compareVersions(newer, older)).toBeGreaterThan(0);
  });

  it("is ordered totally: every two texts have an order, and it is transitive", () => {
    fc.assert(
      fc.property(text, text, text, (a, b, c) => {
        const [ab, ba, bc, ac] = [compareVersions(a, b), compareVersions(b, a), compareVersions(b, c), compareVersions(a, c)];
        expect(Math.sign(ab) + Math.sign(ba)).toBe(0);
        expect(ab === 0).toBe(a === b);
        if (ab <= 0 && bc <= 0) expect(ac).toBeLessThanOrEqual(0);
      }),
      { seed: 21, numRuns: 3000 },
    );
  });

  it("shares a minor with its patches only", () => {
    expect(isSameMinor("v1.35.7+rke2r1", "v1.35.0-rc1+rke2r2")).toBe(true);
    expect(isSameMinor("v1.35.7+rke2r1", "v1.36.7+rke2r1")).toBe(false);
    expect(isSameMinor("v1.35.7+rke2r1", "v2.35.7+rke2r1")).toBe(false);
    expect(isSameMinor("x", "x")).toBe(false);
  });
});

describe("a channel", () => {
  const versions = ["v1.35.6+rke2r1", "stray", "v1.36.3+rke2r1", "v1.35.7+rke2r1", "v1.37.0-rc1+rke2r1", "v1.34.10+rke2r1", "v1.34.9+rke2r2"];

  it.each([
    ["latest", "v1.36.3+rke2r1"],
    ["stable", "v1.35.7+rke2r1"],
    ["v1.34", "v1.34.10+rke2r1"],
    ["v1.33", undefined],
    ["v1.37", undefined],
    ["testing", undefined],
  ])("%s stands for %s", (channel, newest) => {
    expect(newestOfChannel(channel, versions)).toBe(newest);
  });

  it("stable is the only minor where there is but one", () => {
    expect(newestOfChannel("stable", ["v1.36.1+rke2r1", "v1.36.2+rke2r1"])).toBe("v1.36.2+rke2r1");
    expect(newestOfChannel("stable", [])).toBeUndefined();
  });

  it("does not depend on the order of the versions", () => {
    fc.assert(
      fc.property(
        fc.shuffledSubarray(versions, { minLength: versions.length }),
        fc.constantFrom("stable", "latest", "v1.34"),
        (shuffled, channel) => {
          expect(newestOfChannel(channel, shuffled)).toBe(newestOfChannel(channel, versions));
        },
      ),
      { seed: 22 },
    );
  });

  it("has one of three forms", () => {
    expect(["stable", "latest", "v1.35", "testing", "v1", "v1.35.7+rke2r1", "1.35"].map(isChannel)).toEqual([
      true,
      true,
      true,
      false,
      false,
      false,
      false,
    ]);
  });
});
