import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { isBuiltin } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { acknowledgedRules, acknowledgedWildcards, unscopableActions } from "../../cdk/acknowledged-findings.js";
import { synthesize } from "../../cdk/app.js";
import { environmentNames } from "../../cdk/bundle.js";
import { documentPrefix } from "../../cdk/documents.js";
import { constructId, deployedName, type FunctionName, functionNames, functions, timeoutSeconds } from "../../cdk/functions.js";
import { operationWorkflowNames, placeholdersOf, type WorkflowName, workflowNames, workflows } from "../../cdk/workflows.js";
import { routes } from "../../core/api.js";
import { type EventName, eventNames, eventSchemaDocument, eventSchemaName, eventSources, events } from "../../core/events.js";
import { endpointNames } from "../../core/layout.js";
import { nodeCommands } from "../../core/node-commands.js";
import { nameOf, readTemplate, type Statement, spell, statementsIn, type Template } from "./template.js";

const root = join(import.meta.dirname, "../..");
const directory = mkdtempSync(join(tmpdir(), "drover-deployment-"));
let template: Template;

// Synthesis holds the template against cdk-nag and CloudFormation's own rules, and throws where one is broken without an acknowledgement.
beforeAll(async () => {
  await synthesize(directory);
  template = readTemplate(join(directory, "Drover.template.json"));
}, 180_000);
afterAll(() => rmSync(directory, { recursive: true }));

const roleOf = (name: FunctionName) => template.one("AWS::IAM::Role", `${constructId(name)}Role`);
const mayDo = (name: FunctionName) => template.statementsOf(roleOf(name));
const lambda = (name: FunctionName) => template.one("AWS::Lambda::Function", constructId(name));
/** Every statement of every role, with the role's name. */
const everyStatement = () =>
  template.all("AWS::IAM::Role").flatMap((role) => template.statementsOf(role).map((statement) => ({ role: nameOf(role.id), ...statement })));
const allowing = (action: string) => everyStatement().filter((statement) => statement.actions.includes(action));

describe("buckets", () => {
  const buckets = ["StateBucket", "ArtifactBucket", "SnapshotBucket"];
  const denials = (bucket: string): Statement[] => statementsIn(template.one("AWS::S3::BucketPolicy", `${bucket}Policy`).Properties.PolicyDocument);

  it("are these three and no other", () => {
    expect(template.all("AWS::S3::Bucket").map(({ id }) => nameOf(id))).toEqual(buckets);
  });
  it.each(buckets)("%s is encrypted with the state key, versioned, private, and survives the stack", (name) => {
    const { Properties, DeletionPolicy } = template.one("AWS::S3::Bucket", name) as ReturnType<Template["one"]> & { DeletionPolicy: string };
    const [rule] = Properties.BucketEncryption.ServerSideEncryptionConfiguration;
    expect(rule.ServerSideEncryptionByDefault.SSEAlgorithm).toBe("aws:kms");
    expect(nameOf(spell(rule.ServerSideEncryptionByDefault.KMSMasterKeyID))).toBe("<StateKey.Arn>");
    expect(Properties.VersioningConfiguration).toEqual({ Status: "Enabled" });
    expect(Object.values(Properties.PublicAccessBlockConfiguration)).toEqual([true, true, true, true]);
    expect(DeletionPolicy).toBe("Retain");
  });
  it.each(buckets)("%s answers over TLS 1.2 or better only", (name) => {
    const conditions = denials(name)
      .filter(({ effect, actions }) => effect === "Deny" && actions.includes("s3:*"))
      .map(({ condition }) => condition);
    expect(conditions).toContainEqual({ Bool: { "aws:SecureTransport": "false" } });
    expect(conditions).toContainEqual({ NumericLessThan: { "s3:TlsVersion": 1.2 } });
  });
  it.each([
    ["StateBucket", { "s3:*": 900_000 }],
    ["SnapshotBucket", { "s3:*": 900_000 }],
    ["ArtifactBucket", { "s3:GetObject": 900_000, "s3:PutObject": 3_600_000 }],
  ])("%s honours no presigned address older than what it is for", (name, limits) => {
    const found = denials(name).flatMap(({ actions, condition }) => {
      const limit = condition.NumericGreaterThan?.["s3:signatureAge"];
      return limit === undefined ? [] : actions.map((action) => [action, limit]);
    });
    expect(Object.fromEntries(found)).toEqual(limits);
  });
  it("forget what was on its way, and keep what was decided", () => {
    const rules = template.one("AWS::S3::Bucket", "StateBucket").Properties.LifecycleConfiguration.Rules as {
      Prefix?: string;
      ExpirationInDays?: number;
    }[];
    const expiry = Object.fromEntries(rules.filter((rule) => rule.ExpirationInDays).map((rule) => [rule.Prefix, rule.ExpirationInDays]));
    expect(expiry).toEqual({ "callbacks/": 7, "deliveries/": 1, "uploads/": 1, "requests/": 90, "snapshots-in-use/": 14 });
  });
  it("end multipart uploads nobody finishes", () => {
    for (const name of buckets) {
      const { Rules } = template.one("AWS::S3::Bucket", name).Properties.LifecycleConfiguration;
      expect(Rules).toContainEqual(expect.objectContaining({ AbortIncompleteMultipartUpload: { DaysAfterInitiation: 7 } }));
    }
  });
  it("lock snapshots against deletion", () => {
    const { ObjectLockEnabled, ObjectLockConfiguration } = template.one("AWS::S3::Bucket", "SnapshotBucket").Properties;
    expect(ObjectLockEnabled).toBe(true);
    expect(ObjectLockConfiguration.Rule.DefaultRetention).toEqual({ Mode: "GOVERNANCE", Days: 7 });
  });
});

describe("keys", () => {
  it("are two, rotate, and survive the stack", () => {
    const keys = template.all("AWS::KMS::Key");
    expect(keys.map(({ id }) => nameOf(id))).toEqual(["StateKey", "SecretsKey"]);
    for (const key of keys) expect(key).toMatchObject({ Properties: { EnableKeyRotation: true }, DeletionPolicy: "Retain" });
  });
  it("leave secrets to the functions that create, deliver, keep or show them, or find the one that opens a snapshot", () => {
    const holders = everyStatement().filter(({ resources }) => resources.some((resource) => nameOf(resource) === "<SecretsKey.Arn>"));
    expect([...new Set(holders.map(({ role }) => role))].sort()).toEqual(
      [
        ...["begin-restore", "create-credentials", "launch-drill", "prove-snapshot", "read-kubeconfig", "restores"],
        ...["run-node-command", "store-kubeconfig"],
      ].map((name) => `${constructId(name as FunctionName)}Role`),
    );
  });
  it("work through S3 only", () => {
    const direct = everyStatement().filter(
      ({ actions, condition }) => actions.some((action) => action.startsWith("kms:")) && condition.StringEquals?.["kms:ViaService"] === undefined,
    );
    expect(direct).toEqual([]);
  });
});

describe("functions", () => {
  it("are the handlers in functions/, each with an entry in the table", () => {
    const handlers = readdirSync(join(root, "functions"))
      .filter((file) => file.endsWith(".ts") && /^export const handler\b/m.test(readFileSync(join(root, "functions", file), "utf8")))
      .map((file) => file.replace(/\.ts$/, ""));
    expect([...functionNames].sort()).toEqual(handlers.sort());
  });
  it("have a role of their own, which nothing else may take", () => {
    const roles = functionNames.map((name) => spell(lambda(name).Properties.Role));
    expect(roles).toEqual(functionNames.map((name) => `<${roleOf(name).id}.Arn>`));
    expect(new Set(roles).size).toBe(functionNames.length);
    for (const name of functionNames) {
      const { AssumeRolePolicyDocument, ManagedPolicyArns } = roleOf(name).Properties;
      expect(AssumeRolePolicyDocument.Statement).toEqual([
        { Action: "sts:AssumeRole", Effect: "Allow", Principal: { Service: "lambda.amazonaws.com" } },
      ]);
      expect(ManagedPolicyArns).toBeUndefined();
    }
  });
  it.each(functionNames)("%s runs complete and minified on arm64, logs as JSON to its own encrypted group, and is traced", (name) => {
    const { Properties } = lambda(name);
    expect(Properties).toMatchObject({
      FunctionName: deployedName(name),
      Runtime: "nodejs22.x",
      Architectures: ["arm64"],
      Handler: "index.handler",
      TracingConfig: { Mode: "Active" },
      LoggingConfig: { LogFormat: "JSON" },
    });
    const logs = template.one("AWS::Logs::LogGroup", `${constructId(name)}Logs`);
    expect(spell(Properties.LoggingConfig.LogGroup)).toBe(`<${logs.id}>`);
    expect(logs.Properties).toMatchObject({ LogGroupName: `/aws/lambda/${deployedName(name)}`, RetentionInDays: 90 });
    expect(nameOf(spell(logs.Properties.KmsKeyId))).toBe("<StateKey.Arn>");
    const writesLogs = mayDo(name).filter(({ actions }) => actions.includes("logs:PutLogEvents"));
    expect(writesLogs.map(({ resources }) => resources)).toEqual([[`<${logs.id}.Arn>`]]);
  });
  it.each(functionNames)("%s is one file that names no path of this machine", (name) => {
    const asset = join(directory, `asset.${String(lambda(name).Properties.Code.S3Key).replace(/\.zip$/, "")}`);
    expect(readdirSync(asset)).toEqual(["index.js"]);
    const code = readFileSync(join(asset, "index.js"), "utf8");
    expect(code).not.toContain(root);
    expect(code).not.toContain("sourceMappingURL");
    const required = new Set([...code.matchAll(/\brequire\("([^"]+)"\)/g)].map((match) => match[1] as string));
    // The SDK asks for this one and goes on without it: only requests across Regions would need it.
    required.delete("@aws-sdk/signature-v4-crt");
    expect([...required].filter((module) => !isBuiltin(module))).toEqual([]);
    const given = Object.keys(lambda(name).Properties.Environment?.Variables ?? {});
    expect(given.sort()).toEqual(environmentNames.filter((variable) => code.includes(`"${variable}"`)).sort());
  });
  it("get no secret by environment, only names and addresses", () => {
    const values = functionNames.flatMap((name) => Object.values(lambda(name).Properties.Environment?.Variables ?? {}));
    const forms = [
      /^<[A-Za-z]+Bucket>$/,
      /^<SecretsKey\.Arn>$/,
      /^<Bus>$/,
      /^(true|false)$/,
      /^<NodeInstanceProfile\.Arn>$/,
      /^\{"prepare-node":"drover-/,
      /^arn:<AWS::Partition>:states:<AWS::Region>:<AWS::AccountId>:stateMachine:drover-((create|delete|backup|restore)-cluster|drill-restore)$/,
    ];
    expect(values.map((value) => nameOf(spell(value))).filter((value) => !forms.some((form) => form.test(value)))).toEqual([]);
  });
});

describe("permissions", () => {
  it("never allow every action of a service", () => {
    expect(everyStatement().filter(({ effect, actions }) => effect === "Allow" && actions.some((action) => /^\*$|:.*\*/.test(action)))).toEqual([]);
  });
  it("reach every resource only for actions IAM cannot scope, each with its reason", () => {
    const onEverything = everyStatement().filter(({ resources }) => resources.includes("*"));
    const found = [...new Set(onEverything.flatMap(({ actions }) => actions))].sort();
    expect(found).toEqual(Object.keys(unscopableActions).sort());
  });
  it("name wildcards only from the reviewed list, and the list holds none that is not used", () => {
    const found = everyStatement()
      .flatMap(({ resources }) => resources)
      .filter((resource) => resource.includes("*"));
    expect([...new Set(found.map(asListed))].sort()).toEqual(Object.keys(acknowledgedWildcards).sort());
  });
  it("acknowledge rules with a reason a person can judge", () => {
    for (const reason of Object.values(acknowledgedRules)) expect(reason.length).toBeGreaterThan(40);
    for (const reason of Object.values(acknowledgedWildcards)) expect(reason).toMatch(/^[A-Z].*\.$/);
  });

  it("launch only instances with IMDSv2, Drover's tags and Drover's profile", () => {
    const launches = allowing("ec2:RunInstances");
    const roles = [...new Set(launches.map(({ role }) => role))].sort();
    expect(roles).toEqual(["LaunchDrillFunctionRole", "LaunchNodesFunctionRole"]);
    const tagged = { "aws:RequestTag/drover:cluster": "false", "aws:RequestTag/drover:uid": "false" };
    for (const role of roles) {
      const conditionOf = (end: string) =>
        launches.find((each) => each.role === role && each.resources.some((resource) => resource.endsWith(end)))?.condition;
      expect(conditionOf(":instance/*")).toMatchObject({
        Null: tagged,
        StringEquals: { "ec2:MetadataHttpTokens": "required" },
        ArnEquals: { "ec2:InstanceProfile": expect.anything() },
      });
      expect(conditionOf(":volume/*")).toEqual({ Null: tagged, Bool: { "ec2:Encrypted": "true" } });
    }
  });
  it.each([
    "ec2:TerminateInstances",
    "ec2:DeleteVolume",
    "ec2:DeleteSecurityGroup",
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:RevokeSecurityGroupIngress",
  ])("%s touches only what carries a cluster's uid", (action) => {
    const allowed = allowing(action);
    expect(allowed.length).toBeGreaterThan(0);
    for (const { condition } of allowed) expect(condition).toEqual({ Null: { "aws:ResourceTag/drover:uid": "false" } });
  });
  it("tag only at birth, so that nothing can be made to look like a cluster's", () => {
    for (const { condition } of allowing("ec2:CreateTags"))
      expect(condition.StringEquals?.["ec2:CreateAction"]).toMatch(/^(RunInstances|CreateSecurityGroup)$/);
    for (const { condition } of allowing("elasticloadbalancing:AddTags")) {
      expect(condition.StringEquals?.["elasticloadbalancing:CreateAction"]).toEqual(["CreateLoadBalancer", "CreateTargetGroup", "CreateListener"]);
    }
  });
  it("pass one role, to EC2", () => {
    const passed = allowing("iam:PassRole").map(({ role, resources, condition }) => ({ role, resources: resources.map(nameOf), condition }));
    const toEc2 = { resources: ["<NodeRole.Arn>"], condition: { StringEquals: { "iam:PassedToService": "ec2.amazonaws.com" } } };
    expect(passed.sort((one, other) => one.role.localeCompare(other.role))).toEqual([
      { role: "LaunchDrillFunctionRole", ...toEc2 },
      { role: "LaunchNodesFunctionRole", ...toEc2 },
    ]);
  });
  it("send Drover's documents, to Drover's instances", () => {
    const sends = allowing("ssm:SendCommand").map(({ role, resources, condition }) => ({ role, resources: resources.map(asListed), condition }));
    expect(sends).toEqual([
      { role: "RunNodeCommandFunctionRole", resources: ["ssm:document/drover-*"], condition: {} },
      { role: "RunNodeCommandFunctionRole", resources: ["ec2:instance/*"], condition: { Null: { "aws:ResourceTag/drover:uid": "false" } } },
    ]);
  });
  it("never name a document of AWS: it would be root on every node", () => {
    expect(template.text).not.toMatch(/AWS-Run/);
  });
  it("announce under Drover's own source only, so that no function can forge a request", () => {
    for (const { condition } of allowing("events:PutEvents")) expect(condition).toEqual({ StringEquals: { "events:source": "drover" } });
  });
  it("know the load balancers by the beginning of their names", () => {
    const { loadBalancer, supervisorTargetGroup, apiTargetGroup } = endpointNames("any", "uid");
    for (const name of [loadBalancer, supervisorTargetGroup, apiTargetGroup]) expect(name).toMatch(/^drv-/);
  });
});

describe("nodes", () => {
  it("may be reached by Systems Manager, and hold no other right", () => {
    const role = template.one("AWS::IAM::Role", "NodeRole");
    expect(role.Properties.ManagedPolicyArns).toBeUndefined();
    const actions = template.statementsOf(role).flatMap((statement) => statement.actions);
    expect(actions.filter((action) => !/^(ssm|ssmmessages):/.test(action))).toEqual([]);
    expect(actions.filter((action) => /SendCommand|Parameter|Secret/.test(action))).toEqual([]);
    expect(role.Properties.AssumeRolePolicyDocument.Statement[0].Principal).toEqual({ Service: "ec2.amazonaws.com" });
  });
  it.each(Object.keys(nodeCommands))("obey %s through a document whose name holds its content's hash", (command) => {
    const document = template.one("AWS::SSM::Document", `${constructId(command as FunctionName).replace(/Function$/, "")}Document`);
    expect(document.Properties).toMatchObject({ DocumentType: "Command", UpdateMethod: "Replace", Content: { schemaVersion: "2.2" } });
    expect(document.Properties.Name).toMatch(new RegExp(`^${documentPrefix}${command}-[0-9a-f]{8}$`));
    const names = JSON.parse(lambda("run-node-command").Properties.Environment.Variables.DOCUMENTS);
    expect(names[command]).toBe(document.Properties.Name);
  });
});

const stateMachineArn = (name: WorkflowName) => `arn:<AWS::Partition>:states:<AWS::Region>:<AWS::AccountId>:stateMachine:drover-${name}`;

describe("state machines", () => {
  it("are started by requests and watched by themselves, except those that another one starts and awaits", () => {
    const started = template.all("AWS::StepFunctions::StateMachine").flatMap(({ Properties }) => Object.keys(Properties.DefinitionSubstitutions));
    const children = workflowNames.filter((name) => started.includes(`${workflows[name].id}StateMachine`));
    expect([...children].sort()).toEqual(["start-agent-group", "take-snapshot"]);
    expect(operationWorkflowNames).toEqual(workflowNames.filter((name) => !children.includes(name)));
  });
});

describe.each(workflowNames)("state machine %s", (name) => {
  const machine = () => template.one("AWS::StepFunctions::StateMachine", `${workflows[name].id}StateMachine`).Properties;
  const role = () => template.one("AWS::IAM::Role", `${workflows[name].id}StateMachineRole`);

  it("has a value for every placeholder of its definition, and no other", () => {
    const { DefinitionString, DefinitionSubstitutions } = machine();
    expect(typeof DefinitionString).toBe("string");
    expect(Object.keys(DefinitionSubstitutions).sort()).toEqual(placeholdersOf(DefinitionString));
    expect(placeholdersOf(DefinitionString)).toEqual(placeholdersOf(readFileSync(join(root, `statemachines/${name}.asl.json`), "utf8")));
    for (const [placeholder, value] of Object.entries(DefinitionSubstitutions)) {
      const child = workflowNames.find((other) => placeholder === `${workflows[other].id}StateMachine`);
      expect(nameOf(spell(value))).toBe(child === undefined ? `<${placeholder}.Arn>` : stateMachineArn(child));
    }
  });
  it("may call the functions it names, and no other", () => {
    const named = Object.entries(machine().DefinitionSubstitutions).filter(([placeholder]) => placeholder.endsWith("Function"));
    expect(named.length).toBeGreaterThan(0);
    const invokes = template.statementsOf(role()).filter(({ actions }) => actions.includes("lambda:InvokeFunction"));
    expect(invokes.flatMap(({ resources }) => resources).sort()).toEqual(named.map(([, value]) => spell(value)).sort());
  });
  it("may start, watch and stop the state machines it names, and no other, and hear of their ends", () => {
    const named = Object.entries(machine().DefinitionSubstitutions).filter(([placeholder]) => placeholder.endsWith("StateMachine"));
    const arns = named.map(([, value]) => spell(value));
    const statements = template.statementsOf(role());
    const allowed = (action: string) => statements.filter(({ actions }) => actions.includes(action)).flatMap(({ resources }) => resources);
    const executions = arns.map((arn) => `${arn.replace(":stateMachine:", ":execution:")}:*`);
    const rule = "arn:<AWS::Partition>:events:<AWS::Region>:<AWS::AccountId>:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule";
    expect(allowed("states:StartExecution").sort()).toEqual(arns.sort());
    for (const action of ["states:DescribeExecution", "states:StopExecution"]) expect(allowed(action).sort()).toEqual(executions.sort());
    // The same for every child: CDK writes it once.
    for (const action of ["events:PutTargets", "events:PutRule", "events:DescribeRule"])
      expect(allowed(action)).toEqual(arns.length === 0 ? [] : [rule]);
  });
  it("says its query language and its time limit itself, since CDK's properties for them do nothing here", () => {
    const definition = JSON.parse(machine().DefinitionString);
    expect(definition.QueryLanguage).toBe("JSONata");
    expect(definition.TimeoutSeconds).toBeGreaterThan(0);
  });
  it("logs every transition without the data, which would hold task tokens, and is traced", () => {
    expect(machine()).toMatchObject({
      StateMachineType: "STANDARD",
      LoggingConfiguration: { Level: "ALL", IncludeExecutionData: false },
      TracingConfiguration: { Enabled: true },
    });
  });
  it("waits longer for a function than the function may run, so that a retry never overlaps it", () => {
    const waits = tasksOf(JSON.parse(machine().DefinitionString)).filter((task) => task.Resource === "arn:aws:states:::lambda:invoke");
    expect(waits.length).toBeGreaterThan(0);
    const tooShort = waits.filter((task) => {
      const called = functionNames.find((candidate) => task.Arguments.FunctionName === `\${${constructId(candidate)}}`) as FunctionName;
      return Number(task.TimeoutSeconds) <= lambda(called).Properties.Timeout;
    });
    expect(tooShort.map((task) => `${task.name}: ${task.TimeoutSeconds} s`)).toEqual([]);
  });
});

describe("entrances", () => {
  it("route the HTTP API as the table says, each IAM-authorised", () => {
    const found = template.all("AWS::ApiGatewayV2::Route").map(({ Properties }) => {
      const integration = spell(Properties.Target).match(/<([^>]+)>/)?.[1];
      const behind = template.all("AWS::ApiGatewayV2::Integration").find(({ id }) => id === integration);
      return { key: Properties.RouteKey, authorized: Properties.AuthorizationType, to: nameOf(spell(behind?.Properties.IntegrationUri)) };
    });
    const wanted = Object.values(routes).map((route) => ({
      key: `${route.method} ${route.path}`,
      authorized: "AWS_IAM",
      to: `<${constructId(route.function)}.Arn>`,
    }));
    const byKey = (a: { key: string }, b: { key: string }) => a.key.localeCompare(b.key);
    expect(found.sort(byKey)).toEqual(wanted.sort(byKey));
  });
  it("log who called, throttle, and answer within the HTTP API's 30 seconds", () => {
    const [stage] = template.all("AWS::ApiGatewayV2::Stage");
    expect(stage?.Properties.DefaultRouteSettings).toEqual({ ThrottlingBurstLimit: 100, ThrottlingRateLimit: 50 });
    expect(stage?.Properties.AccessLogSettings.Format).toContain("$context.identity.userArn");
    expect(timeoutSeconds.route).toBeLessThan(30);
  });
  it("know what they are called by: routes by the API, events by rules or the clock", () => {
    expect(functionNames.filter((name) => functions[name].kind === "route").sort()).toEqual(
      [...new Set(Object.values(routes).map((route) => route.function))].sort(),
    );
    const called = template
      .all("AWS::Events::Rule")
      .flatMap(({ Properties }) => Properties.Targets.map((target: { Arn: unknown }) => nameOf(spell(target.Arn))));
    const clocked = template.all("AWS::Scheduler::Schedule").map(({ Properties }) => nameOf(spell(Properties.Target.Arn)));
    expect([...new Set([...called, ...clocked])].sort()).toEqual(
      functionNames
        .filter((name) => functions[name].kind === "event")
        .map((name) => `<${constructId(name)}.Arn>`)
        .sort(),
    );
  });
  it("keep every event that cannot be handed over or handled, for a bounded time of tries", () => {
    const queue = template.one("AWS::SQS::Queue", "DeadLetters");
    expect(queue.Properties.MessageRetentionPeriod).toBe(14 * 86_400);
    for (const rule of template.all("AWS::Events::Rule")) {
      for (const target of rule.Properties.Targets) {
        expect(spell(target.DeadLetterConfig.Arn)).toBe(`<${queue.id}.Arn>`);
        expect(target.RetryPolicy.MaximumEventAgeInSeconds).toBeLessThan(86_400);
        expect(target.RetryPolicy.MaximumRetryAttempts).toBeLessThan(185);
        const invoked = template
          .all("AWS::Lambda::EventInvokeConfig")
          .find(({ Properties }) => `${spell(Properties.FunctionName).slice(0, -1)}.Arn>` === spell(target.Arn));
        expect(spell(invoked?.Properties.DestinationConfig.OnFailure.Destination)).toBe(`<${queue.id}.Arn>`);
        expect(invoked?.Properties.MaximumEventAgeInSeconds).toBe(target.RetryPolicy.MaximumEventAgeInSeconds);
      }
    }
  });
  it("hear of requests on the bus, of ended node commands, and of executions that ended badly", () => {
    const pattern = (name: string) => template.one("AWS::Events::Rule", name).Properties.EventPattern;
    expect(pattern("AdmitRequests")).toEqual({
      source: ["drover.request"],
      "detail-type": eventNames(eventSources.request),
    });
    expect(pattern("NodeCommandsEnded")).toEqual({
      source: ["aws.ssm"],
      "detail-type": ["EC2 Command Status-change Notification"],
      detail: { "document-name": [{ prefix: "drover-" }], status: ["Success", "Failed", "TimedOut", "Cancelled"] },
    });
    expect(pattern("ExecutionsEnded")).toMatchObject({
      source: ["aws.states"],
      "detail-type": ["Step Functions Execution Status Change"],
      detail: { status: ["ABORTED", "FAILED", "TIMED_OUT"] },
    });
    expect(pattern("ExecutionsEnded").detail.stateMachineArn.map(spell)).toEqual(operationWorkflowNames.map(stateMachineArn));
  });
  it("hear requests on Drover's bus, and AWS's events on the default one, the only bus they come to", () => {
    const buses = Object.fromEntries(
      template.all("AWS::Events::Rule").map(({ id, Properties }) => [nameOf(id), Properties.EventBusName && nameOf(spell(Properties.EventBusName))]),
    );
    expect(buses).toEqual({ AdmitRequests: "<Bus>", NodeCommandsEnded: undefined, ExecutionsEnded: undefined });
  });
  it("look at every cluster every five minutes, because events get lost and time passes without any", () => {
    const { ScheduleExpression, State, Target, FlexibleTimeWindow } = template.one("AWS::Scheduler::Schedule", "Sweep").Properties;
    expect({ ScheduleExpression, State, FlexibleTimeWindow }).toEqual({
      ScheduleExpression: "rate(5 minutes)",
      State: "ENABLED",
      FlexibleTimeWindow: { Mode: "OFF" },
    });
    expect(spell(Target.Arn)).toBe(`<${lambda("sweep-fleet").id}.Arn>`);
    const role = template.one("AWS::IAM::Role", "SweepRole");
    expect(spell(Target.RoleArn)).toBe(`<${role.id}.Arn>`);
    expect(template.statementsOf(role)).toMatchObject([{ actions: ["lambda:InvokeFunction"], resources: [`<${lambda("sweep-fleet").id}.Arn>`] }]);
    expect(role.Properties.AssumeRolePolicyDocument.Statement[0].Condition.StringEquals).toHaveProperty("aws:SourceArn");
    // The next sweep finds what one missed.
    expect(Target.RetryPolicy).toEqual({ MaximumRetryAttempts: 0, MaximumEventAgeInSeconds: 300 });
    const invoked = template
      .all("AWS::Lambda::EventInvokeConfig")
      .find(({ Properties }) => spell(Properties.FunctionName) === `<${lambda("sweep-fleet").id}>`);
    expect(invoked?.Properties).toMatchObject({ MaximumRetryAttempts: 0, MaximumEventAgeInSeconds: 300 });
  });
  it("let a schedule start backups and drills, and nothing that makes, restores or removes a cluster", () => {
    const started = mayDo("sweep-fleet").filter(({ actions }) => actions.includes("states:StartExecution"));
    expect(started.flatMap(({ resources }) => resources.map((each) => each.split(":").at(-1)))).toEqual([
      "drover-backup-cluster",
      "drover-drill-restore",
    ]);
  });
});

describe("events", () => {
  it.each(Object.keys(events) as EventName[])('publish the schema of "%s"', (name) => {
    const published = template.all("AWS::EventSchemas::Schema").filter(({ Properties }) => Properties.SchemaName === eventSchemaName(name));
    expect(published.map(({ Properties }) => [Properties.RegistryName, Properties.Type, JSON.parse(Properties.Content)])).toEqual([
      ["drover", "OpenApi3", JSON.parse(JSON.stringify(eventSchemaDocument(name)))],
    ]);
  });
  it("can be replayed for thirty days", () => {
    expect(template.one("AWS::Events::Archive", "BusArchive").Properties).toMatchObject({
      RetentionDays: 30,
      EventPattern: { source: ["drover.request", "drover"] },
    });
  });
});

describe("alarms", () => {
  const watched = (id: string) =>
    JSON.stringify(template.one("AWS::CloudWatch::Alarm", id).Properties.Metrics ?? [template.one("AWS::CloudWatch::Alarm", id).Properties]);

  it.each(operationWorkflowNames)("say when an operation of %s ends without success, however it ends", (name) => {
    for (const metric of ["ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"])
      expect(watched(`${workflows[name].id}Failed`)).toContain(metric);
  });
  it("say when an event waits as a dead letter, and when an entrance fails or is throttled", () => {
    expect(watched("DeadLettersWaiting")).toContain("ApproximateNumberOfMessagesVisible");
    for (const name of functionNames.filter((candidate) => functions[candidate].kind !== "step")) {
      expect(watched("EntrancesThrottled")).toContain(lambda(name).id);
    }
    for (const name of ["api", "artifacts", "read-kubeconfig", "admit-event", "sweep-fleet"] as const) {
      expect(watched("EntrancesFailing")).toContain(lambda(name).id);
    }
  });
  it("say when a snapshot or a drill is older than it may be, by the worst of the fleet", () => {
    for (const [id, metric] of [
      ["SnapshotsLate", "LateSnapshots"],
      ["DrillsLate", "LateDrills"],
    ] as const) {
      expect(template.one("AWS::CloudWatch::Alarm", id).Properties).toMatchObject({
        Namespace: "Drover",
        MetricName: metric,
        Statistic: "Maximum",
        Threshold: 1,
        ComparisonOperator: "GreaterThanOrEqualToThreshold",
      });
    }
  });
  it("say when the fleet's clock stands still, which no failure would tell", () => {
    expect(template.one("AWS::CloudWatch::Alarm", "FleetNotSwept").Properties).toMatchObject({
      Namespace: "AWS/Lambda",
      MetricName: "Invocations",
      Threshold: 1,
      ComparisonOperator: "LessThanThreshold",
      TreatMissingData: "breaching",
    });
  });
  it("are silent while nothing happens, but for that one", () => {
    for (const alarm of template.all("AWS::CloudWatch::Alarm").filter(({ id }) => nameOf(id) !== "FleetNotSwept")) {
      expect(alarm.Properties.TreatMissingData).toBe("notBreaching");
    }
  });
  it("stand on one dashboard", () => {
    const [dashboard] = template.all("AWS::CloudWatch::Dashboard");
    const body = spell(dashboard?.Properties.DashboardBody);
    for (const alarm of template.all("AWS::CloudWatch::Alarm")) expect(body).toContain(`<${alarm.id}.Arn>`);
  });
});

describe("the stack", () => {
  it("tells what a person and a script need to go on", () => {
    expect(template.outputs).toEqual(
      expect.arrayContaining([
        "ApiUrl",
        "StateBucketName",
        "ArtifactBucketName",
        "SnapshotBucketName",
        "EventBusName",
        "CreateStateMachineArn",
        "DeleteStateMachineArn",
        "NodeInstanceProfileArn",
      ]),
    );
  });
  it("brings no network: clusters bring theirs", () => {
    expect(template.all().filter(({ Type }) => Type.startsWith("AWS::EC2::"))).toEqual([]);
  });
  it("is the same for every account and Region", () => {
    expect(template.text).not.toMatch(/\b\d{12}\b/);
    expect(template.text).not.toMatch(/"(us|eu|ap)-[a-z]+-\d"/);
  });
  it("stays far below CloudFormation's limits, 500 resources and 1 MB", () => {
    expect(template.all().length).toBeLessThan(400);
    expect(template.text.length).toBeLessThan(800_000);
  });
  it("keeps each role's policies below IAM's 10,240 characters", () => {
    for (const role of template.all("AWS::IAM::Role")) {
      const characters = JSON.stringify(template.statementsOf(role)).length;
      expect.soft(characters, nameOf(role.id)).toBeLessThan(10_240);
    }
  });
});

/** A resource as `acknowledgedWildcards` spells it. */
function asListed(resource: string): string {
  return nameOf(resource)
    .replace(/^<(\w+)\.Arn>/, "{$1}")
    .replace(/^arn:<AWS::Partition>:([a-z0-9]+):<AWS::Region>:<AWS::AccountId>:/, "$1:")
    .replace(/^arn:<AWS::Partition>:([a-z0-9]+):<AWS::Region>::/, "$1::");
}

interface TaskState {
  readonly name: string;
  readonly Resource: string;
  readonly TimeoutSeconds?: number | string;
  readonly Arguments: { readonly FunctionName: string };
}

/** Every Task of a definition, also those inside Map and Parallel. */
function tasksOf(definition: { States: Record<string, Record<string, unknown>> }): TaskState[] {
  return Object.entries(definition.States).flatMap(([name, state]) => {
    const inner = [state.ItemProcessor, ...((state.Branches as unknown[]) ?? [])].filter((part) => part !== undefined);
    const nested = inner.flatMap((part) => tasksOf(part as typeof definition));
    return state.Type === "Task" ? [{ name, ...state } as unknown as TaskState, ...nested] : nested;
  });
}
