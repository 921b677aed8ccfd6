/**
 * Drover's one stack. It has no VPC: clusters bring the networks their nodes are in.
 *
 * Environment-agnostic: the same template for every account and Region, with nothing looked up while it is made.
 */
import { CfnOutput, Stack, type StackProps } from "aws-cdk-lib";
import type { Construct } from "constructs";
import { acknowledgeFindings } from "./acknowledged-findings.js";
import type { Bundle } from "./bundle.js";
import { makeDocuments } from "./documents.js";
import { makeApi, makeBus, makeRules, makeSweep } from "./entrances.js";
import { makeFunctions } from "./functions.js";
import { makeNodeRole } from "./node-role.js";
import { makeObservability } from "./observability.js";
import type { Settings } from "./settings.js";
import { makeStorage } from "./storage.js";
import { deployedWorkflowName, makeWorkflows, operationWorkflowNames, workflowArn, workflowNames } from "./workflows.js";

export interface DroverStackProps extends StackProps {
  readonly settings: Settings;
  readonly bundles: ReadonlyMap<string, Bundle>;
  /** S3 gateway endpoint of the nodes' network, where presigned addresses are to work only through it. */
  readonly s3EndpointId: string | undefined;
}

export class DroverStack extends Stack {
  constructor(scope: Construct, id: string, { settings, bundles, s3EndpointId, ...props }: DroverStackProps) {
    const description = "Drover: serverless orchestrator for fleets of RKE2 clusters on EC2";
    // CloudFormation takes a template of 1 MB, and white space would be a quarter of this one.
    super(scope, id, { description, suppressTemplateIndentation: true, ...props });

    const storage = makeStorage(this, settings, s3EndpointId);
    const nodes = makeNodeRole(this);
    const documents = makeDocuments(this);
    const bus = makeBus(this, settings);
    const functions = makeFunctions(
      this,
      bundles,
      {
        STATE_BUCKET: storage.stateBucket.bucketName,
        ARTIFACT_BUCKET: storage.artifactBucket.bucketName,
        SNAPSHOT_BUCKET: storage.snapshotBucket.bucketName,
        SECRETS_KEY_ARN: storage.secretsKey.keyArn,
        EVENT_BUS: bus.eventBusName,
        NODE_INSTANCE_PROFILE_ARN: nodes.profile.instanceProfileArn,
        DOCUMENTS: JSON.stringify(documents),
        CLUSTER_METRICS: String(settings.clusterMetrics),
        CREATE_STATE_MACHINE_ARN: workflowArn(this, "create-cluster"),
        DELETE_STATE_MACHINE_ARN: workflowArn(this, "delete-cluster"),
        BACKUP_STATE_MACHINE_ARN: workflowArn(this, "backup-cluster"),
        RESTORE_STATE_MACHINE_ARN: workflowArn(this, "restore-cluster"),
        DRILL_STATE_MACHINE_ARN: workflowArn(this, "drill-restore"),
      },
      {
        stack: this,
        storage,
        nodes,
        busArn: bus.eventBusArn,
        workflows: workflowNames.map(deployedWorkflowName),
        operations: operationWorkflowNames.map(deployedWorkflowName),
      },
      settings,
    );
    const workflows = makeWorkflows(this, functions, storage.stateKey, settings);
    const deadLetters = makeRules(this, bus, functions);
    makeSweep(this, functions);
    const api = makeApi(this, functions, storage.stateKey, settings);
    makeObservability(this, { functions, workflows, deadLetters, api }, settings);

    const outputs: Readonly<Record<string, readonly [value: string, description: string]>> = {
      ApiUrl: [api.apiEndpoint, "Where the drover command sends its requests"],
      StateBucketName: [storage.stateBucket.bucketName, "Records, leases, operations, secrets"],
      ArtifactBucketName: [storage.artifactBucket.bucketName, "RKE2 releases"],
      SnapshotBucketName: [storage.snapshotBucket.bucketName, "etcd snapshots"],
      EventBusName: [bus.eventBusName, "Requests, and what Drover says about clusters"],
      CreateStateMachineArn: [workflows["create-cluster"].stateMachineArn, "Creates a cluster"],
      DeleteStateMachineArn: [workflows["delete-cluster"].stateMachineArn, "Deletes a cluster"],
      BackupStateMachineArn: [workflows["backup-cluster"].stateMachineArn, "Takes a snapshot of a cluster"],
      RestoreStateMachineArn: [workflows["restore-cluster"].stateMachineArn, "Restores a cluster"],
      DrillStateMachineArn: [workflows["drill-restore"].stateMachineArn, "Restores a snapshot on a throw-away server"],
      NodeInstanceProfileArn: [nodes.profile.instanceProfileArn, "What every node runs with"],
      DeadLetterQueueUrl: [deadLetters.queueUrl, "Events that could not be handled"],
    };
    for (const [name, [value, description]] of Object.entries(outputs)) new CfnOutput(this, name, { value, description });

    acknowledgeFindings(this);
  }
}
