// llama.cpp's own tests on our build of it: the programs of its ctest, and those of its server (pytest), which load small models that we write.
//
//   node scripts/upstream-tests.mjs [--quick] [--only ctest|server]...   what the pristine llama.cpp passes, ours does
//   node scripts/upstream-tests.mjs --stock                              runs them on the pristine one and writes what it passes: test/upstream/passes.json
//
// The server's are run twice: without duo parameters, and with LLAMA_ARG_DUO_SPARSITY=0, where nothing streams and every head is in the mixed-head cache.

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildTargets } from './cmake.mjs';
import { cache, llamaCpp, root } from './places.mjs';
import { pythonWith } from './python-packages.mjs';
import { buildStock } from './stock.mjs';
import { passThrough, runMain, SetupError } from './tools.mjs';
import { hash } from './vendor.mjs';

/** The pristine build has OpenMP, whose threads spin while they wait: beside other programs that takes a hundred times as long. */
const patient = { OMP_WAIT_POLICY: 'passive' };

const needle = join(root, 'models/needle.gguf');
const passesFile = join(root, 'test/upstream/passes.json');

/** @typedef {{ source: string, build: string }} Place a source tree and where it is built */
/** @typedef {{ ctest: string[], server: Record<string, string[]> }} Passes the server's by file */

/** @type {Place} */
const ours = { source: llamaCpp.target, build: join(root, 'build') };

// --- what is run ---

/** Tests of its ctest that are left out, and why.
 * @type {Record<string, string>} */
const leftOut = {
  'test-download-model': 'downloads a model; models/needle.gguf takes its place',
  'test-tokenizers-ggml-vocabs': 'clones a repository of vocabularies',
  'test-gguf-model-data': 'downloads the heads of models',
  'test-quant-type-selection': 'downloads the heads of models',
  'test-arg-parser': 'downloads a page at its end',
  'test-backend-sampler': 'its model is to be one that is downloaded: with models/needle.gguf the pristine llama.cpp fails, too',
  'test-jinja-py': "needs Python's jinja2, to compare with; test-jinja has the same cases",
};

/** Those of a quick run: what our patches touch, and what compiles and runs in seconds. */
const quickPrograms = [
  'test-alloc',
  'test-barrier',
  'test-batch-alloc',
  'test-gguf',
  'test-grammar-parser',
  'test-jinja',
  'test-llama-grammar',
  'test-peg-parser',
  'test-sampling',
];
const quickFiles = ['test_basic', 'test_completion', 'test_ctx_shift', 'test_kv_keep_only_active', 'test_metrics', 'test_slot_save'].map(
  (name) => `unit/${name}.py`,
);

/** What mixed heads refuse, or leave out: a file of the server's tests, or one test.
 * @type {Record<string, string>} */
const refusedWithDuo = {
  'unit/test_embedding.py': 'its model is an encoder, which has no cache',
  'unit/test_rerank.py': 'its model is an encoder, which has no cache',
  'unit/test_metrics.py::test_metrics_embedding_prompt_is_counted': 'its model is an encoder, which has no cache',
  'unit/test_speculative.py': 'its servers have -fa off',
  'unit/test_kv_keep_only_active.py::test_clear_and_restore':
    'it asks for -kvu, which is left out: a slot goes on holding its prompt, so nothing is to be restored',
};

// --- ctest ---

/**
 * The programs of the tests, by the tests' names.
 * @param {string} folder a folder of the build that has tests
 */
function testsIn(folder) {
  const file = join(folder, 'CTestTestfile.cmake');
  const text = existsSync(file) ? readFileSync(file, 'utf8') : ''; // a build without RPC has no tests of it
  return [...text.matchAll(/^add_test\(\[=\[(.+?)\]=\] "(?:[^"]*\/)?([^"/]+)"(.*)\)$/gm)].map(([, name = '', program = '', args = '']) => ({
    name,
    // a script is given the programs that it runs
    programs: program === 'bash' ? [...args.matchAll(/"[^"]*\/bin\/([^"/]+)"/g)].map(([, one = '']) => one) : [program],
    folder,
  }));
}

/**
 * Builds and runs those tests; without names all but those left out. Returns the names of those that passed.
 * @param {Place} place
 * @param {string[]} [names]
 */
function runPrograms({ build }, names) {
  const all = ['tests', 'tools/rpc'].flatMap((folder) => testsIn(join(build, 'llama.cpp', folder)));
  const chosen = all.filter(({ name }) => (names ? names.includes(name) : !(name in leftOut)));
  buildTargets(build, [...new Set(chosen.flatMap((test) => test.programs))]);

  const downloaded = join(build, 'tinyllamas/stories15M-q4_0.gguf');
  mkdirSync(join(build, 'tinyllamas'), { recursive: true });
  if (!existsSync(downloaded)) symlinkSync(needle, downloaded);

  const failed = new Set();
  for (const folder of new Set(chosen.map((test) => test.folder))) {
    const here = chosen.filter((test) => test.folder === folder).map(({ name }) => name);
    const args = [
      '--test-dir',
      folder,
      '-R',
      `^(${here.join('|')})$`,
      '-FS',
      'test-download-model',
      '--no-tests=error',
      '--output-on-failure',
      '--timeout',
      '900',
    ];
    const { error, status } = spawnSync('ctest', args, {
      stdio: ['ignore', 2, 2],
      env: { ...process.env, ...patient, LLAMACPP_TEST_MODELFILE: needle },
    });
    if (error) throw new SetupError(`ctest could not be run: ${error.message}`);
    if (status === 0) continue;
    const list = join(folder, 'Testing/Temporary/LastTestsFailed.log');
    if (!existsSync(list)) throw new SetupError(`ctest in ${folder} ended with exit code ${status}`);
    for (const line of readFileSync(list, 'utf8').split('\n').filter(Boolean)) failed.add(line.replace(/^\d+:/, ''));
  }
  return chosen.map(({ name }) => name).filter((name) => !failed.has(name));
}

/**
 * Tests that are neither known to pass nor left out.
 * @param {Place} place
 * @param {string[]} known
 */
function unsorted({ build }, known) {
  const names = testsIn(join(build, 'llama.cpp/tests')).map(({ name }) => name);
  return names.filter((name) => !(name in leftOut) && !known.includes(name));
}

// --- the server's ---

/** What its tests import, and what tries again those that fail: some of them measure time. */
function python() {
  const requirements = join(llamaCpp.target, 'tools/server/tests/requirements.txt');
  return pythonWith(`python-server-tests-${shortHash(requirements)}`, ['-r', requirements, 'pytest-rerunfailures~=15.0', 'tqdm', 'pyyaml']);
}

/** @param {string} file */
function shortHash(file) {
  return hash(file, 'sha256', 'hex').slice(0, 8);
}

/** The folder of the models that the tests would download, written unless it is there. */
function hub() {
  const writer = join(root, 'test/upstream/write_models.py');
  const folder = join(cache, `upstream/hub-${shortHash(writer)}`);
  if (existsSync(folder)) return folder;
  const { PYTHONPATH, ...env } = python();
  const work = `${folder}.part`;
  rmSync(work, { recursive: true, force: true });
  mkdirSync(join(cache, 'upstream'), { recursive: true });
  const paths = [PYTHONPATH, join(llamaCpp.target, 'gguf-py')].join(':');
  passThrough('python3', [writer, llamaCpp.target, work], { env: { ...env, PYTHONPATH: paths } });
  renameSync(work, folder);
  return folder;
}

/**
 * Runs the server's tests. Returns the names of those that passed.
 * @param {Place} place
 * @param {{ names?: string[], again?: number, variables?: NodeJS.ProcessEnv }} [options] names: only these; again: how often one that fails is tried again
 */
function runServer({ source, build }, { names, again = 0, variables = {} } = {}) {
  buildTargets(build, ['llama-server']);
  // the tests write beside themselves, and read what lies three folders above
  const work = mkdtempSync(join(tmpdir(), 'llama-duo-upstream-'));
  try {
    const tests = join(work, 'tools/server/tests');
    cpSync(join(source, 'tools/server/tests'), tests, { recursive: true });
    symlinkSync(join(source, 'tools/mtmd'), join(work, 'tools/mtmd'));
    symlinkSync(join(source, 'models'), join(work, 'models'));
    const outcomes = join(work, 'outcomes.json');
    const select = join(work, 'select');
    if (names) writeFileSync(select, names.join('\n'));

    const { PYTHONPATH, ...env } = python();
    const { error, status } = spawnSync(
      'python3',
      [
        '-m',
        'pytest',
        '-p',
        'local_hub',
        '-p',
        'no:cacheprovider',
        '-q',
        '--no-header',
        '--tb=short',
        '-m',
        'not slow',
        `--reruns=${again}`,
        'unit',
      ],
      {
        cwd: tests,
        stdio: ['ignore', 2, 2],
        env: {
          ...env,
          ...patient,
          PYTHONPATH: [PYTHONPATH, join(root, 'test/upstream')].join(':'),
          PORT: String(20000 + Math.floor(Math.random() * 10000)),
          LLAMA_SERVER_BIN_PATH: join(build, 'bin/llama-server'),
          LLAMA_DUO_HUB: hub(),
          LLAMA_DUO_OUTCOMES: outcomes,
          ...(names && { LLAMA_DUO_SELECT: select }),
          ...variables,
        },
      },
    );
    if (error) throw new SetupError(`python3 could not be run: ${error.message}`);
    if (!existsSync(outcomes)) throw new SetupError(`pytest ended with exit code ${status}, and no test was run`);
    /** @type {unknown} */
    const text = JSON.parse(readFileSync(outcomes, 'utf8'));
    const found = /** @type {Record<string, string>} */ (text);
    return Object.keys(found).filter((name) => found[name] === 'passed');
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

// --- the lists ---

/** @param {string[]} names of the server's tests: FILE::TEST */
function byFile(names) {
  /** @type {Passes['server']} */
  const files = {};
  for (const name of [...names].sort()) {
    const [file = '', ...test] = name.split('::');
    (files[file] ??= []).push(test.join('::'));
  }
  return files;
}

function readPasses() {
  /** @type {unknown} */
  const passes = JSON.parse(readFileSync(passesFile, 'utf8'));
  return /** @type {Passes} */ (passes);
}

/** @param {string[]} only */
function writePasses(only) {
  const stock = buildStock([]);
  /** @param {Partial<Passes>} found */
  const write = (found) => writeFileSync(passesFile, `${JSON.stringify({ ...readPasses(), ...found }, null, 2)}\n`);
  if (only.includes('ctest')) write({ ctest: runPrograms(stock).sort() });
  if (only.includes('server')) {
    // twice: what passes by luck is no bar
    const names = runServer(stock);
    write({ server: byFile(runServer(stock, { names })) });
  }
}

/**
 * @param {string[]} only
 * @param {boolean} quick
 */
function compare(only, quick) {
  const { ctest, server } = readPasses();
  /** @type {string[]} */
  const problems = [];
  /** @param {string} what @param {string[]} wanted @param {string[]} passed */
  const report = (what, wanted, passed) => {
    const missing = wanted.filter((name) => !passed.includes(name));
    console.log(`${what}: ${wanted.length - missing.length} of the ${wanted.length} that the pristine llama.cpp passes`);
    problems.push(...missing.map((name) => `${what}: ${name}`));
  };

  if (only.includes('ctest')) {
    problems.push(
      ...unsorted(ours, ctest).map((name) => `programs: ${name}, which no list has: node scripts/upstream-tests.mjs --stock --only ctest`),
    );
    const names = quick ? quickPrograms : ctest;
    report('programs', names, runPrograms(ours, names));
  }
  if (only.includes('server')) {
    const names = Object.entries(server)
      .filter(([file]) => !quick || quickFiles.includes(file))
      .flatMap(([file, tests]) => tests.map((test) => `${file}::${test}`));
    report('server', names, runServer(ours, { names, again: 2 }));
    const allowed = names.filter((name) => !(name in refusedWithDuo) && !((name.split('::')[0] ?? '') in refusedWithDuo));
    report('server, sparsity 0', allowed, runServer(ours, { names: allowed, again: 2, variables: { LLAMA_ARG_DUO_SPARSITY: '0' } }));
  }
  if (problems.length > 0) throw new SetupError(`these pass on the pristine llama.cpp, and not on ours:\n${problems.join('\n')}`);
}

runMain(() => {
  const { values } = parseArgs({
    options: { quick: { type: 'boolean' }, stock: { type: 'boolean' }, only: { type: 'string', multiple: true } },
  });
  const only = values.only ?? ['ctest', 'server'];
  if (values.stock) writePasses(only);
  else compare(only, values.quick === true);
});
