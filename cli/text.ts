/** How things are written: durations, money, tables, wrapped text, colours. */
import type { Screen } from "./surroundings.js";

type Style = "bold" | "dim" | "red" | "green" | "yellow";
const codes: Readonly<Record<Style, readonly [number, number]>> = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] };

/** Colours where they are wanted, the plain text elsewhere. */
export function paint(screen: Pick<Screen, "hasColour">, style: Style, text: string): string {
  const [on, off] = codes[style];
  return screen.hasColour ? `\u001b[${on}m${text}\u001b[${off}m` : text;
}

/** `26 s`, `5:06`, `1:02:03`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  return clockTime(whole);
}

/** `0:26`, `5:06`, `1:02:03`: for columns. */
export function clockTime(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value: number) => String(value).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes}:${two(whole % 60)}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}

/** `3 min`, `5 h`, `12 d`: how long ago. */
export function age(seconds: number): string {
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

export function secondsBetween(from: string, to: string | number): number {
  return ((typeof to === "number" ? to : Date.parse(to)) - Date.parse(from)) / 1000;
}

/** `2026-01-05 02:00:01 UTC`. */
export function instant(iso: string): string {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/.test(iso) ? `${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC` : iso;
}

export function size(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"] as const;
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return unit === 0 ? `${bytes} byte${bytes === 1 ? "" : "s"}` : `${value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Columns as wide as their widest cell; the last is not padded. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (column === cells.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join("  ")
      .trimEnd();
  return [head, ...rows].map((cells) => `${line(cells)}\n`).join("");
}

/** Breaks text at spaces; a word longer than a line stays whole, so that it can be copied. Control characters do not reach the terminal. */
export function wrap(text: string, width: number): string[] {
  return plain(text)
    .split("\n")
    .flatMap((paragraph) => {
      const lines: string[] = [];
      let line = "";
      for (const word of paragraph.split(" ")) {
        if (line !== "" && line.length + 1 + word.length > width) {
          lines.push(line);
          line = word;
        } else line = line === "" ? word : `${line} ${word}`;
      }
      return [...lines, line];
    });
}

/** Text from elsewhere without what would move the cursor or change colours. */
export function plain(text: string): string {
  return text.replace(/\u001b\[[0-9;?]*[ -/]*[@-~]/g, "").replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
}

/** Cut to the width of a line that is redrawn. */
export function fit(text: string, columns: number): string {
  return text.length <= columns ? text : `${text.slice(0, Math.max(0, columns - 1))}…`;
}

/** A label, and text beside it that wraps under itself. */
export function labelled(label: string, text: string, columns: number, indent = 2): string {
  const width = 11;
  const room = Math.max(20, columns - indent - width);
  return wrap(text, room)
    .map((line, index) => `${" ".repeat(indent)}${(index === 0 ? label : "").padEnd(width)}${line}`.trimEnd())
    .join("\n");
}
