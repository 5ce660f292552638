// Written by `npm run generate` from option-tables.ts.

import type { CacheType } from './cache-types.ts';
import type { Gates, HeadChoice } from './duo.ts';
import type { Lora, ScaledLora } from './lora.ts';
import type { Message } from './message.ts';
import type { CoreModel } from './model.ts';
import type { LogitBias, Sampler } from './sampling.ts';
import type { Schema } from './schema.ts';
import type { Tool } from './tool.ts';

/** Where a model's weights go, and how they are read. */
export type WeightOptions = {
  /** Layers on the GPU, -1 for all. Default: all. */
  gpuLayers?: number | undefined;
  /** The devices that layers go to, by the names that `devices()` has; none for the CPU alone. Default: all. */
  devices?: readonly string[] | undefined;
  /** How a model is split among several devices. Default: 'layer'. */
  splitMode?: 'none' | 'layer' | 'row' | 'tensor' | undefined;
  /** The device of a model that is not split. Default: 0. */
  mainGpu?: number | undefined;
  /** What share of the model each device takes. Default: by their free memory. */
  tensorSplit?: readonly number[] | undefined;
  /** Metadata in the place of the file's: `{ 'llama.context_length': 65536 }`. */
  overrides?: Readonly<Record<string, boolean | number | string>> | undefined;
  /** Map the file into memory instead of reading it. Default: true. */
  useMmap?: boolean | undefined;
  /** Keep the weights in memory, whatever else wants it. Default: false. */
  useMlock?: boolean | undefined;
  /** Refuse a model with weights that are no numbers. Default: false. */
  checkTensors?: boolean | undefined;
  /** Load the vocabulary only: enough to tokenize. Default: false. */
  vocabOnly?: boolean | undefined;
  /** Load the weights. Without them a model tells what it is, tokenizes and plans contexts, and takes memory for its vocabulary only. Default: true. */
  weights?: boolean | undefined;
};

/** How a model is had from elsewhere. */
export type FetchOptions = {
  /** A file of the repository, instead of a quantisation behind its name. */
  file?: string | undefined;
  /** Opens repositories that are not public. Default: HF_TOKEN. */
  token?: string | undefined;
  /** Take only what was loaded before. Default: false. */
  offline?: boolean | undefined;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Stops the work; the promise rejects with `signal.reason`. What was downloaded is kept, and the next time goes on from there. */
  signal?: AbortSignal | undefined;
  /** The path of the native library. Default: LLAMA_DUO_LIBRARY, else the installed package, else the local build. */
  library?: string | undefined;
};

/** How a model is loaded. */
export type ModelOptions = WeightOptions &
  Omit<FetchOptions, 'onProgress'> & {
    /** Gets a number that grows from 0 to 1, in each phase. */
    onProgress?: ((progress: number, phase: 'download' | 'load') => void) | undefined;
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
  /**
   * Instead of both: what the cache of all sequences may take. A share of the bytes of a full f16 cache, such as 0.3; or bytes, such as 2 ** 30 or '4GiB'.
   * Heads, windows and, where both are f16, cache types are those that lose least by what calibration has measured. With `recent`, or gates without
   * losses: the heads with the lowest gates stream, no more of them than have to, and types stay.
   */
  budget?: number | string | undefined;
  /** First tokens that a streaming head sees. Default: the pattern's, else 64. */
  sink?: number | undefined;
  /** Recent tokens that a streaming head sees. Default: the pattern's, else 256. */
  recent?: number | undefined;
  /** A streaming head's window of recent tokens moves in steps of this many positions. So the head sees up to one less than that more. Default: 1. */
  windowStep?: number | undefined;
};

/** How tokens are drafted, for the model to verify several at once. */
export type SpeculativeOptions = {
  /** A small model of the same vocabulary, which drafts. It gets a context of its own, with full heads. Default: none. */
  draft?: CoreModel | undefined;
  /** Draft what followed in the text where its last tokens stood before; the draft model is asked where they did not. Default: false. */
  lookup?: boolean | undefined;
  /** Tokens of a draft. 1 to 1024. Default: 3 of a draft model's, 48 that were looked up. */
  maxTokens?: number | undefined;
  /** A draft model's drafts end before a token that is less likely to it. 0 to 1. Default: 0. */
  minProbability?: number | undefined;
  /** How many of the last tokens are looked up. 1 to 1024. Default: 12. */
  ngramSize?: number | undefined;
  /** Type of the K rows of the draft model's cache. Default: 'f16'. */
  typeK?: CacheType | undefined;
  /** Type of its V rows. Default: 'f16'. */
  typeV?: CacheType | undefined;
  /** CPU threads for the draft model's tokens. 1 to 512. Default: the context's. */
  threads?: number | undefined;
  /** The same while it reads a prompt. 1 to 512. Default: the context's. */
  threadsBatch?: number | undefined;
};

/** A context's sizes, as for planning. */
export type PlanOptions = {
  /**
   * Tokens of one sequence, rounded up to a multiple of 256. 'auto': what the model was trained for, at most 8192, and no more than leaves half of the
   * free memory. 'fit': what the model was trained for, or as much as leaves a tenth of the free memory. 'trained': as many as the model was trained for,
   * whatever that takes. A larger context than that can be had, and warns. Default: 'auto'.
   */
  contextSize?: number | 'auto' | 'fit' | 'trained' | undefined;
  /** Sequences, each with a cache of its own: as many generations are computed together. 1 to 256. Default: 1. */
  sequences?: number | undefined;
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
  /** Mixed heads. 'auto', or {}, takes the model's own gates and half of the heads. Default: none, llama.cpp's own cache. */
  duo?: DuoOptions | 'auto' | undefined;
  /** LoRA adapters of the model, which `model.loadLora()` gives. Each alone, or with the scale of its part: `{ lora, scale: 0.5 }`. Default: none. */
  loras?: Lora | ScaledLora | readonly (Lora | ScaledLora)[] | undefined;
  /**
   * Speculative decoding: the same text, sooner where drafts are often right. 'lookup' drafts what followed in the text before, which costs nothing; a
   * draft model is for machines on which several tokens take little longer than one. Default: none.
   */
  speculative?: SpeculativeOptions | 'lookup' | undefined;
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
  /** Leave out tokens whose logit is this many standard deviations below the largest; 0 or less for none. Default: -1. */
  topNSigma?: number | undefined;
  /** Tokens that each of these samplers leaves at least. Default: 0. */
  minKeep?: number | undefined;
  /** How often the likeliest tokens are left out, but for the least of them (XTC). 0 to 1. Default: 0. */
  xtcProbability?: number | undefined;
  /** How likely a token must be for that. 0 to 1. Default: 0.1. */
  xtcThreshold?: number | undefined;
  /** The temperature is up to this much above or below, by how sure the model is; 0 for none. Default: 0. */
  dynamicTemperatureRange?: number | undefined;
  /** How fast it follows that. Default: 1. */
  dynamicTemperatureExponent?: number | undefined;
  /** Above 1 makes tokens less likely that occur in the last `repeatLastN`; 1 does nothing. 0.001 to 1000. Default: 1. */
  repeatPenalty?: number | undefined;
  /** Tokens that penalties look back on, -1 for the context's size. Default: 64. */
  repeatLastN?: number | undefined;
  /** Taken off the logit of a token, as often as it occurs there. Default: 0. */
  frequencyPenalty?: number | undefined;
  /** Taken off the logit of a token that occurs there, once. Default: 0. */
  presencePenalty?: number | undefined;
  /** Makes tokens less likely that would go on with a repetition (DRY); 0 for none. Default: 0. */
  dryMultiplier?: number | undefined;
  /** That grows by this factor with each token of the repetition. Default: 1.75. */
  dryBase?: number | undefined;
  /** Repetitions up to this many tokens are let be. Default: 2. */
  dryAllowedLength?: number | undefined;
  /** Tokens that DRY looks back on, -1 for the context's size. Default: 64. */
  dryLastN?: number | undefined;
  /** Texts that no repetition goes across. Default: line break, colon, quote and asterisk. */
  drySequenceBreakers?: readonly string[] | undefined;
  /** Mirostat of version 1 or 2 in the place of the samplers; 0 for none. 0 to 2. Default: 0. */
  mirostat?: number | undefined;
  /** The surprise that Mirostat aims at. Default: 5. */
  mirostatTau?: number | undefined;
  /** How fast Mirostat learns. Default: 0.1. */
  mirostatEta?: number | undefined;
  /** The probability that sampler adaptive_p aims at; below 0 for none. -1 to 1. Default: -1. */
  adaptiveTarget?: number | undefined;
  /** How long adaptive_p remembers. 0 to 0.99. Default: 0.9. */
  adaptiveDecay?: number | undefined;
  /** Which samplers, in which order. Default: penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature. */
  samplers?: readonly Sampler[] | undefined;
  /** Added to the logits of tokens, which are named by their ids or by a text, for each of its tokens; `false` for never. A Map, or pairs. Default: none. */
  logitBias?: LogitBias | undefined;
  /** The same seed gives the same text. 0 to 4294967295. Default: another each time. */
  seed?: number | undefined;
  /**
   * A GBNF grammar that the text has to follow. Its end is the end of the text, with `ignoreEos`, too. Where it allows no token before that, reading
   * throws a GrammarError, which has the text so far.
   */
  grammar?: string | undefined;
  /**
   * The text is JSON of this schema, which `value()` gives: a JSON schema, or a schema of zod, ArkType, or Valibot (with its toStandardJsonSchema). Once
   * that is complete the text ends.
   */
  schema?: Schema | undefined;
  /** The text is one of these. */
  choices?: readonly string[] | undefined;
};

/** What is generated, and how it is read. */
export type GenerateOptions = SamplingOptions & {
  /** Tokens to generate at most, -1 for as many as the context holds. Where a chat runs tools, in each of its rounds. Default: -1. */
  maxTokens?: number | undefined;
  /**
   * Texts to generate of one prompt, each in a sequence of its own, of which the context must have as many. Seeds of the others follow the first's.
   * Default: 1.
   */
  n?: number | undefined;
  /**
   * Give the log-probability of each token, and this many of the likeliest tokens with theirs: the model's own, before samplers change them. Default: none
   * are given.
   */
  logProbabilities?: number | undefined;
  /** Go on after the token that ends a text. Default: false. */
  ignoreEos?: boolean | undefined;
  /** Generation ends before a text that is one of these. None may be empty. Default: none. */
  stop?: string | readonly string[] | undefined;
  /** Write special tokens as their names. Default: false. */
  specialTokens?: boolean | undefined;
  /** Add BOS and EOS to a prompt that is text, as the model wants them. Default: true; of a sequence, which may have begun, false. */
  addSpecial?: boolean | undefined;
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

/** What is generated into a gap. */
export type InfillOptions = Omit<GenerateOptions, 'addSpecial' | 'parseSpecial'>;

/** What is scored. */
export type ScoreOptions = {
  /** The index of the first token that is scored: 1 for all that have a token before them. Default: 1. */
  from?: number | undefined;
  /** Add BOS and EOS to a text as the model wants them. Default: true. */
  addSpecial?: boolean | undefined;
  /** Read the names of special tokens in a text as those tokens, as for a prompt. Default: false. */
  parseSpecial?: boolean | undefined;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Ends the work; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};

/** What a sequence appends. */
export type AppendOptions = {
  /** Add BOS and EOS to a text as the model wants them: for the first that a sequence gets. Default: false. */
  addSpecial?: boolean | undefined;
  /** Read the names of special tokens in a text as those tokens, as for a prompt. Default: false. */
  parseSpecial?: boolean | undefined;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Ends the work; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};

/** What a chat template gets. */
export type ChatTemplateOptions = {
  /** What the model may call. `tool()` makes them. Default: none. */
  tools?: readonly Tool[] | undefined;
  /** Whether the model may, must not or must call one. Default: 'auto'. */
  toolChoice?: 'auto' | 'none' | 'required' | undefined;
  /** Whether it may call several at once. Default: false. */
  parallelToolCalls?: boolean | undefined;
  /** Whether the model reasons before it answers, where its template knows of that. Default: true. */
  thinking?: boolean | undefined;
  /** Tokens of reasoning at most, -1 for as many as it wants. Default: -1. */
  reasoningBudget?: number | undefined;
  /** A Jinja template. Default: the model's own. */
  template?: string | undefined;
  /** What the template gets besides. */
  variables?: Readonly<Record<string, unknown>> | undefined;
  /** The time that templates tell. Default: now. */
  now?: Date | undefined;
};

/** A prompt to make of messages. */
export type ChatPromptOptions = ChatTemplateOptions & {
  /** Whether the prompt ends with the beginning of the assistant's turn. Default: true. */
  addAssistant?: boolean | undefined;
  /** Stops the work; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};

/** A conversation. */
export type ChatOptions = ChatTemplateOptions & {
  /** What the model is told first. Default: nothing. */
  system?: string | undefined;
  /** What was said before. Default: nothing. */
  messages?: readonly Message[] | undefined;
  /** How often in one answer tools are run at most. Calls beyond that are left to the caller. Default: 10. */
  maxToolRounds?: number | undefined;
};

/** How an answer is generated, and how it is read. */
export type SendOptions = Omit<
  GenerateOptions,
  'addSpecial' | 'parseSpecial' | 'n' | 'ignoreEos' | 'specialTokens' | 'logProbabilities'
> & {
  /** Whether the model may, must not or must call one. Default: the chat's. */
  toolChoice?: 'auto' | 'none' | 'required' | undefined;
};

/** An embedder to create. */
export type EmbedderOptions = {
  /** How the numbers of tokens become those of a text; model: as it says, else mean. Default: 'model'. */
  pooling?: 'model' | 'mean' | 'cls' | 'last' | 'rank' | undefined;
  /** Tokens of a text at most. 1 to 16777216. Default: what the model was trained for, at most 2048. */
  contextSize?: number | undefined;
  /** Texts that are computed at once. 1 to 256. Default: 16. */
  sequences?: number | undefined;
  /** CPU threads. 1 to 512. Default: the machine's cores. */
  threads?: number | undefined;
  /** Stops the creation; the promise rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
};
