import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { CancelledError, loadModel, type Context, type Generation, type Model } from '../../src/index.ts';
import { Random } from '../random.ts';
import { needleInF32 } from './needle-f32.ts';
import { sleep, threads } from './needle.ts';

// Weights and cache are F32: nothing but the order of sums tells a request among others from one alone.
const sizes = { contextSize: 512, ubatchSize: 64, typeK: 'f32', typeV: 'f32', threads } as const;
const greedy = { temperature: 0, ignoreEos: true };

let needle: ReturnType<typeof needleInF32>;
let model: Model;
beforeAll(async () => {
  needle = needleInF32();
  model = await loadModel(needle.path);
});
afterAll(async () => {
  await model.dispose();
  needle.remove();
});

/** Two tokens that are as close to each other may change places: logits of F32 sums in another order differ by some 1e-5. */
const margin = 1e-3;

type Request = { prompt: number[]; maxTokens: number };
type Answer = { tokens: number[]; gaps: number[] };

async function answerOf(generation: Generation): Promise<Answer> {
  const { tokens, logProbabilities = [] } = await generation.result();
  const gaps = logProbabilities.map(({ top: [best, second] }) => (best?.logProbability ?? NaN) - (second?.logProbability ?? NaN));
  return { tokens: [...tokens], gaps };
}

const ask = (context: Context, { prompt, maxTokens }: Request, more = {}): Generation =>
  context.generate(prompt, { ...greedy, maxTokens, logProbabilities: 2, ...more });

describe.each([
  { heads: 'full heads', mixed: {} },
  { heads: 'mixed heads', mixed: { duo: { sink: 8, recent: 24 } } },
])('100 requests over 4 sequences, $heads', ({ mixed }) => {
  const random = new Random(mixed.duo ? 2 : 1);
  // Some begin alike, so that there is something to reuse.
  const beginnings = [random.tokens(20), random.tokens(40), []];
  const requests = Array.from({ length: 100 }, (): Request => {
    const beginning = beginnings[random.below(beginnings.length)] ?? [];
    return { prompt: [...beginning, ...random.tokens(1 + random.below(20))], maxTokens: 1 + random.below(12) };
  });
  let alone: Answer[];
  beforeAll(async () => {
    await using context = await model.createContext({ ...sizes, ...mixed });
    alone = [];
    for (const request of requests) alone.push(await answerOf(ask(context, request, { reuse: false })));
  });

  /** The same as alone, up to where two tokens are too close to call. */
  function expectSame(index: number, { tokens }: Answer): number {
    const wanted = alone[index] as Answer;
    const end = wanted.gaps.findIndex((gap) => gap < margin);
    const sure = end < 0 ? wanted.tokens.length : end;
    expect(tokens.slice(0, sure), `request ${index}`).toEqual(wanted.tokens.slice(0, sure));
    expect(tokens).toHaveLength(wanted.tokens.length);
    return sure;
  }

  test('each gets what it would get alone', async () => {
    await using context = await model.createContext({ ...sizes, ...mixed, sequences: 4 });
    const answers = await Promise.all(requests.map((request) => answerOf(ask(context, request))));
    const sure = answers.reduce((sum, answer, index) => sum + expectSame(index, answer), 0);
    const all = alone.reduce((sum, { tokens }) => sum + tokens.length, 0);
    expect(sure).toBeGreaterThan(0.9 * all);
  });

  test('a third ends at some moment, and leaves no trace', async () => {
    await using context = await model.createContext({ ...sizes, ...mixed, sequences: 4 });
    const ended = new Set<number>();
    const work = requests.map(async (request, index) => {
      const how = random.below(9);
      if (how > 2) return void expectSame(index, await answerOf(ask(context, request)));
      ended.add(index);
      const abort = new AbortController();
      const generation = ask(context, { ...request, maxTokens: 300 }, { signal: abort.signal });
      const afterMs = random.below(400);
      if (how === 0) {
        setTimeout(() => {
          abort.abort(index);
        }, afterMs);
        await expect(generation.result()).rejects.toBe(index);
      } else if (how === 1) {
        const result = expect(generation.result()).rejects.toThrow(CancelledError);
        await sleep(afterMs);
        await generation.return();
        await result;
      } else {
        let left = random.below(6);
        for await (const { tokens } of generation) {
          expect(tokens.length).toBeGreaterThan(0);
          if (left-- === 0) break;
        }
        await expect(generation.result()).rejects.toThrow(CancelledError);
      }
    });
    await Promise.all(work);
    expect(ended.size).toBeGreaterThan(20);

    // all sequences are free, and what is left in them is right to go on from
    const sequences = await Promise.all([1, 2, 3, 4].map(() => context.sequence({ signal: AbortSignal.timeout(10_000) })));
    await Promise.all(sequences.map((sequence) => sequence.dispose()));
    const again = requests.slice(0, 30);
    const answers = await Promise.all(again.map((request) => answerOf(ask(context, request))));
    for (const [index, answer] of answers.entries()) expectSame(index, answer);
  });
});

describe('readers', () => {
  test('one that pauses parks its own sequence, and no other', async () => {
    const random = new Random(3);
    await using context = await model.createContext({ ...sizes, sequences: 2 });
    const readAhead = 8;
    const paused = context.generate(random.tokens(10), { ...greedy, maxTokens: 200, readAhead });
    let read = (await paused.next()).value?.tokens.length ?? 0;
    for (let round = 0; round < 3; round++) {
      const other = await context.generate(random.tokens(30), { ...greedy, maxTokens: 100 }).result();
      expect(other.generatedTokens).toBe(100);
      expect(other.queuedSeconds).toBeLessThan(1);
      // While it made a hundred tokens the other made no more than its reader may be behind.
      const length = (await paused.next()).value?.tokens.length ?? 0;
      expect(length).toBeGreaterThan(0);
      expect(length).toBeLessThanOrEqual(readAhead);
      read += length;
    }
    const { tokens } = await paused.result();
    expect(tokens).toHaveLength(200);
    let rest = 0;
    for await (const chunk of paused) rest += chunk.tokens.length;
    expect(read + rest).toBe(200);
  });

  test('an abort is answered within a ubatch: the sequence is free for the next', async () => {
    const random = new Random(4);
    await using context = await model.createContext({ ...sizes, contextSize: 4096, ubatchSize: 256 });
    const prompt = random.tokens(4000);
    const { prefillSeconds } = await context.generate(prompt, { ...greedy, maxTokens: 1 }).result();
    const ubatchSeconds = (prefillSeconds * 256) / 4000;
    for (let round = 0; round < 3; round++) {
      const abort = new AbortController();
      const long = context.generate(random.tokens(4000), {
        ...greedy,
        signal: abort.signal,
        onProgress: (progress) => {
          if (progress > 0.1 * (round + 1)) abort.abort('enough');
        },
      });
      await expect(long.result()).rejects.toBe('enough');
      const { queuedSeconds } = await context.generate(random.tokens(3), { ...greedy, maxTokens: 1 }).result();
      // A machine that is busy with other things takes its time, but not that of the seven tenths that were left.
      expect(queuedSeconds).toBeLessThan(Math.max(2 * ubatchSeconds, 0.2));
      expect(queuedSeconds).toBeLessThan(prefillSeconds / 2);
    }
  });
});
