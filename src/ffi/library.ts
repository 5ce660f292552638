import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { LibraryError } from '../errors.ts';

/** The environment variable that names the library. */
export const libraryVariable = 'LLAMA_DUO_LIBRARY';

/** Where to look, replaceable so that tests need no files. */
export type LibrarySearch = {
  /** The `library` option of the public functions. */
  explicit?: string | undefined;
  environment?: Readonly<Record<string, string | undefined>>;
  platform?: NodeJS.Platform;
  exists?: (path: string) => boolean;
};

/**
 * Finds the shared library: the explicit option, then LLAMA_DUO_LIBRARY, then the build in this package's folder. A path that was asked for
 * and isn't there is an error, never a reason to take another.
 *
 * @returns an absolute path: Deno resolves relative ones differently
 * @throws LibraryError that lists what was tried and what to do
 */
export function findLibrary(search: LibrarySearch = {}): string {
  const { explicit, environment = process.env, platform = process.platform, exists = existsSync } = search;
  const candidates: { path: string; origin: string }[] = [];
  const named = environment[libraryVariable];
  if (explicit !== undefined) candidates.push({ path: resolve(explicit), origin: 'the library option' });
  else if (named) candidates.push({ path: resolve(named), origin: libraryVariable });
  else candidates.push({ path: localBuild(platform), origin: 'the local build' });

  const found = candidates.find(({ path }) => exists(path));
  if (found) return found.path;

  const tried = candidates.map(({ path, origin }) => `  ${path} (${origin}): no such file`);
  throw new LibraryError(
    [`The llama-duo library was not found for ${platform}-${process.arch}.`, 'Tried:', ...tried, ...solutions(explicit ?? named)].join(
      '\n',
    ),
  );
}

/** An error for a library that is there and cannot be opened. */
export function cannotOpen(path: string, cause: unknown): LibraryError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const advice: string[] = [];
  if (/GLIBC|GLIBCXX/.test(reason)) {
    advice.push('- It was built against a newer C library than this system has: build it here with "npm run setup".');
  } else if (/^Error (relocating|loading shared library)\b/m.test(reason)) {
    // These are musl's words; glibc has others for what is missing.
    advice.push('- It was built for glibc, and this system has musl (as Alpine does): build it here with "npm run setup".');
  } else if (/wrong ELF class|invalid ELF header|mach-o|incompatible architecture/i.test(reason)) {
    advice.push(
      `- It was built for another system or processor than ${process.platform}-${process.arch}: build it here with "npm run setup".`,
    );
  } else if (/undefined symbol|symbol.*not found|llama_duo_/i.test(reason)) {
    advice.push('- It was built from another version of llama-duo: build it again with "npm run setup".');
  } else if (/NotCapable|--allow-ffi/.test(`${cause instanceof Error ? cause.name : ''} ${reason}`)) {
    advice.push('- Deno needs --allow-ffi (and --allow-read, --allow-env) to open it.');
  } else {
    advice.push('- Look with "ldd" (macOS: "otool -L") for a system library that is missing.');
  }
  return new LibraryError([`The llama-duo library ${path} could not be opened: ${reason}`, 'Possible solutions:', ...advice].join('\n'), {
    cause,
  });
}

/** The error for what calls the library, where it cannot be loaded itself: it is none of the library's. */
export function cannotBind(what: string, cause: unknown, solutions: readonly string[]): LibraryError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new LibraryError([`${what} could not be loaded: ${reason}`, 'Possible solutions:', ...solutions].join('\n'), { cause });
}

/** This file lies two folders below the package's root, as source in src/ffi and compiled in dist/ffi. */
function localBuild(platform: NodeJS.Platform): string {
  const name = platform === 'win32' ? 'llama-duo.dll' : platform === 'darwin' ? 'libllama-duo.dylib' : 'libllama-duo.so';
  return fileURLToPath(new URL(`../../build/${name}`, import.meta.url));
}

function solutions(asked: string | undefined): string[] {
  if (asked) return ['Possible solutions:', '- Correct that path, or leave it out to use the local build.'];
  return [
    'Possible solutions:',
    '- Build it: run "npm run setup" in the folder of llama-duo.',
    `- Name one that was built elsewhere: the library option, or the environment variable ${libraryVariable}.`,
  ];
}
