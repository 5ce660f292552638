import type { Native, Handle } from './ffi/native.ts';
import { runJob, type Job } from './job.ts';
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
export async function score(native: Native, context: Handle, tokens: Int32Array, options: ScoreOptions, jobs: Set<Job>): Promise<Score> {
  const { from, parseSpecial, onProgress, signal } = options;
  const result = await runJob<Omit<Score, 'logProbabilities'> & { logProbabilities: number[] }>(
    native,
    () => native.score(context, tokens, toJson({ from, parseSpecial })),
    { onProgress, signal, among: jobs },
  );
  return { ...result, logProbabilities: Float64Array.from(result.logProbabilities) };
}

/** @internal */
export const scoreChecks = { from: integer(1), parseSpecial: boolean, onProgress: callback, signal: abortSignal };

/** @internal */
export function checkScoreOptions(options: ScoreOptions): void {
  checkOptions(options, scoreChecks);
}
