import { nearest } from '../core/check-options.ts';
import { type Option } from '../core/options.ts';

/** One flag of a command. */
export type Flag = {
  /** As typed, dashes included; the first is the one that messages of the API are put into. */
  names: readonly [string, ...string[]];
  /** What its value is; a switch has none. */
  kind: 'text' | 'path' | 'choice' | 'integer' | 'number' | 'switch';
  help: string;
  /** How help names the value: N, FILE. */
  value?: string;
  /** The least and the greatest that a number may be. */
  min?: number;
  max?: number;
  /** The values of a choice. */
  choices?: readonly string[];
};

/** A command's flags by the name that its code uses. */
export type Flags = Readonly<Record<string, Flag>>;

type Value<F extends Flag> = F['kind'] extends 'switch'
  ? boolean
  : F['kind'] extends 'integer' | 'number'
    ? number
    : F extends { choices: readonly (infer Choice)[] }
      ? Choice
      : string;

/** The kind of an option's flag. */
type KindOf<Kind extends string> = Kind extends 'boolean' ? 'switch' : Kind extends 'special' ? 'text' : Kind & Flag['kind'];

/** An option that has flags. */
type Flagged<T, Kind extends string> = Option<T, Kind> & { flags: readonly [string, ...string[]] };

/** An option's flag: its names, values and default are the option's own, and help is the first sentence of what is said of it. */
export function flagOf<T, Kind extends string>(
  option: Flagged<T, Kind>,
): Flag & { kind: KindOf<Kind> } & (Kind extends 'choice' ? { choices: readonly T[] } : unknown) {
  const { kind, flags, value, min, max, choices, doc, otherwise, default: constant } = option;
  const [first = ''] = doc.split(/\.(?= |$)/);
  const instead = otherwise ?? (constant === false ? undefined : (constant as string | number | undefined));
  const flag = {
    names: flags,
    kind: kind === 'boolean' ? 'switch' : kind === 'special' ? 'text' : kind,
    help: `${first.replace(/^[A-Z](?![A-Z])/, (letter) => letter.toLowerCase())}${instead === undefined ? '' : ` (default: ${instead})`}`,
    ...(value !== undefined && { value }),
    ...(min !== undefined && { min }),
    ...(max !== undefined && { max }),
    ...(choices !== undefined && { choices }),
  };
  return flag as ReturnType<typeof flagOf<T, Kind>>;
}

/** What was given; a flag that wasn't is undefined. */
export type Given<F extends Flags> = { [Key in keyof F]: Value<F[Key]> | undefined };

/** The command line is wrong; the process ends with exit code 2. */
export class UsageError extends Error {}

/**
 * Parses a command's arguments. As in llama.cpp a flag with a value takes the next argument, whatever it looks like, long flags may have underscores, and the
 * last of several counts.
 *
 * @throws UsageError that names the flag, and the one that was probably meant
 */
export function parseFlags<const F extends Flags>(args: readonly string[], flags: F): Given<F> {
  const { given, others } = parseArguments(args, flags);
  const [stray] = others;
  if (stray !== undefined) throw new UsageError(unexpected(stray, flags));
  return given;
}

/** The same for a command that takes arguments besides, files for instance: before, between or after the flags. */
export function parseArguments<const F extends Flags>(args: readonly string[], flags: F): { given: Given<F>; others: string[] } {
  const given: Record<string, string | number | boolean | undefined> = {};
  const others: string[] = [];
  for (const { argument, found } of read(args, flags)) {
    if (!found && argument.startsWith('-') && argument !== '-') throw new UsageError(unknown(argument, flags));
    if (!found) others.push(argument);
    else given[found.key] = valueOf(found);
  }
  return { given: given as Given<F>, others };
}

/** Whether one of these stands where a flag may, and is no other flag's value: `-p --help` is a prompt. */
export function hasFlag(args: readonly string[], flags: Flags, ...names: readonly string[]): boolean {
  return read(args, flags).some(({ argument, found }) => !found && names.includes(argument));
}

/** A flag as it was given. */
type Found = { key: string; flag: Flag; name: string; text: string | undefined };

/** The arguments in turn; a flag takes its value along. */
function read(args: readonly string[], flags: Flags): { argument: string; found: Found | undefined }[] {
  const byName = new Map(Object.entries(flags).flatMap(([key, flag]) => flag.names.map((name) => [name, { key, flag }] as const)));
  const result: { argument: string; found: Found | undefined }[] = [];
  for (let index = 0; index < args.length; index++) {
    const argument = args[index] ?? '';
    const [, written = '', attached] = /^([^=]*)(?:=(.*))?$/s.exec(argument) ?? [];
    const name = written.startsWith('--') ? written.replaceAll('_', '-') : written;
    const known = byName.get(name);
    const takesNext = known && known.flag.kind !== 'switch' && attached === undefined;
    const text = takesNext ? args[++index] : attached;
    result.push({ argument, found: known && { ...known, name: written, text } });
  }
  return result;
}

function valueOf({ flag, name, text }: Found): string | number | boolean {
  if (flag.kind === 'switch') {
    if (text !== undefined) throw new UsageError(`${name} takes no value, got ${JSON.stringify(text)}.`);
    return true;
  }
  if (text === undefined) throw new UsageError(`${name} needs a value (${flag.value ?? flag.kind}).`);
  if (flag.kind === 'text' || flag.kind === 'path') return text;
  if (flag.kind === 'choice') return choiceOf(flag, name, text);
  const { min = -Infinity, max = Infinity } = flag;
  const number = Number(text);
  const isNumber = text.trim() !== '' && (flag.kind === 'integer' ? Number.isSafeInteger(number) : Number.isFinite(number));
  if (!isNumber || number < min || number > max)
    throw new UsageError(`${name} needs ${expected(flag, number > max)}, got ${JSON.stringify(text)}.`);
  return number;
}

function choiceOf({ choices = [] }: Flag, name: string, text: string): string {
  if (choices.includes(text)) return text;
  const meant = nearest(text, choices);
  const hint = meant === undefined ? '' : ` Did you mean ${meant}?`;
  throw new UsageError(`${name} needs one of ${choices.join(', ')}, got ${JSON.stringify(text)}.${hint}`);
}

/** @param tooLarge whether a greatest number has to be told that nobody comes to otherwise */
function expected({ kind, min, max }: Flag, tooLarge: boolean): string {
  const what = kind === 'integer' ? 'an integer' : 'a number';
  if (min === undefined) return what;
  return max === undefined || (max === 2 ** 31 - 1 && !tooLarge) ? `${what} of at least ${min}` : `${what} from ${min} to ${max}`;
}

function namesOf(flags: Flags): string[] {
  return Object.values(flags).flatMap(({ names }) => names);
}

function unexpected(argument: string, flags: Flags): string {
  const advice = namesOf(flags).includes('-p') ? ': give a prompt with -p.' : argument.endsWith('.gguf') ? ': name a model with -m.' : '.';
  return `Unexpected argument ${JSON.stringify(argument)}${advice}`;
}

function unknown(argument: string, flags: Flags): string {
  const [name = argument] = argument.split('=');
  const meant = nearest(name, namesOf(flags));
  return `Unknown flag ${name}.${meant ? ` Did you mean ${meant}?` : ''}`;
}

/**
 * A message of the API in the words of the command line: `contextSize` is -c, `duo.sink` is --duo-sink.
 *
 * @param option the option that the message is about, whose name may be an everyday word
 */
export function inFlags(message: string, flags: Flags, option?: string): string {
  let text = message;
  for (const [key, { names }] of Object.entries(flags)) {
    const nested = key.replace(/^duo([A-Z])/, (_, first: string) => `duo.${first.toLowerCase()}`);
    const words = nested !== key ? [nested, key] : /[A-Z]/.test(key) || key === option ? [key] : [];
    for (const word of words) text = text.replaceAll(new RegExp(`(?<![\\w.])${word.replace('.', '\\.')}(?!\\w)`, 'g'), names[0]);
  }
  return text;
}

/** The lines of help for a command's flags. */
export function flagsHelp(flags: Flags): string {
  const rows = Object.values(flags).map((flag) => [`  ${flag.names.join(', ')}${flag.value ? ` ${flag.value}` : ''}`, flag.help] as const);
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  return rows.map(([left, help]) => left.padEnd(width) + help).join('\n');
}
