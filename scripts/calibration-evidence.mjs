// How good the ways to find retrieval heads are, on one model: the tables of docs/calibration.md.
//
//   node scripts/calibration-evidence.mjs -m MODEL --out FOLDER [flags]
//
//   --methods M,...      (all)
//   --seeds N,...        (1,2,3) other seeds are other texts; the first one's pattern is the one that is evaluated
//   --calibrate 'FLAGS'  more flags for llama-duo calibrate
//   --strict             measure every head exactly, too, reading each text anew for each: what all methods are compared with (else ablation is)
//   --tasks T,...        (needle,multi-key,variable-tracking)
//   --length N           tokens of a prompt (4096)
//   --depths N           of needle (5)
//   --prompts N          of needle for each depth; of the others as many times five (2)
//   --sparsities S,...   (0.25,0.5,0.625,0.75,0.875)
//   --chunks C,...       (1) steps of the windows
//   --evaluate 'FLAGS'   more flags for llama-duo eval
//   --json FILE          the results
//
// Every step leaves a file in FOLDER and is left out where its file is there, so what was interrupted goes on. Times are those of the first run.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { root } from './places.mjs';
import { runMain, SetupError } from './tools.mjs';

const allMethods = ['combined', 'typical', 'ablation', 'greedy', 'masks', 'mass', 'kvzip', 'mean-qk'];

const { values: given } = parseArgs({
  options: {
    model: { type: 'string', short: 'm' },
    out: { type: 'string' },
    methods: { type: 'string', default: allMethods.join(',') },
    seeds: { type: 'string', default: '1,2,3' },
    calibrate: { type: 'string', default: '' },
    strict: { type: 'boolean', default: false },
    tasks: { type: 'string', default: 'needle,multi-key,variable-tracking' },
    length: { type: 'string', default: '4096' },
    depths: { type: 'string', default: '5' },
    prompts: { type: 'string', default: '2' },
    sparsities: { type: 'string', default: '0.25,0.5,0.625,0.75,0.875' },
    chunks: { type: 'string', default: '1' },
    evaluate: { type: 'string', default: '' },
    json: { type: 'string' },
  },
});

/** @param {string} text */
const list = (text) => text.split(',').filter((item) => item !== '');
/** @param {string} text */
const words = (text) => text.split(/\s+/).filter((word) => word !== '');

/**
 * Runs llama-duo and gives what it printed.
 * @param {string[]} args
 */
function llamaDuo(...args) {
  const { status, stdout } = spawnSync(process.execPath, [join(root, 'dist/cli/main.js'), ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'], // progress is shown
    maxBuffer: 2 ** 28,
  });
  if (status !== 0) throw new SetupError(`llama-duo ${args.join(' ')} failed`);
  return stdout;
}

/**
 * What llama-duo has written, with the fields of the example.
 * @template {object} T
 * @param {string} text
 * @param {T} example
 */
function read(text, example) {
  /** @type {unknown} */
  const value = JSON.parse(text);
  for (const key of Object.keys(example)) {
    if (typeof value !== 'object' || value === null || !(key in value)) throw new SetupError(`There is no ${key} in ${text.slice(0, 200)}`);
  }
  return /** @type {T} */ (value);
}

/** @param {string} text */
function say(text) {
  process.stderr.write(`${text}\n`);
}

/** How a calibration went. */
const facts = { seconds: 0, passes: 0 };

/**
 * A pattern, made unless it is there.
 * @param {{ model: string, out: string }} places
 * @param {string} name
 * @param {string[]} flags
 */
function pattern({ model, out }, name, flags) {
  const file = join(out, `${name}.json`);
  const factsFile = join(out, `${name}.facts.json`);
  if (!existsSync(factsFile)) {
    say(`calibrating: ${name}`);
    const made = llamaDuo('calibrate', '-m', model, '-o', file, '--json', ...flags, ...words(given.calibrate));
    const { seconds, passes } = read(made, facts);
    writeFileSync(factsFile, JSON.stringify({ seconds, passes }));
  }
  return { name, file, ...read(readFileSync(factsFile, 'utf8'), facts) };
}

/**
 * @param {string} a
 * @param {string} b
 */
function compare(a, b) {
  const compared = llamaDuo('pattern', 'compare', a, b, '--duo-sparsity', '0.5', '--json');
  const { rankCorrelation, overlaps } = read(compared, { rankCorrelation: 0, overlaps: [{ jaccard: 0 }] });
  return { rankCorrelation, jaccard: overlaps[0]?.jaccard ?? 0 };
}

/** @param {number[]} numbers */
const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

/**
 * Prompts and their scores, by what tells a prompt from others.
 * @typedef {Map<string, { task: string, score: number }>} Scores
 */

/**
 * The scores of one variant each.
 * @param {{ model: string, out: string }} places
 * @param {string} name
 * @param {string[]} flags
 * @returns {Map<string, Scores>}
 */
function evaluate({ model, out }, name, flags) {
  const file = join(out, `eval-${name}.jsonl`);
  say(`evaluating: ${name}`);
  for (const task of list(given.tasks)) {
    const samples = task === 'needle' ? given.prompts : String(5 * Number(given.prompts));
    const each = ['--task', task, '--samples', samples, '--lengths', given.length, '--depths', given.depths, '--duo-chunk', given.chunks];
    llamaDuo(
      'eval',
      '-m',
      model,
      ...each,
      '--resume',
      file.replace('.jsonl', `-${task}.jsonl`),
      '--json',
      ...flags,
      ...words(given.evaluate),
    );
  }
  /** @type {Map<string, Scores>} */
  const variants = new Map();
  for (const task of list(given.tasks)) {
    const lines = readFileSync(file.replace('.jsonl', `-${task}.jsonl`), 'utf8')
      .trim()
      .split('\n')
      .slice(1);
    for (const line of lines) {
      const { variant, depth, index, outcome } = read(line, { variant: '', depth: 0, index: 0, outcome: { scores: [{ value: 0 }] } });
      const scores = variants.get(variant) ?? /** @type {Scores} */ (new Map());
      scores.set(JSON.stringify([task, depth, index]), { task, score: mean(outcome.scores.map(({ value }) => value)) });
      variants.set(variant, scores);
    }
  }
  return variants;
}

/**
 * Accuracy in a task: of all prompts, and of those that full attention answers right.
 * @typedef {{ prompts: number, all: number, fullRight: number, whereFullRight: number | null }} Accuracy
 */

/**
 * For each task.
 * @param {Scores} scores
 * @param {Scores} full
 * @returns {Accuracy[]}
 */
function accuracy(scores, full) {
  return list(given.tasks).map((task) => {
    const mine = [...scores].filter(([, result]) => result.task === task);
    const right = mine.filter(([prompt]) => full.get(prompt)?.score === 1);
    return {
      prompts: mine.length,
      all: mean(mine.map(([, { score }]) => score)),
      fullRight: right.length,
      whereFullRight: right.length > 0 ? mean(right.map(([, { score }]) => score)) : null,
    };
  });
}

/** @param {number | null} share */
const percent = (share) => (share === null ? '-' : (100 * share).toFixed(0));

/**
 * A table in Markdown.
 * @param {string[]} head
 * @param {string[][]} rows
 */
function table(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function main() {
  const { model, out } = given;
  if (model === undefined || out === undefined)
    throw new SetupError('Name a model with -m FILE and a folder for results with --out FOLDER.');
  mkdirSync(out, { recursive: true });
  const places = { model, out };
  const [methods, seeds] = [list(given.methods), list(given.seeds)];

  // --- patterns ---
  const patterns = Object.fromEntries(
    methods.map((method) => [method, seeds.map((seed) => pattern(places, `${method}-${seed}`, ['--method', method, '--seed', seed]))]),
  );
  // Of other texts than any pattern's, so that none is compared with itself.
  const truth = pattern(places, given.strict ? 'strict-99' : 'ablation-99', [
    ...['--method', 'ablation', '--seed', '99'],
    ...(given.strict ? ['--strict'] : []),
  ]);
  const calibrations = methods.map((method) => {
    const mine = patterns[method] ?? [];
    const pairs = mine.flatMap((a, index) => mine.slice(index + 1).map((b) => compare(a.file, b.file)));
    const toTruth = mine.map(({ file }) => compare(file, truth.file));
    return {
      method,
      seconds: mean(mine.map(({ seconds }) => seconds)),
      passes: mean(mine.map(({ passes }) => passes)),
      seedsRankCorrelation: mean(pairs.map(({ rankCorrelation }) => rankCorrelation)),
      seedsJaccard: mean(pairs.map(({ jaccard }) => jaccard)),
      seedsJaccardLeast: Math.min(...pairs.map(({ jaccard }) => jaccard)),
      truthRankCorrelation: mean(toTruth.map(({ rankCorrelation }) => rankCorrelation)),
      truthJaccard: mean(toTruth.map(({ jaccard }) => jaccard)),
    };
  });
  const tables = [
    table(
      [
        'method',
        'seconds',
        'passes',
        `rank correlation with ${truth.name}`,
        'with other seeds',
        'Jaccard at 0.5 of two seeds',
        'the least',
      ],
      calibrations.map((c) => [
        c.method,
        c.seconds.toFixed(0),
        c.passes.toFixed(0),
        c.truthRankCorrelation.toFixed(2),
        c.seedsRankCorrelation.toFixed(2),
        c.seedsJaccard.toFixed(2),
        c.seedsJaccardLeast.toFixed(2),
      ]),
    ),
  ];
  say(tables[0] ?? '');

  // --- accuracy ---
  const [first = 'combined'] = methods;
  const firstPattern = patterns[first]?.[0]?.file ?? '';
  const controls = evaluate(places, 'controls', [
    ...['--modes', 'full,streaming,random,inverted'],
    ...['--duo-gates', firstPattern, '--duo-sparsity', given.sparsities],
  ]);
  const full = controls.get('full');
  if (!full) throw new SetupError('full attention was not evaluated');
  const accuracies = [...controls].map(([variant, scores]) => ({ variant, tasks: accuracy(scores, full) }));
  for (const method of methods) {
    const gates = patterns[method]?.[0]?.file ?? '';
    const found = evaluate(places, method, ['--modes', 'duo', '--duo-gates', gates, '--duo-sparsity', given.sparsities]);
    for (const [variant, scores] of found) accuracies.push({ variant: variant.replace('duo', method), tasks: accuracy(scores, full) });
  }
  const counts = accuracies[0]?.tasks ?? [];
  tables.push(
    table(
      [
        'heads',
        ...list(given.tasks).map((task, index) => `${task} (${counts[index]?.prompts ?? 0})`),
        ...list(given.tasks).map((task, index) => `${task} where full is right (${counts[index]?.fullRight ?? 0})`),
      ],
      accuracies.map(({ variant, tasks }) => [
        variant,
        ...tasks.map(({ all }) => percent(all)),
        ...tasks.map(({ whereFullRight }) => percent(whereFullRight)),
      ]),
    ),
  );
  if (given.json !== undefined) writeFileSync(given.json, `${JSON.stringify({ settings: given, calibrations, accuracies }, null, 1)}\n`);
  console.log(tables.join('\n\n'));
}

runMain(main);
