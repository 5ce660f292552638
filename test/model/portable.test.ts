import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { captureInDebian, hasDebian } from '../../scripts/debian-root.mjs';
import { faults, variantFaults } from '../../scripts/native-checks.mjs';
import { oldestGlibc } from '../../scripts/packages.mjs';
import { root, runtimePrograms } from '../../scripts/places.mjs';
import { Packages } from '../packages.ts';

// What only the packages for other computers can show (sudo npm run pack): LLAMA_DUO_PACKAGES names them.
const packed = process.env['LLAMA_DUO_PACKAGES'];
const hour = 3_600_000;

describe.runIf(packed !== undefined)('packages for other computers', () => {
  let packages: Packages;
  let folder: string;
  let library: string;
  let tool: string;
  let reference: number[][];
  beforeAll(async () => {
    packages = await Packages.make();
    folder = packages.project();
    await packages.run(folder, 'npm', ['install', '--no-audit', '--no-fund', 'llama-duo', '@llama-duo/linux-x64-tools']);
    library = join(folder, 'node_modules/@llama-duo/linux-x64/libllama-duo.so');
    tool = join(folder, 'node_modules/@llama-duo/linux-x64-tools/bin/llama');
    reference = tokens(await packages.run(folder, 'node', ['compare.js']));
  }, hour);
  afterAll(() => packages.close());

  const tokens = (printed: string): number[][] =>
    (JSON.parse(printed) as { results: { tokens: number[] }[] }).results.map((result) => result.tokens);
  const simd = (printed: string): string[] => (JSON.parse(printed) as { simd: string[] }).simd;

  test(`need no glibc beyond ${oldestGlibc}, nothing beside it, and show nothing of what is inside`, () => {
    expect(faults(library, { glibc: oldestGlibc, library: true })).toEqual([]);
    expect(faults(tool, { glibc: oldestGlibc })).toEqual([]);
  });

  test('a file that needs more is found out', () => {
    expect(faults(library, { glibc: '2.2.5', library: true }).join()).toMatch(/needs glibc 2\.\d+, and packages promise 2\.2\.5/);
    expect(faults(process.execPath, { glibc: '2.2.5', library: true }).join()).toMatch(/symbols beside its own/);
  });

  test.runIf(existsSync(join(root, 'build-package')))('no variant of the CPU backend shares a symbol or runs before it is chosen', () => {
    expect(variantFaults(join(root, 'build-package'))).toEqual([]);
  });

  test.each([
    ['x86_64_v2', 'SSSE3', 'AVX'],
    ['haswell', 'AVX2', 'AVX512'],
    ['skylakex', 'AVX512', 'AVX512_VNNI'],
    ['cascadelake', 'AVX512_VNNI', 'AVX512_VBMI'],
    ['icelake', 'AVX512_VBMI', 'AVX512_BF16'],
    ['zen4', 'AVX512_BF16', 'AMX_INT8'],
    ['alderlake', 'AVX_VNNI', 'AVX512'],
    ['sapphirerapids', 'AMX_INT8', undefined],
  ])('the variant %s has %s, not %s, and gives the same tokens', { timeout: hour }, async (variant, has, hasNot) => {
    const printed = await packages.run(folder, 'node', ['compare.js'], { LLAMA_DUO_CPU: variant });
    if (!simd(printed).includes(has)) {
      // The processor lacks it: then it is not what runs.
      expect(readFileSync('/proc/cpuinfo', 'utf8')).not.toContain(has.toLowerCase().replace('avx512', 'avx512f'));
      return;
    }
    if (hasNot !== undefined) expect(simd(printed)).not.toContain(hasNot);
    expect(tokens(printed)).toEqual(reference);
  });

  // An instruction that the emulated processor has not ends the program.
  test.runIf(spawnSync('qemu-x86_64', ['--version']).status === 0).each([['Nehalem'], ['Haswell']])(
    'llama.cpp’s tool runs on an emulated %s',
    { timeout: hour },
    (cpu) => {
      const args = [
        'completion',
        '-m',
        'model.gguf',
        '-p',
        'Once',
        '-n',
        '4',
        '-t',
        '1',
        '-c',
        '256',
        '--duo-sparsity',
        '1',
        '-no-cnv',
        '--no-warmup',
      ];
      const { status, stderr } = spawnSync('qemu-x86_64', ['-cpu', cpu, tool, ...args], { cwd: folder, encoding: 'utf8' });
      expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' });
    },
  );

  test.runIf(hasDebian())('run on Debian 11, with glibc 2.31', { timeout: hour }, () => {
    const inside = join(root, 'build/debian-11-project');
    rmSync(inside, { recursive: true, force: true });
    mkdirSync(inside, { recursive: true });
    cpSync(folder, inside, { recursive: true });
    const node = runtimePrograms.node24;
    expect(captureInDebian('ldd --version')).toContain('2.31');
    expect(tokens(captureInDebian(`cd ${inside} && ${node} compare.js`))).toEqual(reference);
    expect(captureInDebian(`cd ${inside} && ${runtimePrograms.bun} first.js`).length).toBeGreaterThan(20);
    expect(captureInDebian(`${inside}/node_modules/@llama-duo/linux-x64-tools/bin/llama version`)).toMatch(/\d/);
  });

  test('llama-duo finds the tool in its package', { timeout: hour }, async () => {
    expect(await packages.run(folder, 'node', ['node_modules/llama-duo/dist/cli/main.js', 'help'])).toMatch(/serve[^]*bench/);
  });

  test('the tool’s package has llama.cpp’s licence, and those of all that is linked in', () => {
    const text = readFileSync(join(folder, 'node_modules/@llama-duo/linux-x64-tools/THIRD-PARTY.txt'), 'utf8');
    for (const name of ['llama.cpp and ggml', 'cpp-httplib', 'JSON for Modern C++', 'OpenSSL 3', 'GCC-exception'])
      expect(text).toContain(name);
    expect(execFileSync('strings', ['-n', '12', tool], { encoding: 'utf8', maxBuffer: 1 << 28 })).toMatch(/OpenSSL 3\.\d/);
  });
});
