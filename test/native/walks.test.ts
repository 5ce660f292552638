import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, expect, test, vi } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { loadModel } from '../../src/index.ts';
import { checkInterleavings } from '../interleavings.ts';
import { needlePath } from './needle.ts';
import { recorded } from './walk-recorder.ts';

// What JavaScript programs ask of the library, asked again by a native program: under ThreadSanitizer that one can run (scripts/sanitize.mjs), and Node cannot.

const folder = mkdtempSync(join(tmpdir(), 'llama-duo-walk-'));
const walk = join(folder, 'calls.jsonl');
afterAll(() => {
  rmSync(folder, { recursive: true });
});

type Binding = typeof import('../../src/ffi/koffi.ts');
const recording = async (original: () => Promise<Binding>): Promise<Binding> => {
  const { bind } = await original();
  return { bind: async (path) => recorded(await bind(path), walk) };
};
vi.mock('../../src/ffi/koffi.ts', (original) => recording(original as () => Promise<Binding>));
vi.mock('../../src/ffi/bun.ts', (original) => recording(original as () => Promise<Binding>));
vi.mock('../../src/ffi/deno.ts', (original) => recording(original as () => Promise<Binding>));

const runs = Number(process.env['LLAMA_DUO_TEST_WALKS'] ?? 10);
/** The player of another build. */
const player = process.env['LLAMA_DUO_TEST_PLAYER'] ?? join(root, 'build/play-walk');

test('a native program makes the same calls', { timeout: 120_000 + runs * 60_000 }, async () => {
  expect(existsSync(player), `${player} is missing: "npm test" builds it`).toBe(true);
  const model = await loadModel(needlePath);
  await checkInterleavings({
    model: () => Promise.resolve(model),
    generate: { temperature: 0, maxTokens: 24, ignoreEos: true },
    sequences: 3,
    runs,
    maxCommands: 60,
  });
  await model.dispose();
  const calls = readFileSync(walk, 'utf8').split('\n').length - 1;
  expect(calls).toBeGreaterThan(50 * runs);

  const { status, stdout, stderr } = spawnSync(player, [walk], { encoding: 'utf8' });
  console.log(`${calls} calls: ${stdout.trim().split('\n').at(-2)}`);
  expect(status, stdout + stderr).toBe(0);
});
