import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import type { Model } from '../../../src/index.ts';
import { planEvaluation, type EvaluationOptions } from '../../../src/eval/plan.ts';
import type { Settings } from '../../../src/eval/store.ts';
import { WordTokenizer } from './word-tokenizer.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-plan-'));
  write('model.gguf', 'a model');
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

function write(path: string, content: string): void {
  mkdirSync(join(folder, path, '..'), { recursive: true });
  writeFileSync(join(folder, path), content);
}

/** What planning asks of a model. */
function fakeModel(): Model {
  const tokenizer = new WordTokenizer();
  const info = { path: join(folder, 'model.gguf'), kvHeads: [2, 2], addBos: false, bosToken: null, metadata: {} };
  return { info, tokenize: (text: string) => tokenizer.tokenize(text) } as unknown as Model;
}

const options: EvaluationOptions = {
  tasks: ['needle'],
  gates: 'even',
  sparsities: [0.5],
  chunks: [1],
  sink: 4,
  recent: 16,
  types: [{ typeK: 'f16', typeV: 'f16' }],
  lengths: [256],
  depths: [0, 1],
  seed: 1,
  chat: false,
  plan: {},
};

async function settings(over: Partial<EvaluationOptions> = {}): Promise<Settings> {
  return (await planEvaluation(fakeModel(), { ...options, ...over })).settings;
}

describe('the settings that --resume compares', () => {
  test('are the same for the same evaluation', async () => {
    expect(await settings()).toEqual(await settings());
  });

  test('have the sparsities as they are', async () => {
    expect((await settings({ modes: ['duo'] }))['variants']).toEqual([['duo 50%', 0.5, 'f16', 'f16', 1]]);
    expect((await settings({ modes: ['duo'], sparsities: [0.5004] }))['variants']).toEqual([['duo 50.04%', 0.5004, 'f16', 'f16', 1]]);
  });
});
