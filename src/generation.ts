import { CancelledError } from './errors.ts';
import { decode, type Drained, type Handle, type Native } from './ffi/native.ts';
import { hasEnded, Job } from './job.ts';
import { abortSignal, boolean, callback, checkOptions, integer, number, text, texts, toJson } from './options.ts';
import { abandoned } from './owned.ts';
import { pump } from './pump.ts';

export type SamplingOptions = {
  /** 0 is greedy: always the likeliest token. Default: 0.8. */
  temperature?: number | undefined;
  /** Sample from the K likeliest tokens, 0 for all. Default: 40. */
  topK?: number | undefined;
  /** Sample from the likeliest tokens that together have this probability. Default: 0.95. */
  topP?: number | undefined;
  /** Leave out tokens less likely than this share of the likeliest. Default: 0.05. */
  minP?: number | undefined;
  /** Locally typical sampling, 1 for none. Default: 1. */
  typicalP?: number | undefined;
  /** Above 1 makes tokens less likely that occur in the last `repeatLastN`. 0.001 to 1000. Default: 1, none. */
  repeatPenalty?: number | undefined;
  /** Tokens that penalties look back on, -1 for the context's size. Default: 64. */
  repeatLastN?: number | undefined;
  frequencyPenalty?: number | undefined;
  presencePenalty?: number | undefined;
  /** 0 to 4294967295; the same seed gives the same text. Default: another each time. */
  seed?: number | undefined;
  /**
   * A GBNF grammar that the text has to follow. Its end is the end of the text (`eos`), with `ignoreEos`, too. Where it allows no token before that, reading
   * throws a GrammarError, which has the text so far.
   */
  grammar?: string | undefined;
};

export type GenerateOptions = SamplingOptions & {
  /** Tokens to generate at most, -1: until the context is full. Default: -1. */
  maxTokens?: number | undefined;
  /** Go on after the token that ends a text. Default: false. */
  ignoreEos?: boolean | undefined;
  /** Generation ends before a text that is one of these. None may be empty. */
  stop?: string[] | undefined;
  /** Write special tokens as their names. Default: false. */
  specialTokens?: boolean | undefined;
  /**
   * Read the names of special tokens in a prompt that is text, such as `<|im_start|>`, as those tokens. Only for prompts that the program has made itself: in
   * a user's text they could end a turn and begin another. Default: false, as in {@link Model.tokenize}.
   */
  parseSpecial?: boolean | undefined;
  /** Reuse what the cache holds of the prompt already. Default: true. */
  reuse?: boolean | undefined;
  /** Tokens that may wait for the reader before the engine pauses. Default: 256. */
  window?: number | undefined;
  /** Gets a number that grows from 0 to 1 while the prompt is read. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Ends the generation; the reader gets `signal.reason` thrown. */
  signal?: AbortSignal | undefined;
};

/** A piece of the answer. `text` holds whole characters, so it may lag behind `tokens`; either may be empty. */
export type GenerationChunk = { text: string; tokens: Int32Array };

/** How a generation ended, and how fast it was. */
export type GenerationResult = {
  /** `length`: maxTokens; `eos`: the model ended its text; `text`: one of `stop`, which is `stopText`; `full`: the context is full. */
  stop: 'length' | 'eos' | 'text' | 'full';
  stopText: string | null;
  promptTokens: number;
  /** Of the prompt's tokens, those that the cache held already. */
  reusedTokens: number;
  generatedTokens: number;
  prefillSeconds: number;
  decodeSeconds: number;
  /** Rates count the tokens that were computed; 0 where there are none. */
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
};

/** @internal */
export const generateChecks = {
  temperature: number(0),
  topK: integer(0),
  topP: number(0, 1),
  minP: number(0, 1),
  typicalP: number(0, 1),
  repeatPenalty: number(0.001, 1000),
  repeatLastN: integer(-1),
  frequencyPenalty: number(),
  presencePenalty: number(),
  seed: integer(0, 2 ** 32 - 1),
  grammar: text,
  maxTokens: integer(-1),
  ignoreEos: boolean,
  stop: texts,
  specialTokens: boolean,
  parseSpecial: boolean,
  reuse: boolean,
  window: integer(1),
  onProgress: callback,
  signal: abortSignal,
};

/**
 * An answer as it comes. Read it with `for await`, once. The engine works ahead of the reader by `window` tokens, then pauses.
 *
 * - Leaving the loop cancels the work. So does the signal, and then the loop throws `signal.reason`.
 * - Generations of one context take turns, in the order in which reading began.
 */
export class Generation implements AsyncIterableIterator<GenerationChunk, void, void> {
  /** The ids of the prompt, special tokens included. */
  readonly promptTokens: Int32Array;
  /** Settles when the reader has come to the end. Rejects with what was thrown, or CancelledError where the reader left before. */
  readonly result: Promise<GenerationResult>;

  readonly #native: Native;
  readonly #submit: () => Handle;
  readonly #options: GenerateOptions;
  readonly #siblings: Set<Job>;
  readonly #stream: AsyncGenerator<GenerationChunk, void, void>;
  #job: Job | undefined;
  #left = false;
  #progress = 0;
  #resolve!: (result: GenerationResult) => void;
  #reject!: (reason: unknown) => void;

  /**
   * @internal
   * @param context gives the context's handle, or throws where it has been disposed
   * @param siblings the context's jobs, for it to wait for
   */
  constructor(native: Native, context: () => Handle, tokens: Int32Array, options: GenerateOptions, siblings: Set<Job>) {
    checkOptions(options, generateChecks);
    // What is for this side only is left out.
    const json = toJson({ ...options, onProgress: undefined, signal: undefined });
    this.promptTokens = tokens;
    this.#native = native;
    this.#submit = () => native.generate(context(), tokens, json);
    this.#options = options;
    this.#siblings = siblings;
    this.#stream = this.#read();
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Who only reads the stream has been told already.
    this.result.catch(() => {});
  }

  next(): Promise<IteratorResult<GenerationChunk, void>> {
    return this.#stream.next();
  }

  /** Ends the generation; a `next()` that waits is done. */
  return(): Promise<IteratorResult<GenerationChunk, void>> {
    this.#left = true;
    this.#job?.cancel();
    this.#reject(new CancelledError('The generation was left before its end.'));
    return this.#stream.return();
  }

  /** Reads to the end and gives everything at once. */
  async collect(): Promise<GenerationResult & { text: string; tokens: Int32Array }> {
    let text = '';
    const tokens: number[] = [];
    for await (const chunk of this) {
      text += chunk.text;
      tokens.push(...chunk.tokens);
    }
    return { text, tokens: Int32Array.from(tokens), ...(await this.result) };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  async *#read(): AsyncGenerator<GenerationChunk, void, void> {
    const { signal } = this.#options;
    let job: Job | undefined;
    try {
      signal?.throwIfAborted();
      job = this.#begin();
      const cancel = cancels(job);
      signal?.addEventListener('abort', cancel, { once: true });
      try {
        yield* this.#chunks(job);
      } finally {
        signal?.removeEventListener('abort', cancel);
      }
    } catch (error) {
      this.#reject(error);
      throw error;
    } finally {
      if (job) this.#end(job);
    }
  }

  async *#chunks(job: Job): AsyncGenerator<GenerationChunk, void, void> {
    const { signal } = this.#options;
    // One drain takes at most this much; text is the larger, since a token may be long.
    const tokens = new Int32Array(256);
    const text = new Uint8Array(16384);
    for (;;) {
      const drained = await pump.until(() => this.#take(job, tokens, text));
      signal?.throwIfAborted();
      if (drained === 'left') return;
      if (drained.tokens.length > 0 || drained.text.length > 0) yield { text: decode(drained.text), tokens: drained.tokens.slice() };
      if (hasEnded(drained.state) && !drained.more) {
        this.#resolve(job.result(drained.state) as GenerationResult);
        return;
      }
    }
  }

  /** What waits, if anything does. */
  #take(job: Job, tokens: Int32Array, text: Uint8Array): Drained | 'left' | undefined {
    if (this.#left || this.#options.signal?.aborted) return 'left';
    const drained = job.drain(tokens, text);
    if (drained.tokens.length > 0 || drained.text.length > 0 || hasEnded(drained.state)) return drained;
    this.#reportProgress(job);
    return undefined;
  }

  #reportProgress(job: Job): void {
    const { onProgress } = this.#options;
    if (!onProgress) return;
    const { progress } = job.poll();
    if (progress <= this.#progress) return;
    this.#progress = progress;
    onProgress(progress);
  }

  #begin(): Job {
    const job = new Job(this.#native, this.#submit());
    this.#job = job;
    this.#siblings.add(job);
    abandoned.register(this, job, this);
    return job;
  }

  #end(job: Job): void {
    abandoned.unregister(this);
    this.#siblings.delete(job);
    job.free();
  }
}

/** Apart from the generation, so that a signal that lives long does not keep it alive. */
function cancels(job: Job): () => void {
  return () => {
    job.cancel();
  };
}
