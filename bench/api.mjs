// The speed of the TypeScript API beside llama.cpp's own tools on the same model: greedy, one sequence and four. Runs take turns, so that what else the
// machine does hits both.
//
//   node scripts/setup.mjs --target llama-app
//   node bench/api.mjs MODEL [--pairs N] [--tokens N] [--threads N] [--json FILE]

import { existsSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { root } from '../scripts/places.mjs';
import { runMain, SetupError } from '../scripts/tools.mjs';
import { median, output } from './pairs.mjs';

const llama = join(root, 'build/bin/llama');

/** Tokens of the prompt. llama.cpp's tools begin at the same depth: where attention is slow, a dozen tokens more are seen. */
const depth = 16;

/** Tokens a second that a context gives its readers, from the first on.
 * @param {string} path
 * @param {number} sequences
 * @param {number} maxTokens
 * @param {number} threads */
async function rate(path, sequences, maxTokens, threads) {
  const { loadModel } = await import('../dist/index.js');
  const model = await loadModel(path);
  const context = await model.createContext({ contextSize: 1024, sequences, threads });
  const prompt = model.tokenize('It was a dark and stormy night, and the rain fell on the roofs of the town below.').slice(0, depth);
  const options = { maxTokens, temperature: 0, ignoreEos: true, reuse: false };
  await context.generate(prompt, { ...options, maxTokens: 8 }).result();
  let first = 0;
  await Promise.all(
    Array.from({ length: sequences }, async () => {
      for await (const { tokens } of context.generate(prompt, options)) if (tokens.length > 0) first ||= performance.now();
    }),
  );
  const seconds = (performance.now() - first) / 1000;
  await context.dispose();
  await model.dispose();
  return (sequences * (maxTokens - 1)) / seconds;
}

/** @param {string} path
 * @param {number} sequences
 * @param {number} tokens
 * @param {number} threads */
function theirs(path, sequences, tokens, threads) {
  const common = ['-m', path, '-t', String(threads)];
  if (sequences === 1) {
    const [row] = JSON.parse(
      output(llama, ['bench', ...common, '-p', '0', '-n', String(tokens), '-d', String(depth), '-r', '1', '-o', 'json']),
    );
    return Number(row.avg_ts);
  }
  const size = String(1024 * sequences);
  const args = [
    'batched-bench',
    ...common,
    '-npp',
    String(depth),
    '-ntg',
    String(tokens),
    '-npl',
    String(sequences),
    '-c',
    size,
    '--output-format',
    'jsonl',
  ];
  const line = output(llama, args)
    .split('\n')
    .find((text) => text.startsWith('{'));
  return Number(JSON.parse(line ?? '{}').speed_tg);
}

runMain(async () => {
  const { values, positionals } = parseArgs({
    options: {
      pairs: { type: 'string', default: '9' },
      tokens: { type: 'string', default: '128' },
      threads: { type: 'string', default: '2' },
      json: { type: 'string' },
      rate: { type: 'string' },
    },
    allowPositionals: true,
  });
  const [tokens, threads] = [Number(values.tokens), Number(values.threads)];
  const path = resolve(positionals[0] ?? '');
  if (positionals.length !== 1 || !existsSync(path)) throw new SetupError('Name a model: node bench/api.mjs MODEL');
  // In a process of its own, as the tools are.
  if (values.rate) return console.log(await rate(path, Number(values.rate), tokens, threads));
  const own = (/** @type {number} */ sequences) =>
    Number(
      output(process.execPath, [
        process.argv[1] ?? '',
        path,
        '--tokens',
        values.tokens,
        '--threads',
        values.threads,
        '--rate',
        String(sequences),
      ]),
    );

  const results = [1, 4].map((sequences) => {
    const pairs = Array.from({ length: Number(values.pairs) }, () => ({
      llamaDuo: own(sequences),
      llamaCpp: theirs(path, sequences, tokens, threads),
    }));
    const share = median(pairs.map(({ llamaDuo, llamaCpp }) => llamaDuo / llamaCpp));
    const of = (/** @type {'llamaDuo' | 'llamaCpp'} */ name) => median(pairs.map((pair) => pair[name]));
    console.log(
      `${sequences} at once: ${of('llamaDuo').toFixed(1)} tokens/s, llama.cpp's tool ${of('llamaCpp').toFixed(1)}; median of ${pairs.length} pairs ${(100 * share).toFixed(1)}%`,
    );
    return { sequences, share, llamaDuo: of('llamaDuo'), llamaCpp: of('llamaCpp'), pairs };
  });
  if (values.json) writeFileSync(values.json, `${JSON.stringify({ model: path.split('/').at(-1), tokens, threads, results }, null, 2)}\n`);
});
