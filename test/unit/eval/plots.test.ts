import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

import { afterAll, expect, test } from 'vitest';

import { plots, writePlots } from '../../../src/eval/plots.ts';
import { rowsOf } from '../../../src/eval/rows.ts';
import { batch, duo, full, outcome, result } from './results.ts';

const folder = mkdtempSync(join(tmpdir(), 'llama-duo-plots-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const results = [full, duo].flatMap(({ label }) =>
  [0, 0.5, 1].map((depth) => result({ variant: label, depth, outcome: outcome(label === 'full' ? 1 : depth, depth) })),
);
const rows = rowsOf(results, [batch()], [full, duo], 1);
const gates = {
  llamaDuoPattern: 1 as const,
  layers: 2,
  kvHeads: 2,
  gates: [
    [0, 1],
    [1, 0],
  ],
};

test('what there is to draw is drawn', () => {
  expect(Object.keys(plots({ rows, gates }))).toEqual(['heat-map-needle', 'accuracy-by-bytes', 'gates']);
  expect(Object.keys(plots({ rows: rows.map((row) => ({ ...row, depth: null })), gates: undefined }))).toEqual(['accuracy-by-bytes']);
  expect(Object.keys(plots({ rows: rows.map((row) => ({ ...row, accuracy: null, perplexity: 3 })), gates: undefined }))).toEqual([
    'perplexity',
  ]);
});

test('pictures are SVG, and PNG where asked', async () => {
  const files = await writePlots(join(folder, 'new'), { rows, gates, png: true });
  expect(files.map((file) => basename(file))).toEqual([
    'heat-map-needle.svg',
    'heat-map-needle.png',
    'accuracy-by-bytes.svg',
    'accuracy-by-bytes.png',
    'gates.svg',
    'gates.png',
  ]);
  for (const file of files) {
    const bytes = readFileSync(file);
    if (file.endsWith('.png')) expect([...bytes.subarray(0, 4)]).toEqual([0x89, 0x50, 0x4e, 0x47]);
    else expect(bytes.toString()).toMatch(/^<svg [^]*<\/svg>\s*$/);
  }
  const heatMap = readFileSync(join(folder, 'new/heat-map-needle.svg'), 'utf8');
  // A panel a variant, with the accuracy of each cell in words.
  for (const label of ['full', 'duo 50%', '1,024', '100%', '0%']) expect(heatMap).toContain(`>${label}</text>`);
  expect(heatMap.match(/>100%<\/text>/g)?.length).toBeGreaterThanOrEqual(4);
});
