/** What the operations of several services share: field paths, filters, pages, tags and ids. */
import { createHash } from "node:crypto";
import { AwsError, type Permission, Unmodelled, type World } from "../kernel/contract.js";

/** Field paths with every path above them: `Tags.Key` brings `Tags`. */
export function fields(...paths: readonly string[]): readonly string[] {
  const all = new Set<string>();
  for (const path of paths) {
    const parts = path.split(".");
    for (let length = 1; length <= parts.length; length++) all.add(parts.slice(0, length).join("."));
  }
  return [...all];
}

export function allow(action: string, resources: readonly string[] = ["*"], context?: Permission["context"]): Permission[] {
  return resources.map((resource) => ({ action, resource, ...(context === undefined ? {} : { context }) }));
}

/** Condition keys of tags that a request carries. */
export function requestTagContext(tags: Readonly<Record<string, string>>): Record<string, string | readonly string[]> {
  const context: Record<string, string | readonly string[]> = {};
  for (const [key, value] of Object.entries(tags)) context[`aws:RequestTag/${key}`] = value;
  if (Object.keys(tags).length > 0) context["aws:TagKeys"] = Object.keys(tags);
  return context;
}

/** Condition keys of tags that a resource has; `service` names the service's own spelling, such as `ec2` or `ssm`. */
export function resourceTagContext(service: string, tags: Readonly<Record<string, string>>): Record<string, string> {
  const context: Record<string, string> = {};
  for (const [key, value] of Object.entries(tags)) {
    context[`aws:ResourceTag/${key}`] = value;
    context[`${service}:${service === "ssm" ? "resourceTag" : "ResourceTag"}/${key}`] = value;
  }
  return context;
}

/** One page of items that are in a stable order: the token says where the next begins, by the key of the last item seen. */
export function page<T>(
  items: readonly T[],
  orderOf: (item: T) => number,
  request: { readonly size: number | undefined; readonly token: string | undefined; readonly badToken: string },
): { readonly items: readonly T[]; readonly nextToken: string | undefined } {
  let start = 0;
  if (request.token !== undefined) {
    const after = Number(
      Buffer.from(request.token, "base64url")
        .toString()
        .replace(/^after /, ""),
    );
    if (!Number.isFinite(after)) throw new AwsError(request.badToken, "The specified token is not valid.");
    start = items.findIndex((item) => orderOf(item) > after);
    if (start === -1) start = items.length;
  }
  const end = request.size === undefined ? items.length : Math.min(items.length, start + request.size);
  const last = items[end - 1];
  return {
    items: items.slice(start, end),
    nextToken: end < items.length && last !== undefined ? Buffer.from(`after ${orderOf(last)}`).toString("base64url") : undefined,
  };
}

/** Whether a value meets one of a filter's; `*` and `?` are wildcards, as EC2 has them. */
export function meets(value: string, wanted: readonly string[]): boolean {
  return wanted.some((one) => (/[*?]/.test(one) ? wildcard(one).test(value) : one === value));
}

const wildcards = new Map<string, RegExp>();
function wildcard(pattern: string): RegExp {
  let compiled = wildcards.get(pattern);
  if (compiled === undefined) {
    const escaped = pattern
      .replace(/[.+^${}()|[\]\\]/g, "\\$&")
      .replaceAll("*", "[\\s\\S]*")
      .replaceAll("?", "[\\s\\S]");
    compiled = new RegExp(`^${escaped}$`);
    wildcards.set(pattern, compiled);
  }
  return compiled;
}

export interface FilterLike {
  readonly Name?: string | undefined;
  readonly Values?: readonly string[] | undefined;
}

/** Whether a resource passes every filter. `values` has what a filter's name stands for; a name that is not there is not modelled. */
export function passes(
  filters: readonly FilterLike[] | undefined,
  tags: Readonly<Record<string, string>>,
  values: Readonly<Record<string, readonly string[]>>,
): boolean {
  return (filters ?? []).every((filter) => {
    const name = filter.Name ?? "";
    const wanted = filter.Values ?? [];
    if (name.startsWith("tag:")) {
      const value = tags[name.slice(4)];
      return value !== undefined && meets(value, wanted);
    }
    if (name === "tag-key") return Object.keys(tags).some((key) => meets(key, wanted));
    const found = values[name];
    if (found === undefined) throw new Unmodelled(`filter ${name} is not modelled`);
    return found.some((value) => meets(value, wanted));
  });
}

export interface TagLike {
  readonly Key?: string | undefined;
  readonly Value?: string | undefined;
}

export function tagRecord(list: readonly TagLike[] | undefined): Record<string, string> {
  return Object.fromEntries((list ?? []).map((tag) => [tag.Key ?? "", tag.Value ?? ""]));
}

export function tagList(tags: Readonly<Record<string, string>>): { Key: string; Value: string }[] {
  return Object.entries(tags).map(([Key, Value]) => ({ Key, Value }));
}

/** Ids that are never given twice: a counter behind a hash, so that they look like AWS's and differ from world to world. */
export class Ids {
  constructor(
    readonly seed: string,
    public given = 0,
  ) {}

  hex(kind: string, length: number): string {
    this.given++;
    return createHash("sha256").update(`${this.seed} ${kind} ${this.given}`).digest("hex").slice(0, length);
  }

  uuid(kind: string): string {
    const hex = this.hex(kind, 32);
    return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `a${hex.slice(17, 20)}`, hex.slice(20)].join("-");
  }
}

export function arn(world: World, service: string, resource: string): string {
  return `arn:${world.partition}:${service}:${world.region}:${world.account}:${resource}`;
}
