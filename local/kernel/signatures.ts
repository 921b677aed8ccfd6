/**
 * Signature Version 4 in the Authorization header, the verifying side: who calls the HTTP API, and whether the request is what was signed.
 *
 * Written from AWS's description (IAM user guide, "Create a signed AWS API request"); the signing side is the SDK's, which tests hold this against.
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import type { WireRequest } from "./protocols.js";

export interface Signature {
  readonly accessKeyId: string;
  /** `20260105/eu-central-1/execute-api/aws4_request`. */
  readonly scope: string;
  readonly signedHeaders: readonly string[];
  readonly signature: string;
  /** When it was signed, in milliseconds since the epoch. */
  readonly signedAt: number;
}

/** Reads the signature of a request; undefined when there is none, or it is malformed. */
export function readSignature(request: WireRequest): Signature | undefined {
  const match = /^AWS4-HMAC-SHA256 Credential=([^/,\s]+)\/([^,\s]+), ?SignedHeaders=([^,\s]+), ?Signature=([0-9a-f]{64})$/.exec(
    request.headers.authorization ?? "",
  );
  const signedAt = timeOf(request.headers["x-amz-date"]);
  if (match === null || signedAt === undefined) return undefined;
  const [, accessKeyId, scope, signedHeaders, signature] = match as unknown as [string, string, string, string, string];
  return { accessKeyId, scope, signedHeaders: signedHeaders.split(";"), signature, signedAt };
}

/** Whether the secret made this signature over this very request, its body included. */
export function isSignedWith(secret: string, signature: Signature, request: WireRequest): boolean {
  const [path = "/", search = ""] = request.path.split("?");
  const query = search
    .split("&")
    .filter((pair) => pair !== "")
    .map((pair) => {
      const at = pair.indexOf("=");
      const [name, value] = at === -1 ? [pair, ""] : [pair.slice(0, at), pair.slice(at + 1)];
      return `${recode(name)}=${recode(value)}`;
    })
    .sort()
    .join("&");
  if (!["host", "x-amz-date"].every((name) => signature.signedHeaders.includes(name))) return false;
  const headers = signature.signedHeaders.map((name) => `${name}:${(request.headers[name] ?? "").trim().replace(/ +/g, " ")}\n`).join("");
  const body = sha256(request.body);
  const promised = request.headers["x-amz-content-sha256"];
  if (promised !== undefined && promised !== body) return false;
  // The path is signed encoded once more than it is sent (every service but S3).
  const canonicalPath = path.split("/").map(encode).join("/");
  const canonical = [request.method, canonicalPath, query, headers, signature.signedHeaders.join(";"), body].join("\n");
  const toSign = ["AWS4-HMAC-SHA256", isoBasic(signature.signedAt), signature.scope, sha256(canonical)].join("\n");
  const key = signature.scope.split("/").reduce<Buffer | string>((last, part) => hmac(last, part), `AWS4${secret}`);
  return timingSafeEqual(hmac(key, toSign), Buffer.from(signature.signature, "hex"));
}

const sha256 = (data: string | Uint8Array) => createHash("sha256").update(data).digest("hex");
const hmac = (key: string | Buffer, text: string) => createHmac("sha256", key).update(text).digest();
const isoBasic = (at: number) => `${new Date(at).toISOString().replace(/[-:]/g, "").slice(0, 15)}Z`;

function timeOf(basic: string | undefined): number | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(basic ?? "");
  if (match === null) return undefined;
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number) as [number, number, number, number, number, number];
  return Date.UTC(year, month - 1, day, hour, minute, second);
}

function encode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}

function recode(text: string): string {
  try {
    return encode(decodeURIComponent(text));
  } catch {
    return text;
  }
}
