import { afterAll, beforeAll, expect, test } from 'vitest';

import { loadModel, type Model } from '../../src/index.ts';
import { checkInterleavings } from '../interleavings.ts';
import { needlePath } from './needle.ts';

let model: Model;
beforeAll(async () => {
  model = await loadModel(needlePath);
});
afterAll(() => model.dispose());

test('contexts and generations come and go in any order', { timeout: 600_000 }, async () => {
  const greedy = { temperature: 0, maxTokens: 24, ignoreEos: true };
  const runs = Number(process.env['LLAMA_DUO_TEST_ROUNDS'] ?? 25);
  await checkInterleavings({ model: () => Promise.resolve(model), generate: greedy, runs, maxCommands: 30 });
  // and the library works as before
  await using context = await model.createContext({ contextSize: 512, threads: 2 });
  expect((await context.generate('Once', greedy).result()).generatedTokens).toBe(24);
});
