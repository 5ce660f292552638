import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';

import type { Message } from '../core/message.ts';
import { EvaluationError } from '../errors.ts';
import type { Model } from '../gates/model.ts';
import { templateTime } from '../synthetic/turns.ts';
import { answering, type Batch, type Item } from './item.ts';
import type { ProgramRunner } from './programs.ts';

/** A benchmark that asks for programs: what is in its file, what is asked of it, and how it is asked. */
type Benchmark = {
  /** Of which one is in the folder. */
  files: readonly string[];
  /** Tokens that an answer may have. */
  maxTokens: number;
  /** @throws TypeError for what is not the benchmark's */
  problems: (content: string) => Problem[];
};

/** A task: a conversation that asks for a program, and that program with its tests. */
type Problem = { messages: Message[]; program: (code: string) => string };

export const codingBenchmarks: Readonly<Record<string, Benchmark>> = {
  mbpp: { files: ['sanitized-mbpp.json'], maxTokens: 512, problems: mbpp },
  humaneval: { files: ['HumanEval.jsonl', 'HumanEval.jsonl.gz'], maxTokens: 768, problems: humanEval },
};

/**
 * Pass@1 of a benchmark: each task is asked once in the model's own chat template and answered greedily, and is passed where the program that was answered passes
 * the task's tests. A batch's length is that of its longest prompt with its answer.
 *
 * @param samples tasks at most
 * @throws EvaluationError for a model without a chat template, and for a folder that has not the benchmark's file, or another one of this name
 */
export async function codingBatch(
  name: string,
  folder: string,
  model: Model,
  runner: ProgramRunner,
  samples: number | undefined,
): Promise<Batch> {
  const benchmark = codingBenchmarks[name];
  if (!benchmark) throw new EvaluationError(`There is no benchmark of programs ${JSON.stringify(name)}.`);
  if (model.info.chatTemplate === null)
    throw new EvaluationError(
      `Task ${name} asks in the model's own chat template, and the model has none: take one that was trained to chat.`,
    );
  const path = codingSource(name, folder);
  const problems = problemsIn(path, benchmark).slice(0, samples);
  const items = await Promise.all(problems.map((problem) => writing(problem, benchmark.maxTokens, model, runner)));
  const length = Math.max(...items.map(({ tokens }) => tokens));
  const item = (index: number): Item => items[index] as Item;
  return { task: name, length, contextSize: length, measure: 'accuracy', cells: [{ depth: null, count: items.length, item }] };
}

/**
 * The file that {@link codingBatch} reads.
 *
 * @throws EvaluationError where there is none
 */
export function codingSource(name: string, folder: string): string {
  const { files } = codingBenchmarks[name] ?? { files: [] };
  const path = files.map((file) => join(folder, file)).find((file) => existsSync(file));
  if (path === undefined)
    throw new EvaluationError(`${folder} has no ${files.join(' or ')}, which task ${name} reads: name its folder with --data.`);
  return path;
}

async function writing({ messages, program }: Problem, maxTokens: number, model: Model, runner: ProgramRunner): Promise<Item> {
  const { tokens, stop } = await model.chatPrompt(messages, { now: templateTime });
  return answering(tokens, {
    maxTokens,
    depth: null,
    ...(stop.length > 0 && { stop }),
    score: async (answer, signal) => ((await runner.passes(program(codeOf(answer)), signal)) ? 1 : 0),
  });
}

/** The code of an answer: its first block that defines something, one that was cut off, too; else all that was said. */
export function codeOf(answer: string): string {
  const blocks = [...answer.matchAll(/^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|(?!.|\n))/gms)].map(([, code = '']) => code);
  return blocks.find((code) => /^\s*(?:async )?def |^\s*class |=\s*lambda/m.test(code)) ?? blocks[0] ?? answer;
}

function problemsIn(path: string, { problems }: Benchmark): Problem[] {
  const bytes = readFileSync(path);
  try {
    const found = problems((path.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8'));
    if (found.length > 0) return found;
  } catch (error) {
    throw new EvaluationError(`${path} is not what its name says: ${error instanceof Error ? error.message : String(error)}.`);
  }
  throw new EvaluationError(`${path} has no tasks.`);
}

/** The fields of an object, which are texts, numbers or lists of texts. */
function fields(value: unknown, texts: readonly string[], where: string): Record<string, string> {
  const object = (value ?? {}) as Record<string, unknown>;
  const missing = texts.find((name) => typeof object[name] !== 'string');
  if (missing !== undefined) throw new TypeError(`${where} has no text ${missing}`);
  return object as Record<string, string>;
}

// --- MBPP: the sanitized tasks (Austin et al., arXiv 2108.07732) ---

/** The paper's: three examples, tasks 2 to 4, and the tasks of its test split. */
const shots = [2, 3, 4];
const isTested = (id: number): boolean => id >= 11 && id <= 510;

type MbppTask = { id: number; prompt: string; code: string; imports: string[]; tests: string[] };

function mbpp(content: string): Problem[] {
  const list: unknown = JSON.parse(content);
  if (!Array.isArray(list)) throw new TypeError('it is no list of tasks');
  const tasks = list.map(mbppTask);
  const examples = shots.map((id) => {
    const found = tasks.find((task) => task.id === id);
    if (!found) throw new TypeError(`task ${id}, which is shown as an example, is missing`);
    return found;
  });
  const before = examples.flatMap((task): Message[] => [
    { role: 'user', content: asked(task) },
    { role: 'assistant', content: `\`\`\`python\n${task.code.trim()}\n\`\`\`` },
  ]);
  return tasks
    .filter(({ id }) => isTested(id))
    .map((task) => ({
      messages: [...before, { role: 'user', content: asked(task) }],
      program: (code) => [code, ...task.imports, ...task.tests].join('\n'),
    }));
}

function mbppTask(value: unknown, index: number): MbppTask {
  const where = `task ${index + 1} of the list`;
  const { prompt = '', code = '' } = fields(value, ['prompt', 'code'], where);
  const { task_id: id, test_list: tests, test_imports: imports } = value as Record<string, unknown>;
  const areTexts = (list: unknown): list is string[] => Array.isArray(list) && list.every((text) => typeof text === 'string');
  if (typeof id !== 'number' || !areTexts(tests) || !areTexts(imports))
    throw new TypeError(`${where} has not a number task_id, and lists of texts test_imports and test_list`);
  return { id, prompt, code: code.replaceAll('\r\n', '\n'), imports, tests };
}

function asked({ prompt, tests }: MbppTask): string {
  return `Write a Python function for this task. ${prompt}\nIt has to pass these tests:\n\n${tests.join('\n')}`;
}

// --- HumanEval (Chen et al., arXiv 2107.03374) ---

function humanEval(content: string): Problem[] {
  const lines = content.split('\n').filter((line) => line.trim() !== '');
  return lines.map((line, index) => {
    const {
      prompt = '',
      test = '',
      entry_point: name = '',
    } = fields(JSON.parse(line), ['prompt', 'test', 'entry_point'], `line ${index + 1}`);
    const content = `Complete this Python function, and answer with all of it in one block of code.\n\n\`\`\`python\n${prompt.trim()}\n\`\`\``;
    return {
      messages: [{ role: 'user', content }],
      // The prompt is a function of a description alone, with the imports and functions that it needs; the answer is the function again, or the rest of it.
      program: (code) => `${prompt}\n${code}\n${test}\ncheck(${name})`,
    };
  });
}
