// Python packages of tests and of the needle models' language, fetched from PyPI into the cache.

import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cache } from './places.mjs';
import { capture, passThrough, requireTools } from './tools.mjs';
import { workFolder } from './vendor.mjs';

/**
 * Runs a Python script with what models/documents.py and models/language.py import, and returns what it printed.
 * @param {string} script
 */
export function runPython(script) {
  // Without what they depend on, which reaches for models on the network and is not imported here.
  const env = pythonWith('python', ['--no-deps', '--only-binary=:all:', 'numpy', 'tokenizers']);
  return capture('python3', [script], { env });
}

/**
 * The environment of a Python that finds packages in a folder of the cache, to which they are fetched unless it is there.
 * @param {string} name of the folder
 * @param {string[]} packages and options, as pip takes them
 * @returns {NodeJS.ProcessEnv}
 */
export function pythonWith(name, packages) {
  requireTools(['python3']);
  const folder = join(cache, name);
  if (!existsSync(folder)) fetch(folder, packages);
  return { ...process.env, PYTHONPATH: folder, PYTHONDONTWRITEBYTECODE: '1' };
}

/**
 * @param {string} folder
 * @param {string[]} packages
 */
function fetch(folder, packages) {
  mkdirSync(cache, { recursive: true });
  const work = workFolder(cache);
  try {
    passThrough('python3', ['-m', 'pip', 'install', '--quiet', '--target', work, ...packages]);
    renameSync(work, folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
