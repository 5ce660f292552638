// Builds and packs everything that is published, into build/packages:
//
//   node scripts/pack.mjs [--local] [--no-tools] [--cuda FOLDER] [--repository OWNER/NAME] [--out FOLDER]
//
//   --local       the local build (build/) instead of one for other computers: quick, for tests
//   --no-tools    without llama.cpp's tool
//   --cuda        also the CUDA package, from a folder that `scripts/build-cuda.sh` built
//   --repository  what the packages name as their source; GITHUB_REPOSITORY where that is set
//   --out         where the tarballs go
//
// docs/releasing.md has the rest of a release.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { buildInDebian, linkedInDebian, portableBuild } from './debian-root.mjs';
import { requireNone, variantFaults } from './native-checks.mjs';
import { pack, stageLibrary, stageMain, stageTools } from './packages.mjs';
import { root } from './places.mjs';
import { passThrough, runMain, SetupError } from './tools.mjs';

/** @param {string} message */
const say = (message) => console.error(`pack: ${message}`);

function main() {
  const { local = false, 'no-tools': noTools = false, cuda, repository = process.env['GITHUB_REPOSITORY'], out } = parseOptions();
  const platform = `${process.platform}-${process.arch}`;
  const portable = !local;
  // macOS and Windows build for other computers by themselves, with their preset.
  const inDebian = portable && platform === 'linux-x64';
  const targets = ['llama-duo', ...(noTools ? [] : ['llama-app'])];

  passThrough(process.execPath, ['scripts/setup.mjs', '--only', 'npm', '--only', 'vendor', '--only', 'typescript'], { cwd: root });
  let build = join(root, 'build');
  if (local) {
    passThrough(process.execPath, ['scripts/setup.mjs', '--only', 'native', ...targets.flatMap((target) => ['--target', target])], {
      cwd: root,
    });
  } else {
    build = portableBuild;
    if (inDebian) {
      buildInDebian(targets, say);
      requireNone(build, variantFaults(build));
    } else {
      passThrough('cmake', ['--preset', `package-${platform}`], { cwd: root });
      passThrough('cmake', ['--build', build, '--parallel', '--config', 'Release', '--target', ...targets], { cwd: root });
    }
  }
  const linked = inDebian ? linkedInDebian() : {};

  const packages = out ? resolve(out) : join(root, 'build/packages');
  mkdirSync(packages, { recursive: true });
  /** @param {string} name */
  const folder = (name) => join(packages, name);
  stageMain(folder('llama-duo'), { repository, platforms: [platform] });
  stageLibrary(folder(platform), { platform, build, portable, linked, repository });
  const tarballs = [pack(folder('llama-duo'), packages), pack(folder(platform), packages, 'cpu')];
  if (!noTools) {
    stageTools(folder(`${platform}-tools`), { platform, build, portable, linked, repository });
    tarballs.push(pack(folder(`${platform}-tools`), packages, 'tools'));
  }
  if (cuda !== undefined) {
    const description = join(cuda, 'cuda-package.json');
    if (!existsSync(description)) throw new SetupError(`There is no ${description}: scripts/build-cuda.sh writes it.`);
    const described = /** @type {unknown} */ (JSON.parse(readFileSync(description, 'utf8')));
    const { licence, ...about } = /** @type {import('./packages.mjs').Cuda & { licence: string }} */ (described);
    stageLibrary(folder(`${platform}-cuda`), {
      platform,
      build: cuda,
      portable,
      linked: { ...linked, cuda: licence },
      repository,
      cuda: about,
    });
    tarballs.push(pack(folder(`${platform}-cuda`), packages, 'cuda'));
  }
  writeFileSync(join(packages, 'tarballs.json'), JSON.stringify(tarballs.map(({ file }) => file)));
  for (const { file, size, unpackedSize } of tarballs) {
    console.log(`${file}  ${(size / 1e6).toFixed(2)} MB, ${(unpackedSize / 1e6).toFixed(2)} MB unpacked`);
  }
  if (repository === undefined) say('without --repository the packages name no source, and npm publishes none of these with provenance');
}

function parseOptions() {
  try {
    return parseArgs({
      options: {
        local: { type: 'boolean' },
        'no-tools': { type: 'boolean' },
        cuda: { type: 'string' },
        repository: { type: 'string' },
        out: { type: 'string' },
      },
    }).values;
  } catch (error) {
    throw new SetupError(/** @type {Error} */ (error).message);
  }
}

runMain(main);
