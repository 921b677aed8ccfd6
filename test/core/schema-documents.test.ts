import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { routes } from "../../core/api.js";
import { foreignKeys, ownedKeys, rke2Keys } from "../../core/rke2-keys.js";
import { clusterFields, clusterJsonSchema, type JsonSchema, openApiDocument } from "../../core/schema-documents.js";
import { validateCluster } from "../../core/validate-cluster.js";
import { referenceFiles, referenceFolder } from "../../docs/generate.js";
import { written } from "./sample.js";

const examples = readdirSync("examples").filter((name) => name.endsWith(".yaml"));

describe("the reference", () => {
  it.each(Object.entries(referenceFiles()))("holds %s as the schemas give it (npx tsx docs/generate.ts)", (name, text) => {
    expect(readFileSync(join(referenceFolder, name), "utf8")).toBe(text);
  });

  it.each(Object.entries(referenceFiles()).filter(([name]) => name.endsWith(".json")))(
    "holds %s as JSON that says the same however it is laid out",
    (name, text) => {
      const wanted = name === "openapi.json" ? openApiDocument() : clusterJsonSchema();
      expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(wanted)));
    },
  );

  it("holds nothing else", () => {
    expect(readdirSync(referenceFolder).sort()).toEqual(Object.keys(referenceFiles()).sort());
  });
});

/** What a JSON Schema of the kind made here says against a value; the keywords it uses and no more. */
function against(schema: JsonSchema, value: unknown, path = ""): string[] {
  const known = [
    "$id",
    "$schema",
    "title",
    "description",
    "default",
    "examples",
    "type",
    "const",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
  ];
  const more = ["maxLength", "properties", "propertyNames", "additionalProperties", "required", "items", "anyOf", "oneOf"];
  const unknown = Object.keys(schema).filter((keyword) => !known.includes(keyword) && !more.includes(keyword));
  if (unknown.length > 0) throw new Error(`keyword ${unknown.join()} is not read by this test`);
  const faults: string[] = [];
  const refuse = (why: string) => faults.push(`${path || "."} ${why}`);
  const type = Array.isArray(value) ? "array" : value === null ? "null" : typeof value;
  const types = [schema.type ?? type].flat();
  if (!types.some((each) => each === type || (each === "integer" && Number.isInteger(value)))) refuse(`is ${type}`);
  if (schema.const !== undefined && schema.const !== value) refuse("is another constant");
  if (schema.enum !== undefined && !schema.enum.includes(value)) refuse("is none of the values");
  if (schema.anyOf !== undefined && schema.anyOf.every((each) => against(each, value, path).length > 0)) refuse("is none of the kinds");
  if (schema.oneOf !== undefined && schema.oneOf.filter((each) => against(each, value, path).length === 0).length !== 1)
    refuse("is not exactly one of the kinds");
  if (typeof value === "string") {
    if (schema.pattern !== undefined && !new RegExp(schema.pattern, "u").test(value)) refuse("does not match");
    if (value.length > (schema.maxLength ?? Number.POSITIVE_INFINITY)) refuse("is too long");
  }
  if (typeof value === "number" && (value < (schema.minimum ?? -Infinity) || value > (schema.maximum ?? Infinity))) refuse("is out of range");
  if (Array.isArray(value)) {
    if (value.length < (schema.minItems ?? 0) || value.length > (schema.maxItems ?? Infinity)) refuse("has the wrong length");
    for (const [index, item] of value.entries()) faults.push(...against(schema.items ?? {}, item, `${path}[${index}]`));
  } else if (typeof value === "object" && value !== null) {
    for (const name of schema.required ?? []) if (!Object.hasOwn(value, name)) refuse(`lacks ${name}`);
    for (const [name, item] of Object.entries(value)) {
      faults.push(...against(schema.propertyNames ?? {}, name, `${path}.${name}'s name`));
      const property = schema.properties?.[name] ?? schema.additionalProperties ?? {};
      if (property === false) refuse(`has ${name}`);
      else if (property !== true) faults.push(...against(property, item, `${path}.${name}`));
    }
  }
  return faults;
}

describe("the JSON Schema of the cluster file", () => {
  const schema = clusterJsonSchema();

  it("says what it is", () => {
    expect(schema).toMatchObject({
      $schema: "https://json-schema.org/draft/2020-12/schema",
      $id: "https://drover.dev/schemas/v1/cluster.schema.json",
      title: "Drover cluster file",
      required: ["apiVersion", "kind", "metadata", "spec"],
    });
  });

  it.each(examples)("takes examples/%s", (name) => {
    expect(against(schema, parse(readFileSync(`examples/${name}`, "utf8")))).toEqual([]);
  });

  it.each([
    ["an even number of servers", { "spec.servers.count": 2 }, [".spec.servers.count is none of the kinds"]],
    ["an unknown field", { "spec.serverz": 1 }, [".spec has serverz"]],
    ["an unknown CNI", { "spec.network.cni": "weave" }, [".spec.network.cni is none of the values"]],
    ["version and channel together", { "spec.channel": "stable" }, [".spec is not exactly one of the kinds"]],
    ["no image", { "spec.image": {} }, [".spec.image is not exactly one of the kinds"]],
    ["an unknown key of RKE2", { "spec.rke2.config": { "cluster-init": true } }, [".spec.rke2.config has cluster-init"]],
    ["a key of servers in a pool", { "spec.agentPools.0.config": { "etcd-arg": ["a=b"] } }, [".spec.agentPools[0].config has etcd-arg"]],
    ["a wrong kind of value for a key of RKE2", { "spec.rke2.config": { debug: "yes" } }, [".spec.rke2.config.debug is string"]],
  ])("refuses %s", (_, spoil, faults) => {
    expect(against(schema, written(spoil))).toEqual(faults);
  });

  it("offers every key of RKE2 that may be written, and no other", () => {
    const offered = Object.keys(schema.properties?.spec?.properties?.rke2?.properties?.config?.properties ?? {});
    expect(offered.sort()).toEqual([...rke2Keys.keys()].filter((name) => !ownedKeys.has(name)).sort());
    expect(offered.length).toBeGreaterThan(50);
  });

  it("describes every field", () => {
    expect(
      clusterFields()
        .filter(({ meaning }) => !/^[A-Z`a-z].*\.$/.test(meaning))
        .map(({ path }) => path),
    ).toEqual([]);
  });

  it("gives every field of a list and of a mapping a line in the table", () => {
    const paths = clusterFields().map(({ path }) => path);
    expect(paths).toEqual(expect.arrayContaining(["spec.agentPools[].name", "spec.maintenance.windows[].timeZone", "spec.backup.keep.monthly"]));
    expect(new Set(paths).size).toBe(paths.length);
  });
});

describe("the tables of RKE2's keys", () => {
  it("own only keys that RKE2 has", () => {
    expect([...ownedKeys.keys()].filter((name) => !rke2Keys.has(name))).toEqual([]);
  });

  it("call none of RKE2's own keys foreign", () => {
    expect([...foreignKeys.keys()].filter((name) => rke2Keys.has(name))).toEqual([]);
  });
});

describe("the OpenAPI document", () => {
  const document = openApiDocument();
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => [`${method.toUpperCase()} ${path}`, operation] as const),
  );

  it("has every route of the API and no other", () => {
    expect(operations.map(([route]) => route).sort()).toEqual(
      Object.values(routes)
        .map(({ method, path }) => `${method} ${path}`)
        .sort(),
    );
  });

  it("signs every call", () => {
    expect(document.security).toEqual([{ sigv4: [] }]);
    expect(document.components.securitySchemes.sigv4).toMatchObject({
      type: "apiKey",
      in: "header",
      name: "Authorization",
      "x-amazon-apigateway-authtype": "awsSigv4",
    });
  });

  it("names every parameter of a path, a good answer and the answer to a wrong signature", () => {
    for (const [route, operation] of operations) {
      const {
        parameters = [],
        responses,
        summary,
      } = operation as { parameters?: { name: string }[]; responses: Record<string, unknown>; summary: string };
      expect(parameters.map(({ name }) => `{${name}}`).join()).toBe((route.match(/\{\w+\}/g) ?? []).join());
      expect(Object.keys(responses).filter((status) => status.startsWith("2")).length).toBeGreaterThan(0);
      expect(responses).toHaveProperty("403");
      expect(summary).toMatch(/^[A-Z].*\.$/);
    }
  });

  it("refers only to what it holds", () => {
    const text = JSON.stringify(document);
    const references = [...text.matchAll(/"\$ref":"#\/components\/(\w+)\/(\w+)"/g)];
    expect(references.length).toBeGreaterThan(10);
    expect((text.match(/"\$ref"/g) ?? []).length).toBe(references.length);
    for (const [, kind, name] of references) {
      expect(document.components).toHaveProperty([kind as string, name as string]);
    }
  });

  it("says that a create carries a cluster file", () => {
    expect(document.paths["/clusters"]?.post).toMatchObject({
      requestBody: {
        content: {
          "application/json": {
            schema: { properties: { file: { contentMediaType: "application/yaml", contentSchema: { $ref: "#/components/schemas/ClusterFile" } } } },
          },
        },
      },
    });
  });
});

describe("the examples", () => {
  it.each(examples)("%s has nothing said against it, not even a warning", (name) => {
    const { file, faults } = validateCluster(readFileSync(`examples/${name}`, "utf8"));
    expect(faults).toEqual([]);
    expect(file?.metadata.name.length).toBeGreaterThan(0);
  });

  it("show the fields that people ask for first", () => {
    const { file } = validateCluster(readFileSync("examples/ha.yaml", "utf8"));
    expect(file?.spec.servers.count).toBe(3);
    expect(file?.spec.agentPools.map(({ name, count, market }) => [name, count, market])).toEqual([
      ["general", 2, "on-demand"],
      ["batch", 2, "spot"],
    ]);
    expect(file?.spec.network).toMatchObject({ cni: "canal", subnetIds: expect.objectContaining({ length: 3 }) });
    expect(file?.spec.protection.delete).toBe(false);
  });
});
