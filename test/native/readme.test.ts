import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { readGates } from '../../src/index.ts';

// README's programs, run as they stand there.
const programs = [...readFileSync(join(root, 'README.md'), 'utf8').matchAll(/^```js\n(.*?)^```$/gms)].map(([, program = '']) => program);
const knowsUsing = 'Deno' in globalThis || process.versions['bun'] !== undefined || Number(process.versions.node.split('.')[0]) >= 24;

let folder: string;
let scripts: string;
beforeAll(async () => {
  // Deno looks for a package's dependencies from the script on.
  scripts = mkdtempSync(join(root, 'build/readme-'));
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-readme-'));
  copyFileSync(join(root, 'models/needle.gguf'), join(folder, 'model.gguf'));
  // DuoAttention's form: a folder with a table, and its sizes beside it.
  const gates = await readGates(join(root, 'models/needle.duo.json'));
  mkdirSync(join(folder, 'pattern'));
  writeFileSync(join(folder, 'pattern/full_attention_heads.tsv'), gates.format('tsv'));
  writeFileSync(join(folder, 'pattern/config.json'), JSON.stringify({ sink_size: gates.sink, recent_size: gates.recent }));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  rmSync(scripts, { recursive: true });
});

test('the first program runs on every runtime that is supported: it has no `await using`', () => {
  expect(programs.length).toBeGreaterThan(1);
  expect(programs[0]).not.toContain('await using');
});

describe.each(programs.map((program, index) => ({ number: index + 1, program })))('program $number', ({ number, program }) => {
  test.skipIf(program.includes('await using') && !knowsUsing)('runs', () => {
    const script = join(scripts, `program-${number}.mjs`);
    writeFileSync(script, program.replaceAll("'llama-duo'", JSON.stringify(pathToFileURL(join(root, 'dist/index.js')).href)));
    const { status, stdout, stderr } = spawnSync(process.execPath, [script], { cwd: folder, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout.length).toBeGreaterThan(20);
  });
});
