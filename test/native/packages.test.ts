import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { findLibrary } from '../../src/ffi/library.ts';
import { expectAlike, Packages, results } from '../packages.ts';

// What is published, around the library that was built here: one install, by npm, where there is no compiler. test/model/packaging.test.ts has the other package
// managers and what is made of an installed package.
const linux = process.platform === 'linux';

describe.runIf(linux && process.versions['bun'] === undefined && !('Deno' in globalThis))('npm install llama-duo', () => {
  let packages: Packages;
  let folder: string;
  beforeAll(async () => {
    packages = await Packages.make();
    folder = packages.project();
    await packages.run(folder, 'npm', ['install', '--no-audit', '--no-fund', 'llama-duo']);
  }, 600_000);
  afterAll(() => packages.close());

  test('brings the library of this platform, and what calls it', () => {
    const platform = `${process.platform}-${process.arch}`;
    expect(readdirSync(join(folder, 'node_modules/@llama-duo'))).toEqual([platform]);
    expect(readdirSync(join(folder, 'node_modules/@llama-duo', platform)).sort()).toEqual(
      ['LICENSE', 'README.md', 'THIRD-PARTY.txt', 'bun.js', 'index.d.ts', 'index.js', 'libllama-duo.so', 'package.json'].sort(),
    );
    expect(statSync(join(folder, 'node_modules/koffi/package.json')).isFile()).toBe(true);
  });

  test('README’s first program runs', { timeout: 120_000 }, async () => {
    expect((await packages.run(folder, 'node', ['first.js'])).length).toBeGreaterThan(20);
  });

  test('results are those of the local build', { timeout: 240_000 }, async () => {
    const installed = await packages.run(folder, 'node', ['compare.js']);
    const local = await packages.run(folder, 'node', ['compare.js'], { LLAMA_DUO_LIBRARY: (await findLibrary()).path });
    expectAlike(installed, results(local));
  });
});
