import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';

import { EvaluationError } from '../../../src/errors.ts';
import { ProgramRunner } from '../../../src/eval/programs.ts';

let runner: ProgramRunner;
beforeAll(async () => {
  runner = await ProgramRunner.find();
});
afterEach(() => {
  vi.unstubAllEnvs();
});

const limits = { seconds: 20, bytes: 2 ** 29 };

describe('a program', { timeout: 60_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-programs-'));
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  test.each([
    ['is right', 'def add(a, b):\n    return a + b\nassert add(1, 2) == 3', true],
    ['prints', 'print("x" * 200000)', true],
    ['is wrong', 'def add(a, b):\n    return a - b\nassert add(1, 2) == 3', false],
    ['is no Python', 'def add(a, b:\n    return a + b', false],
    ['does not end its last text', 'x = """', false],
    ['leaves before its tests', 'import sys\nsys.exit(0)\nassert False', false],
    ['leaves at once', 'import os\nos._exit(0)', false],
    ['eats memory', 'x = [bytearray(2 ** 26) for _ in range(64)]', false],
    ['writes a large file', 'f = open("large", "wb")\nfor _ in range(200):\n    f.write(bytes(2 ** 20))', false],
    ['takes what limits let it', 'x = bytearray(2 ** 26)', true],
    ['asks for input', 'input()', false],
  ])('that %s', async (_, program, expected) => {
    expect(await runner.passes(program, undefined, limits)).toBe(expected);
  });

  test('that never ends is ended, with what it has started', async () => {
    const mark = join(folder, 'still-there');
    const child = `import time; time.sleep(6); open(${JSON.stringify(mark)}, 'w')`;
    const program = `import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', ${JSON.stringify(child)}])\nwhile True: pass`;
    const began = performance.now();
    expect(await runner.passes(program, undefined, { ...limits, seconds: 1 })).toBe(false);
    expect(performance.now() - began).toBeLessThan(15_000);
    await new Promise((resolve) => setTimeout(resolve, 7000));
    expect(existsSync(mark)).toBe(false);
  });

  test('is ended by a signal', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('enough')), 500);
    await expect(runner.passes('while True: pass', controller.signal, limits)).rejects.toThrow('enough');
  });

  test('has an empty folder, which goes with what it has written', async () => {
    const told = join(folder, 'told');
    const program = `import os\nassert os.listdir('.') == []\nopen('a', 'w').write('a')\nopen(${JSON.stringify(told)}, 'w').write(os.getcwd())`;
    expect(await runner.passes(program, undefined, limits)).toBe(true);
    const own = readFileSync(told, 'utf8');
    expect(own).toMatch(/llama-duo-program-/);
    expect(existsSync(own)).toBe(false);
    expect(await runner.passes(program, undefined, limits)).toBe(true);
  });

  test('inherits neither environment nor open files', async () => {
    vi.stubEnv('LLAMA_DUO_SECRET', 'secret');
    const program = `import os
allowed = {'LC_CTYPE'}  # Python's own
assert set(os.environ) <= allowed, os.environ
opened = []
for fd in range(3, 256):
    try:
        os.fstat(fd)
        opened.append(fd)
    except OSError:
        pass
assert opened == [], opened`;
    expect(await runner.passes(program, undefined, limits)).toBe(true);
  });

  test('does not reach the network, where that can be taken', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as AddressInfo;
    const program = `import socket\nsocket.create_connection(('127.0.0.1', ${port}), timeout=5)`;
    expect(await runner.passes(program, undefined, limits)).toBe(runner.hasNetwork);
    await new Promise((resolve) => server.close(resolve));
  });
});

test('no folder is left behind', () => {
  expect(readdirSync(tmpdir()).filter((name) => name.startsWith('llama-duo-program-'))).toEqual([]);
});

test('without python3 there is a reason and a way out', async () => {
  vi.stubEnv('PATH', '/nowhere');
  const found = ProgramRunner.find();
  await expect(found).rejects.toThrow(EvaluationError);
  await expect(found).rejects.toThrow(/no python3 in PATH.*mbpp and humaneval.*install Python 3/);
});
