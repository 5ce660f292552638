import { OptionError } from '../errors.ts';
import type { Handle, Native } from '../ffi/native.ts';
import { abandoned } from '../ffi/owned.ts';
import { toJson } from './check-options.ts';
import { generateRequest, valueOf } from './generate-request.ts';
import type { GenerateOptions } from './option-types.ts';
import { TokenStream } from './token-stream.ts';

/** How likely a token was, by the model alone: before samplers change anything. */
export type TokenProbability = {
  token: number;
  /** The natural logarithm of its probability. */
  logProbability: number;
  /** The likeliest tokens there, as many as `logProbabilities` asks for, the likeliest first. */
  top: { token: number; logProbability: number }[];
};

/** A piece of the answer. `text` holds whole characters, so it may lag behind `tokens`; either may be empty. */
export type GenerationChunk = {
  text: string;
  tokens: Int32Array;
  /** Which of `n` texts it is of: 0 where there is one. */
  index: number;
  /** Of each of `tokens`, where the option `logProbabilities` asks for them. */
  logProbabilities?: TokenProbability[];
};

/** One text, and how it ended. */
export type Completion = {
  text: string;
  tokens: Int32Array;
  logProbabilities?: TokenProbability[];
  /** `stop`: the model ended its text, or came to one of the texts of `stop`, which is `stopText`; `length`: maxTokens; `contextFull`. */
  finishReason: 'stop' | 'length' | 'contextFull';
  stopText: string | null;
  generatedTokens: number;
  /** Tokens that were drafted for it, and those of them that it has, where the context drafts: else 0. */
  draftedTokens: number;
  acceptedTokens: number;
  /** Without waiting for the reader. */
  decodeSeconds: number;
  /** 0 where there are no tokens. */
  decodeTokensPerSecond: number;
};

/** What was generated, and how fast. Of `n` texts the first is told outside. */
export type GenerationResult = Completion & {
  completions: Completion[];
  promptTokens: number;
  /** Of the prompt's tokens, those that the cache held already. */
  reusedTokens: number;
  /** Until it got a sequence. */
  queuedSeconds: number;
  prefillSeconds: number;
  /** Counts the tokens that were computed; 0 where there are none. */
  prefillTokensPerSecond: number;
};

/** Where a generation is at work: a context, or a sequence of one. */
export type GenerationSource = {
  native: Native;
  /** Submits the job; throws where what it works on has been disposed of. */
  submit: (request: string) => Handle | Promise<Handle>;
  /** The context's streams, for it to end them. */
  siblings: Set<TokenStream>;
  /** How many the context has. */
  sequences: number;
  vocabularySize: number;
};

/**
 * A text as it comes. Read it piece by piece with `for await`, or ask for all of it with {@link text}, {@link value} or {@link result}; one does not take from the
 * other. The engine works ahead of a reader by `readAhead` tokens, then pauses; where other work waits for the sequence, it goes on, and what was not read is kept.
 *
 * - The work starts when the first piece, or the result, is asked for.
 * - Leaving the loop cancels it. So does the signal, and then the loop throws `signal.reason`. So does disposing of the context.
 */
export class Generation<T = unknown> implements AsyncIterableIterator<GenerationChunk, void, void> {
  readonly #stream: TokenStream;
  readonly #form: Pick<GenerateOptions, 'schema' | 'choices'>;
  #turn: Promise<unknown> = Promise.resolve();

  /** @internal @param more of the library's own options */
  constructor({ native, submit, siblings, sequences, vocabularySize }: GenerationSource, options: GenerateOptions, more: object = {}) {
    const { onProgress, signal, readAhead, n = 1, logProbabilities, schema, choices } = options;
    if (n > sequences) throw new OptionError('n', n, `an integer from 1 to ${sequences}, the context's sequences`);
    const request = toJson({ ...generateRequest(options), ...more });
    const alternatives = logProbabilities === undefined ? undefined : Math.min(logProbabilities, vocabularySize);
    this.#form = { schema, choices };
    this.#stream = new TokenStream(native, () => submit(request), { onProgress, signal, readAhead, n, alternatives }, siblings);
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
   * All that was generated, and how it ended. It needs no reader.
   *
   * @throws CancelledError where its reader left or its context was disposed of before the end; else as reading does
   */
  result(): Promise<GenerationResult> {
    void this.#stream.drain(this);
    return this.#stream.result;
  }

  /** The whole text; as {@link result}. */
  async text(): Promise<string> {
    return (await this.result()).text;
  }

  /**
   * What the text says, by the options `schema` and `choices`; without one it is the text.
   *
   * @throws SchemaError where the text is cut off, or is not what they say; else as {@link result}
   */
  async value(): Promise<T> {
    const { text } = await this.result();
    return (await valueOf(this.#form, text)) as T;
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
}
