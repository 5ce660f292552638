import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  appendTable,
  chatPromptTable,
  chatTable,
  duoTable,
  embedderTable,
  generateTable,
  infillTable,
  loadModelTable,
  planTable,
  sendTable,
} from '../../src/core/option-tables.ts';
import { without } from '../../src/core/options.ts';
import {
  LlamaDuoError,
  loadModel,
  parseGates,
  readGates,
  type Context,
  type GenerateOptions,
  type Message,
  type Model,
  type Sequence,
} from '../../src/index.ts';
import { toolTemplate } from '../chat-templates.ts';
import { needleBytes, needleGates, needlePath } from './needle-model.ts';

// Whatever a program hands over, it gets a result or a typed error that is no bug of ours.

const numRuns = Number(process.env['LLAMA_DUO_TEST_ROUNDS'] ?? 50);

/** Metadata that the model has, of each type. */
const overridden = [
  'llama.context_length',
  'llama.rope.freq_base',
  'general.name',
  'tokenizer.ggml.add_bos_token',
  'tokenizer.ggml.tokens',
];

let model: Model;
let context: Context;
let folder: string;
// What happens to be a path is written to: not in the project.
const scratch = mkdtempSync(join(tmpdir(), 'llama-duo-fuzz-'));
const before = process.cwd();
process.chdir(scratch);
afterAll(() => {
  process.chdir(before);
  rmSync(scratch, { recursive: true });
});

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
    // A library that is none is an error of its own, and nothing is loaded from elsewhere.
    const options = optionsOf(Object.keys(without(loadModelTable, 'library'))).map((given) => ({ ...given, vocabOnly: true }));
    await check(fc.oneof(options, anything), async (given) => {
      const loaded = await loadModel(needlePath, given as never);
      await loaded.dispose();
    });
    const source = fc
      .oneof(fc.string({ unit: 'binary' }), anything)
      .filter((given) => typeof given !== 'string' || !/^(hf|https?):/.test(given));
    await check(source, async (given) => (await loadModel(given as string, { vocabOnly: true })).dispose());
    const override = fc.oneof(fc.constantFrom(...overridden), fc.string({ maxLength: 140 }));
    await check(
      fc.dictionary(override, fc.oneof(fc.boolean(), fc.integer(), fc.double(), fc.string({ maxLength: 140 }))),
      async (overrides) => {
        await (await loadModel(needlePath, { vocabOnly: true, overrides })).dispose();
      },
    );
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

describe('conversations', () => {
  const short = { maxTokens: 2, temperature: 0 };
  const content = fc.oneof({ weight: 4, arbitrary: fc.string({ unit: 'binary', maxLength: 20 }) }, { weight: 1, arbitrary: anything });
  const message = fc.record(
    {
      role: fc.oneof(
        { weight: 5, arbitrary: fc.constantFrom('system', 'developer', 'user', 'assistant', 'tool') },
        { weight: 1, arbitrary: anything },
      ),
      content,
      reasoning: content,
      toolCallId: content,
      name: content,
      toolCalls: fc.oneof(
        fc.array(fc.record({ id: content, name: content, arguments: anything }, { requiredKeys: [] }), { maxLength: 2 }),
        anything,
      ),
    },
    { requiredKeys: ['role', 'content'] },
  );

  test('chats and what is sent', async () => {
    await check(optionsOf(Object.keys(chatTable)), async (given) => context.chat(given).send('x', short).result());
    await check(anything, (given) =>
      context
        .chat(given as never)
        .send('x', short)
        .result(),
    );
    await check(optionsOf(Object.keys(sendTable)), (given) =>
      context
        .chat()
        .send('x', { ...given, maxTokens: 2 })
        .result(),
    );
    await check(anything, (given) =>
      context
        .chat()
        .send('x', given as never)
        .next(),
    );
    await check(fc.oneof(fc.array(message, { maxLength: 3 }), message, anything), (given) =>
      context
        .chat()
        .send(given as never, short)
        .result(),
    );
  });

  test('prompts', async () => {
    const messages = fc.array(message, { minLength: 1, maxLength: 4 }) as fc.Arbitrary<Message[]>;
    await check(fc.tuple(messages, optionsOf(Object.keys(chatPromptTable))), ([said, given]) => model.chatPrompt(said, given));
    await check(messages, (said) => model.chatPrompt(said, { template: toolTemplate }));
    await check(anything, (given) => model.chatPrompt(given as never));
    const word = fc.constantFrom(
      '{{',
      '}}',
      '{%',
      '%}',
      'for m in messages',
      'endfor',
      'm.content',
      "'x'",
      '|tojson',
      'if',
      'endif',
      'x'.repeat(9),
      '(',
      '[0]',
      '*9',
    );
    const template = fc.array(word, { maxLength: 12 }).map((words) => words.join(' '));
    await check(template, (given) => model.chatPrompt([{ role: 'user', content: 'x' }], { template: given }));
  });

  test('tools', async () => {
    const tool = fc.record({ name: content, description: content, parameters: anything, run: anything }, { requiredKeys: ['name'] });
    const options = fc.array(tool, { maxLength: 2 }).map((tools) => ({ template: toolTemplate, tools }) as never);
    await check(options, (given) => context.chat(given).send('x', short).result());
  });

  test('gaps', async () => {
    const gap = fc.record(
      { prefix: content, suffix: content, name: content, files: fc.array(fc.record({ name: content, text: content })) },
      { requiredKeys: [] },
    );
    await check(fc.oneof(gap, anything), (given) => context.infill(given as never, short).result());
    await check(optionsOf(Object.keys(infillTable)), (given) => context.infill({ prefix: 'a', suffix: 'b' }, given).next());
  });

  test('schemas and choices', async () => {
    const schema = fc.record(
      {
        type: fc.oneof(fc.constantFrom('object', 'array', 'string', 'integer', 'boolean', 'null'), anything),
        properties: fc.dictionary(fc.string({ maxLength: 5 }), fc.oneof(fc.constant({ type: 'integer' }), anything)),
        required: anything,
        items: anything,
        enum: fc.array(anything, { maxLength: 2 }),
        pattern: fc.string({ unit: 'binary', maxLength: 10 }),
        $ref: fc.string({ maxLength: 10 }),
        minItems: fc.integer({ min: -1, max: 3 }),
      },
      { requiredKeys: [] },
    );
    await check(fc.oneof(schema, anything), (given) => context.generate([5], { ...short, schema: given as never }).value());
    await check(fc.array(fc.string({ unit: 'binary' })), (choices) => context.generate([5], { ...short, choices }).value());
    const bias = fc.array(
      fc.tuple(fc.oneof(fc.integer({ min: -1, max: 3000 }), fc.string({ unit: 'binary' }), anything), fc.oneof(fc.double(), fc.boolean())),
    );
    await check(fc.oneof(bias, anything), (logitBias) => context.generate([5], { ...short, logitBias: logitBias as never }).result());
  });
});

describe('embedders', () => {
  test('of any options, of any texts', async () => {
    const options = optionsOf(Object.keys(embedderTable)).map((given) => ({ ...given, contextSize: 64, threads: 1 }));
    await check(options, async (given) => (await model.createEmbedder(given)).dispose(), Math.min(numRuns, 50));
    await check(anything, async (given) => (await model.createEmbedder(given as never)).dispose(), Math.min(numRuns, 50));
    await using embedder = await model.createEmbedder({ contextSize: 64, threads: 1 });
    await check(fc.oneof(fc.array(fc.string({ unit: 'binary' }), { maxLength: 5 }), anything), (given) => embedder.embed(given as never));
    await check(anything, (given) => embedder.embed('x', given as never));
    await check(fc.tuple(anything, anything), ([query, documents]) => embedder.rank(query as never, documents as never));
  });
});

describe('sequences', () => {
  let other: Context;
  let sequence: Sequence;
  beforeAll(async () => {
    other = await model.createContext({ contextSize: 512, threads: 1, ubatchSize: 64, duo: { sink: 4, recent: 16 } });
    sequence = await other.sequence();
  });
  afterAll(() => other.dispose());

  test('of any options, of any texts', async () => {
    const ids = fc.array(fc.oneof(fc.integer({ min: -3, max: 3000 }), anything), { maxLength: 5 });
    const text = fc.oneof(ids, fc.string({ unit: 'binary' }), anything);
    await check(text, (given) => sequence.append(given as never));
    await check(text, (given) => sequence.score(given as never));
    await check(text, (given) => sequence.generate(given as never, { maxTokens: 1 }).result());
    await check(optionsOf(Object.keys(appendTable)), (given) => sequence.append([5], given));
    // what waits to be free is ended by its signal
    const ends = (given: unknown): never => ({ ...(given as object), signal: AbortSignal.timeout(5) }) as never;
    await check(anything, (given) => sequence.fork(ends(given)).catch(noTimeout), Math.min(numRuns, 30));
    await check(anything, (given) => sequence.logits(ends(given)).catch(noTimeout), Math.min(numRuns, 30));
    await check(anything, (given) => sequence.save(ends(given)).catch(noTimeout), Math.min(numRuns, 30));
    await check(fc.oneof(fc.integer({ min: -2, max: 600 }), anything), (length) => sequence.truncate(length as number));
    await check(anything, (given) => sequence.load(given as never));
    await check(fc.tuple(anything, anything), ([path, given]) => sequence.saveFile(path as never, given as never));
  });

  /** A sequence that waits to be free is as it should be. */
  const noTimeout = (error: unknown): void => {
    if ((error as Error).name !== 'TimeoutError') throw error;
  };

  test('states that are cut, or have other bits, are refused, and change nothing', async () => {
    await sequence.truncate(0);
    await sequence.append(Int32Array.from({ length: 200 }, (_, index) => 100 + index));
    const state = await sequence.save();
    await sequence.truncate(0);
    await sequence.append([7, 8, 9]);
    const before = await sequence.logits();
    const place = fc.oneof(fc.integer({ min: 0, max: 200 }), fc.nat(state.length - 1));
    const change = fc.record({
      length: fc.oneof(fc.constant(state.length), fc.nat(state.length), fc.integer({ min: 0, max: 300 })),
      more: fc.uint8Array({ maxLength: 20 }),
      flips: fc.array(fc.tuple(place, fc.integer({ min: 1, max: 255 })), { maxLength: 3 }),
    });
    let taken = 0;
    await fc.assert(
      fc.asyncProperty(change, async ({ length, more, flips }) => {
        const odd = Buffer.concat([state.subarray(0, length), more]);
        for (const [at, by] of flips) if (at < odd.length) odd[at] = (odd[at] ?? 0) ^ by;
        if (odd.equals(state)) {
          taken++;
          return;
        }
        const given = new Uint8Array(odd);
        const error = await sequence.load(given).catch((reason: unknown) => reason);
        if (!(error instanceof LlamaDuoError) || error.code !== 'state') throw new Error(`not refused: ${String(error)}`);
        writeFileSync(join(folder, 'state'), given);
        await sequence.load(join(folder, 'state')).then(
          () => {
            throw new Error('not refused as a file');
          },
          (reason: unknown) => {
            if (!(reason instanceof LlamaDuoError) || reason.code !== 'state') throw reason;
          },
        );
      }),
      { numRuns },
    );
    expect(taken).toBeLessThan(numRuns / 2);
    expect(sequence.length).toBe(3);
    expect(await sequence.logits()).toEqual(before);
    await sequence.load(state);
    expect(sequence.length).toBe(200);
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
