import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { tradeOffPicture } from '../../../src/cli/trade-off-picture.ts';
import type { MeasuredTradeOff } from '../../../src/cli/trade-off.ts';
import { writePictures } from '../../../src/eval/pictures.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-trade-off-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

function choice(
  name: string,
  kind: MeasuredTradeOff['kind'],
  mebibytes: number,
  expectedLoss: number,
  breaks: number | null = null,
): MeasuredTradeOff {
  const bytes = mebibytes * 2 ** 20;
  return {
    choice: name,
    kind,
    bytes,
    share: bytes / 2 ** 28,
    typeK: 'f16',
    typeV: 'f16',
    finerK: null,
    retrievalHeads: 2,
    streamingHeads: 2,
    expectedLoss,
    breaks,
  };
}

test('choices have their names, budgets are a curve, and what breaks a model says so', async () => {
  const choices = [
    choice('full f16', 'full', 256, 0),
    choice('--duo-budget 0.5', 'budget', 128, 0.02),
    choice('50% stream', 'stream', 130, 0.05),
    choice('--duo-budget 0.25', 'budget', 64, 0.2),
    choice('full q4_0', 'full', 72, 4, 0.01),
  ];
  const [file = ''] = await writePictures(folder, { 'trade-off': tradeOffPicture(16384, choices) }, { png: false });
  expect(file).toBe(join(folder, 'trade-off.svg'));
  const svg = readFileSync(file, 'utf8');
  for (const text of ['What 16,384 tokens can be had for', 'full f16', '50% stream', 'full q4_0 (breaks the model)', 'budgets'])
    expect(svg).toContain(`>${text}</text>`);
  expect(svg).not.toContain('--duo-budget');
  // One line, of the two budgets: of the marks that are lines, only it has a path from place to place.
  const [line = ''] = /<g class="mark-line role-mark[^]*?<\/g>/.exec(svg) ?? [];
  expect(line.match(/[ML][\d.,-]+/g)).toHaveLength(2);
});
