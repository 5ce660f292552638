// Where things are in this repository.

import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Git-ignored: downloads and work in progress. */
export const cache = join(root, '.cache');

/** llama.cpp's source tree and what describes it. */
export const llamaCpp = {
  lockFile: join(root, 'vendor/llama.cpp.lock.json'),
  patches: join(root, 'patches'),
  target: join(root, 'vendor/llama.cpp'),
  cache,
};

/** The runtimes on which the native suite runs beside the current Node. */
export const runtimes = join(root, 'test/runtimes');

/** The model that test/model runs on. */
export const testModel = join(cache, 'models/SmolLM2-135M-Instruct.Q4_1.gguf');
