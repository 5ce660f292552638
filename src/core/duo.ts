import { OptionError } from '../errors.ts';
import { filePath, integer, number, type Check } from './options.ts';

/** A gate pattern as JSON: the form of llama-duo's pattern files. */
export type GatePatternJson = {
  /** The version of this form. */
  llamaDuoPattern: 1;
  layers: number;
  kvHeads: number;
  /** `gates[layer][kvHead]`, 0 (streams well) to 1 (needs the whole cache). */
  gates: number[][];
  /** The number of first keys, and of recent keys, that the gates were found with. */
  sink?: number | undefined;
  recent?: number | undefined;
  /** Where it comes from: model, method, data, seed, version, date. */
  provenance?: Record<string, unknown> | undefined;
};

/** What can be written as a pattern: a `GatePattern`. */
export type GatePatternLike = { toJSON(): GatePatternJson };

/**
 * How heads are chosen (default: sparsity 0.5): a share of all KV heads that streams (those with the lowest gates), or a gate from which a head keeps its whole cache.
 * Never both.
 */
export type HeadChoice = { sparsity?: number | undefined; threshold?: undefined } | { sparsity?: undefined; threshold: number };

/** Mixed heads: which KV heads keep the whole cache, and what the others, which stream, see. */
export type DuoOptions = {
  /**
   * A pattern; the path or file URL of a DuoAttention folder, a TSV or JSON file; or `'auto'`: the model's own, from its metadata or `model.duo.json` beside it.
   * Not needed with sparsity 0 (every head keeps all) or 1 (every head streams).
   */
  gates?: 'auto' | (string & {}) | URL | GatePatternLike | GatePatternJson | undefined;
  /** First keys that a streaming head always sees. Default: the pattern's, else 64. */
  sink?: number | undefined;
  /** Keys before the query that a streaming head sees. Default: the pattern's, else 256. */
  recent?: number | undefined;
  /** The window of a streaming head moves in steps of this many positions. Default: 1. */
  chunk?: number | undefined;
} & HeadChoice;

export const headChoiceChecks = { sparsity: number(0, 1), threshold: number(0, 1) };

const gates: Check = {
  accepts: (value) =>
    typeof value === 'string' || value instanceof URL
      ? filePath.accepts(value)
      : typeof value === 'object' && value !== null && !Array.isArray(value),
  expected: '"auto", a path or a gate pattern',
};

/** @internal */
export const duoChecks = { gates, ...headChoiceChecks, sink: integer(0), recent: integer(0), chunk: integer(1) };

export function refuseBoth(choice: { sparsity?: number | undefined; threshold?: number | undefined }, prefix = ''): void {
  if (choice.sparsity === undefined || choice.threshold === undefined) return;
  throw new OptionError(`${prefix}threshold`, choice.threshold, 'no threshold beside a sparsity: they are two ways to choose heads');
}
