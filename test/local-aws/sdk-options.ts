/** What an SDK client needs to speak to the services of a tiny world: no socket, no permission asked, unmodelled fields refused. */
import { Readable } from "node:stream";
import { expect } from "vitest";
import { AwsError } from "../../local/kernel/contract.js";
import { decode, encodeError, encodeOutput } from "../../local/kernel/protocols.js";
import { fieldTree, unmodelledFields } from "../../local/kernel/schemas.js";
import { calls, type TinyWorld } from "./tiny-world.js";

interface SdkRequest {
  readonly method: string;
  readonly hostname: string;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | readonly string[] | null>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

/** @param seen hears of every operation before it is answered */
export function sdkOptions(world: TinyWorld, seen: (operation: string) => void = () => {}) {
  const handle = async (request: SdkRequest) => {
    const query = Object.entries(request.query ?? {}).flatMap(([name, value]) =>
      [value].flat().map((each) => (each === null ? name : `${encodeURIComponent(name)}=${encodeURIComponent(each)}`)),
    );
    const chunks: Buffer[] = [];
    if (request.body instanceof Readable) for await (const chunk of request.body) chunks.push(Buffer.from(chunk));
    else if (request.body instanceof Uint8Array) chunks.push(Buffer.from(request.body.buffer, request.body.byteOffset, request.body.byteLength));
    else if (request.body !== undefined) chunks.push(Buffer.from(String(request.body)));
    const { service, operation, input } = decode({
      method: request.method,
      host: request.hostname,
      path: request.path + (query.length === 0 ? "" : `?${query.join("&")}`),
      headers: Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name.toLowerCase(), value])),
      body: Buffer.concat(chunks),
    });
    seen(operation.name);
    const found = world.service(service);
    expect(unmodelledFields(input, operation.input, fieldTree(found.operations[operation.name]?.fields ?? [])), operation.name).toEqual([]);
    const context = { requestId: "11111111-2222-3333-4444-555555555555", now: world.clock.now(), method: request.method };
    const answer = () => {
      try {
        return encodeOutput(operation, calls(world, found)(operation.name, input), context);
      } catch (error) {
        if (error instanceof AwsError) return encodeError(service, error, context);
        throw error;
      }
    };
    const { status, headers, body } = answer();
    return { response: { statusCode: status, headers: { ...headers }, body: Readable.from([Buffer.from(body)]) } };
  };
  return {
    region: "eu-central-1",
    credentials: { accessKeyId: "AKIAEXAMPLE", secretAccessKey: "secret" },
    maxAttempts: 1,
    requestHandler: { handle },
  };
}
