// What models/documents.py and models/language.py import, fetched from PyPI into the cache, and Python run with it.

import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cache } from './places.mjs';
import { capture, passThrough, requireTools } from './tools.mjs';
import { workFolder } from './vendor.mjs';

const packages = ['numpy', 'tokenizers'];
const folder = join(cache, 'python');

/**
 * Runs a Python script with those packages and returns what it printed.
 * @param {string} script
 */
export function runPython(script) {
  requireTools(['python3']);
  if (!existsSync(folder)) fetch();
  return capture('python3', [script], { env: { ...process.env, PYTHONPATH: folder, PYTHONDONTWRITEBYTECODE: '1' } });
}

function fetch() {
  mkdirSync(cache, { recursive: true });
  const work = workFolder(cache);
  try {
    // Without what they depend on, which reaches for models on the network and is not imported here.
    passThrough('python3', ['-m', 'pip', 'install', '--no-deps', '--only-binary=:all:', '--quiet', '--target', work, ...packages]);
    renameSync(work, folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
