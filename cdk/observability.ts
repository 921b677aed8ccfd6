/**
 * Alarms and the dashboard.
 *
 * Few alarms, each of which means that a person has to act, because alarms are what this stack costs at rest besides its keys. Failures of steps are not among them:
 * a step says NotYet by failing, and what it cannot overcome ends its execution, which is.
 */
import { Duration, type Stack } from "aws-cdk-lib";
import type { HttpApi } from "aws-cdk-lib/aws-apigatewayv2";
import {
  Alarm,
  type AlarmProps,
  AlarmStatusWidget,
  ComparisonOperator,
  Dashboard,
  GraphWidget,
  type IMetric,
  MathExpression,
  Metric,
  TextWidget,
  TreatMissingData,
} from "aws-cdk-lib/aws-cloudwatch";
import { SnsAction } from "aws-cdk-lib/aws-cloudwatch-actions";
import { Topic } from "aws-cdk-lib/aws-sns";
import type { Queue } from "aws-cdk-lib/aws-sqs";
import { type MetricName, metricNamespace, metrics } from "../core/metrics.js";
import { type FunctionName, type Functions, functionNames, functions as table } from "./functions.js";
import type { Settings } from "./settings.js";
import { operationWorkflowNames, type Workflows, workflowNames, workflows as workflowTable } from "./workflows.js";

const period = Duration.minutes(5);
const statistic = "Sum";

interface Watched {
  readonly functions: Functions;
  readonly workflows: Workflows;
  readonly deadLetters: Queue;
  readonly api: HttpApi;
}

export function makeObservability(stack: Stack, { functions, workflows, deadLetters, api }: Watched, settings: Settings): Alarm[] {
  const alarm = (id: string, metric: IMetric, description: string, options: Partial<AlarmProps> = {}) =>
    new Alarm(stack, id, {
      metric,
      alarmDescription: description,
      threshold: 1,
      evaluationPeriods: 1,
      comparisonOperator: ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
      treatMissingData: TreatMissingData.NOT_BREACHING,
      ...options,
    });
  /** Of the whole fleet: the worst of its clusters. */
  const worst = (metricName: MetricName, over = Duration.minutes(15)) =>
    new Metric({ namespace: metricNamespace, metricName, period: over, statistic: "Maximum" });
  // A metric with no data point in a period would make the sum unknown, so none counts as zero.
  const sum = (label: string, metrics: readonly IMetric[]) =>
    new MathExpression({
      label,
      period,
      expression: metrics.map((_, index) => `FILL(m${index}, 0)`).join(" + "),
      usingMetrics: Object.fromEntries(metrics.map((metric, index) => [`m${index}`, metric])),
    });

  /** Those that answer people and AWS's events: nothing retries what they drop. */
  const entrances = functionNames.filter((name) => table[name].kind !== "step");
  /** They ask Lambda to call them again by failing; what they give up on waits as a dead letter, and a heartbeat or a schedule asks anyway. */
  const failsByDesign = (name: FunctionName) => name === "complete-node-command" || name === "observe-execution";
  const options = { period, statistic };
  const alarms = [
    ...operationWorkflowNames.map((name) => {
      const machine = workflows[name];
      const ended = [machine.metricFailed(options), machine.metricTimedOut(options), machine.metricAborted(options)];
      return alarm(
        `${workflowTable[name].id}Failed`,
        sum("ended without success", ended),
        `An operation of ${name} ended without success. "drover operations" names it; its failure card says what to type next.`,
      );
    }),
    alarm(
      "DeadLettersWaiting",
      deadLetters.metricApproximateNumberOfMessagesVisible({ period, statistic: "Maximum" }),
      "An event could not be handled. Read the message in drover-dead-letters, repair the cause, and send it again.",
    ),
    alarm(
      "EntrancesFailing",
      sum(
        "errors",
        entrances.filter((name) => !failsByDesign(name)).map((name) => functions[name].metricErrors(options)),
      ),
      "A function that answers the HTTP API or AWS's events failed. Its log group has the reason.",
    ),
    alarm(
      "EntrancesThrottled",
      sum(
        "throttles",
        entrances.map((name) => functions[name].metricThrottles(options)),
      ),
      "Requests or events were throttled by Lambda: the account's concurrency is used up.",
    ),
    alarm(
      "SnapshotsLate",
      worst("LateSnapshots"),
      'The newest proven snapshot of a cluster is older than its schedule allows. "drover list", then "drover status" of each, names it; the dashboard shows it.',
    ),
    alarm(
      "DrillsLate",
      worst("LateDrills"),
      "No snapshot of a cluster was restored to prove it for longer than its file allows, or the last drill did not prove it.",
    ),
    // Nothing else would tell: a clock that stands still fails at nothing.
    alarm(
      "FleetNotSwept",
      functions["sweep-fleet"].metricInvocations({ period: Duration.minutes(15), statistic }),
      "The sweep of the fleet does not run: no backup is started by schedule, and no operation that ended unseen is closed. Look at the schedule drover-sweep.",
      { comparisonOperator: ComparisonOperator.LESS_THAN_THRESHOLD, treatMissingData: TreatMissingData.BREACHING },
    ),
  ];
  if (settings.alarmTopicArn !== undefined) {
    const action = new SnsAction(Topic.fromTopicArn(stack, "AlarmTopic", settings.alarmTopicArn));
    for (const made of alarms) made.addAlarmAction(action);
  }

  const every = (metric: string, statistic: string) =>
    new MathExpression({
      label: "",
      period,
      expression: `SEARCH('{AWS/Lambda,FunctionName} MetricName="${metric}" drover', '${statistic}')`,
      usingMetrics: {},
    });
  /** One line a cluster, where the deployment keeps metrics of each. */
  const ofEach = (metric: MetricName) =>
    new MathExpression({
      label: "",
      period,
      expression: `SEARCH('{${metricNamespace},Cluster} MetricName="${metric}"', 'Maximum')`,
      usingMetrics: {},
    });
  const protection = (metric: MetricName) =>
    new GraphWidget({
      title: metrics[metric].summary,
      width: 8,
      left: [worst(metric, period), ...(settings.clusterMetrics && metrics[metric].cluster ? [ofEach(metric)] : [])],
    });
  new Dashboard(stack, "Dashboard", {
    dashboardName: "drover",
    defaultInterval: Duration.days(1),
    widgets: [
      [
        new TextWidget({
          width: 24,
          height: 2,
          markdown:
            "# Drover\nOperations that ended without success have a failure card: `drover operations`. Functions of steps fail with *NotYet* by design.",
        }),
      ],
      [new AlarmStatusWidget({ title: "Alarms", width: 24, height: 3, alarms })],
      [
        protection("SnapshotAge"),
        protection("DrillAge"),
        new GraphWidget({
          title: "Snapshots and drills that are late, backups that failed",
          width: 8,
          left: [worst("LateSnapshots", period), worst("LateDrills", period), worst("FailedBackups", period)],
        }),
      ],
      workflowNames.map((name) => {
        const machine = workflows[name];
        return new GraphWidget({
          title: name,
          width: 12,
          left: [
            machine.metricStarted(options),
            machine.metricSucceeded(options),
            machine.metricFailed(options),
            machine.metricTimedOut(options),
            machine.metricAborted(options),
          ],
          right: [machine.metricTime({ period, statistic: "p50", label: "time p50" })],
        });
      }),
      [
        new GraphWidget({
          title: "HTTP API",
          width: 8,
          left: [api.metricCount(options), api.metricClientError(options), api.metricServerError(options)],
          right: [api.metricLatency({ period, statistic: "p99" })],
        }),
        new GraphWidget({ title: "Functions: duration p99", width: 8, left: [every("Duration", "p99")] }),
        new GraphWidget({ title: "Functions: errors and throttles", width: 8, left: [every("Errors", statistic), every("Throttles", statistic)] }),
      ],
      [
        new GraphWidget({
          title: "Dead letters",
          width: 8,
          left: [deadLetters.metricApproximateNumberOfMessagesVisible({ period, statistic: "Maximum" })],
        }),
        new GraphWidget({
          title: "Events to functions: failed",
          width: 8,
          left: [new Metric({ namespace: "AWS/Events", metricName: "FailedInvocations", period, statistic })],
        }),
      ],
    ],
  });
  return alarms;
}
