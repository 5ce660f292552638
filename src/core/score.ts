import type { Native, Handle } from '../ffi/native.ts';
import { runJob } from '../ffi/job.ts';
import type { ScoreOptions } from './option-types.ts';
import { toJson } from './check-options.ts';

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
