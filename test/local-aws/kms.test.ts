import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { createKms, type Kms, volumePermissions } from "../../local/aws/kms.js";
import { calls, codeOf, permissionsOf, type TinyWorld, tinyWorld } from "./tiny-world.js";

const keyArn = "arn:aws:kms:eu-central-1:111122223333:key/0a1b";
const otherArn = "arn:aws:kms:eu-central-1:111122223333:key/2c3d";

describe("the local KMS", () => {
  let world: TinyWorld;
  let kms: Kms;
  let call: ReturnType<typeof calls>;

  beforeEach(() => {
    world = tinyWorld();
    kms = createKms(world);
    kms.createKey({ arn: keyArn, description: "secrets", aliases: ["alias/secrets"], enabled: true });
    kms.createKey({ arn: otherArn, description: "other", aliases: [], enabled: true });
    call = calls(world, kms);
  });

  const encrypt = (text: string, EncryptionContext?: Record<string, string>) =>
    call("Encrypt", { KeyId: "alias/secrets", Plaintext: Buffer.from(text), EncryptionContext }).CiphertextBlob as Buffer;

  it("gives back what was encrypted, whatever the order of the context", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 4096 }), fc.dictionary(fc.string(), fc.string()), (bytes, context) => {
        const { CiphertextBlob } = call("Encrypt", { KeyId: keyArn, Plaintext: bytes, EncryptionContext: context });
        const reversed = Object.fromEntries(Object.entries(context).reverse());
        const opened = call("Decrypt", { CiphertextBlob, EncryptionContext: reversed });
        expect(Buffer.from(opened.Plaintext).equals(Buffer.from(bytes))).toBe(true);
        expect(opened.KeyId).toBe(keyArn);
      }),
      { seed: 11, numRuns: 60 },
    );
  });

  it("refuses another context, a missing context and a changed byte alike", () => {
    const blob = encrypt("token", { cluster: "prod" });
    expect(codeOf(() => call("Decrypt", { CiphertextBlob: blob, EncryptionContext: { cluster: "test" } }))).toBe("InvalidCiphertextException 400");
    expect(codeOf(() => call("Decrypt", { CiphertextBlob: blob }))).toBe("InvalidCiphertextException 400");
    const changed = Buffer.from(blob);
    changed[changed.length - 1] = (changed.at(-1) as number) ^ 1;
    expect(codeOf(() => call("Decrypt", { CiphertextBlob: changed, EncryptionContext: { cluster: "prod" } }))).toBe("InvalidCiphertextException 400");
    expect(codeOf(() => call("Decrypt", { CiphertextBlob: Buffer.from("not ours") }))).toBe("InvalidCiphertextException 400");
  });

  it("refuses to open with a key that did not close", () => {
    expect(codeOf(() => call("Decrypt", { KeyId: otherArn, CiphertextBlob: encrypt("token") }))).toBe("IncorrectKeyException 400");
  });

  it("takes 4,096 bytes of plaintext and not one more", () => {
    expect(call("Encrypt", { KeyId: keyArn, Plaintext: Buffer.alloc(4096) }).KeyId).toBe(keyArn);
    expect(codeOf(() => call("Encrypt", { KeyId: keyArn, Plaintext: Buffer.alloc(4097) }))).toBe("ValidationException 400");
    expect(codeOf(() => call("Encrypt", { KeyId: keyArn, Plaintext: Buffer.alloc(0) }))).toBe("ValidationException 400");
  });

  it("never makes the same ciphertext or data key twice, also after being saved and loaded", () => {
    const made = new Set<string>();
    const make = () => {
      made.add(encrypt("same").toString("hex"));
      made.add(Buffer.from(call("GenerateDataKey", { KeyId: keyArn, KeySpec: "AES_256" }).Plaintext).toString("hex"));
    };
    make();
    make();
    const saved = structuredClone(kms.save());
    kms = createKms(tinyWorld());
    kms.createKey({ arn: keyArn, description: "secrets", aliases: ["alias/secrets"], enabled: true });
    kms.load(saved);
    call = calls(world, kms);
    make();
    expect(made.size).toBe(6);
  });

  it("opens what was closed before it was saved, also when the next world has another seed", () => {
    const blob = encrypt("token");
    const saved = kms.save();
    const next = createKms(tinyWorld({ seed: 2 }));
    next.createKey({ arn: keyArn, description: "secrets", aliases: [], enabled: true });
    expect(codeOf(() => calls(world, next)("Decrypt", { CiphertextBlob: blob }))).toBe("InvalidCiphertextException 400");
    next.load(saved);
    expect(Buffer.from(calls(world, next)("Decrypt", { CiphertextBlob: blob }).Plaintext).toString()).toBe("token");
  });

  it("hands out data keys that open with Decrypt", () => {
    const dataKey = call("GenerateDataKey", { KeyId: keyArn, KeySpec: "AES_256", EncryptionContext: { a: "1" } });
    expect(dataKey.Plaintext.length).toBe(32);
    const opened = call("Decrypt", { CiphertextBlob: dataKey.CiphertextBlob, EncryptionContext: { a: "1" } });
    expect(Buffer.from(opened.Plaintext).equals(dataKey.Plaintext)).toBe(true);
    expect(codeOf(() => call("GenerateDataKey", { KeyId: keyArn }))).toBe("ValidationException 400");
  });

  it("refuses a disabled key and one that is about to be deleted, and still describes them", () => {
    const blob = encrypt("token");
    kms.setKeyState(keyArn, "Disabled");
    expect(codeOf(() => call("Decrypt", { CiphertextBlob: blob }))).toBe("DisabledException 400");
    expect(call("DescribeKey", { KeyId: keyArn }).KeyMetadata).toMatchObject({ Enabled: false, KeyState: "Disabled" });
    kms.setKeyState(keyArn, "PendingDeletion");
    expect(codeOf(() => encrypt("more"))).toBe("KMSInvalidStateException 400");
    kms.setKeyState(keyArn, "Enabled");
    expect(Buffer.from(call("Decrypt", { CiphertextBlob: blob }).Plaintext).toString()).toBe("token");
  });

  it("says that a key or alias is not there", () => {
    expect(codeOf(() => call("DescribeKey", { KeyId: "alias/none" }))).toBe("NotFoundException 400");
    expect(codeOf(() => call("Encrypt", { KeyId: "9999", Plaintext: Buffer.from("x") }))).toBe("NotFoundException 400");
  });

  it("asks for the key itself, also when it is named by alias or by the ciphertext", () => {
    expect(permissionsOf(world, kms, "Encrypt", { KeyId: "alias/secrets", EncryptionContext: { cluster: "prod" } })).toMatchObject([
      { action: "kms:Encrypt", resource: keyArn, context: { "kms:EncryptionContext:cluster": "prod", "kms:RequestAlias": "alias/secrets" } },
    ]);
    expect(permissionsOf(world, kms, "Decrypt", { CiphertextBlob: encrypt("x") })).toMatchObject([{ action: "kms:Decrypt", resource: keyArn }]);
  });

  it("remembers grants, one for the same name and content", () => {
    const input = { KeyId: keyArn, GranteePrincipal: "arn:aws:iam::111122223333:role/ec2", Operations: ["Decrypt"], Name: "volumes" };
    const first = call("CreateGrant", input);
    expect(call("CreateGrant", input).GrantId).toBe(first.GrantId);
    expect(call("CreateGrant", { ...input, Operations: ["Encrypt"] }).GrantId).not.toBe(first.GrantId);
    expect(kms.isGranted(input.GranteePrincipal, "Decrypt", keyArn)).toBe(true);
    expect(kms.isGranted(input.GranteePrincipal, "Decrypt", otherArn)).toBe(false);
    expect(volumePermissions(keyArn, "eu-central-1").map(({ action }) => action)).toContain("kms:CreateGrant");
  });
});
