/** IPv4 networks in CIDR notation: what overlaps, what holds what. */

export interface Network {
  /** First address, as an unsigned 32-bit number. */
  readonly first: number;
  /** Last address. */
  readonly last: number;
  /** Prefix length, 0 to 32. */
  readonly prefix: number;
}

/** Reads an address of four decimal octets; undefined for anything else. Leading zeros are refused: some readers take them as octal. */
export function parseAddress(text: string): number | undefined {
  const octets = text.split(".");
  if (octets.length !== 4 || !octets.every((octet) => /^(0|[1-9]\d{0,2})$/.test(octet) && Number(octet) <= 255)) return undefined;
  return octets.reduce((sum, octet) => sum * 256 + Number(octet), 0);
}

export function formatAddress(address: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join(".");
}

/** Reads `a.b.c.d/n`; undefined for anything else. An address within the network stands for the network: see `networkFault`. */
export function parseNetwork(text: string): Network | undefined {
  const match = /^([\d.]+)\/(0|[1-9]\d?)$/.exec(text);
  const address = parseAddress(match?.[1] ?? "");
  const prefix = Number(match?.[2]);
  if (address === undefined || !(prefix <= 32)) return undefined;
  const size = 2 ** (32 - prefix);
  const first = Math.floor(address / size) * size;
  return { first, last: first + size - 1, prefix };
}

export function formatNetwork(network: Network): string {
  return `${formatAddress(network.first)}/${network.prefix}`;
}

/** Why a text is no network, or undefined when it is one. Kubernetes refuses bits set behind the prefix. */
export function networkFault(text: string): string | undefined {
  const network = parseNetwork(text);
  if (network === undefined) return "must be an IPv4 network such as 10.42.0.0/16";
  if (formatNetwork(network) !== text) return `is an address within a network, not a network; did you mean ${formatNetwork(network)}`;
  return undefined;
}

export function overlaps(a: Network, b: Network): boolean {
  return a.first <= b.last && b.first <= a.last;
}

export function contains(network: Network, address: number): boolean {
  return network.first <= address && address <= network.last;
}
