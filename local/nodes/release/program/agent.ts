/** `rke2 agent`: registers with a running server and keeps a kubelet. It asks for ever when it is not let in. */
import { Api } from "./api.js";
import { type Given, identify, readConfig, secretOf } from "./config.js";
import { agent, every, fatal, loopback, notifyReady, pause, say, version, write } from "./host.js";
import { importImages, requireRuntime } from "./images.js";
import { ask, Balancer, obtainKubelet } from "./join.js";
import { checkMachine, keepPods, listenFailure, runKubelet } from "./kubelet.js";
import { kubeconfig, placeKubeletCertificates } from "./pki.js";
import { removeManifests } from "./pods.js";
import { linkRuntime } from "./runtime.js";

export async function runAgent(given: Given): Promise<void> {
  const config = readConfig("agent", given);
  say("info", `Starting rke2 agent ${version}`);
  checkMachine(config, "agent");
  const url = config.text("server");
  const token = secretOf(config, "token");
  if (url === undefined) fatal("--server is required");
  if (token === undefined) fatal("--token is required");
  const identity = identify(config);
  const first = new URL(url).hostname;
  const supervisors = new Balancer("rke2-agent-load-balancer.json", config.number("lb-server-port"), 9345, first);
  const apis = new Balancer("rke2-api-server-agent-load-balancer.json", 6443, 6443, first);

  importImages();
  await requireRuntime();
  const servers = () => [url, ...supervisors.servers.map((host) => `https://${host}:9345`).filter((each) => each !== url)];
  const { certificates, config: cluster, access } = await obtainKubelet(servers, token, identity, "node");
  placeKubeletCertificates(certificates);
  linkRuntime();
  for (const [balancer, port] of [
    [supervisors, config.number("lb-server-port")],
    [apis, 6443],
  ] as const) {
    balancer.listen((error) => fatal(listenFailure(error, port)));
  }
  const { certificate, key } = certificates.client;
  write(agent("kubelet.kubeconfig"), kubeconfig({ url: "https://127.0.0.1:6443", ca: certificates.serverCa, certificate, key }));
  const api = new Api(() => [`https://${loopback}:6443`], { ca: certificates.serverCa, certificate, key });
  const through = { ...access, url: `https://127.0.0.1:${config.number("lb-server-port")}` };
  const refresh = async () => {
    const hosts = JSON.parse(await ask(through, "/v1-rke2/apiservers")) as string[];
    supervisors.replace(hosts);
    apis.replace(hosts);
  };
  await refresh().catch(() => undefined);
  void every(5, "Failed to read the cluster's servers", refresh);
  removeManifests();
  keepPods(identity);

  while ((await api.raw("GET", "/readyz").catch(() => undefined))?.status !== 200) {
    say("info", "Waiting for the API server to be reachable");
    await pause(2);
  }
  await runKubelet({ identity, role: "agent", config, api, cni: () => cluster.cni });
  notifyReady();
  say("info", "rke2 agent is up and running");
}
