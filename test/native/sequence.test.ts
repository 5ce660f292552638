import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import {
  CancelledError,
  ContextFullError,
  DisposedError,
  loadModel,
  OptionError,
  OutputError,
  StateError,
  type Context,
  type ContextOptions,
  type Model,
  type Sequence,
} from '../../src/index.ts';
import { Random } from '../random.ts';
import { needleInF32 } from './needle-f32.ts';
import { needlePath, sleep, threads } from './needle.ts';

const greedy = { temperature: 0, maxTokens: 8, ignoreEos: true };
const sizes = { contextSize: 1024, sequences: 3, ubatchSize: 64, typeK: 'f32', typeV: 'f32', threads } as const;
const duo = { sink: 16, recent: 64 };
const random = new Random(1);
const prompt = random.tokens(40);

let needle: ReturnType<typeof needleInF32>;
let model: Model;
let folder: string;
beforeAll(async () => {
  needle = needleInF32();
  model = await loadModel(needle.path);
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-'));
});
afterAll(async () => {
  await model.dispose();
  needle.remove();
  rmSync(folder, { recursive: true });
});

/** Two lists of numbers are the same but for the order of sums. */
function expectClose(found: ArrayLike<number>, wanted: ArrayLike<number>): void {
  expect(found).toHaveLength(wanted.length);
  let worst = 0;
  for (let index = 0; index < wanted.length; index++) worst = Math.max(worst, Math.abs((found[index] ?? NaN) - (wanted[index] ?? NaN)));
  expect(worst).toBeLessThan(1e-3);
}

const likeliest = (logits: Float32Array): number => logits.indexOf(logits.reduce((most, each) => Math.max(most, each)));

describe.each([
  { heads: 'full heads', mixed: {} },
  { heads: 'mixed heads', mixed: { duo } },
])('$heads', ({ mixed }) => {
  let context: Context;
  let reference: Context;
  beforeAll(async () => {
    context = await model.createContext({ ...sizes, ...mixed });
    reference = await model.createContext({ ...sizes, ...mixed, sequences: 1 });
  });
  afterAll(async () => {
    await context.dispose();
    await reference.dispose();
  });

  let sequence: Sequence;
  beforeEach(async () => {
    sequence = await context.sequence();
  });
  afterEach(() => sequence.dispose());

  /** What a context that holds nothing goes on with. */
  const fresh = async (tokens: readonly number[], maxTokens = 8): Promise<Int32Array> =>
    (await reference.generate(tokens, { ...greedy, maxTokens, reuse: false }).result()).tokens;
  const freshLogits = async (tokens: readonly number[]): Promise<Float32Array> => {
    await using other = await reference.sequence();
    await other.append(tokens);
    return await other.logits();
  };

  test('what is appended is what is read, in one piece or in several', async () => {
    expect(sequence.length).toBe(0);
    expect(await sequence.append(prompt.slice(0, 7))).toBe(7);
    expect(await sequence.append(prompt.slice(7))).toBe(33);
    expect(sequence.length).toBe(40);
    const logits = await sequence.logits();
    expect(logits).toHaveLength(model.info.vocabularySize);
    expectClose(logits, await freshLogits(prompt));
    expect(likeliest(logits)).toBe((await fresh(prompt))[0]);
    expect(await sequence.logits()).toEqual(logits);
    expect((await sequence.generate(undefined, greedy).result()).tokens).toEqual(await fresh(prompt));
  });

  test('it holds what was generated in it, and goes on from there', async () => {
    const first = await sequence.generate(prompt, greedy).result();
    expect(first).toMatchObject({ promptTokens: 40, reusedTokens: 0, generatedTokens: 8 });
    expect(sequence.length).toBe(48);
    const more = random.tokens(5);
    const second = await sequence.generate(more, greedy).result();
    expect(second.promptTokens).toBe(53);
    expect(second.tokens).toEqual(await fresh([...prompt, ...first.tokens, ...more]));
    expect(sequence.length).toBe(61);
  });

  test('a fork and what it is of go their own ways', async () => {
    await sequence.append(prompt);
    await using fork = await sequence.fork();
    expect(fork.length).toBe(40);
    const [one, other] = [random.tokens(9), random.tokens(12)];
    const [ones, others] = await Promise.all([sequence.generate(one, greedy).result(), fork.generate(other, greedy).result()]);
    expect(ones.tokens).toEqual(await fresh([...prompt, ...one]));
    expect(others.tokens).toEqual(await fresh([...prompt, ...other]));
  });

  test('truncating leaves what never had the rest', async () => {
    await sequence.append(prompt);
    await sequence.generate(random.tokens(20), greedy).result();
    await sequence.truncate(30);
    expect(sequence.length).toBe(30);
    expectClose(await sequence.logits(), await freshLogits(prompt.slice(0, 30)));
    const more = random.tokens(6);
    expect((await sequence.generate(more, greedy).result()).tokens).toEqual(await fresh([...prompt.slice(0, 30), ...more]));
    await sequence.truncate(0);
    expect(sequence.length).toBe(0);
    await sequence.append(more);
    expectClose(await sequence.logits(), await freshLogits(more));
    await expect(sequence.truncate(7)).rejects.toMatchObject({ option: 'length', value: 7 });
    for (const wrong of [-1, 1.5, NaN, '3' as never]) await expect(sequence.truncate(wrong)).rejects.toThrow(OptionError);
    expect(sequence.length).toBe(6);
  });

  test('a score is that of the context', async () => {
    const text = random.tokens(60);
    const { logProbabilities: whole } = await reference.score(text);
    const alone = await sequence.score(text.slice(0, 20));
    expect(alone.logProbabilities).toHaveLength(19);
    expectClose(alone.logProbabilities, whole.subarray(0, 19));
    const rest = await sequence.score(text.slice(20));
    expect(rest).toMatchObject({ reusedTokens: expect.any(Number) as number });
    expectClose(rest.logProbabilities, whole.subarray(19));
    expect(sequence.length).toBe(60);
    expectClose(await sequence.logits(), await freshLogits(text));
  });

  test('what is saved is loaded elsewhere: another size, another number of sequences', async () => {
    await sequence.append(prompt);
    const state = await sequence.save();
    const path = join(folder, 'state');
    expect(await sequence.saveFile(path)).toBe(state.length);
    expect(new Uint8Array(readFileSync(path))).toEqual(state);
    const expected = await fresh(prompt);
    for (const other of [
      { contextSize: 512, sequences: 1 },
      { contextSize: 2048, sequences: 2, threads: 2 },
    ]) {
      await using elsewhere = await model.createContext({ ...sizes, ...mixed, ...other });
      await using loaded = await elsewhere.sequence();
      for (const given of [state, path, pathToFileURL(path)]) {
        await loaded.append([5]);
        await loaded.load(given);
        expect(loaded.length).toBe(40);
        expect((await loaded.generate([], greedy).result()).tokens).toEqual(expected);
      }
    }
  });

  test('a state that does not fit, is damaged or of something else is refused by name, and changes nothing', async () => {
    await sequence.append(prompt);
    const state = await sequence.save();
    const before = await sequence.logits();

    await using long = await context.sequence();
    await long.append(random.tokens(600));
    const tooLong = await long.save();
    await using small = await model.createContext({ ...sizes, ...mixed, contextSize: 512, sequences: 1 });
    await using there = await small.sequence();
    await there.append(prompt);
    await expect(there.load(tooLong)).rejects.toThrow(ContextFullError);
    await expect(there.load(tooLong)).rejects.toThrow(/600 tokens.* 512/);
    expect(there.length).toBe(40);

    const others: [Partial<ContextOptions>, RegExp][] = [
      [{ typeV: 'f16' }, /f16|type/i],
      [mixed.duo ? {} : { duo }, /heads/i],
      [{ duo: { ...duo, sink: 8 } }, /heads|sink/i],
      [{ duo: { ...duo, sparsity: 0.25 } }, /heads|pattern/i],
    ];
    for (const [different, message] of others) {
      await using elsewhere = await model.createContext({
        ...sizes,
        ...mixed,
        ...different,
        ...(mixed.duo && !different.duo && !different.typeV && { duo: undefined }),
      });
      await using other = await elsewhere.sequence();
      await other.append([5, 6, 7]);
      const error = await other.load(state).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(StateError);
      expect((error as Error).message).toMatch(message);
      expect(other.length).toBe(3);
    }
    await using quantized = await loadModel(needlePath);
    await using another = await quantized.createContext({ ...sizes, ...mixed });
    await using its = await another.sequence();
    await expect(its.load(state)).rejects.toThrow(/model/);

    const [first = 0] = state;
    await expect(sequence.load(state.with(0, first ^ 1))).rejects.toThrow(StateError);
    await expect(sequence.load(state.subarray(0, state.length - 1))).rejects.toThrow(/cut|short|damaged|bytes/i);
    await expect(sequence.load(new Uint8Array())).rejects.toThrow(StateError);
    await expect(sequence.load(join(folder, 'none'))).rejects.toMatchObject({ name: 'StateError' });
    writeFileSync(join(folder, 'other'), 'something else');
    await expect(sequence.load(join(folder, 'other'))).rejects.toThrow(StateError);
    await expect(sequence.load(5 as never)).rejects.toThrow(OptionError);
    await expect(sequence.saveFile(join(folder, 'none', 'state'))).rejects.toThrow(OutputError);
    expect(sequence.length).toBe(40);
    expect(await sequence.logits()).toEqual(before);
  });
});

describe('streaming heads', () => {
  test('go back so far and no further, and say how far', async () => {
    await using context = await model.createContext({ ...sizes, duo: { ...duo, sparsity: 1 } });
    await using reference = await model.createContext({ ...sizes, sequences: 1, duo: { ...duo, sparsity: 1 } });
    await using sequence = await context.sequence();
    const text = random.tokens(700);
    await sequence.append(text);
    const { resumableFrom } = sequence;
    expect(resumableFrom).toBeGreaterThan(400);
    expect(resumableFrom).toBeLessThan(700);

    const error = await sequence.truncate(resumableFrom - 1).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(StateError);
    expect(error).toMatchObject({ code: 'state', resumableFrom, message: expect.stringContaining(String(resumableFrom)) as string });
    expect(sequence.length).toBe(700);

    await sequence.truncate(resumableFrom);
    expect(sequence.length).toBe(resumableFrom);
    const more = random.tokens(3);
    const found = await sequence.generate(more, greedy).result();
    const wanted = await reference.generate([...text.slice(0, resumableFrom), ...more], { ...greedy, reuse: false }).result();
    expect(found.tokens).toEqual(wanted.tokens);
    await sequence.truncate(-0); // which Deno takes for no integer
    expect([sequence.length, sequence.resumableFrom]).toEqual([0, 0]);
  });
});

describe('texts', () => {
  test('get BOS where that is asked for, and never else', async () => {
    await using context = await model.createContext(sizes);
    const text = 'The sea is wide. <|end|>';
    const plain = model.tokenize(text, { addSpecial: false });
    await using one = await context.sequence();
    await using other = await context.sequence();
    expect(await one.append(text)).toBe(plain.length);
    expect(await other.append(text, { addSpecial: true })).toBe(plain.length + 1);
    expectClose(await one.logits(), await logitsOf(context, [...plain]));
    expectClose(await other.logits(), await logitsOf(context, [model.info.bosToken ?? NaN, ...plain]));
    expect(await one.append('<|end|>', { parseSpecial: true })).toBe(1);
    await other.truncate(0);
    expect((await other.generate(text, { ...greedy, addSpecial: true }).result()).promptTokens).toBe(plain.length + 1);
    await other.truncate(0);
    expect((await other.score(text, { addSpecial: true })).logProbabilities).toHaveLength(plain.length);
    const whole = await context.score(text);
    await other.truncate(0);
    expectClose((await other.score(text, { addSpecial: true })).logProbabilities, whole.logProbabilities);
  });

  async function logitsOf(context: Context, tokens: number[]): Promise<Float32Array> {
    await using sequence = await context.sequence();
    await sequence.append(tokens);
    return await sequence.logits();
  }

  test('that do not fit, and nothing at all, are refused; what was there is there', async () => {
    await using context = await model.createContext({ ...sizes, contextSize: 256, sequences: 1 });
    await using sequence = await context.sequence();
    await expect(sequence.logits()).rejects.toThrow(StateError);
    await expect(sequence.generate([], greedy).result()).rejects.toThrow(StateError);
    await expect(sequence.append([])).rejects.toThrow(OptionError);
    await expect(sequence.append('')).rejects.toThrow(OptionError);
    await expect(sequence.score([5])).rejects.toThrow(StateError);
    await sequence.append(prompt);
    for (const long of [random.tokens(217), 'sea '.repeat(10_000)]) {
      await expect(sequence.append(long)).rejects.toThrow(ContextFullError);
      await expect(sequence.score(long)).rejects.toThrow(ContextFullError);
      await expect(sequence.generate(long).result()).rejects.toThrow(ContextFullError);
    }
    expect(sequence.length).toBe(40);
    expect(await sequence.append(random.tokens(216))).toBe(216);
    expect(await sequence.generate(undefined, greedy).result()).toMatchObject({ generatedTokens: 1, finishReason: 'contextFull' });
    expect(sequence.length).toBe(256);
  });

  test('tell their progress while they are read', async () => {
    await using context = await model.createContext({ ...sizes, contextSize: 2048, sequences: 1 });
    await using sequence = await context.sequence();
    for (const read of [sequence.append.bind(sequence), sequence.score.bind(sequence)]) {
      const told: number[] = [];
      await read(random.tokens(900), { onProgress: (progress: number) => told.push(progress) });
      expect(told.length).toBeGreaterThan(1);
      expect(told).toEqual([...told].sort((a, b) => a - b));
      expect(told.at(-1)).toBeLessThanOrEqual(1);
    }
    const stop = new Error('enough');
    await sequence.truncate(0);
    await expect(
      sequence.append(random.tokens(900), {
        onProgress: () => {
          throw stop;
        },
      }),
    ).rejects.toBe(stop);
  });
});

describe('a sequence that is kept', () => {
  test('is its own while generations take the others and queue', async () => {
    await using context = await model.createContext({ ...sizes, sequences: 2 });
    await using kept = await context.sequence();
    await kept.append(prompt);
    const before = await kept.logits();
    const prompts = Array.from({ length: 6 }, () => random.tokens(20));
    const answers = await Promise.all(prompts.map((each) => context.generate(each, greedy).result()));
    expect(answers.map(({ generatedTokens }) => generatedTokens)).toEqual(prompts.map(() => 8));
    expect(answers.at(-1)?.queuedSeconds).toBeGreaterThan(answers[0]?.queuedSeconds ?? Infinity);
    expect(kept.length).toBe(40);
    expect(await kept.logits()).toEqual(before);
    // All are kept: the next waits until one is given back.
    const last = await context.sequence();
    const waiting = context.generate(prompt, greedy).result();
    await sleep(50);
    await last.dispose();
    expect(await waiting).toMatchObject({ generatedTokens: 8 });
  });

  test('waits to be free, and a signal ends the waiting', async () => {
    await using context = await model.createContext({ ...sizes, sequences: 2 });
    const first = await context.sequence();
    await using other = await context.sequence();
    const abort = new AbortController();
    const ends = Promise.all(
      [context.sequence({ signal: abort.signal }), first.fork({ signal: abort.signal })].map((waiting) =>
        expect(waiting).rejects.toBe('enough'),
      ),
    );
    const second = context.sequence();
    await sleep(20);
    abort.abort('enough');
    await ends;
    await first.dispose();
    await using got = await second;
    expect(await got.append(prompt)).toBe(40);
    expect(await other.append(prompt)).toBe(40);
    await expect(context.sequence({ signal: AbortSignal.abort('at once') })).rejects.toBe('at once');
  });

  test('holds up only who needs it', async () => {
    await using context = await model.createContext({ ...sizes, sequences: 2 });
    const kept = await context.sequence();
    const both = context.generate(prompt, { ...greedy, n: 2 }).result();
    await sleep(20);
    expect((await context.generate(prompt, greedy).result()).generatedTokens).toBeGreaterThan(0);
    await kept.dispose();
    expect((await both).completions).toHaveLength(2);
  });

  test('has no copy where a context has no sequence for one', async () => {
    await using context = await model.createContext({ ...sizes, sequences: 1 });
    await using sequence = await context.sequence();
    await expect(sequence.fork()).rejects.toMatchObject({ code: 'option', option: 'sequences' });
  });

  test('works on its calls in their order', async () => {
    await using context = await model.createContext({ ...sizes, sequences: 1 });
    await using sequence = await context.sequence();
    const lengths: number[] = [];
    const note = (): void => void lengths.push(sequence.length);
    const text = random.tokens(20);
    await Promise.all([
      sequence.append(prompt).then(note),
      sequence.append(text).then(note),
      sequence.truncate(50).then(note),
      sequence.score(text).then(note),
      sequence.truncate(0).then(note),
      sequence.append(text).then(note),
    ]);
    expect(lengths).toHaveLength(6);
    expect(sequence.length).toBe(20);
    await using reference = await model.createContext({ ...sizes, sequences: 1 });
    expect((await sequence.generate([], greedy).result()).tokens).toEqual((await reference.generate(text, greedy).result()).tokens);
  });

  test('aborted, keeps what was computed, and goes on', async () => {
    await using context = await model.createContext({ ...sizes, contextSize: 4096, sequences: 1 });
    await using sequence = await context.sequence();
    await sequence.append(prompt);
    const abort = new AbortController();
    const text = random.tokens(4000);
    const appended = sequence.append(text, {
      signal: abort.signal,
      onProgress: () => {
        abort.abort('enough');
      },
    });
    await expect(appended).rejects.toBe('enough');
    await sequence.truncate(40); // in its turn, when the other has ended
    expect(sequence.length).toBe(40);
    const more = random.tokens(7);
    await using reference = await model.createContext({ ...sizes, sequences: 1 });
    expect((await sequence.generate(more, greedy).result()).tokens).toEqual(
      (await reference.generate([...prompt, ...more], greedy).result()).tokens,
    );
  });

  test('goes on where its reader pauses and another call waits, and keeps the rest for the reader', async () => {
    await using context = await model.createContext({ ...sizes, sequences: 2 });
    await using sequence = await context.sequence();
    const paused = sequence.generate(prompt, { ...greedy, maxTokens: 100, readAhead: 4 });
    const other = context.generate(prompt, { ...greedy, maxTokens: 100, readAhead: 4 });
    let [read = 0] = await Promise.all([paused.next(), other.next()].map(async (next) => (await next).value?.tokens.length ?? 0));
    expect(await sequence.append([5])).toBe(1);
    expect(sequence.length).toBe(141);
    // the other's reader is not waited for by anybody
    expect((await other.next()).value?.tokens.length).toBeLessThanOrEqual(4);
    for await (const { tokens } of paused) read += tokens.length;
    expect(read).toBe(100);
    await other.return();
  });

  test('whose reader leaves holds what was read to there', async () => {
    await using context = await model.createContext({ ...sizes, sequences: 1 });
    await using sequence = await context.sequence();
    for await (const { tokens } of sequence.generate(prompt, { ...greedy, maxTokens: 500 })) {
      expect(tokens.length).toBeGreaterThan(0);
      break;
    }
    await sequence.append([5]); // in its turn
    expect(sequence.length).toBeGreaterThanOrEqual(41);
    expect(sequence.length).toBeLessThan(541);
  });
});

describe('disposing', () => {
  test('of a sequence ends its calls, and no other', async () => {
    await using context = await model.createContext({ ...sizes, contextSize: 4096, sequences: 2 });
    const sequence = await context.sequence();
    const endless = sequence.generate(prompt, { ...greedy, maxTokens: -1 });
    await endless.next();
    const waiting = sequence.append(prompt);
    const ends = [endless.result(), waiting].map((end) => expect(end).rejects.toThrow(CancelledError));
    const other = context.generate(prompt, greedy).result();
    await sequence.dispose();
    await sequence.dispose();
    await Promise.all(ends);
    expect(await other).toMatchObject({ generatedTokens: 8 });
    expect(() => sequence.length).toThrow(DisposedError);
    expect(() => sequence.generate()).toThrow(DisposedError);
    for (const call of [
      () => sequence.append(prompt),
      () => sequence.truncate(0),
      () => sequence.fork(),
      () => sequence.logits(),
      () => sequence.score(prompt),
      () => sequence.save(),
      () => sequence.load(new Uint8Array(8)),
    ])
      await expect(call()).rejects.toThrow(DisposedError);
    // both are free again
    await using one = await context.sequence();
    await using two = await context.sequence();
    expect([one.length, two.length]).toEqual([0, 0]);
  });

  test('in any order', async () => {
    const orders = [
      [0, 1, 2],
      [0, 2, 1],
      [1, 0, 2],
      [1, 2, 0],
      [2, 0, 1],
      [2, 1, 0],
    ];
    for (const order of orders) {
      const own = await loadModel(needlePath);
      const context = await own.createContext({ ...sizes, sequences: 2 });
      const sequence = await context.sequence();
      const fork = await (await context.sequence()).fork({ signal: AbortSignal.timeout(5) }).catch((reason: unknown) => reason);
      expect(fork).toMatchObject({ name: 'TimeoutError' });
      await sequence.append(prompt);
      const underWay = sequence.append(random.tokens(900)).catch((reason: unknown) => reason);
      const things = [own, context, sequence];
      for (const each of order) await things[each]?.dispose();
      expect([undefined, 'CancelledError']).toContain((await underWay) instanceof Error ? ((await underWay) as Error).name : undefined);
      await expect(sequence.append(prompt)).rejects.toThrow(DisposedError);
    }
  });

  test('of the context leaves its sequences as disposed', async () => {
    const context = await model.createContext({ ...sizes, sequences: 2 });
    const sequence = await context.sequence();
    await sequence.append(prompt);
    const stream = sequence.generate([], { ...greedy, maxTokens: -1 });
    await stream.next();
    await context.dispose();
    await expect(stream.result()).rejects.toThrow(CancelledError);
    await expect(sequence.append(prompt)).rejects.toThrow(DisposedError);
    await expect(sequence.fork()).rejects.toThrow(DisposedError);
    await expect(context.sequence()).rejects.toThrow(DisposedError);
    await sequence.dispose();
  });

  test('of one context leaves another, whose sequences are its own', async () => {
    const one = await model.createContext({ ...sizes, sequences: 1 });
    await using other = await model.createContext({ ...sizes, sequences: 1, duo });
    const [first, second] = [await one.sequence(), await other.sequence()];
    await Promise.all([first.append(prompt), second.append(prompt.slice(0, 9))]);
    await one.dispose();
    expect(second.length).toBe(9);
    expect(await second.append(prompt.slice(9))).toBe(31);
    expect((await second.generate([], greedy).result()).generatedTokens).toBe(8);
    await Promise.all([first.dispose(), second.dispose()]);
  });
});
