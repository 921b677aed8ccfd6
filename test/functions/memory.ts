import type { StateStore } from "../../functions/aws/state.js";

/** The state bucket as a map: enough for one writer. */
export function memory(entries: Readonly<Record<string, unknown>> = {}): StateStore & { readonly documents: Map<string, unknown> } {
  const documents = new Map<string, unknown>(Object.entries(entries));
  return {
    documents,
    read: async <T>(key: string) => (documents.has(key) ? { value: structuredClone(documents.get(key)) as T, etag: "1" } : undefined),
    write: async (key, value) => void documents.set(key, value),
    create: async (key, value) => !documents.has(key) && documents.set(key, value) !== undefined,
    replace: async (key, value) => documents.has(key) && documents.set(key, value) !== undefined,
    update: async <T>(key: string, change: (value: T | undefined) => T | undefined) => {
      const changed = change(documents.get(key) as T | undefined);
      if (changed !== undefined) documents.set(key, changed);
      return changed ?? (documents.get(key) as T | undefined);
    },
    remove: async (key) => void documents.delete(key),
    removeVersion: async (key) => documents.delete(key),
    list: async (prefix) => [...documents.keys()].filter((key) => key.startsWith(prefix)),
    names: async (prefix) => {
      const below = [...documents.keys()].filter((key) => key.startsWith(prefix) && key.includes("/", prefix.length));
      return [...new Set(below.map((key) => key.slice(prefix.length, key.indexOf("/", prefix.length))))];
    },
  };
}
