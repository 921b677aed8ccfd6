/** The failure card as a person reads it at three in the morning. */
import { hoursPerMonth } from "../core/costs.js";
import type { FailureCard, LeftResource } from "../core/records.js";
import type { Screen } from "./surroundings.js";
import { counted, instant, labelled, paint, plain } from "./text.js";

/** @returns lines, each ended */
export function cardText(card: FailureCard, screen: Pick<Screen, "hasColour" | "columns">): string {
  const columns = Math.min(Math.max(screen.columns, 60), 120);
  const heading = (text: string) => `\n  ${paint(screen, "bold", text)}`;
  const lines = [
    paint(screen, "red", `${card.cluster}: ${card.operation} failed (${card.failure}) at ${instant(card.at)}`),
    "",
    labelled("What", card.what, columns),
    labelled("Where", where(card), columns),
    labelled("Likely", card.likelyCause, columns),
    labelled("Runbook", card.runbook, columns),
  ];
  if (card.node !== undefined && card.node.log.trim() !== "") {
    lines.push(
      heading(`Last lines of ${card.node.name}'s log`),
      ...plain(card.node.log)
        .trimEnd()
        .split("\n")
        .map((line) => `  | ${line}`),
    );
  }
  lines.push(heading("Next"), ...card.next.map((command) => (command.startsWith("#") ? `    ${plain(command)}` : `    $ ${plain(command)}`)));
  const { resources, dollarsPerHour } = card.left;
  if (resources.length === 0) lines.push(heading("Left: nothing that costs money"));
  else {
    lines.push(heading(`Left until then: ${counted(resources.length, "resource")}, about $${dollarsPerHour.toFixed(2)} an hour`));
    lines.push(...leftLines(resources, 20));
  }
  return `${lines.join("\n")}\n`;
}

function where(card: FailureCard): string {
  const step = `step "${card.state}"`;
  return card.node === undefined ? step : `${card.node.name} (${card.node.instanceId}), ${step}`;
}

/** Dearest first; a long list is cut, and says so. */
export function leftLines(resources: readonly LeftResource[], most: number): string[] {
  const sorted = [...resources].sort((a, b) => b.dollarsPerHour - a.dollarsPerHour || a.kind.localeCompare(b.kind) || a.id.localeCompare(b.id));
  const width = Math.max(...sorted.slice(0, most).map(({ kind }) => kind.length));
  const lines = sorted
    .slice(0, most)
    .map(({ kind, id, detail, dollarsPerHour }) =>
      `    ${kind.padEnd(width)}  ${id}  ${plain(detail)}${dollarsPerHour === 0 ? "" : `  $${(dollarsPerHour * hoursPerMonth).toFixed(2)} a month`}`.trimEnd(),
    );
  return sorted.length > most ? [...lines, `    and ${sorted.length - most} more: add --json for all`] : lines;
}
