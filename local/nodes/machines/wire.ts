/** What a cloud of machines and its gateway tell each other, as messages between two processes. */
import type { BalancerTraffic } from "../../aws/elastic-load-balancing-v2.js";

/** Of instance metadata and the name service as AWS has them, and of S3, from the range for tests of networks (RFC 2544). */
export const addresses = { metadata: "169.254.169.254", names: "169.254.169.253", store: "198.18.0.1" } as const;

export interface GatewaySetup {
  readonly kind: "setup";
  /** The cloud's name in its traces. */
  readonly cloud: string;
  readonly region: string;
  readonly certificate: string;
  readonly key: string;
  /** Unix sockets: where S3 answers plain HTTP, and where the gateway lets others out into its network. */
  readonly storeSocket: string;
  readonly dialSocket: string;
}
export interface GatewayState {
  readonly kind: "state";
  readonly machines: readonly { readonly instanceId: string; readonly address: string; readonly metadata: Readonly<Record<string, string>> }[];
  readonly balancers: readonly BalancerTraffic[];
  /** Ports that somebody wants to know about. */
  readonly probes: readonly { readonly instanceId: string; readonly address: string; readonly port: number }[];
}
/** `end`: the cloud is about to be closed in order. */
export type ToGateway = GatewaySetup | GatewayState | { readonly kind: "end" };
export type FromGateway =
  | { readonly kind: "ready" }
  | { readonly kind: "failed"; readonly message: string }
  | {
      readonly kind: "seen";
      /** By `<target group> <instance> <port>`. */
      readonly checks: Readonly<Record<string, "initial" | "healthy" | "unhealthy">>;
      /** By `<instance> <port>`. */
      readonly answers: Readonly<Record<string, boolean>>;
    };
