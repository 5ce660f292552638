import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import type { Context } from '../../../src/core/context.ts';
import type { Message } from '../../../src/core/message.ts';
import { EvaluationError } from '../../../src/errors.ts';
import { codeOf, codingBatch } from '../../../src/eval/coding.ts';
import { ProgramRunner } from '../../../src/eval/programs.ts';
import type { Model } from '../../../src/gates/model.ts';

let runner: ProgramRunner;
let folder: string;
beforeAll(async () => {
  runner = await ProgramRunner.find();
});
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-coding-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** A model that keeps what it is asked. */
function fakeModel(chatTemplate: string | null = 'any'): { model: Model; asked: (readonly Message[])[] } {
  const asked: (readonly Message[])[] = [];
  const chatPrompt = (messages: readonly Message[]) => {
    asked.push(messages);
    return Promise.resolve({ tokens: Int32Array.of(1, 2, 3), text: '', stop: ['<end>'] });
  };
  return { model: { info: { chatTemplate }, chatPrompt } as unknown as Model, asked };
}

/** What a task's canned answer scores. */
async function scored(name: string, answer: string, index = 0): Promise<number | undefined> {
  const batch = await codingBatch(name, folder, fakeModel().model, runner, undefined);
  const generate = (_: Int32Array, options: unknown) => {
    expect(options).toMatchObject({ temperature: 0, stop: ['<end>'] });
    return { result: () => Promise.resolve({ text: answer, promptTokens: 3, reusedTokens: 0, prefillSeconds: 1, decodeSeconds: 1 }) };
  };
  const outcome = await batch.cells[0]?.item(index).run({ generate } as unknown as Context, {});
  return outcome?.scores[0]?.value;
}

const fenced = (code: string): string => `\`\`\`python\n${code}\n\`\`\``;

describe('MBPP', { timeout: 60_000 }, () => {
  const task = (id: number, over: object = {}) => ({
    task_id: id,
    prompt: `Add two numbers, task ${id}.`,
    code: 'def add(a, b):\r\n  return a + b',
    test_imports: [],
    test_list: ['assert add(1, 2) == 3', 'assert add(0, 0) == 0'],
    ...over,
  });
  const write = (tasks: unknown): void => writeFileSync(join(folder, 'sanitized-mbpp.json'), JSON.stringify(tasks));
  beforeEach(() => {
    write([2, 3, 4, 6, 11, 510, 511].map((id) => task(id)));
  });

  test('asks the tasks of the test split after three examples', async () => {
    const { model, asked } = fakeModel();
    const batch = await codingBatch('mbpp', folder, model, runner, undefined);
    expect(batch).toMatchObject({ task: 'mbpp', length: 3 + 512, contextSize: 3 + 512 });
    expect(asked.map((messages) => messages.length)).toEqual([7, 7]);
    expect(asked[0]?.map(({ role }) => role)).toEqual(['user', 'assistant', 'user', 'assistant', 'user', 'assistant', 'user']);
    expect(asked[0]?.[0]?.content).toBe(
      'Write a Python function for this task. Add two numbers, task 2.\nIt has to pass these tests:\n\nassert add(1, 2) == 3\nassert add(0, 0) == 0',
    );
    expect(asked[0]?.[1]?.content).toBe(fenced('def add(a, b):\n  return a + b'));
    expect(asked.map((messages) => messages[6]?.content)).toEqual([
      expect.stringContaining('task 11.'),
      expect.stringContaining('task 510.'),
    ]);
    expect((await codingBatch('mbpp', folder, model, runner, 1)).cells[0]?.count).toBe(1);
  });

  test.each([
    ['right', fenced('def add(a, b):\n    return a + b'), 1],
    ['right, with text around it', `Here it is:\n\n${fenced('def add(a, b):\n    return a + b')}\n\nUse it so:\n\n${fenced('add(1')}`, 1],
    ['right, after a block that shows the use', `Install:\n\n\`\`\`bash\npip\n\`\`\`\n${fenced('def add(a, b):\n    return a + b')}`, 1],
    ['right, without a block', 'def add(a, b):\n    return a + b', 1],
    ['wrong', fenced('def add(a, b):\n    return 3'), 0],
    ['cut off', '```python\ndef add(a, b):\n    return a +', 0],
    ['nothing', '', 0],
    ['no code', 'I add the numbers.', 0],
  ])('an answer that is %s', async (_, answer, expected) => {
    expect(await scored('mbpp', answer)).toBe(expected);
  });

  test('tests have their imports', async () => {
    write([2, 3, 4, 11].map((id) => task(id, { test_imports: ['import math'], test_list: ['assert math.floor(add(1, 2.5)) == 3'] })));
    expect(await scored('mbpp', fenced('def add(a, b):\n    return a + b'))).toBe(1);
  });

  test.each([
    [{}, /sanitized-mbpp\.json is not what its name says: it is no list of tasks/],
    [[{ task_id: 2 }], /task 1 of the list has no text prompt/],
    [[{ ...task(2), test_list: 'assert' }], /task 1 of the list has not a number task_id, and lists/],
    [[task(2), task(3), task(11)], /task 4, which is shown as an example, is missing/],
    [[task(2), task(3), task(4)], /has no tasks/],
  ])('a file of %j is refused', async (content, message) => {
    write(content);
    const batch = codingBatch('mbpp', folder, fakeModel().model, runner, undefined);
    await expect(batch).rejects.toThrow(EvaluationError);
    await expect(batch).rejects.toThrow(message);
  });
});

describe('HumanEval', { timeout: 60_000 }, () => {
  const line = JSON.stringify({
    task_id: 'HumanEval/0',
    prompt:
      'import math\n\ndef half(x):\n    return math.floor(x / 2)\n\ndef twice_half(x: int) -> int:\n    """ Twice the half of x.\n    """\n',
    entry_point: 'twice_half',
    canonical_solution: '    return 2 * half(x)\n',
    test: 'def check(candidate):\n    assert candidate(5) == 4\n    assert candidate(4) == 4\n',
  });

  test.each([
    ['HumanEval.jsonl', Buffer.from(`${line}\n\n${line}\n`)],
    ['HumanEval.jsonl.gz', gzipSync(`${line}\n${line}\n`)],
  ])('is read from %s, and asks for the function', async (name, content) => {
    writeFileSync(join(folder, name), content);
    const { model, asked } = fakeModel();
    const batch = await codingBatch('humaneval', folder, model, runner, undefined);
    expect(batch.cells[0]?.count).toBe(2);
    expect(asked[0]?.[0]?.content).toContain('```python\nimport math\n\ndef half(x):');
    // The helper and the import of the prompt are there for an answer without them.
    expect(await scored('humaneval', `Sure!\n${fenced('def twice_half(x: int) -> int:\n    return 2 * half(x)')}\nIt works.`)).toBe(1);
    expect(await scored('humaneval', '    return 2 * math.floor(x / 2)')).toBe(1);
    expect(await scored('humaneval', fenced('def twice_half(x):\n    return x'))).toBe(0);
    expect(await scored('humaneval', fenced('def another(x):\n    return x'))).toBe(0);
  });

  test('a line that is another one is refused', async () => {
    writeFileSync(join(folder, 'HumanEval.jsonl'), '{"prompt": "def f():"}');
    await expect(codingBatch('humaneval', folder, fakeModel().model, runner, undefined)).rejects.toThrow(/line 1 has no text test/);
  });
});

test('what is missing is named', async () => {
  await expect(codingBatch('mbpp', folder, fakeModel().model, runner, undefined)).rejects.toThrow(
    /has no sanitized-mbpp\.json, which task mbpp reads: name its folder with --data/,
  );
  await expect(codingBatch('humaneval', folder, fakeModel(null).model, runner, undefined)).rejects.toThrow(
    /chat template, and the model has none/,
  );
});

test.each([
  ['```py\na = 1\n```\n```python\ndef f():\n    pass\n```', 'def f():\n    pass\n'],
  ['```\nx = 1\n```', 'x = 1\n'],
  ['text\n  ```python\nf = lambda x: x', 'f = lambda x: x'],
  ['def f(): pass', 'def f(): pass'],
])('the code of %j', (answer, code) => {
  expect(codeOf(answer)).toBe(code);
});
