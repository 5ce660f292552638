import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import type { Difference } from '../../src/eval/differences.ts';
import type { Row } from '../../src/eval/rows.ts';
import { loadModel } from '../../src/index.ts';
import { chequered, dist, longText, modelPath, patternOf, threads } from './setup.ts';

const main = join(dist, 'cli/main.js');
const folder = mkdtempSync(join(tmpdir(), 'llama-duo-eval-'));
const environment = { ...process.env, INIT_CWD: folder, NO_COLOR: '1' };
beforeAll(() => {
  writeFileSync(join(folder, 'gates.json'), patternOf(chequered(30, 3)));
  writeFileSync(join(folder, 'text.txt'), longText(100));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

type Ended = { status: number | null; stdout: string; stderr: string };

function evaluate(...args: string[]): Ended {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, 'eval', '-m', modelPath, '-t', '2', ...args], {
    cwd: folder,
    encoding: 'utf8',
    env: environment,
  });
  return { status, stdout, stderr };
}

function rows(...args: string[]): Row[] {
  const { status, stdout, stderr } = evaluate(...args, '--json');
  expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout) as Row[];
}

// Short windows, so that short prompts have needles outside them.
const short = ['--lengths', '256', '--samples', '1', '--depths', '0,1', '--duo-sink', '16', '--duo-recent', '64', '-ub', '64'];

test('a row for each mode, task, length and depth; files beside it', { timeout: 120_000 }, () => {
  const found = rows(
    '--task',
    'needle',
    '--modes',
    'full,duo,streaming,random',
    '--duo-gates',
    'gates.json',
    ...short,
    '--csv',
    'rows.csv',
    '--plot',
    'pictures',
  );
  expect(found.map(({ mode, task, length, depth, n }) => [mode, task, length, depth, n])).toEqual(
    ['full', 'duo', 'streaming', 'random'].flatMap((mode) => [0, 1].map((depth) => [mode, 'needle', 256, depth, 1])),
  );
  const [full, , duo, , streaming, , random] = found;
  expect(full?.kvBytes).toBe(90 * 256 * 2 * 64 * 2);
  expect(duo?.kvBytes).toBe(random?.kvBytes);
  expect(duo?.kvBytes).toBe(((full?.kvBytes ?? 0) + (streaming?.kvBytes ?? 0)) / 2);
  expect(duo).toMatchObject({ sparsity: 0.5, retrievalHeads: 45, streamingHeads: 45, sink: 16, recent: 64, chunk: 1, seed: 1 });
  expect(streaming?.accuracy).toBe(0);
  for (const { decodeTokensPerSecond, prefillTokensPerSecond } of found) {
    expect(decodeTokensPerSecond).toBeGreaterThan(0);
    expect(prefillTokensPerSecond).toBeGreaterThan(0);
  }
  expect(readFileSync(join(folder, 'rows.csv'), 'utf8').trimEnd().split('\n')).toHaveLength(9);
  for (const name of ['heat-map-needle', 'accuracy-by-bytes', 'gates']) expect(existsSync(join(folder, `pictures/${name}.svg`))).toBe(true);
});

test('cache types and windows in steps are apart; prompts go through the chat template', { timeout: 120_000 }, () => {
  const found = rows(
    '--task',
    'passkey',
    '--modes',
    'full,streaming',
    '--chat',
    '-ctk',
    'f16,q8_0',
    '--duo-chunk',
    '1,32',
    ...short.slice(0, 4),
    '--depths',
    '0.5',
    ...short.slice(6),
  );
  expect(found.map(({ variant, kvBytes }) => [variant, kvBytes > 0])).toEqual(
    ['full f16', 'full q8_0', 'streaming chunk 1 f16', 'streaming chunk 1 q8_0', 'streaming chunk 32 f16', 'streaming chunk 32 q8_0'].map(
      (label) => [label, true],
    ),
  );
  const byLabel = new Map(found.map((row) => [row.variant, row]));
  expect((byLabel.get('full q8_0')?.kvBytes ?? 0) / (byLabel.get('full f16')?.kvBytes ?? 1)).toBeCloseTo(34 / 64, 6);
});

test('an interrupted run goes on where it was, and other settings are refused', { timeout: 180_000 }, async () => {
  const args = [
    '--task',
    'needle',
    '--modes',
    'full,streaming',
    ...short.slice(0, 2),
    '--samples',
    '2',
    ...short.slice(4),
    '--resume',
    'results.jsonl',
  ];
  const file = join(folder, 'results.jsonl');
  const lines = (): string[] => (existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : []);
  const child = spawn(process.execPath, [main, 'eval', '-m', modelPath, '-t', '2', ...args], {
    cwd: folder,
    env: environment,
    stdio: 'ignore',
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  while (lines().length < 3 && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
  child.kill('SIGINT');
  expect(await ended).toBe(130);
  const before = lines();
  expect(before.length).toBeGreaterThanOrEqual(3);
  expect(before.length).toBeLessThan(9);

  const resumed = rows(...args);
  expect(lines().slice(0, before.length)).toEqual(before);
  expect(lines()).toHaveLength(9);
  const strip = (list: Row[]): Partial<Row>[] => list.map((row) => ({ ...row, decodeTokensPerSecond: 0, prefillTokensPerSecond: 0 }));
  expect(strip(resumed)).toEqual(strip(rows(...args.slice(0, -2))));

  const other = evaluate(...args, '--seed', '2');
  expect(other.status).toBe(1);
  expect(other.stderr).toMatch(/results\.jsonl has results of other settings:\n {2}seed: 1 there, 2 here/);
});

test('tasks share haystacks, and variants are compared on them', { timeout: 180_000 }, () => {
  const args = ['--task', 'needle,multi-key', '--shared', '--modes', 'full,streaming', '--against', 'full', '--json', '--lengths', '384'];
  const { status, stdout } = evaluate(...args, ...short.slice(2));
  expect(status).toBe(0);
  const { rows: found, differences } = JSON.parse(stdout) as { rows: Row[]; differences: Difference[] };
  expect(found.map(({ mode, task, depth, n }) => [mode, task, depth, n])).toEqual(
    ['full', 'streaming'].flatMap((mode) => [
      [mode, 'needle', 0, 1],
      [mode, 'needle', 1, 1],
      [mode, 'multi-key', null, 1],
    ]),
  );
  expect(differences).toMatchObject([{ variant: 'streaming', against: 'full', of: 'made-up tasks', length: 384, tasks: 2, units: 1 }]);
});

test('perplexity is told by position', { timeout: 120_000 }, () => {
  const found = rows(
    '--task',
    'ppl',
    '-f',
    'text.txt',
    '--modes',
    'full,streaming',
    '--lengths',
    '256',
    '--samples',
    '2',
    '--duo-sink',
    '4',
    '--duo-recent',
    '16',
    '-ub',
    '64',
  );
  expect(found.map(({ mode, depth, n, accuracy }) => [mode, depth, n, accuracy])).toEqual(
    ['full', 'streaming'].flatMap((mode) => Array.from({ length: 10 }, (_, part) => [mode, part / 10, 2, null])),
  );
  const [full, streaming] = ['full', 'streaming'].map((mode) =>
    found.filter((row) => row.mode === mode).map(({ perplexity }) => perplexity ?? 0),
  );
  // The text repeats itself: what was seen before makes it easier, more so where all of it is seen.
  expect(full?.at(-1)).toBeLessThan((full?.[0] ?? 0) / 2);
  expect(full?.at(-1)).toBeLessThan(streaming?.at(-1) ?? 0);
});

describe('data of others', () => {
  beforeAll(() => {
    mkdirSync(join(folder, 'mmlu/dev'), { recursive: true });
    mkdirSync(join(folder, 'mmlu/test'));
    const examples = [
      'Two and two are?,4,5,6,7,A',
      'Ice is?,hot,cold,loud,red,B',
      'Grass is?,blue,black,green,red,C',
      'Fish live in?,trees,air,sand,water,D',
      'Snow is?,white,black,green,red,A',
    ];
    writeFileSync(join(folder, 'mmlu/dev/world_dev.csv'), examples.join('\n'));
    writeFileSync(
      join(folder, 'mmlu/test/world_test.csv'),
      ['The sun is?,cold,hot,blue,small,B', 'Milk is?,white,black,green,red,A'].join('\n'),
    );
    mkdirSync(join(folder, 'longbench'));
    const line = {
      context: `${'The baker painted a lamp. '.repeat(20)}The capital of France is Paris.`,
      input: 'What is the capital of France?',
      answers: ['Paris'],
      all_classes: null,
    };
    writeFileSync(join(folder, 'longbench/hotpotqa.jsonl'), JSON.stringify(line));
  });

  /** The share of the questions whose right letter is the likeliest, by a prompt that is written out here. */
  async function mmluByHand(): Promise<number> {
    const choices = (words: string): string =>
      words
        .split(' ')
        .map((word, index) => `${'ABCD'[index] ?? ''}. ${word}\n`)
        .join('');
    const shown =
      'The following are multiple choice questions (with answers) about world.\n\n' +
      `Two and two are?\n${choices('4 5 6 7')}Answer: A\n\n` +
      `Ice is?\n${choices('hot cold loud red')}Answer: B\n\n` +
      `Grass is?\n${choices('blue black green red')}Answer: C\n\n` +
      `Fish live in?\n${choices('trees air sand water')}Answer: D\n\n` +
      `Snow is?\n${choices('white black green red')}Answer: A\n\n`;
    const asked = [
      { text: `The sun is?\n${choices('cold hot blue small')}Answer:`, right: 'B' },
      { text: `Milk is?\n${choices('white black green red')}Answer:`, right: 'A' },
    ];
    await using model = await loadModel(modelPath);
    await using context = await model.createContext({ contextSize: 512, threads });
    let count = 0;
    for (const { text, right } of asked) {
      const likelihoods: [string, number][] = [];
      for (const letter of 'ABCD') {
        const { logProbabilities } = await context.score(model.tokenize(`${shown}${text} ${letter}`, { addSpecial: true }));
        likelihoods.push([letter, logProbabilities.at(-1) ?? NaN]);
      }
      likelihoods.sort(([, a], [, b]) => b - a);
      if (likelihoods[0]?.[0] === right) count++;
    }
    return count / asked.length;
  }

  test('MMLU and LongBench are scored', { timeout: 120_000 }, async () => {
    const [mmlu] = rows('--task', 'mmlu', '--data', 'mmlu', '--modes', 'full');
    expect(mmlu).toMatchObject({ task: 'mmlu/world', n: 2, depth: null });
    expect(mmlu?.accuracy).toBe(await mmluByHand());
    const [longbench] = rows('--task', 'longbench', '--data', 'longbench', '--modes', 'full', '--lengths', '512');
    expect(longbench).toMatchObject({ task: 'longbench/hotpotqa', length: 512, n: 1 });
    expect(longbench?.accuracy).toBeGreaterThan(0);
  });
});

test.each([
  [['--task', 'nedle'], 2, /--task does not know "nedle"\. Did you mean needle\?/],
  [['--modes', 'fulll'], 2, /Did you mean full\?/],
  [['--modes', 'full,duo,full'], 2, /--modes has full twice/],
  [['--duo-sparsity', '0.5,0.75,0.50'], 2, /--duo-sparsity has 0\.5 twice/],
  [['--lengths', '0'], 2, /--lengths needs integers of at least 1, got "0"/],
  [['--depths', '2,3'], 2, /--depths needs/],
  [['--duo-sparsity', '1.5'], 2, /--duo-sparsity needs numbers from 0 to 1, got "1\.5"/],
  [['-ctk', 'f16,q8_0', '-ctv', 'f16,q8_0,q4_0'], 2, /-ctv needs one type, or one for each of the 2/],
  [['--against', 'fulll'], 2, /--against needs a variant of this run, got "fulll"\. There are: full, streaming\./],
  [['--png'], 2, /--plot FOLDER/],
  [['--modes', 'duo'], 1, /No gates are known for .*--duo-gates FILE/],
  [['--lengths', '128'], 1, /A prompt of \d+ tokens has no room/],
  [['--csv', 'none/rows.csv'], 1, /none\/rows\.csv .*--csv/],
  [['--task', 'ppl'], 1, /-f FILE/],
  [['--task', 'longbench'], 1, /--data FOLDER/],
  [['--task', 'longbench', '--data', '.'], 1, /has no JSONL file of LongBench/],
])('%j ends with %i', (args, code, message) => {
  const { status, stdout, stderr } = evaluate(...args);
  expect({ status, stdout }).toEqual({ status: code, stdout: '' });
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(/\n {4}at /);
});
