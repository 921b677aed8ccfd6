/**
 * Who may do what: the roles of the template, enforced as IAM would, and counted, so that a permission nobody used can be named.
 *
 * The decision itself is iam-simulate's. It takes tenths of a millisecond, so requests that no policy could tell apart (the same patterns match,
 * the same condition values are seen) share one.
 */
import { runUnsafeSimulation } from "@cloud-copilot/iam-simulate";
import type { Permission } from "./contract.js";
import { Unmodelled } from "./contract.js";
import type { PolicyDocument, PolicyStatement, Template, TemplateRole } from "./template.js";

export interface Denial {
  readonly role: string;
  readonly action: string;
  readonly resource: string;
  readonly context: Readonly<Record<string, string | readonly string[]>>;
  readonly explicit: boolean;
}

/** One action of one statement that no call needed. */
export interface UnusedPermission {
  readonly role: string;
  readonly policy: string;
  readonly action: string;
  readonly resources: readonly string[];
}

type Decision = { readonly allowed: true } | { readonly allowed: false; readonly explicit: boolean; readonly message: string };

interface Rule {
  readonly policy: string;
  readonly statement: PolicyStatement;
  readonly actions: readonly { readonly text: string; readonly pattern: RegExp }[];
  readonly resources: readonly { readonly text: string; readonly pattern: RegExp }[];
  readonly allow: boolean;
}

interface PreparedRole {
  readonly role: TemplateRole;
  readonly session: string;
  readonly rules: readonly Rule[];
  readonly patterns: readonly RegExp[];
  readonly conditionKeys: readonly ConditionKey[];
  readonly hasVariables: boolean;
}

interface ResourcePolicy {
  readonly document: PolicyDocument;
  readonly patterns: readonly RegExp[];
  readonly conditionKeys: readonly ConditionKey[];
}

/** A condition key that a policy asks for. One that is only compared as a number says no more than how it stands to each of these. */
interface ConditionKey {
  readonly name: string;
  readonly thresholds: readonly number[] | undefined;
}

interface Prepared {
  readonly roles: ReadonlyMap<string, PreparedRole>;
  readonly resourcePolicies: ReadonlyMap<string, ResourcePolicy>;
  readonly decisions: Map<string, { readonly result: "Allowed" | "ExplicitlyDenied" | "ImplicitlyDenied"; readonly used: readonly string[] }>;
}

/** Prepared once for a template, whatever the number of worlds that boot from it. */
const prepared = new WeakMap<Template, Prepared>();

/** Services whose calls the local cloud sees; permissions for others (logs, traces) are used by AWS itself. */
const seen = new Set(["s3", "ec2", "elasticloadbalancing", "ssm", "events", "kms", "states", "lambda", "iam", "sqs"]);

export class AccessControl {
  readonly denials: Denial[] = [];
  readonly #used = new Set<string>();
  readonly #prepared: Prepared;

  constructor(readonly template: Template) {
    let found = prepared.get(template);
    if (found === undefined) {
      found = prepare(template);
      prepared.set(template, found);
    }
    this.#prepared = found;
  }

  /** Decides for a role of the template, and remembers the denial or the use. */
  decide(principal: string, permission: Permission): Decision {
    const prepared = this.#prepared.roles.get(principal);
    if (prepared === undefined) throw new Unmodelled(`${principal} is no role of the template: it cannot ask for ${permission.action}`);
    const policy = this.#prepared.resourcePolicies.get(owner(permission));
    const context = { ...this.#globals(principal), ...permission.context };
    const key = this.#key(prepared, policy, permission, context);
    let decision = this.#prepared.decisions.get(key);
    if (decision === undefined) {
      decision = { result: this.#simulate(prepared, policy, permission, context), used: usedBy(prepared, permission) };
      this.#prepared.decisions.set(key, decision);
    }
    if (decision.result === "Allowed") {
      for (const use of decision.used) this.#used.add(use);
      return { allowed: true };
    }
    const explicit = decision.result === "ExplicitlyDenied";
    this.denials.push({ role: principal, action: permission.action, resource: permission.resource, context: permission.context ?? {}, explicit });
    const because = explicit ? "with an explicit deny in a policy" : `because no identity-based policy allows the ${permission.action} action`;
    return {
      allowed: false,
      explicit,
      message: `User: ${prepared.session} is not authorized to perform: ${permission.action} on resource: ${permission.resource} ${because}`,
    };
  }

  /** Actions in the roles' policies that nothing used so far, for services whose calls are seen here. */
  unusedPermissions(): UnusedPermission[] {
    return [...this.#prepared.roles.values()].flatMap(({ role, rules }) =>
      rules
        .filter(({ allow }) => allow)
        .flatMap((rule) =>
          rule.actions
            .filter(({ text }) => seen.has(text.split(":")[0] ?? "") && !this.#used.has(useOf(role.arn, rule, text)))
            .map(({ text }) => ({ role: role.name, policy: rule.policy, action: text, resources: rule.resources.map((resource) => resource.text) })),
        ),
    );
  }

  /** Uses of this world, to be put together with those of others: see `countUses`. */
  get uses(): ReadonlySet<string> {
    return this.#used;
  }

  /** Counts another world's uses as this one's. */
  countUses(uses: Iterable<string>): void {
    for (const use of uses) this.#used.add(use);
  }

  #globals(principal: string): Record<string, string> {
    return {
      "aws:SecureTransport": "true",
      "aws:PrincipalArn": principal,
      "aws:PrincipalAccount": this.template.account,
      "aws:PrincipalType": "AssumedRole",
      "aws:PrincipalIsAWSService": "false",
      "aws:ViaAWSService": "false",
      "aws:RequestedRegion": this.template.region,
      "aws:ResourceAccount": this.template.account,
    };
  }

  /** What a policy can tell a request by; everything else is left out. */
  #key(role: PreparedRole, policy: ResourcePolicy | undefined, { action, resource }: Permission, context: Permission["context"]): string {
    const identity = role.hasVariables
      ? resource
      : [...role.patterns, ...(policy?.patterns ?? [])].map((pattern) => (pattern.test(resource) ? "1" : "0")).join("");
    const given = new Map(Object.entries(context ?? {}).map(([name, value]) => [name.toLowerCase(), String(value)]));
    const values = [...role.conditionKeys, ...(policy?.conditionKeys ?? [])].map(({ name, thresholds }) => {
      const value = given.get(name);
      if (value === undefined) return "";
      return `${name}=${thresholds === undefined ? value : thresholds.map((threshold) => Math.sign(Number(value) - threshold)).join()}`;
    });
    return [role.role.arn, action, policy === undefined ? "" : owner({ action, resource }), identity, ...values].join("|");
  }

  #simulate(role: PreparedRole, policy: ResourcePolicy | undefined, permission: Permission, context: NonNullable<Permission["context"]>) {
    const { role: template } = role;
    return runUnsafeSimulation(
      {
        request: {
          principal: role.session,
          action: permission.action,
          resource: { resource: permission.resource, accountId: this.template.account },
          contextVariables: Object.fromEntries(
            Object.entries(context).map(([name, value]) => [name, typeof value === "string" ? value : [...value]]),
          ),
        },
        identityPolicies: [
          ...template.policies.map(({ name, document }) => ({ name, policy: document })),
          ...(policy === undefined ? [] : [{ name: "resource", policy: asIdentityPolicy(policy.document, template.arn, this.template.account) }]),
        ],
        serviceControlPolicies: [],
        resourceControlPolicies: [],
        ...(policy === undefined ? {} : { resourcePolicy: named(policy.document) }),
        ...(template.boundary === undefined ? {} : { permissionBoundaryPolicies: [{ name: "boundary", policy: template.boundary }] }),
      },
      { simulationMode: "Strict" },
    );
  }
}

/** In iam-policy's form of a checked policy: the simulator asks a resource policy for its name, which a plain document does not have. */
function named(policyDocument: PolicyDocument): object {
  return { __validated: true, policyDocument, metadata: { name: "resource policy" }, errors: [] };
}

/**
 * The statements of a resource's policy that speak of this role, as if they stood in the role's own policies: within one account a deny in either denies,
 * and an allow in either allows (IAM user guide, "Policy evaluation logic"). A statement that allows the account itself only lets its roles' policies
 * count, so it adds nothing here. (The simulator's entry without schema look-ups fails on a resource policy of its own.)
 */
function asIdentityPolicy(document: PolicyDocument, roleArn: string, account: string): PolicyDocument {
  const statements = document.Statement.flatMap((statement) => {
    const { Principal, ...rest } = statement as typeof statement & { readonly Principal?: unknown };
    if ("NotPrincipal" in statement) throw new Unmodelled("NotPrincipal in a resource policy is not modelled");
    const aws = typeof Principal === "object" && Principal !== null ? strings((Principal as { AWS?: string | string[] }).AWS) : [String(Principal)];
    const speaksOfRole = aws.some((each) => each === "*" || each === roleArn);
    const speaksOfAccount = aws.some((each) => each === account || each === `arn:aws:iam::${account}:root`);
    return speaksOfRole || (speaksOfAccount && rest.Effect === "Deny") ? [rest] : [];
  });
  const nothing = { Effect: "Deny", Action: ["none:none"], Resource: ["none"] } as unknown as (typeof document.Statement)[number];
  return { ...document, Statement: statements.length === 0 ? [nothing] : statements };
}

function prepare(template: Template): Prepared {
  const roles = new Map(template.roles.map((role) => [role.arn, prepareRole(role, template)]));
  const resourcePolicies = new Map<string, ResourcePolicy>();
  for (const { arn, policy } of template.buckets) if (policy !== undefined) resourcePolicies.set(arn, preparePolicy(policy));
  for (const { arn, policy } of template.keys) resourcePolicies.set(arn, preparePolicy(policy));
  return { roles, resourcePolicies, decisions: new Map() };
}

function prepareRole(role: TemplateRole, template: Template): PreparedRole {
  const rules = role.policies.flatMap(({ name, document }) =>
    document.Statement.map((statement): Rule => {
      if (statement.NotAction !== undefined) throw new Unmodelled(`${role.logicalId}: NotAction in policy ${name} is not modelled`);
      return {
        policy: name,
        statement,
        actions: strings(statement.Action).map((text) => ({ text, pattern: wildcard(text, true) })),
        resources: strings(statement.Resource).map((text) => ({ text, pattern: wildcard(text, false) })),
        allow: statement.Effect === "Allow",
      };
    }),
  );
  const documents = [...role.policies.map(({ document }) => document), ...(role.boundary === undefined ? [] : [role.boundary])];
  return {
    role,
    // A session's name is made up by the service that assumes the role; a function's is the function's.
    session: `arn:${template.partition}:sts::${template.account}:assumed-role/${role.name}/${template.functions.find((each) => each.role === role.arn)?.name ?? "session"}`,
    rules,
    patterns: patternsOf(documents),
    conditionKeys: conditionKeysOf(documents),
    hasVariables: JSON.stringify(documents).includes("${"),
  };
}

function preparePolicy(document: PolicyDocument): ResourcePolicy {
  return { document, patterns: patternsOf([document]), conditionKeys: conditionKeysOf([document]) };
}

function patternsOf(documents: readonly PolicyDocument[]): RegExp[] {
  const texts = documents.flatMap(({ Statement }) => Statement.flatMap((each) => [...strings(each.Resource), ...strings(each.NotResource)]));
  return [...new Set(texts)].filter((text) => text !== "*").map((text) => wildcard(text, false));
}

function conditionKeysOf(documents: readonly PolicyDocument[]): ConditionKey[] {
  const found = new Map<string, { numeric: boolean; readonly thresholds: number[] }>();
  for (const { Condition } of documents.flatMap(({ Statement }) => Statement)) {
    for (const [operator, keys] of Object.entries(Condition ?? {})) {
      for (const [key, values] of Object.entries(keys)) {
        const name = key.toLowerCase();
        const known = found.get(name) ?? { numeric: true, thresholds: [] };
        known.numeric &&= operator.startsWith("Numeric");
        known.thresholds.push(...[values].flat().map(Number));
        found.set(name, known);
      }
    }
  }
  return [...found]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { numeric, thresholds }]) => ({ name, thresholds: numeric ? thresholds : undefined }));
}

function usedBy({ role, rules }: PreparedRole, { action, resource }: Permission): string[] {
  return rules
    .filter((rule) => rule.allow && rule.resources.some(({ pattern }) => pattern.test(resource)))
    .flatMap((rule) => rule.actions.filter(({ pattern }) => pattern.test(action)).map(({ text }) => useOf(role.arn, rule, text)));
}

function useOf(role: string, rule: Rule, action: string): string {
  return `${role}|${rule.policy}|${JSON.stringify(rule.statement.Resource)}|${action}`;
}

/** ARN of what carries the resource policy that applies: the bucket of an object, the key itself. */
function owner({ resource }: Permission): string {
  return resource.startsWith("arn:aws:s3:::") ? (resource.split("/")[0] as string) : resource;
}

function strings(value: string | readonly string[] | undefined): readonly string[] {
  return value === undefined ? [] : typeof value === "string" ? [value] : value;
}

const wildcards = new Map<string, RegExp>();
/** IAM's `*` and `?`. Actions are matched whatever their case. */
export function wildcard(text: string, ignoreCase: boolean): RegExp {
  const key = `${ignoreCase ? "i" : ""}:${text}`;
  let found = wildcards.get(key);
  if (found === undefined) {
    const source = text
      .replace(/[\\^$.|+()[\]{}]/g, "\\$&")
      .replaceAll("*", ".*")
      .replaceAll("?", ".");
    found = new RegExp(`^${source}$`, ignoreCase ? "is" : "s");
    wildcards.set(key, found);
  }
  return found;
}
