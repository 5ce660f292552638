import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { samplingTable } from '../../src/core/option-tables.ts';
import { loadModel, OptionError, samplers, UnsupportedError, type Context, type GenerateOptions, type Model } from '../../src/index.ts';
import { needlePath, threads } from './needle.ts';

const greedy = { temperature: 0, maxTokens: 12, ignoreEos: true };
const prompt = 'The old printer believed that';

let model: Model;
let context: Context;
beforeAll(async () => {
  model = await loadModel(needlePath);
  context = await model.createContext({ contextSize: 1024, sequences: 3, typeK: 'f32', typeV: 'f32', threads });
});
afterAll(async () => {
  await context.dispose();
  await model.dispose();
});

const tokensOf = async (options: GenerateOptions): Promise<number[]> => [
  ...(await context.generate(prompt, { ...greedy, ...options }).result()).tokens,
];

describe('n texts', () => {
  test('of one prompt are each what its seed gives, the first at hand outside', async () => {
    const sampled = { temperature: 1.5, topK: 0, minP: 0, topP: 1, maxTokens: 12, ignoreEos: true };
    const together = await context.generate(prompt, { ...sampled, n: 3, seed: 100 }).result();
    expect(together.completions).toHaveLength(3);
    expect({ text: together.text, tokens: together.tokens }).toEqual({
      text: together.completions[0]?.text,
      tokens: together.completions[0]?.tokens,
    });
    const alone = [];
    for (let index = 0; index < 3; index++) alone.push((await context.generate(prompt, { ...sampled, seed: 100 + index }).result()).text);
    expect(together.completions.map(({ text }) => text)).toEqual(alone);
    expect(new Set(alone).size).toBe(3);
    expect((await context.generate(prompt, { ...sampled, n: 3, seed: 100 }).result()).completions.map(({ text }) => text)).toEqual(alone);
    for (const completion of together.completions)
      expect(completion).toMatchObject({ finishReason: 'length', stopText: null, generatedTokens: 12 });
  });

  test('are read in pieces that say of which they are', async () => {
    const generation = context.generate(prompt, { n: 2, seed: 5, maxTokens: 10, ignoreEos: true, temperature: 1, logProbabilities: 0 });
    const read = ['', ''];
    const counts = [0, 0];
    for await (const { text, tokens, index, logProbabilities } of generation) {
      read[index] = `${read[index]}${text}`;
      counts[index] = (counts[index] ?? 0) + tokens.length;
      expect(logProbabilities?.map(({ token }) => token)).toEqual([...tokens]);
    }
    expect(counts).toEqual([10, 10]);
    expect((await generation.result()).completions.map(({ text }) => text)).toEqual(read);
  });

  test('the best of them is known by how likely they are', async () => {
    const { completions } = await context
      .generate(prompt, { n: 3, seed: 9, temperature: 1.5, maxTokens: 8, ignoreEos: true, logProbabilities: 0 })
      .result();
    const sums = completions.map(({ logProbabilities = [] }) =>
      logProbabilities.reduce((sum, { logProbability }) => sum + logProbability, 0),
    );
    const ids = [...model.tokenize(prompt)];
    for (const [index, { tokens }] of completions.entries()) {
      const { logProbabilities } = await context.score([...ids, ...tokens], { from: ids.length });
      expect(Math.abs(logProbabilities.reduce((sum, each) => sum + each, 0) - (sums[index] ?? NaN))).toBeLessThan(0.2);
    }
    expect(new Set(sums).size).toBe(3);
  });

  test('more than there are sequences, and none, are refused at once', () => {
    expect(() => context.generate(prompt, { n: 4 })).toThrow(/n: expected an integer from 1 to 3, the context's sequences, got 4/);
    expect(() => context.generate(prompt, { n: 2 ** 31 - 1 })).toThrow(OptionError);
    expect(() => context.generate(prompt, { n: 0 })).toThrow(OptionError);
  });
});

describe('log-probabilities', () => {
  test("the greedy token is the likeliest, and they are the model's own", async () => {
    const top = 5;
    const { tokens, logProbabilities = [] } = await context.generate(prompt, { ...greedy, logProbabilities: top, reuse: false }).result();
    expect(logProbabilities.map(({ token }) => token)).toEqual([...tokens]);
    for (const { token, logProbability, top: likeliest } of logProbabilities) {
      expect(likeliest).toHaveLength(top);
      expect(likeliest[0]).toEqual({ token, logProbability });
      const values = likeliest.map((each) => each.logProbability);
      expect(values).toEqual([...values].sort((a, b) => b - a));
      const sum = values.reduce((total, value) => total + Math.exp(value), 0);
      expect(sum).toBeGreaterThan(0);
      expect(sum).toBeLessThanOrEqual(1 + 1e-6);
    }
    const ids = [...model.tokenize(prompt)];
    const score = await context.score([...ids, ...tokens], { from: ids.length });
    // 8-bit weights: sums in another order turn a rounded activation here and there.
    for (const [index, { logProbability }] of logProbabilities.entries()) {
      expect(Math.abs(logProbability - (score.logProbabilities[index] ?? NaN))).toBeLessThan(0.05);
    }
  });

  test('are those before samplers, whatever they do', async () => {
    const [token = NaN] = await tokensOf({});
    const biased = await context.generate(prompt, { ...greedy, maxTokens: 1, logitBias: [[token, false]], logProbabilities: 1 }).result();
    const [first] = biased.logProbabilities ?? [];
    expect(first?.token).not.toBe(token);
    expect(first?.top[0]?.token).toBe(token);
    expect(first?.logProbability).toBeLessThan(first?.top[0]?.logProbability ?? NaN);
  });

  test('as many as there are tokens, none, and not asked for', async () => {
    const all = await context
      .generate(prompt, { ...greedy, maxTokens: 2, logProbabilities: 1_000_000 })
      .result()
      .catch((error: unknown) => error);
    expect(all).toMatchObject({ option: 'logProbs' });
    const { vocabularySize } = model.info;
    const { logProbabilities: [first] = [] } = await context
      .generate(prompt, { ...greedy, maxTokens: 2, logProbabilities: vocabularySize })
      .result();
    expect(first?.top).toHaveLength(vocabularySize);
    expect(first?.top.reduce((sum, { logProbability }) => sum + Math.exp(logProbability), 0)).toBeCloseTo(1, 3);
    const { logProbabilities: none } = await context.generate(prompt, { ...greedy, maxTokens: 2, logProbabilities: 0 }).result();
    expect(none?.map(({ top }) => top)).toEqual([[], []]);
    expect(await context.generate(prompt, { ...greedy, maxTokens: 2 }).result()).not.toHaveProperty('logProbabilities');
  });
});

describe('a bias', () => {
  test('by id makes a token come, and never come', async () => {
    const wanted = 345;
    const [first = NaN] = await tokensOf({});
    expect(first).not.toBe(wanted);
    expect((await tokensOf({ logitBias: [[wanted, 1000]] })).every((token) => token === wanted)).toBe(true);
    expect(await tokensOf({ logitBias: new Map([[first, false as const]]) })).not.toContain(first);
    expect(await tokensOf({ logitBias: [[first, -1000]] })).not.toContain(first);
  });

  test('by text is that of each of its tokens', async () => {
    const text = ' lamp';
    const ids = [...model.tokenize(text, { addSpecial: false })];
    const found = await tokensOf({ logitBias: [[text, 1000]] });
    expect(found.every((token) => ids.includes(token))).toBe(true);
    const without = await tokensOf({ logitBias: new Map([['<|end|>', false as const]]), ignoreEos: false, maxTokens: 30 });
    expect(without).toHaveLength(30);
  });

  test('that is none is refused', async () => {
    for (const logitBias of [5, [[1]], [[1, true]], [[1, NaN]], [[-1, 1]], [[1.5, 1]], [['a', 'b']], { a: 1 }]) {
      expect(() => context.generate(prompt, { logitBias: logitBias as never })).toThrow(OptionError);
    }
    await expect(context.generate(prompt, { logitBias: [[1_000_000, 1]] }).result()).rejects.toMatchObject({ option: 'logitBias' });
  });
});

describe('every option of sampling is taken', () => {
  // A value of each that is not its default; `tokens` says that it must change what is sampled.
  const values: Required<{ [Key in keyof GenerateOptions & keyof typeof samplingTable]: GenerateOptions[Key] }> = {
    temperature: 1.7,
    topK: 3,
    topP: 0.2,
    minP: 0.5,
    typicalP: 0.3,
    topNSigma: 0.5,
    minKeep: 2,
    xtcProbability: 1,
    xtcThreshold: 0.01,
    dynamicTemperatureRange: 0.5,
    dynamicTemperatureExponent: 2,
    repeatPenalty: 1.9,
    repeatLastN: -1,
    frequencyPenalty: 1.5,
    presencePenalty: 1.5,
    dryMultiplier: 3,
    dryBase: 1.2,
    dryAllowedLength: 1,
    dryLastN: -1,
    drySequenceBreakers: ['x'],
    mirostat: 2,
    mirostatTau: 1,
    mirostatEta: 0.9,
    adaptiveTarget: 0.4,
    adaptiveDecay: 0.1,
    samplers: ['temperature'],
    logitBias: [[5, 3]],
    seed: 4_294_967_294,
    grammar: 'root ::= [a-z ]+',
    schema: { const: 'x' },
    choices: ['x'],
  };

  test('there is one for each', () => {
    expect(Object.keys(values).sort()).toEqual(Object.keys(samplingTable).sort());
  });

  test.each(Object.entries(values))('%s: %j', async (name, value) => {
    const { generatedTokens, finishReason } = await context.generate(prompt, { seed: 3, maxTokens: 8, [name]: value }).result();
    expect(generatedTokens).toBeGreaterThan(0);
    expect(['length', 'stop']).toContain(finishReason);
  });

  test.each(samplers.map((name) => [name]))('sampler %s', async (name) => {
    const more = name === 'adaptive_p' ? { adaptiveTarget: 0.5 } : {};
    const { generatedTokens, finishReason } = await context.generate(prompt, { seed: 3, maxTokens: 8, samplers: [name], ...more }).result();
    // infill ends a gap as soon as an end is likely at all
    expect(finishReason).toBe(name === 'infill' ? 'stop' : 'length');
    expect(generatedTokens).toBe(name === 'infill' ? 0 : 8);
  });

  test('those that narrow the choice leave the likeliest', async () => {
    const likeliest = await tokensOf({});
    for (const narrow of [{ topK: 1 }, { topP: 0 }, { minP: 1 }, { topNSigma: 1e-6 }]) {
      const found = await tokensOf({ temperature: 5, topK: 0, topP: 1, minP: 0, seed: 1, ...narrow });
      expect([narrow, found]).toEqual([narrow, likeliest]);
    }
    expect(await tokensOf({ temperature: 5, topK: 0, topP: 1, minP: 0, seed: 1 })).not.toEqual(likeliest);
  });

  test('penalties keep a text from repeating itself', async () => {
    const distinct = async (options: GenerateOptions): Promise<number> => new Set(await tokensOf({ maxTokens: 80, ...options })).size;
    const plain = await distinct({});
    expect(await distinct({ repeatPenalty: 2, repeatLastN: -1 })).toBeGreaterThan(plain);
    expect(await distinct({ frequencyPenalty: 5, repeatLastN: -1 })).toBeGreaterThan(plain);
    expect(await distinct({ presencePenalty: 20, repeatLastN: -1 })).toBeGreaterThan(plain);
    expect(await distinct({ dryMultiplier: 20, dryAllowedLength: 1, dryLastN: -1, drySequenceBreakers: ['zzz'] })).toBeGreaterThan(plain);
  });
});

describe('infill', () => {
  const gap = { prefix: 'The old printer ', suffix: ' the stone drum.' };
  const marks = { fim_pre_token_id: 11, fim_suf_token_id: 12, fim_mid_token_id: 13 };
  const repository = { fim_rep_token_id: 14, fim_sep_token_id: 15 };
  const named = (tokens: Record<string, number>): Record<string, number> =>
    Object.fromEntries(Object.entries(tokens).map(([key, id]) => [`tokenizer.ggml.${key}`, id]));

  test('a model without tokens for a gap is refused', async () => {
    expect(Object.values(model.info.infillTokens)).toEqual([null, null, null, null, null, null]);
    const generation = context.infill(gap);
    await expect(generation.result()).rejects.toThrow(UnsupportedError);
    await expect(context.infill(gap).next()).rejects.toThrow(/no tokens that mark a gap/);
  });

  test('a gap that is none is refused at once', () => {
    for (const wrong of [
      undefined,
      'x',
      {},
      { prefix: 'x' },
      { ...gap, prefix: 5 },
      { ...gap, files: [{ name: 'x' }] },
      { ...gap, files: 'x' },
      { ...gap, sufix: '' },
    ]) {
      expect(() => context.infill(wrong as never)).toThrow(OptionError);
    }
    expect(() => context.infill(gap, { addSpecial: true } as never)).toThrow(/Unknown option addSpecial/);
  });

  test('is generated from prefix and suffix, none of them read for special tokens', async () => {
    await using coder = await loadModel(needlePath, { overrides: named(marks) });
    expect(coder.info.infillTokens).toMatchObject({ prefix: 11, suffix: 12, middle: 13, repository: null, file: null });
    await using own = await coder.createContext({ contextSize: 512, threads });
    const ids = (text: string): number[] => [...coder.tokenize(text, { addSpecial: false })];
    const { bosToken } = coder.info;
    const wanted = [bosToken ?? NaN, 11, ...ids('a <|end|> b'), 12, ...ids(gap.suffix), 13];
    const found = await own.infill({ prefix: 'a <|end|> b', suffix: gap.suffix }, greedy).result();
    expect(found.promptTokens).toBe(wanted.length);
    const plain = await own.generate(wanted, greedy).result();
    expect(found.tokens).toEqual(plain.tokens);
    expect(plain.reusedTokens).toBe(wanted.length - 1); // the same prompt, to the token
    // without tokens for files, they are text before it
    const files = [{ name: 'a.txt', text: 'one' }];
    await own.infill({ ...gap, files }, greedy).result();
    const before = [bosToken ?? NaN, ...ids('\n\none'), 11, ...ids(gap.prefix), 12, ...ids(gap.suffix), 13];
    expect((await own.generate(before, greedy).result()).reusedTokens).toBe(before.length - 1);
  });

  test('files of the repository come first, by name', async () => {
    await using coder = await loadModel(needlePath, { overrides: named({ ...marks, ...repository }) });
    await using own = await coder.createContext({ contextSize: 512, threads });
    const ids = (text: string): number[] => [...coder.tokenize(text, { addSpecial: false })];
    const files = [
      { name: 'a.ts', text: 'one' },
      { name: 'b.ts', text: 'two' },
    ];
    const result = await own.infill({ ...gap, name: 'main.ts', files }, { ...greedy, choices: ['threw'] }).value();
    expect(result).toBe('threw');
    const wanted = [
      ...[
        coder.info.bosToken ?? NaN,
        14,
        ...ids('repository\n'),
        15,
        ...ids('a.ts\none\n'),
        15,
        ...ids('b.ts\ntwo\n'),
        15,
        ...ids('main.ts\n'),
      ],
      ...[11, ...ids(gap.prefix), 12, ...ids(gap.suffix), 13],
    ];
    expect((await own.generate(wanted, greedy).result()).reusedTokens).toBe(wanted.length - 1);
  });

  test('is aborted while its prompt is made, too', async () => {
    await using coder = await loadModel(needlePath, { overrides: named(marks) });
    await using own = await coder.createContext({ contextSize: 512, threads });
    const abort = new AbortController();
    const generation = own.infill({ prefix: 'x '.repeat(2_000_000), suffix: '' }, { signal: abort.signal });
    const end = expect(generation.result()).rejects.toBe('enough');
    setTimeout(() => {
      abort.abort('enough');
    }, 5);
    await end;
    await expect(own.infill({ prefix: 'x '.repeat(5000), suffix: '' }).result()).rejects.toMatchObject({ code: 'full' });
    expect((await own.generate('x', greedy).result()).generatedTokens).toBe(12);
  });
});
