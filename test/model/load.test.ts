import { join } from 'node:path';

import { expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { ContextFullError, DisposedError, loadModel } from '../../src/index.ts';
import { Lateness } from '../lateness.ts';
import { longText, modelPath, threads } from './setup.ts';

test('a model loads, telling its progress', async () => {
  const progress: number[] = [];
  await using model = await loadModel(modelPath, { onProgress: (value) => progress.push(value) });
  expect(progress).toEqual([...progress].sort((a, b) => a - b));
  expect(progress.at(-1)).toBe(1);
  expect(model.info).toMatchObject({
    architecture: 'llama',
    layers: 30,
    embeddingSize: 576,
    trainedContextSize: 8192,
    vocabularySize: 49152,
    headSizeK: 64,
    headSizeV: 64,
  });
  expect(model.info.heads).toEqual(Array<number>(30).fill(9));
  expect(model.info.kvHeads).toEqual(Array<number>(30).fill(3));
  expect(model.info.chatTemplate).toContain('<|im_start|>');
  expect(model.info.metadata['general.architecture']).toBe('llama');
});

test('aborting rejects with the reason', async () => {
  const reason = new Error('enough');
  const abort = new AbortController();
  const loading = loadModel(modelPath, {
    signal: abort.signal,
    onProgress: () => {
      abort.abort(reason);
    },
  });
  await expect(loading).rejects.toBe(reason);
});

test('the event loop goes on while a model loads and a long text is read', async () => {
  const lateness = new Lateness();
  await lateness.expectPrompt(async () => {
    await using model = await loadModel(modelPath, { useMmap: false });
    expect(model.info.layers).toBe(30);
    await using context = await model.createContext({ contextSize: 8192, threads, duo: { sparsity: 1, sink: 4, recent: 32 } });
    for (const text of ['<|im_start|>'.repeat(80_000), longText(20_000)]) {
      await expect(context.generate(text).text()).rejects.toThrow(ContextFullError);
    }
  });
  await lateness.close();
});

test.each([
  'Hello, world!',
  '',
  ' leading and trailing ',
  'Ünïcödé — 模型 🦙🦙 \u{1f468}\u200d\u{1f469}\u200d\u{1f467}',
  'line\nbreaks\r\n\ttabs',
  '\ufeffbyte order mark',
  'x'.repeat(20000),
])('%j survives tokenizing', async (text) => {
  await using model = await loadModel(modelPath, { vocabOnly: true });
  expect(model.detokenize(model.tokenize(text, { addSpecial: false }))).toBe(text);
});

test('special tokens are read and written where that is asked for', async () => {
  await using model = await loadModel(modelPath, { vocabOnly: true });
  const parsed = model.tokenize('<|im_start|>user', { parseSpecial: true });
  const plain = model.tokenize('<|im_start|>user');
  expect(parsed.length).toBeLessThan(plain.length);
  expect(model.detokenize(parsed, { renderSpecial: true })).toBe('<|im_start|>user');
  expect(model.detokenize(plain)).toBe('<|im_start|>user');
});

test('a token that never was is refused', async () => {
  await using model = await loadModel(modelPath, { vocabOnly: true });
  expect(() => model.detokenize([49152])).toThrow('Bad value for tokens[0]: expected a token id, from 0 to 49151, got 49152');
  expect(() => model.detokenize([-1])).toThrow(/a token id/);
  expect(() => model.detokenize([1.5])).toThrow(/a token id/);
});

test('two models side by side, given back in any order', async () => {
  const [first, second] = await Promise.all([loadModel(modelPath), loadModel(modelPath)]);
  const context = await first.createContext({ contextSize: 256 });
  await first.dispose();
  expect(() => first.tokenize('x')).toThrow(DisposedError);
  const answer = await context.generate(second.tokenize('Once upon a time'), { maxTokens: 4, temperature: 0 }).result();
  expect(answer.generatedTokens).toBe(4);
  await second.dispose();
  await context.dispose();
});

test('a model of another vocabulary cannot draft, and the error says in what it differs', async () => {
  await using model = await loadModel(modelPath, { weights: false });
  await using draft = await loadModel(join(root, 'models/needle.gguf'), { weights: false });
  const plan = await model.planContext({ contextSize: 256, speculative: { draft } });
  expect(plan).toMatchObject({ supported: false, reason: expect.stringMatching(/vocabular/) as string });
});
