import { OptionError } from '../errors.ts';
import type { CacheType } from './cache-types.ts';

/** A gate pattern as JSON: the form of llama-duo's pattern files. */
export type GatePatternJson = {
  /** The version of this form: 2 where it has windows, sinks, losses or cache types, which builds that know version 1 alone refuse. */
  llamaDuoPattern: 1 | 2;
  layers: number;
  kvHeads: number;
  /** `gates[layer][kvHead]`, 0 (streams well) to 1 (needs the whole cache). */
  gates: number[][];
  /** The number of first keys, and of recent keys, that the gates were found with. */
  sink?: number | undefined;
  recent?: number | undefined;
  /** `windows[layer][kvHead]`: the number of recent keys that a head sees where it streams, unless a context is told one for all. */
  windows?: number[][] | undefined;
  /** `sinks[layer]`: the number of first keys that streaming heads of a layer see, likewise. */
  sinks?: number[] | undefined;
  losses?: WindowLosses | undefined;
  cacheTypes?: CacheTypeLosses | undefined;
  /** Where it comes from: model, method, data, seed, version, date. */
  provenance?: Record<string, unknown> | undefined;
};

/**
 * What is lost where a head sees no more than a window, as it adds to what the heads that are needed less lose; the unit is the method's, which the provenance
 * names.
 */
export type WindowLosses = {
  /** Rising. */
  windows: number[];
  /** `heads[layer][kvHead]`: a loss for each of the windows. */
  heads: number[][][];
};

/** What rows of a cache type lose where every head sees everything: the loss in the unit of a head's, and the share of the answers' tokens that are right. */
export type CacheTypeLoss = {
  loss: number;
  correct: number;
  /** Of a type of K that breaks the model: the same where rows of some layers are of a finer type. */
  finer?: (FinerLayers & { loss: number; correct: number })[];
};

/** Layers whose K rows are of a finer type than the others'. */
export type FinerLayers = { type: CacheType; layers: number[] };

/** By type, f16 among them, for K and for V. */
export type CacheTypeLosses = Record<'k' | 'v', Partial<Record<CacheType, CacheTypeLoss>>>;

/** What can be written as a pattern: a `GatePattern`. */
export type GatePatternLike = { toJSON(): GatePatternJson };

/**
 * How heads are chosen (default: sparsity 0.5): a share of all KV heads that streams (those with the lowest gates), or a gate from which a head keeps its whole cache.
 * Never both.
 */
export type HeadChoice = { sparsity?: number | undefined; threshold?: undefined } | { sparsity?: undefined; threshold: number };

/** Where the gates of a context come from; 'auto' is the model's own. */
export type Gates = 'auto' | (string & {}) | URL | GatePatternLike | GatePatternJson;

/** @throws OptionError where a budget stands beside another way to choose heads */
export function refuseBeside({ budget, sparsity, threshold }: { budget?: unknown; sparsity?: unknown; threshold?: unknown }): void {
  if (budget === undefined || (sparsity === undefined && threshold === undefined)) return;
  throw new OptionError('duo.budget', budget, 'no budget beside a sparsity or a threshold: they are ways to choose heads');
}

/** @throws OptionError where heads are chosen in both ways */
export function refuseBoth(choice: { sparsity?: number | undefined; threshold?: number | undefined }, prefix = ''): void {
  if (choice.sparsity === undefined || choice.threshold === undefined) return;
  throw new OptionError(`${prefix}threshold`, choice.threshold, 'no threshold beside a sparsity: they are two ways to choose heads');
}
