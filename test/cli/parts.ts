/** The bytes of a request's body, whether it holds them or names a part of a file. */
import { closeSync, openSync, readSync } from "node:fs";
import type { HttpRequest } from "../../cli/http.js";

export function readPart(body: HttpRequest["body"]): Uint8Array {
  if (body === undefined) return new Uint8Array();
  if (!("file" in body)) return body;
  const bytes = Buffer.alloc(body.bytes);
  const file = openSync(body.file, "r");
  try {
    return bytes.subarray(0, readSync(file, bytes, 0, body.bytes, body.start));
  } finally {
    closeSync(file);
  }
}
