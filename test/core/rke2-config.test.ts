import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import type { ClusterFile } from "../../core/cluster-file.js";
import { Invalid } from "../../core/failures.js";
import { checkPassword, criticalMismatches, criticalValues, fullToken, renderConfigs } from "../../core/rke2-config.js";
import { editDistance, nearest, ownedKeys, rke2Keys } from "../../core/rke2-keys.js";
import { checkCluster, hasErrors } from "../../core/validate-cluster.js";
import { clusterFile, type Spoil } from "./sample.js";

const endpointDns = "drv-prod-0a1b2c3d-0123456789abcdef.elb.eu-central-1.amazonaws.com";
const render = (file: ClusterFile) => renderConfigs({ file, version: "v1.35.7+rke2r1", endpointDns, uid: "0a1b2c3d4e5f" });
/** RKE2 reads YAML 1.1. */
const read = (text: string | undefined) => parse(text ?? "", { version: "1.1" }) as Record<string, unknown>;
const server = (spoil: Spoil = {}) => read(render(clusterFile(spoil)).server);
const agent = (spoil: Spoil = {}, pool = "general") => read(render(clusterFile(spoil)).agents[pool]);

describe("the configuration of a server", () => {
  it("is this, for a plain cluster", () => {
    expect(server()).toEqual({
      "agent-token-file": "/etc/rancher/rke2/drover-agent-token",
      "cluster-cidr": "10.42.0.0/16",
      cni: ["canal"],
      disable: ["rke2-security-responder"],
      "node-label": ["drover.dev/pool=server"],
      "secrets-encryption-provider": "aescbc",
      "service-cidr": "10.43.0.0/16",
      "tls-san": [endpointDns],
      "token-file": "/etc/rancher/rke2/drover-token",
    });
  });

  it.each<[string, Spoil, Record<string, unknown>]>([
    [
      "names the endpoint first in its certificate, then what the file adds, each once",
      { "spec.rke2.tlsSan": ["api.example.com", endpointDns] },
      { "tls-san": [endpointDns, "api.example.com"] },
    ],
    ["puts Multus before the CNI", { "spec.network.multus": true, "spec.network.cni": "cilium" }, { cni: ["multus", "cilium"] }],
    ["takes the profile", { "spec.security.profile": "cis" }, { profile: "cis" }],
    ["takes SELinux", { "spec.security.selinux": true }, { selinux: true }],
    ["takes the ingress controller", { "spec.rke2.ingress": "none" }, { "ingress-controller": ["none"] }],
    [
      "leaves out what the file disables",
      { "spec.rke2.disable": ["rke2-metrics-server"] },
      { disable: ["rke2-metrics-server", "rke2-security-responder"] },
    ],
    ["takes its taints", { "spec.servers.taints": ["CriticalAddonsOnly=true:NoExecute"] }, { "node-taint": ["CriticalAddonsOnly=true:NoExecute"] }],
    ["takes kubelet arguments", { "spec.rke2.kubeletArgs": ["max-pods=150"] }, { "kubelet-arg": ["max-pods=150"] }],
    [
      "takes keys of servers",
      { "spec.rke2.config": { "etcd-arg": ["quota-backend-bytes=4294967296"] } },
      { "etcd-arg": ["quota-backend-bytes=4294967296"] },
    ],
    [
      "points at its Pod Security file",
      { "spec.security.podSecurity": "restricted" },
      { "pod-security-admission-config-file": "/etc/rancher/rke2/psa.yaml" },
    ],
  ])("%s", (_, spoil, wanted) => {
    expect(server(spoil)).toMatchObject(wanted);
  });

  it("keeps the security responder where the cluster can reach upstream", () => {
    expect(server({ "spec.airGap.enabled": false })).not.toHaveProperty("disable");
  });

  it("never says what differs by node or moment, and holds no secret", () => {
    for (const text of [render(clusterFile()).server, ...Object.values(render(clusterFile()).agents)]) {
      for (const key of ["server", "node-name", "node-ip", "token", "agent-token"]) expect(read(text)).not.toHaveProperty(key);
    }
  });
});

describe("the configuration of an agent", () => {
  it("is this, for a plain cluster", () => {
    expect(agent()).toEqual({ "node-label": ["drover.dev/pool=general"], "token-file": "/etc/rancher/rke2/drover-token" });
  });

  it.each<[string, Spoil, Record<string, unknown>]>([
    [
      "takes labels and taints of its pool",
      { "spec.agentPools.0.labels": { team: "a" }, "spec.agentPools.0.taints": ["gpu=true:NoSchedule"] },
      { "node-label": ["drover.dev/pool=general", "team=a"], "node-taint": ["gpu=true:NoSchedule"] },
    ],
    ["takes the profile and SELinux", { "spec.security": { profile: "cis", selinux: true } }, { profile: "cis", selinux: true }],
    [
      "takes keys for agents from the cluster's configuration",
      { "spec.rke2.config": { "kube-proxy-arg": ["proxy-mode=ipvs"] } },
      { "kube-proxy-arg": ["proxy-mode=ipvs"] },
    ],
    [
      "puts its pool's keys before the cluster's",
      { "spec.rke2.config": { "default-runtime": "runc" }, "spec.agentPools.0.config": { "default-runtime": "nvidia" } },
      { "default-runtime": "nvidia" },
    ],
    [
      "puts its pool's kubelet arguments in the place of the cluster's of the same name",
      { "spec.rke2.kubeletArgs": ["max-pods=100", "v=2"], "spec.agentPools.0.kubeletArgs": ["max-pods=50"] },
      { "kubelet-arg": ["v=2", "max-pods=50"] },
    ],
  ])("%s", (_, spoil, wanted) => {
    expect(agent(spoil)).toMatchObject(wanted);
  });

  it("gets no key of servers, of which RKE2 would warn at every start", () => {
    expect(agent({ "spec.rke2.config": { "etcd-arg": ["a=b"], debug: true } })).toMatchObject({ debug: true });
    expect(agent({ "spec.rke2.config": { "etcd-arg": ["a=b"], debug: true } })).not.toHaveProperty("etcd-arg");
  });

  it("has nothing of another pool's", () => {
    expect(agent({ "spec.agentPools.0.labels": { team: "a" }, "spec.agentPools.0.config": { debug: true } }, "batch")).toEqual({
      "node-label": ["drover.dev/pool=batch"],
      "token-file": "/etc/rancher/rke2/drover-token",
    });
  });
});

describe("every configuration", () => {
  it("has only keys that RKE2 knows for the role", () => {
    const { server: text, agents } = render(
      clusterFile({
        "spec.security": { profile: "cis", selinux: true, podSecurity: "restricted" },
        "spec.rke2.ingress": "traefik",
        "spec.rke2.kubeletArgs": ["v=2"],
        "spec.servers.taints": ["a:NoSchedule"],
      }),
    );
    expect(Object.keys(read(text)).filter((key) => !rke2Keys.has(key))).toEqual([]);
    expect(Object.keys(read(agents.general)).filter((key) => rke2Keys.get(key)?.command !== "both")).toEqual([]);
  });

  it("is refused when a key would be skipped", () => {
    expect(() => render(clusterFile({ "spec.rke2.config": { "cluster-init": true } }))).toThrow(
      /config.yaml of servers: RKE2 has no key cluster-init/,
    );
    expect(() => render(clusterFile({ "spec.agentPools.0.config": { "etcd-arg": "a=b" } }))).toThrow(
      /config.yaml of agents: etcd-arg is a key of servers only/,
    );
  });

  it("means in RKE2's YAML 1.1 what it meant in the file's YAML 1.2", () => {
    const traps = ["on", "yes", "0777", "1:30", "12e3", "~", "null", "- x", "a: b", "#c", "=", "<<", "\u2028", "é", "'", '"', "0x1f", "2001-01-01"];
    const config = { "etcd-arg": traps, "cluster-domain": "no" };
    expect(server({ "spec.rke2.config": config })).toMatchObject(config);
  });

  it("says back every value it was given", () => {
    const anyKey = fc.constantFrom(...[...rke2Keys.values()].filter((key) => !ownedKeys.has(key.name)).map((key) => key.name));
    const scalar = fc.oneof(fc.string({ unit: "grapheme", maxLength: 20 }), fc.integer(), fc.boolean());
    fc.assert(
      fc.property(fc.dictionary(anyKey, fc.oneof(scalar, fc.array(scalar, { minLength: 1, maxLength: 4 })), { maxKeys: 6 }), (config) => {
        const found = server({ "spec.rke2.config": config });
        for (const [name, value] of Object.entries(config)) expect(found[name]).toEqual(value);
      }),
      { seed: 61, numRuns: 300 },
    );
  });

  it("is the same text for the same wishes in another order", () => {
    const one = render(clusterFile({ "spec.rke2.config": { debug: true, "etcd-arg": ["a=b"] } }));
    expect(render(clusterFile({ "spec.rke2.config": { "etcd-arg": ["a=b"], debug: true } }))).toEqual(one);
  });

  it("tells whose it is", () => {
    expect(render(clusterFile()).server.split("\n")[0]).toBe(
      "# Cluster prod (0a1b2c3d4e5f), RKE2 v1.35.7+rke2r1. Written by Drover: a change here is overwritten.",
    );
  });
});

describe("critical values", () => {
  it("are equal on all servers: the first and those that join read one text", () => {
    const any = fc.record({
      "spec.network.clusterCidr": fc.constantFrom("10.42.0.0/16", "10.128.0.0/14"),
      "spec.security.secretsEncryptionProvider": fc.constantFrom("aescbc", "secretbox"),
      "spec.rke2.config": fc.dictionary(fc.constantFrom("embedded-registry", "supervisor-metrics", "disable-kube-proxy"), fc.boolean()),
    });
    fc.assert(
      fc.property(any, (spoil) => {
        expect(criticalMismatches(server(spoil), server(spoil))).toEqual([]);
      }),
      { seed: 62 },
    );
  });

  it("differ when one server says what another leaves to a different default", () => {
    expect(
      criticalMismatches(server(), server({ "spec.rke2.config": { "embedded-registry": true }, "spec.network.serviceCidr": "10.96.0.0/16" })),
    ).toEqual(["embedded-registry", "service-cidr"]);
  });

  it("are equal when one says what the other leaves to the same default", () => {
    expect(criticalMismatches({}, { "cluster-cidr": "10.42.0.0/16", "egress-selector-mode": "agent", "embedded-registry": false })).toEqual([]);
  });

  it("are all that RKE2 compares when a server joins", () => {
    expect(Object.keys(criticalValues({}))).toEqual(
      expect.arrayContaining([
        "cluster-cidr",
        "service-cidr",
        "cluster-dns",
        "cluster-domain",
        "disable-cloud-controller",
        "egress-selector-mode",
        "embedded-registry",
        "supervisor-metrics",
        "secrets-encryption-provider",
      ]),
    );
  });
});

describe("files beside the configuration", () => {
  it("are left out where nothing asks for them", () => {
    const { registries, podSecurity, manifests } = render(clusterFile());
    expect({ registries, podSecurity, manifests }).toEqual({ registries: undefined, podSecurity: undefined, manifests: {} });
  });

  it("hold the registries as given", () => {
    const registries = { mirrors: { "*": { endpoint: ["https://r.example.com"], rewrite: { "^(.*)$": "m/$1" } }, "docker.io": null } };
    expect(read(render(clusterFile({ "spec.rke2.registries": registries })).registries)).toEqual(registries);
  });

  it("hold the manifests as given, ended by a new line", () => {
    expect(render(clusterFile({ "spec.rke2.manifests": { "a.yaml": "kind: x", "b.yaml": "# b\nkind: y\n" } })).manifests).toEqual({
      "a.yaml": "kind: x\n",
      "b.yaml": "# b\nkind: y\n",
    });
  });

  it("restrict pods everywhere but in the system's own namespaces", () => {
    const file = (spoil: Spoil) => read(render(clusterFile({ "spec.security.podSecurity": "restricted", ...spoil })).podSecurity);
    expect(file({})).toMatchObject({
      apiVersion: "apiserver.config.k8s.io/v1",
      kind: "AdmissionConfiguration",
      plugins: [{ name: "PodSecurity", configuration: { defaults: { enforce: "restricted" }, exemptions: { namespaces: ["kube-system"] } } }],
    });
    expect(file({ "spec.network.cni": "calico" })).toMatchObject({
      plugins: [{ configuration: { exemptions: { namespaces: ["kube-system", "calico-apiserver", "calico-system", "tigera-operator"] } } }],
    });
  });
});

describe("a token", () => {
  const password = "k7Qm2Vx9Zr4Tn8Lw1Yc6Bp3Hd5Js0GfA";

  it("is 32 to 64 letters and digits", () => {
    expect(checkPassword(password)).toBeUndefined();
    expect(checkPassword(password.slice(1))).toBe("a token must have 32 to 64 characters, this one has 31");
    expect(checkPassword("a".repeat(65))).toBe("a token must have 32 to 64 characters, this one has 65");
  });

  it.each([
    ["the full form", `K10${password}`, /must not start with K10/],
    ["a colon", `${password}:x`, /letters and digits only/],
    ["a bootstrap token", "abcdef.0123456789abcdef0123456789abcdef", /letters and digits only/],
    ["a line end", `${password}\n`, /letters and digits only/],
  ])("is not %s, and the refusal does not repeat it", (_, wrong, message) => {
    expect(checkPassword(wrong)).toMatch(message);
    expect(checkPassword(wrong)).not.toContain(wrong.slice(0, 8));
  });

  it("carries the CA's hash and the user in its full form", () => {
    const hash = "ab".repeat(32);
    expect(fullToken(hash, "server", password)).toBe(`K10${hash}::server:${password}`);
    expect(fullToken(hash, "node", password)).toBe(`K10${hash}::node:${password}`);
    expect(() => fullToken("ab", "node", password)).toThrow(Invalid);
    expect(() => fullToken(hash, "node", "short")).toThrow(/32 to 64 characters/);
  });
});

describe("the name a person meant", () => {
  it.each([
    ["tls-sans", "tls-san"],
    ["tlsSan", "tls-san"],
    ["TLS_SAN", "tls-san"],
    ["etcd-snapshot-retenton", "etcd-snapshot-retention"],
    ["kubelt-arg", "kubelet-arg"],
    ["selinxu", "selinux"],
    ["xyzzy", undefined],
    ["", undefined],
  ])("by %j is %s", (word, meant) => {
    expect(nearest(word, rke2Keys.keys())).toBe(meant);
  });

  it("is as far as the fewest slips", () => {
    expect([editDistance("", "abc"), editDistance("abc", "acb"), editDistance("kitten", "sitting"), editDistance("same", "same")]).toEqual([
      3, 1, 3, 0,
    ]);
    const word = fc.stringMatching(/^[a-d]{0,8}$/);
    fc.assert(
      fc.property(word, word, (a, b) => {
        expect(editDistance(a, b)).toBe(editDistance(b, a));
        expect(editDistance(a, b) === 0).toBe(a === b);
        expect(editDistance(a, b)).toBeLessThanOrEqual(Math.max(a.length, b.length));
        expect(editDistance(a, b)).toBeGreaterThanOrEqual(Math.abs(a.length - b.length));
      }),
      { seed: 63, numRuns: 500 },
    );
  });
});

describe("a file that passes its checks", () => {
  it("always renders", () => {
    const keys = fc.dictionary(fc.constantFrom(...rke2Keys.keys()), fc.oneof(fc.boolean(), fc.nat({ max: 9 }), fc.constantFrom("x", "5m0s")), {
      maxKeys: 4,
    });
    let passed = 0;
    fc.assert(
      fc.property(keys, keys, (config, own) => {
        const file = clusterFile({ "spec.rke2.config": config, "spec.agentPools.0.config": own });
        if (hasErrors(checkCluster(file))) return;
        passed += 1;
        expect(() => render(file)).not.toThrow();
      }),
      { seed: 64, numRuns: 500 },
    );
    expect(passed).toBeGreaterThan(20);
  });
});
