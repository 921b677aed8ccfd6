/**
 * A certificate authority of one local cloud, and certificates of the hosts it plays: X.509 version 3, written by hand in DER (RFC 5280), ECDSA on
 * P-256. Keys live in memory and end with the cloud.
 */
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";

export interface Authority {
  readonly certificate: string;
  issue(names: readonly string[]): { readonly certificate: string; readonly key: string };
}

const dayMilliseconds = 86_400_000;

export function createAuthority(name: string, nowMs: number): Authority {
  const keys = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  // From weeks ago: a machine whose clock is minutes off meets a valid certificate, as it would at S3.
  const validity = sequence(time(nowMs - 30 * dayMilliseconds), time(nowMs + 365 * dayMilliseconds));
  const certify = (subject: string, key: KeyObject, extensions: readonly Buffer[]) => {
    const body = sequence(
      tagged(0xa0, integer(Buffer.from([2]))),
      integer(Buffer.concat([Buffer.from([1]), randomBytes(15)])),
      ecdsaWithSha256,
      distinguishedName(name),
      validity,
      distinguishedName(subject),
      key.export({ type: "spki", format: "der" }),
      tagged(0xa3, sequence(...extensions)),
    );
    const signature = sign("sha256", body, keys.privateKey);
    return pem("CERTIFICATE", sequence(body, ecdsaWithSha256, bitString(signature)));
  };
  const authorityId = keyId(keys.publicKey);
  return {
    certificate: certify(name, keys.publicKey, [
      extension("55:1d:13", true, sequence(boolean(true))),
      // keyCertSign and cRLSign
      extension("55:1d:0f", true, tagged(0x03, Buffer.from([1, 0b0000_0110]))),
      extension("55:1d:0e", false, tagged(0x04, authorityId)),
    ]),
    issue(names) {
      const leaf = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
      const certificate = certify(names[0] ?? name, leaf.publicKey, [
        extension("55:1d:13", true, sequence()),
        // digitalSignature
        extension("55:1d:0f", true, tagged(0x03, Buffer.from([7, 0b1000_0000]))),
        // serverAuth
        extension("55:1d:25", false, sequence(identifier("2b:06:01:05:05:07:03:01"))),
        extension("55:1d:23", false, sequence(tagged(0x80, authorityId))),
        extension("55:1d:11", false, sequence(...names.map((each) => tagged(0x82, Buffer.from(each, "ascii"))))),
      ]);
      return { certificate, key: leaf.privateKey.export({ type: "pkcs8", format: "pem" }) as string };
    },
  };
}

function tagged(tag: number, content: Buffer): Buffer {
  const { length } = content;
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}
const sequence = (...parts: readonly Buffer[]) => tagged(0x30, Buffer.concat(parts));
const integer = (value: Buffer) => tagged(0x02, value);
const boolean = (value: boolean) => tagged(0x01, Buffer.from([value ? 0xff : 0]));
const bitString = (value: Buffer) => tagged(0x03, Buffer.concat([Buffer.from([0]), value]));
/** Encoded already: the bytes of the identifier as RFC 5280 and RFC 5758 give them. */
const identifier = (bytes: string) => tagged(0x06, Buffer.from(bytes.replaceAll(":", ""), "hex"));
const ecdsaWithSha256 = sequence(identifier("2a:86:48:ce:3d:04:03:02"));
const distinguishedName = (name: string) => sequence(tagged(0x31, sequence(identifier("55:04:03"), tagged(0x0c, Buffer.from(name, "utf8")))));
const extension = (id: string, critical: boolean, value: Buffer) =>
  sequence(identifier(id), ...(critical ? [boolean(true)] : []), tagged(0x04, value));
/** GeneralizedTime is for years from 2050 on. */
const time = (ms: number) => {
  const text = new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, "");
  return text < "2050" ? tagged(0x17, Buffer.from(text.slice(2))) : tagged(0x18, Buffer.from(text));
};
const keyId = (key: KeyObject) =>
  createHash("sha1")
    .update(key.export({ type: "spki", format: "der" }))
    .digest();
const pem = (label: string, der: Buffer) =>
  `-----BEGIN ${label}-----\n${der
    .toString("base64")
    .match(/.{1,64}/g)
    ?.join("\n")}\n-----END ${label}-----\n`;
