import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import type { HttpResponse } from "../../cli/http.js";
import { asText } from "../core/sample.js";
import { folder, personKeys, Stage, withRelease, world } from "./stage.js";

const account = withRelease(world());
let stage: Stage;

beforeAll(() => {
  for (const [name, value] of Object.entries(personKeys())) vi.stubEnv(name, value);
});
beforeEach(() => {
  stage = new Stage({ world: account });
});

const answer = (status: number, body: unknown = {}, headers: Record<string, string> = {}): HttpResponse => ({
  status,
  headers,
  body: Buffer.from(JSON.stringify(body)),
});
const failure = (code: string, message = code) => Object.assign(new Error(message), { code });
const always = (instead: HttpResponse | Error) => {
  stage.network = () => instead;
};

describe("where requests go", () => {
  it("is said when there is nowhere to send them", async () => {
    expect(await new Stage().drover("list")).toEqual({
      code: 5,
      out: "",
      err: [
        "No Drover to speak to: neither --endpoint nor DROVER_ENDPOINT is given, and no local cloud runs here",
        "Start a local one: drover local up. Or give the output ApiUrl of the stack Drover: export DROVER_ENDPOINT=https://...",
        "",
      ].join("\n"),
    });
  });
  it.each([
    ["http://example.com", /must be an https:\/\/ address; found "http:\/\/example\.com"/],
    ["nonsense", /must be an https:\/\/ address; found "nonsense"/],
    ["https://a.execute-api.eu-central-1.amazonaws.com/?x=1", /without user, query or fragment/],
    ["https://drover.example.com", /The Region of drover\.example\.com is not part of its name/],
  ])("must be sensible: %s", async (endpoint, what) => {
    expect(await new Stage().drover("list", "--endpoint", endpoint)).toMatchObject({ code: 2, err: expect.stringMatching(what) });
  });
  it("is the option before the environment, with the Region of its name or of the environment", async () => {
    const plain = new Stage({ environment: { DROVER_ENDPOINT: "https://wrong.example.com", AWS_REGION: "eu-north-1" } });
    const seen: string[] = [];
    plain.network = ({ url, headers }) => {
      seen.push(`${url.host} ${/Credential=[^/]+\/\d+\/([^/]+)\//.exec(headers.authorization ?? "")?.[1]}`);
      return answer(200, { clusters: [] });
    };
    await plain.drover("list", "--endpoint", "https://a.execute-api.us-west-2.amazonaws.com");
    await plain.drover("list", "--endpoint", "https://drover.example.com/base/", "--region", "sa-east-1");
    await plain.drover("list");
    expect(seen).toEqual(["a.execute-api.us-west-2.amazonaws.com us-west-2", "drover.example.com sa-east-1", "wrong.example.com eu-north-1"]);
    expect(plain.requests).toEqual(["GET /clusters", "GET /base/clusters", "GET /clusters"]);
  });
  it("is the local cloud whose file lies in this folder or one above it", async () => {
    const top = folder();
    mkdirSync(join(top, ".drover"));
    const local = { schema: 1, endpoint: "http://127.0.0.1:8470", region: "eu-central-1", accessKeyId: "AKIALOCAL", secretAccessKey: "s", pid: 4242 };
    const clocks = { speed: 20, virtualMilliseconds: 0, realMilliseconds: 0 };
    writeFileSync(join(top, ".drover", "local.json"), JSON.stringify({ ...local, ...clocks }));
    mkdirSync(join(top, "below"));
    const below = new Stage();
    Object.assign(below, { directory: join(top, "below") });
    let key = "";
    below.network = ({ headers }) => {
      key = /Credential=([^/]+)/.exec(headers.authorization ?? "")?.[1] ?? "";
      return answer(200, { clusters: [] });
    };
    expect((await below.drover("list")).code).toBe(0);
    expect(key).toBe("AKIALOCAL");
    below.network = () => failure("ECONNREFUSED");
    expect(await below.drover("list")).toMatchObject({
      code: 5,
      err: expect.stringMatching(/^Nothing answers at the local cloud at http:\/\/127\.0\.0\.1:8470\nIt has stopped: start it with drover local up/),
    });
    expect(below.pauses).toEqual([]);
  });
});

describe("requests", () => {
  it("are signed for API Gateway: the real verification lets them in, also with a name that must be escaped", async () => {
    expect((await stage.drover("list")).code).toBe(0);
    expect((await stage.drover("artifacts", "check", "v1.35.7+rke2r1")).code).toBe(0);
    expect(stage.requests).toEqual(["GET /clusters", "GET /artifacts/v1.35.7%2Brke2r1"]);
  });
  it("carry one request id, sent again after a network fault, so that the operation is made once", async () => {
    writeFileSync(join(stage.directory, "c.yaml"), asText({ "spec.image": { id: "ami-0d4a1b5c6e7f80912" } }));
    const sent: string[] = [];
    let faults = 2;
    stage.network = ({ body }) => {
      const { requestId, preview } = JSON.parse(Buffer.from(body as Uint8Array).toString()) as { requestId: string; preview: boolean };
      if (preview) return undefined;
      sent.push(requestId);
      return faults-- > 0 ? failure("ECONNRESET") : undefined;
    };
    const { code } = await stage.drover("create", "c.yaml", "--yes", "--no-wait");
    expect(code).toBe(0);
    expect(sent).toEqual(["request-0001", "request-0001", "request-0001"]);
    expect(stage.pauses).toEqual([500, 1000]);
  });
  it("that may have been accepted say how to find out and how to repeat them safely", async () => {
    writeFileSync(join(stage.directory, "c.yaml"), asText({ "metadata.name": "other", "spec.image": { id: "ami-0d4a1b5c6e7f80912" } }));
    stage.network = ({ body }) =>
      Buffer.from(body as Uint8Array).includes('"preview":true') ? undefined : failure("ETIMEDOUT", "nothing came for 35 s");
    const { code, err } = await stage.drover("create", "c.yaml", "--yes");
    expect(code).toBe(5);
    expect(err).toMatch(/No answer from .* after 5 tries: nothing came for 35 s\n/);
    expect(err).toMatch(/It may have been accepted: see drover operations other; or send it again with --request-id request-0001, which is safe\n$/);
  });
  it("wait longer each time, and as long as they are told to", async () => {
    let count = 0;
    stage.network = () => (++count === 1 ? answer(429, {}, { "retry-after": "7" }) : count < 5 ? answer(503) : undefined);
    expect((await stage.drover("list")).code).toBe(0);
    expect(stage.pauses).toEqual([7000, 1000, 2000, 4000]);
  });
  it.each<[what: string, instead: HttpResponse | Error, tries: number, message: RegExp]>([
    [
      "a denial",
      answer(403, { message: "Forbidden" }),
      1,
      /^Denied: GET \/clusters\nYour identity needs execute-api:Invoke on arn:aws:execute-api:eu-central-1:ACCOUNT:\w+\/\*\/GET\/clusters; .*get-caller-identity/,
    ],
    [
      "a session that is over",
      answer(403, { message: "The security token included in the request is expired" }),
      1,
      /^The AWS session is over: .*\nSign in again/,
    ],
    ["a wrong clock", answer(403, { message: "Signature expired: 20260105T020000Z is now earlier than" }), 1, /^The clock of this machine is wrong/],
    ["an address that is not Drover's", answer(404, { message: "Not Found" }), 1, /knows no GET \/clusters\nCheck that the endpoint is Drover's/],
    ["throttling that does not end", answer(429), 5, /is throttling requests\n/],
    ["a broken function", answer(500, { message: "Internal Server Error" }), 5, /answered GET \/clusters with status 500: Internal Server Error\n/],
    [
      "a certificate nobody trusts",
      failure("SELF_SIGNED_CERT_IN_CHAIN", "self-signed certificate"),
      1,
      /^No trusted connection to .*SELF_SIGNED_CERT_IN_CHAIN\)\n.*NODE_EXTRA_CA_CERTS/,
    ],
    ["a name that does not exist", failure("ENOTFOUND"), 1, /is not known \(ENOTFOUND\)\nCheck the endpoint for a misspelling/],
    ["a closed port", failure("ECONNREFUSED"), 1, /^Nothing answers at .*\nCheck the endpoint/],
    ["a line that drops", failure("ECONNRESET", "socket hang up"), 5, /after 5 tries: socket hang up\n/],
  ])("end with 5 and one clear answer after %s", async (_, instead, tries, message) => {
    always(instead);
    const { code, out, err } = await stage.drover("list");
    expect({ code, out, tries: stage.requests.length }).toEqual({ code: 5, out: "", tries });
    expect(err).toMatch(message);
  });
  it("end with 5 when there are no credentials, and say how to get some", async () => {
    for (const name of ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]) vi.stubEnv(name, "");
    const none = folder();
    for (const [name, value] of Object.entries({ HOME: none, AWS_EC2_METADATA_DISABLED: "true", AWS_PROFILE: "absent" })) vi.stubEnv(name, value);
    const { code, err } = await stage.drover("list");
    for (const [name, value] of Object.entries(personKeys())) vi.stubEnv(name, value);
    vi.stubEnv("AWS_PROFILE", undefined);
    expect(code).toBe(5);
    expect(err).toMatch(/^No AWS credentials: .*\nSign in \(aws sso login\), choose a profile/);
  });
  it("show what the API sends without control characters", async () => {
    always(answer(404, { error: "NotFound", message: "no \u001b[31mred\u001b[0m \u0007bell", next: "Look", faults: [] }));
    expect((await stage.drover("list")).err).toBe("no red bell\nLook\n");
  });
  it("stop at once when interrupted", async () => {
    stage.network = () => {
      stage.interrupt();
      return failure("ABORT_ERR");
    };
    expect(await stage.drover("list")).toMatchObject({ code: 130, err: expect.stringMatching(/^GET \/clusters was interrupted\n/) });
  });
});
