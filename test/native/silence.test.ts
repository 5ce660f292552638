import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { needleBytes } from './needle-model.ts';

test('the library prints nothing, whatever goes wrong', () => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-'));
  const broken = join(folder, 'broken.gguf');
  writeFileSync(broken, needleBytes().subarray(0, 50_000));
  const script = fileURLToPath(new URL('silent-script.mjs', import.meta.url));
  const run = 'Deno' in globalThis ? ['run', '-A', script] : [script];
  const { stdout, stderr, status } = spawnSync(process.execPath, [...run, join(root, 'dist'), broken], { encoding: 'utf8' });
  rmSync(folder, { recursive: true });
  expect({ stdout, stderr, status }).toEqual({ stdout: '11 refused\n', stderr: '', status: 0 });
});
