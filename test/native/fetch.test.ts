import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { fetchModel, loadModel, OptionError } from '../../src/index.ts';
import { Hub } from './hub.ts';
import { needleBytes, needlePath } from './needle-model.ts';

const index = pathToFileURL(join(root, 'dist/index.js')).href;
const script = fileURLToPath(new URL('./fetch-script.mjs', import.meta.url));
const token = `hf_${'a'.repeat(34)}`;

type Outcome = {
  progress: [number, string | null][];
  path?: string;
  layers?: number;
  error?: { name: string; code?: string; message: string; option?: string };
};

let hub: Hub;
let cache: string;
beforeAll(async () => {
  hub = await Hub.start();
  cache = mkdtempSync(join(tmpdir(), 'llama-duo-fetch-'));
  hub.files.set('needle-Q8_0.gguf', needleBytes());
  hub.files.set('half-Q4_0.gguf', needleBytes().subarray(0, 3_000_000)); // no model: it is only loaded from afar
  hub.files.set('parts-F16-00001-of-00002.gguf', Buffer.from('GGUF first'));
  hub.files.set('parts-F16-00002-of-00002.gguf', Buffer.from('GGUF second'));
});
afterAll(async () => {
  await hub.close();
  rmSync(cache, { recursive: true });
});
beforeEach(() => {
  hub.sent = 0;
  hub.asked.length = 0;
});

/** Fetches in a process of its own, on the runtime at hand. */
async function run(
  source: string,
  {
    options = {},
    load = false,
    abortAt = 2,
    env = {},
  }: { options?: object; load?: boolean; abortAt?: number; env?: Record<string, string> } = {},
): Promise<Outcome> {
  const child = spawn(
    process.execPath,
    [...('Deno' in globalThis ? ['run', '-A'] : []), script, index, JSON.stringify({ source, options, load, abortAt })],
    {
      env: { ...process.env, HF_TOKEN: '', HF_ENDPOINT: '', LLAMA_CACHE: cache, MODEL_ENDPOINT: hub.url, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  let out = '';
  child.stdout.on('data', (data: Buffer) => {
    out += data.toString();
  });
  await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return JSON.parse(out) as Outcome;
}

describe('a repository', () => {
  test('is fetched once, and loaded', async () => {
    const first = await run('hf:user/repo:Q8_0', { load: true });
    expect(first).toMatchObject({ layers: 6 });
    expect(first.path?.startsWith(cache)).toBe(true);
    expect(readFileSync(first.path ?? '').equals(needleBytes())).toBe(true);
    const phases = first.progress.map(([, phase]) => phase);
    expect(new Set(phases)).toEqual(new Set(['download', 'load']));
    expect(phases).toEqual([...phases].sort());
    for (const phase of ['download', 'load']) {
      const told = first.progress.filter(([, each]) => each === phase).map(([done]) => done);
      expect(told).toEqual([...told].sort((a, b) => a - b));
      expect(told.at(-1)).toBe(1);
    }
    expect(hub.sent).toBe(needleBytes().length);

    hub.sent = 0;
    expect((await run('hf:user/repo:Q8_0')).path).toBe(first.path);
    expect(hub.sent).toBe(0);
    hub.asked.length = 0;
    expect(await run('hf:user/repo:Q8_0', { load: true, options: { offline: true } })).toMatchObject({ path: first.path, layers: 6 });
    expect(hub.asked).toEqual([]);
  });

  test('of another endpoint, by the older name of that', async () => {
    const { path, error } = await run('hf:user/repo:Q8_0', { env: { MODEL_ENDPOINT: '', HF_ENDPOINT: hub.url } });
    expect(error).toBeUndefined();
    expect(path).toContain('needle-Q8_0.gguf');
    expect(hub.asked.length).toBeGreaterThan(0);
  });

  test('has files by name, all parts of a split one', async () => {
    const { path = '' } = await run('hf:user/repo', { options: { file: 'parts-F16-00001-of-00002.gguf' } });
    expect(readFileSync(path, 'utf8')).toBe('GGUF first');
    expect(readFileSync(join(dirname(path), 'parts-F16-00002-of-00002.gguf'), 'utf8')).toBe('GGUF second');
  });

  test('goes on where it was cancelled', async () => {
    const content = hub.files.get('half-Q4_0.gguf') as Buffer;
    hub.slowAt = content.length / 2;
    const { error, progress } = await run('hf:user/repo:Q4_0', { abortAt: 0.3 });
    hub.slowAt = Infinity;
    expect(error).toMatchObject({ name: 'Error', message: 'enough' });
    expect(progress.at(-1)?.[0]).toBeLessThan(0.9);
    expect(hub.sent).toBeLessThan(content.length);
    hub.sent = 0;
    const { path = '' } = await run('hf:user/repo:Q4_0');
    expect(readFileSync(path).equals(content)).toBe(true);
    expect(hub.sent).toBeLessThan(content.length - content.length / 5);
    expect(hub.sent).toBeGreaterThan(0);
  });

  test('that is not public wants a token, which its environment may have', async () => {
    hub.token = token;
    const { error } = await run('hf:user/repo:Q2_K');
    expect(error).toMatchObject({
      name: 'DownloadError',
      code: 'download',
      message: expect.stringContaining('refuses access (401)') as string,
    });
    expect((await run('hf:user/repo:Q8_0', { options: { token } })).error).toBeUndefined();
    hub.asked.length = 0;
    expect((await run('hf:user/repo:Q8_0', { env: { HF_TOKEN: token } })).error).toBeUndefined();
    expect(hub.asked.length).toBeGreaterThan(0);
    expect(hub.asked.every(({ authorization }) => authorization === `Bearer ${token}`)).toBe(true);
    hub.token = undefined;
  });
});

describe('a URL', () => {
  test('is fetched, and the hub’s token is not told to it', async () => {
    const source = `${hub.url}plain/half-Q4_0.gguf`;
    const { path = '', error } = await run(source, { env: { HF_TOKEN: token } });
    expect(error).toBeUndefined();
    expect(readFileSync(path).equals(hub.files.get('half-Q4_0.gguf') as Buffer)).toBe(true);
    expect(hub.asked.length).toBeGreaterThan(0);
    expect(hub.asked.filter(({ authorization }) => authorization !== undefined)).toEqual([]);
    // but one that is meant for it
    await run(`${hub.url}plain/parts-F16-00001-of-00002.gguf`, { options: { token } });
    expect(hub.asked.at(-1)?.authorization).toBe(`Bearer ${token}`);
  });
});

describe('what cannot be had', () => {
  test.each([
    ['hf:user/none:Q8_0', {}, 'there is no such repository (404)'],
    ['hf:user/repo', { file: 'none.gguf' }, 'it has no file "none.gguf"'],
    ['hf:user/none:Q8_0', { offline: true }, 'forbids'],
    ['http://127.0.0.1:9/none.gguf', {}, 'cannot load'],
  ])('%s, %o', async (source, options, message) => {
    const { error } = await run(source, { options });
    expect(error).toMatchObject({ name: 'DownloadError', code: 'download' });
    expect(error?.message).toContain(message);
  });

  test.each(['hf:repo', 'hf:/repo', 'hf:a/', 'hf:a/b/c', 'hf:', 'http:x'])('%s is no name of one', async (source) => {
    expect((await run(source)).error).toMatchObject({ name: 'OptionError', option: 'source' });
  });

  test('bad options', async () => {
    await expect(fetchModel('hf:user/repo', { ofline: true } as never)).rejects.toThrow(/Did you mean offline/);
    await expect(fetchModel('hf:user/repo', { signal: AbortSignal.abort('no') })).rejects.toBe('no');
    await expect(fetchModel('')).rejects.toThrow(OptionError);
    await expect(loadModel('hf:user/repo', { file: 5 as never })).rejects.toThrow(OptionError);
    expect((await run(`${hub.url}plain/half-Q4_0.gguf`, { options: { file: 'x' } })).error).toMatchObject({ option: 'file' });
  });
});

test('a file that is here is where it is', async () => {
  expect(await fetchModel(needlePath)).toBe(needlePath);
  expect(await fetchModel(pathToFileURL(needlePath))).toBe(needlePath);
});

// The command line, which llama.cpp's own flags tell what to load.
describe('llama-duo run', () => {
  const main = join(root, 'dist/cli/main.js');

  async function cli(...args: string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
    const all = [
      ...('Deno' in globalThis ? ['run', '-A'] : []),
      main,
      'run',
      '-p',
      'one',
      '-n',
      '2',
      '-t',
      '1',
      '--temp',
      '0',
      '-c',
      '256',
      ...args,
    ];
    const child = spawn(process.execPath, all, {
      env: { ...process.env, HF_TOKEN: '', HF_ENDPOINT: '', LLAMA_CACHE: join(cache, 'cli'), MODEL_ENDPOINT: hub.url },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
    child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
    const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
    return { status, stdout, stderr };
  }

  test('takes a repository, a file of it, and a URL', async () => {
    const local = await cli('-m', needlePath);
    expect(local).toMatchObject({ status: 0, stderr: '' });
    expect(local.stdout).toMatch(/^one/);
    for (const source of [
      ['-hf', 'user/repo:Q8_0'],
      ['-hf', 'user/repo', '-hff', 'needle-Q8_0.gguf'],
      ['--model-url', `${hub.url}plain/needle-Q8_0.gguf`],
    ]) {
      expect(await cli(...source), source.join(' ')).toMatchObject({ status: 0, stdout: local.stdout });
    }
    expect(hub.sent).toBeGreaterThan(0);
    hub.sent = 0;
    expect(await cli('-hf', 'user/repo:Q8_0', '--offline')).toMatchObject({ status: 0, stdout: local.stdout, stderr: '' });
    expect(hub.sent).toBe(0);
  });

  test('says what cannot be had', async () => {
    const { status, stdout, stderr } = await cli('-hf', 'user/none');
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain('user/none');
  });
});
