import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { openNative } from '../../src/ffi/native.ts';
import { runJob } from '../../src/ffi/job.ts';
import { loadModel, ModelError, OptionError } from '../../src/index.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'llama-duo-model-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

test('a model that is not there is named', async () => {
  await expect(loadModel('/nowhere/model.gguf')).rejects.toThrow(ModelError);
  await expect(loadModel('/nowhere/model.gguf')).rejects.toThrow('/nowhere/model.gguf');
});

test('a folder is no model', async () => {
  await expect(loadModel(folder)).rejects.toThrow(ModelError);
});

const magic = [0x47, 0x47, 0x55, 0x46];
test.each([
  ['an empty file', []],
  ['text', [...new TextEncoder().encode('not a model')]],
  ['a magic and nothing else', magic],
  ['a version that never was', [...magic, 0xff, 0xff, 0xff, 0x7f]],
  ['no tensors', [...magic, 3, 0, 0, 0, ...new Array<number>(16).fill(0)]],
  ['more tensors than there are bytes', [...magic, 3, 0, 0, 0, ...new Array<number>(16).fill(0xff)]],
  ['a key that ends early', [...magic, 3, 0, 0, 0, ...new Array<number>(8).fill(0), 1, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0]],
])('%s is no model', async (name, bytes) => {
  const path = join(folder, `${name.replaceAll(' ', '-')}.gguf`);
  await writeFile(path, Uint8Array.from(bytes));
  await expect(loadModel(path)).rejects.toMatchObject({ code: 'model', message: expect.stringContaining(path) as string });
});

test('aborted before it starts', async () => {
  await expect(loadModel('/nowhere/model.gguf', { signal: AbortSignal.abort('no') })).rejects.toBe('no');
});

test('a path with characters of all kinds arrives', async () => {
  await expect(loadModel('/nowhere/mödel 模型 🦙.gguf')).rejects.toThrow('/nowhere/mödel 模型 🦙.gguf');
});

// The library checks what it is told by itself: TypeScript is not its only caller.
test.each([
  [' ', /JSON/],
  ['[]', /object/],
  ['{"path": 5}', /path/],
  ['{}', /path/],
  ['{"path": "x", "pth": 1}', /pth/],
  ['{"path": "x", "gpuLayers": -2}', /gpuLayers/],
  ['{"path": "x", "gpuLayers": 1.5}', /gpuLayers/],
  ['{"path": "x", "useMmap": "yes"}', /useMmap/],
])('options %j fail by name', async (options, message) => {
  const native = await openNative();
  const loading = runJob(native, () => native.modelLoad(options));
  await expect(loading).rejects.toThrow(OptionError);
  await expect(runJob(native, () => native.modelLoad(options))).rejects.toThrow(message);
});
