import type { Native, Handle } from '../ffi/native.ts';
import { runJob } from '../ffi/job.ts';
import { abortSignal, boolean, callback, checkOptions, integer, toJson } from './options.ts';

export type ScoreOptions = {
  /** The index of the first token that is scored. Default: 1, all that have a token before them. */
  from?: number | undefined;
  /** Read the names of special tokens in a text as those tokens; see {@link GenerateOptions.parseSpecial}. Default: false. */
  parseSpecial?: boolean | undefined;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Ends the work; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
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
  const { from, parseSpecial, onProgress, signal } = options;
  return runJob<Score>(native, () => native.score(context, text, toJson({ from, parseSpecial })), {
    onProgress,
    signal,
    owner,
    read: (job, result) => ({ ...(result as Omit<Score, 'logProbabilities'>), logProbabilities: new Float64Array(job.data().buffer) }),
  });
}

/** @internal */
export const scoreChecks = { from: integer(1), parseSpecial: boolean, onProgress: callback, signal: abortSignal };

/** @internal */
export function checkScoreOptions(options: ScoreOptions): void {
  checkOptions(options, scoreChecks);
}
