import { isPointer, mapSymbols, type BoundSymbols, type ParameterType } from './symbols.ts';

/** Binds the library in Deno. */
export function bind(path: string): BoundSymbols {
  const definitions = mapSymbols((parameters) => ({ parameters: parameters.map(denoType), result: 'i32' }));
  return Deno.dlopen(path, definitions).symbols as BoundSymbols;
}

function denoType(type: ParameterType): string {
  if (isPointer(type)) return 'buffer';
  return type === 'int32_t' ? 'i32' : 'u32';
}
