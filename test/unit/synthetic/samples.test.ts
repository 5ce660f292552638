import { describe, expect, test } from 'vitest';

import { calibrationSamples, type SampleOptions } from '../../../src/synthetic/samples.ts';
import { ContextError, OptionError } from '../../../src/errors.ts';
import type { Model } from '../../../src/gates/model.ts';

/** Tokens are words with the white space before them, marks and digits. */
const vocabulary: string[] = [];
const modelOf = (contextSize: number): Model =>
  ({
    tokenize(text: string): Int32Array {
      const words = text.match(/\s*[A-Za-z]+|\s*[^\sA-Za-z]|\s+/g) ?? [];
      return Int32Array.from(words, (word) => {
        if (!vocabulary.includes(word)) vocabulary.push(word);
        return vocabulary.indexOf(word) + 1;
      });
    },
    info: { trainedContextSize: contextSize, addBos: true, bosToken: 0 },
  }) as unknown as Model;
const model = modelOf(2048);

const textOf = (tokens: readonly number[]): string => tokens.map((token) => vocabulary[token - 1] ?? '').join('');

const options: SampleOptions = { contextSize: 600, questions: 5, sink: 20, recent: 100, seed: 3 };

const samples = await calibrationSamples(model, 3, options);

describe('a sample', () => {
  test('has the size that was asked for, and begins as the model wants', () => {
    for (const { tokens } of samples) {
      expect(tokens).toHaveLength(600);
      expect(tokens[0]).toBe(0);
    }
  });

  test('asks for what only the context tells, out of sight of heads that stream', () => {
    for (const { tokens, context, answers } of samples) {
      // One number, one passkey, two numbers of two words, two of one word, and a chain of two links and a number.
      expect(answers).toHaveLength(9);
      const questions = textOf(tokens.slice(context));
      expect(questions.match(/Question:/g)).toHaveLength(5);
      for (const [first, end] of answers) {
        const answer = textOf(tokens.slice(first, end));
        expect(answer).toMatch(/^ ?(\d{5}|[a-z]+)$/);
        // Tokens of the answer, digit by digit, where the context has them.
        const digits = tokens.slice(first, end);
        const place = tokens.findIndex((_, index) => digits.every((digit, n) => tokens[index + n] === digit));
        expect(place).toBeGreaterThanOrEqual(20);
        expect(place + digits.length).toBeLessThanOrEqual(context - 100);
      }
    }
  });

  test('a chain leads back to its number', () => {
    for (const { tokens, context, answers } of samples) {
      const text = textOf(tokens.slice(0, context));
      const questions = textOf(tokens.slice(context));
      const [, last = '', hop = '', first = '', value = ''] =
        /follow (\w+) back to its number\.\s*Answer: \w+ (\w+) (\w+) (\d+)/.exec(questions) ?? [];
      expect(text).toContain(`Set ${first} ${value}.`);
      expect(text.indexOf(`Set ${hop} ${first}.`)).toBeGreaterThan(text.indexOf(`Set ${first} ${value}.`));
      expect(text.indexOf(`Set ${last} ${hop}.`)).toBeGreaterThan(text.indexOf(`Set ${hop} ${first}.`));
      expect(answers.filter(([from, to]) => [` ${hop}`, ` ${first}`].includes(textOf(tokens.slice(from, to))))).toHaveLength(2);
    }
  });

  test('several values of a word are asked for in the order of the text', () => {
    for (const { tokens, context } of samples) {
      const text = textOf(tokens.slice(0, context));
      const [, key = '', first = '', second = ''] =
        /which numbers go with (\w+)\?\s*Answer: \w+ (\d+), \w+ (\d+)/.exec(textOf(tokens.slice(context))) ?? [];
      expect(text.indexOf(`Remember: ${key} ${first}.`)).toBeGreaterThan(0);
      expect(text.indexOf(`Remember: ${key} ${second}.`)).toBeGreaterThan(text.indexOf(`Remember: ${key} ${first}.`));
    }
  });

  test('facts are spread over the context', () => {
    const places = samples.map(({ tokens, context, answers }) =>
      answers.map(([first, end]) => {
        const digits = tokens.slice(first, end);
        return tokens.findIndex((_, index) => digits.every((digit, n) => tokens[index + n] === digit)) / context;
      }),
    );
    for (const places_ of places) expect(Math.max(...places_) - Math.min(...places_)).toBeGreaterThan(0.3);
  });

  test('is another for another number and seed, and the same for the same', async () => {
    expect(await calibrationSamples(model, 3, options)).toEqual(samples);
    expect(samples[1]).not.toEqual(samples[0]);
    expect((await calibrationSamples(model, 1, { ...options, seed: 4 }))[0]).not.toEqual(samples[0]);
  });
});

test('a sample may be long', async () => {
  const [sample] = await calibrationSamples(modelOf(2 ** 20), 1, { ...options, contextSize: 300_000 });
  expect(sample?.tokens).toHaveLength(300_000);
});

describe('a text of the user', () => {
  const text = Array.from({ length: 80 }, (_, index) => `Chapter ${index} tells of the sea and of ships.`).join('\n');

  test('is what facts are hidden in', async () => {
    const [sample] = await calibrationSamples(model, 1, { ...options, text });
    expect(sample?.tokens).toHaveLength(600);
    expect(textOf(sample?.tokens.slice(0, sample.context) ?? [])).toMatch(/of ships\. Remember: \w+ \d{5}\./);
  });

  test('has to be long enough', async () => {
    await expect(calibrationSamples(model, 1, { ...options, text: 'A short text.' })).rejects.toThrow(OptionError);
    await expect(calibrationSamples(model, 1, { ...options, text: '' })).rejects.toThrow('a text of at least');
  });

  test('is read no further than it is needed, and in pieces, whatever it is like', async () => {
    const lengths: number[] = [];
    const counting = { info: model.info, tokenize: (text: string): Int32Array => (lengths.push(text.length), model.tokenize(text)) };
    const unmarked = 'no mark and no end '.repeat(300_000);
    for (const book of [text.repeat(2000), unmarked, `${' '.repeat(2_000_000)}${text}`]) {
      lengths.length = 0;
      const made = calibrationSamples(counting, 1, { ...options, text: book });
      if (book === unmarked)
        await expect(made).rejects.toThrow('and something between'); // no place to hide a fact at
      else await made;
      expect(Math.max(...lengths)).toBeLessThan(6000);
      expect(lengths.reduce((sum, length) => sum + length, 0)).toBeLessThan(100_000);
    }
  });

  test('can be given up while it is cut into sentences', async () => {
    const reason = new Error('enough');
    const abort = new AbortController();
    setTimeout(() => {
      abort.abort(reason);
    }, 10);
    await expect(calibrationSamples(model, 1, { ...options, text: text.repeat(3000) }, abort.signal)).rejects.toBe(reason);
  });
});

test('a sample cannot be larger than what the model was trained for, nor so small that a window covers it', async () => {
  await expect(calibrationSamples(model, 1, { ...options, contextSize: 4096 })).rejects.toThrow(ContextError);
  await expect(calibrationSamples(model, 1, { ...options, contextSize: 4096 })).rejects.toThrow('more than the 2048');
  for (const contextSize of [1, 100, 220, 300]) {
    await expect(calibrationSamples(model, 1, { ...options, contextSize })).rejects.toThrow(OptionError);
  }
});
