import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  ContextFullError,
  DisposedError,
  CancelledError,
  loadModel,
  OptionError,
  parseGates,
  type Context,
  type DuoOptions,
  type GatePattern,
  type Model,
} from '../../src/index.ts';
import { chequered, longText, modelPath, patternOf, threads } from './setup.ts';

let model: Model;
let context: Context;
let pattern: GatePattern;
beforeAll(async () => {
  model = await loadModel(modelPath);
  context = await model.createContext({ contextSize: 512, threads });
  pattern = await parseGates(patternOf(chequered(30, 3)));
});
afterAll(async () => {
  await context.dispose();
  await model.dispose();
});

const prompt = 'The capital of France is';
const greedy = { temperature: 0, maxTokens: 24 };

async function answer(duo?: DuoOptions, text = prompt): Promise<string> {
  await using own = await model.createContext({ contextSize: 512, threads, ...(duo && { duo }) });
  return (await own.generate(text, greedy).result()).text;
}

describe('text', () => {
  test('greedy generation is the same each time, in one context and in another', async () => {
    const first = await context.generate(prompt, greedy).result();
    const second = await context.generate(prompt, greedy).result();
    const fresh = await context.generate(prompt, { ...greedy, reuse: false }).result();
    expect(first.text).toContain('Paris');
    expect(second.text).toBe(first.text);
    expect(fresh.text).toBe(first.text);
    expect(second.reusedTokens).toBeGreaterThan(0);
    expect(fresh.reusedTokens).toBe(0);
    expect(await answer()).toBe(first.text);
  });

  test('the text is that of the tokens', async () => {
    const { text, tokens, generatedTokens } = await context.generate(prompt, greedy).result();
    expect(tokens).toHaveLength(generatedTokens);
    expect(model.detokenize(tokens)).toBe(text);
  });

  test('the same seed gives the same text, another gives another', async () => {
    const sample = async (seed: number): Promise<string> =>
      (await context.generate('Once upon a time', { temperature: 1, seed, maxTokens: 24 }).result()).text;
    expect(await sample(1)).toBe(await sample(1));
    expect(await sample(1)).not.toBe(await sample(2));
  });

  test('generation ends before a stop text', async () => {
    const { text, finishReason, stopText } = await context.generate('1, 2, 3, 4,', { ...greedy, stop: [' 7', 'nine'] }).result();
    expect(text).toBe(' 5, 6,');
    expect({ finishReason, stopText }).toEqual({ finishReason: 'stop', stopText: ' 7' });
  });

  test('a grammar is followed; a bad one is an error by name', async () => {
    const { text } = await context.generate(prompt, { ...greedy, grammar: 'root ::= "yes" | "no"' }).result();
    expect(['yes', 'no']).toContain(text);
    await expect(context.generate(prompt, { grammar: 'root ::=' + ' (' }).result()).rejects.toThrow(OptionError);
  });

  test('maxTokens 0 reads the prompt and ends', async () => {
    const result = await context.generate(prompt, { maxTokens: 0 }).result();
    expect(result).toMatchObject({ text: '', generatedTokens: 0, finishReason: 'length', decodeTokensPerSecond: 0 });
  });

  test('a context that is full ends the answer; a prompt that does not fit is an error', async () => {
    await using small = await model.createContext({ contextSize: 256, threads });
    const size = small.info.contextSize;
    const result = await small.generate(prompt, { temperature: 0, ignoreEos: true }).result();
    expect(result.finishReason).toBe('contextFull');
    expect(result.promptTokens + result.generatedTokens).toBeGreaterThanOrEqual(size);
    await expect(small.generate(new Int32Array(size + 1).fill(1)).result()).rejects.toThrow(ContextFullError);
  });

  test('a token that is not the vocabulary’s is refused', async () => {
    await expect(context.generate([49152]).result()).rejects.toMatchObject({
      code: 'option',
      option: 'prompt',
      value: 49152,
      expected: 'tokens from 0 to 49151',
    });
  });
});

describe('score', () => {
  const facts = 'The capital of France is Paris.';
  const last = (text: string): number => model.tokenize(text).length - 1;

  test('what is true is likelier than what is not', async () => {
    const likely = await context.score('The capital of France is Paris', { from: last('The capital of France is Paris') });
    const unlikely = await context.score('The capital of France is Rome', { from: last('The capital of France is Rome') });
    expect(likely.logProbabilities).toHaveLength(1);
    expect(likely.logProbabilities[0]).toBeGreaterThan((unlikely.logProbabilities[0] ?? 0) + 1);
    expect(unlikely.reusedTokens).toBeGreaterThan(0);
  });

  test('every token that has one before it gets a log-probability, with all heads streaming in a window of the whole text too', async () => {
    await using streaming = await model.createContext({ contextSize: 512, threads, duo: { sparsity: 1 } });
    const [stock, mixed] = [await context.score(facts), await streaming.score(facts)];
    expect(stock.logProbabilities).toHaveLength(last(facts));
    expect(Math.max(...stock.logProbabilities)).toBeLessThan(0);
    // 4-bit weights: sums in another order turn a rounded activation here and there.
    stock.logProbabilities.forEach((value, index) => expect(Math.abs((mixed.logProbabilities[index] ?? 0) - value)).toBeLessThan(0.3));
  });

  test('bad input is refused, a long text does not fit', async () => {
    await expect(context.score([1])).rejects.toThrow(OptionError);
    await expect(context.score(facts, { from: 0 })).rejects.toThrow(OptionError);
    await expect(context.score(facts, { from: 100 })).rejects.toThrow(/from.*100/);
    await expect(context.score(new Int32Array(600).fill(1))).rejects.toThrow(ContextFullError);
    await expect(context.score(facts, { signal: AbortSignal.abort('no') })).rejects.toBe('no');
  });

  test('disposing ends it', async () => {
    const own = await model.createContext({ contextSize: 2048, threads });
    const scoring = own.score(new Int32Array(2000).fill(1));
    const ended = expect(scoring).rejects.toThrow(CancelledError);
    await own.dispose();
    await ended;
    await expect(own.score(facts)).rejects.toThrow(DisposedError);
  });
});

describe('mixed heads', () => {
  test('sparsity 0 continues as stock does', async () => {
    // Counting leaves no close calls: where two tokens are about as likely, the order of sums decides.
    const counting = '1, 2, 3, 4, 5, 6, 7,';
    expect(await answer({ sparsity: 0 }, counting)).toBe(await answer(undefined, counting));
  });

  test('half of the heads streaming: fewer bytes, and the same text while all fits the window', async () => {
    await using mixed = await model.createContext({ contextSize: 4096, threads, duo: { gates: pattern, sparsity: 0.5 } });
    const memory = mixed.memory();
    expect(memory).toMatchObject({ retrievalHeads: 45, streamingHeads: 45, sink: 16, recent: 64, windowStep: 1, sequences: 1 });
    expect(memory.totalBytes).toBeLessThan(0.75 * memory.fullBytes);
    const { text } = await mixed.generate(prompt, greedy).result();
    expect(text).toBe(await answer({ sparsity: 0 }));
  });

  test('the same heads stream whichever way the gates come', async () => {
    const text = longText(40);
    const [byPattern, byJson] = await Promise.all([
      answer({ gates: pattern }, text),
      answer({ gates: pattern.toJSON(), sparsity: 0.5, sink: 16, recent: 64 }, text),
    ]);
    expect(byJson).toBe(byPattern);
    expect(await answer({ gates: pattern, threshold: 0.5 }, text)).toBe(byPattern);
  });

  test.each([
    ['f16', 2],
    ['f32', 4],
    ['q8_0', 34 / 32],
    ['q4_0', 18 / 32],
  ] as const)('bytes of %s rows are the formula’s', async (type, bytesPerNumber) => {
    const options = { contextSize: 2048, threads, typeK: type, typeV: type, duo: { gates: pattern, sparsity: 0.25 } };
    await using mixed = await model.createContext(options);
    const memory = mixed.memory();
    const cellBytes = 2 * 64 * bytesPerNumber;
    // ceil(89 * 0.25)
    expect(memory).toMatchObject({ retrievalHeads: 67, streamingHeads: 23, retrievalCells: 2048 });
    expect(memory.retrievalBytes).toBe(67 * 2048 * cellBytes);
    expect(memory.streamingBytes).toBe(23 * memory.streamingCells * cellBytes);
    expect(memory.totalBytes).toBe(memory.retrievalBytes + memory.streamingBytes);
    expect(memory.fullBytes).toBe(90 * 2048 * cellBytes);
    expect(await model.planContext(options)).toEqual({ supported: true, reason: null, warnings: [], kv: memory, draftKv: null });
  });

  test('without mixed heads the report is stock’s', () => {
    const { retrievalBytes, streamingBytes, totalBytes, fullBytes, retrievalHeads, streamingHeads } = context.memory();
    expect({ retrievalBytes, streamingBytes, totalBytes }).toEqual({ retrievalBytes: fullBytes, streamingBytes: 0, totalBytes: fullBytes });
    expect({ retrievalHeads, streamingHeads }).toEqual({ retrievalHeads: 90, streamingHeads: 0 });
  });

  test.each<[DuoOptions, string, RegExp]>([
    [{ sparsity: 0.5 }, 'gates', /gates/],
    [{ gates: '/nowhere.tsv' }, 'gates', /\/nowhere\.tsv/],
    [{ gates: 'auto' }, 'gates', /SmolLM2/],
    [{ gates: { llamaDuoPattern: 1, layers: 2, kvHeads: 3, gates: chequered(2, 3) } }, 'gates', /2.*30/s],
  ])('%o is refused', async (duo, code, message) => {
    await expect(model.createContext({ contextSize: 512, duo })).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
  });

  test('mixed heads without flash attention are refused by reason, and planned so', async () => {
    const options = { contextSize: 512, flashAttention: 'off', duo: { sparsity: 0 } } as const;
    await expect(model.createContext(options)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/flash/i) as string,
    });
    expect(await model.planContext(options)).toMatchObject({ supported: false, reason: expect.stringMatching(/flash/i) as string });
  });
});

describe('streams', () => {
  const endless = { temperature: 0, ignoreEos: true, maxTokens: 400 };

  test('leaving the loop cancels', async () => {
    const generation = context.generate(prompt, endless);
    let chunks = 0;
    for await (const chunk of generation) {
      expect(chunk.tokens.length + chunk.text.length).toBeGreaterThan(0);
      if (++chunks === 3) break;
    }
    await expect(generation.result()).rejects.toThrow(CancelledError);
    const { text } = await context.generate(prompt, greedy).result();
    expect(text).toContain('Paris');
  });

  test('aborting rejects with the reason, soon, while a long prompt is read too', async () => {
    await using long = await model.createContext({ contextSize: 8192, threads });
    const reason = new Error('enough');
    for (const text of [prompt, longText(300)]) {
      const abort = new AbortController();
      const reading = long.generate(text, { temperature: 0, ignoreEos: true, signal: abort.signal }).result();
      const aborted = new Promise<number>((resolve) =>
        setTimeout(() => {
          abort.abort(reason);
          resolve(performance.now());
        }, 300),
      );
      await expect(reading).rejects.toBe(reason);
      expect(performance.now() - (await aborted)).toBeLessThan(500);
    }
  });

  test('a second generation waits its turn, and neither disturbs the other', async () => {
    const alone = await Promise.all(['One, two,', prompt].map((text) => answer(undefined, text)));
    const ends: number[] = [];
    const together = await Promise.all(
      ['One, two,', prompt].map(async (text, index) => {
        const { text: continued } = await context.generate(text, greedy).result();
        ends.push(index);
        return continued;
      }),
    );
    expect(together).toEqual(alone);
    expect(ends).toEqual([0, 1]);
  });

  test('one that waits its turn can be aborted', async () => {
    const abort = new AbortController();
    const first = context.generate(prompt, { ...endless, maxTokens: 100 }).result();
    const second = context.generate(prompt, { ...greedy, signal: abort.signal }).result();
    abort.abort('changed my mind');
    await expect(second).rejects.toBe('changed my mind');
    expect((await first).generatedTokens).toBe(100);
  });

  test('the engine pauses while the reader is slow', async () => {
    const generation = context.generate(prompt, { ...endless, maxTokens: 200, readAhead: 16 });
    const sizes: number[] = [];
    for await (const { tokens } of generation) {
      sizes.push(tokens.length);
      if (sizes.length === 1) await new Promise((resolve) => setTimeout(resolve, 1500));
    }
    // What came while the reader slept was the window, and no more.
    expect(sizes[1]).toBeLessThanOrEqual(16);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(200);
    expect((await generation.result()).finishReason).toBe('length');
  });

  test('disposing of a context ends what is under way', async () => {
    const own = await model.createContext({ contextSize: 512, threads });
    const generation = own.generate(prompt, endless);
    await generation.next();
    await own.dispose();
    const rest = async (): Promise<void> => {
      for await (const { tokens } of generation) expect(tokens.length).toBeLessThanOrEqual(256);
    };
    await expect(rest()).rejects.toThrow(CancelledError);
    expect(() => own.generate(prompt)).toThrow(DisposedError);
  });

  test('prefill tells its progress', async () => {
    await using own = await model.createContext({ contextSize: 2048, ubatchSize: 64, threads });
    const progress: number[] = [];
    await own.generate(longText(60), { maxTokens: 1, onProgress: (value) => progress.push(value) }).result();
    expect(progress.length).toBeGreaterThan(2);
    expect(progress).toEqual([...progress].sort((a, b) => a - b));
  });
});
