// Runs test files on every runtime that we support, with the same vitest, and prints how each did.
//
//   node scripts/run-runtimes.mjs [--only RUNTIME]... [FILE]...    (RUNTIME: node20, node24, bun, deno)
//
// Where no file is named it runs test/native, and what of test/model the API does (scripts/model.mjs fetches the model). Of these it leaves out what the library
// computes, which no runtime changes and npm test looks at; LLAMA_DUO_TEST_ALL takes them in.
//
// The runtimes come from test/runtimes (node scripts/setup.mjs --runtimes).

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { root, runtimePrograms } from './places.mjs';
import { capture, runMain, SetupError } from './tools.mjs';

/** What starts each runtime, up to the script.
 * @type {Record<string, string[]>} */
const commands = {
  [`node${process.versions.node.split('.')[0]}`]: [process.execPath],
  node24: [runtimePrograms.node24],
  // --bun: Bun itself, also for the processes that vitest starts.
  bun: [runtimePrograms.bun, '--bun'],
  deno: [runtimePrograms.deno, 'run', '-A'],
};

/** Files of test/native whose subject is what the library computes. */
const computed = ['concurrent', 'estimate', 'needle', 'needle-hybrid', 'sampling', 'speculative'];

function main() {
  const { values, positionals } = parseArgs({ options: { only: { type: 'string', multiple: true } }, allowPositionals: true });
  const names = values.only ?? Object.keys(commands);
  const excluded = process.env['LLAMA_DUO_TEST_ALL'] === undefined ? computed.map((name) => `--exclude=test/native/${name}.test.ts`) : [];
  const files =
    positionals.length > 0 ? positionals : ['test/native', 'test/model/generate.test.ts', 'test/model/chat.test.ts', ...excluded];
  const chosen = names.map((name) => ({ name, command: requireRuntime(name) }));

  const results = chosen.map(({ name, command: [program, ...args] }) => {
    console.log(`\n=== ${name} ===`);
    const start = performance.now();
    const { status } = spawnSync(program, [...args, 'node_modules/vitest/vitest.mjs', 'run', ...files], { cwd: root, stdio: 'inherit' });
    return { name, passed: status === 0, seconds: (performance.now() - start) / 1000 };
  });

  console.log();
  for (const { name, passed, seconds } of results) console.log(`${name.padEnd(8)}${passed ? 'passed' : 'FAILED'}  ${seconds.toFixed(1)} s`);
  if (results.some(({ passed }) => !passed)) process.exitCode = 1;
}

/**
 * @param {string} name
 * @returns {[string, ...string[]]}
 */
function requireRuntime(name) {
  const [program, ...args] = commands[name] ?? [];
  if (program === undefined) throw new SetupError(`Unknown runtime '${name}'. There are: ${Object.keys(commands).join(', ')}`);
  if (!existsSync(program)) throw new SetupError(`${name} is not installed: ${program} is missing. Run: node scripts/setup.mjs --runtimes`);
  console.log(`${name.padEnd(8)}${capture(program, ['--version']).split('\n')[0]}`);
  return [program, ...args];
}

runMain(main);
