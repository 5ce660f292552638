import type { CoreModel } from '../core/model.ts';

/** The part of a model that prompts are written with. */
export type Tokenizer = Pick<CoreModel, 'tokenize'>;

/** Turns pieces of a text into tokens one by one, so that their number is known while the text is put together. */
export class Encoder {
  readonly #tokenizer: Tokenizer;
  readonly #anchor: readonly number[];

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
    this.#anchor = this.opening(anchor);
  }

  /** The tokens of a text's first piece. */
  opening(text: string): number[] {
    return [...this.#tokenizer.tokenize(text, { addSpecial: false })];
  }

  /** The tokens of a piece that goes on with a text: it begins with a space or a line break. */
  next(text: string): number[] {
    // Tokenizers that put a space before a text (SentencePiece) would put one within it.
    const anchored = this.opening(anchor + text);
    const kept = this.#anchor.every((token, index) => anchored[index] === token);
    return kept ? anchored.slice(this.#anchor.length) : this.opening(text);
  }
}

/** A word's end before the piece, which no tokenizer joins to a space or a line break. */
const anchor = 'x';
