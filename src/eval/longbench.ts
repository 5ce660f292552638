import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';

import { EvaluationError } from '../errors.ts';
import { answering, roomForPrompt, type Batch } from './item.ts';
import { loadSegmenter, metricsWith } from './longbench-metrics.ts';
import type { PromptWriter } from './prompt.ts';

/** A data set of LongBench. */
type DataSet = {
  metric: keyof ReturnType<typeof metricsWith>;
  /** Tokens that an answer may have. */
  maxTokens: number;
  /** The prompt, with {context} and {input}: ours, where the folder has no dataset2prompt.json. */
  prompt: string;
  /** Its examples show the form of the answer, so it is asked without a chat template. */
  plain?: true;
  /** Only the answer's first line counts: what follows would be the next example. */
  firstLine?: true;
};

const question =
  'Read the following text and answer the question after it in as few words as possible, without explaining.\n\n{context}\n\nQuestion: {input}\nAnswer:';
const chineseQuestion = '请阅读下面的材料，然后用尽可能少的字回答问题，不要解释。\n\n{context}\n\n问题：{input}\n答案：';
const summary = 'Write a summary of the following text.\n\n{context}\n\nSummary:';
const examples = '{context}\n{input}';

const qa: DataSet = { metric: 'wordF1', maxTokens: 32, prompt: question };
const code: DataSet = { metric: 'codeSimilarity', maxTokens: 64, prompt: '{context}{input}', plain: true };

/** All that LongBench has, and how long their answers may be (its dataset2maxlen.json). */
const dataSets: Readonly<Record<string, DataSet>> = {
  narrativeqa: { ...qa, maxTokens: 128 },
  qasper: { ...qa, maxTokens: 128 },
  multifieldqa_en: { ...qa, maxTokens: 64 },
  multifieldqa_zh: { metric: 'chineseWordF1', maxTokens: 64, prompt: chineseQuestion },
  hotpotqa: qa,
  '2wikimqa': qa,
  musique: qa,
  dureader: {
    metric: 'chineseRougeL',
    maxTokens: 128,
    prompt: '请根据下面的材料回答问题。\n\n{context}\n\n问题：{input}\n回答：',
  },
  gov_report: { metric: 'rougeL', maxTokens: 512, prompt: summary },
  qmsum: {
    metric: 'rougeL',
    maxTokens: 512,
    prompt: 'Read the minutes of a meeting and answer what is asked about it.\n\n{context}\n\nAsked: {input}\nAnswer:',
  },
  multi_news: { metric: 'rougeL', maxTokens: 512, prompt: summary },
  vcsum: { metric: 'chineseRougeL', maxTokens: 512, prompt: '请为下面的会议记录写一份总结。\n\n{context}\n\n总结：' },
  trec: { metric: 'classification', maxTokens: 64, prompt: examples, plain: true, firstLine: true },
  triviaqa: { metric: 'wordF1', maxTokens: 32, prompt: examples, plain: true, firstLine: true },
  samsum: { metric: 'rougeL', maxTokens: 128, prompt: examples, plain: true, firstLine: true },
  lsht: { metric: 'classification', maxTokens: 64, prompt: examples, plain: true, firstLine: true },
  passage_count: {
    metric: 'rightNumbers',
    maxTokens: 32,
    prompt:
      'Some of the following paragraphs are there more than once. How many different ones are there? Answer with the number alone.\n\n{context}\n\nNumber:',
  },
  passage_retrieval_en: {
    metric: 'rightNumbers',
    maxTokens: 32,
    prompt:
      'One of the following paragraphs is summarised below them. Answer with its name alone, such as "Paragraph 1".\n\n{context}\n\nSummary: {input}\nName:',
  },
  passage_retrieval_zh: {
    metric: 'rightNumbers',
    maxTokens: 32,
    prompt: '下面有若干段落，最后是其中一段的摘要。请只回答该段落的编号，例如“段落1”。\n\n{context}\n\n摘要：{input}\n编号：',
  },
  lcc: code,
  'repobench-p': code,
};

export const longBenchNames: readonly string[] = Object.keys(dataSets);

export type DataOptions = {
  /** Tokens of a prompt and its answer; a longer prompt loses its middle. */
  lengths: readonly number[];
  /** Prompts of each file at most. */
  samples?: number | undefined;
};

/**
 * The JSONL files of LongBench, or those of it that are there: NAME.jsonl and, for LongBench-E, NAME_e.jsonl, in the folder or its folder `data`. Prompts and
 * lengths of answers are those of dataset2prompt.json and dataset2maxlen.json in the folder or its folder `config`, else our own.
 *
 * @param only one data set
 * @throws EvaluationError for a folder without such files, and for lines that are not LongBench's, by file and line
 */
export async function longBenchBatches(
  folder: string,
  only: string | undefined,
  writers: { framed: PromptWriter; plain: PromptWriter },
  { lengths, samples }: DataOptions,
): Promise<Batch[]> {
  const files = setsIn(folder, only);
  if (files.length === 0) {
    throw new EvaluationError(
      `${folder} has no JSONL file of LongBench${only === undefined ? '' : ` named ${only}.jsonl`}. Known: ${longBenchNames.join(', ')}.`,
    );
  }
  const prompts = configured(folder, promptsFile, 'string');
  const maxTokens = configured(folder, maxTokensFile, 'number');
  const chinese = files.some(({ name }) => setOf(name)?.metric.startsWith('chinese'));
  const metrics = metricsWith(chinese ? await loadSegmenter() : () => []);
  return files.flatMap(({ name, path }) => {
    const found = setOf(name);
    if (!found) return [];
    const base = name.replace(/_e$/, '');
    const set = { ...found, prompt: prompts[base] ?? found.prompt, maxTokens: maxTokens[base] ?? found.maxTokens };
    const metric = metrics[set.metric];
    const writer = set.plain ? writers.plain : writers.framed;
    const asked = readExamples(path).slice(0, samples);
    return lengths.map((length): Batch => ({
      task: `longbench/${name}`,
      length,
      contextSize: length,
      measure: 'accuracy',
      cells: [
        {
          depth: null,
          count: asked.length,
          item(index) {
            const { context, input, answers, classes } = asked[index] ?? none;
            const text = set.prompt.replaceAll(/\{(context|input)\}/g, (_, slot) => (slot === 'context' ? context : input));
            return answering(writer.text(text, roomForPrompt(length, set.maxTokens)), {
              maxTokens: set.maxTokens,
              depth: null,
              score(answer) {
                const counted = set.firstLine ? (answer.replace(/^\n+/, '').split('\n')[0] ?? '') : answer;
                return Math.max(0, ...answers.map((truth) => metric(counted, truth, classes)));
              },
            });
          },
        },
      ],
    }));
  });
}

/** The paths of all that {@link longBenchBatches} reads in a folder. */
export function longBenchSources(folder: string, only: string | undefined): string[] {
  const configs = [promptsFile, maxTokensFile].flatMap((file) => configPath(folder, file) ?? []);
  return [...setsIn(folder, only).map(({ path }) => path), ...configs];
}

/** The files of LongBench in a folder, in the order of the list above. */
function setsIn(folder: string, only: string | undefined): { name: string; path: string }[] {
  const found = [folder, join(folder, 'data')]
    .filter((place) => existsSync(place))
    .flatMap((place) => readdirSync(place).map((file) => join(place, file)))
    .filter((path) => path.endsWith('.jsonl'))
    .map((path) => ({ name: basename(path, '.jsonl'), path }))
    .filter(({ name }) => only === undefined || name === only);
  const place = (name: string): number => longBenchNames.indexOf(name.replace(/_e$/, ''));
  return found.filter(({ name }) => setOf(name)).sort((a, b) => place(a.name) - place(b.name) || a.name.length - b.name.length);
}

const promptsFile = 'dataset2prompt.json';
const maxTokensFile = 'dataset2maxlen.json';

function configPath(folder: string, file: string): string | undefined {
  return [join(folder, file), join(folder, 'config', file)].find((candidate) => existsSync(candidate));
}

function setOf(name: string): DataSet | undefined {
  const base = name.replace(/_e$/, '');
  return Object.hasOwn(dataSets, base) ? dataSets[base] : undefined;
}

type Example = { context: string; input: string; answers: string[]; classes: string[] };

const none: Example = { context: '', input: '', answers: [], classes: [] };

function readExamples(path: string): Example[] {
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines.flatMap((line, index) => {
    if (line.trim() === '') return [];
    const { context, input, answers, all_classes: classes = null } = parse(line, `${path}, line ${index + 1}`);
    if (typeof context !== 'string' || typeof input !== 'string' || !isTexts(answers) || !(classes === null || isTexts(classes))) {
      throw new EvaluationError(
        `${path}, line ${index + 1}: expected the texts "context" and "input", and a list of texts "answers" (and "all_classes", or null).`,
      );
    }
    return [{ context, input, answers, classes: classes ?? [] }];
  });
}

function configured<Kind extends 'string' | 'number'>(
  folder: string,
  file: string,
  kind: Kind,
): Partial<Record<string, Kind extends 'string' ? string : number>> {
  const path = configPath(folder, file);
  if (path === undefined) return {};
  const values = parse(readFileSync(path, 'utf8'), path);
  const wrong = Object.keys(values).find((name) => typeof values[name] !== kind);
  if (wrong !== undefined) throw new EvaluationError(`${path}: ${wrong} should be a ${kind}.`);
  return values as Partial<Record<string, Kind extends 'string' ? string : number>>;
}

function parse(text: string, where: string): Partial<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text.replace(/^\ufeff/, '')); // some editors put a byte order mark before a file
  } catch (error) {
    throw new EvaluationError(`${where}: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new EvaluationError(`${where}: expected a JSON object.`);
  return value;
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string');
}
