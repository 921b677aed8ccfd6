/**
 * Event patterns, matched as EventBridge matches them.
 *
 * A pattern is compiled once, and refused whole when it holds an operator that is not modelled or that EventBridge would not take. An event's arrays match
 * when one element does, and what a pattern asks of objects in an array must hold for one and the same object (EventBridge user guide, event patterns).
 */
import { AwsError, Unmodelled } from "../kernel/contract.js";

type Json = unknown;
type JsonObject = Readonly<Record<string, Json>>;
type Test = (value: Json) => boolean;
export type EventMatcher = (event: Json) => boolean;

/** Longest pattern as JSON text (EventBridge API reference, PutRule). */
export const patternLimit = 4096;
const numericLimit = 5_000_000_000;

export function compilePattern(pattern: Json): EventMatcher {
  if (JSON.stringify(pattern).length > patternLimit) throw invalid(`longer than ${patternLimit} characters`);
  return object(pattern, "");
}

function object(pattern: Json, path: string): EventMatcher {
  if (!isObject(pattern) || Object.keys(pattern).length === 0) throw invalid(`${path || "the pattern"} must be an object that is not empty`);
  const fields = Object.entries(pattern).map(([name, wanted]): EventMatcher => {
    const at = path === "" ? name : `${path}.${name}`;
    // A field of an event may be called $or too: then its value is no list of patterns.
    if (name === "$or" && Array.isArray(wanted) && wanted.every(isObject)) return alternatives(wanted, path);
    const matches = Array.isArray(wanted) ? leaf(wanted, at) : nested(wanted, at);
    return (event) => matches(isObject(event) ? event[name] : undefined);
  });
  return (event) => fields.every((matches) => matches(event));
}

function alternatives(patterns: readonly Json[], path: string): EventMatcher {
  if (patterns.length < 2) throw invalid("$or needs at least two patterns");
  const matchers = patterns.map((pattern) => object(pattern, path));
  return (event) => matchers.some((matches) => matches(event));
}

function nested(pattern: Json, path: string): EventMatcher {
  if (!isObject(pattern)) throw invalid(`${path} must be an array or an object`);
  const matches = object(pattern, path);
  return (value) => (Array.isArray(value) ? value.some((element) => matches(element)) : matches(value));
}

/** One field: any of the listed values or operators. */
function leaf(wanted: readonly Json[], path: string): EventMatcher {
  if (wanted.length === 0) throw invalid(`${path} must name at least one value`);
  const absent = wanted.some((item) => isObject(item) && item.exists === false);
  const tests = wanted.map((item) => (isObject(item) ? operator(item, path) : exactly(item, path)));
  return (value) => {
    const leaves = leavesOf(value);
    return leaves.length === 0 ? absent : leaves.some((item) => tests.some((test) => test(item)));
  };
}

/** The values of a field; an object is none, and neither is an empty array: EventBridge looks at leaves only. */
function leavesOf(value: Json): readonly Json[] {
  if (value === undefined || isObject(value)) return [];
  return Array.isArray(value) ? value.flatMap((element) => leavesOf(element)) : [value];
}

function exactly(wanted: Json, path: string): Test {
  if (Array.isArray(wanted)) throw invalid(`${path} holds an array in an array`);
  return (value) => value === wanted;
}

function operator(item: JsonObject, path: string): Test {
  const [[name, operand] = [], ...others] = Object.entries(item);
  if (name === undefined || others.length > 0) throw invalid(`${path} must have one operator an object`);
  switch (name) {
    case "exists":
      if (typeof operand !== "boolean") throw invalid(`exists of ${path} must be true or false`);
      return () => operand;
    case "anything-but":
      return anythingBut(operand, path);
    case "numeric":
      return numeric(operand, path);
    case "prefix":
    case "suffix":
    case "equals-ignore-case":
    case "wildcard":
      return textual(name, operand, path);
    default:
      throw new Unmodelled(`event pattern operator ${name} of ${path}`);
  }
}

type TextOperator = "prefix" | "suffix" | "equals-ignore-case" | "wildcard";

function textual(name: TextOperator, operand: Json, path: string): Test {
  if ((name === "prefix" || name === "suffix") && isObject(operand)) {
    const folded = operand["equals-ignore-case"];
    if (typeof folded !== "string" || Object.keys(operand).length !== 1) throw invalid(`${name} of ${path} must be a string or equals-ignore-case`);
    const test = textual(name, folded.toLowerCase(), path);
    return (value) => typeof value === "string" && test(value.toLowerCase());
  }
  if (typeof operand !== "string") throw invalid(`${name} of ${path} must be a string`);
  switch (name) {
    case "prefix":
      return (value) => typeof value === "string" && value.startsWith(operand);
    case "suffix":
      return (value) => typeof value === "string" && value.endsWith(operand);
    case "equals-ignore-case":
      return (value) => typeof value === "string" && value.toLowerCase() === operand.toLowerCase();
    case "wildcard": {
      const expression = wildcard(operand, path);
      return (value) => typeof value === "string" && expression.test(value);
    }
  }
}

/** `*` is any text; a backslash takes its meaning, or that of a backslash, away. */
function wildcard(text: string, path: string): RegExp {
  let source = "";
  for (let at = 0; at < text.length; at++) {
    const character = text[at] as string;
    if (character === "\\") {
      const next = text[++at];
      if (next !== "*" && next !== "\\") throw invalid(`wildcard of ${path} has a backslash before neither * nor backslash`);
      source += `\\${next}`;
    } else if (character === "*") {
      if (text[at + 1] === "*") throw invalid(`wildcard of ${path} has two * in a row`);
      source += ".*";
    } else source += character.replace(/[.+?^${}()|[\]]/, "\\$&");
  }
  return new RegExp(`^${source}$`, "s");
}

function anythingBut(operand: Json, path: string): Test {
  if (isObject(operand)) {
    const [[name, values] = [], ...others] = Object.entries(operand);
    if (others.length > 0) throw invalid(`anything-but of ${path} must have one operator`);
    if (name !== "prefix" && name !== "suffix" && name !== "equals-ignore-case" && name !== "wildcard") {
      throw new Unmodelled(`event pattern operator anything-but ${name} of ${path}`);
    }
    const tests = (Array.isArray(values) ? values : [values]).map((value) => textual(name, value, path));
    if (tests.length === 0) throw invalid(`anything-but of ${path} must name at least one value`);
    return (value) => !tests.some((test) => test(value));
  }
  const values = Array.isArray(operand) ? operand : [operand];
  const kinds = new Set(values.map((value) => typeof value));
  if (values.length === 0 || kinds.size !== 1 || !(kinds.has("string") || kinds.has("number"))) {
    throw invalid(`anything-but of ${path} must be strings only or numbers only`);
  }
  return (value) => !values.includes(value);
}

const comparisons: Readonly<Record<string, (value: number, bound: number) => boolean>> = {
  "=": (value, bound) => value === bound,
  "<": (value, bound) => value < bound,
  "<=": (value, bound) => value <= bound,
  ">": (value, bound) => value > bound,
  ">=": (value, bound) => value >= bound,
};

function numeric(operand: Json, path: string): Test {
  if (!Array.isArray(operand) || (operand.length !== 2 && operand.length !== 4))
    throw invalid(`numeric of ${path} must be one comparison or a range`);
  const bounds: { readonly sign: string; readonly bound: number }[] = [];
  for (let at = 0; at < operand.length; at += 2) {
    const [sign, bound] = [operand[at], operand[at + 1]] as [Json, Json];
    if (typeof sign !== "string" || comparisons[sign] === undefined) throw invalid(`numeric of ${path} has an unknown comparison ${String(sign)}`);
    if (typeof bound !== "number" || Math.abs(bound) > numericLimit) throw invalid(`numeric of ${path} compares with no number from -5e9 to 5e9`);
    bounds.push({ sign, bound });
  }
  const [low, high] = bounds;
  const isRange = low?.sign.startsWith(">") && high?.sign.startsWith("<") && low.bound < high.bound;
  if (high !== undefined && !isRange) throw invalid(`numeric of ${path} must be a range from low to high`);
  return (value) => typeof value === "number" && bounds.every(({ sign, bound }) => comparisons[sign]?.(value, bound));
}

function isObject(value: Json): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(reason: string): AwsError {
  return new AwsError("InvalidEventPatternException", `Event pattern is not valid. Reason: ${reason}`);
}
