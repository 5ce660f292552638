import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import type { GatePatternJson } from '../../src/index.ts';

const main = join(root, 'dist/cli/main.js');
const needle = join(root, 'models/needle.gguf');
const gates = join(root, 'models/needle.duo.json');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-cli-'));
  copyFileSync(needle, join(folder, 'm.gguf'));
  copyFileSync(needle, join(folder, 'other.gguf'));
  copyFileSync(needle, join(folder, 'disguised.json'));
  symlinkSync(join(folder, 'm.gguf'), join(folder, 'link.json'));
  mkdirSync(join(folder, 'folder.json'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const options = () => ({ cwd: folder, encoding: 'utf8' as const, env: { ...process.env, INIT_CWD: folder, NO_COLOR: '1' } });

function cli(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], options());
  return { status, stdout, stderr };
}

/** The command line by a shell, which can set limits and redirect. */
function shell(script: string, ...args: string[]): { status: number | null; stderr: string } {
  const { status, stderr } = spawnSync('bash', ['-c', script, 'bash', process.execPath, main, ...args], options());
  return { status, stderr };
}

const hashOf = (name: string): string =>
  createHash('sha256')
    .update(readFileSync(join(folder, name)))
    .digest('hex');

describe('what is asked for is checked before any work', () => {
  const quick = ['--samples', '1', '--questions', '1', '-c', '768', '-t', '1'];

  test.each([
    [['calibrate', '-m', 'm.gguf', '-o', 'other.gguf', ...quick], 2, 'written as .json or .tsv, not as .gguf'],
    [['calibrate', '-m', 'm.gguf', '-o', 'disguised.json', ...quick], 1, 'is a model, which is never written over'],
    [['calibrate', '-m', 'm.gguf', '-o', 'link.json', ...quick], 1, 'is a file that is read'],
    [['calibrate', '-m', 'm.gguf', '-o', 'folder.json', ...quick], 1, 'folder.json (-o) is a folder'],
    [['calibrate', '-m', 'm.gguf', '-o', 'none/a.json', ...quick], 1, 'none/a.json (-o) cannot be written (ENOENT'],
    [['pattern', 'embed', gates, '-m', 'm.gguf', '-o', 'm.gguf'], 1, 'is a file that is read'],
    [['pattern', 'convert', gates, 'disguised.json'], 1, 'is a model, which is never written over'],
    [['eval', '-m', 'm.gguf', '--csv', 'other.gguf'], 1, 'is a model, which is never written over'],
    [['eval', '-m', 'm.gguf', '--resume', 'none/a.jsonl'], 1, 'none/a.jsonl (--resume) cannot be written (ENOENT'],
    [['eval', '-m', 'm.gguf', '-t', '0'], 2, '-t needs an integer from 1 to 512, got "0"'],
    [['eval', '-m', 'm.gguf', '--lengths', '1,024'], 2, 'commas stand between numbers'],
    [['run', '-m', 'm.gguf', '-p', 'x', '-n', '-5'], 2, '-n needs an integer of at least -1, got "-5"'],
    [
      ['run', '-m', 'm.gguf', '-p', 'x', '-fa', 'off', '--duo-sparsity', '1'],
      1,
      'mixed heads do not apply: flash attention is off (-fa off); mixed heads have their own attention, which needs it on or auto. Without duo options',
    ],
    [['eval', '-m', 'm.gguf', '-ctk', 'q4_0', '--task', 'longbench'], 1, '--data FOLDER'],
    [['run', '-m', 'm.gguf', '-p', 'x', '-b', '300000000000'], 2, '-b needs an integer from 1 to 2147483647, got "300000000000"'],
    [['run', '-m', 'm.gguf', '-p', 'x', '--duo-sparsity', '1', '--duo-sink', '99999999999'], 2, '--duo-sink needs an integer from 0 to'],
    // What only the API knows has the flag's name, too.
    [['run', '-m', 'm.gguf', '-p', 'x', '-c', '2147483647'], 2, 'Bad value for -c: expected an integer from 1 to 2147483392'],
  ])('%j', (args, status, message) => {
    const before = ['m.gguf', 'other.gguf', 'disguised.json'].map(hashOf);
    const ended = cli(...args);
    expect(ended).toMatchObject({ status, stdout: '' });
    expect(ended.stderr).toContain(message);
    expect(ended.stderr).not.toContain('%'); // no bar was shown
    expect(['m.gguf', 'other.gguf', 'disguised.json'].map(hashOf)).toEqual(before);
  });
});

describe('run', () => {
  test('a prompt that looks like a flag is a prompt', () => {
    for (const prompt of ['--version', '-h', '--help', '--json']) {
      const { status, stdout, stderr } = cli('run', '-m', 'm.gguf', '-p', prompt, '-n', '1', '--temp', '0', '-t', '1');
      expect({ status, stderr }, prompt).toEqual({ status: 0, stderr: '' });
      expect(stdout, prompt).not.toMatch(/Usage|^0\.1/);
    }
  });

  test('escapes are read as llama.cpp reads them', () => {
    const tokens = (...args: string[]): unknown => {
      const { stdout } = cli('run', '-m', 'm.gguf', ...args, '-n', '1', '--temp', '0', '-t', '1', '--json');
      return (JSON.parse(stdout) as { promptTokens: number[] }).promptTokens;
    };
    writeFileSync(join(folder, 'prompt.txt'), 'One\ntwo');
    expect(tokens('-p', String.raw`One\ntwo`)).toEqual(tokens('-f', 'prompt.txt'));
    expect(tokens('-p', String.raw`One\ntwo`, '--no-escape')).not.toEqual(tokens('-f', 'prompt.txt'));
  });

  test('a context holds 8,192 tokens at most unless more is asked for', () => {
    // 24 KV heads, K and V of 64 numbers each in f16
    const bytes = (...args: string[]): number => {
      const { stdout } = cli('run', '-m', 'm.gguf', '-p', 'x', '-n', '1', '-t', '1', '--json', ...args);
      return (JSON.parse(stdout) as { kv: { fullBytes: number } }).kv.fullBytes;
    };
    expect(bytes()).toBe(24 * 8192 * 2 * 64 * 2);
    expect(bytes('-c', '16384')).toBe(2 * bytes());
    writeFileSync(join(folder, 'long.txt'), 'word '.repeat(9000));
    const { status, stderr } = cli('run', '-m', 'm.gguf', '-f', 'long.txt', '-n', '1', '-t', '1');
    expect(status).toBe(1);
    expect(stderr).toMatch(/the prompt has \d+ tokens.*8192.*larger one with -c/);
  });
});

describe.skipIf(process.platform === 'win32')('a pipe that nobody writes to', () => {
  test.each([
    [['run', '-m', 'pipe', '-p', 'x'], /pipe" is no file but a pipe or a device/],
    [['run', '-m', 'm.gguf', '-p', 'x', '--duo-gates', 'pipe'], /pipe: not a file or folder/],
    [['pattern', 'show', 'pipe'], /pipe: not a file or folder/],
  ])('%j is refused, and not waited for', (args, message) => {
    const { status, stderr } = shell('[ -p pipe ] || mkfifo pipe; exec timeout 30 "$@"', ...args);
    expect(status).toBe(1);
    expect(stderr).toMatch(message);
  });
});

describe.skipIf(process.platform === 'win32')('a full disk', () => {
  test('stdout that cannot be written is an error with a message', () => {
    for (const args of [
      ['run', '--help'],
      ['run', '-m', needle, '-p', 'x', '-n', '2', '-t', '1'],
      ['inspect', '-m', needle, '--json'],
    ]) {
      const { status, stderr } = shell('"$@" > /dev/full', ...args);
      expect(status).toBe(1);
      expect(stderr).toMatch(/^llama-duo: stdout cannot be written: .*no space left/i);
    }
  });

  test('a pattern that cannot be written leaves the old one as it was', () => {
    const heads = {
      llamaDuoPattern: 1,
      layers: 64,
      kvHeads: 32,
      gates: Array.from({ length: 64 }, () => new Array<number>(32).fill(0.123456)),
    };
    writeFileSync(join(folder, 'large.json'), JSON.stringify(heads));
    writeFileSync(join(folder, 'good.tsv'), '0.5\t1\n');
    // Files may have 8 KiB: what is to be written has 50. Not every runtime ignores the signal of it.
    const { status, stderr } = shell('trap "" XFSZ; ulimit -f 8; exec "$@"', 'pattern', 'convert', 'large.json', 'good.tsv');
    expect(status).toBe(1);
    expect(stderr).toMatch(/good\.tsv cannot be written: .*(EFBIG|too large)/i);
    expect(readFileSync(join(folder, 'good.tsv'), 'utf8')).toBe('0.5\t1\n');
    expect(readdirSync(folder).filter((name) => name.endsWith('.part'))).toEqual([]);
  });
});

describe.skipIf(process.platform === 'win32')('an interrupted calibration', { timeout: 300_000 }, () => {
  const args = ['calibrate', '-m', 'm.gguf', '-o', 'found.json', '--samples', '1', '--strict', '-c', '1024', '-t', '1'];
  const partial = (): string => join(folder, 'found.json.partial');
  const lines = (): number => (existsSync(partial()) ? readFileSync(partial(), 'utf8').split('\n').length - 1 : 0);
  const found = (): number[][] => (JSON.parse(readFileSync(join(folder, 'found.json'), 'utf8')) as GatePatternJson).gates;

  let whole: number[][];
  beforeAll(() => {
    expect(cli(...args).status).toBe(0);
    whole = found();
  }, 300_000);
  beforeEach(() => {
    for (const file of ['found.json', 'found.json.partial']) rmSync(join(folder, file), { force: true });
  });

  const start = (): ChildProcess => spawn(process.execPath, [main, ...args], { ...options(), stdio: 'ignore' });
  const ended = (child: ChildProcess): Promise<number | null> => new Promise((resolve) => child.once('exit', resolve));

  /** Runs several at once until the file has so many lines. */
  async function untilLines(count: number, processes: number): Promise<void> {
    const children = Array.from({ length: processes }, start);
    const ends = children.map(ended);
    while (lines() < count) await setTimeout(5);
    for (const child of children) child.kill('SIGINT');
    // Deno gives no code for a process that it has sent a signal.
    expect(await Promise.all(ends)).toEqual(children.map(() => ('Deno' in globalThis ? null : 130)));
  }

  test('goes on to the same gates', async () => {
    await untilLines(6, 1);
    expect(cli(...args).status).toBe(0);
    expect(found()).toEqual(whole);
    expect(existsSync(partial())).toBe(false);
  });

  test('goes on to the same gates where two runs had gone on from it at once', async () => {
    await untilLines(6, 1);
    await untilLines(16, 2);
    expect(cli(...args).status).toBe(0);
    expect(found()).toEqual(whole);
  });

  test('is not thrown away by other options', async () => {
    await untilLines(6, 1);
    const before = readFileSync(partial(), 'utf8');
    const { status, stderr } = cli(...args, '--seed', '2');
    expect(status).toBe(2);
    expect(stderr).toMatch(
      /found\.json\.partial: it has measurements that were made with other options \(other samples, seed 1 there and 2 here\)/,
    );
    expect(stderr).toMatch(/remove the file to begin anew/);
    expect(readFileSync(partial(), 'utf8')).toBe(before);
  });
});
