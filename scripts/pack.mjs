// Builds and packs everything that is published, into build/packages:
//
//   node scripts/pack.mjs [--platform PLATFORM] [--local] [--no-tools] [--cuda] [--repository OWNER/NAME] [--out FOLDER]
//
//   --platform    linux-x64 or linux-arm64, as often as wanted (default on linux-x64: both; elsewhere this computer's own)
//   --local       the local build (build/) instead of one for other computers: quick, for tests
//   --no-tools    without llama.cpp's tool
//   --cuda        also the CUDA package of linux-x64, which takes about five hours of one core to compile
//   --repository  what the packages name as their source; GITHUB_REPOSITORY where that is set
//   --out         where the tarballs go
//
// docs/releasing.md has the rest of a release.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import {
  binutilsPrefix,
  buildCudaInDebian,
  buildInDebian,
  cudaVersion,
  debianPlatforms,
  linkedInDebian,
  portableBuild,
  portableCudaBuild,
} from './debian-root.mjs';
import { requireNone, variantFaults } from './native-checks.mjs';
import { describeCuda, pack, stageLibrary, stageMain, stageTools } from './packages.mjs';
import { root } from './places.mjs';
import { passThrough, requireTools, runMain, SetupError } from './tools.mjs';

/** @param {string} message */
const say = (message) => console.error(`pack: ${message}`);

function main() {
  const {
    local = false,
    'no-tools': noTools = false,
    cuda = false,
    repository = process.env['GITHUB_REPOSITORY'],
    out,
    ...asked
  } = parseOptions();
  const here = `${process.platform}-${process.arch}`;
  const possible = !local && here === 'linux-x64' ? debianPlatforms : [here];
  const platforms = asked.platform ?? possible;
  const unknown = platforms.find((platform) => !possible.includes(platform));
  if (unknown !== undefined) throw new SetupError(`--platform is ${unknown}: expected ${possible.join(' or ')}.`);
  if (cuda && (local || !platforms.includes('linux-x64'))) throw new SetupError('--cuda is for linux-x64, and never of the local build.');
  const targets = ['llama-duo', ...(noTools ? [] : ['llama-app'])];
  const packages = out ? resolve(out) : join(root, 'build/packages');
  mkdirSync(packages, { recursive: true });
  /** @param {string} name */
  const folder = (name) => join(packages, name);

  passThrough(process.execPath, ['scripts/setup.mjs', '--only', 'npm', '--only', 'vendor', '--only', 'typescript'], { cwd: root });
  stageMain(folder('llama-duo'), { repository, platforms });
  const tarballs = [pack(folder('llama-duo'), packages)];
  for (const platform of platforms) {
    const native = local ? buildHere(platform, targets) : buildForOthers(platform, targets);
    stageLibrary(folder(platform), { ...native, repository });
    tarballs.push(pack(folder(platform), packages, 'cpu'));
    if (!noTools) {
      stageTools(folder(`${platform}-tools`), { ...native, repository });
      tarballs.push(pack(folder(`${platform}-tools`), packages, 'tools'));
    }
    if (cuda && platform === 'linux-x64') {
      stageLibrary(folder(`${platform}-cuda`), { ...buildCuda(), repository });
      tarballs.push(pack(folder(`${platform}-cuda`), packages, 'cuda'));
    }
  }
  writeFileSync(join(packages, 'tarballs.json'), JSON.stringify(tarballs.map(({ file }) => file)));
  for (const { file, size, unpackedSize } of tarballs) {
    console.log(`${file}  ${(size / 1e6).toFixed(2)} MB, ${(unpackedSize / 1e6).toFixed(2)} MB unpacked`);
  }
  if (repository === undefined) say('without --repository the packages name no source, and npm publishes none of these with provenance');
}

/**
 * @typedef {import('./packages.mjs').Native} Native
 *
 * @param {string} platform
 * @param {string[]} targets
 * @returns {Native}
 */
function buildHere(platform, targets) {
  passThrough(process.execPath, ['scripts/setup.mjs', '--only', 'native', ...targets.flatMap((target) => ['--target', target])], {
    cwd: root,
  });
  return { platform, build: join(root, 'build'), portable: false, binutils: '', linked: {} };
}

/**
 * @param {string} platform
 * @param {string[]} targets
 * @returns {Native}
 */
function buildForOthers(platform, targets) {
  if (debianPlatforms.includes(platform)) {
    const build = portableBuild(platform);
    const binutils = binutilsPrefix(platform);
    if (binutils) requireTools([`${binutils}objdump`, `${binutils}nm`, `${binutils}strip`]);
    buildInDebian(platform, targets, say);
    requireNone(build, variantFaults(build, binutils));
    return { platform, build, portable: true, binutils, linked: linkedInDebian(platform) };
  }
  // macOS and Windows build for other computers by themselves, with their preset.
  const build = join(root, 'build-package');
  passThrough('cmake', ['--preset', `package-${platform}`], { cwd: root });
  passThrough('cmake', ['--build', build, '--parallel', '--config', 'Release', '--target', ...targets], { cwd: root });
  return { platform, build, portable: true, binutils: '', linked: {} };
}

/** The library of linux-x64 with CUDA. */
function buildCuda() {
  buildCudaInDebian(say);
  requireNone(portableCudaBuild, variantFaults(portableCudaBuild));
  const linked = linkedInDebian('linux-x64', { cuda: true });
  return { platform: 'linux-x64', build: portableCudaBuild, portable: true, binutils: '', linked, cuda: describeCuda(cudaVersion) };
}

function parseOptions() {
  try {
    return parseArgs({
      options: {
        platform: { type: 'string', multiple: true },
        local: { type: 'boolean' },
        'no-tools': { type: 'boolean' },
        cuda: { type: 'boolean' },
        repository: { type: 'string' },
        out: { type: 'string' },
      },
    }).values;
  } catch (error) {
    throw new SetupError(/** @type {Error} */ (error).message);
  }
}

runMain(main);
