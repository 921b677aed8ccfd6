import fc from "fast-check";
import jsonata from "jsonata";
import { describe, expect, it } from "vitest";
import { compileExpression } from "../../local/asl/jsonata.js";
import { SeededRandom } from "../../local/kernel/random.js";
import { epochMs, executionArn, machine, runAsl } from "./harness.js";

/** The output of a Pass state, or the failure. */
async function value(expression: string, input: unknown = {}, seed = 1): Promise<unknown> {
  const run = await runAsl(machine({ P: { Type: "Pass", Output: `{% ${expression} %}`, End: true } }), { input, seed });
  return run.status === "SUCCEEDED" ? run.output : `${run.error}: ${run.cause}`;
}
const prefix = "States.QueryEvaluationError: An error occurred while executing the state 'P' (entered at the event id #2). ";

describe("JSONata as Step Functions runs it", () => {
  it("fails the state when an expression yields nothing, in AWS's words", async () => {
    const told = "The JSONata expression '$states.input.nope' specified for the field 'Output' returned nothing (undefined).";
    expect(await value("$states.input.nope")).toBe(prefix + told);
    const run = await runAsl(machine({ P: { Type: "Pass", Output: { a: { b: ["{% $states.input.nope %}"] } }, End: true } }));
    expect(run.cause).toContain("specified for the field 'Output/a/b[0]' returned nothing");
  });
  it("fails the state when a variable was never assigned", async () => {
    expect(await value("$later")).toContain("The JSONata expression '$later' specified for the field 'Output' returned nothing (undefined).");
  });
  it("tells what JSONata threw, with its code", async () => {
    expect(await value("1 + 'a'")).toBe(
      `${prefix}The JSONata expression '1 + 'a'' specified for the field 'Output' threw an error during evaluation. T2002: The right side of the "+" operator must evaluate to a number`,
    );
  });
  it("refuses a function as a result", async () => {
    expect(await value("function($x) { $x }")).toContain("specified for the field 'Output' returned an unsupported result type.");
  });
  it.each([
    ["drops undefined members inside one expression", "{ 'a': $states.input.nope, 'b': 1 }", { b: 1 }],
    ["collapses a result of one", "$map([1], function($x) { $x * 2 })", 2],
    ["keeps a result of one that is wrapped", "[$map([1], function($x) { $x * 2 })]", [2]],
    ["yields an empty array only when wrapped", "[$filter([1], function($x) { $x > 5 })]", []],
    ["collapses the one match of a predicate", "$states.input.xs[k=1].v", "one"],
    ["keeps the one match with a trailing []", "$states.input.xs[k=1].v[]", ["one"]],
    ["takes an index for each element", "$states.input.xs.vs[0]", [10, 20]],
    ["takes the first of all with parentheses", "($states.input.xs.vs)[0]", 10],
    ["sums nothing to zero", "$sum([])", 0],
    ["counts what is missing as zero", "$count($states.input.nope)", 0],
    ["finds two missing values unequal", "$states.input.nope = $states.input.nope", false],
    ["takes the text false for true", "$boolean('false')", true],
  ])("%s", async (_, expression, expected) => {
    const input = {
      xs: [
        { k: 1, v: "one", vs: [10, 11] },
        { k: 2, v: "two", vs: [20] },
      ],
    };
    expect(await value(expression, input)).toEqual(expected);
  });
  it.each(["$max([])", "$lookup({ 'a': 1 }, 'b')", "$filter([1], function($x) { $x > 5 })", "$filter([1], function($x) { $x > 5 })[]"])(
    "fails %s, which is nothing",
    async (expression) => {
      expect(await value(expression)).toContain("returned nothing (undefined).");
    },
  );
  it("leaves a result plain, so that a later expression sees an array of one as an array", async () => {
    const run = await runAsl(
      machine({
        A: { Type: "Pass", Assign: { one: "{% [$filter([1, 2], function($x) { $x = 2 })] %}" }, Next: "B" },
        B: { Type: "Pass", Output: "{% { 'same': $one, 'count': $count($one), 'type': $type($one) } %}", End: true },
      }),
    );
    expect(run.output).toEqual({ same: [2], count: 1, type: "array" });
  });
});

describe("the functions AWS adds", () => {
  it.each([
    ["$partition([1, 2, 3, 4, 5], 2)", [[1, 2], [3, 4], [5]]],
    ["$range(0, 10, 5)", [0, 5, 10]],
    ["$range(3, 1, -1)", [3, 2, 1]],
    ["$range(5, 1, 1)", []],
    ["$hash('abc', 'SHA-1')", "a9993e364706816aba3e25717850c26c9cd0d89d"],
    ["$hash('abc', 'MD5')", "900150983cd24fb0d6963f7d28e17f72"],
    ["$hash('abc', 'SHA-256')", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
    ["$parse('{\"a\":[1]}').a", [1]],
  ])("%s", async (expression, expected) => {
    expect(await value(expression)).toEqual(expected);
  });
  it.each([
    "$partition('x', 2)",
    "$partition([1], 0)",
    "$range(0, 2000, 1)",
    "$range(0, 1, 0)",
    "$range(0.5, 1, 1)",
    "$hash('x', 'CRC32')",
    "$parse('{')",
    "$parse(5)",
  ])("%s fails", async (expression) => {
    expect(await value(expression)).toContain("threw an error during evaluation.");
  });
  it("take time from the world's clock", async () => {
    expect(await value("$millis()")).toBe(epochMs);
    expect(await value("$now()")).toBe("2026-01-01T00:00:00.000Z");
    expect(await value("$now('[Y]/[M01]', '+0000')")).toBe("2026/01");
    expect(await value("$toMillis('03:04', '[H01]:[m01]')")).toBe(Date.parse("2026-01-01T03:04:00Z"));
    expect(await value("$fromMillis(0)")).toBe("1970-01-01T00:00:00.000Z");
  });
  it("take chance from the seed", async () => {
    expect(await value("[$random(), $uuid(), $shuffle([1, 2, 3, 4, 5, 6])]", {}, 7)).toEqual(
      await value("[$random(), $uuid(), $shuffle([1, 2, 3, 4, 5, 6])]", {}, 7),
    );
    expect(await value("$uuid()", {}, 7)).not.toEqual(await value("$uuid()", {}, 8));
    expect(await value("$uuid()")).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(await value("$sort($shuffle([3, 1, 2]))")).toEqual([1, 2, 3]);
    expect(await value("$random(42) = $random(42)")).toBe(true);
    expect(await value("$random(42) = $random(43)")).toBe(false);
  });
});

describe("what an expression may read", () => {
  it.each([
    ["$states.context.Execution.Id", executionArn],
    ["$states.context.Execution.Input.a", 5],
    ["$states.context.Execution.StartTime", "2026-01-01T00:00:00.000Z"],
    ["$states.context.State.Name", "P"],
    ["$states.context.StateMachine.Name", "test"],
    ["$states.context.Execution.RedriveCount", 0],
  ])("%s", async (expression, expected) => {
    expect(await value(expression, { a: 5 })).toBe(expected);
  });
  it.each([
    ["input.x", "reads 'input' without saying of what: begin with $states.input or a variable"],
    ["$", "reads '$' without saying of what"],
    ["$$.a", "reads '$$' without saying of what"],
    ["*", "reads '*' without saying of what"],
    ["{ 'a': b }", "reads 'b' without saying of what"],
    ["$states.inptu.x", "reads $states.inptu, which does not exist"],
    ["$eval('1')", "uses $eval, which Step Functions does not have: use $parse"],
    ["$a ?? 1", "is not JSONata 2.0.6: S0211"],
    ["$a ?: 1", "is not JSONata 2.0.6: S0211"],
    ["(", "is not JSONata 2.0.6: S0203"],
  ])("refuses %s before it runs", (source, fault) => {
    expect(
      compileExpression(source)
        .faults.map(({ message }) => message)
        .join("\n"),
    ).toContain(fault);
  });
  it.each([
    "$states.input.xs[k = 1]",
    "$map($states.input.xs, function($x) { $x.k })",
    "$states.input.xs.(k + 1)",
    "$states.input.xs^(k)",
    "$sort($a, function($l, $r) { $l.k > $r.k })",
  ])("lets %s name fields, because it says of what", (source) => {
    expect(compileExpression(source).faults).toEqual([]);
  });
  it("knows the variables an expression needs, and not those it makes", () => {
    const source = "( $sum := $a + 1; $f := function($x) { $x * $b }; $map([$sum], $f) ) + $count($c.d)";
    expect([...compileExpression(source).variables].sort()).toEqual(["a", "b", "c"]);
  });
});

describe("the short way for plain paths", () => {
  const json = fc.letrec((tie) => ({
    any: fc.oneof({ depthSize: "small" }, fc.constant(null), fc.integer(), fc.string(), fc.boolean(), tie("list"), tie("record")),
    list: fc.array(tie("any"), { maxLength: 3 }),
    record: fc.dictionary(fc.constantFrom("a", "b", "c"), tie("any"), { maxKeys: 3 }),
  })).any;

  it("finds what JSONata finds", async () => {
    const random = new SeededRandom(1);
    await fc.assert(
      fc.asyncProperty(json, fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 3 }), async (data, path) => {
        const source = ["$v", ...path].join(".");
        const scope = { variable: () => data, states: {}, nowMs: 0, random };
        const reference = await jsonata(source).evaluate(undefined, { v: data });
        const expected = reference === undefined ? undefined : JSON.parse(JSON.stringify(reference));
        expect(await compileExpression(source).evaluate(scope)).toEqual(expected);
      }),
      { seed: 20260101, numRuns: 500 },
    );
  });
});
