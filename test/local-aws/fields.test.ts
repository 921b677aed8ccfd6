import { describe, expect, it } from "vitest";
import { type ServiceName, type Shape, schemasOf } from "../../local/kernel/schemas.js";
import { fleet } from "./fleet.js";

const { ec2, elb, ssm } = fleet();
const operations = [ec2, elb, ssm].flatMap((service) => Object.keys(service.operations).map((name) => [service.name, name, service] as const));

/** Whether a dotted path leads to a member of the shape; lists are walked. */
function leadsSomewhere(shape: Shape, path: readonly string[]): boolean {
  if (shape.kind === "list") return leadsSomewhere(shape.item.shape, path);
  const [name, ...rest] = path;
  if (name === undefined) return true;
  const member = shape.members.get(name);
  return member !== undefined && leadsSomewhere(member.shape, rest);
}

describe("modelled operations", () => {
  it.each(operations)("of %s: %s models fields that the SDK has", (name, operation, service) => {
    const schema = schemasOf(name as ServiceName).operation(operation);
    const unknown = service.operations[operation]?.fields.filter((field) => schema === undefined || !leadsSomewhere(schema.input, field.split(".")));
    expect(unknown).toEqual([]);
  });
});
