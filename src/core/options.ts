import { fileURLToPath } from 'node:url';

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
export const floatMaximum = 2 ** 128 - 2 ** 104;

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

/** Texts of which none is empty. */
export function texts<A extends About<readonly string[]>>(about: A): Option<readonly string[], 'special'> & Known<readonly string[], A> {
  const option: Option<readonly string[], 'special'> = {
    ...about,
    kind: 'special',
    type: 'readonly string[]',
    accepts: (value) => Array.isArray(value) && value.every((item) => typeof item === 'string' && item !== ''),
    expected: 'an array of non-empty strings',
    form: { type: 'strings' },
  };
  return option as typeof option & Known<readonly string[], A>;
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

/** A table without some of its options. */
export function without<T extends object, Key extends keyof T & string>(table: T, ...keys: Key[]): Omit<T, Key> {
  return Object.fromEntries(Object.entries(table).filter(([key]) => !keys.includes(key as Key))) as Omit<T, Key>;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
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
export const halfPair = /\p{Surrogate}/u;

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
