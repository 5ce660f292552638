import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { sidecarPath } from '../../src/gates/own.ts';
import { loadModel, type Model } from '../../src/index.ts';
import { accuracy, measure } from './needle-accuracy.ts';

// The model that comes with the repository, with its gates beside it: the claim itself, on real weights.
const path = fileURLToPath(new URL('../../models/needle.gguf', import.meta.url));
let model: Model;
beforeAll(async () => {
  model = await loadModel(path);
});
afterAll(() => model.dispose());

test('auto is the pattern beside the model', async () => {
  const { kv } = await model.planContext({ contextSize: 1024, duo: { gates: 'auto', sparsity: 0.75 } });
  expect(kv).toMatchObject({ retrievalHeads: 6, streamingHeads: 18, sink: 64, recent: 256 });
  expect(model.gates?.toJSON()).toEqual(JSON.parse(readFileSync(sidecarPath(path), 'utf8')));
});

test('full heads find the needle, streaming heads lose it, mixed heads find it, inverted ones lose it', { timeout: 600_000 }, async () => {
  const rows = await measure(model, {
    tasks: ['needle'],
    modes: ['full', 'duo', 'streaming', 'inverted'],
    lengths: [1024, 2048],
    samples: 1,
  });
  expect(rows).toHaveLength(4 * 2 * 5);
  const full = accuracy(rows, 'full', 'needle');
  expect(full).toBeGreaterThanOrEqual(0.95);
  expect(accuracy(rows, 'streaming', 'needle')).toBeLessThanOrEqual(0.05);
  expect(accuracy(rows, 'duo 50%', 'needle')).toBeGreaterThanOrEqual(full - 0.05);
  expect(accuracy(rows, 'inverted 50%', 'needle')).toBeLessThanOrEqual(0.1);
});

test.each(['multi-key', 'variable-tracking'])('%s: mixed heads answer what streaming heads cannot', { timeout: 600_000 }, async (task) => {
  const rows = await measure(model, { tasks: [task], modes: ['full', 'duo', 'streaming'], lengths: [1024], samples: 4 });
  expect(accuracy(rows, 'full', task)).toBeGreaterThanOrEqual(0.75);
  expect(accuracy(rows, 'duo 50%', task)).toBeGreaterThanOrEqual(0.75);
  expect(accuracy(rows, 'streaming', task)).toBeLessThanOrEqual(0.25);
});
