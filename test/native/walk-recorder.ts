import { appendFileSync, writeFileSync } from 'node:fs';

import { isPointer, symbols, type BoundSymbols, type ParameterType } from '../../src/ffi/symbols.ts';

type Argument = number | Uint8Array | Int32Array | Uint32Array | Float64Array | null;

/**
 * The library's functions, each call of which becomes a line of a file, as they return: `[name, status, [argument, ...]]`. What goes in is written as it is,
 * bytes as base64; of a buffer for what comes out its size and its first numbers, and for a job's result the text. cpp/test/play-walk.cpp makes the same calls.
 */
export function recorded(bound: BoundSymbols, file: string): BoundSymbols {
  writeFileSync(file, '');
  const entries = Object.entries<readonly ParameterType[]>(symbols).map(([name, types]) => {
    const call = bound[name as keyof BoundSymbols] as (...args: Argument[]) => number;
    const record = (...args: Argument[]): number => {
      const status = call(...args);
      const written = types.map((type, index) => writtenAs(type, args[index] ?? null));
      if (name === 'llama_duo_job_result' && status === 0) written[1] = resultText(args);
      appendFileSync(file, `${JSON.stringify([name, status, written])}\n`);
      return status;
    };
    return [name, record] as const;
  });
  return Object.fromEntries(entries) as unknown as BoundSymbols;
}

function writtenAs(type: ParameterType, value: Argument): unknown {
  if (!isPointer(type) || value === null || typeof value === 'number') return value;
  if (type === 'const void *') return Buffer.from(value as Uint8Array).toString('base64');
  if (type === 'const int32_t *') return [...value];
  return { size: value.length, begin: type === 'void *' ? [] : [...value.subarray(0, 4)] };
}

function resultText([, buffer, , needed]: Argument[]): string {
  return Buffer.from(buffer as Uint8Array).toString('utf8', 0, (needed as Int32Array)[0]);
}
