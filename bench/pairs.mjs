// What benchmarks in JavaScript share: programs that run in turns, and the middle of what they measured.

import { spawnSync } from 'node:child_process';

import { SetupError } from '../scripts/tools.mjs';

/**
 * Runs a program to its end and returns what it printed on stdout.
 * @param {string} program
 * @param {string[]} args
 */
export function output(program, args) {
  return run(program, args).stdout;
}

/**
 * The same with what it printed on stderr behind it.
 * @param {string} program
 * @param {string[]} args
 */
export function outputs(program, args) {
  const { stdout, stderr } = run(program, args);
  return `${stdout}\n${stderr}`;
}

/** @param {string} program
 * @param {string[]} args */
function run(program, args) {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', timeout: 3_600_000, maxBuffer: 2 ** 26 });
  if (status !== 0) throw new SetupError(`${program} ${args.join(' ')} failed:\n${stderr}`);
  return { stdout, stderr };
}

/** @param {number[]} values */
export function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}
