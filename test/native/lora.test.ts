import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  DisposedError,
  loadModel,
  ModelError,
  OptionError,
  StateError,
  type ContextOptions,
  type Lora,
  type Model,
} from '../../src/index.ts';
import { writeLora, type Adapted } from '../lora.ts';
import { Random } from '../random.ts';
import { needleInF32 } from './needle-f32.ts';
import { needlePath, threads } from './needle.ts';

// models/needle.gguf: 6 layers of 8 heads, 4 of K and V, of 64 values; embeddings of 256
const adapted = Array.from({ length: 6 }, (_, layer): Adapted[] => [
  [`blk.${layer}.attn_q.weight`, 256, 512],
  [`blk.${layer}.attn_k.weight`, 256, 256],
  [`blk.${layer}.attn_v.weight`, 256, 256],
  [`blk.${layer}.attn_output.weight`, 512, 256],
]).flat();
const sizes = { contextSize: 512, threads, typeK: 'f32', typeV: 'f32' } as const;
const tokens = new Random(1).tokens(40);

let needle: ReturnType<typeof needleInF32>;
let model: Model;
let folder: string;
let one: Lora;
let other: Lora;
beforeAll(async () => {
  needle = needleInF32();
  model = await loadModel(needle.path);
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-lora-'));
  for (const seed of [1, 2]) writeLora(join(folder, `${seed}.gguf`), adapted, { seed });
  one = await model.loadLora(join(folder, '1.gguf'));
  other = await model.loadLora(pathToFileURL(join(folder, '2.gguf')));
});
afterAll(async () => {
  await one.dispose();
  await other.dispose();
  await model.dispose();
  needle.remove();
  rmSync(folder, { recursive: true });
});

async function logits(loras: ContextOptions['loras'], more: ContextOptions = {}): Promise<Float32Array> {
  await using context = await model.createContext({ ...sizes, ...more, loras });
  await using sequence = await context.sequence();
  await sequence.append(tokens);
  return await sequence.logits();
}

const apart = (a: Float32Array, b: Float32Array): number =>
  a.reduce((worst, value, index) => Math.max(worst, Math.abs(value - (b[index] ?? NaN))), 0);

describe('an adapter', () => {
  test('says what it is', () => {
    expect(one.info).toEqual({
      alpha: 4,
      tensors: adapted.length,
      metadata: expect.objectContaining({ 'general.type': 'adapter', 'adapter.type': 'lora' }) as object,
    });
  });

  test.each([{}, { duo: { sink: 8, recent: 24 } }] as ContextOptions[])('changes what comes of a text, by its scale, %o', async (more) => {
    const plain = await logits(undefined, more);
    const full = await logits(one, more);
    expect(apart(full, plain)).toBeGreaterThan(0.1);
    expect(await logits([one], more)).toEqual(full);
    expect(await logits([{ lora: one }], more)).toEqual(full);
    expect(apart(await logits([{ lora: one, scale: 0 }], more), plain)).toBeLessThan(1e-3);
    expect(await logits([], more)).toEqual(plain);
    expect(apart(await logits([{ lora: one, scale: 0.5 }], more), full)).toBeGreaterThan(0.05);
    expect(apart(await logits([one, other], more), full)).toBeGreaterThan(0.05);
    // given twice, it is added twice
    const twice = [one, { lora: one, scale: -0.75 }];
    expect(apart(await logits(twice, more), await logits([{ lora: one, scale: 0.25 }], more))).toBeLessThan(1e-3);
  });

  test('of one context is of no other', async () => {
    const plain = await logits(undefined);
    await using adaptedContext = await model.createContext({ ...sizes, loras: one });
    await using plainContext = await model.createContext(sizes);
    await using first = await adaptedContext.sequence();
    await using second = await plainContext.sequence();
    await Promise.all([first.append(tokens), second.append(tokens)]);
    expect(apart(await second.logits(), plain)).toBeLessThan(1e-4);
    expect(apart(await first.logits(), plain)).toBeGreaterThan(0.1);
    // and a state says with which it was made
    await expect(second.load(await first.save())).rejects.toThrow(StateError);
    await expect(second.load(await first.save())).rejects.toThrow(/of loras/);
  });

  test('is planned and estimated with', async () => {
    expect((await model.planContext({ ...sizes, loras: one })).supported).toBe(true);
    expect((await model.estimate({ ...sizes, loras: [{ lora: one, scale: 0.5 }] })).supported).toBe(true);
  });

  test('that is disposed of stays with contexts that have it, and is refused for others', async () => {
    const own = await model.loadLora(join(folder, '1.gguf'));
    await using context = await model.createContext({ ...sizes, loras: own });
    await own.dispose();
    await own.dispose();
    await using sequence = await context.sequence();
    await sequence.append(tokens);
    expect(apart(await sequence.logits(), await logits(one))).toBeLessThan(1e-4);
    await expect(model.createContext({ ...sizes, loras: own })).rejects.toThrow(DisposedError);
  });

  test('may outlive its model, and that its contexts', async () => {
    const ownModel = await loadModel(needlePath);
    const own = await ownModel.loadLora(join(folder, '1.gguf'));
    const context = await ownModel.createContext({ ...sizes, loras: own });
    await ownModel.dispose();
    expect((await context.generate(tokens, { maxTokens: 3, ignoreEos: true }).result()).generatedTokens).toBe(3);
    await context.dispose();
    await own.dispose();
  });
});

describe('what is no adapter of the model', () => {
  test('is refused by name', async () => {
    writeFileSync(join(folder, 'text.gguf'), 'not a model');
    writeLora(join(folder, 'wide.gguf'), [['blk.0.attn_q.weight', 128, 512]]);
    writeLora(join(folder, 'unknown.gguf'), [['blk.77.attn_q.weight', 256, 512]]);
    for (const name of ['text', 'wide', 'unknown', 'none']) {
      await expect(model.loadLora(join(folder, `${name}.gguf`))).rejects.toThrow(ModelError);
    }
    await expect(model.loadLora(needlePath)).rejects.toThrow(ModelError);
    await expect(model.loadLora('')).rejects.toThrow(OptionError);
    await expect(model.loadLora(join(folder, '1.gguf'), { signal: AbortSignal.abort('no') })).rejects.toBe('no');
    for (const loras of [5, {}, [{}], [{ lora: one, scale: NaN }], [{ lora: one, size: 1 }], [5]]) {
      await expect(model.createContext({ ...sizes, loras: loras as never })).rejects.toThrow(OptionError);
    }
    await using another = await loadModel(needlePath);
    await expect(another.createContext({ ...sizes, loras: one })).rejects.toThrow(/loras.*another model/);
  });
});
