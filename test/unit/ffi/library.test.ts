import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { describe, expect, test, vi } from 'vitest';

import { LibraryError, OptionError } from '../../../src/errors.ts';
import { findLibrary, type LibrarySearch } from '../../../src/ffi/library.ts';
import { cannotBind, cannotOpen } from '../../../src/ffi/library-errors.ts';
import type { PlatformPackage } from '../../../src/ffi/packages.ts';
import { libcOf, type System } from '../../../src/ffi/system.ts';
import { packageVersion } from '../../../src/ffi/version.ts';

const everything = (): boolean => true;
const nothing = (): boolean => false;
const build = (name: string): string => fileURLToPath(new URL(`../../../build/${name}`, import.meta.url));

const linux: System = { platform: 'linux', arch: 'x64', libc: 'glibc', cpuFlags: undefined };

/** Packages by their load: undefined for one that is not installed. */
function installed(packages: { cpu?: Partial<PlatformPackage>; cuda?: Partial<PlatformPackage> }): NonNullable<LibrarySearch['packages']> {
  const slot = (name: 'cpu' | 'cuda') => ({
    name: `@llama-duo/linux-x64${name === 'cuda' ? '-cuda' : ''}`,
    load: () => {
      const found = packages[name];
      if (!found) return Promise.reject(new Error('Cannot find package'));
      return Promise.resolve({ library: `/modules/${name}.so`, buildId: `${packageVersion} tree`, glibc: '2.31', ...found });
    },
  });
  return { 'linux-x64': { cpu: slot('cpu'), cuda: slot('cuda') } };
}

/** Where nothing is asked for, nothing is installed, and every file is there. */
const find = (search: LibrarySearch): ReturnType<typeof findLibrary> =>
  findLibrary({ environment: {}, system: linux, exists: everything, packages: installed({}), ...search });

const refusal = (search: LibrarySearch): Promise<string> =>
  find(search).then(
    ({ path }) => `found ${path}`,
    (error: unknown) => {
      expect(error).toBeInstanceOf(LibraryError);
      return (error as LibraryError).message;
    },
  );

test('the version is the one of package.json', () => {
  const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { version: string };
  expect(packageVersion).toBe(version);
});

describe('the order', () => {
  const both = installed({ cpu: {}, cuda: {} });
  const works = (): Promise<undefined> => Promise.resolve(undefined);

  test('the explicit option, LLAMA_DUO_LIBRARY, the CUDA package, the CPU package, the local build', async () => {
    const environment = { LLAMA_DUO_LIBRARY: '/named/lib.so' };
    expect(await find({ explicit: '/asked/lib.so', environment, packages: both })).toMatchObject({ path: '/asked/lib.so' });
    expect(await find({ environment, packages: both })).toMatchObject({ path: '/named/lib.so' });
    const buildId = `${packageVersion} tree`;
    expect(await find({ packages: both, whyNotCuda: works })).toEqual({
      path: '/modules/cuda.so',
      origin: '@llama-duo/linux-x64-cuda',
      buildId,
    });
    expect(await find({ packages: installed({ cpu: {} }) })).toEqual({ path: '/modules/cpu.so', origin: '@llama-duo/linux-x64', buildId });
    expect(await find({})).toEqual({ path: build('libllama-duo.so'), origin: 'the local build' });
    expect(await find({ environment: { LLAMA_DUO_LIBRARY: '' } })).toMatchObject({ path: build('libllama-duo.so') });
  });

  test('on a platform without a CUDA package its CPU package', async () => {
    const { cpu } = installed({ cpu: {} })['linux-x64'] ?? {};
    const packages = cpu ? { 'linux-arm64': { cpu } } : {};
    expect(await find({ system: { ...linux, arch: 'arm64' }, packages })).toMatchObject({ path: '/modules/cpu.so' });
  });

  test.each([
    ['darwin', 'libllama-duo.dylib'],
    ['win32', 'llama-duo.dll'],
  ] as const)('on %s the local build is %s', async (platform, name) => {
    expect(await find({ system: { ...linux, platform } })).toMatchObject({ path: build(name) });
  });

  test('a relative path is from the process’s folder', async () => {
    expect(await find({ explicit: 'lib.so' })).toMatchObject({ path: resolve('lib.so') });
  });

  test('a path that was asked for is never replaced by another', async () => {
    const exists = (path: string): boolean => path !== '/gone.so';
    expect(await refusal({ explicit: '/gone.so', exists, packages: both })).toMatch(/\/gone\.so \(the library option\)/);
    expect(await refusal({ environment: { LLAMA_DUO_LIBRARY: '/gone.so' }, exists, packages: both })).toMatch(
      /\/gone\.so \(LLAMA_DUO_LIBRARY\)/,
    );
  });
});

describe('CUDA that does not work', () => {
  const packages = installed({ cpu: {}, cuda: {} });
  const whyNotCuda = (): Promise<string> => Promise.resolve('There is no NVIDIA driver that works: none.');

  test('is an error, not the CPU', async () => {
    expect(await refusal({ packages, whyNotCuda })).toMatch(
      /linux-x64-cuda is installed and cannot be used here: There is no NVIDIA driver[^]*LLAMA_DUO_CUDA to "prefer"/,
    );
  });

  test('is the CPU and a warning where that is preferred', async () => {
    const found = await find({ packages, whyNotCuda, environment: { LLAMA_DUO_CUDA: 'prefer' } });
    expect(found.path).toBe('/modules/cpu.so');
    expect(found.warning).toMatch(/so the CPU computes: There is no NVIDIA driver/);
  });

  test('is not looked for where it is off', async () => {
    const probed = vi.fn(whyNotCuda);
    expect(await find({ packages, whyNotCuda: probed, environment: { LLAMA_DUO_CUDA: 'off' } })).not.toHaveProperty('warning');
    expect(probed).not.toHaveBeenCalled();
  });

  test('and a misspelt wish is an error', async () => {
    await expect(find({ packages, environment: { LLAMA_DUO_CUDA: 'no' } })).rejects.toThrow(OptionError);
  });
});

describe('nothing found: the error lists what was tried and what to do', () => {
  const missing = { exists: nothing };

  test('in a clone', async () => {
    const message = await refusal(missing);
    expect(message).toContain(build('libllama-duo.so'));
    expect(message).toMatch(
      /@llama-duo\/linux-x64-cuda \(the package\): not installed[^]*@llama-duo\/linux-x64 \(the package\): not installed/,
    );
    expect(message).toMatch(/npm run setup[^]*LLAMA_DUO_LIBRARY/);
  });

  test('musl, where no package is looked for', async () => {
    const message = await refusal({ ...missing, system: { ...linux, libc: 'musl' }, packages: installed({ cpu: {} }) });
    expect(message).toMatch(/need glibc, and this system has musl \(as Alpine does\)[^]*npm run setup/);
  });

  test('a platform without packages', async () => {
    const message = await refusal({ ...missing, system: { ...linux, platform: 'freebsd' }, packages: installed({ cpu: {} }) });
    expect(message).toMatch(/not found for freebsd-x64[^]*There is no package for freebsd-x64 \(there are: linux-x64/);
  });
});

describe('a package that cannot be used', () => {
  test('of another version', async () => {
    const message = await refusal({ packages: installed({ cpu: { buildId: '0.0.9 tree' } }) });
    expect(message).toMatch(/linux-x64 is version 0\.0\.9, and llama-duo is .*must be the same[^]*npm install @llama-duo\/linux-x64@/);
  });

  test('without its library, as after bundling', async () => {
    const exists = (path: string): boolean => path !== '/modules/cpu.so';
    expect(await refusal({ packages: installed({ cpu: {} }), exists })).toMatch(
      /there is no \/modules\/cpu\.so[^]*--external:@llama-duo[^]*asarUnpack/,
    );
  });

  test('on an old processor', async () => {
    const cpuFlags = new Set('fpu sse sse2 pni ssse3 cx16 lahf_lm'.split(' ')); // Core 2
    const message = await refusal({ packages: installed({ cpu: {} }), system: { ...linux, cpuFlags } });
    expect(message).toMatch(/needs a processor with x86-64-v2.*lacks popcnt, sse4_1, sse4_2/);
  });
});

test('the C library is told by a program’s loader', () => {
  expect(libcOf('/nowhere')).toBeUndefined();
  expect(libcOf(import.meta.filename)).toBeUndefined();
  if (process.platform === 'linux') expect(libcOf(process.execPath)).toMatch(/^(glibc|musl)$/);
});

test('without koffi: what it is for, and how to get it', async () => {
  vi.doMock('koffi', () => {
    throw new Error("Cannot find package 'koffi'");
  });
  const { bind } = await import('../../../src/ffi/koffi.ts');
  const bound = bind('/a/lib.so');
  await expect(bound).rejects.toThrow(LibraryError);
  await expect(bound).rejects.toThrow(/koffi.* on Node, could not be loaded: [^]*npm install koffi/);
  vi.doUnmock('koffi');
});

test('what fails on Bun and Deno is not put on koffi', () => {
  const error = cannotBind('What calls the llama-duo library on this runtime', new Error("Cannot find module './bun.js'"), [
    '- Install it again.',
  ]);
  expect(error).toBeInstanceOf(LibraryError);
  expect(error.message).toMatch(/on this runtime could not be loaded: Cannot find module '\.\/bun\.js'[^]*- Install it again/);
  expect(error.message).not.toContain('koffi');
});

test.each([
  ["version `GLIBC_2.38' not found", /newer C library.*glibc 2\.31/],
  ['invalid ELF header', /another system or processor/],
  ['Error relocating /a/lib.so: __printf_chk: symbol not found', /built for glibc, and this system has musl/],
  ['Error loading shared library libgomp.so.1: No such file or directory (needed by /a/lib.so)', /musl/],
  ['undefined symbol: llama_duo_generate', /another version of llama-duo.*npm run setup/],
  ['Requires ffi access, run again with the --allow-ffi flag', /Deno needs --allow-ffi/],
  ['libgomp.so.1: cannot open shared object file', /ldd/],
])('a library that cannot be opened (%s) says what to do', (reason, advice) => {
  const error = cannotOpen('/a/lib.so', new Error(reason));
  expect(error).toMatchObject({ code: 'library', cause: { message: reason } });
  expect(error.message).toContain('/a/lib.so');
  expect(error.message).toMatch(advice);
});
