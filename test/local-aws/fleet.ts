/** EC2, load balancers, Systems Manager and simulated nodes in one tiny world, with the calls most tests begin with. */
import type { Instance } from "@aws-sdk/client-ec2";
import { createEc2, fixtureImages, fixtureNetwork } from "../../local/aws/ec2.js";
import { createElasticLoadBalancingV2 } from "../../local/aws/elastic-load-balancing-v2.js";
import { createSsm } from "../../local/aws/ssm.js";
import { AwsError, type Faults, type Service, Unmodelled } from "../../local/kernel/contract.js";
import { encodeOutput } from "../../local/kernel/protocols.js";
import { fieldTree, type ServiceName, schemasOf, unmodelledFields } from "../../local/kernel/schemas.js";
import type { DocumentContent } from "../../local/nodes/contract.js";
import { createSimulatedNodes } from "../../local/nodes/simulated.js";
import { calls, type TinyWorld, tinyWorld } from "./tiny-world.js";

export const profileArn = "arn:aws:iam::111122223333:instance-profile/drover-node";
export const ubuntu = fixtureImages[0]?.id as string;
export const vpcId = fixtureNetwork("eu-central-1").vpcId;
export const [subnetA = "", subnetB = "", subnetC = ""] = fixtureNetwork("eu-central-1").subnets.map((subnet) => subnet.id);

export function fleet(options: { readonly seed?: number; readonly faults?: Partial<Faults> } = {}) {
  const world = tinyWorld(options);
  const files = new Map<string, string>();
  const nodes = createSimulatedNodes(world, {
    fetch: (url) => {
      const body = files.get(url);
      if (url.includes("busy")) return { status: 503, headers: {}, body: Buffer.alloc(0) };
      return { status: body === undefined ? 404 : 200, headers: {}, body: Buffer.from(body ?? "") };
    },
  });
  world.add(nodes);
  const ssm = createSsm(world);
  world.add(ssm);
  const ec2 = createEc2(world);
  world.add(ec2);
  const elb = createElasticLoadBalancingV2(world);
  world.add(elb);
  ec2.addInstanceProfile({ arn: profileArn, name: "drover-node", roleArn: "arn:aws:iam::111122223333:role/drover-node" });
  const ec2Call = wiredCalls(world, ec2);
  const request = (overrides: Record<string, unknown> = {}) => ({
    MinCount: 1,
    MaxCount: 1,
    ImageId: ubuntu,
    InstanceType: "m6i.xlarge",
    SubnetId: subnetA,
    IamInstanceProfile: { Arn: profileArn },
    MetadataOptions: { HttpTokens: "required", HttpPutResponseHopLimit: 1 },
    BlockDeviceMappings: [{ DeviceName: "/dev/sda1", Ebs: { VolumeSize: 80, VolumeType: "gp3", Encrypted: true, DeleteOnTermination: true } }],
    ...overrides,
  });
  return {
    world,
    nodes,
    ec2,
    ssm,
    elb,
    files,
    ec2Call,
    elbCall: wiredCalls(world, elb),
    ssmCall: wiredCalls(world, ssm),
    request,
    launch: (overrides: Record<string, unknown> = {}): Instance[] => ec2Call("RunInstances", request(overrides)).Instances,
    ids: (overrides: Record<string, unknown> = {}): string[] =>
      ec2Call("RunInstances", request(overrides)).Instances.map((instance: Instance) => instance.InstanceId as string),
    state: (id: string) => ec2.instance(id)?.life,
    pass: async (seconds: number) => void (await world.clock.runUntil(world.clock.now() + seconds * 1000)),
  };
}

/** Calls as the kernel makes them: a field outside the model is refused, and the answer must fit the wire. */
function wiredCalls(world: TinyWorld, service: Service) {
  const call = calls(world, service);
  return (name: string, input: unknown): ReturnType<typeof call> => {
    const schema = schemasOf(service.name as ServiceName).operation(name);
    if (schema === undefined) throw new Error(`${service.name} has no operation ${name}`);
    const given = withoutUndefined(input);
    const strange = unmodelledFields(given, schema.input, fieldTree(service.operations[name]?.fields ?? []));
    if (strange.length > 0) throw new Unmodelled(`${name}: ${strange.join(", ")}`);
    const output = call(name, given);
    encodeOutput(schema, output, { requestId: "wired", now: world.clock.now() });
    return output;
  };
}

function withoutUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutUndefined);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).flatMap(([key, member]) => (member === undefined ? [] : [[key, withoutUndefined(member)]])));
}

/** A document as the template has them, for a command that simulated nodes keep. */
export const checkDocument = "drover-check-cluster-0123abcd";
export const checkContent: DocumentContent = {
  schemaVersion: "2.2",
  parameters: {
    pool: { type: "String", allowedPattern: "^[a-z]([a-z0-9-]*[a-z0-9])?$", maxChars: 30, interpolationType: "ENV_VAR" },
  },
  mainSteps: [{ action: "aws:runShellScript", name: "checkcluster", inputs: { timeoutSeconds: "120", runCommand: ["true"] } }],
};

/** What a call's error says; fails when the call ends well. */
export function errorOf(act: () => unknown): { readonly code: string; readonly message: string; readonly httpStatus: number } {
  try {
    act();
  } catch (error) {
    if (error instanceof AwsError) return { code: error.code, message: error.message, httpStatus: error.httpStatus };
    throw error;
  }
  throw new Error("the call succeeded");
}
