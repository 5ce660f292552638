import type { Tokenizer } from '../../../src/synthetic/encoder.ts';

/** A tokenizer for tests: a word with the space before it is a token, as is a digit, a line break or any other sign. */
export class WordTokenizer implements Tokenizer {
  readonly #ids = new Map<string, number>();
  readonly #texts: string[] = [];

  tokenize(text: string): Int32Array {
    const pieces = text.match(/ ?[\p{L}_]+| ?\d|\n| ?[^\s\p{L}\d]| /gu) ?? [];
    return Int32Array.from(pieces, (piece) => this.#id(piece));
  }

  detokenize(tokens: Iterable<number>): string {
    return [...tokens].map((token) => this.#texts[token] ?? '?').join('');
  }

  #id(piece: string): number {
    let id = this.#ids.get(piece);
    if (id === undefined) {
      id = this.#texts.push(piece) - 1;
      this.#ids.set(piece, id);
    }
    return id;
  }
}

/** A tokenizer that puts a space before every text, as SentencePiece's do, and gives each sign a token. */
export class SpacingTokenizer implements Tokenizer {
  tokenize(text: string): Int32Array {
    return Int32Array.from(` ${text}`, (sign) => sign.codePointAt(0) ?? 0);
  }

  detokenize(tokens: Iterable<number>): string {
    return String.fromCodePoint(...tokens);
  }
}
