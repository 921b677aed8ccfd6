/**
 * Tokens in their forms: the password alone, `K10<CA hash>::<user>:<password>`, and kubeadm's `<6>.<16>`, which no server takes.
 */
import { createCipheriv, createDecipheriv, createHash, pbkdf2Sync, randomBytes } from "node:crypto";

export interface Token {
  readonly caHash: string | undefined;
  readonly user: string | undefined;
  readonly password: string;
}

const bootstrapForm = /^[a-z0-9]{6}\.[a-z0-9]{16}$/;

/** @throws Error with RKE2's text */
export function parseToken(text: string): Token {
  if (!text.startsWith("K10")) return { caHash: undefined, user: undefined, password: text };
  const rest = text.slice(3);
  const split = rest.indexOf("::");
  if (split < 0) throw new Error("invalid token format");
  const caHash = rest.slice(0, split);
  const credentials = rest.slice(split + 2);
  if (caHash.length !== 64) throw new Error("invalid token CA hash length");
  if (bootstrapForm.test(credentials)) return { caHash, user: undefined, password: credentials };
  const colon = credentials.indexOf(":");
  if (colon < 1 || colon === credentials.length - 1) throw new Error("invalid token format");
  return { caHash, user: credentials.slice(0, colon), password: credentials.slice(colon + 1) };
}

/** Password of a server token. */
export function serverPassword(text: string): string {
  const { password } = parseToken(text);
  if (bootstrapForm.test(password))
    throw new Error("failed to normalize server token; must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>");
  return password;
}

/** First twelve digits of the password's hash: names the bootstrap data in etcd, and the token of a snapshot. */
export const tokenHash = (password: string) => createHash("sha256").update(password).digest("hex").slice(0, 12);

const derive = (password: string, salt: Buffer) => pbkdf2Sync(password, salt, 4096, 32, "sha1");

export function encrypt(password: string, text: string): string {
  const salt = randomBytes(8);
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", derive(password, salt), nonce);
  const sealed = Buffer.concat([nonce, cipher.update(text, "utf8"), cipher.final(), cipher.getAuthTag()]);
  return `${salt.toString("hex")}:${sealed.toString("base64")}`;
}

/** @throws Error when the password is another */
export function decrypt(password: string, text: string): string {
  const [salt = "", body = ""] = text.split(":");
  const sealed = Buffer.from(body, "base64");
  const decipher = createDecipheriv("aes-256-gcm", derive(password, Buffer.from(salt, "hex")), sealed.subarray(0, 12));
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()]).toString("utf8");
}
