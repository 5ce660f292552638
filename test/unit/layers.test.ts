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
