import type { Native, Handle } from './ffi/native.ts';
import { runJob } from './job.ts';
import { abortSignal, callback, checkOptions, integer } from './options.ts';

export type ScoreOptions = {
  /** The index of the first token that is scored. Default: 1, all that have a token before them. */
  from?: number;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: (progress: number) => void;
  /** Ends the work; the promise rejects with `signal.reason`. */
  signal?: AbortSignal;
};

/** How likely a model finds given tokens. */
export type Score = {
  /** The natural logarithm of each scored token's probability after the tokens before it: entry i is that of token `from + i`. */
  logProbabilities: Float64Array;
  /** Of the tokens, those that the cache held already. */
  reusedTokens: number;
  seconds: number;
};

/** @internal {@link Context.score} */
export function score(native: Native, owner: object, context: Handle, text: string | Int32Array, options: ScoreOptions): Promise<Score> {
  const { from, onProgress, signal } = options;
  return runJob<Score>(native, () => native.score(context, text, JSON.stringify({ from })), {
    onProgress,
    signal,
    owner,
    read: (job, result) => ({ ...(result as Omit<Score, 'logProbabilities'>), logProbabilities: new Float64Array(job.data().buffer) }),
  });
}

/** @internal */
export function checkScoreOptions(options: ScoreOptions): void {
  checkOptions(options, { from: integer(1), onProgress: callback, signal: abortSignal });
}
