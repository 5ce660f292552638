import { describe, OptionError } from './errors.ts';

/** What a value must be: its test, and the words for a message. */
export type Check = { accepts: (value: unknown) => boolean; expected: string };

/** One check for each key of an options object. */
export type Checks<Options> = { readonly [Key in keyof Options]-?: Check };

export const boolean: Check = { accepts: (value) => typeof value === 'boolean', expected: 'true or false' };
export const text: Check = { accepts: (value) => typeof value === 'string', expected: 'a string' };
export const texts: Check = {
  accepts: (value) => Array.isArray(value) && value.every((item) => typeof item === 'string'),
  expected: 'an array of strings',
};
export const callback: Check = { accepts: (value) => typeof value === 'function', expected: 'a function' };
export const abortSignal: Check = { accepts: (value) => value instanceof AbortSignal, expected: 'an AbortSignal' };
export const filePath: Check = {
  accepts: (value) => (typeof value === 'string' && value !== '') || value instanceof URL,
  expected: 'a path or a file URL',
};

export function integer(minimum: number, maximum = 2 ** 31 - 1): Check {
  return {
    accepts: (value) => Number.isInteger(value) && (value as number) >= minimum && (value as number) <= maximum,
    expected: maximum === 2 ** 31 - 1 ? `an integer of at least ${minimum}` : `an integer from ${minimum} to ${maximum}`,
  };
}

export function number(minimum: number, maximum = Infinity): Check {
  return {
    accepts: (value) => Number.isFinite(value) && (value as number) >= minimum && (value as number) <= maximum,
    expected: maximum === Infinity ? `a number of at least ${minimum}` : `a number from ${minimum} to ${maximum}`,
  };
}

export function oneOf(...values: string[]): Check {
  return { accepts: (value) => values.includes(value as string), expected: `one of ${values.join(', ')}` };
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
