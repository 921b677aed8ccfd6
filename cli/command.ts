/** What every command is given: the surroundings, the API when it needs it, and a way to answer as text or as JSON. */
import { type ApiClient, apiClient } from "./api-client.js";
import { type EndpointOptions, findEndpoint } from "./endpoint.js";
import type { ExitCode } from "./failures.js";
import type { Surroundings } from "./surroundings.js";

export interface CommonOptions extends EndpointOptions {
  readonly json?: boolean;
}

export interface Command {
  readonly surroundings: Surroundings;
  readonly isJson: boolean;
  readonly api: () => Promise<ApiClient>;
  /** The result: as data with --json, else as text for a person. */
  answer(data: unknown, text: string): void;
  /** For a person beside the result: progress, warnings, what to type next. */
  tell(text: string): void;
}

/** @returns the exit code */
export type Act<Options, Arguments extends readonly unknown[]> = (command: Command, options: Options, ...args: Arguments) => Promise<ExitCode>;

export function commandWith(options: CommonOptions, surroundings: Surroundings): Command {
  let client: Promise<ApiClient> | undefined;
  const isJson = options.json === true;
  return {
    surroundings,
    isJson,
    api: () => (client ??= findEndpoint(options, surroundings).then((endpoint) => apiClient(endpoint, surroundings))),
    answer: (data, text) => surroundings.out.write(isJson ? `${JSON.stringify(data, null, 2)}\n` : text),
    tell: (text) => surroundings.err.write(text),
  };
}
