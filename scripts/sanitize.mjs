// Builds with sanitizers and runs the ctest programs under them.
//
//   node scripts/sanitize.mjs [address | preload | thread]...    (all if none is named)
//
// address: AddressSanitizer and UndefinedBehaviorSanitizer, all programs that need no model, in build-sanitize/
// preload: the shared library of that build under Node, with native tests that end, drop and interleave what it works on
// thread:  ThreadSanitizer, the C ABI's on models/needle.gguf and its scheduler's, since that is where threads meet, in build-sanitize-thread/; and a hundred
//          programs of JavaScript, recorded with the ordinary library

import { isAbsolute, join } from 'node:path';
import { buildTargets, configure } from './cmake.mjs';
import { root } from './places.mjs';
import { capture, passThrough, runMain, SetupError } from './tools.mjs';

/** @type {Record<string, () => void>} */
const sanitizers = {
  address() {
    const build = folder('build-sanitize', 'address', ['duo-tests']);
    const env = { ...process.env, ...undefinedBehaviour };
    passThrough('ctest', ['--test-dir', build, '-LE', 'model', '--no-tests=error', '--output-on-failure'], { env });
  },
  preload() {
    const build = folder('build-sanitize', 'address', ['llama-duo']);
    const env = {
      ...process.env,
      ...undefinedBehaviour,
      // The sanitizer must come before all else; without the C++ library beside it, it does not find the exceptions of a Node that has its own.
      LD_PRELOAD: ['libasan.so', 'libstdc++.so'].map(compilersOwn).join(' '),
      ASAN_OPTIONS: 'detect_leaks=0', // V8 never gives back all
      LLAMA_DUO_LIBRARY: join(build, 'libllama-duo.so'),
    };
    vitest(
      ['interleavings', 'lifetimes'].map((name) => `test/native/${name}.test.ts`),
      env,
    );
  },
  thread() {
    const build = folder('build-sanitize-thread', 'thread', ['test-abi', 'test-scheduler', 'play-walk']);
    const suppressions = join(root, 'cpp/test/thread-sanitizer.supp');
    const env = { ...process.env, TSAN_OPTIONS: `suppressions=${suppressions}:halt_on_error=0:exitcode=66`, LLAMA_DUO_TEST_ROUNDS: '40' };
    passThrough(join(build, 'test-abi'), [join(root, 'models/needle.gguf')], { env });
    passThrough(join(build, 'test-scheduler'), [], { env });

    const ordinary = join(root, 'build');
    configure(root, ordinary);
    buildTargets(ordinary, ['llama-duo']);
    vitest(['test/native/walks.test.ts'], { ...env, LLAMA_DUO_TEST_PLAYER: join(build, 'play-walk'), LLAMA_DUO_TEST_WALKS: '100' });
  },
};

const undefinedBehaviour = { UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1' };

/**
 * @param {string[]} tests
 * @param {NodeJS.ProcessEnv} env
 */
function vitest(tests, env) {
  const timeouts = ['--testTimeout=600000', '--hookTimeout=600000'];
  passThrough(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', ...timeouts, ...tests], { cwd: root, env });
}

/** @param {string} library the file name of one that comes with the compiler */
function compilersOwn(library) {
  const path = capture(process.env['CXX'] ?? 'c++', [`-print-file-name=${library}`]);
  if (!isAbsolute(path)) throw new SetupError(`The compiler has no ${library}; GCC has one.`);
  return path;
}

/**
 * @param {string} name
 * @param {string} sanitizer
 * @param {string[]} targets
 */
function folder(name, sanitizer, targets) {
  const build = join(root, name);
  // -O1 keeps stacks readable and the build short
  configure(root, build, [`-DLLAMA_DUO_SANITIZE=${sanitizer}`, '-DCMAKE_C_FLAGS_RELEASE=-O1', '-DCMAKE_CXX_FLAGS_RELEASE=-O1']);
  buildTargets(build, targets);
  return build;
}

runMain(() => {
  const named = process.argv.slice(2);
  for (const name of named.length > 0 ? named : Object.keys(sanitizers)) {
    const run = sanitizers[name];
    if (!run) throw new SetupError(`Unknown sanitizer '${name}'. There are: ${Object.keys(sanitizers).join(', ')}`);
    console.log(`=== ${name} ===`);
    run();
  }
});
