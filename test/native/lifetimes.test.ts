import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';

import { DisposedError } from '../../src/errors.ts';
import { openNative, type Handle, type Native } from '../../src/ffi/native.ts';
import { CancelledError, loadModel, type Context, type Model, type Score } from '../../src/index.ts';
import { collectGarbage, collectUntil } from './garbage.ts';
import { needlePath, sleep, threads } from './needle.ts';

const endless = { ignoreEos: true, temperature: 0 };
const greedy = { temperature: 0, maxTokens: 24, ignoreEos: true };

let native: Native;
let model: Model;
let context: Context;
const warnings: Error[] = [];
const hear = (warning: Error): void => void warnings.push(warning);
beforeAll(async () => {
  process.on('warning', hear);
  native = await openNative();
  model = await loadModel(needlePath);
  context = await model.createContext({ contextSize: 2048, threads });
});
afterAll(async () => {
  process.off('warning', hear);
  vi.restoreAllMocks();
  await context.dispose();
  await model.dispose();
});

/** A promise settles soon, however it does. */
async function settles<T>(promise: Promise<T>, ms = 20_000): Promise<T> {
  let timer;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error('it did not settle'));
    }, ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Whether the library has that job no more. */
function isGone(job: Handle): boolean {
  try {
    native.jobPoll(job);
    return false;
  } catch (error) {
    if (error instanceof DisposedError) return true;
    throw error;
  }
}

/** Collects garbage for as long as a promise is pending. */
async function whileCollecting<T>(promise: Promise<T>): Promise<T> {
  const pending = { yes: true };
  const done = promise.finally(() => {
    pending.yes = false;
  });
  done.catch(() => {});
  while (pending.yes) await collectGarbage(1);
  return done;
}

describe('what works is not collected as garbage', () => {
  // Each function drops all but the promise.
  const own = async (): Promise<Context> => model.createContext({ contextSize: 4096, threads });
  const ids = (count: number): Int32Array => new Int32Array(count).map((_, index) => 10 + (index % 400));

  test('a score of a context that nothing refers to', async () => {
    const scored = async (): Promise<Score> => (await own()).score(ids(500));
    expect((await whileCollecting(scored())).logProbabilities).toHaveLength(499);
  });

  test('a generation that is read', async () => {
    const answer = async (): Promise<string> => (await own()).generate(ids(300), greedy).text();
    expect((await whileCollecting(answer())).length).toBeGreaterThan(0);
  });

  test('a generation whose result alone is waited for', async () => {
    const result = async (): Promise<number> => (await (await own()).generate(ids(300), greedy).result()).generatedTokens;
    expect(await whileCollecting(result())).toBe(24);
  });

  test('a single next()', async () => {
    const first = async (): Promise<boolean | undefined> => (await (await own()).generate(ids(300), endless).next()).done;
    expect(await whileCollecting(first())).toBe(false);
  });

  test('a model that loads, its context, its plan, its tokens', async () => {
    const fresh = async (): Promise<Context> => (await loadModel(needlePath)).createContext({ contextSize: 512, threads });
    const made = await whileCollecting(fresh());
    expect(await made.generate('The sea', greedy).text()).not.toBe('');
    await made.dispose();
    const planned = async (): Promise<boolean> => (await (await loadModel(needlePath)).planContext()).supported;
    expect(await whileCollecting(planned())).toBe(true);
    const counted = async (): Promise<number> => (await (await loadModel(needlePath)).tokenizeAsync('The sea. '.repeat(50_000))).length;
    expect(await whileCollecting(counted())).toBeGreaterThan(50_000);
  });

  test('a calibration', async () => {
    const options = { samples: 1, questions: 2, contextSize: 512, sink: 4, recent: 32, threads, method: 'mass' } as const;
    const found = async (): Promise<number> => (await (await loadModel(needlePath)).calibrate(options)).passes;
    expect(await whileCollecting(found())).toBeGreaterThan(0);
  });
});

describe('what is dropped is given back', () => {
  // LLAMA_DUO_TEST_ROUNDS: 1000 shows that nothing adds up.
  const count = Number(process.env['LLAMA_DUO_TEST_ROUNDS'] ?? 50);

  test(`${count} generations that were begun and dropped`, { timeout: 60_000 + count * 500 }, async () => {
    const jobs: Handle[] = [];
    const submit = vi.spyOn(native, 'generate');
    const drop = async (): Promise<void> => {
      await context.generate('Once', { ...endless, maxTokens: 32, readAhead: 4 }).next();
      jobs.push(submit.mock.results.at(-1)?.value as Handle);
    };
    for (let index = 0; index < count; index++) {
      await drop();
      // The engine has more to do while garbage waits, and must not be held up by it.
      if (index % 10 === 9) expect(await collectUntil(() => jobs.filter((job) => !isGone(job)).length <= 2)).toBe(true);
    }
    submit.mockRestore();
    expect(jobs).toHaveLength(count);
    expect(await collectUntil(() => jobs.filter((job) => !isGone(job)).length <= 1)).toBe(true);
    expect((await settles(context.generate('Once', greedy).result())).generatedTokens).toBe(24);
  });

  test('a context, with a warning', async () => {
    const freed = vi.spyOn(native, 'contextFree');
    const drop = async (): Promise<void> => {
      const dropped = await model.createContext({ contextSize: 512, threads });
      await dropped.generate('Once', greedy).next();
    };
    for (let round = 0; round < 3; round++) await drop();
    expect(await collectUntil(() => freed.mock.calls.length >= 2)).toBe(true);
    freed.mockRestore();
    await new Promise((resolve) => setTimeout(resolve, 5));
    // Once, whatever else was forgotten.
    expect(warnings.filter(({ message }) => message.startsWith('A context'))).toMatchObject([
      {
        name: 'LlamaDuoWarning',
        code: 'LLAMA_DUO_FORGOTTEN',
        message: 'A context was dropped without dispose(). Its memory is given back only now, when the garbage collector found it.',
      },
    ]);
  });
});

describe('nothing waits for ever', () => {
  test('a result that nobody reads', async () => {
    const generation = context.generate('Once', greedy);
    expect((await settles(generation.result())).generatedTokens).toBe(24);
    expect(await generation.text()).not.toBe('');
  });

  test('a result whose signal is aborted between reads', async () => {
    const abort = new AbortController();
    const generation = context.generate('Once', { ...endless, signal: abort.signal });
    await generation.next();
    const result = generation.result();
    abort.abort('enough');
    await expect(settles(result)).rejects.toBe('enough');
    await expect(settles(generation.next())).rejects.toBe('enough');
  });

  test('results and readers of a context that is disposed of', async () => {
    const own = await model.createContext({ contextSize: 512, threads });
    const paused = own.generate('Once', { ...endless, readAhead: 4 });
    await paused.next();
    const waiting = own.generate('Twice', endless);
    const promises: Promise<unknown>[] = [paused.result(), waiting.next(), own.score('A text.'), own.generate('Thrice').text()];
    const ends = promises.map((end) => expect(settles(end)).rejects.toThrow(CancelledError));
    await sleep(20);
    await settles(own.dispose());
    await Promise.all(ends);
  });

  test('a generation behind one whose reader pauses', async () => {
    const paused = context.generate('Once', { ...endless, maxTokens: 300, readAhead: 8 });
    const first = await paused.next();
    let read = first.value?.tokens.length ?? 0;
    const other = await settles(context.generate('Twice', greedy).result());
    expect(other.generatedTokens).toBe(24);
    expect((await settles(context.score('The sea is wide.'))).logProbabilities.length).toBeGreaterThan(2);
    // And the slow reader finds all of it.
    expect((await settles(paused.result())).tokens).toHaveLength(300);
    for await (const { tokens } of paused) read += tokens.length;
    expect(read).toBe(300);
  });

  test('a generation behind one that was dropped', async () => {
    const drop = async (): Promise<void> => {
      await context.generate('Once', { ...endless, maxTokens: 300, readAhead: 8 }).next();
    };
    await drop();
    expect((await settles(context.generate('Twice', greedy).result())).generatedTokens).toBe(24);
  });

  test('disposing while a grammar takes long for a token', async () => {
    const own = await model.createContext({ contextSize: 512, threads });
    const rule = (index: number): string => `${index === 0 ? 'root' : `r${index}`} ::= "q"? r${index + 1}`;
    const grammar = [...Array.from({ length: 3000 }, (_, index) => rule(index)), 'r3000 ::= "q"'].join('\n');
    const generation = own.generate('Queue:', { grammar, ignoreEos: true });
    const end = expect(generation.text()).rejects.toThrow(CancelledError);
    await sleep(500);
    await settles(own.dispose(), 5000);
    await end;
  });
});

describe('disposing', () => {
  const rss = (): number => process.memoryUsage.rss();

  test('resolves when the memory is free, so that it can be had again', async () => {
    const megabyte = 1024 * 1024;
    const options = { contextSize: 16384, threads };
    const round = async (): Promise<{ withIt: number; after: number }> => {
      const own = await model.createContext(options);
      const withIt = rss();
      await own.dispose();
      return { withIt, after: rss() };
    };
    await round();
    const bytes = (await model.planContext(options)).kv?.totalBytes ?? 0;
    expect(bytes).toBeGreaterThan(50 * megabyte);
    for (let rounds = 0; rounds < 2; rounds++) {
      const { withIt, after } = await round();
      expect(withIt - after).toBeGreaterThan(0.8 * bytes);
    }
  });

  test('a model first: its contexts go on', async () => {
    const own = await loadModel(needlePath);
    const other = await own.createContext({ contextSize: 512, threads });
    await settles(own.dispose());
    expect(() => own.tokenize('x')).toThrow(DisposedError);
    expect(await other.generate('Once', greedy).text()).toBe(await context.generate('Once', greedy).text());
    await settles(Promise.all([other.dispose(), other.dispose(), own.dispose()]));
  });
});

describe('text', () => {
  test('is what its tokens are', async () => {
    const text = 'The lamp of Rome is 12345. What is it?';
    const tokens = model.tokenize(text, { parseSpecial: true });
    expect(await model.tokenizeAsync(text, { parseSpecial: true })).toEqual(tokens);
    expect(await context.generate(text, greedy).result()).toMatchObject({
      promptTokens: tokens.length,
      tokens: (await context.generate(tokens, greedy).result()).tokens,
    });
    const [byText, byTokens] = [await context.score(text), await context.score(tokens)];
    expect(byText.logProbabilities).toHaveLength(byTokens.logProbabilities.length);
  });

  test('that cannot fit is refused soon, and one that is read can be aborted', async () => {
    const text = 'a'.repeat(50_000_000);
    await expect(settles(context.generate(text).text(), 5000)).rejects.toMatchObject({ code: 'full' });
    const abort = new AbortController();
    const tokens = model.tokenizeAsync(text, { signal: abort.signal });
    setTimeout(() => {
      abort.abort('enough');
    }, 100);
    await expect(settles(tokens, 5000)).rejects.toBe('enough');
  });
});
