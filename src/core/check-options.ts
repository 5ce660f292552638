import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { describe, OptionError } from '../errors.ts';
import { filePath, halfPair, isObject, type Check, type Checks, type Option, type Table } from './options.ts';

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
export function toJson(options: unknown): string {
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

/** Keys of a table whose options have a default. */
type Defaulted<T> = { [Key in keyof T]: T[Key] extends { default: unknown } ? Key : never }[keyof T];

/** Options with their defaults in the place of what is left out. */
export function withDefaults<Options extends object, T extends Table<Options>>(
  options: Options,
  table: T & Table<Options>,
): Options & { [Key in Defaulted<T> & keyof Options]: NonNullable<Options[Key]> } {
  const given = options as Record<string, unknown>;
  const entries = Object.entries<Option>(table).map(([key, { default: value }]) => [key, given[key] ?? value]);
  return Object.fromEntries(entries) as never;
}

/** Options under the library's names, without those that it never sees. */
export function nativeOptions<Options extends object>(options: Options, table: Table<Options>): Record<string, unknown> {
  const known = table as Record<string, Option>;
  return Object.fromEntries(
    Object.entries(options).flatMap(([key, value]) => {
      const { native = key } = known[key] ?? {};
      return native === null ? [] : [[native, value]];
    }),
  );
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
