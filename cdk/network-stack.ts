/**
 * A network for nodes, for those who have none: private subnets in three zones, endpoints for Systems Manager and S3, and no way to the internet.
 *
 * Optional. Clusters in networks of their own need the same endpoints, or another way to reach those services.
 */
import { CfnOutput, CrossStackReferences, Fn, ReferenceStrength, RemovalPolicy, Stack, type StackProps } from "aws-cdk-lib";
import {
  FlowLogDestination,
  FlowLogTrafficType,
  GatewayVpcEndpoint,
  GatewayVpcEndpointAwsService,
  InterfaceVpcEndpoint,
  InterfaceVpcEndpointAwsService,
  IpAddresses,
  type IVpc,
  Peer,
  Port,
  SecurityGroup,
  SubnetType,
  Vpc,
} from "aws-cdk-lib/aws-ec2";
import { AnyPrincipal, PolicyStatement } from "aws-cdk-lib/aws-iam";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import type { Construct } from "constructs";
import { acknowledgeNetworkFindings } from "./acknowledged-findings.js";
import type { Settings } from "./settings.js";

/** Four thousand addresses a zone; outside RKE2's default cluster and service networks, 10.42.0.0/16 and 10.43.0.0/16. */
const cidr = "10.64.0.0/16";
const subnetMask = 20;
const zones = [0, 1, 2];

export class NetworkStack extends Stack {
  readonly s3EndpointId: string;

  constructor(scope: Construct, id: string, { settings, ...props }: StackProps & { readonly settings: Settings }) {
    super(scope, id, { description: "Drover: a private network for nodes", ...props });

    // The class says `undefined` where its interface says absent.
    const vpc = new Vpc(this, "Vpc", {
      ipAddresses: IpAddresses.cidr(cidr),
      // Zones are taken by number: a template for every Region cannot know their names, and three are wanted where CDK would assume two.
      availabilityZones: zones.map((zone) => Fn.select(zone, Fn.getAzs())),
      subnetConfiguration: [{ name: "nodes", subnetType: SubnetType.PRIVATE_ISOLATED, cidrMask: subnetMask }],
      // Emptying the default security group takes a custom resource with rights on it; nothing here uses that group.
      restrictDefaultSecurityGroup: false,
    }) as IVpc;
    vpc.addFlowLog("Rejected", {
      destination: FlowLogDestination.toCloudWatchLogs(
        new LogGroup(this, "FlowLogs", { retention: settings.logDays, removalPolicy: RemovalPolicy.DESTROY }),
      ),
      trafficType: FlowLogTrafficType.REJECT,
    });

    const endpoints = new SecurityGroup(this, "EndpointSecurityGroup", {
      vpc,
      description: "HTTPS from nodes to the service endpoints",
      allowAllOutbound: false,
    });
    endpoints.addIngressRule(Peer.ipv4(cidr), Port.tcp(443), "HTTPS from nodes");
    // ec2messages is not among them: current agents speak ssmmessages only (Systems Manager user guide, "VPC endpoints").
    for (const [name, service] of [
      ["Ssm", InterfaceVpcEndpointAwsService.SSM],
      ["SsmMessages", InterfaceVpcEndpointAwsService.SSM_MESSAGES],
    ] as const) {
      const endpoint = new InterfaceVpcEndpoint(this, `${name}Endpoint`, { vpc, service, securityGroups: [endpoints], open: false });
      endpoint.addToPolicy(
        new PolicyStatement({
          principals: [new AnyPrincipal()],
          actions: [`${name.toLowerCase()}:*`],
          resources: ["*"],
          conditions: { StringEquals: { "aws:PrincipalAccount": this.account } },
        }),
      );
    }

    const s3 = new GatewayVpcEndpoint(this, "S3Endpoint", { vpc, service: GatewayVpcEndpointAwsService.S3 });
    s3.addToPolicy(
      new PolicyStatement({
        sid: "BucketsOfThisAccount",
        principals: [new AnyPrincipal()],
        actions: ["s3:GetObject", "s3:PutObject"],
        resources: ["*"],
        // Not the buckets' ARNs: they deny what does not come through this endpoint, and cannot both know each other first.
        conditions: { StringEquals: { "aws:ResourceAccount": this.account } },
      }),
    );
    s3.addToPolicy(
      new PolicyStatement({
        sid: "AgentUpdates",
        principals: [new AnyPrincipal()],
        actions: ["s3:GetObject"],
        // Buckets of AWS that the agent reads (Systems Manager user guide, "SSM Agent communications with AWS managed S3 buckets").
        resources: [`amazon-ssm-${this.region}`, `amazon-ssm-packages-${this.region}`, `aws-ssm-${this.region}`].map(
          (bucket) => `arn:${this.partition}:s3:::${bucket}/*`,
        ),
      }),
    );
    this.s3EndpointId = s3.vpcEndpointId;
    // The buckets answer only through this endpoint: it must not go while they name it.
    CrossStackReferences.of(s3).produce(ReferenceStrength.STRONG);

    new CfnOutput(this, "VpcId", { value: vpc.vpcId, description: "spec.network.vpcId of a cluster file" });
    new CfnOutput(this, "SubnetIds", {
      value: Fn.join(
        ",",
        vpc.isolatedSubnets.map((subnet) => subnet.subnetId),
      ),
      description: "spec.network.subnetIds",
    });
    new CfnOutput(this, "S3EndpointId", { value: this.s3EndpointId, description: "The only way presigned addresses work" });

    acknowledgeNetworkFindings(this);
  }
}
