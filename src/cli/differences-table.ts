import { tellingPoints, type Difference } from '../eval/differences.ts';
import { formatCount } from './output.ts';
import { heading, table } from './table.ts';

/** What variants differ by from another, and which intervals are too wide to tell. Nothing where there is nothing to compare. */
export function differencesTable(differences: readonly Difference[]): string {
  const [first] = differences;
  if (!first) return '';
  const lines = differences.map(({ variant, of, length, tasks, units, points, from, to, tells }) => [
    variant,
    of === 'made-up tasks' && tasks === 1 ? 'one task' : tasks === 1 ? of : `${of}, ${tasks}`,
    formatCount(length),
    formatCount(units),
    signed(points),
    `${signed(from)} to ${signed(to)}`,
    tells ? '' : 'shows nothing',
  ]);
  const head = ['points, mean of tasks', 'of', 'tokens', 'drawn', 'difference', '95% interval', ''];
  const wide = differences.some(({ tells }) => !tells)
    ? `\n  An interval of more than ${tellingPoints} points to each side shows nothing: ask more with --samples.`
    : '';
  return `\n${heading(`against ${first.against}, on the same prompts`)}\n${table(head, lines)}${wide}\n`;
}

/** 0 has no sign, not even where it was rounded. */
function signed(points: number): string {
  const text = points.toFixed(1);
  return Number(text) === 0 ? '0.0' : points > 0 ? `+${text}` : text;
}
