import { describe, expect, test } from 'vitest';

import { EvaluationError } from '../../../src/errors.ts';
import { Encoder } from '../../../src/synthetic/encoder.ts';
import { haystack } from '../../../src/synthetic/haystack.ts';
import { keys } from '../../../src/synthetic/language.ts';
import { PromptWriter, sightOf } from '../../../src/eval/prompt.ts';
import { Random } from '../../../src/synthetic/random.ts';
import { scoreAnswer } from '../../../src/eval/scoring.ts';
import { syntheticTasks } from '../../../src/eval/synthetic.ts';
import { SpacingTokenizer, WordTokenizer } from './word-tokenizer.ts';

const frame = { before: [1_000_000], after: [], chat: false };
const sight = sightOf({ sink: 16, recent: 64, chunk: 1 });

function setUp(options: { chunk?: number; chat?: boolean } = {}) {
  const tokenizer = new WordTokenizer();
  const own = options.chat ? { before: [1_000_000, 1_000_001], after: [1_000_002], chat: true } : frame;
  return { tokenizer, writer: new PromptWriter(tokenizer, own, sightOf({ sink: 16, recent: 64, chunk: options.chunk ?? 1 })) };
}

function sketch(task: string, seed = 1, chat = false) {
  const found = syntheticTasks[task];
  if (!found) throw new Error(task);
  return found.sketch(new Random(seed, task), { chat });
}

describe('random numbers', () => {
  test('are those of the seed and the purpose', () => {
    const draw = (...args: ConstructorParameters<typeof Random>): number[] => {
      const random = new Random(...args);
      return Array.from({ length: 8 }, () => random.below(1000));
    };
    expect(draw(1, 'a', 2)).toEqual(draw(1, 'a', 2));
    expect(draw(1, 'a', 2)).not.toEqual(draw(2, 'a', 2));
    expect(draw(1, 'a', 2)).not.toEqual(draw(1, 'a', 3));
    // Results of record depend on it.
    expect(draw(1, 'a', 2).slice(0, 4)).toMatchInlineSnapshot(`
      [
        420,
        740,
        166,
        844,
      ]
    `);
  });

  test('are spread over all that is asked for', () => {
    const random = new Random(7);
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 10_000; i++) {
      const drawn = random.below(10);
      counts[drawn] = (counts[drawn] ?? 0) + 1;
    }
    expect(Math.min(...counts)).toBeGreaterThan(850);
    expect(Math.max(...counts)).toBeLessThan(1150);
    for (let i = 0; i < 1000; i++) expect(random.fraction()).toSatisfy((value: number) => value >= 0 && value < 1);
  });

  test('shuffle and sample keep what there is; interleave keeps each order', () => {
    const random = new Random(3);
    const items = Array.from({ length: 50 }, (_, index) => index);
    expect(random.shuffle(items)).not.toEqual(items);
    expect(random.shuffle(items).sort((a, b) => a - b)).toEqual(items);
    expect(new Set(random.sample(items, 20)).size).toBe(20);
    const joined = random.interleave([items.slice(0, 25), items.slice(25)]);
    expect(joined.filter((item) => item < 25)).toEqual(items.slice(0, 25));
    expect(joined.filter((item) => item >= 25)).toEqual(items.slice(25));
    expect(joined).not.toEqual(items);
  });
});

describe('a haystack', () => {
  test.each([0, 1, 5, 40, 83, 100, 1000, 4097])('has exactly %i tokens, in whole sentences', (length) => {
    const tokenizer = new WordTokenizer();
    const { tokens, gaps } = haystack(length, new Encoder(tokenizer), new Random(1, length));
    expect(tokens).toHaveLength(length);
    expect(gaps.at(-1)).toBe(length);
    if (length >= 40) expect(tokenizer.detokenize(tokens)).toMatch(/[.?]$/);
    gaps.slice(1, -1).forEach((gap) => {
      expect(tokenizer.detokenize(tokens.slice(0, gap))).toMatch(/[.?]$/);
      expect(tokenizer.detokenize(tokens.slice(gap))).toMatch(/^ \p{Lu}/u);
    });
  });
});

describe('an encoder', () => {
  test('takes out the space that a tokenizer puts before a text', () => {
    const tokenizer = new SpacingTokenizer();
    const encoder = new Encoder(tokenizer);
    const pieces = [...encoder.opening('One.'), ...encoder.next(' Two.'), ...encoder.next('\nThree')];
    expect(tokenizer.detokenize(pieces)).toBe(' One. Two.\nThree');
  });
});

describe.each(Object.keys(syntheticTasks))('%s', (task) => {
  const isList = task.endsWith('-words');

  test('has exactly the length that is asked for', () => {
    for (const length of [512, 1024, 3001]) {
      const { writer } = setUp();
      const prompt = sketch(task, length).write(writer, length, null);
      // A list of whole items may be one short.
      if (isList) expect(length - prompt.length).toSatisfy((rest: number) => rest >= 0 && rest < 2);
      else expect(prompt).toHaveLength(length);
    }
  });

  test('is the same for the same seed, and another for another', () => {
    const text = (seed: number): string => {
      const { tokenizer, writer } = setUp();
      return tokenizer.detokenize(sketch(task, seed).write(writer, 700, 0.5));
    };
    expect(text(1)).toBe(text(1));
    expect(text(1)).not.toBe(text(2));
  });

  test.each([false, true])('its own answer is right, an empty one is wrong (in a chat: %s)', (chat) => {
    const { expected } = sketch(task, 1, chat);
    const vocabulary = new Set(keys);
    expect(scoreAnswer(expected, expected.text, vocabulary)).toBe(1);
    expect(scoreAnswer(expected, '', vocabulary)).toBe(0);
    expect(scoreAnswer(expected, ' 123456789 nothing', vocabulary)).toBe(0);
  });

  test('goes into a chat template with the first words of the answer after it', () => {
    const { tokenizer, writer } = setUp({ chat: true });
    const prompt = sketch(task, 1, true).write(writer, 700, null);
    expect([...prompt.slice(0, 2)]).toEqual([1_000_000, 1_000_001]);
    const end = prompt.indexOf(1_000_002);
    // A sentence that is not over yet.
    expect(tokenizer.detokenize(prompt.slice(end + 1))).toMatch(/^\w+( \w+)* (is|are|to|number)$/);
    expect(tokenizer.detokenize(prompt.slice(2, end))).toMatch(/\nQuestion: .*\?$|\nQuestion: .*\.$/s);
  });
});

test.each([
  ['multi-query', /^The numbers that go with (\w+) and (\w+) are \d{5} and \d{5}$/],
  ['multi-value', /^The numbers that go with (\w+) are \d{5} and \d{5}$/],
  ['variable-tracking', /^(\w+) was set to (\w+), which was set to (\w+), which was set to \d{5}$/],
  ['multi-passkey', /^Passkey one is \d{5}, passkey two is \d{5}, passkey three is \d{5}, passkey four is \d{5}$/],
])('%s is answered in a sentence in a chat', (task, sentence) => {
  const { tokenizer, writer } = setUp({ chat: true });
  const { expected, write } = sketch(task, 1, true);
  const prompt = write(writer, 700, null);
  expect(tokenizer.detokenize(prompt.slice(prompt.indexOf(1_000_002) + 1)) + expected.text).toMatch(sentence);
});

describe('what is asked for', () => {
  const statements = ['needle', 'multi-key', 'multi-value', 'multi-query', 'passkey', 'multi-passkey', 'variable-tracking'];

  test.each(statements.flatMap((task) => [1, 32].map((chunk) => [task, chunk] as const)))(
    '%s, chunk %i: no streaming head sees any of it from the question on',
    (task, chunk) => {
      for (let seed = 0; seed < 20; seed++) {
        for (const depth of [0, 0.5, 1]) {
          const { tokenizer, writer } = setUp({ chunk });
          const prompt = sketch(task, seed).write(writer, 600, depth);
          const pieces = [...prompt].map((token) => tokenizer.detokenize([token]));
          const question = pieces.lastIndexOf('\n', pieces.length - 12);
          const starts = pieces.flatMap((_, at) => (/^ (Remember:|Here is|Set \w+)$/.test(pieces.slice(at, at + 2).join('')) ? [at] : []));
          expect(starts.length).toBeGreaterThan(0);
          const last = pieces.indexOf('.', starts.at(-1));
          expect(starts[0]).toBeGreaterThanOrEqual(16);
          // The window of the question's first token begins at floor(p / chunk) * chunk - recent.
          expect(last).toBeLessThan(Math.floor(question / chunk) * chunk - 64);
        }
      }
    },
  );

  test('a depth is a place: the first, the middle and the last of those that are allowed', () => {
    const at = (depth: number): number => {
      const { tokenizer, writer } = setUp();
      const prompt = sketch('needle').write(writer, 2000, depth);
      const colon = [...prompt].findIndex((token) => tokenizer.detokenize([token]) === ':');
      return colon - 1;
    };
    expect(at(0)).toBeLessThan(16 + 40);
    expect(Math.abs(at(0.5) - 1000)).toBeLessThan(80);
    expect(at(1)).toBeGreaterThan(2000 - 64 - 20 - 9 - 40);
  });

  test('a prompt may have more tokens than a call has arguments', () => {
    expect(sketch('needle').write(setUp().writer, 200_000, 1)).toHaveLength(200_000);
  });

  test('the question is about a statement that is there, with its value', () => {
    const { tokenizer, writer } = setUp();
    const { expected, write } = sketch('multi-key');
    const text = tokenizer.detokenize(write(writer, 800, null));
    const asked = /Answer: (\w+)$/.exec(text)?.[1] ?? '';
    expect(text).toContain(`Remember: ${asked} ${expected.parts[0] ?? ''}.`);
    expect(text.match(/Remember: \w+ \d{5}\./g)).toHaveLength(4);
  });

  test('a function of the source code is there once, and passes what is expected; few others pass numbers', () => {
    let numbers = 0;
    let others = 0;
    for (let seed = 0; seed < 10; seed++) {
      const { tokenizer, writer } = setUp();
      const { expected, write } = sketch('code-argument', seed);
      const text = tokenizer.detokenize(write(writer, 1500, 0.5));
      const [, name = '', callee = ''] = /Question: which number does (\w+) pass to (\w+)\?/.exec(text) ?? [];
      const functions = text.slice(0, text.lastIndexOf('\nQuestion')).split(/\n\n(?=def )/);
      const asked = functions.filter((code) => code.startsWith(`def ${name}(`));
      expect(asked).toHaveLength(1);
      const calls = [...(asked[0] ?? '').matchAll(new RegExp(`${callee}\\(\\w+, (\\d{5})\\)`, 'g'))].map(([, passed]) => passed);
      expect(calls).toEqual(expected.parts);
      expect(functions.length).toBeGreaterThan(15);
      expect(text.split(expected.parts[0] ?? '')).toHaveLength(2);
      expect(functions.filter((code) => /\d/.test(code)).length).toBeGreaterThan(1);
      numbers += functions.filter((code) => !asked.includes(code) && /\d/.test(code)).length;
      others += functions.length - 1;
    }
    expect(numbers / others).toBeGreaterThan(0.01);
    expect(numbers / others).toBeLessThan(0.15);
  });

  test('a chain of variables leads to its number', () => {
    const { tokenizer, writer } = setUp();
    const { expected, write } = sketch('variable-tracking');
    const text = tokenizer.detokenize(write(writer, 800, null));
    let name = /Answer: (\w+)$/.exec(text)?.[1] ?? '';
    const path: string[] = [];
    while (!/^\d+$/.test(name)) {
      name = new RegExp(`Set ${name} (\\w+)\\.`).exec(text)?.[1] ?? '0';
      path.push(name);
    }
    expect(` ${path.join(' ')}`).toBe(expected.text);
    // A variable is set before it is used.
    const order = [...text.matchAll(/Set (\w+) (\w+)\./g)];
    order.forEach(([, variable = '', source = ''], index) => {
      if (!/^\d+$/.test(source)) expect(order.slice(0, index).map(([, earlier]) => earlier)).toContain(source);
      expect(order.filter(([, other]) => other === variable)).toHaveLength(1);
    });
  });

  test.each([
    ['common-words', 500],
    ['common-words', 4000],
    ['frequent-words', 500],
    ['frequent-words', 4000],
  ])('%s of %i tokens: the asked words come more often than all others', (task, length) => {
    const { tokenizer, writer } = setUp();
    const { expected, write } = sketch(task);
    const list = /\n(.*)\n/.exec(tokenizer.detokenize(write(writer, length, null)))?.[1] ?? '';
    const counts = new Map<string, number>();
    for (const word of list.match(/\w+/g) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
    const ranked = [...counts].sort((a, b) => b[1] - a[1]);
    expect(
      ranked
        .slice(0, 3)
        .map(([word]) => word)
        .sort(),
    ).toEqual([...expected.parts].sort());
    expect(ranked[2]?.[1]).toBeGreaterThan(ranked[3]?.[1] ?? 0);
    if (task === 'frequent-words') expect(ranked.slice(0, 3).map(([word]) => word)).toEqual(expected.parts);
  });

  test('too short a prompt is an error that says what it needs', () => {
    const { writer } = setUp();
    expect(() => sketch('needle').write(writer, 100, 0)).toThrow(EvaluationError);
    expect(() => sketch('needle').write(writer, 100, 0)).toThrow(/prompt of 100 tokens has no room.*first 16 tokens or the 64 before/s);
    expect(() => sketch('common-words').write(writer, 20, null)).toThrow(EvaluationError);
  });
});

describe('scores', () => {
  const vocabulary = new Set(['apple', 'pear', 'plum', 'fig']);
  test.each([
    // a whole number, the first one
    [{ kind: 'numbers', parts: ['12345'] }, ' 12345.', 1],
    [{ kind: 'numbers', parts: ['12345'] }, 'The number is 12345', 1],
    [{ kind: 'numbers', parts: ['12345'] }, ' 123456', 0],
    [{ kind: 'numbers', parts: ['12345'] }, ' 12344, no, 12345', 0],
    [{ kind: 'numbers', parts: ['01234'] }, ' 01234', 1],
    [{ kind: 'numbers', parts: ['01234'] }, ' 1234', 0],
    // as many as are expected, in any order
    [{ kind: 'numbers', parts: ['11', '22', '33', '44'] }, '22, key 11, key 44, key 33', 1],
    [{ kind: 'numbers', parts: ['11', '22', '33', '44'] }, '11, 22', 0.5],
    [{ kind: 'numbers', parts: ['11', '22'] }, '33, 11, 22', 0.5],
    [{ kind: 'numbers', parts: ['11', '22'] }, '11, 11, 22', 0.5],
    [{ kind: 'words', parts: ['apple', 'fig'] }, ' Fig, apple.', 1],
    [{ kind: 'words', parts: ['apple', 'fig'] }, 'The words are apple and fig', 1],
    [{ kind: 'words', parts: ['apple', 'fig'] }, 'apple, pear, fig', 0.5],
    [{ kind: 'words', parts: ['apple', 'fig'] }, 'apples, figs', 0],
  ] as const)('%j: %j is worth %d', (expected, answer, score) => {
    expect(scoreAnswer({ ...expected, text: '' }, answer, vocabulary)).toBe(score);
  });
});

test('the window of a query reaches back recent and, with steps, one less than a step', () => {
  expect(sight).toEqual({ sink: 16, window: 64 });
  expect(sightOf({ sink: 4, recent: 32, chunk: 8 })).toEqual({ sink: 4, window: 39 });
});
