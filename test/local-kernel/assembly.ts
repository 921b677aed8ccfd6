/**
 * A small deployment by hand: functions bundled as the app bundles them, their roles, a bucket, an API; written as a synthesized assembly.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildSync } from "esbuild";
import { afterAll } from "vitest";

export interface FunctionSource {
  /** TypeScript that exports `handler`. */
  readonly code: string;
  readonly statements?: readonly object[];
  readonly environment?: Readonly<Record<string, unknown>>;
  readonly properties?: Readonly<Record<string, unknown>>;
}

export interface AssemblySource {
  readonly functions?: Readonly<Record<string, FunctionSource>>;
  readonly resources?: Readonly<Record<string, unknown>>;
  readonly template?: Readonly<Record<string, unknown>>;
}

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

const sub = (text: string) => ({ "Fn::Sub": text });

/** Writes the assembly and answers its folder. */
export function writeAssembly({ functions = {}, resources = {}, template = {} }: AssemblySource): string {
  const folder = mkdtempSync(join(tmpdir(), "drover-assembly-"));
  folders.push(folder);
  const files: Record<string, unknown> = {};
  const made: Record<string, unknown> = {};
  for (const [name, { code, statements = [], environment = {}, properties = {} }] of Object.entries(functions)) {
    const asset = `asset.${name.toLowerCase()}`;
    buildSync({
      stdin: { contents: code, loader: "ts", resolveDir: import.meta.dirname },
      outfile: join(folder, asset, "index.js"),
      bundle: true,
      minify: true,
      platform: "node",
      target: "node20",
      format: "cjs",
      logLevel: "error",
    });
    files[name] = { source: { path: asset, packaging: "zip" }, destinations: { current: { bucketName: "assets", objectKey: `${name}.zip` } } };
    made[`${name}Role`] = {
      Type: "AWS::IAM::Role",
      Properties: {
        AssumeRolePolicyDocument: { Statement: [{ Effect: "Allow", Principal: { Service: "lambda.amazonaws.com" }, Action: "sts:AssumeRole" }] },
        Policies: statements.length === 0 ? [] : [{ PolicyName: "calls", PolicyDocument: { Version: "2012-10-17", Statement: statements } }],
      },
    };
    made[name] = {
      Type: "AWS::Lambda::Function",
      Properties: {
        Code: { S3Bucket: sub("assets-${AWS::AccountId}"), S3Key: `${name}.zip` },
        Handler: "index.handler",
        Runtime: "nodejs22.x",
        Role: { "Fn::GetAtt": [`${name}Role`, "Arn"] },
        Timeout: 60,
        Environment: { Variables: environment },
        ...properties,
      },
    };
  }
  const write = (file: string, content: unknown) => writeFileSync(join(folder, file), JSON.stringify(content));
  write("Test.template.json", { Resources: { ...made, ...resources }, ...template });
  write("Test.assets.json", { version: "1", files });
  write("manifest.json", {
    version: "1",
    artifacts: {
      "Test.assets": { type: "cdk:asset-manifest", properties: { file: "Test.assets.json" } },
      Test: { type: "aws:cloudformation:stack", properties: { templateFile: "Test.template.json" } },
    },
  });
  return folder;
}

/** An allowing statement. */
export function allow(action: string | readonly string[], resource: unknown = "*", condition?: object): object {
  return { Effect: "Allow", Action: action, Resource: resource, ...(condition === undefined ? {} : { Condition: condition }) };
}

export const bucketOf = (logicalId: string) => ({ "Fn::Join": ["", [{ "Fn::GetAtt": [logicalId, "Arn"] }, "/*"]] });
