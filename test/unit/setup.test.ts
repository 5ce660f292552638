import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';

// Set-up itself, in a copy of what it reads, so that this clone stays as it is.
let clone: string;
beforeAll(() => {
  clone = mkdtempSync(join(tmpdir(), 'llama-duo-setup-'));
  for (const name of ['scripts', 'src', 'package.json', 'package-lock.json', 'tsconfig.json', 'tsconfig.build.json', '.npmrc'])
    cpSync(join(root, name), join(clone, name), { recursive: true });
  // In the compiler's place: what is tested is when it runs.
  const manifest = JSON.parse(readFileSync(join(clone, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
  manifest.scripts['build'] = 'node compile.mjs';
  writeFileSync(join(clone, 'package.json'), JSON.stringify(manifest));
  writeFileSync(
    join(clone, 'compile.mjs'),
    "import { cpSync, readdirSync } from 'node:fs'; cpSync('src', 'dist', { recursive: true }); process.exit(readdirSync('src').includes('wrong.ts') ? 1 : 0);",
  );
});
afterAll(() => {
  rmSync(clone, { recursive: true });
});

function setup(args: string[], env: NodeJS.ProcessEnv = process.env): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['scripts/setup.mjs', ...args], { cwd: clone, env, encoding: 'utf8' });
  return { status, stdout, stderr };
}

describe('mistakes', () => {
  test.each([
    [['--only', 'nativ'], /Unknown step 'nativ'\. The steps are: npm, vendor, native, typescript/],
    [['--onyl', 'npm'], /--onyl/],
    [['npm'], /npm/],
  ])('%j', (args, message) => {
    const { status, stdout, stderr } = setup(args);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n {4}at /);
  });

  test('a missing tool is named, with how to get it, before anything is done', () => {
    const { status, stderr } = setup(['--only', 'vendor', '--only', 'native'], { PATH: join(clone, 'scripts') });
    expect(status).toBe(1);
    expect(stderr).toMatch(/(git|npm|tar|cmake) was not found\. (Install|It comes)/);
    expect(existsSync(join(clone, 'vendor'))).toBe(false);
  });
});

test('what is up to date is not done again; what was made from a file that is gone goes', () => {
  const only = ['--only', 'typescript'];
  writeFileSync(join(clone, 'src/extra.ts'), '');
  expect(setup(only)).toEqual({ status: 0, stdout: '', stderr: expect.stringContaining('compiling TypeScript') as string });
  expect(existsSync(join(clone, 'dist/extra.ts'))).toBe(true);
  expect(setup(only)).toEqual({ status: 0, stdout: '', stderr: '' });

  rmSync(join(clone, 'src/extra.ts'));
  expect(setup(only)).toMatchObject({ status: 0, stderr: expect.stringContaining('compiling TypeScript') as string });
  expect(existsSync(join(clone, 'dist/extra.ts'))).toBe(false);

  // A step that fails is not taken for done.
  writeFileSync(join(clone, 'src/wrong.ts'), '');
  expect(setup(only).status).toBe(1);
  expect(setup(only).status).toBe(1);
});
