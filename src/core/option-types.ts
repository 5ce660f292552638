// Written by `npm run generate` from option-tables.ts.

import type { CacheType } from './cache-types.ts';
import type { Gates, HeadChoice } from './duo.ts';

/** Which model, and where its weights go. */
export type ModelOptions = {
  /** The GGUF model. Of a split model the first part. Relative to the folder that the process is in now. */
  path: string | URL;
  /** Layers on the GPU, -1 for all. Default: all. */
  gpuLayers?: number | undefined;
  /** Map the file into memory instead of reading it. Default: true. */
  useMmap?: boolean | undefined;
  /** Load the vocabulary only: enough to tokenize. Default: false. */
  vocabOnly?: boolean | undefined;
  /** Load the weights. Without them a model tells what it is, tokenizes and plans contexts, and takes memory for its vocabulary only. Default: true. */
  weights?: boolean | undefined;
};

/** How loading is watched. */
export type LoadModelOptions = {
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Stops the loading; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
  /** The path of the native library. Default: LLAMA_DUO_LIBRARY, else the local build. */
  library?: string | undefined;
};

/** How a text becomes tokens. */
export type TokenizeOptions = {
  /** Add BOS and EOS as the model wants them. Default: true. */
  addSpecial?: boolean | undefined;
  /** Read `<|im_start|>` and the like as the tokens that they name. Default: false. */
  parseSpecial?: boolean | undefined;
};

/** How tokens become a text. */
export type DetokenizeOptions = {
  /** Leave special tokens out. Default: false. */
  removeSpecial?: boolean | undefined;
  /** Write special tokens as their names. Default: false. */
  renderSpecial?: boolean | undefined;
};

/** Mixed heads: which KV heads keep the whole cache, and what the others, which stream, see. */
export type DuoOptions = HeadChoice & {
  /**
   * How much each head needs its whole cache. A pattern; the path or file URL of a DuoAttention folder, a TSV, JSON or GGUF file; or 'auto': the model's
   * own, from its metadata or `model.duo.json` beside it. Of no account at sparsity 0 (every head keeps all) and 1 (every head streams). Default: 'auto'.
   */
  gates?: Gates | undefined;
  /** First tokens that a streaming head sees. Default: the pattern's, else 64. */
  sink?: number | undefined;
  /** Recent tokens that a streaming head sees. Default: the pattern's, else 256. */
  recent?: number | undefined;
  /** A streaming head's window of recent tokens moves in steps of this many positions. So the head sees up to one less than that more. Default: 1. */
  windowStep?: number | undefined;
};

/** A context's sizes, as for planning. */
export type PlanOptions = {
  /**
   * Tokens of one sequence, rounded up to a multiple of 256. 'auto': what the model was trained for, at most 8192, and no more than leaves half of the
   * free memory. 'fit': what the model was trained for, or as much as leaves a tenth of the free memory. 'trained': as many as the model was trained for,
   * whatever that takes. A larger context than that can be had, and warns. Default: 'auto'.
   */
  contextSize?: number | 'auto' | 'fit' | 'trained' | undefined;
  /** Tokens submitted at once. Default: 2048. */
  batchSize?: number | undefined;
  /** Tokens computed at once. More make prompts faster and streaming heads' rings wider. Default: 512. */
  ubatchSize?: number | undefined;
  /** CPU threads for one token. 1 to 512. Default: the machine's cores. */
  threads?: number | undefined;
  /** CPU threads while a prompt is read. 1 to 512. Default: as for one token. */
  threadsBatch?: number | undefined;
  /** Type of the cache's K rows. Default: 'f16'. */
  typeK?: CacheType | undefined;
  /** Type of the cache's V rows. Default: 'f16'. */
  typeV?: CacheType | undefined;
  /** Whether attention is fused. Mixed heads need it not to be off. Default: 'auto'. */
  flashAttention?: 'auto' | 'on' | 'off' | undefined;
  /** Mixed heads; {} takes the model's own gates and half of the heads. Default: none, llama.cpp's own cache. */
  duo?: DuoOptions | undefined;
};

/** A context to create. */
export type ContextOptions = PlanOptions & {
  /** Stops the creation; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};

/** How the next token is chosen. */
export type SamplingOptions = {
  /** 0 is greedy: always the likeliest token. Default: 0.8. */
  temperature?: number | undefined;
  /** Sample from the K likeliest tokens, 0 for all. Default: 40. */
  topK?: number | undefined;
  /** Sample from the likeliest tokens that together have this probability. 0 to 1. Default: 0.95. */
  topP?: number | undefined;
  /** Leave out tokens less likely than this share of the likeliest. 0 to 1. Default: 0.05. */
  minP?: number | undefined;
  /** Locally typical sampling, 1 for none. 0 to 1. Default: 1. */
  typicalP?: number | undefined;
  /** Above 1 makes tokens less likely that occur in the last `repeatLastN`; 1 does nothing. 0.001 to 1000. Default: 1. */
  repeatPenalty?: number | undefined;
  /** Tokens that penalties look back on, -1 for the context's size. Default: 64. */
  repeatLastN?: number | undefined;
  /** Taken off the logit of a token, as often as it occurs there. Default: 0. */
  frequencyPenalty?: number | undefined;
  /** Taken off the logit of a token that occurs there, once. Default: 0. */
  presencePenalty?: number | undefined;
  /** The same seed gives the same text. 0 to 4294967295. Default: another each time. */
  seed?: number | undefined;
  /**
   * A GBNF grammar that the text has to follow. Its end is the end of the text, with `ignoreEos`, too. Where it allows no token before that, reading
   * throws a GrammarError, which has the text so far.
   */
  grammar?: string | undefined;
};

/** What is generated, and how it is read. */
export type GenerateOptions = SamplingOptions & {
  /** Tokens to generate at most, -1 for as many as the context holds. Default: -1. */
  maxTokens?: number | undefined;
  /** Go on after the token that ends a text. Default: false. */
  ignoreEos?: boolean | undefined;
  /** Generation ends before a text that is one of these. None may be empty. Default: none. */
  stop?: string | readonly string[] | undefined;
  /** Write special tokens as their names. Default: false. */
  specialTokens?: boolean | undefined;
  /**
   * Read the names of special tokens in a prompt that is text, such as `<|im_start|>`, as those tokens. Only for prompts that the program has made itself:
   * in a user's text they could end a turn and begin another. Default: false.
   */
  parseSpecial?: boolean | undefined;
  /** Reuse what the cache holds of the prompt already. Default: true. */
  reuse?: boolean | undefined;
  /** Tokens that may wait for the reader before the engine pauses. It does not pause where other work of the context waits. Default: 256. */
  readAhead?: number | undefined;
  /** Gets a number that grows from 0 to 1 while the prompt is read. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Ends the generation; the reader gets `signal.reason` thrown. */
  signal?: AbortSignal | undefined;
};

/** What is scored. */
export type ScoreOptions = {
  /** The index of the first token that is scored: 1 for all that have a token before them. Default: 1. */
  from?: number | undefined;
  /** Read the names of special tokens in a text as those tokens, as for a prompt. Default: false. */
  parseSpecial?: boolean | undefined;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Ends the work; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};
