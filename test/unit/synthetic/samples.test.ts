import { describe, expect, test } from 'vitest';

import { sampleKinds } from '../../../src/gates/sample-kinds.ts';
import { calibrationSamples, type SampleOptions } from '../../../src/synthetic/samples.ts';
import { chatTurns, ownTurns, plainTurns } from '../../../src/synthetic/turns.ts';
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

/** The same with something else. */
const modelWith = (changes: object): Model => Object.assign({}, model, changes);

const textOf = (tokens: readonly number[]): string => tokens.map((token) => vocabulary[token - 1] ?? '').join('');

const options: SampleOptions = {
  contextSize: 600,
  questions: 6,
  kinds: sampleKinds,
  turns: plainTurns(model),
  sink: 20,
  recent: 100,
  seed: 3,
};

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
      // One number, one passkey, two numbers of two words, two of one word, a chain of two links and a number, and two arguments of a call.
      expect(answers).toHaveLength(6);
      const questions = textOf(tokens.slice(context));
      expect(questions.match(/Question:/g)).toHaveLength(6);
      const told = answers.flatMap(([first, end]) => textOf(tokens.slice(first, end)).match(/ ?\d{5}/g) ?? []);
      expect(told).toHaveLength(8);
      for (const number of told) {
        // Tokens of the number, digit by digit, where the context has them.
        const digits = [...model.tokenize(number)];
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
      expect(answers.map(([from, to]) => textOf(tokens.slice(from, to)))).toContain(` ${hop} ${first} ${value}`);
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
    const places = samples.map(({ tokens, context }) => {
      const before = tokens.slice(0, context);
      return [...textOf(before).matchAll(/\d{5}/g)].map(({ index }) => index / textOf(before).length);
    });
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

describe('code', () => {
  test('tells which of two functions that call the same passes what', async () => {
    const made = await calibrationSamples(model, 3, { ...options, questions: 2, kinds: ['code'] });
    for (const { tokens, context, answers } of made) {
      const text = textOf(tokens.slice(0, context));
      const asked = [...textOf(tokens.slice(context)).matchAll(/how does (\w+) call (\w+)\?\nAnswer: (\w+)\(self, (\d{5}), ([a-z]+)/g)];
      expect(asked).toHaveLength(2);
      expect(answers.map(([first, end]) => textOf(tokens.slice(first, end)))).toEqual(
        asked.map(([, , , , first = '', second = '']) => ` ${first}, ${second}`),
      );
      for (const [, caller = '', callee = '', called, first = '', second = ''] of asked) {
        expect(called).toBe(callee);
        expect(text).toContain(`\ndef ${caller}(self):\n    return ${callee}(self, ${first}, ${second})\n`);
        expect(text.split(`return ${callee}(self,`)).toHaveLength(3); // another function calls it, too
      }
    }
  });
});

test('only what is wanted is asked for', async () => {
  const marks = {
    numbers: /which number goes with/,
    passkeys: /what is the passkey/,
    multi: /which numbers go with/,
    chains: /follow/,
    code: /how does/,
  };
  for (const kind of sampleKinds) {
    const [sample] = await calibrationSamples(model, 1, { ...options, kinds: sampleKinds.filter((other) => other !== kind) });
    const questions = textOf(sample?.tokens.slice(sample.context) ?? []);
    for (const [other, mark] of Object.entries(marks)) expect([other, mark.test(questions)]).toEqual([other, other !== kind]);
  }
});

test('as many facts of one kind as there may be differ in their names', async () => {
  for (const kind of sampleKinds) {
    const [sample] = await calibrationSamples(modelOf(4096), 1, { ...options, contextSize: 4000, questions: 20, kinds: [kind] });
    const questions = textOf(sample?.tokens.slice(sample.context) ?? []).match(/Question: [^?.]+[?.]/g);
    expect(new Set(questions).size).toBe(20);
  }
});

describe('a chat', () => {
  /** Marks of turns are tokens of their own where they are not read as text. */
  const tokenize = (text: string, { parseSpecial = true } = {}): Int32Array =>
    Int32Array.from(
      text.split(/(<\w+>)/).flatMap((part) => {
        if (!parseSpecial || !/^<\w+>$/.test(part)) return [...model.tokenize(part)];
        if (!vocabulary.includes(part)) vocabulary.push(part);
        return [vocabulary.indexOf(part) + 1];
      }),
    );
  const chatting = (template: (contents: string[]) => string): Model =>
    modelWith({
      tokenize,
      info: { ...model.info, chatTemplate: 'one' },
      chatPrompt: (messages: { content: string }[]) => Promise.resolve({ text: template(messages.map(({ content }) => content)) }),
    });

  test('has the text and the first question in its first turn, and a turn for each answer and further question', async () => {
    const turns = chatting(([text = '', answer = '', next = '']) => `<user>${text}<bot>${answer} <end><user>${next}<bot>`);
    const [sample] = await calibrationSamples(turns, 1, { ...options, turns: await chatTurns(turns) });
    const { tokens = [], context = 0, answers = [] } = sample ?? {};
    expect(tokens).toHaveLength(600);
    expect(textOf(tokens)).toMatch(/^<user>[A-Z]/);
    const [first = '', ...rest] = textOf(tokens.slice(context)).split('<user>');
    expect(rest).toHaveLength(5);
    expect(first).toMatch(/^\nQuestion: [^<>]+<bot>[^<>:]+[.)] ?<end>$/);
    for (const turn of rest) expect(turn).toMatch(/^Question: [^<>]+<bot>[^<>:]+[.)] ?<end>$/);
    expect(answers).toHaveLength(6);
    for (const [from, to] of answers) expect(textOf(tokens.slice(from, to))).toMatch(/^ ?(\d{5}|[a-z]+)[^<>]*[.)] ?<end>$/);
  });

  test('is to be had where a template shows messages as they are', async () => {
    const shown = chatting(([text = '', answer = '', next = '']) => `<user>${text}<bot>${answer}<user>${next}<bot>`);
    expect(await ownTurns(shown)).toEqual(await chatTurns(shown));
    expect(await ownTurns(chatting(([text = '']) => text))).toEqual(plainTurns(model));
    expect(await ownTurns(modelWith({ info: { ...model.info, chatTemplate: null } }))).toEqual(plainTurns(model));
  });

  test('needs a template that shows messages as they are', async () => {
    const made = async (turns: Model) => calibrationSamples(turns, 1, { ...options, turns: await chatTurns(turns) });
    await expect(made(modelWith({ info: { ...model.info, chatTemplate: null } }))).rejects.toThrow('no template');
    await expect(made(chatting((contents) => contents.join('').toUpperCase()))).rejects.toThrow('as it is');
    await expect(made(chatting(([text = '']) => text))).rejects.toThrow(OptionError);
  });
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
    const counting = modelWith({ tokenize: (text: string): Int32Array => (lengths.push(text.length), model.tokenize(text)) });
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
