import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { root, runtimePrograms } from '../../scripts/places.mjs';
import { findLibrary } from '../../src/ffi/library.ts';

// What others get: the packed package in an empty project, with the library that was built here.
const needle = join(root, 'models/needle.gguf');
const env = { ...process.env, LLAMA_DUO_LIBRARY: (await findLibrary()).path, NO_COLOR: '1' };

function run(cwd: string, program: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, env, encoding: 'utf8', timeout: 240_000 });
  if (error) throw error;
  return { status, stdout, stderr };
}

function succeed(cwd: string, program: string, ...args: string[]): string {
  const { status, stdout, stderr } = run(cwd, program, ...args);
  expect(status, `${program} ${args.join(' ')}\n${stdout}${stderr}`).toBe(0);
  return stdout;
}

const script = `
import { loadModel } from 'llama-duo';
const model = await loadModel('m.gguf');
const context = await model.createContext({ contextSize: 1024, threads: 1, duo: { sparsity: 1 } });
const { tokens } = await context.generate('Once', { maxTokens: 4, temperature: 0, ignoreEos: true }).result();
console.log(tokens.length, context.memory().streamingHeads);
await context.dispose();
await model.dispose();
`;

let base: string;
let tarball: string;
beforeAll(() => {
  base = mkdtempSync(join(tmpdir(), 'llama-duo-package-'));
  const [{ filename } = { filename: '' }] = JSON.parse(succeed(root, 'npm', 'pack', '--json', '--pack-destination', base)) as {
    filename: string;
  }[];
  tarball = join(base, filename);
}, 240_000);
afterAll(() => {
  rmSync(base, { recursive: true });
});

/** An empty project with the package in it. */
function project(...flags: string[]): string {
  const folder = mkdtempSync(join(base, 'project-'));
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }');
  copyFileSync(needle, join(folder, 'm.gguf'));
  writeFileSync(join(folder, 'script.js'), script);
  succeed(folder, 'npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts', ...flags, tarball);
  return folder;
}

describe('in an empty project', () => {
  let folder: string;
  beforeAll(() => {
    folder = project();
  }, 240_000);

  test('the library runs', { timeout: 120_000 }, () => {
    expect(succeed(folder, process.execPath, 'script.js')).toBe('4 24\n');
  });

  test('the command runs', { timeout: 120_000 }, () => {
    const llamaDuo = join(folder, 'node_modules/.bin/llama-duo');
    expect(succeed(folder, llamaDuo, '--version')).toMatch(/^\d+\.\d+\.\d+/);
    const answer = succeed(folder, llamaDuo, 'run', '-m', 'm.gguf', '-p', 'Once', '-n', '4', '-t', '1', '--duo-sparsity', '1', '--json');
    expect(JSON.parse(answer)).toMatchObject({ heads: { retrieval: 0, streaming: 24 } });
    // The needle model is the repository's, and pictures go where --plot says.
    expect(run(folder, llamaDuo, 'demo')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('Name another model with -m FILE') as string,
    });
    expect(readdirSync(join(folder, 'node_modules/llama-duo')).sort()).toEqual(['LICENSE', 'README.md', 'dist', 'package.json']);
  });

  test('what draws pictures and cuts Chinese into words is not installed, and is asked for by name', { timeout: 120_000 }, () => {
    const installed = readdirSync(join(folder, 'node_modules'));
    for (const name of ['vega', 'vega-lite', 'jieba-wasm', '@resvg']) expect(installed).not.toContain(name);
    const { status, stderr } = run(folder, join(folder, 'node_modules/.bin/llama-duo'), 'eval', '-m', 'm.gguf', '--plot', 'pictures');
    expect(status).toBe(1);
    expect(stderr).toMatch(/Pictures need the package vega.*"npm install vega/);
    expect(existsSync(join(folder, 'pictures'))).toBe(false);
  });
});

describe('without optional packages', () => {
  let folder: string;
  beforeAll(() => {
    folder = project('--omit=optional');
    expect(existsSync(join(folder, 'node_modules/koffi'))).toBe(false);
  }, 240_000);

  test('Node says what is missing', () => {
    const { status, stderr } = run(folder, process.execPath, 'script.js');
    expect(status).toBe(1);
    expect(stderr).toMatch(/LibraryError: koffi[^]*npm install koffi/);
  });

  test('Bun and Deno run', { timeout: 120_000 }, () => {
    expect(succeed(folder, runtimePrograms.bun, 'script.js')).toBe('4 24\n');
    expect(succeed(folder, runtimePrograms.deno, 'run', '-A', 'script.js')).toBe('4 24\n');
  });

  test('bun build --compile makes a program that runs', { timeout: 240_000 }, () => {
    succeed(folder, runtimePrograms.bun, 'build', '--compile', '--outfile', 'program', 'script.js');
    expect(succeed(folder, join(folder, 'program'))).toBe('4 24\n');
  });
});
