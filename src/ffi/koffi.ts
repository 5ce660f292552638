// koffi: the FFI package with ready-made binaries for every Node that we support; it reads C types as they stand in the table.
import koffi from 'koffi';

import { mapSymbols, type BoundSymbols } from './symbols.ts';

/** Binds the library in Node. */
export function bind(path: string): BoundSymbols {
  const library = koffi.load(path);
  return mapSymbols((parameters, name) => library.func(name, 'int32_t', [...parameters])) as BoundSymbols;
}
