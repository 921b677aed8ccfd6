/**
 * Where requests and news come in: the HTTP API, the event bus, and AWS's own events.
 */
import { Duration, RemovalPolicy, type Stack } from "aws-cdk-lib";
import { AccessLogFormat } from "aws-cdk-lib/aws-apigateway";
import { HttpApi, HttpMethod, HttpStage, LogGroupLogDestination } from "aws-cdk-lib/aws-apigatewayv2";
import { HttpIamAuthorizer } from "aws-cdk-lib/aws-apigatewayv2-authorizers";
import { HttpLambdaIntegration } from "aws-cdk-lib/aws-apigatewayv2-integrations";
import { Archive, EventBus, type EventPattern, Rule } from "aws-cdk-lib/aws-events";
import { LambdaFunction as FunctionTarget } from "aws-cdk-lib/aws-events-targets";
import { CfnRegistry, CfnSchema } from "aws-cdk-lib/aws-eventschemas";
import { PolicyStatement, Role, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import type { Key } from "aws-cdk-lib/aws-kms";
import type { IDestination } from "aws-cdk-lib/aws-lambda";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import { CfnSchedule } from "aws-cdk-lib/aws-scheduler";
import { Queue, QueueEncryption } from "aws-cdk-lib/aws-sqs";
import { routes } from "../core/api.js";
import { sweepSeconds } from "../core/due.js";
import { busName, type EventName, eventNames, eventSchemaDocument, eventSchemaName, eventSources, events } from "../core/events.js";
import { documentPrefix } from "./documents.js";
import type { FunctionName, Functions } from "./functions.js";
import type { Settings } from "./settings.js";
import { operationWorkflowNames, workflowArn } from "./workflows.js";

/** The bus `drover`, its archive, and the published schemas of what is on it. */
export function makeBus(stack: Stack, settings: Settings): EventBus {
  const bus = new EventBus(stack, "Bus", { eventBusName: busName, description: "Requests to Drover, and what Drover says about clusters" });
  if (settings.eventArchiveDays > 0) {
    new Archive(stack, "BusArchive", {
      archiveName: busName,
      description: "Everything on the bus, for replay",
      sourceEventBus: bus,
      eventPattern: { source: Object.values(eventSources) },
      retention: Duration.days(settings.eventArchiveDays),
    });
  }
  const registry = new CfnRegistry(stack, "EventSchemas", { registryName: busName, description: "Events on the bus drover" });
  for (const name of Object.keys(events) as EventName[]) {
    const schema = new CfnSchema(stack, `${name.replaceAll(" ", "")}Schema`, {
      registryName: busName,
      schemaName: eventSchemaName(name),
      type: "OpenApi3",
      description: events[name].summary,
      content: JSON.stringify(eventSchemaDocument(name)),
    });
    schema.addResourceDependency(registry);
  }
  return bus;
}

/** Step Functions' ends that no Catch sees, or that a broken Catch left unrecorded. */
const unhappyEnds = ["ABORTED", "FAILED", "TIMED_OUT"];
/** A command's last statuses (SSM API reference, Command). */
const commandEnds = ["Success", "Failed", "TimedOut", "Cancelled"];

/**
 * Rules, and the queue for what could not be handled.
 *
 * EventBridge hands an event to a function asynchronously, so two things can go wrong and both end in the queue: the event cannot be handed over (the
 * rule's dead letters), and the function fails on it (the function's on-failure destination). Events here are worth little after an hour: the
 * heartbeat of the waiting step has long asked for itself.
 */
export function makeRules(stack: Stack, bus: EventBus, functions: Functions): Queue {
  const deadLetters = new Queue(stack, "DeadLetters", {
    queueName: "drover-dead-letters",
    encryption: QueueEncryption.SQS_MANAGED,
    enforceSSL: true,
    retentionPeriod: Duration.days(14),
    removalPolicy: RemovalPolicy.DESTROY,
  });
  const rules: Readonly<
    Record<string, { to: FunctionName; on: EventBus | undefined; description: string; eventPattern: EventPattern; maxAge: Duration }>
  > = {
    AdmitRequests: {
      to: "admit-event",
      on: bus,
      description: "Requests on the bus go through the same admission as those of the HTTP API",
      eventPattern: { source: [eventSources.request], detailType: eventNames(eventSources.request) },
      maxAge: Duration.hours(1),
    },
    NodeCommandsEnded: {
      to: "complete-node-command",
      on: undefined,
      description: "A node command ended: the step that waits for it goes on",
      eventPattern: {
        source: ["aws.ssm"],
        detailType: ["EC2 Command Status-change Notification"],
        detail: { "document-name": [{ prefix: documentPrefix }], status: commandEnds },
      },
      maxAge: Duration.minutes(15),
    },
    ExecutionsEnded: {
      to: "observe-execution",
      on: undefined,
      description: "An execution ended without success: its operation is closed if it did not close itself",
      eventPattern: {
        source: ["aws.states"],
        detailType: ["Step Functions Execution Status Change"],
        detail: { stateMachineArn: operationWorkflowNames.map((name) => workflowArn(stack, name)), status: unhappyEnds },
      },
      maxAge: Duration.hours(6),
    },
  };
  for (const [id, { to, on, description, eventPattern, maxAge }] of Object.entries(rules)) {
    const rule = new Rule(stack, id, { description, eventPattern, ...(on === undefined ? {} : { eventBus: on }) });
    rule.addTarget(new FunctionTarget(functions[to], { deadLetterQueue: deadLetters, retryAttempts: 20, maxEventAge: maxAge }));
    functions[to].configureAsyncInvoke({ onFailure: sendTo(deadLetters), retryAttempts: 2, maxEventAge: maxAge });
  }
  return deadLetters;
}

/**
 * The fleet's clock. AWS's events are best effort: without it an operation whose event was lost would be shown as running for ever.
 *
 * What a sweep missed the next one finds, so a failed one is not repeated and leaves no dead letter: alarms tell of sweeps that fail or do not come.
 */
export function makeSweep(stack: Stack, functions: Functions): void {
  const sweep = functions["sweep-fleet"];
  const period = Duration.seconds(sweepSeconds);
  sweep.configureAsyncInvoke({ retryAttempts: 0, maxEventAge: period });
  // CDK's own target would let the role invoke every version of the function too.
  const role = new Role(stack, "SweepRole", {
    description: "Drover: the clock invokes the sweep",
    assumedBy: new ServicePrincipal("scheduler.amazonaws.com", {
      conditions: {
        StringEquals: {
          "aws:SourceAccount": stack.account,
          // A schedule's own ARN is not what Scheduler says here (Scheduler user guide, "Confused deputy prevention").
          "aws:SourceArn": stack.formatArn({ service: "scheduler", resource: "schedule-group", resourceName: "default" }),
        },
      },
    }),
  });
  role.addToPolicy(new PolicyStatement({ actions: ["lambda:InvokeFunction"], resources: [sweep.functionArn] }));
  new CfnSchedule(stack, "Sweep", {
    name: "drover-sweep",
    description: "Every few minutes: looks at every cluster",
    scheduleExpression: `rate(${period.toMinutes()} minutes)`,
    state: "ENABLED",
    flexibleTimeWindow: { mode: "OFF" },
    target: {
      arn: sweep.functionArn,
      roleArn: role.roleArn,
      input: JSON.stringify({ "detail-type": "Scheduled Event" }),
      retryPolicy: { maximumRetryAttempts: 0, maximumEventAgeInSeconds: period.toSeconds() },
    },
  });
}

/** Lambda needs the right to send and no other; CDK's own destination would also grant reading the queue's attributes. */
function sendTo(queue: Queue): IDestination {
  return {
    bind: (_, fn) => {
      fn.addToRolePolicy(new PolicyStatement({ actions: ["sqs:SendMessage"], resources: [queue.queueArn] }));
      return { destination: queue.queueArn };
    },
  };
}

/** The HTTP API: routes of `core/api.ts`, each IAM-authorised. */
export function makeApi(stack: Stack, functions: Functions, key: Key, settings: Settings): HttpApi {
  const api = new HttpApi(stack, "Api", {
    apiName: "drover",
    description: "Drover: clusters, operations, artifacts",
    createDefaultStage: false,
    defaultAuthorizer: new HttpIamAuthorizer(),
  });
  new HttpStage(stack, "ApiStage", {
    httpApi: api,
    stageName: "$default",
    autoDeploy: true,
    throttle: { rateLimit: 50, burstLimit: 100 },
    accessLogSettings: {
      destination: new LogGroupLogDestination(
        new LogGroup(stack, "ApiLogs", {
          logGroupName: "/aws/vendedlogs/apigateway/drover",
          encryptionKey: key,
          retention: settings.logDays,
          removalPolicy: RemovalPolicy.DESTROY,
        }),
      ),
      format: AccessLogFormat.custom(
        JSON.stringify({
          requestId: "$context.requestId",
          at: "$context.requestTime",
          caller: "$context.identity.userArn",
          address: "$context.identity.sourceIp",
          route: "$context.routeKey",
          path: "$context.path",
          status: "$context.status",
          milliseconds: "$context.responseLatency",
          error: "$context.error.message",
        }),
      ),
    },
  });
  const integrations = new Map<FunctionName, HttpLambdaIntegration>();
  for (const route of Object.values(routes)) {
    const integration = integrations.get(route.function) ?? new HttpLambdaIntegration(`${route.function}-integration`, functions[route.function]);
    integrations.set(route.function, integration);
    api.addRoutes({ path: route.path, methods: [HttpMethod[route.method]], integration });
  }
  return api;
}
