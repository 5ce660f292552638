// cli-table3 measures wide characters and colours, which padEnd does not.
import Table from 'cli-table3';
// picocolors respects NO_COLOR and FORCE_COLOR, and writes no colours where stdout is neither a terminal nor the log of a CI.
import colors from 'picocolors';

const noLines = Object.fromEntries(
  ['top', 'bottom', 'left', 'right', 'mid', 'middle'].flatMap((side) =>
    [side, `${side}-mid`, `${side}-left`, `${side}-right`].map((name) => [name, '']),
  ),
);

/** A table with a head and columns to the right, but for the first. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = new Table({
    head: head.map((title) => colors.dim(title)),
    colAligns: head.map((_, index) => (index === 0 ? 'left' : 'right')),
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 3 },
    chars: noLines,
  });
  lines.push(...rows.map((row) => [...row]));
  return lines
    .toString()
    .split('\n')
    .map((line) => `  ${line.trimEnd()}`)
    .join('\n');
}

export function heading(text: string): string {
  return colors.bold(text);
}
