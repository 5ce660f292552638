import { stripVTControlCharacters } from 'node:util';

import { expect, test } from 'vitest';

import { rowTypes } from '../../../src/core/cache-types.ts';
import { rate, rowsOf } from '../../../src/eval/rows.ts';
import { evalTables } from '../../../src/cli/eval-table.ts';
import { batch, duo, full, kv, outcome, result } from './results.ts';

test('a row is the mean of a cell’s prompts, with the bytes and the speed of its cache', () => {
  const results = [
    result({ outcome: outcome(1, 0.5) }),
    result({ index: 1, outcome: { ...outcome(0, 0.5), decode: { tokens: 2, seconds: 4 } } }),
    result({ depth: 1, outcome: outcome(0.25, 1) }),
    result({ variant: 'full', kv: { ...kv, totalBytes: 1200 } }),
    result({ length: 2048 }),
  ];
  const rows = rowsOf(results, [batch()], [full, duo], 7);
  expect(rows.map(({ mode, depth, n, accuracy, kvBytes }) => ({ mode, depth, n, accuracy, kvBytes }))).toEqual([
    { mode: 'full', depth: 0.5, n: 1, accuracy: 1, kvBytes: 1200 },
    { mode: 'duo', depth: 0.5, n: 2, accuracy: 0.5, kvBytes: 700 },
    { mode: 'duo', depth: 1, n: 1, accuracy: 0.25, kvBytes: 700 },
  ]);
  expect(rows[1]).toEqual({
    mode: 'duo',
    task: 'needle',
    length: 1024,
    depth: 0.5,
    n: 2,
    accuracy: 0.5,
    perplexity: null,
    kvBytes: 700,
    kvFullBytes: 1200,
    // 8 and 2 tokens in 1 and 4 seconds
    decodeTokensPerSecond: 2,
    prefillTokensPerSecond: 500,
    sparsity: 0.5,
    budget: null,
    retrievalHeads: 12,
    streamingHeads: 12,
    sink: 64,
    recent: 256,
    chunk: 1,
    typeK: 'f16',
    typeV: 'f16',
    finerK: null,
    seed: 7,
    variant: 'duo 50%',
  });
  expect(rows[0]).toMatchObject({ sink: null, recent: null, chunk: null, sparsity: null });
});

test('a row names the finer type of some layers', () => {
  const finerK = { type: 'q8_0' as const, layers: [0, 3] };
  const [row] = rowsOf([result({ kv: { ...kv, typeK: 'q4_0', finerK } })], [batch()], [duo], 7);
  expect(row).toMatchObject({ typeK: 'q4_0', finerK: 'q8_0' });
  expect(rowTypes('q4_0', 'q4_0', 'q8_0')).toBe('q4_0+q8_0/q4_0');
  expect(rowTypes('q8_0', 'q8_0', null)).toBe('q8_0');
  expect(rowTypes('q8_0', 'q4_0', null)).toBe('q8_0/q4_0');
});

test('perplexity is the exponential of the mean over tokens, part by part', () => {
  const scores = (value: number, weight: number) => [
    { depth: 0, value, weight },
    { depth: 0.5, value: 0, weight },
  ];
  const results = [
    result({ task: 'ppl', depth: null, outcome: { ...outcome(0), scores: scores(-1, 10) } }),
    result({ task: 'ppl', depth: null, index: 1, outcome: { ...outcome(0), scores: scores(-4, 20) } }),
  ];
  const rows = rowsOf(results, [batch({ task: 'ppl', measure: 'perplexity' })], [duo], 1);
  expect(rows.map(({ depth, n, accuracy }) => ({ depth, n, accuracy }))).toEqual([
    { depth: 0, n: 2, accuracy: null },
    { depth: 0.5, n: 2, accuracy: null },
  ]);
  expect(rows[0]?.perplexity).toBeCloseTo(Math.exp(3), 12);
  expect(rows[1]?.perplexity).toBe(1);
});

test('a rate without work is 0', () => {
  expect(rate([])).toBe(0);
  expect(rate([{ tokens: 0, seconds: 0 }])).toBe(0);
});

test('tables: one a task, strict windows and steps apart', () => {
  const steps = { ...duo, chunk: 512, label: 'duo 50% chunk 512' };
  const results = [
    result({ variant: 'full', kv: { ...kv, totalBytes: 1200, streamingHeads: 0, retrievalHeads: 24 } }),
    result(),
    result({ index: 1, outcome: outcome(0, 0.5) }),
    result({ variant: steps.label }),
    result({ variant: 'full', task: 'passkey' }),
  ];
  // Colours or not: picocolors goes by the environment (CI, FORCE_COLOR) as well as by the terminal.
  const text = stripVTControlCharacters(evalTables(rowsOf(results, [batch(), batch({ task: 'passkey' })], [full, duo, steps], 1)));
  expect(text).toMatch(
    /needle, strict windows\n.*1,024.*\n.*full +100\.0% +0 of 24 +1\.2 KiB +100%.*\n.*duo 50% +50\.0% +12 of 24 +700 B +58% +500\.0 +8\.0\n/,
  );
  expect(text).toMatch(/needle, windows in steps of 512 tokens\n.*\n.*full.*\n.*duo 50% chunk 512 +100\.0%/);
  expect(text).toMatch(/\n\npasskey\n.*\n.*full/);
});

test.each([
  // 1 of 1 and 0 of 3: MMLU's mean is of questions, LongBench's of files
  ['mmlu', '25.0%'],
  ['longbench', '50.0%'],
])('the mean of %s is the one that is published', (task, mean) => {
  const [small, large] = [`${task}/hotpotqa`, `${task}/law`];
  const results = [
    result({ task: small, depth: null, outcome: outcome(1) }),
    ...[0, 1, 2].map((index) => result({ task: large, depth: null, index, outcome: outcome(0) })),
  ];
  const rows = rowsOf(results, [batch({ task: small }), batch({ task: large })], [duo], 1);
  const text = stripVTControlCharacters(evalTables(rows));
  expect(/mean +(\S+)/.exec(text)?.[1]).toBe(mean);
});
