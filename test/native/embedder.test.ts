import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  CancelledError,
  ContextError,
  ContextFullError,
  DisposedError,
  loadModel,
  OptionError,
  type Embedder,
  type Model,
} from '../../src/index.ts';
import { Random } from '../random.ts';
import { needlePath, threads } from './needle.ts';

let model: Model;
let embedder: Embedder;
beforeAll(async () => {
  model = await loadModel(needlePath);
  embedder = await model.createEmbedder({ contextSize: 64, sequences: 4, threads });
});
afterAll(async () => {
  await embedder.dispose();
  await model.dispose();
});

const dot = (a: Float32Array, b: Float32Array): number => a.reduce((sum, value, index) => sum + value * (b[index] ?? NaN), 0);
const random = new Random(1);
const text = (tokens: number): string => model.detokenize(random.tokens(tokens));

describe('embeddings', () => {
  test('have the size that they say, and length 1', async () => {
    expect(embedder.info).toEqual({ size: model.info.embeddingSize, pooling: 'mean', contextSize: 64, sequences: 4 });
    const embedding = await embedder.embed('The sea is wide.');
    expect(embedding).toBeInstanceOf(Float32Array);
    expect(embedding).toHaveLength(embedder.info.size);
    expect(dot(embedding, embedding)).toBeCloseTo(1, 4);
    const plain = await embedder.embed('The sea is wide.', { normalize: false });
    expect(Math.abs(dot(plain, plain) - 1)).toBeGreaterThan(0.01);
    expect(dot(plain, embedding) / Math.sqrt(dot(plain, plain))).toBeCloseTo(1, 4);
  });

  test('of many texts are those of each, in their order', async () => {
    const texts = Array.from({ length: 23 }, () => text(1 + random.below(20)));
    const together = await embedder.embed(texts);
    expect(together).toHaveLength(23);
    for (const [index, each] of texts.entries()) {
      const alone = await embedder.embed(each);
      // 8-bit weights: sums in another order turn a rounded activation here and there.
      expect(dot(together[index] as Float32Array, alone)).toBeGreaterThan(0.999);
    }
    const [first, second] = together as [Float32Array, Float32Array];
    expect(dot(first, second)).toBeLessThan(0.9999);
    // each is its own: changing one changes no other
    first.fill(0);
    expect(dot(second, second)).toBeCloseTo(1, 4);
  });

  test('of nothing are none; a list of one is a list', async () => {
    expect(await embedder.embed([])).toEqual([]);
    expect(await embedder.embed(['The sea.'])).toEqual([await embedder.embed('The sea.')]);
  });

  test('names of special tokens are text', async () => {
    const [one, other] = await embedder.embed(['a <|end|> b', 'a b']);
    expect(dot(one as Float32Array, other as Float32Array)).toBeLessThan(0.9999);
    expect(model.tokenize('a <|end|> b').length).toBeGreaterThan(model.tokenize('a b').length + 3);
  });

  test('a text that is too long is refused, and others go on', async () => {
    const fits = model.detokenize(random.tokens(40));
    const long = text(200);
    await expect(embedder.embed(long)).rejects.toThrow(ContextFullError);
    await expect(embedder.embed([fits, long])).rejects.toThrow(/number 1 has \d+ tokens.* 64/);
    expect(await embedder.embed(fits)).toHaveLength(embedder.info.size);
  });

  test('bad arguments are named', async () => {
    for (const wrong of [5, undefined, [5], ['a', null]]) await expect(embedder.embed(wrong as never)).rejects.toThrow(OptionError);
    await expect(embedder.embed('a', { normalise: true } as never)).rejects.toThrow(/Did you mean normalize/);
    await expect(embedder.embed('\ud83d')).rejects.toThrow(OptionError);
    await expect(model.createEmbedder({ pooling: 'max' as never })).rejects.toThrow(OptionError);
    await expect(model.createEmbedder({ contextSize: 2 ** 24 })).rejects.toMatchObject({ option: 'contextSize' });
    await expect(embedder.rank('a', ['b'])).rejects.toThrow(ContextError);
    await expect(embedder.rank('a', 'b' as never)).rejects.toThrow(OptionError);
    expect(await embedder.rank('a', [])).toEqual([]);
    await expect(model.createEmbedder({ pooling: 'rank' })).rejects.toThrow(/no reranker/);
  });

  test.each(['cls', 'last', 'mean'] as const)('pooling %s', async (pooling) => {
    await using own = await model.createEmbedder({ pooling, contextSize: 64, threads });
    expect(own.info.pooling).toBe(pooling);
    const [one, other] = await own.embed(['The sea is wide.', 'The sea is deep.']);
    // The first token is the same; an attending model makes nothing else of it.
    const alike = dot(one as Float32Array, other as Float32Array);
    if (pooling === 'cls') expect(alike).toBeCloseTo(1, 4);
    else expect(alike).toBeLessThan(0.9999);
  });
});

describe('work', () => {
  test('is done in turn, aborted where a signal says so, and ended where it is disposed of', async () => {
    const own = await model.createEmbedder({ contextSize: 512, sequences: 1, threads });
    const texts = Array.from({ length: 60 }, () => text(100));
    const abort = new AbortController();
    const aborted = expect(own.embed(texts, { signal: abort.signal })).rejects.toBe('enough');
    const waiting = own.embed('The sea.');
    abort.abort('enough');
    await aborted;
    expect(await waiting).toHaveLength(own.info.size);
    await expect(own.embed('a', { signal: AbortSignal.abort('no') })).rejects.toBe('no');
    const underWay = own.embed(texts).catch((reason: unknown) => reason);
    await own.dispose();
    expect(await underWay).toSatisfy((end) => Array.isArray(end) || end instanceof CancelledError);
    await expect(own.embed('a')).rejects.toThrow(DisposedError);
    await expect(own.rank('a', ['b'])).rejects.toThrow(DisposedError);
    await own.dispose();
  });

  test('goes on where the model is disposed of', async () => {
    const own = await loadModel(needlePath);
    await using other = await own.createEmbedder({ contextSize: 64, threads });
    await own.dispose();
    expect(dot(await other.embed('The sea.'), await embedder.embed('The sea.'))).toBeGreaterThan(0.999);
    await expect(own.createEmbedder()).rejects.toThrow(DisposedError);
  });

  test('creating one can be aborted', async () => {
    await expect(model.createEmbedder({ signal: AbortSignal.abort('no') })).rejects.toBe('no');
  });
});
