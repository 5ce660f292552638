import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { expect, test, vi } from 'vitest';

import { LibraryError } from '../../../src/errors.ts';
import { cannotBind, cannotOpen, findLibrary } from '../../../src/ffi/library.ts';

const everything = (): boolean => true;
const nothing = (): boolean => false;
const build = (name: string): string => fileURLToPath(new URL(`../../../build/${name}`, import.meta.url));

test('the explicit option comes first, then LLAMA_DUO_LIBRARY, then the local build', () => {
  const environment = { LLAMA_DUO_LIBRARY: '/named/lib.so' };
  expect(findLibrary({ explicit: '/asked/lib.so', environment, exists: everything })).toBe('/asked/lib.so');
  expect(findLibrary({ environment, exists: everything })).toBe('/named/lib.so');
  expect(findLibrary({ environment: {}, exists: everything, platform: 'linux' })).toBe(build('libllama-duo.so'));
  expect(findLibrary({ environment: { LLAMA_DUO_LIBRARY: '' }, exists: everything, platform: 'linux' })).toBe(build('libllama-duo.so'));
});

test.each([
  ['darwin', 'libllama-duo.dylib'],
  ['win32', 'llama-duo.dll'],
] as const)('on %s the local build is %s', (platform, name) => {
  expect(findLibrary({ environment: {}, exists: everything, platform })).toBe(build(name));
});

test('a relative path is from the process’s folder', () => {
  expect(findLibrary({ explicit: 'lib.so', exists: everything })).toBe(resolve('lib.so'));
});

test('nothing found: the error lists what was tried and what to do', () => {
  const find = (): string => findLibrary({ environment: {}, exists: nothing, platform: 'linux' });
  expect(find).toThrow(LibraryError);
  expect(find).toThrow(build('libllama-duo.so'));
  expect(find).toThrow(/npm run setup[^]*LLAMA_DUO_LIBRARY/);
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

test('a path that was asked for is never replaced by another', () => {
  const onlyTheBuild = (path: string): boolean => path.includes('/build/');
  expect(() => findLibrary({ explicit: '/gone.so', environment: {}, exists: onlyTheBuild })).toThrow(/\/gone\.so \(the library option\)/);
  const environment = { LLAMA_DUO_LIBRARY: '/gone.so' };
  expect(() => findLibrary({ environment, exists: onlyTheBuild })).toThrow(/\/gone\.so \(LLAMA_DUO_LIBRARY\)/);
});

test.each([
  ["version `GLIBC_2.38' not found", /newer C library/],
  ['invalid ELF header', /another system or processor/],
  ['Error relocating /a/lib.so: __printf_chk: symbol not found', /built for glibc, and this system has musl/],
  ['Error loading shared library libgomp.so.1: No such file or directory (needed by /a/lib.so)', /musl/],
  ['undefined symbol: llama_duo_generate', /another version of llama-duo/],
  ['Requires ffi access, run again with the --allow-ffi flag', /Deno needs --allow-ffi/],
  ['libgomp.so.1: cannot open shared object file', /ldd/],
])('a library that cannot be opened (%s) says what to do', (reason, advice) => {
  const error = cannotOpen('/a/lib.so', new Error(reason));
  expect(error).toMatchObject({ code: 'library', cause: { message: reason } });
  expect(error.message).toContain('/a/lib.so');
  expect(error.message).toMatch(advice);
});
