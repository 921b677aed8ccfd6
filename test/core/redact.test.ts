import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { redact } from "../../core/redact.js";
import { chance } from "./facts.js";

const hash = "3f2a".repeat(16);
const password = "q7Rk2mZpX9vLw4TnB8sYc6DfGh1JxK3Q";
const pem =
  "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIAbcdEFGH1234ijklMNOP5678qrstUVWX90yzABoAoGCCqGSM49\nAwEHoUQDQgAE1234\n-----END EC PRIVATE KEY-----";

describe("what leaves without its secrets", () => {
  it.each<[string, string, string]>([
    ["a full RKE2 token", `joining with K10${hash}::server:${password}, retrying`, "joining with [redacted], retrying"],
    ["the start of a full token", `token CA hash K10${hash.slice(0, 30)}`, "token CA hash [redacted]"],
    ["a bootstrap token", "using abcdef.0123456789abcdef to join", "using [redacted] to join"],
    ["a token in YAML", `token: ${password}`, "token: [redacted]"],
    ["a short token in YAML", "agent-token: hunter2", "agent-token: [redacted]"],
    ["a quoted password", `password: "two words and more"`, `password: "[redacted]"`],
    ["a password in JSON", `{"username":"u","password":"p,w}d"}`, `{"username":"u","password":"[redacted]"}`],
    ["a password in JSON in JSON", `{\\"token\\":\\"abc\\",\\"kept\\":1}`, `{\\"token\\":\\"[redacted]\\",\\"kept\\":1}`],
    ["a token inside a quoted message", `level=error msg="bad token: hunter2, retrying"`, `level=error msg="bad token: [redacted], retrying"`],
    ["a token whose closing quote is cut off", `{"token":"hunter2`, `{"token":"[redacted]`],
    ["an environment variable", `RKE2_TOKEN=hunter2 rke2 server`, "RKE2_TOKEN=[redacted] rke2 server"],
    ["a flag", "rke2 server --token hunter2 --debug", "rke2 server --token [redacted] --debug"],
    ["a flag with an equals sign", "rke2 server --agent-token=hunter2", "rke2 server --agent-token=[redacted]"],
    [
      "what makes a presigned URL a key, and leaves the object's name",
      "GET https://b.s3.eu-west-1.amazonaws.com/rke2/a.tar?X-Amz-Credential=ASIAABCDEFGHIJKLMNOP%2F20261122&X-Amz-Expires=900&X-Amz-Security-Token=IQoJb3Jp%2F&X-Amz-Signature=00ff",
      "GET https://b.s3.eu-west-1.amazonaws.com/rke2/a.tar?X-Amz-Credential=[redacted]&X-Amz-Expires=900&X-Amz-Security-Token=[redacted]&X-Amz-Signature=[redacted]",
    ],
    [
      "a signature in an encoded URL",
      "url=https%3A%2F%2Fb%2Fk%3FX-Amz-Signature%3D00ff00ff",
      "url=https%3A%2F%2Fb%2Fk%3FX-Amz-Signature%3D[redacted]",
    ],
    ["a bearer token", "Authorization: Bearer eyJhbGciOi.eyJzdWIi.c2ln", "Authorization: Bearer [redacted]"],
    ["basic authentication", "curl -H 'Authorization: Basic bm9kZTpodW50ZXIy'", "curl -H 'Authorization: Basic [redacted]'"],
    ["user information in a URL", "https://node:hunter2@10.0.0.1:9345/v1", "https://[redacted]@10.0.0.1:9345/v1"],
    ["an access key id", "signed by AKIAIOSFODNN7EXAMPLE today", "signed by [redacted] today"],
    ["a secret access key by name", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [redacted]"],
    ["a secret access key by its looks", "got wJalrXUtnFEMI/K7MDENG/bPxRfiCY2XAM9LE8KEY", "got [redacted]"],
    ["a private key", `key:\n${pem}\nend`, "key:\n[redacted]\nend"],
    ["a private key on one line", `"${pem.replaceAll("\n", "\\n")}"`, `"[redacted]"`],
    ["a private key cut off behind", pem.slice(0, 70), "[redacted]"],
    ["a private key cut off before", pem.slice(60), "[redacted]"],
    ["a key in a kubeconfig", "    client-key-data: LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0tLS0t", "    client-key-data: [redacted]"],
    ["a password by its looks alone", `cannot use ${password} here`, "cannot use [redacted] here"],
  ])("%s", (_, text, clean) => {
    expect(redact(text)).toBe(clean);
  });

  it.each([
    "Cannot remove server s2 of prod: 1 healthy server would remain of 3, majority is 2.",
    `sha256 ${hash} of rke2-images-core.linux-amd64.tar.zst does not match`,
    "token-file: /etc/rancher/rke2/drover-token",
    "workers-i-0123456789abcdef0: TokenRejected: The server does not accept the token",
    "i-0123456789abcdef0 in subnet-0123456789abcdef0 of vpc-0123456789abcdef0 from ami-0123456789abcdef0",
    "arn:aws:states:eu-west-1:111122223333:execution:create-cluster:create-prod-20261122-1a2b3c4d",
    "User: arn:aws:sts::111122223333:assumed-role/Drover-LaunchNodesFunctionServiceRole91C3F1D2/Drover-LaunchNodes is not authorized to perform: ec2:RunInstances",
    "https://prod-1a2b3c4d.elb.eu-west-1.amazonaws.com:9345/ping answered 503",
    'level=info msg="rke2 is up and running" version=v1.35.7+rke2r1',
    "The token is sent with the delivery; the password is checked on the node.",
    "10.0.0.1:2379 is healthy: took = 3.1ms",
    "drover status prod --json",
  ])("leaves what a person needs: %s", (text) => {
    expect(redact(text)).toBe(text);
  });

  it("leaves no secret of a generated corpus in any wrapping, and changes nothing the second time", () => {
    const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), (seed) => {
        const draw = chance(seed);
        const pick = <T>(items: readonly T[]): T => items[Math.floor(draw() * items.length)] as T;
        const word = (length: number, alphabet = letters) => Array.from({ length }, () => pick([...alphabet])).join("");
        const secret = word(12 + Math.floor(draw() * 50));
        const hex = word(64, "0123456789abcdef");
        const wrapped = pick([
          `K10${hex}::${pick(["server", "node"])}:${secret}`,
          `${pick(["token", "agent-token", "password", "RKE2_TOKEN", "client_secret", "aws_secret_access_key", "api-key"])}${pick([": ", "=", " = ", ":"])}${pick(["", '"', "'"])}${secret}`,
          JSON.stringify({ [pick(["token", "serverToken", "password", "taskToken", "SecretAccessKey"])]: secret }),
          JSON.stringify(JSON.stringify({ token: secret, after: 1 })),
          `--${pick(["token", "agent-token", "etcd-s3-secret-key"])}${pick([" ", "="])}${secret}`,
          `https://bucket.s3.amazonaws.com/key?X-Amz-Date=1&X-Amz-${pick(["Signature", "Security-Token", "Credential"])}=${secret}&x-id=GetObject`,
          `${pick(["Bearer", "Basic", "bearer"])} ${secret}`,
          `https://user:${secret}@10.0.0.1/`,
          `-----BEGIN ${pick(["RSA ", "EC ", ""])}PRIVATE KEY-----\n${secret}\n${secret}\n-----END PRIVATE KEY-----`,
          `-----BEGIN PRIVATE KEY-----\\n${secret}\\n-----END PRIVATE KEY-----`,
          `client-key-data: ${secret}`,
        ]);
        const [before, after] = [
          pick(["", "level=error msg=", "[Start server] ", "failed: ", "{"]),
          pick(["", "\nnext line", ", then", "; stopped", " }"]),
        ];
        const clean = redact(`${before}${wrapped}${after}`);
        if (clean.includes(secret)) throw new Error(`${secret} is left in ${clean}`);
        expect(redact(clean)).toBe(clean);
      }),
      { seed: 41178, numRuns: 2000 },
    );
  });

  it.each([
    ["words", 'level=info msg="some: thing=other" path=/var/lib/rancher '.repeat(600)],
    ["one long word", "a1".repeat(20_000)],
    ["base64 without an end", `${"Ab0/".repeat(8_000)}-----END`],
    ["backslashes", `token${"\\\\".repeat(10_000)}`],
    ["dashes", "-----BEGIN ".repeat(3_000)],
    ["schemes", "https://a:".repeat(3_000)],
  ])("is done at once with 30,000 characters of %s", (_, text) => {
    expect(redact(redact(text))).toBe(redact(text));
  });
});
