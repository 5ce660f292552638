import { sidecarPath } from '../gates/own.ts';
import { readGates, type GatePattern } from '../index.ts';
import { checkOutput, writeOutput } from '../core/outputs.ts';
import type { Command } from './command.ts';
import { contextFlags, modelPath } from './context-flags.ts';
import { parseArguments, UsageError, type Flags, type Given } from './flags.ts';
import { gateMap, gateMapLegend } from './gate-map.ts';
import { numbers } from './lists.ts';
import { formatCount, formatRange, print, printJson } from './output.ts';
import { resolveUserPath } from './paths.ts';
import { formatOf } from './pattern-file.ts';
import { ProgressBar } from './progress.ts';
import { heading, table } from './table.ts';

const flags = {
  model: { ...contextFlags.model, help: 'embed: the GGUF model' },
  output: {
    names: ['-o', '--output'],
    kind: 'path',
    value: 'FILE',
    help: 'embed: the copy of the model (default: the pattern goes beside the model)',
  },
  duoSparsity: {
    names: ['--duo-sparsity'],
    kind: 'text',
    value: 'S,...',
    help: 'show, compare: shares of KV heads that stream (default: 0.5; compare: 0.25,0.5,0.75)',
  },
  plot: { names: ['--plot'], kind: 'path', value: 'FOLDER', help: 'show: write the gates as a picture (SVG)' },
  png: { names: ['--png'], kind: 'switch', help: 'show: as PNG too' },
  json: { names: ['--json'], kind: 'switch', help: 'print one JSON object and nothing else' },
} as const satisfies Flags;

type PatternFlags = Given<typeof flags>;

/** What is done with patterns, and which files it takes. */
const actions: Record<string, { files: string[]; run: (files: string[], given: PatternFlags, signal: AbortSignal) => Promise<void> }> = {
  show: { files: ['FILE'], run: show },
  convert: { files: ['FROM', 'TO'], run: convert },
  compare: { files: ['FILE', 'FILE'], run: compare },
  embed: { files: ['FILE'], run: embed },
};

export const patternCommand: Command = {
  summary: 'Shows, converts, compares and embeds gate patterns.',
  usage:
    'pattern show FILE | convert FROM TO | compare FILE FILE | embed FILE -m MODEL [flags]\n\n' +
    'A pattern is a DuoAttention folder, a TSV or JSON file, or a GGUF model with a pattern in it. convert writes .tsv and .json.',
  flags,
  async run(args, signal) {
    const [name, ...rest] = args;
    const action = name !== undefined && Object.hasOwn(actions, name) ? actions[name] : undefined;
    if (!action) throw new UsageError(`What is to be done with a pattern? Known: ${Object.keys(actions).join(', ')}.`);
    const { others: files, given } = parseArguments(rest, flags);
    if (files.length !== action.files.length) {
      throw new UsageError(
        `llama-duo pattern ${name} takes ${action.files.join(' and ')}, got ${files.length === 0 ? 'nothing' : files.join(' ')}.`,
      );
    }
    await action.run(files.map(resolveUserPath), given, signal);
  },
};

function sparsitiesOf({ duoSparsity }: PatternFlags, otherwise: number[]): number[] {
  return numbers('--duo-sparsity', duoSparsity, 'numbers from 0 to 1', (value) => value >= 0 && value <= 1) ?? otherwise;
}

async function show([file = '']: string[], given: PatternFlags): Promise<void> {
  const pattern = await readGates(file);
  const sparsities = sparsitiesOf(given, [0.5]);
  const selections = await Promise.all(sparsities.map((sparsity) => pattern.select({ sparsity })));
  if (given.plot !== undefined) {
    const { writePlots } = await import('../eval/plots.ts');
    await writePlots(resolveUserPath(given.plot), { rows: [], gates: pattern.toJSON(), png: given.png ?? false });
  }
  if (given.json) {
    await printJson({
      ...pattern.toJSON(),
      selections: selections.map((selection, index) => ({ sparsity: sparsities[index], ...selection })),
    });
    return;
  }
  const maps = selections.map((selection, index) => {
    const title = `Sparsity ${sparsities[index] ?? ''}: ${formatCount(selection.retrievalHeads)} heads keep everything, ${formatCount(selection.streamingHeads)} stream`;
    return `${heading(title)}\n${gateMap(pattern.toJSON(), selection)}\n`;
  });
  await print(`${facts(pattern)}\n\n${maps.join('\n')}\n  ${gateMapLegend}\n`);
}

function facts({ layers, kvHeads, sink, recent, windows, sinks, losses, provenance = {} }: GatePattern): string {
  const text = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value));
  const lines = [
    ['shape', `${layers} layers x ${kvHeads} KV heads`],
    ['found with', sink === undefined ? 'unknown' : `${sink} first and ${recent ?? '?'} recent keys`],
    ...(sinks ? [['sinks', `${formatRange(sinks)}, by layer`]] : []),
    ...(windows ? [['windows', `${formatRange(windows.flat())} recent keys, by head`]] : []),
    ...(losses ? [['losses', `measured with windows of ${losses.windows.map(formatCount).join(', ')}`]] : []),
    ...Object.entries(provenance).map(([key, value]) => [key, text(value)]),
  ];
  const width = Math.max(...lines.map(([name = '']) => name.length)) + 2;
  return lines.map(([name = '', fact = '']) => `  ${name.padEnd(width)}${fact}`).join('\n');
}

async function convert([from = '', to = '']: string[]): Promise<void> {
  const format = formatOf(to);
  await checkOutput({ path: to, name: 'TO' });
  await writeOutput(to, (await readGates(from)).format(format));
}

async function compare(files: string[], given: PatternFlags): Promise<void> {
  const [a, b] = await Promise.all(files.map((file) => readGates(file)));
  if (!a || !b) return;
  const comparison = await a.compare(b, sparsitiesOf(given, [0.25, 0.5, 0.75]));
  if (given.json) {
    await printJson(comparison);
    return;
  }
  const rows = comparison.overlaps.map(({ sparsity, shared, retrievalHeads, jaccard, chance }) => [
    String(sparsity),
    `${formatCount(shared)} of ${formatCount(retrievalHeads)}`,
    jaccard.toFixed(2),
    chance.toFixed(2),
  ]);
  const correlation = comparison.rankCorrelation?.toFixed(3) ?? 'none: all gates of a pattern are alike';
  await print(
    `  rank correlation (Spearman): ${correlation}\n\n${table(['sparsity', 'retrieval heads shared', 'Jaccard', 'by chance'], rows)}\n`,
  );
}

async function embed([file = '']: string[], given: PatternFlags, signal: AbortSignal): Promise<void> {
  const model = modelPath(given);
  const target = given.output === undefined ? sidecarPath(model) : resolveUserPath(given.output);
  const copies = given.output !== undefined;
  await checkOutput({
    path: target,
    name: copies ? '-o' : 'the pattern beside the model',
    inputs: copies ? [model, file] : [model],
    model: copies,
  });
  const pattern = await readGates(file);
  if (!copies) {
    await writeOutput(target, pattern.format('json'));
    await print(`Written to ${target}, where --duo-gates auto finds it.\n`);
    return;
  }
  const bar = new ProgressBar();
  try {
    await pattern.embed(model, target, { signal, onProgress: (done) => bar.update({ done, total: 1 }, 'copying the model') });
  } finally {
    bar.stop();
  }
  await print(`Written to ${target}, where --duo-gates auto finds the pattern.\n`);
}
