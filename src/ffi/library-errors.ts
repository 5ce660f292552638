import { existsSync } from 'node:fs';

import { LibraryError } from '../errors.ts';
import { machineOf } from './system.ts';
import { packageVersion } from './version.ts';

/** The environment variable that names the library. */
export const libraryVariable = 'LLAMA_DUO_LIBRARY';

/** This file lies two folders below the package's root, as source in src/ffi and compiled in dist/ffi. */
export const packageRoot = new URL('../../', import.meta.url);

/** Whether this is a clone, which can build, and not an installed package. */
export function inRepository(): boolean {
  return existsSync(new URL('scripts/setup.mjs', packageRoot));
}

/** How to build, for those who have a package and not the repository. */
export const buildAdvice = `clone llama-duo's repository, run "npm run setup" in it, and name build/libllama-duo.so in ${libraryVariable}`;

/** What to do about a library of another version. */
function rebuildAdvice(): string {
  return inRepository()
    ? 'It was built from another version of llama-duo: build it again with "npm run setup".'
    : `It is of another version of llama-duo: install the packages again, all of version ${packageVersion}.`;
}

/** An error for a library that is there and cannot be opened. */
export function cannotOpen(path: string, cause: unknown): LibraryError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const advice: string[] = [];
  if (/GLIBC|GLIBCXX/.test(reason)) {
    advice.push(`- It was built for a newer C library than this system has (packages need glibc 2.31): ${buildAdvice}.`);
  } else if (/^Error (relocating|loading shared library)\b/m.test(reason)) {
    // These are musl's words; glibc has others for what is missing.
    advice.push(`- It was built for glibc, and this system has musl (as Alpine does): ${buildAdvice}.`);
  } else if (otherProcessor(path) || /wrong ELF class|invalid ELF header|mach-o|incompatible architecture/i.test(reason)) {
    advice.push(`- It was built for another system or processor than ${process.platform}-${process.arch}: ${buildAdvice}.`);
  } else if (/undefined symbol|symbol.*not found|llama_duo_/i.test(reason)) {
    advice.push(`- ${rebuildAdvice()}`);
  } else if (/NotCapable|--allow-ffi/.test(`${cause instanceof Error ? cause.name : ''} ${reason}`)) {
    advice.push('- Deno needs --allow-ffi (and --allow-read, --allow-env) to open it.');
  } else {
    advice.push('- Look with "ldd" (macOS: "otool -L") for a system library that is missing.');
  }
  return new LibraryError([`The llama-duo library ${path} could not be opened: ${reason}`, 'Possible solutions:', ...advice].join('\n'), {
    cause,
  });
}

/** Whether a file is for another processor: glibc says of such a one that there is no such file. */
function otherProcessor(path: string): boolean {
  const machine = machineOf(path);
  return machine !== undefined && machine !== process.arch;
}

/** The error for what calls the library, where it cannot be loaded itself: it is none of the library's. */
export function cannotBind(what: string, cause: unknown, solutions: readonly string[]): LibraryError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new LibraryError([`${what} could not be loaded: ${reason}`, 'Possible solutions:', ...solutions].join('\n'), { cause });
}

/** The error for a library of another build than its package, or of another version than this one. */
export function otherBuild(path: string, expected: string, found: string): LibraryError {
  return new LibraryError(
    [
      `The llama-duo library ${path} is of another build: it says "${found}", and "${expected}" was expected.`,
      'Possible solutions:',
      `- ${rebuildAdvice()}`,
    ].join('\n'),
  );
}
