import type { Row } from '../eval/rows.ts';
import { formatBytes, formatCount } from './output.ts';
import { heading, table } from './table.ts';

/** The rows as tables, one a task; strict windows and windows that move in steps are apart. */
export function evalTables(rows: readonly Row[]): string {
  const sections = distinct(rows, groupOf).flatMap((task) => {
    if (rows.some((row) => groupOf(row) === task && row.task !== task)) {
      return [
        files(
          task,
          rows.filter((row) => groupOf(row) === task),
        ),
      ];
    }
    const ofTask = rows.filter((row) => row.task === task);
    const chunks = distinct(ofTask, (row) => row.chunk).filter((chunk) => chunk !== null);
    if (chunks.length < 2) return [section(task, ofTask)];
    return chunks.map((chunk) =>
      section(
        `${task}, ${chunk === 1 ? 'strict windows' : `windows in steps of ${chunk} tokens`}`,
        ofTask.filter((row) => row.chunk === chunk || row.chunk === null),
      ),
    );
  });
  return `${sections.join('\n\n')}\n`;
}

/** A benchmark of many files is one table. */
function groupOf({ task }: Row): string {
  return task.split('/')[0] ?? task;
}

/** Files downwards, variants across, and their means. */
function files(title: string, rows: readonly Row[]): string {
  const variants = distinct(rows, (row) => row.variant);
  const several = distinct(rows, (row) => row.length).length > 1 && title === 'longbench';
  const nameOf = (row: Row): string => row.task.slice(title.length + 1) + (several ? `, ${formatCount(row.length)} tokens` : '');
  const line = (name: string, within: readonly Row[]): string[] => [
    name,
    ...variants.map((variant) => score(within.filter((row) => row.variant === variant))),
  ];
  const lines = distinct(rows, nameOf).map((name) =>
    line(
      name,
      rows.filter((row) => nameOf(row) === name),
    ),
  );
  const caches = variants.map((variant) => {
    const mine = rows.filter((row) => row.variant === variant);
    return formatBytes(Math.max(...mine.map((row) => row.kvBytes)));
  });
  return `${heading(title)}\n${table(['accuracy', ...variants], [...lines, line('mean', rows), ['largest KV cache', ...caches]])}`;
}

function section(title: string, rows: readonly Row[]): string {
  const lengths = distinct(rows, (row) => row.length).sort((a, b) => a - b);
  const perplexity = rows.some((row) => row.perplexity !== null);
  const head = [
    perplexity ? 'perplexity at' : 'accuracy at',
    ...lengths.map(formatCount),
    'heads that stream',
    'KV cache',
    'of full',
    'prompt tokens/s',
    'answer tokens/s',
  ];
  const lines = distinct(rows, (row) => row.variant).map((variant) => {
    const mine = rows.filter((row) => row.variant === variant);
    // What a cache takes, and how fast it is, are told for the longest of the lengths.
    const longest = mine.filter((row) => row.length === lengths.at(-1));
    const [last] = longest;
    if (!last) return [variant];
    return [
      variant,
      ...lengths.map((length) => score(mine.filter((row) => row.length === length))),
      `${last.streamingHeads} of ${last.streamingHeads + last.retrievalHeads}`,
      formatBytes(last.kvBytes),
      `${Math.round((100 * last.kvBytes) / last.kvFullBytes)}%`,
      pace(longest.map((row) => row.prefillTokensPerSecond)),
      pace(longest.map((row) => row.decodeTokensPerSecond)),
    ];
  });
  const deepest = lengths.length > 1 ? `\n  The last five columns are those at ${formatCount(lengths.at(-1) ?? 0)} tokens.` : '';
  return `${heading(title)}\n${table(head, lines)}${deepest}`;
}

/** The mean over rows, depths for instance: of accuracies, and of perplexities' logarithms. */
function score(rows: readonly Row[]): string {
  const told = rows.flatMap((row) => (row.accuracy === null ? [] : [{ accuracy: row.accuracy, weight: weightOf(row) }]));
  if (told.length > 0) {
    const accuracy = mean(
      told.map((row) => row.accuracy),
      told.map((row) => row.weight),
    );
    return `${(100 * accuracy).toFixed(1)}%`;
  }
  const logarithms = rows.flatMap(({ perplexity }) => (perplexity === null ? [] : [Math.log(perplexity)]));
  return logarithms.length > 0 ? Math.exp(mean(logarithms)).toFixed(2) : '';
}

/** What a row counts for in a mean: MMLU publishes that of all questions, LongBench that of its files. */
function weightOf(row: Row): number {
  return groupOf(row) === 'mmlu' ? row.n : 1;
}

function pace(rates: readonly number[]): string {
  const known = rates.filter((rate) => rate > 0);
  return known.length > 0 ? mean(known).toFixed(1) : '';
}

function mean(values: readonly number[], weights: readonly number[] = values.map(() => 1)): number {
  const sum = values.reduce((total, value, index) => total + value * (weights[index] ?? 0), 0);
  return sum / weights.reduce((total, weight) => total + weight, 0);
}

function distinct<T, V>(items: readonly T[], of: (item: T) => V): V[] {
  return [...new Set(items.map(of))];
}
