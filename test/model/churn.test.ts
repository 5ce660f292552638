import { expect, test } from 'vitest';

import { loadModel } from '../../src/index.ts';
import { modelPath, threads } from './setup.ts';

const megabyte = 1024 * 1024;

test('2,000 rounds of generating and leaving keep memory flat', { timeout: 240_000 }, async () => {
  await using model = await loadModel(modelPath);
  await using context = await model.createContext({ contextSize: 256, threads, duo: { sparsity: 1, sink: 4, recent: 32 } });
  const prompt = model.tokenize('Tell me');
  const round = async (): Promise<void> => {
    for await (const { tokens } of context.generate(prompt, { maxTokens: 2, ignoreEos: true })) {
      expect(tokens.length).toBeLessThanOrEqual(2);
      break;
    }
  };
  for (let warmUp = 0; warmUp < 200; warmUp++) await round();
  const before = process.memoryUsage.rss();
  for (let rounds = 0; rounds < 2000; rounds++) await round();
  expect(process.memoryUsage.rss() - before).toBeLessThan(32 * megabyte);
});

test('contexts that come and go keep memory flat', { timeout: 120_000 }, async () => {
  await using model = await loadModel(modelPath);
  const round = async (): Promise<void> => {
    await using context = await model.createContext({ contextSize: 1024, threads, duo: { sparsity: 0 } });
    await context.generate([1, 2, 3], { maxTokens: 1 }).collect();
  };
  for (let warmUp = 0; warmUp < 20; warmUp++) await round();
  const before = process.memoryUsage.rss();
  for (let rounds = 0; rounds < 60; rounds++) await round();
  // A context is freed on its own thread, so one or two may still be there; one takes 24 MiB, and 60 have come and gone.
  expect(process.memoryUsage.rss() - before).toBeLessThan(64 * megabyte);
});
