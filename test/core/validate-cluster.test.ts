import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { clusterFileLimitBytes } from "../../core/api.js";
import { archivesOfCluster } from "../../core/archives.js";
import {
  checkAgainstAccount,
  checkAgainstStore,
  checkCluster,
  faultSummary,
  parseClusterFile,
  validateCluster,
} from "../../core/validate-cluster.js";
import { asText, clusterFile, type Spoil, shown, written } from "./sample.js";

/** What a person is told of a file: the parser's faults, or the rules' where it parses. */
function told(spoil: Spoil): string[] {
  const { file, faults } = parseClusterFile(JSON.stringify(written(spoil)));
  return shown(file === undefined ? faults : checkCluster(file)).map((line) => line.replace(/ \(line \d+\)$/, ""));
}

type Case = [requirement: string, spoil: Spoil, answer: string];

describe("a cluster file without faults", () => {
  it("is read with every default filled in and nothing to say against it", () => {
    const { file, faults } = validateCluster(asText());
    expect(faults).toEqual([]);
    expect(file?.spec.network).toMatchObject({ cni: "canal", clusterCidr: "10.42.0.0/16", serviceCidr: "10.43.0.0/16" });
    expect(file?.spec.protection.delete).toBe(true);
  });

  it("may be JSON", () => {
    expect(validateCluster(JSON.stringify(written())).file).toEqual(clusterFile());
  });

  it("may use a few aliases", () => {
    const text = asText()
      .replace(/- m6i\.large\n/, "- &type m6i.large\n")
      .replace(/- m6i\.large\n(?=.*market)/s, "- *type\n");
    expect(text).toContain("*type");
    expect(validateCluster(text).file?.spec.agentPools[1]?.instanceTypes).toEqual(["m6i.large"]);
  });
});

describe("text that is no cluster file", () => {
  it("is refused over the size limit, counted in UTF-8 bytes", () => {
    const fill = (bytes: number) => `${asText()}# ${"é".repeat(Math.floor((bytes - Buffer.byteLength(asText()) - 2) / 2))}`;
    const [fits, tooLarge] = [fill(clusterFileLimitBytes), fill(clusterFileLimitBytes + 2)];
    expect(tooLarge.length).toBeLessThan(clusterFileLimitBytes);
    expect(validateCluster(fits).faults).toEqual([]);
    expect(shown(validateCluster(tooLarge).faults)).toEqual([
      expect.stringMatching(/^error : the cluster file has 20000\d bytes; at most 200000 are allowed/),
    ]);
  });

  it.each([
    ["a tab as indentation", "spec:\n\tversion: x\n", /line 2, column 1: /],
    ["an unclosed list", "spec:\n  - [1, 2\nkind: x\n", /line 3, column 1: /],
    ["a key given twice", "kind: Cluster\nkind: Cluster\n", /line 2, column 1: "kind" is given twice$/],
    ["a key given twice deep inside", 'a:\n  - b: {c: 1, d: 2, "c": 3}\n', /line 2, column 21: "c" is given twice$/],
    ["an unknown tag", "kind: !python/object x\n", /line 1, column 7: Unresolved tag/],
    ["an alias to nothing", "kind: *nobody\n", /line 1, column 7|cannot be read: Unresolved alias/],
    ["a second document", "kind: Cluster\n---\nkind: Cluster\n", /must hold one document; found 2, the second at line [23]/],
    ["nothing", "", /the cluster file is empty$/],
    ["comments alone", "# later\n", /the cluster file is empty$/],
    ["a list", "- kind: Cluster\n", /must be a mapping with apiVersion, kind, metadata and spec; found a list$/],
    ["a sentence", "please make me a cluster\n", /must be a mapping .*; found "please make me a cluster"$/],
    [
      "aliases that multiply without end",
      `a: &a [x,x,x,x,x,x,x,x,x]\n${[..."bcdefgh"].map((name, at) => `${name}: &${name} [${Array(9).fill(`*${"abcdefgh"[at]}`)}]`).join("\n")}\n`,
      /cannot be read: Excessive alias count/,
    ],
    ["mappings nested without end", "{a: ".repeat(30_000), /nested too deeply$/],
    ["nesting without end", "[".repeat(150_000), /not YAML as wanted|nested too deeply/],
  ])("is refused when it is %s, in one fault with its place", (_, text, message) => {
    const { file, faults } = parseClusterFile(text);
    expect(file).toBeUndefined();
    expect(faults).toHaveLength(1);
    expect(faults[0]).toMatchObject({ path: "", severity: "error" });
    expect(faults[0]?.message).toMatch(message);
  });

  it("never shows text of the file that an error of the YAML library quotes", () => {
    const { faults } = parseClusterFile('token: "hunter2hunter2\nkind: Cluster\n');
    expect(JSON.stringify(faults)).not.toContain("hunter2");
  });

  it("answers any text with faults and never throws", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 300 }), (text) => {
        const { file, faults } = parseClusterFile(text);
        expect(file === undefined).toBe(faults.length > 0);
      }),
      { seed: 11, numRuns: 300 },
    );
  });

  it("answers any spoilt field with a fault at it or in it, or takes it", () => {
    const fields = [
      "metadata",
      "metadata.name",
      "spec",
      "spec.servers",
      "spec.servers.count",
      "spec.agentPools",
      "spec.agentPools.0",
      "spec.agentPools.0.count",
    ];
    const more = [
      "spec.image",
      "spec.network",
      "spec.network.subnetIds",
      "spec.rke2",
      "spec.rke2.config",
      "spec.rke2.manifests",
      "spec.backup",
      "spec.maintenance",
    ];
    fc.assert(
      fc.property(fc.constantFrom(...fields, ...more), fc.jsonValue({ maxDepth: 3 }), (field, value) => {
        const { file, faults } = parseClusterFile(JSON.stringify(written({ [field]: value })));
        expect(file === undefined).toBe(faults.length > 0);
        for (const fault of faults) expect(fault.message).not.toMatch(/invalid input|expected|undefined|\[object/i);
      }),
      { seed: 12, numRuns: 400 },
    );
  });
});

describe("fields of a cluster file", () => {
  const cases: Case[] = [
    [
      "an even number of servers",
      { "spec.servers.count": 4 },
      "error spec.servers.count: must be 1, 3, 5 or 7: etcd needs an odd number of voters, an even one adds a machine that can fail and no tolerance; found 4",
    ],
    [
      "nine servers",
      { "spec.servers.count": 9 },
      "error spec.servers.count: must be 1, 3, 5 or 7: etcd needs an odd number of voters, an even one adds a machine that can fail and no tolerance; found 9",
    ],
    ["a count in quotes", { "spec.agentPools.0.count": "3" }, 'error spec.agentPools[0].count: must be a number; found "3"'],
    ["half an agent", { "spec.agentPools.0.count": 1.5 }, "error spec.agentPools[0].count: must be a whole number; found 1.5"],
    ["a negative count", { "spec.agentPools.0.count": -1 }, "error spec.agentPools[0].count: must be at least 0; found -1"],
    ["an unknown CNI", { "spec.network.cni": "weave" }, 'error spec.network.cni: must be one of canal, calico, cilium, flannel, none; found "weave"'],
    [
      "a misspelt CNI",
      { "spec.network.cni": "cillium" },
      'error spec.network.cni: must be one of canal, calico, cilium, flannel, none (did you mean cilium?); found "cillium"',
    ],
    ["a missing field", { "spec.network.vpcId": undefined }, "error spec.network.vpcId: is missing: it must be text"],
    [
      "a missing count of servers",
      { "spec.servers.count": undefined },
      "error spec.servers.count: is missing: it must be 1, 3, 5 or 7: etcd needs an odd number of voters, an even one adds a machine that can fail and no tolerance",
    ],
    ["another kind", { kind: "cluster" }, 'error kind: must be Cluster (did you mean Cluster?); found "cluster"'],
    ["another version of the format", { apiVersion: "v1" }, 'error apiVersion: must be drover.dev/v1; found "v1"'],
    [
      "a name over the limit",
      { "metadata.name": "a".repeat(31) },
      `error metadata.name: must have at most 30 characters, not 31; found "${"a".repeat(31)}"`,
    ],
    [
      "a name that is no DNS label",
      { "metadata.name": "Prod_1" },
      'error metadata.name: must be lower-case letters, digits and hyphens, starting with a letter and not ending in a hyphen; found "Prod_1"',
    ],
    [
      "a pool name over the limit",
      { "spec.agentPools.0.name": "p".repeat(31) },
      `error spec.agentPools[0].name: must have at most 30 characters, not 31; found "${"p".repeat(31)}"`,
    ],
    [
      "YAML 1.1's idea of a boolean",
      { "spec.network.multus": "yes" },
      'error spec.network.multus: must be true or false: write true, without quotes; found "yes"',
    ],
    ["no subnet", { "spec.network.subnetIds": [] }, "error spec.network.subnetIds: must have at least 1 entry; found 0"],
    ["a disk too small", { "spec.servers.rootVolumeGib": 8 }, "error spec.servers.rootVolumeGib: must be at least 30; found 8"],
    ["a disk with a unit", { "spec.servers.rootVolumeGib": "80Gi" }, 'error spec.servers.rootVolumeGib: must be a number; found "80Gi"'],
    [
      "an instance type without a size",
      { "spec.servers.instanceTypes": ["m6i"] },
      'error spec.servers.instanceTypes[0]: must be an EC2 instance type such as m6i.xlarge; found "m6i"',
    ],
    [
      "a share of nobody",
      { "spec.maintenance.maxUnavailable": "0%" },
      'error spec.maintenance.maxUnavailable: must be a count of at least 1 or a percentage such as "10%"; found "0%"',
    ],
    ["zero unavailable", { "spec.maintenance.maxUnavailable": 0 }, "error spec.maintenance.maxUnavailable: must be at least 1; found 0"],
    [
      "a manifest name with an underscore",
      { "spec.rke2.manifests": { "my_app.yaml": "kind: x" } },
      'error spec.rke2.manifests["my_app.yaml"]: must be a file name of lower-case letters, digits, hyphens and dots that ends in .yaml, such as storage.yaml',
    ],
    [
      "a config value that is a mapping",
      { "spec.rke2.config.etcd-arg": { a: 1 } },
      "error spec.rke2.config.etcd-arg: must be text, a number, true, false or a list of these; found a mapping",
    ],
    ["a misspelt field", { "spec.serverz": 1 }, "error spec.serverz: is not a field of a cluster file; did you mean servers?"],
    [
      "a field in another case",
      { "spec.network.podCIDR": "x" },
      "error spec.network.podCIDR: is not a field of a cluster file; allowed here are vpcId, subnetIds, cni, multus, clusterCidr, serviceCidr, endpoint",
    ],
    [
      "a field of spec beside it",
      { network: {} },
      "error network: is not a field of a cluster file; write it below spec; allowed here are apiVersion, kind, metadata, spec",
    ],
    ["a field known from elsewhere", { "spec.nodePools": [] }, "error spec.nodePools: is not a field of a cluster file: write spec.agentPools"],
    [
      "spot servers",
      { "spec.servers.market": "spot" },
      "error spec.servers.market: is not a field of a cluster file: servers are always on demand: AWS takes spot instances back at two minutes' notice, and with them etcd's majority",
    ],
    [
      "a token",
      { "spec.token": "hunter2" },
      "error spec.token: is not a field of a cluster file: Drover makes the token; a cluster file holds no secret",
    ],
  ];
  it.each(cases)("refuse %s in one message", (_, spoil, answer) => {
    expect(told(spoil)).toEqual([answer]);
  });

  it("tell the line", () => {
    const text = asText({ "spec.servers.count": 4 });
    const line = text.split("\n").findIndex((row) => row.includes("count: 4")) + 1;
    expect(parseClusterFile(text).faults[0]?.message).toMatch(new RegExp(`; found 4 \\(line ${line}\\)$`));
  });

  it("report every fault at once, broken fields and broken rules alike", () => {
    const answers = told({
      "metadata.name": "Prod",
      "spec.servers.count": 2,
      "spec.rke2.config": { "tls-sans": ["x"], token: "hunter2hunter2" },
      "spec.network.clusterCidr": "10.43.0.0/16",
      "spec.agentPools.1.name": "general",
    });
    expect(answers.map((answer) => answer.slice(0, answer.indexOf(": ")))).toEqual([
      "error metadata.name",
      "error spec.servers.count",
      "error spec.agentPools[1].name",
      "error spec.network.clusterCidr",
      "error spec.rke2.config.tls-sans",
      "error spec.rke2.config.token",
    ]);
    expect(answers.join()).not.toContain("hunter2");
  });

  it("say nothing of rules that would read a broken field", () => {
    expect(told({ "spec.network.clusterCidr": "big", "spec.network.serviceCidr": "10.42.0.0/16" })).toEqual([
      'error spec.network.clusterCidr: must be an IPv4 network such as 10.42.0.0/16; found "big"',
    ]);
    expect(told({ "spec.version": undefined, "spec.verison": "v1.35.7+rke2r1" })).toEqual([
      "error spec.verison: is not a field of a cluster file; did you mean version?",
    ]);
    expect(told({ "spec.agentPools.0": "general", "spec.agentPools.1.name": "server" })).toEqual([
      'error spec.agentPools[0]: must be a mapping; found "general"',
    ]);
  });

  it("list at most a hundred faults and count the rest", () => {
    const config = Object.fromEntries(Array.from({ length: 150 }, (_, index) => [`no-such-key-${index}`, true]));
    const { faults } = validateCluster(asText({ "spec.rke2.config": config }));
    expect(faults).toHaveLength(101);
    expect(faults.at(-1)).toMatchObject({ path: "", message: "50 more faults are not listed", severity: "error" });
  });

  it("look at no more keys than RKE2 could have", () => {
    const config = Object.fromEntries(Array.from({ length: 5000 }, (_, index) => [`no-such-key-${index}`, true]));
    const { faults } = validateCluster(asText({ "spec.rke2.config": config }));
    expect(faults).toHaveLength(101);
    expect(faults[0]?.message).toMatch(/^has 5000 keys, and RKE2 has but \d+: only the first 200 were looked at/);
  });

  it("never shows a value whose name says it is secret", () => {
    const faults = parseClusterFile(
      JSON.stringify(written({ "spec.rke2.config": { "etcd-s3-secret-key": { value: "hunter2" } }, "metadata.labels": { password: 12345 } })),
    ).faults;
    expect(JSON.stringify(faults)).not.toMatch(/hunter2|12345/);
    expect(faults).toHaveLength(2);
  });
});

describe("rules of a cluster file", () => {
  const cases: Case[] = [
    [
      "version and channel together",
      { "spec.channel": "stable" },
      'error spec.version: and spec.channel exclude each other: take out one; found "v1.35.7+rke2r1" and "stable"',
    ],
    [
      "neither version nor channel",
      { "spec.version": undefined },
      "error spec.version: is missing: write a version such as v1.35.7+rke2r1, or spec.channel such as stable",
    ],
    [
      "a K3s version",
      { "spec.version": "v1.35.7+k3s1" },
      'error spec.version: is a K3s version; an RKE2 version ends in +rke2rN, such as v1.35.7+rke2r1; found "v1.35.7+k3s1"',
    ],
    [
      "a version as image tags write it",
      { "spec.version": "v1.35.7-rke2r1" },
      'error spec.version: is no RKE2 version; did you mean v1.35.7+rke2r1; found "v1.35.7-rke2r1"',
    ],
    [
      "a version without its packaging",
      { "spec.version": "1.35.7" },
      'error spec.version: is no RKE2 version; did you mean v1.35.7+rke2r1; found "1.35.7"',
    ],
    [
      "no version at all",
      { "spec.version": "newest" },
      'error spec.version: is no RKE2 version; write it in full, such as v1.35.7+rke2r1; found "newest"',
    ],
    ["a version too old", { "spec.version": "v1.29.15+rke2r1" }, "error spec.version: must be v1.30 or newer; found v1.29.15+rke2r1"],
    [
      "a version without fixes",
      { "spec.version": "v1.32.9+rke2r1" },
      "warning spec.version: v1.32.9+rke2r1 gets no more fixes upstream: the oldest line that does is v1.33",
    ],
    ["a pre-release", { "spec.version": "v1.36.0-rc1+rke2r1" }, "warning spec.version: v1.36.0-rc1+rke2r1 is a pre-release"],
    [
      "an unknown channel",
      { "spec.version": undefined, "spec.channel": "stabel" },
      'error spec.channel: must be stable, latest or a minor such as v1.35 (did you mean stable?); found "stabel"',
    ],

    [
      "duplicate pool names",
      { "spec.agentPools.1.name": "general" },
      "error spec.agentPools[1].name: general is the name of spec.agentPools[0] too: pool names must differ",
    ],
    [
      "a pool named as the servers'",
      { "spec.agentPools.0.name": "server" },
      "error spec.agentPools[0].name: server is the name of the servers' pool: choose another",
    ],
    [
      "more agents than proven",
      { "spec.agentPools.0.count": 999, "spec.network.clusterCidr": "10.32.0.0/11", "spec.network.serviceCidr": "10.96.0.0/16" },
      "error spec.agentPools: ask for 1001 agents; at most 1000 are allowed in one cluster",
    ],
    [
      "a role label",
      { "spec.agentPools.0.labels": { "node-role.kubernetes.io/worker": "true" } },
      'error spec.agentPools[0].labels["node-role.kubernetes.io/worker"]: a node cannot give itself a role: the kubelet would refuse to start. Use a prefix of your own, or label the node after it has joined',
    ],
    [
      "a label of Kubernetes'",
      { "spec.agentPools.0.labels": { "app.kubernetes.io/part-of": "x" } },
      'error spec.agentPools[0].labels["app.kubernetes.io/part-of"]: kubernetes.io and k8s.io are reserved: the kubelet would refuse to start. Use a prefix of your own, or label the node after it has joined',
    ],
    [
      "a label of Drover's",
      { "spec.agentPools.0.labels": { "drover.dev/pool": "x" } },
      'error spec.agentPools[0].labels["drover.dev/pool"]: is Drover\'s own: nodes carry drover.dev/pool already',
    ],
    [
      "a label name that is none",
      { "spec.agentPools.0.labels": { "-x": "" } },
      "error spec.agentPools[0].labels.-x: is no label name: write an optional DNS prefix with a slash, then up to 63 letters, digits, - _ .",
    ],
    [
      "a label value that is none",
      { "spec.agentPools.0.labels": { team: "a b" } },
      'error spec.agentPools[0].labels.team: must have a value of at most 63 letters, digits, - _ . that begins and ends with a letter or digit; found "a b"',
    ],
    [
      "a taint without effect",
      { "spec.agentPools.0.taints": ["gpu=true"] },
      'error spec.agentPools[0].taints[0]: must be key=value:effect with effect NoSchedule, PreferNoSchedule or NoExecute; found "gpu=true"',
    ],
    [
      "a taint with a bad key",
      { "spec.agentPools.0.taints": ["a/b/c=true:NoSchedule"] },
      'error spec.agentPools[0].taints[0]: has a key that is none: write an optional DNS prefix with a slash, then a name; found "a/b/c"',
    ],
    [
      "a taint given twice",
      { "spec.servers.taints": ["a=1:NoSchedule", "b=1:NoSchedule", "a=2:NoSchedule"] },
      "error spec.servers.taints[2]: has the key and effect of entry 0: a node can carry them only once",
    ],
    [
      "tainted servers and no agents",
      { "spec.servers.taints": ["CriticalAddonsOnly=true:NoExecute"], "spec.agentPools": [] },
      "warning spec.servers.taints: keep workloads off the servers, and there is no agent to take them: not even the ingress controller could run",
    ],

    ["two images", { "spec.image.ssmParameter": "/x/y" }, "error spec.image: has both ssmParameter and id: take out one"],
    ["no image", { "spec.image": {} }, "error spec.image: needs ssmParameter or id"],
    [
      "an image parameter for another architecture",
      { "spec.image": { ssmParameter: "/aws/service/x/arm64/y" } },
      "error spec.image.architecture: is amd64, but spec.image.ssmParameter names an image for arm64",
    ],
    [
      "an instance type of another architecture",
      { "spec.agentPools.1.instanceTypes": ["m6i.large", "m7g.large"] },
      "error spec.agentPools[1].instanceTypes[1]: m7g.large has an arm64 processor, and the image is for amd64 (spec.image.architecture)",
    ],
    [
      "an instance type given twice",
      { "spec.servers.instanceTypes": ["m6i.xlarge", "m6i.xlarge"] },
      "warning spec.servers.instanceTypes[1]: m6i.xlarge is in the list twice",
    ],

    [
      "overlapping networks",
      { "spec.network.serviceCidr": "10.42.128.0/17", "spec.rke2.config": {} },
      "error spec.network.clusterCidr: 10.42.0.0/16 overlaps spec.network.serviceCidr 10.42.128.0/17: pods and services need networks of their own",
    ],
    [
      "a pod network too small",
      { "spec.network.clusterCidr": "10.42.0.0/22" },
      "error spec.network.clusterCidr: 10.42.0.0/22 has room for 4 nodes of a /24 each, and the file asks for 7: write a /21 or larger",
    ],
    [
      "a pod network smaller than one node's share",
      { "spec.network.clusterCidr": "10.42.0.0/25" },
      "error spec.network.clusterCidr: 10.42.0.0/25 has room for 0 nodes of a /24 each, and the file asks for 7: write a /21 or larger",
    ],
    [
      "a pod network that cannot grow",
      { "spec.network.clusterCidr": "10.42.0.0/22", "spec.agentPools.0.count": 0, "spec.agentPools.1.count": 1 },
      "warning spec.network.clusterCidr: 10.42.0.0/22 has room for just the 4 nodes asked for: the cluster cannot grow, and its pod network cannot be changed",
    ],
    [
      "a pod network too small for the share asked for",
      { "spec.network.clusterCidr": "10.42.0.0/21", "spec.rke2.config": { "kube-controller-manager-arg": ["node-cidr-mask-size=22"] } },
      "error spec.network.clusterCidr: 10.42.0.0/21 has room for 2 nodes of a /22 each, and the file asks for 7: write a /19 or larger",
    ],
    [
      "a service network too small",
      { "spec.network.serviceCidr": "10.43.0.0/25" },
      "error spec.network.serviceCidr: must be from /12 to /24; found 10.43.0.0/25",
    ],
    [
      "a service network too large",
      { "spec.network.serviceCidr": "172.0.0.0/8" },
      "error spec.network.serviceCidr: must be from /12 to /24; found 172.0.0.0/8",
    ],
    [
      "a network with bits behind its prefix",
      { "spec.network.clusterCidr": "10.42.7.0/16" },
      'error spec.network.clusterCidr: is an address within a network, not a network; did you mean 10.42.0.0/16; found "10.42.7.0/16"',
    ],
    [
      "a network with an octet over 255",
      { "spec.network.clusterCidr": "10.300.0.0/16" },
      'error spec.network.clusterCidr: must be an IPv4 network such as 10.42.0.0/16; found "10.300.0.0/16"',
    ],
    [
      "a prefix over 32",
      { "spec.network.serviceCidr": "10.43.0.0/33" },
      'error spec.network.serviceCidr: must be an IPv4 network such as 10.42.0.0/16; found "10.43.0.0/33"',
    ],
    [
      "a link-local network",
      { "spec.network.clusterCidr": "169.254.0.0/16" },
      "error spec.network.clusterCidr: overlaps 169.254.0.0/16 (link-local: instance metadata is there); found 169.254.0.0/16",
    ],
    [
      "cluster DNS outside the service network",
      { "spec.rke2.config": { "cluster-dns": "10.44.0.10" } },
      "error spec.rke2.config.cluster-dns: must be within spec.network.serviceCidr 10.43.0.0/16; found 10.44.0.10",
    ],
    [
      "cluster DNS at the API's address",
      { "spec.rke2.config": { "cluster-dns": ["10.43.0.1"] } },
      "error spec.rke2.config.cluster-dns: must not be the first, second or last address of 10.43.0.0/16: the second is the API's own; found 10.43.0.1",
    ],
    [
      "one subnet for three servers",
      { "spec.network.subnetIds": ["subnet-0aaa1111bbbb2222c"] },
      "warning spec.network.subnetIds: one subnet is one zone: when it fails, all 3 servers fail. Give subnets in three zones",
    ],
    [
      "a subnet given twice",
      { "spec.network.subnetIds.1": "subnet-0aaa1111bbbb2222c" },
      "error spec.network.subnetIds[1]: subnet-0aaa1111bbbb2222c is in the list twice",
    ],
    [
      "no CNI and no manifest",
      { "spec.network.cni": "none" },
      "warning spec.network.cni: is none and spec.rke2.manifests brings no other: nodes stay NotReady until a CNI is installed",
    ],
    [
      "Multus before nothing",
      { "spec.network.cni": "none", "spec.network.multus": true, "spec.rke2.manifests": { "cni.yaml": "{apiVersion: v1, kind: ConfigMap}" } },
      "error spec.network.multus: needs a CNI behind it: spec.network.cni is none",
    ],
    [
      "more pods than addresses",
      { "spec.rke2.kubeletArgs": ["max-pods=300"] },
      "warning spec.rke2.kubeletArgs[0]: allows 300 pods on a node, and its /24 of the pod network holds 254",
    ],

    [
      "an endpoint open to the internet",
      { "spec.network.endpoint": { scheme: "internet-facing", allowedCidrs: ["0.0.0.0/0"] } },
      "warning spec.network.endpoint.allowedCidrs[0]: lets the whole internet reach the Kubernetes API: name the networks that need it",
    ],
    [
      "an endpoint for nobody",
      { "spec.network.endpoint": { scheme: "internet-facing" } },
      "warning spec.network.endpoint: is internet-facing, and nobody may reach it: name networks in allowedCidrs, or make it internal",
    ],
    [
      "an allowed network that is none",
      { "spec.network.endpoint.allowedCidrs": ["10.0.0.1/8"] },
      'error spec.network.endpoint.allowedCidrs[0]: is an address within a network, not a network; did you mean 10.0.0.0/8; found "10.0.0.1/8"',
    ],
    [
      "a URL as a certificate's name",
      { "spec.rke2.tlsSan": ["https://api.example.com"] },
      'error spec.rke2.tlsSan[0]: must be a DNS name in lower case or an IP address, without scheme, port or wildcard; found "https://api.example.com"',
    ],
    [
      "a wildcard as a certificate's name",
      { "spec.rke2.tlsSan": ["api.example.com", "10.0.0.5", "fd00::1", "*.example.com"] },
      'error spec.rke2.tlsSan[3]: must be a DNS name in lower case or an IP address, without scheme, port or wildcard; found "*.example.com"',
    ],

    [
      "an unknown key of RKE2",
      { "spec.rke2.config": { "completely-different": 1 } },
      "error spec.rke2.config.completely-different: is no key of RKE2: RKE2 would only warn and start without it",
    ],
    [
      "a misspelt key of RKE2",
      { "spec.rke2.config": { "kube-apiserver-args": ["a=b"] } },
      "error spec.rke2.config.kube-apiserver-args: is no key of RKE2: RKE2 would only warn and start without it. Did you mean kube-apiserver-arg?",
    ],
    [
      "a key of RKE2 with swapped letters",
      { "spec.rke2.config": { "etcd-agr": ["a=b"] } },
      "error spec.rke2.config.etcd-agr: is no key of RKE2: RKE2 would only warn and start without it. Did you mean etcd-arg?",
    ],
    [
      "a key of RKE2 in camel case",
      { "spec.rke2.config": { etcdArg: ["a=b"] } },
      "error spec.rke2.config.etcdArg: is no key of RKE2: RKE2 would only warn and start without it. Did you mean etcd-arg?",
    ],
    ["a key written as a flag", { "spec.rke2.config": { "--debug": true } }, "error spec.rke2.config.--debug: is no key of RKE2: write debug"],
    [
      "a key that appends",
      { "spec.rke2.config": { "etcd-arg+": ["a=b"] } },
      'error spec.rke2.config["etcd-arg+"]: is no key of RKE2: write etcd-arg',
    ],
    [
      "a server's key for agents",
      { "spec.agentPools.0.config": { "etcd-arg": ["a=b"] } },
      "error spec.agentPools[0].config.etcd-arg: is a key of servers only: RKE2 would only warn on an agent and start without it. Write it at spec.rke2.config",
    ],
    [
      "a misspelt key of a pool",
      { "spec.agentPools.0.config": { "default-runtim": "nvidia" } },
      "error spec.agentPools[0].config.default-runtim: is no key of RKE2: RKE2 would only warn and start without it. Did you mean default-runtime?",
    ],
    [
      "K3s's cluster-init",
      { "spec.rke2.config": { "cluster-init": true } },
      "error spec.rke2.config.cluster-init: is no key of RKE2, which would only warn and start without it; take it out: RKE2 always starts embedded etcd, and Drover decides which server makes the cluster",
    ],
    [
      "K3s's flannel-backend",
      { "spec.rke2.config": { "flannel-backend": "vxlan" } },
      "error spec.rke2.config.flannel-backend: is no key of RKE2, which would only warn and start without it; choose the network in spec.network.cni; its settings go into a HelmChartConfig in spec.rke2.manifests",
    ],
    [
      "a key that articles invented",
      { "spec.rke2.config": { join: true } },
      "error spec.rke2.config.join: is no key of RKE2, which would only warn and start without it; take it out: Drover joins the further servers itself",
    ],
    [
      "K3s's name of a key",
      { "spec.rke2.config": { "kube-controller-arg": ["a=b"] } },
      "error spec.rke2.config.kube-controller-arg: is no key of RKE2, which would only warn and start without it; write kube-controller-manager-arg",
    ],
    [
      "a token",
      { "spec.rke2.config": { token: "hunter2" } },
      "error spec.rke2.config.token: cannot be set here: Drover makes the token and keeps it encrypted; a cluster file holds no secret",
    ],
    [
      "a registration address",
      { "spec.rke2.config": { server: "https://x:9345" } },
      "error spec.rke2.config.server: cannot be set here: Drover sets it: nodes join the first server and afterwards the endpoint",
    ],
    [
      "a CNI in the wrong place",
      { "spec.rke2.config": { cni: "calico" } },
      "error spec.rke2.config.cni: cannot be set here: write it at spec.network.cni (and spec.network.multus)",
    ],
    [
      "a node's own address",
      { "spec.agentPools.0.config": { "node-ip": "10.0.0.1" } },
      "error spec.agentPools[0].config.node-ip: cannot be set here: Drover sets it: it differs from node to node, and this file is the same for all of them",
    ],
    [
      "an external database",
      { "spec.rke2.config": { "datastore-endpoint": "mysql://u:hunter2@h/db" } },
      "error spec.rke2.config.datastore-endpoint: cannot be set here: Drover's clusters keep their data in embedded etcd, which its snapshots and its rules of majority stand on",
    ],
    [
      "a key the version has not yet",
      { "spec.rke2.config": { "write-kubeconfig-name": "prod" } },
      "error spec.rke2.config.write-kubeconfig-name: exists from v1.36.4 on: v1.35.7+rke2r1 would only warn and start without it",
    ],
    [
      "text for a boolean",
      { "spec.rke2.config": { debug: "true" } },
      'error spec.rke2.config.debug: must be true or false, without quotes; found "true"',
    ],
    [
      "a number for text",
      { "spec.rke2.config": { "write-kubeconfig-mode": 600 } },
      "error spec.rke2.config.write-kubeconfig-mode: must be text: put it in quotes; found 600",
    ],
    [
      "text for a number",
      { "spec.rke2.config": { "etcd-snapshot-retention": "5" } },
      'error spec.rke2.config.etcd-snapshot-retention: must be a whole number; found "5"',
    ],
    [
      "a list for one value",
      { "spec.rke2.config": { "cluster-domain": ["a.local"] } },
      "error spec.rke2.config.cluster-domain: must be one value, not a list; found a list",
    ],
    [
      "a number for a duration",
      { "spec.rke2.config": { "etcd-snapshot-reconcile-interval": 10 } },
      "error spec.rke2.config.etcd-snapshot-reconcile-interval: must be a duration such as 5m0s; found 10",
    ],
    [
      "compressed snapshots",
      { "spec.rke2.config": { "etcd-snapshot-compress": true } },
      "error spec.rke2.config.etcd-snapshot-compress: must stay false: RKE2 cannot restore a compressed snapshot (k3s-io/k3s issue 14526)",
    ],
    [
      "RKE2's own schedule that is none",
      { "spec.rke2.config": { "etcd-snapshot-schedule-cron": "hourly" } },
      'error spec.rke2.config.etcd-snapshot-schedule-cron: must have five fields (minute, hour, day of month, month, day of week), such as "0 2 * * *"; found 1; found "hourly"',
    ],
    [
      "a port range that runs backwards",
      { "spec.rke2.config": { "service-node-port-range": "32767-30000" } },
      'error spec.rke2.config.service-node-port-range: must be two ports such as 30000-32767; found "32767-30000"',
    ],
    [
      "an unknown egress selector",
      { "spec.rke2.config": { "egress-selector-mode": "nodes" } },
      'error spec.rke2.config.egress-selector-mode: must be one of disabled, agent, cluster, pod; found "nodes"',
    ],
    [
      "a registry with a scheme",
      { "spec.rke2.config": { "system-default-registry": "https://r.example.com" } },
      'error spec.rke2.config.system-default-registry: must be a host with an optional port, without scheme or path; found "https://r.example.com"',
    ],
    [
      "a readable kubeconfig",
      { "spec.rke2.config": { "write-kubeconfig-mode": "0644" } },
      'error spec.rke2.config.write-kubeconfig-mode: must be "0600" or "0400": the file is the key to the cluster; found "0644"',
    ],
    [
      "the cloud provider that was removed",
      { "spec.rke2.config": { "cloud-provider-name": "aws" } },
      "error spec.rke2.config.cloud-provider-name: aws is no longer a cloud provider of RKE2: it would only rename the nodes, which Drover names",
    ],
    [
      "no kube-proxy and nothing in its place",
      { "spec.rke2.config": { "disable-kube-proxy": true } },
      "warning spec.rke2.config.disable-kube-proxy: takes kube-proxy out, and canal does not replace it: services would not be reached",
    ],
    [
      "no cloud controller and nothing in its place",
      { "spec.rke2.config": { "disable-cloud-controller": true } },
      "warning spec.rke2.config.disable-cloud-controller: leaves nodes without a cloud controller, and spec.rke2.manifests brings no other: they may stay tainted as uninitialized",
    ],
    [
      "an embedded registry of nothing",
      { "spec.rke2.config": { "embedded-registry": true } },
      "warning spec.rke2.config.embedded-registry: shares only the registries that spec.rke2.registries.mirrors names, and there is none",
    ],
    [
      "RKE2's own uploads",
      { "spec.rke2.config": { "etcd-s3": true } },
      "warning spec.rke2.config.etcd-s3: makes RKE2 upload snapshots itself, for which Drover's nodes have no right; Drover keeps snapshots in S3 by itself, see spec.backup",
    ],

    [
      "a kubelet argument of one node",
      { "spec.rke2.kubeletArgs": ["provider-id=aws:///x"] },
      "error spec.rke2.kubeletArgs[0]: provider-id cannot be set here: it differs from node to node, and this list is the same for all of them",
    ],
    [
      "a kubelet argument given twice",
      { "spec.rke2.kubeletArgs": ["feature-gates=A=true", "feature-gates=B=true"] },
      "error spec.rke2.kubeletArgs[1]: feature-gates is given twice: the kubelet would take the last alone",
    ],
    [
      "a kubelet argument with hyphens",
      { "spec.agentPools.0.kubeletArgs": ["--max-pods"] },
      'error spec.agentPools[0].kubeletArgs[0]: must be name=value, without leading hyphens; found "--max-pods"',
    ],

    [
      "a misspelt component",
      { "spec.rke2.disable": ["rke2-metric-server"] },
      'error spec.rke2.disable[0]: "rke2-metric-server" is no component of RKE2; did you mean rke2-metrics-server?',
    ],
    [
      "a component without its prefix",
      { "spec.rke2.disable": ["metrics-server"] },
      'error spec.rke2.disable[0]: "metrics-server" is no component of RKE2; did you mean rke2-metrics-server?',
    ],
    [
      "an unknown component",
      { "spec.rke2.disable": ["my-operator"] },
      'warning spec.rke2.disable[0]: "my-operator" is no component that Drover knows, and RKE2 would not say so; known are rke2-coredns, rke2-metrics-server, rke2-runtimeclasses, rke2-snapshot-controller, rke2-snapshot-controller-crd, rke2-snapshot-validation-webhook, rke2-security-responder',
    ],
    [
      "the ingress as a component",
      { "spec.rke2.disable": ["rke2-ingress-nginx"] },
      "warning spec.rke2.disable[0]: rke2-ingress-nginx is better taken out by spec.rke2.ingress: none",
    ],
    [
      "the pod network as a component",
      { "spec.rke2.disable": ["rke2-canal"] },
      "error spec.rke2.disable[0]: rke2-canal is the pod network: choose it in spec.network.cni (none for one of your own)",
    ],
    [
      "an unknown image set",
      { "spec.airGap.imageSets": ["harvestr"] },
      'error spec.airGap.imageSets[0]: is no image set of v1.35.7+rke2r1 for amd64 (did you mean harvester?); there are core, canal, calico, cilium, flannel, multus, traefik, harvester, vsphere; found "harvestr"',
    ],
    [
      "an image set of another minor",
      { "spec.airGap.imageSets": ["ingress-nginx"] },
      'error spec.airGap.imageSets[0]: is no image set of v1.35.7+rke2r1 for amd64; there are core, canal, calico, cilium, flannel, multus, traefik, harvester, vsphere; found "ingress-nginx"',
    ],
    [
      "image sets that are not used",
      { "spec.airGap": { enabled: false, imageSets: ["harvester"] } },
      "warning spec.airGap.imageSets: has no effect while spec.airGap.enabled is false: images are pulled",
    ],

    [
      "an unknown part of registries.yaml",
      { "spec.rke2.registries": { mirror: {} } },
      "error spec.rke2.registries.mirror: is no key of registries.yaml (did you mean mirrors?); allowed here are mirrors, configs",
    ],
    [
      "a mirror that is a list",
      { "spec.rke2.registries": { mirrors: { "docker.io": ["https://r"] } } },
      'error spec.rke2.registries.mirrors["docker.io"]: must be a mapping with endpoint and rewrite; found a list',
    ],
    [
      "a mirror without a scheme",
      { "spec.rke2.registries": { mirrors: { "docker.io": { endpoint: ["r.example.com"] } } } },
      'error spec.rke2.registries.mirrors["docker.io"].endpoint[0]: must be a URL such as https://registry.example.com',
    ],
    [
      "a password in a mirror's URL",
      { "spec.rke2.registries": { mirrors: { "*": { endpoint: ["https://u:hunter2@r.example.com"] } } } },
      'error spec.rke2.registries.mirrors["*"].endpoint[0]: must not carry a user or password: a cluster file holds no secret',
    ],
    [
      "a registry's password",
      { "spec.rke2.registries": { configs: { "r.example.com": { auth: { username: "u", password: "hunter2" } } } } },
      'error spec.rke2.registries.configs["r.example.com"].auth: is not taken: a cluster file holds no secret. Use the kubelet\'s credential provider, a client certificate in the image, or a registry that trusts its network',
    ],
    [
      "a registry's CA by a relative path",
      { "spec.rke2.registries": { configs: { "r.example.com": { tls: { ca_file: "ca.pem" } } } } },
      'error spec.rke2.registries.configs["r.example.com"].tls.ca_file: must be the absolute path of a file that the image brings',
    ],
    [
      "a registry that is not verified",
      { "spec.rke2.registries": { configs: { "r.example.com": { tls: { insecure_skip_verify: true } } } } },
      'warning spec.rke2.registries.configs["r.example.com"].tls.insecure_skip_verify: lets anyone on the way put other images in place',
    ],

    [
      "a manifest that is not YAML",
      { "spec.rke2.manifests": { "a.yaml": "kind: x\n b: [1\n" } },
      'error spec.rke2.manifests["a.yaml"]: is not YAML, line 1, column 7 of it: Nested mappings are not allowed in compact mappings',
    ],
    [
      "a manifest that is no object",
      { "spec.rke2.manifests": { "a.yaml": "apiVersion: v1\nkind: ConfigMap\n---\nhello\n" } },
      'error spec.rke2.manifests["a.yaml"]: document 2 of it must be a Kubernetes object with apiVersion and kind',
    ],
    [
      "an empty manifest",
      { "spec.rke2.manifests": { "a.yaml": "# later\n" } },
      'warning spec.rke2.manifests["a.yaml"]: is empty: RKE2 would remove what it applied from it before',
    ],
    [
      "a manifest with a Secret",
      { "spec.rke2.manifests": { "a.yaml": "apiVersion: v1\nkind: Secret\nstringData: {a: hunter2}\n" } },
      'error spec.rke2.manifests["a.yaml"]: is a Secret: a cluster file holds no secret. Apply it when the cluster is ready',
    ],
    [
      "a manifest in the place of RKE2's own",
      { "spec.rke2.manifests": { "rke2-coredns.yaml": "{apiVersion: v1, kind: ConfigMap}" } },
      'error spec.rke2.manifests["rke2-coredns.yaml"]: is a file of RKE2 itself, written anew at every start; put a HelmChartConfig into rke2-coredns-config.yaml',
    ],
    [
      "more manifests than sense",
      { "spec.rke2.manifests": Object.fromEntries(Array.from({ length: 101 }, (_, index) => [`m${index}.yaml`, "x"])) },
      "error spec.rke2.manifests: has 101 files; at most 100 are allowed: put several objects into one",
    ],
    [
      "two manifests of one name",
      { "spec.rke2.manifests": { "a.yaml": "{apiVersion: v1, kind: ConfigMap}", "a.yml": "{apiVersion: v1, kind: ConfigMap}" } },
      'error spec.rke2.manifests["a.yml"]: is to RKE2 the same as a.yaml: names must differ before the ending',
    ],

    [
      "CIS without network policies",
      { "spec.security.profile": "cis", "spec.network.cni": "flannel" },
      "warning spec.security.profile: cis stands on network policies, which flannel does not enforce: choose canal, calico or cilium",
    ],
    [
      "CIS with changed kernel defaults",
      { "spec.security.profile": "cis", "spec.rke2.config": { "protect-kernel-defaults": false } },
      "error spec.rke2.config.protect-kernel-defaults: must not be false with spec.security.profile cis: RKE2 would not start",
    ],
    [
      "SELinux where no policy is",
      { "spec.security.selinux": true, "spec.image": { ssmParameter: "/aws/service/canonical/ubuntu/amd64/id" } },
      "warning spec.security.selinux: Ubuntu and Debian images have no SELinux policy for RKE2",
    ],

    [
      "a schedule of six fields",
      { "spec.backup.schedule": "0 0 2 * * *" },
      'error spec.backup.schedule: must have five fields (minute, hour, day of month, month, day of week), such as "0 2 * * *"; found 6; found "0 0 2 * * *"',
    ],
    [
      "a schedule with hour 25",
      { "spec.backup.schedule": "0 25 * * *" },
      'error spec.backup.schedule: is wrong in its hour "25"; allowed are 0 to 23, lists, ranges and steps; found "0 25 * * *"',
    ],
    [
      "a schedule that never comes",
      { "spec.backup.schedule": "0 2 31 feb,apr *" },
      'error spec.backup.schedule: never comes: no feb or apr has a day 31; found "0 2 31 feb,apr *"',
    ],
    [
      "a time zone that is none",
      { "spec.backup.timeZone": "Europe/Berln" },
      'error spec.backup.timeZone: must be an IANA time zone such as UTC or Europe/Berlin (did you mean Europe/Berlin?); found "Europe/Berln"',
    ],
    [
      "a city as a time zone",
      { "spec.maintenance.windows": [{ days: ["sat"], start: "02:00", hours: 3, timeZone: "New York" }] },
      'error spec.maintenance.windows[0].timeZone: must be an IANA time zone such as UTC or Europe/Berlin (did you mean America/New_York?); found "New York"',
    ],
    [
      "an offset as a time zone",
      { "spec.backup.timeZone": "+02:00" },
      'error spec.backup.timeZone: must be an IANA time zone such as UTC or Europe/Berlin; found "+02:00"',
    ],
    [
      "a window's time that is none",
      { "spec.maintenance.windows": [{ days: ["sat"], start: "24:00", hours: 3 }] },
      'error spec.maintenance.windows[0].start: must be a time in quotes, from "00:00" to "23:59"; found "24:00"',
    ],
    [
      "a window on no day",
      { "spec.maintenance.windows": [{ days: [], start: "02:00", hours: 3 }] },
      "error spec.maintenance.windows[0].days: must have at least 1 entry; found 0",
    ],
    [
      "upgrades without a window",
      { "spec.maintenance.autoUpgrade": "patch" },
      "error spec.maintenance.autoUpgrade: is patch, and there is no window: nothing would ever be upgraded. Name one in spec.maintenance.windows",
    ],
    [
      "a roll that empties a pool",
      { "spec.maintenance.maxUnavailable": "100%", "spec.agentPools.1.count": 1 },
      "warning spec.maintenance.maxUnavailable: 100% would take all 2 agents of pool general out at once; at most 1 leaves one",
    ],
    [
      "a cluster's label that is none",
      { "metadata.labels": { "a b": "c" } },
      'error metadata.labels["a b"]: is no label name: write an optional DNS prefix with a slash, then up to 63 letters, digits, - _ .',
    ],
  ];
  it.each(cases)("answer %s with one message", (_, spoil, answer) => {
    expect(told(spoil)).toEqual([answer]);
  });

  it.each<[string, Spoil]>([
    [
      "labels a kubelet may give itself",
      { "spec.agentPools.0.labels": { "topology.kubernetes.io/zone": "a", "node.kubernetes.io/class": "b", "example.com/team": "" } },
    ],
    [
      "keys of servers in the cluster's configuration",
      { "spec.rke2.config": { "etcd-arg": ["quota-backend-bytes=4294967296"], "kube-apiserver-arg": "audit-log-maxage=30" } },
    ],
    [
      "keys of agents in a pool's",
      {
        "spec.agentPools.0.config": { "default-runtime": "nvidia", "resolv-conf": "/etc/resolv.conf" },
        "spec.agentPools.0.kubeletArgs": ["max-pods=50"],
      },
    ],
    ["a key the version has", { "spec.version": "v1.36.4+rke2r1", "spec.rke2.config": { "write-kubeconfig-name": "prod" } }],
    [
      "Arm machines with an Arm image",
      {
        "spec.image.architecture": "arm64",
        "spec.servers.instanceTypes": ["m7g.xlarge", "a1.xlarge"],
        "spec.agentPools": [{ name: "gpu", count: 1, instanceTypes: ["g5g.xlarge", "im4gn.large", "p6e-gb200.36xlarge"] }],
      },
    ],
    ["x86 machines whose family begins with g", { "spec.agentPools.0.instanceTypes": ["g4dn.xlarge", "g6.xlarge", "g4ad.xlarge"] }],
    ["a mirror by name alone", { "spec.rke2.config": { "embedded-registry": true }, "spec.rke2.registries": { mirrors: { "*": null } } }],
    [
      "a mirror with everything",
      {
        "spec.rke2.registries": {
          mirrors: { "docker.io": { endpoint: ["https://r.example.com:5000/v2"], rewrite: { "^(.*)$": "mirror/$1" } } },
          configs: { "r.example.com:5000": { tls: { ca_file: "/etc/ssl/ca.pem" } } },
        },
      },
    ],
    [
      "several manifests of one file",
      {
        "spec.rke2.manifests": {
          "rke2-canal-config.yaml": "apiVersion: helm.cattle.io/v1\nkind: HelmChartConfig\n---\napiVersion: v1\nkind: ConfigMap\n",
        },
      },
    ],
    ["a pool of one with the default of one unavailable", { "spec.agentPools.0.count": 1 }],
    [
      "a window over midnight",
      { "spec.maintenance": { windows: [{ days: ["sat", "sun"], start: "22:30", hours: 6, timeZone: "Asia/Tokyo" }], autoUpgrade: "patch" } },
    ],
    ["one server in one subnet", { "spec.servers.count": 1, "spec.network.subnetIds": ["subnet-0aaa1111bbbb2222c"] }],
    [
      "a thousand agents",
      {
        "spec.agentPools": [{ name: "big", count: 1000, instanceTypes: ["m6i.large"] }],
        "spec.network.clusterCidr": "10.32.0.0/13",
        "spec.network.serviceCidr": "10.96.0.0/16",
      },
    ],
    ["aliases of time zones", { "spec.backup.timeZone": "Etc/UTC" }],
  ])("take %s", (_, spoil) => {
    expect(told(spoil)).toEqual([]);
  });

  it("know every key of RKE2: each is taken, or refused with the place to write instead", () => {
    const keys = JSON.parse(readFileSync("core/rke2-config-keys.json", "utf8")) as { name: string }[];
    expect(keys.length).toBeGreaterThan(100);
    for (const { name } of keys) {
      const answers = told({ "spec.version": "v1.36.4+rke2r1", "spec.rke2.config": { [name]: "x" } });
      expect(answers.filter((answer) => answer.includes("is no key of RKE2"))).toEqual([]);
    }
  });

  it("find the name behind any single slip in a key of RKE2", () => {
    const keys = (JSON.parse(readFileSync("core/rke2-config-keys.json", "utf8")) as { name: string }[])
      .map(({ name }) => name)
      .filter((name) => name.length > 5);
    const slip = fc.tuple(fc.constantFrom(...keys), fc.nat(), fc.constantFrom("drop", "double", "swap"));
    fc.assert(
      fc.property(slip, ([name, seed, kind]) => {
        const at = seed % (name.length - 1);
        const [before, letter, next, after] = [name.slice(0, at), name[at], name[at + 1], name.slice(at + 2)];
        const word =
          kind === "drop" ? before + next + after : kind === "double" ? before + letter + letter + next + after : before + next + letter + after;
        const [answer] = told({ "spec.rke2.config": { [word]: true } });
        fc.pre(!keys.includes(word));
        expect(answer).toMatch(/Did you mean |Like |; (take|write|put|choose)|: write /);
      }),
      { seed: 13, numRuns: 200 },
    );
  });
});

describe("checking a file against the artifact store", () => {
  const version = "v1.35.7+rke2r1";
  const everything = (spoil: Spoil = {}) => {
    const { bundle, checksums, images } = archivesOfCluster(clusterFile(spoil), version);
    return [bundle, checksums, ...images];
  };
  const check = (spoil: Spoil, present: readonly string[], knownVersions = [version]) =>
    shown(checkAgainstStore({ file: clusterFile(spoil), version, present, knownVersions }));

  it("says nothing when all is there", () => {
    expect(check({}, everything())).toEqual([]);
  });

  it("names the versions that are there when the one asked for is not", () => {
    expect(check({}, [], ["v1.35.6+rke2r1", "v1.36.3+rke2r1", "stray"])).toEqual([
      "error spec.version: v1.35.7+rke2r1 is not in the artifact store (did you mean v1.35.6+rke2r1?); it has v1.36.3+rke2r1, v1.35.6+rke2r1. Add it with: drover artifacts add DIR",
    ]);
    expect(check({}, [], [])).toEqual([
      "error spec.version: v1.35.7+rke2r1 is not in the artifact store; it is empty. Add it with: drover artifacts add DIR",
    ]);
  });

  it("says so when a channel has no release", () => {
    const file = clusterFile({ "spec.version": undefined, "spec.channel": "v1.34" });
    expect(shown(checkAgainstStore({ file, version: undefined, present: [], knownVersions: [version] }))).toEqual([
      "error spec.channel: v1.34 has no release in the artifact store; it has v1.35.7+rke2r1. Add one with: drover artifacts add DIR",
    ]);
  });

  it.each([
    [
      "the checksum file",
      {},
      "sha256sum-amd64.txt",
      "error spec.version: sha256sum-amd64.txt is missing in the artifact store for v1.35.7+rke2r1 amd64: without it no download could be verified",
    ],
    [
      "the bundle",
      {},
      "rke2.linux-amd64.tar.gz",
      "error spec.version: rke2.linux-amd64.tar.gz is missing in the artifact store for v1.35.7+rke2r1 amd64: it is RKE2 itself",
    ],
    [
      "Canal's images",
      {},
      "rke2-images.linux-amd64.tar.zst",
      "error spec.network.cni: canal needs its image set: rke2-images.linux-amd64.tar.zst is missing in the artifact store for v1.35.7+rke2r1 amd64",
    ],
    [
      "the CNI's image set",
      { "spec.network.cni": "cilium" },
      "rke2-images-cilium.linux-amd64.tar.zst",
      "error spec.network.cni: cilium needs its image set: rke2-images-cilium.linux-amd64.tar.zst is missing in the artifact store for v1.35.7+rke2r1 amd64",
    ],
    [
      "the core images",
      { "spec.network.cni": "cilium" },
      "rke2-images-core.linux-amd64.tar.zst",
      "error spec.version: rke2-images-core.linux-amd64.tar.zst is missing in the artifact store for v1.35.7+rke2r1 amd64: every node needs these images",
    ],
    [
      "Multus's images",
      { "spec.network.multus": true },
      "rke2-images-multus.linux-amd64.tar.zst",
      "error spec.network.multus: rke2-images-multus.linux-amd64.tar.zst is missing in the artifact store for v1.35.7+rke2r1 amd64",
    ],
    [
      "the ingress controller's images",
      { "spec.rke2.ingress": "traefik" },
      "rke2-images-traefik.linux-amd64.tar.zst",
      "error spec.rke2.ingress: rke2-images-traefik.linux-amd64.tar.zst is missing in the artifact store for v1.35.7+rke2r1 amd64",
    ],
    [
      "a further image set",
      { "spec.airGap.imageSets": ["multus", "harvester"] },
      "rke2-images-harvester.linux-amd64.tar.zst",
      "error spec.airGap.imageSets[1]: rke2-images-harvester.linux-amd64.tar.zst is missing in the artifact store for v1.35.7+rke2r1 amd64",
    ],
  ])("refuses a release without %s, at the field that needs it", (_, spoil, missing, answer) => {
    const all = everything(spoil);
    expect(all).toContain(missing);
    expect(
      check(
        spoil,
        all.filter((file) => file !== missing),
      ),
    ).toEqual([answer]);
  });

  it("applies the rules that depend on the version to the one a channel stands for", () => {
    const file = clusterFile({
      "spec.version": undefined,
      "spec.channel": "v1.32",
      "spec.rke2.config": { "write-kubeconfig-name": "prod" },
      "spec.airGap.imageSets": ["traefik", "ingress-nginx"],
    });
    expect(checkCluster(file)).toEqual([]);
    const chosen = "v1.32.9+rke2r1";
    const { bundle, checksums, images } = archivesOfCluster(file, chosen);
    const answers = shown(checkAgainstStore({ file, version: chosen, present: [bundle, checksums, ...images], knownVersions: [chosen] }));
    expect(answers).toEqual([
      "warning spec.channel: v1.32.9+rke2r1 gets no more fixes upstream: the oldest line that does is v1.33",
      "error spec.rke2.config.write-kubeconfig-name: exists from v1.36.4 on: v1.32.9+rke2r1 would only warn and start without it",
      expect.stringMatching(/^error spec\.airGap\.imageSets\[1\]: is no image set of v1\.32\.9\+rke2r1 for amd64/),
    ]);
  });

  it("says when the version is there for another architecture only", () => {
    expect(check({}, [])).toEqual([
      "error spec.image.architecture: the artifact store for v1.35.7+rke2r1 amd64 is empty; that version is there for another architecture only",
    ]);
  });

  it("asks for no images when they are pulled", () => {
    expect(check({ "spec.airGap.enabled": false }, ["rke2.linux-amd64.tar.gz", "sha256sum-amd64.txt"])).toEqual([]);
  });
});

describe("checking a file against the account", () => {
  const file = clusterFile();
  const facts = {
    file,
    image: { architecture: "x86_64" as const, id: "ami-0123456789abcdef0", rootDeviceName: "/dev/sda1" },
    instanceTypes: new Map([
      ["m6i.xlarge", { architectures: ["x86_64"], vcpus: 4, memoryMib: 16384 }],
      ["m5.xlarge", { architectures: ["x86_64"], vcpus: 4, memoryMib: 16384 }],
      ["m6i.large", { architectures: ["x86_64"], vcpus: 2, memoryMib: 8192 }],
    ]),
    subnets: file.spec.network.subnetIds.map((id, index) => ({
      id,
      vpcId: file.spec.network.vpcId,
      zone: `eu-central-1${"abc"[index]}`,
      cidr: `10.0.${index}.0/24`,
      freeAddresses: 250,
    })),
    vpcCidrs: ["10.0.0.0/16"],
  };
  const type = (name: string, change: object) =>
    new Map([...facts.instanceTypes, [name, { architectures: ["x86_64"], vcpus: 4, memoryMib: 16384, ...change }]]);
  const subnet = (at: number, change: object) => facts.subnets.map((each, index) => (index === at ? { ...each, ...change } : each));

  it("says nothing when all fits", () => {
    expect(checkAgainstAccount(facts)).toEqual([]);
  });

  it.each<[string, object, string[]]>([
    [
      "an image that does not exist",
      { image: undefined },
      ["error spec.image.id: is no image that this account sees in this region: ami-0123456789abcdef0"],
    ],
    [
      "an image of another architecture",
      { image: { ...facts.image, architecture: "arm64" } },
      ["error spec.image.architecture: is amd64 (x86_64), and image ami-0123456789abcdef0 is arm64"],
    ],
    [
      "an instance type of another architecture",
      { instanceTypes: type("m5.xlarge", { architectures: ["arm64"] }) },
      ["error spec.servers.instanceTypes[1]: m5.xlarge is arm64, and the image is for amd64 (x86_64)"],
    ],
    [
      "an instance type that does not exist here",
      { instanceTypes: new Map([...facts.instanceTypes].filter(([name]) => name !== "m6i.large")) },
      [
        "error spec.agentPools[0].instanceTypes[0]: m6i.large does not exist in this region",
        "error spec.agentPools[1].instanceTypes[0]: m6i.large does not exist in this region",
      ],
    ],
    [
      "a server too small",
      { instanceTypes: type("m5.xlarge", { vcpus: 2, memoryMib: 2048 }) },
      ["error spec.servers.instanceTypes[1]: m5.xlarge has 2 vCPU and 2 GiB; a server needs at least 2 vCPU and 4 GiB"],
    ],
    [
      "a server below the recommended size",
      { instanceTypes: type("m5.xlarge", { vcpus: 2, memoryMib: 4096 }) },
      ["warning spec.servers.instanceTypes[1]: m5.xlarge has 2 vCPU and 4 GiB; 4 vCPU and 8 GiB are recommended for a server"],
    ],
    [
      "servers too small for so many agents",
      { file: clusterFile({ "spec.agentPools.0.count": 449 }), subnets: facts.subnets.map((each) => ({ ...each, freeAddresses: 1000 })) },
      [
        "warning spec.servers.instanceTypes[0]: m6i.xlarge has 4 vCPU and 16 GiB, enough for about 450 agents, and the file asks for 451",
        "warning spec.servers.instanceTypes[1]: m5.xlarge has 4 vCPU and 16 GiB, enough for about 450 agents, and the file asks for 451",
      ],
    ],
    [
      "a subnet that does not exist",
      { subnets: facts.subnets.slice(1) },
      ["error spec.network.subnetIds[0]: subnet-0aaa1111bbbb2222c does not exist in this region"],
    ],
    [
      "a subnet of another VPC",
      { subnets: subnet(2, { vpcId: "vpc-0fffffffffffffff1" }) },
      ["error spec.network.subnetIds[2]: subnet-0ccc3333dddd4444e is in vpc-0fffffffffffffff1, not in vpc-0a1b2c3d4e5f60718 (spec.network.vpcId)"],
    ],
    [
      "subnets of one zone",
      { subnets: facts.subnets.map((each) => ({ ...each, zone: "eu-central-1a" })) },
      ["warning spec.network.subnetIds: are all in eu-central-1a: when it fails, all 3 servers fail. Give subnets in three zones"],
    ],
    [
      "subnets of two zones",
      { subnets: subnet(2, { zone: "eu-central-1a" }) },
      [
        "warning spec.network.subnetIds: are in two zones, eu-central-1a and eu-central-1b: the one with more servers takes etcd's majority with it. Give a third",
      ],
    ],
    [
      "too few addresses for the endpoint",
      { subnets: subnet(0, { freeAddresses: 7 }) },
      ["error spec.network.subnetIds[0]: subnet-0aaa1111bbbb2222c has 7 free addresses; the endpoint alone needs 8 there"],
    ],
    [
      "too few addresses for the nodes",
      { subnets: facts.subnets.map((each) => ({ ...each, freeAddresses: 10 })) },
      ["error spec.network.subnetIds: have 6 free addresses besides the endpoint's, and the file asks for 7 nodes"],
    ],
    [
      "a VPC in the pods' network",
      { vpcCidrs: ["10.0.0.0/16", "10.42.64.0/20"] },
      ["error spec.network.clusterCidr: 10.42.0.0/16 overlaps 10.42.64.0/20 of vpc-0a1b2c3d4e5f60718: nodes could not tell pods from machines"],
    ],
    [
      "a VPC in the services' network, seen by its subnets",
      { vpcCidrs: undefined, subnets: subnet(1, { cidr: "10.43.1.0/24" }) },
      ["error spec.network.serviceCidr: 10.43.0.0/16 overlaps 10.43.1.0/24 of vpc-0a1b2c3d4e5f60718: nodes could not tell services from machines"],
    ],
  ])("answers %s", (_, change, answers) => {
    expect(shown(checkAgainstAccount({ ...facts, ...change }))).toEqual(answers);
  });
});

describe("a summary of faults", () => {
  it("counts errors and warnings and puts errors first", () => {
    const summary = faultSummary([
      { path: "spec.a", message: "is odd", severity: "warning" },
      { path: "", message: "the cluster file is empty", severity: "error" },
      { path: "spec.b", message: "is wrong", severity: "error" },
    ]);
    expect(summary.headline).toBe("2 errors and 1 warning");
    expect(summary.lines).toEqual(["error    the cluster file is empty", "error    spec.b: is wrong", "warning  spec.a: is odd"]);
    expect(summary.errors.map(({ path }) => path)).toEqual(["", "spec.b"]);
  });

  it("says when there is nothing to say", () => {
    expect(faultSummary([])).toEqual({ headline: "no faults", lines: [], errors: [], warnings: [] });
  });
});
