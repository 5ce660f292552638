import { describe, expect, test } from 'vitest';

import { ContextError, devices, loadModel, OptionError, type Model } from '../../src/index.ts';
import { needlePath, threads } from './needle.ts';

describe('devices', () => {
  test('are told, the host first', async () => {
    const found = await devices();
    expect(found[0]).toMatchObject({ name: 'CPU', type: 'cpu' });
    for (const { name, description, type, totalBytes, freeBytes } of found) {
      expect([typeof name, typeof description]).toEqual(['string', 'string']);
      expect(['cpu', 'gpu']).toContain(type);
      expect(totalBytes).toBeGreaterThan(0);
      expect(freeBytes).toBeGreaterThan(0);
      expect(freeBytes).toBeLessThanOrEqual(totalBytes);
    }
    await expect(devices({ libary: 'x' } as never)).rejects.toThrow(/Did you mean library/);
    await expect(devices({ library: '/nowhere.so' })).rejects.toMatchObject({ code: 'library' });
  });

  test('a context says what it takes of them', async () => {
    await using model = await loadModel(needlePath, { devices: [] });
    await using context = await model.createContext({ contextSize: 1024, threads });
    const [host] = context.info.devices;
    expect(host).toMatchObject({ name: 'CPU', type: 'cpu' });
    expect(host?.contextBytes).toBeGreaterThanOrEqual(context.memory().totalBytes);
    expect(host?.computeBytes).toBeGreaterThan(0);
  });
});

describe('loading', () => {
  test('with metadata in the place of the file’s', async () => {
    await using model = await loadModel(needlePath, { overrides: { 'llama.context_length': 4096, 'tokenizer.ggml.add_bos_token': false } });
    expect(model.info.trainedContextSize).toBe(4096);
    expect(model.info.addBos).toBe(false);
    expect(model.tokenize('the sea')[0]).not.toBe(model.info.bosToken);
    await using plain = await loadModel(needlePath);
    expect(plain.info).toMatchObject({ trainedContextSize: 16640, addBos: true });
    expect((await model.planContext({ contextSize: 'trained' })).kv?.retrievalCells).toBe(4096);
    // a whole number is a number
    await using turned = await loadModel(needlePath, { overrides: { 'llama.rope.freq_base': 10 } });
    const [first, second] = await Promise.all([turned, plain].map(logitsOf));
    expect(first).not.toEqual(second);
  });

  async function logitsOf(model: Model): Promise<Float32Array> {
    await using context = await model.createContext({ contextSize: 256, threads });
    await using sequence = await context.sequence();
    await sequence.append('the sea is wide');
    return await sequence.logits();
  }

  test.each([
    { useMmap: false },
    { checkTensors: true },
    { gpuLayers: 0 },
    { splitMode: 'none', mainGpu: 0 },
    { splitMode: 'row' },
    { tensorSplit: [1] },
    { devices: [] },
  ] as const)('%o is taken', async (options) => {
    await using model = await loadModel(needlePath, options);
    await using context = await model.createContext({ contextSize: 256, threads });
    expect((await context.generate('the', { maxTokens: 2, ignoreEos: true }).result()).generatedTokens).toBe(2);
  });

  test('tells its progress, and by which phase', async () => {
    const told: [number, string][] = [];
    await using model = await loadModel(needlePath, { onProgress: (...each) => told.push(each) });
    expect(model.info.layers).toBe(6);
    expect(told.length).toBeGreaterThan(0);
    expect(told.every(([, phase]) => phase === 'load')).toBe(true);
    expect(told.map(([progress]) => progress)).toEqual(told.map(([progress]) => progress).sort((a, b) => a - b));
  });

  test('is refused by name', async () => {
    await expect(loadModel(needlePath, { devices: ['CUDA99'] })).rejects.toMatchObject({ code: 'option', option: 'devices' });
    await expect(loadModel(needlePath, { splitMode: 'diagonal' as never })).rejects.toThrow(OptionError);
    for (const [key, value] of [
      ['llama.context_length', 'long'],
      ['llama.context_length', 1.5],
      ['tokenizer.ggml.add_bos_token', 1],
      ['general.name', true],
      ['tokenizer.ggml.tokens', 'x'],
      ['llama.rope.freq_base', 'high'],
      ['odd', []],
      ['', 1],
    ] as const) {
      await expect(loadModel(needlePath, { overrides: { [key]: value as never } })).rejects.toMatchObject({
        code: 'option',
        option: `overrides.${key}`,
      });
    }
    await expect(loadModel(needlePath, { signal: AbortSignal.abort('no') })).rejects.toBe('no');
    await using vocabulary = await loadModel(needlePath, { vocabOnly: true });
    await expect(vocabulary.createContext()).rejects.toThrow(ContextError);
  });
});
