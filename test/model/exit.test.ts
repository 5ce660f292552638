import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import { dist, modelPath, runtimes } from './setup.ts';

const script = join(import.meta.dirname, 'exit-script.mjs');

// vitest's own processes would hide a crash at exit, so these are real ones.
describe.each(Object.entries(runtimes))('%s, while the engine works', (runtime, [program = '', ...args]) => {
  const ways = [['end', 0], ['exit', 7], ['load', 7], ['throw', 1], ...(runtime === 'deno' ? [['Deno.exit', 7] as const] : [])] as const;

  if (!existsSync(program))
    throw new Error(`${program} is missing. "npm run test:model" installs it, as "node scripts/setup.mjs --runtimes" does.`);

  test.each(ways)('%s: exit code %i, no signal, and soon', { timeout: 60_000 }, (how, code) => {
    const child = spawnSync(program, [...args, script, dist, modelPath, how], { encoding: 'utf8', timeout: 50_000 });
    expect(child, child.stderr).toMatchObject({ status: code, signal: null });
    expect(child.stdout).toContain('decoding');
    expect(child.stderr).not.toMatch(/GGML_ASSERT|terminate called/);
  });
});
