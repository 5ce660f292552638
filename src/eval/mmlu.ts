import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import Papa from 'papaparse';

import { EvaluationError } from '../errors.ts';
import type { Batch, Item } from './item.ts';
import type { PromptWriter } from './prompt.ts';

const letters = ['A', 'B', 'C', 'D'] as const;

/** Examples before each question, as in the paper (arXiv 2009.03300). */
const shots = 5;

/** A line of MMLU's tables: a question, four choices and the letter of the right one. */
type Problem = { question: string; choices: string[]; answer: string };

/**
 * The subjects of MMLU in a folder: test/SUBJECT_test.csv with the questions, and dev/SUBJECT_dev.csv with the examples that each is asked after. The answer is
 * the letter that the model finds likeliest. A batch's length is that of its longest prompt: none is shortened.
 *
 * @param only one subject
 * @param samples questions of each subject at most
 * @throws EvaluationError for a folder without such files, and for lines that are not MMLU's, by file and line
 */
export function mmluBatches(folder: string, only: string | undefined, writer: PromptWriter, samples: number | undefined): Batch[] {
  const subjects = subjectsIn(folder, only);
  if (subjects.length === 0) {
    throw new EvaluationError(
      `${folder} has no tables of MMLU: expected test/${only ?? 'SUBJECT'}_test.csv and dev/${only ?? 'SUBJECT'}_dev.csv in it.`,
    );
  }
  return subjects.map((subject) => {
    const examples = readProblems(tablePath(folder, 'dev', subject)).slice(0, shots);
    const problems = readProblems(tablePath(folder, 'test', subject)).slice(0, samples);
    // The benchmark's own words, for its published figures are of them; its script has a second space before the subject, others that report MMLU don't.
    const intro = `The following are multiple choice questions (with answers) about ${subject.replaceAll('_', ' ')}.\n\n`;
    const shown = examples.map((problem) => `${asked(problem)} ${problem.answer}\n\n`).join('');
    const items = problems.map((problem) => choosing(intro + shown + asked(problem), problem.answer, writer));
    const length = Math.max(...items.map(({ tokens }) => tokens));
    return {
      task: `mmlu/${subject}`,
      length,
      contextSize: length,
      measure: 'accuracy',
      cells: [{ depth: null, count: items.length, item: (index) => items[index] ?? choosing('', '', writer) }],
    };
  });
}

/** The paths of all that {@link mmluBatches} reads in a folder. */
export function mmluSources(folder: string, only: string | undefined): string[] {
  return subjectsIn(folder, only).flatMap((subject) => [tablePath(folder, 'dev', subject), tablePath(folder, 'test', subject)]);
}

function subjectsIn(folder: string, only: string | undefined): string[] {
  const tests = join(folder, 'test');
  return (existsSync(tests) ? readdirSync(tests) : [])
    .flatMap((file) => (file.endsWith('_test.csv') ? [file.slice(0, -'_test.csv'.length)] : []))
    .filter((subject) => only === undefined || subject === only)
    .sort();
}

function tablePath(folder: string, part: 'dev' | 'test', subject: string): string {
  return join(folder, part, `${subject}_${part}.csv`);
}

function asked({ question, choices }: Problem): string {
  return `${question}\n${choices.map((choice, index) => `${letters[index] ?? ''}. ${choice}\n`).join('')}Answer:`;
}

function choosing(text: string, answer: string, writer: PromptWriter): Item {
  const prompt = writer.text(text);
  const options = letters.map((letter) => ({ letter, tokens: writer.answer(` ${letter}`) }));
  return {
    tokens: prompt.length + Math.max(...options.map(({ tokens }) => tokens.length)),
    async run(context, { signal, onProgress }) {
      const prefill = { tokens: 0, seconds: 0 };
      let best = { letter: '', likelihood: -Infinity };
      for (const [index, { letter, tokens }] of options.entries()) {
        // The prompt is in the cache from the second letter on, so the first one's progress is that of all.
        const whole = Int32Array.from([...prompt, ...tokens]);
        const score = await context.score(whole, { from: prompt.length, signal, onProgress: index === 0 ? onProgress : undefined });
        const likelihood = score.logProbabilities.reduce((sum, value) => sum + value, 0);
        if (likelihood > best.likelihood) best = { letter, likelihood };
        prefill.tokens += whole.length - 1 - score.reusedTokens;
        prefill.seconds += score.seconds;
      }
      return {
        scores: [{ depth: null, value: best.letter === answer ? 1 : 0, weight: 1 }],
        prefill,
        decode: { tokens: 0, seconds: 0 },
        answer: best.letter,
      };
    },
  };
}

function readProblems(path: string): Problem[] {
  if (!existsSync(path)) throw new EvaluationError(`${path} is missing: MMLU's questions are asked after its examples.`);
  const { data } = Papa.parse<string[]>(readFileSync(path, 'utf8'), { skipEmptyLines: true });
  if (data.length === 0) throw new EvaluationError(`${path} has no questions.`);
  return data.map((cells, index) => {
    const [question = '', ...rest] = cells;
    const answer = rest.at(-1)?.trim() ?? '';
    if (cells.length !== 6 || !letters.some((letter) => letter === answer)) {
      throw new EvaluationError(`${path}, row ${index + 1}: expected a question, four choices and a letter from A to D.`);
    }
    return { question, choices: rest.slice(0, 4), answer };
  });
}
