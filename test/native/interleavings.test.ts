import { afterAll, beforeAll, expect, test } from 'vitest';

import { loadModel, type Model } from '../../src/index.ts';
import { growth } from '../growth.ts';
import { checkInterleavings } from '../interleavings.ts';
import { needlePath } from './needle.ts';

const kibibyte = 1024;
/** `npm run test:soak` has 10,000. */
const rounds = Number(process.env['LLAMA_DUO_TEST_ROUNDS'] ?? 200);

let model: Model;
beforeAll(async () => {
  model = await loadModel(needlePath);
});
afterAll(() => model.dispose());

test('contexts, generations and sequences come and go in any order', { timeout: 120_000 + rounds * 1000 }, async () => {
  const greedy = { temperature: 0, maxTokens: 24, ignoreEos: true };
  const runs = 5;
  const round = (): Promise<void> =>
    checkInterleavings({ model: () => Promise.resolve(model), generate: greedy, sequences: 3, runs, maxCommands: 40 });
  const { heap, resident } = await growth(round, rounds / runs / 1.5);
  console.log(`an interleaving leaves ${(heap / runs).toFixed(0)} bytes of heap, ${(resident / runs).toFixed(0)} of memory`);
  if (rounds >= 1000) {
    expect(heap / runs).toBeLessThan(kibibyte);
    expect(resident / runs).toBeLessThan(8 * kibibyte);
  }
  // and the library works as before
  await using context = await model.createContext({ contextSize: 512, threads: 2 });
  expect((await context.generate('Once', greedy).result()).generatedTokens).toBe(24);
});
