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

  test('have what is in the files that are read, and in no others', async () => {
    const line = (answer: string): string => JSON.stringify({ context: 'Ann lives in Rome.', input: 'Where?', answers: [answer] });
    const problem = (question: string): string => `${question},one,two,three,four,A`;
    const longBench = async () => (await settings({ tasks: ['longbench/hotpotqa'], data: folder }))['data'];
    const mmlu = async () => (await settings({ tasks: ['mmlu/law'], data: folder }))['data'];
    write('hotpotqa.jsonl', line('Rome'));
    write('config/dataset2prompt.json', JSON.stringify({ hotpotqa: 'In {context} {input}' }));
    write('config/dataset2maxlen.json', JSON.stringify({ hotpotqa: 32 }));
    write('dev/law_dev.csv', problem('Old?'));
    write('test/law_test.csv', problem('Old?'));
    const [before, beforeMmlu] = [await longBench(), await mmlu()];
    write('lcc.jsonl', line('Rome'));
    write('test/art_test.csv', problem('Old?'));
    expect([await longBench(), await mmlu()]).toEqual([before, beforeMmlu]);

    // Each is as long as it was.
    const seen = new Set([before, beforeMmlu]);
    for (const [path, content, digest] of [
      ['hotpotqa.jsonl', line('Bern'), longBench],
      ['config/dataset2prompt.json', JSON.stringify({ hotpotqa: 'At {context} {input}' }), longBench],
      ['config/dataset2maxlen.json', JSON.stringify({ hotpotqa: 64 }), longBench],
      ['dev/law_dev.csv', problem('New?'), mmlu],
      ['test/law_test.csv', problem('New?'), mmlu],
    ] as const) {
      write(path, content);
      const after = await digest();
      expect(seen, path).not.toContain(after);
      seen.add(after);
    }
  });
});
