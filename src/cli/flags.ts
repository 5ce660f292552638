// yargs-parser, because llama.cpp's flags have one dash and several letters (-ctk, -ub), which other parsers read as groups.
import yargsParser from 'yargs-parser';

import { nearest } from '../options.ts';

/** One flag of a command. */
export type Flag = {
  /** As typed, dashes included; the first is the one that messages name. */
  names: readonly [string, ...string[]];
  /** What its value is; a switch has none. */
  kind: 'text' | 'path' | 'integer' | 'number' | 'switch';
  help: string;
  /** How help names the value: N, FILE. */
  value?: string;
};

/** A command's flags by the name that its code uses. */
export type Flags = Readonly<Record<string, Flag>>;

type Value<F extends Flag> = F['kind'] extends 'switch' ? boolean : F['kind'] extends 'integer' | 'number' ? number : string;

/** What was given; a flag that wasn't is undefined. */
export type Given<F extends Flags> = { [Key in keyof F]: Value<F[Key]> | undefined };

/** The command line is wrong; the process ends with exit code 2. */
export class UsageError extends Error {}

/**
 * Parses a command's arguments. As in llama.cpp a value may begin with a dash, long flags may have underscores, and the last of several counts.
 *
 * @throws UsageError that names the flag, and the one that was probably meant
 */
export function parseFlags<const F extends Flags>(args: readonly string[], flags: F): Given<F> {
  const entries = Object.entries<Flag>(flags);
  const keys = ({ names: [name, ...others] }: Flag): [string, ...string[]] => [withoutDashes(name), ...others.map(withoutDashes)];
  const valued = entries.filter(([, { kind }]) => kind !== 'switch').flatMap(([, flag]) => keys(flag));
  const switches = entries.filter(([, { kind }]) => kind === 'switch').flatMap(([, flag]) => keys(flag));
  const { argv, error } = yargsParser.detailed(args.map(withDashes), {
    string: valued,
    boolean: switches,
    alias: Object.fromEntries(entries.map(([, flag]) => [keys(flag)[0], keys(flag)])),
    narg: Object.fromEntries(valued.map((key) => [key, 1])),
    configuration: {
      'short-option-groups': false,
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'duplicate-arguments-array': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'unknown-options-as-args': true,
    },
  });
  if (error) throw new UsageError(missingValue(args, entries) ?? error.message);

  const known = entries.flatMap(([, { names }]) => names);
  const [stray] = argv._.map(String);
  if (stray !== undefined) throw new UsageError(unknown(stray, known));

  const given: Record<string, string | number | boolean | undefined> = {};
  for (const [key, flag] of entries) {
    const raw = argv[keys(flag)[0]] as string | boolean | undefined;
    given[key] = raw === undefined ? undefined : value(flag, raw);
  }
  return given as Given<F>;
}

function withoutDashes(name: string): string {
  return name.replace(/^-+/, '');
}

/** --top_k is --top-k; a value after = stays as it is. */
function withDashes(argument: string): string {
  const [, name, rest = ''] = /^(--[\w-]+)(=.*)?$/s.exec(argument) ?? [];
  return name === undefined ? argument : name.replaceAll('_', '-') + rest;
}

function value(flag: Flag, raw: string | boolean): string | number | boolean {
  if (typeof raw === 'boolean' || flag.kind === 'text' || flag.kind === 'path') return raw;
  const number = Number(raw);
  const right = raw.trim() !== '' && (flag.kind === 'integer' ? Number.isSafeInteger(number) : Number.isFinite(number));
  if (!right)
    throw new UsageError(`${flag.names[0]} needs ${flag.kind === 'integer' ? 'an integer' : 'a number'}, got ${JSON.stringify(raw)}.`);
  return number;
}

function missingValue(args: readonly string[], entries: [string, Flag][]): string | undefined {
  const last = args.at(-1);
  const flag = entries.find(([, { names, kind }]) => kind !== 'switch' && names.includes(last ?? ''))?.[1];
  return flag && `${last ?? ''} needs a value (${flag.value ?? flag.kind}).`;
}

function unknown(argument: string, known: readonly string[]): string {
  if (!argument.startsWith('-')) {
    const advice = known.includes('-p') ? ': give a prompt with -p.' : argument.endsWith('.gguf') ? ': name a model with -m.' : '.';
    return `Unexpected argument ${JSON.stringify(argument)}${advice}`;
  }
  const [name = argument] = argument.split('=');
  const meant = nearest(name, known);
  return `Unknown flag ${name}.${meant ? ` Did you mean ${meant}?` : ''}`;
}

/** The lines of help for a command's flags. */
export function flagsHelp(flags: Flags): string {
  const rows = Object.values(flags).map((flag) => [`  ${flag.names.join(', ')}${flag.value ? ` ${flag.value}` : ''}`, flag.help] as const);
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  return rows.map(([left, help]) => left.padEnd(width) + help).join('\n');
}
