/**
 * X.509 certificates, made with what Node has: keys and signatures. The little of DER that a certificate needs is written here.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes, sign, X509Certificate } from "node:crypto";
import { isIPv4 } from "node:net";

export interface Pair {
  readonly certificate: string;
  readonly key: string;
}

export interface Wish {
  readonly commonName: string;
  readonly organizations?: readonly string[];
  /** Addresses and DNS names of a serving certificate. */
  readonly names?: readonly string[];
  readonly usages?: readonly ("client" | "server")[];
  readonly days: number;
  /** Private key to keep; a new one when absent. */
  readonly key?: string;
}

const der = (tag: number, ...parts: Uint8Array[]): Buffer => {
  const body = Buffer.concat(parts);
  const length = body.length < 128 ? [body.length] : body.length < 256 ? [0x81, body.length] : [0x82, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
};
const sequence = (...parts: Uint8Array[]) => der(0x30, ...parts);
const utf8 = (text: string) => der(0x0c, Buffer.from(text));
const oid = (text: string) => {
  const [first = 0, second = 0, ...rest] = text.split(".").map(Number);
  const bytes = [first * 40 + second];
  for (const number of rest) {
    const septets = [number & 127];
    for (let left = number >> 7; left > 0; left >>= 7) septets.unshift((left & 127) | 128);
    bytes.push(...septets);
  }
  return der(0x06, Buffer.from(bytes));
};
const time = (date: Date) => der(0x18, Buffer.from(`${date.toISOString().replace(/[-:T]/g, "").slice(0, 14)}Z`));
const extension = (id: string, critical: boolean, value: Uint8Array) =>
  sequence(oid(id), ...(critical ? [der(0x01, Buffer.from([255]))] : []), der(0x04, value));
const ecdsaWithSha256 = sequence(oid("1.2.840.10045.4.3.2"));

function name(commonName: string, organizations: readonly string[]): Buffer {
  const attribute = (id: string, value: string) => der(0x31, sequence(oid(id), utf8(value)));
  return sequence(...organizations.map((each) => attribute("2.5.4.10", each)), attribute("2.5.4.3", commonName));
}

/** The subject of a certificate, as it stands in it: an issuer's name must be the same bytes. */
function subjectOf(certificate: string): Buffer {
  const { subject } = new X509Certificate(certificate);
  const value = (key: string) => [...subject.matchAll(new RegExp(`^${key}=(.*)$`, "gm"))].map((match) => match[1] as string);
  return name(value("CN")[0] as string, value("O"));
}

export function newKey(): string {
  return generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey.export({ type: "sec1", format: "pem" }) as string;
}

/** Issues a certificate; one that no authority issues is an authority itself. */
export function issue(wish: Wish, authority?: Pair): Pair {
  const key = wish.key ?? newKey();
  const publicKey = createPublicKey(createPrivateKey(key)).export({ type: "spki", format: "der" });
  const subject = name(wish.commonName, wish.organizations ?? []);
  const serial = randomBytes(16);
  serial[0] = ((serial[0] as number) & 0x3f) | 0x40; // positive, and no leading zero
  const usages = (wish.usages ?? []).map((usage) => oid(usage === "server" ? "1.3.6.1.5.5.7.3.1" : "1.3.6.1.5.5.7.3.2"));
  const names = (wish.names ?? []).map((each) => (isIPv4(each) ? der(0x87, Buffer.from(each.split(".").map(Number))) : der(0x82, Buffer.from(each))));
  const extensions = authority
    ? [
        extension("2.5.29.15", true, der(0x03, Buffer.from([5, 0xa0]))),
        extension("2.5.29.37", false, sequence(...usages)),
        ...(names.length > 0 ? [extension("2.5.29.17", false, sequence(...names))] : []),
      ]
    : [extension("2.5.29.15", true, der(0x03, Buffer.from([2, 0xa4]))), extension("2.5.29.19", true, sequence(der(0x01, Buffer.from([255]))))];
  const begin = new Date(Date.now() - 3_600_000); // an hour back: clocks differ
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    ecdsaWithSha256,
    authority ? subjectOf(authority.certificate) : subject,
    sequence(time(begin), time(new Date(Date.now() + wish.days * 86_400_000))),
    subject,
    publicKey,
    der(0xa3, sequence(...extensions)),
  );
  const signature = sign("sha256", body, createPrivateKey(authority?.key ?? key));
  const whole = sequence(body, ecdsaWithSha256, der(0x03, Buffer.from([0]), signature));
  const lines = whole.toString("base64").match(/.{1,64}/g) as string[];
  return { certificate: `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`, key };
}

export function daysLeft(certificate: string): number {
  return (Date.parse(new X509Certificate(certificate).validTo) - Date.now()) / 86_400_000;
}

/** Hash of a CA bundle as tokens name it: of the PEM bytes while there is one certificate, else of the root's DER form. */
export function caHash(bundle: string): string {
  const certificates = bundle.match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? [];
  const sha256 = createHash("sha256");
  if (certificates.length <= 1) return sha256.update(bundle).digest("hex");
  return sha256.update(new X509Certificate(certificates.at(-1) as string).raw).digest("hex");
}
