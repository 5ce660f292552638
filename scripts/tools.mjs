// The programs that set-up runs: calling them, and saying how to get those that are missing.

import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** An error for the person at the terminal: its message says what to do, and is shown without a stack. */
export class SetupError extends Error {}

/** A program that ran and failed; `output` is what it printed. */
export class CommandError extends SetupError {
  /**
   * @param {string} message
   * @param {string} output
   */
  constructor(message, output) {
    super(output ? `${message}\n${output}` : message);
    this.output = output;
  }
}

/** How to get a tool, by the tool's name.
 * @type {Record<string, string>} */
const howToGet = {
  git: 'Install it: apt-get install git, or brew install git.',
  npm: 'It comes with Node.js: reinstall Node.js 20.19 or later.',
  tar: 'Install it: apt-get install tar.',
  cmake: 'Install CMake 3.19 or later: apt-get install cmake, or brew install cmake.',
  'c++': 'Install a C++17 compiler: apt-get install g++, or xcode-select --install. CXX names another one.',
  'ninja or make': 'Install one of them: apt-get install ninja-build, or brew install ninja.',
  python3: 'Install Python 3 with pip: apt-get install python3 python3-pip.',
};

/** @param {string} tool */
function missing(tool) {
  return new SetupError(`${tool} was not found. ${howToGet[tool] ?? 'Install it, or check PATH.'}`);
}

/**
 * Runs a program to its end and returns what it printed, without the last line break.
 * @param {string} command
 * @param {string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv }} [options]
 */
export function capture(command, args, options = {}) {
  const { error, status, signal, stdout, stderr } = spawnSync(command, args, {
    ...options,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 256 * 1024 * 1024,
  });
  if (error) throw failedToStart(command, error);
  if (status !== 0) throw new CommandError(failure(command, args, status, signal), `${stdout}${stderr}`.trim());
  return stdout.replace(/\r?\n$/, '');
}

/**
 * Runs a program to its end with its output on stderr: stdout belongs to the command that set-up runs for.
 * @param {string} command
 * @param {string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv }} [options]
 */
export function passThrough(command, args, options = {}) {
  const { error, status, signal } = spawnSync(command, args, { ...options, stdio: ['ignore', 2, 2] });
  if (error) throw failedToStart(command, error);
  if (status !== 0) throw new CommandError(failure(command, args, status, signal), '');
}

/**
 * @param {string} command
 * @param {NodeJS.ErrnoException} error
 */
function failedToStart(command, error) {
  return error.code === 'ENOENT' ? missing(command) : new SetupError(`${command} could not be run: ${error.message}`);
}

/**
 * @param {string} command
 * @param {string[]} args
 * @param {number | null} status
 * @param {NodeJS.Signals | null} signal
 */
function failure(command, args, status, signal) {
  return `${[command, ...args].join(' ')} ${signal ? `was ended by ${signal}` : `failed with exit code ${status}`}`;
}

/**
 * Whether a program is on PATH.
 * @param {string} command
 */
export function has(command) {
  return (process.env['PATH'] ?? '').split(delimiter).some((folder) => isExecutable(join(folder, command)));
}

/** @param {string} file */
function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Tools that one of several programs can be.
 * @type {Record<string, () => boolean>} */
const alternatives = {
  // Whoever sets CXX is taken at their word: CMake says what is wrong with it.
  'c++': () => process.env['CXX'] !== undefined || ['c++', 'g++', 'clang++'].some(has),
  'ninja or make': () => ['ninja', 'make'].some(has),
};

/**
 * Throws one error that names every missing tool.
 * @param {Iterable<string>} tools names from the table above
 */
export function requireTools(tools) {
  const errors = [...tools].filter((tool) => !(alternatives[tool]?.() ?? has(tool))).map((tool) => missing(tool).message);
  if (errors.length > 0) throw new SetupError(errors.join('\n'));
}

/**
 * Runs a script's main function; a SetupError becomes its message on stderr and exit code 1.
 * @param {() => void | Promise<void>} main
 */
export function runMain(main) {
  void (async () => main())().catch((/** @type {unknown} */ error) => {
    if (!(error instanceof SetupError)) throw error;
    console.error(`\nerror: ${error.message}`);
    process.exitCode = 1;
  });
}
