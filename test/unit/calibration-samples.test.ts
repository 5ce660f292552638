import { describe, expect, test } from 'vitest';

import { calibrationSamples, type SampleOptions } from '../../src/calibration-samples.ts';
import { ContextError, OptionError } from '../../src/errors.ts';
import type { Model } from '../../src/model.ts';

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
    info: { contextSize, addBos: true, bosToken: 0 },
  }) as unknown as Model;
const model = modelOf(2048);

const textOf = (tokens: readonly number[]): string => tokens.map((token) => vocabulary[token - 1] ?? '').join('');

const options: SampleOptions = { contextSize: 600, questions: 5, sink: 20, recent: 100, seed: 3 };

describe('a sample', () => {
  const samples = calibrationSamples(model, 3, options);

  test('has the size that was asked for, and begins as the model wants', () => {
    for (const { tokens } of samples) {
      expect(tokens).toHaveLength(600);
      expect(tokens[0]).toBe(0);
    }
  });

  test('asks for what only the context tells, out of sight of heads that stream', () => {
    for (const { tokens, context, answers } of samples) {
      expect(answers).toHaveLength(5);
      const questions = textOf(tokens.slice(context));
      expect(questions.match(/Question:/g)).toHaveLength(5);
      for (const [first, end] of answers) {
        const answer = textOf(tokens.slice(first, end));
        expect(answer).toMatch(/^ ?\d{5}$/);
        // Tokens of the answer, digit by digit, where the context has them.
        const digits = tokens.slice(first, end);
        const place = tokens.findIndex((_, index) => digits.every((digit, n) => tokens[index + n] === digit));
        expect(place).toBeGreaterThanOrEqual(20);
        expect(place + digits.length).toBeLessThanOrEqual(context - 100);
      }
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

  test('is another for another number and seed, and the same for the same', () => {
    expect(calibrationSamples(model, 3, options)).toEqual(samples);
    expect(samples[1]).not.toEqual(samples[0]);
    expect(calibrationSamples(model, 1, { ...options, seed: 4 })[0]).not.toEqual(samples[0]);
  });
});

test('a sample may be long', () => {
  const [sample] = calibrationSamples(modelOf(2 ** 20), 1, { ...options, contextSize: 300_000 });
  expect(sample?.tokens).toHaveLength(300_000);
});

describe('a text of the user', () => {
  const text = Array.from({ length: 80 }, (_, index) => `Chapter ${index} tells of the sea and of ships.`).join('\n');

  test('is what facts are hidden in', () => {
    const [sample] = calibrationSamples(model, 1, { ...options, text });
    expect(sample?.tokens).toHaveLength(600);
    expect(textOf(sample?.tokens.slice(0, sample.context) ?? [])).toMatch(/of ships\. Remember: \w+ \d{5}\./);
  });

  test('has to be long enough', () => {
    expect(() => calibrationSamples(model, 1, { ...options, text: 'A short text.' })).toThrow(OptionError);
    expect(() => calibrationSamples(model, 1, { ...options, text: '' })).toThrow('a text of at least');
  });
});

test('a sample cannot be larger than what the model was trained for, nor so small that a window covers it', () => {
  expect(() => calibrationSamples(model, 1, { ...options, contextSize: 4096 })).toThrow(ContextError);
  expect(() => calibrationSamples(model, 1, { ...options, contextSize: 4096 })).toThrow('more than the 2048');
  for (const contextSize of [1, 100, 220, 300]) {
    expect(() => calibrationSamples(model, 1, { ...options, contextSize })).toThrow(OptionError);
  }
});
