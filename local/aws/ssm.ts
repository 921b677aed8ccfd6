/**
 * Systems Manager of the local cloud: managed instances, Run Command, and the public parameters that name images.
 *
 * Unkind where Systems Manager is: SendCommand has no token and runs twice when sent twice, a command is invisible for a moment after it was sent,
 * its two timeouts add up, a machine that dies leaves its invocation in progress until both are over, the ping of a dead machine stays `Online` for
 * minutes, and of a long output only the head is kept.
 */
import { createHash } from "node:crypto";
import type {
  CancelCommandRequest,
  CancelCommandResult,
  Command,
  CommandFilter,
  CommandInvocation,
  DescribeInstanceInformationRequest,
  DescribeInstanceInformationResult,
  GetCommandInvocationRequest,
  GetCommandInvocationResult,
  GetParameterRequest,
  GetParameterResult,
  GetParametersRequest,
  GetParametersResult,
  InstanceInformation,
  ListCommandInvocationsRequest,
  ListCommandInvocationsResult,
  ListCommandsRequest,
  ListCommandsResult,
  Parameter,
  SendCommandRequest,
  SendCommandResult,
} from "@aws-sdk/client-ssm";
import { AwsError, type Operation, type Permission, type Service, type Timer, Unmodelled, type World } from "../kernel/contract.js";
import type { DocumentContent, DocumentEnd, NodeDriver, Platform, RunningDocument } from "../nodes/contract.js";
import { type Ec2, fixtureImages, type InstanceFacts, type InstanceListener } from "./ec2.js";
import { allow, arn, fields, Ids, page, resourceTagContext } from "./requests.js";

export interface Ssm extends Service, InstanceListener {
  readonly name: "ssm";
  /** Documents come from the template at each start, so they are not part of the kept state. */
  addDocument(document: { readonly name: string; readonly content: DocumentContent; readonly tags?: Readonly<Record<string, string>> }): void;
  addParameter(parameter: { readonly name: string; readonly value: string; readonly type?: "String" | "StringList" }): void;
  /** Commands sent so far, the oldest first, with the instances each reached: for checks and timelines. */
  history(): readonly {
    readonly commandId: string;
    readonly documentName: string;
    readonly instanceIds: readonly string[];
    readonly sentAtMs: number;
  }[];
}

/** What the template says, where the world was booted from one. */
interface FromTemplate {
  readonly template?: {
    readonly documents: readonly { readonly name: string; readonly documentType: string; readonly content: unknown }[];
    readonly parameters: readonly { readonly name: string; readonly value: string }[];
  };
}

interface ManagedInstance {
  readonly id: string;
  readonly order: number;
  readonly platform: Platform;
  readonly address: string;
  readonly registeredAtMs: number;
  lostAtMs?: number;
  /** When the missing pings are noticed. */
  connectionLostAtMs?: number;
}

type InvocationStatus = "Pending" | "InProgress" | "Success" | "Failed" | "TimedOut" | "Cancelling" | "Cancelled";
/** Without spaces; `details` puts them in where AWS writes them. */
type StatusDetails =
  | "Pending"
  | "InProgress"
  | "Success"
  | "Failed"
  | "DeliveryTimedOut"
  | "ExecutionTimedOut"
  | "Cancelling"
  | "Cancelled"
  | "Terminated"
  | "Incomplete";

interface InvocationRecord {
  readonly instanceId: string;
  readonly commandId: string;
  status: InvocationStatus;
  details: StatusDetails;
  dispatched: boolean;
  startedAtMs?: number;
  endedAtMs?: number;
  exitCode: number;
  stdout: string;
  stderr: string;
}

interface CommandRecord {
  readonly id: string;
  readonly order: number;
  readonly documentName: string;
  readonly stepName: string;
  readonly stepAction: string;
  readonly comment: string;
  readonly parameters: Record<string, string[]>;
  readonly timeoutSeconds: number;
  readonly executionSeconds: number;
  readonly maxConcurrency: string;
  readonly maxErrors: string;
  readonly requestedAtMs: number;
  /** Before this the command is in no answer but that of SendCommand. */
  readonly visibleAtMs: number;
  readonly invocations: Map<string, InvocationRecord>;
  status: InvocationStatus;
  details: StatusDetails;
  cancelled: boolean;
}

interface State {
  idSeed: string;
  idsGiven: number;
  order: number;
  managed: Map<string, ManagedInstance>;
  commands: Map<string, CommandRecord>;
}

const seconds = 1000;
const day = 86_400 * seconds;
/** How long the history of commands is kept (Systems Manager quotas, Run Command). */
const historyDays = 30;
/** Document content and parameter values together (SSM API reference, SendCommand). */
const commandBytes = 65_536;
const headOfOutput = { list: 2500, stdout: 24_000, stderr: 8_000 } as const;
const over = new Set<InvocationStatus>(["Success", "Failed", "TimedOut", "Cancelled"]);

export function createSsm(world: World & FromTemplate): Ssm {
  const random = world.random.fork("ssm");
  let idSource = new Ids(random.hex(16));
  let state: State = { idSeed: idSource.seed, idsGiven: 0, order: 0, managed: new Map(), commands: new Map() };
  const documents = new Map<string, { readonly content: DocumentContent; readonly text: string; readonly tags: Readonly<Record<string, string>> }>();
  const parameters = new Map<string, Parameter>();
  /** What runs now; a dead machine's runs stay until their time is over. */
  const open = new Map<string, Set<InvocationRecord>>();
  const running = new Map<InvocationRecord, { readonly document: RunningDocument; readonly limit: Timer }>();

  const now = () => world.clock.now();
  const ec2 = () => world.service<Ec2>("ec2");
  const nodes = () => world.service<NodeDriver>("nodes");
  const documentArn = (name: string) => arn(world, "ssm", `document/${name}`);
  const instanceArn = (id: string) => arn(world, "ec2", `instance/${id}`);

  // ------------------------------------------------------- managed instances

  function instanceRunning(instance: InstanceFacts): void {
    // Without a profile the agent has no credentials, and a machine about to die never gets that far.
    if (instance.profileArn === undefined || instance.doomed) return;
    const usual = random.latency(instance.platform === "ubuntu" ? "runningToSsmOnlineUbuntu" : "runningToSsmOnline");
    const late = world.faults.strike("lateOnline", instance.id) ? 120 + random.next() * 180 : 0;
    const register = () => {
      if (ec2().instance(instance.id)?.life !== "running") return;
      state.managed.set(instance.id, {
        id: instance.id,
        order: ++state.order,
        platform: instance.platform,
        address: instance.address,
        registeredAtMs: now(),
      });
    };
    const online = nodes().online?.(instance.id);
    if (online === undefined) world.clock.after(Math.max(usual, late) * seconds, register);
    else void online.then(() => world.clock.after(late * seconds, register));
  }

  function instanceLost(instance: InstanceFacts): void {
    const managed = state.managed.get(instance.id);
    if (managed === undefined) return;
    managed.lostAtMs = now();
    // Pings come every five minutes, so a death is noticed late and never at once.
    managed.connectionLostAtMs = now() + (120 + random.next() * 210) * seconds;
    for (const invocation of open.get(instance.id) ?? []) {
      running.get(invocation)?.limit.cancel();
      running.delete(invocation);
      expire(invocation);
    }
  }

  /** A node that will not answer any more: seen only when the delivery and the execution timeout are both over. */
  function expire(invocation: InvocationRecord): void {
    const command = commandById(invocation.commandId);
    const endsAtMs = command.requestedAtMs + (command.timeoutSeconds + command.executionSeconds) * seconds;
    world.clock.after(Math.max(0, endsAtMs - now()), () => finish(invocation, "TimedOut", "DeliveryTimedOut"));
  }

  function isAlive(id: string): boolean {
    const managed = state.managed.get(id);
    return managed !== undefined && managed.lostAtMs === undefined;
  }

  function describeManaged(managed: ManagedInstance): InstanceInformation {
    const lost = managed.connectionLostAtMs !== undefined && managed.connectionLostAtMs <= now();
    const lastPing = lost || managed.lostAtMs !== undefined ? (managed.lostAtMs as number) : now();
    const ubuntu = managed.platform === "ubuntu";
    return {
      InstanceId: managed.id,
      PingStatus: lost ? "ConnectionLost" : "Online",
      LastPingDateTime: new Date(lastPing),
      AgentVersion: "3.3.3050.0",
      IsLatestVersion: true,
      PlatformType: "Linux",
      PlatformName: ubuntu ? "Ubuntu" : "Amazon Linux",
      PlatformVersion: ubuntu ? "24.04" : "2023",
      ResourceType: "EC2Instance",
      IPAddress: managed.address,
      ComputerName: `ip-${managed.address.replaceAll(".", "-")}.${world.region}.compute.internal`,
      RegistrationDate: new Date(managed.registeredAtMs),
    };
  }

  function describeInstanceInformation(input: DescribeInstanceInformationRequest): DescribeInstanceInformationResult {
    const asked = [
      ...(input.Filters ?? []).map((filter) => ({ key: filter.Key ?? "", values: filter.Values ?? [] })),
      ...(input.InstanceInformationFilterList ?? []).map((filter) => ({ key: filter.key ?? "", values: filter.valueSet ?? [] })),
    ];
    if (input.Filters !== undefined && input.InstanceInformationFilterList !== undefined) {
      throw new AwsError("ValidationException", "Filters and InstanceInformationFilterList cannot be used together");
    }
    for (const { key, values } of asked) {
      if (values.length < 1 || values.length > 100)
        throw new AwsError("InvalidFilterValue", `Filter ${key} takes 1 to 100 values, not ${values.length}`);
    }
    const size = pageSize(input.MaxResults, 5, 50) ?? 10;
    // The narrowest way in: by id or by tag, else all.
    const byId = asked.find(({ key }) => key === "InstanceIds");
    const byTag = asked.find(({ key }) => key.startsWith("tag:"));
    const ids = byId?.values ?? (byTag === undefined ? [...state.managed.keys()] : ec2().instancesTagged(byTag.key.slice(4), byTag.values));
    const found = [...new Set(ids)]
      .map((id) => state.managed.get(id))
      .filter((managed) => managed !== undefined && ec2().instance(managed.id) !== undefined)
      .filter((managed) => asked.every((filter) => passesFilter(managed as ManagedInstance, filter)))
      .sort((a, b) => (a as ManagedInstance).order - (b as ManagedInstance).order) as ManagedInstance[];
    const shown = page(found, (managed) => managed.order, { size, token: input.NextToken, badToken: "InvalidNextToken" });
    return { InstanceInformationList: shown.items.map(describeManaged), ...(shown.nextToken === undefined ? {} : { NextToken: shown.nextToken }) };
  }

  function passesFilter(managed: ManagedInstance, filter: { readonly key: string; readonly values: readonly string[] }): boolean {
    const tags = () => ec2().instance(managed.id)?.tags ?? {};
    if (filter.key.startsWith("tag:")) return filter.values.includes(tags()[filter.key.slice(4)] ?? "");
    switch (filter.key) {
      case "InstanceIds":
        return filter.values.includes(managed.id);
      case "PingStatus":
        return filter.values.includes(describeManaged(managed).PingStatus as string);
      case "PlatformTypes":
        return filter.values.includes("Linux");
      case "ResourceType":
        return filter.values.includes("EC2Instance") || filter.values.includes("AWS::EC2::Instance");
      case "tag-key":
        return Object.keys(tags()).some((key) => filter.values.includes(key));
      default:
        throw new Unmodelled(`DescribeInstanceInformation filter ${filter.key}`);
    }
  }

  // ------------------------------------------------------------- SendCommand

  function sendCommand(input: SendCommandRequest): SendCommandResult {
    const document = documents.get(input.DocumentName ?? "");
    if (document === undefined) throw new AwsError("InvalidDocument", `Document with name ${input.DocumentName ?? ""} does not exist.`);
    if (!["1", "$DEFAULT", "$LATEST", undefined].includes(input.DocumentVersion)) {
      throw new AwsError("InvalidDocumentVersion", `Document version ${input.DocumentVersion} of ${input.DocumentName} does not exist.`);
    }
    if (input.DocumentHash !== undefined) {
      if (input.DocumentHashType !== "Sha256") throw new Unmodelled(`document hash type ${input.DocumentHashType}`);
      const hash = createHash("sha256").update(document.text).digest("hex");
      if (input.DocumentHash !== hash) throw new AwsError("InvalidDocument", "The document hash does not match the document's content.");
    }
    const ids = input.InstanceIds ?? [];
    if (ids.length === 0) throw new AwsError("InvalidInstanceId", "No instance ids: targets are not given either.");
    if (ids.length > 50)
      throw new AwsError(
        "ValidationException",
        "1 validation error detected: Value at 'instanceIds' failed to satisfy constraint: Member must have length less than or equal to 50",
      );
    if (new Set(ids).size < ids.length) throw new AwsError("DuplicateInstanceId", "You can't specify an instance ID in more than one association.");
    if ((input.Comment ?? "").length > 100)
      throw new AwsError(
        "ValidationException",
        "1 validation error detected: Value at 'comment' failed to satisfy constraint: Member must have length less than or equal to 100",
      );
    const timeoutSeconds = input.TimeoutSeconds ?? 3600;
    if (!(timeoutSeconds >= 30 && timeoutSeconds <= 2_592_000)) {
      throw new AwsError(
        "ValidationException",
        "1 validation error detected: Value at 'timeoutSeconds' failed to satisfy constraint: Member must have value between 30 and 2592000",
      );
    }
    const maxConcurrency = checkShare(input.MaxConcurrency ?? "50", "maxConcurrency", 1);
    const maxErrors = checkShare(input.MaxErrors ?? "0", "maxErrors", 0);
    const given = (input.Parameters ?? {}) as Record<string, string[]>;
    const values = checkParameters(document.content, given);
    const bytes =
      Buffer.byteLength(document.text) +
      Object.values(given)
        .flat()
        .reduce((sum, value) => sum + Buffer.byteLength(value), 0);
    if (bytes > commandBytes) throw new AwsError("MaxDocumentSizeExceeded", "The size limit of a document is 64 KB, its parameter values included.");
    // Last, as it depends on the world and not on the request: instances that are not registered, or on their way out.
    const unknown = ids.filter((id) => !isRegistered(id));
    if (unknown.length > 0)
      throw new AwsError("InvalidInstanceId", `Instances [[${unknown.join(", ")}]] not in a valid state for account ${world.account}`);

    const [step] = document.content.mainSteps as [DocumentContent["mainSteps"][number]];
    const at = now();
    const id = idSource.uuid("command");
    const command: CommandRecord = {
      id,
      order: ++state.order,
      documentName: input.DocumentName as string,
      stepName: step.name,
      stepAction: step.action,
      comment: input.Comment ?? "",
      parameters: Object.fromEntries(Object.entries(given).map(([name, list]) => [name, [...list]])),
      timeoutSeconds,
      executionSeconds: executionSeconds(document.content, values),
      maxConcurrency,
      maxErrors,
      requestedAtMs: at,
      visibleAtMs: at + (random.chance(0.5) ? random.next() * 1.2 * seconds : 0),
      invocations: new Map(
        ids.map((instanceId) => [
          instanceId,
          { instanceId, commandId: id, status: "Pending", details: "Pending", dispatched: false, exitCode: -1, stdout: "", stderr: "" },
        ]),
      ),
      status: "Pending",
      details: "Pending",
      cancelled: false,
    };
    state.commands.set(id, command);
    forgetOld();
    dispatch(command);
    return { Command: describeCommand(command) };
  }

  function isRegistered(id: string): boolean {
    const life = ec2().instance(id)?.life;
    return state.managed.has(id) && (life === "running" || life === "pending");
  }

  function checkParameters(content: DocumentContent, given: Readonly<Record<string, string[]>>): Record<string, string> {
    const known = content.parameters ?? {};
    const refuse = (text: string): never => {
      throw new AwsError("InvalidParameters", text);
    };
    for (const name of Object.keys(given)) {
      if (known[name] === undefined) refuse(`document does not support parameters (${name})`);
    }
    const values: Record<string, string> = {};
    for (const [name, parameter] of Object.entries(known)) {
      const list = given[name];
      if (list === undefined) {
        if (parameter.default === undefined) refuse(`parameter ${name} is required`);
        values[name] = String(parameter.default);
        continue;
      }
      if (parameter.type !== "String") throw new Unmodelled(`document parameter type ${parameter.type}`);
      const [value, ...more] = list;
      if (value === undefined || more.length > 0) refuse(`parameter ${name} of type String takes exactly one value`);
      const text = value as string;
      if (parameter.allowedValues !== undefined && !parameter.allowedValues.includes(text))
        refuse(`parameter value for ${name} is not one of the allowed values`);
      if (parameter.allowedPattern !== undefined && !new RegExp(parameter.allowedPattern).test(text))
        refuse(`parameter value for ${name} does not match the allowed pattern`);
      if (text.length > (parameter.maxChars ?? Number.POSITIVE_INFINITY))
        refuse(`parameter value for ${name} is longer than ${parameter.maxChars} characters`);
      if (text.length < (parameter.minChars ?? 0)) refuse(`parameter value for ${name} is shorter than ${parameter.minChars} characters`);
      values[name] = text;
    }
    return values;
  }

  // -------------------------------------------------------------- life cycle

  /** Sends to as many instances as may run at once, and to no further one when too many have failed. */
  function dispatch(command: CommandRecord): void {
    const all = [...command.invocations.values()];
    if (command.cancelled) return;
    const failed = all.filter((each) => each.status === "Failed" || each.details === "ExecutionTimedOut").length;
    const waiting = all.filter((each) => !each.dispatched && !over.has(each.status));
    if (waiting.length > 0 && failed > shareOf(command.maxErrors, all.length)) {
      for (const invocation of waiting) finish(invocation, "Cancelled", "Terminated");
      return;
    }
    let room = Math.max(1, shareOf(command.maxConcurrency, all.length)) - all.filter((each) => each.dispatched && !over.has(each.status)).length;
    for (const invocation of waiting) {
      if (room-- <= 0) break;
      invocation.dispatched = true;
      const here = open.get(invocation.instanceId);
      if (here === undefined) open.set(invocation.instanceId, new Set([invocation]));
      else here.add(invocation);
      world.clock.after(random.latency("sendCommandToStart") * seconds, () => deliver(command, invocation));
    }
  }

  function deliver(command: CommandRecord, invocation: InvocationRecord): void {
    if (over.has(invocation.status)) return;
    if (!isAlive(invocation.instanceId)) return; // `instanceLost` has set its end.
    invocation.status = "InProgress";
    invocation.details = "InProgress";
    invocation.startedAtMs = now();
    const content = (documents.get(command.documentName) as { content: DocumentContent }).content;
    const document = nodes().run({
      commandId: command.id,
      instanceId: invocation.instanceId,
      documentName: command.documentName,
      content,
      parameters: checkParameters(content, command.parameters),
    });
    const limit = world.clock.after(command.executionSeconds * seconds, () => {
      if (over.has(invocation.status)) return;
      document.kill();
      finish(invocation, "TimedOut", "ExecutionTimedOut");
    });
    running.set(invocation, { document, limit });
    document.ended.then(
      (end) => {
        if (over.has(invocation.status) || invocation.status === "Cancelling") return;
        finish(invocation, end.exitCode === 0 ? "Success" : "Failed", end.exitCode === 0 ? "Success" : "Failed", end);
      },
      // What the driver cannot do is no answer of a node: it ends the world.
      (error: unknown) =>
        void world.clock.after(0, () => {
          throw error;
        }),
    );
    announceInvocation(command, invocation);
    settle(command);
  }

  function finish(invocation: InvocationRecord, status: InvocationStatus, details: StatusDetails, end?: DocumentEnd): void {
    if (over.has(invocation.status)) return;
    const command = commandById(invocation.commandId);
    invocation.status = status;
    invocation.details = details;
    invocation.endedAtMs = now();
    if (end !== undefined) {
      invocation.exitCode = end.exitCode;
      invocation.stdout = end.stdout.slice(0, headOfOutput.stdout);
      invocation.stderr = end.stderr.slice(0, headOfOutput.stderr);
    }
    running.get(invocation)?.limit.cancel();
    running.delete(invocation);
    const here = open.get(invocation.instanceId);
    here?.delete(invocation);
    if (here?.size === 0) open.delete(invocation.instanceId);
    announceInvocation(command, invocation);
    dispatch(command);
    settle(command);
  }

  /** The command's own status, from those of its invocations. */
  function settle(command: CommandRecord): void {
    if (over.has(command.status)) return;
    const all = [...command.invocations.values()];
    const [status, details] = commandStatus(command, all);
    if (status === command.status) return;
    command.status = status;
    command.details = details;
    announceCommand(command);
  }

  function commandStatus(command: CommandRecord, all: readonly InvocationRecord[]): [InvocationStatus, StatusDetails] {
    if (all.some((each) => !over.has(each.status))) {
      if (command.cancelled) return ["Cancelling", "Cancelling"];
      return all.some((each) => each.status !== "Pending") ? ["InProgress", "InProgress"] : ["Pending", "Pending"];
    }
    const count = (details: StatusDetails) => all.filter((each) => each.details === details).length;
    const limit = shareOf(command.maxErrors, all.length);
    if (count("Cancelled") > 0) return ["Cancelled", "Cancelled"];
    if (count("Success") === all.length) return ["Success", "Success"];
    if (count("Failed") > 0 && count("Failed") + count("ExecutionTimedOut") > limit) return ["Failed", "Failed"];
    if (count("ExecutionTimedOut") > limit) return ["TimedOut", "ExecutionTimedOut"];
    if (count("DeliveryTimedOut") > limit) return ["TimedOut", "DeliveryTimedOut"];
    return ["Success", "Incomplete"];
  }

  function cancelCommand(input: CancelCommandRequest): CancelCommandResult {
    const command = visibleCommand(input.CommandId);
    const wanted = input.InstanceIds ?? [];
    const unknown = wanted.filter((id) => !command.invocations.has(id));
    if (unknown.length > 0) throw new AwsError("InvalidInstanceId", `The command was not sent to ${unknown.join(", ")}`);
    command.cancelled = wanted.length === 0;
    for (const invocation of command.invocations.values()) {
      if (over.has(invocation.status) || (wanted.length > 0 && !wanted.includes(invocation.instanceId))) continue;
      const run = running.get(invocation);
      if (run === undefined) {
        // A dead machine cannot confirm: its invocation goes on until the timeouts are over.
        if (invocation.status === "Pending" && (!invocation.dispatched || isAlive(invocation.instanceId)))
          finish(invocation, "Cancelled", "Cancelled");
        continue;
      }
      invocation.status = "Cancelling";
      invocation.details = "Cancelling";
      world.clock.after((0.5 + random.next() * 2) * seconds, () => {
        if (over.has(invocation.status) || !isAlive(invocation.instanceId)) return;
        run.document.kill();
        finish(invocation, "Cancelled", "Cancelled");
      });
    }
    settle(command);
    return {};
  }

  // ------------------------------------------------------------------ events

  function announceInvocation(command: CommandRecord, invocation: InvocationRecord): void {
    const status = invocation.status;
    world.clock.after(random.latency("commandEndToEvent") * seconds, () =>
      world.publish({
        source: "aws.ssm",
        detailType: "EC2 Command Invocation Status-change Notification",
        detail: {
          "command-id": command.id,
          "document-name": command.documentName,
          "instance-id": invocation.instanceId,
          "requested-date-time": new Date(command.requestedAtMs).toISOString(),
          status,
        },
        resources: [instanceArn(invocation.instanceId)],
      }),
    );
  }

  /** Repeats the parameters in clear, as AWS does: whatever is secret in them is so no more. */
  function announceCommand(command: CommandRecord): void {
    const status = command.status;
    world.clock.after(random.latency("commandEndToEvent") * seconds, () =>
      world.publish({
        source: "aws.ssm",
        detailType: "EC2 Command Status-change Notification",
        detail: {
          "command-id": command.id,
          "document-name": command.documentName,
          "expire-after": new Date(expiresAtMs(command)).toISOString(),
          parameters: command.parameters,
          "requested-date-time": new Date(command.requestedAtMs).toISOString(),
          status,
        },
        resources: [...command.invocations.keys()].map(instanceArn),
      }),
    );
  }

  // -------------------------------------------------------------- describing

  const expiresAtMs = (command: CommandRecord) => command.requestedAtMs + (command.timeoutSeconds + command.executionSeconds) * seconds;

  function commandById(id: string): CommandRecord {
    return state.commands.get(id) as CommandRecord;
  }

  function visibleCommand(id: string | undefined): CommandRecord {
    const command = state.commands.get(id ?? "");
    if (command === undefined || command.visibleAtMs > now()) throw new AwsError("InvalidCommandId", `The command id ${id ?? ""} does not exist.`);
    return command;
  }

  function forgetOld(): void {
    for (const [id, command] of state.commands) {
      if (command.requestedAtMs + historyDays * day > now()) break;
      state.commands.delete(id);
    }
  }

  function describeCommand(command: CommandRecord): Command {
    const all = [...command.invocations.values()];
    return {
      CommandId: command.id,
      DocumentName: command.documentName,
      DocumentVersion: "1",
      Comment: command.comment,
      ExpiresAfter: new Date(expiresAtMs(command)),
      Parameters: command.parameters,
      InstanceIds: [...command.invocations.keys()],
      Targets: [],
      RequestedDateTime: new Date(command.requestedAtMs),
      Status: command.status,
      StatusDetails: command.details,
      OutputS3BucketName: "",
      OutputS3KeyPrefix: "",
      MaxConcurrency: command.maxConcurrency,
      MaxErrors: command.maxErrors,
      TargetCount: all.length,
      CompletedCount: all.filter((each) => over.has(each.status)).length,
      ErrorCount: all.filter((each) => each.details === "Failed" || each.details === "ExecutionTimedOut").length,
      DeliveryTimedOutCount: all.filter((each) => each.details === "DeliveryTimedOut").length,
      TimeoutSeconds: command.timeoutSeconds,
    };
  }

  function listCommands(input: ListCommandsRequest): ListCommandsResult {
    const at = now();
    const found = [...state.commands.values()]
      .filter(
        (command) =>
          command.visibleAtMs <= at &&
          (input.CommandId === undefined || command.id === input.CommandId) &&
          (input.InstanceId === undefined || command.invocations.has(input.InstanceId)) &&
          (input.Filters ?? []).every((filter) => passesCommandFilter(command, command.status, filter)),
      )
      .reverse();
    const size = pageSize(input.MaxResults, 1, 50) ?? 50;
    const shown = page(found, (command) => -command.order, { size, token: input.NextToken, badToken: "InvalidNextToken" });
    return { Commands: shown.items.map(describeCommand), ...(shown.nextToken === undefined ? {} : { NextToken: shown.nextToken }) };
  }

  function passesCommandFilter(command: CommandRecord, status: InvocationStatus, filter: CommandFilter): boolean {
    const value = filter.value ?? "";
    switch (filter.key) {
      case "InvokedAfter":
        return command.requestedAtMs > instant(value);
      case "InvokedBefore":
        return command.requestedAtMs < instant(value);
      case "Status":
        return status === value;
      case "ExecutionStage":
        return over.has(status) === (value === "Complete");
      case "DocumentName":
        return command.documentName === value;
      default:
        throw new AwsError("InvalidFilterKey", `The specified key ${filter.key} is not valid.`);
    }
  }

  function listCommandInvocations(input: ListCommandInvocationsRequest): ListCommandInvocationsResult {
    const at = now();
    const commands =
      input.CommandId === undefined
        ? [...state.commands.values()].reverse()
        : [state.commands.get(input.CommandId)].filter((each) => each !== undefined);
    if (input.CommandId !== undefined && commands.length === 0)
      throw new AwsError("InvalidCommandId", `The command id ${input.CommandId} does not exist.`);
    const found: { command: CommandRecord; invocation: InvocationRecord; order: number }[] = [];
    let order = 0;
    for (const command of commands) {
      for (const invocation of command.invocations.values()) {
        order++;
        if (command.visibleAtMs > at || (input.InstanceId !== undefined && invocation.instanceId !== input.InstanceId)) continue;
        if ((input.Filters ?? []).every((filter) => passesCommandFilter(command, invocation.status, filter)))
          found.push({ command, invocation, order });
      }
    }
    const size = pageSize(input.MaxResults, 1, 50) ?? 50;
    const shown = page(found, (each) => each.order, { size, token: input.NextToken, badToken: "InvalidNextToken" });
    return {
      CommandInvocations: shown.items.map(({ command, invocation }) => describeInvocation(command, invocation, input.Details === true)),
      ...(shown.nextToken === undefined ? {} : { NextToken: shown.nextToken }),
    };
  }

  function describeInvocation(command: CommandRecord, invocation: InvocationRecord, withPlugins: boolean): CommandInvocation {
    const ended = invocation.endedAtMs !== undefined;
    const output = invocation.stderr === "" ? invocation.stdout : `${invocation.stdout}\n----------ERROR-------\n${invocation.stderr}`;
    return {
      CommandId: command.id,
      InstanceId: invocation.instanceId,
      InstanceName: "",
      Comment: command.comment,
      DocumentName: command.documentName,
      DocumentVersion: "1",
      RequestedDateTime: new Date(command.requestedAtMs),
      Status: invocation.status,
      StatusDetails: invocation.details,
      CommandPlugins: withPlugins
        ? [
            {
              Name: command.stepName,
              Status: invocation.status === "Cancelling" ? "InProgress" : invocation.status,
              StatusDetails: invocation.details,
              ResponseCode: invocation.exitCode,
              ...(invocation.startedAtMs === undefined ? {} : { ResponseStartDateTime: new Date(invocation.startedAtMs) }),
              ...(ended ? { ResponseFinishDateTime: new Date(invocation.endedAtMs as number) } : {}),
              Output: ended ? output.slice(0, headOfOutput.list) : "",
              StandardOutputUrl: "",
              StandardErrorUrl: "",
              OutputS3BucketName: "",
              OutputS3KeyPrefix: "",
            },
          ]
        : [],
      StandardOutputUrl: "",
      StandardErrorUrl: "",
    };
  }

  function getCommandInvocation(input: GetCommandInvocationRequest): GetCommandInvocationResult {
    const command = state.commands.get(input.CommandId ?? "");
    const invocation = command?.invocations.get(input.InstanceId ?? "");
    if (command === undefined || invocation === undefined || command.visibleAtMs > now()) throw new AwsError("InvocationDoesNotExist", "");
    if (input.PluginName !== undefined && input.PluginName !== command.stepName)
      throw new AwsError("InvalidPluginName", "The plugin name isn't valid.");
    const ended = invocation.endedAtMs !== undefined;
    const started = invocation.startedAtMs;
    return {
      CommandId: command.id,
      InstanceId: invocation.instanceId,
      Comment: command.comment,
      DocumentName: command.documentName,
      DocumentVersion: "1",
      PluginName: command.stepName,
      ResponseCode: invocation.exitCode,
      ExecutionStartDateTime: started === undefined ? "" : new Date(started).toISOString(),
      ExecutionEndDateTime: ended ? new Date(invocation.endedAtMs as number).toISOString() : "",
      ExecutionElapsedTime: ended && started !== undefined ? `PT${((invocation.endedAtMs as number) - started) / 1000}S` : "",
      Status: invocation.status,
      StatusDetails: invocation.details.replace(/([a-z])([A-Z])/g, "$1 $2"),
      StandardOutputContent: ended ? invocation.stdout : "",
      StandardOutputUrl: "",
      StandardErrorContent: ended ? invocation.stderr : "",
      StandardErrorUrl: "",
    };
  }

  // -------------------------------------------------------------- parameters

  function parameterArn(name: string): string {
    const account = name.startsWith("/aws/service/") ? "" : world.account;
    return `arn:${world.partition}:ssm:${world.region}:${account}:parameter${name.startsWith("/") ? "" : "/"}${name}`;
  }

  function addParameter(parameter: { readonly name: string; readonly value: string; readonly type?: "String" | "StringList" }): void {
    parameters.set(parameter.name, {
      Name: parameter.name,
      Type: parameter.type ?? "String",
      Value: parameter.value,
      Version: 1,
      ARN: parameterArn(parameter.name),
      DataType: parameter.name.startsWith("/aws/service/") ? "aws:ec2:image" : "text",
      LastModifiedDate: new Date(now()),
    });
  }

  function addDocument(document: {
    readonly name: string;
    readonly content: DocumentContent;
    readonly tags?: Readonly<Record<string, string>>;
  }): void {
    const { name, content } = document;
    if (content.schemaVersion !== "2.2") throw new Unmodelled(`document ${name} has schema ${content.schemaVersion}; Run Command takes 2.2 here`);
    if (content.mainSteps.length !== 1) throw new Unmodelled(`document ${name} has ${content.mainSteps.length} steps: one is modelled`);
    const [step] = content.mainSteps;
    if (step?.action !== "aws:runShellScript") throw new Unmodelled(`document ${name} has a step of action ${step?.action}`);
    for (const [key, parameter] of Object.entries(content.parameters ?? {})) {
      const pattern = parameter.allowedPattern;
      if (pattern !== undefined && !(pattern.startsWith("^") && pattern.endsWith("$"))) {
        throw new Unmodelled(`document ${name} lets anything around the allowed pattern of ${key}: anchor it with ^ and $`);
      }
    }
    const text = JSON.stringify(content);
    if (Buffer.byteLength(text) > commandBytes) throw new AwsError("MaxDocumentSizeExceeded", `document ${name} is larger than 64 KB`);
    documents.set(name, { content, text, tags: document.tags ?? {} });
  }

  for (const image of fixtureImages) addParameter({ name: image.parameter, value: image.id });
  for (const document of world.template?.documents ?? []) addDocument({ name: document.name, content: document.content as DocumentContent });
  for (const parameter of world.template?.parameters ?? []) addParameter(parameter);

  // -------------------------------------------------------------- operations

  function operation<Input, Output>(
    name: string,
    parts: {
      readonly fields: readonly string[];
      readonly mutates?: boolean;
      readonly milliseconds?: number;
      readonly permissions?: (input: Input) => readonly Permission[];
      readonly call: (input: Input) => Output;
    },
  ): Operation<Input, Output> {
    return {
      fields: parts.fields,
      mutates: parts.mutates ?? false,
      latency: { milliseconds: parts.milliseconds ?? 90 },
      permissions: parts.permissions ?? (() => allow(`ssm:${name}`)),
      call: (input) => parts.call(input),
    };
  }

  const commandFilterFields = ["CommandId", "InstanceId", "MaxResults", "NextToken", "Filters.key", "Filters.value"];
  const operations = {
    DescribeInstanceInformation: operation<DescribeInstanceInformationRequest, DescribeInstanceInformationResult>("DescribeInstanceInformation", {
      fields: fields(
        "Filters.Key",
        "Filters.Values",
        "InstanceInformationFilterList.key",
        "InstanceInformationFilterList.valueSet",
        "MaxResults",
        "NextToken",
      ),
      call: describeInstanceInformation,
    }),
    SendCommand: operation<SendCommandRequest, SendCommandResult>("SendCommand", {
      fields: fields(
        "DocumentName",
        "DocumentVersion",
        "DocumentHash",
        "DocumentHashType",
        "InstanceIds",
        "Parameters",
        "Comment",
        "TimeoutSeconds",
        "MaxConcurrency",
        "MaxErrors",
      ),
      mutates: true,
      milliseconds: 180,
      permissions: (input) => [
        ...allow(
          "ssm:SendCommand",
          [documentArn(input.DocumentName ?? "")],
          resourceTagContext("ssm", documents.get(input.DocumentName ?? "")?.tags ?? {}),
        ),
        ...(input.InstanceIds ?? []).flatMap((id) =>
          allow("ssm:SendCommand", [instanceArn(id)], resourceTagContext("ssm", ec2().instance(id)?.tags ?? {})),
        ),
      ],
      call: sendCommand,
    }),
    CancelCommand: operation<CancelCommandRequest, CancelCommandResult>("CancelCommand", {
      fields: fields("CommandId", "InstanceIds"),
      mutates: true,
      call: cancelCommand,
    }),
    ListCommands: operation<ListCommandsRequest, ListCommandsResult>("ListCommands", { fields: fields(...commandFilterFields), call: listCommands }),
    ListCommandInvocations: operation<ListCommandInvocationsRequest, ListCommandInvocationsResult>("ListCommandInvocations", {
      fields: fields("Details", ...commandFilterFields),
      call: listCommandInvocations,
    }),
    GetCommandInvocation: operation<GetCommandInvocationRequest, GetCommandInvocationResult>("GetCommandInvocation", {
      fields: fields("CommandId", "InstanceId", "PluginName"),
      call: getCommandInvocation,
    }),
    GetParameter: operation<GetParameterRequest, GetParameterResult>("GetParameter", {
      fields: fields("Name", "WithDecryption"),
      permissions: (input) => allow("ssm:GetParameter", [parameterArn(input.Name ?? "")]),
      call: (input) => {
        const found = parameters.get(input.Name ?? "");
        if (found === undefined) throw new AwsError("ParameterNotFound", "");
        return { Parameter: found };
      },
    }),
    GetParameters: operation<GetParametersRequest, GetParametersResult>("GetParameters", {
      fields: fields("Names", "WithDecryption"),
      permissions: (input) => allow("ssm:GetParameters", (input.Names ?? []).map(parameterArn)),
      call: (input) => {
        const names = [...new Set(input.Names ?? [])];
        if (names.length < 1 || names.length > 10)
          throw new AwsError("ValidationException", "Value at 'names' failed to satisfy constraint: Member must have length between 1 and 10");
        return {
          Parameters: names.map((name) => parameters.get(name)).filter((found) => found !== undefined),
          InvalidParameters: names.filter((name) => !parameters.has(name)),
        };
      },
    }),
  };

  return {
    name: "ssm",
    operations,
    throttle: { code: "ThrottlingException", httpStatus: 400 },
    save: () => structuredClone({ ...state, idsGiven: idSource.given }),
    load(saved) {
      state = structuredClone(saved) as State;
      idSource = new Ids(state.idSeed, state.idsGiven);
      open.clear();
      running.clear();
    },
    instanceRunning,
    instanceLost,
    addDocument,
    addParameter,
    history: () =>
      [...state.commands.values()].map((command) => ({
        commandId: command.id,
        documentName: command.documentName,
        instanceIds: [...command.invocations.keys()],
        sentAtMs: command.requestedAtMs,
      })),
  };
}

/** Seconds the script may run: its step's `timeoutSeconds`, which may name a parameter. 3,600 when nothing is said (aws:runShellScript). */
function executionSeconds(content: DocumentContent, values: Readonly<Record<string, string>>): number {
  const given = content.mainSteps[0]?.inputs?.["timeoutSeconds"] ?? 3600;
  const text = String(given).replace(/^\{\{\s*(\w+)\s*\}\}$/, (_, name: string) => values[name] ?? "");
  const limit = Number(text);
  if (!(limit >= 5 && limit <= 172_800)) throw new Unmodelled(`timeoutSeconds ${JSON.stringify(given)} of a document`);
  return limit;
}

/** A count, or a percentage of the targets. */
function shareOf(value: string, targets: number): number {
  return value.endsWith("%") ? Math.ceil((Number(value.slice(0, -1)) / 100) * targets) : Number(value);
}

function checkShare(value: string, name: string, least: number): string {
  const [, count, percent] = /^(?:(\d{1,7})|(\d{1,3})%)$/.exec(value) ?? [];
  const number = Number(count ?? percent);
  if (!(number >= least && (percent === undefined || number <= 100))) {
    throw new AwsError("ValidationException", `1 validation error detected: Value '${value}' at '${name}' failed to satisfy constraint`);
  }
  return value;
}

function instant(text: string): number {
  const at = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(at)) throw new AwsError("ValidationException", `The filter value ${text} is not a time such as 2026-11-22T20:00:00Z`);
  return at;
}

function pageSize(asked: number | undefined, least: number, most: number): number | undefined {
  if (asked !== undefined && !(asked >= least && asked <= most)) {
    throw new AwsError(
      "ValidationException",
      `1 validation error detected: Value '${asked}' at 'maxResults' failed to satisfy constraint: between ${least} and ${most}`,
    );
  }
  return asked;
}
