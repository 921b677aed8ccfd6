/**
 * Law 6: no secret in the clear. Takes secrets out of text that leaves the system: messages, logs, cards, traces.
 *
 * Errs to the safe side: what looks like a secret goes. Paths of files that hold secrets, hashes, ids and host names stay, because a person needs them
 * to find the fault.
 */

/** What stands in a secret's place. */
export const redacted = "[redacted]";

/**
 * Words that make a name one of a secret. A name that ends in one of `plainEndings` holds the place or the fingerprint of a secret, or is the failure
 * TokenRejected, not the secret.
 */
const secretWord = "(?:pass(?:word|wd|phrase)|secret|token|credential|(?:api|access|private|client|encryption)[-_]?key|signature)";
const secretName = `(?<![A-Za-z0-9_.-])([A-Za-z0-9_.-]*${secretWord}[A-Za-z0-9_.-]*)`;
const plainEndings = /(?:file|path|dir|hash|arn|name|generation|ttl|count|length|id|rejected)$/i;

type Rule = { readonly pattern: RegExp; readonly replace: (match: string, ...groups: string[]) => string };

const rules: readonly Rule[] = [
  // Private keys, whole or cut off behind, and PEM in base64 as kubeconfigs hold it.
  {
    pattern: /-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)/g,
    replace: () => redacted,
  },
  { pattern: /LS0tLS1CRUdJTi[A-Za-z0-9+/]*={0,2}/g, replace: () => redacted },
  // RKE2's full tokens (K10<CA hash>::<user>:<password>) and its bootstrap tokens (6.16).
  { pattern: /\bK10[0-9a-fA-F]{6,}(?:::[^\s"'\\,;&<>]*)?/g, replace: () => redacted },
  { pattern: /(?<![A-Za-z0-9.-])[a-z0-9]{6}\.[a-z0-9]{16}(?![A-Za-z0-9.-])/g, replace: () => redacted },
  // What makes a presigned URL a bearer key; the rest of the URL tells which object it was.
  {
    pattern: /(X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId)(=|%3D)[^&\s"'\\<>]+/gi,
    replace: (_, name, sign) => `${name}${sign}${redacted}`,
  },
  // Authorization headers, and user information in a URL.
  { pattern: /\b(Bearer|Basic)(\s+)(?!\[redacted\])[A-Za-z0-9._~+/=:-]{6,}/gi, replace: (_, scheme, space) => `${scheme}${space}${redacted}` },
  { pattern: /(AWS4-HMAC-SHA256\s+)Credential=[^"'\r\n\\]+/g, replace: (_, scheme) => `${scheme}${redacted}` },
  { pattern: /(?<![a-z0-9+.-])([a-z][a-z0-9+.-]*:\/\/)[^\s/@:"']+:[^\s/@"']+@/gi, replace: (_, scheme) => `${scheme}${redacted}@` },
  { pattern: /\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}\b/g, replace: () => redacted },
  // Certificates and keys of a kubeconfig.
  {
    pattern: /(client-key-data|client-certificate-data)(["'\\]*\s*:\s*["'\\]*)[^\s"'\\,}]+/g,
    replace: (_, name, sign) => `${name}${sign}${redacted}`,
  },
  // name: value, name=value, "name":"value" (also inside JSON inside JSON, and with the closing quote cut off), --name value.
  {
    pattern: new RegExp(
      `${secretName}(\\\\*["']?\\s*(?:=>|[:=])\\s*)(\\\\*"(?:[^"\\\\]|\\\\[^"])*\\\\*"|'[^']*'|\\\\*["']?[^\\s"'\\\\,;&(){}<>]+)`,
      "gi",
    ),
    replace: (match, name, sign, value) => {
      if (plainEndings.test(name) || isHarmless(value)) return match;
      const opening = /^\\*["']/.exec(value)?.[0] ?? "";
      const closing = /\\*["']$/.exec(value)?.[0] ?? "";
      return `${name}${sign}${opening}${redacted}${closing}`;
    },
  },
  {
    pattern: new RegExp(`${secretName}(\\s+)("[^"]*"|'[^']*'|[^\\s"'-][^\\s"']*)`, "gi"),
    replace: (match, name, space, value) =>
      !name.startsWith("-") || plainEndings.test(name) || isHarmless(value) ? match : `${name}${space}${redacted}`,
  },
  // What is left and looks random: AWS secret access keys (40), passwords, task tokens. Hashes are hexadecimal and ids shorter, so both stay.
  { pattern: /(?<![A-Za-z0-9+/=])[A-Za-z0-9+/=]{32,}(?![A-Za-z0-9+/=])/g, replace: (match) => (isRandom(match) ? redacted : match) },
];

/** The text without its secrets. Redacting twice changes nothing more. */
export function redact(text: string): string {
  return rules.reduce(
    (clean, rule) => clean.replace(rule.pattern, rule.replace as (match: string, ...groups: unknown[]) => string),
    withoutTailsOfKeys(text),
  );
}

/**
 * Takes out private keys whose beginning is cut off: everything before the end line that can be base64, newlines written as \n included. Walks back by
 * hand, because a pattern for it takes time exponential in the length of a line.
 */
function withoutTailsOfKeys(text: string): string {
  const end = /-----END [A-Z0-9 ]*PRIVATE KEY-----/g;
  let clean = "";
  let done = 0;
  for (let match = end.exec(text); match !== null; match = end.exec(text)) {
    let from = match.index;
    while (from > done && /[A-Za-z0-9+/=\s\\]/.test(text[from - 1] ?? "")) from -= 1;
    // A key with its beginning is the other rule's.
    const isWhole = text.slice(done, from).endsWith("-----");
    clean += isWhole ? text.slice(done, match.index + match[0].length) : `${text.slice(done, from)}${redacted}`;
    done = match.index + match[0].length;
  }
  return clean + text.slice(done);
}

/** A value that cannot be a secret: already redacted, a path, a truth value, a small number, or nothing. */
function isHarmless(value: string): boolean {
  const bare = value.replace(/^[\\"']+|[\\"']+$/g, "");
  return bare === "" || bare.startsWith("[redacted") || bare.startsWith("/") || /^(?:true|false|null|undefined|none|\d{1,3})$/i.test(bare);
}

/**
 * Whether a long word is drawn by chance: in base 62 neighbours differ in kind (upper, lower, digit) 64 times in 100, in names made of words, such as a
 * function's in an ARN, about 40 times at most.
 */
function isRandom(word: string): boolean {
  if (!(/[A-Z]/.test(word) && /[a-z]/.test(word) && /[0-9]/.test(word))) return false;
  const kinds = [...word].map((character) => (/[A-Z]/.test(character) ? "U" : /[a-z]/.test(character) ? "l" : /[0-9]/.test(character) ? "d" : "-"));
  const changes = kinds.filter((kind, index) => index > 0 && kind !== kinds[index - 1]).length;
  return changes / (word.length - 1) > 0.45;
}
