import { afterAll, beforeAll, expect, test } from 'vitest';

import { loadModel, type Context, type Model } from '../../src/index.ts';
import { Lateness } from '../lateness.ts';
import { needlePath, threads } from './needle.ts';

let lateness: Lateness;
let model: Model;
let context: Context;
beforeAll(async () => {
  lateness = new Lateness();
  model = await loadModel(needlePath);
  // As large as a text of 1.25 million tokens may need, so that it is tokenized before it is refused, and with streaming heads only, so that it is small.
  context = await model.createContext({ contextSize: 131072, threads, duo: { sparsity: 1, sink: 4, recent: 32 } });
  await context.generate('warm', { maxTokens: 2 }).text();
});
afterAll(async () => {
  await context.dispose();
  await model.dispose();
  await lateness.close();
});

test('the measure sees a thread that is blocked', async () => {
  const { worst } = await lateness.measure(() => {
    const until = performance.now() + 150;
    while (performance.now() < until);
    return Promise.resolve();
  });
  expect(worst).toBeGreaterThan(100);
});

const sentences = 'The sea is wide, and the ships are small.\nA lamp <|end|> burns. ';

test('while 1.25 million tokens of text are submitted', { timeout: 300_000 }, async () => {
  const perSentence = model.tokenize(sentences.repeat(100), { parseSpecial: true, addSpecial: false }).length / 100;
  const text = sentences.repeat(Math.ceil(1_260_000 / perSentence));
  await lateness.expectPrompt(async () => {
    await expect(context.generate(text).text()).rejects.toMatchObject({ code: 'full' });
    await expect(context.score(text)).rejects.toMatchObject({ code: 'full' });
  });
  await lateness.expectPrompt(async () => {
    expect((await model.tokenizeAsync(text, { parseSpecial: true })).length).toBeGreaterThanOrEqual(1_250_000);
  });
});

test('while 8,192 tokens are read, and scored', { timeout: 300_000 }, async () => {
  const ids = new Int32Array(8192).map((_, index) => 10 + (index % 400));
  await lateness.expectPrompt(() => context.generate(ids, { maxTokens: 16, ignoreEos: true, reuse: false }).result());
  await lateness.expectPrompt(() => context.score(ids));
});

test('while chats, schemas, embeddings and states are at work', { timeout: 300_000 }, async () => {
  await using many = await model.createContext({ contextSize: 2048, sequences: 4, threads });
  await using embedder = await model.createEmbedder({ contextSize: 256, threads });
  const properties = { name: { type: 'string', maxLength: 20 }, ages: { type: 'array', items: { type: 'integer' }, maxItems: 3 } } as const;
  const schema = { type: 'object', properties } as const;
  const stateBytes = 1900 * (many.memory().fullBytes / many.memory().sequences / 2048);
  await lateness.expectPrompt(async () => {
    await using sequence = await many.sequence();
    await sequence.append(new Int32Array(1900).map((_, index) => 10 + (index % 400)));
    await Promise.all([
      ...['One', 'Two', 'Three'].map((text) => many.chat().send(text, { maxTokens: 64 }).text()),
      many.chat().send('Who?', { schema, maxTokens: 100 }).text(),
      embedder.embed(Array.from({ length: 100 }, (_, index) => `${sentences}${index}`)),
      sequence.save().then((state) => sequence.load(state)),
    ]);
  }, stateBytes);
});

test('while a model loads, and contexts come and go', { timeout: 120_000 }, async () => {
  await lateness.expectPrompt(async () => {
    for (let round = 0; round < 5; round++) {
      await using loaded = await loadModel(needlePath, { useMmap: false });
      await using made = await loaded.createContext({ contextSize: 16384, threads });
      expect(made.info.contextSize).toBe(16384);
    }
  });
});

test('while a pattern is calibrated on a text of 11 MB', { timeout: 300_000 }, async () => {
  const text = sentences.repeat(Math.ceil(11_000_000 / sentences.length));
  await lateness.expectPrompt(() =>
    model.calibrate({ text, samples: 1, questions: 2, contextSize: 512, sink: 4, recent: 32, method: 'mass', threads }),
  );
});
