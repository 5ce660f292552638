import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import fc from 'fast-check';
import { afterAll, beforeAll, describe, test } from 'vitest';

import { duoTable, generateTable, modelTable, planTable } from '../../src/core/option-tables.ts';
import { LlamaDuoError, loadModel, parseGates, readGates, type Context, type GenerateOptions, type Model } from '../../src/index.ts';
import { needleBytes, needleGates, needlePath } from './needle-model.ts';

// Whatever a program hands over, it gets a result or a typed error that is no bug of ours.

const numRuns = Number(process.env['LLAMA_DUO_TEST_ROUNDS'] ?? 200);

let model: Model;
let context: Context;
let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-'));
  model = await loadModel(needlePath);
  context = await model.createContext({ contextSize: 512, threads: 1 });
});
afterAll(async () => {
  await context.dispose();
  await model.dispose();
  rmSync(folder, { recursive: true });
});

async function settles(work: () => unknown): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (error instanceof LlamaDuoError && error.code !== 'internal') return;
    throw error;
  }
}

/** Each key with a value that may be anything, or one that could pass. */
function optionsOf(keys: string[]): fc.Arbitrary<object> {
  const plausible = fc.oneof(
    fc.integer({ min: -2, max: 600 }),
    fc.double({ min: -1, max: 2, noNaN: true }),
    fc.boolean(),
    fc.constantFrom('auto', 'on', 'off', 'f16', 'q8_0', '', 'root ::= "a"', needleGates),
  );
  const value = fc.oneof(
    { weight: 3, arbitrary: plausible },
    { weight: 1, arbitrary: fc.anything({ withBigInt: true, withNullPrototype: true }) },
  );
  return fc.record(Object.fromEntries(keys.map((key) => [key, value])), { requiredKeys: [] });
}

const anything = fc.anything({ withBigInt: true, withDate: true, withTypedArray: true, withSparseArray: true, withNullPrototype: true });

async function check<T>(arbitrary: fc.Arbitrary<T>, work: (value: T) => unknown, runs = numRuns): Promise<void> {
  await fc.assert(
    fc.asyncProperty(arbitrary, (value) => settles(() => work(value))),
    { numRuns: runs },
  );
}

describe('options', () => {
  test('loadModel', async () => {
    const options = optionsOf(Object.keys(modelTable)).map((given) => ({ ...given, vocabOnly: true }));
    await check(fc.tuple(fc.oneof(fc.constant(needlePath), anything), fc.oneof(options, anything)), async ([source, given]) => {
      const loaded = await loadModel(source as never, given as never);
      await loaded.dispose();
    });
  });

  test('planContext', async () => {
    const options = fc
      .tuple(optionsOf(Object.keys(planTable)), fc.option(optionsOf(Object.keys(duoTable)), { nil: undefined }))
      .map(([plan, duo]) => (duo ? { ...plan, duo } : plan));
    await check(fc.oneof({ weight: 4, arbitrary: options }, anything), (given) => model.planContext(given as never));
  });

  test('generate', async () => {
    const options = optionsOf(Object.keys(generateTable)).map((given) => ({ ...given, maxTokens: 1, onProgress: undefined }));
    await check(options, (given) => context.generate([5, 6], given as GenerateOptions).result());
    await check(anything, async (given) => {
      await using generation = context.generate([5, 6], given as GenerateOptions);
      await generation.next();
    });
  });

  test('score, select, readGates, embed', async () => {
    const pattern = await readGates(needleGates);
    await check(anything, (given) => context.score('one two', given as never));
    await check(anything, (given) => pattern.select(given as never));
    await check(anything, (given) => readGates(needleGates, given as never));
    await check(fc.tuple(anything, anything), ([other, sparsities]) => pattern.compare(other as never, sparsities as never));
    await check(anything, (sparsities) => pattern.compare(pattern, sparsities as never));
    await check(anything, (given) => pattern.embed(given as never, given as never));
    await check(anything, (given) => pattern.format(given as never));
  });
});

describe('texts and tokens', () => {
  test('prompts', async () => {
    const one = { maxTokens: 1, temperature: 0 };
    const ids = fc.array(fc.oneof(fc.integer({ min: -3, max: 3000 }), fc.double(), anything), { maxLength: 20 });
    await check(fc.oneof(ids, fc.string({ unit: 'binary' }), anything), (given) => context.generate(given as never, one).result());
    await check(fc.oneof(ids, fc.string({ unit: 'binary' })), (given) => context.score(given as never));
  });

  test('tokenize and detokenize', async () => {
    await check(fc.oneof(fc.string({ unit: 'binary' }), anything), (given) => model.tokenize(given as string));
    await check(fc.oneof(fc.array(fc.integer()), fc.int32Array(), anything), (given) => model.detokenize(given as number[]));
    await check(anything, (given) => model.tokenize('a', given as never));
    await check(anything, (given) => model.detokenize([5], given as never));
  });

  test('grammars', async () => {
    const word = fc.constantFrom(
      'root',
      '::=',
      '"a"',
      '"\\x00"',
      '"',
      '(',
      ')',
      '|',
      '[a-z]',
      '[^',
      ']',
      '*',
      '+',
      '?',
      '{2}',
      '{9,',
      '\n',
      '#',
      'x',
      '.',
      '<|end|>',
      '%llguidance',
    );
    const grammar = fc.array(word, { maxLength: 12 }).map((words) => `root ::= ${words.join(' ')}`);
    const options = { maxTokens: 4, ignoreEos: true };
    await check(fc.oneof(grammar, fc.string({ unit: 'binary' })), (given) =>
      context.generate([5], { ...options, grammar: given }).result(),
    );
  });
});

describe('files', () => {
  test('texts of gates', async () => {
    const cell = fc.oneof(fc.double().map(String), fc.constantFrom('0.5', '1', '', 'nan', '-0', '1e999', '\u0000'));
    const table = fc
      .array(
        fc.array(cell, { maxLength: 5 }).map((row) => row.join('\t')),
        { maxLength: 5 },
      )
      .map((rows) => rows.join('\n'));
    const text = fc.oneof(table, fc.json(), fc.string({ unit: 'binary' }), anything);
    await check(text, (given) => parseGates(given as string));
    await check(fc.oneof(fc.uint8Array({ maxLength: 100 }), anything), (given) => readGates(given as string));
    const pattern = fc.record({
      llamaDuoPattern: fc.constantFrom(1, 2),
      layers: anything,
      kvHeads: anything,
      gates: anything,
      sink: anything,
    });
    await check(pattern, (given) => model.planContext({ duo: { gates: given as never } }));
  });

  test('models that are cut, or have other bytes', async () => {
    const bytes = needleBytes();
    const header = 120_000; // all metadata, and the beginning of the tensors' list
    const path = join(folder, 'odd.gguf');
    const change = fc.record({
      length: fc.oneof(fc.integer({ min: 0, max: header }), fc.constant(bytes.length)),
      flips: fc.array(
        fc.tuple(fc.oneof(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: header })), fc.integer({ min: 1, max: 255 })),
        { maxLength: 3 },
      ),
    });
    await check(
      change,
      async ({ length, flips }) => {
        const odd = Buffer.from(bytes.subarray(0, length));
        for (const [place, by] of flips) if (place < odd.length) odd[place] = (odd[place] ?? 0) ^ by;
        writeFileSync(path, odd);
        await settles(() => readGates(path));
        const loaded = await loadModel(path, { weights: false });
        await loaded.dispose();
      },
      Math.min(numRuns, 100),
    );
  });
});
