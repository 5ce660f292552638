import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

import { expect } from 'vitest';

import { root, runtimePrograms } from '../scripts/places.mjs';
import { startRegistry, type Registry } from './registry.ts';

/** README's first program. */
export const firstProgram = /^```js\n(.*?)^```$/ms.exec(readFileSync(join(root, 'README.md'), 'utf8'))?.[1] ?? '';

/** Prints what two contexts make of a text, to compare libraries by: the tokens, and the logarithm of the text's probability. */
export const comparison = `
import { buildInfo, loadModel } from 'llama-duo';
const model = await loadModel('model.gguf');
const results = [];
for (const duo of [undefined, { gates: 'auto', sparsity: 0.5 }]) {
  const context = await model.createContext({ contextSize: 1024, threads: 2, duo });
  const text = 'The magic number of the town is 42. '.repeat(20);
  const { tokens } = await context.generate(text, { maxTokens: 32, temperature: 0, ignoreEos: true }).result();
  const { logProbabilities } = await context.score(text);
  results.push({ tokens: [...tokens], score: logProbabilities.reduce((sum, value) => sum + value, 0) });
  await context.dispose();
}
await model.dispose();
console.log(JSON.stringify({ results, simd: (await buildInfo()).simd }));
`;

/** What compare.js prints of each context. */
export type Compared = { tokens: number[]; score: number };

export const results = (printed: string): Compared[] => (JSON.parse(printed) as { results: Compared[] }).results;

/** Builds and variants of the CPU backend add in other orders, so late digits differ, and tokens once two are nearly as likely. */
export function expectAlike(printed: string, reference: Compared[]): void {
  const found = results(printed);
  expect(found.length).toBe(reference.length);
  for (const [index, { tokens, score }] of found.entries()) {
    expect(tokens.slice(0, 4)).toEqual(reference[index]?.tokens.slice(0, 4));
    expect(Math.abs(score / (reference[index]?.score ?? 0) - 1)).toBeLessThan(0.01);
  }
}

/** What package managers and programs find on PATH: no compiler, no cmake, no git. */
const programs: Record<string, string> = {
  node: process.execPath,
  npm: which('npm'),
  node24: runtimePrograms.node24,
  bun: runtimePrograms.bun,
  deno: runtimePrograms.deno,
  ...Object.fromEntries(['sh', 'env', 'dirname', 'uname', 'sed', 'ldd', 'cat'].map((name) => [name, which(name)])),
};

function which(name: string): string {
  return execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim();
}

/** Packed packages, a registry that has them, and a computer with nothing but runtimes. */
export class Packages {
  readonly folder = mkdtempSync(join(tmpdir(), 'llama-duo-packages-'));
  readonly registry: Registry;
  readonly tarballs: readonly string[];

  private constructor(registry: Registry, tarballs: readonly string[]) {
    this.registry = registry;
    this.tarballs = tarballs;
    const bin = join(this.folder, 'bin');
    mkdirSync(bin);
    for (const [name, program] of Object.entries(programs)) symlinkSync(program, join(bin, name));
  }

  /** Those in the folder that LLAMA_DUO_PACKAGES names (scripts/pack.mjs), else packed here around the local build. */
  static async make(): Promise<Packages> {
    const packed = process.env['LLAMA_DUO_PACKAGES'] ?? join(root, 'build/packages-local');
    if (process.env['LLAMA_DUO_PACKAGES'] === undefined) {
      await promisify(execFile)(process.execPath, ['scripts/pack.mjs', '--local', '--no-tools', '--out', packed], { cwd: root });
    }
    const tarballs = JSON.parse(readFileSync(join(packed, 'tarballs.json'), 'utf8')) as string[];
    const upstream = execFileSync('npm', ['config', 'get', 'registry'], { cwd: root, encoding: 'utf8' }).trim();
    return new Packages(await startRegistry(tarballs, upstream), tarballs);
  }

  /** An empty folder with a model in it. */
  project(): string {
    const folder = mkdtempSync(join(this.folder, 'project-'));
    writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }\n');
    copyFileSync(join(root, 'models/needle.gguf'), join(folder, 'model.gguf'));
    copyFileSync(join(root, 'models/needle.duo.json'), join(folder, 'model.duo.json'));
    writeFileSync(join(folder, 'first.js'), firstProgram);
    writeFileSync(join(folder, 'compare.js'), comparison);
    return folder;
  }

  /** Runs a program there and returns what it printed; throws, with both outputs, where it fails. */
  async run(cwd: string, program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
    const { stdout } = await promisify(execFile)(program, args, {
      cwd,
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
      env: { ...this.environment(), ...env },
    });
    return stdout;
  }

  /** The environment of a user: this registry, and caches of their own, for there the same version has other contents each time. */
  environment(): NodeJS.ProcessEnv {
    const { url } = this.registry;
    const home = join(this.folder, 'home');
    mkdirSync(home, { recursive: true });
    return {
      PATH: [join(this.folder, 'bin'), join(this.folder, 'tools/node_modules/.bin')].join(delimiter),
      HOME: home,
      NO_COLOR: '1',
      npm_config_registry: url,
      NPM_CONFIG_REGISTRY: url,
      BUN_CONFIG_REGISTRY: url,
      npm_config_cache: join(home, '.npm'),
      DENO_DIR: join(home, '.deno'),
      ...(process.env['NODE_EXTRA_CA_CERTS'] && { NODE_EXTRA_CA_CERTS: process.env['NODE_EXTRA_CA_CERTS'] }),
    };
  }

  close(): void {
    this.registry.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
