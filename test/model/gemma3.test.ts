import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { windowedTestModel } from '../../scripts/places.mjs';
import { loadModel, type Model } from '../../src/index.ts';
import { dist, threads } from './setup.ts';

// A model in which 15 of 18 layers have sliding windows: heads with gates are those of the other three.
if (!existsSync(windowedTestModel)) throw new Error(`${windowedTestModel} is missing. "npm run test:model" fetches it.`);

let model: Model;
beforeAll(async () => {
  model = await loadModel(windowedTestModel);
});
afterAll(() => model.dispose());

const isGlobal = (layer: number): boolean => layer % 6 === 5;
const layers = Array.from({ length: 18 }, (_, layer) => layer);

test('the model tells which layers have gates, and memory reports name the others apart', async () => {
  expect(model.info.kvHeads).toEqual(layers.map(() => 1));
  expect(model.info.gatedHeads).toEqual(layers.map((layer) => (isGlobal(layer) ? 1 : 0)));
  const { kv } = await model.planContext({ contextSize: 32768, duo: { sparsity: 1 } });
  const row = 2 * 2 * 256;
  expect(kv).toMatchObject({
    windowedHeads: 15,
    windowedCells: 1088, // 512, a batch of 512 and 64 that may be taken back
    windowedBytes: 15 * 1088 * row,
    retrievalBytes: 0,
    streamingHeads: 3,
    streamingBytes: 3 * 960 * row, // 64 + 256 + 1 + 512 + 64, padded
    recurrentBytes: 0,
    fullBytes: (15 * 1088 + 3 * 32768) * row,
  });
});

test('calibration finds gates of the global layers alone, which work as they are', { timeout: 60_000 }, async () => {
  const { pattern, scores } = await model.calibrate({ samples: 2, contextSize: 512, questions: 3, sink: 16, recent: 64, seed: 7, threads });
  expect(pattern.gates.map((row) => row.length)).toEqual(model.info.gatedHeads);
  expect(new Set(pattern.gates.flat()).size).toBe(3);
  expect(scores.map((row) => row.length)).toEqual(model.info.gatedHeads);
  await using context = await model.createContext({ contextSize: 2048, threads, duo: { gates: pattern, sparsity: 0.4 } });
  expect(context.memory()).toMatchObject({ retrievalHeads: 2, streamingHeads: 1, windowedHeads: 15 });
});

test('inspect says so', () => {
  const args = [join(dist, 'cli/main.js'), 'inspect', '-m', windowedTestModel];
  const { stdout, status } = spawnSync(process.execPath, args, { encoding: 'utf8', env: { ...process.env, NO_COLOR: '1' } });
  expect(status).toBe(0);
  expect(stdout).toMatch(/heads with gates +3, in 3 layers that see the whole context\n/);
  expect(stdout).toMatch(/sliding windows +15 heads have the model's own, 1,088 cells each: 15\.9 MiB\n/);
  expect(stdout).not.toMatch(/recurrent/);
});
