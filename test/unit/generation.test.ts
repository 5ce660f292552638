import { describe, expect, test, vi } from 'vitest';

import { CancelledError, ContextFullError, DisposedError, OptionError } from '../../src/errors.ts';
import { JobState } from '../../src/ffi/native.ts';
import type { GenerateOptions, Generation } from '../../src/generation.ts';
import { Job } from '../../src/job.ts';
import { Model, type ModelInfo } from '../../src/model.ts';
import type { Context } from '../../src/context.ts';
import { FakeLibrary, type Turn } from './fake-library.ts';

const { running, done, failed, cancelled } = JobState;
const end: Turn = { state: done };
const stats = { stop: 'length', generatedTokens: 3 };

async function open(): Promise<{ library: FakeLibrary; model: Model; context: Context }> {
  const library = new FakeLibrary();
  const model = new Model(library.native, { model: 7 } as ModelInfo & { model: number });
  library.play([end], { context: 9, contextSize: 64, kv: { totalBytes: 5 } });
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
    expect(context.memory()).toEqual({ totalBytes: 5 });
  });

  test('is given back once, and refuses work afterwards', async () => {
    const { library, context } = await open();
    await context.dispose();
    await context[Symbol.asyncDispose]();
    expect(library.freedContexts).toEqual([9]);
    expect(() => context.generate('x')).toThrow(DisposedError);
    expect(() => context.generate('x')).toThrow('This context has been disposed');
  });

  test('waits for what works on it when it is disposed', async () => {
    const { library, context } = await open();
    library.play([{ state: running, text: 'a' }, { state: running }, { state: running }, { state: cancelled }]);
    const generation = context.generate('x');
    await generation.next();
    await context.dispose();
    expect(library.jobs[1]?.turns).toHaveLength(1);
    await expect(generation.next()).rejects.toThrow(CancelledError);
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
    expect(() => context.generate('text')).toThrow(DisposedError);
    expect(() => context.generate([1, 2])).not.toThrow();
  });

  test('tokenizes and detokenizes', async () => {
    const { model } = await open();
    expect(model.tokenize('abc')).toEqual(Int32Array.of(97, 98, 99));
    expect(model.detokenize([97, 98])).toBe('ab');
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
      { text: 'a', tokens: Int32Array.of(1) },
      { text: 'bc', tokens: Int32Array.of(2, 3) },
    ]);
    await expect(generation.result).resolves.toEqual(stats);
    expect(generation.promptTokens).toEqual(Int32Array.of(104, 105));
    expect(library.jobs[1]).toMatchObject({ tokens: [104, 105], request: '{"maxTokens":3,"temperature":0}', freed: true });
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
    await expect(context.generate([5]).collect()).resolves.toEqual({ text: 'ab', tokens: Int32Array.of(1, 2), ...stats });
  });

  test('starts with its first read, so one that is never read costs nothing', async () => {
    const { library, context } = await open();
    const unread = context.generate('x');
    expect(library.jobs).toHaveLength(1);
    await unread.return();
    expect(library.jobs).toHaveLength(1);
    await expect(unread.next()).resolves.toEqual({ done: true, value: undefined });
    await expect(unread.result).rejects.toThrow(CancelledError);
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
    await expect(generation.result).rejects.toThrow(CancelledError);
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
      await expect(generation.result).rejects.toBe(reason);
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
    await expect(generation.result).rejects.toThrow('The context is full.');
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
    [{ stop: 'x' as unknown as string[] }, /stop: expected an array of non-empty strings/],
    [{ maxToken: 5 } as GenerateOptions, /Did you mean maxTokens/],
  ])('bad options %o throw at once', async (options, message) => {
    const { context } = await open();
    expect(() => context.generate('x', options)).toThrow(OptionError);
    expect(() => context.generate('x', options)).toThrow(message);
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

  test('an empty prompt throws at once', async () => {
    const { context } = await open();
    expect(() => context.generate('')).toThrow(/prompt: expected at least one token/);
    expect(() => context.generate([])).toThrow(OptionError);
  });
});

test('a job is given back once', () => {
  const library = new FakeLibrary();
  const job = new Job(library.native, library.native.modelLoad('{}'));
  job.free();
  job.free();
  job.cancel();
  expect(job.over).toBe(true);
});
