import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeEach, expect, test } from 'vitest';

import { EvaluationError } from '../../../src/errors.ts';
import { ResultStore } from '../../../src/eval/store.ts';
import { result } from './results.ts';

const folder = mkdtempSync(join(tmpdir(), 'llama-duo-store-'));
const file = join(folder, 'results.jsonl');
const settings = { model: 'm.gguf', lengths: [1024], samples: 2 };
beforeEach(() => {
  rmSync(file, { force: true });
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

test('without a file results are kept in memory', () => {
  const store = new ResultStore(settings);
  expect(store.has(result())).toBe(false);
  store.add(result());
  expect(store.has(result())).toBe(true);
  expect(store.has(result({ index: 1 }))).toBe(false);
  expect(store.all()).toEqual([result()]);
});

test('a run goes on from the file of one that was interrupted', () => {
  const first = new ResultStore(settings, file);
  first.add(result());
  first.add(result({ depth: null, index: 3 }));
  const second = new ResultStore({ ...settings }, file);
  expect(second.all()).toEqual(first.all());
  second.add(result({ variant: 'full' }));
  expect(new ResultStore(settings, file).size).toBe(3);
});

test('each result is in the file at once', () => {
  const store = new ResultStore(settings, file);
  store.add(result());
  expect(readFileSync(file, 'utf8').trimEnd().split('\n')).toHaveLength(2);
});

test('a line that was cut short by a kill is dropped, and what follows is whole', () => {
  new ResultStore(settings, file).add(result());
  appendFileSync(file, '{"variant":"full","ta');
  const store = new ResultStore(settings, file);
  expect(store.all()).toEqual([result()]);
  store.add(result({ index: 1 }));
  expect(new ResultStore(settings, file).all()).toEqual([result(), result({ index: 1 })]);
});

test('a file of other settings is refused, and the settings are named', () => {
  new ResultStore(settings, file).add(result());
  const before = readFileSync(file, 'utf8');
  const other = (): ResultStore => new ResultStore({ ...settings, samples: 3, seed: 1 }, file);
  expect(other).toThrow(EvaluationError);
  expect(other).toThrow(/results\.jsonl has results of other settings:\n {2}samples: 2 there, 3 here\n {2}seed: none there, 1 here\n/);
  expect(other).not.toThrow(/lengths/);
  expect(readFileSync(file, 'utf8')).toBe(before);
});

test.each(['hello\n', '{"some":"json"}\n', '[]\n', '{'])('%j is no file of results, and stays as it is', (content) => {
  writeFileSync(file, content);
  expect(() => new ResultStore(settings, file)).toThrow(EvaluationError);
  expect(readFileSync(file, 'utf8')).toBe(content);
});

test('a line that is no result is named', () => {
  new ResultStore(settings, file).add(result());
  appendFileSync(file, '{"a":1}\n');
  expect(() => new ResultStore(settings, file)).toThrow(/line 3/);
});

test('an empty file is begun', () => {
  writeFileSync(file, '');
  new ResultStore(settings, file).add(result());
  expect(new ResultStore(settings, file).size).toBe(1);
});
