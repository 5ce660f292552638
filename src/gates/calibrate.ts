import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { basename } from 'node:path';

import type { BuildInfo } from '../core/build-info.ts';
import type { GatePatternJson } from '../core/duo.ts';
import { calibrationSamples } from '../synthetic/samples.ts';
import { ContextError } from '../errors.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { GatePattern } from './pattern.ts';
import { runJob } from '../ffi/job.ts';
import { requireMixedHeads } from '../core/mixed-heads.ts';
import type { CoreModel } from '../core/model.ts';
import {
  abortSignal,
  absolutePath,
  boolean,
  callback,
  checkOptions,
  filePath,
  integer,
  oneOf,
  text as string,
  toJson,
} from '../core/options.ts';
import { inSlices } from '../core/slices.ts';

/**
 * How heads are scored; docs/calibration.md compares them.
 * - combined: the larger of a head's ranks by typical, beyond what rounding makes of any change, and by mass: needed if answers suffer without it, or if they
 *   look where only it would see
 * - typical: what the answers' tokens typically lose where one head sees only sinks and recent keys: ablation by a geometric mean
 * - ablation: what they lose in the mean, DuoAttention's own objective
 * - greedy: typical, step by step: the least needed quarter stays so while the others are measured again
 * - masks: regression of what answers lose on random choices of half of the heads
 * - mass: attention to what a streaming head would not see, while answers are given
 * - kvzip: the most attention that any such key gets while the context is repeated (arXiv 2505.23416)
 * - mean-qk: how far back the mean query looks on mean keys (as kvpress does)
 */
export const calibrationMethods = ['combined', 'typical', 'ablation', 'greedy', 'masks', 'mass', 'kvzip', 'mean-qk'] as const;
export type CalibrationMethod = (typeof calibrationMethods)[number];

export type CalibrateOptions = {
  /** Default: 'combined'. */
  method?: CalibrationMethod | undefined;
  /** Tokens of a sample. Default: 1024, or what the window needs, at most what the model was trained for. */
  contextSize?: number | undefined;
  /** Default: 2, or more where the model has fewer than 72 KV heads: 180 divided by their number. */
  samples?: number | undefined;
  /** Facts that are hidden in each sample and asked for. Default: 6. */
  questions?: number | undefined;
  /** The same seed gives the same samples. Default: 1. */
  seed?: number | undefined;
  /** A running text to hide facts in. Default: it is made up. */
  text?: string | undefined;
  /** What a streaming head sees: first keys and recent ones. Defaults: 64 and 256. */
  sink?: number | undefined;
  recent?: number | undefined;
  /** Read contexts, too, with the heads restricted that are measured, instead of once with all heads seeing everything: slow. Default: false. */
  strict?: boolean | undefined;
  /** How many choices method masks makes. Default: twice the number of KV heads. */
  masks?: number | undefined;
  /** CPU threads. Default: the machine's cores. */
  threads?: number | undefined;
  /**
   * A file for measurements as they come. A later call with the same options goes on from it, and several calls may share it. A file with measurements of other
   * options is refused and left as it is. The caller removes it. Default: none.
   */
  partial?: string | URL | undefined;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Stops the work; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};

export type Calibration = {
  /** Gates are ranks: 0 for the head that is needed least, 1 for the one that is needed most. */
  pattern: GatePattern;
  /** What the ranks come from, `scores[layer][kvHead]`; what they mean is the method's own. */
  scores: number[][];
  /** The share of the answers' tokens that the model finds likeliest with all heads seeing everything; null where the method doesn't look. */
  correct: number | null;
  /** Tokens of all contexts, of the questions and answers, and of the answers. */
  contextTokens: number;
  tailTokens: number;
  answerTokens: number;
  /** How often questions and answers were read. */
  passes: number;
  seconds: number;
};

/** Each has a sequence of its own in one context, and llama.cpp has no more. @internal */
export const maxSamples = 256;

/** @internal */
export const calibrateChecks = {
  method: oneOf(...calibrationMethods),
  contextSize: integer(1),
  samples: integer(1, maxSamples),
  questions: integer(1, 20),
  seed: integer(0, 2 ** 32 - 1),
  text: string,
  sink: integer(0, 2 ** 24),
  recent: integer(0, 2 ** 24),
  strict: boolean,
  masks: integer(2, 2 ** 20),
  threads: integer(1, 512),
  partial: filePath,
  onProgress: callback,
  signal: abortSignal,
};

/** @internal {@link Model.calibrate} */
export async function calibrate(native: Native, model: CoreModel, handle: () => Handle, options: CalibrateOptions): Promise<Calibration> {
  checkOptions(options, calibrateChecks);
  const { method = 'combined', questions = 6, seed = 1, sink = 64, recent = 256, strict = false } = options;
  const { samples: count = defaultSamples(model), text, masks, threads, onProgress, signal } = options;
  // Every head streams, which needs no gates.
  await requireMixedHeads(model, { duo: { sparsity: 1 } }, 'There is nothing to calibrate: it runs with full heads.');
  const partial = options.partial === undefined ? undefined : absolutePath('partial', options.partial);
  const contextSize = options.contextSize ?? defaultContextSize(model, sink, recent);
  const samples = await calibrationSamples(model, count, { contextSize, questions, sink, recent, seed, text }, signal);
  const began = performance.now();
  const modelSha256 = await sha256Of(model.info.path, signal);

  const request = { method, samples, sink, recent, strict, masks, seed, threads, partial, modelId: modelSha256 };
  const found = await runJob<Omit<Calibration, 'pattern' | 'seconds'> & { pattern: GatePatternJson }>(
    native,
    () => native.calibrate(handle(), toJson(request)),
    { signal, onProgress, owner: model },
  );
  const provenance = {
    model: basename(model.info.path),
    modelDescription: model.info.description,
    modelSha256,
    method,
    data: {
      text: text === undefined ? 'generated' : await inSlices(sha256OfText(text), signal),
      samples: count,
      contextSize,
      questions,
      strict,
      ...(method === 'masks' && { masks: found.passes - 1 }),
    },
    seed,
    version: `llama-duo ${(JSON.parse(native.buildInfo()) as BuildInfo).version}`,
    date: new Date().toISOString(),
  };
  return {
    ...found,
    pattern: new GatePattern(native, { ...found.pattern, provenance }),
    seconds: (performance.now() - began) / 1000,
  };
}

/** The fewer heads, the less a sample takes, and the more one of them is of a pattern: about as many measurements for every small model. */
function defaultSamples({ info }: CoreModel): number {
  const heads = info.kvHeads.reduce((sum, count) => sum + count, 0);
  return Math.max(2, Math.round(180 / heads));
}

/** Room for the window, and as much again for facts beyond it. */
function defaultContextSize({ info }: CoreModel, sink: number, recent: number): number {
  const wanted = Math.max(1024, 3 * (sink + recent));
  const least = sink + recent + smallestRest;
  if (info.contextSize < least) {
    throw new ContextError(
      `The model was trained for ${info.contextSize} tokens: too few to tell heads that see all of them from heads that see ${sink} first and ` +
        `${recent} recent ones. It would take about ${least}; a smaller window takes fewer.`,
    );
  }
  return Math.min(wanted, info.contextSize);
}

/** About what facts, questions and answers take at least, beside the window. */
const smallestRest = 384;

function* sha256OfText(text: string): Generator<void, string, void> {
  const hash = createHash('sha256');
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; at += 1 << 20) {
    hash.update(bytes.subarray(at, at + (1 << 20)));
    yield;
  }
  return hash.digest('hex');
}

async function sha256Of(path: string, signal: AbortSignal | undefined): Promise<string> {
  signal?.throwIfAborted();
  const hash = createHash('sha256');
  try {
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash, { signal });
  } catch (error) {
    signal?.throwIfAborted(); // the reason itself, not pipeline's AbortError about it
    throw error;
  }
  return hash.digest('hex');
}
