/** A store for the nodes of a test: what was given can be fetched, in part too, and what has a slot can be created once. */
import type { MachineAnswer, MachineFetch } from "../../local/nodes/contract.js";

export interface NodeStore {
  /** Address under which these bytes can be fetched. */
  give(name: string, body: Uint8Array | string): string;
  /** Address that can create one object of this name. */
  slot(name: string): string;
  taken(name: string): Buffer | undefined;
  /** How often an address was asked for. */
  asked(address: string): number;
  readonly fetch: MachineFetch;
}

/** @param origin such as https://store.example/ */
export function nodeStore(origin: string): NodeStore {
  const objects = new Map<string, Buffer>();
  const slots = new Set<string>();
  const requests = new Map<string, number>();
  let given = 0;
  const answer = (status: number, body: Uint8Array = Buffer.alloc(0), headers: Readonly<Record<string, string>> = {}): MachineAnswer => ({
    status,
    headers,
    body,
  });
  return {
    give(name, body) {
      // Another body is another address: what was given once stays as it was.
      const address = `${name}-${++given}`;
      objects.set(address, typeof body === "string" ? Buffer.from(body) : Buffer.from(body.buffer, body.byteOffset, body.byteLength));
      return `${origin}${address}`;
    },
    slot(name) {
      slots.add(name);
      return `${origin}${name}`;
    },
    taken: (name) => objects.get(name),
    asked: (address) => requests.get(address) ?? 0,
    fetch(url, { method, headers, body: sent }) {
      requests.set(url, (requests.get(url) ?? 0) + 1);
      const name = url.slice(origin.length);
      const body = objects.get(name);
      if (method === "PUT") {
        if (!slots.has(name)) return answer(403);
        if (body !== undefined) return answer(412);
        objects.set(name, Buffer.from(sent ?? []));
        return answer(200);
      }
      if (body === undefined) return answer(404);
      const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(headers["range"] ?? "") ?? [];
      if (first === undefined) return answer(200, body);
      if (Number(first) >= body.length) return answer(416);
      const end = Math.min(body.length - 1, last === "" || last === undefined ? body.length - 1 : Number(last));
      return answer(206, body.subarray(Number(first), end + 1), { "content-range": `bytes ${first}-${end}/${body.length}` });
    },
  };
}
