import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { evaluate } from '../../src/eval/evaluate.ts';
import type { KeptHaystack } from '../../src/eval/kept-haystack.ts';
import { planEvaluation, type Evaluation } from '../../src/eval/plan.ts';
import { ResultStore, type Result } from '../../src/eval/store.ts';
import { loadModel, type Context, type GenerateOptions, type Model, type Tokens } from '../../src/index.ts';
import { needleInF32 } from './needle-f32.ts';

// In F32 the same prompt gives the same answer however it was split, so what a shared haystack changes would be seen.
const file = needleInF32();
let model: Model;
beforeAll(async () => {
  model = await loadModel(file.path);
});
afterAll(async () => {
  await model.dispose();
  file.remove();
});

const tasks = ['needle', 'multi-key', 'multi-value', 'multi-query', 'variable-tracking'];
const length = 512;
const samples = 2;

function plan(chunk: number, ubatchSize: number): Promise<Evaluation> {
  return planEvaluation(model, {
    tasks,
    modes: ['full', 'duo'],
    gates: 'auto',
    sparsities: [0.5],
    chunks: [chunk],
    sink: 16,
    recent: 32,
    types: [{ typeK: 'f16', typeV: 'f16' }],
    lengths: [length],
    depths: [0, 1],
    samples,
    seed: 1,
    shared: true,
    chat: false,
    plan: { threads: 1, ubatchSize },
  });
}

const name = ({ variant, task, depth, index }: Result): string => [variant, task, depth, index].join(' ');

async function run({ batches, variants, settings }: Evaluation, store = new ResultStore(settings), ubatchSize = 64): Promise<Result[]> {
  await evaluate(model, batches, variants, store, { plan: { threads: 1, ubatchSize } });
  return store.all();
}

/** Each prompt from an empty cache, read as a whole. */
async function alone({ batches, variants }: Evaluation): Promise<Map<string, string | undefined>> {
  const whole = (context: Context): KeptHaystack => {
    const holding = (haystack: Int32Array) => {
      const generate: Context['generate'] = (question: Tokens, options?: GenerateOptions) =>
        context.generate(Int32Array.from([...haystack, ...(question as Int32Array)]), options) as never;
      return Promise.resolve({ sequence: { generate }, read: { tokens: 0, seconds: 0 } });
    };
    return { holding } as unknown as KeptHaystack;
  };
  const answers = new Map<string, string | undefined>();
  for (const variant of variants) {
    for (const { task, cells } of batches) {
      for (const { depth, count, item } of cells) {
        for (let index = 0; index < count; index++) {
          await using context = await model.createContext({ contextSize: length, threads: 1, ubatchSize: 64, duo: variant.duo?.(0) });
          const { answer } = await item(index).run(context, { kept: whole(context) });
          answers.set([variant.label, task, depth, index].join(' '), answer);
        }
      }
    }
  }
  return answers;
}

describe.each([1, 24])('windows in steps of %i', (chunk) => {
  test('a haystack is read once, and each answer is that of its prompt alone', { timeout: 300_000 }, async () => {
    const evaluation = await plan(chunk, 64);
    const results = await run(evaluation);
    expect(results).toHaveLength(2 * (tasks.length + 1) * samples);
    const read = results.map(({ outcome }) => outcome.prefill.tokens);
    const questions = tasks.length + 1;
    read.forEach((tokens, at) => (at % questions === 0 ? expect(tokens).toBeGreaterThan(300) : expect(tokens).toBeLessThan(40)));

    expect(new Map(results.map((result) => [name(result), result.outcome.answer]))).toEqual(await alone(evaluation));
    // Answers that are all wrong would be alike, too.
    expect(results.filter(({ outcome }) => outcome.scores[0]?.value === 1).length).toBeGreaterThan(results.length / 2);
  });
});

test('a haystack whose answers are all there is not read; what is missing of another is asked for', { timeout: 300_000 }, async () => {
  const evaluation = await plan(1, 64);
  const whole = await run(evaluation);
  const store = new ResultStore(evaluation.settings);
  const missing = whole.filter(({ variant, task, index }) => variant === 'duo 50%' && task === 'multi-value' && index === 1);
  for (const result of whole) if (!missing.includes(result)) store.add(result);
  const before = store.size;
  const resumed = (await run(evaluation, store)).slice(before);
  expect(resumed.map(name)).toEqual(missing.map(name));
  expect(resumed.map(({ outcome }) => outcome.answer)).toEqual(missing.map(({ outcome }) => outcome.answer));
});
