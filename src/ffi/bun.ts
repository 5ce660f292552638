import { cannotBind } from './library-errors.ts';
import { isPointer, mapSymbols, type BoundSymbols, type ParameterType } from './symbols.ts';

/** Binds the library in Bun. */
export async function bind(path: string): Promise<BoundSymbols> {
  const { dlopen } = await loadFfi();
  const definitions = mapSymbols((parameters) => ({ args: parameters.map(bunType), returns: 'i32' }));
  return dlopen(path, definitions).symbols as BoundSymbols;
}

/** Bun's own module. It is imported where it is used, within a try, so that bundlers for other runtimes do without it. */
async function loadFfi() {
  try {
    return await import('bun:ffi');
  } catch (cause) {
    throw cannotBind('bun:ffi, which calls the llama-duo library on Bun,', cause, ['- Install Bun again: it is a part of it.']);
  }
}

function bunType(type: ParameterType): string {
  if (isPointer(type)) return 'ptr';
  return type === 'int32_t' ? 'i32' : 'u32';
}
