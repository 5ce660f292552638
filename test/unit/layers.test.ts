import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Linter } from 'eslint';
import { expect, test } from 'vitest';

import { layerRules } from '../../eslint.config.js';

/** The messages of the rules on layers for a file with this content. */
function complaints(filename: string, code: string): string[] {
  return new Linter().verify(code, [{ files: ['**/*.ts'] }, ...layerRules], filename).map(({ message }) => message);
}

test.each([
  ['src/errors.ts', "import { Native } from './ffi/native.ts';"],
  ['src/ffi/job.ts', "import { checkOptions } from '../core/options.ts';"],
  ['src/core/model.ts', "import { calibrate } from '../gates/calibrate.ts';"],
  ['src/core/model.ts', "export { calibrate } from '../gates/calibrate.ts';"],
  ['src/core/model.ts', "const calibrate = await import('../gates/calibrate.ts');"],
  ['src/core/context.ts', "import { Random } from '../synthetic/random.ts';"],
  ['src/core/context.ts', "import { Model } from '../index.ts';"],
  ['src/synthetic/samples.ts', "import { GatePattern } from '../gates/pattern.ts';"],
  ['src/gates/calibrate.ts', "import { evaluate } from '../eval/evaluate.ts';"],
  ['src/gates/model.ts', "import '../index.ts';"],
  ['src/index.ts', "export { evaluate } from './eval/evaluate.ts';"],
  ['src/eval/plots.ts', "import { print } from '../cli/output.ts';"],
])('%s may not say %s', (file, code) => {
  const found = complaints(file, code);
  expect(found).toHaveLength(1);
  expect(found[0]).toContain('is below that layer: errors.ts <- ffi/ <- core/ <- synthetic/ <- gates/ <- index.ts <- eval/ <- cli/.');
});

test.each([
  ['src/ffi/job.ts', "import { pump } from './pump.ts'; import { CancelledError } from '../errors.ts';"],
  ['src/core/model.ts', "import { Job } from '../ffi/job.ts'; import { checkOptions } from './options.ts';"],
  ['src/gates/calibrate.ts', "import { calibrationSamples } from '../synthetic/samples.ts'; import { Native } from '../ffi/native.ts';"],
  ['src/index.ts', "export { loadModel } from './gates/model.ts'; export { setLog } from './core/log.ts';"],
  ['src/eval/plan.ts', "import { readGates } from '../gates/read.ts'; import { loadModel } from '../index.ts';"],
  ['src/cli/pattern.ts', "import { loadModel } from '../index.ts'; const plots = await import('../eval/plots.ts');"],
])('%s may say %s', (file, code) => {
  expect(complaints(file, code)).toEqual([]);
});

/** What is loaded with a file, by static imports that are more than types: files of src/, and packages. */
function loaded(file: string, found = new Set<string>()): Set<string> {
  found.add(file);
  const text = readFileSync(file, 'utf8');
  for (const [, clause = '', name = ''] of text.matchAll(/^(?:import|export) (?!type )([^;]*?)from '([^']+)'/gm)) {
    const typesAlone = /^\{[^}]*\}\s*$/.test(clause) && clause.split(',').every((item) => /^[{\s]*(type\s|[}\s]*$)/.test(item));
    if (typesAlone) continue;
    const path = name.startsWith('.') ? join(file, '..', name) : name;
    if (!found.has(path)) {
      if (name.startsWith('.') && name.endsWith('.ts')) loaded(path, found);
      else found.add(path);
    }
  }
  return found;
}

test('who loads a model loads no package, and nothing of synthetic texts, evaluations and the command line', () => {
  expect([...loaded('src/gates/calibrate.ts')].some((file) => file.startsWith('pure-rand'))).toBe(true);
  const files = [...loaded('src/index.ts')];
  expect(files).toContain('src/core/generation.ts');
  expect(files.filter((file) => !file.startsWith('src/') && !file.startsWith('node:'))).toEqual([]);
  expect(files.filter((file) => /^src\/(synthetic|eval|cli)\//.test(file))).toEqual([]);
});
