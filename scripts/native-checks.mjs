// What a library or a tool must be to run elsewhere: which version of the C library it needs, what else it needs, and what it shows to the process that it is loaded into.

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { capture, SetupError } from './tools.mjs';

/** What every glibc system has. */
const systemLibraries = /^(lib(c|m|dl|rt|pthread)\.so\.\d|ld-linux-.*\.so\.\d)$/;

/** What only the CUDA package may need beside those: the driver's library, and cuBLAS, which comes with the system's CUDA. */
const cudaLibraries = /^lib(cuda|cublas|cublasLt)\.so\.\d+$/;

/**
 * What a file needs, as its dynamic section says.
 * @param {string} file
 * @param {string} [binutils] what the names of binutils begin with that read it
 */
export function requirements(file, binutils = '') {
  const text = capture(`${binutils}objdump`, ['-p', file]);
  const libraries = [...text.matchAll(/^\s+NEEDED\s+(\S+)/gm)].map(([, name = '']) => name);
  const folders = [...text.matchAll(/^\s+(?:RPATH|RUNPATH)\s+(\S+)/gm)].map(([, name = '']) => name);
  const versions = [...text.matchAll(/\s(GLIBC|GLIBCXX|CXXABI|GCC|OPENSSL)_(\d[\d.]*)$/gm)].map(([, family = '', version = '']) => ({
    family,
    version,
  }));
  const glibc = versions.filter(({ family }) => family === 'GLIBC').map(({ version }) => version);
  return { libraries, folders, families: new Set(versions.map(({ family }) => family)), glibc: glibc.sort(compareVersions).at(-1) ?? '0' };
}

/**
 * What a library shows to others.
 * @param {string} file
 * @param {string} [binutils]
 */
export function exportedSymbols(file, binutils = '') {
  return capture(`${binutils}nm`, ['-D', '--defined-only', file])
    .split('\n')
    .filter(Boolean)
    .map((line) => (line.split(' ').at(-1) ?? '').replace(/@.*$/, ''));
}

/**
 * What is wrong with a file that a package is to hold.
 * @param {string} file
 * @param {{ glibc: string, cuda?: boolean, library?: boolean, binutils?: string }} limits the newest glibc it may need; whether it is a library, which must show the ABI alone
 * @returns {string[]}
 */
export function faults(file, { glibc, cuda = false, library = false, binutils = '' }) {
  const { libraries, folders, families, glibc: needed } = requirements(file, binutils);
  const others = libraries.filter((name) => !systemLibraries.test(name) && !(cuda && cudaLibraries.test(name)));
  const wrong = [];
  if (others.length > 0) wrong.push(`it needs ${others.join(', ')}, which not every system has`);
  if (folders.length > 0) wrong.push(`it looks for libraries in ${folders.join(', ')}`);
  if (compareVersions(needed, glibc) > 0) wrong.push(`it needs glibc ${needed}, and packages promise ${glibc}`);
  for (const family of ['GLIBCXX', 'CXXABI', 'OPENSSL'])
    if (families.has(family)) wrong.push(`it takes symbols of ${family} from the system`);
  if (library) {
    const leaked = exportedSymbols(file, binutils).filter((name) => !name.startsWith('llama_duo_'));
    if (leaked.length > 0) wrong.push(`it shows ${leaked.length} symbols beside its own: ${leaked.slice(0, 5).join(', ')}`);
  }
  return wrong;
}

/**
 * What is wrong with the variants of the CPU backend: code of theirs that runs when the library is loaded, before one of them is chosen, would end the process of an
 * older processor; and a function that they share would be one variant's.
 * @param {string} build
 * @param {string} [binutils]
 * @returns {string[]}
 */
export function variantFaults(build, binutils = '') {
  const objects = readdirSync(build).filter((name) => /^ggml-cpu-.*\.o$/.test(name));
  if (objects.length === 0) return [`there are no variants of the CPU backend in ${build}`];
  return objects.flatMap((name) => {
    const file = join(build, name);
    const wrong = [];
    if (/\s\.(init_array|ctors)\b/.test(capture(`${binutils}objdump`, ['-h', file])))
      wrong.push(`${name} has code that runs when it is loaded`);
    const shown = capture(`${binutils}nm`, ['--defined-only', '--extern-only', file])
      .split('\n')
      .map((line) => line.split(' ').at(-1) ?? '');
    const variant = name.slice('ggml-cpu-'.length, -'.o'.length);
    const others = shown.filter((symbol) => symbol !== '' && !symbol.endsWith(`_${variant}`));
    if (others.length > 0) wrong.push(`${name} shares ${others.length} symbols with the others: ${others.slice(0, 5).join(', ')}`);
    return wrong;
  });
}

/**
 * @param {string} file
 * @param {string[]} wrong
 */
export function requireNone(file, wrong) {
  if (wrong.length > 0) throw new SetupError(`${file} cannot be packed:\n${wrong.map((fault) => `- ${fault}`).join('\n')}`);
}

/**
 * @param {string} a
 * @param {string} b
 */
export function compareVersions(a, b) {
  return a.localeCompare(b, 'en', { numeric: true });
}
