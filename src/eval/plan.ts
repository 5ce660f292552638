import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { basename } from 'node:path';

import type { CacheType } from '../core/cache-types.ts';
import type { PlanOptions } from '../core/option-types.ts';
import { EvaluationError, OptionError } from '../errors.ts';
import type { GatePatternJson } from '../core/duo.ts';
import { readGates } from '../gates/read.ts';
import type { Model } from '../gates/model.ts';
import { codingBatch, codingBenchmarks, codingSource } from './coding.ts';
import { chatFrame, rawFrame } from './frame.ts';
import { codePatterns, inChat, texts } from '../synthetic/language.ts';
import { sidecarPath } from '../gates/own.ts';
import type { Batch } from './item.ts';
import { longBenchBatches, longBenchSources } from './longbench.ts';
import { requireMixedHeads } from '../core/mixed-heads.ts';
import { mmluBatches, mmluSources } from './mmlu.ts';
import { evenGates, variants, type Mode, type Variant } from './modes.ts';
import { perplexityBatches } from './perplexity.ts';
import { ProgramRunner } from './programs.ts';
import { PromptWriter, sightOf } from './prompt.ts';
import { sharedBatches, type SharingTask } from './shared-haystacks.ts';
import type { Settings } from './store.ts';
import { syntheticBatches } from './synthetic-batches.ts';
import { syntheticTasks, type SyntheticTask } from './synthetic.ts';

/** RULER's synthetic families (arXiv 2404.06654), its questions about given paragraphs aside. */
const ruler = ['needle', 'multi-key', 'multi-value', 'multi-query', 'variable-tracking', 'common-words', 'frequent-words'];

/** What can be asked for, and the groups that stand for several. */
export const taskNames: readonly string[] = [
  ...Object.keys(syntheticTasks),
  'ruler',
  'ppl',
  'longbench',
  'mmlu',
  ...Object.keys(codingBenchmarks),
];

/** Whether a task runs what the model writes. */
export function runsPrograms(task: string): boolean {
  return Object.hasOwn(codingBenchmarks, task);
}

/** Prompts for each length and depth of a task whose prompts are made up. */
const defaultSamples = 5;

export type EvaluationOptions = {
  /** Names of {@link taskNames}; `longbench/NAME` and `mmlu/SUBJECT` are one file's. */
  tasks: readonly string[];
  /** Default: full and streaming, and duo where there are gates. */
  modes?: readonly Mode[] | undefined;
  /** A gate pattern's path, `auto` for the model's own, or `even` for every other head. Default: the model's own if it has any. */
  gates?: string | undefined;
  sparsities: readonly number[];
  /** Beside sparsities: what a cache may take. */
  budgets?: readonly (number | string)[] | undefined;
  /** Steps of streaming heads' windows: 1 is strict. */
  chunks: readonly number[];
  /** Files of other gates, each in mode duo, too. */
  rivals?: readonly string[] | undefined;
  sink?: number | undefined;
  recent?: number | undefined;
  types: readonly { typeK: CacheType; typeV: CacheType }[];
  lengths: readonly number[];
  depths: readonly number[];
  /** Tokens before the question among which nothing lies that is asked for (default: the widest window of the run's variants). Runs that are compared want the same. */
  behind?: number | undefined;
  /** Prompts for each length and depth (default: 5), or of each file of data (default: all). */
  samples?: number | undefined;
  seed: number;
  /** Whether the made-up tasks that can have one haystack for all do. */
  shared?: boolean | undefined;
  /** Whether prompts go through the model's chat template. */
  chat: boolean;
  /** Tokens to generate beyond what an answer has, whatever they are: its speed is then that of more tokens. Default: 0. */
  extraTokens?: number | undefined;
  /** A text for perplexity. */
  file?: string | undefined;
  /** A folder with LongBench's JSONL files, with MMLU's tables, or with the file of MBPP or HumanEval. */
  data?: string | undefined;
  /** What runs the model's programs. Default: one is looked for where a task needs it. */
  programs?: ProgramRunner | undefined;
  /** Tokens that contexts have at least. A budget is chosen for the context's size, whatever the prompts take of it. */
  contextSize?: number | undefined;
  /** The same for all contexts. */
  plan: PlanOptions;
};

/** What is to be run. */
export type Evaluation = {
  variants: Variant[];
  batches: Batch[];
  /** What the results depend on. */
  settings: Settings;
  gates: GatePatternJson | undefined;
  /** Where the gates are from, in words. */
  gatesSource: string;
};

/**
 * Works out what is to be run: which prompts, in which variants.
 *
 * @throws EvaluationError, GatesError, OptionError
 */
export async function planEvaluation(model: Model, options: EvaluationOptions): Promise<Evaluation> {
  const { gatedHeads } = model.info;
  const found = await findGates(model, options.gates);
  const gates = found && withoutWindows(found.pattern, options);
  const sink = options.sink ?? widest(gates?.sinks) ?? gates?.sink ?? 64;
  const recent = options.recent ?? widest(gates?.windows?.flat()) ?? gates?.recent ?? 256;
  const modes = options.modes ?? (gates ? ['full', 'duo', 'streaming'] : ['full', 'streaming']);
  if (!gates && modes.some((mode) => mode === 'duo' || mode === 'inverted')) throw noGates(model);

  const asked = { sink: options.sink, recent: options.recent };
  const common = { ...options, budgets: options.budgets ?? [], kvHeads: gatedHeads, sink, recent, asked };
  const own = variants({ ...common, modes, gates });
  const rivals = await Promise.all(
    (options.rivals ?? []).map(async (file) => {
      const pattern = (await readGates(file)).toJSON();
      const gates = withoutWindows(pattern, options);
      const found = variants({ ...common, modes: ['duo'], gates });
      return { file, pattern, gates, variants: found.map((variant) => ({ ...variant, label: `${variant.label} of ${basename(file)}` })) };
    }),
  );
  const all = [...own, ...rivals.flatMap((rival) => rival.variants)];
  const names = rivals.map(({ file }) => basename(file));
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) throw new OptionError('rivals', twice, 'files of different names, which tell their rows apart');
  for (const { typeK, typeV, duo } of all) {
    const plan = { ...options.plan, typeK, typeV };
    if (duo) await requireMixedHeads(model, { ...plan, duo: duo(0) }, 'llama-duo eval --modes full measures it with full heads.');
    else await model.planContext(plan);
  }
  const widestReach = Math.max(
    reach(gates, own, recent, options),
    ...rivals.map((rival) => reach(rival.gates, rival.variants, recent, options)),
  );
  const behind = options.behind ?? (all.some(({ duo }) => duo) ? widestReach : recent);
  if (behind < widestReach)
    throw new OptionError('behind', behind, `at least ${widestReach}, which is what streaming heads of this run see`);
  const sight = sightOf({ sink, recent: behind, chunk: Math.max(...options.chunks) });
  const frame = options.chat ? await chatFrame(model) : rawFrame(model);
  const { lengths, depths, samples = defaultSamples, seed, extraTokens = 0 } = options;
  const tasks = [...new Set(options.tasks.flatMap((task) => (task === 'ruler' ? ruler : [task])))];
  const writers = { framed: new PromptWriter(model, frame, sight), plain: new PromptWriter(model, rawFrame(model), sight) };
  const synthetic = { frame, sight, lengths, depths, samples, seed, extraTokens };
  const sharing = options.shared ? tasks.flatMap(sharingTask) : [];
  const batches: Batch[] = sharing.length > 0 ? sharedBatches(sharing, model, synthetic) : [];
  const sources: string[] = [];
  for (const task of tasks) {
    const [name = '', only] = task.split('/');
    const madeUp = syntheticTask(task);
    if (sharing.some((one) => one.name === task)) continue;
    else if (madeUp) batches.push(...syntheticBatches(task, madeUp, model, synthetic));
    else if (task === 'ppl') batches.push(...perplexityBatches(model, readText(options.file), lengths, samples));
    else if (name === 'longbench') {
      batches.push(...(await longBenchBatches(dataFolder(options), only, writers, options)));
      sources.push(...longBenchSources(dataFolder(options), only));
    } else if (name === 'mmlu') {
      batches.push(...mmluBatches(dataFolder(options), only, writers.framed, options.samples));
      sources.push(...mmluSources(dataFolder(options), only));
    } else if (runsPrograms(task)) {
      const programs = options.programs ?? (await ProgramRunner.find());
      batches.push(await codingBatch(task, dataFolder(options), model, programs, options.samples));
      sources.push(codingSource(task, dataFolder(options)));
    } else throw new EvaluationError(`There is no task ${JSON.stringify(task)}. Known: ${taskNames.join(', ')}.`);
  }
  const sized = batches.map((batch) => ({ ...batch, contextSize: Math.max(batch.contextSize, options.contextSize ?? 0) }));
  // What has no room for its prompts is told now, not after hours of what has.
  for (const { count, item } of sized.flatMap(({ cells }) => cells)) if (count > 0) item(0);

  const settings = {
    model: fingerprint(model.info.path),
    tasks,
    variants: all.map(({ label, sparsity, typeK, typeV, chunk }) => [label, sparsity, typeK, typeV, chunk]),
    gates: gates ? digest(JSON.stringify([gates.gates, ...(options.budgets?.length ? [gates.losses, gates.cacheTypes] : [])])) : 'none',
    ...(rivals.length > 0 && { rivals: digest(JSON.stringify(rivals.map(({ pattern }) => pattern))) }),
    sink,
    recent,
    chunks: options.chunks,
    lengths,
    depths,
    samples: options.samples ?? 'default',
    seed,
    // What was not there in earlier versions is told where it is asked for, so that their files go on.
    ...(options.shared && { shared: true }),
    ...(options.contextSize !== undefined && { contextSize: options.contextSize }),
    ...(behind !== recent && { behind }),
    chat: options.chat,
    // Of the same model, but not of the same day where its template tells the date.
    frame: digest(JSON.stringify(frame)),
    ...(options.chat && tasks.some(syntheticTask) && { answers: digest(JSON.stringify(inChat)) }),
    // Its texts have changed once, and its prompts with them.
    ...(tasks.includes('code-argument') && { code: digest(JSON.stringify([texts('code-argument'), codePatterns])) }),
    file: options.file === undefined ? 'none' : digest(readText(options.file)),
    data: sources.length === 0 ? 'none' : contentsDigest(sources),
    context: options.plan,
  };
  return { variants: all, batches: sized, settings, gates, gatesSource: found?.source ?? 'none' };
}

function syntheticTask(name: string): SyntheticTask | undefined {
  return Object.hasOwn(syntheticTasks, name) ? syntheticTasks[name] : undefined;
}

/** The task of this name, if its facts can lie beside others'. */
function sharingTask(name: string): SharingTask[] {
  const { hasDepth, fact } = syntheticTask(name) ?? {};
  return hasDepth !== undefined && fact ? [{ name, hasDepth, fact }] : [];
}

/** The windows and sinks that a pattern has are left out where there is one for all. */
function withoutWindows(pattern: GatePatternJson, { sink, recent }: EvaluationOptions): GatePatternJson {
  return { ...pattern, ...(recent !== undefined && { windows: undefined }), ...(sink !== undefined && { sinks: undefined }) };
}

/** How far back streaming heads see at most, of a run's variants of one pattern; 0: there is no such variant. */
function reach(pattern: GatePatternJson | undefined, own: readonly Variant[], recent: number, options: EvaluationOptions): number {
  const streams = own.filter(({ duo }) => duo);
  const byShare = streams.some(({ budget }) => budget === null) ? (widest(pattern?.windows?.flat()) ?? recent) : 0;
  const byBudget = streams.some(({ budget }) => budget !== null) && pattern ? budgetReach(pattern, options) : 0;
  return Math.max(byShare, byBudget);
}

/** The same of budgets alone. A measured window as wide as the longest prompt is not taken, since it would save nothing. */
function budgetReach(pattern: GatePatternJson, { recent, lengths, contextSize = 0 }: EvaluationOptions): number {
  if (recent !== undefined) return recent;
  if (!pattern.losses) return widest(pattern.windows?.flat()) ?? pattern.recent ?? 256;
  const longest = Math.max(contextSize, ...lengths);
  return widest(pattern.losses.windows.filter((window) => window < longest)) ?? 0;
}

function widest(windows: readonly number[] | undefined): number | undefined {
  return windows?.length ? Math.max(...windows) : undefined;
}

async function findGates(model: Model, wanted: string | undefined): Promise<{ pattern: GatePatternJson; source: string } | undefined> {
  if (wanted === 'even') return { pattern: evenGates(model.info.gatedHeads), source: 'every other head, whatever it does' };
  if (wanted !== undefined && wanted !== 'auto') return { pattern: (await readGates(wanted)).toJSON(), source: wanted };
  const own = model.gates;
  if (!own && wanted === 'auto') throw noGates(model);
  return own && { pattern: own.toJSON(), source: "the model's own" };
}

function noGates({ info }: Model): EvaluationError {
  return new EvaluationError(
    `No gates are known for ${basename(info.path)}: neither in it nor in ${sidecarPath(info.path)}. Find them with llama-duo calibrate, ` +
      'name a gate pattern with --duo-gates FILE, or take --duo-gates even for every other head, which tells what mixed heads cost and nothing of their quality.',
  );
}

function readText(file: string | undefined): string {
  if (file === undefined) throw new EvaluationError('Task ppl reads a text: name its file with -f FILE.');
  return readFileSync(file, 'utf8');
}

function dataFolder({ data }: EvaluationOptions): string {
  if (data === undefined)
    throw new EvaluationError('Tasks longbench, mmlu, mbpp and humaneval read data: name its folder with --data FOLDER.');
  return data;
}

/** What the files have in them and how they are named, wherever their folder is. */
function contentsDigest(paths: readonly string[]): string {
  return digest(JSON.stringify(paths.map((path) => [basename(path), digest(readFileSync(path))])));
}

function digest(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex').slice(0, 16);
}

/** What tells one model file from another without reading all of it: name, size, and the hash of its first and last bytes. */
function fingerprint(path: string): string {
  const { size } = statSync(path);
  const sample = Buffer.alloc(Math.min(size, 1 << 20));
  const file = openSync(path, 'r');
  try {
    const half = sample.length >> 1;
    readSync(file, sample, 0, half, 0);
    readSync(file, sample, half, sample.length - half, size - (sample.length - half));
  } finally {
    closeSync(file);
  }
  return `${basename(path)}, ${size} bytes, ${digest(sample)}`;
}
