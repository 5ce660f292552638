import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  ContextError,
  GrammarError,
  loadModel,
  ModelError,
  OptionError,
  parseGates,
  readGates,
  type Context,
  type Model,
} from '../../src/index.ts';
import { needleGates, needlePath } from './needle-model.ts';

let model: Model;
let context: Context;
beforeAll(async () => {
  model = await loadModel(needlePath);
  context = await model.createContext({ contextSize: 1024, threads: 1 });
});
afterAll(async () => {
  await context.dispose();
  await model.dispose();
});

describe('grammars', () => {
  test.each([0, 0.8])('the end of one ends the text, at temperature %d, with ignoreEos too', async (temperature) => {
    const answer = context.generate('the', { temperature, grammar: 'root ::= " yes"', ignoreEos: true });
    expect(await answer.result()).toMatchObject({ text: ' yes', finishReason: 'stop' });
  });

  test.each([
    ['at once', 'root ::= "\\x00"', ''],
    ['later', 'root ::= "ab" "\\x00"', 'ab'],
  ])('one that allows no token, %s, is an error that has the text so far', async (_, grammar, text) => {
    for (const options of [{ temperature: 0 }, { temperature: 0.8, ignoreEos: true }]) {
      const generation = context.generate('the', { ...options, grammar });
      let read = '';
      const error = await (async () => {
        for await (const chunk of generation) read += chunk.text;
      })().catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(GrammarError);
      expect(error).toMatchObject({ code: 'grammar', text });
      expect(read).toBe(text);
    }
  });

  test('one that is not a grammar is told where it is wrong, without the whole of it', async () => {
    const grammar = `root ::= "a"\n${'x ::= "b"\n'.repeat(5000)}y ::= (`;
    const error = await context
      .generate('the', { grammar })
      .result()
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({ option: 'grammar', expected: expect.stringContaining("expecting ')'") as string });
    expect((error as Error).message.length).toBeLessThan(2000);
  });
});

describe('what a caller got wrong is named', () => {
  test('a token that never was, and a model without what is asked of it', async () => {
    const wrong = model.info.vocabularySize;
    expect(() => model.detokenize([1, wrong])).toThrow(
      `Bad value for tokens[1]: expected a token id, from 0 to ${wrong - 1}, got ${wrong}`,
    );
    expect(() => model.detokenize(Int32Array.of(-1))).toThrow(OptionError);
    await expect(context.generate([wrong]).result()).rejects.toMatchObject({ code: 'option', option: 'prompt' });
    await expect(context.score([5])).rejects.toMatchObject({ code: 'option', option: 'text' });
    await expect(context.score([5, wrong])).rejects.toMatchObject({ code: 'option', option: 'text' });
  });

  test('half of a surrogate pair, wherever it is', async () => {
    expect(() => context.generate('the', { stop: ['a', '\ud83d'] })).toThrow(/stop\[1\]: expected text without halves of surrogate pairs/);
    await expect(model.planContext({ duo: { gates: '\udc00' } })).rejects.toThrow(/duo\.gates: expected "auto", a path/);
    await expect(loadModel('\ud83d.gguf')).rejects.toThrow(/source: expected a path or a file URL/);
    await expect(parseGates('0.5\t\ud83d')).rejects.toThrow(OptionError);
    await context.generate('the', { stop: ['\u{1f600}', '\\ud83d'], maxTokens: 1 }).result();
  });

  test.each([new URL('ftp://example.org/m.gguf'), new URL('file:///a%2Fb'), '', 'a\0b'])('%s is no path', async (path) => {
    const error = { name: 'OptionError', expected: 'a path or a file URL' };
    await expect(loadModel(path)).rejects.toMatchObject({ ...error, option: 'source' });
    await expect(readGates(path)).rejects.toMatchObject({ ...error, option: 'source' });
    await expect(model.planContext({ duo: { gates: path } })).rejects.toMatchObject({ name: 'OptionError', option: 'duo.gates' });
    const pattern = await readGates(needleGates);
    await expect(pattern.embed(path, 'x.gguf')).rejects.toMatchObject({ ...error, option: 'model' });
    await expect(model.calibrate({ partial: path })).rejects.toMatchObject({ ...error, option: 'partial' });
  });

  test('values that JSON has no form for', async () => {
    const gates = { llamaDuoPattern: 1, layers: 1n } as never;
    await expect(model.planContext({ duo: { gates } })).rejects.toThrow(/expected values that JSON has .*BigInt/);
  });

  test.runIf(process.platform === 'linux')('a copy takes the place of no device', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'llama-duo-'));
    const fifo = join(folder, 'fifo');
    spawnSync('mkfifo', [fifo]);
    const pattern = await readGates(needleGates);
    await expect(pattern.embed(needlePath, fifo)).rejects.toThrow(/no file that a copy could take the place of/);
    expect(statSync(fifo).isFIFO()).toBe(true);
    rmSync(folder, { recursive: true });
  });

  test('a format that is none', async () => {
    const pattern = await readGates(needleGates);
    expect(() => pattern.format('yaml' as 'json')).toThrow('Bad value for as: expected one of json, tsv');
  });
});

describe('files are where they were', () => {
  test('a file URL is a path', async () => {
    const url = pathToFileURL(needleGates);
    const named = await model.planContext({ contextSize: 1024, duo: { gates: url } });
    expect(named).toEqual(await model.planContext({ contextSize: 1024, duo: { gates: 'auto' } }));
    await using other = await loadModel(pathToFileURL(needlePath));
    expect(other.info.path).toBe(needlePath);
  });

  test('a relative path means the same after the process has gone to another folder', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'llama-duo-'));
    copyFileSync(needlePath, join(folder, 'm.gguf'));
    copyFileSync(needleGates, join(folder, 'm.duo.json'));
    const before = process.cwd();
    process.chdir(folder);
    const gates = relative(process.cwd(), join(folder, 'm.duo.json'));
    await using own = await loadModel('m.gguf', { weights: false });
    const planning = own.planContext({ contextSize: 1024, duo: { gates } });
    process.chdir(before);
    expect(await planning).toEqual(await own.planContext({ contextSize: 1024, duo: { gates: 'auto' } }));
    rmSync(folder, { recursive: true });
  });
});

describe('plans', () => {
  test.each([
    { flashAttention: 'off' },
    { flashAttention: 'off', typeK: 'q8_0' },
    { typeK: 'q8_0', typeV: 'q4_0' },
    { duo: { gates: 'auto' } },
  ] as const)('%o: what is planned is what is made', async (options) => {
    const sizes = { contextSize: 1024, threads: 1, ...options };
    const plan = await model.planContext(sizes);
    await using made = await model.createContext(sizes);
    expect(plan).toEqual({ supported: true, reason: null, kv: made.memory(), draftKv: null, warnings: [] });
  });

  test('what cannot be made is not planned, in the same words', async () => {
    const sizes = { contextSize: 1024, flashAttention: 'off', typeV: 'q8_0' } as const;
    const plan = await model.planContext(sizes);
    expect(plan).toMatchObject({ supported: false, kv: null, reason: expect.stringContaining('quantized V cache') as string });
    await expect(model.createContext(sizes)).rejects.toThrow(plan.reason ?? '');
  });

  test('a context beyond what the model was trained for says so', async () => {
    const contextSize = model.info.trainedContextSize + 4096;
    const warnings = [{ code: 'beyond-training', message: expect.stringContaining(String(model.info.trainedContextSize)) as string }];
    expect((await model.planContext({ contextSize })).warnings).toEqual(warnings);
    await using made = await model.createContext({ contextSize, threads: 1, duo: { sparsity: 1 } });
    expect(made.info.warnings).toEqual(warnings);
    expect((await model.planContext()).warnings).toEqual([]);
    expect(context.info.warnings).toEqual([]);
  });

  test('batches are as large as the context that few tokens are rounded up to', async () => {
    await using made = await model.createContext({ contextSize: 300, threads: 1 });
    expect(made.info).toMatchObject({ contextSize: 512, batchSize: 512, ubatchSize: 512 });
  });

  test('a model without weights tells, tokenizes and plans, and has no contexts', async () => {
    await using weightless = await loadModel(needlePath, { weights: false });
    expect(weightless.info).toEqual(model.info);
    expect(weightless.tokenize('the moon')).toEqual(model.tokenize('the moon'));
    for (const options of [{ contextSize: 2048 }, { contextSize: 2048, duo: { gates: 'auto' } }] as const) {
      expect(await weightless.planContext(options)).toEqual(await model.planContext(options));
    }
    await expect(weightless.createContext()).rejects.toThrow(ContextError);
    await expect(weightless.calibrate({ samples: 1, questions: 1 })).rejects.toThrow(/weights: false: it has no weights to calibrate/);
  });

  test('a model of vocabulary only has no plans', async () => {
    await using vocabulary = await loadModel(needlePath, { vocabOnly: true });
    await expect(vocabulary.planContext()).rejects.toThrow(ContextError);
  });
});

describe('special tokens', () => {
  const special = '<|end|>';

  test('are read in a prompt where that is asked for, and never else', async () => {
    const parsed = model.tokenize(special, { parseSpecial: true });
    const plain = model.tokenize(special);
    expect(parsed.length).toBeLessThan(plain.length);
    for (const [options, tokens] of [
      [{}, plain],
      [{ parseSpecial: false }, plain],
      [{ parseSpecial: true }, parsed],
    ] as const) {
      expect((await context.generate(special, { ...options, maxTokens: 0 }).result()).promptTokens).toBe(tokens.length);
      expect((await context.score(`${special} the`, options)).logProbabilities).toHaveLength(
        model.tokenize(`${special} the`, options).length - 1,
      );
    }
  });
});

test.runIf(process.platform === 'linux')('memory of contexts that are gone goes back to the system', async () => {
  // 27 MiB each. Once one was freed, the C library keeps pieces of that size for itself.
  const create = (): Promise<Context> => model.createContext({ contextSize: 4608, threads: 1 });
  await (await create()).dispose();
  const before = process.memoryUsage().rss;
  const contexts: Context[] = [];
  for (let i = 0; i < 20; i++) contexts.push(await create());
  const full = process.memoryUsage().rss;
  await Promise.all(contexts.map((each) => each.dispose()));
  const freed = (): boolean => process.memoryUsage().rss < before + (full - before) / 4;
  for (let waited = 0; waited < 10_000 && !freed(); waited += 100) await new Promise((resolve) => setTimeout(resolve, 100));
  expect(full - before).toBeGreaterThan(300 << 20);
  expect({ before, full, freed: freed(), now: process.memoryUsage().rss }).toMatchObject({ freed: true });
});

test('a model that is none is a ModelError', async () => {
  await expect(loadModel(needleGates)).rejects.toThrow(ModelError);
});
