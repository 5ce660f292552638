import { existsSync } from 'node:fs';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';

import { evaluate } from '../eval/evaluate.ts';
import { planEvaluation, type Evaluation } from '../eval/plan.ts';
import { preparePictures } from '../eval/pictures.ts';
import { writePlots } from '../eval/plots.ts';
import { rowsOf, type Row } from '../eval/rows.ts';
import { ResultStore } from '../eval/store.ts';
import type { Model } from '../index.ts';
import type { Command } from './command.ts';
import { contextFlags, loadGiven, workOptions } from './context-flags.ts';
import { parseFlags, UsageError, type Flags, type Given } from './flags.ts';
import { numbers } from './lists.ts';
import { formatBytes, formatCount, print, printJson } from './output.ts';
import { resolveUserPath } from './paths.ts';
import { ProgressBar, underWay } from './progress.ts';
import { heading, table } from './table.ts';

const { model, duoGates, duoSparsity, duoSink, duoRecent, gpuLayers, batchSize, ubatchSize, threads, threadsBatch } = contextFlags;

const flags = {
  model: { ...model, help: 'a GGUF model (default: the needle model that comes with llama-duo)' },
  duoGates: { ...duoGates, value: 'FILE|auto|even', help: "gate pattern (default: the model's own, else every other head)" },
  duoSparsity: { ...duoSparsity, help: 'share of KV heads that stream (default: 0.75; another model: 0.5)' },
  duoSink,
  duoRecent,
  gpuLayers,
  batchSize,
  ubatchSize,
  threads,
  threadsBatch,
  lengths: {
    names: ['--lengths'],
    kind: 'text',
    value: 'N,N,...',
    help: 'tokens of prompt and answer (default: 1024,2048,4096; another model: 1024,2048)',
  },
  plot: { names: ['--plot'], kind: 'path', value: 'FOLDER', help: 'write pictures: heat map, accuracy against KV bytes, gates (SVG)' },
  json: { names: ['--json'], kind: 'switch', help: 'print one JSON object and nothing else' },
} as const satisfies Flags;

type DemoFlags = Given<typeof flags>;

export const demo: Command = {
  summary: 'Finds a needle in a haystack with full, mixed and streaming heads, side by side.',
  usage: 'demo [-m MODEL] [--duo-gates FILE] [flags]',
  flags,
  async run(args, signal) {
    const given = parseFlags(args, flags);
    const say = (text: string): Promise<void> => (given.json ? Promise.resolve() : print(text));
    const pictures = given.plot === undefined ? undefined : resolveUserPath(given.plot);
    if (pictures !== undefined) await preparePictures(pictures, { png: false });
    await using model = await loadGiven({ ...given, model: given.model ?? needleModel() }, { signal });
    const gates = gatesOf(model, given);
    const evaluation = await plan(model, gates, given);
    await say(intro(model, evaluation, given));

    const rows = await run(model, evaluation, given, signal);
    const answer = Object.fromEntries(modes.map((mode) => [mode, summary(rows.filter((row) => row.mode === mode))]));
    await (given.json ? printJson(answer) : print(`${comparison(answer)}\n`));
    if (pictures === undefined) return;
    const [heatMap = ''] = await writePlots(pictures, { rows, gates: evaluation.gates, png: false });
    await say(`\n  Heat map: ${relative(resolveUserPath('.'), heatMap)}\n`);
  },
};

const modes = ['full', 'duo', 'streaming'] as const;

/** Of the model that comes with llama-duo, and of any other, which is larger, slower and needs more of its heads. */
const defaults = {
  needle: { lengths: [1024, 2048, 4096], depths: 5, sparsity: 0.75 },
  other: { lengths: [1024, 2048], depths: 3, sparsity: 0.5 },
};

/** Generated after the answer, so that the speed is that of more than its few tokens. */
const extraTokens = 24;

/** The model in models/, two folders above this file as source and compiled. */
function needleModel(): string {
  const path = fileURLToPath(new URL('../../models/needle.gguf', import.meta.url));
  if (existsSync(path)) return path;
  throw new UsageError(`${path} is missing: it comes with llama-duo's repository. Name another model with -m FILE.`);
}

/** What is asked for, else the model's own, else heads that are chosen without knowing what they do. */
function gatesOf(model: Model, { duoGates: asked }: DemoFlags): string {
  if (asked !== undefined) return asked === 'auto' || asked === 'even' ? asked : resolveUserPath(asked);
  return model.gates ? 'auto' : 'even';
}

function plan(model: Model, gates: string, given: DemoFlags): Promise<Evaluation> {
  const { lengths, depths, ...chosen } = given.model === undefined ? defaults.needle : defaults.other;
  const sparsity = given.duoSparsity ?? chosen.sparsity;
  return planEvaluation(model, {
    tasks: ['needle'],
    modes,
    gates,
    sparsities: [sparsity],
    chunks: [1],
    sink: given.duoSink,
    recent: given.duoRecent,
    types: [{ typeK: 'f16', typeV: 'f16' }],
    lengths: numbers('--lengths', given.lengths, 'integers of at least 1', (value) => Number.isInteger(value) && value >= 1) ?? lengths,
    depths: Array.from({ length: depths }, (_, index) => index / (depths - 1)),
    samples: 1,
    seed: 1,
    chat: false,
    extraTokens,
    plan: workOptions(given),
  });
}

function intro(model: Model, { batches, gatesSource }: Evaluation, { model: asked, duoGates }: DemoFlags): string {
  const lengths = batches.map(({ length }) => formatCount(length));
  const prompts = batches.reduce((sum, { cells }) => sum + cells.length, 0);
  const lines = [
    `${heading(model.info.description)}${asked === undefined ? ', a tiny model made for this test' : ''}`,
    `  ${prompts} texts of ${lengths.join(', ')} tokens, each with one sentence that gives a number, out of reach of streaming heads; then the number is asked for.`,
    `  Gates: ${gatesSource}.`,
  ];
  if (duoGates === undefined && gatesSource.startsWith('every other head')) {
    lines.push(
      '  This model has none of its own, so which heads keep everything is arbitrary here, and needles will be lost. To find those that matter:',
      `  llama-duo calibrate -m ${relative(resolveUserPath('.'), model.info.path)}`,
    );
  }
  return `${lines.join('\n')}\n\n`;
}

async function run(model: Model, { variants, batches, settings }: Evaluation, given: DemoFlags, signal: AbortSignal): Promise<Row[]> {
  const store = new ResultStore(settings);
  const bar = new ProgressBar();
  try {
    await evaluate(model, batches, variants, store, {
      plan: workOptions(given),
      signal,
      onProgress: (progress) => bar.update(progress, underWay(progress)),
    });
  } finally {
    bar.stop();
  }
  return rowsOf(store.all(), batches, variants, 1);
}

type Summary = {
  /** Of all lengths and depths together, 0 to 1. */
  accuracy: number;
  prompts: number;
  /** Of the longest length. */
  length: number;
  kvBytes: number;
  decodeTokensPerSecond: number;
  prefillTokensPerSecond: number;
  streamingHeads: number;
  retrievalHeads: number;
};

function summary(rows: readonly Row[]): Summary {
  const length = Math.max(...rows.map((row) => row.length));
  const longest = rows.filter((row) => row.length === length);
  const prompts = rows.reduce((sum, { n }) => sum + n, 0);
  const { kvBytes = 0, streamingHeads = 0, retrievalHeads = 0 } = longest[0] ?? {};
  return {
    accuracy: rows.reduce((sum, { accuracy, n }) => sum + (accuracy ?? 0) * n, 0) / prompts,
    prompts,
    length,
    kvBytes,
    decodeTokensPerSecond: harmonicMean(longest.map((row) => row.decodeTokensPerSecond)),
    prefillTokensPerSecond: harmonicMean(longest.map((row) => row.prefillTokensPerSecond)),
    streamingHeads,
    retrievalHeads,
  };
}

/** Of rates over the same number of tokens each. */
function harmonicMean(rates: readonly number[]): number {
  return rates.length / rates.reduce((sum, rate) => sum + 1 / rate, 0);
}

function comparison(answer: Readonly<Record<string, Summary>>): string {
  const names: Record<string, string> = { full: 'full', duo: 'mixed (duo)', streaming: 'all stream' };
  const lines = Object.entries(answer).map(([mode, { accuracy, prompts, kvBytes, streamingHeads, ...speed }]) => [
    names[mode] ?? mode,
    `${Math.round(accuracy * prompts)} of ${prompts}`,
    String(streamingHeads),
    formatBytes(kvBytes),
    speed.prefillTokensPerSecond.toFixed(0),
    speed.decodeTokensPerSecond.toFixed(0),
  ]);
  const length = formatCount(answer['full']?.length ?? 0);
  return table(['heads', 'found', 'streaming', `KV cache at ${length}`, 'prompt tokens/s', 'answer tokens/s'], lines);
}
