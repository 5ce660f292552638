import { OptionError } from '../errors.ts';

/** A text, which the library's threads tokenize, or token ids. */
export type Tokens = string | Int32Array | readonly number[];

/**
 * Token ids as the ABI takes them.
 *
 * @param vocabularySize how many tokens there are
 * @throws OptionError for what isn't an array of integers from 0: an Int32Array would coerce them silently
 */
export function tokenIds(name: string, tokens: Int32Array | readonly number[], vocabularySize = 2 ** 31): Int32Array {
  if (!(tokens instanceof Int32Array) && !Array.isArray(tokens))
    throw new OptionError(name, tokens, 'an Int32Array or an array of token ids');
  const wrong = tokens.findIndex((token: number) => !Number.isInteger(token) || token < 0 || token >= vocabularySize);
  if (wrong >= 0) {
    const expected = vocabularySize < 2 ** 31 ? `a token id, from 0 to ${vocabularySize - 1}` : 'a token id';
    throw new OptionError(`${name}[${wrong}]`, tokens[wrong], expected);
  }
  return tokens instanceof Int32Array ? tokens : Int32Array.from(tokens as readonly number[]);
}

/** What the library reads; ids that are changed after the call stay as they were. */
export function textOrIds(name: string, given: Tokens): string | Int32Array {
  return typeof given === 'string' ? given : tokenIds(name, given).slice();
}
