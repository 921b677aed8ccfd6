/**
 * Presigned S3 requests, held to what was signed (Signature Version 4, query string authentication).
 *
 * Pure: facts in, the signer out, an AwsError where S3 would refuse. The signature is recomputed, so a changed method, path, query or signed header is
 * found the way S3 finds it.
 */
import { createHash, createHmac } from "node:crypto";
import { AwsError } from "../kernel/contract.js";
import type { WireRequest } from "../kernel/protocols.js";

/** Credentials that may have signed. `expiresAtMs` is when the session of a role ends; a person's key has none. */
export interface SigningCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
  readonly expiresAtMs?: number;
  /** ARN of the role or user, and the name of the function that it is: who the request counts as. */
  readonly principal: string;
  readonly name: string;
}

export interface PresignedFacts {
  readonly region: string;
  readonly nowMs: number;
  /** The credentials of an access key, also when their session is over. */
  readonly credentials: (accessKeyId: string) => SigningCredentials | undefined;
}

export interface CheckedRequest {
  readonly signer: SigningCredentials;
  readonly signedHeaders: readonly string[];
  readonly expiresAtMs: number;
  /** Condition keys that only a presigned request has, for the permissions of the operation. */
  readonly context: Readonly<Record<string, string>>;
}

/** Longest life of a presigned URL, in seconds (S3 user guide, presigned URLs). */
export const longestPresignedSeconds = 604_800;
const authentication = ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"] as const;
/** How far a signer's clock may run ahead. */
const clockSkewMilliseconds = 900_000;

/**
 * Answers who signed, or throws what S3 answers: AuthorizationQueryParametersError, InvalidAccessKeyId, InvalidToken, ExpiredToken, AccessDenied
 * (expired, not yet valid, or an `x-amz-` header that was not signed), SignatureDoesNotMatch (anything that differs from what was signed).
 */
export function checkPresigned(request: WireRequest, facts: PresignedFacts): CheckedRequest {
  const query = queryOf(request);
  const parameter = (name: (typeof authentication)[number]): string => {
    const value = query.get(name);
    if (value === undefined) throw malformed(`Query-string authentication version 4 requires the ${authentication.join(", ")} parameters.`);
    return value;
  };
  for (const name of authentication) parameter(name);
  if (parameter("X-Amz-Algorithm") !== "AWS4-HMAC-SHA256") throw malformed('X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"');
  const [accessKeyId = "", day = "", region = "", service = "", terminator = "", ...more] = parameter("X-Amz-Credential").split("/");
  if (terminator !== "aws4_request" || more.length > 0) throw malformed("Error parsing the X-Amz-Credential parameter; the Credential is mal-formed");
  if (service !== "s3")
    throw malformed(`Error parsing the X-Amz-Credential parameter; incorrect service "${service}". This endpoint belongs to "s3".`);
  if (region !== facts.region)
    throw malformed(`Error parsing the X-Amz-Credential parameter; the region '${region}' is wrong; expecting '${facts.region}'`);
  const signedAtMs = amzDate(parameter("X-Amz-Date"));
  if (!parameter("X-Amz-Date").startsWith(`${day}T`)) throw malformed("Invalid credential date: it is not the date of X-Amz-Date");
  const seconds = /^\d{1,7}$/.test(parameter("X-Amz-Expires")) ? Number(parameter("X-Amz-Expires")) : Number.NaN;
  if (!(seconds <= longestPresignedSeconds)) throw malformed(`X-Amz-Expires must be a number of seconds from 0 to ${longestPresignedSeconds}`);

  const signer = facts.credentials(accessKeyId);
  if (signer === undefined) throw new AwsError("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.", 403);
  if (query.get("X-Amz-Security-Token") !== signer.sessionToken)
    throw new AwsError("InvalidToken", "The provided token is malformed or otherwise invalid.");
  if (signer.expiresAtMs !== undefined && facts.nowMs >= signer.expiresAtMs) throw new AwsError("ExpiredToken", "The provided token has expired.");
  if (signedAtMs > facts.nowMs + clockSkewMilliseconds) throw denied("Request is not yet valid");
  const expiresAtMs = signedAtMs + seconds * 1000;
  if (facts.nowMs >= expiresAtMs) throw denied("Request has expired");

  const signedHeaders = parameter("X-Amz-SignedHeaders").split(";");
  if (!signedHeaders.includes("host")) throw denied("Header 'host' must be among the signed headers");
  const unsigned = Object.keys(request.headers).filter((name) => name.startsWith("x-amz-") && !signedHeaders.includes(name));
  if (unsigned.length > 0) {
    throw new AwsError("AccessDenied", "There were headers present in the request which were not signed", 403, {
      HeadersNotSigned: unsigned.sort().join(", "),
    });
  }
  const canonical = [
    request.method,
    s3Path(request.path),
    [...query]
      .filter(([name]) => name !== "X-Amz-Signature")
      .map(([name, value]) => `${encode(name)}=${encode(value)}`)
      .sort()
      .join("&"),
    ...signedHeaders.map((name) => `${name}:${(request.headers[name] ?? "").trim().replace(/ +/g, " ")}`),
    "",
    signedHeaders.join(";"),
    request.headers["x-amz-content-sha256"] ?? "UNSIGNED-PAYLOAD",
  ].join("\n");
  const toSign = ["AWS4-HMAC-SHA256", parameter("X-Amz-Date"), `${day}/${region}/s3/aws4_request`, sha256(canonical)].join("\n");
  const key = [day, region, "s3", "aws4_request"].reduce<string | Buffer>((secret, part) => hmac(secret, part), `AWS4${signer.secretAccessKey}`);
  // A signed header that does not come counts as changed, also where it was signed as empty.
  const isMissing = signedHeaders.some((name) => request.headers[name] === undefined);
  if (isMissing || hmac(key, toSign).toString("hex") !== parameter("X-Amz-Signature")) {
    throw new AwsError(
      "SignatureDoesNotMatch",
      "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
      403,
    );
  }
  const context = {
    "s3:authType": "REST-QUERY-STRING",
    "s3:signatureversion": "AWS4-HMAC-SHA256",
    "s3:signatureAge": String(Math.max(0, facts.nowMs - signedAtMs)),
  };
  return { signer, signedHeaders, expiresAtMs, context };
}

/** A request for a URL as it goes over the wire: with its host and the length of its body, whoever sends it. */
export function wireRequest(
  url: string,
  request: { readonly method: string; readonly headers?: Readonly<Record<string, string>>; readonly body?: Uint8Array },
): WireRequest {
  const [, host, path = ""] = /^https?:\/\/([^/?#]+)([^#]*)$/.exec(url) ?? [];
  if (host === undefined) throw new AwsError("InvalidURI", "Couldn't parse the specified URI.");
  const headers: Record<string, string> = { host: host.toLowerCase() };
  if (request.body !== undefined) headers["content-length"] = String(request.body.length);
  for (const [name, value] of Object.entries(request.headers ?? {})) headers[name.toLowerCase()] = value;
  return {
    method: request.method.toUpperCase(),
    host: host.toLowerCase().replace(/:\d+$/, ""),
    path: path.startsWith("/") ? path : `/${path}`,
    headers,
    body: request.body ?? new Uint8Array(),
  };
}

/** Puts back what the presigner moved from headers into the query (checksums, metadata, Object Lock): S3 reads it from either place. */
export function unhoist(request: WireRequest): WireRequest {
  const [path = "/"] = request.path.split("?");
  const headers = { ...request.headers };
  const left: string[] = [];
  for (const [name, value] of queryOf(request)) {
    const header = name.toLowerCase();
    if (name.startsWith("X-Amz-") || !header.startsWith("x-amz-")) left.push(`${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
    else headers[header] = value;
  }
  return { ...request, path: left.length === 0 ? path : `${path}?${left.join("&")}`, headers };
}

/** Decoded query, without the leniency of URLSearchParams: a plus stays a plus. */
function queryOf(request: WireRequest): Map<string, string> {
  const at = request.path.indexOf("?");
  const pairs = at === -1 ? [] : request.path.slice(at + 1).split("&");
  try {
    return new Map(
      pairs.map((pair): [string, string] => {
        const equals = pair.indexOf("=");
        return equals === -1
          ? [decodeURIComponent(pair), ""]
          : [decodeURIComponent(pair.slice(0, equals)), decodeURIComponent(pair.slice(equals + 1))];
      }),
    );
  } catch {
    throw new AwsError("InvalidURI", "Couldn't parse the specified URI.");
  }
}

/** The path as S3 signs it: each element encoded once. */
function s3Path(path: string): string {
  const [elements = "/"] = path.split("?");
  try {
    return elements
      .split("/")
      .map((element) => encode(decodeURIComponent(element)))
      .join("/");
  } catch {
    throw new AwsError("InvalidURI", "Couldn't parse the specified URI.");
  }
}

function amzDate(text: string): number {
  const parts = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  if (parts === null) throw malformed("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"");
  const [year, month, day, hour, minute, second] = parts.slice(1).map(Number) as [number, number, number, number, number, number];
  return Date.UTC(year, month - 1, day, hour, minute, second);
}

function encode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
const hmac = (key: string | Buffer, text: string) => createHmac("sha256", key).update(text).digest();
const malformed = (message: string) => new AwsError("AuthorizationQueryParametersError", message);
const denied = (message: string) => new AwsError("AccessDenied", message, 403);
