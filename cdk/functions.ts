/**
 * The functions: one entry in the table makes a Lambda function, its role and its log group.
 *
 * What it may do is in `permissions.ts`; which environment it gets follows from what its bundle names.
 */
import { Duration, RemovalPolicy, type Stack } from "aws-cdk-lib";
import { PolicyStatement, Role, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Architecture, Code, Function as LambdaFunction, LoggingFormat, Runtime, Tracing } from "aws-cdk-lib/aws-lambda";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import type { Bundle, EnvironmentName } from "./bundle.js";
import { type Deployed, permissions } from "./permissions.js";
import type { Settings } from "./settings.js";

interface FunctionEntry {
  readonly summary: string;
  /** `route`: called by the HTTP API. `event`: called by a rule, asynchronously. `step`: called by a state machine. */
  readonly kind: "route" | "event" | "step";
  /** Longer than the default for its kind, with the reason in a comment. */
  readonly timeoutSeconds?: number;
  readonly memoryMib?: number;
}

/** Files of `functions/`, by name. */
export const functions = {
  api: { kind: "route", summary: "Answers the HTTP API: clusters and operations" },
  artifacts: { kind: "route", summary: "Answers the HTTP API: the artifact store" },
  "read-kubeconfig": { kind: "route", summary: "Answers the HTTP API: a cluster's kubeconfig" },
  snapshots: { kind: "route", summary: "Answers the HTTP API: snapshots, their manifests and their retention" },
  restores: { kind: "route", summary: "Answers the HTTP API: restores, and what they would lose" },
  "admit-event": { kind: "event", summary: "Admits requests from the event bus" },
  "complete-node-command": { kind: "event", summary: "Completes the step that waits for a node command" },
  "observe-execution": { kind: "event", summary: "Closes operations whose execution ended without doing so" },
  // A wave of 1,500 starts, one after another; a sweep that overlaps the next asks for the same under the same names.
  "sweep-fleet": { kind: "event", timeoutSeconds: 600, summary: "Looks at every cluster: closes what ended, measures, starts what is due" },
  "open-operation": { kind: "step", summary: "Takes the cluster's lease" },
  "plan-cluster": { kind: "step", summary: "Resolves version and image, plans the nodes" },
  "create-credentials": { kind: "step", summary: "Creates the cluster's tokens" },
  "create-endpoint": { kind: "step", summary: "Creates security groups, load balancer and target groups" },
  "launch-nodes": { kind: "step", summary: "Launches the nodes that are missing" },
  "await-nodes": { kind: "step", summary: "Gathers nodes that are online" },
  "decide-bootstrap": { kind: "step", summary: "Decides who may bootstrap" },
  "run-node-command": { kind: "step", summary: "Runs one command on a group of nodes" },
  "admit-agents": { kind: "step", summary: "Admits a group of agents at the rate RKE2 bears" },
  "register-server": { kind: "step", summary: "Registers a voting server with the endpoint" },
  "store-kubeconfig": { kind: "step", summary: "Keeps the kubeconfig the first server sent" },
  "await-endpoint": { kind: "step", summary: "Reads the health of the endpoint" },
  "clear-lost-nodes": { kind: "step", summary: "Removes machines that will never come" },
  "close-operation": { kind: "step", summary: "Records the outcome and releases the lease" },
  "prove-snapshot": { kind: "step", summary: "Reads a snapshot back and writes its manifest" },
  "prune-snapshots": { kind: "step", summary: "Removes snapshots that retention does not keep" },
  "record-snapshot-failure": { kind: "step", summary: "Says why a snapshot was not taken" },
  "begin-restore": { kind: "step", summary: "Looks at a snapshot once more, and says which servers stop for it" },
  "find-stale-nodes": { kind: "step", summary: "Finds nodes that a restored cluster remembers and that are gone" },
  "launch-drill": { kind: "step", summary: "Launches a throw-away server, closed off" },
  "judge-drill": { kind: "step", summary: "Compares what a drill restored with what was proven" },
  "end-drill": { kind: "step", summary: "Terminates throw-away servers" },
  "terminate-nodes": { kind: "step", summary: "Terminates the cluster's nodes" },
  "delete-endpoint": { kind: "step", summary: "Deletes the endpoint" },
  "sweep-leftovers": { kind: "step", summary: "Finds what is left by tag" },
} as const satisfies Readonly<Record<string, FunctionEntry>>;
export type FunctionName = keyof typeof functions;
export const functionNames = Object.keys(functions) as FunctionName[];

/**
 * Seconds a call may take. A step's stays below the `TimeoutSeconds` of its state, because a state that times out does not stop the function and a
 * retry would overlap it; the HTTP API gives up after 30.
 */
export const timeoutSeconds: Readonly<Record<FunctionEntry["kind"], number>> = { route: 29, event: 60, step: 50 };
/** CPU comes with memory: half a gigabyte halves the cold start of a quarter, for calls that mostly wait. */
const memoryMib = 512;

export type Functions = Readonly<Record<FunctionName, LambdaFunction>>;

/** What a function is called in an account. */
export function deployedName(name: FunctionName): string {
  return `drover-${name}`;
}

/** What a function is called in the template and in the state machines: `PlanClusterFunction`. */
export function constructId(name: FunctionName): string {
  return `${name.replace(/(^|-)([a-z])/g, (_, __, letter: string) => letter.toUpperCase())}Function`;
}

export function makeFunctions(
  stack: Stack,
  bundles: ReadonlyMap<string, Bundle>,
  environment: Readonly<Record<EnvironmentName, string>>,
  deployed: Deployed,
  settings: Settings,
): Functions {
  const make = (name: FunctionName): LambdaFunction => {
    const entry: FunctionEntry = functions[name];
    const bundle = bundles.get(name);
    if (bundle === undefined) throw new Error(`No bundle of functions/${name}.ts`);
    const id = constructId(name);
    const logGroup = new LogGroup(stack, `${id}Logs`, {
      logGroupName: `/aws/lambda/${deployedName(name)}`,
      encryptionKey: deployed.storage.stateKey,
      retention: settings.logDays,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    // AWSLambdaBasicExecutionRole would let every function write to every log group, so each role names its own.
    const role = new Role(stack, `${id}Role`, { description: `Drover: ${entry.summary}`, assumedBy: new ServicePrincipal("lambda.amazonaws.com") });
    for (const statement of permissions[name](deployed)) role.addToPolicy(new PolicyStatement(statement));
    role.addToPolicy(new PolicyStatement({ actions: ["logs:CreateLogStream", "logs:PutLogEvents"], resources: [logGroup.logGroupArn] }));
    return new LambdaFunction(stack, id, {
      functionName: deployedName(name),
      description: entry.summary,
      runtime: Runtime.NODEJS_22_X,
      architecture: Architecture.ARM_64,
      handler: "index.handler",
      code: Code.fromAsset(bundle.directory),
      role,
      timeout: Duration.seconds(entry.timeoutSeconds ?? timeoutSeconds[entry.kind]),
      memorySize: entry.memoryMib ?? memoryMib,
      loggingFormat: LoggingFormat.JSON,
      logGroup,
      tracing: Tracing.ACTIVE,
      environment: Object.fromEntries(bundle.reads.map((variable) => [variable, environment[variable]])),
    });
  };
  return Object.fromEntries(functionNames.map((name) => [name, make(name)])) as unknown as Functions;
}
