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

const { platform, arch } = process;

/** Their programs, each inside its platform package: the launchers of bun and deno need install scripts, which may be off. */
export const runtimePrograms = {
  node24: join(runtimes, 'node_modules', `node-${platform}-${arch}/bin/node`),
  bun: join(runtimes, 'node_modules', `@oven/bun-${platform}-${arch === 'arm64' ? 'aarch64' : arch}/bin/bun`),
  deno: join(runtimes, 'node_modules', `@deno/${platform}-${arch}${platform === 'linux' ? '-glibc' : ''}/deno`),
};

/** The model that test/model runs on, in which every layer sees the whole context. */
export const testModel = join(cache, 'models/SmolLM2-135M-Instruct.Q4_1.gguf');

/** A model with sliding windows in most of its layers. */
export const windowedTestModel = join(cache, 'models/gemma-3-270m.Q4_K_M.gguf');

/** Qwen2.5-Coder-1.5B-Instruct, which calls tools. Tests that want it run where it is there: `node scripts/model.mjs --large`. */
export const largeTestModel = join(cache, 'models/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf');
