/** Reads a synthesized template as the tests speak of it. */
import { readFileSync } from "node:fs";

interface Resource {
  readonly id: string;
  readonly Type: string;
  readonly Properties: any;
}

export interface Statement {
  readonly effect: "Allow" | "Deny";
  readonly actions: readonly string[];
  readonly resources: readonly string[];
  readonly condition: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

export interface Template {
  readonly text: string;
  readonly outputs: readonly string[];
  /** Every resource of a type, or every one. */
  all(type?: string): readonly Resource[];
  /** The resource whose logical id is the name, with or without CDK's hash behind it. */
  one(type: string, name: string): Resource;
  /** What a role may do: its own policies and those attached to it. */
  statementsOf(role: Resource): readonly Statement[];
}

export function readTemplate(file: string): Template {
  const text = readFileSync(file, "utf8");
  const parsed = JSON.parse(text) as { Resources: Record<string, Omit<Resource, "id">>; Outputs: Record<string, unknown> };
  const resources = Object.entries(parsed.Resources).map(([id, resource]) => ({ ...resource, id }));
  const template: Template = {
    text,
    outputs: Object.keys(parsed.Outputs),
    all: (type) => resources.filter((resource) => type === undefined || resource.Type === type),
    one(type, name) {
      const [found, ...more] = template.all(type).filter(({ id }) => nameOf(id) === name);
      if (found === undefined || more.length > 0) throw new Error(`${more.length === 0 ? "no" : "more than one"} ${type} named ${name}`);
      return found;
    },
    statementsOf(role) {
      const inline = (role.Properties.Policies ?? []).map((policy: { PolicyDocument: unknown }) => policy.PolicyDocument);
      const attached = template
        .all("AWS::IAM::Policy")
        .filter((policy) => policy.Properties.Roles.some((attachedTo: unknown) => spell(attachedTo) === `<${role.id}>`))
        .map((policy) => policy.Properties.PolicyDocument);
      return [...inline, ...attached].flatMap(statementsIn);
    },
  };
  return template;
}

/** Statements of a policy document, with lists where the template has a list or a single value. */
export function statementsIn(document: { Statement: readonly Record<string, unknown>[] }): Statement[] {
  return document.Statement.map((statement) => ({
    effect: statement.Effect as "Allow" | "Deny",
    actions: listOf(statement.Action).map(spell),
    resources: listOf(statement.Resource).map(spell),
    condition: (statement.Condition ?? {}) as Statement["condition"],
  }));
}

/** Text of a value, with what is known only at deployment between angle brackets: `<StateBucket446E0578.Arn>/clusters/*`. */
export function spell(value: unknown): string {
  if (typeof value !== "object" || value === null) return String(value);
  const [[intrinsic, argument] = ["", undefined]] = Object.entries(value);
  if (intrinsic === "Ref") return `<${argument}>`;
  if (intrinsic === "Fn::GetAtt") return `<${(argument as string[]).join(".")}>`;
  if (intrinsic === "Fn::Join") return (argument as [string, unknown[]])[1].map(spell).join((argument as [string, unknown[]])[0]);
  if (intrinsic === "Fn::Sub") return String(argument);
  if (intrinsic === "Fn::ImportValue") return `<import ${argument}>`;
  throw new Error(`not a value this reads: ${JSON.stringify(value)}`);
}

/** `StateBucket` for `StateBucket446E0578`, also inside a spelled value. */
export function nameOf(id: string): string {
  return id.replace(/(?<=[a-z0-9])[0-9A-F]{8}(?=$|[.>])/g, "");
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [value];
}
