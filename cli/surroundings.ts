/** What a command sees of the machine it runs on, as arguments: tests bring their own clock, network, screen and person. */
import type { Send } from "./http.js";

export interface Screen {
  write(text: string): void;
  /** Whether a person watches: lines may be redrawn. */
  readonly isTerminal: boolean;
  readonly hasColour: boolean;
  readonly columns: number;
  readonly rows: number;
}

export interface Surroundings {
  /** Results. */
  readonly out: Screen;
  /** Progress, questions and errors. */
  readonly err: Screen;
  /** Reads standard input to its end, or until it is longer than the limit. */
  readonly readInput: (limitBytes: number) => Promise<Uint8Array>;
  /** Asks the person at the terminal; undefined when there is none. The answer is undefined when the input ends. */
  readonly ask: ((question: string) => Promise<string | undefined>) | undefined;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Folder that relative paths start from. */
  readonly directory: string;
  readonly home: string;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Returns early when the command is interrupted. */
  readonly sleep: (milliseconds: number) => Promise<void>;
  /** From 0 up to 1, for jitter. */
  readonly random: () => number;
  readonly newId: () => string;
  readonly send: Send;
  /** Raised by Ctrl-C. */
  readonly interrupted: AbortSignal;
}
