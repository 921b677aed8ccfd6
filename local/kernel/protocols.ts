/**
 * The server side of the AWS protocols: restXml (S3), ec2Query, awsQuery and awsJson, by the SDK's own schemas.
 *
 * `decode` turns an HTTP request of a real SDK client into an operation with its typed input; `encodeOutput` and `encodeError` turn the answer
 * into what that client reads as its typed output or exception (smithy.io: AWS protocols).
 */
import { Buffer } from "node:buffer";
import { AwsError, Unmodelled } from "./contract.js";
import type { Member, OperationSchema, RestRoute, ServiceName, Shape, TimestampFormat } from "./schemas.js";
import { schemasOf, serviceBySigningName } from "./schemas.js";

export interface WireRequest {
  readonly method: string;
  /** Host without port. */
  readonly host: string;
  /** Path and query, as sent. */
  readonly path: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

export interface WireResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** Who signed a request, read from its header or its query. The signature itself is checked elsewhere. */
export interface Credential {
  readonly accessKeyId: string;
  /** Year, month and day, such as 20260105. */
  readonly date: string;
  readonly region: string;
  readonly signing: string;
  readonly presigned: boolean;
}

export interface Decoded {
  readonly service: ServiceName;
  readonly operation: OperationSchema;
  readonly input: Record<string, unknown>;
  readonly credential: Credential;
}

export interface AnswerContext {
  readonly requestId: string;
  /** Virtual time, for the `date` header. */
  readonly now: number;
  readonly method?: string;
}

const empty = Buffer.alloc(0);

/** The credential of a request, or undefined when it is not signed. */
export function credentialOf(request: WireRequest): Credential | undefined {
  const authorization = request.headers.authorization;
  const query = request.path.indexOf("X-Amz-Credential=");
  const scope =
    authorization !== undefined
      ? /Credential=([^,\s]+)/.exec(authorization)?.[1]
      : query === -1
        ? undefined
        : decodeURIComponent(/X-Amz-Credential=([^&]+)/.exec(request.path)?.[1] ?? "");
  const [accessKeyId, date, region, signing] = scope?.split("/") ?? [];
  if (accessKeyId === undefined || date === undefined || region === undefined || signing === undefined) return undefined;
  return { accessKeyId, date, region, signing, presigned: authorization === undefined };
}

/** Reads a signed request to one of the services. Throws Unmodelled for a service, operation or protocol the local cloud does not have. */
export function decode(request: WireRequest, credential: Credential | undefined = credentialOf(request)): Decoded {
  if (credential === undefined) throw new Unmodelled(`unsigned request ${request.method} ${request.host}${withoutQuery(request.path)}`);
  const service = serviceBySigningName(credential.signing);
  if (service === undefined) {
    throw new Unmodelled(`service "${credential.signing}" is not modelled (${request.method} ${request.host}${withoutQuery(request.path)})`);
  }
  const schemas = schemasOf(service);
  switch (schemas.protocol) {
    case "restXml":
      return { service, credential, ...decodeRest(service, request) };
    case "awsJson": {
      const name = request.headers["x-amz-target"]?.split(".").at(-1) ?? "";
      const operation = operationNamed(service, name);
      const type = request.headers["content-type"] ?? "";
      if (!type.startsWith("application/x-amz-json-")) throw new Unmodelled(`${service} ${name}: content type "${type}" is not modelled`);
      const text = Buffer.from(request.body).toString("utf8");
      const input = readJson(operation.input, text === "" ? {} : JSON.parse(text), name) as Record<string, unknown>;
      return { service, credential, operation, input: input ?? {} };
    }
    case "ec2Query":
    case "awsQuery": {
      const tree = queryTree(Buffer.from(request.body).toString("utf8"));
      const name = tree.children.get("Action")?.value ?? "";
      tree.children.delete("Action");
      tree.children.delete("Version");
      const operation = operationNamed(service, name);
      const input =
        operation.input.kind === "unit" ? {} : readQuery(operation.input, operation.input.traits, tree, schemas.protocol === "ec2Query", name);
      return { service, credential, operation, input: input as Record<string, unknown> };
    }
  }
}

function operationNamed(service: ServiceName, name: string): OperationSchema {
  const operation = schemasOf(service).operation(name);
  if (operation === undefined) throw new Unmodelled(`${service} has no operation "${name}"`);
  return operation;
}

const withoutQuery = (path: string) => path.split("?")[0] as string;

// ---------------------------------------------------------------------------------------------------------------- answers

export function encodeOutput(operation: OperationSchema, output: unknown, context: AnswerContext): WireResponse {
  const { protocol, xmlns } = schemasOf(operation.service);
  const value = (output ?? {}) as Record<string, unknown>;
  refuseUnknown(operation.output, value, operation.name);
  switch (protocol) {
    case "awsJson": {
      const text = operation.output.kind === "unit" ? "{}" : JSON.stringify(writeJson(operation.output, value, operation.name));
      return answer(200, "application/x-amz-json-1.1", text, context);
    }
    case "ec2Query": {
      const members = operation.output.kind === "unit" ? "" : xmlMembers(operation.output, value, operation.name);
      const text = `<${operation.name}Response xmlns="${xmlns}"><requestId>${context.requestId}</requestId>${members}</${operation.name}Response>`;
      return answer(200, "text/xml;charset=UTF-8", text, context);
    }
    case "awsQuery": {
      const { name } = operation;
      const members = operation.output.kind === "unit" ? "" : xmlMembers(operation.output, value, name);
      const meta = `<ResponseMetadata><RequestId>${context.requestId}</RequestId></ResponseMetadata>`;
      return answer(200, "text/xml", `<${name}Response xmlns="${xmlns}"><${name}Result>${members}</${name}Result>${meta}</${name}Response>`, context);
    }
    case "restXml":
      return encodeRest(operation, value, xmlns, context);
  }
}

/** An error as the service would send it: the SDK's exception then has `code` as its name. */
export function encodeError(service: ServiceName, error: AwsError, context: AnswerContext): WireResponse {
  const schemas = schemasOf(service);
  const shape = schemas.error(error.code);
  const detail = shape === undefined ? { ...error.detail } : error.detail;
  switch (schemas.protocol) {
    case "awsJson": {
      const messageName = [...(shape?.members.keys() ?? [])].find((name) => name.toLowerCase() === "message") ?? "message";
      const members = shape === undefined ? detail : (writeJson(shape, detail, error.code) as Record<string, unknown>);
      const text = JSON.stringify({ __type: error.code, ...members, [messageName]: error.message });
      return answer(error.httpStatus, "application/x-amz-json-1.1", text, context, { "x-amzn-errortype": error.code });
    }
    case "ec2Query": {
      const text = `<Response><Errors><Error><Code>${escapeXml(error.code)}</Code><Message>${escapeXml(error.message)}</Message></Error></Errors><RequestID>${context.requestId}</RequestID></Response>`;
      return answer(error.httpStatus, "text/xml;charset=UTF-8", text, context);
    }
    case "awsQuery": {
      // On the wire the code is the one of the API reference (LoadBalancerNotFound), in the SDK the exception's (LoadBalancerNotFoundException).
      const code = shape?.traits.awsQueryError?.[0] ?? error.code;
      const members = shape === undefined ? "" : xmlMembers(shape, { ...detail, Message: undefined }, error.code);
      const type = error.httpStatus < 500 ? "Sender" : "Receiver";
      const text = `<ErrorResponse xmlns="${schemas.xmlns}"><Error><Type>${type}</Type><Code>${escapeXml(code)}</Code><Message>${escapeXml(error.message)}</Message>${members}</Error><RequestId>${context.requestId}</RequestId></ErrorResponse>`;
      return answer(error.httpStatus, "text/xml", text, context);
    }
    case "restXml": {
      const bodiless = context.method === "HEAD" || error.httpStatus === 304;
      const members = Object.entries(detail)
        .filter(([, value]) => value !== undefined)
        .map(([name, value]) => `<${name}>${escapeXml(String(value))}</${name}>`)
        .join("");
      const text = bodiless
        ? ""
        : `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${escapeXml(error.code)}</Code><Message>${escapeXml(error.message)}</Message>${members}<RequestId>${context.requestId}</RequestId></Error>`;
      return answer(error.httpStatus, "application/xml", text, context);
    }
  }
}

function answer(status: number, type: string, text: string | Uint8Array, context: AnswerContext, more: Record<string, string> = {}): WireResponse {
  const body = typeof text === "string" ? Buffer.from(text, "utf8") : text;
  return {
    status,
    headers: {
      date: new Date(context.now).toUTCString(),
      "x-amzn-requestid": context.requestId,
      "x-amz-request-id": context.requestId,
      "content-type": type,
      "content-length": String(body.byteLength),
      ...more,
    },
    body,
  };
}

/** A service that answers with a member its API does not have would be lost silently: the client drops it. */
function refuseUnknown(shape: Shape, value: Record<string, unknown>, operation: string): void {
  for (const name of Object.keys(value)) {
    if (value[name] !== undefined && name !== "$metadata" && !shape.members.has(name)) {
      throw new Unmodelled(`${operation}: the answer has no member "${name}" in AWS's API`);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------------- JSON

function readJson(shape: Shape, value: unknown, path: string): unknown {
  if (value === null || value === undefined) return undefined;
  switch (shape.kind) {
    case "struct": {
      const result: Record<string, unknown> = {};
      for (const [name, inner] of Object.entries(value as Record<string, unknown>)) {
        const member = shape.members.get(name);
        if (member === undefined) throw new Unmodelled(`${path}: no member "${name}" in AWS's API`);
        const read = readJson(member.shape, inner, `${path}.${name}`);
        if (read !== undefined) result[name] = read;
      }
      return result;
    }
    case "list":
      return (value as readonly unknown[]).map((item) => readJson(shape.item.shape, item, path));
    case "map":
      return Object.fromEntries(Object.entries(value as object).map(([key, item]) => [key, readJson(shape.item.shape, item, path)]));
    case "timestamp":
      return typeof value === "number" ? new Date(Math.round(value * 1000)) : new Date(String(value));
    case "blob":
      return Buffer.from(String(value), "base64");
    default:
      return value;
  }
}

function writeJson(shape: Shape, value: unknown, path: string): unknown {
  if (value === null || value === undefined) return undefined;
  switch (shape.kind) {
    case "struct": {
      const result: Record<string, unknown> = {};
      const source = value as Record<string, unknown>;
      refuseUnknown(shape, source, path);
      for (const name of Object.keys(source)) {
        if (source[name] === undefined || name === "$metadata") continue;
        result[name] = writeJson((shape.members.get(name) as Member).shape, source[name], `${path}.${name}`);
      }
      return result;
    }
    case "list":
      return (value as readonly unknown[]).map((item) => writeJson(shape.item.shape, item, path));
    case "map":
      return Object.fromEntries(Object.entries(value as object).map(([key, item]) => [key, writeJson(shape.item.shape, item, path)]));
    case "timestamp":
      return writeTimestampJson(value, shape, path);
    case "blob":
      return Buffer.from(value as Uint8Array).toString("base64");
    default:
      return value;
  }
}

function writeTimestampJson(value: unknown, shape: Shape, path: string): number | string {
  const date = dateOf(value, path);
  return shape.timestampFormat === "date-time" ? isoSeconds(date) : date.getTime() / 1000;
}

/** Dates may be given as Date or as milliseconds since the epoch. */
function dateOf(value: unknown, path: string): Date {
  const date = value instanceof Date ? value : typeof value === "number" ? new Date(value) : undefined;
  if (date === undefined || Number.isNaN(date.getTime()))
    throw new Unmodelled(`${path}: a timestamp must be a Date or milliseconds, not ${typeof value}`);
  return date;
}

const isoSeconds = (date: Date) => date.toISOString().replace(".000Z", "Z");

// ------------------------------------------------------------------------------------------------------------------ query

interface QueryNode {
  value?: string;
  readonly children: Map<string, QueryNode>;
}

function queryTree(body: string): QueryNode {
  const root: QueryNode = { children: new Map() };
  for (const pair of body.split("&")) {
    if (pair === "") continue;
    const at = pair.indexOf("=");
    const key = decodeForm(at === -1 ? pair : pair.slice(0, at));
    let node = root;
    for (const part of key.split(".")) {
      let next = node.children.get(part);
      if (next === undefined) {
        next = { children: new Map() };
        node.children.set(part, next);
      }
      node = next;
    }
    node.value = at === -1 ? "" : decodeForm(pair.slice(at + 1));
  }
  return root;
}

const decodeForm = (text: string) => decodeURIComponent(text.replaceAll("+", " "));
const capital = (name: string) => name.charAt(0).toUpperCase() + name.slice(1);

function readQuery(shape: Shape, traits: Member["traits"], node: QueryNode, ec2: boolean, path: string): unknown {
  switch (shape.kind) {
    case "struct": {
      const result: Record<string, unknown> = {};
      const left = new Set(node.children.keys());
      for (const [name, member] of shape.members) {
        const key = ec2 ? (member.traits.ec2QueryName ?? capital(member.traits.xmlName ?? name)) : (member.traits.xmlName ?? name);
        const child = node.children.get(key);
        if (child === undefined) continue;
        left.delete(key);
        result[name] = readQuery(member.shape, member.traits, child, ec2, `${path}.${name}`);
      }
      const [unknown] = left;
      if (unknown !== undefined) throw new Unmodelled(`${path}: no member "${unknown}" in AWS's API`);
      return result;
    }
    case "list": {
      const flat = ec2 || traits.xmlFlattened !== undefined;
      const items = flat ? node : node.children.get(shape.item.traits.xmlName ?? "member");
      if (items === undefined) return [];
      return numbered(items).map((item) => readQuery(shape.item.shape, shape.item.traits, item, ec2, path));
    }
    case "map": {
      const entries = traits.xmlFlattened !== undefined ? node : node.children.get("entry");
      if (entries === undefined) return {};
      const keyName = shape.key.traits.xmlName ?? "key";
      const valueName = shape.item.traits.xmlName ?? "value";
      return Object.fromEntries(
        numbered(entries).map((entry) => [
          entry.children.get(keyName)?.value ?? "",
          readQuery(shape.item.shape, shape.item.traits, entry.children.get(valueName) ?? { children: new Map() }, ec2, path),
        ]),
      );
    }
    default:
      return readText(shape, node.value ?? "", "date-time", path);
  }
}

function numbered(node: QueryNode): QueryNode[] {
  return [...node.children].sort(([a], [b]) => Number(a) - Number(b)).map(([, child]) => child);
}

/** A simple value from its text, as in a query, an XML element, a header. */
function readText(shape: Shape, text: string, format: TimestampFormat, path: string): unknown {
  switch (shape.kind) {
    case "string":
    case "document":
    case "bigNumber":
      return text;
    case "number": {
      const number = Number(text);
      if (text === "" || Number.isNaN(number)) throw new AwsError("InvalidParameterValue", `Value (${text}) for parameter ${path} is invalid.`);
      return number;
    }
    case "boolean":
      return text === "true";
    case "timestamp":
      return (shape.timestampFormat ?? format) === "epoch-seconds" ? new Date(Number(text) * 1000) : new Date(text);
    case "blob":
      return Buffer.from(text, "base64");
    default:
      throw new Unmodelled(`${path}: a ${shape.kind} where a simple value is expected`);
  }
}

function writeText(shape: Shape, value: unknown, format: TimestampFormat, path: string): string {
  switch (shape.kind) {
    case "timestamp": {
      const date = dateOf(value, path);
      const wanted = shape.timestampFormat ?? format;
      return wanted === "http-date" ? date.toUTCString() : wanted === "date-time" ? isoSeconds(date) : String(date.getTime() / 1000);
    }
    case "blob":
      return Buffer.from(value as Uint8Array).toString("base64");
    case "list":
    case "map":
    case "struct":
      throw new Unmodelled(`${path}: a ${shape.kind} where a simple value is expected`);
    default:
      if (typeof value === "object") throw new Unmodelled(`${path}: an object where AWS's API has a ${shape.kind}`);
      return String(value);
  }
}

// -------------------------------------------------------------------------------------------------------------------- XML

function escapeXml(text: string): string {
  return /[&<>"'\r\n]/.test(text) ? text.replace(/[&<>"'\r\n]/g, (character) => xmlEntities[character] as string) : text;
}
const xmlEntities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&apos;",
  "\r": "&#xD;",
  "\n": "&#xA;",
};

function xmlMembers(shape: Shape, value: Record<string, unknown>, path: string): string {
  refuseUnknown(shape, value, path);
  let text = "";
  for (const [name, member] of shape.members) {
    const inner = value[name];
    if (inner === undefined || inner === null || member.traits.xmlAttribute !== undefined) continue;
    if (member.traits.httpHeader !== undefined || member.traits.httpPrefixHeaders !== undefined) continue;
    text += xmlMember(member, inner, `${path}.${name}`);
  }
  return text;
}

function xmlMember(member: Member, value: unknown, path: string): string {
  const name = member.own.xmlName ?? member.name;
  const { shape } = member;
  switch (shape.kind) {
    case "struct": {
      const attributes = [...shape.members.values()]
        .filter((inner) => inner.traits.xmlAttribute !== undefined && (value as Record<string, unknown>)[inner.name] !== undefined)
        .map((inner) => ` ${inner.traits.xmlName ?? inner.name}="${escapeXml(String((value as Record<string, unknown>)[inner.name]))}"`)
        .join("");
      const [prefix, uri] = member.traits.xmlNamespace ?? [];
      const namespace = uri === undefined ? "" : ` ${prefix ? `xmlns:${prefix}` : "xmlns"}="${uri}"`;
      return `<${name}${namespace}${attributes}>${xmlMembers(shape, value as Record<string, unknown>, path)}</${name}>`;
    }
    case "list": {
      const flat = member.traits.xmlFlattened !== undefined;
      const itemName = flat ? name : (shape.item.traits.xmlName ?? "member");
      const item: Member = { ...shape.item, own: { ...shape.item.own, xmlName: itemName } };
      const items = (value as readonly unknown[]).map((each) => xmlMember(item, each, path)).join("");
      return flat ? items : `<${name}>${items}</${name}>`;
    }
    case "map": {
      const flat = member.traits.xmlFlattened !== undefined;
      const keyName = shape.key.traits.xmlName ?? "key";
      const item: Member = { ...shape.item, own: { ...shape.item.own, xmlName: shape.item.traits.xmlName ?? "value" } };
      const entryName = flat ? name : "entry";
      const entries = Object.entries(value as object)
        .map(([key, each]) => `<${entryName}><${keyName}>${escapeXml(key)}</${keyName}>${xmlMember(item, each, path)}</${entryName}>`)
        .join("");
      return flat ? entries : `<${name}>${entries}</${name}>`;
    }
    default:
      return `<${name}>${escapeXml(writeText(shape, value, "date-time", path))}</${name}>`;
  }
}

interface XmlNode {
  readonly name: string;
  readonly children: XmlNode[];
  text: string;
}

/** Reads the XML that an SDK client sends: elements, text, entities. No DTD, no processing beyond. */
function parseXml(text: string): XmlNode {
  const root: XmlNode = { name: "", children: [], text: "" };
  const open = [root];
  const token = /<\?[^>]*\?>|<!--[\s\S]*?-->|<!\[CDATA\[([\s\S]*?)\]\]>|<\/([^\s>]+)\s*>|<([^\s/>!]+)((?:[^>"']|"[^"]*"|'[^']*')*?)(\/?)>|([^<]+)/y;
  for (let at = 0; at < text.length; at = token.lastIndex) {
    token.lastIndex = at;
    const match = token.exec(text);
    if (match === null) throw malformedXml();
    const [, cdata, close, start, , selfClosing, plain] = match;
    const current = open.at(-1) as XmlNode;
    if (cdata !== undefined) current.text += cdata;
    else if (plain !== undefined) current.text += unescapeXml(plain);
    else if (start !== undefined) {
      const node: XmlNode = { name: start.replace(/^.*:/, ""), children: [], text: "" };
      current.children.push(node);
      if (selfClosing !== "/") open.push(node);
    } else if (close !== undefined && (open.length === 1 || open.pop()?.name !== close.replace(/^.*:/, ""))) {
      throw malformedXml();
    }
  }
  const [only] = root.children;
  if (open.length !== 1 || only === undefined || root.children.length !== 1) throw malformedXml();
  return only;
}

const malformedXml = () =>
  new AwsError("MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema", 400);

function unescapeXml(text: string): string {
  return text.replace(/&(#x?[0-9A-Fa-f]+|\w+);/g, (whole, entity: string) => {
    if (entity.startsWith("#x")) return String.fromCodePoint(Number.parseInt(entity.slice(2), 16));
    if (entity.startsWith("#")) return String.fromCodePoint(Number.parseInt(entity.slice(1), 10));
    return { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" }[entity] ?? whole;
  });
}

function readXml(shape: Shape, traits: Member["traits"], nodes: readonly XmlNode[], path: string): unknown {
  const [node] = nodes;
  if (node === undefined) return undefined;
  switch (shape.kind) {
    case "struct": {
      const result: Record<string, unknown> = {};
      for (const [name, member] of shape.members) {
        const wire = member.own.xmlName ?? name;
        const found = node.children.filter((child) => child.name === wire);
        if (found.length > 0) result[name] = readXml(member.shape, member.traits, found, `${path}.${name}`);
      }
      return result;
    }
    case "list": {
      const items = traits.xmlFlattened !== undefined ? nodes : node.children;
      return items.map((item) => readXml(shape.item.shape, shape.item.traits, [item], path));
    }
    case "map": {
      const entries = traits.xmlFlattened !== undefined ? nodes : node.children;
      const keyName = shape.key.traits.xmlName ?? "key";
      const valueName = shape.item.traits.xmlName ?? "value";
      return Object.fromEntries(
        entries.map((entry) => [
          entry.children.find((child) => child.name === keyName)?.text ?? "",
          readXml(
            shape.item.shape,
            shape.item.traits,
            entry.children.filter((child) => child.name === valueName),
            path,
          ),
        ]),
      );
    }
    default:
      return readText(shape, node.text, "date-time", path);
  }
}

// --------------------------------------------------------------------------------------------------------------- REST (S3)

/** Bucket and key of an S3 request, path-style or virtual-hosted. */
export function s3Address(host: string, path: string): { readonly bucket: string; readonly key: string } {
  const segments = withoutQuery(path).slice(1);
  const virtual = /^(.+)\.s3[.-][a-z0-9.-]*amazonaws\.com$/.exec(host);
  if (virtual?.[1] !== undefined) return { bucket: virtual[1], key: decodeKey(segments) };
  const slash = segments.indexOf("/");
  return slash === -1
    ? { bucket: decodeKey(segments), key: "" }
    : { bucket: decodeKey(segments.slice(0, slash)), key: decodeKey(segments.slice(slash + 1)) };
}

function decodeKey(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new AwsError("InvalidURI", "Couldn't parse the specified URI.", 400);
  }
}

function decodeRest(service: ServiceName, request: WireRequest): { operation: OperationSchema; input: Record<string, unknown> } {
  const { bucket, key } = s3Address(request.host, request.path);
  const at = request.path.indexOf("?");
  const query = new URLSearchParams(at === -1 ? "" : request.path.slice(at + 1));
  const { headers, body } = unchunk(request);
  const route = schemasOf(service).rest.find((candidate) => matches(candidate, request.method, key !== "", query, headers));
  if (route === undefined)
    throw new Unmodelled(`${service}: no operation for ${request.method} ${withoutQuery(request.path)}?${[...query.keys()].join("&")}`);
  const { operation } = route;
  const input: Record<string, unknown> = {};
  const inBody: Member[] = [];
  let payload: Member | undefined;
  for (const member of operation.input.members.values()) {
    const { traits, name } = member;
    if (traits.httpLabel !== undefined) input[name] = name === "Bucket" ? bucket : key;
    else if (traits.httpQuery !== undefined) {
      const values = query.getAll(traits.httpQuery);
      if (values.length > 0) input[name] = readHeader(member, values.join(","), "date-time", name);
    } else if (traits.httpHeader !== undefined) {
      const text = headers[traits.httpHeader.toLowerCase()];
      if (text !== undefined) input[name] = readHeader(member, text, "http-date", name);
    } else if (traits.httpPrefixHeaders !== undefined) {
      const prefix = traits.httpPrefixHeaders.toLowerCase();
      const found = Object.entries(headers).filter(([header]) => header.startsWith(prefix));
      if (found.length > 0) input[name] = Object.fromEntries(found.map(([header, text]) => [header.slice(prefix.length), text]));
    } else if (traits.httpPayload !== undefined) payload = member;
    else inBody.push(member);
  }
  if (payload !== undefined && (payload.shape.kind === "blob" || payload.shape.kind === "string")) {
    input[payload.name] = payload.shape.kind === "blob" ? body : Buffer.from(body).toString("utf8");
  } else if (body.byteLength > 0 && (payload !== undefined || inBody.length > 0)) {
    const root = parseXml(Buffer.from(body).toString("utf8"));
    if (payload !== undefined) input[payload.name] = readXml(payload.shape, payload.traits, [root], payload.name);
    else Object.assign(input, readXml(operation.input, operation.input.traits, [root], operation.name));
  }
  return { operation, input };
}

function matches(route: RestRoute, method: string, hasKey: boolean, query: URLSearchParams, headers: Readonly<Record<string, string>>): boolean {
  if (route.method !== method || route.hasKey !== hasKey) return false;
  const id = query.get("x-id");
  if (id !== null && id !== route.operation.name && route.id !== undefined) return false;
  for (const [name, value] of route.query) {
    const found = query.get(name);
    if (found === null || (value !== "" && found !== value)) return false;
  }
  return route.requiredQuery.every((name) => query.has(name)) && route.requiredHeaders.every((name) => headers[name] !== undefined);
}

function readHeader(member: Member, text: string, format: TimestampFormat, path: string): unknown {
  if (member.shape.kind !== "list") return readText(member.shape, text, format, path);
  return text.split(",").map((item) => readText(member.shape.item.shape, item.trim(), format, path));
}

/** Undoes `aws-chunked`: the SDK sends a stream in signed or unsigned chunks with its checksum as a trailer (S3 API reference, sigv4-streaming). */
function unchunk(request: WireRequest): { headers: Readonly<Record<string, string>>; body: Uint8Array } {
  const encoding = request.headers["content-encoding"] ?? "";
  const signed = request.headers["x-amz-content-sha256"] ?? "";
  if (!encoding.includes("aws-chunked") && !signed.startsWith("STREAMING-")) return { headers: request.headers, body: request.body };
  const source = Buffer.from(request.body);
  const parts: Buffer[] = [];
  const headers: Record<string, string> = { ...request.headers };
  let at = 0;
  for (;;) {
    const end = source.indexOf("\r\n", at);
    const size = end === -1 ? Number.NaN : Number.parseInt(source.toString("latin1", at, end), 16);
    if (Number.isNaN(size)) throw new AwsError("IncompleteBody", "The request body terminated unexpectedly", 400);
    at = end + 2;
    if (size === 0) break;
    parts.push(source.subarray(at, at + size));
    at += size + 2;
  }
  for (const line of source.toString("latin1", at).split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  const left = encoding
    .split(",")
    .map((each) => each.trim())
    .filter((each) => each !== "aws-chunked" && each !== "");
  if (left.length > 0) headers["content-encoding"] = left.join(",");
  else delete headers["content-encoding"];
  const body = Buffer.concat(parts);
  if (headers["content-length"] !== undefined) headers["content-length"] = String(body.byteLength);
  return { headers, body };
}

function encodeRest(operation: OperationSchema, value: Record<string, unknown>, xmlns: string, context: AnswerContext): WireResponse {
  const headers: Record<string, string> = {};
  let status = operation.traits.http?.[2] ?? 200;
  let payload: Member | undefined;
  const inBody: Record<string, unknown> = {};
  for (const member of operation.output.kind === "unit" ? [] : operation.output.members.values()) {
    const { traits, name } = member;
    const inner = value[name];
    if (traits.httpPayload !== undefined) payload = member;
    if (inner === undefined || inner === null) continue;
    if (traits.httpHeader !== undefined) headers[traits.httpHeader.toLowerCase()] = writeHeader(member, inner, name);
    else if (traits.httpPrefixHeaders !== undefined) {
      for (const [key, text] of Object.entries(inner as Record<string, string>)) headers[traits.httpPrefixHeaders + key] = text;
    } else if (traits.httpResponseCode !== undefined) status = inner as number;
    else inBody[name] = inner;
  }
  const sent = payload === undefined ? undefined : value[payload.name];
  if (payload !== undefined && (payload.shape.kind === "blob" || payload.shape.kind === "string")) {
    const body = sent === undefined ? empty : typeof sent === "string" ? Buffer.from(sent, "utf8") : (sent as Uint8Array);
    if (headers["content-range"] !== undefined) status = 206;
    return answer(status, "application/octet-stream", body, context, headers);
  }
  if (payload !== undefined && sent !== undefined) {
    const named: Member = { ...payload, own: { ...payload.own, xmlName: payload.traits.xmlName ?? payload.shape.name } };
    return answer(status, "application/xml", `<?xml version="1.0" encoding="UTF-8"?>${xmlMember(named, sent, operation.name)}`, context, headers);
  }
  const hasBody = payload === undefined && [...operation.output.members.values()].some((member) => isInBody(member));
  if (!hasBody || status === 204 || context.method === "HEAD") return answer(status, "application/xml", "", context, headers);
  const name = operation.output.traits.xmlName ?? operation.output.name;
  const text = `<?xml version="1.0" encoding="UTF-8"?><${name} xmlns="${xmlns}">${xmlMembers(operation.output, inBody, operation.name)}</${name}>`;
  return answer(status, "application/xml", text, context, headers);
}

function isInBody({ traits }: Member): boolean {
  return (
    traits.httpHeader === undefined &&
    traits.httpPrefixHeaders === undefined &&
    traits.httpPayload === undefined &&
    traits.httpResponseCode === undefined
  );
}

function writeHeader(member: Member, value: unknown, path: string): string {
  if (member.shape.kind !== "list") return writeText(member.shape, value, "http-date", path);
  return (value as readonly unknown[]).map((item) => writeText(member.shape.item.shape, item, "http-date", path)).join(",");
}
