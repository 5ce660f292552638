// The speed of our llama.cpp tools without --duo-* flags beside those of the pristine llama.cpp, built alike: `llama bench`, `llama completion` and
// `llama batched-bench` on the CPU. Runs take turns, and each goes first as often, so that what else the machine does hits both.
//
//   node scripts/setup.mjs --target llama-app
//   node bench/tools.mjs MODEL [--pairs N] [--threads N] [--json FILE]

import { existsSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';

import { root } from '../scripts/places.mjs';
import { buildStock } from '../scripts/stock.mjs';
import { runMain, SetupError } from '../scripts/tools.mjs';
import { median, output, outputs } from './pairs.mjs';

/** Tokens a second by what was done.
 * @typedef {Record<string, number>} Speeds */

const prompt = 'It was a dark and stormy night, and the rain fell on the roofs of the town below. '.repeat(16);

/** What is run, and the speeds in what it printed.
 * @type {Record<string, (run: (args: string[]) => string, common: string[]) => Speeds>} */
const tools = {
  bench: (run, common) => {
    /** @type {{ n_prompt: number, avg_ts: number }[]} */
    const rows = JSON.parse(run([...common, '-p', '512', '-n', '64', '-r', '1', '-o', 'json']));
    return Object.fromEntries(rows.map(({ n_prompt, avg_ts }) => [n_prompt > 0 ? 'prompt' : 'generation', avg_ts]));
  },
  completion: (run, common) => {
    const said = run([...common, '-p', prompt, '-n', '64', '--temp', '0', '--ignore-eos', '-c', '1024', '-no-cnv']);
    const speed = (/** @type {string} */ what) => Number(new RegExp(` ${what} time =.* ([\\d.]+) tokens per second`).exec(said)?.[1]);
    return { prompt: speed('prompt eval'), generation: speed(' {2,}eval') };
  },
  'batched-bench': (run, common) => {
    const line = run([...common, '-npp', '128', '-ntg', '32', '-npl', '4', '-c', '1024', '--output-format', 'jsonl'])
      .split('\n')
      .find((text) => text.startsWith('{'));
    const { speed_pp, speed_tg } = JSON.parse(line ?? '{}');
    return { prompt: speed_pp, generation: speed_tg };
  },
};

runMain(() => {
  const { values, positionals } = parseArgs({
    options: {
      pairs: { type: 'string', default: '9' },
      threads: { type: 'string', default: '2' },
      json: { type: 'string' },
    },
    allowPositionals: true,
  });
  const path = resolve(positionals[0] ?? '');
  if (positionals.length !== 1 || !existsSync(path)) throw new SetupError('Name a model: node bench/tools.mjs MODEL');
  const stock = buildStock(Object.keys(tools).map((tool) => `llama-${tool}`)).build;
  const common = ['-m', path, '-t', values.threads];

  const results = Object.entries(tools).flatMap(([tool, run]) => {
    const pairs = Array.from({ length: Number(values.pairs) }, (_, index) => {
      /** @type {Partial<Record<'ours' | 'stock', Speeds>>} */
      const pair = {};
      for (const name of /** @type {const} */ (index % 2 === 0 ? ['ours', 'stock'] : ['stock', 'ours'])) {
        const [program = '', ...first] = name === 'ours' ? [join(root, 'build/bin/llama'), tool] : [join(stock, 'bin', `llama-${tool}`)];
        // bench and batched-bench tell their results on stdout, completion its times on stderr
        pair[name] = run((args) => (tool === 'completion' ? outputs : output)(program, [...first, ...args]), common);
      }
      return /** @type {Record<'ours' | 'stock', Speeds>} */ (pair);
    });
    return ['prompt', 'generation'].map((what) => {
      const of = (/** @type {'ours' | 'stock'} */ name) => pairs.map((pair) => pair[name][what] ?? NaN);
      const [mine, theirs] = [of('ours'), of('stock')];
      if ([...mine, ...theirs].some((speed) => !(speed > 0))) throw new SetupError(`llama ${tool} told no speed of its ${what}`);
      const share = median(mine.map((speed, index) => speed / (theirs[index] ?? NaN)));
      console.log(
        `llama ${tool}, ${what}: ${median(mine).toFixed(1)} tokens/s, the pristine one ${median(theirs).toFixed(1)}; median of ${pairs.length} pairs ${(100 * share).toFixed(1)}%`,
      );
      return { tool, what, share, ours: mine, stock: theirs };
    });
  });
  const load = loadavg()[0];
  console.log(`${values.threads} threads; the load at the end ${load?.toFixed(1)}`);
  if (values.json)
    writeFileSync(values.json, `${JSON.stringify({ model: basename(path), threads: Number(values.threads), load, results }, null, 2)}\n`);
});
