/**
 * The `http` and `https` modules of the sandbox: the surface that the SDK's Node handler uses, with the local cloud at the other end of the wire.
 *
 * No socket, no thread: a request is handed over when it is ended, the response arrives as a stream that holds its whole body.
 */
import { Buffer } from "node:buffer";
import type { IncomingHttpHeaders } from "node:http";
import { METHODS, STATUS_CODES } from "node:http";
import { Readable, Writable } from "node:stream";
import { Unmodelled } from "./contract.js";
import type { WireRequest, WireResponse } from "./protocols.js";

export type Serve = (request: WireRequest) => Promise<WireResponse>;

interface RequestOptions {
  readonly method?: string;
  readonly host?: string;
  readonly hostname?: string;
  readonly port?: string | number;
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string | number | readonly string[]>>;
}

/** What a client holds while it waits: enough of ClientRequest for a handler that writes a body and listens. */
class LocalRequest extends Writable {
  readonly #chunks: Buffer[] = [];
  readonly #headers: Record<string, string> = {};
  readonly #options: RequestOptions;
  readonly #serve: Serve;
  aborted = false;
  readonly method: string;
  readonly path: string;
  readonly host: string;
  readonly socket = undefined;
  readonly reusedSocket = true;

  constructor(options: RequestOptions, serve: Serve) {
    super({ autoDestroy: false });
    this.#options = options;
    this.#serve = serve;
    this.method = (options.method ?? "GET").toUpperCase();
    this.path = options.path ?? "/";
    this.host = (options.hostname ?? options.host ?? "").toLowerCase();
    for (const [name, value] of Object.entries(options.headers ?? {})) this.#headers[name.toLowerCase()] = String(value);
    // A body that waits for permission to be sent gets it, once the client listens.
    if (this.#headers.expect === "100-continue") process.nextTick(() => this.emit("continue"));
  }

  override _write(chunk: Buffer | string, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#chunks.push(typeof chunk === "string" ? Buffer.from(chunk, encoding) : chunk);
    done();
  }

  override _final(done: (error?: Error | null) => void): void {
    done();
    const request: WireRequest = {
      method: this.method,
      host: this.host,
      path: this.path,
      headers: { ...this.#headers, host: this.#headers.host ?? this.host },
      body: this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks),
    };
    void this.#serve(request).then((response) => {
      if (this.aborted) return;
      this.emit("response", new LocalResponse(response, this.#options));
      this.emit("close");
    });
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.aborted = true;
    done(error);
  }

  abort(): void {
    this.destroy();
  }
  setHeader(name: string, value: string | number): this {
    this.#headers[name.toLowerCase()] = String(value);
    return this;
  }
  getHeader(name: string): string | undefined {
    return this.#headers[name.toLowerCase()];
  }
  removeHeader(name: string): void {
    delete this.#headers[name.toLowerCase()];
  }
  setTimeout(): this {
    return this;
  }
  setNoDelay(): void {}
  setSocketKeepAlive(): void {}
  flushHeaders(): void {}
}

class LocalResponse extends Readable {
  readonly statusCode: number;
  readonly statusMessage: string;
  readonly headers: IncomingHttpHeaders;
  readonly rawHeaders: readonly string[];
  readonly httpVersion = "1.1";
  readonly complete = true;
  readonly url: string;
  #body: Uint8Array | undefined;

  constructor(response: WireResponse, options: RequestOptions) {
    super();
    this.statusCode = response.status;
    this.statusMessage = STATUS_CODES[response.status] ?? "";
    this.headers = { ...response.headers };
    this.rawHeaders = Object.entries(response.headers).flat();
    this.url = options.path ?? "/";
    this.#body = response.body;
  }

  override _read(): void {
    if (this.#body !== undefined && this.#body.byteLength > 0) this.push(this.#body);
    this.#body = undefined;
    this.push(null);
  }

  setTimeout(): this {
    return this;
  }
}

class LocalAgent {
  readonly sockets = {};
  readonly requests = {};
  readonly freeSockets = {};
  readonly maxSockets: number;
  readonly keepAlive: boolean;
  readonly keepAliveMsecs = 1000;

  constructor(readonly options: { readonly maxSockets?: number; readonly keepAlive?: boolean } = {}) {
    this.maxSockets = options.maxSockets ?? Number.POSITIVE_INFINITY;
    this.keepAlive = options.keepAlive ?? false;
  }
  destroy(): void {}
}

/** The module as `require("node:https")` gives it. */
export function httpModule(serve: Serve): Record<string, unknown> {
  const request = (...given: readonly unknown[]): LocalRequest => {
    const callback = given.find((each) => typeof each === "function") as ((response: LocalResponse) => void) | undefined;
    const url = typeof given[0] === "string" ? new URL(given[0]) : given[0] instanceof URL ? given[0] : undefined;
    const own = given.find((each) => typeof each === "object" && each !== null && !(each instanceof URL)) as RequestOptions | undefined;
    const options = { ...(url === undefined ? {} : { host: url.hostname, path: url.pathname + url.search }), ...own };
    const sent = new LocalRequest(options, serve);
    if (callback !== undefined) sent.once("response", callback);
    return sent;
  };
  const get = (...given: readonly unknown[]): LocalRequest => {
    const sent = request(...given);
    sent.end();
    return sent;
  };
  const module = {
    request,
    get,
    Agent: LocalAgent,
    globalAgent: new LocalAgent(),
    METHODS,
    STATUS_CODES,
    createServer: () => {
      throw new Unmodelled("a handler that listens on a port");
    },
  };
  return { ...module, default: module };
}
