/**
 * JSONata as Step Functions runs it: engine 2.0.6, AWS's own functions, and no expression that quietly yields nothing.
 *
 * Sources: AWS "Transforming data with JSONata in Step Functions"; wording of failures as recorded from the service. An expression is compiled once
 * per process, whatever the number of worlds and executions. Time and randomness come from the caller, never from the machine.
 */
import { createHash } from "node:crypto";
import jsonata from "jsonata";
import type { Random } from "../kernel/contract.js";

/** What an expression sees when it runs. */
interface Scope {
  /** Value of a workflow variable, undefined when no state has assigned it. */
  variable(name: string): unknown;
  /** `$states`. */
  readonly states: Readonly<Record<string, unknown>>;
  readonly nowMs: number;
  readonly random: Random;
}

/** One fault found in an expression before it ever runs. */
interface ExpressionFault {
  readonly message: string;
  /** True when AWS would take it and only this runner does not. */
  readonly unmodelled: boolean;
}

export interface Expression {
  readonly source: string;
  readonly faults: readonly ExpressionFault[];
  /** Workflow variables it reads, without `states`. */
  readonly variables: readonly string[];
  /** Members of `$states` it reads: input, result, errorOutput, context. `*` stands for `$states` as a whole. */
  readonly states: readonly string[];
  /** The value, as plain JSON; undefined when there is none. Rejects with what JSONata throws. */
  evaluate(scope: Scope): Promise<unknown>;
}

/** jsonata's syntax tree is untyped beyond its first level. */
type Node = any;
type Native = (this: unknown, ...values: never[]) => unknown;

const ownFunctions = ["partition", "range", "hash", "uuid", "parse"];
const builtIn = new Set([
  ...["sum", "count", "max", "min", "average", "string", "substring", "substringBefore", "substringAfter", "lowercase", "uppercase", "length"],
  ...["trim", "pad", "match", "contains", "replace", "split", "join", "formatNumber", "formatBase", "formatInteger", "parseInteger", "number"],
  ...["floor", "ceil", "round", "abs", "sqrt", "power", "random", "boolean", "not", "map", "zip", "filter", "single", "reduce", "sift", "keys"],
  ...["lookup", "append", "exists", "spread", "merge", "reverse", "each", "error", "assert", "type", "sort", "shuffle", "distinct", "eval"],
  ...["base64encode", "base64decode", "encodeUrlComponent", "encodeUrl", "decodeUrlComponent", "decodeUrl", "toMillis", "fromMillis", "clone"],
  ...["now", "millis", ...ownFunctions],
]);
const statesMembers = new Set(["input", "result", "errorOutput", "context"]);

const compiled = new Map<string, Expression>();

/** Compiles what stands between `{%` and `%}`. Faults are listed rather than thrown, so that a definition reports all of its own at once. */
export function compileExpression(source: string): Expression {
  const known = compiled.get(source);
  if (known) return known;
  const expression = compile(source);
  compiled.set(source, expression);
  return expression;
}

/** `{% source %}` → source; undefined for a literal. */
export function expressionOf(text: string): string | undefined {
  return text.startsWith("{%") && text.endsWith("%}") && text.length >= 4 ? text.slice(2, -2).trim() : undefined;
}

function compile(source: string): Expression {
  let engine: jsonata.Expression;
  try {
    engine = jsonata(source);
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return broken(source, { message: `'${source}' is not JSONata 2.0.6: ${code ?? ""} ${message}`.replace(/ +/g, " "), unmodelled: false });
  }
  const reading = read(engine.ast());
  const faults: ExpressionFault[] = [];
  const say = (message: string, unmodelled = false) => faults.push({ message: `'${source}' ${message}`, unmodelled });
  for (const name of reading.unqualified) say(`reads '${name}' without saying of what: begin with $states.input or a variable`);
  for (const name of reading.states) {
    if (name !== "*" && !statesMembers.has(name)) say(`reads $states.${name}, which does not exist`);
  }
  if (reading.functions.has("eval")) say("uses $eval, which Step Functions does not have: use $parse");
  if (faults.length > 0) return { ...broken(source), faults };

  for (const [name, implementation] of Object.entries(awsFunctions)) engine.registerFunction(name, implementation as Native as never);
  const variables = [...reading.variables].filter((name) => name !== "states");
  const dynamic = Object.keys(worldFunctions).filter((name) => reading.functions.has(name));
  const path = plainPath(engine.ast());

  return {
    source,
    faults,
    variables,
    states: [...reading.states],
    async evaluate(scope) {
      if (path) {
        const found = follow(path, scope);
        if (found !== notPlain) return found;
      }
      const bindings: Record<string, unknown> = { states: scope.states };
      for (const name of variables) bindings[name] = scope.variable(name);
      for (const name of dynamic) bindings[name] = await worldFunctions[name]?.(scope);
      return plain(await engine.evaluate(undefined, bindings));
    },
  };
}

function broken(source: string, ...faults: ExpressionFault[]): Expression {
  return {
    source,
    faults,
    variables: [],
    states: [],
    evaluate: () => Promise.reject(new Error(`evaluated although it does not compile: ${source}`)),
  };
}

/** JSONata marks its own arrays as sequences, which changes how a later expression sees them: only plain JSON leaves here. */
function plain(value: unknown): unknown {
  if (typeof value === "function" || (typeof value === "object" && value !== null && isFunctionObject(value))) return unsupported;
  return typeof value === "object" && value !== null ? JSON.parse(JSON.stringify(value)) : value;
}
/** Stands for a result that has no JSON form, such as a function. */
export const unsupported = Symbol("unsupported result");

function isFunctionObject(value: object): boolean {
  return "_jsonata_function" in value || "_jsonata_lambda" in value;
}

// --- what an expression reads --------------------------------------------------------------------------------------------------------------------

interface Reading {
  readonly variables: Set<string>;
  readonly functions: Set<string>;
  readonly states: Set<string>;
  readonly unqualified: Set<string>;
}

/**
 * Walks the syntax tree. `top` is true where `$` and bare names would mean the expression's own input, which Step Functions does not give.
 */
function read(root: Node): Reading {
  const reading: Reading = { variables: new Set(), functions: new Set(), states: new Set(), unqualified: new Set() };

  function variable(node: Node, top: boolean, bound: ReadonlySet<string>): void {
    const name: string = node.value;
    if (name === "" || name === "$") {
      if (top || name === "$") reading.unqualified.add(name === "" ? "$" : "$$");
    } else if (!bound.has(name)) {
      if (builtIn.has(name)) reading.functions.add(name);
      else reading.variables.add(name);
    }
  }

  function walk(node: Node, top: boolean, bound: Set<string>): void {
    if (node === null || typeof node !== "object") return;
    switch (node.type) {
      case "path": {
        const inner = new Set(bound);
        const [first, second] = node.steps;
        if (first.type === "variable" && first.value === "states" && !bound.has("states")) {
          reading.states.add(second?.type === "name" && !first.predicate && !first.stages ? second.value : "*");
        }
        node.steps.forEach((step: Node, index: number) => {
          walk(step, top && index === 0, inner);
          if (step.focus) inner.add(step.focus);
          if (step.index) inner.add(step.index);
        });
        group(node, inner);
        return;
      }
      case "name":
      case "wildcard":
      case "descendant":
      case "parent":
        if (top)
          reading.unqualified.add(node.type === "name" ? node.value : node.type === "wildcard" ? "*" : node.type === "descendant" ? "**" : "%");
        break;
      case "variable":
        variable(node, top, bound);
        break;
      case "bind":
        bound.add(node.lhs.value);
        walk(node.rhs, top, bound);
        break;
      case "block": {
        const inner = new Set(bound);
        for (const each of node.expressions) walk(each, top, inner);
        break;
      }
      case "lambda": {
        const inner = new Set(bound);
        for (const argument of node.arguments) inner.add(argument.value);
        walk(node.body, false, inner);
        break;
      }
      case "function":
      case "partial":
        walk(node.procedure, top, bound);
        for (const argument of node.arguments) walk(argument, top, bound);
        break;
      case "unary":
        if (node.value === "{") for (const pair of node.lhs) for (const each of pair) walk(each, top, bound);
        else if (node.value === "[") for (const each of node.expressions) walk(each, top, bound);
        else walk(node.expression, top, bound);
        break;
      case "condition":
        walk(node.condition, top, bound);
        walk(node.then, top, bound);
        walk(node.else, top, bound);
        break;
      case "transform":
        walk(node.pattern, false, bound);
        walk(node.update, false, bound);
        walk(node.delete, false, bound);
        break;
      case "sort":
        for (const term of node.terms) walk(term.expression, false, bound);
        break;
      case "filter":
        walk(node.expr, false, bound);
        break;
      case "binary":
      case "apply":
        walk(node.lhs, top, bound);
        walk(node.rhs, top, bound);
        break;
      default: // literals, regular expressions, partial application's `?`
    }
    for (const stage of [...(node.stages ?? []), ...(node.predicate ?? [])]) walk(stage, false, bound);
    group(node, bound);
  }

  function group(node: Node, bound: Set<string>): void {
    if (!node.group) return;
    for (const pair of node.group.lhs) for (const each of pair) walk(each, false, bound);
  }

  walk(root, true, new Set());
  if (reading.variables.has("states") && reading.states.size === 0) reading.states.add("*");
  return reading;
}

// --- the short way for `$a.b.c` ------------------------------------------------------------------------------------------------------------------

/** Most expressions are a variable and a few names. Those are followed directly, as long as no array on the way would make JSONata map over it. */
function plainPath(node: Node): readonly string[] | undefined {
  const isPlain = (step: Node) => !step.predicate && !step.stages && !step.group && !step.focus && !step.index && !step.keepArray && !step.tuple;
  if (node.type === "variable") return node.value !== "" && node.value !== "$" && isPlain(node) ? [node.value] : undefined;
  if (node.type !== "path" || node.group || node.keepSingletonArray || node.tuple) return undefined;
  const [first, ...rest]: Node[] = node.steps;
  if (first.type !== "variable" || first.value === "" || first.value === "$" || !isPlain(first)) return undefined;
  if (!rest.every((step) => step.type === "name" && isPlain(step))) return undefined;
  return [first.value, ...rest.map((step) => step.value)];
}

const notPlain = Symbol("not plain");

function follow(path: readonly string[], scope: Scope): unknown {
  const [variable = "", ...names] = path;
  if (builtIn.has(variable)) return notPlain;
  let value = variable === "states" ? scope.states : scope.variable(variable);
  for (const name of names) {
    if (Array.isArray(value)) return notPlain;
    if (value === null || typeof value !== "object") return undefined;
    value = Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined;
  }
  return value;
}

// --- AWS's functions -----------------------------------------------------------------------------------------------------------------------------

const hashes: Readonly<Record<string, string>> = { MD5: "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512" };

class FunctionError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** The functions Step Functions adds that depend on their arguments alone. */
const awsFunctions = {
  partition(items: unknown, size: unknown) {
    if (items === undefined) return undefined;
    if (!Array.isArray(items)) throw new FunctionError("T0410", "$partition expects an array as its first argument");
    if (typeof size !== "number" || !Number.isInteger(size) || size <= 0) {
      throw new FunctionError("T0410", "$partition expects a positive whole number as its second argument");
    }
    return Array.from({ length: Math.ceil(items.length / size) }, (_, index) => items.slice(index * size, (index + 1) * size));
  },
  range(first: unknown, last: unknown, step: unknown) {
    const whole = [first, last, step].every((value) => Number.isInteger(value));
    if (!whole || step === 0) throw new FunctionError("T0410", "$range expects three whole numbers, the step not zero");
    const [from, to, by] = [first as number, last as number, step as number];
    const length = Math.max(0, Math.floor((to - from) / by) + 1);
    if (length > 1000) throw new FunctionError("T0410", "$range makes at most 1000 items");
    return Array.from({ length }, (_, index) => from + index * by);
  },
  hash(data: unknown, algorithm: unknown) {
    if (data === undefined) return undefined;
    const name = hashes[String(algorithm)];
    if (typeof data !== "string" || name === undefined) {
      throw new FunctionError("T0410", `$hash expects a string and one of ${Object.keys(hashes).join(", ")}`);
    }
    return createHash(name).update(data).digest("hex");
  },
  parse(text: unknown) {
    if (text === undefined) return undefined;
    if (typeof text !== "string") throw new FunctionError("T0410", "$parse expects a string");
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new FunctionError("D3120", `$parse: ${(error as Error).message}`);
    }
  },
} as const;

interface EngineFunction {
  readonly implementation: (this: { environment: { timestamp: Date } }, ...values: unknown[]) => unknown;
}
const engineFunction = (name: string) => jsonata(`$${name}`).evaluate(undefined) as Promise<EngineFunction>;
const engineToMillis = engineFunction("toMillis");
const engineFromMillis = engineFunction("fromMillis");

/** Functions that ask for time or chance: bound anew for each evaluation, to the world's clock and seed. */
const worldFunctions: Readonly<Record<string, (scope: Scope) => unknown>> = {
  millis: (scope) => () => scope.nowMs,
  now: async (scope) => {
    const { implementation } = await engineFromMillis;
    return (picture?: string, zone?: string) =>
      implementation.call({ environment: { timestamp: new Date(scope.nowMs) } }, scope.nowMs, picture, zone);
  },
  /** A picture without a year takes the year of now. */
  toMillis: async (scope) => {
    const { implementation } = await engineToMillis;
    return (text?: string, picture?: string) => implementation.call({ environment: { timestamp: new Date(scope.nowMs) } }, text, picture);
  },
  random: (scope) => (seed?: number) => (seed === undefined ? scope.random.next() : fromSeed(seed)),
  uuid: (scope) => () => uuid(scope.random),
  shuffle: (scope) => (items?: unknown[]) => {
    if (items === undefined) return undefined;
    const rest = [...items];
    return items.map(() => rest.splice(scope.random.integer(rest.length), 1)[0]);
  },
};

/** Version 4, from the seed. */
export function uuid(random: Random): string {
  const hex = random.hex(32);
  const variant = "89ab"[Number.parseInt(hex[16] ?? "0", 16) % 4];
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20)}`;
}

/** The same number for the same seed, in [0, 1): mulberry32. */
function fromSeed(seed: number): number {
  let mixed = (Math.trunc(seed) + 0x6d2b79f5) | 0;
  mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}
