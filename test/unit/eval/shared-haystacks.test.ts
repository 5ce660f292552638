import { expect, test } from 'vitest';

import { EvaluationError } from '../../../src/errors.ts';
import type { Context } from '../../../src/core/context.ts';
import type { KeptHaystack } from '../../../src/eval/kept-haystack.ts';
import { sharedBatches } from '../../../src/eval/shared-haystacks.ts';
import { sightOf } from '../../../src/eval/prompt.ts';
import { syntheticTasks } from '../../../src/eval/synthetic.ts';
import type { Model } from '../../../src/gates/model.ts';
import { WordTokenizer } from './word-tokenizer.ts';

const tokenizer = new WordTokenizer();
const model = { tokenize: (text: string) => tokenizer.tokenize(text), info: {} } as unknown as Model;
const frame = { before: [], after: [], chat: false };
const names = ['needle', 'multi-key', 'multi-value', 'multi-query', 'multi-passkey', 'variable-tracking'];
const options = {
  frame,
  sight: sightOf({ sink: 16, recent: 64, chunk: 1 }),
  lengths: [700],
  depths: [0, 0.5, 1],
  samples: 2,
  seed: 1,
  extraTokens: 0,
};

function tasksOf(list: readonly string[]) {
  return list.map((name) => {
    const { hasDepth = false, fact } = syntheticTasks[name] ?? {};
    if (!fact) throw new Error(name);
    return { name, hasDepth, fact };
  });
}

/** The prompts of one haystack, in tokens. */
async function prompts(index: number): Promise<{ task: string; depth: number | null; tokens: number[] }[]> {
  const found: { task: string; depth: number | null; tokens: number[] }[] = [];
  for (const { task, cells } of sharedBatches(tasksOf(names), model, options)) {
    for (const { depth, item } of cells) {
      const generate = (question: Int32Array) => {
        found.push({ task, depth, tokens: [...haystack, ...question] });
        return { result: () => Promise.resolve({ text: '' }) };
      };
      let haystack: Int32Array = new Int32Array();
      const holding = (tokens: Int32Array) => {
        haystack = tokens;
        return Promise.resolve({ sequence: { generate }, read: { tokens: 0, seconds: 0 } });
      };
      await item(index).run({} as unknown as Context, { kept: { holding } as unknown as KeptHaystack });
    }
  }
  return found;
}

test('prompts of one haystack differ in the question alone, and fit the length with their answers', async () => {
  const all = await prompts(0);
  expect(all.map(({ task, depth }) => [task, depth])).toEqual([
    ['needle', 0],
    ['needle', 0.5],
    ['needle', 1],
    ...names.slice(1).map((name) => [name, null]),
  ]);
  const texts = all.map(({ tokens }) => tokenizer.detokenize(tokens));
  const haystacks = new Set(texts.map((text) => text.slice(0, text.lastIndexOf('\nQuestion:'))));
  expect(haystacks.size).toBe(1);
  expect(new Set(texts).size).toBe(all.length);
  const longest = Math.max(...all.map(({ tokens }) => tokens.length));
  expect(longest).toBeLessThan(700);
  expect(longest).toBeGreaterThan(640);
});

test('no word is asked for in two ways: each needle and variable has words of its own', async () => {
  for (const index of [0, 1]) {
    const [first] = await prompts(index);
    const text = tokenizer.detokenize(first?.tokens ?? []);
    const statements = [...text.matchAll(/Remember: (\w+) \d{5}\./g)].map(([, key]) => key);
    const variables = [...text.matchAll(/Set (\w+) /g)].map(([, name]) => name);
    // Three needles, four of each of two tasks, and two values of one word.
    expect(statements).toHaveLength(3 + 4 + 4 + 2);
    expect(new Set(statements).size).toBe(3 + 4 + 4 + 1);
    expect(new Set(variables).size).toBe(6);
    expect(variables.filter((name) => statements.includes(name))).toEqual([]);
  }
});

test('a needle lies at its depth', async () => {
  const all = await prompts(0);
  const places = all
    .filter(({ task }) => task === 'needle')
    .map(({ tokens }) => {
      const text = tokenizer.detokenize(tokens);
      const key = /Answer: (\w+)$/.exec(text)?.[1] ?? '';
      return text.indexOf(`Remember: ${key} `) / text.length;
    });
  expect(places[0]).toBeLessThan(0.25);
  expect(places[1]).toBeGreaterThan(0.3);
  expect(places[1]).toBeLessThan(0.65);
  expect(places[2]).toBeGreaterThan(0.7);
});

test('haystacks of other indices and seeds are others', async () => {
  const [one, two] = [await prompts(0), await prompts(1)];
  expect(one[0]?.tokens.slice(0, 200)).not.toEqual(two[0]?.tokens.slice(0, 200));
  expect(await prompts(0)).toEqual(one);
});

test('more questions than there are words for are refused', () => {
  const depths = Array.from({ length: 60 }, (_, index) => index / 59);
  const make = () => sharedBatches(tasksOf(names), model, { ...options, depths });
  expect(make).toThrow(EvaluationError);
  expect(make).toThrow(/words for \d+ questions, and 65 are asked: take fewer --depths or tasks/);
});
