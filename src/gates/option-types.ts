// Written by `npm run generate` from option-tables.ts.

import type { CacheType } from '../core/cache-types.ts';
import type { CalibrationMethod } from './calibration-methods.ts';
import type { SampleKind } from './sample-kinds.ts';

/** How gates are found. */
export type CalibrateOptions = {
  /** How heads are scored; docs/calibration.md compares the methods. Default: 'windows'. */
  method?: CalibrationMethod | undefined;
  /** Tokens of a sample. Default: 2048 by method windows, else 1024; or what the windows need, at most what the model was trained for. */
  contextSize?: number | undefined;
  /** Texts to look things up in. 1 to 256. Default: 2, or more where the model has fewer than 72 KV heads: 180 divided by their number. */
  samples?: number | undefined;
  /** Facts that are hidden in each sample and asked for. 1 to 20. Default: 6. */
  questions?: number | undefined;
  /**
   * What is asked for, in turn: numbers that go with words, passkeys, several of them in one answer, chains of variables, and the arguments of calls in
   * code. Default: ["numbers","passkeys","multi","chains","code"].
   */
  kinds?: readonly SampleKind[] | undefined;
  /**
   * Put samples into the model's chat template: the text and the first question are the user's turn, each answer is the assistant's. Default: where the
   * model has a template that shows messages as they are.
   */
  chat?: boolean | undefined;
  /** The same seed gives the same samples. 0 to 4294967295. Default: 1. */
  seed?: number | undefined;
  /** A running text to hide facts in. Default: it is made up. */
  text?: string | undefined;
  /** First tokens that a streaming head will see. 0 to 16777216. Default: 64. */
  sink?: number | undefined;
  /** Recent tokens that a streaming head will see; by method windows the only number that is measured. 0 to 16777216. Default: 256. */
  recent?: number | undefined;
  /**
   * Method windows: the numbers of recent tokens that are measured, rising. Samples are at least twice as long as the largest. Default: recent where it is
   * given, else 256, 1024, 4096 and so on, up to half of a sample.
   */
  windows?: readonly number[] | undefined;
  /** Method windows: the cache types whose rows are measured, beside f16. Default: ["q8_0","q4_0"]. */
  cacheTypes?: readonly CacheType[] | undefined;
  /** Read each text anew for every measurement: exact, and slow. Otherwise it is read once, with all heads seeing everything. Default: false. */
  strict?: boolean | undefined;
  /** Choices of heads that methods masks and bosch try. 2 to 1048576. Default: twice the number of KV heads by method masks, four times by bosch. */
  masks?: number | undefined;
  /** CPU threads. 1 to 512. Default: the machine's cores. */
  threads?: number | undefined;
  /**
   * A file for measurements as they come. A later call with the same options goes on from it, and several calls may share it. A file with measurements of
   * other options is refused and left as it is. The caller removes it. Default: none.
   */
  partial?: string | URL | undefined;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Stops the work; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};

/** How a pattern is read. */
export type ReadGatesOptions = {
  /** Stops the reading; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
  /** The path of the native library. Default: LLAMA_DUO_LIBRARY, else the installed package, else the local build. */
  library?: string | undefined;
};

/** How a pattern is put into a copy of a model. */
export type EmbedOptions = {
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Stops the copying; nothing is left of the copy. */
  signal?: AbortSignal | undefined;
};
