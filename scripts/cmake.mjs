// Configuring and building with CMake: Ninja and ccache where they are there.

import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { root } from './places.mjs';
import { has, passThrough } from './tools.mjs';

/** With these ccache finds what another clone compiled: paths count from the root. */
const env = { ...process.env, CCACHE_BASEDIR: root, CCACHE_NOHASHDIR: '1' };

/**
 * Configures a build folder, unless it is already.
 * @param {string} source
 * @param {string} build
 * @param {string[]} [options]
 */
export function configure(source, build, options = []) {
  if (['build.ninja', 'Makefile'].some((file) => existsSync(join(build, file)))) return;
  const generator = has('ninja') ? ['-G', 'Ninja'] : [];
  const launchers = has('ccache') ? ['C', 'CXX'].map((language) => `-DCMAKE_${language}_COMPILER_LAUNCHER=ccache`) : [];
  passThrough('cmake', ['-S', source, '-B', build, '-DCMAKE_BUILD_TYPE=Release', ...generator, ...launchers, ...options], { env });
}

/**
 * @param {string} build
 * @param {string[]} targets
 */
export function buildTargets(build, targets) {
  passThrough('cmake', ['--build', build, '--parallel', String(availableParallelism()), '--target', ...targets], { env });
}
