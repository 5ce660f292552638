import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { describe, OptionError } from '../errors.ts';

/** What a value must be: its test, and the words for a message. */
export type Check = { accepts: (value: unknown) => boolean; expected: string };

/** One check for each key of an options object. */
export type Checks<Options> = { readonly [Key in keyof Options]-?: Check };

// cpp/abi checks the same options again, for callers of other languages. test/native/options.test.ts compares what the two say, word by word.
export const boolean: Check = { accepts: (value) => typeof value === 'boolean', expected: 'true or false' };
export const text: Check = { accepts: (value) => typeof value === 'string', expected: 'a string' };
export const texts: Check = {
  accepts: (value) => Array.isArray(value) && value.every((item) => typeof item === 'string' && item !== ''),
  expected: 'an array of non-empty strings',
};
export const callback: Check = { accepts: (value) => typeof value === 'function', expected: 'a function' };
export const abortSignal: Check = { accepts: (value) => value instanceof AbortSignal, expected: 'an AbortSignal' };
/** Half of a surrogate pair: there is no UTF-8 for it, and runtimes differ on what becomes of it in a path. */
const halfPair = /\p{Surrogate}/u;

export const filePath: Check = {
  accepts: (value) =>
    value instanceof URL ? isFileUrl(value) : typeof value === 'string' && value !== '' && !value.includes('\0') && !halfPair.test(value),
  expected: 'a path or a file URL',
};

const integerMaximum = 2 ** 31 - 1;
/** The largest number that the library, which computes with 32 bits, tells from infinity. */
const floatMaximum = 2 ** 128 - 2 ** 104;

export function integer(minimum: number, maximum = integerMaximum): Check {
  return {
    accepts: (value) => Number.isInteger(value) && (value as number) >= minimum && (value as number) <= maximum,
    expected: maximum === integerMaximum ? `an integer of at least ${minimum}` : `an integer from ${minimum} to ${maximum}`,
  };
}

export function number(minimum = -floatMaximum, maximum = floatMaximum): Check {
  const range = maximum === floatMaximum ? `a number of at least ${minimum}` : `a number from ${minimum} to ${maximum}`;
  return {
    accepts: (value) => Number.isFinite(value) && (value as number) >= minimum && (value as number) <= maximum,
    expected: minimum === -floatMaximum ? 'a finite number' : range,
  };
}

export function oneOf(...values: string[]): Check {
  return { accepts: (value) => values.includes(value as string), expected: `one of ${values.join(', ')}` };
}

/** Whether a URL names a file here: not one of the web, nor of another machine. */
function isFileUrl(url: URL): boolean {
  try {
    return fileURLToPath(url) !== '';
  } catch {
    return false;
  }
}

/**
 * A path that means the same file whatever becomes of the process's folder.
 *
 * @throws OptionError for what is neither a path nor a file URL
 */
export function absolutePath(name: string, value: string | URL): string {
  if (!filePath.accepts(value)) throw new OptionError(name, value, filePath.expected);
  return value instanceof URL ? fileURLToPath(value) : resolve(value);
}

/**
 * Options as the library takes them, in JSON.
 *
 * @throws OptionError for what JSON has no form for (a bigint, a cycle), and for a string with half of a surrogate pair, which UTF-8 has none for
 */
export function toJson(options: object): string {
  let json: string;
  try {
    json = JSON.stringify(options);
  } catch (error) {
    throw new OptionError('options', options, `values that JSON has (${String(error)})`);
  }
  // JSON writes such halves as escapes, and whole pairs as they are.
  if (/\\ud[89a-f]/.test(json)) refuseHalfPairs('', JSON.parse(json));
  return json;
}

function refuseHalfPairs(name: string, value: unknown): void {
  if (typeof value === 'string' && halfPair.test(value)) {
    throw new OptionError(name, value, 'text without halves of surrogate pairs');
  }
  if (typeof value !== 'object' || value === null) return;
  for (const [key, inner] of Object.entries(value)) {
    refuseHalfPairs('a key', key);
    refuseHalfPairs(Array.isArray(value) ? `${name}[${key}]` : name === '' ? key : `${name}.${key}`, inner);
  }
}

/**
 * Checks an options object: a key that is not known and a value that is not right are errors, so that a slip never goes unnoticed. Keys that are
 * undefined count as left out.
 *
 * @param prefix stands before a key in messages, 'duo.' for instance
 */
export function checkOptions<Options extends object>(options: Options, checks: Checks<Options>, prefix = ''): void {
  if (!isObject(options)) {
    throw new OptionError(prefix.replace(/\.$/, '') || 'options', options, 'an object');
  }
  const known = checks as Record<string, Check>;
  for (const [key, value] of Object.entries(options)) {
    const check = Object.hasOwn(known, key) ? known[key] : undefined;
    if (!check) throw unknownOption(prefix, key, value, Object.keys(known));
    if (value !== undefined && !check.accepts(value)) throw new OptionError(prefix + key, value, check.expected);
  }
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function unknownOption(prefix: string, key: string, value: unknown, known: string[]): OptionError {
  const meant = nearest(key, known);
  const hint = meant ? `Did you mean ${prefix}${meant}?` : `Known: ${known.join(', ')}.`;
  return new OptionError(prefix + key, value, 'no such option', `Unknown option ${prefix}${key} (${describe(value)}). ${hint}`);
}

/** The name that was probably meant: the nearest by edits, unless it is far. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** Levenshtein's, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
