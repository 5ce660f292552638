import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import type { Model } from '../../../src/index.ts';
import { evenGates, inverted } from '../../../src/eval/modes.ts';
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
function fakeModel(chatTemplate: string | null = null, unsupported: string | null = null): Model {
  const tokenizer = new WordTokenizer();
  const info = {
    path: join(folder, 'model.gguf'),
    gatedHeads: [2, 2],
    addBos: false,
    bosToken: null,
    eosToken: null,
    metadata: {},
    chatTemplate,
  };
  const planContext: Model['planContext'] = (plan) => {
    const reason = plan?.duo ? unsupported : null;
    return Promise.resolve({ supported: reason === null, reason } as Awaited<ReturnType<Model['planContext']>>);
  };
  const chatPrompt: Model['chatPrompt'] = ([message], options) => {
    const text = chatTemplate?.replace('DATE', options?.now?.toISOString() ?? '').replace('MESSAGE', message?.content ?? '') ?? '';
    return Promise.resolve({ text } as Awaited<ReturnType<Model['chatPrompt']>>);
  };
  return { info, tokenize: (text: string) => tokenizer.tokenize(text), planContext, chatPrompt } as unknown as Model;
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

  test('have the size of contexts and shared haystacks where they are asked for, and no word of them where not', async () => {
    const plain = await settings();
    expect(Object.keys(plain)).not.toContain('shared');
    expect(await settings({ shared: false, contextSize: undefined })).toEqual(plain);
    expect(await settings({ shared: true })).toEqual({ ...plain, shared: true });
    expect(await settings({ contextSize: 1024 })).toEqual({ ...plain, contextSize: 1024 });
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

  test('have the chat template as it is filled in: on the same day whenever it is', async () => {
    const chat = async (template: string): Promise<Settings> =>
      (await planEvaluation(fakeModel(template), { ...options, chat: true })).settings;
    expect(await chat('DATE: MESSAGE')).toEqual(await chat('DATE: MESSAGE'));
    expect(await chat('DATE: MESSAGE')).not.toEqual(await chat('MESSAGE'));
    await expect(chat('no place for it')).rejects.toThrow('does not show a message once');
  });

  test('have the sentences that answers begin with in a chat, where prompts are made up', async () => {
    const chat = async (over: Partial<EvaluationOptions>): Promise<Settings> =>
      (await planEvaluation(fakeModel('MESSAGE'), { ...options, chat: true, ...over })).settings;
    expect(await chat({})).toHaveProperty('answers');
    for (const path of ['dev/law_dev.csv', 'test/law_test.csv']) write(path, 'Old?,one,two,three,four,A');
    expect(await chat({ tasks: ['mmlu/law'], data: folder })).not.toHaveProperty('answers');
    expect(await settings()).not.toHaveProperty('answers');
  });
});

describe('what has no room is told before anything is run', () => {
  test('a needle in the last of several lengths', async () => {
    await expect(settings({ lengths: [256, 32] })).rejects.toThrow(/A prompt of \d+ tokens has no room/);
  });

  test('a length that its answer alone takes', async () => {
    await expect(settings({ lengths: [4] })).rejects.toThrow(/A length of 4 tokens has no room for a prompt: its answer may take \d+/);
  });

  test('a summary of 512 tokens in 512', async () => {
    write('gov_report.jsonl', JSON.stringify({ context: 'Ann lives in Rome.', input: '', answers: ['Ann.'] }));
    await expect(settings({ tasks: ['longbench'], data: folder, lengths: [1024, 512] })).rejects.toThrow(
      /A length of 512 tokens has no room for a prompt: its answer may take 512/,
    );
  });
});

test('contexts have the size that is asked for, or what their prompts need', async () => {
  const { batches } = await planEvaluation(fakeModel(), { ...options, lengths: [256, 512], contextSize: 300 });
  expect(batches.map(({ length, contextSize }) => [length, contextSize])).toEqual([
    [256, 300],
    [512, 512],
  ]);
});

test('tasks share haystacks where they can; the others are as they are without', async () => {
  const tasks = ['needle', 'passkey', 'multi-key', 'common-words'];
  const { batches } = await planEvaluation(fakeModel(), { ...options, tasks, shared: true });
  expect(batches.map(({ task, shared }) => [task, shared ?? false])).toEqual([
    ['needle', true],
    ['multi-key', true],
    ['passkey', false],
    ['common-words', false],
  ]);
});

describe('facts lie behind what streaming heads see', () => {
  /** Of a pattern with losses at 16, 64 and 300 recent keys, whose own window is of 40. */
  async function behind(over: Partial<EvaluationOptions>): Promise<unknown> {
    const { gatedHeads } = fakeModel().info;
    const heads = gatedHeads.map((count) => Array.from({ length: count }, () => [0.3, 0.2, 0.1]));
    write(
      'budget.json',
      JSON.stringify({ ...evenGates(gatedHeads), llamaDuoPattern: 2, recent: 40, losses: { windows: [16, 64, 300], heads } }),
    );
    const found = await settings({
      gates: join(folder, 'budget.json'),
      recent: undefined,
      modes: ['duo'],
      sparsities: [],
      budgets: [0.5],
      ...over,
    });
    return found['behind'] ?? found['recent'];
  }

  test('the widest window that a budget can choose: none as wide as the prompt', async () => {
    expect(await behind({})).toBe(64);
    expect(await behind({ lengths: [600] })).toBe(300);
    await expect(behind({ contextSize: 1024 })).rejects.toThrow('has no room for');
  });

  test('the one that is asked for', async () => {
    expect(await behind({ recent: 32 })).toBe(32);
  });

  test("the pattern's own where shares of heads stream, too", async () => {
    expect(await behind({ sparsities: [0.5], budgets: [] })).toBe(40);
    expect(await behind({ modes: ['full'] })).toBe(40);
    expect(await behind({ sparsities: [0.5] })).toBe(64);
  });

  test("a rival's, where that is wider", async () => {
    write('rival.json', JSON.stringify({ ...evenGates(fakeModel().info.gatedHeads), recent: 128 }));
    expect(await behind({ rivals: [join(folder, 'rival.json')] })).toBe(128);
  });

  test('more, where runs are to be compared, and not less', async () => {
    expect(await behind({ behind: 100 })).toBe(100);
    expect(await behind({ modes: ['full'], behind: 10 })).toBe(10);
    await expect(behind({ behind: 63 })).rejects.toThrow('at least 64');
  });
});

describe('rivals', () => {
  /** A pattern of the fake model's shape. */
  function pattern(name: string, more: object = {}): string {
    write(name, JSON.stringify({ ...inverted(evenGates(fakeModel().info.gatedHeads)), ...more }));
    return join(folder, name);
  }

  test('are each in mode duo, with their names', async () => {
    const rivals = [pattern('a.json'), pattern('b.json')];
    const { variants, settings } = await planEvaluation(fakeModel(), { ...options, rivals, modes: ['full', 'duo'] });
    expect(variants.map(({ label }) => label)).toEqual(['full', 'duo 50%', 'duo 50% of a.json', 'duo 50% of b.json']);
    expect(variants[2]?.duo?.(0)).toMatchObject({ gates: inverted(evenGates(fakeModel().info.gatedHeads)) });
    expect(settings).not.toEqual((await planEvaluation(fakeModel(), { ...options, rivals: [rivals[0] ?? ''] })).settings);
  });

  test('of one name would have the same rows', async () => {
    const rivals = [pattern('x/a.json'), pattern('y/a.json')];
    await expect(planEvaluation(fakeModel(), { ...options, rivals })).rejects.toThrow('files of different names');
  });

  test('with larger windows keep facts out of them, too', async () => {
    const shape = evenGates(fakeModel().info.gatedHeads);
    const wide = pattern('wide.json', { llamaDuoPattern: 2, windows: shape.gates.map((layer) => layer.map(() => 4096)) });
    await expect(planEvaluation(fakeModel(), { ...options, recent: undefined, rivals: [wide] })).rejects.toThrow('has no room for');
  });
});

describe('a model that mixed heads do not apply to', () => {
  const model = (): Model => fakeModel(null, 'the architecture gemma3 has sliding-window layers');

  test('is refused before anything is run, with the way out', async () => {
    await expect(planEvaluation(model(), options)).rejects.toThrow(
      'Mixed heads do not apply to this model: the architecture gemma3 has sliding-window layers. llama-duo eval --modes full',
    );
  });

  test('is measured with full heads', async () => {
    const { variants } = await planEvaluation(model(), { ...options, gates: undefined, modes: ['full'] });
    expect(variants.map(({ mode }) => mode)).toEqual(['full']);
  });
});
