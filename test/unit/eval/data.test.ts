import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import type { Context, GenerateOptions, ScoreOptions } from '../../../src/index.ts';
import { EvaluationError } from '../../../src/errors.ts';
import type { Batch, Outcome } from '../../../src/eval/item.ts';
import { longBenchBatches, type DataOptions } from '../../../src/eval/longbench.ts';
import { mmluBatches } from '../../../src/eval/mmlu.ts';
import { PromptWriter } from '../../../src/eval/prompt.ts';
import { WordTokenizer } from './word-tokenizer.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-data-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const tokenizer = new WordTokenizer();
const sight = { sink: 4, window: 16 };
const writers = {
  framed: new PromptWriter(tokenizer, { before: [1_000_000], after: [1_000_001], chat: true }, sight),
  plain: new PromptWriter(tokenizer, { before: [], after: [], chat: false }, sight),
};

function write(path: string, content: string): void {
  mkdirSync(join(folder, path, '..'), { recursive: true });
  writeFileSync(join(folder, path), content);
}

/** A context that answers what it is told to, and finds some tokens likelier than others. */
class FakeContext {
  readonly prompts: Int32Array[] = [];
  readonly options: (GenerateOptions | ScoreOptions)[] = [];
  readonly #answer: string;

  constructor(answer: string) {
    this.#answer = answer;
  }

  generate(prompt: Int32Array, options: GenerateOptions) {
    this.prompts.push(prompt);
    this.options.push(options);
    const result = { text: this.#answer, promptTokens: 10, reusedTokens: 4, prefillSeconds: 2, decodeSeconds: 1, decodeTokensPerSecond: 8 };
    return { result: () => Promise.resolve(result) };
  }

  score(tokens: Int32Array, options: ScoreOptions) {
    this.prompts.push(tokens);
    this.options.push(options);
    for (const share of [0.5, 1]) options.onProgress?.(share);
    const last = tokenizer.detokenize(tokens.slice(-1));
    return Promise.resolve({ logProbabilities: Float64Array.of(last === this.#answer ? -1 : -2), reusedTokens: 0, seconds: 1 });
  }

  get text(): string {
    return tokenizer.detokenize(this.prompts.at(-1) ?? []).replaceAll('?', '');
  }
}

async function ask(
  batch: Batch | undefined,
  index: number,
  answer: string,
  onProgress?: (progress: number) => void,
): Promise<{ outcome: Outcome; context: FakeContext }> {
  const context = new FakeContext(answer);
  const item = batch?.cells[0]?.item(index);
  if (!item) throw new Error('no such prompt');
  return { outcome: await item.run(context as unknown as Context, { onProgress }), context };
}

describe('LongBench', () => {
  const line = (over: object = {}): string =>
    JSON.stringify({
      context: 'Ann lives in Rome.',
      input: 'Where does Ann live',
      answers: ['Rome', 'in Italy'],
      all_classes: null,
      length: 4,
      dataset: 'hotpotqa',
      language: 'en',
      _id: '1',
      ...over,
    });
  const load = (options: DataOptions = { lengths: [128] }, only?: string): Promise<Batch[]> =>
    longBenchBatches(folder, only, writers, options);

  test('the files that are there, each with its metric; answers are scored by the best of those that are right', async () => {
    write('hotpotqa.jsonl', `${line()}\n${line({ input: 'Who lives in Rome', answers: ['Ann'] })}\n`);
    write('hotpotqa_e.jsonl', line());
    write('trec.jsonl', line({ answers: ['Date'], all_classes: ['Date', 'City'] }));
    write('other.jsonl', 'not ours');
    const batches = await load();
    expect(batches.map(({ task, cells }) => [task, cells[0]?.count])).toEqual([
      ['longbench/hotpotqa', 2],
      ['longbench/hotpotqa_e', 1],
      ['longbench/trec', 1],
    ]);
    const { outcome, context } = await ask(batches[0], 0, ' In Italy.');
    expect(outcome).toEqual({
      scores: [{ depth: null, value: 1, weight: 1 }],
      prefill: { tokens: 6, seconds: 2 },
      decode: { tokens: 8, seconds: 1 },
      answer: ' In Italy.',
    });
    expect(context.options[0]).toMatchObject({ maxTokens: 32, temperature: 0 });
    expect(context.prompts[0]?.[0]).toBe(1_000_000);
    expect(context.prompts[0]?.at(-1)).toBe(1_000_001);
    expect(context.text).toContain('Ann lives in Rome.');
    expect((await ask(batches[0], 1, 'Bob')).outcome.scores[0]?.value).toBe(0);
  });

  test('sets with examples have no chat template, and only the first line of their answer counts', async () => {
    write('trec.jsonl', line({ answers: ['Date'], all_classes: ['Date', 'City'] }));
    const { outcome, context } = await ask((await load())[0], 0, '\nDate\nCity');
    expect(outcome.scores[0]?.value).toBe(1);
    expect(context.prompts[0]?.[0]).not.toBe(1_000_000);
    expect(context.text).toBe('Ann lives in Rome.\nWhere does Ann live');
  });

  test('a long prompt loses its middle', async () => {
    write('lcc.jsonl', line({ context: Array.from({ length: 300 }, (_, index) => (index < 150 ? 'first' : 'last')).join(' '), input: '' }));
    const { context } = await ask((await load({ lengths: [100] }))[0], 0, '');
    // 100 tokens less 64 of the answer
    expect(context.prompts[0]).toHaveLength(36);
    expect(context.text).toBe(`first${' first'.repeat(17)}${' last'.repeat(18)}`);
  });

  test('prompts and lengths of answers are those of the folder, where it has them', async () => {
    write('data/hotpotqa.jsonl', line());
    write('config/dataset2prompt.json', JSON.stringify({ hotpotqa: 'In: {context} Then: {input}' }));
    write('config/dataset2maxlen.json', JSON.stringify({ hotpotqa: 7 }));
    const { context } = await ask((await load())[0], 0, '');
    expect(context.text).toBe('In: Ann lives in Rome. Then: Where does Ann live');
    expect(context.options[0]).toMatchObject({ maxTokens: 7 });
  });

  test('one set, and a number of prompts', async () => {
    write('hotpotqa.jsonl', `${line()}\n${line()}\n${line()}\n`);
    write('lcc.jsonl', line());
    const batches = await load({ lengths: [128, 256], samples: 2 }, 'hotpotqa');
    expect(batches.map(({ task, length, cells }) => [task, length, cells[0]?.count])).toEqual([
      ['longbench/hotpotqa', 128, 2],
      ['longbench/hotpotqa', 256, 2],
    ]);
  });

  test('a byte order mark, as some editors write, is no part of the data', async () => {
    write('hotpotqa.jsonl', `\ufeff${line()}\n`);
    expect((await load()).map(({ cells }) => cells[0]?.count)).toEqual([1]);
  });

  test.each([
    ['hotpotqa.jsonl', '{"context":', /hotpotqa\.jsonl, line 1: /],
    ['hotpotqa.jsonl', `${line()}\n{"context": "x", "input": 5, "answers": []}`, /hotpotqa\.jsonl, line 2: expected the texts/],
    ['hotpotqa.jsonl', '[1]', /line 1: expected a JSON object/],
    ['none.jsonl', line(), /has no JSONL file of LongBench. Known: narrativeqa/],
  ])('%s with %j is an error', async (file, content, message) => {
    write(file, content);
    await expect(load()).rejects.toThrow(EvaluationError);
    await expect(load()).rejects.toThrow(message);
  });
});

describe('MMLU', () => {
  const rows = (...answers: string[]): string =>
    answers.map((answer, index) => `"What is ${index}, or ""so""?",one,"two, 2",three,four,${answer}`).join('\n');
  const load = (only?: string, samples?: number, writer = writers.plain): Batch[] => mmluBatches(folder, only, writer, samples);

  test('five examples, a question, and the likeliest of four letters', async () => {
    write('dev/abstract_algebra_dev.csv', rows('A', 'B', 'C', 'D', 'A', 'B'));
    write('test/abstract_algebra_test.csv', rows('C', 'D'));
    write('test/zoology_test.csv', rows('A'));
    write('dev/zoology_dev.csv', rows('A'));
    const batches = load();
    expect(batches.map(({ task, cells }) => [task, cells[0]?.count])).toEqual([
      ['mmlu/abstract_algebra', 2],
      ['mmlu/zoology', 1],
    ]);
    const { outcome, context } = await ask(batches[0], 0, ' C');
    expect(outcome.scores).toEqual([{ depth: null, value: 1, weight: 1 }]);
    expect(outcome.answer).toBe('C');
    expect(context.prompts).toHaveLength(4);
    expect(context.options.map((options) => (options as ScoreOptions).from)).toEqual(context.prompts.map(({ length }) => length - 1));
    const text = tokenizer.detokenize(context.prompts[0] ?? []);
    expect(text).toMatch(/^The following are multiple choice questions \(with answers\) about abstract algebra\.\n\nWhat is 0/);
    expect(text.match(/Answer: [A-D]\n\n/g)).toEqual(['A', 'B', 'C', 'D', 'A'].map((letter) => `Answer: ${letter}\n\n`));
    expect(text).toContain('What is 0, or "so"?\nA. one\nB. two, 2\nC. three\nD. four\nAnswer: A');
    expect(batches[0]?.contextSize).toBe(context.prompts[0]?.length);
    expect((await ask(batches[0], 1, ' C')).outcome.scores[0]?.value).toBe(0);
  });

  test('progress grows over the four letters of a question', async () => {
    write('dev/world_dev.csv', rows('A'));
    write('test/world_test.csv', rows('C'));
    const shares: number[] = [];
    await ask(load()[0], 0, ' C', (share) => shares.push(share));
    expect(shares).toEqual([...shares].sort((a, b) => a - b));
    expect(shares.at(-1)).toBe(1);
  });

  test('in a chat template the letter is the first that the model says', async () => {
    write('dev/world_dev.csv', rows('A'));
    write('test/world_test.csv', rows('C'));
    const { outcome, context } = await ask(load(undefined, undefined, writers.framed)[0], 0, 'C');
    expect(outcome.answer).toBe('C');
    expect(context.prompts.map((prompt) => tokenizer.detokenize(prompt.slice(-2)))).toEqual(['?A', '?B', '?C', '?D']);
  });

  test('one subject, and a number of questions', () => {
    write('dev/law_dev.csv', rows('A'));
    write('test/law_test.csv', rows('A', 'B', 'C'));
    expect(load('law', 2).map(({ cells }) => cells[0]?.count)).toEqual([2]);
    expect(() => load('art')).toThrow(/expected test\/art_test\.csv/);
  });

  test.each([
    ['one,two', /law_test\.csv, row 1: expected a question, four choices/],
    [`${rows('A')}\nq,1,2,3,4,E`, /row 2/],
    ['', /has no questions/],
  ])('%j is an error', (content, message) => {
    write('dev/law_dev.csv', rows('A'));
    write('test/law_test.csv', content);
    expect(() => load()).toThrow(EvaluationError);
    expect(() => load()).toThrow(message);
  });

  test('examples that are missing are named', () => {
    write('test/law_test.csv', rows('A'));
    expect(() => load()).toThrow(/law_dev\.csv is missing/);
  });
});
