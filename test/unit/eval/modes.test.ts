import { describe, expect, test } from 'vitest';

import { OptionError } from '../../../src/errors.ts';
import { sidecarPath } from '../../../src/gates/own.ts';
import { evenGates, inverted, modes, randomGates, shuffled, variants, type VariantOptions } from '../../../src/eval/modes.ts';
import type { GatePatternJson } from '../../../src/core/duo.ts';
import { Random } from '../../../src/synthetic/random.ts';

const kvHeads = [4, 4, 2];
const gates = {
  llamaDuoPattern: 1 as const,
  layers: 2,
  kvHeads: 2,
  gates: [
    [0.25, 1],
    [0, 0.5],
  ],
};
const options: VariantOptions = {
  modes,
  budgets: [],
  sparsities: [0.5, 0.75],
  chunks: [1],
  types: [{ typeK: 'f16', typeV: 'f16' }],
  gates,
  kvHeads,
  seed: 1,
  sink: 64,
  recent: 256,
  asked: {},
};

describe('variants', () => {
  test('every mode has the sparsities that it can have', () => {
    expect(variants(options).map(({ label, mode, sparsity, chunk }) => [label, mode, sparsity, chunk])).toEqual([
      ['full', 'full', null, null],
      ['duo 50%', 'duo', 0.5, 1],
      ['duo 75%', 'duo', 0.75, 1],
      ['streaming', 'streaming', 1, 1],
      ['random 50%', 'random', 0.5, 1],
      ['random 75%', 'random', 0.75, 1],
      ['inverted 50%', 'inverted', 0.5, 1],
      ['inverted 75%', 'inverted', 0.75, 1],
    ]);
  });

  test('chunks and cache types multiply, and are named where there are several', () => {
    const types = [
      { typeK: 'f16', typeV: 'f16' },
      { typeK: 'q8_0', typeV: 'q4_0' },
    ] as const;
    const all = variants({ ...options, modes: ['full', 'streaming'], chunks: [1, 512], types });
    expect(all.map(({ label }) => label)).toEqual([
      'full f16',
      'full q8_0/q4_0',
      'streaming chunk 1 f16',
      'streaming chunk 1 q8_0/q4_0',
      'streaming chunk 512 f16',
      'streaming chunk 512 q8_0/q4_0',
    ]);
    expect(all.at(-1)).toMatchObject({ typeK: 'q8_0', typeV: 'q4_0' });
    expect(all.at(-1)?.duo?.(0)).toEqual({ sparsity: 1, sink: 64, recent: 256, windowStep: 512 });
    expect(new Set(all.map(({ label }) => label)).size).toBe(all.length);
  });

  test('labels tell any two sparsities apart, and have no digits that nobody gave', () => {
    const sparsities = [0.5, 0.5004, 0.5000001, 0.07, 0.57, 1 / 3];
    const labels = variants({ ...options, modes: ['duo'], sparsities }).map(({ label }) => label);
    expect(labels).toEqual(['duo 50%', 'duo 50.04%', 'duo 50.00001%', 'duo 7%', 'duo 57%', 'duo 33.3333333333333%']);
  });

  test('full is llama.cpp’s own cache, all others have the same window', () => {
    for (const { mode, duo } of variants(options)) {
      if (mode === 'full') expect(duo).toBeUndefined();
      else expect(duo?.(0)).toMatchObject({ sink: 64, recent: 256, windowStep: 1 });
    }
  });

  test('heads with gates keep windows and sinks of their own; the others have one window for all', () => {
    const windows = [
      [64, 128],
      [256, 32],
    ];
    const own: GatePatternJson = { ...gates, llamaDuoPattern: 2, windows, sinks: [4, 0] };
    for (const { mode, duo } of variants({ ...options, gates: own })) {
      if (mode === 'full') continue;
      const asked = duo?.(0);
      const isOwn = mode === 'duo' || mode === 'inverted';
      expect(asked).toMatchObject(isOwn ? { gates: { windows, sinks: [4, 0] } } : { sink: 64, recent: 256 });
      expect([asked?.sink, asked?.recent]).toEqual(isOwn ? [undefined, undefined] : [64, 256]);
    }
  });

  test.each(['duo', 'inverted'] as const)('%s needs gates', (mode) => {
    expect(() => variants({ ...options, modes: [mode], gates: undefined })).toThrow(OptionError);
  });
});

test('random heads differ from draw to draw, and are the same for the same seed; all others are one set', () => {
  for (const { mode, draws, duo } of variants(options)) {
    if (mode !== 'random') expect(draws).toBe(1);
    else {
      const sets = Array.from({ length: draws }, (_, draw) => JSON.stringify(duo?.(draw)));
      expect(new Set(sets).size).toBe(8);
      const again = variants(options).find((variant) => variant.mode === 'random');
      expect(again?.duo?.(3)).toEqual({ ...duo?.(3), sparsity: 0.5 });
    }
  }
});

test('inverted gates have the opposite order', () => {
  expect(inverted(gates).gates).toEqual([
    [0.75, 0],
    [1, 0.5],
  ]);
});

test('random gates are those of the seed, one for each head of each layer; a layer without heads has none', () => {
  const draw = (seed: number) => randomGates(kvHeads, new Random(seed)).gates;
  expect(draw(1)).toEqual(draw(1));
  expect(draw(1)).not.toEqual(draw(2));
  expect(draw(1).map((layer) => layer.length)).toEqual([4, 4, 2]);
  expect(randomGates([0, 2, 0], new Random(1)).gates.map((layer) => layer.length)).toEqual([0, 2, 0]);
});

test('budgets multiply with cache types, and a random choice has the same losses of other heads', () => {
  const losses = {
    windows: [64],
    heads: [
      [[1], [2]],
      [[3], [4]],
    ],
  };
  const pattern: GatePatternJson = { ...gates, llamaDuoPattern: 2, losses };
  const types = [{ typeK: 'q8_0', typeV: 'q8_0' } as const];
  const found = variants({ ...options, modes: ['full', 'duo', 'random'], sparsities: [], budgets: [0.3, '4GiB'], types, gates: pattern });
  expect(found.map(({ label, typeK }) => [label, typeK])).toEqual([
    ['full', 'q8_0'],
    ['duo budget 30%', 'q8_0'],
    ['duo budget 4GiB', 'q8_0'],
    ['random budget 30%', 'q8_0'],
    ['random budget 4GiB', 'q8_0'],
  ]);
  expect(found[1]?.duo?.(0)).toEqual({ budget: 0.3, windowStep: 1, gates: pattern });
  const several = { types: [...types, { typeK: 'f16', typeV: 'q4_0' } as const], asked: { recent: 512 } };
  const ranked = variants({ ...options, modes: ['duo'], sparsities: [], budgets: [0.3], gates: pattern, ...several });
  expect(ranked.map(({ label, typeV }) => [label, typeV])).toEqual([
    ['duo budget 30% q8_0', 'q8_0'],
    ['duo budget 30% f16/q4_0', 'q4_0'],
  ]);
  expect(ranked[0]?.duo?.(0)).toEqual({ budget: 0.3, recent: 512, windowStep: 1, gates: pattern });
  const all = Array.from({ length: 20 }, (_, draw) => shuffled(pattern, new Random(draw)));
  for (const { gates: rows, losses: moved } of all) {
    expect(rows.flat().sort()).toEqual([0, 0.25, 0.5, 1]);
    // A head's losses go with its gate.
    const pairs = rows.flatMap((row, layer) => row.map((gate, head) => [gate, moved?.heads[layer]?.[head]]));
    expect(Object.fromEntries(pairs)).toEqual({ 0: [3], 0.25: [1], 0.5: [4], 1: [2] });
  }
  expect(new Set(all.map(({ gates: rows }) => JSON.stringify(rows))).size).toBeGreaterThan(5);
  expect(() => variants({ ...options, modes: ['random'], budgets: [0.3], gates: undefined })).toThrow(OptionError);
});

test('even gates alternate in both directions', () => {
  expect(evenGates([2, 2]).gates).toEqual([
    [0, 1],
    [1, 0],
  ]);
});

test.each([
  ['/a/needle.gguf', '/a/needle.duo.json'],
  ['/a.b/model', '/a.b/model.duo.json'],
  ['m.Q4_0.gguf', 'm.Q4_0.duo.json'],
])('the gates beside %s are %s', (model, gates) => {
  expect(sidecarPath(model)).toBe(gates);
});
