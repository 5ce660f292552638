import { budgetNumber } from '../core/budget.ts';
import { cacheTypes, type CacheType } from '../core/cache-types.ts';
import { differences } from '../eval/differences.ts';
import { evaluate, type Progress } from '../eval/evaluate.ts';
import { modes, type Variant } from '../eval/modes.ts';
import { planEvaluation, runsPrograms, taskNames, type EvaluationOptions } from '../eval/plan.ts';
import { ProgramRunner } from '../eval/programs.ts';
import { rowsOf } from '../eval/rows.ts';
import { ResultStore } from '../eval/store.ts';
import type { Command } from './command.ts';
import { contextFlags, loadGiven, modelPath, workOptions } from './context-flags.ts';
import { prepareOutputs, report, type Outputs } from './eval-report.ts';
import { parseFlags, UsageError, type Flags, type Given } from './flags.ts';
import { choices, different, numbers, texts } from './lists.ts';
import { formatCount } from './output.ts';
import { resolveUserPath } from './paths.ts';
import { ProgressBar, underWay } from './progress.ts';
import { warn } from './warnings.ts';

const { model, gpuLayers, batchSize, ubatchSize, threads, threadsBatch, duoSink, duoRecent } = contextFlags;

const flags = {
  model,
  task: { names: ['--task', '--tasks'], kind: 'text', value: 'T,T,...', help: `${taskNames.join(', ')} (default: needle)` },
  modes: {
    names: ['--modes'],
    kind: 'text',
    value: 'M,M,...',
    help: `${modes.join(', ')} (default: full, streaming and, with gates, duo)`,
  },
  lengths: { names: ['--lengths'], kind: 'text', value: 'N,N,...', help: 'tokens of prompt and answer together (default: 1024,2048,4096)' },
  depths: {
    names: ['--depths'],
    kind: 'text',
    value: 'N|D,D,...',
    help: 'how many depths of a needle, or which, 0 to 1 (default: 10)',
  },
  samples: {
    names: ['--samples'],
    kind: 'integer',
    min: 1,
    value: 'N',
    help: 'prompts for each length and depth (default: 5), of each file of --data (default: all), or windows that ppl reads (default: 5)',
  },
  seed: {
    names: ['-s', '--seed'],
    kind: 'integer',
    min: 0,
    value: 'N',
    help: 'the same seed makes the same prompts and random heads (default: 1)',
  },
  shared: {
    names: ['--shared'],
    kind: 'switch',
    help: 'hide what the made-up tasks ask for in one haystack for all of them, which is read once',
  },
  chat: { names: ['--chat'], kind: 'switch', help: "put prompts into the model's chat template" },
  file: {
    names: ['-f', '--file'],
    kind: 'path',
    value: 'FILE',
    help: 'the text that ppl reads; of it the first --samples windows of --lengths tokens',
  },
  data: {
    names: ['--data'],
    kind: 'path',
    value: 'FOLDER',
    help: "LongBench's JSONL files, MMLU's tables, or the file of MBPP or HumanEval",
  },
  contextSize: {
    names: ['-c', '--ctx-size'],
    kind: 'integer',
    min: 1,
    value: 'N',
    help: 'tokens that contexts have at least, for which budgets are chosen (default: as many as the prompts need)',
  },
  duoGates: {
    names: ['--duo-gates'],
    kind: 'path',
    value: 'FILE|auto|even',
    help: "gate pattern (default: the model's own, if it has one); even: every other head",
  },
  behind: {
    names: ['--behind'],
    kind: 'integer',
    min: 0,
    value: 'N',
    help: "nothing that is asked for lies among so many tokens before the question (default: the run's widest window); runs that are compared want the same",
  },
  rivals: {
    names: ['--rivals'],
    kind: 'text',
    value: 'FILE,FILE,...',
    help: 'other gate patterns, each in mode duo beside the gates',
  },
  duoBudget: {
    names: ['--duo-budget'],
    kind: 'text',
    value: 'B,B,...',
    help: 'instead of shares of heads: shares of a full f16 cache (0.3), or sizes (4GiB)',
  },
  duoSparsity: { names: ['--duo-sparsity'], kind: 'text', value: 'S,S,...', help: 'shares of KV heads that stream (default: 0.5)' },
  duoSink,
  duoRecent,
  duoChunk: {
    names: ['--duo-chunk'],
    kind: 'text',
    value: 'N,N,...',
    help: "steps in which streaming heads' windows of recent keys move (default: 1, strict)",
  },
  typeK: { names: ['-ctk', '--cache-type-k'], kind: 'text', value: 'TYPE,...', help: 'types of the cache for K (default: f16)' },
  typeV: {
    names: ['-ctv', '--cache-type-v'],
    kind: 'text',
    value: 'TYPE,...',
    help: 'types of the cache for V, one for each of -ctk (default: as K)',
  },
  gpuLayers,
  batchSize,
  ubatchSize,
  threads,
  threadsBatch,
  resume: { names: ['--resume'], kind: 'path', value: 'FILE', help: 'keep results in this file, and go on from those that it has' },
  csv: { names: ['--csv'], kind: 'path', value: 'FILE', help: 'write the rows as CSV' },
  plot: { names: ['--plot'], kind: 'path', value: 'FOLDER', help: 'write pictures: heat maps, accuracy against KV bytes, gates (SVG)' },
  png: { names: ['--png'], kind: 'switch', help: 'write them as PNG too' },
  against: {
    names: ['--against'],
    kind: 'text',
    value: 'VARIANT',
    help: 'what the others are compared with, by its name in the tables (default: the first with full heads); with --json: { rows, differences }',
  },
  json: { names: ['--json'], kind: 'switch', help: 'print the rows as one JSON array and nothing else' },
} as const satisfies Flags;

export const evalCommand: Command = {
  summary: 'Measures what mixed heads cost in accuracy: needles, RULER, perplexity.',
  usage: 'eval -m MODEL [--task T,...] [--modes M,...] [flags]',
  flags,
  async run(args, signal) {
    const given = parseFlags(args, flags);
    const options = evaluationOptions(given);
    if (given.png && given.plot === undefined)
      throw new UsageError('--png says how to write pictures: name their folder with --plot FOLDER.');
    const outputs = outputsOf(given);
    await prepareOutputs(outputs, [
      modelPath(given),
      ...[options.file, options.gates, ...(options.rivals ?? [])].filter((path) => path !== undefined),
    ]);
    const programs = options.tasks.some(runsPrograms) ? await ProgramRunner.find() : undefined;
    if (programs?.hasNetwork)
      warn([{ message: 'programs that the model writes can reach the network: unshare cannot take it from them here.' }]);
    await using model = await loadGiven(given, { signal });
    const { variants, batches, settings, gates } = await planEvaluation(model, { ...options, programs });
    const against = comparedWith(variants, given.against);
    const store = new ResultStore(settings, outputs.resume);

    const bar = new ProgressBar();
    warn((await model.planContext({ ...options.plan, contextSize: Math.max(...batches.map(({ contextSize }) => contextSize)) })).warnings);
    let last: Progress | undefined;
    try {
      await evaluate(model, batches, variants, store, {
        plan: options.plan,
        signal,
        onProgress: (progress) => {
          last = progress;
          bar.update(progress, underWay(progress));
        },
      });
    } catch (error) {
      bar.stop();
      if (signal.aborted && last) sayHowToGoOn(last, given.resume);
      throw error;
    } finally {
      bar.stop();
    }

    const results = store.all();
    const rows = rowsOf(results, batches, variants, options.seed);
    await report(
      { rows, differences: against === undefined ? [] : differences(results, batches, variants, against, options.seed), gates },
      outputs,
    );
  },
};

type EvalFlags = Given<typeof flags>;

/** The label of the variant that the others are compared with; undefined where none was named and none has full heads. */
function comparedWith(variants: readonly Variant[], asked: string | undefined): string | undefined {
  const labels = variants.map(({ label }) => label);
  const found = variants.find(({ mode, label }) => (asked === undefined ? mode === 'full' : label === asked));
  if (!found && asked !== undefined)
    throw new UsageError(`--against needs a variant of this run, got ${JSON.stringify(asked)}. There are: ${labels.join(', ')}.`);
  return found?.label;
}

function outputsOf({ resume, csv, plot, png = false, json, against }: EvalFlags): Outputs & { json: 'rows' | 'all' | undefined } {
  const path = (given: string | undefined): string | undefined => (given === undefined ? undefined : resolveUserPath(given));
  return { resume: path(resume), csv: path(csv), plot: path(plot), png, json: !json ? undefined : against === undefined ? 'rows' : 'all' };
}

function evaluationOptions(given: EvalFlags): EvaluationOptions {
  const { samples, seed = 1, duoSink: sink, duoRecent: recent, duoGates, file, data } = given;
  return {
    tasks: taskList(given.task) ?? ['needle'],
    modes: different('--modes', choices('--modes', given.modes, modes)),
    gates: duoGates === undefined || duoGates === 'auto' || duoGates === 'even' ? duoGates : resolveUserPath(duoGates),
    rivals: texts('--rivals', given.rivals)?.map(resolveUserPath),
    sparsities:
      numbers('--duo-sparsity', given.duoSparsity, 'numbers from 0 to 1', (value) => value >= 0 && value <= 1) ??
      (given.duoBudget === undefined ? [0.5] : []),
    budgets: budgets(given.duoBudget),
    chunks: numbers('--duo-chunk', given.duoChunk, 'integers of at least 1', (value) => Number.isInteger(value) && value >= 1) ?? [1],
    sink,
    recent,
    types: typePairs(given),
    lengths: numbers('--lengths', given.lengths, 'integers of at least 1', (value) => Number.isInteger(value) && value >= 1) ?? [
      1024, 2048, 4096,
    ],
    depths: depths(given.depths ?? '10'),
    samples,
    seed,
    shared: given.shared ?? false,
    chat: given.chat ?? false,
    file: file === undefined ? undefined : resolveUserPath(file),
    data: data === undefined ? undefined : resolveUserPath(data),
    contextSize: given.contextSize,
    behind: given.behind,
    plan: workOptions(given),
  };
}

/** A number stays one, so that 0.3 and .3 are the same. */
function budgets(given: string | undefined): (number | string)[] {
  const values = (texts('--duo-budget', given) ?? []).map((text) => {
    if (budgetNumber(text) === undefined)
      throw new UsageError(`--duo-budget needs shares of a full f16 cache or sizes, got ${JSON.stringify(text)}.`);
    return Number.isFinite(Number(text)) ? Number(text) : text;
  });
  return different('--duo-budget', values);
}

/** Names of tasks; those that read data may name one file after a stroke: longbench/hotpotqa. */
function taskList(given: string | undefined): string[] | undefined {
  const items = texts('--task', given);
  choices('--task', items?.map((item) => item.replace(/^(longbench|mmlu)\/.+$/, '$1')).join(','), taskNames);
  return items;
}

/** A count makes depths evenly from the first place that is allowed to the last. */
function depths(given: string): number[] {
  if (/^\d+$/.test(given) && Number(given) >= 2) {
    const count = Number(given);
    return Array.from({ length: count }, (_, index) => index / (count - 1));
  }
  return numbers('--depths', given, 'a count of at least 2, or numbers from 0 to 1', (value) => value >= 0 && value <= 1) ?? [];
}

function typePairs({ typeK, typeV }: EvalFlags): { typeK: CacheType; typeV: CacheType }[] {
  const ks = choices('-ctk', typeK, cacheTypes) ?? ['f16'];
  const vs = choices('-ctv', typeV, cacheTypes) ?? ks;
  if (vs.length !== ks.length && vs.length !== 1) {
    throw new UsageError(`-ctv needs one type, or one for each of the ${ks.length} of -ctk, got ${vs.length}.`);
  }
  const pairs = ks.map((typeK, index) => ({ typeK, typeV: vs[index] ?? vs[0] ?? typeK }));
  different(
    '-ctk with -ctv',
    pairs.map(({ typeK, typeV }) => `${typeK}/${typeV}`),
  );
  return pairs;
}

function sayHowToGoOn({ done, total }: Progress, file: string | undefined): void {
  const share = `${formatCount(Math.round((100 * done) / total))}% done`;
  const how = file === undefined ? 'with --resume FILE it could go on from there' : `the same command goes on from ${file}`;
  process.stderr.write(`Interrupted, ${share}: ${how}.\n`);
}
