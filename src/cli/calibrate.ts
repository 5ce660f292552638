import { readFile, rm } from 'node:fs/promises';

import { cacheTypes as allCacheTypes } from '../core/cache-types.ts';
import { calibrationMethods } from '../gates/calibration-methods.ts';
import { calibrateTable } from '../gates/option-tables.ts';
import { sidecarPath } from '../gates/own.ts';
import { sampleKinds } from '../gates/sample-kinds.ts';
import type { CalibrateOptions, Calibration } from '../index.ts';
import { checkOutput, writeOutput } from '../core/outputs.ts';
import type { Command } from './command.ts';
import { contextFlags, loadGiven, modelPath } from './context-flags.ts';
import { flagOf, parseFlags, UsageError, type Flags, type Given } from './flags.ts';
import { gateMap, gateMapLegend } from './gate-map.ts';
import { choices, numbers } from './lists.ts';
import { formatCount, print, printJson } from './output.ts';
import { resolveUserPath } from './paths.ts';
import { formatOf } from './pattern-file.ts';
import { ProgressBar } from './progress.ts';
import { heading } from './table.ts';

const { model, gpuLayers, threads } = contextFlags;

const flags = {
  model,
  output: {
    names: ['-o', '--output'],
    kind: 'path',
    value: 'FILE',
    help: 'the pattern, JSON or .tsv (default: beside the model, where --duo-gates auto finds it)',
  },
  method: { ...flagOf(calibrateTable.method), help: `${calibrationMethods.join(', ')} (default: ${calibrateTable.method.default})` },
  contextSize: flagOf(calibrateTable.contextSize),
  samples: flagOf(calibrateTable.samples),
  questions: flagOf(calibrateTable.questions),
  kinds: { ...flagOf(calibrateTable.kinds), help: `what samples ask for (default: ${sampleKinds.join(',')})` },
  chat: flagOf(calibrateTable.chat),
  noChat: { names: ['--no-chat'], kind: 'switch', help: 'samples are plain text, whatever template the model has' },
  seed: flagOf(calibrateTable.seed),
  text: { names: ['--text'], kind: 'path', value: 'FILE', help: 'running text to hide things in (default: made up)' },
  strict: flagOf(calibrateTable.strict),
  masks: flagOf(calibrateTable.masks),
  sink: flagOf(calibrateTable.sink),
  recent: flagOf(calibrateTable.recent),
  windows: flagOf(calibrateTable.windows),
  cacheTypes: flagOf(calibrateTable.cacheTypes),
  gpuLayers,
  threads,
  json: { names: ['--json'], kind: 'switch', help: 'print one JSON object and nothing else' },
} as const satisfies Flags;

export const calibrateCommand: Command = {
  summary: 'Finds the retrieval heads of a model: which heads need the whole cache.',
  usage: 'calibrate -m MODEL [-o FILE] [flags]',
  flags,
  async run(args, signal) {
    const given = parseFlags(args, flags);
    const path = modelPath(given);
    const output = given.output === undefined ? sidecarPath(path) : resolveUserPath(given.output);
    const format = formatOf(output);
    const partial = `${output}.partial`;
    const texts = given.text === undefined ? [] : [resolveUserPath(given.text)];
    const name = given.output === undefined ? 'the pattern beside the model; -o FILE puts it elsewhere' : '-o';
    await checkOutput({ path: output, name, inputs: [path, ...texts] });
    await checkOutput({ path: partial, name: `what is measured on the way to ${name}`, inputs: [path, ...texts], appended: true });
    const options = await calibrateOptions(given);

    await using model = await loadGiven(given, { signal });
    const found = await withBar((onProgress) => model.calibrate({ ...options, partial, onProgress, signal })).catch((error: unknown) => {
      if (signal.aborted) process.stderr.write(`Interrupted: the same command goes on from ${partial}.\n`);
      throw error;
    });
    await writeOutput(output, found.pattern.format(format));
    await rm(partial, { force: true });

    if (found.correct !== null && found.correct < wantedCorrect) process.stderr.write(weakModel(found.correct));
    await (given.json ? printJson({ ...found, output }) : print(await render(found, output)));
  },
};

type CalibrateFlags = Given<typeof flags>;

async function calibrateOptions(given: CalibrateFlags): Promise<CalibrateOptions> {
  const { contextSize, samples, questions, seed, masks, threads, sink, recent, strict } = given;
  if (given.chat && given.noChat) throw new UsageError('--chat and --no-chat exclude each other: give one of them.');
  const methods = choices('--method', given.method, calibrationMethods);
  if (methods && methods.length > 1) throw new UsageError(`--method needs one method, got ${methods.join(',')}.`);
  const text = given.text === undefined ? undefined : await readFile(resolveUserPath(given.text), 'utf8');
  const windows = numbers('--windows', given.windows, 'whole numbers of at least 1', (value) => Number.isInteger(value) && value >= 1);
  const cacheTypes = choices('--cache-types', given.cacheTypes, allCacheTypes);
  const kinds = choices('--sample-kinds', given.kinds, sampleKinds);
  return {
    method: methods?.[0],
    windows,
    cacheTypes,
    contextSize,
    samples,
    questions,
    kinds,
    chat: given.chat ?? (given.noChat ? false : undefined),
    seed,
    masks,
    threads,
    sink,
    recent,
    strict,
    text,
  };
}

/** Shows progress. What is done at first is what an earlier run had measured. */
async function withBar<T>(work: (onProgress: (progress: number) => void) => Promise<T>): Promise<T> {
  const bar = new ProgressBar();
  bar.wait('reading the model file');
  try {
    return await work((done) => {
      bar.update({ done, total: 1 }, 'looking for retrieval heads');
    });
  } finally {
    bar.stop();
  }
}

/** Of the answers' tokens: below this, what is measured is mostly how a model guesses. */
const wantedCorrect = 0.5;

function weakModel(correct: number): string {
  const share = `${(100 * correct).toFixed(0)}%`;
  return `Warning: with all heads seeing everything, the model finds only ${share} of the answers' tokens likeliest. Heads that retrieve show where there are right answers to lose: try a smaller -c, or --text with text of the kind that the model knows.\n`;
}

async function render({ pattern, correct, contextTokens, tailTokens, passes, seconds }: Calibration, output: string): Promise<string> {
  const how = (pattern.provenance?.['data'] as { chat?: boolean } | undefined)?.chat ? 'in the chat template' : 'as plain text';
  const read = `${formatCount(contextTokens)} tokens of context, ${formatCount(passes)} x ${formatCount(tailTokens)} tokens of questions and answers, ${how}`;
  const right =
    correct === null ? '' : `; of the answers' tokens ${(100 * correct).toFixed(0)}% are likeliest with all heads seeing everything`;
  return [
    heading('Gates'),
    gateMap(pattern.toJSON(), await pattern.select()),
    `  ${gateMapLegend}`,
    '',
    `Read ${read}, in ${seconds.toFixed(0)} s${right}.`,
    `Written to ${output}.`,
    '',
  ].join('\n');
}
