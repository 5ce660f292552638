// llama-duo beside node-llama-cpp on the same model: tokens a second, memory, and the code that five tasks take. Runs take turns.
//
//   npm install --prefix build/node-llama-cpp --ignore-scripts node-llama-cpp@3.22.1
//   node bench/node-llama-cpp/compare.mjs MODEL [--pairs N] [--tokens N] [--threads N] [--json FILE]

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';

import { root } from '../../scripts/places.mjs';
import { runMain, SetupError } from '../../scripts/tools.mjs';
import { median, output } from '../pairs.mjs';

const here = join(root, 'bench/node-llama-cpp');
const theirs = join(root, 'build/node-llama-cpp');
/** A task that takes longer is given up. */
const patienceSeconds = 60;
const packages = /** @type {const} */ (['llama-duo', 'node-llama-cpp']);

/** Where a script runs: modules are looked for from there on.
 * @param {string} script
 * @param {(typeof packages)[number]} name */
function placed(script, name) {
  if (name === 'llama-duo') return join(here, script);
  const target = join(theirs, script);
  mkdirSync(join(target, '..'), { recursive: true });
  copyFileSync(join(here, script), target);
  return target;
}

/** Lines that say something. @param {string} file */
function lines(file) {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '' && !line.trim().startsWith('//')).length;
}

runMain(() => {
  const { values, positionals } = parseArgs({
    options: { pairs: { type: 'string' }, tokens: { type: 'string' }, threads: { type: 'string' }, json: { type: 'string' } },
    allowPositionals: true,
  });
  const { pairs = '9', tokens = '128', threads = '2' } = values;
  const model = resolve(positionals[0] ?? '');
  if (positionals.length !== 1 || !existsSync(model)) throw new SetupError('Name a model: node bench/node-llama-cpp/compare.mjs MODEL');
  if (!existsSync(join(theirs, 'node_modules/node-llama-cpp'))) {
    throw new SetupError('npm install --prefix build/node-llama-cpp --ignore-scripts node-llama-cpp@3.22.1');
  }

  const measured = Array.from({ length: Number(pairs) }, () =>
    packages.map(
      (name) =>
        /** @type {Record<string, number>} */ (
          JSON.parse(output(process.execPath, [placed(`speed.${name}.mjs`, name), model, tokens, threads]))
        ),
    ),
  );
  const figures = packages.map((name, index) => {
    const of = (/** @type {string} */ key) => median(measured.map((pair) => pair[index]?.[key] ?? NaN));
    const tasks = readdirSync(join(here, 'tasks')).filter((file) => file.endsWith(`.${name}.mjs`));
    const code = tasks.map((file) => {
      const start = performance.now();
      const { status } = spawnSync(process.execPath, [placed(join('tasks', file), name), model], {
        stdio: 'ignore',
        timeout: patienceSeconds * 1000,
      });
      const seconds = status === 0 ? (performance.now() - start) / 1000 : null;
      return [file.split('.')[0] ?? '', { lines: lines(join(here, 'tasks', file)), seconds }];
    });
    return { name, one: of('one'), four: of('four'), residentBytes: of('residentBytes'), tasks: Object.fromEntries(code) };
  });

  const table = new Table({ head: ['', ...packages] });
  const row = (/** @type {string} */ what, /** @type {(f: (typeof figures)[number]) => string} */ show) =>
    table.push([what, ...figures.map(show)]);
  row('one generation, tokens/s', ({ one }) => one.toFixed(1));
  row('four at once, tokens/s', ({ four }) => four.toFixed(1));
  row('resident, MiB', ({ residentBytes }) => (residentBytes / 2 ** 20).toFixed(0));
  for (const task of Object.keys(figures[0]?.tasks ?? {})) {
    row(
      `${task}: lines, seconds`,
      ({ tasks }) => `${tasks[task]?.lines}, ${tasks[task]?.seconds?.toFixed(1) ?? `not within ${patienceSeconds}`}`,
    );
  }
  console.log(table.toString());
  if (values.json)
    writeFileSync(
      values.json,
      `${JSON.stringify({ model, pairs: Number(pairs), tokens: Number(tokens), threads: Number(threads), figures, measured }, null, 2)}\n`,
    );
});
