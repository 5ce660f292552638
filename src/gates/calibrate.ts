import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { basename } from 'node:path';

import type { BuildInfo } from '../core/build-info.ts';
import type { GatePatternJson } from '../core/duo.ts';
import { calibrationSamples } from '../synthetic/samples.ts';
import { chatTurns, ownTurns, plainTurns } from '../synthetic/turns.ts';
import { ContextError, OptionError } from '../errors.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { GatePattern } from './pattern.ts';
import { runJob } from '../ffi/job.ts';
import { requireMixedHeads } from '../core/mixed-heads.ts';
import type { CoreModel } from '../core/model.ts';
import { absolutePath, checkOptions, toJson, withDefaults } from '../core/check-options.ts';
import { inSlices } from '../core/slices.ts';
import { calibrateTable } from './option-tables.ts';
import type { CalibrateOptions } from './option-types.ts';

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

/** @internal {@link Model.calibrate} */
export async function calibrate(native: Native, model: CoreModel, handle: () => Handle, options: CalibrateOptions): Promise<Calibration> {
  checkOptions(options, calibrateTable);
  const { method, questions, kinds, seed, sink, recent, strict, cacheTypes } = withDefaults(options, calibrateTable);
  const { samples: count = defaultSamples(model), text, masks, threads, onProgress, signal } = options;
  // Every head streams, which needs no gates.
  await requireMixedHeads(model, { duo: { sparsity: 1 } }, 'There is nothing to calibrate: it runs with full heads.');
  const turns = options.chat === undefined ? await ownTurns(model) : options.chat ? await chatTurns(model) : plainTurns(model);
  const partial = options.partial === undefined ? undefined : absolutePath('partial', options.partial);
  const byWindows = method === 'windows';
  const asked = options.windows ?? (options.recent === undefined ? undefined : [options.recent]);
  const contextSize = options.contextSize ?? (byWindows ? ladderContextSize(model, sink, asked) : defaultContextSize(model, sink, recent));
  const windows = byWindows ? (asked ?? ladder(contextSize)) : undefined;
  checkLadder(windows, contextSize);
  const hidden = windows?.at(-1) ?? recent;
  const samples = await calibrationSamples(
    model,
    count,
    { contextSize, questions, kinds, turns, sink, recent: hidden, seed, text },
    signal,
  );
  const began = performance.now();
  const modelSha256 = await sha256Of(model.info.path, signal);

  const request = {
    method,
    samples,
    sink,
    ...(byWindows ? { windows, cacheTypes } : { recent }),
    strict,
    masks,
    seed,
    threads,
    partial,
    modelId: modelSha256,
  };
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
      kinds,
      chat: turns.chat,
      strict,
      ...(method === 'masks' && { masks: found.passes - 1 }),
      ...(method === 'bosch' && { masks }),
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

/**
 * The fewer heads, the less a sample takes, and the more one of them is of a pattern: about as many measurements for every small model. But with very few
 * heads, as of a model whose other layers have sliding windows, a sample takes what its text takes to read.
 */
function defaultSamples({ info }: CoreModel): number {
  const heads = info.gatedHeads.reduce((sum, count) => sum + count, 0);
  return Math.max(2, Math.min(16, Math.round(180 / heads)));
}

/** Each window four times the one before it; a sample is at least twice as long as any. */
function ladder(contextSize: number): number[] {
  const windows = [];
  for (let window = smallestWindow; 2 * window <= contextSize; window *= 4) windows.push(window);
  return windows.length > 0 ? windows : [Math.max(1, Math.floor(contextSize / 4))];
}

const smallestWindow = 256;

/** @throws OptionError for a window that a sample says little of */
function checkLadder(windows: readonly number[] | undefined, contextSize: number): void {
  const largest = windows?.at(-1) ?? 0;
  if (2 * largest <= contextSize) return;
  throw new OptionError(
    'windows',
    windows,
    `windows of at most half of a sample, which has ${contextSize} tokens: take larger samples (contextSize) or smaller windows`,
  );
}

/** Room for the windows that are asked for, or for two. */
function ladderContextSize(model: CoreModel, sink: number, windows: readonly number[] | undefined): number {
  const largest = windows?.at(-1);
  if (largest === undefined)
    return Math.max(defaultContextSize(model, sink, smallestWindow), Math.min(2048, model.info.trainedContextSize));
  return defaultContextSize(model, sink, largest);
}

/** Room for the window, and as much again for facts beyond it. */
function defaultContextSize({ info }: CoreModel, sink: number, recent: number): number {
  const wanted = Math.max(1024, 3 * (sink + recent));
  const least = sink + recent + smallestRest;
  if (info.trainedContextSize < least) {
    throw new ContextError(
      `The model was trained for ${info.trainedContextSize} tokens: too few to tell heads that see all of them from heads that see ${sink} first and ` +
        `${recent} recent ones. It would take about ${least}; a smaller window takes fewer.`,
    );
  }
  return Math.min(wanted, info.trainedContextSize);
}

/** About what facts, questions and answers take at least, beside the window. */
const smallestRest = 384;

function* sha256OfText(text: string): Generator<void, string, void> {
  const hash = createHash('sha256');
  const encoder = new TextEncoder();
  const bytes = new Uint8Array(1 << 18); // again and again: fresh memory for a whole book may take a busy machine long
  for (let at = 0; at < text.length;) {
    // Half of a surrogate pair at the end of a slice has no room: it takes three bytes, and each unit before it one at least.
    const { read, written } = encoder.encodeInto(text.slice(at, at + bytes.length), bytes);
    hash.update(bytes.subarray(0, written));
    at += read;
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
