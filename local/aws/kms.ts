/**
 * KMS: symmetric keys with real authenticated encryption, their states, aliases and grants.
 *
 * Key material comes from the world's seed. A ciphertext names its key and is bound to its encryption context, so a wrong context, a wrong key, a
 * changed byte and a disabled key each fail the way KMS fails. Key policies are evaluated by the kernel from `permissions`.
 */
import { createCipheriv, createDecipheriv, createHash } from "node:crypto";
import type {
  CreateGrantRequest,
  CreateGrantResponse,
  DecryptRequest,
  DecryptResponse,
  DescribeKeyRequest,
  DescribeKeyResponse,
  EncryptRequest,
  EncryptResponse,
  GenerateDataKeyRequest,
  GenerateDataKeyResponse,
} from "@aws-sdk/client-kms";
import { AwsError, type Operation, type Permission, type Service, Unmodelled, type World } from "../kernel/contract.js";
import type { Template, TemplateKey } from "../kernel/template.js";

export type KeyState = "Enabled" | "Disabled" | "PendingDeletion";

export interface KeyConfig {
  /** ARN ending in the key's id: `arn:aws:kms:<region>:<account>:key/<id>`. */
  readonly arn: string;
  readonly description: string;
  /** Names with their `alias/`. */
  readonly aliases: readonly string[];
  readonly enabled: boolean;
}

export interface Kms extends Service {
  /** Makes a key of the template, or updates it: material and state of a key that was loaded stay. */
  createKey(config: KeyConfig): void;
  /** Disables, enables or condemns a key, as a person would at the console. */
  setKeyState(key: string, state: KeyState): void;
  /** The ARN of a key named by id, ARN, alias or alias ARN; NotFoundException. */
  resolveKey(key: string): string;
  /** For services that encrypt on behalf of a caller: throws what KMS would answer for this key now. */
  requireUsable(key: string): void;
  /** Whether a grant lets a principal (a role's ARN, or a service's) do an operation such as `Decrypt` with a key. */
  isGranted(principal: string, operation: string, keyArn: string): boolean;
}

/** Most plaintext bytes of one Encrypt (KMS API reference); more needs a data key. */
export const plaintextLimitBytes = 4096;

/** What the launcher of an instance needs for a volume encrypted with a customer's key: without it the instance ends right after a successful RunInstances. */
export function volumePermissions(keyArn: string, region: string): Permission[] {
  const context = { "kms:ViaService": `ec2.${region}.amazonaws.com`, "kms:GrantIsForAWSResource": "true" };
  return ["kms:CreateGrant", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt"].map((action) => ({
    action,
    resource: keyArn,
    context,
  }));
}

interface Grant {
  readonly id: string;
  readonly keyId: string;
  readonly grantee: string;
  readonly operations: readonly string[];
  readonly name: string | undefined;
  readonly constraints: string;
}

interface Key {
  readonly id: string;
  readonly material: Uint8Array;
  readonly createdAtMs: number;
  state: KeyState;
  deletionAtMs: number | undefined;
}

interface Saved {
  readonly serial: number;
  readonly keys: readonly Key[];
  readonly grants: readonly Grant[];
}

type Context = Readonly<Record<string, string>>;

export function createKms(world: World & { readonly template?: Pick<Template, "keys"> }): Kms {
  const random = world.random.fork("kms");
  const configs = new Map<string, KeyConfig>();
  const aliases = new Map<string, string>();
  let keys = new Map<string, Key>();
  let grants: Grant[] = [];
  /** Counts everything ever made here, so that no id and no nonce comes twice, whatever was saved and loaded in between. */
  let serial = 0;

  const aliasPrefix = `arn:${world.partition}:kms:${world.region}:${world.account}:`;

  function find(name: string | undefined): { key: Key; config: KeyConfig } {
    if (name === undefined || name === "")
      throw new AwsError(
        "ValidationException",
        "1 validation error detected: Value at 'keyId' failed to satisfy constraint: Member must not be null",
      );
    const local = name.startsWith(aliasPrefix) ? name.slice(aliasPrefix.length) : name;
    const id = local.startsWith("alias/") ? aliases.get(local) : local.startsWith("key/") ? local.slice(4) : local;
    const key = id === undefined ? undefined : keys.get(id);
    const config = id === undefined ? undefined : configs.get(id);
    if (key === undefined || config === undefined) {
      throw new AwsError(
        "NotFoundException",
        local.startsWith("alias/") ? `Alias ${aliasPrefix}${local} is not found.` : `Key '${name}' does not exist`,
      );
    }
    return { key, config };
  }

  function usable(name: string | undefined): { key: Key; config: KeyConfig } {
    const found = find(name);
    if (found.key.state === "Disabled") throw new AwsError("DisabledException", `${found.config.arn} is disabled.`);
    if (found.key.state === "PendingDeletion") throw new AwsError("KMSInvalidStateException", `${found.config.arn} is pending deletion.`);
    return found;
  }

  /** The permission for one action on the key a caller names. A key that is not there needs none: the call then says so. */
  function permission(action: string, name: string | undefined, context: Context | undefined, more: Permission["context"] = {}): Permission[] {
    let arn: string;
    try {
      arn = find(name).config.arn;
    } catch (error) {
      if (error instanceof AwsError) return [];
      throw error;
    }
    const names = Object.keys(context ?? {}).sort();
    return [
      {
        action,
        resource: arn,
        context: {
          "kms:CallerAccount": world.account,
          ...(name?.includes("alias/") ? { "kms:RequestAlias": name.slice(name.indexOf("alias/")) } : {}),
          ...(names.length > 0 ? { "kms:EncryptionContextKeys": names } : {}),
          ...Object.fromEntries(names.map((key) => [`kms:EncryptionContext:${key}`, (context as Context)[key] as string])),
          ...more,
        },
      },
    ];
  }

  function seal(key: Key, plaintext: Uint8Array, context: Context | undefined): Buffer {
    const nonce = Buffer.alloc(12);
    nonce.writeUIntBE(++serial, 6, 6);
    const cipher = createCipheriv("aes-256-gcm", key.material, nonce);
    cipher.setAAD(canonicalContext(context));
    const sealed = Buffer.concat([cipher.update(plaintext), cipher.final()]);
    const id = Buffer.from(key.id);
    return Buffer.concat([Buffer.from([1, id.length]), id, nonce, cipher.getAuthTag(), sealed]);
  }

  /** Id of the key that made a ciphertext, if it is one of ours. */
  function keyOf(blob: Uint8Array | undefined): string | undefined {
    if (blob === undefined || blob.length < 2 || blob[0] !== 1) return undefined;
    const length = blob[1] as number;
    if (blob.length < 2 + length + 28) return undefined;
    return Buffer.from(blob.subarray(2, 2 + length)).toString();
  }

  function open(key: Key, blob: Uint8Array, context: Context | undefined): Buffer {
    const sealed = Buffer.from(blob.subarray(2 + key.id.length));
    const decipher = createDecipheriv("aes-256-gcm", key.material, sealed.subarray(0, 12));
    decipher.setAAD(canonicalContext(context));
    decipher.setAuthTag(sealed.subarray(12, 28));
    try {
      return Buffer.concat([decipher.update(sealed.subarray(28)), decipher.final()]);
    } catch {
      // KMS tells nobody why: a wrong context and a changed byte look the same.
      throw invalidCiphertext();
    }
  }

  const latency = { milliseconds: 12 };

  const encrypt: Operation<EncryptRequest, EncryptResponse> = {
    fields: ["KeyId", "Plaintext", "EncryptionContext", "EncryptionAlgorithm"],
    permissions: (input) => permission("kms:Encrypt", input.KeyId, input.EncryptionContext),
    latency,
    mutates: false,
    call: (input) => {
      requireSymmetric(input.EncryptionAlgorithm);
      const bytes = input.Plaintext?.length ?? 0;
      if (bytes < 1 || bytes > plaintextLimitBytes) {
        throw new AwsError(
          "ValidationException",
          `1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length between 1 and ${plaintextLimitBytes}, found ${bytes}`,
        );
      }
      const { key, config } = usable(input.KeyId);
      return {
        CiphertextBlob: seal(key, input.Plaintext as Uint8Array, input.EncryptionContext),
        KeyId: config.arn,
        EncryptionAlgorithm: "SYMMETRIC_DEFAULT",
      };
    },
  };

  const decrypt: Operation<DecryptRequest, DecryptResponse> = {
    fields: ["KeyId", "CiphertextBlob", "EncryptionContext", "EncryptionAlgorithm"],
    permissions: (input) => permission("kms:Decrypt", keyOf(input.CiphertextBlob), input.EncryptionContext),
    latency,
    mutates: false,
    call: (input) => {
      requireSymmetric(input.EncryptionAlgorithm);
      const id = keyOf(input.CiphertextBlob);
      if (id === undefined || !keys.has(id)) throw invalidCiphertext();
      if (input.KeyId !== undefined && find(input.KeyId).key.id !== id) {
        throw new AwsError("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.");
      }
      const { key, config } = usable(id);
      return {
        Plaintext: open(key, input.CiphertextBlob as Uint8Array, input.EncryptionContext),
        KeyId: config.arn,
        EncryptionAlgorithm: "SYMMETRIC_DEFAULT",
      };
    },
  };

  const generateDataKey: Operation<GenerateDataKeyRequest, GenerateDataKeyResponse> = {
    fields: ["KeyId", "KeySpec", "NumberOfBytes", "EncryptionContext"],
    permissions: (input) => permission("kms:GenerateDataKey", input.KeyId, input.EncryptionContext),
    latency,
    mutates: false,
    call: (input) => {
      if ((input.KeySpec === undefined) === (input.NumberOfBytes === undefined)) {
        throw new AwsError("ValidationException", "Please specify either number of bytes or key spec.");
      }
      const bytes = input.NumberOfBytes ?? (input.KeySpec === "AES_128" ? 16 : 32);
      if (bytes < 1 || bytes > 1024)
        throw new AwsError("ValidationException", "1 validation error detected: Value at 'numberOfBytes' must be between 1 and 1024");
      const { key, config } = usable(input.KeyId);
      // From the key and the count of everything made before: as good as random, and never the same twice.
      const plaintext = Buffer.alloc(bytes);
      for (let at = 0, block = 0; at < bytes; at += 32, block++) {
        createHash("sha256").update(key.material).update(`data key ${serial} ${block}`).digest().copy(plaintext, at);
      }
      return { Plaintext: plaintext, CiphertextBlob: seal(key, plaintext, input.EncryptionContext), KeyId: config.arn };
    },
  };

  const describeKey: Operation<DescribeKeyRequest, DescribeKeyResponse> = {
    fields: ["KeyId"],
    permissions: (input) => permission("kms:DescribeKey", input.KeyId, undefined),
    latency,
    mutates: false,
    call: (input) => {
      const { key, config } = find(input.KeyId);
      return {
        KeyMetadata: {
          AWSAccountId: world.account,
          KeyId: key.id,
          Arn: config.arn,
          CreationDate: new Date(key.createdAtMs),
          Enabled: key.state === "Enabled",
          Description: config.description,
          KeyUsage: "ENCRYPT_DECRYPT",
          KeyState: key.state,
          ...(key.deletionAtMs === undefined ? {} : { DeletionDate: new Date(key.deletionAtMs) }),
          Origin: "AWS_KMS",
          KeyManager: "CUSTOMER",
          KeySpec: "SYMMETRIC_DEFAULT",
          EncryptionAlgorithms: ["SYMMETRIC_DEFAULT"],
          MultiRegion: false,
        },
      };
    },
  };

  const createGrant: Operation<CreateGrantRequest, CreateGrantResponse> = {
    fields: [
      "KeyId",
      "GranteePrincipal",
      "Operations",
      "Constraints",
      "Constraints.EncryptionContextSubset",
      "Constraints.EncryptionContextEquals",
      "Name",
    ],
    permissions: (input) =>
      permission("kms:CreateGrant", input.KeyId, undefined, {
        "kms:GranteePrincipal": input.GranteePrincipal ?? "",
        "kms:GrantOperations": input.Operations ?? [],
        "kms:GrantIsForAWSResource": "false",
      }),
    latency,
    mutates: true,
    call: (input) => {
      const { key } = usable(input.KeyId);
      if (!input.GranteePrincipal || !input.Operations || input.Operations.length === 0) {
        throw new AwsError("ValidationException", "1 validation error detected: a grant needs a grantee principal and at least one operation");
      }
      // A grant of the same name and content is answered with the one that is there (KMS API reference, CreateGrant).
      const constraints = JSON.stringify(input.Constraints ?? {});
      const same = grants.find(
        (grant) =>
          input.Name !== undefined &&
          grant.name === input.Name &&
          grant.keyId === key.id &&
          grant.grantee === input.GranteePrincipal &&
          grant.constraints === constraints &&
          String(grant.operations) === String(input.Operations),
      );
      const grant = same ?? {
        id: uniqueHex("grant"),
        keyId: key.id,
        grantee: input.GranteePrincipal,
        operations: [...input.Operations],
        name: input.Name,
        constraints,
      };
      if (same === undefined) grants.push(grant);
      return { GrantId: grant.id, GrantToken: Buffer.from(`token ${grant.id}`).toString("base64") };
    },
  };

  function uniqueHex(kind: string): string {
    return createHash("sha256").update(`${kind} ${++serial}`).digest("hex");
  }

  function createKey(config: KeyConfig): void {
    const id = config.arn.slice(config.arn.lastIndexOf("/") + 1);
    if (!config.arn.startsWith(`${aliasPrefix}key/`) || id === "") throw new Unmodelled(`key ${config.arn}: not a key of this account and Region`);
    configs.set(id, config);
    for (const alias of config.aliases) aliases.set(alias, id);
    if (keys.has(id)) return;
    const material = createHash("sha256").update(random.fork(id).hex(64)).digest();
    keys.set(id, { id, material, createdAtMs: world.clock.now(), state: config.enabled ? "Enabled" : "Disabled", deletionAtMs: undefined });
  }

  for (const key of world.template?.keys ?? []) createKey(keyFromTemplate(key));

  return {
    name: "kms",
    operations: { Encrypt: encrypt, Decrypt: decrypt, GenerateDataKey: generateDataKey, DescribeKey: describeKey, CreateGrant: createGrant },
    throttle: { code: "ThrottlingException", httpStatus: 400 },
    createKey,
    setKeyState(name, state) {
      const { key, config } = find(name);
      key.state = state;
      key.deletionAtMs = state === "PendingDeletion" ? world.clock.now() + 30 * 86_400_000 : undefined;
      world.note("key state", { key: config.arn, state });
    },
    resolveKey: (name) => find(name).config.arn,
    requireUsable: (name) => void usable(name),
    isGranted: (principal, operation, keyArn) =>
      grants.some(
        (grant) =>
          grant.grantee === principal && (grant.operations as readonly string[]).includes(operation) && configs.get(grant.keyId)?.arn === keyArn,
      ),
    save: (): Saved => structuredClone({ serial, keys: [...keys.values()], grants }),
    load(state) {
      const saved = structuredClone(state as Saved);
      serial = saved.serial;
      keys = new Map(saved.keys.map((key) => [key.id, key]));
      grants = [...saved.grants];
    },
  };
}

/** What KMS keeps to of a key of the template. */
export function keyFromTemplate(key: TemplateKey): KeyConfig {
  const { KeySpec = "SYMMETRIC_DEFAULT", KeyUsage = "ENCRYPT_DECRYPT", MultiRegion = false, Description = "", Enabled = true } = key.properties;
  if (KeySpec !== "SYMMETRIC_DEFAULT" || KeyUsage !== "ENCRYPT_DECRYPT" || MultiRegion !== false) {
    throw new Unmodelled(`AWS::KMS::Key ${key.logicalId}: ${KeySpec} for ${KeyUsage}${MultiRegion === false ? "" : ", multi-Region"}`);
  }
  return { arn: key.arn, description: String(Description), aliases: key.aliases, enabled: Enabled !== false };
}

function requireSymmetric(algorithm: string | undefined): void {
  if (algorithm !== undefined && algorithm !== "SYMMETRIC_DEFAULT") throw new Unmodelled(`KMS encryption algorithm ${algorithm}`);
}

/** Bytes that two contexts share only when they are equal: names in order, so that the order of writing does not matter. */
function canonicalContext(context: Context | undefined): Buffer {
  return Buffer.from(JSON.stringify(Object.entries(context ?? {}).sort(([a], [b]) => (a < b ? -1 : 1))));
}

function invalidCiphertext(): AwsError {
  return new AwsError("InvalidCiphertextException", "");
}
