import { expect, test } from 'vitest';

import { loadModel } from '../../src/index.ts';
import { growth } from '../growth.ts';
import { modelPath, threads } from './setup.ts';

const kibibyte = 1024;

// What a leak would be at least: a Job or Generation object takes some hundred bytes, a sampler of this vocabulary 600 KiB.
test('1,000 rounds of generating and leaving keep memory flat', { timeout: 240_000 }, async () => {
  await using model = await loadModel(modelPath);
  await using context = await model.createContext({ contextSize: 256, threads, duo: { sparsity: 1, sink: 4, recent: 32 } });
  const prompt = model.tokenize('Tell me');
  const { signal } = new AbortController();
  const round = async (): Promise<void> => {
    for await (const { tokens } of context.generate(prompt, { maxTokens: 2, ignoreEos: true, signal })) {
      expect(tokens.length).toBeLessThanOrEqual(2);
      break;
    }
  };
  const { heap, resident } = await growth(round, 1000);
  console.log(`a round leaves ${heap.toFixed(0)} bytes of heap, ${resident.toFixed(0)} of memory`);
  expect(heap).toBeLessThan(200);
  expect(resident).toBeLessThan(2 * kibibyte);
});

test('contexts that come and go keep memory flat', { timeout: 120_000 }, async () => {
  await using model = await loadModel(modelPath);
  const round = async (): Promise<void> => {
    await using context = await model.createContext({ contextSize: 1024, threads, duo: { sparsity: 0 } });
    await context.generate([1, 2, 3], { maxTokens: 1 }).result();
  };
  const { heap, resident } = await growth(round, 120);
  console.log(`a context leaves ${heap.toFixed(0)} bytes of heap, ${resident.toFixed(0)} of memory`);
  // A context takes 24 MiB. What allocators keep of that differs from system to system; a hundredth of it would be a leak.
  expect(heap).toBeLessThan(2 * kibibyte);
  expect(resident).toBeLessThan(240 * kibibyte);
});
