import { existsSync, readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { LibraryError, OptionError } from '../errors.ts';
import { whyNotCuda } from './cuda.ts';
import { buildAdvice, inRepository, libraryVariable, packageRoot } from './library-errors.ts';
import { platformPackages, type PlatformPackage } from './packages.ts';
import { missingCpuFlags, thisSystem, type System } from './system.ts';
import { packageVersion } from './version.ts';

/** The environment variable that says what an installed CUDA package is for. */
const cudaVariable = 'LLAMA_DUO_CUDA';

/** Its values: nothing else will do, the CPU package where CUDA does not work, or the CPU package in any case. */
const cudaUses = ['require', 'prefer', 'off'] as const;
type CudaUse = (typeof cudaUses)[number];

/** Where to look, replaceable so that tests need no files. */
export type LibrarySearch = {
  /** The `library` option of the public functions. */
  explicit?: string | undefined;
  environment?: Readonly<Record<string, string | undefined>>;
  system?: System;
  exists?: (path: string) => boolean;
  packages?: typeof platformPackages;
  whyNotCuda?: (cudaPackage: PlatformPackage) => Promise<string | undefined>;
};

/** A library, and where it is from. */
export type FoundLibrary = {
  /** Absolute: Deno resolves relative paths differently. */
  path: string;
  origin: string;
  /** What its package says that llama_duo_build_id says. */
  buildId?: string;
  /** Said once, where it is not what was hoped for. */
  warning?: string;
};

/**
 * Finds the shared library: the explicit option, LLAMA_DUO_LIBRARY, the platform's CUDA package, its CPU package, the build in this package's folder. What was
 * asked for and isn't there, or cannot run, is an error, never a reason to take another: an installed CUDA package is asked for, unless LLAMA_DUO_CUDA says otherwise.
 *
 * @throws LibraryError that lists what was tried and what to do
 */
export async function findLibrary(search: LibrarySearch = {}): Promise<FoundLibrary> {
  const { explicit, environment = process.env, system = thisSystem(), exists = existsSync } = search;
  const named = environment[libraryVariable];
  if (explicit !== undefined) return requireFile({ path: resolve(explicit), origin: 'the library option' }, exists);
  if (named) return requireFile({ path: resolve(named), origin: libraryVariable }, exists);

  const tried: string[] = [];
  const installed = await findPackage(search, { system, use: cudaUse(environment), exists, tried });
  if (installed) return installed;
  const build = { path: localBuild(system.platform), origin: 'the local build' };
  if (exists(build.path)) return build;
  tried.push(`  ${build.path} (${build.origin}): no such file`);
  throw new LibraryError(
    [
      `The llama-duo library was not found for ${system.platform}-${system.arch}.`,
      'Tried:',
      ...tried,
      'Possible solutions:',
      ...solutions(system),
    ].join('\n'),
  );
}

function requireFile(found: FoundLibrary, exists: (path: string) => boolean): FoundLibrary {
  if (exists(found.path)) return found;
  throw new LibraryError(
    [
      'The llama-duo library was not found.',
      'Tried:',
      `  ${found.path} (${found.origin}): no such file`,
      'Possible solutions:',
      '- Correct that path, or leave it out to use the installed package or the local build.',
    ].join('\n'),
  );
}

function cudaUse(environment: Readonly<Record<string, string | undefined>>): CudaUse {
  const value = environment[cudaVariable];
  if (!value) return 'require';
  const use = cudaUses.find((name) => name === value);
  if (use) return use;
  throw new OptionError(cudaVariable, value, `one of ${cudaUses.join(', ')}`);
}

/** What findPackage goes by, and where it writes down what it tried. */
type PackageSearch = { system: System; use: CudaUse; exists: (path: string) => boolean; tried: string[] };

async function findPackage(search: LibrarySearch, { system, use, exists, tried }: PackageSearch): Promise<FoundLibrary | undefined> {
  const { packages = platformPackages, whyNotCuda: probe = whyNotCuda } = search;
  const found = packages[`${system.platform}-${system.arch}`];
  if (!found || system.libc === 'musl') return undefined;

  const { cpu, cuda } = found;
  const cudaPackage = cuda && use !== 'off' ? await load(cuda, { exists, tried }) : undefined;
  let warning: string | undefined;
  if (cuda && cudaPackage) {
    refuse(cuda.name, cudaPackage, system);
    const reason = await probe(cudaPackage);
    if (reason === undefined) return { path: cudaPackage.library, origin: cuda.name, buildId: cudaPackage.buildId };
    if (use === 'require') {
      throw new LibraryError(
        [
          `${cuda.name} is installed and cannot be used here: ${reason}`,
          'Possible solutions:',
          `- Set the environment variable ${cudaVariable} to "prefer", which takes the CPU where CUDA does not work, or to "off".`,
          `- Where no GPU is wanted: "npm uninstall ${cuda.name}".`,
        ].join('\n'),
      );
    }
    warning = `${cuda.name} cannot be used here, so the CPU computes: ${reason}`;
  }
  const cpuPackage = await load(cpu, { exists, tried });
  if (!cpuPackage) return undefined;
  refuse(cpu.name, cpuPackage, system);
  return { path: cpuPackage.library, origin: cpu.name, buildId: cpuPackage.buildId, ...(warning !== undefined && { warning }) };
}

/** A package that is installed with all that it needs; undefined for one that is not installed. */
async function load(
  { name, load: importPackage }: { name: string; load: () => Promise<PlatformPackage> },
  { exists, tried }: Pick<PackageSearch, 'exists' | 'tried'>,
): Promise<PlatformPackage | undefined> {
  let loaded: PlatformPackage;
  try {
    loaded = await importPackage();
  } catch {
    tried.push(`  ${name} (the package): not installed`);
    return undefined;
  }
  if (exists(loaded.library)) return loaded;
  throw new LibraryError(
    [
      `The library of ${name} is not where the package says: there is no ${loaded.library}.`,
      'Possible solutions:',
      `- Where a bundler made this program: leave ${name} out of the bundle (esbuild: "--external:@llama-duo/*"), or copy its library there.`,
      `- Where the program is in an archive, as Electron's: leave node_modules/@llama-duo unpacked ("asarUnpack").`,
      `- Else install it again: "npm install ${name}@${packageVersion}".`,
    ].join('\n'),
  );
}

/** Throws where a package is of another version, or the processor lacks what packages are compiled for. */
function refuse(name: string, { buildId }: PlatformPackage, system: System): void {
  const [version = ''] = buildId.split(' ');
  if (version !== packageVersion) {
    throw new LibraryError(
      [
        `${name} is version ${version}, and llama-duo is ${packageVersion}: the two must be the same.`,
        'Possible solutions:',
        `- "npm install ${name}@${packageVersion}".`,
      ].join('\n'),
    );
  }
  const missing = missingCpuFlags(system);
  if (missing.length > 0) {
    throw new LibraryError(
      [
        `${name} needs a processor with x86-64-v2 (since 2009), and this one lacks ${missing.join(', ')}.`,
        'Possible solutions:',
        `- Build the library for this processor: ${buildAdvice}.`,
        '- In a virtual machine, let it have the host processor’s features.',
      ].join('\n'),
    );
  }
}

function localBuild(platform: NodeJS.Platform): string {
  const name = platform === 'win32' ? 'llama-duo.dll' : platform === 'darwin' ? 'libllama-duo.dylib' : 'libllama-duo.so';
  return fileURLToPath(new URL(`build/${name}`, packageRoot));
}

function solutions(system: System): string[] {
  const packages = platformPackages[`${system.platform}-${system.arch}`];
  const named = `- Name one that was built elsewhere: the library option, or the environment variable ${libraryVariable}.`;
  if (!packages) {
    return [
      `- There is no package for ${system.platform}-${system.arch} (there are: ${Object.keys(platformPackages).join(', ')}). Build the library: ${buildAdvice}.`,
      named,
    ];
  }
  if (system.libc === 'musl') {
    return [`- The packages need glibc, and this system has musl (as Alpine does). Build the library here: ${buildAdvice}.`, named];
  }
  if (inRepository()) return ['- Build it: run "npm run setup" in the folder of llama-duo.', named];
  const { name } = packages.cpu;
  const others = otherPlatforms(name);
  return [
    ...(others.length > 0
      ? [
          `- node_modules was installed on another platform (it has ${others.join(', ')}), or from a lock file that knows no other: delete node_modules, ` +
            'and the lock file if that does not help, and install here.',
        ]
      : []),
    `- Install it: "npm install ${name}@${packageVersion}". It is an optional dependency, which "--omit=optional" and "--no-optional" leave out.`,
    named,
  ];
}

/** Packages of other platforms that lie where this platform's would. */
function otherPlatforms(name: string): string[] {
  try {
    const folder = readdirSync(new URL('../@llama-duo/', packageRoot));
    return folder.map((entry) => `@llama-duo/${entry}`).filter((entry) => !entry.startsWith(name));
  } catch {
    return [];
  }
}
