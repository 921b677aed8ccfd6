/** One HTTP request over the network. Bodies are bytes, or a part of a file that is read as it is sent. */
import { createReadStream } from "node:fs";
import { request as requestPlain } from "node:http";
import { request as requestTls } from "node:https";

export interface FileRange {
  readonly file: string;
  readonly start: number;
  readonly bytes: number;
}

export interface HttpRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | FileRange;
  /** How long nothing at all may happen on the connection. */
  readonly silenceMilliseconds: number;
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** Rejects when there is no answer; the error's `code` says why. Any answer, whatever its status, resolves. */
export type Send = (request: HttpRequest, signal: AbortSignal) => Promise<HttpResponse>;

/** An answer is a list of nodes at most; a longer one is not from Drover. */
const answerLimitBytes = 32 * 1024 * 1024;

export const sendOverNetwork: Send = (request, signal) =>
  new Promise((resolve, reject) => {
    const { body, url, method } = request;
    const bytes = body === undefined ? 0 : "file" in body ? body.bytes : body.byteLength;
    const open = url.protocol === "http:" ? requestPlain : requestTls;
    const outgoing = open(url, { method, headers: { ...request.headers, "content-length": String(bytes) }, signal });
    outgoing.setTimeout(request.silenceMilliseconds, () => {
      const error: NodeJS.ErrnoException = new Error(`nothing came for ${request.silenceMilliseconds / 1000} s`);
      error.code = "ETIMEDOUT";
      outgoing.destroy(error);
    });
    outgoing.on("error", reject);
    outgoing.on("response", (incoming) => {
      const chunks: Buffer[] = [];
      let length = 0;
      incoming.on("data", (chunk: Buffer) => {
        length += chunk.byteLength;
        if (length > answerLimitBytes) outgoing.destroy(new Error("the answer is longer than any of Drover's"));
        else chunks.push(chunk);
      });
      incoming.on("error", reject);
      incoming.on("end", () => {
        const headers = Object.fromEntries(Object.entries(incoming.headers).map(([name, value]) => [name, String(value)]));
        resolve({ status: incoming.statusCode ?? 0, headers, body: Buffer.concat(chunks) });
      });
    });
    if (body === undefined) outgoing.end();
    else if (!("file" in body)) outgoing.end(body);
    else {
      const source = createReadStream(body.file, { start: body.start, end: body.start + body.bytes - 1 });
      source.on("error", (error) => outgoing.destroy(error));
      source.pipe(outgoing);
    }
  });
