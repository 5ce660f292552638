import { afterAll, beforeAll, expect, test } from 'vitest';

import { loadModel, type GenerationResult, type Model } from '../../src/index.ts';
import { needleInF32 } from './needle-f32.ts';
import { threads } from './needle.ts';

// Drafting changes how fast a text comes, not the text. What the engine does is tested natively, on many models; here that it arrives.

// In F32: quantised weights are multiplied in other ways for one token and for several, on a processor with AMX to another text.
const file = needleInF32();

let model: Model;
beforeAll(async () => {
  model = await loadModel(file.path);
});
afterAll(async () => {
  await model.dispose();
  file.remove();
});

const text = 'The sea is wide. The boat is small. The sea is wide. The boat is small. The sea is';
const greedy = { temperature: 0, maxTokens: 48, ignoreEos: true } as const;

async function generate(speculative?: Parameters<Model['createContext']>[0]): Promise<GenerationResult> {
  await using context = await model.createContext({ contextSize: 512, threads, typeK: 'f32', typeV: 'f32', ...speculative });
  return await context.generate(text, greedy).result();
}

test('a context that drafts nothing says so', async () => {
  expect(await generate()).toMatchObject({ draftedTokens: 0, acceptedTokens: 0 });
});

test('what is looked up is what would have come', async () => {
  const plain = await generate();
  const { text: same, draftedTokens, acceptedTokens } = await generate({ speculative: { lookup: true, ngramSize: 3, maxTokens: 8 } });
  expect(same).toBe(plain.text);
  expect(draftedTokens).toBeGreaterThan(0);
  expect(acceptedTokens).toBeLessThanOrEqual(draftedTokens);
});

test.each([undefined, { sparsity: 1, sink: 4, recent: 64 }])('a model drafts for itself, heads: %o', async (duo) => {
  const plain = await generate({ duo });
  const drafted = await generate({ duo, speculative: { draft: model, maxTokens: 4 } });
  expect(drafted.text).toBe(plain.text);
  expect(drafted.draftedTokens).toBeGreaterThan(20);
  // With streaming heads it is another model that drafts: one that sees everything.
  if (!duo) expect(drafted.acceptedTokens).toBeGreaterThan(0.8 * drafted.draftedTokens);
});

test('what drafts is part of what a context takes', async () => {
  const sizes = { contextSize: 1024, threads, duo: { sparsity: 1, sink: 4, recent: 64 }, speculative: { draft: model } };
  const plan = await model.planContext(sizes);
  const estimate = await model.estimate(sizes);
  await using context = await model.createContext(sizes);
  expect(context.info.draftKv?.totalBytes).toBe(context.memory().fullBytes);
  expect(plan.draftKv).toEqual(context.info.draftKv);
  expect(estimate).toMatchObject({ supported: true, draftKv: context.info.draftKv });
});

test('several sequences draft, each its own', async () => {
  await using plain = await model.createContext({ contextSize: 512, sequences: 3, threads, typeK: 'f32', typeV: 'f32' });
  await using context = await model.createContext({
    contextSize: 512,
    sequences: 3,
    threads,
    typeK: 'f32',
    typeV: 'f32',
    speculative: { draft: model, lookup: true, ngramSize: 3 },
  });
  const prompts = [text, 'A lamp burns in the window of the', 'One boat, two boats, three boats, one boat, two'];
  const answers = (of: typeof context) => Promise.all(prompts.map((prompt) => of.generate(prompt, greedy).text()));
  expect(await answers(context)).toEqual(await answers(plain));
});

test('nothing to draft with, and a slip, are named', async () => {
  await expect(model.createContext({ speculative: {} })).rejects.toMatchObject({ code: 'option', option: 'speculative' });
  await expect(model.createContext({ speculative: { lookup: true, maxToken: 1 } as object })).rejects.toThrow(
    /Did you mean speculative.maxTokens/,
  );
  await expect(model.createContext({ speculative: { draft: 'm.gguf' } as object })).rejects.toThrow(/speculative.draft: expected a model/);
});
