// The folders that are published: llama-duo, and for each platform its library, its library with CUDA, and llama.cpp's tool. Everything in them is made here.

import { chmodSync, copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { thirdParties, thirdPartyText } from './licences.mjs';
import { exportedSymbols, faults, requirements, requireNone } from './native-checks.mjs';
import { root } from './places.mjs';
import { capture, SetupError } from './tools.mjs';

/** The version of glibc that packages for Linux promise to run on: Debian 11's. */
export const oldestGlibc = '2.31';

/** What the registry takes of a package: npm's own limits are far above, people's patience is not. */
const largestTarball = { cpu: 20e6, tools: 20e6, cuda: 150e6 };

/**
 * @typedef {object} Linked what a build was linked with on its system, for the licences
 * @property {{ version: string, text: string }} [openssl]
 * @property {string} [gcc]
 * @property {string} [cuda]
 *
 * @typedef {{ name: string, version: string, description: string, keywords: string[], license: string, author: string, optionalDependencies: Record<string, string> }} Manifest
 *   what is read of package.json
 *
 * @typedef {object} Native what a platform's packages are made of
 * @property {string} platform as Node says it: linux-x64
 * @property {string} build the folder that CMake built in
 * @property {boolean} portable whether it must run elsewhere, or is this computer's own, for tests
 * @property {string} binutils what the names of binutils begin with that read its files
 * @property {Linked} linked
 *
 * @typedef {object} Cuda what a CUDA package says of itself; src/ffi/packages.ts explains it
 * @property {number} oldestDriver
 * @property {number} toolkit
 * @property {number[]} architectures
 * @property {number} ptx
 */

const manifest = readManifest();
const { version } = manifest;

function readManifest() {
  /** @type {unknown} */
  const json = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  return /** @type {Manifest} */ (json);
}

/**
 * What every package's package.json says.
 * @param {string | undefined} repository OWNER/NAME on GitHub, where provenance is checked against it
 * @param {string} name
 * @param {string} description
 */
function common(repository, name, description) {
  const url = repository && `https://github.com/${repository}`;
  return {
    name,
    version,
    description,
    keywords: manifest.keywords,
    license: manifest.license,
    author: manifest.author,
    ...(url && { homepage: `${url}#readme`, bugs: `${url}/issues`, repository: { type: 'git', url: `git+${url}.git` } }),
    publishConfig: { access: 'public', provenance: true },
    type: 'module',
  };
}

/**
 * @param {string} folder
 * @param {Record<string, unknown>} contents
 */
function write(folder, contents) {
  for (const [name, text] of Object.entries(contents)) {
    writeFileSync(join(folder, name), typeof text === 'string' ? text : `${JSON.stringify(text, undefined, 2)}\n`);
  }
}

/**
 * What the CUDA package says of itself.
 * @param {string} toolkit the version of CUDA that compiles it: 13.0
 * @param {string} [architectures] what it is compiled for, as CMake has it: 90a-real is code for GPUs, 80-virtual what a driver compiles
 * @returns {Cuda}
 */
export function describeCuda(toolkit, architectures = presetArchitectures()) {
  const [major = 0, minor = 0] = toolkit.split('.').map(Number);
  const [real = [], virtual = []] = ['real', 'virtual'].map((kind) =>
    [...architectures.matchAll(new RegExp(`(\\d+)a?-${kind}`, 'g'))].map(([, number]) => Number(number)),
  );
  // A driver runs what any minor version of its CUDA compiled.
  return { oldestDriver: major * 1000, toolkit: major * 1000 + minor * 10, architectures: real, ptx: Math.min(...virtual) };
}

function presetArchitectures() {
  const presets = /** @type {unknown} */ (JSON.parse(readFileSync(join(root, 'CMakePresets.json'), 'utf8')));
  const { configurePresets } = /** @type {{ configurePresets: { name: string, cacheVariables: Record<string, string> }[] }} */ (presets);
  const preset = configurePresets.find(({ name }) => name === 'package-linux-x64-cuda');
  const architectures = preset?.cacheVariables['CMAKE_CUDA_ARCHITECTURES'];
  if (architectures === undefined) {
    throw new SetupError(
      'CMakePresets.json has no preset package-linux-x64-cuda with CMAKE_CUDA_ARCHITECTURES, which says what the CUDA package is compiled for.',
    );
  }
  return architectures;
}

/** @param {string} folder */
function emptyFolder(folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  return folder;
}

/**
 * llama-duo itself: what tsc compiled, and the exact versions of the platforms' packages.
 * @param {string} folder
 * @param {{ repository: string | undefined, platforms: string[] }} options
 */
export function stageMain(folder, { repository, platforms }) {
  emptyFolder(folder);
  cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true, filter: (path) => !path.endsWith('.setup') });
  for (const name of ['LICENSE', 'README.md', 'CHANGELOG.md']) copyFileSync(join(root, name), join(folder, name));
  const inClone = ['private', 'scripts', 'devDependencies'];
  const published = Object.fromEntries(Object.entries(manifest).filter(([key]) => !inClone.includes(key)));
  write(folder, {
    'package.json': {
      ...common(repository, manifest.name, manifest.description),
      ...published,
      files: ['dist', 'CHANGELOG.md'],
      optionalDependencies: {
        ...Object.fromEntries(platforms.map((platform) => [`@llama-duo/${platform}`, version])),
        ...manifest.optionalDependencies,
      },
    },
  });
}

/**
 * A platform's library, with or without CUDA.
 * @param {string} folder
 * @param {Native & { repository: string | undefined, cuda?: Cuda | undefined }} options
 */
export function stageLibrary(folder, { platform, build, portable, binutils, linked, repository, cuda }) {
  emptyFolder(folder);
  const file = libraryName(platform);
  const library = copyNative(join(build, file), join(folder, file), binutils);
  if (portable) requireNone(library, faults(library, { glibc: oldestGlibc, library: true, cuda: cuda !== undefined, binutils }));
  else if (exportedSymbols(library).some((name) => !name.startsWith('llama_duo_')))
    requireNone(library, faults(library, { glibc: '9', library: true }));
  const probe = cuda && `cuda-probe${platform.startsWith('win32') ? '.exe' : ''}`;
  if (probe) copyNative(join(build, probe), join(folder, probe), binutils);
  const glibc = platform.startsWith('linux') ? (portable ? oldestGlibc : requirements(library).glibc) : '';
  const about =
    `export const buildId = ${JSON.stringify(buildId())};\nexport const glibc = ${JSON.stringify(glibc)};\n` +
    (cuda
      ? `export const cuda = { ...${JSON.stringify(cuda)}, probe: fileURLToPath(new URL('./${probe}', import.meta.url)) };\n`
      : 'export const cuda = undefined;\n');
  write(folder, {
    'package.json': {
      ...common(
        repository,
        packageName(platform, cuda && 'cuda'),
        `llama-duo's native library for ${platform}${cuda ? ', with CUDA' : ''}`,
      ),
      license: `${manifest.license} AND Apache-2.0`,
      ...platformFields(platform),
      exports: { '.': { types: './index.d.ts', bun: './bun.js', default: './index.js' }, './package.json': './package.json' },
      files: ['index.js', 'index.d.ts', 'bun.js', file, ...(probe ? [probe] : []), 'THIRD-PARTY.txt'],
      preferUnplugged: true,
    },
    'index.js': `import { fileURLToPath } from 'node:url';\n\nexport const library = fileURLToPath(new URL('./${file}', import.meta.url));\n${about}`,
    // This import puts the library into what "bun build --compile" makes.
    'bun.js': `${cuda ? "import { fileURLToPath } from 'node:url';\n\n" : ''}import library from './${file}' with { type: 'file' };\n\nexport { library };\n${about}`,
    'index.d.ts':
      'export declare const library: string;\nexport declare const buildId: string;\nexport declare const glibc: string;\n' +
      `export declare const cuda: ${cuda ? '{ probe: string; oldestDriver: number; toolkit: number; architectures: number[]; ptx: number }' : 'undefined'};\n`,
    'README.md': readme(packageName(platform, cuda && 'cuda'), libraryText(platform, cuda)),
    'THIRD-PARTY.txt': thirdPartyText(thirdParties(linked)),
  });
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
}

/**
 * llama.cpp's tool.
 * @param {string} folder
 * @param {Native & { repository: string | undefined }} options
 */
export function stageTools(folder, { platform, build, portable, binutils, linked, repository }) {
  emptyFolder(folder);
  const file = `llama${platform.startsWith('win32') ? '.exe' : ''}`;
  mkdirSync(join(folder, 'bin'));
  const tool = copyNative(join(build, 'bin', file), join(folder, 'bin', file), binutils);
  if (portable) requireNone(tool, faults(tool, { glibc: oldestGlibc, binutils }));
  const name = packageName(platform, 'tools');
  write(folder, {
    'package.json': {
      ...common(repository, name, `llama.cpp's own commands for llama-duo on ${platform}`),
      license: `${manifest.license} AND Apache-2.0`,
      ...platformFields(platform),
      exports: { './package.json': './package.json' },
      files: ['bin', 'THIRD-PARTY.txt'],
      preferUnplugged: true,
    },
    'README.md': readme(name, `llama.cpp's tool with mixed heads, for \`llama-duo serve\` and llama.cpp's other commands on ${platform}.`),
    'THIRD-PARTY.txt': thirdPartyText(thirdParties(linked)),
  });
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
}

/**
 * Packs a folder, and refuses a tarball that has grown beyond what it should be.
 * @param {string} folder
 * @param {string} destination
 * @param {'cpu' | 'tools' | 'cuda'} [kind]
 */
export function pack(folder, destination, kind) {
  const list = /** @type {unknown} */ (
    JSON.parse(capture('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', destination], { cwd: folder }))
  );
  const [packed] = /** @type {{ filename: string, size: number, unpackedSize: number }[]} */ (list);
  if (!packed) throw new SetupError(`npm packed nothing in ${folder}.`);
  const { filename, size, unpackedSize } = packed;
  if (kind && size > largestTarball[kind]) {
    throw new SetupError(
      `${filename} has ${(size / 1e6).toFixed(1)} MB, and ${largestTarball[kind] / 1e6} MB is the limit (scripts/packages.mjs)`,
    );
  }
  return { file: join(destination, filename), size, unpackedSize };
}

/**
 * @param {string} platform
 * @param {string} [kind]
 */
export function packageName(platform, kind) {
  return `@llama-duo/${platform}${kind ? `-${kind}` : ''}`;
}

/** @param {string} platform */
export function libraryName(platform) {
  if (platform.startsWith('win32')) return 'llama-duo.dll';
  return platform.startsWith('darwin') ? 'libllama-duo.dylib' : 'libllama-duo.so';
}

/** What llama_duo_build_id of a library that was built from this tree says. */
export function buildId() {
  const lock = /** @type {unknown} */ (JSON.parse(readFileSync(join(root, 'vendor/llama.cpp.lock.json'), 'utf8')));
  const { patchedTree } = /** @type {{ patchedTree: string }} */ (lock);
  return `${version} ${patchedTree}`;
}

/** @param {string} platform */
function platformFields(platform) {
  const [os = '', cpu = ''] = platform.split('-');
  return { os: [os], cpu: [cpu], ...(os === 'linux' && { libc: ['glibc'] }) };
}

/**
 * Copies a library or program without what only a debugger reads.
 * @param {string} from
 * @param {string} to
 * @param {string} binutils
 */
function copyNative(from, to, binutils) {
  if (!statSync(from, { throwIfNoEntry: false })) throw new SetupError(`There is no ${from}: build it first (docs/releasing.md).`);
  copyFileSync(from, to);
  if (process.platform === 'linux') capture(`${binutils}strip`, ['--strip-unneeded', to]);
  chmodSync(to, 0o755);
  return to;
}

/**
 * @param {string} name
 * @param {string} text
 */
function readme(name, text) {
  return `# ${name}\n\n${text}\n\nIt is a part of llama-duo, and of the same version: install llama-duo, not this.\n`;
}

/**
 * @param {string} platform
 * @param {Cuda | undefined} cuda
 */
function libraryText(platform, cuda) {
  if (cuda)
    return `llama-duo's library with CUDA for ${platform}. Where it is installed it is taken, and a computer without a fit NVIDIA driver gets an error that says so.`;
  if (platform === 'linux-x64')
    return `llama-duo's library for Linux with glibc ${oldestGlibc} or later, and processors with x86-64-v2 (since 2009). AVX2, AVX-512, VNNI and AMX are used where they are.`;
  if (platform === 'linux-arm64')
    return `llama-duo's library for Linux with glibc ${oldestGlibc} or later, and 64-bit Arm processors. Products of 8-bit vectors and matrices are used where they are.`;
  return `llama-duo's library for ${platform}.`;
}
