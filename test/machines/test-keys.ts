/** Keys that tests write into etcd and count there, by etcd's own API in its JSON form: past RKE2, past Kubernetes, past Drover. */

export interface TestKeys {
  /** Writes so many keys from a number on; each hundred is one revision of etcd. */
  write(from: number, count: number): Promise<void>;
  written(): Promise<number>;
}

/** @param sh runs a shell on a server */
export function testKeys(sh: (script: string) => Promise<string>): TestKeys {
  const etcd = (path: string, body: object) => {
    const tls = "/var/lib/rancher/rke2/server/tls/etcd";
    const flags = `--cacert ${tls}/server-ca.crt --cert ${tls}/server-client.crt --key ${tls}/server-client.key`;
    return sh(`curl --silent --fail ${flags} --data @- https://127.0.0.1:2379/v3/kv/${path} <<'BODY'\n${JSON.stringify(body)}\nBODY`);
  };
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  return {
    async write(from, count) {
      for (let first = from; first < from + count; first += 100) {
        const keys = Array.from({ length: Math.min(100, from + count - first) }, (_, index) => `/registry/test/${first + index}`);
        await etcd("txn", { success: keys.map((key) => ({ request_put: { key: base64(key), value: base64(`value of ${key}`) } })) });
      }
    },
    async written() {
      const reply = await etcd("range", { key: base64("/registry/test/"), range_end: base64("/registry/test0"), count_only: true });
      return Number((JSON.parse(reply) as { count?: string }).count ?? "0");
    },
  };
}
