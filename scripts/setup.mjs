// Brings a fresh clone to where the commands of package.json can run, and does nothing when it is there already:
//
//   node scripts/setup.mjs [--only STEP]... [--target TARGET]... [--runtimes]
//
//   npm         the packages of package-lock.json
//   vendor      llama.cpp, fetched, verified and patched into vendor/llama.cpp
//   native      CMake's TARGETs in build/ (llama-duo, the shared library, if none is named)
//   typescript  src/ compiled to dist/
//   --runtimes  also the runtimes of test/runtimes
//
// Everything is printed on stderr: stdout belongs to the command that runs next.

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildTargets, configure } from './cmake.mjs';
import { llamaCpp, root, runtimes } from './places.mjs';
import { passThrough, requireTools, runMain, SetupError } from './tools.mjs';
import { vendor } from './vendor.mjs';

/** In the order in which they run.
 * @type {Record<string, { tools: string[], run: (targets: string[]) => void }>} */
const steps = {
  npm: { tools: ['npm'], run: () => installPackages(root) },
  vendor: { tools: ['git', 'npm', 'tar'], run: () => vendor(llamaCpp, say) },
  native: { tools: ['cmake', 'c++', 'ninja or make'], run: buildNative },
  typescript: { tools: ['npm'], run: compileTypeScript },
};

function main() {
  const { only, target, runtimes: withRuntimes } = parseOptions();
  requireNode();
  const chosen = Object.entries(steps).flatMap(([name, step]) => (only === undefined || only.includes(name) ? [step] : []));
  requireTools(new Set(chosen.flatMap(({ tools }) => tools)));
  for (const { run } of chosen) run(target ?? ['llama-duo']);
  if (withRuntimes) installPackages(runtimes);
}

function parseOptions() {
  try {
    const { values } = parseArgs({
      options: { only: { type: 'string', multiple: true }, target: { type: 'string', multiple: true }, runtimes: { type: 'boolean' } },
    });
    const unknown = values.only?.find((name) => !(name in steps));
    if (unknown !== undefined) throw new Error(`Unknown step '${unknown}'. The steps are: ${Object.keys(steps).join(', ')}`);
    return values;
  } catch (error) {
    throw new SetupError(/** @type {Error} */ (error).message);
  }
}

function requireNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  throw new SetupError(`Node.js ${process.versions.node} is too old: 20.19 or later is needed. Install it from https://nodejs.org.`);
}

/** @param {string} message */
function say(message) {
  console.error(`setup: ${message}`);
}

// --- stamps: a file in the folder that a step makes, holding the hash of what the step read ---

/**
 * Runs a step unless its stamp says that nothing changed since it last succeeded.
 * @param {string} stamp
 * @param {string[]} inputs files
 * @param {() => void} run
 */
function onceFor(stamp, inputs, run) {
  const digest = createHash('sha256').update(process.versions.modules);
  for (const file of inputs) digest.update(`\0${file}\0`).update(readFileSync(file));
  const current = digest.digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === current) return;
  run();
  writeFileSync(stamp, current);
}

// --- the steps ---

/** @param {string} folder */
function installPackages(folder) {
  const inputs = ['package.json', 'package-lock.json', '.npmrc'].map((name) => join(folder, name));
  onceFor(join(folder, 'node_modules/.setup'), inputs, () => {
    say(`installing npm packages in ${folder}`);
    // Nothing here needs an install script: native packages bring their binaries.
    passThrough('npm', ['ci', '--include=dev', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: folder });
  });
}

/** @param {string[]} targets */
function buildNative(targets) {
  const build = join(root, 'build');
  try {
    configure(root, build);
    buildTargets(build, targets);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    throw new SetupError(
      `The native build failed; its own messages are above. If they do not help, delete ${build} and run this again.\n${error.message}`,
    );
  }
}

function compileTypeScript() {
  const dist = join(root, 'dist');
  const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter((file) => /\.(ts|json)$/.test(file));
  const inputs = [...sources.sort().map((file) => join('src', file)), 'tsconfig.json', 'tsconfig.build.json', 'package-lock.json'];
  onceFor(
    join(dist, '.setup'),
    inputs.map((file) => join(root, file)),
    () => {
      say('compiling TypeScript');
      // What was compiled from a file that is gone must not stay.
      rmSync(dist, { recursive: true, force: true });
      passThrough('npm', ['run', '--silent', 'build'], { cwd: root });
    },
  );
}

runMain(main);
