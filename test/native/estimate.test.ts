import { afterAll, beforeAll, expect, test } from 'vitest';

import { loadModel, MemoryError, type DeviceMemory, type Model, type PlanOptions } from '../../src/index.ts';
import { needlePath } from './needle-model.ts';

let model: Model;
let bare: Model;
beforeAll(async () => {
  model = await loadModel(needlePath);
  bare = await loadModel(needlePath, { weights: false });
});
afterAll(async () => {
  await model.dispose();
  await bare.dispose();
});

const taken = (devices: readonly DeviceMemory[]): unknown =>
  devices.map(({ name, contextBytes, computeBytes }) => ({ name, contextBytes, computeBytes }));

test.each<PlanOptions>([
  { contextSize: 1024 },
  { contextSize: 4096, duo: { sparsity: 0.5 } },
  { contextSize: 2048, typeK: 'q8_0', typeV: 'q4_0', ubatchSize: 64, duo: { sparsity: 1 } },
])('a context takes what was estimated: %j', async (options) => {
  const estimate = await model.estimate(options);
  await using context = await model.createContext(options);
  expect(estimate).toMatchObject({ supported: true, fits: true, kv: context.memory(), largestContextSize: context.info.contextSize });
  if (!estimate.supported) throw new Error(estimate.reason);
  expect(taken(estimate.devices)).toEqual(taken(context.info.devices));
  expect(estimate.contextBytes).toBe(context.info.devices.reduce((sum, device) => sum + device.contextBytes, 0));
  const unloaded = await bare.estimate(options);
  expect(unloaded).toMatchObject({ contextBytes: estimate.contextBytes, computeBytes: estimate.computeBytes });
});

test('no size given is a modest one, and what the model was trained for fits', async () => {
  expect(await model.estimate()).toMatchObject({ contextSize: Math.min(8192, model.info.trainedContextSize) });
  expect(await model.estimate({ contextSize: 'fit' })).toMatchObject({ contextSize: model.info.trainedContextSize, fits: true });
});

test('what does not fit says what it needs, and the largest that does can be made', async () => {
  const contextSize = 2 ** 30;
  expect(await model.estimate({ contextSize })).toMatchObject({ supported: true, fits: false });
  const error: unknown = await model.createContext({ contextSize }).catch((error: unknown) => error);
  expect(error).toBeInstanceOf(MemoryError);
  const { device, neededBytes, freeBytes, largestContextSize } = error as MemoryError;
  expect(device).toBe('CPU');
  expect(neededBytes).toBeGreaterThan(freeBytes);
  expect(largestContextSize).toBeGreaterThan(0);
  await using small = await model.createContext({ contextSize: 512 });
  expect(small.info.contextSize).toBe(512);
});
