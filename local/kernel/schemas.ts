/**
 * The SDK's own schemas as the server reads them: operations by name, shapes with the names they have on the wire.
 *
 * A schema is a static array in the SDK's packages: `[9, namespace, operation, traits, input, output]`, `[3 | 4 | -3, namespace, name, traits,
 * member names, member schemas, how many of them are required]`, `[1, ns, name, traits, member]`, `[2, ns, name, traits, key, value]`, or a number
 * for a simple type. A member is a schema, or `[schema, traits]`. Schemas refer to each other lazily, through functions.
 */
import { createRequire } from "node:module";
import { Unmodelled } from "./contract.js";

const require = createRequire(import.meta.url);

type Protocol = "restXml" | "ec2Query" | "awsQuery" | "awsJson";

/** Services by the SDK client's name: the name in a signature's scope, the protocol, and the XML namespace of answers. */
const services = {
  s3: { signing: "s3", protocol: "restXml", xmlns: "http://s3.amazonaws.com/doc/2006-03-01/" },
  ec2: { signing: "ec2", protocol: "ec2Query", xmlns: "http://ec2.amazonaws.com/doc/2016-11-15/" },
  "elastic-load-balancing-v2": {
    signing: "elasticloadbalancing",
    protocol: "awsQuery",
    xmlns: "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/",
  },
  ssm: { signing: "ssm", protocol: "awsJson" },
  eventbridge: { signing: "events", protocol: "awsJson" },
  kms: { signing: "kms", protocol: "awsJson" },
  sfn: { signing: "states", protocol: "awsJson" },
} as const satisfies Record<string, { signing: string; protocol: Protocol; xmlns?: string }>;
export type ServiceName = keyof typeof services;

/** The client's name of a service, by the name in a signature's credential scope. */
export function serviceBySigningName(signing: string): ServiceName | undefined {
  return (Object.keys(services) as ServiceName[]).find((name) => services[name].signing === signing);
}

type Kind = "string" | "boolean" | "number" | "bigNumber" | "timestamp" | "blob" | "document" | "list" | "map" | "struct" | "unit";
/** `date-time` (ISO 8601), `http-date`, `epoch-seconds`. */
export type TimestampFormat = "date-time" | "http-date" | "epoch-seconds";

interface Traits {
  readonly xmlName?: string;
  readonly ec2QueryName?: string;
  readonly xmlFlattened?: unknown;
  readonly xmlAttribute?: unknown;
  readonly xmlNamespace?: readonly [string, string];
  readonly httpLabel?: unknown;
  readonly httpHeader?: string;
  readonly httpQuery?: string;
  readonly httpPrefixHeaders?: string;
  readonly httpPayload?: unknown;
  readonly httpResponseCode?: unknown;
  readonly streaming?: unknown;
  readonly sensitive?: unknown;
  readonly http?: readonly [string, string, number];
  readonly awsQueryError?: readonly [string, number];
  readonly httpError?: number;
  readonly error?: string;
}

export interface Shape {
  readonly kind: Kind;
  readonly name: string;
  readonly traits: Traits;
  /** Only where the schema itself says so. */
  readonly timestampFormat?: TimestampFormat;
  readonly streaming: boolean;
  readonly isError: boolean;
  /** Of a structure, in the schema's order. */
  readonly members: ReadonlyMap<string, Member>;
  /** Of a list, or the values of a map. */
  readonly item: Member;
  readonly key: Member;
}

export interface Member {
  readonly name: string;
  readonly required: boolean;
  readonly shape: Shape;
  /** The member's own traits over those of its shape. */
  readonly traits: Traits;
  /** The member's own alone: XML answers are named by these. */
  readonly own: Traits;
}

export interface OperationSchema {
  readonly service: ServiceName;
  readonly name: string;
  readonly traits: Traits;
  readonly input: Shape;
  readonly output: Shape;
}

type Raw = unknown;
type RawStruct = readonly [number, string, string, Raw, readonly string[], readonly Raw[], number?];

const deref = (ref: Raw): Raw => (typeof ref === "function" ? deref(ref()) : ref);

const traitBits = ["httpLabel", "idempotent", "idempotencyToken", "sensitive", "httpPayload", "httpResponseCode", "httpQueryParams"] as const;
function traitsOf(raw: Raw): Traits {
  if (typeof raw === "object" && raw !== null) return raw as Traits;
  if (typeof raw !== "number" || raw === 0) return {};
  return Object.fromEntries(traitBits.filter((_, bit) => (raw >> bit) & 1).map((name) => [name, 1]));
}

const simple: Readonly<Record<number, readonly [Kind, TimestampFormat?]>> = {
  0: ["string"],
  1: ["number"],
  2: ["boolean"],
  4: ["timestamp"],
  5: ["timestamp", "date-time"],
  6: ["timestamp", "http-date"],
  7: ["timestamp", "epoch-seconds"],
  15: ["document"],
  17: ["bigNumber"],
  19: ["bigNumber"],
  21: ["blob"],
  42: ["blob"],
};

const shapes = new Map<Raw, Shape>();
function shapeOf(reference: Raw): Shape {
  const raw = deref(reference);
  const known = shapes.get(raw);
  if (known !== undefined) return known;
  const shape = new LazyShape(raw);
  shapes.set(raw, shape);
  return shape;
}

class LazyShape implements Shape {
  readonly kind: Kind;
  readonly name: string;
  readonly traits: Traits;
  readonly timestampFormat?: TimestampFormat;
  readonly streaming: boolean;
  readonly isError: boolean;
  readonly #raw: Raw;
  #members: ReadonlyMap<string, Member> | undefined;
  #item: Member | undefined;
  #key: Member | undefined;

  constructor(raw: Raw) {
    this.#raw = raw;
    this.isError = Array.isArray(raw) && raw[0] === -3;
    this.streaming = raw === 42;
    this.traits = Array.isArray(raw) ? traitsOf(raw[3]) : {};
    this.name = Array.isArray(raw) ? String(raw[2]) : String(raw);
    if (Array.isArray(raw)) {
      const tag = raw[0] as number;
      if (tag === 0) {
        const target = shapeOf(raw[4]);
        this.kind = target.kind;
        if (target.timestampFormat !== undefined) this.timestampFormat = target.timestampFormat;
        this.streaming = target.streaming;
      } else this.kind = tag === 1 ? "list" : tag === 2 ? "map" : "struct";
    } else if (raw === "unit" || raw === undefined) {
      this.kind = "unit";
    } else if (typeof raw === "number" && raw >= 64) {
      this.kind = raw >= 128 ? "map" : "list";
    } else {
      const found = typeof raw === "number" ? simple[raw] : undefined;
      if (found === undefined) throw new Unmodelled(`the SDK's schema type ${String(raw)} is not modelled`);
      this.kind = found[0];
      if (found[1] !== undefined) this.timestampFormat = found[1];
    }
  }

  get members(): ReadonlyMap<string, Member> {
    this.#members ??= new Map(
      this.kind !== "struct"
        ? []
        : (this.#raw as RawStruct)[4].map((name, index) => {
            const raw = this.#raw as RawStruct;
            return [name, memberOf(name, raw[5][index], index < (raw[6] ?? 0))];
          }),
    );
    return this.#members;
  }

  get item(): Member {
    this.#item ??= Array.isArray(this.#raw)
      ? memberOf(this.kind === "map" ? "value" : "member", this.#raw[this.kind === "map" ? 5 : 4], false)
      : memberOf("member", (this.#raw as number) & 63, false);
    return this.#item;
  }

  get key(): Member {
    this.#key ??= memberOf("key", Array.isArray(this.#raw) ? (this.#raw[4] ?? 0) : 0, false);
    return this.#key;
  }
}

function memberOf(name: string, raw: Raw, required: boolean): Member {
  const layers: Traits[] = [];
  let reference = deref(raw);
  while (Array.isArray(reference) && reference.length === 2) {
    layers.push(traitsOf(reference[1]));
    reference = deref(reference[0]);
  }
  const shape = shapeOf(reference);
  const own: Traits = Object.assign({}, ...layers.reverse());
  return { name, required, shape, own, traits: { ...shape.traits, ...own } };
}

class ServiceSchemas {
  readonly protocol: Protocol;
  readonly xmlns: string;
  readonly #module: Readonly<Record<string, Raw>>;
  readonly #operations = new Map<string, OperationSchema>();
  readonly #errors = new Map<string, Shape | undefined>();
  #rest: readonly RestRoute[] | undefined;

  constructor(readonly name: ServiceName) {
    const service: { readonly protocol: Protocol; readonly xmlns?: string } = services[name];
    this.protocol = service.protocol;
    this.xmlns = service.xmlns ?? "";
    this.#module = require(`@aws-sdk/client-${name}`) as Record<string, Raw>;
  }

  operation(name: string): OperationSchema | undefined {
    const known = this.#operations.get(name);
    if (known !== undefined) return known;
    const raw = this.#module[`${name}$`];
    if (!Array.isArray(raw) || raw[0] !== 9) return undefined;
    const schema = { service: this.name, name, traits: traitsOf(raw[3]), input: shapeOf(raw[4]), output: shapeOf(raw[5]) };
    this.#operations.set(name, schema);
    return schema;
  }

  /** A modelled error by the name its exception has in the SDK. */
  error(name: string): Shape | undefined {
    if (!this.#errors.has(name)) {
      const raw = this.#module[`${name}$`];
      this.#errors.set(name, Array.isArray(raw) && raw[0] === -3 ? shapeOf(raw) : undefined);
    }
    return this.#errors.get(name);
  }

  /** Routes of a REST service, the most particular first. */
  get rest(): readonly RestRoute[] {
    this.#rest ??= Object.entries(this.#module)
      .filter(([key, raw]) => key.endsWith("$") && Array.isArray(raw) && raw[0] === 9)
      .map(([key]) => routeOf(this.operation(key.slice(0, -1)) as OperationSchema))
      .sort((a, b) => b.weight - a.weight || (a.operation.name < b.operation.name ? -1 : 1));
    return this.#rest;
  }
}

export interface RestRoute {
  readonly operation: OperationSchema;
  readonly method: string;
  /** Whether the path ends with a key under the bucket. */
  readonly hasKey: boolean;
  /** What the query must hold; a value of "" stands for any. `x-id` is apart, since not every client sends it. */
  readonly query: ReadonlyMap<string, string>;
  readonly id: string | undefined;
  readonly requiredQuery: readonly string[];
  readonly requiredHeaders: readonly string[];
  readonly weight: number;
}

function routeOf(operation: OperationSchema): RestRoute {
  const [method, uri] = operation.traits.http as readonly [string, string, number];
  const [path, search] = uri.split("?") as [string, string?];
  const query = new Map([...new URLSearchParams(search ?? "")]);
  const id = query.get("x-id");
  query.delete("x-id");
  const required = [...operation.input.members.values()].filter((member) => member.required);
  const requiredQuery = required.flatMap((member) => (member.traits.httpQuery === undefined ? [] : [member.traits.httpQuery]));
  const requiredHeaders = required.flatMap((member) => (member.traits.httpHeader === undefined ? [] : [member.traits.httpHeader.toLowerCase()]));
  const weight = 4 * query.size + 2 * requiredQuery.length + requiredHeaders.length;
  return { operation, method, hasKey: path.includes("{Key+}"), query, id, requiredQuery, requiredHeaders, weight };
}

const loaded = new Map<ServiceName, ServiceSchemas>();
/** The schemas of a service; its SDK package is loaded when it is first asked for. */
export function schemasOf(name: ServiceName): ServiceSchemas {
  let found = loaded.get(name);
  if (found === undefined) {
    found = new ServiceSchemas(name);
    loaded.set(name, found);
  }
  return found;
}

export function isServiceName(name: string): name is ServiceName {
  return Object.hasOwn(services, name);
}

/** What an operation models of its input: `whole` accepts everything below, otherwise only the members named. */
export interface FieldTree {
  whole: boolean;
  readonly members: Map<string, FieldTree>;
}

/** From dotted names. A field implies those it is in; one with none listed below it is modelled whole. */
export function fieldTree(fields: readonly string[]): FieldTree {
  const root: FieldTree = { whole: false, members: new Map() };
  for (const field of fields) {
    let at = root;
    for (const name of field.split(".")) {
      let next = at.members.get(name);
      if (next === undefined) {
        next = { whole: true, members: new Map() };
        at.members.set(name, next);
      }
      at.whole = false;
      at = next;
    }
  }
  return root;
}

/** Paths of an input that are not modelled, dotted; lists are walked, maps and documents are taken whole. */
export function unmodelledFields(value: unknown, shape: Shape, tree: FieldTree, path = ""): string[] {
  if (value === undefined || value === null || tree.whole) return [];
  if (shape.kind === "list") return (value as readonly unknown[]).flatMap((item) => unmodelledFields(item, shape.item.shape, tree, path));
  if (shape.kind !== "struct") return [];
  return Object.entries(value as Record<string, unknown>).flatMap(([name, member]) => {
    if (member === undefined || member === null) return [];
    const at = path === "" ? name : `${path}.${name}`;
    const below = tree.members.get(name);
    const inner = shape.members.get(name);
    return below === undefined || inner === undefined ? [at] : unmodelledFields(member, inner.shape, below, at);
  });
}
