/**
 * The state machines: the definitions of `statemachines/`, with the functions they name filled in.
 *
 * A definition's placeholders say what it uses: `${PlanClusterFunction}` is the ARN of `functions/plan-cluster.ts`, and the machine's role may invoke
 * that function because it is named there, and no other.
 */
import { RemovalPolicy, type Stack } from "aws-cdk-lib";
import { PolicyStatement } from "aws-cdk-lib/aws-iam";
import type { Key } from "aws-cdk-lib/aws-kms";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import { DefinitionBody, LogLevel, StateMachine, StateMachineType } from "aws-cdk-lib/aws-stepfunctions";
import { constructId, type Functions, functionNames } from "./functions.js";
import type { Settings } from "./settings.js";
import { readSource } from "./sources.js";

/** Files of `statemachines/`, by name; deployed as `drover-<name>`. Those without an environment variable are started by another one alone. */
export const workflows = {
  "create-cluster": { id: "CreateCluster", environment: "CREATE_STATE_MACHINE_ARN" },
  "delete-cluster": { id: "DeleteCluster", environment: "DELETE_STATE_MACHINE_ARN" },
  "backup-cluster": { id: "BackupCluster", environment: "BACKUP_STATE_MACHINE_ARN" },
  "restore-cluster": { id: "RestoreCluster", environment: "RESTORE_STATE_MACHINE_ARN" },
  "drill-restore": { id: "DrillRestore", environment: "DRILL_STATE_MACHINE_ARN" },
  "take-snapshot": { id: "TakeSnapshot", environment: undefined },
  "start-agent-group": { id: "StartAgentGroup", environment: undefined },
} as const;
export type WorkflowName = keyof typeof workflows;
export const workflowNames = Object.keys(workflows) as WorkflowName[];
/** Those that are an operation's own execution: the others run within one, which says how it all ended. */
export const operationWorkflowNames = workflowNames.filter((name) => workflows[name].environment !== undefined);

export function deployedWorkflowName(name: WorkflowName): string {
  return `drover-${name}`;
}

/** ARN of a state machine from its name alone: functions know it before the machine exists. */
export function workflowArn(stack: Stack, name: WorkflowName): string {
  return `arn:${stack.partition}:states:${stack.region}:${stack.account}:stateMachine:${deployedWorkflowName(name)}`;
}

export type Workflows = Readonly<Record<WorkflowName, StateMachine>>;

/** Names between `${` and `}` in a definition, each once, in alphabetical order. */
export function placeholdersOf(definition: string): string[] {
  return [...new Set([...definition.matchAll(/\$\{([^}]*)\}/g)].map((match) => match[1] as string))].sort();
}

/** What `.sync` needs of a child: start it, read and stop its executions, and the rule through which Step Functions hears of their ends. */
function startsAndAwaits(stack: Stack, child: WorkflowName): PolicyStatement[] {
  const arn = workflowArn(stack, child);
  const rule = "StepFunctionsGetEventsForStepFunctionsExecutionRule";
  return [
    new PolicyStatement({ actions: ["states:StartExecution"], resources: [arn] }),
    new PolicyStatement({
      actions: ["states:DescribeExecution", "states:StopExecution"],
      resources: [`${arn.replace(":stateMachine:", ":execution:")}:*`],
    }),
    new PolicyStatement({
      actions: ["events:PutTargets", "events:PutRule", "events:DescribeRule"],
      resources: [`arn:${stack.partition}:events:${stack.region}:${stack.account}:rule/${rule}`],
    }),
  ];
}

export function makeWorkflows(stack: Stack, functions: Functions, key: Key, settings: Settings): Workflows {
  const byPlaceholder = new Map(functionNames.map((name) => [constructId(name), functions[name]]));

  const make = (name: WorkflowName): StateMachine => {
    const source = `statemachines/${name}.asl.json`;
    // Parsed and written again: white space is a fifth of the file, and a fault shows here instead of at deployment.
    const definition = JSON.stringify(JSON.parse(readSource(source)));
    const placeholders = placeholdersOf(definition);
    const children = workflowNames.filter((other) => placeholders.includes(`${workflows[other].id}StateMachine`));
    const childIds = children.map((child) => `${workflows[child].id}StateMachine`);
    const used = placeholders
      .filter((placeholder) => !childIds.includes(placeholder))
      .map((placeholder) => {
        const used = byPlaceholder.get(placeholder);
        if (used === undefined) throw new Error(`${source} names \${${placeholder}}, but no function of that name is in cdk/functions.ts`);
        return [placeholder, used] as const;
      });
    const { id } = workflows[name];
    const machine = new StateMachine(stack, `${id}StateMachine`, {
      stateMachineName: deployedWorkflowName(name),
      stateMachineType: StateMachineType.STANDARD,
      definitionBody: DefinitionBody.fromString(definition),
      definitionSubstitutions: Object.fromEntries([
        ...used.map(([placeholder, made]) => [placeholder, made.functionArn]),
        ...children.map((child) => [`${workflows[child].id}StateMachine`, workflowArn(stack, child)]),
      ]),
      tracingEnabled: true,
      logs: {
        destination: new LogGroup(stack, `${id}StateMachineLogs`, {
          // With this prefix the log group needs no entry in the account's one, size-limited resource policy (Step Functions developer guide).
          logGroupName: `/aws/vendedlogs/states/${deployedWorkflowName(name)}`,
          encryptionKey: key,
          retention: settings.logDays,
          removalPolicy: RemovalPolicy.DESTROY,
        }),
        level: LogLevel.ALL,
        // Payloads carry references only, but those of waiting steps also carry the task token, which lets its holder answer for a node.
        // Who needs the data reads the execution's history, under its own permission.
        includeExecutionData: false,
      },
    });
    machine.addToRolePolicy(new PolicyStatement({ actions: ["lambda:InvokeFunction"], resources: used.map(([, made]) => made.functionArn) }));
    for (const child of children) for (const statement of startsAndAwaits(stack, child)) machine.addToRolePolicy(statement);
    return machine;
  };
  return Object.fromEntries(workflowNames.map((name) => [name, make(name)])) as unknown as Workflows;
}
