import type { Handle, Native } from '../ffi/native.ts';
import { generateTable } from './option-tables.ts';
import type { GenerateOptions } from './option-types.ts';
import { nativeOptions, toJson } from './check-options.ts';
import { abandoned } from '../ffi/owned.ts';
import { TokenStream } from './token-stream.ts';

/** A piece of the answer. `text` holds whole characters, so it may lag behind `tokens`; either may be empty. */
export type GenerationChunk = { text: string; tokens: Int32Array };

/** How a generation ended, and how fast it was. */
export type GenerationResult = {
  /** `stop`: the model ended its text, or came to one of the texts of `stop`, which is `stopText`; `length`: maxTokens; `contextFull`. */
  finishReason: 'stop' | 'length' | 'contextFull';
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

/**
 * An answer as it comes. Read it once: with `for await`, or all of it with {@link text} or {@link collect}. The engine works ahead of the reader by
 * `readAhead` tokens, then pauses; where other work of the context waits, it does not pause but goes on, and what was not read is kept.
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
    const { onProgress, signal, stop } = options;
    const json = toJson({ ...nativeOptions(options, generateTable), stop: stop === undefined ? undefined : [stop].flat() });
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
