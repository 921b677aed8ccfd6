import { describe, expect, it } from "vitest";
import { Unmodelled } from "../../local/kernel/contract.js";
import { loadTemplate, readAssembly } from "../../local/kernel/template.js";
import { writeAssembly } from "./assembly.js";

const target = { account: "123456789012", region: "eu-central-1", partition: "aws" } as const;
const load = (resources: Record<string, unknown>, template: Record<string, unknown> = {}) =>
  loadTemplate([{ name: "App", template: { Resources: resources as never, ...template }, assets: new Map() }], target);
const parameterOf = (value: unknown, more: Record<string, unknown> = {}, template: Record<string, unknown> = {}) =>
  load({ ...more, P: { Type: "AWS::SSM::Parameter", Properties: { Name: "/p", Type: "String", Value: value } } }, template).parameters[0]?.value;

describe("what a template resolves to", () => {
  it("gives names and ARNs that are the same at every boot", () => {
    const once = load({
      Store: { Type: "AWS::S3::Bucket" },
      Role: { Type: "AWS::IAM::Role", Properties: { RoleName: "reader", AssumeRolePolicyDocument: { Statement: [] } } },
    });
    const again = load({ Store: { Type: "AWS::S3::Bucket" } });
    expect(once.buckets[0]?.name).toMatch(/^app-store-[0-9a-f]{12}$/);
    expect(once.buckets[0]?.name).toBe(again.buckets[0]?.name);
    expect(once.buckets[0]?.arn).toBe(`arn:aws:s3:::${once.buckets[0]?.name}`);
    expect(once.roles[0]?.arn).toBe("arn:aws:iam::123456789012:role/reader");
  });

  it.each([
    [
      "Ref of a pseudo parameter",
      { "Fn::Join": [":", ["arn", { Ref: "AWS::Partition" }, "x", { Ref: "AWS::Region" }, { Ref: "AWS::AccountId" }]] },
      "arn:aws:x:eu-central-1:123456789012",
    ],
    ["Fn::Sub with variables", { "Fn::Sub": ["${A}-${AWS::Region}-${!Literal}", { A: { Ref: "AWS::StackName" } }] }, "App-eu-central-1-${Literal}"],
    ["Fn::Sub of an attribute", { "Fn::Sub": "${Queue.QueueName}" }, "dead"],
    ["Fn::GetAtt", { "Fn::GetAtt": ["Queue", "Arn"] }, "arn:aws:sqs:eu-central-1:123456789012:dead"],
    ["Fn::Select and Fn::Split", { "Fn::Select": [1, { "Fn::Split": ["/", "a/b/c"] }] }, "b"],
    ["Fn::If", { "Fn::If": ["InEurope", "here", "there"] }, "here"],
    ["a condition on a condition", { "Fn::If": ["NotHere", "there", "here"] }, "here"],
    ["Fn::FindInMap", { "Fn::FindInMap": ["Zones", { Ref: "AWS::Region" }, "first"] }, "eu-central-1a"],
    ["a parameter's default", { Ref: "Stage" }, "test"],
  ])("resolves %s", (_, value, expected) => {
    const queue = { Queue: { Type: "AWS::SQS::Queue", Properties: { QueueName: "dead" } } };
    const template = {
      Parameters: { Stage: { Type: "String", Default: "test" } },
      Mappings: { Zones: { "eu-central-1": { first: "eu-central-1a" } } },
      Conditions: {
        InEurope: { "Fn::Or": [{ "Fn::Equals": [{ Ref: "AWS::Region" }, "eu-central-1"] }, { "Fn::Equals": ["a", "b"] }] },
        NotHere: { "Fn::Not": [{ Condition: "InEurope" }] },
      },
    };
    expect(parameterOf(value, queue, template)).toBe(expected);
  });

  it("leaves out what a condition or AWS::NoValue takes away", () => {
    const template = load(
      {
        Gone: { Type: "AWS::SQS::Queue", Condition: "Never" },
        Kept: { Type: "AWS::SQS::Queue", Properties: { QueueName: "kept", KmsMasterKeyId: { Ref: "AWS::NoValue" } } },
      },
      { Conditions: { Never: { "Fn::Equals": ["a", "b"] } } },
    );
    expect(template.queues.map(({ name, properties }) => [name, properties])).toEqual([["kept", { QueueName: "kept" }]]);
  });

  it("carries values from one stack to another", () => {
    const first = {
      name: "Network",
      template: { Resources: {}, Outputs: { Vpc: { Value: "vpc-1", Export: { Name: "Network:Vpc" } } } },
      assets: new Map(),
    };
    const second = {
      name: "App",
      template: {
        Resources: { P: { Type: "AWS::SSM::Parameter", Properties: { Name: "/p", Type: "String", Value: { "Fn::ImportValue": "Network:Vpc" } } } },
      },
      assets: new Map(),
    };
    expect(loadTemplate([first, second], target).parameters).toEqual([{ name: "/p", value: "vpc-1" }]);
  });

  it("puts a role's policies together: inline, attached, managed", () => {
    const template = load({
      Role: {
        Type: "AWS::IAM::Role",
        Properties: {
          AssumeRolePolicyDocument: { Statement: [] },
          Policies: [{ PolicyName: "inline", PolicyDocument: { Statement: { Effect: "Allow", Action: "s3:GetObject", Resource: "*" } } }],
          ManagedPolicyArns: [{ "Fn::Sub": "arn:${AWS::Partition}:iam::aws:policy/AmazonSSMManagedInstanceCore" }],
        },
      },
      Attached: {
        Type: "AWS::IAM::Policy",
        Properties: {
          PolicyName: "p",
          PolicyDocument: { Statement: [{ Effect: "Allow", Action: "s3:PutObject", Resource: "*" }] },
          Roles: [{ Ref: "Role" }],
        },
      },
    });
    const [role] = template.roles;
    expect(role?.policies.map(({ document }) => document.Statement[0]?.Action)).toEqual([
      "s3:GetObject",
      "s3:PutObject",
      expect.arrayContaining(["ssm:UpdateInstanceInformation"]),
    ]);
  });

  it("replaces the placeholders of a state machine's definition, and no others", () => {
    const template = load({
      Machine: {
        Type: "AWS::StepFunctions::StateMachine",
        Properties: {
          StateMachineName: "create",
          RoleArn: "arn:aws:iam::123456789012:role/r",
          DefinitionString: '{"a":"${Function}","b":"{% $x %}","c":"${Other}"}',
          DefinitionSubstitutions: { Function: { "Fn::Sub": "arn:${AWS::Region}" } },
        },
      },
    });
    expect(template.stateMachines[0]).toMatchObject({
      name: "create",
      arn: "arn:aws:states:eu-central-1:123456789012:stateMachine:create",
      definition: '{"a":"arn:eu-central-1","b":"{% $x %}","c":"${Other}"}',
    });
  });

  it("reads routes with their functions and limits", () => {
    const folder = writeAssembly({
      functions: { Api: { code: "exports.handler = () => 1;" } },
      resources: {
        Http: { Type: "AWS::ApiGatewayV2::Api", Properties: { Name: "drover", ProtocolType: "HTTP" } },
        Stage: {
          Type: "AWS::ApiGatewayV2::Stage",
          Properties: {
            ApiId: { Ref: "Http" },
            StageName: "$default",
            AutoDeploy: true,
            DefaultRouteSettings: { ThrottlingRateLimit: 5, ThrottlingBurstLimit: 10 },
          },
        },
        Integration: {
          Type: "AWS::ApiGatewayV2::Integration",
          Properties: {
            ApiId: { Ref: "Http" },
            IntegrationType: "AWS_PROXY",
            IntegrationUri: { "Fn::GetAtt": ["Api", "Arn"] },
            PayloadFormatVersion: "2.0",
          },
        },
        Route: {
          Type: "AWS::ApiGatewayV2::Route",
          Properties: {
            ApiId: { Ref: "Http" },
            RouteKey: "GET /clusters/{name}",
            AuthorizationType: "AWS_IAM",
            Target: { "Fn::Join": ["", ["integrations/", { Ref: "Integration" }]] },
          },
        },
      },
    });
    const template = loadTemplate(readAssembly(folder), target);
    expect(template.apis[0]).toMatchObject({ stage: "$default", throttle: { ratePerSecond: 5, burst: 10 } });
    expect(template.apis[0]?.routes[0]).toMatchObject({
      method: "GET",
      path: "/clusters/{name}",
      authorization: "AWS_IAM",
      functionArn: template.functions[0]?.arn,
    });
  });
});

describe("what a template may not hold", () => {
  it.each([
    [
      "a resource type that is neither modelled nor accepted",
      { Db: { Type: "AWS::DynamoDB::Table" } },
      "App.Db: resource type AWS::DynamoDB::Table is not modelled",
    ],
    [
      "a property nobody understands",
      { Q: { Type: "AWS::SQS::Queue", Properties: { FifoQueue: true } } },
      "App.Q: property FifoQueue of AWS::SQS::Queue is not modelled",
    ],
    [
      "an attribute nobody understands",
      { Q: { Type: "AWS::SQS::Queue", Properties: { QueueName: { "Fn::GetAtt": ["B", "WebsiteURL"] } } }, B: { Type: "AWS::S3::Bucket" } },
      "Q.QueueName: attribute WebsiteURL of AWS::S3::Bucket is not modelled",
    ],
    [
      "a function whose code is not an asset",
      { F: { Type: "AWS::Lambda::Function", Properties: { Code: { ZipFile: "x" }, Handler: "index.handler", Role: "r" } } },
      "F: the code of a function must be an asset of the assembly",
    ],
    [
      "a managed policy nobody knows",
      {
        R: {
          Type: "AWS::IAM::Role",
          Properties: { AssumeRolePolicyDocument: { Statement: [] }, ManagedPolicyArns: ["arn:aws:iam::aws:policy/AdministratorAccess"] },
        },
      },
      "R: managed policy arn:aws:iam::aws:policy/AdministratorAccess is not modelled",
    ],
    [
      "a name that depends on itself",
      { Q: { Type: "AWS::SQS::Queue", Properties: { QueueName: { Ref: "Q" } } } },
      "App.Q: its name depends on itself",
    ],
  ])("%s", (_, resources, message) => {
    expect(() => load(resources)).toThrow(new Unmodelled(message));
  });

  it("says why a type that does nothing here is accepted", () => {
    const template = load({ Alarm: { Type: "AWS::CloudWatch::Alarm", Properties: { Whatever: 1 } } });
    expect(template.accepted).toEqual({ "AWS::CloudWatch::Alarm": "seen by people and alarms only; no handler or workflow reads it" });
  });

  it("says how to make an assembly where there is none", () => {
    expect(() => readAssembly("/nowhere")).toThrow("/nowhere holds no synthesized app (no manifest.json). Run: npm run synth");
  });
});
