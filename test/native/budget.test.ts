import { readFileSync } from 'node:fs';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { GatesError, loadModel, OptionError, parseGates, type GatePatternJson, type Model } from '../../src/index.ts';
import { needlePath } from './needle-model.ts';

const gates = JSON.parse(readFileSync(needlePath.replace(/\.gguf$/, '.duo.json'), 'utf8')) as GatePatternJson;
/** What calibration would have written: a head loses the more the higher its gate is and the less it sees; q4_0 breaks K. */
const measured: GatePatternJson = {
  ...gates,
  llamaDuoPattern: 2,
  losses: { windows: [256, 1024], heads: gates.gates.map((row) => row.map((gate) => [2 * gate, gate])) },
  cacheTypes: {
    k: { f16: { loss: 0, correct: 1 }, q8_0: { loss: 0.01, correct: 1 }, q4_0: { loss: 0.02, correct: 0.1 } },
    v: { f16: { loss: 0, correct: 1 }, q8_0: { loss: 0.01, correct: 1 }, q4_0: { loss: 0.5, correct: 0.95 } },
  },
};

let model: Model;
beforeAll(async () => {
  model = await loadModel(needlePath);
});
afterAll(() => model.dispose());

const options = { contextSize: 8192, ubatchSize: 128 };

test.each([0.9, 0.5, 0.3, 0.2, '20MiB', 8 * 2 ** 20])('a budget of %j is kept', async (budget) => {
  const duo = { gates: measured, budget };
  const { kv } = await model.planContext({ ...options, duo });
  await using context = await model.createContext({ ...options, duo });
  const memory = context.memory();
  expect(memory).toEqual(kv);
  const full = 8192 * 24 * 64 * 2 * 2;
  expect(memory.fullBytes).toBe(full);
  const bytes = typeof budget === 'string' ? 20 * 2 ** 20 : budget <= 1 ? budget * full : budget;
  expect(memory.totalBytes).toBeLessThanOrEqual(bytes);
  expect(memory.totalBytes).toBeGreaterThan(0.6 * bytes);
  expect(memory.typeK).not.toBe('q4_0');
  expect(context.info).toMatchObject({ typeK: memory.typeK, typeV: memory.typeV });
  expect(memory.expectedLoss).toBeGreaterThan(0);
  expect(memory.retrievalHeads + memory.streamingHeads).toBe(24);
  expect((await context.generate('Remember: zebra 31.', { maxTokens: 3, temperature: 0 }).result()).text).not.toBe('');
});

test('a smaller budget loses more', async () => {
  const losses: number[] = [];
  for (const budget of [0.9, 0.6, 0.4, 0.3, 0.2, 0.15]) {
    const { kv } = await model.planContext({ ...options, duo: { gates: measured, budget } });
    losses.push(kv?.expectedLoss ?? NaN);
  }
  expect([...losses].sort((a, b) => a - b)).toEqual(losses);
});

test('types that were asked for stay, and gates alone have no losses', async () => {
  const { kv } = await model.planContext({ ...options, typeK: 'q4_0', typeV: 'q8_0', duo: { gates: measured, budget: 0.2 } });
  expect(kv).toMatchObject({ typeK: 'q4_0', typeV: 'q8_0' });
  const ranked = await model.planContext({ ...options, duo: { gates, budget: 0.5 } });
  expect(ranked.kv).toMatchObject({ typeK: 'f16', typeV: 'f16', expectedLoss: null, recent: 256 });
  expect(ranked.kv?.totalBytes).toBeLessThanOrEqual(0.5 * (ranked.kv?.fullBytes ?? 0));
});

/** A ranking of the heads, as any method gives: no losses, no types. */
test.each<[string, object, number | string]>([
  ['gates alone', { gates }, 0.35],
  ['gates alone, a window', { gates, recent: 512, sink: 4 }, 0.35],
  ['losses, but one window', { gates: measured, recent: 1024 }, '12MiB'],
])('%s: the fewest heads that have to stream do, and types stay', async (_, duo, budget) => {
  const typed = { ...options, typeK: 'q8_0', typeV: 'q4_0' } as const;
  const { kv } = await model.planContext({ ...typed, duo: { ...duo, budget } });
  expect(kv).toMatchObject({ typeK: 'q8_0', typeV: 'q4_0', expectedLoss: null, ...('recent' in duo && { recent: duo.recent }) });
  const { retrievalHeads = 0, streamingHeads = 0, totalBytes = 0, fullBytes = 0 } = kv ?? {};
  const bytes = typeof budget === 'string' ? 12 * 2 ** 20 : budget * fullBytes;
  expect(fullBytes).toBe(8192 * 24 * 64 * 2 * 2); // of f16
  expect(totalBytes).toBeLessThanOrEqual(bytes);
  expect(streamingHeads).toBeGreaterThan(0);
  expect(retrievalHeads).toBeGreaterThan(0);
  // One head fewer would not fit, and a sparsity that streams as many takes as much.
  const bySparsity = async (streaming: number) =>
    (await model.planContext({ ...typed, duo: { ...duo, sparsity: streaming / 23 } })).kv?.totalBytes;
  expect(await bySparsity(streamingHeads)).toBe(totalBytes);
  expect(await bySparsity(streamingHeads - 1)).toBeGreaterThan(bytes);
  await expect(model.planContext({ ...typed, duo: { ...duo, budget: 0.001 } })).rejects.toThrow(
    /K rows of q8_0, V rows of q4_0 and every head streaming the cache takes at least \d+/,
  );
});

test('a type that breaks the model by one layer serves the others', async () => {
  const { loss, correct } = { loss: 0.001, correct: 1 };
  const q4 = { loss: 4, correct: 0.1, finer: [{ type: 'q8_0' as const, layers: [1], loss, correct }] };
  const types = measured.cacheTypes ?? { k: {}, v: {} };
  const mixed: GatePatternJson = { ...measured, cacheTypes: { k: { ...types.k, q4_0: q4 }, v: { ...types.v, q4_0: { loss, correct } } } };
  expect((await parseGates(JSON.stringify(mixed))).cacheTypes).toEqual(mixed.cacheTypes);
  const duo = { gates: mixed, budget: 0.31 };
  const { kv } = await model.planContext({ ...options, duo });
  expect(kv).toMatchObject({ typeK: 'q4_0', typeV: 'q4_0', finerK: { type: 'q8_0', layers: [1] }, streamingHeads: 0 });
  await using context = await model.createContext({ ...options, duo });
  expect(context.memory()).toEqual(kv);
  // All heads in 18 bytes a 32 values, but K of one layer in 34.
  const layers = mixed.layers;
  expect(kv?.totalBytes).toBe((kv?.fullBytes ?? 0) * ((18 + (16 / layers) * 0.5) / 64));

  // A saved sequence goes where rows are alike, and says why it goes nowhere else.
  const sequence = await context.sequence();
  await sequence.append('Remember: zebra 31.');
  const state = await sequence.save();
  await using same = await model.createContext({ ...options, duo });
  await (await same.sequence()).load(state);
  await using other = await model.createContext({ ...options, typeK: 'q4_0', typeV: 'q4_0', duo: { sparsity: 0 } });
  await expect((await other.sequence()).load(state)).rejects.toThrow(/typeK "q4_0, q8_0 in layer 1", and this is "q4_0"/);
});

test('what cannot be is said', async () => {
  await expect(model.planContext({ ...options, duo: { gates: measured, budget: 0.001 } })).rejects.toThrow(
    /too small for this context: .* at least \d+/,
  );
  await expect(model.createContext({ ...options, duo: { gates: measured, budget: '1KiB' } })).rejects.toThrow(GatesError);
  for (const beside of [{ sparsity: 0.5 }, { threshold: 0.5 }]) {
    await expect(model.planContext({ ...options, duo: { budget: 0.5, ...beside } as never })).rejects.toThrow(OptionError);
  }
  await expect(model.planContext({ ...options, duo: { gates: measured, budget: '4 elephants' } })).rejects.toThrow(
    "a size, such as '4GiB'",
  );
});

test('what was measured is read and written as it is', async () => {
  const pattern = await parseGates(JSON.stringify(measured));
  expect(pattern.cacheTypes).toEqual(measured.cacheTypes);
  expect((await parseGates(pattern.format('json'))).toJSON()).toEqual(pattern.toJSON());
  for (const cacheTypes of [{ k: {} }, { k: {}, v: {} }, { ...measured.cacheTypes, v: { f16: { loss: -1, correct: 1 } } }]) {
    await expect(parseGates(JSON.stringify({ ...measured, cacheTypes }))).rejects.toThrow(/cacheTypes/);
  }
});
