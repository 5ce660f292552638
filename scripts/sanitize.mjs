// Builds everything with AddressSanitizer and UndefinedBehaviorSanitizer into build-sanitize/ and runs the ctest programs that need no model.
//
//   node scripts/sanitize.mjs

import { join } from 'node:path';
import { buildTargets, configure } from './cmake.mjs';
import { root } from './places.mjs';
import { passThrough, runMain } from './tools.mjs';

runMain(() => {
  const build = join(root, 'build-sanitize');
  // -O1 keeps stacks readable and the build short
  configure(root, build, ['-DLLAMA_DUO_SANITIZE=ON', '-DCMAKE_C_FLAGS_RELEASE=-O1', '-DCMAKE_CXX_FLAGS_RELEASE=-O1']);
  buildTargets(build, ['duo-tests']);
  const env = { ...process.env, UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1' };
  passThrough('ctest', ['--test-dir', build, '-LE', 'model', '--no-tests=error', '--output-on-failure'], { env });
});
