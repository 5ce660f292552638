import { nearest } from '../core/check-options.ts';
import { UsageError } from './flags.ts';

/** A flag's values, given as one text with commas between. */
export function texts(flag: string, given: string | undefined): string[] | undefined {
  if (given === undefined) return undefined;
  const items = given.split(',').map((item) => item.trim());
  if (items.some((item) => item === '')) throw new UsageError(`${flag} needs values with commas between, got ${JSON.stringify(given)}.`);
  return items;
}

/** Numbers that differ. */
export function numbers(
  flag: string,
  given: string | undefined,
  expected: string,
  accepts: (value: number) => boolean,
): number[] | undefined {
  const values = texts(flag, given)?.map((item) => {
    const value = Number(item);
    // 1,024 is two items, of which no number begins as the second does.
    const grouped = /^0\d/.test(item);
    if (grouped || !Number.isFinite(value) || !accepts(value))
      throw new UsageError(
        `${flag} needs ${expected}, got ${JSON.stringify(item)}${grouped ? ': commas stand between numbers, not within them' : ''}.`,
      );
    return value;
  });
  return different(flag, values);
}

/** The values, none of which may be there twice: its results would be counted twice. */
export function different<T extends readonly (number | string)[] | undefined>(flag: string, values: T): T {
  const twice = values?.find((value, index) => values.indexOf(value) !== index);
  if (twice !== undefined) throw new UsageError(`${flag} has ${twice} twice: name each value once.`);
  return values;
}

export function choices<T extends string>(flag: string, given: string | undefined, known: readonly T[]): T[] | undefined {
  return texts(flag, given)?.map((item) => {
    const found = known.find((candidate) => candidate === item);
    if (found !== undefined) return found;
    const meant = nearest(item, known);
    const hint = meant ? `Did you mean ${meant}?` : `Known: ${known.join(', ')}.`;
    throw new UsageError(`${flag} does not know ${JSON.stringify(item)}. ${hint}`);
  });
}
