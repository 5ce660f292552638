import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { Packages } from '../packages.ts';

// What is published, installed as people do and made into programs: test/packages.ts has where. The packages are those that LLAMA_DUO_PACKAGES names, else made here
// around the local build.
const hour = 3_600_000;

let packages: Packages;
beforeAll(async () => {
  packages = await Packages.make();
  await packages.run(packages.folder, 'npm', ['install', '--prefix', 'tools', '--no-audit', '--no-fund', 'pnpm@10', 'esbuild@0.25']);
}, hour);
afterAll(() => packages.close());

/** What a program that fails says. */
async function failure(...[cwd, program, args, env]: Parameters<Packages['run']>): Promise<string> {
  return packages.run(cwd, program, args, env).then(
    (stdout) => `it succeeded: ${stdout}`,
    (error: unknown) => (error as { stderr: string }).stderr,
  );
}

/** The tokens that compare.js prints: all programs must print the same ones. */
function tokens(printed: string): number[][] {
  return (JSON.parse(printed) as { results: { tokens: number[] }[] }).results.map((result) => result.tokens);
}

describe.each([
  ['npm', ['install', '--no-audit', '--no-fund', 'llama-duo'], ['node', 'node24', 'bun', 'deno']],
  ['pnpm', ['add', 'llama-duo'], ['node']],
  ['bun', ['add', 'llama-duo'], ['bun', 'node']],
  ['deno', ['add', 'npm:llama-duo'], ['deno']],
] as const)('%s %j', (manager, args, runtimes) => {
  let folder: string;
  beforeAll(async () => {
    folder = packages.project();
    await packages.run(folder, manager, [...args]);
  }, hour);

  test.each(runtimes)('README’s first program runs on %s', { timeout: hour }, async (runtime) => {
    const start = runtime === 'deno' ? ['run', '-A'] : [];
    expect((await packages.run(folder, runtime, [...start, 'first.js'])).length).toBeGreaterThan(20);
  });

  test('the command runs', { timeout: hour }, async () => {
    const start: Record<string, [string, string[]]> = {
      npm: ['node', ['node_modules/llama-duo/dist/cli/main.js']],
      pnpm: ['node', ['node_modules/llama-duo/dist/cli/main.js']],
      bun: ['bun', ['--bun', 'node_modules/.bin/llama-duo']],
      deno: ['deno', ['run', '-A', 'npm:llama-duo']],
    };
    const [program, before] = start[manager] ?? ['', []];
    expect(await packages.run(folder, program, [...before, '--version'])).toMatch(/^\d+\.\d+\.\d+/);
    const command = ['run', '-m', 'model.gguf', '-p', 'Once', '-n', '4', '-t', '1', '--duo-sparsity', '1', '--json'];
    expect(JSON.parse(await packages.run(folder, program, [...before, ...command]))).toMatchObject({
      heads: { retrieval: 0, streaming: 24 },
    });
  });
});

describe('an installed package', () => {
  let folder: string;
  let reference: number[][];
  beforeAll(async () => {
    folder = packages.project();
    await packages.run(folder, 'npm', ['install', '--no-audit', '--no-fund', 'llama-duo']);
    reference = tokens(await packages.run(folder, 'node', ['compare.js']));
  }, hour);

  test('gives the same tokens on every runtime', { timeout: hour }, async () => {
    expect(reference.map(({ length }) => length)).toEqual([32, 32]);
    for (const [runtime, ...args] of [['node24'], ['bun'], ['deno', 'run', '-A']] as const) {
      expect(tokens(await packages.run(folder, runtime, [...args, 'compare.js'])), runtime).toEqual(reference);
    }
  });

  test('becomes one file with bun build --compile, which runs elsewhere', { timeout: hour }, async () => {
    await packages.run(folder, 'bun', ['build', '--compile', '--outfile', 'program', 'compare.js']);
    const elsewhere = packages.project();
    renameSync(join(folder, 'program'), join(elsewhere, 'program'));
    const hidden = join(folder, 'node_modules.hidden');
    renameSync(join(folder, 'node_modules'), hidden); // the program may not fall back on it
    try {
      expect(tokens(await packages.run(elsewhere, join(elsewhere, 'program'), []))).toEqual(reference);
    } finally {
      renameSync(hidden, join(folder, 'node_modules'));
    }
  });

  test('is bundled by esbuild, with the native packages left outside', { timeout: hour }, async () => {
    const options = [
      '--bundle',
      '--platform=node',
      '--format=esm',
      '--external:@llama-duo/*',
      '--external:koffi',
      '--outfile=out/bundle.mjs',
    ];
    await packages.run(folder, 'esbuild', ['compare.js', ...options]);
    writeFileSync(join(folder, 'out/package.json'), '{ "type": "module" }');
    for (const name of ['model.gguf', 'model.duo.json']) cpSync(join(folder, name), join(folder, 'out', name));
    expect(tokens(await packages.run(join(folder, 'out'), 'node', ['bundle.mjs']))).toEqual(reference);
  });

  test('bundled whole, says where its library would have to be, and runs once it is there', { timeout: hour }, async () => {
    await packages.run(folder, 'esbuild', [
      'compare.js',
      '--bundle',
      '--platform=node',
      '--format=esm',
      '--external:koffi',
      '--outfile=whole/bundle.mjs',
    ]);
    for (const name of ['model.gguf', 'model.duo.json']) cpSync(join(folder, name), join(folder, 'whole', name));
    expect(await failure(join(folder, 'whole'), 'node', ['bundle.mjs'])).toMatch(
      /LibraryError: The library of @llama-duo\/linux-x64[^]*--external:@llama-duo/,
    );
    cpSync(join(folder, 'node_modules/@llama-duo/linux-x64/libllama-duo.so'), join(folder, 'whole/libllama-duo.so'));
    expect(tokens(await packages.run(join(folder, 'whole'), 'node', ['bundle.mjs']))).toEqual(reference);
  });

  test('runs from an Electron-like layout, with what is native beside the archive', { timeout: hour }, async () => {
    // Electron reads files inside app.asar through its own fs; native files cannot be opened there and lie in app.asar.unpacked at the same path.
    const resources = join(packages.project(), 'resources');
    const unpacked = join(resources, 'app.asar.unpacked');
    mkdirSync(unpacked, { recursive: true });
    cpSync(join(folder, 'node_modules'), join(unpacked, 'node_modules'), { recursive: true });
    for (const name of ['compare.js', 'package.json', 'model.gguf', 'model.duo.json']) cpSync(join(folder, name), join(unpacked, name));
    expect(tokens(await packages.run(unpacked, 'node', [join(unpacked, 'compare.js')]))).toEqual(reference);
  });

  test('runs in worker threads, and twice in one process', { timeout: hour }, async () => {
    cpSync(join(folder, 'node_modules/@llama-duo/linux-x64/libllama-duo.so'), join(folder, 'second.so'));
    writeFileSync(
      join(folder, 'threads.js'),
      `import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
       import { loadModel } from 'llama-duo';
       async function generate(library) {
         const model = await loadModel('model.gguf', library ? { library } : {});
         const context = await model.createContext({ contextSize: 256, threads: 1 });
         const { tokens } = await context.generate('Once', { maxTokens: 8, temperature: 0, ignoreEos: true }).result();
         await context.dispose();
         await model.dispose();
         return tokens.join();
       }
       if (isMainThread) {
         const inWorker = (library) => new Promise((resolve, reject) => {
           const worker = new Worker(new URL(import.meta.url), { workerData: library });
           worker.on('message', resolve).on('error', reject);
         });
         const all = await Promise.all([generate(), generate('second.so'), inWorker(), inWorker('second.so')]);
         console.log(new Set(all).size, all.length);
       } else {
         parentPort.postMessage(await generate(workerData));
       }`,
    );
    expect(await packages.run(folder, 'node', ['threads.js'])).toBe('1 4\n');
  });

  test('lives with node-llama-cpp in one process', { timeout: hour }, async () => {
    const both = packages.project();
    await packages.run(both, 'npm', ['install', '--no-audit', '--no-fund', '--ignore-scripts', 'llama-duo', 'node-llama-cpp@3.22.1']);
    writeFileSync(
      join(both, 'both.js'),
      `import { getLlama } from 'node-llama-cpp';
       import { loadModel } from 'llama-duo';
       const llama = await getLlama({ gpu: false, build: 'never', progressLogs: false });
       const theirs = await llama.loadModel({ modelPath: 'model.gguf' });
       const ours = await loadModel('model.gguf');
       const a = theirs.tokenize('Once upon a time', false), b = ours.tokenize('Once upon a time');
       const context = await ours.createContext({ contextSize: 256, threads: 1, duo: { sparsity: 1 } });
       const { tokens } = await context.generate('Once', { maxTokens: 8, temperature: 0, ignoreEos: true }).result();
       const sequence = (await theirs.createContext({ contextSize: 256, threads: 1 })).getSequence();
       let count = 0;
       for await (const _ of sequence.evaluate(a, { temperature: 0 })) if (++count === 8) break;
       await context.dispose();
       await ours.dispose();
       console.log(a.length > 0 && b.length > 0, tokens.length, count);
       process.exit(0);`,
    );
    expect(await packages.run(both, 'node', ['both.js'])).toBe('true 8 8\n');
  });

  test('brings nothing that draws pictures or cuts Chinese into words, and asks for it by name', { timeout: hour }, async () => {
    const installed = readdirSync(join(folder, 'node_modules'));
    for (const name of ['vega', 'vega-lite', 'jieba-wasm', '@resvg']) expect(installed).not.toContain(name);
    const main = 'node_modules/llama-duo/dist/cli/main.js';
    expect(await failure(folder, 'node', [main, 'eval', '-m', 'model.gguf', '--plot', 'pictures'])).toMatch(
      /Pictures need the package vega.*"npm install vega/,
    );
    expect(existsSync(join(folder, 'pictures'))).toBe(false);
    expect(await failure(folder, 'node', [main, 'demo'])).toContain('Name another model with -m FILE');
  });
});

describe('what an install leaves out', () => {
  let folder: string;
  beforeAll(async () => {
    folder = packages.project();
    await packages.run(folder, 'npm', ['install', '--no-audit', '--no-fund', '--omit=optional', 'llama-duo']);
    expect(existsSync(join(folder, 'node_modules/@llama-duo'))).toBe(false);
  }, hour);

  test('the library, is asked for by name', async () => {
    for (const [runtime, ...args] of [['node'], ['bun'], ['deno', 'run', '-A']] as const) {
      expect(await failure(folder, runtime, [...args, 'compare.js']), runtime).toMatch(
        /LibraryError: The llama-duo library was not found for linux-x64[^]*@llama-duo\/linux-x64 \(the package\): not installed[^]*npm install @llama-duo\/linux-x64@\d[^]*--omit=optional/,
      );
    }
  });

  test('koffi, is asked for by name on Node, and not missed on Bun and Deno', { timeout: hour }, async () => {
    const library = join(packages.folder, 'lib.so');
    const donor = packages.project();
    await packages.run(donor, 'npm', ['install', '--no-audit', '--no-fund', 'llama-duo']);
    cpSync(join(donor, 'node_modules/@llama-duo/linux-x64/libllama-duo.so'), library);
    const env = { LLAMA_DUO_LIBRARY: library };
    expect(await failure(folder, 'node', ['compare.js'], env)).toMatch(/LibraryError: koffi[^]*npm install koffi/);
    const bun = tokens(await packages.run(folder, 'bun', ['compare.js'], env));
    expect(tokens(await packages.run(folder, 'deno', ['run', '-A', 'compare.js'], env))).toEqual(bun);
  });

  test('another platform’s packages are recognized', async () => {
    mkdirSync(join(folder, 'node_modules/@llama-duo/darwin-arm64'), { recursive: true });
    expect(await failure(folder, 'node', ['compare.js'])).toMatch(/installed on another platform \(it has @llama-duo\/darwin-arm64\)/);
    rmSync(join(folder, 'node_modules/@llama-duo'), { recursive: true });
  });
});

describe('a library that does not fit', () => {
  let folder: string;
  let installed: string;
  beforeAll(async () => {
    folder = packages.project();
    await packages.run(folder, 'npm', ['install', '--no-audit', '--no-fund', 'llama-duo']);
    installed = join(folder, 'node_modules/@llama-duo/linux-x64');
  }, hour);

  /** Changes a file of the installed package for one test. */
  async function changed(name: string, change: (bytes: Buffer) => Buffer): Promise<string> {
    const file = join(installed, name);
    const before = readFileSync(file);
    rmSync(file); // a package manager may have linked it to its store
    writeFileSync(file, change(Buffer.from(before)));
    try {
      return await failure(folder, 'node', ['compare.js']);
    } finally {
      writeFileSync(file, before);
    }
  }

  const replace = (from: string, to: string) => (bytes: Buffer) => Buffer.from(bytes.toString('latin1').replaceAll(from, to), 'latin1');

  test('of another build', async () => {
    expect(await changed('index.js', replace('export const buildId = "', 'export const buildId = "9.9.9 tree'))).toMatch(
      /is version 9\.9\.9.*must be the same/,
    );
    const build = /buildId = "\S+ (\w+)"/.exec(readFileSync(join(installed, 'index.js'), 'utf8'))?.[1] ?? '';
    expect(await changed('index.js', replace(build, '0'.repeat(40)))).toMatch(/is of another build: it says[^]*install the packages again/);
  });

  test('of another processor', async () => {
    // e_machine of the ELF header: AArch64 in x86-64's place
    expect(await changed('libllama-duo.so', (bytes) => (bytes.writeUInt16LE(0xb7, 18), bytes))).toMatch(
      /could not be opened[^]*(another system or processor)/,
    );
  });

  test('of a newer C library', async () => {
    // The version's name and its hash (.gnu.version_r) as a newer glibc has them.
    const hash = (name: string): Buffer => {
      let h = 0;
      for (const c of Buffer.from(name)) {
        h = (h << 4) + c;
        const g = h & 0xf0000000;
        if (g) h ^= g >>> 24;
        h &= ~g;
      }
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32LE(h >>> 0);
      return bytes;
    };
    const versions = ['GLIBC_2.14', 'GLIBC_2.27', 'GLIBC_2.29'];
    const newer = (bytes: Buffer): Buffer => {
      let text = bytes.toString('latin1');
      for (const version of versions) {
        const other = version.replace('2.', '9.');
        text = text.replaceAll(`${version}\0`, `${other}\0`).replaceAll(hash(version).toString('latin1'), hash(other).toString('latin1'));
      }
      return Buffer.from(text, 'latin1');
    };
    expect(await changed('libllama-duo.so', newer)).toMatch(/GLIBC_9[^]*built for a newer C library than this system has/);
  });
});
