import { OptionError } from './errors.ts';

/**
 * Token ids as the ABI takes them.
 *
 * @throws OptionError for what isn't an array of integers from 0: an Int32Array would coerce them silently
 */
export function tokenIds(name: string, tokens: Int32Array | readonly number[]): Int32Array {
  if (tokens instanceof Int32Array) return tokens;
  if (!Array.isArray(tokens)) throw new OptionError(name, tokens, 'an Int32Array or an array of token ids');
  tokens.forEach((token, index) => {
    if (!Number.isInteger(token) || token < 0 || token >= 2 ** 31) throw new OptionError(`${name}[${index}]`, token, 'a token id');
  });
  return Int32Array.from(tokens);
}
