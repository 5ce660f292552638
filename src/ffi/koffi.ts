import { cannotBind } from './library-errors.ts';
import { mapSymbols, type BoundSymbols } from './symbols.ts';

/** Binds the library in Node. */
export async function bind(path: string): Promise<BoundSymbols> {
  const koffi = await loadKoffi();
  const library = koffi.load(path);
  return mapSymbols((parameters, name) => library.func(name, 'int32_t', [...parameters])) as BoundSymbols;
}

/**
 * koffi: the FFI package with ready-made binaries for every Node that we support; it reads C types as they stand in the table. It is imported where it is used,
 * within a try, so that bundlers for Bun and Deno, which need no koffi, do without it where it is not installed.
 */
async function loadKoffi() {
  try {
    return (await import('koffi')).default;
  } catch (cause) {
    throw cannotBind('koffi, which calls the llama-duo library on Node,', cause, [
      '- Install it: "npm install koffi". "npm install --omit=optional" leaves it out.',
      '- Use Bun or Deno, which need no such package.',
    ]);
  }
}
