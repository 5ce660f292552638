import { rowTypes, type CacheType } from '../core/cache-types.ts';
import { OptionError } from '../errors.ts';
import type { GatePatternJson } from '../core/duo.ts';
import type { DuoOptions } from '../core/option-types.ts';
import { Random } from '../synthetic/random.ts';

/**
 * Which heads keep everything:
 * - full: all of them, in llama.cpp's own cache
 * - duo: those with the highest gates
 * - streaming: none
 * - random: as many as with duo, drawn at random, anew for each of the prompts of a cell
 * - inverted: as many, those with the lowest gates
 */
export const modes = ['full', 'duo', 'streaming', 'random', 'inverted'] as const;
export type Mode = (typeof modes)[number];

/** One way to run a prompt. */
export type Variant = {
  mode: Mode;
  /** The share of heads that stream; null in llama.cpp's own cache, and where a budget chooses. */
  sparsity: number | null;
  /** What chooses heads, windows and cache types instead. */
  budget: number | string | null;
  /** Steps of the streaming heads' window: 1 is strict. null in llama.cpp's own cache. */
  chunk: number | null;
  typeK: CacheType;
  typeV: CacheType;
  /** What tells it from the other variants of a run, in words. */
  label: string;
  /** Sets of heads that take turns: prompt i has set i modulo this. 1 but for random heads. */
  draws: number;
  /** The heads of one of the sets; none in llama.cpp's own cache. */
  duo?: (draw: number) => DuoOptions;
};

/** One draw may hit the right heads by luck, so a mean is over several. */
const randomDraws = 8;

export type VariantOptions = {
  modes: readonly Mode[];
  sparsities: readonly number[];
  /** Beside sparsities, for duo and random. */
  budgets: readonly (number | string)[];
  chunks: readonly number[];
  types: readonly Types[];
  /** The model's gates; duo and inverted need them. */
  gates: GatePatternJson | undefined;
  /** KV heads of each layer that have gates, and the seed, for random. */
  kvHeads: readonly number[];
  seed: number;
  /** What streaming heads see: the most, where the gates have windows and sinks of their own, which duo and inverted keep. */
  sink: number;
  recent: number;
  /** What of both was asked for; a budget chooses by losses where no window was. */
  asked: { sink?: number | undefined; recent?: number | undefined };
};

type Types = { typeK: CacheType; typeV: CacheType };

/**
 * Every mode with every sparsity, chunk and cache type that it can have.
 *
 * @throws OptionError for duo and inverted without gates
 */
export function variants(options: VariantOptions): Variant[] {
  const { types, chunks } = options;
  return options.modes.flatMap((mode) => [
    ...sparsitiesOf(mode, options).flatMap((sparsity) =>
      (sparsity === null ? [null] : chunks).flatMap((chunk) =>
        types.map(({ typeK, typeV }): Variant => {
          const label = [
            mode,
            ...(sparsity !== null && mode !== 'streaming' ? [percent(sparsity)] : []),
            ...differences(chunk, { typeK, typeV }, options),
          ].join(' ');
          const duo = chunk === null ? undefined : duoOf(mode, sparsity ?? 0, chunk, options);
          const draws = mode === 'random' ? randomDraws : 1;
          return { mode, sparsity, budget: null, chunk, typeK, typeV, label, draws, ...(duo && { duo }) };
        }),
      ),
    ),
    ...(mode === 'duo' || mode === 'random'
      ? options.budgets.flatMap((budget) => chunks.flatMap((chunk) => types.map((typed) => ofBudget(mode, budget, chunk, typed, options))))
      : []),
  ]);
}

/** What a label says beside a mode and its share: how the variant differs from others of its kind. */
function differences(chunk: number | null, { typeK, typeV }: Types, { chunks, types }: VariantOptions): string[] {
  return [...(chunk !== null && chunks.length > 1 ? [`chunk ${chunk}`] : []), ...(types.length > 1 ? [rowTypes(typeK, typeV, null)] : [])];
}

/** f16 lets the budget choose types, too, where the gates have losses and no window is asked for. */
function ofBudget(mode: 'duo' | 'random', budget: number | string, chunk: number, types: Types, options: VariantOptions): Variant {
  const { gates, seed, asked } = options;
  if (gates === undefined) throw new OptionError('gates', gates, `gates, which a budget chooses by`);
  const size = typeof budget === 'number' && budget <= 1 ? percent(budget) : String(budget);
  const label = [mode, 'budget', size, ...differences(chunk, types, options)].join(' ');
  const duo = (draw: number): DuoOptions => ({
    ...asked,
    budget,
    windowStep: chunk,
    gates: mode === 'duo' ? gates : shuffled(gates, new Random(seed, 'gates', draw)),
  });
  return { mode, sparsity: null, budget, chunk, ...types, label, draws: mode === 'random' ? randomDraws : 1, duo };
}

/** The same gates and losses, each of another head: choices of the same sizes that know nothing of which heads are needed. */
export function shuffled(pattern: GatePatternJson, random: Random): GatePatternJson {
  const places = pattern.gates.flatMap((row, layer) => row.map((_, head) => [layer, head] as const));
  const from = random.shuffle(places);
  const moved = <T>(rows: readonly (readonly T[])[]): T[][] => {
    const next = from.map(([layer, head]) => rows[layer]?.[head] as T);
    return rows.map((row) => next.splice(0, row.length));
  };
  const { losses, windows } = pattern;
  return {
    ...pattern,
    gates: moved(pattern.gates),
    ...(windows && { windows: moved(windows) }),
    ...(losses && { losses: { ...losses, heads: moved(losses.heads) } }),
  };
}

/** Any two sparsities that can be told apart have different names: as many digits as doubles keep. */
function percent(share: number): string {
  return `${+(100 * share).toPrecision(15)}%`;
}

function sparsitiesOf(mode: Mode, { sparsities }: VariantOptions): readonly (number | null)[] {
  return mode === 'full' ? [null] : mode === 'streaming' ? [1] : sparsities;
}

function duoOf(mode: Mode, sparsity: number, chunk: number, options: VariantOptions): (draw: number) => DuoOptions {
  const { gates, kvHeads, seed, sink, recent } = options;
  const window = { sparsity, sink, recent, windowStep: chunk };
  if (mode === 'streaming') return () => window;
  if (mode === 'random') return (draw) => ({ ...window, gates: randomGates(kvHeads, new Random(seed, 'gates', draw)) });
  if (gates === undefined) throw new OptionError('gates', gates, `gates, which mode ${mode} needs`);
  const own = mode === 'inverted' ? inverted(gates) : gates;
  const { windows, sinks } = own;
  return () => ({ sparsity, windowStep: chunk, ...(!sinks && { sink }), ...(!windows && { recent }), gates: own });
}

/** The same heads in the opposite order. */
export function inverted(pattern: GatePatternJson): GatePatternJson {
  return { ...pattern, gates: pattern.gates.map((layer) => layer.map((gate) => 1 - gate)) };
}

/** Gates that know nothing of the model: each head's is drawn at random. */
export function randomGates(kvHeads: readonly number[], random: Random): GatePatternJson {
  return patternOf(kvHeads, () => random.fraction());
}

/** Gates that know nothing of the model either: every other head of each layer. */
export function evenGates(kvHeads: readonly number[]): GatePatternJson {
  return patternOf(kvHeads, (layer, head) => (layer + head) % 2);
}

function patternOf(kvHeads: readonly number[], gate: (layer: number, head: number) => number): GatePatternJson {
  const gates = kvHeads.map((count, layer) => Array.from({ length: count }, (_, head) => gate(layer, head)));
  return { llamaDuoPattern: 1, layers: kvHeads.length, kvHeads: Math.max(...kvHeads), gates };
}
