import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { describe, OptionError } from '../errors.ts';

/** What a value must be: its test, and the words for a message. */
export type Check = { accepts: (value: unknown) => boolean; expected: string };

/** One check for each key of an options object. */
export type Checks<Options> = { readonly [Key in keyof Options & string]: Check };

/** How the library takes an option, in words that a C++ test reads: cpp/test/options.json. */
export type NativeForm = {
  type: 'integer' | 'number' | 'boolean' | 'string' | 'strings' | 'choice' | 'object' | 'any';
  min?: number;
  max?: number;
  choices?: readonly string[];
  default?: unknown;
};

/** What is said of an option, whatever its values are. */
export type About<T> = {
  /** A sentence that begins with what help shows; more may follow. */
  doc: string;
  /** The value where none is given. */
  default?: T;
  /** The same in words, where it is no constant. */
  otherwise?: string;
  /** The flags that the command line has for it, and how help names their value. */
  flags?: readonly [string, ...string[]];
  value?: string;
  /** Its name in the library's JSON, where that is another; null: the library never sees it. */
  native?: string | null;
};

/** One option: the check of its values, and all that types, help, flags and the reference say of it. */
export type Option<T = unknown, Kind extends string = string> = Check &
  About<T> & {
    kind: Kind;
    /** In TypeScript's words. */
    type: string;
    /** Values of numbers and choices. */
    min?: number;
    max?: number;
    choices?: readonly string[];
    /** The library's form. */
    form: NativeForm;
  };

/** The options of a concept: one table, from which come the types (option-types.ts), the checks, the defaults, help, flags and docs/options.md. */
export type Table<Options> = { readonly [Key in keyof Options & string]: Option<NonNullable<Options[Key]>> };

const integerMaximum = 2 ** 31 - 1;
/** The largest number that the library, which computes with 32 bits, tells from infinity. */
const floatMaximum = 2 ** 128 - 2 ** 104;

type Range = { min?: number; max?: number };

/** What a table's entry has that not every option has, for types to know of: a default, flags. */
type Known<T, A> = (A extends { default: unknown } ? { default: T } : unknown) &
  (A extends { flags: unknown } ? { flags: readonly [string, ...string[]] } : unknown);

export function integer<A extends About<number> & Range>(given: A): Option<number, 'integer'> & Known<number, A> {
  const { min = -(2 ** 31), max = integerMaximum, ...about }: About<number> & Range = given;
  const option: Option<number, 'integer'> = {
    ...about,
    kind: 'integer',
    type: 'number',
    accepts: (value) => Number.isInteger(value) && (value as number) >= min && (value as number) <= max,
    expected: max === integerMaximum ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`,
    min,
    max,
    form: { type: 'integer', min, max },
  };
  return option as typeof option & Known<number, A>;
}

export function number<A extends About<number> & Range>(given: A): Option<number, 'number'> & Known<number, A> {
  const { min = -floatMaximum, max = floatMaximum, ...about }: About<number> & Range = given;
  const range = max === floatMaximum ? `a number of at least ${min}` : `a number from ${min} to ${max}`;
  const option: Option<number, 'number'> = {
    ...about,
    kind: 'number',
    type: 'number',
    accepts: (value) => Number.isFinite(value) && (value as number) >= min && (value as number) <= max,
    expected: min === -floatMaximum ? 'a finite number' : range,
    ...(min !== -floatMaximum && { min }),
    ...(max !== floatMaximum && { max }),
    form: { type: 'number', min, max },
  };
  return option as typeof option & Known<number, A>;
}

export function boolean<A extends About<boolean>>(about: A): Option<boolean, 'boolean'> & Known<boolean, A> {
  const accepts = (value: unknown): boolean => typeof value === 'boolean';
  const option: Option<boolean, 'boolean'> = {
    ...about,
    kind: 'boolean',
    type: 'boolean',
    accepts,
    expected: 'true or false',
    form: { type: 'boolean' },
  };
  return option as typeof option & Known<boolean, A>;
}

export function text<A extends About<string>>(about: A): Option<string, 'text'> & Known<string, A> {
  const accepts = (value: unknown): boolean => typeof value === 'string';
  const option: Option<string, 'text'> = {
    ...about,
    kind: 'text',
    type: 'string',
    accepts,
    expected: 'a string',
    form: { type: 'string' },
  };
  return option as typeof option & Known<string, A>;
}

/** One of some words. @param type the name of their type, where they have one */
export function choice<const T extends string, A extends About<NoInfer<T>> & { type?: string }>(
  choices: readonly T[],
  given: A,
): Option<T, 'choice'> & Known<T, A> {
  const { type, ...about }: About<T> & { type?: string } = given;
  const option: Option<T, 'choice'> = {
    ...about,
    kind: 'choice',
    type: type ?? choices.map((value) => `'${value}'`).join(' | '),
    accepts: (value) => choices.includes(value as T),
    expected: `one of ${choices.join(', ')}`,
    choices,
    form: { type: 'choice', choices },
  };
  return option as typeof option & Known<T, A>;
}

type Special<T> = About<T> & Check & { type: string; form?: NativeForm };

/** A value of a type of its own, which is named first: `special<Gates>()({ ... })`. */
export function special<T>() {
  return <A extends Special<T>>(given: A): Option<T, 'special'> & Known<T, A> => {
    const { form = { type: 'any' }, ...about }: Special<T> = given;
    const option: Option<T, 'special'> = { ...about, kind: 'special', form };
    return option as typeof option & Known<T, A>;
  };
}

export function path<A extends About<string | URL>>(about: A): Option<string | URL, 'path'> & Known<string | URL, A> {
  const option: Option<string | URL, 'path'> = { ...about, kind: 'path', type: 'string | URL', ...filePath, form: { type: 'any' } };
  return option as typeof option & Known<string | URL, A>;
}

export function signal(doc: string): Option<AbortSignal, 'special'> {
  const accepts = (value: unknown): boolean => value instanceof AbortSignal;
  return special<AbortSignal>()({ doc, type: 'AbortSignal', accepts, expected: 'an AbortSignal', native: null });
}

/** What is told how far the work has come. */
export function progress(doc: string): Option<(progress: number) => void, 'special'> {
  const accepts = (value: unknown): boolean => typeof value === 'function';
  return special<(progress: number) => void>()({ doc, type: '(progress: number) => void', accepts, expected: 'a function', native: null });
}

/** Half of a surrogate pair: there is no UTF-8 for it, and runtimes differ on what becomes of it in a path. */
const halfPair = /\p{Surrogate}/u;

export const filePath: Check = {
  accepts: (value) =>
    value instanceof URL ? isFileUrl(value) : typeof value === 'string' && value !== '' && !value.includes('\0') && !halfPair.test(value),
  expected: 'a path or a file URL',
};

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
