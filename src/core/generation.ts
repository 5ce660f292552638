import type { Handle, Native } from '../ffi/native.ts';
import { abortSignal, boolean, callback, integer, number, text, texts, toJson } from './options.ts';
import { abandoned } from '../ffi/owned.ts';
import { TokenStream } from './token-stream.ts';

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
 * An answer as it comes. Read it once: with `for await`, or all of it with {@link text} or {@link collect}. The engine works ahead of the reader by
 * `window` tokens, then pauses; where other work of the context waits, it does not pause but goes on, and what was not read is kept.
 *
 * - Leaving the loop cancels the work. So does the signal, and then the loop throws `signal.reason`. So does disposing of the context.
 * - Generations of one context take turns, in the order in which reading began.
 */
export class Generation implements AsyncIterableIterator<GenerationChunk, void, void> {
  readonly #stream: TokenStream;
  #turn: Promise<unknown> = Promise.resolve();
  #collected: Promise<GenerationResult & { text: string; tokens: Int32Array }> | undefined;

  /**
   * @internal
   * @param context gives the context's handle, or throws where it has been disposed
   * @param siblings the context's streams, for it to end them
   */
  constructor(native: Native, context: () => Handle, prompt: string | Int32Array, options: GenerateOptions, siblings: Set<TokenStream>) {
    const { onProgress, signal, ...request } = options;
    const json = toJson(request);
    this.#stream = new TokenStream(native, () => native.generate(context(), prompt, json), { onProgress, signal }, siblings);
    abandoned.register(this, this.#stream, this.#stream);
  }

  next(): Promise<IteratorResult<GenerationChunk, void>> {
    const next = this.#turn.then(() => this.#next());
    this.#turn = next.catch(() => {});
    return next;
  }

  /** Ends the generation; a `next()` that waits is done. */
  return(): Promise<IteratorResult<GenerationChunk, void>> {
    this.#stream.free();
    return Promise.resolve({ done: true, value: undefined });
  }

  /**
   * How it ended. Waits for the end and needs no reader: what nobody has read is kept for one.
   *
   * @throws CancelledError where its reader left or its context was disposed of before the end; else as reading does
   */
  result(): Promise<GenerationResult> {
    void this.#stream.drain(this);
    return this.#stream.result;
  }

  /** Reads to the end and gives the text, as {@link collect} does. */
  async text(): Promise<string> {
    return (await this.collect()).text;
  }

  /** Reads to the end and gives everything at once that was not read before; the same whenever it is called. */
  collect(): Promise<GenerationResult & { text: string; tokens: Int32Array }> {
    this.#collected ??= this.#collect();
    return this.#collected;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  async #next(): Promise<IteratorResult<GenerationChunk, void>> {
    for (;;) {
      const value = this.#stream.shift();
      if (value) return { done: false, value };
      if (this.#stream.over) {
        this.#stream.throwError();
        return { done: true, value: undefined };
      }
      await this.#stream.more(this);
    }
  }

  async #collect(): Promise<GenerationResult & { text: string; tokens: Int32Array }> {
    let text = '';
    const tokens: number[] = [];
    for await (const chunk of this) {
      text += chunk.text;
      for (const token of chunk.tokens) tokens.push(token);
    }
    return { text, tokens: Int32Array.from(tokens), ...(await this.result()) };
  }
}
