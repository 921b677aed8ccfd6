import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { contains, formatAddress, formatNetwork, networkFault, overlaps, parseAddress, parseNetwork } from "../../core/networks.js";

const network = fc.tuple(fc.nat({ max: 2 ** 32 - 1 }), fc.integer({ min: 0, max: 32 })).map(([address, prefix]) => {
  const parsed = parseNetwork(`${formatAddress(address)}/${prefix}`);
  if (parsed === undefined) throw new Error(`${address}/${prefix} must parse`);
  return parsed;
});

describe("an IPv4 network", () => {
  it("is read with its first and last address", () => {
    expect(parseNetwork("10.42.0.0/16")).toEqual({ first: 0x0a2a0000, last: 0x0a2affff, prefix: 16 });
    expect(parseNetwork("0.0.0.0/0")).toEqual({ first: 0, last: 0xffffffff, prefix: 0 });
    expect(parseNetwork("255.255.255.255/32")).toEqual({ first: 0xffffffff, last: 0xffffffff, prefix: 32 });
  });

  it.each([
    "",
    "10.0.0.0",
    "10.0.0/8",
    "10.0.0.0.0/8",
    "10.0.0.256/8",
    "010.0.0.0/8",
    "10.0.0.0/33",
    "10.0.0.0/08",
    "10.0.0.0/-1",
    "10.0.0.0/8 ",
    "fd00::/8",
  ])("is not %j", (text) => {
    expect(parseNetwork(text)).toBeUndefined();
    expect(networkFault(text)).toMatch(/must be an IPv4 network/);
  });

  it("has no bits behind its prefix", () => {
    expect(networkFault("10.42.0.1/16")).toBe("is an address within a network, not a network; did you mean 10.42.0.0/16");
    expect(networkFault("10.42.0.0/16")).toBeUndefined();
  });

  it("is written as it is read", () => {
    fc.assert(
      fc.property(network, (each) => {
        expect(parseNetwork(formatNetwork(each))).toEqual(each);
        expect(networkFault(formatNetwork(each))).toBeUndefined();
        expect(parseAddress(formatAddress(each.last))).toBe(each.last);
      }),
      { seed: 41, numRuns: 500 },
    );
  });

  it("overlaps itself, and another whichever is asked first", () => {
    fc.assert(
      fc.property(network, network, (a, b) => {
        expect(overlaps(a, a)).toBe(true);
        expect(overlaps(a, b)).toBe(overlaps(b, a));
        // Of two networks that overlap, one lies within the other.
        const [larger, smaller] = a.prefix <= b.prefix ? [a, b] : [b, a];
        expect(overlaps(a, b)).toBe(contains(larger, smaller.first) && contains(larger, smaller.last));
      }),
      { seed: 42, numRuns: 2000 },
    );
  });

  it("ends at its last address", () => {
    const [one, next] = [parseNetwork("10.42.0.0/16"), parseNetwork("10.43.0.0/16")];
    if (one === undefined || next === undefined) throw new Error("both must parse");
    expect(overlaps(one, next)).toBe(false);
    expect([contains(one, one.last), contains(one, one.last + 1)]).toEqual([true, false]);
  });
});
