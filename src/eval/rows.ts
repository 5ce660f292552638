import type { CacheType } from '../core/cache-types.ts';
import type { Batch, Pace } from './item.ts';
import type { Mode, Variant } from './modes.ts';
import type { Result } from './store.ts';

/** What a mode came to in a task at a length and a depth. */
export type Row = {
  mode: Mode;
  task: string;
  /** Tokens of the context: the prompt and room for its answer. */
  length: number;
  /** Where the needle is among the places that are allowed, 0 to 1; for perplexity, where the part of the text begins. null: at random, or none. */
  depth: number | null;
  /** Prompts. */
  n: number;
  /** The mean score, 0 to 1. */
  accuracy: number | null;
  /** Of perplexity's rows, which have no accuracy. */
  perplexity: number | null;
  /** Bytes of the KV cache, sinks and recent tokens included, and of a full one of the same types. */
  kvBytes: number;
  kvFullBytes: number;
  decodeTokensPerSecond: number;
  prefillTokensPerSecond: number;
  /** The share of heads that stream, and their number; null and 0 in llama.cpp's own cache, as are sink, recent and chunk. */
  sparsity: number | null;
  /** What chose heads, windows and types instead; null: nothing did. */
  budget: number | string | null;
  retrievalHeads: number;
  streamingHeads: number;
  sink: number | null;
  recent: number | null;
  /** Steps of the streaming heads' window: 1 is strict. */
  chunk: number | null;
  typeK: CacheType;
  typeV: CacheType;
  /** Of K rows in the layers to which a budget gives a finer type than `typeK`; null: none. */
  finerK: CacheType | null;
  seed: number;
  /** What tells the variant from the others of the run. */
  variant: string;
};

/** One row for each variant, task, length and depth that has results. */
export function rowsOf(results: readonly Result[], batches: readonly Batch[], variants: readonly Variant[], seed: number): Row[] {
  return variants.flatMap((variant) =>
    batches.flatMap((batch) => {
      const mine = results.filter(
        ({ variant: label, task, length }) => label === variant.label && task === batch.task && length === batch.length,
      );
      const depths = new Set(mine.flatMap(({ outcome }) => outcome.scores.map(({ depth }) => depth)));
      return [...depths].sort((a, b) => (a ?? -1) - (b ?? -1)).flatMap((depth) => rowOf(mine, variant, batch, depth, seed));
    }),
  );
}

function rowOf(results: readonly Result[], variant: Variant, batch: Batch, depth: number | null, seed: number): Row[] {
  const within = results.filter(({ outcome }) => outcome.scores.some((score) => score.depth === depth));
  const [first] = within;
  if (!first) return [];
  const scores = within.flatMap(({ outcome }) => outcome.scores.filter((score) => score.depth === depth));
  const weight = scores.reduce((sum, score) => sum + score.weight, 0);
  const mean = scores.reduce((sum, score) => sum + score.value * score.weight, 0) / weight;
  const { mode, sparsity, budget, chunk, label, duo } = variant;
  const row: Row = {
    mode,
    task: batch.task,
    length: batch.length,
    depth,
    n: within.length,
    accuracy: batch.measure === 'accuracy' ? mean : null,
    perplexity: batch.measure === 'perplexity' ? Math.exp(-mean) : null,
    kvBytes: first.kv.totalBytes,
    kvFullBytes: first.kv.fullBytes,
    decodeTokensPerSecond: rate(within.map(({ outcome }) => outcome.decode)),
    prefillTokensPerSecond: rate(within.map(({ outcome }) => outcome.prefill)),
    sparsity,
    budget,
    retrievalHeads: first.kv.retrievalHeads,
    streamingHeads: first.kv.streamingHeads,
    sink: duo ? first.kv.sink : null,
    recent: duo ? first.kv.recent : null,
    chunk,
    typeK: first.kv.typeK,
    typeV: first.kv.typeV,
    finerK: first.kv.finerK?.type ?? null,
    seed,
    variant: label,
  };
  return [row];
}

/** Tokens a second over all of the work; 0 where there was none. */
export function rate(paces: readonly Pace[]): number {
  const seconds = paces.reduce((sum, pace) => sum + pace.seconds, 0);
  const tokens = paces.reduce((sum, pace) => sum + pace.tokens, 0);
  return seconds > 0 ? tokens / seconds : 0;
}
