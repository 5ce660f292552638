// Perplexity of a text by `llama perplexity`: the full cache beside mixed heads of several sparsities, windows and cache types.
//
//   node scripts/setup.mjs --target llama-app
//   node bench/perplexity.mjs -m MODEL -f TEXT --duo-gates FILE --json FILE [-c N] [--chunks N] [-t N]
//
// Rows are written as they come, and a later run goes on where this one was ended. The table is printed at the end, as Markdown.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';

import { root } from '../scripts/places.mjs';
import { runMain, SetupError } from '../scripts/tools.mjs';
import { outputs } from './pairs.mjs';

const llama = join(root, 'build/bin/llama');

const cacheTypes = ['f16', 'q8_0', 'q4_0'];
const windows = ['256', '2048'];
const sparsities = ['0', '0.25', '0.5', '0.75'];

/** @typedef {{ cacheType: string, sparsity?: string, recent?: string, perplexity: number, uncertainty: number, kvMiB: number }} Row */

/** What is measured: the full cache, none streaming once (its window is of no account), and each other sparsity with each window.
 * @type {{ cacheType: string, sparsity?: string, recent?: string }[]} */
const cases = cacheTypes.flatMap((cacheType) => [
  { cacheType },
  { cacheType, sparsity: '0' },
  ...windows.flatMap((recent) => sparsities.slice(1).map((sparsity) => ({ cacheType, sparsity, recent }))),
]);

/** @param {string[]} common
 * @param {string} gates
 * @param {{ cacheType: string, sparsity?: string, recent?: string }} one
 * @returns {Row} */
function measure(common, gates, one) {
  const { cacheType, sparsity, recent } = one;
  const heads =
    sparsity === undefined ? [] : ['--duo-gates', gates, '--duo-sparsity', sparsity, ...(recent ? ['--duo-recent', recent] : [])];
  const said = outputs(llama, ['perplexity', ...common, '-fa', 'on', '-ctk', cacheType, '-ctv', cacheType, ...heads, '-lv', '4']);
  const [, perplexity, uncertainty] = /Final estimate: PPL = ([\d.]+) \+\/- ([\d.]+)/.exec(said) ?? [];
  if (perplexity === undefined) throw new SetupError(`llama perplexity gave no estimate:\n${said.slice(-2000)}`);
  const kv = [...said.matchAll(/llama_kv_cache\w*: size = +([\d.]+) MiB/g)].reduce((sum, [, size]) => sum + Number(size), 0);
  return { ...one, perplexity: Number(perplexity), uncertainty: Number(uncertainty), kvMiB: Math.round(kv * 10) / 10 };
}

/** @param {Row[]} rows */
function table(rows) {
  const lines = rows.map(({ cacheType, sparsity, recent, perplexity, uncertainty, kvMiB }) => {
    const base = rows.find((row) => row.cacheType === 'f16' && row.sparsity === undefined);
    const more = base ? `${((100 * perplexity) / base.perplexity - 100).toFixed(1)}%` : '';
    return `| ${[cacheType, sparsity ?? 'llama.cpp’s own cache', recent ?? '', kvMiB, `${perplexity} ± ${uncertainty}`, more].join(' | ')} |`;
  });
  return ['| cache | streaming | recent | KV MiB | perplexity | above f16 |', '| --- | --- | --- | --- | --- | --- |', ...lines].join('\n');
}

runMain(() => {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', short: 'm' },
      file: { type: 'string', short: 'f' },
      'duo-gates': { type: 'string' },
      json: { type: 'string' },
      'ctx-size': { type: 'string', short: 'c', default: '4096' },
      chunks: { type: 'string', default: '4' },
      threads: { type: 'string', short: 't', default: '2' },
    },
  });
  const { model, file, json, chunks, threads, 'duo-gates': gates, 'ctx-size': contextSize } = values;
  if (!model || !file || !gates || !json) throw new SetupError('Give -m MODEL, -f TEXT, --duo-gates FILE and --json FILE.');
  const settings = { model: basename(model), text: basename(file), contextSize: Number(contextSize), chunks: Number(chunks) };
  /** @type {{ rows: Row[] }} */
  const result = existsSync(json) ? JSON.parse(readFileSync(json, 'utf8')) : { ...settings, rows: [] };
  const common = ['-m', model, '-f', file, '-c', contextSize, '-b', contextSize, '--chunks', chunks, '-t', threads];
  for (const one of cases) {
    const isSame = (/** @type {Row} */ row) =>
      row.cacheType === one.cacheType && row.sparsity === one.sparsity && row.recent === one.recent;
    if (result.rows.some(isSame)) continue;
    const row = measure(common, gates, one);
    console.error(JSON.stringify(row));
    result.rows.push(row);
    writeFileSync(json, `${JSON.stringify(result, null, 2)}\n`);
  }
  console.log(table(result.rows));
});
