import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The small model that comes with the repository, its gates beside it. */
export const needlePath = fileURLToPath(new URL('../../models/needle.gguf', import.meta.url));
export const needleGates = needlePath.replace(/\.gguf$/, '.duo.json');
export const needleBytes = (): Buffer => readFileSync(needlePath);
