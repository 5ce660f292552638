import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeAll, expect, test, vi } from 'vitest';

import { GatesError, loadModel, OptionError, readGates, setLog, type LogLine } from '../../src/index.ts';
import { needlePath } from './needle-model.ts';

let broken: string;
beforeAll(() => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-'));
  broken = join(folder, 'broken.gguf');
  writeFileSync(broken, 'GGUF');
  return () => {
    rmSync(folder, { recursive: true });
  };
});
afterEach(() => {
  setLog(undefined);
});

/** Something that llama.cpp complains of. */
async function complain(): Promise<void> {
  await expect(readGates(broken)).rejects.toThrow(GatesError);
}

/** What is left over from other tests. */
async function empty(): Promise<void> {
  setLog(() => undefined);
  await complain();
  setLog(undefined);
}

test('a sink gets what is logged, in lines; without one nobody does', async () => {
  await empty();
  const lines: LogLine[] = [];
  setLog((line) => lines.push(line));
  await complain();
  expect(lines).toContainEqual({ level: 'error', message: expect.stringContaining('gguf') as string });
  for (const { message } of lines) expect(message).toMatch(/^[^\n]+$/);
  setLog(undefined);
  const before = lines.length;
  await complain();
  expect(lines).toHaveLength(before);
});

test('lines that are less important than its level are left out, and debug has all', async () => {
  const heard = async (level: 'debug' | 'info' | 'error'): Promise<Set<string>> => {
    await empty();
    const levels = new Set<string>();
    setLog((line) => levels.add(line.level), level);
    await (await loadModel(needlePath, { weights: false })).dispose();
    await complain();
    return levels;
  };
  expect(await heard('error')).toEqual(new Set(['error']));
  const info = await heard('info');
  expect(info).toContain('info');
  expect(info).not.toContain('debug');
  expect([...(await heard('debug'))]).toEqual(expect.arrayContaining([...info]));
});

test('what a sink throws is an uncaught exception of the program, and the work goes on', async () => {
  await empty();
  const uncaught = vi.spyOn(globalThis, 'queueMicrotask').mockImplementation(() => undefined);
  setLog(() => {
    throw new Error('mine');
  });
  await complain();
  expect(uncaught).toHaveBeenCalled();
  expect(uncaught.mock.calls[0]?.[0]).toThrow('mine');
  uncaught.mockRestore();
});

test('what is no sink and no level', () => {
  expect(() => {
    setLog('stderr' as never);
  }).toThrow(OptionError);
  expect(() => {
    setLog(() => undefined, 'verbose' as never);
  }).toThrow(/level: expected one of debug, info, warn, error, got "verbose"/);
});
