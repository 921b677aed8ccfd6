/**
 * Randomness from one seed: named streams that do not disturb each other.
 *
 * The generator is xoshiro128** (Blackman and Vigna), seeded through splitmix32 from a 128-bit hash of the seed and the stream's name.
 */
import { createHash } from "node:crypto";
import model from "../../core/latency-model.json" with { type: "json" };
import type { LatencyStep, Random } from "./contract.js";

/** 95th percentile of the standard normal distribution. */
const z95 = 1.6448536269514722;

export class SeededRandom implements Random {
  readonly #path: string;
  readonly #state: Uint32Array;

  constructor(seed: string | number) {
    this.#path = String(seed);
    const digest = createHash("sha256").update(this.#path).digest();
    this.#state = new Uint32Array(4);
    for (let word = 0; word < 4; word++) this.#state[word] = digest.readUInt32LE(4 * word);
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1;
  }

  fork(name: string): Random {
    return new SeededRandom(`${this.#path}/${name}`);
  }

  next(): number {
    // 53 bits, so that small probabilities are met as often as they should be.
    return ((this.#word() >>> 5) * 67108864 + (this.#word() >>> 6)) / 9007199254740992;
  }

  integer(below: number): number {
    if (!(Number.isSafeInteger(below) && below > 0)) throw new RangeError(`cannot draw a whole number below ${below}`);
    return Math.floor(this.next() * below);
  }

  chance(probability: number): boolean {
    // Drawn even when the answer is certain: turning a fault off does not shift what comes after it.
    return this.next() < probability;
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError("cannot pick from an empty list");
    return items[this.integer(items.length)] as T;
  }

  hex(length: number): string {
    let text = "";
    while (text.length < length) text += this.#word().toString(16).padStart(8, "0");
    return text.slice(0, length);
  }

  between(leastSeconds: number, mostSeconds: number): number {
    return leastSeconds + this.next() * (mostSeconds - leastSeconds);
  }

  latency(step: LatencyStep): number {
    const { p50, p95 } = model.steps[step];
    // Box and Muller; 1 - next() is in (0, 1], so the logarithm is finite.
    const normal = Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next());
    const sigma = Math.log(p95 / p50) / z95;
    return p50 * Math.exp(sigma * normal);
  }

  #word(): number {
    const state = this.#state;
    const [a, b, c, d] = state as unknown as [number, number, number, number];
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const carry = b << 9;
    const third = c ^ a;
    const fourth = d ^ b;
    state[1] = b ^ third;
    state[0] = a ^ fourth;
    state[2] = third ^ carry;
    state[3] = rotate(fourth, 11);
    return result;
  }
}

/** Randomness whose latencies are so many times shorter: real machines take their own time, and AWS's part of it is only modelled. */
export function hurried(random: Random, times: number): Random {
  return {
    fork: (name) => hurried(random.fork(name), times),
    next: () => random.next(),
    integer: (below) => random.integer(below),
    chance: (probability) => random.chance(probability),
    pick: (items) => random.pick(items),
    hex: (length) => random.hex(length),
    between: (leastSeconds, mostSeconds) => random.between(leastSeconds, mostSeconds) / times,
    latency: (step) => random.latency(step) / times,
  };
}

function rotate(word: number, by: number): number {
  return (word << by) | (word >>> (32 - by));
}
