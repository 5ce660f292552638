import { dlopen } from 'bun:ffi';

import { isPointer, mapSymbols, type BoundSymbols, type ParameterType } from './symbols.ts';

/** Binds the library in Bun. */
export function bind(path: string): BoundSymbols {
  const definitions = mapSymbols((parameters) => ({ args: parameters.map(bunType), returns: 'i32' }));
  return dlopen(path, definitions).symbols as BoundSymbols;
}

function bunType(type: ParameterType): string {
  if (isPointer(type)) return 'ptr';
  return type === 'int32_t' ? 'i32' : 'u32';
}
