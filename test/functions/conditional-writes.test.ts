import { PutObjectCommand, type S3Client } from "@aws-sdk/client-s3";
import { describe, expect, it } from "vitest";
import { secretStore } from "../../functions/aws/secrets.js";
import { stateStore } from "../../functions/aws/state.js";

const named = (name: string) => Object.assign(new Error(name), { name });
const race = named("ConditionalRequestConflict");
const refused = named("PreconditionFailed");
const missing = named("NoSuchKey");

/** S3 that answers with what the script says, in order, and reads `there` when asked. */
function scripted(script: readonly (Error | "done")[], there?: string) {
  const answers = [...script];
  const written: string[] = [];
  const s3 = {
    send: async (command: { readonly constructor: { readonly name: string }; readonly input: { readonly Body?: string } }) => {
      if (command.constructor.name === "GetObjectCommand") {
        if (there === undefined) throw missing;
        return { Body: { transformToString: async () => there }, ETag: '"1"' };
      }
      const answer = answers.shift();
      if (answer instanceof Error) throw answer;
      if (command instanceof PutObjectCommand) written.push(String(command.input.Body));
      return {};
    },
  } as unknown as S3Client;
  return { s3, written, left: answers };
}

describe("a conditional write", () => {
  it("is sent again when S3 says 409, which decides nothing", async () => {
    const { s3, written, left } = scripted([race, race, "done"]);
    expect(await stateStore("state", s3).create("lease", { holder: "a" })).toBe(true);
    expect(written).toEqual(['{"holder":"a"}']);
    expect(left).toEqual([]);
  });

  it("is somebody else's when S3 says 412 and another document is there", async () => {
    expect(await stateStore("state", scripted([refused], '{"holder":"b"}').s3).create("lease", { holder: "a" })).toBe(false);
  });

  it("is its own when S3 says 412 or 409 and the very same document is there", async () => {
    for (const answer of [refused, race]) {
      expect(await stateStore("state", scripted([answer], '{"holder":"a"}').s3).create("lease", { holder: "a" })).toBe(true);
    }
  });

  it("gives up by the name that is asked again, never by saying that somebody else was first", async () => {
    const { s3 } = scripted(Array.from({ length: 10 }, () => race));
    await expect(stateStore("state", s3).create("lease", {})).rejects.toMatchObject({ name: "NotYet" });
  });

  it("removes a version although a race had to be run twice, and leaves another version alone", async () => {
    expect(await stateStore("state", scripted([race, "done"]).s3).removeVersion("lease", '"1"')).toBe(true);
    expect(await stateStore("state", scripted([refused]).s3).removeVersion("lease", '"1"')).toBe(false);
  });
});

describe("a secret", () => {
  it("is there already when S3 says 412", async () => {
    expect(await secretStore("state", "key", scripted([refused]).s3).create("uid", "server-token", 1, "x")).toBe(false);
  });

  it("is not taken for stored while another write of it is under way", async () => {
    const creating = secretStore("state", "key", scripted([race]).s3).create("uid", "server-token", 1, "x");
    await expect(creating).rejects.toMatchObject({ name: "NotYet" });
  });
});
