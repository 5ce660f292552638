import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { sidecarPath } from '../../src/gates/own.ts';
import { loadModel, type Model } from '../../src/index.ts';
import { accuracy, measure } from './needle-accuracy.ts';

// The claim on real weights of a hybrid: of 16 KV heads in 4 layers that attend, beside 4 layers of short convolutions, half can stream; which half, calibration found.
const path = fileURLToPath(new URL('../../models/needle-hybrid.gguf', import.meta.url));
let model: Model;
beforeAll(async () => {
  model = await loadModel(path);
});
afterAll(() => model.dispose());

test('auto is the pattern beside the model, with no gates where a layer does not attend', async () => {
  expect(model.info.kvHeads).toEqual([0, 4, 0, 4, 0, 4, 0, 4]);
  const { kv } = await model.planContext({ contextSize: 1024, duo: { gates: 'auto', sparsity: 0.5 } });
  expect(kv).toMatchObject({ retrievalHeads: 8, streamingHeads: 8, sink: 64, recent: 256 });
  const own = model.gates;
  expect(own?.toJSON()).toEqual(JSON.parse(readFileSync(sidecarPath(path), 'utf8')));
  expect(own?.gates.map((layer) => layer.length)).toEqual(model.info.kvHeads);
});

test('full heads find the needle, calibrated ones too; streaming and inverted ones lose it', { timeout: 600_000 }, async () => {
  const rows = await measure(model, {
    tasks: ['needle'],
    modes: ['full', 'duo', 'streaming', 'inverted'],
    lengths: [1024, 2048],
    samples: 1,
  });
  expect(rows).toHaveLength(4 * 2 * 5);
  expect(accuracy(rows, 'full', 'needle')).toBeGreaterThanOrEqual(0.95);
  expect(accuracy(rows, 'duo 50%', 'needle')).toBeGreaterThanOrEqual(0.9);
  expect(accuracy(rows, 'streaming', 'needle')).toBeLessThanOrEqual(0.05);
  expect(accuracy(rows, 'inverted 50%', 'needle')).toBeLessThanOrEqual(0.1);
});

test('a quarter of the heads is enough where calibration chose them, not where chance did', { timeout: 600_000 }, async () => {
  // each of the eight prompts has random heads of its own
  const rows = await measure(model, {
    tasks: ['needle'],
    modes: ['duo', 'random'],
    lengths: [2048],
    depths: [0.5],
    samples: 8,
    sparsity: 0.75,
  });
  expect(accuracy(rows, 'duo 75%', 'needle')).toBeGreaterThanOrEqual(0.9);
  expect(accuracy(rows, 'random 75%', 'needle')).toBeLessThanOrEqual(0.6);
});

test.each(['multi-key', 'variable-tracking'])('%s: mixed heads answer what streaming heads cannot', { timeout: 600_000 }, async (task) => {
  const rows = await measure(model, { tasks: [task], modes: ['full', 'duo', 'streaming'], lengths: [1024], samples: 4 });
  expect(accuracy(rows, 'full', task)).toBeGreaterThanOrEqual(0.75);
  expect(accuracy(rows, 'duo 50%', task)).toBeGreaterThanOrEqual(0.75);
  expect(accuracy(rows, 'streaming', task)).toBeLessThanOrEqual(0.25);
});
