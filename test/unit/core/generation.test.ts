import { describe, expect, test, vi } from 'vitest';

import { CancelledError, ContextFullError, DisposedError, OptionError } from '../../../src/errors.ts';
import { JobState } from '../../../src/ffi/native.ts';
import type { Generation } from '../../../src/core/generation.ts';
import type { GenerateOptions } from '../../../src/core/option-types.ts';
import { Job } from '../../../src/ffi/job.ts';
import type { ModelInfo } from '../../../src/core/model.ts';
import { Model } from '../../../src/gates/model.ts';
import type { Context } from '../../../src/core/context.ts';
import { FakeLibrary, type Turn } from '../fake-library.ts';

const { done, failed, cancelled } = JobState;
const end: Turn = { state: done };
/** How a generation ended, as the library tells it and as a program sees it. */
const stats = { stop: 'length', generatedTokens: 3 };
const ended = { finishReason: 'length', generatedTokens: 3 };

async function open(): Promise<{ library: FakeLibrary; model: Model; context: Context }> {
  const library = new FakeLibrary();
  const model = new Model(library.native, { model: 7 } as ModelInfo & { model: number });
  library.play([end], { context: 9, contextSize: 64, contextPerSequence: 64, kv: { totalBytes: 5, chunk: 8 } });
  return { library, model, context: await model.createContext({ contextSize: 64 }) };
}

async function read(generation: Generation): Promise<string[]> {
  const texts: string[] = [];
  for await (const { text } of generation) texts.push(text);
  return texts;
}

describe('a context', () => {
  test('passes its options, reports its sizes and memory', async () => {
    const { library, context } = await open();
    expect(JSON.parse(library.jobs[0]?.request ?? '')).toEqual({ contextSize: 64 });
    expect(context.info).toEqual({ contextSize: 64 });
    expect(context.memory()).toEqual({ totalBytes: 5, windowStep: 8 });
  });

  test('is given back once, and refuses work afterwards', async () => {
    const { library, context } = await open();
    await context.dispose();
    await context[Symbol.asyncDispose]();
    expect(library.freedContexts).toEqual([9]);
    expect(() => context.generate('x')).toThrow(DisposedError);
    expect(() => context.generate('x')).toThrow('This context has been disposed');
  });

  test('resolves its disposal when its memory is free, to whoever asks', async () => {
    const { library, context } = await open();
    library.release = [{}, {}, {}, end];
    const first = context.dispose();
    await context.dispose();
    await first;
    expect(library.jobs.at(-1)).toMatchObject({ turns: [end], freed: true });
    expect(library.freedContexts).toEqual([9]);
  });

  test('ends what is under way when it is disposed, and tells whoever waits', async () => {
    const { library, context } = await open();
    const unread = context.generate('x');
    library.play([{ text: 'a' }, {}]);
    const paused = context.generate('x');
    await paused.next();
    const waiting = [paused.result(), context.generate('x').next(), context.generate('x').text(), context.score([1, 2])];
    const ends = waiting.map((end) => expect(end).rejects.toThrow(CancelledError));
    await new Promise((resolve) => setTimeout(resolve, 20));
    for (const job of library.jobs) job.turns = [{ state: cancelled }];
    await context.dispose();
    await Promise.all(ends);
    await expect(paused.next()).rejects.toThrow('disposed of before the end');
    await expect(unread.result()).rejects.toThrow(DisposedError);
    expect(library.jobs.every(({ freed }) => freed)).toBe(true);
  });
});

describe('a model', () => {
  test('is given back once; afterwards it is an error to use it', async () => {
    const { library, model, context } = await open();
    await model.dispose();
    await model.dispose();
    expect(library.freedModels).toEqual([7]);
    expect(() => model.tokenize('x')).toThrow('This model has been disposed');
    await expect(model.createContext()).rejects.toThrow(DisposedError);
    library.play([end], stats);
    await expect(context.generate('text').result()).resolves.toMatchObject(ended); // its context lives on
  });

  test('tokenizes and detokenizes', async () => {
    const { library, model } = await open();
    expect(model.tokenize('abc')).toEqual(Int32Array.of(97, 98, 99));
    expect(model.detokenize([97, 98])).toBe('ab');
    library.play([{}, end]);
    await expect(model.tokenizeAsync('abc')).resolves.toEqual(Int32Array.of(97, 98, 99));
    await expect(model.tokenizeAsync('abc', { signal: AbortSignal.abort('no') })).rejects.toBe('no');
  });
});

describe('a generation', () => {
  test('streams text and tokens, then gives its result', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a', tokens: [1] }, {}, { text: 'bc', tokens: [2, 3] }, end], stats);
    const generation = context.generate('hi', { maxTokens: 3, temperature: 0, signal: new AbortController().signal });
    const chunks = [];
    for await (const chunk of generation) chunks.push(chunk);
    expect(chunks).toEqual([
      { text: 'a', tokens: Int32Array.of(1), index: 0 },
      { text: 'bc', tokens: Int32Array.of(2, 3), index: 0 },
    ]);
    await expect(generation.result()).resolves.toMatchObject(ended);
    expect(library.jobs[1]).toMatchObject({ prompt: 'hi', request: '{"maxTokens":3,"temperature":0}', freed: true });
  });

  test('collects', async () => {
    const { library, context } = await open();
    library.play(
      [
        { text: 'a', tokens: [1] },
        { text: 'b', tokens: [2], state: done },
      ],
      stats,
    );
    await expect(context.generate([5]).result()).resolves.toMatchObject({ text: 'ab', tokens: Int32Array.of(1, 2), ...ended });
  });

  test('starts with its first read, so one that is never read costs nothing', async () => {
    const { library, context } = await open();
    const unread = context.generate('x');
    expect(library.jobs).toHaveLength(1);
    await unread.return();
    expect(library.jobs).toHaveLength(1);
    await expect(unread.next()).resolves.toEqual({ done: true, value: undefined });
    await expect(unread.result()).rejects.toThrow(CancelledError);
  });

  test('leaving the loop cancels the job and gives it back', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a', tokens: [1] }]);
    const generation = context.generate('x');
    for await (const { text } of generation) {
      expect(text).toBe('a');
      break;
    }
    expect(library.jobs[1]).toMatchObject({ cancelled: true, freed: true });
    await expect(generation.result()).rejects.toThrow(CancelledError);
  });

  test('an error in the loop cancels too', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a', tokens: [1] }]);
    const loop = async (): Promise<void> => {
      for await (const { text } of context.generate('x')) throw new Error(text);
    };
    await expect(loop()).rejects.toThrow('a');
    expect(library.jobs[1]).toMatchObject({ cancelled: true, freed: true });
  });

  test('return() ends a next() that waits', async () => {
    const { context } = await open();
    const generation = context.generate('x');
    const waiting = generation.next();
    await generation.return();
    await expect(waiting).resolves.toEqual({ done: true, value: undefined });
  });

  test('aborting rejects with the reason, while it waits and between reads', async () => {
    const { library, context } = await open();
    const reason = new Error('enough');
    for (const turns of [[{}], [{ text: 'a', tokens: [1] }, {}]]) {
      const abort = new AbortController();
      library.play(turns);
      const generation = context.generate('x', { signal: abort.signal });
      setTimeout(() => {
        abort.abort(reason);
      }, 20);
      await expect(read(generation)).rejects.toBe(reason);
      await expect(generation.result()).rejects.toBe(reason);
      expect(library.jobs.at(-1)).toMatchObject({ cancelled: true, freed: true });
    }
  });

  test('a signal that is aborted already: nothing is submitted', async () => {
    const { library, context } = await open();
    await expect(read(context.generate('x', { signal: AbortSignal.abort('no') }))).rejects.toBe('no');
    expect(library.jobs).toHaveLength(1);
  });

  test('a failed job rejects with its typed error', async () => {
    const { library, context } = await open();
    library.scripts.push({ turns: [{ text: 'a' }, { state: failed }], error: { code: 'full', message: 'The context is full.' } });
    const generation = context.generate('x');
    await expect(read(generation)).rejects.toThrow(ContextFullError);
    await expect(generation.result()).rejects.toThrow('The context is full.');
    expect(library.jobs[1]).toMatchObject({ freed: true });
  });

  test('an engine whose reader is slow is not drained meanwhile', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a' }, { text: 'b' }, { text: 'c' }, end]);
    const generation = context.generate('x');
    await generation.next();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(library.jobs[1]?.turns).toHaveLength(3);
    await generation.return();
  });

  test('tells its progress while the prompt is read', async () => {
    const { library, context } = await open();
    const job: Turn[] = [{}, { progress: 0.5 }, {}, { progress: 0.5 }, {}, { progress: 1 }, { text: 'a' }, end];
    library.play(job, stats);
    const onProgress = vi.fn();
    await read(context.generate('x', { onProgress }));
    expect(onProgress.mock.calls).toEqual([[0.5], [1]]);
  });

  test.each<[GenerateOptions, RegExp]>([
    [{ temperature: -1 }, /temperature: expected a number of at least 0/],
    [{ temperature: NaN }, /got NaN/],
    [{ maxTokens: -2 }, /maxTokens/],
    [{ seed: 2 ** 32 }, /seed: expected an integer from 0 to 4294967295/],
    [{ stop: 5 as unknown as string[] }, /stop: expected a non-empty string, or an array of them/],
    [{ stop: ['x', ''] }, /stop: expected a non-empty string, or an array of them/],
    [{ maxToken: 5 } as GenerateOptions, /Did you mean maxTokens/],
  ])('bad options %o throw at once', async (options, message) => {
    const { context } = await open();
    expect(() => context.generate('x', options)).toThrow(OptionError);
    expect(() => context.generate('x', options)).toThrow(message);
  });

  test("options have the library's names and forms in what it gets", async () => {
    const { library, context } = await open();
    library.play([end], stats);
    await context.generate('x', { stop: 'a', readAhead: 8, topK: undefined, signal: new AbortController().signal }).result();
    expect(JSON.parse(library.jobs.at(-1)?.request ?? '')).toEqual({ stop: ['a'], window: 8 });
  });

  test('a prompt that is changed after the call stays as it was', async () => {
    const { library, context } = await open();
    const prompt = Int32Array.of(1, 2);
    library.play([end], stats);
    const generation = context.generate(prompt);
    prompt.fill(9);
    await read(generation);
    expect(library.jobs[1]?.tokens).toEqual([1, 2]);
  });

  test('no ids at all throw at once', async () => {
    const { context } = await open();
    expect(() => context.generate([])).toThrow(/prompt: expected at least one token/);
    expect(() => context.generate([])).toThrow(OptionError);
  });

  test('gives its result without a reader, and keeps what was not read', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a', tokens: [1] }, {}, { text: 'b', tokens: [2] }, end], stats);
    const generation = context.generate('x');
    await expect(generation.result()).resolves.toMatchObject(ended);
    expect(await read(generation)).toEqual(['a', 'b']);
  });

  test('gives its result within its own loop', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a' }, { text: 'b' }, {}, { text: 'c' }, end], stats);
    const generation = context.generate('x');
    const texts: string[] = [];
    for await (const { text } of generation) {
      texts.push(text);
      await expect(generation.result()).resolves.toMatchObject(ended);
    }
    expect(texts).toEqual(['a', 'b', 'c']);
  });

  test('collects the same, whenever it is asked', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a', tokens: [1] }, { text: 'b', tokens: [2] }, end], stats);
    const generation = context.generate('x');
    const first = await generation.result();
    expect(first).toMatchObject({ text: 'ab', tokens: Int32Array.of(1, 2) });
    expect(await generation.result()).toEqual(first);
    expect(await generation.text()).toBe('ab');
  });

  test('reads side by side get one chunk each, in order', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a' }, { text: 'b' }, end], stats);
    const generation = context.generate('x');
    const [first, second, third, fourth] = await Promise.all([1, 2, 3, 4].map(() => generation.next()));
    expect([first?.value?.text, second?.value?.text, third?.done, fourth?.done]).toEqual(['a', 'b', true, true]);
  });

  test('an abort between reads settles the result at once, and ends the job', async () => {
    const { library, context } = await open();
    library.play([{ text: 'a' }]);
    const abort = new AbortController();
    const generation = context.generate('x', { signal: abort.signal });
    await generation.next();
    abort.abort('enough');
    expect(library.jobs[1]).toMatchObject({ cancelled: true, freed: true });
    await expect(generation.result()).rejects.toBe('enough');
    await expect(generation.next()).rejects.toBe('enough');
    await expect(generation.next()).resolves.toEqual({ done: true, value: undefined });
  });

  test('many of one signal: none of them is warned of, and all end', async () => {
    const { library, context } = await open();
    const warned = vi.fn();
    process.on('warning', warned);
    const abort = new AbortController();
    const ends = Array.from({ length: 40 }, () => expect(context.generate('x', { signal: abort.signal }).text()).rejects.toBe('all'));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(library.jobs).toHaveLength(41);
    abort.abort('all');
    await Promise.all(ends);
    process.off('warning', warned);
    expect(warned).not.toHaveBeenCalled();
  });

  test('more than a drain holds comes in several, characters whole', async () => {
    const { library, context } = await open();
    const tokens = Array.from({ length: 700 }, (_, index) => index);
    const text = '模型🦙'.repeat(4000);
    library.play([{ text, tokens, state: done }], stats);
    const all = await context.generate('x').result();
    expect(all.text).toBe(text);
    expect([...all.tokens]).toEqual(tokens);
  });

  test('bytes that are no text do not end it', async () => {
    const { library, context } = await open();
    library.play([{ text: Uint8Array.of(0x61, 0xff, 0xf0, 0x9f), tokens: [1] }, end], stats);
    await expect(context.generate('x').text()).resolves.toMatch(/^a\ufffd+$/);
  });
});

test('a job is given back once', () => {
  const library = new FakeLibrary();
  const job = new Job(library.native, library.native.modelLoad('{}'));
  job.free();
  job.free();
  job.cancel();
  expect(library.jobs[0]).toMatchObject({ freed: true });
  expect(() => job.poll()).toThrow(DisposedError);
});
