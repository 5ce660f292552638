import type { Job } from '../ffi/job.ts';

/** How likely a model finds given tokens. */
export type Score = {
  /** The natural logarithm of each scored token's probability after the tokens before it: entry i is that of token `from + i`. */
  logProbabilities: Float64Array;
  /** Of the tokens, those that the cache held already. */
  reusedTokens: number;
  seconds: number;
};

/** The score that a job has found. */
export function scoreOf(job: Job, result: unknown): Score {
  const { reusedTokens, seconds } = result as Score;
  return { reusedTokens, seconds, logProbabilities: new Float64Array(job.data().buffer) };
}
