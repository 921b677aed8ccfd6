import { Readable } from "node:stream";
import { DescribeInstancesCommand, EC2Client, RunInstancesCommand } from "@aws-sdk/client-ec2";
import {
  CreateTargetGroupCommand,
  DescribeLoadBalancersCommand,
  DescribeTargetHealthCommand,
  ElasticLoadBalancingV2Client,
  LoadBalancerNotFoundException,
} from "@aws-sdk/client-elastic-load-balancing-v2";
import { EventBridgeClient, PutEventsCommand } from "@aws-sdk/client-eventbridge";
import { DecryptCommand, EncryptCommand, InvalidCiphertextException, KMSClient } from "@aws-sdk/client-kms";
import {
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  ListPartsCommand,
  NoSuchKey,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { DescribeExecutionCommand, ExecutionAlreadyExists, GetExecutionHistoryCommand, SFNClient, StartExecutionCommand } from "@aws-sdk/client-sfn";
import { ListCommandInvocationsCommand, SendCommandCommand, SSMClient } from "@aws-sdk/client-ssm";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { describe, expect, it } from "vitest";
import { AwsError, Unmodelled } from "../../local/kernel/contract.js";
import type { Decoded, WireRequest } from "../../local/kernel/protocols.js";
import { credentialOf, decode, encodeError, encodeOutput, s3Address } from "../../local/kernel/protocols.js";

const now = Date.UTC(2026, 0, 5, 2, 3, 4);

/** An SDK client's way out: what it sends is decoded, what `answer` gives is encoded for it. */
function wire(answer: (decoded: Decoded) => unknown) {
  const seen: Decoded[] = [];
  const headers: Record<string, string>[] = [];
  const requestHandler = {
    handle: async (request: {
      method: string;
      hostname: string;
      path: string;
      query?: Record<string, string | string[] | null>;
      headers: Record<string, string>;
      body?: unknown;
    }) => {
      const query = Object.entries(request.query ?? {}).flatMap(([name, value]) =>
        (Array.isArray(value) ? value : [value]).map((each) => (each === null ? name : `${encodeURIComponent(name)}=${encodeURIComponent(each)}`)),
      );
      const chunks: Buffer[] = [];
      if (request.body instanceof Readable) for await (const chunk of request.body) chunks.push(Buffer.from(chunk));
      else if (request.body instanceof Uint8Array) chunks.push(Buffer.from(request.body.buffer, request.body.byteOffset, request.body.byteLength));
      else if (typeof request.body === "string") chunks.push(Buffer.from(request.body));
      const arrived: WireRequest = {
        method: request.method,
        host: request.hostname,
        path: request.path + (query.length === 0 ? "" : `?${query.join("&")}`),
        headers: Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name.toLowerCase(), value])),
        body: Buffer.concat(chunks),
      };
      const decoded = decode(arrived);
      seen.push(decoded);
      const context = { requestId: "11111111-2222-3333-4444-555555555555", now, method: request.method };
      let response: ReturnType<typeof encodeOutput>;
      try {
        response = encodeOutput(decoded.operation, answer(decoded), context);
      } catch (error) {
        if (!(error instanceof AwsError)) throw error;
        response = encodeError(decoded.service, error, context);
      }
      headers.push({ ...response.headers });
      return { response: { statusCode: response.status, headers: { ...response.headers }, body: Readable.from([Buffer.from(response.body)]) } };
    },
  };
  const options = {
    region: "eu-central-1",
    credentials: { accessKeyId: "AKIATEST", secretAccessKey: "secret" },
    maxAttempts: 1,
    requestHandler,
  };
  return { options, seen, headers };
}

const refuse = (code: string, message: string, status = 400, detail = {}) => {
  throw new AwsError(code, message, status, detail);
};

describe("the EC2 query protocol", () => {
  it("reads nested lists, structures and idempotency tokens as the caller gave them", async () => {
    const { options, seen } = wire(() => ({ ReservationId: "r-1", Instances: [] }));
    await new EC2Client(options).send(
      new RunInstancesCommand({
        ImageId: "ami-1",
        MinCount: 1,
        MaxCount: 3,
        ClientToken: "token-7",
        SecurityGroupIds: ["sg-1", "sg-2"],
        EbsOptimized: true,
        MetadataOptions: { HttpTokens: "required", HttpPutResponseHopLimit: 1 },
        BlockDeviceMappings: [{ DeviceName: "/dev/xvda", Ebs: { VolumeSize: 40, Encrypted: true } }],
        TagSpecifications: [
          {
            ResourceType: "instance",
            Tags: [
              { Key: "drover:cluster", Value: "a b&c=d+é" },
              { Key: "x", Value: "" },
            ],
          },
        ],
        IamInstanceProfile: { Arn: "arn:aws:iam::1:instance-profile/p" },
      }),
    );
    expect(seen[0]?.service).toBe("ec2");
    expect(seen[0]?.input).toEqual({
      ImageId: "ami-1",
      MinCount: 1,
      MaxCount: 3,
      ClientToken: "token-7",
      SecurityGroupIds: ["sg-1", "sg-2"],
      EbsOptimized: true,
      MetadataOptions: { HttpTokens: "required", HttpPutResponseHopLimit: 1 },
      BlockDeviceMappings: [{ DeviceName: "/dev/xvda", Ebs: { VolumeSize: 40, Encrypted: true } }],
      TagSpecifications: [
        {
          ResourceType: "instance",
          Tags: [
            { Key: "drover:cluster", Value: "a b&c=d+é" },
            { Key: "x", Value: "" },
          ],
        },
      ],
      IamInstanceProfile: { Arn: "arn:aws:iam::1:instance-profile/p" },
    });
  });

  it("keeps the order of more than nine list members", async () => {
    const { options, seen } = wire(() => ({}));
    const ids = Array.from({ length: 12 }, (_, index) => `i-${index}`);
    await new EC2Client(options).send(new DescribeInstancesCommand({ InstanceIds: ids, Filters: [{ Name: "tag:a", Values: ["1", "2"] }] }));
    expect(seen[0]?.input).toEqual({ InstanceIds: ids, Filters: [{ Name: "tag:a", Values: ["1", "2"] }] });
  });

  it("gives the client its typed output, with times, numbers, booleans and a page token", async () => {
    const launched = new Date(now);
    const output = {
      NextToken: "more<&>",
      Reservations: [
        {
          ReservationId: "r-1",
          Instances: [
            {
              InstanceId: "i-1",
              AmiLaunchIndex: 0,
              EbsOptimized: false,
              LaunchTime: launched,
              State: { Code: 16, Name: "running" as const },
              Tags: [{ Key: "a", Value: "1" }],
            },
          ],
        },
        { ReservationId: "r-2", Instances: [] },
      ],
    };
    const { options } = wire(() => output);
    const { $metadata, ...answer } = await new EC2Client(options).send(new DescribeInstancesCommand({}));
    expect(answer).toEqual(output);
    expect($metadata.httpStatusCode).toBe(200);
  });

  it("gives the client errors by their code", async () => {
    const { options } = wire(() => refuse("InsufficientInstanceCapacity", "no room in eu-central-1a", 500));
    await expect(new EC2Client(options).send(new RunInstancesCommand({ MinCount: 1, MaxCount: 1 }))).rejects.toMatchObject({
      name: "InsufficientInstanceCapacity",
      message: "no room in eu-central-1a",
      $metadata: { httpStatusCode: 500 },
    });
  });
});

describe("the query protocol of the load balancers", () => {
  it("reads lists of structures and numbers", async () => {
    const { options, seen } = wire(() => ({ TargetGroups: [] }));
    await new ElasticLoadBalancingV2Client(options).send(
      new CreateTargetGroupCommand({ Name: "tg", Port: 9345, Protocol: "TCP", Tags: [{ Key: "a", Value: "1" }], Matcher: { HttpCode: "200" } }),
    );
    expect(seen[0]?.input).toEqual({ Name: "tg", Port: 9345, Protocol: "TCP", Tags: [{ Key: "a", Value: "1" }], Matcher: { HttpCode: "200" } });
  });

  it("gives the client its typed output", async () => {
    const output = {
      TargetHealthDescriptions: [
        { Target: { Id: "i-1", Port: 6443 }, TargetHealth: { State: "unhealthy" as const, Reason: "Target.Timeout" as const } },
      ],
    };
    const { options } = wire(() => output);
    const answer = await new ElasticLoadBalancingV2Client(options).send(new DescribeTargetHealthCommand({ TargetGroupArn: "arn" }));
    expect(answer).toMatchObject(output);
  });

  it("gives the client modelled errors as their exception, though the code on the wire is another", async () => {
    const { options } = wire(() => refuse("LoadBalancerNotFoundException", "not found"));
    const failed = new ElasticLoadBalancingV2Client(options).send(new DescribeLoadBalancersCommand({ Names: ["x"] }));
    await expect(failed).rejects.toBeInstanceOf(LoadBalancerNotFoundException);
    await expect(failed).rejects.toMatchObject({ name: "LoadBalancerNotFoundException", message: "not found" });
  });

  it("gives the client errors that are not modelled", async () => {
    const { options } = wire(() => refuse("Throttling", "Rate exceeded"));
    await expect(new ElasticLoadBalancingV2Client(options).send(new DescribeLoadBalancersCommand({}))).rejects.toMatchObject({ name: "Throttling" });
  });
});

describe("the JSON protocols", () => {
  it("carry a Run Command there and back, times as epoch seconds", async () => {
    const at = new Date(now + 250);
    const { options, seen } = wire(() => ({
      NextToken: "next",
      CommandInvocations: [
        { CommandId: "c", InstanceId: "i-1", RequestedDateTime: at, Status: "Success", CommandPlugins: [{ Name: "p", ResponseCode: 0 }] },
      ],
    }));
    const ssm = new SSMClient(options);
    const answer = await ssm.send(new ListCommandInvocationsCommand({ CommandId: "c", Details: true, MaxResults: 50 }));
    expect(seen[0]?.input).toEqual({ CommandId: "c", Details: true, MaxResults: 50 });
    expect(answer.NextToken).toBe("next");
    expect(answer.CommandInvocations).toEqual([
      { CommandId: "c", InstanceId: "i-1", RequestedDateTime: at, Status: "Success", CommandPlugins: [{ Name: "p", ResponseCode: 0 }] },
    ]);
  });

  it("carry maps of lists", async () => {
    const { options, seen } = wire(() => ({ Command: { CommandId: "c" } }));
    await new SSMClient(options).send(
      new SendCommandCommand({ DocumentName: "d", InstanceIds: ["i-1"], Parameters: { role: ["server"], urls: ["a", "b"] } }),
    );
    expect(seen[0]?.input).toEqual({ DocumentName: "d", InstanceIds: ["i-1"], Parameters: { role: ["server"], urls: ["a", "b"] } });
  });

  it("carry bytes", async () => {
    const { options, seen } = wire(({ input }) => ({ KeyId: "k", CiphertextBlob: Buffer.from(input.Plaintext as Uint8Array).reverse() }));
    const answer = await new KMSClient(options).send(
      new EncryptCommand({ KeyId: "k", Plaintext: new Uint8Array([0, 127, 255]), EncryptionContext: { cluster: "prod" } }),
    );
    expect(Buffer.from(seen[0]?.input.Plaintext as Uint8Array)).toEqual(Buffer.from([0, 127, 255]));
    expect(seen[0]?.input.EncryptionContext).toEqual({ cluster: "prod" });
    expect(Buffer.from(answer.CiphertextBlob as Uint8Array)).toEqual(Buffer.from([255, 127, 0]));
  });

  it("carry events with the entries that failed", async () => {
    const output = { FailedEntryCount: 1, Entries: [{ EventId: "e" }, { ErrorCode: "ThrottlingException", ErrorMessage: "slow" }] };
    const { options, seen } = wire(() => output);
    const time = new Date(now);
    const answer = await new EventBridgeClient(options).send(
      new PutEventsCommand({
        Entries: [{ Source: "drover", DetailType: "Cluster Ready", Detail: "{}", EventBusName: "drover", Time: time, Resources: ["r"] }],
      }),
    );
    expect(seen[0]?.input).toEqual({
      Entries: [{ Source: "drover", DetailType: "Cluster Ready", Detail: "{}", EventBusName: "drover", Time: time, Resources: ["r"] }],
    });
    expect(answer).toMatchObject(output);
  });

  it("carry executions and their history", async () => {
    const startDate = new Date(now);
    const history = wire(() => ({ events: [{ id: 1, type: "ExecutionStarted", timestamp: startDate, previousEventId: 0 }], nextToken: "n" }));
    const answer = await new SFNClient(history.options).send(new GetExecutionHistoryCommand({ executionArn: "arn", reverseOrder: true }));
    expect(history.seen[0]?.input).toEqual({ executionArn: "arn", reverseOrder: true });
    expect(answer.events).toEqual([{ id: 1, type: "ExecutionStarted", timestamp: startDate, previousEventId: 0 }]);

    const described = wire(() => ({ executionArn: "arn", stateMachineArn: "m", status: "RUNNING", startDate, input: '{"secret":1}' }));
    expect(await new SFNClient(described.options).send(new DescribeExecutionCommand({ executionArn: "arn" }))).toMatchObject({
      status: "RUNNING",
      startDate,
    });
  });

  it("give the client modelled errors as their exception", async () => {
    const sfn = new SFNClient(wire(() => refuse("ExecutionAlreadyExists", "exists already")).options);
    const failed = sfn.send(new StartExecutionCommand({ stateMachineArn: "m", name: "n" }));
    await expect(failed).rejects.toBeInstanceOf(ExecutionAlreadyExists);
    await expect(failed).rejects.toMatchObject({ name: "ExecutionAlreadyExists", message: "exists already" });
    const kms = new KMSClient(wire(() => refuse("InvalidCiphertextException", "no")).options);
    await expect(kms.send(new DecryptCommand({ CiphertextBlob: new Uint8Array([1]) }))).rejects.toBeInstanceOf(InvalidCiphertextException);
  });

  it("give the client errors that are not modelled", async () => {
    const ssm = new SSMClient(wire(() => refuse("ThrottlingException", "Rate exceeded")).options);
    await expect(ssm.send(new SendCommandCommand({ DocumentName: "d" }))).rejects.toMatchObject({
      name: "ThrottlingException",
      message: "Rate exceeded",
    });
  });

  it("refuse an answer with a member that AWS's API does not have", async () => {
    const ssm = new SSMClient(wire(() => ({ Command: { CommandIdentifier: "c" } })).options);
    await expect(ssm.send(new SendCommandCommand({ DocumentName: "d" }))).rejects.toThrow(
      'SendCommand.Command: the answer has no member "CommandIdentifier" in AWS\'s API',
    );
  });
});

describe("the REST protocol of S3", () => {
  const bucket = "state";

  it.each(["text", Buffer.from([0, 1, 255]), Readable.from([Buffer.from("a stream "), Buffer.from("in chunks")])])(
    "carries a body, whatever it was given as (%#)",
    async (body) => {
      const expected = Buffer.isBuffer(body) ? body : typeof body === "string" ? Buffer.from(body) : Buffer.from("a stream in chunks");
      const { options, seen } = wire(() => ({ ETag: '"e"', VersionId: "v1" }));
      const answer = await new S3Client(options).send(
        new PutObjectCommand({
          Bucket: bucket,
          Key: "clusters/prod/a b+c~é.json",
          Body: body,
          ContentLength: expected.byteLength,
          IfNoneMatch: "*",
          Metadata: { owner: "drover" },
          ContentType: "application/json",
          ServerSideEncryption: "aws:kms",
        }),
      );
      const input = seen[0]?.input;
      expect(Buffer.from(input?.Body as Uint8Array)).toEqual(expected);
      expect(input).toMatchObject({
        Bucket: bucket,
        Key: "clusters/prod/a b+c~é.json",
        IfNoneMatch: "*",
        Metadata: { owner: "drover" },
        ContentType: "application/json",
        ServerSideEncryption: "aws:kms",
      });
      expect(input?.ContentEncoding).toBeUndefined();
      expect(input?.ChecksumCRC32).toMatch(/^[A-Za-z0-9+/]{6}==$/);
      expect(answer).toMatchObject({ ETag: '"e"', VersionId: "v1" });
    },
  );

  it.each([true, false])("finds the bucket in the host or in the path (path style %s)", async (forcePathStyle) => {
    const { options, seen } = wire(() => ({ Body: Buffer.from("content"), LastModified: new Date(now), Metadata: { a: "1" }, ETag: '"e"' }));
    const answer = await new S3Client({ ...options, forcePathStyle }).send(
      new GetObjectCommand({ Bucket: bucket, Key: "a/b c", Range: "bytes=0-6" }),
    );
    expect(seen[0]?.operation.name).toBe("GetObject");
    expect(seen[0]?.input).toMatchObject({ Bucket: bucket, Key: "a/b c", Range: "bytes=0-6" });
    expect(await answer.Body?.transformToString()).toBe("content");
    expect(answer).toMatchObject({ LastModified: new Date(now), Metadata: { a: "1" }, ETag: '"e"' });
  });

  it("tells apart operations that share a method and a path", async () => {
    const { options, seen } = wire(({ operation }) =>
      operation.name === "CreateMultipartUpload"
        ? { Bucket: bucket, Key: "k", UploadId: "u" }
        : operation.name === "CopyObject"
          ? { CopyObjectResult: { ETag: '"c"' } }
          : {},
    );
    const s3 = new S3Client(options);
    const upload = await s3.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key: "k" }));
    expect(upload.UploadId).toBe("u");
    await s3.send(new UploadPartCommand({ Bucket: bucket, Key: "k", UploadId: "u", PartNumber: 2, Body: "part" }));
    await s3.send(new ListPartsCommand({ Bucket: bucket, Key: "k", UploadId: "u" }));
    await s3.send(
      new CompleteMultipartUploadCommand({
        Bucket: bucket,
        Key: "k",
        UploadId: "u",
        MultipartUpload: {
          Parts: [
            { PartNumber: 1, ETag: '"1"' },
            { PartNumber: 2, ETag: '"2"' },
          ],
        },
      }),
    );
    const copy = await s3.send(new CopyObjectCommand({ Bucket: bucket, Key: "k", CopySource: "other/k" }));
    expect(copy.CopyObjectResult?.ETag).toBe('"c"');
    await s3.send(new DeleteObjectCommand({ Bucket: bucket, Key: "k", VersionId: "v" }));
    await s3.send(new ListObjectVersionsCommand({ Bucket: bucket, Prefix: "p" }));
    expect(seen.map(({ operation }) => operation.name)).toEqual([
      "CreateMultipartUpload",
      "UploadPart",
      "ListParts",
      "CompleteMultipartUpload",
      "CopyObject",
      "DeleteObject",
      "ListObjectVersions",
    ]);
    expect(seen[1]?.input).toMatchObject({ UploadId: "u", PartNumber: 2 });
    expect(seen[3]?.input).toMatchObject({
      MultipartUpload: {
        Parts: [
          { PartNumber: 1, ETag: '"1"' },
          { PartNumber: 2, ETag: '"2"' },
        ],
      },
    });
    expect(seen[5]?.input).toMatchObject({ VersionId: "v" });
  });

  it("reads XML bodies, entities and all", async () => {
    const { options, seen } = wire(() => ({ Deleted: [{ Key: "a<&>" }], Errors: [{ Key: "b", Code: "AccessDenied" }] }));
    const answer = await new S3Client(options).send(
      new DeleteObjectsCommand({ Bucket: bucket, Delete: { Quiet: false, Objects: [{ Key: "a<&>" }, { Key: "b", VersionId: "1" }] } }),
    );
    expect(seen[0]?.input.Delete).toEqual({ Quiet: false, Objects: [{ Key: "a<&>" }, { Key: "b", VersionId: "1" }] });
    expect(answer).toMatchObject({ Deleted: [{ Key: "a<&>" }], Errors: [{ Key: "b", Code: "AccessDenied" }] });
  });

  it("writes lists of a page, flat as S3 has them", async () => {
    const output = {
      Name: bucket,
      IsTruncated: true,
      NextContinuationToken: "t=/+",
      KeyCount: 2,
      Contents: [
        { Key: "a", Size: 3, LastModified: new Date(now), ETag: '"1"' },
        { Key: "b\n", Size: 0, LastModified: new Date(now), ETag: '"2"' },
      ],
      CommonPrefixes: [{ Prefix: "clusters/" }],
    };
    const { options, seen } = wire(() => output);
    const answer = await new S3Client(options).send(
      new ListObjectsV2Command({ Bucket: bucket, Prefix: "", Delimiter: "/", ContinuationToken: "t=/+" }),
    );
    expect(seen[0]?.input).toMatchObject({ Bucket: bucket, Delimiter: "/", ContinuationToken: "t=/+" });
    expect(answer).toMatchObject(output);
  });

  it("gives the client its errors, with a body and without", async () => {
    const missing = new S3Client(wire(() => refuse("NoSuchKey", "The specified key does not exist.", 404, { Key: "k" })).options);
    await expect(missing.send(new GetObjectCommand({ Bucket: bucket, Key: "k" }))).rejects.toBeInstanceOf(NoSuchKey);
    await expect(missing.send(new HeadObjectCommand({ Bucket: bucket, Key: "k" }))).rejects.toMatchObject({ name: "NotFound" });
    const raced = new S3Client(
      wire(() => refuse("PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412)).options,
    );
    await expect(raced.send(new PutObjectCommand({ Bucket: bucket, Key: "k", Body: "", IfMatch: '"e"' }))).rejects.toMatchObject({
      name: "PreconditionFailed",
      $metadata: { httpStatusCode: 412 },
    });
  });

  it("tells a HEAD's length without a body", async () => {
    const { options } = wire(() => ({ ContentLength: 870_000_000, ETag: '"e"', ChecksumSHA256: "c2hhMjU2" }));
    const answer = await new S3Client(options).send(new HeadObjectCommand({ Bucket: bucket, Key: "k", ChecksumMode: "ENABLED" }));
    expect(answer).toMatchObject({ ContentLength: 870_000_000, ETag: '"e"', ChecksumSHA256: "c2hhMjU2" });
  });

  it("knows who signed a presigned URL", async () => {
    const { options } = wire(() => ({}));
    const url = new URL(await getSignedUrl(new S3Client(options), new GetObjectCommand({ Bucket: bucket, Key: "a/b" }), { expiresIn: 60 }));
    const request = { method: "GET", host: url.hostname, path: url.pathname + url.search, headers: {}, body: Buffer.alloc(0) };
    expect(credentialOf(request)).toMatchObject({ accessKeyId: "AKIATEST", signing: "s3", region: "eu-central-1", presigned: true });
    expect(decode(request)).toMatchObject({ operation: { name: "GetObject" }, input: { Bucket: bucket, Key: "a/b" } });
    expect(s3Address(url.hostname, url.pathname)).toEqual({ bucket, key: "a/b" });
  });
});

describe("every answer", () => {
  it("carries the virtual time and the request's id", async () => {
    const { options, headers } = wire(() => ({ Command: {} }));
    const answer = await new SSMClient(options).send(new SendCommandCommand({ DocumentName: "d" }));
    expect(headers[0]?.date).toBe("Mon, 05 Jan 2026 02:03:04 GMT");
    expect(answer.$metadata.requestId).toBe("11111111-2222-3333-4444-555555555555");
  });
});

describe("what is not modelled", () => {
  const request = (headers: Record<string, string>): WireRequest => ({
    method: "POST",
    host: "dynamodb.eu-central-1.amazonaws.com",
    path: "/",
    headers,
    body: Buffer.alloc(0),
  });
  const signedFor = (service: string) =>
    `AWS4-HMAC-SHA256 Credential=AKIA/20260105/eu-central-1/${service}/aws4_request, SignedHeaders=host, Signature=0`;

  it("is named: a service, an operation, an unsigned request", () => {
    expect(() => decode(request({ authorization: signedFor("dynamodb") }))).toThrow(
      new Unmodelled('service "dynamodb" is not modelled (POST dynamodb.eu-central-1.amazonaws.com/)'),
    );
    expect(() => decode(request({ authorization: signedFor("ssm"), "x-amz-target": "AmazonSSM.DropTables" }))).toThrow(
      new Unmodelled('ssm has no operation "DropTables"'),
    );
    expect(() => decode(request({}))).toThrow(new Unmodelled("unsigned request POST dynamodb.eu-central-1.amazonaws.com/"));
  });
});
