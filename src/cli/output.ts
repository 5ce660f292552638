import { once } from 'node:events';

import { OutputError } from '../errors.ts';

/**
 * Writes to stdout, at the reader's pace.
 *
 * @throws OutputError where the runtime throws what others tell the stream's listeners
 */
export async function print(text: string): Promise<void> {
  if (text === '') return;
  let goesOn: boolean;
  try {
    goesOn = process.stdout.write(text);
  } catch (error) {
    throw new OutputError(stdoutMessage(error), { cause: error });
  }
  if (!goesOn) await once(process.stdout, 'drain');
}

export function stdoutMessage(error: unknown): string {
  return `stdout cannot be written: ${error instanceof Error ? error.message : String(error)}`;
}

export async function printJson(value: unknown): Promise<void> {
  await print(`${JSON.stringify(value, (_, item: unknown) => (item instanceof Int32Array ? [...item] : item))}\n`);
}

/** Bytes in the unit that suits them: 1.5 MiB. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let size = bytes;
  for (; size >= 1024 && unit < units.length - 1; unit++) size /= 1024;
  return `${unit === 0 ? size : size.toFixed(1)} ${units[unit] ?? ''}`;
}

/** A count with thousands apart: 131,072. */
export function formatCount(count: number): string {
  return count.toLocaleString('en');
}

/** The least and the most of counts: 4 to 1,024. */
export function formatRange(counts: readonly number[]): string {
  const [least, most] = counts.length === 0 ? [0, 0] : [Math.min(...counts), Math.max(...counts)];
  return least === most ? formatCount(least) : `${formatCount(least)} to ${formatCount(most)}`;
}
