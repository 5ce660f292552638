import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { needleBytes, needlePath } from './needle-model.ts';

const runtime = 'Deno' in globalThis ? ['run', '-A'] : [];

test.each([
  ['run', ['-p', 'one two', '-n', '2', '-t', '1']],
  ['inspect', []],
])('%s says once that a context is beyond what the model was trained for', (command, flags) => {
  const args = [...runtime, join(root, 'dist/cli/main.js'), command, '-m', needlePath, '-c', '17408', ...flags];
  const { stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  expect({ status, warnings: stderr.match(/warning: .*/g) }).toEqual({
    status: 0,
    warnings: ['warning: the context holds 17408 tokens, and the model was trained for 16640: what it makes of later ones may be nonsense'],
  });
});

test('the library prints nothing, whatever goes wrong', () => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-'));
  const broken = join(folder, 'broken.gguf');
  writeFileSync(broken, needleBytes().subarray(0, 50_000));
  const script = fileURLToPath(new URL('silent-script.mjs', import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, [...runtime, script, join(root, 'dist'), broken], { encoding: 'utf8' });
  rmSync(folder, { recursive: true });
  expect({ stdout, stderr, status }).toEqual({ stdout: '11 refused\n', stderr: '', status: 0 });
});
