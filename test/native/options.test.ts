import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  appendTable,
  chatTemplateTable,
  duoTable,
  embedderTable,
  generateTable,
  headChoiceTable,
  modelTable,
  planTable,
  scoreTable,
  speculativeTable,
} from '../../src/core/option-tables.ts';
import type { Option } from '../../src/core/options.ts';
import { OptionError, errorFromJob } from '../../src/errors.ts';
import { JobState, openNative, type Handle, type Native } from '../../src/ffi/native.ts';
import { calibrateTable } from '../../src/gates/option-tables.ts';
import { needlePath } from './needle-model.ts';

// Options are checked twice: in TypeScript, and in C++ for callers of other languages. Both are asked the same here, and have to say the same.

let native: Native;
let model: Handle;
let context: Handle;
let sequence: Handle;

async function resultOf(job: Handle): Promise<Record<string, unknown>> {
  while (native.jobPoll(job).state < JobState.done) await new Promise((resolve) => setTimeout(resolve, 5));
  const result = JSON.parse(native.jobResult(job)) as Record<string, unknown>;
  native.jobFree(job);
  return result;
}

beforeAll(async () => {
  native = await openNative();
  model = (await resultOf(native.modelLoad(JSON.stringify({ path: needlePath }))))['model'] as Handle;
  const options = JSON.stringify({ contextSize: 512, sequences: 2, threads: 1 });
  context = (await resultOf(native.contextCreate(model, options)))['context'] as Handle;
  sequence = (await resultOf(native.sequenceCreate(context)))['sequence'] as Handle;
});
afterAll(() => {
  native.contextFree(context);
  native.modelFree(model);
});

type Side = {
  table: Record<string, Option>;
  submit: (options: Record<string, unknown>) => Handle;
  /** Keys that only C++ has. */
  there?: string[];
  /** Keys that take more here, so that the words differ: a path may be a URL, a stop text may be alone; a bound may come from the text. */
  wider?: string[];
};

const tokens = Int32Array.of(5, 6, 7);
const pattern = { llamaDuoPattern: 1, layers: 1, kvHeads: 2, gates: [[0.25, 0.75]] };
const json = JSON.stringify;

const sides: Record<string, Side> = {
  loadModel: {
    table: modelTable,
    submit: (o) => native.modelLoad(json({ path: needlePath, vocabOnly: true, ...o })),
    there: ['path'],
    wider: ['devices'],
  },
  planContext: {
    table: planTable,
    submit: (o) => native.contextPlan(model, json({ contextSize: 256, ...o })),
    wider: ['contextSize', 'duo', 'loras', 'speculative'],
  },
  duo: { table: duoTable, submit: (o) => native.contextPlan(model, json({ contextSize: 256, duo: o })) },
  speculative: {
    table: speculativeTable,
    submit: (o) => native.contextPlan(model, json({ contextSize: 256, speculative: { draft: model, ...o } })),
    wider: ['draft'],
  },
  generate: {
    table: generateTable,
    submit: (o) => native.generate(context, tokens, json({ maxTokens: 0, ...o })),
    there: ['jsonSchema', 'chat'],
    wider: ['stop', 'n', 'logProbabilities', 'logitBias'],
  },
  score: { table: scoreTable, submit: (o) => native.score(context, tokens, json(o)), wider: ['from'] },
  append: {
    table: appendTable,
    submit: (o) => native.sequenceAppend(sequence, tokens, json(o)),
  },
  chat: {
    table: chatTemplateTable,
    submit: (o) => {
      const job = native.chatApply(model, json({ messages: [{ role: 'user', content: 'hello' }], ...o }));
      readLater.add(job);
      return job;
    },
    there: ['messages', 'tools', 'addAssistant', 'continueLast', 'jsonSchema', 'reasoning', 'now'],
  },
  embedder: {
    table: embedderTable,
    submit: (o) => native.embedderCreate(model, json({ threads: 1, ...o })),
    wider: ['contextSize'],
  },
  select: { table: headChoiceTable, submit: (o) => native.gatesSelect(json({ pattern, ...o })), there: ['pattern', 'kvHeads'] },
  calibrate: {
    table: calibrateTable,
    submit: (o) => {
      const job = native.calibrate(model, json({ samples: [{ tokens: [5, 6, 7], context: 1, answers: [[2, 3]] }], ...o }));
      readLater.add(job);
      return job;
    },
    there: ['samples', 'modelId'],
    wider: ['partial'],
  },
};

const readLater = new Set<Handle>();

const values: unknown[] = [
  ...[null, true, false, 0, 1, -1, -2, 2, 3, 0.5, 1.5, -0.5, 1e-9, 0.001, 20, 512, 513, 1000, 1001, 1e9, 1e21, 1e39, -1e39],
  ...[2 ** 20, 2 ** 20 + 1, 2 ** 24, 2 ** 24 + 1, 2 ** 31 - 256, 2 ** 31 - 255, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32],
  ...['', 'x', 'a\0b', 'auto', 'on', 'f16', 'f15', 'combined', [], ['a'], [''], [1], ['a', null], {}, { sparsity: 1 }],
];

/** What the library says of an option's value: its error, or undefined where it takes it. What the job comes to later does not matter. */
async function refusal(job: Handle, option: string): Promise<OptionError | undefined> {
  // Options that may be large are read by a thread of the job's own, which has a progress once they are, or has ended.
  let { state, progress } = native.jobPoll(job);
  while (readLater.has(job) && state < JobState.done && progress < 0) {
    await new Promise((resolve) => setTimeout(resolve, 1));
    ({ state, progress } = native.jobPoll(job));
  }
  readLater.delete(job);
  const error = state === JobState.failed ? errorFromJob(native.jobError(job)) : undefined;
  native.jobFree(job);
  return error instanceof OptionError && error.option === option ? error : undefined;
}

describe.each(Object.entries(sides))('%s', (name, { table, submit, there = [], wider = [] }) => {
  const prefix = name === 'duo' || name === 'speculative' ? `${name}.` : '';
  const shared = Object.entries(table).flatMap(([key, option]): [string, string, Option][] => {
    const { native = key } = option;
    return native === null ? [] : [[key, native, option]];
  });

  test('both sides know the same options', async () => {
    const expected = (await refusal(submit({ noSuchOption: 1 }), `${prefix}noSuchOption`))?.expected ?? '';
    const known = expected.replace('no such option; known are ', '').split(', ');
    expect(known.sort()).toEqual([...shared.map(([, key]) => key), ...there].sort());
  });

  test.each(shared)('%s', async (own, key, { accepts, expected }) => {
    let refused = 0;
    for (const value of values) {
      // What a grammar says is looked at later, and then is an error of the same name.
      if (key === 'grammar' && typeof value === 'string' && value !== '') continue;
      const error = await refusal(submit({ [key]: value }), prefix + key);
      const told = `${own}: ${json(value)}`;
      if (error) refused++;
      if (wider.includes(own)) {
        // Whatever is refused here is refused there, but for what stands for something else: 0 is a model's own size.
        if (!accepts(value) && !(own === 'contextSize' && value === 0)) expect([told, error === undefined]).toEqual([told, false]);
        continue;
      }
      expect([told, error === undefined]).toEqual([told, accepts(value)]);
      if (error) expect([told, error.expected]).toEqual([told, expected]);
    }
    expect(refused).toBeGreaterThan(0);
  });
});

test('one of sparsity and threshold, in the same words', async () => {
  const error = await refusal(native.contextPlan(model, json({ duo: { sparsity: 0.5, threshold: 0.5 } })), 'duo.threshold');
  expect(error?.expected).toBe('no threshold beside a sparsity: they are two ways to choose heads');
});

test('more sequences than a batch has tokens are refused, where a context is planned and where it is made', async () => {
  for (const submit of [native.contextPlan.bind(native), native.contextCreate.bind(native)]) {
    const error = await refusal(submit(model, json({ contextSize: 4096, sequences: 2, batchSize: 1 })), 'batchSize');
    expect(error?.expected).toBe('an integer of at least 2: a token for each of the sequences');
  }
});
